//! The agent: one cycle after the other, each from the present state, and what the person at the machine
//! asks between them.
//!
//! A cycle: check in and bring over what is new · scan · evaluate · decide · install what is approved ·
//! scan again · report. What fails is named in the cycle's problems and left to the next; without the
//! tier above everything goes on by the last verified state.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use tierway_common::{
    blobs::{BlobError, BlobOptions, Blobs},
    clock::Clock,
    daemon::{chain::Chain, stop::Stop},
    files::{self, Lock},
    id::EndpointId,
    schedule,
    transport::{
        dial::{self, RouteTaken},
        identity::{Holder, Role},
    },
    trust::keys::{KeyError, SigningKey},
};
use tierway_proto::{
    joining::{self, JoinError, Joined},
    upstream::Upstream,
    v1,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tracing::{info, warn};

use crate::{
    calls::Taken,
    catalogues::{Catalogues, CataloguesError},
    config::Config,
    cycle::{Around, Cycle, CycleError},
    due::Due,
    install::SystemEngine,
    ledger::journal::JournalError,
    local::{self, ASKS, Answers, Ask, LocalError},
    probe::{Surroundings, system::System},
    report::{ReportError, Spool},
    rhythm,
    watch::{Ears, Listener},
    wishes::Wish,
};

/// This program's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What central gives an endpoint's certificate.
const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// Checks that the plan asks for are so far apart: what it names may have come while it was carried out.
pub const WAKES_APART: SignedDuration = SignedDuration::from_secs(5);
/// Decisions by what people wish are so far apart, however often somebody changes his mind.
const DECISIONS_APART: SignedDuration = SignedDuration::from_secs(5);
/// How often the clock is looked at while nothing happens.
const LOOK_EVERY: Duration = Duration::from_secs(5 * 60);
/// What a running cycle gets to end at a stop; systemd must wait longer.
const GRACE: Duration = Duration::from_secs(60);
/// In the data folder: held while an endpoint runs on it.
const LOCK: &str = "lock";

/// Why an endpoint does not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// It has not enrolled, or its identity is broken.
    #[error("could not take up the endpoint's identity")]
    Join(#[from] JoinError),
    /// Its key.
    #[error("could not read the endpoint's key")]
    Key(#[from] KeyError),
    /// The blobs.
    #[error("could not open the blobs")]
    Blobs(#[from] BlobError),
    /// What was published.
    #[error("could not open the catalogues")]
    Catalogues(#[from] CataloguesError),
    /// What was done.
    #[error("could not open the ledger")]
    Ledger(#[from] JournalError),
    /// The spool.
    #[error("could not open the reports that wait")]
    Report(#[from] ReportError),
    /// The socket.
    #[error("could not serve the person at the machine")]
    Local(#[from] LocalError),
    /// Its folder stays.
    #[error("could not delete `{path}`")]
    Forget {
        /// The data folder.
        path: PathBuf,
        /// As the system says it.
        source: io::Error,
    },
    /// Another one runs.
    #[error("another endpoint uses `{path}`")]
    Locked {
        /// The data folder.
        path: PathBuf,
        /// As the system says it.
        source: io::Error,
    },
}

/// An endpoint that runs.
#[derive(Debug)]
pub struct Running {
    /// Who it is.
    pub holder: Holder,
    /// What it says of itself.
    pub status: watch::Receiver<Arc<v1::LocalStatus>>,
    /// Asks it, as the local socket does.
    pub asks: mpsc::Sender<Ask>,
    agent: JoinHandle<()>,
    local: JoinHandle<()>,
    watch: JoinHandle<()>,
    stop: Stop,
    _lock: Lock,
}

impl Running {
    /// Returns when the stop signal came and everything has ended.
    pub async fn ended(self) {
        self.stop.wait().await;
        for task in [self.agent, self.local, self.watch] {
            let abort = task.abort_handle();
            if tokio::time::timeout(GRACE, task).await.is_err() {
                warn!("a task did not end in time and was dropped");
                abort.abort();
            }
        }
    }
}

/// Opens everything and begins with a first cycle soon.
///
/// # Errors
///
/// [`AgentError`], naming what does not open.
pub async fn start(config: Config, clock: Clock, stop: Stop) -> Result<Running, AgentError> {
    let surroundings = Arc::new(System::new(&config.root, &config.data_dir));
    start_among(config, clock, surroundings, stop).await
}

/// The same with surroundings that are not those of the system below the root.
///
/// # Errors
///
/// As [`start`].
pub async fn start_among(
    config: Config,
    clock: Clock,
    surroundings: Arc<dyn Surroundings>,
    stop: Stop,
) -> Result<Running, AgentError> {
    let joined = joining::load(&config.data_dir)?;
    joined.must_be(Role::Endpoint)?;
    let lock = lock(&config.data_dir)?;
    let holder = joined.identity.own().holder;
    let agent = Agent::open(config.clone(), joined, clock.clone(), surroundings.clone(), stop.clone())?;
    let status = agent.status.subscribe();
    let (asks, receiver) = mpsc::channel(ASKS);
    let listener = Listener {
        endpoint: holder.id.clone(),
        upstream: agent.upstream.clone(),
        route: agent.route.clone(),
        roaming: config.roaming,
        place: schedule::offset(&holder.id, config.notice_spread),
        status: status.clone(),
        clock: clock.clone(),
    };
    let watching = listener.listen(agent.ears.clone(), stop.clone(), schedule::random);
    let (due, asking) = (agent.due.subscribe(), asks.clone());
    let answers = Answers { status: status.clone(), due, asks: asking, surroundings, clock };
    let serving = local::serve(&config.local_socket, answers, stop.clone())?;
    info!(endpoint = %holder, socket = %config.local_socket.display(), root = %config.root.display(), "serving");
    Ok(Running {
        holder,
        status,
        asks,
        agent: tokio::spawn(agent.run(receiver, stop.clone())),
        local: tokio::spawn(serving),
        watch: tokio::spawn(watching),
        stop,
        _lock: lock,
    })
}

/// How long [`forget`] waits for an endpoint that is told to stop.
const FORGET_PATIENCE: Duration = Duration::from_secs(60);

/// Deletes identity and state of an endpoint that does not run, or is about to end, and the folder.
///
/// # Errors
///
/// [`AgentError::Forget`], also when it still runs after a minute: then nothing is deleted.
pub fn forget(dir: &Path) -> Result<(), AgentError> {
    files::remove_folder(dir, &dir.join(LOCK), FORGET_PATIENCE)
        .map_err(|source| AgentError::Forget { path: dir.to_owned(), source })
}

fn lock(dir: &Path) -> Result<Lock, AgentError> {
    let locked = |source| AgentError::Locked { path: dir.to_owned(), source };
    let file =
        File::options().create(true).truncate(false).write(true).open(dir.join(LOCK)).map_err(locked)?;
    Lock::take(file).map_err(|error| locked(error.into()))
}

struct Agent {
    config: Config,
    clock: Clock,
    joined: Joined,
    upstream: Upstream,
    cycle: Cycle,
    status: watch::Sender<Arc<v1::LocalStatus>>,
    /// What the person at the machine is shown.
    due: watch::Sender<Arc<Due>>,
    /// By which way the tier above is reached.
    route: RouteTaken,
    /// What the tier above calls for.
    ears: Arc<Ears>,
}

impl Agent {
    fn open(
        config: Config,
        joined: Joined,
        clock: Clock,
        surroundings: Arc<dyn Surroundings>,
        stop: Stop,
    ) -> Result<Self, AgentError> {
        let holder = joined.identity.own().holder;
        let routes =
            if config.upstream.is_empty() { vec![joined.route.clone()] } else { config.upstream.clone() };
        let route = RouteTaken::default();
        let upstream = Upstream::new(dial::channel_noting_route(routes, &joined.identity, route.clone()));
        let dir = &config.data_dir;
        let catalogues = Catalogues::open(
            dir,
            &joined.trust_dir,
            &holder.tenant,
            upstream.clone(),
            config.disk_free_bytes_min,
        )?;
        let payloads = Blobs::open(
            &dir.join("payloads"),
            BlobOptions {
                quota_bytes: config.payload_bytes_max,
                free_floor_bytes: config.disk_free_bytes_min,
            },
        )?;
        let endpoint: EndpointId = holder.id.parse().map_err(|_| LocalError::Listen {
            path: dir.clone(),
            source: io::Error::other("the certificate names no endpoint"),
        })?;
        let spool = Spool::open(&dir.join("reports"), holder.tenant.clone(), endpoint.clone())?;
        let engine = SystemEngine::new(&config.root, &config.data_dir);
        let around = Around { endpoint, zone: TimeZone::system(), surroundings, engine, stop };
        let cycle = Cycle::open(&config, &holder, upstream.clone(), catalogues, payloads, spool, around)?;
        let status = watch::Sender::new(Arc::new(v1::LocalStatus::default()));
        let due = watch::Sender::new(Arc::new(Due::default()));
        Ok(Self { config, clock, joined, upstream, cycle, status, due, route, ears: Arc::default() })
    }

    /// Cycles until told to stop. A cycle is never dropped halfway.
    async fn run(mut self, mut asks: mpsc::Receiver<Ask>, stop: Stop) {
        let mut last = self.clock.now();
        let mut due = Some(last);
        // When it is decided by what people wished, and when that was done last.
        let (mut wished, mut decided) = (None, Timestamp::MIN);
        let ears = self.ears.clone();
        self.tell(&[], due);
        loop {
            let planned = due.map(|due| rhythm::due(due, last, self.clock.now()));
            let check = ears.calls().due().into_iter().chain(planned).min().unwrap_or(Timestamp::MAX);
            let next = wished.map_or(check, |wished: Timestamp| wished.min(check));
            let wait = u64::try_from(next.as_millisecond() - self.clock.now().as_millisecond()).unwrap_or(0);
            let wait = Duration::from_millis(wait);
            let ask = tokio::select! {
                () = stop.wait() => return,
                ask = asks.recv() => match ask {
                    Some(ask) => Some(ask),
                    None => return,
                },
                // When the check is due that was called for is looked at anew.
                () = ears.heard() => continue,
                // A computer that was suspended has missed some time: the clock is looked at now and then.
                () = tokio::time::sleep(wait.min(LOOK_EVERY)) => {
                    if wait > LOOK_EVERY {
                        self.show();
                        continue;
                    }
                    None
                }
            };
            let reply = match ask {
                Some(Ask::Why(patch, reply)) => {
                    let _ = reply.send(self.cycle.why(&patch).map_err(|error| Chain(&error).to_string()));
                    continue;
                }
                Some(Ask::Plan(reply)) => {
                    let _ = reply.send(self.cycle.plan());
                    continue;
                }
                Some(Ask::History(limit, reply)) => {
                    let _ = reply.send(self.cycle.history(limit));
                    continue;
                }
                Some(Ask::Wish(caller, wish, reply)) => {
                    let granted = self.cycle.wish(caller, wish, &self.clock);
                    let now = self.clock.now();
                    if matches!(wish, Wish::Scheduled(_)) {
                        due = self.next(last, now);
                        let next_check = due.map_or(0, Timestamp::as_millisecond);
                        let status = v1::LocalStatus { next_check, ..(**self.status.borrow()).clone() };
                        self.status.send_replace(Arc::new(status));
                    } else if granted.is_ok() {
                        // At once, unless that was done just now; what is wished meanwhile is decided by together.
                        let soon = decided.checked_add(DECISIONS_APART).unwrap_or(now);
                        // Whoever set the clock back does not put it off.
                        let soon = if decided > now { now } else { soon.max(now) };
                        wished.get_or_insert(soon);
                    }
                    self.show();
                    let _ = reply.send(granted);
                    continue;
                }
                Some(Ask::CheckNow(reply)) => Some(reply),
                None => None,
            };
            if reply.is_none() && next < check {
                let mut problems = self.decide_anew().await;
                // What the last check met is still so.
                let before = self.status.borrow().last_error.clone();
                problems.extend(Some(before).filter(|before| !before.is_empty()));
                (wished, decided) = (None, self.clock.now());
                due = self.next(last, decided);
                self.tell(&problems, due);
                continue;
            }
            let done = self.check().await;
            let now = self.clock.now();
            (last, wished, decided) = (now, None, now);
            due = self.next(last, now);
            self.tell(&done.problems, due);
            if let Some(reply) = reply {
                let _ = reply.send(done);
            }
        }
    }

    /// Decides by what people wished, from what the last check found. Returns what went wrong.
    async fn decide_anew(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        let decided = match SigningKey::load(&self.joined.identity.files().identity) {
            Ok(key) => self.cycle.decide_anew(&key, &self.clock, &mut problems).await,
            Err(error) => Err(CycleError::Key(error)),
        };
        problems.extend(decided.err().map(|error| Chain(&error).to_string()));
        self.warn(&problems);
        problems
    }

    /// When it checks next, unless somebody calls.
    fn next(&self, last: Timestamp, now: Timestamp) -> Option<Timestamp> {
        // A window may open before, a countdown end, a time come that somebody picked.
        let wakes = self.cycle.wakes().map(|at| at.max(now.checked_add(WAKES_APART).unwrap_or(now)));
        wakes.into_iter().chain(self.cycle.next_check(&self.config, last, now)).min()
    }

    async fn check(&mut self) -> v1::LocalCheckNowResponse {
        let mut problems = Vec::new();
        let version = self.status.borrow().dictionary_version;
        let Taken { called, everything, answers } = self.ears.calls().begin();
        if let Err(error) = self.renew().await {
            problems.push(Chain(&error).to_string());
        }
        let own = self.joined.identity.own();
        problems.extend(wrong_clock(own.not_before, own.not_after, self.clock.now()));
        let done = match SigningKey::load(&self.joined.identity.files().identity) {
            Ok(key) => {
                self.cycle.answer(answers);
                self.cycle.run(&key, everything, &self.clock, &mut problems).await
            }
            Err(error) => Err(CycleError::Key(error)),
        };
        let done = match done {
            Ok(done) => done,
            Err(error) => {
                problems.push(Chain(&error).to_string());
                v1::LocalCheckNowResponse::default()
            }
        };
        self.ears.include_roaming(self.cycle.includes_roaming());
        if called {
            let news = self.cycle.status().dictionary_version != version;
            self.ears.calls().ended(news, self.clock.now());
        }
        self.warn(&problems);
        v1::LocalCheckNowResponse { problems, ..done }
    }

    fn warn(&self, problems: &[String]) {
        let endpoint = self.joined.identity.own().holder.id;
        for problem in problems {
            warn!(%endpoint, problem, "a check met a problem");
        }
    }

    async fn renew(&self) -> Result<(), JoinError> {
        let own_route = std::slice::from_ref(&self.joined.route);
        let routes = if self.config.upstream.is_empty() { own_route } else { &self.config.upstream };
        let (identity, now) = (&self.joined.identity, self.clock.now());
        joining::keep_fresh(&self.upstream, routes, identity, CERTIFICATE_LIFETIME, now).await.map(drop)
    }

    /// What `status` shows from now on.
    fn tell(&self, problems: &[String], next: Option<Timestamp>) {
        let own = self.joined.identity.own();
        let status = v1::LocalStatus {
            endpoint: own.holder.id.clone(),
            name: tierway_common::host::name(),
            site: own.holder.site.to_string(),
            upstream: self.config.upstream.first().unwrap_or(&self.joined.route).server.clone(),
            next_check: next.map_or(0, Timestamp::as_millisecond),
            last_error: problems.first().cloned().unwrap_or_default(),
            certificate_expires: own.not_after.as_millisecond(),
            ..self.cycle.status()
        };
        self.status.send_replace(Arc::new(status));
        self.show();
    }

    /// What the person at the machine is shown from now on.
    fn show(&self) {
        let due = self.cycle.due(&self.clock);
        self.due.send_if_modified(|before| {
            let changed = **before != due;
            if changed {
                *before = Arc::new(due);
            }
            changed
        });
    }
}

/// What the certificate tells about this computer's clock; asked after a renewal that was due, so that what
/// has ended by this clock was made just now by central's.
fn wrong_clock(not_before: Timestamp, not_after: Timestamp, now: Timestamp) -> Option<String> {
    if now < not_before {
        Some(format!(
            "the clock of this computer is behind: it says {now}, and its certificate begins at {not_before}"
        ))
    } else if now > not_after {
        Some(format!(
            "the certificate ended at {not_after} and the clock of this computer says {now}: is it ahead?"
        ))
    } else {
        None
    }
}
