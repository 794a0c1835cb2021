//! What everything that reads bytes from outside must keep to, whatever the bytes: a function a target, for the fuzzer
//! (`deploy/fuzz`) and, over the kept corpus and a number of mutations of it, for every run of the tests.
//!
//! A target takes any bytes and panics when its sentence is false. Most inputs are refused by what they are
//! given to; what is accepted must be the same after it was written again, or read in another way.

use std::{fs, path::PathBuf};

// What decides.
mod policies;
mod rules;
mod versions;

// What is trusted, and what is told.
mod metadata;
mod nodes;
mod reports;

// What vendors and administrators hand in.
mod cabinets;
mod configuration;
mod debian;
mod packages;
mod windows;

pub mod mutate;

/// Longest input, in bytes: the smallest database of Windows Installer has some 20,000.
pub const INPUT_BYTES_MAX: usize = 64 << 10;

/// One property, and what inputs for it begin as.
#[derive(Clone, Copy)]
pub struct Target {
    /// As the fuzzer's command line calls it.
    pub name: &'static str,
    /// Whether the bytes were accepted, so that the property was looked at. Panics when it does not hold of them.
    pub run: fn(&[u8]) -> bool,
    /// Inputs that are accepted, and some that almost are.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Texts that are worth putting anywhere.
    pub words: &'static [&'static str],
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("name", &self.name).finish_non_exhaustive()
    }
}

/// All targets, each a program below `tests/fuzz/fuzz_targets`.
pub const TARGETS: &[Target] = &[
    rules::RULES,
    versions::VERSIONS,
    policies::POLICIES,
    metadata::METADATA,
    nodes::NODES,
    reports::ENVELOPES,
    reports::REPORTS,
    debian::INDICES,
    debian::RELEASES,
    debian::SIGNATURES,
    windows::UPDATES,
    windows::CATALOGUES,
    cabinets::CABINETS,
    packages::PACKAGES,
    configuration::CONFIGURATION,
];

impl Target {
    /// The target of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// Where the inputs are kept that the fuzzer found worth keeping.
    #[must_use]
    pub fn corpus_dir(&self) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(self.name)
    }

    /// The seeds and the kept corpus, in the order of the files' names.
    #[must_use]
    pub fn corpus(&self) -> Vec<Vec<u8>> {
        let mut paths: Vec<PathBuf> = fs::read_dir(self.corpus_dir())
            .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
            .unwrap_or_default();
        paths.sort();
        let kept = paths.iter().map(|path| fs::read(path).unwrap());
        (self.seeds)().into_iter().chain(kept).collect()
    }
}

/// Texts as inputs.
fn texts(of: &[&str]) -> Vec<Vec<u8>> {
    of.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Gives one byte at a time, so that what is read across the edge of a buffer shows.
struct Dripping<'a>(&'a [u8]);

impl std::io::Read for Dripping<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match (self.0.split_off_first(), buffer.first_mut()) {
            (Some(byte), Some(first)) => {
                *first = *byte;
                Ok(1)
            }
            _ => Ok(0),
        }
    }
}

#[cfg(test)]
mod tests;
