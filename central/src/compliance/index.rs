//! Who is where: bitmaps of endpoint numbers for each update, kept in memory: one for each state, and one for
//! each [`Mark`], that is for what a needed update waits for and for the steps it has come to.

use std::collections::BTreeMap;

use roaring::RoaringBitmap;
use tierway_common::schema::{State, Waiting};

use super::record::{Entry, Record, code, waiting_code};

/// Something about the progress of an update on an endpoint that is asked for across the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// It is lacking, and waits for this.
    Waits(Waiting),
    /// It is lacking, and on offer.
    Offered,
    /// It is lacking, and its payloads are there.
    Downloaded,
    /// It is installed, and was verified.
    Verified,
    /// It is installed, in effect or after the next reboot, and was needed before: what proves an update.
    Mended,
}

impl Mark {
    /// All.
    pub fn all() -> impl Iterator<Item = Self> {
        let steps = [Self::Offered, Self::Downloaded, Self::Verified, Self::Mended];
        Waiting::ALL.into_iter().map(Self::Waits).chain(steps)
    }

    /// For people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waits(waiting) => waiting.as_str(),
            Self::Offered => "offered",
            Self::Downloaded => "downloaded",
            Self::Verified => "verified",
            Self::Mended => "mended",
        }
    }

    fn bit(self) -> u8 {
        match self {
            Self::Waits(waiting) => waiting_code(waiting),
            Self::Mended => 28,
            Self::Offered => 29,
            Self::Downloaded => 30,
            Self::Verified => 31,
        }
    }
}

/// The marks of an entry, one bit each.
fn marks(entry: &Entry) -> u32 {
    let lacking = matches!(entry.state, State::Needed | State::Failed);
    let progress = &entry.progress;
    let waits = progress.waiting.filter(|_| lacking).map(Mark::Waits);
    let offered = progress.offered.filter(|_| lacking).map(|_| Mark::Offered);
    let downloaded = progress.downloaded.filter(|_| lacking).map(|_| Mark::Downloaded);
    let verified = progress.verified.filter(|_| entry.state == State::Installed).map(|_| Mark::Verified);
    let installed = matches!(entry.state, State::Installed | State::RebootPending);
    let mended = entry.applied.filter(|_| installed).map(|_| Mark::Mended);
    let set = [waits, offered, downloaded, verified, mended].into_iter().flatten();
    set.fold(0, |bits, mark| bits | 1 << mark.bit())
}

/// Bitmaps of endpoint numbers per update and state.
#[derive(Debug, Default)]
pub struct Index {
    /// By update number, then by state code.
    updates: Vec<[RoaringBitmap; 6]>,
    /// By update number, then by the bit of a mark; only what somebody has.
    marks: BTreeMap<(u32, u8), RoaringBitmap>,
}

impl Index {
    /// Moves one endpoint from what `old` says to what `new` says; cost in proportion to both.
    pub fn replace(&mut self, endpoint: u32, old: &Record, new: &Record) {
        for entry in old.entries() {
            if new.get(entry.update).is_none_or(|now| now.state != entry.state) {
                self.bits(entry.update)[usize::from(code(entry.state))].remove(endpoint);
            }
            let gone = marks(entry) & !new.get(entry.update).map_or(0, marks);
            for bit in bits_of(gone) {
                if let Some(who) = self.marks.get_mut(&(entry.update, bit)) {
                    who.remove(endpoint);
                    if who.is_empty() {
                        self.marks.remove(&(entry.update, bit));
                    }
                }
            }
        }
        for entry in new.entries() {
            if old.get(entry.update).is_none_or(|before| before.state != entry.state) {
                self.bits(entry.update)[usize::from(code(entry.state))].insert(endpoint);
            }
            let come = marks(entry) & !old.get(entry.update).map_or(0, marks);
            for bit in bits_of(come) {
                self.marks.entry((entry.update, bit)).or_default().insert(endpoint);
            }
        }
    }

    /// Endpoints with that mark for the update; `None` when nobody has it.
    #[must_use]
    pub fn marked(&self, update: u32, mark: Mark) -> Option<&RoaringBitmap> {
        self.marks.get(&(update, mark.bit()))
    }

    /// Endpoints that prove the update: see [`Mark::Mended`].
    #[must_use]
    pub fn mended(&self, update: u32) -> RoaringBitmap {
        self.marked(update, Mark::Mended).cloned().unwrap_or_default()
    }

    fn bits(&mut self, update: u32) -> &mut [RoaringBitmap; 6] {
        let at = update as usize;
        if at >= self.updates.len() {
            self.updates.resize_with(at + 1, Default::default);
        }
        &mut self.updates[at]
    }

    /// Endpoints on which the update is in that state; nothing for [`State::NotApplicable`].
    #[must_use]
    pub fn who(&self, update: u32, state: State) -> Option<&RoaringBitmap> {
        Some(&self.updates.get(update as usize)?[usize::from(code(state))])
    }

    /// Whether any endpoint has the update in any state.
    #[must_use]
    pub fn has(&self, update: u32) -> bool {
        self.updates.get(update as usize).is_some_and(|states| states.iter().any(|who| !who.is_empty()))
    }

    /// All marks of an update with who has each, in the order of [`Mark::all`].
    pub fn marks_of(&self, update: u32) -> impl Iterator<Item = (Mark, &RoaringBitmap)> {
        let of_update = self.marks.range((update, 0)..=(update, u8::MAX));
        of_update.filter_map(|((_, bit), who)| Some((Mark::all().find(|mark| mark.bit() == *bit)?, who)))
    }

    /// How many of `among` have the update in that state.
    #[must_use]
    pub fn how_many(&self, update: u32, state: State, among: &RoaringBitmap) -> u64 {
        self.who(update, state).map_or(0, |who| who.intersection_len(among))
    }

    /// Endpoints on which the update is needed, or failed.
    #[must_use]
    pub fn lacking(&self, update: u32) -> RoaringBitmap {
        match (self.who(update, State::Needed), self.who(update, State::Failed)) {
            (Some(needed), Some(failed)) => needed | failed,
            _ => RoaringBitmap::new(),
        }
    }
}

fn bits_of(set: u32) -> impl Iterator<Item = u8> {
    (0..32).filter(move |bit| set >> bit & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::{super::record::Progress, *};

    fn record(states: &[(u32, State)]) -> Record {
        let mut record = Record::default();
        for (update, state) in states {
            let entry = Entry {
                update: *update,
                state: *state,
                estimated: false,
                since: 0,
                detected: None,
                authorized: None,
                applied: None,
                detail: None,
                progress: Default::default(),
            };
            record.set(entry).unwrap();
        }
        record
    }

    fn all(index: &Index, update: u32, state: State) -> Vec<u32> {
        index.who(update, state).map(|who| who.iter().collect()).unwrap_or_default()
    }

    #[test]
    fn an_index_that_followed_every_change_equals_one_built_from_the_last_records() {
        let steps: &[(u32, &[(u32, State)])] = &[
            (0, &[(1, State::Needed), (2, State::Installed)]),
            (1, &[(1, State::Needed), (9, State::Unknown)]),
            (0, &[(1, State::Installed), (2, State::Installed), (3, State::Failed)]),
            (1, &[(1, State::RebootPending)]),
            (0, &[(3, State::Needed)]),
        ];
        let (mut followed, mut last) = (Index::default(), vec![Record::default(); 2]);
        for (endpoint, states) in steps {
            let new = record(states);
            followed.replace(*endpoint, &last[*endpoint as usize], &new);
            last[*endpoint as usize] = new;
        }
        let mut built = Index::default();
        for (endpoint, record) in (0..).zip(&last) {
            built.replace(endpoint, &Record::default(), record);
        }
        for update in 0..10 {
            for state in State::ALL {
                assert_eq!(all(&followed, update, state), all(&built, update, state), "{update} {state:?}");
            }
        }
        assert_eq!(all(&followed, 3, State::Needed), [0]);
    }

    #[test]
    fn each_mark_has_a_bit_of_its_own() {
        let mut bits: Vec<u8> = Mark::all().map(Mark::bit).collect();
        let count = bits.len();
        bits.sort_unstable();
        bits.dedup();
        assert_eq!((bits.len(), count), (Waiting::ALL.len() + 4, Waiting::ALL.len() + 4));
        assert!(bits.iter().all(|bit| *bit < 32));
    }

    #[test]
    fn marks_follow_what_an_endpoint_waits_for_and_end_with_it() {
        let waits = |state, waiting| {
            let progress = Progress {
                offered: Some(5),
                verified: Some(9),
                waiting: Some(waiting),
                ..Progress::default()
            };
            let mut record = record(&[(1, state)]);
            record.set(Entry { progress, ..record.entries()[0].clone() }).unwrap();
            record
        };
        let (window, user) = (waits(State::Needed, Waiting::Window), waits(State::Failed, Waiting::User));
        let installed = waits(State::Installed, Waiting::Window);
        let mut index = Index::default();
        let who = |index: &Index, mark| {
            index.marked(1, mark).map(|who| who.iter().collect::<Vec<_>>()).unwrap_or_default()
        };
        index.replace(0, &Record::default(), &window);
        index.replace(7, &Record::default(), &window);
        assert_eq!(who(&index, Mark::Waits(Waiting::Window)), [0, 7]);
        index.replace(7, &window, &user);
        assert_eq!(who(&index, Mark::Waits(Waiting::Window)), [0]);
        assert_eq!(who(&index, Mark::Waits(Waiting::User)), [7]);
        assert_eq!(who(&index, Mark::Offered), [0, 7]);
        assert!(who(&index, Mark::Verified).is_empty(), "nobody has it installed");
        index.replace(0, &window, &installed);
        assert_eq!((who(&index, Mark::Offered), who(&index, Mark::Verified)), (vec![7], vec![0]));
        index.replace(0, &installed, &Record::default());
        index.replace(7, &user, &Record::default());
        assert!(index.marks.is_empty(), "nothing is kept for nobody");
    }

    #[test]
    fn an_update_that_failed_still_counts_as_lacking() {
        let mut index = Index::default();
        index.replace(4, &Record::default(), &record(&[(1, State::Failed)]));
        index.replace(6, &Record::default(), &record(&[(1, State::Needed)]));
        assert_eq!(index.lacking(1).iter().collect::<Vec<_>>(), [4, 6]);
        assert!(index.lacking(77).is_empty());
    }
}
