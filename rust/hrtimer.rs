// SPDX-License-Identifier: GPL-2.0

//! High-resolution timers that can be cancelled without waiting.
//!
//! [`kernel::time::hrtimer`] ties a started timer to a handle whose drop waits for the callback. A
//! timer that is started and stopped under a lock which its callback takes needs less than that:
//! to try. Here only the end of the timer itself waits.
//!
//! ```text
//!            start                 expires
//!   Idle -----------> Queued ----------------> Running
//!    ^   <-----------   |  ^                      |  |
//!    |   try_cancel     |  |  start (also while   |  |
//!    |                  |  +---  it is running) --+  |
//!    +---------------------- callback returns -------+
//! ```
//!
//! C header: [`include/linux/hrtimer.h`](srctree/include/linux/hrtimer.h)

use core::ptr::addr_of;
use kernel::{
    bindings,
    prelude::*,
    types::Opaque, //
};

/// The C callback of a timer.
pub(crate) type Callback =
    unsafe extern "C" fn(*mut bindings::hrtimer) -> bindings::hrtimer_restart;

/// Clock and context of every [`HrTimer`]: absolute times, on the CPU that starts it, in softirq.
const MODE: bindings::hrtimer_mode = bindings::hrtimer_mode_HRTIMER_MODE_ABS_PINNED_SOFT;

/// A one-shot timer on `CLOCK_MONOTONIC`, whose callback runs in softirq.
///
/// Its drop cancels it and waits for the callback, which therefore must not be what drops it.
///
/// # Invariants
///
/// `inner` has been set up by `hrtimer_setup()`.
#[pin_data(PinnedDrop)]
#[repr(transparent)]
pub(crate) struct HrTimer {
    #[pin]
    inner: Opaque<bindings::hrtimer>,
}

// SAFETY: An hrtimer may be used from any CPU.
unsafe impl Send for HrTimer {}
// SAFETY: Its operations take the lock of its base.
unsafe impl Sync for HrTimer {}

impl HrTimer {
    /// Returns an initializer of an idle timer.
    ///
    /// # Safety
    ///
    /// `callback` must be sound to call with a pointer to the timer as long as that is not dropped.
    pub(crate) unsafe fn new(callback: Callback) -> impl PinInit<Self> {
        pin_init!(Self {
            // INVARIANT: Set up right here.
            inner <- Opaque::ffi_init(move |slot: *mut bindings::hrtimer| {
                // SAFETY: `slot` is valid for writes, and `hrtimer_setup()` writes all of it.
                unsafe {
                    bindings::hrtimer_setup(
                        slot,
                        Some(callback),
                        bindings::CLOCK_MONOTONIC as bindings::clockid_t,
                        MODE,
                    )
                }
            }),
        })
    }

    /// Returns whether the timer is queued, which another CPU may change at any time.
    #[inline]
    pub(crate) fn is_queued(&self) -> bool {
        // SAFETY: By the type's invariant. It is one lockless read.
        unsafe { bindings::hrtimer_is_queued(self.inner.get()) }
    }

    /// Returns when the timer expires, or expired last, in ns of `CLOCK_MONOTONIC`.
    #[inline]
    pub(crate) fn expires(&self) -> u64 {
        // SAFETY: By the type's invariant. Another CPU may be starting it.
        let expires = unsafe { addr_of!((*self.inner.get())._softexpires).read_volatile() };
        u64::try_from(expires).unwrap_or(0)
    }

    /// Starts the timer, or moves it if it is queued.
    ///
    /// `expires` is in nanoseconds of `CLOCK_MONOTONIC`; what lies in the past expires at once.
    /// While the callback runs, the timer is queued for another run. Callable in any context but
    /// NMI.
    #[inline]
    pub(crate) fn start(&self, expires: u64) {
        let expires = i64::try_from(expires).unwrap_or(i64::MAX);
        // SAFETY: By the type's invariant; the timer is pinned, and its drop cancels it.
        unsafe { bindings::hrtimer_start_range_ns(self.inner.get(), expires, 0, MODE) }
    }

    /// Cancels the timer unless its callback is running. Never waits.
    ///
    /// Returns whether it has cancelled the timer. If not, the timer was idle, or the callback is
    /// running; in that case the timer may be queued as well, and stays so.
    #[inline]
    pub(crate) fn try_cancel(&self) -> bool {
        // SAFETY: By the type's invariant.
        unsafe { bindings::hrtimer_try_to_cancel(self.inner.get()) == 1 }
    }

    /// Cancels the timer and waits for its callback. Returns whether it was queued.
    ///
    /// Must not be called from the callback, nor with a lock that the callback waits for.
    #[inline]
    pub(crate) fn cancel(&self) -> bool {
        // SAFETY: By the type's invariant.
        unsafe { bindings::hrtimer_cancel(self.inner.get()) != 0 }
    }
}

#[pinned_drop]
impl PinnedDrop for HrTimer {
    fn drop(self: Pin<&mut Self>) {
        self.cancel();
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
pub(crate) fn resolution() -> u32 {
    // SAFETY: Written during boot, before any module is loaded.
    unsafe { bindings::hrtimer_resolution }
}

// Named function__case.
#[expect(non_snake_case)]
#[kernel::macros::kunit_tests(finetcp_hrtimer)]
mod tests {
    use super::*;
    use kernel::{
        sync::atomic::{
            Acquire,
            Atomic,
            Release, //
        },
        time::{
            delay::fsleep,
            Delta, //
        },
    };

    /// A timer that counts its expiries.
    #[pin_data]
    struct Counting {
        #[pin]
        timer: HrTimer,
        expiries: Atomic<i32>,
    }

    impl Counting {
        fn new() -> Result<Pin<KBox<Self>>> {
            KBox::try_pin_init(
                try_pin_init!(Self {
                    // SAFETY: `expired` finds the `Counting` around the timer.
                    timer <- unsafe { HrTimer::new(Self::expired) },
                    expiries: Atomic::new(0),
                }? Error),
                GFP_KERNEL,
            )
        }

        /// Waits for an expiry, for seconds if need be.
        fn wait(&self) {
            let end = now() + 5_000_000_000;
            while self.expiries.load(Acquire) == 0 && now() < end {
                fsleep(Delta::from_micros(100));
            }
        }

        /// Counts.
        ///
        /// # Safety
        ///
        /// Called with the timer of a [`Counting`].
        unsafe extern "C" fn expired(timer: *mut bindings::hrtimer) -> bindings::hrtimer_restart {
            let timer: *mut HrTimer = timer.cast();
            // SAFETY: It is the timer of a `Counting`, whose drop waits for this.
            let this = unsafe { &*kernel::container_of!(timer, Self, timer) };
            this.expiries
                .store(this.expiries.load(Acquire) + 1, Release);
            bindings::hrtimer_restart::HRTIMER_NORESTART
        }
    }

    #[test]
    fn try_cancel__idle_then_queued() -> Result {
        let counting = Counting::new()?;
        assert!(!counting.timer.try_cancel());
        counting.timer.start(now() + 1_000_000_000);
        assert!(counting.timer.is_queued());
        assert!(counting.timer.try_cancel());
        assert!(!counting.timer.is_queued());
        assert!(!counting.timer.try_cancel());
        assert!(!counting.timer.cancel());
        assert_eq!(counting.expiries.load(Acquire), 0);
        Ok(())
    }

    #[test]
    fn start__expires_once_not_before() -> Result {
        let counting = Counting::new()?;
        let due = now() + 2_000_000;
        counting.timer.start(due);
        counting.wait();
        assert!(now() >= due);
        fsleep(Delta::from_millis(5));
        counting.timer.cancel();
        assert_eq!(counting.expiries.load(Acquire), 1);
        Ok(())
    }

    #[test]
    fn start__moves_queued_timer() -> Result {
        let counting = Counting::new()?;
        let later = now() + 60_000_000_000;
        counting.timer.start(later);
        assert_eq!(counting.timer.expires(), later);
        counting.timer.start(now());
        counting.wait();
        assert!(!counting.timer.cancel());
        assert_eq!(counting.expiries.load(Acquire), 1);
        Ok(())
    }
}
