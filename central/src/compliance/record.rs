//! The packed record: every state of one endpoint in one value.
//!
//! Layout: version (1) · number of details (varint), each length (varint) and UTF-8 · number of
//! entries (varint), each: distance to the update number before (varint, the first from 0) · head
//! (bits 0–2 state code, 3 estimated, 4 detected, 5 authorised, 6 applied, 7 detail) · since (u32
//! seconds, little-endian) · the times that the head names as their distance to `since` (zigzag
//! varint) · detail index (varint). About 8 bytes for a needed update. Updates that are not named
//! are not applicable.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tierway_common::schema::{DETAIL_BYTES_MAX, State};

/// States kept for one endpoint: ten times what a machine with everything installed has today.
pub const STATES_MAX: usize = 20_000;

/// Bytes of all different details of one endpoint, so that a record always fits into the store.
pub const DETAILS_BYTES_MAX: usize = 256 * 1024;

const VERSION: u8 = 1;

/// One update on one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The update's number in central's dictionary.
    pub update: u32,
    /// Where it stands; never [`State::NotApplicable`].
    pub state: State,
    /// Central's own conclusion from the reported facts, until the endpoint reports.
    pub estimated: bool,
    /// Since when, Unix seconds; as the next three.
    pub since: u32,
    /// First found needed.
    pub detected: Option<u32>,
    /// Approved for it, settled when it was applied.
    pub authorized: Option<u32>,
    /// Found installed after having been needed.
    pub applied: Option<u32>,
    /// Reason or result.
    pub detail: Option<Arc<str>>,
}

/// All states of one endpoint, ascending by update number, each number once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    entries: Vec<Entry>,
}

/// Bytes that are no packed record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Written by a newer program.
    #[error("the packed states are of version {found}, this program reads version {VERSION}")]
    Version {
        /// What was found.
        found: u8,
    },
    /// Cut off or altered.
    #[error("the packed states are damaged at byte {at}")]
    Damaged {
        /// Offset.
        at: usize,
    },
}

/// More states than [`STATES_MAX`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("an endpoint may have at most {STATES_MAX} states")]
pub struct TooManyStates;

impl Record {
    /// Ascending by update number.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The state of one update, unless it is not applicable.
    #[must_use]
    pub fn get(&self, update: u32) -> Option<&Entry> {
        self.position(update).ok().map(|at| &self.entries[at])
    }

    fn position(&self, update: u32) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&update, |entry| entry.update)
    }

    /// Sets one state; [`State::NotApplicable`] removes it.
    ///
    /// # Errors
    ///
    /// [`TooManyStates`] when it would be one more than [`STATES_MAX`]; nothing is changed then.
    pub fn set(&mut self, entry: Entry) -> Result<(), TooManyStates> {
        match (self.position(entry.update), entry.state) {
            (Ok(at), State::NotApplicable) => drop(self.entries.remove(at)),
            (Ok(at), _) => self.entries[at] = entry,
            (Err(_), State::NotApplicable) => {}
            (Err(_), _) if self.entries.len() >= STATES_MAX => return Err(TooManyStates),
            (Err(at), _) => self.entries.insert(at, entry),
        }
        Ok(())
    }

    /// Keeps the entries for which `keep` is true.
    pub fn retain(&mut self, keep: impl FnMut(&Entry) -> bool) {
        self.entries.retain(keep);
    }

    /// Leaves out details beyond [`DETAILS_BYTES_MAX`], those of the highest update numbers first.
    pub fn limit_details(&mut self) {
        let (mut seen, mut bytes) = (BTreeSet::new(), 0);
        for entry in &mut self.entries {
            let Some(detail) = &entry.detail else { continue };
            if !seen.contains(detail) && bytes + detail.len() > DETAILS_BYTES_MAX {
                entry.detail = None;
            } else if seen.insert(detail.clone()) {
                bytes += detail.len();
            }
        }
    }

    /// The packed form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut details: BTreeMap<&str, u64> = BTreeMap::new();
        let mut order = Vec::new();
        for detail in self.entries.iter().filter_map(|entry| entry.detail.as_deref()) {
            details.entry(detail).or_insert_with(|| {
                order.push(detail);
                order.len() as u64 - 1
            });
        }
        let mut out = Vec::with_capacity(16 + self.entries.len() * 10);
        out.push(VERSION);
        put_varint(&mut out, order.len() as u64);
        for detail in order {
            put_varint(&mut out, detail.len() as u64);
            out.extend_from_slice(detail.as_bytes());
        }
        put_varint(&mut out, self.entries.len() as u64);
        let mut before = 0;
        for entry in &self.entries {
            put_varint(&mut out, u64::from(entry.update - before));
            before = entry.update;
            let flag = |set: bool, bit: u8| if set { 1 << bit } else { 0 };
            out.push(
                code(entry.state)
                    | flag(entry.estimated, 3)
                    | flag(entry.detected.is_some(), 4)
                    | flag(entry.authorized.is_some(), 5)
                    | flag(entry.applied.is_some(), 6)
                    | flag(entry.detail.is_some(), 7),
            );
            out.extend_from_slice(&entry.since.to_le_bytes());
            for time in [entry.detected, entry.authorized, entry.applied].into_iter().flatten() {
                let distance = i64::from(time) - i64::from(entry.since);
                put_varint(&mut out, ((distance << 1) ^ (distance >> 63)).cast_unsigned());
            }
            if let Some(index) = entry.detail.as_deref().and_then(|detail| details.get(detail)) {
                put_varint(&mut out, *index);
            }
        }
        out
    }

    /// Reads what [`Record::encode`] wrote.
    ///
    /// # Errors
    ///
    /// [`RecordError`] for anything else; never more memory than the bytes justify.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut input = Input { bytes, at: 0 };
        match input.byte()? {
            VERSION => {}
            found => return Err(RecordError::Version { found }),
        }
        let details = (0..input.count(STATES_MAX)?)
            .map(|_| {
                let length = input.count(DETAIL_BYTES_MAX)?;
                let text = std::str::from_utf8(input.take(length)?).map_err(|_| input.damaged())?;
                Ok(Arc::from(text))
            })
            .collect::<Result<Vec<Arc<str>>, RecordError>>()?;
        let count = input.count(STATES_MAX)?;
        let mut entries = Vec::with_capacity(count.min(bytes.len()));
        let mut update = 0u32;
        for index in 0..count {
            let distance = u32::try_from(input.varint()?).map_err(|_| input.damaged())?;
            update = update.checked_add(distance).ok_or_else(|| input.damaged())?;
            let head = input.byte()?;
            let state = *State::ALL.get(usize::from(head & 7)).ok_or_else(|| input.damaged())?;
            if state == State::NotApplicable || (index > 0 && distance == 0) {
                return Err(input.damaged());
            }
            let since = u32::from_le_bytes(input.take(4)?.try_into().map_err(|_| input.damaged())?);
            let mut time = |bit: u8| {
                if head >> bit & 1 == 0 {
                    return Ok(None);
                }
                let raw = input.varint()?;
                let distance = (raw >> 1).cast_signed() ^ -(raw & 1).cast_signed();
                let time = i64::from(since).checked_add(distance).and_then(|time| u32::try_from(time).ok());
                time.map(Some).ok_or_else(|| input.damaged())
            };
            let (detected, authorized, applied) = (time(4)?, time(5)?, time(6)?);
            let detail = if head >> 7 == 1 {
                let index = usize::try_from(input.varint()?).map_err(|_| input.damaged())?;
                Some(Arc::clone(details.get(index).ok_or_else(|| input.damaged())?))
            } else {
                None
            };
            let estimated = head >> 3 & 1 == 1;
            entries.push(Entry { update, state, estimated, since, detected, authorized, applied, detail });
        }
        if input.at != bytes.len() {
            return Err(input.damaged());
        }
        Ok(Self { entries })
    }
}

/// The code of a state: its place in [`State::ALL`].
#[must_use]
pub fn code(state: State) -> u8 {
    match state {
        State::Unknown => 0,
        State::NotApplicable => 1,
        State::Needed => 2,
        State::Installed => 3,
        State::Failed => 4,
        State::RebootPending => 5,
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn damaged(&self) -> RecordError {
        RecordError::Damaged { at: self.at }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], RecordError> {
        let end = self.at.checked_add(length).ok_or_else(|| self.damaged())?;
        let taken = self.bytes.get(self.at..end).ok_or_else(|| self.damaged())?;
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, RecordError> {
        Ok(self.take(1)?[0])
    }

    fn varint(&mut self) -> Result<u64, RecordError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.damaged())
    }

    fn count(&mut self, max: usize) -> Result<usize, RecordError> {
        usize::try_from(self.varint()?).ok().filter(|count| *count <= max).ok_or_else(|| self.damaged())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(update: u32, state: State) -> Entry {
        Entry {
            update,
            state,
            estimated: false,
            since: 1_790_000_000,
            detected: Some(1_790_000_000),
            authorized: None,
            applied: None,
            detail: None,
        }
    }

    fn record() -> Record {
        let mut record = Record::default();
        record.set(entry(7, State::Needed)).unwrap();
        record.set(Entry { estimated: true, detected: None, ..entry(3, State::Unknown) }).unwrap();
        record
            .set(Entry {
                since: 1_790_000_900,
                authorized: Some(1_789_999_000),
                applied: Some(1_790_000_900),
                detail: Some("exit status 0".into()),
                ..entry(70_000, State::Installed)
            })
            .unwrap();
        record.set(Entry { detail: Some("exit status 0".into()), ..entry(9, State::Failed) }).unwrap();
        record
    }

    #[test]
    fn a_record_is_read_back_as_it_was_in_the_order_of_update_numbers() {
        let read = Record::decode(&record().encode()).unwrap();
        assert_eq!(read, record());
        let numbers: Vec<u32> = read.entries().iter().map(|entry| entry.update).collect();
        assert_eq!(numbers, [3, 7, 9, 70_000]);
        assert_eq!(Record::decode(&Record::default().encode()).unwrap(), Record::default());
    }

    #[test]
    fn an_update_that_becomes_not_applicable_is_no_longer_in_the_record() {
        let mut record = record();
        record.set(entry(7, State::NotApplicable)).unwrap();
        assert!(record.get(7).is_none());
        assert_eq!(record.entries().len(), 3);
    }

    #[test]
    fn three_hundred_needed_updates_take_at_most_ten_bytes_each() {
        let mut record = Record::default();
        for number in 0..300 {
            record.set(entry(number * 7, State::Needed)).unwrap();
        }
        let bytes = record.encode().len();
        assert!(bytes <= 3_000, "{bytes}");
    }

    #[test]
    fn every_cut_and_many_alterations_are_refused_or_read_as_a_record_without_panic() {
        let bytes = record().encode();
        for length in 0..bytes.len() {
            assert!(Record::decode(&bytes[..length]).is_err(), "{length}");
        }
        for at in 0..bytes.len() {
            for value in 0..=255 {
                let mut altered = bytes.clone();
                altered[at] = value;
                if let Ok(read) = Record::decode(&altered) {
                    assert!(read.entries().windows(2).all(|pair| pair[0].update < pair[1].update));
                }
            }
        }
    }

    #[test]
    fn one_state_more_than_allowed_is_refused_and_the_others_stay() {
        let mut record = Record::default();
        for number in 0..u32::try_from(STATES_MAX).unwrap() {
            record.set(entry(number, State::Installed)).unwrap();
        }
        assert_eq!(record.set(entry(u32::MAX, State::Needed)), Err(TooManyStates));
        assert_eq!(record.set(entry(5, State::Needed)), Ok(()));
        assert_eq!(Record::decode(&record.encode()).unwrap(), record);
    }
}
