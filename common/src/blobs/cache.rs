//! The hot part of the blobs in memory: chunks of a fixed size, by least recent use.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::trust::digest::Digest;

/// Bytes of a chunk, the last of a blob excepted; the same as a blob chunk on the wire, so that serving
/// one copies nothing.
pub(super) const CHUNK_BYTES: u64 = 256 * 1024;

/// Verified chunks, within a limit of bytes.
#[derive(Debug)]
pub(super) struct Cache {
    bytes_max: u64,
    bytes: u64,
    tick: u64,
    chunks: HashMap<(Digest, u64), (Bytes, u64)>,
    /// By last use.
    order: BTreeMap<u64, (Digest, u64)>,
}

impl Cache {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { bytes_max, bytes: 0, tick: 0, chunks: HashMap::new(), order: BTreeMap::new() }
    }

    pub(super) fn resize(&mut self, bytes_max: u64) {
        self.bytes_max = bytes_max;
        self.shrink();
    }

    pub(super) fn get(&mut self, digest: &Digest, chunk: u64) -> Option<Bytes> {
        let (bytes, used) = self.chunks.get_mut(&(*digest, chunk))?;
        self.tick += 1;
        self.order.remove(used);
        *used = self.tick;
        self.order.insert(self.tick, (*digest, chunk));
        Some(bytes.clone())
    }

    pub(super) fn insert(&mut self, digest: &Digest, chunk: u64, bytes: Bytes) {
        self.drop_chunk((*digest, chunk));
        self.tick += 1;
        self.bytes += bytes.len() as u64;
        self.chunks.insert((*digest, chunk), (bytes, self.tick));
        self.order.insert(self.tick, (*digest, chunk));
        self.shrink();
    }

    /// Forgets every chunk of a blob.
    pub(super) fn remove(&mut self, digest: &Digest) {
        let keys: Vec<_> = self.chunks.keys().filter(|(of, _)| of == digest).copied().collect();
        for key in keys {
            self.drop_chunk(key);
        }
    }

    fn drop_chunk(&mut self, key: (Digest, u64)) {
        if let Some((bytes, used)) = self.chunks.remove(&key) {
            self.bytes -= bytes.len() as u64;
            self.order.remove(&used);
        }
    }

    fn shrink(&mut self) {
        while self.bytes > self.bytes_max
            && let Some((_, key)) = self.order.pop_first()
        {
            if let Some((bytes, _)) = self.chunks.remove(&key) {
                self.bytes -= bytes.len() as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_chunk_goes_first_and_the_limit_holds() {
        let mut cache = Cache::new(30);
        let digest = Digest::of(b"x");
        let other = Digest::of(b"y");
        for chunk in 0..3 {
            cache.insert(&digest, chunk, Bytes::from(vec![0; 10]));
        }
        assert!(cache.get(&digest, 0).is_some());
        cache.insert(&other, 0, Bytes::from(vec![0; 10]));
        assert!(cache.get(&digest, 1).is_none(), "chunk 1 was used longest ago");
        assert!(cache.get(&digest, 0).is_some() && cache.get(&digest, 2).is_some());
        cache.insert(&other, 1, Bytes::from(vec![0; 31]));
        assert_eq!((cache.bytes, cache.chunks.len(), cache.order.len()), (0, 0, 0), "larger than everything");
        cache.insert(&digest, 0, Bytes::from(vec![0; 10]));
        cache.insert(&digest, 0, Bytes::from(vec![0; 20]));
        cache.insert(&other, 0, Bytes::from(vec![0; 10]));
        cache.remove(&digest);
        assert_eq!((cache.bytes, cache.chunks.len(), cache.order.len()), (10, 1, 1));
        cache.resize(0);
        assert_eq!((cache.bytes, cache.chunks.len(), cache.order.len()), (0, 0, 0));
    }
}
