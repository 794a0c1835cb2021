//! Payloads on their way down: fetched once from the tier above, however many endpoints ask, and ahead
//! of time when an endpoint says it will need one.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tierway_common::{blobs::Blobs, daemon::chain::Chain, trust::digest::Digest};
use tierway_proto::upstream::Upstream;
use tokio::{
    sync::{Semaphore, watch},
    time::timeout,
};
use tracing::{info, warn};

/// Payloads fetched at once.
const FETCHES_MAX: usize = 4;
/// Payloads that are being fetched or wait for it: whoever asks for more is told that they are not here.
const FLIGHTS_MAX: usize = 1_024;
/// Payloads that endpoints said they would need and that are not here yet.
const WANTED_MAX: usize = 20_000;
/// How long a caller waits for a payload that is being fetched, less than what it takes for a stall.
const PATIENCE: Duration = Duration::from_secs(20);

/// The payloads of this relay; cheap to clone.
#[derive(Clone, Debug)]
pub struct Payloads(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    blobs: Blobs,
    upstream: Upstream,
    permits: Semaphore,
    /// Fetches that are running or waiting; the value turns true at their end.
    flights: Mutex<HashMap<Digest, watch::Receiver<bool>>>,
    wanted: Mutex<Wanted>,
}

/// What is noted, in its order; each once.
#[derive(Debug, Default)]
struct Wanted {
    order: VecDeque<Digest>,
    all: HashSet<Digest>,
}

impl Payloads {
    /// Payloads in `blobs`, got from `upstream`.
    #[must_use]
    pub fn new(blobs: Blobs, upstream: Upstream) -> Self {
        Self(Arc::new(Inner {
            blobs,
            upstream,
            permits: Semaphore::new(FETCHES_MAX),
            flights: Mutex::default(),
            wanted: Mutex::default(),
        }))
    }

    /// Where they are kept.
    #[must_use]
    pub fn blobs(&self) -> &Blobs {
        &self.0.blobs
    }

    /// Whether the payload is here, after fetching it if that does not take too long; the fetch goes on
    /// when it does.
    pub async fn have(&self, digest: Digest) -> bool {
        if self.0.blobs.contains(&digest) {
            return true;
        }
        let Some(mut landed) = self.fly(digest) else { return false };
        let _ = timeout(PATIENCE, landed.wait_for(|landed| *landed)).await;
        self.0.blobs.contains(&digest)
    }

    /// Notes what an endpoint will need; [`Payloads::stage`] gets it. Whether anything was new.
    pub fn want(&self, digests: impl Iterator<Item = Digest>) -> bool {
        let mut wanted = self.0.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let before = wanted.order.len();
        for digest in digests {
            let fits = wanted.order.len() < WANTED_MAX && !self.0.blobs.contains(&digest);
            if fits && wanted.all.insert(digest) {
                wanted.order.push_back(digest);
            }
        }
        wanted.order.len() > before
    }

    /// Fetches what was noted, one after the other with `FETCHES_MAX` at once; what the tier above
    /// does not have yet is noted again by the endpoint that needs it.
    pub async fn stage(&self) {
        loop {
            let batch: Vec<_> = {
                let mut wanted = self.0.wanted.lock().unwrap_or_else(PoisonError::into_inner);
                let count = wanted.order.len().min(FETCHES_MAX);
                let batch: Vec<_> = wanted.order.drain(..count).collect();
                for digest in &batch {
                    wanted.all.remove(digest);
                }
                batch
            };
            if batch.is_empty() {
                return;
            }
            for mut landed in batch.into_iter().filter_map(|digest| self.fly(digest)).collect::<Vec<_>>() {
                let _ = landed.wait_for(|landed| *landed).await;
            }
        }
    }

    /// One fetch for all who ask; none when too many run or wait.
    fn fly(&self, digest: Digest) -> Option<watch::Receiver<bool>> {
        let mut flights = self.0.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&digest) {
            return Some(flight.clone());
        }
        if flights.len() >= FLIGHTS_MAX {
            return None;
        }
        let (done, flight) = watch::channel(false);
        flights.insert(digest, flight.clone());
        let this = self.clone();
        tokio::spawn(async move {
            if let Ok(_permit) = this.0.permits.acquire().await {
                match this.0.upstream.payload(digest, None, &this.0.blobs).await {
                    Ok(()) => info!(%digest, "fetched a payload"),
                    Err(error) => warn!(%digest, error = %Chain(&error), "could not fetch a payload"),
                }
            }
            this.0.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&digest);
            done.send_replace(true);
        });
        Some(flight)
    }
}

#[cfg(test)]
mod tests {
    use tierway_common::blobs::BlobOptions;

    use super::*;

    fn payloads(dir: &tempfile::TempDir) -> Payloads {
        let options = BlobOptions { quota_bytes: 1 << 20, free_floor_bytes: 0 };
        let nobody = tonic::transport::Endpoint::from_static("http://127.0.0.1:9").connect_lazy();
        Payloads::new(Blobs::open(dir.path(), options).unwrap(), Upstream::new(nobody))
    }

    fn digests(count: usize) -> impl Iterator<Item = Digest> {
        (0..count).map(|number| Digest::of(&number.to_be_bytes()))
    }

    #[tokio::test]
    async fn payloads_that_nobody_has_are_not_asked_for_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let payloads = payloads(&dir);
        let held = payloads.0.permits.acquire_many(FETCHES_MAX.try_into().unwrap()).await.unwrap();
        let mut flights: Vec<_> = digests(FLIGHTS_MAX).map(|digest| payloads.fly(digest).unwrap()).collect();
        let more = Digest::of(b"one more");
        assert!(payloads.fly(more).is_none() && !payloads.have(more).await);
        assert!(payloads.fly(digests(1).next().unwrap()).is_some(), "who asks for the same waits with it");
        drop(held);
        for flight in &mut flights {
            flight.wait_for(|landed| *landed).await.unwrap();
        }
        assert!(payloads.fly(more).is_some());
    }

    #[tokio::test]
    async fn what_many_want_is_noted_once_and_no_more_than_fits() {
        let dir = tempfile::tempdir().unwrap();
        let payloads = payloads(&dir);
        let here = payloads.blobs().put(b"here").unwrap();
        assert!(!payloads.want([here].into_iter()));
        assert!(payloads.want(digests(3)) && !payloads.want(digests(3)));
        assert!(payloads.want(digests(WANTED_MAX + 5)) && !payloads.want(digests(WANTED_MAX + 5)));
        let wanted = payloads.0.wanted.lock().unwrap();
        assert!(wanted.order.iter().copied().eq(digests(WANTED_MAX)));
    }
}
