//! Central takes in what a whole fleet reports, through its real store: 100,000 endpoints × 300 states.
//!
//! Each endpoint has an id, a record and envelopes of its own; they are signed and written to files by one process
//! and taken in by another, so that making them is not counted. What is counted begins where the RPC hands over:
//! the queue, the signatures, the commits, each durable before it is acknowledged. Submissions have at
//! most 1 MiB, as relays send them, and several wait at a time. After each step central is
//! ended as `kill -9` does, and started again. PostgreSQL then keeps the same states, in two layouts. `-- ENDPOINTS`
//! takes another number of them.

#![expect(clippy::expect_used, reason = "a benchmark stops at the first thing that is wrong")]

#[path = "report_ingest/postgres.rs"]
mod postgres;

use std::{
    env, fs,
    fs::File,
    io::{BufReader, BufWriter, Read, Write as _},
    path::Path,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use ring::rand::SystemRandom;
use serde::{Deserialize, Serialize};
use tierway_central::{
    inventory::{Inventory, Outcome, Submission, inbox::inbox},
    model::Write,
    state::State,
    store::tables::EndpointRecord,
};
use tierway_common::{
    clock::Clock,
    facts::{Domain, Facts},
    schema::{CycleSummary, Report, Severity, State as UpdateState, StateEntry},
    store::{Store, StoreError, sled_store::SledStore},
    trust::{
        digest::Digest,
        envelope::{Envelope, Header, Stream},
        keys::SigningKey,
    },
};
use tierway_tests::bench::{
    place,
    process::Seen,
    site,
    table::{Table, micros},
    updates,
};

const ENDPOINTS: u32 = 100_000;
/// Under `cargo test`, which has no `--bench`: enough to see that it works.
const ENDPOINTS_SMALL: u32 = 60;
/// States of each endpoint.
const STATES: u32 = 300;
/// Updates they are about.
const PATCHES: u32 = 3_000;
/// Of an endpoint's states, those that change in the second step.
const CHANGES: u32 = 3;
/// Packages of each endpoint, in the third step.
const PACKAGES: usize = 300;
/// Signing keys: what it costs to check a signature does not depend on whose it is.
const KEYS: usize = 64;
/// Bytes of one submission.
const SUBMISSION_BYTES: usize = 1 << 20;
const SUBMISSION_ENVELOPES: usize = 1_024;
/// Submissions that wait at a time.
const WAITING: usize = 8;

/// The files of envelopes, in the order in which they are taken in.
const STEPS: [(&str, &str); 3] =
    [("states", "first report"), ("changes", "3 states changed"), ("facts", "300 packages")];

fn main() {
    let (flags, others): (Vec<_>, Vec<_>) =
        env::args().skip(1).partition(|argument| argument.starts_with('-'));
    let full = flags.iter().any(|flag| flag == "--bench");
    match others.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => measure(if full { ENDPOINTS } else { ENDPOINTS_SMALL }, full),
        [part @ ("prepare" | "take" | "open"), dir, rest] => part_of(part, Path::new(dir), rest),
        [endpoints] => measure(endpoints.parse().expect("a number of endpoints"), full),
        other => panic!("unexpected arguments {other:?}"),
    }
}

fn part_of(part: &str, dir: &Path, rest: &str) {
    let figures = match part {
        "prepare" => prepare(dir, rest.parse().expect("a number")),
        "take" => take(dir, rest),
        _ => open(dir, rest.parse().expect("a number")),
    };
    println!("{}", serde_json::to_string(&figures).expect("JSON"));
    std::io::stdout().flush().expect("a pipe");
    if part == "take" {
        // Nothing is closed, nothing is tidied up.
        let own = rustix::process::getpid();
        rustix::process::kill_process(own, rustix::process::Signal::KILL).expect("killed");
    }
}

/// What one process used.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Figures {
    cpu: Duration,
    wall: Duration,
    /// Envelopes and their bytes.
    envelopes: u64,
    envelope_bytes: u64,
    /// Of the store.
    disk_bytes: u64,
    /// Written to the disk by this process, as the kernel counts it.
    written_bytes: u64,
    resident_kib: u64,
    peak_kib: u64,
    /// States of all endpoints.
    states: u64,
}

fn opened(dir: &Path) -> (Arc<dyn Store>, Arc<State>) {
    let store: Arc<dyn Store> = Arc::new(SledStore::open(&dir.join("store")).expect("a store"));
    let state = State::open(site::tenant(), store.clone(), Clock::system()).expect("a model");
    (store, Arc::new(state))
}

fn written_bytes() -> u64 {
    let io = fs::read_to_string("/proc/self/io").expect("/proc");
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).expect("the field");
    line.parse().expect("a number")
}

fn endpoint_id(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012x}")
}

/// The updates that an endpoint has states of: as many installed long ago as newer ones.
fn patches(endpoint: u32) -> impl Iterator<Item = u32> {
    (0..STATES).map(move |place| place * (PATCHES / STATES) + (place * 7 + endpoint) % (PATCHES / STATES))
}

/// Those of them that change in the second step.
fn changed(endpoint: u32) -> impl Iterator<Item = u32> {
    patches(endpoint).skip((endpoint % 97) as usize).take(CHANGES as usize)
}

/// Enrols the endpoints, and writes what they will say.
fn prepare(dir: &Path, endpoints: u32) -> Figures {
    let random = SystemRandom::new();
    let keys: Vec<_> = (0..KEYS).map(|_| SigningKey::generate(&random).expect("a key")).collect();
    let now = Clock::system().now();
    let (_, state) = opened(dir);
    state
        .change(|_, change| {
            for number in 0..PATCHES {
                change.write(update(number, now));
            }
            for number in 0..endpoints {
                change.write(Write::Endpoint(Arc::new(record(number, &keys[number as usize % KEYS], now))));
            }
            Ok::<_, StoreError>(())
        })
        .expect("enrolled");
    let mut figures = Figures::default();
    let mut files = STEPS.map(|(name, _)| BufWriter::new(File::create(dir.join(name)).expect("a file")));
    for number in 0..endpoints {
        let key = &keys[number as usize % KEYS];
        let mut sequence = 0;
        let mut put = |file: usize, report: &Report| {
            let stream = Stream::of(report);
            sequence += u64::from(stream == Stream::States);
            let header = Header {
                tenant: site::tenant(),
                endpoint: endpoint_id(number).parse().expect("an id"),
                stream,
                sequence: if stream == Stream::States { sequence } else { 1 },
                replaces_earlier: stream == Stream::Inventory,
                created: now,
            };
            let envelope = Envelope::seal(key, header, report).expect("sealed");
            let bytes = envelope.bytes();
            let length = u32::try_from(bytes.len()).expect("short");
            files[file].write_all(&length.to_le_bytes()).expect("written");
            files[file].write_all(bytes).expect("written");
            figures.envelopes += 1;
            figures.envelope_bytes += bytes.len() as u64;
        };
        let entries = patches(number).map(|patch| entry(number, patch, false, now)).collect();
        put(0, &Report::States { snapshot: true, entries });
        put(0, &Report::Cycle(summary(number, now, 1)));
        let entries = changed(number).map(|patch| entry(number, patch, true, now)).collect();
        put(1, &Report::States { snapshot: false, entries });
        put(1, &Report::Cycle(summary(number, now, 2)));
        put(2, &Report::Inventory { at: now, facts: facts(number) });
    }
    files.iter_mut().for_each(|file| file.flush().expect("written"));
    figures
}

fn update(number: u32, now: Timestamp) -> Write {
    let place = number as usize;
    let (_, document) = updates::document(place, 0);
    let update: tierway_common::schema::Update = serde_json::from_slice(&document).expect("a document");
    Write::Update(Arc::new(tierway_central::store::tables::UpdateRecord {
        number,
        id: update.id,
        title: update.title,
        severity: Severity::Important,
        released: update.released,
        seen: now,
        document: Digest::of(&document),
        superseded_by: Vec::new(),
        payload_bytes: 0,
        gone: false,
        gone_since: None,
    }))
}

fn record(number: u32, key: &SigningKey, now: Timestamp) -> EndpointRecord {
    let id = endpoint_id(number).parse().expect("an id");
    let site = format!("site-{}", number % 200).parse().expect("a site");
    EndpointRecord {
        name: format!("host-{number:06}.example.org"),
        serial: format!("{number:040x}"),
        ..EndpointRecord::enrolled(number, id, site, key.public(), now)
    }
}

/// What an endpoint says of one update; times differ as those of real machines do.
fn entry(endpoint: u32, patch: u32, later: bool, now: Timestamp) -> StateEntry {
    let drawn = endpoint.wrapping_mul(2_654_435_761).wrapping_add(patch.wrapping_mul(40_503));
    let at = now - SignedDuration::from_secs(i64::from(if later { 60 } else { 3_600 + drawn % 5_000_000 }));
    let needed = drawn.is_multiple_of(12) != later;
    let applied = later && !needed;
    StateEntry {
        update: updates::id(patch as usize),
        state: if needed { UpdateState::Needed } else { UpdateState::Installed },
        at,
        detected: needed.then_some(at),
        applied: applied.then_some(at),
        progress: Default::default(),
        detail: None,
    }
}

fn summary(number: u32, now: Timestamp, version: u64) -> CycleSummary {
    CycleSummary {
        at: now,
        took_ms: 40,
        dictionary_version: version,
        agent_version: tierway_endpoint::agent::VERSION.to_owned(),
        host_name: format!("host-{number:06}.example.org"),
        counts: [(UpdateState::Needed, 25), (UpdateState::Installed, 275)].into(),
        reboot_pending: false,
        acknowledged: None,
        machine_class: "c1m3".to_owned(),
        uncovered: false,
        problems: Vec::new(),
    }
}

fn facts(number: u32) -> Facts {
    let mut facts = Facts::default();
    let mut complete = |name: &str, source: &str| {
        facts.domains.insert(name.to_owned(), Domain::Complete { source: source.to_owned() });
    };
    complete("os", "/etc/os-release");
    complete("package:deb", "/var/lib/dpkg/status");
    complete("flag", "/run/reboot-required");
    for (key, value) in [
        ("os:family", "debian"),
        ("os:version", "12"),
        ("os:codename", "bookworm"),
        ("os:architecture", "amd64"),
    ] {
        facts.values.insert(key.to_owned(), value.to_owned());
    }
    for place in 0..PACKAGES {
        // Of every ten packages of the archive a machine has one.
        let patch = place * 10 + (number as usize + place * 3) % 10;
        let id = updates::id(patch);
        let (name, version) = id.name().split_once('_').expect("a name and a version");
        facts.values.insert(format!("package:deb:{name}:amd64"), version.to_owned());
    }
    facts
}

/// Envelopes of a file, in submissions.
struct Submissions(BufReader<File>, Option<Bytes>);

impl Submissions {
    fn envelope(&mut self) -> Option<Bytes> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).ok()?;
        let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
        self.0.read_exact(&mut bytes).expect("a whole envelope");
        Some(bytes.into())
    }
}

impl Iterator for Submissions {
    type Item = Vec<Bytes>;

    fn next(&mut self) -> Option<Vec<Bytes>> {
        let mut envelopes = Vec::from_iter(self.1.take());
        let mut bytes: usize = envelopes.iter().map(Bytes::len).sum();
        while let Some(envelope) = self.envelope() {
            bytes += envelope.len();
            if bytes > SUBMISSION_BYTES || envelopes.len() == SUBMISSION_ENVELOPES {
                self.1 = Some(envelope);
                break;
            }
            envelopes.push(envelope);
        }
        (!envelopes.is_empty()).then_some(envelopes)
    }
}

/// Takes in all envelopes of the file `name`.
fn take(dir: &Path, name: &str) -> Figures {
    let seen = Seen(std::process::id());
    let (store, state) = opened(dir);
    let submissions = Submissions(BufReader::new(File::open(dir.join(name)).expect("a file")), None);
    let carrier: tierway_common::transport::identity::Holder =
        format!("spiffe://tierway/tenant/{}/site/lyon/relay/r1", site::tenant()).parse().expect("a relay");
    let mut figures = Figures::default();
    seen.forget_peak();
    let (cpu, wall, written) = (seen.cpu(), Instant::now(), written_bytes());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (inbox, intake) = inbox(Inventory::new(state.clone()));
        let intake = tokio::spawn(intake.run());
        let mut open = tokio::task::JoinSet::new();
        for envelopes in submissions {
            if open.len() == WAITING {
                open.join_next().await.expect("one of them").expect("it comes to its end");
            }
            figures.envelopes += envelopes.len() as u64;
            figures.envelope_bytes += envelopes.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
            let (inbox, carrier) = (inbox.clone(), carrier.clone());
            open.spawn(async move {
                let outcomes = inbox.submit(Submission { carrier, envelopes }).await.expect("taken in");
                for outcome in outcomes {
                    assert_eq!(outcome, Outcome::Accepted);
                }
            });
        }
        while let Some(done) = open.join_next().await {
            done.expect("it comes to its end");
        }
        drop(inbox);
        intake.await.expect("it comes to its end");
    });
    figures.cpu = seen.cpu() - cpu;
    figures.wall = wall.elapsed();
    figures.written_bytes = written_bytes() - written;
    figures.disk_bytes = store.disk_bytes();
    figures.resident_kib = seen.resident_kib();
    figures.peak_kib = seen.peak_resident_kib();
    figures
}

/// Central starts: recovers the store, and rebuilds its model.
fn open(dir: &Path, endpoints: u32) -> Figures {
    let seen = Seen(std::process::id());
    let (cpu, wall) = (seen.cpu(), Instant::now());
    let (store, state) = opened(dir);
    let (cpu, wall) = (seen.cpu() - cpu, wall.elapsed());
    let model = state.model();
    assert_eq!(model.active().len(), u64::from(endpoints));
    assert!(model.resync().is_empty(), "nothing was missed");
    let states = (0..PATCHES)
        .flat_map(|patch| {
            UpdateState::ALL.map(|state| model.index().how_many(patch, state, model.assessed()))
        })
        .sum();
    Figures {
        cpu,
        wall,
        states,
        disk_bytes: store.disk_bytes(),
        resident_kib: seen.resident_kib(),
        peak_kib: seen.peak_resident_kib(),
        ..Figures::default()
    }
}

/// Runs this program again for one part; what it printed.
fn again(part: &str, dir: &Path, rest: &str) -> Figures {
    let output = place::command(env::current_exe().expect("this program"))
        .args([part.as_ref(), dir.as_os_str(), rest.as_ref()])
        .stderr(Stdio::inherit())
        .output()
        .expect("it runs");
    assert!(output.status.success() || part == "take", "{part} failed");
    serde_json::from_slice(&output.stdout).expect("figures")
}

/// And of PostgreSQL, if `compared`.
fn measure(endpoints: u32, compared: bool) {
    let dir = tempfile::tempdir().expect("a folder");
    let began = Instant::now();
    let prepared = again("prepare", dir.path(), &endpoints.to_string());
    println!(
        "report ingest: {endpoints} endpoints × {STATES} states of {PATCHES} updates; made and signed {} reports of {} bytes in {:.1} s",
        prepared.envelopes,
        prepared.envelope_bytes,
        began.elapsed().as_secs_f64()
    );
    let mut taken = Table::new(
        "Taken in (CPU and memory of central's process)",
        &[
            "each endpoint sends",
            "µs CPU/endpoint",
            "wall s",
            "rows/s",
            "rows/CPU s",
            "bytes/report",
            "written MB",
            "peak MiB",
        ],
    );
    let mut started = Table::new(
        "Started again after `kill -9`",
        &["after", "disk MB", "disk bytes/row", "wall s", "CPU s", "resident MiB", "peak MiB"],
    );
    let rows = u64::from(endpoints) * u64::from(STATES);
    let mib = |kib: u64| format!("{:.1}", kib as f64 / 1024.0);
    let megabytes = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
    for (name, what) in STEPS {
        let figures = again("take", dir.path(), name);
        let count = match name {
            "states" => rows,
            "changes" => u64::from(endpoints) * u64::from(CHANGES),
            _ => u64::from(endpoints) * PACKAGES as u64,
        };
        taken.row([
            what.to_owned(),
            format!("{:.1}", micros(figures.cpu, u64::from(endpoints))),
            format!("{:.1}", figures.wall.as_secs_f64()),
            format!("{:.0}", count as f64 / figures.wall.as_secs_f64()),
            format!("{:.0}", count as f64 / figures.cpu.as_secs_f64()),
            (figures.envelope_bytes / figures.envelopes.max(1)).to_string(),
            megabytes(figures.written_bytes),
            mib(figures.peak_kib),
        ]);
        let figures = again("open", dir.path(), &endpoints.to_string());
        assert_eq!(figures.states, rows, "every state is there");
        started.row([
            what.to_owned(),
            megabytes(figures.disk_bytes),
            format!("{:.1}", figures.disk_bytes as f64 / rows as f64),
            format!("{:.2}", figures.wall.as_secs_f64()),
            format!("{:.2}", figures.cpu.as_secs_f64()),
            mib(figures.resident_kib),
            mib(figures.peak_kib),
        ]);
    }
    taken.print();
    started.print();
    if compared {
        postgres::measure(dir.path(), endpoints, Clock::system().now());
    }
}
