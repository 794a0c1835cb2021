use serde_json::json;
use tierway_common::{id::GroupId, schema::policy::ServiceLevel};

use super::*;

/// A Saturday, three hours before the window opens.
const NOW: &str = "2026-11-21T23:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn mins(minutes: i64) -> SignedDuration {
    SignedDuration::from_mins(minutes)
}

fn ground(at_once_max: Option<u32>) -> Ground {
    let window: Window = serde_json::from_value(json!({
        "id": "sunday", "opens": [{ "on": { "weekly": ["sunday"] }, "at": "02:00:00" }], "length": "2h",
        "at_once_max": at_once_max,
    }))
    .unwrap();
    Ground { now: at(NOW), windows: [(window.id.clone(), window)].into(), rings: None, held: BTreeMap::new() }
}

fn settings(level: serde_json::Value) -> Settings {
    let level: ServiceLevel = serde_json::from_value(level).unwrap();
    let group: GroupId = "all".parse().unwrap();
    Settings::merge([(&group, &level)])
}

fn work(name: &str, expected: i64, limit: i64) -> Work {
    Work {
        update: format!("debian-12/{name}").parse().unwrap(),
        expected: mins(expected),
        limit: mins(limit),
        reboots: false,
        payloads: vec![(Digest::of(name.as_bytes()), 1_000)],
        backlog: false,
    }
}

fn machine(id: &str, level: serde_json::Value, work: &[Work]) -> Machine {
    Machine {
        id: id.parse().unwrap(),
        site: "lyon".parse().unwrap(),
        zone: TimeZone::UTC,
        settings: settings(level),
        ring: 0,
        work: work.to_vec(),
    }
}

fn in_window() -> serde_json::Value {
    json!({ "id": "servers", "windows": ["sunday"] })
}

fn fills(forecast: &Forecast) -> Vec<(String, u64, u64, u64, u64)> {
    let fills = forecast.fills.iter().map(|fill| {
        let Fill { opening, zones: _, endpoints, used_seconds, available_seconds, carried_over } = fill;
        (opening.start.to_string(), *endpoints, used_seconds / 60, available_seconds / 60, *carried_over)
    });
    fills.collect()
}

#[test]
fn without_windows_everybody_is_finished_as_soon_as_it_is_on_offer_and_installed() {
    let silent = machine("e1", json!({ "id": "x" }), &[work("a", 3, 6), work("b", 4, 8)]);
    let asked =
        machine("e2", json!({ "id": "x", "experience": "consent", "grace": "8h" }), &[work("a", 3, 6)]);
    assert_eq!(
        forecast(&ground(None), std::slice::from_ref(&silent)).finish,
        Some(at("2026-11-21T23:12:00Z"))
    );
    let both = forecast(&ground(None), &[silent, asked]);
    assert_eq!((both.endpoints, both.installations, both.reboots), (2, 3, 0));
    assert_eq!(both.finish, Some(at("2026-11-22T07:08:00Z")), "whoever is asked may take the grace");
}

#[test]
fn what_does_not_fit_is_carried_over_to_the_next_opening_with_what_was_approved_before() {
    // Its limit counts, not what it is taken to last: 60 + 10 minutes for a reboot fit once more after 45 minutes.
    let backlog = Work { backlog: true, ..work("old", 45, 90) };
    let one = machine("e1", in_window(), &[backlog, work("a", 30, 60), work("b", 30, 60)]);
    let found = forecast(&ground(None), &[one]);
    assert_eq!(
        fills(&found),
        [
            ("2026-11-22T02:00:00Z".to_owned(), 1, 75, 120, 1),
            ("2026-11-29T02:00:00Z".to_owned(), 1, 30, 120, 0)
        ]
    );
    assert_eq!((found.finish, found.installations), (Some(at("2026-11-29T02:30:00Z")), 2));
    assert_eq!(found.late, 1, "seven days after the offer is the built-in deadline");
}

#[test]
fn of_a_window_for_two_at_once_two_take_turns_and_the_rest_comes_the_week_after() {
    let machines: Vec<_> =
        (0..7).map(|number| machine(&format!("e{number}"), in_window(), &[work("a", 30, 50)])).collect();
    let found = forecast(&ground(Some(2)), &machines);
    // Two lanes of 120 minutes; 50 + 10 minutes must be left: at 0, 30 and 60.
    assert_eq!(
        fills(&found),
        [
            ("2026-11-22T02:00:00Z".to_owned(), 6, 180, 240, 1),
            ("2026-11-29T02:00:00Z".to_owned(), 1, 30, 240, 0)
        ]
    );
    let unlimited = forecast(&ground(None), &machines);
    assert_eq!(fills(&unlimited), [("2026-11-22T02:00:00Z".to_owned(), 7, 210, 840, 0)]);
}

#[test]
fn a_window_without_a_zone_opens_in_that_of_each_computer_and_one_with_a_zone_in_that() {
    let zone = |name: &str| TimeZone::get(name).unwrap();
    let of =
        |id: &str, name: &str| Machine { zone: zone(name), ..machine(id, in_window(), &[work("a", 30, 50)]) };
    let machines = [of("e1", "Asia/Tokyo"), of("e2", "Europe/Paris"), of("e3", "Europe/Berlin")];
    let opens = |ground: &Ground| {
        let fills = forecast(ground, &machines).fills.into_iter();
        let row = |fill: Fill| (fill.opening.start.to_string(), Vec::from_iter(fill.zones), fill.endpoints);
        fills.map(row).collect::<Vec<_>>()
    };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let mut ground = ground(None);
    ground.now = at("2026-11-21T12:00:00Z");
    assert_eq!(
        opens(&ground),
        [
            ("2026-11-21T17:00:00Z".to_owned(), names(&["Asia/Tokyo"]), 1),
            ("2026-11-22T01:00:00Z".to_owned(), names(&["Europe/Berlin", "Europe/Paris"]), 2),
        ]
    );
    for window in ground.windows.values_mut() {
        window.zone = Some("America/Lima".to_owned());
    }
    assert_eq!(opens(&ground), [("2026-11-22T07:00:00Z".to_owned(), names(&["America/Lima"]), 3)]);
}

#[test]
fn reboots_are_counted_and_take_their_time_where_the_level_has_them_done() {
    let kernel = Work { reboots: true, ..work("linux", 10, 20) };
    let of = |reboot: &str, work: &Work| {
        let level = json!({ "id": "x", "windows": ["sunday"], "reboot": reboot });
        let found = forecast(&ground(None), &[machine("e1", level, std::slice::from_ref(work))]);
        (found.reboots, found.fills[0].used_seconds / 60)
    };
    for (reboot, work, expected) in [
        ("suppress", &kernel, (0, 10)),
        ("if_needed", &kernel, (1, 20)),
        ("if_needed", &work("a", 10, 20), (0, 10)),
        ("always", &work("a", 10, 20), (1, 20)),
    ] {
        assert_eq!(of(reboot, work), expected, "{reboot}");
    }
}

#[test]
fn a_window_keeps_nothing_free_for_a_reboot_that_is_left_to_others() {
    for (reboot, openings) in [("suppress", 1), ("if_needed", 2)] {
        let level = json!({ "id": "x", "windows": ["sunday"], "reboot": reboot });
        // The second must have 110 minutes of the 120 left; a reboot would take ten more of them.
        let work = [work("a", 10, 20), work("b", 30, 110)];
        let found = forecast(&ground(None), &[machine("e1", level, &work)]);
        assert_eq!(found.fills.len(), openings, "{reboot}: {found:?}");
    }
}

#[test]
fn each_payload_goes_over_a_link_once_and_not_at_all_when_it_is_there() {
    let (a, b) = (work("a", 1, 2), Work { payloads: vec![(Digest::of(b"b"), 50)], ..work("b", 1, 2) });
    let plain = || json!({ "id": "x" });
    let mut machines = vec![
        machine("e1", plain(), &[a.clone(), b.clone()]),
        machine("e2", plain(), std::slice::from_ref(&a)),
    ];
    machines.push(Machine { site: "osaka".parse().unwrap(), ..machine("e3", plain(), &[a.clone(), b]) });
    // What was approved before is on its way anyway.
    machines[1].work.push(Work { backlog: true, ..work("old", 1, 2) });
    let mut ground = ground(None);
    ground.held.insert("osaka".parse().unwrap(), [Digest::of(b"a")].into());
    let links = forecast(&ground, &machines).links;
    let link = |site: &str| links[&site.parse().unwrap()];
    assert_eq!(link("lyon"), Link { endpoints: 2, payloads: 2, bytes: 1_050 });
    assert_eq!(link("osaka"), Link { endpoints: 1, payloads: 1, bytes: 50 });
}

#[test]
fn a_ring_opens_when_the_one_before_has_soaked_and_has_its_successes() {
    let mut ground = ground(None);
    let plan = |successes: u32| {
        serde_json::from_value(json!({ "id": "waves", "rings": [
            { "name": "test", "who": { "permille": 100 }, "soak": "1day", "successes_at_least": successes },
            { "name": "rest", "who": "rest" },
        ]}))
        .unwrap()
    };
    ground.rings = Some(plan(1));
    let first = machine("e1", json!({ "id": "x" }), &[work("a", 3, 6)]);
    let second = Machine { ring: 1, ..machine("e2", json!({ "id": "x" }), &[work("a", 3, 6)]) };
    let machines = [second, first];
    assert_eq!(forecast(&ground, &machines).finish, Some(at("2026-11-22T23:08:00Z")));
    ground.rings = Some(plan(2));
    let never = forecast(&ground, &machines);
    assert_eq!(never.never.len(), 1);
    assert_eq!(never.never[0].0.as_str(), "e2");
    assert_eq!(never.finish, Some(at("2026-11-21T23:08:00Z")));
}

#[test]
fn what_fits_no_opening_is_named_and_at_its_deadline_installed_where_the_level_says_so() {
    let long = [work("huge", 100, 130)];
    let never = forecast(&ground(None), &[machine("e1", in_window(), &long)]);
    assert_eq!((never.finish, never.never.len(), never.fills.len()), (None, 1, OPENINGS_MAX));
    let level = json!({ "id": "x", "windows": ["sunday"], "deadline": "2days", "at_deadline": "install" });
    let forced = forecast(&ground(None), &[machine("e1", level, &long)]);
    assert_eq!(forced.finish, Some(at("2026-11-24T00:45:00Z")));
    assert!(forced.never.is_empty());
    let unknown = json!({ "id": "x", "windows": ["nowhere"] });
    assert_eq!(forecast(&ground(None), &[machine("e1", unknown, &[work("a", 1, 2)])]).never.len(), 1);
}

#[test]
fn measured_times_come_by_class_and_else_from_all_together() {
    let timing: Timing = serde_json::from_value(json!({ "classes": {
        "": { "samples": 9, "p95_seconds": 300 }, "c2m3": { "samples": 5, "p95_seconds": 30 },
    }}))
    .unwrap();
    let seconds = |(a, b): (SignedDuration, SignedDuration)| (a.as_secs(), b.as_secs());
    assert_eq!(seconds(durations(Some(&timing), "c2m3")), (30, 120));
    assert_eq!(seconds(durations(Some(&timing), "c0m0")), (300, 600));
    assert_eq!(seconds(durations(None, "")), (120, 1_800));
}
