//! Where updates come from: each source reads its vendor's own metadata and lowers it to documents.

use std::{collections::BTreeMap, path::Path, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tierway_common::{
    id::{CatalogueId, IdError, SourceId},
    rules::expr::Expr,
};
use uuid::Uuid;

use self::{
    advisories::Advisories,
    debian::{
        Debian,
        archive::SyncError,
        signature::{Keyring, KeyringError},
    },
    fetch::{FetchError, HttpFetch, Retry},
    msrc::Msrc,
    offline::Offline,
    sdp::Sdp,
    wsus::Wsus,
};

// Vendors.
pub mod debian;
pub mod msrc;
pub mod offline;
pub mod sdp;
pub mod wsus;

// An administrator's own.
pub mod local;

// What those for Windows share.
pub mod windows;

// What they share.
pub mod advisories;
pub mod fetch;
pub mod pace;
pub mod payloads;
pub mod place;
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
    /// An update server, Microsoft's own or a WSUS.
    Wsus(wsus::Config),
    /// Microsoft's catalogue for computers without a network, from a file.
    Offline(offline::Config),
    /// What Microsoft says of the vulnerabilities that its articles close.
    Msrc(msrc::Config),
}

impl SourceConfig {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &SourceId {
        match self {
            Self::Debian(config) => &config.name,
            Self::Sdp(config) => &config.name,
            Self::Wsus(config) => &config.name,
            Self::Offline(config) => &config.name,
            Self::Msrc(config) => &config.name,
        }
    }

    /// The catalogue of its updates; none of a source that only tells more of others' updates.
    #[must_use]
    pub fn catalogue(&self) -> Option<&CatalogueId> {
        match self {
            Self::Debian(config) => Some(&config.catalogue),
            Self::Sdp(config) => Some(&config.catalogue),
            Self::Wsus(config) => Some(&config.catalogue),
            Self::Offline(config) => Some(&config.catalogue),
            Self::Msrc(_) => None,
        }
    }

    /// Its catalogues: of its updates, and of what those may need besides.
    ///
    /// # Errors
    ///
    /// [`IdError`] when the name of the catalogue is so long that the suffix does not fit.
    pub fn catalogues(&self) -> Result<Option<(CatalogueId, CatalogueId)>, IdError> {
        let Some(updates) = self.catalogue() else { return Ok(None) };
        Ok(Some((updates.clone(), format!("{updates}-pool").parse()?)))
    }

    /// The computers that its catalogues are for.
    #[must_use]
    pub fn fits(&self) -> Expr {
        match self {
            Self::Debian(config) => config.fits(),
            Self::Sdp(config) => config.fits(),
            Self::Wsus(config) => config.fits(),
            Self::Offline(config) => config.fits(),
            Self::Msrc(_) => Expr::Const(false),
        }
    }

    /// Its kind, as written.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Debian(_) => "debian",
            Self::Sdp(_) => "sdp",
            Self::Wsus(_) => "wsus",
            Self::Offline(_) => "offline",
            Self::Msrc(_) => "msrc",
        }
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> String {
        match self {
            Self::Debian(config) => config.url.clone(),
            Self::Sdp(config) => config.url.clone(),
            Self::Wsus(config) => config.url.clone(),
            Self::Offline(config) => config.file.display().to_string(),
            Self::Msrc(config) => config.urls.join(" "),
        }
    }

    /// Suites of the archives that it reads.
    #[must_use]
    pub fn suites(&self) -> Vec<String> {
        match self {
            Self::Debian(config) => config.archives().into_iter().map(|archive| archive.suite).collect(),
            Self::Sdp(_) | Self::Wsus(_) | Self::Offline(_) | Self::Msrc(_) => Vec::new(),
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
            Self::Wsus(config) => (&config.proxy, config.timeout),
            Self::Offline(config) => (&None, config.timeout()),
            Self::Msrc(config) => (&config.proxy, config.timeout),
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
    /// The same of an update server.
    #[error("could not read the source `{name}`")]
    Wsus {
        /// Which source.
        name: SourceId,
        /// Why.
        source: Box<wsus::SyncError>,
    },
    /// The same of a catalogue in a file.
    #[error("could not read the source `{name}`")]
    Offline {
        /// Which source.
        name: SourceId,
        /// Why.
        source: Box<offline::SyncError>,
    },
    /// The same of advisories.
    #[error("could not read the source `{name}`")]
    Msrc {
        /// Which source.
        name: SourceId,
        /// Why.
        source: Box<msrc::SyncError>,
    },
}

/// How long a server may be silent, unless configured.
fn default_timeout() -> Duration {
    Duration::from_secs(30)
}

/// A vendor's updates over the network.
#[derive(Debug)]
pub enum Source {
    /// A security suite of a Debian archive.
    Debian(Box<Debian<HttpFetch>>),
    /// A vendor's catalogue of packages for Windows.
    Sdp(Box<Sdp<HttpFetch>>),
    /// An update server.
    Wsus(Box<Wsus<HttpFetch>>),
    /// Microsoft's catalogue in a file.
    Offline(Box<Offline>),
    /// Microsoft's advisories.
    Msrc(Box<Msrc<HttpFetch>>),
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
    /// Of a source of kind `wsus`.
    Wsus(wsus::State),
    /// Of a source of kind `offline`.
    Offline(offline::State),
    /// Of a source of kind `msrc`.
    Msrc(msrc::State),
}

/// What a source may go by when it is read again.
#[derive(Clone, Copy, Debug)]
pub struct Before<'a> {
    /// What it remembers.
    pub state: &'a State,
    /// The documents that its previous sync gave, for updates that have since been superseded.
    pub catalogue: &'a BTreeMap<String, Bytes>,
    /// What the vendors' advisories say, to be joined with its updates.
    pub advisories: &'a Advisories,
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
            SourceConfig::Wsus(config) => {
                config.check().map_err(|source| SourceError::Wsus {
                    name: config.name.clone(),
                    source: Box::new(source),
                })?;
                let folder = cache.join(config.name.as_str());
                let fresh = || Uuid::new_v4().to_string();
                Ok(Self::Wsus(Box::new(Wsus::new(config, folder, fetch, wsus::RETRY, fresh))))
            }
            SourceConfig::Offline(config) => {
                config.check().map_err(|source| SourceError::Offline {
                    name: config.name.clone(),
                    source: Box::new(source),
                })?;
                Ok(Self::Offline(Box::new(Offline::new(config))))
            }
            SourceConfig::Msrc(config) => {
                config.check().map_err(|source| SourceError::Msrc {
                    name: config.name.clone(),
                    source: Box::new(source),
                })?;
                Ok(Self::Msrc(Box::new(Msrc::new(config, fetch, Retry::default()))))
            }
        }
    }

    /// Reads the vendor's metadata.
    ///
    /// # Errors
    ///
    /// [`SourceError`] of its kind, upon which the caller goes on with what it has.
    pub async fn sync(&self, before: Before<'_>, now: Timestamp) -> Result<Synced, SourceError> {
        let Before { state, catalogue, advisories } = before;
        match self {
            Self::Debian(source) => {
                let none = debian::State::default();
                let previous = if let State::Debian(state) = state { state } else { &none };
                let synced = source.sync(previous, catalogue, now).await;
                synced.map(|synced| synced.map(State::Debian)).map_err(|error| SourceError::Sync {
                    name: source.config().name.clone(),
                    source: Box::new(error),
                })
            }
            Self::Sdp(source) => {
                let none = sdp::State::default();
                let previous = if let State::Sdp(state) = state { state } else { &none };
                let synced = source.sync(previous, catalogue, advisories, now).await;
                synced.map(|synced| synced.map(State::Sdp)).map_err(|error| SourceError::Sdp {
                    name: source.config().name.clone(),
                    source: Box::new(error),
                })
            }
            Self::Wsus(source) => {
                let none = wsus::State::default();
                let previous = if let State::Wsus(state) = state { state } else { &none };
                let synced = source.sync(previous, catalogue, advisories, now).await;
                synced.map(|synced| synced.map(State::Wsus)).map_err(|error| SourceError::Wsus {
                    name: source.config().name.clone(),
                    source: Box::new(error),
                })
            }
            Self::Offline(source) => {
                let none = offline::State::default();
                let previous = if let State::Offline(state) = state { state } else { &none };
                let synced = source.sync(previous, catalogue, advisories, now).await;
                synced.map(|synced| synced.map(State::Offline)).map_err(|error| SourceError::Offline {
                    name: source.config().name.clone(),
                    source: Box::new(error),
                })
            }
            Self::Msrc(source) => {
                let none = msrc::State::default();
                let previous = if let State::Msrc(state) = state { state } else { &none };
                let synced = source.sync(previous, now).await;
                synced.map(|synced| synced.map(State::Msrc)).map_err(|error| SourceError::Msrc {
                    name: source.config().name.clone(),
                    source: Box::new(error),
                })
            }
        }
    }
}
