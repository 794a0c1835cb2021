//! Computers are called, from central through relays down to each, and by whom they want to be.

use std::{collections::BTreeSet, time::Duration};

use jiff::SignedDuration;
use tierway_common::{
    clock::Clock,
    notices::{Event, RESEND_AFTER, SENDS_MAX},
    transport::{
        dial::{self, Route},
        tls::{Identity, IdentityFiles},
    },
};
use tierway_endpoint::{
    local::Ask,
    wishes::{Caller, Wish},
};
use tierway_proto::{
    upstream::Upstream,
    v1::{self, notice::Kind},
};
use tierway_tests::{
    archive::Package,
    crowd::{Crowd, Heard},
    fleet::{Endpoint, Fleet, Relay, until},
    roots::made_up,
};
use tokio::sync::oneshot;

const PATCH: &str = "debian-12/hello_2.0";
/// Of the crowd; the benchmark `notices` takes 5,000.
const CROWD: usize = 200;
/// Within this everybody must have been told.
const WITHIN: Duration = Duration::from_secs(60);

/// A central with an update to approve, and a relay at `osaka` that has caught up.
async fn fleet_and_relay(clock: Clock) -> (Fleet, Relay) {
    let mut fleet = Fleet::start_at(clock).await;
    fleet.archive.update(&Package::new("hello", "2.0"));
    fleet.archive.publish();
    fleet.sync().await;
    let relay = fleet.relay("osaka").await;
    relay.caught_up(&fleet).await;
    (fleet, relay)
}

fn who(told: &[Heard]) -> Vec<usize> {
    let mut who: Vec<_> = told.iter().map(|heard| heard.who).collect();
    who.sort_unstable();
    who
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_is_told_of_an_approval_and_only_who_does_not_answer_is_told_again_and_no_more_than_five_times()
 {
    let clock = Clock::manual(Clock::system().now());
    let (fleet, relay) = fleet_and_relay(clock.clone()).await;
    let before = relay.running().mirror.head().timestamp_version;
    let mut crowd = Crowd::gather(&fleet, "osaka", relay.address, CROWD, before).await;
    assert!(crowd.rest().is_empty(), "they have what is out");

    let request = v1::DecidePatchesRequest {
        patches: vec![PATCH.to_owned()],
        group: "everyone".to_owned(),
        decision: "approve".to_owned(),
        ..Default::default()
    };
    fleet.admin().await.decide_patches(request).await.unwrap();
    let told = crowd.told(before, crowd.listeners.len(), WITHIN).await;
    assert_eq!(who(&told), (0..CROWD).collect::<Vec<_>>());
    assert!(told.iter().all(|heard| heard.notice.id == told[0].notice.id));

    // The even ones answer.
    for listener in crowd.listeners.iter().step_by(2) {
        assert!(listener.check_in(before, Vec::new()).await > before);
    }
    let odd: Vec<_> = (0..CROWD).filter(|who| who % 2 == 1).collect();
    let notices = relay.running().notices.clone();
    for time in 2..=SENDS_MAX {
        assert_eq!(notices.next_due(), Some(clock.now() + RESEND_AFTER), "before time {time}");
        clock.advance(RESEND_AFTER);
        assert!(relay.running().board.wake("notices"));
        let again = crowd.told(before, odd.len(), WITHIN).await;
        // Whoever else heard it would be among them, or be left over in the end.
        assert_eq!(who(&again), odd, "time {time}");
        assert!(again.iter().all(|heard| heard.notice == told[heard.who].notice));
    }
    assert_eq!(notices.next_due(), None, "after the fifth time there is silence");
    assert!(crowd.rest().is_empty());
}

/// An endpoint at `osaka` that enrolled through the relay and lacks `hello`.
async fn needing(fleet: &Fleet, relay: &Relay, name: &str) -> Endpoint {
    let root = fleet.folder(&format!("root-{name}"));
    made_up(&root, &[("hello", "1.0")]);
    let mut endpoint = fleet.enroll(name, "osaka", relay.address, &root).await;
    endpoint.config.audit_only = true;
    endpoint.config.notice_spread = Duration::from_millis(1);
    endpoint
}

async fn call(fleet: &Fleet, request: v1::CheckEndpointNowRequest) -> u64 {
    fleet.admin().await.check_endpoint_now(request).await.unwrap().into_inner().endpoints
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_checks_when_something_is_approved_and_one_on_the_road_only_when_it_is_included() {
    let (fleet, relay) = fleet_and_relay(Clock::system()).await;
    let mut home = needing(&fleet, &relay, "home").await;
    let mut road = needing(&fleet, &relay, "road").await;
    // The first of its routes leads nowhere.
    let routes = ["127.0.0.1:9".to_owned(), relay.address.to_string()];
    road.config.upstream = routes.iter().map(|server| Route::direct(server)).collect();
    let mut said = needing(&fleet, &relay, "said").await;
    said.config.roaming = true;
    for endpoint in [&mut home, &mut road, &mut said] {
        endpoint.start().await;
        endpoint.check().await;
        let id = endpoint.id.clone();
        until("it listens", async || relay.running().notices.is_watching(&id)).await;
    }
    let checked = |endpoint: &Endpoint| endpoint.status().last_check;
    let before = [checked(&road), checked(&said)];

    fleet.approve(&[PATCH]).await;
    let approved = |endpoint: &Endpoint| endpoint.status().patches.iter().any(|patch| patch.approved);
    until("the one at home knows", async || approved(&home)).await;
    let at_home = checked(&home);
    let everyone = v1::CheckEndpointNowRequest { everyone: true, ..Default::default() };
    assert_eq!(call(&fleet, everyone.clone()).await, 3);
    until("the one at home was called", async || checked(&home) > at_home).await;
    assert_eq!([checked(&road), checked(&said)], before, "on the road nobody follows");
    assert!(!approved(&road) && !approved(&said));

    call(&fleet, v1::CheckEndpointNowRequest { include_roaming: true, ..everyone }).await;
    until("those on the road know too", async || approved(&road) && approved(&said)).await;
    let before = checked(&road);
    let one = v1::CheckEndpointNowRequest { name_or_id: road.id.clone(), ..Default::default() };
    assert_eq!(call(&fleet, one).await, 1);
    until("who is named is called wherever he is", async || checked(&road) > before).await;
}

/// The stream of an endpoint's own identity.
struct Stream {
    upstream: Upstream,
    stream: tonic::Streaming<v1::Notice>,
}

async fn listen(endpoint: &Endpoint, relay: &Relay) -> Stream {
    let files = IdentityFiles::in_dir(&endpoint.config.data_dir.join("identity"));
    let identity = Identity::load(&files).unwrap();
    let upstream = Upstream::new(dial::channel(Route::direct(&relay.address.to_string()), &identity));
    let has = relay.running().mirror.head().timestamp_version;
    let stream = upstream.watch(has).await.unwrap();
    Stream { upstream, stream }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_away_is_called_when_he_comes_if_that_was_wanted_until_he_answers() {
    let clock = Clock::manual(Clock::system().now());
    let (fleet, relay) = fleet_and_relay(clock.clone()).await;
    let endpoint = needing(&fleet, &relay, "web1").await;
    let site = v1::CheckEndpointNowRequest { site: Some("osaka".to_owned()), ..Default::default() };
    // The relay answers central when it has taken the order over.
    let central = fleet.central.as_ref().unwrap().running.central.clone();
    let passed_on = async || {
        until("the relay has answered", async || central.notices.next_due().is_none()).await;
    };
    assert_eq!(call(&fleet, site.clone()).await, 1);
    passed_on().await;
    let wish = v1::CheckEndpointNowRequest { include_offline: true, report_inventory: true, ..site };
    assert_eq!(call(&fleet, wish).await, 1);
    passed_on().await;

    let mut ids = Vec::new();
    for _ in 0..2 {
        let mut heard = listen(&endpoint, &relay).await;
        let notice = heard.stream.message().await.unwrap().unwrap();
        let Some(Kind::CheckNow(order)) = notice.kind else { panic!("{notice:?}") };
        assert!(order.report_inventory && order.endpoints == [endpoint.id.clone()], "{order:?}");
        ids.push(notice.id);
        drop(heard);
        until("it is gone", async || !relay.running().notices.is_watching(&endpoint.id)).await;
    }
    assert_eq!(ids[0], ids[1], "the same, as it is not answered, and nothing of the order before");
    let heard = listen(&endpoint, &relay).await;
    let answer = v1::CheckInRequest { answered: vec![ids[0]], ..Default::default() };
    heard.upstream.check_in(answer).await.unwrap();
    clock.advance(SignedDuration::from_hours(1));
    assert_eq!(relay.running().notices.next_due(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_was_away_brings_what_came_out_meanwhile_and_calls_those_who_lack_it() {
    let (fleet, mut relay) = fleet_and_relay(Clock::system()).await;
    let before = relay.running().mirror.head().timestamp_version;
    relay.stop().await;
    fleet.approve(&[PATCH]).await;
    // What is only signed again afterwards calls nobody by itself, and hides nothing.
    let central = fleet.central.as_ref().unwrap().running.central.clone();
    tokio::task::spawn_blocking(move || central.publisher.refresh()).await.unwrap().unwrap();
    relay.start().await;
    let mut crowd = Crowd::gather(&fleet, "osaka", relay.address, 3, before).await;
    let told = crowd.told(before, crowd.listeners.len(), WITHIN).await;
    assert_eq!(who(&told), [0, 1, 2]);
    let head = relay.running().mirror.head();
    assert!(told.iter().all(|heard| heard.notice.event == Event::Published(head.news)), "{told:?}");
    assert!(before < head.news && head.news < head.timestamp_version, "{head:?}");
}

/// Sets one document of the policy.
async fn set(fleet: &Fleet, kind: &str, json: &str) {
    let new = v1::NewPolicy { kind: kind.to_owned(), json: json.to_owned() };
    let request = v1::SetPoliciesRequest { policies: vec![new], dry_run: false };
    fleet.policies().await.set_policies(request).await.unwrap();
}

/// The service level of every computer is this from now on.
async fn level(fleet: &Fleet, json: &str) {
    set(fleet, "level", json).await;
    let group = v1::Group {
        name: "all".to_owned(),
        everyone: true,
        priority: 1,
        level: Some("own".to_owned()),
        ..Default::default()
    };
    fleet.admin().await.set_group(v1::SetGroupRequest { group: Some(group) }).await.unwrap();
    fleet.published().await;
}

async fn wish(endpoint: &Endpoint, wish: Wish) -> bool {
    let (reply, granted) = oneshot::channel();
    let asks = &endpoint.node.as_ref().unwrap().running.asks;
    asks.send(Ask::Wish(Caller::Person(1000), wish, reply)).await.unwrap();
    granted.await.unwrap().is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_privilege_an_endpoint_checks_when_it_is_called_and_not_by_schedule() {
    let (fleet, relay) = fleet_and_relay(Clock::system()).await;
    let mut endpoint = needing(&fleet, &relay, "web1").await;
    endpoint.config.roaming = true;
    endpoint.start().await;
    endpoint.check().await;
    assert!(endpoint.status().next_check > 0);
    assert!(!wish(&endpoint, Wish::Scheduled(false)).await, "nobody may switch it off");

    let optional = r#"{"id":"own","roaming":"include","schedule_optional":true}"#;
    level(&fleet, optional).await;
    relay.caught_up(&fleet).await;
    endpoint.check().await;
    for (on, next) in [(false, false), (true, true), (false, false)] {
        assert!(wish(&endpoint, Wish::Scheduled(on)).await);
        let what = format!("scheduled {on} shows in {:?}", endpoint.status());
        until(&what, async || (endpoint.status().next_check > 0) == next).await;
    }
    endpoint.stop().await;
    endpoint.start().await;
    endpoint.check().await;
    assert_eq!(endpoint.status().next_check, 0, "the switch stays over a restart");

    // What is approved is told all the same, on the road too, as the level includes it.
    until("it listens", async || relay.running().notices.is_watching(&endpoint.id)).await;
    fleet.approve(&[PATCH]).await;
    until("it knows", async || endpoint.status().patches.iter().any(|patch| patch.approved)).await;

    level(&fleet, r#"{"id":"own","scheduled":false}"#).await;
    relay.caught_up(&fleet).await;
    endpoint.check().await;
    assert!(!wish(&endpoint, Wish::Scheduled(true)).await, "nor switch on what is not given");
    assert_eq!(endpoint.status().next_check, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_wishes_is_decided_by_at_once_and_no_check_is_made_for_it() {
    let clock = Clock::system();
    let (fleet, relay) = fleet_and_relay(clock.clone()).await;
    let mut endpoint = needing(&fleet, &relay, "web1").await;
    endpoint.config.audit_only = false;
    // Nothing is installed before this window opens.
    let opens = (clock.now() + SignedDuration::from_hours(12)).strftime("%H:00:00").to_string();
    let window =
        format!(r#"{{"id":"rare","opens":[{{"on":"every","at":"{opens}"}}],"length":"1h","zone":"UTC"}}"#);
    set(&fleet, "window", &window).await;
    let grace = r#"{"id":"own","experience":"consent","grace":"8h","deadline":"2days","windows":["rare"]}"#;
    level(&fleet, grace).await;
    fleet.approve(&[PATCH]).await;
    relay.caught_up(&fleet).await;
    endpoint.start().await;
    let waits = |endpoint: &Endpoint| {
        let status = endpoint.status();
        status.patches.iter().find(|patch| patch.patch == PATCH).map(|patch| patch.detail.clone())
    };
    let closed = async || waits(&endpoint).is_some_and(|waits| waits.contains("outside change windows"));
    until("it waits for its window", closed).await;
    assert!(!wish(&endpoint, Wish::Acknowledge).await, "nobody is warned of anything");
    let mut checks = BTreeSet::from([endpoint.status().last_check]);
    for hours in [2, 3, 4, 5] {
        let at = clock.now() + SignedDuration::from_hours(hours);
        assert!(wish(&endpoint, Wish::Postpone(at)).await);
        let what = format!("it is put off by {hours} hours");
        let until_then = format!("it was put off until {at}");
        until(&what, async || waits(&endpoint).is_some_and(|waits| waits.starts_with(&until_then))).await;
        checks.insert(endpoint.status().last_check);
    }
    // What was published just before it listened may still make it check once.
    assert!(checks.len() <= 2, "wishes made it check: {checks:?}");
    endpoint.stop().await;
}
