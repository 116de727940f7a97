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
//! first of all.

use crate::{
    ext::{
        hrtimer,
        random,
        served::Sockets,
        sock::{
            jiffies,
            ticks_to_us,
            LockedSock,
            LockedSockMut,
            Wait,
            TICK_NS, //
        },
        sock_timer::{
            Locked,
            SockTimer,
            Which, //
        },
        tcp_hires::{
            Ack,
            Backend,
            Event,
            Passed,
            State, //
        },
        tsq::Freed, //
    },
    netns::{
        Namespace,
        FLOOR, //
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
use core::{
    cell::Cell,
    cmp::Ordering, //
};
use kernel::prelude::*;

/// The timers of one socket.
type Timer = SockTimer<HiresTimers>;

// It has an object of 256 bytes.
#[cfg(CONFIG_64BIT)]
const _: () = assert!(size_of::<Timer>() <= 256);

/// Those of a socket that is locked.
type LockedTimer<'a> = Locked<'a, HiresTimers>;

/// What is kept beside a socket's timers, under the socket's lock.
pub(crate) struct Data {
    /// The minimal timeout as it was last looked up, see [`Own`]. One by one, to save room.
    rto_min_set: Cell<u32>,
    minimum: Cell<Minimum>,
    variance: Cell<rto::Variance>,
    /// Deadlines set and ACKs delayed that no counter has yet: four bits each.
    uncounted: Cell<u8>,
    /// By how much longer than `tcp_delack_min` an ACK should be delayed, in units of [`ATO_UNIT_US`].
    ato: Cell<u16>,
    /// When the last segment with data arrived since `tcp_delack_min` is set, in us of `CLOCK_MONOTONIC`.
    /// That wraps, as the kernel's does: after 71 minutes a gap may be taken for a short one, once.
    received: Cell<u32>,
    /// By when the socket's timers on the wheel have expired, if they are queued there; none: not
    /// known, they were not started here.
    woken: [Cell<Option<deadline::Woken>>; 2],
}

/// In us; the longest prediction fits.
const ATO_UNIT_US: u32 = 4;
const _: () = assert!(delack::INTERACTIVE_MAX_US / ATO_UNIT_US <= u16::MAX as u32);

/// What the minimal timeout is to the kernel's own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Minimum {
    Shorter,
    /// Shorter, but not if it is rounded up to a tick.
    Finer,
    Same,
    Longer,
}

impl Minimum {
    #[inline]
    fn is_shorter(self) -> bool {
        matches!(self, Self::Shorter | Self::Finer)
    }
}

/// A minimal timeout of a socket's, and what it makes of the estimate.
#[derive(Clone, Copy)]
struct Own {
    /// In us, as it is set; 0: nobody has looked yet.
    set: u32,
    minimum: Minimum,
    /// The variance term, where the minimum is not the kernel's.
    variance: rto::Variance,
}

impl Own {
    /// Returns the minimal timeout in us, where it is not the kernel's own.
    #[inline]
    fn rto_min_us(self) -> u32 {
        self.set.max(FLOOR.get() as u32)
    }

    /// Returns what decides on early timeouts.
    #[inline]
    fn early(self, net: &Namespace) -> rto::Early {
        rto::Early {
            variance_max: net.rto_variance_max(),
            rto_min_us: self.rto_min_us(),
            is_short: self.minimum.is_shorter(),
        }
    }

    /// Returns the path as the kernel knows it, and as it is with this minimum.
    #[inline]
    fn paths(self, sk: LockedSock<'_>) -> (rto::Path, rto::Path) {
        let kernel = rto::Path {
            srtt_us8: sk.srtt_us8(),
            rttvar_us: sk.rttvar_us(),
        };
        let own = match self.minimum {
            Minimum::Same => kernel,
            _ => rto::Path {
                rttvar_us: self.variance.rttvar_us,
                ..kernel
            },
        };
        (kernel, own)
    }

    /// See [`Backend::slack`].
    #[inline]
    fn slack_us(self, is_alone: bool) -> Option<u32> {
        if self.minimum == Minimum::Shorter {
            return Some(rto::slack_us(self.rto_min_us(), is_alone));
        }
        (is_alone && self.minimum != Minimum::Same).then(|| self.rto_min_us())
    }

    /// Returns what it is now: the variance term follows a change of the minimum.
    #[inline]
    fn now(self, sk: LockedSock<'_>) -> Self {
        match self.set == sk.rto_min_setting() {
            true => self,
            false => self.changed(sk),
        }
    }

    #[cold]
    fn changed(self, sk: LockedSock<'_>) -> Self {
        // While nothing answers, the socket may have no route to ask.
        if sk.early_timeouts() != 0 || sk.has_backed_off() {
            return self;
        }
        let (_, path) = self.paths(sk);
        let kernel_ticks = sk.kernel_rto_min_ticks();
        let kernel_min = ticks_to_us(kernel_ticks);
        let old = match self.minimum {
            // TCP_RTO_MIN_US may have changed the kernel's own, too.
            Minimum::Same => kernel_min.max(self.set),
            _ => self.rto_min_us(),
        };
        // In this order: if it changes right now, it is looked up once more.
        let set = sk.rto_min_setting();
        let new = sk.rto_min_us();
        let rttvar = match path.srtt_us8 {
            0 => 0,
            _ => rto::rebase_rttvar_us(path.rttvar_us, sk.mdev_us(), old, new)
                .unwrap_or(path.rttvar_us),
        };
        let now = Self {
            set,
            minimum: match new.cmp(&kernel_min) {
                Ordering::Greater => Minimum::Longer,
                Ordering::Equal => Minimum::Same,
                Ordering::Less if new > ticks_to_us(kernel_ticks.saturating_sub(1)) => {
                    Minimum::Finer
                }
                Ordering::Less => Minimum::Shorter,
            },
            variance: rto::Variance::new(rttvar),
        };
        match now.rto_min_us() == new {
            true => now,
            // It is a route's. So it is the kernel's own, too.
            false => Self {
                minimum: Minimum::Same,
                ..now
            },
        }
    }
}

impl LockedTimer<'_> {
    /// Returns the minimal timeout as it was last looked up.
    #[inline]
    fn own(self) -> Own {
        Own {
            set: self.data().rto_min_set.get(),
            minimum: self.data().minimum.get(),
            variance: self.data().variance.get(),
        }
    }

    /// Returns the minimal timeout as it was last looked up, unless it may have changed since.
    #[inline]
    fn current(self, sk: LockedSock<'_>) -> Option<Own> {
        (self.data().rto_min_set.get() == sk.rto_min_setting()).then(|| self.own())
    }

    /// Looks the minimal timeout up again.
    #[cold]
    fn look_up(self, sk: LockedSock<'_>) -> Own {
        let own = self.own().changed(sk);
        self.data().rto_min_set.set(own.set);
        self.data().minimum.set(own.minimum);
        self.data().variance.set(own.variance);
        own
    }

    /// Counts a start of the retransmit timer.
    fn count_start(self, armed: bool) {
        if armed {
            self.net().stats.count(Counter::TimersStarted);
        } else {
            self.count_later(Counter::TimersRearmed, 0);
        }
    }

    /// Counts an event of which there may be one a segment: most of them touch no memory but the
    /// socket's. `shift`: where it is counted until then.
    fn count_later(self, counter: Counter, shift: u32) {
        let uncounted = self.data().uncounted.get();
        if (uncounted >> shift) & 15 == 15 {
            self.data().uncounted.set(uncounted & !(15 << shift));
            self.net().stats.add(counter, 16);
        } else {
            self.data().uncounted.set(uncounted + (1 << shift));
        }
    }

    /// Counts what [`Self::count_later`] has left.
    fn report(self) {
        let uncounted = self.data().uncounted.take();
        self.net()
            .stats
            .add(Counter::TimersRearmed, (uncounted & 15).into());
        self.net()
            .stats
            .add(Counter::AcksDelayed, (uncounted >> 4).into());
    }

    /// Returns the predicted delay of an ACK and what it is founded on, both in us. The kernel's own
    /// prediction where nothing is set.
    fn ato(self, sk: LockedSock<'_>) -> (u32, u32) {
        let base = self.net().delack_min_us();
        if base == delack::DEFAULT_MIN_US {
            (ticks_to_us(sk.ato_ticks()), base)
        } else {
            (base + u32::from(self.data().ato.get()) * ATO_UNIT_US, base)
        }
    }

    /// Makes `ato` us the prediction that is founded on `base`, which is not the default.
    fn set_ato(self, ato: u32, base: u32) {
        let more = ato.saturating_sub(base) / ATO_UNIT_US;
        self.data().ato.set(u16::try_from(more).unwrap_or(u16::MAX));
    }
}

/// The sockets that have timers of ours.
static SOCKETS: Sockets<HiresTimers> = Sockets::new();

/// As [`set`]. Returns none where the timer wheel shall serve a delay that long.
#[inline(always)]
fn run(
    sk: LockedSockMut<'_>,
    timer: LockedTimer<'_>,
    which: Which,
    now: u64,
    delay: u64,
) -> Option<bool> {
    if deadline::is_for_wheel(delay) {
        forget(timer, which);
        timer.net().stats.count(Counter::TimersOnWheel);
        return None;
    }
    Some(set(sk, timer, which, now, delay))
}

/// Sets the deadline `delay` after `now`, both in ns, and sees to it that the timer expires then, or
/// before. Returns whether the timer had to be armed for it.
#[inline(always)]
fn set(sk: LockedSockMut<'_>, timer: LockedTimer<'_>, which: Which, now: u64, delay: u64) -> bool {
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
fn cover(sk: LockedSockMut<'_>, timer: LockedTimer<'_>, which: Which, at: u64, delay: u64) -> bool {
    if deadline::is_far(delay, TICK_NS) {
        let woken = &timer.data().woken[which as usize];
        let tick = jiffies() as u16;
        let armed = match woken.get() {
            Some(woken) if sk.is_on_wheel(which) => {
                Some(at - delay + deadline::woken_ns(woken, tick, TICK_NS))
            }
            _ => None,
        };
        if !deadline::is_covered(armed, at, delay) {
            let ticks = deadline::wake_ticks(delay, TICK_NS);
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

/// TCP's timers, served from hrtimers.
pub(crate) struct HiresTimers;

impl Backend for HiresTimers {
    type Data = Data;
    type Net = Namespace;

    fn sockets() -> &'static Sockets<Self> {
        &SOCKETS
    }

    fn new(sk: LockedSock<'_>) -> Option<Data> {
        // Of a closed socket nobody would take them back.
        if sk.is_closed() {
            return None;
        }
        Some(Data {
            rto_min_set: Cell::new(0),
            minimum: Cell::new(Minimum::Same),
            variance: Cell::new(rto::Variance::new(0)),
            uncounted: Cell::new(0),
            ato: Cell::new(0),
            received: Cell::new(0),
            woken: [Cell::new(None), Cell::new(None)],
        })
    }

    fn attached(sk: LockedSockMut<'_>, timer: LockedTimer<'_>) {
        timer.net().stats.count(Counter::Sockets);
        // What a server sends first has no timer before it.
        tsq::limit(sk, timer.net());
    }

    fn refused(net: &Namespace) {
        net.stats.count(Counter::AllocFailures);
    }

    fn leave(sk: LockedSockMut<'_>, timer: LockedTimer<'_>) {
        let now = hrtimer::now();
        // The next timeout is the kernel's own.
        let kernel_at = (sk.is_timeout_pending() && !sk.has_backed_off())
            .then(|| kernel_at(*sk, timer, sk.rto_ticks(), sk.oldest_sent_us()))
            .flatten();
        sk.set_early_wait(Wait::None);
        for which in [Which::Xmit, Which::DelAck] {
            let deadline = timer.deadline(which);
            let at = match (which, kernel_at) {
                (Which::Xmit, Some((kernel_at, _))) => deadline.max(kernel_at),
                _ => deadline,
            };
            let is_pending = match which {
                Which::Xmit => sk.is_event_pending(),
                Which::DelAck => sk.is_ack_delayed(),
            };
            if at != 0 && is_pending {
                sk.start_wheel(which, at.saturating_sub(now).div_ceil(TICK_NS));
            }
        }
    }

    #[inline]
    fn start(
        sk: LockedSockMut<'_>,
        timer: LockedTimer<'_>,
        event: Event,
        now: u64,
        delay: u64,
    ) -> Option<u64> {
        let delay = match event {
            Event::Timeout if sk.early_wait() != Wait::None => restarted(sk, timer, now, delay),
            Event::Timeout => fresh(sk, timer, now, delay),
            Event::Fixed => {
                sk.set_early_wait(Wait::Fixed);
                delay
            }
            // As the wheel has it.
            Event::Other if !timer.data().minimum.get().is_shorter() => {
                delay.next_multiple_of(TICK_NS)
            }
            Event::Other => delay,
            Event::DelAck => {
                let armed = run(sk, timer, Which::DelAck, now, delay);
                return armed.map(|_| delay);
            }
        };
        // Each segment that is sent starts this timer.
        tsq::limit(sk, timer.net());
        timer.count_start(run(sk, timer, Which::Xmit, now, delay)?);
        Some(delay)
    }

    #[inline]
    fn data_received(sk: LockedSockMut<'_>, timer: LockedTimer<'_>) {
        let (ato, base) = timer.ato(*sk);
        if base == delack::DEFAULT_MIN_US {
            return;
        }
        let now = (sk.clock_ns() / 1000) as u32;
        let gap = now.wrapping_sub(timer.data().received.get());
        timer.data().received.set(now);
        let ato = if sk.is_ack_quick() {
            // None is delayed meanwhile.
            base
        } else {
            let rto = ticks_to_us(sk.rto_ticks());
            delack::after_gap_us(ato, gap, base, rto)
        };
        timer.set_ato(ato, base);
    }

    #[inline]
    fn delay_ack(sk: LockedSockMut<'_>, timer: LockedTimer<'_>) -> Ack {
        if !timer.net().delayed_ack() {
            return Ack::Now;
        }
        if sk.ato_ticks() == 0 && timer.net().delack_min_us() >= ticks_to_us(1) {
            // A FIN before any data: the kernel waits for the next tick.
            forget(timer, Which::DelAck);
            return Ack::Wheel;
        }
        // First, so that nothing need be kept across what it calls.
        let wait = ns(ack_wait_us(*sk, timer));
        let now = sk.clock_ns();
        let pending = timer.deadline(Which::DelAck);
        let pending = (pending != 0 && sk.is_ack_delayed()).then_some(pending);
        match delack::due(now, wait, pending) {
            None => Ack::Now,
            Some(at) => {
                sk.set_ack_delayed();
                set(sk, timer, Which::DelAck, now, at - now);
                timer.count_later(Counter::AcksDelayed, 4);
                Ack::In(at - now)
            }
        }
    }

    fn ato(sk: LockedSock<'_>, timer: LockedTimer<'_>) -> u32 {
        ack_wait_us(sk, timer)
    }

    fn check(sk: LockedSockMut<'_>, timer: LockedTimer<'_>, which: Which) -> State {
        let at = timer.deadline(which);
        if at == 0 {
            return State::None;
        }
        let now = hrtimer::now();
        if now >= at {
            match which {
                Which::Xmit => timer.net().stats.count(Counter::TimersFired),
                Which::DelAck => {
                    timer.net().stats.count(Counter::AcksFired);
                    let (ato, base) = timer.ato(*sk);
                    if base != delack::DEFAULT_MIN_US {
                        let rto = ticks_to_us(sk.rto_ticks());
                        let ato = delack::after_expiry_us(ato, sk.is_interactive(), base, rto);
                        timer.set_ato(ato, base);
                    }
                }
            }
            return State::Due(now - at);
        }
        if cover(sk, timer, which, at, at - now) && which == Which::Xmit {
            timer.net().stats.count(Counter::TimersEarly);
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
        timer.report();
        for which in [Which::Xmit, Which::DelAck] {
            forget(timer, which);
            if timer.disarm(which) && which == Which::Xmit {
                timer.net().stats.count(Counter::TimersCancelled);
            }
        }
    }

    #[inline]
    fn freed(sk: Freed) {
        tsq::freed(sk);
    }

    fn coarse_rtt(sk: LockedSockMut<'_>, timer: LockedTimer<'_>, rtt: u32) -> u32 {
        match timer.data().minimum.get().is_shorter() {
            true => rto::coarse_rtt_us(rtt, sk.srtt_us8()),
            false => rtt,
        }
    }

    fn rto_init(net: Option<&Namespace>) -> u32 {
        net.map_or(rto::DEFAULT_INIT_US, Namespace::rto_init_us)
    }

    #[inline]
    fn rto(sk: LockedSockMut<'_>, timer: LockedTimer<'_>) -> u32 {
        // This is asked for each segment: nothing is kept for the rare cases, they end here.
        timer
            .current(*sk)
            .and_then(|own| common_timeout_us(*sk, timer, own))
            .unwrap_or_else(|| looked_up_timeout_us(*sk, timer))
    }

    #[inline]
    fn slack(sk: LockedSockMut<'_>, timer: LockedTimer<'_>, is_alone: bool) -> Option<u32> {
        match timer.current(*sk) {
            Some(own) if own.minimum == Minimum::Same => None,
            Some(own) if !sk.has_backed_off() => own.slack_us(is_alone),
            _ => rare_slack_us(*sk, timer, is_alone),
        }
    }

    fn rto_info(sk: LockedSock<'_>, timer: LockedTimer<'_>) -> u32 {
        timeout_us(sk, timer, timer.own().now(sk))
    }

    #[inline]
    fn sampled(sk: LockedSockMut<'_>, timer: LockedTimer<'_>, is_round: bool) {
        if timer.data().minimum.get() == Minimum::Same {
            return;
        }
        let own = timer.own();
        let (mdev, min) = (sk.mdev_us(), own.rto_min_us());
        if !own.variance.explains(mdev, is_round, min) {
            timer
                .data()
                .variance
                .set(own.variance.sampled(mdev, is_round, min));
        }
    }

    fn timeout(sk: LockedSockMut<'_>, timer: LockedTimer<'_>, sent: u64, ticks: u32) -> Passed {
        if sk.has_backed_off() || sk.early_wait() == Wait::Fixed {
            sk.set_early_wait(Wait::None);
            return Passed::Kernel;
        }
        let now = hrtimer::now();
        let left = kernel_at(*sk, timer, ticks, sent).and_then(|(at, tolerance)| {
            let left = u32::try_from(at.saturating_sub(now).div_ceil(1000)).unwrap_or(u32::MAX);
            (left > tolerance).then_some((at, left))
        });
        let Some((at, left)) = left else {
            sk.set_early_wait(Wait::None);
            return Passed::Kernel;
        };
        sk.set_early_wait(Wait::Until((at / 1000) as u32));
        let (kernel, own) = (kernel(ticks), timer.own());
        let early = |timeouts| early_us(*sk, timer, own, kernel, timeouts);
        let timeouts = sk.early_timeouts().saturating_add(1);
        let (first, next) = (early(0), early(timeouts));
        if early(timeouts - 1).is_none() {
            return Passed::TooSoon(left);
        }
        sk.set_early_timeouts(timeouts);
        let next = next
            .and_then(|us| u32::try_from(stretched(timer, ns(us)) / 1000).ok())
            // Then the kernel's own one must not come sooner after that than any has before.
            .filter(|us| us.saturating_add(first.unwrap_or(0)) <= left);
        Passed::Early(next.unwrap_or(left))
    }
}

/// Returns when the kernel's own timeout of so many ticks is over, in ns, and by how many us before that
/// it may pass; none if the timer was started for nothing else. `sent`: when the oldest segment was sent,
/// in us.
#[cold]
fn kernel_at(
    sk: LockedSock<'_>,
    timer: LockedTimer<'_>,
    ticks: u32,
    sent: u64,
) -> Option<(u64, u32)> {
    let kernel = kernel(ticks);
    let deadline = timer.deadline(Which::Xmit);
    let early = early_us(sk, timer, timer.own(), kernel, sk.early_timeouts());
    match (sk.early_wait(), early) {
        (Wait::Fixed, _) => None,
        (Wait::Until(at), _) => {
            // The low bits tell: it is less than an hour away.
            let now = hrtimer::now();
            let left = at.wrapping_sub((now / 1000) as u32) as i32;
            let at = now.saturating_add_signed(i64::from(left) * 1000);
            Some((at, kernel.tick_us))
        }
        (Wait::None, Some(early)) => {
            // The timer was started for this. Or a setting has changed meanwhile, but the segment was
            // sent no later than that.
            let since = deadline
                .saturating_sub(ns(early))
                .max(sent.saturating_mul(1000));
            let later = match sk.has_probed() {
                true => later_probe_us(sk, timer, kernel, early),
                false => 0,
            };
            Some((
                since.saturating_add(ns(kernel.us) + ns(later)),
                kernel.tick_us,
            ))
        }
        // It was started for the kernel's own, unless it is much too soon.
        (Wait::None, None) => Some((
            sent.saturating_mul(1000).saturating_add(ns(kernel.us)),
            kernel.us / 2,
        )),
    }
}

/// Returns by how many us the kernel's own loss probe, after which the timeout starts again, comes later than
/// that before the timeout `early`.
fn later_probe_us(
    sk: LockedSock<'_>,
    timer: LockedTimer<'_>,
    kernel: rto::Kernel,
    early: u32,
) -> u32 {
    let (path, _) = timer.own().paths(sk);
    let slack = match sk.is_alone() {
        true => sk.kernel_rto_min_us(),
        false => rto::SLACK_US,
    };
    let own = timer.own().slack_us(sk.is_alone()).unwrap_or(slack);
    rto::probe_us(path, slack, kernel.us).saturating_sub(rto::probe_us(path, own, early))
}

/// Returns the delay in ns of a timer that is started for a timeout where it has run for another one, or
/// for an early one.
#[cold]
fn restarted(sk: LockedSockMut<'_>, timer: LockedTimer<'_>, now: u64, delay: u64) -> u64 {
    match sk.early_wait() {
        // Nothing has arrived since. What is left of a wait has been stretched before, and the kernel's
        // timeout is not put off.
        Wait::Until(at) if sk.has_timed_out_early() => {
            let left = at.wrapping_sub((now / 1000) as u32) as i32;
            delay.min(ns(u32::try_from(left).unwrap_or(0).max(1)))
        }
        _ => {
            sk.set_early_wait(Wait::None);
            fresh(sk, timer, now, delay)
        }
    }
}

/// Returns the delay in ns of a timer that is started for a timeout. If it is the kernel's own though early
/// ones may come, that is noted: when the timer expires, one might be possible again.
#[inline]
fn fresh(sk: LockedSockMut<'_>, timer: LockedTimer<'_>, now: u64, delay: u64) -> u64 {
    let delay = stretched(timer, delay);
    if timer.data().minimum.get().is_shorter()
        && delay >= ns(ticks_to_us(sk.rto_ticks()))
        && !sk.has_backed_off()
    {
        sk.set_early_wait(Wait::Until((now.saturating_add(delay) / 1000) as u32));
    }
    delay
}

/// Converts us to ns.
fn ns(us: u32) -> u64 {
    u64::from(us) * 1000
}

/// Returns the kernel's own timeout of so many ticks.
#[inline]
fn kernel(ticks: u32) -> rto::Kernel {
    rto::Kernel {
        us: ticks_to_us(ticks),
        tick_us: ticks_to_us(1),
    }
}

/// Returns a timeout of `delay` ns as `tcp_rto_jitter` has it.
#[inline]
fn stretched(timer: LockedTimer<'_>, delay: u64) -> u64 {
    match timer.net().rto_jitter() {
        0 => delay,
        percent => jitter::stretched(delay, percent, random::u32()),
    }
}

/// Returns the retransmission timeout in us as it is now: the early one, or the kernel's own.
fn timeout_us(sk: LockedSock<'_>, timer: LockedTimer<'_>, own: Own) -> u32 {
    common_timeout_us(sk, timer, own).unwrap_or_else(|| rare_timeout_us(sk, timer, own))
}

/// As [`timeout_us`], if nothing has timed out and nothing is known but samples.
#[inline]
fn common_timeout_us(sk: LockedSock<'_>, timer: LockedTimer<'_>, own: Own) -> Option<u32> {
    let is_first = !sk.has_backed_off() && sk.early_timeouts() == 0;
    if !is_first || sk.srtt_us8() == 0 || sk.is_window_closed() {
        return None;
    }
    let kernel = kernel(sk.rto_ticks());
    let (kernel_path, path) = own.paths(sk);
    if kernel.knows_more(kernel_path) {
        return None;
    }
    match own.minimum {
        // Rounded up to ticks, the kernel's own is less only where it has a maximum.
        Minimum::Same if timer.net().rto_variance_max() == 0 => {
            Some(path.base_us().min(kernel.us).max(1))
        }
        Minimum::Shorter | Minimum::Finer => {
            let us = rto::first_us(path, own.early(timer.net()));
            rto::has_room(us, path, kernel).then_some(us)
        }
        _ => None,
    }
}

/// As [`timeout_us`], if [`common_timeout_us`] has none.
#[cold]
fn rare_timeout_us(sk: LockedSock<'_>, timer: LockedTimer<'_>, own: Own) -> u32 {
    let kernel = kernel(sk.rto_ticks());
    if !sk.has_backed_off() {
        if let Some(early) = early_us(sk, timer, own, kernel, sk.early_timeouts()) {
            return early;
        }
    }
    let max = ticks_to_us(sk.rto_max_ticks());
    let (kernel_path, path) = own.paths(sk);
    let us = rto::kernel_us(kernel_path, sk.backoff(), kernel, max);
    match own.minimum {
        Minimum::Longer if path.srtt_us8 != 0 => us
            .max(rto::back_off(path.base_us(), sk.backoff(), max))
            .min(max),
        _ => us,
    }
}

/// As [`timeout_us`], with the minimal timeout as it is now.
#[cold]
fn looked_up_timeout_us(sk: LockedSock<'_>, timer: LockedTimer<'_>) -> u32 {
    let own = timer.current(sk).unwrap_or_else(|| timer.look_up(sk));
    timeout_us(sk, timer, own)
}

/// See [`Backend::slack`], with the minimal timeout as it is now. While the timeout is backed off there is only one
/// probe until then, and it may be long: a probe that comes soon would be lost with the segment.
#[cold]
fn rare_slack_us(sk: LockedSock<'_>, timer: LockedTimer<'_>, is_alone: bool) -> Option<u32> {
    let own = timer.current(sk).unwrap_or_else(|| timer.look_up(sk));
    match own.minimum.is_shorter() && sk.has_backed_off() {
        true => None,
        false => own.slack_us(is_alone),
    }
}

/// Returns the early timeout in us after so many; none if the kernel's own comes first. What a closed window refuses
/// is for the kernel's own alone, as probes of such a window are.
fn early_us(
    sk: LockedSock<'_>,
    timer: LockedTimer<'_>,
    own: Own,
    kernel: rto::Kernel,
    timeouts: u8,
) -> Option<u32> {
    let (kernel_path, mut path) = own.paths(sk);
    if sk.is_window_closed() && !sk.is_opening() {
        return None;
    }
    if path.srtt_us8 == 0 {
        return match sk.is_rto_init_fixed() {
            true => None,
            false => rto::early_init_us(timer.net().rto_init_us(), timeouts, kernel),
        };
    }
    let early = own.early(timer.net());
    if kernel.knows_more(kernel_path) {
        if !early.is_short {
            return None;
        }
        let remembered = kernel.remembered_us(sk.kernel_rto_min_us());
        path.rttvar_us = path.rttvar_us.max(remembered.saturating_mul(3));
    }
    let backoff = rto::Backoff {
        timeouts,
        linear: timer.net().linear_timeouts(),
        max_us: timer.net().backoff_max_us(),
    };
    rto::early_us(path, early, backoff, kernel)
}

/// Returns how long an ACK waits, in us. Where the minimal timeout is the kernel's own it may be a route's, which can
/// change with the route.
#[inline]
fn ack_wait_us(sk: LockedSock<'_>, timer: LockedTimer<'_>) -> u32 {
    match timer.data().minimum.get() {
        Minimum::Same => looked_up_ack_wait_us(sk, timer),
        _ => match timer.current(sk) {
            Some(own) => limited_ack_wait_us(sk, timer, own.rto_min_us()),
            None => looked_up_ack_wait_us(sk, timer),
        },
    }
}

/// As [`ack_wait_us`], with the minimal timeout as it is now.
#[inline(never)]
fn looked_up_ack_wait_us(sk: LockedSock<'_>, timer: LockedTimer<'_>) -> u32 {
    limited_ack_wait_us(sk, timer, sk.rto_min_us())
}

/// As [`ack_wait_us`], with that minimal timeout, in us.
#[inline(always)]
fn limited_ack_wait_us(sk: LockedSock<'_>, timer: LockedTimer<'_>, rto_min: u32) -> u32 {
    let longest = delack::longest_us(rto_min, ticks_to_us(1), sk.delack_max_us());
    let (ato, base) = timer.ato(sk);
    let worth = delack::delay_us(ato, base, sk.srtt_us8() >> 3);
    worth.min(longest)
}
