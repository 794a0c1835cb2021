//! What is asked of the fleet while it lives and at its end, and what was promised about it.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use tierway_central::{decide, fleet as central_fleet};
use tierway_common::{
    id::UpdateId,
    schema::{Decision, State, Waiting, policy::RolloutStage},
};

use super::{Pending, SLACK, World};
use crate::simulation::{
    Compared,
    checks::Promise,
    machine::{MODELS, Package, Role},
    story,
};

/// Central is asked again of what was overdue.
const AUDIT: SignedDuration = SignedDuration::from_hours(24);

impl World {
    /// Bytes of payloads that came over the links of all sites.
    pub(super) fn carried(&self) -> u64 {
        let up = self.sites.iter().filter(|site| site.is_up());
        up.map(|site| site.relay.running().payloads.blobs().usage().bytes).sum()
    }

    /// Compares the forecast with what came of it, as soon as nothing is left to do or far too late.
    pub(super) fn compare(&mut self, now: Timestamp) {
        let Some(Pending { update, at, bytes, finish, bytes_before, endpoints }) = &self.forecast else {
            return;
        };
        let of_group = self.agents.iter().filter(|agent| agent.machine.role == Role::Server);
        let verified =
            of_group.map(|agent| (&agent.name, agent.book.record(update).and_then(|of| of.verified)));
        let (done, undone): (Vec<_>, Vec<_>) = verified.partition(|(_, at)| at.is_some());
        let patience = finish.duration_since(*at) * 2;
        if (done.len() as u64) < *endpoints && now.duration_since(*at) < patience {
            return;
        }
        let last =
            if done.len() as u64 == *endpoints { done.iter().filter_map(|(_, at)| *at).max() } else { None };
        let hours = |end: Timestamp| end.duration_since(*at).as_secs_f64() / 3600.0;
        let compared = Compared {
            bytes: *bytes,
            bytes_true: self.carried() - bytes_before,
            hours: hours(*finish),
            hours_true: last.map_or(f64::INFINITY, hours),
        };
        // Of what was forecast: what never comes is not near to anything.
        let near = |said: f64, came: f64| (said - came).abs() <= 0.15 * said;
        let holds = near(compared.hours, compared.hours_true)
            && near(compared.bytes as f64, compared.bytes_true as f64)
            && compared.bytes > 0;
        self.checks.holds(Promise::Forecast, holds, || format!("{compared:?}; not done: {undone:?}"));
        (self.compared, self.forecast) = (Some(compared), None);
    }

    /// From when on a computer has had the time to do and tell what it must: who could reach nobody has as long as
    /// everybody else after that; by a clock that is wrong it is another time, and an agent has that long after it was
    /// set right.
    fn unhindered(&self, index: usize) -> Timestamp {
        let ended = [self.sites[self.agents[index].site].back, self.clocks[index].set];
        ended.into_iter().flatten().max().map_or(self.start, |at| at + SLACK)
    }

    /// Asks central about an update on a computer when it is due there, as an operator would; returns when to ask again.
    pub(super) fn due(&mut self, index: usize, package: usize, now: Timestamp) -> Option<Timestamp> {
        let (central, agent) = (self.driver.central(), &self.agents[index]);
        let package = self.packages.values().nth(package).unwrap();
        if agent.machine.version(package) == Some("2.0") {
            return None;
        }
        let record = central.state.model().endpoint_by_id(&agent.id).unwrap().clone();
        let rows = central_fleet::endpoints::patches(&central.state, &record).unwrap();
        let (site, own) = (&self.sites[agent.site], &self.clocks[index]);
        let unhindered = self.unhindered(index);
        let Some(row) = rows.iter().find(|row| row.update.id == package.update) else {
            if !site.is_up() || !own.ahead.is_zero() {
                return Some(now + SLACK);
            }
            if now < unhindered {
                return Some(unhindered);
            }
            self.checks.holds(Promise::InTimeOrListed, false, || {
                format!("central knows nothing of `{}` on {} at {now}", package.update, agent.name)
            });
            return Some(now + AUDIT);
        };
        let Some((Decision::Approve, approved)) = row.decision else { return None };
        let offered = row.entry.progress.offered.unwrap_or(approved);
        let due = Timestamp::from_second(offered.into()).unwrap() + agent.terms.deadline + SLACK;
        let due = due.max(unhindered);
        if !own.ahead.is_zero() {
            return Some(now + SLACK);
        }
        if now < due {
            return Some(due);
        }
        let waiting = row.entry.progress.waiting;
        let lacking = matches!(row.entry.state, State::Needed | State::Failed);
        let reason = row.entry.detail.as_deref().unwrap_or_default();
        let reasons = [
            Waiting::Ring,
            Waiting::Window,
            Waiting::Lease,
            Waiting::BackOff,
            Waiting::Quarantine,
            Waiting::Reboot,
            Waiting::Superseded,
        ];
        let said = waiting.is_some_and(|waiting| reasons.contains(&waiting)) && !reason.is_empty();
        // Of whom nobody can have heard since, it is said when that was last.
        let silent = site.down.is_some_and(|down| record.last_report.is_some_and(|heard| heard <= down));
        self.checks.holds(Promise::InTimeOrListed, lacking && (said || silent), || {
            format!(
                "`{}` on {} was due by {due} and is at {now} {:?}, waiting {waiting:?}: {reason}",
                package.update, agent.name, row.entry.state
            )
        });
        let listed = match waiting {
            _ if silent => Some("not heard of"),
            waiting => waiting.map(Waiting::as_str),
        };
        if let Some(listed) = listed {
            *self.listed.entry(listed).or_default() += 1;
        }
        Some(now + AUDIT)
    }

    pub(super) fn rollouts(&self) -> BTreeMap<String, String> {
        let central = self.driver.central();
        let rollouts = decide::rollouts::list(&central.state, None);
        let stage = |stage| decide::rollouts::stage_name(stage).to_owned();
        let told = |row: decide::rollouts::Standing| {
            let rollout = row.record.rollout;
            (rollout.update.to_string(), format!("{}, {}", stage(rollout.stage), row.waits))
        };
        rollouts.into_iter().map(told).collect()
    }

    fn count(&self, name: &str, of: impl Fn(&tierway_endpoint::ledger::Record) -> bool) -> u64 {
        let update: UpdateId = format!("{}/{name}_2.0", story::CATALOGUE).parse().unwrap();
        self.agents.iter().filter(|agent| agent.book.record(&update).is_some_and(&of)).count() as u64
    }

    /// The times of all that was installed, as central tells them.
    pub(super) fn times(&mut self) {
        let central = self.driver.central();
        // A wrong clock tells wrong times.
        let right = self.agents.iter().zip(&self.clocks).filter(|(_, own)| own.set.is_none());
        for (agent, _) in right {
            let record = central.state.model().endpoint_by_id(&agent.id).unwrap().clone();
            for row in central_fleet::endpoints::patches(&central.state, &record).unwrap() {
                let entry = &row.entry;
                if entry.state != State::Installed || entry.applied.is_none() {
                    continue;
                }
                let progress = entry.progress;
                // It may be approved before this computer, which could reach nobody, found that it needs it.
                let decided =
                    entry.detected.zip(row.authorized()).map(|(found, approved)| found.max(approved));
                let times =
                    [decided, progress.offered, progress.downloaded, entry.applied, progress.verified];
                let known: Vec<u32> = times.into_iter().flatten().collect();
                self.checks.holds(
                    Promise::TimesInOrder,
                    known.len() == times.len() && known.is_sorted(),
                    || format!("`{}` on {}: {times:?}", row.update.id, agent.name),
                );
            }
        }
    }

    /// Of what is installed and was told, central knows that it is.
    pub(super) fn known(&mut self, now: Timestamp) {
        let central = self.driver.central();
        for (index, agent) in self.agents.iter().enumerate() {
            let tells = self.sites[agent.site].is_up() && self.clocks[index].ahead.is_zero();
            if !tells || !agent.rests(now) || now < self.unhindered(index) {
                continue;
            }
            let record = central.state.model().endpoint_by_id(&agent.id).unwrap().clone();
            let rows = central_fleet::endpoints::patches(&central.state, &record).unwrap();
            let has = |package: &&Package| {
                agent.machine.version(package) == Some("2.0")
                    && !agent.machine.pending.contains(&package.update)
            };
            for package in self.packages.values().filter(has) {
                let row = rows.iter().find(|row| row.update.id == package.update);
                let state = row.map(|row| row.entry.state);
                self.checks.holds(Promise::InTimeOrListed, state == Some(State::Installed), || {
                    format!("`{}` is installed on {}; central has {state:?}", package.update, agent.name)
                });
            }
        }
    }

    /// What the two updates that are no good did, when they had the time for it: once.
    pub(super) fn looked_at(&mut self, name: &'static str, now: Timestamp) {
        let Some(approved) = self.approved.get(name).copied() else { return };
        let (days, bad) = if name == story::BRITTLE { (3, true) } else { (6, false) };
        if now < approved + SignedDuration::from_hours(days * 24) {
            return;
        }
        self.approved.remove(name);
        if bad { self.halts() } else { self.gives_up() }
    }

    fn halts(&mut self) {
        let exposed = self.count(story::BRITTLE, |record| record.attempts > 0);
        let update: UpdateId = format!("{}/{}_2.0", story::CATALOGUE, story::BRITTLE).parse().unwrap();
        let central = self.driver.central();
        let key = (story::PLAN.parse().unwrap(), update);
        let rollout = central.state.model().policy().rollouts()[&key].rollout.clone();
        let endpoints = self.options.endpoints;
        // In a fleet that is large enough the first ring is less than a hundredth of it.
        let few = exposed <= MODELS && (endpoints <= 100 * MODELS || exposed * 100 < endpoints);
        let held = rollout.stage == RolloutStage::Halted && rollout.open == 0 && few;
        self.checks.holds(Promise::BadUpdateHalts, held, || {
            format!("it is on {exposed} of {endpoints}: {rollout:?}")
        });
        self.exposed = exposed;
    }

    fn gives_up(&mut self) {
        let quarantined = self.count(story::HOLLOW, |record| {
            record.waits.as_ref().is_some_and(|waits| waits.waiting == Waiting::Quarantine)
        });
        let more = self.count(story::HOLLOW, |record| record.attempts > 5);
        let endpoints = self.options.endpoints;
        self.checks.holds(Promise::Quarantine, quarantined == endpoints && more == 0, || {
            format!("{quarantined} of {endpoints} gave up, {more} tried more often than five times")
        });
        self.quarantined = quarantined;
    }
}
