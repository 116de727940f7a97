// SPDX-License-Identifier: GPL-2.0

//! The retransmission timeout (RFC 6298), as Linux computes it, without rounding to ticks.
//!
//! RFC 6298, 2.3: RTO = SRTT + max(G, 4 * RTTVAR). Linux (`tcp_rtt_estimator()`) keeps the
//! second term as `rttvar_us`, takes its maximum over a round trip, and has the minimal timeout
//! as the floor of that term, not of the sum: a path of 30 ms has a timeout of 230 ms.
//!
//! The kernel keeps its own timeout in ticks beside that, and it is the kernel that backs it off.
//! Both tell the same story unless the kernel chose a longer one for a reason that the estimate
//! does not show, a handshake without a sample, or a round-trip time remembered from earlier
//! connections; or any other one before the first sample, because BPF told it to.

/// The most timeouts in a row that may be left undoubled: as many as the kernel leaves to thin
/// streams (`TCP_THIN_LINEAR_RETRIES`).
pub const MAX_LINEAR: u8 = 6;

/// Timeouts from here on, in us, are always doubled. RFC 6298, 5.5, demands it of all, for a lost
/// retransmission may mean congestion. Below, another TCP would not have sent even the first
/// retransmission yet.
pub const LINEAR_BELOW_US: u32 = 200_000;

/// The most timeouts in a row that may be as long as the one before, because doubled they would exceed
/// a maximum. (The kernel shifts by the number of timeouts, and that must be less than 64.)
pub const MAX_AT_MAX: u8 = 32;

/// The highest value of that maximum, in us, which says nothing; `TCP_RTO_MAX`.
pub const MAX_BACKOFF_MAX_US: u32 = 120_000_000;

/// The highest part of the round trip, in percent, that the variance term may be limited to.
pub const MAX_VARIANCE_MAX: u32 = 1000;

/// The timeout before the first sample, in us (RFC 6298, 2.1), and the longest that can be set.
pub const DEFAULT_INIT_US: u32 = 1_000_000;
/// See [`DEFAULT_INIT_US`]; `TCP_RTO_MAX`.
pub const MAX_INIT_US: u32 = 120_000_000;

/// All that a timeout depends on.
#[derive(Clone, Copy, Debug)]
pub struct Inputs {
    /// Smoothed round-trip time in 1/8 us; 0 before the first sample.
    pub srtt_us8: u32,
    /// The variance term in us.
    pub rttvar_us: u32,
    /// The most that it counts for, in percent of the smoothed round-trip time; 0: as much as it is.
    pub variance_max: u32,
    /// The minimal timeout in us, which is its floor.
    pub rto_min_us: u32,
    /// How many timeouts in a row there were: how often the kernel has doubled its own.
    pub backoff: u8,
    /// How many of them, at first, shall not be doubled. (Before the first sample each is.)
    pub linear: u8,
    /// Beyond which timeout, in us, none shall be doubled for a while; not before the first sample.
    pub backoff_max_us: u32,
    /// The timeout in us before the first sample.
    pub init_us: u32,
    /// The kernel's timeout, backed off, in us: a number of ticks.
    pub kernel_us: u32,
    /// A tick in us.
    pub tick_us: u32,
    /// The longest timeout in us.
    pub max_us: u32,
}

/// Returns the timeout in us before backoff: the estimate of the round trip and its variance.
#[inline]
pub fn base_us(srtt_us8: u32, rttvar_us: u32) -> u32 {
    (srtt_us8 >> 3).saturating_add(rttvar_us)
}

/// Returns what is left of that, `base`, where the variance term counts for a part of the round trip at
/// most. Below [`LINEAR_BELOW_US`] only: a round trip that long is none of a network of one's own.
///
/// RFC 6298, 2.3, takes four mean deviations so that hardly a sample exceeds the timeout. That is
/// what it takes where samples have no bound. Where a queue of so many packets is what they differ by,
/// they alternate between an empty and a full one, and four deviations are more than that queue.
#[inline]
fn limited_us(base: u32, i: &Inputs) -> u32 {
    if i.variance_max == 0 || base >= LINEAR_BELOW_US {
        return base;
    }
    let srtt = i.srtt_us8 >> 3;
    let most = srtt.saturating_mul(i.variance_max) / 100;
    base.min(srtt.saturating_add(most.max(i.rto_min_us)))
}

/// Doubles `value` `backoff` times, but not beyond `max` (RFC 6298, 5.5 and 2.5).
#[inline]
pub fn back_off(value: u32, backoff: u8, max: u32) -> u32 {
    // A shift by 32 or more of what is not zero is beyond any u32.
    let wide = u64::from(value) << u32::from(backoff.min(32));
    u32::try_from(wide).unwrap_or(u32::MAX).min(max)
}

/// Returns the timeout in us: at least 1, at most `max_us`.
#[inline]
pub fn timeout_us(i: &Inputs) -> u32 {
    let us = if i.backoff == 0 && i.srtt_us8 != 0 {
        // What follows would say the same. But this is asked for each segment.
        let base = base_us(i.srtt_us8, i.rttvar_us);
        if i.kernel_us > base.saturating_add(i.tick_us) {
            i.kernel_us
        } else {
            limited_us(base, i)
        }
    } else {
        // By value, or all of it would have to be in memory.
        rare_timeout_us(*i)
    };
    us.min(i.max_us).max(1)
}

#[cold]
fn rare_timeout_us(i: Inputs) -> u32 {
    let has_sample = i.srtt_us8 != 0;
    let base = if has_sample {
        base_us(i.srtt_us8, i.rttvar_us)
    } else {
        i.init_us
    };
    // The kernel rounds its own up to a tick, and then doubles it.
    let kernel_base = i.kernel_us.checked_shr(i.backoff.into()).unwrap_or(0);
    let is_longer = kernel_base > base.saturating_add(i.tick_us);
    if is_longer || (!has_sample && kernel_base < base) {
        i.kernel_us
    } else if has_sample {
        back_off_slowly(limited_us(base, &i), &i)
    } else {
        // SYNs are counted, not timed: there are as many as fill the time if each wait is doubled.
        back_off(base, i.backoff, i.max_us)
    }
}

/// Backs the timeout `base` off: the first times not at all, then by doubling it. At the maximum it
/// stays until [`LINEAR_BELOW_US`] have passed since the first transmission, or for [`MAX_AT_MAX`]
/// times; then it goes on to double.
fn back_off_slowly(base: u32, i: &Inputs) -> u32 {
    if base >= LINEAR_BELOW_US {
        return back_off(base, i.backoff, u32::MAX);
    }
    let doublings = i.backoff.saturating_sub(i.linear);
    let base = base.max(1);
    let max = i.backoff_max_us.max(base);
    if max >= LINEAR_BELOW_US {
        return back_off(base, doublings, u32::MAX);
    }
    // After so many doublings it is the maximum, before which this has passed, and that is so many
    // times.
    let to_max = max.div_ceil(base).next_power_of_two().trailing_zeros() as u8;
    let passed = base * (u32::from(i.linear) + (1 << to_max) - 1);
    let times = LINEAR_BELOW_US.saturating_sub(passed).div_ceil(max);
    let times = times.min(MAX_AT_MAX.into()) as u8;
    match doublings.checked_sub(to_max) {
        Some(n) if n < times => max,
        Some(n) if times > 0 => back_off(max, n - times + 1, u32::MAX),
        _ => back_off(base, doublings, u32::MAX),
    }
}

/// The longest wait, in ns, for a queue of this host that has refused a packet: the kernel's
/// `TCP_RESOURCE_PROBE_INTERVAL`.
pub const REFUSED_MAX_NS: u64 = 500_000_000;

/// Returns how long, in ns, a retransmission waits that was `refused` so often in a row within this
/// host, when the timeout is `delay`: as long as that at first, and then twice as long each time.
///
/// A queue that is full for a moment is worth a try soon. But the kernel does not back off for one,
/// and whoever has a namespace can make a queue that takes nothing for ever: a timer each 20 us, in
/// each of his sockets.
#[inline]
pub fn refused_ns(delay: u64, refused: u8) -> u64 {
    let doublings = u32::from(refused.saturating_sub(1)).min(32);
    // A delay that is longer already has been backed off.
    delay
        .saturating_mul(1 << doublings)
        .min(REFUSED_MAX_NS.max(delay))
}

/// What time stamps (RFC 7323) count in Linux, in us.
pub const TIMESTAMP_US: u32 = 1000;

/// Returns what to make of a sample that such time stamps gave, in us: `rtt`, with a smoothed
/// round-trip time of `srtt_us8`/8.
///
/// Time stamps that are next to each other, or the same (which the kernel makes one unit), only say
/// that it was less than two units. So the estimate may double; to learn that the round trip has
/// become longer than a unit, any greater sample will do.
#[inline]
pub fn coarse_rtt_us(rtt: u32, srtt_us8: u32) -> u32 {
    if rtt > TIMESTAMP_US || srtt_us8 == 0 {
        rtt
    } else {
        rtt.min((srtt_us8 >> 2).max(1))
    }
}

/// The variance term when the minimal timeout has changed from `old` to `new`, all in us.
///
/// The estimator would let go of an old floor by a quarter of the difference in a round trip, and
/// an idle connection not at all. If the old floor is all that the term says, start again from
/// the deviation measured; a greater variance is real and stays.
///
/// Returns none if the term need not change.
pub fn rebase_rttvar_us(rttvar: u32, mdev: u32, old: u32, new: u32) -> Option<u32> {
    let rebased = if new < old && rttvar <= old {
        mdev.max(new)
    } else {
        rttvar.max(new)
    };
    (rebased != rttvar).then_some(rebased)
}
