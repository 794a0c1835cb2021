//! The source `wsus`: updates as an update server gives them to servers below it ([MS-WSUSSS]), Microsoft's own or a WSUS.
//!
//! What is believed: a server that TLS authenticates. A plain `http://` address is refused unless the configuration says
//! otherwise. Documents are kept on disk batch by batch as they come; the anchors, by which the server later tells only
//! what changed, are kept with the catalogue at the very end. So a sync that breaks off anywhere repeats some work and
//! loses nothing. A file is fetched by its SHA-256; one that a document names by SHA-1 alone only where that is allowed
//! ([`Sha1`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tierway_common::{
    daemon::chain::Chain,
    id::{CatalogueId, SourceId},
    rules::expr::{Expr, OsTest},
    trust::digest::Digest,
};
use tracing::{info, warn};

use self::{packs::Packs, run::Run, session::Session, sha1::Learned, soap::Document};
use super::{
    Synced,
    advisories::Advisories,
    fetch::{Fetch, Retry, post::Post},
    place::{Place, PlaceError, PlainHttp},
    windows::{
        documents::{self, Documents, EncodeError},
        lower::Revisions,
        model::{Guid, Revision},
        rules::Tally,
        update,
    },
};

mod packs;
mod run;
mod session;
mod sha1;
mod soap;

pub use self::{
    session::CallError,
    sha1::Sha1,
    soap::{AnswerError, BlobError, Fault},
};

/// Most products, and most classifications: Microsoft has some 700 and 10.
const FILTER_MAX: usize = 1_000;

/// Most revisions that one list may name: that of all products of Microsoft has some 700,000, and one of a million is as
/// long as an answer may be.
const LISTED_MAX: usize = 1_000_000;

/// Most updates that a server does not give although it lists them.
const MISSING_MAX: usize = 1_000;

/// Documents asked for at once, whatever a server allows: Microsoft's refuses 101.
const AT_ONCE_MAX: usize = 100;

/// Times that parts of bundles are looked for: Microsoft's bundles are two deep.
const CLOSURES_MAX: usize = 16;

/// Raised whenever the same documents give another catalogue than before.
const LOWERING: u32 = 1;

/// So many documents that cannot be understood are logged one by one.
const LOGGED_MAX: usize = 5;

/// A source of kind `wsus`, as written in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the source.
    pub name: SourceId,
    /// Catalogue of its updates, such as `windows`.
    pub catalogue: CatalogueId,
    /// `https://sws.update.microsoft.com`, or `https://` and the name and port of a WSUS.
    pub url: String,
    /// Products, by GUID.
    pub products: Vec<String>,
    /// Classifications, by GUID.
    pub classifications: Vec<String>,
    /// The name under which the server is asked: any that looks like a computer's.
    #[serde(default = "default_account")]
    pub account: String,
    /// Longest document, and the text of documents that is unpacked at once.
    #[serde(default = "default_document_bytes")]
    pub document_bytes_max: u32,
    /// Whether files that are named by SHA-1 alone are fetched.
    #[serde(default)]
    pub sha1: Sha1,
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

fn default_account() -> String {
    "central.tierway.invalid".to_owned()
}

fn default_document_bytes() -> u32 {
    256 << 20
}

/// How often to ask again: up to ten times, from 5 s on.
pub const RETRY: Retry = Retry { attempts: 10, delay: Duration::from_secs(5) };

impl Config {
    /// For which computers the catalogue is at all.
    #[must_use]
    pub fn fits(&self) -> Expr {
        Expr::Os(OsTest { family: Some("windows".to_owned()), ..OsTest::default() })
    }

    /// Checks address and filter.
    ///
    /// # Errors
    ///
    /// [`SyncError::Place`], [`SyncError::Filter`].
    pub fn check(&self) -> Result<(), SyncError> {
        Place::url(&self.url, self.plain_http)?;
        self.filter().map(drop)
    }

    fn filter(&self) -> Result<Selection, SyncError> {
        let ids = |what, texts: &[String]| {
            if texts.is_empty() || texts.len() > FILTER_MAX {
                return Err(SyncError::Filter { what, found: texts.len().to_string() });
            }
            let id =
                |text: &String| text.parse().map_err(|_| SyncError::Filter { what, found: text.clone() });
            texts.iter().map(id).collect()
        };
        Ok(Selection {
            products: ids("products", &self.products)?,
            classifications: ids("classifications", &self.classifications)?,
        })
    }
}

/// Which updates are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Selection {
    products: BTreeSet<Guid>,
    classifications: BTreeSet<Guid>,
}

impl Selection {
    /// What documents are about that were fetched for this, on one line.
    fn subject(&self, server: &str) -> String {
        let list = |ids| names(ids).into_iter().collect::<Vec<_>>().join(",");
        format!("{server} {} {}", list(&self.products), list(&self.classifications))
    }
}

/// A sync that did not come to its end; what was read before stays.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// Where the server is said to be.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// What is wanted of it.
    #[error("`{what}` must be 1 to {FILTER_MAX} GUIDs, found `{found}`")]
    Filter {
        /// Which part.
        what: &'static str,
        /// What there is.
        found: String,
    },
    /// It could not be asked, or did not do what it was asked.
    #[error("could not ask the update server")]
    Call(#[from] CallError),
    /// It lists more than can be.
    #[error("the server lists more than {LISTED_MAX} revisions")]
    TooMany,
    /// It does not give what it lists.
    #[error("the server does not give more than {MISSING_MAX} of the updates that it lists")]
    Missing,
    /// It says that it is another one, again and again.
    #[error("the server says that it changed, also when everything is read anew")]
    Changed,
    /// The documents could not be kept.
    #[error("could not keep the documents in `{folder}`")]
    Keep {
        /// Where.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A document could not be written.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The thread that read it is gone.
    #[error("reading the updates was interrupted")]
    Broken,
}

/// What a sync must remember for the next one; empty at first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The number under which the server is asked, always the same.
    pub account: Option<String>,
    /// Name of the folder whose documents the anchors are about.
    pub folder: Option<String>,
    /// Server for which the anchors are.
    pub server: String,
    /// Products of the last sync that came to its end.
    pub products: BTreeSet<String>,
    /// Classifications likewise.
    pub classifications: BTreeSet<String>,
    /// Anchor of the server's configuration.
    pub config_anchor: Option<String>,
    /// Anchor of products, classifications and detectoids.
    pub categories_anchor: Option<String>,
    /// Anchor of the updates of that filter.
    pub updates_anchor: Option<String>,
    /// Revisions that are listed and were not to be had, to be asked for again: GUID and number.
    pub missing: BTreeSet<(String, u32)>,
    /// Files that were named by SHA-1 alone: that in hex, and their SHA-256.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub learned: BTreeMap<String, Digest>,
    /// The last of them that was tried, learned or not: the next sync goes on after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learned_to: Option<String>,
    /// What the catalogue was made of.
    pub made: Option<Digest>,
    /// Date of its newest update.
    pub date: Option<Timestamp>,
}

/// An update server, kept up with by [`Wsus::sync`].
#[derive(Debug)]
pub struct Wsus<P> {
    config: Config,
    folder: PathBuf,
    post: P,
    retry: Retry,
    /// New names, for the account and the folder.
    fresh: fn() -> String,
}

impl<P: Post + Fetch> Wsus<P> {
    /// A source that keeps documents in `folder`; `fresh` gives a GUID that nobody else has.
    #[must_use]
    pub fn new(config: Config, folder: PathBuf, post: P, retry: Retry, fresh: fn() -> String) -> Self {
        Self { config, folder, post, retry, fresh }
    }

    /// As configured.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Reads what changed since the last sync. `catalogue` are the documents that it gave.
    ///
    /// # Errors
    ///
    /// [`SyncError`], upon which the caller goes on with what it has, and with the state of before.
    pub async fn sync(
        &self,
        previous: &State,
        catalogue: &BTreeMap<String, Bytes>,
        advisories: &Advisories,
        now: Timestamp,
    ) -> Result<Synced<State>, SyncError> {
        let selection = self.config.filter()?;
        let subject = selection.subject(&self.config.url);
        let mut packs = self.open(&subject).await?;
        let account = previous.account.clone().unwrap_or_else(self.fresh);
        let mut begin = previous.clone();
        // Once: a server that was set up anew has forgotten what its anchors meant.
        for anew in [false, true] {
            let known = begin.folder.as_deref() == Some(packs.name())
                && begin.server == self.config.url
                && names(&selection.products).is_superset(&begin.products)
                && names(&selection.classifications).is_superset(&begin.classifications);
            let (fresh, about) = ((self.fresh)(), subject.clone());
            let prepared = match (anew, known, packs.subject() == subject) {
                (false, true, true) => Ok(packs),
                (false, true, false) => blocking(move || packs.widen(&about).map(|()| packs)).await?,
                // A first sync that broke off: what is here is here, and there are no anchors.
                (false, false, true) => Ok(packs),
                // Also documents of what is not wanted any more.
                _ => blocking(move || packs.clear(&fresh, &about).map(|()| packs)).await?,
            };
            packs = prepared.map_err(|source| self.keep(source))?;
            if anew || !known {
                let State { made, date, learned, learned_to, .. } = begin;
                begin = State { made, date, learned, learned_to, ..State::default() };
            }
            begin.account = Some(account.clone());
            let session =
                Session::new(&self.post, &self.config.url, (&self.config.account, &account), self.retry);
            let mut run = Run::new(self, session, packs);
            match run.all(&selection, &begin).await {
                Ok(state) => return self.give(run.packs, state, catalogue, advisories, now).await,
                Err(SyncError::Call(CallError::Fault(fault))) if fault.is("ServerChanged") && !anew => {
                    info!(source = %self.config.name, "the update server changed, reading everything anew");
                    packs = run.packs;
                }
                Err(SyncError::Call(CallError::Fault(fault))) if fault.is("ServerChanged") => {
                    return Err(SyncError::Changed);
                }
                Err(error) => return Err(error),
            }
        }
        Err(SyncError::Changed)
    }

    async fn open(&self, subject: &str) -> Result<Packs, SyncError> {
        let (folder, fresh, subject) = (self.folder.clone(), (self.fresh)(), subject.to_owned());
        blocking(move || Packs::open(&folder, &fresh, &subject)).await?.map_err(|source| self.keep(source))
    }

    fn keep(&self, source: io::Error) -> SyncError {
        SyncError::Keep { folder: self.folder.clone(), source }
    }

    /// Learns files that are named by SHA-1 alone, where that is allowed; one that cannot be had is tried again with
    /// the next sync.
    async fn learn(&self, packs: Packs, state: &mut State) -> Result<Packs, SyncError> {
        if self.config.sha1 == Sha1::Refuse {
            (state.learned, state.learned_to) = (Learned::new(), None);
            return Ok(packs);
        }
        let (url, known, after) =
            (self.config.url.clone(), state.learned.clone(), state.learned_to.clone().unwrap_or_default());
        let (packs, unknown) = blocking(move || {
            let unknown = sha1::unknown(&packs, &url, &known);
            (packs, unknown.map(|unknown| sha1::next(&unknown, &after, known.len())))
        })
        .await?;
        for file in unknown.map_err(|source| self.keep(source))? {
            state.learned_to = Some(file.sha1.clone());
            match sha1::learn(&self.post, &file).await {
                Ok(digest) => {
                    info!(source = %self.config.name, sha1 = file.sha1, sha256 = %digest, "learned a file");
                    state.learned.insert(file.sha1, digest);
                }
                Err(error) => {
                    warn!(source = %self.config.name, sha1 = file.sha1, error = %Chain(&error), "could not learn a file");
                }
            }
        }
        Ok(packs)
    }

    /// The catalogue of what is here, unless it is the one of before.
    async fn give(
        &self,
        packs: Packs,
        mut state: State,
        catalogue: &BTreeMap<String, Bytes>,
        advisories: &Advisories,
        now: Timestamp,
    ) -> Result<Synced<State>, SyncError> {
        let packs = self.learn(packs, &mut state).await?;
        let files: String = state.learned.iter().map(|(sha1, sha256)| format!(" {sha1}={sha256}")).collect();
        let of = format!(
            "{LOWERING} {} {} {} {}{files}",
            self.config.catalogue,
            self.config.url,
            packs.digest(),
            advisories.digest()
        );
        let made = Some(Digest::of(of.as_bytes()));
        if state.made == made {
            let date = state.date.unwrap_or(now);
            return Ok(Synced::unchanged(state, date));
        }
        let work = Work {
            config: self.config.clone(),
            packs,
            catalogue: catalogue.clone(),
            advisories: advisories.clone(),
            learned: state.learned.clone(),
            now,
        };
        let Documents { catalogue, date, stats, left_out: _ } = blocking(move || work.run()).await??;
        Ok(Synced {
            unchanged: false,
            catalogue,
            pool: BTreeMap::new(),
            state: State { made, date, ..state },
            archive_date: date.unwrap_or(now),
            stats,
        })
    }
}

fn names(ids: &BTreeSet<Guid>) -> BTreeSet<String> {
    ids.iter().map(ToString::to_string).collect()
}

/// What is done with the documents, away from the network.
struct Work {
    config: Config,
    packs: Packs,
    catalogue: BTreeMap<String, Bytes>,
    advisories: Advisories,
    learned: Learned,
    now: Timestamp,
}

impl Work {
    fn run(self) -> Result<Documents, SyncError> {
        let Self { config, packs, catalogue, advisories, learned, now } = self;
        let (mut revisions, mut tally, mut failed) = (Revisions::default(), Tally::default(), 0_usize);
        let read = packs.current(&mut |Document { identity, urls, xml }| {
            match update::read([xml.as_bytes()], &mut tally) {
                Ok(mut revision) => {
                    with_url(&mut revision, &urls, &config.url);
                    for file in revision.install.iter_mut().flat_map(|install| &mut install.files) {
                        let known = file.sha1.as_ref().and_then(|sha1| learned.get(sha1));
                        file.sha256 = file.sha256.or(known.copied());
                    }
                    revisions.add(revision);
                }
                Err(error) => {
                    failed += 1;
                    if failed <= LOGGED_MAX {
                        let id = identity.id;
                        warn!(source = %config.name, %id, error = %Chain(&error), "left out an update");
                    }
                }
            }
            Ok(())
        });
        read.map_err(|source| SyncError::Keep { folder: packs.folder().to_owned(), source })?;
        let mut made =
            documents::make(&config.name, &config.catalogue, &revisions, &catalogue, &advisories, now)?;
        made.stats.packages = packs.len();
        if failed + made.left_out > 0 {
            let left_out = failed + made.left_out;
            warn!(source = %config.name, left_out, "a catalogue could not be understood in full");
        }
        Ok(made)
    }
}

/// Says of an update's files where they are.
fn with_url(revision: &mut Revision, urls: &BTreeMap<String, String>, server: &str) {
    for file in revision.install.iter_mut().flat_map(|install| &mut install.files) {
        let sha1 = file.sha1.as_ref().and_then(|digest| hex::decode(digest).ok());
        let known = sha1.as_deref().and_then(|digest| urls.get(&STANDARD.encode(digest)));
        file.url = known.cloned().or_else(|| content_url(server, file.sha1.as_deref()?, &file.name));
    }
}

/// Where a WSUS has a file that it names no address for; Microsoft's own server has none.
fn content_url(server: &str, sha1: &str, name: &str) -> Option<String> {
    let host = server.split("://").nth(1)?.split('/').next()?;
    if host.ends_with(".microsoft.com") || sha1.len() != 40 {
        return None;
    }
    let digest = sha1.to_ascii_uppercase();
    let end = Path::new(name).extension()?.to_str()?;
    Some(format!("{}/Content/{}/{digest}.{end}", server.trim_end_matches('/'), &digest[38..]))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, SyncError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| SyncError::Broken)
}

#[cfg(test)]
mod tests;
