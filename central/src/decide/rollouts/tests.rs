use jiff::SignedDuration;
use tierway_common::{schema::State as UpdateState, store::table};

use super::*;
use crate::{
    audit,
    catalog::tests::Bench,
    decide::{
        About, Conditions, PassedOn, Verb, documents,
        groups::{Membership, set_group},
        patches_if, templates,
        tests::{ADMIN, decide, host, id, last_audit, office, report},
        trust,
    },
    policy::documents::{Document, Kind},
    store::tables,
};

/// Update `a`.
const A: u32 = 0;

fn update() -> UpdateId {
    "debian-12/a_2".parse().unwrap()
}

fn plan() -> RingPlanId {
    "safe".parse().unwrap()
}

/// Ten hosts that need `a`; the first three are in `test`. Plan `safe`: the test group until two of it have it for an
/// hour, then everybody.
fn fleet() -> Bench {
    let bench = office();
    for number in 2..10 {
        host(&bench, number);
    }
    for number in 0..10 {
        report(&bench, number, A, UpdateState::Needed, None);
    }
    let testers = Membership::Named(["host-0", "host-1", "host-2"].map(str::to_owned).to_vec());
    set_group(&bench.state, &id("test"), 5, &testers, None, ADMIN).unwrap();
    let safe = r#"{"id":"safe","rings":[
        {"name":"test","who":{"group":"test"},"soak":"1h","successes_at_least":2,"failures_min":1},
        {"name":"broad","who":"rest"}]}"#;
    documents::set(&bench.state, &[Document::read(Kind::RingPlan, safe).unwrap()], ADMIN).unwrap();
    bench
}

fn approve(bench: &Bench) {
    let (names, conditions) = (["a".to_owned()], Conditions { rings: Some(plan()), ..Conditions::default() });
    let about = About::Named(&names);
    patches_if(&bench.state, about, &id("everyone"), Verb::Approve, &conditions, ADMIN).unwrap();
}

fn installed(bench: &Bench, host: u32) {
    report(bench, host, A, UpdateState::Installed, Some(bench.clock.now()));
}

fn stands(bench: &Bench) -> (RolloutStage, u32) {
    let model = bench.state.model();
    let record = &model.policy().rollouts()[&(plan(), update())];
    (record.rollout.stage, record.rollout.open)
}

fn pending(bench: &Bench, key: &str) -> String {
    let row = tables::PendingPolicy { tenant: bench.state.tenant(), key };
    table::get(bench.state.store(), &row).unwrap().flatten().unwrap_or_default()
}

fn hour(bench: &Bench) {
    bench.clock.advance(SignedDuration::from_hours(1));
}

#[test]
fn the_next_ring_opens_when_the_test_group_had_it_long_enough() {
    let bench = fleet();
    approve(&bench);
    assert_eq!(stands(&bench), (RolloutStage::Running, 0));
    assert!(pending(&bench, "rollout/safe/debian-12/a_2").contains(r#""stage":"running","open":0"#));
    installed(&bench, 0);
    // Outside of the ring: that says nothing about it.
    installed(&bench, 7);
    // It had it all along: that says nothing either.
    report(&bench, 2, A, UpdateState::Installed, None);
    hour(&bench);
    assert_eq!(run(&bench.state).unwrap(), 0);
    let standing = list(&bench.state, None).remove(0);
    let ring = &standing.rings[0];
    assert_eq!((ring.endpoints, ring.counts), (3, Counts { members: 3, successes: 1, failures: 0 }));
    assert_eq!(standing.waits, "ring `test`: 1 of 2 successes, 0 failures, it applies to 3 of its computers");
    assert_eq!(standing.rings[1].endpoints, 7);

    installed(&bench, 1);
    assert_eq!((run(&bench.state).unwrap(), stands(&bench)), (1, (RolloutStage::Complete, 1)));
    let record = last_audit(&bench);
    assert_eq!((record.actor.as_str(), record.action.as_str()), ("central", "open ring"));
    assert_eq!(record.object, "rollout:safe/debian-12/a_2");
    assert!(pending(&bench, "rollout/safe/debian-12/a_2").contains(r#""stage":"complete","open":1"#));
    assert_eq!(run(&bench.state).unwrap(), 0, "it moves once");
}

#[test]
fn a_failure_halts_it_until_a_person_resumes_it_and_that_failure_is_forgiven() {
    let bench = fleet();
    approve(&bench);
    report(&bench, 1, A, UpdateState::Failed, None);
    assert_eq!((run(&bench.state).unwrap(), stands(&bench)), (1, (RolloutStage::Halted, 0)));
    assert_eq!(last_audit(&bench).action, "halt rollout");
    installed(&bench, 0);
    installed(&bench, 2);
    hour(&bench);
    assert_eq!(run(&bench.state).unwrap(), 0, "a person must say that it goes on");

    control(&bench.state, &plan(), &update(), Hand::Resume, ADMIN).unwrap();
    assert_eq!(last_audit(&bench).action, "resume rollout");
    assert_eq!(run(&bench.state).unwrap(), 0, "it soaks anew");
    hour(&bench);
    assert_eq!((run(&bench.state).unwrap(), stands(&bench)), (1, (RolloutStage::Complete, 1)));
    // Another failure, in a ring that let the next one open.
    report(&bench, 2, A, UpdateState::Failed, None);
    assert_eq!((run(&bench.state).unwrap(), stands(&bench)), (1, (RolloutStage::Halted, 1)));
}

#[test]
fn what_people_do_is_audited_and_what_makes_no_sense_is_refused() {
    let bench = fleet();
    approve(&bench);
    control(&bench.state, &plan(), &update(), Hand::Pause, ADMIN).unwrap();
    assert_eq!(stands(&bench), (RolloutStage::Paused, 0));
    let error = control(&bench.state, &plan(), &update(), Hand::Pause, ADMIN).unwrap_err().to_string();
    assert_eq!(error, "`rollout` must be in another state to pause rollout, found `paused`");
    control(&bench.state, &plan(), &update(), Hand::Promote, ADMIN).unwrap();
    assert_eq!(stands(&bench), (RolloutStage::Complete, 1));
    control(&bench.state, &plan(), &update(), Hand::Abort, ADMIN).unwrap();
    assert_eq!((last_audit(&bench).actor.as_str(), stands(&bench).0), (ADMIN, RolloutStage::Aborted));
    approve(&bench);
    assert_eq!(stands(&bench), (RolloutStage::Running, 0), "approved once more, it begins anew");
    let error = control(&bench.state, &"x".parse().unwrap(), &update(), Hand::Abort, ADMIN).unwrap_err();
    assert_eq!(error.to_string(), "there is no rollout `x/debian-12/a_2`");
}

#[test]
fn another_group_that_goes_by_the_same_plan_begins_with_the_first_ring() {
    let bench = fleet();
    set_group(&bench.state, &id("more"), 5, &Membership::Named(vec!["host-9".to_owned()]), None, ADMIN)
        .unwrap();
    let approve_for = |group: &str| {
        let conditions = Conditions { rings: Some(plan()), ..Conditions::default() };
        let names = ["a".to_owned()];
        patches_if(&bench.state, About::Named(&names), &id(group), Verb::Approve, &conditions, ADMIN)
            .unwrap();
    };
    approve_for("test");
    control(&bench.state, &plan(), &update(), Hand::Promote, ADMIN).unwrap();
    approve_for("test");
    assert_eq!(stands(&bench), (RolloutStage::Complete, 1), "the same group once more: it goes on");
    approve_for("more");
    assert_eq!(stands(&bench), (RolloutStage::Running, 0));
    approve_for("test");
    assert_eq!(stands(&bench), (RolloutStage::Running, 0));
    control(&bench.state, &plan(), &update(), Hand::Promote, ADMIN).unwrap();
    control(&bench.state, &plan(), &update(), Hand::Pause, ADMIN).unwrap();
    assert_eq!(stands(&bench), (RolloutStage::Paused, 1));
    approve_for("everyone");
    assert_eq!(stands(&bench), (RolloutStage::Paused, 0), "who paused it says when it goes on");
    control(&bench.state, &plan(), &update(), Hand::Resume, ADMIN).unwrap();
    assert_eq!(stands(&bench), (RolloutStage::Running, 0));
}

#[test]
fn a_rollout_that_no_approval_goes_by_is_forgotten() {
    let bench = fleet();
    approve(&bench);
    decide(&bench, About::Named(&["a".to_owned()]), "everyone", Verb::Clear);
    assert_eq!((run(&bench.state).unwrap(), run(&bench.state).unwrap()), (1, 0));
    assert!(bench.state.model().policy().rollouts().is_empty());
}

#[test]
fn of_more_rollouts_than_move_in_one_run_the_others_move_in_the_next() {
    let bench = fleet();
    approve(&bench);
    let begun = bench.state.model().policy().rollouts()[&(plan(), update())].clone();
    let many = bench.state.change(|_, change| {
        for number in 0..MOVED_AT_ONCE_MAX {
            let mut record = begun.clone();
            record.rollout.update = format!("debian-12/many_{number}").parse().unwrap();
            change.write(Write::Rollout(record));
        }
        Ok::<_, StoreError>(())
    });
    many.unwrap();
    decide(&bench, About::Named(&["a".to_owned()]), "everyone", Verb::Clear);
    assert_eq!([(); 3].map(|()| run(&bench.state).unwrap()), [MOVED_AT_ONCE_MAX, 1, 0]);
}

#[test]
fn an_approval_can_ask_that_a_group_passed_and_is_told_what_is_missing() {
    let bench = fleet();
    let names = ["a".to_owned(), "b".to_owned()];
    let ask = |group: &str, successes, names: &[String]| {
        let passed_on = Some(PassedOn { group: id(group), successes });
        let conditions = Conditions { passed_on, ..Conditions::default() };
        let about = About::Named(names);
        patches_if(&bench.state, about, &id("everyone"), Verb::Approve, &conditions, ADMIN)
    };
    installed(&bench, 0);
    let error = ask("test", 1, &names).unwrap_err().to_string();
    assert_eq!(error, "group `test` has not passed `debian-12/b_2`: 0 of 1 successes, 0 failures");
    assert_eq!(ask("nobody", 1, &names).unwrap_err().to_string(), "there is no group `nobody`");
    let error = ask("test", 2, &names[..1]).unwrap_err().to_string();
    assert_eq!(error, "group `test` has not passed `debian-12/a_2`: 1 of 2 successes, 0 failures");
    report(&bench, 1, A, UpdateState::Failed, None);
    let error = ask("test", 1, &names[..1]).unwrap_err().to_string();
    assert_eq!(error, "group `test` has not passed `debian-12/a_2`: 1 of 1 successes, 1 failures");
    assert_eq!(bench.state.model().policy().approvals_count(), 0);
    installed(&bench, 1);
    assert_eq!(ask("test", 2, &names[..1]).unwrap().0, [update()]);
}

/// A policy by which two testers must have it for an hour.
fn distrust(bench: &Bench) {
    let read = |kind, json: &str| Document::read(kind, json).unwrap();
    documents::set(&bench.state, &[read(Kind::Level, r#"{"id":"testers","untrusted":true}"#)], ADMIN)
        .unwrap();
    let level = "testers".parse().unwrap();
    let testers = Membership::Named(["host-0", "host-1", "host-2"].map(str::to_owned).to_vec());
    set_group(&bench.state, &id("test"), 5, &testers, Some(&level), ADMIN).unwrap();
    let policy = r#"{"successes_at_least":2,"over":"1h","failure_permille_max":100}"#;
    documents::set(&bench.state, &[read(Kind::Trust, policy)], ADMIN).unwrap();
}

#[test]
fn an_update_is_trusted_when_the_testers_had_it_for_long_enough() {
    let bench = fleet();
    decide(&bench, About::Named(&["b".to_owned()]), "everyone", Verb::Approve);
    distrust(&bench);
    let trusted = || {
        let model = bench.state.model();
        model.policy().trusted().keys().map(|id| id.name().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(trusted(), ["b_2"], "what was approved before goes on");
    assert_eq!(trust::testers(&bench.state.model()).iter().collect::<Vec<_>>(), [0, 1, 2]);
    installed(&bench, 0);
    hour(&bench);
    installed(&bench, 7);
    assert_eq!(trust::run(&bench.state).unwrap(), 0);
    let waiting = trust::list(&bench.state).unwrap();
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0].waits, "1 of 2 successes, 0 failures");
    installed(&bench, 1);
    assert_eq!((trust::run(&bench.state).unwrap(), trusted()), (1, vec!["a_2".to_owned(), "b_2".to_owned()]));
    let record = last_audit(&bench);
    assert_eq!((record.action.as_str(), record.object.as_str()), ("trust", "patch:debian-12/a_2"));
    assert_eq!(record.detail, "promoted: 2 of 2 over 1h");
    assert!(pending(&bench, "trusted/debian-12/a_2").contains("promoted: 2 of 2 over 1h"));
    assert_eq!(trust::run(&bench.state).unwrap(), 0);

    documents::delete(&bench.state, Kind::Trust, "trust", ADMIN).unwrap();
    assert!(trusted().is_empty(), "without a policy everything is");
}

#[test]
fn two_successes_that_are_too_young_or_a_failure_keep_an_update_untrusted_until_a_person_vouches() {
    let bench = fleet();
    distrust(&bench);
    installed(&bench, 0);
    installed(&bench, 1);
    assert_eq!(trust::run(&bench.state).unwrap(), 0);
    let waits = || trust::list(&bench.state).unwrap().remove(0).waits;
    assert!(waits().starts_with("enough successes, the first only at "), "{}", waits());
    report(&bench, 2, A, UpdateState::Failed, None);
    hour(&bench);
    assert_eq!(trust::run(&bench.state).unwrap(), 0);
    assert_eq!(waits(), "1 of 3 attempts failed, more than 10 %");
    let (trusted, _) = trust::promote(&bench.state, &["a".to_owned()], ADMIN).unwrap();
    assert_eq!(trusted, [update()]);
    assert_eq!(bench.state.model().policy().trusted()[&update()].by, ADMIN);
}

#[test]
fn a_level_with_automatic_approval_counts_as_approval_unless_it_is_declined_or_too_mild() {
    let bench = fleet();
    let level = |json: &str| Document::read(Kind::Level, json).unwrap();
    let levels = [
        level(r#"{"id":"auto","approval":"automatic"}"#),
        level(r#"{"id":"grave","severity_at_least":"critical"}"#),
    ];
    documents::set(&bench.state, &levels, ADMIN).unwrap();
    let approved = || bench.state.model().approved_for(&update()).iter().collect::<Vec<_>>();
    assert!(approved().is_empty());
    let (auto, grave) = ("auto".parse().unwrap(), "grave".parse().unwrap());
    let named = |hosts: &[&str]| Membership::Named(hosts.iter().map(|host| (*host).to_owned()).collect());
    set_group(&bench.state, &id("test"), 5, &named(&["host-0", "host-1", "host-2"]), Some(&auto), ADMIN)
        .unwrap();
    assert_eq!(approved(), [0, 1, 2]);
    let why = |host| crate::fleet::why::why(&bench.state, &bench.trees, host, "a").unwrap().approval;
    assert_eq!(why("host-0"), "nobody decided, and its service level asks for no approval");
    assert_eq!(why("host-3"), "not decided for any of its groups");
    set_group(&bench.state, &id("few"), 1, &named(&["host-1"]), Some(&grave), ADMIN).unwrap();
    assert_eq!(approved(), [0, 2], "the update is not critical");
    set_group(&bench.state, &id("no"), 0, &named(&["host-2"]), None, ADMIN).unwrap();
    decide(&bench, About::Named(&["a".to_owned()]), "no", Verb::Decline);
    assert_eq!(approved(), [0], "somebody declined it");
}

#[test]
fn a_template_holds_what_is_installed_and_is_approved_for_others_with_one_record() {
    let bench = fleet();
    installed(&bench, 0);
    report(&bench, 0, 1, UpdateState::RebootPending, None);
    let name = "golden".parse().unwrap();
    assert_eq!(templates::capture(&bench.state, &name, "host-0", ADMIN).unwrap().0, 2);
    let of = |host: &str| templates::diff(&bench.state, &name, host).unwrap();
    assert!(of("host-0").is_empty());
    let differences = of("host-1");
    let told: Vec<_> = differences.iter().map(|d| (d.update.name(), d.in_template, d.on_endpoint)).collect();
    assert_eq!(told, [("a_2", true, UpdateState::Needed), ("b_2", true, UpdateState::Needed)]);
    report(&bench, 0, A, UpdateState::Needed, None);
    report(&bench, 3, A, UpdateState::Needed, None);
    report(&bench, 3, 1, UpdateState::Installed, None);

    let before = last_audit(&bench).sequence;
    let conditions = Conditions::default();
    let (changed, sequence) = templates::apply(&bench.state, &name, &id("test"), &conditions, ADMIN).unwrap();
    assert_eq!((changed.len(), sequence), (2, before + 1), "one record");
    let record = last_audit(&bench);
    assert_eq!((record.action.as_str(), record.object.as_str()), ("approve", "group:test"));
    assert_eq!(record.detail, "template golden: debian-12/a_2 debian-12/b_2");
    assert_eq!(templates::apply(&bench.state, &name, &id("test"), &conditions, ADMIN).unwrap().0.len(), 0);

    templates::delete(&bench.state, &name, ADMIN).unwrap();
    let error = templates::diff(&bench.state, &name, "host-0").unwrap_err().to_string();
    assert_eq!(error, "there is no template `golden`");
    assert_eq!(bench.state.model().policy().approvals_count(), 2, "what it approved stays approved");
    assert!(audit::verify(bench.state.store(), bench.state.tenant()).unwrap().broken.is_none());
}

#[test]
fn everybody_stands_in_one_ring_of_a_plan_over_all_pages_and_central_says_why() {
    let bench = fleet();
    let model = bench.state.model();
    let all =
        |ring: Option<&str>, limit: usize| {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let (page, next) = members(&model, &plan(), ring, after, limit).unwrap();
                assert!(page.len() <= limit && (next.is_none() || page.len() == limit), "{page:?}");
                found.extend(page.into_iter().map(|member| {
                    (member.endpoint.name.clone(), member.ring.clone(), member.stand.to_string())
                }));
                match next {
                    Some(next) => after = Some(next),
                    None => return found,
                }
            }
        };
    let whole = all(None, 100);
    assert_eq!(whole.len(), 10);
    for (number, (name, ring, why)) in whole.iter().enumerate() {
        assert_eq!(*name, format!("host-{number}"));
        let (of, because) =
            if number < 3 { ("test", "member of group `test`") } else { ("broad", "in no ring before; ") };
        assert!(ring == of && why.starts_with(because), "{name}: {ring}, {why}");
    }
    for limit in [1, 3, 10] {
        assert_eq!(all(None, limit), whole, "{limit} a page");
        assert_eq!(all(Some("broad"), limit), whole[3..], "{limit} a page");
    }
    let error = members(&model, &plan(), Some("pilot"), None, 10).unwrap_err();
    assert_eq!(error.to_string(), "there is no ring `pilot`");
    let error = members(&model, &"other".parse().unwrap(), None, None, 10).unwrap_err();
    assert_eq!(error.to_string(), "there is no ring plan `other`");
}
