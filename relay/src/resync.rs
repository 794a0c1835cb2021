//! Endpoints that the tier above asked to send everything again: kept until the endpoint was told.

use std::sync::Arc;

use tierway_common::{
    id::EndpointId,
    store::{Batch, Store, StoreError},
};

const PREFIX: &[u8] = b"r";

/// The set, on disk; cheap to clone.
#[derive(Clone, Debug)]
pub struct Resync(Arc<dyn Store>);

impl Resync {
    /// The set in `store`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self(store)
    }

    /// Adds endpoints.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub fn add<'a>(&self, endpoints: impl Iterator<Item = &'a EndpointId>) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        for endpoint in endpoints {
            batch.put(key(endpoint.as_str()), Vec::new());
        }
        if batch.is_empty() { Ok(()) } else { self.0.commit(&batch) }
    }

    /// Whether `endpoint` is in the set, taking it out: the answer goes to it, and if that is lost the
    /// tier above finds the same gap again.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub fn take(&self, endpoint: &str) -> Result<bool, StoreError> {
        if self.0.get(&key(endpoint))?.is_none() {
            return Ok(false);
        }
        let mut batch = Batch::new();
        batch.delete(key(endpoint));
        self.0.commit(&batch)?;
        Ok(true)
    }
}

fn key(endpoint: &str) -> Vec<u8> {
    [PREFIX, endpoint.as_bytes()].concat()
}
