//! `Upstream.FetchBlobs` on the server, framed by hand.
//!
//! The wire form is the `.proto`'s. No message is built: a chunk is its few bytes of protobuf and gRPC
//! framing in front of the blob's bytes in one buffer, which halves the CPU per byte against the codec. Small blobs
//! are gathered into one buffer, since a batch of thousands would otherwise be thousands of frames.
//!
//! Small blobs are opened and read by a thread that may block; of large ones only what the system does not have in
//! memory: handing work over costs more than a read from there.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    convert::Infallible,
    future::Future,
    mem,
    ops::{Deref, DerefMut, Range},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes};
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use prost::Message;
use tierway_common::{
    blobs::{BlobError, Reader},
    daemon::disk::blocking,
    transport::identity::{Holder, PeerIdentity},
    trust::digest::Digest,
};
use tonic::{Code, Status, body::Body};
use tower::Service;

use crate::v1;

/// Path of the call.
pub const PATH: &str = "/tierway.v1.Upstream/FetchBlobs";
/// Bytes of a blob in one chunk.
pub const CHUNK_BYTES: usize = 256 * 1024;
/// Blobs of one request.
pub const BLOBS_PER_REQUEST_MAX: usize = 1_024;
/// A blob that is smaller is gathered with its neighbours.
const GATHER_BELOW: usize = 64 * 1024;
/// Streams served at once.
const STREAMS_MAX: usize = 512;
/// Of these for one computer.
const STREAMS_OF_ONE_MAX: usize = 16;
/// Memory for the parts of all streams, as long as each has at least `PART_BYTES_MIN`; so much is kept when
/// they end.
const PARTS_BYTES: usize = 4 * 1024 * 1024;
/// A stream has at least so much for one part.
const PART_BYTES_MIN: usize = 32 * 1024;
/// What comes before the data of a chunk: gRPC's five bytes, three tags, and the numbers.
const HEAD_BYTES_MAX: usize = 24;
/// Encoded request: 1,024 digests and offsets.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// Where the served bytes come from.
pub trait BlobSource: Clone + Send + Sync + 'static {
    /// Who the caller is, who stands in the extensions of its request and may fetch blobs.
    ///
    /// # Errors
    ///
    /// What the caller is told.
    fn admit(&self, extensions: &http::Extensions) -> Result<Arc<PeerIdentity>, Status>;

    /// A small blob that is in memory, its bytes verified; never waits for the disk.
    fn at_hand(&self, _digest: &Digest) -> Option<Bytes> {
        None
    }

    /// Has a small blob at hand from now on that was just read from disk, if that is worth it.
    fn hold(&self, _digest: &Digest, _bytes: &[u8]) {}

    /// Opens a blob that is here, its bytes verified; blocks for the disk.
    fn open(&self, digest: &Digest) -> Option<Reader>;

    /// Gets a blob that is not here, if that can be done now: whether to open it again.
    fn fetch(&self, digest: Digest) -> impl Future<Output = bool> + Send;
}

/// Takes `FetchBlobs` out of the requests and passes the rest on.
#[derive(Clone, Debug)]
pub struct BlobStreams<B, S> {
    source: B,
    places: Places,
    buffers: Buffers,
    inner: S,
}

impl<B: BlobSource, S> BlobStreams<B, S> {
    /// Serves blobs from `source` and everything else from `inner`.
    pub fn new(source: B, inner: S) -> Self {
        Self { source, places: Places::default(), buffers: Buffers::default(), inner }
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
        let place = self.source.admit(request.extensions()).and_then(|peer| self.places.take(&peer.holder));
        let place = match place {
            Ok(place) => place,
            Err(status) => return Box::pin(std::future::ready(Ok(status.into_http()))),
        };
        let (source, buffers) = (self.source.clone(), self.buffers.clone());
        Box::pin(async move {
            Ok(match read_request(request).await {
                Ok(wanted) => respond(Serving { source, wanted, open: None, buffers, place }),
                Err(status) => status.into_http(),
            })
        })
    }
}

struct Wanted {
    index: usize,
    digest: Digest,
    offset: u64,
    /// How often it may still be fetched when it is not here: one that turns out to be damaged is dropped and
    /// fetched again.
    tries: u8,
}

async fn read_request(request: Request<Body>) -> Result<VecDeque<Wanted>, Status> {
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
        .enumerate()
        .map(|(index, v1::BlobRequest { digest, offset })| {
            let digest = Digest::try_from(digest.as_slice())
                .map_err(|error| Status::invalid_argument(error.to_string()))?;
            Ok(Wanted { index, digest, offset: *offset, tries: 2 })
        })
        .collect()
}

fn respond<B: BlobSource>(state: Serving<B>) -> Response<Body> {
    let data = parts(state).map(|part| match part {
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

struct Serving<B> {
    source: B,
    wanted: VecDeque<Wanted>,
    open: Option<Open>,
    buffers: Buffers,
    place: Place,
}

impl<B> Serving<B> {
    /// Memory for its next part.
    fn part(&self) -> Part {
        self.buffers.part(self.place.streams())
    }
}

/// A blob that is too large to be gathered.
struct Open {
    index: usize,
    reader: Reader,
    offset: u64,
}

/// The parts of the body in order.
fn parts<B: BlobSource>(state: Serving<B>) -> impl Stream<Item = Result<Bytes, Status>> + Send {
    stream::unfold(Some(state), |state| async move {
        let mut state = state?;
        match next(&mut state).await {
            Ok(part) => Some((Ok(part?), Some(state))),
            Err(status) => Some((Err(status), None)),
        }
    })
}

async fn next<B: BlobSource>(state: &mut Serving<B>) -> Result<Option<Bytes>, Status> {
    loop {
        if let Some(open) = state.open.take() {
            let part = state.part();
            return large(state, open, part).await.map(Some);
        }
        if state.wanted.is_empty() {
            return Ok(None);
        }
        let mut part = state.part();
        let end = gather_at_hand(&state.source, &mut state.wanted, &mut part);
        if end > 0 {
            return Ok(Some(part.slice(0..end)));
        }
        let (source, wanted) = (state.source.clone(), mem::take(&mut state.wanted));
        let gathered = blocking(move || gather(&source, wanted, part))
            .await
            .map_err(|_| Status::internal("reading a blob failed"))?
            .map_err(|_| Status::data_loss("a blob could not be read"))?;
        let Gathered { wanted, part, open } = gathered;
        (state.wanted, state.open) = (wanted, open);
        if !part.is_empty() {
            return Ok(Some(part));
        }
        if state.open.is_none()
            && let Some(Wanted { digest, tries, .. }) = state.wanted.front_mut()
        {
            *tries = if state.source.fetch(*digest).await { *tries - 1 } else { 0 };
        }
    }
}

struct Gathered {
    /// What is still to be sent. When nothing was gathered and nothing is open, the first is not here.
    wanted: VecDeque<Wanted>,
    part: Bytes,
    open: Option<Open>,
}

/// Copies what is at hand until the part is full or something else must come first; where it ends.
fn gather_at_hand<B: BlobSource>(source: &B, wanted: &mut VecDeque<Wanted>, part: &mut Part) -> usize {
    let mut end = 0;
    while let Some(Wanted { index, digest, offset, .. }) = wanted.front() {
        let Some(whole) = source.at_hand(digest) else { break };
        let offset = usize::try_from(*offset).unwrap_or(usize::MAX);
        let data = whole.get(offset..).unwrap_or_default();
        if data.len() >= GATHER_BELOW || data.len() + HEAD_BYTES_MAX > part.len() - end {
            break;
        }
        end = part.put(end, &chunk_head(*index, data.len(), v1::BlobEnd::Complete));
        end = part.put(end, data);
        wanted.pop_front();
    }
    end
}

/// Reads small blobs until the part is full or something else must come first.
fn gather<B: BlobSource>(
    source: &B,
    mut wanted: VecDeque<Wanted>,
    mut part: Part,
) -> Result<Gathered, BlobError> {
    let (mut end, mut open) = (0, None);
    while let Some(Wanted { index, digest, offset, tries }) = wanted.front() {
        let room = part.len() - end;
        if room < HEAD_BYTES_MAX {
            break;
        }
        let (index, offset) = (*index, *offset);
        match source.open(digest) {
            Some(reader) => {
                let data = usize::try_from(reader.len().saturating_sub(offset)).unwrap_or(usize::MAX);
                if data >= GATHER_BELOW || data > part.len() - HEAD_BYTES_MAX {
                    open = Some(Open { index, reader, offset });
                } else if data > room - HEAD_BYTES_MAX {
                    break;
                } else {
                    let head = chunk_head(index, data, v1::BlobEnd::Complete);
                    end = part.put(end, &head);
                    if data > 0 {
                        let read = end..end + data;
                        reader.read_at(offset, &mut part[read.clone()])?;
                        if offset == 0 {
                            source.hold(digest, &part[read.clone()]);
                        }
                        end = read.end;
                    }
                }
            }
            None if *tries > 0 => break,
            None => end = part.put(end, &chunk_head(index, 0, v1::BlobEnd::Absent)),
        }
        wanted.pop_front();
        if open.is_some() {
            break;
        }
    }
    Ok(Gathered { wanted, part: part.slice(0..end), open })
}

/// One part of a large blob: without a thread's help when the system has it in memory.
async fn large<B>(state: &mut Serving<B>, open: Open, mut part: Part) -> Result<Bytes, Status> {
    let Open { index, reader, offset } = open;
    let total = reader.len();
    let data = usize::try_from(total - offset).unwrap_or(usize::MAX).min(part.len() - HEAD_BYTES_MAX);
    let next = offset + data as u64;
    let end = if next == total { v1::BlobEnd::Complete } else { v1::BlobEnd::Unspecified };
    let range = HEAD_BYTES_MAX..HEAD_BYTES_MAX + data;
    if !reader.read_hot(offset, &mut part[range.clone()]) {
        let (reading, range) = (reader.clone(), range.clone());
        part = blocking(move || {
            reading.read_at(offset, &mut part[range])?;
            Ok::<_, BlobError>(part)
        })
        .await
        .map_err(|_| Status::internal("reading a blob failed"))?
        .map_err(|_| Status::data_loss("a blob could not be read"))?;
    }
    let head = chunk_head(index, data, end);
    let start = HEAD_BYTES_MAX - head.len();
    part.put(start, &head);
    if next < total {
        state.open = Some(Open { index, reader, offset: next });
    }
    Ok(part.slice(start..range.end))
}

/// Who has how many streams open at a server.
#[derive(Clone, Debug, Default)]
struct Places(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_holder: HashMap<Holder, usize>,
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, holder: &Holder) -> Result<Place, Status> {
        let mut taken = self.lock();
        if taken.all >= STREAMS_MAX {
            return Err(Status::resource_exhausted("too many blob streams are open"));
        }
        let of_holder = taken.by_holder.entry(holder.clone()).or_default();
        if *of_holder >= STREAMS_OF_ONE_MAX {
            return Err(Status::resource_exhausted("this computer has too many blob streams open"));
        }
        *of_holder += 1;
        taken.all += 1;
        Ok(Place { holder: holder.clone(), places: self.clone() })
    }
}

/// One of the streams.
#[derive(Debug)]
struct Place {
    holder: Holder,
    places: Places,
}

impl Place {
    /// How many there are.
    fn streams(&self) -> usize {
        self.places.lock().all
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.all -= 1;
        if let Entry::Occupied(mut of_holder) = taken.by_holder.entry(self.holder.clone()) {
            *of_holder.get_mut() -= 1;
            if *of_holder.get() == 0 {
                of_holder.remove();
            }
        }
    }
}

/// Memory that parts are read into, kept for the next ones, of all streams of a server. What it keeps is
/// limited; how much is in use depends on the streams, whose parts are smaller the more of them are open.
#[derive(Clone, Debug, Default)]
struct Buffers(Arc<Mutex<Vec<Box<[u8]>>>>);

impl Buffers {
    fn lock(&self) -> MutexGuard<'_, Vec<Box<[u8]>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn part(&self, streams: usize) -> Part {
        let bytes = part_bytes(streams);
        let kept = self.lock().pop();
        // What has another size is from a time with more streams or fewer.
        let buffer = kept.filter(|kept| kept.len() == bytes).unwrap_or_else(|| vec![0; bytes].into());
        Part { buffer, home: self.clone() }
    }
}

/// Of what size parts are with so many streams.
fn part_bytes(streams: usize) -> usize {
    (PARTS_BYTES / streams.max(1).next_power_of_two()).clamp(PART_BYTES_MIN, CHUNK_BYTES)
}

/// One piece of that memory, which goes back when nobody needs it any more.
struct Part {
    buffer: Box<[u8]>,
    home: Buffers,
}

impl Part {
    /// Writes `bytes` at `at`; where they end.
    fn put(&mut self, at: usize, bytes: &[u8]) -> usize {
        let end = at + bytes.len();
        self[at..end].copy_from_slice(bytes);
        end
    }

    fn slice(self, range: Range<usize>) -> Bytes {
        Bytes::from_owner(self).slice(range)
    }
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Deref for Part {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer
    }
}

impl DerefMut for Part {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.buffer
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let buffer = mem::take(&mut self.buffer);
        let mut kept = self.home.lock();
        let bytes: usize = kept.iter().map(|kept| kept.len()).sum();
        if bytes + buffer.len() <= PARTS_BYTES {
            kept.push(buffer);
        }
    }
}

/// Everything of a `BlobChunk` but its data, which is last on the wire; gRPC's five bytes first.
fn chunk_head(index: usize, data: usize, end: v1::BlobEnd) -> Vec<u8> {
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    let rest = v1::BlobChunk { index, data: Bytes::new(), end: end.into() };
    let data_head = if data == 0 { 0 } else { 1 + prost::length_delimiter_len(data) };
    let length = rest.encoded_len() + data_head + data;
    let mut out = Vec::with_capacity(HEAD_BYTES_MAX);
    out.put_u8(0);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // A Vec grows; encoding into it does not fail.
    let _ = rest.encode(&mut out);
    if data > 0 {
        // Field 2, length-delimited.
        out.put_u8(2 << 3 | 2);
        let _ = prost::encode_length_delimiter(data, &mut out);
    }
    out
}

#[cfg(test)]
mod tests {
    use tierway_common::{
        blobs::{BlobOptions, Blobs},
        transport::identity::Role,
    };

    use super::*;

    fn holder(number: usize) -> Holder {
        Holder {
            tenant: "acme".parse().unwrap(),
            site: "lyon".parse().unwrap(),
            role: Role::Endpoint,
            id: format!("endpoint-{number}"),
        }
    }

    #[test]
    fn one_computer_cannot_take_the_streams_of_the_others() {
        let places = Places::default();
        let mut taken: Vec<_> = (0..STREAMS_OF_ONE_MAX).map(|_| places.take(&holder(0)).unwrap()).collect();
        assert_eq!(places.take(&holder(0)).unwrap_err().code(), Code::ResourceExhausted);
        assert_eq!(places.take(&holder(1)).unwrap().streams(), STREAMS_OF_ONE_MAX + 1);
        taken.pop();
        taken.push(places.take(&holder(0)).unwrap());
        taken.extend((STREAMS_OF_ONE_MAX..STREAMS_MAX).map(|number| places.take(&holder(number)).unwrap()));
        assert_eq!(places.take(&holder(1)).unwrap_err().message(), "too many blob streams are open");
        drop(taken);
        let taken = places.lock();
        assert_eq!((taken.all, taken.by_holder.len()), (0, 0), "nothing is kept of who has none");
    }

    #[test]
    fn the_more_streams_are_open_the_smaller_are_their_parts_and_what_is_kept_has_a_limit() {
        let sizes = [0, 1, 16, 17, 64, 128, 512].map(part_bytes).map(|bytes| bytes / 1024);
        assert_eq!(sizes, [256, 256, 256, 128, 64, 32, 32]);
        let buffers = Buffers::default();
        let parts: Vec<_> = (0..100).map(|_| buffers.part(1)).collect();
        let first = parts[0].as_ptr();
        let kept = || buffers.lock().iter().map(|buffer| buffer.len()).sum::<usize>();
        drop(parts);
        assert_eq!(kept(), PARTS_BYTES);
        let parts: Vec<_> = (0..16).map(|_| buffers.part(1)).collect();
        assert!(parts.iter().any(|part| part.as_ptr() == first), "they are used again");
        drop(parts);
        drop(buffers.part(512));
        assert_eq!(kept(), PARTS_BYTES - CHUNK_BYTES + PART_BYTES_MIN, "those of another size go");
    }

    /// Blobs, of which one that is not here comes with the fetch of it.
    #[derive(Clone)]
    struct Source {
        blobs: Blobs,
        late: Arc<Mutex<HashMap<Digest, Vec<u8>>>>,
    }

    impl BlobSource for Source {
        fn admit(&self, _extensions: &http::Extensions) -> Result<Arc<PeerIdentity>, Status> {
            Err(Status::unauthenticated("not asked here"))
        }

        fn at_hand(&self, digest: &Digest) -> Option<Bytes> {
            self.blobs.at_hand(digest)
        }

        fn hold(&self, digest: &Digest, bytes: &[u8]) {
            self.blobs.hold(digest, bytes);
        }

        fn open(&self, digest: &Digest) -> Option<Reader> {
            self.blobs.find(digest)
        }

        async fn fetch(&self, digest: Digest) -> bool {
            let late = self.late.lock().unwrap().remove(&digest);
            late.map(|bytes| self.blobs.put(&bytes).unwrap()).is_some()
        }
    }

    #[tokio::test]
    async fn what_was_asked_for_comes_in_its_order_whole_from_its_offset_or_is_said_to_be_absent() {
        let dir = tempfile::tempdir().unwrap();
        let blobs =
            Blobs::open(dir.path(), BlobOptions { quota_bytes: 1 << 30, free_floor_bytes: 0 }).unwrap();
        let lengths =
            [0, 1, 20_000, 63_000, 70_000, 262_120, 262_121, 900_000, 40_000, 65_535, 65_536, 5_000_000];
        let contents: Vec<Vec<u8>> = (1u8..)
            .zip(lengths)
            .map(|(seed, length)| (0..=u8::MAX).map(|n| seed ^ n).cycle().take(length).collect())
            .collect();
        let mut late = HashMap::new();
        for (number, bytes) in contents.iter().enumerate() {
            match number % 5 {
                4 => drop(late.insert(Digest::of(bytes), bytes.clone())),
                _ => drop(blobs.put(bytes).unwrap()),
            }
        }
        let nowhere = (Digest::of(b"nowhere"), None);
        let mut asked: Vec<_> = contents.iter().map(|bytes| (Digest::of(bytes), Some(bytes))).collect();
        asked.insert(3, nowhere);
        asked.push(nowhere);
        for (others, offset) in [(0, 0usize), (0, 1), (40, 0), (200, 19_999)] {
            let places = Places::default();
            let _others: Vec<_> = (0..others).map(|number| places.take(&holder(number)).unwrap()).collect();
            let source = Source { blobs: blobs.clone(), late: Arc::new(Mutex::new(late.clone())) };
            let wanted = asked.iter().enumerate();
            let wanted = wanted.map(|(index, (digest, _))| Wanted {
                index,
                digest: *digest,
                offset: offset as u64,
                tries: 2,
            });
            let place = places.take(&holder(999)).unwrap();
            let (buffers, wanted) = (Buffers::default(), wanted.collect());
            let serving = Serving { source, wanted, open: None, buffers, place };
            let part_bytes_max = part_bytes(others + 1);
            let mut got: Vec<(Vec<u8>, bool)> = vec![(Vec::new(), false); asked.len()];
            let mut last = 0;
            let mut parts = std::pin::pin!(parts(serving));
            while let Some(part) = parts.next().await {
                let mut part = part.unwrap();
                assert!(part.len() <= part_bytes_max, "{}", part.len());
                while !part.is_empty() {
                    let length = u32::from_be_bytes(part[1..5].try_into().unwrap()) as usize;
                    let chunk = v1::BlobChunk::decode(&part.split_to(5 + length)[5..]).unwrap();
                    let index = chunk.index as usize;
                    assert!(index == last || (index == last + 1 && got[last].1), "in order, each to its end");
                    last = index;
                    got[index].0.extend_from_slice(&chunk.data);
                    got[index].1 = chunk.end() != v1::BlobEnd::Unspecified;
                    assert_eq!(chunk.end() == v1::BlobEnd::Absent, asked[index].1.is_none());
                }
            }
            for ((bytes, ended), (_, wanted)) in got.iter().zip(&asked) {
                let wanted = wanted.map_or(&[][..], |wanted| &wanted[wanted.len().min(offset)..]);
                assert!(ended & (bytes == wanted), "{} of {} bytes", bytes.len(), wanted.len());
            }
        }
    }

    #[test]
    fn a_chunk_framed_by_hand_decodes_as_the_message() {
        for (index, data, end) in [
            (0, &b""[..], v1::BlobEnd::Absent),
            (3, b"tree node", v1::BlobEnd::Complete),
            (1023, &[7; 300_000], v1::BlobEnd::Unspecified),
        ] {
            let mut out = chunk_head(index, data.len(), end);
            assert!(out.len() <= HEAD_BYTES_MAX, "{}", out.len());
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
