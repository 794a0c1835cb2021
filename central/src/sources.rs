//! Where updates come from: each source reads its vendor's own metadata and lowers it to documents.

use std::{collections::BTreeMap, path::Path};

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
};

// Vendors.
pub mod debian;

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
}

impl SourceConfig {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &SourceId {
        let Self::Debian(config) = self;
        &config.name
    }

    /// The catalogue of its updates.
    #[must_use]
    pub fn catalogue(&self) -> &CatalogueId {
        let Self::Debian(config) = self;
        &config.catalogue
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
        let Self::Debian(config) = self;
        config.fits()
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
}

/// A vendor's updates over the network.
#[derive(Debug)]
pub enum Source {
    /// A security suite of a Debian archive.
    Debian(Box<Debian<HttpFetch>>),
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
        let SourceConfig::Debian(config) = config;
        let keyring = Keyring::read(&config.keyrings)
            .map_err(|source| SourceError::Keyring { name: config.name.clone(), source })?;
        let fetch = HttpFetch::new(config.proxy.as_deref(), config.timeout)
            .map_err(|source| SourceError::Client { name: config.name.clone(), source })?;
        let cache = cache.join(config.name.as_str());
        Ok(Self::Debian(Box::new(Debian::new(config, keyring, cache, fetch, Retry::default()))))
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
        let Self::Debian(source) = self;
        let none = debian::State::default();
        let previous = match previous {
            State::New => &none,
            State::Debian(state) => state,
        };
        let synced = source.sync(previous, catalogue, now).await.map_err(|error| SourceError::Sync {
            name: source.config().name.clone(),
            source: Box::new(error),
        })?;
        let Synced { unchanged, catalogue, pool, state, archive_date, stats } = synced;
        Ok(Synced { unchanged, catalogue, pool, state: State::Debian(state), archive_date, stats })
    }
}
