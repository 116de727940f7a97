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
    hrtimer::{
        At,
        Cpu,
        Expired,
        HrTimer,
        HrTimerCallback,
        HrTimerContext,
        OneShot,
        Timed, //
    },
    served::Home,
    sock::{
        LockedSock,
        SockRef, //
    },
    tcp_hires::Backend, //
};
use core::{
    ops::Deref,
    ptr::{
        null_mut,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        rcu, //
    },
    types::{
        NotThreadSafe,
        Opaque, //
    },
};

/// One of the timers of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// Retransmission, loss probe, reordering, zero-window probe. Ends in `tcp_run_write_timer()`.
    Xmit,
    /// The delayed ACK. Ends in `tcp_run_delack_timer()`.
    DelAck,
}

/// Clock and context of the timers: `CLOCK_MONOTONIC`, softirq.
type Mode = OneShot;

/// The socket that timers are for, all that their expiry needs.
///
/// # Invariants
///
/// It is null, or points to a TCP socket that has not been freed. It is cleared under the lock of
/// the socket, and before the socket can be freed.
struct Owner(Atomic<*mut bindings::sock>);

// SAFETY: What is done with the socket may be done anywhere; see `Self::sock()`.
unsafe impl Send for Owner {}
// SAFETY: As above.
unsafe impl Sync for Owner {}

impl Owner {
    /// Returns a reference on the socket, unless it is gone.
    fn sock(&self) -> Option<SockRef> {
        let _rcu = rcu::read_lock();
        let sk = NonNull::new(self.0.load(Relaxed))?;
        // SAFETY: By the type's invariant the socket was there within this critical section, so
        // this is the memory of a TCP socket until its end.
        let sk = unsafe { SockRef::try_new(sk) }?;
        // Is it ours, or did another take its place before we had the reference? In that case
        // this finds the pointer cleared: `try_new()` acquires what came before the other's
        // first reference.
        (!self.0.load(Relaxed).is_null()).then_some(sk)
    }

    fn xmit_expired(&self, _: HrTimerContext<'_, Mode>) {
        if let Some(sk) = self.sock() {
            sk.run_write_timer();
        }
    }

    fn delack_expired(&self, _: HrTimerContext<'_, Mode>) {
        if let Some(sk) = self.sock() {
            sk.run_delack_timer();
        }
    }
}

impl HrTimerCallback<2> for Owner {
    type Mode = Mode;
    // In the order that `SockTimer::timer()` knows.
    const EXPIRED: [Expired<Self, Mode>; 2] = [Self::xmit_expired, Self::delack_expired];
}

/// The timers of one socket, and what their [`Backend`] knows of them: see [`Locked`].
///
/// What a segment needs comes first, in one cache line.
#[pin_data]
#[repr(C)]
pub(crate) struct SockTimer<B: Backend> {
    /// The socket's namespace, and the list that the timers are in.
    pub(super) home: Home<B>,
    data: B::Data,
    deadlines: [Opaque<u64>; 2],
    #[pin]
    timers: Timed<Owner, 2>,
    /// For the list.
    pub(super) links: Opaque<bindings::hlist_node>,
    rcu: Opaque<bindings::callback_head>,
}

// SAFETY: Nothing but `links` and `rcu` is in the way of that, which may be used anywhere, and what is a
// `u64`.
unsafe impl<B: Backend> Send for SockTimer<B> {}
// SAFETY: As above; `links` is guarded by the lock of the list, `rcu` is used once, by `release()`, `data`
// only by who has the socket locked, and `deadlines` with volatile accesses. Those race only with who looks
// without the lock to tell a user what is left; on 32 bits that may be half of a change.
unsafe impl<B: Backend> Sync for SockTimer<B> {}

impl<B: Backend> SockTimer<B> {
    /// Allocates idle timers for `sk`. Does not sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    ///
    /// # Safety
    ///
    /// They must go to [`Self::release`] before `sk` is freed, or be dropped before `sk` is unlocked.
    pub(super) unsafe fn new(
        sk: LockedSock<'_>,
        home: Home<B>,
        data: B::Data,
    ) -> Result<Pin<KBox<Self>>> {
        KBox::pin_init(
            try_pin_init!(Self {
                // INVARIANT: By the caller's promise.
                timers <- Timed::new(Owner(Atomic::new(sk.as_ptr()))),
                links: Opaque::zeroed(),
                rcu: Opaque::zeroed(),
                deadlines: [Opaque::new(0), Opaque::new(0)],
                home,
                data,
            }? Error),
            // The reserves are for those who cannot do without.
            GFP_NOWAIT | __GFP_NOWARN,
        )
    }

    #[inline]
    fn timer(&self, which: Which) -> &HrTimer<Mode> {
        match which {
            Which::Xmit => self.timers.timer::<0>(),
            Which::DelAck => self.timers.timer::<1>(),
        }
    }

    /// Returns when the event that the timer is for is due, in ns of `CLOCK_MONOTONIC`; 0 if it has
    /// none. Another CPU may change that, unless the socket is locked.
    #[inline]
    pub(crate) fn deadline(&self, which: Which) -> u64 {
        // SAFETY: The field is there as long as `self`. As `READ_ONCE()`: an atomic would call into C.
        unsafe { self.deadlines[which as usize].get().read_volatile() }
    }

    /// Sets what [`Self::deadline`] returns. The timer stays as it is.
    #[inline]
    pub(crate) fn set_deadline(&self, which: Which, at: u64) {
        // SAFETY: As above. As `WRITE_ONCE()`.
        unsafe { self.deadlines[which as usize].get().write_volatile(at) }
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
        self.timer(which).start(At(expires), Cpu::This);
    }

    /// Cancels the timer unless its callback is running. Returns whether it has cancelled it.
    #[inline]
    pub(crate) fn disarm(&self, which: Which) -> bool {
        self.timer(which).try_cancel() == Ok(true)
    }

    /// Cancels the timer and waits for its callback. Returns whether it was queued.
    ///
    /// The caller must not hold the socket's spin lock.
    pub(super) fn disarm_sync(&self, which: Which) -> bool {
        self.timer(which).cancel()
    }

    /// Returns a reference on the socket, unless it is gone.
    pub(super) fn sock(&self) -> Option<SockRef> {
        self.timers.sock()
    }

    /// Ends the timers: nothing of them will run after the next grace period, and then their memory goes.
    /// Whoever unloads the code of `B` waits for that with `rcu_barrier()`.
    ///
    /// # Safety
    ///
    /// `this` must come from [`Self::new`], its socket be locked, and this be its only release. Nobody but
    /// RCU readers and its callbacks may use it after that.
    pub(super) unsafe fn release(this: NonNull<Self>) {
        // SAFETY: By the caller's promise. Nobody else uses `rcu`.
        unsafe {
            let this = this.as_ref();
            this.timers.0.store(null_mut(), Relaxed);
            bindings::call_rcu(this.rcu.get(), Some(Self::drop_now))
        }
    }

    /// Drops what [`Self::release`] was given, which cancels the timers.
    ///
    /// # Safety
    ///
    /// Called by RCU with what [`Self::release`] passed to it.
    unsafe extern "C" fn drop_now(head: *mut bindings::callback_head) {
        let head: *mut Opaque<bindings::callback_head> = head.cast();
        // SAFETY: `head` is the `rcu` of a `Self` that `new()` has allocated, pinned.
        drop(unsafe { Pin::new_unchecked(KBox::from_raw(kernel::container_of!(head, Self, rcu))) });
    }
}

/// The timers of a socket that is locked. That lock guards what their backend knows of them.
///
/// # Invariants
///
/// The current context has the timers' socket locked during `'a`.
pub(crate) struct Locked<'a, B: Backend>(&'a SockTimer<B>, NotThreadSafe);

impl<B: Backend> Clone for Locked<'_, B> {
    #[inline]
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Locked<'_, B> {}

impl<'a, B: Backend> Locked<'a, B> {
    /// # Safety
    ///
    /// The current context must have the socket of `timer` locked during `'a`.
    #[inline]
    pub(super) unsafe fn new(timer: &'a SockTimer<B>) -> Self {
        // INVARIANT: By the caller's promise.
        Self(timer, NotThreadSafe)
    }

    /// What the backend knows of the timers.
    #[inline]
    pub(crate) fn data(self) -> &'a B::Data {
        &self.0.data
    }

    /// What the socket's namespace has of the backend.
    #[inline]
    pub(crate) fn net(self) -> &'a B::Net {
        self.0.home.net()
    }
}

impl<B: Backend> Deref for Locked<'_, B> {
    type Target = SockTimer<B>;

    #[inline]
    fn deref(&self) -> &SockTimer<B> {
        self.0
    }
}
