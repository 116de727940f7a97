// SPDX-License-Identifier: GPL-2.0

//! The timers of each TCP socket, on hrtimers: that of the delayed ACK, and the retransmit timer
//! for all the events that share it (retransmission, loss probe, reordering, zero-window probe).
//!
//! A socket gets its timers at the first start, and keeps them until it is destroyed or the module
//! leaves.
//!
//! ```text
//!   set():   deadline := now + delay
//!       the queued timer expires before that ... leave it alone
//!       else .................................. put it on the clock at the deadline
//!
//!   expiry: the kernel's handler locks the socket (or leaves that to who owns it), then
//!   check(): no deadline ... the timer wheel's business
//!       ahead of us ........ put the timer on the clock at the deadline (the expiry was early)
//!       passed ............. the kernel handles the event
//! ```
//!
//! # Locking
//!
//! The socket's lock keeps all of this apart but for the expiry itself, which takes that lock
//! first of all. [`SOCKETS`] is innermost: nothing is locked, freed or called under it.

use crate::{
    ext::{
        hrtimer,
        pernet::Net,
        random, //
        sock::{
            ticks_to_us,
            us_to_ticks,
            LockedSock, //
        },
        sock_timer::{
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
};
use kernel::{
    list::List,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        rcu,
        Arc,
        ArcBorrow, //
    },
};

/// The timers of one socket.
type Timer = SockTimer<Data>;

/// What is kept beside a socket's timers. Written under the socket's lock.
pub(crate) struct Data {
    /// When the pending event of each timer is due, in ns of `CLOCK_MONOTONIC`. 0: the wheel
    /// serves it.
    xmit: Atomic<u64>,
    delack: Atomic<u64>,
    /// The minimal timeout, in us, that is the floor of the socket's variance term.
    rto_min: Atomic<u32>,
    /// How long an ACK should be delayed, in us, and `tcp_delack_min` when that was predicted.
    ato: Atomic<u32>,
    ato_base: Atomic<u32>,
    /// When the last segment with data arrived, in ns of `CLOCK_MONOTONIC`.
    received: Atomic<u64>,
    /// Deadlines set that no counter has yet.
    rearmed: Atomic<u32>,
    /// The socket's namespace.
    net: Arc<Namespace>,
}

impl Data {
    fn deadline(&self, which: Which) -> &Atomic<u64> {
        match which {
            Which::Xmit => &self.xmit,
            Which::DelAck => &self.delack,
        }
    }

    /// Counts a start of the retransmit timer. Most of them touch no memory but the socket's.
    fn count_start(&self, armed: bool) {
        if armed {
            self.net.stats.count(Counter::Started);
            return;
        }
        let rearmed = self.rearmed.load(Relaxed) + 1;
        self.rearmed.store(rearmed, Relaxed);
        if rearmed == 16 {
            self.report();
        }
    }

    /// Counts the deadlines that no counter has yet.
    fn report(&self) {
        let rearmed = self.rearmed.load(Relaxed);
        self.net.stats.add(Counter::Rearmed, rearmed);
        self.rearmed.store(0, Relaxed);
    }

    /// Returns the predicted delay of an ACK and what it is founded on, both in us. Begins anew
    /// when `tcp_delack_min` has changed.
    fn ato(&self) -> (u32, u32) {
        let base = self.net.delack_min_us();
        if self.ato_base.load(Relaxed) != base {
            self.ato_base.store(base, Relaxed);
            self.ato.store(base, Relaxed);
        }
        (self.ato.load(Relaxed), base)
    }
}

kernel::sync::global_lock! {
    // SAFETY: `init()` is called before the backend is registered.
    unsafe(uninit) static SOCKETS: SpinLockIrq<List<Timer>> = List::new();
}

/// Set when the module is about to leave: no socket is served any more.
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
    // Whoever has not seen it is done, and on the list, after this.
    rcu::synchronize_rcu();
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
            for which in [Which::Xmit, Which::DelAck] {
                timer.disarm_sync(which);
            }
            if !tcp_hires::detach::<HiresTimers>(sk, &timer) {
                return;
            }
            let is_set = |which| timer.data().deadline(which).load(Relaxed) != 0;
            if is_set(Which::Xmit) && sk.is_event_pending() {
                sk.start_xmit_wheel();
            }
            if is_set(Which::DelAck) && sk.is_ack_delayed() {
                sk.start_delack_wheel();
            }
        });
    }
}

/// Gives the socket timers, if there is memory for them.
fn attach(sk: &mut LockedSock) -> Option<Arc<Timer>> {
    // Of a closed socket nobody would take it back.
    if sk.is_closed() {
        return None;
    }
    let net = NAMESPACES.get(sk.net())?;
    let data = Data {
        xmit: Atomic::new(0),
        delack: Atomic::new(0),
        rto_min: Atomic::new(sk.kernel_rto_min_us()),
        ato: Atomic::new(0),
        ato_base: Atomic::new(0),
        received: Atomic::new(0),
        rearmed: Atomic::new(0),
        net: net.clone(),
    };
    let Ok(listed) = tcp_hires::attach::<HiresTimers>(sk, data) else {
        net.stats.count(Counter::AllocFailures);
        return None;
    };
    let timer = listed.clone_arc();
    SOCKETS.lock().push_back(listed);
    net.stats.count(Counter::Sockets);
    Some(timer)
}

/// Runs `f` with the socket's timers; those of a new socket are attached first, if there is memory.
fn with_timer<R>(
    sk: &mut LockedSock,
    timer: Option<ArcBorrow<'_, Timer>>,
    f: impl FnOnce(&Timer) -> R,
) -> Option<R> {
    match timer {
        Some(timer) => Some(f(&timer)),
        None => attach(sk).map(|timer| f(&timer)),
    }
}

/// Sets the deadline `at`, and arms the timer unless it will expire before.
fn set(timer: &Timer, which: Which, at: u64) {
    let data = timer.data();
    data.deadline(which).store(at, Relaxed);
    let armed = cover(timer, which, at);
    match which {
        Which::Xmit => data.count_start(armed),
        Which::DelAck => data.net.stats.count(Counter::AcksDelayed),
    }
}

/// Arms the timer for the deadline `at` unless it will expire before. Returns whether it did.
fn cover(timer: &Timer, which: Which, at: u64) -> bool {
    if deadline::is_covered(timer.armed(which), at) {
        return false;
    }
    timer.arm(which, at);
    true
}

/// TCP's timers, served from hrtimers.
pub(crate) struct HiresTimers;

impl Backend for HiresTimers {
    type Data = Data;

    fn start(
        sk: &mut LockedSock,
        timer: Option<ArcBorrow<'_, Timer>>,
        event: Event,
        now: u64,
        delay: u64,
    ) -> Option<u64> {
        if LEAVING.load(Relaxed) != 0 || deadline::is_for_wheel(delay) {
            if let Some(timer) = timer {
                // The queued timer, if any, will find nothing to do.
                timer.data().xmit.store(0, Relaxed);
                timer.data().net.stats.count(Counter::Wheel);
            }
            return None;
        }
        let set = |timer: &Timer| {
            let delay = match (event, timer.data().net.rto_jitter()) {
                (Event::Other, _) | (_, 0) => delay,
                (Event::Timeout, percent) => jitter::stretched(delay, percent, random::u32()),
            };
            set(timer, Which::Xmit, now.saturating_add(delay));
            delay
        };
        with_timer(sk, timer, set)
    }

    fn data_received(sk: &mut LockedSock, timer: ArcBorrow<'_, Timer>) {
        let data = timer.data();
        let now = sk.clock_ns();
        let gap = now.saturating_sub(data.received.load(Relaxed)) / 1000;
        data.received.store(now, Relaxed);
        let (ato, base) = data.ato();
        let ato = if sk.is_ack_quick() {
            // None is delayed meanwhile.
            base
        } else {
            let rto = ticks_to_us(sk.rto_ticks());
            delack::after_gap_us(ato, u32::try_from(gap).unwrap_or(u32::MAX), base, rto)
        };
        data.ato.store(ato, Relaxed);
    }

    fn delay_ack(sk: &mut LockedSock, timer: Option<ArcBorrow<'_, Timer>>) -> Ack {
        if LEAVING.load(Relaxed) != 0 {
            if let Some(timer) = timer {
                timer.data().delack.store(0, Relaxed);
            }
            return Ack::Wheel;
        }
        let wait = AckWait::of(sk);
        let ack = with_timer(sk, timer, |timer| {
            let data = timer.data();
            if !data.net.delayed_ack() {
                return Ack::Now;
            }
            let now = hrtimer::now();
            let pending = data.delack.load(Relaxed);
            let pending = (pending != 0 && wait.is_delayed).then_some(pending);
            match delack::due(now, u64::from(wait.us(data)) * 1000, pending) {
                None => Ack::Now,
                Some(at) => {
                    set(timer, Which::DelAck, at);
                    Ack::In(at - now)
                }
            }
        });
        ack.unwrap_or(Ack::Wheel)
    }

    fn ato(sk: &mut LockedSock, timer: Option<ArcBorrow<'_, Timer>>) -> u32 {
        let wait = AckWait::of(sk);
        match timer {
            Some(timer) => wait.us(timer.data()),
            None => ticks_to_us(sk.ato_ticks()).min(wait.longest),
        }
    }

    fn check(sk: &mut LockedSock, timer: ArcBorrow<'_, Timer>, which: Which) -> State {
        let data = timer.data();
        let at = data.deadline(which).load(Relaxed);
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
                    data.ato.store(ato, Relaxed);
                }
            }
            return State::Due(now - at);
        }
        if cover(&timer, which, at) && which == Which::Xmit {
            data.net.stats.count(Counter::Early);
        }
        State::Early
    }

    fn stop(timer: ArcBorrow<'_, Timer>, sync: bool) {
        timer.data().report();
        for which in [Which::Xmit, Which::DelAck] {
            timer.data().deadline(which).store(0, Relaxed);
            let cancelled = if sync {
                timer.disarm_sync(which)
            } else {
                timer.disarm(which)
            };
            if cancelled && which == Which::Xmit {
                timer.data().net.stats.count(Counter::Cancelled);
            }
        }
    }

    fn release(timer: &Arc<Timer>) {
        let mut sockets = SOCKETS.lock();
        // SAFETY: There is only this list.
        let listed = unsafe { sockets.remove(timer) };
        drop(sockets);
        drop(listed);
    }

    fn coarse_rtt(sk: &mut LockedSock, rtt: u32) -> u32 {
        rto::coarse_rtt_us(rtt, sk.srtt_us8())
    }

    fn rto_init(net: &Net) -> u32 {
        NAMESPACES
            .get(net)
            .map_or(rto::DEFAULT_INIT_US, |net| net.rto_init_us())
    }

    fn rto(sk: &mut LockedSock, timer: Option<ArcBorrow<'_, Timer>>) -> u32 {
        let mut linear = 0;
        if let Some(timer) = timer {
            follow_rto_min(sk, timer.data());
            linear = timer.data().net.linear_timeouts();
        }
        let srtt_us8 = sk.srtt_us8();
        rto::timeout_us(&rto::Inputs {
            srtt_us8,
            rttvar_us: sk.rttvar_us(),
            backoff: sk.backoff(),
            linear,
            init_us: match srtt_us8 {
                0 => Self::rto_init(sk.net()),
                _ => 0, // of no interest
            },
            kernel_us: ticks_to_us(sk.rto_ticks()),
            tick_us: ticks_to_us(1),
            max_us: ticks_to_us(sk.rto_max_ticks()),
        })
    }
}

/// What the delay of an ACK depends on, but for the prediction.
struct AckWait {
    is_delayed: bool,
    has_no_more: bool,
    srtt_us: u32,
    longest: u32,
}

impl AckWait {
    fn of(sk: &LockedSock) -> Self {
        Self {
            is_delayed: sk.is_ack_delayed(),
            has_no_more: sk.is_interactive() || sk.is_ack_pushed(),
            srtt_us: sk.srtt_us8() >> 3,
            longest: delack::longest_us(sk.rto_min_us(), ticks_to_us(1), sk.delack_max_us()),
        }
    }

    /// How long an ACK waits, in us.
    fn us(&self, data: &Data) -> u32 {
        let (ato, base) = data.ato();
        delack::delay_us(ato, base, self.has_no_more, self.srtt_us).min(self.longest)
    }
}

/// Makes the socket's variance term follow a change of the minimal timeout.
fn follow_rto_min(sk: &mut LockedSock, data: &Data) {
    let old = data.rto_min.load(Relaxed);
    if sk.rto_min_setting() == old || sk.srtt_us8() == 0 {
        return;
    }
    // It may be a route's, or the module's floor.
    let new = sk.rto_min_us();
    data.rto_min.store(new, Relaxed);
    if let Some(rttvar) = rto::rebase_rttvar_us(sk.rttvar_us(), sk.mdev_us(), old, new) {
        sk.set_rttvar_us(rttvar);
        // The kernel's own timeout says the same, in ticks.
        let ticks = us_to_ticks(rto::base_us(sk.srtt_us8(), rttvar));
        sk.set_rto_ticks(rto::back_off(ticks, sk.backoff(), sk.rto_max_ticks()));
    }
}
