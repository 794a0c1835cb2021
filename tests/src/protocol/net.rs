//! The network between the tiers: requests and answers as the tiers' own doors take and give them, without
//! connections below.
//!
//! What a seed decides of each call: whether the request gets lost, how long it takes, whether it comes twice, whether the
//! answer gets lost or breaks off, and whether whoever answers lies about a blob. What is lost is noticed by nothing but
//! the caller's own patience. A node that is down, or cut off, answers nothing.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::{Future, pending},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tierway_common::transport::{identity::PeerIdentity, tls::Identity};
use tokio::{
    sync::{mpsc, oneshot},
    task::AbortHandle,
    time::sleep,
};
use tonic::{Status, body::Body, codegen::Service};
use tower::{ServiceExt as _, util::BoxCloneSyncService};

use super::{Sabotage, checks::Watch};
use crate::simulation::random::Random;

/// Who takes part, by number, as a [`Tree`] has them.
pub type Node = usize;
/// Central.
pub const CENTRAL: Node = 0;

/// Who is below whom: 0 is central; then come relays, each below the one before; then endpoints, below one relay after the
/// other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tree {
    /// How many relays there are, at least one.
    pub relays: usize,
    /// How many endpoints.
    pub endpoints: usize,
}

impl Tree {
    /// How many there are altogether.
    #[must_use]
    pub fn nodes(self) -> usize {
        1 + self.relays + self.endpoints
    }

    /// Central and the relays.
    #[must_use]
    pub fn servers(self) -> std::ops::RangeInclusive<Node> {
        CENTRAL..=self.relays
    }

    /// Whom a node other than central calls.
    #[must_use]
    pub fn above(self, node: Node) -> Node {
        if self.servers().contains(&node) { node - 1 } else { 1 + node % self.relays }
    }
}

/// What answers at the door of a tier.
pub type Door = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// A method's name, and what was said.
const PATH: &str = "/tierway.v1.Upstream/";
/// Answers that are kept of each node and method.
const RECORDED_MAX: usize = 24;
/// Frames of an answer on their way.
const FRAMES: usize = 8;

/// How often each fault comes, in calls of a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Odds {
    /// The request gets lost.
    pub lost: u64,
    /// The answer gets lost.
    pub unanswered: u64,
    /// The request comes twice.
    pub twice: u64,
    /// The answer breaks off.
    pub broken: u64,
    /// Either takes so long that the caller has given up.
    pub late: u64,
    /// A byte of an answer is another one.
    pub garbled: u64,
    /// The answer is one that was given before, to somebody else perhaps.
    pub replayed: u64,
}

#[derive(Debug)]
struct Place {
    door: Option<Door>,
    /// What it does for others.
    serving: Vec<AbortHandle>,
    cut: bool,
}

#[derive(Debug)]
struct Inner {
    places: Vec<Place>,
    links: BTreeMap<(Node, Node), Random>,
    seed: u64,
    odds: Odds,
    sabotage: Option<Sabotage>,
    /// Answers of each node about what is published: the first, and then every eighth.
    recorded: BTreeMap<(Node, String), (u64, Vec<Recorded>)>,
}

/// An answer that can be given again.
#[derive(Clone, Debug)]
struct Recorded {
    head: http::HeaderMap,
    data: Vec<Bytes>,
    trailers: http::HeaderMap,
}

/// The network; cheap to clone.
#[derive(Clone, Debug)]
pub struct Net {
    inner: Arc<Mutex<Inner>>,
    watch: Watch,
}

/// What happens to one call.
#[derive(Clone, Copy, Debug)]
struct Fate {
    lost: bool,
    there: Duration,
    again: Option<Duration>,
    unanswered: bool,
    back: Duration,
    frames: Option<u64>,
    garbled: Option<u64>,
    replayed: Option<u64>,
}

impl Net {
    /// Of so many nodes, none of which is up.
    #[must_use]
    pub fn new(seed: u64, nodes: usize, odds: Odds, sabotage: Option<Sabotage>, watch: Watch) -> Self {
        let places = (0..nodes).map(|_| Place { door: None, serving: Vec::new(), cut: false }).collect();
        let inner = Inner { places, links: BTreeMap::new(), seed, odds, sabotage, recorded: BTreeMap::new() };
        Self { inner: Arc::new(Mutex::new(inner)), watch }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node is up and answers.
    pub fn opens<S>(&self, node: Node, door: S)
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
            + Clone
            + Send
            + Sync
            + 'static,
    {
        self.inner().places[node].door = Some(BoxCloneSyncService::new(door));
    }

    /// A node is down: whatever it was doing for others ends.
    pub fn closes(&self, node: Node) {
        let (door, serving) = {
            let mut inner = self.inner();
            let place = &mut inner.places[node];
            (place.door.take(), std::mem::take(&mut place.serving))
        };
        drop(door);
        serving.iter().for_each(AbortHandle::abort);
    }

    /// A node is cut off from all others, or no more.
    pub fn cuts(&self, node: Node, cut: bool) {
        self.inner().places[node].cut = cut;
    }

    /// From now on nothing goes wrong.
    pub fn calms(&self) {
        let mut inner = self.inner();
        inner.odds = Odds::default();
        inner.places.iter_mut().for_each(|place| place.cut = false);
    }

    /// The way from one node to another, for whoever has this identity.
    #[must_use]
    pub fn wire(&self, from: Node, to: Node, identity: Option<Identity>) -> Wire {
        Wire { net: self.clone(), from, to, identity }
    }

    fn fate(&self, from: Node, to: Node) -> Fate {
        let mut inner = self.inner();
        let (seed, odds) = (inner.seed, inner.odds);
        let random =
            inner.links.entry((from, to)).or_insert_with(|| Random::of(seed, &[1, from as u64, to as u64]));
        let mut happens = |odds: u64| random.below(1_000) < odds;
        let (lost, unanswered, twice) = (happens(odds.lost), happens(odds.unanswered), happens(odds.twice));
        let (late, slow, broken, garbled) =
            (happens(odds.late), happens(odds.late), happens(odds.broken), happens(odds.garbled));
        let mut millis = |end: u64| Duration::from_millis(1 + random.below(end));
        // A caller gives up after a minute.
        let there = if late { millis(300_000) } else { millis(400) };
        let back = if slow { millis(300_000) } else { millis(400) };
        let again = twice.then(|| millis(600_000));
        let frames = broken.then(|| random.below(3));
        let garbled = garbled.then(|| random.bits());
        let replayed = (random.below(1_000) < odds.replayed).then(|| random.bits());
        Fate { lost, there, again, unanswered, back, frames, garbled, replayed }
    }

    /// The door of a node, if a call from another comes through to it.
    fn door(&self, from: Node, to: Node) -> Result<Option<Door>, Status> {
        let inner = self.inner();
        if inner.places[from].cut || inner.places[to].cut {
            return Ok(None);
        }
        inner.places[to].door.clone().map(Some).ok_or_else(|| Status::unavailable("connection refused"))
    }

    /// Has a node do something for others, until it is down.
    fn serve(&self, node: Node, work: impl Future<Output = ()> + Send + 'static) {
        let handle = tokio::spawn(work).abort_handle();
        let mut inner = self.inner();
        let serving = &mut inner.places[node].serving;
        serving.retain(|task| !task.is_finished());
        serving.push(handle);
    }

    /// An answer that a node gave before; only of those about what is published, since who lies about others is no
    /// relay of ours.
    fn recorded(&self, node: Node, method: &str, place: u64) -> Option<Recorded> {
        let inner = self.inner();
        let (_, recorded) = inner.recorded.get(&(node, method.to_owned()))?;
        let place = usize::try_from(place % recorded.len().max(1) as u64).unwrap_or(0);
        recorded.get(place).cloned()
    }

    fn record(&self, node: Node, method: &str, recorded: Recorded) {
        let mut inner = self.inner();
        let (count, all) = inner.recorded.entry((node, method.to_owned())).or_default();
        if count.is_multiple_of(8) && all.len() < RECORDED_MAX {
            all.push(recorded);
        }
        *count += 1;
    }

    fn sabotage(&self) -> Option<Sabotage> {
        self.inner().sabotage
    }
}

impl Recorded {
    fn response(self) -> Response<Body> {
        let Self { head, data, trailers } = self;
        let frames = data.into_iter().map(Frame::data).chain([Frame::trailers(trailers)]);
        let body = StreamBody::new(stream::iter(frames.map(Ok::<_, Status>).collect::<Vec<_>>()));
        let mut response = Response::new(Body::new(body));
        *response.headers_mut() = head;
        response
    }
}

/// The way from one node to another.
#[derive(Clone, Debug)]
pub struct Wire {
    net: Net,
    from: Node,
    to: Node,
    identity: Option<Identity>,
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>;

impl Service<Request<Body>> for Wire {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        let this = self.clone();
        Box::pin(async move { this.carry(request).await })
    }
}

/// A request that can come more than once.
#[derive(Clone)]
struct Letter {
    from: Node,
    to: Node,
    method: String,
    parts: http::request::Parts,
    body: Bytes,
}

impl Letter {
    fn request(&self) -> Request<Body> {
        let body = http_body_util::Full::new(self.body.clone());
        Request::from_parts(self.parts.clone(), Body::new(body))
    }
}

impl Wire {
    async fn carry(self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let Self { net, from, to, identity } = self;
        let fate = net.fate(from, to);
        let (mut parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        if let Some(identity) = identity {
            parts.extensions.insert(Arc::<PeerIdentity>::new(identity.own()));
        }
        let method = parts.uri.path().strip_prefix(PATH).unwrap_or_default().to_owned();
        let letter = Letter { from, to, method, parts, body };
        net.watch.sent(from, to, &letter.method);
        if let Some(again) = fate.again {
            let (net, letter) = (net.clone(), letter.clone());
            tokio::spawn(async move {
                sleep(again).await;
                if let Ok(Some(door)) = net.door(letter.from, letter.to) {
                    let (answer, _) = oneshot::channel();
                    let work = serve(net.clone(), door, letter.clone(), answer);
                    net.serve(letter.to, work);
                }
            });
        }
        sleep(fate.there).await;
        if fate.lost {
            return pending().await;
        }
        let Some(door) = net.door(from, to)? else { return pending().await };
        if let Some(recorded) = fate.replayed.and_then(|place| net.recorded(to, &letter.method, place)) {
            net.watch.note(format_args!("{from} < {to} {} of earlier", letter.method));
            sleep(fate.back).await;
            return Ok(recorded.response());
        }
        let (answer, answered) = oneshot::channel();
        net.serve(to, serve(net.clone(), door, letter.clone(), answer));
        let reset = || Status::unavailable("connection reset");
        let (head, frames) = answered.await.map_err(|_| reset())?;
        sleep(fate.back).await;
        if fate.unanswered || net.door(from, to).is_ok_and(|door| door.is_none()) {
            return pending().await;
        }
        net.watch.answered(from, to, &letter.method);
        let reports = (letter.method == "SubmitReports").then(|| (letter.body.clone(), Vec::new()));
        let on_the_way = OnTheWay {
            watch: net.watch.clone(),
            from,
            frames,
            left: fate.frames,
            garbled: fate.garbled.filter(|_| letter.method == "FetchBlobs"),
            reports,
            ended: false,
        };
        Ok(Response::from_parts(head, Body::new(StreamBody::new(stream::unfold(on_the_way, next)))))
    }
}

type Frames = mpsc::Receiver<Option<Frame<Bytes>>>;

struct OnTheWay {
    watch: Watch,
    from: Node,
    frames: Frames,
    /// Frames that come through before it breaks.
    left: Option<u64>,
    garbled: Option<u64>,
    /// Reports that were handed in, and the answer so far.
    reports: Option<(Bytes, Vec<u8>)>,
    ended: bool,
}

async fn next(mut way: OnTheWay) -> Option<(Result<Frame<Bytes>, Status>, OnTheWay)> {
    if way.ended {
        return None;
    }
    if way.left == Some(0) {
        way.ended = true;
        return Some((Err(Status::unavailable("connection reset")), way));
    }
    way.left = way.left.map(|left| left - 1);
    match way.frames.recv().await {
        Some(Some(frame)) => {
            let frame = match (way.garbled, frame.into_data()) {
                (Some(at), Ok(data)) if !data.is_empty() => {
                    let mut bytes = data.to_vec();
                    let at = usize::try_from(at % data.len() as u64).unwrap_or(0);
                    bytes[at] ^= 0x20;
                    Frame::data(bytes.into())
                }
                (_, Ok(data)) => {
                    if let Some((_, answer)) = &mut way.reports {
                        answer.extend_from_slice(&data);
                    }
                    Frame::data(data)
                }
                (_, Err(frame)) => {
                    // With the trailers it is whole.
                    if let Some((request, answer)) = way.reports.take() {
                        way.watch.acknowledged(way.from, &request, &answer);
                    }
                    frame
                }
            };
            Some((Ok(frame), way))
        }
        Some(None) => None,
        None => {
            way.ended = true;
            Some((Err(Status::unavailable("connection reset")), way))
        }
    }
}

/// Has the door answer, and hands on what it says piece by piece.
async fn serve(
    net: Net,
    door: Door,
    mut letter: Letter,
    answer: oneshot::Sender<(http::response::Parts, Frames)>,
) {
    net.watch.arrives(letter.to, &letter.method, &mut letter.body, net.sabotage());
    let response = match door.oneshot(letter.request()).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let (parts, mut body) = response.into_parts();
    let (sender, frames) = mpsc::channel(FRAMES);
    let publishes = matches!(letter.method.as_str(), "CheckIn" | "GetMetadata");
    let mut recorded = publishes.then(|| Recorded {
        head: parts.headers.clone(),
        data: Vec::new(),
        trailers: http::HeaderMap::new(),
    });
    let unheard = answer.send((parts, frames)).is_err();
    let mut passing = net.watch.serving(letter.to, &letter.method, &letter.body);
    loop {
        let frame = tokio::select! {
            biased;
            () = sender.closed(), if !unheard => return,
            frame = body.frame() => frame,
        };
        let Some(frame) = frame else { break };
        let Ok(frame) = frame else { return };
        let frame = match frame.into_data() {
            Ok(data) => {
                recorded.iter_mut().for_each(|recorded| recorded.data.push(data.clone()));
                Frame::data(net.watch.served(&mut passing, data, net.sabotage()))
            }
            Err(frame) => {
                if let (Some(mut recorded), Some(trailers)) = (recorded.take(), frame.trailers_ref()) {
                    recorded.trailers = trailers.clone();
                    net.record(letter.to, &letter.method, recorded);
                }
                frame
            }
        };
        if unheard {
            if letter.method == "Watch" {
                return;
            }
            continue;
        }
        if sender.send(Some(frame)).await.is_err() {
            return;
        }
    }
    if letter.to == CENTRAL && letter.method == "SubmitReports" {
        net.watch.looks();
    }
    // What was said is said whole.
    let _ = sender.send(None).await;
}
