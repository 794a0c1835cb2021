//! Reboots case by case.

use std::collections::BTreeMap;

use tierway_common::{calendar::Calendar, facts::Facts, schema::policy::Window, service::Settings};

use super::*;
use crate::{
    consent::tests::somebody,
    install::codes::Outcome,
    ledger::Event,
    people::People,
    plan::Limits,
    signs::{BootId, SignKind},
    wishes::Wish,
};

fn minute(minute: i64) -> Timestamp {
    // A Friday, 08:00.
    Timestamp::from_second(1_800_000_000 + minute * 60).unwrap()
}

fn here(level: &str, windows: &[&str]) -> Here {
    let level: tierway_common::schema::policy::ServiceLevel =
        serde_json::from_str(&format!(r#"{{"id":"l",{level}}}"#)).unwrap();
    let group = "all".parse().unwrap();
    let mut settings = Settings::merge([(&group, &level)]);
    let mut read = Vec::new();
    for window in windows {
        let window: Window = serde_json::from_str(window).unwrap();
        settings.windows.push(window.id.clone());
        read.push(Calendar::new(&window, &TimeZone::UTC).unwrap());
    }
    let mut here = Here::default();
    (here.settings, here.windows) = (settings, read);
    here
}

/// Something that needs a reboot was offered at minute -60 and installed at 0.
fn book(events: Vec<Event>) -> Book {
    let mut book = Book::default();
    let update: tierway_common::id::UpdateId = "debian-12/a".parse().unwrap();
    let (outcome, detail, took_seconds) = (Outcome::SuccessRebootRequired, None, None);
    let observed =
        Event::Observed { update: update.clone(), at: minute(-90), state: State::Needed, detail: None };
    for event in [
        Event::Booted { boot: BootId("1".to_owned()), at: minute(-1000) },
        observed,
        Event::Offered { update: update.clone(), at: minute(-60) },
        Event::Began { update: update.clone(), at: minute(-1) },
        Event::Ended { update, at: minute(0), outcome, detail, took_seconds },
    ]
    .into_iter()
    .chain(events)
    {
        book.apply(event);
    }
    book
}

/// What is decided at a minute, with a countdown that was counted for so many minutes.
fn decided(here: &Here, book: &Book, people: &People, counted: Option<i64>, at: i64) -> Decision {
    let countdown = counted.map(|minutes| Countdown {
        purpose: Purpose::Reboot,
        began: minute(at - minutes),
        counted: SignedDuration::from_mins(minutes),
    });
    let now = Now {
        at: minute(at),
        facts: &Facts::default(),
        people,
        countdown: countdown.as_ref(),
        reachable: true,
        leases: &BTreeMap::new(),
        limits: &Limits::default(),
        stale: None,
    };
    let sign = Sign { kind: SignKind::Kernel, detail: "a kernel".to_owned(), source: String::new() };
    decide(&[sign], here, book, &Plan::default(), &now)
}

fn idle() -> People {
    let mut people = somebody();
    for session in people.sessions.iter_mut().flatten() {
        session.idle_since = Some(Timestamp::UNIX_EPOCH);
    }
    people
}

const IF_NEEDED: &str = r#""reboot":"if_needed","deadline":"1day","reboot_hold":"2h""#;

#[test]
fn nothing_is_rebooted_until_a_level_says_so_and_nothing_that_others_changed() {
    let nobody = People::nobody();
    let suppressed = Decision::No(NotDue::Suppressed);
    assert_eq!(decided(&Here::default(), &book(vec![]), &nobody, None, 1), suppressed);
    let level = here(IF_NEEDED, &[]);
    assert_eq!(decided(&level, &book(vec![]), &nobody, None, 1), Decision::Now);
    let booted = book(vec![Event::Booted { boot: BootId("2".to_owned()), at: minute(1) }]);
    assert_eq!(decided(&level, &booted, &nobody, None, 2), Decision::No(NotDue::NotNeeded));
    assert_eq!(decided(&level, &Book::default(), &nobody, None, 1), Decision::No(NotDue::NotNeeded));
}

#[test]
fn whoever_is_logged_in_is_warned_and_whoever_works_holds_it_back_for_a_while() {
    let level = here(IF_NEEDED, &[]);
    let warn = |until| Decision::Warn { until: minute(until), last: true };
    assert_eq!(decided(&level, &book(vec![]), &idle(), None, 1), warn(16));
    assert_eq!(decided(&level, &book(vec![]), &idle(), Some(14), 15), warn(16));
    assert_eq!(decided(&level, &book(vec![]), &idle(), Some(15), 16), Decision::Now);
    let held = decided(&level, &book(vec![]), &somebody(), Some(15), 16);
    assert!(matches!(&held, Decision::Wait { why: Why::Held(_), until } if *until == Some(minute(120))));
    assert_eq!(decided(&level, &book(vec![]), &somebody(), None, 120), warn(135));
    let read = book(vec![Event::Wished { wish: Wish::Acknowledge, by: Some(1000), at: minute(5) }]);
    assert_eq!(decided(&level, &read, &idle(), Some(1), 5), Decision::Now);
    assert_eq!(decided(&level, &read, &idle(), Some(1), 7), warn(21), "an older warning was read");
}

#[test]
fn the_hold_ends_with_the_deadline_of_what_was_installed() {
    let level = here(r#""reboot":"if_needed","deadline":"90min","reboot_hold":"2h""#, &[]);
    let held = decided(&level, &book(vec![]), &somebody(), None, 29);
    assert!(matches!(&held, Decision::Wait { why: Why::Held(_), until } if *until == Some(minute(30))));
    assert!(matches!(decided(&level, &book(vec![]), &somebody(), None, 30), Decision::Warn { .. }));
}

#[test]
fn during_grace_a_person_picks_the_time_or_puts_it_off_and_not_after_it() {
    let level = here(r#""reboot":"if_needed","deadline":"1day","grace":"3h","experience":"consent""#, &[]);
    let wished = |wish| book(vec![Event::Wished { wish, by: Some(1000), at: minute(10) }]);
    let person = |why, until| Decision::Wait { why: Why::Person(why), until: Some(minute(until)) };
    assert_eq!(decided(&level, &book(vec![]), &idle(), None, 10), person(Asked::Agreement, 120));
    assert_eq!(
        decided(&level, &wished(Wish::Reboot(minute(60))), &idle(), None, 59),
        person(Asked::Picked, 60)
    );
    let picked = decided(&level, &wished(Wish::Reboot(minute(60))), &idle(), None, 60);
    assert_eq!(picked, Decision::Warn { until: minute(75), last: false });
    let postponed = wished(Wish::PostponeReboot(minute(500)));
    assert_eq!(decided(&level, &postponed, &idle(), None, 20), person(Asked::PutOff, 120));
    assert!(matches!(decided(&level, &postponed, &idle(), None, 120), Decision::Warn { last: true, .. }));
    assert_eq!(decided(&level, &wished(Wish::Reboot(minute(10))), &somebody(), None, 10), Decision::Now);
}

#[test]
fn who_orders_a_reboot_reboots_himself_at_once_and_warns_everybody_else() {
    let level = here(IF_NEEDED, &[]);
    let ordered = |by| book(vec![Event::Wished { wish: Wish::Reboot(minute(10)), by, at: minute(10) }]);
    let somebody_else = |uid| {
        let mut people = idle();
        people.sessions.iter_mut().flatten().for_each(|session| session.uid = uid);
        people
    };
    let both = || {
        let sessions = [somebody_else(1000), idle(), somebody_else(1001)];
        let sessions = sessions.into_iter().filter_map(|people| people.sessions).flatten().collect();
        People { sessions: Some(sessions), ..People::default() }
    };
    let twice = || {
        let sessions = [somebody(), somebody()].into_iter().filter_map(|people| people.sessions).flatten();
        People { sessions: Some(sessions.collect()), ..People::default() }
    };
    let warn = |until| Decision::Warn { until: minute(until), last: true };
    for (by, people, at, decision) in [
        (Some(1000), somebody(), 10, Decision::Now),
        (Some(1000), twice(), 19, Decision::Now),
        // He has left, and who came after him knows of nothing; or he works on since.
        (Some(1000), somebody_else(1001), 11, warn(26)),
        (Some(1000), idle(), 20, warn(35)),
        (Some(1000), idle(), 9, warn(24)),
        (Some(1000), both(), 10, warn(25)),
        (Some(0), idle(), 10, warn(25)),
        (None, idle(), 10, warn(25)),
        (
            Some(1000),
            People::default(),
            10,
            Decision::Wait {
                why: Why::Held(vec!["who is logged in could not be read".to_owned()]),
                until: Some(minute(120)),
            },
        ),
    ] {
        assert_eq!(decided(&level, &ordered(by), &people, None, at), decision, "{by:?} at {at}");
    }
}

#[test]
fn a_time_that_came_is_held_back_by_others_and_not_by_who_chose_it() {
    let level = here(r#""reboot":"if_needed","deadline":"1day","grace":"3h","reboot_hold":"2h""#, &[]);
    let chose =
        |by| book(vec![Event::Wished { wish: Wish::Reboot(minute(60)), by: Some(by), at: minute(10) }]);
    let warn = Decision::Warn { until: minute(75), last: false };
    assert_eq!(decided(&level, &chose(1000), &somebody(), None, 60), warn);
    let held = decided(&level, &chose(1001), &somebody(), None, 60);
    assert!(matches!(held, Decision::Wait { why: Why::Held(_), .. }), "{held}");
}

#[test]
fn a_reboot_comes_in_a_window_with_room_for_it_and_after_the_warning() {
    let night = r#"{"id":"night","opens":[{"on":"every","at":"09:00:00"}],"length":"1h"}"#;
    let level = here(IF_NEEDED, &[night]);
    let nobody = People::nobody();
    let wait = |until| Decision::Wait { why: Why::Window, until: Some(minute(until)) };
    assert_eq!(decided(&level, &book(vec![]), &nobody, None, 1), wait(60));
    assert_eq!(decided(&level, &book(vec![]), &nobody, None, 60), Decision::Now);
    assert_eq!(decided(&level, &book(vec![]), &nobody, None, 110), Decision::Now);
    assert_eq!(decided(&level, &book(vec![]), &nobody, None, 111), wait(60 + 24 * 60));
    // The warning runs out as the window opens.
    assert_eq!(decided(&level, &book(vec![]), &idle(), None, 1), wait(45));
    let warn = Decision::Warn { until: minute(60), last: true };
    assert_eq!(decided(&level, &book(vec![]), &idle(), None, 45), warn);
    assert_eq!(decided(&level, &book(vec![]), &idle(), None, 100), wait(45 + 24 * 60));
}

#[test]
fn a_limited_window_needs_a_lease_and_a_time_of_day_is_waited_for() {
    let limited = r#"{"id":"w","opens":[{"on":"every","at":"08:00:00"}],"length":"2h","at_once_max":1}"#;
    let level = here(IF_NEEDED, &[limited]);
    let need = LeaseNeed { window: "w".parse().unwrap(), length: REBOOT_RESERVE };
    assert_eq!(decided(&level, &book(vec![]), &People::nobody(), None, 1), Decision::Lease(need));
    let level = here(r#""reboot":{"at":"12:00:00"}"#, &[]);
    let wait = |minutes| Decision::Wait {
        why: Why::TimeOfDay(jiff::civil::time(12, 0, 0, 0)),
        until: Some(minute(minutes)),
    };
    assert_eq!(decided(&level, &book(vec![]), &People::nobody(), None, 1), wait(240));
    assert_eq!(decided(&level, &book(vec![]), &People::nobody(), None, 240), Decision::Now);
    assert_eq!(decided(&level, &book(vec![]), &People::nobody(), None, 300), wait(240 + 24 * 60));
}

#[test]
fn an_order_that_leads_nowhere_is_repeated_ever_more_rarely_and_then_given_up() {
    let level = here(IF_NEEDED, &[]);
    let ordered = |at| Event::RebootOrdered { boot: BootId("1".to_owned()), at: minute(at) };
    let again = |orders: &[i64], at| {
        let book = book(orders.iter().map(|at| ordered(*at)).collect());
        decided(&level, &book, &People::nobody(), None, at)
    };
    let wait = |until| Decision::Wait { why: Why::Ordered, until: Some(minute(until)) };
    assert_eq!(again(&[1], 2), wait(16));
    assert_eq!(again(&[1], 16), Decision::Now);
    assert_eq!(again(&[1, 16], 17), wait(46));
    assert_eq!(again(&[16], 15), Decision::Now, "a clock that was set back holds nothing back");
    assert_eq!(again(&[1, 16, 46, 106, 226], 9_999), Decision::No(NotDue::InVain(5)));
}
