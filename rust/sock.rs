// SPDX-License-Identifier: GPL-2.0

//! TCP sockets.
//!
//! C headers: [`include/net/sock.h`](srctree/include/net/sock.h),
//! [`include/linux/tcp.h`](srctree/include/linux/tcp.h)

use super::{
    pernet::Net,
    sock_timer::Which, //
};
use core::{
    marker::PhantomData,
    ops::Deref,
    ptr::{
        addr_of,
        addr_of_mut,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    prelude::*,
    types::NotThreadSafe, //
};

// Rust must see the fields where C has them.
const _: () = assert!(size_of::<bindings::sock>() == bindings::SOCK_SIZE);
const _: () = assert!(size_of::<bindings::tcp_sock>() == bindings::TCP_SOCK_SIZE);
const _: () = assert!(size_of::<bindings::sk_buff>() == bindings::SK_BUFF_SIZE);

/// What a retransmit timer runs for besides a first timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Nothing.
    None,
    /// The kernel has its reasons for that time.
    Fixed,
    /// The kernel's own timeout, which is over then, by the low bits of the clock in us.
    Until(u32),
}

/// A TCP socket that the current context has locked, to look at.
///
/// Passed by value: what safe code may exchange are the pointers to two sockets, both of which stay
/// locked for as long as `'a`.
///
/// # Invariants
///
/// It points to a full TCP socket (`struct tcp_sock`) that the current context owns during `'a`: by
/// `lock_sock()`, or by `bh_lock_sock()` while no user owns it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct LockedSock<'a>(NonNull<bindings::sock>, PhantomData<&'a ()>, NotThreadSafe);

/// A TCP socket that the current context has locked, to change it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct LockedSockMut<'a>(LockedSock<'a>);

impl<'a> Deref for LockedSockMut<'a> {
    type Target = LockedSock<'a>;

    #[inline]
    fn deref(&self) -> &LockedSock<'a> {
        &self.0
    }
}

impl<'a> LockedSockMut<'a> {
    /// Takes a pointer that C passes.
    ///
    /// # Safety
    ///
    /// See [`LockedSock::from_raw`].
    #[inline]
    pub(super) unsafe fn from_raw(sk: *mut bindings::sock) -> Self {
        // SAFETY: By the caller's promise.
        Self(unsafe { LockedSock::from_raw(sk) })
    }

    /// Notes that an ACK waits for its timer. Once the module has left, the wheel's looks for that
    /// without the lock (`tcp_delack_timer()`).
    #[inline]
    pub(crate) fn set_ack_delayed(self) {
        let flags = bindings::inet_csk_ack_state_t_ICSK_ACK_SCHED
            | bindings::inet_csk_ack_state_t_ICSK_ACK_TIMER;
        // SAFETY: By the type's invariant.
        unsafe {
            let pending = addr_of_mut!((*self.icsk()).icsk_ack.pending);
            pending.write_volatile(pending.read() | flags as u8);
        }
    }

    /// Sets what [`Self::early_timeouts`] returns.
    pub(crate) fn set_early_timeouts(self, timeouts: u8) {
        // SAFETY: By the type's invariant.
        unsafe { (*self.tcp()).early_timeouts = timeouts }
    }

    /// Sets what [`Self::early_wait`] returns.
    #[inline]
    pub(crate) fn set_early_wait(self, wait: Wait) {
        let until = match wait {
            Wait::None => 0,
            Wait::Fixed => 1,
            // A microsecond or two do not matter.
            Wait::Until(at) => at.max(2),
        };
        // SAFETY: By the type's invariant.
        unsafe { (*self.tcp()).early_until = until }
    }

    /// Starts the socket's timer on the wheel, or moves it, to expire after so many ticks.
    #[inline]
    pub(crate) fn start_wheel(self, which: Which, ticks: u64) {
        // SAFETY: By the type's invariant.
        unsafe {
            let expires = jiffies().wrapping_add(ticks as c_ulong);
            bindings::sk_reset_timer(self.as_ptr(), self.wheel(which), expires);
        }
    }
}

impl<'a> LockedSock<'a> {
    /// Takes a pointer that C passes.
    ///
    /// # Safety
    ///
    /// `sk` must point to a full TCP socket which the current context owns during `'a`.
    #[inline]
    pub(super) unsafe fn from_raw(sk: *mut bindings::sock) -> Self {
        // SAFETY: What it points to is there, so it is not null.
        let sk = unsafe { NonNull::new_unchecked(sk) };
        // INVARIANT: By the caller's promise.
        Self(sk, PhantomData, NotThreadSafe)
    }

    /// Returns the C socket.
    #[inline]
    pub(super) fn as_ptr(self) -> *mut bindings::sock {
        self.0.as_ptr()
    }

    /// Returns the C socket with the fields that only TCP has.
    #[inline]
    fn tcp(self) -> *mut bindings::tcp_sock {
        // CAST: `struct tcp_sock` begins with `struct sock` (by way of `inet_connection_sock`).
        self.as_ptr().cast()
    }

    /// Returns the C socket with the fields that connections have.
    #[inline]
    pub(super) fn icsk(self) -> *mut bindings::inet_connection_sock {
        self.as_ptr().cast()
    }

    /// Returns the network namespace of the socket.
    #[inline]
    pub(crate) fn net(self) -> &'a Net {
        // SAFETY: By the type's invariant.
        unsafe { Net::of_sock(self.as_ptr()) }
    }

    /// Returns whether the socket keeps its namespace, as a user's does. One of the kernel's may outlive it.
    pub(super) fn holds_net(self) -> bool {
        // SAFETY: By the type's invariant.
        unsafe { (*self.as_ptr()).__sk_common.skc_net_refcnt() != 0 }
    }

    /// Returns whether the socket is closed: no event can be pending.
    #[inline]
    pub(crate) fn is_closed(self) -> bool {
        // SAFETY: By the type's invariant. The lock excludes whoever writes the state.
        let state = unsafe { (*self.as_ptr()).__sk_common.skc_state };
        u32::from(state) == bindings::TCP_CLOSE
    }

    /// Returns whether a delayed ACK waits for its timer.
    #[inline]
    pub(crate) fn is_ack_delayed(self) -> bool {
        // SAFETY: By the type's invariant.
        let pending = unsafe { (*self.icsk()).icsk_ack.pending };
        u32::from(pending) & bindings::inet_csk_ack_state_t_ICSK_ACK_TIMER != 0
    }

    /// Returns the longest delay of an ACK in us that is set for this socket.
    #[inline]
    pub(crate) fn delack_max_us(self) -> u32 {
        // SAFETY: By the type's invariant. `setsockopt()` may write them without the lock.
        unsafe {
            match addr_of!((*self.tcp()).delack_max_us).read_volatile() {
                0 => ticks_to_us(addr_of!((*self.icsk()).icsk_delack_max).read_volatile()),
                us => us,
            }
        }
    }

    /// Returns the kernel's own prediction of how long an ACK is worth to wait, in ticks; 0 before the
    /// first segment with data.
    #[inline]
    pub(crate) fn ato_ticks(self) -> u32 {
        // SAFETY: By the type's invariant.
        unsafe { (*self.icsk()).icsk_ack.ato() }
    }

    /// Returns whether the next segments with data are acknowledged at once, as after a loss.
    #[inline]
    pub(crate) fn is_ack_quick(self) -> bool {
        // SAFETY: By the type's invariant.
        unsafe { (*self.icsk()).icsk_ack.quick != 0 }
    }

    /// Returns whether both sides send in turns, so that an ACK may hope for data to travel with.
    #[inline]
    pub(crate) fn is_interactive(self) -> bool {
        // SAFETY: By the type's invariant. As `inet_csk_in_pingpong_mode()`, which is inline.
        unsafe { (*self.icsk()).icsk_ack.pingpong >= self.net().pingpong_thresh() }
    }

    /// Returns whether the retransmit timer runs for a retransmission.
    #[inline]
    pub(crate) fn is_timeout_pending(self) -> bool {
        // SAFETY: By the type's invariant.
        u32::from(unsafe { (*self.icsk()).icsk_pending }) == bindings::ICSK_TIME_RETRANS
    }

    /// Returns whether an event of the retransmit timer is pending.
    #[inline]
    pub(crate) fn is_event_pending(self) -> bool {
        // SAFETY: By the type's invariant.
        unsafe { (*self.icsk()).icsk_pending != 0 }
    }

    /// Returns the time, in ns of `CLOCK_MONOTONIC`, at which the segment or system call arrived
    /// that is being dealt with.
    #[inline]
    pub(crate) fn clock_ns(self) -> u64 {
        // SAFETY: By the type's invariant.
        unsafe { (*self.tcp()).tcp_clock_cache }
    }

    /// Returns the smoothed round-trip time in 1/8 us, 0 before the first sample.
    #[inline]
    pub(crate) fn srtt_us8(self) -> u32 {
        // SAFETY: By the type's invariant.
        unsafe { (*self.tcp()).srtt_us }
    }

    /// Returns the variance term of the timeout in us: four mean deviations, no less than the
    /// minimal timeout when it was last updated (`tcp_rtt_estimator()`).
    #[inline]
    pub(crate) fn rttvar_us(self) -> u32 {
        // SAFETY: By the type's invariant.
        unsafe { (*self.tcp()).rttvar_us }
    }

    /// Returns four mean deviations of the round-trip time in us, without a floor.
    #[inline]
    pub(crate) fn mdev_us(self) -> u32 {
        // SAFETY: By the type's invariant.
        unsafe { (*self.tcp()).mdev_us }
    }

    /// Returns the number of times that the timeout has been doubled.
    #[inline]
    pub(crate) fn backoff(self) -> u8 {
        // SAFETY: By the type's invariant.
        unsafe { (*self.icsk()).icsk_backoff }
    }

    /// Returns whether the kernel's own timeout has passed, and nothing has ended that: its later ones are
    /// backed off.
    #[inline]
    pub(crate) fn has_backed_off(self) -> bool {
        // SAFETY: By the type's invariant.
        unsafe { (*self.icsk()).icsk_backoff != 0 || (*self.icsk()).icsk_retransmits != 0 }
    }

    /// Returns how many early timeouts there were since the last sample of the round trip.
    #[inline]
    pub(crate) fn early_timeouts(self) -> u8 {
        // SAFETY: By the type's invariant.
        unsafe { (*self.tcp()).early_timeouts }
    }

    /// Returns whether the socket waits for the peer's part of the handshake.
    #[inline]
    pub(crate) fn is_opening(self) -> bool {
        // SAFETY: By the type's invariant. The lock excludes whoever writes the state.
        let state = u32::from(unsafe { (*self.as_ptr()).__sk_common.skc_state });
        state == bindings::TCP_SYN_SENT || state == bindings::TCP_SYN_RECV
    }

    /// Returns whether the peer's window is closed; before the handshake is done, it is.
    #[inline]
    pub(crate) fn is_window_closed(self) -> bool {
        // SAFETY: By the type's invariant.
        unsafe { (*self.tcp()).snd_wnd == 0 }
    }

    /// Returns whether the timeout before the first sample is none of the module's: BPF has set it
    /// (`BPF_SOCK_OPS_TIMEOUT_INIT`), or the connection is restored (`TCP_REPAIR`).
    #[inline]
    pub(crate) fn is_rto_init_fixed(self) -> bool {
        // SAFETY: By the type's invariant.
        unsafe { (*self.tcp()).rto_init_fixed() != 0 }
    }

    /// Returns whether an early timeout has passed, and nothing new was acknowledged since.
    #[inline]
    pub(crate) fn has_timed_out_early(self) -> bool {
        // SAFETY: By the type's invariant.
        unsafe { (*self.tcp()).early_timed_out != 0 }
    }

    /// Returns the us of the monotonic clock at which the oldest segment that is not acknowledged was
    /// last sent; 0 if there is none.
    pub(crate) fn oldest_sent_us(self) -> u64 {
        // SAFETY: By the type's invariant, the socket is TCP's and locked, and so is its queue.
        unsafe { bindings::tcp_rtx_queue_head_us(self.as_ptr()) }
    }

    /// Returns what the retransmit timer runs for besides a first timeout.
    #[inline]
    pub(crate) fn early_wait(self) -> Wait {
        // SAFETY: By the type's invariant.
        match unsafe { (*self.tcp()).early_until } {
            0 => Wait::None,
            1 => Wait::Fixed,
            at => Wait::Until(at),
        }
    }

    /// Returns whether a loss probe is on its way.
    pub(crate) fn has_probed(self) -> bool {
        // SAFETY: By the type's invariant.
        unsafe { (*self.tcp()).tlp_high_seq != 0 }
    }

    /// Returns whether one segment alone is to be acknowledged.
    pub(crate) fn is_alone(self) -> bool {
        // SAFETY: By the type's invariant.
        unsafe { (*self.tcp()).packets_out == 1 }
    }

    /// Returns the kernel's own timeout, backed off, in ticks.
    #[inline]
    pub(crate) fn rto_ticks(self) -> u32 {
        // SAFETY: By the type's invariant.
        unsafe { (*self.icsk()).icsk_rto }
    }

    /// Returns the longest timeout in ticks.
    #[inline]
    pub(crate) fn rto_max_ticks(self) -> u32 {
        // SAFETY: By the type's invariant. `setsockopt()` may write it without the lock.
        unsafe { addr_of!((*self.icsk()).icsk_rto_max).read_volatile() }
    }

    /// Returns what changes when somebody sets the minimal timeout, but for a route: the socket
    /// option, or the sysctl if there is none. Cheaper than [`Self::rto_min_us`].
    #[inline]
    pub(crate) fn rto_min_setting(self) -> u32 {
        // SAFETY: By the type's invariant. Both may be written without the lock.
        unsafe {
            match addr_of!((*self.tcp()).rto_min_us).read_volatile() {
                0 => self.net().rto_min().get() as u32,
                us => us,
            }
        }
    }

    /// Returns the minimal timeout in us that holds now: route, socket option, or sysctl.
    #[inline]
    pub(crate) fn rto_min_us(self) -> u32 {
        // SAFETY: By the type's invariant.
        unsafe { bindings::tcp_hires_rto_min_us(self.as_ptr()) }
    }

    /// Returns the minimal timeout in us that the kernel itself uses for this socket: route, or what
    /// the socket has.
    pub(crate) fn kernel_rto_min_us(self) -> u32 {
        ticks_to_us(self.kernel_rto_min_ticks())
    }

    /// Returns the same in ticks.
    pub(crate) fn kernel_rto_min_ticks(self) -> u32 {
        // SAFETY: By the type's invariant.
        unsafe { bindings::tcp_rto_min(self.as_ptr()) }
    }

    /// Returns the socket's timer on the wheel.
    #[inline]
    fn wheel(self, which: Which) -> *mut bindings::timer_list {
        // SAFETY: By the type's invariant.
        unsafe {
            match which {
                // The union of the timers that the kinds of sockets have.
                Which::Xmit => addr_of_mut!((*self.as_ptr()).__bindgen_anon_3.tcp_retransmit_timer),
                Which::DelAck => addr_of_mut!((*self.icsk()).icsk_delack_timer),
            }
        }
    }

    /// Returns whether the socket's timer is queued on the wheel: it will expire, and then wait for
    /// the socket's lock.
    #[inline]
    pub(crate) fn is_on_wheel(self, which: Which) -> bool {
        // SAFETY: By the type's invariant. As `timer_pending()` does, which is inline.
        unsafe {
            !addr_of!((*self.wheel(which)).entry.pprev)
                .read_volatile()
                .is_null()
        }
    }
}

/// A reference on a socket, not locked.
///
/// # Invariants
///
/// Owns one reference on the socket.
pub(crate) struct SockRef(NonNull<bindings::sock>);

// SAFETY: References on sockets may be dropped anywhere but in hard interrupts.
unsafe impl Send for SockRef {}

impl SockRef {
    /// Takes a reference unless the socket is being freed. Acquires what happened before its
    /// first reference.
    ///
    /// # Safety
    ///
    /// `sk` must point to the memory of a TCP socket.
    pub(super) unsafe fn try_new(sk: NonNull<bindings::sock>) -> Option<Self> {
        // SAFETY: By the caller's promise.
        // INVARIANT: It returns whether it has taken a reference.
        unsafe { bindings::sock_hold_not_zero(sk.as_ptr()) }.then_some(Self(sk))
    }

    /// Runs the kernel's handler of the retransmit timer, or leaves that to who owns the socket.
    ///
    /// Context: softirq.
    pub(super) fn run_write_timer(&self) {
        // SAFETY: By the type's invariant.
        unsafe { bindings::tcp_run_write_timer(self.0.as_ptr()) }
    }

    /// Runs the kernel's handler of the delayed ACK, or leaves that to who owns the socket.
    ///
    /// Context: softirq.
    pub(super) fn run_delack_timer(&self) {
        // SAFETY: By the type's invariant.
        unsafe { bindings::tcp_run_delack_timer(self.0.as_ptr()) }
    }

    /// Runs `f`, which must not sleep, with the socket locked; sleeps while a user owns it. Owns it
    /// only where a user did: who takes a socket from its listener's queue relies on that nobody does
    /// (`inet_csk_listen_stop()`).
    pub(crate) fn with_lock<R>(&self, f: impl FnOnce(LockedSockMut<'_>) -> R) -> R {
        // SAFETY: By the type's invariant.
        let owned = unsafe { bindings::lock_sock_fast(self.0.as_ptr()) };
        // SAFETY: We have just locked it, and `f` cannot keep it for longer.
        let ret = f(unsafe { LockedSockMut::from_raw(self.0.as_ptr()) });
        // SAFETY: Locked above, in this way.
        unsafe { bindings::unlock_sock_fast(self.0.as_ptr(), owned) };
        ret
    }
}

impl Drop for SockRef {
    fn drop(&mut self) {
        let sk = self.0.as_ptr();
        // SAFETY: By the type's invariant. As `sock_put()`, which is inline.
        unsafe {
            if bindings::refcount_dec_and_test(addr_of_mut!((*sk).__sk_common.skc_refcnt)) {
                bindings::sk_free(sk);
            }
        }
    }
}

/// Returns the count of ticks.
#[inline]
pub(crate) fn jiffies() -> c_ulong {
    // SAFETY: The kernel's tick count is always there, and may be read by anybody.
    unsafe { addr_of!(bindings::jiffies).read_volatile() }
}

/// The length of a tick in ns: `TICK_NSEC`.
pub(crate) const TICK_NS: u64 = {
    let (num, den) = (
        bindings::HZ_TO_USEC_NUM as u64,
        bindings::HZ_TO_USEC_DEN as u64,
    );
    (1000 * num + den / 2) / den
};

/// Converts ticks to us, `u32::MAX` for what does not fit.
#[inline]
pub(crate) fn ticks_to_us(ticks: u32) -> u32 {
    // As `jiffies_to_usecs()` does, which is inline.
    let us = u64::from(ticks) * u64::from(bindings::HZ_TO_USEC_NUM)
        / u64::from(bindings::HZ_TO_USEC_DEN);
    u32::try_from(us).unwrap_or(u32::MAX)
}

// Named function__case.
#[expect(non_snake_case)]
#[kernel::macros::kunit_tests(finetcp_ticks)]
mod tests {
    use super::*;
    use kernel::time::msecs_to_jiffies;

    #[test]
    fn ticks_to_us__of_a_second() {
        // `bindings::HZ` is what user space is told.
        assert_eq!(ticks_to_us(msecs_to_jiffies(1000) as u32), 1_000_000);
        assert_eq!(ticks_to_us(0), 0);
        assert_eq!(ticks_to_us(u32::MAX), u32::MAX);
    }

    #[test]
    fn tick_ns__as_many_in_a_second() {
        let hz = msecs_to_jiffies(1000) as u64;
        // Half a ns too much or too little in each.
        assert!((1_000_000_000 - hz..=1_000_000_000 + hz).contains(&(hz * TICK_NS)));
    }
}
