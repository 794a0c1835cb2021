//! Who is let in: counts of what is open, by all and by each, so that nobody's flood is anybody else's outage.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::Limits;
use crate::{
    daemon::places::{Place, Places},
    transport::identity::Holder,
};

/// Whoever is put off may come again in so many seconds…
const LATER_SECONDS: u32 = 5;
/// …and up to so many more, each a second after the one before him.
const LATER_SPREAD_SECONDS: u32 = 10;

/// What is open at one door: connections of those with a certificate, and requests that are being answered.
#[derive(Debug)]
pub(super) struct Admission {
    known: Semaphore,
    anonymous: Semaphore,
    connections: Places<Holder>,
    connections_of_one_max: usize,
    by_holder: Places<Holder>,
    requests_of_one_max: usize,
    by_method: Places<String>,
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
            connections: Places::default(),
            connections_of_one_max: limits.connections_of_one_max,
            by_holder: Places::default(),
            requests_of_one_max: limits.requests_of_one_max,
            by_method: Places::default(),
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
