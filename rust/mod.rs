// SPDX-License-Identifier: GPL-2.0

//! What the `kernel` crate lacks for TCP's timers, as safe abstractions.
//!
//! Everything here is written as if for `rust/kernel/`, and is the only code of the module that
//! touches `kernel::bindings`.

pub(crate) mod extra_run;
// Of what TCP does not need, KUnit tests are the only users.
#[cfg_attr(not(CONFIG_KUNIT = "y"), expect(dead_code))]
pub(crate) mod hrtimer;
pub(crate) mod percpu;
pub(crate) mod pernet;
pub(crate) mod random;
pub(crate) mod served;
pub(crate) mod sock;
pub(crate) mod sock_timer;
pub(crate) mod sysctl;
pub(crate) mod tasklet;
pub(crate) mod tcp_hires;
mod trace;
pub(crate) mod tsq;
