// SPDX-License-Identifier: GPL-2.0

//! The retransmit timer of each TCP socket, on an hrtimer.
//!
//! A socket gets its timer at the first start, and keeps it until it is destroyed or the module
//! leaves. The timer serves all the events that share it: retransmission, loss probe, reordering,
//! zero-window probe.
//!
//! ```text
//!   start(): deadline := now + delay
//!       the queued timer expires before that ... leave it alone
//!       else .................................. put it on the clock at the deadline
//!
//!   expiry: tcp_run_write_timer() locks the socket (or leaves that to who owns it), then
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
        sock_timer::SockTimer,
        tcp_hires::{
            self,
            Backend,
            State, //
        },
    },
    policy::{
        deadline,
        rto, //
    },
    stats::{
        Counter,
        Stats,
        STATS, //
    },
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

/// The timer of one socket.
type Timer = SockTimer<Data>;

/// What is kept beside a socket's timer. Written under the socket's lock.
pub(crate) struct Data {
    /// When the pending event is due, in ns of `CLOCK_MONOTONIC`. 0: the wheel serves it.
    deadline: Atomic<u64>,
    /// What the timer was last armed for, in ns of `CLOCK_MONOTONIC`. Holds while it is queued.
    armed: Atomic<u64>,
    /// The minimal timeout, in us, that is the floor of the socket's variance term.
    rto_min: Atomic<u32>,
    /// The counters of the socket's namespace.
    stats: Arc<Stats>,
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
            timer.disarm_sync();
            let deadline = timer.data().deadline.load(Relaxed);
            if tcp_hires::detach::<HiresTimers>(sk, &timer)
                && deadline != 0
                && sk.is_event_pending()
            {
                sk.start_wheel();
            }
        });
    }
}

/// Gives the socket a timer, if there is memory for one.
fn attach(sk: &mut LockedSock) -> Option<Arc<Timer>> {
    // Of a closed socket nobody would take it back.
    if sk.is_closed() {
        return None;
    }
    let stats = STATS.get(sk)?;
    let data = Data {
        deadline: Atomic::new(0),
        armed: Atomic::new(0),
        rto_min: Atomic::new(sk.kernel_rto_min_us()),
        stats: stats.clone(),
    };
    let Ok(listed) = tcp_hires::attach::<HiresTimers>(sk, data) else {
        stats.count(Counter::AllocFailures);
        return None;
    };
    let timer = listed.clone_arc();
    SOCKETS.lock().push_back(listed);
    stats.count(Counter::Sockets);
    Some(timer)
}

/// Puts the timer on the clock at the deadline `at`.
fn arm(timer: &Timer, at: u64) {
    timer.data().armed.store(at, Relaxed);
    timer.arm(at);
}

/// The retransmit timers, served from hrtimers.
pub(crate) struct HiresTimers;

impl Backend for HiresTimers {
    type Data = Data;

    fn start(sk: &mut LockedSock, timer: Option<ArcBorrow<'_, Timer>>, delay: u64) -> bool {
        if LEAVING.load(Relaxed) != 0 || deadline::is_for_wheel(delay) {
            if let Some(timer) = timer {
                // The queued timer, if any, will find nothing to do.
                timer.data().deadline.store(0, Relaxed);
                timer.data().stats.count(Counter::Wheel);
            }
            return false;
        }
        let attached;
        let timer = match timer {
            Some(timer) => timer,
            None => {
                let Some(new) = attach(sk) else {
                    return false;
                };
                attached = new;
                attached.as_arc_borrow()
            }
        };
        let data = timer.data();
        let at = hrtimer::now().saturating_add(delay);
        data.deadline.store(at, Relaxed);
        let armed = timer.is_armed().then(|| data.armed.load(Relaxed));
        if deadline::is_covered(armed, at) {
            data.stats.count(Counter::Rearmed);
        } else {
            arm(&timer, at);
            data.stats.count(Counter::Started);
        }
        true
    }

    fn check(timer: ArcBorrow<'_, Timer>) -> State {
        let data = timer.data();
        let at = data.deadline.load(Relaxed);
        if at == 0 {
            return State::None;
        }
        if hrtimer::now() >= at {
            data.stats.count(Counter::Fired);
            return State::Due;
        }
        let armed = timer.is_armed().then(|| data.armed.load(Relaxed));
        if !deadline::is_covered(armed, at) {
            arm(&timer, at);
            data.stats.count(Counter::Early);
        }
        State::Early
    }

    fn stop(timer: ArcBorrow<'_, Timer>, sync: bool) {
        let data = timer.data();
        data.deadline.store(0, Relaxed);
        let cancelled = if sync {
            timer.disarm_sync()
        } else {
            timer.disarm()
        };
        if cancelled {
            data.stats.count(Counter::Cancelled);
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
