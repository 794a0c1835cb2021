//! The client workflow of TUF 1.0, chapter 5: from an old root of trust to the newest metadata, or an error
//! that says which attack it looks like.
//!
//! [`Client::refresh`] asks for the next root and the timestamp, and for more only when the timestamp is new.
//! What was accepted is kept byte for byte in one directory and is all that the next refresh goes by; it is
//! verified again each time it is read. The time comes from the caller, who fixes it for one refresh.
//! Everything that is not the four top-level roles is fetched lazily, see [`Client::find`].
//!
//! A file of the directory that cannot be read stops the refresh ([`TufError::StoreUnreadable`]): without it
//! nobody could tell a rollback. It comes back by new timestamp and snapshot keys in the root, or by an
//! operator who removes the file.

use std::{collections::BTreeMap, future::Future, path::Path};

use bytes::Bytes;
use jiff::Timestamp;

use crate::{
    daemon::disk,
    trust::{
        durable::DurableError,
        tuf::{
            error::{FetchError, TufError},
            file_name,
            metadata::{
                MetaFile, Metadata, MetadataError, Role, Root, Signed, Snapshot, Target, Targets,
                TimestampRole,
            },
            store::Store,
        },
    },
};

/// New roots taken in one refresh; the specification's own example. An endpoint that was off for decades
/// catches up in a few refreshes.
pub const ROOTS_PER_REFRESH_MAX: u32 = 1024;

/// Furthest step of a version. A stolen online key cannot use up the numbers: see "fast-forward attack".
pub const VERSION_STEP_MAX: u64 = 1 << 32;

/// How large metadata may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Root; grows with keys and signatures, a few kB each.
    pub root_bytes: u64,
    /// Timestamp; names one file.
    pub timestamp_bytes: u64,
    /// Snapshot, when the timestamp does not give its length.
    pub snapshot_bytes: u64,
    /// Targets, when the snapshot does not give its length.
    pub targets_bytes: u64,
    /// Snapshot and targets, whatever length is given.
    pub declared_bytes: u64,
    /// Delegated roles looked at for one path; a hash bin is the second.
    pub roles_per_search: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            root_bytes: 512_000,
            timestamp_bytes: 16 * 1024,
            snapshot_bytes: 2_000_000,
            targets_bytes: 5_000_000,
            declared_bytes: 32 * 1024 * 1024,
            roles_per_search: 32,
        }
    }
}

/// Where metadata comes from: gRPC, HTTP, a directory. Nothing it returns is trusted.
pub trait Fetcher: Send + Sync {
    /// The file of `role`, `VERSION.ROLE.json` with a version and `ROLE.json` without; `None` when there is
    /// none. An implementation stops after `bytes_max` bytes and fails.
    ///
    /// # Errors
    ///
    /// [`FetchError`] when it is not known whether there is one.
    fn metadata(
        &self,
        role: &str,
        version: Option<u64>,
        bytes_max: u64,
    ) -> impl Future<Output = Result<Option<Bytes>, FetchError>> + Send;
}

/// Metadata in which everything fits and enough keys have signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trusted {
    /// Version of the root.
    pub root_version: u64,
    /// Version of the timestamp.
    pub timestamp_version: u64,
    /// Until when the timestamp is valid.
    pub timestamp_expires: Timestamp,
    /// Version of the targets.
    pub targets_version: u64,
    /// The first of the four roles to expire, and when.
    pub expires_first: (&'static str, Timestamp),
    /// The top-level targets that have a SHA-256 digest, by name.
    pub targets: BTreeMap<String, Target>,
}

/// Whether trusted metadata may still be acted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Nothing has expired.
    Fresh,
    /// New work must not be begun by it: updates may have been withheld.
    Expired {
        /// The first role that expired.
        role: &'static str,
        /// When it did.
        since: Timestamp,
    },
}

impl Trusted {
    /// Whether it may still be acted on at `now`; always fresh for the time of the refresh that gave it.
    #[must_use]
    pub fn freshness(&self, now: Timestamp) -> Freshness {
        let (role, since) = self.expires_first;
        if since <= now { Freshness::Expired { role, since } } else { Freshness::Fresh }
    }
}

/// The three roles below the root, as they are trusted now.
#[derive(Debug)]
pub(super) struct Below {
    pub(super) timestamp: Metadata<TimestampRole>,
    pub(super) snapshot: Metadata<Snapshot>,
    pub(super) targets: Metadata<Targets>,
}

/// A file and what it says.
type Kept<T> = (Vec<u8>, Metadata<T>);

/// What is on disk, and verifies under the trusted root. Any of it may have expired.
#[derive(Debug, Default)]
struct Local {
    timestamp: Option<Kept<TimestampRole>>,
    snapshot: Option<Kept<Snapshot>>,
    targets: Option<Kept<Targets>>,
}

/// Reads one repository into one directory, which nobody else writes meanwhile.
#[derive(Debug)]
pub struct Client<F> {
    pub(super) fetcher: F,
    pub(super) store: Store,
    pub(super) limits: Limits,
    pub(super) root: Metadata<Root>,
    /// Since the last successful refresh.
    pub(super) below: Option<Below>,
}

fn refused(file: &str) -> impl FnOnce(MetadataError) -> TufError {
    move |source| TufError::Refused { file: file.to_owned(), source }
}

/// Parses, verifies and reads in one go. There is no other way from bytes of a top-level role to its contents.
fn accept<T: Role>(root: &Root, bytes: &[u8]) -> Result<Metadata<T>, MetadataError> {
    let signed = Signed::parse(bytes)?;
    signed.verify(&root.keys, &root.role(T::TYPE))?;
    signed.read()
}

pub(super) fn check_expiry<T>(file: &str, metadata: &Metadata<T>, now: Timestamp) -> Result<(), TufError> {
    if metadata.is_expired(now) {
        return Err(TufError::Expired { file: file.to_owned(), since: metadata.expires, now });
    }
    Ok(())
}

fn check_step(file: &str, trusted: u64, found: u64) -> Result<(), TufError> {
    // Names of delegated roles come from outside.
    let file = || file.escape_debug().to_string();
    if found < trusted {
        return Err(TufError::Rollback { file: file(), trusted, found });
    }
    if found - trusted > VERSION_STEP_MAX {
        return Err(TufError::FastForward { file: file(), trusted, found });
    }
    Ok(())
}

/// Whether the bytes are the ones that `meta` names, as far as length and digests go.
pub(super) fn is_named(meta: &MetaFile, bytes: &[u8]) -> bool {
    meta.length.is_none_or(|length| length == bytes.len() as u64)
        && meta.hashes.as_ref().is_none_or(|hashes| hashes.match_bytes(bytes))
}

/// Metadata that is on disk, or `None` where it is absent or not signed by today's keys.
fn on_disk<T: Role>(store: &Store, root: &Root) -> Result<Option<Kept<T>>, TufError> {
    let unreadable = |source: Box<dyn std::error::Error + Send + Sync>| TufError::StoreUnreadable {
        file: store.path(T::TYPE).display().to_string(),
        source,
    };
    let Some(bytes) = store.read(T::TYPE).map_err(|err| unreadable(err.into()))? else { return Ok(None) };
    match accept(root, &bytes) {
        Ok(metadata) => Ok(Some((bytes, metadata))),
        // Keys were rotated, which is how a repository recovers from versions that a thief pushed ahead.
        Err(MetadataError::TooFewSignatures { .. }) => Ok(None),
        Err(err) => Err(unreadable(err.into())),
    }
}

/// Whether a timestamp or snapshot key of `old` is none any more.
fn keys_were_taken_away(old: &Root, new: &Root) -> bool {
    ["timestamp", "snapshot"].iter().any(|role| {
        let kept = new.role(role).keyids;
        old.role(role).keyids.iter().any(|keyid| !kept.contains(keyid))
    })
}

/// Disk work that does not hold up other tasks.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TufError> + Send + 'static,
) -> Result<T, TufError> {
    match disk::blocking(work).await {
        Ok(result) => result,
        Err(err) if err.is_panic() => std::panic::resume_unwind(err.into_panic()),
        // The runtime is shutting down.
        Err(err) => Err(TufError::Store(DurableError::Io {
            what: "write",
            path: "trusted metadata".into(),
            source: std::io::Error::other(err),
        })),
    }
}

impl<F: Fetcher> Client<F> {
    /// Makes `root`, which came on a trusted way, the root of trust of a directory that has none.
    ///
    /// A directory that already has a root keeps it, so that repeating an enrolment cannot roll it back.
    ///
    /// # Errors
    ///
    /// [`TufError::Refused`] when it is not signed by its own keys, [`TufError::Store`].
    pub fn init(dir: &Path, root: &[u8]) -> Result<(), TufError> {
        let store = Store::new(dir);
        let signed = Signed::parse(root).map_err(refused("root.json"))?;
        let read: Metadata<Root> = signed.read().map_err(refused("root.json"))?;
        signed.verify(&read.content.keys, &read.content.role("root")).map_err(refused("root.json"))?;
        if store.read("root")?.is_none() {
            store.write("root", root)?;
        }
        Ok(())
    }

    /// A client with the root of trust in `dir`.
    ///
    /// # Errors
    ///
    /// [`TufError::NoRoot`], [`TufError::StoreUnreadable`] when the root is damaged or not signed by its own
    /// keys.
    pub fn open(dir: &Path, fetcher: F, limits: Limits) -> Result<Self, TufError> {
        let store = Store::new(dir);
        let file = store.path("root").display().to_string();
        let unreadable = |source: Box<dyn std::error::Error + Send + Sync>| TufError::StoreUnreadable {
            file: file.clone(),
            source,
        };
        let Some(bytes) = store.read("root").map_err(|err| unreadable(err.into()))? else {
            return Err(TufError::NoRoot { file });
        };
        let read = || {
            let signed = Signed::parse(&bytes)?;
            let root: Metadata<Root> = signed.read()?;
            signed.verify(&root.content.keys, &root.content.role("root"))?;
            Ok(root)
        };
        let root = read().map_err(|err: MetadataError| unreadable(err.into()))?;
        Ok(Self { fetcher, store, limits, root, below: None })
    }

    /// Brings all four roles up to date (5.1 to 5.6), `now` being the fixed update start time.
    ///
    /// # Errors
    ///
    /// Any. What was accepted before the failing step is kept.
    pub async fn refresh(&mut self, now: Timestamp) -> Result<Trusted, TufError> {
        self.below = None;
        self.update_root(now).await?;
        let bytes = self.fetch("timestamp", None, self.limits.timestamp_bytes).await?;
        self.update_below(&bytes, now).await
    }

    /// As [`Client::refresh`], with a timestamp that came in an answer to something else.
    ///
    /// Asks for nothing when it is the timestamp that is trusted already and everything below is there.
    ///
    /// # Errors
    ///
    /// Any.
    pub async fn refresh_with_timestamp(
        &mut self,
        bytes: &[u8],
        now: Timestamp,
    ) -> Result<Trusted, TufError> {
        if let Some(trusted) = self.unchanged(bytes, now).await? {
            return Ok(trusted);
        }
        self.below = None;
        self.update_root(now).await?;
        if bytes.len() as u64 > self.limits.timestamp_bytes {
            let bytes_max = self.limits.timestamp_bytes;
            return Err(TufError::TooLong { file: "timestamp.json".to_owned(), bytes_max });
        }
        self.update_below(bytes, now).await
    }

    /// What is trusted without asking anyone: `None` before the first successful refresh. It may have
    /// expired: see [`Trusted::freshness`].
    ///
    /// # Errors
    ///
    /// [`TufError::StoreUnreadable`].
    pub async fn trusted(&self) -> Result<Option<Trusted>, TufError> {
        if let Some(below) = &self.below {
            return Ok(Some(self.summary(below)));
        }
        Ok(complete(self.local().await?).map(|below| self.summary(&below)))
    }

    async fn unchanged(&mut self, bytes: &[u8], now: Timestamp) -> Result<Option<Trusted>, TufError> {
        let local = self.local().await?;
        if local.timestamp.as_ref().is_none_or(|(trusted, _)| trusted != bytes) {
            return Ok(None);
        }
        let Some(below) = complete(local) else { return Ok(None) };
        let trusted = self.summary(&below);
        if trusted.freshness(now) != Freshness::Fresh {
            return Ok(None);
        }
        self.below = Some(below);
        Ok(Some(trusted))
    }

    /// What is on disk; a damaged targets file counts as absent, as no version is known from it alone.
    async fn local(&self) -> Result<Local, TufError> {
        let (store, root) = (self.store.clone(), self.root.content.clone());
        blocking(move || {
            let timestamp = on_disk(&store, &root)?;
            let snapshot = on_disk(&store, &root)?;
            let targets = match on_disk(&store, &root) {
                Err(TufError::StoreUnreadable { .. }) => None,
                other => other?,
            };
            Ok(Local { timestamp, snapshot, targets })
        })
        .await
    }

    async fn keep(&self, role: &'static str, bytes: &[u8]) -> Result<(), TufError> {
        let (store, bytes) = (self.store.clone(), bytes.to_vec());
        blocking(move || Ok(store.write(role, &bytes)?)).await
    }

    /// At most `bytes_max` bytes, or `None` where the repository has no such file.
    pub(super) async fn try_fetch(
        &self,
        role: &str,
        version: Option<u64>,
        bytes_max: u64,
    ) -> Result<Option<Bytes>, TufError> {
        let file = || file_name(role, version);
        let bytes = self
            .fetcher
            .metadata(role, version, bytes_max)
            .await
            .map_err(|source| TufError::Fetch { file: file(), source })?;
        if bytes.as_ref().is_some_and(|bytes| bytes.len() as u64 > bytes_max) {
            return Err(TufError::TooLong { file: file(), bytes_max });
        }
        Ok(bytes)
    }

    async fn fetch(&self, role: &str, version: Option<u64>, bytes_max: u64) -> Result<Bytes, TufError> {
        let found = self.try_fetch(role, version, bytes_max).await?;
        found.ok_or_else(|| TufError::Absent { file: file_name(role, version) })
    }

    /// The file of `role` that `by` names, length and digests checked.
    pub(super) async fn fetch_named(
        &self,
        role: &str,
        meta: &MetaFile,
        by: &'static str,
        undeclared_bytes_max: u64,
    ) -> Result<Bytes, TufError> {
        let version = self.root.content.consistent_snapshot.then_some(meta.version);
        let bytes_max = meta.length.unwrap_or(undeclared_bytes_max);
        if bytes_max > self.limits.declared_bytes {
            return Err(TufError::TooLong {
                file: file_name(role, version),
                bytes_max: self.limits.declared_bytes,
            });
        }
        let bytes = self.fetch(role, version, bytes_max).await?;
        if !is_named(meta, &bytes) {
            return Err(TufError::Mismatch { file: file_name(role, version), by });
        }
        Ok(bytes)
    }

    /// 5.3.
    async fn update_root(&mut self, now: Timestamp) -> Result<(), TufError> {
        let mut forget = false;
        for _ in 0..ROOTS_PER_REFRESH_MAX {
            let next = self.root.version.saturating_add(1);
            let Some(bytes) = self.try_fetch("root", Some(next), self.limits.root_bytes).await? else {
                break;
            };
            let file = file_name("root", Some(next));
            let signed = Signed::parse(&bytes).map_err(refused(&file))?;
            let trusted = &self.root.content;
            signed.verify(&trusted.keys, &trusted.role("root")).map_err(refused(&file))?;
            let new: Metadata<Root> = signed.read().map_err(refused(&file))?;
            signed.verify(&new.content.keys, &new.content.role("root")).map_err(refused(&file))?;
            if new.version != next {
                return Err(TufError::WrongVersion { file, expected: next, found: new.version });
            }
            self.keep("root", &bytes).await?;
            forget |= keys_were_taken_away(trusted, &new.content);
            self.root = new;
        }
        check_expiry("root.json", &self.root, now)?;
        if forget {
            let store = self.store.clone();
            blocking(move || {
                store.remove("timestamp")?;
                Ok(store.remove("snapshot")?)
            })
            .await?;
        }
        Ok(())
    }

    /// 5.4 to 5.6, without the search.
    async fn update_below(&mut self, timestamp: &[u8], now: Timestamp) -> Result<Trusted, TufError> {
        let Local { timestamp: old_timestamp, snapshot: old_snapshot, targets: old_targets } =
            self.local().await?;
        let timestamp = self.update_timestamp(timestamp, old_timestamp, now).await?;
        let snapshot = self.update_snapshot(&timestamp.content.snapshot(), old_snapshot, now).await?;
        let targets = self.update_targets(&snapshot.content, old_targets, now).await?;
        let below = Below { timestamp, snapshot, targets };
        let trusted = self.summary(&below);
        self.below = Some(below);
        Ok(trusted)
    }

    async fn update_timestamp(
        &self,
        bytes: &[u8],
        old: Option<Kept<TimestampRole>>,
        now: Timestamp,
    ) -> Result<Metadata<TimestampRole>, TufError> {
        let file = "timestamp.json";
        let new: Metadata<TimestampRole> = accept(&self.root.content, bytes).map_err(refused(file))?;
        let (version, snapshot) =
            old.as_ref().map_or((0, 0), |(_, old)| (old.version, old.content.snapshot().version));
        check_step(file, version, new.version)?;
        if let Some((_, old)) = old
            && old.version == new.version
        {
            // Whatever else it says, the first one of a version is the one.
            check_expiry(file, &old, now)?;
            return Ok(old);
        }
        check_step("snapshot.json", snapshot, new.content.snapshot().version)?;
        check_expiry(file, &new, now)?;
        self.keep("timestamp", bytes).await?;
        Ok(new)
    }

    async fn update_snapshot(
        &self,
        meta: &MetaFile,
        old: Option<Kept<Snapshot>>,
        now: Timestamp,
    ) -> Result<Metadata<Snapshot>, TufError> {
        let file = "snapshot.json";
        let old = match old {
            Some((bytes, old)) if old.version == meta.version && is_named(meta, &bytes) => {
                if !old.is_expired(now) {
                    return Ok(old);
                }
                Some(old)
            }
            other => other.map(|(_, old)| old),
        };
        let bytes = self.fetch_named("snapshot", meta, "timestamp", self.limits.snapshot_bytes).await?;
        let new: Metadata<Snapshot> = accept(&self.root.content, &bytes).map_err(refused(file))?;
        if new.version != meta.version {
            return Err(TufError::WrongVersion {
                file: file.to_owned(),
                expected: meta.version,
                found: new.version,
            });
        }
        let versions =
            |snapshot: &Snapshot, name: &str| snapshot.meta.get(name).map_or(0, |meta| meta.version);
        if let Some(old) = &old {
            for (name, trusted) in &old.content.meta {
                check_step(name, trusted.version, versions(&new.content, name))?;
            }
        }
        for (name, found) in &new.content.meta {
            let trusted = old.as_ref().map_or(0, |old| versions(&old.content, name));
            check_step(name, trusted, found.version)?;
        }
        check_expiry(file, &new, now)?;
        self.keep("snapshot", &bytes).await?;
        Ok(new)
    }

    async fn update_targets(
        &self,
        snapshot: &Snapshot,
        old: Option<Kept<Targets>>,
        now: Timestamp,
    ) -> Result<Metadata<Targets>, TufError> {
        let file = "targets.json";
        let absent = || TufError::Absent { file: file.to_owned() };
        let meta = snapshot.meta.get(file).ok_or_else(absent)?;
        if let Some((bytes, old)) = old
            && old.version == meta.version
            && is_named(meta, &bytes)
            && !old.is_expired(now)
        {
            return Ok(old);
        }
        let bytes = self.fetch_named("targets", meta, "snapshot", self.limits.targets_bytes).await?;
        let new: Metadata<Targets> = accept(&self.root.content, &bytes).map_err(refused(file))?;
        if new.version != meta.version {
            return Err(TufError::WrongVersion {
                file: file.to_owned(),
                expected: meta.version,
                found: new.version,
            });
        }
        check_expiry(file, &new, now)?;
        self.keep("targets", &bytes).await?;
        Ok(new)
    }

    fn summary(&self, below: &Below) -> Trusted {
        let expiries = [
            ("timestamp", below.timestamp.expires),
            ("snapshot", below.snapshot.expires),
            ("targets", below.targets.expires),
        ];
        let root = ("root", self.root.expires);
        let expires_first = expiries.into_iter().fold(root, |a, b| if b.1 < a.1 { b } else { a });
        Trusted {
            root_version: self.root.version,
            timestamp_version: below.timestamp.version,
            timestamp_expires: below.timestamp.expires,
            targets_version: below.targets.version,
            expires_first,
            targets: below.targets.content.with_sha256(),
        }
    }
}

/// The three roles when they are all there and belong together.
fn complete(local: Local) -> Option<Below> {
    let (_, timestamp) = local.timestamp?;
    let (snapshot_bytes, snapshot) = local.snapshot?;
    let (targets_bytes, targets) = local.targets?;
    let named = timestamp.content.snapshot();
    let fits = named.version == snapshot.version && is_named(&named, &snapshot_bytes);
    let named = snapshot.content.meta.get("targets.json")?;
    let fits = fits && named.version == targets.version && is_named(named, &targets_bytes);
    fits.then_some(Below { timestamp, snapshot, targets })
}
