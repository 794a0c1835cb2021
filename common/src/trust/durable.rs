//! Small files that are either the old or the new one, whatever happens in between.
//!
//! For keys, trusted metadata and ledgers. Large contents have their own store, see [`crate::blobs`].

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::files;

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readable {
    /// Its owner alone: 0600 where there are such modes.
    ByOwner,
    /// Everybody: 0644 where there are such modes.
    AsUsual,
}

/// A small file that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DurableError {
    /// The disk or the permissions are in the way.
    #[error("could not {what} `{path}`")]
    Io {
        /// `read`, `write` or `remove`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Larger than anything that was ever written there.
    #[error("`{path}` has more than {bytes_max} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// What was allowed.
        bytes_max: u64,
    },
}

/// Replaces the file at `path` by `bytes`: temporary file beside it, fsync, rename, fsync of the directory.
///
/// On return the new content survives a power cut; before it, the old one does. A temporary file that a
/// crash left behind is overwritten by the next write. One writer per path at a time.
///
/// # Errors
///
/// [`DurableError::Io`]; the old file is then still there.
pub fn write(path: &Path, bytes: &[u8], readable: Readable) -> Result<(), DurableError> {
    let mode = match readable {
        Readable::ByOwner => 0o600,
        Readable::AsUsual => 0o644,
    };
    files::replace(path, bytes, mode).map_err(|source| DurableError::Io {
        what: "write",
        path: path.to_owned(),
        source,
    })
}

/// The file's bytes, `None` when there is none.
///
/// # Errors
///
/// [`DurableError::TooLarge`] above `bytes_max`, [`DurableError::Io`] otherwise.
pub fn read(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, DurableError> {
    files::read_if_there(path, bytes_max).map_err(|source| match source.kind() {
        io::ErrorKind::FileTooLarge => DurableError::TooLarge { path: path.to_owned(), bytes_max },
        _ => DurableError::Io { what: "read", path: path.to_owned(), source },
    })
}

/// Removes the file if it is there; durable on return.
///
/// # Errors
///
/// [`DurableError::Io`].
pub fn remove(path: &Path) -> Result<(), DurableError> {
    files::remove(path).map_err(|source| DurableError::Io { what: "remove", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_leftover_of_a_crash_neither_shows_nor_stands_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        fs::write(dir.path().join("state.new"), b"half").unwrap();
        assert_eq!(read(&path, 10).unwrap(), None);
        write(&path, b"whole", Readable::AsUsual).unwrap();
        write(&path, b"again", Readable::AsUsual).unwrap();
        assert_eq!(read(&path, 10).unwrap().unwrap(), b"again");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_secret_is_readable_by_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(dir.path().join("key.new"), b"left over with another mode").unwrap();
        write(&path, b"secret", Readable::ByOwner).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_beyond_the_limit_is_not_read_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        write(&path, &[0; 11], Readable::AsUsual).unwrap();
        assert!(matches!(read(&path, 10), Err(DurableError::TooLarge { bytes_max: 10, .. })));
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(read(&path, 10).unwrap(), None);
    }
}
