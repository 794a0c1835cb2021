//! The promises, each checked whenever it could be broken, and counted.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use tierway_common::{
    calendar::{Calendar, Occurrence},
    id::WindowId,
};
use tierway_endpoint::{consent::Purpose, plan::REBOOT_RESERVE};

use super::machine::Machine;

/// What is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// No reboot without an acknowledged or fully counted-down warning while somebody is logged in.
    WarnedReboots,
    /// Nothing starts that does not fit its window with its reboot.
    FitsItsWindow,
    /// Every update is installed by its deadline, which central knows, or listed at central with a reason.
    InTimeOrListed,
    /// At most the allowed number of a window's computers is down at once.
    AtOnce,
    /// The bad update stops in its first ring.
    BadUpdateHalts,
    /// The installer that does nothing is not tried for ever.
    Quarantine,
    /// What was forecast comes true within 15 %.
    Forecast,
    /// The times of an update are all there and in order.
    TimesInOrder,
}

impl Promise {
    /// All.
    pub const ALL: [Self; 8] = [
        Self::WarnedReboots,
        Self::FitsItsWindow,
        Self::InTimeOrListed,
        Self::AtOnce,
        Self::BadUpdateHalts,
        Self::Quarantine,
        Self::Forecast,
        Self::TimesInOrder,
    ];
}

/// A promise that was broken, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which.
    pub promise: Promise,
    /// With names and times.
    pub how: String,
}

/// What a service level promises to a computer, as the world reads it from the documents that were set.
#[derive(Clone, Debug)]
pub struct Terms {
    /// How long a warning is shown.
    pub countdown: SignedDuration,
    /// Its windows; empty: any time.
    pub windows: Vec<Calendar>,
    /// From the offer to the latest installation.
    pub deadline: SignedDuration,
}

/// Counts what was checked, and keeps the first that was broken.
#[derive(Clone, Debug, Default)]
pub struct Checks {
    /// How often each was checked.
    pub counts: BTreeMap<Promise, u64>,
    /// The first that was broken.
    pub broken: Option<Broken>,
    /// Computers that are down, by window.
    down: BTreeMap<WindowId, BTreeSet<u64>>,
    /// The most that were down at once, by window.
    pub most_down: BTreeMap<WindowId, usize>,
}

impl Checks {
    /// Checks one promise once.
    pub fn holds(&mut self, promise: Promise, holds: bool, how: impl FnOnce() -> String) {
        *self.counts.entry(promise).or_default() += 1;
        if !holds && self.broken.is_none() {
            self.broken = Some(Broken { promise, how: how() });
        }
    }

    /// A computer whose clock is so far `ahead` goes down for a reboot at the first of these times and is up again at the
    /// second. Windows are open by its own clock.
    pub fn reboots(
        &mut self,
        name: &str,
        machine: &Machine,
        terms: &Terms,
        (at, up): (Timestamp, Timestamp),
        ahead: SignedDuration,
    ) {
        let people = machine.people(at);
        if people.logged_in() {
            let shown = machine.screen.filter(|shown| shown.purpose == Purpose::Reboot);
            let warned = shown
                .is_some_and(|shown| shown.acknowledged || at.duration_since(shown.since) >= terms.countdown);
            self.holds(Promise::WarnedReboots, warned, || {
                format!("{name} reboots at {at} with {:?} on the screen of {people:?}", machine.screen)
            });
        }
        if !terms.windows.is_empty() {
            let (at, up) = (at + ahead, up + ahead);
            let open = open(terms, at);
            let fits = open.as_ref().is_some_and(|open| at + REBOOT_RESERVE <= open.end && up <= open.end);
            self.holds(Promise::FitsItsWindow, fits, || {
                format!("{name} reboots from {at} to {up} in {open:?}")
            });
        }
        self.goes_down(name, machine, terms, at);
    }

    /// An installation that is ended at `limit` after `at`, by the computer's own clock, begins there.
    pub fn installs(
        &mut self,
        (name, update): (&str, &str),
        machine: &Machine,
        terms: &Terms,
        at: Timestamp,
        limit: SignedDuration,
    ) {
        if !terms.windows.is_empty() {
            let open = open(terms, at);
            let fits = open.as_ref().is_some_and(|open| at + limit + REBOOT_RESERVE <= open.end);
            self.holds(Promise::FitsItsWindow, fits, || {
                format!("{name} begins `{update}` with a limit of {limit:#} at {at} in {open:?}")
            });
        }
        self.goes_down(name, machine, terms, at);
    }

    fn goes_down(&mut self, name: &str, machine: &Machine, terms: &Terms, at: Timestamp) {
        for window in &terms.windows {
            let Some(max) = window.at_once_max() else { continue };
            let down = self.down.entry(window.window().clone()).or_default();
            down.insert(machine.number);
            let count = down.len();
            let most = self.most_down.entry(window.window().clone()).or_default();
            *most = (*most).max(count);
            let fits = count <= usize::try_from(max).unwrap_or(usize::MAX);
            self.holds(Promise::AtOnce, fits, || {
                format!("{name} is number {count} of window `{}` that is down at {at}", window.window())
            });
        }
    }

    /// A computer is through with its installations, or up again.
    pub fn comes_up(&mut self, machine: &Machine) {
        for down in self.down.values_mut() {
            down.remove(&machine.number);
        }
    }
}

fn open(terms: &Terms, at: Timestamp) -> Option<Occurrence> {
    terms.windows.iter().filter_map(|window| window.at(at)).max_by_key(|open| open.end)
}
