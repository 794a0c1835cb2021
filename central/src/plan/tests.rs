use std::sync::{Arc, Barrier};

use serde_json::json;
use tierway_common::schema::{Group, Members};

use super::*;
use crate::{
    catalog::tests::{Bench, bench, update},
    compliance::record::{Entry, Record},
    fleet::tests::enrol_for_tests,
    model::Write,
};

/// How often two race: often enough that each is first in some.
const RACES: u32 = 100;

fn change(bench: &Bench, writes: Vec<Write>) {
    bench
        .state
        .change(|_, change| {
            writes.into_iter().for_each(|write| change.write(write));
            Ok::<_, StoreError>(())
        })
        .unwrap();
}

fn needs(bench: &Bench, endpoint: u32, updates: &[u32]) {
    let mut new = Record::default();
    for update in updates {
        let entry = Entry {
            update: *update,
            state: UpdateState::Needed,
            estimated: false,
            since: 1,
            detected: Some(1),
            authorized: None,
            applied: None,
            detail: None,
            progress: Default::default(),
        };
        new.set(entry).unwrap();
    }
    let old = Arc::new(bench.state.states(endpoint).unwrap());
    change(bench, vec![Write::States { endpoint, old, new: Arc::new(new) }]);
}

fn window(length: &str) -> Write {
    let json = json!({
        "id": "nightly", "opens": [{ "on": "every", "at": "02:00:00" }], "length": length, "at_once_max": 1,
    });
    Write::Document(Document::read(Kind::Window, &json.to_string()).unwrap())
}

fn group(priority: u32) -> Write {
    let (id, level) = ("all".parse().unwrap(), Some("servers".parse().unwrap()));
    Write::Group(Group { id, priority, members: Members::Everyone, level })
}

/// Three computers of which two need `a` and one `b`; all are changed in a nightly window, one at a time.
fn fleet() -> Bench {
    let bench = bench();
    bench.apply(&[update("a", "2"), update("b", "2")]);
    let level = Document::read(Kind::Level, r#"{"id":"servers","windows":["nightly"]}"#).unwrap();
    change(&bench, vec![group(0), window("3h"), Write::Document(level)]);
    for (number, (name, updates)) in (0..).zip([("web-1", &[0_u32][..]), ("web-2", &[0, 1]), ("web-3", &[])])
    {
        enrol_for_tests(&bench, name, &[("a", "1"), ("b", "1")]);
        needs(&bench, number, updates);
    }
    bench
}

fn plan(bench: &Bench, names: &[&str]) -> Result<(PlanRecord, Forecast), PlanError> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    approval(&bench.state, &bench.trees, &names, &"all".parse().unwrap(), None)
}

fn apply(bench: &Bench, id: &str) -> Result<Applied, PlanError> {
    super::apply(&bench.state, id, "operator:ana")
}

fn approvals(bench: &Bench) -> usize {
    bench.state.model().policy().approvals_count()
}

#[test]
fn a_plan_tells_who_what_when_and_how_many_bytes_and_is_applied_as_it_stands() {
    let bench = fleet();
    let (record, found) = plan(&bench, &["a", "b"]).unwrap();
    assert_eq!((found.endpoints, found.installations, found.reboots), (2, 3, 0));
    let link = found.links[&"lyon".parse().unwrap()];
    assert_eq!((link.endpoints, link.payloads, link.bytes), (2, 2, 2 * "the package a 2".len() as u64));
    // Nothing is measured yet, so each must have half an hour left.
    let carried: Vec<_> = found.fills.iter().map(|fill| (fill.endpoints, fill.carried_over)).collect();
    assert_eq!(carried, [(2, 0)], "{:?}", found.fills);
    assert_eq!(approvals(&bench), 0, "planned is not approved");
    bench.clock.advance(SignedDuration::from_hours(1));
    assert_eq!(plan(&bench, &["b", "a"]).unwrap().0.id, record.id, "the time is no input");
    let applied = apply(&bench, &record.id).unwrap();
    assert!(matches!(&applied, Applied::Done(updates, _) if updates.len() == 2), "{applied:?}");
    assert_eq!(approvals(&bench), 2);
}

#[test]
fn what_changed_since_a_plan_was_made_is_named_and_nothing_is_approved() {
    type Drift = fn(&Bench);
    let cases: [(Drift, &str); 8] = [
        (
            |bench| {
                let group = Group {
                    id: "web".parse().unwrap(),
                    priority: 9,
                    members: Members::Everyone,
                    level: None,
                };
                change(bench, vec![Write::Group(group)]);
            },
            "group web: new since it was planned",
        ),
        (
            |bench| {
                let level = Document::read(
                    Kind::Level,
                    r#"{"id":"servers","windows":["nightly"],"severity_at_least":"critical"}"#,
                );
                change(bench, vec![Write::Document(level.unwrap())]);
            },
            "service level servers: ",
        ),
        (|bench| needs(bench, 2, &[0]), "members that lack debian-12/a_2: 3 endpoints lack it"),
        (|bench| needs(bench, 0, &[]), "members that lack debian-12/a_2: 1 endpoints lack it"),
        (|bench| change(bench, vec![window("4h")]), "window nightly: "),
        (|bench| change(bench, vec![group(7)]), "group all: "),
        (
            |bench| {
                let all = "all".parse().unwrap();
                let names = ["a".to_owned()];
                decide::patches(&bench.state, About::Named(&names), &all, Verb::Decline, "operator:bo")
                    .unwrap();
            },
            "decision about debian-12/a_2 for group all: new since it was planned",
        ),
        (
            |bench| {
                let mut changed = update("a", "2");
                changed.title = "another title".to_owned();
                bench.apply(&[changed, update("b", "2")]);
            },
            "patch debian-12/a_2: ",
        ),
    ];
    for (happens, expected) in cases {
        let bench = fleet();
        let (record, _) = plan(&bench, &["a"]).unwrap();
        happens(&bench);
        let before = approvals(&bench);
        let Applied::Drifted(changes) = apply(&bench, &record.id).unwrap() else { panic!("{expected}") };
        assert!(changes.len() == 1 && changes[0].starts_with(expected), "{expected}: {changes:?}");
        assert_eq!(approvals(&bench), before);
        let again = plan(&bench, &["a"]).unwrap().0.id;
        assert_ne!(again, record.id);
        assert!(matches!(apply(&bench, &again).unwrap(), Applied::Done(..)), "{expected}");
    }
}

#[test]
fn what_is_not_trusted_is_planned_for_nobody_who_takes_only_what_is_and_drifts_when_that_changes() {
    let bench = fleet();
    let policy = r#"{"successes_at_least":2,"over":"1h","failure_permille_max":100}"#;
    change(&bench, vec![Write::Document(Document::read(Kind::Trust, policy).unwrap())]);
    let (record, found) = plan(&bench, &["a"]).unwrap();
    assert_eq!((found.endpoints, found.installations), (0, 0));
    assert_eq!(record.inputs["trust in debian-12/a_2"], "not trusted");
    decide::trust::promote(&bench.state, &["a".to_owned()], "operator:ana").unwrap();
    let Applied::Drifted(changes) = apply(&bench, &record.id).unwrap() else { panic!("it was applied") };
    assert_eq!(changes, ["trust in debian-12/a_2: gone since it was planned"]);
    assert_eq!(plan(&bench, &["a"]).unwrap().1.endpoints, 2);
}

#[test]
fn a_plan_of_as_many_patches_as_there_may_be_with_earlier_decisions_is_kept_and_applied() {
    let bench = fleet();
    let mut updates: Vec<_> =
        (0..PATCHES_MAX).map(|number| update(&format!("{}-{number}", "p".repeat(60)), "2")).collect();
    updates.push(update("a", "2"));
    bench.apply(&updates);
    let web = Group { id: "web".parse().unwrap(), priority: 9, members: Members::Everyone, level: None };
    change(&bench, vec![Write::Group(web)]);
    let names: Vec<String> = updates[..PATCHES_MAX].iter().map(|update| update.id.to_string()).collect();
    for group in ["all", "web"] {
        let about = About::Named(&names);
        decide::patches(&bench.state, about, &group.parse().unwrap(), Verb::Decline, "operator:bo").unwrap();
    }
    let (record, _) = approval(&bench.state, &bench.trees, &names, &"all".parse().unwrap(), None).unwrap();
    assert!(serde_json::to_vec(&record).unwrap().len() > 64 * 1024, "it is more than one row holds");
    assert_eq!(kept(&bench.state, &record.id).unwrap().as_ref(), Some(&record));
    let Applied::Done(changed, _) = apply(&bench, &record.id).unwrap() else { panic!("it drifted") };
    assert_eq!(changed.len(), PATCHES_MAX);
}

#[test]
fn what_changes_while_a_plan_is_being_applied_is_named_too() {
    let bench = fleet();
    let (record, _) = plan(&bench, &["a"]).unwrap();
    // It has been read, and whoever applies it has not got his turn yet.
    change(&bench, vec![window("4h")]);
    let applied = apply_kept(&bench.state, &record, "operator:ana").unwrap();
    assert!(matches!(&applied, Applied::Drifted(changes) if changes[0].starts_with("window nightly: ")));
    assert_eq!(approvals(&bench), 0);
}

#[test]
fn of_a_change_and_a_plan_that_race_the_plan_is_first_or_refused() {
    let bench = fleet();
    let (all, names) = ("all".parse().unwrap(), ["a".to_owned()]);
    for round in 1..=RACES {
        let (record, _) = plan(&bench, &["a"]).unwrap();
        let start = Barrier::new(2);
        let (applied, changed) = std::thread::scope(|scope| {
            let changed = scope.spawn(|| {
                start.wait();
                let changed = bench.state.change(|_, change| {
                    change.audit("operator:bo", "set group", "group:all".to_owned(), String::new());
                    change.write(group(round));
                    Ok::<_, StoreError>(())
                });
                changed.unwrap().1
            });
            start.wait();
            (apply(&bench, &record.id).unwrap(), changed.join().unwrap())
        });
        match applied {
            Applied::Done(_, sequence) => assert!(sequence < changed, "round {round}: applied after it"),
            Applied::Drifted(changes) => {
                assert!(changes.len() == 1 && changes[0].starts_with("group all: "), "{changes:?}");
            }
        }
        decide::patches(&bench.state, About::Named(&names), &all, Verb::Clear, "operator:ana").unwrap();
    }
}

#[test]
fn what_does_not_matter_to_a_plan_does_not_make_it_drift() {
    let bench = fleet();
    let (record, _) = plan(&bench, &["a"]).unwrap();
    // Another update, and one computer more that does not need it.
    needs(&bench, 2, &[1]);
    enrol_for_tests(&bench, "web-4", &[("a", "2")]);
    bench.clock.advance(SignedDuration::from_hours(100));
    assert!(matches!(apply(&bench, &record.id).unwrap(), Applied::Done(..)));
}

#[test]
fn a_plan_that_was_never_made_or_is_too_old_is_not_found() {
    let bench = fleet();
    let missing = apply(&bench, "0123456789abcdef").unwrap_err();
    assert_eq!(missing.to_string(), "there is no plan `0123456789abcdef`");
    let (record, _) = plan(&bench, &["a"]).unwrap();
    bench.clock.advance(KEPT + SignedDuration::from_secs(1));
    assert!(apply(&bench, &record.id).is_err());
    assert_eq!(approvals(&bench), 0);
    let too_many = vec!["nothing"; PATCHES_MAX + 1];
    for (names, said) in [
        (&too_many[..], "`patches` must be 1 to 200, found `201`"),
        (&[][..], "`patches` must be 1 to 200, found `0`"),
        (&["nothing"][..], "there is no patch `nothing`"),
    ] {
        assert_eq!(plan(&bench, names).unwrap_err().to_string(), said);
    }
}

#[test]
fn no_more_plans_are_kept_than_there_may_be_and_the_oldest_go_first() {
    let bench = fleet();
    let (first, _) = plan(&bench, &["a"]).unwrap();
    for number in 0..PLANS_MAX {
        bench.clock.advance(SignedDuration::from_secs(1));
        let record = PlanRecord { id: format!("p{number}"), at: bench.state.now(), ..first.clone() };
        keep(&bench.state, &record).unwrap();
    }
    let parts = table::Key::new().text(bench.state.tenant().as_str()).done();
    let kept = table::scan::<tables::Plan<'_>>(bench.state.store(), &parts, None, usize::MAX).unwrap();
    assert_eq!(kept.len(), PLANS_MAX);
    assert!(apply(&bench, &first.id).is_err());
}
