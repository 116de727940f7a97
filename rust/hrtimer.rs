// SPDX-License-Identifier: GPL-2.0

//! High-resolution timers that live beside the data that their callbacks need.
//!
//! [`kernel::time::hrtimer`] ties a started timer to a handle, which holds a reference on what the
//! timer is part of, and whose drop waits for the callback. A timer that is started and stopped
//! under a lock which its callback takes, with every packet, needs less than that: to start it
//! without a reference, and to try to stop it. Here timers belong to a [`Timed`], several to the
//! same data, and only the end of that waits.
//!
//! # States
//!
//! ```text
//!               start                     expires
//!       +--------------------+    +----------------------+
//!       |                    v    |                      v
//!   +---+----+            +-------+-+  forward,      +---------+
//!   |  Idle  |            | Queued  |<---------------+ Running |
//!   +--------+            +---+-----+  start         +----+----+
//!     ^    ^                  |                           |
//!     |    +------------------+                           |
//!     |     try_cancel, cancel     the callback returns   |
//!     +---------------------------------------------------+
//! ```
//!
//! *Running*: the callback is. It can be queued again meanwhile, and stays queued when it returns.
//! `start` moves a timer that is queued. `try_cancel` does nothing while the callback runs, and
//! `cancel` waits for it.
//!
//! # Kinds
//!
//! `hrtimer_forward()` moves a timer without a lock. Whoever starts the timer at that moment could
//! find it in the tree with an expiry that the tree does not know. So a timer is of one of two
//! kinds, see [`HrTimerMode`]:
//!
//! - Anybody may start a [`OneShot`] at any time, its own callback included; nobody forwards it.
//! - The callback of a [`Periodic`] may forward it. To start it takes exclusive access, and
//!   waits for its callback first.
//!
//! # Invariants
//!
//! - All timers of a [`Timed`] are idle before its data is dropped. Their callbacks refer to that
//!   data, and nobody ever has a `&mut` to it.
//! - What a callback is given leads to its own timer, and to no other of the same [`Timed`]. So a
//!   timer that has been cancelled when nobody else has access stays idle.
//! - A timer is started in the context, and on the clock, that it was set up for.
//!
//! # Units
//!
//! All times are exact to the nanosecond: spans are [`Delta`]s, points are [`Instant`]s, or [`At`],
//! because only the `kernel` crate can make an [`Instant`] from a number. What the hardware makes
//! of them is another matter; see [`resolution`].
//!
//! # Examples
//!
//! Not compiled: there are no doctests outside the kernel's tree.
//!
//! A timer that gives up, started and stopped under a lock:
//!
//! ```ignore
//! struct Watchdog {
//!     bites: Atomic<u32>,
//! }
//!
//! impl HrTimerCallback for Watchdog {
//!     type Mode = OneShot; // `CLOCK_MONOTONIC`, in softirq
//!     const EXPIRED: [Expired<Self, OneShot>; 1] = [|this, _| {
//!         this.bites.fetch_add(1, Relaxed);
//!     }];
//! }
//!
//! let dog = KBox::pin_init(Timed::new(Watchdog { bites: Atomic::new(0) }), GFP_KERNEL)?;
//! dog.timer::<0>().start(Delta::from_micros(200), Cpu::Any);
//! // Fed in time?
//! match dog.timer::<0>().try_cancel() {
//!     Ok(true) => pr_info!("it will not bite\n"),
//!     Ok(false) => pr_info!("it has bitten\n"),
//!     Err(Running) => pr_info!("it is biting\n"),
//! }
//! assert!(dog.bites.load(Relaxed) <= 1);
//! ```
//!
//! A timer that samples something every millisecond in hard interrupts, with another one beside it:
//!
//! ```ignore
//! impl Sampler {
//!     fn sample(&self, ctx: HrTimerContext<'_, Periodic<Monotonic, Hardirq>>) -> HrTimerRestart {
//!         let (periods, restart) = ctx.forward(Delta::from_millis(1));
//!         self.missed.fetch_add(periods - 1, Relaxed);
//!         match self.take() {
//!             Full => HrTimerRestart::STOP,
//!             _ => restart,
//!         }
//!     }
//! }
//!
//! impl HrTimerCallback<2> for Sampler {
//!     type Mode = Periodic<Monotonic, Hardirq>;
//!     const EXPIRED: [Expired<Self, Self::Mode>; 2] = [Self::sample, Self::report];
//! }
//!
//! let mut sampler = KBox::pin_init(Timed::new(Sampler::new()), GFP_KERNEL)?;
//! sampler.as_mut().start::<0>(Delta::from_millis(1), Cpu::This);
//! ```
//!
//! C header: [`include/linux/hrtimer.h`](srctree/include/linux/hrtimer.h)

use core::{
    marker::PhantomData,
    ops::Deref,
    ptr::addr_of, //
};
use kernel::{
    bindings,
    prelude::*,
    time::{
        hrtimer::HrTimerExpires,
        BootTime,
        ClockSource,
        Delta,
        Instant,
        Monotonic, //
    },
    types::Opaque, //
};

mod private {
    pub(crate) trait Sealed {}
}
use private::Sealed;

/// Where callbacks run.
///
/// C knows a third mode, without either bit: hard interrupts, but soft ones on `PREEMPT_RT`.
/// Whoever means that says so with `cfg`.
pub(crate) trait Context: Sealed {
    /// What C calls it.
    const C_MODE: bindings::hrtimer_mode;
}

/// Callbacks run in soft interrupts.
pub(crate) enum Softirq {}

impl Sealed for Softirq {}
impl Context for Softirq {
    const C_MODE: bindings::hrtimer_mode = bindings::hrtimer_mode_HRTIMER_MODE_SOFT;
}

/// Callbacks run in hard interrupts, also on `PREEMPT_RT`.
pub(crate) enum Hardirq {}

impl Sealed for Hardirq {}
impl Context for Hardirq {
    const C_MODE: bindings::hrtimer_mode = bindings::hrtimer_mode_HRTIMER_MODE_HARD;
}

/// All that is settled once and for all when a timer is set up.
///
/// The rest of C's modes is said at each start: absolute or relative ([`Expires`]), pinned or not
/// ([`Cpu`]).
pub(crate) trait HrTimerMode: Sealed {
    /// The clock that the timer follows.
    type Clock: ClockSource;
    /// Where its callback runs.
    type Context: Context;
    /// What the callback returns.
    type Outcome;

    /// What C makes of that.
    #[doc(hidden)]
    fn into_c(outcome: Self::Outcome) -> bindings::hrtimer_restart;
}

/// A timer that expires once each time somebody starts it.
pub(crate) struct OneShot<C: ClockSource = Monotonic, X: Context = Softirq>(PhantomData<(C, X)>);

impl<C: ClockSource, X: Context> Sealed for OneShot<C, X> {}
impl<C: ClockSource, X: Context> HrTimerMode for OneShot<C, X> {
    type Clock = C;
    type Context = X;
    type Outcome = ();

    #[inline]
    fn into_c((): ()) -> bindings::hrtimer_restart {
        bindings::hrtimer_restart::HRTIMER_NORESTART
    }
}

/// A timer that expires again and again, until its callback or somebody else stops it.
pub(crate) struct Periodic<C: ClockSource = Monotonic, X: Context = Softirq>(PhantomData<(C, X)>);

impl<C: ClockSource, X: Context> Sealed for Periodic<C, X> {}
impl<C: ClockSource, X: Context> HrTimerMode for Periodic<C, X> {
    type Clock = C;
    type Context = X;
    type Outcome = HrTimerRestart;

    #[inline]
    fn into_c(outcome: HrTimerRestart) -> bindings::hrtimer_restart {
        outcome.0
    }
}

/// When a timer on the clock `C` expires.
pub(crate) trait Expires<C: ClockSource>: Sealed {
    /// Whether the time is absolute or relative.
    const C_MODE: bindings::hrtimer_mode;

    /// That time in nanoseconds, not negative.
    fn into_nanos(self) -> bindings::ktime_t;
}

/// At this time, in nanoseconds of the timer's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At(pub(crate) u64);

impl Sealed for At {}
impl<C: ClockSource> Expires<C> for At {
    const C_MODE: bindings::hrtimer_mode = bindings::hrtimer_mode_HRTIMER_MODE_ABS;

    #[inline]
    fn into_nanos(self) -> bindings::ktime_t {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }
}

impl<C: ClockSource> Sealed for Instant<C> {}
impl<C: ClockSource> Expires<C> for Instant<C> {
    const C_MODE: bindings::hrtimer_mode = bindings::hrtimer_mode_HRTIMER_MODE_ABS;

    #[inline]
    fn into_nanos(self) -> bindings::ktime_t {
        HrTimerExpires::as_nanos(&self)
    }
}

/// A clock that nobody sets, so that spans from now make sense on it.
///
/// (C, too, does not start relative timers on `CLOCK_REALTIME`, but quietly takes another clock.)
pub(crate) trait SteadyClock: ClockSource + Sealed {}

impl Sealed for Monotonic {}
impl SteadyClock for Monotonic {}
impl Sealed for BootTime {}
impl SteadyClock for BootTime {}

/// So long from now; if that is negative, now. (To C it would be never.)
impl<C: SteadyClock> Expires<C> for Delta {
    const C_MODE: bindings::hrtimer_mode = bindings::hrtimer_mode_HRTIMER_MODE_REL;

    #[inline]
    fn into_nanos(self) -> bindings::ktime_t {
        Delta::as_nanos(self).max(0)
    }
}
impl Sealed for Delta {}

/// On which processor a timer expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cpu {
    /// On that which starts it, unless it is started while its callback runs on another one.
    This,
    /// On any: an idle one may be left alone.
    Any,
}

impl Cpu {
    #[inline]
    const fn c_mode(self) -> bindings::hrtimer_mode {
        match self {
            Self::This => bindings::hrtimer_mode_HRTIMER_MODE_PINNED,
            Self::Any => 0,
        }
    }
}

/// The callback runs, so that its timer cannot be cancelled now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Running;

/// One timer of a [`Timed`].
///
/// # Invariants
///
/// - `inner` has been set up by `hrtimer_setup()` for `M`, and is pinned.
/// - It is one of the timers of a [`Timed`], which cancels it before anything of it is dropped.
#[pin_data]
#[repr(transparent)]
pub(crate) struct HrTimer<M: HrTimerMode> {
    #[pin]
    inner: Opaque<bindings::hrtimer>,
    _mode: PhantomData<M>,
}

// SAFETY: An hrtimer may be used from any CPU.
unsafe impl<M: HrTimerMode> Send for HrTimer<M> {}
// SAFETY: Its operations take the lock of its base.
unsafe impl<M: HrTimerMode> Sync for HrTimer<M> {}

impl<M: HrTimerMode> HrTimer<M> {
    /// Returns an initializer of an idle timer.
    ///
    /// # Safety
    ///
    /// The timer must be one of the timers of a [`Timed`], and `callback` sound to call with it
    /// until that has cancelled it.
    unsafe fn new(callback: Callback) -> impl PinInit<Self> {
        pin_init!(Self {
            // INVARIANT: Set up right here; the rest is promised by the caller.
            inner <- Opaque::ffi_init(move |slot: *mut bindings::hrtimer| {
                // SAFETY: `slot` is valid for writes, and `hrtimer_setup()` writes all of it.
                unsafe {
                    bindings::hrtimer_setup(
                        slot,
                        Some(callback),
                        M::Clock::ID,
                        M::Context::C_MODE,
                    )
                }
            }),
            _mode: PhantomData,
        })
    }

    /// Returns whether the timer is queued, which another CPU may change at any time.
    #[inline]
    pub(crate) fn is_queued(&self) -> bool {
        // SAFETY: By the type's invariant. As `hrtimer_is_queued()` does, which is inline.
        unsafe { addr_of!((*self.inner.get()).is_queued).read_volatile() }
    }

    /// Returns when the timer expires, or expired last, in ns of its clock. With slack it may be
    /// later, up to [`Self::expires_latest`].
    #[inline]
    pub(crate) fn expires(&self) -> u64 {
        // SAFETY: By the type's invariant. Another CPU may be starting it.
        let expires = unsafe { addr_of!((*self.inner.get())._softexpires).read_volatile() };
        u64::try_from(expires).unwrap_or(0)
    }

    /// Returns when the timer expires at the latest, in ns of its clock: slack included.
    #[inline]
    pub(crate) fn expires_latest(&self) -> u64 {
        // SAFETY: By the type's invariant. Another CPU may be starting it.
        let expires = unsafe { addr_of!((*self.inner.get()).node.expires).read_volatile() };
        u64::try_from(expires).unwrap_or(0)
    }

    /// Returns how long it is until [`Self::expires_latest`]. Negative if that has passed.
    #[inline]
    pub(crate) fn remaining(&self) -> Delta {
        // SAFETY: By the type's invariant. `false`: as the clock sees it, not as it was asked for.
        Delta::from_nanos(unsafe { bindings::__hrtimer_get_remaining(self.inner.get(), false) })
    }

    /// Starts the timer, or moves it if it is queued.
    ///
    /// # Safety
    ///
    /// Nobody may be forwarding the timer.
    #[inline]
    unsafe fn start_unserialized<E: Expires<M::Clock>>(&self, expires: E, slack: Delta, cpu: Cpu) {
        let slack = u64::try_from(slack.as_nanos()).unwrap_or(0);
        // `hrtimer_start_range_ns()` insists on the context that the timer was set up with.
        let mode = E::C_MODE | M::Context::C_MODE | cpu.c_mode();
        // SAFETY: By the type's invariant, and by the caller's promise.
        unsafe {
            bindings::hrtimer_start_range_ns(self.inner.get(), expires.into_nanos(), slack, mode)
        }
    }

    /// Cancels the timer unless its callback is running. Never waits.
    ///
    /// Returns whether it was queued. While the callback runs it may be queued as well, and stays
    /// so.
    #[inline]
    pub(crate) fn try_cancel(&self) -> Result<bool, Running> {
        // SAFETY: By the type's invariant.
        match unsafe { bindings::hrtimer_try_to_cancel(self.inner.get()) } {
            1 => Ok(true),
            0 => Ok(false),
            _ => Err(Running),
        }
    }

    /// Cancels the timer and waits for its callback. Returns whether it was queued, if only by that
    /// callback.
    ///
    /// Must not be called from the callback, nor with a lock that the callback waits for, nor in
    /// an interrupt that can interrupt the callback.
    #[inline]
    pub(crate) fn cancel(&self) -> bool {
        // SAFETY: By the type's invariant.
        unsafe { bindings::hrtimer_cancel(self.inner.get()) != 0 }
    }
}

impl<C: ClockSource, X: Context> HrTimer<OneShot<C, X>> {
    /// Starts the timer, or moves it if it is queued. What lies in the past expires at once.
    ///
    /// While the callback runs, the timer is queued for another run. Callable in any context but
    /// NMI.
    #[inline]
    pub(crate) fn start(&self, expires: impl Expires<C>, cpu: Cpu) {
        self.start_range(expires, Delta::ZERO, cpu);
    }

    /// As [`Self::start`], but the timer may expire later by up to `slack`, together with others.
    #[inline]
    pub(crate) fn start_range(&self, expires: impl Expires<C>, slack: Delta, cpu: Cpu) {
        // SAFETY: Nobody can forward a `OneShot`.
        unsafe { self.start_unserialized(expires, slack, cpu) }
    }
}

/// What becomes of a [`Periodic`] timer when its callback returns.
///
/// [`HrTimerContext::forward`] is the only source of what restarts it: a timer that is restarted
/// where it is would expire for ever.
pub(crate) struct HrTimerRestart(bindings::hrtimer_restart);

impl HrTimerRestart {
    /// The timer is idle until it is started again.
    pub(crate) const STOP: Self = Self(bindings::hrtimer_restart::HRTIMER_NORESTART);
}

/// What only the callback of a timer can do.
///
/// # Invariants
///
/// The callback of `timer` is running.
pub(crate) struct HrTimerContext<'a, M: HrTimerMode> {
    timer: &'a HrTimer<M>,
}

impl<'a, M: HrTimerMode> HrTimerContext<'a, M> {
    /// Returns the timer. It is not queued, unless it has been started meanwhile. Its
    /// [`HrTimer::cancel`] would wait for its caller.
    #[inline]
    pub(crate) fn timer(&self) -> &'a HrTimer<M> {
        self.timer
    }
}

impl<C: ClockSource, X: Context> HrTimerContext<'_, Periodic<C, X>> {
    /// Moves the expiry by the smallest multiple of `interval` that leads beyond now. Slack stays.
    ///
    /// Returns that multiple (1 if the callback has not missed a period), and what the callback
    /// returns to wait for that expiry. An interval below [`resolution`] counts as that.
    pub(crate) fn forward(self, interval: Delta) -> (u64, HrTimerRestart) {
        // C forwards the latest expiry beyond now, and not at all if slack has let the timer expire
        // before that: it would expire again and again until then.
        let slack = self
            .timer
            .expires_latest()
            .saturating_sub(self.timer.expires());
        let slack = i64::try_from(slack).unwrap_or(i64::MAX);
        let timer = self.timer.inner.get();
        // SAFETY: By the invariants of both types we are in the callback of `timer`. Until that
        // returns nobody else queues it: to start a `Periodic` is to wait for the callback first.
        let periods = unsafe {
            let now = bindings::hrtimer_cb_get_time(timer);
            bindings::hrtimer_forward(timer, now.saturating_add(slack), interval.as_nanos())
        };
        let restart = HrTimerRestart(bindings::hrtimer_restart::HRTIMER_RESTART);
        (periods, restart)
    }
}

/// What a timer calls when it expires.
pub(crate) type Expired<T, M> = fn(&T, HrTimerContext<'_, M>) -> <M as HrTimerMode>::Outcome;

/// Data with `N` timers.
///
/// Callbacks get a reference to the data, whoever has one besides. They outlive all but the data:
/// hence the bounds.
pub(crate) trait HrTimerCallback<const N: usize = 1>: Send + Sync + Sized + 'static {
    /// The kind of the timers, their clock, and the context of the callbacks.
    type Mode: HrTimerMode;

    /// What each of the timers calls.
    const EXPIRED: [Expired<Self, Self::Mode>; N];
}

/// The C callback of a timer.
type Callback = unsafe extern "C" fn(*mut bindings::hrtimer) -> bindings::hrtimer_restart;

/// Data, and `N` timers whose callbacks get a reference to it.
///
/// Its drop cancels the timers and waits for their callbacks, none of which therefore must be what
/// drops it. Not for the stack, where `CONFIG_DEBUG_OBJECTS_TIMERS` does not expect timers.
///
/// # Invariants
///
/// The callback of `timers[I]` is `Self::expired::<I>`.
#[pin_data(PinnedDrop)]
pub(crate) struct Timed<T: HrTimerCallback<N>, const N: usize = 1> {
    #[pin]
    timers: [HrTimer<T::Mode>; N],
    // Never lent mutably: callbacks may run at any time.
    #[pin]
    data: T,
}

impl<T: HrTimerCallback<N>, const N: usize> Timed<T, N> {
    /// The C callbacks. As many as there are timers; more than 4 need more lines here.
    const CALLBACKS: [Callback; N] = {
        assert!(0 < N && N <= 4);
        let mut callbacks = [Self::expired::<0> as Callback; N];
        if N > 1 {
            callbacks[1] = Self::expired::<1>;
        }
        if N > 2 {
            callbacks[2] = Self::expired::<2>;
        }
        if N > 3 {
            callbacks[3] = Self::expired::<3>;
        }
        callbacks
    };

    /// Returns an initializer of idle timers with their data.
    pub(crate) fn new(data: impl PinInit<T>) -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: They are the timers of a `Timed`. `expired::<I>` needs timer `I` of a `Self`
            // that is complete: before, nobody can start it.
            // INVARIANT: Timer `I` gets callback `I`.
            timers <- pin_init::pin_init_array_from_fn(|i| unsafe {
                HrTimer::new(Self::CALLBACKS[i])
            }),
            data <- data,
        })
    }

    /// Returns timer `I`.
    #[inline]
    pub(crate) fn timer<const I: usize>(&self) -> &HrTimer<T::Mode> {
        const { assert!(I < N) };
        &self.timers[I]
    }

    /// The C callback of timer `I`.
    ///
    /// # Safety
    ///
    /// Called by the hrtimer core with timer `I` of a complete [`Timed`], the data of which is not
    /// dropped before this returns.
    unsafe extern "C" fn expired<const I: usize>(
        timer: *mut bindings::hrtimer,
    ) -> bindings::hrtimer_restart {
        // (Modulo for the sake of those that `CALLBACKS` only mentions.)
        let expired = const { T::EXPIRED[I % N] };
        // CAST: `HrTimer` is a transparent `hrtimer`.
        let timer: *mut HrTimer<T::Mode> = timer.cast();
        // SAFETY: `timer` is element `I` of the array.
        let timers: *mut [HrTimer<T::Mode>; N] = unsafe { timer.sub(I) }.cast();
        // SAFETY: The array is the `timers` of a `Self`.
        let this: *mut Self = unsafe { kernel::container_of!(timers, Self, timers) };
        // SAFETY: By the caller's promise; nobody has a `&mut` to the data.
        let data = unsafe { &*addr_of!((*this).data) };
        // INVARIANT: This is the callback.
        // SAFETY: As above.
        let timer = unsafe { &*timer };
        T::Mode::into_c(expired(data, HrTimerContext { timer }))
    }
}

impl<T, C, X, const N: usize> Timed<T, N>
where
    T: HrTimerCallback<N, Mode = Periodic<C, X>>,
    C: ClockSource,
    X: Context,
{
    /// Cancels timer `I`, waits for its callback, and starts it. What lies in the past expires at
    /// once.
    ///
    /// What holds for [`HrTimer::cancel`] holds for this.
    pub(crate) fn start<const I: usize>(self: Pin<&mut Self>, expires: impl Expires<C>, cpu: Cpu) {
        self.start_range::<I>(expires, Delta::ZERO, cpu);
    }

    /// As [`Self::start`], but the timer may expire later by up to `slack`, together with others.
    pub(crate) fn start_range<const I: usize>(
        self: Pin<&mut Self>,
        expires: impl Expires<C>,
        slack: Delta,
        cpu: Cpu,
    ) {
        let timer = self.as_ref().get_ref().timer::<I>();
        timer.cancel();
        // SAFETY: The callback, which alone can forward it, is not running, and runs no more
        // before this starts the timer: nobody else can, by our exclusive access.
        unsafe { timer.start_unserialized(expires, slack, cpu) }
    }
}

impl<T: HrTimerCallback<N>, const N: usize> Deref for Timed<T, N> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.data
    }
}

#[pinned_drop]
impl<T: HrTimerCallback<N>, const N: usize> PinnedDrop for Timed<T, N> {
    fn drop(self: Pin<&mut Self>) {
        // One after the other: no callback starts another timer than its own.
        for timer in &self.timers {
            timer.cancel();
        }
    }
}

/// Returns the time of `CLOCK_MONOTONIC` in nanoseconds.
#[inline]
pub(crate) fn now() -> u64 {
    // SAFETY: Callable in any context but NMI.
    let now = unsafe { bindings::ktime_get() };
    // The monotonic clock starts at zero.
    u64::try_from(now).unwrap_or(0)
}

/// Returns the resolution of timers in nanoseconds: 1, or a tick where the clock has no better.
///
/// A timer never expires early: it is rounded up to that, and only that is.
#[inline]
pub(crate) fn resolution() -> u32 {
    // SAFETY: Written during boot, before any module is loaded.
    unsafe { bindings::hrtimer_resolution }
}

#[cfg(CONFIG_KUNIT = "y")]
mod tests;
