// SPDX-License-Identifier: GPL-2.0

//! How long an ACK may wait for data to travel with, or for a second segment to acknowledge.
//!
//! The kernel's heuristics (RFC 1122, 4.2.3.2; `tcp_send_delayed_ack()`) say how long that would
//! be worth while. The peer limits it: with the same settings as here, it takes an ACK for lost
//! that comes later than the minimal timeout after its usual time.

/// Returns the longest delay in us.
///
/// `rto_min`: the minimal timeout, `tick`: a tick of the timer wheel, `max`: what is set for the
/// socket; all in us. As long as the minimal timeout has many ticks this is what the kernel does,
/// one tick less than that (`tcp_delack_max()`); else the half of it, which leaves the other half
/// to the variation of the round trip.
#[inline]
pub fn longest_us(rto_min: u32, tick: u32, max: u32) -> u32 {
    rto_min.saturating_sub(tick).max(rto_min / 2).min(max)
}

/// Returns when an ACK is due that may wait for `delay` from `now`, or none if that is now.
///
/// `pending`: when an ACK is due that waits already. That one is kept if it comes earlier, and
/// sent at once if it is due within a quarter of `delay` anyway.
#[inline]
pub fn due(now: u64, delay: u64, pending: Option<u64>) -> Option<u64> {
    if pending.is_some_and(|pending| pending <= now.saturating_add(delay / 4)) {
        return None;
    }
    let at = now.saturating_add(delay).min(pending.unwrap_or(u64::MAX));
    (at > now).then_some(at)
}
