//! The disk below a store: it keeps what was committed over a crash, and fails as disks do.
//!
//! A commit may be the last before the power is gone, and is then on disk or not, as a whole; from then on nothing can be
//! read or written until the node is up again. A full disk takes nothing. A disk that lies acknowledges what it has not
//! written, and forgets it when the power is gone.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tierway_common::store::{Batch, Row, Store, StoreError, memory::MemoryStore};
use tokio::sync::Notify;

use super::Sabotage;
use crate::simulation::random::Random;

/// Commits that a disk which lies may forget.
const FORGOTTEN: usize = 6;

#[derive(Debug)]
struct Inner {
    rows: Arc<MemoryStore>,
    /// Of a disk that lies: what is really there, and what it was acknowledged since.
    written: Option<(Vec<Row>, usize)>,
    sabotage: Option<Sabotage>,
    random: Random,
    full: bool,
    /// Commits before the power is gone.
    left: Option<u64>,
    gone: bool,
}

/// The disk of one node; cheap to clone.
#[derive(Clone, Debug)]
pub struct Disk {
    inner: Arc<Mutex<Inner>>,
    gone: Arc<Notify>,
}

impl Disk {
    /// A disk with these rows; a `sabotage` that is not about this disk is left out by who makes it.
    #[must_use]
    pub fn new(rows: &[Row], random: Random, sabotage: Option<Sabotage>) -> Self {
        let lies = matches!(sabotage, Some(Sabotage::AcknowledgesUnwritten | Sabotage::ForgetsWhatItTook));
        let inner = Inner {
            rows: Arc::new(filled(rows)),
            written: lies.then(|| (rows.to_vec(), 0)),
            sabotage,
            random,
            full: false,
            left: None,
            gone: false,
        };
        Self { inner: Arc::new(Mutex::new(inner)), gone: Arc::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk is full, or has room again.
    pub fn fills(&self, full: bool) {
        self.inner().full = full;
    }

    /// The power will be gone with one of the next commits.
    pub fn fails_soon(&self) {
        let mut inner = self.inner();
        let left = inner.random.below(4);
        inner.left = Some(left);
    }

    /// Returns when the power is gone.
    pub async fn failed(&self) {
        while !self.inner().gone {
            self.gone.notified().await;
        }
    }

    /// The power is gone, and comes back: what was not written is lost.
    pub fn restarts(&self) {
        let mut inner = self.inner();
        (inner.gone, inner.left, inner.full) = (false, None, false);
        if let Some((written, since)) = &mut inner.written {
            *since = 0;
            let rows = filled(written);
            inner.rows = Arc::new(rows);
        }
        if inner.sabotage == Some(Sabotage::LosesLeases) {
            let mut batch = Batch::new();
            for row in inner.rows.scan(b"lease\0", None, usize::MAX).unwrap_or_default() {
                batch.delete(row.key);
            }
            inner.rows.commit(&batch).ok();
        }
    }

    fn rows(&self) -> Result<Arc<MemoryStore>, StoreError> {
        let inner = self.inner();
        if inner.gone { Err(no_power()) } else { Ok(inner.rows.clone()) }
    }
}

fn filled(rows: &[Row]) -> MemoryStore {
    let store = MemoryStore::new();
    for rows in rows.chunks(64) {
        let mut batch = Batch::new();
        for row in rows {
            batch.put(row.key.clone(), row.value.clone());
        }
        store.commit(&batch).unwrap();
    }
    store
}

fn no_power() -> StoreError {
    StoreError::Backend { dir: PathBuf::from("simulated"), source: "the power is gone".into() }
}

impl Store for Disk {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.rows()?.get(key)
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, StoreError> {
        self.rows()?.scan(prefix, after, limit)
    }

    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut inner = self.inner();
        if inner.gone {
            return Err(no_power());
        }
        if inner.full {
            let source = io::ErrorKind::StorageFull.into();
            return Err(StoreError::Io { doing: "write", path: PathBuf::from("simulated"), source });
        }
        let mut batch = std::borrow::Cow::Borrowed(batch);
        if inner.sabotage == Some(Sabotage::NeverCountsTokens)
            && batch.puts.iter().any(|(key, _)| key.starts_with(b"token\0"))
            && inner.rows.scan(b"token\0", None, 1).is_ok_and(|rows| !rows.is_empty())
        {
            let known: Vec<_> = (batch.puts.iter().map(|(key, _)| key))
                .filter(|key| key.starts_with(b"token\0"))
                .filter(|key| inner.rows.get(key).is_ok_and(|row| row.is_some()))
                .cloned()
                .collect();
            batch.to_mut().puts.retain(|(key, _)| !known.contains(key));
        }
        match inner.left {
            Some(0) => {
                inner.gone = true;
                if inner.random.percent(50) {
                    inner.rows.commit(&batch)?;
                }
                drop(inner);
                self.gone.notify_one();
                return Err(no_power());
            }
            Some(left) => inner.left = Some(left - 1),
            None => {}
        }
        inner.rows.commit(&batch)?;
        let Inner { rows, written, .. } = &mut *inner;
        if let Some((written, since)) = written {
            *since += 1;
            if *since > FORGOTTEN {
                *written = rows.scan(b"", None, usize::MAX)?;
                *since = 0;
            }
        }
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}
