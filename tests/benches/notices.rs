//! How soon computers are told: 5,000 connections to one relay, a central above, and an approval.

#![expect(clippy::expect_used, reason = "a benchmark stops at the first thing that is wrong")]

use std::time::{Duration, Instant};

use tierway_common::schedule;
use tierway_endpoint::config::Config as EndpointConfig;
use tierway_proto::v1;
use tierway_tests::{
    archive::Package,
    bench::{
        place,
        process::{self, Seen},
        table::Table,
    },
    crowd::Crowd,
    fleet::Fleet,
};
use tokio::task::JoinSet;

/// Computers.
const ENDPOINTS: usize = 5_000;
/// Approvals, one after the other.
const ROUNDS: usize = 3;
/// The aim: so many of a thousand are told,
const PERMILLE: usize = 990;
/// within this.
const WITHIN: Duration = Duration::from_secs(60);
/// Both ends of each connection are in this process; besides there are files and listeners.
const DESCRIPTORS: u64 = 2 * ENDPOINTS as u64 + 1_000;

fn main() {
    place::own_network();
    process::allow_descriptors(DESCRIPTORS);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(measure());
}

async fn measure() {
    let own = Seen(std::process::id());
    let mut fleet = Fleet::start().await;
    for round in 0..ROUNDS {
        fleet.archive.update(&Package::new(&format!("hello{round}"), "2.0"));
    }
    fleet.archive.publish();
    fleet.sync().await;
    let relay = fleet.relay("osaka").await;
    relay.caught_up(&fleet).await;
    let has = || relay.running().mirror.head().timestamp_version;

    let began = Instant::now();
    let mut crowd = Crowd::gather(&fleet, "osaka", relay.address, ENDPOINTS, has()).await;
    println!(
        "notices: {ENDPOINTS} connections with mTLS to one relay, {:.0} s to make them; {} MiB in all, both ends",
        began.elapsed().as_secs_f64(),
        own.peak_resident_kib() >> 10,
    );
    let mut table = Table::new(
        "From an approval at central until a computer is told, and until it has checked in (seconds)",
        &["round", "told", "p50", "p90", "p99", "last", "checked in", "p50", "last", "CPU"],
    );
    let mut held = true;
    for round in 0..ROUNDS {
        let (before, cpu) = (has(), own.cpu());
        let request = v1::DecidePatchesRequest {
            patches: vec![format!("debian-12/hello{round}_2.0")],
            group: "everyone".to_owned(),
            decision: "approve".to_owned(),
            ..v1::DecidePatchesRequest::default()
        };
        let mut admin = fleet.admin().await;
        let began = Instant::now();
        admin.decide_patches(request).await.expect("decided");
        let told = crowd.told(before, ENDPOINTS, WITHIN).await;
        held &= told.len() * 1_000 >= ENDPOINTS * PERMILLE;

        // As the agents do: each at its own place in the interval.
        let spread = EndpointConfig::default().notice_spread;
        let mut checks = JoinSet::new();
        for heard in &told {
            let (listener, at) = (crowd.listeners[heard.who].clone(), heard.at);
            checks.spawn(async move {
                let due = at + schedule::offset(&listener.id, spread);
                tokio::time::sleep_until(due.into()).await;
                let out = listener.check_in(before, Vec::new()).await;
                assert!(out > before, "what it was called for is here");
                began.elapsed()
            });
        }
        let checked = sorted(checks.join_all().await);
        let heard = sorted(told.iter().map(|heard| heard.at.duration_since(began)).collect());
        let seconds = |times: &[Duration], permille| {
            percentile(times, permille).map_or_else(String::new, |time| format!("{:.2}", time.as_secs_f64()))
        };
        table.row([
            (round + 1).to_string(),
            heard.len().to_string(),
            seconds(&heard, 500),
            seconds(&heard, 900),
            seconds(&heard, 990),
            seconds(&heard, 1_000),
            checked.len().to_string(),
            seconds(&checked, 500),
            seconds(&checked, 1_000),
            format!("{:.1}", (own.cpu() - cpu).as_secs_f64()),
        ]);
    }
    table.print();
    println!(
        "  aim: {} of {ENDPOINTS} within {} s: {}",
        ENDPOINTS * PERMILLE / 1_000,
        WITHIN.as_secs(),
        if held { "held" } else { "missed" },
    );
    println!("  still listening: {}", crowd.listening());
}

fn sorted(mut times: Vec<Duration>) -> Vec<Duration> {
    times.sort();
    times
}

/// The time by which so many of a thousand were done.
fn percentile(times: &[Duration], permille: usize) -> Option<Duration> {
    times.get((times.len() * permille).div_ceil(1_000).checked_sub(1)?).copied()
}
