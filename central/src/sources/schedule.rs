//! When a daily task runs next.

use jiff::{Timestamp, ToSpan as _, civil::Time, tz::TimeZone};

/// The first moment after `after` at which clocks in `zone` show `at`, once a day.
///
/// Where clocks skip `at`, it is as much later as they skip; where they show it twice, it is the first time.
/// `None` only at the end of representable time.
#[must_use]
pub fn next_daily(at: Time, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    let first = after.to_zoned(zone.clone()).date();
    // A skipped `at` may come out on the next day, and a day may be missing altogether.
    (-1..=2).find_map(|day: i64| {
        let date = first.checked_add(day.days()).ok()?;
        let moment = date.to_datetime(at).to_zoned(zone.clone()).ok()?.timestamp();
        (moment > after).then_some(moment)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daily_task_runs_once_a_day_also_when_clocks_change() {
        for (zone, at, after, next) in [
            ("UTC", "03:00", "2026-11-20T02:59:59Z", "2026-11-20T03:00:00Z"),
            ("UTC", "03:00", "2026-11-20T03:00:00Z", "2026-11-21T03:00:00Z"),
            ("UTC", "03:00", "2026-12-31T12:00:00Z", "2027-01-01T03:00:00Z"),
            ("Europe/Berlin", "03:00", "2026-07-01T00:59:00Z", "2026-07-01T01:00:00Z"),
            ("Europe/Berlin", "03:00", "2026-12-01T00:00:00Z", "2026-12-01T02:00:00Z"),
            // 29 March 2026: 02:00 becomes 03:00, so 02:30 is shown at 03:30 summer time.
            ("Europe/Berlin", "02:30", "2026-03-29T00:00:00Z", "2026-03-29T01:30:00Z"),
            ("Europe/Berlin", "02:30", "2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"),
            // 25 October 2026: 03:00 becomes 02:00, so 02:30 is shown twice.
            ("Europe/Berlin", "02:30", "2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z"),
            ("Europe/Berlin", "02:30", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"),
            // Clocks went from 23:59:59 on 5 September 2026 to 01:00 on the 6th: midnight was skipped.
            ("America/Santiago", "00:00", "2026-09-06T03:59:59Z", "2026-09-06T04:00:00Z"),
            // 30 December 2011 did not exist.
            ("Pacific/Apia", "03:00", "2011-12-29T13:00:00Z", "2011-12-30T13:00:00Z"),
            ("Asia/Kathmandu", "03:00", "2026-11-20T00:00:00Z", "2026-11-20T21:15:00Z"),
        ] {
            let tz = TimeZone::get(zone).unwrap();
            let found = next_daily(at.parse().unwrap(), &tz, after.parse().unwrap());
            assert_eq!(found, Some(next.parse().unwrap()), "{zone} {at} after {after}");
        }
    }

    #[test]
    fn a_year_has_as_many_runs_as_days() {
        for zone in ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca"] {
            for at in ["00:00", "01:45", "02:15", "02:30", "03:00", "23:59"] {
                let tz = TimeZone::get(zone).unwrap();
                let mut now: Timestamp = "2026-01-15T12:00:00Z".parse().unwrap();
                let end: Timestamp = "2027-01-15T12:00:00Z".parse().unwrap();
                let mut runs = 0;
                while now < end {
                    now = next_daily(at.parse().unwrap(), &tz, now).unwrap();
                    runs += 1;
                }
                assert_eq!(runs, 366, "{zone} {at}: 365 and the one after the end");
            }
        }
    }
}
