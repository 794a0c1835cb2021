//! What is known, on disk and in memory as one: every change is decided on the model, committed, and
//! then applied to the model, by one writer at a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use jiff::Timestamp;
use tierway_common::{
    clock::Clock,
    daemon::tasks::Wake,
    id::TenantId,
    store::{
        Batch, Store, StoreError,
        table::{self, Table},
    },
    trust::digest::Digest,
};

use crate::{
    audit::{self, Ends, Entry},
    compliance::record::Record,
    model::{Model, Write},
    store::{chunked, tables},
};

/// A batch is committed when it has this many bytes, below the store's limit by more than one write adds.
const BATCH_BYTES_GOAL: usize = 2 * 1024 * 1024;

/// The one owner of store and model.
#[derive(Debug)]
pub struct State {
    tenant: TenantId,
    store: Arc<dyn Store>,
    clock: Clock,
    model: RwLock<Model>,
    writer: Mutex<Ends>,
    news: Wake,
}

/// What a change consists of; filled by whoever decides it.
#[derive(Debug)]
pub struct Change {
    /// When it happens.
    pub now: Timestamp,
    /// Expectations and rows that are not in the model; committed with the first writes.
    pub batch: Batch,
    writes: Vec<Write>,
    audit: Vec<Entry>,
}

impl Change {
    /// Adds a write.
    pub fn write(&mut self, write: Write) {
        self.writes.push(write);
    }

    /// Adds a record to the audit log.
    pub fn audit(&mut self, actor: &str, action: &'static str, object: String, detail: String) {
        self.audit.push(Entry { at: self.now, actor: actor.to_owned(), action, object, detail });
    }
}

impl State {
    /// Reads everything from the store.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn open(tenant: TenantId, store: Arc<dyn Store>, clock: Clock) -> Result<Self, StoreError> {
        let model = load(&tenant, store.as_ref())?;
        let ends = audit::ends(store.as_ref(), &tenant)?;
        Ok(Self {
            tenant,
            store,
            clock,
            model: RwLock::new(model),
            writer: Mutex::new(ends),
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

    fn writer(&self) -> MutexGuard<'_, Ends> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes one change: `decide` looks at the model and fills the change, which is then on disk and in
    /// the model when this returns. Gives what `decide` gave and the sequence of the newest audit record.
    ///
    /// A change too large for one batch is committed in several, the audit record with the first.
    ///
    /// # Errors
    ///
    /// What `decide` fails with, and then nothing is changed; those of the store.
    pub fn change<T, E: From<StoreError>>(
        &self,
        decide: impl FnOnce(&Model, &mut Change) -> Result<T, E>,
    ) -> Result<(T, u64), E> {
        let mut ends = self.writer();
        let mut change =
            Change { now: self.clock.now(), batch: Batch::new(), writes: Vec::new(), audit: Vec::new() };
        let result = decide(&self.model(), &mut change)?;
        let Change { mut batch, writes, audit, .. } = change;
        let mut after = *ends;
        for entry in audit {
            (_, after) = audit::append(&mut batch, &self.tenant, &after, entry)?;
        }
        let mut writes = writes.into_iter().peekable();
        loop {
            let mut applied = Vec::new();
            {
                let model = self.model();
                while batch.bytes() < BATCH_BYTES_GOAL
                    && let Some(write) = writes.next()
                {
                    write.rows(&self.tenant, &model, &mut batch)?;
                    applied.push(write);
                }
            }
            if batch.is_empty() {
                break;
            }
            self.store.commit(&batch)?;
            *ends = after;
            let news =
                [<tables::PendingPolicy<'_> as Table>::PREFIX, <tables::Catalogue<'_> as Table>::PREFIX];
            let is_news = |key: &[u8]| {
                news.iter().any(|table| key.strip_prefix(*table).is_some_and(|k| k.first() == Some(&0)))
            };
            if batch.puts.iter().any(|(key, _)| is_news(key)) {
                self.news.wake();
            }
            {
                let mut model = self.model.write().unwrap_or_else(PoisonError::into_inner);
                applied.into_iter().for_each(|write| model.apply(write));
            }
            batch = Batch::new();
        }
        Ok((result, ends.head.0))
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
        let mut ends = self.writer();
        match audit::retain(self.store(), &self.tenant, &ends, keep)? {
            Some(kept) => {
                *ends = kept;
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

    /// The packed facts of an endpoint, by number.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn packed_facts(&self, endpoint: u32) -> Result<Option<Vec<u8>>, StoreError> {
        chunked::get(self.store(), &tables::Facts { tenant: &self.tenant, number: endpoint, chunk: 0 })
    }
}

fn states(store: &dyn Store, tenant: &TenantId, endpoint: u32) -> Result<Record, StoreError> {
    let row = tables::States { tenant, number: endpoint, chunk: 0 };
    match chunked::get(store, &row)? {
        Some(bytes) => Record::decode(&bytes)
            .map_err(|source| StoreError::Malformed { key: table::full_key(&row), source: source.into() }),
        None => Ok(Record::default()),
    }
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
            model.apply(Write::Catalogue(id, record));
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
