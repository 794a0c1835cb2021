//! The memory of an endpoint and its rules; pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tierway_common::{
    id::UpdateId,
    rules::Verdict,
    schema::{DETAIL_BYTES_MAX, Progress, State, StateEntry},
};

use crate::install::{
    codes::{Class, Outcome},
    deb::apt::cut,
};

/// Updates remembered: twice as many as the largest catalogue that is planned for; each takes about
/// 300 bytes.
pub const RECORDS_MAX: usize = 100_000;

/// Ended attempts remembered, the latest: at one a day nearly three years.
pub const HISTORY_MAX: usize = 1_000;

/// What is known of one update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Where it stands.
    pub state: State,
    /// Since when.
    pub since: Timestamp,
    /// When it was first found needed, of this time that it is or was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detected: Option<Timestamp>,
    /// When it was found installed after having been needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<Timestamp>,
    /// Reason or result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Attempts so far.
    #[serde(default)]
    pub attempts: u32,
    /// How the latest attempts failed; `None` when the latest did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing: Option<Failing>,
    /// How long the installer of the latest attempt took that started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_seconds: Option<u32>,
    /// When the attempt that is going on began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<Timestamp>,
}

/// Attempts in a row that ended alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failing {
    /// How.
    pub outcome: Outcome,
    /// How many.
    pub times: u32,
    /// When the latest ended.
    pub ended: Timestamp,
    /// What it said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// An attempt that ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Of which update.
    pub update: UpdateId,
    /// Begun when.
    pub began: Timestamp,
    /// Ended when.
    pub ended: Timestamp,
    /// How.
    pub outcome: Outcome,
    /// What was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// An attempt begins.
    Began {
        /// Of which update.
        update: UpdateId,
        /// When.
        at: Timestamp,
    },
    /// The open attempt ended.
    Ended {
        /// Of which update.
        update: UpdateId,
        /// When.
        at: Timestamp,
        /// How.
        outcome: Outcome,
        /// What was said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
        /// How long the installer took; `None` when it was not started.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        took_seconds: Option<u32>,
    },
    /// A scan found the update in a state.
    Observed {
        /// Which update.
        update: UpdateId,
        /// When.
        at: Timestamp,
        /// In which.
        state: State,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
}

/// What a scan says besides the verdicts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// A reboot is needed.
    pub reboot_pending: bool,
    /// Updates of which a package is unpacked but not fully installed.
    pub incomplete: BTreeSet<UpdateId>,
}

/// All records and the latest attempts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book {
    /// By update; one that was never anything but not applicable has none.
    records: BTreeMap<UpdateId, Record>,
    /// In the order in which they ended.
    history: VecDeque<Attempt>,
}

impl Book {
    /// What is known of an update.
    #[must_use]
    pub fn record(&self, update: &UpdateId) -> Option<&Record> {
        self.records.get(update)
    }

    /// All records by update.
    pub fn records(&self) -> impl Iterator<Item = (&UpdateId, &Record)> {
        self.records.iter()
    }

    /// The latest attempts in the order in which they ended, at most [`HISTORY_MAX`].
    pub fn history(&self) -> impl DoubleEndedIterator<Item = &Attempt> {
        self.history.iter()
    }

    /// Updates with an attempt that has not ended.
    pub fn open(&self) -> impl Iterator<Item = &UpdateId> {
        self.records.iter().filter(|(_, record)| record.open.is_some()).map(|(update, _)| update)
    }

    /// The whole book as states, for a snapshot.
    #[must_use]
    pub fn entries(&self) -> Vec<StateEntry> {
        self.records.iter().map(|(update, record)| entry(update, record)).collect()
    }

    /// Updates by state.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<State, u64> {
        let mut counts = BTreeMap::new();
        for record in self.records.values() {
            *counts.entry(record.state).or_default() += 1;
        }
        counts
    }

    /// Takes in what happened; returns the state it led to when that, or its reason, is another than before.
    pub fn apply(&mut self, event: Event) -> Option<StateEntry> {
        match event {
            Event::Began { update, at } => {
                let record = self.record_at(update, at);
                record.open = Some(at);
                record.attempts = record.attempts.saturating_add(1);
                None
            }
            Event::Ended { update, at, outcome, detail, took_seconds } => {
                self.ended(update, at, outcome, detail, took_seconds)
            }
            Event::Observed { update, at, state, detail } => {
                if state == State::NotApplicable {
                    let mut record = self.records.remove(&update)?;
                    shift(&mut record, at, state, detail);
                    return Some(entry(&update, &record));
                }
                let record = self.record_at(update.clone(), at);
                if matches!(state, State::Installed | State::RebootPending) {
                    record.failing = None;
                }
                shift(record, at, state, detail).then(|| entry(&update, record))
            }
        }
    }

    fn record_at(&mut self, update: UpdateId, at: Timestamp) -> &mut Record {
        self.records.entry(update).or_insert_with(|| Record {
            // Until something else is applied to it right after; never seen outside.
            state: State::NotApplicable,
            since: at,
            detected: None,
            applied: None,
            detail: None,
            attempts: 0,
            failing: None,
            took_seconds: None,
            open: None,
        })
    }

    fn ended(
        &mut self,
        update: UpdateId,
        at: Timestamp,
        outcome: Outcome,
        detail: Option<String>,
        took_seconds: Option<u32>,
    ) -> Option<StateEntry> {
        let record = self.record_at(update.clone(), at);
        record.took_seconds = took_seconds.or(record.took_seconds);
        let began = record.open.take().unwrap_or(at);
        let text = match &detail {
            Some(detail) => format!("{}: {detail}", outcome.sentence()),
            None => outcome.sentence(),
        };
        let text = Some(cut(&text, DETAIL_BYTES_MAX).to_owned());
        let state = outcome.state();
        record.failing = (outcome.class() != Class::Done).then(|| {
            let before = record.failing.take().filter(|failing| failing.outcome == outcome);
            let times = before.map_or(1, |failing| failing.times.saturating_add(1));
            Failing { outcome, times, ended: at, detail: text.clone() }
        });
        let shown = if matches!(state, Some(State::Installed)) { None } else { text };
        let changed = match state {
            Some(state) => shift(record, at, state, shown).then(|| entry(&update, record)),
            None => None,
        };
        self.history.push_back(Attempt { update, began, ended: at, outcome, detail });
        while self.history.len() > HISTORY_MAX {
            self.history.pop_front();
        }
        changed
    }

    /// What a scan at `now` changes: one event for every update that stands elsewhere, or for another
    /// reason, than the book says. Updates that `verdicts` does not name are not applicable.
    #[must_use]
    pub fn compare(
        &self,
        now: Timestamp,
        verdicts: &BTreeMap<UpdateId, Verdict>,
        conditions: &Conditions,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        let mut observed = |update: &UpdateId, state, detail: Option<String>| {
            let detail = detail.map(|detail| cut(&detail, DETAIL_BYTES_MAX).to_owned());
            let same = match self.records.get(update) {
                Some(record) => record.state == state && record.detail == detail,
                None => state == State::NotApplicable,
            };
            if !same {
                events.push(Event::Observed { update: update.clone(), at: now, state, detail });
            }
        };
        for (update, verdict) in verdicts {
            let record = self.records.get(update);
            // Settled first, see `super::Ledger::settle`.
            if record.is_some_and(|record| record.open.is_some()) {
                continue;
            }
            let failing = record.and_then(|record| record.failing.as_ref());
            let (state, detail) = match verdict {
                Verdict::NotApplicable => (State::NotApplicable, None),
                Verdict::Unknown { reason } => (State::Unknown, Some(reason.clone())),
                Verdict::Needed => needed(failing),
                Verdict::Installed => match (record, failing) {
                    (_, Some(failing)) if conditions.incomplete.contains(update) => needed(Some(failing)),
                    (Some(record), _)
                        if record.state == State::RebootPending && conditions.reboot_pending =>
                    {
                        (State::RebootPending, record.detail.clone())
                    }
                    _ => (State::Installed, None),
                },
            };
            observed(update, state, detail);
        }
        for (update, record) in &self.records {
            if !verdicts.contains_key(update) && record.open.is_none() {
                observed(update, State::NotApplicable, None);
            }
        }
        events
    }
}

fn needed(failing: Option<&Failing>) -> (State, Option<String>) {
    match failing {
        None => (State::Needed, None),
        Some(failing) => (failing.outcome.state().unwrap_or(State::Failed), failing.detail.clone()),
    }
}

/// Brings a record to a state; false when it was there already for the same reason.
fn shift(record: &mut Record, at: Timestamp, state: State, detail: Option<String>) -> bool {
    if record.state == state && record.detail == detail {
        return false;
    }
    record.detail = detail;
    if record.state == state {
        return true;
    }
    match state {
        State::Needed | State::Failed => {
            // Needed again after it was there is a new time; from unknown it may be the same one.
            if record.applied.take().is_some() || record.detected.is_none() {
                record.detected = Some(at);
            }
        }
        State::Installed | State::RebootPending => {
            if record.detected.is_some() && record.applied.is_none() {
                record.applied = Some(at);
            }
        }
        State::Unknown | State::NotApplicable => {}
    }
    record.state = state;
    record.since = at;
    true
}

fn entry(update: &UpdateId, record: &Record) -> StateEntry {
    StateEntry {
        update: update.clone(),
        state: record.state,
        at: record.since,
        detected: record.detected,
        applied: record.applied,
        detail: record.detail.clone(),
        progress: Progress { took_seconds: record.took_seconds, ..Progress::default() },
    }
}
