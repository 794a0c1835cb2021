//! Bad input is refused, and the message names the thing.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use tierway_common::{
    blobs::{BlobOptions, Blobs},
    clock::Clock,
    daemon::chain::Chain,
    enrollment::{SECRET_BYTES, Token},
    schema::{Report, State, StateEntry},
    transport::dial::{self, Route},
    trust::{
        digest::Digest,
        envelope::{Envelope, Header, Stream},
        keys::SigningKey,
    },
};
use tierway_proto::{joining, upstream::Upstream, v1};
use tierway_tests::{
    archive::Package,
    fleet::{Endpoint, Fleet, Relay, until},
    programs,
    roots::{made_up, status},
    skip::skip,
    small_disk::SmallDisk,
};

const PATCH: &str = "debian-12/hello_2.0";
const YEAR: SignedDuration = SignedDuration::from_hours(366 * 24);

async fn fleet_with_hello(clock: Clock) -> Fleet {
    let mut fleet = Fleet::start_at(clock).await;
    fleet.archive.update(&Package::new("hello", "2.0"));
    fleet.archive.publish();
    fleet.sync().await;
    fleet
}

async fn site(fleet: &Fleet) -> (Relay, Endpoint) {
    let relay = fleet.relay("osaka").await;
    relay.caught_up(fleet).await;
    let root = fleet.folder("root");
    made_up(&root, &[("hello", "1.0")]);
    let endpoint = fleet.enroll("web1", "osaka", relay.address, &root).await;
    (relay, endpoint)
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

// Configuration.

#[test]
fn a_configuration_that_cannot_be_used_is_named_with_line_and_key() {
    let dir = tempfile::tempdir().unwrap();
    for (program, verb) in
        [("tierway-central", "serve"), ("tierway-relay", "serve"), ("tierway-endpoint", "status")]
    {
        let path = dir.path().join(format!("{program}.toml"));
        let named = path.to_str().unwrap();
        let cases: &[(&str, &[&str])] = &[
            (
                "data_dir = \"/nonexistent\"\ndata_dri = 1\n",
                &[named, "line 2", "unknown field `data_dri`", "`data_dir`"],
            ),
            (
                "[log]\nlevel = \"info\"\ncolour = true\n",
                &[named, "line 3", "unknown field `colour`", "`level`"],
            ),
            ("data_dir = 7\n", &[named, "line 1", "data_dir", "expected"]),
            ("data_dir = \"/nonexistent\n", &[named, "line 1"]),
        ];
        for (text, parts) in cases {
            fs::write(&path, text).unwrap();
            let ended = programs::run(program, &["--config", named, verb]);
            assert_eq!((ended.code, ended.output.as_str()), (Some(1), ""), "{program}: {text}");
            says(&ended.errors, &[&[program][..], parts].concat());
        }
        let ended = programs::run(program, &["--config", "/nonexistent/it.toml", verb]);
        assert_eq!(ended.code, Some(1));
        says(&ended.errors, &["could not read the configuration `/nonexistent/it.toml`", "No such file"]);
    }
}

// Tokens.

async fn join(token: &Token, dir: &Path) -> Result<(), String> {
    let joined = joining::join(token, None, None, "machine", "0.0.0", dir).await;
    joined.map(drop).map_err(|error| Chain(&error).to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_cannot_be_used_is_named_with_the_reason() {
    let clock = Clock::manual(Clock::system().now());
    let fleet = Fleet::start_at(clock.clone()).await;
    let token = || fleet.token("endpoint", "osaka", fleet.address);
    let good = token().await;
    let id = good.id.as_str().to_owned();
    let changed = |change: &dyn Fn(&mut Token)| {
        let mut token = good.clone();
        change(&mut token);
        token
    };
    let other_root = {
        let mut token = token().await;
        token.root_sha256 = Digest::of(b"another");
        token
    };
    let cases: [(Token, &[&str]); 5] = [
        (
            changed(&|token| token.secret = [7; SECRET_BYTES]),
            &["could not enrol at `", &format!("the proof does not belong to token `{id}`")],
        ),
        (
            changed(&|token| token.id = "fedcba9876543210".parse().unwrap()),
            &["token `fedcba9876543210` is not known here"],
        ),
        (changed(&|token| token.ca_sha256 = Digest::of(b"another")), &["no TLS with `", "certificate"]),
        (other_root, &["the root metadata that came back is not the one the token names"]),
        (changed(&|token| token.servers.clear()), &["the token names no server"]),
    ];
    for (n, (token, parts)) in cases.iter().enumerate() {
        let dir = fleet.folder(&format!("refused-{n}"));
        says(&join(token, &dir).await.unwrap_err(), parts);
        assert!(!dir.join("identity").exists(), "{parts:?}: an identity was kept");
    }

    // None of these used the token up; now it is.
    join(&good, &fleet.folder("first")).await.unwrap();
    let text = join(&good, &fleet.folder("second")).await.unwrap_err();
    says(&text, &[&format!("token `{id}` was used as often as it may be")]);
    says(&join(&good, &fleet.folder("first")).await.unwrap_err(), &["first/identity", "has joined"]);

    let late = token().await;
    clock.advance(SignedDuration::from_hours(2));
    let text = join(&late, &fleet.folder("late")).await.unwrap_err();
    says(&text, &[&format!("token `{}` expired at ", late.id)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_not_copied_whole_or_is_for_another_kind_of_machine_is_refused() {
    let fleet = Fleet::start().await;
    let token = fleet.token("endpoint", "osaka", fleet.address).await.to_string();
    let dir = fleet.folder("relay");
    let dir = dir.to_str().unwrap();
    let cases: &[(&str, &str)] = &[
        (&token[..token.len() - 9], "was it copied whole?"),
        (&token[5..], "it does not start with `twy1_`"),
        (&token.replace('.', "").replacen("twy1_", "twy1_é", 1), "was it copied whole?"),
        ("", "it does not start with `twy1_`"),
    ];
    for (text, part) in cases {
        let ended = programs::run("tierway-relay", &["--data-dir", dir, "join", text]);
        assert_eq!(ended.code, Some(1), "{text}");
        says(&ended.errors, &["tierway-relay: this is not an enrolment token", part]);
    }

    let ended = programs::run("tierway-relay", &["--data-dir", dir, "join", &token]);
    assert_eq!(ended.code, Some(1), "{}", ended.output);
    says(&ended.errors, &["tierway-relay: this token is for an endpoint: take one for a relay"]);
    // It was for one use, which is still there.
    let right = fleet.folder("right.toml");
    let state = fleet.folder("right");
    fs::write(&right, format!("data_dir = \"{}\"\n", state.display())).unwrap();
    let ended = programs::run("tierway-endpoint", &["--config", right.to_str().unwrap(), "enroll", &token]);
    assert_eq!(ended.code, Some(0), "{}", ended.errors);
    // And the right token is taken where the wrong one was not.
    let token = fleet.token("relay", "osaka", fleet.address).await.to_string();
    let ended = programs::run("tierway-relay", &["--data-dir", dir, "join", &token]);
    assert_eq!(ended.code, Some(0), "{}", ended.errors);
    says(&ended.output, &["joined site osaka as relay "]);
    // And is no endpoint's.
    let config = fleet.folder("endpoint.toml");
    fs::write(&config, format!("data_dir = \"{dir}\"\n")).unwrap();
    let ended = programs::run("tierway-endpoint", &["--config", config.to_str().unwrap(), "serve"]);
    assert_eq!(ended.code, Some(1));
    says(&ended.errors, &["the identity of a relay, where that of an endpoint is needed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_should_allow_too_much_is_not_made() {
    let fleet = Fleet::start().await;
    let good = v1::CreateTokenRequest {
        role: "endpoint".to_owned(),
        site: "osaka".to_owned(),
        uses: 1,
        valid_seconds: 60,
        server: None,
        groups: Vec::new(),
        name: String::new(),
    };
    let with = |change: &dyn Fn(&mut v1::CreateTokenRequest)| {
        let mut request = good.clone();
        change(&mut request);
        request
    };
    let cases = [
        (with(&|it| it.uses = 100_001), "`uses` must be between 1 and 100000, found `100001`"),
        (with(&|it| it.valid_seconds = 91 * 86_400), "`valid` must be between 1 second and 90 days"),
        (with(&|it| it.role = "king".to_owned()), "`role` must be endpoint, relay or operator, found `king`"),
        (with(&|it| it.server = Some("nowhere".to_owned())), "`server` must be"),
        (with(&|it| it.name = "admin".to_owned()), "`name` must be given for an operator only"),
        (with(&|it| it.role = "operator".to_owned()), "`name` must be letters"),
        (with(&|it| it.site = "a site".to_owned()), "a site"),
        (with(&|it| it.groups = vec!["no-such-group".to_owned()]), "found `no-such-group`"),
    ];
    let mut admin = fleet.admin().await;
    for (request, part) in cases {
        says(admin.create_token(request).await.unwrap_err().message(), &[part]);
    }
    admin.create_token(good).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_machines_with_the_same_token_for_one_exactly_one_gets_in() {
    let fleet = Fleet::start().await;
    let token = fleet.token("endpoint", "osaka", fleet.address).await;
    let racers = (0..100).map(|n| {
        let (token, dir) = (token.clone(), fleet.folder(&format!("racer-{n}")));
        tokio::spawn(async move { join(&token, &dir).await })
    });
    let ended: Vec<Result<(), String>> = join_all(racers).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(ended.iter().filter(|joined| joined.is_ok()).count(), 1);
    for refused in ended.iter().filter_map(|joined| joined.as_ref().err()) {
        let known = ["was used as often as it may be", "too many enrolments at once"];
        assert!(known.iter().any(|part| refused.contains(part)), "{refused}");
    }
    let endpoints = fleet.admin().await.list_endpoints(v1::ListEndpointsRequest::default()).await.unwrap();
    assert_eq!(endpoints.into_inner().endpoints.len(), 1);
}

// Revocation.

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_endpoint_is_refused_at_the_relay_and_at_central_and_its_reports_are_not_believed() {
    let fleet = fleet_with_hello(Clock::system()).await;
    let (mut relay, mut endpoint) = site(&fleet).await;
    endpoint.start().await;
    assert_eq!(endpoint.check().await.problems, Vec::<String>::new());
    relay.forwarded().await;
    fleet.until_state(&endpoint.id, PATCH, "needed").await;
    // A part of the name is not enough for what cannot be undone.
    let mut admin = fleet.admin().await;
    let revoke =
        |name: &str| v1::RevokeEndpointRequest { name_or_id: name.to_owned(), reason: "lost".to_owned() };
    let name = admin.list_endpoints(v1::ListEndpointsRequest::default()).await.unwrap().into_inner();
    let name = name.endpoints[0].name.clone();
    let text = admin.revoke_endpoint(revoke(&name[1..])).await.unwrap_err().message().to_owned();
    says(&text, &["there is no endpoint `"]);
    admin.revoke_endpoint(revoke(&name)).await.unwrap();
    fleet.published().await;
    relay.caught_up(&fleet).await;

    for restarted in [false, true] {
        if restarted {
            relay.stop().await;
            relay.start().await;
        }
        let problems = endpoint.check().await.problems.join("\n");
        says(&problems, &["could not check in: upstream refused: this certificate is revoked"]);
        says(&endpoint.status().last_error, &["this certificate is revoked"]);
    }

    let joined = joining::load(&endpoint.config.data_dir).unwrap();
    let at_central =
        |identity| Upstream::new(dial::channel(Route::direct(&fleet.address.to_string()), identity));
    let error = at_central(&joined.identity).check_in(v1::CheckInRequest::default()).await.unwrap_err();
    says(&Chain(&error).to_string(), &["this certificate is revoked"]);
    let error = joining::renew(&at_central(&joined.identity), &joined.identity).await.unwrap_err();
    says(&Chain(&error).to_string(), &["could not renew the certificate", &endpoint.id, "is revoked"]);

    // What it signed, carried up by a relay that is believed.
    let key = SigningKey::load(&joined.identity.files().identity).unwrap();
    let header = Header {
        tenant: joined.identity.own().holder.tenant,
        endpoint: endpoint.id.parse().unwrap(),
        stream: Stream::States,
        sequence: 1_000,
        replaces_earlier: true,
        created: Clock::system().now(),
    };
    let entry = StateEntry {
        update: PATCH.parse().unwrap(),
        state: State::Installed,
        at: Timestamp::UNIX_EPOCH,
        detected: None,
        applied: None,
        detail: None,
        progress: Default::default(),
    };
    let report = Report::States { snapshot: true, entries: vec![entry] };
    let envelope = Envelope::seal(&key, header, &report).unwrap();
    let carrier = joining::load(&relay.config.data_dir).unwrap();
    let answer = at_central(&carrier.identity).submit(vec![envelope.bytes().clone()]).await.unwrap();
    assert_eq!(answer.outcomes, [i32::from(v1::ReportOutcome::Refused)]);
    assert_eq!(fleet.state(&endpoint.id, PATCH).await.unwrap().state, "needed");
    let text = admin.revoke_endpoint(revoke(&endpoint.id)).await.unwrap_err();
    says(text.message(), &[&endpoint.id, "is revoked"]);
}

// Clocks.

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_with_a_wrong_clock_says_so_and_goes_on_when_it_is_put_right() {
    let fleet = fleet_with_hello(Clock::system()).await;
    let (relay, mut endpoint) = site(&fleet).await;
    let clock = Clock::manual(fleet.clock.now());
    endpoint.clock = clock.clone();
    endpoint.start().await;
    endpoint.check().await;

    clock.advance(YEAR);
    let ahead = endpoint.check().await.problems.join("\n");
    says(
        &ahead,
        &["the certificate ended at ", "the clock of this computer says ", "is it ahead?", "expired at "],
    );
    clock.advance(-YEAR);
    clock.advance(-YEAR);
    let behind = endpoint.check().await.problems.join("\n");
    says(&behind, &["the clock of this computer is behind: it says ", "its certificate begins at "]);
    clock.advance(YEAR);
    let right = endpoint.check().await;
    assert_eq!((right.needed, right.problems), (1, Vec::<String>::new()));
    relay.forwarded().await;
    fleet.until_state(&endpoint.id, PATCH, "needed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_whose_clock_was_wrong_from_the_beginning_says_that_the_metadata_is_expired() {
    let fleet = fleet_with_hello(Clock::system()).await;
    let (_relay, mut endpoint) = site(&fleet).await;
    endpoint.clock = Clock::manual(fleet.clock.now().checked_add(YEAR).unwrap());
    endpoint.start().await;
    let done = endpoint.check().await;
    assert_eq!(done.needed, 0);
    let problems = done.problems.join("\n");
    says(&problems, &["`root.json` expired at ", "is it ahead?"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_with_a_wrong_clock_says_which_metadata_is_expired_and_serves_again_when_it_is_put_right() {
    let mut fleet = fleet_with_hello(Clock::system()).await;
    let (mut relay, mut endpoint) = site(&fleet).await;
    relay.stop().await;
    let clock = Clock::manual(fleet.clock.now().checked_add(YEAR).unwrap());
    relay.clock = clock.clone();
    relay.start().await;
    endpoint.start().await;
    fleet.archive.update(&Package::new("other", "2.0"));
    fleet.archive.publish();
    fleet.sync().await;
    let board = relay.running().board.clone();
    assert!(board.wake("sync"));
    until("the relay complains", async || board.statuses()["sync"].last_error.is_some()).await;
    let error = board.statuses()["sync"].last_error.clone().unwrap();
    says(
        &error,
        &[
            "could not refresh the metadata",
            "`root.json` expired at ",
            "and the clock of this computer says ",
        ],
    );
    clock.advance(-YEAR);
    relay.caught_up(&fleet).await;
    assert_eq!(endpoint.check().await.problems, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_enrols_with_a_wrong_clock_is_told_to_look_at_it() {
    let fleet = Fleet::start().await;
    let token = fleet.token("endpoint", "osaka", fleet.address).await.to_string();
    let config = fleet.folder("endpoint.toml");
    let data_dir = fleet.folder("endpoint");
    fs::write(&config, format!("data_dir = \"{}\"\n", data_dir.display())).unwrap();
    let arguments = ["--config", config.to_str().unwrap(), "enroll", &token];
    for days in [-366, 366] {
        let Some(ended) = programs::run_days_off(days, "tierway-endpoint", &arguments) else {
            return skip("enrolling with a wrong clock", "there is no program `faketime`");
        };
        assert_eq!(ended.code, Some(1), "{days}: {}", ended.output);
        says(&ended.errors, &["no TLS with `", "certificate", "is the clock of this computer right?"]);
    }
    let ended = programs::run("tierway-endpoint", &arguments);
    assert_eq!(ended.code, Some(0), "{}", ended.errors);
}

// dpkg.

#[tokio::test(flavor = "multi_thread")]
async fn where_dpkgs_database_cannot_be_read_nothing_is_called_needed_or_installed() {
    let fleet = fleet_with_hello(Clock::system()).await;
    let (relay, mut endpoint) = site(&fleet).await;
    fleet.approve(&[PATCH]).await;
    relay.caught_up(&fleet).await;
    endpoint.config.audit_only = true;
    endpoint.start().await;
    let file = endpoint.config.root.join("var/lib/dpkg/status");
    let whole = status(&[("hello", "1.0")]);
    let twice = format!("{whole}{}", status(&[]));
    let cases: [(Option<&str>, &str); 5] = [
        (Some(&whole[..whole.len() - 8]), "the file ends in the middle of a line"),
        (Some(&whole[..whole.len() / 2]), "`/var/lib/dpkg/status` line "),
        (Some("no database\n"), "`/var/lib/dpkg/status` line 1: it is neither a field nor its continuation"),
        (Some(&twice), "`/var/lib/dpkg/status`: the package `dpkg:amd64` is there twice"),
        (None, "could not read `/var/lib/dpkg/status`: "),
    ];
    for (text, part) in cases {
        assert_eq!(endpoint.check().await.needed, 1, "{part}");
        fs::remove_file(&file).unwrap();
        match text {
            Some(text) => fs::write(&file, text).unwrap(),
            None => fs::create_dir(&file).unwrap(),
        }
        let done = endpoint.check().await;
        assert_eq!((done.needed, done.installed, done.failed), (0, 0, 0), "{part}");
        says(&done.problems.join("\n"), &[part]);
        let here: Vec<_> = endpoint.status().patches.iter().map(|row| row.state.clone()).collect();
        assert_eq!(here, ["unknown"], "{part}");
        let why = endpoint.why(PATCH).await.unwrap();
        assert_eq!(why.verdict, "unknown");
        says(&format!("{}{}", why.applicable_json, why.installed_json), &[part]);

        relay.forwarded().await;
        fleet.until_state(&endpoint.id, PATCH, "unknown").await;
        let request = v1::WhyRequest { endpoint: endpoint.id.clone(), patch: PATCH.to_owned() };
        let why = fleet.admin().await.why(request).await.unwrap().into_inner();
        assert_eq!((why.verdict.as_str(), why.reported_state.as_str()), ("unknown", "unknown"));
        says(&why.summary, &["it cannot be decided: ", part]);

        if text.is_none() {
            fs::remove_dir(&file).unwrap();
        }
        fs::write(&file, &whole).unwrap();
    }
    assert_eq!(endpoint.check().await.needed, 1);
}

// Payloads.

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_of_the_wrong_size_or_digest_is_named_and_not_kept() {
    let fleet = fleet_with_hello(Clock::system()).await;
    let pool = "/security/pool/hello_2.0_amd64.deb";
    let good = fleet.archive.server().file(pool);
    let digest = Digest::of(&good);
    let mut other = good.to_vec();
    *other.last_mut().unwrap() ^= 1;
    // From the beginning: what an endpoint needs may be fetched ahead as soon as it says so.
    fleet.archive.server().put(pool, other.clone());
    let (relay, mut endpoint) = site(&fleet).await;
    endpoint.start().await;
    assert_eq!(endpoint.check().await.needed, 1);
    relay.forwarded().await;
    fleet.until_state(&endpoint.id, PATCH, "needed").await;
    let longer = [&good[..], b"more"].concat();
    let payloads = fleet.central.as_ref().unwrap().running.central.payloads.blobs().clone();
    let cases: [(&[u8], &str); 3] = [
        (&other, &format!("has the digest {}, not {digest}", Digest::of(&other))),
        (&longer, &format!("bytes, not {}", good.len())),
        (&good[..good.len() / 2], &format!("not {}", good.len())),
    ];
    for (bytes, part) in cases {
        fleet.archive.server().put(pool, bytes.to_vec());
        let mut progress =
            fleet.admin().await.download_payloads(v1::DownloadPayloadsRequest {}).await.unwrap().into_inner();
        let error = loop {
            match progress.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("{part}: it was taken"),
                Err(error) => break error.message().to_owned(),
            }
        };
        says(&error, &["`hello_2.0_amd64`", pool, part]);
        assert!(!payloads.contains(&digest), "{part}: it is kept");
    }
    fleet.archive.server().put(pool, good.clone());
    let mut progress =
        fleet.admin().await.download_payloads(v1::DownloadPayloadsRequest {}).await.unwrap().into_inner();
    while progress.message().await.unwrap().is_some() {}
    assert!(payloads.contains(&digest));

    // An endpoint that was told another length.
    let joined = joining::load(&endpoint.config.data_dir).unwrap();
    let upstream = Upstream::new(dial::channel(joined.route, &joined.identity));
    let dir = fleet.folder("payloads");
    let blobs = Blobs::open(&dir, BlobOptions { quota_bytes: 1 << 30, free_floor_bytes: 0 }).unwrap();
    let bytes = good.len() as u64;
    for told in [bytes - 1, bytes + 1] {
        let error = upstream.payload(digest, Some(told), &blobs).await.unwrap_err();
        says(&Chain(&error).to_string(), &[&digest.to_string(), &format!("instead of {told}")]);
        assert!(!blobs.contains(&digest));
    }
    upstream.payload(digest, Some(bytes), &blobs).await.unwrap();
}

// Full disks.

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_named_and_the_relay_and_the_endpoint_go_on_when_there_is_room_again() {
    let mut fleet = Fleet::start().await;
    let (mut relay, mut endpoint) = site(&fleet).await;
    relay.stop().await;
    let folders: BTreeMap<&str, PathBuf> = [
        ("relay", relay.config.data_dir.join("trees")),
        ("endpoint", endpoint.config.data_dir.join("trees")),
    ]
    .into();
    let what = "filling a disk";
    let Some(relay_disk) = SmallDisk::mount(what, &folders["relay"], 2_048) else { return };
    let Some(endpoint_disk) = SmallDisk::mount(what, &folders["endpoint"], 2_048) else { return };
    relay.start().await;
    relay.caught_up(&fleet).await;
    endpoint.start().await;
    assert_eq!(endpoint.check().await.problems, Vec::<String>::new());

    fleet.archive.update(&Package::new("hello", "2.0"));
    fleet.archive.publish();
    relay_disk.fill();
    fleet.sync().await;
    let board = relay.running().board.clone();
    assert!(board.wake("sync"));
    until("the relay complains", async || board.statuses()["sync"].last_error.is_some()).await;
    let error = board.statuses()["sync"].last_error.clone().unwrap();
    says(
        &error,
        &["could not mirror the catalogue `", "no space left for `", folders["relay"].to_str().unwrap()],
    );
    // What it has is served on.
    assert_eq!(endpoint.check().await.problems, Vec::<String>::new());
    relay_disk.clear();
    relay.caught_up(&fleet).await;

    endpoint_disk.fill();
    let done = endpoint.check().await;
    assert_eq!(done.needed, 0);
    let problems = done.problems.join("\n");
    says(&problems, &["could not bring over", "no space left for `", folders["endpoint"].to_str().unwrap()]);
    endpoint_disk.clear();
    let done = endpoint.check().await;
    assert_eq!((done.needed, done.problems), (1, Vec::<String>::new()));
    relay.forwarded().await;
    fleet.until_state(&endpoint.id, PATCH, "needed").await;
    relay.stop().await;
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_whose_store_has_no_room_ends_and_says_why_and_goes_on_when_it_is_started_anew() {
    let fleet = fleet_with_hello(Clock::system()).await;
    let (mut relay, mut endpoint) = site(&fleet).await;
    relay.stop().await;
    let store = relay.config.data_dir.join("store");
    let Some(disk) = SmallDisk::mount("filling the disk of a store", &store, 32 << 10) else { return };
    relay.start().await;
    relay.caught_up(&fleet).await;
    endpoint.start().await;
    assert_eq!(endpoint.check().await.problems, Vec::<String>::new());
    relay.forwarded().await;

    disk.fill();
    let root = fleet.folder("root");
    let checks = async {
        // What the store has begun to fill has room for 8 MiB; each of these inventories takes a few hundred KiB.
        for round in 0_u64.. {
            let version =
                |package: u64| format!("1.{}", Digest::of(&[round, package].map(u64::to_be_bytes).concat()));
            let all: Vec<_> = (0..8_000).map(|package| (format!("p{package}"), version(package))).collect();
            let all: Vec<_> = all.iter().map(|(name, version)| (name.as_str(), version.as_str())).collect();
            made_up(&root, &all);
            endpoint.check().await;
        }
    };
    let ended = async {
        tokio::select! {
            why = relay.ended() => why,
            () = checks => None,
        }
    };
    let why = tokio::time::timeout(Duration::from_secs(120), ended).await.unwrap().unwrap();
    says(&why, &["the store has failed: ", store.to_str().unwrap(), "No space left on device"]);

    disk.clear();
    made_up(&root, &[("hello", "2.0")]);
    relay.start().await;
    until("a check succeeds", async || endpoint.check().await.problems.is_empty()).await;
    relay.forwarded().await;
    fleet.until_state(&endpoint.id, PATCH, "installed").await;
    relay.stop().await;
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_room_that_must_stay_free_is_not_used_for_payloads() {
    let fleet = fleet_with_hello(Clock::system()).await;
    let (_relay, endpoint) = site(&fleet).await;
    let joined = joining::load(&endpoint.config.data_dir).unwrap();
    let upstream = Upstream::new(dial::channel(joined.route, &joined.identity));
    let good = fleet.archive.server().file("/security/pool/hello_2.0_amd64.deb");
    let dir = fleet.folder("payloads");
    let floor = BlobOptions { quota_bytes: 1 << 30, free_floor_bytes: 1 << 60 };
    let blobs = Blobs::open(&dir, floor).unwrap();
    let error = upstream.payload(Digest::of(&good), Some(good.len() as u64), &blobs).await.unwrap_err();
    says(
        &Chain(&error).to_string(),
        &["could not keep the blob", "no space left for `", dir.to_str().unwrap()],
    );
}
