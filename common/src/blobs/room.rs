//! Room for trees beside payloads: two directories on one file system, of which each evicts only its own.
//!
//! What is published must come and go also where payloads took all that they may. So payloads keep some more of
//! the disk free than trees do, and are asked to before trees grow.

use tracing::{info, warn};

use super::{BlobOptions, Blobs, EvictReport};
use crate::daemon::chain::Chain;

/// Of what stays free on the disk, payloads leave one in so many bytes more, for the trees: 128 MiB of 1 GiB.
const TREES_SHARE: u64 = 8;

impl BlobOptions {
    /// For payloads beside trees, on a file system of which `disk_free_bytes_min` stay free.
    #[must_use]
    pub fn of_payloads(quota_bytes: u64, disk_free_bytes_min: u64) -> Self {
        let free_floor_bytes = disk_free_bytes_min.saturating_add(disk_free_bytes_min / TREES_SHARE);
        Self { quota_bytes, free_floor_bytes }
    }
}

impl Blobs {
    /// As [`Blobs::evict`], before something else is kept on the same file system. That may fit also when this
    /// fails, and says so itself when it does not; so what comes of it is only logged.
    pub fn keep_room(&self) {
        match self.evict() {
            Ok(EvictReport { count: 0, .. }) => {}
            Ok(EvictReport { count, bytes }) => info!(count, bytes, "evicted blobs to make room"),
            Err(error) => warn!(error = %Chain(&error), "could not make room by evicting blobs"),
        }
    }
}
