//! Hot small blobs in memory, by least recent use: the nodes of trees, which every check walks through.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::trust::digest::Digest;

/// A larger blob is not kept.
pub(super) const BLOB_BYTES_MAX: u64 = 256 * 1024;

/// Verified blobs, within a limit of bytes.
#[derive(Debug)]
pub(super) struct Cache {
    bytes_max: u64,
    bytes: u64,
    tick: u64,
    blobs: HashMap<Digest, (Bytes, u64)>,
    /// By last use.
    order: BTreeMap<u64, Digest>,
}

impl Cache {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { bytes_max, bytes: 0, tick: 0, blobs: HashMap::new(), order: BTreeMap::new() }
    }

    pub(super) fn resize(&mut self, bytes_max: u64) {
        self.bytes_max = bytes_max;
        self.shrink();
    }

    pub(super) fn get(&mut self, digest: &Digest) -> Option<Bytes> {
        let (bytes, used) = self.blobs.get_mut(digest)?;
        self.tick += 1;
        self.order.remove(used);
        *used = self.tick;
        self.order.insert(self.tick, *digest);
        Some(bytes.clone())
    }

    pub(super) fn insert(&mut self, digest: &Digest, bytes: Bytes) {
        self.remove(digest);
        if bytes.len() as u64 > BLOB_BYTES_MAX {
            return;
        }
        self.tick += 1;
        self.bytes += bytes.len() as u64;
        self.blobs.insert(*digest, (bytes, self.tick));
        self.order.insert(self.tick, *digest);
        self.shrink();
    }

    pub(super) fn remove(&mut self, digest: &Digest) {
        if let Some((bytes, used)) = self.blobs.remove(digest) {
            self.bytes -= bytes.len() as u64;
            self.order.remove(&used);
        }
    }

    fn shrink(&mut self) {
        while self.bytes > self.bytes_max
            && let Some((_, digest)) = self.order.pop_first()
        {
            if let Some((bytes, _)) = self.blobs.remove(&digest) {
                self.bytes -= bytes.len() as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_blob_goes_first_and_the_limits_hold() {
        let mut cache = Cache::new(30);
        let digests: Vec<_> = (0..5u8).map(|n| Digest::of(&[n])).collect();
        let ten = || Bytes::from(vec![0; 10]);
        for digest in &digests[..3] {
            cache.insert(digest, ten());
        }
        assert!(cache.get(&digests[0]).is_some());
        cache.insert(&digests[3], ten());
        assert!(cache.get(&digests[1]).is_none(), "it was used longest ago");
        assert!(cache.get(&digests[0]).is_some() && cache.get(&digests[2]).is_some());
        cache.insert(&digests[4], Bytes::from(vec![0; 31]));
        assert_eq!((cache.bytes, cache.blobs.len(), cache.order.len()), (0, 0, 0), "larger than everything");
        cache.insert(&digests[0], ten());
        cache.insert(&digests[0], Bytes::from(vec![0; 20]));
        cache.insert(&digests[1], ten());
        cache.remove(&digests[0]);
        assert_eq!((cache.bytes, cache.blobs.len(), cache.order.len()), (10, 1, 1));
        cache.resize(u64::MAX);
        cache.insert(&digests[2], Bytes::from(vec![0; 256 * 1024 + 1]));
        assert!(cache.get(&digests[2]).is_none(), "too large to be kept");
        cache.resize(0);
        assert_eq!((cache.bytes, cache.blobs.len(), cache.order.len()), (0, 0, 0));
    }
}
