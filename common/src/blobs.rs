//! Files named by the SHA-256 of their content: payloads, tree nodes, large documents.
//!
//! A blob is whole or absent. It is written to another name, hashed while it is written, synced, renamed, and
//! its directory synced. What a crash leaves is a partial, which the next [`Writer`] hashes again and
//! continues. A blob is hashed again before its bytes are believed: on every [`Blobs::get`] from disk, and
//! once per process and file for [`Blobs::reader`] and [`Blobs::path`]. One that no longer has
//! its digest is set aside and is absent from then on, so that the caller fetches it again; so is one that opens and
//! cannot be read, but for its file, which stays until it comes anew.
//!
//! The directory has a quota and leaves a floor of free space on its file system. When room is
//! needed, blobs go by least recent use; never one that is pinned, or that someone is reading. To be
//! sure of a set of blobs, pin it before fetching it: a pin may name what is still absent.
//!
//! Everything here blocks: asynchronous callers use `spawn_blocking`.
//!
//! ```text
//! <dir>/lock           held while open
//! <dir>/ab/<hex>       blobs, by the first byte of their digest; access time = last use, to the hour
//! <dir>/partial/<hex>  blobs being written, or left by an interruption
//! <dir>/pins/<owner>   32 bytes for each digest that the owner pins
//! <dir>/corrupt/<hex>  the last few that no longer had their digest, or that were no files
//! ```

mod cache;
mod disk;
mod index;
mod nodes;
mod reader;
mod room;
mod writer;

use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, File, TryLockError},
    io::Read as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use tracing::{error, warn};

use self::{cache::Cache, index::Index};
pub use self::{reader::Reader, writer::Writer};
use crate::{clock::Clock, daemon::chain::Chain, files::Lock, trust::digest::Digest};

/// Memory for hot small blobs unless [`Blobs::set_cache_bytes`] says otherwise: small
/// enough for an endpoint, where it holds the inner nodes of every tree.
pub const CACHE_BYTES: u64 = 8 * 1024 * 1024;
/// Partials that are kept for resuming: more than are ever fetched at a time, few enough to be looked through.
pub const PARTIALS_MAX: usize = 64;
/// Corrupt files that are kept for a person to look at.
pub const CORRUPT_FILES_MAX: usize = 16;
/// A corrupt file larger than this is removed at once: it would take the place of good ones.
pub const CORRUPT_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Digests that one owner may pin: 32 MB of pin file, five catalogues of 200,000 documents.
pub const PIN_DIGESTS_MAX: usize = 1_000_000;
/// A blob's last use is written to disk at most this often, so that reading seldom means writing.
const TOUCH_SECONDS: i64 = 3600;
/// Locks under which blobs are verified, by digest: the same blob is never hashed twice at once, two
/// blobs seldom wait for each other.
const VERIFY_LOCKS: usize = 64;
/// From this many small blobs on one sync of the whole file system costs less than one per file.
const SYNC_ALL_FROM: usize = 16;

/// How much room there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobOptions {
    /// Bytes that blobs and partials may have together.
    pub quota_bytes: u64,
    /// Bytes that stay free on the file system.
    pub free_floor_bytes: u64,
}

/// What is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of all blobs.
    pub bytes: u64,
    /// Number of blobs.
    pub count: u64,
    /// Bytes that blobs and partials may have together.
    pub quota: u64,
    /// Bytes of partials, those being written counted with their whole expected length.
    pub partial_bytes: u64,
    /// Blobs that were found corrupt or unreadable since the directory was opened.
    pub corrupt: u64,
}

/// What an eviction removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EvictReport {
    /// Number of blobs and partials.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Why a blob could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// It is not here, or was found corrupt or unreadable just now: fetch it.
    #[error("blob `{digest}` is not here")]
    Absent {
        /// Which one.
        digest: Digest,
    },
    /// What was written is something else; it was removed.
    #[error("blob `{digest}` was announced, but the bytes have digest `{found}`")]
    Mismatch {
        /// What it should be.
        digest: Digest,
        /// What it is.
        found: Digest,
    },
    /// More bytes than the caller accepts or announced.
    #[error("blob `{digest}` has more than {bytes_max} bytes")]
    TooLarge {
        /// Which one.
        digest: Digest,
        /// The limit.
        bytes_max: u64,
    },
    /// Someone is writing the same blob; wait and look again.
    #[error("blob `{digest}` is being written by another")]
    Writing {
        /// Which one.
        digest: Digest,
    },
    /// Everything that may be evicted is, and there is still no room within the quota.
    #[error("{needed} bytes do not fit into the quota of {quota} bytes of `{}`", dir.display())]
    QuotaExceeded {
        /// The directory of the blobs.
        dir: PathBuf,
        /// Bytes wanted.
        needed: u64,
        /// Bytes allowed.
        quota: u64,
    },
    /// The file system is full, or would have less free space than it must keep.
    #[error("no space left for `{}`", path.display())]
    DiskFull {
        /// What could not be written.
        path: PathBuf,
    },
    /// Another process, or another handle in this one, has the directory open.
    #[error("blob directory `{}` is already open, in this or another process", dir.display())]
    Busy {
        /// The directory.
        dir: PathBuf,
    },
    /// An owner of pins without a name, or with too long a one, or of more than [`PIN_DIGESTS_MAX`].
    #[error("`{owner}` cannot pin {count} blobs")]
    Pins {
        /// The owner, cut to 160 characters.
        owner: String,
        /// How many it wanted.
        count: usize,
    },
    /// A file could not be read, written, renamed or synced.
    #[error("could not {doing} `{}`", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// A directory of blobs. A clone is another handle to the same.
#[derive(Clone)]
pub struct Blobs(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    options: BlobOptions,
    clock: Clock,
    index: Mutex<Index>,
    cache: Mutex<Cache>,
    verify: [Mutex<()>; VERIFY_LOCKS],
    /// Held while an owner's pins are replaced.
    pinning: Mutex<()>,
    temporary: AtomicU64,
    corrupt: AtomicU64,
    is_the_source: AtomicBool,
    _lock: Lock,
}

impl fmt::Debug for Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blobs")
            .field("dir", &self.0.dir)
            .field("usage", &self.usage())
            .finish_non_exhaustive()
    }
}

impl Blobs {
    /// Opens the blobs in `dir`, and makes the directory if there is none. Reads the directories, not the blobs.
    ///
    /// # Errors
    ///
    /// [`BlobError::Busy`] when it is open already; [`BlobError::Io`] and [`BlobError::DiskFull`].
    pub fn open(dir: &Path, options: BlobOptions) -> Result<Self, BlobError> {
        Self::open_with_clock(dir, options, Clock::system())
    }

    /// As [`Blobs::open`], with last uses in the time of `clock`.
    ///
    /// # Errors
    ///
    /// As [`Blobs::open`].
    pub fn open_with_clock(dir: &Path, options: BlobOptions, clock: Clock) -> Result<Self, BlobError> {
        disk::create_dirs(dir)?;
        let lock_path = dir.join("lock");
        let lock = disk::create(&lock_path)?;
        let lock = match Lock::take(lock) {
            Ok(lock) => lock,
            Err(TryLockError::WouldBlock) => return Err(BlobError::Busy { dir: dir.to_path_buf() }),
            Err(TryLockError::Error(source)) => return Err(disk::error("lock", &lock_path)(source)),
        };
        let index = Index::read(dir)?;
        Ok(Self(Arc::new(Inner {
            dir: dir.to_path_buf(),
            options,
            clock,
            index: Mutex::new(index),
            cache: Mutex::new(Cache::new(CACHE_BYTES)),
            verify: std::array::from_fn(|_| Mutex::default()),
            pinning: Mutex::default(),
            temporary: AtomicU64::new(0),
            corrupt: AtomicU64::new(0),
            is_the_source: AtomicBool::new(false),
            _lock: lock,
        })))
    }

    /// Lets hot small blobs take `bytes` of memory from now on.
    pub fn set_cache_bytes(&self, bytes: u64) {
        self.0.cache().resize(bytes);
    }

    /// Whether the blob is here; does not count as a use.
    #[must_use]
    pub fn contains(&self, digest: &Digest) -> bool {
        self.0.index().len(digest).is_some()
    }

    /// Its length in bytes, if it is here; does not count as a use.
    #[must_use]
    pub fn len(&self, digest: &Digest) -> Option<u64> {
        self.0.index().len(digest)
    }

    /// Keeps `bytes`, durable on return.
    ///
    /// # Errors
    ///
    /// [`BlobError::QuotaExceeded`], [`BlobError::DiskFull`], [`BlobError::Io`].
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, BlobError> {
        let digest = Digest::of(bytes);
        self.0.put_all(&[(digest, bytes)])?;
        Ok(digest)
    }

    /// Keeps all of these small blobs, durable on return, with a few syncs for all of them. After a
    /// failure some may be here. The digests are in the order of `blobs`.
    ///
    /// # Errors
    ///
    /// As [`Blobs::put`].
    pub fn put_many(&self, blobs: &[Bytes]) -> Result<Vec<Digest>, BlobError> {
        let digests: Vec<_> = blobs.iter().map(|bytes| Digest::of(bytes)).collect();
        let pairs: Vec<_> = digests.iter().zip(blobs).map(|(digest, bytes)| (*digest, &bytes[..])).collect();
        self.0.put_all(&pairs)?;
        Ok(digests)
    }

    /// The whole blob, hashed when it comes from disk.
    ///
    /// # Errors
    ///
    /// [`BlobError::Absent`] also when it was found corrupt or unreadable; [`BlobError::TooLarge`] when it has more
    /// than `bytes_max`; [`BlobError::Io`] when it does not open, and after [`Blobs::be_the_source`] when it cannot be read.
    pub fn get(&self, digest: &Digest, bytes_max: u64) -> Result<Bytes, BlobError> {
        let inner = &*self.0;
        let bytes = inner.index().len(digest).ok_or(BlobError::Absent { digest: *digest })?;
        if bytes > bytes_max {
            return Err(BlobError::TooLarge { digest: *digest, bytes_max });
        }
        // In a statement of its own: the lock of the cache is never held while that of the index is taken.
        let hot = inner.cache().get(digest);
        if let Some(whole) = hot {
            inner.used(digest);
            return Ok(whole);
        }
        let (_, mut file) = inner.open_file(digest)?;
        let mut content = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
        let read = (&mut file).take(bytes + 1).read_to_end(&mut content);
        read.map_err(|source| inner.unreadable(digest, &source))?;
        let found = Digest::of(&content);
        if found != *digest {
            return Err(inner.quarantine(digest, &found));
        }
        inner.used(digest);
        let content = Bytes::from(content);
        inner.cache().insert(digest, content.clone());
        Ok(content)
    }

    /// The whole blob if it is small and hot; never waits for the disk.
    #[must_use]
    pub fn at_hand(&self, digest: &Digest) -> Option<Bytes> {
        let inner = &*self.0;
        inner.index().len(digest)?;
        // In a statement of its own: the lock of the cache is never held while that of the index is taken.
        let hot = inner.cache().get(digest);
        let whole = hot?;
        inner.index().used_now(digest);
        Some(whole)
    }

    /// Has the blob at hand from now on, as far as there is room; `bytes` are hashed first, and those of another blob are
    /// not taken.
    pub fn hold(&self, digest: &Digest, bytes: &[u8]) {
        if bytes.len() as u64 <= cache::BLOB_BYTES_MAX && Digest::of(bytes) == *digest {
            self.0.cache().insert(digest, Bytes::copy_from_slice(bytes));
        }
    }

    /// Begins to write a blob, where the last interrupted attempt ended. The whole of `expected_bytes`
    /// is set aside at once.
    ///
    /// # Errors
    ///
    /// [`BlobError::Writing`] while another writes it; [`BlobError::QuotaExceeded`],
    /// [`BlobError::DiskFull`], [`BlobError::Io`].
    pub fn writer(&self, digest: &Digest, expected_bytes: Option<u64>) -> Result<Writer, BlobError> {
        Writer::open(Arc::clone(&self.0), *digest, expected_bytes)
    }

    /// The blob, to be served piece by piece to many. It is hashed unless this process did so since the
    /// file last changed; while a reader lives the blob is not evicted.
    ///
    /// # Errors
    ///
    /// [`BlobError::Absent`] also when it was found corrupt or unreadable; [`BlobError::Io`] when it does not open, and
    /// after [`Blobs::be_the_source`] when it cannot be read.
    pub fn reader(&self, digest: &Digest) -> Result<Reader, BlobError> {
        Reader::open(&self.0, digest)
    }

    /// There is nowhere else from which these blobs could come: what cannot be read now does not count as absent, and is
    /// tried again each time.
    pub fn be_the_source(&self) {
        self.0.is_the_source.store(true, Ordering::Relaxed);
    }

    /// The blob, as [`Blobs::reader`] gives it; `None`, with a line in the log, when it is damaged, unreadable or does
    /// not open, and `None` when it is not here.
    #[must_use]
    pub fn find(&self, digest: &Digest) -> Option<Reader> {
        match self.reader(digest) {
            Ok(reader) => Some(reader),
            Err(BlobError::Absent { .. }) => None,
            Err(error) => {
                warn!(blob = %digest, error = %Chain(&error), "could not open a blob");
                None
            }
        }
    }

    /// Where the blob lies, verified as by [`Blobs::reader`]; `None` if it is absent, corrupt or unreadable.
    /// Pin it while the path is in use.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> Option<PathBuf> {
        self.find(digest).map(|_| disk::blob_path(&self.0.dir, digest))
    }

    /// Replaces what `owner` pins, durable on return; an empty set ends it. Pinned blobs are not
    /// evicted, whoever pinned them, and may still be absent.
    ///
    /// # Errors
    ///
    /// [`BlobError::Pins`] for an impossible owner or too many; [`BlobError::DiskFull`], [`BlobError::Io`].
    pub fn pin(&self, owner: &str, digests: &BTreeSet<Digest>) -> Result<(), BlobError> {
        let name = disk::pin_name(owner).filter(|_| digests.len() <= PIN_DIGESTS_MAX).ok_or_else(|| {
            BlobError::Pins { owner: owner.chars().take(160).collect(), count: digests.len() }
        })?;
        let inner = &*self.0;
        let _pinning = inner.pinning.lock().unwrap_or_else(PoisonError::into_inner);
        if *inner.index().pins(&name) == *digests {
            return Ok(());
        }
        let dir = inner.dir.join("pins");
        let path = dir.join(&name);
        if digests.is_empty() {
            disk::remove(&path)?;
        } else {
            let temporary = inner.temporary_path();
            let content: Vec<u8> = digests.iter().flat_map(|digest| *digest.as_bytes()).collect();
            disk::write_synced(&temporary, &content)?;
            disk::rename(&temporary, &path)?;
        }
        disk::sync_dir(&dir)?;
        inner.index().set_pins(name, digests.clone());
        Ok(())
    }

    /// What `owner` pins; empty if nothing.
    #[must_use]
    pub fn pins(&self, owner: &str) -> Arc<BTreeSet<Digest>> {
        disk::pin_name(owner).map_or_else(Arc::default, |name| self.0.index().pins(&name))
    }

    /// What `owner` pins; `None` if any of it is missing.
    #[must_use]
    pub fn pins_if_whole(&self, owner: &str) -> Option<Arc<BTreeSet<Digest>>> {
        let index = self.0.index();
        let pins = disk::pin_name(owner).map_or_else(Arc::default, |name| index.pins(&name));
        pins.iter().all(|digest| index.len(digest).is_some()).then_some(pins)
    }

    /// Evicts by least recent use down to the quota and the floor of free space.
    ///
    /// # Errors
    ///
    /// [`BlobError::QuotaExceeded`] and [`BlobError::DiskFull`] when what may be evicted is not enough;
    /// it is evicted all the same. [`BlobError::Io`].
    pub fn evict(&self) -> Result<EvictReport, BlobError> {
        let inner = &*self.0;
        inner.make_room(&mut inner.index(), 0, &BTreeSet::new(), &inner.dir)
    }

    /// How much is here.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let index = self.0.index();
        Usage {
            bytes: index.bytes(),
            count: index.count(),
            quota: self.0.options.quota_bytes,
            partial_bytes: index.partial_bytes(),
            corrupt: self.0.corrupt.load(Ordering::Relaxed),
        }
    }

    /// Removes a blob, pinned or not; one that is absent is no error. Readers that live keep what they have.
    ///
    /// # Errors
    ///
    /// [`BlobError::Io`].
    pub fn remove(&self, digest: &Digest) -> Result<(), BlobError> {
        let mut index = self.0.index();
        disk::remove(&disk::blob_path(&self.0.dir, digest))?;
        index.remove(digest);
        self.0.cache().remove(digest);
        Ok(())
    }
}

impl Inner {
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn temporary_path(&self) -> PathBuf {
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        self.dir.join("partial").join(format!("{}{number}", disk::TEMPORARY_PREFIX))
    }

    /// Counts as a use, on disk too if the last one there is long ago.
    fn used(&self, digest: &Digest) {
        let now = self.clock.now().as_second();
        if self.index().used(digest, now, TOUCH_SECONDS) {
            let path = disk::blob_path(&self.dir, digest);
            // Windows lets only whoever may write a file set its times.
            let touched = File::options().write(true).open(&path);
            if let Err(error) = touched.and_then(|file| disk::touch(&file, now)) {
                warn!(path = %path.display(), %error, "could not keep the last use of a blob");
            }
        }
    }

    /// Opens the file of a blob; one that has vanished is forgotten.
    fn open_file(&self, digest: &Digest) -> Result<(PathBuf, File), BlobError> {
        let path = disk::blob_path(&self.dir, digest);
        match File::open(&path) {
            Ok(file) => Ok((path, file)),
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => {
                self.index().remove(digest);
                self.cache().remove(digest);
                Err(BlobError::Absent { digest: *digest })
            }
            Err(source) => Err(disk::error("open", &path)(source)),
        }
    }

    /// Sets a blob aside whose bytes are not what its name says.
    fn quarantine(&self, digest: &Digest, found: &Digest) -> BlobError {
        let path = disk::blob_path(&self.dir, digest);
        error!(path = %path.display(), %found, "a blob is corrupt and was set aside");
        let mut index = self.index();
        if !self.set_aside(digest, &path)
            && let Err(error) = disk::remove(&path)
        {
            error!(%error, "could not remove a corrupt blob");
        }
        self.forget(&mut index, digest)
    }

    /// What becomes of one whose file opens and cannot be read: it is absent, so that it comes anew. The file stays
    /// until then, as the disk may come to itself; where it could come from nowhere, that is all that can be waited for.
    fn unreadable(&self, digest: &Digest, source: &std::io::Error) -> BlobError {
        let path = disk::blob_path(&self.dir, digest);
        if self.is_the_source.load(Ordering::Relaxed) {
            return disk::error("read", &path)(std::io::Error::new(source.kind(), source.to_string()));
        }
        error!(path = %path.display(), error = %source, "a blob cannot be read and counts as absent");
        let mut index = self.index();
        // A file gives way to the one that comes anew, a folder would not.
        if path.is_dir()
            && !self.set_aside(digest, &path)
            && let Err(error) = fs::remove_dir_all(&path)
        {
            error!(%error, "could not remove what stands in the place of a blob");
        }
        self.forget(&mut index, digest)
    }

    /// Moves what is not too large to where corrupt files are kept; whether it did.
    fn set_aside(&self, digest: &Digest, path: &Path) -> bool {
        let bytes = fs::metadata(path).map_or(u64::MAX, |data| data.len());
        bytes <= CORRUPT_BYTES_MAX && disk::keep_corrupt(&self.dir, digest, CORRUPT_FILES_MAX)
    }

    fn forget(&self, index: &mut Index, digest: &Digest) -> BlobError {
        self.corrupt.fetch_add(1, Ordering::Relaxed);
        index.remove(digest);
        self.cache().remove(digest);
        BlobError::Absent { digest: *digest }
    }

    /// Evicts until `needed` more bytes fit, none of `spared`; nothing if they cannot.
    fn make_room(
        &self,
        index: &mut Index,
        needed: u64,
        spared: &BTreeSet<Digest>,
        path: &Path,
    ) -> Result<EvictReport, BlobError> {
        let BlobOptions { quota_bytes, free_floor_bytes } = self.options;
        let over_quota =
            |index: &Index| (index.bytes() + index.partial_bytes() + needed).saturating_sub(quota_bytes);
        let over_floor = |index: &Index| {
            let wanted = free_floor_bytes.saturating_add(needed).saturating_add(index.announced_bytes());
            Ok::<_, BlobError>(wanted.saturating_sub(disk::free_bytes(&self.dir)?))
        };
        let mut report = EvictReport::default();
        if over_quota(index) == 0 && over_floor(index)? == 0 {
            return Ok(report);
        }
        let least = over_quota(index).max(over_floor(index)?);
        // A little more than is needed, so that not every small blob looks for its own room.
        let evictable = index.evictable(least.saturating_add(quota_bytes / 64), spared);
        let possible = evictable.iter().map(|(_, bytes)| bytes).sum::<u64>() + index.idle_partial_bytes();
        let evictable = if needed > 0 && possible < least { Vec::new() } else { evictable };
        for (digest, bytes) in evictable {
            disk::remove(&disk::blob_path(&self.dir, &digest))?;
            index.remove(&digest);
            self.cache().remove(&digest);
            report.count += 1;
            report.bytes += bytes;
        }
        while (needed == 0 || possible >= least) && (over_quota(index) > 0 || over_floor(index)? > 0) {
            let Some((digest, bytes)) = index.oldest_idle_partial() else { break };
            disk::remove(&disk::partial_path(&self.dir, &digest))?;
            index.remove_partial(&digest);
            report.count += 1;
            report.bytes += bytes;
        }
        if over_quota(index) > 0 {
            return Err(BlobError::QuotaExceeded { dir: self.dir.clone(), needed, quota: quota_bytes });
        }
        if over_floor(index)? > 0 {
            return Err(BlobError::DiskFull { path: path.to_path_buf() });
        }
        Ok(report)
    }

    fn put_all(&self, blobs: &[(Digest, &[u8])]) -> Result<(), BlobError> {
        let new: Vec<_> = {
            let mut index = self.index();
            // Those that are here already must not make room for the others.
            let mut all = BTreeSet::new();
            let mut new = Vec::new();
            for &(digest, bytes) in blobs {
                if !all.insert(digest) {
                    continue;
                }
                if index.len(&digest).is_none() {
                    new.push((digest, bytes, self.temporary_path()));
                } else {
                    index.used_now(&digest);
                }
            }
            let needed = new.iter().map(|(_, bytes, _)| bytes.len() as u64).sum();
            if needed > 0 {
                self.make_room(&mut index, needed, &all, &self.dir)?;
            }
            index.announce(needed);
            new
        };
        let result = self.write_all(&new);
        let mut index = self.index();
        index.announced(new.iter().map(|(_, bytes, _)| bytes.len() as u64).sum());
        match result {
            Ok(()) => {
                let now = self.clock.now().as_second();
                for (digest, bytes, _) in &new {
                    index.insert(*digest, bytes.len() as u64, now, None);
                }
                Ok(())
            }
            Err(error) => {
                for (digest, bytes, temporary) in &new {
                    // Best effort: the next open removes what is left.
                    let _left = fs::remove_file(temporary);
                    if disk::blob_path(&self.dir, digest).exists() {
                        index.insert(*digest, bytes.len() as u64, 0, None);
                    }
                }
                Err(error)
            }
        }
    }

    fn write_all(&self, new: &[(Digest, &[u8], PathBuf)]) -> Result<(), BlobError> {
        let together = new.len() >= SYNC_ALL_FROM;
        for (_, bytes, temporary) in new {
            if together {
                disk::write(temporary, bytes)?;
            } else {
                disk::write_synced(temporary, bytes)?;
            }
        }
        if together {
            disk::sync_files(&self.dir, new.iter().map(|(_, _, temporary)| temporary))?;
        }
        let mut dirs = BTreeSet::new();
        for (digest, _, temporary) in new {
            let path = disk::blob_path(&self.dir, digest);
            disk::rename(temporary, &path)?;
            dirs.extend(path.parent().map(Path::to_path_buf));
        }
        if together {
            return disk::sync_renames(&self.dir);
        }
        dirs.iter().try_for_each(|dir| disk::sync_dir(dir))
    }

    /// Hashes the file of a blob unless it was since it last changed.
    fn verify(&self, digest: &Digest, file: &mut File) -> Result<u64, BlobError> {
        let _verifying = self.verify[usize::from(digest.as_bytes()[0]) % VERIFY_LOCKS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let unreadable = |source: std::io::Error| self.unreadable(digest, &source);
        let identity = disk::FileIdentity::of(file).map_err(unreadable)?;
        if self.index().verified(digest) != Some(identity) {
            let found = disk::hash(file).map_err(unreadable)?;
            if found != *digest {
                return Err(self.quarantine(digest, &found));
            }
            self.index().set_verified(digest, identity);
        }
        Ok(identity.bytes)
    }
}

#[cfg(test)]
mod tests;
