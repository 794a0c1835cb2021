//! What a relay mirrors: metadata in versions, the nodes that it leads to, and that they are pinned, brought over by the
//! relay's own sync from a tier above that is no disk of ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    future::ready,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use http::{Request, Response};
use serde_json::Value;
use tierway_common::{
    blobs::{BlobOptions, Blobs},
    clock::Clock,
    files,
    transport::{
        dial::{self, Route},
        identity::Role,
    },
    tree,
    trust::digest::Digest,
};
use tierway_proto::{upstream::Upstream, v1};
use tierway_relay::{mirror::Mirror, sync::Sync};
use tokio::runtime::{Builder, Runtime};
use tonic::{Status, body::Body};
use tower::service_fn;

use super::{Random, Work, wrong};
use crate::bench::{
    publisher::Publisher,
    site::{self, Site},
    updates,
};

/// Updates that are published.
const UPDATES: usize = 300;
/// Such that nodes of earlier versions have to go.
const TREE_BYTES_MAX: u64 = 400_000;
/// Owner of the relay's pins.
const OWNER: &str = "published";

enum Step {
    /// So many publications, each with these updates changed, before the relay looks.
    Publish(Vec<Vec<usize>>),
    Reopen,
}

pub(super) struct Steps {
    steps: Vec<Step>,
    /// Where the tier above is.
    above: PathBuf,
}

struct Relay {
    sync: Sync,
    mirror: Mirror,
    trees: Blobs,
}

impl Relay {
    fn open(folder: &Path, upstream: Upstream) -> Result<Self, String> {
        let folder = folder.join("data");
        let options = BlobOptions { quota_bytes: TREE_BYTES_MAX, free_floor_bytes: 0 };
        let trees = wrong(Blobs::open(&folder.join("trees"), options), "opening its blobs")?;
        let mirror = wrong(Mirror::open(&folder.join("metadata")), "opening it")?;
        let trust = folder.join("trust");
        let sync = Sync::open(&trust, &site::tenant(), upstream, trees.clone(), mirror.clone());
        Ok(Self { sync: wrong(sync, "opening its trust")?, mirror, trees })
    }
}

/// A tier above that never answers.
fn nobody() -> Upstream {
    Upstream::over(service_fn(|_: Request<Body>| {
        ready(Err::<Response<Body>, _>(Status::unavailable("nobody is there")))
    }))
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn number(metadata: &Value, pointer: &str) -> Result<u64, String> {
    metadata.pointer(pointer).and_then(Value::as_u64).ok_or_else(|| format!("no `{pointer}` in {metadata}"))
}

impl Steps {
    pub(super) fn new(random: &mut Random, steps: usize, beside: &Path) -> Self {
        let mut step = || {
            if random.percent(15) {
                return Step::Reopen;
            }
            let publications = 1 + random.index(2);
            let changed =
                |random: &mut Random| (0..=random.below(4)).map(|_| random.index(UPDATES)).collect();
            Step::Publish((0..publications).map(|_| changed(random)).collect())
        };
        Self { steps: (0..steps).map(|_| step()).collect(), above: beside.join("above") }
    }

    /// The version that is published when so many steps are done; 0 before the first look.
    fn version(&self, done: usize) -> u64 {
        let counts = self.steps[..done].iter().map(|step| match step {
            Step::Publish(publications) => publications.len() as u64,
            Step::Reopen => 0,
        });
        match counts.sum() {
            0 => 0,
            // The first publication is there before any step.
            later => later + 1,
        }
    }
}

impl Work for Steps {
    fn run(&self, folder: &Path, tell: &mut dyn FnMut()) {
        let site = Site::new();
        let runtime = runtime();
        runtime.block_on(async {
            let mut publisher = Publisher::start(&site, &self.above).await;
            publisher.publish_first(&site, UPDATES);
            let address = publisher.address.to_string();
            let identity = site.join(&self.above.join("relay"), Role::Relay, "r1", Some(&address));
            let route = Route::direct(&address);
            let upstream = || Upstream::new(dial::channel(route.clone(), &identity));
            let root = fs::read(self.above.join("relay/trust/root.json")).unwrap();
            let trust = folder.join("data/trust");
            files::create_folders(&trust).unwrap();
            files::replace(&trust.join("root.json"), &root, 0o644).unwrap();
            let mut relay = Some(Relay::open(folder, upstream()).unwrap());
            let mut revision = 0;
            for step in &self.steps {
                match step {
                    Step::Publish(publications) => {
                        for changed in publications {
                            revision += 1;
                            let changed = changed.iter().map(|number| updates::document(*number, revision));
                            publisher.publish_changes(&site, changed);
                        }
                        relay
                            .as_mut()
                            .unwrap()
                            .sync
                            .run(&v1::CheckInResponse::default(), Clock::system().now())
                            .await
                            .unwrap();
                    }
                    Step::Reopen => {
                        drop(relay.take());
                        relay = Some(Relay::open(folder, upstream()).unwrap());
                    }
                }
                tell();
            }
        });
    }

    fn reopen(&self, folder: &Path, _told: usize) -> Result<(), String> {
        let runtime = runtime();
        let _runs = runtime.enter();
        if !folder.join("data/trust/root.json").exists() {
            return Ok(());
        }
        Relay::open(folder, nobody()).map(drop)
    }

    /// Who gets a timestamp gets all that it leads to.
    fn check(&self, folder: &Path, told: usize) -> Result<(), String> {
        let runtime = runtime();
        let _runs = runtime.enter();
        // Before it joined.
        if told == 0 && !folder.join("data/trust/root.json").exists() {
            return Ok(());
        }
        let Relay { mirror, trees, .. } = Relay::open(folder, nobody())?;
        let head = mirror.head();
        let maybe = [self.version(told), self.version((told + 1).min(self.steps.len()))];
        if !maybe.contains(&head.timestamp_version) {
            return Err(format!("version {} is served, of {maybe:?}", head.timestamp_version));
        }
        if head.timestamp_version == 0 {
            return Ok(());
        }
        let parse = |bytes: &Bytes| wrong(serde_json::from_slice::<Value>(bytes), "metadata");
        let read = |role: &str, version: u64| {
            let bytes = wrong(mirror.read(role, Some(version)), "reading metadata")?;
            parse(&bytes.ok_or_else(|| format!("`{version}.{role}.json` is gone"))?)
        };
        let timestamp = parse(&head.timestamp)?;
        let snapshot = read("snapshot", number(&timestamp, "/signed/meta/snapshot.json/version")?)?;
        let targets = read("targets", number(&snapshot, "/signed/meta/targets.json/version")?)?;
        read("root", 1)?;
        let mut reachable = BTreeSet::new();
        let catalogues: BTreeMap<String, Value> =
            wrong(serde_json::from_value(targets["signed"]["targets"].clone()), "targets")?;
        for (catalogue, target) in &catalogues {
            let digest: Digest =
                wrong(serde_json::from_value(target["hashes"]["sha256"].clone()), catalogue)?;
            reachable.append(&mut wrong(tree::reachable(&digest, None, &trees), catalogue)?);
        }
        if let Some(gone) = reachable.iter().find(|node| !trees.contains(node)) {
            return Err(format!("node `{gone}` is gone"));
        }
        if trees.pins(OWNER).is_superset(&reachable) {
            Ok(())
        } else {
            Err("a node is not pinned".to_owned())
        }
    }
}
