//! What a cycle decides, and how it is carried out: policy documents in, offers, downloads, permissions,
//! installations and reboots out. The decisions themselves are made by [`crate::plan`] and
//! [`crate::reboot::decide`], which are pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tierway_common::{
    clock::Clock,
    daemon::chain::Chain,
    facts::Facts,
    id::{RingPlanId, UpdateId},
    lease::{Ask, LEASE_LENGTH_MAX, Want},
    rules::Verdict,
    schema::{
        Approval, Assignment, Decision, Group, State, StateEntry, Update,
        policy::{LeaseKey, ServiceLevel, TrustPolicy},
    },
    trust::keys::SigningKey,
};
use tierway_proto::{sync::CatalogueError, upstream::LeaseAnswer};
use tracing::{info, warn};

use super::{Cycle, CycleError, documents, machine_class};
use crate::{
    catalogues::Lookup,
    consent::Countdown,
    fetch::Fetcher,
    install::{self, Cleaned, Engine, Means, PayloadFetcher, deb::is_incomplete, failsafe::Limit},
    ledger::{Conditions, Event, TakenOver},
    plan::{self, Finding, LeaseNeed, Now, Payloads, Stands, superseded},
    policy::{
        self,
        here::{Computer, Documents, Here},
    },
    reboot::{self, decide::Decision as Reboot},
    scan::{self, Asked},
    terms::{Terms, one},
    wishes::Wish,
};

/// A lease counts from the moment in which it was asked for, and what it is needed for from when the answer is here:
/// twice what a call may take later.
const LEASE_MARGIN: SignedDuration = SignedDuration::from_mins(2);

/// Updates that matter here as a scan found them.
#[derive(Debug, Default)]
pub(super) struct Found {
    verdicts: BTreeMap<UpdateId, Verdict>,
    updates: BTreeMap<UpdateId, Arc<Update>>,
}

impl<E: Engine + Send + Sync> Cycle<E> {
    /// Reads what the policy says about this computer and what is needed on it: as it was taken over last where that
    /// is done once a day, else as it is published now.
    pub(super) async fn read_policy(
        &mut self,
        verdicts: &BTreeMap<UpdateId, Verdict>,
        facts: &Facts,
        now: Timestamp,
        problems: &mut Vec<String>,
    ) -> Result<(), CycleError> {
        let taken = self.ledger.book().policy().cloned();
        if let Some(taken) = &taken
            && let Some(lookup) = self.catalogues.lookup_policy_of(taken, now)
        {
            match self.read_policy_of(&lookup, verdicts, facts, now, problems).await {
                // Until the day is over, or a level that came by then says otherwise.
                Ok(()) => return Ok(()),
                Err(error) => {
                    info!(since = %taken.at, error = %Chain(&error), "the policy of the day cannot be had any more");
                }
            }
        }
        let lookup = self.catalogues.lookup();
        self.read_policy_of(&lookup, verdicts, facts, now, problems).await?;
        let daily = self.here.settings.configuration_daily;
        let policy = lookup.policy_root().filter(|_| daily).map(|root| TakenOver { root, at: now });
        if policy != taken {
            self.ledger.record(vec![Event::TookOver { policy }])?;
        }
        Ok(())
    }

    async fn read_policy_of(
        &mut self,
        lookup: &Lookup,
        verdicts: &BTreeMap<UpdateId, Verdict>,
        facts: &Facts,
        now: Timestamp,
        problems: &mut Vec<String>,
    ) -> Result<(), CatalogueError> {
        let assignment: Option<Assignment> =
            documents(lookup.policy(&format!("endpoint/{}", self.endpoint)).await?).next();
        let groups: Vec<Group> = documents(lookup.policy("group/").await?).collect();
        let (memberships, found) = policy::memberships(assignment.as_ref(), &self.site, &groups, facts);
        problems.extend(found.iter().map(ToString::to_string));
        // What could not be decided or waits for a reboot is shown with what was decided about it.
        let open: BTreeSet<&UpdateId> = verdicts
            .iter()
            .filter(|(id, verdict)| match verdict {
                Verdict::Needed | Verdict::Unknown { .. } => true,
                _ => self.ledger.book().record(id).is_some_and(|found| found.state == State::RebootPending),
            })
            .map(|(id, _)| id)
            .collect();
        let mut approvals: BTreeMap<UpdateId, Vec<Approval>> = BTreeMap::new();
        for membership in &memberships {
            for approval in
                documents::<Approval>(lookup.policy(&format!("approval/{}/", membership.group)).await?)
            {
                if open.contains(&approval.update) {
                    approvals.entry(approval.update.clone()).or_default().push(approval);
                }
            }
        }
        let decisions: BTreeMap<UpdateId, policy::Effective> = approvals
            .into_iter()
            .filter_map(|(update, approvals)| Some((update, policy::effective(&memberships, &approvals)?)))
            .collect();
        let plans: BTreeSet<&RingPlanId> =
            decisions.values().filter_map(|decision| decision.rings.as_ref()).collect();
        let levels: Vec<ServiceLevel> = documents(lookup.policy("level/").await?).collect();
        let needed = verdicts.iter().filter(|(_, verdict)| **verdict == Verdict::Needed).map(|(id, _)| id);
        let published = published(lookup, groups, levels, &plans, needed).await?;
        let computer = Computer {
            endpoint: &self.endpoint,
            zone: &self.zone,
            audit_only: self.audit_only,
            runs: self.root == std::path::Path::new("/"),
        };
        let (here, found) = Here::new(&published, &memberships, computer);
        problems.extend(found.iter().map(ToString::to_string));
        self.decisions = decisions;
        for update in open {
            if !self.decisions.contains_key(update) {
                let detected = self.ledger.book().record(update).and_then(|record| record.detected);
                let decision = here.automatic(detected.unwrap_or(now));
                self.decisions.extend(decision.map(|decision| (update.clone(), decision)));
            }
        }
        self.here = here;
        let approved = self.decisions.iter().filter(|(update, decided)| {
            decided.decision == Decision::Approve && verdicts.get(*update) == Some(&Verdict::Needed)
        });
        let approved: Vec<UpdateId> = approved.map(|(update, _)| update.clone()).collect();
        self.terms = Terms::read(lookup, &memberships, &approved).await?;
        self.lease_key = one::<LeaseKey>(lookup, "lease-key").await?.map(|key| key.key);
        Ok(())
    }

    /// Finds again what the last scan found needed, which is not kept in memory between checks.
    pub(super) fn recall(&mut self) -> Result<(), CycleError> {
        let ids: Vec<UpdateId> = self.needed().map(|(id, _)| id.clone()).collect();
        let mut found = Found::default();
        for id in ids {
            if let Some(update) = self.catalogues.update(&id)? {
                found.verdicts.insert(id.clone(), Verdict::Needed);
                found.updates.insert(id, Arc::new(update));
            }
        }
        self.found = found;
        Ok(())
    }

    /// Looks who is here and which boot it is, and writes a new boot down.
    pub(super) async fn look(
        &mut self,
        now: Timestamp,
        problems: &mut Vec<String>,
    ) -> Result<(), CycleError> {
        self.seen = self.surroundings.look(&self.facts, now).await;
        problems.extend(self.seen.problems.iter().map(ToString::to_string));
        let known = self.ledger.book().boots().current.as_ref().map(|(boot, _)| boot);
        if let Some(boot) = &self.seen.boot
            && known != Some(boot)
        {
            self.ledger.record(vec![Event::Booted { boot: boot.clone(), at: now }])?;
            self.countdown = None;
        }
        Ok(())
    }

    /// Writes down what a scan found.
    pub(super) fn observe(
        &mut self,
        mut verdicts: BTreeMap<UpdateId, Verdict>,
        now: Timestamp,
    ) -> Result<Vec<StateEntry>, CycleError> {
        self.leave_superseded_out(&mut verdicts)?;
        let half_installed = self.facts.values.keys().any(|key| key.starts_with("flag:incomplete:"));
        let mut updates = BTreeMap::new();
        for (id, verdict) in &verdicts {
            // Of the many that are installed only those with a half-installed package matter.
            if (half_installed || *verdict != Verdict::Installed)
                && let Some(update) = self.catalogues.update(id)?
            {
                updates.insert(id.clone(), Arc::new(update));
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
                warn!(error = %Chain(&error), "left what an earlier installation left");
                Vec::new()
            }
        };
        changed.extend(self.ledger.observe(now, &verdicts, &conditions)?);
        self.wanted = updates
            .values()
            .filter(|update| verdicts.get(&update.id) == Some(&Verdict::Needed))
            .flat_map(|update| self.engine.payloads(update, &self.facts))
            .map(|payload| payload.digest)
            .collect();
        // What is not needed any more was not to be fetched either.
        self.unfetched.retain(|update, _| verdicts.get(update) == Some(&Verdict::Needed));
        self.found = Found { verdicts, updates };
        Ok(changed)
    }

    /// Decides what to do now, and writes down what is new in it.
    pub(super) fn decide(&mut self, clock: &Clock) -> Result<Vec<StateEntry>, CycleError> {
        let (now, awake) = (clock.now(), clock.awake());
        self.count_down(awake);
        let class = machine_class();
        let stale = self.catalogues.fresh(now).err().map(|error| Chain(&error).to_string());
        let limits: BTreeMap<&UpdateId, Limit> = (self.found.updates.keys())
            .map(|id| (id, self.terms.limit(id, &class, self.install_time_limit)))
            .collect();
        let findings: Vec<Finding<'_>> = self
            .found
            .updates
            .values()
            .filter_map(|update| {
                let here = (self.engine.payloads(update, &self.facts).iter())
                    .all(|payload| self.payloads.contains(&payload.digest));
                Some(Finding {
                    update,
                    verdict: self.found.verdicts.get(&update.id)?,
                    decision: self.decisions.get(&update.id),
                    limit: limits.get(&update.id)?,
                    payloads: match self.unfetched.get(&update.id) {
                        _ if here => Payloads::Here,
                        Some(problem) => Payloads::Failed(problem),
                        None => Payloads::Missing,
                    },
                })
            })
            .collect();
        let leases = self
            .leases
            .iter()
            .filter_map(|(window, (lease, asked))| {
                Some((window.clone(), lease.until(now, awake.saturating_sub(*asked))?))
            })
            .collect();
        let present = Now {
            at: now,
            facts: &self.facts,
            people: &self.seen.people,
            countdown: self.countdown.as_ref(),
            reachable: self.reachable,
            leases: &leases,
            limits: &plan::Limits::default(),
            stale: stale.as_deref(),
        };
        let book = self.ledger.book();
        self.plan = plan::plan(&findings, &self.here, book, &present);
        self.reboot = reboot::decide::decide(&self.seen.signs, &self.here, book, &self.plan, &present);
        let shown = reboot::decide::countdown(self.countdown, &self.plan, &self.reboot, now);
        let mut events = Vec::new();
        match (self.countdown, shown) {
            (before, Some(Countdown { purpose, began, .. }))
                if before.is_none_or(|before| before.began != began || before.purpose != purpose) =>
            {
                events.push(Event::CountdownBegan { purpose, at: began });
            }
            (_, None) if book.countdown().is_some() => events.push(Event::CountdownEnded { at: now }),
            _ => {}
        }
        self.countdown = shown;
        let offered = self.plan.offered.keys().cloned().collect();
        let downloaded = findings
            .iter()
            .filter(|finding| {
                finding.payloads == Payloads::Here && self.plan.offered.contains_key(&finding.update.id)
            })
            .map(|finding| finding.update.id.clone())
            .collect();
        let waits = self.plan.left_out.iter().map(|(id, reason)| (id.clone(), reason.waits())).collect();
        events.extend(book.compare_plan(now, &offered, &downloaded, &waits));
        Ok(self.ledger.record(events)?)
    }

    /// Counts the time since it was last asked for the countdown that is shown.
    pub(super) fn count_down(&mut self, awake: Duration) {
        let passed = awake.saturating_sub(self.counted);
        self.counted = awake;
        if let Some(countdown) = &mut self.countdown {
            countdown.count(passed);
        }
    }

    /// What an unanswered countdown puts off, as if somebody had wished it.
    pub(super) fn put_off(&self, now: Timestamp) -> Option<Event> {
        let wish = match (self.plan.put_off, &self.reboot) {
            (Some(until), _) => Wish::Postpone(until),
            (None, Reboot::PutOff { until }) => Wish::PostponeReboot(*until),
            (None, _) => return None,
        };
        Some(Event::Wished { wish, by: None, at: now })
    }

    /// Fetches what is to be installed. The first that the tier above does not have is waited for; with the
    /// others, asked for by then, the next check goes on.
    pub(super) async fn fetch(&mut self) {
        let mut patience = self.payload_patience;
        for id in self.plan.fetch.clone() {
            let Some(update) = self.found.updates.get(&id).cloned() else { continue };
            let payloads = self.engine.payloads(&update, &self.facts);
            let fetcher = Fetcher { upstream: &self.upstream, payloads: &self.payloads, patience };
            match fetcher.ensure(&payloads).await {
                Ok(()) => {
                    self.unfetched.remove(&id);
                }
                Err(error) => {
                    warn!(update = %id, error = %Chain(&error), "could not fetch an update");
                    self.unfetched.insert(id, Chain(&error).to_string());
                    patience = Duration::ZERO;
                }
            }
            if self.stop.requested() {
                return;
            }
        }
    }

    /// Asks for the permission that is needed. Returns whether it was granted.
    pub(super) async fn ask_lease(
        &mut self,
        key: &SigningKey,
        clock: &Clock,
        problems: &mut Vec<String>,
    ) -> bool {
        let need = match (&self.plan.lease, &self.reboot) {
            (Some(need), _) | (None, Reboot::Lease(need)) => need.clone(),
            _ => return false,
        };
        match self.lease(&need, key, clock).await {
            Ok(granted) => granted,
            Err(error) => {
                problems.push(format!("could not lease window `{}`: {error}", need.window));
                false
            }
        }
    }

    async fn lease(&mut self, need: &LeaseNeed, key: &SigningKey, clock: &Clock) -> Result<bool, String> {
        let central = self.lease_key.as_ref().ok_or("central publishes no key for leases")?;
        let want = Want::Acquire { seconds: seconds_to_ask(need.length) };
        let text = |error: &dyn std::error::Error| Chain(error).to_string();
        let awake = clock.awake();
        let ask = Ask::new(key, &self.tenant, &self.endpoint, &need.window, want, clock.now())
            .map_err(|error| text(&error))?;
        match self.upstream.lease(&ask, central, || clock.now()).await.map_err(|error| text(&error))? {
            LeaseAnswer::Granted(lease) => {
                info!(window = %lease.window, until = %lease.until, "may be down");
                self.leases.insert(lease.window.clone(), (lease, awake));
                Ok(true)
            }
            LeaseAnswer::Later(_) | LeaseAnswer::Released => Ok(false),
        }
    }

    /// Gives permissions back that nothing needs any more.
    pub(super) async fn release_leases(&mut self, key: &SigningKey, clock: &Clock) {
        let needed = self.plan.steps.iter().any(|step| step.lease_until.is_some())
            || self.plan.lease.is_some()
            || !matches!(self.reboot, Reboot::No(_));
        let (now, awake) = (clock.now(), clock.awake());
        self.leases.retain(|_, (lease, asked)| lease.until(now, awake.saturating_sub(*asked)).is_some());
        if needed {
            return;
        }
        let Some(central) = self.lease_key.as_ref() else { return };
        for window in self.leases.keys().cloned().collect::<Vec<_>>() {
            let ask = Ask::new(key, &self.tenant, &self.endpoint, &window, Want::Release, clock.now());
            let Ok(ask) = ask else { continue };
            // One that is not given back ends by itself.
            match self.upstream.lease(&ask, central, || clock.now()).await {
                Ok(_) => {
                    self.leases.remove(&window);
                }
                Err(error) => info!(%window, error = %Chain(&error), "could not give a lease back"),
            }
        }
    }

    /// An update that a newer one replaces here is not told beside it, see [`superseded`].
    fn leave_superseded_out(&self, verdicts: &mut BTreeMap<UpdateId, Verdict>) -> Result<(), CycleError> {
        let mut stands: BTreeMap<UpdateId, Stands> = BTreeMap::new();
        for (id, verdict) in &*verdicts {
            let decision = self.decisions.get(id).filter(|decided| decided.decision == Decision::Approve);
            if let (Verdict::Needed, Some(decision)) = (verdict, decision) {
                let update = self.catalogues.update(id)?;
                let open = update.is_some_and(|update| self.here.closed(&update, decision).is_none());
                stands.insert(id.clone(), Stands { approved: true, open, applied: false });
            }
        }
        for (id, record) in self.ledger.book().records().filter(|(_, record)| record.applied.is_some()) {
            let there = verdicts.get(id) == Some(&Verdict::Installed);
            if there || record.state == State::RebootPending {
                stands.entry(id.clone()).or_default().applied = true;
            }
        }
        let of = |id: &UpdateId| stands.get(id).copied().unwrap_or_default();
        for id in superseded(verdicts, |id| self.catalogues.superseded_by(id), of) {
            verdicts.remove(&id);
        }
        Ok(())
    }

    /// Carries the steps of the plan out.
    pub(super) async fn install(
        &mut self,
        asked: &Asked,
        machine: &str,
        clock: &Clock,
    ) -> Result<Vec<StateEntry>, CycleError> {
        let lookup = self.catalogues.lookup();
        let fetcher =
            Fetcher { upstream: &self.upstream, payloads: &self.payloads, patience: self.payload_patience };
        let means = Means {
            engine: &self.engine,
            pool: &lookup,
            payloads: &fetcher,
            scan: &|| scan::scan(&self.root, asked, machine).0,
            clock,
            codes: &self.terms.codes,
            go_on: &|| !self.stop.requested(),
        };
        let executed = install::execute(&self.plan, &self.found.updates, &means, &mut self.ledger).await?;
        Ok(executed.entries)
    }

    /// Orders the reboot that was decided.
    pub(super) async fn order_reboot(&mut self, now: Timestamp) -> Result<(), String> {
        let why = self.seen.signs.iter().find(|sign| sign.kind.needs_reboot());
        let why = why.map_or("updates were installed", |sign| sign.detail.as_str()).to_owned();
        let (surroundings, boot) = (self.surroundings.clone(), self.seen.boot.clone());
        let ordered = reboot::order(surroundings.as_ref(), &mut self.ledger, boot.as_ref(), &why, now).await;
        ordered.map_err(|error| Chain(&error).to_string())
    }
}

/// For how long a lease is asked for by who needs it for `length`.
fn seconds_to_ask(length: SignedDuration) -> u32 {
    let seconds = length.saturating_add(LEASE_MARGIN).as_secs().saturating_add(1).max(1);
    let seconds = u64::try_from(seconds).unwrap_or(1).min(LEASE_LENGTH_MAX.as_secs());
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

/// The documents about when and how that matter here.
async fn published<'a>(
    lookup: &Lookup,
    groups: Vec<Group>,
    levels: Vec<ServiceLevel>,
    plans: &BTreeSet<&RingPlanId>,
    needed: impl Iterator<Item = &'a UpdateId>,
) -> Result<Documents, CatalogueError> {
    let mut published = Documents { groups, levels, ..Documents::default() };
    if published.levels.iter().any(|level| level.windows.as_ref().is_some_and(|windows| !windows.is_empty()))
    {
        published.windows = documents(lookup.policy("window/").await?).collect();
    }
    for plan in plans {
        published.ring_plans.extend(one(lookup, &format!("ring-plan/{plan}")).await?);
        published.rollouts.extend(documents(lookup.policy(&format!("rollout/{plan}/")).await?));
    }
    published.trust_policy = one::<TrustPolicy>(lookup, "trust-policy").await?;
    if published.trust_policy.is_some() {
        for update in needed {
            published.trusted.extend(one(lookup, &format!("trusted/{update}")).await?);
        }
    }
    Ok(published)
}

#[cfg(test)]
mod tests {
    use tierway_common::lease::Lease;

    use super::*;

    #[test]
    fn a_lease_is_long_enough_for_what_it_was_asked_for_also_when_its_answer_took_a_minute() {
        let at: Timestamp = "2026-11-25T02:00:00Z".parse().unwrap();
        for (length, covered) in [("1ms", true), ("1h 1ms", true), ("5h 58m", true), ("6h", false)] {
            let length: SignedDuration = length.parse().unwrap();
            let until = at + SignedDuration::from_secs(seconds_to_ask(length).into());
            let lease = Lease { window: "night".parse().unwrap(), from: at, until };
            let later = at + SignedDuration::from_secs(60);
            let fits =
                lease.until(later, Duration::from_secs(60)).is_some_and(|until| later + length <= until);
            assert_eq!(fits, covered, "{length}");
        }
    }
}
