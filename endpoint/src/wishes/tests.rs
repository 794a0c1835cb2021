//! Wishes, case by case. That what is granted is followed is checked in the model.

use tierway_common::schema::policy::Reboot;

use super::*;

fn at(hour: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + hour * 3600).unwrap()
}

fn check(wish: Wish, caller: Caller, change: impl FnOnce(&mut Settings, &mut Standing<'_>), expected: &str) {
    let mut settings =
        Settings { experience: Experience::Consent, reboot: Reboot::IfNeeded, ..Settings::default() };
    let fixed = settings.clone();
    // Updates are decided about until hour 10, a reboot until 12; work may hold it back until 15.
    let terms = Terms { offered: at(0), grace_ends: at(10), deadline: at(20) };
    let reboot = Terms { offered: at(-1), grace_ends: at(12), deadline: at(20) };
    let mut standing = Standing {
        settings: &fixed,
        now: at(0),
        updates: Some(terms),
        reboot: Ok(Due { since: at(0), terms: reboot, hold_until: at(15) }),
        warned: true,
    };
    change(&mut settings, &mut standing);
    let standing = Standing { settings: &settings, ..standing };
    let said = match permit(wish, caller, &standing) {
        Ok(()) => "yes".to_owned(),
        Err(refused) => refused.to_string(),
    };
    assert!(said.starts_with(expected), "{wish}: {said}");
}

const ANN: Caller = Caller::Person(1000);

#[test]
fn nobody_puts_off_what_is_enforced_and_everybody_may_have_it_sooner() {
    for caller in [ANN, Caller::Root] {
        for (wish, now, said) in [
            (Wish::Postpone(at(4)), 0, "yes"),
            (Wish::Postpone(at(11)), 0, "`2027-01-15T19:00:00Z` is too late: it is due by"),
            (Wish::Postpone(at(12)), 10, "it cannot be put off any more"),
            (Wish::Postpone(at(0)), 1, "`2027-01-15T08:00:00Z` is over"),
            (Wish::Install(at(0)), 10, "`2027-01-15T08:00:00Z` is over"),
            (Wish::Install(at(11)), 9, "yes"),
            (Wish::Install(at(21)), 0, "`2027-01-16T05:00:00Z` is too late"),
            // Nothing waits for a time that is chosen in enforcement, but "now" is always one.
            (Wish::Install(at(11)), 10, "it cannot be put off any more"),
            (Wish::Install(at(30)), 30, "yes"),
            (Wish::Reboot(at(15)), 0, "yes"),
            (Wish::Reboot(at(16)), 0, "`2027-01-16T00:00:00Z` is too late"),
            (Wish::Reboot(at(14)), 13, "it cannot be put off any more"),
            (Wish::Reboot(at(30)), 30, "yes"),
            // The reboot has terms of its own.
            (Wish::PostponeReboot(at(12)), 11, "yes"),
            (Wish::PostponeReboot(at(13)), 11, "`2027-01-15T21:00:00Z` is too late"),
            (Wish::PostponeReboot(at(13)), 12, "it cannot be put off any more"),
            (Wish::Install(at(-2)), -2, "the clock of this computer is behind"),
            (Wish::PostponeReboot(at(4)), -2, "the clock of this computer is behind"),
        ] {
            check(wish, caller, |_, standing| standing.now = at(now), said);
        }
        check(Wish::Install(at(0)), caller, |_, s| s.updates = None, "nothing is due");
        for (why, said) in [
            (NotDue::NotNeeded, "no reboot is due that Tierway would do"),
            (NotDue::Suppressed, "this computer is not rebooted by Tierway"),
            (NotDue::InVain(5), "a reboot was ordered 5 times"),
        ] {
            for wish in [Wish::Reboot(at(0)), Wish::PostponeReboot(at(1))] {
                check(wish, caller, |_, standing| standing.reboot = Err(why), said);
            }
        }
    }
}

#[test]
fn only_a_warning_that_is_shown_can_have_been_read() {
    check(Wish::Acknowledge, ANN, |_, _| {}, "yes");
    check(Wish::Acknowledge, ANN, |_, standing| standing.warned = false, "no warning is shown");
}

#[test]
fn where_updates_are_silent_people_are_left_out_and_root_is_not() {
    let silent = |settings: &mut Settings, _: &mut Standing<'_>| settings.experience = Experience::Silent;
    check(Wish::Install(at(0)), ANN, silent, "updates of this computer are installed without asking");
    check(Wish::Postpone(at(1)), ANN, silent, "updates of this computer are installed without asking");
    check(Wish::Install(at(0)), Caller::Root, silent, "yes");
    check(Wish::Reboot(at(0)), ANN, silent, "yes");
}

#[test]
fn the_schedule_is_switched_only_where_the_level_lets_people() {
    let optional = |settings: &mut Settings, _: &mut Standing<'_>| settings.schedule_optional = true;
    for caller in [ANN, Caller::Root] {
        check(Wish::Scheduled(false), caller, |_, _| {}, "whether this computer updates by schedule");
        check(Wish::Scheduled(false), caller, optional, "yes");
    }
    check(Wish::Scheduled(true), Caller::Root, |_, _| {}, "yes");
    check(Wish::Scheduled(true), ANN, |_, _| {}, "whether this computer updates by schedule");
}

#[test]
fn the_last_wish_of_a_kind_holds_until_it_is_done() {
    let mut wishes = Wishes::default();
    wishes.apply(Wish::Postpone(at(4)), Some(1000), at(0));
    wishes.apply(Wish::Install(at(2)), Some(1000), at(1));
    assert_eq!(wishes.postponed, None);
    assert_eq!(wishes.install, Some(Choice { asked: at(1), at: at(2), by: Some(1000) }));
    wishes.apply(Wish::Reboot(at(3)), Some(1000), at(1));
    wishes.apply(Wish::PostponeReboot(at(5)), Some(1000), at(2));
    assert_eq!((wishes.reboot, wishes.reboot_postponed.map(|choice| choice.at)), (None, Some(at(5))));
    wishes.apply(Wish::Scheduled(false), Some(1000), at(2));
    wishes.booted();
    let json = serde_json::to_string(&wishes).unwrap();
    assert_eq!(wishes, serde_json::from_str(&json).unwrap());
    let before = r#"{"reboot":{"asked":"2026-11-24T10:00:00Z","at":"2026-11-24T10:00:00Z"}}"#;
    let before: Wishes = serde_json::from_str(before).unwrap();
    assert!(before.reboot.is_some_and(|choice| choice.is_at_once() && choice.by.is_none()));
    assert!(wishes.unscheduled && wishes.reboot_postponed.is_none() && wishes.install.is_some());
}
