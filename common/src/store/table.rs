//! Typed rows: a table says how a row's key is made of its parts and what its value is.
//!
//! The key of a row is the table's name, a `0x00`, and the parts in order. A text part is followed by
//! a `0x00`, which no id contains, and a number is eight bytes, big-endian: so byte order is the order
//! of the parts, and the rows under the first parts are exactly those that start with their bytes.

use serde::{Serialize, de::DeserializeOwned};

use super::{Batch, Store, StoreError};

/// A row of a table, by the parts of its key.
pub trait Table {
    /// The table's name: ASCII, without `0x00`, different from every other table's.
    const PREFIX: &'static [u8];
    /// What a row holds.
    type Value: Serialize + DeserializeOwned;

    /// The parts of the key, as [`Key`] puts them together; without the table's name.
    fn key(&self) -> Vec<u8>;

    /// The bytes kept for `value`: JSON, unless the table has its own packed form.
    ///
    /// # Errors
    ///
    /// [`StoreError::Malformed`] when the value cannot be written as JSON.
    fn encode(value: &Self::Value) -> Result<Vec<u8>, StoreError> {
        serde_json::to_vec(value)
            .map_err(|source| StoreError::Malformed { key: Self::PREFIX.to_vec(), source: source.into() })
    }

    /// The value that was kept as `bytes`.
    ///
    /// # Errors
    ///
    /// The decoder's own, which the caller puts into [`StoreError::Malformed`] with the row's key.
    fn decode(bytes: &[u8]) -> Result<Self::Value, Box<dyn std::error::Error + Send + Sync>> {
        Ok(serde_json::from_slice(bytes)?)
    }
}

/// Most keys are shorter.
const KEY_BYTES: usize = 64;

/// Puts the parts of a key together.
#[derive(Clone, Debug, Default)]
pub struct Key(Vec<u8>);

impl Key {
    /// No part yet.
    #[must_use]
    pub fn new() -> Self {
        Self(Vec::with_capacity(KEY_BYTES))
    }

    /// A text that contains no `0x00`; ids never do. Should one, it is kept escaped (`0x00` as
    /// `0x01 0x01`, `0x01` as `0x01 0x02`), so that two different keys never become one.
    #[must_use]
    pub fn text(mut self, part: &str) -> Self {
        for &byte in part.as_bytes() {
            match byte {
                0 => self.0.extend([1, 1]),
                1 => self.0.extend([1, 2]),
                _ => self.0.push(byte),
            }
        }
        self.0.push(0);
        self
    }

    /// A number, eight bytes.
    #[must_use]
    pub fn number(mut self, part: u64) -> Self {
        self.0.extend(part.to_be_bytes());
        self
    }

    /// Bytes as they are; only as the last part, or of a fixed length.
    #[must_use]
    pub fn bytes(mut self, part: &[u8]) -> Self {
        self.0.extend(part);
        self
    }

    /// The key's bytes.
    #[must_use]
    pub fn done(self) -> Vec<u8> {
        self.0
    }
}

/// Takes the parts of a key apart, in the order in which they were put together.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    /// Of a key without its table's name, as [`Table::key`] and [`scan`] give it.
    #[must_use]
    pub fn of(key: &'a [u8]) -> Self {
        Self(key)
    }

    /// The next part, a text; `None` if what is next is none.
    pub fn text(&mut self) -> Option<String> {
        let end = self.0.iter().position(|&byte| byte == 0)?;
        let (part, rest) = (&self.0[..end], &self.0[end + 1..]);
        let mut text = Vec::with_capacity(part.len());
        let mut bytes = part.iter();
        while let Some(&byte) = bytes.next() {
            text.push(match byte {
                1 => match bytes.next()? {
                    1 => 0,
                    2 => 1,
                    _ => return None,
                },
                _ => byte,
            });
        }
        self.0 = rest;
        String::from_utf8(text).ok()
    }

    /// The next part, a number; `None` if fewer than eight bytes are left.
    pub fn number(&mut self) -> Option<u64> {
        let (part, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*part))
    }

    /// What is left.
    #[must_use]
    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// The whole key of `row`: table name, `0x00`, parts.
#[must_use]
pub fn full_key<T: Table>(row: &T) -> Vec<u8> {
    prefixed::<T>(&row.key())
}

/// The table's name, `0x00`, and `parts`: what the rows under these first parts start with.
#[must_use]
pub fn prefixed<T: Table>(parts: &[u8]) -> Vec<u8> {
    [T::PREFIX, &[0], parts].concat()
}

/// The value of `row`, if it exists.
///
/// # Errors
///
/// Those of [`Store::get`]; [`StoreError::Malformed`] when the bytes cannot be read.
pub fn get<T: Table>(store: &dyn Store, row: &T) -> Result<Option<T::Value>, StoreError> {
    let key = full_key(row);
    match store.get(&key)? {
        Some(bytes) => decode::<T>(key, &bytes).map(Some),
        None => Ok(None),
    }
}

/// Adds to `batch` that `row` shall hold `value`.
///
/// # Errors
///
/// Those of [`Table::encode`].
pub fn put<T: Table>(batch: &mut Batch, row: &T, value: &T::Value) -> Result<(), StoreError> {
    batch.put(full_key(row), T::encode(value)?);
    Ok(())
}

/// Adds to `batch` that `row` shall not exist.
pub fn delete<T: Table>(batch: &mut Batch, row: &T) {
    batch.delete(full_key(row));
}

/// The key of a row without the table's name, for [`Parts`] and as the next `after`, and its value.
pub type Entry<T> = (Vec<u8>, <T as Table>::Value);

/// Rows under the first `parts` of a key (empty: the whole table), after the row with the parts
/// `after` if that is given, in ascending key order, at most `limit`.
///
/// # Errors
///
/// Those of [`Store::scan`]; [`StoreError::Malformed`] when a row cannot be read.
pub fn scan<T: Table>(
    store: &dyn Store,
    parts: &[u8],
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<Entry<T>>, StoreError> {
    let after = after.map(prefixed::<T>);
    let rows = store.scan(&prefixed::<T>(parts), after.as_deref(), limit)?;
    rows.into_iter()
        .map(|row| {
            let key = row.key[T::PREFIX.len() + 1..].to_vec();
            Ok((key, decode::<T>(row.key, &row.value)?))
        })
        .collect()
}

/// Calls `visit` with every row under the first `parts`, in ascending key order, reading
/// [`PAGE_ROWS`] at a time. Rows committed meanwhile may be seen or not.
///
/// # Errors
///
/// Those of [`scan`], and those of `visit`, at the first of which it ends.
pub fn for_each<T: Table, E: From<StoreError>>(
    store: &dyn Store,
    parts: &[u8],
    mut visit: impl FnMut(&[u8], T::Value) -> Result<(), E>,
) -> Result<(), E> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let rows = scan::<T>(store, parts, after.as_deref(), PAGE_ROWS)?;
        let more = rows.len() == PAGE_ROWS;
        for (key, value) in rows {
            visit(&key, value)?;
            after = Some(key);
        }
        if !more {
            return Ok(());
        }
    }
}

/// Rows that [`for_each`] holds at a time: at most 32 MiB at the largest value, a few hundred KiB usually.
pub const PAGE_ROWS: usize = 512;

fn decode<T: Table>(key: Vec<u8>, bytes: &[u8]) -> Result<T::Value, StoreError> {
    T::decode(bytes).map_err(|source| StoreError::Malformed { key, source })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::memory::MemoryStore;

    struct Login<'a> {
        tenant: &'a str,
        number: u64,
    }

    impl Table for Login<'_> {
        const PREFIX: &'static [u8] = b"login";
        type Value = String;
        fn key(&self) -> Vec<u8> {
            Key::new().text(self.tenant).number(self.number).done()
        }
    }

    struct Packed(u64);

    impl Table for Packed {
        const PREFIX: &'static [u8] = b"packed";
        type Value = Vec<u8>;
        fn key(&self) -> Vec<u8> {
            Key::new().number(self.0).done()
        }
        fn encode(value: &Vec<u8>) -> Result<Vec<u8>, StoreError> {
            Ok(value.clone())
        }
        fn decode(bytes: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
            Ok(bytes.to_vec())
        }
    }

    fn filled() -> MemoryStore {
        let store = MemoryStore::new();
        let mut batch = Batch::new();
        for (tenant, number) in [("a", 2), ("a", 1), ("ab", 1), ("a", 256), ("b", 0)] {
            put(&mut batch, &Login { tenant, number }, &format!("{tenant}{number}")).unwrap();
        }
        put(&mut batch, &Packed(7), &vec![0, 255]).unwrap();
        store.commit(&batch).unwrap();
        store
    }

    #[test]
    fn the_rows_of_one_tenant_are_not_those_of_a_tenant_whose_name_begins_alike() {
        let rows = scan::<Login<'_>>(&filled(), &Key::new().text("a").done(), None, 10).unwrap();
        let values: Vec<_> = rows.into_iter().map(|(_, value)| value).collect();
        assert_eq!(values, ["a1", "a2", "a256"]);
    }

    #[test]
    fn a_scan_goes_on_after_the_key_it_ended_with() {
        let store = filled();
        let first = scan::<Login<'_>>(&store, b"", None, 2).unwrap();
        let rest = scan::<Login<'_>>(&store, b"", Some(&first[1].0), 10).unwrap();
        let values: Vec<_> = first.into_iter().chain(rest).map(|(_, value)| value).collect();
        assert_eq!(values, ["a1", "a2", "a256", "ab1", "b0"]);
        let mut visited = vec![];
        for_each::<Login<'_>, StoreError>(&store, b"", |_, value| {
            visited.push(value);
            Ok(())
        })
        .unwrap();
        assert_eq!(visited, values);
    }

    #[test]
    fn a_packed_value_is_kept_as_its_own_bytes() {
        let store = filled();
        assert_eq!(store.get(&full_key(&Packed(7))).unwrap(), Some(vec![0, 255]));
        assert_eq!(get(&store, &Packed(7)).unwrap(), Some(vec![0, 255]));
        assert_eq!(get(&store, &Packed(8)).unwrap(), None);
    }

    #[test]
    fn a_row_that_cannot_be_read_is_named() {
        let store = MemoryStore::new();
        let row = Login { tenant: "a", number: 1 };
        store.commit(Batch::new().put(full_key(&row), b"not json")).unwrap();
        let error = get(&store, &row).unwrap_err();
        assert!(error.to_string().starts_with(r"row `login\x00a\x00"), "{error}");
    }

    proptest! {
        #[test]
        fn keys_sort_as_their_parts_and_come_apart_again(
            a in (".{0,6}", any::<u64>(), ".{0,6}"), b in (".{0,6}", any::<u64>(), ".{0,6}")
        ) {
            let key = |(x, n, y): &(String, u64, String)| Key::new().text(x).number(*n).text(y).done();
            let mut parts = Parts(&key(&a).clone()).0.to_vec();
            let mut read = Parts::of(&parts);
            prop_assert_eq!((read.text().unwrap(), read.number().unwrap(), read.text().unwrap()), a.clone());
            prop_assert!(read.rest().is_empty());
            prop_assert_eq!(key(&a) == key(&b), a == b);
            // The order is that of the parts wherever no text has 0x00 or 0x01.
            if ![&a.0, &a.2, &b.0, &b.2].iter().any(|text| text.contains(['\0', '\x01'])) {
                prop_assert_eq!(key(&a).cmp(&key(&b)), a.cmp(&b));
            }
            parts.truncate(parts.len() / 2);
            let mut cut = Parts::of(&parts);
            prop_assert!(cut.text().is_none() || cut.number().is_none() || cut.text().is_none());
        }
    }
}
