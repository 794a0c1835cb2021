//! Fetching payloads from vendors into the blobs: which, when, and how fast.
//!
//! A payload is kept only when length and digest are what a signed index said; one that breaks off is
//! continued by the next attempt, of this run or of a later one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use futures_util::StreamExt as _;
use jiff::{civil::Time, tz::TimeZone};
use serde::{Deserialize, Serialize};
use tierway_common::{
    blobs::{BlobError, Blobs, Writer},
    daemon::stop::Stop,
    id::UpdateId,
    schema::{DebPackage, Payload, Update},
    trust::digest::Digest,
};

use super::{
    fetch::{Answer, Body, Fetch, FetchError, Patience, Retry},
    pace::Pace,
};

/// Payloads fetched at the same time unless configured: enough to hide a mirror's latency, few enough to
/// be a polite client.
pub const CONCURRENCY: usize = 4;

/// Most payloads that may be fetched at the same time.
const CONCURRENCY_MAX: usize = 64;

/// Which payloads are fetched ahead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// Those that some endpoint lacks, and what they depend on in the same catalogue.
    #[default]
    Needed,
    /// All of the updates that are approved for some group.
    Approved,
    /// All of the updates that are not superseded.
    All,
}

/// The daily download, as written in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Off unless switched on.
    pub enabled: bool,
    /// Local time of day, such as `03:00`.
    pub at: Time,
    /// A name such as `Europe/Berlin`; the system's zone without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Which payloads.
    pub which: Which,
    /// Payloads at the same time.
    pub concurrency: usize,
    /// Limit over all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: false,
            at: Time::constant(3, 0, 0, 0),
            zone: None,
            which: Which::Needed,
            concurrency: CONCURRENCY,
            bytes_per_second: None,
        }
    }
}

impl Config {
    /// The time zone of `at`.
    ///
    /// # Errors
    ///
    /// When no zone of that name is known; the error names it.
    pub fn time_zone(&self) -> Result<TimeZone, jiff::Error> {
        self.zone.as_deref().map_or_else(|| Ok(TimeZone::system()), TimeZone::get)
    }

    /// How to download.
    #[must_use]
    pub fn options(&self) -> Options {
        Options {
            concurrency: self.concurrency,
            bytes_per_second: self.bytes_per_second,
            retry: Retry::default(),
        }
    }
}

/// A payload to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// For errors: `name_version_architecture`.
    pub package: String,
    /// What and from where.
    pub payload: Payload,
}

impl Wanted {
    /// The payload of a package.
    #[must_use]
    pub fn of(package: &DebPackage) -> Self {
        Self {
            package: format!("{}_{}_{}", package.name, package.version, package.architecture),
            payload: package.payload.clone(),
        }
    }
}

/// Decides which payloads of a catalogue to have, in order of digest, each once.
///
/// `needed` says whether some endpoint lacks this package of this update, `approved` whether the update is
/// approved for some group.
#[must_use]
pub fn select(
    which: Which,
    updates: &[Update],
    needed: &dyn Fn(&UpdateId, &DebPackage) -> bool,
    approved: &dyn Fn(&UpdateId) -> bool,
) -> Vec<Wanted> {
    let packages = |update: &'_ Update| -> Vec<DebPackage> { update.install.deb_packages().to_vec() };
    let chosen: Vec<DebPackage> = match which {
        Which::Approved => updates.iter().filter(|update| approved(&update.id)).flat_map(packages).collect(),
        Which::All => updates.iter().filter(|u| u.superseded_by.is_empty()).flat_map(packages).collect(),
        Which::Needed => {
            let lacking = updates.iter().flat_map(|update| {
                packages(update).into_iter().filter(|package| needed(&update.id, package))
            });
            with_dependencies(updates, lacking.collect())
        }
    };
    let mut by_digest: BTreeMap<Digest, Wanted> =
        chosen.iter().map(|package| (package.payload.digest, Wanted::of(package))).collect();
    // Whether an endpoint lacks a file of another system's update its facts do not say: those that are not
    // asked for by name come on demand.
    let whole = updates.iter().filter(|update| match which {
        Which::Approved => approved(&update.id),
        Which::All => update.superseded_by.is_empty(),
        Which::Needed => false,
    });
    for update in whole.filter(|update| update.install.deb_packages().is_empty()) {
        for (package, payload) in update.install.payloads() {
            by_digest.insert(payload.digest, Wanted { package, payload });
        }
    }
    by_digest.into_values().collect()
}

/// Adds what packages depend on among the packages of the updates: a kernel's metapackage is lacking
/// everywhere, the kernel it now depends on is installed nowhere.
fn with_dependencies(updates: &[Update], mut chosen: Vec<DebPackage>) -> Vec<DebPackage> {
    let mut by_name: BTreeMap<&str, Vec<&DebPackage>> = BTreeMap::new();
    for update in updates.iter().filter(|update| update.superseded_by.is_empty()) {
        for package in update.install.deb_packages() {
            by_name.entry(&package.name).or_default().push(package);
        }
    }
    let mut known: BTreeSet<Digest> = chosen.iter().map(|package| package.payload.digest).collect();
    let mut next = 0;
    while let Some(package) = chosen.get(next).cloned() {
        next += 1;
        let relations = ["Depends", "Pre-Depends"].iter().filter_map(|field| package.control.get(*field));
        for name in relations.flat_map(|text| text.split([',', '|'])) {
            let name = name.trim().split([' ', '(', ':']).next().unwrap_or_default();
            for found in by_name.get(name).into_iter().flatten() {
                let fits = found.architecture == package.architecture
                    || [&found.architecture, &package.architecture].into_iter().any(|one| one == "all");
                if fits && known.insert(found.payload.digest) {
                    chosen.push((*found).clone());
                }
            }
        }
    }
    chosen
}

/// How to download.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// At the same time; at least 1, at most 64.
    pub concurrency: usize,
    /// Over all of them.
    pub bytes_per_second: Option<u64>,
    /// How often to try each.
    pub retry: Retry,
}

impl Default for Options {
    fn default() -> Self {
        Config::default().options()
    }
}

/// How far a download is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Payloads that are there, failed or not.
    pub files: usize,
    /// Payloads that were not there at the beginning.
    pub files_total: usize,
    /// Bytes that came, those of earlier runs included.
    pub bytes: u64,
    /// Bytes of all payloads that were not there at the beginning.
    pub bytes_total: u64,
}

/// A payload that could not be had; nothing wrong was kept.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// It could not be fetched.
    #[error("could not fetch the payload of `{package}`")]
    Fetch {
        /// `name_version_architecture`.
        package: String,
        /// Why, with the URL.
        source: FetchError,
    },
    /// The archive does not have it.
    #[error("the payload of `{package}` is not at `{url}`")]
    Absent {
        /// `name_version_architecture`.
        package: String,
        /// Where.
        url: String,
    },
    /// It has another length.
    #[error("the payload of `{package}` at `{url}` has {found} bytes, not {expected}")]
    Length {
        /// `name_version_architecture`.
        package: String,
        /// Where.
        url: String,
        /// As signed.
        expected: u64,
        /// As it came.
        found: u64,
    },
    /// It has another digest.
    #[error("the payload of `{package}` at `{url}` has the digest {found}, not {expected}")]
    Digest {
        /// `name_version_architecture`.
        package: String,
        /// Where.
        url: String,
        /// As signed.
        expected: Digest,
        /// As it came.
        found: Digest,
    },
    /// It could not be kept.
    #[error("could not keep the payload of `{package}` from `{url}`")]
    Blob {
        /// `name_version_architecture`.
        package: String,
        /// Where from.
        url: String,
        /// Why.
        source: BlobError,
    },
}

impl PayloadError {
    /// Whether there is no room for any other payload either.
    fn is_full(&self) -> bool {
        matches!(
            self,
            Self::Blob { source: BlobError::QuotaExceeded { .. } | BlobError::DiskFull { .. }, .. }
        )
    }
}

/// What a download did.
#[derive(Debug, Default)]
pub struct Downloaded {
    /// Payloads that are new.
    pub fetched: Vec<Digest>,
    /// Payloads that were there before.
    pub present: usize,
    /// Payloads that were not begun or not ended, because a stop was requested or there was no room.
    pub left: usize,
    /// Payloads that could not be had.
    pub failed: Vec<PayloadError>,
}

/// One download in progress.
struct Run<'a, F> {
    fetch: &'a F,
    blobs: &'a Blobs,
    retry: Retry,
    pace: Pace,
    stop: &'a Stop,
    progress: Mutex<Progress>,
    tell: &'a (dyn Fn(Progress) + Sync),
    full: std::sync::atomic::AtomicBool,
}

/// How one payload ended.
enum Ended {
    Fetched(Digest),
    Left,
}

/// Fetches what is wanted and not there, several at a time; one that fails does not keep the others from
/// coming, except that nothing more is begun when there is no room.
///
/// `tell` is called after every piece, from one task at a time.
pub async fn download<F: Fetch>(
    fetch: &F,
    blobs: &Blobs,
    wanted: Vec<Wanted>,
    options: Options,
    stop: &Stop,
    tell: &(dyn Fn(Progress) + Sync),
) -> Downloaded {
    let mut seen = BTreeSet::new();
    let (missing, present): (Vec<_>, Vec<_>) = wanted
        .into_iter()
        .filter(|wanted| seen.insert(wanted.payload.digest))
        .partition(|wanted| !blobs.contains(&wanted.payload.digest));
    let progress = Progress {
        files_total: missing.len(),
        bytes_total: missing.iter().map(|wanted| wanted.payload.bytes).sum(),
        ..Progress::default()
    };
    let run = Run {
        fetch,
        blobs,
        retry: options.retry,
        pace: Pace::new(options.bytes_per_second),
        stop,
        progress: Mutex::new(progress),
        tell,
        full: std::sync::atomic::AtomicBool::new(false),
    };
    let mut downloaded = Downloaded { present: present.len(), ..Downloaded::default() };
    // Made beforehand, as a closure in the type of the stream would keep this future from being `Send`.
    let attempts: Vec<_> = missing.iter().map(|wanted| run.one(wanted)).collect();
    let mut running =
        futures_util::stream::iter(attempts).buffer_unordered(options.concurrency.clamp(1, CONCURRENCY_MAX));
    while let Some(ended) = running.next().await {
        match ended {
            Ok(Ended::Fetched(digest)) => downloaded.fetched.push(digest),
            Ok(Ended::Left) => downloaded.left += 1,
            Err(error) => downloaded.failed.push(error),
        }
        run.count(|progress| progress.files += 1);
    }
    drop(running);
    downloaded.fetched.sort();
    downloaded
}

impl<F: Fetch> Run<'_, F> {
    fn count(&self, change: impl FnOnce(&mut Progress)) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut progress);
        (self.tell)(*progress);
    }

    fn is_over(&self) -> bool {
        self.stop.requested() || self.full.load(std::sync::atomic::Ordering::Relaxed)
    }

    async fn one(&self, wanted: &Wanted) -> Result<Ended, PayloadError> {
        if self.is_over() {
            return Ok(Ended::Left);
        }
        let outcome = match self.attempts(wanted).await {
            // What an earlier run left may have been wrong; then it is gone now.
            Err((PayloadError::Digest { .. } | PayloadError::Length { .. }, Resumed::Earlier)) => {
                self.attempts(wanted).await
            }
            outcome => outcome,
        };
        outcome.map_err(|(error, _)| {
            if error.is_full() {
                self.full.store(true, std::sync::atomic::Ordering::Relaxed);
            }
            error
        })
    }

    async fn attempts(&self, wanted: &Wanted) -> Result<Ended, (PayloadError, Resumed)> {
        let Payload { digest, bytes, url } = &wanted.payload;
        let package = || wanted.package.clone();
        let blob = |source| PayloadError::Blob { package: package(), url: url.clone(), source };
        let (blobs, opened, expected) = (self.blobs.clone(), *digest, *bytes);
        // Opening reads what is there, ending syncs it.
        let mut writer = blocking(move || blobs.writer(&opened, Some(expected)))
            .await
            .map_err(|error| (blob(error), Resumed::No))?;
        let resumed = if writer.offset() > 0 { Resumed::Earlier } else { Resumed::No };
        self.count(|progress| progress.bytes += writer.offset());
        let mut patience = Patience::default();
        let mut failures = 0;
        while writer.offset() < *bytes {
            let before = writer.offset();
            let error = match self.stream(wanted, &mut writer, &mut patience).await {
                Ok(Streamed::Whole) => break,
                Ok(Streamed::Stopped) => return Ok(Ended::Left),
                Err(Broken::Fetch(error)) => error,
                Err(Broken::Payload(error)) => {
                    self.forget(writer.offset());
                    writer.discard();
                    return Err((error, resumed));
                }
                Err(Broken::Blob(error)) => return Err((blob(error), resumed)),
            };
            failures = if writer.offset() > before { 1 } else { failures + 1 };
            let waited = tokio::select! {
                waited = patience.retry(self.retry, failures, error) => waited,
                () = self.stop.wait() => return Ok(Ended::Left),
            };
            waited.map_err(|source| (PayloadError::Fetch { package: package(), source }, resumed))?;
        }
        blocking(move || writer.finish()).await.map_err(|error| match error {
            BlobError::Mismatch { digest, found } => {
                self.forget(*bytes);
                let (expected, url) = (digest, url.clone());
                (PayloadError::Digest { package: package(), url, expected, found }, resumed)
            }
            error => (blob(error), resumed),
        })?;
        Ok(Ended::Fetched(*digest))
    }

    /// Takes bytes out of the progress that turned out to be worth nothing.
    fn forget(&self, bytes: u64) {
        self.count(|progress| progress.bytes = progress.bytes.saturating_sub(bytes));
    }

    /// One request, from where the writer stands to the end.
    async fn stream(
        &self,
        wanted: &Wanted,
        writer: &mut Writer,
        patience: &mut Patience,
    ) -> Result<Streamed, Broken> {
        let Payload { bytes, url, .. } = &wanted.payload;
        let package = || wanted.package.clone();
        let get = self.fetch.get(url, None, writer.offset());
        let (offset, mut body) = match patience.wait(url, get).await? {
            Answer::Found { offset, body, .. } => (offset, body),
            Answer::Absent | Answer::NotModified => {
                let error = PayloadError::Absent { package: package(), url: url.clone() };
                return Err(Broken::Payload(error));
            }
        };
        let length = |found| {
            let expected = *bytes;
            Broken::Payload(PayloadError::Length { package: package(), url: url.clone(), expected, found })
        };
        // A server that does not know ranges begins at the beginning.
        let mut skip = writer.offset().saturating_sub(offset);
        while let Some(chunk) = patience.wait(url, body.chunk()).await? {
            patience.came(chunk.len());
            self.pace.pay(chunk.len()).await;
            let known = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
            skip -= known as u64;
            let new = &chunk[known..];
            if writer.offset() + new.len() as u64 > *bytes {
                return Err(length(writer.offset() + new.len() as u64));
            }
            writer.write(new).map_err(Broken::Blob)?;
            self.count(|progress| progress.bytes += new.len() as u64);
            if self.is_over() {
                return Ok(Streamed::Stopped);
            }
        }
        if writer.offset() < *bytes {
            return Err(length(writer.offset()));
        }
        Ok(Streamed::Whole)
    }
}

enum Streamed {
    Whole,
    Stopped,
}

/// Whether the bytes of an earlier run are part of it.
#[derive(Clone, Copy)]
enum Resumed {
    No,
    Earlier,
}

enum Broken {
    Fetch(FetchError),
    Payload(PayloadError),
    Blob(BlobError),
}

impl From<FetchError> for Broken {
    fn from(error: FetchError) -> Self {
        Self::Fetch(error)
    }
}

/// Runs `work` where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

#[cfg(test)]
mod tests;
