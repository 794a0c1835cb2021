//! `Upstream` at central: what relays ask, and endpoints that have no relay.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt};
use tierway_common::{
    blobs::Reader,
    id::EndpointId,
    transport::identity::{PeerIdentity, Role},
    trust::{digest::Digest, envelope::Envelope},
};
use tierway_proto::{
    blob_stream::BlobSource,
    metadata::Newest,
    notices::ANSWERED_MAX,
    upstream::{ENROLLING_MAX, ENVELOPES_MAX},
    v1::{self, upstream_server},
};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use super::{blocking, gate::Gate};
use crate::{
    enroll::Redemption,
    inventory::{Outcome, Submission},
    leases::Answer,
    model::{Model, Write},
    server::Central,
    store::tables::{RelayHealth, RelayRecord},
    text::clean,
};

/// Payloads one caller may announce in one call.
const WANTED_MAX: usize = 256;
/// Endpoints that are asked to send everything again, in one answer.
const RESYNC_MAX: usize = 1_024;
/// Asks for leases that are answered at once: each costs a signature or two and a commit.
const LEASING_MAX: usize = 64;
/// Bytes of a version that are kept.
const VERSION_BYTES_MAX: usize = 64;
const CALLERS: [Role; 2] = [Role::Endpoint, Role::Relay];

/// The service; cheap to clone.
#[derive(Clone, Debug)]
pub struct UpstreamService {
    central: Arc<Central>,
    gate: Gate,
    enrolling: Arc<Semaphore>,
    leasing: Arc<Semaphore>,
}

impl UpstreamService {
    /// On the given central.
    #[must_use]
    pub fn new(central: Arc<Central>, gate: Gate) -> Self {
        let enrolling = Arc::new(Semaphore::new(ENROLLING_MAX));
        let leasing = Arc::new(Semaphore::new(LEASING_MAX));
        Self { central, gate, enrolling, leasing }
    }

    fn peer<T>(&self, request: &Request<T>) -> Result<Arc<PeerIdentity>, Status> {
        self.gate.admit(request.extensions(), &CALLERS)
    }
}

/// The endpoints of a relay's site that must send everything again.
fn resync_behind(model: &Model, peer: &PeerIdentity) -> Vec<String> {
    if peer.holder.role != Role::Relay {
        return Vec::new();
    }
    let Some(site) = model.sites().get(&peer.holder.site) else { return Vec::new() };
    let wanted = site & model.resync();
    let endpoints = wanted.iter().filter_map(|number| model.endpoint(number));
    endpoints.take(RESYNC_MAX).map(|endpoint| endpoint.id.to_string()).collect()
}

fn must_resync(model: &Model, id: &str) -> bool {
    let endpoint = id.parse().ok().and_then(|id: EndpointId| model.endpoint_by_id(&id));
    endpoint.is_some_and(|endpoint| model.resync().contains(endpoint.number))
}

#[tonic::async_trait]
impl upstream_server::Upstream for UpstreamService {
    async fn get_metadata(
        &self,
        request: Request<v1::GetMetadataRequest>,
    ) -> Result<Response<v1::GetMetadataResponse>, Status> {
        self.peer(&request)?;
        let v1::GetMetadataRequest { role, version } = request.into_inner();
        let content = self.central.publisher.metadata(&role, version);
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
        let v1::CheckInRequest { timestamp_version, agent_version, wanted, relay, answered, targets_version } =
            request.into_inner();
        if wanted.len() > WANTED_MAX {
            return Err(Status::invalid_argument("more than 256 payloads are announced at once"));
        }
        if answered.len() > ANSWERED_MAX {
            return Err(Status::invalid_argument("more than 256 notices are answered at once"));
        }
        self.central.notices.answered(&peer, &answered);
        let wanted: Vec<_> =
            wanted.iter().filter_map(|digest| Digest::try_from(digest.as_slice()).ok()).collect();
        if !wanted.is_empty() {
            let payloads = self.central.payloads.clone();
            tokio::spawn(async move { payloads.stage(&wanted).await });
        }
        if peer.holder.role == Role::Relay {
            let health = relay.map(relay_health).unwrap_or_default();
            let peer = peer.clone();
            blocking(&self.central, move |central| {
                note_relay(central, &peer, timestamp_version, &agent_version, health)
            })
            .await?;
        }
        let (version, timestamp) = self.central.publisher.timestamp();
        let is_newer = version > timestamp_version;
        let newest = if is_newer {
            self.central.publisher.newest()
        } else {
            Newest { root_version: self.central.publisher.root_version(), ..Newest::default() }
        };
        let model = self.central.state.model();
        let resync = peer.holder.role == Role::Endpoint && must_resync(&model, &peer.holder.id);
        Ok(Response::new(v1::CheckInResponse {
            timestamp_version: version,
            timestamp: is_newer.then(|| timestamp.to_vec()),
            resync,
            resync_endpoints: resync_behind(&model, &peer),
            news: self.central.publisher.news().borrow().of_note,
            root_version: newest.root_version,
            along: newest.along(targets_version),
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
        let count = envelopes.len();
        let mut named: Vec<String> = envelopes
            .iter()
            .filter_map(|bytes| Some(Envelope::parse(bytes).ok()?.header().endpoint.to_string()))
            .collect();
        named.sort();
        named.dedup();
        let submission = Submission { carrier: peer.holder.clone(), envelopes };
        let outcomes = match self.central.inbox.submit(submission).await {
            Some(outcomes) => outcomes.iter().map(outcome).collect(),
            None => vec![v1::ReportOutcome::Later.into(); count],
        };
        let model = self.central.state.model();
        named.retain(|id| must_resync(&model, id));
        named.truncate(RESYNC_MAX);
        Ok(Response::new(v1::SubmitReportsResponse { outcomes, resync_endpoints: named }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::Notice, Status>> + Send>>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let peer = self.peer(&request)?;
        let v1::WatchRequest { timestamp_version } = request.into_inner();
        let notices = self.central.notices.watch(&peer, timestamp_version).map(Ok);
        // A stream without end would hold up whoever wants to stop.
        let stop = self.central.stop.clone();
        Ok(Response::new(Box::pin(notices.take_until(async move { stop.wait().await }))))
    }

    async fn enroll(
        &self,
        request: Request<v1::EnrollRequest>,
    ) -> Result<Response<v1::EnrollResponse>, Status> {
        let _turn = self.enrolling.try_acquire().map_err(|_| too_many())?;
        let v1::EnrollRequest { token_id, proof, csr_der, host_name, agent_version } = request.into_inner();
        let token = token_id.parse().map_err(|_| Status::invalid_argument("this is no token id"))?;
        let issued = blocking(&self.central, move |central| {
            central.enrollment.redeem(Redemption {
                token: &token,
                proof: &proof,
                csr_der: &csr_der,
                host_name: &host_name,
                agent_version: &agent_version,
            })
        })
        .await?;
        Ok(Response::new(v1::EnrollResponse {
            certificate_chain: issued.chain,
            root_metadata: self.central.root_metadata.clone(),
        }))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        let _turn = self.enrolling.try_acquire().map_err(|_| too_many())?;
        // Not through `peer`: an expired certificate may still be renewed, and a relay passes on another's.
        let own = request.extensions().get::<Arc<PeerIdentity>>().cloned();
        let v1::RenewRequest { csr_der, certificate_der, proof } = request.into_inner();
        let certificate = match (certificate_der.is_empty(), own) {
            (false, _) => certificate_der,
            (true, Some(own)) => own.certificate.to_vec(),
            (true, None) => return Err(Status::unauthenticated("there is no certificate to renew")),
        };
        let issued =
            blocking(&self.central, move |central| central.enrollment.renew(&certificate, &csr_der, &proof))
                .await?;
        Ok(Response::new(v1::RenewResponse { certificate_chain: issued.chain }))
    }

    async fn lease(&self, request: Request<v1::LeaseRequest>) -> Result<Response<v1::LeaseResponse>, Status> {
        let peer = self.peer(&request)?;
        let _turn = self.leasing.try_acquire().map_err(|_| {
            Status::resource_exhausted("too many leases are asked for at once: try again in a few seconds")
        })?;
        let v1::LeaseRequest { ask } = request.into_inner();
        let answer = blocking(&self.central, move |central| {
            central.leases.answer(&central.publisher, &peer.holder, &ask)
        })
        .await?;
        Ok(Response::new(lease_response(answer)))
    }
}

fn lease_response(answer: Answer) -> v1::LeaseResponse {
    match answer {
        Answer::Granted(grant) => v1::LeaseResponse { grant: grant.to_vec(), retry_seconds: 0 },
        Answer::Later(retry_seconds) => v1::LeaseResponse { grant: Vec::new(), retry_seconds },
        Answer::Released => v1::LeaseResponse::default(),
    }
}

fn too_many() -> Status {
    Status::resource_exhausted("too many enrolments at once: try again in a few seconds")
}

fn outcome(outcome: &Outcome) -> i32 {
    match outcome {
        Outcome::Accepted => v1::ReportOutcome::Accepted.into(),
        Outcome::Refused(_) => v1::ReportOutcome::Refused.into(),
    }
}

fn relay_health(message: v1::RelayHealth) -> RelayHealth {
    let v1::RelayHealth {
        blob_bytes,
        blob_bytes_quota,
        outbox_reports,
        outbox_bytes,
        endpoints_connected,
        outbox_oldest,
        endpoints_seen,
    } = message;
    RelayHealth {
        blob_bytes,
        blob_bytes_quota,
        outbox_reports,
        outbox_bytes,
        outbox_oldest,
        endpoints_connected,
        endpoints_seen,
    }
}

fn note_relay(
    central: &Central,
    peer: &PeerIdentity,
    timestamp_version: u64,
    agent_version: &str,
    health: RelayHealth,
) -> Result<(), tierway_common::store::StoreError> {
    central.state.change(|model, change| {
        let relay = peer.holder.id.parse().ok().and_then(|id| model.relays().get(&id));
        if let Some(relay) = relay {
            let mut relay = RelayRecord {
                last_seen: Some(change.now),
                agent_version: clean(agent_version, VERSION_BYTES_MAX),
                health,
                ..RelayRecord::clone(relay)
            };
            relay.has_version(timestamp_version, change.now);
            change.write(Write::Relay(Arc::new(relay)));
        }
        Ok(())
    })?;
    Ok(())
}

/// Tree nodes and payloads for whoever may call.
#[derive(Clone, Debug)]
pub struct Served {
    central: Arc<Central>,
    gate: Gate,
}

impl Served {
    /// On the given central.
    #[must_use]
    pub fn new(central: Arc<Central>, gate: Gate) -> Self {
        Self { central, gate }
    }
}

impl BlobSource for Served {
    fn admit(&self, extensions: &http::Extensions) -> Result<Arc<PeerIdentity>, Status> {
        self.gate.admit(extensions, &CALLERS)
    }

    fn open(&self, digest: &Digest) -> Option<Reader> {
        self.central.payloads.open(digest)
    }

    async fn fetch(&self, digest: Digest) -> bool {
        self.central.payloads.fetch(digest).await
    }
}
