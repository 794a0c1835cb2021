//! What somebody with a certificate, and somebody without, can do to a door by the sheer number, length or slowness of what
//! is sent: for each attack the limit that ends it, and that others are served meanwhile.

use std::{convert::Infallible, future::poll_fn, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{Full, StreamBody};
use hyper::body::Frame;
use tierway_common::{
    clock::Clock,
    daemon::chain::Chain,
    enrollment::Token,
    transport::{SERVER_NAME, accept::Limits, dial},
};
use tierway_proto::{joining, joining::Joined, upstream::Upstream};
use tierway_tests::fleet::{Fleet, Relay, until};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};
use tonic::{body::Body, client::GrpcService, transport::Channel};

/// A relay whose door has these limits, and two endpoints of it.
async fn site(change: impl Fn(&mut Limits)) -> (Fleet, Relay, [Joined; 2]) {
    let fleet = Fleet::start_at(Clock::system()).await;
    let mut relay = fleet.relay("osaka").await;
    relay.stop().await;
    change(&mut relay.config.limits);
    relay.start().await;
    relay.caught_up(&fleet).await;
    let mut joined = Vec::new();
    for name in ["web1", "web2"] {
        let endpoint = fleet.enroll(name, "osaka", relay.address, &fleet.folder(name)).await;
        joined.push(joining::load(&endpoint.config.data_dir).unwrap());
    }
    (fleet, relay, joined.try_into().unwrap())
}

fn door(of: &Joined) -> Channel {
    dial::channel(of.route.clone(), &of.identity)
}

/// Is answered as an honest endpoint is.
async fn is_served(of: &Joined) {
    Upstream::new(door(of)).metadata("timestamp", None).await.unwrap().unwrap();
}

/// What a door said: gRPC's code, and whether in some seconds to come again.
#[derive(Debug, PartialEq)]
struct Said {
    code: Option<String>,
    again: bool,
    http: u16,
}

async fn call(mut door: Channel, method: &str, header: Option<(&str, &str)>, body: Body) -> Option<Said> {
    let mut request =
        http::Request::post(format!("http://upstream.tierway.internal/tierway.v1.Upstream/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    poll_fn(|cx| GrpcService::<Body>::poll_ready(&mut door, cx)).await.ok()?;
    let answer = GrpcService::<Body>::call(&mut door, request.body(body).unwrap()).await.ok()?;
    let text = |name: &str| Some(answer.headers().get(name)?.to_str().ok()?.to_owned());
    Some(Said {
        code: text("grpc-status"),
        again: text("retry-after").is_some_and(|seconds| (5..15).contains(&seconds.parse().unwrap())),
        http: answer.status().as_u16(),
    })
}

/// A body that never ends and says nothing.
fn endless() -> Body {
    Body::new(StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>()))
}

/// Sends more and more calls that never end, over a connection each, until one is told to come later.
async fn flood(of: &Joined, method: &'static str) -> Said {
    let (tell, mut told) = mpsc::unbounded_channel();
    let mut said = None;
    until("a flood is told to come later", async || {
        let (tell, door) = (tell.clone(), door(of));
        tokio::spawn(async move {
            let _ = tell.send(call(door, method, None, endless()).await);
        });
        let answer = tokio::time::timeout(Duration::from_millis(50), told.recv()).await;
        // Nothing yet: all are held; nothing in it: a connection broke.
        if let Ok(Some(Some(answer))) = answer {
            said = Some(answer);
        }
        said.is_some()
    })
    .await;
    said.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_floods_a_door_is_told_to_come_later_and_everybody_else_is_answered() {
    let (_fleet, _relay, [loud, quiet]) = site(|limits| limits.requests_of_one_max = 4).await;
    let said = flood(&loud, "SubmitReports").await;
    assert_eq!((said.code.as_deref(), said.again), (Some("8"), true));
    let checks = call(door(&loud), "CheckIn", None, endless()).await.unwrap();
    assert_eq!(checks.code.as_deref(), Some("8"), "the flood is its own outage");
    for _ in 0..8 {
        is_served(&quiet).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_without_end_leave_room_for_checks_and_checks_without_end_for_reports() {
    for (flooded, other) in [("SubmitReports", "CheckIn"), ("CheckIn", "SubmitReports")] {
        let (_fleet, _relay, [loud, quiet]) = site(|limits| limits.requests_of_method_max = 4).await;
        let said = flood(&loud, flooded).await;
        assert_eq!((said.code.as_deref(), said.again), (Some("8"), true), "{flooded}");
        // An empty message, whole: it is looked at, whatever is said of it.
        let message = Bytes::from_static(&[0; 5]);
        let said = call(door(&quiet), other, None, Body::new(Full::new(message))).await.unwrap();
        assert_ne!(said.code.as_deref(), Some("8"), "{other} is shut out by {flooded}: {said:?}");
        is_served(&quiet).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_certificate_opens_no_more_connections_than_one_may() {
    let (_fleet, _relay, [loud, quiet]) = site(|limits| limits.connections_of_one_max = 2).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        open.push(Raw::connect(&loud).await.greeted().await);
    }
    assert_eq!(Raw::connect(&loud).await.end().await, None, "a third connection is greeted");
    is_served(&quiet).await;
    drop(open);
    // And again as soon as the others are gone.
    until("there is room again", async || Raw::connect(&loud).await.is_greeted().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_connects_and_says_nothing_is_hung_up_on() {
    let (_fleet, relay, [_, quiet]) = site(|limits| limits.handshake_timeout = Duration::from_secs(2)).await;
    let mut silent = TcpStream::connect(relay.address).await.unwrap();
    // The first bytes of a handshake that never goes on.
    silent.write_all(&[0x16, 3, 1]).await.unwrap();
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), silent.read_to_end(&mut bytes)).await;
    assert!(read.is_ok(), "who says nothing is waited for");
    is_served(&quiet).await;
}

/// Connections that say this and nothing more.
async fn stall(relay: &Relay, count: usize, first: &[u8]) -> Vec<TcpStream> {
    let mut stalled = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(relay.address).await.unwrap();
        stream.write_all(first).await.unwrap();
        stalled.push(stream);
    }
    stalled
}

/// What a handshake of this endpoint begins with.
fn hello(of: &Joined) -> Vec<u8> {
    let name = rustls_pki_types::ServerName::try_from(SERVER_NAME).unwrap();
    let mut connection = rustls::ClientConnection::new(of.identity.client(), name).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    hello
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_are_begun_bit_by_bit_take_no_turn() {
    let long = Duration::from_secs(600);
    let (_fleet, relay, [quiet, _]) = site(|limits| {
        (limits.handshakes_max, limits.handshake_turn_max) = (1, long);
        (limits.handshake_timeout, limits.handshake_wait_max) = (long, long);
    })
    .await;
    let hello = hello(&quiet);
    let _held = stall(&relay, 16, &hello[..hello.len() - 1]).await;
    is_served(&quiet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_are_begun_and_left_give_their_turns_back_and_are_ended() {
    let (_fleet, relay, [quiet, _]) = site(|limits| {
        (limits.handshakes_max, limits.handshake_turn_max) = (4, Duration::from_millis(100));
        limits.handshake_timeout = Duration::from_secs(3);
    })
    .await;
    let held = stall(&relay, 32, &hello(&quiet)).await;
    is_served(&quiet).await;
    for mut stream in held {
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await;
        assert!(read.is_ok(), "a handshake that is left is waited for");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_with_many_others_waits_for_his_turn_and_is_served() {
    let (_fleet, _relay, [one, _]) = site(|limits| limits.handshakes_max = 1).await;
    futures_util::future::join_all((0..48).map(|_| is_served(&one))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_turn_in_time_is_hung_up_on() {
    let long = Duration::from_secs(600);
    let (_fleet, relay, [quiet, _]) = site(|limits| {
        (limits.handshakes_max, limits.handshake_turn_max) = (1, long);
        (limits.handshake_timeout, limits.handshake_wait_max) = (long, Duration::from_secs(1));
    })
    .await;
    let hello = hello(&quiet);
    let [mut first, mut second]: [TcpStream; 2] = stall(&relay, 2, &hello).await.try_into().unwrap();
    // Of the two one is answered, and the other is not.
    let mut answers = Vec::new();
    for stream in [&mut first, &mut second] {
        let answer = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut [0])).await;
        answers.push(answer.expect("who has no turn is waited for").unwrap_or(0));
    }
    answers.sort_unstable();
    assert_eq!(answers, [0, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_sent_slowly_is_answered_before_it_ends() {
    let (_fleet, _relay, [slow, quiet]) = site(|limits| limits.answer_timeout = Duration::from_secs(3)).await;
    let said = call(door(&slow), "SubmitReports", None, endless()).await.unwrap();
    assert_eq!((said.code.as_deref(), said.again), (Some("8"), true));
    is_served(&quiet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_says_it_is_giant_is_refused_before_it_is_sent() {
    let (_fleet, _relay, [giant, quiet]) = site(|_| {}).await;
    // Not packed, and one byte under 4 GiB long; the rest never comes.
    let begin = Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff]);
    let body = stream::StreamExt::chain(
        stream::once(async { Ok::<_, Infallible>(Frame::data(begin)) }),
        stream::pending(),
    );
    let said = call(door(&giant), "SubmitReports", None, Body::new(StreamBody::new(body))).await.unwrap();
    assert_eq!((said.code.as_deref(), said.again), (Some("11"), false), "a giant message is waited for");
    is_served(&quiet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_are_longer_than_any_call_needs_are_refused() {
    let (_fleet, _relay, [long, quiet]) = site(|_| {}).await;
    let value = "x".repeat(9 * 1024);
    let said = call(door(&long), "CheckIn", Some(("x-long", &value)), endless()).await;
    // The library of the client refuses to send them where it knows the limit.
    assert!(said.as_ref().is_none_or(|said| said.http == 431), "{said:?}");
    // By hand: one block of headers that goes on and on.
    let mut raw = Raw::connect(&long).await;
    raw.send(1, HEADERS, 0, &block()).await;
    // A field of one letter with a value of 15,900, its length in seven bits and what is over (RFC 7541, 5.1).
    let more = [&[0, 1, b'x', 0x7f, 0x9d, 0x7b][..], &[b'y'; 15_900]].concat();
    for _ in 0..64 {
        if !raw.try_send(1, CONTINUATION, 0, &more).await {
            break;
        }
    }
    raw.try_send(1, CONTINUATION, END_HEADERS, &[]).await;
    // It ends, or this panics; with which word depends on what of it was read.
    raw.end().await;
    is_served(&quiet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_taken_back_at_once_end_their_connection_and_nobody_elses() {
    let (_fleet, _relay, [rapid, quiet]) = site(|_| {}).await;
    let mut raw = Raw::connect(&rapid).await;
    let mut all = Vec::new();
    for stream in (1..200).step_by(2) {
        all.extend(frame(stream, HEADERS, END_HEADERS, &block()));
        all.extend(frame(stream, RST_STREAM, 0, &8_u32.to_be_bytes()));
    }
    raw.try_write(&all).await;
    assert!(raw.end().await.is_some_and(|end| end.is_refusal()), "who takes back all calls is listened to");
    is_served(&quiet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_at_a_token_find_nothing_and_use_nothing_up() {
    let fleet = Fleet::start_at(Clock::system()).await;
    let token = fleet.token("endpoint", "osaka", fleet.address).await;
    let join = async |guess: &Token, name: &str| {
        joining::join(guess, None, None, name, "0.0.0", &fleet.folder(name)).await.map(drop)
    };
    let guesses = (0..32).map(|number| {
        let mut guess = token.clone();
        // The right one but for a bit, as the best guess is.
        guess.secret[number] ^= 1;
        guess
    });
    for (number, guess) in guesses.enumerate() {
        let refused = join(&guess, &format!("guess-{number}")).await.unwrap_err();
        let text = Chain(&refused).to_string();
        assert!(text.contains("the proof does not belong to token"), "{text}");
    }
    join(&token, "honest").await.unwrap();
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// A frame of HTTP/2 (RFC 9113, 4.1).
fn frame(stream: u32, kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The headers of a call (RFC 7541), every text spelled out.
fn block() -> Vec<u8> {
    let mut block = vec![0x83, 0x87];
    for (name, value) in [(4_u8, "/tierway.v1.Upstream/CheckIn"), (1, "upstream.tierway.internal")] {
        block.extend([name, u8::try_from(value.len()).unwrap()]);
        block.extend(value.as_bytes());
    }
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")] {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// How the other side ended a connection.
#[derive(Debug, PartialEq)]
enum End {
    /// It said so, with this code.
    Away(u32),
    /// It only hung up, after it had greeted.
    Closed,
}

impl End {
    /// Whether it was for too much of something (ENHANCE_YOUR_CALM), as far as that came through: what lies unread at the
    /// other side takes the last words of a connection with it.
    fn is_refusal(&self) -> bool {
        matches!(self, Self::Away(11) | Self::Closed)
    }
}

/// What frames go over.
trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// A connection whose frames are made by hand.
struct Raw(Box<dyn Wire>);

impl Raw {
    async fn connect(of: &Joined) -> Self {
        let mut stream = dial::connect(&of.route, of.identity.client()).await.unwrap();
        // Where it is hung up on already, that shows when it is read.
        let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        let _ = stream.write_all(&frame(0, SETTINGS, 0, &[])).await;
        Self(Box::new(stream))
    }

    async fn send(&mut self, stream: u32, kind: u8, flags: u8, payload: &[u8]) {
        assert!(self.try_send(stream, kind, flags, payload).await);
    }

    /// False when the other side takes nothing any more.
    async fn try_send(&mut self, stream: u32, kind: u8, flags: u8, payload: &[u8]) -> bool {
        self.try_write(&frame(stream, kind, flags, payload)).await
    }

    async fn try_write(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).await.is_ok() && self.0.flush().await.is_ok()
    }

    /// The next frame's kind and payload.
    async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let mut payload =
            vec![0; usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])];
        self.0.read_exact(&mut payload).await.ok()?;
        Some((head[3], payload))
    }

    async fn is_greeted(&mut self) -> bool {
        self.next().await.is_some_and(|(kind, _)| kind == SETTINGS)
    }

    async fn greeted(mut self) -> Self {
        assert!(self.is_greeted().await);
        self
    }

    /// How it ended; `None` when it was hung up on without a word.
    async fn end(&mut self) -> Option<End> {
        let end = tokio::time::timeout(Duration::from_secs(30), self.ended()).await;
        end.unwrap_or_else(|_| panic!("the connection goes on"))
    }

    async fn ended(&mut self) -> Option<End> {
        let mut greeted = false;
        while let Some((kind, payload)) = self.next().await {
            if kind == GOAWAY {
                return Some(End::Away(u32::from_be_bytes(payload[4..8].try_into().unwrap())));
            }
            greeted = true;
        }
        greeted.then_some(End::Closed)
    }
}
