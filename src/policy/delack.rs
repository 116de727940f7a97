// SPDX-License-Identifier: GPL-2.0

//! How long an ACK may wait for data to travel with, or for a second segment to acknowledge.
//!
//! The kernel's heuristics (RFC 1122, 4.2.3.2; `tcp_send_delayed_ack()`) say how long that would
//! be worth while. The peer limits it: with the same settings as here, it takes an ACK for lost
//! that comes later than the minimal timeout after its usual time.

/// How long an ACK waits at least where nothing else is set: `TCP_DELACK_MIN`, in us.
pub const DEFAULT_MIN_US: u32 = 40_000;

/// How long an ACK may wait for data to travel with: `TCP_DELACK_MAX`, in us.
pub const INTERACTIVE_MAX_US: u32 = 200_000;

/// Returns the predicted delay in us when a segment with data has come `gap` us after the one
/// before: it follows the gaps, and decays to `base`. As `tcp_event_data_recv()` does.
///
/// `ato`: what it was, `base`: `tcp_delack_min`, `rto`: the timeout; all in us.
#[inline]
pub fn after_gap_us(ato: u32, gap: u32, base: u32, rto: u32) -> u32 {
    if gap <= base / 2 {
        ato / 2 + base / 2
    } else if gap < ato {
        (ato / 2)
            .saturating_add(gap)
            .min(rto)
            .min(INTERACTIVE_MAX_US)
    } else {
        ato
    }
}

/// Returns the predicted delay in us when an ACK has waited for nothing: longer, for the next may
/// be in time; but back to `base` if `interactive`, for then no data comes. As
/// `tcp_delack_timer_handler()` does.
#[inline]
pub fn after_expiry_us(ato: u32, interactive: bool, base: u32, rto: u32) -> u32 {
    if interactive {
        base
    } else {
        ato.saturating_mul(2).min(rto).min(INTERACTIVE_MAX_US)
    }
}

/// Returns how long an ACK is worth to wait in us, by the prediction `ato` and the round trip `srtt` (0:
/// not known), of which it is no more than one, or `base`. As `tcp_send_delayed_ack()` has it, whose own
/// maxima are no less than [`INTERACTIVE_MAX_US`], and so than what may be set for a socket.
#[inline]
pub fn delay_us(ato: u32, base: u32, srtt: u32) -> u32 {
    if ato <= base || srtt == 0 {
        return ato;
    }
    ato.min(srtt.max(base))
}

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
