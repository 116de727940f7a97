// SPDX-License-Identifier: GPL-2.0

//! The extra run of a receiver that is about to lose the CPU.
//!
//! A task owns its socket while it receives. What arrives meanwhile waits in the socket's backlog, and
//! if the task loses the CPU there, it waits until that runs again: on a busy host for so long that the
//! sender takes it for lost. So the task may go on until it has let go of the socket, for a bounded
//! time, and gives way then. That nothing waits yet when it is to give way is no reason to put it off:
//! what arrives a moment later would wait as long.
//!
//! All of that counts as the task's run time, and a fair scheduler takes it back. What is left to be
//! bounded is how long the others wait:
//!
//! - a task gets no second extra run before it has been off the CPU;
//! - nobody gets one while another has been due for as long as an extra run may take.

/// The longest extra run, in us: about one slice of the scheduler.
pub const MAX_US: u32 = 3000;

/// What is known of a receiver that is to give way. Run times are in ns, since the task was made.
#[derive(Clone, Copy, Debug)]
pub struct Inputs {
    /// How long an extra run may take, in us; 0: there are none.
    pub max_us: u32,
    /// For how long the task has run.
    pub ran_ns: u64,
    /// Until when it has an extra run, if it has one.
    pub until_ns: Option<u64>,
    /// Whether it has been off the CPU since the last one.
    pub is_paid: bool,
    /// For how many ns of virtual time the first of the others has been due; negative: is not.
    pub overdue_ns: i64,
}

/// What to make of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nobody has asked for an extra run.
    None,
    /// It begins, and takes so many ns.
    Begin(u64),
    /// It goes on for so many ns.
    GoOn(u64),
    /// It is over.
    Over,
    /// There is none: another has been due for too long.
    Overdue,
    /// There is none: the last has not been paid for.
    Unpaid,
}

/// Decides whether a receiver that is to give way may go on.
pub fn decide(i: &Inputs) -> Decision {
    if let Some(until) = i.until_ns {
        return match until.checked_sub(i.ran_ns) {
            None | Some(0) => Decision::Over,
            Some(left) => Decision::GoOn(left),
        };
    }
    let max_ns = u64::from(i.max_us) * 1000;
    if max_ns == 0 {
        Decision::None
    } else if !i.is_paid {
        Decision::Unpaid
    } else if u64::try_from(i.overdue_ns).is_ok_and(|overdue| overdue > max_ns) {
        Decision::Overdue
    } else {
        Decision::Begin(max_ns)
    }
}
