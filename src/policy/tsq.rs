// SPDX-License-Identifier: GPL-2.0

//! How much of one socket may wait in qdisc and device: TCP Small Queues.
//!
//! More than it takes to keep the device busy only makes the round trip longer: for everybody who
//! shares the queue, and for the socket's own timers. But less makes gaps. Two segments are enough,
//! for while one is being sent the other waits. So a segment may have a third of the limit, and fits
//! twice even if its memory is half as much again; and there may always be two (`tcp_gso_max_size()`,
//! `tcp_small_queue_check()`).

use core::num::NonZero;

/// From this setting on, in bytes, the kernel's own rule holds alone: a millisecond of the pacing
/// rate. It is the kernel's default of `tcp_limit_output_bytes`.
pub const KERNEL_BYTES: u32 = 4 << 20;

/// The longest limit in time, in us.
pub const MAX_US: u32 = 1_000_000;

/// Returns how many bytes may wait; none if the kernel's own rule holds.
///
/// `bytes`: `tcp_limit_output_bytes`, `us`: `tcp_limit_output_usecs`, 0 for none. `delivered`: so many
/// bytes were delivered in so many us, 0 us if that is not known yet.
#[inline]
pub fn queue_bytes(bytes: u32, us: u32, delivered: (u64, u32)) -> Option<NonZero<u32>> {
    let by_size = (bytes < KERNEL_BYTES).then_some(bytes);
    let by_time = if us == 0 {
        None
    } else {
        drained_bytes(us, delivered)
    };
    let limit = match (by_size, by_time) {
        (Some(size), Some(time)) => size.min(time),
        (size, time) => size.or(time)?,
    };
    // There may always be two segments, so nothing is as good as a byte.
    Some(NonZero::new(limit).unwrap_or(NonZero::<u32>::MIN))
}

/// Returns what drains in `us` at the rate of delivery, if that is known.
fn drained_bytes(us: u32, (bytes, interval): (u64, u32)) -> Option<u32> {
    let drained = bytes
        .saturating_mul(us.into())
        .checked_div(interval.into())?;
    Some(u32::try_from(drained).unwrap_or(u32::MAX))
}
