//! What a simulated endpoint says upward: envelopes of its own, and asks for leases.

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tierway_common::{
    id::WindowId,
    lease::{Ask, Want},
    schema::{CycleSummary, Report, StateEntry},
    trust::envelope::{Envelope, Header, Stream},
};
use tierway_endpoint::{agent::VERSION, reboot::decide::Decision as Reboot};
use tierway_proto::{upstream::LeaseAnswer, v1};

use super::{Agent, Around, Sabotage};

impl Agent {
    pub(super) async fn lease(&mut self, around: &mut Around<'_>) -> bool {
        let need = match (&self.plan.lease, &self.reboot) {
            (Some(need), _) | (None, Reboot::Lease(need)) => need.clone(),
            _ => return false,
        };
        let seconds = u32::try_from(need.length.as_secs().clamp(1, 6 * 3600)).unwrap();
        let asked = around.truth.awake();
        let answer = self.ask(around, &need.window, Want::Acquire { seconds }).await;
        match answer {
            Some(LeaseAnswer::Granted(lease)) => {
                around.tally.leases += 1;
                self.leases.insert(lease.window.clone(), (lease, asked));
                true
            }
            Some(LeaseAnswer::Later(_) | LeaseAnswer::Released) | None => {
                around.tally.later += 1;
                false
            }
        }
    }

    /// The answer of central; `None` when the relay is down, or central does not believe this computer's clock.
    async fn ask(&self, around: &Around<'_>, window: &WindowId, want: Want) -> Option<LeaseAnswer> {
        if !around.site.is_up() {
            return None;
        }
        let key = around.site.published.lease_key.as_ref().unwrap();
        let ask = Ask::new(&self.key, &self.tenant, &self.id, window, want, around.clock.now()).unwrap();
        let answer = self.upstream.lease(&ask, key, || around.clock.now()).await;
        let wrong = around.clock.now() != around.truth.now();
        assert!(answer.is_ok() || wrong, "{}: {:?}", self.name, answer.err());
        answer.ok()
    }

    pub(super) async fn release(&mut self, around: &mut Around<'_>) {
        let (now, awake) = (around.clock.now(), around.truth.awake());
        let needed = self.plan.steps.iter().any(|step| step.lease_until.is_some())
            || self.plan.lease.is_some()
            || !matches!(self.reboot, Reboot::No(_));
        self.leases.retain(|_, (lease, asked)| lease.until(now, awake.saturating_sub(*asked)).is_some());
        if needed {
            return;
        }
        for window in std::mem::take(&mut self.leases).into_keys() {
            // An ask at the moment of the last one would be a repetition of it.
            around.clock.advance(SignedDuration::from_millis(1));
            self.ask(around, &window, Want::Release).await;
        }
    }

    pub(super) async fn report(&mut self, around: &mut Around<'_>) {
        let now = around.clock.now();
        if !around.site.is_up() {
            return;
        }
        let mut envelopes = Vec::new();
        let digest = self.machine.facts.digest();
        if self.inventory != Some(digest) {
            self.inventory = Some(digest);
            let report = Report::Inventory { at: now, facts: self.machine.facts.clone() };
            envelopes.push(self.seal(Stream::Inventory, true, &report, now));
        }
        let snapshot = !self.told_all;
        self.told_all = true;
        let changed = std::mem::take(&mut self.changed).into_values().collect();
        let mut entries: Vec<StateEntry> = if snapshot { self.book.entries() } else { changed };
        if around.sabotage == Some(Sabotage::TellsTimesInDisorder) {
            let later = SignedDuration::from_hours(1);
            for entry in &mut entries {
                entry.progress.offered = entry.progress.downloaded.map(|at| at + later);
            }
        }
        let daily = self.told.is_none_or(|told| now.duration_since(told) > SignedDuration::from_hours(12));
        if daily || snapshot || !entries.is_empty() {
            self.told = Some(now);
            let summary = CycleSummary {
                at: now,
                took_ms: 100,
                dictionary_version: around.site.version(),
                agent_version: VERSION.to_owned(),
                host_name: self.name.clone(),
                counts: self.book.counts(),
                reboot_pending: !self.machine.pending.is_empty(),
                machine_class: self.machine.class.name().to_owned(),
                uncovered: false,
                acknowledged: self.inventory,
                problems: Vec::new(),
            };
            // The class first: what was measured is measured on it.
            envelopes.push(self.seal(Stream::States, false, &Report::Cycle(summary), now));
        }
        let lost = around.sabotage == Some(Sabotage::LosesReports);
        if !lost && (snapshot || !entries.is_empty()) {
            let report = Report::States { snapshot, entries };
            envelopes.push(self.seal(Stream::States, false, &report, now));
        }
        if envelopes.is_empty() {
            return;
        }
        around.tally.envelopes += envelopes.len() as u64;
        let count = envelopes.len();
        let answer = self.upstream.submit(envelopes).await.unwrap();
        let accepted = i32::from(v1::ReportOutcome::Accepted);
        assert_eq!(answer.outcomes, vec![accepted; count], "{}", self.name);
        if !answer.resync_endpoints.is_empty() {
            (self.told_all, self.inventory) = (false, None);
        }
    }

    fn seal(&mut self, stream: Stream, replaces_earlier: bool, report: &Report, now: Timestamp) -> Bytes {
        let sequence = &mut self.sequences[usize::from(stream == Stream::Inventory)];
        *sequence += 1;
        let header = Header {
            tenant: self.tenant.clone(),
            endpoint: self.id.clone(),
            stream,
            sequence: *sequence,
            replaces_earlier,
            created: now,
        };
        Envelope::seal(&self.key, header, report).unwrap().bytes().clone()
    }
}
