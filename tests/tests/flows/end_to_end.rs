//! From the vendor's archive to a computer, and what became of it back to whoever asks.

use tierway_proto::v1;
use tierway_tests::{
    archive::Package,
    fleet::Fleet,
    roots::{installed_version, made_up, real, status},
    skip::pristine_root,
};

const PATCH: &str = "debian-12/hello_2.0";

/// An archive that brings `hello` 2.0, read by central.
async fn fleet_with_hello() -> Fleet {
    let mut fleet = Fleet::start().await;
    fleet.archive.update(&Package::new("hello", "2.0"));
    fleet.archive.publish();
    fleet.sync().await;
    fleet
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_is_found_needed_through_a_relay_and_found_installed_when_it_is() {
    let fleet = fleet_with_hello().await;
    let relay = fleet.relay("osaka").await;
    relay.caught_up(&fleet).await;
    let root = fleet.folder("root");
    made_up(&root, &[("hello", "1.0"), ("other", "1.0")]);
    let mut endpoint = fleet.enroll("web1", "osaka", relay.address, &root).await;
    endpoint.start().await;

    let found = endpoint.check().await;
    assert_eq!((found.needed, found.problems), (1, Vec::<String>::new()));
    relay.forwarded().await;
    let row = fleet.until_state(&endpoint.id, PATCH, "needed").await;
    let times = row.times.unwrap();
    assert!(times.detected > 0 && times.applied == 0, "{times:?}");

    // Somebody installs it by hand.
    std::fs::write(root.join("var/lib/dpkg/status"), status(&[("hello", "2.0"), ("other", "1.0")])).unwrap();
    assert_eq!(endpoint.check().await.needed, 0);
    relay.forwarded().await;
    let row = fleet.until_state(&endpoint.id, PATCH, "installed").await;
    let after = row.times.unwrap();
    assert!(after.detected == times.detected && after.applied >= after.detected, "{after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_patches_a_real_system_with_what_was_approved_and_nothing_else() {
    let Some(pristine) = pristine_root("installing on a real Debian root") else { return };
    let mut fleet = Fleet::start().await;
    fleet.archive.update(&Package::new("hello", "2.0").with("Depends: hello-data (>= 2)"));
    fleet.archive.besides(&Package::new("hello-data", "2.1"));
    fleet.archive.update(&Package::new("unwanted", "2.0"));
    fleet.archive.publish();
    fleet.sync().await;
    let relay = fleet.relay("osaka").await;
    relay.caught_up(&fleet).await;
    let root = fleet.folder("root");
    real(&pristine, &root, &[Package::new("hello", "1.0"), Package::new("unwanted", "1.0")]);
    let mut endpoint = fleet.enroll("web1", "osaka", relay.address, &root).await;
    endpoint.start().await;
    assert_eq!(endpoint.check().await.needed, 2);

    fleet.approve(&[PATCH]).await;
    relay.caught_up(&fleet).await;
    let done = endpoint.check().await;
    assert_eq!((done.needed, done.installed, done.failed), (1, 1, 0), "{:?}", done.problems);
    let versions = ["hello", "hello-data", "unwanted"].map(|name| installed_version(&root, name));
    assert_eq!(versions.each_ref().map(Option::as_deref), [Some("2.0"), Some("2.1"), Some("1.0")]);

    relay.forwarded().await;
    let row = fleet.until_state(&endpoint.id, PATCH, "installed").await;
    let times = row.times.unwrap();
    assert!(times.detected > 0 && times.authorized > 0 && times.applied > 0, "{times:?}");
    assert_eq!(fleet.state(&endpoint.id, "debian-12/unwanted_2.0").await.unwrap().state, "needed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_and_downloaded_by_hand_is_told_with_its_figures_and_among_the_tasks() {
    let mut fleet = Fleet::start().await;
    fleet.archive.update(&Package::new("hello", "2.0"));
    fleet.archive.publish();
    let mut admin = fleet.admin().await;
    for new in [1, 0] {
        let request = v1::SyncSourceRequest { name: None };
        let mut progress = admin.sync_source(request).await.unwrap().into_inner();
        let mut steps = Vec::new();
        while let Some(step) = progress.message().await.unwrap() {
            steps.push((step.step, step.done, step.total));
        }
        let [(begun, 0, 1), (read, 1, 1)] = &steps[..] else { panic!("{steps:?}") };
        let told = format!(": {new} new, 0 changed, 0 gone, 1 in all");
        assert!(begun.starts_with("reading ") && read.ends_with(&told), "{steps:?}");
    }
    let last_run = async || {
        let tasks = fleet.admin().await.list_tasks(v1::ListTasksRequest {}).await.unwrap().into_inner().tasks;
        tasks.into_iter().find(|task| task.name == "download").unwrap().last_run
    };
    assert_eq!(last_run().await, 0);
    let mut progress = admin.download_payloads(v1::DownloadPayloadsRequest {}).await.unwrap().into_inner();
    while progress.message().await.unwrap().is_some() {}
    assert_ne!(last_run().await, 0);
}
