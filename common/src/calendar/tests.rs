//! Windows by cases, and what must hold for every window by property.

use proptest::prelude::*;

use super::*;

const PARIS: &str = "CET-1CEST,M3.5.0,M10.5.0/3";

fn zone(posix: &str) -> TimeZone {
    TimeZone::posix(posix).unwrap()
}

fn window(opens: &str, length: &str) -> Window {
    serde_json::from_str(&format!(r#"{{"id":"w","opens":{opens},"length":"{length}"}}"#)).unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// The first openings after a moment, in Paris, as `start length`.
fn check(opens: &str, length: &str, after: &str, expected: &[&str]) {
    let zone = zone(PARIS);
    let window = window(opens, length);
    check_window(&window, &zone, at(after)).unwrap();
    let calendar = Calendar::new(&window, &zone).unwrap();
    let first = calendar.next(at(after));
    let found: Vec<String> = std::iter::successors(first, |last| calendar.next(last.start))
        .take(expected.len())
        .map(|found| {
            let minutes = u64::try_from(found.length().as_mins()).unwrap();
            let length = humantime::format_duration(Duration::from_secs(60 * minutes));
            let start = found.start.to_zoned(zone.clone());
            format!("{} {length}", start.strftime("%a %Y-%m-%d %H:%M %z"))
        })
        .collect();
    assert_eq!(found, expected, "{opens}");
}

#[test]
fn a_rule_opens_on_the_days_it_names() {
    check(
        r#"[{"on":"every","at":"22:00:00"}]"#,
        "4h",
        "2026-11-24T20:59:00Z",
        &["Tue 2026-11-24 22:00 +0100 4h", "Wed 2026-11-25 22:00 +0100 4h"],
    );
    check(
        r#"[{"on":{"weekly":["saturday","tuesday"]},"at":"02:00:00"}]"#,
        "2h",
        "2026-11-24T21:00:00Z",
        &["Sat 2026-11-28 02:00 +0100 2h", "Tue 2026-12-01 02:00 +0100 2h", "Sat 2026-12-05 02:00 +0100 2h"],
    );
    check(
        r#"[{"on":{"nth":[2,"tuesday"]},"at":"18:00:00"}]"#,
        "2h",
        "2026-11-24T21:00:00Z",
        &["Tue 2026-12-08 18:00 +0100 2h", "Tue 2027-01-12 18:00 +0100 2h"],
    );
    check(
        r#"[{"on":{"nth":[-1,"friday"]},"at":"18:00:00"}]"#,
        "2h",
        "2026-11-24T21:00:00Z",
        &["Fri 2026-11-27 18:00 +0100 2h", "Fri 2026-12-25 18:00 +0100 2h", "Fri 2027-01-29 18:00 +0100 2h"],
    );
    check(
        r#"[{"on":{"nth":[5,"sunday"]},"at":"18:00:00"}]"#,
        "2h",
        "2026-11-24T21:00:00Z",
        &["Sun 2026-11-29 18:00 +0100 2h", "Sun 2027-01-31 18:00 +0100 2h", "Sun 2027-05-30 18:00 +0200 2h"],
    );
}

#[test]
fn the_end_of_a_month_is_found_in_every_month() {
    check(
        r#"[{"on":{"day":-1},"at":"20:00:00"}]"#,
        "6h",
        "2027-12-24T21:00:00Z",
        &["Fri 2027-12-31 20:00 +0100 6h", "Mon 2028-01-31 20:00 +0100 6h", "Tue 2028-02-29 20:00 +0100 6h"],
    );
    check(
        r#"[{"on":{"day":31},"at":"20:00:00"}]"#,
        "6h",
        "2026-11-24T21:00:00Z",
        &["Thu 2026-12-31 20:00 +0100 6h", "Sun 2027-01-31 20:00 +0100 6h", "Wed 2027-03-31 20:00 +0200 6h"],
    );
    check(
        r#"[{"on":{"day":29},"at":"20:00:00","months":[2]}]"#,
        "6h",
        "2096-03-24T21:00:00Z",
        &["Fri 2104-02-29 20:00 +0100 6h"],
    );
}

#[test]
fn a_day_after_patch_tuesday_may_lie_in_the_next_month() {
    check(
        r#"[{"on":{"after":[2,"tuesday",4]},"at":"02:00:00"}]"#,
        "3h",
        "2026-11-24T21:00:00Z",
        &["Sat 2026-12-12 02:00 +0100 3h", "Sat 2027-01-16 02:00 +0100 3h"],
    );
    check(
        r#"[{"on":{"after":[-1,"friday",8]},"at":"02:00:00","months":[12]}]"#,
        "3h",
        "2026-11-24T21:00:00Z",
        &["Sat 2027-01-02 02:00 +0100 3h", "Sat 2028-01-08 02:00 +0100 3h"],
    );
    check(
        r#"[{"on":{"after":[1,"monday",-3]},"at":"02:00:00"}]"#,
        "3h",
        "2026-11-24T21:00:00Z",
        &["Fri 2026-12-04 02:00 +0100 3h", "Fri 2027-01-01 02:00 +0100 3h", "Fri 2027-01-29 02:00 +0100 3h"],
    );
}

#[test]
fn several_rules_make_one_window_and_what_touches_opens_once() {
    check(
        r#"[{"on":{"day":1},"at":"20:00:00","months":[3,6,9,12]},{"on":{"nth":[1,"sunday"]},"at":"06:00:00"}]"#,
        "4h",
        "2026-11-24T21:00:00Z",
        &[
            "Tue 2026-12-01 20:00 +0100 4h",
            "Sun 2026-12-06 06:00 +0100 4h",
            "Sun 2027-01-03 06:00 +0100 4h",
            "Sun 2027-02-07 06:00 +0100 4h",
            "Mon 2027-03-01 20:00 +0100 4h",
        ],
    );
    check(
        r#"[{"on":{"weekly":["saturday"]},"at":"20:00:00"},{"on":{"weekly":["sunday"]},"at":"00:00:00"}]"#,
        "4h",
        "2026-11-24T21:00:00Z",
        &["Sat 2026-11-28 20:00 +0100 8h", "Sat 2026-12-05 20:00 +0100 8h"],
    );
}

#[test]
fn a_change_of_the_clocks_neither_skips_nor_doubles_nor_shortens_a_window() {
    check(
        r#"[{"on":"every","at":"02:30:00"}]"#,
        "2h",
        "2026-03-28T00:00:00Z",
        &["Sat 2026-03-28 02:30 +0100 2h", "Sun 2026-03-29 03:30 +0200 2h", "Mon 2026-03-30 02:30 +0200 2h"],
    );
    check(
        r#"[{"on":"every","at":"02:30:00"}]"#,
        "2h",
        "2026-10-24T00:00:00Z",
        &["Sat 2026-10-24 02:30 +0200 2h", "Sun 2026-10-25 02:30 +0200 2h", "Mon 2026-10-26 02:30 +0100 2h"],
    );
    // Five hours from 23:00 before the clocks go on end at 05:00.
    let zone = zone(PARIS);
    let calendar = Calendar::new(&window(r#"[{"on":"every","at":"23:00:00"}]"#, "5h"), &zone).unwrap();
    let open = calendar.at(at("2026-03-29T02:59:59Z")).unwrap();
    assert_eq!(open.end, at("2026-03-29T03:00:00Z"));
    assert_eq!(open.end.to_zoned(zone).hour(), 5);
}

#[test]
fn a_window_is_open_from_its_start_until_before_its_end() {
    let calendar =
        Calendar::new(&window(r#"[{"on":"every","at":"22:00:00"}]"#, "4h"), &TimeZone::UTC).unwrap();
    for (moment, open) in [
        ("2026-11-24T21:59:59.999Z", false),
        ("2026-11-24T22:00:00Z", true),
        ("2026-11-25T01:59:59.999Z", true),
        ("2026-11-25T02:00:00Z", false),
    ] {
        assert_eq!(calendar.at(at(moment)).is_some(), open, "{moment}");
    }
    let open = calendar.from(at("2026-11-25T00:00:00Z")).next().unwrap();
    assert_eq!(open.start, at("2026-11-24T22:00:00Z"));
    let next = calendar.next(at("2026-11-25T00:00:00Z")).unwrap();
    assert_eq!(next.start, at("2026-11-25T22:00:00Z"));
}

#[test]
fn a_named_zone_counts_before_the_computers_own() {
    let mut named = window(r#"[{"on":"every","at":"22:00:00"}]"#, "4h");
    named.zone = Some("UTC".to_owned());
    let tokyo = zone("JST-9");
    let start = |window: &Window| {
        Calendar::new(window, &tokyo).unwrap().next(at("2026-11-24T00:00:00Z")).unwrap().start
    };
    assert_eq!(start(&named), at("2026-11-24T22:00:00Z"));
    named.zone = None;
    assert_eq!(start(&named), at("2026-11-24T13:00:00Z"));
    named.zone = Some("Mars/Phobos".to_owned());
    let error = Calendar::new(&named, &tokyo).unwrap_err();
    assert_eq!(error.to_string(), "the time zone `Mars/Phobos` is not known");
}

#[test]
fn a_window_that_makes_no_sense_is_refused_by_name() {
    for (opens, length, message) in [
        ("[]", "2h", "`opens` must list at least one rule"),
        (r#"[{"on":"every","at":"22:00:00"}]"#, "1min", "`length` must be 5min to 7days, found 1m"),
        (r#"[{"on":"every","at":"22:00:00"}]"#, "8days", "`length` must be 5min to 7days, found 8days"),
        (r#"[{"on":{"weekly":[]},"at":"22:00:00"}]"#, "2h", "`days` must list at least one day"),
        (r#"[{"on":{"weekly":["monday","monday"]},"at":"22:00:00"}]"#, "2h", "`days` names monday twice"),
        (r#"[{"on":{"nth":[6,"monday"]},"at":"22:00:00"}]"#, "2h", "`nth` must be 1 to 5 or -1, found 6"),
        (r#"[{"on":{"nth":[-2,"monday"]},"at":"22:00:00"}]"#, "2h", "`nth` must be 1 to 5 or -1, found -2"),
        (
            r#"[{"on":{"after":[2,"tuesday",32]},"at":"22:00:00"}]"#,
            "2h",
            "`after` must be -31 to 31 days, found 32",
        ),
        (r#"[{"on":{"day":0},"at":"22:00:00"}]"#, "2h", "`day` must be 1 to 31 or -1 to -31, found 0"),
        (r#"[{"on":"every","at":"22:00:00","months":[13]}]"#, "2h", "`months` must be 1 to 12, found 13"),
        (r#"[{"on":"every","at":"22:00:00","months":[2,2]}]"#, "2h", "`months` names 2 twice"),
        (
            r#"[{"on":"every","at":"22:00:00"},{"on":{"day":30},"at":"22:00:00","months":[2]}]"#,
            "2h",
            "rule 2 of `opens` names no day that comes",
        ),
        (
            r#"[{"on":"every","at":"22:00:00"}]"#,
            "1day",
            "the window is open for longer than 7 days without a pause, from 2026-11-01T22:00:00Z",
        ),
    ] {
        let error = check_window(&window(opens, length), &TimeZone::UTC, at("2026-11-24T12:00:00Z"));
        assert_eq!(error.unwrap_err().to_string(), message, "{opens}");
    }
}

fn weekday() -> impl Strategy<Value = Weekday> {
    use Weekday as W;
    proptest::sample::select(vec![
        W::Monday,
        W::Tuesday,
        W::Wednesday,
        W::Thursday,
        W::Friday,
        W::Saturday,
        W::Sunday,
    ])
}

fn days() -> impl Strategy<Value = Days> {
    let nth = || proptest::sample::select(vec![1_i8, 2, 3, 4, 5, -1]);
    prop_oneof![
        Just(Days::Every),
        proptest::collection::btree_set(weekday(), 1..5)
            .prop_map(|days| Days::Weekly(days.into_iter().collect())),
        (nth(), weekday()).prop_map(|(nth, day)| Days::Nth(nth, day)),
        (nth(), weekday(), -31_i8..=31).prop_map(|(nth, day, later)| Days::After(nth, day, later)),
        prop_oneof![1_i8..=31, -31_i8..=-1].prop_map(Days::Day),
    ]
}

fn recurrence() -> impl Strategy<Value = Recurrence> {
    let months = proptest::collection::btree_set(1_i8..=12, 0..4);
    (days(), 0_i8..24, 0_i8..60, months).prop_map(|(on, hour, minute, months)| Recurrence {
        on,
        at: civil::time(hour, minute, 0, 0),
        months: months.into_iter().collect(),
    })
}

/// Whether a rule names the day, told from the day instead of from the month.
fn names(rule: &Recurrence, date: Date) -> bool {
    let month = |date: Date| rule.months.is_empty() || rule.months.contains(&date.month());
    let nth = |date: Date, nth: i8, day: Weekday| {
        date.weekday() == civil_weekday(day)
            && if nth == -1 { date.day() + 7 > date.days_in_month() } else { (date.day() - 1) / 7 + 1 == nth }
    };
    match &rule.on {
        Days::Every => month(date),
        Days::Weekly(days) => month(date) && days.iter().any(|day| civil_weekday(*day) == date.weekday()),
        Days::Nth(n, day) => month(date) && nth(date, *n, *day),
        Days::After(n, day, later) => {
            let anchor = date.checked_sub(i32::from(*later).days()).unwrap();
            month(anchor) && nth(anchor, *n, *day)
        }
        Days::Day(day) if *day < 0 => month(date) && date.day() == date.days_in_month() + 1 + day,
        Days::Day(day) => month(date) && date.day() == *day,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Every start within two years, by walking over days, against what the calendar says.
    #[test]
    fn occurrences_ascend_never_overlap_and_are_exactly_what_the_rules_name(
        opens in proptest::collection::vec(recurrence(), 1..4),
        minutes in 5_u64..3 * 24 * 60,
        from in 1_700_000_000_i64..2_000_000_000,
        posix in proptest::sample::select(vec!["UTC0", PARIS, "JST-9", "EST5EDT,M3.2.0,M11.1.0", "LHST-10:30LHDT-11,M10.1.0,M4.1.0"]),
    ) {
        let zone = zone(posix);
        let length = Duration::from_secs(minutes * 60);
        let window = Window { id: "w".parse().unwrap(), opens: opens.clone(), length, zone: None, at_once_max: None };
        let from = Timestamp::from_second(from).unwrap();
        prop_assume!(check_window(&window, &zone, from).is_ok());
        let calendar = Calendar::new(&window, &zone).unwrap();
        let until = from.checked_add(SignedDuration::from_hours(2 * 366 * 24)).unwrap();

        let mut expected: Vec<(Timestamp, Timestamp)> = Vec::new();
        let mut starts = BTreeSet::new();
        let mut day = from.to_zoned(zone.clone()).date().checked_sub(10.days()).unwrap();
        while day <= until.to_zoned(zone.clone()).date().tomorrow().unwrap() {
            for rule in opens.iter().filter(|rule| names(rule, day)) {
                starts.insert(zone.to_ambiguous_timestamp(day.to_datetime(rule.at)).compatible().unwrap());
            }
            day = day.tomorrow().unwrap();
        }
        let length = SignedDuration::try_from(length).unwrap();
        for start in starts {
            let end = start.checked_add(length).unwrap();
            match expected.last_mut() {
                Some(last) if start <= last.1 => last.1 = end,
                _ => expected.push((start, end)),
            }
        }
        expected.retain(|(start, end)| *end > from && *start < until);

        let found: Vec<Occurrence> = calendar.from(from).take_while(|found| found.start < until).collect();
        prop_assert!(found.windows(2).all(|pair| pair[0].end < pair[1].start));
        // The last one may go on behind what was looked at.
        let told: Vec<_> = found.iter().map(|found| (found.start, found.end)).collect();
        prop_assert_eq!(told.len(), expected.len());
        prop_assert_eq!(&told[..told.len().saturating_sub(1)], &expected[..expected.len().saturating_sub(1)]);
        for found in &found {
            prop_assert_eq!(calendar.at(found.start), Some(found.clone()));
            let middle = found.start.checked_add(found.length() / 2).unwrap();
            prop_assert_eq!(calendar.at(middle), Some(found.clone()));
            prop_assert_eq!(calendar.at(found.end), None);
        }
    }
}
