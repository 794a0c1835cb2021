//! A daemon ends when its store has failed for good: started anew by its service manager it opens the store anew, which
//! then has all that was ever acknowledged.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use tracing::error;

use super::Store;
use crate::daemon::stop::Stop;

/// How often a store is asked whether it has failed.
const ASKED_EVERY: Duration = Duration::from_secs(1);

/// Why a daemon ended without having been asked to.
#[derive(Clone, Debug, Default)]
pub struct Ending(Arc<OnceLock<String>>);

impl Ending {
    /// A sentence without a period; `None` when it was asked to.
    #[must_use]
    pub fn why(&self) -> Option<String> {
        self.0.get().cloned()
    }
}

/// Requests a stop when `store` has failed, and says in `ending` why. Ends with the stop.
pub async fn stop_when_failed(store: Arc<dyn Store>, stop: Stop, ending: Ending) {
    loop {
        if let Some(failure) = store.failure() {
            error!(error = failure, "the store has failed and must be opened anew: ending");
            let _ = ending.0.set(format!("the store has failed: {failure}"));
            stop.request();
            return;
        }
        tokio::select! {
            () = stop.wait() => return,
            () = tokio::time::sleep(ASKED_EVERY) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::store::{Batch, Row, StoreError, memory::MemoryStore};

    #[derive(Debug, Default)]
    struct Failing {
        rows: MemoryStore,
        has_failed: AtomicBool,
    }

    impl Store for Failing {
        fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
            self.rows.get(key)
        }

        fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, StoreError> {
            self.rows.scan(prefix, after, limit)
        }

        fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
            self.rows.commit(batch)
        }

        fn disk_bytes(&self) -> u64 {
            self.rows.disk_bytes()
        }

        fn failure(&self) -> Option<String> {
            self.has_failed.load(Ordering::Relaxed).then(|| "no space".to_owned())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_ends_when_its_store_has_failed_and_says_why_and_else_when_it_is_asked_to() {
        for fails in [true, false] {
            let (store, stop, ending) = (Arc::new(Failing::default()), Stop::new(), Ending::default());
            let watching = tokio::spawn(stop_when_failed(store.clone(), stop.clone(), ending.clone()));
            tokio::time::sleep(10 * ASKED_EVERY).await;
            assert!(!stop.requested() && !watching.is_finished());
            if fails {
                store.has_failed.store(true, Ordering::Relaxed);
            } else {
                stop.request();
            }
            watching.await.unwrap();
            let why = fails.then(|| "the store has failed: no space".to_owned());
            assert_eq!((stop.requested(), ending.why()), (true, why));
        }
    }
}
