// SPDX-License-Identifier: GPL-2.0

//! Extra runs of tasks that receive.
//!
//! A task that is about to lose the CPU inside `tcp_recvmsg()` may go on for a while. The scheduler
//! asks once when that begins, and again when it has passed, or whenever the task is to give way
//! meanwhile; it counts the task's run time and switches, by which a grant is known to be over.
//!
//! C header: [`include/linux/sched/extra_run.h`](srctree/include/linux/sched/extra_run.h)

use super::{
    pernet::Net,
    trace, //
};
use core::marker::PhantomData;
use kernel::{
    bindings,
    prelude::*,
    sync::atomic::{
        AtomicFlag,
        Full,
        Release, //
    },
};

/// The current task inside `tcp_recvmsg()`, which is to give way.
///
/// # Invariants
///
/// `run` is that of the current task, and its `sk` points to a full TCP socket from which the task
/// receives during `'a`.
pub(crate) struct Receiver<'a> {
    run: &'a mut bindings::sched_extra_run,
    ran_ns: u64,
    switches: u64,
    overdue_ns: i64,
}

/// What is said of an extra run, for trace events. C code prints the numbers: `finetcp_trace.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Said {
    /// The task may go on.
    Granted = 1,
    /// It may not, for somebody has been due for too long.
    Overdue = 2,
    /// It may not, for it has not been off the CPU since the last one.
    Unpaid = 3,
    /// It has had one, and gives the CPU back.
    Yielded = 4,
}

/// What the scheduler is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// As it would: there is no extra run.
    None,
    /// Let the task go on for so many ns at most, 1 at least.
    GoOn(u64),
    /// Put the task off the CPU: its extra run is over.
    Over,
}

impl<'a> Receiver<'a> {
    /// Returns the namespace of the socket; none if it is one of the kernel's, which may outlive that.
    pub(crate) fn net(&self) -> Option<&'a Net> {
        // SAFETY: By the type's invariant.
        unsafe { net(self.run.sk) }
    }

    /// Returns how long the task has run, in ns, since it was made.
    pub(crate) fn ran_ns(&self) -> u64 {
        self.ran_ns
    }

    /// Returns until when, as [`Self::ran_ns`] counts, the task has an extra run that it was granted
    /// during this system call.
    pub(crate) fn until_ns(&self) -> Option<u64> {
        (self.run.until != 0 && !self.is_paid()).then_some(self.run.until)
    }

    /// Returns whether the task has been off the CPU since its last extra run.
    pub(crate) fn is_paid(&self) -> bool {
        self.run.switches != self.switches
    }

    /// Returns for how many ns of virtual time the first of those that wait for the CPU has been due.
    /// Less than zero: is not.
    pub(crate) fn overdue_ns(&self) -> i64 {
        self.overdue_ns
    }

    /// Begins an extra run of `ns`.
    pub(crate) fn grant(&mut self, ns: u64) {
        self.run.until = self.ran_ns.saturating_add(ns);
        self.run.switches = self.switches;
    }

    /// Tells who traces extra runs.
    pub(crate) fn trace(&self, said: Said, ns: u64) {
        // SAFETY: By the type's invariant.
        unsafe { trace::extra_run(self.run.sk, said as c_int, ns) }
    }
}

/// Returns the namespace of a socket; none if it is one of the kernel's.
///
/// # Safety
///
/// `sk` must point to a full socket that stays during `'a`.
unsafe fn net<'a>(sk: *const bindings::sock) -> Option<&'a Net> {
    // SAFETY: By the caller's promise. A user's socket holds its namespace.
    unsafe { ((*sk).__sk_common.skc_net_refcnt() != 0).then(|| Net::of_sock(sk)) }
}

/// Who decides on extra runs.
pub(crate) trait ExtraRuns: 'static {
    /// The receiver is to give way. Called with the run queue locked: nothing may be locked, woken or
    /// allocated.
    fn ask(receiver: &mut Receiver<'_>) -> Answer;

    /// The current task, which receives from a socket in `net`, has given way after an extra run.
    /// Callable in process context, and may not sleep.
    fn yielded(net: &Net);
}

/// The C functions.
struct Table<E>(PhantomData<E>);

impl<E: ExtraRuns> Table<E> {
    const OPS: bindings::sched_extra_run_ops = bindings::sched_extra_run_ops {
        ask: Some(Self::ask),
        yielded: Some(Self::yielded),
    };

    /// [`ExtraRuns::ask`].
    ///
    /// # Safety
    ///
    /// `run` must be that of the current task, which is within `tcp_recvmsg()`.
    unsafe extern "C" fn ask(
        run: *mut bindings::sched_extra_run,
        ran_ns: u64,
        switches: u64,
        overdue_ns: i64,
    ) -> i64 {
        // INVARIANT: By the caller's promise.
        let mut receiver = Receiver {
            // SAFETY: By the caller's promise. Nobody but the task itself uses it.
            run: unsafe { &mut *run },
            ran_ns,
            switches,
            overdue_ns,
        };
        match E::ask(&mut receiver) {
            Answer::None => -1,
            Answer::GoOn(ns) => i64::try_from(ns).unwrap_or(i64::MAX).max(1),
            Answer::Over => 0,
        }
    }

    /// [`ExtraRuns::yielded`].
    ///
    /// # Safety
    ///
    /// `sk` must point to a full TCP socket that stays meanwhile.
    unsafe extern "C" fn yielded(sk: *const bindings::sock) {
        // SAFETY: By the caller's promise.
        unsafe {
            trace::extra_run(sk, Said::Yielded as c_int, 0);
            if let Some(net) = net(sk) {
                E::yielded(net);
            }
        }
    }
}

/// Whether there is a [`Registration`].
static IS_TAKEN: AtomicFlag = AtomicFlag::new(false);

/// Proof that an [`ExtraRuns`] decides. Ends that when dropped, which sleeps.
///
/// # Invariants
///
/// There is one, and it has set `IS_TAKEN`.
#[must_use]
pub(crate) struct Registration(());

impl Registration {
    /// Makes `E` decide. Sleeps.
    ///
    /// # Errors
    ///
    /// `EBUSY` if somebody does already.
    pub(crate) fn new<E: ExtraRuns>() -> Result<Self> {
        if IS_TAKEN.xchg(true, Full) {
            return Err(EBUSY);
        }
        // SAFETY: There is no other. The functions stay until `drop()`.
        unsafe { bindings::sched_set_extra_run_ops(&Table::<E>::OPS) };
        // INVARIANT: We have set it.
        Ok(Self(()))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: `new()` has set them. It waits for those that run.
        unsafe { bindings::sched_set_extra_run_ops(core::ptr::null()) };
        IS_TAKEN.store(false, Release);
    }
}
