// SPDX-License-Identifier: GPL-2.0

//! Extra runs for receivers that are about to lose the CPU while they own their sockets.

use crate::{
    ext::{
        extra_run::{
            Answer,
            ExtraRuns,
            Receiver,
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

/// Extra runs by `net.ipv4.tcp_extra_run`.
pub(crate) struct Receivers;

impl ExtraRuns for Receivers {
    fn ask(receiver: &mut Receiver<'_>) -> Answer {
        let Some(net) = receiver.net().and_then(|net| NAMESPACES.get(net)) else {
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
        if let Some(net) = NAMESPACES.get(net) {
            net.stats.count(Counter::ExtraRunYields);
        }
    }
}
