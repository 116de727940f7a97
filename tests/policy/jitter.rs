// SPDX-License-Identifier: GPL-2.0

//! Tests of `policy::jitter`.

use crate::policy::jitter::*;
use proptest::prelude::*;

#[test]
fn stretched__table() {
    for (delay, percent, random, want) in [
        (200_000, 0, u32::MAX, 200_000),
        (200_000, 50, 0, 200_000),
        (200_000, 50, 1 << 31, 250_000),
        (200_000, 50, u32::MAX, 299_999),
        (200_000, 100, u32::MAX, 399_999),
        (0, 100, u32::MAX, 0),
        (u64::MAX, 100, u32::MAX, u64::MAX),
        // of a wait of hours, too
        (
            1 << 44,
            100,
            1 << 31,
            (1 << 44) + ((1u64 << 44) / 100 * 100 / 2),
        ),
    ] {
        assert_eq!(
            stretched(delay, percent, random),
            want,
            "{delay} {percent} {random}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Never earlier, and not later than the share.
    #[test]
    fn stretched__within_the_share(delay in 0..=u64::MAX / 2, percent in 0..=100_u32, random: u32) {
        let got = stretched(delay, percent, random);
        prop_assert!(got >= delay);
        prop_assert!(u128::from(got - delay) * 100 <= u128::from(delay) * u128::from(percent));
    }

    /// All of the share is used, evenly.
    #[test]
    fn stretched__as_the_naive_formula(delay in 0..1_u64 << 40, percent in 0..=100_u32, random: u32) {
        let naive = u128::from(delay / 100) * u128::from(percent) * u128::from(random) >> 32;
        prop_assert_eq!(u128::from(stretched(delay, percent, random) - delay), naive);
    }
}
