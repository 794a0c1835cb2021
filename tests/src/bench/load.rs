//! Clients that cost little: they count what comes and drop it.

use std::{net::SocketAddr, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use rustls::ClientConfig;
use tierway_common::{
    transport::{
        dial::{self, Route},
        tls::Identity,
    },
    trust::digest::Digest,
};
use tierway_proto::{blob_stream, v1};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// As `transport::dial` sets them.
const FRAME_BYTES: u32 = 256 * 1024;
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;

/// One connection to a tier.
#[derive(Debug)]
pub struct Tier(http2::SendRequest<Full<Bytes>>);

impl Tier {
    /// Connects.
    pub async fn connect(address: SocketAddr, identity: &Identity) -> Self {
        let stream =
            dial::connect(&Route::direct(&address.to_string()), identity.client()).await.expect("connected");
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .max_frame_size(FRAME_BYTES)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(TokioIo::new(stream))
            .await
            .expect("HTTP/2");
        tokio::spawn(connection);
        Self(sender)
    }

    /// Fetches blobs in one request; the bytes of the answer. All must be there.
    pub async fn fetch(&mut self, blobs: &[Digest]) -> u64 {
        let blobs = blobs
            .iter()
            .map(|digest| v1::BlobRequest { digest: digest.as_bytes().to_vec(), offset: 0 })
            .collect();
        self.call(blob_stream::PATH, &v1::FetchBlobsRequest { blobs }).await
    }

    /// Calls a method; the bytes of the answer's body.
    pub async fn call(&mut self, path: &str, message: &impl Message) -> u64 {
        let mut body = BytesMut::with_capacity(5 + message.encoded_len());
        body.put_u8(0);
        body.put_u32(u32::try_from(message.encoded_len()).expect("short"));
        message.encode(&mut body).expect("it grows");
        let request = Request::post(format!("http://upstream.tierway.internal{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(body.freeze()))
            .expect("a request");
        let (bytes, status) = drain(self.0.send_request(request).await.expect("an answer")).await;
        assert_eq!(status.as_deref(), Some("0"), "gRPC status");
        bytes
    }
}

/// One connection to a web server, kept alive.
#[derive(Debug)]
pub struct Web(http1::SendRequest<Full<Bytes>>);

impl Web {
    /// Connects, without TLS when there is no `config` of it.
    pub async fn connect(address: SocketAddr, config: Option<Arc<ClientConfig>>) -> Self {
        match config {
            Some(config) => {
                Self::speak(
                    dial::connect(&Route::direct(&address.to_string()), config).await.expect("connected"),
                )
                .await
            }
            None => Self::speak(TcpStream::connect(address).await.expect("connected")).await,
        }
    }

    async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        Self(sender)
    }

    /// Gets a file; its bytes.
    pub async fn get(&mut self, path: &str) -> u64 {
        self.0.ready().await.expect("kept alive");
        let request = Request::get(path).header("host", "bench").body(Full::default()).expect("a request");
        let response = self.0.send_request(request).await.expect("an answer");
        assert_eq!(response.status(), 200, "{path}");
        drain(response).await.0
    }
}

/// Bytes of the body, and the gRPC status in its trailers (or headers).
async fn drain(response: http::Response<Incoming>) -> (u64, Option<String>) {
    let status = |headers: &http::HeaderMap| {
        headers.get("grpc-status").map(|value| value.to_str().expect("text").to_owned())
    };
    let mut found = status(response.headers());
    let mut body = response.into_body();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.expect("a whole body");
        match frame.trailers_ref() {
            Some(trailers) => found = status(trailers).or(found),
            None => bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
        }
    }
    (bytes, found)
}
