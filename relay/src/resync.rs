//! Endpoints that the tier above asked to send everything again: kept until the endpoint was told.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tierway_common::{
    id::EndpointId,
    store::{Batch, Store, StoreError},
};

/// Endpoints in the set; what does not fit is asked for again by the tier above.
const ENDPOINTS_MAX: usize = 100_000;
const PREFIX: &[u8] = b"r";

/// The set, on disk, and in memory too, since every check-in asks; cheap to clone.
#[derive(Clone, Debug)]
pub struct Resync(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    /// Never less than what is on disk.
    set: Mutex<BTreeSet<String>>,
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
        Ok(Self(Arc::new(Inner { store, set: Mutex::new(set) })))
    }

    /// Those of `named` that are in the set; does not touch the disk.
    #[must_use]
    pub fn among<'a>(&self, named: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
        let set = self.set();
        if set.is_empty() {
            return BTreeSet::new();
        }
        named.into_iter().filter(|endpoint| set.contains(*endpoint)).map(str::to_owned).collect()
    }

    /// Adds endpoints; waits for the disk.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub fn add<'a>(&self, endpoints: impl Iterator<Item = &'a EndpointId>) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        {
            let mut set = self.set();
            for endpoint in endpoints {
                if set.len() < ENDPOINTS_MAX && set.insert(endpoint.to_string()) {
                    batch.put(key(endpoint.as_str()), Vec::new());
                }
            }
        }
        if batch.is_empty() { Ok(()) } else { self.0.store.commit(&batch) }
    }

    /// Takes endpoints out that are in the set; waits for the disk. Those of them that still were, which the answer
    /// goes to: if that is lost the tier above finds the same gap again.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub fn take(&self, endpoints: BTreeSet<String>) -> Result<Vec<String>, StoreError> {
        let mut batch = Batch::new();
        for endpoint in &endpoints {
            batch.delete(key(endpoint));
        }
        self.0.store.commit(&batch)?;
        let mut set = self.set();
        Ok(endpoints.into_iter().filter(|endpoint| set.remove(endpoint)).collect())
    }

    fn set(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(endpoint: &str) -> Vec<u8> {
    [PREFIX, endpoint.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use tierway_common::store::memory::MemoryStore;

    use super::*;

    #[test]
    fn who_must_send_everything_is_told_once_also_after_a_restart() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let resync = Resync::open(store.clone()).unwrap();
        let ids: Vec<EndpointId> = ["e1", "e2", "e1"].map(|id| id.parse().unwrap()).into();
        resync.add(ids.iter()).unwrap();
        let asked = resync.among(["e1", "e3", "e1"]);
        assert_eq!(resync.take(asked.clone()).unwrap(), ["e1"]);
        assert_eq!(resync.take(asked).unwrap(), [""; 0]);
        let resync = Resync::open(store).unwrap();
        assert_eq!(Vec::from_iter(resync.among(["e1", "e2"])), ["e2"]);
    }
}
