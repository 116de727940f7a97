// SPDX-License-Identifier: GPL-2.0

//! Counters: `/proc/net/finetcp_stat`.

use kernel::{
    cpu::{
        nr_cpu_ids,
        CpuId, //
    },
    prelude::*,
    seq_file::{
        seq_print,
        SeqFile, //
    },
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};

/// Makes [`Counter`], and its names: what is in the file under `/proc/net` is the name here.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What is counted. The order is that of the file.
        #[derive(Clone, Copy)]
        #[repr(usize)]
        pub(crate) enum Counter {
            $($(#[$doc])* $name,)*
        }

        const NAMES: &[&str] = &[$(stringify!($name),)*];
    };
}

counters! {
    /// Sockets that got a timer of their own.
    Sockets,
    /// Sockets that did not, for want of memory.
    AllocFailures,
    /// Timers put on the clock, or moved there.
    TimersStarted,
    /// Deadlines set without a word to the clock, because a queued timer covers them.
    TimersRearmed,
    /// Expiries before the deadline, which armed the timer for what was left.
    TimersEarly,
    /// Deadlines that passed.
    TimersFired,
    /// Timers taken off the clock before they expired.
    TimersCancelled,
    /// Delays so long that the timer wheel serves them.
    TimersOnWheel,
    /// ACKs that were delayed.
    AcksDelayed,
    /// Delayed ACKs that nothing else has carried before their deadline.
    AcksFired,
    /// Sockets that have waited for their queue to drain, and were resumed by a tasklet.
    QueueThrottled,
    /// Of those, sockets that a user owned: he sends when he lets go of it.
    QueueDeferred,
    /// Runs of a tasklet. A run may resume many sockets.
    QueueRuns,
    /// What the sockets still had in their queues when they were resumed, in bytes (truesize).
    QueueBytes,
    /// Extra runs of receivers that were about to lose the CPU while they owned their sockets.
    ExtraRuns,
    /// The time granted for those, in us.
    ExtraRunUsecs,
    /// Extra runs refused, for another task had been due for too long.
    ExtraRunOverdue,
    /// Extra runs refused, for the task had not been off the CPU since the last.
    ExtraRunUnpaid,
    /// Extra runs after which the task gave way when it had received. The others were over before.
    ExtraRunYields,
}

/// The counters of one CPU, in cache lines of their own.
#[repr(align(64))]
struct Row([Atomic<u64>; NAMES.len()]);

/// The counters of one network namespace, a row for each CPU: with hundreds of them, several pages.
pub(crate) struct Stats {
    rows: KVVec<Row>,
}

impl Stats {
    /// Makes counters that stand at zero. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        let mut rows = KVVec::with_capacity(nr_cpu_ids() as usize, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..nr_cpu_ids() {
            let row = Row([const { Atomic::new(0) }; NAMES.len()]);
            rows.push(row, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(Self { rows })
    }

    /// Counts one event. Callable in any context.
    #[inline]
    pub(crate) fn count(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Counts `n` events. Callable in any context.
    #[inline]
    pub(crate) fn add(&self, counter: Counter, n: u32) {
        // Any row will do, so it does not matter if we are moved to another CPU.
        if let Some(row) = self.rows.get(CpuId::current().as_u32() as usize) {
            row.0[counter as usize].add(n.into(), Relaxed);
        }
    }

    fn sum(&self, counter: usize) -> u64 {
        self.rows
            .iter()
            .filter_map(|row| row.0.get(counter))
            .fold(0, |sum, value| sum.wrapping_add(value.load(Relaxed)))
    }

    /// Writes a line a counter: its name, a tab, its value.
    pub(crate) fn show(&self, m: &SeqFile) {
        for (counter, name) in NAMES.iter().enumerate() {
            seq_print!(m, "{}\t{}\n", name, self.sum(counter));
        }
    }
}
