//! What a person at the machine is shown: what is due, by when, from whom, and what is about to happen.
//!
//! Pure values. The agent makes a new [`Due`] whenever something changes; [`crate::remind`] decides when which of
//! it is put in front of whom.

use jiff::Timestamp;
use tierway_common::{
    id::UpdateId,
    schema::{
        Severity, Update, Waiting,
        policy::{CountdownDefault, Experience},
    },
    service::Settings,
};

use crate::{
    consent::{Purpose, Terms, tightest},
    ledger::Book,
    people::Against,
    plan::{Plan, place},
    reboot::decide::{self as reboot, NotDue},
    signs::BootId,
    wishes::{Standing, Wishes},
};

/// Everything a person is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Who asks for the updates; empty when the level names nobody.
    pub department: String,
    /// What the agent does now, in words.
    pub phase: String,
    /// Updates that are on offer, in the order in which they will be installed.
    pub items: Vec<Item>,
    /// What happens when it ends, while one runs.
    pub countdown: Option<Countdown>,
    /// A reboot that is needed.
    pub reboot: Option<RebootDue>,
    /// What was wished so far.
    pub wishes: Wishes,
    /// The service level here.
    pub settings: Settings,
    /// Which boot this is.
    pub boot: Option<BootId>,
}

/// An update that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Which.
    pub update: UpdateId,
    /// What it is.
    pub title: String,
    /// How bad it is if it is missing.
    pub severity: Severity,
    /// What it waits for.
    pub waiting: Option<Waiting>,
    /// Since when it is on offer, until when the person at the machine decides, by when it is installed.
    pub terms: Terms,
    /// When it is expected to begin.
    pub begins: Option<Timestamp>,
    /// A sentence that says more.
    pub detail: String,
}

/// A countdown that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Countdown {
    /// To what.
    pub to: Purpose,
    /// Since when: another value for every countdown.
    pub began: Timestamp,
    /// Until when, if the computer does not sleep.
    pub ends: Timestamp,
    /// It can be postponed.
    pub postponable: bool,
    /// What happens when nobody answers.
    pub unanswered: CountdownDefault,
}

/// A reboot that is needed or due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebootDue {
    /// Why, in sentences.
    pub signs: Vec<String>,
    /// When it is expected.
    pub begins: Option<Timestamp>,
    /// Its terms, or why Tierway does none.
    pub due: Result<reboot::Due, NotDue>,
    /// What holds it back now.
    pub held_by: Vec<Against>,
}

impl Due {
    /// By what wishes are measured at `now`.
    #[must_use]
    pub fn standing(&self, now: Timestamp) -> Standing<'_> {
        Standing {
            settings: &self.settings,
            now,
            updates: tightest(self.items.iter().map(|item| &item.terms)),
            reboot: self.reboot.as_ref().map_or(Err(NotDue::NotNeeded), |reboot| reboot.due),
            warned: self.countdown.is_some(),
        }
    }

    /// Whether what leads to `purpose` can be put off at `now`.
    #[must_use]
    pub fn may_postpone(&self, purpose: Purpose, now: Timestamp) -> bool {
        let standing = self.standing(now);
        match purpose {
            Purpose::Install => standing.updates.is_some_and(|terms| terms.in_grace(now)),
            Purpose::Reboot => standing.reboot.is_ok_and(|due| due.since <= now && due.terms.in_grace(now)),
        }
    }

    /// Whether a person has a say in what is due, so that it is worth being reminded of.
    #[must_use]
    pub fn asks(&self) -> bool {
        !self.items.is_empty() && self.settings.experience != Experience::Silent
    }

    /// Whether a person must do something about a reboot: Tierway does it, or waits for it.
    #[must_use]
    pub fn asks_for_reboot(&self) -> bool {
        self.reboot.as_ref().is_some_and(|reboot| reboot.due.is_ok())
    }

    /// The earliest time by which something happens whether anybody agrees or not.
    #[must_use]
    pub fn by(&self) -> Option<Timestamp> {
        self.items.iter().map(|item| item.terms.deadline).min()
    }
}

/// What a person decides about: the updates that `plan` has on offer, in the order in which they are installed. One
/// that is approved and closed here, by its ring, its class or a hold, asks nobody anything.
#[must_use]
pub fn items(plan: &Plan, book: &Book, update: impl Fn(&UpdateId) -> Option<Update>) -> Vec<Item> {
    let mut offered: Vec<(Update, Terms)> =
        plan.offered.iter().filter_map(|(id, terms)| Some((update(id)?, *terms))).collect();
    offered.sort_by(|(one, _), (other, _)| place(one).cmp(&place(other)));
    let item = |(update, terms): (Update, Terms)| {
        let waits = book.record(&update.id).and_then(|record| record.waits.as_ref());
        Item {
            waiting: waits.map(|waits| waits.waiting),
            begins: waits.and_then(|waits| waits.until),
            detail: plan.left_out.get(&update.id).map(ToString::to_string).unwrap_or_default(),
            title: update.title,
            severity: update.severity,
            terms,
            update: update.id,
        }
    };
    offered.into_iter().map(item).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::SignedDuration;
    use tierway_common::{
        rules::expr::Expr,
        schema::{Install, State, UpdateClass},
    };

    use super::*;
    use crate::{ledger::Event, plan::Reason};

    fn at(hour: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + hour * 3600).unwrap()
    }

    fn update(id: &UpdateId) -> Update {
        let severe = id.name() == "severe";
        Update {
            id: id.clone(),
            title: String::new(),
            product: String::new(),
            version: String::new(),
            severity: if severe { Severity::Critical } else { Severity::Low },
            class: UpdateClass::default(),
            released: if id.name() == "a-new" { at(-1) } else { at(-9) },
            references: Vec::new(),
            applicable: Expr::Const(true),
            installed: Expr::Const(false),
            supersedes: Vec::new(),
            superseded_by: Vec::new(),
            install: Install::Deb { packages: Vec::new() },
            result_codes: BTreeMap::default(),
        }
    }

    fn id(name: &str) -> UpdateId {
        format!("debian-12/{name}").parse().unwrap()
    }

    #[test]
    fn what_is_approved_and_closed_here_takes_nobody_the_choice_and_the_rest_is_told_in_its_order() {
        let settings = Settings::default();
        let terms = |offered| Terms {
            offered: at(offered),
            grace_ends: at(offered) + SignedDuration::from_hours(8),
            deadline: at(offered) + SignedDuration::from_hours(24),
        };
        let offered = [("a-new", -1), ("b-old", -2), ("severe", -3)];
        let closed = (id("closed"), Reason::Held("libc6".to_owned()));
        let plan = Plan {
            offered: offered.map(|(name, offered)| (id(name), terms(offered))).into(),
            left_out: [closed, (id("b-old"), Reason::Unsettled)].into(),
            ..Plan::default()
        };
        let mut book = Book::default();
        for name in ["a-new", "b-old", "severe", "closed"] {
            let (update, state, detail) = (id(name), State::Needed, None);
            book.apply(Event::Observed { update, at: at(-9), state, detail });
        }
        let items = items(&plan, &book, |id| Some(update(id)));
        let names: Vec<_> = items.iter().map(|item| item.update.name()).collect();
        assert_eq!(names, ["severe", "b-old", "a-new"]);
        assert!(items[0].detail.is_empty() && !items[1].detail.is_empty());

        let due = Due { items, settings, ..Due::default() };
        let standing = due.standing(at(0));
        let tightest = Terms { offered: at(-1), grace_ends: at(5), deadline: at(21) };
        assert_eq!(standing.updates, Some(tightest));
        assert_eq!((standing.reboot, standing.warned), (Err(NotDue::NotNeeded), false));
        assert!(due.may_postpone(Purpose::Install, at(4)) && !due.may_postpone(Purpose::Install, at(5)));
        assert!(!due.may_postpone(Purpose::Reboot, at(4)));
        assert_eq!(Due::default().standing(at(0)).updates, None);
    }
}
