//! For the person at the machine: status, why, history, check now, what is due and what to do about it, over a
//! door that only this computer has.
//!
//! Everybody may connect; who calls is known by the kernel's word. Root, on Windows an administrator, may call everything,
//! whoever is logged in all but a check, and nobody else anything. What a person may wish is the service level's to say, see
//! [`crate::wishes::permit`]; how often he may ask and how many connections he may have is limited, so that nobody
//! shuts others out.

mod convert;
#[cfg_attr(unix, path = "local/unix.rs")]
#[cfg_attr(windows, path = "local/windows.rs")]
mod door;
#[cfg(any(windows, test))]
mod heard;
#[cfg(unix)]
pub mod notify;
mod pace;
mod places;
pub mod screen;
pub mod terminal;

use std::{
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{Stream, stream};
use hyper_util::rt::TokioIo;
use jiff::tz::TimeZone;
use tierway_common::{
    clock::Clock,
    daemon::{chain::Chain, stop::Stop},
};
use tierway_proto::v1::{
    self,
    local_client::LocalClient,
    local_server::{Local, LocalServer},
};
use tokio::sync::{mpsc, oneshot, watch};
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint, Server},
};

use self::{
    pace::Pace,
    places::{Full, Places},
};
use crate::{
    due::Due,
    probe::Surroundings,
    remind::{self, Shown},
    wishes::{Caller, Refused, Wish},
};

/// What the agent is asked between its cycles.
#[derive(Debug)]
pub enum Ask {
    /// Run a cycle.
    CheckNow(oneshot::Sender<v1::LocalCheckNowResponse>),
    /// Explain an update, by id or a part of its name.
    Why(String, oneshot::Sender<Result<v1::LocalWhyResponse, String>>),
    /// The newest events, at most so many.
    History(usize, oneshot::Sender<v1::LocalHistoryResponse>),
    /// What was decided last.
    Plan(oneshot::Sender<v1::LocalPlan>),
    /// A wish of somebody; answered when it is durable and shown.
    Wish(Caller, Wish, oneshot::Sender<Result<(), WishError>>),
}

/// Why a wish is not taken up.
#[derive(Debug, thiserror::Error)]
pub enum WishError {
    /// It is not granted.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It could not be written down.
    #[error("{0}")]
    Failed(String),
}

/// Asks that wait for the agent.
pub const ASKS: usize = 16;
/// Events of one answer.
const HISTORY_MAX: u32 = 10_000;
/// Calls at once on one connection: a program watches and asks something besides.
const STREAMS_MAX: u32 = 8;
/// A watcher looks again at the latest after so long, so that a clock that was set does not leave it asleep.
const LOOK_AGAIN: Duration = Duration::from_secs(600);

/// Why nobody is answered.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The socket.
    #[error("could not listen on `{path}`")]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The agent does not run, or not with this socket.
    #[error("no endpoint answers on `{path}`: is `tierway-endpoint serve` running?")]
    Nobody {
        /// Where.
        path: PathBuf,
        /// Why.
        source: tonic::transport::Error,
    },
}

/// With what the socket is served.
#[derive(Clone, Debug)]
pub struct Answers {
    /// How the endpoint stands.
    pub status: watch::Receiver<Arc<v1::LocalStatus>>,
    /// What is due.
    pub due: watch::Receiver<Arc<Due>>,
    /// To the agent.
    pub asks: mpsc::Sender<Ask>,
    /// Who is logged in.
    pub surroundings: Arc<dyn Surroundings>,
    /// Tells the time.
    pub clock: Clock,
}

/// Who is at the other end, by the kernel's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    /// The administrator of this computer.
    Root,
    /// Somebody else, by user id; on Windows by session.
    User(u32),
    /// Somebody who has no place: he is told so, and nothing else.
    Refused(Full),
}

/// As what a program speaks to the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaker {
    /// As who runs it, an administrator too.
    Anybody,
    /// As a person, where administrators have a door of their own.
    Person,
}

struct Service {
    answers: Answers,
    watchers: Places,
    pace: Mutex<Pace>,
    stop: Stop,
}

impl Service {
    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Status> {
        let gone = || Status::unavailable("the endpoint is stopping");
        let (sender, receiver) = oneshot::channel();
        self.answers.asks.send(ask(sender)).await.map_err(|_| gone())?;
        receiver.await.map_err(|_| gone())
    }

    /// Who calls; refused when he is neither root nor logged in.
    async fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let peer = door::peer(request).ok_or_else(|| Status::unauthenticated("who calls is not known"))?;
        let uid = match peer {
            Peer::Root => return Ok(Caller::Root),
            Peer::User(uid) => uid,
            Peer::Refused(full) => {
                return Err(Status::resource_exhausted(format!("no connection is free: {full}")));
            }
        };
        if self.answers.surroundings.logged_in(uid).await {
            return Ok(Caller::Person(uid));
        }
        Err(Status::permission_denied("only root and those who are logged in are answered"))
    }

    /// Counts something that costs the endpoint more than a look; refused when it is asked too often.
    fn pace(&self, caller: Caller) -> Result<(), Status> {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.ask(caller.uid(), self.answers.clock.awake()).map_err(|wait| {
            let seconds = wait.as_secs_f64().ceil();
            Status::resource_exhausted(format!("asked too often: once more in {seconds} seconds"))
        })
    }

    fn due(&self, caller: Caller) -> v1::LocalDue {
        convert::due(&self.answers.due.borrow(), caller, self.answers.clock.now())
    }
}

#[tonic::async_trait]
impl Local for Service {
    async fn status(
        &self,
        request: Request<v1::LocalStatusRequest>,
    ) -> Result<Response<v1::LocalStatus>, Status> {
        self.caller(&request).await?;
        let status = self.answers.status.borrow().clone();
        Ok(Response::new((*status).clone()))
    }

    async fn check_now(
        &self,
        request: Request<v1::LocalCheckNowRequest>,
    ) -> Result<Response<v1::LocalCheckNowResponse>, Status> {
        if self.caller(&request).await? != Caller::Root {
            return Err(Status::permission_denied("only root may order a check"));
        }
        Ok(Response::new(self.ask(Ask::CheckNow).await?))
    }

    async fn why(
        &self,
        request: Request<v1::LocalWhyRequest>,
    ) -> Result<Response<v1::LocalWhyResponse>, Status> {
        self.pace(self.caller(&request).await?)?;
        let v1::LocalWhyRequest { patch } = request.into_inner();
        let answer = self.ask(|reply| Ask::Why(patch, reply)).await?;
        answer.map(Response::new).map_err(Status::not_found)
    }

    async fn history(
        &self,
        request: Request<v1::LocalHistoryRequest>,
    ) -> Result<Response<v1::LocalHistoryResponse>, Status> {
        self.pace(self.caller(&request).await?)?;
        let v1::LocalHistoryRequest { limit } = request.into_inner();
        let limit = usize::try_from(limit.min(HISTORY_MAX)).unwrap_or(0);
        Ok(Response::new(self.ask(|reply| Ask::History(limit, reply)).await?))
    }

    async fn plan(&self, request: Request<v1::LocalPlanRequest>) -> Result<Response<v1::LocalPlan>, Status> {
        self.pace(self.caller(&request).await?)?;
        Ok(Response::new(self.ask(Ask::Plan).await?))
    }

    async fn due(&self, request: Request<v1::LocalDueRequest>) -> Result<Response<v1::LocalDue>, Status> {
        let caller = self.caller(&request).await?;
        Ok(Response::new(Self::due(self, caller)))
    }

    async fn wish(&self, request: Request<v1::LocalWishRequest>) -> Result<Response<v1::LocalDue>, Status> {
        let caller = self.caller(&request).await?;
        self.pace(caller)?;
        let due = self.answers.due.borrow().clone();
        let wish = convert::wish(&request.into_inner(), &due, self.answers.clock.now())?;
        match self.ask(|reply| Ask::Wish(caller, wish, reply)).await? {
            Ok(()) => Ok(Response::new(Self::due(self, caller))),
            Err(error @ WishError::Refused(_)) => Err(Status::failed_precondition(error.to_string())),
            Err(error) => Err(Status::internal(error.to_string())),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::LocalShow, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<v1::LocalWatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let caller = self.caller(&request).await?;
        let place = self.watchers.take(caller.uid());
        let place =
            place.map_err(|full| Status::resource_exhausted(format!("nobody more may watch: {full}")))?;
        let watcher = Watcher::new(&self.answers, caller, self.stop.clone());
        let shows = stream::unfold((watcher, place), |(mut watcher, place)| async {
            let show = watcher.next().await?;
            Some((Ok(show), (watcher, place)))
        });
        Ok(Response::new(Box::pin(shows)))
    }
}

/// One who watches.
struct Watcher {
    caller: Caller,
    due: watch::Receiver<Arc<Due>>,
    clock: Clock,
    zone: TimeZone,
    stop: Stop,
    shown: Shown,
    told: Option<v1::LocalDue>,
}

impl Watcher {
    fn new(answers: &Answers, caller: Caller, stop: Stop) -> Self {
        Self {
            caller,
            due: answers.due.clone(),
            clock: answers.clock.clone(),
            zone: TimeZone::system(),
            stop,
            shown: Shown::default(),
            told: None,
        }
    }

    /// What is next, when there is something; `None` at the end.
    async fn next(&mut self) -> Option<v1::LocalShow> {
        loop {
            let due = self.due.borrow_and_update().clone();
            let now = self.clock.now();
            let (prompt, again) = remind::decide(&due, &mut self.shown, &self.zone, now);
            let due = convert::due(&due, self.caller, now);
            if prompt.is_some() || self.told.as_ref() != Some(&due) {
                self.told = Some(due.clone());
                return Some(v1::LocalShow { due: Some(due), prompt: prompt.as_ref().map(convert::prompt) });
            }
            let wait = again.map(|again| again.as_millisecond() - now.as_millisecond());
            let wait =
                wait.map_or(LOOK_AGAIN, |wait| Duration::from_millis(u64::try_from(wait).unwrap_or(0)));
            tokio::select! {
                () = self.stop.wait() => return None,
                changed = self.due.changed() => changed.ok()?,
                () = tokio::time::sleep(wait.min(LOOK_AGAIN)) => {}
            }
        }
    }
}

/// Warns everybody at a terminal of what is urgent: who does not look at a desktop sees no notification.
async fn warn_terminals(answers: &Answers, stop: Stop) {
    // What a prompt says is for everybody.
    let mut watcher = Watcher::new(answers, Caller::Root, stop);
    while let Some(show) = watcher.next().await {
        let Some(v1::LocalPrompt { title, text, urgent: true, .. }) = show.prompt else { continue };
        let text = format!("{title}.\n{text}\nTo choose: tierway-endpoint user");
        answers.surroundings.tell(&text).await;
    }
}

/// Answers on the socket at `path` and warns people at terminals until `stop`.
///
/// # Errors
///
/// [`LocalError::Listen`].
pub fn serve(
    path: &Path,
    answers: Answers,
    stop: Stop,
) -> Result<impl Future<Output = ()> + Send + 'static, LocalError> {
    let error = |source| LocalError::Listen { path: path.to_owned(), source };
    let callers = door::listen(path).map_err(error)?;
    let (watchers, pace) = (Places::new(places::WATCHERS), Mutex::default());
    let warned = answers.clone();
    let service = LocalServer::new(Service { answers, watchers, pace, stop: stop.clone() });
    let socket = path.to_owned();
    Ok(async move {
        let serving = Server::builder()
            .max_concurrent_streams(STREAMS_MAX)
            .add_service(service)
            .serve_with_incoming_shutdown(callers, async { stop.wait().await });
        let (served, ()) = tokio::join!(serving, warn_terminals(&warned, stop.clone()));
        if let Err(error) = served {
            tracing::warn!(error = %Chain(&error), "the local socket is no longer served");
        }
        door::remove(&socket);
    })
}

/// Asks the endpoint that runs on this machine, as who runs this program.
///
/// # Errors
///
/// [`LocalError::Nobody`].
pub async fn connect(path: &Path) -> Result<LocalClient<Channel>, LocalError> {
    connect_as(path, Speaker::Anybody).await
}

/// The same as a person, also when an administrator runs this program; on Windows alone, elsewhere the door knows users.
///
/// # Errors
///
/// [`LocalError::Nobody`].
pub async fn connect_as_person(path: &Path) -> Result<LocalClient<Channel>, LocalError> {
    connect_as(path, Speaker::Person).await
}

async fn connect_as(path: &Path, speaker: Speaker) -> Result<LocalClient<Channel>, LocalError> {
    let socket = path.to_owned();
    let channel = Endpoint::from_static("http://endpoint.local")
        .connect_with_connector(tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { door::connect(&socket, speaker).await.map(TokioIo::new) }
        }))
        .await
        .map_err(|source| LocalError::Nobody { path: path.to_owned(), source })?;
    Ok(LocalClient::new(channel))
}

#[cfg(test)]
#[cfg(unix)]
mod tests;
