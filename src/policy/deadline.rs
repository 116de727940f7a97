// SPDX-License-Identifier: GPL-2.0

//! Where a deadline is kept, and when the clock must be told.
//!
//! TCP moves its deadline later with every ACK. To move the timer each time would cost an update
//! of the timer tree and often a write to the clock (an exit to the hypervisor in a guest). So
//! the deadline moves, the timer stays, and an expiry that comes early arms itself for what is
//! left: one timer interrupt for a timeout of traffic, however many ACKs there are in it.

/// Delays beyond this, in ns, are left to the timer wheel.
///
/// The wheel rounds a second up by 1/16 at most (`kernel/time/timer.c`, levels of 64 buckets).
/// That far ahead, most timers are cancelled before they expire, which is what the wheel is
/// made for (`Documentation/timers/hrtimers.rst`).
pub const WHEEL_FROM_NS: u64 = 1_000_000_000;

/// Returns whether the timer wheel shall serve a delay of `ns`.
#[inline]
pub fn is_for_wheel(ns: u64) -> bool {
    ns > WHEEL_FROM_NS
}

/// Returns whether a timer armed for `armed` (none: not queued) will expire in time to look at
/// the deadline `at`; both in ns.
#[inline]
pub fn is_covered(armed: Option<u64>, at: u64) -> bool {
    matches!(armed, Some(armed) if armed <= at)
}
