//! What central publishes, served by a relay's own door: metadata and trees, with nothing above.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, sync::Arc};

use bytes::Bytes;
use tierway_common::{
    blobs::Blobs,
    clock::Clock,
    daemon::{stop::Stop, tasks::Wake},
    rules::expr::{Expr, OsTest},
    schema::{CatalogueInfo, CatalogueKind},
    store::{Store, memory::MemoryStore},
    transport::{
        accept::{self, Gauge, Limits},
        dial::{self, Route},
        identity::Role,
    },
    tree::{self, Root},
    trust::{
        digest::Digest,
        tuf::{metadata::Target, writer::Repository},
    },
};
use tierway_proto::{
    blob_stream::BlobStreams, notices::Notices, upstream::Upstream, v1::upstream_server::UpstreamServer,
};
use tierway_relay::{
    downstream::{Downstream, Enrolling, Gate, Served},
    mirror::{Head, Mirror},
    outbox::Outbox,
    payloads::Payloads,
    resync::Resync,
    up::Forwarding,
};
use tokio::net::TcpListener;

use super::{
    site::{self, Site},
    updates::{self, windows},
};

/// Bytes of reports that are kept.
const OUTBOX_BYTES: u64 = 64 << 20;

/// One that is published.
#[derive(Debug)]
struct Catalogue {
    root: Root,
    kind: CatalogueKind,
    fits: Expr,
}

/// Publishes to those who ask at its address.
#[derive(Debug)]
pub struct Publisher {
    /// Where it listens.
    pub address: SocketAddr,
    trees: Blobs,
    mirror: Mirror,
    repository: Repository,
    catalogues: BTreeMap<String, Catalogue>,
    clock: Clock,
    stop: Stop,
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.stop.request();
    }
}

impl Publisher {
    /// Serves from `dir`; nothing is published yet.
    pub async fn start(site: &Site, dir: &Path) -> Self {
        let identity = site.join(dir, Role::Relay, "publisher", None);
        let (clock, stop) = (Clock::system(), Stop::new());
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let trees = site::blobs(&dir.join("trees"));
        let mirror = Mirror::open(&dir.join("metadata")).expect("a mirror");
        let upstream = Upstream::new(dial::channel(Route::direct(site::NOWHERE), &identity));
        let payloads = Payloads::new(site::blobs(&dir.join("payloads")), upstream.clone());
        let gate = Gate { tenant: site::tenant(), mirror: mirror.clone(), clock: clock.clone() };
        let service = UpstreamServer::new(Downstream {
            gate: gate.clone(),
            mirror: mirror.clone(),
            payloads: payloads.clone(),
            outbox: Outbox::open(store.clone(), OUTBOX_BYTES).expect("an outbox"),
            resync: Resync::open(store).expect("a set"),
            upstream,
            notices: Notices::new(clock.clone()),
            forwarding: Forwarding::default(),
            stage: Wake::default(),
            seen: Arc::default(),
            clock: clock.clone(),
            stop: stop.clone(),
            enrolling: Enrolling::default(),
        });
        let answer = BlobStreams::new(Served { gate, trees: trees.clone(), payloads }, service);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(accept::serve(
            listener,
            identity,
            answer,
            Limits::default(),
            Gauge::default(),
            stop.clone(),
        ));
        let catalogues = BTreeMap::new();
        Self { address, trees, mirror, repository: site.repository(), catalogues, clock, stop }
    }

    /// Publishes so many updates in the catalogue [`updates::CATALOGUE`], beside an empty pool and an empty
    /// policy; the bytes of all documents.
    pub fn publish_first(&mut self, site: &Site, count: usize) -> Vec<Bytes> {
        let documents: BTreeMap<String, Bytes> =
            (0..count).map(|number| updates::document(number, 0)).collect();
        assert_eq!(documents.len(), count, "keys differ");
        let all = documents.values().cloned().collect();
        let pool = CatalogueKind::Pool(updates::CATALOGUE.parse().expect("an id"));
        let policy = format!("policy-{}", site::tenant());
        let debian = || of_family("debian");
        self.keep(updates::CATALOGUE, documents, CatalogueKind::Updates, debian());
        self.keep(&format!("{}-pool", updates::CATALOGUE), BTreeMap::new(), pool, debian());
        self.keep(&policy, BTreeMap::new(), CatalogueKind::Policy, Expr::Const(true));
        self.publish(site);
        all
    }

    /// Publishes so many updates for Windows besides, in the catalogue [`windows::CATALOGUE`].
    pub fn publish_windows(&mut self, site: &Site, count: usize) {
        let documents: BTreeMap<String, Bytes> =
            (0..count).map(|number| windows::document(number, 0)).collect();
        assert_eq!(documents.len(), count, "keys differ");
        self.keep(windows::CATALOGUE, documents, CatalogueKind::Updates, of_family("windows"));
        self.publish(site);
    }

    /// Root of the tree of a catalogue that is published.
    #[must_use]
    pub fn root(&self, catalogue: &str) -> Digest {
        self.catalogues[catalogue].root.digest
    }

    fn keep(&mut self, catalogue: &str, documents: BTreeMap<String, Bytes>, kind: CatalogueKind, fits: Expr) {
        let mut nodes: Vec<Bytes> = Vec::new();
        let root = tree::build(documents, &mut nodes).expect("a tree");
        self.trees.put_many(&nodes).expect("kept");
        self.catalogues.insert(catalogue.to_owned(), Catalogue { root, kind, fits });
    }

    /// Publishes these documents in place of others of [`updates::CATALOGUE`] under the same keys.
    pub fn publish_changes(&mut self, site: &Site, changes: impl Iterator<Item = (String, Bytes)>) {
        self.publish_changes_in(site, updates::CATALOGUE, changes);
    }

    /// The same of another catalogue that is published.
    pub fn publish_changes_in(
        &mut self,
        site: &Site,
        catalogue: &str,
        changes: impl Iterator<Item = (String, Bytes)>,
    ) {
        let changes = changes.map(|(key, document)| (key, Some(document))).collect();
        let Catalogue { root, .. } = self.catalogues.get_mut(catalogue).expect("published");
        let mut nodes: Vec<Bytes> = Vec::new();
        *root = tree::update(&root.digest, &changes, &self.trees, &mut nodes).expect("a tree");
        self.trees.put_many(&nodes).expect("kept");
        self.publish(site);
    }

    fn publish(&mut self, site: &Site) {
        let targets = self.catalogues.iter().map(|(name, Catalogue { root, kind, fits })| {
            let info = CatalogueInfo { kind: kind.clone(), fits: fits.clone(), documents: root.documents };
            let length = self.trees.len(&root.digest).expect("kept");
            let custom = Some(serde_json::to_value(info).expect("JSON"));
            (name.clone(), Target { length, sha256: root.digest, custom })
        });
        let published =
            self.repository.publish(&targets.collect(), &[&site.key], self.clock.now()).expect("published");
        let mut timestamp = Bytes::new();
        for (name, bytes) in published.files {
            match name.split('.').collect::<Vec<_>>()[..] {
                [version, role, "json"] => {
                    let version = version.parse().expect("a version");
                    self.mirror.keep(role, version, &bytes).expect("kept");
                }
                _ => timestamp = bytes,
            }
        }
        let timestamp_version = published.timestamp_version;
        let head = Head { timestamp_version, timestamp, ..Head::default() };
        self.mirror.set_head(head).expect("kept");
    }
}

fn of_family(family: &str) -> Expr {
    Expr::Os(OsTest { family: Some(family.to_owned()), ..OsTest::default() })
}
