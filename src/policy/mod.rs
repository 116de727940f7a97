// SPDX-License-Identifier: GPL-2.0

//! What finetcp decides, as pure functions.
//!
//! Only `core`, no clock, no socket: times come in as arguments. The module and the host's tests
//! (`tests/policy`) compile these same files.

pub mod deadline;
pub mod delack;
pub mod extra_run;
pub mod jitter;
pub mod rto;
pub mod tsq;
