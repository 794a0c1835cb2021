//! The database of a store as it lies in its folder: made, opened, copied, and what a crash left of that.

use std::{
    collections::BTreeSet,
    error::Error,
    fs::{self, File},
    io, mem,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use tracing::{debug, info};

use super::{abort_on_panic, io_error};
use crate::{daemon::chain::Chain, files, store::StoreError};

/// Memory that sled may keep pages in while a database is made.
const CACHE_BYTES_MAKING: u64 = 64 << 20;
/// Bytes of a segment of sled's log. What is longer than a quarter of one, sled puts into a file that it does not sync: after
/// a power cut it is not there, and the database does not open. A page has up to 16 rows, and while it is split or joined a
/// few more: 20 of the longest have 1.3 MB.
pub(super) const SEGMENT_BYTES: usize = 8 << 20;
/// Of the file in the database's folder that says how many bytes its log had when it was made, and of sled's own
/// configuration: some sixty bytes.
const SAID_BYTES_MAX: u64 = 4096;
const MADE: &str = "made";
/// A database that has no place yet.
const NEW: &str = "sled.new";
/// Bytes of rows that are copied at once.
const COPIED_BYTES: usize = 1 << 20;
/// How often, and how far apart, opening is tried while a thread of sled's closes what was open before: five seconds.
const CLOSING_TRIES: u32 = 500;
const CLOSING_WAIT: Duration = Duration::from_millis(10);

/// A database that is open.
pub(super) struct Database {
    pub(super) db: ::sled::Db,
    log: File,
    pub(super) path: PathBuf,
    /// How many copies were made until this one.
    number: u64,
    cache_bytes: u64,
    /// Bytes that its log had when it was made.
    pub(super) made_bytes: u64,
}

impl Database {
    /// Opens the one of `number` in the folder `dir` of its store.
    fn open(dir: &Path, number: u64, segment_bytes: usize, cache_bytes: u64) -> Result<Self, StoreError> {
        let path = place(dir, number);
        remove_half_snapshots(&path)?;
        let db = open_database(dir, &path, segment_bytes, cache_bytes)?;
        sync_files(&path)?;
        let log = path.join("db");
        let log = File::options().write(true).open(&log).map_err(io_error("open", &log))?;
        let made_bytes = said(&path.join(MADE), |text| text.trim().parse().ok())?.unwrap_or_default();
        Ok(Self { db, log, path, number, cache_bytes, made_bytes })
    }

    /// Puts on disk what was written.
    pub(super) fn sync(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.db.flush()?;
        Ok(self.log.sync_all()?)
    }

    /// Bytes of its log; 0 when the system does not say.
    pub(super) fn bytes(&self) -> u64 {
        self.log.metadata().map_or(0, |data| data.len())
    }

    /// Closes it and removes its files; what cannot be removed yet is when the store is opened.
    pub(super) fn remove(self) {
        let Self { db, log, path, .. } = self;
        drop((db, log));
        if let Err(error) = remove_folder(&path) {
            debug!(error = %Chain(&error), "a copied database is removed later");
        }
    }
}

/// Why there is no copy.
pub(super) enum NotCopied {
    /// What was copied goes on as it was.
    Here(StoreError),
    /// A copy may lie in its place: nothing may be written to what was copied.
    Perhaps(StoreError),
}

/// Opens the newest database in the folder `dir` of its store, and ends what a crash interrupted; makes it when there is
/// none.
pub(super) fn open(dir: &Path, cache_bytes: u64) -> Result<Database, StoreError> {
    remove_folder(&dir.join(NEW))?;
    let mut there = numbers(dir)?;
    let number = match there.pop_last() {
        Some(number) => number,
        None => create(dir, 0, |_| Ok(())).map(|()| 0)?,
    };
    let said = said(&place(dir, number).join("conf"), |text| {
        text.strip_prefix("segment_size: ")?.trim().parse().ok()
    })?;
    let segment_bytes = said.unwrap_or(SEGMENT_BYTES);
    let mut database = Database::open(dir, number, segment_bytes, cache_bytes)?;
    if segment_bytes != SEGMENT_BYTES {
        info!(dir = %dir.display(), "copying the store, which an earlier version made");
        let copied = copy(dir, &database);
        let copied = copied.map_err(|(NotCopied::Here(error) | NotCopied::Perhaps(error))| error)?;
        mem::replace(&mut database, copied).remove();
    }
    there.iter().try_for_each(|number| remove_folder(&place(dir, *number)))?;
    Ok(database)
}

/// Where the database of `number` lies.
fn place(dir: &Path, number: u64) -> PathBuf {
    dir.join(if number == 0 { "sled".to_owned() } else { format!("sled.{number}") })
}

/// The numbers of all databases in `dir`.
fn numbers(dir: &Path) -> Result<BTreeSet<u64>, StoreError> {
    let mut numbers = BTreeSet::new();
    for entry in fs::read_dir(dir).map_err(io_error("read", dir))? {
        let name = entry.map_err(io_error("read", dir))?.file_name();
        match name.to_str().and_then(|name| name.strip_prefix("sled")) {
            Some("") => numbers.insert(0),
            Some(rest) => {
                rest.strip_prefix('.').and_then(|n| n.parse().ok()).is_some_and(|n| numbers.insert(n))
            }
            None => false,
        };
    }
    Ok(numbers)
}

/// Makes a database under another name, has `fill` fill it, syncs it, and puts it into the place of `number`.
fn create(
    dir: &Path,
    number: u64,
    fill: impl FnOnce(&::sled::Db) -> ::sled::Result<()>,
) -> Result<(), StoreError> {
    let new = dir.join(NEW);
    remove_folder(&new)?;
    let db = open_database(dir, &new, SEGMENT_BYTES, CACHE_BYTES_MAKING)?;
    let filled = abort_on_panic(|| fill(&db).and_then(|()| db.flush()));
    filled.map_err(|error| backend(dir, error))?;
    drop(db);
    let (log, made) = (new.join("db"), new.join(MADE));
    let bytes = fs::metadata(&log).map_err(io_error("read", &log))?.len();
    fs::write(&made, bytes.to_string()).map_err(io_error("write", &made))?;
    sync_files(&new)?;
    rename_folder(&new, &place(dir, number))?;
    files::sync_folder(dir).map_err(io_error("sync", dir))
}

/// Makes a copy of the database `from`, to which nothing is written meanwhile, under the next number.
pub(super) fn copy(dir: &Path, from: &Database) -> Result<Database, NotCopied> {
    let number = from.number + 1;
    let made = create(dir, number, |to| {
        let (mut batch, mut bytes) = (::sled::Batch::default(), 0);
        for entry in from.db.iter() {
            let (key, value) = entry?;
            bytes += key.len() + value.len();
            batch.insert(key, value);
            if bytes >= COPIED_BYTES {
                to.apply_batch(mem::take(&mut batch))?;
                bytes = 0;
            }
        }
        to.apply_batch(batch)
    });
    made.and_then(|()| Database::open(dir, number, SEGMENT_BYTES, from.cache_bytes)).map_err(|error| {
        match discard(dir, number) {
            Ok(()) => NotCopied::Here(error),
            Err(_) => NotCopied::Perhaps(error),
        }
    })
}

/// Takes the database of `number`, if there is one, out of its place before it is removed.
fn discard(dir: &Path, number: u64) -> Result<(), StoreError> {
    let (new, path) = (dir.join(NEW), place(dir, number));
    if path.try_exists().map_err(io_error("read", &path))? {
        remove_folder(&new)?;
        rename_folder(&path, &new)?;
    }
    files::sync_folder(dir).map_err(io_error("sync", dir))?;
    // What is left of it is no harm, and goes when the store is opened.
    let _later = remove_folder(&new);
    Ok(())
}

/// What the first line of the file at `path` says of which `read` knows something; `None` when none does, or there is none.
fn said<T>(path: &Path, read: impl Fn(&str) -> Option<T>) -> Result<Option<T>, StoreError> {
    let text = files::read_if_there(path, SAID_BYTES_MAX).map_err(io_error("read", path))?;
    let text = text.unwrap_or_default();
    let mut lines = text.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    Ok(lines.find_map(read))
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

fn open_database(
    dir: &Path,
    path: &Path,
    segment_bytes: usize,
    cache_bytes: u64,
) -> Result<::sled::Db, StoreError> {
    let config = ::sled::Config::new().path(path).cache_capacity(cache_bytes).segment_size(segment_bytes);
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
    use super::{
        super::{SledStore, UNUSED_BYTES, twice_and_more},
        *,
    };
    use crate::store::{Batch, Row, Store as _};

    fn rows(dir: &Path) -> Vec<Row> {
        SledStore::open(dir).unwrap().scan(b"", None, 1_000).unwrap()
    }

    fn names(dir: &Path) -> BTreeSet<String> {
        let entries = fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_store_of_an_earlier_version_is_copied_when_it_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let db = open_database(dir.path(), &dir.path().join("sled"), 512 * 1024, CACHE_BYTES_MAKING).unwrap();
        for n in 0..40_u8 {
            db.insert([n], vec![n; 60_000]).unwrap();
        }
        db.flush().unwrap();
        drop(db);
        for _ in 0..2 {
            let rows = rows(dir.path());
            assert!(rows.len() == 40 && rows.iter().all(|row| row.value == vec![row.key[0]; 60_000]));
            assert_eq!(names(dir.path()), ["lock", "sled.1"].map(Into::into).into());
        }
    }

    #[test]
    fn a_store_whose_rows_change_all_the_time_takes_no_more_room_than_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = SledStore::open(dir.path()).unwrap();
        let (mut most, mut numbers_seen) = (0, BTreeSet::new());
        for round in 0..150_u8 {
            let mut batch = Batch::new();
            for row in 0..16_u8 {
                batch.put([row], vec![round ^ row; 60_000]);
            }
            store.commit(&batch).unwrap();
            // Who reads finds the last that was committed, whichever database it is in.
            assert!((0..16).all(|row| store.get(&[row]).unwrap().unwrap() == vec![round ^ row; 60_000]));
            let rows = store.shared.rows();
            most = most.max(rows.bytes());
            numbers_seen.insert(rows.number);
        }
        // 144 MB were written, of rows of 1 MB.
        let one_commit = (2 * SEGMENT_BYTES) as u64;
        assert!(most <= twice_and_more(store.shared.rows().made_bytes) + one_commit, "{most}");
        assert!(numbers_seen.len() > 3, "{numbers_seen:?}");
        drop(store);
        assert_eq!(rows(dir.path()).len(), 16);
        assert_eq!(names(dir.path()).len(), 2, "{:?}", names(dir.path()));
    }

    #[test]
    fn whenever_a_crash_comes_while_a_store_is_copied_it_has_everything() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let store = SledStore::open(dir).unwrap();
        store.commit(Batch::new().put(b"k", b"v")).unwrap();
        drop(store);
        let check = |names_after: [&str; 2], value: &[u8]| {
            assert_eq!(rows(dir), [Row { key: b"k".into(), value: value.into() }]);
            assert_eq!(names(dir), names_after.map(Into::into).into());
        };
        // Before the copy is whole.
        fs::create_dir(dir.join(NEW)).unwrap();
        fs::write(dir.join(NEW).join("db"), b"half a database").unwrap();
        check(["lock", "sled"], b"v");
        // Before what was copied is gone: whatever is written from now on is in the copy alone.
        drop(copy(dir, &open(dir, CACHE_BYTES_MAKING).unwrap()).ok().unwrap());
        assert_eq!(names(dir), ["lock", "sled", "sled.1"].map(Into::into).into());
        check(["lock", "sled.1"], b"v");
        SledStore::open(dir).unwrap().commit(Batch::new().put(b"k", b"later")).unwrap();
        fs::create_dir(dir.join("sled")).unwrap();
        fs::write(dir.join("sled/conf"), b"half removed").unwrap();
        check(["lock", "sled.1"], b"later");
    }

    #[test]
    fn a_store_that_cannot_be_copied_goes_on_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let store = SledStore::open(dir.path()).unwrap();
        store.commit(Batch::new().put(b"k", b"v")).unwrap();
        // A folder where the copy is to be made cannot be removed, since it is a file.
        fs::write(dir.path().join(NEW), b"").unwrap();
        let bytes = store.shared.rows().bytes();
        assert_eq!(store.shared.replace(bytes), bytes + UNUSED_BYTES);
        store.commit(Batch::new().put(b"k", b"w")).unwrap();
        fs::remove_file(dir.path().join(NEW)).unwrap();
        assert!(store.shared.replace(bytes) > UNUSED_BYTES);
        assert_eq!(names(dir.path()), ["lock", "sled.1"].map(Into::into).into());
        store.commit(Batch::new().put(b"l", b"x")).unwrap();
        drop(store);
        assert_eq!(rows(dir.path()).into_iter().map(|row| row.value).collect::<Vec<_>>(), [b"w", b"x"]);
    }
}
