//! The ordered key-value store under everything that central and the relay's queue remember.
//!
//! A backend keeps bytes in key order and commits a batch at once: all of it or nothing, on disk
//! before [`Store::commit`] returns. Types live above it: a [`table::Table`] says which rows a key
//! names, and the backend never learns about them. Every backend passes [`contract::check`].
//! Payloads do not belong here but in [`crate::blobs`].

pub mod contract;
pub mod failing;
pub mod memory;
pub mod sled_store;
pub mod table;

use std::{fmt, path::PathBuf};

/// Largest value in bytes. Beyond about 128 KiB sled keeps a value in a file of its own that it never
/// syncs; half of that leaves room for its headers.
pub const VALUE_BYTES_MAX: usize = 64 * 1024;
/// Longest key in bytes: a table name and a handful of ids, each at most 160 bytes.
pub const KEY_BYTES_MAX: usize = 2 * 1024;
/// Largest batch in bytes of keys and values: a report of 1 MiB with its bookkeeping fits, and a
/// batch never has to wait long for the one before it.
pub const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A key with its value.
#[derive(Clone, PartialEq, Eq)]
pub struct Row {
    /// At most [`KEY_BYTES_MAX`].
    pub key: Vec<u8>,
    /// At most [`VALUE_BYTES_MAX`].
    pub value: Vec<u8>,
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Row({} = {})", self.key.escape_ascii(), self.value.escape_ascii())
    }
}

/// What must hold for a batch to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// There is no row of this key.
    Absent(Vec<u8>),
    /// There is a row of this key, whatever its value.
    Present(Vec<u8>),
    /// There is a row of this key with exactly this value.
    Equals {
        /// The key.
        key: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
    },
}

impl Expect {
    /// The key it is about.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Absent(key) | Self::Present(key) | Self::Equals { key, .. } => key,
        }
    }

    /// Whether it holds, given the value found under its key.
    #[must_use]
    pub fn holds(&self, found: Option<&[u8]>) -> bool {
        match self {
            Self::Absent(_) => found.is_none(),
            Self::Present(_) => found.is_some(),
            Self::Equals { value, .. } => found == Some(value),
        }
    }
}

/// Expectations and writes that belong together. The expectations are about the state before the
/// writes; deletes come before puts, and of two puts of one key the later one stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// All must hold, or nothing is written.
    pub expects: Vec<Expect>,
    /// Key and value.
    pub puts: Vec<(Vec<u8>, Vec<u8>)>,
    /// Keys; one that has no row is no error.
    pub deletes: Vec<Vec<u8>>,
}

impl Batch {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Only if `key` has no row.
    pub fn expect_absent(&mut self, key: impl Into<Vec<u8>>) -> &mut Self {
        self.expects.push(Expect::Absent(key.into()));
        self
    }

    /// Only if `key` has a row.
    pub fn expect_present(&mut self, key: impl Into<Vec<u8>>) -> &mut Self {
        self.expects.push(Expect::Present(key.into()));
        self
    }

    /// Only if `key` has exactly `value`.
    pub fn expect_equals(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> &mut Self {
        self.expects.push(Expect::Equals { key: key.into(), value: value.into() });
        self
    }

    /// Writes `value` under `key`.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> &mut Self {
        self.puts.push((key.into(), value.into()));
        self
    }

    /// Removes the row of `key`.
    pub fn delete(&mut self, key: impl Into<Vec<u8>>) -> &mut Self {
        self.deletes.push(key.into());
        self
    }

    /// Neither writes nor expects anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.expects.is_empty() && self.puts.is_empty() && self.deletes.is_empty()
    }

    /// Bytes of its keys and values, expectations included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let expects = self.expects.iter().map(|expect| match expect {
            Expect::Equals { key, value } => key.len() + value.len(),
            Expect::Absent(key) | Expect::Present(key) => key.len(),
        });
        let puts = self.puts.iter().map(|(key, value)| key.len() + value.len());
        expects.chain(puts).chain(self.deletes.iter().map(Vec::len)).sum()
    }

    /// Checks the limits that hold for every backend.
    ///
    /// # Errors
    ///
    /// [`StoreError::KeyTooLong`], [`StoreError::ValueTooLarge`], [`StoreError::BatchTooLarge`].
    pub fn check(&self) -> Result<(), StoreError> {
        let puts = self.puts.iter().map(|(key, _)| key.as_slice());
        for key in
            puts.chain(self.deletes.iter().map(Vec::as_slice)).chain(self.expects.iter().map(Expect::key))
        {
            if key.len() > KEY_BYTES_MAX {
                return Err(StoreError::KeyTooLong { bytes: key.len() });
            }
        }
        if let Some((key, value)) = self.puts.iter().find(|(_, value)| value.len() > VALUE_BYTES_MAX) {
            return Err(StoreError::ValueTooLarge { key: key.clone(), bytes: value.len() });
        }
        if self.bytes() > BATCH_BYTES_MAX {
            return Err(StoreError::BatchTooLarge { bytes: self.bytes() });
        }
        Ok(())
    }
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// An expectation did not hold; nothing was written. Read again and decide again.
    #[error("row `{}` is not as expected", key.escape_ascii())]
    Conflict {
        /// Of the first expectation that failed.
        key: Vec<u8>,
    },
    /// A value is over [`VALUE_BYTES_MAX`]; nothing was written.
    #[error("value of row `{}` has {bytes} bytes, more than {VALUE_BYTES_MAX}", key.escape_ascii())]
    ValueTooLarge {
        /// Its key.
        key: Vec<u8>,
        /// Its length.
        bytes: usize,
    },
    /// A key is over [`KEY_BYTES_MAX`]; nothing was written.
    #[error("key of {bytes} bytes is longer than {KEY_BYTES_MAX}")]
    KeyTooLong {
        /// Its length.
        bytes: usize,
    },
    /// A batch is over [`BATCH_BYTES_MAX`]; nothing was written.
    #[error("batch of {bytes} bytes is larger than {BATCH_BYTES_MAX}")]
    BatchTooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Another process, or another handle in this one, has the database open.
    #[error("database `{}` is already open, in this or another process", dir.display())]
    Busy {
        /// Its directory.
        dir: PathBuf,
    },
    /// A row holds bytes that its table cannot read.
    #[error("row `{}` is malformed", key.escape_ascii())]
    Malformed {
        /// Its key.
        key: Vec<u8>,
        /// What the decoder says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file of the database could not be read, written or synced.
    #[error("could not {doing} `{}`", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The database failed. Whether a batch that was under way is written is not known; after a
    /// restart it is there or not, whole in either case.
    #[error("database `{}` failed", dir.display())]
    Backend {
        /// Its directory.
        dir: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Ordered rows with atomic, durable batches. Blocking: asynchronous callers use `spawn_blocking`.
///
/// Reads and commits linearise: a read sees every batch whose commit has returned, sees a batch whole
/// or not at all, and never returns what a crash could still take back.
pub trait Store: Send + Sync + fmt::Debug {
    /// The value of `key`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Backend`] when the disk or the database fails; nothing is retried here.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Gives `with` the value of `key` where it lies, if there is one: for large values of which only a part is wanted.
    /// Returns whether there is one.
    ///
    /// # Errors
    ///
    /// As [`Store::get`]; `with` may have got a value then, which must not be used.
    fn read(&self, key: &[u8], with: &mut dyn FnMut(&[u8])) -> Result<bool, StoreError> {
        Ok(self.get(key)?.map(|value| with(&value)).is_some())
    }

    /// Rows whose key starts with `prefix`, and is strictly greater than `after` if that is given, in
    /// ascending key order, at most `limit` of them. All from one moment.
    ///
    /// # Errors
    ///
    /// As [`Store::get`].
    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, StoreError>;

    /// Writes the whole batch if all its expectations hold, and returns when it is on disk.
    ///
    /// # Errors
    ///
    /// [`StoreError::Conflict`] when an expectation does not hold, the errors of [`Batch::check`]:
    /// in these cases nothing was written. [`StoreError::Backend`] or [`StoreError::Io`] when the disk
    /// or the database fails.
    fn commit(&self, batch: &Batch) -> Result<(), StoreError>;

    /// Bytes taken on disk, 0 where there is none.
    fn disk_bytes(&self) -> u64;

    /// Why it neither gives nor takes anything until it is opened anew; `None` while it does.
    fn failure(&self) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_over_its_limit_is_refused_even_when_each_value_is_small_enough() {
        let mut batch = Batch::new();
        for n in 0..65u8 {
            batch.put([n], vec![0; VALUE_BYTES_MAX]);
        }
        assert!(matches!(batch.check(), Err(StoreError::BatchTooLarge { bytes }) if bytes == 65 * 65_537));
        batch.puts.truncate(63);
        assert!(batch.check().is_ok());
    }

    #[test]
    fn an_error_names_the_row() {
        let error = StoreError::Conflict { key: b"token\0abc".to_vec() };
        assert_eq!(error.to_string(), r"row `token\x00abc` is not as expected");
    }
}
