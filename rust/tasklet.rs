// SPDX-License-Identifier: GPL-2.0

//! Tasklets: work that is scheduled from any context, and runs in softirq on the CPU that has
//! scheduled it.
//!
//! ```text
//!   idle --schedule()--> scheduled --softirq--> running --> idle
//!                          |  ^                   |
//!            schedule() ---+  +---- schedule() ---+      scheduled again: runs once more
//! ```
//!
//! A tasklet never runs on two CPUs at once.
//!
//! C header: [`include/linux/interrupt.h`](srctree/include/linux/interrupt.h)

use core::{
    ops::Deref,
    pin::Pin, //
};
use kernel::{
    bindings,
    prelude::*,
    types::Opaque, //
};

/// What a [`Tasklet`] runs.
pub(crate) trait Run: Send + Sync + 'static {
    /// Does the work. Context: softirq; must not sleep. The next [`Tasklet::schedule`] is for work
    /// that this call may not see.
    fn run(&self);
}

/// A tasklet, and what it works on.
///
/// # Invariants
///
/// `tasklet` is set up, with [`Self::callback`].
///
/// # Examples
///
/// ```ignore
/// struct Count(Atomic<u32>);
///
/// impl Run for Count {
///     fn run(&self) {
///         self.0.add(1, Relaxed);
///     }
/// }
///
/// let tasklet = KBox::pin_init(Tasklet::new(Count(Atomic::new(0))), GFP_KERNEL)?;
/// tasklet.schedule();
/// // It has run when it is dropped.
/// drop(tasklet);
/// ```
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct Tasklet<T: Run> {
    #[pin]
    tasklet: Opaque<bindings::tasklet_struct>,
    #[pin]
    data: T,
}

// SAFETY: A tasklet may be scheduled and killed by anybody; `T` may be used anywhere.
unsafe impl<T: Run> Send for Tasklet<T> {}
// SAFETY: As above.
unsafe impl<T: Run> Sync for Tasklet<T> {}

impl<T: Run> Tasklet<T> {
    /// Makes one that is idle.
    pub(crate) fn new(data: impl PinInit<T>) -> impl PinInit<Self> {
        // INVARIANT: Set up here.
        pin_init!(Self {
            // SAFETY: The tasklet stays where it is initialised.
            tasklet <- Opaque::ffi_init(|tasklet| unsafe {
                bindings::tasklet_setup(tasklet, Some(Self::callback))
            }),
            data <- data,
        })
    }

    /// Makes it run soon on this CPU, once for all calls until it begins to. Callable in any context.
    #[inline]
    pub(crate) fn schedule(&self) {
        // SAFETY: By the type's invariant.
        unsafe { bindings::tasklet_schedule(self.tasklet.get()) }
    }

    /// Runs the tasklet's work.
    ///
    /// # Safety
    ///
    /// Called by the kernel, with the tasklet of a [`Tasklet`].
    unsafe extern "C" fn callback(tasklet: *mut bindings::tasklet_struct) {
        // SAFETY: By the caller's promise. Dropping it waits for this.
        let this = unsafe { &*kernel::container_of!(Opaque::cast_from(tasklet), Self, tasklet) };
        this.data.run();
    }
}

impl<T: Run> Deref for Tasklet<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.data
    }
}

#[pinned_drop]
impl<T: Run> PinnedDrop for Tasklet<T> {
    /// Waits until it has run, if it is scheduled. Sleeps.
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type's invariant. Nobody can schedule it any more.
        unsafe { bindings::tasklet_kill(self.tasklet.get()) }
    }
}

// Named function__case.
#[expect(non_snake_case)]
#[kernel::macros::kunit_tests(finetcp_tasklet)]
mod tests {
    use super::*;
    use kernel::{
        interrupt::local_interrupt_disable,
        sync::{
            atomic::{
                Atomic,
                Relaxed, //
            },
            Arc, //
        },
    };

    /// Counts its runs.
    struct Count(Arc<Atomic<u32>>);

    impl Run for Count {
        fn run(&self) {
            self.0.add(1, Relaxed);
        }
    }

    /// Passes a tasklet to `f`, and returns how often it has run when it is gone.
    fn runs(f: impl FnOnce(&Tasklet<Count>)) -> Result<u32> {
        let runs = Arc::new(Atomic::new(0), GFP_KERNEL)?;
        let tasklet = KBox::pin_init(Tasklet::new(Count(runs.clone())), GFP_KERNEL)?;
        f(&tasklet);
        drop(tasklet);
        Ok(runs.load(Relaxed))
    }

    #[test]
    fn drop__idle() -> Result {
        assert_eq!(runs(|_| {})?, 0);
        Ok(())
    }

    #[test]
    fn drop__waits_until_it_has_run() -> Result {
        assert_eq!(runs(Tasklet::schedule)?, 1);
        Ok(())
    }

    #[test]
    fn schedule__once_for_all_before_it_runs() -> Result {
        let runs = runs(|tasklet| {
            let _not_yet = local_interrupt_disable();
            for _ in 0..3 {
                tasklet.schedule();
            }
        })?;
        assert_eq!(runs, 1);
        Ok(())
    }
}
