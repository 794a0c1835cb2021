//! Installs what a plan names: engines, and what their results mean.
//!
//! An engine runs only what a verified document names, from a copy whose digest was checked on the way
//! into place. It is told what is needed by a fresh scan and believes that scan about the result.

pub mod codes;
pub mod deb;
pub mod failsafe;
pub mod follow_up;
pub mod windows;

use std::{collections::BTreeMap, future::Future, path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use tierway_common::{
    clock::Clock,
    facts::Facts,
    id::UpdateId,
    rules::{Verdict, verdict},
    schema::{DETAIL_BYTES_MAX, Install, Payload, PoolEntry, State, StateEntry, Update},
    trust::digest::Digest,
};

use crate::{
    install::{
        codes::{Class, Codes, Outcome},
        deb::apt::{Step, cut},
    },
    ledger::{Ledger, journal::JournalError},
    plan::{Plan, Reason},
};

/// Something that a verified document names cannot be had now.
#[derive(Debug, thiserror::Error)]
#[error("could not fetch {what}")]
pub struct Unavailable {
    /// Such as ``the package `libc6` ``.
    pub what: String,
    /// Why.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Brings payloads to this computer.
pub trait PayloadFetcher {
    /// Fetches those that are not here yet; returns when all are here and verified.
    fn ensure(&self, payloads: &[Payload]) -> impl Future<Output = Result<(), Unavailable>> + Send;

    /// Where the verified file is.
    fn path(&self, digest: &Digest) -> Option<PathBuf>;
}

/// What an archive has besides the updates.
pub trait Pool {
    /// The entry of a package or virtual package; `None` when the archive has none of that name.
    fn lookup(
        &self,
        architecture: &str,
        name: &str,
    ) -> impl Future<Output = Result<Option<PoolEntry>, Unavailable>> + Send;
}

/// Installs updates of the kinds that a system has.
pub trait Engine {
    /// What an update is made for, for people, when this engine does not install such; else `None`.
    fn lacks(install: &Install) -> Option<&str>;

    /// What must be here before `update` can be installed on a computer with these facts.
    fn payloads(&self, update: &Update, facts: &Facts) -> Vec<Payload>;

    /// Removes what a crash left, unless an installer is at work.
    ///
    /// # Errors
    ///
    /// When something cannot be looked at or removed.
    fn clean(&self) -> Result<Cleaned, CleanError>;

    /// Installs one update, if a fresh scan still calls it needed.
    ///
    /// `fresh` scans and evaluates the update when it is called: before, right before and after.
    fn install<P: Pool + Sync, F: PayloadFetcher + Sync>(
        &self,
        request: &Request<'_>,
        pool: &P,
        payloads: &F,
        fresh: &(dyn Fn() -> Fresh + Send + Sync),
    ) -> impl Future<Output = Attempted> + Send;
}

/// The engine of the system that this program is built for.
#[cfg(unix)]
pub type SystemEngine = deb::engine::DebEngine;
#[cfg(windows)]
pub type SystemEngine = windows::WindowsEngine;

/// What [`Engine::clean`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleaned {
    /// Nothing is left.
    Yes,
    /// An installer is at work, perhaps the one of an earlier run: nothing was touched.
    Busy,
}

/// What an earlier attempt left could not be cleared up.
#[derive(Debug, thiserror::Error)]
#[error("could not clear up after an earlier installation")]
pub struct CleanError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Why an attempt ended before the installer was told to install.
#[derive(Debug)]
struct Stop {
    outcome: Outcome,
    detail: String,
}

impl Stop {
    fn new(outcome: Outcome, detail: impl Into<String>) -> Self {
        Self { outcome, detail: detail.into() }
    }
}

/// What a scan that was just made says about one update.
#[derive(Clone, Debug)]
pub struct Fresh {
    /// Where it stands by its rules.
    pub state: State,
    /// What was read.
    pub facts: Facts,
}

impl Fresh {
    /// What facts that were just read say about `update`.
    #[must_use]
    pub fn of(update: &Update, facts: Facts) -> Self {
        let state = match verdict(update, &facts) {
            Verdict::NotApplicable => State::NotApplicable,
            Verdict::Needed => State::Needed,
            Verdict::Installed => State::Installed,
            Verdict::Unknown { .. } => State::Unknown,
        };
        Self { state, facts }
    }

    /// Stops unless it calls `update` needed.
    fn needed(&self, update: &Update) -> Result<(), Stop> {
        match self.state {
            State::Needed | State::Failed => Ok(()),
            State::Installed | State::RebootPending => Err(Stop::new(Outcome::AlreadyInstalled, "")),
            State::NotApplicable => Err(Stop::new(Outcome::NotApplicable, "")),
            State::Unknown => {
                let detail = format!("whether `{}` is needed is not known any more", update.id);
                Err(Stop::new(Outcome::ScanFailed, detail))
            }
        }
    }
}

/// What to install and what is known besides.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The update.
    pub update: &'a Update,
    /// Other updates that are needed and approved: their packages may come along when needed.
    pub approved: &'a [&'a Update],
    /// Updates that are needed and not approved: their packages are not upgraded.
    pub left_out: &'a [&'a Update],
    /// What the exit code of its installer means.
    pub codes: &'a Codes,
    /// After which the package manager is stopped.
    pub limit: Duration,
}

/// What an attempt came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempted {
    /// In one word.
    pub outcome: Outcome,
    /// What was said, at most [`DETAIL_BYTES_MAX`].
    pub detail: Option<String>,
    /// What the package manager was told to unpack, in its order; empty when it was not started.
    pub steps: Vec<Step>,
    /// How long the package manager was at work; `None` when it was not started.
    pub took: Option<Duration>,
}

impl Attempted {
    fn new(outcome: Outcome, detail: &str) -> Self {
        let detail = cut(detail, DETAIL_BYTES_MAX);
        Self {
            outcome,
            detail: (!detail.is_empty()).then(|| detail.to_owned()),
            steps: Vec::new(),
            took: None,
        }
    }
}

/// With what a plan is executed.
#[expect(missing_debug_implementations, reason = "it borrows functions")]
pub struct Means<'a, E, P, F> {
    /// Installs.
    pub engine: &'a E,
    /// Where dependencies are looked up.
    pub pool: &'a P,
    /// Where packages come from.
    pub payloads: &'a F,
    /// Reads the system as it is now.
    pub scan: &'a (dyn Fn() -> Facts + Send + Sync),
    /// Tells the time of what is written down.
    pub clock: &'a Clock,
    /// What exit codes mean.
    pub codes: &'a Codes,
    /// Asked before each update: false ends the run, as at a shutdown.
    pub go_on: &'a (dyn Fn() -> bool + Send + Sync),
}

/// What came of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Executed {
    /// States that changed, in the order in which they did.
    pub entries: Vec<StateEntry>,
    /// What was attempted, in its order. An update that came along with an earlier one is not among them.
    pub attempts: Vec<(UpdateId, Attempted)>,
}

/// Installs what `plan` says, one update after the other, and writes each attempt down before it begins
/// and after it ends. Ends early when something is in the way of all the others too.
///
/// `updates` are the documents of the plan's updates, those left out included. A fresh scan and
/// [`Ledger::observe`] should follow.
///
/// # Errors
///
/// When the ledger cannot be written; nothing is attempted that could not be written down.
pub async fn execute<E: Engine, P: Pool + Sync, F: PayloadFetcher + Sync>(
    plan: &Plan,
    updates: &BTreeMap<UpdateId, Arc<Update>>,
    means: &Means<'_, E, P, F>,
    ledger: &mut Ledger,
) -> Result<Executed, JournalError> {
    let mut executed = Executed::default();
    let left_out: Vec<&Update> = plan
        .left_out
        .iter()
        .filter(|(_, reason)| !matches!(reason, Reason::Superseded(_)))
        .filter_map(|(id, _)| updates.get(id).map(Arc::as_ref))
        .collect();
    let (began, awake) = (means.clock.now(), means.clock.awake());
    for step in &plan.steps {
        let id = &step.update;
        if !(means.go_on)() {
            break;
        }
        // Those before it may have taken longer than was expected, whether or not the clock was set back meanwhile.
        let took = means.clock.awake().saturating_sub(awake);
        let now = means.clock.now().max(began.checked_add(took).unwrap_or(Timestamp::MAX));
        let Some(limit) = step.limit_at(now) else {
            tracing::info!(update = %id, "does not fit into the window any more, and is carried over");
            continue;
        };
        let Some(update) = updates.get(id) else {
            tracing::warn!(update = %id, "the plan names an update without a document");
            continue;
        };
        let before = Fresh::of(update, (means.scan)());
        if before.state == State::Installed && !deb::is_incomplete(update, &before.facts) {
            continue;
        }
        let approved: Vec<&Update> = plan
            .install()
            .filter(|other| *other != id)
            .filter_map(|other| updates.get(other).map(Arc::as_ref))
            .collect();
        let request = Request { update, approved: &approved, left_out: &left_out, codes: means.codes, limit };
        let fresh = || Fresh::of(update, (means.scan)());
        ledger.begin(id, means.clock.now())?;
        let mut attempted = means.engine.install(&request, means.pool, means.payloads, &fresh).await;
        if matches!(attempted.outcome, Outcome::AlreadyInstalled | Outcome::NotApplicable)
            && let Some(newer) = replaced_by(update, &executed, updates)
        {
            attempted.outcome = Outcome::SupersededMeanwhile;
            attempted.detail = Some(format!("by `{newer}`"));
        }
        let detail = attempted.detail.as_deref();
        executed.entries.extend(ledger.end(
            id,
            means.clock.now(),
            attempted.outcome,
            detail,
            attempted.took,
        )?);
        let outcome = attempted.outcome;
        if outcome.class() == Class::Done {
            tracing::info!(update = %id, outcome = %outcome.sentence(), detail, "attempted");
        } else {
            tracing::warn!(update = %id, outcome = %outcome.sentence(), detail, "could not install an update");
        }
        executed.attempts.push((id.clone(), attempted));
        let for_all = [
            Outcome::LockBusy,
            Outcome::RepairFailed,
            Outcome::NeedsMoreSpace,
            Outcome::ScanFailed,
            Outcome::EngineUnavailable,
        ];
        if for_all.contains(&outcome) {
            break;
        }
    }
    Ok(executed)
}

/// The update among those installed so far that replaces `update`.
fn replaced_by<'a>(
    update: &Update,
    executed: &'a Executed,
    updates: &BTreeMap<UpdateId, Arc<Update>>,
) -> Option<&'a UpdateId> {
    executed
        .attempts
        .iter()
        .filter(|(_, attempted)| attempted.took.is_some() && attempted.outcome.class() == Class::Done)
        .map(|(id, _)| id)
        .find(|id| {
            update.superseded_by.contains(id)
                || updates.get(*id).is_some_and(|newer| newer.supersedes.contains(&update.id))
        })
}
