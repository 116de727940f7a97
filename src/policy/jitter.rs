// SPDX-License-Identifier: GPL-2.0

//! Senders that lost together shall not send again together.
//!
//! A full queue takes the tails of many senders at once, whose timeouts are then the same. The
//! retransmissions collide again, unless each waits a little longer, at random (Vasudevan and
//! others, "Safe and Effective Fine-grained TCP Retransmissions for Datacenter Communication",
//! SIGCOMM 2009, section 5.2).

/// Returns `delay` and up to `percent` of it more, as `random` has it: 0 for nothing, `u32::MAX`
/// for nearly all.
#[inline]
pub fn stretched(delay: u64, percent: u32, random: u32) -> u64 {
    let share = (delay / 100).saturating_mul(percent.into());
    // share * random / 2^32; the kernel has no division of 128 bits.
    let random = u64::from(random);
    let more = (share >> 32) * random + (((share & 0xffff_ffff) * random) >> 32);
    delay.saturating_add(more)
}
