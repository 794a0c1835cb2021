//! Whether an installation fits into what is left of a change window; pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp, Zoned};
use tierway_common::{
    calendar::{Calendar, Occurrence},
    schema::policy::{AtDeadline, Reboot},
    service::Settings,
};

use crate::{
    consent::{self, Terms, signed},
    install::failsafe::{self, Limit, Source},
    people::People,
    policy::here::Here,
};

/// Kept free for a reboot: servers with much memory and many disks take that long in their firmware.
pub const REBOOT_RESERVE: SignedDuration = SignedDuration::from_mins(10);
/// An update that nobody has measured gets what is left of a window, if it is not less than this: in a window
/// shorter than the configured limit nothing would ever be installed, and so nothing measured, otherwise.
pub const UNMEASURED_MIN: Duration = Duration::from_secs(30 * 60);
/// What it is thought to take, for when those behind it begin; each beginning looks at the clock again.
pub(super) const UNMEASURED_EXPECTED: Duration = Duration::from_secs(5 * 60);
/// Occurrences of a window looked at for one that is long enough; rules of one window differ little.
const LOOKED_AT: usize = 8;

/// Where something can go at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// There are no windows, or they do not count any more.
    Any,
    /// In this one.
    In(Occurrence),
    /// One is open with so much left, and it does not fit.
    Short(SignedDuration),
    /// None is open.
    Closed,
}

/// Kept free at the end of a window for a reboot and the warning before it.
#[must_use]
pub fn reboot_reserve(settings: &Settings, people: &People) -> SignedDuration {
    match settings.reboot {
        Reboot::Suppress | Reboot::At(_) => SignedDuration::ZERO,
        Reboot::IfNeeded | Reboot::Always if people.logged_in() => REBOOT_RESERVE + consent::length(settings),
        Reboot::IfNeeded | Reboot::Always => REBOOT_RESERVE,
    }
}

/// The least time limit with which something may begin: what was measured on other machines still tells what a window
/// must have room for.
pub(super) fn least(limit: &Limit) -> Duration {
    match limit.source {
        Source::Configured => limit.duration.min(UNMEASURED_MIN),
        Source::AllClasses => failsafe::multiple(limit.expected).min(limit.duration),
        Source::Class(_) => limit.duration,
    }
}

pub(super) fn expected(limit: &Limit) -> Duration {
    match limit.source {
        Source::Configured => limit.duration.min(UNMEASURED_EXPECTED),
        Source::Class(_) | Source::AllClasses => limit.expected,
    }
}

/// Whether windows do not count at `at` for something with these terms.
#[must_use]
pub fn unbound(here: &Here, terms: &Terms, at: Timestamp) -> bool {
    here.settings.windows.is_empty()
        || here.settings.at_deadline == AtDeadline::Install && at >= terms.deadline
}

/// Where something that needs `needs` can begin at `at`: in the open window that is open longest.
pub(super) fn room(here: &Here, terms: &Terms, at: Timestamp, needs: SignedDuration) -> Room {
    if unbound(here, terms, at) {
        return Room::Any;
    }
    let open = here.windows.iter().filter_map(|window| window.at(at)).max_by_key(|open| open.end);
    match open {
        None => Room::Closed,
        Some(open) => {
            let left = open.end.duration_since(at);
            if needs <= left { Room::In(open) } else { Room::Short(left) }
        }
    }
}

/// The next opening after `now` in which `needs` fits, in the zone of its window.
pub(super) fn next(here: &Here, now: Timestamp, needs: SignedDuration) -> Option<Zoned> {
    let long_enough = |window: &Calendar| {
        let mut coming = window.from(now).filter(|found| found.start > now).take(LOOKED_AT);
        let found = coming.find(|found| needs <= found.length())?;
        Some(found.start.to_zoned(window.zone().clone()))
    };
    here.windows.iter().filter_map(long_enough).min()
}

/// The limit of a step that begins at `at`: all of it, or for one that was not measured on such machines what is left.
pub(super) fn limit_at(
    (limit, least): (Duration, Duration),
    window: Option<&Occurrence>,
    reserve: SignedDuration,
    at: Timestamp,
) -> Option<Duration> {
    let Some(window) = window else { return Some(limit) };
    if !window.contains(at) {
        return None;
    }
    let room = window.end.duration_since(at).saturating_sub(reserve);
    if room < signed(least) {
        return None;
    }
    Some(limit.min(Duration::try_from(room).unwrap_or(limit)))
}
