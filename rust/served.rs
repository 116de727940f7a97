// SPDX-License-Identifier: GPL-2.0

//! The sockets that a module serves, from the first timer of each until it is closed or the module
//! leaves.
//!
//! ```text
//!   attach()   allocates the timers, lists them, and gives them to the socket
//!   release()  takes them off their list, and from the socket: it is closed
//!   leave()    takes all off their lists, and from each socket, which it locks for that
//! ```
//!
//! The timers belong to the socket, and are freed a grace period after it has lost them. The list only
//! knows them: whoever finds them there, or in a socket that is not locked, is a reader of RCU.
//!
//! There is a list for each CPU, so that they do not fight for a lock: a socket stays in that of the
//! CPU where it was attached. [`Served::leave`] closes each list under its lock. So `attach()` either
//! lists a socket before that, and `leave()` finds it, or finds the list closed, and lets go.

use super::{
    percpu::{
        Filled,
        PerCpu, //
    },
    pernet::NetData,
    sock::{
        jiffies,
        LockedSock,
        LockedSockMut,
        TICK_NS, //
    },
    sock_timer::{
        Locked,
        SockTimer,
        Which, //
    },
    tcp_hires::Backend,
};
use core::{
    cell::UnsafeCell,
    marker::PhantomData,
    pin::Pin,
    ptr::{
        addr_of_mut,
        null_mut,
        NonNull, //
    },
};
use kernel::{
    bindings,
    new_spinlock_irq,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            AtomicFlag,
            Relaxed,
            Release, //
        },
        rcu,
        Arc,
        ArcBorrow,
        SpinLockIrq, //
    },
    types::Opaque, //
};

/// The sockets of one CPU, in cache lines of their own. Nothing is locked, freed or called under the
/// lock.
#[pin_data]
#[repr(align(64))]
pub(super) struct Shard<B: Backend> {
    #[pin]
    list: SpinLockIrq<List<B>>,
    /// Nothing is added to the list any more. Written under its lock.
    is_closed: AtomicFlag,
    /// Until this tick nobody asks for memory again, for there was none.
    asks_from: Atomic<usize>,
}

/// For how long, then, in ticks: a tenth of a second.
const ASKS_AFTER: usize = (100_000_000 / TICK_NS) as usize;

impl<B: Backend> Shard<B> {
    fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            list <- new_spinlock_irq!(List::new()),
            is_closed: AtomicFlag::new(false),
            asks_from: Atomic::new(jiffies() as usize),
        })
    }

    fn may_ask(&self) -> bool {
        let left = self
            .asks_from
            .load(Relaxed)
            .wrapping_sub(jiffies() as usize);
        // Whatever else is in the past.
        !(1..=ASKS_AFTER).contains(&left)
    }

    fn has_failed(&self) {
        let now = jiffies() as usize;
        self.asks_from.store(now.wrapping_add(ASKS_AFTER), Relaxed);
    }
}

/// The timers of the sockets that are served.
///
/// # Invariants
///
/// From `head` on, as in any `hlist`, there are timers that [`SockTimer::release`] has not seen. The lock
/// is held while there is a reference.
struct List<B: Backend> {
    head: UnsafeCell<bindings::hlist_head>,
    _timers: PhantomData<*const SockTimer<B>>,
}

// SAFETY: The timers may be used anywhere.
unsafe impl<B: Backend> Send for List<B> {}

impl<B: Backend> List<B> {
    const fn new() -> Self {
        // INVARIANT: It is empty.
        Self {
            head: UnsafeCell::new(bindings::hlist_head { first: null_mut() }),
            _timers: PhantomData,
        }
    }

    /// Adds timers at the beginning.
    ///
    /// # Safety
    ///
    /// They must be in no list, and in this one no longer when they are released. The list must not move.
    unsafe fn add(&self, timer: NonNull<SockTimer<B>>) {
        // SAFETY: By the caller's promise and the type's invariant. As `hlist_add_head()`.
        // INVARIANT: By the caller's promise.
        unsafe {
            let links = timer.as_ref().links.get();
            let first = addr_of_mut!((*self.head.get()).first);
            (*links).next = *first;
            (*links).pprev = first;
            if !(*first).is_null() {
                (**first).pprev = addr_of_mut!((*links).next);
            }
            *first = links;
        }
    }

    /// Removes timers, unless that has happened.
    ///
    /// # Safety
    ///
    /// They must be in no other list.
    unsafe fn remove(&self, timer: &SockTimer<B>) {
        // SAFETY: By the caller's promise and the type's invariant. As `hlist_del_init()`.
        unsafe {
            let links = timer.links.get();
            let (next, pprev) = ((*links).next, (*links).pprev);
            if pprev.is_null() {
                return;
            }
            *pprev = next;
            if !next.is_null() {
                (*next).pprev = pprev;
            }
            (*links).pprev = null_mut();
        }
    }

    /// Takes the first.
    fn pop<'a>(&self, _rcu: &'a rcu::Guard) -> Option<&'a SockTimer<B>> {
        // SAFETY: By the type's invariant. They are freed a grace period after they have left the list at
        // the earliest.
        unsafe {
            let links: *mut Opaque<bindings::hlist_node> = (*self.head.get()).first.cast();
            if links.is_null() {
                return None;
            }
            let timer = &*kernel::container_of!(links, SockTimer<B>, links);
            self.remove(timer);
            Some(timer)
        }
    }
}

/// What a socket's timers know besides the socket: its namespace, and where they are listed.
///
/// # Invariants
///
/// `net` is there for as long as the socket is served: by the socket, which keeps its namespace, or by a
/// reference that this owns. The latter is told by the lowest bit of `shard`, which else is the address of
/// what is there as long, too.
pub(super) struct Home<B: Backend> {
    net: NonNull<B::Net>,
    shard: *const Shard<B>,
}

impl<B: Backend> Home<B> {
    /// Makes that of a socket.
    ///
    /// # Safety
    ///
    /// It must not be used, but to drop it, when the socket is not served any more.
    unsafe fn new(sk: LockedSock<'_>, net: ArcBorrow<'_, B::Net>, shard: &Shard<B>) -> Self {
        let shard = core::ptr::from_ref(shard);
        // INVARIANT: By the caller's promise; a reference that is not the socket's is ours.
        match sk.holds_net() {
            // No reference is counted, for that would be a write to what all CPUs share.
            true => Self {
                net: NonNull::from(&*net),
                shard,
            },
            false => Self {
                // SAFETY: An `Arc` is not null.
                net: unsafe { NonNull::new_unchecked(Arc::into_raw(net.into()).cast_mut()) },
                shard: shard.map_addr(|address| address | 1),
            },
        }
    }

    /// Returns what the socket's namespace has.
    #[inline]
    pub(super) fn net(&self) -> &B::Net {
        // SAFETY: By the type's invariant.
        unsafe { self.net.as_ref() }
    }

    fn shard(&self) -> *const Shard<B> {
        self.shard.map_addr(|address| address & !1)
    }
}

impl<B: Backend> Drop for Home<B> {
    fn drop(&mut self) {
        if self.shard.addr() & 1 != 0 {
            // SAFETY: By the type's invariant.
            drop(unsafe { Arc::from_raw(self.net.as_ptr()) });
        }
    }
}

// SAFETY: What is in the namespace, and in the list, may be used anywhere.
unsafe impl<B: Backend> Send for Home<B> {}
// SAFETY: As above.
unsafe impl<B: Backend> Sync for Home<B> {}

/// All sockets that `B` serves. There is one such static for each [`Backend`].
pub(crate) struct Sockets<B: Backend>(PerCpu<Shard<B>>);

impl<B: Backend> Sockets<B> {
    /// Makes one that serves none.
    pub(crate) const fn new() -> Self {
        Self(PerCpu::new())
    }

    /// Makes the lists. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY` if they are there.
    pub(super) fn open(&'static self) -> Result<Served<B>> {
        Ok(Served(self.0.fill(Shard::new)?))
    }

    /// Gives timers to a socket, if [`Backend::new`] wants that. Returns whether it has any now. Does not
    /// sleep.
    ///
    /// # Safety
    ///
    /// The socket must have none. It must go to [`release`] before it is freed.
    pub(super) unsafe fn attach(&self, sk: LockedSockMut<'_>) -> bool {
        let rcu = rcu::read_lock();
        let Some(shard) = self.0.get(&rcu) else {
            return false;
        };
        if shard.is_closed.load(Relaxed) || !shard.may_ask() {
            return false;
        }
        let Some(net) = B::Net::pernet().get(sk.net(), &rcu) else {
            return false;
        };
        let Some(data) = B::new(*sk) else {
            return false;
        };
        // SAFETY: It is kept in timers, which are used as long as the socket is served: then the list is there.
        let home = unsafe { Home::new(*sk, net, shard) };
        // SAFETY: By the caller's promise, or they are dropped below.
        let Ok(timer) = (unsafe { SockTimer::new(*sk, home, data) }) else {
            shard.has_failed();
            B::refused(&net);
            return false;
        };
        let list = shard.list.lock();
        if shard.is_closed.load(Relaxed) {
            drop(list);
            return false;
        }
        // SAFETY: They stay where they are.
        let timer = NonNull::from(KBox::leak(unsafe { Pin::into_inner_unchecked(timer) }));
        // SAFETY: They are new; `release()` and `leave()` take them off the list first.
        unsafe { list.add(timer) };
        drop(list);
        // SAFETY: It is a TCP socket. The field is written under its lock only.
        let slot = unsafe { Atomic::from_ptr(slot(sk.as_ptr())) };
        // For those without the lock, who find the timers by this address: `unlocked()`.
        slot.store(timer.as_ptr().cast(), Release);
        // SAFETY: The socket is served now.
        B::attached(sk, unsafe { locked::<B>(sk.as_ptr()) });
        true
    }
}

/// Takes the timers from a socket that is closed.
///
/// # Safety
///
/// The socket must be locked, and served by `B`. Who has its timers by way of [`locked`] must not use them
/// after that.
pub(super) unsafe fn release<B: Backend>(sk: LockedSockMut<'_>) {
    // SAFETY: By the caller's promise. As long as a socket is served the lists are there: `leave()` comes
    // first. The timers have never been in another one.
    unsafe {
        let timer = locked::<B>(sk.as_ptr());
        (*timer.home.shard()).list.lock().remove(&timer);
    }
    // SAFETY: By the caller's promise.
    unsafe { detach::<B>(sk) };
}

/// Proof that sockets may be served.
#[must_use]
pub(super) struct Served<B: Backend>(Filled<Shard<B>>);

impl<B: Backend> Served<B> {
    /// Gives all sockets back to the timer wheel. No socket gets timers any more. Sleeps.
    pub(super) fn leave(&self) {
        for shard in self.0.iter() {
            let _list = shard.list.lock();
            shard.is_closed.store(true, Relaxed);
        }
        for shard in self.0.iter() {
            loop {
                let rcu = rcu::read_lock();
                let timer = shard.list.lock().pop(&rcu);
                let Some(timer) = timer else {
                    break;
                };
                let sk = timer.sock();
                drop(rcu);
                if let Some(sk) = sk {
                    sk.with_lock(|sk| {
                        // SAFETY: It is locked.
                        unsafe { give_back::<B>(sk) }
                    });
                }
            }
        }
    }
}

/// Gives a socket back to the timer wheel, unless it has been released meanwhile.
///
/// # Safety
///
/// If it is served, it must be by `B`, and its timers be in no list.
unsafe fn give_back<B: Backend>(sk: LockedSockMut<'_>) {
    // SAFETY: It is a TCP socket that is locked.
    if unsafe { slot(sk.as_ptr()).read() }.is_null() {
        return;
    }
    // SAFETY: So it is served.
    let timer = unsafe { locked::<B>(sk.as_ptr()) };
    // A callback that runs will find nothing, and is waited for when the timers are dropped.
    timer.disarm(Which::Xmit);
    timer.disarm(Which::DelAck);
    B::leave(sk, timer);
    // SAFETY: By the caller's promise.
    unsafe { detach::<B>(sk) };
}

/// Takes the timers from a socket.
///
/// # Safety
///
/// It must be served by `B`, and its timers be in no list. Who has them by way of [`locked`] must not use
/// them after that.
unsafe fn detach<B: Backend>(sk: LockedSockMut<'_>) {
    sk.set_queue_bytes(None);
    // SAFETY: By the caller's promise. Who has found the timers without the lock has them for a grace period.
    unsafe {
        let slot = slot(sk.as_ptr());
        let timer: NonNull<SockTimer<B>> = NonNull::new_unchecked(slot.read().cast());
        slot.write_volatile(null_mut());
        SockTimer::release(timer);
    }
}

/// Where the socket keeps its timers.
///
/// # Safety
///
/// `sk` must point to a full TCP socket.
unsafe fn slot(sk: *mut bindings::sock) -> *mut *mut c_void {
    // SAFETY: By the caller's promise. CAST: See `LockedSock::tcp()`.
    unsafe { addr_of_mut!((*sk.cast::<bindings::tcp_sock>()).hires) }
}

/// Returns the timers of a socket that may not be locked, if it is served.
///
/// # Safety
///
/// `sk` must point to a full TCP socket, and `'a` lie within an RCU read-side critical section.
pub(super) unsafe fn unlocked<'a, B: Backend>(sk: *mut bindings::sock) -> Option<&'a SockTimer<B>> {
    // SAFETY: By the caller's promise. The pointer is null or comes from `attach()`, whose release pairs
    // with this, as `rcu_dereference()`; what `detach()` takes away is dropped after a grace period.
    unsafe {
        let timer: *const SockTimer<B> = slot(sk).read_volatile().cast_const().cast();
        timer.as_ref()
    }
}

/// Returns the timers of a socket that is locked.
///
/// # Safety
///
/// `sk` must point to a full TCP socket that is served by `B`, and that the current context has locked
/// during `'a`.
#[inline]
pub(super) unsafe fn locked<'a, B: Backend>(sk: *mut bindings::sock) -> Locked<'a, B> {
    // SAFETY: By the caller's promise. The pointer comes from `attach()`, and `detach()` takes it away
    // under the socket's lock.
    unsafe { Locked::new(&*slot(sk).read().cast_const().cast()) }
}
