//! What people ask of a central that knows 20,000 endpoints × 300 states, as they wait for it: real central, real
//! `tierctl`, TLS between them.
//!
//! The store is written through central's own model and then opened by its program. Half of an endpoint's states are of
//! updates that all of them have, so that a list of one update's endpoints has them all; one of these is approved. Each
//! question is asked in turn with the others, on a connection that is open, after central has published what there is to
//! publish; the first round is dropped. `-- ENDPOINTS` takes another number of them.

#![expect(clippy::expect_used, reason = "a benchmark stops at the first thing that is wrong")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use ring::rand::SystemRandom;
use tierway_central::{
    compliance::record::{Entry, Progress, Record},
    layout::Layout,
    model::Write,
    state::State,
    store::tables::{EndpointRecord, RelayRecord, UpdateRecord},
};
use tierway_common::{
    clock::Clock,
    id::GroupId,
    schema::{Approval, Decision, Severity, State as UpdateState, Update},
    store::{Store, StoreError, sled_store::SledStore},
    trust::{digest::Digest, keys::SigningKey},
};
use tierway_proto::v1;
use tierway_tests::{
    bench::{
        place,
        process::Seen,
        table::{Table, median},
        updates,
    },
    programs,
    scale::tiers::{TENANT, Tiers},
};

const ENDPOINTS: u32 = 20_000;
/// Under `cargo test`, which has no `--bench`: more than come in one part.
const ENDPOINTS_SMALL: u32 = 1_200;
/// States of each endpoint: half of them of updates that are on all.
const STATES: u32 = 300;
const EVERYWHERE: u32 = STATES / 2;
/// Updates there are.
const PATCHES: u32 = 3_000;
/// Sites, each with a relay.
const SITES: u32 = 20;
/// The update that is on all endpoints, approved, and asked for.
const ASKED: u32 = 7;
/// Rounds of questions, and of lists as a file.
const ROUNDS: (usize, usize) = (200, 7);
const ROUNDS_SMALL: (usize, usize) = (3, 2);
/// Endpoints that are written at a time.
const WRITTEN_AT_ONCE: u32 = 1_000;
/// Central has published what it has to when its version stays the same for so long.
const QUIET: Duration = Duration::from_secs(3);

/// The aims: milliseconds of 95 in 100 questions, and rows of a list in a second.
const QUESTION_MS_MAX: f64 = 100.0;
const ROWS_PER_SECOND_MIN: f64 = 200_000.0;

fn main() {
    let (flags, others): (Vec<_>, Vec<_>) =
        env::args().skip(1).partition(|argument| argument.starts_with('-'));
    let full = flags.iter().any(|flag| flag == "--bench");
    let endpoints = match others.as_slice() {
        [] => {
            if full {
                ENDPOINTS
            } else {
                ENDPOINTS_SMALL
            }
        }
        [endpoints] => endpoints.parse().expect("a number of endpoints"),
        other => panic!("unexpected arguments {other:?}"),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(measure(endpoints, if full { ROUNDS } else { ROUNDS_SMALL }));
}

async fn measure(endpoints: u32, (questions, lists): (usize, usize)) {
    let dir = tempfile::tempdir().expect("a folder");
    let tierctl = programs::path("tierctl");
    let folder = tierctl.parent().expect("a folder");
    // Without a source that has it a catalogue would be withdrawn; this one cannot be read, and what is there stays.
    let source = format!(
        "[[source]]\nkind = \"sdp\"\nname = \"bench\"\ncatalogue = \"{}\"\nurl = \"{}\"\n",
        updates::CATALOGUE,
        dir.path().join("nothing.xml").display()
    );
    let mut tiers = Tiers::start(dir.path(), folder, &source).await.expect("central starts");
    tiers.central.stop().await.expect("central ends");
    let layout = Layout::new(&tiers.central_dir());
    let written = populate(&layout.store(), endpoints);
    let serves = tiers.central.start().await.expect("central starts");
    let (published, size) = published(&tiers).await;
    println!(
        "fleet questions: {endpoints} endpoints × {STATES} states of {PATCHES} updates; {:.0} bytes of store for an \
         endpoint, {:.1} for a state; central serves {:.2} s after its start, and has published {size} after {:.1} s",
        written as f64 / f64::from(endpoints),
        written as f64 / f64::from(endpoints * STATES),
        serves.as_secs_f64(),
        published.as_secs_f64(),
    );
    ask(&tiers, endpoints, questions).await;
    let contexts = dir.path().join("contexts.toml");
    let operator = layout.operator();
    let context = format!(
        "current = \"bench\"\n[[context]]\nname = \"bench\"\nserver = \"{}\"\nidentity = \"{}\"\nroots = \"{}\"\n",
        tiers.address,
        operator.join("identity.pem").display(),
        operator.join("roots.pem").display()
    );
    fs::write(&contexts, context).expect("a file");
    list(&tiers, &tierctl, &contexts, endpoints, lists);
    let mut again = Vec::new();
    for _ in 0..3 {
        tiers.central.kill();
        again.push(tiers.central.start().await.expect("central starts").as_secs_f64());
    }
    println!(
        "\nstarted again after `kill -9`: serves after {:.2} s, the median of {}",
        median(&again),
        again.len()
    );
    tiers.stop().await.expect("central ends");
}

/// Writes a fleet; the bytes of the store then.
fn populate(store: &Path, endpoints: u32) -> u64 {
    let store: Arc<dyn Store> = Arc::new(SledStore::open(store).expect("a store"));
    let tenant = TENANT.parse().expect("a tenant");
    let state = State::open(tenant, store.clone(), Clock::system()).expect("a model");
    let (key, now) = (SigningKey::generate(&SystemRandom::new()).expect("a key").public(), state.now());
    let change = |writes: &mut dyn Iterator<Item = Write>| {
        let changed = state.change(|_, change| {
            writes.for_each(|write| change.write(write));
            Ok::<_, StoreError>(())
        });
        changed.expect("written");
    };
    change(&mut (0..PATCHES).map(|number| update(number, now)));
    change(&mut (0..SITES).map(|number| Write::Relay(Arc::new(relay(number, now)))));
    change(&mut std::iter::once(Write::Approval(Approval {
        group: "everyone".parse::<GroupId>().expect("a group"),
        update: updates::id(ASKED as usize),
        decision: Decision::Approve,
        at: now,
        renewed: None,
        by: "operator:bench".to_owned(),
        rings: None,
    })));
    for from in (0..endpoints).step_by(WRITTEN_AT_ONCE as usize) {
        let some = from..(from + WRITTEN_AT_ONCE).min(endpoints);
        change(&mut some.flat_map(|number| {
            let record = endpoint(number, key, now);
            let states =
                Write::States { endpoint: number, old: Arc::default(), new: Arc::new(states(number, now)) };
            [Write::Endpoint(Arc::new(record)), states]
        }));
    }
    store.disk_bytes()
}

fn update(number: u32, now: Timestamp) -> Write {
    let (_, document) = updates::document(number as usize, 0);
    let update: Update = serde_json::from_slice(&document).expect("a document");
    Write::Update(Arc::new(UpdateRecord {
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

fn relay(number: u32, now: Timestamp) -> RelayRecord {
    RelayRecord {
        id: format!("00000000-0000-4000-9000-{number:012x}").parse().expect("an id"),
        name: format!("relay-{number:02}"),
        site: format!("site-{number:02}").parse().expect("a site"),
        enrolled_at: now,
        serial: format!("9{number:039x}"),
        certificate_expires: now,
        key: SigningKey::generate(&SystemRandom::new()).expect("a key").public(),
        revoked: false,
        agent_version: "0.1.0".to_owned(),
        last_seen: Some(now),
        timestamp_version: 1,
        versions: vec![(1, now)],
        health: Default::default(),
    }
}

fn endpoint(number: u32, key: tierway_common::trust::keys::PublicKey, now: Timestamp) -> EndpointRecord {
    let id = format!("00000000-0000-4000-8000-{number:012x}").parse().expect("an id");
    let site = format!("site-{:02}", number % SITES).parse().expect("a site");
    EndpointRecord {
        name: name(number),
        serial: format!("{number:040x}"),
        certificate_expires: now + SignedDuration::from_hours(2_000),
        last_report: Some(now),
        agent_version: "0.1.0".to_owned(),
        states_sequence: 2,
        assessed: true,
        dictionary_version: 1,
        machine_class: "c2m3".to_owned(),
        ..EndpointRecord::enrolled(number, id, site, key, now)
    }
}

/// Not in the order of the numbers, as with real names.
fn name(number: u32) -> String {
    format!("host-{:06}.example.org", number.wrapping_mul(7_919) % 1_000_000)
}

/// Times differ as those of real machines do; one state in twelve is a needed update, half of those on offer.
fn states(endpoint: u32, now: Timestamp) -> Record {
    let now = u32::try_from(now.as_second()).expect("seconds");
    let others = PATCHES / EVERYWHERE - 1;
    let rare =
        (0..STATES - EVERYWHERE).map(|place| EVERYWHERE + place * others + (place * 7 + endpoint) % others);
    let mut record = Record::default();
    for update in (0..EVERYWHERE).chain(rare) {
        let drawn = endpoint.wrapping_mul(2_654_435_761).wrapping_add(update.wrapping_mul(40_503));
        let (since, needed) = (now - 3_600 - drawn % 5_000_000, drawn.is_multiple_of(12));
        let offered = (needed && drawn.is_multiple_of(24)).then_some(since + 60);
        let entry = Entry {
            update,
            state: if needed { UpdateState::Needed } else { UpdateState::Installed },
            estimated: false,
            since,
            detected: Some(since - 600),
            authorized: None,
            applied: (!needed).then_some(since),
            detail: None,
            progress: Progress { offered, verified: (!needed).then_some(since + 5), ..Progress::default() },
        };
        record.set(entry).expect("few enough");
    }
    record
}

/// Waits until central has published what there is; after how long, and which version that is.
async fn published(tiers: &Tiers) -> (Duration, u64) {
    let (began, mut last, mut since) = (Instant::now(), 0, Instant::now());
    loop {
        tiers.central_answers().await.expect("central answers");
        let answer = tiers.admin().get_status(v1::GetStatusRequest::default()).await.expect("a status");
        let version = answer.into_inner().dictionary_version;
        if version != last {
            (last, since) = (version, Instant::now());
        } else if since.elapsed() > QUIET {
            return (since.duration_since(began), version);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn ask(tiers: &Tiers, endpoints: u32, rounds: usize) {
    const QUESTIONS: [&str; 6] = [
        "status",
        "endpoint show",
        "patch endpoints, first 1,000",
        "patch endpoints --state failed, none",
        "endpoint list, first 1,000",
        "patch list, first 1,000",
    ];
    let (mut admin, mut times) = (tiers.admin(), QUESTIONS.map(|_| Vec::new()));
    let patch = updates::id(ASKED as usize).to_string();
    let before = tiers.mark();
    for round in 0..=rounds {
        let mut took = |question: usize, began: Instant| {
            if round > 0 {
                times[question].push(began.elapsed().as_secs_f64() * 1_000.0);
            }
        };
        let began = Instant::now();
        let status = admin.get_status(v1::GetStatusRequest::default()).await.expect("a status").into_inner();
        took(0, began);
        assert_eq!(status.needed + status.installed, u64::from(endpoints * STATES));
        let began = Instant::now();
        let number = u32::try_from(round * 97).expect("a number") % endpoints;
        let request = v1::GetEndpointRequest { name_or_id: name(number) };
        let shown = admin.get_endpoint(request).await.expect("an endpoint").into_inner();
        took(1, began);
        assert_eq!(shown.patches.len(), STATES as usize);
        for (question, state) in [(2, None), (3, Some("failed".to_owned()))] {
            let request = v1::ListPatchEndpointsRequest {
                patch: patch.clone(),
                state: state.clone(),
                ..Default::default()
            };
            let began = Instant::now();
            let part = admin.list_patch_endpoints(request).await.expect("endpoints").into_inner();
            took(question, began);
            let expected = if state.is_none() { 1_000.min(endpoints as usize) } else { 0 };
            assert_eq!(part.endpoints.len(), expected);
        }
        let began = Instant::now();
        admin.list_endpoints(v1::ListEndpointsRequest::default()).await.expect("endpoints");
        took(4, began);
        let began = Instant::now();
        admin.list_patches(v1::ListPatchesRequest::default()).await.expect("patches");
        took(5, began);
    }
    let central = tiers.used_since(&before)["central"];
    let mut table =
        Table::new(&format!("Milliseconds, {rounds} rounds"), &["question", "p50", "p95", "p99", "p95 aim"]);
    for (question, mut times) in QUESTIONS.into_iter().zip(times) {
        times.sort_by(f64::total_cmp);
        let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
        let held = if at(95) < QUESTION_MS_MAX { "held" } else { "missed" };
        let [p50, p95, p99] = [50, 95, 99].map(|share| format!("{:.1}", at(share)));
        table.row([question.to_owned(), p50, p95, p99, held.to_owned()]);
    }
    table.print();
    println!(
        "  central meanwhile: {:.1} s of CPU, {:.0} MiB resident",
        central.cpu_seconds, central.resident_mib
    );
}

/// Whole lists as files, by the program that people have.
fn list(tiers: &Tiers, tierctl: &Path, contexts: &Path, endpoints: u32, rounds: usize) {
    let patch = updates::id(ASKED as usize).to_string();
    let mut table = Table::new(
        &format!("Whole lists of {endpoints} rows, medians of {rounds} rounds"),
        &[
            "list",
            "wall ms",
            "rows/s",
            "CPU of central, µs/row",
            "CPU of tierctl",
            "peak MiB of tierctl",
            "aim",
        ],
    );
    for (what, words) in [
        ("patch endpoints -o csv", vec!["patch", "endpoints", &patch, "-o", "csv"]),
        ("patch endpoints -o json", vec!["patch", "endpoints", &patch, "-o", "json"]),
        ("patch endpoints", vec!["patch", "endpoints", &patch]),
        ("endpoint list -o csv", vec!["endpoint", "list", "-o", "csv"]),
    ] {
        let out: PathBuf = contexts.with_file_name("list");
        let (mut wall, mut central, mut own, mut peak) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for _ in 0..rounds {
            let before = tiers.mark();
            let began = Instant::now();
            let mut child = place::command(tierctl)
                .arg("--config")
                .arg(contexts)
                .args(&words)
                .stdout(fs::File::create(&out).expect("a file"))
                .stdin(Stdio::null())
                .spawn()
                .expect("it starts");
            // Until it is waited for, what it used can be read.
            let seen = Seen(child.id());
            while let Some(now) = seen.peak_resident_kib_while_it_runs() {
                peak = peak.max(now);
                std::thread::sleep(Duration::from_millis(2));
            }
            let took = began.elapsed().as_secs_f64();
            let cpu = seen.cpu();
            assert!(child.wait().expect("it ends").success());
            wall.push(took);
            own.push(cpu.as_secs_f64());
            central.push(tiers.used_since(&before)["central"].cpu_seconds);
            let lines = fs::read(&out).expect("a file").iter().filter(|byte| **byte == b'\n').count();
            assert!(lines >= endpoints as usize, "{lines} lines of {endpoints}");
        }
        let each = |cpu: &[f64]| format!("{:.1}", median(cpu) * 1e6 / f64::from(endpoints));
        let rate = f64::from(endpoints) / median(&wall);
        let held = if rate >= ROWS_PER_SECOND_MIN { "held" } else { "missed" };
        table.row([
            what.to_owned(),
            format!("{:.0}", median(&wall) * 1_000.0),
            format!("{rate:.0}"),
            each(&central),
            each(&own),
            format!("{:.1}", peak as f64 / 1_024.0),
            held.to_owned(),
        ]);
    }
    table.print();
}
