//! What the end of an attempt means: from exit code and message to one outcome.
//!
//! What the installer says is one part, read by tables that are laid over each other ([`Codes`]): the
//! engine's own ([`of_program`]), the update's, the administrator's for a group, the administrator's for the
//! update; the last that names a code counts. Whether the update is still needed afterwards is the other part
//! and has the last word ([`decide`]).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tierway_common::{
    id::UpdateId,
    schema::{
        State, Update,
        policy::{Meaning, ResultCodes, ResultScope},
    },
};

use tierway_common::programs::End;

/// What came of an attempt to install one update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Installed.
    Success,
    /// Installed; takes effect at the next reboot.
    SuccessRebootRequired,
    /// Installed, and the installer reboots the computer by itself.
    RebootInitiated,
    /// A fresh scan right before, or the installer, found it there; nothing was done.
    AlreadyInstalled,
    /// A fresh scan right before found that it is not for this computer any more; nothing was done.
    NotApplicable,
    /// A newer one that replaces it was installed meanwhile; nothing was done.
    SupersededMeanwhile,
    /// Not needed any more, as it was written down before the three above were told apart, and for an
    /// attempt that a crash cut off and of which nothing else is known.
    NotNeeded,
    /// Another program is installing or removing packages.
    LockBusy,
    /// A file system is full.
    NeedsMoreSpace,
    /// A package that it needs is not to be had, or not in the version needed.
    DependencyUnsatisfied,
    /// The computer must be rebooted first.
    RebootFirst,
    /// The person at the machine cancelled it.
    Cancelled,
    /// The computer's own policy forbids it.
    BlockedByPolicy,
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
    /// The installer reported success, and whether it worked could not be found out yet.
    PendingVerification,
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
    /// The installer says that it is not for this computer, and its rule says that it is.
    SaidNotApplicable,
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
            Self::Success
            | Self::SuccessRebootRequired
            | Self::RebootInitiated
            | Self::AlreadyInstalled
            | Self::NotApplicable
            | Self::SupersededMeanwhile
            | Self::NotNeeded => Class::Done,
            Self::LockBusy
            | Self::PayloadUnavailable
            | Self::ScanFailed
            | Self::PendingVerification
            | Self::EngineUnavailable => Class::Transient,
            Self::NeedsMoreSpace
            | Self::DependencyUnsatisfied
            | Self::RebootFirst
            | Self::Cancelled
            | Self::BlockedByPolicy
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
            | Self::SaidNotApplicable
            | Self::Failed(_) => Class::Failure,
        }
    }

    /// Where the update stands right after it; `None` where it says nothing about that and the scan that
    /// follows does.
    #[must_use]
    pub fn state(self) -> Option<State> {
        match (self, self.class()) {
            (Self::SuccessRebootRequired | Self::RebootInitiated, _) => Some(State::RebootPending),
            (Self::NotNeeded | Self::NotApplicable | Self::SupersededMeanwhile, _) => None,
            (_, Class::Done) => Some(State::Installed),
            // Nothing has gone wrong.
            (Self::RebootFirst | Self::Cancelled, _) | (_, Class::Transient) => Some(State::Needed),
            (_, Class::Blocked | Class::Failure) => Some(State::Failed),
        }
    }

    /// A sentence without a period for people.
    #[must_use]
    pub fn sentence(self) -> String {
        match self {
            Self::Success => "installed".to_owned(),
            Self::SuccessRebootRequired => "installed, takes effect at the next reboot".to_owned(),
            Self::RebootInitiated => "installed, its installer reboots the computer".to_owned(),
            Self::AlreadyInstalled => "was there already".to_owned(),
            Self::NotApplicable => "not for this computer any more".to_owned(),
            Self::SupersededMeanwhile => "replaced by a newer one meanwhile".to_owned(),
            Self::NotNeeded => "not needed any more".to_owned(),
            Self::LockBusy => "another program is using the package manager".to_owned(),
            Self::NeedsMoreSpace => "a file system is full".to_owned(),
            Self::DependencyUnsatisfied => "a package that it needs is missing".to_owned(),
            Self::RebootFirst => "the computer must be rebooted first".to_owned(),
            Self::Cancelled => "cancelled by the person at the machine".to_owned(),
            Self::BlockedByPolicy => "this computer's own policy forbids it".to_owned(),
            Self::WouldRemove => "other packages would have to be removed".to_owned(),
            Self::Held => "a package is held by the administrator".to_owned(),
            Self::NothingToUpgrade => "needed by its rule, but no installed package is older".to_owned(),
            Self::ConffileConflict => "a configuration file needs a person's answer".to_owned(),
            Self::ScriptFailed => "a package's own script failed".to_owned(),
            Self::RepairFailed => "the package manager's interrupted work could not be finished".to_owned(),
            Self::ScanFailed => "what is installed could not be read".to_owned(),
            Self::PendingVerification => {
                "reported success, and whether it is there is not known yet".to_owned()
            }
            Self::PayloadUnavailable => "a package could not be fetched".to_owned(),
            Self::PayloadCorrupt => "a package is not what its digest says".to_owned(),
            Self::DocumentMalformed => "the update's description is malformed".to_owned(),
            Self::TimedOut => "stopped at its time limit".to_owned(),
            Self::Killed(signal) => format!("the package manager was ended by signal {signal}"),
            Self::Interrupted => "this program ended during the attempt".to_owned(),
            Self::ReportedSuccessStillNeeded => "reported success, and is still needed".to_owned(),
            Self::SaidNotApplicable => {
                "its installer says it is not for this computer, its rule says it is".to_owned()
            }
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

/// The administrator's tables that hold on this computer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Codes {
    /// Of the groups it belongs to, merged.
    groups: BTreeMap<i64, Meaning>,
    /// For single updates.
    updates: BTreeMap<UpdateId, BTreeMap<i64, Meaning>>,
}

impl Codes {
    /// Merges `tables`: those of groups that this computer belongs to, from the lowest priority to the
    /// highest, and those of updates. Of two that name a code the later counts.
    #[must_use]
    pub fn new<'a>(tables: impl IntoIterator<Item = &'a ResultCodes>) -> Self {
        let mut codes = Self::default();
        for ResultCodes { scope, codes: table } in tables {
            let merged = match scope {
                ResultScope::Group(_) => &mut codes.groups,
                ResultScope::Update(update) => codes.updates.entry(update.clone()).or_default(),
            };
            merged.extend(table);
        }
        codes
    }

    /// What the tables over the engine's own say about `code` from the installer of `update`; `None` when
    /// none of them names it.
    #[must_use]
    pub fn meaning(&self, update: &Update, code: i64) -> Option<Meaning> {
        let administrators = self.updates.get(&update.id).and_then(|table| table.get(&code));
        administrators.or_else(|| self.groups.get(&code)).or_else(|| update.result_codes.get(&code)).copied()
    }

    /// What the end of the installer of `update` means by itself, with its output: the engine's table under
    /// the others. A time limit and a signal are no codes, and no table can talk them away.
    #[must_use]
    pub fn said(&self, update: &Update, end: End, text: &str) -> Outcome {
        self.said_by(update, end, |end| of_program(end, text))
    }

    /// As [`Codes::said`], with the table of another engine.
    #[must_use]
    pub fn said_by(&self, update: &Update, end: End, engine: impl FnOnce(End) -> Outcome) -> Outcome {
        let named = match end {
            End::Exited(code) => self.meaning(update, code.into()).map(|meaning| of_meaning(meaning, code)),
            End::TimedOut | End::Signalled(_) => None,
        };
        named.unwrap_or_else(|| engine(end))
    }
}

fn of_meaning(meaning: Meaning, code: i32) -> Outcome {
    match meaning {
        Meaning::Success => Outcome::Success,
        Meaning::SuccessRebootRequired => Outcome::SuccessRebootRequired,
        Meaning::RebootInitiated => Outcome::RebootInitiated,
        Meaning::RebootBefore => Outcome::RebootFirst,
        Meaning::AlreadyInstalled => Outcome::AlreadyInstalled,
        Meaning::NotApplicable => Outcome::NotApplicable,
        Meaning::Busy => Outcome::LockBusy,
        Meaning::NeedsMoreSpace => Outcome::NeedsMoreSpace,
        Meaning::DependencyMissing => Outcome::DependencyUnsatisfied,
        Meaning::Cancelled => Outcome::Cancelled,
        Meaning::BlockedByPolicy => Outcome::BlockedByPolicy,
        Meaning::Failure => Outcome::Failed(code),
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
    /// What the installer replaces it may replace at the restart only, so that a rule that is not yet
    /// satisfied does not contradict an installer that asks for one.
    pub at_restart: bool,
}

/// The outcome of an attempt: the fresh scan has the last word, and what the installer said explains it.
#[must_use]
pub fn decide(said: Outcome, after: After) -> Outcome {
    let success = said.class() == Class::Done;
    match after.state {
        // Nothing contradicts what the installer said, and nothing confirms it.
        State::Unknown if success => Outcome::PendingVerification,
        State::Unknown => said,
        State::Needed | State::Failed
            if after.at_restart
                && matches!(said, Outcome::SuccessRebootRequired | Outcome::RebootInitiated) =>
        {
            said
        }
        State::Needed | State::Failed => still_needed(said),
        State::Installed | State::RebootPending | State::NotApplicable if after.incomplete => {
            still_needed(said)
        }
        State::Installed | State::RebootPending | State::NotApplicable => match said {
            Outcome::RebootInitiated => Outcome::RebootInitiated,
            _ if after.reboot_required || said == Outcome::SuccessRebootRequired => {
                Outcome::SuccessRebootRequired
            }
            Outcome::AlreadyInstalled | Outcome::NotApplicable => said,
            _ => Outcome::Success,
        },
    }
}

fn still_needed(said: Outcome) -> Outcome {
    match said {
        Outcome::NotApplicable => Outcome::SaidNotApplicable,
        said if said.class() == Class::Done => Outcome::ReportedSuccessStillNeeded,
        said => said,
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
        let after = |state, incomplete, reboot_required| After {
            state,
            incomplete,
            reboot_required,
            at_restart: false,
        };
        for (said, after, outcome) in [
            (O::Success, after(State::Installed, false, false), O::Success),
            (O::Success, after(State::Installed, false, true), O::SuccessRebootRequired),
            (O::Success, after(State::Needed, false, false), O::ReportedSuccessStillNeeded),
            (O::Success, after(State::Needed, false, true), O::ReportedSuccessStillNeeded),
            (O::Success, after(State::Installed, true, false), O::ReportedSuccessStillNeeded),
            (O::Success, after(State::Unknown, false, false), O::PendingVerification),
            (O::SuccessRebootRequired, after(State::Installed, false, false), O::SuccessRebootRequired),
            (O::SuccessRebootRequired, after(State::Needed, false, false), O::ReportedSuccessStillNeeded),
            (O::RebootInitiated, after(State::Installed, false, true), O::RebootInitiated),
            (O::AlreadyInstalled, after(State::Installed, false, false), O::AlreadyInstalled),
            (O::AlreadyInstalled, after(State::Needed, false, false), O::ReportedSuccessStillNeeded),
            (O::NotApplicable, after(State::NotApplicable, false, false), O::NotApplicable),
            (O::NotApplicable, after(State::Needed, false, false), O::SaidNotApplicable),
            (O::RebootFirst, after(State::Needed, false, false), O::RebootFirst),
            (O::Cancelled, after(State::Installed, false, false), O::Success),
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

    fn update(codes: &[(i64, Meaning)]) -> Update {
        let mut update: Update = serde_json::from_value(serde_json::json!({
            "id": "own/tool_1", "title": "tool", "product": "tool", "version": "1", "severity": "low",
            "released": "2026-11-01T00:00:00Z", "applicable": {"const": true}, "installed": {"const": false},
            "install": {"deb": {"packages": []}},
        }))
        .unwrap();
        update.result_codes = codes.iter().copied().collect();
        update
    }

    fn table(scope: &str, codes: &[(i64, Meaning)]) -> ResultCodes {
        let scope = match scope.split_once('/') {
            Some(_) => ResultScope::Update(scope.parse().unwrap()),
            None => ResultScope::Group(scope.parse().unwrap()),
        };
        ResultCodes { scope, codes: codes.iter().copied().collect() }
    }

    #[test]
    fn the_last_table_that_names_a_code_counts_and_one_that_does_not_leaves_it_to_those_below() {
        use Meaning as M;
        let package = [(3010, M::SuccessRebootRequired), (5, M::Success), (6, M::Busy), (7, M::Cancelled)];
        let all = table("all", &[(6, M::Failure), (7, M::Failure), (8, M::DependencyMissing)]);
        let web = table("web", &[(7, M::NeedsMoreSpace), (9, M::AlreadyInstalled)]);
        let own = table("own/tool_1", &[(9, M::RebootBefore)]);
        let other = table("own/other_1", &[(5, M::Failure)]);
        let codes = Codes::new([&all, &web, &own, &other]);
        for (code, text, outcome) in [
            (0, "", Outcome::Success),
            (100, "E: Could not get lock", Outcome::LockBusy),
            (4, "", Outcome::Failed(4)),
            (3010, "", Outcome::SuccessRebootRequired),
            (5, "E: Could not get lock", Outcome::Success),
            (6, "", Outcome::Failed(6)),
            (7, "", Outcome::NeedsMoreSpace),
            (8, "", Outcome::DependencyUnsatisfied),
            (9, "", Outcome::RebootFirst),
        ] {
            assert_eq!(codes.said(&update(&package), End::Exited(code), text), outcome, "{code}");
        }
        assert_eq!(Codes::default().said(&update(&[]), End::Exited(5), ""), Outcome::Failed(5));
    }

    #[test]
    fn no_table_talks_a_time_limit_or_a_signal_away() {
        let codes = Codes::new([&table("all", &[(9, Meaning::Success), (-1, Meaning::Success)])]);
        assert_eq!(codes.said(&update(&[]), End::Signalled(9), ""), Outcome::Killed(9));
        assert_eq!(codes.said(&update(&[]), End::TimedOut, ""), Outcome::TimedOut);
    }

    #[test]
    fn every_meaning_is_an_outcome_of_its_own() {
        use Meaning as M;
        let all = [
            M::Success,
            M::SuccessRebootRequired,
            M::RebootInitiated,
            M::RebootBefore,
            M::AlreadyInstalled,
            M::NotApplicable,
            M::Busy,
            M::NeedsMoreSpace,
            M::DependencyMissing,
            M::Cancelled,
            M::BlockedByPolicy,
            M::Failure,
        ];
        let outcomes: std::collections::HashSet<_> = all.map(|meaning| of_meaning(meaning, 1)).into();
        assert_eq!(outcomes.len(), all.len());
    }

    #[test]
    fn what_older_versions_wrote_down_is_still_read() {
        for (json, outcome) in [
            ("\"success\"", Outcome::Success),
            ("\"not_needed\"", Outcome::NotNeeded),
            ("\"scan_failed\"", Outcome::ScanFailed),
            ("\"reported_success_still_needed\"", Outcome::ReportedSuccessStillNeeded),
            ("{\"failed\":100}", Outcome::Failed(100)),
            ("{\"killed\":9}", Outcome::Killed(9)),
        ] {
            assert_eq!(serde_json::from_str::<Outcome>(json).unwrap(), outcome, "{json}");
        }
    }
}
