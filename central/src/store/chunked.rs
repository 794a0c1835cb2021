//! Values larger than one row: split into numbered chunks that are written and read together.
//!
//! Chunk 0 begins with the number of chunks (one byte), so that rows left over from a longer value
//! are never read.

use tierway_common::store::{Batch, Store, StoreError, table};

/// Bytes of one chunk, below what one row may hold.
pub const CHUNK_BYTES_MAX: usize = 60 * 1024;
/// Chunks of one value: 2.4 MiB, more than any value here is allowed to have, and a batch still holds it.
pub const CHUNKS_MAX: u8 = 40;

/// A table whose values are bytes in chunks.
pub trait Chunked: table::Table<Value = Vec<u8>> + Sized {
    /// The row of another chunk of the same value.
    #[must_use]
    fn chunk(&self, chunk: u8) -> Self;
}

/// Adds to `batch` that the value of `row` shall be `value`.
///
/// # Errors
///
/// [`StoreError::ValueTooLarge`] when it would be more than [`CHUNKS_MAX`] chunks.
pub fn put<T: Chunked>(batch: &mut Batch, row: &T, value: &[u8]) -> Result<(), StoreError> {
    let too_large = || StoreError::ValueTooLarge { key: table::full_key(&row.chunk(0)), bytes: value.len() };
    let count = u8::try_from((value.len() + 1).div_ceil(CHUNK_BYTES_MAX)).map_err(|_| too_large())?;
    if count > CHUNKS_MAX {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(value.len() + 1);
    bytes.push(count);
    bytes.extend_from_slice(value);
    for (number, chunk) in (0u8..).zip(bytes.chunks(CHUNK_BYTES_MAX)) {
        table::put(batch, &row.chunk(number), &chunk.to_vec())?;
    }
    // A value that shrinks usually does so by one chunk; older rows beyond are never read.
    table::delete(batch, &row.chunk(count));
    Ok(())
}

/// Adds to `batch` that `row` shall have no value.
pub fn delete<T: Chunked>(batch: &mut Batch, row: &T) {
    (0..=CHUNKS_MAX).for_each(|number| table::delete(batch, &row.chunk(number)));
}

/// The value of `row`, if it exists.
///
/// # Errors
///
/// Those of the store; [`StoreError::Malformed`] when a chunk is missing.
pub fn get<T: Chunked>(store: &dyn Store, row: &T) -> Result<Option<Vec<u8>>, StoreError> {
    with(store, row, <[u8]>::to_vec)
}

/// What `read` makes of the value of `row`, if it exists; a value of one chunk is read where it lies.
///
/// # Errors
///
/// As [`get`].
pub fn with<T: Chunked, R>(
    store: &dyn Store,
    row: &T,
    mut read: impl FnMut(&[u8]) -> R,
) -> Result<Option<R>, StoreError> {
    let (mut of_one, mut count, mut value) = (None, 0, Vec::new());
    let there = store.read(&table::full_key(&row.chunk(0)), &mut |bytes| match bytes.split_first() {
        Some((1, rest)) => of_one = Some(read(rest)),
        Some((first, rest)) => (count, value) = (*first, rest.to_vec()),
        None => {}
    })?;
    if !there || of_one.is_some() {
        return Ok(of_one);
    }
    if count == 0 {
        return Err(malformed(&row.chunk(0)));
    }
    for number in 1..count {
        let chunk = row.chunk(number);
        value.extend(table::get(store, &chunk)?.ok_or_else(|| malformed(&chunk))?);
    }
    Ok(Some(read(&value)))
}

fn malformed<T: Chunked>(row: &T) -> StoreError {
    StoreError::Malformed { key: table::full_key(row), source: "a chunk is missing".into() }
}

#[cfg(test)]
mod tests {
    use tierway_common::store::memory::MemoryStore;

    use super::{super::tables::Facts, *};

    #[test]
    fn a_value_of_which_a_chunk_is_missing_or_empty_is_malformed() {
        let (store, tenant) = (MemoryStore::new(), "default".parse().unwrap());
        let row = |number, chunk| Facts { tenant: &tenant, number, chunk };
        let mut batch = Batch::new();
        put(&mut batch, &row(1, 0), &[7; 2 * CHUNK_BYTES_MAX]).unwrap();
        store.commit(&batch).unwrap();
        let mut batch = Batch::new();
        table::delete(&mut batch, &row(1, 1));
        table::put(&mut batch, &row(2, 0), &Vec::new()).unwrap();
        table::put(&mut batch, &row(3, 0), &vec![0, 7]).unwrap();
        store.commit(&batch).unwrap();
        for number in 1..=3 {
            let found = get(&store, &row(number, 0));
            let bytes = found.as_ref().map(|value| value.as_ref().map(Vec::len));
            assert!(matches!(found, Err(StoreError::Malformed { .. })), "{number}: {bytes:?}");
        }
    }

    #[test]
    fn a_long_value_and_then_a_shorter_one_are_read_back_as_written() {
        let (store, tenant) = (MemoryStore::new(), "default".parse().unwrap());
        let row = Facts { tenant: &tenant, number: 7, chunk: 0 };
        for bytes in
            [0, 1, CHUNK_BYTES_MAX - 1, CHUNK_BYTES_MAX, 5 * CHUNK_BYTES_MAX, 10, 2 * CHUNK_BYTES_MAX]
        {
            let value: Vec<u8> = (0..bytes).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let mut batch = Batch::new();
            put(&mut batch, &row, &value).unwrap();
            store.commit(&batch).unwrap();
            assert_eq!(get(&store, &row).unwrap(), Some(value), "{bytes}");
        }
        assert_eq!(get(&store, &Facts { tenant: &tenant, number: 8, chunk: 0 }).unwrap(), None);
    }

    #[test]
    fn a_value_over_the_limit_is_refused() {
        let tenant = "default".parse().unwrap();
        let row = Facts { tenant: &tenant, number: 7, chunk: 0 };
        let value = vec![0; CHUNK_BYTES_MAX * usize::from(CHUNKS_MAX)];
        assert!(matches!(put(&mut Batch::new(), &row, &value), Err(StoreError::ValueTooLarge { .. })));
    }
}
