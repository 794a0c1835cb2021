//! Publication: the catalogues' roots and the tenant's policy, signed as TUF metadata.
//!
//! The order is blobs, then everything else in one batch: metadata, what the writer must remember, the
//! policy documents that are no longer pending. So a crash leaves the old publication or the new one.
//! What did not change is not published again.

pub mod log;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use bytes::Bytes;
use jiff::Timestamp;
use tierway_common::{
    blobs::{BlobError, Blobs},
    id::{CatalogueId, IdError},
    rules::expr::Expr,
    schema::{CatalogueInfo, CatalogueKind},
    store::{BATCH_BYTES_MAX, Batch, Row, Store, StoreError, table},
    tree::{self, TreeError},
    trust::{
        digest::Digest,
        keys::SigningKey,
        tuf::{
            metadata::Target,
            writer::{Published, Repository, Validity, WriteError},
        },
    },
};
use tierway_proto::metadata::Newest;
use tokio::sync::watch;
use tracing::info;

use crate::{
    state::State,
    store::{
        chunked,
        tables::{self, PublishedRecord},
    },
};

/// Policy documents that go into one publication; more follow in the next, a second later.
pub const PENDING_AT_ONCE: usize = 5_000;
/// Bytes that they may add to the batch that holds the publication; the other half is for the metadata.
const PENDING_BYTES_AT_ONCE: usize = BATCH_BYTES_MAX / 2;
/// Pending documents that are read at once: 16 MiB at most.
const PENDING_READ_AT_ONCE: usize = 250;
/// Earlier roots whose trees stay readable: at one a second those of the last two minutes, so that whoever has
/// begun to fetch can end.
const KEPT_BEFORE: usize = 128;
/// Old versions of `targets` and `snapshot` metadata that stay, for whoever holds an older timestamp.
const VERSIONS_KEPT: u64 = 64;
/// Owner of the pins of published trees.
const PIN_OWNER: &str = "published";

/// Why nothing was published; what is published stays.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The policy catalogue's name.
    #[error("the policy catalogue cannot have that name")]
    Name(#[from] IdError),
    /// A tree.
    #[error("could not build the policy's tree")]
    Tree(#[from] TreeError),
    /// Its nodes.
    #[error("could not keep the policy's tree")]
    Blob(#[from] BlobError),
    /// The metadata.
    #[error("could not sign the metadata")]
    Write(#[from] WriteError),
    /// The store.
    #[error("could not keep the publication")]
    Store(#[from] StoreError),
    /// A document about a catalogue.
    #[error("could not describe the catalogue `{catalogue}`")]
    Describe {
        /// Which.
        catalogue: CatalogueId,
        /// Why.
        source: serde_json::Error,
    },
    /// What the writer remembers.
    #[error("what was published before cannot be read")]
    Remembered(#[source] serde_json::Error),
}

/// What a publication run did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing had changed.
    Unchanged {
        /// More policy documents are waiting.
        more: bool,
    },
    /// This is out now.
    Published {
        /// Timestamp metadata version.
        version: u64,
        /// More policy documents are waiting.
        more: bool,
    },
}

/// Publishes, and serves what is published.
#[derive(Debug)]
pub struct Publisher {
    state: Arc<State>,
    trees: Blobs,
    policy: CatalogueId,
    key: SigningKey,
    writer: Mutex<Writer>,
    served: RwLock<Served>,
    news: watch::Sender<News>,
}

/// Which versions of the timestamp metadata are news.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// The newest one with which something changed.
    pub changed: u64,
    /// The newest one with which something changed that is worth a check of every computer.
    pub of_note: u64,
}

#[derive(Debug)]
struct Writer {
    repository: Repository,
    record: PublishedRecord,
}

/// What is given to whoever asks, while the next publication is made.
#[derive(Debug, Default)]
struct Served {
    files: BTreeMap<String, Bytes>,
    roots: BTreeSet<u64>,
    version: u64,
    record: Arc<PublishedRecord>,
    root_expires: Timestamp,
}

impl Publisher {
    /// Goes on with what was published, or begins with `root`, the exact bytes of `1.root.json`.
    ///
    /// # Errors
    ///
    /// [`PublishError`].
    pub fn open(state: Arc<State>, trees: Blobs, root: &[u8], key: SigningKey) -> Result<Self, PublishError> {
        let tenant = state.tenant();
        let policy = format!("policy-{tenant}").parse()?;
        let remembered = chunked::get(state.store(), &tables::Writer { tenant, chunk: 0 })?;
        let repository = match remembered {
            Some(json) => {
                Repository::resume(serde_json::from_slice(&json).map_err(PublishError::Remembered)?)?
            }
            None => Repository::begin(root, Validity::default())?,
        };
        let record = table::get(state.store(), &tables::Published { tenant })?.unwrap_or_default();
        let mut served = Served::default();
        let parts = table::Key::new().text(tenant.as_str()).done();
        let mut names = BTreeSet::new();
        table::for_each::<tables::Metadata<'_>, StoreError>(state.store(), &parts, |key, _| {
            let mut parts = table::Parts::of(key);
            names.extend(parts.text().and_then(|_| parts.text()));
            Ok(())
        })?;
        for name in names {
            let row = tables::Metadata { tenant, name: &name, chunk: 0 };
            if let Some(bytes) = chunked::get(state.store(), &row)? {
                served.put(&name, bytes.into());
            }
        }
        let (name, bytes) = repository.root_file();
        served.put(&name, bytes);
        served.put("1.root.json", Bytes::copy_from_slice(root));
        served.version = repository.timestamp_version();
        (served.record, served.root_expires) = (Arc::new(record.clone()), repository.root_expires());
        // What was only signed again since makes each relay look once more, and nobody else.
        let (news, _) = watch::channel(News { changed: served.version, of_note: record.news });
        let writer = Mutex::new(Writer { repository, record });
        Ok(Self { state, trees, policy, key, writer, served: RwLock::new(served), news })
    }

    /// One metadata file: the newest of a role, or exactly `version`.
    #[must_use]
    pub fn metadata(&self, role: &str, version: Option<u64>) -> Option<Bytes> {
        let served = self.served();
        let name = match (role, version) {
            ("timestamp", _) => "timestamp.json".to_owned(),
            ("root", None) => format!("{}.root.json", served.roots.last()?),
            ("root" | "snapshot" | "targets", Some(version)) => format!("{version}.{role}.json"),
            ("snapshot" | "targets", None) => return served.newest(role).map(|(_, bytes)| bytes),
            _ => return None,
        };
        let bytes = served.files.get(&name)?.clone();
        // A version was named for what has none in its name.
        (role != "timestamp" || version.is_none_or(|version| version == served.version)).then_some(bytes)
    }

    /// Version and bytes of the newest timestamp metadata; 0 and nothing before the first publication.
    #[must_use]
    pub fn timestamp(&self) -> (u64, Bytes) {
        let served = self.served();
        (served.version, served.files.get("timestamp.json").cloned().unwrap_or_default())
    }

    /// The newest of what the timestamp leads to. It may be newer than the one that was asked for a moment before.
    #[must_use]
    pub fn newest(&self) -> Newest {
        let served = self.served();
        let root_version = served.roots.last().copied().unwrap_or_default();
        Newest { root_version, snapshot: served.newest("snapshot"), targets: served.newest("targets") }
    }

    /// What is news now, and whenever that changes. Metadata that is only signed again is none.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<News> {
        self.news.subscribe()
    }

    /// Roots of the catalogues as published, and the timestamp version they came with.
    #[must_use]
    pub fn published(&self) -> Arc<PublishedRecord> {
        self.served().record.clone()
    }

    /// A document of the policy catalogue as published, by its key.
    ///
    /// # Errors
    ///
    /// Those of the tree.
    pub fn policy_document(&self, key: &str) -> Result<Option<Bytes>, TreeError> {
        match self.published().roots.get(&self.policy) {
            Some(root) => tree::get(root, key, &self.trees),
            None => Ok(None),
        }
    }

    fn served(&self) -> std::sync::RwLockReadGuard<'_, Served> {
        self.served.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes what changed, if anything did.
    ///
    /// # Errors
    ///
    /// [`PublishError`]; the next run tries again.
    pub fn publish(&self) -> Result<Outcome, PublishError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let tenant = self.state.tenant();
        let parts = table::Key::new().text(tenant.as_str()).done();
        // As bytes, so that a document that changes meanwhile stays pending.
        let prefix = table::prefixed::<tables::PendingPolicy<'_>>(&parts);
        let ((pending, more), catalogues, now) = self.state.settled(|store, model| {
            let pending = pending(store, &prefix)?;
            // Read here, so that every decision made until then is in the store.
            Ok::<_, StoreError>((pending, model.catalogues().clone(), self.state.now()))
        })?;
        let mut changes = BTreeMap::new();
        for row in &pending {
            let key = table::Parts::of(&row.key[prefix.len()..]).text().unwrap_or_default();
            let text = <tables::PendingPolicy<'_> as table::Table>::decode(&row.value)
                .map_err(|source| StoreError::Malformed { key: row.key.clone(), source })?;
            changes.insert(key, text.map(Bytes::from));
        }
        let mut of_note = changes.keys().any(|key| is_of_note(key));
        let mut nodes: Vec<Bytes> = Vec::new();
        let policy = match writer.record.roots.get(&self.policy) {
            Some(root) if changes.is_empty() => tree::root(root, &self.trees)?,
            Some(root) => tree::update(root, &changes, &self.trees, &mut nodes)?,
            None => {
                let documents = changes.into_iter().filter_map(|(key, document)| Some((key, document?)));
                tree::build(documents, &mut nodes)?
            }
        };
        self.trees.put_many(&nodes)?;

        let (mut targets, mut roots) = (BTreeMap::new(), BTreeMap::new());
        let policy_info = CatalogueInfo {
            kind: CatalogueKind::Policy,
            fits: Expr::Const(true),
            documents: policy.documents,
        };
        self.add_target(&mut targets, &self.policy, policy.digest, &policy_info)?;
        roots.insert(self.policy.clone(), policy.digest);
        for (id, record) in &catalogues {
            let info = CatalogueInfo {
                kind: record.kind.clone(),
                fits: record.fits.clone(),
                documents: record.documents,
            };
            self.add_target(&mut targets, id, record.root, &info)?;
            of_note |=
                record.kind == CatalogueKind::Updates && writer.record.roots.get(id) != Some(&record.root);
            roots.insert(id.clone(), record.root);
        }

        let mut batch = Batch::new();
        for row in &pending {
            batch.expect_equals(row.key.clone(), row.value.clone()).delete(row.key.clone());
        }
        if targets == writer.repository.targets() && writer.repository.timestamp_version() > 0 {
            if !batch.is_empty() {
                self.state.store().commit(&batch)?;
            }
            return Ok(Outcome::Unchanged { more });
        }
        let mut repository = writer.repository.clone();
        let published = repository.publish(&targets, &[&self.key], now)?;
        let mut record = writer.record.clone();
        if of_note {
            record.news = published.timestamp_version;
        }
        let replaced = std::mem::replace(&mut record.roots, roots);
        let replaced = replaced.into_iter().filter(|(id, root)| record.roots.get(id) != Some(root));
        let replaced: Vec<_> = replaced.map(|(_, root)| root).collect();
        record.before.splice(0..0, replaced);
        record.before.truncate(KEPT_BEFORE);
        record.changed = Some(now);
        // Of more than go in at once the last publication holds all.
        let covers = (!more).then_some(now);
        if let Some(covers) = covers {
            self.state.publications().keep(&mut batch, tenant, published.timestamp_version, &covers)?;
        }
        self.keep(&mut writer, repository, record, published, batch)?;
        let version = writer.record.timestamp_version;
        if let Some(covers) = covers {
            self.state.published(version, covers);
        }
        self.news.send_replace(News { changed: version, of_note: writer.record.news });
        info!(version, documents = pending.len(), "published");
        Ok(Outcome::Published { version, more })
    }

    fn add_target(
        &self,
        targets: &mut BTreeMap<String, Target>,
        catalogue: &CatalogueId,
        root: Digest,
        info: &CatalogueInfo,
    ) -> Result<(), PublishError> {
        let describe = |source| PublishError::Describe { catalogue: catalogue.clone(), source };
        let custom = Some(serde_json::to_value(info).map_err(describe)?);
        let length = self.trees.len(&root).ok_or(TreeError::Missing { digest: root })?;
        targets.insert(catalogue.to_string(), Target { length, sha256: root, custom });
        Ok(())
    }

    /// Signs the timestamp again, so that it does not expire while nothing changes.
    ///
    /// # Errors
    ///
    /// [`PublishError`].
    pub fn refresh(&self) -> Result<u64, PublishError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if writer.repository.timestamp_version() == 0 {
            return Ok(0);
        }
        let mut repository = writer.repository.clone();
        let published = repository.refresh_timestamp(&[&self.key], self.state.now())?;
        let record = writer.record.clone();
        self.keep(&mut writer, repository, record, published, Batch::new())?;
        Ok(writer.record.timestamp_version)
    }

    /// Publishes a root that follows the present one, with everything below it signed anew.
    ///
    /// # Errors
    ///
    /// [`PublishError::Write`] when it does not follow, or does not name the key that signs here.
    pub fn take_root(&self, root: &[u8]) -> Result<u64, PublishError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut repository = writer.repository.clone();
        let published = repository.take_root(root, &[&self.key], self.state.now())?;
        let record = writer.record.clone();
        self.keep(&mut writer, repository, record, published, Batch::new())?;
        Ok(writer.record.timestamp_version)
    }

    /// Version of the root.
    #[must_use]
    pub fn root_version(&self) -> u64 {
        self.served().roots.last().copied().unwrap_or_default()
    }

    /// Until when the root is valid.
    #[must_use]
    pub fn root_expires(&self) -> Timestamp {
        self.served().root_expires
    }

    fn keep(
        &self,
        writer: &mut Writer,
        repository: Repository,
        mut record: PublishedRecord,
        published: Published,
        mut batch: Batch,
    ) -> Result<(), PublishError> {
        let tenant = self.state.tenant();
        let Published { files, timestamp_version } = published;
        (record.timestamp_version, record.signed) = (timestamp_version, Some(self.state.now()));
        let remembered = serde_json::to_vec(&repository.state()).map_err(PublishError::Remembered)?;
        chunked::put(&mut batch, &tables::Writer { tenant, chunk: 0 }, &remembered)?;
        for (name, bytes) in &files {
            chunked::put(&mut batch, &tables::Metadata { tenant, name, chunk: 0 }, bytes)?;
        }
        let outdated = self.served().outdated();
        for name in &outdated {
            table::delete(&mut batch, &tables::Metadata { tenant, name, chunk: 0 });
        }
        table::put(&mut batch, &tables::Published { tenant }, &record)?;
        self.state.store().commit(&batch)?;
        (writer.repository, writer.record) = (repository, record);
        let mut served = self.served.write().unwrap_or_else(PoisonError::into_inner);
        served.record = Arc::new(writer.record.clone());
        served.root_expires = writer.repository.root_expires();
        for name in outdated {
            served.files.remove(&name);
        }
        for (name, bytes) in files {
            served.put(&name, bytes);
        }
        served.version = timestamp_version;
        drop(served);
        Ok(())
    }

    /// Pins the trees that are published or were a moment ago, and lets go of all others: what is over the
    /// quota then can be evicted.
    ///
    /// # Errors
    ///
    /// [`PublishError`].
    pub fn pin(&self) -> Result<usize, PublishError> {
        let record = self.published();
        let mut roots: BTreeSet<Digest> = record.roots.values().chain(&record.before).copied().collect();
        roots.extend(self.state.model().catalogues().values().map(|catalogue| catalogue.root));
        let mut reachable = BTreeSet::new();
        for root in roots {
            reachable.extend(tree::reachable(&root, None, &self.trees)?);
        }
        self.trees.pin(PIN_OWNER, &reachable)?;
        self.trees.evict()?;
        Ok(reachable.len())
    }
}

/// The first documents that wait to be published, as many as go into one publication, and whether there are more.
fn pending(store: &dyn Store, prefix: &[u8]) -> Result<(Vec<Row>, bool), StoreError> {
    let (mut taken, mut bytes) = (Vec::<Row>::new(), 0);
    loop {
        let after = taken.last().map(|row| row.key.clone());
        let rows = store.scan(prefix, after.as_deref(), PENDING_READ_AT_ONCE)?;
        let is_last = rows.len() < PENDING_READ_AT_ONCE;
        for row in rows {
            // As it is expected, and as it is deleted.
            bytes += row.key.len() * 2 + row.value.len();
            if taken.len() == PENDING_AT_ONCE || (!taken.is_empty() && bytes > PENDING_BYTES_AT_ONCE) {
                return Ok((taken, true));
            }
            taken.push(row);
        }
        if is_last {
            return Ok((taken, false));
        }
    }
}

/// Whether a policy document is worth a check of every computer as soon as it changes. What concerns single
/// computers, or is only looked at when something is installed, is taken over with the next check.
fn is_of_note(key: &str) -> bool {
    const QUIET: [&str; 4] = ["endpoint/", "revoked/", "timing/", "lease-key"];
    !QUIET.iter().any(|quiet| key.starts_with(quiet))
}

impl Served {
    fn put(&mut self, name: &str, bytes: Bytes) {
        if let Some(version) = name.strip_suffix(".root.json").and_then(|version| version.parse().ok()) {
            self.roots.insert(version);
        }
        self.files.insert(name.to_owned(), bytes);
    }

    fn versions(&self, role: &str) -> BTreeSet<u64> {
        let suffix = format!(".{role}.json");
        let version = |name: &String| name.strip_suffix(&suffix)?.parse().ok();
        self.files.keys().filter_map(version).collect()
    }

    /// Version and bytes of the newest of `targets` or `snapshot`.
    fn newest(&self, role: &str) -> Option<(u64, Bytes)> {
        let version = self.versions(role).last().copied()?;
        Some((version, self.files.get(&format!("{version}.{role}.json"))?.clone()))
    }

    /// Versions of `targets` and `snapshot` beyond [`VERSIONS_KEPT`].
    fn outdated(&self) -> Vec<String> {
        let mut outdated = Vec::new();
        for role in ["targets", "snapshot"] {
            let versions = self.versions(role);
            let keep_from = versions.last().map_or(0, |newest| newest.saturating_sub(VERSIONS_KEPT));
            outdated.extend(versions.range(..keep_from).map(|version| format!("{version}.{role}.json")));
        }
        outdated
    }
}

#[cfg(test)]
mod tests;
