//! Turns at a handshake: only so many are under way, so that of a thousand peers who come in the same moment the first are
//! through while the others wait, instead of all being slow together and none in time.
//!
//! Whoever waits has sent the whole of what a handshake begins with, so silence takes no turn. All of one address have a part
//! of the turns, so that nobody takes them from everybody else. They come in the order in which they were asked for.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// The turns of one door.
#[derive(Debug)]
pub(super) struct Turns {
    all: Semaphore,
    of_one_max: usize,
    /// Of addresses that have a turn or wait for one.
    by_address: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

/// A turn, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    _all: SemaphorePermit<'a>,
    _of_one: OwnedSemaphorePermit,
    _address: Address<'a>,
}

/// Keeps an address among those that have turns.
#[derive(Debug)]
struct Address<'a> {
    turns: &'a Turns,
    address: IpAddr,
}

impl Drop for Address<'_> {
    fn drop(&mut self) {
        // Nobody else has one when only the table does.
        if let Entry::Occupied(turns) = self.turns.by_address().entry(self.address)
            && Arc::strong_count(turns.get()) == 1
        {
            turns.remove();
        }
    }
}

impl Turns {
    /// So many at once, three quarters of them for one address.
    pub(super) fn new(max: usize) -> Self {
        Self { all: Semaphore::new(max), of_one_max: (max * 3 / 4).max(1), by_address: Mutex::default() }
    }

    fn by_address(&self) -> MutexGuard<'_, HashMap<IpAddr, Arc<Semaphore>>> {
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn of this address; `None` never comes, since nobody closes the door for good.
    pub(super) async fn take(&self, address: IpAddr) -> Option<Turn<'_>> {
        let of_one = {
            let mut by_address = self.by_address();
            by_address.entry(address).or_insert_with(|| Arc::new(Semaphore::new(self.of_one_max))).clone()
        };
        let kept = Address { turns: self, address };
        let of_one = of_one.acquire_owned().await.ok()?;
        let all = self.all.acquire().await.ok()?;
        Some(Turn { _all: all, _of_one: of_one, _address: kept })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn one_address_leaves_turns_for_others_and_is_forgotten_when_it_has_none() {
        let turns = Turns::new(4);
        let [one, other] = [IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2])];
        let take = |address| turns.take(address).now_or_never().flatten();
        let mut held: Vec<_> = (0..3).map(|_| take(one).unwrap()).collect();
        assert!(take(one).is_none(), "one address has all turns");
        held.push(take(other).unwrap());
        assert!(take(other).is_none(), "there are more turns than there are");
        held.remove(0);
        held.push(take(one).unwrap());
        drop(held);
        assert!(turns.by_address().is_empty(), "an address without a turn is kept");
        assert_eq!(turns.all.available_permits(), 4);
    }

    #[test]
    fn turns_are_given_in_the_order_in_which_they_were_asked_for() {
        let turns = Turns::new(1);
        let address = IpAddr::from([192, 0, 2, 1]);
        let first = turns.take(address).now_or_never().flatten().unwrap();
        let mut waiting = [1, 2].map(|_| Box::pin(turns.take(address)));
        for waiting in &mut waiting {
            assert!(waiting.as_mut().now_or_never().is_none());
        }
        drop(first);
        let [second, third] = &mut waiting;
        assert!(third.as_mut().now_or_never().is_none(), "who came last is first");
        let turn = second.as_mut().now_or_never().flatten().unwrap();
        drop(turn);
        assert!(third.as_mut().now_or_never().flatten().is_some());
    }
}
