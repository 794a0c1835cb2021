//! The source `offline`: Microsoft's catalogue for computers without a network (`wsusscn2.cab`), from a file.
//!
//! What is believed: the file whose SHA-256 the configuration names. The cabinet's own signature (Authenticode) is not
//! checked here: who names the digest has seen the signature hold where Windows is, or has it from who has. The
//! catalogue is read from memory, 650 MB in 2026, and unpacked cabinet by cabinet, of which only the wanted updates stay.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    path::PathBuf,
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tierway_common::{
    daemon::chain::Chain,
    id::{CatalogueId, SourceId},
    rules::expr::{Expr, OsTest},
    trust::digest::Digest,
};
use tracing::warn;

use super::{
    Synced,
    advisories::Advisories,
    place::{self, PlaceError},
    windows::{
        cabinet::{self, Cabinet, CabinetError, Member},
        documents::{self, Documents, EncodeError},
        lower::Revisions,
        model::Guid,
        offline::{Entry, Graph, Index},
        rules::Tally,
        update::ReadError,
    },
};

/// Longest catalogue: a cabinet cannot be longer than its numbers of 32 bits say.
const FILE_BYTES_MAX: u64 = 1 << 32;

/// Longest cabinet within it: the largest has some 60 MB.
const INNER_BYTES_MAX: u32 = 1 << 30;

/// Longest index.
const INDEX_BYTES_MAX: u32 = 1 << 20;

/// Longest piece of one update.
const PIECE_BYTES_MAX: u32 = 128 << 20;

/// Raised whenever the same catalogue gives other documents than before.
const LOWERING: u32 = 1;

/// So many updates that cannot be understood are logged one by one.
const LOGGED_MAX: usize = 5;

/// A source of kind `offline`, as written in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the source.
    pub name: SourceId,
    /// Catalogue of its updates, such as `windows`.
    pub catalogue: CatalogueId,
    /// Absolute path of the file.
    pub file: PathBuf,
    /// SHA-256 of the file.
    pub sha256: Digest,
    /// Products or classifications, by GUID: updates of any of these; all when there are none.
    #[serde(default)]
    pub categories: Vec<String>,
}

impl Config {
    /// For which computers the catalogue is at all.
    #[must_use]
    pub fn fits(&self) -> Expr {
        Expr::Os(OsTest { family: Some("windows".to_owned()), ..OsTest::default() })
    }

    /// Nothing is fetched but payloads, with what the environment says.
    pub(super) fn timeout(&self) -> Duration {
        super::default_timeout()
    }

    /// Checks what is written.
    ///
    /// # Errors
    ///
    /// [`SyncError::Place`], [`SyncError::Category`].
    pub fn check(&self) -> Result<(), SyncError> {
        if !self.file.is_absolute() {
            return Err(PlaceError::NotPath { path: self.file.clone() }.into());
        }
        self.wanted().map(drop)
    }

    fn wanted(&self) -> Result<BTreeSet<Guid>, SyncError> {
        let id = |text: &String| text.parse().map_err(|_| SyncError::Category { found: text.clone() });
        self.categories.iter().map(id).collect()
    }
}

/// A catalogue that could not be read; what was read before stays.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// Where it is said to be, or the file there.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// A category is none.
    #[error("`categories` must be GUIDs, found `{found}`")]
    Category {
        /// What there is.
        found: String,
    },
    /// It is another file.
    #[error("`{}` has the digest {found}, not {expected} as configured", file.display())]
    Pinned {
        /// Which file.
        file: PathBuf,
        /// As configured.
        expected: Digest,
        /// As it is.
        found: Digest,
    },
    /// A cabinet of it.
    #[error("could not unpack `{cabinet}`")]
    Cabinet {
        /// Which.
        cabinet: String,
        /// Why.
        source: CabinetError,
    },
    /// Its graph or index.
    #[error("could not read `{document}`")]
    Document {
        /// Which.
        document: &'static str,
        /// Why.
        source: ReadError,
    },
    /// A document could not be written.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The thread that read it is gone.
    #[error("reading the catalogue was interrupted")]
    Broken,
}

/// What a sync must remember for the next one; empty at first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// What the documents were made of.
    pub made: Option<Digest>,
    /// Date of the newest update.
    pub date: Option<Timestamp>,
}

/// Microsoft's catalogue, read by [`Offline::sync`].
#[derive(Clone, Debug)]
pub struct Offline {
    config: Config,
}

impl Offline {
    /// As configured.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config }
    }

    /// As configured.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Reads the file, unless it is the one that was read before. `catalogue` are the documents that it gave.
    ///
    /// # Errors
    ///
    /// [`SyncError`], upon which the caller goes on with what it has.
    pub async fn sync(
        &self,
        previous: &State,
        catalogue: &BTreeMap<String, Bytes>,
        advisories: &Advisories,
        now: Timestamp,
    ) -> Result<Synced<State>, SyncError> {
        let Config { catalogue: id, sha256, categories, .. } = &self.config;
        let of = format!("{LOWERING} {id} {sha256} {} {}", categories.join(" "), advisories.digest());
        let made = Some(Digest::of(of.as_bytes()));
        if previous.made == made {
            return Ok(Synced::unchanged(previous.clone(), previous.date.unwrap_or(now)));
        }
        let (config, catalogue, advisories) = (self.config.clone(), catalogue.clone(), advisories.clone());
        let work = move || read(&config, &catalogue, &advisories, now);
        let Documents { catalogue, date, stats, left_out: _ } =
            tokio::task::spawn_blocking(work).await.map_err(|_| SyncError::Broken)??;
        Ok(Synced {
            unchanged: false,
            catalogue,
            pool: BTreeMap::new(),
            state: State { made, date },
            archive_date: date.unwrap_or(now),
            stats,
        })
    }
}

fn read(
    config: &Config,
    before: &BTreeMap<String, Bytes>,
    advisories: &Advisories,
    now: Timestamp,
) -> Result<Documents, SyncError> {
    let bytes = place::read(&config.file, FILE_BYTES_MAX)?;
    let found = Digest::of(&bytes);
    if found != config.sha256 {
        return Err(SyncError::Pinned { file: config.file.clone(), expected: config.sha256, found });
    }
    let outer = open("the catalogue", &bytes)?;
    let index = member(&outer, "index.xml", INDEX_BYTES_MAX)?;
    let index =
        Index::read(&index).map_err(|source| SyncError::Document { document: "index.xml", source })?;
    let graph = {
        let inner = member(&outer, "package.cab", INNER_BYTES_MAX)?;
        let inner = open("package.cab", &inner)?;
        let mut graph = None;
        let is_graph = |member: &Member| member.name == "package.xml";
        let mut read = |_: &_, reader: &mut dyn Read| {
            graph = Some(Graph::read(reader));
            Ok::<_, CabinetError>(())
        };
        inner.each(&is_graph, &mut read).map_err(|source| cabinet_error("package.cab", source))?;
        let missing = ReadError::Missing { what: "package.xml" };
        graph
            .unwrap_or(Err(missing))
            .map_err(|source| SyncError::Document { document: "package.xml", source })?
    };
    let chosen = choose(&graph, &config.wanted()?);
    let mut by_cabinet: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
    for id in &chosen {
        if let Some(cabinet) = index.cabinet(*id) {
            by_cabinet.entry(cabinet.to_ascii_lowercase()).or_default().insert(*id);
        }
    }
    let (mut revisions, mut tally, mut failed) = (Revisions::default(), Tally::default(), 0_usize);
    let mut absent: BTreeSet<String> = by_cabinet.keys().cloned().collect();
    let mut leave_out = |id: u32, error: &dyn std::error::Error| {
        failed += 1;
        if failed <= LOGGED_MAX {
            warn!(source = %config.name, revision = id, error = %Chain(error), "left out an update");
        }
    };
    // In the order in which they lie there: what holds them is unpacked once.
    let is_wanted = |member: &Member| by_cabinet.contains_key(&member.name.to_ascii_lowercase());
    let mut take = |member: &Member, reader: &mut dyn Read| -> Result<(), SyncError> {
        let name = member.name.to_ascii_lowercase();
        let Some(ids) = by_cabinet.get(&name).filter(|_| absent.remove(&name)) else { return Ok(()) };
        let inner = cabinet::whole(member, reader, INNER_BYTES_MAX);
        let inner = inner.map_err(|source| cabinet_error(&member.name, source))?;
        let Pieces { whole, too_long } = pieces(&member.name, &inner, ids, PIECE_BYTES_MAX)?;
        for (id, pieces) in whole {
            let pieces: Vec<&[u8]> = pieces.values().map(Vec::as_slice).collect();
            match graph.revision(id, &pieces, &mut tally) {
                Ok(revision) => revisions.add(revision),
                Err(error) => leave_out(id, &error),
            }
        }
        for id in too_long {
            leave_out(id, &CabinetError::Damaged("a piece of the update is too long"));
        }
        Ok(())
    };
    outer.each(&is_wanted, &mut take)?;
    if let Some(name) = absent.first() {
        return Err(cabinet_error(name, CabinetError::Damaged("a member is missing")));
    }
    for (newer, older) in graph.superseded() {
        if let Some(revision) = revisions.get_mut(&newer) {
            for id in older {
                if !revision.supersedes.contains(&id) {
                    revision.supersedes.push(id);
                }
            }
        }
    }
    let mut made = documents::make(&config.name, &config.catalogue, &revisions, before, advisories, now)?;
    made.stats.packages = chosen.len();
    if failed + made.left_out > 0 {
        let left_out = failed + made.left_out;
        warn!(source = %config.name, left_out, "a catalogue could not be understood in full");
    }
    Ok(made)
}

impl From<CabinetError> for SyncError {
    fn from(source: CabinetError) -> Self {
        cabinet_error("the catalogue", source)
    }
}

fn cabinet_error(cabinet: &str, source: CabinetError) -> SyncError {
    SyncError::Cabinet { cabinet: cabinet.to_owned(), source }
}

fn open<'a>(name: &str, bytes: &'a [u8]) -> Result<Cabinet<'a>, SyncError> {
    Cabinet::new(bytes).map_err(|source| cabinet_error(name, source))
}

fn member(cabinet: &Cabinet<'_>, name: &str, bytes_max: u32) -> Result<Vec<u8>, SyncError> {
    cabinet.member(name, bytes_max).map_err(|source| cabinet_error(name, source))
}

/// Revisions of updates in the wanted categories, of parts of their bundles, and of what they depend on.
fn choose(graph: &Graph, wanted: &BTreeSet<Guid>) -> BTreeSet<u32> {
    if wanted.is_empty() {
        return graph.updates.keys().copied().collect();
    }
    let mut by_name: BTreeMap<&Guid, Vec<&Entry>> = BTreeMap::new();
    let mut by_bundle: BTreeMap<u32, Vec<&Entry>> = BTreeMap::new();
    for entry in graph.updates.values() {
        by_name.entry(&entry.identity.id).or_default().push(entry);
        for bundle in &entry.bundled_by {
            by_bundle.entry(*bundle).or_default().push(entry);
        }
    }
    let is_wanted =
        |entry: &&Entry| entry.categories.iter().chain([&entry.identity.id]).any(|id| wanted.contains(id));
    let mut rest: Vec<&Entry> = graph.updates.values().filter(is_wanted).collect();
    let mut chosen = BTreeSet::new();
    while let Some(entry) = rest.pop() {
        if chosen.insert(entry.revision_id) {
            rest.extend(by_bundle.get(&entry.revision_id).into_iter().flatten());
            let needed = entry.prerequisites.iter().flat_map(|group| &group.any);
            rest.extend(needed.filter_map(|id| by_name.get(id)).flatten());
        }
    }
    chosen
}

/// What one cabinet has of the wanted revisions.
#[derive(Default)]
struct Pieces {
    /// Number of the revision → where a piece is → its text.
    whole: BTreeMap<u32, BTreeMap<String, Vec<u8>>>,
    /// Revisions of which a piece is longer than any may be.
    too_long: BTreeSet<u32>,
}

/// Pieces of the wanted revisions in one cabinet: `c\<number>`, `x\<number>` and `l\en\<number>`.
fn pieces(
    name: &str,
    bytes: &[u8],
    wanted: &BTreeSet<u32>,
    piece_bytes_max: u32,
) -> Result<Pieces, SyncError> {
    let cabinet = open(name, bytes)?;
    let number = |member: &Member| {
        let (folder, file) = member.name.rsplit_once(['\\', '/'])?;
        let is_piece = matches!(folder, "c" | "x" | r"l\en" | "l/en");
        file.parse::<u32>().ok().filter(|id| is_piece && wanted.contains(id))
    };
    let mut found = Pieces::default();
    let take = &mut |member: &Member, reader: &mut dyn Read| {
        match number(member) {
            Some(id) if member.bytes > piece_bytes_max => {
                found.too_long.insert(id);
            }
            Some(id) => {
                let text = cabinet::whole(member, reader, piece_bytes_max)?;
                found.whole.entry(id).or_default().insert(member.name.clone(), text);
            }
            None => {}
        }
        Ok(())
    };
    cabinet.each(&|member| number(member).is_some(), take).map_err(|source| cabinet_error(name, source))?;
    found.whole.retain(|id, _| !found.too_long.contains(id));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tierway_common::schema::Update;

    use super::*;
    use crate::sources::windows::cabinet::tests::{Packing, cabinet};

    const PRODUCT: &str = "aaaaaaaa-0000-0000-0000-000000000001";

    fn guid(number: u32) -> String {
        format!("00000000-0000-0000-0000-{number:012}")
    }

    /// A catalogue of two cabinets: a bundle with a part in each, an update that replaces it, and one of another product.
    fn catalogue() -> Vec<u8> {
        let update = |id: u32, more: &str, product: &str| {
            format!(
                "<Update CreationDate=\"2026-01-0{id}T00:00:00Z\" UpdateId=\"{}\" RevisionNumber=\"200\" RevisionId=\"{id}\">\
                 <Categories><Category Type=\"Product\" Id=\"{product}\"/></Categories>{more}</Update>",
                guid(id)
            )
        };
        let other = PRODUCT.replace("01", "02");
        let graph = [
            update(1, "<SupersededBy><Revision Id=\"4\"/></SupersededBy>", PRODUCT),
            update(2, "<BundledBy><Revision Id=\"1\"/></BundledBy>", &guid(99)),
            update(3, "<BundledBy><Revision Id=\"1\"/></BundledBy>", &guid(99)),
            update(4, "", PRODUCT),
            update(5, "", &other),
        ];
        let graph = format!("<OfflineSyncPackage><Updates>{}</Updates></OfflineSyncPackage>", graph.concat());
        let core = |bundled: &str| {
            format!(
                "<Properties UpdateType=\"Software\"/><Relationships>{bundled}</Relationships>\
                 <ApplicabilityRules><IsInstalled><True/></IsInstalled></ApplicabilityRules>"
            )
        };
        let parts =
            [2, 3].map(|id| format!("<UpdateIdentity UpdateID=\"{}\" RevisionNumber=\"200\"/>", guid(id)));
        let bundle = core(&format!("<BundledUpdates>{}</BundledUpdates>", parts.concat()));
        let plain = core("");
        let title = |id: u32| {
            format!(
                "<LocalizedProperties><Language>en</Language><Title>Title {id}</Title></LocalizedProperties>"
            )
        };
        let titles = [1, 2, 3, 4, 5].map(title);
        let first = cabinet(
            Packing::Mszip,
            &[
                (r"c\1", bundle.as_bytes()),
                (r"c\2", plain.as_bytes()),
                (r"l\en\1", titles[0].as_bytes()),
                (r"l\de\1", b"<x"),
            ],
        );
        let second = cabinet(
            Packing::Stored,
            &[
                (r"c\3", plain.as_bytes()),
                (r"c\4", plain.as_bytes()),
                (r"l\en\4", titles[3].as_bytes()),
                (r"c\5", plain.as_bytes()),
                (r"l\en\5", titles[4].as_bytes()),
            ],
        );
        let index =
            b"<INDEX><CABLIST><CAB NAME=\"package.cab\"/><CAB NAME=\"package2.cab\" RANGESTART=\"0\"/>\
            <CAB NAME=\"package3.cab\" RANGESTART=\"3\"/></CABLIST></INDEX>";
        let graph = cabinet(Packing::Mszip, &[("package.xml", graph.as_bytes())]);
        let members: [(&str, &[u8]); 4] = [
            ("index.xml", index),
            ("package.cab", &graph),
            ("package2.cab", &first),
            ("package3.cab", &second),
        ];
        cabinet(Packing::Stored, &members)
    }

    fn config(file: &Path, bytes: &[u8], categories: &[&str]) -> Config {
        Config {
            name: "offline".parse().unwrap(),
            catalogue: "windows".parse().unwrap(),
            file: file.to_owned(),
            sha256: Digest::of(bytes),
            categories: categories.iter().map(|id| (*id).to_owned()).collect(),
        }
    }

    async fn sync(config: Config, state: &State) -> Result<Synced<State>, SyncError> {
        let now = "2026-11-24T12:00:00Z".parse().unwrap();
        Offline::new(config).sync(state, &BTreeMap::new(), &Advisories::default(), now).await
    }

    #[tokio::test]
    async fn updates_of_the_wanted_products_come_with_their_parts_from_all_cabinets() {
        let dir = tempfile::tempdir().unwrap();
        let (file, bytes) = (dir.path().join("wsusscn2.cab"), catalogue());
        std::fs::write(&file, &bytes).unwrap();
        let synced = sync(config(&file, &bytes, &[PRODUCT]), &State::default()).await.unwrap();
        let updates: Vec<Update> =
            synced.catalogue.values().map(|json| serde_json::from_slice(json).unwrap()).collect();
        assert_eq!(
            updates.iter().map(|update| update.title.as_str()).collect::<Vec<_>>(),
            ["Title 1", "Title 4"]
        );
        assert_eq!(
            (updates[0].install.kind(), &updates[0].superseded_by),
            ("bundle", &vec![updates[1].id.clone()])
        );
        assert_eq!(synced.stats.packages, 4);
        let again = sync(config(&file, &bytes, &[PRODUCT]), &synced.state).await.unwrap();
        assert!(again.unchanged);
        let all = sync(config(&file, &bytes, &[]), &synced.state).await.unwrap();
        assert_eq!(all.catalogue.len(), 3);
    }

    #[tokio::test]
    async fn another_file_than_the_named_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (file, bytes) = (dir.path().join("wsusscn2.cab"), catalogue());
        std::fs::write(&file, [&bytes[..], b"x"].concat()).unwrap();
        let error = sync(config(&file, &bytes, &[]), &State::default()).await.unwrap_err();
        assert!(matches!(error, SyncError::Pinned { .. }), "{error}");
        for (path, categories, wanted) in [
            ("https://a/wsusscn2.cab", &[][..], "`https://a/wsusscn2.cab` must be an absolute path"),
            ("wsusscn2.cab", &[], "`wsusscn2.cab` must be an absolute path"),
            ("/srv/wsusscn2.cab", &["x"], "`categories` must be GUIDs, found `x`"),
        ] {
            let error = config(Path::new(path), b"", categories).check().unwrap_err();
            assert!(error.to_string().contains(wanted), "{error}");
        }
    }

    #[tokio::test]
    async fn a_cabinet_that_the_index_names_and_nobody_packed_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("wsusscn2.cab");
        let bytes = catalogue();
        // Its name among the members, not in the index.
        let place = bytes.windows(13).rposition(|name| name == b"package3.cab\0").unwrap();
        let mut bytes = bytes;
        bytes[place] = b'q';
        std::fs::write(&file, &bytes).unwrap();
        let error = sync(config(&file, &bytes, &[]), &State::default()).await.unwrap_err();
        let text = Chain(&error).to_string();
        assert!(text.contains("`package3.cab`") && text.contains("a member is missing"), "{text}");
    }

    #[test]
    fn an_update_with_a_piece_that_is_too_long_is_named_not_read_without_it() {
        let bytes = cabinet(Packing::Mszip, &[(r"c\1", b"core"), (r"x\1", b"longer"), (r"c\2", b"four")]);
        let Pieces { whole, too_long } = pieces("a.cab", &bytes, &[1, 2, 3].into(), 4).unwrap();
        assert_eq!(whole.keys().collect::<Vec<_>>(), [&2]);
        assert_eq!(whole[&2][r"c\2"], b"four");
        assert_eq!(too_long, [1].into());
    }

    /// A cabinet in Microsoft's form, where it is beside the checkout.
    #[tokio::test]
    async fn a_catalogue_in_microsofts_own_cabinets_is_read() {
        let file =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/wsusscn2/wsusscn2-fixture.cab");
        let Ok(bytes) = std::fs::read(&file) else {
            println!(
                "skipped: reading a catalogue in Microsoft's form, since there is none in `../shared/data`"
            );
            return;
        };
        let synced = sync(config(&file, &bytes, &[]), &State::default()).await.unwrap();
        println!("{} of {} updates make documents", synced.stats.updates, synced.stats.packages);
        assert_eq!((synced.stats.updates, synced.stats.packages), (3, 4));
    }
}
