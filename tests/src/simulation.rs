//! Weeks of a fleet in seconds: a real central and real relays, endpoints that decide by the endpoint's real pure
//! functions on simulated computers, and the promises of a service level checked at every step.
//!
//! Relays are down for hours and for longer than what is published counts; clocks are wrong by hours and by days. Driven
//! by events on a manual clock: the next thing that happens is the earliest of what agents wait for, installers
//! end, computers boot, people answer, and central looks. A seed decides all that chance does; keys and ids are random
//! all the same, and nothing that is decided depends on them. Each promise can be broken on purpose ([`Sabotage`]), to
//! show that it would be noticed. What the machine's own time decides is only on which Monday it all begins, and with it
//! where clocks are set for summer; that is told with the outcome.

pub mod agent;
pub mod central;
pub mod checks;
pub mod machine;
pub mod random;
pub mod site;
pub mod story;
mod world;

use std::{collections::BTreeMap, fmt, time::Duration};

use jiff::Timestamp;
use tierway_common::id::WindowId;

pub use self::world::run;
use self::{
    agent::Tally,
    checks::{Broken, Promise},
    story::Act,
};

/// A promise that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Agents reboot as if nobody were there.
    RebootsUnwarned,
    /// Agents know of no windows.
    IgnoresWindows,
    /// Agents of desks do not begin what they planned, and say nothing of it.
    ForgetsToInstall,
    /// Agents take every lease for granted.
    IgnoresLeases,
    /// Agents do not know that approvals go by rings.
    IgnoresRings,
    /// Agents try again for ever.
    NeverGivesUp,
    /// Installers on servers take six times as long as the forecast was made from.
    IsSlowerThanForecast,
    /// Agents report that an update was on offer after it was downloaded.
    TellsTimesInDisorder,
    /// What agents report about updates arrives nowhere.
    LosesReports,
}

impl Sabotage {
    /// All.
    pub const ALL: [Self; 9] = [
        Self::RebootsUnwarned,
        Self::IgnoresWindows,
        Self::ForgetsToInstall,
        Self::IgnoresLeases,
        Self::IgnoresRings,
        Self::NeverGivesUp,
        Self::IsSlowerThanForecast,
        Self::TellsTimesInDisorder,
        Self::LosesReports,
    ];

    /// What it breaks.
    #[must_use]
    pub fn breaks(self) -> Promise {
        match self {
            Self::RebootsUnwarned => Promise::WarnedReboots,
            Self::IgnoresWindows => Promise::FitsItsWindow,
            Self::ForgetsToInstall | Self::LosesReports => Promise::InTimeOrListed,
            Self::IgnoresLeases => Promise::AtOnce,
            Self::IgnoresRings => Promise::BadUpdateHalts,
            Self::NeverGivesUp => Promise::Quarantine,
            Self::IsSlowerThanForecast => Promise::Forecast,
            Self::TellsTimesInDisorder => Promise::TimesInOrder,
        }
    }
}

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides all that chance does.
    pub seed: u64,
    /// How many endpoints.
    pub endpoints: u64,
    /// How many days, at most 30: certificates are renewed once.
    pub days: i64,
    /// Computers check twice a day only, so that there can be thousands.
    pub quiet: bool,
    /// What people do.
    pub acts: Vec<(i64, Act)>,
    /// Relays are down for a while, and clocks are wrong.
    pub faults: bool,
    /// What is broken on purpose.
    pub sabotage: Option<Sabotage>,
}

impl Options {
    /// The month, of a size that the environment may set.
    #[must_use]
    pub fn month() -> Self {
        let of = |name: &str, without: u64| match std::env::var(name) {
            Ok(text) => text.parse().unwrap(),
            Err(_) => without,
        };
        Self {
            seed: of("TIERWAY_SIMULATION_SEED", 1),
            endpoints: of("TIERWAY_SIMULATION_ENDPOINTS", 120),
            days: i64::try_from(of("TIERWAY_SIMULATION_DAYS", 30)).unwrap(),
            quiet: false,
            acts: story::month(),
            faults: of("TIERWAY_SIMULATION_FAULTS", 1) != 0,
            sabotage: None,
        }
    }

    /// A small fleet for as long as it takes until `sabotage` must be noticed.
    #[must_use]
    pub fn broken(sabotage: Sabotage) -> Self {
        let (days, acts) = story::enough(sabotage);
        Self { seed: 1, endpoints: 30, days, quiet: false, acts, faults: false, sabotage: Some(sabotage) }
    }

    /// A fleet of which the first ring is less than a hundredth, and the bad update; `None` unless the environment asks
    /// for it, since it takes minutes.
    #[must_use]
    pub fn large() -> Option<Self> {
        std::env::var_os("TIERWAY_SIMULATION_LARGE")?;
        let (days, acts) = story::rollout();
        Some(Self { seed: 1, endpoints: 2_100, days, quiet: true, acts, faults: false, sabotage: None })
    }
}

/// What a forecast said and what then happened.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Compared {
    /// Bytes over the links of all sites, forecast.
    pub bytes: u64,
    /// As the relays counted them.
    pub bytes_true: u64,
    /// Hours from the approval to the last computer, forecast.
    pub hours: f64,
    /// As it was.
    pub hours_true: f64,
}

/// What came of a simulation.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Of which seed.
    pub seed: u64,
    /// From when on.
    pub start: Timestamp,
    /// How many endpoints.
    pub endpoints: u64,
    /// How many days.
    pub days: i64,
    /// Events.
    pub events: u64,
    /// How long enrolment and all took.
    pub wall: Duration,
    /// What happened.
    pub tally: Tally,
    /// How often each promise was checked.
    pub counts: BTreeMap<Promise, u64>,
    /// The most computers that were down at once, by window.
    pub most_down: BTreeMap<WindowId, usize>,
    /// Updates that were past their deadline when central was asked, by what it said they waited for.
    pub listed: BTreeMap<&'static str, u64>,
    /// Where each rollout stood at the end, a sentence, by update.
    pub rollouts: BTreeMap<String, String>,
    /// Computers on which the bad update was attempted.
    pub exposed: u64,
    /// Computers on which the installer that does nothing is not tried any more.
    pub quarantined: u64,
    /// The forecast, if one was made and its time is over.
    pub forecast: Option<Compared>,
    /// The first promise that was broken.
    pub broken: Option<Broken>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, start, endpoints, days, events, wall, tally, counts, .. } = self;
        writeln!(
            f,
            "seed {seed} from {start}: {endpoints} endpoints, {days} days, {events} events in {wall:.1?}"
        )?;
        writeln!(f, "  {tally:?}")?;
        writeln!(f, "  checked {counts:?}")?;
        writeln!(f, "  most down at once {:?}", self.most_down)?;
        writeln!(f, "  past their deadline and listed {:?}", self.listed)?;
        writeln!(f, "  rollouts {:?}", self.rollouts)?;
        writeln!(f, "  bad update on {}, quarantined on {}", self.exposed, self.quarantined)?;
        writeln!(f, "  forecast {:?}", self.forecast)?;
        match &self.broken {
            Some(Broken { promise, how }) => write!(f, "  BROKEN {promise:?}: {how}"),
            None => write!(f, "  every promise held"),
        }
    }
}
