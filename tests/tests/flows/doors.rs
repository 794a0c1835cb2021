//! What strangers can do at a door: everybody may knock, and nobody who belongs in waits behind them.

use std::{convert::Infallible, future::poll_fn, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use tierway_common::{clock::Clock, transport::dial};
use tierway_proto::{joining, upstream::Upstream};
use tierway_tests::fleet::{Fleet, until};
use tokio::{sync::mpsc, time::timeout};
use tonic::{body::Body, client::GrpcService, transport::Channel};

/// Requests that the relay answers at once, of strangers and of others each.
const REQUESTS: usize = 6;

/// Begins to enrol without ever saying how; returns the answer's code.
async fn knock(mut door: Channel) -> Option<String> {
    let never = stream::pending::<Result<Frame<Bytes>, Infallible>>();
    let request = http::Request::post("http://upstream.tierway.internal/tierway.v1.Upstream/Enroll")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(StreamBody::new(never)))
        .unwrap();
    poll_fn(|cx| GrpcService::<Body>::poll_ready(&mut door, cx)).await.ok()?;
    let answer = GrpcService::<Body>::call(&mut door, request).await.ok()?;
    Some(answer.headers().get("grpc-status")?.to_str().ok()?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_who_never_finish_what_they_say_hold_up_nobody_with_a_certificate() {
    let fleet = Fleet::start_at(Clock::system()).await;
    let mut relay = fleet.relay("osaka").await;
    relay.stop().await;
    relay.config.limits.requests_max = REQUESTS;
    relay.config.limits.anonymous_requests_max = REQUESTS;
    relay.start().await;
    relay.caught_up(&fleet).await;
    let endpoint = fleet.enroll("web1", "osaka", relay.address, &fleet.folder("root")).await;
    let joined = joining::load(&endpoint.config.data_dir).unwrap();
    let mine = Upstream::new(dial::channel(joined.route.clone(), &joined.identity));

    // More and more of them, until one is told that there are too many.
    let (tell, mut told) = mpsc::unbounded_channel();
    until("strangers are told to come later", async || {
        let (tell, door) =
            (tell.clone(), dial::nameless_channel(vec![joined.route.clone()], &joined.identity));
        tokio::spawn(async move {
            if let Some(code) = knock(door).await {
                let _ = tell.send(code);
            }
        });
        matches!(timeout(Duration::from_millis(50), told.recv()).await, Ok(Some(code)) if code == "8")
    })
    .await;
    for _ in 0..2 * REQUESTS {
        mine.metadata("timestamp", None).await.unwrap().unwrap();
    }
}
