//! What is known, on disk and in memory as one: every change is decided on the model, committed, and
//! then applied to the model, by one writer at a time.

mod aside;

use std::{
    iter::Peekable,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard},
};

use jiff::Timestamp;
use tierway_common::{
    clock::Clock,
    daemon::tasks::Wake,
    id::TenantId,
    schema::State as UpdateState,
    store::{
        Batch, Store, StoreError,
        table::{self, Table},
    },
    trust::digest::Digest,
};

use crate::{
    audit::{self, Ends, Entry},
    compliance::record::{Entry as StateEntry, Record, RecordError},
    model::{Model, Write},
    publish::log::Publications,
    store::{chunked, tables},
};

/// A batch gets no more once it has this many bytes. One write that alone is larger gets a batch of its own: the
/// largest, a value in chunks, has 2.4 MiB, which the store's limit of 4 MiB lets through.
const BATCH_BYTES_GOAL: usize = 2 * 1024 * 1024;

/// The one owner of store and model.
#[derive(Debug)]
pub struct State {
    tenant: TenantId,
    store: Arc<dyn Store>,
    clock: Clock,
    model: RwLock<Model>,
    writer: Mutex<Writer>,
    publications: RwLock<Publications>,
    news: Wake,
}

/// What whoever changes something holds.
#[derive(Debug)]
struct Writer {
    ends: Ends,
    unfinished: Option<Unfinished>,
}

/// A change that is decided and perhaps not yet in place.
#[derive(Debug)]
struct Unfinished {
    after: Ends,
    writes: Vec<Write>,
    news: bool,
}

/// What a change consists of; filled by whoever decides it.
#[derive(Debug)]
pub struct Change {
    /// When it happens.
    pub now: Timestamp,
    /// Expectations and rows that are not in the model; committed with the first writes.
    pub batch: Batch,
    /// It may be committed bit by bit, the audit records first, and is seen so. For what is too much to be
    /// written twice and done again when a crash left the rest out: what must be together is one [`Write`].
    pub in_parts: bool,
    writes: Vec<Write>,
    audit: Vec<Entry>,
}

impl Change {
    /// Adds a write.
    pub fn write(&mut self, write: Write) {
        self.writes.push(write);
    }

    /// Decides a part that may fail without the rest: of one that fails nothing stays.
    ///
    /// # Errors
    ///
    /// What `decide` fails with.
    pub fn part<T, E>(&mut self, decide: impl FnOnce(&mut Self) -> Result<T, E>) -> Result<T, E> {
        let Self { batch: Batch { expects, puts, deletes }, writes, audit, .. } = &*self;
        let before = [expects.len(), puts.len(), deletes.len(), writes.len(), audit.len()];
        let decided = decide(self);
        if decided.is_err() {
            self.batch.expects.truncate(before[0]);
            self.batch.puts.truncate(before[1]);
            self.batch.deletes.truncate(before[2]);
            self.writes.truncate(before[3]);
            self.audit.truncate(before[4]);
        }
        decided
    }

    /// Adds a record to the audit log.
    pub fn audit(&mut self, actor: &str, action: &'static str, object: String, detail: String) {
        self.audit.push(Entry { at: self.now, actor: actor.to_owned(), action, object, detail });
    }
}

/// What is not in a batch yet of a change.
struct Rest {
    /// With what the next one begins.
    batch: Batch,
    /// The ends of the audit log after what is in one.
    after: Ends,
    audit: Peekable<std::vec::IntoIter<Entry>>,
    writes: Peekable<std::vec::IntoIter<Write>>,
}

impl Rest {
    /// The next batch, audit records before anything else, and the writes in it; an empty batch at the end.
    fn part(&mut self, tenant: &TenantId, model: &Model) -> Result<(Batch, Vec<Write>), StoreError> {
        let mut part = std::mem::take(&mut self.batch);
        let (mut bytes, mut writes) = (part.bytes(), Vec::new());
        let mut add = |mut rows: Batch| {
            let more = rows.bytes();
            let fits = part.is_empty() || bytes + more <= BATCH_BYTES_GOAL;
            if fits {
                bytes += more;
                part.expects.append(&mut rows.expects);
                part.puts.append(&mut rows.puts);
                part.deletes.append(&mut rows.deletes);
            }
            fits
        };
        while let Some(entry) = self.audit.peek() {
            let mut rows = Batch::new();
            let (_, after) = audit::append(&mut rows, tenant, &self.after, entry.clone())?;
            if !add(rows) {
                return Ok((part, writes));
            }
            self.after = after;
            self.audit.next();
        }
        while let Some(write) = self.writes.peek() {
            let mut rows = Batch::new();
            write.rows(tenant, model, &mut rows)?;
            if !add(rows) {
                break;
            }
            writes.extend(self.writes.next());
        }
        Ok((part, writes))
    }
}

impl State {
    /// Reads everything from the store.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn open(tenant: TenantId, store: Arc<dyn Store>, clock: Clock) -> Result<Self, StoreError> {
        if aside::finish(store.as_ref(), &tenant)? {
            tracing::info!("put in place what was decided before a crash");
        }
        let model = load(&tenant, store.as_ref())?;
        let ends = audit::ends(store.as_ref(), &tenant)?;
        let publications = Publications::load(store.as_ref(), &tenant)?;
        Ok(Self {
            tenant,
            store,
            clock,
            model: RwLock::new(model),
            writer: Mutex::new(Writer { ends, unfinished: None }),
            publications: RwLock::new(publications),
            news: Wake::default(),
        })
    }

    /// Whose.
    #[must_use]
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// The store below, for rows that are not in the model.
    #[must_use]
    pub fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    /// The clock.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The model, which stays as it is while this is held: briefly, and never while waiting.
    pub fn model(&self) -> RwLockReadGuard<'_, Model> {
        self.model.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which publication holds what was decided when.
    pub fn publications(&self) -> RwLockReadGuard<'_, Publications> {
        self.publications.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a publication that is on disk.
    pub fn published(&self, version: u64, covers: Timestamp) {
        self.publications.write().unwrap_or_else(PoisonError::into_inner).note(version, covers);
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes one change: `decide` looks at the model and fills the change, which is then on disk and in
    /// the model when this returns. Gives what `decide` gave and the sequence of the newest audit record.
    ///
    /// A change is made as a whole or not at all, also across a crash, unless it says otherwise
    /// ([`Change::in_parts`]).
    ///
    /// # Errors
    ///
    /// What `decide` fails with, and then nothing is changed; those of the store, and then a change that is
    /// larger than one batch may have been decided all the same: it is put in place before the next.
    pub fn change<T, E: From<StoreError>>(
        &self,
        decide: impl FnOnce(&Model, &mut Change) -> Result<T, E>,
    ) -> Result<(T, u64), E> {
        let mut writer = self.writer();
        self.finish(&mut writer)?;
        let mut change = Change {
            now: self.clock.now(),
            batch: Batch::new(),
            in_parts: false,
            writes: Vec::new(),
            audit: Vec::new(),
        };
        let result = decide(&self.model(), &mut change)?;
        let Change { batch, in_parts, writes, audit, .. } = change;
        let mut rest = Rest {
            batch,
            after: writer.ends,
            audit: audit.into_iter().peekable(),
            writes: writes.into_iter().peekable(),
        };
        let (mut batches, mut applied) = (Vec::new(), Vec::new());
        loop {
            let (batch, mut writes) = rest.part(&self.tenant, &self.model())?;
            if batch.is_empty() {
                break;
            }
            if in_parts {
                self.store.commit(&batch)?;
                self.committed(&mut writer, rest.after, writes, is_news(&batch));
            } else {
                batches.push(batch);
                applied.append(&mut writes);
            }
        }
        match batches.as_slice() {
            [] => {}
            [batch] => {
                self.store.commit(batch)?;
                self.committed(&mut writer, rest.after, applied, is_news(batch));
            }
            batches => {
                // What is decided must go through: after that there is no way back.
                batches.iter().try_for_each(Batch::check)?;
                aside::write(self.store.as_ref(), &self.tenant, batches)?;
                let news = batches.iter().any(is_news);
                writer.unfinished = Some(Unfinished { after: rest.after, writes: applied, news });
                self.finish(&mut writer)?;
            }
        }
        Ok((result, writer.ends.head.0))
    }

    /// Puts in place what was decided and could not be put in place.
    fn finish(&self, writer: &mut Writer) -> Result<(), StoreError> {
        if writer.unfinished.is_some() {
            aside::finish(self.store.as_ref(), &self.tenant)?;
        }
        if let Some(Unfinished { after, writes, news }) = writer.unfinished.take() {
            self.committed(writer, after, writes, news);
        }
        Ok(())
    }

    /// Takes in what is on disk.
    fn committed(&self, writer: &mut Writer, after: Ends, writes: Vec<Write>, news: bool) {
        writer.ends = after;
        if news {
            self.news.wake();
        }
        let mut model = self.model.write().unwrap_or_else(PoisonError::into_inner);
        writes.into_iter().for_each(|write| model.apply(write));
    }

    /// Reads store and model while no change is half in place: briefly, for every change waits meanwhile.
    ///
    /// # Errors
    ///
    /// What `read` fails with; those of the store when an earlier change cannot be put in place.
    pub fn settled<T, E: From<StoreError>>(
        &self,
        read: impl FnOnce(&dyn Store, &Model) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut writer = self.writer();
        self.finish(&mut writer)?;
        read(self.store.as_ref(), &self.model())
    }

    /// Woken by every change that must be published.
    #[must_use]
    pub fn news(&self) -> &Wake {
        &self.news
    }

    /// Drops audit records beyond `keep`; true when there may be more to drop.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn retain_audit(&self, keep: u64) -> Result<bool, StoreError> {
        let mut writer = self.writer();
        self.finish(&mut writer)?;
        match audit::retain(self.store(), &self.tenant, &writer.ends, keep)? {
            Some(kept) => {
                writer.ends = kept;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// The states of an endpoint, by number.
    ///
    /// # Errors
    ///
    /// Those of the store, also when the packed record is damaged.
    pub fn states(&self, endpoint: u32) -> Result<Record, StoreError> {
        states(self.store(), &self.tenant, endpoint)
    }

    /// The state of one update on an endpoint, both by number; `None` when it is not applicable there.
    ///
    /// # Errors
    ///
    /// Those of the store, also when the packed record is damaged.
    pub fn state_of(&self, endpoint: u32, update: u32) -> Result<Option<StateEntry>, StoreError> {
        let row = tables::States { tenant: &self.tenant, number: endpoint, chunk: 0 };
        match chunked::with(self.store(), &row, |bytes| Record::find(bytes, update))? {
            Some(found) => found.map_err(|source| damaged(&row, source)),
            None => Ok(None),
        }
    }

    /// Gives `each` every update that is applicable to an endpoint with its state, both updates and endpoint by number,
    /// in ascending order.
    ///
    /// # Errors
    ///
    /// Those of the store, also when the packed record is damaged.
    pub fn each_state(
        &self,
        endpoint: u32,
        mut each: impl FnMut(u32, UpdateState),
    ) -> Result<(), StoreError> {
        let row = tables::States { tenant: &self.tenant, number: endpoint, chunk: 0 };
        match chunked::with(self.store(), &row, |bytes| Record::each_state(bytes, &mut each))? {
            Some(read) => read.map_err(|source| damaged(&row, source)),
            None => Ok(()),
        }
    }

    /// The packed facts of an endpoint, by number.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn packed_facts(&self, endpoint: u32) -> Result<Option<Vec<u8>>, StoreError> {
        chunked::get(self.store(), &tables::Facts { tenant: &self.tenant, number: endpoint, chunk: 0 })
    }
}

/// Whether a batch changes what is to be published.
fn is_news(batch: &Batch) -> bool {
    let tables = [<tables::PendingPolicy<'_> as Table>::PREFIX, <tables::Catalogue<'_> as Table>::PREFIX];
    let of_one = |key: &[u8]| {
        tables.iter().any(|table| key.strip_prefix(*table).is_some_and(|key| key.first() == Some(&0)))
    };
    batch.puts.iter().any(|(key, _)| of_one(key)) || batch.deletes.iter().any(|key| of_one(key))
}

fn states(store: &dyn Store, tenant: &TenantId, endpoint: u32) -> Result<Record, StoreError> {
    let row = tables::States { tenant, number: endpoint, chunk: 0 };
    match chunked::with(store, &row, Record::decode)? {
        Some(read) => read.map_err(|source| damaged(&row, source)),
        None => Ok(Record::default()),
    }
}

fn damaged(row: &tables::States<'_>, source: RecordError) -> StoreError {
    StoreError::Malformed { key: table::full_key(row), source: source.into() }
}

fn load(tenant: &TenantId, store: &dyn Store) -> Result<Model, StoreError> {
    let parts = table::Key::new().text(tenant.as_str()).done();
    let mut model = Model::default();
    // Groups before endpoints, so that each endpoint finds its groups.
    table::for_each::<tables::Group<'_>, StoreError>(store, &parts, |_, group| {
        model.apply(Write::Group(group));
        Ok(())
    })?;
    table::for_each::<tables::Approval<'_>, StoreError>(store, &parts, |_, approval| {
        model.apply(Write::Approval(approval));
        Ok(())
    })?;
    table::for_each::<tables::AutoApproval<'_>, StoreError>(store, &parts, |_, rule| {
        model.apply(Write::Rule(rule));
        Ok(())
    })?;
    table::for_each::<tables::Policy<'_>, StoreError>(store, &parts, |_, document| {
        model.apply(Write::Document(document));
        Ok(())
    })?;
    table::for_each::<tables::Rollout<'_>, StoreError>(store, &parts, |_, rollout| {
        model.apply(Write::Rollout(rollout));
        Ok(())
    })?;
    table::for_each::<tables::Trusted<'_>, StoreError>(store, &parts, |_, trusted| {
        model.apply(Write::Trusted(trusted));
        Ok(())
    })?;
    table::for_each::<tables::Template<'_>, StoreError>(store, &parts, |_, template| {
        model.apply(Write::Template(template));
        Ok(())
    })?;
    table::for_each::<tables::Update<'_>, StoreError>(store, &parts, |_, update| {
        let number = update.number;
        model.apply(Write::Update(Arc::new(update)));
        let row = tables::Payloads { tenant, number, chunk: 0 };
        if let Some(bytes) = chunked::get(store, &row)? {
            model.apply(Write::Payloads(number, unpack_payloads(&bytes)));
        }
        Ok(())
    })?;
    table::for_each::<tables::Catalogue<'_>, StoreError>(store, &parts, |key, record| {
        let mut key = table::Parts::of(key);
        if let Some(Ok(id)) = key.text().and_then(|_| key.text()).map(|id| id.parse()) {
            model.apply(Write::Catalogues(vec![(id, record)]));
        }
        Ok(())
    })?;
    table::for_each::<tables::Source<'_>, StoreError>(store, &parts, |key, record| {
        let mut key = table::Parts::of(key);
        if let Some(Ok(id)) = key.text().and_then(|_| key.text()).map(|id| id.parse()) {
            model.apply(Write::Source(id, record));
        }
        Ok(())
    })?;
    if let Some(download) = table::get(store, &tables::Download { tenant })? {
        model.apply(Write::Download(download));
    }
    if let Some(key) = table::get(store, &tables::LeaseKey { tenant })? {
        model.apply(Write::LeaseKey(key));
    }
    table::for_each::<tables::Timing<'_>, StoreError>(store, &parts, |key, record| {
        let mut key = table::Parts::of(key);
        if let Some(Ok(number)) = key.text().and_then(|_| key.number()).map(u32::try_from) {
            model.apply(Write::Timing(number, Arc::new(record)));
        }
        Ok(())
    })?;
    table::for_each::<tables::Lease<'_>, StoreError>(store, &parts, |_, record| {
        model.apply(Write::Lease(record));
        Ok(())
    })?;
    table::for_each::<tables::Certificate<'_>, StoreError>(store, &parts, |_, record| {
        model.apply(Write::Certificate(record));
        Ok(())
    })?;
    table::for_each::<tables::Relay<'_>, StoreError>(store, &parts, |_, record| {
        model.apply(Write::Relay(Arc::new(record)));
        Ok(())
    })?;
    let nothing = Arc::new(Record::default());
    table::for_each::<tables::Endpoint<'_>, StoreError>(store, &parts, |_, record| {
        let endpoint = record.number;
        model.apply(Write::Endpoint(Arc::new(record)));
        let new = Arc::new(states(store, tenant, endpoint)?);
        model.apply(Write::States { endpoint, old: nothing.clone(), new });
        Ok(())
    })?;
    Ok(model)
}

fn unpack_payloads(bytes: &[u8]) -> Arc<[(Digest, u64)]> {
    let (rows, _) = bytes.as_chunks::<40>();
    rows.iter()
        .filter_map(|row| {
            let (digest, length) = row.split_first_chunk::<32>()?;
            let (length, _) = length.split_first_chunk::<8>()?;
            Some((Digest::from_bytes(*digest), u64::from_be_bytes(*length)))
        })
        .collect()
}

#[cfg(test)]
mod tests;
