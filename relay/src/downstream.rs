//! What endpoints (and relays below) ask of this relay.

use std::{collections::BTreeSet, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tierway_common::{
    blobs::{Blobs, Reader},
    clock::Clock,
    daemon::{chain::Chain, disk, stop::Stop, tasks::Wake},
    id::TenantId,
    lease::LEASE_BYTES_MAX,
    transport::identity::{PeerIdentity, Role},
    trust::{digest::Digest, envelope::Envelope},
};
use tierway_proto::{
    blob_stream::BlobSource,
    notices::{ANSWERED_MAX, Notices},
    upstream::{ENROLLING_MAX, ENVELOPES_MAX, Upstream, UpstreamError},
    v1::{self, upstream_server},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tonic::{Request, Response, Status};
use tracing::warn;

use crate::{
    mirror::Mirror,
    outbox::{Carrier, Outbox, Taken},
    payloads::Payloads,
    resync::Resync,
    up::Forwarding,
};

/// Payloads one endpoint may announce in one call.
const WANTED_PER_CALL_MAX: usize = 256;

/// The service; cheap to clone.
#[derive(Clone, Debug)]
pub struct Downstream {
    /// Who may come in.
    pub gate: Gate,
    /// Metadata.
    pub mirror: Mirror,
    /// Payloads.
    pub payloads: Payloads,
    /// Reports.
    pub outbox: Outbox,
    /// Endpoints that must send everything again.
    pub resync: Resync,
    /// The tier above, for what is passed through.
    pub upstream: Upstream,
    /// Wake-ups for whoever watches.
    pub notices: Notices,
    /// The task that hands reports up.
    pub forwarding: Forwarding,
    /// Wakes the task that fetches payloads ahead.
    pub stage: Wake,
    /// Endpoints seen lately.
    pub seen: Arc<crate::seen::Seen>,
    /// The time.
    pub clock: Clock,
    /// The wish to stop.
    pub stop: Stop,
    /// Who passes on what strangers ask.
    pub enrolling: Enrolling,
}

/// Turns of callers without a certificate to have something passed on.
#[derive(Clone, Debug)]
pub struct Enrolling(Arc<Semaphore>);

impl Default for Enrolling {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ENROLLING_MAX)))
    }
}

impl Enrolling {
    fn turn(&self) -> Result<OwnedSemaphorePermit, Status> {
        self.0.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted("too many enrolments at once: try again in a few seconds")
        })
    }
}

type NoticeStream = Pin<Box<dyn Stream<Item = Result<v1::Notice, Status>> + Send>>;

/// Decides who may come in.
#[derive(Clone, Debug)]
pub struct Gate {
    /// Whose endpoints are served.
    pub tenant: TenantId,
    /// Knows what is revoked.
    pub mirror: Mirror,
    /// The time.
    pub clock: Clock,
}

impl Gate {
    /// Who calls; refused when it has no certificate, a revoked one, another tenant's, or no business here.
    ///
    /// # Errors
    ///
    /// What the caller is told.
    pub fn admit(&self, peer: Option<&Arc<PeerIdentity>>) -> Result<Arc<PeerIdentity>, Status> {
        let peer =
            peer.ok_or_else(|| Status::unauthenticated("this call needs a certificate: enrol first"))?;
        if self.mirror.head().revoked.contains(&peer.serial) {
            warn!(peer = %peer.holder, "refused a revoked certificate");
            return Err(Status::permission_denied("this certificate is revoked"));
        }
        if peer.holder.tenant != self.tenant || !matches!(peer.holder.role, Role::Endpoint | Role::Relay) {
            return Err(Status::permission_denied(format!(
                "`{}` has no business at this relay",
                peer.holder
            )));
        }
        if peer.not_after < self.clock.now() {
            return Err(Status::unauthenticated("this certificate has expired: renew it"));
        }
        Ok(peer.clone())
    }
}

impl Downstream {
    fn peer<T>(&self, request: &Request<T>) -> Result<Arc<PeerIdentity>, Status> {
        self.gate.admit(request.extensions().get())
    }

    /// Notes that an endpoint called; a relay below is none.
    fn note(&self, peer: &PeerIdentity) {
        if peer.holder.role == Role::Endpoint {
            self.seen.note(&peer.holder.id, self.clock.now());
        }
    }

    /// Those of `asked` that are told by the answer to this call that they must send everything again.
    async fn take_resync(&self, asked: BTreeSet<String>) -> Result<Vec<String>, Status> {
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        let (resync, now) = (self.resync.clone(), Instant::now());
        blocking(move || resync.take(asked, now)).await
    }
}

/// Waits for what the disk does, and tells the caller when that fails.
async fn blocking<T: Send + 'static, E: std::error::Error + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, Status> {
    match disk::blocking(work).await {
        Ok(done) => done.map_err(|error| broken(&error)),
        Err(_) => Err(Status::internal("the call failed")),
    }
}

fn broken(error: &dyn std::error::Error) -> Status {
    warn!(error = %Chain(error), "a call failed");
    Status::unavailable("this relay has a problem with its disk")
}

fn passed_on(error: UpstreamError) -> Status {
    match error {
        UpstreamError::Refused(status) => *status,
        error => Status::unavailable(format!("the tier above did not answer: {}", Chain(&error))),
    }
}

#[tonic::async_trait]
impl upstream_server::Upstream for Downstream {
    async fn get_metadata(
        &self,
        request: Request<v1::GetMetadataRequest>,
    ) -> Result<Response<v1::GetMetadataResponse>, Status> {
        self.peer(&request)?;
        let v1::GetMetadataRequest { role, version } = request.into_inner();
        let content = match self.mirror.read_at_hand(&role, version) {
            Some(content) => content,
            None => {
                let mirror = self.mirror.clone();
                blocking(move || mirror.read(&role, version)).await?
            }
        };
        Ok(Response::new(v1::GetMetadataResponse { content: content.map(|bytes| bytes.to_vec()) }))
    }

    type FetchBlobsStream = Pin<Box<dyn Stream<Item = Result<v1::BlobChunk, Status>> + Send>>;

    async fn fetch_blobs(
        &self,
        _request: Request<v1::FetchBlobsRequest>,
    ) -> Result<Response<Self::FetchBlobsStream>, Status> {
        Err(Status::internal("blobs are served before this service is asked"))
    }

    async fn check_in(
        &self,
        request: Request<v1::CheckInRequest>,
    ) -> Result<Response<v1::CheckInResponse>, Status> {
        let peer = self.peer(&request)?;
        let v1::CheckInRequest {
            timestamp_version,
            agent_version: _,
            wanted,
            relay: _,
            answered,
            targets_version,
        } = request.into_inner();
        if wanted.len() > WANTED_PER_CALL_MAX {
            return Err(Status::invalid_argument("more than 256 payloads are announced at once"));
        }
        if answered.len() > ANSWERED_MAX {
            return Err(Status::invalid_argument("more than 256 notices are answered at once"));
        }
        self.notices.answered(&peer, &answered);
        self.note(&peer);
        if self.payloads.want(wanted.iter().filter_map(|digest| Digest::try_from(digest.as_slice()).ok())) {
            self.stage.wake();
        }
        let head = self.mirror.head();
        let is_newer = head.timestamp_version > timestamp_version;
        let newest = self.mirror.newest();
        Ok(Response::new(v1::CheckInResponse {
            timestamp_version: head.timestamp_version,
            timestamp: is_newer.then(|| head.timestamp.to_vec()),
            resync: !self.take_resync(self.resync.among([&*peer.holder.id])).await?.is_empty(),
            resync_endpoints: Vec::new(),
            news: head.news,
            root_version: newest.root_version,
            along: if is_newer { newest.along(targets_version) } else { Vec::new() },
        }))
    }

    async fn submit_reports(
        &self,
        request: Request<v1::SubmitReportsRequest>,
    ) -> Result<Response<v1::SubmitReportsResponse>, Status> {
        let peer = self.peer(&request)?;
        let v1::SubmitReportsRequest { envelopes } = request.into_inner();
        if envelopes.len() > ENVELOPES_MAX {
            return Err(Status::invalid_argument("more than 1,024 reports at once"));
        }
        self.note(&peer);
        let mut outcomes = vec![v1::ReportOutcome::Refused; envelopes.len()];
        let mut good: Vec<(usize, Envelope)> = Vec::new();
        for (index, bytes) in envelopes.into_iter().enumerate() {
            match Envelope::parse(&bytes) {
                Ok(envelope) if may_send(&peer, &envelope) => good.push((index, envelope)),
                Ok(envelope) => {
                    warn!(peer = %peer.holder, named = %envelope.header().endpoint, "refused a report that names somebody else");
                }
                Err(error) => {
                    warn!(peer = %peer.holder, error = %Chain(&error), "refused a malformed report")
                }
            }
        }
        let (indices, good): (Vec<_>, Vec<_>) = good.into_iter().unzip();
        let carrier = if peer.holder.role == Role::Relay { Carrier::Relay } else { Carrier::Endpoint };
        let mut asked = self.resync.among(good.iter().map(|envelope| envelope.header().endpoint.as_str()));
        if carrier == Carrier::Relay {
            // Whoever calls here himself hears it himself, whatever a relay says that it carries.
            asked.retain(|id| !self.seen.knows(id));
        }
        let taken = self.outbox.hand_in(good, carrier, self.clock.now()).await;
        let taken = taken.map_err(|error| broken(&error))?;
        for (index, taken) in indices.into_iter().zip(taken) {
            outcomes[index] = match taken {
                Taken::Durable | Taken::Superseded => v1::ReportOutcome::Accepted,
                Taken::Full => v1::ReportOutcome::Later,
            };
        }
        self.forwarding.reports_came();
        Ok(Response::new(v1::SubmitReportsResponse {
            outcomes: outcomes.into_iter().map(Into::into).collect(),
            resync_endpoints: self.take_resync(asked).await?,
        }))
    }

    type WatchStream = NoticeStream;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<NoticeStream>, Status> {
        let peer = self.peer(&request)?;
        self.note(&peer);
        let v1::WatchRequest { timestamp_version } = request.into_inner();
        let notices = self.notices.watch(&peer, timestamp_version).map(Ok);
        // Or else whoever watches would hold up a stop for as long as open requests are let end.
        let stop = self.stop.clone();
        Ok(Response::new(Box::pin(notices.take_until(async move { stop.wait().await }))))
    }

    async fn enroll(
        &self,
        request: Request<v1::EnrollRequest>,
    ) -> Result<Response<v1::EnrollResponse>, Status> {
        let _turn = self.enrolling.turn()?;
        let answer = self.upstream.enroll(request.into_inner()).await.map_err(passed_on)?;
        Ok(Response::new(answer))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        // Not through `peer`: an expired certificate may still renew, which the tier above decides.
        let peer = request.extensions().get::<Arc<PeerIdentity>>().cloned();
        let mut message = request.into_inner();
        let _turn = match peer {
            // What a relay passes on is another's, and stays: central goes by the proof.
            Some(peer) if peer.holder.role == Role::Relay && !message.certificate_der.is_empty() => None,
            Some(peer) => {
                message.certificate_der = peer.certificate.to_vec();
                None
            }
            None => Some(self.enrolling.turn()?),
        };
        let answer = self.upstream.renew(message).await.map_err(passed_on)?;
        Ok(Response::new(answer))
    }

    async fn lease(&self, request: Request<v1::LeaseRequest>) -> Result<Response<v1::LeaseResponse>, Status> {
        self.peer(&request)?;
        let message = request.into_inner();
        if message.ask.len() > LEASE_BYTES_MAX {
            return Err(Status::invalid_argument("an ask has at most 2 KiB"));
        }
        let answer = self.upstream.pass_lease(message).await.map_err(passed_on)?;
        Ok(Response::new(answer))
    }
}

/// An endpoint sends its own reports, a relay those of the endpoints below it.
fn may_send(peer: &PeerIdentity, envelope: &Envelope) -> bool {
    let header = envelope.header();
    header.tenant == peer.holder.tenant
        && (peer.holder.role == Role::Relay || header.endpoint.as_str() == peer.holder.id)
}

/// Tree nodes from the mirror, payloads through [`Payloads`].
#[derive(Clone, Debug)]
pub struct Served {
    /// Who may come in.
    pub gate: Gate,
    /// Tree nodes and documents.
    pub trees: Blobs,
    /// Payloads.
    pub payloads: Payloads,
}

impl BlobSource for Served {
    fn admit(&self, extensions: &http::Extensions) -> Result<Arc<PeerIdentity>, Status> {
        self.gate.admit(extensions.get())
    }

    fn at_hand(&self, digest: &Digest) -> Option<Bytes> {
        self.trees.at_hand(digest)
    }

    fn hold(&self, digest: &Digest, bytes: &[u8]) {
        // Payloads are each fetched once by a computer: nodes by every check.
        if self.trees.contains(digest) {
            self.trees.hold(digest, bytes);
        }
    }

    fn open(&self, digest: &Digest) -> Option<Reader> {
        self.trees.find(digest).or_else(|| self.payloads.blobs().find(digest))
    }

    async fn fetch(&self, digest: Digest) -> bool {
        self.payloads.have(digest).await
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use futures_util::FutureExt as _;
    use jiff::Timestamp;
    use tierway_common::{
        blobs::BlobOptions,
        store::{Store, memory::MemoryStore},
    };
    use upstream_server::Upstream as _;

    use super::*;
    use crate::{outbox::tests::envelope, up::Up};

    /// A relay below which nobody was yet, and above which nobody is.
    fn downstream(dir: &Path) -> Downstream {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let (clock, mirror) =
            (Clock::manual(Timestamp::UNIX_EPOCH), Mirror::open(&dir.join("metadata")).unwrap());
        let nobody = tonic::transport::Endpoint::from_static("http://127.0.0.1:9").connect_lazy();
        let upstream = Upstream::new(nobody);
        let options = BlobOptions { quota_bytes: 1 << 20, free_floor_bytes: 0 };
        let blobs = Blobs::open(&dir.join("payloads"), options).unwrap();
        Downstream {
            gate: Gate { tenant: "default".parse().unwrap(), mirror: mirror.clone(), clock: clock.clone() },
            mirror,
            payloads: Payloads::new(blobs, upstream.clone()),
            outbox: Outbox::open(store.clone(), 1 << 20).unwrap(),
            resync: Resync::open(store).unwrap(),
            upstream,
            notices: Notices::new(clock.clone()),
            forwarding: Forwarding::default(),
            stage: Wake::default(),
            seen: Arc::default(),
            clock,
            stop: Stop::new(),
            enrolling: Enrolling::default(),
        }
    }

    fn from<T>(caller: &str, message: T) -> Request<T> {
        let peer = PeerIdentity {
            holder: format!("spiffe://tierway/tenant/default/site/osaka/{caller}").parse().unwrap(),
            serial: "5e".to_owned(),
            not_before: Timestamp::MIN,
            not_after: Timestamp::MAX,
            public_key: Vec::new(),
            certificate: Vec::new().into(),
        };
        let mut request = Request::new(message);
        request.extensions_mut().insert(Arc::new(peer));
        request
    }

    #[tokio::test]
    async fn whoever_is_further_than_this_relay_hears_which_root_is_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        let relay = downstream(folder.path());
        for role in ["root", "snapshot", "targets"] {
            relay.mirror.keep(role, 2, b"{}").unwrap();
        }
        let request = v1::CheckInRequest { timestamp_version: 1_000_000, ..Default::default() };
        let answer = relay.check_in(from("endpoint/e1", request)).await.unwrap().into_inner();
        assert_eq!((answer.timestamp, answer.root_version, answer.along.len()), (None, 2, 0));
    }

    #[tokio::test]
    async fn whoever_carries_the_reports_of_an_endpoint_hears_once_that_it_must_send_everything_again() {
        let folder = tempfile::tempdir().unwrap();
        let relay = downstream(folder.path());
        let submit = async |caller: &str, names: &[&str]| {
            let envelopes = names.iter().map(|name| envelope(name).bytes().clone()).collect();
            let request = from(caller, v1::SubmitReportsRequest { envelopes });
            relay.submit_reports(request).await.unwrap().into_inner().resync_endpoints
        };
        let check_in = async |caller: &str| {
            let request = from(caller, v1::CheckInRequest::default());
            relay.check_in(request).await.unwrap().into_inner().resync
        };
        assert!(!check_in("endpoint/e4").await);
        let asked = ["e1", "e2", "e3", "e4"].map(|id| id.parse().unwrap()).into();
        relay.resync.add(asked, Instant::now()).unwrap();

        // By a relay below: those that its reports name, none that calls here itself, and no others.
        assert_eq!(submit("relay/r2", &["s1:e2", "s2:e2", "s1:e4"]).await, ["e2"]);
        assert_eq!(submit("relay/r2", &["s3:e2"]).await, [""; 0]);
        // By themselves, with a report of their own, or when they check in.
        assert_eq!(submit("endpoint/e1", &["s1:e3", "s1:e1"]).await, ["e1"]);
        for (caller, told) in [("e1", false), ("e3", true), ("e3", false), ("e4", true)] {
            assert_eq!(check_in(&format!("endpoint/{caller}")).await, told, "{caller}");
        }
        assert_eq!(relay.seen.lately(relay.clock.now()), 3, "a relay is counted as an endpoint");
    }

    #[tokio::test]
    async fn reports_that_come_while_the_tier_above_takes_none_do_not_have_it_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let relay = downstream(folder.path());
        let mut up = Up::new(
            relay.upstream.clone(),
            relay.outbox.clone(),
            relay.resync.clone(),
            relay.payloads.clone(),
            relay.mirror.clone(),
            relay.notices.clone(),
        );
        up.forwarding = relay.forwarding.clone();
        let woken = || relay.forwarding.wake.woken().now_or_never().is_some();
        let submit = async |name: &str| {
            let envelopes = vec![envelope(name).bytes().clone()];
            let request = from("endpoint/e1", v1::SubmitReportsRequest { envelopes });
            relay.submit_reports(request).await.unwrap();
        };
        submit("s1:e1").await;
        assert!(woken());
        up.forward().await.unwrap_err();
        submit("s2:e1").await;
        assert!(!woken());
        // As if it had taken them.
        relay.outbox.settle(&relay.outbox.next(usize::MAX).unwrap()).unwrap();
        up.forward().await.unwrap();
        assert!(woken(), "what came meanwhile is not forgotten");
        submit("s3:e1").await;
        assert!(woken());
    }
}
