// SPDX-License-Identifier: GPL-2.0

//! A socket's timers, which know their socket without holding it.
//!
//! Starting and stopping is what TCP does with every ACK, so neither touches a reference count.
//! Instead the expiry asks for a reference on the socket, and goes without if the socket is gone:
//!
//! - the memory of TCP sockets is `SLAB_TYPESAFE_BY_RCU`, so within an RCU read-side critical
//!   section a reference can be asked for, though what answers may be another socket by now;
//! - the pointer to the socket is cleared before the socket lets go of its timers: who has a
//!   reference and still finds the pointer has the right socket;
//! - the timers' own memory waits for a grace period and for the callbacks.

use super::{
    hrtimer::HrTimer,
    sock::{
        LockedSock,
        SockRef, //
    },
};
use core::ptr::{
    null_mut,
    NonNull, //
};
use kernel::{
    bindings,
    list::{
        impl_list_arc_safe,
        impl_list_item,
        ListArc,
        ListLinks, //
    },
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        rcu,
        Arc, //
    },
    types::Opaque, //
};

/// One of the timers of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// Retransmission, loss probe, reordering, zero-window probe. Ends in `tcp_run_write_timer()`.
    Xmit,
    /// The delayed ACK. Ends in `tcp_run_delack_timer()`.
    DelAck,
}

/// The timers of one socket, and `T`, what their owner knows of them.
///
/// # Invariants
///
/// `sk` is null, or points to a TCP socket that has not been freed. It is cleared under the lock
/// of the socket, and before the socket can be freed.
#[pin_data]
pub(crate) struct SockTimer<T> {
    #[pin]
    xmit: HrTimer,
    #[pin]
    delack: HrTimer,
    #[pin]
    links: ListLinks,
    rcu: Opaque<bindings::callback_head>,
    sk: Atomic<*mut bindings::sock>,
    data: T,
}

// SAFETY: What is done with `sk` may be done anywhere; see `Self::sock()`.
unsafe impl<T: Send> Send for SockTimer<T> {}
// SAFETY: As above; `HrTimer` is `Sync`, and `rcu` is used once, by `release()`.
unsafe impl<T: Sync> Sync for SockTimer<T> {}

impl_list_arc_safe! {
    impl{T} ListArcSafe<0> for SockTimer<T> { untracked; }
}
impl_list_item! {
    impl{T} ListItem<0> for SockTimer<T> { using ListLinks { self.links }; }
}

impl<T: Send + Sync + 'static> SockTimer<T> {
    /// Allocates idle timers for `sk`. Does not sleep.
    ///
    /// # Safety
    ///
    /// It must go to [`Self::release`] before `sk` is freed.
    pub(super) unsafe fn new(sk: &LockedSock, data: T) -> Result<ListArc<Self>> {
        ListArc::pin_init(
            try_pin_init!(Self {
                // SAFETY: `xmit_expired` needs the `xmit` of a `Self`.
                xmit <- unsafe { HrTimer::new(Self::xmit_expired) },
                // SAFETY: `delack_expired` needs the `delack` of a `Self`.
                delack <- unsafe { HrTimer::new(Self::delack_expired) },
                links <- ListLinks::new(),
                rcu: Opaque::zeroed(),
                // INVARIANT: By the caller's promise.
                sk: Atomic::new(sk.as_ptr()),
                data,
            }? Error),
            GFP_ATOMIC | __GFP_NOWARN,
        )
    }

    /// What the owner knows of the timers.
    #[inline]
    pub(crate) fn data(&self) -> &T {
        &self.data
    }

    #[inline]
    fn timer(&self, which: Which) -> &HrTimer {
        match which {
            Which::Xmit => &self.xmit,
            Which::DelAck => &self.delack,
        }
    }

    /// Returns when the timer expires if it is queued, in ns of `CLOCK_MONOTONIC`. It may expire
    /// at any time.
    #[inline]
    pub(crate) fn armed(&self, which: Which) -> Option<u64> {
        let timer = self.timer(which);
        timer.is_queued().then(|| timer.expires())
    }

    /// Starts the timer, or moves it, to `expires` ns of `CLOCK_MONOTONIC`.
    #[inline]
    pub(crate) fn arm(&self, which: Which, expires: u64) {
        self.timer(which).start(expires);
    }

    /// Cancels the timer unless its callback is running. Returns whether it has cancelled it.
    #[inline]
    pub(crate) fn disarm(&self, which: Which) -> bool {
        self.timer(which).try_cancel()
    }

    /// Cancels the timer and waits for its callback. Returns whether it was queued.
    ///
    /// The caller must not hold the socket's spin lock.
    pub(crate) fn disarm_sync(&self, which: Which) -> bool {
        self.timer(which).cancel()
    }

    /// Returns a reference on the socket, unless it is gone.
    pub(crate) fn sock(&self) -> Option<SockRef> {
        let _rcu = rcu::read_lock();
        let sk = NonNull::new(self.sk.load(Relaxed))?;
        // SAFETY: By the type's invariant the socket was there within this critical section, so
        // this is the memory of a TCP socket until its end.
        let sk = unsafe { SockRef::try_new(sk) }?;
        // Is it ours, or did another take its place before we had the reference? In that case
        // this finds the pointer cleared: `try_new()` acquires what came before the other's
        // first reference.
        (!self.sk.load(Relaxed).is_null()).then_some(sk)
    }

    /// Ends the timers of `sk`: nothing of them will run after the next grace period, and then its
    /// memory goes. Whoever unloads the code of `T` waits for that with `rcu_barrier()`.
    ///
    /// # Safety
    ///
    /// `this` must be the timers of `sk`, and this their first release.
    pub(super) unsafe fn release(this: Arc<Self>, _sk: &mut LockedSock) {
        this.sk.store(null_mut(), Relaxed);
        let this = Arc::into_raw(this);
        // SAFETY: `this` points to a live object, whose `rcu` nobody else uses.
        unsafe { bindings::call_rcu((*this).rcu.get(), Some(Self::drop_now)) }
    }

    /// Drops what [`Self::release`] was given, and with the last reference cancels the timers.
    ///
    /// # Safety
    ///
    /// Called by RCU with what [`Self::release`] passed to it.
    unsafe extern "C" fn drop_now(head: *mut bindings::callback_head) {
        let head: *mut Opaque<bindings::callback_head> = head.cast();
        // SAFETY: `head` is the `rcu` of a `Self` that came from `Arc::into_raw()`.
        drop(unsafe { Arc::<Self>::from_raw(kernel::container_of!(head, Self, rcu)) });
    }

    /// The callback of the retransmit timer.
    ///
    /// # Safety
    ///
    /// Called by the hrtimer core with the `xmit` of a [`SockTimer`], which does not go before
    /// this returns.
    unsafe extern "C" fn xmit_expired(timer: *mut bindings::hrtimer) -> bindings::hrtimer_restart {
        let timer: *mut HrTimer = timer.cast();
        // SAFETY: See above.
        let this: &Self = unsafe { &*kernel::container_of!(timer, Self, xmit) };
        if let Some(sk) = this.sock() {
            sk.run_write_timer();
        }
        bindings::hrtimer_restart::HRTIMER_NORESTART
    }

    /// The callback of the delayed ACK's timer.
    ///
    /// # Safety
    ///
    /// As [`Self::xmit_expired`], with the `delack`.
    unsafe extern "C" fn delack_expired(
        timer: *mut bindings::hrtimer,
    ) -> bindings::hrtimer_restart {
        let timer: *mut HrTimer = timer.cast();
        // SAFETY: See above.
        let this: &Self = unsafe { &*kernel::container_of!(timer, Self, delack) };
        if let Some(sk) = this.sock() {
            sk.run_delack_timer();
        }
        bindings::hrtimer_restart::HRTIMER_NORESTART
    }
}
