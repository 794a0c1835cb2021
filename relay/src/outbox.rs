//! Reports on their way up: durable before they are acknowledged below, deleted when acknowledged above.
//!
//! Two lanes. *States* are transitions: every one goes up. Of the *inventories* of an endpoint the ones
//! before a full one are superseded by it and dropped. The outbox has a limit in bytes; when it is full
//! senders are told to keep their reports and come later, nothing is dropped for it.
//!
//! Key: `o`, lane, endpoint id, `0x00`, sequence (u64), part (u16). Value: received (Unix milliseconds,
//! i64), number of parts (u16), bytes of the envelope. All numbers big-endian.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use jiff::Timestamp;
use tierway_common::{
    id::EndpointId,
    store::{Batch, Row, Store, StoreError},
    trust::envelope::{Envelope, Header, Stream},
};

/// Bytes of an envelope in one row; the store takes 64 KiB.
const PART_BYTES: usize = 60 * 1024;
/// Received and number of parts.
const HEAD_BYTES: usize = 10;
/// Rows read at once.
const SCAN_ROWS: usize = 512;
const PREFIX: &[u8] = b"o";

/// What became of a report that was handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is durable here, or had been before.
    Durable,
    /// It is superseded by an inventory that is here already.
    Superseded,
    /// The outbox is full.
    Full,
}

/// How full the outbox is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Envelopes.
    pub reports: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the oldest came.
    pub oldest: Option<Timestamp>,
}

/// A report as it lies in the outbox.
#[derive(Clone, Debug)]
pub struct Waiting {
    keys: Vec<Vec<u8>>,
    /// The encoded envelope.
    pub envelope: Bytes,
}

/// The queue upward; cheap to clone.
#[derive(Clone, Debug)]
pub struct Outbox(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    /// See [`Outbox::counted`].
    counted: Mutex<()>,
    bytes_max: u64,
    reports: AtomicU64,
    bytes: AtomicU64,
    /// Unix milliseconds; `i64::MAX` for none.
    oldest: AtomicI64,
}

fn lane(stream: Stream) -> u8 {
    match stream {
        Stream::States => b's',
        Stream::Inventory => b't',
    }
}

fn endpoint_prefix(stream: Stream, endpoint: &EndpointId) -> Vec<u8> {
    [PREFIX, &[lane(stream)], endpoint.as_str().as_bytes(), &[0]].concat()
}

fn report_prefix(stream: Stream, endpoint: &EndpointId, sequence: u64) -> Vec<u8> {
    [&endpoint_prefix(stream, endpoint)[..], &sequence.to_be_bytes()].concat()
}

fn sequence_of(key: &[u8]) -> Option<u64> {
    let tail = key.len().checked_sub(10)?;
    Some(u64::from_be_bytes(key[tail..tail + 8].try_into().ok()?))
}

fn part_of(key: &[u8]) -> u16 {
    key.last_chunk::<2>().map_or(0, |part| u16::from_be_bytes(*part))
}

fn data_bytes(row: &Row) -> u64 {
    row.value.len().saturating_sub(HEAD_BYTES) as u64
}

fn received_of(row: &Row) -> i64 {
    row.value.first_chunk::<8>().map_or(0, |received| i64::from_be_bytes(*received))
}

impl Outbox {
    /// Opens the outbox in `store`; `bytes_max` bounds the envelopes in it.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub fn open(store: Arc<dyn Store>, bytes_max: u64) -> Result<Self, StoreError> {
        let outbox = Self(Arc::new(Inner {
            store,
            counted: Mutex::default(),
            bytes_max,
            reports: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            oldest: AtomicI64::new(i64::MAX),
        }));
        outbox.recount()?;
        Ok(outbox)
    }

    /// Takes envelopes, which were checked to come from whom they name; returns what became of each, in
    /// their order, when all that was taken is durable.
    ///
    /// # Errors
    ///
    /// When the store fails; then nothing was taken.
    pub fn take(&self, envelopes: &[Envelope], now: Timestamp) -> Result<Vec<Taken>, StoreError> {
        let _counted = self.counted();
        let mut batch = Batch::new();
        let mut outcomes = Vec::with_capacity(envelopes.len());
        let mut in_batch = BTreeSet::new();
        let (mut added, mut added_bytes) = (0, 0);
        // Reports and bytes.
        let mut dropped = (0, 0);
        for envelope in envelopes {
            let (header, bytes) = (envelope.header(), envelope.bytes());
            let prefix = report_prefix(header.stream, &header.endpoint, header.sequence);
            if in_batch.contains(&prefix) || !self.0.store.scan(&prefix, None, 1)?.is_empty() {
                outcomes.push(Taken::Durable);
                continue;
            }
            if header.stream == Stream::Inventory && self.is_superseded(header)? {
                outcomes.push(Taken::Superseded);
                continue;
            }
            if self.0.bytes.load(Ordering::SeqCst) + added_bytes + bytes.len() as u64 > self.0.bytes_max {
                outcomes.push(Taken::Full);
                continue;
            }
            if header.replaces_earlier && header.stream == Stream::Inventory {
                self.drop_earlier(header, &mut batch, &mut dropped)?;
            }
            let parts: Vec<_> = bytes.chunks(PART_BYTES).collect();
            let count = u16::try_from(parts.len()).unwrap_or(u16::MAX);
            for (part, data) in (0u16..).zip(parts) {
                let key = [&prefix[..], &part.to_be_bytes()].concat();
                let head = [&now.as_millisecond().to_be_bytes()[..], &count.to_be_bytes()].concat();
                batch.put(key, [&head, data].concat());
            }
            in_batch.insert(prefix);
            added += 1;
            added_bytes += bytes.len() as u64;
            outcomes.push(Taken::Durable);
        }
        if !batch.is_empty() {
            self.0.store.commit(&batch)?;
            self.0.reports.fetch_add(added, Ordering::SeqCst);
            self.0.bytes.fetch_add(added_bytes, Ordering::SeqCst);
            self.0.oldest.fetch_min(now.as_millisecond(), Ordering::SeqCst);
            self.0.reports.fetch_sub(dropped.0, Ordering::SeqCst);
            self.0.bytes.fetch_sub(dropped.1, Ordering::SeqCst);
        }
        Ok(outcomes)
    }

    /// Whether a later full inventory of the same endpoint waits already.
    fn is_superseded(&self, header: &Header) -> Result<bool, StoreError> {
        let prefix = endpoint_prefix(header.stream, &header.endpoint);
        let own =
            [&report_prefix(header.stream, &header.endpoint, header.sequence)[..], &[0xff, 0xff]].concat();
        for row in self.0.store.scan(&prefix, Some(&own), SCAN_ROWS)? {
            if part_of(&row.key) == 0
                && Envelope::parse(&row.value[HEAD_BYTES.min(row.value.len())..])
                    .is_ok_and(|later| later.header().replaces_earlier)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn drop_earlier(
        &self,
        header: &Header,
        batch: &mut Batch,
        dropped: &mut (u64, u64),
    ) -> Result<(), StoreError> {
        let prefix = endpoint_prefix(header.stream, &header.endpoint);
        let mut after = None;
        loop {
            let rows = self.0.store.scan(&prefix, after.as_deref(), SCAN_ROWS)?;
            for row in &rows {
                if sequence_of(&row.key).is_some_and(|sequence| sequence < header.sequence) {
                    batch.delete(row.key.clone());
                    dropped.0 += u64::from(part_of(&row.key) == 0);
                    dropped.1 += data_bytes(row);
                }
            }
            match rows.last() {
                Some(last) if rows.len() == SCAN_ROWS => after = Some(last.key.clone()),
                _ => return Ok(()),
            }
        }
    }

    /// What goes up next: states before inventories, together at most `bytes_max` but at least one.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub fn next(&self, bytes_max: usize) -> Result<Vec<Waiting>, StoreError> {
        let mut batch: Vec<Waiting> = Vec::new();
        let mut total = 0;
        let mut after = None;
        'read: loop {
            let rows = self.0.store.scan(PREFIX, after.as_deref(), SCAN_ROWS)?;
            for Row { key, value } in &rows {
                let data = value.get(HEAD_BYTES..).unwrap_or_default();
                match batch.last_mut() {
                    Some(last) if part_of(key) > 0 => {
                        last.keys.push(key.clone());
                        last.envelope = [&last.envelope[..], data].concat().into();
                    }
                    _ if total >= bytes_max => break 'read,
                    _ => batch
                        .push(Waiting { keys: vec![key.clone()], envelope: Bytes::copy_from_slice(data) }),
                }
                total += data.len();
            }
            match rows.last() {
                Some(last) if rows.len() == SCAN_ROWS => after = Some(last.key.clone()),
                _ => break,
            }
        }
        if total > bytes_max && batch.len() > 1 {
            // Only the last one can have passed the limit.
            batch.truncate(batch.len() - 1);
        }
        Ok(batch)
    }

    /// Deletes what the tier above has.
    ///
    /// # Errors
    ///
    /// When the store fails; they are sent again then.
    pub fn settle(&self, done: &[Waiting]) -> Result<(), StoreError> {
        let _counted = self.counted();
        let mut batch = Batch::new();
        let (mut reports, mut bytes) = (0, 0);
        for waiting in done {
            // One that was replaced while it went up is gone, and was counted then.
            let first = waiting.keys.first().map(Vec::as_slice).unwrap_or_default();
            if self.0.store.scan(first, None, 1)?.is_empty() {
                continue;
            }
            for key in &waiting.keys {
                batch.delete(key.clone());
            }
            reports += 1;
            bytes += waiting.envelope.len() as u64;
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.0.store.commit(&batch)?;
        self.0.reports.fetch_sub(reports, Ordering::SeqCst);
        self.0.bytes.fetch_sub(bytes, Ordering::SeqCst);
        Ok(())
    }

    /// Held while rows and their count change, or a count made while others change them would stand for good.
    fn counted(&self) -> MutexGuard<'_, ()> {
        self.0.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How full it is; the oldest is exact after [`Outbox::recount`].
    #[must_use]
    pub fn fill(&self) -> Fill {
        let oldest = self.0.oldest.load(Ordering::SeqCst);
        Fill {
            reports: self.0.reports.load(Ordering::SeqCst),
            bytes: self.0.bytes.load(Ordering::SeqCst),
            oldest: (oldest != i64::MAX).then(|| Timestamp::from_millisecond(oldest).ok()).flatten(),
        }
    }

    /// Counts all rows, which also finds the oldest.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub fn recount(&self) -> Result<(), StoreError> {
        let _counted = self.counted();
        let (mut reports, mut bytes, mut oldest) = (0, 0, i64::MAX);
        let mut after: Option<Vec<u8>> = None;
        loop {
            let rows = self.0.store.scan(PREFIX, after.as_deref(), SCAN_ROWS)?;
            for row in &rows {
                reports += u64::from(part_of(&row.key) == 0);
                bytes += data_bytes(row);
                oldest = oldest.min(received_of(row));
            }
            match rows.last() {
                Some(last) if rows.len() == SCAN_ROWS => after = Some(last.key.clone()),
                _ => break,
            }
        }
        self.0.reports.store(reports, Ordering::SeqCst);
        self.0.bytes.store(bytes, Ordering::SeqCst);
        self.0.oldest.store(oldest, Ordering::SeqCst);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use tierway_common::{
        facts::Facts,
        schema::{Report, StateEntry},
        store::memory::MemoryStore,
        trust::keys::SigningKey,
    };

    use super::*;

    /// An envelope: `s7` a transition, `i7` a change of inventory, `I7` a whole one; after `:` its endpoint.
    fn envelope(text: &str) -> Envelope {
        let (kind, endpoint) = text.split_once(':').unwrap_or((text, "e1"));
        let (kind, sequence) = kind.split_at(1);
        let report = match kind {
            "s" => Report::States { snapshot: false, entries: Vec::<StateEntry>::new() },
            _ => Report::Inventory { at: Timestamp::UNIX_EPOCH, facts: Facts::default() },
        };
        let header = Header {
            tenant: "default".parse().unwrap(),
            endpoint: endpoint.parse().unwrap(),
            stream: if kind == "s" { Stream::States } else { Stream::Inventory },
            sequence: sequence.parse().unwrap(),
            replaces_earlier: kind == "I",
            created: Timestamp::UNIX_EPOCH,
        };
        let key = SigningKey::generate(&SystemRandom::new()).unwrap();
        Envelope::seal(&key, header, &report).unwrap()
    }

    fn outbox(bytes_max: u64) -> (Outbox, Arc<dyn Store>) {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        (Outbox::open(store.clone(), bytes_max).unwrap(), store)
    }

    fn take(outbox: &Outbox, names: &[&str]) -> Vec<Taken> {
        let envelopes: Vec<_> = names.iter().map(|name| envelope(name)).collect();
        outbox.take(&envelopes, Timestamp::UNIX_EPOCH).unwrap()
    }

    fn names(waiting: &[Waiting]) -> Vec<String> {
        waiting
            .iter()
            .map(|waiting| {
                let envelope = Envelope::parse(&waiting.envelope).unwrap();
                let header = envelope.header();
                let kind = match (header.stream, header.replaces_earlier) {
                    (Stream::States, _) => "s",
                    (Stream::Inventory, true) => "I",
                    (Stream::Inventory, false) => "i",
                };
                format!("{kind}{}:{}", header.sequence, header.endpoint)
            })
            .collect()
    }

    #[test]
    fn transitions_go_before_inventories_and_in_their_order() {
        let (outbox, _) = outbox(1 << 20);
        take(&outbox, &["i1", "s2", "s10", "s1", "s1:e0"]);
        assert_eq!(names(&outbox.next(1 << 20).unwrap()), ["s1:e0", "s1:e1", "s2:e1", "s10:e1", "i1:e1"]);
    }

    #[test]
    fn a_report_that_comes_twice_waits_once() {
        let (outbox, _) = outbox(1 << 20);
        assert_eq!(take(&outbox, &["s1", "s1"]), [Taken::Durable; 2]);
        assert_eq!(take(&outbox, &["s1"]), [Taken::Durable]);
        assert_eq!((outbox.fill().reports, outbox.next(1 << 20).unwrap().len()), (1, 1));
    }

    #[test]
    fn a_whole_inventory_replaces_the_earlier_ones_of_its_endpoint_only() {
        let (outbox, _) = outbox(1 << 20);
        take(&outbox, &["I1", "i2", "s1", "I1:e2"]);
        take(&outbox, &["I3", "i4"]);
        assert_eq!(names(&outbox.next(1 << 20).unwrap()), ["s1:e1", "I3:e1", "i4:e1", "I1:e2"]);
        assert_eq!(take(&outbox, &["i2"]), [Taken::Superseded]);
        assert_eq!(outbox.fill().reports, 4);
    }

    #[test]
    fn a_report_that_is_replaced_while_it_goes_up_is_counted_once() {
        let (outbox, _) = outbox(1 << 20);
        take(&outbox, &["I1"]);
        let on_its_way = outbox.next(1 << 20).unwrap();
        take(&outbox, &["I2"]);
        outbox.settle(&on_its_way).unwrap();
        let bytes = envelope("I2").bytes().len() as u64;
        assert_eq!((outbox.fill().reports, outbox.fill().bytes), (1, bytes));
        outbox.settle(&outbox.next(1 << 20).unwrap()).unwrap();
        assert_eq!((outbox.fill().reports, outbox.fill().bytes), (0, 0));
    }

    #[test]
    fn a_count_made_while_reports_come_and_go_is_right() {
        let (outbox, _) = outbox(1 << 30);
        std::thread::scope(|scope| {
            let counts = scope.spawn(|| (0..2_000).for_each(|_| outbox.recount().unwrap()));
            for number in 1..400 {
                take(&outbox, &[&format!("s{number}")]);
                outbox.settle(&outbox.next(1 << 20).unwrap()).unwrap();
            }
            counts.join().unwrap();
        });
        assert_eq!((outbox.fill().reports, outbox.fill().bytes), (0, 0));
    }

    #[test]
    fn a_full_outbox_drops_nothing_and_asks_to_come_later() {
        let bytes = envelope("s1").bytes().len() as u64;
        let (outbox, _) = outbox(2 * bytes);
        assert_eq!(take(&outbox, &["s1", "s2", "s3"]), [Taken::Durable, Taken::Durable, Taken::Full]);
        let first = outbox.next(1).unwrap();
        outbox.settle(&first).unwrap();
        assert_eq!(take(&outbox, &["s3"]), [Taken::Durable]);
        assert_eq!(names(&outbox.next(1 << 20).unwrap()), ["s2:e1", "s3:e1"]);
    }

    #[test]
    fn a_batch_keeps_to_its_size_but_takes_at_least_one() {
        let bytes = envelope("s1").bytes().len();
        let (outbox, _) = outbox(1 << 20);
        take(&outbox, &["s1", "s2", "s3"]);
        for (limit, count) in [(1, 1), (bytes, 1), (2 * bytes, 2), (10 * bytes, 3)] {
            assert_eq!(outbox.next(limit).unwrap().len(), count, "{limit}");
        }
    }

    #[test]
    fn what_waited_before_a_restart_waits_after_it() {
        let (outbox, store) = outbox(1 << 20);
        take(&outbox, &["s1", "I1", "s2:e2"]);
        let before = outbox.fill();
        let again = Outbox::open(store, 1 << 20).unwrap();
        assert_eq!((again.fill(), again.next(1 << 20).unwrap().len()), (before, 3));
        again.settle(&again.next(1 << 20).unwrap()).unwrap();
        assert_eq!(again.fill(), Fill { reports: 0, bytes: 0, oldest: before.oldest });
        again.recount().unwrap();
        assert_eq!(again.fill().oldest, None);
    }

    #[test]
    fn an_envelope_of_many_rows_comes_out_as_it_went_in() {
        let (outbox, _) = outbox(1 << 20);
        // Incompressible enough to stay long.
        let values = (0..4_000u32)
            .map(|n| {
                let digest = tierway_common::trust::digest::Digest::of(&n.to_be_bytes());
                (format!("package:deb:{digest}:amd64"), digest.to_string())
            })
            .collect();
        let report =
            Report::Inventory { at: Timestamp::UNIX_EPOCH, facts: Facts { values, ..Facts::default() } };
        let key = SigningKey::generate(&SystemRandom::new()).unwrap();
        let large = Envelope::seal(&key, envelope("I1").header().clone(), &report).unwrap();
        assert!(large.bytes().len() > 2 * PART_BYTES);
        outbox.take(std::slice::from_ref(&large), Timestamp::UNIX_EPOCH).unwrap();
        take(&outbox, &["I1:e2"]);
        let waiting = outbox.next(1 << 20).unwrap();
        assert_eq!((waiting.len(), &waiting[0].envelope), (2, large.bytes()));
        outbox.settle(&waiting).unwrap();
        assert!(outbox.next(1 << 20).unwrap().is_empty());
    }
}
