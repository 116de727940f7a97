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

/// What is kept beside each timer. Written under the socket's lock.
struct Event {
    /// When the pending event is due, in ns of `CLOCK_MONOTONIC`. 0: the wheel serves it.
    deadline: Atomic<u64>,
    /// What the timer was last armed for, in ns of `CLOCK_MONOTONIC`. Holds while it is queued.
    armed: Atomic<u64>,
}

impl Event {
    fn new() -> Self {
        Self {
            deadline: Atomic::new(0),
            armed: Atomic::new(0),
        }
    }
}

/// What is kept beside a socket's timers. Written under the socket's lock.
pub(crate) struct Data {
    xmit: Event,
    delack: Event,
    /// The minimal timeout, in us, that is the floor of the socket's variance term.
    rto_min: Atomic<u32>,
    /// The socket's namespace.
    net: Arc<Namespace>,
}

impl Data {
    fn event(&self, which: Which) -> &Event {
        match which {
            Which::Xmit => &self.xmit,
            Which::DelAck => &self.delack,
        }
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
            let is_set = |which| timer.data().event(which).deadline.load(Relaxed) != 0;
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
    let net = NAMESPACES.get(sk)?;
    let data = Data {
        xmit: Event::new(),
        delack: Event::new(),
        rto_min: Atomic::new(sk.kernel_rto_min_us()),
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
    let event = timer.data().event(which);
    event.deadline.store(at, Relaxed);
    let counter = match (which, cover(timer, which, at)) {
        (Which::Xmit, true) => Counter::Started,
        (Which::Xmit, false) => Counter::Rearmed,
        (Which::DelAck, _) => Counter::AcksDelayed,
    };
    timer.data().net.stats.count(counter);
}

/// Arms the timer for the deadline `at` unless it will expire before. Returns whether it did.
fn cover(timer: &Timer, which: Which, at: u64) -> bool {
    let armed = &timer.data().event(which).armed;
    let queued = timer.is_armed(which).then(|| armed.load(Relaxed));
    if deadline::is_covered(queued, at) {
        return false;
    }
    armed.store(at, Relaxed);
    timer.arm(which, at);
    true
}

/// TCP's timers, served from hrtimers.
pub(crate) struct HiresTimers;

impl Backend for HiresTimers {
    type Data = Data;

    fn start(sk: &mut LockedSock, timer: Option<ArcBorrow<'_, Timer>>, delay: u64) -> bool {
        if LEAVING.load(Relaxed) != 0 || deadline::is_for_wheel(delay) {
            if let Some(timer) = timer {
                // The queued timer, if any, will find nothing to do.
                timer.data().xmit.deadline.store(0, Relaxed);
                timer.data().net.stats.count(Counter::Wheel);
            }
            return false;
        }
        let at = hrtimer::now().saturating_add(delay);
        with_timer(sk, timer, |timer| set(timer, Which::Xmit, at)).is_some()
    }

    fn delay_ack(sk: &mut LockedSock, timer: Option<ArcBorrow<'_, Timer>>, ato: u32) -> Ack {
        if LEAVING.load(Relaxed) != 0 {
            if let Some(timer) = timer {
                timer.data().delack.deadline.store(0, Relaxed);
            }
            return Ack::Wheel;
        }
        let longest = delack::longest_us(
            sk.rto_min_us(),
            ticks_to_us(1),
            ticks_to_us(sk.delack_max_ticks()),
        );
        let delay = u64::from(ticks_to_us(ato).min(longest)) * 1000;
        let is_delayed = sk.is_ack_delayed();
        let ack = with_timer(sk, timer, |timer| {
            let now = hrtimer::now();
            let pending = timer.data().delack.deadline.load(Relaxed);
            let pending = (pending != 0 && is_delayed).then_some(pending);
            match delack::due(now, delay, pending) {
                None => Ack::Now,
                Some(at) => {
                    set(timer, Which::DelAck, at);
                    Ack::In(at - now)
                }
            }
        });
        ack.unwrap_or(Ack::Wheel)
    }

    fn check(timer: ArcBorrow<'_, Timer>, which: Which) -> State {
        let data = timer.data();
        let at = data.event(which).deadline.load(Relaxed);
        if at == 0 {
            return State::None;
        }
        if hrtimer::now() >= at {
            data.net.stats.count(match which {
                Which::Xmit => Counter::Fired,
                Which::DelAck => Counter::AcksFired,
            });
            return State::Due;
        }
        if cover(&timer, which, at) && which == Which::Xmit {
            data.net.stats.count(Counter::Early);
        }
        State::Early
    }

    fn stop(timer: ArcBorrow<'_, Timer>, sync: bool) {
        for which in [Which::Xmit, Which::DelAck] {
            timer.data().event(which).deadline.store(0, Relaxed);
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

    fn rto(sk: &mut LockedSock, timer: Option<ArcBorrow<'_, Timer>>) -> u32 {
        follow_rto_min(sk, timer);
        let kernel_ticks = sk.rto_ticks();
        let max_ticks = sk.rto_max_ticks();
        let inputs = rto::Inputs {
            srtt_us8: sk.srtt_us8(),
            rttvar_us: sk.rttvar_us(),
            backoff: sk.backoff(),
            linear: timer.map_or(0, |timer| timer.data().net.linear_timeouts()),
            kernel_ticks,
            kernel_us: ticks_to_us(kernel_ticks),
            max_ticks,
            max_us: ticks_to_us(max_ticks),
        };
        rto::timeout_us(&inputs, us_to_ticks)
    }
}

/// Makes the socket's variance term follow a change of the minimal timeout.
fn follow_rto_min(sk: &mut LockedSock, timer: Option<ArcBorrow<'_, Timer>>) {
    let (Some(timer), new) = (timer, sk.rto_min_us()) else {
        return;
    };
    let rto_min = &timer.data().rto_min;
    let old = rto_min.load(Relaxed);
    if old == new || sk.srtt_us8() == 0 {
        return;
    }
    rto_min.store(new, Relaxed);
    if let Some(rttvar) = rto::rebase_rttvar_us(sk.rttvar_us(), sk.mdev_us(), old, new) {
        sk.set_rttvar_us(rttvar);
        // The kernel's own timeout says the same, in ticks.
        let ticks = us_to_ticks(rto::base_us(sk.srtt_us8(), rttvar));
        sk.set_rto_ticks(rto::back_off(ticks, sk.backoff(), sk.rto_max_ticks()));
    }
}
