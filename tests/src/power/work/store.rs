//! The store: batches of rows that come, change and go, and are copied whenever the log has got longer.

use std::path::Path;

use tierway_common::store::{
    Batch, Row, Store,
    memory::MemoryStore,
    sled_store::{Options, SledStore},
};

use super::{Random, Work, bytes, wrong};

const KEYS: u64 = 120;
/// It is copied at least once in so many.
const COPIED_STEPS: usize = 15;
/// More than there are.
const ROWS_MAX: usize = 100_000;

/// `None`: the store is closed and opened again.
pub(super) struct Steps(Vec<Option<Batch>>);

fn open(folder: &Path) -> SledStore {
    let options = Options { log_bytes_max: |made_bytes| made_bytes, ..Options::default() };
    SledStore::open_with(&folder.join("data/store"), options).unwrap()
}

fn rows(store: &dyn Store) -> Result<Vec<Row>, String> {
    wrong(store.scan(b"", None, ROWS_MAX), "reading it")
}

impl Steps {
    pub(super) fn new(random: &mut Random, steps: usize) -> Self {
        let step = |at: usize| {
            // A database that is opened begins a segment.
            if at % COPIED_STEPS == COPIED_STEPS - 1 || random.percent(2) {
                return None;
            }
            let mut batch = Batch::new();
            for _ in 0..=random.below(6) {
                let key = random.below(KEYS).to_be_bytes();
                match random.below(8) {
                    0 => batch.delete(key),
                    1 => {
                        let count = random.index(60_000);
                        batch.put(key, bytes(random, count))
                    }
                    _ => {
                        let count = random.index(600);
                        batch.put(key, bytes(random, count))
                    }
                };
            }
            Some(batch)
        };
        Self((0..steps).map(step).collect())
    }
}

impl Work for Steps {
    fn run(&self, folder: &Path, tell: &mut dyn FnMut()) {
        let mut store = Some(open(folder));
        for step in &self.0 {
            match step {
                Some(batch) => store.as_ref().unwrap().commit(batch).unwrap(),
                None => {
                    drop(store.take());
                    store = Some(open(folder));
                }
            }
            tell();
        }
        drop(store);
        let first = folder.join("data/store/sled");
        assert!(self.0.len() <= COPIED_STEPS || !first.exists(), "the store was never copied");
    }

    fn reopen(&self, folder: &Path, told: usize) -> Result<(), String> {
        let store = wrong(SledStore::open(&folder.join("data/store")), "opening it")?;
        match self.0.get(told) {
            Some(Some(batch)) => wrong(store.commit(batch), "going on"),
            _ => rows(&store).map(drop),
        }
    }

    fn check(&self, folder: &Path, told: usize) -> Result<(), String> {
        let model = MemoryStore::new();
        for batch in self.0[..told].iter().flatten() {
            model.commit(batch).unwrap();
        }
        let store = wrong(SledStore::open(&folder.join("data/store")), "opening it")?;
        let found = rows(&store)?;
        if found != rows(&model)? {
            let before = rows(&model)?;
            if let Some(Some(batch)) = self.0.get(told) {
                model.commit(batch).unwrap();
            }
            let after = rows(&model)?;
            if found != after {
                let other = |rows: &[Row]| rows.iter().filter(|row| !found.contains(row)).count();
                return Err(format!(
                    "after {told} steps {} of {} rows are others, with the next step {} of {}",
                    other(&before),
                    before.len(),
                    other(&after),
                    after.len()
                ));
            }
        }
        wrong(store.commit(Batch::new().put(b"after", b"the cut")), "going on")?;
        drop(store);
        let store = wrong(SledStore::open(&folder.join("data/store")), "opening it again")?;
        let again = rows(&store)?.into_iter().filter(|row| row.key != b"after").collect::<Vec<_>>();
        if again == found && store.get(b"after").is_ok_and(|row| row.is_some()) {
            Ok(())
        } else {
            Err("what was there after the cut is gone when it is opened again".to_owned())
        }
    }
}
