// SPDX-License-Identifier: GPL-2.0

//! What finetcp has in each network namespace: settings under `net.ipv4`, and counters.

use crate::{
    ext::{
        pernet::{
            Net,
            NetData,
            PerNet, //
        },
        sysctl::{
            Setting,
            Value, //
        },
    },
    policy::{
        delack,
        extra_run,
        rto,
        tsq, //
    },
    receiver,
    stats::Stats, //
};
use kernel::{
    prelude::*,
    seq_file::SeqFile,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
};

/// All network namespaces.
pub(crate) static NAMESPACES: PerNet<Namespace> = PerNet::new();

/// The least, in us, that anybody may set for a timer: `rto_min_floor`.
pub(crate) static FLOOR: Value = Value::new(0);

static ZERO: Value = Value::new(0);

/// What can be set. The order is that of [`SETTINGS`].
#[derive(Clone, Copy)]
#[repr(usize)]
enum Name {
    LinearTimeouts,
    RtoJitter,
    RtoInit,
    DelayedAck,
    DelackMin,
    LimitOutputUsecs,
    BackoffMax,
    ExtraRun,
    RtoVarianceMax,
}

/// The module's minimal timeout. The kernel's `tcp_rto_min_us` is another name of the same value while the
/// module is there.
static RTO_MIN: Setting = Setting {
    name: c"tcp_rto_min",
    default: 200_000,
    min: &FLOOR,
    max: i32::MAX,
    written: None,
};

static SETTINGS: [Setting; 9] = [
    Setting {
        name: c"tcp_linear_timeouts",
        default: 0,
        min: &ZERO,
        max: rto::MAX_LINEAR as i32,
        written: None,
    },
    Setting {
        name: c"tcp_rto_jitter",
        default: 0,
        min: &ZERO,
        max: 100,
        written: None,
    },
    Setting {
        name: c"tcp_rto_init",
        default: rto::DEFAULT_INIT_US as i32,
        min: &FLOOR,
        max: rto::MAX_INIT_US as i32,
        written: None,
    },
    Setting {
        name: c"tcp_delayed_ack",
        default: 1,
        min: &ZERO,
        max: 1,
        written: None,
    },
    Setting {
        name: c"tcp_delack_min",
        default: delack::DEFAULT_MIN_US as i32,
        min: &FLOOR,
        max: delack::INTERACTIVE_MAX_US as i32,
        written: None,
    },
    Setting {
        name: c"tcp_limit_output_usecs",
        default: 0,
        min: &ZERO,
        max: tsq::MAX_US as i32,
        written: None,
    },
    Setting {
        name: c"tcp_backoff_max",
        default: rto::MAX_BACKOFF_MAX_US as i32,
        min: &FLOOR,
        max: rto::MAX_BACKOFF_MAX_US as i32,
        written: None,
    },
    Setting {
        name: c"tcp_extra_run",
        default: 0,
        min: &ZERO,
        max: extra_run::MAX_US as i32,
        written: Some(receiver::wanted),
    },
    Setting {
        name: c"tcp_rto_variance_max",
        default: 0,
        min: &ZERO,
        max: rto::MAX_VARIANCE_MAX as i32,
        written: None,
    },
];

/// From here on, in bytes, a `tcp_limit_output_bytes` is one that the kernel can do without the module:
/// what it once had by default. Less leaves no room for two segments.
const LIMIT_KEPT: i32 = 256 << 10;

/// One network namespace.
pub(crate) struct Namespace {
    /// Its counters.
    pub(crate) stats: Stats,
    settings: [Value; SETTINGS.len()],
    /// The kernel's `tcp_limit_output_bytes` before there was a module.
    limit_before: i32,
}

impl Namespace {
    // All are within their ranges, none of which is negative.
    #[inline]
    fn setting(&self, name: Name) -> u32 {
        self.settings[name as usize].get() as u32
    }

    /// How many timeouts of a connection in a row are not doubled: `net.ipv4.tcp_linear_timeouts`.
    #[inline]
    pub(crate) fn linear_timeouts(&self) -> u8 {
        self.setting(Name::LinearTimeouts) as u8
    }

    /// Up to which timeout, in us, retransmissions are backed off while it is early: `net.ipv4.tcp_backoff_max`.
    #[inline]
    pub(crate) fn backoff_max_us(&self) -> u32 {
        self.setting(Name::BackoffMax)
    }

    /// The most that the variance term counts for, in percent of the round trip, 0 for as much as it is:
    /// `net.ipv4.tcp_rto_variance_max`.
    #[inline]
    pub(crate) fn rto_variance_max(&self) -> u32 {
        self.setting(Name::RtoVarianceMax)
    }

    /// By how much a timeout may be lengthened at random, in percent: `net.ipv4.tcp_rto_jitter`.
    #[inline]
    pub(crate) fn rto_jitter(&self) -> u32 {
        self.setting(Name::RtoJitter)
    }

    /// The timeout, in us, before the first sample of the round trip: `net.ipv4.tcp_rto_init`.
    pub(crate) fn rto_init_us(&self) -> u32 {
        self.setting(Name::RtoInit)
    }

    /// Whether ACKs may be delayed: `net.ipv4.tcp_delayed_ack`.
    #[inline]
    pub(crate) fn delayed_ack(&self) -> bool {
        self.setting(Name::DelayedAck) != 0
    }

    /// The least time, in us, for which an ACK is delayed: `net.ipv4.tcp_delack_min`.
    #[inline]
    pub(crate) fn delack_min_us(&self) -> u32 {
        self.setting(Name::DelackMin)
    }

    /// For how long, in us, what a socket sends may wait for what it has sent before, 0 for any time:
    /// `net.ipv4.tcp_limit_output_usecs`.
    #[inline]
    pub(crate) fn limit_output_usecs(&self) -> u32 {
        self.setting(Name::LimitOutputUsecs)
    }

    /// For how long, in us, a receiver may go on that is to give way while it owns its socket, 0 for
    /// not at all: `net.ipv4.tcp_extra_run`.
    pub(crate) fn extra_run_us(&self) -> u32 {
        self.setting(Name::ExtraRun)
    }
}

// SAFETY: `pernet()` returns a static.
unsafe impl NetData for Namespace {
    const FILE: &'static CStr = c"finetcp_stat";

    fn settings() -> &'static [Setting] {
        &SETTINGS
    }

    fn values(&self) -> &[Value] {
        &self.settings
    }

    fn aliases(net: &Net) -> impl Iterator<Item = (&'static Setting, &Value)> {
        core::iter::once((&RTO_MIN, net.rto_min()))
    }

    fn pernet() -> &'static PerNet<Self> {
        &NAMESPACES
    }

    fn new(net: &Net) -> Result<Arc<Self>> {
        let new = Self {
            stats: Stats::new(),
            settings: SETTINGS
                .each_ref()
                .map(|setting| Value::new(setting.default)),
            limit_before: net.limit_output_bytes().get(),
        };
        net.rto_min().set(net.kernel_rto_min().get());
        Ok(Arc::new(new, GFP_KERNEL_ACCOUNT)?)
    }

    fn leave(&self, net: &Net) {
        if net.rto_min().get() != net.kernel_rto_min().get() {
            RTO_MIN_GIVEN_BACK.add(1, Relaxed);
        }
        let limit = net.limit_output_bytes();
        if (0..LIMIT_KEPT).contains(&limit.get()) && limit.get() != self.limit_before {
            limit.set(self.limit_before);
            LIMIT_GIVEN_BACK.add(1, Relaxed);
        }
    }

    fn show(&self, m: &SeqFile) {
        self.stats.show(m);
    }
}

/// Namespaces where the kernel's own value of a setting holds again.
static RTO_MIN_GIVEN_BACK: Atomic<i32> = Atomic::new(0);
static LIMIT_GIVEN_BACK: Atomic<i32> = Atomic::new(0);

/// Forgets what was given back so far.
pub(crate) fn forget_given_back() {
    RTO_MIN_GIVEN_BACK.store(0, Relaxed);
    LIMIT_GIVEN_BACK.store(0, Relaxed);
}

/// Says at its end what was given back: the last thing that the module does.
pub(crate) struct Farewell;

impl Drop for Farewell {
    fn drop(&mut self) {
        let rto_min = RTO_MIN_GIVEN_BACK.load(Relaxed);
        let limit = LIMIT_GIVEN_BACK.load(Relaxed);
        if rto_min != 0 || limit != 0 {
            pr_info!(
                "given back as they were: tcp_rto_min_us of {} network namespace(s), tcp_limit_output_bytes of {}\n",
                rto_min,
                limit
            );
        }
    }
}
