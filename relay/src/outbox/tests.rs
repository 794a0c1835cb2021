use std::{
    sync::{
        Condvar,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ring::rand::SystemRandom;
use tierway_common::{
    facts::Facts,
    schema::{Report, StateEntry},
    store::memory::MemoryStore,
    trust::{
        digest::Digest,
        envelope::{ENVELOPE_BYTES_MAX, Header},
        keys::SigningKey,
    },
};
use tierway_proto::upstream::ENVELOPES_MAX;

use super::*;

/// An envelope: `s7` a transition, `i7` a change of inventory, `I7` a whole one; after `:` its endpoint.
pub(crate) fn envelope(text: &str) -> Envelope {
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

/// As [`envelope`], with so many facts, which compress badly.
fn large(text: &str, facts: u32) -> Envelope {
    let digest = |n: u32| Digest::of(&n.to_be_bytes()).to_string();
    let values = (0..facts).map(|n| (format!("package:deb:{}:amd64", digest(n)), digest(!n))).collect();
    let report = Report::Inventory { at: Timestamp::UNIX_EPOCH, facts: Facts { values, ..Facts::default() } };
    let key = SigningKey::generate(&SystemRandom::new()).unwrap();
    Envelope::seal(&key, envelope(text).header().clone(), &report).unwrap()
}

fn outbox(bytes_max: u64) -> (Outbox, Arc<dyn Store>) {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    (Outbox::open(store.clone(), bytes_max).unwrap(), store)
}

fn take(outbox: &Outbox, names: &[&str]) -> Vec<Taken> {
    let envelopes: Vec<_> = names.iter().map(|name| envelope(name)).collect();
    outbox.take(&envelopes, Carrier::Endpoint, Timestamp::UNIX_EPOCH).unwrap()
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
fn what_comes_goes_and_is_replaced_at_once_is_counted_right() {
    let (outbox, store) = outbox(1 << 30);
    std::thread::scope(|scope| {
        for endpoint in ["e1", "e2", "e1", "e2"] {
            let outbox = &outbox;
            scope.spawn(move || {
                for number in 1..100 {
                    take(outbox, &[&format!("s{number}:{endpoint}"), &format!("I{number}:{endpoint}")]);
                }
            });
        }
        scope.spawn(|| (0..200).for_each(|_| outbox.settle(&outbox.next(1 << 14).unwrap()).unwrap()));
    });
    assert_eq!(outbox.fill(), Outbox::open(store, 1 << 30).unwrap().fill());
    while outbox.fill().reports > 0 {
        outbox.settle(&outbox.next(1 << 20).unwrap()).unwrap();
    }
    assert_eq!(outbox.fill(), Fill { reports: 0, bytes: 0, oldest: None });
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

/// Hands these in as the endpoint `flood` or a relay would, over and over, so that more of them wait than fit into a batch of
/// two; returns after how many batches all of `others` went up.
fn batches_beside(flood: [&str; 4], carrier: Carrier, others: &[(&str, Carrier)]) -> usize {
    let (outbox, _) = outbox(1 << 20);
    let mut missing: Vec<_> = others.iter().map(|(name, carrier)| (envelope(name), *carrier)).collect();
    for (other, carrier) in &missing {
        outbox.take(std::slice::from_ref(other), *carrier, Timestamp::UNIX_EPOCH).unwrap();
    }
    let flood = flood.map(envelope);
    let bytes = 2 * flood[0].bytes().len() + 1;
    for batches in 1..100 {
        outbox.take(&flood, carrier, Timestamp::UNIX_EPOCH).unwrap();
        let waiting = outbox.next(bytes).unwrap();
        missing.retain(|(other, _)| waiting.iter().all(|waiting| waiting.envelope != other.bytes()));
        outbox.settle(&waiting).unwrap();
        if missing.is_empty() {
            return batches;
        }
    }
    panic!("{} still wait", missing.len());
}

#[test]
fn nobody_waits_for_ever_behind_an_endpoint_or_a_lane_that_always_has_more() {
    const ENDPOINT: Carrier = Carrier::Endpoint;
    const RELAY: Carrier = Carrier::Relay;
    let states = ["s1:e1", "s2:e1", "s3:e1", "s4:e1"];
    let inventories = ["i1:e1", "i2:e1", "i3:e1", "i4:e1"];
    let cases: &[(_, _, &[(&str, Carrier)], usize)] = &[
        // Another endpoint in the same lane is next.
        (states, ENDPOINT, &[("s1:e0", ENDPOINT), ("s1:e2", ENDPOINT), ("s2:e2", ENDPOINT)], 2),
        (inventories, ENDPOINT, &[("i1:e2", ENDPOINT), ("i1:e3", ENDPOINT)], 2),
        (states, RELAY, &[("s1:e2", RELAY)], 2),
        // Each other lane has its turn in eight, and none waits for one behind it.
        (states, ENDPOINT, &[("i1:e1", ENDPOINT), ("s1:e9", RELAY), ("i1:e9", RELAY)], 8),
        (inventories, ENDPOINT, &[("s1:e1", ENDPOINT), ("s2:e9", ENDPOINT)], 1),
        (inventories, RELAY, &[("s1:e9", RELAY), ("i1:e2", ENDPOINT)], 1),
    ];
    for (flood, carrier, others, batches) in cases {
        assert_eq!(batches_beside(*flood, *carrier, others), *batches, "{flood:?} before {others:?}");
    }
}

#[test]
fn whoever_has_a_turn_all_goes_up_once_and_of_each_endpoint_in_its_order() {
    let (outbox, _) = outbox(1 << 20);
    let names: Vec<_> = (1..=9)
        .flat_map(|number| ["s", "i"].map(|kind| ["a", "b", "c"].map(|id| format!("{kind}{number}:{id}"))))
        .flatten()
        .collect();
    take(&outbox, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let bytes = 4 * envelope("s1:a").bytes().len();
    let mut went = Vec::new();
    for _ in 0..names.len() {
        let waiting = outbox.next(bytes).unwrap();
        went.extend(self::names(&waiting));
        outbox.settle(&waiting).unwrap();
    }
    for (kind, id) in [("s", "a"), ("s", "b"), ("s", "c"), ("i", "a"), ("i", "b"), ("i", "c")] {
        let of_one: Vec<_> =
            went.iter().filter(|name| name.starts_with(kind) && name.ends_with(id)).collect();
        assert_eq!(
            of_one,
            (1..=9).map(|n| format!("{kind}{n}:{id}")).collect::<Vec<_>>().iter().collect::<Vec<_>>()
        );
    }
    assert_eq!(went.len(), names.len());
}

#[test]
fn what_waited_before_a_restart_waits_after_it() {
    let (outbox, store) = outbox(1 << 20);
    take(&outbox, &["s1", "I1", "s2:e2"]);
    let before = outbox.fill();
    let again = Outbox::open(store, 1 << 20).unwrap();
    assert_eq!((again.fill(), again.next(1 << 20).unwrap().len()), (before, 3));
    again.settle(&again.next(1 << 20).unwrap()).unwrap();
    assert_eq!(again.fill(), Fill { reports: 0, bytes: 0, oldest: None });
}

#[test]
fn an_envelope_of_many_rows_comes_out_as_it_went_in() {
    let (outbox, _) = outbox(1 << 20);
    let large = large("I1", 4_000);
    assert!(large.bytes().len() > 2 * PART_BYTES);
    outbox.take(std::slice::from_ref(&large), Carrier::Endpoint, Timestamp::UNIX_EPOCH).unwrap();
    take(&outbox, &["I1:e2"]);
    let waiting = outbox.next(1 << 20).unwrap();
    assert_eq!((waiting.len(), &waiting[0].envelope), (2, large.bytes()));
    outbox.settle(&waiting).unwrap();
    assert!(outbox.next(1 << 20).unwrap().is_empty());
}

#[test]
fn a_batch_has_no_more_reports_than_the_tier_above_takes_at_once() {
    let (outbox, _) = outbox(1 << 30);
    let many: Vec<_> = (1..=ENVELOPES_MAX + 1).map(|number| envelope(&format!("s{number}"))).collect();
    outbox.take(&many, Carrier::Endpoint, Timestamp::UNIX_EPOCH).unwrap();
    let first = outbox.next(1 << 20).unwrap();
    assert_eq!(first.len(), ENVELOPES_MAX);
    outbox.settle(&first).unwrap();
    assert_eq!(names(&outbox.next(1 << 20).unwrap()), [format!("s{}:e1", ENVELOPES_MAX + 1)]);
}

#[test]
fn what_two_whole_inventories_of_one_call_replace_is_counted_once() {
    let (outbox, store) = outbox(1 << 20);
    take(&outbox, &["I1", "i2"]);
    take(&outbox, &["I3", "i4", "I5", "i6"]);
    assert_eq!(names(&outbox.next(1 << 20).unwrap()), ["I5:e1", "i6:e1"]);
    assert_eq!(outbox.fill(), Outbox::open(store, 1 << 20).unwrap().fill());
}

#[test]
fn one_endpoint_fills_no_more_than_its_share() {
    let bytes = large("i1", 6_000).bytes().len() as u64;
    assert!(3 * bytes > ENVELOPE_BYTES_MAX as u64);
    let (outbox, _) = outbox(64 * 3 * bytes);
    let mine = ["i1", "i2", "i3", "i4"].map(|name| large(name, 6_000));
    let taken = outbox.take(&mine, Carrier::Endpoint, Timestamp::UNIX_EPOCH).unwrap();
    assert_eq!(taken, [Taken::Durable, Taken::Durable, Taken::Durable, Taken::Full]);
    assert_eq!(take(&outbox, &["i1:e2"]), [Taken::Durable]);
    // What it replaces makes room for it.
    assert_eq!(take(&outbox, &["i4"]), [Taken::Full]);
    assert_eq!(take(&outbox, &["I4"]), [Taken::Durable]);
    assert_eq!(names(&outbox.next(1 << 20).unwrap()), ["I4:e1", "i1:e2"]);
}

#[test]
fn what_a_relay_carries_takes_the_place_of_nothing() {
    let (outbox, store) = outbox(1 << 20);
    take(&outbox, &["i2", "s2"]);
    let carried: Vec<_> = ["I9", "i2", "s2", "s3"].map(envelope).into();
    let taken = outbox.take(&carried, Carrier::Relay, Timestamp::UNIX_EPOCH).unwrap();
    assert_eq!(taken, [Taken::Durable; 4]);
    assert_eq!(take(&outbox, &["i3", "s3"]), [Taken::Durable; 2], "they were not here before");
    let waiting = outbox.next(1 << 20).unwrap();
    assert_eq!(names(&waiting), ["s2:e1", "s3:e1", "i2:e1", "i3:e1", "s2:e1", "s3:e1", "i2:e1", "I9:e1"]);
    assert_eq!(outbox.fill(), Outbox::open(store, 1 << 20).unwrap().fill());
}

#[test]
fn all_that_relays_carry_leaves_half_to_the_endpoints() {
    let bytes_max = 3 * ENVELOPE_BYTES_MAX as u64;
    let (outbox, _) = outbox(bytes_max);
    let take_carried = |first: u32| {
        let envelopes: Vec<_> = (first..first + 500).map(|n| envelope(&format!("s1:e{n}"))).collect();
        outbox.take(&envelopes, Carrier::Relay, Timestamp::UNIX_EPOCH).unwrap()
    };
    assert!((0..).step_by(500).map(take_carried).any(|taken| taken.contains(&Taken::Full)));
    let carried = outbox.fill().bytes;
    assert!(carried <= bytes_max / 2 && carried > bytes_max / 2 - 1_000, "{carried} of {bytes_max} bytes");
    assert_eq!(take(&outbox, &["s1:e0"]), [Taken::Durable]);
}

/// A store in which a commit ends only when another has begun.
#[derive(Debug, Default)]
struct InPairs {
    store: MemoryStore,
    commits: Mutex<usize>,
    begun: Condvar,
}

impl Store for InPairs {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(key)
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, StoreError> {
        self.store.scan(prefix, after, limit)
    }

    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut commits = self.commits.lock().unwrap();
        *commits += 1;
        self.begun.notify_all();
        let alone = |commits: &mut usize| *commits < 2;
        let (commits, waited) =
            self.begun.wait_timeout_while(commits, Duration::from_secs(20), alone).unwrap();
        assert!(!waited.timed_out(), "nobody else may commit meanwhile");
        drop(commits);
        self.store.commit(batch)
    }

    fn disk_bytes(&self) -> u64 {
        self.store.disk_bytes()
    }
}

/// A store that counts the rows that are read from it, and commits, of which it fails those that it is told to.
#[derive(Debug, Default)]
pub(super) struct Tallied {
    store: MemoryStore,
    rows: AtomicUsize,
    pub(super) commits: AtomicUsize,
    pub(super) fails: AtomicBool,
}

impl Store for Tallied {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(key)
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, StoreError> {
        let rows = self.store.scan(prefix, after, limit)?;
        self.rows.fetch_add(rows.len(), Ordering::Relaxed);
        Ok(rows)
    }

    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        self.commits.fetch_add(1, Ordering::Relaxed);
        if self.fails.load(Ordering::Relaxed) {
            return Err(StoreError::Backend { dir: "test".into(), source: "the disk is full".into() });
        }
        self.store.commit(batch)
    }

    fn disk_bytes(&self) -> u64 {
        self.store.disk_bytes()
    }
}

#[test]
fn what_a_call_drops_is_read_and_counted_once_however_many_whole_inventories_it_has() {
    let store = Arc::new(Tallied::default());
    let outbox = Outbox::open(store.clone(), 1 << 30).unwrap();
    let hand_in = |kind: &str, numbers: &mut dyn Iterator<Item = usize>| {
        let envelopes: Vec<_> = numbers.map(|number| envelope(&format!("{kind}{number}"))).collect();
        outbox.take(&envelopes, Carrier::Endpoint, Timestamp::UNIX_EPOCH).unwrap()
    };
    // In the way of the first of them only, and then of the last.
    hand_in("i", &mut (0..2_500));
    hand_in("i", &mut (2_700..4_000));
    store.rows.store(0, Ordering::Relaxed);
    let whole = 100;
    let taken = hand_in("I", &mut (2_500..2_500 + whole - 1).chain([4_000]));
    assert_eq!(taken.iter().filter(|taken| **taken == Taken::Durable).count(), 1);
    let rows = store.rows.load(Ordering::Relaxed);
    // All of what waited; and each looks once for a later one, and once behind what is dropped already.
    assert!(rows <= 3_800 + 2 * whole * SCAN_ROWS, "{rows}");
    assert_eq!(names(&outbox.next(1 << 20).unwrap()), ["I4000:e1"]);
    assert_eq!(outbox.fill().reports, 1);
}

#[test]
fn two_who_hand_in_reports_wait_for_the_disk_together() {
    let outbox = Outbox::open(Arc::new(InPairs::default()), 1 << 20).unwrap();
    std::thread::scope(|scope| {
        for name in ["s1:e1", "s1:e2"] {
            scope.spawn(|| assert_eq!(take(&outbox, &[name]), [Taken::Durable]));
        }
    });
    assert_eq!(outbox.fill().reports, 2);
}
