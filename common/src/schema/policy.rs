//! Policy documents: when, how and with whose consent approved updates are installed.
//!
//! They are published in the policy catalogue beside groups and approvals, so an endpoint behind a dead
//! link goes on by the last ones it verified. Every setting of a [`ServiceLevel`] is optional: an endpoint
//! in several groups gets, for each setting by itself, the value of its group with the highest priority
//! that says something about it (see [`crate::service`]).

use std::{collections::BTreeMap, time::Duration};

use jiff::{Timestamp, civil::Time};
use serde::{Deserialize, Serialize};

use super::{Severity, UpdateClass};
use crate::{
    id::{GroupId, LevelId, RingPlanId, UpdateId, WindowId},
    trust::{digest::Digest, keys::PublicKey},
};

/// How the members of a group are served. What is `None` is left to groups of lower priority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceLevel {
    /// Its name.
    pub id: LevelId,
    /// Who asks for the updates, as users are told: "IT department".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub department: Option<String>,
    /// Only updates of these classes are installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<Vec<UpdateClass>>,
    /// Only updates at least this severe are installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity_at_least: Option<Severity>,
    /// Whether somebody must approve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalMode>,
    /// Takes updates that are not trusted yet: a test group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untrusted: Option<bool>,
    /// For so long after an update was first on offer here the person at the machine decides when.
    #[serde(default, with = "humantime_serde::option", skip_serializing_if = "Option::is_none")]
    pub grace: Option<Duration>,
    /// So long after it was first on offer here it is installed at the latest; not less than `grace`.
    #[serde(default, with = "humantime_serde::option", skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Duration>,
    /// What happens at the deadline when no change window came in which it fitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_deadline: Option<AtDeadline>,
    /// How much a person at the machine has to do with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experience: Option<Experience>,
    /// The countdown before an installation, and before a reboot, while somebody is logged in.
    #[serde(default, with = "humantime_serde::option", skip_serializing_if = "Option::is_none")]
    pub countdown: Option<Duration>,
    /// What happens when a countdown ends and nobody answered, during grace. In enforcement it is `install`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub countdown_default: Option<CountdownDefault>,
    /// How long one postponement lasts.
    #[serde(default, with = "humantime_serde::option", skip_serializing_if = "Option::is_none")]
    pub postpone: Option<Duration>,
    /// How often a person is reminded of what is due; also at logon and after boot.
    #[serde(default, with = "humantime_serde::option", skip_serializing_if = "Option::is_none")]
    pub remind_every: Option<Duration>,
    /// The privilege to update by schedule at all; without it only notices and people start a check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled: Option<bool>,
    /// The person at the machine may switch scheduled updates off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_optional: Option<bool>,
    /// When it checks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// When it checks while something approved is not installed.
    #[serde(default, with = "humantime_serde::option", skip_serializing_if = "Option::is_none")]
    pub retry_interval: Option<Duration>,
    /// Policy is taken over at most once a day, dictionaries at every check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration_daily: Option<bool>,
    /// Nothing is installed and nothing rebooted but in one of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<Vec<WindowId>>,
    /// Whether and when a needed reboot is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reboot: Option<Reboot>,
    /// Active users, inhibitors and open documents hold a reboot back for so long, and never past the deadline.
    #[serde(default, with = "humantime_serde::option", skip_serializing_if = "Option::is_none")]
    pub reboot_hold: Option<Duration>,
    /// A computer on the road follows notices from central.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roaming: Option<Roaming>,
    /// What is done after an update was installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follow_up: Option<Vec<FollowUp>>,
}

/// Whether somebody must approve an update before it is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalMode {
    /// Only what was approved for one of the computer's groups.
    Explicit,
    /// Everything that classes and severities let through and nobody declined.
    Automatic,
}

/// What happens when the deadline comes before a change window in which the update fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AtDeadline {
    /// It goes on waiting for a window, and is listed as overdue.
    Wait,
    /// It is installed outside of windows.
    Install,
}

/// How much a person at the machine has to do with updates. Without anybody logged in all are `silent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Experience {
    /// Installs by itself and says nothing; reboots are announced all the same.
    Silent,
    /// Installs by itself after a countdown that can be postponed during grace.
    Notify,
    /// During grace waits until the person agrees or picks a time; then as `notify`.
    Consent,
}

/// What a countdown that nobody answered leads to during grace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CountdownDefault {
    /// It is installed.
    Install,
    /// It is put off by [`ServiceLevel::postpone`].
    Postpone,
}

/// When something recurring happens on a computer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Again and again, at the computer's own place in each period.
    Every(#[serde(with = "humantime_serde")] Duration),
    /// Every day, at the computer's own place in the `spread` that begins at `at`, in its time zone.
    Daily {
        /// Local time of day.
        at: Time,
        /// Over how long computers are spread.
        #[serde(with = "humantime_serde")]
        spread: Duration,
    },
    /// The same on some days of the week only.
    Weekly {
        /// At least one.
        days: Vec<Weekday>,
        /// Local time of day.
        at: Time,
        /// Over how long computers are spread.
        #[serde(with = "humantime_serde")]
        spread: Duration,
    },
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weekday {
    /// Monday.
    Monday,
    /// Tuesday.
    Tuesday,
    /// Wednesday.
    Wednesday,
    /// Thursday.
    Thursday,
    /// Friday.
    Friday,
    /// Saturday.
    Saturday,
    /// Sunday.
    Sunday,
}

/// A change window: when the computers that name it may be changed and go down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Its name.
    pub id: WindowId,
    /// When it opens; any of these.
    pub opens: Vec<Recurrence>,
    /// How long it stays open, in real time (a change to summer time does not shorten it).
    #[serde(with = "humantime_serde")]
    pub length: Duration,
    /// IANA time zone in which it opens; without one each computer's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// At most so many of the computers that use it are down at once: each needs a lease from central.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_once_max: Option<u32>,
}

/// A calendar rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recurrence {
    /// Which days.
    pub on: Days,
    /// Local time of day at which it opens.
    pub at: Time,
    /// Months 1 to 12; without any all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub months: Vec<i8>,
}

/// Days of a calendar rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Days {
    /// Every day.
    Every,
    /// These days of every week.
    Weekly(Vec<Weekday>),
    /// The nth such day of the month: 1 to 5, or -1 for the last one.
    Nth(i8, Weekday),
    /// The day so many days after the nth such day of the month, as in "the Saturday after patch Tuesday".
    After(i8, Weekday, i8),
    /// This day of the month: 1 to 31 (months without it are left out), or -1 for the last, -2 for the one
    /// before it, to -31.
    Day(i8),
}

/// Whether and when a reboot that is needed is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reboot {
    /// Never by Tierway: the update stays "reboot pending".
    Suppress,
    /// After an installation that needs it.
    IfNeeded,
    /// After every installation.
    Always,
    /// When one is needed, at this local time of day.
    At(Time),
}

/// What a computer on the road does with notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Roaming {
    /// Checks by its schedule only.
    Skip,
    /// Follows notices as everybody else.
    Include,
}

/// What is done after an update was installed; a closed list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FollowUp {
    /// Everything is scanned again.
    Rescan,
    /// All facts are reported, not only what changed.
    ReportInventory,
    /// A program that an administrator published: a blob, run by itself without arguments.
    Run {
        /// SHA-256 of the program.
        program: Digest,
        /// Its length.
        bytes: u64,
        /// It is ended after so long.
        #[serde(with = "humantime_serde")]
        limit: Duration,
    },
}

/// How an update that is approved with it spreads over a group: ring after ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RingPlan {
    /// Its name.
    pub id: RingPlanId,
    /// In the order in which they open; the last one takes everybody who is in no other.
    pub rings: Vec<Ring>,
}

/// One ring of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ring {
    /// Its name.
    pub name: String,
    /// Who is in it.
    pub who: RingMembers,
    /// How long it is open before the next one can open.
    #[serde(default, with = "humantime_serde")]
    pub soak: Duration,
    /// So many of its computers must have installed the update before the next ring opens.
    #[serde(default)]
    pub successes_at_least: u32,
    /// More failures than this, of a thousand attempts that ended, halt the plan.
    #[serde(default = "ring_failures")]
    pub failure_permille_max: u16,
    /// So many failures at least before the share counts: one failure of one attempt says little.
    #[serde(default = "ring_failures_min")]
    pub failures_min: u32,
}

fn ring_failures() -> u16 {
    20
}

fn ring_failures_min() -> u32 {
    2
}

/// Who is in a ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RingMembers {
    /// The members of a group.
    Group(GroupId),
    /// So many of a thousand of those who are in no earlier ring by group, by a stable hash of plan and
    /// computer; shares of one plan add up.
    Permille(u16),
    /// Everybody else.
    Rest,
}

/// How far an update has come in a ring plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// By which plan.
    pub plan: RingPlanId,
    /// Which update.
    pub update: UpdateId,
    /// Whether it goes on.
    pub stage: RolloutStage,
    /// Index of the newest ring that is open.
    pub open: u32,
    /// Since when that one is.
    pub since: Timestamp,
    /// Why it stands where it stands, a sentence.
    #[serde(default)]
    pub detail: String,
}

/// Whether a rollout goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutStage {
    /// Rings open by themselves.
    Running,
    /// A person stopped it: nobody begins to install, no ring opens.
    Paused,
    /// Too many failures stopped it: as paused, until a person resumes or aborts it.
    Halted,
    /// Given up.
    Aborted,
    /// The last ring is open.
    Complete,
}

impl RolloutStage {
    /// Whether computers of open rings may install.
    #[must_use]
    pub fn installs(self) -> bool {
        matches!(self, Self::Running | Self::Complete)
    }
}

/// When an update that came in is trusted by itself. Without this document every update is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustPolicy {
    /// So many computers of groups that take untrusted updates must have installed it,
    pub successes_at_least: u32,
    /// the first of them so long ago,
    #[serde(with = "humantime_serde")]
    pub over: Duration,
    /// with at most so many failures of a thousand attempts.
    pub failure_permille_max: u16,
}

/// An update that is trusted. While a [`TrustPolicy`] is published, one without this document is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trusted {
    /// Which.
    pub update: UpdateId,
    /// Since when.
    pub at: Timestamp,
    /// `operator:<name>` or `promoted: 25 of 25 over 2days`.
    pub by: String,
}

/// What exit codes mean, for one update or the members of one group: the administrator's table.
///
/// The order: the engine's own table, then the update's ([`super::Update::result_codes`]), then the
/// group's, then the administrator's for the update; the last that names a code counts, and a fresh
/// evaluation after the installation has the last word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResultCodes {
    /// Whom it is for.
    pub scope: ResultScope,
    /// Exit code → meaning.
    pub codes: BTreeMap<i64, Meaning>,
}

/// Whom a table of result codes is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResultScope {
    /// One update.
    Update(UpdateId),
    /// Every update on the members of a group.
    Group(GroupId),
}

/// What an exit code means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Meaning {
    /// Installed.
    Success,
    /// Installed; takes effect at the next reboot.
    SuccessRebootRequired,
    /// Installed, and the installer reboots the computer by itself.
    RebootInitiated,
    /// A reboot must come first.
    RebootBefore,
    /// Was there already.
    AlreadyInstalled,
    /// Not for this computer.
    NotApplicable,
    /// Another installer is at work: try again soon.
    Busy,
    /// A file system is full.
    NeedsMoreSpace,
    /// Something that it needs is missing.
    DependencyMissing,
    /// The person at the machine cancelled it.
    Cancelled,
    /// The computer's own policy forbids it.
    BlockedByPolicy,
    /// It failed.
    Failure,
}

/// How long an installation takes, measured on the fleet: what its time limit comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// By class of machine ([`super::CycleSummary::machine_class`]); the empty name holds all classes together.
    pub classes: BTreeMap<String, Measured>,
}

/// Measured durations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// How many installations.
    pub samples: u32,
    /// 95 of 100 took at most so many seconds.
    pub p95_seconds: u32,
}

/// The key with which central signs leases: permissions to be down at once with others of a window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseKey {
    /// Ed25519.
    pub key: PublicKey,
}
