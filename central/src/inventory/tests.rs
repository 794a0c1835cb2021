use std::sync::atomic::Ordering;

use jiff::SignedDuration;
use ring::rand::SystemRandom;
use tierway_common::{
    clock::Clock,
    facts::Domain,
    id::UpdateId,
    rules::expr::{Expr, OsTest},
    schema::{Approval, Group, Members, Severity},
    store::{Store, memory::MemoryStore, sled_store::SledStore},
    trust::keys::SigningKey,
};

use super::*;
use crate::store::{tables::UpdateRecord, testing::dying};

/// A central with two updates and one endpoint that signs with `key`.
struct Bench {
    clock: Clock,
    state: Arc<State>,
    inventory: Inventory,
    key: SigningKey,
}

const ENDPOINT: &str = "e1";

fn update(number: u32, name: &str, now: Timestamp) -> Write {
    let id: UpdateId = format!("debian-12/{name}").parse().unwrap();
    Write::Update(Arc::new(UpdateRecord {
        number,
        document: Digest::of(name.as_bytes()),
        id,
        title: name.to_owned(),
        severity: Severity::Important,
        released: now,
        seen: now,
        superseded_by: vec![],
        payload_bytes: 0,
        gone: false,
        gone_since: None,
    }))
}

fn record(key: &SigningKey, now: Timestamp) -> EndpointRecord {
    EndpointRecord {
        name: "web-1".to_owned(),
        serial: "5e".to_owned(),
        ..EndpointRecord::enrolled(0, ENDPOINT.parse().unwrap(), "lyon".parse().unwrap(), key.public(), now)
    }
}

fn bench_on(store: Arc<dyn Store>) -> Bench {
    let clock = Clock::manual("2026-11-20T10:00:00Z".parse().unwrap());
    let state = Arc::new(State::open("default".parse().unwrap(), store, clock.clone()).unwrap());
    let key = SigningKey::generate(&SystemRandom::new()).unwrap();
    if state.model().active().is_empty() {
        state
            .change(|_, change| {
                change.write(update(0, "a_1", change.now));
                change.write(update(1, "b_1", change.now));
                change.write(Write::Endpoint(Arc::new(record(&key, change.now))));
                Ok::<_, StoreError>(())
            })
            .unwrap();
    }
    Bench { clock, inventory: Inventory::new(state.clone()), state, key }
}

fn bench() -> Bench {
    bench_on(Arc::new(MemoryStore::new()))
}

fn relay() -> Holder {
    "spiffe://tierway/tenant/default/site/lyon/relay/r1".parse().unwrap()
}

impl Bench {
    fn seal(&self, sequence: u64, replaces_earlier: bool, report: &Report) -> Bytes {
        let header = Header {
            tenant: "default".parse().unwrap(),
            endpoint: ENDPOINT.parse().unwrap(),
            stream: Stream::of(report),
            sequence,
            replaces_earlier,
            created: self.clock.now(),
        };
        Envelope::seal(&self.key, header, report).unwrap().bytes().clone()
    }

    fn submit(&self, envelopes: Vec<Bytes>) -> Vec<Outcome> {
        self.inventory.accept(&[Submission { carrier: relay(), envelopes }]).unwrap().remove(0)
    }

    fn report(&self, sequence: u64, report: &Report) -> Outcome {
        self.submit(vec![self.seal(sequence, false, report)]).remove(0)
    }

    fn record(&self) -> EndpointRecord {
        EndpointRecord::clone(self.state.model().endpoint(0).unwrap())
    }

    fn states(&self) -> Vec<(u32, UpdateState)> {
        let record = self.state.states(0).unwrap();
        record.entries().iter().map(|entry| (entry.update, entry.state)).collect()
    }

    fn entry(&self, name: &str, state: UpdateState) -> StateEntry {
        StateEntry {
            update: format!("debian-12/{name}").parse().unwrap(),
            state,
            at: self.clock.now(),
            detected: None,
            applied: None,
            detail: None,
            progress: Default::default(),
        }
    }

    fn transitions(&self, entries: &[(&str, UpdateState)]) -> Report {
        let entries = entries.iter().map(|(name, state)| self.entry(name, *state)).collect();
        Report::States { snapshot: false, entries }
    }

    fn snapshot(&self, entries: &[(&str, UpdateState)]) -> Report {
        let entries = entries.iter().map(|(name, state)| self.entry(name, *state)).collect();
        Report::States { snapshot: true, entries }
    }

    fn cycle(&self, dictionary_version: u64) -> Report {
        Report::Cycle(CycleSummary {
            at: self.clock.now(),
            took_ms: 5,
            dictionary_version,
            agent_version: "0.1.0".to_owned(),
            host_name: "web-1.example\x07".to_owned(),
            counts: BTreeMap::new(),
            reboot_pending: true,
            machine_class: String::new(),
            uncovered: false,
            acknowledged: None,
            problems: vec!["x".repeat(1000); 100],
        })
    }

    /// Central concludes for dictionary 8 that an update is needed; `overruled`: in place of what was reported.
    fn estimated(&self, update: u32, overruled: bool) {
        let old = Arc::new(self.state.states(0).unwrap());
        let mut new = Record::clone(&old);
        new.set(Entry { update, state: Needed, estimated: true, ..old.entries()[0].clone() }).unwrap();
        let record = EndpointRecord { estimated_for: 8, overruled, ..self.record() };
        self.state
            .change(|_, change| {
                change.write(Write::Endpoint(Arc::new(record)));
                change.write(Write::States { endpoint: 0, old, new: Arc::new(new) });
                Ok::<_, StoreError>(())
            })
            .unwrap();
    }

    fn how_many(&self, update: u32, state: UpdateState) -> u64 {
        let model = self.state.model();
        model.index().how_many(update, state, model.active())
    }
}

fn facts(values: &[(&str, &str)]) -> Facts {
    Facts {
        domains: [("os".to_owned(), Domain::Complete { source: "/etc/os-release".to_owned() })].into(),
        values: values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
    }
}

use UpdateState::{Installed, Needed, NotApplicable};

#[test]
fn what_an_endpoint_reports_is_on_disk_and_counted_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    {
        let bench = bench_on(Arc::new(SledStore::open(dir.path()).unwrap()));
        let inventory = Report::Inventory { at: bench.clock.now(), facts: facts(&[("os:family", "debian")]) };
        let envelopes = vec![
            bench.seal(1, true, &inventory),
            bench.seal(1, true, &bench.snapshot(&[("a_1", Needed), ("b_1", Installed)])),
            bench.seal(2, false, &bench.cycle(3)),
        ];
        assert_eq!(bench.submit(envelopes), vec![Outcome::Accepted; 3]);
    }
    let bench = bench_on(Arc::new(SledStore::open(dir.path()).unwrap()));
    assert_eq!(bench.states(), [(0, Needed), (1, Installed)]);
    assert_eq!((bench.how_many(0, Needed), bench.how_many(1, Installed)), (1, 1));
    let record = bench.record();
    assert_eq!((record.states_sequence, record.inventory_sequence, record.assessed), (2, 1, true));
    assert_eq!((record.name.as_str(), record.problems.len()), ("web-1.example", PROBLEMS_MAX));
    assert_eq!(bench.state.facts(0).unwrap().unwrap(), facts(&[("os:family", "debian")]));
}

#[test]
fn a_report_that_comes_twice_is_accepted_and_changes_nothing_the_second_time() {
    let bench = bench();
    let first = bench.seal(1, false, &bench.transitions(&[("a_1", Needed)]));
    let second = bench.seal(2, false, &bench.transitions(&[("a_1", Installed)]));
    assert_eq!(bench.submit(vec![first.clone(), second.clone()]), vec![Outcome::Accepted; 2]);
    let before = bench.record();
    bench.clock.advance(SignedDuration::from_hours(1));
    assert_eq!(bench.submit(vec![first, second]), vec![Outcome::Accepted; 2]);
    assert_eq!(bench.record(), before);
    assert_eq!(bench.states(), [(0, Installed)]);
}

#[test]
fn a_gap_makes_central_ask_for_all_states_and_a_snapshot_fills_it() {
    let bench = bench();
    bench.report(1, &bench.transitions(&[("a_1", Needed)]));
    assert_eq!(bench.report(3, &bench.transitions(&[("b_1", Needed)])), Outcome::Accepted);
    assert!(bench.record().resync_states && bench.state.model().resync().contains(0));
    bench.report(2, &bench.transitions(&[("a_1", Installed)]));
    assert_eq!(bench.states(), [(0, Needed), (1, Needed)], "an older one changes nothing any more");
    bench.report(7, &bench.snapshot(&[("a_1", Installed)]));
    assert_eq!(bench.states(), [(0, Installed)]);
    assert!(!bench.record().resync_states && bench.state.model().resync().is_empty());
}

#[test]
fn reports_that_a_relay_left_out_because_a_later_one_replaces_them_are_no_gap() {
    let bench = bench();
    bench.submit(vec![bench.seal(9, true, &bench.snapshot(&[("a_1", Needed)]))]);
    assert!(!bench.record().resync_states);
}

#[test]
fn a_change_of_facts_is_applied_to_the_facts_it_is_about_and_else_all_are_asked_for() {
    let bench = bench();
    let (one, two, three) = (
        facts(&[("os:family", "debian"), ("package:deb:a:amd64", "1")]),
        facts(&[("os:family", "debian"), ("package:deb:a:amd64", "2")]),
        facts(&[("os:family", "debian")]),
    );
    let at = bench.clock.now();
    let delta = |from: &Facts, to: &Facts| Report::InventoryDelta {
        at,
        base: from.digest(),
        digest: to.digest(),
        delta: from.delta(to),
    };
    bench.report(1, &delta(&one, &two));
    assert!(bench.record().resync_inventory, "nothing is held yet");
    bench.report(2, &Report::Inventory { at, facts: one.clone() });
    assert!(!bench.record().resync_inventory);
    let both = vec![bench.seal(3, false, &delta(&one, &two)), bench.seal(4, false, &delta(&two, &three))];
    bench.submit(both);
    assert_eq!(bench.state.facts(0).unwrap().unwrap(), three);
    assert_eq!(bench.record().facts.unwrap().packages, 0);
    bench.report(5, &delta(&one, &two));
    assert!(bench.record().resync_inventory, "of facts that are held no more");
    assert_eq!(bench.state.facts(0).unwrap().unwrap(), three);
    let lying =
        Report::InventoryDelta { at, base: three.digest(), digest: one.digest(), delta: three.delta(&two) };
    bench.report(6, &lying);
    assert_eq!(bench.state.facts(0).unwrap().unwrap(), three);
}

#[test]
fn facts_decide_which_groups_by_rule_an_endpoint_is_in() {
    let bench = bench();
    let rule = Expr::Os(OsTest { family: Some("debian".to_owned()), ..OsTest::default() });
    let group =
        Group { id: "debians".parse().unwrap(), priority: 1, members: Members::Rule(rule), level: None };
    bench
        .state
        .change(|_, change| {
            change.write(Write::Group(group.clone()));
            Ok::<_, StoreError>(())
        })
        .unwrap();
    for (sequence, family, members) in [(1, "debian", 1), (2, "windows", 0), (3, "debian", 1)] {
        let facts = facts(&[("os:family", family)]);
        bench.report(sequence, &Report::Inventory { at: bench.clock.now(), facts });
        assert_eq!(bench.state.model().members()[&group.id].len(), members, "{family}");
    }
}

#[test]
fn a_report_that_is_not_the_endpoints_own_is_refused_with_its_reason() {
    let bench = bench();
    let good = bench.seal(1, false, &bench.transitions(&[("a_1", Needed)]));
    let stranger = SigningKey::generate(&SystemRandom::new()).unwrap();
    let seal = |key: &SigningKey, tenant: &str, endpoint: &str| {
        let header = Header {
            tenant: tenant.parse().unwrap(),
            endpoint: endpoint.parse().unwrap(),
            stream: Stream::States,
            sequence: 1,
            replaces_earlier: false,
            created: bench.clock.now(),
        };
        Envelope::seal(key, header, &bench.cycle(1)).unwrap().bytes().clone()
    };
    let mut altered = good.to_vec();
    let last = altered.len() - 80;
    altered[last] ^= 1;
    let cases = [
        (Bytes::from_static(b"nonsense"), "malformed"),
        (altered.into(), "not signed by `e1`"),
        (seal(&stranger, "default", ENDPOINT), "not signed by `e1`"),
        (seal(&bench.key, "other", ENDPOINT), "tenant `other` is not served here"),
        (seal(&bench.key, "default", "e2"), "`e2` is not enrolled"),
    ];
    for (envelope, expected) in cases {
        let outcome = bench.submit(vec![envelope, good.clone()]);
        assert!(matches!(&outcome[0], Outcome::Refused(reason) if reason.contains(expected)), "{outcome:?}");
        assert_eq!(outcome[1], Outcome::Accepted, "the rest of the batch goes on");
    }
    let carrier = "spiffe://tierway/tenant/default/site/lyon/endpoint/e9".parse().unwrap();
    let outcome = bench.inventory.accept(&[Submission { carrier, envelopes: vec![good] }]).unwrap();
    assert_eq!(outcome[0][0], Outcome::Refused("`e9` may not report for `e1`".to_owned()));
}

#[test]
fn a_revoked_endpoint_is_not_believed() {
    let bench = bench();
    let envelope = bench.seal(1, false, &bench.transitions(&[("a_1", Needed)]));
    let revoked = EndpointRecord { revoked: true, ..bench.record() };
    bench
        .state
        .change(|_, change| {
            change.write(Write::Endpoint(Arc::new(revoked)));
            Ok::<_, StoreError>(())
        })
        .unwrap();
    assert_eq!(bench.submit(vec![envelope]), [Outcome::Refused("`e1` is revoked".to_owned())]);
    assert!(bench.states().is_empty());
}

#[test]
fn the_time_of_approval_is_settled_when_the_update_is_applied() {
    let bench = bench();
    let approved_at = bench.clock.now();
    let group = Group { id: "all".parse().unwrap(), priority: 0, members: Members::Everyone, level: None };
    let approval = Approval {
        group: group.id.clone(),
        update: "debian-12/a_1".parse().unwrap(),
        decision: Decision::Approve,
        at: approved_at,
        renewed: None,
        by: "operator:admin".to_owned(),
        rings: None,
    };
    bench
        .state
        .change(|_, change| {
            change.write(Write::Group(group));
            change.write(Write::Approval(approval.clone()));
            Ok::<_, StoreError>(())
        })
        .unwrap();
    bench.clock.advance(SignedDuration::from_hours(1));
    let detected = bench.clock.now();
    bench.report(1, &bench.transitions(&[("a_1", Needed)]));
    bench.clock.advance(SignedDuration::from_hours(1));
    let mut installed = bench.entry("a_1", Installed);
    installed.applied = Some(bench.clock.now());
    bench.report(2, &Report::States { snapshot: false, entries: vec![installed] });
    bench
        .state
        .change(|_, change| {
            change.write(Write::NoApproval(approval.group.clone(), approval.update.clone()));
            Ok::<_, StoreError>(())
        })
        .unwrap();
    bench.report(3, &bench.transitions(&[("a_1", Installed)]));
    let states = bench.state.states(0).unwrap();
    let entry = states.get(0).unwrap();
    let seconds = |at: Timestamp| Some(u32::try_from(at.as_second()).unwrap());
    assert_eq!(entry.detected, seconds(detected));
    assert_eq!(entry.authorized, seconds(approved_at));
    assert_eq!(entry.applied, seconds(bench.clock.now()));

    // Somebody brings the old version back: that is not applied, and nobody approves of it any more.
    bench.report(4, &bench.transitions(&[("a_1", Needed)]));
    let states = bench.state.states(0).unwrap();
    let entry = states.get(0).unwrap();
    assert_eq!((entry.applied, entry.authorized), (None, None));
}

#[test]
fn an_estimate_lasts_until_the_endpoint_has_evaluated_the_same_dictionary() {
    let bench = bench();
    bench.report(1, &bench.snapshot(&[("a_1", Installed)]));
    bench.estimated(1, false);
    bench.report(2, &bench.cycle(7));
    bench.report(3, &bench.snapshot(&[("a_1", Installed)]));
    assert_eq!(bench.states(), [(0, Installed), (1, Needed)]);
    bench.report(4, &bench.cycle(8));
    assert_eq!(bench.states(), [(0, Installed)], "it does not need it after all");
    assert_eq!((bench.how_many(1, Needed), bench.record().estimated_for), (0, 0));
    assert!(!bench.record().resync_states, "nothing it reported was lost");
}

#[test]
fn an_endpoint_sends_all_again_when_it_has_evaluated_what_central_had_concluded_otherwise_than_it_reported() {
    let bench = bench();
    bench.report(1, &bench.snapshot(&[("a_1", Installed)]));
    bench.estimated(0, true);
    bench.report(2, &bench.cycle(7));
    assert!(!bench.record().resync_states);
    // It finds what it found before, and has nothing to say of it.
    bench.report(3, &bench.cycle(8));
    assert!(bench.record().resync_states && bench.state.model().resync().contains(0));
    bench.report(4, &bench.snapshot(&[("a_1", Installed)]));
    assert_eq!(bench.states(), [(0, Installed)]);
    assert!(!bench.record().resync_states && !bench.record().overruled);
}

#[test]
fn times_in_the_future_count_as_now_and_updates_nobody_published_are_left_out() {
    let bench = bench();
    let mut early = bench.entry("a_1", Needed);
    early.at = bench.clock.now() + SignedDuration::from_hours(24 * 365);
    let unknown = bench.entry("unpublished_1", Needed);
    bench.report(1, &Report::States { snapshot: false, entries: vec![early, unknown] });
    let states = bench.state.states(0).unwrap();
    assert_eq!(states.entries().len(), 1);
    assert_eq!(i64::from(states.entries()[0].since), bench.clock.now().as_second());
    bench.report(2, &bench.transitions(&[("a_1", NotApplicable)]));
    assert!(bench.states().is_empty());
}

#[test]
fn facts_that_were_acknowledged_on_the_way_and_did_not_arrive_are_asked_for() {
    let bench = bench();
    let (old, new) = (facts(&[("a", "1")]), facts(&[("a", "2")]));
    let at = bench.clock.now();
    let inventory = |facts: &Facts| Report::Inventory { at, facts: facts.clone() };
    let cycle = |facts: &Facts| match bench.cycle(1) {
        Report::Cycle(summary) => {
            Report::Cycle(CycleSummary { acknowledged: Some(facts.digest()), ..summary })
        }
        other => other,
    };
    bench.report(1, &inventory(&old));
    bench.report(1, &cycle(&old));
    assert!(!bench.record().resync_inventory);
    // Cycles travel before the inventories of their batch.
    bench.submit(vec![bench.seal(2, false, &cycle(&new)), bench.seal(2, true, &inventory(&new))]);
    assert!(!bench.record().resync_inventory);
    // And those of a fleet before those of a batch after it: nobody is asked before they could be here.
    bench.report(3, &cycle(&old));
    bench.clock.advance(ON_THEIR_WAY - SignedDuration::from_secs(1));
    bench.report(4, &cycle(&old));
    assert!(!bench.record().resync_inventory);
    bench.submit(vec![bench.seal(3, true, &inventory(&old))]);
    bench.report(5, &cycle(&new));
    bench.clock.advance(ON_THEIR_WAY - SignedDuration::from_secs(1));
    bench.report(6, &cycle(&new));
    assert!(!bench.record().resync_inventory);
    bench.clock.advance(SignedDuration::from_secs(1));
    bench.report(7, &cycle(&new));
    assert!(bench.record().resync_inventory);
    bench.submit(vec![bench.seal(4, true, &inventory(&new))]);
    assert!(!bench.record().resync_inventory);
    bench.report(8, &cycle(&new));
    assert_eq!(bench.record().facts_missing_since, None);
}

#[test]
fn reports_share_a_commit_until_they_would_take_much_memory_however_well_they_are_compressed() {
    let large = Report::Inventory { at: bench().clock.now(), facts: facts(&[("a", &"1".repeat(900_000))]) };
    let small = bench().cycle(1);
    // How many reports of which size, and in how many commits they are taken in.
    for (many, report, commits) in [(100, &small, 1), (17, &large, 1), (20, &large, 2)] {
        let store = dying(u64::MAX);
        let bench = bench_on(store.clone());
        let envelopes = (1..=many).map(|sequence| bench.seal(sequence, false, report)).collect();
        let before = store.commits.load(Ordering::SeqCst);
        let outcomes = bench.submit(envelopes);
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Accepted), "{outcomes:?}");
        assert_eq!(store.commits.load(Ordering::SeqCst) - before, commits, "{many}");
        let record = bench.record();
        assert_eq!(record.states_sequence.max(record.inventory_sequence), many);
    }
}

#[test]
fn how_long_installations_take_is_published_when_enough_are_known_and_told_once_counts_once() {
    let bench = bench();
    let pending = || {
        let row =
            crate::store::tables::PendingPolicy { tenant: bench.state.tenant(), key: "timing/debian-12/a_1" };
        tierway_common::store::table::get(bench.state.store(), &row).unwrap().flatten()
    };
    let cycle = match bench.cycle(1) {
        Report::Cycle(summary) => Report::Cycle(CycleSummary { machine_class: "c2m3".to_owned(), ..summary }),
        other => other,
    };
    bench.report(1, &cycle);
    let installed = |seconds| {
        let mut entry = bench.entry("a_1", Installed);
        entry.applied = Some(bench.clock.now());
        entry.progress.took_seconds = Some(seconds);
        entry
    };
    for round in 0..5 {
        assert_eq!(pending(), None, "{round} are not enough");
        bench.clock.advance(SignedDuration::from_hours(24));
        bench.report(2 + 2 * round, &bench.transitions(&[("a_1", Needed)]));
        let entries = vec![installed(40)];
        bench.report(3 + 2 * round, &Report::States { snapshot: false, entries });
    }
    let measured = r#"{"samples":5,"p95_seconds":43}"#;
    assert_eq!(pending(), Some(format!(r#"{{"classes":{{"":{measured},"c2m3":{measured}}}}}"#)));
    let samples = || bench.state.model().timing(0).unwrap().measured().classes[""].samples;
    let entries = vec![installed(40)];
    bench.report(12, &Report::States { snapshot: true, entries });
    assert_eq!(samples(), 5, "the same installation, told again");
    // A failure says nothing about how long an installation takes.
    let mut failed = bench.entry("a_1", UpdateState::Failed);
    failed.progress.took_seconds = Some(9_000);
    bench.report(13, &Report::States { snapshot: false, entries: vec![failed] });
    assert_eq!(samples(), 5);
    // Nor what was not lacking here, nor the same again on one day.
    let said = |sequence, entry| {
        bench.clock.advance(SignedDuration::from_mins(1));
        bench.report(sequence, &Report::States { snapshot: false, entries: vec![entry] });
        samples()
    };
    assert_eq!(said(14, installed(9_000)), 5, "counted today already");
    bench.clock.advance(SignedDuration::from_hours(24));
    assert_eq!(said(15, installed(9_000)), 5, "it was there");
    assert_eq!(said(16, bench.entry("a_1", Needed)), 5);
    assert_eq!(said(17, installed(41)), 6);
    assert_eq!(said(18, bench.entry("a_1", Needed)), 6);
    assert_eq!(said(19, installed(9_000)), 6, "once a day");
    let reopened =
        State::open("default".parse().unwrap(), Arc::new(copy(bench.state.store())), bench.clock.clone());
    assert_eq!(reopened.unwrap().model().timings(), bench.state.model().timings());
}

/// The same rows in another store, as after a restart.
fn copy(store: &dyn Store) -> MemoryStore {
    let copy = MemoryStore::new();
    let mut batch = tierway_common::store::Batch::new();
    for row in store.scan(b"", None, usize::MAX).unwrap() {
        batch.put(row.key, row.value);
    }
    copy.commit(&batch).unwrap();
    copy
}

#[test]
fn the_ledger_of_times_tells_every_span_from_detected_to_verified() {
    use crate::fleet::times::{By, KEYS_MAX, time_to_patch};
    let bench = bench();
    let start = bench.clock.now();
    let after = |minutes| start + SignedDuration::from_mins(minutes);
    bench.report(1, &bench.transitions(&[("a_1", Needed), ("b_1", Needed)]));
    bench.clock.advance(SignedDuration::from_mins(60));
    let group = Group { id: "all".parse().unwrap(), priority: 0, members: Members::Everyone, level: None };
    let approval = Approval {
        group: group.id.clone(),
        update: "debian-12/a_1".parse().unwrap(),
        decision: Decision::Approve,
        at: bench.clock.now(),
        renewed: None,
        by: "operator:admin".to_owned(),
        rings: None,
    };
    bench
        .state
        .change(|_, change| {
            change.write(Write::Group(group));
            change.write(Write::Approval(approval));
            Ok::<_, StoreError>(())
        })
        .unwrap();
    bench.clock.advance(SignedDuration::from_hours(10));
    let mut entry = bench.entry("a_1", Installed);
    entry.at = after(185);
    entry.applied = Some(after(180));
    entry.progress.offered = Some(after(90));
    entry.progress.downloaded = Some(after(92));
    entry.progress.verified = Some(after(185));
    bench.report(2, &Report::States { snapshot: false, entries: vec![entry] });
    for (by, key) in [(By::All, "all"), (By::Severity, "important"), (By::Group, "all"), (By::Site, "lyon")] {
        let report = time_to_patch(&bench.state, by, None).unwrap();
        let lines: Vec<_> =
            report.lines.iter().map(|line| (line.key.as_str(), line.span.as_str(), line.p50 / 60)).collect();
        let spans = [
            ("detected to authorized", 60),
            ("authorized to offered", 30),
            ("offered to downloaded", 2),
            ("downloaded to applied", 88),
            ("applied to verified", 5),
            ("detected to applied", 180),
        ];
        // A bucket ends at most a 64th above.
        for ((found_key, found, minutes), (span, expected)) in lines.iter().zip(spans) {
            assert_eq!((*found_key, *found), (key, span));
            assert!((expected..=expected + expected / 64 + 1).contains(minutes), "{span} {minutes}");
        }
        assert_eq!(lines.len(), 6);
        let [curve] = &report.curves[..] else { panic!("{report:?}") };
        assert_eq!((curve.patched, curve.open, curve.points.len()), (1, 1, 1));
    }
    let later = time_to_patch(&bench.state, By::All, Some(after(1))).unwrap();
    assert_eq!(later, Default::default(), "nothing was found needed since");

    // One report has so many groups, and says how many more there are.
    bench
        .state
        .change(|_, change| {
            for number in 0..KEYS_MAX {
                let id = format!("g-{number}").parse().unwrap();
                change.write(Write::Group(Group {
                    id,
                    priority: 1,
                    members: Members::Everyone,
                    level: None,
                }));
            }
            Ok::<_, StoreError>(())
        })
        .unwrap();
    let report = time_to_patch(&bench.state, By::Group, None).unwrap();
    assert_eq!((report.curves.len(), report.left_out), (KEYS_MAX, 1));
}

#[test]
fn an_endpoint_for_which_nothing_is_published_is_not_assessed_until_something_is() {
    let bench = bench();
    let Report::Cycle(covered) = bench.cycle(3) else { unreachable!() };
    let uncovered = CycleSummary { uncovered: true, ..covered.clone() };
    bench.submit(vec![
        bench.seal(1, true, &bench.snapshot(&[])),
        bench.seal(2, false, &Report::Cycle(uncovered)),
    ]);
    assert!(!bench.record().assessed);
    bench.submit(vec![bench.seal(3, false, &Report::Cycle(covered))]);
    assert!(bench.record().assessed);
}
