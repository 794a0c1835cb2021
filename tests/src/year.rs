//! More than a year of a vendor's daily changes and monthly patches, by a clock that is moved by hand: a real archive, a
//! real central, what a relay and computers keep by their own types, brought over by real connections. Nothing on any
//! disk may grow for it, but what says that it does and by how much.
//!
//! A vendor replaces packages, and now and then one goes and another comes. Each month what is needed is approved,
//! fetched, installed and reported. From [`SETTLED_DAYS`] on every kept thing has had the time to be forgotten.

mod computer;
mod door;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::SignedDuration;
use tierway_central::{
    decide::{self, gone::GONE_KEPT},
    exposure,
    inventory::{Inventory, Outcome as Taken, Submission},
    layout::Layout,
    publish::Outcome as Publication,
    roots,
    server::Central,
    sources::{Before, advisories::Advisories, debian::supersede::SUPERSEDED_FOR},
    store::tables,
};
use tierway_common::{
    blobs::{BlobOptions, Blobs},
    clock::Clock,
    daemon::{stop::Stop, tasks::Board},
    id::UpdateId,
    store::{Store, memory::MemoryStore, sled_store::SledStore, table::Table},
    transport::identity::{Holder, Role},
};
use tierway_proto::v1;
use tierway_relay::{
    mirror::{Head, Mirror},
    outbox::Outbox,
    payloads::Payloads,
    sync::Sync,
};

use self::{computer::Computer, door::Behind};
use crate::{
    bench::site::{self, Site},
    fleet::{Fleet, until},
    simulation::random::Random,
};

/// Until what came first has been superseded, gone and forgotten: half a year and a month, and a month for the last step.
pub const SETTLED_DAYS: i64 = (SUPERSEDED_FOR.as_hours() + GONE_KEPT.as_hours()) / 24 + 30;
/// What may be kept of payloads by central, a relay and a computer. For one of unknown length a relay sets 1 MiB aside.
pub const PAYLOAD_QUOTAS: [u64; 3] = [3_000_000, 2_500_000, 1_500_000];
/// Bytes of each payload.
const PAYLOAD_BYTES: usize = 40_000;
/// Packages that the vendor has at a time.
const PACKAGES: u64 = 60;
/// Packages that change between two patch days, each day.
const CHANGED_DAILY: u64 = 1;
/// Packages that change on a patch day.
const CHANGED_MONTHLY: u64 = 12;
const COMPUTERS: usize = 3;
/// The root of what is published is extended long before its year is over.
const ROOT_EXTENDED_DAYS: i64 = 300;

/// How much happens.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Decides what changes.
    pub seed: u64,
    /// How long, at most a year and three months: a root is extended once.
    pub days: i64,
    /// Days between two looks of everybody at everything.
    pub step: i64,
}

/// What there was at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Since the beginning.
    pub day: i64,
    /// Bytes, or numbers where that is said, by what it is.
    pub of: BTreeMap<String, u64>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Every thirty days, and at the end.
    pub samples: Vec<Sample>,
    /// Changes of packages by the vendor.
    pub changes: u64,
    /// Installations.
    pub installed: u64,
    /// How long it took.
    pub wall: Duration,
}

/// A relay as far as it keeps something.
struct Relay {
    holder: Holder,
    sync: Sync,
    payloads: Payloads,
    outbox: Outbox,
    store: Arc<dyn Store>,
    trees: Blobs,
}

struct World {
    fleet: Fleet,
    stop: Stop,
    /// What central publishes, as its door gives it.
    published: Mirror,
    relay: Relay,
    computers: Vec<Computer>,
    random: Random,
    /// By number, the revision of each package that the vendor has.
    packages: BTreeMap<u64, u64>,
    next: u64,
    changes: u64,
    approved: BTreeSet<UpdateId>,
}

/// Lets the time pass.
pub async fn run(options: Options) -> Outcome {
    let began = Instant::now();
    let mut world = World::new(options.seed).await;
    let mut outcome = Outcome { samples: Vec::new(), changes: 0, installed: 0, wall: Duration::ZERO };
    let (mut day, mut month, mut extended) = (0, 0, false);
    while day < options.days {
        world.fleet.clock.advance(SignedDuration::from_hours(24 * options.step));
        day += options.step;
        if day >= ROOT_EXTENDED_DAYS && !extended {
            let layout = Layout::new(&world.fleet.folder("central"));
            roots::extend(&layout, &layout.offline(), world.fleet.now()).unwrap();
            extended = true;
        }
        let is_patch_day = day / 30 > month;
        month = day / 30;
        for _ in 0..u64::try_from(options.step).unwrap() * CHANGED_DAILY {
            world.vendor_changes_one();
        }
        if is_patch_day {
            (0..CHANGED_MONTHLY).for_each(|_| world.vendor_changes_one());
            world.vendor_drops_one();
        }
        world.central_works().await;
        if is_patch_day {
            world.computers_check().await;
            world.approve_what_is_needed();
            world.central_works().await;
        }
        outcome.installed += world.computers_check().await;
        world.run("retain").await;
        if is_patch_day || day >= options.days {
            outcome.samples.push(world.sample(day));
        }
    }
    world.stop.request();
    (outcome.changes, outcome.wall) = (world.changes, began.elapsed());
    outcome
}

fn name(package: u64) -> String {
    format!("package{package:04}")
}

fn payload(random: &mut Random) -> Vec<u8> {
    (0..PAYLOAD_BYTES / 8).flat_map(|_| random.bits().to_le_bytes()).collect()
}

impl World {
    async fn new(seed: u64) -> Self {
        let clock = Clock::manual(Clock::system().now());
        let settings = format!("payload_bytes_max = {}\ntree_bytes_max = {}\n", PAYLOAD_QUOTAS[0], 64 << 20);
        let mut fleet = Fleet::start_in_memory_with(clock, settings).await;
        for package in 0..PACKAGES {
            fleet.archive.replaced(&name(package), "2.0", payload(&mut Random::of(seed, &[package])));
        }
        let central = fleet.central.as_ref().unwrap().running.central.clone();
        let (site, stop, root) = (Site::new(), Stop::new(), &central.root_metadata[..]);
        let blobs = |name: &str, quota_bytes| {
            let options = BlobOptions { quota_bytes, free_floor_bytes: 0 };
            Blobs::open_with_clock(&fleet.folder(name), options, fleet.clock.clone()).unwrap()
        };

        let (identity, nowhere) = door::join(&site, &fleet.folder("door"), (Role::Relay, "door"), None, root);
        let published = Mirror::open(&fleet.folder("door/metadata")).unwrap();
        let nothing: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let behind = Behind {
            trees: central.trees.clone(),
            mirror: published.clone(),
            payloads: Payloads::new(central.payloads.blobs().clone(), nowhere.clone()),
            outbox: Outbox::open(nothing, 1 << 20).unwrap(),
        };
        let address = door::open(identity, nowhere, behind, &stop).await;

        let dir = fleet.folder("relay");
        let (identity, upstream) = door::join(&site, &dir, (Role::Relay, "r1"), Some(address), root);
        let mirror = Mirror::open(&dir.join("metadata")).unwrap();
        let store: Arc<dyn Store> = Arc::new(SledStore::open(&dir.join("store")).unwrap());
        let (trees, tenant) = (blobs("relay/trees", 64 << 20), site::tenant());
        let relay = Relay {
            holder: identity.own().holder,
            sync: Sync::open(&dir.join("trust"), &tenant, upstream.clone(), trees.clone(), mirror.clone())
                .unwrap(),
            payloads: Payloads::new(blobs("relay/payloads", PAYLOAD_QUOTAS[1]), upstream.clone()),
            outbox: Outbox::open(store.clone(), 64 << 20).unwrap(),
            store,
            trees: trees.clone(),
        };
        let behind = Behind { trees, mirror, payloads: relay.payloads.clone(), outbox: relay.outbox.clone() };
        let address = door::open(identity, upstream, behind, &stop).await;

        let mut computers = Vec::new();
        for number in 0..COMPUTERS {
            let installed: Vec<String> =
                (0..PACKAGES).filter(|n| n % COMPUTERS as u64 != number as u64).map(name).collect();
            computers.push(Computer::enroll(&fleet, &site, address, number, &installed));
        }
        let packages = (0..PACKAGES).map(|package| (package, 0)).collect();
        Self {
            fleet,
            stop,
            published,
            relay,
            computers,
            random: Random::new(seed),
            packages,
            next: PACKAGES,
            changes: 0,
            approved: BTreeSet::new(),
        }
    }

    fn central(&self) -> Arc<Central> {
        self.fleet.central.as_ref().unwrap().running.central.clone()
    }

    fn vendor_changes_one(&mut self) {
        let packages: Vec<u64> = self.packages.keys().copied().collect();
        let package = packages[self.random.index(packages.len())];
        self.vendor_has(package);
    }

    fn vendor_has(&mut self, package: u64) {
        self.changes += 1;
        let revision = self.packages.entry(package).or_default();
        *revision += 1;
        let payload = payload(&mut self.random);
        self.fleet.archive.replaced(&name(package), &format!("2.{revision}"), payload);
    }

    /// Another comes in its place, and on the computers as well.
    fn vendor_drops_one(&mut self) {
        let (package, _) = self.packages.pop_first().unwrap();
        self.fleet.archive.withdrawn(&name(package));
        let next = self.next;
        self.next += 1;
        for computer in &mut self.computers {
            computer.replace(&name(package), &name(next));
        }
        self.vendor_has(next);
    }

    /// Central reads the archive, publishes, downloads and signs; the relay brings it over.
    async fn central_works(&mut self) {
        self.fleet.archive.publish();
        let (central, now) = (self.central(), self.fleet.now());
        for feed in central.feeds.values() {
            let memory = central.catalog.memory(&feed.config).unwrap();
            let documents = central.catalog.documents(feed.config.catalogue().unwrap()).unwrap();
            let advisories = Advisories::default();
            let before = Before { state: &memory, catalogue: &documents, advisories: &advisories };
            let synced = feed.source.sync(before, now).await.unwrap();
            let (central, config) = (central.clone(), feed.config.clone());
            let applied = tokio::task::spawn_blocking(move || central.catalog.apply(&config, synced));
            assert_eq!(applied.await.unwrap().unwrap().refused, 0);
        }
        let work = central.clone();
        let published = tokio::task::spawn_blocking(move || {
            while matches!(work.publisher.publish().unwrap(), Publication::Published { more: true, .. }) {}
            exposure::run(&work.state, &work.trees, &work.publisher.published()).unwrap();
        });
        published.await.unwrap();
        self.run("refresh").await;
        central.download_payloads().await.unwrap();
        for version in 1..=central.publisher.root_version() {
            self.publish("root", version);
        }
        let newest = |role: &str| {
            let bytes = central.publisher.metadata(role, None).unwrap();
            serde_json::from_slice::<serde_json::Value>(&bytes).unwrap()["signed"]["version"]
                .as_u64()
                .unwrap()
        };
        ["targets", "snapshot"].into_iter().for_each(|role| self.publish(role, newest(role)));
        let (timestamp_version, timestamp) = central.publisher.timestamp();
        self.published.set_head(Head { timestamp_version, timestamp, ..Head::default() }).unwrap();
        self.relay.sync.run(&v1::CheckInResponse::default(), now).await.unwrap();
        assert_eq!(self.relay.sync.head_version(), timestamp_version);
    }

    fn publish(&self, role: &str, version: u64) {
        let bytes = self.central().publisher.metadata(role, Some(version)).unwrap();
        self.published.keep(role, version, &bytes).unwrap();
    }

    /// One of central's own tasks runs, to its end and without an error.
    async fn run(&self, task: &'static str) {
        let board: Board = self.central().board.clone();
        let runs = board.statuses()[task].runs;
        assert!(board.wake(task));
        until(task, async || board.statuses()[task].runs > runs).await;
        assert_eq!(board.statuses()[task].last_error, None, "{task}");
    }

    fn approve_what_is_needed(&mut self) {
        let everyone = "everyone".parse().unwrap();
        let (about, verb) = (decide::About::AllNeeded, decide::Verb::Approve);
        let conditions = decide::Conditions::default();
        let central = self.central();
        let state = &central.state;
        let decided = decide::patches_if(state, about, &everyone, verb, &conditions, "operator:tester");
        self.approved.extend(decided.unwrap().0);
        let is_live = |id: &UpdateId| state.model().update_by_id(id).is_some_and(|update| !update.gone);
        self.approved.retain(is_live);
    }

    async fn computers_check(&mut self) -> u64 {
        let mut installed = 0;
        for computer in &mut self.computers {
            installed += computer.check(self.fleet.now(), &self.approved).await;
        }
        // As the relay hands them up.
        let inventory = Inventory::new(self.central().state.clone());
        loop {
            let waiting = self.relay.outbox.next(1 << 20).unwrap();
            if waiting.is_empty() {
                return installed;
            }
            let envelopes: Vec<_> = waiting.iter().map(|waiting| waiting.envelope.clone()).collect();
            let carrier = self.relay.holder.clone();
            let taken = inventory.accept(&[Submission { carrier, envelopes }]).unwrap();
            assert!(taken[0].iter().all(|taken| *taken == Taken::Accepted), "{taken:?}");
            self.relay.outbox.settle(&waiting).unwrap();
        }
    }

    fn sample(&self, day: i64) -> Sample {
        let mut of = BTreeMap::new();
        let mut put = |what: &str, bytes: u64| {
            of.insert(what.to_owned(), bytes);
        };
        let central = self.central();
        for (table, (rows, bytes)) in rows(central.state.store()) {
            put(&format!("central store: {table}"), bytes);
            if table.as_bytes() == <tables::Audit<'_> as Table>::PREFIX {
                put("central audit, records", rows);
            }
        }
        put("central store, file", central.state.store().disk_bytes());
        put("central updates known, number", central.state.model().updates().count() as u64);
        put("central payloads", central.payloads.blobs().usage().bytes);
        let pinned: u64 =
            central.trees.pins("published").iter().filter_map(|node| central.trees.len(node)).sum();
        put("central trees, pinned", pinned);
        let layout = Layout::new(&self.fleet.folder("central"));
        put("central cache", folder_bytes(&layout.cache()));
        let relay = self.fleet.folder("relay");
        put("relay payloads", self.relay.payloads.blobs().usage().bytes);
        put("relay metadata", folder_bytes(&relay.join("metadata")));
        put("relay metadata, files", files(&relay.join("metadata")));
        put("relay trees, pins", folder_bytes(&relay.join("trees/pins")));
        put("relay store", rows(self.relay.store.as_ref()).values().map(|(_, bytes)| bytes).sum());
        put("relay store, file", self.relay.store.disk_bytes());
        put("relay trees, of their quota", self.relay.trees.usage().bytes);
        for (part, bytes) in self.computers[0].kept() {
            put(&format!("endpoint {part}"), bytes);
        }
        Sample { day, of }
    }
}

/// Rows and their bytes, by table.
fn rows(store: &dyn Store) -> BTreeMap<String, (u64, u64)> {
    let mut tables: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let rows = store.scan(b"", after.as_deref(), 1_000).unwrap();
        for row in &rows {
            let table = row.key.split(|byte| *byte == 0).next().unwrap_or_default();
            let of = tables.entry(String::from_utf8_lossy(table).into_owned()).or_default();
            *of = (of.0 + 1, of.1 + (row.key.len() + row.value.len()) as u64);
        }
        match rows.last() {
            Some(last) => after = Some(last.key.clone()),
            None => return tables,
        }
    }
}

/// Bytes of all files below a folder.
pub(crate) fn folder_bytes(folder: &Path) -> u64 {
    below(folder).into_iter().sum()
}

fn files(folder: &Path) -> u64 {
    below(folder).len() as u64
}

fn below(folder: &Path) -> Vec<u64> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            found.extend(below(&entry.path()));
        } else {
            found.push(entry.metadata().unwrap().len());
        }
    }
    found
}

impl Outcome {
    /// What is larger at the end than it was when all had settled, by more than `percent` and a few rows: what grows
    /// without an end, and by how much.
    #[must_use]
    pub fn grown(&self, percent: u64) -> Vec<String> {
        const ROWS_BYTES: u64 = 4_096;
        let settled: Vec<_> = self.samples.iter().filter(|sample| sample.day >= SETTLED_DAYS).collect();
        let [first, .., last] = &settled[..] else { return vec!["too short to tell".to_owned()] };
        let most = |what: &str| {
            // A month is not like another: of the first three the largest.
            let early = settled.iter().take(3.min(settled.len() - 1));
            early.map(|sample| sample.of.get(what).copied().unwrap_or(0)).max().unwrap_or(0)
        };
        let grown =
            last.of.iter().filter(|(what, _)| !what.ends_with("of their quota")).filter_map(|(what, now)| {
                let then = most(what);
                (*now > then + then * percent / 100 + ROWS_BYTES)
                    .then(|| format!("{what}: {then} from day {} on, {now} on day {}", first.day, last.day))
            });
        grown.collect()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, changes, installed, wall } = self;
        writeln!(f, "{changes} changes by the vendor, {installed} installations, in {wall:.1?}")?;
        let shown: Vec<&Sample> = samples
            .iter()
            .enumerate()
            .filter(|(at, _)| at % 3 == 2 || at + 1 == samples.len())
            .map(|(_, sample)| sample)
            .collect();
        write!(f, "| day |")?;
        shown.iter().try_for_each(|sample| write!(f, " {} |", sample.day))?;
        let names: BTreeSet<&String> = samples.iter().flat_map(|sample| sample.of.keys()).collect();
        for name in names {
            write!(f, "\n| {name} |")?;
            shown.iter().try_for_each(|sample| write!(f, " {} |", sample.of.get(name).unwrap_or(&0)))?;
        }
        Ok(())
    }
}
