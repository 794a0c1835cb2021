//! The store in memory: the model that other backends are compared with, and what tests use.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{PoisonError, RwLock},
};

use super::{Batch, Row, Store, StoreError};

/// A store that lasts as long as the process.
#[derive(Debug, Default)]
pub struct MemoryStore {
    rows: RwLock<BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl MemoryStore {
    /// Empty.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Store for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.rows.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned())
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, StoreError> {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        Ok(rows
            .range::<[u8], _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limit)
            .map(|(key, value)| Row { key: key.clone(), value: value.clone() })
            .collect())
    }

    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        batch.check()?;
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        for expect in &batch.expects {
            if !expect.holds(rows.get(expect.key()).map(Vec::as_slice)) {
                return Err(StoreError::Conflict { key: expect.key().to_vec() });
            }
        }
        for key in &batch.deletes {
            rows.remove(key);
        }
        for (key, value) in &batch.puts {
            rows.insert(key.clone(), value.clone());
        }
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::contract;

    #[test]
    fn the_memory_store_keeps_the_contract() {
        contract::check(&|| Box::new(MemoryStore::new()));
    }
}
