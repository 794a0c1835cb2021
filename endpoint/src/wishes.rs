//! What the person at the machine may ask for, and whether it is granted.
//!
//! Pure. A wish covers what was due when it was made: what comes on offer later is asked about again. Windows,
//! deadlines and leases hold whatever anybody wishes; see [`permit`] for who may wish what.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tierway_common::{schema::policy::Experience, service::Settings};

use crate::{
    consent::Terms,
    reboot::decide::{Due, NotDue},
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
    /// User id of who chose; `None` for an unanswered countdown, and for what older versions wrote down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<u32>,
}

impl Choice {
    /// Whether it says "now", or did when it was made.
    #[must_use]
    pub fn is_at_once(&self) -> bool {
        self.at <= self.asked
    }
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
    /// Takes in a wish of user `by` that was granted. Choosing a time takes back what was put off, and the other
    /// way round.
    pub fn apply(&mut self, wish: Wish, by: Option<u32>, now: Timestamp) {
        let choice = |at| Some(Choice { asked: now, at, by });
        match wish {
            Wish::Install(at) => (self.install, self.postponed) = (choice(at), None),
            Wish::Postpone(at) => (self.install, self.postponed) = (None, choice(at)),
            Wish::Reboot(at) => (self.reboot, self.reboot_postponed) = (choice(at), None),
            Wish::PostponeReboot(at) => (self.reboot, self.reboot_postponed) = (None, choice(at)),
            Wish::Acknowledge => self.acknowledged = Some(now),
            Wish::Scheduled(on) => self.unscheduled = !on,
        }
    }

    /// Whether this computer updates by schedule: the level's privilege, which people may switch off where it is
    /// optional.
    #[must_use]
    pub fn scheduled(&self, settings: &Settings) -> bool {
        settings.scheduled && !(self.unscheduled && settings.schedule_optional)
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

impl Caller {
    /// His user id.
    #[must_use]
    pub fn uid(self) -> u32 {
        match self {
            Self::Root => 0,
            Self::Person(uid) => uid,
        }
    }

    /// Whether he is told what belongs to the user `whose`, and to nobody else but root.
    #[must_use]
    pub fn may_see(self, whose: u32) -> bool {
        self == Self::Root || self.uid() == whose
    }
}

/// What a wish is measured by.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    /// The service level here.
    pub settings: &'a Settings,
    /// Now.
    pub now: Timestamp,
    /// The tightest terms of what is on offer: what they allow each of its updates allows. `None` without any.
    pub updates: Option<Terms>,
    /// The reboot that is due, or why none is.
    pub reboot: Result<Due, NotDue>,
    /// A countdown is shown.
    pub warned: bool,
}

/// Why a wish is not granted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nothing is there that could be installed or put off.
    #[error("nothing is due")]
    NothingDue,
    /// No reboot is needed, or not by what Tierway installed.
    #[error("no reboot is due that Tierway would do")]
    NoReboot,
    /// It was ordered again and again.
    #[error("a reboot was ordered {0} times and did not come: somebody must look at this computer")]
    InVain(u32),
    /// Nobody is warned of anything.
    #[error("no warning is shown")]
    NoWarning,
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
    /// The clock was set back.
    #[error("the clock of this computer is behind: what is due came at {0}")]
    ClockBehind(Timestamp),
    /// Reboots are somebody else's affair.
    #[error("this computer is not rebooted by Tierway, as its service level says")]
    RebootSuppressed,
    /// Not this person's choice.
    #[error("whether this computer updates by schedule is not for people at it to choose")]
    ScheduleFixed,
}

impl From<NotDue> for Refused {
    fn from(why: NotDue) -> Self {
        match why {
            NotDue::NotNeeded => Self::NoReboot,
            NotDue::Suppressed => Self::RebootSuppressed,
            NotDue::InVain(times) => Self::InVain(times),
        }
    }
}

/// Whether `wish` is granted. What is granted is followed: [`crate::consent::decide`] and
/// [`crate::reboot::decide::decide`] do at that time what was wished, or wait for a window, a lease, a time of day, a
/// warning or somebody else's work.
///
/// | wish | granted to |
/// |---|---|
/// | install now | everybody; people not where the experience is `silent` |
/// | install later | the same during grace, up to the deadline |
/// | postpone | the same during grace, up to its end |
/// | reboot now | everybody when one is due; nobody where reboots are suppressed |
/// | reboot later | the same during grace of what was installed, for as long as work may hold a reboot back |
/// | postpone a reboot | the same during grace of what was installed, up to its end |
/// | acknowledge | everybody while a warning is shown |
/// | schedule | everybody where the level makes it optional; root always switches it on |
///
/// # Errors
///
/// [`Refused`].
pub fn permit(wish: Wish, caller: Caller, standing: &Standing<'_>) -> Result<(), Refused> {
    let Standing { settings, now, updates, reboot, warned } = *standing;
    let person = matches!(caller, Caller::Person(_));
    let silent = person && settings.experience == Experience::Silent;
    let updates = || updates.ok_or(Refused::NothingDue);
    match wish {
        Wish::Install(_) | Wish::Postpone(_) if silent => Err(Refused::Silent),
        Wish::Install(at) => {
            let terms = updates()?;
            choose(at, &terms, terms.offered, terms.deadline, now)
        }
        Wish::Postpone(at) => put_off(at, &updates()?, now),
        Wish::Reboot(at) => {
            let due = reboot?;
            choose(at, &due.terms, due.since, due.hold_until, now)
        }
        Wish::PostponeReboot(at) => {
            let due = reboot?;
            came(due.since, now).and_then(|()| put_off(at, &due.terms, now))
        }
        Wish::Acknowledge if warned => Ok(()),
        Wish::Acknowledge => Err(Refused::NoWarning),
        Wish::Scheduled(on) if settings.schedule_optional || on && !person => Ok(()),
        Wish::Scheduled(_) => Err(Refused::ScheduleFixed),
    }
}

/// Whether `at` may be chosen for something that came at `since`. Now may always be.
fn choose(
    at: Timestamp,
    terms: &Terms,
    since: Timestamp,
    latest: Timestamp,
    now: Timestamp,
) -> Result<(), Refused> {
    came(since, now)?;
    // A little past is "now" as it was said.
    if at < now - jiff::SignedDuration::from_mins(1) {
        return Err(Refused::Past(at));
    }
    if at <= now {
        return Ok(());
    }
    grace(terms, now)?;
    if at > latest { Err(Refused::TooLate(at, latest)) } else { Ok(()) }
}

/// Whether something may be put off until `at`.
fn put_off(at: Timestamp, terms: &Terms, now: Timestamp) -> Result<(), Refused> {
    grace(terms, now)?;
    if at <= now {
        Err(Refused::Past(at))
    } else if at > terms.grace_ends {
        Err(Refused::TooLate(at, terms.grace_ends))
    } else {
        Ok(())
    }
}

fn grace(terms: &Terms, now: Timestamp) -> Result<(), Refused> {
    came(terms.offered, now)?;
    if terms.in_grace(now) { Ok(()) } else { Err(Refused::GraceOver(terms.grace_ends)) }
}

fn came(since: Timestamp, now: Timestamp) -> Result<(), Refused> {
    if now < since { Err(Refused::ClockBehind(since)) } else { Ok(()) }
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
mod tests;
