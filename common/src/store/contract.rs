//! What every store must do, as one check that each backend's tests run.

use std::{sync::Barrier, thread};

use super::{BATCH_BYTES_MAX, Batch, KEY_BYTES_MAX, Store, StoreError, VALUE_BYTES_MAX};

/// Runs the whole contract; `make` gives a new, empty store each time.
///
/// # Panics
///
/// At the first promise that the store breaks.
pub fn check(make: &dyn Fn() -> Box<dyn Store>) {
    rows_come_in_key_order(&*make());
    pages_of_a_scan_join_without_gap(&*make());
    a_failed_expectation_writes_nothing(&*make());
    a_batch_deletes_before_it_puts(&*make());
    limits_are_kept(&*make());
    one_of_many_wins_each_race(&*make());
    a_scan_sees_a_batch_whole(&*make());
}

/// Runs the part of the contract that is about surviving; `open` opens the same store again each time,
/// after the one before was dropped.
///
/// # Panics
///
/// At the first promise that the store breaks.
pub fn check_reopen(open: &dyn Fn() -> Box<dyn Store>) {
    {
        let store = open();
        commit(&*store, Batch::new().put(b"a", b"1").put(b"b", b"2").put(b"c", vec![7; VALUE_BYTES_MAX]));
        commit(&*store, Batch::new().delete(b"a"));
    }
    let store = open();
    let rows = keys(&*store, b"", None, 10);
    assert_eq!(rows, [b"b".to_vec(), b"c".to_vec()], "after a reopen exactly the committed rows are there");
    assert_eq!(store.get(b"c").ok().flatten(), Some(vec![7; VALUE_BYTES_MAX]), "and their values");
    assert!(store.disk_bytes() > 0, "a store that survives takes room");
}

fn commit(store: &dyn Store, batch: &Batch) {
    assert!(store.commit(batch).is_ok(), "a batch without expectations commits");
}

fn keys(store: &dyn Store, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Vec<Vec<u8>> {
    let rows = store.scan(prefix, after, limit);
    assert!(rows.is_ok(), "a scan succeeds");
    rows.into_iter().flatten().map(|row| row.key).collect()
}

fn get(store: &dyn Store, key: &[u8]) -> Option<Vec<u8>> {
    let value = store.get(key);
    assert!(value.is_ok(), "a get succeeds");
    value.ok().flatten()
}

fn rows_come_in_key_order(store: &dyn Store) {
    let sorted: [&[u8]; 9] = [b"", b"\0", b"\0\0", b"a", b"a\0", b"a\0b", b"ab", b"b", b"\xff\xff"];
    let mut batch = Batch::new();
    for key in [5, 0, 8, 3, 1, 7, 2, 6, 4].map(|n: usize| sorted[n]) {
        batch.put(key, [key, b"!"].concat());
    }
    commit(store, &batch);
    assert_eq!(keys(store, b"", None, 100), sorted, "byte order, the empty key first");
    assert_eq!(keys(store, b"a", None, 100), sorted[3..7], "a prefix selects exactly its rows");
    assert_eq!(keys(store, b"\xff", None, 100), sorted[8..], "also the last one there can be");
    assert_eq!(get(store, b"a\0"), Some(b"a\0!".to_vec()));
    assert_eq!(get(store, b"a\0c"), None);
    commit(store, Batch::new().put(b"a\0", b""));
    assert_eq!(get(store, b"a\0"), Some(vec![]), "an empty value is a value");
}

fn pages_of_a_scan_join_without_gap(store: &dyn Store) {
    let mut batch = Batch::new();
    for n in 0..50u8 {
        batch.put([b'p', n], [n]).put([b'q', n], [n]);
    }
    commit(store, &batch);
    for limit in [1, 7, 49, 50, 51] {
        let mut all: Vec<Vec<u8>> = vec![];
        loop {
            let page = keys(store, b"p", all.last().map(Vec::as_slice), limit);
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            all.extend(page);
        }
        assert_eq!(all, (0..50).map(|n| vec![b'p', n]).collect::<Vec<_>>(), "pages of {limit}");
    }
    assert_eq!(keys(store, b"p", None, 0).len(), 0);
    assert_eq!(keys(store, b"q", Some(b"a"), 100).len(), 50, "`after` may lie before the prefix");
    assert_eq!(keys(store, b"p", Some(b"q"), 100).len(), 0, "or behind it");
    assert_eq!(keys(store, b"p", Some(b"p\x03\x01"), 100).len(), 46, "and need not exist");
}

fn a_failed_expectation_writes_nothing(store: &dyn Store) {
    commit(store, Batch::new().put(b"k", b"old"));
    let failing = [
        Batch::new().expect_absent(b"k").put(b"k", b"new").put(b"other", b"x").clone(),
        Batch::new().expect_equals(b"k", b"older").put(b"other", b"x").clone(),
        Batch::new().expect_equals(b"k", b"old").expect_present(b"other").put(b"other", b"x").clone(),
        Batch::new().expect_equals(b"nothing", b"").put(b"other", b"x").delete(b"k").clone(),
    ];
    for (batch, row) in failing.iter().zip([&b"k"[..], b"k", b"other", b"nothing"]) {
        let result = store.commit(batch);
        assert!(matches!(result, Err(StoreError::Conflict { ref key }) if key == row), "{result:?}");
        assert_eq!(get(store, b"k"), Some(b"old".to_vec()));
        assert_eq!(get(store, b"other"), None);
    }
    commit(
        store,
        Batch::new()
            .expect_equals(b"k", b"old")
            .expect_absent(b"other")
            .expect_present(b"k")
            .put(b"k", b"new"),
    );
    assert_eq!(get(store, b"k"), Some(b"new".to_vec()));
}

fn a_batch_deletes_before_it_puts(store: &dyn Store) {
    commit(store, Batch::new().put(b"k", b"1").put(b"gone", b"1"));
    commit(store, Batch::new().put(b"k", b"2").put(b"k", b"3").delete(b"k").delete(b"gone").delete(b"never"));
    assert_eq!(get(store, b"k"), Some(b"3".to_vec()));
    assert_eq!(get(store, b"gone"), None);
    commit(store, &Batch::new());
}

fn limits_are_kept(store: &dyn Store) {
    let largest = vec![1; VALUE_BYTES_MAX];
    commit(store, Batch::new().put(vec![b'k'; KEY_BYTES_MAX], largest.clone()));
    assert_eq!(get(store, &vec![b'k'; KEY_BYTES_MAX]), Some(largest));
    let result = store.commit(Batch::new().put(b"small", b"x").put(b"big", vec![1; VALUE_BYTES_MAX + 1]));
    assert!(matches!(result, Err(StoreError::ValueTooLarge { ref key, .. }) if key == b"big"), "{result:?}");
    let result = store.commit(Batch::new().put(b"small", b"x").put(vec![b'k'; KEY_BYTES_MAX + 1], b"x"));
    assert!(matches!(result, Err(StoreError::KeyTooLong { .. })), "{result:?}");
    let mut batch = Batch::new();
    for n in 0..=(BATCH_BYTES_MAX / VALUE_BYTES_MAX) {
        batch.put(n.to_be_bytes(), vec![0; VALUE_BYTES_MAX]);
    }
    let result = store.commit(&batch);
    assert!(matches!(result, Err(StoreError::BatchTooLarge { .. })), "{result:?}");
    assert_eq!(keys(store, b"", None, 10).len(), 1, "of what was refused nothing is there");
}

/// Threads that increment one counter by compare-and-swap: no increment is lost, and what a thread
/// wrote it reads.
fn one_of_many_wins_each_race(store: &dyn Store) {
    const THREADS: u64 = 8;
    const EACH: u64 = 25;
    commit(store, Batch::new().put(b"counter", 0u64.to_be_bytes()));
    let barrier = Barrier::new(8);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let barrier = &barrier;
            scope.spawn(move || {
                barrier.wait();
                let mut won = 0;
                while won < EACH {
                    let found = get(store, b"counter").unwrap_or_default();
                    let number = found.as_slice().try_into().map_or(0, u64::from_be_bytes);
                    let winner = [b"won".as_slice(), &number.to_be_bytes()].concat();
                    let mut batch = Batch::new();
                    batch.expect_equals(b"counter", found).expect_absent(winner.clone());
                    batch
                        .put(b"counter", (number + 1).to_be_bytes())
                        .put(winner.clone(), [thread.to_be_bytes()[7]]);
                    match store.commit(&batch) {
                        Ok(()) => {
                            won += 1;
                            assert_eq!(
                                get(store, &winner),
                                Some(vec![thread.to_be_bytes()[7]]),
                                "its own write"
                            );
                        }
                        Err(StoreError::Conflict { key }) => assert_eq!(key, b"counter"),
                        Err(error) => panic!("a race ends in a win or a conflict, not in {error:?}"),
                    }
                }
            });
        }
    });
    assert_eq!(get(store, b"counter"), Some((THREADS * EACH).to_be_bytes().to_vec()));
    assert_eq!(keys(store, b"won", None, 1000).len() as u64, THREADS * EACH);
}

/// A writer replaces all rows at once again and again; a scan never sees two generations.
fn a_scan_sees_a_batch_whole(store: &dyn Store) {
    let generation = |n: u8| {
        let mut batch = Batch::new();
        for row in 0..20u8 {
            batch.put([b'r', row], [n]);
        }
        batch
    };
    commit(store, &generation(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1..60 {
                commit(store, &generation(n));
            }
        });
        for _ in 0..200 {
            let rows = store.scan(b"r", None, 100).unwrap_or_default();
            assert_eq!(rows.len(), 20);
            assert!(rows.iter().all(|row| row.value == rows[0].value), "{rows:?}");
        }
    });
}
