use tempfile::TempDir;
use tierway_common::{
    blobs::BlobOptions,
    clock::Clock,
    facts::{Domain, Facts},
    rules::expr::{Compare, Expr, Manager, PackageTest},
    schema::{DebPackage, Install, Payload, Severity},
    store::{Store, memory::MemoryStore},
};

use super::*;
use crate::sources::Stats;

/// A central with a source `debian-12`, without the parts that talk.
pub(crate) struct Bench {
    pub(crate) clock: Clock,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) state: Arc<State>,
    pub(crate) trees: Blobs,
    pub(crate) catalog: Catalog,
    pub(crate) source: SourceConfig,
    _dir: TempDir,
}

pub(crate) fn blobs(dir: &std::path::Path) -> Blobs {
    Blobs::open(dir, BlobOptions { quota_bytes: 1 << 30, free_floor_bytes: 0 }).unwrap()
}

pub(crate) fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual("2026-11-20T10:00:00Z".parse().unwrap());
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let state = Arc::new(State::open("default".parse().unwrap(), store.clone(), clock.clone()).unwrap());
    let trees = blobs(&dir.path().join("trees"));
    let source = toml_source();
    Bench {
        store,
        catalog: Catalog::new(state.clone(), trees.clone()),
        clock,
        state,
        trees,
        source,
        _dir: dir,
    }
}

fn toml_source() -> SourceConfig {
    serde_json::from_value(serde_json::json!({
        "kind": "debian", "name": "debian-12", "catalogue": "debian-12", "os_version": "12",
        "url": "http://archive.example/debian-security", "suite": "bookworm-security",
    }))
    .unwrap()
}

fn package(name: &str, version: Compare) -> Expr {
    Expr::Package(PackageTest {
        manager: Manager::Deb,
        name: name.to_owned(),
        architecture: None,
        version: Some(version),
    })
}

/// An update of `product` to `version`: needed where an older version is installed.
pub(crate) fn update(product: &str, version: &str) -> Update {
    let applicable = Expr::Package(PackageTest {
        manager: Manager::Deb,
        name: product.to_owned(),
        architecture: None,
        version: None,
    });
    let bytes = format!("the package {product} {version}");
    Update {
        id: format!("debian-12/{product}_{version}").parse().unwrap(),
        title: format!("{product} security update"),
        product: product.to_owned(),
        version: version.to_owned(),
        severity: Severity::Important,
        class: Default::default(),
        released: "2026-11-01T00:00:00Z".parse().unwrap(),
        references: vec![],
        applicable,
        installed: package(product, Compare::Ge(version.to_owned())),
        supersedes: vec![],
        superseded_by: vec![],
        install: Install::Deb {
            packages: vec![DebPackage {
                name: product.to_owned(),
                version: version.to_owned(),
                architecture: "amd64".to_owned(),
                payload: Payload {
                    digest: Digest::of(bytes.as_bytes()),
                    bytes: bytes.len() as u64,
                    url: format!("http://archive.example/{product}_{version}.deb"),
                },
                control: BTreeMap::new(),
            }],
        },
        result_codes: Default::default(),
    }
}

/// Debian facts with these packages and versions.
pub(crate) fn facts(packages: &[(&str, &str)]) -> Facts {
    let os = [("os:family", "debian"), ("os:version", "12"), ("os:architecture", "amd64")];
    let domain = |source: &str| Domain::Complete { source: source.to_owned() };
    Facts {
        domains: [("os", "/etc/os-release"), ("package:deb", "/var/lib/dpkg/status")]
            .map(|(name, source)| (name.to_owned(), domain(source)))
            .into(),
        values: os
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into_iter()
            .chain(packages.iter().map(|(n, v)| (format!("package:deb:{n}:amd64"), (*v).to_owned())))
            .collect(),
    }
}

impl Bench {
    /// What a source would give with exactly these updates.
    pub(crate) fn synced(&self, updates: &[Update]) -> Synced {
        Synced {
            unchanged: false,
            catalogue: updates
                .iter()
                .map(|update| {
                    (format!("update/{}", update.id.name()), serde_json::to_vec(update).unwrap().into())
                })
                .collect(),
            pool: [(
                "package/amd64/libc6".to_owned(),
                Bytes::from_static(br#"{"virtual":{"providers":[]}}"#),
            )]
            .into(),
            state: SourceState::New,
            archive_date: self.clock.now(),
            stats: Stats::default(),
        }
    }

    pub(crate) fn apply(&self, updates: &[Update]) -> Applied {
        self.catalog.apply(&self.source, self.synced(updates)).unwrap()
    }
}

#[test]
fn a_sync_tells_what_is_new_changed_and_gone_and_keeps_the_numbers_of_updates() {
    let bench = bench();
    let (a, b) = (update("a", "1"), update("b", "1"));
    assert_eq!(bench.apply(&[a.clone(), b.clone()]), Applied { new: 2, ..Applied::default() });
    let number =
        |id: &UpdateId| bench.state.model().update_by_id(id).map(|update| (update.number, update.gone));
    assert_eq!((number(&a.id), number(&b.id)), (Some((0, false)), Some((1, false))));
    let retitled = Update { title: "again".to_owned(), ..b.clone() };
    let c = update("c", "1");
    let applied = bench.apply(&[retitled, c.clone()]);
    assert_eq!(applied, Applied { new: 1, changed: 1, gone: 1, refused: 0 });
    assert_eq!(number(&a.id), Some((0, true)));
    assert_eq!(number(&b.id), Some((1, false)));
    assert_eq!(number(&c.id), Some((2, false)));
    assert_eq!(bench.apply(&[a.clone(), c]).new, 1, "what came back");
    assert_eq!(number(&a.id), Some((0, false)));
}

use tierway_common::id::UpdateId;

#[test]
fn the_same_catalogue_again_changes_nothing_and_leaves_no_audit_record() {
    let bench = bench();
    let updates = [update("a", "1"), update("b", "1")];
    bench.apply(&updates);
    let roots = |bench: &Bench| bench.state.model().catalogues().clone();
    let (before, log) =
        (roots(&bench), crate::audit::ends(bench.state.store(), bench.state.tenant()).unwrap());
    assert_eq!(bench.apply(&updates), Applied::default());
    assert_eq!(roots(&bench), before);
    assert_eq!(crate::audit::ends(bench.state.store(), bench.state.tenant()).unwrap(), log);
}

#[test]
fn a_document_that_is_no_update_of_this_catalogue_is_left_out_and_the_others_come() {
    let bench = bench();
    let mut synced = bench.synced(&[update("a", "1")]);
    let mut foreign = update("b", "1");
    foreign.id = "debian-13/b_1".parse().unwrap();
    let mut deep = update("c", "1");
    for _ in 0..100 {
        deep.applicable = Expr::Not(Box::new(deep.applicable));
    }
    for (key, document) in [
        ("update/nonsense", b"{".to_vec()),
        ("update/b_1", serde_json::to_vec(&foreign).unwrap()),
        ("update/c_1", serde_json::to_vec(&deep).unwrap()),
        ("note/a", serde_json::to_vec(&update("a", "1")).unwrap()),
    ] {
        synced.catalogue.insert(key.to_owned(), document.into());
    }
    let applied = bench.catalog.apply(&bench.source, synced).unwrap();
    assert_eq!(applied, Applied { new: 1, refused: 4, ..Applied::default() });
    let documents = bench.catalog.documents(bench.source.catalogue().unwrap()).unwrap();
    assert_eq!(documents.keys().collect::<Vec<_>>(), ["update/a_1"]);
}

#[test]
fn a_failed_sync_is_shown_and_the_next_good_one_clears_it() {
    let bench = bench();
    bench.apply(&[update("a", "1")]);
    bench.catalog.failed(bench.source.name(), "the archive went back in time").unwrap();
    let record = || bench.state.model().sources()[bench.source.name()].clone();
    assert_eq!((record().last_error.as_str(), record().updates), ("the archive went back in time", 1));
    let unchanged = Synced { unchanged: true, ..bench.synced(&[]) };
    bench.catalog.apply(&bench.source, unchanged).unwrap();
    assert_eq!((record().last_error.as_str(), record().updates), ("", 1));
    assert_eq!(
        bench.catalog.documents(bench.source.catalogue().unwrap()).unwrap().len(),
        1,
        "and nothing is gone"
    );
}

#[test]
fn only_a_source_that_the_configuration_does_not_name_any_more_leaves_what_is_published() {
    let bench = bench();
    bench.apply(&[update("a", "1")]);
    bench.catalog.failed(bench.source.name(), "the archive is gone").unwrap();
    let log = || crate::audit::list(bench.state.store(), bench.state.tenant(), 0, 10).unwrap();
    let before = log();
    let configured = std::slice::from_ref(&bench.source);
    assert_eq!(bench.catalog.withdraw(configured).unwrap(), []);
    assert_eq!((bench.state.model().catalogues().len(), log()), (2, before.clone()), "it only failed");

    let names = ["debian-12", "debian-12-pool"].map(|name| name.parse::<CatalogueId>().unwrap());
    assert_eq!(bench.catalog.withdraw(&[]).unwrap(), names);
    {
        let model = bench.state.model();
        assert!(model.catalogues().is_empty() && model.sources().is_empty());
        assert!(model.updates().all(|update| update.gone));
    }
    let mut done: Vec<_> = log().into_iter().map(|record| (record.action, record.object)).collect();
    done.truncate(log().len() - before.len());
    done.sort();
    let expected = [
        ("remove source", "source:debian-12"),
        ("withdraw", "catalogue:debian-12"),
        ("withdraw", "catalogue:debian-12-pool"),
    ];
    assert_eq!(done, expected.map(|(action, object)| (action.to_owned(), object.to_owned())));
    assert_eq!(bench.catalog.withdraw(&[]).unwrap(), [], "once");
    let reopened = State::open("default".parse().unwrap(), bench.store.clone(), bench.clock.clone()).unwrap();
    assert!(reopened.model().catalogues().is_empty() && reopened.model().sources().is_empty());

    assert_eq!(
        bench.catalog.memory(&bench.source).unwrap(),
        SourceState::New,
        "it is read from the beginning"
    );
    assert_eq!(bench.apply(&[update("a", "1")]).new, 1, "when it comes back");
    assert_eq!(bench.state.model().catalogues().len(), 2);
}

#[test]
fn a_source_that_gives_another_catalogue_is_read_from_the_beginning() {
    let bench = bench();
    let remembered = SourceState::Debian(Default::default());
    let synced = Synced { state: remembered.clone(), ..bench.synced(&[update("a", "1")]) };
    bench.catalog.apply(&bench.source, synced).unwrap();
    assert_eq!(bench.catalog.memory(&bench.source).unwrap(), remembered);
    let SourceConfig::Debian(config) = bench.source.clone() else { panic!("another kind of source") };
    let renamed = SourceConfig::Debian(crate::sources::debian::Config {
        catalogue: "bookworm".parse().unwrap(),
        ..config
    });
    assert_eq!(bench.catalog.memory(&renamed).unwrap(), SourceState::New);
}
