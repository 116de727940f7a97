// SPDX-License-Identifier: GPL-2.0

//! Random numbers.
//!
//! C header: [`include/linux/random.h`](srctree/include/linux/random.h)

use kernel::bindings;

/// Returns a number that nobody can predict. Callable in any context but NMI.
pub(crate) fn u32() -> u32 {
    // SAFETY: Callable in any context but NMI.
    unsafe { bindings::get_random_u32() }
}
