//! Who is let in: counts of what is open, by all and by each, so that nobody's flood is anybody else's outage.
//!
//! What is counted is released when it is dropped. A key is kept only while something of it is open, so that the
//! counts take no more memory than what they limit.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::Limits;
use crate::transport::identity::Holder;

/// Whoever is put off may come again in so many seconds…
const LATER_SECONDS: u32 = 5;
/// …and up to so many more, each a second after the one before him.
const LATER_SPREAD_SECONDS: u32 = 10;

/// What is open at one door: connections of those with a certificate, and requests that are being answered.
#[derive(Debug)]
pub(super) struct Admission {
    known: Semaphore,
    anonymous: Semaphore,
    connections: Counted<Holder>,
    connections_of_one_max: usize,
    by_holder: Counted<Holder>,
    requests_of_one_max: usize,
    by_method: Counted<String>,
    requests_of_method_max: usize,
    /// How many were told to come later.
    put_off: AtomicU32,
}

/// What a request holds until it is answered.
type Permit<'a> = (SemaphorePermit<'a>, Option<(Place<Holder>, Place<String>)>);

impl Admission {
    /// Nothing is open yet.
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            known: Semaphore::new(limits.requests_max),
            anonymous: Semaphore::new(limits.anonymous_requests_max),
            connections: Counted::default(),
            connections_of_one_max: limits.connections_of_one_max,
            by_holder: Counted::default(),
            requests_of_one_max: limits.requests_of_one_max,
            by_method: Counted::default(),
            requests_of_method_max: limits.requests_of_method_max,
            put_off: AtomicU32::new(0),
        }
    }

    /// In how many seconds the next who is put off may come again: not all in the same moment.
    pub(super) fn later(&self) -> u32 {
        LATER_SECONDS + self.put_off.fetch_add(1, Ordering::Relaxed) % LATER_SPREAD_SECONDS
    }

    /// A place for a connection of that holder of a certificate, unless he has as many as one may.
    pub(super) fn connection(&self, holder: &Holder) -> Option<Place<Holder>> {
        self.connections.take(holder, self.connections_of_one_max)
    }

    /// A place for a request that calls `method`, from who has a certificate or from somebody else; or why there is none.
    pub(super) fn request(&self, holder: Option<&Holder>, method: &str) -> Result<Permit<'_>, &'static str> {
        let all = if holder.is_some() { &self.known } else { &self.anonymous };
        let all = all.try_acquire().map_err(|_| "too many requests are being answered")?;
        let Some(holder) = holder else { return Ok((all, None)) };
        let of_one = self.by_holder.take(holder, self.requests_of_one_max);
        let of_one = of_one.ok_or("too many requests of this certificate are being answered")?;
        let of_method = self.by_method.take(&method.to_owned(), self.requests_of_method_max);
        let of_method = of_method.ok_or("too many requests of this kind are being answered")?;
        Ok((all, Some((of_one, of_method))))
    }
}

/// How many are open, altogether and by key.
#[derive(Debug)]
pub(super) struct Counted<K>(Arc<Mutex<HashMap<K, usize>>>);

impl<K> Clone for Counted<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K> Default for Counted<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Clone + Eq + Hash> Counted<K> {
    /// A place for `key`, unless it has `max` of them.
    pub(super) fn take(&self, key: &K, max: usize) -> Option<Place<K>> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.get(key).copied().unwrap_or(0);
        if count >= max {
            return None;
        }
        open.insert(key.clone(), count + 1);
        Some(Place { counted: self.clone(), key: key.clone() })
    }
}

/// One that is open.
#[derive(Debug)]
pub(super) struct Place<K: Clone + Eq + Hash> {
    counted: Counted<K>,
    key: K,
}

impl<K: Clone + Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut open = self.counted.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_as_many_as_one_may_have_is_refused_and_nobody_else_is() {
        let counted = Counted::default();
        let held: Vec<_> = (0..2).map(|_| counted.take(&"a", 2).unwrap()).collect();
        assert!(counted.take(&"a", 2).is_none());
        let other = counted.take(&"b", 2).unwrap();
        drop(held);
        assert!(counted.take(&"a", 2).is_some());
        drop(other);
        assert!(counted.0.lock().unwrap().is_empty(), "what is closed is kept");
    }
}
