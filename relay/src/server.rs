//! The relay as a whole: what is opened, which tasks run, how it ends.

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use jiff::SignedDuration;
use tierway_common::{
    blobs::{BlobError, BlobOptions, Blobs},
    clock::Clock,
    daemon::{
        chain::Chain,
        stop::Stop,
        tasks::{Board, TaskError, Tasks, Wake},
    },
    id::EndpointId,
    notices::{Audience, Event, Notice, Order},
    schedule,
    store::{Store, StoreError, sled_store::SledStore},
    transport::{
        accept,
        accept::Gauge,
        dial::{self, Route},
        identity::Role,
        tls::Identity,
    },
    trust::tuf::error::TufError,
};
use tierway_proto::{
    blob_stream::BlobStreams,
    joining::{self, JoinError},
    notices::{self, ANSWERED_MAX, Notices},
    upstream::Upstream,
    v1::{self, upstream_server::UpstreamServer},
};
use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::{
    config::Config,
    downstream::{Downstream, Enrolling, Gate, Served},
    mirror::Mirror,
    outbox::Outbox,
    payloads::Payloads,
    resync::Resync,
    seen::Seen,
    sync::{Sync, SyncError},
};

/// This program's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// A batch of reports upward.
const BATCH_BYTES: usize = 1 << 20;
/// Longest message taken: a batch of reports and its framing.
const REQUEST_BYTES_MAX: usize = (1 << 20) + (64 << 10);
/// Longest message sent: metadata.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Bytes of the mirrored trees: ten times what all of Debian takes; what is published is pinned.
const TREE_BYTES_MAX: u64 = 2 << 30;
/// Orders that wait for a sync; what does not fit is sent again.
const ORDERS_MAX: usize = 256;
/// Wake-ups are read no faster: they are rare, and a flood of them then waits with who sends it.
const NOTICES_APART: Duration = Duration::from_millis(10);
/// Syncs are at least so far apart: what is called for meanwhile is one more.
const SYNCS_APART: Duration = Duration::from_millis(250);
/// First and longest wait before trying the tier above again.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));
/// How often the outbox is looked at without being told.
const FORWARD_AT_LEAST: SignedDuration = SignedDuration::from_mins(1);
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
}

impl Running {
    /// Returns when the stop signal came and everything has ended.
    pub async fn ended(self) {
        // The stop signal ends each task; only then does the grace begin to count.
        self.tasks.ended(GRACE).await;
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
    let open = |path: PathBuf| move |source| RelayError::Open { path, source };
    let store: Arc<dyn Store> = Arc::new(SledStore::open(&dir.join("store"))?);
    let trees = Blobs::open(
        &dir.join("trees"),
        BlobOptions { quota_bytes: TREE_BYTES_MAX, free_floor_bytes: config.disk_free_bytes_min },
    )?;
    let payload_blobs = Blobs::open(
        &dir.join("payloads"),
        BlobOptions::of_payloads(config.payload_bytes_max, config.disk_free_bytes_min),
    )?;
    let outbox = Outbox::open(store.clone(), config.outbox_bytes_max)?;
    let resync = Resync::open(store)?;
    let mirror_dir = dir.join("metadata");
    let mirror = Mirror::open(&mirror_dir).map_err(open(mirror_dir))?;
    let route = config.upstream.clone().unwrap_or(joined.route);
    let upstream = Upstream::new(dial::channel(route.clone(), &joined.identity));
    let payloads = Payloads::new(payload_blobs, upstream.clone());
    let sync =
        Sync::open(&joined.trust_dir, &holder.tenant, upstream.clone(), trees.clone(), mirror.clone())?;
    let notices = Notices::new(clock.clone());
    notices.published(mirror.head().news, Audience::Everybody);
    let seen = Arc::new(Seen::default());

    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|source| RelayError::Listen { address: config.listen, source })?;
    let address =
        listener.local_addr().map_err(|source| RelayError::Listen { address: config.listen, source })?;

    let mut tasks = Tasks::new(clock.clone(), stop.clone());
    let (sync_wake, forward_wake, stage_wake) = (Wake::default(), Wake::default(), Wake::default());
    let gauge = Gauge::default();
    let gate = Gate { tenant: holder.tenant.clone(), mirror: mirror.clone(), clock: clock.clone() };
    let up = Up {
        upstream: upstream.clone(),
        outbox: outbox.clone(),
        resync: resync.clone(),
        notices: notices.clone(),
        payloads: payloads.clone(),
        seen: seen.clone(),
        gauge: gauge.clone(),
        orders: Arc::default(),
        mirror: mirror.clone(),
        failures: Arc::default(),
        answers: Arc::default(),
    };

    let offset = schedule::offset(&holder.id, config.sync_interval);
    let period = config.sync_interval;
    let (sync, up_sync, now) = (Arc::new(tokio::sync::Mutex::new(sync)), up.clone(), clock.clone());
    tasks.periodic(
        "sync",
        sync_wake.clone(),
        move |now| Some(schedule::next(now, period, offset)),
        move || {
            let (sync, up, clock) = (sync.clone(), up_sync.clone(), now.clone());
            async move { up.sync(&mut *sync.lock().await, clock.now()).await }
        },
    );
    // What happened while this relay was down is looked at right away.
    sync_wake.wake();

    let (up_forward, failures) = (up.clone(), up.failures.clone());
    let due = move |now: jiff::Timestamp| {
        let wait = match failures.load(Ordering::Relaxed) {
            0 => FORWARD_AT_LEAST,
            failures => SignedDuration::try_from(schedule::back_off(
                failures,
                BACK_OFF.0,
                BACK_OFF.1,
                schedule::random(),
            ))
            .unwrap_or(FORWARD_AT_LEAST),
        };
        now.checked_add(wait).ok()
    };
    tasks.periodic("forward", forward_wake.clone(), due, move || {
        let up = up_forward.clone();
        async move { up.forward().await }
    });
    forward_wake.wake();

    let staged = payloads.clone();
    tasks.periodic(
        "stage",
        stage_wake.clone(),
        |_| None,
        move || {
            let payloads = staged.clone();
            async move {
                payloads.stage().await;
                Ok(())
            }
        },
    );

    let (identity, up_renew, renew_clock) = (joined.identity.clone(), upstream.clone(), clock.clone());
    let (up_route, renew_wake) = (route.clone(), Wake::default());
    tasks.periodic(
        "renew",
        renew_wake.clone(),
        |now| now.checked_add(RENEWAL_CHECK).ok(),
        move || {
            let (identity, upstream, clock) = (identity.clone(), up_renew.clone(), renew_clock.clone());
            let route = up_route.clone();
            async move { renew(&identity, &upstream, &route, &clock).await }
        },
    );
    // It may have expired while this relay was off.
    renew_wake.wake();

    let (resending, looking) = (notices.clone(), notices.clone());
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

    tasks.spawn("watch", watch(up, sync_wake, stop.clone()));

    let service = UpstreamServer::new(Downstream {
        gate: gate.clone(),
        mirror: mirror.clone(),
        payloads: payloads.clone(),
        outbox: outbox.clone(),
        resync,
        upstream,
        notices: notices.clone(),
        forward: forward_wake,
        stage: stage_wake,
        seen,
        clock,
        stop: stop.clone(),
        enrolling: Enrolling::default(),
    })
    .max_decoding_message_size(REQUEST_BYTES_MAX)
    .max_encoding_message_size(ANSWER_BYTES_MAX);
    let served = Served { gate, trees, payloads: payloads.clone() };
    let answer = BlobStreams::new(served, service);
    tasks.spawn("serve", accept::serve(listener, joined.identity, answer, config.limits, gauge, stop));
    info!(%address, relay = %holder, upstream = route.server, "serving");
    Ok(Running { address, board: tasks.board(), mirror, outbox, payloads, notices, tasks })
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

/// What the tasks that talk to the tier above share.
#[derive(Clone)]
struct Up {
    upstream: Upstream,
    outbox: Outbox,
    resync: Resync,
    notices: Notices,
    payloads: Payloads,
    mirror: Mirror,
    seen: Arc<Seen>,
    gauge: Gauge,
    /// Orders that are passed on once this relay has what is published.
    orders: Arc<Mutex<Vec<Arc<Order>>>>,
    /// Ids of notices that the next check-in answers.
    answers: Arc<Mutex<BTreeSet<u64>>>,
    /// Forwards that failed in a row.
    failures: Arc<AtomicU32>,
}

impl Up {
    /// Notes an order: whoever checks now shall see what was decided before.
    fn asked(&self, id: u64, order: Arc<Order>) {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if !orders.contains(&order) {
            if orders.len() >= ORDERS_MAX {
                return;
            }
            orders.push(order);
        }
        drop(orders);
        self.answer(id);
    }

    async fn sync(&self, sync: &mut Sync, now: jiff::Timestamp) -> Result<(), TaskError> {
        let begun = tokio::time::Instant::now();
        // What is asked for while this runs is answered and passed on by the run after it; the answers first, or
        // one might be given for an order that this run does not know.
        let answered: Vec<u64> = self.answers().iter().copied().collect();
        let orders = std::mem::take(&mut *self.orders.lock().unwrap_or_else(PoisonError::into_inner));
        let result = self.bring(sync, &answered, now).await;
        for order in orders {
            self.notices.order(&order);
        }
        tokio::time::sleep_until(begun + SYNCS_APART).await;
        result
    }

    async fn bring(&self, sync: &mut Sync, answered: &[u64], now: jiff::Timestamp) -> Result<(), TaskError> {
        let payloads = self.payloads.blobs().clone();
        tokio::task::spawn_blocking(move || payloads.keep_room()).await?;
        let (usage, fill) = (self.payloads.blobs().usage(), self.outbox.fill());
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let health = v1::RelayHealth {
            blob_bytes: usage.bytes,
            blob_bytes_quota: usage.quota,
            outbox_reports: fill.reports,
            outbox_bytes: fill.bytes,
            endpoints_connected: count(self.gauge.connections()),
            outbox_oldest: fill.oldest.map_or(0, |at| at.as_second()),
            endpoints_seen: count(self.seen.lately(now)),
        };
        let before = sync.head_version();
        let answer = self.check_in(before, health, answered).await?;
        let synced = sync.run(answer.timestamp.as_deref(), now).await?;
        if let Some(version) = synced.filter(|version| *version < before) {
            warn!(
                before,
                version, "what is published went back to an earlier version, by a newer root of trust"
            );
            self.notices.taken_back(version);
        }
        // Endpoints hear of it when it is here.
        if sync.note_news(answer.news).await? {
            self.notices.published(answer.news, Audience::Everybody);
        }
        if let Some(version) = synced {
            self.notices.published(version, Audience::Relays);
            // Or else it would look at central as if this had not come until the next check.
            self.check_in(version, health, &[]).await?;
        }
        Ok(())
    }

    async fn check_in(
        &self,
        timestamp_version: u64,
        health: v1::RelayHealth,
        answered: &[u64],
    ) -> Result<v1::CheckInResponse, TaskError> {
        let request = v1::CheckInRequest {
            timestamp_version,
            agent_version: VERSION.to_owned(),
            wanted: Vec::new(),
            relay: Some(health),
            answered: answered.to_vec(),
        };
        let answer = self.upstream.check_in(request).await?;
        for id in answered {
            self.answers().remove(id);
        }
        self.ask_again(&answer.resync_endpoints).await?;
        Ok(answer)
    }

    fn answers(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands up everything that waits, a batch at a time.
    async fn forward(&self) -> Result<(), TaskError> {
        let result = self.forward_all().await;
        match &result {
            Ok(()) => self.failures.store(0, Ordering::Relaxed),
            Err(_) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
        result
    }

    async fn forward_all(&self) -> Result<(), TaskError> {
        loop {
            let outbox = self.outbox.clone();
            let batch = tokio::task::spawn_blocking(move || outbox.next(BATCH_BYTES)).await??;
            if batch.is_empty() {
                return Ok(());
            }
            let answer =
                self.upstream.submit(batch.iter().map(|waiting| waiting.envelope.clone()).collect()).await?;
            let mut done = Vec::with_capacity(batch.len());
            let mut later = 0;
            for (waiting, outcome) in batch.into_iter().zip(answer.outcomes) {
                match v1::ReportOutcome::try_from(outcome) {
                    Ok(v1::ReportOutcome::Accepted) => done.push(waiting),
                    Ok(v1::ReportOutcome::Refused) => {
                        warn!("the tier above refused a report for good");
                        done.push(waiting);
                    }
                    _ => later += 1,
                }
            }
            let outbox = self.outbox.clone();
            tokio::task::spawn_blocking(move || outbox.settle(&done)).await??;
            self.ask_again(&answer.resync_endpoints).await?;
            if later > 0 {
                return Err(format!("the tier above took no more: {later} reports wait").into());
            }
        }
    }

    /// Notes whom the tier above wants to hear again, and wakes them.
    async fn ask_again(&self, endpoints: &[String]) -> Result<(), TaskError> {
        let ids: Vec<EndpointId> = endpoints.iter().filter_map(|id| id.parse().ok()).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let (resync, asked) = (self.resync.clone(), ids.clone());
        tokio::task::spawn_blocking(move || resync.add(asked.iter())).await??;
        for id in ids {
            self.notices.resync(&id);
        }
        Ok(())
    }

    /// Follows a notice from the tier above, and answers it by a sync.
    async fn notice(&self, notice: v1::Notice, sync: &Wake) -> Result<(), TaskError> {
        let Some(Notice { id, event }) = notices::read(notice) else { return Ok(()) };
        match event {
            // Also one that is here already: whether it is worth a check is said at the check-in.
            Event::Published(_) => {}
            Event::Check(order) => self.asked(id, order),
            Event::Resync(endpoint) => {
                self.ask_again(&[endpoint.to_string()]).await?;
                self.answer(id);
            }
        }
        sync.wake();
        Ok(())
    }

    fn answer(&self, id: u64) {
        let mut answers = self.answers();
        // What does not fit is sent again and answered then.
        if answers.len() < ANSWERED_MAX {
            answers.insert(id);
        }
    }
}

/// Keeps a stream of wake-ups open.
async fn watch(up: Up, sync: Wake, stop: Stop) {
    let mut failures = 0;
    while !stop.requested() {
        let watched = async {
            let mut stream = up.upstream.watch(up.mirror.head().timestamp_version).await?;
            // Whatever was missed while nobody watched.
            sync.wake();
            failures = 0;
            while let Some(notice) = stream.message().await? {
                up.notice(notice, &sync).await?;
                tokio::time::sleep(NOTICES_APART).await;
            }
            Ok::<_, TaskError>(())
        };
        tokio::select! {
            () = stop.wait() => return,
            ended = watched => if let Err(error) = ended {
                info!(error = %Chain(error.as_ref()), "the tier above cannot be watched now");
            },
        }
        let wait = schedule::back_off(failures, BACK_OFF.0, BACK_OFF.1, schedule::random());
        failures += 1;
        tokio::select! {
            () = stop.wait() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

impl From<SyncError> for RelayError {
    fn from(error: SyncError) -> Self {
        match error {
            SyncError::Trust(error) => Self::Trust(error),
            other => Self::Open { path: PathBuf::from("metadata"), source: io::Error::other(other) },
        }
    }
}
