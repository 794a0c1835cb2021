//! A check-in that finds nothing new: bytes on the wire, and what it costs the relay.

#![expect(clippy::expect_used, reason = "a benchmark stops at the first thing that is wrong")]

use std::{
    env,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tierway_common::transport::{
    dial::{self, Route},
    identity::Role,
    tls::Identity,
};
use tierway_proto::{upstream::Upstream, v1};
use tierway_relay::mirror::{Head, Mirror};
use tierway_tests::bench::{
    counter::{Carried, Counter},
    load::Tier,
    place,
    process::Server,
    site::{self, Site},
    table::{Table, median, micros},
};

const PATH: &str = "/tierway.v1.Upstream/CheckIn";
/// Check-ins whose bytes are counted.
const COUNTED: u64 = 1_000;
/// Check-ins of one round, over all connections.
const PER_ROUND: u64 = 64_000;
/// Rounds that count; the one before them warms up.
const ROUNDS: usize = 5;
/// The aim, each way.
const BYTES_MAX: u64 = 1024;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => {
            place::own_network();
            measure();
        }
        ["relay", dir] => site::serve_relay(dir.into()),
        other => panic!("unexpected arguments {other:?}"),
    }
}

fn request() -> v1::CheckInRequest {
    v1::CheckInRequest {
        timestamp_version: 7,
        agent_version: tierway_endpoint::agent::VERSION.to_owned(),
        wanted: Vec::new(),
        relay: None,
        answered: Vec::new(),
        targets_version: 7,
    }
}

fn measure() {
    let dir = tempfile::tempdir().expect("a folder");
    let relay = dir.path().join("relay");
    let site = Site::new();
    let _ = site.join(&relay, Role::Relay, "relay", None);
    // A relay that has mirrored something.
    let head = Head {
        timestamp_version: 7,
        timestamp: Bytes::from_static(b"not looked at by those who have it"),
        ..Head::default()
    };
    Mirror::open(&relay.join("metadata")).and_then(|mirror| mirror.set_head(head)).expect("kept");
    let identities: Vec<Identity> = (0..64)
        .map(|number| {
            let id = format!("endpoint-{number}");
            site.join(&dir.path().join(&id), Role::Endpoint, &id, None)
        })
        .collect();

    place::pin(place::CLIENT);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let server = Server::again("relay", Path::new(&relay));
    println!(
        "check-in: nothing new, mTLS, {ROUNDS} rounds, TCP congestion control {}",
        place::congestion_control()
    );
    runtime.block_on(async {
        bytes(&server, &identities[0]).await;
        cost(&server, &identities).await;
    });
}

async fn bytes(server: &Server, identity: &Identity) {
    let counter = Counter::start(server.address).await;
    let upstream = Upstream::new(dial::channel(Route::direct(&counter.address.to_string()), identity));
    let check_in = async || {
        let answer = upstream.check_in(request()).await.expect("an answer");
        assert_eq!((answer.timestamp_version, answer.timestamp), (7, None));
    };
    check_in().await;
    let first = counter.take();
    check_in().await;
    let second = counter.take();
    for _ in 0..COUNTED {
        check_in().await;
    }
    let Carried { up, down } = counter.take();
    let mut table = Table::new("Bytes on the wire (TCP payload)", &["check-in", "up", "down"]);
    let mut row = |what: &str, up: u64, down: u64| {
        table.row([what.to_owned(), up.to_string(), down.to_string()]);
    };
    row("first, with the TLS handshake", first.up, first.down);
    row("second on the connection", second.up, second.down);
    row("each of the next 1,000", up / COUNTED, down / COUNTED);
    table.print();
    let verdict = if up.max(down) / COUNTED <= BYTES_MAX { "held" } else { "missed" };
    println!("  aim: at most {BYTES_MAX} bytes each way: {verdict}");
}

async fn cost(server: &Server, identities: &[Identity]) {
    let mut table = Table::new(
        "CPU of the relay for a check-in on an open connection (medians)",
        &["connections", "µs", "per second and core", "per second here"],
    );
    for connections in [1, identities.len()] {
        let mut tiers = Vec::new();
        for identity in &identities[..connections] {
            tiers.push(Tier::connect(server.address, identity).await);
        }
        let each = PER_ROUND / 64 * if connections == 1 { 16 } else { 1 };
        let all = each * connections as u64;
        let (mut costs, mut rates) = (Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let (before, began) = (server.cpu(), Instant::now());
            let mut tasks = tokio::task::JoinSet::new();
            for mut tier in tiers {
                tasks.spawn(async move {
                    for _ in 0..each {
                        tier.call(PATH, &request()).await;
                    }
                    tier
                });
            }
            tiers = tasks.join_all().await;
            if round > 0 {
                costs.push(micros(server.cpu() - before, all));
                rates.push(all as f64 / began.elapsed().as_secs_f64());
            }
        }
        table.row([
            connections.to_string(),
            format!("{:.1}", median(&costs)),
            format!("{:.0}", 1e6 / median(&costs)),
            format!("{:.0}", median(&rates)),
        ]);
    }
    let mut connects = Vec::new();
    for round in 0..=ROUNDS {
        let before = server.cpu();
        for identity in identities.iter().cycle().take(identities.len() * 8) {
            // A fresh configuration each time would be a full handshake; this one has its tickets.
            let mut tier = Tier::connect(server.address, identity).await;
            tier.call(PATH, &request()).await;
        }
        // Connections end after their last answer.
        tokio::time::sleep(Duration::from_millis(50)).await;
        if round > 0 {
            connects.push(micros(server.cpu() - before, identities.len() as u64 * 8));
        }
    }
    table.row([
        "new each time, TLS resumed".to_owned(),
        format!("{:.1}", median(&connects)),
        format!("{:.0}", 1e6 / median(&connects)),
        String::new(),
    ]);
    table.print();
}
