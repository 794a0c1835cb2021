use std::sync::atomic::Ordering;

use tierway_common::{
    schema::{Approval, Decision, Group, Members},
    store::memory::MemoryStore,
};

use super::*;
use crate::store::testing::dying;

fn open(store: Arc<dyn Store>) -> State {
    let clock = Clock::manual("2026-11-20T10:00:00Z".parse().unwrap());
    State::open("default".parse().unwrap(), store, clock).unwrap()
}

const APPROVALS: usize = 4_000;

/// A group and so many approvals that they are several batches.
fn approve(state: &State) -> Result<((), u64), StoreError> {
    approve_in_words(state, 1, 0)
}

/// The same with so many audit records of so many bytes.
fn approve_in_words(state: &State, records: usize, bytes: usize) -> Result<((), u64), StoreError> {
    state.change(|_, change| {
        let group =
            Group { id: "pilot".parse().unwrap(), priority: 1, members: Members::Everyone, level: None };
        change.write(Write::Group(group));
        for number in 0..APPROVALS {
            change.write(Write::Approval(Approval {
                group: "pilot".parse().unwrap(),
                update: format!("debian-12/{}_{number}", "a".repeat(120)).parse().unwrap(),
                decision: Decision::Approve,
                at: change.now,
                renewed: None,
                by: "operator:admin".to_owned(),
                rings: None,
            }));
        }
        for _ in 0..records {
            change.audit("operator:admin", "approve", "group:pilot".to_owned(), "a".repeat(bytes));
        }
        Ok(())
    })
}

/// Approvals, documents to be published, audit records.
fn found(state: &State) -> (usize, usize, usize) {
    let approvals = state.model().policy().approvals_count();
    let parts = table::Key::new().text(state.tenant().as_str()).done();
    let pending = table::scan::<tables::PendingPolicy<'_>>(state.store(), &parts, None, usize::MAX).unwrap();
    let audit = table::scan::<tables::Audit<'_>>(state.store(), &parts, None, usize::MAX).unwrap();
    (approvals, pending.len(), audit.len())
}

fn aside(store: &MemoryStore) -> usize {
    let rows = |prefix| store.scan(prefix, None, usize::MAX).unwrap().len();
    rows(b"aside\0") + rows(b"aside-whole\0")
}

const WHOLE: (usize, usize, usize) = (APPROVALS, APPROVALS + 1, 1);

#[test]
fn a_change_of_several_batches_is_there_as_a_whole_or_not_at_all_wherever_a_crash_comes() {
    let store = dying(u64::MAX);
    approve(&open(store.clone())).unwrap();
    let commits = store.commits.load(Ordering::SeqCst);
    assert!(commits > 4, "{commits} commits are no change of several batches");
    assert_eq!((found(&open(store.store.clone())), aside(&store.store)), (WHOLE, 0));

    let mut wholes = 0;
    for crash_after in 0..commits {
        let store = dying(crash_after);
        let state = open(store.clone());
        approve(&state).unwrap_err();
        drop(state);
        let found = found(&open(store.store.clone()));
        assert!(found == WHOLE || found == (0, 0, 0), "after {crash_after} of {commits}: {found:?}");
        wholes += u64::from(found == WHOLE);
        assert_eq!(aside(&store.store), 0, "after {crash_after} of {commits}");
    }
    assert!(
        0 < wholes && wholes < commits,
        "{wholes} of {commits}: decided neither at once nor only at the end"
    );
}

#[test]
fn a_change_whose_audit_records_alone_are_several_batches_is_made_and_the_log_verifies() {
    for records in [0, 9_000] {
        let store = Arc::new(MemoryStore::new());
        let state = open(store.clone());
        let (_, sequence) = approve_in_words(&state, records, 400).unwrap();
        assert_eq!(sequence, records as u64);
        assert_eq!((found(&state), aside(&store)), ((APPROVALS, APPROVALS + 1, records), 0));
        drop(state);
        let state = open(store);
        let verified = audit::verify(state.store(), state.tenant()).unwrap();
        assert_eq!((verified.records, verified.broken), (records as u64, None));
        assert_eq!(approve(&state).unwrap().1, records as u64 + 1, "the log goes on");
    }
}

#[test]
fn a_change_in_parts_that_ends_within_its_audit_records_leaves_a_log_that_goes_on() {
    let store = dying(2);
    let state = open(store.clone());
    let change = |state: &State, records: usize| {
        state.change(|_, change| {
            change.in_parts = true;
            for _ in 0..records {
                change.audit("central", "open ring", "rollout:a".to_owned(), "a".repeat(400));
            }
            Ok::<_, StoreError>(())
        })
    };
    change(&state, 9_000).unwrap_err();
    store.commits_left.store(u64::MAX, Ordering::SeqCst);
    let (_, sequence) = change(&state, 1).unwrap();
    assert!((3..9_000).contains(&sequence), "{sequence}");
    let verified = audit::verify(state.store(), state.tenant()).unwrap();
    assert_eq!((verified.records, verified.broken), (sequence, None));
}

#[test]
fn what_belongs_together_is_never_half_there_also_in_a_change_in_parts() {
    const PAIRS: u32 = 100;
    let pairs = |state: &State| {
        state.change(|_, change| {
            change.in_parts = true;
            for number in 0..PAIRS {
                let (id, members) = (format!("g{number}").parse().unwrap(), Members::Everyone);
                let group = Write::Group(Group { id, priority: 1, members, level: None });
                let facts = Write::Facts(number, vec![0; 50_000].into());
                change.write(Write::Together(vec![group, facts]));
            }
            Ok::<_, StoreError>(())
        })
    };
    let mut seen = std::collections::BTreeSet::new();
    for crash_after in 0..=4 {
        let store = dying(crash_after);
        let _ = pairs(&open(store.clone()));
        let state = open(store.store.clone());
        let has = |number: &u32| {
            let group = state.model().policy().groups().contains_key(&format!("g{number}").parse().unwrap());
            let facts = state.packed_facts(*number).unwrap().is_some();
            assert_eq!(group, facts, "{number} after {crash_after}");
            group
        };
        seen.insert((0..PAIRS).filter(has).count());
    }
    assert!(seen.len() > 2 && seen.contains(&100), "{seen:?}");
}

#[test]
fn a_row_that_cannot_be_kept_is_refused_before_anything_is_decided_and_what_follows_is_not() {
    let store = Arc::new(MemoryStore::new());
    let state = open(store.clone());
    let too_large = |state: &State| {
        state.change(|_, change| {
            for number in 0..APPROVALS {
                let id = format!("{}{number}", "a".repeat(100)).parse().unwrap();
                let members = Members::Everyone;
                change.write(Write::Group(Group { id, priority: 1, members, level: None }));
            }
            change.batch.put("a row", vec![0; 65 * 1024]);
            // So that it is more than one batch.
            change.write(Write::Facts(1, vec![0; 2_200 * 1024].into()));
            Ok::<_, StoreError>(())
        })
    };
    assert!(matches!(too_large(&state), Err(StoreError::ValueTooLarge { .. })));
    assert_eq!((found(&state), aside(&store)), ((0, 0, 0), 0));
    approve(&state).unwrap();
    assert_eq!(found(&open(store)), WHOLE);
}

#[test]
fn the_largest_value_is_kept_also_behind_almost_a_whole_batch() {
    let state = open(Arc::new(MemoryStore::new()));
    let largest: Arc<[u8]> = vec![7; chunked::CHUNK_BYTES_MAX * usize::from(chunked::CHUNKS_MAX) - 1].into();
    let change = state.change(|_, change| {
        for number in 0..33_u32 {
            change.write(Write::Facts(number, vec![0; 60_000].into()));
        }
        change.write(Write::Facts(99, largest.clone()));
        Ok::<_, StoreError>(())
    });
    change.unwrap();
    assert_eq!(state.packed_facts(99).unwrap().as_deref(), Some(&*largest));
}

#[test]
fn what_could_not_be_put_in_place_is_before_anything_else_is_changed_or_published() {
    let store = dying(u64::MAX);
    approve(&open(store.clone())).unwrap();
    let commits = store.commits.load(Ordering::SeqCst);
    // All but the last batches are in place.
    let store = dying(commits - 3);
    let state = open(store.clone());
    approve(&state).unwrap_err();
    let nothing = |state: &State| state.settled(|_, _| Ok::<_, StoreError>(()));
    nothing(&state).unwrap_err();
    assert_eq!(state.model().policy().approvals_count(), 0);
    store.commits_left.store(u64::MAX, Ordering::SeqCst);
    nothing(&state).unwrap();
    assert_eq!((found(&state), aside(&store.store)), (WHOLE, 0));
    let (_, sequence) = approve(&state).unwrap();
    assert_eq!(sequence, 2, "the audit log goes on from it");
}

#[test]
fn of_a_part_that_fails_nothing_stays_in_a_change() {
    let state = open(Arc::new(MemoryStore::new()));
    let group = |id: &str, priority| {
        Write::Group(Group { id: id.parse().unwrap(), priority, members: Members::Everyone, level: None })
    };
    let part = |change: &mut Change, id: &str, priority| {
        change.part(|change| {
            change.batch.put(id, "row").delete("nothing").expect_absent(id);
            change.write(group(id, priority));
            change.audit("operator:admin", "add group", format!("group:{id}"), String::new());
            if priority == 0 { Err(StoreError::Conflict { key: vec![] }) } else { Ok(()) }
        })
    };
    state
        .change(|_, change| {
            assert!(part(change, "one", 1).is_ok() && part(change, "none", 0).is_err());
            assert!(part(change, "two", 2).is_ok());
            assert_eq!((change.batch.deletes.len(), change.batch.expects.len()), (2, 2));
            Ok::<_, StoreError>(())
        })
        .unwrap();
    let model = state.model();
    let has = |id: &str| {
        let row = state.store().get(id.as_bytes()).unwrap().is_some();
        (row, model.policy().groups().contains_key(&id.parse().unwrap()))
    };
    assert_eq!(["one", "none", "two"].map(has), [(true, true), (false, false), (true, true)]);
    assert_eq!(audit::list(state.store(), state.tenant(), 0, 10).unwrap().len(), 2);
}
