// SPDX-License-Identifier: GPL-2.0

//! Settings of a network namespace under `/proc/sys/net/ipv4`.
//!
//! C headers: [`include/linux/sysctl.h`](srctree/include/linux/sysctl.h),
//! [`include/net/net_namespace.h`](srctree/include/net/net_namespace.h)

use core::{
    cell::UnsafeCell,
    ptr::{
        addr_of,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    prelude::*, //
};

/// A setting: a number that the namespace's root may write.
pub(crate) struct Setting {
    /// Its name under `net.ipv4`.
    pub(crate) name: &'static CStr,
    /// The value until somebody changes it.
    pub(crate) default: i32,
    /// The lowest value; less is `EINVAL` and changes nothing.
    pub(crate) min: &'static Value,
    /// The highest value, alike.
    pub(crate) max: i32,
    /// What is called with a value that has been written. May sleep.
    pub(crate) written: Option<fn(i32)>,
}

/// The value of a setting in one namespace, or the bound of one. Writers are C code, at any time.
#[repr(transparent)]
pub(crate) struct Value(UnsafeCell<i32>);

// SAFETY: An aligned `int` is read and written whole; see `get()` and `set()`.
unsafe impl Sync for Value {}

impl Value {
    /// Makes one that is `value` until somebody changes that.
    pub(crate) const fn new(value: i32) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Takes a number of the kernel's for one.
    ///
    /// # Safety
    ///
    /// `value` must be valid during `'a`, and written whole.
    #[inline]
    pub(super) unsafe fn from_raw<'a>(value: *const c_int) -> &'a Self {
        // SAFETY: By the caller's promise; the layouts are the same.
        unsafe { &*value.cast() }
    }

    /// Changes the value.
    pub(crate) fn set(&self, value: i32) {
        // SAFETY: `self` is valid, and C writes it the same way (`WRITE_ONCE()`).
        unsafe { self.0.get().write_volatile(value) }
    }

    /// Returns the value as it is now.
    ///
    /// A plain `READ_ONCE()`, and not an atomic type of the `kernel` crate, which is a call into a
    /// C helper: several values are read for each segment.
    #[inline]
    pub(crate) fn get(&self) -> i32 {
        // SAFETY: `self` is valid, and C writes it by `WRITE_ONCE()`.
        unsafe { self.0.get().read_volatile() }
    }
}

/// The settings of one namespace, which are visible as long as this lives.
///
/// # Invariants
///
/// `header` is what registering `_entries` returned.
pub(super) struct Table {
    header: NonNull<bindings::ctl_table_header>,
    /// C keeps a pointer to them.
    _entries: KVec<bindings::ctl_table>,
}

impl Table {
    /// Makes the settings of `net` visible, each with its value. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, also if there is a setting of that name already.
    ///
    /// # Safety
    ///
    /// `net` and `values` must stay until the table is dropped.
    pub(super) unsafe fn register<'a>(
        net: *mut bindings::net,
        settings: impl Iterator<Item = (&'static Setting, &'a Value)>,
    ) -> Result<Self> {
        let mut entries = KVec::new();
        for (setting, value) in settings {
            let entry = bindings::ctl_table {
                procname: setting.name.as_char_ptr(),
                data: core::ptr::from_ref(value).cast_mut().cast(),
                maxlen: size_of::<Value>() as c_int,
                mode: 0o644,
                proc_handler: Some(match setting.written {
                    Some(_) => Self::written,
                    None => bindings::proc_dointvec_minmax,
                }),
                extra1: core::ptr::from_ref(setting.min).cast_mut().cast(),
                // SAFETY: The field of a setting that is valid.
                extra2: unsafe { addr_of!((*core::ptr::from_ref(setting)).max) }
                    .cast_mut()
                    .cast(),
                ..Default::default()
            };
            entries.push(entry, GFP_KERNEL_ACCOUNT)?;
        }
        // SAFETY: By the caller's promise; the entries do not move with the vector, and C only
        // reads the bounds.
        let header = unsafe {
            bindings::register_net_sysctl_sz(
                net,
                c"net/ipv4".as_char_ptr(),
                entries.as_ptr(),
                entries.len(),
            )
        };
        // INVARIANT: It is.
        Ok(Self {
            header: NonNull::new(header).ok_or(ENOMEM)?,
            _entries: entries,
        })
    }

    /// As `proc_dointvec_minmax()`, but [`Setting::written`] hears of it.
    ///
    /// # Safety
    ///
    /// Called by sysctl, with one of the entries that [`Self::register`] makes.
    unsafe extern "C" fn written(
        entry: *const bindings::ctl_table,
        write: c_int,
        buffer: *mut c_void,
        size: *mut usize,
        place: *mut bindings::loff_t,
    ) -> c_int {
        // SAFETY: By the caller's promise.
        let error = unsafe { bindings::proc_dointvec_minmax(entry, write, buffer, size, place) };
        if write != 0 && error == 0 {
            // SAFETY: By the caller's promise: the entry leads to its setting and its value.
            let (setting, value) = unsafe {
                let max: *const i32 = (*entry).extra2.cast_const().cast();
                (
                    &*kernel::container_of!(max, Setting, max),
                    &*(*entry).data.cast_const().cast::<Value>(),
                )
            };
            if let Some(written) = setting.written {
                written(value.get());
            }
        }
        error
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant. It waits for those that read or write a value.
        unsafe { bindings::unregister_net_sysctl_table(self.header.as_ptr()) }
    }
}
