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
fn after_gap_us__table() {
    for (ato, gap, base, rto, want) in [
        // close together: half way to the base
        (40_000, 0, 40_000, 240_000, 40_000),
        (40_000, 20_000, 40_000, 240_000, 40_000),
        (100_000, 1000, 40_000, 240_000, 70_000),
        (40_000, 10, 100, 250, 20_050),
        // further apart: towards twice the gap
        (40_000, 30_000, 40_000, 240_000, 50_000),
        (100_000, 50_000, 40_000, 240_000, 100_000),
        (180_000, 179_000, 40_000, 240_000, 200_000),
        (180_000, 179_000, 40_000, 150_000, 150_000),
        (100, 80, 100, 250, 130),
        // too far apart to wait for
        (40_000, 40_000, 40_000, 240_000, 40_000),
        (100, 5000, 100, 250, 100),
    ] {
        assert_eq!(
            after_gap_us(ato, gap, base, rto),
            want,
            "{ato} {gap} {base}"
        );
    }
}

#[test]
fn after_expiry_us__table() {
    for (ato, interactive, base, rto, want) in [
        (40_000, false, 40_000, 240_000, 80_000),
        (150_000, false, 40_000, 240_000, 200_000),
        (150_000, false, 40_000, 160_000, 160_000),
        (150_000, true, 40_000, 240_000, 40_000),
        (100, false, 100, 250, 200),
        (200, false, 100, 250, 250),
    ] {
        assert_eq!(after_expiry_us(ato, interactive, base, rto), want, "{ato}");
    }
}

#[test]
fn delay_us__table() {
    for (ato, base, srtt, want) in [
        (40_000, 40_000, 50, 40_000),
        (30_000, 40_000, 50, 30_000),
        // more than the base: not longer than a round trip
        (80_000, 40_000, 50, 40_000),
        (80_000, 40_000, 60_000, 60_000),
        (80_000, 40_000, 90_000, 80_000),
        (200_000, 40_000, 0, 200_000),
        (400, 100, 50, 100),
        (400, 100, 300, 300),
    ] {
        assert_eq!(delay_us(ato, base, srtt), want, "{ato} {base} {srtt}");
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

    /// Whatever comes, the prediction stays between a short base and the most that is allowed.
    #[test]
    fn after_gap_us__stays_within(base in 20..=200_000_u32, rto in 20..=u32::MAX,
            events in prop::collection::vec((any::<u32>(), any::<bool>(), any::<bool>()), 0..50)) {
        let mut ato = base;
        for (gap, expires, interactive) in events {
            ato = match expires {
                true => after_expiry_us(ato, interactive, base, rto),
                false => after_gap_us(ato, gap, base, rto),
            };
            prop_assert!(ato <= INTERACTIVE_MAX_US.max(base));
            prop_assert!(ato >= (base / 2).min(rto));
            prop_assert!(delay_us(ato, base, gap) <= ato);
        }
    }

    /// For any numbers whatever, nothing overflows and each bound holds.
    #[test]
    fn any_numbers__within_the_bounds((ato, gap, base, rto) in any::<(u32, u32, u32, u32)>(),
            interactive: bool, srtt: u32) {
        let after_gap = after_gap_us(ato, gap, base, rto);
        prop_assert!(after_gap <= ato.max(INTERACTIVE_MAX_US).max(ato / 2 + base / 2));
        let after_expiry = after_expiry_us(ato, interactive, base, rto);
        prop_assert!(!interactive || after_expiry == base);
        prop_assert!(interactive || after_expiry <= rto.min(INTERACTIVE_MAX_US));
        let delay = delay_us(ato, base, srtt);
        prop_assert!(delay <= ato && (srtt == 0 || delay <= srtt.max(base)));
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
