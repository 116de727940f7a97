// SPDX-License-Identifier: GPL-2.0

//! TCP Small Queues: a socket that has too much in qdisc and device waits, and sends again when some
//! of that is gone.
//!
//! Who frees a packet cannot send the next: it may be inside the qdisc's lock, or in a hard
//! interrupt. So it puts the socket into its CPU's queue, whose tasklet lets all that are in there
//! send.

use crate::{
    ext::{
        percpu::{
            Filled,
            PerCpu, //
        },
        sock::LockedSockMut,
        tasklet::{
            Run,
            Tasklet, //
        },
        tsq::{
            Freed,
            Queue,
            Resumed, //
        },
    },
    netns::{
        Namespace,
        NAMESPACES, //
    },
    policy::tsq,
    stats::Counter, //
};
use core::ptr::{
    self,
    null, //
};
use kernel::{
    new_spinlock_irq,
    prelude::*,
    sync::{
        rcu,
        SpinLockIrq, //
    },
};

/// The sockets of one CPU that are to be resumed.
#[pin_data]
pub(crate) struct Waiting {
    #[pin]
    queue: SpinLockIrq<Queue>,
}

static WAITING: PerCpu<Tasklet<Waiting>> = PerCpu::new();

/// Makes the queues and their tasklets. They go with what it returns, once all are resumed. Sleeps.
///
/// # Errors
///
/// `ENOMEM`; `EBUSY` if they are there.
pub(crate) fn queues() -> Result<Filled<Tasklet<Waiting>>> {
    WAITING.fill(|| {
        Tasklet::new(pin_init!(Waiting {
            queue <- new_spinlock_irq!(Queue::new()),
        }))
    })
}

/// A packet of a socket has been freed. Callable in any context.
#[inline]
pub(crate) fn freed(sk: Freed) {
    if sk.should_drain() {
        return;
    }
    let rcu = rcu::read_lock();
    let Some(waiting) = WAITING.get(&rcu) else {
        // Before the backend was there, or after.
        kernel::warn_on!(true);
        return;
    };
    if let Some(sk) = sk.throttled() {
        waiting.queue.lock().push(sk);
        waiting.schedule();
    }
}

impl Run for Waiting {
    fn run(&self) {
        let mut queue = self.queue.lock().take();
        // In whose namespace this run is counted.
        let mut counted = null();
        while let Some(sk) = queue.pop() {
            let bytes = sk.bytes();
            sk.resume(|net, resumed| {
                let rcu = rcu::read_lock();
                let Some(net) = NAMESPACES.get(net, &rcu) else {
                    return;
                };
                net.stats.count(Counter::QueueThrottled);
                net.stats.add(Counter::QueueBytes, bytes);
                if resumed == Resumed::Deferred {
                    net.stats.count(Counter::QueueDeferred);
                }
                if !ptr::eq(&*net, counted) {
                    net.stats.count(Counter::QueueRuns);
                    counted = &*net;
                }
            });
        }
    }
}

/// Limits what the socket may have in qdisc and device, by the settings as they are now.
#[inline]
pub(crate) fn limit(sk: LockedSockMut<'_>, net: &Namespace) {
    let bytes = sk.net().limit_output_bytes().get() as u32;
    let us = net.limit_output_usecs();
    let limit = if bytes >= tsq::KERNEL_BYTES && us == 0 || sk.has_deep_queue() {
        None
    } else {
        tsq::queue_bytes(bytes, us, sk.delivered())
    };
    sk.set_queue_bytes(limit);
}
