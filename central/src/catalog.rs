//! The catalogues: what the sources give, as trees that are ready to be published, and a record of each update.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use jiff::Timestamp;
use tierway_common::{
    blobs::{BlobError, Blobs},
    id::{CatalogueId, IdError, SourceId},
    rules,
    schema::{CatalogueKind, Update},
    store::{StoreError, table},
    tree::{self, TreeError},
    trust::digest::Digest,
};
use tracing::warn;

use crate::{
    model::{Model, UPDATES_MAX, Write},
    sources::{SourceConfig, State as SourceState, Synced, advisories::Advisories},
    state::{Change, State},
    store::{
        chunked,
        tables::{self, CatalogueRecord, SourceRecord, UpdateRecord},
    },
    text::clean,
};

/// Longest title kept for lists; the document has the whole.
const TITLE_BYTES_MAX: usize = 300;
/// Updates that replace one, kept for lists; the document has all.
const SUPERSEDED_BY_MAX: usize = 16;
/// Payloads of one update that are kept: ten times the largest source package of all architectures.
const PAYLOADS_MAX: usize = 20_000;
/// Longest memory of a source, unpacked.
const MEMORY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Memory is written once a sync; this level is fast enough for megabytes.
const COMPRESSION_LEVEL: i32 = 3;

/// Why a catalogue was not taken over; the one before stays.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The name of the pool's catalogue.
    #[error("the catalogue cannot have that name")]
    Name(#[from] IdError),
    /// One more update than there may be.
    #[error("there may be at most {UPDATES_MAX} updates")]
    TooMany,
    /// The tree.
    #[error("could not build the catalogue's tree")]
    Tree(#[from] TreeError),
    /// Its nodes.
    #[error("could not keep the catalogue's tree")]
    Blob(#[from] BlobError),
    /// Its records.
    #[error("could not keep the catalogue")]
    Store(#[from] StoreError),
    /// What the source remembers.
    #[error("could not keep what the source remembers")]
    Memory(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Updates that were not there.
    pub new: usize,
    /// Updates whose document is another.
    pub changed: usize,
    /// Updates that are no longer there.
    pub gone: usize,
    /// Documents that were left out because they are none.
    pub refused: usize,
}

impl std::ops::Add for Applied {
    type Output = Self;

    fn add(self, later: Self) -> Self {
        Self {
            new: self.new + later.new,
            changed: self.changed + later.changed,
            gone: self.gone + later.gone,
            refused: self.refused + later.refused,
        }
    }
}

/// Takes catalogues over from sources.
#[derive(Clone, Debug)]
pub struct Catalog {
    state: Arc<State>,
    trees: Blobs,
}

impl Catalog {
    /// On the given state; trees are kept in `trees`.
    #[must_use]
    pub fn new(state: Arc<State>, trees: Blobs) -> Self {
        Self { state, trees }
    }

    /// The documents of a catalogue by key; empty when there is none yet.
    ///
    /// # Errors
    ///
    /// Those of the tree.
    pub fn documents(&self, catalogue: &CatalogueId) -> Result<BTreeMap<String, Bytes>, CatalogError> {
        let root = self.state.model().catalogues().get(catalogue).map(|record| record.root);
        let mut documents = BTreeMap::new();
        if let Some(root) = root {
            tree::walk_prefix(&root, "", &self.trees, &mut |key, document| {
                documents.insert(key.to_owned(), Bytes::copy_from_slice(document));
            })?;
        }
        Ok(documents)
    }

    /// What a source remembers; new when that cannot be read, or its catalogue is not there, which costs a
    /// full sync.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn memory(&self, config: &SourceConfig) -> Result<SourceState, CatalogError> {
        let source = config.name();
        let is_there = |catalogue| self.state.model().catalogues().contains_key(catalogue);
        if !config.catalogue().is_none_or(is_there) {
            return Ok(SourceState::New);
        }
        let row = tables::SourceMemory { tenant: self.state.tenant(), name: source, chunk: 0 };
        let Some(packed) = chunked::get(self.state.store(), &row)? else { return Ok(SourceState::New) };
        let read = zstd::bulk::decompress(&packed, MEMORY_BYTES_MAX)
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok());
        if read.is_none() {
            warn!(%source, "what the source remembered cannot be read, reading it as new");
        }
        Ok(read.unwrap_or_default())
    }

    /// What the vendors' advisories say, as all sources of that kind remember it.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn advisories<'a>(
        &self,
        sources: impl IntoIterator<Item = &'a SourceConfig>,
    ) -> Result<Advisories, CatalogError> {
        let mut all = Advisories::default();
        for source in sources.into_iter().filter(|source| source.catalogue().is_none()) {
            if let SourceState::Msrc(state) = self.memory(source)? {
                for (article, fix) in &state.advisories().0 {
                    all.add(article, fix);
                }
            }
        }
        Ok(all)
    }

    /// Takes over what a source gave. Documents that are no updates, or have rules beyond the limits, are left
    /// out; everything else is on disk and in the model when this returns, together with what the source
    /// remembers.
    ///
    /// # Errors
    ///
    /// [`CatalogError`]; then the next sync begins where this one did.
    pub fn apply(&self, source: &SourceConfig, synced: Synced) -> Result<Applied, CatalogError> {
        let Synced { unchanged, mut catalogue, pool, state, archive_date, stats } = synced;
        let memory = pack(&state)?;
        let name = source.name();
        if unchanged {
            self.state.change(|model, change| {
                let mut record = model.sources().get(name).cloned().unwrap_or_default();
                record.last_sync = Some(change.now);
                record.last_error = String::new();
                record.archive_date = Some(archive_date);
                change.write(Write::Source(name.clone(), record));
                change.write(Write::SourceMemory(name.clone(), memory));
                Ok::<_, StoreError>(())
            })?;
            return Ok(Applied::default());
        }
        let Some((id, pool_id)) = source.catalogues()? else {
            self.state.change(|_, change| {
                let record = SourceRecord {
                    last_sync: Some(change.now),
                    last_error: String::new(),
                    updates: 0,
                    archive_date: Some(archive_date),
                };
                change.write(Write::Source(name.clone(), record));
                change.write(Write::SourceMemory(name.clone(), memory));
                let detail = format!("{} articles", stats.updates);
                change.audit("central", "sync", format!("source:{name}"), detail);
                Ok::<_, StoreError>(())
            })?;
            return Ok(Applied::default());
        };
        let (updates, refused) = read_updates(&id, &mut catalogue);
        let trees = [
            (id.clone(), CatalogueKind::Updates, self.build(catalogue)?),
            (pool_id, CatalogueKind::Pool(id.clone()), self.build(pool)?),
        ];
        let (applied, _) = self.state.change(|model, change| {
            let mut applied = record_updates(model, change, &id, updates)?;
            applied.refused = refused;
            // Records, then roots, then what the source remembers: after a crash in between it is read as if
            // this had not been, and what is published is what was or what is.
            change.in_parts = true;
            let is_new = |(id, _, root): &(CatalogueId, CatalogueKind, tree::Root)| {
                model.catalogues().get(id).is_none_or(|before| before.root != root.digest)
            };
            let changed: Vec<_> = trees.into_iter().filter(is_new).collect();
            let different = !changed.is_empty();
            let catalogue = |(id, kind, root): (_, _, tree::Root)| {
                let (root, documents) = (root.digest, root.documents);
                (id, CatalogueRecord { root, kind, fits: source.fits(), documents, changed: change.now })
            };
            let changed = changed.into_iter().map(catalogue).collect();
            change.write(Write::Catalogues(changed));
            let record = SourceRecord {
                last_sync: Some(change.now),
                last_error: String::new(),
                updates: live(model, &id) + applied.new as u64 - applied.gone as u64,
                archive_date: Some(archive_date),
            };
            change.write(Write::Source(name.clone(), record));
            change.write(Write::SourceMemory(name.clone(), memory));
            if different {
                let Applied { new, changed, gone, refused } = applied;
                let detail = format!("{new} new, {changed} changed, {gone} gone, {refused} refused");
                change.audit("central", "sync", format!("source:{name}"), detail);
            }
            Ok::<_, CatalogError>(applied)
        })?;
        Ok(applied)
    }

    /// Takes back the catalogues that none of the configured `sources` gives: their updates are gone, and they
    /// leave what is published. A source that is configured and cannot be read keeps its own. Returns the
    /// catalogues that were taken back, ascending.
    ///
    /// # Errors
    ///
    /// [`CatalogError`]; then nothing is taken back.
    pub fn withdraw(&self, sources: &[SourceConfig]) -> Result<Vec<CatalogueId>, CatalogError> {
        // What an administrator brought is no configured source's.
        let mut kept = BTreeSet::from([own::catalogue()?]);
        for source in sources {
            kept.extend(source.catalogues()?.into_iter().flat_map(|(updates, pool)| [updates, pool]));
        }
        let own = own::source()?;
        let named: BTreeSet<_> = sources.iter().map(SourceConfig::name).chain([&own]).collect();
        let is_kept = |update: &UpdateRecord| kept.iter().any(|id| id.as_str() == update.id.catalogue());
        let nothing = {
            let model = self.state.model();
            model.catalogues().keys().all(|id| kept.contains(id))
                && model.sources().keys().all(|name| named.contains(name))
                && model.updates().all(|update| update.gone || is_kept(update))
        };
        if nothing {
            return Ok(Vec::new());
        }
        let ((catalogues, updates), _) = self.state.change(|model, change| {
            let catalogues: Vec<_> =
                model.catalogues().keys().filter(|id| !kept.contains(*id)).cloned().collect();
            let mut updates = 0;
            for update in model.updates().filter(|update| !update.gone && !is_kept(update)) {
                updates += 1;
                change.write(Write::Update(Arc::new(update.left(change.now))));
            }
            let forgotten: Vec<_> =
                model.sources().keys().filter(|name| !named.contains(name)).cloned().collect();
            for name in &forgotten {
                change.write(Write::NoSource(name.clone()));
                let detail = "the configuration does not name it any more".to_owned();
                change.audit("central", "remove source", format!("source:{name}"), detail);
            }
            // Should it come back, its updates are to be evaluated anew.
            let row = tables::Exposed { tenant: self.state.tenant() };
            let mut exposed = table::get(self.state.store(), &row)?.unwrap_or_default();
            exposed.retain(|id, _| kept.contains(id));
            table::put(&mut change.batch, &row, &exposed)?;
            for id in &catalogues {
                change.write(Write::NoCatalogue(id.clone()));
                let detail = "no source in the configuration gives it any more".to_owned();
                change.audit("central", "withdraw", format!("catalogue:{id}"), detail);
            }
            Ok::<_, CatalogError>((catalogues, updates))
        })?;
        for catalogue in &catalogues {
            warn!(%catalogue, updates, "withdrew a catalogue that no configured source gives any more");
        }
        Ok(catalogues)
    }

    /// Notes that a source could not be read.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn failed(&self, source: &SourceId, error: &str) -> Result<(), StoreError> {
        self.state.change(|model, change| {
            let mut record = model.sources().get(source).cloned().unwrap_or_default();
            record.last_error = clean(error, 1_000);
            change.write(Write::Source(source.clone(), record));
            Ok::<_, StoreError>(())
        })?;
        Ok(())
    }

    fn build(&self, documents: BTreeMap<String, Bytes>) -> Result<tree::Root, CatalogError> {
        let mut nodes: Vec<Bytes> = Vec::new();
        let root = tree::build(documents, &mut nodes)?;
        nodes.retain(|node| !self.trees.contains(&Digest::of(node)));
        self.trees.put_many(&nodes)?;
        Ok(root)
    }
}

fn pack(memory: &SourceState) -> Result<Arc<[u8]>, CatalogError> {
    let json = serde_json::to_vec(memory).map_err(|error| CatalogError::Memory(error.into()))?;
    if json.len() > MEMORY_BYTES_MAX {
        return Err(CatalogError::Memory(format!("it has {} bytes", json.len()).into()));
    }
    let packed =
        zstd::bulk::compress(&json, COMPRESSION_LEVEL).map_err(|error| CatalogError::Memory(error.into()))?;
    Ok(packed.into())
}

/// The updates among `documents`, from which those that cannot be read are taken out and counted.
fn read_updates(
    catalogue: &CatalogueId,
    documents: &mut BTreeMap<String, Bytes>,
) -> (Vec<(Update, Digest)>, usize) {
    let mut updates = Vec::new();
    let mut refused = 0;
    documents.retain(|key, document| match read_update(catalogue, key, document) {
        Ok(update) => {
            updates.push((update, Digest::of(document)));
            true
        }
        Err(reason) => {
            warn!(%catalogue, key, reason, "left out a document");
            refused += 1;
            false
        }
    });
    (updates, refused)
}

fn read_update(catalogue: &CatalogueId, key: &str, document: &[u8]) -> Result<Update, String> {
    let name = key.strip_prefix("update/").ok_or("it is no update")?;
    let update: Update = serde_json::from_slice(document).map_err(|error| error.to_string())?;
    if update.id.catalogue() != catalogue.as_str() || update.id.name() != name {
        return Err(format!("it says that it is `{}`", update.id));
    }
    for rule in [&update.applicable, &update.installed] {
        rules::check(rule).map_err(|error| error.to_string())?;
    }
    Ok(update)
}

fn live(model: &Model, catalogue: &CatalogueId) -> u64 {
    let of_catalogue =
        |update: &&Arc<UpdateRecord>| !update.gone && update.id.catalogue() == catalogue.as_str();
    model.updates().filter(of_catalogue).count() as u64
}

fn record_updates(
    model: &Model,
    change: &mut Change,
    catalogue: &CatalogueId,
    updates: Vec<(Update, Digest)>,
) -> Result<Applied, CatalogError> {
    let mut applied = Applied::default();
    let mut free = model.free_updates();
    let mut there = BTreeSet::new();
    for (update, document) in updates {
        there.insert(update.id.clone());
        let before = model.update_by_id(&update.id);
        if before.is_some_and(|before| !before.gone && before.document == document) {
            continue;
        }
        let (number, seen) = match before {
            Some(before) if !before.gone => {
                applied.changed += 1;
                (before.number, before.seen)
            }
            Some(before) => {
                applied.new += 1;
                (before.number, before.seen)
            }
            None => {
                applied.new += 1;
                (free.next().ok_or(CatalogError::TooMany)?, change.now)
            }
        };
        let payloads = payloads(&update);
        // Once the record is there, the next sync does not look at this document again.
        let record = Write::Update(Arc::new(record(update, number, seen, document, &payloads)));
        change.write(Write::Together(vec![record, Write::Payloads(number, payloads)]));
    }
    for before in model.updates() {
        if !before.gone && before.id.catalogue() == catalogue.as_str() && !there.contains(&before.id) {
            applied.gone += 1;
            change.write(Write::Update(Arc::new(before.left(change.now))));
        }
    }
    Ok(applied)
}

fn record(
    update: Update,
    number: u32,
    seen: Timestamp,
    document: Digest,
    payloads: &[(Digest, u64)],
) -> UpdateRecord {
    let mut superseded_by = update.superseded_by;
    superseded_by.truncate(SUPERSEDED_BY_MAX);
    UpdateRecord {
        number,
        id: update.id,
        title: clean(&update.title, TITLE_BYTES_MAX),
        severity: update.severity,
        released: update.released,
        seen,
        document,
        superseded_by,
        payload_bytes: payloads.iter().map(|(_, bytes)| bytes).sum(),
        gone: false,
        gone_since: None,
    }
}

/// What an update must fetch, each once, ascending by digest.
fn payloads(update: &Update) -> Arc<[(Digest, u64)]> {
    let named = update.install.payloads();
    let payloads: BTreeMap<_, _> = named.iter().map(|(_, payload)| (payload.digest, payload.bytes)).collect();
    payloads.into_iter().take(PAYLOADS_MAX).collect()
}

pub mod own;

#[cfg(test)]
pub(crate) mod tests;
