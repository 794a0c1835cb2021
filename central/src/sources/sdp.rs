//! The source `sdp`: a hardware or software vendor's catalogue of packages for Windows, by URL or from a file.
//!
//! What is believed: a server that TLS authenticates, or a file that the administrator put there; where the configuration
//! names a SHA-256 only the file that has it. A plain `http://` address is refused unless the configuration says
//! otherwise. A cabinet's own signature (Authenticode) is not checked. A catalogue is a cabinet of documents
//! or one document; a package in it that cannot be understood is left out and logged, the others count.

use std::{collections::BTreeMap, io::Cursor, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tierway_common::{
    daemon::chain::Chain,
    id::{CatalogueId, SourceId},
    rules::expr::{Expr, OsTest},
    trust::digest::Digest,
};
use tracing::warn;

use super::{
    Stats, Synced,
    advisories::Advisories,
    fetch::{self, Fetch, FetchError, Retry, Validators, Whole},
    place::{self, Place, PlaceError, PlainHttp},
    windows::{
        cabinet::{self, Cabinet, CabinetError},
        documents::{self, Documents, EncodeError},
        lower::Revisions,
        rules::Tally,
        sdp::{self, PackageError},
        update::ReadError,
    },
};

/// Longest catalogue as it comes: HP's has 12 MB packed, the largest known without packing some 200 MB.
const PACKED_BYTES_MAX: u64 = 512 << 20;

/// Most packages of one catalogue: HP's has 1,829, Dell's some 6,000.
const PACKAGES_MAX: usize = 100_000;

/// Raised whenever the same catalogue gives other documents than before, so that they are made anew.
const LOWERING: u32 = 2;

/// So many packages that cannot be understood are logged one by one.
const LOGGED_MAX: usize = 5;

/// A source of kind `sdp`, as written in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the source.
    pub name: SourceId,
    /// Catalogue of its updates, such as `hp`.
    pub catalogue: CatalogueId,
    /// `https://…`, or the absolute path of a file.
    pub url: String,
    /// SHA-256 of the one file that is believed; without it whatever is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
    /// Whether an `http://` address is believed.
    #[serde(default)]
    pub plain_http: PlainHttp,
    /// `http://…` or `socks5://…`; without it what the system's environment names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// How long a server may be silent.
    #[serde(default = "super::default_timeout", with = "humantime_serde")]
    pub timeout: Duration,
}

impl Config {
    /// For which computers the catalogue is at all.
    #[must_use]
    pub fn fits(&self) -> Expr {
        Expr::Os(OsTest { family: Some("windows".to_owned()), ..OsTest::default() })
    }

    /// Checks where the catalogue is said to be.
    ///
    /// # Errors
    ///
    /// [`SyncError::Place`].
    pub fn check(&self) -> Result<(), SyncError> {
        self.place().map(|_| ())
    }

    fn place(&self) -> Result<Place, SyncError> {
        Ok(Place::of(&self.url, self.plain_http)?)
    }

    /// Digest of everything that the documents depend on besides the catalogue.
    fn fingerprint(&self, advisories: &Advisories) -> Digest {
        let advisories = advisories.digest();
        Digest::of(format!("{LOWERING} {} {} {advisories}", self.catalogue, self.url).as_bytes())
    }
}

/// A catalogue that could not be had or is none; what was read before stays.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// Where it is said to be, or the file there.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// It could not be fetched.
    #[error("could not fetch the catalogue")]
    Fetch(#[from] FetchError),
    /// There is none.
    #[error("there is no catalogue at `{url}`")]
    Absent {
        /// The address.
        url: String,
    },
    /// It is another file than the named one.
    #[error("`{url}` has the digest {found}, not {expected} as configured")]
    Pinned {
        /// The address or path.
        url: String,
        /// As configured.
        expected: Digest,
        /// As it is.
        found: Digest,
    },
    /// Its cabinet.
    #[error("could not unpack the catalogue")]
    Cabinet(#[from] CabinetError),
    /// One of its documents.
    #[error("could not read `{document}` of the catalogue")]
    Document {
        /// Member of the cabinet, or the catalogue itself.
        document: String,
        /// Why.
        source: ReadError,
    },
    /// It holds nothing that could be understood.
    #[error("the catalogue has no package, and {failed} that could not be understood")]
    Empty {
        /// How many could not be understood.
        failed: usize,
    },
    /// It holds too many.
    #[error("the catalogue has more than {PACKAGES_MAX} packages")]
    TooMany,
    /// A document could not be written.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The thread that read it is gone.
    #[error("reading the catalogue was interrupted")]
    Broken,
}

/// What a sync must remember for the next one; empty at first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Under which configuration the documents were made.
    pub fingerprint: Option<Digest>,
    /// What the server said of the catalogue.
    pub validators: Validators,
    /// The catalogue.
    pub content: Option<Digest>,
    /// Date of its newest package.
    pub date: Option<Timestamp>,
}

/// A vendor's catalogue, kept current by [`Sdp::sync`].
#[derive(Debug)]
pub struct Sdp<F> {
    config: Config,
    fetch: F,
    retry: Retry,
}

impl<F: Fetch> Sdp<F> {
    /// A source that is fetched by `fetch`.
    #[must_use]
    pub fn new(config: Config, fetch: F, retry: Retry) -> Self {
        Self { config, fetch, retry }
    }

    /// As configured.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Reads the catalogue. `catalogue` are the documents of the previous sync; a package without a date keeps
    /// the one that it has there. The same catalogue gives the same bytes.
    ///
    /// # Errors
    ///
    /// [`SyncError`], upon which the caller goes on with what it has.
    pub async fn sync(
        &self,
        previous: &State,
        catalogue: &BTreeMap<String, Bytes>,
        advisories: &Advisories,
        now: Timestamp,
    ) -> Result<Synced<State>, SyncError> {
        let fingerprint = Some(self.config.fingerprint(advisories));
        let known = previous.fingerprint == fingerprint && previous.content.is_some();
        let unchanged = |state: State| {
            let date = state.date.unwrap_or(Timestamp::UNIX_EPOCH);
            Synced::unchanged(state, date)
        };
        let (bytes, validators) = match self.config.place()? {
            Place::File(path) => {
                let read = move || place::read(&path, PACKED_BYTES_MAX);
                let bytes = tokio::task::spawn_blocking(read).await.map_err(|_| SyncError::Broken)??;
                (bytes, Validators::default())
            }
            Place::Url(url) => {
                let url = &url;
                let validators = known.then_some(&previous.validators);
                match fetch::whole(&self.fetch, url, validators, PACKED_BYTES_MAX, self.retry).await? {
                    Whole::NotModified => return Ok(unchanged(previous.clone())),
                    Whole::Absent => return Err(SyncError::Absent { url: url.clone() }),
                    Whole::Found { bytes, validators } => (bytes, validators),
                }
            }
        };
        let found = Digest::of(&bytes);
        if let Some(expected) = self.config.sha256.filter(|expected| *expected != found) {
            return Err(SyncError::Pinned { url: self.config.url.clone(), expected, found });
        }
        let content = Some(found);
        if known && previous.content == content {
            return Ok(unchanged(State { validators, ..previous.clone() }));
        }
        let work = Work {
            config: self.config.clone(),
            bytes,
            catalogue: catalogue.clone(),
            advisories: advisories.clone(),
            now,
        };
        // Unpacking and reading 100 MB takes longer than a task may hold its thread.
        let made = tokio::task::spawn_blocking(move || work.run()).await.map_err(|_| SyncError::Broken)??;
        Ok(Synced {
            unchanged: false,
            catalogue: made.catalogue,
            pool: BTreeMap::new(),
            state: State { fingerprint, validators, content, date: made.date },
            archive_date: made.date.unwrap_or(now),
            stats: made.stats,
        })
    }
}

/// What is done with the catalogue, away from the network.
struct Work {
    config: Config,
    bytes: Bytes,
    catalogue: BTreeMap<String, Bytes>,
    advisories: Advisories,
    now: Timestamp,
}

struct Made {
    catalogue: BTreeMap<String, Bytes>,
    date: Option<Timestamp>,
    stats: Stats,
}

/// What was read of a catalogue.
#[derive(Default)]
struct Packages {
    revisions: Revisions,
    tally: Tally,
    packages: usize,
    failed: Vec<PackageError>,
}

impl Packages {
    fn read(&mut self, document: &str, input: impl std::io::Read) -> Result<(), SyncError> {
        let Self { revisions, tally, packages, failed } = self;
        let mut take = |package: Result<sdp::Package, PackageError>| {
            *packages += 1;
            match package {
                _ if *packages > PACKAGES_MAX => {}
                Ok(sdp::Package { update, parts }) => {
                    revisions.add(update);
                    parts.into_iter().for_each(|part| revisions.add(part));
                }
                Err(error) => failed.push(error),
            }
        };
        sdp::each(input, tally, &mut take)
            .map_err(|source| SyncError::Document { document: document.to_owned(), source })?;
        if self.packages > PACKAGES_MAX { Err(SyncError::TooMany) } else { Ok(()) }
    }
}

impl Work {
    fn run(self) -> Result<Made, SyncError> {
        let Self { config, bytes, catalogue, advisories, now } = self;
        let mut read = Packages::default();
        if cabinet::is_cabinet(&bytes) {
            let ends = [".xml", ".sdp"];
            let wanted = |member: &cabinet::Member| {
                let name = member.name.to_ascii_lowercase();
                ends.iter().any(|end| name.ends_with(end))
            };
            Cabinet::new(&bytes)?.each(&wanted, &mut |member, reader| read.read(&member.name, reader))?;
        } else {
            read.read(&config.url, Cursor::new(&bytes))?;
        }
        let Packages { revisions, tally: _, packages, failed } = read;
        if revisions.is_empty() {
            return Err(SyncError::Empty { failed: failed.len() });
        }
        for error in failed.iter().take(LOGGED_MAX) {
            warn!(source = %config.name, error = %Chain(error), "left out a package of a catalogue");
        }
        let Documents { catalogue, date, mut stats, left_out } =
            documents::make(&config.name, &config.catalogue, &revisions, &catalogue, &advisories, now)?;
        let left_out = failed.len() + left_out;
        if left_out > 0 {
            warn!(source = %config.name, left_out, packages, "a catalogue could not be understood in full");
        }
        stats.packages = packages;
        Ok(Made { catalogue, date, stats })
    }
}

#[cfg(test)]
mod tests;
