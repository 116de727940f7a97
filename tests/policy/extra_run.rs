// SPDX-License-Identifier: GPL-2.0

//! Tests of `policy::extra_run`.

use crate::policy::extra_run::*;
use proptest::prelude::*;

/// A receiver that gets an extra run of a millisecond.
const GETS_ONE: Inputs = Inputs {
    max_us: 1000,
    ran_ns: 5_000_000,
    until_ns: None,
    is_paid: true,
    overdue_ns: 0,
};

#[test]
fn decide__table() {
    for (what, inputs, want) in [
        ("begins", GETS_ONE, Decision::Begin(1_000_000)),
        (
            "switched off",
            Inputs {
                max_us: 0,
                ..GETS_ONE
            },
            Decision::None,
        ),
        (
            "goes on, whatever else has changed",
            Inputs {
                max_us: 0,
                until_ns: Some(5_000_001),
                is_paid: false,
                overdue_ns: i64::MAX,
                ..GETS_ONE
            },
            Decision::GoOn(1),
        ),
        (
            "is over",
            Inputs {
                until_ns: Some(5_000_000),
                is_paid: false,
                ..GETS_ONE
            },
            Decision::Over,
        ),
        (
            "is long over",
            Inputs {
                until_ns: Some(1),
                is_paid: false,
                ..GETS_ONE
            },
            Decision::Over,
        ),
        (
            "has not been off the CPU",
            Inputs {
                is_paid: false,
                ..GETS_ONE
            },
            Decision::Unpaid,
        ),
        (
            "another has waited long, but not too long",
            Inputs {
                overdue_ns: 1_000_000,
                ..GETS_ONE
            },
            Decision::Begin(1_000_000),
        ),
        (
            "another has waited too long",
            Inputs {
                overdue_ns: 1_000_001,
                ..GETS_ONE
            },
            Decision::Overdue,
        ),
        (
            "nobody is due for long",
            Inputs {
                overdue_ns: i64::MIN,
                ..GETS_ONE
            },
            Decision::Begin(1_000_000),
        ),
    ] {
        assert_eq!(decide(&inputs), want, "{what}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A task that never leaves the CPU by itself, and is asked to at random: what it gets is one
    /// extra run for each time that it was put off, and none takes longer than it may, but for the
    /// time until the next question.
    #[test]
    fn decide__bounded(
        max_us in 0..=MAX_US,
        asks in prop::collection::vec((1..400_000_u64, -2_000_000..4_000_000_i64), 1..200),
    ) {
        let max_ns = u64::from(max_us) * 1000;
        let (mut ran, mut until, mut is_paid, mut granted) = (0, None, true, None);
        for (ns, overdue_ns) in asks {
            ran += ns;
            let decision = decide(&Inputs { max_us, ran_ns: ran, until_ns: until, is_paid, overdue_ns });
            match decision {
                Decision::Begin(ns) => {
                    prop_assert_eq!(ns, max_ns);
                    prop_assert!(ns > 0 && is_paid && granted.is_none());
                    prop_assert!(overdue_ns <= max_ns as i64);
                    (until, is_paid, granted) = (Some(ran + ns), false, Some(ran));
                }
                Decision::GoOn(left) => {
                    prop_assert!(left > 0);
                    prop_assert_eq!(until, Some(ran + left));
                    prop_assert!(ran - granted.unwrap() < max_ns);
                }
                Decision::Over | Decision::None | Decision::Overdue | Decision::Unpaid => {
                    if decision == Decision::Over {
                        prop_assert!(ran - granted.unwrap() >= max_ns);
                    } else {
                        prop_assert_eq!(until, None);
                    }
                    // It is put off the CPU, and comes back.
                    (until, is_paid, granted) = (None, true, None);
                }
            }
        }
    }

    /// It answers whatever it is told.
    #[test]
    fn decide__total(
        max_us in any::<u32>(),
        ran_ns in any::<u64>(),
        until_ns in any::<Option<u64>>(),
        is_paid in any::<bool>(),
        overdue_ns in any::<i64>(),
    ) {
        let decision = decide(&Inputs { max_us, ran_ns, until_ns, is_paid, overdue_ns });
        match decision {
            Decision::Begin(ns) => prop_assert_eq!(ns, u64::from(max_us) * 1000),
            Decision::GoOn(ns) => prop_assert_eq!(ran_ns.checked_add(ns), until_ns),
            _ => {}
        }
    }
}
