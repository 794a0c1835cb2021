//! What an endpoint knows of its updates, small enough for many endpoints in one process; and whether central knows the
//! same.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tierway_central::compliance::record::{Entry, Progress as Kept};
use tierway_common::{
    id::UpdateId,
    rules::Verdict,
    schema::{Progress, State, StateEntry},
};

/// Exit code of an installer that fails.
pub const FAILURE_DETAIL: &str = "the installer exited with code 1";

/// Where one update stands; times in Unix seconds, 0 for never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Where.
    pub state: State,
    since: u32,
    detected: u32,
    applied: u32,
    offered: u32,
    downloaded: u32,
    verified: u32,
    took: u32,
}

fn seconds(at: Timestamp) -> u32 {
    u32::try_from(at.as_second()).unwrap_or(0)
}

fn time(seconds: u32) -> Option<Timestamp> {
    (seconds > 0).then(|| Timestamp::from_second(i64::from(seconds)).ok()).flatten()
}

impl Held {
    fn new(state: State, now: Timestamp) -> Self {
        let detected = if state == State::Needed { seconds(now) } else { 0 };
        Self {
            state,
            since: seconds(now),
            detected,
            applied: 0,
            offered: 0,
            downloaded: 0,
            verified: 0,
            took: 0,
        }
    }

    fn entry(&self, update: &UpdateId) -> StateEntry {
        let Self { state, since, detected, applied, offered, downloaded, verified, took } = *self;
        StateEntry {
            update: update.clone(),
            state,
            at: time(since).unwrap_or_default(),
            detected: time(detected),
            applied: time(applied),
            detail: (state == State::Failed).then(|| FAILURE_DETAIL.to_owned()),
            progress: Progress {
                offered: time(offered),
                downloaded: time(downloaded),
                verified: time(verified),
                took_seconds: (took > 0).then_some(took),
                ..Progress::default()
            },
        }
    }
}

/// All updates of an endpoint that concern it.
#[derive(Clone, Debug, Default)]
pub struct Holding(BTreeMap<UpdateId, Held>);

impl Holding {
    /// Takes over what a scan found; the updates that stand elsewhere than before.
    pub fn observe(&mut self, verdicts: &BTreeMap<UpdateId, Verdict>, now: Timestamp) -> Vec<UpdateId> {
        let mut changed = Vec::new();
        for (update, verdict) in verdicts {
            let found = match verdict {
                Verdict::NotApplicable => continue,
                Verdict::Unknown { .. } => State::Unknown,
                Verdict::Needed => State::Needed,
                Verdict::Installed => State::Installed,
            };
            match self.0.get_mut(update) {
                None => {
                    self.0.insert(update.clone(), Held::new(found, now));
                    changed.push(update.clone());
                }
                // The attempt that failed says more than that it is needed.
                Some(held) if held.state == State::Failed && found == State::Needed => {}
                Some(held) if held.state == found => {}
                Some(held) => {
                    if found == State::Installed {
                        held.applied = seconds(now);
                    }
                    (held.state, held.since) = (found, seconds(now));
                    changed.push(update.clone());
                }
            }
        }
        changed
    }

    /// Notes that an update is on offer; false when it was already, or is not needed.
    pub fn offer(&mut self, update: &UpdateId, now: Timestamp) -> bool {
        let Some(held) = self.0.get_mut(update) else { return false };
        let first = held.offered == 0 && held.state == State::Needed;
        if first {
            held.offered = seconds(now);
        }
        first
    }

    /// Whether an update is needed and was not offered yet.
    #[must_use]
    pub fn awaits(&self, update: &UpdateId) -> bool {
        self.0.get(update).is_some_and(|held| held.state == State::Needed && held.offered == 0)
    }

    /// The updates that are on offer and not installed.
    #[must_use]
    pub fn open(&self) -> Vec<UpdateId> {
        let open = self.0.iter().filter(|(_, held)| held.offered > 0 && held.state == State::Needed);
        open.map(|(update, _)| update.clone()).collect()
    }

    /// Notes how an installation ended.
    pub fn attempted(&mut self, update: &UpdateId, succeeded: bool, took: u32, now: Timestamp) {
        let Some(held) = self.0.get_mut(update) else { return };
        (held.since, held.took, held.downloaded) = (seconds(now), took.max(1), seconds(now));
        if succeeded {
            (held.state, held.applied, held.verified) = (State::Installed, seconds(now), seconds(now));
        } else {
            held.state = State::Failed;
        }
    }

    /// What is reported of these.
    #[must_use]
    pub fn entries(&self, of: &[UpdateId]) -> Vec<StateEntry> {
        of.iter().filter_map(|update| Some(self.0.get(update)?.entry(update))).collect()
    }

    /// What is reported of all.
    #[must_use]
    pub fn all(&self) -> Vec<StateEntry> {
        self.0.iter().map(|(update, held)| held.entry(update)).collect()
    }

    /// How many stand where.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<State, u64> {
        let mut counts = BTreeMap::new();
        for held in self.0.values() {
            *counts.entry(held.state).or_default() += 1;
        }
        counts
    }

    /// In what central holds something else; `None` when it is the same.
    #[must_use]
    pub fn differs(&self, kept: &[Entry], id: impl Fn(u32) -> Option<UpdateId>) -> Option<String> {
        let mut there: BTreeMap<UpdateId, &Entry> =
            kept.iter().filter_map(|entry| Some((id(entry.update)?, entry))).collect();
        for (update, held) in &self.0 {
            let Some(entry) = there.remove(update) else {
                return Some(format!("`{update}` is {} and central has nothing of it", held.state.as_str()));
            };
            let Entry { state, estimated, since, detected, applied, progress, .. } = entry;
            let Kept { offered, downloaded, verified, took_seconds, .. } = progress;
            let known = |time: &Option<u32>| time.unwrap_or(0);
            let found = Held {
                state: *state,
                since: *since,
                detected: known(detected),
                applied: known(applied),
                offered: known(offered),
                downloaded: known(downloaded),
                verified: known(verified),
                took: known(took_seconds),
            };
            if found != *held || *estimated {
                let guessed = if *estimated { ", which it guessed" } else { "" };
                return Some(format!("`{update}` is {held:?} and central has {found:?}{guessed}"));
            }
        }
        there.into_keys().next().map(|update| format!("`{update}` is not there and central has it"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-25T08:00:00Z".parse().unwrap()
    }

    fn id() -> UpdateId {
        "debian-12/a_2.0".parse().unwrap()
    }

    fn holding() -> Holding {
        let mut holding = Holding::default();
        let verdicts = [(id(), Verdict::Needed)].into();
        assert_eq!(holding.observe(&verdicts, now()), [id()]);
        assert_eq!(holding.observe(&verdicts, now()), []);
        holding
    }

    fn kept(state: State, since: u32) -> Entry {
        let progress = Kept::default();
        Entry {
            update: 7,
            state,
            estimated: false,
            since,
            detected: Some(seconds(now())),
            authorized: None,
            applied: None,
            detail: None,
            progress,
        }
    }

    #[test]
    fn central_that_holds_the_same_differs_in_nothing_and_any_other_is_found_out() {
        let (holding, name) = (holding(), |number| (number == 7).then(id));
        let same = kept(State::Needed, seconds(now()));
        assert_eq!(holding.differs(std::slice::from_ref(&same), name), None);
        let estimated = Entry { estimated: true, ..same.clone() };
        for wrong in [
            vec![],
            vec![kept(State::Installed, seconds(now()))],
            vec![kept(State::Needed, seconds(now()) - 1)],
            vec![estimated],
        ] {
            assert!(holding.differs(&wrong, name).is_some(), "{wrong:?}");
        }
        assert!(Holding::default().differs(&[same], name).is_some());
    }

    #[test]
    fn an_update_is_offered_once_and_stays_failed_until_it_is_installed() {
        let mut holding = holding();
        assert!(holding.awaits(&id()));
        assert!(holding.offer(&id(), now()));
        assert!(!holding.offer(&id(), now()) && !holding.awaits(&id()));
        assert_eq!(holding.open(), [id()]);
        holding.attempted(&id(), false, 3, now());
        assert_eq!(holding.observe(&[(id(), Verdict::Needed)].into(), now()), []);
        assert_eq!((holding.counts(), holding.open()), ([(State::Failed, 1)].into(), vec![]));
        holding.observe(&[(id(), Verdict::Installed)].into(), now());
        assert_eq!(holding.counts(), [(State::Installed, 1)].into());
    }
}
