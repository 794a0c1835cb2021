//! A relay that somebody has taken over: its identity is genuine, what it passes on is not always.
//!
//! It stands between an endpoint and the tier above and passes every call through; one [`Attack`] at a time is
//! applied to what passes. What passed is remembered, as an attacker would.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use jiff::Timestamp;
use ring::rand::SystemRandom;
use tierway_central::enroll::ca::{self, Authority};
use tierway_common::{
    daemon::stop::Stop,
    enrollment::Applicant,
    schema::{Report, State, StateEntry},
    transport::{
        accept::{self, Gauge, Limits},
        dial::{self, Route},
        identity::{PeerIdentity, Role},
        tls::Identity,
    },
    trust::{
        digest::Digest,
        envelope::{Envelope, Header},
        keys::SigningKey,
    },
};
use tierway_proto::{
    blob_stream::CHUNK_BYTES,
    joining,
    v1::{self, notice::Kind, upstream_client::UpstreamClient, upstream_server},
};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, transport::Channel};

use crate::fleet::Fleet;

/// More than any message may have.
const OVERSIZED: usize = 8 << 20;
/// More than any timestamp has, less than any message may have.
const LONG: usize = 3 << 20;
/// Envelopes of garbage in one call: as many as central takes.
const GARBAGE: usize = 1_000;

/// What is done to what passes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Attack {
    /// Nothing.
    #[default]
    None,
    /// To a metadata file of a role.
    Metadata(&'static str, Bend),
    /// To every blob but the payloads: tree nodes and documents.
    Nodes(Bend),
    /// To the payloads.
    Payloads(Bend),
    /// To reports on their way up.
    Reports(Meddle),
    /// The endpoint is called without end.
    CallWithoutEnd,
    /// The endpoint is asked to send everything again, at every check.
    AskForEverything,
    /// An endpoint's token is used for a key of the relay's own, before the endpoint's request is passed on.
    UseToken,
    /// Another root of trust is given to who enrols.
    OtherRootMetadata,
    /// The relay's own certificate is given to who enrols.
    OwnCertificate,
    /// A certificate of an authority of the relay's own is given to who enrols, with the genuine root behind.
    ForgedCertificate,
    /// A certificate of an authority of the relay's own is given to who renews, with that authority's root.
    OwnAuthority,
}

/// How bytes are bent on their way down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bend {
    /// One bit in the middle is another.
    Alter,
    /// The second half is missing, and nothing says so.
    Truncate,
    /// The stream ends in the middle.
    CutOff,
    /// One byte more than there should be.
    Lengthen,
    /// Something else that passed before: the oldest metadata of the role, another blob.
    Swap,
    /// What passed last before the attack began.
    Freeze,
    /// There is none.
    Withhold,
    /// More than any message may have.
    Oversize,
    /// Longer than such a file ever is; of a blob, without end.
    Flood,
    /// Blobs come in another order than asked for.
    Reorder,
}

/// How reports are meddled with on their way up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meddle {
    /// One bit of the body is another.
    AlterBody,
    /// Another sequence number.
    AlterSequence,
    /// In another endpoint's name.
    Rename(String),
    /// Acknowledged and thrown away.
    Drop,
    /// Inventories are acknowledged and thrown away, transitions pass.
    DropInventories,
    /// Refused for good, and thrown away.
    Refuse,
    /// Handed up twice.
    Duplicate,
    /// All that passed before is handed up again, after the new ones.
    Replay,
    /// The last one first.
    Reorder,
    /// Besides, an invented one in the endpoint's name that says the update is installed.
    Forge {
        /// Whose name.
        endpoint: String,
        /// Which update.
        update: String,
    },
    /// Besides, a heap of garbage.
    Garbage,
}

/// A hostile relay that listens; ends with the test.
#[derive(Debug)]
pub struct Hostile {
    /// Where.
    pub address: SocketAddr,
    /// Who it is.
    pub identity: Identity,
    shared: Arc<Shared>,
    stop: Stop,
}

#[derive(Debug)]
struct Shared {
    client: UpstreamClient<Channel>,
    identity: Identity,
    authority: Authority,
    now: Timestamp,
    attack: Mutex<Attack>,
    payloads: Mutex<Vec<Digest>>,
    /// By role, in the order in which they passed.
    metadata: Mutex<BTreeMap<String, Vec<Bytes>>>,
    blobs: Mutex<BTreeMap<Digest, Bytes>>,
    envelopes: Mutex<Vec<Bytes>>,
    /// What became of the attempts to use somebody's token.
    stolen: Mutex<Vec<Result<(), Status>>>,
    /// What the tier above said to what this relay made up.
    answers: Mutex<Vec<v1::ReportOutcome>>,
    /// How often each blob was asked for.
    asked: Mutex<BTreeMap<Digest, u64>>,
    check_ins: AtomicU64,
    metadata_asked: AtomicU64,
    notices: AtomicU64,
    /// Whom [`Attack::CallWithoutEnd`] names; unset: who listens.
    named: Mutex<Option<String>>,
    bent: AtomicU64,
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.stop.request();
    }
}

impl Hostile {
    /// Joins as a relay of `site`, and serves it from `upstream` on.
    pub async fn start(fleet: &Fleet, site: &str, upstream: SocketAddr) -> Self {
        let token = fleet.token("relay", site, upstream).await;
        let dir = fleet.folder(&format!("hostile-{site}"));
        let joined = joining::join(&token, None, None, "hostile", "0.0.0", &dir).await.unwrap();
        let identity = joined.identity;
        let channel = dial::channel(Route::direct(&upstream.to_string()), &identity);
        let now = fleet.now();
        let (root, issuing) = ca::create(now, &SystemRandom::new()).unwrap();
        let shared = Arc::new(Shared {
            client: UpstreamClient::new(channel),
            identity: identity.clone(),
            authority: Authority::open(&root.certificate_pem, &issuing).unwrap(),
            now,
            attack: Mutex::default(),
            payloads: Mutex::default(),
            metadata: Mutex::default(),
            blobs: Mutex::default(),
            envelopes: Mutex::default(),
            stolen: Mutex::default(),
            answers: Mutex::default(),
            asked: Mutex::default(),
            check_ins: AtomicU64::new(0),
            metadata_asked: AtomicU64::new(0),
            notices: AtomicU64::new(0),
            named: Mutex::default(),
            bent: AtomicU64::new(0),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = upstream_server::UpstreamServer::new(Service(shared.clone()))
            .max_encoding_message_size(2 * OVERSIZED);
        let stop = Stop::new();
        tokio::spawn(accept::serve(
            listener,
            identity.clone(),
            service,
            Limits::default(),
            Gauge::default(),
            stop.clone(),
        ));
        Self { address, identity, shared, stop }
    }

    /// From now on it does this.
    pub fn attack(&self, attack: Attack) {
        self.shared.bent.store(0, Ordering::SeqCst);
        *self.shared.attack.lock().unwrap() = attack;
    }

    /// Which blobs are payloads, for attacks on those or on all others.
    pub fn payloads(&self, digests: &[Digest]) {
        *self.shared.payloads.lock().unwrap() = digests.to_vec();
    }

    /// How often the present attack was applied.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.shared.bent.load(Ordering::SeqCst)
    }

    /// How often a blob was asked for.
    #[must_use]
    pub fn asked(&self, digest: &Digest) -> u64 {
        self.shared.asked.lock().unwrap().get(digest).copied().unwrap_or(0)
    }

    /// Check-ins that came.
    #[must_use]
    pub fn check_ins(&self) -> u64 {
        self.shared.check_ins.load(Ordering::SeqCst)
    }

    /// Metadata that was asked for by itself.
    #[must_use]
    pub fn metadata_asked(&self) -> u64 {
        self.shared.metadata_asked.load(Ordering::SeqCst)
    }

    /// Notices that were sent by [`Attack::CallWithoutEnd`].
    #[must_use]
    pub fn notices(&self) -> u64 {
        self.shared.notices.load(Ordering::SeqCst)
    }

    /// Whom the calls without end name, instead of who listens.
    pub fn name(&self, endpoint: &str) {
        *self.shared.named.lock().unwrap() = Some(endpoint.to_owned());
    }

    /// What came of attempts to use a token that was seen.
    #[must_use]
    pub fn stolen(&self) -> Vec<Result<(), Status>> {
        self.shared.stolen.lock().unwrap().clone()
    }

    /// What the tier above said to the reports that this relay made up or bent.
    #[must_use]
    pub fn answers(&self) -> Vec<v1::ReportOutcome> {
        self.shared.answers.lock().unwrap().clone()
    }
}

impl Shared {
    fn now_attacking(&self) -> Attack {
        self.attack.lock().unwrap().clone()
    }

    fn count(&self) {
        self.bent.fetch_add(1, Ordering::SeqCst);
    }

    /// Remembers a metadata file, and gives what is passed on instead of it.
    fn metadata(&self, role: &str, content: Option<Bytes>) -> Option<Bytes> {
        let attack = self.now_attacking();
        let mut metadata = self.metadata.lock().unwrap();
        let passed = metadata.entry(role.to_owned()).or_default();
        let bend = match attack {
            Attack::Metadata(of, bend) if of == role => bend,
            _ => {
                if let Some(content) = &content
                    && passed.last() != Some(content)
                {
                    passed.push(content.clone());
                }
                return content;
            }
        };
        self.count();
        let content = content?;
        match bend {
            Bend::Freeze => passed.last().cloned(),
            Bend::Swap => passed.first().cloned(),
            Bend::Withhold => None,
            Bend::Flood => Some(vec![b' '; LONG].into()),
            Bend::Oversize => Some(vec![b' '; OVERSIZED].into()),
            bend => Some(bent(bend, &content)),
        }
    }

    /// What passes in place of one blob from its `offset` on.
    fn blob(&self, bend: Bend, digest: &Digest, content: &Bytes, offset: usize) -> Bytes {
        match bend {
            Bend::Swap => {
                let blobs = self.blobs.lock().unwrap();
                let other = blobs.iter().find(|(other, _)| *other != digest);
                let other = other.map_or_else(|| Bytes::from_static(b"another"), |(_, blob)| blob.clone());
                other.slice(offset.min(other.len())..)
            }
            bend => bent(bend, content),
        }
    }
}

fn bent(bend: Bend, content: &Bytes) -> Bytes {
    let mut bytes = content.to_vec();
    match bend {
        Bend::Alter => {
            let middle = bytes.len() / 2;
            if let Some(byte) = bytes.get_mut(middle) {
                *byte ^= 1;
            }
        }
        Bend::Truncate | Bend::CutOff => bytes.truncate(content.len() / 2),
        Bend::Lengthen => bytes.push(0),
        _ => {}
    }
    bytes.into()
}

fn peer<T>(request: &Request<T>) -> Option<Arc<PeerIdentity>> {
    request.extensions().get::<Arc<PeerIdentity>>().cloned()
}

/// The relay's side of `Upstream`.
#[derive(Clone, Debug)]
struct Service(Arc<Shared>);

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl upstream_server::Upstream for Service {
    async fn get_metadata(
        &self,
        request: Request<v1::GetMetadataRequest>,
    ) -> Result<Response<v1::GetMetadataResponse>, Status> {
        self.0.metadata_asked.fetch_add(1, Ordering::SeqCst);
        let request = request.into_inner();
        let role = request.role.clone();
        let answer = self.0.client.clone().get_metadata(request).await?.into_inner();
        let content = self.0.metadata(&role, answer.content.map(Bytes::from));
        Ok(Response::new(v1::GetMetadataResponse { content: content.map(Vec::from) }))
    }

    type FetchBlobsStream = Boxed<v1::BlobChunk>;

    async fn fetch_blobs(
        &self,
        request: Request<v1::FetchBlobsRequest>,
    ) -> Result<Response<Self::FetchBlobsStream>, Status> {
        let request = request.into_inner();
        let asked: Vec<(Digest, usize)> = request
            .blobs
            .iter()
            .map(|blob| (blob.digest.as_slice().try_into().unwrap(), usize::try_from(blob.offset).unwrap()))
            .collect();
        for (digest, _) in &asked {
            *self.0.asked.lock().unwrap().entry(*digest).or_default() += 1;
        }
        let mut found = vec![(Bytes::new(), v1::BlobEnd::Absent); asked.len()];
        let mut passing = self.0.client.clone().fetch_blobs(request).await?.into_inner();
        while let Some(chunk) = passing.message().await? {
            let end = chunk.end();
            let (bytes, ended) = &mut found[usize::try_from(chunk.index).unwrap()];
            *bytes = [bytes.as_ref(), &chunk.data].concat().into();
            *ended = end;
        }
        let payloads = self.0.payloads.lock().unwrap().clone();
        let attack = self.0.now_attacking();
        let mut chunks = Vec::new();
        for (index, ((digest, offset), (bytes, end))) in asked.iter().zip(&found).enumerate() {
            let index = u32::try_from(index).unwrap();
            let bend = match attack {
                Attack::Nodes(bend) if !payloads.contains(digest) => Some(bend),
                Attack::Payloads(bend) if payloads.contains(digest) => Some(bend),
                _ => None,
            };
            let Some(bend) = bend else {
                if *offset == 0 && *end == v1::BlobEnd::Complete {
                    self.0.blobs.lock().unwrap().insert(*digest, bytes.clone());
                }
                chunks.extend(cut(index, bytes, *end));
                continue;
            };
            self.0.count();
            match bend {
                Bend::Withhold => chunks.push(chunk(index, Bytes::new(), v1::BlobEnd::Absent)),
                Bend::Reorder => chunks.extend(cut(index + 1, bytes, *end)),
                Bend::Oversize => {
                    chunks.push(chunk(index, vec![0; 4 * CHUNK_BYTES].into(), v1::BlobEnd::Unspecified));
                }
                Bend::CutOff => {
                    chunks.extend(cut(index, &bent(bend, bytes), v1::BlobEnd::Unspecified));
                    break;
                }
                Bend::Flood => {
                    let endless = chunk(index, vec![7; CHUNK_BYTES].into(), v1::BlobEnd::Unspecified);
                    let endless = stream::repeat_with(move || Ok(endless.clone()));
                    return Ok(Response::new(Box::pin(stream::iter(chunks).map(Ok).chain(endless))));
                }
                bend => chunks.extend(cut(index, &self.0.blob(bend, digest, bytes, *offset), *end)),
            }
        }
        Ok(Response::new(Box::pin(stream::iter(chunks).map(Ok))))
    }

    async fn lease(&self, request: Request<v1::LeaseRequest>) -> Result<Response<v1::LeaseResponse>, Status> {
        self.0.client.clone().lease(request.into_inner()).await
    }

    async fn check_in(
        &self,
        request: Request<v1::CheckInRequest>,
    ) -> Result<Response<v1::CheckInResponse>, Status> {
        self.0.check_ins.fetch_add(1, Ordering::SeqCst);
        let peer = peer(&request).unwrap();
        let mut message = request.into_inner();
        let has = message.timestamp_version;
        // All of it, to have something to bend.
        message.timestamp_version = 0;
        let mut answer = self.0.client.clone().check_in(message).await?.into_inner();
        answer.resync |= answer.resync_endpoints.contains(&peer.holder.id);
        answer.resync_endpoints.clear();
        let timestamp = self.0.metadata("timestamp", answer.timestamp.map(Bytes::from));
        let attack = self.0.now_attacking();
        answer.timestamp = match attack {
            // Whoever has the last one is told that there is none newer.
            Attack::Metadata("timestamp", Bend::Freeze | Bend::Withhold) => None,
            Attack::Metadata("timestamp", _) => timestamp,
            _ => timestamp.filter(|_| answer.timestamp_version > has),
        }
        .map(Vec::from);
        // Of a root, and of what is withheld or long, it says nothing: it is asked for it.
        match attack {
            Attack::Metadata("root", _) => answer.root_version = 0,
            Attack::Metadata(_, Bend::Withhold | Bend::Flood | Bend::Oversize) => answer.along.clear(),
            _ => {
                for metadata in &mut answer.along {
                    let content = self.0.metadata(&metadata.role, Some(metadata.content.clone().into()));
                    metadata.content = content.map(Vec::from).unwrap_or_default();
                }
            }
        }
        if attack == Attack::AskForEverything {
            self.0.count();
            answer.resync = true;
        }
        Ok(Response::new(answer))
    }

    async fn submit_reports(
        &self,
        request: Request<v1::SubmitReportsRequest>,
    ) -> Result<Response<v1::SubmitReportsResponse>, Status> {
        let envelopes = request.into_inner().envelopes;
        let count = envelopes.len();
        let before = {
            let mut passed = self.0.envelopes.lock().unwrap();
            let before = passed.clone();
            passed.extend(envelopes.iter().cloned());
            before
        };
        let Attack::Reports(meddle) = self.0.now_attacking() else {
            return self.0.client.clone().submit_reports(v1::SubmitReportsRequest { envelopes }).await;
        };
        self.0.count();
        let each = |bend: &dyn Fn(&Envelope) -> Vec<u8>| -> Vec<Bytes> {
            envelopes.iter().map(|bytes| bend(&Envelope::parse(bytes).unwrap()).into()).collect()
        };
        let sent: Vec<Bytes> = match &meddle {
            Meddle::Drop | Meddle::Refuse => Vec::new(),
            Meddle::DropInventories => envelopes
                .iter()
                .filter(|bytes| {
                    let envelope = Envelope::parse(bytes).unwrap();
                    envelope.header().stream == tierway_common::trust::envelope::Stream::States
                })
                .cloned()
                .collect(),
            Meddle::AlterBody => each(&|envelope| {
                let mut bytes = envelope.bytes().to_vec();
                let at = bytes.len() - 70;
                bytes[at] ^= 1;
                bytes
            }),
            Meddle::AlterSequence => each(&|envelope| {
                let mut bytes = envelope.bytes().to_vec();
                let Header { tenant, endpoint, .. } = envelope.header();
                let last = 4 + 1 + 2 + tenant.as_str().len() + 2 + endpoint.as_str().len() + 1 + 7;
                bytes[last] = bytes[last].wrapping_add(50);
                bytes
            }),
            Meddle::Rename(other) => each(&|envelope| {
                let text = envelope.header().endpoint.as_str().as_bytes();
                let mut bytes = envelope.bytes().to_vec();
                let at = bytes.windows(text.len()).position(|window| window == text).unwrap();
                bytes[at..at + text.len()].copy_from_slice(other.as_bytes());
                bytes
            }),
            Meddle::Duplicate => [&envelopes[..], &envelopes[..]].concat(),
            Meddle::Replay => [&envelopes[..], &before[..]].concat(),
            Meddle::Reorder => envelopes.iter().rev().cloned().collect(),
            Meddle::Forge { endpoint, update } => {
                let mut sent = envelopes.clone();
                sent.push(forged(&envelopes[0], endpoint, update, self.0.now));
                sent
            }
            Meddle::Garbage => {
                let mut sent = envelopes.clone();
                sent.extend((0..GARBAGE).map(|n| Bytes::from(vec![u8::try_from(n % 251).unwrap(); n])));
                sent
            }
        };
        let acknowledged = match &meddle {
            Meddle::Refuse => v1::ReportOutcome::Refused,
            _ => v1::ReportOutcome::Accepted,
        };
        let (mut outcomes, mut resync_endpoints) = (vec![acknowledged.into(); count], Vec::new());
        if !sent.is_empty() {
            let request = v1::SubmitReportsRequest { envelopes: sent };
            let answer = self.0.client.clone().submit_reports(request).await?.into_inner();
            resync_endpoints = answer.resync_endpoints.clone();
            let made_up = match meddle {
                Meddle::Forge { .. } | Meddle::Garbage => count,
                _ => 0,
            };
            self.0.answers.lock().unwrap().extend(
                answer.outcomes[made_up..]
                    .iter()
                    .map(|outcome| v1::ReportOutcome::try_from(*outcome).unwrap()),
            );
            if made_up > 0 {
                outcomes = answer.outcomes[..count].to_vec();
            }
        }
        Ok(Response::new(v1::SubmitReportsResponse { outcomes, resync_endpoints }))
    }

    type WatchStream = Boxed<v1::Notice>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let peer = peer(&request).unwrap();
        if self.0.now_attacking() == Attack::CallWithoutEnd {
            let shared = self.0.clone();
            let calls = stream::repeat_with(move || {
                let number = shared.notices.fetch_add(1, Ordering::SeqCst);
                let order = |endpoints| {
                    let (report_inventory, include_roaming, include_offline) = (true, true, true);
                    let crowd = false;
                    v1::CheckNow { endpoints, report_inventory, include_roaming, include_offline, crowd }
                };
                let own = peer.holder.id.clone();
                let named = shared.named.lock().unwrap().clone();
                // A long one is as long as sixty others: they come now and then, or the stream is full of them.
                let kind = match if number % 60 < 6 { number % 60 } else { number % 3 } {
                    0 => Kind::CheckNow(order(vec![named.unwrap_or(own)])),
                    1 => Kind::Resync(named.unwrap_or(own)),
                    // Newer than anything there will ever be.
                    2 => Kind::Published(u64::MAX),
                    3 => Kind::CheckNow(order((0..1_024).map(|n| format!("{number}-{n}")).collect())),
                    // More than may be named, and what is no name.
                    4 => Kind::CheckNow(order((0..2_000).map(|n| format!("{n}")).collect())),
                    _ => Kind::Resync("../../etc/passwd".to_owned()),
                };
                // Ids that come again and again, and such as nobody gave.
                let id = if number.is_multiple_of(2) { number % 8 } else { number };
                Ok(v1::Notice { id, kind: Some(kind) })
            });
            return Ok(Response::new(Box::pin(calls)));
        }
        let passing = self.0.client.clone().watch(request.into_inner()).await?.into_inner();
        Ok(Response::new(Box::pin(passing)))
    }

    async fn enroll(
        &self,
        request: Request<v1::EnrollRequest>,
    ) -> Result<Response<v1::EnrollResponse>, Status> {
        let request = request.into_inner();
        let attack = self.0.now_attacking();
        if attack == Attack::UseToken {
            self.0.count();
            let own = Applicant::new().unwrap();
            let stolen = v1::EnrollRequest { csr_der: own.csr_der().to_vec(), ..request.clone() };
            let outcome = self.0.client.clone().enroll(stolen).await.map(drop);
            self.0.stolen.lock().unwrap().push(outcome);
        }
        let asked = request.csr_der.clone();
        let mut answer = self.0.client.clone().enroll(request).await?.into_inner();
        match attack {
            Attack::OtherRootMetadata => {
                self.0.count();
                answer.root_metadata = bent(Bend::Alter, &answer.root_metadata.into()).into();
            }
            Attack::OwnCertificate => {
                self.0.count();
                answer.certificate_chain[0] = self.0.identity.own().certificate.to_vec();
            }
            Attack::ForgedCertificate => {
                self.0.count();
                let genuine = PeerIdentity::read(&answer.certificate_chain[0].as_slice().into()).unwrap();
                answer.certificate_chain[0] = self.forged_chain(&genuine, &asked)[0].clone();
            }
            _ => {}
        }
        Ok(Response::new(answer))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        let peer = peer(&request).unwrap();
        let mut request = request.into_inner();
        if self.0.now_attacking() == Attack::OwnAuthority {
            self.0.count();
            let certificate_chain = self.forged_chain(&peer, &request.csr_der);
            return Ok(Response::new(v1::RenewResponse { certificate_chain }));
        }
        if peer.holder.role != Role::Relay || request.certificate_der.is_empty() {
            request.certificate_der = peer.certificate.to_vec();
        }
        self.0.client.clone().renew(request).await
    }
}

impl Service {
    /// A chain for the key of `csr_der` in the name of `genuine`, by this relay's own authority.
    fn forged_chain(&self, genuine: &PeerIdentity, csr_der: &[u8]) -> Vec<Vec<u8>> {
        let key = ca::requested_key(csr_der).unwrap();
        let random = SystemRandom::new();
        self.0.authority.issue(&genuine.holder, key, self.0.now, &random).unwrap().chain
    }
}

fn chunk(index: u32, data: Bytes, end: v1::BlobEnd) -> v1::BlobChunk {
    v1::BlobChunk { index, data, end: end.into() }
}

/// As many chunks as the bytes need, the last with `end`.
fn cut(index: u32, bytes: &Bytes, end: v1::BlobEnd) -> Vec<v1::BlobChunk> {
    let mut chunks: Vec<_> = bytes
        .chunks(CHUNK_BYTES)
        .map(|data| chunk(index, Bytes::copy_from_slice(data), v1::BlobEnd::Unspecified))
        .collect();
    match chunks.last_mut() {
        Some(last) => last.end = end.into(),
        None => chunks.push(chunk(index, Bytes::new(), end)),
    }
    chunks
}

/// A report that `update` is installed, in the name of `endpoint` and by a key of this relay's own; numbered
/// far ahead of `like`, so that the endpoint's own would count as old.
fn forged(like: &Bytes, endpoint: &str, update: &str, now: Timestamp) -> Bytes {
    let like = Envelope::parse(like).unwrap();
    let entry = StateEntry {
        update: update.parse().unwrap(),
        state: State::Installed,
        at: now,
        detected: Some(now),
        applied: Some(now),
        detail: None,
        progress: Default::default(),
    };
    let report = Report::States { snapshot: true, entries: vec![entry] };
    let header = Header {
        endpoint: endpoint.parse().unwrap(),
        stream: tierway_common::trust::envelope::Stream::States,
        sequence: 1_000_000,
        ..like.header().clone()
    };
    let key = SigningKey::generate(&SystemRandom::new()).unwrap();
    Envelope::seal(&key, header, &report).unwrap().bytes().clone()
}
