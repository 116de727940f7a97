// SPDX-License-Identifier: GPL-2.0

//! Extra runs for receivers that are about to lose the CPU while they own their sockets.

use crate::{
    ext::{
        extra_run::{
            Answer,
            ExtraRuns,
            Receiver,
            Registration,
            Said, //
        },
        pernet::Net, //
    },
    netns::NAMESPACES,
    policy::extra_run::{
        decide,
        Decision,
        Inputs, //
    },
    stats::Counter, //
};
use kernel::{
    prelude::*,
    sync::rcu, //
};

/// The scheduler asks from the moment that somebody first wants extra runs: until then nobody pays for
/// the question.
enum Asked {
    /// Not yet, or not any more. Whether somebody has wanted it.
    Closed(bool),
    /// If somebody has wanted it.
    Open(Option<Registration>),
}

kernel::sync::global_lock! {
    // SAFETY: `init()` is called before there are settings.
    unsafe(uninit) static ASKED: Mutex<Asked> = Asked::Closed(false);
}

/// Prepares for [`wanted`].
///
/// # Safety
///
/// Must be called once, and before there are settings.
pub(crate) unsafe fn init() {
    // SAFETY: By the caller's promise.
    unsafe { ASKED.init() };
}

/// Makes the scheduler ask. Only another registration could be in the way, and `ASKED` has the only one.
fn ask() -> Option<Registration> {
    Registration::new::<Receivers>().ok()
}

/// Somebody has set `net.ipv4.tcp_extra_run` to so many us. Sleeps.
pub(crate) fn wanted(us: i32) {
    if us == 0 {
        return;
    }
    match &mut *ASKED.lock() {
        Asked::Closed(wanted) => *wanted = true,
        Asked::Open(asked @ None) => *asked = ask(),
        Asked::Open(Some(_)) => {}
    }
}

/// Proof that there are namespaces, whose settings the scheduler may ask for.
pub(crate) struct Open(());

impl Open {
    /// There are now. Sleeps.
    pub(crate) fn new() -> Self {
        let mut asked = ASKED.lock();
        let wanted = matches!(*asked, Asked::Closed(true));
        *asked = Asked::Open(wanted.then(ask).flatten());
        Self(())
    }
}

impl Drop for Open {
    /// Nobody asks any more, and nobody will.
    fn drop(&mut self) {
        *ASKED.lock() = Asked::Closed(false);
    }
}

/// Extra runs by `net.ipv4.tcp_extra_run`.
struct Receivers;

impl ExtraRuns for Receivers {
    fn ask(receiver: &mut Receiver<'_>) -> Answer {
        let rcu = rcu::read_lock();
        let Some(net) = receiver.net().and_then(|net| NAMESPACES.get(net, &rcu)) else {
            return Answer::None;
        };
        let inputs = Inputs {
            max_us: net.extra_run_us(),
            ran_ns: receiver.ran_ns(),
            until_ns: receiver.until_ns(),
            is_paid: receiver.is_paid(),
            overdue_ns: receiver.overdue_ns(),
        };
        match decide(&inputs) {
            Decision::None => Answer::None,
            Decision::Begin(ns) => {
                receiver.grant(ns);
                receiver.trace(Said::Granted, ns);
                net.stats.count(Counter::ExtraRuns);
                net.stats.add(Counter::ExtraRunUsecs, inputs.max_us);
                Answer::GoOn(ns)
            }
            Decision::GoOn(ns) => Answer::GoOn(ns),
            Decision::Over => Answer::Over,
            Decision::Overdue => {
                receiver.trace(Said::Overdue, inputs.overdue_ns.unsigned_abs());
                net.stats.count(Counter::ExtraRunOverdue);
                Answer::None
            }
            Decision::Unpaid => {
                receiver.trace(Said::Unpaid, 0);
                net.stats.count(Counter::ExtraRunUnpaid);
                Answer::None
            }
        }
    }

    fn yielded(net: &Net) {
        let rcu = rcu::read_lock();
        if let Some(net) = NAMESPACES.get(net, &rcu) {
            net.stats.count(Counter::ExtraRunYields);
        }
    }
}
