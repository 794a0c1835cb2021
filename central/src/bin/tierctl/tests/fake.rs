//! A central on loopback that answers from a small fixed fleet and keeps what it was asked.
//!
//! Names make it refuse: `forbidden` is denied, `missing` is not found.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use futures_util::stream;
use tierway_proto::v1::{
    self,
    admin_server::{Admin, AdminServer},
    packages_server::PackagesServer,
    policies_server::PoliciesServer,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint, Server},
};

/// 2026-09-21 14:13:20 UTC, when all tests take place.
pub(crate) const NOW_MS: i64 = 1_790_000_000_000;
const MINUTE: i64 = 60_000;

#[derive(Clone, Debug, Default)]
pub(crate) struct Fake {
    /// Requests in the order in which they came, as `Debug` shows them.
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
    /// The answer to `GetStatus` instead of the small fleet's.
    pub(crate) status: Arc<Mutex<Option<v1::FleetStatus>>>,
    /// After so many answers to `GetStatus` it is unavailable; 0 for never.
    pub(crate) status_answers: u64,
    pub(crate) given: Arc<AtomicU64>,
    /// The audit log is broken here.
    pub(crate) broken_at: Option<String>,
}

type Streamed<T> = stream::Iter<std::vec::IntoIter<Result<T, Status>>>;

fn endpoints_part(request: &v1::ListEndpointsRequest, after: &str) -> v1::ListEndpointsResponse {
    let (numbers, next) = match after {
        "" => ([1, 2].as_slice(), "web-02"),
        "web-02" if request.name.as_deref() == Some("looping") => ([1].as_slice(), "web-02"),
        _ => ([3].as_slice(), ""),
    };
    let endpoints = numbers.iter().map(|number| endpoint(*number)).collect();
    v1::ListEndpointsResponse { endpoints, next: next.into() }
}

/// `everywhere` and `torn` are on so many endpoints that they come in three parts.
fn patch_endpoints_part(patch: &str, after: &str) -> v1::ListPatchEndpointsResponse {
    let (numbers, next) = match (patch, after) {
        ("everywhere" | "torn", "") => (1..1_001, "1000:web-1000"),
        ("everywhere" | "torn", "1000:web-1000") => (1_001..2_001, "2000:web-2000"),
        ("everywhere" | "torn", _) => (2_001..2_501, ""),
        _ => (1..2, ""),
    };
    let endpoints = numbers.map(|number| v1::PatchEndpoint {
        endpoint: format!("id-{number}"),
        name: format!("web-{number:02}"),
        site: "osaka".into(),
        state: "failed".into(),
        times: times(),
        detail: "dpkg is locked".into(),
        standing: Some(standing()),
    });
    v1::ListPatchEndpointsResponse { endpoints: endpoints.collect(), next: next.into() }
}

impl Fake {
    /// Serves until the runtime ends.
    pub(crate) async fn serve(&self) -> Channel {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::builder()
            .add_service(AdminServer::new(self.clone()))
            .add_service(PoliciesServer::new(self.clone()))
            .add_service(PackagesServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy()
    }

    pub(super) fn note<T: std::fmt::Debug>(&self, request: Request<T>) -> Result<T, Status> {
        let message = request.into_inner();
        let text = format!("{message:?}");
        self.asked.lock().unwrap().push(text.clone());
        if text.contains("\"forbidden\"") {
            return Err(Status::permission_denied("operator `ana` may not"));
        }
        if text.contains("\"missing\"") {
            return Err(Status::not_found("there is no `missing`"));
        }
        Ok(message)
    }

    pub(super) fn change(&self) -> Result<Response<v1::Change>, Status> {
        Ok(Response::new(v1::Change { audit_sequence: 341 }))
    }
}

pub(crate) fn status() -> v1::FleetStatus {
    v1::FleetStatus {
        endpoints: 2_400,
        reporting: 2_350,
        stale: 40,
        lost: 10,
        compliant: 2_276,
        assessed: 2_399,
        needed: 1_204,
        needed_approved: 1_100,
        installed: 40_211,
        failed: 3,
        unknown: 1,
        reboot_pending: 12,
        dictionary_version: 77,
        dictionary_at: NOW_MS - 125 * MINUTE,
        sites: vec![
            v1::SiteStatus {
                site: "osaka".into(),
                endpoints: 2_000,
                compliant: 1_990,
                needed: 18,
                relays: 2,
                relays_fresh: 2,
            },
            v1::SiteStatus {
                site: "lyon".into(),
                endpoints: 400,
                compliant: 286,
                needed: 1_186,
                relays: 2,
                relays_fresh: 1,
            },
        ],
        groups: vec![v1::GroupStatus {
            group: "everyone".into(),
            endpoints: 2_400,
            compliant: 2_276,
            needed: 1_204,
            failed: 3,
        }],
        updates: 17_423,
        progress: vec![
            v1::NamedCount { name: "waiting for a window".into(), count: 1_010 },
            v1::NamedCount { name: "downloaded".into(), count: 1_015 },
        ],
    }
}

/// What a patch that waits at its relay looks like.
fn standing() -> v1::Standing {
    let step = |name: &str, minutes: i64, source: &str, reason: &str| v1::Step {
        name: name.into(),
        at: if minutes == 0 { 0 } else { NOW_MS - minutes * MINUTE },
        source: source.into(),
        reason: reason.into(),
    };
    v1::Standing {
        name: "at relay".into(),
        since: NOW_MS - 170 * MINUTE,
        until: 0,
        source: "relay osaka-a".into(),
        heard: NOW_MS - 4 * MINUTE,
        detail: "\u{1b}[2Jthe endpoint went by version 76 of 77".into(),
        steps: vec![
            step("detected", 300, "endpoint", ""),
            step("approved", 200, "central", ""),
            step("published", 199, "central", ""),
            step("at relay", 170, "relay osaka-a", ""),
            step("offered", 0, "endpoint", "the endpoint went by version 76 of 77 when it reported"),
            step("downloaded", 0, "endpoint", "it is not on offer"),
            step("applied", 0, "endpoint", "it is not on offer"),
            step("verified", 0, "endpoint", "it is not installed"),
        ],
    }
}

fn endpoint(number: u64) -> v1::Endpoint {
    v1::Endpoint {
        id: format!("id-{number}"),
        name: format!("web-{number:02}"),
        site: "osaka".into(),
        os: "debian 12".into(),
        agent_version: "0.1.0".into(),
        enrolled_at: NOW_MS - 90_000 * MINUTE,
        last_report: if number == 3 { 0 } else { NOW_MS - 12 * MINUTE },
        needed: [0, 4, 1_204, 0][usize::try_from(number % 4).unwrap()],
        needed_approved: 1,
        installed: 31,
        failed: u64::from(number == 2),
        unknown: 0,
        revoked: false,
        reboot_pending: number == 1,
        groups: vec!["everyone".into(), "web".into()],
        zone: "Asia/Tokyo".into(),
    }
}

fn times() -> Option<v1::PatchTimes> {
    Some(v1::PatchTimes { detected: NOW_MS - 300 * MINUTE, authorized: NOW_MS - 200 * MINUTE, applied: 0 })
}

fn patch() -> v1::Patch {
    v1::Patch {
        id: "debian-12/openssl_3.0.17-1".into(),
        title: "openssl, security update".into(),
        severity: "critical".into(),
        catalogue: "debian-12".into(),
        known_since: NOW_MS - 3_000 * MINUTE,
        endpoints_needed: 4,
        endpoints_installed: 31,
        endpoints_failed: 1,
        endpoints_unknown: 0,
        approved: vec!["everyone".into()],
        declined: vec![],
        payload_bytes: 5_300_000,
        payloads: "complete".into(),
        superseded_by: vec![],
    }
}

type Stream = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<v1::Progress, Status>> + Send>>;

fn progress(end: Option<Status>) -> Response<Stream> {
    let step = |step: &str, done, total, unit: &str| {
        Ok(v1::Progress { step: step.into(), done, total, unit: unit.into() })
    };
    let mut steps = vec![
        step("InRelease", 0, 0, "bytes"),
        step("InRelease", 55_296, 0, "bytes"),
        step("updates", 0, 1_000, "documents"),
        step("updates", 50, 1_000, "documents"),
        step("updates", 100, 1_000, "documents"),
        step("updates", 1_000, 1_000, "documents"),
    ];
    steps.extend(end.map(Err));
    Response::new(Box::pin(tokio_stream::iter(steps)))
}

#[tonic::async_trait]
impl Admin for Fake {
    async fn get_status(
        &self,
        r: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::FleetStatus>, Status> {
        self.note(r)?;
        if self.status_answers > 0 && self.given.fetch_add(1, Ordering::SeqCst) >= self.status_answers {
            return Err(Status::unavailable("central is stopping"));
        }
        Ok(Response::new(self.status.lock().unwrap().clone().unwrap_or_else(status)))
    }

    async fn why(&self, r: Request<v1::WhyRequest>) -> Result<Response<v1::WhyResponse>, Status> {
        let v1::WhyRequest { endpoint, patch } = self.note(r)?;
        Ok(Response::new(super::explanation(endpoint, patch)))
    }

    async fn list_endpoints(
        &self,
        r: Request<v1::ListEndpointsRequest>,
    ) -> Result<Response<v1::ListEndpointsResponse>, Status> {
        let request = self.note(r)?;
        Ok(Response::new(endpoints_part(&request, &request.after)))
    }

    type StreamEndpointsStream = Streamed<v1::ListEndpointsResponse>;

    async fn stream_endpoints(
        &self,
        r: Request<v1::ListEndpointsRequest>,
    ) -> Result<Response<Self::StreamEndpointsStream>, Status> {
        let request = self.note(r)?;
        let parts = ["", "web-02"].map(|after| Ok(endpoints_part(&request, after)));
        Ok(Response::new(stream::iter(Vec::from(parts))))
    }

    async fn get_endpoint(
        &self,
        r: Request<v1::GetEndpointRequest>,
    ) -> Result<Response<v1::EndpointDetail>, Status> {
        let v1::GetEndpointRequest { name_or_id } = self.note(r)?;
        // Of which nothing is known yet.
        let facts_digest = if name_or_id == "web-03" { "" } else { "ab12" };
        Ok(Response::new(v1::EndpointDetail {
            endpoint: Some(endpoint(1)),
            patches: vec![v1::EndpointPatch {
                patch: "debian-12/openssl_3.0.17-1".into(),
                title: "openssl, security update".into(),
                severity: "critical".into(),
                state: "needed".into(),
                approved: true,
                times: times(),
                detail: "\u{1b}[2Jdpkg is locked".into(),
                standing: Some(standing()),
            }],
            facts_digest: facts_digest.into(),
            packages: 412,
            problems: vec!["could not read `/etc/os-release`".into()],
            certificate_expires: NOW_MS + 30 * 1440 * MINUTE,
            tags: vec!["env=prod".into()],
            managers: vec![
                "unattended-upgrades: installs updates, by `APT::Periodic::Unattended-Upgrade`".to_owned(),
            ],
            settings: vec![
                v1::Setting {
                    name: "deadline".into(),
                    value: "\"1day\"".into(),
                    origin: "level `servers` of group `web`".into(),
                },
                v1::Setting { name: "grace".into(), value: "\"0s\"".into(), origin: "built in".into() },
            ],
        }))
    }

    async fn check_endpoint_now(
        &self,
        r: Request<v1::CheckEndpointNowRequest>,
    ) -> Result<Response<v1::CheckEndpointNowResponse>, Status> {
        self.note(r)?;
        let v1::Change { audit_sequence } = self.change()?.into_inner();
        Ok(Response::new(v1::CheckEndpointNowResponse { audit_sequence, endpoints: 37 }))
    }

    async fn tag_endpoint(&self, r: Request<v1::TagEndpointRequest>) -> Result<Response<v1::Change>, Status> {
        self.note(r)?;
        self.change()
    }

    async fn revoke_endpoint(
        &self,
        r: Request<v1::RevokeEndpointRequest>,
    ) -> Result<Response<v1::Change>, Status> {
        self.note(r)?;
        self.change()
    }

    async fn revoke_relay(&self, r: Request<v1::RevokeRelayRequest>) -> Result<Response<v1::Change>, Status> {
        self.note(r)?;
        self.change()
    }

    async fn list_operators(
        &self,
        r: Request<v1::ListOperatorsRequest>,
    ) -> Result<Response<v1::ListOperatorsResponse>, Status> {
        self.note(r)?;
        let ana = v1::Operator {
            name: "ana".into(),
            site: "central".into(),
            certificates: 2,
            serial: "5f00aa".into(),
            issued: NOW_MS - 300 * MINUTE,
            expires: NOW_MS + 365 * 24 * 60 * MINUTE,
        };
        Ok(Response::new(v1::ListOperatorsResponse { operators: vec![ana] }))
    }

    async fn revoke_operator(
        &self,
        r: Request<v1::RevokeOperatorRequest>,
    ) -> Result<Response<v1::Change>, Status> {
        self.note(r)?;
        self.change()
    }

    async fn create_token(
        &self,
        r: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        self.note(r)?;
        Ok(Response::new(v1::CreateTokenResponse {
            token: "twy1_abc".into(),
            expires: NOW_MS + 1440 * MINUTE,
            audit_sequence: 341,
        }))
    }

    async fn list_patches(
        &self,
        r: Request<v1::ListPatchesRequest>,
    ) -> Result<Response<v1::ListPatchesResponse>, Status> {
        self.note(r)?;
        Ok(Response::new(v1::ListPatchesResponse { patches: vec![patch()], next: String::new() }))
    }

    async fn get_patch(&self, r: Request<v1::GetPatchRequest>) -> Result<Response<v1::PatchDetail>, Status> {
        let v1::GetPatchRequest { name_or_id } = self.note(r)?;
        let (id, superseded_by) = match name_or_id.as_str() {
            "zlib" => ("debian-12/zlib_1.2.13", vec![]),
            "zlib_1.2.12" => ("debian-12/zlib_1.2.12", vec!["debian-12/zlib_1.2.13".into()]),
            _ => ("debian-12/openssl_3.0.17-1", vec![]),
        };
        Ok(Response::new(v1::PatchDetail {
            patch: Some(v1::Patch { id: id.into(), superseded_by, ..patch() }),
            document_json: r#"{"id":"debian-12/openssl_3.0.17-1"}"#.into(),
            references: vec!["DSA-1".into(), "CVE-2026-1".into()],
            supersedes: vec!["debian-12/openssl_3.0.16-1".into()],
            timing: vec![
                v1::ClassTiming { class: String::new(), samples: 310, p95_ms: 95_000, published_ms: 92_000 },
                v1::ClassTiming { class: "c2m3".into(), samples: 208, p95_ms: 41_000, published_ms: 0 },
            ],
        }))
    }

    async fn decide_patches(
        &self,
        r: Request<v1::DecidePatchesRequest>,
    ) -> Result<Response<v1::DecidePatchesResponse>, Status> {
        let request = self.note(r)?;
        let patches = if request.all_needed {
            vec![patch().id, "debian-12/zlib_1.3-2".into()]
        } else {
            request.patches
        };
        Ok(Response::new(v1::DecidePatchesResponse { audit_sequence: 341, patches }))
    }

    async fn list_patch_endpoints(
        &self,
        r: Request<v1::ListPatchEndpointsRequest>,
    ) -> Result<Response<v1::ListPatchEndpointsResponse>, Status> {
        let request = self.note(r)?;
        Ok(Response::new(patch_endpoints_part(&request.patch, &request.after)))
    }

    type StreamPatchEndpointsStream = Streamed<v1::ListPatchEndpointsResponse>;

    /// Of `everywhere` the stream ends early, of `torn` with an error, each after two of three parts; of `closed` it has none.
    async fn stream_patch_endpoints(
        &self,
        r: Request<v1::ListPatchEndpointsRequest>,
    ) -> Result<Response<Self::StreamPatchEndpointsStream>, Status> {
        let v1::ListPatchEndpointsRequest { patch, after, .. } = self.note(r)?;
        let part = |after| Ok(patch_endpoints_part(&patch, after));
        let gone = || Err(Status::unavailable("central is stopping"));
        let parts = match (patch.as_str(), after.as_str()) {
            ("everywhere", "") => vec![part(""), part("1000:web-1000")],
            ("torn", "") => vec![part(""), part("1000:web-1000"), gone()],
            ("closed", _) => vec![gone()],
            ("silent", _) => Vec::new(),
            (_, after) => vec![part(after)],
        };
        Ok(Response::new(stream::iter(parts)))
    }

    async fn plan_approval(
        &self,
        r: Request<v1::PlanApprovalRequest>,
    ) -> Result<Response<v1::PlanApprovalResponse>, Status> {
        self.note(r)?;
        let fill = |opens: i64, endpoints: u64, carried_over: u64| v1::WindowFill {
            window: "db-sunday".into(),
            zones: vec!["Asia/Tokyo".into()],
            opens: NOW_MS + opens * MINUTE,
            closes: NOW_MS + (opens + 120) * MINUTE,
            endpoints,
            used_ms: endpoints * 1_800_000,
            available_ms: 14_400_000,
            carried_over,
        };
        let link = |site: &str, bytes| v1::SiteLink { site: site.into(), endpoints: 6, payloads: 2, bytes };
        Ok(Response::new(v1::PlanApprovalResponse {
            plan: "9f2c01d4e5b6a718".into(),
            patches: vec![patch().id],
            endpoints: 12,
            installations: 12,
            reboots: 3,
            finish: NOW_MS + 10_200 * MINUTE,
            late: 1,
            links: vec![link("lyon", 5_300_000), link("osaka", 0)],
            fills: vec![fill(600, 7, 4), fill(10_080, 4, 0)],
            unfinished: vec![v1::Unfinished {
                endpoint: "id-9".into(),
                name: "db-09".into(),
                reason: "it does not fit into the openings of its windows".into(),
            }],
            unfinished_count: 1,
        }))
    }

    async fn apply_plan(
        &self,
        r: Request<v1::ApplyPlanRequest>,
    ) -> Result<Response<v1::ApplyPlanResponse>, Status> {
        let request = self.note(r)?;
        let drift = match request.plan.as_str() {
            "old" => vec!["window db-sunday: 77aa, planned with 12ef".to_owned()],
            _ => Vec::new(),
        };
        let patches = if drift.is_empty() { vec![patch().id] } else { Vec::new() };
        Ok(Response::new(v1::ApplyPlanResponse { audit_sequence: 341, patches, drift }))
    }

    async fn time_to_patch(
        &self,
        r: Request<v1::TimeToPatchRequest>,
    ) -> Result<Response<v1::TimeToPatchResponse>, Status> {
        let request = self.note(r)?;
        let keys = if request.by.is_empty() { ["all"].as_slice() } else { &["critical", "important"] };
        let line = |key: &&str, span: &str, hours: u64| v1::TimeLine {
            key: (*key).into(),
            span: span.into(),
            count: 1_200,
            p50_ms: hours * 3_600_000,
            p90_ms: hours * 9_000_000,
            p99_ms: hours * 90_000_000,
        };
        let lines = keys
            .iter()
            .flat_map(|key| [line(key, "detected to authorized", 1), line(key, "detected to applied", 6)]);
        let curves = keys.iter().map(|key| v1::TimeCurve {
            key: (*key).into(),
            patched: 1_200,
            open: 34,
            points: vec![
                v1::CurvePoint { after_ms: 21_600_000, patched: 600 },
                v1::CurvePoint { after_ms: 540_000_000, patched: 1_200 },
            ],
        });
        let (lines, curves) = (lines.collect(), curves.collect());
        Ok(Response::new(v1::TimeToPatchResponse { lines, curves, left_out: 3 }))
    }

    async fn list_leases(
        &self,
        r: Request<v1::ListLeasesRequest>,
    ) -> Result<Response<v1::ListLeasesResponse>, Status> {
        self.note(r)?;
        let lease = |endpoint: &str, name: &str, begun: i64| v1::Lease {
            window: "db-sunday".into(),
            endpoint: endpoint.into(),
            name: name.into(),
            site: "osaka".into(),
            since: NOW_MS - begun * MINUTE,
            until: NOW_MS + 50 * MINUTE,
        };
        let leases = vec![lease("id-1", "db-01", 10), lease("id-7", "db-07", 2)];
        Ok(Response::new(v1::ListLeasesResponse { leases }))
    }

    async fn list_relays(
        &self,
        r: Request<v1::ListRelaysRequest>,
    ) -> Result<Response<v1::ListRelaysResponse>, Status> {
        self.note(r)?;
        let relay = |id: &str, name: &str| v1::Relay {
            id: id.into(),
            name: name.into(),
            site: "osaka".into(),
            agent_version: "0.1.0".into(),
            last_seen: NOW_MS - 4 * MINUTE,
            timestamp_version: 77,
            blob_bytes: 1 << 30,
            blob_bytes_quota: 50 << 30,
            outbox_reports: 2,
            outbox_oldest: NOW_MS - MINUTE,
            endpoints_connected: 120,
            endpoints_seen: 130,
            enrolled_at: NOW_MS - 90_000 * MINUTE,
            revoked: false,
        };
        let relays = vec![relay("r-1", "relay-a"), relay("r-2", "twin"), relay("r-3", "twin")];
        Ok(Response::new(v1::ListRelaysResponse { relays }))
    }

    async fn list_groups(
        &self,
        r: Request<v1::ListGroupsRequest>,
    ) -> Result<Response<v1::ListGroupsResponse>, Status> {
        let v1::ListGroupsRequest { name, limit: _, after } = self.note(r)?;
        let mut groups = vec![
            v1::Group { name: "everyone".into(), everyone: true, members: 2_400, ..Default::default() },
            v1::Group {
                name: "web".into(),
                priority: 10,
                endpoints: vec!["web-01".into(), "web-02".into()],
                members: 2,
                level: Some("servers".into()),
                ..Default::default()
            },
        ];
        // Each comes in a part of its own.
        groups.retain(|group| name.as_ref().map_or(group.name > after, |name| *name == group.name));
        let next = if groups.len() > 1 { groups[0].name.clone() } else { String::new() };
        groups.truncate(1);
        Ok(Response::new(v1::ListGroupsResponse { groups, next }))
    }

    async fn set_group(&self, r: Request<v1::SetGroupRequest>) -> Result<Response<v1::Change>, Status> {
        self.note(r)?;
        self.change()
    }

    async fn delete_group(&self, r: Request<v1::DeleteGroupRequest>) -> Result<Response<v1::Change>, Status> {
        self.note(r)?;
        self.change()
    }

    async fn list_auto_approvals(
        &self,
        r: Request<v1::ListAutoApprovalsRequest>,
    ) -> Result<Response<v1::ListAutoApprovalsResponse>, Status> {
        self.note(r)?;
        let rules = vec![v1::AutoApproval {
            name: "security-14d".into(),
            group: "everyone".into(),
            catalogue: Some("debian-12".into()),
            severity_at_least: Some("important".into()),
            matching: None,
            age_at_least_seconds: 14 * 86_400,
            rings: None,
        }];
        Ok(Response::new(v1::ListAutoApprovalsResponse { rules }))
    }

    async fn set_auto_approval(
        &self,
        r: Request<v1::SetAutoApprovalRequest>,
    ) -> Result<Response<v1::Change>, Status> {
        self.note(r)?;
        self.change()
    }

    async fn delete_auto_approval(
        &self,
        r: Request<v1::DeleteAutoApprovalRequest>,
    ) -> Result<Response<v1::Change>, Status> {
        self.note(r)?;
        self.change()
    }

    async fn list_sources(
        &self,
        r: Request<v1::ListSourcesRequest>,
    ) -> Result<Response<v1::ListSourcesResponse>, Status> {
        self.note(r)?;
        let source = v1::Source {
            name: "debian".into(),
            kind: "debian".into(),
            url: "http://deb.debian.org/debian-security".into(),
            last_sync: NOW_MS - 30 * MINUTE,
            last_error: String::new(),
            updates: 17_423,
            archive_date: NOW_MS - 100 * MINUTE,
            suites: vec!["bookworm-security".into()],
        };
        let download = v1::Download {
            enabled: false,
            at: "03:00".into(),
            what: "needed".into(),
            payload_bytes_present: 0,
            payload_bytes_wanted: 5_300_000,
        };
        Ok(Response::new(v1::ListSourcesResponse { sources: vec![source], download: Some(download) }))
    }

    async fn set_download(&self, r: Request<v1::SetDownloadRequest>) -> Result<Response<v1::Change>, Status> {
        self.note(r)?;
        self.change()
    }

    type SyncSourceStream = Stream;
    async fn sync_source(&self, r: Request<v1::SyncSourceRequest>) -> Result<Response<Stream>, Status> {
        let request = self.note(r)?;
        if request.name.is_none() {
            let step = |step: &str, done| {
                Ok(v1::Progress { step: step.into(), done, total: 2, unit: "sources".into() })
            };
            let steps = [
                step("reading bookworm", 0),
                step("bookworm: 431 new, 0 changed, 0 gone, 431 in all", 1),
                step("reading trixie", 1),
                step("trixie: 0 new, 2 changed, 1 gone, 96 in all", 2),
            ];
            return Ok(Response::new(Box::pin(tokio_stream::iter(steps))));
        }
        let broken = request.name.as_deref() == Some("broken");
        Ok(progress(broken.then(|| Status::data_loss("`InRelease` has a bad signature"))))
    }

    type DownloadPayloadsStream = Stream;
    async fn download_payloads(
        &self,
        r: Request<v1::DownloadPayloadsRequest>,
    ) -> Result<Response<Stream>, Status> {
        self.note(r)?;
        Ok(progress(None))
    }

    async fn list_tasks(
        &self,
        r: Request<v1::ListTasksRequest>,
    ) -> Result<Response<v1::ListTasksResponse>, Status> {
        self.note(r)?;
        let tasks = vec![v1::Task {
            name: "publish".into(),
            last_run: NOW_MS - MINUTE,
            last_duration_ms: 1_250,
            last_error: String::new(),
            next_run: NOW_MS + 59 * MINUTE,
            runs: 17,
        }];
        Ok(Response::new(v1::ListTasksResponse { tasks }))
    }

    async fn list_audit(
        &self,
        r: Request<v1::ListAuditRequest>,
    ) -> Result<Response<v1::ListAuditResponse>, Status> {
        let v1::ListAuditRequest { limit, before } = self.note(r)?;
        // 1,500 records: more than one page.
        let newest = if before == 0 { 1_500 } else { before - 1 };
        let records = (1..=newest)
            .rev()
            .take(usize::try_from(limit).unwrap())
            .map(|sequence| v1::AuditRecord {
                sequence,
                at: NOW_MS - i64::try_from(1_500 - sequence).unwrap() * MINUTE,
                actor: "ana".into(),
                action: "approve".into(),
                object: "debian-12/openssl_3.0.17-1".into(),
                detail: String::new(),
                digest: "ab".into(),
            })
            .collect();
        Ok(Response::new(v1::ListAuditResponse { records }))
    }

    async fn verify_audit(
        &self,
        r: Request<v1::VerifyAuditRequest>,
    ) -> Result<Response<v1::VerifyAuditResponse>, Status> {
        self.note(r)?;
        let broken_at = self.broken_at.clone();
        Ok(Response::new(v1::VerifyAuditResponse { records: 1_500, head: "ab12".into(), broken_at }))
    }
}
