// SPDX-License-Identifier: GPL-2.0

//! Tests of `policy::rto` against RFC 6298 and a naive formula in `u128`.

use crate::policy::rto::*;
use proptest::prelude::*;

/// Linux at a tick of 1 ms, with its longest timeout of 120 s.
const TICK_US: u32 = 1000;
const MAX_US: u32 = 120_000_000;

fn path(srtt_us: u32, rttvar_us: u32) -> Path {
    Path {
        srtt_us8: srtt_us << 3,
        rttvar_us,
    }
}

/// The kernel's own timeout of so many us, in ticks, backed off.
fn kernel(us: u32, backoff: u8) -> Kernel {
    let ticks = u64::from(us.div_ceil(TICK_US)) << backoff.min(32);
    Kernel {
        us: ticks.min((MAX_US / TICK_US).into()) as u32 * TICK_US,
        tick_us: TICK_US,
    }
}

/// That of a path, with a minimum of 200 ms.
fn kernel_of(path: Path) -> Kernel {
    kernel((path.srtt_us8 >> 3) + path.rttvar_us.max(200_000), 0)
}

/// A minimal timeout of 20 us, and nothing else set.
const SHORT: Early = Early {
    variance_max: 0,
    rto_min_us: 20,
    is_short: true,
};
/// Nothing set.
const DEFAULT: Early = Early {
    variance_max: 0,
    rto_min_us: 200_000,
    is_short: false,
};

fn backoff(timeouts: u8) -> Backoff {
    Backoff {
        timeouts,
        linear: 0,
        max_us: MAX_BACKOFF_MAX_US,
    }
}

/// All early timeouts of such a path, until the kernel's own comes first.
fn all(base: u32, linear: u8, max_us: u32) -> Vec<u32> {
    let path = path(1, base - 1);
    (0..=u8::MAX)
        .map_while(|timeouts| {
            let backoff = Backoff {
                timeouts,
                linear,
                max_us,
            };
            early_us(path, SHORT, backoff, kernel_of(path))
        })
        .collect()
}

// The formula.

/// RFC 6298, 2.2: after the first sample R, SRTT = R, RTTVAR = R / 2, RTO = SRTT + 4 * RTTVAR.
#[test]
fn first_us__rfc6298_2_2_first_sample() {
    for r in [1, 50, 1000, 30_000, 1_000_000] {
        let p = path(r, 4 * (r / 2));
        assert_eq!(first_us(p, SHORT), r + 4 * (r / 2));
    }
}

/// RFC 6298, 2.3: RTTVAR = 3/4 RTTVAR + 1/4 |SRTT - R'|, SRTT = 7/8 SRTT + 1/8 R'.
#[test]
fn first_us__rfc6298_2_3_later_samples() {
    let (mut srtt, mut rttvar) = (800.0_f64, 400.0_f64);
    for r in [800, 1600, 400, 800, 800, 4000, 800] {
        rttvar = 0.75 * rttvar + 0.25 * (srtt - f64::from(r)).abs();
        srtt = 0.875 * srtt + 0.125 * f64::from(r);
        let p = path(srtt as u32, (4.0 * rttvar) as u32);
        let naive = srtt + 4.0 * rttvar;
        let got = first_us(p, SHORT);
        assert!((f64::from(got) - naive).abs() <= 2.0, "{p:?}: {naive}");
    }
}

/// Linux: the minimal timeout is the floor of the variance term, not of the sum.
#[test]
fn first_us__linux_floor_is_in_the_variance() {
    for (srtt, rttvar, want) in [(50, 200_000, 200_050), (30_000, 200_000, 230_000)] {
        let p = path(srtt, rttvar);
        assert_eq!(first_us(p, DEFAULT), want);
    }
    for (srtt, rttvar, want) in [(50, 200, 250), (50, 20, 70)] {
        let p = path(srtt, rttvar);
        assert_eq!(first_us(p, SHORT), want);
    }
}

/// A fraction of the round trip that is below a microsecond does not count, as in the kernel.
#[test]
fn first_us__fractions_of_a_microsecond() {
    for (srtt_us8, want) in [(1, 100), (7, 100), (8, 101), (15, 101), (16, 102)] {
        let p = Path {
            srtt_us8,
            rttvar_us: 100,
        };
        assert_eq!(first_us(p, SHORT), want, "{srtt_us8}/8 us");
    }
}

/// The kernel chose a longer timeout than the estimate explains, as for a round trip that it remembers.
#[test]
fn knows_more__table() {
    let p = path(50, 200_000);
    for (us, want) in [
        (201_000, false),
        (202_000, true),
        (300_000, true),
        (3_000_000, true),
    ] {
        assert_eq!(kernel(us, 0).knows_more(p), want);
    }
}

/// `tcp_init_metrics()`: the round trip, and the greater one of twice that and the minimum.
#[test]
fn remembered_us__table() {
    for (rtt, min) in [
        (1000, 200_000),
        (10_000, 200_000),
        (99_000, 200_000),
        (100_000, 200_000),
        (250_000, 200_000),
        (2000, 5000),
        (4000, 5000),
    ] {
        let k = kernel(rtt + (2 * rtt).max(min), 0);
        assert_eq!(k.remembered_us(min), rtt);
    }
    assert_eq!(kernel(1000, 0).remembered_us(200_000), 0);
}

// The variance term.

/// `tcp_rtt_estimator()`: the first sample, a greater deviation at once, a smaller one by a quarter in a
/// round trip, and never below the minimum.
#[test]
fn sampled__table() {
    let v = Variance::new(0).sampled(40, true, 200);
    assert_eq!(v, Variance::new(200));
    let v = v.sampled(900, false, 200);
    assert_eq!((v.rttvar_us, v.max_us), (900, 900));
    let v = v.sampled(100, true, 200);
    assert_eq!((v.rttvar_us, v.max_us), (900, 200));
    let v = v.sampled(100, true, 200);
    assert_eq!((v.rttvar_us, v.max_us), (725, 200));
    let v = (0..100).fold(v, |v, _| v.sampled(100, true, 200));
    assert_eq!(v.rttvar_us, 203);
}

/// 2 ms with 200 ms, less in proportion; a single segment waits for its ACK.
#[test]
fn slack_us__table() {
    for (min, is_alone, wanted) in [
        (200_000, false, 2000),
        (199_000, false, 1990),
        (5000, false, 50),
        (200, false, 2),
        (20, false, 0),
        (300_000, false, 2000),
        (200, true, 200),
        (20, true, 20),
    ] {
        assert_eq!(slack_us(min, is_alone), wanted, "{min} {is_alone}");
    }
}

// Early timeouts.

/// Nothing is early where nothing is set, nor what comes within a tick of the kernel's own.
#[test]
fn early_us__before_the_kernels_own() {
    for (srtt, rttvar) in [(50, 200_000), (30_000, 200_000), (100_000, 400_000)] {
        let p = path(srtt, rttvar);
        for timeouts in [0, 1, 5, 255] {
            assert_eq!(
                early_us(p, DEFAULT, backoff(timeouts), kernel_of(p)),
                None,
                "{p:?}"
            );
        }
    }
    let p = path(50, 200);
    for (us, want) in [(250, None), (1000, None), (1250, Some(250))] {
        assert_eq!(early_us(p, SHORT, backoff(0), kernel(us, 0)), want);
    }
}

/// Before the kernel's own timeout an answer must be possible.
#[test]
fn early_us__no_room_on_a_long_path() {
    for (srtt, rttvar, want) in [
        (150_000, 20_000, Some(170_000)),
        (199_000, 1000, Some(200_000)),
        (201_000, 1000, None),
        (250_000, 20, None),
    ] {
        let p = path(srtt, rttvar);
        assert_eq!(early_us(p, SHORT, backoff(0), kernel_of(p)), want);
    }
}

/// RFC 6298, 5.5: back off the timer, RTO = RTO * 2; and from the kernel's own on it does that.
#[test]
fn early_us__rfc6298_5_5_backoff() {
    let want: Vec<u32> = (0..=9).map(|n| 250 << n).collect();
    assert_eq!(all(250, 0, MAX_BACKOFF_MAX_US), want);
}

#[test]
fn early_us__linear_then_doubled() {
    for (base, linear, want) in [
        (20_000, 0, vec![20_000, 40_000, 80_000, 160_000]),
        (20_000, 1, vec![20_000, 20_000, 40_000, 80_000, 160_000]),
        (60_000, 3, vec![60_000, 60_000, 60_000, 60_000, 120_000]),
        (150_000, 3, vec![150_000; 4]),
        // a long path
        (200_000, 3, vec![]),
    ] {
        assert_eq!(
            all(base, linear, MAX_BACKOFF_MAX_US),
            want,
            "{base} us, {linear} linear"
        );
    }
}

#[test]
fn early_us__backed_off_slowly() {
    assert_eq!(all(250, 0, 2000)[..6], [250, 500, 1000, 2000, 2000, 2000]);
    assert_eq!(all(250, 2, 1500)[..6], [250, 250, 250, 500, 1000, 1500]);
    // Once it has taken 200 ms it goes on from there.
    assert_eq!(
        all(30_000, 0, 50_000),
        [30_000, 50_000, 50_000, 50_000, 50_000, 100_000]
    );
    // A path that takes longer than that is not hurried.
    assert_eq!(all(80_000, 0, 2000), [80_000, 80_000, 80_000, 160_000]);
    // Not for ever.
    let many = all(250, 0, 1000);
    assert_eq!(many[..3], [250, 500, 1000]);
    assert_eq!(many[33..36], [1000, 2000, 4000]);
}

#[test]
fn early_us__variance_limited() {
    for (srtt, rttvar, variance_max, rto_min_us, want) in [
        // it counts as it is
        (150, 600, 0, 20, 750),
        (150, 100, 100, 20, 250),
        (150, 150, 100, 20, 300),
        // it does not
        (150, 151, 100, 20, 300),
        (150, 600, 100, 20, 300),
        (150, 600, 250, 20, 525),
        (150, 600, 1, 20, 170),
        // but for its floor
        (150, 600, 100, 200, 350),
        // nor where the path is long, or seems to be
        (100_000, 99_999, 50, 20, 150_000),
        (99_000, 101_000, 50, 20, 200_000),
    ] {
        let p = path(srtt, rttvar);
        let i = Early {
            variance_max,
            rto_min_us,
            is_short: true,
        };
        assert_eq!(first_us(p, i), want, "{p:?} {i:?}");
        assert_eq!(early_us(p, i, backoff(0), kernel_of(p)), Some(want));
    }
    // The floor of 200 ms is no early timeout.
    let i = Early {
        variance_max: 100,
        ..DEFAULT
    };
    let p = path(150, 200_000);
    assert_eq!(first_us(p, i), 200_150);
    assert_eq!(early_us(p, i, backoff(0), kernel_of(p)), None);
}

/// RFC 6298, 2.1 and 5.7: before the first sample it is the initial one, or three times that where the
/// handshake gave none; each twice the one before, and none where BPF chose another.
#[test]
fn early_init_us__rfc6298_2_1_no_sample() {
    for (init, timeouts, us, want) in [
        (1_000_000, 0, 1_000_000, None),
        (1_000_000, 0, 3_000_000, None),
        (1500, 0, 1_000_000, Some(1500)),
        (1500, 3, 1_000_000, Some(12_000)),
        (1500, 9, 1_000_000, Some(768_000)),
        (1500, 10, 1_000_000, None),
        (200, 0, 3_000_000, Some(600)),
        (200, 1, 3_000_000, Some(600)),
        // after SYNs at 0, 5 and 15 ms, one at 35 ms was not needed
        (5000, 2, 3_000_000, Some(35_000)),
        (5000, 3, 3_000_000, Some(75_000)),
        (5000, 200, 3_000_000, None),
        (999_000, 0, 1_000_000, None),
        // by BPF, backed off, or raised
        (1500, 0, 2_000_000, None),
        (1500, 0, 17_000, None),
        (1500, 0, MAX_US, None),
    ] {
        assert_eq!(
            early_init_us(init, timeouts, kernel(us, 0)),
            want,
            "{init} {timeouts} {us}"
        );
    }
}

// The kernel's own timeout.

/// Rounded up to ticks, then doubled: that is how the kernel comes to its own value, and it
/// must be recognised as the estimate's at every backoff.
#[test]
fn kernel_us__rounding_is_not_mistaken_for_knowledge() {
    for (srtt, rttvar) in [(50, 200_000), (50, 1100), (1150, 1000)] {
        for backoff in 0..20 {
            let base = srtt + rttvar;
            let got = kernel_us(path(srtt, rttvar), backoff, kernel(base, backoff), MAX_US);
            assert_eq!(got, (base << backoff).min(MAX_US), "backoff {backoff}");
        }
    }
}

/// What it has for a reason of its own stays.
#[test]
fn kernel_us__knows_more() {
    for backoff in [0, 1, 4] {
        for us in [3_000_000, 202_000] {
            let k = kernel(us, backoff);
            assert_eq!(kernel_us(path(50, 200_000), backoff, k, MAX_US), k.us);
        }
        let k = kernel(1_000_000, backoff);
        assert_eq!(kernel_us(path(0, 0), backoff, k, MAX_US), k.us);
    }
}

#[test]
fn all__boundaries() {
    let values = [0, 1, 7, 8, TICK_US, u32::MAX >> 1, u32::MAX - 1, u32::MAX];
    for srtt_us8 in values {
        for rttvar_us in values {
            for us in values {
                for tick_us in values {
                    for n in [0, 1, 31, 32, 33, 63, 64, 255] {
                        let p = Path {
                            srtt_us8,
                            rttvar_us,
                        };
                        let k = Kernel { us, tick_us };
                        for is_short in [false, true] {
                            let i = Early {
                                variance_max: tick_us,
                                rto_min_us: us,
                                is_short,
                            };
                            let b = Backoff {
                                timeouts: n,
                                linear: n / 2,
                                max_us: us,
                            };
                            assert!(first_us(p, i) >= 1);
                            if let Some(early) = early_us(p, i, b, k) {
                                assert!(early >= 1 && early < us.max(2));
                            }
                        }
                        let init = early_init_us(us, n, k);
                        assert!(init.is_none_or(|early| early >= 1 && early < us.max(2)));
                        let own = kernel_us(p, n, k, tick_us);
                        assert!(own <= us.max(1));
                    }
                }
            }
        }
    }
}

#[test]
fn coarse_rtt_us__table() {
    for (rtt, srtt_us, want) in [
        // one unit or none: twice what is known
        (1000, 100, 200),
        (1000, 400, 800),
        (1000, 500, 1000),
        (1000, 30_000, 1000),
        (0, 100, 0),
        // more
        (2000, 100, 2000),
        (30_000, 100, 30_000),
        // nothing is known
        (1000, 0, 1000),
    ] {
        assert_eq!(coarse_rtt_us(rtt, srtt_us << 3), want, "{rtt} {srtt_us}");
    }
    assert_eq!(coarse_rtt_us(1000, 1), 1);
}

#[test]
fn base_us__saturates() {
    for (srtt_us8, rttvar_us, want) in [
        (u32::MAX, u32::MAX, u32::MAX),
        (u32::MAX, 0, u32::MAX >> 3),
        (8, u32::MAX, u32::MAX),
        (0, 0, 0),
    ] {
        let p = Path {
            srtt_us8,
            rttvar_us,
        };
        assert_eq!(p.base_us(), want);
    }
}

#[test]
fn back_off__table() {
    for (value, backoff, max, want) in [
        (0, 0, 0, 0),
        (0, 255, u32::MAX, 0),
        (1, 0, u32::MAX, 1),
        (1, 31, u32::MAX, 1 << 31),
        (1, 32, u32::MAX, u32::MAX),
        (1, 255, u32::MAX, u32::MAX),
        (3, 31, u32::MAX, u32::MAX),
        (u32::MAX, 0, u32::MAX, u32::MAX),
        (u32::MAX, 255, u32::MAX, u32::MAX),
        (250, 3, 1999, 1999),
        (250, 3, 2000, 2000),
        (250, 3, 2001, 2000),
        (250, 0, 100, 100),
    ] {
        assert_eq!(
            back_off(value, backoff, max),
            want,
            "{value} << {backoff} up to {max}"
        );
    }
}

#[test]
fn rebase_rttvar_us__table() {
    for (rttvar, mdev, old, new, want) in [
        // The old floor was all there was: what was measured, or the new floor.
        (200_000, 40, 200_000, 200, Some(200)),
        (200_000, 900, 200_000, 200, Some(900)),
        // Below the old floor, because that had been raised in the meantime.
        (150_000, 40, 200_000, 200, Some(200)),
        // A greater variance is real.
        (300_000, 40, 200_000, 200, None),
        (201, 40, 200, 20, None),
        // Up: the new floor holds at once.
        (200, 40, 200, 200_000, Some(200_000)),
        (300_000, 40, 200, 200_000, None),
        // Nothing changes.
        (200, 40, 200, 200, None),
        (u32::MAX, u32::MAX, u32::MAX, 0, None),
        (0, 0, 0, u32::MAX, Some(u32::MAX)),
    ] {
        assert_eq!(
            rebase_rttvar_us(rttvar, mdev, old, new),
            want,
            "rttvar {rttvar}, mdev {mdev}, from {old} to {new}"
        );
    }
}

// Properties, for any input whatever.

/// Small values and extreme ones, not only those in between.
fn any_us() -> impl Strategy<Value = u32> {
    prop_oneof![
        any::<u32>(),
        0..1_000_000_u32,
        (0..=32_u32).prop_map(|n| u32::MAX >> (32 - n).min(31))
    ]
}

fn any_path() -> impl Strategy<Value = Path> {
    (any_us(), any_us()).prop_map(|(srtt_us8, rttvar_us)| Path {
        srtt_us8,
        rttvar_us,
    })
}

fn any_kernel() -> impl Strategy<Value = Kernel> {
    (any_us(), any_us()).prop_map(|(us, tick_us)| Kernel { us, tick_us })
}

fn any_early() -> impl Strategy<Value = Early> {
    (0..=MAX_VARIANCE_MAX, any_us(), any::<bool>()).prop_map(
        |(variance_max, rto_min_us, is_short)| Early {
            variance_max,
            rto_min_us,
            is_short,
        },
    )
}

fn any_backoff() -> impl Strategy<Value = Backoff> {
    (any::<(u8, u8)>(), any_us()).prop_map(|((timeouts, linear), max_us)| Backoff {
        timeouts,
        linear,
        max_us,
    })
}

/// `value * 2^backoff` up to `max`, by doubling.
fn doubled(value: u128, backoff: u8, max: u32) -> u128 {
    (0..backoff)
        .fold(value, |v, _| (v * 2).min(1 << 64))
        .min(max.into())
}

/// An early timeout, from the list of all of them.
fn listed(base: u128, i: Backoff) -> u128 {
    let max = u128::from(i.max_us).max(base);
    let mut all = vec![base; i.linear.into()];
    let mut next = base;
    if max < 200_000 {
        while next < max {
            all.push(next);
            next *= 2;
        }
        for _ in 0..32 {
            if all.iter().sum::<u128>() < 200_000 {
                all.push(max);
                next = max * 2;
            }
        }
    }
    while all.len() <= i.timeouts.into() {
        all.push(next);
        next = (next * 2).min(1 << 64);
    }
    all[usize::from(i.timeouts)]
}

/// The estimate, with its variance limited.
fn naive_base(p: Path, i: Early) -> u128 {
    let srtt = u128::from(p.srtt_us8 / 8);
    let base = (srtt + u128::from(p.rttvar_us)).min(u32::MAX.into());
    if i.variance_max == 0 || base >= 200_000 {
        return base;
    }
    let part = (srtt * u128::from(i.variance_max) / 100).max(i.rto_min_us.into());
    srtt + part.min(p.rttvar_us.into())
}

fn naive_early(p: Path, i: Early, b: Backoff, k: Kernel) -> Option<u128> {
    let first = naive_base(p, i).min(u32::MAX.into());
    if (first + u128::from(p.srtt_us8 / 8)).min(u32::MAX.into()) > k.us.into() {
        return None;
    }
    let unlimited = (u128::from(p.srtt_us8 / 8) + u128::from(p.rttvar_us)).min(u32::MAX.into());
    let base = naive_base(p, i);
    if !i.is_short && base == unlimited {
        return None;
    }
    let us = if base < 200_000 {
        listed(base.max(1), b)
    } else {
        doubled(base, b.timeouts, u32::MAX)
    };
    let us = us.min(u32::MAX.into());
    ((us + u128::from(k.tick_us)).min(u32::MAX.into()) < k.us.into()).then_some(us.max(1))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn early_us__as_the_naive_formula(p in any_path(), i in any_early(), b in any_backoff(), k in any_kernel()) {
        prop_assert_eq!(early_us(p, i, b, k).map(u128::from), naive_early(p, i, b, k));
    }

    #[test]
    fn first_us__as_the_naive_formula(p in any_path(), i in any_early()) {
        prop_assert_eq!(u128::from(first_us(p, i)), naive_base(p, i).max(1));
    }

    /// What says that a sample changes nothing is right.
    #[test]
    fn explains__what_sampled_leaves(
        rttvar_us in any_us(),
        max_us in any_us(),
        mdev in any_us(),
        is_round in any::<bool>(),
        min in 1..=200_000_u32,
        usual in any::<bool>(),
    ) {
        // The minimum is all that there is, or a little more.
        let v = match usual {
            true => Variance { rttvar_us: min + rttvar_us % 8, max_us: min },
            false => Variance { rttvar_us, max_us: max_us.min(rttvar_us) },
        };
        let mdev = if usual { mdev % (2 * min) } else { mdev };
        // The first sample begins a round trip.
        if v.explains(mdev, is_round || v.rttvar_us == 0, min) {
            prop_assert_eq!(v.sampled(mdev, is_round, min), v);
        }
    }

    /// A loss probe is a timeout at most, and more slack never makes it come sooner.
    #[test]
    fn probe_us__up_to_the_timeout(p in any_path(), slack in any_us(), more in any_us(), rto in any_us()) {
        let us = probe_us(p, slack, rto);
        prop_assert!(us <= rto && (us == rto || us >= slack) && us <= probe_us(p, slack.saturating_add(more), rto));
    }

    /// As long as nothing exceeds the minimum, the term is that; and it never is less.
    #[test]
    fn sampled__not_below_the_minimum(all in prop::collection::vec((any_us(), any::<bool>()), 1..50), min in 1..=200_000_u32) {
        let mut v = Variance::new(0);
        let mut greatest = min;
        for (mdev, is_round) in all {
            v = v.sampled(mdev, is_round, min);
            greatest = greatest.max(mdev);
            prop_assert!(v.rttvar_us >= min && v.rttvar_us <= greatest && v.max_us >= min);
        }
    }

    /// The kernel's own floor, applied to the same samples, is never undercut.
    #[test]
    fn sampled__shorter_with_a_lower_minimum(all in prop::collection::vec((any_us(), any::<bool>()), 1..50), min in 1..=200_000_u32) {
        let (mut kernel, mut own) = (Variance::new(0), Variance::new(0));
        for (mdev, is_round) in all {
            kernel = kernel.sampled(mdev, is_round, 200_000);
            own = own.sampled(mdev, is_round, min);
            prop_assert!(own.rttvar_us <= kernel.rttvar_us);
        }
    }

    /// The first one is the early one of no timeouts, where there is one.
    #[test]
    fn early_us__first_of_all(p in any_path(), k in any_kernel(), variance_max in 0..=MAX_VARIANCE_MAX, rto_min_us in any_us()) {
        let i = Early { variance_max, rto_min_us, is_short: true };
        if let Some(early) = early_us(p, i, backoff(0), k) {
            prop_assert_eq!(early, first_us(p, i));
        }
    }

    /// Early timeouts do not shrink, are more than a tick before the kernel's own, and come to an end.
    #[test]
    fn early_us__grows_and_ends(
        srtt in 1..200_000_u32,
        rttvar in 0..200_000_u32,
        linear in 0..=MAX_LINEAR,
        max_us in prop_oneof![1..300_000_u32, Just(MAX_BACKOFF_MAX_US)],
    ) {
        let p = path(srtt, rttvar);
        let k = kernel_of(p);
        let mut last = 0;
        let mut count = 0;
        for timeouts in 0..=u8::MAX {
            let Some(us) = early_us(p, SHORT, Backoff { timeouts, linear, max_us }, k) else {
                break;
            };
            prop_assert!(us >= (srtt + rttvar).max(last) && us + TICK_US < k.us);
            (last, count) = (us, count + 1);
        }
        prop_assert!(count < 64, "{count} of them");
    }

    /// Never longer than the kernel has it, and never shorter than the estimate.
    #[test]
    fn kernel_us__between_estimate_and_ticks(srtt in 1..100_000_u32, rttvar in 1..1_000_000_u32, backoff in 0..255_u8) {
        let base = srtt + rttvar;
        let k = kernel(base, backoff);
        let us = kernel_us(path(srtt, rttvar), backoff, k, MAX_US);
        prop_assert!(us >= base && us <= k.us);
        prop_assert_eq!(u128::from(us), doubled(base.into(), backoff, MAX_US));
    }

    /// Never more than was measured, and never out of the blue.
    #[test]
    fn coarse_rtt_us__no_more_than_the_sample(rtt: u32, srtt_us8: u32) {
        let got = coarse_rtt_us(rtt, srtt_us8);
        prop_assert!(got <= rtt);
        prop_assert!(got == rtt || got == (srtt_us8 / 4).max(1));
    }

    #[test]
    fn back_off__as_the_naive_formula(value: u32, backoff: u8, max: u32) {
        prop_assert_eq!(u128::from(back_off(value, backoff, max)), doubled(value.into(), backoff, max));
    }

    #[test]
    fn back_off__grows_with_backoff(value: u32, backoff in 0..255_u8, max: u32) {
        prop_assert!(back_off(value, backoff, max) <= back_off(value, backoff + 1, max));
    }

    #[test]
    fn rebase_rttvar_us__not_below_the_new_floor(rttvar: u32, mdev: u32, old: u32, new: u32) {
        prop_assert!(rebase_rttvar_us(rttvar, mdev, old, new).unwrap_or(rttvar) >= new);
    }

    /// None says that nothing changes; what it returns is a change; and then it is content.
    #[test]
    fn rebase_rttvar_us__idempotent(rttvar: u32, mdev: u32, old: u32, new: u32) {
        let once = rebase_rttvar_us(rttvar, mdev, old, new);
        prop_assert_ne!(once, Some(rttvar));
        prop_assert_eq!(rebase_rttvar_us(once.unwrap_or(rttvar), mdev, new, new), None);
    }

    /// A variance that was measured is not forgotten.
    #[test]
    fn rebase_rttvar_us__keeps_what_was_measured(rttvar: u32, mdev: u32, old: u32, new: u32) {
        let rebased = rebase_rttvar_us(rttvar, mdev, old, new).unwrap_or(rttvar);
        prop_assert!(rebased >= rttvar.min(mdev));
        prop_assert!(rttvar <= old || rebased >= rttvar);
    }

    /// There and back again: a socket that only ever had the floor has it again.
    #[test]
    fn rebase_rttvar_us__there_and_back(mdev in 0..200_000_u32, new in 1..200_000_u32) {
        let there = rebase_rttvar_us(200_000, mdev, 200_000, new).unwrap_or(200_000);
        prop_assert_eq!(rebase_rttvar_us(there, mdev, new, 200_000).unwrap_or(there), 200_000);
    }
}
