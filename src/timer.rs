// SPDX-License-Identifier: GPL-2.0

//! The timers of each TCP socket, on hrtimers: that of the delayed ACK, and the retransmit timer
//! for all the events that share it (retransmission, loss probe, reordering, zero-window probe).
//!
//! A socket gets its timers when it needs the first of them, and keeps them until it is destroyed or
//! the module leaves.
//!
//! ```text
//!   set():   deadline := now + delay
//!       the deadline is some ticks ahead ... the wheel is to look at it in time
//!       else ............................... the timer is to expire at the deadline
//!       but if that one is queued, and expires before that and not soon, it is left alone
//!
//!   expiry, also of the wheel's timer: the kernel's handler locks the socket (or leaves that to who
//!   owns it), then
//!   check(): no deadline ... the timer wheel's business
//!       ahead of us ........ as above, for what is left
//!       passed ............. the kernel handles the event
//! ```
//!
//! # Locking
//!
//! The socket's lock keeps all of this apart but for the expiry itself, which takes that lock
//! first of all. [`SOCKETS`] is innermost: nothing is locked, freed or called under it.
//!
//! # Leaving
//!
//! [`leave`] takes the sockets off that list, one by one, and locks each to give it back to the
//! wheel. Until it comes to a socket, that one is served. [`Backend::attach`] looks at [`LEAVING`]
//! under the lock of the list: either [`leave`] finds the socket there, or it gets no timers.

use crate::{
    ext::{
        hrtimer,
        pernet::Net,
        random, //
        sock::{
            jiffies,
            ticks_to_us,
            us_to_ticks,
            LockedSock, //
        },
        sock_timer::{
            Locked,
            SockTimer,
            Which, //
        },
        tcp_hires::{
            self,
            Ack,
            Backend,
            Event,
            State, //
        },
        tsq::Freed, //
    },
    netns::{
        Namespace,
        NAMESPACES, //
    },
    policy::{
        deadline,
        delack,
        jitter,
        rto, //
    },
    stats::Counter,
    tsq, //
};
use core::cell::Cell;
use kernel::{
    list::List,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
};

/// The timers of one socket.
type Timer = SockTimer<Data>;

// With its reference count it has an object of 256 bytes.
#[cfg(CONFIG_64BIT)]
const _: () = assert!(size_of::<Timer>() + size_of::<usize>() <= 256);

/// Those of a socket that is locked.
type LockedTimer<'a> = Locked<'a, Data>;

/// What is kept beside a socket's timers, under the socket's lock.
pub(crate) struct Data {
    /// The minimal timeout, in us, that is the floor of the socket's variance term.
    rto_min: Cell<u32>,
    /// How long an ACK should be delayed, in us, and `tcp_delack_min` when that was predicted.
    ato: Cell<u32>,
    ato_base: Cell<u32>,
    /// When the last segment with data arrived, in us of `CLOCK_MONOTONIC`. That wraps, as the
    /// kernel's does: after 71 minutes a gap may be taken for a short one, once.
    received: Cell<u32>,
    /// By when the socket's timers on the wheel have expired, if they are queued there; none: not
    /// known, they were not started here.
    woken: [Cell<Option<deadline::Woken>>; 2],
    /// Deadlines set and ACKs delayed that no counter has yet.
    rearmed: Cell<u8>,
    acks: Cell<u8>,
    /// The socket's namespace.
    net: Arc<Namespace>,
}

impl Data {
    /// Counts a start of the retransmit timer.
    fn count_start(&self, armed: bool) {
        if armed {
            self.net.stats.count(Counter::Started);
        } else {
            self.count_later(Counter::Rearmed, &self.rearmed);
        }
    }

    /// Counts an event of which there may be one a segment: most of them touch no memory but the
    /// socket's.
    fn count_later(&self, counter: Counter, pending: &Cell<u8>) {
        pending.set(pending.get().wrapping_add(1));
        if pending.get() == 16 {
            self.report(counter, pending);
        }
    }

    /// Counts what [`Self::count_later`] has left.
    fn report(&self, counter: Counter, pending: &Cell<u8>) {
        self.net.stats.add(counter, pending.take().into());
    }

    /// Returns the predicted delay of an ACK and what it is founded on, both in us. Begins anew
    /// when `tcp_delack_min` has changed.
    fn ato(&self) -> (u32, u32) {
        let base = self.net.delack_min_us();
        if self.ato_base.get() != base {
            self.ato_base.set(base);
            self.ato.set(base);
        }
        (self.ato.get(), base)
    }
}

kernel::sync::global_lock! {
    // SAFETY: `init()` is called before the backend is registered.
    unsafe(uninit) static SOCKETS: SpinLockIrq<List<Timer>> = List::new();
}

/// Set when the module is about to leave: no socket gets timers any more.
static LEAVING: Atomic<i32> = Atomic::new(0);

/// Prepares the list of sockets.
///
/// # Safety
///
/// Must be called once, and before [`HiresTimers`] is registered.
pub(crate) unsafe fn init() {
    // SAFETY: By the caller's promise.
    unsafe { SOCKETS.init() };
}

/// Gives all sockets back to the timer wheel, with their deadlines. Sleeps.
pub(crate) fn leave() {
    LEAVING.store(1, Relaxed);
    loop {
        let mut sockets = SOCKETS.lock();
        let Some(timer) = sockets.pop_front() else {
            break;
        };
        drop(sockets);
        // Else it has been released meanwhile.
        let Some(sk) = timer.sock() else {
            continue;
        };
        sk.with_lock(|sk| {
            if timer.locked(sk).is_none() {
                return;
            }
            let deadlines = [Which::Xmit, Which::DelAck].map(|which| {
                // A callback that runs will find nothing, and is waited for when the timer is dropped.
                timer.disarm(which);
                (which, timer.deadline(which))
            });
            tcp_hires::detach::<HiresTimers>(sk, &timer);
            let now = hrtimer::now();
            for (which, at) in deadlines {
                let is_pending = match which {
                    Which::Xmit => sk.is_event_pending(),
                    Which::DelAck => sk.is_ack_delayed(),
                };
                if at != 0 && is_pending {
                    sk.start_wheel(which, at.saturating_sub(now).div_ceil(tick_ns()));
                }
            }
        });
    }
}

fn is_leaving() -> bool {
    LEAVING.load(Relaxed) != 0
}

/// Sets the deadline `delay` after `now`, both in ns, and sees to it that the timer expires then, or
/// before. Returns whether the timer had to be armed for it.
#[inline(always)]
fn set(sk: &mut LockedSock, timer: LockedTimer<'_>, which: Which, now: u64, delay: u64) -> bool {
    let at = now.saturating_add(delay);
    timer.set_deadline(which, at);
    cover(sk, timer, which, at, delay)
}

/// Sees to it that the timer, or the wheel's, expires in good time before the deadline `at`, `delay`
/// being what is left until then. Returns whether the timer had to be put on the clock.
///
/// That a timer is queued is seen without its lock. If it expires right now, the expiry waits for the
/// socket. Inlined, for a segment may start two timers.
#[inline(always)]
fn cover(sk: &mut LockedSock, timer: LockedTimer<'_>, which: Which, at: u64, delay: u64) -> bool {
    if deadline::is_far(delay, tick_ns()) {
        let woken = &timer.data().woken[which as usize];
        let tick = jiffies() as u16;
        let armed = match woken.get() {
            Some(woken) if sk.is_on_wheel(which) => {
                Some(at - delay + deadline::woken_ns(woken, tick, tick_ns()))
            }
            _ => None,
        };
        if !deadline::is_covered(armed, at, delay) {
            let ticks = deadline::wake_ticks(delay, tick_ns());
            sk.start_wheel(which, ticks);
            woken.set(Some(deadline::woken(jiffies() as u16, ticks)));
        }
        return false;
    }
    if deadline::is_covered(timer.armed(which), at, delay) {
        return false;
    }
    timer.arm(which, at);
    true
}

/// Leaves the timer to the kernel, or to nobody: what is queued will find nothing to do.
fn forget(timer: LockedTimer<'_>, which: Which) {
    timer.set_deadline(which, 0);
    timer.data().woken[which as usize].set(None);
}

/// Returns the length of a tick in ns.
fn tick_ns() -> u64 {
    u64::from(ticks_to_us(1)) * 1000
}

/// TCP's timers, served from hrtimers.
pub(crate) struct HiresTimers;

impl Backend for HiresTimers {
    type Data = Data;

    fn attach(sk: &mut LockedSock) -> bool {
        // Of a closed socket nobody would take it back.
        if sk.is_closed() || is_leaving() {
            return false;
        }
        let Some(net) = NAMESPACES.get(sk.net()) else {
            return false;
        };
        let data = Data {
            rto_min: Cell::new(sk.kernel_rto_min_us()),
            ato: Cell::new(0),
            ato_base: Cell::new(0),
            received: Cell::new(0),
            woken: [Cell::new(None), Cell::new(None)],
            rearmed: Cell::new(0),
            acks: Cell::new(0),
            net: net.clone(),
        };
        let Ok(timer) = tcp_hires::attach::<Self>(sk, data) else {
            net.stats.count(Counter::AllocFailures);
            return false;
        };
        let mut sockets = SOCKETS.lock();
        if is_leaving() {
            drop(sockets);
            tcp_hires::detach::<Self>(sk, &timer);
            return false;
        }
        sockets.push_back(timer);
        drop(sockets);
        net.stats.count(Counter::Sockets);
        // What a server sends first has no timer before it.
        tsq::limit(sk, &net);
        true
    }

    #[inline]
    fn start(
        sk: &mut LockedSock,
        timer: LockedTimer<'_>,
        event: Event,
        now: u64,
        delay: u64,
    ) -> Option<u64> {
        let data = timer.data();
        let which = match event {
            Event::Timeout | Event::Other => Which::Xmit,
            Event::DelAck => Which::DelAck,
        };
        if which == Which::Xmit {
            // Each segment that is sent starts this timer.
            tsq::limit(sk, &data.net);
        }
        if deadline::is_for_wheel(delay) {
            forget(timer, which);
            data.net.stats.count(Counter::Wheel);
            return None;
        }
        let delay = match event {
            Event::Timeout => {
                let delay = match sk.refused_retransmits() {
                    0 => delay,
                    refused => rto::refused_ns(delay, refused),
                };
                match data.net.rto_jitter() {
                    0 => delay,
                    percent => jitter::stretched(delay, percent, random::u32()),
                }
            }
            Event::Other | Event::DelAck => delay,
        };
        let armed = set(sk, timer, which, now, delay);
        if which == Which::Xmit {
            data.count_start(armed);
        }
        Some(delay)
    }

    #[inline]
    fn data_received(sk: &mut LockedSock, timer: LockedTimer<'_>) {
        let data = timer.data();
        let now = (sk.clock_ns() / 1000) as u32;
        let gap = now.wrapping_sub(data.received.get());
        data.received.set(now);
        let (ato, base) = data.ato();
        let ato = if sk.is_ack_quick() {
            // None is delayed meanwhile.
            base
        } else {
            let rto = ticks_to_us(sk.rto_ticks());
            delack::after_gap_us(ato, gap, base, rto)
        };
        data.ato.set(ato);
    }

    #[inline]
    fn delay_ack(sk: &mut LockedSock, timer: LockedTimer<'_>) -> Ack {
        let data = timer.data();
        if !data.net.delayed_ack() {
            return Ack::Now;
        }
        let now = sk.clock_ns();
        let pending = timer.deadline(Which::DelAck);
        let pending = (pending != 0 && sk.is_ack_delayed()).then_some(pending);
        match delack::due(now, u64::from(ack_wait_us(sk, data)) * 1000, pending) {
            None => Ack::Now,
            Some(at) => {
                sk.set_ack_delayed();
                set(sk, timer, Which::DelAck, now, at - now);
                data.count_later(Counter::AcksDelayed, &data.acks);
                Ack::In(at - now)
            }
        }
    }

    fn ato(sk: &mut LockedSock, timer: LockedTimer<'_>) -> u32 {
        ack_wait_us(sk, timer.data())
    }

    fn check(sk: &mut LockedSock, timer: LockedTimer<'_>, which: Which) -> State {
        let data = timer.data();
        let at = timer.deadline(which);
        if at == 0 {
            return State::None;
        }
        let now = hrtimer::now();
        if now >= at {
            match which {
                Which::Xmit => data.net.stats.count(Counter::Fired),
                Which::DelAck => {
                    data.net.stats.count(Counter::AcksFired);
                    let (ato, base) = data.ato();
                    let rto = ticks_to_us(sk.rto_ticks());
                    let ato = delack::after_expiry_us(ato, sk.is_interactive(), base, rto);
                    data.ato.set(ato);
                }
            }
            return State::Due(now - at);
        }
        if cover(sk, timer, which, at, at - now) && which == Which::Xmit {
            data.net.stats.count(Counter::Early);
        }
        State::Early
    }

    fn left(timer: &Timer, which: Which) -> Option<i64> {
        match timer.deadline(which) {
            0 => None,
            at => Some(at.wrapping_sub(hrtimer::now()) as i64),
        }
    }

    fn stop(timer: LockedTimer<'_>) {
        let data = timer.data();
        data.report(Counter::Rearmed, &data.rearmed);
        data.report(Counter::AcksDelayed, &data.acks);
        for which in [Which::Xmit, Which::DelAck] {
            forget(timer, which);
            if timer.disarm(which) && which == Which::Xmit {
                data.net.stats.count(Counter::Cancelled);
            }
        }
    }

    fn release(timer: &Timer) {
        let mut sockets = SOCKETS.lock();
        // SAFETY: There is only this list.
        let listed = unsafe { sockets.remove(timer) };
        drop(sockets);
        drop(listed);
    }

    #[inline]
    fn freed(sk: Freed) {
        tsq::freed(sk);
    }

    fn coarse_rtt(sk: &mut LockedSock, rtt: u32) -> u32 {
        rto::coarse_rtt_us(rtt, sk.srtt_us8())
    }

    fn rto_init(net: &Net) -> u32 {
        NAMESPACES
            .get(net)
            .map_or(rto::DEFAULT_INIT_US, |net| net.rto_init_us())
    }

    #[inline]
    fn rto(sk: &mut LockedSock, timer: LockedTimer<'_>) -> u32 {
        let data = timer.data();
        if data.rto_min.get() != sk.rto_min_setting() {
            follow_rto_min(sk, data);
        }
        let backoff = sk.backoff();
        let srtt_us8 = sk.srtt_us8();
        rto::timeout_us(&rto::Inputs {
            srtt_us8,
            rttvar_us: sk.rttvar_us(),
            variance_max: data.net.rto_variance_max(),
            rto_min_us: data.rto_min.get(),
            backoff,
            linear: match backoff {
                0 => 0, // of no interest
                _ => data.net.linear_timeouts(),
            },
            backoff_max_us: match backoff {
                0 => 0, // of no interest
                _ => data.net.backoff_max_us(),
            },
            init_us: match srtt_us8 {
                0 => data.net.rto_init_us(),
                _ => 0, // of no interest
            },
            kernel_us: ticks_to_us(sk.rto_ticks()),
            tick_us: ticks_to_us(1),
            max_us: ticks_to_us(sk.rto_max_ticks()),
        })
    }
}

/// Returns how long an ACK waits, in us.
fn ack_wait_us(sk: &LockedSock, data: &Data) -> u32 {
    let (ato, base) = data.ato();
    let longest = delack::longest_us(sk.rto_min_us(), ticks_to_us(1), sk.delack_max_us());
    let worth = if ato <= base {
        ato
    } else {
        predicted_ack_wait_us(sk, ato, base)
    };
    worth.min(longest)
}

/// Returns how long an ACK is worth to wait, in us, when the prediction `ato` exceeds `base`.
#[cold]
fn predicted_ack_wait_us(sk: &LockedSock, ato: u32, base: u32) -> u32 {
    let has_no_more = sk.is_interactive() || sk.is_ack_pushed();
    delack::delay_us(ato, base, has_no_more, sk.srtt_us8() >> 3)
}

/// Makes the socket's variance term follow a change of the minimal timeout.
#[cold]
fn follow_rto_min(sk: &mut LockedSock, data: &Data) {
    if sk.srtt_us8() == 0 {
        return;
    }
    let old = data.rto_min.get();
    // It may be a route's, or the module's floor.
    let new = sk.rto_min_us();
    data.rto_min.set(new);
    if let Some(rttvar) = rto::rebase_rttvar_us(sk.rttvar_us(), sk.mdev_us(), old, new) {
        sk.set_rttvar_us(rttvar);
        // The kernel's own timeout says the same, in ticks.
        let ticks = us_to_ticks(rto::base_us(sk.srtt_us8(), rttvar));
        sk.set_rto_ticks(rto::back_off(ticks, sk.backoff(), sk.rto_max_ticks()));
    }
}
