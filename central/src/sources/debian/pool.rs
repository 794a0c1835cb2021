//! The pool: what apt may need besides the updates, one entry for each architecture and name.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tierway_common::{schema::PoolEntry, version::deb::DebVersion};

use super::{
    index::{IndexError, Record},
    stanza::Stanzas,
};

/// A pool that cannot be written down.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// A kept record cannot be read again.
    #[error("a kept record cannot be read")]
    Record(#[from] IndexError),
    /// An entry cannot be serialised.
    #[error("an entry cannot be serialised")]
    Encode(#[from] serde_json::Error),
}

impl From<super::stanza::StanzaError> for PoolError {
    fn from(error: super::stanza::StanzaError) -> Self {
        Self::Record(error.into())
    }
}

/// Architecture of the computer, and package name.
type Key = (Box<str>, Box<str>);

/// The newest package of every name, and who provides what.
#[derive(Debug, Default)]
pub struct Pool {
    newest: BTreeMap<Key, Candidate>,
    /// URLs of the archives.
    archives: Vec<String>,
}

#[derive(Debug)]
struct Candidate {
    version: DebVersion,
    archive: usize,
    /// See [`Record::compact`].
    stanza: Box<str>,
}

impl Pool {
    /// Begins the records of the archive at `url`; of two records with equal versions that of the earlier
    /// archive stays.
    pub fn archive(&mut self, url: &str) {
        self.archives.push(url.to_owned());
    }

    /// Adds a record of the archive begun last, for computers of `architecture`.
    pub fn add(&mut self, architecture: &str, record: &Record<'_>) {
        let key = (architecture.into(), record.name.into());
        let archive = self.archives.len().saturating_sub(1);
        if self.newest.get(&key).is_none_or(|candidate| candidate.version < record.version) {
            let candidate = Candidate { version: record.version.clone(), archive, stanza: record.compact() };
            self.newest.insert(key, candidate);
        }
    }

    /// Number of real packages, over all architectures.
    #[must_use]
    pub fn len(&self) -> usize {
        self.newest.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.newest.is_empty()
    }

    /// The documents: `package/<architecture>/<name>` → [`PoolEntry`] as JSON.
    ///
    /// # Errors
    ///
    /// [`PoolError`], not to be expected for records that were parsed before.
    pub fn documents(self) -> Result<BTreeMap<String, Bytes>, PoolError> {
        let mut providers: BTreeMap<Key, BTreeSet<_>> = BTreeMap::new();
        for ((architecture, name), candidate) in &self.newest {
            if !candidate.stanza.contains("Provides:") {
                continue;
            }
            let mut stanzas = Stanzas::new(candidate.stanza.as_bytes());
            if let Some(stanza) = stanzas.advance()? {
                for provided in Record::parse(stanza)?.provides().filter(|provided| *provided != &**name) {
                    let key = (architecture.clone(), provided.into());
                    providers.entry(key).or_default().insert(name.clone());
                }
            }
        }
        let mut documents = BTreeMap::new();
        for (key, candidate) in self.newest {
            let mut stanzas = Stanzas::new(candidate.stanza.as_bytes());
            let Some(stanza) = stanzas.advance()? else { continue };
            let url = self.archives.get(candidate.archive).map(String::as_str).unwrap_or_default();
            let package = Box::new(Record::parse(stanza)?.to_package(url));
            let providers = names(providers.remove(&key));
            insert(&mut documents, &key, &PoolEntry::Package { package, providers })?;
        }
        for (key, provided_by) in providers {
            insert(&mut documents, &key, &PoolEntry::Virtual { providers: names(Some(provided_by)) })?;
        }
        Ok(documents)
    }
}

fn names(set: Option<BTreeSet<Box<str>>>) -> Vec<String> {
    set.into_iter().flatten().map(String::from).collect()
}

fn insert(documents: &mut BTreeMap<String, Bytes>, key: &Key, entry: &PoolEntry) -> Result<(), PoolError> {
    documents.insert(format!("package/{}/{}", key.0, key.1), serde_json::to_vec(entry)?.into());
    Ok(())
}
