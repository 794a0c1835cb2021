//! The dictionary: bytes on the wire for an endpoint that has all of it, after some updates changed.
//!
//! The endpoint is the endpoint's own code; the server is the relay's own door. The bytes are those of TCP,
//! both ways, of a check-in and everything that follows from it on a connection that is open already.

#![expect(clippy::expect_used, reason = "a benchmark stops at the first thing that is wrong")]

use std::{collections::BTreeMap, io::Write as _};

use liblzma::write::XzEncoder;
use tierway_common::{
    clock::Clock,
    facts::{Domain, Facts},
    transport::{
        dial::{self, Route},
        identity::Role,
    },
};
use tierway_endpoint::catalogues::Catalogues;
use tierway_proto::{upstream::Upstream, v1};
use tierway_tests::bench::{
    counter::{Carried, Counter},
    publisher::Publisher,
    site::{self, Site},
    table::Table,
    updates::{self, UPDATES},
};

/// The aim for one changed update, both ways together.
const ONE_CHANGE_BYTES_MAX: u64 = 8 * 1024;
/// Single changes of each kind, spread over the catalogue.
const TRIES: usize = 40;
/// As xz compresses by default, and Debian its indices.
const XZ_LEVEL: u32 = 6;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(measure());
}

fn os() -> Facts {
    let mut facts = Facts::default();
    facts.domains.insert("os".to_owned(), Domain::Complete { source: "/etc/os-release".to_owned() });
    for (key, value) in [("os:family", "debian"), ("os:codename", "bookworm")] {
        facts.values.insert(key.to_owned(), value.to_owned());
    }
    facts
}

struct Endpoint {
    upstream: Upstream,
    catalogues: Catalogues,
    counter: Counter,
    clock: Clock,
}

impl Endpoint {
    /// Checks in and brings over what is new, as a cycle does.
    async fn check(&mut self) -> Carried {
        self.counter.take();
        let request = v1::CheckInRequest {
            timestamp_version: self.catalogues.version(),
            agent_version: tierway_endpoint::agent::VERSION.to_owned(),
            wanted: Vec::new(),
            relay: None,
            answered: Vec::new(),
            targets_version: self.catalogues.targets_version(),
        };
        let answer = self.upstream.check_in(request).await.expect("an answer");
        if self.catalogues.is_behind(&answer) {
            let refreshed = self.catalogues.refresh(&answer, &os(), self.clock.now()).await;
            refreshed.expect("brought over");
        }
        assert_eq!(self.catalogues.version(), answer.timestamp_version);
        self.counter.take()
    }
}

async fn measure() {
    let dir = tempfile::tempdir().expect("a folder");
    let site = Site::new();
    let mut publisher = Publisher::start(&site, &dir.path().join("publisher")).await;
    let documents = publisher.publish_first(&site, UPDATES);
    let plain: usize = documents.iter().map(|document| document.len()).sum();
    let mut index = XzEncoder::new(Vec::new(), XZ_LEVEL);
    for document in &documents {
        index.write_all(document).expect("compressed");
    }
    let index = index.finish().expect("compressed").len() as u64;

    let counter = Counter::start(publisher.address).await;
    let own = dir.path().join("endpoint");
    let identity = site.join(&own, Role::Endpoint, "endpoint", None);
    let upstream = Upstream::new(dial::channel(Route::direct(&counter.address.to_string()), &identity));
    let catalogues =
        Catalogues::open(&own, &own.join("trust"), &site::tenant(), upstream.clone(), 0).expect("opened");
    let mut endpoint = Endpoint { upstream, catalogues, counter, clock: Clock::system() };

    println!(
        "dictionary sync: {UPDATES} updates, {plain} bytes of JSON, {index} bytes as one file compressed by xz -{XZ_LEVEL}"
    );
    let mut table =
        Table::new("Bytes on the wire (TCP payload)", &["changed", "up", "down", "together", "of the index"]);
    let mut row = |what: String, Carried { up, down }: Carried| {
        let share = format!("1/{:.0}", index as f64 / (up + down) as f64);
        table.row([what, up.to_string(), down.to_string(), (up + down).to_string(), share]);
    };
    row("everything, connection included".to_owned(), endpoint.check().await);
    row("nothing".to_owned(), endpoint.check().await);
    for (round, count) in [1, 10, 100, 1_000].into_iter().enumerate() {
        // Spread over the whole catalogue, as sources are that share a library.
        let numbers = (0..count).map(|index| (index * (UPDATES / count) + 17 * round) % UPDATES);
        let changes: BTreeMap<_, _> = numbers.map(|number| updates::document(number, 1 + round)).collect();
        assert_eq!(changes.len(), count);
        publisher.publish_changes(&site, changes.into_iter());
        row(count.to_string(), endpoint.check().await);
    }
    table.print();

    let title = format!("Bytes of one change, both ways together, {TRIES} of each kind");
    let mut table = Table::new(&title, &["update", "median", "95 of 100", "most", "held"]);
    for (what, first, revision) in [("changed", 0, 9), ("added", UPDATES, 0)] {
        let mut together = Vec::new();
        for number in (0..TRIES).map(|number| first + number * 499) {
            publisher.publish_changes(&site, [updates::document(number, revision)].into_iter());
            let carried = endpoint.check().await;
            together.push(carried.up + carried.down);
        }
        together.sort_unstable();
        let held = together.iter().filter(|bytes| **bytes <= ONE_CHANGE_BYTES_MAX).count();
        let at = |place: usize| together[(TRIES - 1) * place / 100].to_string();
        table.row([what.to_owned(), at(50), at(95), at(100), format!("{held}/{TRIES}")]);
    }
    table.print();
    println!("  aim: one change in at most {ONE_CHANGE_BYTES_MAX} bytes");
}
