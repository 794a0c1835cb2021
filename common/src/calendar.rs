//! When change windows are open and schedules are due: calendar rules turned into moments.
//!
//! Pure: documents, a time zone and `now` in, moments out; the same on all tiers. A day begins and a time of
//! day is read in the window's zone, or in the zone that the caller gives where the window names none.
//! Lengths are real time. A local time that a change to summer time leaves out is taken as much later as the
//! clocks jump; one that comes twice is taken the first time.
//!
//! Openings of one window that touch or overlap are one [`Occurrence`]: occurrences never overlap.

pub mod timetable;

use std::{collections::BTreeSet, ops::RangeInclusive, time::Duration};

use jiff::{
    SignedDuration, Timestamp, ToSpan,
    civil::{self, Date, DateTime},
    tz::TimeZone,
};

use crate::{
    id::WindowId,
    schema::policy::{Days, Recurrence, Weekday, Window},
};

/// Rules of one window; more are a mistake.
pub const RULES_MAX: usize = 32;
/// A window shorter than this lets nothing be installed.
pub const LENGTH_MIN: Duration = Duration::from_secs(5 * 60);
/// A window open for longer, or openings that touch for longer, are no change window any more.
pub const LENGTH_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Days between the nth weekday and the day that follows it.
pub const AFTER_DAYS_MAX: i8 = 31;
/// How far ahead a window is looked for: the 29th of February is eight years away at most.
const AHEAD_MONTHS: i32 = 9 * 12;
/// A day of a rule belongs to a month at most so far away (see [`Days::After`]), zones included.
const SPILL_MONTHS: i32 = 2;
/// How long a window is looked at to find whether it ever closes: leap years and all weekdays come by.
const CHECKED_MONTHS: i32 = 28 * 12;

/// A document that says something impossible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CalendarError {
    /// Nothing is listed.
    #[error("`{what}` must list at least one {of}")]
    Empty {
        /// Of the document.
        what: &'static str,
        /// What is listed there.
        of: &'static str,
    },
    /// Too much is listed.
    #[error("`{what}` lists {found}, at most {most} are allowed")]
    TooMany {
        /// Of the document.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there may be.
        most: usize,
    },
    /// A number that makes no sense.
    #[error("`{what}` must be {range}, found {found}")]
    Range {
        /// Of the document.
        what: &'static str,
        /// What is allowed.
        range: &'static str,
        /// What was found.
        found: String,
    },
    /// Something listed twice.
    #[error("`{what}` names {twice} twice")]
    Twice {
        /// Of the document.
        what: &'static str,
        /// Which.
        twice: String,
    },
    /// A time zone that this computer does not know.
    #[error("the time zone `{zone}` is not known")]
    Zone {
        /// Its name.
        zone: String,
    },
    /// There is no such day in any of its months.
    #[error("rule {rule} of `opens` names no day that comes")]
    Never {
        /// Its place, from 1.
        rule: usize,
    },
    /// Openings that follow each other without a pause for too long.
    #[error("the window is open for longer than 7 days without a pause, from {since}")]
    Always {
        /// From when on, as an example.
        since: Timestamp,
    },
}

/// A time in which a window is open.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Occurrence {
    /// It opens.
    pub start: Timestamp,
    /// It is closed from here on; after `start`.
    pub end: Timestamp,
    /// Of which window.
    pub window: WindowId,
}

impl Occurrence {
    /// Whether it is open at `at`.
    #[must_use]
    pub fn contains(&self, at: Timestamp) -> bool {
        self.start <= at && at < self.end
    }

    /// How long it is.
    #[must_use]
    pub fn length(&self) -> SignedDuration {
        self.end.duration_since(self.start)
    }
}

/// A change window that was checked, in its zone.
#[derive(Clone, Debug, PartialEq)]
pub struct Calendar {
    window: WindowId,
    rules: Vec<Recurrence>,
    length: SignedDuration,
    zone: TimeZone,
    at_once_max: Option<u32>,
}

impl Calendar {
    /// Reads a window; `own` is the zone of the computer, for a window that names none.
    ///
    /// # Errors
    ///
    /// [`CalendarError`], for what can be seen without looking through years: see [`check_window`].
    pub fn new(window: &Window, own: &TimeZone) -> Result<Self, CalendarError> {
        let Window { id, opens, length, zone, at_once_max } = window;
        if opens.is_empty() {
            return Err(CalendarError::Empty { what: "opens", of: "rule" });
        }
        if opens.len() > RULES_MAX {
            return Err(CalendarError::TooMany { what: "opens", found: opens.len(), most: RULES_MAX });
        }
        for rule in opens {
            check_recurrence(rule)?;
        }
        if !(LENGTH_MIN..=LENGTH_MAX).contains(length) {
            return Err(out_of_range("length", "5min to 7days", &humantime::format_duration(*length)));
        }
        if *at_once_max == Some(0) {
            return Err(out_of_range("at_once_max", "at least 1", &0));
        }
        let zone = match zone {
            None => own.clone(),
            Some(name) => TimeZone::get(name).map_err(|_| CalendarError::Zone { zone: name.clone() })?,
        };
        let length = SignedDuration::try_from(*length).unwrap_or(SignedDuration::MAX);
        Ok(Self { window: id.clone(), rules: opens.clone(), length, zone, at_once_max: *at_once_max })
    }

    /// Which window it is.
    #[must_use]
    pub fn window(&self) -> &WindowId {
        &self.window
    }

    /// How many of its computers may be down at once, where that is limited.
    #[must_use]
    pub fn at_once_max(&self) -> Option<u32> {
        self.at_once_max
    }

    /// The zone it is read in.
    #[must_use]
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// The occurrence that is open at `now`.
    #[must_use]
    pub fn at(&self, now: Timestamp) -> Option<Occurrence> {
        let after = back(now, self.length);
        let mut start = self.starts(after, now).into_iter().find(|start| *start > after)?;
        // Openings that touch it before are the same occurrence.
        let earliest = back(now, self.longest());
        while let Some(before) = self.starts(back(start, self.length).max(earliest), start).first().copied()
            && before < start
        {
            start = before;
        }
        let end = start.checked_add(self.length).unwrap_or(Timestamp::MAX);
        Some(self.to_its_end(Occurrence { start, end, window: self.window.clone() }))
    }

    /// The first occurrence that opens after `after`; `None` when none comes within nine years.
    #[must_use]
    pub fn next(&self, after: Timestamp) -> Option<Occurrence> {
        let after = self.at(after).map_or(after, |open| open.end);
        let start = self.first_start(after)?;
        let end = start.checked_add(self.length).unwrap_or(Timestamp::MAX);
        Some(self.to_its_end(Occurrence { start, end, window: self.window.clone() }))
    }

    /// Occurrences from the one that is open at `from`, in their order; ends when none comes within nine years.
    pub fn from(&self, from: Timestamp) -> impl Iterator<Item = Occurrence> {
        let first = self.at(from).or_else(|| self.next(from));
        std::iter::successors(first, |last| self.next(last.start))
    }

    fn longest(&self) -> SignedDuration {
        SignedDuration::try_from(LENGTH_MAX).unwrap_or(SignedDuration::MAX).max(self.length)
    }

    /// Openings that touch as one, of ascending starts, never longer than the longest allowed.
    fn merged(&self, starts: &BTreeSet<Timestamp>) -> impl Iterator<Item = Occurrence> {
        let mut merged: Vec<Occurrence> = Vec::new();
        for start in starts {
            let end = start.checked_add(self.length).unwrap_or(Timestamp::MAX);
            match merged.last_mut() {
                Some(last) if *start <= last.end => last.end = end,
                _ => merged.push(Occurrence { start: *start, end, window: self.window.clone() }),
            }
        }
        merged.into_iter()
    }

    /// With the openings that begin before it closes.
    fn to_its_end(&self, mut found: Occurrence) -> Occurrence {
        let limit = found.start.checked_add(self.longest()).unwrap_or(Timestamp::MAX).max(found.end);
        while found.end < limit {
            let Some(last) = self.starts(found.start, found.end).last().copied() else { break };
            let end = last.checked_add(self.length).unwrap_or(Timestamp::MAX);
            if end <= found.end {
                break;
            }
            found.end = end;
        }
        found
    }

    /// Months between a day and the month whose rule names it.
    fn spill(&self) -> i32 {
        if self.rules.iter().any(|rule| matches!(rule.on, Days::After(..))) { SPILL_MONTHS } else { 0 }
    }

    /// Every start in `from..=to`.
    fn starts(&self, from: Timestamp, to: Timestamp) -> BTreeSet<Timestamp> {
        let (from_day, to_day) = (day_before(self.local(from)), day_after(self.local(to)));
        let (first, last) = (month_of(from_day, -self.spill()), month_of(to_day, self.spill()));
        (first..=last)
            .flat_map(|month| self.civil_starts(month, from_day..=to_day))
            .map(|start| self.moment(start))
            .filter(|start| (from..=to).contains(start))
            .collect()
    }

    /// The first start after `after`.
    fn first_start(&self, after: Timestamp) -> Option<Timestamp> {
        let from_day = day_before(self.local(after));
        let begin = month_of(from_day, -self.spill());
        let mut best: Option<Timestamp> = None;
        for month in begin..begin + AHEAD_MONTHS + SPILL_MONTHS {
            if let Some(best) = best
                && month > month_of(day_after(self.local(best)), self.spill())
            {
                break;
            }
            let best_day = best.map_or(Date::MAX, |best| day_after(self.local(best)));
            // Of each rule the first is enough: its days ascend.
            let first = |rule| {
                let days = days_of(rule, month, from_day..=best_day);
                days.map(|day| self.moment(day.to_datetime(rule.at))).find(|start| *start > after)
            };
            let found = self.rules.iter().filter_map(first).min();
            best = best.into_iter().chain(found).min();
        }
        best
    }

    /// The local starts on `days` of all rules whose months contain this one (see [`month_of`]), in no order.
    fn civil_starts(&self, month: i32, days: RangeInclusive<Date>) -> impl Iterator<Item = DateTime> {
        self.rules
            .iter()
            .flat_map(move |rule| days_of(rule, month, days.clone()).map(move |day| day.to_datetime(rule.at)))
    }

    fn moment(&self, local: DateTime) -> Timestamp {
        self.zone.to_ambiguous_timestamp(local).compatible().unwrap_or(Timestamp::MAX)
    }

    fn local(&self, at: Timestamp) -> Date {
        self.zone.to_datetime(at).date()
    }
}

/// Says what is wrong with a window, before anybody depends on it: beside what [`Calendar::new`] finds, a
/// rule that names no day and openings without a pause between them. `own` stands for the zone of computers.
///
/// # Errors
///
/// [`CalendarError`], the first that is found. `now` is where the search begins.
pub fn check_window(window: &Window, own: &TimeZone, now: Timestamp) -> Result<(), CalendarError> {
    let calendar = Calendar::new(window, own)?;
    for (place, rule) in window.opens.iter().enumerate() {
        let alone = Calendar { rules: vec![rule.clone()], ..calendar.clone() };
        if alone.first_start(now).is_none() {
            return Err(CalendarError::Never { rule: place + 1 });
        }
    }
    let begin = month_of(calendar.local(now), 0);
    let starts: BTreeSet<Timestamp> = (begin..begin + CHECKED_MONTHS)
        .flat_map(|month| calendar.civil_starts(month, Date::MIN..=Date::MAX))
        .map(|start| calendar.moment(start))
        .collect();
    let always = calendar.merged(&starts).find(|found| found.length() > calendar.longest());
    always.map_or(Ok(()), |found| Err(CalendarError::Always { since: found.start }))
}

/// Says what is wrong with a calendar rule.
///
/// # Errors
///
/// [`CalendarError`], the first that is found.
pub fn check_recurrence(rule: &Recurrence) -> Result<(), CalendarError> {
    let Recurrence { on, at: _, months } = rule;
    match on {
        Days::Every => {}
        Days::Weekly(days) => check_days(days)?,
        Days::Nth(nth, _) => check_nth(*nth)?,
        Days::After(nth, _, days) => {
            check_nth(*nth)?;
            if !(-AFTER_DAYS_MAX..=AFTER_DAYS_MAX).contains(days) {
                return Err(out_of_range("after", "-31 to 31 days", days));
            }
        }
        Days::Day(day) => {
            if !matches!(day, 1..=31 | -31..=-1) {
                return Err(out_of_range("day", "1 to 31 or -1 to -31", day));
            }
        }
    }
    let mut seen = BTreeSet::new();
    for month in months {
        if !(1..=12).contains(month) {
            return Err(out_of_range("months", "1 to 12", month));
        }
        if !seen.insert(month) {
            return Err(CalendarError::Twice { what: "months", twice: month.to_string() });
        }
    }
    Ok(())
}

fn check_nth(nth: i8) -> Result<(), CalendarError> {
    if matches!(nth, 1..=5 | -1) { Ok(()) } else { Err(out_of_range("nth", "1 to 5 or -1", &nth)) }
}

/// At least one day, none twice.
fn check_days(days: &[Weekday]) -> Result<(), CalendarError> {
    if days.is_empty() {
        return Err(CalendarError::Empty { what: "days", of: "day" });
    }
    let mut seen = BTreeSet::new();
    match days.iter().find(|day| !seen.insert(**day)) {
        None => Ok(()),
        Some(day) => Err(CalendarError::Twice { what: "days", twice: format!("{day:?}").to_lowercase() }),
    }
}

fn out_of_range(what: &'static str, range: &'static str, found: &dyn std::fmt::Display) -> CalendarError {
    CalendarError::Range { what, range, found: found.to_string() }
}

/// Those of `days` that a rule names in one month, ascending; with [`Days::After`] they may lie in another one.
fn days_of(rule: &Recurrence, month: i32, days: RangeInclusive<Date>) -> impl Iterator<Item = Date> {
    let first =
        first_of(month).filter(|first| rule.months.is_empty() || rule.months.contains(&first.month()));
    let one = first.and_then(|first| match &rule.on {
        Days::Every | Days::Weekly(_) => None,
        Days::Nth(nth, day) => nth_of(first, *nth, *day),
        Days::After(nth, day, later) => nth_of(first, *nth, *day)?.checked_add(i32::from(*later).days()).ok(),
        Days::Day(day) => {
            let day = if *day < 0 { first.days_in_month() + 1 + day } else { *day };
            Date::new(first.year(), first.month(), day).ok()
        }
    });
    let named = |day: &Date| match &rule.on {
        Days::Every => true,
        Days::Weekly(weekdays) => weekdays.iter().any(|named| civil_weekday(*named) == day.weekday()),
        Days::Nth(..) | Days::After(..) | Days::Day(_) => false,
    };
    let end = first.map(|first| first.last_of_month().min(*days.end()));
    let begin = first.map(|first| first.max(*days.start()));
    let begin = begin.filter(|_| matches!(rule.on, Days::Every | Days::Weekly(_)));
    let every = std::iter::successors(begin, |day| day.tomorrow().ok());
    let every = every.take_while(move |day| end.is_some_and(|end| *day <= end)).filter(named);
    one.filter(|day| days.contains(day)).into_iter().chain(every)
}

fn nth_of(first: Date, nth: i8, day: Weekday) -> Option<Date> {
    first.nth_weekday_of_month(nth, civil_weekday(day)).ok()
}

/// As jiff names it.
#[must_use]
pub fn civil_weekday(day: Weekday) -> civil::Weekday {
    match day {
        Weekday::Monday => civil::Weekday::Monday,
        Weekday::Tuesday => civil::Weekday::Tuesday,
        Weekday::Wednesday => civil::Weekday::Wednesday,
        Weekday::Thursday => civil::Weekday::Thursday,
        Weekday::Friday => civil::Weekday::Friday,
        Weekday::Saturday => civil::Weekday::Saturday,
        Weekday::Sunday => civil::Weekday::Sunday,
    }
}

/// Months since the year 0, moved by `by`.
fn month_of(date: Date, by: i32) -> i32 {
    i32::from(date.year()) * 12 + i32::from(date.month()) - 1 + by
}

fn first_of(month: i32) -> Option<Date> {
    let year = i16::try_from(month.div_euclid(12)).ok()?;
    let month = i8::try_from(month.rem_euclid(12)).ok()? + 1;
    Date::new(year, month, 1).ok()
}

fn day_before(date: Date) -> Date {
    date.yesterday().unwrap_or(Date::MIN)
}

fn day_after(date: Date) -> Date {
    date.tomorrow().unwrap_or(Date::MAX)
}

fn back(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_sub(by).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests;
