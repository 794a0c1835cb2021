use std::sync::Arc;

use tierway_common::{
    id::{RingPlanId, UpdateId},
    store::table,
};

use super::*;
use crate::{
    catalog::tests::Bench,
    decide::{
        About, Verb,
        groups::{Membership, delete_group, set_group},
        rollouts,
        tests::{ADMIN, decide, id, last_audit, office},
    },
    policy::gates::Hand,
    state::State,
    store::tables,
};

fn read(kind: Kind, json: &str) -> Document {
    Document::read(kind, json).unwrap()
}

fn level(json: &str) -> Document {
    read(Kind::Level, json)
}

const NIGHT: &str = r#"{"id":"night","opens":[{"on":"every","at":"02:00:00"}],"length":"2h"}"#;

fn night() -> Document {
    read(Kind::Window, NIGHT)
}

fn with_level(bench: &Bench, group: &str, level: &str) {
    let level = level.parse().unwrap();
    set_group(&bench.state, &id(group), 1, &Membership::Everyone, Some(&level), ADMIN).unwrap();
}

/// What is to be published under a key.
fn pending(bench: &Bench, key: &str) -> Option<Option<String>> {
    table::get(bench.state.store(), &tables::PendingPolicy { tenant: bench.state.tenant(), key }).unwrap()
}

#[test]
fn documents_are_kept_published_and_audited_in_one_change_and_survive_a_restart() {
    let bench = office();
    let documents = [level(r#"{"id":"servers","windows":["night"]}"#), night()];
    let (outcomes, sequence) = set(&bench.state, &documents, ADMIN).unwrap();
    assert_eq!(outcomes, [Outcome::Added, Outcome::Added], "they may name each other");
    assert_eq!(last_audit(&bench).sequence, sequence);
    assert_eq!(last_audit(&bench).action, "set window");
    let text = pending(&bench, "level/servers").unwrap().unwrap();
    assert_eq!(text, r#"{"id":"servers","windows":["night"]}"#);

    let (outcomes, again) = set(&bench.state, &documents, ADMIN).unwrap();
    assert_eq!((outcomes, again), (vec![Outcome::Unchanged; 2], sequence), "nothing new, no record");
    let changed = [level(r#"{"id":"servers","deadline":"30days"}"#)];
    assert_eq!(set(&bench.state, &changed, ADMIN).unwrap().0, [Outcome::Changed]);

    let reopened =
        State::open(bench.state.tenant().clone(), Arc::clone(&bench.store), bench.clock.clone()).unwrap();
    let model = reopened.model();
    assert_eq!(model.policy().documents().get(Kind::Level, "servers"), changed.first());
    assert_eq!(model.policy().documents().of(Kind::Window).count(), 1);
}

#[test]
fn of_several_documents_one_that_is_refused_keeps_all_out_and_a_trial_changes_nothing() {
    let bench = office();
    for (documents, expected) in [
        (vec![night(), level(r#"{"id":"a","windows":["day"]}"#)], "there is no window `day`"),
        (vec![night(), night()], "`window` must be given once, found `night: given twice`"),
        (
            vec![
                night(),
                read(
                    Kind::RingPlan,
                    r#"{"id":"p","rings":[{"name":"t","who":{"group":"x"}},{"name":"r","who":"rest"}]}"#,
                ),
            ],
            "there is no group `x`",
        ),
        (
            vec![
                night(),
                read(Kind::ResultCodes, r#"{"scope":{"update":"debian-12/x_1"},"codes":{"1":"busy"}}"#),
            ],
            "there is no patch `debian-12/x_1`",
        ),
        (
            vec![
                night(),
                read(Kind::Trust, r#"{"successes_at_least":1,"over":"1h","failure_permille_max":0}"#),
            ],
            "`trust policy` must be set when a group has a level with `untrusted`",
        ),
        (vec![night(), level(r#"{"id":"a","grace":"9days"}"#)], "service level `a` is refused"),
    ] {
        let error = set(&bench.state, &documents, ADMIN).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
        assert_eq!(bench.state.model().policy().documents().of(Kind::Window).count(), 0);
    }
    let tried = try_out(&bench.state.model(), &[night()], bench.clock.now()).unwrap();
    assert_eq!(tried, [Outcome::Added]);
    assert_eq!(pending(&bench, "window/night"), None);
}

#[test]
fn what_is_named_cannot_be_deleted_and_the_refusal_says_by_what() {
    let bench = office();
    let plan = r#"{"id":"safe","rings":[{"name":"t","who":{"group":"everyone"}},{"name":"r","who":"rest"}]}"#;
    let documents = [night(), level(r#"{"id":"servers","windows":["night"]}"#), read(Kind::RingPlan, plan)];
    set(&bench.state, &documents, ADMIN).unwrap();
    with_level(&bench, "everyone", "servers");
    let names = ["a".to_owned()];
    let conditions = crate::decide::Conditions { rings: Some("safe".parse().unwrap()), ..Default::default() };
    let about = About::Named(&names);
    crate::decide::patches_if(&bench.state, about, &id("everyone"), Verb::Approve, &conditions, ADMIN)
        .unwrap();
    let refused = |kind, name: &str| delete(&bench.state, kind, name, ADMIN).unwrap_err().to_string();
    assert_eq!(refused(Kind::Window, "night"), "window `night` is named by service level `servers`");
    assert_eq!(refused(Kind::Level, "servers"), "service level `servers` is named by group `everyone`");
    assert_eq!(
        refused(Kind::RingPlan, "safe"),
        "ring plan `safe` is named by the approval of `debian-12/a_2` for group `everyone`"
    );
    assert_eq!(refused(Kind::Level, "none"), "there is no service level `none`");
    let error = delete_group(&bench.state, &id("everyone"), ADMIN).unwrap_err().to_string();
    assert_eq!(error, "group `everyone` is named by ring plan `safe`");

    decide(&bench, About::Named(&names), "everyone", Verb::Clear);
    set_group(&bench.state, &id("everyone"), 1, &Membership::Everyone, None, ADMIN).unwrap();
    for (kind, name) in [(Kind::RingPlan, "safe"), (Kind::Level, "servers"), (Kind::Window, "night")] {
        delete(&bench.state, kind, name, ADMIN).unwrap();
        assert_eq!(pending(&bench, &kind.key(name)), Some(None), "it is taken out of what is published");
    }
    assert_eq!(pending(&bench, "rollout/safe/debian-12/a_2"), Some(None));
    assert!(bench.state.model().policy().rollouts().is_empty());
}

#[test]
fn a_group_cannot_have_a_level_that_is_not_there() {
    let bench = office();
    let level = "gold".parse().unwrap();
    let error = set_group(&bench.state, &id("g"), 1, &Membership::Everyone, Some(&level), ADMIN).unwrap_err();
    assert_eq!(error.to_string(), "there is no service level `gold`");
}

#[test]
fn the_settings_of_an_endpoint_come_from_its_groups_by_priority_then_name() {
    let bench = office();
    let levels = [
        level(r#"{"id":"slow","deadline":"30days","grace":"1day"}"#),
        level(r#"{"id":"fast","deadline":"24h"}"#),
    ];
    set(&bench.state, &levels, ADMIN).unwrap();
    with_level(&bench, "b", "slow");
    with_level(&bench, "a", "fast");
    let model = bench.state.model();
    let groups = model.groups_of(model.endpoint(0).unwrap());
    let settings = model.policy().settings(&groups);
    let origin = |name: &str| settings.origins.get(name).map(ToString::to_string);
    assert_eq!(origin("deadline").as_deref(), Some("level `fast` of group `a`"));
    assert_eq!(origin("grace").as_deref(), Some("level `slow` of group `b`"));
}

#[test]
fn the_rings_of_a_plan_stay_while_an_update_is_on_its_way() {
    let bench = office();
    let plan = |first: &str, soak: &str| {
        read(
            Kind::RingPlan,
            &format!(
                r#"{{"id":"safe","rings":[{{"name":"t","who":{first},"soak":"{soak}"}},{{"name":"r","who":"rest"}}]}}"#
            ),
        )
    };
    set(&bench.state, &[plan(r#"{"permille":10}"#, "1h")], ADMIN).unwrap();
    let (names, rings) = (["a".to_owned()], Some("safe".parse().unwrap()));
    let conditions = crate::decide::Conditions { rings, ..Default::default() };
    let about = About::Named(&names);
    crate::decide::patches_if(&bench.state, about, &id("everyone"), Verb::Approve, &conditions, ADMIN)
        .unwrap();
    set(&bench.state, &[plan(r#"{"permille":10}"#, "2h")], ADMIN).unwrap();
    let error = set(&bench.state, &[plan(r#"{"permille":900}"#, "2h")], ADMIN).unwrap_err().to_string();
    assert!(error.contains("`debian-12/a_2` is on its way"), "{error}");
}

#[test]
fn what_went_through_all_rings_of_a_plan_is_open_in_a_ring_that_is_added_to_it() {
    let bench = office();
    let plan = |middle: &str| {
        let test = r#"{"name":"t","who":{"permille":10},"soak":"1h"}"#;
        read(
            Kind::RingPlan,
            &format!(r#"{{"id":"safe","rings":[{test},{middle}{{"name":"r","who":"rest"}}]}}"#),
        )
    };
    set(&bench.state, &[plan("")], ADMIN).unwrap();
    let (names, safe): (_, RingPlanId) = (["a".to_owned()], "safe".parse().unwrap());
    let conditions = crate::decide::Conditions { rings: Some(safe.clone()), ..Default::default() };
    let about = About::Named(&names);
    crate::decide::patches_if(&bench.state, about, &id("everyone"), Verb::Approve, &conditions, ADMIN)
        .unwrap();
    let update: UpdateId = "debian-12/a_2".parse().unwrap();
    rollouts::control(&bench.state, &safe, &update, Hand::Promote, ADMIN).unwrap();
    let three = || plan(r#"{"name":"m","who":{"permille":100}},"#);
    for (plan, open, is_stuck) in
        [(three(), 2, false), (plan(""), 1, false), (three(), 2, false), (three(), 2, true)]
    {
        if is_stuck {
            let mut record = bench.state.model().policy().rollouts()[&(safe.clone(), update.clone())].clone();
            record.rollout.open = 1;
            let change = bench.state.change(|_, change| {
                change.write(Write::Rollout(record));
                Ok::<_, DecideError>(())
            });
            change.unwrap();
        }
        set(&bench.state, &[plan], ADMIN).unwrap();
        let record = bench.state.model().policy().rollouts()[&(safe.clone(), update.clone())].clone();
        assert_eq!((record.rollout.stage, record.rollout.open), (RolloutStage::Complete, open));
        let told = pending(&bench, "rollout/safe/debian-12/a_2").unwrap().unwrap();
        assert!(told.contains(&format!(r#""stage":"complete","open":{open}"#)), "{told}");
    }
}
