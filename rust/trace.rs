// SPDX-License-Identifier: GPL-2.0

//! Trace events, which cost nothing until somebody enables them.
//!
//! C header: [`finetcp_trace.h`](finetcp_trace.h)

use kernel::{
    bindings,
    prelude::*, //
};

// `kernel::declare_trace!` looks for them in `kernel::bindings`, where those of a module are not.
macro_rules! events {
    ($($(#[$doc:meta])* $name:ident, $key:ident, $probe:ident;)*) => {
        // What is empty in C is nothing in Rust.
        #[cfg(CONFIG_TRACEPOINTS)]
        #[allow(improper_ctypes)]
        extern "C" {
            $(
                static $key: bindings::tracepoint;
                fn $probe(sk: *const bindings::sock, kind: c_int, ns: u64);
            )*
        }
        $(
            $(#[$doc])*
            ///
            /// # Safety
            ///
            /// `sk` must point to a full TCP socket.
            #[inline(always)]
            #[cfg_attr(not(CONFIG_TRACEPOINTS), expect(unused_variables))]
            pub(super) unsafe fn $name(sk: *const bindings::sock, kind: c_int, ns: u64) {
                #[cfg(CONFIG_TRACEPOINTS)]
                // SAFETY: The key is one that C has defined.
                if unsafe {
                    kernel::jump_label::static_branch_unlikely!($key, bindings::tracepoint, key)
                } {
                    // SAFETY: By the caller's promise.
                    unsafe { $probe(sk, kind, ns) }
                }
            }
        )*
    };
}

events! {
    /// A deadline was set, `ns` ahead. `kind`: `ICSK_TIME_*`.
    timer_start, __tracepoint_tcp_timer_start, rust_do_trace_tcp_timer_start;
    /// A deadline has passed `ns` ago, and is dealt with now.
    timer_expire, __tracepoint_tcp_timer_expire, rust_do_trace_tcp_timer_expire;
    /// `kind`, which is a [`super::extra_run::Said`], became of a receiver that is to give way.
    extra_run, __tracepoint_tcp_extra_run, rust_do_trace_tcp_extra_run;
}
