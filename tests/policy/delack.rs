// SPDX-License-Identifier: GPL-2.0

//! Tests of `policy::delack`.

use crate::policy::delack::*;
use proptest::prelude::*;

#[test]
fn longest_us__table() {
    for (rto_min, tick, max, longest) in [
        // as the kernel: one tick less than the minimal timeout, never more than is set
        (200_000, 1000, 200_000, 199_000),
        (200_000, 4000, 200_000, 196_000),
        (200_000, 1000, 40_000, 40_000),
        (3000, 1000, 200_000, 2000),
        // less than two ticks: half of it
        (2000, 1000, 200_000, 1000),
        (1999, 1000, 200_000, 999),
        (200, 1000, 200_000, 100),
        (200, 1000, 0, 0),
        (1, 1000, 200_000, 0),
        (0, 1000, 200_000, 0),
        (u32::MAX, 1000, u32::MAX, u32::MAX - 1000),
    ] {
        assert_eq!(
            longest_us(rto_min, tick, max),
            longest,
            "{rto_min} {tick} {max}"
        );
    }
}

#[test]
fn due__table() {
    for (now, delay, pending, at) in [
        (1000, 400, None, Some(1400)),
        (1000, 0, None, None),
        // an earlier one stays, a later one does not
        (1000, 400, Some(1300), Some(1300)),
        (1000, 400, Some(1500), Some(1400)),
        // about to expire, or overdue
        (1000, 400, Some(1100), None),
        (1000, 400, Some(1101), Some(1101)),
        (1000, 400, Some(900), None),
        (1000, 0, Some(2000), None),
    ] {
        assert_eq!(due(now, delay, pending), at, "{now} {delay} {pending:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The peer, with the same minimum, does not time out first.
    #[test]
    fn longest_us__below_the_minimal_timeout(rto_min in 1u32.., tick in 1u32..=10_000, max: u32) {
        let longest = longest_us(rto_min, tick, max);
        prop_assert!(longest < rto_min);
        prop_assert!(longest <= max);
    }

    /// Never later than asked for, never later than what was promised already.
    #[test]
    fn due__no_later(now: u64, delay: u64, pending: Option<u64>) {
        if let Some(at) = due(now, delay, pending) {
            prop_assert!(at > now && at <= now.saturating_add(delay));
            prop_assert!(pending.is_none_or(|pending| at <= pending));
        }
    }
}
