//! The accept loop: TLS, who the peer is, HTTP/2, with every limit that the libraries leave open.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::server::Acceptor;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use tonic::body::Body;
use tower::{Service, ServiceExt};
use tracing::{debug, warn};

use self::{admission::Admission, turns::Turns};
use super::{identity::PeerIdentity, tls::Identity};
use crate::daemon::{
    chain::Chain,
    places::{Place, Places},
    stop::Stop,
};

mod admission;
mod turns;

/// What one door bears. The defaults follow from memory: streams × message size × connections stay
/// under what a small server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections.
    pub connections_max: usize,
    /// Open connections of one address; generous, since a whole site may come from one.
    pub connections_per_address_max: usize,
    /// Open connections of one holder of a certificate, who needs one, and another while that is replaced; generous for
    /// an operator whose scripts run side by side.
    pub connections_of_one_max: usize,
    /// A peer has this long to begin its TLS handshake, and once more from its turn to the end of it.
    pub handshake_timeout: Duration,
    /// Handshakes that have their turn, three quarters of them with those of one address.
    pub handshakes_max: usize,
    /// After so long its turn is the next one's: whoever is far away goes on without, and who says nothing more keeps none.
    pub handshake_turn_max: Duration,
    /// Whoever has begun a handshake waits this long for a turn, and holds a connection and nothing else.
    pub handshake_wait_max: Duration,
    /// A peer without a certificate has this long for all it wants, which is to enrol.
    pub anonymous_timeout: Duration,
    /// Open streams of one connection.
    pub streams_max: u32,
    /// Requests being answered to peers with a certificate, over all connections; more are told to come later.
    pub requests_max: usize,
    /// Requests being answered to one holder of a certificate, over all connections: a relay back after a week sends no
    /// more than this at once.
    pub requests_of_one_max: usize,
    /// Requests being answered that call the same method, so that reports leave room for checks and questions, and
    /// these for reports.
    pub requests_of_method_max: usize,
    /// Open streams of one connection without a certificate: who enrols has one.
    pub anonymous_streams_max: u32,
    /// Requests being answered to peers without a certificate. Anybody can send those and be slow about it, so
    /// they take nothing from the others.
    pub anonymous_requests_max: usize,
    /// From the first byte of a request to the first of its answer.
    pub answer_timeout: Duration,
    /// A connection is asked to go after this, so that a revoked or expired certificate stops counting.
    pub connection_age_max: Duration,
    /// And is cut this much later.
    pub connection_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 20_000,
            connections_per_address_max: 10_000,
            connections_of_one_max: 64,
            handshake_timeout: Duration::from_secs(5),
            // Over the worst of lines, 0.3 s there and back, 400 handshakes a second; a small server makes 1,000.
            handshakes_max: 128,
            handshake_turn_max: Duration::from_secs(2),
            handshake_wait_max: Duration::from_secs(20),
            anonymous_timeout: Duration::from_secs(30),
            streams_max: 64,
            requests_max: 2_048,
            requests_of_one_max: 128,
            requests_of_method_max: 1_536,
            anonymous_streams_max: 4,
            anonymous_requests_max: 128,
            answer_timeout: Duration::from_secs(60),
            connection_age_max: Duration::from_secs(60 * 60),
            connection_grace: Duration::from_secs(30),
        }
    }
}

/// Bytes of all headers of a request.
const HEADER_BYTES_MAX: u32 = 8 * 1024;
/// Unread bytes of one stream: requests are small.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Unread bytes of a connection.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of an answer that wait for the peer to read, per stream.
const SEND_BUFFER: usize = 64 * 1024;
/// Resets by this side's errors before the connection is given up (RUSTSEC-2024-0003).
const LOCAL_RESETS_MAX: usize = 64;
/// Streams reset before they were looked at (rapid reset, CVE-2023-44487).
const PENDING_RESETS_MAX: usize = 16;
/// How often a silent peer is asked for a sign of life, and how long it has.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(20));

/// What answers requests: cloned for each.
pub trait Answer:
    Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + Send + 'static
{
}
impl<S> Answer for S where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static
{
}

/// Who is connected, for status.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicUsize>);

impl Gauge {
    /// Open connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

struct Held {
    gauge: Gauge,
    _place: Place<IpAddr>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gauge.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Accepts and answers until `stop`; then lets open requests end within the grace period.
pub async fn serve(
    listener: TcpListener,
    identity: Identity,
    answer: impl Answer + Sync,
    limits: Limits,
    gauge: Gauge,
    stop: Stop,
) {
    let limits = Arc::new(limits);
    let admission = Arc::new(Admission::new(&limits));
    let turns = Arc::new(Turns::new(limits.handshakes_max));
    let addresses = Places::default();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.wait() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        let (tcp, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: the next attempt needs some to be closed first.
                warn!(error = %error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(held) = admit(&gauge, &addresses, &limits, peer) else {
            debug!(%peer, "refused a connection: too many are open");
            continue;
        };
        let (identity, answer) = (identity.clone(), answer.clone());
        let (limits, admission, stop) = (limits.clone(), admission.clone(), stop.clone());
        let turns = turns.clone();
        connections.spawn(async move {
            if let Some(stream) = handshake(tcp, peer, &identity, &limits, &turns).await {
                connection(stream, peer, answer, &limits, admission, &stop).await;
            }
            drop(held);
        });
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    let _ = timeout(limits.connection_grace, all).await;
}

fn admit(gauge: &Gauge, addresses: &Places<IpAddr>, limits: &Limits, peer: SocketAddr) -> Option<Held> {
    if gauge.connections() >= limits.connections_max {
        return None;
    }
    let place = addresses.take(&peer.ip(), limits.connections_per_address_max)?;
    gauge.0.fetch_add(1, Ordering::Relaxed);
    Some(Held { gauge: gauge.clone(), _place: place })
}

/// The TLS handshake, in its turn; `None` when there is none.
async fn handshake(
    tcp: TcpStream,
    peer: SocketAddr,
    identity: &Identity,
    limits: &Limits,
    turns: &Turns,
) -> Option<TlsStream<TcpStream>> {
    let _ = tcp.set_nodelay(true);
    let failed = |error: io::Error| debug!(%peer, error = %Chain(&error), "no TLS with a peer");
    let slow = || debug!(%peer, "a peer took too long for its handshake");
    let begun = LazyConfigAcceptor::new(Acceptor::default(), tcp);
    let begun =
        timeout(limits.handshake_timeout, begun).await.map_err(|_| slow()).ok()?.map_err(failed).ok()?;
    let Ok(Some(turn)) = timeout(limits.handshake_wait_max, turns.take(peer.ip())).await else {
        debug!(%peer, "a peer had no turn for its handshake");
        return None;
    };
    if matches!(begun.io.peek(&mut [0]).now_or_never(), Some(Ok(0) | Err(_))) {
        debug!(%peer, "a peer left before the turn of its handshake");
        return None;
    }
    let mut all = pin!(timeout(limits.handshake_timeout, begun.into_stream(identity.server())));
    let done = match timeout(limits.handshake_turn_max, all.as_mut()).await {
        Ok(done) => done,
        Err(_) => {
            drop(turn);
            all.await
        }
    };
    done.map_err(|_| slow()).ok()?.map_err(failed).ok()
}

async fn connection(
    stream: TlsStream<TcpStream>,
    peer: SocketAddr,
    answer: impl Answer,
    limits: &Limits,
    admission: Arc<Admission>,
    stop: &Stop,
) {
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let identity = match certificate.map(PeerIdentity::read).transpose() {
        Ok(identity) => identity.map(Arc::new),
        Err(error) => return warn!(%peer, error = %Chain(&error), "refused a certificate"),
    };
    let mut place = None;
    let (age, streams_max, answer_timeout) = if let Some(identity) = &identity {
        place = admission.connection(&identity.holder);
        if place.is_none() {
            return debug!(%peer, holder = %identity.holder, "refused a connection: its holder has too many");
        }
        (limits.connection_age_max, limits.streams_max, limits.answer_timeout)
    } else {
        let answer_timeout = limits.answer_timeout.min(limits.anonymous_timeout);
        (limits.anonymous_timeout, limits.anonymous_streams_max, answer_timeout)
    };
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        if let Some(identity) = &identity {
            request.extensions_mut().insert(identity.clone());
        }
        let request = request.map(Body::new);
        respond(request, answer.clone(), admission.clone(), identity.clone(), answer_timeout)
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams_max)
        .max_header_list_size(HEADER_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_local_error_reset_streams(LOCAL_RESETS_MAX)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let end = tokio::select! {
        end = connection.as_mut() => Some(end),
        () = tokio::time::sleep(age) => None,
        () = stop.wait() => None,
    };
    let end = match end {
        Some(end) => end,
        None => {
            connection.as_mut().graceful_shutdown();
            match timeout(limits.connection_grace, connection).await {
                Ok(end) => end,
                Err(_) => return debug!(%peer, "cut a connection that would not end"),
            }
        }
    };
    drop(place);
    if let Err(error) = end {
        debug!(%peer, error = %Chain(&error), "a connection broke");
    }
}

type Answered = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

fn respond(
    request: Request<Body>,
    answer: impl Answer,
    admission: Arc<Admission>,
    identity: Option<Arc<PeerIdentity>>,
    answer_timeout: Duration,
) -> Answered {
    Box::pin(async move {
        let holder = identity.as_ref().map(|identity| &identity.holder);
        let _permit = match admission.request(holder, request.uri().path()) {
            Ok(permit) => permit,
            Err(reason) => return Ok(later(reason, &admission)),
        };
        match timeout(answer_timeout, answer.oneshot(request)).await {
            Ok(response) => response,
            Err(_) => Ok(later("the request took too long", &admission)),
        }
    })
}

/// gRPC's RESOURCE_EXHAUSTED with a hint when to come again.
fn later(reason: &'static str, admission: &Admission) -> Response<Body> {
    let mut response = tonic::Status::resource_exhausted(reason).into_http::<Body>();
    response.headers_mut().insert("retry-after", HeaderValue::from(admission.later()));
    response
}
