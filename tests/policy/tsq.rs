// SPDX-License-Identifier: GPL-2.0

//! Tests of `policy::tsq`.

use crate::policy::tsq::*;
use proptest::prelude::*;

const UNKNOWN: (u64, u32) = (0, 0);

#[test]
fn queue_bytes__table() {
    for (bytes, us, delivered, want) in [
        // the kernel's default and beyond
        (4 << 20, 0, UNKNOWN, None),
        (i32::MAX as u32, 0, UNKNOWN, None),
        ((4 << 20) - 1, 0, UNKNOWN, Some((4 << 20) - 1)),
        (40_000, 0, UNKNOWN, Some(40_000)),
        (0, 0, UNKNOWN, Some(1)),
        // a limit in time says nothing before there is a rate
        (4 << 20, 200, UNKNOWN, None),
        (40_000, 200, UNKNOWN, Some(40_000)),
        // 1 Gbit/s and 100 Mbit/s
        (4 << 20, 200, (125_000, 1000), Some(25_000)),
        (4 << 20, 200, (125_000, 10_000), Some(2500)),
        (4 << 20, 1000, (125_000, 10_000), Some(12_500)),
        // the lower one holds
        (20_000, 200, (125_000, 1000), Some(20_000)),
        (40_000, 200, (125_000, 1000), Some(25_000)),
        // nothing was delivered
        (4 << 20, 200, (0, 1000), Some(1)),
    ] {
        assert_eq!(
            queue_bytes(bytes, us, delivered).map(|bytes| bytes.get()),
            want,
            "{bytes} bytes, {us} us, {delivered:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// What it returns is what the formula says in exact arithmetic.
    #[test]
    fn queue_bytes__naive(
        bytes: u32,
        us: u32,
        delivered: u64,
        interval: u32,
    ) {
        let mut limits = Vec::new();
        if bytes < KERNEL_BYTES {
            limits.push(u128::from(bytes));
        }
        if us != 0 && interval != 0 {
            limits.push((u128::from(delivered) * u128::from(us)).min(u64::MAX.into()) / u128::from(interval));
        }
        let want = limits.into_iter().min();
        let want = want.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX).max(1));
        let got = queue_bytes(bytes, us, (delivered, interval)).map(|bytes| bytes.get());
        prop_assert_eq!(got, want);
    }
}
