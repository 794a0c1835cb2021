//! The source `msrc`: which vulnerabilities Microsoft's articles close, how bad those are, and what they replace.
//!
//! It has no updates of its own: what it says is joined with those of the other sources for Windows. Documents are
//! months as CVRF, single advisories as CSAF or VEX, and the list of all months, each by address or as a file; a
//! folder is all documents in it. One that cannot be had or understood leaves what was known of it.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use bytes::Bytes;
use jiff::{Timestamp, civil::Date, tz::TimeZone};
use serde::{Deserialize, Serialize};
use tierway_common::{daemon::chain::Chain, id::SourceId, trust::digest::Digest};
use tracing::warn;

use super::{
    Stats, Synced,
    advisories::Advisories,
    fetch::{self, Fetch, FetchError, Retry, Validators, Whole},
    place::{self, Place, PlaceError, PlainHttp},
    windows::update::ReadError,
};

mod cvrf;
mod json;

use self::json::{Entry, Json};

/// Longest document: a month has up to 20 MB.
const DOCUMENT_BYTES_MAX: u64 = 128 << 20;

/// Most documents: ten years of months, or some years of single advisories.
const DOCUMENTS_MAX: usize = 20_000;

/// Most articles of all documents: each costs some 4 KB in what the source remembers, for which the catalogue has 64 MiB.
/// Ten years of months name fewer than 10,000.
const ARTICLES_MAX: usize = 15_000;

/// So many documents that failed are logged one by one.
const LOGGED_MAX: usize = 5;

/// A source of kind `msrc`, as written in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the source.
    pub name: SourceId,
    /// Addresses of documents or of the list of months, or absolute paths of documents or folders.
    pub urls: Vec<String>,
    /// Of a list of months only those that were first published on that day or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Date>,
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
    /// Checks where the documents are said to be.
    ///
    /// # Errors
    ///
    /// [`SyncError::Place`].
    pub fn check(&self) -> Result<(), SyncError> {
        self.urls.iter().try_for_each(|url| Ok(Place::of(url, self.plain_http).map(drop)?))
    }
}

/// Advisories that could not be read; what was known before stays.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// Where they are said to be, or a file there.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// A document could not be fetched.
    #[error("could not fetch an advisory")]
    Fetch(#[from] FetchError),
    /// There is none.
    #[error("there is nothing at `{url}`")]
    Absent {
        /// The address.
        url: String,
    },
    /// A document in XML.
    #[error("`{url}` is no CVRF document")]
    Cvrf {
        /// Where it is.
        url: String,
        /// Why.
        source: ReadError,
    },
    /// A document in JSON.
    #[error("`{url}` is neither a CSAF document nor a list of months")]
    Json {
        /// Where it is.
        url: String,
        /// Why.
        source: serde_json::Error,
    },
    /// More than there may be.
    #[error("there are more than {most} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        most: usize,
    },
    /// Not one document could be read.
    #[error("none of {count} documents could be read, the first because")]
    None {
        /// How many there are.
        count: usize,
        /// The first reason.
        source: Box<Self>,
    },
    /// The thread that read it is gone.
    #[error("reading the advisories was interrupted")]
    Broken,
}

/// What a sync must remember for the next one; empty at first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Where a document is → what is known of it.
    pub documents: BTreeMap<String, Known>,
}

/// What is known of a document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// What the server said of it.
    pub validators: Validators,
    /// The document.
    pub content: Option<Digest>,
    /// When the list of months says that it last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<String>,
    /// What it says.
    pub advisories: Advisories,
    /// Where it leads to, when it is a list of months.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub months: BTreeMap<String, String>,
}

impl State {
    /// What all documents say together.
    #[must_use]
    pub fn advisories(&self) -> Advisories {
        let mut all = Advisories::default();
        for (article, fix) in self.documents.values().flat_map(|known| &known.advisories.0) {
            all.add(article, fix);
        }
        all
    }
}

/// Advisories, kept current by [`Msrc::sync`].
#[derive(Debug)]
pub struct Msrc<F> {
    config: Config,
    fetch: F,
    retry: Retry,
}

impl<F: Fetch> Msrc<F> {
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

    /// Reads the documents that changed. The catalogue is always empty; what was learned is in the state.
    ///
    /// # Errors
    ///
    /// [`SyncError`] when nothing at all could be read, or there is too much.
    pub async fn sync(&self, previous: &State, now: Timestamp) -> Result<Synced<State>, SyncError> {
        let mut run = Run { source: self, previous, state: State::default(), failed: Vec::new() };
        for url in &self.config.urls {
            match Place::of(url, self.config.plain_http)? {
                Place::File(path) => run.files(&path).await?,
                Place::Url(url) => run.address(url, None).await?,
            }
        }
        // What lists of months lead to, one level deep.
        let months: BTreeMap<String, String> =
            run.state.documents.values().flat_map(|known| known.months.clone()).collect();
        for (url, changed) in months {
            match Place::url(&url, self.config.plain_http) {
                Ok(url) => run.address(url, Some(changed)).await?,
                Err(error) => run.fail(&url, error.into()),
            }
        }
        let Run { state, mut failed, .. } = run;
        for error in failed.iter().take(LOGGED_MAX) {
            warn!(source = %self.config.name, error = %Chain(error), "could not read an advisory");
        }
        if state.documents.is_empty() && !failed.is_empty() {
            return Err(SyncError::None { count: failed.len(), source: Box::new(failed.remove(0)) });
        }
        let advisories = state.advisories();
        if advisories.0.len() > ARTICLES_MAX {
            return Err(SyncError::TooMany { what: "articles", most: ARTICLES_MAX });
        }
        let unchanged = advisories == previous.advisories();
        let stats = Stats { updates: advisories.0.len(), ..Stats::default() };
        Ok(Synced { unchanged, stats, ..Synced::unchanged(state, now) })
    }
}

/// One sync in progress.
struct Run<'a, F> {
    source: &'a Msrc<F>,
    previous: &'a State,
    state: State,
    failed: Vec<SyncError>,
}

impl<F: Fetch> Run<'_, F> {
    /// Keeps what was known of a document that cannot be read now.
    fn fail(&mut self, url: &str, error: SyncError) {
        self.failed.push(error);
        if let Some(known) = self.previous.documents.get(url) {
            self.state.documents.insert(url.to_owned(), known.clone());
        }
    }

    fn keep(&mut self, url: String, known: Known) -> Result<(), SyncError> {
        self.state.documents.insert(url, known);
        match self.state.documents.len() > DOCUMENTS_MAX {
            true => Err(SyncError::TooMany { what: "documents", most: DOCUMENTS_MAX }),
            false => Ok(()),
        }
    }

    /// Reads the document at a path, or those in a folder.
    async fn files(&mut self, path: &Path) -> Result<(), SyncError> {
        let paths = {
            let path = path.to_owned();
            blocking(move || documents(&path)).await??
        };
        for path in paths {
            let url = path.display().to_string();
            let read = blocking(move || place::read(&path, DOCUMENT_BYTES_MAX)).await?;
            match read {
                Ok(bytes) => self.take(url, bytes, Validators::default(), None).await?,
                Err(error) => self.fail(&url, error.into()),
            }
        }
        Ok(())
    }

    /// Reads what is at an address, unless a list says that it is what is known already.
    async fn address(&mut self, url: String, changed: Option<String>) -> Result<(), SyncError> {
        let known = self.previous.documents.get(&url);
        if let Some(known) = known.filter(|known| changed.is_some() && known.changed == changed) {
            return self.keep(url, known.clone());
        }
        let Msrc { fetch, retry, .. } = self.source;
        let validators = known.map(|known| &known.validators);
        match (fetch::whole(fetch, &url, validators, DOCUMENT_BYTES_MAX, *retry).await, known) {
            (Ok(Whole::NotModified), Some(known)) => {
                let known = Known { changed: changed.or(known.changed.clone()), ..known.clone() };
                self.keep(url, known)
            }
            (Ok(Whole::NotModified | Whole::Absent), _) => {
                self.fail(&url, SyncError::Absent { url: url.clone() });
                Ok(())
            }
            (Ok(Whole::Found { bytes, validators }), _) => self.take(url, bytes, validators, changed).await,
            (Err(error), _) => {
                self.fail(&url, error.into());
                Ok(())
            }
        }
    }

    async fn take(
        &mut self,
        url: String,
        bytes: Bytes,
        validators: Validators,
        changed: Option<String>,
    ) -> Result<(), SyncError> {
        let content = Some(Digest::of(&bytes));
        if let Some(known) = self.previous.documents.get(&url).filter(|known| known.content == content) {
            // A list is read anew, as the configuration may ask for other months now.
            if known.months.is_empty() {
                return self.keep(url, Known { validators, changed, ..known.clone() });
            }
        }
        let (name, since) = (url.clone(), self.source.config.since);
        match blocking(move || read(&name, &bytes, since)).await? {
            Ok((advisories, months)) => {
                self.keep(url, Known { validators, content, changed, advisories, months })
            }
            Err(error) => {
                self.fail(&url, error);
                Ok(())
            }
        }
    }
}

/// The file at a path, or the documents in a folder by name.
fn documents(path: &Path) -> Result<Vec<std::path::PathBuf>, PlaceError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let read = || {
        let mut found = Vec::new();
        for entry in fs::read_dir(path)? {
            let path = entry?.path();
            let is_document = path.extension().is_some_and(|end| end == "xml" || end == "json");
            if is_document && path.is_file() && found.len() <= DOCUMENTS_MAX {
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    };
    read().map_err(|source| PlaceError::Read { path: path.to_owned(), source })
}

/// What a document says, and which months it lists with when they changed.
type Read = (Advisories, BTreeMap<String, String>);

fn read(url: &str, bytes: &[u8], since: Option<Date>) -> Result<Read, SyncError> {
    let mut advisories = Advisories::default();
    let begin = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    if !begin.starts_with(b"{") {
        cvrf::read(bytes, DOCUMENT_BYTES_MAX, &mut advisories)
            .map_err(|source| SyncError::Cvrf { url: url.to_owned(), source })?;
        return Ok((advisories, BTreeMap::new()));
    }
    let read = json::read(begin, &mut advisories);
    match read.map_err(|source| SyncError::Json { url: url.to_owned(), source })? {
        Json::Advisory => Ok((advisories, BTreeMap::new())),
        Json::Index(entries) => {
            let wanted = |entry: &Entry| match (since, entry.first) {
                (Some(since), Some(first)) => first.to_zoned(TimeZone::UTC).date() >= since,
                _ => true,
            };
            let months = entries.into_iter().filter(wanted).map(|Entry { url, changed, .. }| (url, changed));
            Ok((advisories, months.collect()))
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, SyncError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| SyncError::Broken)
}

#[cfg(test)]
mod tests;
