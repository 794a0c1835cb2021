use std::sync::atomic::{AtomicU64, Ordering};

use tierway_common::{
    schema::{Approval, Decision, Group, Members},
    store::{Row, memory::MemoryStore},
};

use super::*;

/// A store that does so many commits and then fails each, as a full disk does.
#[derive(Debug)]
struct Dying {
    store: Arc<MemoryStore>,
    commits_left: AtomicU64,
    commits: AtomicU64,
}

impl Store for Dying {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(key)
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, StoreError> {
        self.store.scan(prefix, after, limit)
    }

    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        let left = self.commits_left.load(Ordering::SeqCst);
        if left == 0 {
            return Err(StoreError::Backend { dir: "test".into(), source: "the disk is full".into() });
        }
        self.commits_left.store(left - 1, Ordering::SeqCst);
        self.commits.fetch_add(1, Ordering::SeqCst);
        self.store.commit(batch)
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

fn dying(commits: u64) -> Arc<Dying> {
    let (store, commits_left) = (Arc::new(MemoryStore::new()), AtomicU64::new(commits));
    Arc::new(Dying { store, commits_left, commits: AtomicU64::new(0) })
}

fn open(store: Arc<dyn Store>) -> State {
    let clock = Clock::manual("2026-11-20T10:00:00Z".parse().unwrap());
    State::open("default".parse().unwrap(), store, clock).unwrap()
}

const APPROVALS: usize = 4_000;

/// A group and so many approvals that they are several batches.
fn approve(state: &State) -> Result<((), u64), StoreError> {
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
        change.audit("operator:admin", "approve", "group:pilot".to_owned(), String::new());
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
