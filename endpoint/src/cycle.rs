//! One cycle, step by step. What decides is elsewhere and pure; here its answers are carried out in order.

mod answers;
mod deciding;
mod going;
mod people;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use jiff::{Timestamp, tz::TimeZone};
use tierway_common::{
    blobs::Blobs,
    daemon::stop::Stop,
    facts::Facts,
    id::{EndpointId, SiteId, TenantId, UpdateId, WindowId},
    lease::Lease,
    rules::Verdict,
    schema::{CycleSummary, Decision, Report, State, StateEntry, policy::Roaming},
    transport::identity::Holder,
    trust::{
        digest::Digest,
        keys::{KeyError, PublicKey, SigningKey},
    },
};
use tierway_proto::{
    notices::ANSWERED_MAX,
    sync::CatalogueError,
    upstream::{Upstream, UpstreamError},
    v1,
};
use tracing::warn;

use self::deciding::Found;
pub use self::going::ROUNDS_MAX;
use crate::{
    agent::{AgentError, VERSION},
    catalogues::{Catalogues, CataloguesError},
    config::Config,
    consent::Countdown,
    host,
    install::{Engine, SystemEngine},
    ledger::{Book, Ledger, Record, journal::JournalError},
    phase::Phase,
    plan::Plan,
    policy::{Effective, here::Here},
    probe::{Seen, Surroundings},
    reboot,
    report::{ReportError, Spool, portions},
    rhythm::Rhythm,
    terms::Terms,
};

/// Payloads announced to the tier above, so that it can have them ready.
const WANTED_MAX: usize = 256;

/// Why a cycle did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum CycleError {
    /// Nothing can be signed.
    #[error("could not read the endpoint's key")]
    Key(#[from] KeyError),
    /// What was done cannot be written down, so nothing is done.
    #[error("could not write the ledger")]
    Ledger(#[from] JournalError),
    /// What is published.
    #[error("could not evaluate what is published")]
    Catalogues(#[from] CataloguesError),
    /// The policy.
    #[error("could not read the policy")]
    Policy(#[from] CatalogueError),
    /// What is reported.
    #[error("could not put reports on their way")]
    Report(#[from] ReportError),
    /// No such update, or several.
    #[error("{0}")]
    Which(String),
}

/// Why nothing new came from the tier above.
#[derive(Debug, thiserror::Error)]
enum SyncError {
    #[error("could not check in")]
    CheckIn(#[from] UpstreamError),
    #[error("could not bring over what is published")]
    Catalogues(#[from] CataloguesError),
}

/// The computer around a cycle.
#[derive(Debug)]
pub struct Around<E = SystemEngine> {
    /// Who it is.
    pub endpoint: EndpointId,
    /// Its time zone until a scan says it.
    pub zone: TimeZone,
    /// What can be seen of it, and how it is rebooted.
    pub surroundings: Arc<dyn Surroundings>,
    /// What installs on it.
    pub engine: E,
    /// Told when the program is to end.
    pub stop: Stop,
}

/// What the cycles of one endpoint have in common.
#[derive(Debug)]
pub struct Cycle<E = SystemEngine> {
    root: PathBuf,
    endpoint: EndpointId,
    site: SiteId,
    stop: Stop,
    audit_only: bool,
    install_time_limit: Duration,
    payload_patience: Duration,
    upstream: Upstream,
    catalogues: Catalogues,
    payloads: Blobs,
    spool: Spool,
    ledger: Ledger,
    engine: E,
    tenant: TenantId,
    /// Of this computer.
    zone: TimeZone,
    surroundings: Arc<dyn Surroundings>,
    /// For follow-up programs.
    data_dir: PathBuf,
    /// Of the last scan.
    facts: Facts,
    /// Who and what was seen last around it.
    seen: Seen,
    /// What the last scan found.
    found: Found,
    /// The policy that holds.
    here: Here,
    /// What was decided last.
    plan: Plan,
    /// What was decided last about a reboot.
    reboot: reboot::decide::Decision,
    /// The countdown that is shown.
    countdown: Option<Countdown>,
    /// Up to which it was counted, as [`tierway_common::clock::Clock::awake`] tells it.
    counted: Duration,
    phase: Phase,
    /// The tier above answered in the last check.
    reachable: bool,
    /// Why payloads of updates could not be fetched.
    unfetched: BTreeMap<UpdateId, String>,
    /// Each with how long the machine had been awake when it was asked for.
    leases: BTreeMap<WindowId, (Lease, Duration)>,
    /// With which central signs leases.
    lease_key: Option<PublicKey>,
    /// Decisions that hold, for updates that are needed, could not be decided or wait for a reboot.
    decisions: BTreeMap<UpdateId, Effective>,
    /// What is agreed about the installation of those that are approved.
    terms: Terms,
    wanted: BTreeSet<Digest>,
    last_check: Option<Timestamp>,
    /// The ledger as a whole has been reported since this process started.
    told_all: bool,
    /// States that changed since the last report, the latest of each update.
    untold: Vec<StateEntry>,
    /// Ids of notices that the next check-in answers.
    answers: Vec<u64>,
}

impl<E: Engine + Send + Sync> Cycle<E> {
    /// Opens what the cycles work on.
    ///
    /// # Errors
    ///
    /// When the ledger does not open.
    pub fn open(
        config: &Config,
        holder: &Holder,
        upstream: Upstream,
        catalogues: Catalogues,
        payloads: Blobs,
        spool: Spool,
        around: Around<E>,
    ) -> Result<Self, AgentError> {
        let Around { endpoint, zone, surroundings, engine, stop } = around;
        let (ledger, problems) = Ledger::open(&config.data_dir.join("ledger"))?;
        for problem in problems {
            warn!(%problem, "the ledger was damaged");
        }
        Ok(Self {
            root: config.root.clone(),
            endpoint,
            site: holder.site.clone(),
            tenant: holder.tenant.clone(),
            zone,
            surroundings,
            data_dir: config.data_dir.clone(),
            stop,
            audit_only: config.audit_only,
            install_time_limit: config.install_time_limit,
            payload_patience: config.payload_patience,
            upstream,
            catalogues,
            payloads,
            spool,
            ledger,
            engine,
            facts: Facts::default(),
            seen: Seen::default(),
            found: Found::default(),
            here: Here::default(),
            plan: Plan::default(),
            reboot: reboot::decide::Decision::No(reboot::decide::NotDue::NotNeeded),
            countdown: None,
            counted: Duration::ZERO,
            phase: Phase::default(),
            reachable: false,
            unfetched: BTreeMap::new(),
            leases: BTreeMap::new(),
            lease_key: None,
            decisions: BTreeMap::new(),
            terms: Terms::default(),
            wanted: BTreeSet::new(),
            last_check: None,
            told_all: false,
            untold: Vec::new(),
            answers: Vec::new(),
        })
    }

    /// When to decide again at the latest, whatever the schedule says: a window opens, a countdown ends, a time
    /// comes that somebody picked.
    #[must_use]
    pub fn wakes(&self) -> Option<Timestamp> {
        [self.plan.next, self.reboot.until()].into_iter().flatten().min()
    }

    /// When it checks next by itself after a check that ended at `last`.
    #[must_use]
    pub fn next_check(&self, config: &Config, last: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let rhythm = Rhythm {
            settings: &self.here.settings,
            wishes: self.ledger.book().wishes(),
            check_interval: config.check_interval,
            retry_interval: config.retry_interval,
            identity: self.endpoint.as_str(),
            zone: &self.zone,
        };
        rhythm.next(last, self.unfinished(), now)
    }

    /// Whether the service level has a computer on the road follow notices.
    #[must_use]
    pub fn includes_roaming(&self) -> bool {
        self.here.settings.roaming == Roaming::Include
    }

    /// Has the next check-in answer these notices, at most as many as one takes.
    pub fn answer(&mut self, notices: Vec<u64>) {
        self.answers.extend(notices);
        let old = self.answers.len().saturating_sub(ANSWERED_MAX);
        self.answers.drain(..old);
    }

    /// Whether something approved is not installed, so that the next check comes sooner.
    #[must_use]
    pub fn unfinished(&self) -> bool {
        !self.audit_only
            && self.needed().any(|(update, _)| {
                self.decisions.get(update).is_some_and(|decision| decision.decision == Decision::Approve)
            })
    }

    fn needed(&self) -> impl Iterator<Item = (&UpdateId, &Record)> {
        self.ledger
            .book()
            .records()
            .filter(|(_, record)| matches!(record.state, State::Needed | State::Failed))
    }

    /// Checks in and brings over what is new. Returns whether everything is asked for again.
    async fn sync(&mut self, os: &Facts, now: Timestamp) -> Result<bool, SyncError> {
        let wanted = self.wanted.iter().filter(|digest| !self.payloads.contains(digest)).take(WANTED_MAX);
        let answer = self
            .upstream
            .check_in(v1::CheckInRequest {
                timestamp_version: self.catalogues.version(),
                agent_version: VERSION.to_owned(),
                wanted: wanted.map(|digest| digest.as_bytes().to_vec()).collect(),
                relay: None,
                answered: self.answers.clone(),
                targets_version: self.catalogues.targets_version(),
            })
            .await?;
        self.answers.clear();
        if self.catalogues.is_behind(&answer) {
            self.catalogues.refresh(&answer, os, now).await?;
        }
        Ok(answer.resync)
    }

    /// What every rule says, but for updates that are not applicable.
    fn evaluate(&mut self, os: &Facts, facts: &Facts) -> Result<BTreeMap<UpdateId, Verdict>, CycleError> {
        let rules = self.catalogues.rules(os)?;
        let outcome = rules.compiled.scan(facts);
        Ok(rules.compiled.verdicts(&outcome, facts).collect())
    }

    /// Puts on their way: the facts, what changed or everything, and the cycle in numbers.
    fn report(
        &mut self,
        key: &SigningKey,
        changed: Vec<StateEntry>,
        summary: CycleSummary,
        now: Timestamp,
    ) -> Result<(), CycleError> {
        self.spool.inventory(&self.facts, key, now)?;
        let (mut snapshot, entries) =
            if self.told_all { (false, changed) } else { (true, self.ledger.book().entries()) };
        let book = self.ledger.book();
        let mut reports: Vec<Report> = Vec::new();
        for entries in portions(entries) {
            // What follows a snapshot adds to it.
            reports.push(Report::States { snapshot, entries });
            snapshot = false;
        }
        if snapshot {
            reports.push(Report::States { snapshot, entries: Vec::new() });
        }
        reports.push(Report::Cycle(summary));
        for report in &reports {
            self.spool.states(report, || everything(book), key, now)?;
        }
        self.told_all = true;
        Ok(())
    }
}

/// Documents that parse; one that does not is of a newer kind or broken, and named in the log.
pub(crate) fn documents<T: serde::de::DeserializeOwned>(
    found: Vec<(String, Bytes)>,
) -> impl Iterator<Item = T> {
    found.into_iter().filter_map(|(key, bytes)| match serde_json::from_slice(&bytes) {
        Ok(document) => Some(document),
        Err(error) => {
            warn!(key, %error, "left out a document that does not parse");
            None
        }
    })
}

fn everything(book: &Book) -> Report {
    let mut entries = book.entries();
    // Those that are installed come back with the next snapshot that has room.
    entries.sort_by_key(|entry| entry.state == State::Installed);
    let entries = portions(entries).into_iter().next().unwrap_or_default();
    Report::States { snapshot: true, entries }
}

fn flag(facts: &Facts, name: &str) -> bool {
    facts.values.get(&format!("flag:{name}")).is_some_and(|value| value == "true")
}

/// Processors and memory as powers of two, see [`CycleSummary::machine_class`].
fn machine_class() -> String {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // What the firmware keeps makes a machine of 8 GiB say a little less.
    let gibibytes = host::memory_bytes().div_ceil(1 << 30).max(1);
    format!("c{}m{}", processors.ilog2(), gibibytes.next_power_of_two().ilog2())
}

/// Such as `debian 12 amd64`, as far as it is known.
fn os_name(os: &Facts) -> String {
    let parts = ["family", "version", "architecture"].map(|part| os.values.get(&format!("os:{part}")));
    let known: Vec<&str> = parts.into_iter().flatten().map(String::as_str).collect();
    if known.is_empty() { "this unknown system".to_owned() } else { known.join(" ") }
}
