//! The real agent on real systems does what the documents say that a real central publishes: rings, trust, what exit codes
//! mean, and policy that is taken over once a day.

use std::path::PathBuf;

use jiff::SignedDuration;
use tierway_common::clock::Clock;
use tierway_tests::{
    archive::Package,
    fleet::{Endpoint, Fleet, Relay, until},
    roots::{installed_version, made_up, real},
    simulation::central::Driver,
    skip::pristine_root,
    tierctl::{Tierctl, line},
};

const PATCH: &str = "debian-12/hello_2.0";

/// Central with `hello` 2.0 in its archive, and a relay.
struct Office {
    driver: Driver,
    relay: Relay,
    tierctl: Tierctl,
}

impl Office {
    async fn open(hello: &Package) -> Self {
        let mut fleet = Fleet::start_at(Clock::manual(Clock::system().now())).await;
        fleet.archive.update(hello);
        fleet.archive.publish();
        fleet.sync().await;
        let relay = fleet.relay("osaka").await;
        let tierctl = Tierctl::of(&fleet);
        Self { driver: Driver::new(fleet), relay, tierctl }
    }

    /// A computer with `hello` 1.0 that has told what it lacks.
    async fn computer(&mut self, name: &str, root: PathBuf) -> (Endpoint, PathBuf) {
        self.settle().await;
        let mut endpoint = self.driver.fleet.enroll(name, "osaka", self.relay.address, &root).await;
        endpoint.start().await;
        assert_eq!(endpoint.check().await.needed, 1);
        self.settle().await;
        (endpoint, root)
    }

    /// What was reported is at central, what follows from it is decided and published, and the relay has it.
    async fn settle(&mut self) {
        self.relay.forwarded().await;
        self.driver.look([&self.relay].into_iter()).await;
    }

    fn later(&self, by: SignedDuration) {
        self.driver.fleet.clock.advance(by);
    }

    /// Checks, and returns what `tierctl` then says of the update there: standing and detail.
    async fn checked(&mut self, endpoint: &Endpoint) -> (String, String) {
        self.settle().await;
        let done = endpoint.check().await;
        assert_eq!(done.problems, Vec::<String>::new());
        self.settle().await;
        let shows = self.tierctl.json(&["endpoint", "show", &endpoint.id, PATCH]);
        let text = |key: &str| shows[key].as_str().unwrap_or_else(|| panic!("{shows:#}")).to_owned();
        (text("standing"), text("detail"))
    }

    fn document(&self, kind: &str, name: &str, json: &str) {
        let dir = self.driver.fleet.folder("policy");
        let of_kind = if kind == "trust" { dir.clone() } else { dir.join(kind) };
        std::fs::create_dir_all(&of_kind).unwrap();
        std::fs::write(of_kind.join(format!("{name}.json")), json).unwrap();
        self.tierctl.prints(&["apply", "-f", dir.to_str().unwrap()]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untrusted_update_goes_to_the_test_group_only_and_then_ring_after_ring_as_central_opens_them() {
    let Some(pristine) = pristine_root("rings and trust on real Debian roots") else { return };
    let mut office = Office::open(&Package::new("hello", "2.0")).await;
    let mut computers = Vec::new();
    for name in ["first", "other"] {
        let root = office.driver.fleet.folder(&format!("root-{name}"));
        real(&pristine, &root, &[Package::new("hello", "1.0")]);
        computers.push(office.computer(name, root).await);
    }
    let [(mut tester, test_root), (mut other, other_root)] = <[_; 2]>::try_from(computers).unwrap();
    let versions = || [&test_root, &other_root].map(|root| installed_version(root, "hello").unwrap());
    office.document("level", "testers", r#"{"id":"testers","untrusted":true}"#);
    let test = ["group", "set", "test", "--priority", "5", "--endpoint", &tester.id, "--level", "testers"];
    office.tierctl.prints(&test);
    office.document("trust", "trust", r#"{"successes_at_least":1,"over":"1h","failure_permille_max":0}"#);
    let rings = r#"{"id":"safe","rings":[
        {"name":"test","who":{"group":"test"},"soak":"2h","successes_at_least":1,"failures_min":1},
        {"name":"broad","who":"rest"}]}"#;
    office.document("ring-plan", "safe", rings);
    let members = office.tierctl.prints(&["ring", "members", "safe", "--columns", "id,ring,why"]);
    assert_eq!(line(&members, &tester.id), format!("{} test member of group `test`", tester.id));
    assert!(line(&members, &other.id).contains(" broad in no ring before; place "), "{members}");
    office.tierctl.prints(&["patch", "approve", PATCH, "--rings", "safe"]);

    let (standing, detail) = office.checked(&other).await;
    assert_eq!(
        (standing.as_str(), detail.as_str()),
        ("not trusted yet", "not trusted yet, and this computer is in no test group")
    );
    assert_eq!(office.checked(&tester).await.0, "verified");
    assert_eq!(versions(), ["2.0", "1.0"]);

    office.later(SignedDuration::from_hours(1));
    let (standing, detail) = office.checked(&other).await;
    assert_eq!(
        (standing.as_str(), detail.as_str()),
        ("waiting for its ring", "ring `broad` of plan `safe` is not open")
    );
    office.tierctl.prints(&["rollout", "pause", PATCH]);
    office.later(SignedDuration::from_hours(1));
    let (standing, detail) = office.checked(&other).await;
    assert_eq!(standing, "waiting for its ring");
    assert_eq!(detail, "ring `broad` of plan `safe` is not open: the rollout is paused");
    assert_eq!(versions(), ["2.0", "1.0"]);
    office.tierctl.prints(&["rollout", "resume", PATCH]);
    // Its soak begins anew.
    office.later(SignedDuration::from_hours(2));
    assert_eq!(office.checked(&other).await.0, "verified");
    assert_eq!(versions(), ["2.0", "2.0"]);
    tester.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_code_means_what_the_administrators_table_says_and_the_next_scan_has_the_last_word() {
    let Some(pristine) = pristine_root("exit codes on a real Debian root") else { return };
    let fails = Package::new("hello", "2.0").script("preinst", "#!/bin/sh\n[ -e /var/lib/hello-may ]\n");
    let mut office = Office::open(&fails).await;
    let root = office.driver.fleet.folder("root");
    real(&pristine, &root, &[Package::new("hello", "1.0")]);
    let (mut endpoint, root) = office.computer("web", root).await;
    office.tierctl.prints(&["patch", "approve", PATCH]);

    // By itself: apt exits with 100, and says that a script failed.
    let (standing, detail) = office.checked(&endpoint).await;
    assert_eq!(standing, "failed", "{detail}");
    assert!(detail.starts_with("a package's own script failed: "), "{detail}");

    // This group's installers exit so when something else is at work: nothing failed, and it is tried again soon.
    office.tierctl.prints(&["result-code", "set", "--group", "everyone", "100=busy"]);
    office.later(SignedDuration::from_secs(1));
    office.tierctl.prints(&["patch", "approve", PATCH]);
    let (standing, detail) = office.checked(&endpoint).await;
    assert_eq!(standing, "waiting to try again", "{detail}");
    assert!(detail.starts_with("another program is using the package manager"), "{detail}");

    // The table for the update is over that of the group, and what it calls a success is none as long as the update is needed.
    office.tierctl.prints(&["result-code", "set", "--update", PATCH, "100=success"]);
    office.later(SignedDuration::from_mins(5));
    let (standing, detail) = office.checked(&endpoint).await;
    assert_eq!(standing, "failed", "{detail}");
    assert!(detail.starts_with("reported success, and is still needed"), "{detail}");
    assert_eq!(installed_version(&root, "hello").unwrap(), "1.0");

    std::fs::write(root.join("var/lib/hello-may"), "").unwrap();
    office.later(SignedDuration::from_secs(1));
    office.tierctl.prints(&["patch", "approve", PATCH]);
    assert_eq!(office.checked(&endpoint).await.0, "verified");
    assert_eq!(installed_version(&root, "hello").unwrap(), "2.0");
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_that_is_taken_over_once_a_day_is_not_taken_over_again_after_a_restart() {
    let mut office = Office::open(&Package::new("hello", "2.0")).await;
    let root = office.driver.fleet.folder("root");
    made_up(&root, &[("hello", "1.0")]);
    let (mut endpoint, _) = office.computer("web", root).await;
    // So that nothing is installed on a root on which nothing can be.
    office.document(
        "level",
        "calm",
        r#"{"id":"calm","configuration_daily":true,"severity_at_least":"critical"}"#,
    );
    office.tierctl.prints(&["group", "set", "all", "--everyone", "--level", "calm"]);
    let undecided = "not approved for any group of this computer";
    assert_eq!(why(&mut office, &endpoint).await, undecided);

    office.tierctl.prints(&["patch", "approve", PATCH]);
    office.later(SignedDuration::from_hours(1));
    assert_eq!(why(&mut office, &endpoint).await, undecided, "the policy of this morning holds");
    endpoint.stop().await;
    endpoint.start().await;
    assert_eq!(why(&mut office, &endpoint).await, undecided, "and does so after a restart");
    office.later(SignedDuration::from_hours(22));
    let wants = |text: String| text.starts_with("the service level leaves out updates of severity");
    let text = why(&mut office, &endpoint).await;
    assert!(wants(text.clone()), "{text}");

    // A level that does not ask for it any more is taken over when its day comes, and then everything at once.
    office.tierctl.prints(&["level", "set", "calm", "--configuration-daily", "false"]);
    office.later(SignedDuration::from_hours(23));
    why(&mut office, &endpoint).await;
    office.tierctl.prints(&["patch", "clear", PATCH]);
    assert_eq!(why(&mut office, &endpoint).await, undecided);
    endpoint.stop().await;
}

/// Why the update is not installed, as the computer's own plan says after a check.
async fn why(office: &mut Office, endpoint: &Endpoint) -> String {
    office.settle().await;
    // What is published counts for a day only.
    office.driver.refresh([&office.relay].into_iter()).await;
    assert_eq!(endpoint.check().await.problems, Vec::<String>::new());
    let mut local = None;
    until("the computer answers", async || {
        local = tierway_endpoint::local::connect(&endpoint.config.local_socket).await.ok();
        local.is_some()
    })
    .await;
    let plan = local.unwrap().plan(tierway_proto::v1::LocalPlanRequest {}).await.unwrap().into_inner();
    let left: Vec<_> = plan.left_out.into_iter().map(|left| left.reason).collect();
    let [reason] = &left[..] else { panic!("{left:?}") };
    reason.clone()
}
