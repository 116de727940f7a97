// SPDX-License-Identifier: GPL-2.0

//! What finetcp has in each network namespace: settings under `net.ipv4`, and counters.

use crate::{
    ext::{
        pernet::{
            NetData,
            PerNet, //
        },
        sysctl::{
            Setting,
            Value, //
        },
    },
    policy::rto::MAX_LINEAR,
    stats::Stats, //
};
use kernel::{
    prelude::*,
    seq_file::SeqFile,
    sync::Arc, //
};

/// All network namespaces.
pub(crate) static NAMESPACES: PerNet<Namespace> = PerNet::new();

/// One network namespace.
pub(crate) struct Namespace {
    /// Its counters.
    pub(crate) stats: Stats,
    settings: [Value; 1],
}

impl Namespace {
    /// How many timeouts of a connection in a row are not doubled: `net.ipv4.tcp_linear_timeouts`.
    #[inline]
    pub(crate) fn linear_timeouts(&self) -> u8 {
        let [linear] = &self.settings;
        // Within the setting's range.
        u8::try_from(linear.get()).unwrap_or(0)
    }
}

impl NetData for Namespace {
    const FILE: &'static CStr = c"finetcp_stat";

    const SETTINGS: &'static [Setting] = &[Setting {
        name: c"tcp_linear_timeouts",
        min: 0,
        max: MAX_LINEAR as i32,
    }];

    fn values(&self) -> &[Value] {
        &self.settings
    }

    fn pernet() -> &'static PerNet<Self> {
        &NAMESPACES
    }

    fn new() -> Result<Arc<Self>> {
        let new = Self {
            stats: Stats::new(),
            settings: [Value::new(0)],
        };
        Ok(Arc::new(new, GFP_KERNEL_ACCOUNT)?)
    }

    fn show(&self, m: &SeqFile) {
        self.stats.show(m);
    }
}
