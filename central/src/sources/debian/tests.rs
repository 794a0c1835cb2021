//! The source as a whole, against archives that a local server offers, and the real one.

use std::{error::Error, path::Path, time::Duration};

use pgp::composed::SignedSecretKey;
use tierway_common::schema::PoolEntry;

use super::*;
use crate::sources::{
    Before,
    advisories::Advisories,
    fetch::HttpFetch,
    testing::{Manner, Server, Suite, new_key, public, stanza, xz},
};

/// Before the dates of the archives, and before any signature: those are made with the machine's clock.
fn made() -> Timestamp {
    "2024-01-01T00:00:00Z".parse().unwrap()
}

/// Signatures of the tests carry the machine's time, so now must not be before.
fn now() -> Timestamp {
    tierway_common::clock::Clock::system().now()
}

const RETRY: Retry = Retry { attempts: 3, delay: Duration::from_millis(1) };
const EARLY: &str = "Wed, 01 Jan 2025 10:00:00 UTC";
const LATER: &str = "Wed, 01 Jan 2025 16:00:00 UTC";

struct Bench {
    server: Server,
    key: SignedSecretKey,
    dir: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        Self { server: Server::start().await, key: new_key(made()), dir: tempfile::tempdir().unwrap() }
    }

    fn config(&self) -> Config {
        let base = ArchiveConfig {
            url: format!("{}/debian", self.server.url),
            suite: "bookworm".to_owned(),
            components: vec!["main".to_owned()],
        };
        Config {
            name: "test".parse().unwrap(),
            catalogue: "debian-12".parse().unwrap(),
            os_version: "12".to_owned(),
            url: format!("{}/security", self.server.url),
            suite: "bookworm-security".to_owned(),
            components: default_components(),
            architectures: default_architectures(),
            base: vec![base],
            keyrings: Vec::new(),
            proxy: None,
            expired: Expiry::Refuse,
            timeout: Duration::from_secs(10),
        }
    }

    fn source_of(&self, config: Config) -> Debian<HttpFetch> {
        let keyring = Keyring::parse("test", &public(&self.key)).unwrap();
        let fetch = HttpFetch::new(config.proxy.as_deref(), config.timeout).unwrap();
        Debian::new(config, keyring, self.dir.path().to_owned(), fetch, RETRY)
    }

    fn source(&self) -> Debian<HttpFetch> {
        self.source_of(self.config())
    }

    /// A base suite with openssl, zlib and a mail server, and the given security suite.
    fn publish(&self, date: &'static str, security: &[String]) -> Suite {
        Suite::new("/debian", "bookworm", EARLY)
            .with(
                "main",
                "amd64",
                &[
                    stanza("openssl", "3.0.0-1", "amd64", "Depends: libc6 (>= 2.34),\n zlib1g"),
                    stanza("zlib1g", "1:1.2.13", "amd64", "Source: zlib\nRecommends: x"),
                    stanza("exim4", "4.96", "all", "Provides: mail-transport-agent, exim (= 4.96)"),
                ],
            )
            .publish(&self.server, &self.key);
        let suite = Suite::new("/security", "bookworm-security", date).with("main", "amd64", security);
        suite.publish(&self.server, &self.key);
        suite
    }
}

fn openssl(version: &str) -> [String; 2] {
    [
        stanza("openssl", version, "amd64", "Depends: libssl3"),
        stanza("libssl3", version, "amd64", "Source: openssl\nMulti-Arch: same\nProvides: libssl"),
    ]
}

fn update(synced: &Synced<State>, name: &str) -> Update {
    let keys: Vec<&String> = synced.catalogue.keys().collect();
    let document = synced.catalogue.get(&format!("update/{name}"));
    serde_json::from_slice(document.unwrap_or_else(|| panic!("{name}: {keys:?}"))).unwrap()
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[tokio::test]
async fn an_archive_becomes_updates_and_a_pool() {
    let bench = Bench::new().await;
    bench.publish(EARLY, &openssl("3.0.17-1~deb12u3"));
    let synced = bench.source().sync(&State::default(), &BTreeMap::new(), now()).await.unwrap();
    assert!(!synced.unchanged);
    assert_eq!(synced.archive_date, "2025-01-01T10:00:00Z".parse().unwrap());
    assert_eq!(synced.stats.updates, 1);

    let update = update(&synced, "openssl_3.0.17-1~deb12u3");
    assert_eq!(update.id.as_str(), "debian-12/openssl_3.0.17-1~deb12u3");
    let packages = update.install.deb_packages();
    assert_eq!(packages.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["libssl3", "openssl"]);
    assert_eq!(packages[0].payload.bytes, 100);
    let url = format!("{}/security/pool/libssl3_3.0.17-1~deb12u3_amd64.deb", bench.server.url);
    assert_eq!(packages[0].payload.url, url);
    assert_eq!(packages[0].control["Multi-Arch"], "same");

    let entry = |key: &str| serde_json::from_slice::<PoolEntry>(&synced.pool[key]).unwrap();
    let PoolEntry::Package { package, .. } = entry("package/amd64/openssl") else { panic!() };
    assert_eq!(package.version, "3.0.17-1~deb12u3", "the newest of both archives");
    let PoolEntry::Package { package, .. } = entry("package/amd64/zlib1g") else { panic!() };
    assert_eq!(package.control.keys().collect::<Vec<_>>(), ["Source"], "only what apt's resolver reads");
    for (name, provider) in [("mail-transport-agent", "exim4"), ("exim", "exim4"), ("libssl", "libssl3")] {
        let expected = PoolEntry::Virtual { providers: vec![provider.to_owned()] };
        assert_eq!(entry(&format!("package/amd64/{name}")), expected);
    }
    assert_eq!(synced.pool.len(), 7);
}

#[tokio::test]
async fn the_same_archive_gives_the_same_bytes() {
    let bench = Bench::new().await;
    bench.publish(EARLY, &openssl("3.0.17-1~deb12u3"));
    let (a, b, now) = (bench.source(), bench.source(), now());
    let none = BTreeMap::new();
    assert_eq!(
        a.sync(&State::default(), &none, now).await.unwrap(),
        b.sync(&State::default(), &none, now).await.unwrap()
    );
}

#[tokio::test]
async fn what_did_not_change_is_asked_for_once_and_not_fetched() {
    let bench = Bench::new().await;
    bench.publish(EARLY, &openssl("3.0.17-1~deb12u3"));
    let (source, none) = (bench.source(), BTreeMap::new());
    let first = source.sync(&State::default(), &none, now()).await.unwrap();
    bench.server.seen();

    let again = source.sync(&first.state, &first.catalogue, now()).await.unwrap();
    assert!(again.unchanged && again.catalogue.is_empty());
    assert_eq!(again.state, first.state);
    let statuses: Vec<u16> = bench.server.seen().iter().map(|seen| seen.status).collect();
    assert_eq!(statuses, [304, 304]);

    // Made anew without a change: the date moves, the documents stay.
    bench.publish(LATER, &openssl("3.0.17-1~deb12u3"));
    let later = source.sync(&first.state, &first.catalogue, now()).await.unwrap();
    assert!(later.unchanged);
    assert_eq!(std::fs::read_dir(bench.dir.path()).unwrap().count(), 4, "the older release is not kept");
    assert!(later.archive_date > first.archive_date);

    // A change of one suite fetches the index of that suite only.
    bench.publish(LATER, &openssl("3.0.17-1~deb12u4"));
    bench.server.seen();
    let changed = source.sync(&later.state, &first.catalogue, now()).await.unwrap();
    assert!(!changed.unchanged && changed.pool.len() == 7);
    let fetched: Vec<String> = bench.server.seen().into_iter().map(|seen| seen.path).collect();
    assert_eq!(fetched.iter().filter(|path| path.contains("by-hash")).count(), 1, "{fetched:?}");
}

#[tokio::test]
async fn a_newer_version_supersedes_the_one_published_before() {
    let bench = Bench::new().await;
    let source = bench.source();
    let (mut state, mut catalogue) = (State::default(), BTreeMap::new());
    let start = now();
    for revision in 1..=12 {
        bench.publish(EARLY, &openssl(&format!("3.0.17-1~deb12u{revision}")));
        let at = start + Duration::from_secs(revision * 60);
        let synced = source.sync(&state, &catalogue, at).await.unwrap();
        (state, catalogue) = (synced.state, synced.catalogue);
    }
    assert_eq!(catalogue.len(), 1 + supersede::SUPERSEDED_PER_PRODUCT_MAX);
    let read = |name: &str| serde_json::from_slice::<Update>(&catalogue[name]).unwrap();
    let newest = read("update/openssl_3.0.17-1~deb12u12");
    assert_eq!(newest.supersedes.len(), supersede::SUPERSEDED_PER_PRODUCT_MAX);
    assert!(newest.superseded_by.is_empty());
    assert_eq!(newest.released, start + Duration::from_secs(12 * 60), "when it was first seen");
    let older = read("update/openssl_3.0.17-1~deb12u11");
    assert_eq!(older.superseded_by, std::slice::from_ref(&newest.id));
    assert_eq!(older.released, start + Duration::from_secs(11 * 60));
    let oldest = read("update/openssl_3.0.17-1~deb12u4");
    assert_eq!(oldest.superseded_by, [newest.id], "not the one in between");

    bench.publish(EARLY, &[stanza("zlib1g", "1:1.2.14", "amd64", "")]);
    let late = start + supersede::SUPERSEDED_FOR;
    let without = source.sync(&state, &catalogue, late).await.unwrap();
    assert_eq!(without.catalogue.len(), 1, "updates of a package that left the archive leave too");
}

/// What goes wrong, and words that the error must have.
type Harm = (&'static str, fn(&Bench, &Suite), &'static [&'static str]);

const IN_RELEASE: &str = "/security/dists/bookworm-security/InRelease";

fn by_hash(bench: &Bench) -> String {
    bench
        .server
        .paths()
        .into_iter()
        .find(|path| path.contains("/security/") && path.contains("by-hash"))
        .unwrap()
}

fn resign(bench: &Bench, suite: &Suite, change: impl Fn(String) -> String) {
    let (text, _) = suite.build();
    bench.server.put(&suite.path("InRelease"), crate::sources::testing::clearsign(&bench.key, &change(text)));
}

/// Publishes another index under its own digest.
fn replace_index(bench: &Bench, suite: &Suite, text: &[u8], claimed: usize) {
    let packed = xz(text);
    resign(bench, suite, |release| {
        let head = release.split("SHA256:\n").next().unwrap().to_owned();
        let path = "main/binary-amd64/Packages";
        let (plain, digest) = (Digest::of(text), Digest::of(&packed));
        format!("{head}SHA256:\n {plain} {claimed} {path}\n {digest} {} {path}.xz\n", packed.len())
    });
    bench
        .server
        .put(&suite.path(&format!("main/binary-amd64/by-hash/SHA256/{}", Digest::of(&packed))), packed);
}

const HARMS: &[Harm] = &[
    (
        "a changed text",
        |bench, _| {
            let text = String::from_utf8(bench.server.file(IN_RELEASE).to_vec()).unwrap();
            bench.server.put(IN_RELEASE, text.replace("Origin: Test", "Origin: Evil"));
        },
        &["bookworm-security", "not believed", "does not match the text"],
    ),
    (
        "a foreign key",
        |bench, suite| {
            let (text, _) = suite.build();
            bench.server.put(IN_RELEASE, crate::sources::testing::clearsign(&new_key(made()), &text));
        },
        &["not in the keyring"],
    ),
    (
        "no signature",
        |bench, suite| bench.server.put(IN_RELEASE, suite.build().0),
        &["not a clearsigned text"],
    ),
    (
        "a text after the signature",
        |bench, _| {
            let mut text = bench.server.file(IN_RELEASE).to_vec();
            text.extend(b"Date: Wed, 01 Jan 2026 10:00:00 UTC\n");
            bench.server.put(IN_RELEASE, text);
        },
        &["something follows its signature"],
    ),
    (
        "an older date",
        |bench, suite| {
            resign(bench, suite, |text| text.replace("01 Jan 2025 16", "01 Jan 2025 09"));
        },
        &["bookworm-security", "went back in time", "2025-01-01T09:00:00Z"],
    ),
    (
        "a date past its end",
        |bench, suite| {
            resign(bench, suite, |text| format!("Valid-Until: {LATER}\n{text}"));
        },
        &["expired at 2025-01-01T16:00:00Z"],
    ),
    (
        "another suite",
        |bench, suite| {
            resign(bench, suite, |text| text.replace("bookworm-security", "trixie-security"));
        },
        &["trixie-security"],
    ),
    (
        "no index for the component",
        |bench, suite| {
            resign(bench, suite, |text| text.replace("main/", "contrib/"));
        },
        &["component `main`", "`amd64`"],
    ),
    (
        "a missing index",
        |bench, suite| {
            bench.server.remove(&by_hash(bench));
            bench.server.remove(&suite.path("main/binary-amd64/Packages.xz"));
        },
        &["has no `main/binary-amd64/Packages.xz`"],
    ),
    (
        "a truncated index",
        |bench, _| {
            let path = by_hash(bench);
            let bytes = bench.server.file(&path);
            bench.server.put(&path, bytes.slice(..bytes.len() - 7));
        },
        &["Packages.xz", "truncated"],
    ),
    (
        "an index with another content",
        |bench, _| {
            let path = by_hash(bench);
            let mut bytes = bench.server.file(&path).to_vec();
            bytes[20] ^= 1;
            bench.server.put(&path, bytes);
        },
        &["Packages.xz", "has the digest", "is signed"],
    ),
    (
        "an endless index",
        |bench, _| bench.server.behave(&by_hash(bench), &[Manner::Endless]),
        &["is longer than"],
    ),
    (
        "an endless release",
        |bench, _| bench.server.behave(IN_RELEASE, &[Manner::Endless]),
        &["is longer than"],
    ),
    ("no release", |bench, _| bench.server.remove(IN_RELEASE), &["has no `InRelease`"]),
    (
        "a server that is down",
        |bench, _| bench.server.behave(IN_RELEASE, &[Manner::Status(500)]),
        &["status 500"],
    ),
    (
        "a server that refuses",
        |bench, _| bench.server.behave(IN_RELEASE, &[Manner::Status(403)]),
        &["status 403"],
    ),
    (
        "a connection that is always cut",
        |bench, _| bench.server.behave(IN_RELEASE, &[Manner::Cut(0)]),
        &["could not fetch", "broke off"],
    ),
    (
        "an index that unpacks to more than is signed",
        |bench, suite| {
            let bomb = vec![b'\n'; 64 << 20];
            replace_index(bench, suite, &bomb, 1000);
        },
        &["unpacks to more than 1000 bytes"],
    ),
    (
        "an index that unpacks to less than is signed",
        |bench, suite| {
            replace_index(bench, suite, stanza("a", "1", "amd64", "").as_bytes(), 100_000);
        },
        &["cut off", "100000"],
    ),
    (
        "an index that is not text",
        |bench, suite| {
            replace_index(bench, suite, b"\xff\xfe", 2);
        },
        &["Packages.xz", "line 1", "UTF-8"],
    ),
    (
        "a package without a version",
        |bench, suite| {
            let text = format!("{}\n{}", stanza("a", "1", "amd64", ""), stanza("b", "2", "amd64", ""));
            let text = text.replace("Version: 2\n", "");
            replace_index(bench, suite, text.as_bytes(), text.len());
        },
        &["Packages.xz", "line 8", "the package `b` has no `Version`"],
    ),
    (
        "a path that leaves the archive",
        |bench, suite| {
            let text = stanza("a", "1", "amd64", "").replace("pool/", "pool/../../");
            replace_index(bench, suite, text.as_bytes(), text.len());
        },
        &["`Filename`", "pool/../../a"],
    ),
    (
        "a package with two contents",
        |bench, suite| {
            let digest = Digest::of(b"other").to_string();
            let one = stanza("a", "1", "amd64", "");
            let other = one.replace(&Digest::of(b"a 1 amd64").to_string(), &digest);
            let text = format!("{one}\n{other}");
            replace_index(bench, suite, text.as_bytes(), text.len());
        },
        &["`a_1_amd64`", "two digests"],
    ),
];

#[tokio::test]
async fn an_archive_that_does_harm_is_refused_with_its_reason_and_then_read_again_when_well() {
    for (harm, make, words) in HARMS {
        let bench = Bench::new().await;
        let source = bench.source();
        bench.publish(EARLY, &openssl("3.0.17-1~deb12u3"));
        let good = source.sync(&State::default(), &BTreeMap::new(), now()).await.unwrap();

        let suite = bench.publish(LATER, &openssl("3.0.17-1~deb12u4"));
        let stale = by_hash(&bench);
        if !bench.server.file(&suite.path("main/binary-amd64/Packages.xz")).eq(&bench.server.file(&stale)) {
            // The index of before is still there under its digest, as in a real archive.
            bench.server.remove(&stale);
        }
        make(&bench, &suite);
        let error = source.sync(&good.state, &good.catalogue, now()).await.map(|_| ()).expect_err(harm);
        let text = chain(&error);
        for word in *words {
            assert!(text.contains(word), "{harm}: `{word}` is not in: {text}");
        }

        // Nothing of it stayed: from the last good state on, the same archive without harm is accepted.
        for path in bench.server.paths() {
            bench.server.behave(&path, &[Manner::Well]);
        }
        bench.server.behave(IN_RELEASE, &[Manner::Well]);
        bench.publish(LATER, &openssl("3.0.17-1~deb12u4"));
        let well = source
            .sync(&good.state, &good.catalogue, now())
            .await
            .unwrap_or_else(|e| panic!("{harm}: {}", chain(&e)));
        update(&well, "openssl_3.0.17-1~deb12u4");
    }
}

#[tokio::test]
async fn a_fetch_goes_on_where_it_was_cut_and_outlasts_a_server_that_is_down_for_a_moment() {
    let bench = Bench::new().await;
    bench.publish(EARLY, &openssl("3.0.17-1~deb12u3"));
    let path = by_hash(&bench);
    bench.server.behave(&path, &[Manner::Status(503), Manner::Cut(100), Manner::Cut(50), Manner::Well]);
    bench.server.behave(IN_RELEASE, &[Manner::Status(500), Manner::Cut(10), Manner::IgnoresRange]);
    bench.source().sync(&State::default(), &BTreeMap::new(), now()).await.unwrap();
    let ranges: Vec<Option<String>> = bench
        .server
        .seen()
        .into_iter()
        .filter(|seen| seen.path == path)
        .map(|seen| seen.headers.get("range").cloned())
        .collect();
    let range = |from: &str| Some(format!("bytes={from}-"));
    assert_eq!(ranges, [None, None, range("100"), range("150")]);
}

#[tokio::test]
async fn an_index_that_is_only_under_its_name_is_found_there() {
    let bench = Bench::new().await;
    bench.publish(EARLY, &openssl("3.0.17-1~deb12u3"));
    bench.server.remove(&by_hash(&bench));
    let synced = bench.source().sync(&State::default(), &BTreeMap::new(), now()).await.unwrap();
    assert_eq!(synced.stats.updates, 1);
}

#[tokio::test]
async fn a_mirror_that_stands_still_is_noticed_when_its_release_expires() {
    let bench = Bench::new().await;
    bench.publish(EARLY, &openssl("3.0.17-1~deb12u3"));
    let mut suite = Suite::new("/security", "bookworm-security", EARLY).with(
        "main",
        "amd64",
        &openssl("3.0.17-1~deb12u3"),
    );
    suite.valid_until = Some("Wed, 01 Jan 2098 10:00:00 UTC");
    suite.publish(&bench.server, &bench.key);
    let source = bench.source();
    let first = source.sync(&State::default(), &BTreeMap::new(), now()).await.unwrap();
    let late = "2098-01-02T00:00:00Z".parse().unwrap();
    let error = source.sync(&first.state, &first.catalogue, late).await.unwrap_err();
    assert!(chain(&error).contains("expired at 2098-01-01"), "{}", chain(&error));
    let mut config = bench.config();
    config.expired = Expiry::Accept;
    assert!(bench.source_of(config).sync(&first.state, &first.catalogue, late).await.unwrap().unchanged);
}

#[tokio::test]
async fn a_damaged_cache_is_fetched_again() {
    let bench = Bench::new().await;
    bench.publish(EARLY, &openssl("3.0.17-1~deb12u3"));
    let source = bench.source();
    let first = source.sync(&State::default(), &BTreeMap::new(), now()).await.unwrap();
    let cached: Vec<_> =
        std::fs::read_dir(bench.dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(cached.len(), 4, "two releases, two indices");
    for path in cached {
        std::fs::write(path, "damaged").unwrap();
    }
    let none = BTreeMap::new();
    let state = State { fingerprint: None, ..first.state.clone() };
    let again = source.sync(&state, &none, now()).await.unwrap();
    assert_eq!(again.catalogue, first.catalogue);
}

#[tokio::test]
async fn several_components_architectures_and_a_proxy_are_used() {
    let bench = Bench::new().await;
    bench.publish(EARLY, &[]);
    let all = stanza("tool", "2", "all", "");
    Suite::new("/security", "bookworm-security", LATER)
        .with("main", "amd64", &[stanza("lib", "2", "amd64", "Multi-Arch: same"), all.clone()])
        .with("main", "i386", &[stanza("lib", "2+b1", "i386", "Source: lib (2)"), all.clone()])
        .with("contrib", "amd64", &[stanza("game", "3", "amd64", "")])
        .with("contrib", "i386", &[])
        .publish(&bench.server, &bench.key);
    let mut config = bench.config();
    config.base.clear();
    config.components.push("contrib".to_owned());
    config.architectures.push("i386".to_owned());
    // A host that does not exist: only the proxy can know it.
    config.proxy = Some(bench.server.url.clone());
    config.url = "http://archive.invalid/security".to_owned();
    for path in bench.server.paths() {
        bench.server.put(&format!("http://archive.invalid{path}"), bench.server.file(&path));
    }
    let synced = bench.source_of(config).sync(&State::default(), &BTreeMap::new(), now()).await.unwrap();
    let names: Vec<&str> = synced.catalogue.keys().map(String::as_str).collect();
    assert_eq!(names, ["update/game_3", "update/lib_2", "update/tool_2"]);
    let packages = update(&synced, "lib_2").install.deb_packages().to_vec();
    let versions: Vec<_> = packages.iter().map(|p| (p.architecture.as_str(), p.version.as_str())).collect();
    assert_eq!(versions, [("amd64", "2"), ("i386", "2+b1")]);
    let packages = update(&synced, "tool_2").install.deb_packages().to_vec();
    assert_eq!(packages.len(), 1, "a package for all architectures is one payload");
    assert!(synced.pool.contains_key("package/i386/tool") && synced.pool.contains_key("package/amd64/tool"));
}

#[test]
fn a_configuration_is_read_with_its_defaults_and_an_unknown_key_is_named() {
    let text = "kind = \"debian\"\nname = \"bookworm\"\ncatalogue = \"debian-12\"\nos_version = \"12\"\n\
        url = \"http://deb.debian.org/debian-security\"\nsuite = \"bookworm-security\"\n";
    let base = "[[base]]\nurl = \"http://deb.debian.org/debian\"\nsuite = \"bookworm\"\n";
    let read = |text: &str| toml::from_str::<crate::sources::SourceConfig>(text);
    let crate::sources::SourceConfig::Debian(config) =
        read(&format!("{text}timeout = \"5s\"\n{base}")).unwrap()
    else {
        panic!()
    };
    assert_eq!(config.keyrings, [Path::new("/usr/share/keyrings/debian-archive-keyring.gpg")]);
    assert_eq!((config.timeout, config.expired), (Duration::from_secs(5), Expiry::Refuse));
    assert_eq!(config.archives().len(), 2);
    for (wrong, word) in [("sweet = 1\n", "sweet"), ("kind = \"fedora\"\n", "fedora")] {
        let text = if wrong.contains("kind") {
            text.replace("kind = \"debian\"\n", wrong)
        } else {
            format!("{text}{wrong}")
        };
        let error = read(&text).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[tokio::test]
async fn the_real_security_archive_is_read() {
    let config: crate::sources::SourceConfig = toml::from_str(
        "kind = \"debian\"\nname = \"bookworm\"\ncatalogue = \"debian-12\"\nos_version = \"12\"\n\
         url = \"http://deb.debian.org/debian-security\"\nsuite = \"bookworm-security\"\n",
    )
    .unwrap();
    let skip = |reason: &str| {
        assert!(std::env::var_os("TIERWAY_REQUIRE").is_none(), "required: {reason}");
        println!("skipped: {reason}");
    };
    let crate::sources::SourceConfig::Debian(debian) = &config else { panic!("{config:?}") };
    if !debian.keyrings[0].exists() {
        return skip("no keyring of the Debian archive here");
    }
    let cache = tempfile::tempdir().unwrap();
    let source = crate::sources::Source::new(config, cache.path()).unwrap();
    let began = std::time::Instant::now();
    let none = BTreeMap::new();
    let (new, advisories) = (crate::sources::State::New, Advisories::default());
    let before = Before { state: &new, catalogue: &none, advisories: &advisories };
    let synced = match source.sync(before, now()).await {
        Ok(synced) => synced,
        Err(error) if chain(&error).contains("could not reach") => return skip("no network"),
        Err(error) => panic!("{}", chain(&error)),
    };
    println!("{:?} in {:.1?}, archive of {}", synced.stats, began.elapsed(), synced.archive_date);
    assert!(synced.stats.updates > 100 && synced.stats.packages > 1000);
    let before = Before { state: &synced.state, catalogue: &synced.catalogue, advisories: &advisories };
    let again = source.sync(before, now()).await.unwrap();
    assert!(again.unchanged);
    for document in synced.catalogue.values() {
        let update: Update = serde_json::from_slice(document).unwrap();
        assert_eq!(serde_json::to_vec(&update).unwrap(), &document[..], "as it would be written again");
    }
}
