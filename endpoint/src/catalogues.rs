//! What this computer has of what is published: trusted metadata, the trees of the catalogues that fit
//! it, and their rules.
//!
//! Trees of updates are brought over whole; of the policy and the pool only the paths to what is asked for.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tierway_common::{
    blobs::{BlobError, BlobOptions, Blobs},
    facts::Facts,
    id::{CatalogueId, TenantId, UpdateId},
    rules::evaluate::{Truth, evaluate},
    schema::{CatalogueInfo, CatalogueKind, Update},
    tree::{self, TreeError},
    trust::{
        digest::Digest,
        tuf::{
            client::{Client, Freshness, Limits, Trusted},
            error::TufError,
        },
    },
};
use tierway_proto::{
    metadata::MetadataFrom,
    sync::{self, CatalogueError},
    upstream::Upstream,
    v1,
};
use tracing::debug;

use crate::{
    agent::VERSION,
    ledger::TakenOver,
    rules::{Roots, Rules, RulesError},
};

/// Bytes of the catalogues' trees: ten times what all of Debian takes; what is pinned always fits in.
const TREE_BYTES_MAX: u64 = 2 << 30;
/// Bytes of tree nodes that only single paths lead to; the least recently used go first.
const PATH_BYTES_MAX: u64 = 256 << 20;
/// Memory for hot nodes of each: the inner nodes of a large tree. Leaves are read once in a check.
const CACHE_BYTES: u64 = 1 << 20;
/// How long a policy is kept where it is taken over once a day; a little less than one, so that checks at the
/// same time of every day take it over.
const POLICY_KEPT: SignedDuration = SignedDuration::from_hours(23);
/// Owner of the pins on trees.
const PINS: &str = "catalogues";

/// Why the catalogues could not be read or brought over.
#[derive(Debug, thiserror::Error)]
pub enum CataloguesError {
    /// Metadata that is not to be trusted, or not to be had.
    #[error("could not refresh the metadata")]
    Trust(#[from] TufError),
    /// A tree.
    #[error("could not bring over the catalogue `{catalogue}`")]
    Catalogue {
        /// Which.
        catalogue: String,
        /// Why.
        source: CatalogueError,
    },
    /// A tree that is here.
    #[error("could not read the catalogue `{catalogue}`")]
    Read {
        /// Which.
        catalogue: String,
        /// Why.
        source: TreeError,
    },
    /// Their rules.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// The blobs.
    #[error("could not keep the catalogues")]
    Keep(#[from] BlobError),
    /// Nothing was ever brought over.
    #[error("nothing has been published to this computer yet")]
    Nothing,
    /// The last that was brought over has expired, and nothing newer came.
    #[error("what was published expired at {since}: nothing new is begun by it (freeze suspected)")]
    Expired {
        /// When.
        since: Timestamp,
    },
}

/// What is published, as far as it is here.
#[derive(Debug)]
pub struct Catalogues {
    client: Client<MetadataFrom>,
    metadata: MetadataFrom,
    upstream: Upstream,
    trees: Blobs,
    paths: Blobs,
    policy: String,
    /// The newest that is complete here.
    trusted: Option<Trusted>,
    /// Catalogues of updates that this computer evaluates.
    fitting: BTreeSet<String>,
    /// While they are asked.
    rules: Option<Rules>,
    /// Where they are kept.
    kept: PathBuf,
}

impl Catalogues {
    /// Opens what an earlier run left below `data_dir`.
    ///
    /// # Errors
    ///
    /// [`CataloguesError`], naming what is broken.
    pub fn open(
        data_dir: &Path,
        trust_dir: &Path,
        tenant: &TenantId,
        upstream: Upstream,
        free_floor_bytes: u64,
    ) -> Result<Self, CataloguesError> {
        let blobs = |name: &str, quota_bytes| {
            let blobs = Blobs::open(&data_dir.join(name), BlobOptions { quota_bytes, free_floor_bytes })?;
            blobs.set_cache_bytes(CACHE_BYTES);
            Ok::<_, BlobError>(blobs)
        };
        let metadata = MetadataFrom::new(upstream.clone());
        Ok(Self {
            client: Client::open(trust_dir, metadata.clone(), Limits::default())?,
            metadata,
            upstream,
            trees: blobs("trees", TREE_BYTES_MAX)?,
            paths: blobs("paths", PATH_BYTES_MAX)?,
            policy: format!("policy-{tenant}"),
            trusted: None,
            fitting: BTreeSet::new(),
            rules: None,
            kept: data_dir.join("rules"),
        })
    }

    /// Version of the timestamp that is complete here; 0 for none.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.trusted.as_ref().map_or(0, |trusted| trusted.timestamp_version)
    }

    /// Version of the targets that are complete here; 0 for none.
    #[must_use]
    pub fn targets_version(&self) -> u64 {
        self.trusted.as_ref().map_or(0, |trusted| trusted.targets_version)
    }

    /// Whether what this check-in was answered wants a refresh: there is something newer, or there is a newer root of
    /// trust, which may take back what is here.
    #[must_use]
    pub fn is_behind(&self, answer: &v1::CheckInResponse) -> bool {
        let root_version = self.trusted.as_ref().map(|trusted| trusted.root_version);
        answer.timestamp.is_some() || root_version.is_none_or(|trusted| trusted < answer.root_version)
    }

    /// When that expires.
    #[must_use]
    pub fn expires(&self) -> Option<Timestamp> {
        self.trusted.as_ref().map(|trusted| trusted.timestamp_expires)
    }

    /// Takes up what is on disk, for when the tier above is gone; complete or not is found out when read.
    ///
    /// # Errors
    ///
    /// [`CataloguesError`].
    pub async fn restore(&mut self, os: &Facts) -> Result<(), CataloguesError> {
        if self.trusted.is_none()
            && let Some(trusted) = self.client.trusted().await?
            && fitting(&trusted, os).all(|(_, root, _)| self.trees.contains(&root))
        {
            self.trusted = Some(trusted);
        }
        Ok(())
    }

    /// Brings over what is new for a computer with these facts (its `os` domain is enough), after a check-in that was
    /// answered so.
    ///
    /// # Errors
    ///
    /// [`CataloguesError`]; what was here before stays in use.
    pub async fn refresh(
        &mut self,
        answer: &v1::CheckInResponse,
        os: &Facts,
        now: Timestamp,
    ) -> Result<(), CataloguesError> {
        let trusted = self.metadata.refresh(&mut self.client, answer, now).await?;
        let whole = self.trees.pins_if_whole(PINS);
        if self.trusted.as_ref() == Some(&trusted) && whole.is_some() {
            return Ok(());
        }
        let complete = whole.unwrap_or_default();
        for (catalogue, root, _) in fitting(&trusted, os) {
            let cost = sync::tree(&self.upstream, root, &self.trees, &complete)
                .await
                .map_err(|source| CataloguesError::Catalogue { catalogue: catalogue.to_owned(), source })?;
            debug!(catalogue, blobs = cost.blobs, bytes = cost.bytes, "brought a catalogue over");
        }
        self.pin(&trusted, os)?;
        self.trusted = Some(trusted);
        Ok(())
    }

    fn pin(&self, trusted: &Trusted, os: &Facts) -> Result<(), CataloguesError> {
        let mut all = BTreeSet::new();
        for (catalogue, root, _) in fitting(trusted, os) {
            let mut below = tree::reachable(&root, None, &self.trees)
                .map_err(|source| CataloguesError::Read { catalogue: catalogue.to_owned(), source })?;
            all.append(&mut below);
        }
        self.trees.pin(PINS, &all)?;
        Ok(())
    }

    /// The rules of every update that is published for this computer: those in memory, those kept on disk, or, when
    /// a root changed, compiled and kept.
    ///
    /// # Errors
    ///
    /// [`CataloguesError`]; [`CataloguesError::Nothing`] before the first refresh.
    pub fn rules(&mut self, os: &Facts) -> Result<&Rules, CataloguesError> {
        let trusted = self.trusted.as_ref().ok_or(CataloguesError::Nothing)?;
        let roots: Roots =
            fitting(trusted, os).map(|(catalogue, root, _)| (catalogue.to_owned(), root)).collect();
        let rules = match self.rules.take().filter(|rules| *rules.roots() == roots) {
            Some(rules) => rules,
            None => Rules::at(roots, &self.trees, &self.kept, VERSION)?,
        };
        self.fitting = rules.roots().keys().cloned().collect();
        Ok(self.rules.insert(rules))
    }

    /// How many catalogues of updates this computer evaluated last.
    #[must_use]
    pub fn fitting(&self) -> usize {
        self.fitting.len()
    }

    /// Whether updates are published, and none of them for this computer.
    #[must_use]
    pub fn for_others_only(&self) -> bool {
        let trusted = self.trusted.iter().flat_map(|trusted| trusted.targets.values());
        let mut published = trusted.filter_map(|target| info(target.custom.as_ref()));
        self.fitting.is_empty() && published.any(|info| info.kind == CatalogueKind::Updates)
    }

    /// Gives back the memory of what is on disk, until it is asked again.
    pub fn rest(&mut self) {
        self.rules = None;
        self.forget_nodes();
    }

    /// Gives back the memory of tree nodes.
    pub fn forget_nodes(&self) {
        for blobs in [&self.trees, &self.paths] {
            blobs.set_cache_bytes(0);
            blobs.set_cache_bytes(CACHE_BYTES);
        }
    }

    /// Newer updates that replace this one, by the rules asked last.
    pub fn superseded_by<'a>(&'a self, id: &UpdateId) -> impl Iterator<Item = UpdateId> + use<'a> {
        self.rules.as_ref().map(|rules| rules.superseded_by(id)).into_iter().flatten()
    }

    /// The document of an update that is published for this computer.
    ///
    /// # Errors
    ///
    /// [`CataloguesError`].
    pub fn update(&self, id: &UpdateId) -> Result<Option<Update>, CataloguesError> {
        let Some(target) = self.trusted.as_ref().and_then(|trusted| trusted.targets.get(id.catalogue()))
        else {
            return Ok(None);
        };
        let document = tree::get(&target.sha256, &format!("update/{}", id.name()), &self.trees)
            .map_err(|source| CataloguesError::Read { catalogue: id.catalogue().to_owned(), source })?;
        Ok(document.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// Whether what is here may be acted on.
    ///
    /// # Errors
    ///
    /// [`CataloguesError::Nothing`] or [`CataloguesError::Expired`].
    pub fn fresh(&self, now: Timestamp) -> Result<(), CataloguesError> {
        match self.trusted.as_ref().ok_or(CataloguesError::Nothing)?.freshness(now) {
            Freshness::Fresh => Ok(()),
            Freshness::Expired { role: _, since } => Err(CataloguesError::Expired { since }),
        }
    }

    /// A way to look single documents up, those of the policy as it was when it was taken over, as long as that is
    /// less than a day ago; `None` when there is nothing like that to go by.
    #[must_use]
    pub fn lookup_policy_of(&self, taken: &TakenOver, now: Timestamp) -> Option<Lookup> {
        let mut lookup = self.lookup();
        let (newest, _) = lookup.targets.get_mut(&self.policy)?;
        let kept = taken.at <= now && now.duration_since(taken.at) < POLICY_KEPT;
        *newest = taken.root;
        kept.then_some(lookup)
    }

    /// A way to look single documents up.
    #[must_use]
    pub fn lookup(&self) -> Lookup {
        Lookup {
            upstream: self.upstream.clone(),
            paths: self.paths.clone(),
            policy: self.policy.clone(),
            fitting: self.fitting.clone(),
            targets: self
                .trusted
                .iter()
                .flat_map(|trusted| &trusted.targets)
                .filter_map(|(name, target)| {
                    Some((name.clone(), (target.sha256, info(target.custom.as_ref())?)))
                })
                .collect(),
        }
    }
}

/// Looks up documents of the policy and of pools.
#[derive(Clone, Debug)]
pub struct Lookup {
    upstream: Upstream,
    paths: Blobs,
    policy: String,
    /// Catalogues of updates that this computer evaluates.
    fitting: BTreeSet<String>,
    targets: BTreeMap<String, (Digest, CatalogueInfo)>,
}

impl Lookup {
    /// The root of the policy that is looked up; `None` when none is published.
    #[must_use]
    pub fn policy_root(&self) -> Option<Digest> {
        self.targets.get(&self.policy).map(|(root, _)| *root)
    }

    /// All documents of the policy whose key starts with `prefix`, by key.
    ///
    /// # Errors
    ///
    /// When a node is not here and cannot be had.
    pub async fn policy(&self, prefix: &str) -> Result<Vec<(String, Bytes)>, CatalogueError> {
        let Some((root, _)) = self.targets.get(&self.policy) else { return Ok(Vec::new()) };
        sync::documents(&self.upstream, *root, prefix, &self.paths).await
    }

    /// One document of the pools that belong to the catalogues of this computer; the first that has it.
    ///
    /// # Errors
    ///
    /// When a node is not here and cannot be had.
    pub async fn pool(&self, key: &str) -> Result<Option<Bytes>, CatalogueError> {
        for (root, info) in self.targets.values() {
            if matches!(&info.kind, CatalogueKind::Pool(of) if self.fitting.contains(of.as_str()))
                && let Some(found) = sync::document(&self.upstream, *root, key, &self.paths).await?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

fn info(custom: Option<&serde_json::Value>) -> Option<CatalogueInfo> {
    serde_json::from_value(custom?.clone()).ok()
}

/// The catalogues of updates that a computer with these facts must have. What cannot be decided fits:
/// their rules will tell.
fn fitting<'a>(
    trusted: &'a Trusted,
    os: &'a Facts,
) -> impl Iterator<Item = (&'a str, Digest, CatalogueInfo)> {
    trusted.targets.iter().filter_map(|(name, target)| {
        let info = info(target.custom.as_ref())?;
        let fits = info.kind == CatalogueKind::Updates && evaluate(&info.fits, os) != Truth::False;
        let known = name.parse::<CatalogueId>().is_ok();
        (fits && known).then_some((name.as_str(), target.sha256, info))
    })
}
