//! An administrator's own packages: their files kept, described and published, and taken back.
//!
//! A file comes first and is kept like any payload, verified; only when it is added does it become an update and
//! stay whatever the quota says, as nobody else has it.

use std::{
    collections::BTreeSet,
    io::{self, Read, Seek, SeekFrom},
    sync::{Arc, Mutex, PoisonError},
};

use tierway_common::{
    blobs::{BlobError, Blobs, Reader, Writer},
    id::UpdateId,
    schema::{Install, Update},
    store::StoreError,
    trust::digest::Digest,
};

use crate::{
    catalog::{
        Catalog, CatalogError,
        own::{self, Deed},
    },
    sources::local::{self, FILE_BYTES_MAX, LocalError, Wishes},
    state::State,
};

/// Most packages: all of them are read whenever one is added.
pub const PACKAGES_MAX: usize = 5_000;

/// Longest name of a file: what Windows allows, less what a folder needs.
const FILE_NAME_BYTES_MAX: usize = 200;

/// Owner of the pins of their payloads.
const PIN_OWNER: &str = "local";

/// Why a package was not added, or not removed.
#[derive(Debug, thiserror::Error)]
pub enum PackagesError {
    /// Its file is not here.
    #[error("the file `{digest}` is not here: send it first")]
    Absent {
        /// Which.
        digest: Digest,
    },
    /// Its file is too long.
    #[error("a package may have at most {FILE_BYTES_MAX} bytes, not {found}")]
    TooLong {
        /// How long it is.
        found: u64,
    },
    /// Its file cannot be called so on every system.
    #[error("`{name}` cannot be the name of a file everywhere")]
    FileName {
        /// What it was called.
        name: String,
    },
    /// One more than there may be.
    #[error("there may be at most {PACKAGES_MAX} packages")]
    TooMany,
    /// One of that name is there.
    #[error("the package `{package}` is there with another file: remove it first, or give another `--name`")]
    Other {
        /// Which.
        package: UpdateId,
    },
    /// None of that name is there.
    #[error("there is no package `{package}`")]
    Unknown {
        /// What was asked for.
        package: String,
    },
    /// The file makes no package.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// The file could not be kept or read.
    #[error("could not keep the file")]
    Blob(#[from] BlobError),
    /// The catalogue.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How much of a file is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prepared {
    /// All of it.
    Present,
    /// So many bytes of an earlier attempt.
    From(u64),
}

/// What came of adding a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was not there.
    Added,
    /// It was there with other rules or texts.
    Changed,
    /// It was there just so.
    Unchanged,
}

/// A package that was added, or would be.
#[derive(Clone, Debug)]
pub struct Added {
    /// As published.
    pub update: Update,
    /// What a person should know.
    pub notes: Vec<String>,
    /// What came of it.
    pub outcome: Outcome,
    /// 0 when nothing changed.
    pub audit_sequence: u64,
}

/// A package that is there.
#[derive(Clone, Debug)]
pub struct Package {
    /// As published.
    pub update: Update,
    /// Whether its file is here.
    pub present: bool,
}

/// The packages.
#[derive(Debug)]
pub struct Packages {
    state: Arc<State>,
    catalog: Catalog,
    payloads: Blobs,
    /// Held while a change and its pins are made, which must not overtake each other.
    changing: Mutex<()>,
}

impl Packages {
    /// In the given catalogue and blobs; pins what they need, should a crash have left that out.
    ///
    /// # Errors
    ///
    /// Those of the blobs.
    pub fn open(state: Arc<State>, catalog: Catalog, payloads: Blobs) -> Result<Self, BlobError> {
        payloads.pin(PIN_OWNER, &own::payloads(&state.model()))?;
        Ok(Self { state, catalog, payloads, changing: Mutex::default() })
    }

    /// How much of a file is here.
    ///
    /// # Errors
    ///
    /// [`PackagesError::TooLong`], [`PackagesError::Blob`], also when somebody sends it just now.
    pub fn prepare(&self, digest: Digest, bytes: u64) -> Result<Prepared, PackagesError> {
        if self.payloads.contains(&digest) {
            return Ok(Prepared::Present);
        }
        Ok(Prepared::From(self.writer(digest, bytes)?.offset()))
    }

    /// Takes a file in.
    ///
    /// # Errors
    ///
    /// As [`Packages::prepare`].
    pub fn writer(&self, digest: Digest, bytes: u64) -> Result<Writer, PackagesError> {
        if bytes > FILE_BYTES_MAX {
            return Err(PackagesError::TooLong { found: bytes });
        }
        Ok(self.payloads.writer(&digest, Some(bytes))?)
    }

    /// Makes a file that is here a package, or only says what would come of it. The same again changes nothing; the
    /// same file with other wishes replaces the package.
    ///
    /// # Errors
    ///
    /// [`PackagesError`]; then nothing is changed.
    pub fn add(
        &self,
        actor: &str,
        digest: Digest,
        file_name: &str,
        wishes: Wishes,
        trial: Trial,
    ) -> Result<Added, PackagesError> {
        check_file_name(file_name)?;
        let reader = self.payloads.reader(&digest).map_err(|error| match error {
            BlobError::Absent { digest } => PackagesError::Absent { digest },
            error => error.into(),
        })?;
        let file = local::File { name: file_name.to_owned(), digest, bytes: reader.len() };
        let content = Content { reader, at: 0 };
        let local::Described { mut update, notes } =
            local::describe(&file, content, wishes, self.state.now())?;
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut added, audit_sequence) = self.catalog.change_own(actor, |packages| {
            let outcome = match packages.get(&update.id) {
                None if packages.len() >= PACKAGES_MAX => return Err(PackagesError::TooMany),
                None => Outcome::Added,
                Some(before) => {
                    if digests(&before.install) != digests(&update.install) {
                        return Err(PackagesError::Other { package: before.id.clone() });
                    }
                    update.released = before.released;
                    let same =
                        Update { supersedes: vec![], superseded_by: vec![], ..before.clone() } == update;
                    if same { Outcome::Unchanged } else { Outcome::Changed }
                }
            };
            let id = update.id.clone();
            packages.insert(id.clone(), update);
            own::relate(packages);
            let update = packages[&id].clone();
            let action = match outcome {
                Outcome::Added => "add package",
                Outcome::Changed => "change package",
                Outcome::Unchanged => "",
            };
            let detail = format!("{} {digest} {} bytes", file.name, file.bytes);
            let deed = (trial == Trial::Earnest && outcome != Outcome::Unchanged).then_some(Deed {
                action,
                package: id,
                detail,
            });
            if deed.is_some() {
                // Before anybody can be told of it.
                let all = packages.values().flat_map(|update| digests(&update.install)).collect();
                self.payloads.pin(PIN_OWNER, &all)?;
            }
            Ok((Added { update, notes, outcome, audit_sequence: 0 }, deed))
        })?;
        added.audit_sequence = audit_sequence;
        Ok(added)
    }

    /// The packages, ascending by id.
    ///
    /// # Errors
    ///
    /// [`PackagesError::Catalog`].
    pub fn list(&self) -> Result<Vec<Package>, PackagesError> {
        let package = |update: Update| {
            let present = digests(&update.install).iter().all(|digest| self.payloads.contains(digest));
            Package { update, present }
        };
        Ok(self.catalog.own()?.into_values().map(package).collect())
    }

    /// Takes a package back, by its id or by its name in the catalogue: it leaves what is published, and its file may go
    /// when room is needed. Gives the sequence of the audit record.
    ///
    /// # Errors
    ///
    /// [`PackagesError::Unknown`], and those of catalogue and blobs.
    pub fn remove(&self, actor: &str, package: &str) -> Result<u64, PackagesError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, sequence) = self.catalog.change_own(actor, |packages| {
            let unknown = || PackagesError::Unknown { package: package.to_owned() };
            let found = packages.keys().find(|id| id.as_str() == package || id.name() == package);
            let id = found.ok_or_else(unknown)?.clone();
            packages.remove(&id);
            let left: BTreeSet<Digest> =
                packages.values().flat_map(|update| digests(&update.install)).collect();
            let deed = Deed { action: "remove package", package: id, detail: String::new() };
            Ok::<_, PackagesError>((left, Some(deed)))
        })?;
        self.payloads.pin(PIN_OWNER, &left)?;
        Ok(sequence)
    }
}

/// Whether it is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    /// It is done.
    Earnest,
    /// It is only said what would come of it.
    Trial,
}

fn digests(install: &Install) -> Vec<Digest> {
    install.payloads().into_iter().map(|(_, payload)| payload.digest).collect()
}

fn check_file_name(name: &str) -> Result<(), PackagesError> {
    let forbidden = |c: char| c.is_control() || r#"/\:*?"<>|"#.contains(c);
    let fits = !name.is_empty()
        && name.len() <= FILE_NAME_BYTES_MAX
        && !name.starts_with(['.', ' '])
        && !name.ends_with(['.', ' '])
        && !name.contains(forbidden)
        && !is_device(name);
    if fits {
        Ok(())
    } else {
        Err(PackagesError::FileName { name: crate::text::clean(name, FILE_NAME_BYTES_MAX) })
    }
}

/// Whether Windows takes the name for that of a device, whatever its ending.
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name).trim_end().to_ascii_lowercase();
    // The raised digits as well, which stood on keyboards of its time.
    let numbered = |port: &str| {
        let number = stem.strip_prefix(port).map(|rest| rest.chars().collect::<Vec<_>>());
        matches!(number.as_deref(), Some(['1'..='9' | '¹' | '²' | '³']))
    };
    let named = matches!(stem.as_str(), "con" | "prn" | "aux" | "nul" | "conin$" | "conout$");
    named || numbered("com") || numbered("lpt")
}

/// A blob as a file that is read.
struct Content {
    reader: Reader,
    at: u64,
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.reader.len().saturating_sub(self.at);
        let count = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        self.reader.read_at(self.at, &mut buffer[..count]).map_err(io::Error::other)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Content {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.reader.len().checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests;
