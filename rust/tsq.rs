// SPDX-License-Identifier: GPL-2.0

//! TCP Small Queues: sockets that have too much in qdisc and device, and wait until it is gone.
//!
//! ```text
//!   tcp_small_queue_check()  THROTTLED: the socket waits
//!   Freed::throttled()       THROTTLED -> QUEUED: who frees a packet takes the socket along
//!   Throttled::resume()      QUEUED -> none: it sends, or its owner will (tcp_release_cb())
//! ```
//!
//! Of these flags of the socket, each step is taken by one only. Who waits is woken: the check looks
//! at the queue again after it has set the first flag, and `resume()` clears the second before it
//! sends, which may set the first again.
//!
//! C header: [`include/net/tcp.h`](srctree/include/net/tcp.h)

use super::{
    pernet::Net,
    sock::{
        LockedSock,
        LockedSockMut, //
    },
};
use core::{
    mem::ManuallyDrop,
    num::NonZero,
    ptr::{
        addr_of,
        addr_of_mut,
        null_mut,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    prelude::*,
    sync::atomic::{
        ordering::{
            Acquire,
            Full,
            Relaxed, //
        },
        Atomic, //
    },
};

/// The socket of a packet that has been freed.
///
/// # Invariants
///
/// Owns one byte of the TCP socket's `sk_wmem_alloc`, which keeps the socket's memory.
pub(crate) struct Freed(NonNull<bindings::sock>);

// SAFETY: The byte may be given back anywhere.
unsafe impl Send for Freed {}

impl Freed {
    /// Takes the place of a packet: all of its bytes but one are given back.
    ///
    /// # Safety
    ///
    /// `skb` must be a packet that is charged to a full TCP socket, and about to be freed.
    #[inline]
    pub(super) unsafe fn from_skb(skb: *mut bindings::sk_buff) -> Self {
        // SAFETY: By the caller's promise.
        let (sk, bytes) = unsafe { ((*skb).sk, (*skb).truesize) };
        // SAFETY: As above. One byte stays.
        let none_left = unsafe {
            let wmem = addr_of_mut!((*sk).sk_wmem_alloc);
            bindings::refcount_sub_and_test(bytes.wrapping_sub(1) as c_int, wmem)
        };
        kernel::warn_on!(none_left);
        // SAFETY: A charged packet has a socket.
        // INVARIANT: This is the byte that stays.
        Self(unsafe { NonNull::new_unchecked(sk) })
    }

    /// Returns the flags of the socket: `TSQF_*`, `TCPF_*_DEFERRED`.
    #[inline]
    fn flags(&self) -> &Atomic<usize> {
        // SAFETY: By the type's invariant. The kernel, too, only uses atomic accesses.
        unsafe { Atomic::from_ptr(addr_of_mut!((*self.0.as_ptr()).sk_tsq_flags).cast()) }
    }

    /// Returns the bytes (truesize) that the socket has in qdisc and device, and a few.
    #[inline]
    pub(crate) fn bytes(&self) -> u32 {
        // SAFETY: By the type's invariant. As `refcount_read()`.
        unsafe { addr_of!((*self.0.as_ptr()).sk_wmem_alloc.refs.counter).read_volatile() as u32 }
    }

    /// Returns whether the socket should wait until more of it is gone, because softirqs are behind:
    /// one ACK or one tasklet sends more then.
    #[inline]
    pub(crate) fn should_drain(&self) -> bool {
        // SAFETY: By the type's invariant.
        unsafe { bindings::tcp_tsq_is_behind(self.0.as_ptr()) }
    }

    /// Returns the socket as one that is to be resumed, if it waits and nobody else is to do that.
    #[inline]
    pub(crate) fn throttled(self) -> Option<Throttled> {
        const THROTTLED: usize = bindings::tsq_flags_TSQF_THROTTLED as usize;
        const QUEUED: usize = bindings::tsq_flags_TSQF_QUEUED as usize;
        let mut flags = self.flags().load(Acquire);
        loop {
            if flags & (THROTTLED | QUEUED) != THROTTLED {
                return None;
            }
            match self
                .flags()
                .cmpxchg(flags, flags & !THROTTLED | QUEUED, Full)
            {
                // INVARIANT: We have set the flag.
                Ok(_) => return Some(Throttled(self)),
                Err(now) => flags = now,
            }
        }
    }
}

impl Drop for Freed {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type's invariant.
        unsafe { bindings::sk_free(self.0.as_ptr()) }
    }
}

/// A socket that is to be resumed: nobody else does that.
///
/// # Invariants
///
/// `TSQF_QUEUED` is set, and this is the only one for the socket: its `tsq_node` is ours.
#[must_use = "the socket waits until another packet is freed"]
pub(crate) struct Throttled(Freed);

/// What became of a socket that was resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resumed {
    /// It has sent what it may.
    Sent,
    /// A user owns it, and will when he lets go of it.
    Deferred,
}

impl Throttled {
    /// Returns the bytes (truesize) that the socket still has in qdisc and device.
    #[inline]
    pub(crate) fn bytes(&self) -> u32 {
        self.0.bytes()
    }

    /// Lets the socket send. Tells `f` what became of it, and its namespace, unless it is one of the
    /// kernel's, which may outlive that.
    ///
    /// Context: softirq.
    pub(crate) fn resume(self, f: impl FnOnce(&Net, Resumed)) {
        let this = ManuallyDrop::new(self);
        this.unqueue(0);
        // SAFETY: `this` is not used after that, nor dropped.
        let freed = unsafe { core::ptr::read(&this.0) };
        // SAFETY: By the invariant of `Freed` the socket is there.
        let resumed = match unsafe { bindings::tcp_tsq_handler(freed.0.as_ptr()) } {
            true => Resumed::Sent,
            false => Resumed::Deferred,
        };
        // SAFETY: As above. A user's socket holds its namespace as long as it is there.
        unsafe {
            let sk = freed.0.as_ptr();
            if (*sk).__sk_common.skc_net_refcnt() != 0 {
                f(Net::of_sock(sk), resumed);
            }
        }
    }

    /// Clears `TSQF_QUEUED`, and sets the flags `set` with that.
    fn unqueue(&self, set: usize) {
        const QUEUED: usize = bindings::tsq_flags_TSQF_QUEUED as usize;
        let mut flags = self.0.flags().load(Relaxed);
        while let Err(now) = self.0.flags().cmpxchg(flags, flags & !QUEUED | set, Full) {
            flags = now;
        }
    }
}

impl Drop for Throttled {
    /// Should not happen: whoever has it resumes it. The next packet that is freed does.
    fn drop(&mut self) {
        kernel::warn_on!(true);
        self.unqueue(bindings::tsq_flags_TSQF_THROTTLED as usize);
    }
}

/// Sockets that are to be resumed, first in, first out.
///
/// # Invariants
///
/// From `first` to `last`, each `tsq_node.next` leads to the next one's: sockets whose [`Throttled`]
/// is in here. Both are null, or none.
pub(crate) struct Queue {
    first: *mut bindings::tcp_sock,
    last: *mut bindings::tcp_sock,
}

// SAFETY: As `Throttled`, which this owns.
unsafe impl Send for Queue {}

impl Queue {
    /// Makes an empty one.
    pub(crate) const fn new() -> Self {
        Self {
            first: null_mut(),
            last: null_mut(),
        }
    }

    /// Returns whether there is none.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_null()
    }

    /// Appends a socket.
    #[inline]
    pub(crate) fn push(&mut self, sk: Throttled) {
        // CAST: `struct tcp_sock` begins with `struct sock`.
        let sk: *mut bindings::tcp_sock = ManuallyDrop::new(sk).0 .0.as_ptr().cast();
        // SAFETY: By the invariants of `Throttled` and `Self`.
        // INVARIANT: It is the last now.
        unsafe {
            (*sk).tsq_node.next = null_mut();
            match NonNull::new(self.last) {
                Some(last) => (*last.as_ptr()).tsq_node.next = addr_of_mut!((*sk).tsq_node),
                None => self.first = sk,
            }
        }
        self.last = sk;
    }

    /// Takes the first socket.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Throttled> {
        let sk = NonNull::new(self.first)?;
        // SAFETY: By the type's invariant.
        let next = unsafe { (*sk.as_ptr()).tsq_node.next };
        if next.is_null() {
            self.first = null_mut();
            self.last = null_mut();
        } else {
            // SAFETY: By the type's invariant.
            self.first = unsafe { kernel::container_of!(next, bindings::tcp_sock, tsq_node) };
        }
        // INVARIANT: It was in the queue, and is no more.
        Some(Throttled(Freed(sk.cast())))
    }

    /// Takes all.
    #[inline]
    pub(crate) fn take(&mut self) -> Self {
        core::mem::replace(self, Self::new())
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        kernel::warn_on!(!self.is_empty());
    }
}

impl LockedSock<'_> {
    /// Returns at what rate packets have been delivered: so many bytes in so many us, both 0 before
    /// the first sample.
    #[inline]
    pub(crate) fn delivered(self) -> (u64, u32) {
        // SAFETY: By the type's invariant.
        unsafe {
            let tp = self.as_ptr().cast::<bindings::tcp_sock>();
            let bytes = u64::from((*tp).rate_delivered) * u64::from((*tp).mss_cache);
            (bytes, (*tp).rate_interval_us)
        }
    }

    /// Returns whether the device has asked for more packets than TCP gives by default, to aggregate
    /// them (`sk_pacing_shift_update()`).
    #[inline]
    pub(crate) fn has_deep_queue(self) -> bool {
        // SAFETY: By the type's invariant. Who sends may write it without the lock.
        unsafe { addr_of!((*self.as_ptr()).sk_pacing_shift).read_volatile() < 10 }
    }
}

impl LockedSockMut<'_> {
    /// Sets how many bytes (truesize) the socket may have in qdisc and device; none: as the kernel has
    /// it.
    #[inline]
    pub(crate) fn set_queue_bytes(self, bytes: Option<NonZero<u32>>) {
        // SAFETY: By the type's invariant.
        unsafe {
            (*self.as_ptr().cast::<bindings::tcp_sock>()).queue_bytes =
                bytes.map_or(0, NonZero::get)
        }
    }
}

// Named function__case.
#[expect(non_snake_case)]
#[kernel::macros::kunit_tests(finetcp_tsq)]
mod tests {
    use super::*;

    /// Calls `f` with a socket of the kernel's.
    fn with_sock(f: impl FnOnce(LockedSockMut<'_>)) -> Result {
        let mut sock = null_mut();
        // SAFETY: Process context. The first namespace is always there.
        kernel::error::to_result(unsafe {
            bindings::sock_create_kern(
                addr_of_mut!(bindings::init_net),
                bindings::AF_INET as c_int,
                bindings::sock_type_SOCK_STREAM as c_int,
                bindings::IPPROTO_TCP as c_int,
                &mut sock,
            )
        })?;
        // SAFETY: It is a TCP socket of ours, which is locked while it is borrowed.
        unsafe {
            let sk = (*sock).sk;
            bindings::lock_sock_nested(sk, 0);
            f(LockedSockMut::from_raw(sk));
            bindings::release_sock(sk);
            bindings::sock_release(sock);
        }
        Ok(())
    }

    #[test]
    fn has_deep_queue__as_wifi_asks_for() -> Result {
        with_sock(|sk| {
            assert!(!sk.has_deep_queue());
            // As `sk_pacing_shift_update(sk, 8)`, which is inline.
            // SAFETY: By the type's invariant.
            unsafe { addr_of_mut!((*sk.as_ptr()).sk_pacing_shift).write_volatile(8) };
            assert!(sk.has_deep_queue());
        })
    }

    #[test]
    fn delivered__nothing_yet() -> Result {
        with_sock(|sk| assert_eq!(sk.delivered().1, 0))
    }
}
