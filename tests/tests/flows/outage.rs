//! The tiers below go on while the one above is gone, and it hears everything once when it is back.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tierway_central::store::tables::EndpointRecord;
use tierway_common::{
    clock::Clock,
    id::EndpointId,
    schema::{Report, State},
    trust::envelope::{Envelope, Stream},
};
use tierway_proto::v1;
use tierway_relay::outbox::Carrier;
use tierway_tests::{
    archive::Package,
    fleet::{Fleet, until},
    roots::{made_up, status},
};
use tokio::time::timeout;

/// Packages of the computer; of each there is an update to 2.0.
const PACKAGES: [&str; 3] = ["apple", "plum", "quince"];
/// How often somebody changes the computer and it is checked.
const EVERY: SignedDuration = SignedDuration::from_hours(4);
/// A week of that.
const CHECKS: usize = 42;
/// Checks before the timestamp metadata ends, a day after it was signed.
const CHECKS_FRESH: usize = 5;
fn patch(package: &str) -> String {
    format!("debian-12/{package}_2.0")
}

/// Waits for the end of a tier that others watch; they must not hold it up.
async fn at_once(stopping: impl Future<Output = ()>) {
    assert!(timeout(Duration::from_secs(10), stopping).await.is_ok(), "it did not stop at once");
}

/// A fleet that knows an update of each package.
async fn fleet_with_updates(clock: Clock) -> Fleet {
    let mut fleet = Fleet::start_at(clock).await;
    for package in PACKAGES {
        fleet.archive.update(&Package::new(package, "2.0"));
    }
    fleet.archive.publish();
    fleet.sync().await;
    fleet
}

/// What central keeps of an endpoint.
fn record(fleet: &Fleet, id: &str) -> EndpointRecord {
    let id: EndpointId = id.parse().unwrap();
    let model = fleet.central.as_ref().unwrap().running.central.state.model();
    EndpointRecord::clone(model.endpoint_by_id(&id).unwrap())
}

async fn patches(fleet: &Fleet, id: &str) -> Vec<v1::EndpointPatch> {
    let request = v1::GetEndpointRequest { name_or_id: id.to_owned() };
    fleet.admin().await.get_endpoint(request).await.unwrap().into_inner().patches
}

async fn audit_records(fleet: &Fleet) -> u64 {
    let answer = fleet.admin().await.verify_audit(v1::VerifyAuditRequest {}).await.unwrap().into_inner();
    assert_eq!(answer.broken_at, None);
    answer.records
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_week_without_central_every_transition_arrives_once_and_in_order() {
    let clock = Clock::manual(Clock::system().now());
    let mut fleet = fleet_with_updates(clock.clone()).await;
    let mut relay = fleet.relay("osaka").await;
    relay.caught_up(&fleet).await;
    let root = fleet.folder("root");
    let mut versions = BTreeMap::from(PACKAGES.map(|package| (package, "1.0")));
    made_up(&root, &Vec::from_iter(versions.clone()));
    let mut endpoint = fleet.enroll("web1", "osaka", relay.address, &root).await;
    endpoint.start().await;
    assert_eq!(endpoint.check().await.problems, Vec::<String>::new());
    relay.forwarded().await;
    for package in PACKAGES {
        fleet.until_state(&endpoint.id, &patch(package), "needed").await;
    }
    let before = record(&fleet, &endpoint.id);
    at_once(fleet.stop_central()).await;

    let mut done: Vec<(String, State, Timestamp)> = Vec::new();
    for check in 0..CHECKS {
        clock.advance(EVERY);
        if check == CHECKS / 2 {
            at_once(relay.stop()).await;
            relay.start().await;
        }
        let package = PACKAGES[check % PACKAGES.len()];
        let (version, state) =
            if versions[package] == "1.0" { ("2.0", State::Installed) } else { ("1.0", State::Needed) };
        versions.insert(package, version);
        // In one piece, as dpkg does: the agent may be looking.
        let file = root.join("var/lib/dpkg/status");
        std::fs::write(file.with_extension("new"), status(&Vec::from_iter(versions.clone()))).unwrap();
        std::fs::rename(file.with_extension("new"), file).unwrap();
        done.push((patch(package), state, clock.now()));

        let found = endpoint.check().await;
        let lacking = versions.values().filter(|version| **version == "1.0").count() as u64;
        assert_eq!(found.needed, lacking, "check {check}");
        let frozen = found.problems.iter().any(|problem| problem.contains("freeze suspected"));
        assert_eq!((frozen, found.problems.len()), (check >= CHECKS_FRESH, usize::from(frozen)), "{found:?}");
        assert_eq!(endpoint.status().reports_waiting, 0, "the relay took everything at check {check}");
    }
    endpoint.stop().await;

    // What waits is every transition, once, in the order in which they happened, numbered without a gap.
    let waiting = relay.running().outbox.next(usize::MAX).unwrap();
    let envelopes: Vec<Envelope> =
        waiting.iter().map(|waiting| Envelope::parse(&waiting.envelope).unwrap()).collect();
    let (mut transitions, mut sequence) = (Vec::new(), before.states_sequence);
    for envelope in envelopes.iter().filter(|envelope| envelope.header().stream == Stream::States) {
        sequence += 1;
        assert_eq!(envelope.header().sequence, sequence);
        if let Report::States { snapshot, entries } = envelope.verify(&before.keys[0]).unwrap() {
            assert!(!snapshot);
            transitions.extend(entries.into_iter().map(|it| (it.update.to_string(), it.state, it.at)));
        }
    }
    assert_eq!(transitions, done);

    clock.advance(SignedDuration::from_hours(1));
    fleet.start_central().await;
    relay.forwarded().await;
    let after = record(&fleet, &endpoint.id);
    assert_eq!(
        (after.states_sequence, after.resync_states, after.resync_inventory),
        (sequence, false, false)
    );
    assert_eq!(after.inventory_sequence, before.inventory_sequence + CHECKS as u64);
    let rows = patches(&fleet, &endpoint.id).await;
    for (package, version) in &versions {
        let row = rows.iter().find(|row| row.patch == patch(package)).unwrap();
        let of_it = |state: State| {
            let at = done.iter().rev().find(|(id, was, _)| *id == row.patch && *was == state).unwrap().2;
            // To the second.
            at.as_second() * 1_000
        };
        let times = row.times.unwrap();
        let (state, applied) =
            if *version == "2.0" { ("installed", of_it(State::Installed)) } else { ("needed", 0) };
        assert_eq!(
            (row.state.as_str(), times.detected, times.applied),
            (state, of_it(State::Needed), applied),
            "{package}"
        );
        let request = v1::WhyRequest { endpoint: endpoint.id.clone(), patch: row.patch.clone() };
        let why = fleet.admin().await.why(request).await.unwrap().into_inner();
        assert_eq!(why.verdict, state, "by the facts that came last");
    }

    // The relay, whose acknowledgements were lost, sends it all again.
    let audit = audit_records(&fleet).await;
    relay.running().outbox.take(&envelopes, Carrier::Endpoint, clock.now()).unwrap();
    assert_eq!(relay.running().outbox.fill().reports, envelopes.len() as u64);
    relay.forwarded().await;
    assert_eq!(record(&fleet, &endpoint.id), after);
    assert_eq!(patches(&fleet, &endpoint.id).await, rows);
    assert_eq!(audit_records(&fleet).await, audit);

    // And everything is as fresh as before.
    endpoint.start().await;
    until("a check finds nothing to complain about", async || {
        let _ = relay.running().board.wake("sync");
        endpoint.check().await.problems.is_empty()
    })
    .await;
    relay.forwarded().await;
    let last = record(&fleet, &endpoint.id);
    assert!(last.states_sequence > sequence && !last.resync_states && !last.resync_inventory);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_starts_while_central_is_gone_serves_what_it_verified_last() {
    let mut fleet = fleet_with_updates(Clock::system()).await;
    let mut relay = fleet.relay("osaka").await;
    relay.caught_up(&fleet).await;
    let root = fleet.folder("root");
    made_up(&root, &PACKAGES.map(|package| (package, "1.0")));
    let mut endpoint = fleet.enroll("web1", "osaka", relay.address, &root).await;
    fleet.stop_central().await;
    relay.stop().await;
    relay.start().await;

    // It never checked before: everything it knows comes from this relay.
    endpoint.start().await;
    let found = endpoint.check().await;
    assert_eq!((found.needed, found.problems), (PACKAGES.len() as u64, Vec::<String>::new()));
    let waiting = relay.running().outbox.fill().reports;
    assert!(waiting > 0);

    fleet.start_central().await;
    relay.forwarded().await;
    for package in PACKAGES {
        fleet.until_state(&endpoint.id, &patch(package), "needed").await;
    }
}
