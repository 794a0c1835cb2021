//! Places of which each may have so many, whoever comes: what is open of whom.
//!
//! A place is free again when it is dropped. A key is kept only while it has one, so that the counts take no more
//! memory than what they limit.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

/// How many places each key has; cheap to clone.
#[derive(Debug)]
pub struct Places<K>(Arc<Mutex<HashMap<K, usize>>>);

impl<K> Clone for Places<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K> Default for Places<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Clone + Eq + Hash> Places<K> {
    /// A place for `key`, unless it has `max` of them.
    #[must_use]
    pub fn take(&self, key: &K, max: usize) -> Option<Place<K>> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.get(key).copied().unwrap_or(0);
        if count >= max {
            return None;
        }
        taken.insert(key.clone(), count + 1);
        Some(Place { places: self.clone(), key: key.clone() })
    }
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct Place<K: Clone + Eq + Hash> {
    places: Places<K>,
    key: K,
}

impl<K: Clone + Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_as_many_as_one_may_have_is_refused_and_nobody_else_is() {
        let places = Places::default();
        let held: Vec<_> = (0..2).map(|_| places.take(&"a", 2).unwrap()).collect();
        assert!(places.take(&"a", 2).is_none());
        let other = places.take(&"b", 2).unwrap();
        drop(held);
        assert!(places.take(&"a", 2).is_some());
        drop(other);
        assert!(places.0.lock().unwrap().is_empty(), "what is free is kept");
    }
}
