use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tierway_common::schema::State as UpdateState;

use super::*;
use crate::{
    catalog::tests::{Bench, bench, blobs, update},
    sources::fetch::{Answer, Body, FetchError, Validators},
};

/// A vendor that has every package that [`update`] names, and counts how often it is asked.
#[derive(Clone, Debug, Default)]
struct Vendor {
    asked: Arc<AtomicUsize>,
}

struct Whole(Option<Bytes>);

impl Body for Whole {
    async fn chunk(&mut self) -> Result<Option<Bytes>, FetchError> {
        // Lets others come in between.
        tokio::task::yield_now().await;
        Ok(self.0.take())
    }
}

impl Fetch for Vendor {
    type Body = Whole;

    async fn get(&self, url: &str, _: Option<&Validators>, offset: u64) -> Result<Answer<Whole>, FetchError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let name = url.rsplit('/').next().unwrap().trim_end_matches(".deb");
        let Some((product, version)) = name.split_once('_').filter(|(product, _)| *product != "missing")
        else {
            return Ok(Answer::Absent);
        };
        let bytes = Bytes::from(format!("the package {product} {version}"));
        let rest = bytes.slice(usize::try_from(offset).unwrap()..);
        Ok(Answer::Found { offset, validators: Validators::default(), body: Whole(Some(rest)) })
    }
}

struct Depot {
    bench: Bench,
    vendor: Vendor,
    payloads: Payloads<Vendor>,
    _dir: tempfile::TempDir,
}

fn depot(on_demand: bool) -> Depot {
    let (bench, vendor, dir) = (bench(), Vendor::default(), tempfile::tempdir().unwrap());
    bench.apply(&[update("a", "2"), update("b", "2"), update("missing", "1")]);
    let payloads = Payloads::new(
        bench.state.clone(),
        bench.trees.clone(),
        blobs(dir.path()),
        [(bench.source.catalogue().unwrap().clone(), vendor.clone())].into(),
        Options::default(),
        on_demand,
        Stop::new(),
    );
    Depot { bench, vendor, payloads, _dir: dir }
}

fn digest(product: &str, version: &str) -> Digest {
    Digest::of(format!("the package {product} {version}").as_bytes())
}

#[tokio::test]
async fn a_payload_that_is_not_here_is_fetched_once_however_many_ask_for_it() {
    let depot = depot(true);
    let wanted = digest("a", "2");
    assert!(depot.payloads.open(&wanted).is_none());
    let asking = (0..20).map(|_| depot.payloads.fetch(wanted));
    assert_eq!(futures_util::future::join_all(asking).await, [true; 20]);
    assert!(depot.payloads.open(&wanted).is_some_and(|reader| reader.len() == 15));
    assert!(depot.payloads.fetch(wanted).await, "it is here already");
    assert_eq!(depot.vendor.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_no_catalogue_names_is_not_asked_for_anywhere() {
    let depot = depot(true);
    assert!(!depot.payloads.fetch(Digest::of(b"anything")).await);
    assert_eq!(depot.vendor.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn without_permission_nothing_is_fetched_on_demand() {
    let depot = depot(false);
    depot.payloads.stage(&[digest("a", "2")]).await;
    assert!(!depot.payloads.fetch(digest("a", "2")).await);
    assert_eq!(depot.vendor.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_node_of_a_published_tree_is_served_too() {
    let depot = depot(false);
    let root = depot.bench.state.model().catalogues()[depot.bench.source.catalogue().unwrap()].root;
    assert!(depot.payloads.open(&root).is_some());
}

#[tokio::test]
async fn what_is_wanted_comes_is_pinned_and_a_failure_names_what_is_missing() {
    let depot = depot(true);
    let (progress, watched) = watch::channel(Progress::default());
    let error = depot.payloads.run(Which::All, &progress).await.unwrap_err();
    let text = Chain(&error).to_string();
    assert!(text.contains("1 payloads could not be had") && text.contains("missing_1"), "{text}");
    for (product, here) in [("a", true), ("b", true), ("missing", false)] {
        let version = if here { "2" } else { "1" };
        assert_eq!(depot.payloads.blobs().contains(&digest(product, version)), here);
    }
    assert!(depot.payloads.blobs().pins(PIN_OWNER).contains(&digest("a", "2")));
    assert_eq!((watched.borrow().done, watched.borrow().unit), (30, "bytes"));
    let (here, all) = depot.payloads.usage(Which::All).await.unwrap();
    assert_eq!((here, all), (30, 30 + "the package missing 1".len() as u64));
}

#[tokio::test]
async fn of_a_needed_update_only_what_is_installed_somewhere_is_fetched_ahead() {
    use crate::{
        compliance::record::{Entry, Record},
        model::Write,
    };
    let depot = depot(true);
    let (progress, _) = watch::channel(Progress::default());
    assert_eq!(depot.payloads.run(Which::Needed, &progress).await.unwrap(), 0);
    let state = &depot.bench.state;
    crate::fleet::tests::enrol_for_tests(&depot.bench, "web-1", &[("a", "1")]);
    let mut new = Record::default();
    for number in [0, 1] {
        new.set(Entry {
            update: number,
            state: UpdateState::Needed,
            estimated: false,
            since: 0,
            detected: None,
            authorized: None,
            applied: None,
            detail: None,
            progress: Default::default(),
        })
        .unwrap();
    }
    state
        .change(|_, change| {
            change.write(Write::States { endpoint: 0, old: Arc::default(), new: Arc::new(new) });
            Ok::<_, StoreError>(())
        })
        .unwrap();
    assert_eq!(depot.payloads.run(Which::Needed, &progress).await.unwrap(), 1);
    assert!(depot.payloads.blobs().contains(&digest("a", "2")));
    assert!(!depot.payloads.blobs().contains(&digest("b", "2")), "b is installed nowhere");
}
