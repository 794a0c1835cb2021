//! Payloads on their way down: fetched once from the tier above, however many endpoints ask, and ahead
//! of time when an endpoint says it will need one.

use std::{
    collections::{HashMap, VecDeque},
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
    wanted: Mutex<VecDeque<Digest>>,
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
        let mut landed = self.fly(digest);
        let _ = timeout(PATIENCE, landed.wait_for(|landed| *landed)).await;
        self.0.blobs.contains(&digest)
    }

    /// Notes what an endpoint will need; [`Payloads::stage`] gets it.
    pub fn want(&self, digests: impl Iterator<Item = Digest>) -> bool {
        let mut wanted = self.0.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let before = wanted.len();
        for digest in digests {
            if wanted.len() < WANTED_MAX && !self.0.blobs.contains(&digest) && !wanted.contains(&digest) {
                wanted.push_back(digest);
            }
        }
        wanted.len() > before
    }

    /// Fetches what was noted, one after the other with `FETCHES_MAX` at once; what the tier above
    /// does not have yet is noted again by the endpoint that needs it.
    pub async fn stage(&self) {
        loop {
            let batch: Vec<_> = {
                let mut wanted = self.0.wanted.lock().unwrap_or_else(PoisonError::into_inner);
                let count = wanted.len().min(FETCHES_MAX);
                wanted.drain(..count).collect()
            };
            if batch.is_empty() {
                return;
            }
            for mut landed in batch.into_iter().map(|digest| self.fly(digest)).collect::<Vec<_>>() {
                let _ = landed.wait_for(|landed| *landed).await;
            }
        }
    }

    /// One fetch for all who ask.
    fn fly(&self, digest: Digest) -> watch::Receiver<bool> {
        let mut flights = self.0.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&digest) {
            return flight.clone();
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
        flight
    }
}
