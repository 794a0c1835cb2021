//! What is shown is what is true, also while a relay is held back.

use tierway_common::clock::Clock;
use tierway_proto::v1;
use tierway_tests::{
    archive::Package,
    fleet::{Fleet, until},
    roots::made_up,
};

const PATCH: &str = "debian-12/hello_2.0";

async fn standing(fleet: &Fleet, endpoint: &str) -> v1::Standing {
    fleet.state(endpoint, PATCH).await.unwrap().standing.unwrap()
}

fn step<'a>(standing: &'a v1::Standing, name: &str) -> &'a v1::Step {
    standing.steps.iter().find(|step| step.name == name).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_approved_while_a_relay_is_held_back_is_published_and_not_at_the_relay_until_it_comes() {
    let mut fleet = Fleet::start_at(Clock::system()).await;
    fleet.archive.update(&Package::new("hello", "2.0"));
    fleet.archive.publish();
    fleet.sync().await;
    let mut relay = fleet.relay("osaka").await;
    relay.caught_up(&fleet).await;
    let root = fleet.folder("root-web");
    made_up(&root, &[("hello", "1.0")]);
    let mut endpoint = fleet.enroll("web", "osaka", relay.address, &root).await;
    endpoint.start().await;
    assert_eq!(endpoint.check().await.needed, 1);
    relay.forwarded().await;
    fleet.until_state(&endpoint.id, PATCH, "needed").await;
    endpoint.stop().await;
    let stands = standing(&fleet, &endpoint.id).await;
    assert_eq!((stands.name.as_str(), stands.source.as_str()), ("waiting for approval", "endpoint"));
    assert!(stands.since > 0 && step(&stands, "detected").at > 0, "{stands:?}");

    relay.stop().await;
    let before = fleet.now().as_millisecond() / 1_000 * 1_000;
    fleet.approve(&[PATCH]).await;
    let stands = standing(&fleet, &endpoint.id).await;
    assert_eq!((stands.name.as_str(), stands.source.as_str()), ("published", "central"), "{stands:?}");
    assert!(stands.since >= before && step(&stands, "approved").at >= before, "{stands:?}");
    assert!(stands.detail.starts_with("relay relay-osaka had version "), "{}", stands.detail);
    let missing = step(&stands, "at relay");
    assert_eq!((missing.at, missing.reason == stands.detail), (0, true), "{missing:?}");

    relay.start().await;
    relay.caught_up(&fleet).await;
    until("central hears that it is at the relay", async || {
        standing(&fleet, &endpoint.id).await.name == "at relay"
    })
    .await;
    let stands = standing(&fleet, &endpoint.id).await;
    assert_eq!(stands.source, "relay relay-osaka");
    assert!(
        stands.since >= before && stands.detail.starts_with("the endpoint went by version "),
        "{stands:?}"
    );
    assert!(stands.steps.iter().all(|step| (step.at == 0) != step.reason.is_empty()), "{stands:?}");

    // And on: what the endpoint says itself counts from here.
    endpoint.start().await;
    endpoint.check().await;
    relay.forwarded().await;
    until("the endpoint has said something newer", async || {
        !matches!(standing(&fleet, &endpoint.id).await.name.as_str(), "at relay" | "published")
    })
    .await;
    endpoint.stop().await;
    relay.stop().await;
}
