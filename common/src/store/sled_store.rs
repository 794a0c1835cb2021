//! sled 0.34 under the one profile in which it keeps its promises through a power cut.
//!
//! sled's own `flush` writes without fsync, its `conf` is never synced, and a half-written snapshot makes it
//! refuse to open. So: batches are applied by one committer thread, which then flushes and fsyncs
//! the log file through a handle of its own before anyone hears of success; all batches that wait at that
//! moment share the one fsync. Half-written snapshots are deleted before opening. A new database is made
//! in a temporary directory and renamed. Segments are so large that sled puts no page into a file of its own, which
//! it never syncs. A failed write or sync ends the store: nothing is read from it or written to it until it is opened
//! anew. A panic inside sled ends the process.
//!
//! sled takes long to write over what was replaced, and after large batches never does. So when the log has grown by
//! more than it had ([`UNUSED_BYTES`]), the committer copies the rows into a database of the next number, which takes the
//! place of this one; meanwhile reads go on, and commits wait. Nothing is written to a copy before it lies whole under
//! its number, so whenever a crash comes, that of the highest number has everything. One of smaller segments, from an
//! earlier version, is copied when it is opened.
//!
//! ```text
//! <dir>/lock      held while the store is open
//! <dir>/sled/     the database that was made first, or
//! <dir>/sled.N/   the Nth copy; of several that of the highest number, others are removed at the next open
//! <dir>/sled.new/ a database being made; removed at the next open
//! ```

mod place;

use std::{
    fmt,
    fs::{self, File, TryLockError},
    io, mem,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
};

use tracing::{debug, warn};

use self::place::Database;
use super::{Batch, Row, Store, StoreError};
use crate::{
    daemon::chain::Chain,
    files::{self, Lock},
};

/// Batches that wait for the committer: as many as there are threads that may block on storage at once.
const QUEUE_BATCHES_MAX: usize = 1024;
/// Batches that share one fsync: 1,000 small ones take about 2.5 ms, and a waiting reader not much longer.
const GROUP_BATCHES_MAX: usize = 1024;

/// The log may have twice as many bytes as it had when its rows were copied last, and these besides: three segments. A
/// database of few rows that change often is copied after so many bytes of changes, one of many after as many as it has.
pub const UNUSED_BYTES: u64 = 3 * place::SEGMENT_BYTES as u64;

/// What a store may take.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Memory that sled may keep pages in, by default the rows in use of a few thousand endpoints. sled counts loosely,
    /// so the process may hold about twice as much.
    pub cache_bytes: u64,
    /// At more bytes of its log a database is copied, of which the log had so many when it was made.
    pub log_bytes_max: fn(u64) -> u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, log_bytes_max: twice_and_more }
    }
}

fn twice_and_more(made_bytes: u64) -> u64 {
    made_bytes.saturating_mul(2).saturating_add(UNUSED_BYTES)
}

/// A store in a directory of its own, open in one process at a time.
pub struct SledStore {
    shared: Arc<Shared>,
    submit: Option<mpsc::SyncSender<Ticket>>,
    committer: Option<JoinHandle<()>>,
    /// Released last, when the database is closed.
    _lock: Lock,
}

struct Shared {
    dir: PathBuf,
    log_bytes_max: fn(u64) -> u64,
    /// Held for writing while one batch is applied, so that a scan is of one moment, and while a copy takes its place.
    rows: RwLock<Database>,
    /// Batches applied so far; grows under `rows`.
    applied: AtomicU64,
    durable: Mutex<Durable>,
    advanced: Condvar,
}

#[derive(Default)]
struct Durable {
    /// Batches that are on disk.
    upto: u64,
    /// How often the log was synced for them.
    syncs: u64,
    /// Set for good at the first failure.
    failed: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

struct Ticket {
    batch: Batch,
    reply: mpsc::SyncSender<Result<(), StoreError>>,
}

impl fmt::Debug for SledStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let durable = self.shared.durable.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("SledStore")
            .field("dir", &self.shared.dir)
            .field("batches", &durable.upto)
            .field("syncs", &durable.syncs)
            .field("failed", &durable.failed)
            .finish_non_exhaustive()
    }
}

impl SledStore {
    /// Opens the store in `dir`, and makes it there if there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError::Busy`] when it is open already, in this or another process; [`StoreError::Io`] and
    /// [`StoreError::Backend`] when the disk fails or the database is damaged.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::open_with(dir, Options::default())
    }

    /// Opens it with other limits.
    ///
    /// # Errors
    ///
    /// As [`SledStore::open`].
    pub fn open_with(dir: &Path, options: Options) -> Result<Self, StoreError> {
        files::create_folders(dir).map_err(io_error("create", dir))?;
        let lock_path = dir.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(io_error("open", &lock_path))?;
        let lock = match Lock::take(lock) {
            Ok(lock) => lock,
            Err(TryLockError::WouldBlock) => return Err(StoreError::Busy { dir: dir.to_path_buf() }),
            Err(TryLockError::Error(source)) => return Err(io_error("lock", &lock_path)(source)),
        };

        let shared = Arc::new(Shared {
            dir: dir.to_path_buf(),
            log_bytes_max: options.log_bytes_max,
            rows: RwLock::new(place::open(dir, options.cache_bytes)?),
            applied: AtomicU64::new(0),
            durable: Mutex::default(),
            advanced: Condvar::new(),
        });
        let (submit, tickets) = mpsc::sync_channel(QUEUE_BATCHES_MAX);
        let committer = thread::Builder::new()
            .name("store-committer".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.run(&tickets)
            })
            .map_err(io_error("start a thread for", dir))?;
        Ok(Self { shared, submit: Some(submit), committer: Some(committer), _lock: lock })
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        self.submit = None;
        if let Some(committer) = self.committer.take() {
            // A panic in it has ended the process already.
            let _ended = committer.join();
        }
    }
}

impl Store for SledStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.shared.read(|db| Ok(db.get(key)?.map(|value| value.to_vec())))
    }

    fn read(&self, key: &[u8], with: &mut dyn FnMut(&[u8])) -> Result<bool, StoreError> {
        self.shared.read(|db| Ok(db.get(key)?.map(|value| with(&value)).is_some()))
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, StoreError> {
        use std::ops::Bound;

        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.shared.read(|db| {
            let mut rows = Vec::new();
            for entry in db.range::<&[u8], _>((start, Bound::Unbounded)).take(limit) {
                let (key, value) = entry?;
                if !key.starts_with(prefix) {
                    break;
                }
                rows.push(Row { key: key.to_vec(), value: value.to_vec() });
            }
            Ok(rows)
        })
    }

    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        batch.check()?;
        let (reply, replied) = mpsc::sync_channel(1);
        let ticket = Ticket { batch: batch.clone(), reply };
        let sent = self.submit.as_ref().is_some_and(|submit| submit.send(ticket).is_ok());
        match replied.recv() {
            Ok(result) if sent => result,
            _ => Err(self.shared.error("the committer has ended".into())),
        }
    }

    fn disk_bytes(&self) -> u64 {
        fn of_dir(dir: &Path) -> u64 {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries
                .map(|entry| match entry.metadata() {
                    Ok(data) if data.is_dir() => of_dir(&entry.path()),
                    Ok(data) => data.len(),
                    Err(_) => 0,
                })
                .sum()
        }
        of_dir(&self.shared.dir)
    }

    fn failure(&self) -> Option<String> {
        let durable = self.shared.durable.lock().unwrap_or_else(PoisonError::into_inner);
        durable
            .failed
            .as_ref()
            .map(|error| Chain(&self.shared.error(Box::new(Arc::clone(error)))).to_string())
    }
}

impl Shared {
    fn error(&self, source: Box<dyn std::error::Error + Send + Sync>) -> StoreError {
        StoreError::Backend { dir: self.dir.clone(), source }
    }

    /// Reads at one moment, and returns once all that was there at that moment is on disk.
    fn read<T>(&self, read: impl FnOnce(&::sled::Db) -> ::sled::Result<T>) -> Result<T, StoreError> {
        let (result, applied) = {
            let rows = self.rows();
            let result = abort_on_panic(|| read(&rows.db));
            (result, self.applied.load(Ordering::SeqCst))
        };
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        while durable.failed.is_none() && durable.upto < applied {
            durable = self.advanced.wait(durable).unwrap_or_else(PoisonError::into_inner);
        }
        match &durable.failed {
            Some(failed) => Err(self.error(Box::new(Arc::clone(failed)))),
            None => result.map_err(|error| self.error(error.into())),
        }
    }

    fn rows(&self) -> RwLockReadGuard<'_, Database> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The committer: ends when the store is dropped.
    fn run(&self, tickets: &mpsc::Receiver<Ticket>) {
        let mut bytes_max = (self.log_bytes_max)(self.rows().made_bytes);
        while let Ok(first) = tickets.recv() {
            let mut group = vec![first];
            while group.len() < GROUP_BATCHES_MAX
                && let Ok(next) = tickets.try_recv()
            {
                group.push(next);
            }
            let results = abort_on_panic(|| self.commit_group(&group));
            for (ticket, result) in group.into_iter().zip(results) {
                // Whoever asked may have gone; the batch is durable all the same.
                let _gone = ticket.reply.send(result);
            }
            let bytes = self.rows().bytes();
            if bytes > bytes_max {
                bytes_max = self.replace(bytes);
            }
        }
    }

    /// Has a copy of the database, whose log has `bytes`, take its place, unless the disk has no room for it. Returns at
    /// how many bytes to try again.
    fn replace(&self, bytes: u64) -> u64 {
        if self.durable.lock().unwrap_or_else(PoisonError::into_inner).failed.is_some() {
            return bytes;
        }
        // Only this thread writes: what is copied stays what there is.
        let copied = abort_on_panic(|| place::copy(&self.dir, &self.rows()));
        match copied {
            Ok(copy) => {
                let bytes_max = (self.log_bytes_max)(copy.made_bytes);
                debug!(dir = %self.dir.display(), bytes, bytes_max, "the store was copied");
                let before =
                    mem::replace(&mut *self.rows.write().unwrap_or_else(PoisonError::into_inner), copy);
                before.remove();
                bytes_max
            }
            Err(place::NotCopied::Here(error)) => {
                let dir = self.dir.display();
                warn!(%dir, bytes, error = %Chain(&error), "could not copy the store, to free what its log has unused");
                bytes.saturating_add(UNUSED_BYTES)
            }
            // It may be there when the store is opened anew, without what would be written until then.
            Err(place::NotCopied::Perhaps(error)) => {
                self.fail(Box::new(error), 0);
                bytes
            }
        }
    }

    fn commit_group(&self, group: &[Ticket]) -> Vec<Result<(), StoreError>> {
        let failed = self.durable.lock().unwrap_or_else(PoisonError::into_inner).failed.clone();
        if let Some(failed) = failed {
            return group.iter().map(|_| Err(self.error(Box::new(Arc::clone(&failed))))).collect();
        }
        let mut results = Vec::with_capacity(group.len());
        let mut wrote = false;
        for Ticket { batch, .. } in group {
            match self.apply(batch) {
                Ok(Applied::Wrote) => {
                    wrote = true;
                    results.push(Ok(()));
                }
                Ok(Applied::Nothing) => results.push(Ok(())),
                Ok(Applied::Conflict(key)) => results.push(Err(StoreError::Conflict { key })),
                Err(error) => return self.fail(Box::new(error), group.len()),
            }
        }
        // A conflict, too, is heard of only when what it conflicts with is on disk.
        if wrote {
            if let Err(error) = self.rows().sync() {
                return self.fail(error, group.len());
            }
            let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
            durable.upto = self.applied.load(Ordering::SeqCst);
            durable.syncs += 1;
            self.advanced.notify_all();
        }
        results
    }

    fn apply(&self, batch: &Batch) -> ::sled::Result<Applied> {
        // Only this thread writes, so what is read here holds until the batch is applied.
        for expect in &batch.expects {
            if !expect.holds(self.rows().db.get(expect.key())?.as_deref()) {
                return Ok(Applied::Conflict(expect.key().to_vec()));
            }
        }
        if batch.puts.is_empty() && batch.deletes.is_empty() {
            return Ok(Applied::Nothing);
        }
        let mut writes = ::sled::Batch::default();
        for key in &batch.deletes {
            writes.remove(key.as_slice());
        }
        for (key, value) in &batch.puts {
            writes.insert(key.as_slice(), value.as_slice());
        }
        let rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        rows.db.apply_batch(writes)?;
        self.applied.fetch_add(1, Ordering::SeqCst);
        Ok(Applied::Wrote)
    }

    /// Ends the store: what is on disk is known again only after opening it anew.
    fn fail(
        &self,
        error: Box<dyn std::error::Error + Send + Sync>,
        waiting: usize,
    ) -> Vec<Result<(), StoreError>> {
        let failed: Arc<dyn std::error::Error + Send + Sync> = Arc::from(error);
        self.durable.lock().unwrap_or_else(PoisonError::into_inner).failed = Some(Arc::clone(&failed));
        self.advanced.notify_all();
        (0..waiting).map(|_| Err(self.error(Box::new(Arc::clone(&failed))))).collect()
    }
}

enum Applied {
    Wrote,
    Nothing,
    Conflict(Vec<u8>),
}

/// sled's locks and pages are in no known state after a panic, and on disk is what was
/// acknowledged: the process ends and recovers when it is started again.
fn abort_on_panic<T>(work: impl FnOnce() -> T) -> T {
    struct Abort;
    impl Drop for Abort {
        fn drop(&mut self) {
            std::process::abort();
        }
    }
    let abort = Abort;
    let result = work();
    mem::forget(abort);
    result
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::Io { doing, path: path.to_path_buf(), source }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::RefCell,
        collections::BTreeSet,
        time::{Duration, Instant},
    };

    use proptest::prelude::*;

    use super::*;
    use crate::store::{contract, memory::MemoryStore};

    #[test]
    fn sled_keeps_the_contract() {
        let dir = tempfile::tempdir().unwrap();
        let count = RefCell::new(0);
        contract::check(&|| {
            *count.borrow_mut() += 1;
            Box::new(SledStore::open(&dir.path().join(count.borrow().to_string())).unwrap())
        });
        contract::check_reopen(&|| Box::new(SledStore::open(&dir.path().join("reopen")).unwrap()));
    }

    #[test]
    fn a_second_open_says_that_the_store_is_open_and_harms_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = SledStore::open(dir.path()).unwrap();
        store.commit(Batch::new().put(b"k", b"v")).unwrap();
        let error = SledStore::open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::Busy { .. }), "{error:?}");
        assert_eq!(store.get(b"k").unwrap(), Some(b"v".to_vec()));
        drop(store);
        assert_eq!(SledStore::open(dir.path()).unwrap().get(b"k").unwrap(), Some(b"v".to_vec()));
    }

    #[test]
    fn what_a_crash_left_half_made_does_not_keep_the_store_from_opening() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sled.new")).unwrap();
        fs::write(dir.path().join("sled.new/conf"), b"half").unwrap();
        SledStore::open(dir.path()).unwrap().commit(Batch::new().put(b"k", b"v")).unwrap();
        assert!(!dir.path().join("sled.new").exists());

        let half = dir.path().join("sled/snap.0000000000001000.generating");
        fs::write(&half, b"half a snapshot").unwrap();
        let store = SledStore::open(dir.path()).unwrap();
        assert_eq!(store.get(b"k").unwrap(), Some(b"v".to_vec()));
        assert!(!half.exists());
    }

    #[test]
    fn no_page_has_a_file_of_its_own_which_nobody_would_sync() {
        let dir = tempfile::tempdir().unwrap();
        let store = SledStore::open(dir.path()).unwrap();
        let files = || fs::read_dir(store.shared.rows().path.join("blobs")).unwrap().count();
        // Next to each other, in both directions, changed, and taken out so that pages are joined.
        for round in 0..3_u8 {
            for n in 0..60_u8 {
                let key = [&[if round == 1 { 60 - n } else { n }][..], &[0; 1000]].concat();
                store.commit(Batch::new().put(key, vec![round; super::super::VALUE_BYTES_MAX])).unwrap();
                assert_eq!(files(), 0, "row {n} of round {round}");
            }
        }
        for n in (0..=60_u8).filter(|n| n % 7 > 0) {
            store.commit(Batch::new().delete([&[n][..], &[0; 1000]].concat())).unwrap();
        }
        for n in 0..60_u8 {
            let key = [&[n][..], &[0; 1000]].concat();
            store.commit(Batch::new().put(key, vec![9; super::super::VALUE_BYTES_MAX])).unwrap();
        }
        assert_eq!(files(), 0);
    }

    #[test]
    fn after_a_failure_nothing_is_read_or_acknowledged_until_the_store_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let store = SledStore::open(dir.path()).unwrap();
        store.commit(Batch::new().put(b"k", b"v")).unwrap();
        assert_eq!(store.failure(), None);
        let results = store.shared.fail("no space".into(), 2);
        assert!(store.failure().is_some_and(|failure| failure.contains("no space")));
        assert!(results.iter().all(|result| matches!(result, Err(StoreError::Backend { .. }))));
        assert!(matches!(store.get(b"k"), Err(StoreError::Backend { .. })));
        assert!(matches!(store.scan(b"", None, 1), Err(StoreError::Backend { .. })));
        let result = store.commit(Batch::new().put(b"k2", b"v"));
        assert!(matches!(result, Err(StoreError::Backend { .. })));
        drop(store);
        let store = SledStore::open(dir.path()).unwrap();
        assert_eq!((store.get(b"k").unwrap(), store.get(b"k2").unwrap()), (Some(b"v".to_vec()), None));
    }

    #[test]
    fn batches_that_wait_together_share_one_sync() {
        let dir = tempfile::tempdir().unwrap();
        let store = SledStore::open(dir.path()).unwrap();
        let (reply, _replied) = mpsc::sync_channel(100);
        let group: Vec<_> = (0..100u8)
            .map(|n| Batch::new().expect_absent([n % 99]).put([n % 99], [n]).clone())
            .map(|batch| Ticket { batch, reply: reply.clone() })
            .collect();
        let results = store.shared.commit_group(&group);
        assert!(results[..99].iter().all(Result::is_ok));
        assert!(matches!(&results[99], Err(StoreError::Conflict { key }) if key == &[0]));
        assert!(format!("{store:?}").contains("batches: 99, syncs: 1"), "{store:?}");
    }

    #[test]
    fn what_sixteen_threads_commit_at_the_same_time_is_all_there() {
        const THREADS: u32 = 16;
        const EACH: u32 = 40;
        let dir = tempfile::tempdir().unwrap();
        let store = SledStore::open(dir.path()).unwrap();
        let start = Instant::now();
        for n in 0..THREADS * EACH {
            store.commit(Batch::new().put([b"s", &n.to_be_bytes()[..]].concat(), b"v")).unwrap();
        }
        let alone = start.elapsed();
        let start = Instant::now();
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let store = &store;
                scope.spawn(move || {
                    for n in 0..EACH {
                        let key = [&b"g"[..], &thread.to_be_bytes(), &n.to_be_bytes()].concat();
                        store.commit(Batch::new().put(key, b"v")).unwrap();
                    }
                });
            }
        });
        let together = start.elapsed();
        let rate = |took: Duration| f64::from(THREADS * EACH) / took.as_secs_f64();
        println!("durable batches/s: {:.0} one by one, {:.0} from 16 threads", rate(alone), rate(together));
        let rows: BTreeSet<_> =
            store.scan(b"g", None, 10_000).unwrap().into_iter().map(|row| row.key).collect();
        assert_eq!(rows.len(), (THREADS * EACH) as usize);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Commit(Batch),
        Scan(Vec<u8>, Option<Vec<u8>>, usize),
        Reopen,
    }

    fn step() -> impl Strategy<Value = Step> {
        let key = || proptest::collection::vec(0..3u8, 0..4);
        let value = || prop_oneof![proptest::collection::vec(0..2u8, 0..3), Just(vec![9; 9000])];
        let expect = prop_oneof![
            key().prop_map(crate::store::Expect::Absent),
            key().prop_map(crate::store::Expect::Present),
            (key(), value()).prop_map(|(key, value)| crate::store::Expect::Equals { key, value }),
        ];
        let batch = (
            proptest::collection::vec(expect, 0..2),
            proptest::collection::vec((key(), value()), 0..6),
            proptest::collection::vec(key(), 0..4),
        );
        prop_oneof![
            8 => batch.prop_map(|(expects, puts, deletes)| Step::Commit(Batch { expects, puts, deletes })),
            4 => (key(), proptest::option::of(key()), 0..9usize).prop_map(|(p, a, l)| Step::Scan(p, a, l)),
            1 => Just(Step::Reopen),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn sled_does_what_a_map_in_memory_does(steps in proptest::collection::vec(step(), 1..60)) {
            let dir = tempfile::tempdir().unwrap();
            let model = MemoryStore::new();
            let mut store = SledStore::open(dir.path()).unwrap();
            for step in steps {
                match step {
                    Step::Commit(batch) => {
                        let (found, expected) = (store.commit(&batch), model.commit(&batch));
                        prop_assert_eq!(format!("{found:?}"), format!("{expected:?}"));
                    }
                    Step::Scan(prefix, after, limit) => prop_assert_eq!(
                        store.scan(&prefix, after.as_deref(), limit).unwrap(),
                        model.scan(&prefix, after.as_deref(), limit).unwrap()
                    ),
                    Step::Reopen => {
                        drop(store);
                        store = SledStore::open(dir.path()).unwrap();
                    }
                }
                prop_assert_eq!(store.scan(b"", None, 999).unwrap(), model.scan(b"", None, 999).unwrap());
            }
        }
    }
}
