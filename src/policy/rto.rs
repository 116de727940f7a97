// SPDX-License-Identifier: GPL-2.0

//! The retransmission timeout (RFC 6298), as Linux computes it, without rounding to ticks, and the
//! timeouts before it.
//!
//! RFC 6298, 2.3: RTO = SRTT + max(G, 4 * RTTVAR). Linux (`tcp_rtt_estimator()`) keeps the
//! second term as `rttvar_us`, takes its maximum over a round trip, and has the minimal timeout
//! as the floor of that term, not of the sum: a path of 30 ms has a timeout of 230 ms.
//!
//! The kernel keeps its own timeout in ticks (`icsk_rto`), with its own minimum, and backs it off.
//! All that counts timeouts goes by that one. What is shorter comes before: early timeouts, with a
//! count and a backoff of their own, until the kernel's own timeout is over for the first time.

/// The most timeouts in a row that may be left undoubled: as many as the kernel leaves to thin
/// streams (`TCP_THIN_LINEAR_RETRIES`).
pub const MAX_LINEAR: u8 = 6;

/// Timeouts from here on, in us, are always doubled. RFC 6298, 5.5, demands it of all, for a lost
/// retransmission may mean congestion. Below, another TCP would not have sent even the first
/// retransmission yet.
pub const LINEAR_BELOW_US: u32 = 200_000;

/// The most timeouts in a row that may be as long as the one before, because doubled they would exceed
/// a maximum.
pub const MAX_AT_MAX: u8 = 32;

/// The highest value of that maximum, in us, which says nothing; `TCP_RTO_MAX`.
pub const MAX_BACKOFF_MAX_US: u32 = 120_000_000;

/// The highest part of the round trip, in percent, that the variance term may be limited to.
pub const MAX_VARIANCE_MAX: u32 = 1000;

/// The timeout before the first sample, in us (RFC 6298, 2.1), and the longest that can be set.
pub const DEFAULT_INIT_US: u32 = 1_000_000;
/// See [`DEFAULT_INIT_US`]; `TCP_RTO_MAX`.
pub const MAX_INIT_US: u32 = 120_000_000;

/// What a handshake without a sample makes of that, in us: the kernel's `TCP_TIMEOUT_FALLBACK`
/// (RFC 6298, 5.7).
pub const FALLBACK_US: u32 = 3 * DEFAULT_INIT_US;

/// What is known of the path.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// Smoothed round-trip time in 1/8 us; 0 before the first sample.
    pub srtt_us8: u32,
    /// The variance term in us, no less than the minimal timeout.
    pub rttvar_us: u32,
}

impl Path {
    /// Returns the timeout in us before backoff: the estimate of the round trip and its variance.
    #[inline]
    pub fn base_us(self) -> u32 {
        (self.srtt_us8 >> 3).saturating_add(self.rttvar_us)
    }
}

/// The kernel's own timeout.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// Backed off, in us: a number of ticks.
    pub us: u32,
    /// A tick in us.
    pub tick_us: u32,
}

impl Kernel {
    /// Returns whether the kernel waits for longer than the estimate that it has, `path`, explains. It knows
    /// a reason: a round trip remembered from earlier connections, BPF, a handshake without a sample.
    #[inline]
    pub fn knows_more(self, path: Path) -> bool {
        self.us > path.base_us().saturating_add(self.tick_us)
    }

    /// Returns the round trip in us that it remembers, then: `tcp_init_metrics()` sets a timeout of that
    /// and twice that, or `min` us.
    pub fn remembered_us(self, min: u32) -> u32 {
        let third = self.us / 3;
        if third >= min / 2 {
            third
        } else {
            self.us.saturating_sub(min)
        }
    }
}

/// The variance term for a minimal timeout that is not the kernel's own: as `tcp_rtt_estimator()` keeps it.
///
/// # Invariants
///
/// The greatest deviation is no more than the term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variance {
    /// The term in us; 0 before the first sample.
    pub rttvar_us: u32,
    /// The greatest deviation of this round trip, in us.
    pub max_us: u32,
}

impl Variance {
    /// Makes one that begins a round trip.
    pub const fn new(rttvar_us: u32) -> Self {
        // INVARIANT: They are the same.
        Self {
            rttvar_us,
            max_us: rttvar_us,
        }
    }

    /// Returns whether [`Self::sampled`] leaves it as it is, for certain. The first sample always begins a
    /// round trip.
    #[inline]
    pub fn explains(self, mdev: u32, is_round: bool, min: u32) -> bool {
        if mdev > self.max_us {
            return false;
        }
        !is_round || self.max_us == min && self.rttvar_us.wrapping_sub(min) < 4
    }

    /// Returns what it is after a sample, which has left the deviation `mdev`; `is_round`: a round trip is
    /// over; `min`: the minimal timeout; all in us.
    #[inline]
    pub fn sampled(self, mdev: u32, is_round: bool, min: u32) -> Self {
        if self.rttvar_us == 0 {
            return Self::new(mdev.max(min));
        }
        let mut max_us = self.max_us.max(mdev);
        let mut rttvar_us = self.rttvar_us.max(max_us);
        if is_round {
            rttvar_us -= (rttvar_us - max_us) >> 2;
            max_us = min;
        }
        // INVARIANT: The term is the greater of both, and falls by a part of what lies between. It is no less than
        // the minimum, by which it began.
        Self { rttvar_us, max_us }
    }
}

/// Returns when a loss probe comes, in us after the last segment: two round trips and `slack`, but no later than
/// the timeout `rto` (RFC 8985, 7.2; `tcp_schedule_loss_probe()`).
pub fn probe_us(path: Path, slack: u32, rto: u32) -> u32 {
    (path.srtt_us8 >> 2).saturating_add(slack).min(rto)
}

/// What decides on early timeouts.
#[derive(Clone, Copy, Debug)]
pub struct Early {
    /// The most that the variance term counts for, in percent of the smoothed round-trip time; 0: as
    /// much as it is.
    pub variance_max: u32,
    /// The minimal timeout in us.
    pub rto_min_us: u32,
    /// Whether that is less than the kernel's own.
    pub is_short: bool,
}

/// How early timeouts are backed off.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// How many there were in a row.
    pub timeouts: u8,
    /// How many of them, at first, are not doubled.
    pub linear: u8,
    /// Beyond which timeout, in us, none is doubled for a while.
    pub max_us: u32,
}

/// Returns what is left of `base`, in us, where the variance term counts for a part of the round trip at
/// most. Below [`LINEAR_BELOW_US`] only: a round trip that long is none of a network of one's own.
///
/// RFC 6298, 2.3, takes four mean deviations so that hardly a sample exceeds the timeout. That is
/// what it takes where samples have no bound. Where a queue of so many packets is what they differ by,
/// they alternate between an empty and a full one, and four deviations are more than that queue.
#[inline]
fn limited_us(base: u32, path: Path, i: Early) -> u32 {
    if i.variance_max == 0 || base >= LINEAR_BELOW_US {
        return base;
    }
    let srtt = path.srtt_us8 >> 3;
    let most = srtt.saturating_mul(i.variance_max) / 100;
    base.min(srtt.saturating_add(most.max(i.rto_min_us)))
}

/// Returns the first timeout in us, where a sample is there and nothing has timed out since, and the
/// kernel knows no more: at least 1.
#[inline]
pub fn first_us(path: Path, i: Early) -> u32 {
    limited_us(path.base_us(), path, i).max(1)
}

/// Returns the early timeout in us, backed off; none if the kernel's own comes first, or within a tick.
pub fn early_us(path: Path, i: Early, backoff: Backoff, kernel: Kernel) -> Option<u32> {
    let base = path.base_us();
    let limited = limited_us(base, path, i);
    if !i.is_short && limited == base || !has_room(limited, path, kernel) {
        return None;
    }
    before(back_off_slowly(limited, backoff), kernel)
}

/// Returns whether an answer to what is sent again after `first` us can come before the kernel's own
/// timeout. On a path longer than that there is no room for an early one.
#[inline]
pub fn has_room(first: u32, path: Path, kernel: Kernel) -> bool {
    first.saturating_add(path.srtt_us8 >> 3) <= kernel.us
}

/// Returns the early timeout in us before the first sample, each twice the one before; none if the
/// kernel's own comes first, or is not the initial one: then BPF chose it.
///
/// A handshake without a sample makes it three times as long (RFC 6298, 5.7), and longer than it can have
/// taken if its first SYN was answered.
///
/// `init`: `tcp_rto_init`, `timeouts`: how many there were, those of the handshake included.
pub fn early_init_us(init: u32, timeouts: u8, kernel: Kernel) -> Option<u32> {
    let us = match kernel.us {
        DEFAULT_INIT_US => back_off(init, timeouts, u32::MAX),
        FALLBACK_US => {
            let times = back_off(2, timeouts, u32::MAX) - 1;
            init.saturating_mul(times.max(FALLBACK_US / DEFAULT_INIT_US))
        }
        _ => return None,
    };
    before(us, kernel)
}

fn before(us: u32, kernel: Kernel) -> Option<u32> {
    (us.saturating_add(kernel.tick_us) < kernel.us).then_some(us.max(1))
}

/// Returns the kernel's own timeout, in us, as precise as the estimate `path` is that it was made of,
/// unless it knows more.
///
/// `backoff`: how often it was doubled, `max`: the longest in us.
pub fn kernel_us(path: Path, backoff: u8, kernel: Kernel, max: u32) -> u32 {
    // The kernel rounds its own up to a tick, and then doubles it.
    let first = Kernel {
        us: kernel.us.checked_shr(backoff.into()).unwrap_or(0),
        ..kernel
    };
    if path.srtt_us8 == 0 || first.knows_more(path) {
        kernel.us
    } else {
        back_off(path.base_us(), backoff, max).min(kernel.us).max(1)
    }
}

/// The kernel's slack in us, for what the timer wheel rounds: `TCP_TIMEOUT_MIN_US`.
pub const SLACK_US: u32 = 2000;

/// Returns what a loss probe waits on top of two round trips, or a reordering timer on top of its
/// window, in us. `min`: a minimal timeout in us that is less than the kernel's own. [`SLACK_US`] is a
/// hundredth of that one, so it is in proportion.
///
/// A probe of a single segment, `is_alone`, waits for an ACK that may be delayed: the minimal timeout.
#[inline]
pub fn slack_us(min: u32, is_alone: bool) -> u32 {
    if is_alone {
        min
    } else {
        SLACK_US.min(min / 100)
    }
}

/// Doubles `value` `backoff` times, but not beyond `max` (RFC 6298, 5.5 and 2.5).
#[inline]
pub fn back_off(value: u32, backoff: u8, max: u32) -> u32 {
    // A shift by 32 or more of what is not zero is beyond any u32.
    let wide = u64::from(value) << u32::from(backoff.min(32));
    u32::try_from(wide).unwrap_or(u32::MAX).min(max)
}

/// Backs the timeout `base` off: the first times not at all, then by doubling it. At the maximum it
/// stays until [`LINEAR_BELOW_US`] have passed since the first transmission, or for [`MAX_AT_MAX`]
/// times; then it goes on to double.
fn back_off_slowly(base: u32, i: Backoff) -> u32 {
    if base >= LINEAR_BELOW_US {
        return back_off(base, i.timeouts, u32::MAX);
    }
    let doublings = i.timeouts.saturating_sub(i.linear);
    let base = base.max(1);
    let max = i.max_us.max(base);
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
