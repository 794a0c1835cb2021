//! The calls to the file system that the blobs make, with errors that name the file.

#[cfg_attr(unix, path = "disk/unix.rs")]
#[cfg_attr(windows, path = "disk/windows.rs")]
mod system;

use std::{
    fs::{self, File, FileTimes},
    io::{self, ErrorKind, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::BlobError;
use crate::{
    files,
    trust::digest::{Digest, Hasher},
};

/// What the names of files begin with that are worth nothing after a crash.
pub(super) const TEMPORARY_PREFIX: &str = "put-";
/// Bytes read at a time while hashing a file.
const HASH_BUFFER_BYTES: usize = 64 * 1024;
/// Longest name of a pin file; every file system allows 255.
const PIN_NAME_BYTES_MAX: usize = 240;

/// Which file, in which state: while it is the same, its content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileIdentity {
    file: (u64, u64),
    modified: (i64, i64),
    pub(super) bytes: u64,
}

impl FileIdentity {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        system::identity(file)
    }
}

pub(super) fn error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BlobError {
    move |source| match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => BlobError::DiskFull { path: path.to_path_buf() },
        _ => BlobError::Io { doing, path: path.to_path_buf(), source },
    }
}

pub(super) fn blob_path(dir: &Path, digest: &Digest) -> PathBuf {
    let hex = digest.to_string();
    dir.join(&hex[..2]).join(hex)
}

pub(super) fn partial_path(dir: &Path, digest: &Digest) -> PathBuf {
    dir.join("partial").join(digest.to_string())
}

/// The name of an owner's pin file: bytes that are no letter, digit, `-` or `_` become `%` and two hex
/// digits. `None` if it is empty or too long.
pub(super) fn pin_name(owner: &str) -> Option<String> {
    let name: String = owner
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => char::from(byte).to_string(),
            _ => format!("%{byte:02x}"),
        })
        .collect();
    (!name.is_empty() && name.len() <= PIN_NAME_BYTES_MAX).then_some(name)
}

/// Makes the directory and all that belong into it, for the owner alone, durable.
pub(super) fn create_dirs(dir: &Path) -> Result<(), BlobError> {
    let builder = system::private_directories();
    files::create_folders_by(&builder, dir).map_err(error("create", dir))?;
    let fans = (0..=255u8).map(|byte| hex::encode([byte]));
    let mut made = false;
    for name in fans.chain(["partial", "pins", "corrupt"].map(str::to_owned)) {
        let path = dir.join(name);
        if !path.is_dir() {
            builder.create(&path).map_err(error("create", &path))?;
            made = true;
        }
    }
    if made {
        sync_dir(dir)?;
    }
    Ok(())
}

/// Opens a file for writing, made if there is none, not truncated.
pub(super) fn create(path: &Path) -> Result<File, BlobError> {
    let mut options = File::options();
    options.create(true).truncate(false).read(true).write(true);
    files::privately(&mut options).open(path).map_err(error("open", path))
}

pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<File, BlobError> {
    let mut file = create(path)?;
    file.write_all(bytes).map_err(error("write", path))?;
    Ok(file)
}

pub(super) fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), BlobError> {
    write(path, bytes)?.sync_all().map_err(error("sync", path))
}

pub(super) fn rename(from: &Path, to: &Path) -> Result<(), BlobError> {
    fs::rename(from, to).map_err(error("rename", from))
}

/// Removes a file; one that is absent is no error.
pub(super) fn remove(path: &Path) -> Result<(), BlobError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(error("remove", path)(source)),
        _ => Ok(()),
    }
}

pub(super) fn sync_dir(dir: &Path) -> Result<(), BlobError> {
    files::sync_folder(dir).map_err(error("sync", dir))
}

/// Syncs many files that were written below `dir`.
pub(super) fn sync_files<'a>(dir: &Path, files: impl Iterator<Item = &'a PathBuf>) -> Result<(), BlobError> {
    system::sync_files(dir, files).map_err(error("sync", dir))
}

/// Syncs many renames below `dir`.
pub(super) fn sync_renames(dir: &Path) -> Result<(), BlobError> {
    system::sync_renames(dir).map_err(error("sync", dir))
}

/// Fills `buffer` from what is at `offset`, wherever the file is read at otherwise.
pub(super) fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    system::read_exact_at(file, buffer, offset)
}

/// Bytes of the file system of `dir` that are free for this process.
pub(super) fn free_bytes(dir: &Path) -> Result<u64, BlobError> {
    fs4::available_space(dir).map_err(error("read", dir))
}

/// A time of a file; the oldest where the system keeps none.
pub(super) fn when(time: io::Result<SystemTime>) -> SystemTime {
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Whole seconds since 1970; 0 for what is older.
pub(super) fn unix_seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Sets the access time, Unix seconds.
pub(super) fn touch(file: &File, now: i64) -> io::Result<()> {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(now.unsigned_abs());
    file.set_times(FileTimes::new().set_accessed(at))
}

/// The digest of all that is left to read.
pub(super) fn hash(file: &mut File) -> io::Result<Digest> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; HASH_BUFFER_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Moves a blob to `corrupt`, and removes the oldest there beyond `files_max`; whether it was moved.
pub(super) fn keep_corrupt(dir: &Path, digest: &Digest, files_max: usize) -> bool {
    let corrupt = dir.join("corrupt");
    if fs::rename(blob_path(dir, digest), corrupt.join(digest.to_string())).is_err() {
        return false;
    }
    let mut files: Vec<_> = fs::read_dir(&corrupt)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| (entry.metadata().and_then(|data| data.modified()).ok(), entry.path()))
        .collect();
    files.sort();
    for (_, path) in files.iter().rev().skip(files_max) {
        // What cannot be removed now is tried again at the next corrupt file.
        let _left = fs::remove_file(path).or_else(|_| fs::remove_dir_all(path));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_full_disk_is_told_apart_from_other_failures_and_names_the_file() {
        let path = Path::new("/srv/blobs/partial/ab");
        for errno in [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT] {
            let found = error("write", path)(errno.into());
            assert!(matches!(&found, BlobError::DiskFull { path: named } if named == path), "{found:?}");
        }
        let found = error("write", path)(rustix::io::Errno::IO.into());
        assert_eq!(found.to_string(), "could not write `/srv/blobs/partial/ab`");
    }

    #[cfg(unix)]
    #[test]
    fn a_write_to_a_full_device_says_that_the_disk_is_full() {
        let path = Path::new("/dev/full");
        let mut file = File::options().write(true).open(path).unwrap();
        let found = file.write_all(b"x").map_err(error("write", path)).unwrap_err();
        assert!(matches!(found, BlobError::DiskFull { .. }));
    }

    #[test]
    fn an_owner_of_pins_cannot_name_a_file_elsewhere() {
        assert_eq!(pin_name("tree/debian-12").as_deref(), Some("tree%2fdebian-12"));
        assert_eq!(pin_name("../x").as_deref(), Some("%2e%2e%2fx"));
        assert_eq!((pin_name(""), pin_name(&"/".repeat(81))), (None, None));
    }
}
