//! Reports on their way up: durable before they are acknowledged below, deleted when acknowledged above.
//!
//! Two lanes. *States* are transitions: every one goes up. Of the *inventories* of an endpoint the ones
//! before a full one are superseded by it and dropped. What a relay below carries lies in two lanes of its own,
//! after those: here nobody knows whether it is genuine, so it takes the place of nothing. Lanes and endpoints take
//! turns, so that none waits for ever behind one that always has more. The outbox has a limit
//! in bytes, and a share of it for each endpoint and for all relays together; when one is reached senders are told
//! to keep their reports and come later, nothing is dropped for it.
//!
//! No lock is held while the store works, so that those who wait for the disk share its syncs. A batch says what
//! it was decided by, and is decided anew when that has changed.
//!
//! Key: `o`, lane, endpoint id, `0x00`, sequence (u64), part (u16). Value: received (Unix milliseconds,
//! i64), number of parts (u16), bytes of the envelope. All numbers big-endian.

mod count;
mod door;
mod turns;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use jiff::Timestamp;
use tierway_common::{
    id::EndpointId,
    store::{Batch, Row, Store, StoreError},
    trust::envelope::{Envelope, Stream},
};

pub use self::{count::Fill, door::HandInError};
use self::{
    count::{Count, Counted, Sender},
    door::Door,
    turns::Turns,
};

/// Bytes of an envelope in one row; the store takes 64 KiB.
const PART_BYTES: usize = 60 * 1024;
/// Received and number of parts.
const HEAD_BYTES: usize = 10;
/// Rows read at once.
const SCAN_ROWS: usize = 512;
/// Rows that one call drops because others take their place, or else its batch may be more than the store takes.
/// What is left goes up, and is old there.
const DROPPED_ROWS_MAX: usize = 4_096;
/// How often a batch is decided anew because others changed what it was decided by; each time one of them was done.
const TRIES_MAX: u32 = 64;
/// Sequence and part, with which a key ends.
const NUMBERS_BYTES: usize = 10;
const PREFIX: &[u8] = b"o";

/// Who hands reports in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// The endpoint that they name.
    Endpoint,
    /// A relay below.
    Relay,
}

/// What became of a report that was handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is durable here, or had been before.
    Durable,
    /// It is superseded by an inventory that is here already, or came with it.
    Superseded,
    /// The outbox, or the sender's share of it, is full.
    Full,
}

/// A report as it lies in the outbox.
#[derive(Clone, Debug)]
pub struct Waiting {
    keys: Vec<Vec<u8>>,
    counted: Counted,
    /// The encoded envelope.
    pub envelope: Bytes,
}

/// The queue upward; cheap to clone.
#[derive(Clone, Debug)]
pub struct Outbox(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    count: Mutex<Count>,
    door: Door,
    turns: Mutex<Turns>,
}

/// What one call of [`Outbox::take`] is about to do; what is new in it is counted already.
#[derive(Default)]
struct Plan<'a> {
    outcomes: Vec<Taken>,
    /// By the key that all its rows begin with: its place in the call, itself, and how it counts.
    new: BTreeMap<Vec<u8>, (usize, &'a Envelope, Counted)>,
    /// By their first key.
    dropped: BTreeMap<Vec<u8>, Waiting>,
    dropped_rows: usize,
}

fn lane(stream: Stream, carrier: Carrier) -> u8 {
    match (stream, carrier) {
        (Stream::States, Carrier::Endpoint) => b's',
        (Stream::Inventory, Carrier::Endpoint) => b't',
        (Stream::States, Carrier::Relay) => b'u',
        (Stream::Inventory, Carrier::Relay) => b'v',
    }
}

fn endpoint_prefix(lane: u8, endpoint: &EndpointId) -> Vec<u8> {
    [PREFIX, &[lane], endpoint.as_str().as_bytes(), &[0]].concat()
}

fn report_prefix(lane: u8, endpoint: &EndpointId, sequence: u64) -> Vec<u8> {
    [&endpoint_prefix(lane, endpoint)[..], &sequence.to_be_bytes()].concat()
}

/// Behind all rows of the endpoint in its lane that the row of this key belongs to.
fn endpoint_end(key: &[u8]) -> Vec<u8> {
    let endpoint = key.get(..key.len().saturating_sub(NUMBERS_BYTES)).unwrap_or_default();
    [endpoint, &[0xff; NUMBERS_BYTES + 1]].concat()
}

/// Who sent the report in a row of this key.
fn sender_of(key: &[u8]) -> Sender {
    let endpoint = key.get(2..key.len().saturating_sub(1 + NUMBERS_BYTES)).unwrap_or_default();
    match key.get(1) {
        Some(b's' | b't') => Sender::Endpoint(String::from_utf8_lossy(endpoint).into_owned()),
        _ => Sender::Relays,
    }
}

fn part_of(key: &[u8]) -> u16 {
    key.last_chunk::<2>().map_or(0, |part| u16::from_be_bytes(*part))
}

fn data(row: &Row) -> &[u8] {
    row.value.get(HEAD_BYTES..).unwrap_or_default()
}

fn received_of(row: &Row) -> i64 {
    row.value.first_chunk::<8>().map_or(0, |received| i64::from_be_bytes(*received))
}

impl Waiting {
    fn first_key(&self) -> &[u8] {
        self.keys.first().map(Vec::as_slice).unwrap_or_default()
    }

    /// Deletes it, if it is still there.
    fn delete(&self, batch: &mut Batch) {
        batch.expect_present(self.first_key().to_vec());
        for key in &self.keys {
            batch.delete(key.clone());
        }
    }
}

impl Plan<'_> {
    fn batch(&self, now: Timestamp) -> Batch {
        let mut batch = Batch::new();
        for (prefix, (_, envelope, _)) in &self.new {
            let parts: Vec<_> = envelope.bytes().chunks(PART_BYTES).collect();
            let count = u16::try_from(parts.len()).unwrap_or(u16::MAX);
            for (part, data) in (0u16..).zip(parts) {
                let key = [&prefix[..], &part.to_be_bytes()].concat();
                let head = [&now.as_millisecond().to_be_bytes()[..], &count.to_be_bytes()].concat();
                if part == 0 {
                    batch.expect_absent(key.clone());
                }
                batch.put(key, [&head, data].concat());
            }
        }
        self.dropped.values().for_each(|waiting| waiting.delete(&mut batch));
        batch
    }
}

impl Outbox {
    /// Opens the outbox in `store`; `bytes_max` bounds the envelopes in it.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub fn open(store: Arc<dyn Store>, bytes_max: u64) -> Result<Self, StoreError> {
        let count = Mutex::new(Count::new(bytes_max));
        let outbox = Self(Arc::new(Inner { store, count, door: Door::default(), turns: Mutex::default() }));
        outbox.read(PREFIX, None, &mut |waiting| {
            outbox.count().add(&waiting.counted);
            true
        })?;
        Ok(outbox)
    }

    /// Takes envelopes, which were checked to come from whom they name or from a relay below; returns what
    /// became of each, in their order, when all that was taken is durable.
    ///
    /// # Errors
    ///
    /// When the store fails; then nothing was taken.
    pub fn take(
        &self,
        envelopes: &[Envelope],
        carrier: Carrier,
        now: Timestamp,
    ) -> Result<Vec<Taken>, StoreError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let mut plan = Plan::default();
            let planned = self.plan(envelopes, carrier, now, &mut plan);
            let batch = plan.batch(now);
            let done = match planned {
                Ok(()) if batch.is_empty() => return Ok(plan.outcomes),
                Ok(()) => self.0.store.commit(&batch),
                Err(error) => Err(error),
            };
            let mut count = self.count();
            match done {
                Ok(()) => {
                    plan.dropped.values().for_each(|waiting| count.remove(&waiting.counted));
                    return Ok(plan.outcomes);
                }
                Err(error) => {
                    plan.new.values().for_each(|(_, _, counted)| count.remove(counted));
                    if tries == TRIES_MAX || !matches!(error, StoreError::Conflict { .. }) {
                        return Err(error);
                    }
                }
            }
        }
    }

    fn plan<'a>(
        &self,
        envelopes: &'a [Envelope],
        carrier: Carrier,
        now: Timestamp,
        plan: &mut Plan<'a>,
    ) -> Result<(), StoreError> {
        for (index, envelope) in envelopes.iter().enumerate() {
            let header = envelope.header();
            let lane = lane(header.stream, carrier);
            let prefix = report_prefix(lane, &header.endpoint, header.sequence);
            if plan.new.contains_key(&prefix) || !self.0.store.scan(&prefix, None, 1)?.is_empty() {
                plan.outcomes.push(Taken::Durable);
                continue;
            }
            let of_endpoint = endpoint_prefix(lane, &header.endpoint);
            let replaces = header.stream == Stream::Inventory && carrier == Carrier::Endpoint;
            if replaces && self.is_superseded(plan, &of_endpoint, &prefix)? {
                plan.outcomes.push(Taken::Superseded);
                continue;
            }
            // Of the same call, and of calls before.
            let (mut earlier, mut dropped) = (Vec::new(), Vec::new());
            if replaces && header.replaces_earlier {
                earlier
                    .extend(plan.new.range(of_endpoint.clone()..prefix.clone()).map(|(key, _)| key.clone()));
                dropped = self.earlier(plan, &of_endpoint, &prefix)?;
            }
            let sender = match carrier {
                Carrier::Endpoint => Sender::Endpoint(header.endpoint.to_string()),
                Carrier::Relay => Sender::Relays,
            };
            let counted = Counted {
                sender,
                bytes: envelope.bytes().len() as u64,
                minute: count::minute(now.as_millisecond()),
            };
            let freed = earlier.iter().map(|key| plan.new[key].2.bytes);
            let freed = freed.chain(dropped.iter().map(|waiting| waiting.counted.bytes)).sum();
            if !self.count().reserve(&counted, freed) {
                plan.outcomes.push(Taken::Full);
                continue;
            }
            for (index, _, counted) in earlier.iter().filter_map(|key| plan.new.remove(key)) {
                plan.outcomes[index] = Taken::Superseded;
                self.count().remove(&counted);
            }
            for waiting in dropped {
                plan.dropped_rows += waiting.keys.len();
                plan.dropped.insert(waiting.first_key().to_vec(), waiting);
            }
            plan.new.insert(prefix, (index, envelope, counted));
            plan.outcomes.push(Taken::Durable);
        }
        Ok(())
    }

    /// Whether a later full inventory of the same endpoint waits already or came in the same call.
    fn is_superseded(&self, plan: &Plan<'_>, of_endpoint: &[u8], own: &[u8]) -> Result<bool, StoreError> {
        let is_whole = |envelope: &Envelope| envelope.header().replaces_earlier;
        let mut with_it = plan.new.range(own.to_vec()..).take_while(|(key, _)| key.starts_with(of_endpoint));
        if with_it.any(|(_, (_, envelope, _))| is_whole(envelope)) {
            return Ok(true);
        }
        let after = [own, &[0xff, 0xff]].concat();
        let later = self.0.store.scan(of_endpoint, Some(&after), SCAN_ROWS)?;
        let mut first_rows = later.iter().filter(|row| part_of(&row.key) == 0);
        Ok(first_rows.any(|row| Envelope::parse(data(row)).is_ok_and(|later| is_whole(&later))))
    }

    /// The reports of an endpoint before `own` that are not dropped yet, as many as one call may drop. Those that this
    /// call drops already come first, and are not read again.
    fn earlier(&self, plan: &Plan<'_>, of_endpoint: &[u8], own: &[u8]) -> Result<Vec<Waiting>, StoreError> {
        let mut found = Vec::new();
        let mut rows = plan.dropped_rows;
        if rows >= DROPPED_ROWS_MAX {
            return Ok(found);
        }
        let of_call = plan.dropped.range(of_endpoint.to_vec()..own.to_vec()).next_back();
        let after = of_call.and_then(|(_, last)| last.keys.last().cloned());
        self.read(of_endpoint, after, &mut |mut waiting| {
            rows += waiting.keys.len();
            if waiting.first_key() >= own || rows > DROPPED_ROWS_MAX {
                return false;
            }
            waiting.envelope = Bytes::new();
            found.push(waiting);
            true
        })?;
        Ok(found)
    }

    /// Reads what waits below `prefix`, from behind the key `after` on, in the order of the keys, until `visit` wants
    /// no more.
    fn read(
        &self,
        prefix: &[u8],
        mut after: Option<Vec<u8>>,
        visit: &mut dyn FnMut(Waiting) -> bool,
    ) -> Result<(), StoreError> {
        let mut last: Option<Waiting> = None;
        loop {
            let rows = self.0.store.scan(prefix, after.as_deref(), SCAN_ROWS)?;
            for row in &rows {
                if let Some(begun) = last.as_mut().filter(|_| part_of(&row.key) > 0) {
                    begun.keys.push(row.key.clone());
                    begun.envelope = [&begun.envelope[..], data(row)].concat().into();
                    begun.counted.bytes = begun.envelope.len() as u64;
                    continue;
                }
                let envelope = Bytes::copy_from_slice(data(row));
                let (sender, bytes) = (sender_of(&row.key), envelope.len() as u64);
                let counted = Counted { sender, bytes, minute: count::minute(received_of(row)) };
                let begun = Waiting { keys: vec![row.key.clone()], counted, envelope };
                if last.replace(begun).is_some_and(|whole| !visit(whole)) {
                    return Ok(());
                }
            }
            match rows.last() {
                Some(last) if rows.len() == SCAN_ROWS => after = Some(last.key.clone()),
                _ => break,
            }
        }
        last.into_iter().for_each(|whole| {
            visit(whole);
        });
        Ok(())
    }

    /// Deletes what the tier above has.
    ///
    /// # Errors
    ///
    /// When the store fails; they are sent again then.
    pub fn settle(&self, done: &[Waiting]) -> Result<(), StoreError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let mut batch = Batch::new();
            let mut settled = Vec::new();
            for waiting in done {
                // One that was replaced while it went up is gone, and was counted then.
                if self.0.store.get(waiting.first_key())?.is_some() {
                    waiting.delete(&mut batch);
                    settled.push(&waiting.counted);
                }
            }
            if batch.is_empty() {
                return Ok(());
            }
            match self.0.store.commit(&batch) {
                Err(StoreError::Conflict { .. }) if tries < TRIES_MAX => {}
                done => {
                    done?;
                    let mut count = self.count();
                    settled.into_iter().for_each(|counted| count.remove(counted));
                    return Ok(());
                }
            }
        }
    }

    /// Held for a moment only, never while the store works.
    fn count(&self) -> MutexGuard<'_, Count> {
        self.0.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held for a moment only, never while the store works.
    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.0.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How full it is.
    #[must_use]
    pub fn fill(&self) -> Fill {
        self.count().fill()
    }
}

#[cfg(test)]
pub(crate) mod tests;
