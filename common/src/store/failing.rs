//! A daemon ends when its store has failed for good: started anew by its service manager it opens the store anew, which
//! then has all that was ever acknowledged.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use tracing::error;

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

/// Requests a stop when a store has failed, by what its [`failure`](super::Store::failure) says, and says in `ending` why.
/// Ends with the stop.
pub async fn stop_when_failed(failure: impl Fn() -> Option<String>, stop: Stop, ending: Ending) {
    loop {
        if let Some(failure) = failure() {
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

    #[tokio::test(start_paused = true)]
    async fn a_daemon_ends_when_its_store_has_failed_and_says_why_and_else_when_it_is_asked_to() {
        for fails in [true, false] {
            let (has_failed, stop, ending) =
                (Arc::new(AtomicBool::new(false)), Stop::new(), Ending::default());
            let store = has_failed.clone();
            let failure = move || store.load(Ordering::Relaxed).then(|| "no space".to_owned());
            let watching = tokio::spawn(stop_when_failed(failure, stop.clone(), ending.clone()));
            tokio::time::sleep(10 * ASKED_EVERY).await;
            assert!(!stop.requested() && !watching.is_finished());
            if fails {
                has_failed.store(true, Ordering::Relaxed);
            } else {
                stop.request();
            }
            watching.await.unwrap();
            let why = fails.then(|| "the store has failed: no space".to_owned());
            assert_eq!((stop.requested(), ending.why()), (true, why));
        }
    }
}
