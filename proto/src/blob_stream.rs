//! `Upstream.FetchBlobs` on the server, framed by hand.
//!
//! The wire form is the `.proto`'s. No message is built: a chunk is its few bytes of protobuf and gRPC
//! framing followed by a slice of the blob, which halves the CPU per byte against the codec. Small blobs are gathered into one
//! buffer, since a batch of thousands would otherwise be thousands of frames.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use prost::Message;
use tierway_common::{
    blobs::{Blobs, Reader},
    daemon::chain::Chain,
    trust::digest::Digest,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Code, Status, body::Body};
use tower::Service;
use tracing::warn;

use crate::v1;

/// Path of the call.
pub const PATH: &str = "/tierway.v1.Upstream/FetchBlobs";
/// Bytes of a blob in one chunk.
pub const CHUNK_BYTES: usize = 256 * 1024;
/// Blobs of one request.
pub const BLOBS_PER_REQUEST_MAX: usize = 1_024;
/// A blob that is smaller is gathered with its neighbours.
const GATHER_BELOW: usize = 64 * 1024;
/// Streams served at once; each holds at most two chunks.
const STREAMS_MAX: usize = 512;
/// Encoded request: 1,024 digests and offsets.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// Where the served bytes come from.
pub trait BlobSource: Clone + Send + Sync + 'static {
    /// One open blob.
    type Reader: BlobRead;

    /// Whether the caller, who is in the extensions of its request, may fetch blobs.
    ///
    /// # Errors
    ///
    /// What the caller is told.
    fn admit(&self, extensions: &http::Extensions) -> Result<(), Status>;

    /// Opens a blob whose bytes were verified; `None` when it is not here and cannot be had now.
    fn open(&self, digest: Digest) -> impl Future<Output = Option<Self::Reader>> + Send;
}

/// An open, verified blob.
pub trait BlobRead: Send + Sync + 'static {
    /// Length in bytes.
    fn bytes(&self) -> u64;

    /// At most `len` bytes from `offset` on; blocks for the disk.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    fn read_at(&self, offset: u64, len: usize) -> std::io::Result<Bytes>;
}

impl BlobRead for Reader {
    fn bytes(&self) -> u64 {
        self.len()
    }

    fn read_at(&self, offset: u64, len: usize) -> std::io::Result<Bytes> {
        Self::read_at(self, offset, len).map_err(std::io::Error::other)
    }
}

/// A reader of a blob that is in `blobs`; `None`, with a line in the log, when it is not or is damaged.
pub async fn open_verified(blobs: &Blobs, digest: Digest) -> Option<Reader> {
    if !blobs.contains(&digest) {
        return None;
    }
    let blobs = blobs.clone();
    match tokio::task::spawn_blocking(move || blobs.reader(&digest)).await.ok()? {
        Ok(reader) => Some(reader),
        Err(error) => {
            warn!(%digest, error = %Chain(&error), "could not open a blob");
            None
        }
    }
}

/// Takes `FetchBlobs` out of the requests and passes the rest on.
#[derive(Clone, Debug)]
pub struct BlobStreams<B, S> {
    source: B,
    streams: Arc<Semaphore>,
    inner: S,
}

impl<B: BlobSource, S> BlobStreams<B, S> {
    /// Serves blobs from `source` and everything else from `inner`.
    pub fn new(source: B, inner: S) -> Self {
        Self { source, streams: Arc::new(Semaphore::new(STREAMS_MAX)), inner }
    }
}

impl<B, S> Service<Request<Body>> for BlobStreams<B, S>
where
    B: BlobSource,
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.uri().path() != PATH {
            return Box::pin(self.inner.call(request));
        }
        if let Err(status) = self.source.admit(request.extensions()) {
            return Box::pin(std::future::ready(Ok(status.into_http())));
        }
        let (source, streams) = (self.source.clone(), self.streams.clone());
        Box::pin(async move {
            let Ok(permit) = streams.try_acquire_owned() else {
                return Ok(Status::resource_exhausted("too many blob streams are open").into_http());
            };
            Ok(match read_request(request).await {
                Ok(wanted) => respond(source, wanted, permit),
                Err(status) => status.into_http(),
            })
        })
    }
}

struct Wanted {
    digest: Digest,
    offset: u64,
}

async fn read_request(request: Request<Body>) -> Result<Vec<Wanted>, Status> {
    let body = http_body_util::Limited::new(request.into_body(), REQUEST_BYTES_MAX);
    let body = http_body_util::BodyExt::collect(body)
        .await
        .map_err(|_| Status::invalid_argument("the request could not be read or is too long"))?
        .to_bytes();
    // One uncompressed message: a zero byte, the length in four, the message.
    let message = match body.split_at_checked(5) {
        Some(([0, a, b, c, d], message))
            if usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])) == Ok(message.len()) =>
        {
            message
        }
        _ => return Err(Status::invalid_argument("the request is not one uncompressed message")),
    };
    let v1::FetchBlobsRequest { blobs } = v1::FetchBlobsRequest::decode(message)
        .map_err(|error| Status::invalid_argument(format!("the request does not decode: {error}")))?;
    if blobs.len() > BLOBS_PER_REQUEST_MAX {
        return Err(Status::invalid_argument("more than 1,024 blobs are asked for at once"));
    }
    blobs
        .iter()
        .map(|v1::BlobRequest { digest, offset }| {
            let digest = Digest::try_from(digest.as_slice())
                .map_err(|error| Status::invalid_argument(error.to_string()))?;
            Ok(Wanted { digest, offset: *offset })
        })
        .collect()
}

fn respond<B: BlobSource>(source: B, wanted: Vec<Wanted>, permit: OwnedSemaphorePermit) -> Response<Body> {
    let state = Serving {
        source,
        wanted: wanted.into_iter().enumerate().collect(),
        open: None,
        ready: VecDeque::new(),
        _permit: permit,
    };
    let data = frames(state).map(|part| match part {
        Ok(bytes) => Frame::data(bytes),
        Err(status) => Frame::trailers(trailers(&status)),
    });
    let end = stream::once(async { Frame::trailers(trailers(&Status::new(Code::Ok, ""))) });
    let mut failed = false;
    // After trailers nothing may follow.
    let all = data.chain(end).take_while(move |frame| {
        let go_on = !failed;
        failed |= frame.is_trailers();
        std::future::ready(go_on)
    });
    let mut response = Response::new(Body::new(StreamBody::new(all.map(Ok::<_, Status>))));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

fn trailers(status: &Status) -> HeaderMap {
    let mut headers = HeaderMap::new();
    // Fails only on a message that cannot stand in a header, and then the code alone must do.
    if status.add_header(&mut headers).is_err() {
        headers.insert("grpc-status", HeaderValue::from(status.code() as i32));
    }
    headers
}

struct Serving<B: BlobSource> {
    source: B,
    wanted: VecDeque<(usize, Wanted)>,
    open: Option<Open<B::Reader>>,
    ready: VecDeque<Bytes>,
    _permit: OwnedSemaphorePermit,
}

struct Open<R> {
    index: usize,
    reader: Arc<R>,
    offset: u64,
}

/// The parts of the body in order. Each step reads at most one chunk, or gathers small blobs up to one.
fn frames<B: BlobSource>(state: Serving<B>) -> impl Stream<Item = Result<Bytes, Status>> + Send {
    stream::unfold(Some(state), |state| async move {
        let mut state = state?;
        loop {
            if let Some(part) = state.ready.pop_front() {
                return Some((Ok(part), Some(state)));
            }
            match step(&mut state).await {
                Ok(true) => {}
                Ok(false) => return None,
                Err(status) => return Some((Err(status), None)),
            }
        }
    })
}

async fn step<B: BlobSource>(state: &mut Serving<B>) -> Result<bool, Status> {
    if let Some(open) = state.open.take() {
        return large(state, open).await;
    }
    let mut small = Vec::new();
    let mut gathered = 0;
    let mut buffer = BytesMut::new();
    while gathered < CHUNK_BYTES {
        let Some((index, Wanted { digest, offset })) = state.wanted.pop_front() else { break };
        let Some(reader) = state.source.open(digest).await else {
            // Order matters: what was gathered before goes first.
            small.push(Small::Absent(index));
            continue;
        };
        let rest = reader.bytes().saturating_sub(offset);
        if rest >= GATHER_BELOW as u64 {
            state.open = Some(Open { index, reader: Arc::new(reader), offset });
            break;
        }
        gathered += usize::try_from(rest).unwrap_or(GATHER_BELOW);
        small.push(Small::Present(index, reader, offset));
    }
    if small.is_empty() {
        return Ok(state.open.is_some());
    }
    let gathered = tokio::task::spawn_blocking(move || {
        buffer.reserve(gathered + small.len() * 24);
        for blob in small {
            match blob {
                Small::Absent(index) => put_chunk_head(&mut buffer, index, 0, v1::BlobEnd::Absent),
                Small::Present(index, reader, offset) => {
                    let len = usize::try_from(reader.bytes().saturating_sub(offset)).unwrap_or(GATHER_BELOW);
                    let data = if len == 0 { Bytes::new() } else { reader.read_at(offset, len)? };
                    put_chunk_head(&mut buffer, index, data.len(), v1::BlobEnd::Complete);
                    buffer.put(data);
                }
            }
        }
        Ok::<_, std::io::Error>(buffer.freeze())
    })
    .await
    .map_err(|_| Status::internal("reading a blob failed"))?
    .map_err(|_| Status::data_loss("a blob could not be read"))?;
    state.ready.push_back(gathered);
    Ok(true)
}

enum Small<R> {
    Absent(usize),
    Present(usize, R, u64),
}

async fn large<B: BlobSource>(state: &mut Serving<B>, open: Open<B::Reader>) -> Result<bool, Status> {
    let Open { index, reader, offset } = open;
    let total = reader.bytes();
    let len = usize::try_from(total - offset).unwrap_or(usize::MAX).min(CHUNK_BYTES);
    let reading = reader.clone();
    let data = tokio::task::spawn_blocking(move || reading.read_at(offset, len))
        .await
        .map_err(|_| Status::internal("reading a blob failed"))?
        .map_err(|_| Status::data_loss("a blob could not be read"))?;
    let next = offset + data.len() as u64;
    if data.is_empty() {
        return Err(Status::data_loss("a blob is shorter than it was"));
    }
    let mut head = BytesMut::with_capacity(32);
    let end = if next == total { v1::BlobEnd::Complete } else { v1::BlobEnd::Unspecified };
    put_chunk_head(&mut head, index, data.len(), end);
    state.ready.push_back(head.freeze());
    state.ready.push_back(data);
    if next < total {
        state.open = Some(Open { index, reader, offset: next });
    }
    Ok(true)
}

/// Everything of a `BlobChunk` but its data, which is last on the wire; gRPC's five bytes first.
fn put_chunk_head(out: &mut BytesMut, index: usize, data: usize, end: v1::BlobEnd) {
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    let rest = v1::BlobChunk { index, data: Bytes::new(), end: end.into() };
    let data_head = if data == 0 { 0 } else { 1 + prost::length_delimiter_len(data) };
    let length = rest.encoded_len() + data_head + data;
    out.put_u8(0);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // A BytesMut grows; encoding into it does not fail.
    let _ = rest.encode(out);
    if data > 0 {
        // Field 2, length-delimited.
        out.put_u8(2 << 3 | 2);
        let _ = prost::encode_length_delimiter(data, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_framed_by_hand_decodes_as_the_message() {
        for (index, data, end) in [
            (0, &b""[..], v1::BlobEnd::Absent),
            (3, b"tree node", v1::BlobEnd::Complete),
            (1023, &[7; 300_000], v1::BlobEnd::Unspecified),
        ] {
            let mut out = BytesMut::new();
            put_chunk_head(&mut out, index, data.len(), end);
            out.put(data);
            assert_eq!(
                (out[0], u32::from_be_bytes(out[1..5].try_into().unwrap()) as usize),
                (0, out.len() - 5)
            );
            let chunk = v1::BlobChunk::decode(&out[5..]).unwrap();
            assert_eq!((chunk.index as usize, &chunk.data[..], chunk.end()), (index, data, end));
        }
    }
}
