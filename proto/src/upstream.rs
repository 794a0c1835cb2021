//! The caller's side of `tierway.v1.Upstream`, the same for endpoint and relay.
//!
//! Nothing that comes back is believed: blobs are hashed, metadata goes to the TUF client, and every
//! answer has a length and a time in which it must come.

use std::{collections::BTreeMap, error::Error as _, time::Duration};

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use tierway_common::{
    blobs::{BlobError, Blobs},
    daemon::disk::on_disk,
    lease::{Ask, Lease, LeaseError, Want, verify_grant},
    trust::{digest::Digest, keys::PublicKey},
};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::{
    Code, Status, Streaming,
    body::Body,
    codegen::{Service, StdError},
    transport::Channel,
};
use tower::{ServiceExt as _, util::BoxCloneSyncService};

use crate::{
    blob_stream::{BLOBS_PER_REQUEST_MAX, CHUNK_BYTES},
    v1::{self, upstream_client::UpstreamClient},
};

/// Longest unary answer; metadata is the longest.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Envelopes of one `SubmitReports`: what a sender puts into it at most, and more than which is refused.
pub const ENVELOPES_MAX: usize = 1_024;
/// Enrolments and renewals that one tier takes at once, and that a relay passes on at once: each costs central a
/// proof, a signature and a commit, and the first come from callers nobody knows.
pub const ENROLLING_MAX: usize = 16;
/// Longest message we send: a batch of reports.
const REQUEST_BYTES_MAX: usize = 2 << 20;
/// A unary call must be answered by then.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait of one call, in all, for a tier above that has too much to do: after it the call fails, and the next check is
/// due as after any other failure.
const LATER_MAX: Duration = Duration::from_secs(60);
/// In how many seconds to come again, as HTTP has it.
const LATER: &str = "retry-after";
/// A blob stream must bring something this often…
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// …and on average, but for the beginning, at least this much a second, or it is called slow retrieval and given up.
const BYTES_PER_SECOND_MIN: u64 = 2 * 1024;
/// So long a blob stream may take besides.
const BEGINNING: Duration = Duration::from_secs(60);
/// Longest payload: more than any vendor's update, less than any disk.
pub const PAYLOAD_BYTES_MAX: u64 = 16 << 30;
/// Longest wait before asking for a lease again: nobody on the way may make it longer.
const LEASE_RETRY_SECONDS_MAX: u32 = 15 * 60;
/// A whole batch of small blobs in memory.
const BATCH_BYTES_MAX: u64 = 64 << 20;

/// Why a call upward failed.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// Nobody there, or it broke on the way: worth another try later.
    #[error("could not reach upstream: {}", cause(.0))]
    Unreachable(Box<Status>),
    /// It answered that it will not.
    #[error("upstream refused: {}", .0.message())]
    Refused(Box<Status>),
    /// It took too long.
    #[error("upstream did not answer `{call}` in time")]
    Slow {
        /// Which call.
        call: &'static str,
    },
    /// It does not have a blob.
    #[error("upstream does not have the blob {0}")]
    Absent(Digest),
    /// What it sent is not what was asked for.
    #[error("upstream sent something else for the blob {digest}: {reason}")]
    Altered {
        /// What was asked for.
        digest: Digest,
        /// What is wrong with it.
        reason: String,
    },
    /// The answer has another form than agreed.
    #[error("upstream broke the protocol: {0}")]
    Protocol(&'static str),
    /// What it sent is no grant of central's to what was asked.
    #[error("upstream granted no lease that counts")]
    Lease(#[from] LeaseError),
    /// A blob could not be kept here.
    #[error("could not keep the blob {digest}")]
    Keep {
        /// Which.
        digest: Digest,
        /// Why.
        source: BlobError,
    },
}

/// What broke a call, in one sentence: what the status says, and what lies at the bottom of it where that is not in it. Its
/// own `Display` gives all its causes as Rust writes them, and each of those says the same again.
fn cause(status: &Status) -> String {
    let mut source = status.source();
    let mut deepest = None;
    while let Some(error) = source {
        deepest = Some(error.to_string());
        source = error.source();
    }
    let said = match status.message() {
        "" => status.code().description().to_lowercase(),
        message => message.to_owned(),
    };
    match deepest {
        Some(deepest) if !said.contains(&deepest) => format!("{said}: {deepest}"),
        _ => said,
    }
}

impl From<Status> for UpstreamError {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::Unavailable
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Unknown
            | Code::Internal
            | Code::Aborted => Self::Unreachable(Box::new(status)),
            _ => Self::Refused(Box::new(status)),
        }
    }
}

/// What came of asking for a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseAnswer {
    /// The endpoint may be down until its end.
    Granted(Lease),
    /// As many are down as may be: ask again after so long.
    Later(Duration),
    /// It was given back.
    Released,
}

/// Brings requests to the tier above and its answers back.
type Carried = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Status>;

/// The tier above; cheap to clone.
#[derive(Clone, Debug)]
pub struct Upstream(UpstreamClient<Carried>);

impl Upstream {
    /// Over a channel of `tierway_common::transport::dial`.
    #[must_use]
    pub fn new(channel: Channel) -> Self {
        Self::over(channel)
    }

    /// Over whatever else carries requests there: a simulation has no connections.
    #[must_use]
    pub fn over<S>(service: S) -> Self
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error: Into<StdError>, Future: Send>
            + Clone
            + Send
            + Sync
            + 'static,
    {
        let carried =
            BoxCloneSyncService::new(service.map_err(|error: S::Error| Status::from_error(error.into())));
        Self(
            UpstreamClient::new(carried)
                .max_decoding_message_size(ANSWER_BYTES_MAX)
                .max_encoding_message_size(REQUEST_BYTES_MAX),
        )
    }

    /// The newest metadata of a role, or exactly `version`; `None` when there is no such.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`].
    pub async fn metadata(&self, role: &str, version: Option<u64>) -> Result<Option<Bytes>, UpstreamError> {
        let request = v1::GetMetadataRequest { role: role.to_owned(), version };
        let v1::GetMetadataResponse { content } = self
            .call("GetMetadata", request, async |client, request| client.get_metadata(request).await)
            .await?;
        Ok(content.map(Bytes::from))
    }

    /// The regular check.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`].
    pub async fn check_in(&self, request: v1::CheckInRequest) -> Result<v1::CheckInResponse, UpstreamError> {
        self.call("CheckIn", request, async |client, request| client.check_in(request).await).await
    }

    /// Hands over encoded envelopes; the outcomes are in their order.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`]; nothing may be deleted then.
    pub async fn submit(&self, envelopes: Vec<Bytes>) -> Result<v1::SubmitReportsResponse, UpstreamError> {
        let sent = envelopes.len();
        let request = v1::SubmitReportsRequest { envelopes };
        let response = self
            .call("SubmitReports", request, async |client, request| client.submit_reports(request).await)
            .await?;
        if response.outcomes.len() != sent {
            return Err(UpstreamError::Protocol("it answered for another number of reports"));
        }
        Ok(response)
    }

    /// Wake-ups, until the stream breaks, to one who trusts the timestamp metadata of this version.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`].
    pub async fn watch(&self, timestamp_version: u64) -> Result<Streaming<v1::Notice>, UpstreamError> {
        let request = v1::WatchRequest { timestamp_version };
        self.call("Watch", request, async |client, request| client.watch(request).await).await
    }

    /// See `upstream.proto`.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`].
    pub async fn enroll(&self, request: v1::EnrollRequest) -> Result<v1::EnrollResponse, UpstreamError> {
        self.call("Enroll", request, async |client, request| client.enroll(request).await).await
    }

    /// See `upstream.proto`.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`].
    pub async fn renew(&self, request: v1::RenewRequest) -> Result<v1::RenewResponse, UpstreamError> {
        self.call("Renew", request, async |client, request| client.renew(request).await).await
    }

    /// Passes on an encoded ask as it is: see `upstream.proto`.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`].
    pub async fn pass_lease(&self, request: v1::LeaseRequest) -> Result<v1::LeaseResponse, UpstreamError> {
        self.call("Lease", request, async |client, request| client.lease(request).await).await
    }

    /// Asks for a lease, for more time, or gives one back. A grant is checked with `key`, the published lease
    /// key; `now` is asked for when the answer is here.
    ///
    /// # Errors
    ///
    /// [`UpstreamError::Refused`] when central will never grant this (the window is gone, the endpoint does not
    /// use it); [`UpstreamError::Lease`] when the answer is no grant of central's to this ask; the others when
    /// the tier above did not answer. In none of these cases is anything leased.
    pub async fn lease(
        &self,
        ask: &Ask,
        key: &PublicKey,
        now: impl FnOnce() -> Timestamp,
    ) -> Result<LeaseAnswer, UpstreamError> {
        let request = v1::LeaseRequest { ask: ask.bytes().to_vec() };
        let v1::LeaseResponse { grant, retry_seconds } = self.pass_lease(request).await?;
        if retry_seconds > 0 {
            let seconds = retry_seconds.min(LEASE_RETRY_SECONDS_MAX);
            return Ok(LeaseAnswer::Later(Duration::from_secs(seconds.into())));
        }
        match ask.want() {
            Want::Release => Ok(LeaseAnswer::Released),
            Want::Acquire { .. } => Ok(LeaseAnswer::Granted(verify_grant(&grant, ask, key, now())?)),
        }
    }

    /// Small blobs (tree nodes, documents), each at most `bytes_max`, verified, in memory.
    ///
    /// # Errors
    ///
    /// [`UpstreamError::Absent`] or [`UpstreamError::Altered`] naming the first that is not as it should be.
    pub async fn small_blobs(
        &self,
        digests: &[Digest],
        bytes_max: u64,
    ) -> Result<BTreeMap<Digest, Bytes>, UpstreamError> {
        let mut found = BTreeMap::new();
        for batch in digests.chunks(BLOBS_PER_REQUEST_MAX) {
            let mut stream = self.open(batch.iter().map(|digest| (*digest, 0)).collect()).await?;
            let mut parts = BytesMut::new();
            let mut total = 0;
            let mut deadline = Deadline::new();
            for (index, digest) in batch.iter().enumerate() {
                parts.clear();
                loop {
                    let chunk = deadline.next(&mut stream).await?;
                    let Some(chunk) = chunk else {
                        return Err(UpstreamError::Protocol("it ended a batch of blobs early"));
                    };
                    let end = check_chunk(&chunk, index)?;
                    if end == v1::BlobEnd::Absent {
                        return Err(UpstreamError::Absent(*digest));
                    }
                    total += chunk.data.len() as u64;
                    if (parts.len() + chunk.data.len()) as u64 > bytes_max || total > BATCH_BYTES_MAX {
                        let reason = format!("it is longer than {bytes_max} bytes");
                        return Err(UpstreamError::Altered { digest: *digest, reason });
                    }
                    parts.extend_from_slice(&chunk.data);
                    if end == v1::BlobEnd::Complete {
                        break;
                    }
                }
                let bytes = parts.split().freeze();
                let is = Digest::of(&bytes);
                if is != *digest {
                    let reason = format!("its digest is {is}");
                    return Err(UpstreamError::Altered { digest: *digest, reason });
                }
                found.insert(*digest, bytes);
            }
        }
        Ok(found)
    }

    /// One payload into `blobs`, going on from what an earlier try left there; `bytes` is its length, `None`
    /// where only the digest is known and [`PAYLOAD_BYTES_MAX`] must do.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`]; what came so far is kept for the next try unless it was wrong.
    pub async fn payload(
        &self,
        digest: Digest,
        bytes: Option<u64>,
        blobs: &Blobs,
    ) -> Result<(), UpstreamError> {
        let mut resumed = false;
        match self.payload_into(digest, bytes, blobs, &mut resumed).await {
            // What an earlier try left may be what is wrong: that is gone now, so this one starts anew.
            Err(UpstreamError::Altered { .. }) if resumed => {
                self.payload_into(digest, bytes, blobs, &mut resumed).await
            }
            done => done,
        }
    }

    async fn payload_into(
        &self,
        digest: Digest,
        bytes: Option<u64>,
        blobs: &Blobs,
        resumed: &mut bool,
    ) -> Result<(), UpstreamError> {
        let keep = move |source| match source {
            BlobError::Mismatch { found, .. } => {
                UpstreamError::Altered { digest, reason: format!("its digest is {found}") }
            }
            source => UpstreamError::Keep { digest, source },
        };
        if blobs.contains(&digest) {
            return Ok(());
        }
        let opening = blobs.clone();
        let mut writer = on_disk(move || opening.writer(&digest, bytes)).await.map_err(keep)?;
        let mut at = writer.offset();
        *resumed = at > 0;
        let mut stream = self.open(vec![(digest, at)]).await?;
        let bytes_max = bytes.unwrap_or(PAYLOAD_BYTES_MAX);
        let mut deadline = Deadline::new();
        loop {
            let Some(chunk) = deadline.next(&mut stream).await? else {
                return Err(UpstreamError::Protocol("it ended a blob early"));
            };
            let end = check_chunk(&chunk, 0)?;
            if end == v1::BlobEnd::Absent {
                return Err(UpstreamError::Absent(digest));
            }
            at += chunk.data.len() as u64;
            let short = end == v1::BlobEnd::Complete && bytes.is_some_and(|bytes| at < bytes);
            if at > bytes_max || short {
                writer.discard();
                let reason = format!("it has {at} bytes or more instead of {bytes_max}");
                return Err(UpstreamError::Altered { digest, reason });
            }
            writer = on_disk(move || writer.write(&chunk.data).map(|()| writer)).await.map_err(keep)?;
            if end == v1::BlobEnd::Complete {
                return on_disk(move || writer.finish()).await.map(drop).map_err(keep);
            }
        }
    }

    async fn open(&self, wanted: Vec<(Digest, u64)>) -> Result<Streaming<v1::BlobChunk>, UpstreamError> {
        let blobs = wanted
            .into_iter()
            .map(|(digest, offset)| v1::BlobRequest { digest: digest.as_bytes().to_vec(), offset })
            .collect();
        let request = v1::FetchBlobsRequest { blobs };
        // A chunk and its framing; anything longer is an attack on memory.
        let client = Self(self.0.clone().max_decoding_message_size(CHUNK_BYTES + 1024));
        client.call("FetchBlobs", request, async |client, request| client.fetch_blobs(request).await).await
    }

    /// Calls, and calls again as often as it is told to come later, for [`LATER_MAX`] at most.
    async fn call<Q: Clone, A>(
        &self,
        call: &'static str,
        request: Q,
        ask: impl AsyncFn(&mut UpstreamClient<Carried>, Q) -> Result<tonic::Response<A>, Status>,
    ) -> Result<A, UpstreamError> {
        let mut client = self.0.clone();
        let mut waited = Duration::ZERO;
        loop {
            let answer = timeout(CALL_TIMEOUT, ask(&mut client, request.clone())).await;
            match answer.map_err(|_| UpstreamError::Slow { call })? {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => match later(&status).filter(|wait| waited + *wait <= LATER_MAX) {
                    Some(wait) => {
                        waited += wait;
                        sleep(wait).await;
                    }
                    None => return Err(status.into()),
                },
            }
        }
    }
}

/// How long a busy tier asks to be left alone, a second at least.
fn later(status: &Status) -> Option<Duration> {
    let said = status.metadata().get(LATER).filter(|_| status.code() == Code::ResourceExhausted)?;
    said.to_str().ok()?.parse().ok().map(|seconds: u32| Duration::from_secs(seconds.max(1).into()))
}

fn check_chunk(chunk: &v1::BlobChunk, index: usize) -> Result<v1::BlobEnd, UpstreamError> {
    if usize::try_from(chunk.index) != Ok(index) {
        return Err(UpstreamError::Protocol("it sent blobs in another order"));
    }
    if chunk.data.is_empty() && chunk.end() == v1::BlobEnd::Unspecified {
        return Err(UpstreamError::Protocol("it sent an empty chunk"));
    }
    Ok(chunk.end())
}

/// Ends streams that stall or trickle. Only what came buys time: what could still come may be a thousand times more.
struct Deadline {
    begun: Instant,
    received: u64,
}

impl Deadline {
    fn new() -> Self {
        Self { begun: Instant::now(), received: 0 }
    }

    async fn next(
        &mut self,
        stream: &mut Streaming<v1::BlobChunk>,
    ) -> Result<Option<v1::BlobChunk>, UpstreamError> {
        let bought = Duration::from_secs(self.received / BYTES_PER_SECOND_MIN);
        let until = (self.begun + BEGINNING + bought).min(Instant::now() + STALL_TIMEOUT);
        let Ok(chunk) = timeout_at(until, stream.message()).await else {
            return Err(UpstreamError::Slow { call: "FetchBlobs" });
        };
        let chunk = chunk?;
        self.received += chunk.as_ref().map_or(0, |chunk| chunk.data.len() as u64);
        Ok(chunk)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use futures_util::{StreamExt as _, stream};
    use http_body::Frame;
    use http_body_util::StreamBody;
    use prost::Message as _;
    use tierway_common::daemon::chain::Chain;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("transport error")]
    struct Outer(#[source] io::Error);

    #[test]
    fn why_nobody_could_be_reached_is_told_once_down_to_what_lies_at_the_bottom() {
        let cases = [
            (Status::unavailable("no TLS with `a:1`"), "no TLS with `a:1`"),
            (Status::from_error(Box::new(io::Error::other("refused"))), "refused"),
            (Status::from_error(Box::new(Outer(io::Error::other("reset")))), "transport error: reset"),
            (Status::aborted(""), "the operation was aborted"),
        ];
        for (status, expected) in cases {
            let error = UpstreamError::from(status);
            assert_eq!(Chain(&error).to_string(), format!("could not reach upstream: {expected}"));
        }
    }

    /// A tier that answers the nth request with the nth status, and the last one from then on; how often it was asked.
    fn answering(statuses: Vec<Status>) -> (Upstream, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let service = tower::service_fn(move |_: http::Request<Body>| {
            let at = counted.fetch_add(1, Ordering::Relaxed).min(statuses.len() - 1);
            let response = statuses[at].clone().into_http::<Body>();
            async move { Ok::<_, Status>(response) }
        });
        (Upstream::over(service), asked)
    }

    fn busy(seconds: Option<&str>) -> Status {
        let mut status = Status::resource_exhausted("too much");
        if let Some(seconds) = seconds {
            status.metadata_mut().insert(LATER, seconds.parse().unwrap());
        }
        status
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_told_to_come_later_does_for_a_minute() {
        let gone = || Status::not_found("gone");
        for (statuses, asked_then, waited) in [
            (vec![busy(Some("7")), busy(Some("20")), gone()], 3, 27),
            (vec![busy(Some("25"))], 3, 50),
            (vec![busy(Some("61"))], 1, 0),
            (vec![busy(Some("0"))], 61, 60),
            (vec![busy(Some("soon"))], 1, 0),
            (vec![busy(None)], 1, 0),
            (vec![gone()], 1, 0),
        ] {
            let case = format!("{statuses:?}");
            let (upstream, asked) = answering(statuses);
            let began = Instant::now();
            upstream.metadata("timestamp", None).await.unwrap_err();
            assert_eq!(
                (asked.load(Ordering::Relaxed), began.elapsed().as_secs()),
                (asked_then, waited),
                "{case}"
            );
        }
    }

    /// A tier that sends a blob in pieces of so many bytes, each so long after the one before.
    fn trickling(blob: Bytes, piece: usize, apart: Duration) -> Upstream {
        let service = tower::service_fn(move |_: http::Request<Body>| {
            let last = blob.chunks(piece).count() - 1;
            let messages = blob.chunks(piece).enumerate().map(|(number, data)| {
                let end = if number == last { v1::BlobEnd::Complete } else { v1::BlobEnd::Unspecified };
                let data = Bytes::copy_from_slice(data);
                let chunk = v1::BlobChunk { index: 0, data, end: end.into() }.encode_to_vec();
                let length = u32::try_from(chunk.len()).unwrap();
                Bytes::from([&[0][..], &length.to_be_bytes(), &chunk].concat())
            });
            let messages = stream::iter(messages.collect::<Vec<_>>()).then(move |message| async move {
                sleep(apart).await;
                Ok::<_, Status>(Frame::data(message))
            });
            let response = http::Response::new(Body::new(StreamBody::new(messages)));
            async move { Ok::<_, Status>(response) }
        });
        Upstream::over(service)
    }

    #[tokio::test(start_paused = true)]
    async fn a_tier_that_trickles_is_given_up_after_a_minute_and_what_has_come_buys_time() {
        for (bytes, piece, apart, ended) in [
            (1_000, 1, 29, Some(60)),
            (2, 1, 31, Some(30)),
            (256 << 10, 1 << 10, 1, Some(119)),
            (256 << 10, 2 << 10, 1, None),
        ] {
            let blob = Bytes::from(vec![7u8; bytes]);
            let digest = Digest::of(&blob);
            let upstream = trickling(blob.clone(), piece, Duration::from_secs(apart));
            let began = Instant::now();
            let found = upstream.small_blobs(&[digest], 8 << 20).await;
            match ended {
                Some(seconds) => {
                    assert!(matches!(found, Err(UpstreamError::Slow { .. })), "{piece}: {found:?}");
                    assert_eq!(began.elapsed().as_secs(), seconds, "{piece} bytes each {apart} s");
                }
                None => assert_eq!(found.unwrap()[&digest], blob),
            }
        }
    }
}
