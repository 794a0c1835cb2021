//! Ways into the fleet, staying in it, and what is decided for whom.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use jiff::SignedDuration;
use serde_json::Value;
use tierway_central::{layout::Layout, roots, sources::testing::Server};
use tierway_common::{
    clock::Clock,
    daemon::chain::Chain,
    transport::dial,
    trust::{digest::Digest, tuf::client::Limits},
};
use tierway_proto::{joining, upstream::Upstream, v1};
use tierway_tests::{
    archive::Package,
    fleet::{Endpoint, Fleet, until},
    programs,
    roots::{installed_version, made_up, real},
    skip::{pristine_root, skip},
    tierctl::Tierctl,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

const PATCH: &str = "debian-12/hello_2.0";

async fn fleet_with_hello(clock: Clock) -> Fleet {
    let mut fleet = Fleet::start_at(clock).await;
    fleet.archive.update(&Package::new("hello", "2.0"));
    fleet.archive.publish();
    fleet.sync().await;
    fleet
}

/// An endpoint that runs and found, through `upstream`, that it needs `hello`.
async fn needing(fleet: &Fleet, name: &str, site: &str, upstream: SocketAddr) -> Endpoint {
    let root = fleet.folder(&format!("root-{name}"));
    made_up(&root, &[("hello", "1.0")]);
    let mut endpoint = fleet.enroll(name, site, upstream, &root).await;
    endpoint.start().await;
    let done = endpoint.check().await;
    assert_eq!((done.needed, done.problems), (1, Vec::<String>::new()), "{name}");
    endpoint
}

// People.

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_lets_another_in_and_shuts_him_out_with_the_tokens_that_he_made() {
    let clock = Clock::system();
    let fleet = Fleet::start_at(clock.clone()).await;
    let admin = Tierctl::of(&fleet);
    let address = fleet.address.to_string();
    let bo = fleet.folder("bo").join("contexts.toml").display().to_string();
    let invite = |by: &[&str], name: &str| {
        let words: Vec<&str> =
            by.iter().copied().chain(["operator", "invite", name, "--server", &address]).collect();
        let printed =
            if by.is_empty() { admin.prints(&words) } else { programs::run("tierctl", &words).output };
        printed.trim().strip_prefix("tierctl context join ").expect("a command").to_owned()
    };
    let token = invite(&[], "bo");
    let of_bo = ["--config", &bo];
    let joined = programs::run("tierctl", &["--config", &bo, "context", "join", &token]);
    assert_eq!(joined.code, Some(0), "{}", joined.errors);
    assert!(joined.output.contains("joined as operator `bo`"), "{}", joined.output);
    let again = programs::run("tierctl", &["--config", &bo, "context", "join", &token, "--name", "other"]);
    assert!(again.code == Some(1) && again.errors.contains("used"), "{}", again.errors);

    // What he does bears his name, and he can make tokens himself.
    let left = invite(&of_bo, "bo2");
    let audit = admin.prints(&["audit", "list"]);
    assert!(audit.contains("operator:bo"), "{audit}");

    admin.prints(&["operator", "revoke", "bo", "--yes", "--reason", "left"]);
    let refused = programs::run("tierctl", &["--config", &bo, "status"]);
    assert!(refused.code != Some(0) && refused.errors.contains("revoked"), "{}", refused.errors);
    let back = programs::run("tierctl", &["--config", &bo, "context", "join", &left, "--name", "back"]);
    assert!(back.code == Some(1) && !back.errors.is_empty(), "{}{}", back.output, back.errors);
    assert!(!admin.prints(&["operator", "list"]).contains("bo"));
}

// Ways in.

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_enrols_at_central_through_a_relay_and_through_a_relay_behind_it_and_all_are_told_to_check()
 {
    let fleet = fleet_with_hello(Clock::system()).await;
    let near = fleet.relay("osaka").await;
    near.caught_up(&fleet).await;
    let far = fleet.relay_behind("nara", near.address).await;
    far.caught_up(&fleet).await;
    let mut endpoints = Vec::new();
    for (name, site, upstream) in [
        ("direct", "head", fleet.address),
        ("behind-one", "osaka", near.address),
        ("behind-two", "nara", far.address),
    ] {
        endpoints.push(needing(&fleet, name, site, upstream).await);
    }
    far.forwarded().await;
    near.forwarded().await;
    let mut admin = fleet.admin().await;
    for (endpoint, site) in endpoints.iter().zip(["head", "osaka", "nara"]) {
        fleet.until_state(&endpoint.id, PATCH, "needed").await;
        let request = v1::GetEndpointRequest { name_or_id: endpoint.id.clone() };
        let detail = admin.get_endpoint(request).await.unwrap().into_inner();
        assert_eq!(detail.endpoint.unwrap().site, site);
    }

    // From central down to the one that is meant, and to no other.
    let checked = || endpoints.iter().map(|one| one.status().last_check).collect::<Vec<_>>();
    for told in (0..endpoints.len()).rev() {
        let before = checked();
        let request =
            v1::CheckEndpointNowRequest { name_or_id: endpoints[told].id.clone(), ..Default::default() };
        until("the endpoint checks because it was told to", async || {
            // Again, as whoever is not yet watching misses it.
            admin.check_endpoint_now(request.clone()).await.unwrap();
            checked()[told] > before[told]
        })
        .await;
        assert_eq!(checked()[..told], before[..told], "one that was never told to checked too");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_told_to_check_through_a_relay_finds_there_what_was_decided_just_before() {
    let fleet = fleet_with_hello(Clock::system()).await;
    let relay = fleet.relay("osaka").await;
    relay.caught_up(&fleet).await;
    let root = fleet.folder("root");
    made_up(&root, &[("hello", "1.0")]);
    let mut watching = Vec::new();
    for name in ["web1", "web2"] {
        let endpoint = fleet.enroll(name, "osaka", relay.address, &root).await;
        let identity = joining::load(&endpoint.config.data_dir).unwrap().identity;
        let route = dial::Route::direct(&relay.address.to_string());
        let upstream = Upstream::new(dial::channel(route, &identity));
        watching.push((upstream.watch(0).await.unwrap(), endpoint.id));
    }
    let mut admin = fleet.admin().await;
    let is_check = |notice: &v1::Notice| matches!(notice.kind, Some(v1::notice::Kind::CheckNow(_)));
    // Until the relay watches central nobody hears of anything: the first is told until it does.
    let (mut stream, id) = watching.remove(0);
    let heard = tokio::spawn(async move { while !is_check(&stream.message().await.unwrap().unwrap()) {} });
    until("the relay passes on what it is told", async || {
        admin
            .check_endpoint_now(v1::CheckEndpointNowRequest { name_or_id: id.clone(), ..Default::default() })
            .await
            .unwrap();
        heard.is_finished()
    })
    .await;
    let (mut stream, id) = watching.remove(0);
    let publisher = &fleet.central.as_ref().unwrap().running.central.publisher;
    for verb in ["approve", "clear", "approve", "clear", "approve"] {
        let before = publisher.timestamp().0;
        admin.decide_patches(decision(verb, PATCH, "everyone")).await.unwrap();
        admin
            .check_endpoint_now(v1::CheckEndpointNowRequest { name_or_id: id.clone(), ..Default::default() })
            .await
            .unwrap();
        let wanted = publisher.timestamp().0;
        assert!(wanted > before, "{verb} was not published before the call was answered");
        while !is_check(&stream.message().await.unwrap().unwrap()) {}
        let there = relay.running().mirror.head().timestamp_version;
        assert!(there >= wanted, "{verb}: the relay has {there}, {wanted} is published");
    }
}

/// An HTTP proxy that knows CONNECT alone, and counts; it allows `allowed`.
async fn proxy(allowed: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, tunnels) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = tunnels.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let counted = counted.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(client.read_u8().await.unwrap());
                }
                let wanted = format!("CONNECT {allowed} HTTP/1.1\r\n");
                if !head.starts_with(wanted.as_bytes()) {
                    client.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").await.unwrap();
                    return;
                }
                let mut server = TcpStream::connect(allowed).await.unwrap();
                client.write_all(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n").await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (address, tunnels)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_enrols_and_works_through_a_proxy_and_names_one_that_does_not_let_it_through() {
    let fleet = fleet_with_hello(Clock::system()).await;
    let (through, tunnels) = proxy(fleet.address).await;
    let (through_elsewhere, _) = proxy(SocketAddr::from(([192, 0, 2, 1], 1))).await;
    let root = fleet.folder("root");
    made_up(&root, &[("hello", "1.0")]);
    let mut endpoint = fleet.enroll("web1", "osaka", fleet.address, &root).await;
    // Joins anew as a machine that knows of nothing but the proxy.
    fs::remove_dir_all(&endpoint.config.data_dir).unwrap();
    let token = fleet.token("endpoint", "osaka", fleet.address).await;
    let dir = endpoint.config.data_dir.clone();
    let join = async |proxy: SocketAddr| {
        let proxy = proxy.to_string();
        joining::join(&token, None, Some(&proxy), "web1", "0.0.0", &dir).await
    };
    let error = Chain(&join(through_elsewhere).await.unwrap_err()).to_string();
    let parts = [
        format!("the proxy `{through_elsewhere}` gave no tunnel to `{}`", fleet.address),
        "it answered `HTTP/1.1 403 Forbidden`".to_owned(),
    ];
    assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    let joined = join(through).await.unwrap();
    assert_eq!(joined.route.proxy, Some(through.to_string()));
    assert_eq!(tunnels.load(Ordering::SeqCst), 1);
    endpoint.start().await;
    let done = endpoint.check().await;
    assert_eq!((done.needed, done.problems), (1, Vec::<String>::new()));
    assert!(tunnels.load(Ordering::SeqCst) > 1, "it went another way than through the proxy");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_tiers_above_the_first_that_answers_is_taken() {
    let fleet = fleet_with_hello(Clock::system()).await;
    let root = fleet.folder("root");
    made_up(&root, &[("hello", "1.0")]);
    let mut endpoint = fleet.enroll("web1", "osaka", fleet.address, &root).await;
    let nobody = {
        // A port that was free just now.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let text =
        format!("[[upstream]]\nserver = \"{nobody}\"\n\n[[upstream]]\nserver = \"{}\"\n", fleet.address);
    let path = fleet.folder("endpoint.toml");
    let named: tierway_endpoint::config::Config = {
        fs::write(&path, &text).unwrap();
        tierway_common::daemon::config::load(&path).unwrap()
    };
    endpoint.config.upstream = named.upstream[..1].to_vec();
    endpoint.start().await;
    let problems = endpoint.check().await.problems.join("\n");
    assert!(problems.contains(&format!("could not connect to `{nobody}`")), "{problems}");
    endpoint.stop().await;
    endpoint.config.upstream = named.upstream;
    endpoint.start().await;
    let done = endpoint.check().await;
    assert_eq!((done.needed, done.problems), (1, Vec::<String>::new()));
}

// Staying.

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_renews_its_certificate_and_goes_on_with_it_without_a_restart() {
    // TLS looks at the system's clock, so what is renewed now was issued some days ago.
    let clock =
        Clock::manual(Clock::system().now().checked_sub(SignedDuration::from_hours(11 * 24)).unwrap());
    let mut fleet = Fleet::start_at(clock.clone()).await;
    let root = fleet.folder("root");
    made_up(&root, &[("hello", "1.0")]);
    let mut endpoint = fleet.enroll("web1", "osaka", fleet.address, &root).await;
    endpoint.start().await;
    assert_eq!(endpoint.check().await.problems, Vec::<String>::new());
    let before = endpoint.status().certificate_expires;
    let serial = || joining::load(&endpoint.config.data_dir).unwrap().identity.own().serial;
    let first = serial();
    assert_eq!(endpoint.check().await.problems, Vec::<String>::new());
    assert_eq!(
        (endpoint.status().certificate_expires, serial()),
        (before, first.clone()),
        "renewed too early"
    );

    clock.advance(SignedDuration::from_hours(11 * 24));
    let central = fleet.central.as_ref().unwrap().running.central.clone();
    let old = central.publisher.timestamp().0;
    assert!(central.board.wake("refresh"));
    until("the metadata is signed anew", async || central.publisher.timestamp().0 > old).await;
    drop(central);
    assert_eq!(endpoint.check().await.problems, Vec::<String>::new());
    let after = endpoint.status().certificate_expires;
    assert!(after >= before + 11 * 24 * 3_600_000 - 1_000, "{before} {after}");
    assert_ne!(serial(), first);

    // A new connection, on which only the new identity can be shown.
    fleet.stop_central().await;
    fleet.start_central().await;
    until("the endpoint is connected again", async || endpoint.check().await.problems.is_empty()).await;
    let request = v1::GetEndpointRequest { name_or_id: endpoint.id.clone() };
    let detail = fleet.admin().await.get_endpoint(request).await.unwrap().into_inner();
    assert_eq!(detail.certificate_expires, after);
    // What is signed with the new key is believed.
    let heard = detail.endpoint.unwrap().last_report;
    clock.advance(SignedDuration::from_mins(1));
    assert_eq!(endpoint.check().await.problems, Vec::<String>::new());
    until("central has heard of it again", async || {
        let request = v1::GetEndpointRequest { name_or_id: endpoint.id.clone() };
        fleet.admin().await.get_endpoint(request).await.unwrap().into_inner().endpoint.unwrap().last_report
            > heard
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn below_a_relay_that_is_below_another_one_certificates_are_renewed_as_well() {
    let fleet = Fleet::start().await;
    let near = fleet.relay("osaka").await;
    near.caught_up(&fleet).await;
    let far = fleet.relay_behind("nara", near.address).await;
    far.caught_up(&fleet).await;
    let root = fleet.folder("root");
    let named = fleet.enroll("web1", "nara", far.address, &root).await;
    let nameless = fleet.enroll("web2", "nara", far.address, &root).await;
    let route = |address: SocketAddr| dial::Route::direct(&address.to_string());
    let identity = |data_dir: &Path| joining::load(data_dir).unwrap().identity;
    let (named, nameless) = (identity(&named.config.data_dir), identity(&nameless.config.data_dir));
    let relay = identity(&far.config.data_dir);
    for (what, identity, channel) in [
        ("an endpoint", &named, dial::channel(route(far.address), &named)),
        // As one whose certificate has expired.
        ("one that shows none", &nameless, dial::nameless_channel(vec![route(far.address)], &nameless)),
        ("the relay itself", &relay, dial::channel(route(near.address), &relay)),
    ] {
        let before = identity.own();
        let renewed = joining::renew(&Upstream::new(channel), identity).await;
        assert!(renewed.is_ok(), "{what}: {}", Chain(&renewed.unwrap_err()));
        let own = identity.own();
        assert_eq!(own.holder, before.holder, "{what}");
        assert_ne!(own.serial, before.serial, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_renews_its_certificate_and_serves_with_it_without_a_restart() {
    let clock = Clock::manual(Clock::system().now().checked_sub(SignedDuration::from_hours(8 * 24)).unwrap());
    let mut fleet = Fleet::start_at(clock.clone()).await;
    let relay = fleet.relay("osaka").await;
    relay.caught_up(&fleet).await;
    let own = || joining::load(&relay.config.data_dir).unwrap().identity.own();
    let first = own();
    clock.advance(SignedDuration::from_hours(8 * 24));
    let central = fleet.central.as_ref().unwrap().running.central.clone();
    let old = central.publisher.timestamp().0;
    assert!(central.board.wake("refresh"));
    until("the metadata is signed anew", async || central.publisher.timestamp().0 > old).await;
    let board = relay.running().board.clone();
    assert!(board.wake("renew"));
    until("the relay has another certificate", async || own().serial != first.serial).await;
    until("the renewal has ended", async || board.statuses()["renew"].runs > 0).await;
    assert_eq!(board.statuses()["renew"].last_error, None);
    assert!(own().not_after > first.not_after && own().public_key != first.public_key);
    fleet.archive.update(&Package::new("hello", "2.0"));
    fleet.archive.publish();
    fleet.sync().await;
    relay.caught_up(&fleet).await;
    // Whoever connects now sees the new one; an endpoint that enrols finds its way to central through it.
    let shown = {
        let endpoint = needing(&fleet, "web1", "osaka", relay.address).await;
        let identity = joining::load(&endpoint.config.data_dir).unwrap().identity;
        let route = dial::Route::direct(&relay.address.to_string());
        let stream = dial::connect(&route, identity.client()).await.unwrap();
        let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        tierway_common::transport::identity::PeerIdentity::read(&certificate).unwrap().serial
    };
    assert_eq!(shown, own().serial);
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_that_were_off_for_longer_than_their_certificates_come_back_by_themselves() {
    // TLS looks at the system's clock, by which what was issued then has expired for ten days. So all enrol at
    // central, where that needs no certificate.
    let away = SignedDuration::from_hours(40 * 24);
    let clock = Clock::manual(Clock::system().now().checked_sub(away).unwrap());
    let fleet = Fleet::start_at(clock.clone()).await;
    let mut relay = fleet.relay("osaka").await;
    relay.stop().await;
    let root = fleet.folder("root");
    made_up(&root, &[("hello", "1.0")]);
    let mut direct = fleet.enroll("web1", "osaka", fleet.address, &root).await;
    let mut behind = fleet.enroll("web2", "osaka", fleet.address, &root).await;
    let mut revoked = fleet.enroll("web3", "osaka", fleet.address, &root).await;
    let request = v1::RevokeEndpointRequest { name_or_id: "web3".to_owned(), reason: "stolen".to_owned() };
    fleet.admin().await.revoke_endpoint(request).await.unwrap();
    clock.advance(away);
    let central = fleet.central.as_ref().unwrap().running.central.clone();
    let old = central.publisher.timestamp().0;
    assert!(central.board.wake("refresh"));
    until("the metadata is signed anew", async || central.publisher.timestamp().0 > old).await;

    let own = |dir: &Path| joining::load(dir).unwrap().identity;
    let expired = own(&direct.config.data_dir);
    assert!(expired.own().not_after < fleet.now());
    let upstream = Upstream::new(dial::channel(dial::Route::direct(&fleet.address.to_string()), &expired));
    upstream.metadata("root", None).await.expect_err("an expired certificate opens no door");

    direct.start().await;
    assert_eq!(direct.check().await.problems, Vec::<String>::new());
    assert!(own(&direct.config.data_dir).own().not_after > fleet.now());

    relay.start().await;
    until("the relay has renewed its certificate", async || {
        own(&relay.config.data_dir).own().not_after > fleet.now()
    })
    .await;
    relay.caught_up(&fleet).await;
    behind.config.upstream = vec![dial::Route::direct(&relay.address.to_string())];
    behind.start().await;
    until("the endpoint is back", async || behind.check().await.problems.is_empty()).await;
    assert!(own(&behind.config.data_dir).own().not_after > fleet.now());
    relay.forwarded().await;
    for endpoint in [&direct, &behind] {
        until("central has heard of it", async || {
            let request = v1::GetEndpointRequest { name_or_id: endpoint.id.clone() };
            let detail = fleet.admin().await.get_endpoint(request).await.unwrap().into_inner();
            detail.endpoint.unwrap().last_report > 0
        })
        .await;
    }

    revoked.start().await;
    let problems = revoked.check().await.problems.join("; ");
    assert!(
        problems.contains("could not renew the certificate") && problems.contains("is revoked"),
        "{problems}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn everyone_follows_from_root_to_root_when_its_key_is_replaced_and_who_joins_later_does_too() {
    let mut fleet = Fleet::start().await;
    let root = fleet.folder("root");
    made_up(&root, &[("hello", "1.0")]);
    let relay = fleet.relay("osaka").await;
    relay.caught_up(&fleet).await;
    let mut early = fleet.enroll("web1", "osaka", relay.address, &root).await;
    early.start().await;
    assert_eq!(early.check().await.problems, Vec::<String>::new());

    let layout = Layout::new(&fleet.folder("central"));
    // The folder was taken away, and is brought back elsewhere.
    let offline = fleet.folder("safe");
    fs::rename(layout.offline(), &offline).unwrap();
    let random = ring::rand::SystemRandom::new();
    roots::rotate(&layout, &offline, &random, fleet.now()).unwrap();
    fs::remove_file(offline.join("tuf-root.key")).unwrap();
    roots::extend(&layout, &offline, fleet.now()).unwrap();
    let central = fleet.central.as_ref().unwrap().running.central.clone();
    assert!(central.board.wake("refresh"));
    until("central publishes the roots", async || central.publisher.root_version() == 3).await;
    drop(central);

    let version = |data_dir: &Path| {
        let text = fs::read(data_dir.join("trust/root.json")).unwrap();
        serde_json::from_slice::<Value>(&text).unwrap()["signed"]["version"].as_u64().unwrap()
    };
    assert_eq!(version(&early.config.data_dir), 1);
    relay.caught_up(&fleet).await;
    assert_eq!(version(&relay.config.data_dir), 3);
    let (mut late, other) =
        (fleet.enroll("web2", "osaka", relay.address, &root).await, fleet.relay("nara").await);
    other.caught_up(&fleet).await;
    late.start().await;
    let mut behind = fleet.enroll("web3", "nara", other.address, &root).await;
    behind.start().await;
    for endpoint in [&early, &late, &behind] {
        assert_eq!(endpoint.check().await.problems, Vec::<String>::new());
        assert_eq!(version(&endpoint.config.data_dir), 3, "{}", endpoint.id);
    }

    fleet.stop_central().await;
    fleet.start_central().await;
    let central = &fleet.central.as_ref().unwrap().running.central;
    assert_eq!(central.publisher.root_version(), 3);
}

// What is decided for whom.

fn group(name: &str, priority: u32) -> v1::Group {
    v1::Group { name: name.to_owned(), priority, ..v1::Group::default() }
}

fn decision(verb: &str, patch: &str, group: &str) -> v1::DecidePatchesRequest {
    v1::DecidePatchesRequest {
        patches: vec![patch.to_owned()],
        all_needed: false,
        group: group.to_owned(),
        decision: verb.to_owned(),
        ..v1::DecidePatchesRequest::default()
    }
}

/// Updates, what is decided about each, and whether that lets it be installed on the endpoint of the test:
/// it is at site `osaka`, `named` names it, it has the package `one`.
const DECISIONS: [(&str, &[(&str, &str)], bool); 11] = [
    ("one", &[("approve", "everyone")], true),
    ("two", &[("approve", "named")], true),
    ("three", &[("approve", "at-osaka")], true),
    ("four", &[("approve", "with-one")], true),
    ("five", &[("approve", "at-nara")], false),
    ("six", &[("approve", "with-nothing")], false),
    ("seven", &[("approve", "others")], false),
    ("eight", &[("approve", "everyone"), ("decline", "named")], false),
    ("nine", &[("decline", "everyone"), ("approve", "named")], true),
    ("ten", &[("approve", "at-osaka"), ("decline", "with-one")], false),
    ("eleven", &[("approve", "everyone"), ("decline", "named"), ("clear", "named")], true),
];

async fn decided(fleet: &Fleet, endpoint: &str) {
    let rule =
        |package: &str| Some(format!("{{\"package\":{{\"manager\":\"deb\",\"name\":\"{package}\"}}}}"));
    let mut admin = fleet.admin().await;
    for group in [
        v1::Group { endpoints: vec![endpoint.to_owned()], ..group("named", 20) },
        v1::Group { site: Some("osaka".to_owned()), ..group("at-osaka", 10) },
        v1::Group { site: Some("nara".to_owned()), ..group("at-nara", 30) },
        v1::Group { rule_json: rule("one"), ..group("with-one", 10) },
        v1::Group { rule_json: rule("nothing"), ..group("with-nothing", 30) },
        group("others", 30),
    ] {
        admin.set_group(v1::SetGroupRequest { group: Some(group) }).await.unwrap();
    }
    for (patch, decisions, _) in DECISIONS {
        for (verb, group) in decisions {
            admin.decide_patches(decision(verb, patch, group)).await.unwrap();
        }
    }
    fleet.published().await;
}

async fn fleet_of_decisions() -> Fleet {
    let mut fleet = Fleet::start().await;
    for (name, ..) in DECISIONS {
        fleet.archive.update(&Package::new(name, "2.0"));
    }
    fleet.archive.publish();
    fleet.sync().await;
    fleet
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_and_their_priorities_decide_what_counts_as_approved_alike_at_central_and_at_the_endpoint() {
    let fleet = fleet_of_decisions().await;
    let root = fleet.folder("root");
    made_up(&root, &DECISIONS.map(|(name, ..)| (name, "1.0")));
    let mut endpoint = fleet.enroll("web1", "osaka", fleet.address, &root).await;
    endpoint.config.audit_only = true;
    endpoint.start().await;
    assert_eq!(endpoint.check().await.needed, DECISIONS.len() as u64);
    decided(&fleet, &endpoint.id).await;
    assert_eq!(endpoint.check().await.problems, Vec::<String>::new());

    let wanted: BTreeSet<String> = DECISIONS
        .iter()
        .filter(|(.., approved)| *approved)
        .map(|(name, ..)| format!("debian-12/{name}_2.0"))
        .collect();
    let here = endpoint.status();
    let here: BTreeSet<_> =
        here.patches.iter().filter(|row| row.approved).map(|row| row.patch.clone()).collect();
    assert_eq!(here, wanted, "at the endpoint");
    until("central has every state", async || {
        fleet.state(&endpoint.id, "debian-12/eleven_2.0").await.is_some()
    })
    .await;
    let request = v1::GetEndpointRequest { name_or_id: endpoint.id.clone() };
    let detail = fleet.admin().await.get_endpoint(request).await.unwrap().into_inner();
    let there: BTreeSet<_> =
        detail.patches.into_iter().filter(|row| row.approved).map(|row| row.patch).collect();
    assert_eq!(there, wanted, "at central");
    let why = endpoint.why("eight").await.unwrap();
    assert!(why.approval.contains("declined for group `named`"), "{}", why.approval);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_groups_approve_is_installed_and_what_they_decline_is_not() {
    let Some(pristine) = pristine_root("installing what groups approve") else { return };
    let fleet = fleet_of_decisions().await;
    let root = fleet.folder("root");
    let installed: Vec<_> = DECISIONS.iter().map(|(name, ..)| Package::new(name, "1.0")).collect();
    real(&pristine, &root, &installed);
    let mut endpoint = fleet.enroll("web1", "osaka", fleet.address, &root).await;
    endpoint.start().await;
    assert_eq!(endpoint.check().await.needed, DECISIONS.len() as u64);
    decided(&fleet, &endpoint.id).await;
    let done = endpoint.check().await;
    assert_eq!(done.problems, Vec::<String>::new());
    for (name, _, approved) in DECISIONS {
        let version = if approved { "2.0" } else { "1.0" };
        assert_eq!(installed_version(&root, name).as_deref(), Some(version), "{name}");
    }
    let approved = DECISIONS.iter().filter(|(.., approved)| *approved).count() as u64;
    assert_eq!((done.installed, done.failed, done.needed), (approved, 0, DECISIONS.len() as u64 - approved));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_approves_by_the_glob_of_a_name_what_is_there_and_what_comes_later() {
    let mut fleet = Fleet::start().await;
    for name in ["libssl", "libc", "bash"] {
        fleet.archive.update(&Package::new(name, "2.0"));
    }
    fleet.archive.publish();
    fleet.sync().await;
    let root = fleet.folder("root");
    made_up(&root, &[("libssl", "1.0"), ("bash", "1.0"), ("libz", "1.0")]);
    let mut endpoint = fleet.enroll("web1", "osaka", fleet.address, &root).await;
    endpoint.config.audit_only = true;
    endpoint.start().await;
    let rule = v1::AutoApproval {
        name: "libraries".to_owned(),
        group: "everyone".to_owned(),
        matching: Some("lib*".to_owned()),
        ..v1::AutoApproval::default()
    };
    let mut admin = fleet.admin().await;
    admin.set_auto_approval(v1::SetAutoApprovalRequest { rule: Some(rule.clone()) }).await.unwrap();
    fleet.archive.update(&Package::new("libz", "2.0"));
    fleet.archive.publish();
    fleet.sync().await;
    let approved = async || {
        let request = v1::ListPatchesRequest { state: Some("approved".to_owned()), ..Default::default() };
        let listed = fleet.admin().await.list_patches(request).await.unwrap().into_inner();
        listed.patches.into_iter().map(|patch| patch.id).collect::<Vec<_>>()
    };
    until("the rule has approved", async || approved().await.len() == 3).await;
    assert_eq!(approved().await, ["debian-12/libc_2.0", "debian-12/libssl_2.0", "debian-12/libz_2.0"]);
    fleet.published().await;
    assert_eq!(endpoint.check().await.needed, 3);
    let status = endpoint.status();
    let here: Vec<_> = status.patches.iter().map(|row| (row.patch.as_str(), row.approved)).collect();
    let wanted =
        [("debian-12/bash_2.0", false), ("debian-12/libssl_2.0", true), ("debian-12/libz_2.0", true)];
    assert_eq!(here, wanted);
    let why = endpoint.why("libssl").await.unwrap().approval;
    assert!(why.contains("for group `everyone` by rule:libraries at "), "{why}");

    let nowhere = v1::AutoApproval { group: "no-such-group".to_owned(), ..rule };
    let error =
        admin.set_auto_approval(v1::SetAutoApprovalRequest { rule: Some(nowhere) }).await.unwrap_err();
    assert!(error.message().contains("no-such-group"), "{}", error.message());
}

// The repository, to somebody else's eyes.

fn support(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("support").join(name).to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_central_publishes_is_read_by_the_reference_client() {
    let what = "reading central's repository with the reference client";
    let venv = programs::path("tierctl").with_file_name("../python-tuf");
    let found = programs::run_if_there(&support("python-tuf"), &[&venv]);
    let Some(found) = found.filter(|found| found.code == Some(0)) else {
        return skip(what, "there is no Python with the package tuf, and none could be installed");
    };
    let python = found.output.trim();
    let fleet = fleet_with_hello(Clock::system()).await;
    fleet.approve(&[PATCH]).await;
    let central = fleet.central.as_ref().unwrap().running.central.clone();
    let server = Server::start().await;
    let signed = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap()["signed"].clone();
    let file = |role: &str, version: Option<u64>| central.publisher.metadata(role, version).unwrap();
    let timestamp = file("timestamp", None);
    server.put("/metadata/timestamp.json", timestamp.clone());
    let snapshot_version = signed(&timestamp)["meta"]["snapshot.json"]["version"].as_u64().unwrap();
    let snapshot = file("snapshot", Some(snapshot_version));
    server.put(&format!("/metadata/{snapshot_version}.snapshot.json"), snapshot.clone());
    let targets_version = signed(&snapshot)["meta"]["targets.json"]["version"].as_u64().unwrap();
    let targets = file("targets", Some(targets_version));
    server.put(&format!("/metadata/{targets_version}.targets.json"), targets.clone());
    let mut names = Vec::new();
    for (name, target) in signed(&targets)["targets"].as_object().unwrap() {
        let digest: Digest = target["hashes"]["sha256"].as_str().unwrap().parse().unwrap();
        let root = central.trees.get(&digest, Limits::default().declared_bytes).unwrap();
        assert_eq!(target["length"].as_u64(), Some(root.len() as u64), "{name}");
        server.put(&format!("/targets/{digest}.{name}"), root);
        names.push(name.clone());
    }
    assert_eq!(names, ["debian-12", "debian-12-pool", "policy-default"]);
    let trusted_root = fleet.folder("root.json");
    fs::write(&trusted_root, &central.root_metadata).unwrap();
    for dir in ["reader", "downloaded"] {
        fs::create_dir(fleet.folder(dir)).unwrap();
    }
    let folder = |name: &str| fleet.folder(name).to_str().unwrap().to_owned();
    let mut arguments = vec![
        support("tuf-read.py"),
        folder("reader"),
        format!("{}/metadata/", server.url),
        format!("{}/targets/", server.url),
        folder("downloaded"),
        folder("root.json"),
    ];
    arguments.extend(names.iter().cloned());
    let reading = python.to_owned();
    let read = tokio::task::spawn_blocking(move || programs::run_if_there(&reading, &arguments).unwrap());
    let read = read.await.unwrap();
    let said: Value = serde_json::from_str(&read.output).unwrap_or_else(|_| panic!("{}", read.errors));
    assert_eq!(said["versions"]["timestamp"].as_u64(), Some(central.publisher.timestamp().0), "{said}");
    assert_eq!(said["versions"]["targets"].as_u64(), Some(targets_version), "{said}");
    for name in &names {
        let path = said["targets"][name]["path"].as_str().unwrap_or_else(|| panic!("{said}"));
        let digest = signed(&targets)["targets"][name]["hashes"]["sha256"].as_str().unwrap().to_owned();
        assert_eq!(Digest::of(&fs::read(path).unwrap()).to_string(), digest, "{name}");
    }
}
