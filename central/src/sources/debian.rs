//! The source `debian`: a suite of security updates, and the archives whose packages apt may need
//! besides.
//!
//! A sync believes nothing but what a key of the keyring signed; it either gives a whole new state or
//! an error, and keeps nothing but a cache of indices by digest.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tierway_common::{
    id::{CatalogueId, SourceId, UpdateId},
    rules::expr::{Compare, Expr, OsTest},
    schema::Update,
    trust::digest::Digest,
};

use self::{
    archive::{ArchiveConfig, ArchiveState, Cache, Reader, SyncError},
    index::Index,
    lower::{Binary, Target},
    pool::Pool,
    release::Expiry,
    signature::Keyring,
    supersede::SupersededAt,
};
use super::{
    Synced,
    fetch::{Fetch, Retry},
};

// From outside to inside.
pub mod archive;
pub mod release;
pub mod signature;

// What an index says.
pub mod index;
pub mod stanza;

// What is made of it.
pub mod lower;
pub mod pool;
pub mod supersede;

#[cfg(test)]
mod tests;

/// Raised whenever the same archive gives other documents than before, so that they are made anew.
const LOWERING: u32 = 1;

/// A source of kind `debian`, as written in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the source.
    pub name: SourceId,
    /// Catalogue of its updates, such as `debian-12`; the pool is `<catalogue>-pool`.
    pub catalogue: CatalogueId,
    /// `os:version` of the computers it is for, such as `12`.
    pub os_version: String,
    /// The security archive, such as `http://deb.debian.org/debian-security`.
    pub url: String,
    /// Its suite, such as `bookworm-security`.
    pub suite: String,
    /// Such as `main`.
    #[serde(default = "default_components")]
    pub components: Vec<String>,
    /// Such as `amd64`.
    #[serde(default = "default_architectures")]
    pub architectures: Vec<String>,
    /// Further archives that apt may need packages from: their packages make no updates.
    #[serde(default)]
    pub base: Vec<ArchiveConfig>,
    /// Files with the OpenPGP certificates that may sign, binary or armoured.
    #[serde(default = "default_keyrings")]
    pub keyrings: Vec<PathBuf>,
    /// `http://…` or `socks5://…`; without it what the system's environment names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// What to do with a release past its `Valid-Until`.
    #[serde(default)]
    pub expired: Expiry,
    /// How long a server may be silent.
    #[serde(default = "default_timeout", with = "humantime_serde")]
    pub timeout: Duration,
}

fn default_components() -> Vec<String> {
    vec!["main".to_owned()]
}

fn default_architectures() -> Vec<String> {
    vec!["amd64".to_owned()]
}

fn default_keyrings() -> Vec<PathBuf> {
    vec![PathBuf::from("/usr/share/keyrings/debian-archive-keyring.gpg")]
}

fn default_timeout() -> Duration {
    Duration::from_secs(30)
}

impl Config {
    /// The archives: the security suite first, then the base in its order.
    #[must_use]
    pub fn archives(&self) -> Vec<ArchiveConfig> {
        let security = ArchiveConfig {
            url: self.url.clone(),
            suite: self.suite.clone(),
            components: self.components.clone(),
        };
        [security].into_iter().chain(self.base.iter().cloned()).collect()
    }

    /// For which computers the catalogues are at all.
    #[must_use]
    pub fn fits(&self) -> Expr {
        Expr::Os(OsTest {
            family: Some("debian".to_owned()),
            version: Some(Compare::Eq(self.os_version.clone())),
            ..OsTest::default()
        })
    }

    /// Digest of everything that the documents depend on besides the archives.
    fn fingerprint(&self) -> Digest {
        let archives = self.archives();
        let text = format!(
            "{LOWERING} {} {} {:?} {archives:?}",
            self.catalogue, self.os_version, self.architectures
        );
        Digest::of(text.as_bytes())
    }
}

/// What a sync must remember for the next one; empty at first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Under which configuration the documents were made.
    pub fingerprint: Option<Digest>,
    /// URL and suite → what was accepted.
    pub archives: BTreeMap<String, ArchiveState>,
    /// When each update was first seen.
    pub first_seen: BTreeMap<UpdateId, Timestamp>,
    /// Since when updates are superseded.
    pub superseded_at: SupersededAt,
}

/// A catalogue of a Debian suite, kept current by [`Debian::sync`].
#[derive(Debug)]
pub struct Debian<F> {
    config: Config,
    keyring: Keyring,
    cache: Cache,
    fetch: F,
    retry: Retry,
}

impl<F: Fetch> Debian<F> {
    /// A source that keeps indices in `cache`.
    #[must_use]
    pub fn new(config: Config, keyring: Keyring, cache: PathBuf, fetch: F, retry: Retry) -> Self {
        Self { config, keyring, cache: Cache::new(cache), fetch, retry }
    }

    /// As configured.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Reads the archives. `catalogue` are the documents of the previous sync, by key; they are asked for
    /// superseded updates only. The same archives give the same bytes.
    ///
    /// # Errors
    ///
    /// [`SyncError`], upon which the caller goes on with what it has.
    pub async fn sync(
        &self,
        previous: &State,
        catalogue: &BTreeMap<String, Bytes>,
        now: Timestamp,
    ) -> Result<Synced<State>, SyncError> {
        let reader = Reader {
            fetch: &self.fetch,
            cache: &self.cache,
            keyring: &self.keyring,
            expiry: self.config.expired,
            retry: self.retry,
        };
        let fingerprint = Some(self.config.fingerprint());
        let mut archives = BTreeMap::new();
        let mut plan = Vec::new();
        for archive in self.config.archives() {
            let name = archive.name();
            let mut believed = reader.release(&archive, previous.archives.get(&name), now).await?;
            let indices = self.indices(&archive, &believed.release)?;
            believed.state.indices =
                indices.iter().map(|(_, index)| (index.path.clone(), index.packed.digest)).collect();
            archives.insert(name, believed.state);
            plan.push((archive, believed.release, indices));
        }
        let archive_date = plan.first().map_or(Timestamp::UNIX_EPOCH, |(_, release, _)| release.date);
        let contents =
            |archives: &BTreeMap<String, ArchiveState>| -> Vec<(String, BTreeMap<String, Digest>)> {
                archives.iter().map(|(name, state)| (name.clone(), state.indices.clone())).collect()
            };
        let keep: BTreeSet<Digest> = archives
            .values()
            .flat_map(|state| state.indices.values().copied().chain([state.release]))
            .collect();
        if previous.fingerprint == fingerprint && contents(&previous.archives) == contents(&archives) {
            self.cache.keep_only(&keep).await;
            let state = State { archives, ..previous.clone() };
            return Ok(Synced::unchanged(state, archive_date));
        }

        let mut files = Vec::new();
        for (position, (archive, release, indices)) in plan.iter().enumerate() {
            for (architecture, index) in indices {
                let packed = reader.index(archive, release, index).await?;
                files.push((position, archive.clone(), architecture.clone(), index.clone(), packed));
            }
        }
        let work = Work {
            config: self.config.clone(),
            files,
            previous: previous.clone(),
            catalogue: catalogue.clone(),
            now,
        };
        // Unpacking and parsing 50 MB takes longer than a task may hold its thread.
        let made = tokio::task::spawn_blocking(move || work.run()).await.map_err(|_| SyncError::Broken)??;
        self.cache.keep_only(&keep).await;
        let state =
            State { fingerprint, archives, first_seen: made.first_seen, superseded_at: made.superseded_at };
        Ok(Synced {
            unchanged: false,
            catalogue: made.catalogue,
            pool: made.pool,
            state,
            archive_date,
            stats: made.stats,
        })
    }

    /// The indices to read of an archive, with the architecture of each as configured or `all`.
    fn indices(
        &self,
        archive: &ArchiveConfig,
        release: &release::Release,
    ) -> Result<Vec<(String, Index)>, SyncError> {
        let mut indices = Vec::new();
        let all = release.separate_all.then(|| "all".to_owned());
        for component in &archive.components {
            for architecture in self.config.architectures.iter().chain(&all) {
                let index =
                    Index::find(release, component, architecture).ok_or_else(|| SyncError::NoIndex {
                        archive: archive.name(),
                        component: component.clone(),
                        architecture: architecture.clone(),
                    })?;
                indices.push((architecture.clone(), index));
            }
        }
        Ok(indices)
    }
}

/// What is done with the indices, away from the network.
struct Work {
    config: Config,
    files: Vec<(usize, ArchiveConfig, String, Index, Bytes)>,
    previous: State,
    catalogue: BTreeMap<String, Bytes>,
    now: Timestamp,
}

struct Made {
    catalogue: BTreeMap<String, Bytes>,
    pool: BTreeMap<String, Bytes>,
    first_seen: BTreeMap<UpdateId, Timestamp>,
    superseded_at: SupersededAt,
    stats: super::Stats,
}

impl Work {
    fn run(self) -> Result<Made, SyncError> {
        let Self { config, files, previous, catalogue, now } = self;
        let mut pool = Pool::default();
        let mut binaries: Vec<Binary> = Vec::new();
        let mut also_all: BTreeSet<String> = BTreeSet::new();
        let mut begun = None;
        let mut security = String::new();
        for (position, archive, architecture, index, packed) in files {
            if begun != Some(position) {
                pool.archive(&archive.url);
                begun = Some(position);
            }
            if position == 0 {
                security = archive.name();
            }
            let own = [architecture];
            let listed: &[String] = if own[0] == "all" { &config.architectures } else { &own };
            let outcome = index.read(&packed, &mut |record| {
                if record.architecture == "all" {
                    also_all.insert(record.name.to_owned());
                }
                for architecture in listed {
                    pool.add(architecture, &record);
                    if position == 0 {
                        binaries.push(Binary {
                            package: record.to_package(&archive.url),
                            version: record.version.clone(),
                            source: record.source.to_owned(),
                            source_version: record.source_version.clone(),
                            listed: architecture.clone(),
                        });
                    }
                }
            });
            outcome.map_err(|source| SyncError::Index {
                archive: archive.name(),
                path: index.path,
                source,
            })?;
        }
        // Where the security suite has a package as `all`, its tests are for every architecture anyway.
        let target = Target {
            catalogue: &config.catalogue,
            os_version: &config.os_version,
            architectures: &config.architectures,
            also_all: &also_all,
        };
        let packages = binaries.len();
        let released = |id: &UpdateId| previous.first_seen.get(id).copied().unwrap_or(now);
        let mut updates = lower::lower(&target, binaries, &released)
            .map_err(|source| SyncError::Lower { archive: security, source: Box::new(source) })?;
        let current = updates.len();
        // A document of before that can no longer be read is not worth failing for: it was superseded.
        let before: Vec<Update> = catalogue
            .iter()
            .filter(|(key, _)| {
                let id = key.strip_prefix("update/").map(|name| format!("{}/{name}", config.catalogue));
                id.and_then(|id| id.parse().ok()).is_some_and(|id| !updates.contains_key(&id))
            })
            .filter_map(|(_, bytes)| serde_json::from_slice(bytes).ok())
            .collect();
        let superseded_at = supersede::supersede(&mut updates, before, &previous.superseded_at, now);
        let first_seen = updates.values().map(|update| (update.id.clone(), update.released)).collect();
        let stats =
            super::Stats { updates: current, superseded: superseded_at.len(), packages, pool: pool.len() };
        let catalogue = updates
            .into_iter()
            .map(|(id, update)| match serde_json::to_vec(&update) {
                Ok(json) => Ok((format!("update/{}", id.name()), json.into())),
                Err(source) => Err(SyncError::Encode { id: id.to_string(), source }),
            })
            .collect::<Result<_, _>>()?;
        Ok(Made { catalogue, pool: pool.documents()?, first_seen, superseded_at, stats })
    }
}
