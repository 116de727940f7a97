// SPDX-License-Identifier: GPL-2.0

//! One of a thing for each CPU, in memory of its own.

use core::{
    pin::Pin,
    ptr::null_mut, //
};
use kernel::{
    cpu::{
        nr_cpu_ids,
        CpuId, //
    },
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed,
            Release, //
        },
        rcu, //
    },
};

/// All of them, by the CPU's number.
type All<T> = KVec<Pin<KBox<T>>>;

/// One `T` for each CPU there may ever be, as long as they are [`Filled`].
///
/// Which one is used is a matter of speed only: `T` is shared, for a CPU may be left, or be taken
/// away, while its `T` is in use.
///
/// # Invariants
///
/// It is null, or comes from [`KBox::into_raw`]. What it points to does not change, and is there
/// until a grace period after it was replaced.
pub(crate) struct PerCpu<T>(Atomic<*mut All<T>>);

// SAFETY: `T` is shared by all who look, and dropped by whoever drops [`Filled`].
unsafe impl<T: Send + Sync> Sync for PerCpu<T> {}

impl<T: Send + Sync> PerCpu<T> {
    /// Makes one with nothing in it.
    pub(crate) const fn new() -> Self {
        // INVARIANT: It is null.
        Self(Atomic::new(null_mut()))
    }

    /// Makes a `T` for each CPU. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY` if they are there.
    pub(crate) fn fill<I: PinInit<T>>(
        &'static self,
        mut new: impl FnMut() -> I,
    ) -> Result<Filled<T>> {
        let mut all = All::with_capacity(nr_cpu_ids() as usize, GFP_KERNEL)?;
        for _ in 0..nr_cpu_ids() {
            all.push(KBox::pin_init(new(), GFP_KERNEL)?, GFP_KERNEL)?;
        }
        let all = KBox::into_raw(KBox::new(all, GFP_KERNEL)?);
        // INVARIANT: From here on nobody changes it.
        // Releases what it points to, which `get()` finds by the address.
        if self.0.cmpxchg(null_mut(), all, Release).is_err() {
            // SAFETY: It comes from `into_raw()`, and nobody has seen it.
            drop(unsafe { KBox::from_raw(all) });
            return Err(EBUSY);
        }
        Ok(Filled(self))
    }

    /// Returns that of the current CPU, or none if they are not filled.
    #[inline]
    pub(crate) fn get<'a>(&'a self, _rcu: &'a rcu::Guard) -> Option<&'a T> {
        // SAFETY: By the type's invariant, and within the critical section that `_rcu` proves. As
        // `rcu_dereference()`: an atomic would call into C.
        let all = unsafe { self.0.as_ptr().read_volatile().as_ref() }?;
        all.get(CpuId::current().as_u32() as usize)
            .map(|one| &**one)
    }
}

/// Proof that there is one for each CPU. They are dropped with it, which sleeps.
#[must_use]
pub(crate) struct Filled<T: Send + Sync + 'static>(&'static PerCpu<T>);

impl<T: Send + Sync> Filled<T> {
    /// Returns those of all CPUs.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        // SAFETY: By the invariant of `PerCpu`: only our `drop()` replaces what `fill()` has set.
        unsafe { &*self.0 .0.load(Relaxed) }
            .iter()
            .map(|one| &**one)
    }
}

impl<T: Send + Sync> Drop for Filled<T> {
    fn drop(&mut self) {
        let all = self.0 .0.xchg(null_mut(), Relaxed);
        rcu::synchronize_rcu();
        // SAFETY: It comes from `fill()`, and nobody has it any more.
        drop(unsafe { KBox::from_raw(all) });
    }
}

// Named function__case.
#[expect(non_snake_case)]
#[kernel::macros::kunit_tests(finetcp_percpu)]
mod tests {
    use super::*;

    /// Of each test its own: they may run at the same time.
    fn is_there(all: &'static PerCpu<u32>) -> bool {
        all.get(&rcu::read_lock()).is_some()
    }

    #[test]
    fn get__while_filled() -> Result {
        static ALL: PerCpu<u32> = PerCpu::new();
        assert!(!is_there(&ALL));
        let filled = ALL.fill(|| 7)?;
        assert_eq!(ALL.get(&rcu::read_lock()), Some(&7));
        assert_eq!(filled.iter().count(), nr_cpu_ids() as usize);
        drop(filled);
        assert!(!is_there(&ALL));
        Ok(())
    }

    #[test]
    fn fill__once() -> Result {
        static ALL: PerCpu<u32> = PerCpu::new();
        let filled = ALL.fill(|| 1)?;
        assert_eq!(ALL.fill(|| 2).err(), Some(EBUSY));
        assert_eq!(ALL.get(&rcu::read_lock()), Some(&1));
        drop(filled);
        drop(ALL.fill(|| 3)?);
        Ok(())
    }
}
