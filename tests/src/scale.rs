//! A large fleet under load on the real clock: thousands of endpoints that share the threads of one process, before real
//! relays and a real central that are processes of their own, through days that are hard on them. What
//! `tierctl simulate` runs.
//!
//! Endpoints enrol, check in, bring over, evaluate and report as real ones do, each with a key, a connection and an
//! inventory of its own. What they share is what is the same for all of a site with one system: the verified catalogues and the
//! compiled rules; each fetches metadata and tree nodes for itself all the same. At the end central's store is
//! opened and compared with what each endpoint knows: whatever was acknowledged and is not there, or is there
//! otherwise, fails the run.

pub mod compared;
pub mod failure;
pub mod figures;
pub mod fleet;
pub mod held;
pub mod inventory;
pub mod link;
pub mod listening;
pub mod member;
pub mod plot;
pub mod published;
pub mod queries;
pub mod scenarios;
pub mod tiers;

use std::{path::PathBuf, time::Duration};

pub use self::fleet::run;

/// What happens to the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scenario {
    /// All checks of a day, one after the other, without the hours between them.
    SteadyDay,
    /// Everybody switches his computer on.
    PowerOn,
    /// Ten updates are approved and installed.
    PatchDay,
    /// One update is approved that everybody must be offered at once.
    Emergency,
    /// A site reports for a week to a relay that does not reach central.
    SiteCut,
    /// A relay burns down with all it had, and another takes its place.
    RelayReplaced,
    /// Central is killed and started again.
    CentralRestarted,
    /// An update fails on one computer in a hundred.
    BadUpdate,
}

impl Scenario {
    /// All, in the order in which they are run.
    pub const ALL: [Self; 8] = [
        Self::PowerOn,
        Self::SteadyDay,
        Self::Emergency,
        Self::PatchDay,
        Self::BadUpdate,
        Self::CentralRestarted,
        Self::SiteCut,
        Self::RelayReplaced,
    ];

    /// As it is called on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SteadyDay => "steady-day",
            Self::PowerOn => "power-on",
            Self::PatchDay => "patch-day",
            Self::Emergency => "emergency",
            Self::SiteCut => "site-cut",
            Self::RelayReplaced => "relay-replaced",
            Self::CentralRestarted => "central-restarted",
            Self::BadUpdate => "bad-update",
        }
    }
}

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides all that chance does; keys and ids are random all the same.
    pub seed: u64,
    /// How many endpoints.
    pub endpoints: u64,
    /// How many relays, each of a site of its own.
    pub relays: u64,
    /// Updates that concern each endpoint.
    pub states: usize,
    /// Of a hundred endpoints so many run Windows.
    pub windows_percent: u64,
    /// Of a hundred endpoints so many are on the road: connected for a check and not between two, so that they hear of
    /// nothing.
    pub roaming_percent: u64,
    /// What happens, in this order.
    pub scenarios: Vec<Scenario>,
    /// A list of Debian packages to draw inventories from; made up without one.
    pub packages: Option<PathBuf>,
    /// Where the programs are.
    pub programs: PathBuf,
    /// Where central and the relays keep what they have; on the disk that is to be measured.
    pub dir: PathBuf,
    /// Where the endpoints keep their identities.
    pub endpoints_dir: PathBuf,
    /// Over how long endpoints spread that are told of something, as `notice_spread` of theirs.
    pub spread: Duration,
    /// Within how long everybody's computer is switched on.
    pub power_on: Duration,
    /// How long the checks of a day take.
    pub day: Duration,
    /// Bytes are counted of one endpoint in so many.
    pub counted_one_in: u64,
    /// How often each question is asked of central.
    pub queries: u32,
}
