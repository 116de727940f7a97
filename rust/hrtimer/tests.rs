// SPDX-License-Identifier: GPL-2.0

//! KUnit tests of timers.
//!
//! They hold on a clock without high resolution, too, where timers expire on ticks; and in
//! User-mode Linux on a virtual clock, which stands still while a callback spins without a delay.

use super::*;
use kernel::{
    cpu::{
        nr_cpu_ids,
        CpuId, //
    },
    cpumask::CpumaskVar,
    processor::cpu_relax,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Release, //
        },
        Arc, //
    },
    time::{
        delay::{
            fsleep,
            udelay, //
        },
        RealTime, //
    },
};

const MS: u64 = 1_000_000;
const MINUTE: u64 = 60_000 * MS;

/// A period, no shorter than a tick where timers expire on ticks.
fn period() -> u64 {
    (2 * MS).max(resolution().into())
}

/// What callbacks leave behind. It outlives their timers.
struct Log {
    expiries: Atomic<u64>,
    /// Those that came too early.
    early: Atomic<u64>,
    /// The sum of what [`HrTimerContext::forward`] returned.
    periods: Atomic<u64>,
    /// What [`Self::busy`] waits for, and that it waits.
    go: Atomic<i32>,
    running: Atomic<i32>,
}

impl Log {
    fn new() -> Result<Arc<Self>> {
        let log = Self {
            expiries: Atomic::new(0),
            early: Atomic::new(0),
            periods: Atomic::new(0),
            go: Atomic::new(0),
            running: Atomic::new(0),
        };
        Ok(Arc::new(log, GFP_KERNEL)?)
    }

    /// Notes an expiry of a timer on `CLOCK_MONOTONIC`. Returns how many there were.
    fn expired<M: HrTimerMode>(&self, timer: &HrTimer<M>) -> u64 {
        if now() < timer.expires() {
            self.early.store(self.early.load(Acquire) + 1, Release);
        }
        let expiries = self.expiries() + 1;
        self.expiries.store(expiries, Release);
        expiries
    }

    /// Waits for permission to end, for seconds if need be, and notes an expiry milliseconds after
    /// that.
    fn busy<M: HrTimerMode>(&self, timer: &HrTimer<M>) {
        self.running.store(1, Release);
        let end = now() + 5_000 * MS;
        while self.go.load(Acquire) == 0 && now() < end {
            cpu_relax();
        }
        udelay(Delta::from_millis(3));
        self.expired(timer);
    }

    fn expiries(&self) -> u64 {
        self.expiries.load(Acquire)
    }

    /// Waits for `n` expiries, for seconds if need be. Returns whether there were so many, no more
    /// and none early.
    fn wait(&self, n: u64) -> bool {
        wait_for(|| self.expiries() >= n);
        self.expiries() == n && self.early.load(Acquire) == 0
    }
}

/// Waits until `done`, for seconds if need be. Returns whether it is.
fn wait_for(done: impl Fn() -> bool) -> bool {
    let end = now() + 10_000 * MS;
    while !done() && now() < end {
        fsleep(Delta::from_micros(100));
    }
    done()
}

/// Sleeps for more than two periods.
fn sleep_for_periods() {
    fsleep(Delta::from_nanos(3 * period() as i64));
}

/// A time for a timer that is cancelled before, which it must be also where a task can stand still
/// for a while, as on an emulated processor.
fn soon() -> u64 {
    now() + 50 * period()
}

/// Sleeps until more than two periods after `due`.
fn sleep_past(due: u64) {
    fsleep(Delta::from_nanos(due.saturating_sub(now()) as i64));
    sleep_for_periods();
}

/// What runs when a timer expires.
struct Act<M, F>(F, PhantomData<fn() -> M>);

impl<M, F> HrTimerCallback for Act<M, F>
where
    M: HrTimerMode + 'static,
    F: Fn(HrTimerContext<'_, M>) -> M::Outcome + Send + Sync + 'static,
{
    type Mode = M;
    const EXPIRED: [Expired<Self, M>; 1] = [|this, ctx| (this.0)(ctx)];
}

type TimedAct<M, F> = Pin<KBox<Timed<Act<M, F>>>>;

/// Returns an idle timer that runs `act` when it expires.
fn timed<M, F>(act: F) -> Result<TimedAct<M, F>>
where
    M: HrTimerMode + 'static,
    F: Fn(HrTimerContext<'_, M>) -> M::Outcome + Send + Sync + 'static,
{
    KBox::pin_init(Timed::new(Act(act, PhantomData)), GFP_KERNEL)
}

/// A callback that notes its expiry.
fn count<C: ClockSource, X: Context>(
    log: &Arc<Log>,
) -> impl Fn(HrTimerContext<'_, OneShot<C, X>>) + Send + Sync + 'static {
    let log = log.clone();
    move |ctx| {
        log.expired(ctx.timer());
    }
}

/// An idle timer that counts its expiries, and where.
fn counting(
    log: &Arc<Log>,
) -> Result<TimedAct<OneShot, impl Fn(HrTimerContext<'_, OneShot>) + Send + Sync + 'static>> {
    timed(count(log))
}

/// A callback that is [`Log::busy`].
fn busy<X: Context>(
    log: &Arc<Log>,
) -> impl Fn(HrTimerContext<'_, OneShot<Monotonic, X>>) + Send + Sync + 'static {
    let log = log.clone();
    move |ctx| log.busy(ctx.timer())
}

/// A callback that forwards its timer by a period until it has expired `n` times.
fn repeat<X: Context>(
    log: &Arc<Log>,
    n: u64,
) -> impl Fn(HrTimerContext<'_, Periodic<Monotonic, X>>) -> HrTimerRestart + Send + Sync + 'static {
    let log = log.clone();
    move |ctx| {
        let expiries = log.expired(ctx.timer());
        let (periods, restart) = ctx.forward(Delta::from_nanos(period() as i64));
        log.periods
            .store(log.periods.load(Acquire) + periods, Release);
        if expiries < n {
            restart
        } else {
            HrTimerRestart::STOP
        }
    }
}

/// Runs `f` in an interrupt of another CPU than this task is on, and stays on. Returns whether
/// there is another one.
fn on_another_cpu<F: FnMut() + Send>(mut f: F) -> Result<bool> {
    /// # Safety
    ///
    /// `f` must be an `F` that nobody else uses.
    unsafe extern "C" fn call<F: FnMut()>(f: *mut c_void) {
        // SAFETY: By the caller's promise.
        unsafe { (*f.cast::<F>())() }
    }

    let here = CpuId::current();
    let mut mask = CpumaskVar::new_zero(GFP_KERNEL)?;
    mask.set(here);
    // SAFETY: Both are valid. (A test has a task of its own, which ends with it.)
    let ret = unsafe { bindings::set_cpus_allowed_ptr(bindings::get_current(), mask.as_raw()) };
    kernel::error::to_result(ret)?;
    let cpus = (0..nr_cpu_ids()).filter_map(CpuId::from_u32);
    for cpu in cpus.filter(|&cpu| cpu != here) {
        // SAFETY: It returns when `call()` has, and fails if the CPU is not online.
        let ret = unsafe {
            bindings::smp_call_function_single(
                cpu.into(),
                Some(call::<F>),
                (&raw mut f).cast(),
                true,
            )
        };
        if ret == 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Makes the running test count as skipped for lack of another CPU, as `kunit_skip()` does.
fn skip_without_another_cpu() -> Result {
    // SAFETY: Callable anywhere.
    let test = unsafe { bindings::kunit_get_current_test() };
    // SAFETY: It is the test whose task this is.
    unsafe {
        (*test).status = bindings::kunit_status_KUNIT_SKIPPED;
        let comment = c"needs two processors".to_bytes_with_nul();
        for (to, from) in (*test).status_comment.iter_mut().zip(comment) {
            *to = *from;
        }
    }
    Ok(())
}

// Named function__case.
#[expect(non_snake_case)]
#[kernel::macros::kunit_tests(finetcp_hrtimer)]
mod cases {
    use super::*;

    #[test]
    fn try_cancel__idle_then_queued() -> Result {
        let log = Log::new()?;
        let timed = counting(&log)?;
        let timer = timed.timer::<0>();
        assert_eq!(timer.try_cancel(), Ok(false));
        let due = soon();
        timer.start(At(due), Cpu::This);
        assert!(timer.is_queued());
        assert_eq!(timer.try_cancel(), Ok(true));
        assert!(!timer.is_queued());
        assert_eq!(timer.try_cancel(), Ok(false));
        sleep_past(due);
        assert_eq!(log.expiries(), 0);
        Ok(())
    }

    #[test]
    fn try_cancel__in_callback() -> Result {
        let log = Log::new()?;
        let seen = Log::new()?;
        let (log2, seen2) = (log.clone(), seen.clone());
        let timed = timed::<OneShot, _>(move |ctx| {
            let timer = ctx.timer();
            // Alone, then queued as well, which it stays.
            let mut ok = timer.try_cancel() == Err(Running) && !timer.is_queued();
            if log2.expired(timer) == 1 {
                timer.start(At(now()), Cpu::This);
                ok &= timer.try_cancel() == Err(Running) && timer.is_queued();
            }
            if ok {
                seen2.expired(timer);
            }
        })?;
        timed.timer::<0>().start(At(now()), Cpu::This);
        assert!(log.wait(2));
        assert!(!timed.timer::<0>().cancel());
        assert_eq!(seen.expiries(), 2);
        Ok(())
    }

    #[test]
    fn cancel__idle_then_queued() -> Result {
        let log = Log::new()?;
        let timed = counting(&log)?;
        let timer = timed.timer::<0>();
        assert!(!timer.cancel());
        let due = soon();
        timer.start(At(due), Cpu::This);
        assert!(timer.cancel());
        assert!(!timer.is_queued());
        sleep_past(due);
        assert_eq!(log.expiries(), 0);
        Ok(())
    }

    #[test]
    fn cancel__between_periods() -> Result {
        let log = Log::new()?;
        let mut timed = timed::<Periodic, _>(repeat(&log, u64::MAX))?;
        timed.as_mut().start::<0>(At(now()), Cpu::This);
        assert!(wait_for(|| log.expiries() >= 3));
        assert!(timed.timer::<0>().cancel());
        let expiries = log.expiries();
        sleep_for_periods();
        assert_eq!(log.expiries(), expiries);
        Ok(())
    }

    #[test]
    fn cancel__waits_for_callback_on_another_cpu() -> Result {
        fn check<X: Context + 'static>() -> Result {
            let log = Log::new()?;
            let timed = timed::<OneShot<Monotonic, X>, _>(busy(&log))?;
            let timer = timed.timer::<0>();
            if !on_another_cpu(|| timer.start(At(now()), Cpu::This))? {
                return skip_without_another_cpu();
            }
            assert!(wait_for(|| log.running.load(Acquire) != 0));
            assert_eq!(timer.try_cancel(), Err(Running));
            assert_eq!(log.expiries(), 0);
            log.go.store(1, Release);
            assert!(!timer.cancel());
            assert_eq!(log.expiries(), 1);
            assert_eq!(timer.try_cancel(), Ok(false));
            Ok(())
        }
        check::<Softirq>()?;
        check::<Hardirq>()
    }

    #[test]
    fn drop__waits_for_callback_on_another_cpu() -> Result {
        let log = Log::new()?;
        let timed = timed::<OneShot, _>(busy(&log))?;
        if !on_another_cpu(|| timed.timer::<0>().start(At(now()), Cpu::This))? {
            return skip_without_another_cpu();
        }
        assert!(wait_for(|| log.running.load(Acquire) != 0));
        log.go.store(1, Release);
        drop(timed);
        assert_eq!(log.expiries(), 1);
        Ok(())
    }

    #[test]
    fn drop__cancels() -> Result {
        let log = Log::new()?;
        let timed = counting(&log)?;
        let due = soon();
        timed.timer::<0>().start(At(due), Cpu::This);
        drop(timed);
        sleep_past(due);
        assert_eq!(log.expiries(), 0);
        Ok(())
    }

    #[test]
    fn start__absolute_expires_once_not_before() -> Result {
        for cpu in [Cpu::This, Cpu::Any] {
            let log = Log::new()?;
            let timed = counting(&log)?;
            let due = now() + period();
            timed.timer::<0>().start(At(due), cpu);
            assert_eq!(timed.timer::<0>().expires(), due);
            assert!(log.wait(1));
            assert!(now() >= due);
            sleep_for_periods();
            assert!(log.wait(1));
        }
        Ok(())
    }

    #[test]
    fn start__relative_expires_once_not_before() -> Result {
        let log = Log::new()?;
        let timed = counting(&log)?;
        let timer = timed.timer::<0>();
        let before = now();
        timer.start(Delta::from_nanos(period() as i64), Cpu::This);
        let after = now();
        assert!((before + period()..=after + period()).contains(&timer.expires()));
        assert!(log.wait(1));
        assert!(now() >= before + period());
        sleep_for_periods();
        assert!(log.wait(1));
        Ok(())
    }

    #[test]
    fn start__instant_is_absolute() -> Result {
        let log = Log::new()?;
        let timed = counting(&log)?;
        let due = Instant::now() + Delta::from_nanos(period() as i64);
        timed.timer::<0>().start(due, Cpu::This);
        assert!(log.wait(1));
        assert!(!due.elapsed().is_negative());
        assert_eq!(
            At(timed.timer::<0>().expires()),
            At(HrTimerExpires::as_nanos(&due) as u64)
        );
        Ok(())
    }

    #[test]
    fn start__past_expires_at_once() -> Result {
        let log = Log::new()?;
        let timed = counting(&log)?;
        timed.timer::<0>().start(At(0), Cpu::This);
        assert!(log.wait(1));
        timed.timer::<0>().start(Delta::from_secs(-60), Cpu::This);
        assert!(log.wait(2));
        Ok(())
    }

    #[test]
    fn start__moves_queued_timer() -> Result {
        let log = Log::new()?;
        let timed = counting(&log)?;
        let timer = timed.timer::<0>();
        let later = now() + MINUTE;
        timer.start(At(later), Cpu::This);
        assert_eq!(timer.expires(), later);
        timer.start(At(now()), Cpu::This);
        assert!(log.wait(1));
        assert!(!timer.cancel());
        Ok(())
    }

    #[test]
    fn start__in_callback_expires_again() -> Result {
        let log = Log::new()?;
        let log2 = log.clone();
        let timed = timed::<OneShot, _>(move |ctx| {
            if log2.expired(ctx.timer()) < 3 {
                let next = ctx.timer().expires() + period();
                ctx.timer().start(At(next), Cpu::This);
            }
        })?;
        let first = now();
        timed.timer::<0>().start(At(first), Cpu::This);
        assert!(log.wait(3));
        assert_eq!(timed.timer::<0>().expires(), first + 2 * period());
        sleep_for_periods();
        assert!(log.wait(3));
        Ok(())
    }

    #[test]
    fn start__while_callback_runs_on_another_cpu() -> Result {
        let log = Log::new()?;
        let timed = timed::<OneShot, _>(busy(&log))?;
        let timer = timed.timer::<0>();
        if !on_another_cpu(|| timer.start(At(now()), Cpu::This))? {
            return skip_without_another_cpu();
        }
        assert!(wait_for(|| log.running.load(Acquire) != 0));
        timer.start(At(now()), Cpu::This);
        assert!(timer.is_queued());
        assert_eq!(timer.try_cancel(), Err(Running));
        assert!(timer.is_queued());
        assert_eq!(log.expiries(), 0);
        log.go.store(1, Release);
        assert!(log.wait(2));
        Ok(())
    }

    #[test]
    fn start__periodic_moves_queued_timer() -> Result {
        let log = Log::new()?;
        let mut timed = timed::<Periodic, _>(repeat(&log, 1))?;
        let later = now() + MINUTE;
        timed.as_mut().start::<0>(At(later), Cpu::This);
        assert!(timed.timer::<0>().is_queued());
        assert_eq!(timed.timer::<0>().expires(), later);
        timed.as_mut().start::<0>(Delta::ZERO, Cpu::This);
        assert!(log.wait(1));
        Ok(())
    }

    #[test]
    fn start__periodic_waits_for_callback_on_another_cpu() -> Result {
        let log = Log::new()?;
        let log2 = log.clone();
        let mut timed = timed::<Periodic, _>(move |ctx| {
            log2.busy(ctx.timer());
            HrTimerRestart::STOP
        })?;
        if !on_another_cpu(|| timed.as_mut().start::<0>(At(now()), Cpu::This))? {
            return skip_without_another_cpu();
        }
        assert!(wait_for(|| log.running.load(Acquire) != 0));
        assert_eq!(log.expiries(), 0);
        log.go.store(1, Release);
        timed.as_mut().start::<0>(At(now() + MINUTE), Cpu::This);
        assert_eq!(log.expiries(), 1);
        assert!(timed.timer::<0>().cancel());
        Ok(())
    }

    #[test]
    fn start__this_cpu_is_where_it_expires() -> Result {
        let log = Log::new()?;
        let log2 = log.clone();
        let timed = timed::<OneShot, _>(move |ctx| {
            log2.periods
                .store(CpuId::current().as_u32().into(), Release);
            log2.expired(ctx.timer());
        })?;
        let timer = timed.timer::<0>();
        let mut there = 0;
        let start = || {
            there = CpuId::current().as_u32().into();
            timer.start(At(now() + period()), Cpu::This);
        };
        if !on_another_cpu(start)? {
            return skip_without_another_cpu();
        }
        assert!(there != u64::from(CpuId::current().as_u32()));
        assert!(log.wait(1));
        assert_eq!(log.periods.load(Acquire), there);
        Ok(())
    }

    #[test]
    fn start_range__slack_comes_on_top() -> Result {
        let log = Log::new()?;
        let slack = period();
        let at = |due: u64, slack: i64| (At(due), Delta::from_nanos(slack), Cpu::This);

        let one_shot = timed::<OneShot, _>(count(&log))?;
        let timer = one_shot.timer::<0>();
        let due = now() + period();
        let (expires, range, cpu) = at(due, slack as i64);
        timer.start_range(expires, range, cpu);
        assert_eq!(timer.expires(), due);
        assert_eq!(timer.expires_latest(), due + slack);
        assert!(log.wait(1));
        // Negative slack is none.
        let (expires, range, cpu) = at(now() + MINUTE, -1);
        timer.start_range(expires, range, cpu);
        assert_eq!(timer.expires_latest(), timer.expires());

        let mut periodic = timed::<Periodic, _>(repeat(&log, 2))?;
        // Not before it has been looked at: it would be forwarded.
        let due = now() + MINUTE;
        let (expires, range, cpu) = at(due, slack as i64);
        periodic.as_mut().start_range::<0>(expires, range, cpu);
        assert_eq!(periodic.timer::<0>().expires(), due);
        assert_eq!(periodic.timer::<0>().expires_latest(), due + slack);
        let (expires, range, cpu) = at(now(), slack as i64);
        periodic.as_mut().start_range::<0>(expires, range, cpu);
        assert!(log.wait(2));
        Ok(())
    }

    #[test]
    fn remaining__until_the_latest() -> Result {
        let log = Log::new()?;
        let timed = counting(&log)?;
        let timer = timed.timer::<0>();
        let due = now() + MINUTE;
        timer.start_range(At(due), Delta::from_nanos(MINUTE as i64), Cpu::This);
        let before = now();
        let remaining = timer.remaining().as_nanos() as u64;
        let after = now();
        assert!((due + MINUTE - after..=due + MINUTE - before).contains(&remaining));
        timer.start(At(now()), Cpu::This);
        assert!(log.wait(1));
        let remaining = timer.remaining();
        assert!(remaining.is_negative());
        fsleep(Delta::from_millis(1));
        assert!(timer.remaining() < remaining);
        Ok(())
    }

    #[test]
    fn forward__leads_beyond_now() -> Result {
        let log = Log::new()?;
        let inside = Log::new()?;
        let (log2, inside2) = (log.clone(), inside.clone());
        let mut timed = timed::<Periodic, _>(move |ctx| {
            let timer = ctx.timer();
            let first = timer.expires();
            log2.expired(timer);
            let before = now();
            let (periods, _) = ctx.forward(Delta::from_nanos(period() as i64));
            let after = now();
            // As many as it says, no fewer than needed and no more.
            let expires = timer.expires();
            if expires == first + periods * period()
                && expires > before
                && expires <= after + period()
            {
                inside2.expired(timer);
            }
            log2.periods.store(periods, Release);
            HrTimerRestart::STOP
        })?;
        // On time, half a period late, and many.
        for late in [0, period() / 2, 10 * period()] {
            fsleep(Delta::from_nanos(late as i64));
            let due = now() - late;
            let expiries = log.expiries();
            timed.as_mut().start::<0>(At(due), Cpu::This);
            assert!(log.wait(expiries + 1));
            assert!(!timed.timer::<0>().cancel());
            assert_eq!(inside.expiries(), expiries + 1);
            assert!(log.periods.load(Acquire) > late / period());
        }
        Ok(())
    }

    #[test]
    fn forward__leads_beyond_now_despite_slack() -> Result {
        let slack = 100 * period();
        let log = Log::new()?;
        let log2 = log.clone();
        let mut timed = timed::<Periodic, _>(move |ctx| {
            let timer = ctx.timer();
            let first = timer.expires();
            log2.expired(timer);
            let before = now();
            let (periods, _) = ctx.forward(Delta::from_nanos(period() as i64));
            let expires = timer.expires();
            let ok = expires == first + periods * period()
                && expires > before
                && timer.expires_latest() == expires + slack;
            log2.go.store(ok.into(), Release);
            log2.periods.store(periods, Release);
            HrTimerRestart::STOP
        })?;
        // Another timer takes it along, long before its slack is used up.
        let other_log = Log::new()?;
        let other = super::timed::<OneShot, _>(count(&other_log))?;
        let due = now() + period();
        timed
            .as_mut()
            .start_range::<0>(At(due), Delta::from_nanos(slack as i64), Cpu::This);
        other.timer::<0>().start(At(due + period() / 2), Cpu::This);
        assert!(other_log.wait(1));
        assert!(log.wait(1));
        assert!(!timed.timer::<0>().cancel());
        assert!(log.periods.load(Acquire) >= 1);
        assert_eq!(log.go.load(Acquire), 1);
        Ok(())
    }

    #[test]
    fn forward__interval_is_a_resolution_at_least() -> Result {
        let log = Log::new()?;
        let log2 = log.clone();
        let mut timed = timed::<Periodic, _>(move |ctx| {
            let timer = ctx.timer();
            let first = timer.expires();
            log2.expired(timer);
            let (periods, _) = ctx.forward(Delta::from_nanos(-1));
            log2.periods.store(periods, Release);
            log2.go.store(
                i32::from(timer.expires() == first + periods * u64::from(resolution())),
                Release,
            );
            HrTimerRestart::STOP
        })?;
        timed.as_mut().start::<0>(At(now()), Cpu::This);
        assert!(log.wait(1));
        assert!(!timed.timer::<0>().cancel());
        assert!(log.periods.load(Acquire) >= 1);
        assert_eq!(log.go.load(Acquire), 1);
        Ok(())
    }

    #[test]
    fn restart__at_each_period_until_stopped() -> Result {
        fn check<X: Context + 'static>() -> Result {
            let log = Log::new()?;
            let mut timed = timed::<Periodic<Monotonic, X>, _>(repeat(&log, 4))?;
            let first = now() + period();
            timed.as_mut().start::<0>(At(first), Cpu::This);
            assert!(log.wait(4));
            assert!(now() >= first + 3 * period());
            // In the last callback it was forwarded, but not restarted.
            assert!(!timed.timer::<0>().cancel());
            let moved = log.periods.load(Acquire) * period();
            assert_eq!(timed.timer::<0>().expires(), first + moved);
            sleep_for_periods();
            assert!(log.wait(4));
            Ok(())
        }
        check::<Softirq>()?;
        check::<Hardirq>()
    }

    #[test]
    fn context__only_hard_interrupts_soft() -> Result {
        let (hard, soft, outer) = (Log::new()?, Log::new()?, Log::new()?);
        let hard_timed = timed::<OneShot<Monotonic, Hardirq>, _>(count(&hard))?;
        let soft_timed = timed::<OneShot<Monotonic, Softirq>, _>(count(&soft))?;
        let (hard2, soft2, outer2) = (hard.clone(), soft.clone(), outer.clone());
        // In a softirq, until the one has expired, and then for more than two ticks.
        let outer_timed = timed::<OneShot<Monotonic, Softirq>, _>(move |ctx| {
            let due = At(now());
            hard_timed.timer::<0>().start(due, Cpu::This);
            soft_timed.timer::<0>().start(due, Cpu::This);
            let mut ms = 0;
            while hard2.expiries() == 0 && ms < 5_000 {
                udelay(Delta::from_millis(1));
                ms += 1;
            }
            for _ in 0..3 * period() / MS {
                udelay(Delta::from_millis(1));
            }
            hard2.periods.store(hard2.expiries(), Release);
            soft2.periods.store(soft2.expiries(), Release);
            outer2.expired(ctx.timer());
        })?;
        outer_timed.timer::<0>().start(At(now()), Cpu::This);
        assert!(outer.wait(1));
        assert!(hard.wait(1));
        assert!(soft.wait(1));
        assert_eq!(hard.periods.load(Acquire), 1);
        assert_eq!(soft.periods.load(Acquire), 0);
        Ok(())
    }

    #[test]
    fn clock__is_the_one_asked_for() -> Result {
        fn check<C: ClockSource + 'static>() -> Result {
            let log = Log::new()?;
            let timed = timed::<OneShot<C>, _>(count(&log))?;
            let timer = timed.timer::<0>();
            let due = Instant::<C>::now() + Delta::from_nanos(MINUTE as i64);
            timer.start(due, Cpu::This);
            let remaining = timer.remaining().as_nanos() as u64;
            assert!((MINUTE - 10_000 * MS..=MINUTE).contains(&remaining));
            timer.start(Instant::<C>::now(), Cpu::This);
            assert!(wait_for(|| log.expiries() == 1));
            Ok(())
        }
        check::<Monotonic>()?;
        check::<BootTime>()?;
        check::<RealTime>()?;

        // Relative to the clock's own time.
        let log = Log::new()?;
        let timed = timed::<OneShot<BootTime>, _>(count(&log))?;
        let before = Instant::<BootTime>::now();
        timed
            .timer::<0>()
            .start(Delta::from_nanos(MINUTE as i64), Cpu::This);
        let after = Instant::<BootTime>::now();
        let since = timed.timer::<0>().expires() - MINUTE;
        assert!(HrTimerExpires::as_nanos(&before) as u64 <= since);
        assert!(HrTimerExpires::as_nanos(&after) as u64 >= since);
        Ok(())
    }

    /// As many timers as there can be; each counts in a log of its own.
    struct Four([Arc<Log>; 4]);

    impl HrTimerCallback<4> for Four {
        type Mode = OneShot;
        const EXPIRED: [Expired<Self, OneShot>; 4] = [
            |this, ctx| _ = this.0[0].expired(ctx.timer()),
            |this, ctx| _ = this.0[1].expired(ctx.timer()),
            |this, ctx| _ = this.0[2].expired(ctx.timer()),
            |this, ctx| _ = this.0[3].expired(ctx.timer()),
        ];
    }

    #[test]
    fn timed__each_timer_has_its_callback() -> Result {
        let logs = [Log::new()?, Log::new()?, Log::new()?, Log::new()?];
        let timed = KBox::pin_init(Timed::new(Four(logs)), GFP_KERNEL)?;
        let timers = [
            timed.timer::<0>(),
            timed.timer::<1>(),
            timed.timer::<2>(),
            timed.timer::<3>(),
        ];
        for (i, timer) in timers.iter().enumerate() {
            timer.start(At(now()), Cpu::This);
            assert!(timed.0[i].wait(1));
            let others = timed.0.iter().map(|log| log.expiries()).sum::<u64>();
            assert_eq!(others, i as u64 + 1);
        }
        // They do not get into each other's way.
        for (i, timer) in timers.iter().enumerate() {
            timer.start(At(now() + MINUTE * (i as u64 + 1)), Cpu::This);
        }
        assert!(timers[2].cancel());
        assert!(timers[0].is_queued() && timers[1].is_queued() && timers[3].is_queued());
        Ok(())
    }

    #[test]
    fn now__is_monotonic_clock() {
        let before = now();
        let instant = HrTimerExpires::as_nanos(&Instant::<Monotonic>::now()) as u64;
        assert!((before..=now()).contains(&instant));
    }

    #[test]
    fn resolution__one_or_a_tick() {
        let tick_us = crate::ext::sock::ticks_to_us(1);
        assert!(resolution() == 1 || resolution() / 1000 == tick_us);
    }
}
