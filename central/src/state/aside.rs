//! A change that is larger than one batch, made as one: its batches are written aside, then, in the commit that
//! says that they are all there, it is decided, and then they are put in place one by one.
//!
//! A crash before that commit leaves nothing of it; one after it is mended by [`finish`], which may be
//! called again and again: what a batch does does not depend on what is there.

use tierway_common::{
    id::TenantId,
    store::{Batch, Store, StoreError, table},
};

use crate::store::tables;

/// Bytes of one row, below what one may hold.
const CHUNK_BYTES_MAX: usize = 60 * 1024;
/// Bytes that are written aside in one commit.
const COMMIT_BYTES_GOAL: usize = 2 * 1024 * 1024;
/// Rows that are removed in one commit.
const SWEPT_AT_ONCE: usize = 1_000;

/// Writes `batches` aside and decides that they shall be put in place. Their expectations are checked now.
///
/// # Errors
///
/// Those of the store; then nothing is decided.
pub(super) fn write(store: &dyn Store, tenant: &TenantId, batches: &[Batch]) -> Result<(), StoreError> {
    let mut commit = Batch::new();
    commit.expects = batches.iter().flat_map(|batch| batch.expects.iter().cloned()).collect();
    let mut chunks = Vec::with_capacity(batches.len());
    for (batch, number) in batches.iter().zip(0u32..) {
        let bytes = encode(batch);
        let mut count = 0u32;
        for chunk in bytes.chunks(CHUNK_BYTES_MAX) {
            table::put(&mut commit, &tables::Aside { tenant, batch: number, chunk: count }, &chunk.to_vec())?;
            count += 1;
            if commit.bytes() >= COMMIT_BYTES_GOAL {
                store.commit(&std::mem::take(&mut commit))?;
            }
        }
        chunks.push(count);
    }
    table::put(&mut commit, &tables::AsideWhole { tenant }, &chunks)?;
    store.commit(&commit)
}

/// Puts in place what was decided, if anything was, and removes what is left aside; whether anything was.
///
/// # Errors
///
/// Those of the store, also when a row aside is damaged; then it is to be called again.
pub(super) fn finish(store: &dyn Store, tenant: &TenantId) -> Result<bool, StoreError> {
    let whole = tables::AsideWhole { tenant };
    let chunks = table::get(store, &whole)?;
    for (count, batch) in chunks.iter().flatten().zip(0u32..) {
        let mut bytes = Vec::new();
        for chunk in 0..*count {
            let row = tables::Aside { tenant, batch, chunk };
            bytes.extend(table::get(store, &row)?.ok_or_else(|| damaged(&row))?);
        }
        store.commit(&decode(&bytes).ok_or_else(|| damaged(&tables::Aside { tenant, batch, chunk: 0 }))?)?;
    }
    if chunks.is_some() {
        let mut done = Batch::new();
        table::delete(&mut done, &whole);
        store.commit(&done)?;
    }
    sweep(store, tenant)?;
    Ok(chunks.is_some())
}

/// Removes rows that belong to nothing that was decided.
fn sweep(store: &dyn Store, tenant: &TenantId) -> Result<(), StoreError> {
    let prefix = table::prefixed::<tables::Aside<'_>>(&table::Key::new().text(tenant.as_str()).done());
    loop {
        let rows = store.scan(&prefix, None, SWEPT_AT_ONCE)?;
        if rows.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.deletes = rows.into_iter().map(|row| row.key).collect();
        store.commit(&batch)?;
    }
}

fn damaged(row: &tables::Aside<'_>) -> StoreError {
    StoreError::Malformed { key: table::full_key(row), source: "a part of a change is missing".into() }
}

/// Number of puts, each key and value; number of deletes, each key. Numbers and lengths are u32, big-endian.
fn encode(batch: &Batch) -> Vec<u8> {
    fn number(out: &mut Vec<u8>, number: usize) {
        // A batch has at most 4 MiB.
        out.extend(u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes());
    }
    fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
        number(out, bytes.len());
        out.extend(bytes);
    }
    let mut out = Vec::new();
    number(&mut out, batch.puts.len());
    for (key, value) in &batch.puts {
        bytes(&mut out, key);
        bytes(&mut out, value);
    }
    number(&mut out, batch.deletes.len());
    batch.deletes.iter().for_each(|key| bytes(&mut out, key));
    out
}

/// What [`encode`] wrote; `None` for anything else.
fn decode(mut from: &[u8]) -> Option<Batch> {
    fn number(from: &mut &[u8]) -> Option<usize> {
        let (number, rest) = from.split_first_chunk::<4>()?;
        *from = rest;
        usize::try_from(u32::from_be_bytes(*number)).ok()
    }
    fn bytes(from: &mut &[u8]) -> Option<Vec<u8>> {
        let length = number(from)?;
        let (bytes, rest) = from.split_at_checked(length)?;
        *from = rest;
        Some(bytes.to_vec())
    }
    let mut batch = Batch::new();
    for _ in 0..number(&mut from)? {
        batch.put(bytes(&mut from)?, bytes(&mut from)?);
    }
    for _ in 0..number(&mut from)? {
        batch.delete(bytes(&mut from)?);
    }
    from.is_empty().then_some(batch)
}

#[cfg(test)]
mod tests {
    use tierway_common::store::memory::MemoryStore;

    use super::*;

    #[test]
    fn a_batch_is_read_as_it_was_written_and_half_of_one_is_none() {
        let mut batch = Batch::new();
        batch.put("a", "1").put("b", vec![0; 300]).delete("c").delete("");
        let bytes = encode(&batch);
        assert_eq!(decode(&bytes), Some(batch));
        for length in 0..bytes.len() {
            assert_eq!(decode(&bytes[..length]), None, "{length} bytes");
        }
        assert_eq!(decode(&[&bytes[..], &[0]].concat()), None);
    }

    #[test]
    fn what_is_aside_and_was_not_decided_is_removed() {
        let (store, tenant) = (MemoryStore::new(), "default".parse().unwrap());
        let mut batch = Batch::new();
        let row = tables::Aside { tenant: &tenant, batch: 7, chunk: 0 };
        table::put(&mut batch, &row, &vec![1, 2, 3]).unwrap();
        store.commit(&batch).unwrap();
        assert!(!finish(&store, &tenant).unwrap());
        assert_eq!(table::get(&store, &row).unwrap(), None);
    }
}
