//! One cycle, step by step. What decides is elsewhere and pure; here its answers are carried out in order.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use jiff::Timestamp;
use tierway_common::{
    blobs::Blobs,
    clock::Clock,
    daemon::{chain::Chain, stop::Stop},
    facts::Facts,
    id::{SiteId, UpdateId},
    rules::{
        Verdict,
        explain::{Explained, explain_update},
    },
    schema::{
        Approval, Assignment, CycleSummary, Decision, Group, Payload, Report, State, StateEntry, Update,
        policy::FollowUp,
    },
    transport::identity::Holder,
    trust::{
        digest::Digest,
        keys::{KeyError, SigningKey},
    },
};
use tierway_proto::{
    sync::CatalogueError,
    upstream::{Upstream, UpstreamError},
    v1,
};
use tracing::{info, warn};

use crate::{
    agent::{AgentError, VERSION, host_name},
    catalogues::{Catalogues, CataloguesError},
    config::Config,
    consent,
    due::{Due, Item, RebootDue},
    fetch::Fetcher,
    install::{
        self, Means,
        deb::{Cleaned, DebEngine, is_incomplete},
        follow_up,
    },
    ledger::{Book, Conditions, Event, Ledger, Record, journal::JournalError},
    local::WishError,
    plan::{self, Finding, Plan},
    policy::{self, Effective},
    probe::{Seen, Surroundings},
    report::{ReportError, Spool},
    scan::{self, Asked},
    signs,
    terms::Terms,
    wishes::{self, Caller, Wish},
};

/// Problems of one cycle that are told; more are a symptom of the first ones.
const PROBLEMS_MAX: usize = 32;
/// Payloads announced to the tier above, so that it can have them ready.
const WANTED_MAX: usize = 256;

/// States in one report: some 200 bytes each, of a mebibyte.
const ENTRIES_PER_REPORT: usize = 3_000;

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

/// What is around the cycles.
#[derive(Debug)]
pub struct Around {
    /// Who is there, and what asks for a reboot.
    pub surroundings: Arc<dyn Surroundings>,
    /// Told when they must end.
    pub stop: Stop,
}

/// What the cycles of one endpoint have in common.
#[derive(Debug)]
pub struct Cycle {
    root: PathBuf,
    endpoint: String,
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
    engine: DebEngine,
    surroundings: Arc<dyn Surroundings>,
    /// For follow-up programs.
    data_dir: PathBuf,
    /// Of the last scan.
    facts: Facts,
    /// Of the last look.
    seen: Seen,
    /// What was decided last.
    plan: Plan,
    /// Decisions that hold, for updates that are needed.
    decisions: BTreeMap<UpdateId, Effective>,
    /// What is agreed about the installation of those that are approved.
    terms: Terms,
    wanted: BTreeSet<Digest>,
    last_check: Option<Timestamp>,
    /// The ledger as a whole has been reported since this process started.
    told_all: bool,
}

impl Cycle {
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
        around: Around,
    ) -> Result<Self, AgentError> {
        let Around { surroundings, stop } = around;
        let (ledger, problems) = Ledger::open(&config.data_dir.join("ledger"))?;
        for problem in problems {
            warn!(%problem, "the ledger was damaged");
        }
        let engine = DebEngine::new(&config.root, &config.data_dir);
        Ok(Self {
            root: config.root.clone(),
            endpoint: holder.id.clone(),
            site: holder.site.clone(),
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
            surroundings,
            data_dir: config.data_dir.clone(),
            facts: Facts::default(),
            seen: Seen::default(),
            plan: Plan::default(),
            decisions: BTreeMap::new(),
            terms: Terms::default(),
            wanted: BTreeSet::new(),
            last_check: None,
            told_all: false,
        })
    }

    /// Whether something approved is not installed, so that the next check comes sooner.
    #[must_use]
    pub fn unfinished(&self) -> bool {
        !self.audit_only
            && self.needed().any(|(update, _)| {
                self.decisions.get(update).is_some_and(|decision| decision.decision == Decision::Approve)
            })
    }

    /// Runs one cycle. What fails on the way is added to `problems`, those that make it end early too.
    ///
    /// # Errors
    ///
    /// [`CycleError`] when it makes no sense to go on.
    pub async fn run(
        &mut self,
        key: &SigningKey,
        resync: bool,
        clock: &Clock,
        problems: &mut Vec<String>,
    ) -> Result<v1::LocalCheckNowResponse, CycleError> {
        let done = self.steps(key, resync, clock, problems).await;
        self.catalogues.rest();
        done
    }

    async fn steps(
        &mut self,
        key: &SigningKey,
        resync: bool,
        clock: &Clock,
        problems: &mut Vec<String>,
    ) -> Result<v1::LocalCheckNowResponse, CycleError> {
        let (began, timer) = (clock.now(), Instant::now());
        self.last_check = Some(began);
        let machine = machine();
        let os = scan::scan(&self.root, &Asked::default(), &machine).0;

        let mut resync = resync;
        match self.sync(&os, began).await {
            Ok(again) => resync |= again,
            Err(error) => {
                problems.push(Chain(&error).to_string());
                self.catalogues.restore(&os).await?;
            }
        }
        if resync {
            self.spool.resync()?;
            self.told_all = false;
        }

        let asked = self.catalogues.rules(&os)?.asked.clone();
        let scan = || scan::scan(&self.root, &asked, &machine);
        let (facts, found) = scan();
        problems.extend(found.iter().map(ToString::to_string));
        let verdicts = self.evaluate(&os, &facts)?;
        if let Err(error) = self.decide(&verdicts, &facts, problems).await {
            // What was decided before still holds.
            problems.push(Chain(&error).to_string());
        }
        self.facts = facts;
        self.look(began, problems).await?;
        let mut changed = self.observe(verdicts, began)?;

        let (mut installed, mut failed) = (0, 0);
        if self.audit_only {
            info!("installing nothing: this endpoint only audits");
        } else if let Err(error) = self.catalogues.fresh(began) {
            problems.push(Chain(&error).to_string());
        } else {
            for entry in self.install(&asked, &machine, clock).await? {
                match entry.state {
                    State::Installed | State::RebootPending => installed += 1,
                    State::Failed => failed += 1,
                    _ => {}
                }
                changed.push(entry);
            }
            if installed + failed > 0 {
                let (facts, _) = scan::scan(&self.root, &asked, &machine);
                let verdicts = self.evaluate(&os, &facts)?;
                self.facts = facts;
                self.look(clock.now(), problems).await?;
                changed.extend(self.observe(verdicts, clock.now())?);
            }
            if self.ledger.book().to_follow_up().is_some() {
                self.follow_up(clock.now(), problems).await?;
            }
        }

        problems.truncate(PROBLEMS_MAX);
        let summary = CycleSummary {
            at: began,
            took_ms: u64::try_from(timer.elapsed().as_millis()).unwrap_or(u64::MAX),
            dictionary_version: self.catalogues.version(),
            agent_version: VERSION.to_owned(),
            host_name: host_name(),
            counts: self.ledger.book().counts(),
            reboot_pending: self.reboot_pending(),
            machine_class: machine_class(),
            acknowledged: self.spool.acknowledged(),
            problems: problems.clone(),
        };
        self.report(key, changed, summary.clone(), clock.now())?;
        match self.spool.send(&self.upstream).await {
            Ok(false) => {}
            Ok(true) => {
                // At once, so that central does not go without until the next check.
                self.spool.resync()?;
                self.told_all = false;
                let summary = CycleSummary { acknowledged: None, ..summary };
                self.report(key, Vec::new(), summary, clock.now())?;
                match self.spool.send(&self.upstream).await {
                    Ok(false) => {}
                    // Not again now; but what was refused must not count as sent.
                    Ok(true) => {
                        problems.push("the tier above still asks for everything again".to_owned());
                        self.spool.resync()?;
                        self.told_all = false;
                    }
                    Err(error) => problems.push(Chain(&error).to_string()),
                }
            }
            Err(error) => problems.push(Chain(&error).to_string()),
        }
        let needed = self.needed().count() as u64;
        Ok(v1::LocalCheckNowResponse { needed, installed, failed, problems: Vec::new() })
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
            })
            .await?;
        if answer.timestamp.is_some() || self.catalogues.version() == 0 {
            self.catalogues.refresh(answer.timestamp.as_deref(), os, now).await?;
        }
        Ok(answer.resync)
    }

    /// What every rule says, but for updates that are not applicable.
    fn evaluate(&mut self, os: &Facts, facts: &Facts) -> Result<BTreeMap<UpdateId, Verdict>, CycleError> {
        let rules = self.catalogues.rules(os)?;
        let outcome = rules.compiled.scan(facts);
        Ok(rules.compiled.verdicts(&outcome, facts).collect())
    }

    /// Finds the decisions that hold for what is needed, and plans.
    async fn decide(
        &mut self,
        verdicts: &BTreeMap<UpdateId, Verdict>,
        facts: &Facts,
        problems: &mut Vec<String>,
    ) -> Result<(), CatalogueError> {
        let lookup = self.catalogues.lookup();
        let assignment: Option<Assignment> =
            documents(lookup.policy(&format!("endpoint/{}", self.endpoint)).await?).next();
        let groups: Vec<Group> = documents(lookup.policy("group/").await?).collect();
        let (memberships, found) = policy::memberships(assignment.as_ref(), &self.site, &groups, facts);
        problems.extend(found.iter().map(ToString::to_string));
        let mut approvals: BTreeMap<UpdateId, Vec<Approval>> = BTreeMap::new();
        for membership in &memberships {
            for approval in
                documents::<Approval>(lookup.policy(&format!("approval/{}/", membership.group)).await?)
            {
                if verdicts.get(&approval.update) == Some(&Verdict::Needed) {
                    approvals.entry(approval.update.clone()).or_default().push(approval);
                }
            }
        }
        self.decisions = approvals
            .into_iter()
            .filter_map(|(update, approvals)| Some((update, policy::effective(&memberships, &approvals)?)))
            .collect();
        let approved = self.decisions.iter().filter(|(_, decided)| decided.decision == Decision::Approve);
        let approved: Vec<UpdateId> = approved.map(|(update, _)| update.clone()).collect();
        self.terms = Terms::read(&lookup, &memberships, &groups, &approved).await?;
        Ok(())
    }

    /// Writes down what a scan found, and plans what to do about it.
    fn observe(
        &mut self,
        mut verdicts: BTreeMap<UpdateId, Verdict>,
        now: Timestamp,
    ) -> Result<Vec<StateEntry>, CycleError> {
        self.leave_superseded_out(&mut verdicts);
        let half_installed = self.facts.values.keys().any(|key| key.starts_with("flag:incomplete:"));
        let mut updates = BTreeMap::new();
        for (id, verdict) in &verdicts {
            // Of the many that are installed only those with a half-installed package matter.
            if (half_installed || *verdict != Verdict::Installed)
                && let Some(update) = self.catalogues.update(id)?
            {
                updates.insert(id.clone(), update);
            }
        }
        let conditions = Conditions {
            reboot_pending: self.reboot_pending(),
            incomplete: updates
                .values()
                .filter(|update| is_incomplete(update, &self.facts))
                .map(|update| update.id.clone())
                .collect(),
        };
        let mut changed = match self.engine.clean() {
            Ok(Cleaned::Yes) => self.ledger.settle(now, &verdicts, &conditions)?,
            // Perhaps the package manager that a crash of this program left at work.
            Ok(Cleaned::Busy) => Vec::new(),
            Err(error) => {
                warn!(error = %Chain(&error), "could not clear up after an earlier installation");
                Vec::new()
            }
        };
        changed.extend(self.ledger.observe(now, &verdicts, &conditions)?);
        let findings: Vec<_> = updates
            .values()
            .filter_map(|update| {
                Some(Finding {
                    update,
                    verdict: verdicts.get(&update.id)?,
                    decision: self.decisions.get(&update.id),
                })
            })
            .collect();
        self.plan = plan::plan(&findings, self.ledger.book(), &self.facts, now, &plan::Limits::default());
        self.wanted = updates
            .values()
            .filter(|update| verdicts.get(&update.id) == Some(&Verdict::Needed))
            .flat_map(|update| payloads_for(update, &self.facts))
            .map(|payload| payload.digest)
            .collect();
        Ok(changed)
    }

    /// An update that a newer one replaces here is not told as needed beside it, unless it alone is approved.
    fn leave_superseded_out(&self, verdicts: &mut BTreeMap<UpdateId, Verdict>) {
        let approved =
            |update: &UpdateId| self.decisions.get(update).is_some_and(|d| d.decision == Decision::Approve);
        let matters =
            |update: &UpdateId| matches!(verdicts.get(update), Some(Verdict::Needed | Verdict::Installed));
        let superseded: Vec<UpdateId> = verdicts
            .keys()
            .filter(|id| {
                let newer = self.catalogues.superseded_by(id).filter(matters).collect::<Vec<_>>();
                !newer.is_empty() && (!approved(id) || newer.iter().any(approved))
            })
            .cloned()
            .collect();
        for id in superseded {
            verdicts.remove(&id);
        }
    }

    /// Carries the plan out.
    async fn install(
        &mut self,
        asked: &Asked,
        machine: &str,
        clock: &Clock,
    ) -> Result<Vec<StateEntry>, CycleError> {
        let mut updates = BTreeMap::new();
        for id in self.plan.install.iter().chain(self.plan.left_out.keys()) {
            if let Some(update) = self.catalogues.update(id)? {
                updates.insert(id.clone(), Arc::new(update));
            }
        }
        let lookup = self.catalogues.lookup();
        let fetcher =
            Fetcher { upstream: &self.upstream, payloads: &self.payloads, patience: self.payload_patience };
        let class = machine_class();
        let means = Means {
            engine: &self.engine,
            pool: &lookup,
            payloads: &fetcher,
            scan: &|| scan::scan(&self.root, asked, machine).0,
            clock,
            codes: &self.terms.codes,
            limit: &|update| self.terms.limit(update, &class, self.install_time_limit).duration,
            go_on: &|| !self.stop.requested(),
        };
        let executed = install::execute(&self.plan, &updates, &means, &mut self.ledger).await?;
        Ok(executed.entries)
    }

    /// Looks who is there, what asks for a reboot, and which boot this is.
    async fn look(&mut self, now: Timestamp, problems: &mut Vec<String>) -> Result<(), CycleError> {
        self.seen = self.surroundings.look(&self.facts, now).await;
        problems.extend(self.seen.problems.iter().map(ToString::to_string));
        if let Some(boot) = &self.seen.boot
            && self.ledger.book().boots().current.as_ref().is_none_or(|(known, _)| known != boot)
        {
            info!(%boot, "the computer is in a boot that was not seen before");
            self.ledger.record(vec![Event::Booted { boot: boot.clone(), at: now }])?;
        }
        Ok(())
    }

    fn reboot_pending(&self) -> bool {
        flag(&self.facts, "reboot-pending") || signs::reboot_needed(&self.seen.signs)
    }

    /// Does what the service level wants done after installations. What fails is a problem and not done again.
    async fn follow_up(&mut self, now: Timestamp, problems: &mut Vec<String>) -> Result<(), CycleError> {
        let fetcher =
            Fetcher { upstream: &self.upstream, payloads: &self.payloads, patience: self.payload_patience };
        for action in &self.terms.settings.follow_up {
            match action {
                // Everything is scanned after every installation.
                FollowUp::Rescan => {}
                FollowUp::ReportInventory => self.spool.resync()?,
                FollowUp::Run { .. } => {
                    if let Err(error) = follow_up::run(action, &fetcher, &self.root, &self.data_dir).await {
                        problems.push(Chain(&error).to_string());
                    }
                }
            }
        }
        self.ledger.record(vec![Event::FollowedUp { at: now }])?;
        Ok(())
    }

    /// Takes up a wish of somebody at the machine, if it is granted; durable when it returns.
    ///
    /// # Errors
    ///
    /// [`WishError`], with the reason.
    pub fn wish(&mut self, caller: Caller, wish: Wish, now: Timestamp) -> Result<(), WishError> {
        wishes::permit(wish, caller, &self.due(now).standing(now))?;
        info!(?caller, %wish, "a wish was granted");
        let written = self.ledger.record(vec![Event::Wished { wish, at: now }]);
        written.map(|_| ()).map_err(|error| WishError::Failed(Chain(&error).to_string()))
    }

    /// What the person at the machine is shown at `now`.
    #[must_use]
    pub fn due(&self, now: Timestamp) -> Due {
        let settings = &self.terms.settings;
        let approved =
            |id: &UpdateId| self.decisions.get(id).is_some_and(|d| d.decision == Decision::Approve);
        let book = self.ledger.book();
        let ids = self.plan.install.iter().chain(self.plan.left_out.keys()).filter(|id| approved(id));
        let items = ids.filter_map(|id| {
            let (update, record) = (self.catalogues.update(id).ok().flatten()?, book.record(id)?);
            let terms = record.offered.map(|offered| consent::Terms::of(settings, offered));
            let waits = record.waits.as_ref();
            Some(Item {
                update: id.clone(),
                title: update.title,
                severity: update.severity,
                waiting: waits.map(|waits| waits.waiting),
                offered: record.offered,
                grace_ends: terms.map(|terms| terms.grace_ends),
                deadline: terms.map(|terms| terms.deadline),
                begins: waits.and_then(|waits| waits.until),
                detail: self.plan.left_out.get(id).map(ToString::to_string).unwrap_or_default(),
            })
        });
        let reboot = self.reboot_pending().then(|| RebootDue {
            signs: self.seen.signs.iter().map(|sign| sign.detail.clone()).collect(),
            begins: book.wishes().reboot.map(|choice| choice.at),
            by: None,
            held_by: self.seen.people.against_reboot(now),
        });
        Due {
            department: settings.department.clone(),
            phase: self.phase().to_owned(),
            items: items.collect(),
            countdown: None,
            reboot,
            wishes: *book.wishes(),
            settings: settings.clone(),
            boot: self.seen.boot.clone(),
        }
    }

    fn phase(&self) -> &'static str {
        if self.audit_only { "audits only" } else { "patches" }
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
        for entries in entries.chunks(ENTRIES_PER_REPORT) {
            // What follows a snapshot adds to it.
            reports.push(Report::States { snapshot, entries: entries.to_vec() });
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

    /// What `status` shows, but for what the agent knows better.
    #[must_use]
    pub fn status(&self) -> v1::LocalStatus {
        let patches = self
            .ledger
            .book()
            .records()
            .filter(|(_, record)| !matches!(record.state, State::NotApplicable | State::Installed))
            .map(|(id, record)| {
                let update = self.catalogues.update(id).ok().flatten();
                v1::LocalPatch {
                    patch: id.to_string(),
                    title: update.as_ref().map(|update| update.title.clone()).unwrap_or_default(),
                    severity: update.map(|update| update.severity.as_str().to_owned()).unwrap_or_default(),
                    state: record.state.as_str().to_owned(),
                    approved: self.decisions.get(id).is_some_and(|d| d.decision == Decision::Approve),
                    detail: match self.plan.left_out.get(id) {
                        Some(reason) => reason.to_string(),
                        None => record.detail.clone().unwrap_or_default(),
                    },
                }
            })
            .collect();
        v1::LocalStatus {
            dictionary_version: self.catalogues.version(),
            dictionary_expires: self.catalogues.expires().map_or(0, Timestamp::as_millisecond),
            last_check: self.last_check.map_or(0, Timestamp::as_millisecond),
            patches,
            reports_waiting: self.spool.waiting().unwrap_or(0) as u64,
            reboot_pending: self.reboot_pending(),
            phase: self.phase().to_owned(),
            ..v1::LocalStatus::default()
        }
    }

    /// Why an update has its verdict here; `patch` is its id or a part of it that no other has.
    ///
    /// # Errors
    ///
    /// When there is no such update or several, or it cannot be read.
    pub fn why(&mut self, patch: &str) -> Result<v1::LocalWhyResponse, CycleError> {
        let why = self.explain(patch);
        self.catalogues.rest();
        why
    }

    fn explain(&mut self, patch: &str) -> Result<v1::LocalWhyResponse, CycleError> {
        let machine = machine();
        let os = scan::scan(&self.root, &Asked::default(), &machine).0;
        let rules = self.catalogues.rules(&os)?;
        let found: Vec<String> = (0..rules.compiled.len())
            .map(|n| rules.compiled.id(n))
            .filter(|id| id.contains(patch))
            .map(str::to_owned)
            .collect();
        let id = match (found.iter().find(|id| *id == patch), &found[..]) {
            (Some(id), _) | (None, [id]) => id.clone(),
            (None, []) => {
                return Err(CycleError::Which(format!(
                    "no update published for this computer is named `{patch}`"
                )));
            }
            (None, several) => {
                let names = several.iter().take(8).map(String::as_str).collect::<Vec<_>>().join(", ");
                return Err(CycleError::Which(format!("`{patch}` names {} updates: {names}", several.len())));
            }
        };
        let id: UpdateId = id.parse().map_err(|error| CycleError::Which(format!("{error}")))?;
        let facts = scan::scan(&self.root, &rules.asked.clone(), &machine).0;
        let update = self
            .catalogues
            .update(&id)?
            .ok_or_else(|| CycleError::Which(format!("`{id}` is not published any more")))?;
        let explained = explain_update(&update, &facts);
        let json = |tree: Option<&Explained>| {
            tree.map(|tree| serde_json::to_string(tree).unwrap_or_default()).unwrap_or_default()
        };
        Ok(v1::LocalWhyResponse {
            patch: id.to_string(),
            verdict: state_of(&explained.verdict).as_str().to_owned(),
            summary: update.title.clone(),
            applicable_json: json(Some(&explained.applicable)),
            installed_json: json(explained.installed.as_ref()),
            approval: match (self.plan.left_out.get(&id), self.decisions.get(&id)) {
                (Some(reason), _) => format!("not installed because: {reason}"),
                (None, Some(decision)) => decision.to_string(),
                (None, None) => String::new(),
            },
            would_change: explained.would_change,
        })
    }

    /// The newest attempts, the newest first.
    #[must_use]
    pub fn history(&self, limit: usize) -> v1::LocalHistoryResponse {
        let events = self
            .ledger
            .book()
            .history()
            .rev()
            .take(limit)
            .map(|attempt| v1::LocalEvent {
                at: attempt.ended.as_millisecond(),
                patch: attempt.update.to_string(),
                event: attempt.outcome.sentence(),
                detail: attempt.detail.clone().unwrap_or_default(),
            })
            .collect();
        v1::LocalHistoryResponse { events }
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
    entries.truncate(ENTRIES_PER_REPORT);
    Report::States { snapshot: true, entries }
}

/// Payloads of the packages of `update` that are installed.
fn payloads_for<'a>(update: &'a Update, facts: &'a Facts) -> impl Iterator<Item = &'a Payload> {
    let packages = update.install.deb_packages();
    packages.iter().filter_map(|package| {
        let key = format!("package:deb:{}:{}", package.name, package.architecture);
        let installed = facts.values.get(&key)?;
        (*installed != package.version).then_some(&package.payload)
    })
}

fn state_of(verdict: &Verdict) -> State {
    match verdict {
        Verdict::NotApplicable => State::NotApplicable,
        Verdict::Needed => State::Needed,
        Verdict::Installed => State::Installed,
        Verdict::Unknown { .. } => State::Unknown,
    }
}

fn flag(facts: &Facts, name: &str) -> bool {
    facts.values.get(&format!("flag:{name}")).is_some_and(|value| value == "true")
}

fn machine() -> String {
    rustix::system::uname().machine().to_string_lossy().into_owned()
}

/// Processors and memory as powers of two, see [`CycleSummary::machine_class`].
fn machine_class() -> String {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // What the firmware keeps makes a machine of 8 GiB say a little less.
    let gibibytes = rustix::system::sysinfo().totalram.div_ceil(1 << 30).max(1);
    format!("c{}m{}", processors.ilog2(), gibibytes.next_power_of_two().ilog2())
}
