//! What a tier above answers, at a door whose certificates count by the clock of the machine: those of a simulated year
//! would end, and no door would take the ones that follow them.

use std::{fs, net::SocketAddr, path::Path, sync::Arc};

use tierway_common::{
    blobs::Blobs,
    clock::Clock,
    daemon::{stop::Stop, tasks::Wake},
    store::{Store, memory::MemoryStore},
    transport::{
        accept::{self, Gauge, Limits},
        dial::{self, Route},
        identity::Role,
        tls::Identity,
    },
};
use tierway_proto::{
    blob_stream::BlobStreams, notices::Notices, upstream::Upstream, v1::upstream_server::UpstreamServer,
};
use tierway_relay::{
    downstream::{Downstream, Enrolling, Gate, Served},
    mirror::Mirror,
    outbox::Outbox,
    payloads::Payloads,
    resync::Resync,
    up::Forwarding,
};
use tokio::net::TcpListener;

use crate::bench::site::{self, Site};

/// What is behind a door.
pub(super) struct Behind {
    pub(super) trees: Blobs,
    pub(super) mirror: Mirror,
    pub(super) payloads: Payloads,
    pub(super) outbox: Outbox,
}

/// Makes `dir` the folder of a machine below the tier at `above`, that trusts what `root` signs; how it reaches that.
pub(super) fn join(
    site: &Site,
    dir: &Path,
    (role, id): (Role, &str),
    above: Option<SocketAddr>,
    root: &[u8],
) -> (Identity, Upstream) {
    let above = above.map(|above| above.to_string());
    let identity = site.join(dir, role, id, above.as_deref());
    fs::write(dir.join("trust/root.json"), root).unwrap();
    let route = Route::direct(above.as_deref().unwrap_or(site::NOWHERE));
    let upstream = Upstream::new(dial::channel(route, &identity));
    (identity, upstream)
}

/// Opens a door; its address. It is shut when `stop` is requested.
pub(super) async fn open(identity: Identity, upstream: Upstream, behind: Behind, stop: &Stop) -> SocketAddr {
    let Behind { trees, mirror, payloads, outbox } = behind;
    let clock = Clock::system();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let gate = Gate { tenant: site::tenant(), mirror: mirror.clone(), clock: clock.clone() };
    let service = UpstreamServer::new(Downstream {
        gate: gate.clone(),
        mirror,
        payloads: payloads.clone(),
        outbox,
        resync: Resync::open(store).unwrap(),
        upstream,
        notices: Notices::new(clock.clone()),
        forwarding: Forwarding::default(),
        stage: Wake::default(),
        seen: Arc::default(),
        clock,
        stop: stop.clone(),
        enrolling: Enrolling::default(),
    });
    let answer = BlobStreams::new(Served { gate, trees, payloads }, service);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = stop.clone();
    tokio::spawn(accept::serve(listener, identity, answer, Limits::default(), Gauge::default(), stop));
    address
}
