//! When a person decides about an update, and whether he must be warned: grace, enforcement, countdowns.
//!
//! Pure. Grace begins with the offer (see [`crate::ledger::Record::offered`]); in it a person may choose a time
//! and put off, after it (enforcement) he may not. Whoever is logged in is warned by a countdown; without
//! anybody logged in there is nobody to ask or warn. What a person chose holds also when he has left.

use std::{fmt, time::Duration};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tierway_common::{
    schema::policy::{CountdownDefault, Experience},
    service::Settings,
};

use crate::{people::People, wishes::Wishes};

/// A warning shorter than this is none, whatever the service level says.
pub const COUNTDOWN_MIN: Duration = Duration::from_secs(60);

/// What a countdown leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// The installation of what is due.
    Install,
    /// A reboot.
    Reboot,
}

/// A countdown that runs or has run out.
///
/// It counts the time in which the computer was awake and this program ran: it begins anew after a restart,
/// and neither sleep nor a clock that is set forward shortens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Countdown {
    /// To what it leads.
    pub purpose: Purpose,
    /// When it was first shown.
    pub began: Timestamp,
    /// How much of it was counted so far.
    pub counted: SignedDuration,
}

impl Countdown {
    /// One that begins now.
    #[must_use]
    pub fn begin(purpose: Purpose, now: Timestamp) -> Self {
        Self { purpose, began: now, counted: SignedDuration::ZERO }
    }

    /// Counts time that passed by a clock that nobody sets and that stands still in sleep.
    pub fn count(&mut self, awake: Duration) {
        self.counted = self.counted.saturating_add(signed(awake));
    }

    /// How long it still takes; zero when it has run out.
    #[must_use]
    pub fn left(&self, settings: &Settings) -> SignedDuration {
        length(settings).saturating_sub(self.counted).max(SignedDuration::ZERO)
    }

    /// When it ends if the computer stays awake from `now` on, `passed` after it was counted last.
    #[must_use]
    pub fn ends(&self, settings: &Settings, passed: Duration, now: Timestamp) -> Timestamp {
        let left = self.left(settings).saturating_sub(signed(passed)).max(SignedDuration::ZERO);
        now.checked_add(left).unwrap_or(Timestamp::MAX)
    }

    /// Whether somebody said that he had read it.
    #[must_use]
    pub fn acknowledged(&self, wishes: &Wishes) -> bool {
        wishes.acknowledged.is_some_and(|at| at >= self.began)
    }

    /// Whether the person at the machine has had his warning.
    #[must_use]
    pub fn is_over(&self, settings: &Settings, wishes: &Wishes) -> bool {
        self.acknowledged(wishes) || self.left(settings) == SignedDuration::ZERO
    }
}

/// How long countdowns take at a service level.
#[must_use]
pub fn length(settings: &Settings) -> SignedDuration {
    signed(settings.countdown.max(COUNTDOWN_MIN))
}

/// The times of one update here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Terms {
    /// It was first on offer.
    pub offered: Timestamp,
    /// Until here a person decides; enforcement begins.
    pub grace_ends: Timestamp,
    /// It is installed at the latest; not before `grace_ends`.
    pub deadline: Timestamp,
}

impl Terms {
    /// The terms of something offered at `offered`.
    #[must_use]
    pub fn of(settings: &Settings, offered: Timestamp) -> Self {
        let after = |by: Duration| offered.checked_add(signed(by)).unwrap_or(Timestamp::MAX);
        let (grace, deadline) = (settings.grace, settings.deadline.max(settings.grace));
        Self { offered, grace_ends: after(grace), deadline: after(deadline) }
    }

    /// Whether a person may still decide. A clock that was set back before the offer gives nobody more time.
    #[must_use]
    pub fn in_grace(&self, now: Timestamp) -> bool {
        self.offered <= now && now < self.grace_ends
    }
}

/// What each of `terms` allows: offered with the last of them, its ends with the first. `None` of none.
#[must_use]
pub fn tightest<'a>(terms: impl IntoIterator<Item = &'a Terms>) -> Option<Terms> {
    let tighter = |one: Terms, other: Terms| Terms {
        offered: one.offered.max(other.offered),
        grace_ends: one.grace_ends.min(other.grace_ends),
        deadline: one.deadline.min(other.deadline),
    };
    terms.into_iter().copied().reduce(tighter)
}

/// What people have to do with the installation of an update now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// It may be installed.
    Go,
    /// It waits for a person.
    Wait {
        /// Until then at the latest.
        until: Timestamp,
        /// For what.
        why: Asked,
    },
    /// A countdown must have run out first.
    Countdown,
    /// A countdown ran out and nobody answered, which puts it off.
    PutOff {
        /// Until then.
        until: Timestamp,
    },
}

/// For what of a person's an update waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// That he agrees.
    Agreement,
    /// The time he picked.
    Picked,
    /// He put it off.
    PutOff,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Agreement => "the person at the machine is asked, until",
            Self::Picked => "the person at the machine picked a time:",
            Self::PutOff => "it was put off until",
        })
    }
}

/// Decides about the installation of an update with these `terms`. `countdown` is the one that was begun for
/// installations.
#[must_use]
pub fn decide(
    terms: &Terms,
    settings: &Settings,
    people: &People,
    wishes: &Wishes,
    countdown: Option<&Countdown>,
    now: Timestamp,
) -> Consent {
    let covers = |asked: Timestamp| asked >= terms.offered;
    if let Some(choice) = wishes.install.filter(|choice| covers(choice.asked)) {
        // A later time is a choice of grace; in enforcement there is none. "Now" stays now when the clock is set back.
        let later = choice.at > choice.asked && choice.asked < terms.grace_ends;
        let until = choice.at.min(terms.deadline);
        if later && until > now {
            return Consent::Wait { until, why: Asked::Picked };
        }
        if choice.at <= now || choice.at <= choice.asked {
            return Consent::Go;
        }
        // Sooner than the person picked: as if nothing had been picked.
    }
    let grace = terms.in_grace(now);
    if let Some(choice) = wishes.postponed.filter(|choice| grace && covers(choice.asked) && choice.at > now) {
        return Consent::Wait { until: choice.at.min(terms.grace_ends), why: Asked::PutOff };
    }
    if settings.experience == Experience::Silent || !people.logged_in() {
        return Consent::Go;
    }
    if settings.experience == Experience::Consent && grace {
        return Consent::Wait { until: terms.grace_ends, why: Asked::Agreement };
    }
    let Some(countdown) = countdown.filter(|found| found.purpose == Purpose::Install) else {
        return Consent::Countdown;
    };
    if !countdown.is_over(settings, wishes) {
        return Consent::Countdown;
    }
    if grace && settings.countdown_default == CountdownDefault::Postpone && !countdown.acknowledged(wishes) {
        let until = now.checked_add(signed(settings.postpone)).unwrap_or(Timestamp::MAX);
        return Consent::PutOff { until: until.min(terms.grace_ends) };
    }
    Consent::Go
}

pub(crate) fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        people::{Seat, Session},
        wishes::Wish,
    };

    pub(crate) fn somebody() -> People {
        let session = Session {
            id: "3".to_owned(),
            user: "ann".to_owned(),
            uid: 1000,
            seat: Seat::Desktop,
            idle_since: None,
            locked: false,
        };
        People { sessions: Some(vec![session]), ..People::default() }
    }

    fn hour(hour: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + hour * 3600).unwrap()
    }

    /// Offered at hour 0, grace until 10, deadline at 20.
    fn check(
        experience: Experience,
        people: &People,
        wishes: &[(Wish, i64)],
        countdown_minutes: Option<i64>,
        now: i64,
        expected: Consent,
    ) {
        let settings = Settings {
            experience,
            grace: Duration::from_secs(10 * 3600),
            deadline: Duration::from_secs(20 * 3600),
            ..Settings::default()
        };
        let mut held = Wishes::default();
        for (wish, asked) in wishes {
            held.apply(*wish, Some(1000), hour(*asked));
        }
        let countdown = countdown_minutes.map(|minutes| Countdown {
            purpose: Purpose::Install,
            began: hour(now),
            counted: SignedDuration::from_mins(minutes),
        });
        let terms = Terms::of(&settings, hour(0));
        let found = decide(&terms, &settings, people, &held, countdown.as_ref(), hour(now));
        assert_eq!(found, expected, "{experience:?} {wishes:?} at {now}");
    }

    #[test]
    fn during_grace_a_person_decides_and_in_enforcement_he_is_only_warned() {
        use Experience::{Consent as Asks, Notify, Silent};
        let (ann, nobody) = (somebody(), People::nobody());
        let wait = |until, why| Consent::Wait { until: hour(until), why };
        check(Silent, &ann, &[], None, 1, Consent::Go);
        check(Notify, &nobody, &[], None, 1, Consent::Go);
        check(Notify, &ann, &[], None, 1, Consent::Countdown);
        check(Notify, &ann, &[], Some(14), 1, Consent::Countdown);
        check(Notify, &ann, &[], Some(15), 1, Consent::Go);
        check(Notify, &ann, &[(Wish::Acknowledge, 1)], Some(0), 1, Consent::Go);
        check(Notify, &ann, &[(Wish::Acknowledge, 0)], Some(0), 1, Consent::Countdown);
        check(Asks, &ann, &[], None, 1, wait(10, Asked::Agreement));
        check(Asks, &ann, &[], Some(15), 1, wait(10, Asked::Agreement));
        check(Asks, &nobody, &[], None, 1, Consent::Go);
        check(Asks, &ann, &[], None, 10, Consent::Countdown);
        check(Asks, &ann, &[], Some(15), 10, Consent::Go);
    }

    #[test]
    fn a_choice_of_grace_holds_and_one_of_enforcement_puts_nothing_off() {
        use Experience::{Consent as Asks, Notify};
        let ann = somebody();
        let wait = |until, why| Consent::Wait { until: hour(until), why };
        for people in [&ann, &People::nobody()] {
            check(Asks, people, &[(Wish::Install(hour(5)), 1)], None, 4, wait(5, Asked::Picked));
            check(Asks, people, &[(Wish::Install(hour(5)), 1)], None, 5, Consent::Go);
            check(Asks, people, &[(Wish::Install(hour(15)), 1)], None, 12, wait(15, Asked::Picked));
            check(Asks, people, &[(Wish::Install(hour(99)), 1)], None, 12, wait(20, Asked::Picked));
            let sooner = if people.logged_in() { Consent::Countdown } else { Consent::Go };
            check(Asks, people, &[(Wish::Install(hour(15)), 11)], None, 12, sooner);
            check(Asks, people, &[(Wish::Install(hour(99)), 1)], None, 20, sooner);
            check(Notify, people, &[(Wish::Postpone(hour(5)), 1)], None, 2, wait(5, Asked::PutOff));
            check(Notify, people, &[(Wish::Postpone(hour(50)), 1)], None, 2, wait(10, Asked::PutOff));
        }
        check(Notify, &ann, &[(Wish::Postpone(hour(50)), 1)], None, 10, Consent::Countdown);
        check(Notify, &People::nobody(), &[(Wish::Postpone(hour(50)), 1)], None, 10, Consent::Go);
        check(Asks, &ann, &[(Wish::Install(hour(-1)), -1)], None, 2, wait(10, Asked::Agreement));
    }

    #[test]
    fn an_unanswered_countdown_may_put_off_during_grace_only() {
        let settings = Settings {
            experience: Experience::Notify,
            grace: Duration::from_secs(10 * 3600),
            countdown_default: CountdownDefault::Postpone,
            ..Settings::default()
        };
        let terms = Terms::of(&settings, hour(0));
        let over =
            |now| Countdown { counted: length(&settings), ..Countdown::begin(Purpose::Install, hour(now)) };
        let decide = |wishes: &Wishes, now| {
            decide(&terms, &settings, &somebody(), wishes, Some(&over(now)), hour(now))
        };
        assert_eq!(decide(&Wishes::default(), 1), Consent::PutOff { until: hour(5) });
        assert_eq!(decide(&Wishes::default(), 8), Consent::PutOff { until: hour(10) });
        assert_eq!(decide(&Wishes::default(), 10), Consent::Go);
        let read = Wishes { acknowledged: Some(hour(1)), ..Wishes::default() };
        assert_eq!(decide(&read, 1), Consent::Go);
    }

    #[test]
    fn a_countdown_counts_time_awake_and_not_the_clock() {
        let settings = Settings::default();
        let mut countdown = Countdown::begin(Purpose::Reboot, hour(0));
        countdown.count(Duration::from_secs(14 * 60));
        assert!(!countdown.is_over(&settings, &Wishes::default()));
        assert_eq!(countdown.left(&settings), SignedDuration::from_mins(1));
        // Half a minute later it still ends at the same time, though nobody has counted since.
        let ends = |passed, now| countdown.ends(&settings, Duration::from_secs(passed), now);
        let (now, later) = (hour(1), hour(1) + SignedDuration::from_secs(30));
        assert_eq!((ends(0, now), ends(30, later)), (hour(1) + SignedDuration::from_mins(1), ends(0, now)));
        assert_eq!(ends(90, now), now);
        countdown.count(Duration::from_secs(60));
        assert!(countdown.is_over(&settings, &Wishes::default()));
        let none = Settings { countdown: Duration::ZERO, ..settings };
        assert!(!Countdown::begin(Purpose::Reboot, hour(0)).is_over(&none, &Wishes::default()));
    }
}
