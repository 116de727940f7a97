// SPDX-License-Identifier: GPL-2.0

//! Tests of `policy::deadline`.

use crate::policy::deadline::*;
use proptest::prelude::*;

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
fn is_covered__idle_timer_covers_nothing() {
    for at in [0, 1, u64::MAX] {
        assert!(!is_covered(None, at));
    }
}

#[test]
fn is_covered__table() {
    for (armed, at, covered) in [
        (0, 0, true),
        (0, u64::MAX, true),
        (99, 100, true),
        (100, 100, true),
        (101, 100, false),
        (u64::MAX, u64::MAX - 1, false),
        (u64::MAX, u64::MAX, true),
    ] {
        assert_eq!(is_covered(Some(armed), at), covered, "{armed} for {at}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// What the module does with it: whatever the deadlines, the timer never expires after the
    /// one that holds, and only a deadline that moves earlier (or no timer) touches the clock.
    #[test]
    fn is_covered__no_deadline_is_missed(deadlines in prop::collection::vec(any::<u64>(), 1..50)) {
        let mut armed = None;
        for at in deadlines {
            let touched = !is_covered(armed, at);
            prop_assert_eq!(touched, armed.is_none() || armed > Some(at));
            if touched {
                armed = Some(at);
            }
            prop_assert!(armed.is_some_and(|armed| armed <= at));
        }
    }
}
