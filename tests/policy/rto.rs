// SPDX-License-Identifier: GPL-2.0

//! Tests of `policy::rto` against RFC 6298 and a naive formula in `u128`.

use crate::policy::rto::*;
use proptest::prelude::*;

/// Linux at a tick of 1 ms, with its longest timeout of 120 s.
const TICK_US: u32 = 1000;
const MAX_US: u32 = 120_000_000;

/// A socket whose own timeout, in ticks, says what the estimate says.
fn inputs(srtt_us: u32, rttvar_us: u32, backoff: u8) -> Inputs {
    let ticks = u64::from((srtt_us + rttvar_us).div_ceil(TICK_US)) << backoff.min(32);
    Inputs {
        srtt_us8: srtt_us << 3,
        rttvar_us,
        variance_max: 0,
        rto_min_us: 0,
        backoff,
        linear: 0,
        backoff_max_us: MAX_BACKOFF_MAX_US,
        init_us: 1_000_000,
        kernel_us: ticks.min((MAX_US / TICK_US).into()) as u32 * TICK_US,
        tick_us: TICK_US,
        max_us: MAX_US,
    }
}

// The formula.

/// RFC 6298, 2.2: after the first sample R, SRTT = R, RTTVAR = R / 2, RTO = SRTT + 4 * RTTVAR.
#[test]
fn timeout_us__rfc6298_2_2_first_sample() {
    for r in [1, 50, 1000, 30_000, 1_000_000] {
        assert_eq!(timeout_us(&inputs(r, 4 * (r / 2), 0)), r + 4 * (r / 2));
    }
}

/// RFC 6298, 2.3: RTTVAR = 3/4 RTTVAR + 1/4 |SRTT - R'|, SRTT = 7/8 SRTT + 1/8 R'.
#[test]
fn timeout_us__rfc6298_2_3_later_samples() {
    let (mut srtt, mut rttvar) = (800.0_f64, 400.0_f64);
    for r in [800, 1600, 400, 800, 800, 4000, 800] {
        rttvar = 0.75 * rttvar + 0.25 * (srtt - f64::from(r)).abs();
        srtt = 0.875 * srtt + 0.125 * f64::from(r);
        let i = inputs(srtt as u32, (4.0 * rttvar) as u32, 0);
        let naive = srtt + 4.0 * rttvar;
        assert!(
            (f64::from(timeout_us(&i)) - naive).abs() <= 2.0,
            "{i:?}: {naive}"
        );
    }
}

/// RFC 6298, 2.1 and 5.7: before the first sample the timeout is the initial one, to the
/// microsecond; or what the kernel has, if that is not the same in ticks.
#[test]
fn timeout_us__rfc6298_2_1_no_sample() {
    for (init_us, backoff, kernel_us, want) in [
        (1_000_000, 0, 1_000_000, 1_000_000),
        (1_000_000, 2, 4_000_000, 4_000_000),
        (1_000_000, 0, 3_000_000, 3_000_000),
        (1500, 0, 2000, 1500),
        (1500, 3, 16_000, 12_000),
        (1500, 0, 6000, 6000),
        // by BPF, or set while a SYN waits
        (1500, 0, 1_000_000, 1_000_000),
        (1_000_000, 0, 2000, 2000),
        (1_000_000, 3, 16_000, 16_000),
        // at the maximum
        (1_000_000, 7, MAX_US, MAX_US),
    ] {
        let i = Inputs {
            srtt_us8: 0,
            linear: MAX_LINEAR,
            backoff_max_us: 20,
            init_us,
            kernel_us,
            ..inputs(0, 0, backoff)
        };
        assert_eq!(timeout_us(&i), want, "{init_us} {backoff} {kernel_us}");
    }
}

/// RFC 6298, 5.5: back off the timer, RTO = RTO * 2, and 2.5: up to a maximum.
#[test]
fn timeout_us__rfc6298_5_5_backoff() {
    let mut want = 250;
    for backoff in 0..=u8::MAX {
        assert_eq!(
            timeout_us(&inputs(50, 200, backoff)),
            want,
            "backoff {backoff}"
        );
        want = (want * 2).min(MAX_US);
    }
}

/// Linux: the minimal timeout is the floor of the variance term, not of the sum.
#[test]
fn timeout_us__linux_floor_is_in_the_variance() {
    for (srtt, rttvar, want) in [
        (50, 200_000, 200_050),
        (30_000, 200_000, 230_000),
        (50, 200, 250),
        (50, 20, 70),
    ] {
        assert_eq!(timeout_us(&inputs(srtt, rttvar, 0)), want);
    }
}

/// A fraction of the round trip that is below a microsecond does not count, as in the kernel.
#[test]
fn timeout_us__fractions_of_a_microsecond() {
    for (srtt_us8, want) in [(1, 100), (7, 100), (8, 101), (15, 101), (16, 102)] {
        let i = Inputs {
            srtt_us8,
            ..inputs(0, 100, 0)
        };
        assert_eq!(timeout_us(&i), want, "{srtt_us8}/8 us");
    }
}

/// The kernel chose a longer timeout than the estimate explains: it knows more.
#[test]
fn timeout_us__kernel_knows_more() {
    let i = Inputs {
        kernel_us: 300_000,
        ..inputs(50, 200, 0)
    };
    assert_eq!(timeout_us(&i), 300_000);
    // ... but one tick is what 250 us are rounded to.
    let i = Inputs {
        kernel_us: 2000,
        ..inputs(50, 200, 0)
    };
    assert_eq!(timeout_us(&i), 2000);
    let i = Inputs {
        kernel_us: 1000,
        ..inputs(50, 200, 0)
    };
    assert_eq!(timeout_us(&i), 250);
}

/// Rounded up to ticks, then doubled: that is how the kernel comes to its own value, and it
/// must be recognised as the estimate's at every backoff.
#[test]
fn timeout_us__rounding_is_not_mistaken_for_knowledge() {
    for backoff in 0..20 {
        let i = inputs(50, 1100, backoff);
        assert_eq!(
            timeout_us(&i),
            (1150 << backoff).min(MAX_US),
            "backoff {backoff}"
        );
    }
}

#[test]
fn timeout_us__linear_then_doubled() {
    for (base, linear, want) in [
        (1000, 0, [1000, 2000, 4000, 8000, 16000]),
        (1000, 1, [1000, 1000, 2000, 4000, 8000]),
        (1000, 3, [1000, 1000, 1000, 1000, 2000]),
        (199_999, 3, [199_999, 199_999, 199_999, 199_999, 399_998]),
        // a long path
        (
            200_000,
            3,
            [200_000, 400_000, 800_000, 1_600_000, 3_200_000],
        ),
    ] {
        for (backoff, want) in (0..).zip(want) {
            let i = Inputs {
                linear,
                ..inputs(base - 100, 100, backoff)
            };
            assert_eq!(
                timeout_us(&i),
                want,
                "{base} us, {linear} linear, {backoff}"
            );
        }
    }
}

#[test]
fn timeout_us__backed_off_slowly() {
    let timeouts = |base: u32, linear, backoff_max_us| {
        (0..).map(move |backoff| {
            timeout_us(&Inputs {
                linear,
                backoff_max_us,
                ..inputs(1, base - 1, backoff)
            })
        })
    };
    let first = |n, timeouts| Iterator::take(timeouts, n).collect::<Vec<_>>();
    assert_eq!(
        first(6, timeouts(250, 0, 2000)),
        [250, 500, 1000, 2000, 2000, 2000]
    );
    assert_eq!(
        first(6, timeouts(250, 2, 1500)),
        [250, 250, 250, 500, 1000, 1500]
    );
    // Once it has taken 200 ms it goes on from there.
    assert_eq!(
        first(7, timeouts(30_000, 0, 50_000)),
        [30_000, 50_000, 50_000, 50_000, 50_000, 100_000, 200_000]
    );
    // A path that takes longer than that is not hurried.
    assert_eq!(
        first(6, timeouts(80_000, 0, 2000)),
        [80_000, 80_000, 80_000, 160_000, 320_000, 640_000]
    );
    assert_eq!(
        first(3, timeouts(200_000, 0, 2000)),
        [200_000, 400_000, 800_000]
    );
    // Not for ever, and no more than the kernel can shift by, before the longest.
    let many = first(50, timeouts(250, 0, 1000));
    assert_eq!(many[..3], [250, 500, 1000]);
    assert_eq!(many[33..36], [1000, 2000, 4000]);
    let many = timeouts(20, MAX_LINEAR, 20).take_while(|&us| us < MAX_US);
    assert!(many.count() < 64);
}

#[test]
fn timeout_us__variance_limited() {
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
        (150, 200_000, 100, 200_000, 200_150),
        // nor where the path is long, or seems to be
        (100_000, 99_999, 50, 20, 150_000),
        (100_000, 100_000, 50, 20, 200_000),
        (150, 199_850, 100, 20, 200_000),
    ] {
        for (backoff, linear) in [(0, 0), (3, 3), (3, 1)] {
            let i = Inputs {
                variance_max,
                rto_min_us,
                linear,
                ..inputs(srtt, rttvar, backoff)
            };
            let doublings = if want < LINEAR_BELOW_US {
                backoff - linear
            } else {
                backoff
            };
            assert_eq!(timeout_us(&i), want << doublings, "{i:?}");
        }
    }
    // What the kernel has for a reason of its own stays.
    for backoff in [0, 1] {
        let i = Inputs {
            variance_max: 100,
            kernel_us: 3_000_000 << backoff,
            ..inputs(150, 600, backoff)
        };
        assert_eq!(timeout_us(&i), 3_000_000 << backoff);
    }
}

#[test]
fn timeout_us__boundaries() {
    let all = [0, 1, 7, 8, TICK_US, u32::MAX >> 1, u32::MAX - 1, u32::MAX];
    for srtt_us8 in all {
        for rttvar_us in all {
            for kernel in all {
                for max in all {
                    for backoff in [0, 1, 31, 32, 33, 63, 64, 255] {
                        let got = timeout_us(&Inputs {
                            srtt_us8,
                            rttvar_us,
                            variance_max: max,
                            rto_min_us: kernel,
                            backoff,
                            linear: backoff / 2,
                            backoff_max_us: kernel,
                            init_us: kernel,
                            kernel_us: kernel,
                            tick_us: max,
                            max_us: max,
                        });
                        assert!(got >= 1 && got <= max.max(1));
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
fn refused_ns__table() {
    for (delay, refused, want) in [
        (70_000, 0, 70_000),
        (70_000, 1, 70_000),
        (70_000, 2, 140_000),
        (70_000, 5, 1_120_000),
        (70_000, 255, 500_000_000),
        // what is long already stays as it is
        (800_000_000, 1, 800_000_000),
        (800_000_000, 9, 800_000_000),
        (u64::MAX, 255, u64::MAX),
        (0, 255, 0),
    ] {
        assert_eq!(refused_ns(delay, refused), want, "{delay} {refused}");
    }
}

#[test]
fn base_us__saturates() {
    assert_eq!(base_us(u32::MAX, u32::MAX), u32::MAX);
    assert_eq!(base_us(u32::MAX, 0), u32::MAX >> 3);
    assert_eq!(base_us(8, u32::MAX), u32::MAX);
    assert_eq!(base_us(0, 0), 0);
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

fn any_inputs() -> impl Strategy<Value = Inputs> {
    // Small values and extreme ones, not only those in between.
    let int = || {
        prop_oneof![
            any::<u32>(),
            0..1_000_000_u32,
            (0..=32_u32).prop_map(|n| u32::MAX >> (32 - n).min(31))
        ]
    };
    let variance = (int(), 0..=MAX_VARIANCE_MAX, int());
    let how = (any::<(u8, u8)>(), int());
    (int(), variance, how, int(), int(), int(), int()).prop_map(
        |(
            srtt_us8,
            (rttvar_us, variance_max, rto_min_us),
            ((backoff, linear), backoff_max_us),
            init_us,
            kernel_us,
            tick_us,
            max_us,
        )| Inputs {
            srtt_us8,
            rttvar_us,
            variance_max,
            rto_min_us,
            backoff,
            linear,
            backoff_max_us,
            init_us,
            kernel_us,
            tick_us,
            max_us,
        },
    )
}

/// `value * 2^backoff` up to `max`, by doubling.
fn doubled(value: u128, backoff: u8, max: u32) -> u128 {
    (0..backoff)
        .fold(value, |v, _| (v * 2).min(1 << 64))
        .min(max.into())
}

/// A timeout of a path that is not long, from the list of all of them.
fn listed(base: u128, i: &Inputs) -> u128 {
    let max = u128::from(i.backoff_max_us).max(base);
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
    while all.len() <= i.backoff.into() {
        all.push(next);
        next = (next * 2).min(1 << 64);
    }
    all[usize::from(i.backoff)].min(i.max_us.into())
}

fn naive_timeout(i: &Inputs) -> u128 {
    let base = if i.srtt_us8 == 0 {
        i.init_us.into()
    } else {
        let sum = u128::from(i.srtt_us8) / 8 + u128::from(i.rttvar_us);
        sum.min(u32::MAX.into())
    };
    let kernel_base = u128::from(i.kernel_us) >> i.backoff.min(127);
    let explained = (base + u128::from(i.tick_us)).min(u32::MAX.into());
    let base = match i.variance_max {
        percent if percent != 0 && i.srtt_us8 != 0 && base < 200_000 => {
            let srtt = u128::from(i.srtt_us8 / 8);
            let part = (srtt * u128::from(percent) / 100).max(i.rto_min_us.into());
            srtt + part.min(i.rttvar_us.into())
        }
        _ => base,
    };
    let us = if kernel_base > explained || (i.srtt_us8 == 0 && kernel_base < base) {
        u128::from(i.kernel_us)
    } else if i.srtt_us8 != 0 && base < 200_000 {
        listed(base.max(1), i)
    } else {
        doubled(base, i.backoff, i.max_us)
    };
    us.min(i.max_us.into()).max(1)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn timeout_us__as_the_naive_formula(i in any_inputs()) {
        prop_assert_eq!(u128::from(timeout_us(&i)), naive_timeout(&i));
    }

    #[test]
    fn timeout_us__between_1_and_max(i in any_inputs()) {
        let us = timeout_us(&i);
        prop_assert!(us >= 1 && us <= i.max_us.max(1));
    }

    /// For a socket as the kernel keeps it: each backoff is at least as long as the one before.
    #[test]
    fn timeout_us__grows_with_backoff(srtt in 1..100_000_u32, rttvar in 0..1_000_000_u32, backoff in 0..255_u8) {
        let (now, next) = (timeout_us(&inputs(srtt, rttvar, backoff)), timeout_us(&inputs(srtt, rttvar, backoff + 1)));
        prop_assert!(next == (2 * now).min(MAX_US));
    }

    /// Linear timeouts are never longer than doubled ones, never shorter than the estimate, and do
    /// not shrink from one to the next.
    #[test]
    fn timeout_us__linear(srtt in 1..200_000_u32, rttvar in 0..200_000_u32, backoff in 0..255_u8, linear in 0..=MAX_LINEAR) {
        let doubled = inputs(srtt, rttvar, backoff);
        let i = Inputs { linear, ..doubled };
        prop_assert!(timeout_us(&i) <= timeout_us(&doubled));
        prop_assert!(timeout_us(&i) >= srtt + rttvar);
        let next = Inputs { linear, ..inputs(srtt, rttvar, backoff + 1) };
        prop_assert!(timeout_us(&i) <= timeout_us(&next));
    }

    /// Backed off slowly, a timeout is never shorter than the estimate nor longer than a doubled one, does
    /// not shrink, and is doubled again once 200 ms have passed.
    #[test]
    fn timeout_us__slowly(
        srtt in 1..200_000_u32,
        rttvar in 0..200_000_u32,
        linear in 0..=MAX_LINEAR,
        backoff_max_us in 1..300_000_u32,
    ) {
        let (mut passed, mut last) = (0_u32, 0);
        for backoff in 0..=100 {
            let doubled = Inputs { linear, ..inputs(srtt, rttvar, backoff) };
            let us = timeout_us(&Inputs { backoff_max_us, ..doubled });
            prop_assert!(us >= (srtt + rttvar).max(last));
            prop_assert!(us <= timeout_us(&doubled));
            if passed >= LINEAR_BELOW_US && backoff > linear {
                prop_assert_eq!(us, (2 * last).min(MAX_US));
            }
            (passed, last) = (passed.saturating_add(us), us);
        }
    }

    /// With its variance limited, a timeout is never longer than without, nor shorter than the round trip and
    /// the minimum; what takes 200 ms stays as it is.
    #[test]
    fn timeout_us__limited(
        srtt in 1..300_000_u32,
        above in 0..300_000_u32,
        rto_min_us in 1..200_000_u32,
        variance_max in 0..=MAX_VARIANCE_MAX,
        backoff in 0..10_u8,
    ) {
        let all = inputs(srtt, rto_min_us + above, backoff);
        let us = timeout_us(&Inputs { variance_max, rto_min_us, ..all });
        prop_assert!(us <= timeout_us(&all));
        prop_assert!(us >= ((srtt + rto_min_us) << backoff).min(MAX_US));
        if srtt + rto_min_us + above >= LINEAR_BELOW_US {
            prop_assert_eq!(us, timeout_us(&all));
        }
    }

    /// Never shorter than the estimate, and never longer than what the wheel would take.
    #[test]
    fn timeout_us__between_estimate_and_ticks(srtt in 1..100_000_u32, rttvar in 0..1_000_000_u32, backoff in 0..255_u8) {
        let i = inputs(srtt, rttvar, backoff);
        prop_assert!(timeout_us(&i) >= srtt + rttvar);
        prop_assert!(timeout_us(&i) <= i.kernel_us);
    }

    /// Never more than was measured, and never out of the blue.
    #[test]
    fn coarse_rtt_us__no_more_than_the_sample(rtt: u32, srtt_us8: u32) {
        let got = coarse_rtt_us(rtt, srtt_us8);
        prop_assert!(got <= rtt);
        prop_assert!(got == rtt || got == (srtt_us8 / 4).max(1));
    }

    /// Never sooner than the timeout, never sooner than the time before, and so rarely in the end.
    #[test]
    fn refused_ns__backs_off(delay: u64, refused in 0..255_u8) {
        let (now, next) = (refused_ns(delay, refused), refused_ns(delay, refused + 1));
        prop_assert!(delay <= now && now <= next);
        prop_assert!(delay < 1000 || refused < 30 || now >= REFUSED_MAX_NS);
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
