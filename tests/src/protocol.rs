//! The protocol between the tiers under a network, disks and clocks that a seed decides: the real central, relays (one, or
//! a chain of up to three) and endpoints, whose doors are called without connections, on one thread and in simulated time.
//!
//! For some hours requests and answers get lost, late, come twice, break off or lie; nodes crash, also in the middle of a
//! commit; disks are full; clocks jump; nodes are cut off; an endpoint is revoked. Then nothing goes wrong any more, and
//! everybody must come to the same. What must hold all the while is in [`checks`]. The same seed gives the same events,
//! which [`Outcome::digest`] stands for. Each promise can be broken on purpose ([`Sabotage`]), to show that it would be
//! noticed.
//!
//! Keys are random all the same, and nothing that happens depends on them. Files lie on a real file system: a crash leaves
//! them as they are between two steps, with what was being written beside them ([`debris`]).
//!
//! It runs in a runtime of one thread whose time is paused.

pub mod central;
pub mod checks;
pub mod computer;
pub mod debris;
pub mod disk;
pub mod net;
pub mod published;
pub mod relay;
mod world;

use std::{collections::BTreeMap, fmt, time::Duration};

use self::checks::{Broken, Promise};
pub use self::world::run;

/// A promise that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// The relays' disks acknowledge what they have not written.
    AcknowledgesUnwritten,
    /// So does central's.
    ForgetsWhatItTook,
    /// Reports come to central in the opposite order.
    TurnsReportsRound,
    /// Blobs are served as they are not.
    ServesAnything,
    /// What is installed is half of what was fetched.
    InstallsAnything,
    /// Endpoints forget at a crash what they trusted, and are told earlier metadata.
    TrustsEarlier,
    /// Central forgets at a crash who is down.
    LosesLeases,
    /// Central does not count the uses of tokens.
    NeverCountsTokens,
    /// Central says that it has shut somebody out, and has not.
    ShutsNobodyOut,
    /// The relay below central stays cut off.
    StaysCutOff,
}

impl Sabotage {
    /// All.
    pub const ALL: [Self; 10] = [
        Self::AcknowledgesUnwritten,
        Self::ForgetsWhatItTook,
        Self::TurnsReportsRound,
        Self::ServesAnything,
        Self::InstallsAnything,
        Self::TrustsEarlier,
        Self::LosesLeases,
        Self::NeverCountsTokens,
        Self::ShutsNobodyOut,
        Self::StaysCutOff,
    ];

    /// What it breaks.
    #[must_use]
    pub fn breaks(self) -> Promise {
        match self {
            Self::AcknowledgesUnwritten => Promise::Kept,
            Self::ForgetsWhatItTook => Promise::Once,
            Self::TurnsReportsRound => Promise::InOrder,
            Self::ServesAnything | Self::InstallsAnything => Promise::Verified,
            Self::TrustsEarlier => Promise::Newest,
            Self::LosesLeases => Promise::AtOnce,
            Self::NeverCountsTokens => Promise::Admitted,
            Self::ShutsNobodyOut => Promise::ShutOut,
            Self::StaysCutOff => Promise::Converged,
        }
    }
}

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Decides all that chance does.
    pub seed: u64,
    /// What is broken on purpose.
    pub sabotage: Option<Sabotage>,
    /// What happens is kept line by line.
    pub lines: bool,
}

/// Which seeds are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seeds {
    /// The first.
    pub from: u64,
    /// How many.
    pub count: u64,
    /// What happens is told line by line.
    pub lines: bool,
}

impl Seeds {
    /// The first `count`, unless the environment names others.
    #[must_use]
    pub fn or_as_wanted(count: u64) -> Self {
        let of = |name: &str, without: u64| match std::env::var(name) {
            Ok(text) => text.parse().unwrap(),
            Err(_) => without,
        };
        Self {
            from: of("TIERWAY_PROTOCOL_FROM", 1),
            count: of("TIERWAY_PROTOCOL_SEEDS", count),
            lines: of("TIERWAY_PROTOCOL_LINES", 0) != 0,
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Of which seed.
    pub seed: u64,
    /// What happened, as a number.
    pub digest: u64,
    /// Line by line, if that was wanted.
    pub lines: Vec<String>,
    /// How often each promise was checked.
    pub counts: BTreeMap<Promise, u64>,
    /// Calls by method.
    pub calls: BTreeMap<String, u64>,
    /// What went wrong on purpose.
    pub faults: BTreeMap<&'static str, u64>,
    /// Simulated time until everybody had come to the same.
    pub took: Duration,
    /// The first promise that was broken.
    pub broken: Option<Broken>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, digest, counts, calls, faults, took, .. } = self;
        writeln!(f, "seed {seed}, digest {digest:016x}, {took:.0?} of simulated time")?;
        writeln!(f, "  faults {faults:?}")?;
        writeln!(f, "  calls {calls:?}")?;
        writeln!(f, "  checked {counts:?}")?;
        match &self.broken {
            Some(Broken { promise, how }) => write!(f, "  BROKEN {promise:?}: {how}"),
            None => write!(f, "  every promise held"),
        }
    }
}
