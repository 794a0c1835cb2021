//! The database of a store as it lies in its folder: made, opened, copied, and what a crash left of that.

use std::{
    fs::{self, File},
    io, mem,
    path::Path,
    thread,
    time::Duration,
};

use tracing::info;

use super::{abort_on_panic, io_error};
use crate::{files, store::StoreError};

/// Memory that sled may keep pages in: the rows in use of a few thousand endpoints. sled counts
/// loosely, so the process may hold about twice as much.
pub const CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes of a segment of sled's log. What is longer than a quarter of one, sled puts into a file that it does not sync: after
/// a power cut it is not there, and the database does not open. A page has up to 16 rows, and while it is split or joined a
/// few more: 20 of the longest have 1.3 MB.
const SEGMENT_BYTES: usize = 8 << 20;
/// Bytes of sled's own configuration: some sixty.
const CONF_BYTES_MAX: u64 = 4096;
/// Bytes of rows that are copied at once.
const COPIED_BYTES: usize = 1 << 20;
/// How often, and how far apart, opening is tried while a thread of sled's closes what was open before: five seconds.
const CLOSING_TRIES: u32 = 500;
const CLOSING_WAIT: Duration = Duration::from_millis(10);

/// Opens the database at `path`, in the folder `dir` of its store, after ending what a crash interrupted; makes it when
/// there is none.
pub(super) fn open(dir: &Path, path: &Path) -> Result<::sled::Db, StoreError> {
    take_back(dir, path)?;
    if !path.try_exists().map_err(io_error("read", path))? {
        create(dir, path, |_| Ok(()))?;
    }
    remove_half_snapshots(path)?;
    match segment_bytes(path)? {
        Some(SEGMENT_BYTES) | None => {}
        Some(other) => copy(dir, path, other)?,
    }
    let db = open_database(dir, path, SEGMENT_BYTES)?;
    sync_files(path)?;
    Ok(db)
}

/// Makes a database under another name, has `fill` fill it, syncs it, and renames it to `path`.
fn create(
    dir: &Path,
    path: &Path,
    fill: impl FnOnce(&::sled::Db) -> ::sled::Result<()>,
) -> Result<(), StoreError> {
    let new = dir.join("sled.new");
    remove_folder(&new)?;
    let db = open_database(dir, &new, SEGMENT_BYTES)?;
    let filled = abort_on_panic(|| fill(&db).and_then(|()| db.flush()));
    filled.map_err(|error| backend(dir, error))?;
    drop(db);
    sync_files(&new)?;
    rename_folder(&new, path)?;
    files::sync_folder(dir).map_err(io_error("sync", dir))
}

/// Bytes of the segments of the database at `path`, as it says itself; `None` when it does not.
fn segment_bytes(path: &Path) -> Result<Option<usize>, StoreError> {
    let path = path.join("conf");
    let conf = files::read_if_there(&path, CONF_BYTES_MAX).map_err(io_error("read", &path))?;
    let conf = conf.unwrap_or_default();
    let lines = conf.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    let mut said = lines.filter_map(|line| line.strip_prefix("segment_size: ")?.trim().parse().ok());
    Ok(said.next())
}

/// Puts a copy with [`SEGMENT_BYTES`] in the place of the database at `path`. A crash leaves the one or the other.
fn copy(dir: &Path, path: &Path, segment_bytes: usize) -> Result<(), StoreError> {
    info!(dir = %dir.display(), "copying the store, which an earlier version made");
    let old = dir.join("sled.old");
    let from = open_database(dir, path, segment_bytes)?;
    let beside = dir.join("sled.copy");
    remove_folder(&beside)?;
    create(dir, &beside, |to| {
        let (mut batch, mut bytes) = (::sled::Batch::default(), 0);
        for entry in from.iter() {
            let (key, value) = entry?;
            bytes += key.len() + value.len();
            batch.insert(key, value);
            if bytes >= COPIED_BYTES {
                to.apply_batch(mem::take(&mut batch))?;
                bytes = 0;
            }
        }
        to.apply_batch(batch)
    })?;
    drop(from);
    rename_folder(path, &old)?;
    rename_folder(&beside, path)?;
    files::sync_folder(dir).map_err(io_error("sync", dir))?;
    remove_folder(&old)
}

/// Ends what a crash interrupted while a database was copied.
fn take_back(dir: &Path, path: &Path) -> Result<(), StoreError> {
    let old = dir.join("sled.old");
    let exists = |path: &Path| path.try_exists().map_err(io_error("read", path));
    if exists(&old)? && !exists(path)? {
        rename_folder(&old, path)?;
    }
    remove_folder(&old)?;
    remove_folder(&dir.join("sled.copy"))
}

fn remove_folder(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(io_error("remove", path)),
    }
}

fn rename_folder(from: &Path, to: &Path) -> Result<(), StoreError> {
    let mut tries = 0;
    loop {
        match fs::rename(from, to) {
            // A thread of sled's still closes its files, as below; of an open one Windows renames no folder.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && tries < CLOSING_TRIES => {
                tries += 1;
                thread::sleep(CLOSING_WAIT);
            }
            renamed => return renamed.map_err(io_error("rename", from)),
        }
    }
}

fn open_database(dir: &Path, path: &Path, segment_bytes: usize) -> Result<::sled::Db, StoreError> {
    let config = ::sled::Config::new().path(path).cache_capacity(CACHE_BYTES).segment_size(segment_bytes);
    let mut tries = 0;
    loop {
        match abort_on_panic(|| config.open()) {
            // Nobody else has it, as our own lock is held: a thread of sled's still closes the one opened before.
            Err(::sled::Error::Io(error)) if is_lock(&error) && tries < CLOSING_TRIES => {
                tries += 1;
                thread::sleep(CLOSING_WAIT);
            }
            opened => return opened.map_err(|error| backend(dir, error)),
        }
    }
}

/// Whether another handle holds sled's own lock, which sled only says in words.
fn is_lock(error: &io::Error) -> bool {
    error.to_string().starts_with("could not acquire lock")
}

fn backend(dir: &Path, error: ::sled::Error) -> StoreError {
    StoreError::Backend { dir: dir.to_path_buf(), source: error.into() }
}

/// Removes snapshots that a crash left half written; sled would read them and refuse to open.
fn remove_half_snapshots(path: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(path).map_err(io_error("read", path))? {
        let file = entry.map_err(io_error("read", path))?.path();
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(&file).map_err(io_error("remove", &file))?;
        }
    }
    Ok(())
}

/// Syncs `conf`, `db`, the snapshots and the directory itself.
fn sync_files(path: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(path).map_err(io_error("read", path))? {
        let entry = entry.map_err(io_error("read", path))?;
        if entry.file_type().map_err(io_error("read", path))?.is_file() {
            match sync(&entry.path()) {
                // sled's own thread replaces snapshots as it likes.
                Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
        }
    }
    files::sync_folder(path).map_err(io_error("sync", path))
}

/// Windows syncs a file only for whoever may write it.
fn sync(path: &Path) -> Result<(), StoreError> {
    let file = File::options().write(true).open(path);
    file.and_then(|file| file.sync_all()).map_err(io_error("sync", path))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{super::SledStore, *};
    use crate::store::Store as _;

    #[test]
    fn a_store_of_an_earlier_version_is_copied_whenever_a_crash_comes() {
        const EARLIER: usize = 512 * 1024;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sled");
        let db = open_database(dir.path(), &path, EARLIER).unwrap();
        for n in 0..40_u8 {
            db.insert([n], vec![n; 60_000]).unwrap();
        }
        db.flush().unwrap();
        drop(db);
        assert_eq!(segment_bytes(&path).unwrap(), Some(EARLIER));
        let check = || {
            let store = SledStore::open(dir.path()).unwrap();
            let rows = store.scan(b"", None, 100).unwrap();
            assert!(rows.len() == 40 && rows.iter().all(|row| row.value == vec![row.key[0]; 60_000]));
            assert_eq!(segment_bytes(&path).unwrap(), Some(SEGMENT_BYTES));
            let names: BTreeSet<_> =
                fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(names, ["lock", "sled"].map(Into::into).into());
        };
        // As crashes leave it: before the copy is whole, before it has its place, before the old one is gone.
        fs::create_dir(dir.path().join("sled.copy")).unwrap();
        rename_folder(&path, &dir.path().join("sled.old")).unwrap();
        check();
        fs::create_dir(dir.path().join("sled.old")).unwrap();
        check();
    }
}
