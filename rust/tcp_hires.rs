// SPDX-License-Identifier: GPL-2.0

//! Serving TCP's retransmit and delayed ACK timers.
//!
//! C header: [`include/net/tcp_hires.h`](srctree/include/net/tcp_hires.h)

use super::{
    pernet::{
        self,
        Net,
        NetData,
        PerNet, //
    },
    served::{
        self,
        locked,
        unlocked,
        Served,
        Sockets, //
    },
    sock::{
        LockedSock,
        LockedSockMut, //
    },
    sock_timer::{
        Locked,
        SockTimer,
        Which, //
    },
    trace,
    tsq::Freed, //
};
use core::marker::PhantomData;
use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    sync::rcu,
    types::ScopeGuard, //
};

/// What a timer runs for (`ICSK_TIME_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The retransmission timeout, as [`Backend::rto`] has it.
    Timeout,
    /// A retransmission after another time, which the kernel has chosen.
    Fixed,
    /// A loss probe, the end of a reordering window, or a zero-window probe.
    Other,
    /// A delayed ACK.
    DelAck,
}

/// What a module knows of a socket's deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing: the timer wheel serves the pending event.
    None,
    /// The deadline lies ahead, and the timer is armed for it.
    Early,
    /// The deadline has passed, so many ns ago.
    Due(u64),
}

/// Whose timeout has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passed {
    /// The kernel's own.
    Kernel,
    /// One before that. The segment is sent again, and in so many us the next one comes, or the kernel's.
    Early(u32),
    /// None any more: a setting has changed. In so many us the kernel's own comes.
    TooSoon(u32),
}

/// What becomes of an ACK that may be delayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ack {
    /// The timer wheel serves it.
    Wheel,
    /// It is sent right now.
    Now,
    /// It is sent in so many ns, if nothing else carries it before.
    In(u64),
}

/// Operations that serve the timers (`struct tcp_hires_ops`).
///
/// The socket is locked, and `timer` is its own. None of them may sleep. They run in softirq, or in a
/// task that may be preempted.
pub(crate) trait Backend: Sized + 'static {
    /// What is kept beside a socket's timers. RCU drops it in softirq.
    type Data: Send + 'static;

    /// What each namespace has, to be looked at for each of its sockets.
    type Net: NetData;

    /// Returns the one static that knows the sockets that are served.
    fn sockets() -> &'static Sockets<Self>;

    /// Returns what to keep for a socket that is about to be served; none: it shall not be.
    fn new(sk: LockedSock<'_>) -> Option<Self::Data>;

    /// The socket has got its timers.
    fn attached(sk: LockedSockMut<'_>, timer: Locked<'_, Self>);

    /// A socket has not, for there was no memory.
    fn refused(net: &Self::Net);

    /// The module is about to leave, and the socket's timers are disarmed: gives the events that are
    /// pending to the timer wheel.
    fn leave(sk: LockedSockMut<'_>, timer: Locked<'_, Self>);

    /// Runs the timer for `event`, `delay` ns after `now`, which is a moment ago, or later. Returns
    /// the ns from `now` to the deadline; none where the wheel shall do it.
    fn start(
        sk: LockedSockMut<'_>,
        timer: Locked<'_, Self>,
        event: Event,
        now: u64,
        delay: u64,
    ) -> Option<u64>;

    /// A segment with data has arrived, and an ACK is scheduled.
    fn data_received(sk: LockedSockMut<'_>, timer: Locked<'_, Self>);

    /// Runs the timer of a delayed ACK, by way of [`LockedSock::set_ack_delayed`].
    fn delay_ack(sk: LockedSockMut<'_>, timer: Locked<'_, Self>) -> Ack;

    /// Returns how long an ACK is delayed, in us, for who only wants to know.
    fn ato(sk: LockedSock<'_>, timer: Locked<'_, Self>) -> u32;

    /// Compares the deadline with the clock, and arms the timer for what is left.
    fn check(sk: LockedSockMut<'_>, timer: Locked<'_, Self>, which: Which) -> State;

    /// Returns the ns to the deadline, negative if it has passed; none if the wheel has it. The socket
    /// may not be locked.
    fn left(timer: &SockTimer<Self>, which: Which) -> Option<i64>;

    /// Forgets both deadlines, and cancels the timers unless their callbacks are running.
    fn stop(timer: Locked<'_, Self>);

    /// Returns the round-trip time in us to believe in where time stamps in ms say `rtt` us.
    fn coarse_rtt(sk: LockedSockMut<'_>, timer: Locked<'_, Self>, rtt: u32) -> u32;

    /// Returns the retransmission timeout in us, backed off.
    fn rto(sk: LockedSockMut<'_>, timer: Locked<'_, Self>) -> u32;

    /// Returns what a reordering timer waits on top of its window, or a loss probe on top of two round
    /// trips, in us; none: as the kernel has it. `is_alone`: a probe of a single segment, whose ACK may be
    /// delayed.
    fn slack(sk: LockedSockMut<'_>, timer: Locked<'_, Self>, is_alone: bool) -> Option<u32>;

    /// Returns what [`Self::rto`] would, for who only wants to know.
    fn rto_info(sk: LockedSock<'_>, timer: Locked<'_, Self>) -> u32;

    /// A timeout has passed. The kernel's own takes `ticks`; the oldest segment was sent at `sent` us of
    /// `CLOCK_MONOTONIC`, 0 if there is none.
    fn timeout(sk: LockedSockMut<'_>, timer: Locked<'_, Self>, sent: u64, ticks: u32) -> Passed;

    /// Returns the timeout of a SYN or SYN-ACK in us. `net`: none, if the namespace is about to go.
    fn rto_init(net: Option<&Self::Net>) -> u32;

    /// The round trip has been sampled. `is_round`: since the last time that this was so, one is over.
    fn sampled(sk: LockedSockMut<'_>, timer: Locked<'_, Self>, is_round: bool);

    /// A packet has been freed whose socket seems to wait for that. Callable in any context, the socket
    /// is not locked.
    fn freed(sk: Freed);
}

/// Returns the timer that runs for `what` (`ICSK_TIME_*`).
#[inline]
fn which(what: c_int) -> Which {
    match what as u32 {
        bindings::ICSK_TIME_DACK => Which::DelAck,
        _ => Which::Xmit,
    }
}

/// The C functions of a backend. C calls them with a full TCP socket that is locked and served,
/// unless they say something else.
struct Table<B>(PhantomData<B>);

impl<B: Backend> Table<B> {
    /// Serves the socket from now on, if [`Backend::new`] wants it. Returns whether it does.
    ///
    /// # Safety
    ///
    /// See [`Table`]. But the socket is not served yet, and this is within an RCU read-side critical
    /// section.
    unsafe extern "C" fn attach(sk: *mut bindings::sock) -> bool {
        // SAFETY: See `Table`. C calls `release()` before it frees the socket.
        unsafe { B::sockets().attach(LockedSockMut::from_raw(sk)) }
    }

    /// [`Backend::start`].
    ///
    /// # Safety
    ///
    /// See [`Table`].
    unsafe extern "C" fn start(
        sk: *mut bindings::sock,
        what: c_int,
        now_ns: u64,
        delay_ns: u64,
    ) -> bool {
        let event = match what as u32 {
            bindings::ICSK_TIME_RETRANS => Event::Timeout,
            bindings::TCP_HIRES_RETRANS_FIXED => Event::Fixed,
            bindings::ICSK_TIME_DACK => Event::DelAck,
            _ => Event::Other,
        };
        let what = match event {
            Event::Fixed => bindings::ICSK_TIME_RETRANS as c_int,
            _ => what,
        };
        // SAFETY: See `Table`.
        let wait = unsafe {
            B::start(
                LockedSockMut::from_raw(sk),
                locked::<B>(sk),
                event,
                now_ns,
                delay_ns,
            )
        };
        if let Some(ns) = wait {
            // SAFETY: See `Table`.
            unsafe { trace::timer_start(sk, what, ns) };
        }
        wait.is_some()
    }

    /// [`Backend::data_received`].
    ///
    /// # Safety
    ///
    /// See [`Table`].
    unsafe extern "C" fn data_recv(sk: *mut bindings::sock) {
        // SAFETY: See `Table`.
        unsafe { B::data_received(LockedSockMut::from_raw(sk), locked::<B>(sk)) }
    }

    /// [`Backend::delay_ack`].
    ///
    /// # Safety
    ///
    /// See [`Table`].
    unsafe extern "C" fn delay_ack(sk: *mut bindings::sock) -> c_int {
        // SAFETY: See `Table`.
        match unsafe { B::delay_ack(LockedSockMut::from_raw(sk), locked::<B>(sk)) } {
            Ack::Now => -1,
            Ack::Wheel => 0,
            Ack::In(ns) => {
                // SAFETY: See `Table`.
                unsafe { trace::timer_start(sk, bindings::ICSK_TIME_DACK as c_int, ns) };
                1
            }
        }
    }

    /// [`Backend::ato`].
    ///
    /// # Safety
    ///
    /// See [`Table`].
    unsafe extern "C" fn ato(sk: *const bindings::sock) -> u32 {
        // SAFETY: See `Table`. Nothing is written.
        unsafe {
            B::ato(
                LockedSock::from_raw(sk.cast_mut()),
                locked::<B>(sk.cast_mut()),
            )
        }
    }

    /// [`Backend::check`].
    ///
    /// # Safety
    ///
    /// See [`Table`].
    unsafe extern "C" fn check(sk: *mut bindings::sock, what: c_int) -> c_int {
        // SAFETY: See `Table`.
        match unsafe { B::check(LockedSockMut::from_raw(sk), locked::<B>(sk), which(what)) } {
            State::None => 0,
            State::Early => -1,
            State::Due(late) => {
                // SAFETY: See `Table`.
                unsafe { trace::timer_expire(sk, what, late) };
                1
            }
        }
    }

    /// [`Backend::left`].
    ///
    /// # Safety
    ///
    /// `sk` must point to a full TCP socket, within an RCU read-side critical section.
    unsafe extern "C" fn left(sk: *const bindings::sock, what: c_int) -> i64 {
        // SAFETY: By the caller's promise. Nothing is written.
        let timer = unsafe { unlocked::<B>(sk.cast_mut()) };
        let left = timer.and_then(|timer| B::left(timer, which(what)));
        left.map_or(0, |ns| if ns == 0 { -1 } else { ns })
    }

    /// [`Backend::stop`]; with `sync`, waits for the callbacks.
    ///
    /// # Safety
    ///
    /// See [`Table`]. With `sync`, no event is pending any more; the socket is not locked, and may
    /// not be served any more, but this is within an RCU read-side critical section.
    unsafe extern "C" fn stop(sk: *mut bindings::sock, sync: bool) {
        if !sync {
            // SAFETY: See `Table`.
            return B::stop(unsafe { locked::<B>(sk) });
        }
        // SAFETY: By the caller's promise.
        if let Some(timer) = unsafe { unlocked::<B>(sk) } {
            timer.disarm_sync(Which::Xmit);
            timer.disarm_sync(Which::DelAck);
        }
    }

    /// The socket is closed for good: its timers are not armed, or about to find that.
    ///
    /// # Safety
    ///
    /// See [`Table`].
    unsafe extern "C" fn release(sk: *mut bindings::sock) {
        // SAFETY: See `Table`.
        unsafe { served::release::<B>(LockedSockMut::from_raw(sk)) };
    }

    /// [`Backend::rto_init`].
    ///
    /// # Safety
    ///
    /// `net` must be the namespace of a socket.
    unsafe extern "C" fn rto_init(net: *const bindings::net) -> u32 {
        let rcu = rcu::read_lock();
        // SAFETY: By the caller's promise.
        let net = unsafe { Net::from_raw(net) };
        B::rto_init(B::Net::pernet().get(net, &rcu).as_deref())
    }

    /// [`Backend::coarse_rtt`].
    ///
    /// # Safety
    ///
    /// See [`Table`].
    unsafe extern "C" fn coarse_rtt(sk: *mut bindings::sock, rtt_us: u32) -> u32 {
        // SAFETY: See `Table`.
        unsafe { B::coarse_rtt(LockedSockMut::from_raw(sk), locked::<B>(sk), rtt_us) }
    }

    /// [`Backend::rto`].
    ///
    /// # Safety
    ///
    /// See [`Table`].
    unsafe extern "C" fn rto(sk: *mut bindings::sock) -> u32 {
        // SAFETY: See `Table`.
        unsafe { B::rto(LockedSockMut::from_raw(sk), locked::<B>(sk)) }
    }

    /// [`Backend::slack`].
    ///
    /// # Safety
    ///
    /// See [`Table`].
    unsafe extern "C" fn slack(sk: *mut bindings::sock, alone: bool) -> u32 {
        // SAFETY: See `Table`.
        let us = unsafe { B::slack(LockedSockMut::from_raw(sk), locked::<B>(sk), alone) };
        us.unwrap_or(u32::MAX)
    }

    /// [`Backend::sampled`].
    ///
    /// # Safety
    ///
    /// See [`Table`].
    unsafe extern "C" fn sample(sk: *mut bindings::sock, round: bool) {
        // SAFETY: See `Table`.
        unsafe { B::sampled(LockedSockMut::from_raw(sk), locked::<B>(sk), round) }
    }

    /// [`Backend::rto_info`].
    ///
    /// # Safety
    ///
    /// See [`Table`].
    unsafe extern "C" fn rto_info(sk: *const bindings::sock) -> u32 {
        // SAFETY: See `Table`. Nothing is written.
        unsafe {
            B::rto_info(
                LockedSock::from_raw(sk.cast_mut()),
                locked::<B>(sk.cast_mut()),
            )
        }
    }

    /// [`Backend::timeout`].
    ///
    /// # Safety
    ///
    /// See [`Table`].
    unsafe extern "C" fn early(sk: *mut bindings::sock, sent_us: u64, rto: u32) -> i32 {
        // What does not fit is days away.
        let wait = |us: u32| i32::try_from(us).unwrap_or(i32::MAX).max(1);
        // SAFETY: See `Table`.
        match unsafe { B::timeout(LockedSockMut::from_raw(sk), locked::<B>(sk), sent_us, rto) } {
            Passed::Kernel => 0,
            Passed::Early(us) => wait(us),
            Passed::TooSoon(us) => -wait(us),
        }
    }

    /// [`Backend::freed`].
    ///
    /// # Safety
    ///
    /// `skb` must be charged to a full TCP socket, and about to be freed.
    unsafe extern "C" fn wfree(skb: *mut bindings::sk_buff) {
        // SAFETY: By the caller's promise.
        B::freed(unsafe { Freed::from_skb(skb) })
    }
}

/// Proof that a [`Backend`] serves the timers of all TCP sockets. When it is dropped, which sleeps, each
/// socket goes back to the timer wheel; nothing of `B` runs then, and the memory of the timers is free.
#[must_use]
pub(crate) struct Registration<B: Backend> {
    served: Served<B>,
    /// Sockets that are served use what is in there.
    _namespaces: pernet::Registration<B::Net>,
    /// C keeps a pointer to them.
    _ops: KBox<bindings::tcp_hires_ops>,
}

impl<B: Backend> Registration<B> {
    /// Makes `B` serve all sockets. Sleeps.
    ///
    /// `rto_min_floor` is the lowest time, in us, that anybody may set for a timer from now on.
    ///
    /// # Errors
    ///
    /// `EBUSY` if another module does so already, or `ENOMEM`.
    pub(crate) fn new(rto_min_floor: c_int) -> Result<Self> {
        let ops = bindings::tcp_hires_ops {
            attach: Some(Table::<B>::attach),
            start: Some(Table::<B>::start),
            data_recv: Some(Table::<B>::data_recv),
            delay_ack: Some(Table::<B>::delay_ack),
            ato: Some(Table::<B>::ato),
            check: Some(Table::<B>::check),
            left: Some(Table::<B>::left),
            stop: Some(Table::<B>::stop),
            release: Some(Table::<B>::release),
            rto: Some(Table::<B>::rto),
            rto_info: Some(Table::<B>::rto_info),
            early: Some(Table::<B>::early),
            slack: Some(Table::<B>::slack),
            sample: Some(Table::<B>::sample),
            rto_init: Some(Table::<B>::rto_init),
            coarse_rtt: Some(Table::<B>::coarse_rtt),
            wfree: Some(Table::<B>::wfree),
            rto_min_floor,
        };
        let ops = KBox::new(ops, GFP_KERNEL)?;
        // SAFETY: The functions are as C expects them. They and `ops` stay until `tcp_hires_unregister()`
        // returns, which waits for those that run.
        to_result(unsafe { bindings::tcp_hires_register(&*ops) })?;
        // First of all, for nothing may change if another module is there. Until the rest is, no socket is
        // served.
        let unregister = ScopeGuard::new(|| {
            // SAFETY: Registered above.
            unsafe { bindings::tcp_hires_unregister() }
        });
        let namespaces = PerNet::register()?;
        let served = B::sockets().open()?;
        unregister.dismiss();
        Ok(Self {
            served,
            _namespaces: namespaces,
            _ops: ops,
        })
    }
}

impl<B: Backend> Drop for Registration<B> {
    fn drop(&mut self) {
        self.served.leave();
        // SAFETY: `new()` has registered.
        unsafe { bindings::tcp_hires_unregister() };
        // RCU drops timers by code of the backend.
        rcu::rcu_barrier();
    }
}
