//! The real Debian security archive on a real Debian root, beside what apt says.

use std::{collections::BTreeSet, fs, path::Path};

use tierway_common::{facts::domain_of, version::deb::compare_unchecked};
use tierway_proto::v1;
use tierway_tests::{
    archive::run,
    fleet::{Fleet, until},
    roots::installed_version,
    skip::{pristine_root, skip},
};

const SOURCE: &str = r#"[[source]]
kind = "debian"
name = "debian"
catalogue = "debian-12"
os_version = "12"
url = "http://deb.debian.org/debian-security"
suite = "bookworm-security"
components = ["main"]
architectures = ["amd64"]
keyrings = ["/usr/share/keyrings/debian-archive-keyring.gpg"]
base = [{ url = "http://deb.debian.org/debian", suite = "bookworm", components = ["main"] }]
"#;

/// What apt calls upgradable below `root`, with the same two suites: name and version.
fn upgradable(root: &Path, dir: &Path) -> BTreeSet<(String, String)> {
    for folder in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(dir.join(folder)).unwrap();
    }
    let list = dir.join("sources.list");
    let line = |path: &str, suite: &str| {
        format!(
            "deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] \
             http://deb.debian.org/{path} {suite} main\n"
        )
    };
    fs::write(&list, line("debian", "bookworm") + &line("debian-security", "bookworm-security")).unwrap();
    let options: Vec<String> = [
        ("Dir::Etc::sourcelist", list.display().to_string()),
        ("Dir::Etc::sourceparts", "-".to_owned()),
        ("Dir::Etc::preferencesparts", "-".to_owned()),
        ("Dir::State::lists", dir.join("lists").display().to_string()),
        ("Dir::Cache", dir.join("cache").display().to_string()),
        ("Dir::State::status", root.join("var/lib/dpkg/status").display().to_string()),
    ]
    .iter()
    .map(|(key, value)| format!("-o{key}={value}"))
    .collect();
    let apt = |program: &str, verb: &[&str]| {
        let arguments = options.iter().map(String::as_str).chain(verb.iter().copied()).map(AsRef::as_ref);
        run(program, &arguments.collect::<Vec<_>>())
    };
    apt("apt-get", &["-qq", "update"]);
    // `libc6/bookworm-security 2.36-9+deb12u14 amd64 [upgradable from: 2.36-9+deb12u13]`
    let text = apt("apt", &["list", "--upgradable"]);
    text.lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once('/')?;
            Some((name.to_owned(), rest.split(' ').nth(1)?.to_owned()))
        })
        .collect()
}

/// What Tierway calls needed: of every needed update the packages that are installed in an older version.
async fn needed(
    fleet: &Fleet,
    endpoint: &str,
    facts: &tierway_common::facts::Facts,
) -> BTreeSet<(String, String)> {
    let mut admin = fleet.admin().await;
    let request = v1::GetEndpointRequest { name_or_id: endpoint.to_owned() };
    let detail = admin.get_endpoint(request).await.unwrap().into_inner();
    let mut packages = BTreeSet::new();
    for row in detail.patches.into_iter().filter(|row| row.state == "needed") {
        let request = v1::GetPatchRequest { name_or_id: row.patch };
        let patch = admin.get_patch(request).await.unwrap().into_inner();
        let update: tierway_common::schema::Update = serde_json::from_str(&patch.document_json).unwrap();
        for package in update.install.deb_packages() {
            let installed = facts.values.iter().any(|(key, version)| {
                domain_of(key) == "package:deb"
                    && key.split(':').nth(2) == Some(&package.name)
                    && compare_unchecked(version, &package.version).is_lt()
            });
            if installed {
                packages.insert((package.name.clone(), package.version.clone()));
            }
        }
    }
    packages
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_needed_is_what_apt_calls_upgradable_and_after_installing_it_nothing_is() {
    let what = "patching a real root from the real archive";
    let Some(pristine) = pristine_root(what) else { return };
    if tokio::net::TcpStream::connect("deb.debian.org:80").await.is_err() {
        return skip(what, "deb.debian.org cannot be reached");
    }
    let fleet = Fleet::start_with(SOURCE).await;
    fleet.sync().await;
    let relay = fleet.relay("osaka").await;
    relay.caught_up(&fleet).await;
    let root = fleet.folder("root");
    tierway_tests::roots::real(&pristine, &root, &[]);
    let mut endpoint = fleet.enroll("web1", "osaka", relay.address, &root).await;
    endpoint.start().await;
    let found = endpoint.check().await;
    relay.forwarded().await;
    let count = async || {
        let request = v1::GetEndpointRequest { name_or_id: endpoint.id.clone() };
        let detail = fleet.admin().await.get_endpoint(request).await.unwrap().into_inner();
        detail.endpoint.unwrap().needed
    };
    until("central knows what is needed", async || count().await == found.needed).await;

    let apt = fleet.folder("apt");
    let facts = tierway_endpoint::scan::scan(&root, &tierway_endpoint::scan::Asked::default(), "x86_64").0;
    let says = upgradable(&root, &apt);
    assert!(!says.is_empty(), "a root without the security suite lacks something");
    assert_eq!(needed(&fleet, &endpoint.id, &facts).await, says);
    println!("{} updates, {} packages needed, as apt says", found.needed, says.len());

    let request = v1::DecidePatchesRequest {
        patches: Vec::new(),
        all_needed: true,
        group: "everyone".to_owned(),
        decision: "approve".to_owned(),
        ..v1::DecidePatchesRequest::default()
    };
    fleet.admin().await.decide_patches(request).await.unwrap();
    fleet.published().await;
    relay.caught_up(&fleet).await;
    let done = endpoint.check().await;
    assert_eq!((done.needed, done.installed, done.failed), (0, found.needed, 0), "{:?}", done.problems);
    assert_eq!(upgradable(&root, &apt), BTreeSet::new());
    for (name, version) in says {
        assert_eq!(installed_version(&root, &name), Some(version), "{name}");
    }
    relay.forwarded().await;
    until("central knows that nothing is", async || count().await == 0).await;
    let request = v1::GetEndpointRequest { name_or_id: endpoint.id.clone() };
    let detail = fleet.admin().await.get_endpoint(request).await.unwrap().into_inner();
    let applied =
        detail.patches.iter().filter(|row| row.times.is_some_and(|times| times.applied > 0)).count();
    assert_eq!(applied as u64, found.needed, "TimeApplied is set for all that was installed");
}
