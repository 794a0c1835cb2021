//! When a schedule is due on one computer.
//!
//! Each computer has its own place in every period, by a stable hash of its identity: a fleet spreads by
//! itself, and a computer keeps its place over restarts. What was missed while it was off is caught up once.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp, civil::Date, tz::TimeZone};

use super::{CalendarError, check_days, civil_weekday, out_of_range};
use crate::{
    schedule,
    schema::policy::{Schedule, Weekday},
};

/// The shortest period: more often than this nothing new can be found.
pub const EVERY_MIN: Duration = Duration::from_secs(60);
/// The longest period.
pub const EVERY_MAX: Duration = Duration::from_secs(31 * 24 * 3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Days looked at around a moment: a week of days, a week of spread, and the ends of both.
const AROUND_DAYS: i64 = 16;

/// Says what is wrong with a schedule.
///
/// # Errors
///
/// [`CalendarError`], the first that is found.
pub fn check(schedule: &Schedule) -> Result<(), CalendarError> {
    let spread_at_most = |spread: Duration, most: Duration, range| {
        if spread <= most {
            Ok(())
        } else {
            Err(out_of_range("spread", range, &humantime::format_duration(spread)))
        }
    };
    match schedule {
        Schedule::Every(period) => {
            if (EVERY_MIN..=EVERY_MAX).contains(period) {
                Ok(())
            } else {
                Err(out_of_range("every", "1min to 31days", &humantime::format_duration(*period)))
            }
        }
        Schedule::Daily { at: _, spread } => spread_at_most(*spread, DAY, "at most 1day"),
        Schedule::Weekly { days, at: _, spread } => {
            check_days(days)?;
            spread_at_most(*spread, DAY * apart(days), "at most the days between two of its days")
        }
    }
}

/// The smallest number of days from one of `days` to the next, 1 to 7.
fn apart(days: &[Weekday]) -> u32 {
    let mut places: Vec<i32> =
        days.iter().map(|day| i32::from(civil_weekday(*day).to_monday_zero_offset())).collect();
    places.sort_unstable();
    let first = places.first().copied();
    let next = places.iter().skip(1).copied().chain(first.map(|first| first + 7));
    let least = places.iter().zip(next).map(|(a, b)| b - a).min().unwrap_or(7);
    u32::try_from(least).unwrap_or(1).max(1)
}

/// When a schedule is due next on the computer `identity`: `now` itself when a time came since `last_run`, or
/// when it never ran; else the next time, after `now`. A `last_run` in the future, as after a clock was set
/// back, makes nothing wait longer than for the next time.
#[must_use]
pub fn next(
    schedule: &Schedule,
    now: Timestamp,
    identity: &str,
    last_run: Option<Timestamp>,
    zone: &TimeZone,
) -> Timestamp {
    let (last, next) = around(schedule, now, identity, zone);
    match last_run {
        None => now,
        Some(run) if last.is_some_and(|last| run < last) => now,
        Some(_) => next,
    }
}

/// The latest time at or before `now`, and the first one after it.
fn around(
    schedule: &Schedule,
    now: Timestamp,
    identity: &str,
    zone: &TimeZone,
) -> (Option<Timestamp>, Timestamp) {
    let (days, at, spread) = match schedule {
        Schedule::Every(period) => {
            let period = (*period).max(EVERY_MIN);
            let next = schedule::next(now, period, schedule::offset(identity, period));
            let last = next.checked_sub(SignedDuration::try_from(period).unwrap_or(SignedDuration::MAX));
            return (last.ok(), next);
        }
        Schedule::Daily { at, spread } => (None, at, spread),
        Schedule::Weekly { days, at, spread } => (Some(days), at, spread),
    };
    let place = SignedDuration::try_from(schedule::offset(identity, *spread)).unwrap_or_default();
    let today = zone.to_datetime(now).date();
    let due = |day: Date| {
        let begin = zone.to_ambiguous_timestamp(day.to_datetime(*at)).compatible().ok()?;
        begin.checked_add(place).ok()
    };
    let times: Vec<Timestamp> = (-AROUND_DAYS..=AROUND_DAYS)
        .filter_map(|by| today.checked_add(SignedDuration::from_hours(24 * by)).ok())
        .filter(|day| days.is_none_or(|days| days.iter().any(|named| civil_weekday(*named) == day.weekday())))
        .filter_map(due)
        .collect();
    let last = times.iter().filter(|time| **time <= now).max().copied();
    (last, times.into_iter().filter(|time| *time > now).min().unwrap_or(Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn schedule(json: &str) -> Schedule {
        serde_json::from_str(json).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn paris() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    #[test]
    fn a_daily_time_is_the_computers_own_in_its_zone_and_comes_once_a_day() {
        let daily = schedule(r#"{"daily":{"at":"02:00:00","spread":"0s"}}"#);
        let mut now = at("2026-03-27T12:00:00Z");
        let mut times = Vec::new();
        for _ in 0..4 {
            now = next(&daily, now, "a", Some(now), &paris());
            times.push(now.to_string());
        }
        // On the 29th there is no 02:00; it is 03:00 there.
        assert_eq!(
            times,
            ["2026-03-28T01:00:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z", "2026-03-31T00:00:00Z"]
        );
    }

    #[test]
    fn what_was_missed_is_caught_up_once() {
        let weekly = schedule(r#"{"weekly":{"days":["saturday"],"at":"02:00:00","spread":"4h"}}"#);
        let place = Duration::from_secs(4 * 3600);
        let own = schedule::offset("a", place);
        let due = at("2026-11-21T02:00:00Z").checked_add(SignedDuration::try_from(own).unwrap()).unwrap();
        let utc = TimeZone::UTC;
        let before = at("2026-11-20T00:00:00Z");
        assert_eq!(next(&weekly, before, "a", Some(before), &utc), due);
        assert_eq!(next(&weekly, due, "a", Some(before), &utc), due);
        let monday = at("2026-11-23T08:00:00Z");
        assert_eq!(next(&weekly, monday, "a", Some(before), &utc), monday, "missed");
        let week = SignedDuration::from_hours(7 * 24);
        assert_eq!(next(&weekly, monday, "a", Some(monday), &utc), due.checked_add(week).unwrap());
        assert_eq!(next(&weekly, monday, "a", None, &utc), monday, "never ran");
        // The clock was set back by a year after the last run.
        assert_eq!(next(&weekly, before, "a", Some(at("2027-11-20T00:00:00Z")), &utc), due);
    }

    #[test]
    fn a_thousand_computers_spread_over_the_spread() {
        let daily = schedule(r#"{"daily":{"at":"22:00:00","spread":"5h"}}"#);
        let (now, mut tenths) = (at("2026-11-20T12:00:00Z"), BTreeMap::new());
        for computer in 0..1000 {
            let due = next(&daily, now, &format!("computer-{computer}"), Some(now), &TimeZone::UTC);
            let into = due.duration_since(at("2026-11-20T22:00:00Z")).as_secs();
            assert!((0..5 * 3600).contains(&into), "{due}");
            *tenths.entry(into / 1800).or_insert(0) += 1;
        }
        assert!(tenths.len() == 10 && tenths.values().all(|n| (60..140).contains(n)), "{tenths:?}");
    }

    #[test]
    fn a_schedule_that_makes_no_sense_is_refused_by_name() {
        for (json, message) in [
            (r#"{"every":"10s"}"#, "`every` must be 1min to 31days, found 10s"),
            (r#"{"every":"60days"}"#, "`every` must be 1min to 31days, found 1month 29days 13h 26m 24s"),
            (r#"{"daily":{"at":"02:00:00","spread":"25h"}}"#, "`spread` must be at most 1day, found 1day 1h"),
            (r#"{"weekly":{"days":[],"at":"02:00:00","spread":"1h"}}"#, "`days` must list at least one day"),
            (
                r#"{"weekly":{"days":["friday","friday"],"at":"02:00:00","spread":"1h"}}"#,
                "`days` names friday twice",
            ),
            (
                r#"{"weekly":{"days":["sunday","monday"],"at":"02:00:00","spread":"2days"}}"#,
                "`spread` must be at most the days between two of its days, found 2days",
            ),
        ] {
            assert_eq!(check(&schedule(json)).unwrap_err().to_string(), message, "{json}");
        }
        for json in [
            r#"{"every":"3h"}"#,
            r#"{"daily":{"at":"02:00:00","spread":"1day"}}"#,
            r#"{"weekly":{"days":["monday","thursday"],"at":"02:00:00","spread":"3days"}}"#,
            r#"{"weekly":{"days":["monday"],"at":"02:00:00","spread":"7days"}}"#,
        ] {
            assert_eq!(check(&schedule(json)), Ok(()), "{json}");
        }
    }

    proptest! {
        #[test]
        fn a_computer_that_runs_when_it_is_due_runs_once_in_each_period(
            identity in "[a-z]{1,8}",
            start in 1_700_000_000_i64..1_900_000_000,
            spread_hours in 0_u64..=24,
            hour in 0_i8..24,
        ) {
            let at = jiff::civil::time(hour, 30, 0, 0);
            let daily = Schedule::Daily { at, spread: Duration::from_secs(spread_hours * 3600) };
            let zone = paris();
            let mut run = Timestamp::from_second(start).unwrap();
            let mut gaps = Vec::new();
            for _ in 0..40 {
                let due = next(&daily, run, &identity, Some(run), &zone);
                prop_assert!(due > run);
                prop_assert_eq!(next(&daily, due, &identity, Some(run), &zone), due, "due when it comes");
                gaps.push(due.duration_since(run).as_secs());
                run = due;
            }
            // Days have 23 to 25 hours.
            prop_assert!(gaps[1..].iter().all(|gap| (23 * 3600..=25 * 3600).contains(gap)), "{:?}", gaps);
        }
    }
}
