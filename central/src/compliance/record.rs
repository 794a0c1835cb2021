//! The packed record: every state of one endpoint in one value.
//!
//! Layout: version (2) · number of details (varint), each length (varint) and UTF-8 · number of
//! entries (varint), each: twice the distance to the update number before (the first from 0), plus 1
//! when there is progress (varint) · head (bits 0–2 state code, 3 estimated, 4 detected, 5 authorized,
//! 6 applied, 7 detail) · since (u32 seconds, little-endian) · the times that the head names as their
//! distance to `since` (zigzag varint) · detail index (varint) · with progress: a second head (bits 0
//! offered, 1 downloaded, 2 verified, 3 until, 4 took, 5 waiting), the times it names as before, how
//! many seconds it took (varint), the code of what it waits for (its place in [`Waiting::ALL`]).
//!
//! About 8 bytes for a needed update, 15 for one that waits for a window. Updates that are not named
//! are not applicable. Version 1 had no progress, and the distance was not doubled; it is still read.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tierway_common::schema::{DETAIL_BYTES_MAX, State, Waiting};

/// States kept for one endpoint: ten times what a machine with everything installed has today.
pub const STATES_MAX: usize = 20_000;

/// Bytes of all different details of one endpoint, so that a record always fits into the store.
pub const DETAILS_BYTES_MAX: usize = 256 * 1024;

const VERSION: u8 = 2;
/// Without progress; still read.
const VERSION_1: u8 = 1;

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
    /// How far it has come between needed and installed, as the endpoint says.
    pub progress: Progress,
}

/// How far an update has come on an endpoint; times in Unix seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// First on offer there.
    pub offered: Option<u32>,
    /// All its payloads there.
    pub downloaded: Option<u32>,
    /// Found installed by a scan after the installation and its reboot.
    pub verified: Option<u32>,
    /// Until when it waits.
    pub until: Option<u32>,
    /// How long the last attempt took, in seconds.
    pub took_seconds: Option<u32>,
    /// What it waits for.
    pub waiting: Option<Waiting>,
}

impl Progress {
    /// What stays when it does not wait for anything any more.
    #[must_use]
    pub fn settled(self) -> Self {
        Self { waiting: None, until: None, ..self }
    }

    fn times(&self) -> [Option<u32>; 4] {
        [self.offered, self.downloaded, self.verified, self.until]
    }
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
            let progress = entry.progress;
            let follows = u64::from(progress != Progress::default());
            put_varint(&mut out, u64::from(entry.update - before) << 1 | follows);
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
            put_times(&mut out, entry.since, [entry.detected, entry.authorized, entry.applied]);
            if let Some(index) = entry.detail.as_deref().and_then(|detail| details.get(detail)) {
                put_varint(&mut out, *index);
            }
            if follows == 0 {
                continue;
            }
            let Progress { offered, downloaded, verified, until, took_seconds, waiting } = progress;
            out.push(
                flag(offered.is_some(), 0)
                    | flag(downloaded.is_some(), 1)
                    | flag(verified.is_some(), 2)
                    | flag(until.is_some(), 3)
                    | flag(took_seconds.is_some(), 4)
                    | flag(waiting.is_some(), 5),
            );
            put_times(&mut out, entry.since, progress.times());
            if let Some(seconds) = took_seconds {
                put_varint(&mut out, seconds.into());
            }
            if let Some(waiting) = waiting {
                out.push(waiting_code(waiting));
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
        let mut packed = Packed::read(bytes)?;
        let mut entries = Vec::with_capacity(packed.left.min(bytes.len()));
        while let Some(begun) = packed.begin()? {
            entries.push(packed.entry(begun)?);
        }
        if packed.input.at != bytes.len() {
            return Err(packed.input.damaged());
        }
        Ok(Self { entries })
    }

    /// The state of one update in what [`Record::encode`] wrote, without reading what comes after it: for lists that
    /// want one state of each of many endpoints.
    ///
    /// # Errors
    ///
    /// [`RecordError`] when what comes before it is damaged.
    pub fn find(bytes: &[u8], update: u32) -> Result<Option<Entry>, RecordError> {
        let mut packed = Packed::read(bytes)?;
        while let Some(begun) = packed.begin()? {
            if begun.update >= update {
                return if begun.update == update { packed.entry(begun).map(Some) } else { Ok(None) };
            }
            packed.pass(begun)?;
        }
        Ok(None)
    }

    /// Gives `each` every update with its state in what [`Record::encode`] wrote, in ascending order: for lists that
    /// count the states of many endpoints.
    ///
    /// # Errors
    ///
    /// [`RecordError`] when it is damaged; `each` has got what comes before that.
    pub fn each_state(bytes: &[u8], mut each: impl FnMut(u32, State)) -> Result<(), RecordError> {
        let mut packed = Packed::read(bytes)?;
        while let Some(begun) = packed.begin()? {
            each(begun.update, begun.state);
            packed.pass(begun)?;
        }
        if packed.input.at != bytes.len() {
            return Err(packed.input.damaged());
        }
        Ok(())
    }
}

/// A packed record that is read entry by entry.
struct Packed<'a> {
    input: Input<'a>,
    version: u8,
    details: Vec<Arc<str>>,
    /// Entries that were not read yet.
    left: usize,
    /// Of the last that was.
    update: Option<u32>,
}

impl<'a> Packed<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let mut input = Input { bytes, at: 0 };
        let version = match input.byte()? {
            version @ (VERSION_1 | VERSION) => version,
            found => return Err(RecordError::Version { found }),
        };
        let details = (0..input.count(STATES_MAX)?)
            .map(|_| {
                let length = input.count(DETAIL_BYTES_MAX)?;
                let text = std::str::from_utf8(input.take(length)?).map_err(|_| input.damaged())?;
                Ok(Arc::from(text))
            })
            .collect::<Result<Vec<Arc<str>>, RecordError>>()?;
        let left = input.count(STATES_MAX)?;
        Ok(Self { input, version, details, left, update: None })
    }

    /// The next entry as far as it is of one length: what follows must be read by [`Packed::entry`] or
    /// [`Packed::pass`].
    #[inline(always)]
    fn begin(&mut self) -> Result<Option<Begun>, RecordError> {
        let Self { input, version, details: _, left, update: before } = self;
        if *left == 0 {
            return Ok(None);
        }
        *left -= 1;
        let distance = input.varint()?;
        let (distance, progress_follows) = match *version {
            VERSION_1 => (distance, false),
            _ => (distance >> 1, distance & 1 == 1),
        };
        let distance = u32::try_from(distance).map_err(|_| input.damaged())?;
        let update = before.unwrap_or(0).checked_add(distance).ok_or_else(|| input.damaged())?;
        let head = input.byte()?;
        let state = *State::ALL.get(usize::from(head & 7)).ok_or_else(|| input.damaged())?;
        if state == State::NotApplicable || (before.is_some() && distance == 0) {
            return Err(input.damaged());
        }
        *before = Some(update);
        Ok(Some(Begun { update, state, head, progress_follows }))
    }

    /// Inlined, or each of 300 entries is moved once more.
    #[inline(always)]
    fn entry(&mut self, begun: Begun) -> Result<Entry, RecordError> {
        let Begun { update, state, head, progress_follows } = begun;
        let Self { input, details, .. } = self;
        let since = u32::from_le_bytes(input.take(4)?.try_into().map_err(|_| input.damaged())?);
        let [detected, authorized, applied] = input.times(head >> 4, since)?;
        let detail = if head >> 7 == 1 {
            let index = usize::try_from(input.varint()?).map_err(|_| input.damaged())?;
            Some(Arc::clone(details.get(index).ok_or_else(|| input.damaged())?))
        } else {
            None
        };
        let estimated = head >> 3 & 1 == 1;
        let progress = if progress_follows { input.progress(since)? } else { Progress::default() };
        Ok(Entry { update, state, estimated, since, detected, authorized, applied, detail, progress })
    }

    /// Goes past what follows, without looking whether it is right.
    #[inline(always)]
    fn pass(&mut self, begun: Begun) -> Result<(), RecordError> {
        let Begun { head, progress_follows, .. } = begun;
        self.input.take(4)?;
        // Detected, authorized, applied, and the index of the detail.
        self.input.pass_varints((head >> 4).count_ones())?;
        if progress_follows {
            let head = self.input.byte()?;
            // Offered, downloaded, verified, until, and how long it took.
            self.input.pass_varints((head & 0x1f).count_ones())?;
            if head >> 5 & 1 == 1 {
                self.input.byte()?;
            }
        }
        Ok(())
    }
}

/// The beginning of an entry.
#[derive(Clone, Copy)]
struct Begun {
    update: u32,
    state: State,
    head: u8,
    progress_follows: bool,
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

/// The code of what an update waits for: its place in [`Waiting::ALL`].
#[must_use]
pub fn waiting_code(waiting: Waiting) -> u8 {
    Waiting::ALL.iter().position(|one| *one == waiting).and_then(|at| u8::try_from(at).ok()).unwrap_or(0)
}

fn put_times<const N: usize>(out: &mut Vec<u8>, since: u32, times: [Option<u32>; N]) {
    for time in times.into_iter().flatten() {
        let distance = i64::from(time) - i64::from(since);
        put_varint(out, ((distance << 1) ^ (distance >> 63)).cast_unsigned());
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

    fn pass_varints(&mut self, count: u32) -> Result<(), RecordError> {
        for _ in 0..count {
            while self.byte()? >= 0x80 {}
        }
        Ok(())
    }

    /// The times whose bits are set in `head`, from bit 0 on, which are written as their distance to `since`.
    fn times<const N: usize>(&mut self, head: u8, since: u32) -> Result<[Option<u32>; N], RecordError> {
        let mut times = [None; N];
        for (bit, slot) in times.iter_mut().enumerate() {
            if head >> bit & 1 == 0 {
                continue;
            }
            let raw = self.varint()?;
            let distance = (raw >> 1).cast_signed() ^ -(raw & 1).cast_signed();
            let time = i64::from(since).checked_add(distance).and_then(|time| u32::try_from(time).ok());
            *slot = Some(time.ok_or_else(|| self.damaged())?);
        }
        Ok(times)
    }

    fn progress(&mut self, since: u32) -> Result<Progress, RecordError> {
        let head = self.byte()?;
        if head == 0 || head >> 6 != 0 {
            return Err(self.damaged());
        }
        let [offered, downloaded, verified, until] = self.times(head, since)?;
        let took_seconds = match head >> 4 & 1 {
            0 => None,
            _ => Some(u32::try_from(self.varint()?).map_err(|_| self.damaged())?),
        };
        let waiting = match head >> 5 & 1 {
            0 => None,
            _ => {
                let code = usize::from(self.byte()?);
                Some(*Waiting::ALL.get(code).ok_or_else(|| self.damaged())?)
            }
        };
        Ok(Progress { offered, downloaded, verified, until, took_seconds, waiting })
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
            progress: Progress::default(),
        }
    }

    const WAITS: Progress = Progress {
        offered: Some(1_790_000_300),
        downloaded: Some(1_790_000_360),
        verified: None,
        until: Some(1_790_020_000),
        took_seconds: None,
        waiting: Some(Waiting::Window),
    };

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

    /// The same with every kind of progress.
    fn record_with_progress() -> Record {
        let mut record = record();
        record.set(Entry { progress: WAITS, ..entry(7, State::Needed) }).unwrap();
        let progress = Progress {
            offered: Some(1),
            verified: Some(u32::MAX),
            took_seconds: Some(4_000),
            ..Progress::default()
        };
        record.set(Entry { progress, ..entry(8, State::Installed) }).unwrap();
        for (number, waiting) in (100..).zip(Waiting::ALL) {
            let progress = Progress { waiting: Some(waiting), ..Progress::default() };
            record.set(Entry { progress, ..entry(number, State::Needed) }).unwrap();
        }
        record
    }

    /// [`record`] as the version before wrote it.
    const KEPT_V1: &str = "01010d65786974207374617475732030040308803bb16a0412803bb16a000294803bb16a0000e7a204f3043fb16a870ed71d0000";

    #[test]
    fn a_record_of_version_1_is_still_read_and_written_anew_as_version_2() {
        let bytes = hex::decode(KEPT_V1).unwrap();
        assert_eq!(bytes[0], 1);
        let read = Record::decode(&bytes).unwrap();
        assert_eq!(read, record());
        let anew = read.encode();
        assert_eq!((anew[0], anew.len() - bytes.len()), (2, 0));
        for length in 0..bytes.len() {
            assert!(Record::decode(&bytes[..length]).is_err(), "{length}");
        }
        assert!(matches!(Record::decode(&[3]), Err(RecordError::Version { found: 3 })));
    }

    #[test]
    fn progress_is_read_back_as_it_was() {
        let read = Record::decode(&record_with_progress().encode()).unwrap();
        assert_eq!(read, record_with_progress());
        assert_eq!(read.get(7).unwrap().progress, WAITS);
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
        for number in 0..300 {
            record.set(Entry { progress: WAITS, ..entry(number * 7, State::Needed) }).unwrap();
        }
        let bytes = record.encode().len();
        assert!(bytes <= 300 * 17, "with what each waits for {bytes}");
    }

    #[test]
    fn what_is_read_of_a_record_in_part_is_what_reading_all_of_it_gives() {
        let first = hex::decode(KEPT_V1).unwrap();
        for bytes in [first, record().encode(), record_with_progress().encode(), Record::default().encode()] {
            let whole = Record::decode(&bytes).unwrap();
            let mut states = Vec::new();
            Record::each_state(&bytes, |update, state| states.push((update, state))).unwrap();
            let expected: Vec<_> = whole.entries().iter().map(|entry| (entry.update, entry.state)).collect();
            assert_eq!(states, expected);
            for update in (0..200).chain([69_999, 70_000, 70_001, u32::MAX]) {
                assert_eq!(Record::find(&bytes, update).unwrap().as_ref(), whole.get(update), "{update}");
            }
            for length in 0..bytes.len() {
                assert!(Record::each_state(&bytes[..length], |_, _| {}).is_err(), "{length}");
            }
        }
    }

    #[test]
    fn every_cut_and_many_alterations_are_refused_or_read_as_a_record_without_panic() {
        let bytes = record_with_progress().encode();
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
