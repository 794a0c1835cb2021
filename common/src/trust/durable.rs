//! Small files that are either the old or the new one, whatever happens in between.
//!
//! For keys, trusted metadata and ledgers. Large contents have their own store, see [`crate::blobs`].

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readable {
    /// Its owner alone: 0600 where there are such modes.
    ByOwner,
    /// As the process's umask has it.
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
    let io = |source| DurableError::Io { what: "write", path: path.to_owned(), source };
    let invalid = || io(io::Error::new(io::ErrorKind::InvalidInput, "not the path of a file"));
    let name = path.file_name().ok_or_else(invalid)?;
    let directory = directory_of(path);
    let mut partial_name = std::ffi::OsString::from(".");
    partial_name.push(name);
    partial_name.push(".partial");
    let partial = directory.join(partial_name);

    // A leftover may have another mode, so it is not reused.
    match fs::remove_file(&partial) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(io(err)),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if readable == Readable::ByOwner {
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    }
    #[cfg(not(unix))]
    let _ = readable;
    let mut file = options.open(&partial).map_err(io)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io)?;
    drop(file);
    fs::rename(&partial, path).map_err(io)?;
    sync_directory(directory).map_err(io)
}

/// The file's bytes, `None` when there is none.
///
/// # Errors
///
/// [`DurableError::TooLarge`] above `bytes_max`, [`DurableError::Io`] otherwise.
pub fn read(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, DurableError> {
    use io::Read as _;

    let io = |source| DurableError::Io { what: "read", path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(io(err)),
    };
    let mut bytes = Vec::new();
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > bytes_max {
        return Err(DurableError::TooLarge { path: path.to_owned(), bytes_max });
    }
    Ok(Some(bytes))
}

/// Removes the file if it is there; durable on return.
///
/// # Errors
///
/// [`DurableError::Io`].
pub fn remove(path: &Path) -> Result<(), DurableError> {
    let io = |source| DurableError::Io { what: "remove", path: path.to_owned(), source };
    match fs::remove_file(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(err) => return Err(io(err)),
        Ok(()) => {}
    }
    sync_directory(directory_of(path)).map_err(io)
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(unix)]
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Windows commits a rename with the file; a directory cannot be opened for syncing there.
#[cfg(not(unix))]
fn sync_directory(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leftover_of_a_crash_neither_shows_nor_stands_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        fs::write(dir.path().join(".state.partial"), b"half").unwrap();
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
        fs::write(dir.path().join(".key.partial"), b"left over with another mode").unwrap();
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
