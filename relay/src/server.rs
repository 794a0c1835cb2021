//! The relay as a whole: what is opened, which tasks run, how it ends.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tierway_common::{
    blobs::{BlobError, BlobOptions, Blobs},
    clock::Clock,
    daemon::{
        stop::Stop,
        tasks::{Board, TaskError, Tasks, Wake},
    },
    notices::Audience,
    schedule,
    store::{
        Store, StoreError,
        failing::{Ending, stop_when_failed},
        sled_store::SledStore,
    },
    transport::{
        accept,
        dial::{self, Route},
        identity::{Holder, Role},
        tls::Identity,
    },
    trust::tuf::error::TufError,
};
use tierway_proto::{
    blob_stream::BlobStreams,
    joining::{self, JoinError},
    notices::Notices,
    upstream::Upstream,
    v1::upstream_server::UpstreamServer,
};
use tokio::net::TcpListener;
use tracing::info;

use crate::{
    config::Config,
    downstream::{Downstream, Enrolling, Gate, Served},
    mirror::Mirror,
    outbox::Outbox,
    payloads::Payloads,
    resync::Resync,
    sync::{Sync, SyncError},
    up::{self, Up},
};

/// This program's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Longest message taken: a batch of reports and its framing.
const REQUEST_BYTES_MAX: usize = (1 << 20) + (64 << 10);
/// Longest message sent: metadata.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Bytes of the mirrored trees: ten times what all of Debian takes; what is published is pinned.
const TREE_BYTES_MAX: u64 = 2 << 30;
/// Memory for tree nodes that are served often: those of all updates for a system, twice.
const NODES_AT_HAND_BYTES: u64 = 24 << 20;
/// How often the certificate's age is looked at.
const RENEWAL_CHECK: SignedDuration = SignedDuration::from_hours(1);
/// What central gives a relay's certificate.
const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(21 * 24 * 3600);
/// What running tasks get to end.
const GRACE: Duration = Duration::from_secs(30);

/// Why a relay does not start.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// It has not joined, or its identity is broken.
    #[error("could not take up the relay's identity")]
    Join(#[from] JoinError),
    /// The store.
    #[error("could not open the store")]
    Store(#[from] StoreError),
    /// The blobs.
    #[error("could not open the blobs")]
    Blobs(#[from] BlobError),
    /// The trusted metadata.
    #[error("could not open the trusted metadata")]
    Trust(#[from] TufError),
    /// A folder or file.
    #[error("could not open `{path}`")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The address is taken, or not this machine's.
    #[error("could not listen on `{address}`")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// A relay that listens.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    /// How its tasks are.
    pub board: Board,
    /// Its metadata.
    pub mirror: Mirror,
    /// Its reports.
    pub outbox: Outbox,
    /// Its payloads.
    pub payloads: Payloads,
    /// Who watches.
    pub notices: Notices,
    tasks: Tasks,
    ending: Ending,
}

impl Running {
    /// Returns when the stop signal came and everything has ended; why, when it ended without having been asked to.
    pub async fn ended(self) -> Option<String> {
        // The stop signal ends each task; only then does the grace begin to count.
        self.tasks.ended(GRACE).await;
        self.ending.why()
    }
}

/// A relay that is open and does nothing yet.
#[derive(Debug)]
pub struct Opened {
    /// What it does upward.
    pub up: Up,
    sync: Sync,
    trees: Blobs,
    wakes: Wakes,
    gate: Gate,
    clock: Clock,
    stop: Stop,
    offset: Duration,
    period: Duration,
}

/// Wakes the tasks of these names.
#[derive(Clone, Debug, Default)]
struct Wakes {
    sync: Wake,
    stage: Wake,
}

/// What answers at a relay's door.
pub type Door = BlobStreams<Served, UpstreamServer<Downstream>>;

impl Opened {
    /// Opens what lies below the data folder of `config`, for the relay `holder`, with its reports in `store`, below
    /// the tier `upstream`.
    ///
    /// # Errors
    ///
    /// [`RelayError`], naming what does not open.
    pub fn new(
        config: &Config,
        holder: &Holder,
        store: Arc<dyn Store>,
        upstream: Upstream,
        clock: Clock,
        stop: Stop,
    ) -> Result<Self, RelayError> {
        let dir = &config.data_dir;
        let open = |path: PathBuf| move |source| RelayError::Open { path, source };
        let trees = Blobs::open(
            &dir.join("trees"),
            BlobOptions { quota_bytes: TREE_BYTES_MAX, free_floor_bytes: config.disk_free_bytes_min },
        )?;
        trees.set_cache_bytes(NODES_AT_HAND_BYTES);
        let payload_blobs = Blobs::open(
            &dir.join("payloads"),
            BlobOptions::of_payloads(config.payload_bytes_max, config.disk_free_bytes_min),
        )?;
        let outbox = Outbox::open(store.clone(), config.outbox_bytes_max)?;
        let resync = Resync::open(store)?;
        let mirror_dir = dir.join("metadata");
        let mirror = Mirror::open(&mirror_dir).map_err(open(mirror_dir))?;
        let payloads = Payloads::new(payload_blobs, upstream.clone());
        let trust_dir = joining::trust_dir(dir);
        let sync = Sync::open(&trust_dir, &holder.tenant, upstream.clone(), trees.clone(), mirror.clone())?;
        let notices = Notices::new(clock.clone());
        notices.published(mirror.head().news, Audience::Everybody);
        let gate = Gate { tenant: holder.tenant.clone(), mirror: mirror.clone(), clock: clock.clone() };
        let (period, offset) = (config.sync_interval, schedule::offset(&holder.id, config.sync_interval));
        let up = Up::new(upstream, outbox, resync, payloads, mirror, notices);
        Ok(Self { up, sync, trees, wakes: Wakes::default(), gate, clock, stop, offset, period })
    }

    /// What answers whoever calls.
    #[must_use]
    pub fn door(&self) -> Door {
        let service = UpstreamServer::new(Downstream {
            gate: self.gate.clone(),
            mirror: self.up.mirror.clone(),
            payloads: self.up.payloads.clone(),
            outbox: self.up.outbox.clone(),
            resync: self.up.resync.clone(),
            upstream: self.up.upstream.clone(),
            notices: self.up.notices.clone(),
            forwarding: self.up.forwarding.clone(),
            stage: self.wakes.stage.clone(),
            seen: self.up.seen.clone(),
            clock: self.clock.clone(),
            stop: self.stop.clone(),
            enrolling: Enrolling::default(),
        })
        .max_decoding_message_size(REQUEST_BYTES_MAX)
        .max_encoding_message_size(ANSWER_BYTES_MAX);
        let payloads = self.up.payloads.clone();
        BlobStreams::new(Served { gate: self.gate.clone(), trees: self.trees.clone(), payloads }, service)
    }

    /// Starts what a relay does by itself; `random` gives numbers that are uniform in their range.
    pub fn begin(self, tasks: &mut Tasks, random: impl Fn() -> u32 + Clone + Send + 'static) {
        let Self { up, sync, trees: _, wakes, gate: _, clock, stop, offset, period } = self;
        let (sync, up_sync) = (Arc::new(tokio::sync::Mutex::new(sync)), up.clone());
        tasks.periodic(
            "sync",
            wakes.sync.clone(),
            move |now| Some(schedule::next(now, period, offset)),
            move || {
                let (sync, up, clock) = (sync.clone(), up_sync.clone(), clock.clone());
                async move { up.sync(&mut *sync.lock().await, clock.now()).await }
            },
        );
        // What happened while this relay was down is looked at right away.
        wakes.sync.wake();

        let (up_forward, up_due, random_due) = (up.clone(), up.clone(), random.clone());
        let due = move |now: Timestamp| now.checked_add(up_due.forward_wait(random_due())).ok();
        tasks.periodic("forward", up.forwarding.wake.clone(), due, move || {
            let up = up_forward.clone();
            async move { up.forward().await }
        });
        up.forwarding.wake.wake();

        let staged = up.payloads.clone();
        tasks.periodic(
            "stage",
            wakes.stage,
            |_| None,
            move || {
                let payloads = staged.clone();
                async move {
                    payloads.stage().await;
                    Ok(())
                }
            },
        );

        let (resending, looking) = (up.notices.clone(), up.notices.clone());
        tasks.periodic(
            "notices",
            Wake::default(),
            move |now| looking.next_look(now),
            move || {
                let notices = resending.clone();
                async move {
                    notices.send_due();
                    Ok(())
                }
            },
        );

        tasks.spawn("watch", up::watch(up, wakes.sync, stop, random));
    }
}

/// Opens everything and starts to serve.
///
/// # Errors
///
/// [`RelayError`], naming what does not open.
pub async fn start(config: Config, clock: Clock, stop: Stop) -> Result<Running, RelayError> {
    let dir = config.data_dir.clone();
    let joined = joining::load(&dir)?;
    joined.must_be(Role::Relay)?;
    let holder = joined.identity.own().holder;
    let store: Arc<dyn Store> = Arc::new(SledStore::open(&dir.join("store"))?);
    let route = config.upstream.clone().unwrap_or(joined.route);
    let upstream = Upstream::new(dial::channel(route.clone(), &joined.identity));
    let opened = Opened::new(&config, &holder, store.clone(), upstream.clone(), clock.clone(), stop.clone())?;

    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|source| RelayError::Listen { address: config.listen, source })?;
    let address =
        listener.local_addr().map_err(|source| RelayError::Listen { address: config.listen, source })?;

    let (mut tasks, ending) = (Tasks::new(clock.clone(), stop.clone()), Ending::default());
    tasks.spawn("store", stop_when_failed(move || store.failure(), stop.clone(), ending.clone()));
    let (identity, up_route, renew_wake) = (joined.identity.clone(), route.clone(), Wake::default());
    tasks.periodic(
        "renew",
        renew_wake.clone(),
        |now| now.checked_add(RENEWAL_CHECK).ok(),
        move || {
            let (identity, upstream, clock) = (identity.clone(), upstream.clone(), clock.clone());
            let route = up_route.clone();
            async move { renew(&identity, &upstream, &route, &clock).await }
        },
    );
    // It may have expired while this relay was off.
    renew_wake.wake();

    let (up, answer) = (opened.up.clone(), opened.door());
    opened.begin(&mut tasks, schedule::random);
    let gauge = up.gauge.clone();
    tasks.spawn("serve", accept::serve(listener, joined.identity, answer, config.limits, gauge, stop));
    info!(%address, relay = %holder, upstream = route.server, "serving");
    let Up { mirror, outbox, payloads, notices, .. } = up;
    Ok(Running { address, board: tasks.board(), mirror, outbox, payloads, notices, tasks, ending })
}

async fn renew(
    identity: &Identity,
    upstream: &Upstream,
    route: &Route,
    clock: &Clock,
) -> Result<(), TaskError> {
    let routes = std::slice::from_ref(route);
    joining::keep_fresh(upstream, routes, identity, CERTIFICATE_LIFETIME, clock.now()).await?;
    Ok(())
}

impl From<SyncError> for RelayError {
    fn from(error: SyncError) -> Self {
        match error {
            SyncError::Trust(error) => Self::Trust(error),
            other => Self::Open { path: PathBuf::from("metadata"), source: io::Error::other(other) },
        }
    }
}
