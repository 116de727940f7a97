// SPDX-License-Identifier: GPL-2.0

//! Where a deadline is kept, and when the clock must be told.
//!
//! TCP moves its deadline later with every ACK. To move the timer each time would cost an update
//! of the timer tree and often a write to the clock (an exit to the hypervisor in a guest). So
//! the deadline moves and the timer stays, and if it expires early it is armed for what is left.
//! But an interrupt costs several times what moving the timer does: once half of the delay has
//! passed, the next deadline takes the timer along. So traffic that does not pause moves it twice
//! in a timeout at most, however many ACKs there are in that, and sees no interrupt at all.
//!
//! A deadline that is a few ticks ahead or more is most likely moved, or without an event, when it
//! comes. To take such a timer off the clock is no cheaper than to let it expire, and an interrupt for
//! each is dear. So it waits on the timer wheel for most of its time, where all that expire within a
//! tick cost one interrupt, and the timer is armed for what is left then.

use core::num::NonZero;

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

/// Returns whether a delay of `ns` is spent on the timer wheel first, see [`wake_ticks`]. `tick`: a
/// tick in ns.
#[inline]
pub fn is_far(ns: u64, tick: u64) -> bool {
    ns >= 2 * tick
}

/// Returns after how many ticks the timer wheel is to look at a deadline `delay` ns ahead that
/// [`is_far`]: a tick before it at least, to arm the timer. `tick`: a tick in ns.
///
/// The wheel rounds up by 1/8 of what it is told at most, and a tick (`kernel/time/timer.c`).
#[inline]
pub fn wake_ticks(delay: u64, tick: u64) -> u64 {
    let ticks = delay / tick;
    (ticks - ticks / 4).saturating_sub(2)
}

/// The tick, by its low bits, in which the wheel's timer has expired for certain. As it waits for two
/// seconds at most (see [`is_for_wheel`]; jitter may double that), they tell which one is meant.
pub type Woken = NonZero<u16>;

/// Returns in which tick the wheel's timer has expired if it is told in the tick `now` to do so after
/// `ticks`.
#[inline]
pub fn woken(now: u16, ticks: u64) -> Woken {
    let latest = now.wrapping_add((ticks + ticks / 8 + 1) as u16);
    // A tick later is as good.
    Woken::new(latest).unwrap_or(Woken::MIN)
}

/// Returns how long it is at most, in ns, from a moment in the tick `now` until the timer has expired.
/// After [`wake_ticks`] that is no later than the deadline. One tick of it is for an interrupt of the tick
/// that is late.
#[inline]
pub fn woken_ns(woken: Woken, now: u16, tick: u64) -> u64 {
    let ticks = woken.get().wrapping_sub(now) as i16;
    (u64::from(ticks.max(0).unsigned_abs()) + 1) * tick
}

/// Returns whether a timer armed for `armed` (none: not queued) may stay where it is with a
/// deadline at `at`, `delay` from now, all in ns: it will expire in time to look at the deadline,
/// but not in the first half of the delay.
#[inline]
pub fn is_covered(armed: Option<u64>, at: u64, delay: u64) -> bool {
    matches!(armed, Some(armed) if armed <= at && at - armed <= delay / 2)
}
