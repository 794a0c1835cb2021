//! How many may be connected or watch at once.
//!
//! Everybody may connect, so nobody who does so without end may shut others out: each user has so many places, all
//! users together have some more, and root's are not among those.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Who watches at once: each session of a user has a program that does, and he may look besides.
pub(super) const WATCHERS: Limits = Limits { all: 256, each: 16 };

/// How many places there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// For all users but root.
    pub(super) all: usize,
    /// For one user, root as well.
    pub(super) each: usize,
}

/// Places that users take and give back.
#[derive(Clone, Debug)]
pub(super) struct Places {
    limits: Limits,
    taken: Arc<Mutex<BTreeMap<u32, usize>>>,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Full {
    #[error("this user has {0} of them open already")]
    Each(usize),
    #[error("{0} of them are open already")]
    All(usize),
}

impl Places {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, taken: Arc::default() }
    }

    /// A place for the user `uid`, until it is dropped.
    pub(super) fn take(&self, uid: u32) -> Result<Place, Full> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let others: usize = taken.iter().filter(|(uid, _)| **uid != 0).map(|(_, count)| count).sum();
        if uid != 0 && others >= self.limits.all {
            return Err(Full::All(self.limits.all));
        }
        let count = taken.get(&uid).copied().unwrap_or(0);
        if count >= self.limits.each {
            return Err(Full::Each(self.limits.each));
        }
        taken.insert(uid, count + 1);
        Ok(Place { taken: self.taken.clone(), uid })
    }
}

/// A place that is taken.
#[derive(Debug)]
pub(super) struct Place {
    taken: Arc<Mutex<BTreeMap<u32, usize>>>,
    uid: u32,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let left = taken.get(&self.uid).map_or(0, |count| count.saturating_sub(1));
        if left == 0 {
            taken.remove(&self.uid);
        } else {
            taken.insert(self.uid, left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_every_place_he_gets_leaves_some_to_others_and_root_is_never_shut_out() {
        let places = Places::new(Limits { all: 5, each: 3 });
        let mut held: Vec<Place> = (0..3).map(|_| places.take(1000).unwrap()).collect();
        assert_eq!(places.take(1000).unwrap_err(), Full::Each(3));
        held.extend((0..2).map(|_| places.take(1001).unwrap()));
        assert_eq!(places.take(1001).unwrap_err(), Full::All(5));
        assert_eq!(places.take(1002).unwrap_err(), Full::All(5));
        let root: Vec<Place> = (0..3).map(|_| places.take(0).unwrap()).collect();
        assert_eq!(places.take(0).unwrap_err(), Full::Each(3));
        held.remove(0);
        held.push(places.take(1002).unwrap());
        assert_eq!(places.take(1002).unwrap_err(), Full::All(5));
        drop((held, root));
        assert!(places.taken.lock().unwrap().is_empty(), "nothing is kept of who has gone");
    }
}
