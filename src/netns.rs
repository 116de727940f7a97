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
use core::convert::identity;
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

/// The module's minimal timeout. The kernel's `tcp_rto_min_us` is another name of the same value while the
/// module is there.
static RTO_MIN: Setting = Setting {
    name: c"tcp_rto_min",
    default: 200_000,
    min: &FLOOR,
    max: i32::MAX,
    written: None,
};

/// Makes [`SETTINGS`], and for each a method of [`Namespace`] that returns its value. None is negative.
macro_rules! settings {
    ($(
        $(#[$doc:meta])*
        $name:literal: $default:expr, $min:ident..=$max:expr, $written:expr;
        $get:ident() -> $type:ty: $convert:expr;
    )*) => {
        /// Where the value of each is to be found.
        #[allow(non_camel_case_types)]
        #[repr(usize)]
        enum Index {
            $($get,)*
        }

        static SETTINGS: [Setting; COUNT] = [$(Setting {
            name: $name,
            default: $default as i32,
            min: &$min,
            max: $max as i32,
            written: $written,
        },)*];

        const COUNT: usize = [$($name,)*].len();

        impl Namespace {
            $(
                $(#[$doc])*
                #[inline]
                pub(crate) fn $get(&self) -> $type {
                    $convert(self.settings[Index::$get as usize].get() as u32)
                }
            )*
        }
    };
}

settings! {
    /// How many timeouts of a connection in a row are not doubled.
    c"tcp_linear_timeouts": 0, ZERO..=rto::MAX_LINEAR, None;
    linear_timeouts() -> u8: |times| times as u8;

    /// By how much a timeout may be lengthened at random, in percent.
    c"tcp_rto_jitter": 0, ZERO..=100, None;
    rto_jitter() -> u32: identity;

    /// The timeout, in us, before the first sample of the round trip.
    c"tcp_rto_init": rto::DEFAULT_INIT_US, FLOOR..=rto::MAX_INIT_US, None;
    rto_init_us() -> u32: identity;

    /// Whether ACKs may be delayed.
    c"tcp_delayed_ack": 1, ZERO..=1, None;
    delayed_ack() -> bool: |set| set != 0;

    /// The least time, in us, for which an ACK is delayed.
    c"tcp_delack_min": delack::DEFAULT_MIN_US, FLOOR..=delack::INTERACTIVE_MAX_US, None;
    delack_min_us() -> u32: identity;

    /// For how long, in us, what a socket sends may wait for what it has sent before; 0: for any time.
    c"tcp_limit_output_usecs": 0, ZERO..=tsq::MAX_US, None;
    limit_output_usecs() -> u32: identity;

    /// Up to which timeout, in us, retransmissions are backed off while it is early.
    c"tcp_backoff_max": rto::MAX_BACKOFF_MAX_US, FLOOR..=rto::MAX_BACKOFF_MAX_US, None;
    backoff_max_us() -> u32: identity;

    /// For how long, in us, a receiver may go on that is to give way while it owns its socket; 0: not at
    /// all.
    c"tcp_extra_run": 0, ZERO..=extra_run::MAX_US, Some(receiver::wanted);
    extra_run_us() -> u32: identity;

    /// The most that the variance term counts for, in percent of the round trip; 0: for as much as it is.
    c"tcp_rto_variance_max": 0, ZERO..=rto::MAX_VARIANCE_MAX, None;
    rto_variance_max() -> u32: identity;
}

/// From here on, in bytes, a `tcp_limit_output_bytes` is one that the kernel can do without the module:
/// what it once had by default. Less leaves no room for two segments.
const LIMIT_KEPT: i32 = 256 << 10;

/// One network namespace.
pub(crate) struct Namespace {
    /// Its counters.
    pub(crate) stats: Stats,
    settings: [Value; COUNT],
    /// The kernel's `tcp_limit_output_bytes` before there was a module.
    limit_before: i32,
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
            stats: Stats::new()?,
            settings: SETTINGS
                .each_ref()
                .map(|setting| Value::new(setting.default)),
            limit_before: net.limit_output_bytes().get(),
        };
        Ok(Arc::new(new, GFP_KERNEL_ACCOUNT)?)
    }

    fn leave(&self, net: &Net) {
        // So it begins as the kernel's own, whichever module comes next.
        let rto_min = net.kernel_rto_min().get();
        if net.rto_min().get() != rto_min {
            net.rto_min().set(rto_min);
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
