//! An endpoint: the real cycle, ledger and reports, below a root of two files, with an installer that takes a while and
//! writes one of them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use jiff::{Timestamp, tz::TimeZone};
use tierway_common::{
    blobs::{BlobOptions, Blobs},
    clock::Clock,
    daemon::stop::Stop,
    enrollment::{Applicant, Token},
    facts::Facts,
    id::EndpointId,
    schema::{Install, Payload, Update},
    transport::dial::{Route, RouteTaken},
    trust::keys::SigningKey,
};
use tierway_endpoint::{
    agent::{AgentError, VERSION, WAKES_APART},
    calls::Taken,
    catalogues::Catalogues,
    config::Config,
    cycle::{Around, Cycle},
    install::{Attempted, CleanError, Cleaned, Engine, Fresh, PayloadFetcher, Pool, Request, codes::Outcome},
    probe::{Seen, Surroundings},
    reboot::RebootError,
    report::Spool,
    rhythm,
    watch::{Ears, Listener},
};
use tierway_proto::{
    joining::{self, JoinError},
    upstream::{Upstream, UpstreamError},
    v1,
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    Sabotage,
    checks::Watch,
    net::{Net, Node},
    published::{AT_ONCE, PACKAGE},
    world::Operator,
};
use crate::{roots, simulation::random::Random};

/// An installation takes at most so long, if it is let.
const INSTALLING_SECONDS_MAX: u64 = 32 * 60;
/// How long a payload that is not at the relay yet is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// An endpoint that enrolled.
#[derive(Clone, Debug)]
pub struct Computer {
    /// Which.
    pub node: Node,
    above: Node,
    dir: PathBuf,
    net: Net,
    watch: Watch,
    clock: Clock,
    random: Arc<Mutex<Random>>,
    sabotage: Option<Sabotage>,
    /// Checks that ended.
    checks: Arc<AtomicU64>,
    /// Version that it goes by now.
    version: Arc<AtomicU64>,
}

/// Installs by writing down what is installed.
#[derive(Debug)]
struct Installer {
    root: PathBuf,
    node: Node,
    watch: Watch,
    random: Arc<Mutex<Random>>,
    sabotage: Option<Sabotage>,
}

/// Is down until it is dropped.
struct Down<'a>(&'a Watch, Node);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        self.0.comes_up(self.1);
    }
}

impl Engine for Installer {
    fn lacks(_: &Install) -> Option<&str> {
        None
    }

    fn payloads(&self, update: &Update, _: &Facts) -> Vec<Payload> {
        update.install.payloads().into_iter().map(|(_, payload)| payload).collect()
    }

    fn clean(&self) -> Result<Cleaned, CleanError> {
        Ok(Cleaned::Yes)
    }

    async fn install<P: Pool + Sync, F: PayloadFetcher + Sync>(
        &self,
        request: &Request<'_>,
        _: &P,
        payloads: &F,
        _: &(dyn Fn() -> Fresh + Send + Sync),
    ) -> Attempted {
        let attempted = |outcome, took| Attempted { outcome, detail: None, steps: Vec::new(), took };
        for payload in self.payloads(request.update, &Facts::default()) {
            let Some(path) = payloads.path(&payload.digest) else {
                return attempted(Outcome::EngineUnavailable, None);
            };
            let mut content = fs::read(path).unwrap();
            if self.sabotage == Some(Sabotage::InstallsAnything) {
                content.truncate(content.len() / 2);
            }
            self.watch.installs(self.node, &payload.digest, &content);
        }
        self.watch.goes_down(self.node, AT_ONCE);
        let down = Down(&self.watch, self.node);
        let began = Instant::now();
        let seconds = {
            let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
            30 + random.below(INSTALLING_SECONDS_MAX - 30)
        };
        let needs = Duration::from_secs(seconds);
        sleep(needs.min(request.limit)).await;
        if needs > request.limit {
            return attempted(Outcome::TimedOut, Some(request.limit));
        }
        roots::made_up(&self.root, &[(PACKAGE, &request.update.version)]);
        drop(down);
        attempted(Outcome::Success, Some(began.elapsed()))
    }
}

/// Nobody is there, and nothing asks for a reboot.
#[derive(Debug)]
struct Nobody;

impl Surroundings for Nobody {
    fn look<'a>(&'a self, _: &'a Facts, _: Timestamp) -> BoxFuture<'a, Seen> {
        Box::pin(async { Seen::default() })
    }

    fn logged_in(&self, _: u32) -> BoxFuture<'_, bool> {
        Box::pin(async { false })
    }

    fn tell<'a>(&'a self, _: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    fn reboot<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), RebootError>> {
        Box::pin(async { Err(RebootError::NoBoot) })
    }
}

/// Enrols a machine below `dir` by way of the node `above`.
///
/// # Errors
///
/// When it does not come through, or is refused.
pub async fn enroll(net: &Net, node: Node, above: Node, token: &Token, dir: &Path) -> Result<(), JoinError> {
    let upstream = Upstream::over(net.wire(node, above, None));
    let (applicant, route) = (Applicant::new()?, Route::direct("above.invalid:1"));
    let name = format!("node-{node}");
    joining::enroll(&upstream, token, &applicant, (&name, VERSION), route, dir).await.map(drop)
}

impl Computer {
    /// One below `above` in `dir`, where nothing is yet but its system.
    #[must_use]
    pub fn new(
        (node, above): (Node, Node),
        dir: PathBuf,
        net: Net,
        watch: Watch,
        clock: Clock,
        random: Random,
        sabotage: Option<Sabotage>,
    ) -> Self {
        roots::made_up(&dir.join("root"), &[(PACKAGE, "0.1")]);
        let random = Arc::new(Mutex::new(random));
        let (checks, version) = <(Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        Self { node, above, dir, net, watch, clock, random, sabotage, checks, version }
    }

    /// Its folder.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// What is installed on it.
    #[must_use]
    pub fn system(&self) -> String {
        fs::read_to_string(self.dir.join("root/var/lib/dpkg/status")).unwrap()
    }

    /// How many checks have ended, and by which version it goes.
    #[must_use]
    pub fn stands(&self) -> (u64, u64) {
        (self.checks.load(Ordering::Relaxed), self.version.load(Ordering::Relaxed))
    }

    /// Enrols until it is in, and then checks, listens and installs until it is dropped.
    #[must_use]
    pub fn begin(&self, operator: Operator) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let this = self.clone();
        tasks.spawn(async move { this.live(&operator).await });
        tasks
    }

    fn random(&self, end: u64) -> u64 {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).below(end)
    }

    async fn live(&self, operator: &Operator) {
        let mut token = None;
        while joining::load(&self.dir()).is_err() {
            token = token.or_else(|| operator.token());
            if let Some(known) = &token
                && let Err(error) = enroll(&self.net, self.node, self.above, known, &self.dir()).await
            {
                // An answer got lost: the token is used up, and another one is asked for.
                let refused = matches!(&error, JoinError::Server { source, .. }
                    if matches!(**source, UpstreamError::Refused(_)));
                self.watch.note(format_args!("{} is not enrolled, refused {refused}", self.node));
                token = token.filter(|_| !refused);
            }
            sleep(Duration::from_secs(60 + self.random(600))).await;
        }
        // What an earlier run was still doing ends at once, but not before this begins.
        let mut tries = 0;
        loop {
            match self.run().await {
                Err(AgentError::Blobs(error)) if tries < 5 => {
                    self.watch.note(format_args!("{} waits for its blobs", self.node));
                    tries += 1;
                    drop(error);
                    sleep(Duration::from_millis(100)).await;
                }
                done => return done.unwrap(),
            }
        }
    }

    async fn run(&self) -> Result<(), AgentError> {
        let dir = self.dir();
        let joined = joining::load(&dir)?;
        let holder = joined.identity.own().holder;
        self.watch.named(self.node, &holder.id);
        let key = SigningKey::load(&joined.identity.files().identity)?;
        let upstream = Upstream::over(self.net.wire(self.node, self.above, Some(joined.identity.clone())));
        let config = Config {
            data_dir: dir.clone(),
            root: self.dir.join("root"),
            disk_free_bytes_min: 0,
            payload_patience: PATIENCE,
            ..Config::default()
        };
        let catalogues = Catalogues::open(&dir, &joined.trust_dir, &holder.tenant, upstream.clone(), 0)?;
        let options = BlobOptions { quota_bytes: 1 << 30, free_floor_bytes: 0 };
        let payloads = Blobs::open(&dir.join("payloads"), options)?;
        let endpoint: EndpointId = holder.id.parse().unwrap();
        let spool = Spool::open(&dir.join("reports"), holder.tenant.clone(), endpoint.clone())?;
        let installer = Installer {
            root: config.root.clone(),
            node: self.node,
            watch: self.watch.clone(),
            random: self.random.clone(),
            sabotage: self.sabotage,
        };
        let stop = Stop::new();
        let around = Around {
            endpoint,
            zone: TimeZone::UTC,
            surroundings: Arc::new(Nobody),
            engine: installer,
            stop: stop.clone(),
        };
        let mut cycle = Cycle::open(&config, &holder, upstream.clone(), catalogues, payloads, spool, around)?;
        let (status, shown) = watch::channel(Arc::new(v1::LocalStatus::default()));
        let listener = Listener {
            endpoint: holder.id.clone(),
            upstream,
            route: RouteTaken::default(),
            roaming: false,
            place: Duration::from_secs(self.random(30)),
            status: shown,
            clock: self.clock.clone(),
        };
        let ears = Arc::<Ears>::default();
        let random = self.random.clone();
        let uniform = move || {
            u32::try_from(random.lock().unwrap_or_else(PoisonError::into_inner).bits() >> 32).unwrap_or(0)
        };
        let mut listening = JoinSet::new();
        listening.spawn(listener.listen(ears.clone(), stop, uniform));
        loop {
            let Taken { called, everything, answers } = ears.calls().begin();
            let before = cycle.status().dictionary_version;
            cycle.answer(answers);
            let mut problems = Vec::new();
            if let Err(error) = cycle.run(&key, everything, &self.clock, &mut problems).await {
                problems.push(error.to_string());
            }
            let now_status = cycle.status();
            let version = now_status.dictionary_version;
            // Before its first refresh after a start it goes by nothing.
            if version > 0 {
                self.watch.trusts(self.node, version);
                self.version.store(version, Ordering::Relaxed);
            }
            self.watch.note(format_args!("{} checked, {} problems", self.node, problems.len()));
            self.checks.fetch_add(1, Ordering::Relaxed);
            status.send_replace(Arc::new(now_status));
            ears.include_roaming(cycle.includes_roaming());
            let last = self.clock.now();
            if called {
                ears.calls().ended(version != before, last);
            }
            let wakes = cycle.wakes().map(|at| at.max(last.checked_add(WAKES_APART).unwrap_or(last)));
            let due = wakes.into_iter().chain(cycle.next_check(&config, last, last)).min();
            loop {
                let now = self.clock.now();
                let planned = due.map(|due| rhythm::due(due, last, now));
                let next = ears.calls().due().into_iter().chain(planned).min().unwrap_or(Timestamp::MAX);
                let wait = u64::try_from(next.as_millisecond() - now.as_millisecond()).unwrap_or(0);
                if wait == 0 {
                    break;
                }
                tokio::select! {
                    biased;
                    () = ears.heard() => {}
                    // Its clock may be set meanwhile.
                    () = sleep(Duration::from_millis(wait.min(300_000))) => {}
                }
            }
        }
    }
}
