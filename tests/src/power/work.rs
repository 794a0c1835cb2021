//! Who writes: for each thing that keeps something on a disk a list of steps that a seed decides, done by the real
//! type, and what must be there after a cut.
//!
//! After so many steps were told to be done the disk holds what those made, or that and the step that was going on,
//! wholly or not at all.

mod blobs;
mod files;
mod ledger;
mod mirror;
mod outbox;
mod spool;
mod store;

use std::path::Path;

use ring::rand::SystemRandom;
use tierway_common::trust::keys::SigningKey;

use crate::simulation::random::Random;

/// Something that keeps a promise through a power cut.
pub(super) trait Work {
    /// Does all steps in `folder`, which is empty, and calls `tell` after each.
    fn run(&self, folder: &Path, tell: &mut dyn FnMut());

    /// Opens what a cut left in `folder` after so many steps were told, as a start does, and does the next again where that
    /// may be done twice.
    fn reopen(&self, folder: &Path, told: usize) -> Result<(), String>;

    /// Opens what a cut left in `folder` after so many steps were told; what is wrong with it, if anything.
    fn check(&self, folder: &Path, told: usize) -> Result<(), String>;
}

/// Who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// `common::files`: identities, keys, trusted metadata.
    Files,
    /// The ledger of an endpoint.
    Ledger,
    /// The reports of an endpoint on their way up.
    Spool,
    /// Payloads and nodes of all tiers.
    Blobs,
    /// What a relay mirrors of what is published.
    Mirror,
    /// What central remembers.
    Store,
    /// The reports of a site on their way up.
    Outbox,
}

impl Writer {
    /// From the least to the most that lies beneath.
    pub const ALL: [Self; 7] =
        [Self::Files, Self::Ledger, Self::Spool, Self::Blobs, Self::Mirror, Self::Store, Self::Outbox];

    /// As it is named on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Ledger => "ledger",
            Self::Spool => "spool",
            Self::Blobs => "blobs",
            Self::Mirror => "mirror",
            Self::Store => "store",
            Self::Outbox => "outbox",
        }
    }

    /// So many steps by a `seed`; what must be the same in all processes and comes from nowhere else is in `beside`.
    pub(super) fn work(self, seed: u64, steps: usize, beside: &Path) -> Box<dyn Work> {
        let random = &mut Random::of(seed, &[self as u64]);
        match self {
            Self::Files => Box::new(files::Steps::new(random, steps)),
            Self::Ledger => Box::new(ledger::Steps::new(random, steps)),
            Self::Spool => Box::new(spool::Steps::new(random, steps, key(beside))),
            Self::Blobs => Box::new(blobs::Steps::new(random, steps)),
            Self::Mirror => Box::new(mirror::Steps::new(random, steps, beside)),
            Self::Store => Box::new(store::Steps::new(random, steps)),
            Self::Outbox => Box::new(outbox::Steps::new(random, steps, &key(beside))),
        }
    }
}

fn key(beside: &Path) -> SigningKey {
    let path = beside.join("key.pem");
    if !path.exists() {
        SigningKey::generate(&SystemRandom::new()).unwrap().save(&path).unwrap();
    }
    SigningKey::load(&path).unwrap()
}

/// So many bytes that do not compress.
fn bytes(random: &mut Random, count: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        bytes.extend_from_slice(&random.bits().to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}

fn wrong<T, E: std::fmt::Debug>(result: Result<T, E>, doing: &str) -> Result<T, String> {
    result.map_err(|error| format!("{doing}: {error:?}"))
}
