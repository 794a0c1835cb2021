//! When the computer checks by itself. Pure.
//!
//! Updating by schedule is a privilege that the service level gives, and that the person at the machine may
//! switch off where the level lets him. Without it only calls from above, people, and what was planned for a
//! time start a check, besides the one with which the program begins: that one catches up what was missed
//! and looks what became of what was interrupted.

use std::time::Duration;

use jiff::{Timestamp, tz::TimeZone};
use tierway_common::{calendar::timetable, schema::policy::Schedule, service::Settings};

use crate::wishes::Wishes;

/// What decides.
#[derive(Clone, Copy, Debug)]
pub struct Rhythm<'a> {
    /// Of the service levels.
    pub settings: &'a Settings,
    /// Of people at the machine, who may have switched updates by schedule off.
    pub wishes: &'a Wishes,
    /// How often it is checked where no level says it.
    pub check_interval: Duration,
    /// The same while something approved is not installed.
    pub retry_interval: Duration,
    /// The computer, for its own place in each period.
    pub identity: &'a str,
    /// Its time zone.
    pub zone: &'a TimeZone,
}

impl Rhythm<'_> {
    /// When it checks next by itself after a check at `last`; `now` when a time was missed since, and `None`
    /// without the privilege. `unfinished`: something approved is not installed.
    #[must_use]
    pub fn next(&self, last: Timestamp, unfinished: bool, now: Timestamp) -> Option<Timestamp> {
        if !self.wishes.scheduled(self.settings) {
            return None;
        }
        let from_level = |name| self.settings.origins.contains_key(name);
        let next = |schedule: &Schedule| timetable::next(schedule, now, self.identity, Some(last), self.zone);
        let regular = if from_level("schedule") {
            next(&self.settings.schedule)
        } else {
            next(&Schedule::Every(self.check_interval))
        };
        let retry =
            if from_level("retry_interval") { self.settings.retry_interval } else { self.retry_interval };
        Some(if unfinished { regular.min(next(&Schedule::Every(retry))) } else { regular })
    }
}

/// When something is due that was planned at `planned` for `due`, seen from `now`: now, when the clock was set back behind
/// the moment in which it was planned, for then nobody knows how long ago that was.
#[must_use]
pub fn due(due: Timestamp, planned: Timestamp, now: Timestamp) -> Timestamp {
    if now < planned { now } else { due }
}

#[cfg(test)]
mod tests {
    use tierway_common::{id::GroupId, schema::policy::ServiceLevel};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(time: &str) -> Timestamp {
        format!("2026-11-{time}Z").parse().unwrap()
    }

    /// When a computer of this level that checked last at `last` checks again, seen from `now`.
    fn next(level: &str, unscheduled: bool, last: &str, unfinished: bool, now: &str) -> Option<Timestamp> {
        let level: ServiceLevel = serde_json::from_str(level).unwrap();
        let group: GroupId = "all".parse().unwrap();
        let settings = Settings::merge([(&group, &level)]);
        let rhythm = Rhythm {
            settings: &settings,
            wishes: &Wishes { unscheduled, ..Wishes::default() },
            check_interval: 6 * HOUR,
            retry_interval: 2 * HOUR,
            identity: "web",
            zone: &TimeZone::UTC,
        };
        rhythm.next(at(last), unfinished, at(now))
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_put_off_what_is_due() {
        let of = |now: &str| due(at("24T13:00:00"), at("24T10:00:00"), at(now));
        assert_eq!(of("24T11:00:00"), at("24T13:00:00"));
        assert_eq!(of("24T10:00:00"), at("24T13:00:00"));
        assert_eq!(of("22T10:00:00"), at("22T10:00:00"));
        assert_eq!(of("25T10:00:00"), at("24T13:00:00"));
    }

    fn after(level: &str, unfinished: bool) -> Duration {
        let next = next(level, false, "24T10:00:00", unfinished, "24T10:00:00").unwrap();
        next.duration_since(at("24T10:00:00")).try_into().unwrap()
    }

    #[test]
    fn without_the_privilege_nothing_is_checked_by_schedule_and_the_switch_counts_only_where_it_may() {
        let level = |scheduled: bool, optional: bool| {
            format!(r#"{{"id":"x","scheduled":{scheduled},"schedule_optional":{optional}}}"#)
        };
        for (scheduled, optional, off, checks) in [
            (true, false, false, true),
            (true, false, true, true),
            (true, true, false, true),
            (true, true, true, false),
            (false, false, false, false),
            (false, true, false, false),
            (false, true, true, false),
        ] {
            // Also what was missed, and what is not finished.
            let next = next(&level(scheduled, optional), off, "20T10:00:00", true, "24T10:00:00");
            assert_eq!(next.is_some(), checks, "scheduled {scheduled}, optional {optional}, off {off}");
        }
    }

    #[test]
    fn the_intervals_are_those_of_the_level_or_else_of_the_configuration() {
        assert!(after(r#"{"id":"x"}"#, false) <= 6 * HOUR);
        assert!(after(r#"{"id":"x"}"#, true) <= 2 * HOUR);
        assert!(after(r#"{"id":"x","schedule":{"every":"10m"}}"#, false) <= HOUR / 6);
        assert!(after(r#"{"id":"x","retry_interval":"5m"}"#, true) <= HOUR / 12);
        let often = r#"{"id":"x","schedule":{"every":"10m"},"retry_interval":"7days"}"#;
        assert!(after(often, true) <= HOUR / 6, "a retry puts nothing off");
    }

    #[test]
    fn a_daily_check_comes_at_its_own_place_in_the_spread_and_what_was_missed_at_once() {
        let daily = r#"{"id":"x","schedule":{"daily":{"at":"03:00:00","spread":"2h"}}}"#;
        let due = next(daily, false, "24T10:00:00", false, "24T10:00:00").unwrap();
        assert!((at("25T03:00:00")..at("25T05:00:00")).contains(&due), "{due}");
        assert_eq!(next(daily, false, "24T10:00:00", false, "24T23:00:00"), Some(due), "it stays there");
        let missed = next(daily, false, "24T10:00:00", false, "25T09:00:00");
        assert_eq!(missed, Some(at("25T09:00:00")));
        let caught_up = next(daily, false, "25T09:00:00", false, "25T09:00:00").unwrap();
        assert!((at("26T03:00:00")..at("26T05:00:00")).contains(&caught_up), "{caught_up}");
    }
}
