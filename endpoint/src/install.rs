//! Installs what a plan names: engines, and what their results mean.
//!
//! An engine runs only what a verified document names, from a copy whose digest was checked on the way
//! into place. It is told what is needed by a fresh scan and believes that scan about the result.

pub mod codes;
pub mod deb;
pub mod run;

use std::{future::Future, path::PathBuf, time::Duration};

use tierway_common::{
    facts::Facts,
    schema::{DETAIL_BYTES_MAX, Payload, State, Update},
    trust::digest::Digest,
};

use crate::install::{
    codes::Outcome,
    deb::apt::{Step, cut},
};

/// Something that a verified document names cannot be had now.
#[derive(Debug, thiserror::Error)]
#[error("could not fetch {what}")]
pub struct Unavailable {
    /// Such as ``the package `libc6` ``.
    pub what: String,
    /// Why.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Brings payloads to this computer.
pub trait PayloadFetcher {
    /// Fetches those that are not here yet; returns when all are here and verified.
    fn ensure(&self, payloads: &[Payload]) -> impl Future<Output = Result<(), Unavailable>> + Send;

    /// Where the verified file is.
    fn path(&self, digest: &Digest) -> Option<PathBuf>;
}

/// What a scan that was just made says about one update.
#[derive(Clone, Debug)]
pub struct Fresh {
    /// Where it stands by its rules.
    pub state: State,
    /// What was read.
    pub facts: Facts,
}

/// What to install and what is known besides.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The update.
    pub update: &'a Update,
    /// Other updates that are needed and approved: their packages may come along when needed.
    pub approved: &'a [&'a Update],
    /// Updates that are needed and not approved: their packages are not upgraded.
    pub left_out: &'a [&'a Update],
    /// After which the package manager is stopped.
    pub limit: Duration,
}

/// What an attempt came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempted {
    /// In one word.
    pub outcome: Outcome,
    /// What was said, at most [`DETAIL_BYTES_MAX`].
    pub detail: Option<String>,
    /// What the package manager was told to unpack, in its order; empty when it was not started.
    pub steps: Vec<Step>,
}

impl Attempted {
    fn new(outcome: Outcome, detail: &str) -> Self {
        let detail = cut(detail, DETAIL_BYTES_MAX);
        Self { outcome, detail: (!detail.is_empty()).then(|| detail.to_owned()), steps: Vec::new() }
    }
}
