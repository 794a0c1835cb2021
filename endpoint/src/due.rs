//! What a person at the machine is shown: what is due, by when, from whom, and what is about to happen.
//!
//! Pure values. The agent makes a new [`Due`] whenever something changes; [`crate::remind`] decides when which of
//! it is put in front of whom.

use std::time::Duration;

use jiff::Timestamp;
use tierway_common::{
    id::UpdateId,
    schema::{
        Severity, Waiting,
        policy::{CountdownDefault, Experience, Reboot},
    },
    service::Settings,
};

use crate::{
    consent::Purpose,
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
    /// Updates that are needed and approved, in the order in which they will be installed.
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
    /// Since when it is on offer.
    pub offered: Option<Timestamp>,
    /// Until when the person at the machine decides.
    pub grace_ends: Option<Timestamp>,
    /// By when it is installed.
    pub deadline: Option<Timestamp>,
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

/// A reboot that is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebootDue {
    /// Why, in sentences.
    pub signs: Vec<String>,
    /// When it is expected.
    pub begins: Option<Timestamp>,
    /// By when at the latest; `None` where nobody says.
    pub by: Option<Timestamp>,
    /// What holds it back now, in sentences.
    pub held_by: Vec<String>,
}

impl Due {
    /// By what wishes are measured at `now`.
    #[must_use]
    pub fn standing(&self, now: Timestamp) -> Standing<'_> {
        // Where nothing says by when, a person may choose within the level's own deadline.
        let otherwise = now.checked_add(self.settings.deadline).unwrap_or(Timestamp::MAX);
        Standing {
            settings: &self.settings,
            now,
            grace_ends: self.items.iter().map(|item| item.grace_ends.unwrap_or(now)).min(),
            deadline: self.items.iter().map(|item| item.deadline.unwrap_or(otherwise)).min(),
            reboot_by: self.reboot.as_ref().map(|reboot| reboot.by.unwrap_or(otherwise)),
        }
    }

    /// Whether a person has a say in what is due, so that it is worth being reminded of.
    #[must_use]
    pub fn asks(&self) -> bool {
        !self.items.is_empty() && self.settings.experience != Experience::Silent
    }

    /// Whether a person must do something about a reboot: it is needed, and Tierway does it or waits for it.
    #[must_use]
    pub fn asks_for_reboot(&self) -> bool {
        self.reboot.is_some() && self.settings.reboot != Reboot::Suppress
    }

    /// The earliest time by which something happens whether anybody agrees or not.
    #[must_use]
    pub fn by(&self) -> Option<Timestamp> {
        self.items.iter().filter_map(|item| item.deadline).min()
    }

    /// How long a postponement lasts.
    #[must_use]
    pub fn postpone(&self) -> Duration {
        self.settings.postpone
    }
}
