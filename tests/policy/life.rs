// SPDX-License-Identifier: GPL-2.0

//! The life of a connection, against a model: whatever its peer and its owner do, in whatever order,
//! no timeout is shorter than the settings allow or longer than the longest, silence only ever makes
//! it longer, and nothing overflows (tests are compiled with checks).

use crate::policy::{
    deadline,
    jitter,
    rto::*, //
};
use proptest::prelude::*;

const TICK_US: u32 = 1000;

/// What may happen.
#[derive(Clone, Debug)]
enum Event {
    /// An ACK of what was sent once: a sample of the round trip in us.
    Sample(u32),
    /// An ACK of what was sent again, with time stamps in ms.
    CoarseSample(u32),
    /// A timeout: an early one, or the kernel's own where there is none.
    Timeout,
    /// `tcp_rto_min`, `tcp_rto_variance_max`, `tcp_linear_timeouts`, `tcp_backoff_max` and `tcp_rto_jitter`
    /// are set.
    Set((u32, u32), u8, u32, u32),
}

/// The kernel's own minimum.
const KERNEL_MIN_US: u32 = 200_000;

/// What the kernel keeps of a connection, and the settings.
struct Socket {
    srtt_us8: u32,
    mdev_us: u32,
    rttvar_us: u32,
    /// With the kernel's own minimum
    kernel_rttvar_us: u32,
    early: u8,
    backoff: u8,
    kernel_us: u32,
    /// The minimal timeout that is in `rttvar_us`
    floor_us: u32,
    rto_min: u32,
    variance_max: u32,
    linear: u8,
    backoff_max: u32,
    jitter: u32,
    max_us: u32,
}

impl Socket {
    fn path(&self) -> Path {
        Path {
            srtt_us8: self.srtt_us8,
            rttvar_us: self.rttvar_us,
        }
    }

    fn kernel_path(&self) -> Path {
        Path {
            rttvar_us: self.kernel_rttvar_us,
            ..self.path()
        }
    }

    fn kernel(&self) -> Kernel {
        Kernel {
            us: self.kernel_us,
            tick_us: TICK_US,
        }
    }

    fn early_us(&self) -> Option<u32> {
        if self.backoff != 0 {
            None
        } else if self.srtt_us8 == 0 {
            early_init_us(DEFAULT_INIT_US, self.early, self.kernel())
        } else {
            let i = Early {
                variance_max: self.variance_max,
                rto_min_us: self.floor_us,
                is_short: self.floor_us < KERNEL_MIN_US,
            };
            let b = Backoff {
                timeouts: self.early,
                linear: self.linear,
                max_us: self.backoff_max,
            };
            early_us(self.path(), i, b, self.kernel())
        }
    }

    /// As the module puts it together.
    fn timeout_us(&self) -> u32 {
        self.early_us().unwrap_or_else(|| {
            let us = kernel_us(self.kernel_path(), self.backoff, self.kernel(), self.max_us);
            if self.floor_us > KERNEL_MIN_US && self.srtt_us8 != 0 {
                us.max(self.path().base_us()).min(self.max_us)
            } else {
                us
            }
        })
    }

    /// In whole ticks, as the kernel keeps it.
    fn set_kernel_us(&mut self, us: u64) {
        let ticks = us
            .div_ceil(TICK_US.into())
            .min((self.max_us / TICK_US).into());
        self.kernel_us = ticks as u32 * TICK_US;
    }

    /// `tcp_rtt_estimator()`, without its choice of when to let go of a maximum.
    fn sample(&mut self, rtt: u32) {
        let rtt = rtt.clamp(1, 1 << 28);
        if self.srtt_us8 == 0 {
            self.srtt_us8 = rtt << 3;
            self.mdev_us = rtt << 1;
            self.rttvar_us = self.mdev_us.max(self.rto_min);
        } else {
            let error = i64::from(rtt) - i64::from(self.srtt_us8 >> 3);
            self.srtt_us8 = (i64::from(self.srtt_us8) + error).max(1) as u32;
            let deviation = error.abs() - i64::from(self.mdev_us >> 2);
            self.mdev_us = (i64::from(self.mdev_us) + deviation).max(0) as u32;
            self.rttvar_us = self.mdev_us.max(self.rto_min);
        }
        self.kernel_rttvar_us = self.mdev_us.max(KERNEL_MIN_US);
        self.floor_us = self.rto_min;
        (self.early, self.backoff) = (0, 0);
        self.set_kernel_us(u64::from(self.srtt_us8 >> 3) + u64::from(self.kernel_rttvar_us));
    }

    /// What the module does when it finds another minimum than before, unless it waits for an answer.
    fn follow(&mut self) {
        if self.early == 0 && self.backoff == 0 && self.floor_us != self.rto_min {
            let rebased =
                rebase_rttvar_us(self.rttvar_us, self.mdev_us, self.floor_us, self.rto_min);
            self.floor_us = self.rto_min;
            if self.srtt_us8 != 0 {
                self.rttvar_us = rebased.unwrap_or(self.rttvar_us);
            }
        }
    }
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let us = || prop_oneof![1..2000_u32, any::<u32>()];
    let min = prop_oneof![1..1000_u32, 1..=200_000_u32, 1..=i32::MAX as u32];
    let setting = (
        (min, 0..=MAX_VARIANCE_MAX),
        0..=MAX_LINEAR,
        prop_oneof![1..300_000_u32, Just(MAX_BACKOFF_MAX_US)],
        0..=100_u32,
    );
    let event = prop_oneof![
        4 => us().prop_map(Event::Sample),
        1 => us().prop_map(Event::CoarseSample),
        8 => Just(Event::Timeout),
        1 => setting.prop_map(|(min, linear, max, jitter)| Event::Set(min, linear, max, jitter)),
    ];
    prop::collection::vec(event, 1..100)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn life__within_its_bounds(events in events(), max_ms in 1000..=120_000_u32, random: u32) {
        let mut s = Socket {
            srtt_us8: 0,
            mdev_us: 0,
            rttvar_us: 0,
            kernel_rttvar_us: 0,
            early: 0,
            backoff: 0,
            kernel_us: DEFAULT_INIT_US,
            floor_us: KERNEL_MIN_US,
            rto_min: KERNEL_MIN_US,
            variance_max: 0,
            linear: 0,
            backoff_max: MAX_BACKOFF_MAX_US,
            jitter: 0,
            max_us: max_ms * 1000,
        };
        // The timeout before, if nothing but timeouts came since.
        let mut silent = None;
        for event in events {
            match event {
                Event::Sample(rtt) => s.sample(rtt),
                Event::CoarseSample(rtt) => s.sample(coarse_rtt_us(rtt, s.srtt_us8)),
                Event::Timeout if s.early_us().is_some() => s.early = s.early.saturating_add(1),
                Event::Timeout => {
                    s.backoff = s.backoff.saturating_add(1);
                    s.set_kernel_us(u64::from(s.kernel_us) * 2);
                }
                Event::Set((min, variance), linear, max, jitter) => {
                    (s.rto_min, s.variance_max, s.linear) = (min, variance, linear);
                    (s.backoff_max, s.jitter) = (max, jitter);
                }
            }
            if !matches!(event, Event::Timeout) {
                silent = None;
            }
            s.follow();
            let us = s.timeout_us();

            prop_assert!(us <= s.max_us);
            let least = match s.srtt_us8 {
                0 => DEFAULT_INIT_US,
                srtt_us8 => (srtt_us8 >> 3).saturating_add(s.floor_us.min(KERNEL_MIN_US)),
            };
            prop_assert!(us >= least.min(s.max_us - s.max_us % TICK_US), "{us} us, not {least} or more: {:?}", s.path());
            if let Some(before) = silent {
                prop_assert!(us >= before || us >= s.kernel_us - TICK_US, "{us} us after {before}: {:?}", s.path());
                // A longer minimum than the kernel's holds for those that would be shorter.
                if s.backoff > 1 && s.floor_us <= KERNEL_MIN_US {
                    // The kernel's ticks may explain one that is not quite twice the one before.
                    prop_assert!(u64::from(us) + 2 * u64::from(TICK_US) >= 2 * u64::from(before)
                                 || us >= s.max_us - s.max_us % TICK_US,
                                 "{us} us after {before}: {:?}", s.path());
                }
            }
            silent = Some(us);

            // And what becomes of it: jitter only lengthens, and a timer is armed for no earlier time.
            let ns = u64::from(us) * 1000;
            let stretched = jitter::stretched(ns, s.jitter, random);
            prop_assert!(stretched >= ns && stretched <= 2 * ns);
            if !deadline::is_for_wheel(ns) && deadline::is_far(stretched, u64::from(TICK_US) * 1000) {
                let ticks = deadline::wake_ticks(stretched, u64::from(TICK_US) * 1000);
                prop_assert!(ticks * u64::from(TICK_US) * 1000 <= stretched);
            }
        }
    }
}
