//! Payloads: what it costs a relay to serve them, beside nginx with TLS 1.3 and the same files, and beside squid,
//! which has them in its cache and serves them without TLS.
//!
//! The relay is the whole relay, joined, with nobody above it. The others run one worker on the same core, over
//! HTTP/1.1 with kept-alive connections. The load clients drop what comes.

#![expect(clippy::expect_used, reason = "a benchmark stops at the first thing that is wrong")]

#[path = "relay_payloads/peers.rs"]
mod peers;

use std::{
    env,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tierway_common::{
    blobs::Blobs,
    transport::{
        dial::{self, Route},
        identity::Role,
        tls::Identity,
    },
    trust::digest::Digest,
};
use tierway_proto::upstream::Upstream;
use tierway_tests::bench::{
    load::{Tier, Web},
    place,
    process::Server,
    site::{self, Site},
    table::{Table, median, micros},
};

use self::peers::Peer;

const LARGE_BYTES: usize = 100_000_000;
const SMALL_BYTES: usize = 20_000;
const SMALL_COUNT: usize = 20_000;
/// Blobs of one request.
const BATCH: usize = 1_000;
const CLIENTS: usize = 64;
/// How often 64 clients together fetch all small blobs in a round.
const PASSES: usize = 4;
/// Rounds that count; the one before them warms up.
const ROUNDS: usize = 5;

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

/// One kind of load.
struct Case {
    what: &'static str,
    clients: usize,
    /// What each client fetches, in this many requests of a relay.
    requests: Vec<Vec<Digest>>,
    /// Each client does all of `requests`, or its share.
    share: bool,
    bytes_each: usize,
    unit: Unit,
}

#[derive(Clone, Copy)]
enum Unit {
    Gigabyte,
    Blob,
}

#[derive(Clone)]
struct Cost {
    cpu: Duration,
    wall: Duration,
    blobs: u64,
}

impl Case {
    /// The requests of one client.
    fn of(&self, client: usize) -> Vec<Vec<Digest>> {
        if self.share {
            self.requests.iter().skip(client).step_by(self.clients).cloned().collect()
        } else {
            self.requests.clone()
        }
    }

    fn cost(&self, server: &Server, wall: Duration, before: Duration) -> Cost {
        let per_client: usize = (0..self.clients).map(|client| self.of(client).concat().len()).sum();
        Cost { cpu: server.cpu() - before, wall, blobs: per_client as u64 }
    }

    async fn relay(&self, server: &Server, identities: &[Identity]) -> Cost {
        let mut tiers = Vec::new();
        for identity in &identities[..self.clients] {
            tiers.push(Tier::connect(server.address, identity).await);
        }
        let (before, began) = (server.cpu(), Instant::now());
        let each = self.bytes_each as u64;
        let tasks: Vec<_> = tiers
            .into_iter()
            .enumerate()
            .map(|(client, mut tier)| {
                let requests = self.of(client);
                tokio::spawn(async move {
                    for request in requests {
                        assert!(tier.fetch(&request).await > each * request.len() as u64, "all of it");
                    }
                    tier
                })
            })
            .collect();
        let mut open = Vec::new();
        for task in tasks {
            open.push(task.await.expect("it comes to its end"));
        }
        self.cost(server, began.elapsed(), before)
    }

    async fn peer(&self, peer: &Peer) -> Cost {
        let mut webs = Vec::new();
        for _ in 0..self.clients {
            webs.push(Web::connect(peer.server.address, peer.tls.clone()).await);
        }
        let (before, began) = (peer.server.cpu(), Instant::now());
        let each = self.bytes_each as u64;
        let tasks: Vec<_> = webs
            .into_iter()
            .enumerate()
            .map(|(client, mut web)| {
                let requests = self.of(client);
                tokio::spawn(async move {
                    for digest in requests.concat() {
                        assert_eq!(web.get(&peers::path(&digest)).await, each, "all of it");
                    }
                    web
                })
            })
            .collect();
        let mut open = Vec::new();
        for task in tasks {
            open.push(task.await.expect("it comes to its end"));
        }
        self.cost(&peer.server, began.elapsed(), before)
    }
}

/// Bytes that do not compress and are the same on every run.
fn noise(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}

fn measure() {
    let dir = tempfile::tempdir().expect("a folder");
    let (relay_dir, client_dir) = (dir.path().join("relay"), dir.path().join("client"));
    let site = Site::new();
    let _ = site.join(&relay_dir, Role::Relay, "relay", None);
    let identities: Vec<_> = (0..CLIENTS)
        .map(|number| site.join(&client_dir, Role::Endpoint, &format!("endpoint-{number}"), None))
        .collect();
    let blobs = site::blobs(&relay_dir.join("payloads"));
    let large = blobs.put(&noise(0, LARGE_BYTES)).expect("kept");
    let mut small = Vec::new();
    for batch in (1..=SMALL_COUNT as u64).collect::<Vec<_>>().chunks(BATCH) {
        let bytes: Vec<_> = batch.iter().map(|seed| noise(*seed, SMALL_BYTES)).collect();
        small.extend(blobs.put_many(&bytes).expect("kept"));
    }
    drop(blobs);

    place::pin(place::CLIENT);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    println!(
        "relay payloads: CPU of the server process, {ROUNDS} rounds, TCP congestion control {}",
        place::congestion_control()
    );
    runtime.block_on(memory(&relay_dir, &identities, large));
    let relay = Server::again("relay", &relay_dir);
    let peers = runtime.block_on(peers::all(&relay_dir.join("payloads"), &[&[large], &small[..]].concat()));
    let kept = site::blobs(&client_dir.join("payloads"));
    runtime.block_on(async {
        verify(relay.address, &identities[0], &small, large, &kept).await;
        compare(&relay, &identities, &peers, &small, large).await;
    });
}

/// What the relay serves is what was put there: the real client hashes it.
async fn verify(address: SocketAddr, identity: &Identity, small: &[Digest], large: Digest, kept: &Blobs) {
    let upstream = Upstream::new(dial::channel(Route::direct(&address.to_string()), identity));
    let found = upstream.small_blobs(small, SMALL_BYTES as u64).await.expect("blobs");
    assert_eq!(found.len(), SMALL_COUNT);
    upstream.payload(large, Some(LARGE_BYTES as u64), kept).await.expect("the blob");
}

async fn compare(relay: &Server, identities: &[Identity], peers: &[Peer], small: &[Digest], large: Digest) {
    let batches = |size: usize| small.chunks(size).map(<[_]>::to_vec).collect::<Vec<_>>();
    let cases = [
        Case {
            what: "100 MB, 1 client",
            clients: 1,
            requests: vec![vec![large]; 16],
            share: false,
            bytes_each: LARGE_BYTES,
            unit: Unit::Gigabyte,
        },
        Case {
            what: "100 MB, 64 clients",
            clients: CLIENTS,
            requests: vec![vec![large]],
            share: false,
            bytes_each: LARGE_BYTES,
            unit: Unit::Gigabyte,
        },
        Case {
            what: "20,000 × 20 KB, 1 client",
            clients: 1,
            requests: batches(BATCH),
            share: false,
            bytes_each: SMALL_BYTES,
            unit: Unit::Blob,
        },
        Case {
            what: "20,000 × 20 KB, 64 clients",
            clients: CLIENTS,
            requests: vec![batches(SMALL_COUNT.div_ceil(CLIENTS)); PASSES].concat(),
            share: true,
            bytes_each: SMALL_BYTES,
            unit: Unit::Blob,
        },
    ];
    let mut table = Table::new(
        "CPU of the server (medians; ratio of the relay to it: median of the rounds' ratios)",
        &["load", "server", "CPU", "unit", "ratio", "MB/s"],
    );
    for case in &cases {
        let figure = |cost: &Cost| match case.unit {
            Unit::Gigabyte => cost.cpu.as_secs_f64() / (cost.blobs as f64 * case.bytes_each as f64 / 1e9),
            Unit::Blob => micros(cost.cpu, cost.blobs),
        };
        let speed = |cost: &Cost| cost.blobs as f64 * case.bytes_each as f64 / 1e6 / cost.wall.as_secs_f64();
        // Of the relay and of each peer, a round each.
        let mut rounds = vec![Vec::new(); peers.len() + 1];
        for round in 0..=ROUNDS {
            let mut costs = vec![case.relay(relay, identities).await];
            for peer in peers {
                costs.push(case.peer(peer).await);
            }
            if round > 0 {
                rounds.iter_mut().zip(costs).for_each(|(of, cost)| of.push(cost));
            }
        }
        let (digits, unit) = match case.unit {
            Unit::Gigabyte => (3, "s/GB"),
            Unit::Blob => (1, "µs/blob"),
        };
        let names = ["relay"].into_iter().chain(peers.iter().map(|peer| peer.kind.name()));
        for (name, costs) in names.zip(&rounds) {
            let ratios: Vec<_> =
                rounds[0].iter().zip(costs).map(|(ours, theirs)| figure(ours) / figure(theirs)).collect();
            table.row([
                case.what.to_owned(),
                name.to_owned(),
                format!("{:.digits$}", median(&costs.iter().map(figure).collect::<Vec<_>>())),
                unit.to_owned(),
                format!("{:.2}", median(&ratios)),
                format!("{:.0}", median(&costs.iter().map(speed).collect::<Vec<_>>())),
            ]);
        }
    }
    table.print();
}

/// Memory of a fresh relay while so many clients fetch the large blob at once, and after.
async fn memory(relay_dir: &Path, identities: &[Identity], large: Digest) {
    let mut table = Table::new(
        "Anonymous memory of the relay, 100 MB blob, KiB",
        &["clients", "idle", "peak", "after", "peak resident"],
    );
    for clients in [1, 16, CLIENTS] {
        let relay = Server::again("relay", relay_dir);
        let mut tiers = Vec::new();
        for identity in &identities[..clients] {
            tiers.push(Tier::connect(relay.address, identity).await);
        }
        let idle = relay.seen().anonymous_kib();
        let mut tasks = tokio::task::JoinSet::new();
        for mut tier in tiers {
            tasks.spawn(async move {
                tier.fetch(&[large]).await;
                tier
            });
        }
        let mut look = tokio::time::interval(Duration::from_millis(20));
        let (mut peak, mut open) = (idle, Vec::new());
        while open.len() < clients {
            tokio::select! {
                tier = tasks.join_next() => open.push(tier),
                _ = look.tick() => peak = peak.max(relay.seen().anonymous_kib()),
            }
        }
        let after = relay.seen().anonymous_kib();
        table.row([
            clients.to_string(),
            idle.to_string(),
            peak.to_string(),
            after.to_string(),
            relay.seen().peak_resident_kib().to_string(),
        ]);
    }
    table.print();
}
