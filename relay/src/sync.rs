//! Makes the mirror what the tier above publishes now.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tierway_common::{
    blobs::{BlobError, Blobs},
    daemon::disk::on_disk,
    files,
    id::TenantId,
    schema::Revoked,
    tree::{self, TreeError},
    trust::{
        digest::Digest,
        tuf::{
            client::{Client, Fetcher, Limits, Trusted},
            error::{FetchError, TufError},
        },
    },
};
use tierway_proto::{
    metadata::MetadataFrom,
    sync::{CatalogueError, tree as bring},
    upstream::Upstream,
    v1,
};
use tracing::info;

use crate::mirror::{Head, Mirror};

/// Longest file of the TUF client's folder.
const METADATA_BYTES_MAX: u64 = 4 << 20;
/// Revoked certificates of a tenant; each is dropped when it expires by itself.
const REVOKED_MAX: usize = 100_000;
/// Owner of the pins on tree nodes.
const PINS: &str = "published";

/// Why the mirror stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// Metadata that is not to be trusted, or not to be had.
    #[error("could not refresh the metadata")]
    Trust(#[from] TufError),
    /// A catalogue.
    #[error("could not mirror the catalogue `{catalogue}`")]
    Catalogue {
        /// Which.
        catalogue: String,
        /// Why.
        source: CatalogueError,
    },
    /// The policy.
    #[error("could not read the mirrored policy")]
    Policy(#[from] TreeError),
    /// The blobs.
    #[error("could not pin the mirrored trees")]
    Pins(#[from] BlobError),
    /// A file of the mirror or of the TUF client.
    #[error("could not read or write `{file}`")]
    File {
        /// Which.
        file: String,
        /// Why.
        source: io::Error,
    },
}

/// Metadata from the tier above, with every root put aside: whoever is further behind than this relay goes from
/// root to root, and the TUF client keeps the newest only.
#[derive(Debug)]
struct Noted {
    from: MetadataFrom,
    mirror: Mirror,
}

impl Fetcher for Noted {
    async fn metadata(
        &self,
        role: &str,
        version: Option<u64>,
        bytes_max: u64,
    ) -> Result<Option<Bytes>, FetchError> {
        let content = self.from.metadata(role, version, bytes_max).await?;
        if let ("root", Some(version), Some(content)) = (role, version, &content) {
            self.mirror.set_aside(version, content).map_err(FetchError::new)?;
        }
        Ok(content)
    }
}

/// Brings over what is published.
#[derive(Debug)]
pub struct Sync {
    client: Client<Noted>,
    metadata: MetadataFrom,
    upstream: Upstream,
    here: Here,
}

/// What is on this relay's disk; all of it blocks.
#[derive(Clone, Debug)]
struct Here {
    trees: Blobs,
    mirror: Mirror,
    trust_dir: PathBuf,
    policy: String,
}

#[derive(Deserialize, Serialize)]
struct Versioned {
    signed: Version,
}

#[derive(Deserialize, Serialize)]
struct Version {
    version: u64,
}

impl Sync {
    /// Over the TUF client's folder; serves again what was mirrored before.
    ///
    /// # Errors
    ///
    /// [`SyncError`] when that cannot be read.
    pub fn open(
        trust_dir: &Path,
        tenant: &TenantId,
        upstream: Upstream,
        trees: Blobs,
        mirror: Mirror,
    ) -> Result<Self, SyncError> {
        let metadata = MetadataFrom::new(upstream.clone());
        let noted = Noted { from: metadata.clone(), mirror: mirror.clone() };
        let client = Client::open(trust_dir, noted, Limits::default())?;
        let policy = format!("policy-{tenant}");
        mirror.restore().map_err(head_error)?;
        let here = Here { trees, mirror, trust_dir: trust_dir.to_owned(), policy };
        Ok(Self { client, metadata, upstream, here })
    }

    /// Version of the timestamp that is mirrored.
    #[must_use]
    pub fn head_version(&self) -> u64 {
        self.here.mirror.head().timestamp_version
    }

    /// Brings over what is new, and what was lost here, after a check-in that was answered so. Returns the version when
    /// it is another than before: an older one too, when a newer root of trust took back what was signed with a key
    /// that is no longer trusted.
    ///
    /// # Errors
    ///
    /// [`SyncError`]; what was served before is served on.
    pub async fn run(
        &mut self,
        answer: &v1::CheckInResponse,
        now: Timestamp,
    ) -> Result<Option<u64>, SyncError> {
        let trusted = self.metadata.refresh(&mut self.client, answer, now).await?;
        let here = self.here.clone();
        let (is_new, whole) = on_disk(move || {
            let is_new = here.verified("timestamp")? != here.mirror.head().timestamp;
            Ok::<_, SyncError>((is_new, here.trees.pins_if_whole(PINS)))
        })
        .await?;
        if !is_new && whole.is_some() {
            return Ok(None);
        }
        let complete = whole.unwrap_or_default();
        for (catalogue, target) in &trusted.targets {
            let cost = bring(&self.upstream, target.sha256, &self.here.trees, &complete)
                .await
                .map_err(|source| SyncError::Catalogue { catalogue: catalogue.clone(), source })?;
            if cost.blobs > 0 {
                info!(catalogue, blobs = cost.blobs, bytes = cost.bytes, "mirrored a catalogue");
            }
        }
        let (here, version) = (self.here.clone(), trusted.timestamp_version);
        on_disk(move || here.take_over(&trusted)).await?;
        info!(version, "mirrored what is published");
        Ok(is_new.then_some(version))
    }

    /// Notes what the tier above calls news; false when that is not here yet, or no news.
    ///
    /// # Errors
    ///
    /// When it cannot be kept.
    pub async fn note_news(&self, news: u64) -> Result<bool, SyncError> {
        let mirror = self.here.mirror.clone();
        let head = mirror.head();
        if news <= head.news || news > head.timestamp_version {
            return Ok(false);
        }
        on_disk(move || mirror.set_head(Head { news, ..Head::clone(&head) })).await.map_err(head_error)?;
        Ok(true)
    }
}

fn head_error(source: io::Error) -> SyncError {
    SyncError::File { file: "head.json".to_owned(), source }
}

impl Here {
    /// Serves this version, whose trees are here, and lets go of those of older ones.
    fn take_over(&self, trusted: &Trusted) -> Result<(), SyncError> {
        // What is served is pinned: both, from before the one takes the place of the other until after it.
        let new = self.reachable(trusted)?;
        self.trees.pin(PINS, &self.trees.pins(PINS).union(&new).copied().collect())?;
        self.mirror.set_head(self.publish(trusted)?).map_err(head_error)?;
        self.trees.pin(PINS, &new)?;
        Ok(())
    }

    /// Puts the verified files where they are served from.
    fn publish(&self, trusted: &Trusted) -> Result<Head, SyncError> {
        for role in ["root", "targets", "snapshot"] {
            let content = self.verified(role)?;
            let version = serde_json::from_slice::<Versioned>(&content)
                .map_err(|error| SyncError::File { file: format!("{role}.json"), source: error.into() })?
                .signed
                .version;
            let error = |source| SyncError::File { file: format!("{version}.{role}.json"), source };
            if role == "root" {
                self.mirror.take_roots(version).map_err(error)?;
            }
            self.mirror.keep(role, version, &content).map_err(error)?;
        }
        let mut revoked = BTreeSet::new();
        if let Some(policy) = trusted.targets.get(&self.policy) {
            tree::walk_prefix(&policy.sha256, "revoked/", &self.trees, &mut |_, bytes| {
                if let Ok(entry) = serde_json::from_slice::<Revoked>(bytes)
                    && revoked.len() < REVOKED_MAX
                {
                    revoked.insert(entry.serial);
                }
            })?;
        }
        Ok(Head {
            timestamp_version: trusted.timestamp_version,
            timestamp: self.verified("timestamp")?,
            expires: Some(trusted.timestamp_expires),
            revoked,
            // Also when the version went back.
            news: self.mirror.head().news.min(trusted.timestamp_version),
        })
    }

    /// A file as the TUF client verified it.
    fn verified(&self, role: &str) -> Result<Bytes, SyncError> {
        let path = self.trust_dir.join(format!("{role}.json"));
        let error = |source| SyncError::File { file: path.display().to_string(), source };
        let content = files::read_if_there(&path, METADATA_BYTES_MAX).map_err(error)?;
        content.map(Bytes::from).ok_or_else(|| error(io::ErrorKind::NotFound.into()))
    }

    /// All nodes of the trees of this version.
    fn reachable(&self, trusted: &Trusted) -> Result<BTreeSet<Digest>, SyncError> {
        let mut all = BTreeSet::new();
        for target in trusted.targets.values() {
            all.append(&mut tree::reachable(&target.sha256, None, &self.trees)?);
        }
        Ok(all)
    }
}
