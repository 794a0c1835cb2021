//! What the person at the machine may ask for, and whether it is granted.
//!
//! Pure. A wish covers what was due when it was made: what comes on offer later is asked about again. Windows,
//! deadlines and leases hold whatever anybody wishes; see [`permit`] for who may wish what.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tierway_common::{
    schema::policy::{Experience, Reboot},
    service::Settings,
};

/// One wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// Install what is due, at this time or as soon after it as windows let it.
    Install(Timestamp),
    /// Do not install before this time; it ends a countdown.
    Postpone(Timestamp),
    /// Reboot at this time or as soon after it as windows let it.
    Reboot(Timestamp),
    /// Do not reboot before this time; it ends a countdown.
    PostponeReboot(Timestamp),
    /// The warning that is shown was read: the countdown need not be waited for.
    Acknowledge,
    /// Switch updates by schedule on or off.
    Scheduled(bool),
}

/// What a person chose: a time, and when he chose it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// Holds for what was due then.
    pub asked: Timestamp,
    /// The time that was chosen.
    pub at: Timestamp,
}

/// The wishes that hold, the latest of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wishes {
    /// When to install.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub install: Option<Choice>,
    /// Before when not to install.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postponed: Option<Choice>,
    /// When to reboot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reboot: Option<Choice>,
    /// Before when not to reboot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reboot_postponed: Option<Choice>,
    /// When a warning was last said to have been read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<Timestamp>,
    /// Updates by schedule are switched off.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unscheduled: bool,
}

impl Wishes {
    /// Takes in a wish that was granted. Choosing a time takes back what was put off, and the other way round.
    pub fn apply(&mut self, wish: Wish, now: Timestamp) {
        let choice = |at| Some(Choice { asked: now, at });
        match wish {
            Wish::Install(at) => (self.install, self.postponed) = (choice(at), None),
            Wish::Postpone(at) => (self.install, self.postponed) = (None, choice(at)),
            Wish::Reboot(at) => (self.reboot, self.reboot_postponed) = (choice(at), None),
            Wish::PostponeReboot(at) => (self.reboot, self.reboot_postponed) = (None, choice(at)),
            Wish::Acknowledge => self.acknowledged = Some(now),
            Wish::Scheduled(on) => self.unscheduled = !on,
        }
    }

    /// Takes in that the computer has booted: what was wished about reboots is done with.
    pub fn booted(&mut self) {
        (self.reboot, self.reboot_postponed, self.acknowledged) = (None, None, None);
    }
}

/// Who wishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The computer's administrator.
    Root,
    /// Somebody who is logged in, by user id.
    Person(u32),
}

/// What a wish is measured by.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    /// The service level here.
    pub settings: &'a Settings,
    /// Now.
    pub now: Timestamp,
    /// When the last moment of choice of what is due ends: the earliest end of grace. `None` without anything due.
    pub grace_ends: Option<Timestamp>,
    /// The earliest deadline of what is due.
    pub deadline: Option<Timestamp>,
    /// The latest time of a reboot that is needed; `None` when none is.
    pub reboot_by: Option<Timestamp>,
}

/// Why a wish is not granted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nothing is there that could be installed or put off.
    #[error("nothing is due")]
    NothingDue,
    /// No reboot is needed.
    #[error("no reboot is needed")]
    NoReboot,
    /// The level leaves people out of it.
    #[error("updates of this computer are installed without asking, as its service level says")]
    Silent,
    /// Grace is over.
    #[error("it cannot be put off any more: that was possible until {0}")]
    GraceOver(Timestamp),
    /// Later than is allowed.
    #[error("`{0}` is too late: it is due by {1}")]
    TooLate(Timestamp, Timestamp),
    /// Before now.
    #[error("`{0}` is over")]
    Past(Timestamp),
    /// Reboots are somebody else's affair.
    #[error("this computer is not rebooted by Tierway, as its service level says")]
    RebootSuppressed,
    /// Not this person's choice.
    #[error("whether this computer updates by schedule is not for people at it to choose")]
    ScheduleFixed,
}

/// Whether `wish` is granted.
///
/// | wish | granted to |
/// |---|---|
/// | install | everybody, up to the deadline; people not where the experience is `silent` |
/// | postpone | everybody during grace, up to its end; people not where the experience is `silent` |
/// | reboot | everybody when one is needed, up to the latest time for it; nobody where reboots are suppressed |
/// | postpone a reboot | everybody, while grace lasts |
/// | acknowledge | everybody |
/// | schedule | everybody where the level makes it optional; root always switches it on |
///
/// # Errors
///
/// [`Refused`].
pub fn permit(wish: Wish, caller: Caller, standing: &Standing<'_>) -> Result<(), Refused> {
    let Standing { settings, now, grace_ends, deadline, reboot_by } = *standing;
    let person = matches!(caller, Caller::Person(_));
    let silent = person && settings.experience == Experience::Silent;
    let until = |at: Timestamp, latest: Timestamp| {
        // A little past is "now" as it was said.
        if at < now - jiff::SignedDuration::from_mins(1) {
            Err(Refused::Past(at))
        } else if at > latest {
            Err(Refused::TooLate(at, latest))
        } else {
            Ok(())
        }
    };
    let grace = |at: Timestamp| {
        let ends = grace_ends.ok_or(Refused::NothingDue)?;
        if ends <= now { Err(Refused::GraceOver(ends)) } else { until(at, ends) }
    };
    match wish {
        Wish::Install(_) | Wish::Postpone(_) if silent => Err(Refused::Silent),
        // Past the deadline there is no later choice, but "now" is always one.
        Wish::Install(at) => until(at, deadline.ok_or(Refused::NothingDue)?.max(now)),
        Wish::Postpone(at) => grace(at),
        Wish::Reboot(_) | Wish::PostponeReboot(_) if settings.reboot == Reboot::Suppress => {
            Err(Refused::RebootSuppressed)
        }
        Wish::Reboot(at) => until(at, reboot_by.ok_or(Refused::NoReboot)?.max(now)),
        Wish::PostponeReboot(at) => {
            let latest = reboot_by.ok_or(Refused::NoReboot)?;
            match grace_ends {
                Some(ends) if ends <= now => Err(Refused::GraceOver(ends)),
                _ if latest <= now => Err(Refused::GraceOver(latest)),
                _ => until(at, latest),
            }
        }
        Wish::Acknowledge => Ok(()),
        Wish::Scheduled(on) if settings.schedule_optional || on && !person => Ok(()),
        Wish::Scheduled(_) => Err(Refused::ScheduleFixed),
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Install(at) => write!(f, "install at {at}"),
            Self::Postpone(at) => write!(f, "do not install before {at}"),
            Self::Reboot(at) => write!(f, "reboot at {at}"),
            Self::PostponeReboot(at) => write!(f, "do not reboot before {at}"),
            Self::Acknowledge => f.write_str("the warning was read"),
            Self::Scheduled(true) => f.write_str("update by schedule"),
            Self::Scheduled(false) => f.write_str("do not update by schedule"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hour: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + hour * 3600).unwrap()
    }

    fn check(
        wish: Wish,
        caller: Caller,
        change: impl FnOnce(&mut Settings, &mut Standing<'_>),
        expected: &str,
    ) {
        let mut settings =
            Settings { experience: Experience::Consent, reboot: Reboot::IfNeeded, ..Settings::default() };
        let fixed = settings.clone();
        let mut standing = Standing {
            settings: &fixed,
            now: at(0),
            grace_ends: Some(at(10)),
            deadline: Some(at(20)),
            reboot_by: Some(at(20)),
        };
        change(&mut settings, &mut standing);
        let standing = Standing { settings: &settings, ..standing };
        let said = match permit(wish, caller, &standing) {
            Ok(()) => "yes".to_owned(),
            Err(refused) => refused.to_string(),
        };
        assert!(said.starts_with(expected), "{wish}: {said}");
    }

    const ANN: Caller = Caller::Person(1000);

    #[test]
    fn nobody_puts_off_what_is_enforced_and_everybody_may_have_it_sooner() {
        for caller in [ANN, Caller::Root] {
            check(Wish::Postpone(at(4)), caller, |_, _| {}, "yes");
            check(
                Wish::Postpone(at(11)),
                caller,
                |_, _| {},
                "`2027-01-15T19:00:00Z` is too late: it is due by",
            );
            check(Wish::Postpone(at(12)), caller, |_, s| s.now = at(10), "it cannot be put off any more");
            check(Wish::PostponeReboot(at(12)), caller, |_, s| s.now = at(10), "it cannot be put off");
            check(Wish::PostponeReboot(at(5)), caller, |_, _| {}, "yes");
            check(Wish::Install(at(0)), caller, |_, s| s.now = at(10), "`2027-01-15T08:00:00Z` is over");
            check(Wish::Install(at(11)), caller, |_, s| s.now = at(10), "yes");
            check(Wish::Install(at(21)), caller, |_, _| {}, "`2027-01-16T05:00:00Z` is too late");
            check(Wish::Install(at(30)), caller, |_, s| s.now = at(30), "yes");
            check(Wish::Install(at(0)), caller, |_, s| s.deadline = None, "nothing is due");
            check(Wish::Reboot(at(20)), caller, |_, _| {}, "yes");
            check(Wish::Reboot(at(21)), caller, |_, _| {}, "`2027-01-16T05:00:00Z` is too late");
            check(Wish::Reboot(at(0)), caller, |_, s| s.reboot_by = None, "no reboot is needed");
        }
    }

    #[test]
    fn where_updates_are_silent_people_are_left_out_and_root_is_not() {
        let silent = |settings: &mut Settings, _: &mut Standing<'_>| settings.experience = Experience::Silent;
        check(Wish::Install(at(0)), ANN, silent, "updates of this computer are installed without asking");
        check(Wish::Postpone(at(1)), ANN, silent, "updates of this computer are installed without asking");
        check(Wish::Install(at(0)), Caller::Root, silent, "yes");
        check(Wish::Reboot(at(0)), ANN, silent, "yes");
    }

    #[test]
    fn nobody_reboots_where_the_level_leaves_reboots_to_others() {
        let suppressed = |settings: &mut Settings, _: &mut Standing<'_>| settings.reboot = Reboot::Suppress;
        for caller in [ANN, Caller::Root] {
            check(Wish::Reboot(at(0)), caller, suppressed, "this computer is not rebooted by Tierway");
        }
    }

    #[test]
    fn the_schedule_is_switched_only_where_the_level_lets_people() {
        let optional = |settings: &mut Settings, _: &mut Standing<'_>| settings.schedule_optional = true;
        for caller in [ANN, Caller::Root] {
            check(Wish::Scheduled(false), caller, |_, _| {}, "whether this computer updates by schedule");
            check(Wish::Scheduled(false), caller, optional, "yes");
        }
        check(Wish::Scheduled(true), Caller::Root, |_, _| {}, "yes");
        check(Wish::Scheduled(true), ANN, |_, _| {}, "whether this computer updates by schedule");
    }

    #[test]
    fn the_last_wish_of_a_kind_holds_until_it_is_done() {
        let mut wishes = Wishes::default();
        wishes.apply(Wish::Postpone(at(4)), at(0));
        wishes.apply(Wish::Install(at(2)), at(1));
        assert_eq!(wishes.postponed, None);
        assert_eq!(wishes.install, Some(Choice { asked: at(1), at: at(2) }));
        wishes.apply(Wish::Reboot(at(3)), at(1));
        wishes.apply(Wish::PostponeReboot(at(5)), at(2));
        assert_eq!((wishes.reboot, wishes.reboot_postponed.map(|choice| choice.at)), (None, Some(at(5))));
        wishes.apply(Wish::Scheduled(false), at(2));
        wishes.booted();
        let json = serde_json::to_string(&wishes).unwrap();
        assert_eq!(wishes, serde_json::from_str(&json).unwrap());
        assert!(wishes.unscheduled && wishes.reboot_postponed.is_none() && wishes.install.is_some());
    }
}
