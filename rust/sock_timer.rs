// SPDX-License-Identifier: GPL-2.0

//! A socket's timer, with the references that it needs while it is queued.
//!
//! A queued timer owns two references: one on the socket, which its callback will lock, and one
//! on itself. Who takes the timer from the queue (the callback, or a successful cancel) owns them
//! from then on. They are not stored anywhere: being queued is what stands for them.

use super::{
    hrtimer::{
        Cancel,
        HrTimer, //
    },
    sock::{
        LockedSock,
        SockRef, //
    },
};
use core::ptr::NonNull;
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
        Arc,
        ArcBorrow, //
    },
    types::Opaque, //
};

/// The retransmit timer of one socket, and `T`, what its owner knows of it.
///
/// Its callback runs the kernel's handler, `tcp_run_write_timer()`.
///
/// # Invariants
///
/// - While `timer` is queued, it owns a reference on `sk` and one on `self`.
/// - `sk` points to the memory of a TCP socket as long as a socket refers to `self`.
#[pin_data]
pub(crate) struct SockTimer<T> {
    #[pin]
    timer: HrTimer,
    #[pin]
    links: ListLinks,
    rcu: Opaque<bindings::callback_head>,
    sk: NonNull<bindings::sock>,
    data: T,
}

// SAFETY: `sk` is only a pointer: what is done with it takes the references described above.
unsafe impl<T: Send> Send for SockTimer<T> {}
// SAFETY: As above; all shared methods are those of `HrTimer`, which is `Sync`.
unsafe impl<T: Sync> Sync for SockTimer<T> {}

impl_list_arc_safe! {
    impl{T} ListArcSafe<0> for SockTimer<T> { untracked; }
}
impl_list_item! {
    impl{T} ListItem<0> for SockTimer<T> { using ListLinks { self.links }; }
}

impl<T: Send + Sync + 'static> SockTimer<T> {
    /// Allocates an idle timer for `sk`. Does not sleep.
    pub(crate) fn new(sk: &LockedSock, data: T) -> Result<ListArc<Self>> {
        // A reference that points to a socket is not null.
        let sk = NonNull::new(sk.as_ptr()).ok_or(EINVAL)?;
        let timer = ListArc::pin_init(
            try_pin_init!(Self {
                // SAFETY: `expired` needs a timer within `Self` that was started by `arm()`.
                timer <- unsafe { HrTimer::new(Self::expired) },
                links <- ListLinks::new(),
                rcu: Opaque::zeroed(),
                sk,
                data,
            }? Error),
            GFP_ATOMIC | __GFP_NOWARN,
        )?;
        Ok(timer)
    }

    /// What the owner knows of the timer.
    #[inline]
    pub(crate) fn data(&self) -> &T {
        &self.data
    }

    /// Returns whether the timer is queued. It may expire at any time.
    #[inline]
    pub(crate) fn is_armed(&self) -> bool {
        self.timer.is_queued()
    }

    /// Starts the timer, or moves it, to `expires` ns of `CLOCK_MONOTONIC`.
    ///
    /// `sk` is the timer's socket: its lock is what keeps two calls apart.
    pub(crate) fn arm(this: ArcBorrow<'_, Self>, sk: &LockedSock, expires: u64) {
        debug_assert_eq!(sk.as_ptr(), this.sk.as_ptr());
        // Not a move of the queued timer: between the question whether it is queued and the
        // start, it might expire, and its references with it.
        if this.timer.try_cancel() != Cancel::Cancelled {
            // SAFETY: The socket is locked, so somebody holds a reference on it.
            unsafe { bindings::sock_hold(sk.as_ptr()) };
            let _ = Arc::into_raw(Arc::from(this));
        }
        // INVARIANT: The references are those of the cancelled timer, or the two just taken.
        // SAFETY: The timer owns a reference on `self`, which does not move.
        unsafe { this.timer.start(expires) };
    }

    /// Cancels the timer unless its callback is running. Returns whether it was queued.
    ///
    /// The caller holds a reference on the socket.
    pub(crate) fn disarm(this: ArcBorrow<'_, Self>) -> bool {
        let cancelled = this.timer.try_cancel() == Cancel::Cancelled;
        if cancelled {
            // SAFETY: The timer was queued, and we have taken it from the queue.
            unsafe { Self::put(this) };
        }
        cancelled
    }

    /// Cancels the timer and waits for its callback. Returns whether it was queued.
    ///
    /// The caller holds a reference on the socket, and not its spin lock.
    pub(crate) fn disarm_sync(this: ArcBorrow<'_, Self>) -> bool {
        let cancelled = this.timer.cancel();
        if cancelled {
            // SAFETY: The timer was queued, and we have taken it from the queue.
            unsafe { Self::put(this) };
        }
        cancelled
    }

    /// Returns a reference on the socket, if it is not being freed.
    ///
    /// # Safety
    ///
    /// A socket must refer to `self` while this runs.
    pub(crate) unsafe fn sock(&self) -> Option<SockRef> {
        // SAFETY: By the type's invariant and the caller's promise.
        unsafe { SockRef::try_new(self.sk) }
    }

    /// Drops `this` when no RCU read-side critical section uses it any more.
    ///
    /// Whoever unloads the code of `T` waits for that with `rcu_barrier()`.
    pub(crate) fn drop_rcu(this: Arc<Self>) {
        let this = Arc::into_raw(this);
        // SAFETY: `this` points to a live object. Its `rcu` is used only here, and only once:
        // the socket's reference is one of a kind.
        unsafe { bindings::call_rcu((*this).rcu.get(), Some(Self::drop_now)) }
    }

    /// Drops what [`Self::drop_rcu`] was given.
    ///
    /// # Safety
    ///
    /// Called by RCU with what [`Self::drop_rcu`] passed to it.
    unsafe extern "C" fn drop_now(head: *mut bindings::callback_head) {
        let head: *mut Opaque<bindings::callback_head> = head.cast();
        // SAFETY: `head` is the `rcu` of a `Self` that came from `Arc::into_raw()`.
        drop(unsafe { Arc::<Self>::from_raw(kernel::container_of!(head, Self, rcu)) });
    }

    /// Drops the references of the queue.
    ///
    /// # Safety
    ///
    /// The caller has taken the timer from the queue, and now owns what the timer did.
    unsafe fn put(this: ArcBorrow<'_, Self>) {
        let again = Arc::into_raw(Arc::from(this));
        // SAFETY: By the caller's promise the references are ours; the second on `self` is that
        // of the line above.
        unsafe {
            bindings::sock_put(this.sk.as_ptr());
            drop(Arc::from_raw(again));
            drop(Arc::from_raw(again));
        }
    }

    /// The timer's callback.
    ///
    /// # Safety
    ///
    /// Called by the hrtimer core with a timer that [`Self::arm`] started.
    unsafe extern "C" fn expired(timer: *mut bindings::hrtimer) -> bindings::hrtimer_restart {
        let timer: *mut HrTimer = timer.cast();
        // SAFETY: `timer` is within a `Self`, and owned a reference on it that is ours now.
        let this = unsafe { Arc::<Self>::from_raw(kernel::container_of!(timer, Self, timer)) };
        // SAFETY: The timer owned a reference on the socket that is ours now.
        unsafe {
            bindings::tcp_run_write_timer(this.sk.as_ptr());
            bindings::sock_put(this.sk.as_ptr());
        }
        bindings::hrtimer_restart::HRTIMER_NORESTART
    }
}
