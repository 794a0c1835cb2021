use jiff::Timestamp;
use ring::rand::SystemRandom;
use tierway_common::{rules::expr::FlagTest, trust::keys::SigningKey};

use super::*;
use crate::{
    catalog::tests::{Bench, bench, facts, update},
    inventory::facts as kept,
};

/// An endpoint with these packages, in the store as if it had reported them.
fn endpoint(bench: &Bench, number: u32, packages: &[(&str, &str)]) {
    let facts = facts(packages);
    let key = SigningKey::generate(&SystemRandom::new()).unwrap().public();
    let at: Timestamp = bench.clock.now();
    let id = format!("e{number}").parse().unwrap();
    let record = EndpointRecord {
        name: format!("host-{number}"),
        facts: Some(kept::summary(&facts, at)),
        ..EndpointRecord::enrolled(number, id, "lyon".parse().unwrap(), key, at)
    };
    bench
        .state
        .change(|_, change| {
            change.write(Write::Endpoint(Arc::new(record)));
            change.write(Write::Facts(number, kept::pack(&facts).unwrap()));
            Ok::<_, StoreError>(())
        })
        .unwrap();
}

/// Applies and publishes, as version `version`, then runs.
fn publish(bench: &Bench, updates: &[Update], version: u64) -> Exposed {
    bench.apply(updates);
    run(&bench.state, &bench.trees, &published(bench, version)).unwrap()
}

fn published(bench: &Bench, timestamp_version: u64) -> PublishedRecord {
    let roots =
        bench.state.model().catalogues().iter().map(|(id, record)| (id.clone(), record.root)).collect();
    PublishedRecord { timestamp_version, roots, ..PublishedRecord::default() }
}

fn set(bench: &Bench, number: u32, entry: Entry) {
    let old = Arc::new(bench.state.states(number).unwrap());
    let mut new = Record::clone(&old);
    new.set(entry).unwrap();
    bench
        .state
        .change(|_, change| {
            change.write(Write::States { endpoint: number, old, new: Arc::new(new) });
            Ok::<_, StoreError>(())
        })
        .unwrap();
}

fn states(bench: &Bench, number: u32) -> Vec<(u32, UpdateState, bool)> {
    let record = bench.state.states(number).unwrap();
    record.entries().iter().map(|entry| (entry.update, entry.state, entry.estimated)).collect()
}

use UpdateState::{Failed, Installed, Needed, RebootPending, Unknown};

/// As an endpoint reports it.
fn own(update: u32, state: UpdateState) -> Entry {
    Entry {
        update,
        state,
        estimated: false,
        since: 5,
        detected: Some(3),
        authorized: None,
        applied: None,
        detail: Some("dpkg failed".into()),
        progress: Progress::default(),
    }
}

#[test]
fn a_new_dictionary_shows_who_is_affected_before_anyone_scans() {
    let bench = bench();
    endpoint(&bench, 0, &[("a", "1"), ("b", "2")]);
    endpoint(&bench, 1, &[("a", "2")]);
    endpoint(&bench, 2, &[("c", "1")]);
    let exposed = publish(&bench, &[update("a", "2"), update("b", "2")], 7);
    assert_eq!(exposed, Exposed { updates: 2, endpoints: 3, affected: 2 });
    assert_eq!(states(&bench, 0), [(0, Needed, true), (1, Installed, true)]);
    assert_eq!(states(&bench, 1), [(0, Installed, true)]);
    assert_eq!(states(&bench, 2), []);
    let model = bench.state.model();
    assert_eq!(model.index().lacking(0).iter().collect::<Vec<_>>(), [0]);
    assert_eq!(model.endpoint(0).unwrap().estimated_for, 7);
    assert!(model.assessed().contains(0) && !model.assessed().contains(2));
}

#[test]
fn the_same_publication_is_evaluated_once_and_a_later_one_only_where_it_differs() {
    let bench = bench();
    endpoint(&bench, 0, &[("a", "1"), ("b", "1")]);
    let (a, b) = (update("a", "2"), update("b", "2"));
    publish(&bench, std::slice::from_ref(&a), 1);
    assert_eq!(run(&bench.state, &bench.trees, &published(&bench, 1)).unwrap(), Exposed::default());
    let exposed = publish(&bench, &[a, b], 2);
    assert_eq!((exposed.updates, exposed.affected), (1, 1));
    assert_eq!(states(&bench, 0), [(0, Needed, true), (1, Needed, true)]);
}

#[test]
fn what_the_endpoint_found_itself_stays_where_central_concludes_the_same_or_knows_less() {
    let bench = bench();
    endpoint(&bench, 0, &[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1"), ("e", "1"), ("f", "2")]);
    // Of `c` and `d` it takes a flag that nobody has asked for before to tell whether they are installed.
    let asks = |product: &str| Update {
        installed: Expr::Flag(FlagTest { name: "asked-for-now".to_owned() }),
        ..update(product, "2")
    };
    let updates =
        [update("a", "2"), update("b", "2"), asks("c"), asks("d"), update("e", "2"), update("f", "2")];
    bench.apply(&updates);
    for own in
        [own(0, Failed), own(1, Needed), own(2, Installed), own(4, RebootPending), own(5, RebootPending)]
    {
        set(&bench, 0, own);
    }
    let exposed = run(&bench.state, &bench.trees, &published(&bench, 1)).unwrap();
    assert_eq!(exposed.affected, 1);
    let theirs = vec![(0, Failed, false), (1, Needed, false), (2, Installed, false)];
    let rest = vec![(3, Unknown, true), (4, RebootPending, false), (5, RebootPending, false)];
    assert_eq!(states(&bench, 0), [theirs, rest].concat());
    assert!(!bench.state.model().endpoint(0).unwrap().overruled);
}

#[test]
fn what_stands_in_place_of_what_the_endpoint_reported_is_remembered_until_it_has_sent_it_again() {
    for (own, packages, expected) in [
        (own(0, Installed), [("a", "1")].as_slice(), vec![(0, Needed, true)]),
        (own(0, Needed), &[("b", "1")], vec![]),
    ] {
        let bench = bench();
        endpoint(&bench, 0, packages);
        bench.apply(&[update("a", "2")]);
        set(&bench, 0, own);
        run(&bench.state, &bench.trees, &published(&bench, 1)).unwrap();
        assert_eq!(states(&bench, 0), expected);
        assert!(bench.state.model().endpoint(0).unwrap().overruled);
    }
}

#[test]
fn what_applies_no_more_is_forgotten_and_what_is_needed_again_is_needed_since_now() {
    let bench = bench();
    endpoint(&bench, 0, &[("a", "2"), ("b", "1")]);
    publish(&bench, &[update("a", "2"), update("b", "2")], 1);
    let mut installed = bench.state.states(0).unwrap().get(0).unwrap().clone();
    (installed.detected, installed.applied) = (Some(100), Some(200));
    set(&bench, 0, installed);
    bench.clock.advance(jiff::SignedDuration::from_hours(1));
    // The same updates with other rules: `a` is not new enough after all, `b` is for what is not there.
    let (mut a, mut b) = (update("a", "2"), update("b", "2"));
    a.installed = update("a", "3").installed;
    b.applicable = update("c", "1").applicable;
    assert_eq!(publish(&bench, &[a, b], 2).affected, 1);
    assert_eq!(states(&bench, 0), [(0, Needed, true)]);
    let entry = bench.state.states(0).unwrap().get(0).unwrap().clone();
    let now = u32::try_from(bench.clock.now().as_second()).unwrap();
    assert_eq!((entry.detected, entry.applied), (Some(now), None));
}

#[test]
fn an_endpoint_that_has_evaluated_this_dictionary_itself_is_left_alone() {
    let bench = bench();
    endpoint(&bench, 0, &[("a", "1")]);
    let record = EndpointRecord {
        dictionary_version: 4,
        ..EndpointRecord::clone(bench.state.model().endpoint(0).unwrap())
    };
    bench
        .state
        .change(|_, change| {
            change.write(Write::Endpoint(Arc::new(record)));
            Ok::<_, StoreError>(())
        })
        .unwrap();
    assert_eq!(publish(&bench, &[update("a", "2")], 4).affected, 0);
    assert_eq!(publish(&bench, &[update("a", "3")], 5).affected, 1);
}

#[test]
fn an_update_that_is_withdrawn_is_needed_nowhere() {
    let bench = bench();
    endpoint(&bench, 0, &[("a", "1"), ("b", "1")]);
    publish(&bench, &[update("a", "2"), update("b", "2")], 1);
    publish(&bench, &[update("b", "2")], 2);
    assert_eq!(states(&bench, 0), [(1, Needed, true)]);
    assert!(bench.state.model().index().lacking(0).is_empty());
}
