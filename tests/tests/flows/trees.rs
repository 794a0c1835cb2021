//! Trees on their way down: what is lost comes again, what has no room is said, and what is served is safe from
//! eviction.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ring::rand::SystemRandom;
use tierway_central::{layout::Layout, roots};
use tierway_common::{
    blobs::{BlobOptions, Blobs},
    clock::Clock,
    daemon::chain::Chain,
    transport::{
        dial::{self, Route},
        identity::Role,
    },
    tree,
    trust::{digest::Digest, keys::SigningKey},
};
use tierway_proto::{sync, upstream::Upstream};
use tierway_tests::{
    archive::Package,
    bench::{publisher::Publisher, site::Site, updates::CATALOGUE},
    fleet::{Fleet, Relay, until},
    roots::made_up,
    small_disk::SmallDisk,
};
use tokio::time::timeout;

async fn fleet_with(packages: &[&str]) -> Fleet {
    let mut fleet = Fleet::start_at(Clock::system()).await;
    for package in packages {
        fleet.archive.update(&Package::new(package, "2.0"));
    }
    fleet.archive.publish();
    fleet.sync().await;
    fleet
}

/// What the only owner of pins in `dir` pins.
fn pinned(dir: &Path) -> BTreeSet<Digest> {
    let pins: Vec<_> = fs::read_dir(dir.join("pins")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [pins] = &pins[..] else { panic!("{pins:?}") };
    let content = fs::read(pins).unwrap();
    content.as_chunks::<32>().0.iter().map(|bytes| Digest::from_bytes(*bytes)).collect()
}

/// The files of what is pinned in `dir`.
fn pinned_files(dir: &Path) -> Vec<PathBuf> {
    let names = pinned(dir).into_iter().map(|digest| digest.to_string());
    names.map(|name| dir.join(&name[..2]).join(name)).collect()
}

/// Removes all that is pinned in `dir`, and returns the files.
fn lose(dir: &Path) -> Vec<PathBuf> {
    let files = pinned_files(dir);
    assert!(!files.is_empty());
    files.iter().for_each(|file| fs::remove_file(file).unwrap());
    files
}

fn sync_error(relay: &Relay) -> Option<String> {
    relay.running().board.statuses()["sync"].last_error.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_a_relay_or_an_endpoint_lost_come_again() {
    let fleet = fleet_with(&["hello"]).await;
    let mut relay = fleet.relay("osaka").await;
    relay.caught_up(&fleet).await;
    let root = fleet.folder("root");
    made_up(&root, &[("hello", "1.0")]);
    let mut endpoint = fleet.enroll("web1", "osaka", relay.address, &root).await;
    endpoint.start().await;
    assert_eq!(endpoint.check().await.problems, Vec::<String>::new());

    // What is published meanwhile needs not all that the version before had.
    fleet.published().await;
    relay.caught_up(&fleet).await;
    relay.stop().await;
    let lost = lose(&relay.config.data_dir.join("trees"));
    relay.start().await;
    until("the relay has its nodes again", async || lost.iter().all(|file| file.exists())).await;

    endpoint.stop().await;
    let lost = lose(&endpoint.config.data_dir.join("trees"));
    endpoint.start().await;
    let found = endpoint.check().await;
    assert_eq!((found.needed, found.problems), (1, Vec::new()));
    assert!(lost.iter().all(|file| file.exists()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_follows_to_an_earlier_version_that_is_verified() {
    let fleet = fleet_with(&["hello"]).await;
    let mut relay = fleet.relay("osaka").await;
    relay.caught_up(&fleet).await;
    relay.stop().await;
    // As after a stolen key was used to publish, and the root of trust took that back.
    let head = relay.config.data_dir.join("metadata/head.json");
    let mut ahead: serde_json::Value = serde_json::from_slice(&fs::read(&head).unwrap()).unwrap();
    ahead["timestamp_version"] = 1_000_000.into();
    ahead["news"] = 1_000_000.into();
    ahead["timestamp"] = serde_json::to_value(b"taken back").unwrap();
    fs::write(&head, ahead.to_string()).unwrap();
    relay.start().await;
    let version = fleet.central.as_ref().unwrap().running.central.publisher.timestamp().0;
    let mirror = relay.running().mirror.clone();
    until("the relay is at central's version", async || mirror.head().timestamp_version == version).await;
    assert!(mirror.head().news <= version);
}

/// Copies a folder with all that is in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let copied = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &copied);
        } else {
            fs::copy(entry.path(), copied).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everyone_follows_to_an_earlier_version_when_a_newer_root_takes_back_what_a_stolen_key_signed() {
    let mut fleet = fleet_with(&["hello"]).await;
    let relay = fleet.relay("osaka").await;
    relay.caught_up(&fleet).await;
    let root = fleet.folder("root");
    made_up(&root, &[("hello", "1.0")]);
    let mut direct = fleet.enroll("web1", "osaka", fleet.address, &root).await;
    let mut behind = fleet.enroll("web2", "osaka", relay.address, &root).await;
    let (folder, kept) = (fleet.folder("central"), fleet.folder("kept"));
    fleet.stop_central().await;
    copy(&folder, &kept);
    fleet.start_central().await;

    // Whoever has the online key signs as central does.
    let publisher = || &fleet.central.as_ref().unwrap().running.central.publisher;
    for _ in 0..50 {
        publisher().refresh().unwrap();
    }
    let stolen = publisher().timestamp().0;
    until("the relay has what was signed", async || {
        let _ = relay.running().board.wake("sync");
        relay.running().mirror.head().timestamp_version >= stolen
    })
    .await;
    for endpoint in [&mut direct, &mut behind] {
        endpoint.start().await;
        assert_eq!(endpoint.check().await.problems, Vec::<String>::new());
        assert!(endpoint.status().dictionary_version >= stolen, "{}", endpoint.id);
    }

    // Central as it was before the theft, with another online key and a root that names it.
    fleet.stop_central().await;
    fs::remove_dir_all(&folder).unwrap();
    fs::rename(&kept, &folder).unwrap();
    let layout = Layout::new(&folder);
    let fresh = SigningKey::generate(&SystemRandom::new()).unwrap();
    fresh.save(&layout.online_key()).unwrap();
    roots::extend(&layout, &layout.offline(), fleet.now()).unwrap();
    fleet.start_central().await;
    let central = fleet.central.as_ref().unwrap().running.central.clone();
    until("central publishes by the new root", async || central.publisher.root_version() == 2).await;
    assert!(central.publisher.timestamp().0 < stolen);
    until("the relay follows", async || {
        let _ = relay.running().board.wake("sync");
        relay.running().mirror.head().timestamp_version < stolen
    })
    .await;
    for endpoint in [&direct, &behind] {
        until("the endpoint follows", async || {
            endpoint.check().await.problems.is_empty() && endpoint.status().dictionary_version < stolen
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_does_not_fit_is_an_error_and_not_fetched_for_ever() {
    let (site, dir) = (Site::new(), tempfile::tempdir().unwrap());
    let mut publisher = Publisher::start(&site, &dir.path().join("publisher")).await;
    publisher.publish_first(&site, 8_000);
    let root = publisher.root(CATALOGUE);
    let identity = site.join(&dir.path().join("endpoint"), Role::Endpoint, "web1", None);
    let upstream = Upstream::new(dial::channel(Route::direct(&publisher.address.to_string()), &identity));
    let bring = async |quota_bytes| {
        let options = BlobOptions { quota_bytes, free_floor_bytes: 0 };
        let trees = Blobs::open(&dir.path().join(format!("trees-{quota_bytes}")), options).unwrap();
        let none = Arc::default();
        let brought = sync::tree(&upstream, root, &trees, &none);
        (timeout(Duration::from_secs(180), brought).await.expect("it ends"), trees)
    };
    let (brought, trees) = bring(1 << 30).await;
    let bytes = trees.usage().bytes;
    assert_eq!(brought.unwrap().bytes, bytes);
    assert_eq!(tree::reachable(&root, None, &trees).unwrap().len() as u64, trees.usage().count);
    let (brought, _) = bring(bytes * 9 / 10).await;
    let error = Chain(&brought.unwrap_err()).to_string();
    assert!(error.contains("there is no room for all of the catalogue's tree"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_relay_is_about_to_serve_is_pinned_beside_what_it_serves() {
    let mut fleet = fleet_with(&["hello"]).await;
    let relay = fleet.relay("osaka").await;
    relay.caught_up(&fleet).await;
    let (trees, head) =
        (relay.config.data_dir.join("trees"), relay.config.data_dir.join("metadata/head.json"));
    let before = pinned(&trees);
    // The new version cannot take the place of the old one.
    fs::remove_file(&head).unwrap();
    fs::create_dir(&head).unwrap();
    fleet.archive.update(&Package::new("plum", "2.0"));
    fleet.archive.publish();
    fleet.sync().await;
    assert!(relay.running().board.wake("sync"));
    until("it cannot be served", async || sync_error(&relay).is_some_and(|it| it.contains("head.json")))
        .await;
    // It may have said so of what was signed anew before.
    until("both are pinned", async || {
        let both = pinned(&trees);
        both.is_superset(&before) && both.len() > before.len()
    })
    .await;
    let both = pinned(&trees);
    fs::remove_dir(&head).unwrap();
    relay.caught_up(&fleet).await;
    until("only what is served is pinned", async || {
        let pinned = pinned(&trees);
        !pinned.is_superset(&before) && pinned.is_subset(&both)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_make_room_for_what_is_published_on_a_disk_that_others_fill() {
    let mut fleet = fleet_with(&["hello"]).await;
    let folder = fleet.folder("relay-osaka");
    let Some(_disk) = SmallDisk::mount("filling a disk", &folder, 64 << 10) else { return };
    let mut relay = fleet.relay("osaka").await;
    relay.stop().await;
    relay.config.disk_free_bytes_min = 8 << 20;
    relay.start().await;
    relay.caught_up(&fleet).await;
    let payloads = relay.running().payloads.blobs().clone();
    for number in 0..20u8 {
        payloads.put(&vec![number; 1 << 20]).unwrap();
    }
    // As much as leaves less than must stay free.
    let free = rustix::fs::statvfs(&folder).unwrap();
    let free = free.f_bavail * free.f_frsize;
    fs::write(folder.join("of-others"), vec![0; usize::try_from(free - (6 << 20)).unwrap()]).unwrap();

    fleet.archive.update(&Package::new("plum", "2.0"));
    fleet.archive.publish();
    fleet.sync().await;
    relay.caught_up(&fleet).await;
    assert!(payloads.usage().count < 20, "some payloads went");
    relay.stop().await;
    drop(payloads);
}
