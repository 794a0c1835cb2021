//! Endpoints that the tier above asked to send everything again: kept until the endpoint was told.
//!
//! The tier above asks until everything has come. Who was told a moment ago has it on its way, and is not asked again.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tierway_common::{
    id::EndpointId,
    store::{Batch, Store, StoreError},
};
use tokio::time::Instant;

/// Endpoints in the set; what does not fit is asked for again by the tier above.
const ENDPOINTS_MAX: usize = 100_000;
/// Who was told is asked again after so long, at the earliest: a scan, and its reports on their way up. An answer that was
/// lost costs as much.
const TOLD_APART: Duration = Duration::from_secs(60);
const PREFIX: &[u8] = b"r";

/// The set, on disk, and in memory too, since every check-in asks; cheap to clone.
#[derive(Clone, Debug)]
pub struct Resync(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    asked: Mutex<Asked>,
}

#[derive(Debug)]
struct Asked {
    /// Never less than what is on disk.
    set: BTreeSet<String>,
    /// When each was told, no longer ago than counts; in memory alone.
    told: HashMap<String, Instant>,
}

impl Resync {
    /// The set in `store`.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub fn open(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let rows = store.scan(PREFIX, None, ENDPOINTS_MAX)?;
        let id =
            |key: &[u8]| String::from_utf8_lossy(key.get(PREFIX.len()..).unwrap_or_default()).into_owned();
        let set = rows.iter().map(|row| id(&row.key)).collect();
        Ok(Self(Arc::new(Inner { store, asked: Mutex::new(Asked { set, told: HashMap::new() }) })))
    }

    /// Those of `named` that are in the set; does not touch the disk.
    #[must_use]
    pub fn among<'a>(&self, named: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
        let asked = self.asked();
        if asked.set.is_empty() {
            return BTreeSet::new();
        }
        named.into_iter().filter(|endpoint| asked.set.contains(*endpoint)).map(str::to_owned).collect()
    }

    /// Adds those of `endpoints` that were not told a moment before `now`; waits for the disk. Those that were are left
    /// out of what it returns.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub fn add(&self, mut endpoints: Vec<EndpointId>, now: Instant) -> Result<Vec<EndpointId>, StoreError> {
        let mut batch = Batch::new();
        {
            let Asked { set, told } = &mut *self.asked();
            told.retain(|_, at| now.duration_since(*at) < TOLD_APART);
            endpoints.retain(|endpoint| !told.contains_key(endpoint.as_str()));
            for endpoint in &endpoints {
                if set.len() < ENDPOINTS_MAX && set.insert(endpoint.to_string()) {
                    batch.put(key(endpoint.as_str()), Vec::new());
                }
            }
        }
        if !batch.is_empty() {
            self.0.store.commit(&batch)?;
        }
        Ok(endpoints)
    }

    /// Takes endpoints out that are in the set, as told at `now`; waits for the disk. Those of them that still were, which
    /// the answer goes to: if that is lost the tier above finds the same gap again.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub fn take(&self, endpoints: BTreeSet<String>, now: Instant) -> Result<Vec<String>, StoreError> {
        let mut batch = Batch::new();
        for endpoint in &endpoints {
            batch.delete(key(endpoint));
        }
        self.0.store.commit(&batch)?;
        let Asked { set, told } = &mut *self.asked();
        let taken: Vec<_> = endpoints.into_iter().filter(|endpoint| set.remove(endpoint)).collect();
        let room = ENDPOINTS_MAX.saturating_sub(told.len());
        told.extend(taken.iter().take(room).map(|endpoint| (endpoint.clone(), now)));
        Ok(taken)
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.0.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(endpoint: &str) -> Vec<u8> {
    [PREFIX, endpoint.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use tierway_common::store::memory::MemoryStore;

    use super::*;

    fn ids(names: &[&str]) -> Vec<EndpointId> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn who_was_told_is_asked_again_when_it_could_have_sent_everything_and_not_before() {
        let resync = Resync::open(Arc::new(MemoryStore::new())).unwrap();
        let told = Instant::now();
        assert_eq!(resync.add(ids(&["e1", "e2"]), told).unwrap(), ids(&["e1", "e2"]));
        assert_eq!(resync.take(resync.among(["e1"]), told).unwrap(), ["e1"]);
        for (seconds, asked) in [(0, ["e2"].as_slice()), (59, &["e2"]), (60, &["e1", "e2"])] {
            let now = told + Duration::from_secs(seconds);
            assert_eq!(resync.add(ids(&["e1", "e2"]), now).unwrap(), ids(asked), "after {seconds} s");
            assert_eq!(Vec::from_iter(resync.among(["e1", "e2"])), asked, "after {seconds} s");
        }
        assert!(resync.asked().told.is_empty(), "who was told long ago is kept");
    }

    #[test]
    fn who_must_send_everything_is_told_once_also_after_a_restart() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let resync = Resync::open(store.clone()).unwrap();
        let (ids, now) = (ids(&["e1", "e2", "e1"]), Instant::now());
        resync.add(ids, now).unwrap();
        let asked = resync.among(["e1", "e3", "e1"]);
        assert_eq!(resync.take(asked.clone(), now).unwrap(), ["e1"]);
        assert_eq!(resync.take(asked, now).unwrap(), [""; 0]);
        let resync = Resync::open(store).unwrap();
        assert_eq!(Vec::from_iter(resync.among(["e1", "e2"])), ["e2"]);
    }
}
