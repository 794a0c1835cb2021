//! Promises broken on purpose, and what is counted so that nothing is promised of what never happens.

use std::collections::{BTreeMap, BTreeSet};

use tierway_endpoint::phase::Phase;

use crate::world::World;

/// A promise, broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    RebootsWithoutWarning,
    RebootsWhereSuppressed,
    RebootsOutsideWindows,
    RebootsAgainAfterBoot,
    HoldsRebootsForEver,
    InstallsOutsideWindows,
    StartsWhatDoesNotFit,
    InstallsWithoutWarning,
    InstallsWhatNobodyApproved,
    InstallsWithoutLease,
    PostponesInEnforcement,
    ForgetsOffers,
    ForgetsReasons,
    RetriesWithoutEnd,
    CountsByTheClock,
    KeepsAnOldWarning,
    WakesWithoutEnd,
    IgnoresWishes,
}

impl Mutant {
    pub(crate) const ALL: [Self; 18] = [
        Self::RebootsWithoutWarning,
        Self::RebootsWhereSuppressed,
        Self::RebootsOutsideWindows,
        Self::RebootsAgainAfterBoot,
        Self::HoldsRebootsForEver,
        Self::InstallsOutsideWindows,
        Self::StartsWhatDoesNotFit,
        Self::InstallsWithoutWarning,
        Self::InstallsWhatNobodyApproved,
        Self::InstallsWithoutLease,
        Self::PostponesInEnforcement,
        Self::ForgetsOffers,
        Self::ForgetsReasons,
        Self::RetriesWithoutEnd,
        Self::CountsByTheClock,
        Self::KeepsAnOldWarning,
        Self::WakesWithoutEnd,
        Self::IgnoresWishes,
    ];
}

/// What happened in worlds, counted.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) installed: u64,
    pub(crate) failed: u64,
    pub(crate) reboots: u64,
    pub(crate) warned_reboots: u64,
    pub(crate) warned_installs: u64,
    pub(crate) windowed: u64,
    pub(crate) granted: u64,
    pub(crate) waiting: BTreeMap<String, u64>,
    pub(crate) phases: BTreeSet<Phase>,
}

impl Seen {
    pub(crate) fn add(&mut self, world: &World) {
        let other = &world.seen;
        self.installed += other.installed;
        self.failed += other.failed;
        self.reboots += other.reboots;
        self.warned_reboots += other.warned_reboots;
        self.warned_installs += other.warned_installs;
        self.windowed += other.windowed;
        self.granted += other.granted;
        for (waiting, times) in &other.waiting {
            *self.waiting.entry(waiting.clone()).or_default() += times;
        }
        self.phases.extend(&other.phases);
    }

    pub(crate) fn everything_happened(&self) -> bool {
        let counts = [
            self.installed,
            self.failed,
            self.reboots,
            self.warned_reboots,
            self.warned_installs,
            self.windowed,
            self.granted,
        ];
        counts.iter().all(|count| *count > 50)
            && self.waiting.len() >= 8
            && self.phases.len() == Phase::ALL.len()
    }
}
