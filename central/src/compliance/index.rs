//! Who is where: a bitmap of endpoint numbers for each update and state, kept in memory.

use roaring::RoaringBitmap;
use tierway_common::schema::State;

use super::record::{Record, code};

/// Bitmaps of endpoint numbers per update and state.
#[derive(Debug, Default)]
pub struct Index {
    /// By update number, then by state code.
    updates: Vec<[RoaringBitmap; 6]>,
}

impl Index {
    /// Moves one endpoint from what `old` says to what `new` says; cost in proportion to both.
    pub fn replace(&mut self, endpoint: u32, old: &Record, new: &Record) {
        for entry in old.entries() {
            if new.get(entry.update).is_none_or(|now| now.state != entry.state) {
                self.bits(entry.update)[usize::from(code(entry.state))].remove(endpoint);
            }
        }
        for entry in new.entries() {
            if old.get(entry.update).is_none_or(|before| before.state != entry.state) {
                self.bits(entry.update)[usize::from(code(entry.state))].insert(endpoint);
            }
        }
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

#[cfg(test)]
mod tests {
    use super::{super::record::Entry, *};

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
    fn an_update_that_failed_still_counts_as_lacking() {
        let mut index = Index::default();
        index.replace(4, &Record::default(), &record(&[(1, State::Failed)]));
        index.replace(6, &Record::default(), &record(&[(1, State::Needed)]));
        assert_eq!(index.lacking(1).iter().collect::<Vec<_>>(), [4, 6]);
        assert!(index.lacking(77).is_empty());
    }
}
