//! What the directory holds, in memory: lengths, last uses, pins, partials.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::Path,
    sync::{Arc, Weak},
};

use tracing::warn;

use super::{
    BlobError,
    disk::{self, FileIdentity},
    reader::OpenBlob,
};
use crate::trust::digest::Digest;

#[derive(Debug)]
struct Entry {
    bytes: u64,
    /// The later it was used, the greater.
    used: u64,
    /// Last use as it is on disk, Unix seconds.
    touched: i64,
    /// Boxed, for a tree has thousands of nodes and none of them is served in pieces.
    verified: Option<Box<FileIdentity>>,
    open: Weak<OpenBlob>,
}

#[derive(Debug)]
struct Partial {
    /// Bytes set aside: what is on disk, or all that is expected while it is written.
    claimed: u64,
    written: u64,
    writing: bool,
    used: u64,
}

/// All of it; the caller holds its lock.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: HashMap<Digest, Entry>,
    tick: u64,
    bytes: u64,
    partials: BTreeMap<Digest, Partial>,
    /// Bytes of small blobs that are being written.
    putting: u64,
    /// By name of the pin file.
    pins: BTreeMap<String, Arc<BTreeSet<Digest>>>,
}

impl Index {
    /// Reads the directory; removes what is worth nothing.
    pub(super) fn read(dir: &Path) -> Result<Self, BlobError> {
        let mut index = Self::default();
        let mut found = Vec::new();
        for fan in 0..=255u8 {
            let fan = dir.join(hex::encode([fan]));
            for entry in fs::read_dir(&fan).map_err(disk::error("read", &fan))? {
                let entry = entry.map_err(disk::error("read", &fan))?;
                let path = entry.path();
                let digest = entry.file_name().to_str().and_then(|name| name.parse::<Digest>().ok());
                let data = entry.metadata().map_err(disk::error("read", &path))?;
                match digest {
                    Some(digest) if data.is_file() && path == disk::blob_path(dir, &digest) => {
                        found.push((disk::when(data.accessed()), digest, data.len()));
                    }
                    _ => warn!(path = %path.display(), "a file among the blobs is none"),
                }
            }
        }
        found.sort_unstable();
        for (touched, digest, bytes) in found {
            index.insert(digest, bytes, disk::unix_seconds(touched), None);
        }

        let partials = dir.join("partial");
        let mut found = Vec::new();
        for entry in fs::read_dir(&partials).map_err(disk::error("read", &partials))? {
            let path = entry.map_err(disk::error("read", &partials))?.path();
            let digest = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            let data = fs::metadata(&path).map_err(disk::error("read", &path))?;
            match digest {
                Some(digest) => found.push((disk::when(data.modified()), digest, data.len())),
                None => disk::remove(&path)?,
            }
        }
        found.sort_unstable();
        for (_, digest, bytes) in found {
            index.tick += 1;
            let partial = Partial { claimed: bytes, written: bytes, writing: false, used: index.tick };
            index.partials.insert(digest, partial);
        }

        let pins = dir.join("pins");
        for entry in fs::read_dir(&pins).map_err(disk::error("read", &pins))? {
            let entry = entry.map_err(disk::error("read", &pins))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let content = fs::read(entry.path()).map_err(disk::error("read", &entry.path()))?;
            let (digests, rest) = content.as_chunks::<32>();
            if !rest.is_empty() {
                warn!(path = %entry.path().display(), "a pin file does not end with a whole digest");
            }
            index.set_pins(name, digests.iter().map(|bytes| Digest::from_bytes(*bytes)).collect());
        }
        Ok(index)
    }

    pub(super) fn len(&self, digest: &Digest) -> Option<u64> {
        self.entries.get(digest).map(|entry| entry.bytes)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn count(&self) -> u64 {
        self.entries.len() as u64
    }

    pub(super) fn insert(
        &mut self,
        digest: Digest,
        bytes: u64,
        touched: i64,
        verified: Option<FileIdentity>,
    ) {
        self.remove(&digest);
        self.tick += 1;
        self.bytes += bytes;
        let verified = verified.map(Box::new);
        self.entries.insert(digest, Entry { bytes, used: self.tick, touched, verified, open: Weak::new() });
    }

    pub(super) fn remove(&mut self, digest: &Digest) {
        if let Some(entry) = self.entries.remove(digest) {
            self.bytes -= entry.bytes;
        }
    }

    /// Notes a use, in memory only.
    pub(super) fn used_now(&mut self, digest: &Digest) {
        if let Some(entry) = self.entries.get_mut(digest) {
            self.tick += 1;
            entry.used = self.tick;
        }
    }

    /// Notes a use at `now`; whether the one on disk is at least `period` seconds old.
    pub(super) fn used(&mut self, digest: &Digest, now: i64, period: i64) -> bool {
        self.used_now(digest);
        let Some(entry) = self.entries.get_mut(digest) else { return false };
        let stale = now.saturating_sub(entry.touched) >= period;
        if stale {
            entry.touched = now;
        }
        stale
    }

    /// The least recently used blobs that nobody pins or reads and that are not among `spared`, until they
    /// have `target` bytes together.
    pub(super) fn evictable(&self, target: u64, spared: &BTreeSet<Digest>) -> Vec<(Digest, u64)> {
        let mut candidates: Vec<_> = self
            .entries
            .iter()
            .filter(|(digest, entry)| {
                let wanted = spared.contains(digest) || self.pins.values().any(|pins| pins.contains(digest));
                !wanted && entry.open.strong_count() == 0
            })
            .map(|(digest, entry)| (entry.used, *digest, entry.bytes))
            .collect();
        // Put in order only now: making room is rare, and an order that is kept costs memory and every use.
        candidates.sort_unstable();
        let mut bytes = 0;
        let enough = candidates.into_iter().take_while(|(_, _, more)| {
            let before = bytes;
            bytes += more;
            before < target
        });
        enough.map(|(_, digest, bytes)| (digest, bytes)).collect()
    }

    pub(super) fn verified(&self, digest: &Digest) -> Option<FileIdentity> {
        self.entries.get(digest)?.verified.as_deref().copied()
    }

    pub(super) fn set_verified(&mut self, digest: &Digest, identity: FileIdentity) {
        if let Some(entry) = self.entries.get_mut(digest) {
            entry.verified = Some(Box::new(identity));
        }
    }

    pub(super) fn open(&self, digest: &Digest) -> Option<Arc<OpenBlob>> {
        self.entries.get(digest)?.open.upgrade()
    }

    pub(super) fn set_open(&mut self, digest: &Digest, open: &Arc<OpenBlob>) {
        if let Some(entry) = self.entries.get_mut(digest) {
            entry.open = Arc::downgrade(open);
        }
    }

    pub(super) fn pins(&self, name: &str) -> Arc<BTreeSet<Digest>> {
        self.pins.get(name).map(Arc::clone).unwrap_or_default()
    }

    pub(super) fn set_pins(&mut self, name: String, digests: BTreeSet<Digest>) {
        if digests.is_empty() {
            self.pins.remove(&name);
        } else {
            self.pins.insert(name, Arc::new(digests));
        }
    }

    /// Begins or continues a partial; false if it is being written already.
    pub(super) fn begin_partial(&mut self, digest: &Digest) -> bool {
        self.tick += 1;
        let partial = self.partials.entry(*digest).or_insert(Partial {
            claimed: 0,
            written: 0,
            writing: false,
            used: 0,
        });
        partial.used = self.tick;
        !std::mem::replace(&mut partial.writing, true)
    }

    /// Sets what a partial being written has on disk and sets aside.
    pub(super) fn set_partial(&mut self, digest: &Digest, written: u64, claimed: u64) {
        if let Some(partial) = self.partials.get_mut(digest) {
            partial.written = written;
            partial.claimed = claimed.max(written);
        }
    }

    /// Nobody writes it after all: it is as it was before it was begun, or gone if it was not there.
    pub(super) fn stop_partial(&mut self, digest: &Digest) {
        match self.partials.get_mut(digest) {
            Some(partial) if partial.written > 0 => partial.writing = false,
            _ => self.remove_partial(digest),
        }
    }

    /// Nobody writes it any more; `written` bytes are on disk.
    pub(super) fn end_partial(&mut self, digest: &Digest, written: u64) {
        if let Some(partial) = self.partials.get_mut(digest) {
            (partial.written, partial.claimed, partial.writing) = (written, written, false);
        }
    }

    pub(super) fn remove_partial(&mut self, digest: &Digest) {
        self.partials.remove(digest);
    }

    /// The one longest ago begun or continued of those nobody writes, and its bytes.
    pub(super) fn oldest_idle_partial(&self) -> Option<(Digest, u64)> {
        let idle = self.partials.iter().filter(|(_, partial)| !partial.writing);
        idle.min_by_key(|(_, partial)| partial.used).map(|(digest, partial)| (*digest, partial.written))
    }

    pub(super) fn idle_partial_bytes(&self) -> u64 {
        self.partials.values().filter(|partial| !partial.writing).map(|partial| partial.written).sum()
    }

    pub(super) fn partial_count(&self) -> usize {
        self.partials.len()
    }

    pub(super) fn partial_bytes(&self) -> u64 {
        self.putting + self.partials.values().map(|partial| partial.claimed).sum::<u64>()
    }

    /// Bytes that were promised room and are not on disk yet.
    pub(super) fn announced_bytes(&self) -> u64 {
        let partials = self.partials.values().map(|partial| partial.claimed - partial.written);
        self.putting + partials.sum::<u64>()
    }

    pub(super) fn announce(&mut self, bytes: u64) {
        self.putting += bytes;
    }

    pub(super) fn announced(&mut self, bytes: u64) {
        self.putting -= bytes;
    }
}
