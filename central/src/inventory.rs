//! What endpoints say: signed reports in, facts and states out.
//!
//! Reports that come together share commits. Of the stream `states` none may be missing: a gap makes central ask
//! for everything again, a sequence it has seen changes nothing. Of the stream `inventory` the newest
//! counts, and a change to facts central does not hold makes it ask for all of them, as does an endpoint that
//! was told that facts arrived which have not come for a while.

pub mod facts;
pub mod inbox;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tierway_common::{
    facts::Facts,
    id::EndpointId,
    schema::{self, CycleSummary, DETAIL_BYTES_MAX, Decision, Report, State as UpdateState, StateEntry},
    store::StoreError,
    transport::identity::{Holder, Role},
    trust::{
        digest::Digest,
        envelope::{Envelope, Header, Stream},
    },
};
use tracing::{debug, warn};

use crate::{
    compliance::record::{Entry, Progress, Record},
    model::{Model, Write},
    state::{Change, State},
    store::tables::EndpointRecord,
    text::clean,
    timing::TimingRecord,
};

/// Problems of a cycle that are kept.
pub const PROBLEMS_MAX: usize = 32;
/// Bytes of one problem that are kept.
const PROBLEM_BYTES_MAX: usize = 300;
/// Bytes of a host name that are kept (RFC 1035).
const NAME_BYTES_MAX: usize = 253;
/// Bytes of a class of machines that are kept, such as `c2m3`.
const CLASS_BYTES_MAX: usize = 16;
/// Bytes of a version that are kept.
const VERSION_BYTES_MAX: usize = 64;

/// Bytes of reports, before compression, that are read and then written by one commit: what central's memory takes
/// for reports is a few times as much, however many come and however well they are compressed.
const AT_ONCE_BYTES: usize = 16 << 20;
/// How long facts may be on their way after a cycle that takes them for arrived: cycles go before them, and a relay
/// may have many of both.
const ON_THEIR_WAY: SignedDuration = SignedDuration::from_mins(10);

/// What became of one envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// On disk here, now or before.
    Accepted,
    /// Will never be accepted, for this reason.
    Refused(String),
}

/// Envelopes that came together, from whom.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Who carried them: the endpoint itself, or a relay.
    pub carrier: Holder,
    /// Encoded.
    pub envelopes: Vec<Bytes>,
}

/// Installations of which it is remembered that they were counted today: as many as a hundred thousand computers make
/// on the day after a release; those beyond are not counted.
const COUNTED_MAX: usize = 1_000_000;

/// Takes reports in.
#[derive(Clone, Debug)]
pub struct Inventory {
    state: Arc<State>,
    counted: Arc<Mutex<Counted>>,
}

/// Whose installations of what were counted today: by a restart it is forgotten, and what is counted twice then is
/// little.
#[derive(Debug, Default)]
struct Counted {
    /// Days since 1970, by central's clock.
    day: i64,
    /// Numbers of endpoint and update.
    pairs: HashSet<(u32, u32)>,
}

impl Counted {
    /// Whether it is the first time today.
    fn first(&mut self, endpoint: u32, update: u32, now: Timestamp) -> bool {
        let day = now.as_second().div_euclid(86_400);
        if self.day != day {
            *self = Self { day, pairs: HashSet::new() };
        }
        self.pairs.len() < COUNTED_MAX && self.pairs.insert((endpoint, update))
    }
}

struct Verified {
    header: Header,
    report: Report,
}

/// Reports that share a commit.
#[derive(Default)]
struct Round {
    by_endpoint: BTreeMap<EndpointId, Vec<Verified>>,
    /// What they had before compression.
    bytes: usize,
}

impl Inventory {
    /// On the given state.
    #[must_use]
    pub fn new(state: Arc<State>) -> Self {
        Self { state, counted: Arc::default() }
    }

    /// Takes in several submissions with as few commits as their size allows. The outcomes are in the order of
    /// submissions and envelopes; what is accepted is on disk.
    ///
    /// # Errors
    ///
    /// Those of the store; then nothing may be taken for accepted.
    pub fn accept(&self, submissions: &[Submission]) -> Result<Vec<Vec<Outcome>>, StoreError> {
        let mut outcomes = Vec::with_capacity(submissions.len());
        let mut round = Round::default();
        for Submission { carrier, envelopes } in submissions {
            let mut of_submission = Vec::with_capacity(envelopes.len());
            for envelope in envelopes {
                let (verified, bytes) = match self.verify(carrier, envelope) {
                    Ok(verified) => verified,
                    Err(reason) => {
                        warn!(carrier = %carrier, %reason, "refused a report");
                        of_submission.push(Outcome::Refused(reason));
                        continue;
                    }
                };
                of_submission.push(Outcome::Accepted);
                round.by_endpoint.entry(verified.header.endpoint.clone()).or_default().push(verified);
                round.bytes += bytes;
                if round.bytes >= AT_ONCE_BYTES {
                    self.keep(&std::mem::take(&mut round))?;
                }
            }
            outcomes.push(of_submission);
        }
        self.keep(&round)?;
        Ok(outcomes)
    }

    fn keep(&self, round: &Round) -> Result<(), StoreError> {
        if round.by_endpoint.is_empty() {
            return Ok(());
        }
        self.state.change(|model, change| {
            let mut took = Took::default();
            for (id, reports) in &round.by_endpoint {
                self.take(model, change, id, reports, &mut took)?;
            }
            measure(model, change, took);
            Ok::<_, StoreError>(())
        })?;
        Ok(())
    }

    /// Checks everything that does not depend on what came before; with the report's bytes before compression.
    fn verify(&self, carrier: &Holder, bytes: &[u8]) -> Result<(Verified, usize), String> {
        let envelope = Envelope::parse(bytes).map_err(|error| error.to_string())?;
        let header = envelope.header().clone();
        if header.tenant != *self.state.tenant() {
            return Err(format!("tenant `{}` is not served here", header.tenant));
        }
        if carrier.role == Role::Endpoint && carrier.id != header.endpoint.as_str() {
            return Err(format!("`{}` may not report for `{}`", carrier.id, header.endpoint));
        }
        let keys = match self.state.model().endpoint_by_id(&header.endpoint) {
            Some(record) if record.revoked => return Err(format!("`{}` is revoked", record.id)),
            Some(record) => record.keys.clone(),
            None => return Err(format!("`{}` is not enrolled", header.endpoint)),
        };
        let mut reason = "no key is known".to_owned();
        for key in keys {
            match envelope.verify_sized(&key) {
                Ok((report, bytes)) => return Ok((Verified { header, report }, bytes)),
                Err(error) => reason = tierway_common::daemon::chain::Chain(&error).to_string(),
            }
        }
        Err(reason)
    }

    fn take(
        &self,
        model: &Model,
        change: &mut Change,
        id: &EndpointId,
        reports: &[Verified],
        took: &mut Took,
    ) -> Result<(), StoreError> {
        // Revoked or gone since it was verified: nothing to take in, and nothing to send again.
        let Some(known) = model.endpoint_by_id(id).filter(|known| !known.revoked) else { return Ok(()) };
        let mut endpoint = Taking {
            now: change.now,
            model,
            store: &self.state,
            record: EndpointRecord::clone(known),
            states: None,
            facts: None,
            held: known.facts.iter().map(|facts| facts.digest).collect(),
            acknowledged: None,
            took: Vec::new(),
        };
        for Verified { header, report } in reports {
            endpoint.report(header, report)?;
        }
        endpoint.check_acknowledged();
        let Taking { record, states, facts, took: samples, .. } = endpoint;
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        for (update, seconds) in samples {
            // Nobody makes the limit of all by saying the same again and again.
            if !counted.first(record.number, update, change.now) {
                continue;
            }
            took.entry(update).or_default().push((record.machine_class.clone(), seconds));
        }
        if record == **known && states.is_none() && facts.is_none() {
            return Ok(());
        }
        if let Some(facts) = facts
            && let Some(packed) = facts.packed
        {
            change.write(Write::Facts(record.number, packed));
        }
        let number = record.number;
        change.write(Write::Endpoint(Arc::new(record)));
        if let Some(Changed { old, mut new }) = states {
            new.limit_details();
            change.write(Write::States { endpoint: number, old, new: Arc::new(new) });
        }
        Ok(())
    }
}

struct Changed {
    old: Arc<Record>,
    new: Record,
}

/// One endpoint while its reports are taken in; facts and states are read when first needed.
struct Taking<'a> {
    now: Timestamp,
    model: &'a Model,
    store: &'a State,
    record: EndpointRecord,
    states: Option<Changed>,
    facts: Option<Held>,
    /// Digests of the facts before these reports and after each of them.
    held: BTreeSet<Digest>,
    /// What the endpoint takes for held here, by its last cycle.
    acknowledged: Option<Digest>,
    /// Installations that succeeded: update number, seconds.
    took: Vec<(u32, u32)>,
}

/// By update number: classes of machines, and how many seconds each took.
type Took = BTreeMap<u32, Vec<(String, u32)>>;

/// Counts how long installations took, and has it published when that changed noticeably.
fn measure(model: &Model, change: &mut Change, took: Took) {
    for (update, samples) in took {
        let mut record = model.timing(update).map(|record| TimingRecord::clone(record)).unwrap_or_default();
        for (class, seconds) in samples {
            record.add(&class, seconds);
        }
        if let Some(news) = record.news() {
            record.published = Some(news);
        }
        change.write(Write::Timing(update, Arc::new(record)));
    }
}

fn is_lacking(state: UpdateState) -> bool {
    matches!(state, UpdateState::Needed | UpdateState::Failed)
}

fn is_there(state: UpdateState) -> bool {
    matches!(state, UpdateState::Installed | UpdateState::RebootPending)
}

struct Held {
    facts: Facts,
    /// Set when they changed.
    packed: Option<Arc<[u8]>>,
}

impl Taking<'_> {
    fn report(&mut self, header: &Header, report: &Report) -> Result<(), StoreError> {
        let last = match header.stream {
            Stream::States => &mut self.record.states_sequence,
            Stream::Inventory => &mut self.record.inventory_sequence,
        };
        if header.sequence <= *last {
            debug!(endpoint = %header.endpoint, sequence = header.sequence, "had this report already");
            return Ok(());
        }
        let gap = header.sequence > *last + 1 && !header.replaces_earlier;
        *last = header.sequence;
        self.record.last_report = Some(self.now);
        match report {
            Report::Inventory { at, facts } => self.inventory(*at, facts),
            Report::InventoryDelta { at, base, digest, delta } => {
                self.inventory_delta(*at, base, digest, delta)?;
            }
            Report::States { snapshot, entries } => {
                self.missed(gap && !snapshot, header);
                self.states(*snapshot, entries)?;
            }
            Report::Cycle(summary) => {
                self.missed(gap, header);
                self.cycle(summary)?;
            }
        }
        Ok(())
    }

    /// Asks for all facts when those which the endpoint takes for held here do not come: then somebody on the way
    /// acknowledged them and lost them. When they only come later than the cycle that says so, nobody is asked.
    fn check_acknowledged(&mut self) {
        let Some(digest) = self.acknowledged else { return };
        if self.held.contains(&digest) {
            self.record.facts_missing_since = None;
            return;
        }
        let since = *self.record.facts_missing_since.get_or_insert(self.now);
        if self.now.duration_since(since) >= ON_THEIR_WAY {
            warn!(endpoint = %self.record.id, %since, "facts that were acknowledged did not arrive, asking for all of them");
            self.record.resync_inventory = true;
        }
    }

    fn missed(&mut self, gap: bool, header: &Header) {
        if gap {
            warn!(endpoint = %header.endpoint, sequence = header.sequence, "reports are missing, asking for all states");
            self.record.resync_states = true;
        }
    }

    fn inventory(&mut self, at: Timestamp, facts: &Facts) {
        self.record.resync_inventory = false;
        self.keep_facts(at, facts.clone());
    }

    fn inventory_delta(
        &mut self,
        at: Timestamp,
        base: &Digest,
        digest: &Digest,
        delta: &tierway_common::facts::FactsDelta,
    ) -> Result<(), StoreError> {
        let held = self.record.facts.as_ref().map(|summary| summary.digest);
        if held != Some(*base) {
            self.record.resync_inventory = true;
            return Ok(());
        }
        let mut facts = match self.facts.take() {
            Some(held) => held.facts,
            None => match self.store.facts(self.record.number)? {
                Some(facts) => facts,
                None => {
                    self.record.resync_inventory = true;
                    return Ok(());
                }
            },
        };
        facts.apply(delta);
        if facts.digest() == *digest {
            self.keep_facts(at, facts);
        } else {
            warn!(endpoint = %self.record.id, "a change of facts does not give the facts it promises");
            self.record.resync_inventory = true;
        }
        Ok(())
    }

    fn keep_facts(&mut self, at: Timestamp, facts: Facts) {
        match facts::pack(&facts) {
            Ok(packed) => {
                let summary = facts::summary(&facts, at.min(self.now));
                self.held.insert(summary.digest);
                self.record.facts_missing_since = None;
                self.record.facts = Some(summary);
                self.record.rule_groups = facts::rule_groups(self.model.policy(), &facts);
                self.facts = Some(Held { facts, packed: Some(packed) });
            }
            Err(error) => {
                warn!(endpoint = %self.record.id, error = %error, "could not keep the facts");
                self.record.resync_inventory = true;
            }
        }
    }

    fn changed(&mut self) -> Result<&mut Changed, StoreError> {
        if self.states.is_none() {
            let old = Arc::new(self.store.states(self.record.number)?);
            self.states = Some(Changed { new: Record::clone(&old), old });
        }
        // Set just above.
        Ok(self.states.get_or_insert_with(|| Changed { old: Arc::default(), new: Record::default() }))
    }

    fn states(&mut self, snapshot: bool, entries: &[StateEntry]) -> Result<(), StoreError> {
        self.record.assessed = true;
        let mut before = Record::default();
        let changed = self.changed()?;
        if snapshot {
            before = std::mem::take(&mut changed.new);
            // What central concluded for updates the endpoint does not know yet stays until its next cycle.
            changed.new = before.clone();
            changed.new.retain(|entry| entry.estimated);
            (self.record.resync_states, self.record.overruled) = (false, false);
        }
        let mut unknown = 0;
        for entry in entries {
            let Some(update) = self.model.update_by_id(&entry.update) else {
                unknown += 1;
                continue;
            };
            let number = update.number;
            let changed = self.changed()?;
            let old = changed.new.get(number).or_else(|| before.get(number)).cloned();
            let packed = self.entry(number, entry, old.as_ref());
            let lacked = old.as_ref().is_some_and(|old| is_lacking(old.state));
            let there = is_there(packed.state);
            if let Some(seconds) = packed.progress.took_seconds
                && there
                && packed.applied.is_some()
                && lacked
            {
                self.took.push((number, seconds));
            }
            if self.changed()?.new.set(packed).is_err() {
                warn!(endpoint = %self.record.id, update = %entry.update, "too many states, left one out");
            }
        }
        if unknown > 0 {
            debug!(endpoint = %self.record.id, unknown, "states of updates that are not in any catalogue");
        }
        Ok(())
    }

    fn entry(&self, number: u32, said: &StateEntry, old: Option<&Entry>) -> Entry {
        let seconds = |at: Timestamp| u32::try_from(at.min(self.now).as_second()).unwrap_or(0);
        let since = seconds(said.at);
        // Needed again after it was there: what was settled then is over, and the need is a new one.
        let lacking = is_lacking(said.state);
        let round = old.filter(|old| !lacking || !is_there(old.state));
        let detected = said.detected.map(seconds).or(round.and_then(|old| old.detected));
        let detected = detected.or((said.state == UpdateState::Needed).then_some(since));
        let settled = old.filter(|_| !lacking);
        let applied = said.applied.map(seconds).or(settled.and_then(|old| old.applied));
        let authorized = settled.and_then(|old| old.authorized).or_else(|| {
            // Settled when applied: the approval may be withdrawn later.
            let approval = self.model.decision(&self.record, &said.update)?;
            let approved = approval.decision == Decision::Approve;
            let at = seconds(approval.at);
            applied.filter(|applied| approved && at <= *applied).map(|_| at)
        });
        let detail = said.detail.as_deref().map(|detail| clean(detail, DETAIL_BYTES_MAX));
        Entry {
            update: number,
            state: said.state,
            estimated: false,
            since,
            detected,
            authorized,
            applied,
            detail: detail.filter(|detail| !detail.is_empty()).map(Into::into),
            progress: self.progress(&said.progress, settled),
        }
    }

    /// What the endpoint says of its progress; the steps of a round that has ended stay known when it does not
    /// repeat them. Times are not later than now, but for the one until which it waits.
    fn progress(&self, said: &schema::Progress, settled: Option<&Entry>) -> Progress {
        let clamped = |at: Timestamp| u32::try_from(at.as_second()).unwrap_or(0);
        let seconds = |at: Timestamp| clamped(at.min(self.now));
        let before = settled.map(|entry| entry.progress.settled()).unwrap_or_default();
        let schema::Progress { offered, downloaded, verified, took_seconds, waiting, until } = said;
        Progress {
            offered: offered.map(seconds).or(before.offered),
            downloaded: downloaded.map(seconds).or(before.downloaded),
            verified: verified.map(seconds).or(before.verified),
            until: until.map(clamped),
            took_seconds: took_seconds.or(before.took_seconds),
            waiting: *waiting,
        }
    }

    fn cycle(&mut self, summary: &CycleSummary) -> Result<(), StoreError> {
        let name = clean(&summary.host_name, NAME_BYTES_MAX);
        let record = &mut self.record;
        if !name.is_empty() {
            record.name = name;
        }
        record.agent_version = clean(&summary.agent_version, VERSION_BYTES_MAX);
        record.dictionary_version = summary.dictionary_version;
        record.machine_class = clean(&summary.machine_class, CLASS_BYTES_MAX);
        record.reboot_pending = summary.reboot_pending;
        record.problems =
            summary.problems.iter().take(PROBLEMS_MAX).map(|p| clean(p, PROBLEM_BYTES_MAX)).collect();
        record.assessed = !summary.uncovered;
        self.acknowledged = summary.acknowledged;
        let record = &mut self.record;
        if record.estimated_for > 0 && summary.dictionary_version >= record.estimated_for {
            // It has evaluated what central had only concluded; what it did not name does not apply.
            record.estimated_for = 0;
            // Unless that was as it had told before: it does not say that again by itself.
            record.resync_states |= std::mem::take(&mut record.overruled);
            self.changed()?.new.retain(|entry| !entry.estimated);
        }
        Ok(())
    }
}
