//! One suite of one archive: its release, fetched and believed; its indices, from the cache or the
//! network.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
};

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tierway_common::trust::digest::Digest;
use tracing::{debug, warn};

use super::{
    index::{Index, IndexError},
    lower::LowerError,
    pool::PoolError,
    release::{Expiry, Release, ReleaseError},
    signature::{Keyring, SignatureError},
};
use crate::sources::fetch::{self, Fetch, FetchError, Retry, Validators, Whole};

/// Longest `InRelease`: Debian's sid has 240 KB.
const RELEASE_BYTES_MAX: u64 = 8 << 20;

/// Longest packed index; Debian's main has 9 MB.
const INDEX_BYTES_MAX: u64 = 256 << 20;

/// An archive that could not be read or is not believed; the last good state stays.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// It could not be fetched.
    #[error("could not fetch from the archive `{archive}`")]
    Fetch {
        /// URL and suite.
        archive: String,
        /// Why.
        source: FetchError,
    },
    /// A file that must be there is not.
    #[error("the archive `{archive}` has no `{path}`")]
    Absent {
        /// URL and suite.
        archive: String,
        /// Path below the suite.
        path: String,
    },
    /// Its release is not signed by anyone in the keyring.
    #[error("the release of `{archive}` is not believed")]
    Signature {
        /// URL and suite.
        archive: String,
        /// Why.
        source: SignatureError,
    },
    /// Its release breaks a rule.
    #[error("the release of `{archive}` is refused")]
    Release {
        /// URL and suite.
        archive: String,
        /// Why.
        source: ReleaseError,
    },
    /// Its release has no index for a component and an architecture.
    #[error("the release of `{archive}` lists no packages of component `{component}` for `{architecture}`")]
    NoIndex {
        /// URL and suite.
        archive: String,
        /// As configured.
        component: String,
        /// As configured.
        architecture: String,
    },
    /// An index is not as long as the release says.
    #[error("`{path}` of `{archive}` is truncated or overlong: {found} bytes, {expected} are signed")]
    Length {
        /// URL and suite.
        archive: String,
        /// Path below the suite.
        path: String,
        /// As signed.
        expected: u64,
        /// As found.
        found: u64,
    },
    /// An index has another digest than the release says.
    #[error("`{path}` of `{archive}` has the digest {found}, {expected} is signed")]
    Digest {
        /// URL and suite.
        archive: String,
        /// Path below the suite.
        path: String,
        /// As signed.
        expected: Digest,
        /// As found.
        found: Digest,
    },
    /// An index cannot be read.
    #[error("`{path}` of `{archive}` cannot be used")]
    Index {
        /// URL and suite.
        archive: String,
        /// Path below the suite.
        path: String,
        /// Why.
        source: IndexError,
    },
    /// The suite contradicts itself.
    #[error("the packages of `{archive}` make no updates")]
    Lower {
        /// URL and suite.
        archive: String,
        /// Why.
        source: Box<LowerError>,
    },
    /// The pool cannot be written down.
    #[error("the pool cannot be written down")]
    Pool(#[from] PoolError),
    /// An update cannot be serialised.
    #[error("the update `{id}` cannot be serialised")]
    Encode {
        /// Which.
        id: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The cache of indices does not work.
    #[error("could not use the cache file `{path}`")]
    Cache {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A worker died.
    #[error("the work on the archive was broken off")]
    Broken,
}

/// A suite of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchiveConfig {
    /// Where, such as `http://deb.debian.org/debian`.
    pub url: String,
    /// Suite or codename, such as `bookworm`.
    pub suite: String,
    /// Such as `main`.
    #[serde(default = "main_only")]
    pub components: Vec<String>,
}

fn main_only() -> Vec<String> {
    vec!["main".to_owned()]
}

impl ArchiveConfig {
    /// For errors: URL and suite.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} {}", self.url.trim_end_matches('/'), self.suite)
    }

    fn url_of(&self, path: &str) -> String {
        format!("{}/dists/{}/{path}", self.url.trim_end_matches('/'), self.suite.trim_end_matches('/'))
    }
}

/// What was accepted of an archive the last time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchiveState {
    /// `Date` of the release.
    pub date: Timestamp,
    /// The whole `InRelease`.
    pub release: Digest,
    /// What the server said of it.
    pub validators: Validators,
    /// Path → digest of the packed index, for those that are used.
    pub indices: BTreeMap<String, Digest>,
}

/// Files by their digest, so that what did not change is not fetched again.
#[derive(Clone, Debug)]
pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// In a directory that is made when needed and belongs to this cache alone.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The file of that digest, verified; `None` when there is none or it is damaged.
    async fn get(&self, digest: &Digest) -> Option<Bytes> {
        let bytes = tokio::fs::read(self.dir.join(digest.to_string())).await.ok()?;
        (Digest::of(&bytes) == *digest).then(|| bytes.into())
    }

    /// A file that gets lost with the power is found damaged and fetched again, so it is not synced.
    async fn put(&self, digest: &Digest, bytes: &Bytes) -> Result<(), SyncError> {
        let path = self.dir.join(digest.to_string());
        let temporary = self.dir.join(format!("{digest}.new"));
        let error = |source| SyncError::Cache { path: path.clone(), source };
        tokio::fs::create_dir_all(&self.dir).await.map_err(error)?;
        tokio::fs::write(&temporary, bytes).await.map_err(error)?;
        tokio::fs::rename(&temporary, &path).await.map_err(error)
    }

    /// Removes every file that is not one of `keep`; what cannot be removed is left for the next time.
    pub async fn keep_only(&self, keep: &BTreeSet<Digest>) {
        let Ok(mut entries) = tokio::fs::read_dir(&self.dir).await else { return };
        while let Ok(Some(entry)) = entries.next_entry().await {
            let name = entry.file_name();
            let kept = name.to_str().and_then(|name| name.parse().ok()).is_some_and(|d| keep.contains(&d));
            if !kept && let Err(error) = tokio::fs::remove_file(entry.path()).await {
                debug!(path = %entry.path().display(), %error, "could not remove a cached index");
            }
        }
    }
}

/// How archives are read.
#[derive(Debug)]
pub struct Reader<'a, F> {
    /// The outside world.
    pub fetch: &'a F,
    /// Indices of earlier times.
    pub cache: &'a Cache,
    /// Who may sign.
    pub keyring: &'a Keyring,
    /// What to do with a release past its date.
    pub expiry: Expiry,
    /// How often to try.
    pub retry: Retry,
}

/// A release that is believed, and what must be remembered of it.
#[derive(Clone, Debug)]
pub struct Believed {
    /// What it says.
    pub release: Release,
    /// With `indices` still empty.
    pub state: ArchiveState,
}

impl<F: Fetch> Reader<'_, F> {
    /// Fetches the release if it changed, and judges it at `now` in any case: one that expires while
    /// its mirror stands still is refused as well.
    ///
    /// # Errors
    ///
    /// [`SyncError`] for what cannot be fetched or is not believed.
    pub async fn release(
        &self,
        archive: &ArchiveConfig,
        previous: Option<&ArchiveState>,
        now: Timestamp,
    ) -> Result<Believed, SyncError> {
        let cached = match previous {
            Some(state) => self.cache.get(&state.release).await,
            None => None,
        };
        let cached_digest = previous.filter(|_| cached.is_some()).map(|state| state.release);
        // Without the cached text an answer "not modified" would be of no use.
        let validators = previous.filter(|_| cached.is_some()).map(|state| &state.validators);
        let url = archive.url_of("InRelease");
        let answer = fetch::whole(self.fetch, &url, validators, RELEASE_BYTES_MAX, self.retry)
            .await
            .map_err(|source| SyncError::Fetch { archive: archive.name(), source })?;
        let (bytes, validators) = match (answer, previous, cached) {
            (Whole::Found { bytes, validators }, _, _) => (bytes, validators),
            (Whole::NotModified, Some(state), Some(cached)) => (cached, state.validators.clone()),
            _ => return Err(SyncError::Absent { archive: archive.name(), path: "InRelease".to_owned() }),
        };
        let verified = self
            .keyring
            .verify(&bytes, now)
            .map_err(|source| SyncError::Signature { archive: archive.name(), source })?;
        let refused = |source| SyncError::Release { archive: archive.name(), source };
        let release = Release::parse(&verified.text).map_err(refused)?;
        release.check(&archive.suite, previous.map(|state| state.date), self.expiry, now).map_err(refused)?;
        let digest = Digest::of(&bytes);
        if previous.is_none_or(|state| state.release != digest) {
            debug!(archive = archive.name(), date = %release.date, signer = verified.signer, "new release");
        }
        if cached_digest != Some(digest) {
            self.cache.put(&digest, &bytes).await?;
        }
        let state =
            ArchiveState { date: release.date, release: digest, validators, indices: BTreeMap::new() };
        Ok(Believed { release, state })
    }

    /// The packed bytes of an index, checked against what is signed: from the cache, else by its digest,
    /// else by its name.
    ///
    /// # Errors
    ///
    /// [`SyncError`]; a wrong file is never cached.
    pub async fn index(
        &self,
        archive: &ArchiveConfig,
        release: &Release,
        index: &Index,
    ) -> Result<Bytes, SyncError> {
        let expected = index.packed;
        if let Some(bytes) = self.cache.get(&expected.digest).await {
            return Ok(bytes);
        }
        let by_hash = index
            .path
            .rsplit_once('/')
            .map(|(folder, _)| format!("{folder}/by-hash/SHA256/{}", expected.digest))
            .filter(|_| release.by_hash);
        let mut answer = Whole::Absent;
        for path in by_hash.iter().chain([&index.path]) {
            answer = self.fetch_index(archive, path, expected.bytes).await?;
            if answer != Whole::Absent {
                break;
            }
            warn!(archive = archive.name(), path, "an index is not where it should be");
        }
        let Whole::Found { bytes, .. } = answer else {
            return Err(SyncError::Absent { archive: archive.name(), path: index.path.clone() });
        };
        if bytes.len() as u64 != expected.bytes {
            return Err(SyncError::Length {
                archive: archive.name(),
                path: index.path.clone(),
                expected: expected.bytes,
                found: bytes.len() as u64,
            });
        }
        let found = Digest::of(&bytes);
        if found != expected.digest {
            return Err(SyncError::Digest {
                archive: archive.name(),
                path: index.path.clone(),
                expected: expected.digest,
                found,
            });
        }
        self.cache.put(&expected.digest, &bytes).await?;
        Ok(bytes)
    }

    async fn fetch_index(&self, archive: &ArchiveConfig, path: &str, bytes: u64) -> Result<Whole, SyncError> {
        let bytes_max = bytes.min(INDEX_BYTES_MAX);
        fetch::whole(self.fetch, &archive.url_of(path), None, bytes_max, self.retry)
            .await
            .map_err(|source| SyncError::Fetch { archive: archive.name(), source })
    }
}
