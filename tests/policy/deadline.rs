// SPDX-License-Identifier: GPL-2.0

//! Tests of `policy::deadline`.

use crate::policy::deadline::*;
use proptest::prelude::*;

const MS: u64 = 1_000_000;

#[test]
fn is_for_wheel__table() {
    for (ns, wheel) in [
        (0, false),
        (1, false),
        (999_999_999, false),
        (1_000_000_000, false),
        (1_000_000_001, true),
        (u64::MAX, true),
    ] {
        assert_eq!(is_for_wheel(ns), wheel, "{ns} ns");
    }
}

#[test]
fn wake_ticks__table() {
    for (delay, tick, ticks) in [
        (0, MS, None),
        (2 * MS - 1, MS, None),
        (2 * MS, MS, Some(0)),
        (3 * MS, MS, Some(1)),
        (4 * MS, MS, Some(1)),
        (40 * MS, MS, Some(28)),
        (200 * MS, MS, Some(148)),
        (200 * MS, 4 * MS, Some(36)),
        (7 * MS, 4 * MS, None),
    ] {
        let got = is_far(delay, tick).then(|| wake_ticks(delay, tick));
        assert_eq!(got, ticks, "{delay}, ticks of {tick}");
    }
}

/// When the wheel expires, in ticks, a timer that is to expire `ticks` after `now`
/// (`kernel/time/timer.c`, `calc_wheel_index()`).
fn wheel_expiry(now: u64, ticks: u64) -> u64 {
    let level = (0..8).find(|&level| ticks < 63 << (3 * level)).unwrap();
    let shift = 3 * level;
    (((now + ticks) >> shift) + 1) << shift
}

#[test]
fn is_covered__idle_timer_covers_nothing() {
    for at in [0, 1, u64::MAX] {
        assert!(!is_covered(None, at, at));
    }
}

#[test]
fn is_covered__table() {
    for (armed, at, delay, covered) in [
        (0, 0, 0, true),
        (0, u64::MAX, u64::MAX, false),
        (u64::MAX / 2 + 1, u64::MAX, u64::MAX, true),
        (89, 100, 20, false),
        (90, 100, 20, true),
        (100, 100, 20, true),
        (101, 100, 20, false),
        (100, 100, 0, true),
        (99, 100, 0, false),
        (u64::MAX, u64::MAX - 1, 5, false),
        (u64::MAX, u64::MAX, 5, true),
    ] {
        assert_eq!(
            is_covered(Some(armed), at, delay),
            covered,
            "{armed} for {at}, {delay} ahead"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Nothing overflows, for any delay, time and tick length that there is (HZ from 100 to 1000).
    #[test]
    fn any_delay__no_overflow(
        (delay, at, armed) in any::<(u64, u64, Option<u64>)>(),
        tick in MS..=10 * MS,
        (now, later) in any::<(u16, u16)>(),
    ) {
        let ticks = wake_ticks(delay, tick);
        prop_assert!(ticks <= delay / tick);
        let ns = woken_ns(woken(now, ticks), later, tick);
        prop_assert!(ns >= tick && ns <= (1 << 15) * tick);
        if is_covered(armed, at, delay) {
            prop_assert!(armed.is_some_and(|armed| armed <= at));
        }
        prop_assert_eq!(is_for_wheel(delay), delay > WHEEL_FROM_NS);
    }

    /// However the wheel rounds, it wakes a tick before the deadline, though not in its first half.
    #[test]
    fn wake_ticks__in_time(
        delay in 0..=WHEEL_FROM_NS,
        tick in prop::sample::select(vec![MS, 10 * MS / 3, 4 * MS, 10 * MS]),
        now in any::<u32>(),
    ) {
        if is_far(delay, tick) {
            let now = u64::from(now);
            let wakes = wheel_expiry(now, wake_ticks(delay, tick)) - now;
            prop_assert!((wakes + 1) * tick <= delay);
            prop_assert!(wakes * tick >= (delay / 2).saturating_sub(tick));
        }
    }

    /// What the module does with it: whatever deadlines are set while the wheel's timer is queued for
    /// an earlier one, it expires a tick before the one that holds.
    #[test]
    fn woken_ns__no_deadline_is_missed(
        tick in prop::sample::select(vec![MS, 3_333_333, 4 * MS, 10 * MS]),
        // Around the tick at which what is kept of it wraps
        wraps in 0..3_u64,
        before in 0..5000_u64,
        phase in 0..MS,
        starts in prop::collection::vec((0..300 * MS, 0..=WHEEL_FROM_NS), 1..50)
    ) {
        // When the timer does expire, and what the module keeps of that.
        let mut timer: Option<(u64, Woken)> = None;
        let mut now = ((wraps + 1) * 65_536 - before) * tick + phase;
        for (pause, delay) in starts {
            now += pause;
            timer = timer.filter(|&(expiry, _)| now < expiry);
            if !is_far(delay, tick) {
                continue;
            }
            let jiffies = now / tick;
            let by = |woken| now + woken_ns(woken, jiffies as u16, tick);
            if !is_covered(timer.map(|(_, woken)| by(woken)), now + delay, delay) {
                let ticks = wake_ticks(delay, tick);
                let expiry = wheel_expiry(jiffies, ticks) * tick;
                timer = Some((expiry, woken(jiffies as u16, ticks)));
            }
            let (expiry, woken) = timer.unwrap();
            prop_assert!(expiry <= by(woken) && by(woken) <= now + delay);
        }
    }

    /// What the module does with it: whatever the deadlines, the timer never expires after the
    /// one that holds, nor in the first half of its delay.
    #[test]
    fn is_covered__no_deadline_is_missed(
        starts in prop::collection::vec((0..1_000_000u64, any::<u32>()), 1..50)
    ) {
        let (mut now, mut armed) = (0, None);
        for (pause, delay) in starts {
            now += pause;
            let delay = u64::from(delay);
            let at = now + delay;
            if !is_covered(armed, at, delay) {
                armed = Some(at);
            }
            prop_assert!(armed.is_some_and(|armed| now + delay / 2 <= armed && armed <= at));
        }
    }

    /// Deadlines that all lie as far ahead move the timer no more than twice in that time, and
    /// are never reached if there is one in each half of it.
    #[test]
    fn is_covered__steady_traffic(
        delay in 2..1_000_000u64,
        pauses in prop::collection::vec(0.0..0.5, 1..1000)
    ) {
        let (mut now, mut armed, mut moves) = (0, None, 0);
        for pause in pauses {
            now += (delay as f64 * pause) as u64;
            prop_assert!(armed.is_none_or(|armed| now < armed));
            if !is_covered(armed, now + delay, delay) {
                armed = Some(now + delay);
                moves += 1;
            }
        }
        prop_assert!(moves <= 2 + 2 * now / delay);
    }
}
