//! Where updates come from: each source reads its vendor's own metadata and lowers it to documents.

use std::{collections::BTreeMap, path::Path, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tierway_common::{
    id::{CatalogueId, IdError, SourceId},
    rules::expr::Expr,
};

use self::{
    debian::{
        Debian,
        archive::SyncError,
        signature::{Keyring, KeyringError},
    },
    fetch::{FetchError, HttpFetch, Retry},
    sdp::Sdp,
};

// Vendors.
pub mod debian;
pub mod sdp;

// An administrator's own.
pub mod local;

// What those for Windows share.
pub mod windows;

// What they share.
pub mod fetch;
pub mod pace;
pub mod payloads;
pub mod schedule;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

/// A source as written in the configuration, by its `kind`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SourceConfig {
    /// A security suite of a Debian archive.
    Debian(debian::Config),
    /// A vendor's catalogue of packages for Windows.
    Sdp(sdp::Config),
}

impl SourceConfig {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &SourceId {
        match self {
            Self::Debian(config) => &config.name,
            Self::Sdp(config) => &config.name,
        }
    }

    /// The catalogue of its updates.
    #[must_use]
    pub fn catalogue(&self) -> &CatalogueId {
        match self {
            Self::Debian(config) => &config.catalogue,
            Self::Sdp(config) => &config.catalogue,
        }
    }

    /// The catalogue of what its updates may need besides.
    ///
    /// # Errors
    ///
    /// [`IdError`] when the name of the catalogue is so long that the suffix does not fit.
    pub fn pool_catalogue(&self) -> Result<CatalogueId, IdError> {
        format!("{}-pool", self.catalogue()).parse()
    }

    /// The computers that its catalogues are for.
    #[must_use]
    pub fn fits(&self) -> Expr {
        match self {
            Self::Debian(config) => config.fits(),
            Self::Sdp(config) => config.fits(),
        }
    }

    /// Its kind, as written.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Debian(_) => "debian",
            Self::Sdp(_) => "sdp",
        }
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &str {
        match self {
            Self::Debian(config) => &config.url,
            Self::Sdp(config) => &config.url,
        }
    }

    /// Suites of the archives that it reads.
    #[must_use]
    pub fn suites(&self) -> Vec<String> {
        match self {
            Self::Debian(config) => config.archives().into_iter().map(|archive| archive.suite).collect(),
            Self::Sdp(_) => Vec::new(),
        }
    }

    /// How it is fetched.
    ///
    /// # Errors
    ///
    /// [`FetchError::Client`].
    pub fn client(&self) -> Result<HttpFetch, FetchError> {
        let (proxy, timeout): (_, Duration) = match self {
            Self::Debian(config) => (&config.proxy, config.timeout),
            Self::Sdp(config) => (&config.proxy, config.timeout),
        };
        HttpFetch::new(proxy.as_deref(), timeout)
    }
}

/// A source that cannot be set up or could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Its keyring cannot be used.
    #[error("could not set up the source `{name}`")]
    Keyring {
        /// Which source.
        name: SourceId,
        /// Why.
        source: KeyringError,
    },
    /// Its HTTP client cannot be set up.
    #[error("could not set up the source `{name}`")]
    Client {
        /// Which source.
        name: SourceId,
        /// Why.
        source: FetchError,
    },
    /// It could not be read or is not believed; what was read before stays.
    #[error("could not read the source `{name}`")]
    Sync {
        /// Which source.
        name: SourceId,
        /// Why.
        source: Box<SyncError>,
    },
    /// The same of a vendor's catalogue.
    #[error("could not read the source `{name}`")]
    Sdp {
        /// Which source.
        name: SourceId,
        /// Why.
        source: Box<sdp::SyncError>,
    },
}

/// A vendor's updates over the network.
#[derive(Debug)]
pub enum Source {
    /// A security suite of a Debian archive.
    Debian(Box<Debian<HttpFetch>>),
    /// A vendor's catalogue of packages for Windows.
    Sdp(Box<Sdp<HttpFetch>>),
}

/// What any source remembers from one sync to the next; kept by the caller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing was ever read.
    #[default]
    New,
    /// Of a source of kind `debian`.
    Debian(debian::State),
    /// Of a source of kind `sdp`.
    Sdp(sdp::State),
}

/// What a sync gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced<S = State> {
    /// Nothing changed: the documents of before stay, and `catalogue` and `pool` are empty here.
    pub unchanged: bool,
    /// Key → document of the catalogue, as JSON.
    pub catalogue: BTreeMap<String, Bytes>,
    /// Key → document of the pool's catalogue, as JSON.
    pub pool: BTreeMap<String, Bytes>,
    /// To be kept together with the documents, also when nothing changed.
    pub state: S,
    /// The vendor's own date of what was read.
    pub archive_date: Timestamp,
    /// For people; zeros when nothing changed.
    pub stats: Stats,
}

/// A sync in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Updates that are current.
    pub updates: usize,
    /// Updates that are kept although superseded.
    pub superseded: usize,
    /// Packages of the security suite as listed, all versions and architectures.
    pub packages: usize,
    /// Real packages of the pool, all architectures.
    pub pool: usize,
}

impl<S> Synced<S> {
    /// The same with its state as one of any source.
    fn map<T>(self, state: impl FnOnce(S) -> T) -> Synced<T> {
        let Self { unchanged, catalogue, pool, state: own, archive_date, stats } = self;
        Synced { unchanged, catalogue, pool, state: state(own), archive_date, stats }
    }

    /// A sync that found nothing new.
    fn unchanged(state: S, archive_date: Timestamp) -> Self {
        Self {
            unchanged: true,
            catalogue: BTreeMap::new(),
            pool: BTreeMap::new(),
            state,
            archive_date,
            stats: Stats::default(),
        }
    }
}

impl Source {
    /// Sets a source up; reads its keyring. `cache` is a directory for all sources, each with its own
    /// folder in it; it may be emptied at any time.
    ///
    /// # Errors
    ///
    /// [`SourceError::Keyring`], [`SourceError::Client`].
    pub fn new(config: SourceConfig, cache: &Path) -> Result<Self, SourceError> {
        let fetch =
            config.client().map_err(|source| SourceError::Client { name: config.name().clone(), source })?;
        match config {
            SourceConfig::Debian(config) => {
                let keyring = Keyring::read(&config.keyrings)
                    .map_err(|source| SourceError::Keyring { name: config.name.clone(), source })?;
                let cache = cache.join(config.name.as_str());
                Ok(Self::Debian(Box::new(Debian::new(config, keyring, cache, fetch, Retry::default()))))
            }
            SourceConfig::Sdp(config) => {
                config.check().map_err(|source| SourceError::Sdp {
                    name: config.name.clone(),
                    source: Box::new(source),
                })?;
                Ok(Self::Sdp(Box::new(Sdp::new(config, fetch, Retry::default()))))
            }
        }
    }

    /// Reads the vendor's metadata. `catalogue` are the documents that the previous sync gave, for the
    /// updates that have since been superseded.
    ///
    /// # Errors
    ///
    /// [`SourceError::Sync`], upon which the caller goes on with what it has.
    pub async fn sync(
        &self,
        previous: &State,
        catalogue: &BTreeMap<String, Bytes>,
        now: Timestamp,
    ) -> Result<Synced, SourceError> {
        match self {
            Self::Debian(source) => {
                let none = debian::State::default();
                let previous = if let State::Debian(state) = previous { state } else { &none };
                let synced = source.sync(previous, catalogue, now).await;
                synced.map(|synced| synced.map(State::Debian)).map_err(|error| SourceError::Sync {
                    name: source.config().name.clone(),
                    source: Box::new(error),
                })
            }
            Self::Sdp(source) => {
                let none = sdp::State::default();
                let previous = if let State::Sdp(state) = previous { state } else { &none };
                let synced = source.sync(previous, catalogue, now).await;
                synced.map(|synced| synced.map(State::Sdp)).map_err(|error| SourceError::Sdp {
                    name: source.config().name.clone(),
                    source: Box::new(error),
                })
            }
        }
    }
}
