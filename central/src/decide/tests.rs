use std::sync::Arc;

use jiff::SignedDuration;
use ring::rand::SystemRandom;
use tierway_common::{
    rules::expr::{Expr, OsTest},
    schema::{Severity, State as UpdateState},
    trust::keys::SigningKey,
};

use super::{
    gone::{GONE_KEPT, REVOKED_KEPT, forget_gone, forget_revoked, forget_updates},
    groups::{Membership, delete_group, set_group, tag},
    *,
};
use crate::{
    audit,
    catalog::tests::{Bench, bench, facts, update},
    compliance::record::Entry,
    inventory::facts as kept,
    store::tables::EndpointRecord,
};

/// Updates 0 (a) and 1 (b); hosts 0 and 1, of which the first needs a and the second b; group `everyone`.
pub(super) fn office() -> Bench {
    let bench = bench();
    bench.apply(&[update("a", "2"), update("b", "2")]);
    for number in 0..2 {
        host(&bench, number);
        report(&bench, number, number, UpdateState::Needed, None);
    }
    group(&bench, "everyone", &Membership::Everyone);
    bench
}

/// Adds host `number` at a site of its own.
pub(super) fn host(bench: &Bench, number: u32) {
    let at = bench.clock.now();
    let held = facts(&[("a", "1")]);
    let (id, site) = (format!("e{number}"), format!("site-{number}"));
    let key = SigningKey::generate(&SystemRandom::new()).unwrap().public();
    let record = EndpointRecord {
        name: format!("host-{number}"),
        assessed: true,
        facts: Some(kept::summary(&held, at)),
        ..EndpointRecord::enrolled(number, id.parse().unwrap(), site.parse().unwrap(), key, at)
    };
    bench
        .state
        .change(|_, change| {
            change.write(Write::Endpoint(Arc::new(record)));
            change.write(Write::Facts(number, kept::pack(&held).unwrap()));
            Ok::<_, StoreError>(())
        })
        .unwrap();
}

/// The host says where an update, by number, stands, and when it was installed after having been needed.
pub(super) fn report(
    bench: &Bench,
    host: u32,
    update: u32,
    state: UpdateState,
    applied: Option<jiff::Timestamp>,
) {
    let old = bench.state.states(host).unwrap();
    let mut new = old.clone();
    new.set(Entry {
        update,
        state,
        estimated: false,
        since: 0,
        detected: None,
        authorized: None,
        applied: applied.map(|at| u32::try_from(at.as_second()).unwrap()),
        detail: None,
        progress: Default::default(),
    })
    .unwrap();
    bench
        .state
        .change(|_, change| {
            change.write(Write::States { endpoint: host, old: Arc::new(old), new: Arc::new(new) });
            Ok::<_, StoreError>(())
        })
        .unwrap();
}

pub(super) const ADMIN: &str = "operator:admin";

pub(super) fn id(text: &str) -> GroupId {
    text.parse().unwrap()
}

pub(super) fn group(bench: &Bench, name: &str, membership: &Membership) {
    set_group(&bench.state, &id(name), 1, membership, None, ADMIN).unwrap();
}

fn members(bench: &Bench, name: &str) -> Vec<u32> {
    bench.state.model().members()[&id(name)].iter().collect()
}

pub(super) fn decide(bench: &Bench, about: About<'_>, name: &str, verb: Verb) -> Vec<String> {
    let (changed, _) = patches(&bench.state, about, &id(name), verb, ADMIN).unwrap();
    changed.iter().map(|update| update.name().to_owned()).collect()
}

pub(super) fn last_audit(bench: &Bench) -> audit::Record {
    audit::list(bench.state.store(), bench.state.tenant(), 0, 1).unwrap().remove(0)
}

#[test]
fn a_decision_changes_what_it_names_once_and_is_in_the_audit_log_by_name() {
    let bench = office();
    let names = ["a".to_owned(), "debian-12/b_2".to_owned()];
    assert_eq!(decide(&bench, About::Named(&names), "everyone", Verb::Approve), ["a_2", "b_2"]);
    let record = last_audit(&bench);
    assert_eq!((record.actor.as_str(), record.action.as_str()), (ADMIN, "approve"));
    assert_eq!(
        (record.object.as_str(), record.detail.as_str()),
        ("group:everyone", "debian-12/a_2 debian-12/b_2")
    );
    assert_eq!(decide(&bench, About::Named(&names[..1]), "everyone", Verb::Decline), ["a_2"]);
    assert!(
        decide(&bench, About::Named(&names[..1]), "everyone", Verb::Decline).is_empty(),
        "declined already"
    );
    assert_eq!(decide(&bench, About::Named(&names), "everyone", Verb::Clear), ["a_2", "b_2"]);
    assert_eq!(bench.state.model().policy().approvals_count(), 0);
}

#[test]
fn to_approve_by_name_what_is_approved_asks_for_another_try_and_leaves_since_when_it_is() {
    let bench = office();
    let names = ["a".to_owned()];
    let approval = || {
        let model = bench.state.model();
        model.policy().approval(&id("everyone"), &"debian-12/a_2".parse().unwrap()).unwrap().clone()
    };
    decide(&bench, About::Named(&names), "everyone", Verb::Approve);
    let first = approval();
    assert_eq!((first.at, first.renewed), (bench.clock.now(), None));

    bench.clock.advance(SignedDuration::from_secs(60));
    assert_eq!(decide(&bench, About::AllNeeded, "everyone", Verb::Approve), ["b_2"]);
    assert_eq!(approval(), first, "nobody named it");

    let (changed, _) =
        patches(&bench.state, About::Named(&names), &id("everyone"), Verb::Approve, "operator:bo").unwrap();
    assert_eq!(changed.iter().map(UpdateId::name).collect::<Vec<_>>(), ["a_2"]);
    assert_eq!(approval(), Approval { renewed: Some(bench.clock.now()), ..first.clone() });
    let record = last_audit(&bench);
    assert_eq!((record.actor.as_str(), record.action.as_str()), ("operator:bo", "approve again"));
    assert_eq!(record.detail, "debian-12/a_2");

    decide(&bench, About::Named(&names), "everyone", Verb::Decline);
    bench.clock.advance(SignedDuration::from_secs(60));
    decide(&bench, About::Named(&names), "everyone", Verb::Approve);
    assert_eq!((approval().at, approval().renewed), (bench.clock.now(), None), "a decision of its own");
}

#[test]
fn all_needed_is_what_a_member_of_the_group_needs() {
    let bench = office();
    group(&bench, "first", &Membership::Named(vec!["host-0".to_owned()]));
    assert_eq!(decide(&bench, About::AllNeeded, "first", Verb::Approve), ["a_2"]);
    assert_eq!(decide(&bench, About::AllNeeded, "everyone", Verb::Approve), ["a_2", "b_2"]);
}

#[test]
fn a_decision_that_names_something_unknown_changes_nothing() {
    let bench = office();
    let names = ["a".to_owned(), "nothing".to_owned()];
    let error = |group: &str| {
        patches(&bench.state, About::Named(&names), &id(group), Verb::Approve, ADMIN).unwrap_err().to_string()
    };
    assert_eq!(error("everyone"), "there is no patch `nothing`");
    assert_eq!(error("nobody"), "there is no group `nobody`");
    assert_eq!(bench.state.model().policy().approvals_count(), 0);
}

#[test]
fn a_group_has_the_members_it_says_also_after_it_says_others() {
    let bench = office();
    let rule = |family: &str| {
        Membership::Rule(Expr::Os(OsTest { family: Some(family.to_owned()), ..OsTest::default() }))
    };
    let tags = ["env=prod".parse().unwrap(), "web".parse().unwrap()];
    tag(&bench.state, "host-0", &tags, &[], ADMIN).unwrap();
    for (membership, expected) in [
        (Membership::Named(vec!["host-1".to_owned(), "e0".to_owned()]), vec![0, 1]),
        (Membership::Named(vec!["host-1".to_owned()]), vec![1]),
        (rule("debian"), vec![0, 1]),
        (rule("windows"), vec![]),
        (rule("debian"), vec![0, 1]),
        (Membership::Site("site-1".parse().unwrap()), vec![1]),
        (Membership::Tag("env=prod".parse().unwrap()), vec![0]),
        (Membership::Everyone, vec![0, 1]),
        (Membership::Named(vec![]), vec![]),
    ] {
        group(&bench, "g", &membership);
        assert_eq!(members(&bench, "g"), expected, "{membership:?}");
    }
    let model = bench.state.model();
    let left = |endpoint: &Arc<EndpointRecord>| endpoint.groups.len() + endpoint.rule_groups.len();
    assert_eq!(model.endpoints().map(left).sum::<usize>(), 0, "nothing of earlier members is left");
}

#[test]
fn a_group_that_changes_between_a_rule_and_names_is_kept_and_published_as_the_model_says() {
    let bench = office();
    let rule = Membership::Rule(Expr::Os(OsTest { family: Some("debian".to_owned()), ..OsTest::default() }));
    let published = |number: u32| {
        let (tenant, key) = (bench.state.tenant(), format!("endpoint/e{number}"));
        let row = crate::store::tables::PendingPolicy { tenant, key: &key };
        tierway_common::store::table::get(bench.state.store(), &row).unwrap().flatten().unwrap()
    };
    group(&bench, "g", &rule);
    for (membership, expected, named) in [
        (Membership::Named(vec!["host-1".to_owned()]), vec![1], r#""groups":["g"]"#),
        (rule, vec![0, 1], r#""groups":[]"#),
    ] {
        group(&bench, "g", &membership);
        assert_eq!(members(&bench, "g"), expected, "{membership:?}");
        assert!(published(1).contains(named), "{}", published(1));
        let again =
            State::open(bench.state.tenant().clone(), bench.store.clone(), bench.clock.clone()).unwrap();
        assert_eq!(again.model().members()[&id("g")].iter().collect::<Vec<_>>(), expected, "after a restart");
    }
}

#[test]
fn a_name_that_is_only_a_part_of_one_puts_nobody_into_a_group() {
    let bench = office();
    let named = Membership::Named(vec!["host".to_owned()]);
    let error = set_group(&bench.state, &id("g"), 1, &named, None, ADMIN).unwrap_err();
    assert_eq!(error.to_string(), "there is no endpoint `host`");
}

#[test]
fn a_tag_that_is_taken_away_takes_the_endpoint_out_of_its_groups_and_is_published() {
    let bench = office();
    group(&bench, "g", &Membership::Tag("web".parse().unwrap()));
    let web = ["web".parse().unwrap()];
    tag(&bench.state, "host-1", &web, &[], ADMIN).unwrap();
    assert_eq!(members(&bench, "g"), [1]);
    let (tenant, key) = (bench.state.tenant(), "endpoint/e1");
    let pending = || {
        let row = crate::store::tables::PendingPolicy { tenant, key };
        tierway_common::store::table::get(bench.state.store(), &row).unwrap().flatten().unwrap()
    };
    assert!(pending().contains(r#""tags":["web"]"#), "{}", pending());
    tag(&bench.state, "host-1", &[], &web, ADMIN).unwrap();
    assert!(members(&bench, "g").is_empty());
    assert!(!pending().contains("web"), "{}", pending());
    let record = last_audit(&bench);
    assert_eq!((record.action.as_str(), record.detail.as_str()), ("tag", "-web"));
    let error = tag(&bench.state, "host", &web, &[], ADMIN).unwrap_err();
    assert_eq!(error.to_string(), "there is no endpoint `host`", "a part of a name is not enough");
}

#[test]
fn a_rule_that_is_too_deep_is_no_group() {
    let bench = office();
    let mut deep = Expr::Const(true);
    for _ in 0..100 {
        deep = Expr::Not(Box::new(deep));
    }
    let error = set_group(&bench.state, &id("g"), 0, &Membership::Rule(deep), None, ADMIN).unwrap_err();
    assert!(error.to_string().starts_with("`rule` must be within the limits"), "{error}");
}

#[test]
fn a_deleted_group_takes_its_decisions_with_it_unless_a_rule_approves_for_it() {
    let bench = office();
    group(&bench, "g", &Membership::Named(vec!["host-0".to_owned()]));
    decide(&bench, About::AllNeeded, "g", Verb::Approve);
    set_rule(&bench.state, rule("weekly", "g"), ADMIN).unwrap();
    let error = delete_group(&bench.state, &id("g"), ADMIN).unwrap_err();
    assert_eq!(error.to_string(), "group `g` is named by rule `weekly`");
    delete_rule(&bench.state, "weekly", ADMIN).unwrap();
    delete_group(&bench.state, &id("g"), ADMIN).unwrap();
    let model = bench.state.model();
    assert_eq!((model.policy().approvals_count(), model.policy().groups().len()), (0, 1));
    assert!(model.endpoint(0).unwrap().groups.is_empty());
}

fn rule(name: &str, group: &str) -> AutoApprovalRecord {
    AutoApprovalRecord {
        name: name.to_owned(),
        group: id(group),
        catalogue: None,
        severity_at_least: Some(Severity::Important),
        matching: Some("a*".to_owned()),
        age_at_least_seconds: 0,
        rings: None,
    }
}

#[test]
fn rules_approve_under_their_own_name_and_once() {
    let bench = office();
    set_rule(&bench.state, rule("weekly", "everyone"), ADMIN).unwrap();
    assert_eq!((by_rules(&bench.state).unwrap(), by_rules(&bench.state).unwrap()), (1, 0));
    let record = last_audit(&bench);
    assert_eq!((record.actor.as_str(), record.detail.as_str()), ("rule:weekly", "debian-12/a_2"));
    delete_rule(&bench.state, "weekly", ADMIN).unwrap();
    assert_eq!(bench.state.model().policy().approvals_count(), 1, "what it approved stays");
}

#[test]
fn without_room_for_another_rollout_rules_still_approve_what_goes_by_no_ring_plan() {
    let approval = |update: u32, rings: Option<&str>| Approval {
        group: id("everyone"),
        update: format!("debian-12/a_{update}").parse().unwrap(),
        decision: Decision::Approve,
        at: jiff::Timestamp::UNIX_EPOCH,
        renewed: None,
        by: "rule:weekly".to_owned(),
        rings: rings.map(|plan| plan.parse().unwrap()),
    };
    let given = [(1, Some("safe")), (2, Some("safe")), (2, None), (3, Some("safe")), (4, None), (5, None)];
    for (approvals, rollouts, expected, expected_left_out) in [
        (9, 9, vec![1, 2, 2, 3, 4, 5], 0),
        // The rollout of 3 has begun.
        (9, 0, vec![2, 3, 4, 5], 2),
        (9, 1, vec![1, 2, 3, 4, 5], 1),
        (2, 9, vec![1, 2], 4),
        (0, 9, vec![], 6),
    ] {
        let given = given.iter().map(|(update, rings)| approval(*update, *rings)).collect();
        let is_begun = |key: &(RingPlanId, UpdateId)| key.1.name() == "a_3";
        let (fitting, left_out) = Room { approvals, rollouts }.fitting(given, is_begun);
        let named: Vec<u32> =
            fitting.iter().map(|approval| approval.update.name()[2..].parse().unwrap()).collect();
        assert_eq!((named, left_out), (expected, expected_left_out), "{approvals} {rollouts}");
    }
}

#[test]
fn a_decision_about_more_than_there_may_be_is_refused_before_anything_is_looked_up() {
    let bench = office();
    let names = vec!["nothing".to_owned(); PATCHES_AT_ONCE_MAX + 1];
    let error = patches(&bench.state, About::Named(&names), &id("everyone"), Verb::Approve, ADMIN);
    assert_eq!(error.unwrap_err().to_string(), "there may be at most 5000 patches in one decision");
}

#[test]
fn a_rule_that_cannot_be_is_refused() {
    let bench = office();
    let bad_name = AutoApprovalRecord { name: "a b".to_owned(), ..rule("x", "everyone") };
    let bad_glob = AutoApprovalRecord { matching: Some(String::new()), ..rule("x", "everyone") };
    for (rule, expected) in [
        (bad_name, "`name` must be"),
        (bad_glob, "`matching` must be"),
        (rule("x", "nobody"), "there is no group `nobody`"),
    ] {
        let error = set_rule(&bench.state, rule, ADMIN).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn decisions_about_updates_that_are_gone_are_forgotten() {
    let bench = office();
    decide(&bench, About::AllNeeded, "everyone", Verb::Approve);
    bench.apply(&[update("b", "2")]);
    assert_eq!((forget_gone(&bench.state).unwrap(), forget_gone(&bench.state).unwrap()), (1, 0));
    assert_eq!(bench.state.model().policy().approvals().count(), 1);
    assert_eq!(last_audit(&bench).detail, "debian-12/a_2");
}

#[test]
fn an_update_that_is_gone_is_forgotten_once_nobody_has_it_and_its_number_is_another_s_then() {
    let bench = office();
    let numbers = |bench: &Bench| -> Vec<(u32, String)> {
        let model = bench.state.model();
        model.updates().map(|update| (update.number, update.id.name().to_owned())).collect()
    };
    let forgotten = || forget_updates(&bench.state).unwrap();
    bench.apply(&[update("b", "2")]);
    bench.clock.advance(GONE_KEPT);
    assert_eq!(forgotten(), 0, "the first host needs it");
    report(&bench, 0, 0, UpdateState::NotApplicable, None);
    assert_eq!((forgotten(), forgotten()), (1, 0));
    assert_eq!(numbers(&bench), [(1, "b_2".to_owned())]);
    bench.apply(&[update("b", "2"), update("c", "2"), update("d", "2")]);
    let expected = [(1, "b_2".to_owned()), (0, "c_2".to_owned()), (2, "d_2".to_owned())];
    assert_eq!(numbers(&bench), expected);
    assert!(bench.state.model().index().lacking(0).is_empty());

    // Back before its time it is what it was; gone again it has all of its time again.
    bench.apply(&[update("b", "2"), update("d", "2")]);
    bench.clock.advance(GONE_KEPT - SignedDuration::from_secs(1));
    assert_eq!(forgotten(), 0);
    bench.apply(&[update("b", "2"), update("c", "2"), update("d", "2")]);
    bench.apply(&[update("b", "2"), update("d", "2")]);
    bench.clock.advance(SignedDuration::from_secs(1));
    assert_eq!(forgotten(), 0);
    assert_eq!(numbers(&bench), expected);
    bench.clock.advance(GONE_KEPT);
    assert_eq!(forgotten(), 1);
    // As it is read again at the next start.
    let again = State::open(bench.state.tenant().clone(), bench.store.clone(), bench.clock.clone());
    let names: Vec<_> = again.unwrap().model().updates().map(|update| update.id.name().to_owned()).collect();
    assert_eq!(names, ["b_2", "d_2"]);
}

#[test]
fn what_is_known_of_a_revoked_endpoint_is_forgotten_and_keeps_no_update_that_is_gone() {
    let bench = office();
    let record = bench.state.model().endpoint(0).unwrap().clone();
    bench.apply(&[update("b", "2")]);
    bench.clock.advance(GONE_KEPT);
    assert_eq!((forget_revoked(&bench.state).unwrap(), forget_updates(&bench.state).unwrap()), (0, 0));
    bench
        .state
        .change(|_, change| {
            let record = EndpointRecord {
                revoked: true,
                last_report: Some(change.now),
                ..EndpointRecord::clone(&record)
            };
            change.write(Write::Endpoint(Arc::new(record)));
            Ok::<_, StoreError>(())
        })
        .unwrap();
    bench.clock.advance(REVOKED_KEPT - SignedDuration::from_secs(1));
    assert_eq!(forget_revoked(&bench.state).unwrap(), 0, "it can still be asked for");
    bench.clock.advance(SignedDuration::from_secs(1));
    assert_eq!((forget_revoked(&bench.state).unwrap(), forget_revoked(&bench.state).unwrap()), (1, 0));
    assert_eq!(forget_updates(&bench.state).unwrap(), 1);
    let again = State::open(bench.state.tenant().clone(), bench.store.clone(), bench.clock.clone()).unwrap();
    assert_eq!((again.facts(0).unwrap(), again.states(0).unwrap().entries().len()), (None, 0));
    assert_eq!(again.model().endpoint(0).unwrap().name, record.name);
    assert!(again.facts(1).unwrap().is_some() && !again.states(1).unwrap().entries().is_empty());
}

#[test]
fn download_settings_change_only_where_they_are_given() {
    let bench = office();
    set_download(&bench.state, Some(true), Some("04:30".parse().unwrap()), None, ADMIN).unwrap();
    set_download(&bench.state, None, None, Some(Which::All), ADMIN).unwrap();
    let expected =
        DownloadRecord { enabled: Some(true), at: Some("04:30".parse().unwrap()), which: Some(Which::All) };
    assert_eq!(*bench.state.model().download(), expected);
}
