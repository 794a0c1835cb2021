use serde_json::json;
use tierway_common::schema::{Approval as Decided, Group, Members};

use super::*;
use crate::{compliance::record::Progress, model::Write};

/// A site with the relay `near`, and one update that an endpoint there needs.
struct Bench {
    model: Model,
    publications: Publications,
    endpoint: EndpointRecord,
    update: UpdateRecord,
    entry: Entry,
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

const NOW: i64 = 10_000;

fn bench() -> Bench {
    let mut model = Model::default();
    let key = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";
    let endpoint: EndpointRecord = serde_json::from_value(json!({
        "number": 0, "id": "e1", "name": "web-1", "site": "lyon", "groups": [], "enrolled_at": at(0),
        "serial": "5e", "certificate_expires": at(99_999), "keys": [key], "revoked": false,
        "last_report": at(900), "dictionary_version": 3,
    }))
    .unwrap();
    let relay: RelayRecord = serde_json::from_value(json!({
        "id": "r1", "name": "near", "site": "lyon", "enrolled_at": at(0), "serial": "5f",
        "certificate_expires": at(99_999), "key": key, "revoked": false,
    }))
    .unwrap();
    let update: UpdateRecord = serde_json::from_value(json!({
        "number": 0, "id": "debian-12/a_1", "title": "a", "severity": "critical", "released": at(1),
        "seen": at(1), "document": "00".repeat(32), "payload_bytes": 5,
    }))
    .unwrap();
    model.apply(Write::Endpoint(endpoint.clone().into()));
    model.apply(Write::Relay(relay.into()));
    model.apply(Write::Update(update.clone().into()));
    let all = Group { id: "all".parse().unwrap(), priority: 0, members: Members::Everyone, level: None };
    model.apply(Write::Group(all));
    let entry = Entry {
        update: 0,
        state: UpdateState::Needed,
        estimated: false,
        since: 800,
        detected: Some(800),
        authorized: None,
        applied: None,
        detail: None,
        progress: Progress::default(),
    };
    let mut publications = Publications::default();
    publications.note(3, at(500));
    Bench { model, publications, endpoint, update, entry }
}

impl Bench {
    fn decide(&mut self, decision: Decision, second: i64) {
        let decided: Decided = serde_json::from_value(json!({
            "group": "all", "update": "debian-12/a_1", "decision": decision, "at": at(second),
            "by": "operator:ana",
        }))
        .unwrap();
        self.model.apply(Write::Approval(decided));
    }

    fn relay_has(&mut self, version: u64, second: i64) {
        let mut relay = RelayRecord::clone(self.model.relays().values().next().unwrap());
        relay.has_version(version, at(second));
        relay.last_seen = Some(at(second));
        self.model.apply(Write::Relay(relay.into()));
    }

    fn stands(&self) -> Standing {
        let known = Known::new(&self.model, &self.publications, at(NOW));
        let stands = standing(&known, &self.endpoint, &self.update, &self.entry);
        for step in &stands.steps {
            assert_eq!(step.at.is_none(), !step.reason.is_empty(), "a time or a reason: {step:?}");
        }
        let names: Vec<_> = stands.steps.iter().map(|step| step.name).collect();
        let all =
            ["detected", "approved", "published", "at relay", "offered", "downloaded", "applied", "verified"];
        assert_eq!(names, all);
        stands
    }

    fn told(&self) -> (&'static str, u32, String) {
        let stands = self.stands();
        (stands.name, stands.since, stands.source.text())
    }
}

#[test]
fn approved_published_at_the_relay_offered_downloaded_installed_and_verified_are_told_apart() {
    let mut bench = bench();
    assert_eq!(bench.told(), ("waiting for approval", 800, "central".to_owned()));
    bench.decide(Decision::Approve, 1_000);
    assert_eq!(bench.told(), ("approved", 1_000, "central".to_owned()));
    assert_eq!(bench.stands().detail, "it goes out with the next publication");
    bench.publications.note(7, at(1_001));
    assert_eq!(bench.told(), ("published", 1_001, "central".to_owned()));
    assert_eq!(bench.stands().detail, "relay near has never checked in");
    // The relay is held back: it comes, and has an older version.
    bench.relay_has(6, 1_500);
    assert_eq!(bench.told().0, "published");
    assert_eq!(bench.stands().detail, "relay near had version 6 of 7 at 1970-01-01T00:25:00Z");
    bench.relay_has(8, 2_000);
    assert_eq!(bench.told(), ("at relay", 2_000, "relay near".to_owned()));
    assert!(bench.stands().detail.contains("version 3 of 7 when it reported"), "{:?}", bench.stands().detail);
    // Later check-ins do not make it younger.
    bench.relay_has(9, 2_900);
    assert_eq!(bench.told(), ("at relay", 2_000, "relay near".to_owned()));
    bench.endpoint.dictionary_version = 9;
    bench.entry.progress.offered = Some(3_000);
    assert_eq!(bench.told(), ("offered", 3_000, "endpoint".to_owned()));
    bench.entry.progress.downloaded = Some(3_100);
    assert_eq!(bench.told(), ("downloaded", 3_100, "endpoint".to_owned()));
    bench.entry.progress.waiting = Some(Waiting::Window);
    bench.entry.progress.until = Some(50_000);
    bench.entry.since = 3_101;
    assert_eq!(bench.told(), ("waiting for a window", 3_101, "endpoint".to_owned()));
    assert_eq!(bench.stands().until, Some(50_000));
    bench.entry.progress.waiting = Some(Waiting::Installing);
    assert_eq!(bench.told().0, "installing");
    bench.entry.progress = bench.entry.progress.settled();
    (bench.entry.state, bench.entry.since, bench.entry.applied) =
        (UpdateState::RebootPending, 50_300, Some(50_300));
    assert_eq!(bench.told(), ("reboot pending", 50_300, "endpoint".to_owned()));
    bench.entry.state = UpdateState::Installed;
    assert_eq!(bench.told(), ("installed", 50_300, "endpoint".to_owned()));
    bench.entry.progress.verified = Some(50_900);
    assert_eq!(bench.told(), ("verified", 50_900, "endpoint".to_owned()));
    assert!(bench.stands().steps.iter().all(|step| step.at.is_some()), "{:#?}", bench.stands().steps);
}

#[test]
fn failed_and_quarantined_are_told_apart_and_say_until_when() {
    let mut bench = bench();
    bench.decide(Decision::Approve, 1_000);
    bench.entry.state = UpdateState::Failed;
    bench.entry.detail = Some("exit status 100".into());
    bench.entry.progress.waiting = Some(Waiting::BackOff);
    bench.entry.progress.until = Some(9_000);
    let stands = bench.stands();
    assert_eq!(
        (stands.name, stands.until, stands.detail.as_str()),
        ("failed", Some(9_000), "exit status 100")
    );
    bench.entry.progress.waiting = Some(Waiting::Quarantine);
    assert_eq!(bench.told().0, "quarantined");
}

#[test]
fn what_an_endpoint_said_before_it_could_know_of_a_decision_is_not_repeated() {
    let mut bench = bench();
    bench.entry.progress.waiting = Some(Waiting::Approval);
    assert_eq!(bench.told().0, "waiting for approval");
    bench.decide(Decision::Approve, 1_000);
    assert_eq!(bench.told().0, "approved");
    bench.publications.note(7, at(1_001));
    bench.relay_has(7, 1_100);
    assert_eq!(bench.told().0, "at relay");
    // It knows, and still does not have it approved: it belongs to another group by its own rules.
    bench.endpoint.dictionary_version = 7;
    assert_eq!(bench.told().0, "waiting for approval");
    // What it waits for is not about decisions: that counts whatever it knows.
    bench.endpoint.dictionary_version = 3;
    bench.entry.progress.waiting = Some(Waiting::Hold);
    assert_eq!(bench.told().0, "held");
}

#[test]
fn a_site_without_a_relay_reads_central_itself_and_says_so() {
    let mut bench = bench();
    bench.endpoint.site = "attic".parse().unwrap();
    bench.decide(Decision::Approve, 1_000);
    bench.publications.note(7, at(1_001));
    let stands = bench.stands();
    assert_eq!(stands.name, "published");
    assert!(stands.detail.contains("version 3 of 7"), "{}", stands.detail);
    let relay = stands.steps.iter().find(|step| step.name == "at relay").unwrap();
    assert_eq!(relay.reason, "site `attic` has no relay: the endpoint asks central itself");
}

#[test]
fn what_is_declined_names_the_group_and_who_declined_it() {
    let mut bench = bench();
    bench.decide(Decision::Decline, 1_000);
    let stands = bench.stands();
    assert_eq!(
        (stands.name, stands.detail.as_str()),
        ("declined", "declined for group `all` by operator:ana")
    );
}

#[test]
fn nothing_is_unknown_without_its_reason() {
    let mut bench = bench();
    bench.entry.state = UpdateState::Unknown;
    assert_eq!((bench.told().0, bench.stands().detail.as_str()), ("unknown", "the endpoint gave no reason"));
    bench.entry.detail = Some("the fact `os` was not collected".into());
    assert_eq!(bench.stands().detail, "the fact `os` was not collected");
    bench.entry.estimated = true;
    assert_eq!(bench.told().2, "estimate");
}

#[test]
fn what_was_there_already_needed_no_step() {
    let mut bench = bench();
    (bench.entry.state, bench.entry.detected) = (UpdateState::Installed, None);
    let stands = bench.stands();
    assert_eq!(
        (stands.name, stands.detail.as_str()),
        ("installed", "was there when it was first looked for")
    );
}
