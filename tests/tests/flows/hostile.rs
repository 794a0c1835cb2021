//! A relay that somebody has taken over can withhold; it cannot make anyone believe anything.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::SignedDuration;
use tierway_common::{
    blobs::{BlobOptions, Blobs},
    clock::Clock,
    daemon::chain::Chain,
    facts::Facts,
    transport::{
        dial::{self, Route},
        tls::{Identity, IdentityFiles},
    },
    trust::digest::Digest,
};
use tierway_endpoint::local::Ask;
use tierway_proto::{joining, upstream::Upstream, v1};
use tierway_tests::{
    archive::Package,
    fleet::{Endpoint, Fleet, until},
    heard,
    hostile::{Attack, Bend, Hostile, Meddle},
    roots::{installed_version, made_up, real, status},
    skip::pristine_root,
};
use tokio::{sync::oneshot, task::JoinSet};

const PATCH: &str = "debian-12/hello_2.0";
const DEB: &str = "/security/pool/hello_2.0_amd64.deb";

/// A central that has read an archive with `hello` 2.0, a clock that is moved by hand.
async fn fleet_with_hello() -> (Fleet, Clock) {
    heard::listen();
    let clock = Clock::manual(Clock::system().now());
    let mut fleet = Fleet::start_at(clock.clone()).await;
    fleet.archive.update(&Package::new("hello", "2.0"));
    fleet.archive.publish();
    fleet.sync().await;
    (fleet, clock)
}

/// What the vendor says the payload of `hello` 2.0 is.
fn payload(fleet: &Fleet) -> (Digest, u64) {
    let deb = fleet.archive.server().file(DEB);
    (Digest::of(&deb), deb.len() as u64)
}

/// An endpoint that needs `hello` and has the hostile relay above it.
async fn victim(fleet: &Fleet, hostile: &Hostile, name: &str) -> Endpoint {
    let root = fleet.folder(&format!("root-{name}"));
    made_up(&root, &[("hello", "1.0")]);
    fleet.enroll(name, "osaka", hostile.address, &root).await
}

/// Something is decided and published that changes the policy's tree.
async fn change_policy(fleet: &Fleet, number: usize) {
    let group = v1::Group { name: format!("group-{number}"), everyone: true, ..v1::Group::default() };
    fleet.admin().await.set_group(v1::SetGroupRequest { group: Some(group) }).await.unwrap();
    fleet.published().await;
}

fn upstream_of(endpoint: &Endpoint, server: std::net::SocketAddr) -> (Upstream, Identity) {
    let files = IdentityFiles::in_dir(&endpoint.config.data_dir.join("identity"));
    let identity = Identity::load(&files).unwrap();
    (Upstream::new(dial::channel(Route::direct(&server.to_string()), &identity)), identity)
}

fn blobs_in(dir: &Path) -> Blobs {
    Blobs::open(dir, BlobOptions { quota_bytes: 1 << 30, free_floor_bytes: 0 }).unwrap()
}

/// The file of a blob, whether it is there or not.
fn blob_path(dir: &Path, digest: &Digest) -> PathBuf {
    let hex = digest.to_string();
    dir.join(&hex[..2]).join(hex)
}

fn told(problems: &[String], text: &str) -> bool {
    problems.iter().any(|problem| problem.contains(text))
}

/// Every check finds `hello` needed without a problem, and one of them what central publishes now: its tasks may
/// still be publishing what was decided.
async fn all_is_well(fleet: &Fleet, endpoint: &Endpoint, when: &str) {
    let central = fleet.central.as_ref().unwrap().running.central.clone();
    until(when, async || {
        let done = endpoint.check().await;
        assert_eq!((done.needed, done.problems), (1, Vec::new()), "{when}");
        endpoint.status().dictionary_version == central.publisher.timestamp().0
    })
    .await;
}

/// What is changed at central while the attack goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Changes {
    /// The policy, of which endpoints look up single documents.
    Policy,
    /// The catalogue, which they bring over whole.
    Catalogue,
}

#[tokio::test(flavor = "multi_thread")]
async fn bent_metadata_and_tree_nodes_are_refused_by_name_and_the_last_good_state_stays() {
    let (mut fleet, clock) = fleet_with_hello().await;
    let hostile = Hostile::start(&fleet, "osaka", fleet.address).await;
    hostile.payloads(&[payload(&fleet).0]);
    fleet.approve(&[PATCH]).await;
    let mut endpoint = victim(&fleet, &hostile, "web1").await;
    endpoint.config.audit_only = true;
    endpoint.start().await;

    let metadata = |role, bend, told| (Attack::Metadata(role, bend), Changes::Policy, told);
    let nodes = |bend, told| (Attack::Nodes(bend), Changes::Policy, told);
    let catalogue = |bend, told| (Attack::Nodes(bend), Changes::Catalogue, told);
    let cases = [
        metadata("timestamp", Bend::Alter, "`timestamp.json` is refused"),
        metadata("timestamp", Bend::Truncate, "`timestamp.json` is refused"),
        metadata("timestamp", Bend::Swap, "rollback: `timestamp.json` goes back"),
        metadata("timestamp", Bend::Flood, "endless data: `timestamp.json`"),
        metadata("timestamp", Bend::Oversize, "too large"),
        metadata("snapshot", Bend::Alter, "snapshot.json` is not the file"),
        metadata("snapshot", Bend::Truncate, "snapshot.json` is not the file"),
        metadata("snapshot", Bend::Swap, "mix-and-match"),
        metadata("snapshot", Bend::Freeze, "mix-and-match"),
        metadata("snapshot", Bend::Withhold, "the repository has no"),
        metadata("snapshot", Bend::Flood, "it is longer than"),
        metadata("snapshot", Bend::Oversize, "too large"),
        metadata("targets", Bend::Alter, "targets.json` is not the file"),
        metadata("targets", Bend::Swap, "mix-and-match"),
        metadata("targets", Bend::Withhold, "the repository has no"),
        nodes(Bend::Alter, "its digest is"),
        nodes(Bend::Truncate, "its digest is"),
        nodes(Bend::Lengthen, "its digest is"),
        nodes(Bend::Swap, "its digest is"),
        nodes(Bend::CutOff, "ended a batch of blobs early"),
        nodes(Bend::Withhold, "does not have the blob"),
        nodes(Bend::Flood, "it is longer than"),
        nodes(Bend::Oversize, "too large"),
        nodes(Bend::Reorder, "in another order"),
        catalogue(Bend::Alter, "could not bring over the catalogue `debian-12`"),
        catalogue(Bend::Swap, "its digest is"),
        catalogue(Bend::Withhold, "does not have the blob"),
    ];
    for (number, (attack, changes, named)) in cases.into_iter().enumerate() {
        let case = format!("{attack:?} while {changes:?} changes");
        clock.advance(SignedDuration::from_secs(2));
        all_is_well(&fleet, &endpoint, &format!("before {case}")).await;
        let version = endpoint.status().dictionary_version;

        match changes {
            Changes::Policy => change_policy(&fleet, number).await,
            Changes::Catalogue => {
                fleet.archive.update(&Package::new(&format!("other{number}"), "1.0"));
                fleet.archive.publish();
                fleet.sync().await;
            }
        }
        hostile.attack(attack.clone());
        for _ in 0..2 {
            let during = endpoint.check().await;
            assert!(told(&during.problems, named), "{case}: {:?}", during.problems);
            assert_eq!((during.needed, during.installed), (1, 0), "{case}");
            let now = endpoint.status();
            let policy_only = matches!(attack, Attack::Nodes(_)) && changes == Changes::Policy;
            assert!(now.dictionary_version == version || policy_only, "{case}");
            assert!(now.patches.len() == 1 && now.patches[0].approved, "{case}: {:?}", now.patches);
        }
        assert!(hostile.applied() > 0, "{case}");
        assert!(heard::warned(&[&endpoint.id, named]), "{case} is not in the log");
        assert_eq!(fleet.state(&endpoint.id, PATCH).await.unwrap().state, "needed", "{case}");

        hostile.attack(Attack::None);
        all_is_well(&fleet, &endpoint, &format!("after {case}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_that_comes_along_with_a_check_in_is_not_asked_for() {
    let (fleet, clock) = fleet_with_hello().await;
    // Counts what is asked of central, and bends nothing.
    let between = Hostile::start(&fleet, "osaka", fleet.address).await;
    between.payloads(&[payload(&fleet).0]);
    fleet.approve(&[PATCH]).await;
    let mut endpoint = victim(&fleet, &between, "web1").await;
    endpoint.config.audit_only = true;
    endpoint.start().await;
    all_is_well(&fleet, &endpoint, "at first").await;
    let (asked, version) = (between.metadata_asked(), endpoint.status().dictionary_version);
    for number in 0..3 {
        clock.advance(SignedDuration::from_secs(2));
        change_policy(&fleet, number).await;
        all_is_well(&fleet, &endpoint, "after a change").await;
    }
    assert!(endpoint.status().dictionary_version >= version + 3);
    assert_eq!(between.metadata_asked(), asked);
}

/// How often the endpoint has tried to install something.
async fn attempts(endpoint: &Endpoint) -> usize {
    let (reply, done) = oneshot::channel();
    endpoint.node.as_ref().unwrap().running.asks.send(Ask::History(1_000, reply)).await.unwrap();
    done.await.unwrap().events.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_withholds_news_stops_installations_when_the_last_it_gave_expires() {
    let (fleet, clock) = fleet_with_hello().await;
    let hostile = Hostile::start(&fleet, "osaka", fleet.address).await;
    let mut endpoint = victim(&fleet, &hostile, "web1").await;
    endpoint.start().await;
    endpoint.check().await;
    for bend in [Bend::Freeze, Bend::Withhold] {
        let version = endpoint.status().dictionary_version;
        hostile.attack(Attack::Metadata("timestamp", bend));
        fleet.approve(&[PATCH]).await;
        assert_eq!(endpoint.check().await.problems, Vec::<String>::new(), "{bend:?}");
        assert_eq!(endpoint.status().dictionary_version, version, "{bend:?}");
        let before = attempts(&endpoint).await;

        clock.advance(SignedDuration::from_hours(25));
        for _ in 0..2 {
            let done = endpoint.check().await;
            assert!(told(&done.problems, "(freeze suspected)"), "{bend:?}: {:?}", done.problems);
        }
        assert!(heard::warned(&[&endpoint.id, "freeze suspected"]), "{bend:?}");
        assert_eq!(attempts(&endpoint).await, before, "{bend:?}: nothing was begun");

        hostile.attack(Attack::None);
        let central = fleet.central.as_ref().unwrap().running.central.clone();
        tokio::task::spawn_blocking(move || central.publisher.refresh()).await.unwrap().unwrap();
        let done = endpoint.check().await;
        assert!(!told(&done.problems, "freeze"), "{bend:?}: {:?}", done.problems);
        assert!(attempts(&endpoint).await > before, "{bend:?}: the approved update is tried again");
    }
}

/// Attacks on payloads, and what is said of them.
const ON_PAYLOADS: [(Bend, &str); 9] = [
    (Bend::Alter, "its digest is"),
    (Bend::Truncate, "bytes or more instead of"),
    (Bend::CutOff, "it ended a blob early"),
    (Bend::Lengthen, "bytes or more instead of"),
    (Bend::Swap, "instead of"),
    (Bend::Withhold, "does not have the blob"),
    (Bend::Flood, "bytes or more instead of"),
    (Bend::Oversize, "too large"),
    (Bend::Reorder, "in another order"),
];

#[tokio::test(flavor = "multi_thread")]
async fn bent_payloads_are_kept_by_neither_endpoint_nor_relay() {
    let (fleet, _) = fleet_with_hello().await;
    let hostile = Hostile::start(&fleet, "osaka", fleet.address).await;
    let (digest, bytes) = payload(&fleet);
    hostile.payloads(&[digest]);
    let endpoint = victim(&fleet, &hostile, "web1").await;
    let (direct, _) = upstream_of(&endpoint, hostile.address);
    // And an honest relay that has the hostile one above it.
    let mut relay = fleet.relay("kyoto").await;
    relay.stop().await;
    relay.config.upstream = Some(Route::direct(&hostile.address.to_string()));
    relay.start().await;
    let (below, _) = upstream_of(&endpoint, relay.address);

    for (number, (bend, named)) in ON_PAYLOADS.into_iter().enumerate() {
        hostile.attack(Attack::Payloads(bend));
        let blobs = blobs_in(&fleet.folder(&format!("blobs-{number}")));
        for _ in 0..2 {
            let error = direct.payload(digest, Some(bytes), &blobs).await.unwrap_err();
            let error = Chain(&error).to_string();
            assert!(error.contains(named), "{bend:?}: {error}");
            assert!(!blobs.contains(&digest), "{bend:?}");
        }
        // The relay does not know the length, so it needs the digest alone; what it does not have it does not
        // serve. A flood would fill its quota first, which takes too long here.
        if bend != Bend::Flood {
            let error = below.payload(digest, Some(bytes), &blobs).await.unwrap_err();
            assert!(Chain(&error).to_string().contains("does not have the blob"), "{bend:?}: {error:?}");
            assert!(!relay.running().payloads.blobs().contains(&digest), "{bend:?}");
            assert!(heard::warned(&["could not fetch a payload", &digest.to_string()]), "{bend:?}");
        }
        hostile.attack(Attack::None);
        direct.payload(digest, Some(bytes), &blobs).await.unwrap();
        assert_eq!(Digest::of(&blobs.get(&digest, bytes).unwrap()), digest, "after {bend:?}");
    }
    let blobs = blobs_in(&fleet.folder("blobs"));
    below.payload(digest, Some(bytes), &blobs).await.unwrap();
    assert!(relay.running().payloads.blobs().contains(&digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_relay_makes_a_real_system_install_nothing_but_what_was_approved() {
    let Some(pristine) = pristine_root("attacks on a real Debian root") else { return };
    let (fleet, clock) = fleet_with_hello().await;
    let hostile = Hostile::start(&fleet, "osaka", fleet.address).await;
    let (digest, _) = payload(&fleet);
    hostile.payloads(&[digest]);
    let root = fleet.folder("root");
    real(&pristine, &root, &[Package::new("hello", "1.0")]);
    let mut endpoint = fleet.enroll("web1", "osaka", hostile.address, &root).await;
    endpoint.config.payload_patience = std::time::Duration::ZERO;
    endpoint.start().await;
    assert_eq!(endpoint.check().await.needed, 1);
    fleet.approve(&[PATCH]).await;
    let kept = blob_path(&endpoint.config.data_dir.join("payloads"), &digest);

    for (bend, named) in ON_PAYLOADS {
        hostile.attack(Attack::Payloads(bend));
        for _ in 0..2 {
            // A payload that could not be had is tried again after minutes.
            clock.advance(SignedDuration::from_mins(6));
            let done = endpoint.check().await;
            assert_eq!((done.needed, done.installed), (1, 0), "{bend:?}: {:?}", done.problems);
            let detail = endpoint.status().patches[0].detail.clone();
            assert!(detail.contains(named), "{bend:?}: {detail}");
            assert!(!kept.exists(), "{bend:?}");
        }
        assert!(hostile.applied() > 1, "{bend:?}");
        assert!(heard::warned(&["could not fetch an update", named]), "{bend:?} is not in the log");
        assert_eq!(installed_version(&root, "hello").as_deref(), Some("1.0"), "{bend:?}");
    }
    let row = fleet.state(&endpoint.id, PATCH).await.unwrap();
    assert!(row.state == "needed" && row.times.unwrap().applied == 0, "{row:?}");

    hostile.attack(Attack::None);
    clock.advance(SignedDuration::from_mins(6));
    let done = endpoint.check().await;
    assert_eq!((done.needed, done.installed), (0, 1), "{:?}", done.problems);
    assert_eq!(installed_version(&root, "hello").as_deref(), Some("2.0"));
    fleet.until_state(&endpoint.id, PATCH, "installed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn central_believes_no_report_that_was_bent_forged_or_replayed_and_asks_again_for_what_is_missing() {
    let (fleet, clock) = fleet_with_hello().await;
    let hostile = Hostile::start(&fleet, "osaka", fleet.address).await;
    let mut endpoint = victim(&fleet, &hostile, "web1").await;
    let mut other = victim(&fleet, &hostile, "web2").await;
    endpoint.start().await;
    other.start().await;
    other.check().await;
    fleet.until_state(&other.id, PATCH, "needed").await;
    let forge = |endpoint: &str| Meddle::Forge { endpoint: endpoint.to_owned(), update: PATCH.to_owned() };

    // What the relay does, and whether central can tell at once that it is a lie.
    let unsigned = Some("is not signed by");
    let cases = [
        (Meddle::AlterBody, unsigned),
        (Meddle::AlterSequence, unsigned),
        (Meddle::Rename(other.id.clone()), unsigned),
        (forge(&other.id), unsigned),
        (forge(&endpoint.id), unsigned),
        (Meddle::Garbage, Some("malformed")),
        (Meddle::Drop, None),
        (Meddle::DropInventories, None),
        (Meddle::Refuse, None),
        (Meddle::Duplicate, None),
        (Meddle::Replay, None),
        (Meddle::Reorder, None),
    ];
    let statuses = endpoint.config.root.join("var/lib/dpkg/status");
    for (number, (meddle, lie)) in cases.into_iter().enumerate() {
        clock.advance(SignedDuration::from_secs(60));
        // Somebody installs it by hand, or goes back to the old one.
        let (version, truth, before) =
            if number % 2 == 0 { ("2.0", "installed", "needed") } else { ("1.0", "needed", "installed") };
        endpoint.check().await;
        fleet.until_state(&endpoint.id, PATCH, before).await;
        let audited = audit(&fleet).await;
        let answered = hostile.answers().len();

        std::fs::write(&statuses, status(&[("hello", version)])).unwrap();
        hostile.attack(Attack::Reports(meddle.clone()));
        endpoint.check().await;
        assert!(hostile.applied() > 0, "{meddle:?}");
        let said = fleet.state(&endpoint.id, PATCH).await.unwrap().state;
        assert!(said == truth || said == before, "{meddle:?}: {said}");
        if let Some(named) = lie {
            let answers = hostile.answers().split_off(answered);
            assert!(
                !answers.is_empty() && answers.iter().all(|answer| *answer == v1::ReportOutcome::Refused),
                "{meddle:?}: {answers:?}"
            );
            assert!(heard::warned(&["refused a report", "relay", named]), "{meddle:?} is not in the log");
        }
        assert_eq!(fleet.state(&other.id, PATCH).await.unwrap().state, "needed", "{meddle:?}");
        assert_eq!(audit(&fleet).await, audited, "{meddle:?}");

        hostile.attack(Attack::None);
        clock.advance(SignedDuration::from_secs(60));
        endpoint.check().await;
        assert_eq!(fleet.state(&endpoint.id, PATCH).await.unwrap().state, truth, "after {meddle:?}");
        if meddle == Meddle::DropInventories {
            // They might have been on their way.
            clock.advance(SignedDuration::from_mins(10));
            endpoint.check().await;
        }
        let done = endpoint.check().await;
        assert_eq!(done.problems, Vec::<String>::new(), "after {meddle:?}");
        assert_eq!(endpoint.status().reports_waiting, 0, "after {meddle:?}");
        let request = v1::GetEndpointRequest { name_or_id: endpoint.id.clone() };
        let detail = fleet.admin().await.get_endpoint(request).await.unwrap().into_inner();
        assert_eq!(detail.facts_digest, facts_sent(&endpoint), "after {meddle:?}");
    }
    other.check().await;
    assert_eq!(fleet.state(&other.id, PATCH).await.unwrap().state, "needed");
}

/// The digest of the facts that the endpoint takes for held by central.
fn facts_sent(endpoint: &Endpoint) -> String {
    let json = std::fs::read(endpoint.config.data_dir.join("reports/accepted.json")).unwrap();
    serde_json::from_slice::<Facts>(&json).unwrap().digest().to_string()
}

/// The newest record of the audit log, which must be whole.
async fn audit(fleet: &Fleet) -> u64 {
    let mut admin = fleet.admin().await;
    let verified = admin.verify_audit(v1::VerifyAuditRequest {}).await.unwrap().into_inner();
    assert_eq!(verified.broken_at, None);
    verified.records
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_relay_sees_of_an_enrolment_is_of_no_use_to_it() {
    let (fleet, _) = fleet_with_hello().await;
    let hostile = Hostile::start(&fleet, "osaka", fleet.address).await;
    let endpoints = async || {
        let list = fleet.admin().await.list_endpoints(v1::ListEndpointsRequest::default()).await.unwrap();
        list.into_inner().endpoints.len()
    };
    hostile.attack(Attack::UseToken);
    let endpoint = victim(&fleet, &hostile, "web1").await;
    let stolen = hostile.stolen();
    assert_eq!(stolen.len(), 1);
    assert!(stolen[0].is_err(), "{stolen:?}");
    assert_eq!(endpoints().await, 1);

    for (attack, named) in [
        (Attack::OtherRootMetadata, "root metadata that came back is not the one the token names"),
        (Attack::OwnCertificate, "is not for this machine's key"),
        (Attack::ForgedCertificate, "is not signed by its certification authority"),
    ] {
        hostile.attack(attack.clone());
        let token = fleet.token("endpoint", "osaka", hostile.address).await;
        let dir = fleet.folder(&format!("{attack:?}"));
        let error = joining::join(&token, None, None, "web2", "0.0.0", &dir).await.unwrap_err();
        let error = Chain(&error).to_string();
        assert!(error.contains(named), "{attack:?}: {error}");
        assert!(matches!(joining::load(&dir), Err(joining::JoinError::NotJoined { .. })), "{attack:?}");
    }

    // A renewal must not make the relay the endpoint's authority.
    let (upstream, identity) = upstream_of(&endpoint, hostile.address);
    let files = |identity: &Identity| {
        [&identity.files().identity, &identity.files().roots].map(|file| std::fs::read(file).unwrap())
    };
    let before = files(&identity);
    hostile.attack(Attack::OwnAuthority);
    let error = Chain(&joining::renew(&upstream, &identity).await.unwrap_err()).to_string();
    assert!(error.contains("ends in another certification authority"), "{error}");
    assert!(files(&identity) == before);
    hostile.attack(Attack::None);
    joining::renew(&upstream, &identity).await.unwrap();
    let after = files(&identity);
    assert!(after[0] != before[0] && after[1] == before[1]);
}

/// Takes a few seconds: less than what lies between two checks that were called for.
const CHECKS_BY_HAND: u64 = 40;

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_calls_without_end_does_not_keep_an_endpoint_busy() {
    let (fleet, _) = fleet_with_hello().await;
    let hostile = Hostile::start(&fleet, "osaka", fleet.address).await;
    let mut endpoint = victim(&fleet, &hostile, "web1").await;
    hostile.attack(Attack::CallWithoutEnd);
    endpoint.start().await;
    until("a thousand calls were made", async || hostile.notices() >= 1_000).await;
    fleet.until_state(&endpoint.id, PATCH, "needed").await;
    // It is asked by hand in between, so that it would have every chance to follow the calls too.
    for _ in 0..CHECKS_BY_HAND {
        endpoint.check().await;
    }
    let called = hostile.check_ins() - CHECKS_BY_HAND;
    assert!(called <= 4, "{called} checks besides");

    hostile.attack(Attack::AskForEverything);
    for _ in 0..3 {
        assert_eq!(endpoint.check().await.problems, Vec::<String>::new());
    }
    assert!(hostile.applied() >= 3);
    assert_eq!(fleet.state(&endpoint.id, PATCH).await.unwrap().state, "needed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_whose_tier_above_calls_without_end_goes_on_and_spares_its_endpoints() {
    let (mut fleet, _) = fleet_with_hello().await;
    let hostile = Hostile::start(&fleet, "osaka", fleet.address).await;
    let mut relay = fleet.relay("kyoto").await;
    relay.caught_up(&fleet).await;
    relay.stop().await;
    relay.config.upstream = Some(Route::direct(&hostile.address.to_string()));
    let root = fleet.folder("root-web1");
    made_up(&root, &[("hello", "1.0")]);
    let mut endpoint = fleet.enroll("web1", "kyoto", fleet.address, &root).await;
    endpoint.config.upstream = vec![Route::direct(&relay.address.to_string())];
    hostile.name(&endpoint.id);
    hostile.attack(Attack::CallWithoutEnd);
    let began = std::time::Instant::now();
    relay.start().await;
    endpoint.start().await;
    fleet.until_state(&endpoint.id, PATCH, "needed").await;
    until("a thousand calls were made", async || hostile.notices() >= 1_000).await;
    for _ in 0..CHECKS_BY_HAND {
        let problems = endpoint.check().await.problems;
        // All that the relay can say of it: whoever asks for everything gets it, and asks again.
        assert!(problems.iter().all(|problem| problem.contains("asks for everything again")), "{problems:?}");
    }
    // The relay asks for each call that it reads, and reads four a second.
    let most = 4 * began.elapsed().as_secs() + 8;
    assert!(hostile.check_ins() <= most, "{} check-ins, at most {most}", hostile.check_ins());

    // And it still brings what is true.
    fleet.archive.update(&Package::new("other", "1.0"));
    fleet.archive.publish();
    fleet.sync().await;
    relay.caught_up(&fleet).await;
    let version = relay.running().mirror.head().timestamp_version;
    endpoint.check().await;
    assert!(endpoint.status().dictionary_version >= version);
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_endpoints_cost_the_tier_above_one_payload_and_a_damaged_one_is_fetched_again() {
    let (fleet, _) = fleet_with_hello().await;
    let above = Hostile::start(&fleet, "osaka", fleet.address).await;
    let (digest, bytes) = payload(&fleet);
    let mut relay = fleet.relay("kyoto").await;
    relay.stop().await;
    relay.config.upstream = Some(Route::direct(&above.address.to_string()));
    relay.start().await;
    let endpoint = victim(&fleet, &above, "web1").await;
    let dir = Arc::new(fleet.folder("blobs"));
    let address = relay.address;
    let fetch = |number: usize| {
        let (upstream, dir) = (upstream_of(&endpoint, address).0, dir.clone());
        async move {
            let blobs = blobs_in(&dir.join(number.to_string()));
            upstream.payload(digest, Some(bytes), &blobs).await.unwrap();
            blobs.get(&digest, bytes).unwrap()
        }
    };
    let mut fetches: JoinSet<_> = (0..16).map(fetch).collect();
    while let Some(fetched) = fetches.join_next().await {
        assert_eq!(Digest::of(&fetched.unwrap()), digest);
    }
    assert_eq!(above.asked(&digest), 1);

    // Its disk turns bad while it is down.
    relay.stop().await;
    let path = blob_path(&relay.config.data_dir.join("payloads"), &digest);
    let mut damaged = std::fs::read(&path).unwrap();
    damaged[100] ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    relay.start().await;
    assert_eq!(Digest::of(&fetch(16).await), digest);
    assert_eq!(above.asked(&digest), 2);
    assert_eq!(Digest::of(&std::fs::read(&path).unwrap()), digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_relay_drops_payloads_nobody_used_lately_and_nothing_that_is_published() {
    let (mut fleet, _) = fleet_with_hello().await;
    let [first, second] = ["first", "second"].map(|name| {
        let mut package = Package::new(name, "2.0");
        // Room is set aside by the mebibyte.
        package.files.insert(format!("/usr/share/{name}/data"), "x".repeat(5 << 18));
        fleet.archive.update(&package);
        let deb = fleet.archive.server().file(&format!("/security/pool/{name}_2.0_amd64.deb"));
        (Digest::of(&deb), deb.len() as u64)
    });
    fleet.archive.publish();
    fleet.sync().await;
    let mut relay = fleet.relay("osaka").await;
    relay.stop().await;
    relay.config.payload_bytes_max = 3 << 20;
    relay.start().await;
    relay.caught_up(&fleet).await;
    let root = fleet.folder("root");
    made_up(&root, &[("first", "1.0"), ("second", "1.0")]);
    let mut endpoint = fleet.enroll("web1", "osaka", relay.address, &root).await;
    let (upstream, _) = upstream_of(&endpoint, relay.address);
    let kept = relay.running().payloads.blobs().clone();

    for (number, (digest, bytes)) in [first, second, first].into_iter().enumerate() {
        let blobs = blobs_in(&fleet.folder(&format!("blobs-{number}")));
        upstream.payload(digest, Some(bytes), &blobs).await.unwrap();
        assert!(kept.contains(&digest));
        assert_eq!([first, second].iter().filter(|(digest, _)| kept.contains(digest)).count(), 1);
    }
    endpoint.config.audit_only = true;
    endpoint.start().await;
    let done = endpoint.check().await;
    assert_eq!((done.needed, done.problems), (2, Vec::new()));
}
