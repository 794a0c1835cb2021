//! For tests: a store whose disk fills up.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tierway_common::store::{Batch, Row, Store, StoreError, memory::MemoryStore};

/// A store that does so many commits and then fails each, as a full disk does.
#[derive(Debug)]
pub(crate) struct Dying {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) commits_left: AtomicU64,
    pub(crate) commits: AtomicU64,
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

pub(crate) fn dying(commits: u64) -> Arc<Dying> {
    let (store, commits_left) = (Arc::new(MemoryStore::new()), AtomicU64::new(commits));
    Arc::new(Dying { store, commits_left, commits: AtomicU64::new(0) })
}
