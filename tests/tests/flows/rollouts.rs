//! Policy from an operator's call to what is published, and an update on its way through rings by what
//! computers report.

use jiff::{SignedDuration, Timestamp};
use tierway_common::{
    clock::Clock,
    schema::{
        State,
        policy::{
            Meaning, ResultCodes, RingPlan, Rollout, RolloutStage, ServiceLevel, TrustPolicy, Trusted, Window,
        },
    },
};
use tierway_proto::v1::{self, policies_client::PoliciesClient};
use tierway_tests::{
    archive::Package,
    fleet::{Fleet, until},
    reporter::Reporter,
};
use tonic::transport::Channel;

const PATCH: &str = "debian-12/hello_2.0";

/// Central and computers that say what the test wants.
struct Crowd {
    fleet: Fleet,
    policies: PoliciesClient<Channel>,
    computers: Vec<Reporter>,
}

impl Crowd {
    /// `hello` 2.0 is in the archive, `count` computers `e0`, `e1`, … enrolled and need it.
    async fn start(count: usize) -> Self {
        let clock = Clock::manual(Clock::system().now());
        let mut fleet = Fleet::start_at(clock).await;
        fleet.archive.update(&Package::new("hello", "2.0"));
        fleet.archive.publish();
        fleet.sync().await;
        let policies = fleet.policies().await;
        let mut computers = Vec::new();
        for number in 0..count {
            computers.push(Reporter::enroll(&fleet, &format!("e{number}")).await);
        }
        let mut crowd = Self { fleet, policies, computers };
        for number in 0..count {
            crowd.report(number, State::Needed).await;
        }
        crowd
    }

    /// One of them says where the update stands on it.
    async fn report(&mut self, number: usize, state: State) {
        self.computers[number].says(&self.fleet, PATCH, state, None).await;
    }

    async fn set(&mut self, documents: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let new = |(kind, json): &(&str, &str)| v1::NewPolicy { kind: (*kind).into(), json: (*json).into() };
        let request =
            v1::SetPoliciesRequest { policies: documents.iter().map(new).collect(), dry_run: false };
        let answer =
            self.policies.set_policies(request).await.map_err(|status| status.message().to_owned())?;
        Ok(answer.into_inner().outcomes.into_iter().map(|row| row.outcome).collect())
    }

    async fn group(&self, name: &str, priority: u32, endpoints: &[&str], level: Option<&str>) {
        let group = v1::Group {
            name: name.into(),
            priority,
            endpoints: endpoints.iter().map(|name| (*name).into()).collect(),
            level: level.map(Into::into),
            ..v1::Group::default()
        };
        self.fleet.admin().await.set_group(v1::SetGroupRequest { group: Some(group) }).await.unwrap();
    }

    /// The document as published, when it is.
    fn published<T: serde::de::DeserializeOwned>(&self, key: &str) -> Option<T> {
        let central = &self.fleet.central.as_ref().unwrap().running.central;
        let bytes = central.publisher.policy_document(key).unwrap()?;
        Some(serde_json::from_slice(&bytes).unwrap())
    }

    /// Central looks at all rollouts now.
    fn look(&self) {
        let central = &self.fleet.central.as_ref().unwrap().running.central;
        assert!(central.board.wake("rollouts"));
    }

    async fn until_published(&self, what: &str, holds: impl Fn(&Rollout) -> bool) -> Rollout {
        let key = format!("rollout/safe/{PATCH}");
        until(what, async || {
            self.look();
            self.published::<Rollout>(&key).is_some_and(|rollout| holds(&rollout))
        })
        .await;
        self.published(&key).unwrap()
    }

    async fn audited(&self) -> Vec<(String, String)> {
        let request = v1::ListAuditRequest { limit: 100, before: 0 };
        let records = self.fleet.admin().await.list_audit(request).await.unwrap().into_inner().records;
        records.into_iter().map(|record| (record.actor, record.action)).collect()
    }
}

const RINGS: &str = r#"{"id":"safe","rings":[
    {"name":"test","who":{"group":"test"},"soak":"1h","successes_at_least":2,"failures_min":1},
    {"name":"broad","who":"rest","failures_min":1}]}"#;

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_sets_is_published_as_the_documents_that_endpoints_read() {
    let mut crowd = Crowd::start(1).await;
    crowd.group("test", 5, &["e0"], None).await;
    let window = r#"{"id":"night","opens":[{"on":{"nth":[-1,"sunday"]},"at":"02:00:00"}],"length":"4h"}"#;
    let codes = r#"{"scope":{"group":"test"},"codes":{"7":"success_reboot_required"}}"#;
    let of_update = r#"{"scope":{"update":"debian-12/hello_2.0"},"codes":{"9":"busy"}}"#;
    let outcomes = crowd
        .set(&[
            ("level", r#"{"id":"testers","untrusted":true,"windows":["night"]}"#),
            ("window", window),
            ("ring-plan", RINGS),
            ("result-codes", codes),
            ("result-codes", of_update),
        ])
        .await
        .unwrap();
    assert_eq!(outcomes, ["added"; 5]);
    let trust = r#"{"successes_at_least":1,"over":"1h","failure_permille_max":0}"#;
    let error = crowd.set(&[("trust", trust)]).await.unwrap_err();
    assert!(error.contains("a group has a level with `untrusted`"), "{error}");
    crowd.group("test", 5, &["e0"], Some("testers")).await;
    crowd.set(&[("trust", trust)]).await.unwrap();
    crowd.fleet.published().await;

    let level: ServiceLevel = crowd.published("level/testers").unwrap();
    assert_eq!((level.untrusted, level.windows.unwrap().len()), (Some(true), 1));
    assert_eq!(crowd.published::<Window>("window/night").unwrap().id.as_str(), "night");
    assert_eq!(crowd.published::<RingPlan>("ring-plan/safe").unwrap().rings.len(), 2);
    let codes = |key: &str| crowd.published::<ResultCodes>(key).unwrap().codes;
    assert_eq!(codes("result-codes/group/test"), [(7, Meaning::SuccessRebootRequired)].into());
    assert_eq!(codes("result-codes/update/debian-12/hello_2.0"), [(9, Meaning::Busy)].into());
    assert_eq!(crowd.published::<TrustPolicy>("trust-policy").unwrap().successes_at_least, 1);

    let delete = |kind: &str, name: &str| v1::DeletePolicyRequest { kind: kind.into(), name: name.into() };
    let error = crowd.policies.delete_policy(delete("window", "night")).await.unwrap_err();
    assert_eq!(error.message(), "window `night` is named by service level `testers`");
    crowd.policies.delete_policy(delete("result-codes", "group/test")).await.unwrap();
    crowd.fleet.published().await;
    assert!(crowd.published::<ResultCodes>("result-codes/group/test").is_none());

    let detail = v1::GetEndpointRequest { name_or_id: "e0".into() };
    let detail = crowd.fleet.admin().await.get_endpoint(detail).await.unwrap().into_inner();
    let of = |name: &str| detail.settings.iter().find(|setting| setting.name == name).unwrap().clone();
    assert_eq!(of("windows").value, r#"["night"]"#);
    assert_eq!(of("windows").origin, "level `testers` of group `test`");
    assert_eq!(of("grace").origin, "built in");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_goes_from_ring_to_ring_by_what_is_reported_and_stops_when_it_fails() {
    let mut crowd = Crowd::start(6).await;
    crowd.group("test", 5, &["e0", "e1"], None).await;
    crowd.set(&[("ring-plan", RINGS)]).await.unwrap();
    let approve = |passed_on: Option<&str>, group: &str| v1::DecidePatchesRequest {
        patches: vec!["hello".into()],
        group: group.into(),
        decision: "approve".into(),
        rings: Some("safe".into()),
        passed_on: passed_on.map(Into::into),
        ..v1::DecidePatchesRequest::default()
    };
    let mut admin = crowd.fleet.admin().await;
    let error = admin.decide_patches(approve(Some("test"), "everyone")).await.unwrap_err();
    assert_eq!(
        error.message(),
        "group `test` has not passed `debian-12/hello_2.0`: 0 of 1 successes, 0 failures"
    );
    admin.decide_patches(approve(None, "everyone")).await.unwrap();
    let first = crowd.until_published("the first ring is open", |_| true).await;
    assert_eq!((first.stage, first.open), (RolloutStage::Running, 0));

    crowd.report(0, State::Installed).await;
    crowd.report(1, State::Installed).await;
    crowd.look();
    let rollouts = v1::ListRolloutsRequest { plan: None };
    let row = crowd.policies.list_rollouts(rollouts).await.unwrap().into_inner().rollouts.remove(0);
    assert_eq!((row.ring.as_str(), row.rings[0].successes, row.rings[1].applicable), ("test", 2, 4));
    assert!(row.waits.starts_with("ring `test` soaks until "), "{}", row.waits);
    crowd.fleet.clock.advance(SignedDuration::from_hours(1));
    let open = crowd.until_published("the last ring is open", |rollout| rollout.open == 1).await;
    assert_eq!(open.stage, RolloutStage::Complete);
    assert_eq!(open.detail, "ring `broad` opened after 2 successes and 0 failures in `test`");

    crowd.report(4, State::Failed).await;
    let halted = |rollout: &Rollout| rollout.stage == RolloutStage::Halted;
    let halt = crowd.until_published("the failure halts it", halted).await;
    assert_eq!(halt.detail, "ring `broad`: 1 of 1 attempts failed, more than 2 %");
    let control = |verb: &str| v1::ControlRolloutRequest {
        plan: "safe".into(),
        patch: "hello".into(),
        verb: verb.into(),
    };
    let error = crowd.policies.control_rollout(control("promote")).await.unwrap_err();
    assert!(error.message().contains("found `halted`"), "{}", error.message());
    crowd.policies.control_rollout(control("resume")).await.unwrap();
    crowd.until_published("it goes on", |rollout| rollout.stage == RolloutStage::Complete).await;
    let of_rollouts: Vec<_> = crowd
        .audited()
        .await
        .into_iter()
        .filter(|(_, action)| action.contains("rollout") || action.contains("ring"))
        .collect();
    let newest_first = [
        ("operator:tester", "resume rollout"),
        ("central", "halt rollout"),
        ("central", "open ring"),
        ("operator:tester", "set ring plan"),
    ];
    assert_eq!(of_rollouts, newest_first.map(|(actor, action)| (actor.to_owned(), action.to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_is_trusted_by_what_testers_report() {
    let mut crowd = Crowd::start(3).await;
    crowd.set(&[("level", r#"{"id":"testers","untrusted":true}"#)]).await.unwrap();
    crowd.group("test", 5, &["e0", "e1"], Some("testers")).await;
    let trust = r#"{"successes_at_least":2,"over":"1h","failure_permille_max":0}"#;
    crowd.set(&[("trust", trust)]).await.unwrap();
    for number in 0..3 {
        crowd.report(number, State::Installed).await;
    }
    let waiting = crowd.policies.list_untrusted(v1::ListUntrustedRequest {}).await.unwrap().into_inner();
    assert_eq!((waiting.testers, waiting.trusted, waiting.patches.len()), (2, 0, 1));
    assert_eq!((waiting.patches[0].successes, waiting.patches[0].applicable), (2, 2));
    crowd.fleet.clock.advance(SignedDuration::from_hours(1));
    let key = format!("trusted/{PATCH}");
    until("it is trusted", async || {
        crowd.look();
        crowd.published::<Trusted>(&key).is_some()
    })
    .await;
    let trusted: Trusted = crowd.published(&key).unwrap();
    assert_eq!(trusted.by, "promoted: 2 of 2 over 1h");
    assert!(trusted.at <= crowd.fleet.now() && trusted.at > Timestamp::UNIX_EPOCH);
}
