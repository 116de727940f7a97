// SPDX-License-Identifier: GPL-2.0

//! finetcp: TCP's timers, exact to the microsecond.
//!
//! `policy` decides, `timer` and `stats` carry it out, `ext` (in `rust/`) is what they need of
//! the kernel.

use kernel::prelude::*;

#[path = "../rust/mod.rs"]
mod ext;
// Public for the host's tests, which compile it as a crate of its own.
mod netns;
#[allow(unreachable_pub)]
mod policy;
mod receiver;
mod stats;
mod timer;
mod tsq;

module! {
    type: FineTcp,
    name: "finetcp",
    authors: ["The finetcp developers"],
    description: "TCP timers exact to the microsecond",
    license: "GPL v2",
    params: {
        rto_min_floor: i32 {
            default: 20,
            description: "Lowest time that can be set for a timer in us, 1 to 200000 (default 20)",
        },
    },
}

/// The highest `rto_min_floor`: the kernel's default of `tcp_rto_min`, in us.
const MAX_FLOOR: i32 = 200_000;

/// The module while it is loaded. The order of the fields is that of their drop: first the sockets go
/// back to the timer wheel, and with the last of them settings and counters; then those sockets are resumed
/// that wait for their queues.
struct FineTcp {
    _receivers: receiver::Open,
    _backend: ext::tcp_hires::Registration<timer::HiresTimers>,
    _queues: ext::percpu::Filled<ext::tasklet::Tasklet<tsq::Waiting>>,
    _farewell: netns::Farewell,
}

impl kernel::Module for FineTcp {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let floor = *module_parameters::rto_min_floor.value_ref();
        if !(1..=MAX_FLOOR).contains(&floor) {
            pr_err!(
                "rto_min_floor={} is not within 1 to {} us\n",
                floor,
                MAX_FLOOR
            );
            return Err(EINVAL);
        }
        netns::FLOOR.set(floor);
        // SAFETY: Once, and before the settings of namespaces.
        unsafe { receiver::init() };
        let queues = tsq::queues()?;
        let backend = ext::tcp_hires::Registration::new(floor).inspect_err(|&e| {
            if e == EBUSY {
                pr_err!("another module serves TCP's timers\n");
            }
        })?;

        let resolution = ext::hrtimer::resolution();
        if resolution > 1 {
            pr_warn!(
                "the clock has no high resolution: timers expire on ticks of {} us\n",
                resolution / 1000
            );
        } else {
            pr_info!("TCP timers at a resolution of 1 ns\n");
        }
        Ok(Self {
            _receivers: receiver::Open::new(),
            _backend: backend,
            _queues: queues,
            _farewell: netns::Farewell,
        })
    }
}

impl Drop for FineTcp {
    fn drop(&mut self) {
        // Of namespaces that have gone meanwhile, there is nothing to say.
        netns::forget_given_back();
    }
}
