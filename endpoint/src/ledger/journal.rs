//! The files of the ledger: a snapshot, and a journal of what happened since.
//!
//! `snapshot` is replaced as a whole and names its generation; `journal-<generation>` is appended to.
//! Every line is the CRC-32 of the rest, a space and JSON: an event, or an array of those that were recorded
//! together, so that a power cut, which may leave any part of what was not synced, leaves all or nothing of them. A line
//! that a crash left unfinished at the end of the journal was never acknowledged and is dropped; a damaged line
//! elsewhere ends what is believed, and the file is kept aside.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

use flate2::Crc;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tierway_common::files::{self, Lock};

use super::book::{Book, Event};
use crate::scan::Problem;

/// A longer journal is folded into the snapshot: some 5,000 events, read in a few milliseconds.
pub const JOURNAL_BYTES_MAX: u64 = 1 << 20;

/// A snapshot of the most records and the longest history, each with the longest detail, has 120 MB.
const SNAPSHOT_BYTES_MAX: u64 = 128 << 20;

/// One append may hold every record once, so the journal can be longer than where it is folded.
const JOURNAL_READ_BYTES_MAX: u64 = 256 << 20;

/// A ledger that cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system failed.
    #[error("could not {doing} `{path}`")]
    Io {
        /// As a verb.
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has it open.
    #[error("the ledger in `{directory}` is in use by another process")]
    InUse {
        /// Where.
        directory: PathBuf,
    },
    /// An event that is no JSON.
    #[error("could not write an event down")]
    Encode(#[source] serde_json::Error),
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JournalError {
    let path = path.to_owned();
    move |source| JournalError::Io { doing, path, source }
}

/// The files, open for appending.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    generation: u64,
    file: File,
    /// Length up to which the file is acknowledged.
    bytes: u64,
    /// Held while open.
    _lock: Lock,
}

#[derive(Serialize, Deserialize)]
struct Snapshot<B> {
    generation: u64,
    book: B,
}

impl Journal {
    /// Opens the files in `directory` and reads the book out of them.
    ///
    /// # Errors
    ///
    /// When the file system fails or another process has them open. Damage is no error but a problem.
    pub fn open(directory: &Path) -> Result<(Self, Book, Vec<Problem>), JournalError> {
        files::create_folders(directory).map_err(io_error("make", directory))?;
        let lock = lock(directory)?;
        let mut problems = Vec::new();
        let path = directory.join("snapshot");
        let bytes = files::read_if_there(&path, SNAPSHOT_BYTES_MAX).map_err(io_error("read", &path))?;
        let snapshot = bytes
            .as_deref()
            .map(|bytes| bytes.strip_suffix(b"\n").and_then(decode::<Snapshot<Book>>).ok_or(()));
        let (generation, mut book) = match snapshot {
            None => (oldest(directory)?, Book::default()),
            Some(Ok(snapshot)) => (snapshot.generation, snapshot.book),
            Some(Err(())) => {
                aside(&path, &mut problems)?;
                (oldest(directory)?, Book::default())
            }
        };
        let path = journal_path(directory, generation);
        let bytes = files::read_if_there(&path, JOURNAL_READ_BYTES_MAX).map_err(io_error("read", &path))?;
        let read = replay(bytes.as_deref().unwrap_or_default(), &mut book);
        let mut journal = Self {
            directory: directory.to_owned(),
            generation,
            file: append_to(&path)?,
            bytes: read.acknowledged,
            _lock: lock,
        };
        if read.damaged {
            aside(&path, &mut problems)?;
            journal.compact(&book)?;
        } else {
            journal.cut_back()?;
        }
        journal.remove_others()?;
        Ok((journal, book, problems))
    }

    /// Writes events down; they are on disk when it returns.
    ///
    /// # Errors
    ///
    /// When the file system fails; what was half written is cut off again, now or before the next append.
    pub fn append(&mut self, events: &[Event]) -> Result<(), JournalError> {
        let mut text = Vec::new();
        match events {
            [event] => encode(&mut text, event)?,
            events => encode(&mut text, events)?,
        }
        let path = journal_path(&self.directory, self.generation);
        if self.file.metadata().map_err(io_error("look at", &path))?.len() != self.bytes {
            self.cut_back()?;
        }
        let written = self.file.write_all(&text).and_then(|()| self.file.sync_data());
        if let Err(source) = written {
            if let Err(error) = self.cut_back() {
                tracing::warn!(%error, "could not cut off a half-written event");
            }
            return Err(io_error("write", &path)(source));
        }
        self.bytes += text.len() as u64;
        Ok(())
    }

    /// Folds the journal into the snapshot when it is long. A crash in between leaves the old pair or the new.
    ///
    /// # Errors
    ///
    /// When the file system fails; the old pair then stays in use.
    pub fn compact_if_long(&mut self, book: &Book) -> Result<(), JournalError> {
        if self.bytes > JOURNAL_BYTES_MAX { self.compact(book) } else { Ok(()) }
    }

    fn compact(&mut self, book: &Book) -> Result<(), JournalError> {
        let generation = self.generation + 1;
        let path = journal_path(&self.directory, generation);
        let file = append_to(&path)?;
        file.set_len(0).and_then(|()| file.sync_all()).map_err(io_error("make", &path))?;
        let mut text = Vec::new();
        encode(&mut text, &Snapshot { generation, book })?;
        let path = self.directory.join("snapshot");
        files::replace(&path, &text, 0o600).map_err(io_error("replace", &path))?;
        self.file = file;
        self.generation = generation;
        self.bytes = 0;
        self.remove_others()
    }

    /// Drops what was never acknowledged.
    fn cut_back(&self) -> Result<(), JournalError> {
        let path = journal_path(&self.directory, self.generation);
        let cut = self.file.set_len(self.bytes).and_then(|()| self.file.sync_all());
        cut.map_err(io_error("cut back", &path))?;
        files::sync_folder(&self.directory).map_err(io_error("sync", &self.directory))
    }

    /// Removes journals of other generations.
    fn remove_others(&self) -> Result<(), JournalError> {
        for generation in generations(&self.directory)? {
            if generation != self.generation {
                let path = journal_path(&self.directory, generation);
                fs::remove_file(&path).map_err(io_error("remove", &path))?;
            }
        }
        Ok(())
    }
}

fn lock(directory: &Path) -> Result<Lock, JournalError> {
    let path = directory.join("lock");
    let file = files::privately(OpenOptions::new().create(true).truncate(false).write(true)).open(&path);
    let file = file.map_err(io_error("open", &path))?;
    match Lock::take(file) {
        Ok(lock) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(JournalError::InUse { directory: directory.to_owned() }),
        Err(TryLockError::Error(error)) => Err(io_error("lock", &path)(error)),
    }
}

fn append_to(path: &Path) -> Result<File, JournalError> {
    let opened = files::privately(OpenOptions::new().create(true).append(true)).open(path);
    opened.map_err(io_error("open", path))
}

fn journal_path(directory: &Path, generation: u64) -> PathBuf {
    directory.join(format!("journal-{generation}"))
}

/// The journals that are there, unordered.
fn generations(directory: &Path) -> Result<Vec<u64>, JournalError> {
    let error = || io_error("read", directory);
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(error())? {
        let name = entry.map_err(error())?.file_name();
        let generation = name.to_str().and_then(|name| name.strip_prefix("journal-")?.parse::<u64>().ok());
        found.extend(generation);
    }
    Ok(found)
}

/// The journal that counts where no snapshot says so: the oldest, since a newer one beside it is what a
/// compaction began with and did not finish.
fn oldest(directory: &Path) -> Result<u64, JournalError> {
    Ok(generations(directory)?.into_iter().min().unwrap_or(0))
}

/// Keeps a file that cannot be believed under another name; an earlier such one is replaced.
fn aside(path: &Path, problems: &mut Vec<Problem>) -> Result<(), JournalError> {
    let mut kept = path.as_os_str().to_owned();
    kept.push(".damaged");
    fs::rename(path, &kept).map_err(io_error("move aside", path))?;
    let text = format!("the ledger's `{}` is damaged; it is kept as `{}`", path.display(), kept.display());
    problems.push(Problem(text));
    Ok(())
}

fn checksum(bytes: &[u8]) -> String {
    let mut crc = Crc::new();
    crc.update(bytes);
    format!("{:08x}", crc.sum())
}

fn encode<T: Serialize + ?Sized>(text: &mut Vec<u8>, value: &T) -> Result<(), JournalError> {
    let json = serde_json::to_vec(value).map_err(JournalError::Encode)?;
    text.extend_from_slice(checksum(&json).as_bytes());
    text.push(b' ');
    text.extend_from_slice(&json);
    text.push(b'\n');
    Ok(())
}

/// What a line without its end says; `None` when it is not what was written.
fn decode<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    let (sum, json) = line.split_at_checked(8)?;
    let json = json.strip_prefix(b" ")?;
    if sum != checksum(json).as_bytes() {
        return None;
    }
    serde_json::from_slice(json).ok()
}

/// What was recorded at once.
#[derive(Deserialize)]
#[serde(from = "Line")]
struct Recorded(Vec<Event>);

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Together(Vec<Event>),
    One(Box<Event>),
}

impl From<Line> for Recorded {
    fn from(line: Line) -> Self {
        match line {
            Line::Together(events) => Self(events),
            Line::One(event) => Self(vec![*event]),
        }
    }
}

struct Replayed {
    /// Length of what was believed.
    acknowledged: u64,
    /// Something after it is not the rest of one append that was cut off.
    damaged: bool,
}

/// Applies the lines of a journal. A crash cuts an append off anywhere, so that from the first bad line on
/// nothing was acknowledged, unless a good line follows: then the file was damaged.
fn replay(bytes: &[u8], book: &mut Book) -> Replayed {
    let mut acknowledged = 0;
    let mut rest = bytes;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let Some(Recorded(events)) = decode(&rest[..end]) else { break };
        for event in events {
            book.apply(event);
        }
        acknowledged += end as u64 + 1;
        rest = &rest[end + 1..];
    }
    let damaged = rest.split(|byte| *byte == b'\n').skip(1).any(|line| decode::<Recorded>(line).is_some());
    Replayed { acknowledged, damaged }
}
