//! The catalogue for computers without a network (`wsusscn2.cab`), as its files say it when they are unpacked.
//!
//! `package.xml` has every update with its relations, and where files are; the pieces of each update (`c/`,
//! `x/`, `l/<language>/`) lie in further cabinets, of which `index.xml` says which revisions are where.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
};

use super::{
    model::{Group, Guid, Identity, Revision, moment},
    rules::Tally,
    update::{self, ReadError, number},
    xml::{self, Element},
};

/// Longest `package.xml`: it had 114 MB in 2026.
pub const GRAPH_BYTES_MAX: u64 = 1 << 30;

/// Most updates of the catalogue: it had 136,478 in 2026.
pub const UPDATES_MAX: usize = 2_000_000;

/// One update of `package.xml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is called.
    pub identity: Identity,
    /// The catalogue's own number of the revision, by which its pieces are found.
    pub revision_id: u32,
    /// When it was made.
    pub created: Option<jiff::Timestamp>,
    /// All must be met, each by any of its updates.
    pub prerequisites: Vec<Group>,
    /// What it belongs to.
    pub categories: Vec<Guid>,
    /// Revisions that replace it.
    pub superseded_by: Vec<u32>,
    /// Bundles that it is a part of.
    pub bundled_by: Vec<u32>,
}

/// What `package.xml` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Graph {
    /// Number of the revision → update.
    pub updates: BTreeMap<u32, Entry>,
    /// SHA-1 in base64 → address.
    pub locations: BTreeMap<String, String>,
}

impl Graph {
    /// Reads `package.xml`, one update after the other.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn read(input: impl Read) -> Result<Self, ReadError> {
        let mut graph = Self::default();
        let wanted = |name: &str| matches!(name, "Update" | "FileLocation");
        xml::each(input, GRAPH_BYTES_MAX, &wanted, &mut |element| -> Result<(), ReadError> {
            if element.name == "FileLocation" {
                if let (Some(id), Some(url)) = (element.attribute("Id"), element.attribute("Url")) {
                    graph.locations.insert(id.to_owned(), url.to_owned());
                }
                return Ok(());
            }
            if graph.updates.len() >= UPDATES_MAX {
                return Err(ReadError::TooMany { what: "updates", most: UPDATES_MAX });
            }
            let entry = entry(&element)?;
            graph.updates.insert(entry.revision_id, entry);
            Ok(())
        })?;
        Ok(graph)
    }

    /// The revision with this number from its pieces, and with what only the graph says of it: prerequisites
    /// where the pieces have none, and where its files are.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn revision(
        &self,
        revision_id: u32,
        pieces: &[&[u8]],
        tally: &mut Tally,
    ) -> Result<Revision, ReadError> {
        let entry = self.updates.get(&revision_id);
        let mut elements = Vec::new();
        for piece in pieces {
            elements.extend(xml::fragments(piece)?);
        }
        let identity = entry.map(|entry| entry.identity.clone());
        let mut revision = update::of_elements(&elements, identity, tally)?;
        if let Some(entry) = entry {
            revision.created = revision.created.or(entry.created);
            if revision.prerequisites.is_empty() {
                revision.prerequisites.clone_from(&entry.prerequisites);
            }
        }
        for file in revision.install.iter_mut().flat_map(|install| &mut install.files) {
            let sha1 = file.sha1.as_ref().and_then(|digest| hex::decode(digest).ok());
            let location = sha1.and_then(|digest| self.locations.get(&base64(&digest)));
            file.url = location.cloned().or(file.url.take());
        }
        Ok(revision)
    }

    /// Updates that replace others: newer → older, both in the catalogue.
    #[must_use]
    pub fn superseded(&self) -> BTreeMap<Guid, BTreeSet<Guid>> {
        let mut found: BTreeMap<Guid, BTreeSet<Guid>> = BTreeMap::new();
        for older in self.updates.values() {
            for newer in older.superseded_by.iter().filter_map(|id| self.updates.get(id)) {
                found.entry(newer.identity.id.clone()).or_default().insert(older.identity.id.clone());
            }
        }
        found
    }
}

fn base64(bytes: &[u8]) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes)
}

fn entry(element: &Element) -> Result<Entry, ReadError> {
    let must = |what: &'static str| element.attribute(what).ok_or(ReadError::Missing { what });
    let ids = |list: &str, name: &str| -> Result<Vec<u32>, ReadError> {
        let found = element.child(list).into_iter().flat_map(|list| &list.children);
        found
            .filter(|child| child.name == name)
            .map(|child| number("Id", child.attribute("Id").unwrap_or_default()))
            .collect()
    };
    let guid = |child: &Element| -> Result<Guid, ReadError> {
        Ok(child.attribute("Id").unwrap_or_default().parse()?)
    };
    let mut prerequisites = Vec::new();
    for child in element.child("Prerequisites").into_iter().flat_map(|list| &list.children) {
        let any = match child.name.as_str() {
            "Or" => child.all("UpdateId").map(guid).collect::<Result<_, _>>()?,
            _ => vec![guid(child)?],
        };
        prerequisites.push(Group { any });
    }
    let categories = element.child("Categories").into_iter().flat_map(|list| list.all("Category"));
    Ok(Entry {
        identity: Identity {
            id: must("UpdateId")?.parse()?,
            revision: number("RevisionNumber", must("RevisionNumber")?)?,
        },
        revision_id: number("RevisionId", must("RevisionId")?)?,
        created: element.attribute("CreationDate").and_then(moment),
        prerequisites,
        categories: categories.map(guid).collect::<Result<_, _>>()?,
        superseded_by: ids("SupersededBy", "Revision")?,
        bundled_by: ids("BundledBy", "Revision")?,
    })
}

/// Which cabinet has the pieces of which revisions, from `index.xml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// First revision number → name of the cabinet, ascending.
    cabinets: Vec<(u32, String)>,
}

impl Index {
    /// Reads `index.xml`.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn read(bytes: &[u8]) -> Result<Self, ReadError> {
        let root = xml::document(bytes)?;
        let list = root.find("CABLIST").ok_or(ReadError::Missing { what: "CABLIST" })?;
        let mut cabinets = Vec::new();
        for cabinet in list.all("CAB") {
            let name = cabinet.attribute("NAME").ok_or(ReadError::Missing { what: "NAME" })?;
            if let Some(start) = cabinet.attribute("RANGESTART") {
                cabinets.push((number("RANGESTART", start)?, name.to_owned()));
            }
        }
        cabinets.sort();
        Ok(Self { cabinets })
    }

    /// The cabinet with the pieces of this revision.
    #[must_use]
    pub fn cabinet(&self, revision_id: u32) -> Option<&str> {
        let place = self.cabinets.partition_point(|(start, _)| *start <= revision_id);
        self.cabinets.get(place.checked_sub(1)?).map(|(_, name)| name.as_str())
    }
}
