//! The memory of an endpoint and its rules; pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tierway_common::{
    id::UpdateId,
    rules::Verdict,
    schema::{DETAIL_BYTES_MAX, Progress, State, StateEntry, Waiting},
    trust::digest::Digest,
};

use crate::{
    consent::Purpose,
    install::{
        codes::{Class, Outcome},
        deb::apt::cut,
    },
    signs::BootId,
    wishes::{Wish, Wishes},
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
    pub failing: Option<Box<Failing>>,
    /// How long the installer of the latest attempt took that started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_seconds: Option<u32>,
    /// When the attempt that is going on began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<Timestamp>,
    /// When it was first on offer, of this time that it is or was needed: grace counts from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered: Option<Timestamp>,
    /// When all its payloads were here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downloaded: Option<Timestamp>,
    /// When a scan after the installation, and after the reboot it needed, found it installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Timestamp>,
    /// What it waits for; `None` when it is not needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<Box<Waits>>,
}

/// What a needed update waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waits {
    /// For what.
    pub waiting: Waiting,
    /// Until when, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// A sentence, at most [`DETAIL_BYTES_MAX`].
    pub reason: String,
}

/// What is known of boots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boots {
    /// The boot that the computer was last seen in, and since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<(BootId, Timestamp)>,
    /// When something was first installed in it by this program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installed: Option<Timestamp>,
    /// When a reboot was last ordered in it, and how often: after one that came there is a new boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordered: Option<(Timestamp, u32)>,
}

/// A policy that was taken over by a computer that does so once a day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenOver {
    /// Its root.
    pub root: Digest,
    /// When.
    pub at: Timestamp,
}

impl Record {
    /// Whether it was installed after having been needed, and no scan has said so yet.
    fn is_to_be_verified(&self) -> bool {
        self.verified.is_none() && (self.applied.is_some() || self.detected.is_some())
    }

    /// An attempt ended so; once more where the one before ended alike.
    fn fails(&mut self, outcome: Outcome, at: Timestamp, detail: Option<String>) {
        let before = self.failing.take().filter(|failing| failing.outcome == outcome);
        let times = before.map_or(1, |failing| failing.times.saturating_add(1));
        self.failing = Some(Box::new(Failing { outcome, times, ended: at, detail }));
    }

    /// Whether the last attempt was found to have been in vain after its reboot.
    fn failed_at_boot(&self) -> bool {
        self.failing.as_ref().is_some_and(|failing| failing.outcome == Outcome::ReportedSuccessStillNeeded)
    }
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
    /// An update is on offer for the first time of this round.
    Offered {
        /// Which.
        update: UpdateId,
        /// When.
        at: Timestamp,
    },
    /// All payloads of an update are here.
    Downloaded {
        /// Of which.
        update: UpdateId,
        /// When.
        at: Timestamp,
    },
    /// A scan after the installation, and the reboot it needed, found an update installed.
    Verified {
        /// Which.
        update: UpdateId,
        /// When.
        at: Timestamp,
    },
    /// What an update waits for is another thing than before, or it does not wait any more.
    Waits {
        /// Which.
        update: UpdateId,
        /// Now.
        waits: Option<Waits>,
    },
    /// A person wished something, or an unanswered countdown did in his place; it was granted.
    Wished {
        /// What.
        wish: Wish,
        /// User id of the person.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<u32>,
        /// When.
        at: Timestamp,
    },
    /// A countdown is shown, until [`Event::CountdownEnded`]. After a restart it is shown anew.
    CountdownBegan {
        /// To what it leads.
        purpose: Purpose,
        /// When.
        at: Timestamp,
    },
    /// The countdown led to what it was for, or what it was for went away.
    CountdownEnded {
        /// When.
        at: Timestamp,
    },
    /// A reboot is ordered in this boot.
    RebootOrdered {
        /// In which.
        boot: BootId,
        /// When.
        at: Timestamp,
    },
    /// The computer is seen in a boot that was not seen before.
    Booted {
        /// In which.
        boot: BootId,
        /// Seen when.
        at: Timestamp,
    },
    /// A policy was taken over that holds for a day; `None`: the newest holds at every check.
    TookOver {
        /// Which, and when.
        policy: Option<TakenOver>,
    },
    /// What is to be done after installations was done.
    FollowedUp {
        /// When.
        at: Timestamp,
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
    /// By update; one that was never anything but not applicable has none. Boxed, as half of a map is empty places.
    records: BTreeMap<UpdateId, Box<Record>>,
    /// In the order in which they ended.
    history: VecDeque<Attempt>,
    /// What the person at the machine wished and still holds.
    #[serde(default)]
    wishes: Wishes,
    /// A countdown that was being shown, and since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    countdown: Option<(Purpose, Timestamp)>,
    /// What is known of boots.
    #[serde(default)]
    boots: Boots,
    /// Since when something was installed after which follow-up actions are still to be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to_follow_up: Option<Timestamp>,
    /// The policy that holds for a day, where it is taken over once a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    policy: Option<TakenOver>,
}

impl Book {
    /// What is known of an update.
    #[must_use]
    pub fn record(&self, update: &UpdateId) -> Option<&Record> {
        self.records.get(update).map(Box::as_ref)
    }

    /// All records by update.
    pub fn records(&self) -> impl Iterator<Item = (&UpdateId, &Record)> {
        self.records.iter().map(|(update, record)| (update, record.as_ref()))
    }

    /// The latest attempts in the order in which they ended, at most [`HISTORY_MAX`].
    pub fn history(&self) -> impl DoubleEndedIterator<Item = &Attempt> {
        self.history.iter()
    }

    /// What the person at the machine wished and still holds.
    #[must_use]
    pub fn wishes(&self) -> &Wishes {
        &self.wishes
    }

    /// The countdown that was being shown last and has not ended, and when it began.
    #[must_use]
    pub fn countdown(&self) -> Option<(Purpose, Timestamp)> {
        self.countdown
    }

    /// What is known of boots.
    #[must_use]
    pub fn boots(&self) -> &Boots {
        &self.boots
    }

    /// Since when something was installed after which follow-up actions are still to be done.
    #[must_use]
    pub fn to_follow_up(&self) -> Option<Timestamp> {
        self.to_follow_up
    }

    /// The policy that was taken over last, where that is done once a day.
    #[must_use]
    pub fn policy(&self) -> Option<&TakenOver> {
        self.policy.as_ref()
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
                let in_vain = self.records.get(&update).is_some_and(|record| self.was_in_vain(record));
                let record = self.record_at(update.clone(), at);
                if state == State::Installed {
                    record.failing = None;
                } else if state == State::Failed && in_vain {
                    record.fails(Outcome::ReportedSuccessStillNeeded, at, detail.clone());
                }
                shift(record, at, state, detail).then(|| entry(&update, record))
            }
            Event::Offered { update, at } => self.note(&update, |record| record.offered = Some(at)),
            Event::Downloaded { update, at } => self.note(&update, |record| record.downloaded = Some(at)),
            Event::Verified { update, at } => self.note(&update, |record| record.verified = Some(at)),
            Event::Waits { update, waits } => self.note(&update, |record| record.waits = waits.map(Box::new)),
            Event::Wished { wish, by, at } => {
                self.wishes.apply(wish, by, at);
                None
            }
            Event::CountdownBegan { purpose, at } => {
                self.countdown = Some((purpose, at));
                None
            }
            Event::CountdownEnded { at: _ } => {
                self.countdown = None;
                None
            }
            Event::RebootOrdered { boot: _, at } => {
                let times = self.boots.ordered.map_or(0, |(_, times)| times);
                self.boots.ordered = Some((at, times.saturating_add(1)));
                None
            }
            Event::Booted { boot, at } => {
                // The first boot that is ever seen ends nothing.
                if self.boots.current.is_some() {
                    self.wishes.booted();
                    (self.boots.installed, self.boots.ordered, self.countdown) = (None, None, None);
                }
                self.boots.current = Some((boot, at));
                None
            }
            Event::TookOver { policy } => {
                self.policy = policy;
                None
            }
            Event::FollowedUp { at: _ } => {
                self.to_follow_up = None;
                None
            }
        }
    }

    /// Changes a record that is there; returns where it stands then.
    fn note(&mut self, update: &UpdateId, change: impl FnOnce(&mut Record)) -> Option<StateEntry> {
        let record = self.records.get_mut(update)?;
        change(record);
        Some(entry(update, record))
    }

    fn record_at(&mut self, update: UpdateId, at: Timestamp) -> &mut Record {
        let new = || Record {
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
            offered: None,
            downloaded: None,
            verified: None,
            waits: None,
        };
        self.records.entry(update).or_insert_with(|| Box::new(new()))
    }

    fn ended(
        &mut self,
        update: UpdateId,
        at: Timestamp,
        outcome: Outcome,
        detail: Option<String>,
        took_seconds: Option<u32>,
    ) -> Option<StateEntry> {
        if matches!(outcome, Outcome::Success | Outcome::SuccessRebootRequired | Outcome::RebootInitiated) {
            self.boots.installed.get_or_insert(at);
            self.to_follow_up.get_or_insert(at);
        }
        let record = self.record_at(update.clone(), at);
        record.took_seconds = took_seconds.or(record.took_seconds);
        let began = record.open.take().unwrap_or(at);
        let text = match &detail {
            Some(detail) => format!("{}: {detail}", outcome.sentence()),
            None => outcome.sentence(),
        };
        let text = Some(cut(&text, DETAIL_BYTES_MAX).to_owned());
        let state = outcome.state();
        if outcome.class() != Class::Done {
            record.fails(outcome, at, text.clone());
        } else if state != Some(State::RebootPending) || !record.failed_at_boot() {
            // Whether it is there this time the next boot tells, and how often it was not is counted until then.
            record.failing = None;
        }
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

    /// Whether what waited for a boot had one, and no scan since found it there; one may have found nothing out.
    fn was_in_vain(&self, record: &Record) -> bool {
        let waited = match record.state {
            State::RebootPending => Some(record.since),
            State::Unknown => record.applied.filter(|_| record.verified.is_none()),
            _ => None,
        };
        waited.is_some_and(|since| self.boots.current.as_ref().is_some_and(|(_, seen)| *seen > since))
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
        let (mut events, mut verified) = (Vec::new(), Vec::new());
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
            let record = self.record(update);
            // Settled first, see `super::Ledger::settle`.
            if record.is_some_and(|record| record.open.is_some()) {
                continue;
            }
            let failing = record.and_then(|record| record.failing.as_deref());
            // A boot since then was what it waited for: what is pending now is about something else.
            let waits = record.filter(|record| {
                record.state == State::RebootPending
                    && conditions.reboot_pending
                    && self.boots.current.as_ref().is_none_or(|(_, seen)| *seen <= record.since)
            });
            let (state, detail) = match verdict {
                Verdict::NotApplicable => (State::NotApplicable, None),
                Verdict::Unknown { reason } => (State::Unknown, Some(reason.clone())),
                Verdict::Needed => match waits {
                    // What it replaces may be replaced at the restart only.
                    Some(record) => (State::RebootPending, record.detail.clone()),
                    None if record.is_some_and(|record| self.was_in_vain(record)) => {
                        let outcome = Outcome::ReportedSuccessStillNeeded;
                        (State::Failed, Some(format!("{}, after the reboot too", outcome.sentence())))
                    }
                    None => needed(failing),
                },
                Verdict::Installed => match (waits, failing) {
                    (_, Some(failing)) if conditions.incomplete.contains(update) => needed(Some(failing)),
                    (Some(record), _) => (State::RebootPending, record.detail.clone()),
                    _ => (State::Installed, None),
                },
            };
            observed(update, state, detail);
            if state == State::Installed && record.is_some_and(Record::is_to_be_verified) {
                verified.push(Event::Verified { update: update.clone(), at: now });
            }
        }
        for (update, record) in &self.records {
            if !verdicts.contains_key(update) && record.open.is_none() {
                observed(update, State::NotApplicable, None);
            }
        }
        events.append(&mut verified);
        events
    }

    /// What the plan changes: one event for every update that is on offer for the first time, whose payloads
    /// are here, or that waits for something else than the book says. `downloaded` are updates whose payloads
    /// are here, `waits` what each needed update waits for.
    #[must_use]
    pub fn compare_plan(
        &self,
        now: Timestamp,
        offered: &BTreeSet<UpdateId>,
        downloaded: &BTreeSet<UpdateId>,
        waits: &BTreeMap<UpdateId, Waits>,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        for (update, record) in &self.records {
            let named = || update.clone();
            // A time that is still to come was told by a clock that was wrong: what counts from it would wait for it.
            let never = |at: Option<Timestamp>| at.is_none_or(|at| at > now);
            if never(record.offered) && offered.contains(update) {
                events.push(Event::Offered { update: named(), at: now });
            }
            if never(record.downloaded) && downloaded.contains(update) {
                events.push(Event::Downloaded { update: named(), at: now });
            }
            let (before, after) = (record.waits.as_deref(), waits.get(update));
            // What is left of a window is another time in every plan; any other sentence is news.
            let stays = |waits: &Waits| waits.waiting == Waiting::Window;
            let key = |waits: &Waits| {
                let said = (!stays(waits)).then(|| cut(&waits.reason, DETAIL_BYTES_MAX).to_owned());
                (waits.waiting, waits.until, said)
            };
            if before.map(key) != after.map(key) {
                let after = after
                    .cloned()
                    .map(|waits| Waits { reason: cut(&waits.reason, DETAIL_BYTES_MAX).to_owned(), ..waits });
                events.push(Event::Waits { update: named(), waits: after });
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
                (record.offered, record.downloaded, record.verified) = (None, None, None);
            }
        }
        State::Installed | State::RebootPending => {
            if record.detected.is_some() && record.applied.is_none() {
                record.applied = Some(at);
            }
            record.waits = None;
        }
        State::Unknown | State::NotApplicable => {}
    }
    record.state = state;
    record.since = at;
    true
}

fn entry(update: &UpdateId, record: &Record) -> StateEntry {
    let waits = record.waits.as_ref();
    StateEntry {
        update: update.clone(),
        state: record.state,
        at: record.since,
        detected: record.detected,
        applied: record.applied,
        detail: record.detail.clone().or_else(|| waits.map(|waits| waits.reason.clone())),
        progress: Progress {
            offered: record.offered,
            downloaded: record.downloaded,
            verified: record.verified,
            took_seconds: record.took_seconds,
            waiting: waits.map(|waits| waits.waiting),
            until: waits.and_then(|waits| waits.until),
        },
    }
}
