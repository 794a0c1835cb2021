//! The picture of the agent: what it is doing, and how it moves.
//!
//! Pure: one table from phase and event to phase and effects, which [`crate::cycle`] carries out in their order. A
//! pair that the table does not name is a mistake of whoever sent the event: it changes nothing and is logged.
//! [`table`] prints it; `endpoint/src/phase.txt` is what it prints.

use std::fmt;

use crate::{
    plan::{Plan, Reason},
    reboot::decide::Decision,
};

/// What the agent does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Nothing is to be done before the next check.
    #[default]
    Idle,
    /// It brings over what is new, scans and decides.
    Checking,
    /// It fetches what is to be installed.
    Downloading,
    /// A person decides.
    WaitingForUser,
    /// A person is warned of installations.
    CountingDown,
    /// A change window must open.
    WaitingForWindow,
    /// Others of its window must come up first.
    WaitingForLease,
    /// It installs.
    Installing,
    /// It scans what came of installations or of a boot, and decides.
    Verifying,
    /// A reboot is due and waits.
    WaitingForReboot,
    /// A person is warned of a reboot.
    CountingDownToReboot,
    /// A reboot is ordered.
    Rebooting,
}

impl Phase {
    /// All, in the order of a round.
    pub const ALL: [Self; 12] = [
        Self::Idle,
        Self::Checking,
        Self::Downloading,
        Self::WaitingForUser,
        Self::CountingDown,
        Self::WaitingForWindow,
        Self::WaitingForLease,
        Self::Installing,
        Self::Verifying,
        Self::WaitingForReboot,
        Self::CountingDownToReboot,
        Self::Rebooting,
    ];

    /// For people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Checking => "checking",
            Self::Downloading => "downloading",
            Self::WaitingForUser => "waiting for the user",
            Self::CountingDown => "counting down to install",
            Self::WaitingForWindow => "waiting for a window",
            Self::WaitingForLease => "waiting for others of its window",
            Self::Installing => "installing",
            Self::Verifying => "verifying",
            Self::WaitingForReboot => "waiting for a reboot",
            Self::CountingDownToReboot => "counting down to a reboot",
            Self::Rebooting => "rebooting",
        }
    }

    /// Whether it rests in it until something happens.
    #[must_use]
    pub fn rests(self) -> bool {
        !matches!(self, Self::Checking | Self::Downloading | Self::Installing | Self::Verifying)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// This program began, after a boot, a crash or an order.
    Started,
    /// A check is due, was asked for, or a moment came that the last decision named.
    Woken,
    /// Somebody answered: a person wished something, or the tier above gave a permission.
    Answered,
    /// It was decided.
    Decided(Outlook),
    /// Everything that could be fetched was.
    Fetched,
    /// All steps have ended or were left to the next window.
    Installed,
    /// It could not go on; the next check begins anew.
    Failed,
}

/// The most urgent thing of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// Nothing can be done before the next check.
    Nothing,
    /// Fetch.
    Fetch,
    /// Install.
    Install,
    /// A countdown to installations.
    Warn,
    /// A permission to be down.
    Lease,
    /// A person is asked.
    Person,
    /// A window is waited for.
    Window,
    /// Reboot now.
    Reboot,
    /// A countdown to a reboot.
    WarnReboot,
    /// A reboot waits.
    RebootWaits,
}

impl Outlook {
    /// All, the most urgent first, but for `Nothing`, which is last.
    pub const ALL: [Self; 10] = [
        Self::Fetch,
        Self::Install,
        Self::Reboot,
        Self::WarnReboot,
        Self::Warn,
        Self::Lease,
        Self::Person,
        Self::Window,
        Self::RebootWaits,
        Self::Nothing,
    ];

    /// Of a plan and a decision about a reboot. With `fetched` what is missing was tried already in this check.
    #[must_use]
    pub fn of(plan: &Plan, reboot: &Decision, fetched: bool) -> Self {
        let any = |test: fn(&Reason) -> bool| plan.left_out.values().any(test);
        if !plan.fetch.is_empty() && !fetched {
            Self::Fetch
        } else if !plan.steps.is_empty() {
            Self::Install
        } else if *reboot == Decision::Now {
            Self::Reboot
        } else if matches!(reboot, Decision::Warn { .. }) {
            Self::WarnReboot
        } else if plan.countdown {
            Self::Warn
        } else if plan.lease.is_some() || matches!(reboot, Decision::Lease(_)) {
            Self::Lease
        } else if any(|reason| matches!(reason, Reason::Person { .. })) {
            Self::Person
        } else if any(|reason| {
            matches!(reason, Reason::Closed { .. } | Reason::DoesNotFit { .. } | Reason::NoWindow(_))
        }) {
            Self::Window
        } else if matches!(reboot, Decision::Wait { .. } | Decision::PutOff { .. }) {
            Self::RebootWaits
        } else {
            Self::Nothing
        }
    }
}

/// What must be done on the way into a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Bring over what is new, and scan.
    Check,
    /// Decide. What people are shown and asked follows from it.
    Decide,
    /// Fetch what is to be installed; [`Event::Fetched`] follows.
    Fetch,
    /// Ask for a permission to be down; [`Event::Answered`] follows when it is given.
    AskLease,
    /// Install; [`Event::Installed`] follows, or [`Event::Failed`] when nothing could be begun.
    Install,
    /// Scan.
    Scan,
    /// Order a reboot.
    Reboot,
    /// Report upward.
    Report,
}

/// Where an event leads, and what must be done in its order; `None` when it cannot happen there.
#[must_use]
pub fn next(phase: Phase, event: Event) -> Option<(Phase, &'static [Effect])> {
    match (phase, event) {
        (_, Event::Started) => Some((Phase::Verifying, &[Effect::Check, Effect::Decide])),
        (phase, Event::Woken) if phase.rests() => Some((Phase::Checking, &[Effect::Check, Effect::Decide])),
        (phase, Event::Answered) if phase.rests() => Some((Phase::Checking, &[Effect::Decide])),
        (Phase::Checking | Phase::Verifying, Event::Decided(outlook)) => Some(decided(outlook)),
        (Phase::Downloading, Event::Fetched) => Some((Phase::Checking, &[Effect::Decide])),
        (Phase::Installing, Event::Installed) => Some((Phase::Verifying, &[Effect::Scan, Effect::Decide])),
        // An order that was given stands; all else is begun anew.
        (phase, Event::Failed) if phase != Phase::Rebooting => Some((Phase::Idle, &[Effect::Report])),
        _ => None,
    }
}

fn decided(outlook: Outlook) -> (Phase, &'static [Effect]) {
    match outlook {
        Outlook::Nothing => (Phase::Idle, &[Effect::Report]),
        Outlook::Fetch => (Phase::Downloading, &[Effect::Fetch]),
        Outlook::Install => (Phase::Installing, &[Effect::Install]),
        Outlook::Warn => (Phase::CountingDown, &[Effect::Report]),
        Outlook::Lease => (Phase::WaitingForLease, &[Effect::AskLease, Effect::Report]),
        Outlook::Person => (Phase::WaitingForUser, &[Effect::Report]),
        Outlook::Window => (Phase::WaitingForWindow, &[Effect::Report]),
        // What was installed is told before the computer goes down.
        Outlook::Reboot => (Phase::Rebooting, &[Effect::Report, Effect::Reboot]),
        Outlook::WarnReboot => (Phase::CountingDownToReboot, &[Effect::Report]),
        Outlook::RebootWaits => (Phase::WaitingForReboot, &[Effect::Report]),
    }
}

/// Every event that can happen.
#[must_use]
pub fn events() -> Vec<Event> {
    let mut events =
        vec![Event::Started, Event::Woken, Event::Answered, Event::Fetched, Event::Installed, Event::Failed];
    events.extend(Outlook::ALL.map(Event::Decided));
    events
}

/// The whole table as text, one line for each pair that can happen.
#[must_use]
pub fn table() -> String {
    let mut text = String::new();
    for phase in Phase::ALL {
        for event in events() {
            if let Some((to, effects)) = next(phase, event) {
                text.push_str(&format!("{phase:?} + {event:?} -> {to:?} {effects:?}\n"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_phase_is_reached_and_left() {
        let mut reached = BTreeSet::from([Phase::default()]);
        let mut todo = vec![Phase::default()];
        while let Some(phase) = todo.pop() {
            let to = events().into_iter().filter_map(|event| next(phase, event)).map(|(to, _)| to);
            for to in to {
                if reached.insert(to) {
                    todo.push(to);
                }
            }
            let leaves = events().into_iter().any(|event| {
                event != Event::Started && next(phase, event).is_some_and(|(to, _)| to != phase)
            });
            assert!(leaves, "{phase}");
        }
        assert_eq!(reached, BTreeSet::from(Phase::ALL));
    }

    #[test]
    fn a_reboot_is_only_ordered_on_the_way_into_rebooting_and_after_a_report() {
        for phase in Phase::ALL {
            for event in events() {
                let Some((to, effects)) = next(phase, event) else { continue };
                assert_eq!(effects.contains(&Effect::Reboot), to == Phase::Rebooting, "{phase} {event:?}");
                assert!(!effects.contains(&Effect::Reboot) || effects[0] == Effect::Report);
                assert!(matches!(phase, Phase::Checking | Phase::Verifying) || to != Phase::Installing);
            }
        }
    }

    #[test]
    fn what_cannot_happen_leads_nowhere() {
        for (phase, event) in [
            (Phase::Installing, Event::Woken),
            (Phase::Idle, Event::Decided(Outlook::Install)),
            (Phase::WaitingForWindow, Event::Installed),
            (Phase::Rebooting, Event::Failed),
        ] {
            assert_eq!(next(phase, event), None, "{phase} {event:?}");
        }
        // Twelve can start, eight can be woken or answered, eleven can fail, two decide among ten, and two end.
        assert_eq!(table().lines().count(), 12 + 2 * 8 + 11 + 2 * 10 + 2);
    }

    #[test]
    fn the_table_is_as_it_was_last_read() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/phase.txt");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, table()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), table(), "`UPDATE=1 cargo test` writes it anew");
    }

    #[test]
    fn whatever_is_begun_ends_in_a_decision_or_a_report() {
        for phase in Phase::ALL {
            for event in events() {
                let Some((to, effects)) = next(phase, event) else { continue };
                // What rests has told what came of it; what does not does something that leads on.
                let last = effects.last().unwrap();
                let leads = matches!(last, Effect::Decide | Effect::Fetch | Effect::Install);
                assert_eq!(leads, !to.rests(), "{phase} {event:?}");
                assert_eq!(effects.contains(&Effect::Report), to.rests(), "{phase} {event:?}");
            }
        }
    }
}
