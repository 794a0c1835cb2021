//! Whether and when this computer is rebooted.
//!
//! Pure. Tierway reboots only what it has changed: something must have been installed by it in this boot. With
//! anybody logged in nothing happens before a warning that was acknowledged or fully counted down; people at
//! work, programs that asked and open documents hold it back for a while and never past the deadline. Windows
//! and their leases count as for installations. An order that does not lead to another boot is repeated after
//! growing whiles, and a few times only.

use std::fmt;

use jiff::{SignedDuration, Timestamp, civil::Time, tz::TimeZone};
use tierway_common::{
    id::WindowId,
    schema::{
        State, Waiting,
        policy::{CountdownDefault, Experience, Reboot},
    },
};

use crate::{
    consent::{self, Asked, Countdown, Purpose, Terms, signed},
    ledger::Book,
    plan::{LeaseNeed, Now, Plan, REBOOT_RESERVE},
    policy::here::Here,
    reboot::ORDER_AGAIN_AFTER,
    signs::{self, Sign},
    wishes::Choice,
};

/// So many orders of one boot that came to nothing are enough: somebody must look.
pub const ORDERS_MAX: u32 = 5;
/// A reboot that a person orders is one without a warning for so long; later he may be about something else.
const AT_ONCE_FOR: SignedDuration = SignedDuration::from_mins(10);
/// A reboot at a time of day begins at the latest so long after it.
const AT_LENGTH: SignedDuration = SignedDuration::from_hours(1);

/// What to do about a reboot now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// None is due.
    No(NotDue),
    /// One is due, and waits.
    Wait {
        /// For what.
        why: Why,
        /// Until then at the latest, where that is known.
        until: Option<Timestamp>,
    },
    /// One is due, and people must be warned: a countdown begins or goes on.
    Warn {
        /// When it has run out.
        until: Timestamp,
        /// It cannot be put off any more.
        last: bool,
    },
    /// Nobody answered the countdown: it is put off until then.
    PutOff {
        /// Until then.
        until: Timestamp,
    },
    /// A permission of the window must be had first.
    Lease(LeaseNeed),
    /// Now.
    Now,
}

/// Why no reboot is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotDue {
    /// Nothing asks for one, or nothing of Tierway's.
    NotNeeded,
    /// One is needed, and the service level leaves it to others.
    Suppressed,
    /// It was ordered so often in vain that somebody must look.
    InVain(u32),
}

/// For what a reboot waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// More is to be installed first.
    Installations,
    /// It was ordered and must come any moment.
    Ordered,
    /// A person decides.
    Person(Asked),
    /// What speaks against it, at least one sentence.
    Held(Vec<String>),
    /// A change window in which it fits.
    Window,
    /// The time of day.
    TimeOfDay(Time),
}

impl Why {
    /// As reported.
    #[must_use]
    pub fn waiting(&self) -> Waiting {
        match self {
            Self::Installations => Waiting::Installing,
            Self::Ordered | Self::TimeOfDay(_) => Waiting::Reboot,
            Self::Person(_) | Self::Held(_) => Waiting::User,
            Self::Window => Waiting::Window,
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Installations => f.write_str("more is to be installed first"),
            Self::Ordered => f.write_str("it was ordered"),
            Self::Person(asked) => write!(f, "{asked}"),
            Self::Held(reasons) => f.write_str(&reasons.join("; ")),
            Self::Window => f.write_str("it waits for a change window"),
            Self::TimeOfDay(at) => write!(f, "it waits for {at}"),
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No(NotDue::NotNeeded) => f.write_str("no reboot is due"),
            Self::No(NotDue::Suppressed) => {
                f.write_str("a reboot is needed and left to others by the service level")
            }
            Self::No(NotDue::InVain(times)) => {
                write!(f, "a reboot was ordered {times} times and did not come")
            }
            Self::Wait { why, until: Some(until) } => write!(f, "a reboot is due: {why}, until {until}"),
            Self::Wait { why, until: None } => write!(f, "a reboot is due: {why}"),
            Self::Warn { until, last: false } => write!(f, "rebooting at {until} unless it is put off"),
            Self::Warn { until, last: true } => write!(f, "rebooting at {until}"),
            Self::PutOff { until } => write!(f, "a reboot is put off until {until}"),
            Self::Lease(need) => {
                write!(
                    f,
                    "a reboot is due: it waits until fewer computers of window `{}` are down",
                    need.window
                )
            }
            Self::Now => f.write_str("rebooting now"),
        }
    }
}

/// When a reboot is due since, and until when it may be held back or decided by people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Something was first installed in this boot.
    pub since: Timestamp,
    /// The earliest terms of what was installed in it and is not in effect.
    pub terms: Terms,
    /// What speaks against it counts until then.
    pub hold_until: Timestamp,
}

/// Whether a reboot is due, and its terms.
///
/// # Errors
///
/// Why none is.
pub fn due(signs: &[Sign], here: &Here, book: &Book) -> Result<Due, NotDue> {
    let settings = &here.settings;
    let pending = book.records().any(|(_, record)| record.state == State::RebootPending);
    let needed = pending || signs::reboot_needed(signs);
    if settings.reboot == Reboot::Suppress {
        return Err(if needed { NotDue::Suppressed } else { NotDue::NotNeeded });
    }
    let since = book.boots().installed.ok_or(NotDue::NotNeeded)?;
    if !needed && settings.reboot != Reboot::Always {
        return Err(NotDue::NotNeeded);
    }
    let (_, times) = book.boots().ordered.unwrap_or((since, 0));
    if times >= ORDERS_MAX {
        return Err(NotDue::InVain(times));
    }
    let terms = book
        .records()
        .filter(|(_, record)| record.applied.is_some_and(|applied| applied >= since))
        .filter_map(|(_, record)| record.offered)
        .map(|offered| Terms::of(settings, offered))
        .min_by_key(|terms| terms.deadline)
        .unwrap_or_else(|| Terms::of(settings, since));
    let hold = since.checked_add(signed(settings.reboot_hold)).unwrap_or(Timestamp::MAX);
    Ok(Due { since, terms, hold_until: hold.min(terms.deadline) })
}

/// Decides about a reboot. `plan` is what was decided about installations at the same moment, from the same
/// `now`; `signs` are those that a scan of this boot found.
#[must_use]
pub fn decide(signs: &[Sign], here: &Here, book: &Book, plan: &Plan, now: &Now<'_>) -> Decision {
    let due = match due(signs, here, book) {
        Ok(due) => due,
        Err(not_due) => return Decision::No(not_due),
    };
    let (settings, at) = (&here.settings, now.at);
    if book.open().next().is_some() || !plan.steps.is_empty() || plan.countdown {
        return Decision::Wait { why: Why::Installations, until: None };
    }
    if let Some((ordered, times)) = book.boots().ordered {
        let patience = ORDER_AGAIN_AFTER.saturating_mul(1 << times.saturating_sub(1).min(10));
        let until = ordered.checked_add(patience).unwrap_or(Timestamp::MAX);
        if ordered <= at && at < until {
            return Decision::Wait { why: Why::Ordered, until: Some(until) };
        }
    }
    let (wishes, warned) = (book.wishes(), now.people.logged_in());
    let countdown = now.countdown.filter(|found| found.purpose == Purpose::Reboot);
    let asked = wishes.reboot.filter(|choice| choice.asked >= due.since);
    // Who has just asked for it and is alone here need not be warned of it, nor asked what speaks against it.
    let just = |choice: &Choice| choice.asked <= at && at.duration_since(choice.asked) < AT_ONCE_FOR;
    let own = |choice: &Choice| choice.by.is_some_and(|by| now.people.are_only(by));
    let at_once = asked.is_some_and(|choice| choice.is_at_once() && just(&choice) && own(&choice));
    let lead = match (warned, countdown) {
        (false, _) => SignedDuration::ZERO,
        _ if at_once => SignedDuration::ZERO,
        (true, None) => consent::length(settings),
        (true, Some(found)) if found.acknowledged(wishes) => SignedDuration::ZERO,
        (true, Some(found)) => found.left(settings),
    };
    if let Reboot::At(time) = settings.reboot {
        let start = at.checked_add(lead).unwrap_or(Timestamp::MAX);
        if let Some(next) = until_time_of_day(time, start, &here.zone) {
            let until = next.checked_sub(lead).unwrap_or(next);
            return Decision::Wait { why: Why::TimeOfDay(time), until: Some(until) };
        }
    }
    if let Some(wait) = window(here, &due, at, lead) {
        return wait;
    }
    if let Some(need) = lease(here, now, lead) {
        return Decision::Lease(need);
    }
    let grace = due.terms.in_grace(at);
    if at_once {
        return Decision::Now;
    }
    if let Some(choice) = asked {
        let later = !choice.is_at_once() && choice.asked < due.terms.grace_ends;
        let until = choice.at.min(due.hold_until);
        if later && until > at {
            return Decision::Wait { why: Why::Person(Asked::Picked), until: Some(until) };
        }
    } else if let Some(choice) = wishes.reboot_postponed
        && grace
        && choice.asked >= due.since
        && choice.at.min(due.terms.grace_ends) > at
    {
        let until = Some(choice.at.min(due.terms.grace_ends));
        return Decision::Wait { why: Why::Person(Asked::PutOff), until };
    } else if warned && grace && settings.experience == Experience::Consent {
        let until = Some(due.terms.grace_ends);
        return Decision::Wait { why: Why::Person(Asked::Agreement), until };
    }
    // Who chose a time that has come holds it back no more; others do.
    let chose = asked.filter(|choice| choice.at <= at).and_then(|choice| choice.by);
    let mut against = now.people.against_reboot(at);
    against.retain(|against| chose.is_none() || against.whose != chose);
    // A clock that was set back does not prolong it.
    if !against.is_empty() && due.since <= at && at < due.hold_until {
        let against = against.into_iter().map(|against| against.sentence).collect();
        return Decision::Wait { why: Why::Held(against), until: Some(due.hold_until) };
    }
    if !warned {
        return Decision::Now;
    }
    match countdown {
        Some(found) if found.is_over(settings, wishes) => {
            let answered = found.acknowledged(wishes) || asked.is_some();
            if grace && !answered && settings.countdown_default == CountdownDefault::Postpone {
                let until = at.checked_add(signed(settings.postpone)).unwrap_or(Timestamp::MAX);
                return Decision::PutOff { until: until.min(due.terms.grace_ends) };
            }
            Decision::Now
        }
        _ => Decision::Warn { until: at.checked_add(lead).unwrap_or(Timestamp::MAX), last: !grace },
    }
}

/// Waits for a window in which a reboot fits that begins after `lead`; `None` when it may be now.
fn window(here: &Here, due: &Due, at: Timestamp, lead: SignedDuration) -> Option<Decision> {
    let start = at.checked_add(lead).unwrap_or(Timestamp::MAX);
    if crate::plan::unbound(here, &due.terms, start) {
        return None;
    }
    let fits = |end: Timestamp| end.duration_since(start) >= REBOOT_RESERVE;
    if here.windows.iter().filter_map(|window| window.at(start)).any(|open| fits(open.end)) {
        return None;
    }
    let next =
        here.windows.iter().filter_map(|window| window.next(at.max(start))).map(|open| open.start).min();
    let until = next.and_then(|next| next.checked_sub(lead).ok()).filter(|until| *until > at).or(next);
    Some(Decision::Wait { why: Why::Window, until })
}

/// The permission that a reboot after `lead` needs and that is not held.
fn lease(here: &Here, now: &Now<'_>, lead: SignedDuration) -> Option<LeaseNeed> {
    let start = now.at.checked_add(lead).unwrap_or(Timestamp::MAX);
    let length = lead + REBOOT_RESERVE;
    let open: Vec<&WindowId> = here
        .windows
        .iter()
        .filter(|window| {
            window.at(start).is_some_and(|open| open.end.duration_since(start) >= REBOOT_RESERVE)
        })
        .map(|window| window.window())
        .collect();
    let limits = |window: &WindowId| {
        here.windows.iter().any(|found| found.window() == window && found.at_once_max().is_some())
    };
    let window = match open.first() {
        // Outside of windows, at the deadline: of the first that limits.
        None => here.windows.iter().find(|window| window.at_once_max().is_some())?.window(),
        Some(first) if open.iter().all(|window| limits(window)) => *first,
        Some(_) => return None,
    };
    let covered =
        now.leases.get(window).is_some_and(|until| now.at.checked_add(length).is_ok_and(|end| end <= *until));
    (!covered).then(|| LeaseNeed { window: window.clone(), length })
}

/// The next time at which it is `time` in `zone`; `None` when it is that, or was less than an hour ago.
fn until_time_of_day(time: Time, at: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let today = zone.to_datetime(at).date();
    let moments = [today.yesterday().ok(), Some(today), today.tomorrow().ok()];
    let mut moments = moments
        .into_iter()
        .flatten()
        .filter_map(|day| zone.to_ambiguous_timestamp(day.to_datetime(time)).compatible().ok());
    let next = moments.find(|moment| at < moment.checked_add(AT_LENGTH).unwrap_or(Timestamp::MAX))?;
    (next > at).then_some(next)
}

impl Decision {
    /// When to decide again at the latest.
    #[must_use]
    pub fn until(&self) -> Option<Timestamp> {
        match self {
            Self::Wait { until, .. } => *until,
            Self::Warn { until, .. } | Self::PutOff { until } => Some(*until),
            Self::No(_) | Self::Lease(_) | Self::Now => None,
        }
    }
}

/// The countdown that should be shown after these decisions, from the one that is: another purpose begins anew,
/// and one that nothing needs any more ends.
#[must_use]
pub fn countdown(
    shown: Option<Countdown>,
    plan: &Plan,
    decision: &Decision,
    now: Timestamp,
) -> Option<Countdown> {
    let purpose = match decision {
        Decision::Warn { .. } => Purpose::Reboot,
        _ if plan.countdown => Purpose::Install,
        // What it led to is about to begin.
        _ if !plan.steps.is_empty() || *decision == Decision::Now => return shown,
        _ => return None,
    };
    Some(shown.filter(|shown| shown.purpose == purpose).unwrap_or_else(|| Countdown::begin(purpose, now)))
}

#[cfg(test)]
mod tests;
