//! Why a needed update is not installed now: for the person at the machine, for central, for `why`.

use std::fmt;

use jiff::{SignedDuration, Timestamp, Zoned};
use tierway_common::{
    id::{UpdateId, WindowId},
    schema::{Severity, UpdateClass, Waiting, policy::RolloutStage},
};

use crate::{consent::Asked, install::codes::Outcome, ledger::Waits, policy::Effective};

/// Why a needed update is not installed now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nobody decided.
    Undecided,
    /// It was declined.
    Declined(Effective),
    /// This newer update replaces it and is approved.
    Superseded(UpdateId),
    /// The service level leaves its class out.
    Class(UpdateClass),
    /// The service level leaves it out as not severe enough.
    Severity(Severity),
    /// It is not trusted yet, and this computer is in no test group.
    Untrusted,
    /// Its ring is not open.
    Ring {
        /// Name of the ring that this computer is in.
        ring: String,
        /// By which plan.
        plan: String,
        /// Where the rollout stands; `None` when central has not begun it.
        stage: Option<RolloutStage>,
    },
    /// This computer only looks.
    AuditOnly,
    /// Nothing may be begun by what was published last.
    Stale(String),
    /// Nothing on this computer installs updates of this kind.
    NoEngine(String),
    /// The administrator of this computer holds this package.
    Held(String),
    /// An attempt that was cut off is not settled yet.
    Unsettled,
    /// Its installer wants a reboot before it.
    RebootFirst,
    /// It failed and is left alone until then.
    BackOff {
        /// When it may be tried again.
        until: Timestamp,
        /// How it failed.
        outcome: Outcome,
    },
    /// It failed so often in the same way that it is not tried any more.
    Quarantined {
        /// How often.
        times: u32,
        /// How.
        outcome: Outcome,
    },
    /// It was never on offer, and the tier above cannot be reached.
    NotOffered,
    /// Its payloads are not here; with what was in the way.
    Download(Option<String>),
    /// A person decides.
    Person {
        /// Until then at the latest.
        until: Timestamp,
        /// For what.
        why: Asked,
    },
    /// A countdown must run out first.
    Countdown {
        /// When it has, if nothing comes between.
        until: Timestamp,
    },
    /// No change window is open.
    Closed {
        /// The next in which it fits, in its zone; `None` when none is long enough or none comes.
        next: Option<Zoned>,
        /// What it needs.
        needs: Needs,
    },
    /// A window is open and what is left of it is too short.
    DoesNotFit {
        /// What it needs.
        needs: Needs,
        /// What is left.
        left: SignedDuration,
        /// The next in which it fits.
        next: Option<Zoned>,
    },
    /// The windows of its service level cannot be read.
    NoWindow(String),
    /// Too many of this window's computers are down, or central did not say yet that they are not.
    Lease(WindowId),
}

/// What an installation needs of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Until it would be ended.
    pub limit: SignedDuration,
    /// For a reboot after it, with the warning before that.
    pub reboot: SignedDuration,
}

impl Reason {
    /// What it waits for, as reported.
    #[must_use]
    pub fn waiting(&self) -> Waiting {
        match self {
            Self::Undecided => Waiting::Approval,
            Self::Declined(_) => Waiting::Declined,
            Self::Superseded(_) => Waiting::Superseded,
            Self::Class(_) | Self::Severity(_) => Waiting::Level,
            Self::Untrusted => Waiting::Trust,
            Self::Ring { .. } => Waiting::Ring,
            Self::AuditOnly | Self::Stale(_) | Self::NoEngine(_) => Waiting::Off,
            Self::Held(_) => Waiting::Hold,
            Self::Unsettled => Waiting::Settling,
            Self::RebootFirst => Waiting::Reboot,
            Self::BackOff { .. } => Waiting::BackOff,
            Self::Quarantined { .. } => Waiting::Quarantine,
            Self::NotOffered | Self::Download(_) => Waiting::Download,
            Self::Person { .. } => Waiting::User,
            Self::Countdown { .. } => Waiting::Countdown,
            Self::Closed { .. } | Self::DoesNotFit { .. } | Self::NoWindow(_) => Waiting::Window,
            Self::Lease(_) => Waiting::Lease,
        }
    }

    /// Until when, where that is known.
    #[must_use]
    pub fn until(&self) -> Option<Timestamp> {
        match self {
            Self::BackOff { until, .. } | Self::Person { until, .. } | Self::Countdown { until } => {
                Some(*until)
            }
            Self::Closed { next, .. } | Self::DoesNotFit { next, .. } => next.as_ref().map(Zoned::timestamp),
            _ => None,
        }
    }

    /// For the ledger.
    #[must_use]
    pub fn waits(&self) -> Waits {
        Waits { waiting: self.waiting(), until: self.until(), reason: self.to_string() }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undecided => f.write_str("not approved for any group of this computer"),
            Self::Declined(decision) => write!(f, "{decision}"),
            Self::Superseded(by) => write!(f, "replaced by the approved update `{by}`"),
            Self::Class(class) => {
                let class = serde_json::to_value(class).unwrap_or_default();
                write!(f, "the service level leaves out updates of class {class}")
            }
            Self::Severity(severity) => {
                write!(f, "the service level leaves out updates of severity {}", severity.as_str())
            }
            Self::Untrusted => f.write_str("not trusted yet, and this computer is in no test group"),
            Self::Ring { ring, plan, stage } => {
                write!(f, "ring `{ring}` of plan `{plan}` is not open")?;
                match stage {
                    None => f.write_str(": the rollout has not begun"),
                    Some(RolloutStage::Running | RolloutStage::Complete) => Ok(()),
                    Some(RolloutStage::Paused) => f.write_str(": the rollout is paused"),
                    Some(RolloutStage::Halted) => f.write_str(": the rollout was halted after failures"),
                    Some(RolloutStage::Aborted) => f.write_str(": the rollout was aborted"),
                }
            }
            Self::AuditOnly => f.write_str("this computer only audits"),
            Self::Stale(why) => f.write_str(why),
            Self::NoEngine(kind) => write!(f, "nothing on this computer installs updates of kind `{kind}`"),
            Self::Held(package) => write!(f, "the package `{package}` is held on this computer"),
            Self::Unsettled => f.write_str("an attempt was cut off and what came of it is not known yet"),
            Self::RebootFirst => f.write_str("its installer wants a reboot before it"),
            Self::BackOff { until, outcome } => {
                write!(f, "tried again after {until}: {}", outcome.sentence())
            }
            Self::Quarantined { times, outcome } => {
                let outcome = outcome.sentence();
                write!(f, "failed {times} times alike and is not tried until it is approved anew: {outcome}")
            }
            Self::NotOffered => f.write_str("not on offer: the tier above cannot be reached"),
            Self::Download(None) => f.write_str("its packages are not here yet"),
            Self::Download(Some(problem)) => write!(f, "its packages are not here yet: {problem}"),
            Self::Person { until, why } => write!(f, "{why} {until}"),
            Self::Countdown { until } => write!(f, "the person at the machine is warned until {until}"),
            Self::Closed { next, needs } => write!(f, "outside change windows; {needs}; {}", Next(next)),
            Self::DoesNotFit { needs, left, next } => {
                write!(f, "does not fit: {needs}, {} left; {}", minutes(*left), Next(next))
            }
            Self::NoWindow(problem) => write!(f, "no change window can be read: {problem}"),
            Self::Lease(window) => {
                write!(f, "waits until fewer computers of window `{window}` are down")
            }
        }
    }
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "needs {}", minutes(self.limit))?;
        if self.reboot > SignedDuration::ZERO {
            write!(f, " + {} for a reboot", minutes(self.reboot))?;
        }
        Ok(())
    }
}

struct Next<'a>(&'a Option<Zoned>);

impl fmt::Display for Next<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(next) => write!(f, "next window {}", next.strftime("%a %Y-%m-%d %H:%M %Z")),
            None => f.write_str("no window that comes is long enough"),
        }
    }
}

/// Whole minutes, up: what is needed is never said to be less.
fn minutes(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    let minutes = u64::try_from(seconds.div_euclid(60) + i64::from(seconds.rem_euclid(60) > 0)).unwrap_or(0);
    let (hours, minutes) = (minutes / 60, minutes % 60);
    match (hours, minutes) {
        (0, minutes) => format!("{minutes} min"),
        (hours, 0) => format!("{hours} h"),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    }
}
