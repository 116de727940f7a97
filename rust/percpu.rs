// SPDX-License-Identifier: GPL-2.0

//! One of a thing for each CPU, in memory of its own.

use core::{
    cell::UnsafeCell,
    pin::Pin, //
};
use kernel::{
    cpu::{
        nr_cpu_ids,
        CpuId, //
    },
    prelude::*, //
};

/// One `T` for each CPU there may ever be, as long as they are [`Filled`].
///
/// Which one is used is a matter of speed only: `T` is shared, for a CPU may be left, or be taken
/// away, while its `T` is in use.
pub(crate) struct PerCpu<T>(UnsafeCell<KVec<Pin<KBox<T>>>>);

// SAFETY: The vector is changed by `fill()` and by its end, when by their safety requirements nobody
// reads it; what is in there is shared.
unsafe impl<T: Send + Sync> Sync for PerCpu<T> {}

impl<T> PerCpu<T> {
    /// Makes one with nothing in it.
    pub(crate) const fn new() -> Self {
        Self(UnsafeCell::new(KVec::new()))
    }

    /// Makes a `T` for each CPU. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    ///
    /// # Safety
    ///
    /// No other call of this, nor of [`Self::get`], may come before this one returns, and none while
    /// what it returns is dropped.
    pub(crate) unsafe fn fill<I: PinInit<T>>(
        &'static self,
        mut new: impl FnMut() -> I,
    ) -> Result<Filled<T>> {
        let mut all = KVec::with_capacity(nr_cpu_ids() as usize, GFP_KERNEL)?;
        for _ in 0..nr_cpu_ids() {
            all.push(KBox::pin_init(new(), GFP_KERNEL)?, GFP_KERNEL)?;
        }
        // SAFETY: By the caller's promise nobody else uses it.
        unsafe { *self.0.get() = all };
        Ok(Filled(self))
    }

    /// Returns that of the current CPU, or none if they are not filled.
    #[inline]
    pub(crate) fn get(&self) -> Option<&T> {
        // SAFETY: It does not change now, by the promise of who called `fill()`.
        let all = unsafe { &*self.0.get() };
        all.get(CpuId::current().as_u32() as usize)
            .map(|one| &**one)
    }
}

/// Proof that there is one for each CPU. They are dropped with it.
pub(crate) struct Filled<T: 'static>(&'static PerCpu<T>);

impl<T> Drop for Filled<T> {
    fn drop(&mut self) {
        // SAFETY: By the promise of who called `fill()`, nobody calls `get()` any more.
        drop(core::mem::take(unsafe { &mut *self.0 .0.get() }));
    }
}
