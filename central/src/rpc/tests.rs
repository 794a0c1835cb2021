use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use http::uri::PathAndQuery;
use tierway_common::{
    clock::Clock,
    daemon::stop::Stop,
    enrollment::{Applicant, Token},
    schema::{CycleSummary, Report, State as UpdateState},
    transport::{
        dial::{Route, channel},
        identity::{Holder, PeerIdentity},
        tls::{Identity, IdentityFiles},
    },
    trust::{
        digest::Digest,
        envelope::{Envelope, Header, Stream},
        keys::SigningKey,
    },
};
use tierway_proto::{
    OPERATOR_ANSWER_BYTES_MAX, joining,
    upstream::Upstream,
    v1::{
        self, admin_client::AdminClient, admin_server::Admin, notice::Kind, packages_client::PackagesClient,
    },
};
use tokio_stream::StreamExt;
use tonic::{Code, Request, transport::Channel};
use tonic_prost::ProstCodec;

use super::{admin::AdminService, gate::Gate, *};
use crate::{
    config::{Config, File},
    init,
    layout::Layout,
    server::{self, Running},
};

/// A central on loopback, with what is needed to talk to it.
struct Live {
    dir: tempfile::TempDir,
    running: Option<Running>,
    stop: Stop,
    address: SocketAddr,
}

impl Live {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("central");
        let layout = Layout::new(&data_dir);
        init::init(&layout, &"default".parse().unwrap(), "admin", &Clock::system()).unwrap();
        let mut live = Self { dir, running: None, stop: Stop::new(), address: ([127, 0, 0, 1], 0).into() };
        live.serve().await;
        live
    }

    async fn serve(&mut self) {
        let file = File {
            data_dir: self.layout().dir().to_owned(),
            listen: self.address,
            // What the tests keep is small, however full the disk is.
            disk_free_bytes_min: 0,
            ..File::default()
        };
        self.stop = Stop::new();
        let config = Config::new(file, "central").unwrap();
        let running = server::start(config, Clock::system(), self.stop.clone()).await.unwrap();
        self.address = running.address;
        self.running = Some(running);
    }

    async fn end(&mut self) {
        self.stop.request();
        self.running.take().unwrap().ended().await;
    }

    fn layout(&self) -> Layout {
        Layout::new(&self.dir.path().join("central"))
    }

    fn central(&self) -> &Arc<Central> {
        &self.running.as_ref().unwrap().central
    }

    fn channel(&self, identity: &Identity) -> Channel {
        channel(Route::direct(&self.address.to_string()), identity)
    }

    fn operator(&self) -> Identity {
        Identity::load(&IdentityFiles::in_dir(&self.layout().operator())).unwrap()
    }

    fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel(&self.operator()))
    }

    async fn join(&self, role: &str, name: &str) -> Identity {
        self.join_as(role, name, name).await
    }

    /// Like `join`, with its state in the folder `dir`.
    async fn join_as(&self, role: &str, name: &str, dir: &str) -> Identity {
        let request = v1::CreateTokenRequest {
            role: role.to_owned(),
            site: "lyon".to_owned(),
            uses: 1,
            valid_seconds: 60,
            server: Some(self.address.to_string()),
            groups: vec![],
            // That of a computer is what it says itself.
            name: if role == "operator" { name.to_owned() } else { String::new() },
        };
        let token: Token =
            self.admin().create_token(request).await.unwrap().into_inner().token.parse().unwrap();
        let dir: PathBuf = self.dir.path().join(dir);
        joining::join(&token, None, None, name, "0.1.0", &dir).await.unwrap().identity
    }

    /// An identity that central's authority signed, whoever the holder is.
    fn forge(&self, holder: &str, name: &str) -> Identity {
        let applicant = Applicant::new().unwrap();
        let key = crate::enroll::ca::requested_key(applicant.csr_der()).unwrap();
        let holder: Holder = holder.parse().unwrap();
        let authority = init::authority(&self.layout()).unwrap();
        let random = ring::rand::SystemRandom::new();
        let issued = authority.issue(&holder, key, Clock::system().now(), &random).unwrap();
        Identity::load(&applicant.keep(&issued.chain, &self.dir.path().join(name)).unwrap()).unwrap()
    }
}

/// Service and method of each call in a `.proto` file.
fn calls(proto: &str) -> Vec<String> {
    let service = proto.lines().find_map(|line| line.strip_prefix("service ")).unwrap();
    let service = service.trim_end_matches(" {");
    let methods = proto.lines().filter_map(|line| line.trim().strip_prefix("rpc ")?.split('(').next());
    methods.map(|method| format!("/tierway.v1.{service}/{method}")).collect()
}

/// What an empty request is answered with.
async fn knock(channel: Channel, path: &str) -> Code {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let path = PathAndQuery::try_from(path).unwrap();
    // Works for both kinds of calls, as only the beginning of the answer is looked at.
    match client.server_streaming(Request::new(()), path, ProstCodec::<(), ()>::default()).await {
        Err(status) => status.code(),
        Ok(mut answer) => {
            match tokio::time::timeout(Duration::from_millis(300), answer.get_mut().message()).await {
                Ok(Err(status)) => status.code(),
                Ok(Ok(_)) | Err(_) => Code::Ok,
            }
        }
    }
}

const ADMIN: &str = include_str!("../../../proto/tierway/v1/admin.proto");
const POLICIES: &str = include_str!("../../../proto/tierway/v1/policies.proto");
const PACKAGES: &str = include_str!("../../../proto/tierway/v1/packages.proto");
const UPSTREAM: &str = include_str!("../../../proto/tierway/v1/upstream.proto");

#[tokio::test(flavor = "multi_thread")]
async fn every_call_is_open_to_exactly_the_roles_it_is_for() {
    let mut live = Live::start().await;
    let revoked = live.join("endpoint", "revoked").await;
    live.central().enrollment.revoke(&revoked.own().holder.id, "lost", "operator:admin").unwrap();
    let foreign = |role: &str| {
        let holder = format!("spiffe://tierway/tenant/other/site/lyon/{role}/x");
        live.forge(&holder, &format!("foreign-{role}"))
    };
    let callers: BTreeMap<&str, Identity> = [
        ("operator", live.operator()),
        ("endpoint", live.join("endpoint", "endpoint").await),
        ("relay", live.join("relay", "relay").await),
        ("revoked endpoint", revoked),
        ("foreign operator", foreign("operator")),
        ("foreign endpoint", foreign("endpoint")),
        ("foreign relay", foreign("relay")),
        ("unknown endpoint", live.forge("spiffe://tierway/tenant/default/site/lyon/endpoint/x", "x")),
        ("central", live.forge("spiffe://tierway/tenant/default/site/lyon/central/x", "y")),
    ]
    .into();
    let admin: Vec<String> = [ADMIN, POLICIES, PACKAGES].into_iter().flat_map(calls).collect();
    let upstream = calls(UPSTREAM);
    assert!(admin.len() >= 45 && upstream.len() >= 8, "{admin:?} {upstream:?}");
    let mut wrong = Vec::new();
    for (path, is_admin) in
        admin.iter().map(|path| (path, true)).chain(upstream.iter().map(|path| (path, false)))
    {
        // These two decide by what they carry: a token, a certificate.
        if path.ends_with("/Enroll") || path.ends_with("/Renew") {
            continue;
        }
        for (caller, identity) in &callers {
            let may = match *caller {
                "operator" => is_admin,
                "endpoint" | "relay" => !is_admin,
                _ => false,
            };
            let code = knock(live.channel(identity), path).await;
            if matches!(code, Code::PermissionDenied | Code::Unauthenticated) == may {
                wrong.push(format!("{caller} {path}: {code:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    live.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_longer_than_what_tiers_tell_each_other_reaches_an_operator() {
    let live = Live::start().await;
    let mut admin = live.admin().max_decoding_message_size(OPERATOR_ANSWER_BYTES_MAX);
    let families: Vec<String> = (0..900).map(|n| format!("{{\"os\":{{\"family\":\"{n:08}\"}}}}")).collect();
    let rule_json = format!("{{\"any\":[{}]}}", families.join(","));
    for number in 0..320 {
        let group = v1::Group {
            name: format!("group-{number:03}"),
            rule_json: Some(rule_json.clone()),
            ..v1::Group::default()
        };
        admin.set_group(v1::SetGroupRequest { group: Some(group) }).await.unwrap();
    }
    let (mut names, mut pages, mut after) = (Vec::new(), Vec::new(), String::new());
    loop {
        let request = v1::ListGroupsRequest { name: None, limit: 0, after };
        let v1::ListGroupsResponse { groups, next } = admin.list_groups(request).await.unwrap().into_inner();
        let bytes = groups.iter().filter_map(|group| group.rule_json.as_ref()).map(String::len);
        pages.push(bytes.sum::<usize>());
        names.extend(groups.into_iter().map(|group| group.name));
        after = next;
        if after.is_empty() {
            break;
        }
    }
    let expected: Vec<_> = (0..320).map(|number| format!("group-{number:03}")).collect();
    names.retain(|name| name.starts_with("group-"));
    assert_eq!(names, expected);
    assert!(pages.len() == 2 && pages[0] > 4 << 20, "all come, in parts that are bounded: {pages:?}");
    let only = v1::ListGroupsRequest { name: Some("group-007".to_owned()), ..Default::default() };
    let only = admin.list_groups(only).await.unwrap().into_inner();
    assert_eq!((only.groups.len(), only.next.as_str()), (1, ""));
    assert_eq!(only.groups[0].name, "group-007");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_streamed_of_a_list_is_what_calls_for_one_part_after_the_other_answer() {
    let live = Live::start().await;
    for number in 1..=5 {
        live.join("endpoint", &format!("web-{number}")).await;
    }
    let mut admin = live.admin();
    for limit in [1, 2, 5, 0] {
        let mut wanted = v1::ListEndpointsRequest { limit, ..Default::default() };
        let mut streamed = admin.stream_endpoints(wanted.clone()).await.unwrap().into_inner();
        loop {
            let part = streamed.message().await.unwrap().unwrap();
            assert_eq!(part, admin.list_endpoints(wanted.clone()).await.unwrap().into_inner(), "{limit}");
            wanted.after = part.next;
            if wanted.after.is_empty() {
                break;
            }
        }
        assert_eq!(streamed.message().await.unwrap(), None, "{limit}");
    }
    for (patch, after, said) in [
        ("nothing", "", "`nothing`"),
        ("nothing", "x", "`after` must be what the page before said, found `x`"),
    ] {
        let wanted = v1::ListPatchEndpointsRequest {
            patch: patch.to_owned(),
            after: after.to_owned(),
            ..Default::default()
        };
        let refused = admin.list_patch_endpoints(wanted.clone()).await.unwrap_err();
        let streamed = match admin.stream_patch_endpoints(wanted).await {
            Ok(mut answer) => answer.get_mut().message().await.unwrap_err(),
            Err(status) => status,
        };
        assert_eq!((streamed.code(), streamed.message()), (refused.code(), refused.message()));
        assert!(refused.message().contains(said), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_on_its_way_ends_when_its_operator_is_revoked() {
    let live = Live::start().await;
    for number in 1..=8 {
        live.join("endpoint", &format!("web-{number}")).await;
    }
    let operator = live.join("operator", "second").await.own();
    let central = live.central();
    let admin = AdminService::new(central.clone(), Gate::new(central.state.clone()));
    let mut request = Request::new(v1::ListEndpointsRequest { limit: 1, ..Default::default() });
    request.extensions_mut().insert(Arc::new(operator.clone()));
    let mut parts = admin.stream_endpoints(request).await.unwrap().into_inner();
    assert_eq!(parts.next().await.unwrap().unwrap().endpoints[0].name, "web-1");
    central.enrollment.revoke_operator(&operator.serial, "left", "operator:admin").unwrap();
    let rest: Vec<_> = parts.collect().await;
    // What was ready by then, and no more.
    let (last, before) = rest.split_last().unwrap();
    assert_eq!(last.as_ref().unwrap_err().code(), Code::PermissionDenied);
    assert!(before.len() < 4 && before.iter().all(Result::is_ok), "{rest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_certificate_may_enrol_and_nothing_else() {
    let mut live = Live::start().await;
    let root = init::authority(&live.layout()).unwrap().root_digest();
    let config = Arc::new(tierway_common::transport::tls::enrolling(root).unwrap());
    let route = Route::direct(&live.address.to_string());
    for path in [ADMIN, POLICIES, PACKAGES, UPSTREAM].into_iter().flat_map(calls) {
        let channel = tierway_common::transport::dial::enrolling_channel(route.clone(), config.clone());
        let expected = if path.ends_with("/Enroll") { Code::InvalidArgument } else { Code::Unauthenticated };
        assert_eq!(knock(channel, &path).await, expected, "{path}");
    }
    live.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_counts_from_the_next_request_on_a_connection_that_is_open() {
    let mut live = Live::start().await;
    let endpoint = live.join("endpoint", "web-1").await;
    let upstream = Upstream::new(live.channel(&endpoint));
    assert!(upstream.metadata("root", None).await.unwrap().is_some());
    let request = v1::RevokeEndpointRequest { name_or_id: "web-1".to_owned(), reason: "lost".to_owned() };
    live.admin().revoke_endpoint(request).await.unwrap();
    let refused = upstream.metadata("root", None).await.unwrap_err().to_string();
    assert!(refused.contains("revoked"), "{refused}");
    assert!(joining::renew(&upstream, &endpoint).await.is_err());
    live.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_revokes_an_endpoint_never_revokes_a_relay_and_the_other_way_round() {
    let mut live = Live::start().await;
    let endpoint = Upstream::new(live.channel(&live.join("endpoint", "endpoint-only").await));
    let relay_only = Upstream::new(live.channel(&live.join("relay", "relay-only").await));
    // One machine that is both, and was installed anew as an endpoint: its name says too little of endpoints, enough of relays.
    let both = [live.join_as("endpoint", "both", "a").await, live.join_as("endpoint", "both", "b").await];
    let relay = Upstream::new(live.channel(&live.join_as("relay", "both", "c").await));
    let is_let_in = async |upstream: &Upstream| upstream.metadata("root", None).await.is_ok();

    let mut admin = live.admin();
    let reason = || "lost".to_owned();
    for (name, said) in
        [("both", "`both` names 2 endpoints: "), ("relay-only", "there is no endpoint `relay-only`")]
    {
        let request = v1::RevokeEndpointRequest { name_or_id: name.to_owned(), reason: reason() };
        let text = admin.revoke_endpoint(request).await.unwrap_err().message().to_owned();
        assert!(text.starts_with(said), "{text}");
    }
    let request = v1::RevokeRelayRequest { name_or_id: "endpoint-only".to_owned(), reason: reason() };
    let text = admin.revoke_relay(request).await.unwrap_err().message().to_owned();
    assert_eq!(text, "there is no relay `endpoint-only`");
    assert!(is_let_in(&endpoint).await && is_let_in(&relay_only).await && is_let_in(&relay).await);

    let request = v1::RevokeRelayRequest { name_or_id: "both".to_owned(), reason: reason() };
    admin.revoke_relay(request).await.unwrap();
    assert!(!is_let_in(&relay).await && is_let_in(&relay_only).await);
    for identity in &both {
        assert!(is_let_in(&Upstream::new(live.channel(identity))).await);
    }
    live.end().await;
}

fn seal(identity: &Identity, sequence: u64, report: &Report) -> bytes::Bytes {
    let own: PeerIdentity = identity.own();
    let key = SigningKey::load(&identity.files().identity).unwrap();
    let header = Header {
        tenant: own.holder.tenant,
        endpoint: own.holder.id.parse().unwrap(),
        stream: Stream::of(report),
        sequence,
        replaces_earlier: false,
        created: Clock::system().now(),
    };
    Envelope::seal(&key, header, report).unwrap().bytes().clone()
}

fn cycle() -> Report {
    Report::Cycle(CycleSummary {
        at: Clock::system().now(),
        took_ms: 1,
        dictionary_version: 1,
        agent_version: "0.1.0".to_owned(),
        host_name: "web-1.example".to_owned(),
        counts: BTreeMap::<UpdateState, u64>::new(),
        reboot_pending: false,
        machine_class: String::new(),
        uncovered: false,
        acknowledged: None,
        problems: vec![],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_is_kept_through_a_restart_and_a_renewed_key_goes_on_with_the_next() {
    let mut live = Live::start().await;
    let endpoint = live.join("endpoint", "web-1").await;
    let relay = live.join("relay", "relay-1").await;
    let through_relay = Upstream::new(live.channel(&relay));
    let first = seal(&endpoint, 1, &cycle());
    let accepted = vec![i32::from(v1::ReportOutcome::Accepted)];
    assert_eq!(through_relay.submit(vec![first.clone()]).await.unwrap().outcomes, accepted);
    joining::renew(&Upstream::new(live.channel(&endpoint)), &endpoint).await.unwrap();
    live.end().await;
    live.serve().await;

    let through_relay = Upstream::new(live.channel(&relay));
    let batch = vec![first, seal(&endpoint, 2, &cycle()), bytes::Bytes::from_static(b"nonsense")];
    let outcomes = through_relay.submit(batch).await.unwrap().outcomes;
    assert_eq!(outcomes, [accepted[0], accepted[0], v1::ReportOutcome::Refused.into()]);
    let shown = live
        .admin()
        .get_endpoint(v1::GetEndpointRequest { name_or_id: "web-1.example".to_owned() })
        .await
        .unwrap()
        .into_inner();
    assert!(shown.endpoint.unwrap().last_report > 0);
    // A gap: central asks for everything again, whoever carries the question.
    let answer = through_relay.submit(vec![seal(&endpoint, 9, &cycle())]).await.unwrap();
    assert_eq!(answer.resync_endpoints, std::slice::from_ref(&endpoint.own().holder.id));
    let check_in = || v1::CheckInRequest { relay: Some(v1::RelayHealth::default()), ..Default::default() };
    let answer = through_relay.check_in(check_in()).await.unwrap();
    assert_eq!(answer.resync_endpoints, [endpoint.own().holder.id]);
    assert!(answer.timestamp.is_some_and(|timestamp| !timestamp.is_empty()));
    assert!(Upstream::new(live.channel(&endpoint)).check_in(check_in()).await.unwrap().resync);
    live.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_further_than_central_hears_which_root_is_the_newest() {
    let mut live = Live::start().await;
    let endpoint = live.join("endpoint", "web-1").await;
    let request = v1::CheckInRequest { timestamp_version: 1_000_000, ..Default::default() };
    let answer = Upstream::new(live.channel(&endpoint)).check_in(request).await.unwrap();
    assert_eq!((answer.timestamp, answer.root_version, answer.along.len()), (None, 1, 0));
    live.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_watches_hears_of_publications_and_of_checks_for_him() {
    let mut live = Live::start().await;
    let (one, other) = (live.join("endpoint", "one").await, live.join("endpoint", "other").await);
    let relay = live.join("relay", "relay-1").await;
    let mut watches = Vec::new();
    for identity in [&one, &other, &relay] {
        watches.push(Upstream::new(live.channel(identity)).watch(0).await.unwrap());
    }
    let kind = |notice: Option<v1::Notice>| notice.and_then(|notice| notice.kind);
    for watch in &mut watches {
        let first = kind(watch.message().await.unwrap());
        assert!(matches!(first, Some(Kind::Published(version)) if version > 0));
    }
    let name_or_id = "one".to_owned();
    let call = v1::CheckEndpointNowRequest { name_or_id, report_inventory: true, ..Default::default() };
    let told = live.admin().check_endpoint_now(call).await.unwrap().into_inner();
    assert_eq!(told.endpoints, 1);
    let group = v1::Group { name: "late".to_owned(), everyone: true, ..Default::default() };
    live.admin().set_group(v1::SetGroupRequest { group: Some(group) }).await.unwrap();
    let mut heard = Vec::new();
    for watch in &mut watches {
        let mut checks = 0;
        loop {
            match kind(watch.message().await.unwrap()) {
                Some(Kind::CheckNow(order)) => {
                    assert_eq!(order.endpoints, [one.own().holder.id]);
                    assert!(order.report_inventory && order.include_roaming && !order.crowd);
                    checks += 1;
                }
                // The group went out a second after everything before.
                Some(Kind::Published(version)) => {
                    let published = live.central().publisher.published();
                    if version == published.timestamp_version && published.roots.len() == 1 {
                        break;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        heard.push(checks);
    }
    assert_eq!(heard, [1, 0, 0], "for him alone, and not by a relay, since he watches himself");
    for (whom, code) in [
        (v1::CheckEndpointNowRequest::default(), Code::InvalidArgument),
        (
            v1::CheckEndpointNowRequest { site: Some("nowhere".to_owned()), ..Default::default() },
            Code::NotFound,
        ),
        (
            v1::CheckEndpointNowRequest { group: Some("none".to_owned()), ..Default::default() },
            Code::NotFound,
        ),
    ] {
        assert_eq!(live.admin().check_endpoint_now(whom).await.unwrap_err().code(), code);
    }
    let whom = v1::CheckEndpointNowRequest { everyone: true, include_offline: true, ..Default::default() };
    assert_eq!(live.admin().check_endpoint_now(whom).await.unwrap().into_inner().endpoints, 2);
    live.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_streamed_to_whoever_may_have_it() {
    let mut live = Live::start().await;
    let endpoint = live.join("endpoint", "one").await;
    let bytes = bytes::Bytes::from(vec![7; 700_000]);
    live.central().payloads.blobs().put(&bytes).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let blobs = crate::catalog::tests::blobs(dir.path());
    let upstream = Upstream::new(live.channel(&endpoint));
    upstream.payload(Digest::of(&bytes), None, &blobs).await.unwrap();
    assert_eq!(blobs.get(&Digest::of(&bytes), 1 << 20).unwrap(), bytes);
    assert!(upstream.payload(Digest::of(b"nobody has this"), None, &blobs).await.is_err());
    assert!(
        Upstream::new(live.channel(&live.operator())).payload(Digest::of(b"x"), None, &blobs).await.is_err()
    );
    live.end().await;
}

/// The pieces of a file from `offset` on.
fn pieces(bytes: &[u8], offset: usize) -> Vec<v1::PackagePiece> {
    let (digest, length) = (Digest::of(bytes).as_bytes().to_vec(), bytes.len() as u64);
    let each = bytes[offset..].chunks(1000).map(|data| v1::PackagePiece {
        digest: digest.clone(),
        bytes: length,
        offset: offset as u64,
        data: data.to_vec().into(),
    });
    each.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_sent_in_pieces_is_published_as_a_package_and_served_to_endpoints() {
    let mut live = Live::start().await;
    let mut packages = PackagesClient::new(live.channel(&live.operator()));
    let bytes = crate::sources::local::tests::app("1.1.0", "{AAAAAAAA-0000-0000-0000-000000000011}");
    let digest = Digest::of(&bytes);
    let request = v1::AddPackageRequest {
        digest: digest.as_bytes().to_vec(),
        file_name: "app.msi".to_owned(),
        ..v1::AddPackageRequest::default()
    };
    let early = packages.add_package(request.clone()).await.unwrap_err();
    assert_eq!(early.code(), Code::NotFound, "{early}");
    let prepare = v1::PrepareUploadRequest { digest: request.digest.clone(), bytes: bytes.len() as u64 };

    // It breaks off, goes on where it broke off, and cannot go on anywhere else.
    let part = pieces(&bytes, 0).into_iter().take(3);
    let cut = packages.upload_package(tokio_stream::iter(part)).await.unwrap_err();
    assert_eq!(cut.code(), Code::Aborted, "{cut}");
    let prepared = packages.prepare_upload(prepare.clone()).await.unwrap().into_inner();
    assert_eq!(prepared, v1::PrepareUploadResponse { present: false, offset: 3000 });
    let other = packages.upload_package(tokio_stream::iter(pieces(&bytes, 1000))).await.unwrap_err();
    assert_eq!(other.code(), Code::Aborted, "{other}");
    packages.upload_package(tokio_stream::iter(pieces(&bytes, 3000))).await.unwrap();
    let prepared = packages.prepare_upload(prepare).await.unwrap().into_inner();
    assert!(prepared.present);

    let mut wrong = pieces(&bytes, 0);
    wrong.iter_mut().for_each(|piece| piece.digest = Digest::of(b"other").as_bytes().to_vec());
    let wrong = packages.upload_package(tokio_stream::iter(wrong)).await.unwrap_err();
    assert_eq!(wrong.code(), Code::DataLoss, "{wrong}");
    let long = v1::PackagePiece { data: vec![0; (1 << 20) + 1].into(), ..pieces(&bytes, 0).remove(0) };
    let long = v1::PackagePiece { digest: Digest::of(b"long").as_bytes().to_vec(), bytes: 1 << 30, ..long };
    let long = packages.upload_package(tokio_stream::iter([long])).await.unwrap_err();
    assert_eq!(long.code(), Code::InvalidArgument, "{long}");

    let mut news = live.central().publisher.news();
    let added = packages.add_package(request).await.unwrap().into_inner();
    assert_eq!((added.patch.as_str(), added.outcome.as_str()), ("local/app_1.1.0", "added"));
    assert!(added.audit_sequence > 0);
    let listed = packages.list_packages(v1::ListPackagesRequest {}).await.unwrap().into_inner().packages;
    let [listed] = listed.as_slice() else { panic!("{listed:?}") };
    assert_eq!((listed.kind.as_str(), listed.bytes, listed.present), ("msi", bytes.len() as u64, true));
    let patches = live.admin().list_patches(v1::ListPatchesRequest::default()).await.unwrap().into_inner();
    assert_eq!(patches.patches[0].payloads, "complete");
    let sources = live.admin().list_sources(v1::ListSourcesRequest {}).await.unwrap().into_inner().sources;
    assert_eq!(sources.iter().map(|source| source.kind.as_str()).collect::<Vec<_>>(), ["local"]);
    let local = "local".parse().unwrap();
    while !live.central().publisher.published().roots.contains_key(&local) {
        news.changed().await.unwrap();
    }
    assert_eq!(live.central().payloads.open(&digest).unwrap().len(), bytes.len() as u64);

    // Also after a restart that knows of no source.
    live.end().await;
    live.serve().await;
    let mut packages = PackagesClient::new(live.channel(&live.operator()));
    assert_eq!(
        packages.list_packages(v1::ListPackagesRequest {}).await.unwrap().into_inner().packages.len(),
        1
    );
    let request = v1::RemovePackageRequest { patch: "local/app_1.1.0".to_owned() };
    assert!(packages.remove_package(request.clone()).await.unwrap().into_inner().audit_sequence > 0);
    assert_eq!(packages.remove_package(request).await.unwrap_err().code(), Code::NotFound);
    live.end().await;
}
