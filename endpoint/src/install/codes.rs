//! What the end of an attempt means: one table from exit code and message to outcome.
//!
//! What apt and dpkg say is one part; whether the update is still needed afterwards is the other and
//! decides ([`decide`]).

use serde::{Deserialize, Serialize};
use tierway_common::schema::State;

use crate::install::run::End;

/// What came of an attempt to install one update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Installed.
    Success,
    /// Installed; takes effect at the next reboot.
    SuccessRebootRequired,
    /// A fresh scan right before found that it is not needed any more; nothing was done.
    NotNeeded,
    /// Another program is installing or removing packages.
    LockBusy,
    /// A file system is full.
    NeedsMoreSpace,
    /// A package that it needs is not to be had, or not in the version needed.
    DependencyUnsatisfied,
    /// Other packages would have to be removed.
    WouldRemove,
    /// The administrator holds one of its packages.
    Held,
    /// The rules call it needed but no installed package is older than what it brings.
    NothingToUpgrade,
    /// A configuration file needs an answer from a person.
    ConffileConflict,
    /// A package's own script failed.
    ScriptFailed,
    /// The package manager's earlier work was cut off and could not be finished.
    RepairFailed,
    /// What is installed could not be read.
    ScanFailed,
    /// A package or what is known of it could not be fetched.
    PayloadUnavailable,
    /// A package is not what its digest says.
    PayloadCorrupt,
    /// The document of the update or of a package is not as it should be.
    DocumentMalformed,
    /// It was stopped at its time limit.
    TimedOut,
    /// The package manager was ended by this signal.
    Killed(i32),
    /// This program ended while the attempt was going on.
    Interrupted,
    /// The package manager reported success, and the update is still needed.
    ReportedSuccessStillNeeded,
    /// The package manager or what runs it could not be started.
    EngineUnavailable,
    /// Any other exit code.
    Failed(i32),
}

/// What an outcome means for the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Done.
    Done,
    /// Not the update's fault: try again after a short while, for as long as it takes.
    Transient,
    /// Something must change first: try again after growing whiles, for as long as it takes.
    Blocked,
    /// The update's fault as far as one can tell: after several equal ones it is not tried any more.
    Failure,
}

impl Outcome {
    /// What it means for the next attempt.
    #[must_use]
    pub fn class(self) -> Class {
        match self {
            Self::Success | Self::SuccessRebootRequired | Self::NotNeeded => Class::Done,
            Self::LockBusy | Self::PayloadUnavailable | Self::ScanFailed | Self::EngineUnavailable => {
                Class::Transient
            }
            Self::NeedsMoreSpace
            | Self::DependencyUnsatisfied
            | Self::WouldRemove
            | Self::Held
            | Self::RepairFailed => Class::Blocked,
            Self::NothingToUpgrade
            | Self::ConffileConflict
            | Self::ScriptFailed
            | Self::PayloadCorrupt
            | Self::DocumentMalformed
            | Self::TimedOut
            | Self::Killed(_)
            | Self::Interrupted
            | Self::ReportedSuccessStillNeeded
            | Self::Failed(_) => Class::Failure,
        }
    }

    /// A sentence without a period for people.
    #[must_use]
    pub fn sentence(self) -> String {
        match self {
            Self::Success => "installed".to_owned(),
            Self::SuccessRebootRequired => "installed, takes effect at the next reboot".to_owned(),
            Self::NotNeeded => "not needed any more".to_owned(),
            Self::LockBusy => "another program is using the package manager".to_owned(),
            Self::NeedsMoreSpace => "a file system is full".to_owned(),
            Self::DependencyUnsatisfied => "a package that it needs is missing".to_owned(),
            Self::WouldRemove => "other packages would have to be removed".to_owned(),
            Self::Held => "a package is held by the administrator".to_owned(),
            Self::NothingToUpgrade => "needed by its rule, but no installed package is older".to_owned(),
            Self::ConffileConflict => "a configuration file needs a person's answer".to_owned(),
            Self::ScriptFailed => "a package's own script failed".to_owned(),
            Self::RepairFailed => "the package manager's interrupted work could not be finished".to_owned(),
            Self::ScanFailed => "what is installed could not be read".to_owned(),
            Self::PayloadUnavailable => "a package could not be fetched".to_owned(),
            Self::PayloadCorrupt => "a package is not what its digest says".to_owned(),
            Self::DocumentMalformed => "the update's description is malformed".to_owned(),
            Self::TimedOut => "stopped at its time limit".to_owned(),
            Self::Killed(signal) => format!("the package manager was ended by signal {signal}"),
            Self::Interrupted => "this program ended during the attempt".to_owned(),
            Self::ReportedSuccessStillNeeded => "reported success, and is still needed".to_owned(),
            Self::EngineUnavailable => "the package manager could not be started".to_owned(),
            Self::Failed(code) => format!("the package manager exited with {code}"),
        }
    }
}

/// Messages of apt 1.8 to 3.0 and dpkg 1.19 to 1.22 in the locale C and what they mean; the first that is
/// found in the output of a program that failed counts. More special ones come first.
const MESSAGES: &[(&str, Outcome)] = &[
    ("No space left on device", Outcome::NeedsMoreSpace),
    ("You don't have enough free space in", Outcome::NeedsMoreSpace),
    ("Disk quota exceeded", Outcome::NeedsMoreSpace),
    ("Could not get lock", Outcome::LockBusy),
    ("Unable to acquire the dpkg frontend lock", Outcome::LockBusy),
    ("dpkg frontend lock was locked by another process", Outcome::LockBusy),
    ("dpkg database lock was locked by another process", Outcome::LockBusy),
    ("Unable to lock the administration directory", Outcome::LockBusy),
    ("Unable to lock directory", Outcome::LockBusy),
    ("end of file on stdin at conffile prompt", Outcome::ConffileConflict),
    ("Packages need to be removed but remove is disabled", Outcome::WouldRemove),
    ("Held packages were changed", Outcome::Held),
    ("dpkg was interrupted, you must manually run", Outcome::RepairFailed),
    ("needs to be reinstalled, but I can't find an archive for it", Outcome::RepairFailed),
    ("Hash Sum mismatch", Outcome::PayloadCorrupt),
    ("is not a Debian format archive", Outcome::PayloadCorrupt),
    ("corrupted filesystem tarfile", Outcome::PayloadCorrupt),
    ("The following packages have unmet dependencies", Outcome::DependencyUnsatisfied),
    ("Unable to correct problems", Outcome::DependencyUnsatisfied),
    ("dependency problems - leaving unconfigured", Outcome::DependencyUnsatisfied),
    ("script subprocess returned error exit status", Outcome::ScriptFailed),
    ("script subprocess was killed by signal", Outcome::ScriptFailed),
    ("script subprocess failed", Outcome::ScriptFailed),
];

/// What the end of apt or dpkg means by itself, with its output.
#[must_use]
pub fn of_program(end: End, text: &str) -> Outcome {
    match end {
        End::Exited(0) => Outcome::Success,
        End::TimedOut => Outcome::TimedOut,
        End::Signalled(signal) => Outcome::Killed(signal),
        End::Exited(code) => MESSAGES
            .iter()
            .find(|(message, _)| text.contains(message))
            .map_or(Outcome::Failed(code), |(_, outcome)| *outcome),
    }
}

/// What a fresh scan found after the attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct After {
    /// Where the update stands by its rules.
    pub state: State,
    /// A package of the update is unpacked but not fully installed.
    pub incomplete: bool,
    /// A package that this attempt changed asked for a reboot.
    pub reboot_required: bool,
}

/// The outcome of an attempt: the fresh scan decides, and what the programs said explains it.
#[must_use]
pub fn decide(said: Outcome, after: After) -> Outcome {
    let there = match after.state {
        State::Installed | State::RebootPending | State::NotApplicable => !after.incomplete,
        State::Needed | State::Failed => false,
        // Nothing contradicts what the programs said.
        State::Unknown => return if said == Outcome::Success { Outcome::ScanFailed } else { said },
    };
    match (there, said) {
        (true, _) if after.reboot_required => Outcome::SuccessRebootRequired,
        (true, _) => Outcome::Success,
        (false, Outcome::Success) => Outcome::ReportedSuccessStillNeeded,
        (false, said) => said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_tells_what_an_exit_code_does_not() {
        for (end, text, outcome) in [
            (End::Exited(0), "E: Could not get lock", Outcome::Success),
            (End::Exited(100), "", Outcome::Failed(100)),
            (End::Exited(100), "E: something new", Outcome::Failed(100)),
            (
                End::Exited(100),
                "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 7 (dpkg)",
                Outcome::LockBusy,
            ),
            (
                End::Exited(2),
                "dpkg: error: dpkg frontend lock was locked by another process with pid 7",
                Outcome::LockBusy,
            ),
            (
                End::Exited(100),
                "E: Packages need to be removed but remove is disabled.",
                Outcome::WouldRemove,
            ),
            (
                End::Exited(100),
                "dpkg: error processing package a (--configure):\n installed a package post-installation \
                 script subprocess returned error exit status 1\nE: Sub-process /usr/bin/dpkg returned an error code (1)",
                Outcome::ScriptFailed,
            ),
            (
                End::Exited(100),
                "cannot copy extracted data for './x' to '/x.dpkg-new': failed to write (No space left on device)",
                Outcome::NeedsMoreSpace,
            ),
            (
                End::Exited(100),
                "dpkg: error processing package a (--configure):\n end of file on stdin at conffile prompt",
                Outcome::ConffileConflict,
            ),
            (
                End::Exited(100),
                "The following packages have unmet dependencies:\n a : Depends: b",
                Outcome::DependencyUnsatisfied,
            ),
            (End::Exited(100), "E: Held packages were changed and -y was used", Outcome::Held),
            (End::TimedOut, "E: Could not get lock", Outcome::TimedOut),
            (End::Signalled(9), "", Outcome::Killed(9)),
        ] {
            assert_eq!(of_program(end, text), outcome, "{text}");
        }
    }

    #[test]
    fn the_fresh_scan_decides_whatever_the_program_said() {
        use Outcome as O;
        let after = |state, incomplete, reboot_required| After { state, incomplete, reboot_required };
        for (said, after, outcome) in [
            (O::Success, after(State::Installed, false, false), O::Success),
            (O::Success, after(State::Installed, false, true), O::SuccessRebootRequired),
            (O::Success, after(State::Needed, false, false), O::ReportedSuccessStillNeeded),
            (O::Success, after(State::Needed, false, true), O::ReportedSuccessStillNeeded),
            (O::Success, after(State::Unknown, false, false), O::ScanFailed),
            (O::Failed(100), after(State::Installed, false, false), O::Success),
            (O::ScriptFailed, after(State::Installed, true, false), O::ScriptFailed),
            (O::ScriptFailed, after(State::Needed, false, false), O::ScriptFailed),
            (O::TimedOut, after(State::Unknown, false, false), O::TimedOut),
            (O::Killed(9), after(State::Installed, false, true), O::SuccessRebootRequired),
        ] {
            assert_eq!(decide(said, after), outcome, "{said:?} {after:?}");
        }
    }

    #[test]
    fn every_recognised_message_ends_an_attempt_without_success() {
        for (message, outcome) in MESSAGES {
            assert_ne!(outcome.class(), Class::Done, "{message}");
        }
    }
}
