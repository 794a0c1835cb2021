//! Digests of files, within what one scan may read.

use std::{
    fs::File,
    io::{self, Read},
};

use tierway_common::trust::digest::{Digest, Hasher};

/// A larger file is not digested, its `sha256` stays unknown: 64 MiB take about 0.05 s with SHA
/// instructions and 0.3 s without, and programs that rules compare by digest are smaller.
pub const FILE_HASH_BYTES_MAX: u64 = 64 << 20;

/// Digested in one scan over all files; what comes later stays unknown.
pub const SCAN_HASH_BYTES_MAX: u64 = 1 << 30;

const CHUNK_BYTES: usize = 64 << 10;

/// What is left of [`SCAN_HASH_BYTES_MAX`].
#[derive(Debug)]
pub(super) struct Budget(u64);

impl Budget {
    pub(super) fn new() -> Self {
        Self(SCAN_HASH_BYTES_MAX)
    }

    /// The digest of the file at `path`, which had `bytes` when it was looked at.
    ///
    /// # Errors
    ///
    /// A sentence, when it is too large or cannot be read.
    pub(super) fn digest(
        &mut self,
        path: &str,
        bytes: u64,
        open: impl FnOnce() -> io::Result<File>,
    ) -> Result<Digest, String> {
        if bytes > FILE_HASH_BYTES_MAX {
            return Err(format!("`{path}` has {bytes} bytes, too many to digest"));
        }
        if bytes > self.0 {
            return Err(format!("`{path}` was not digested: the scan's limit is reached"));
        }
        let read = open().and_then(digest);
        let (digest, bytes) = read.map_err(|error| format!("could not read `{path}`: {error}"))?;
        self.0 = self.0.saturating_sub(bytes);
        Ok(digest)
    }
}

/// Digest and length; fails when the file grew beyond the limit since it was looked at.
fn digest(file: File) -> io::Result<(Digest, u64)> {
    let mut file = file.take(FILE_HASH_BYTES_MAX + 1);
    let mut hasher = Hasher::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut bytes = 0;
    loop {
        let read = match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&chunk[..read]);
        bytes += read as u64;
    }
    if bytes > FILE_HASH_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it grew while it was read"));
    }
    Ok((hasher.finish(), bytes))
}
