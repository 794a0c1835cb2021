//! The catalogue of an administrator's own packages: read, changed package by package, and who replaces whom.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tierway_common::{
    id::{CatalogueId, SourceId, UpdateId},
    rules::expr::Expr,
    schema::{CatalogueKind, Update},
    store::StoreError,
    tree,
    trust::digest::Digest,
    version::{deb::DebVersion, windows::WindowsVersion},
};

use super::{Catalog, CatalogError, record_updates};
use crate::{
    model::{Model, Write},
    sources::local,
    store::tables::{CatalogueRecord, SourceRecord},
};

/// Packages by id.
pub type Own = BTreeMap<UpdateId, Update>;

/// What somebody did to a package, for the audit log.
#[derive(Clone, Debug)]
pub struct Deed {
    /// A verb in the imperative.
    pub action: &'static str,
    /// Which package.
    pub package: UpdateId,
    /// With which values.
    pub detail: String,
}

impl Catalog {
    /// The packages, ascending by id; empty when there are none.
    ///
    /// # Errors
    ///
    /// Those of the tree.
    pub fn own(&self) -> Result<Own, CatalogError> {
        let root = self.state.model().catalogues().get(&catalogue()?).map(|record| record.root);
        self.own_at(root)
    }

    fn own_at(&self, root: Option<Digest>) -> Result<Own, CatalogError> {
        let mut own = Own::new();
        if let Some(root) = root {
            tree::walk_prefix(&root, "update/", &self.trees, &mut |_, document| {
                own.extend(
                    serde_json::from_slice::<Update>(document).ok().map(|update| (update.id.clone(), update)),
                );
            })?;
        }
        Ok(own)
    }

    /// Changes the packages: `decide` is given them, and when it tells of a deed what it left is published. Gives
    /// what it gave, and the sequence of the audit record, 0 when there was no deed.
    ///
    /// # Errors
    ///
    /// What `decide` fails with, and [`CatalogError`]; then nothing is changed.
    pub fn change_own<T, E: From<CatalogError> + From<StoreError>>(
        &self,
        actor: &str,
        decide: impl FnOnce(&mut Own) -> Result<(T, Option<Deed>), E>,
    ) -> Result<(T, u64), E> {
        let ((result, changed), sequence) = self.state.change(|model, change| {
            let id = catalogue()?;
            let mut own = self.own_at(model.catalogues().get(&id).map(|record| record.root))?;
            let (result, deed) = decide(&mut own)?;
            let Some(Deed { action, package, detail }) = deed else { return Ok::<_, E>((result, false)) };
            relate(&mut own);
            let (documents, updates) = encode(&own)?;
            record_updates(model, change, &id, updates)?;
            let source = source()?;
            if own.is_empty() {
                change.write(Write::NoCatalogue(id));
                change.write(Write::NoSource(source));
            } else {
                let root = self.build(documents)?;
                let record = CatalogueRecord {
                    root: root.digest,
                    kind: CatalogueKind::Updates,
                    fits: Expr::Const(true),
                    documents: root.documents,
                    changed: change.now,
                };
                change.write(Write::Catalogues(vec![(id, record)]));
                let record = SourceRecord {
                    last_sync: Some(change.now),
                    last_error: String::new(),
                    updates: own.len() as u64,
                    archive_date: Some(change.now),
                };
                change.write(Write::Source(source, record));
            }
            change.audit(actor, action, format!("package:{package}"), detail);
            Ok((result, true))
        })?;
        Ok((result, if changed { sequence } else { 0 }))
    }
}

/// The catalogue of own packages.
///
/// # Errors
///
/// Never, but the name is checked as all are.
pub fn catalogue() -> Result<CatalogueId, CatalogError> {
    Ok(local::NAME.parse()?)
}

/// The source that own packages are listed under.
///
/// # Errors
///
/// As [`catalogue`].
pub fn source() -> Result<SourceId, CatalogError> {
    Ok(local::NAME.parse()?)
}

/// Payloads of own packages.
#[must_use]
pub fn payloads(model: &Model) -> BTreeSet<Digest> {
    let own = model.updates().filter(|update| !update.gone && update.id.catalogue() == local::NAME);
    own.flat_map(|update| model.payloads(update.number).iter().map(|(digest, _)| *digest)).collect()
}

type Encoded = (BTreeMap<String, Bytes>, Vec<(Update, Digest)>);

fn encode(own: &Own) -> Result<Encoded, CatalogError> {
    let (mut documents, mut updates) = (BTreeMap::new(), Vec::new());
    for (id, update) in own {
        let json =
            Bytes::from(serde_json::to_vec(update).map_err(|error| CatalogError::Memory(error.into()))?);
        updates.push((update.clone(), Digest::of(&json)));
        documents.insert(format!("update/{}", id.name()), json);
    }
    Ok((documents, updates))
}

/// A version as it is compared; packages whose versions are of two sorts replace nobody.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    Deb(DebVersion),
    Windows(WindowsVersion),
}

fn version(update: &Update) -> Option<Version> {
    let text = &update.version;
    match update.install.deb_packages() {
        [] => text.parse().ok().map(Version::Windows),
        _ => text.parse().ok().map(Version::Deb),
    }
}

/// The name that a package has in all versions.
fn family(update: &Update) -> &str {
    let name = update.id.name();
    name.strip_suffix(update.version.as_str()).and_then(|name| name.strip_suffix('_')).unwrap_or(name)
}

/// Says of each package which others of the same name it replaces, and which replace it.
pub fn relate(own: &mut Own) {
    let mut families: BTreeMap<String, Vec<(Version, UpdateId)>> = BTreeMap::new();
    for update in own.values() {
        let sort = if update.install.deb_packages().is_empty() { "windows" } else { "deb" };
        let members = families.entry(format!("{sort} {}", family(update))).or_default();
        members.extend(version(update).map(|version| (version, update.id.clone())));
    }
    for update in own.values_mut() {
        update.supersedes.clear();
        update.superseded_by.clear();
    }
    for members in families.values() {
        for (version, id) in members {
            let Some(update) = own.get_mut(id) else { continue };
            let than = |wanted: std::cmp::Ordering| {
                let found = members.iter().filter(move |(other, _)| other.cmp(version) == wanted);
                found.map(|(_, id)| id.clone()).collect()
            };
            update.supersedes = than(std::cmp::Ordering::Less);
            update.superseded_by = than(std::cmp::Ordering::Greater);
        }
    }
}
