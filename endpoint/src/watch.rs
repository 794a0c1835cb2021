//! Listens to the tier above: keeps a stream of wake-ups open and notes what is called for.

use std::{
    error::Error,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tierway_common::{
    clock::Clock,
    daemon::{chain::Chain, stop::Stop},
    schedule,
    transport::dial::RouteTaken,
};
use tierway_proto::{notices, upstream::Upstream, v1};
use tokio::sync::{Notify, watch};
use tracing::info;

use crate::calls::{Calls, Hearer};

/// First and longest wait before the tier above is watched again.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(600));
/// Wake-ups are read no faster: they are rare, and a flood of them then waits with who sends it.
const NOTICES_APART: Duration = Duration::from_millis(100);

/// What was heard, shared between who listens and the agent.
#[derive(Debug, Default)]
pub struct Ears {
    calls: Mutex<Calls>,
    heard: Notify,
    /// The service level includes computers on the road.
    include_roaming: AtomicBool,
}

impl Ears {
    /// The calls that wait.
    pub fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when something was heard that wants a check.
    pub async fn heard(&self) {
        self.heard.notified().await;
    }

    /// Whether the service level includes computers on the road.
    pub fn include_roaming(&self, include: bool) {
        self.include_roaming.store(include, Ordering::Relaxed);
    }
}

/// Who listens, and how.
#[derive(Debug)]
pub struct Listener {
    /// Its id.
    pub endpoint: String,
    /// The tier above.
    pub upstream: Upstream,
    /// By which route that is reached.
    pub route: RouteTaken,
    /// On the road whatever the route.
    pub roaming: bool,
    /// Its place among those who are told at once.
    pub place: Duration,
    /// What is trusted.
    pub status: watch::Receiver<Arc<v1::LocalStatus>>,
    /// The time.
    pub clock: Clock,
}

impl Listener {
    /// Keeps a stream of wake-ups open until `stop`; `random` gives numbers that are uniform in their range.
    pub async fn listen(self, ears: Arc<Ears>, stop: Stop, random: impl Fn() -> u32) {
        let mut failures = 0;
        while !stop.requested() {
            let watched = async {
                let has = self.status.borrow().dictionary_version;
                let mut stream = self.upstream.watch(has).await?;
                failures = 0;
                while let Some(notice) = stream.message().await? {
                    self.hear(notice, &ears);
                    tokio::time::sleep(NOTICES_APART).await;
                }
                Ok::<_, Box<dyn Error + Send + Sync>>(())
            };
            tokio::select! {
                () = stop.wait() => return,
                ended = watched => if let Err(error) = ended {
                    info!(error = %Chain(error.as_ref()), "the tier above cannot be watched now");
                },
            }
            let wait = schedule::back_off(failures, BACK_OFF.0, BACK_OFF.1, random());
            failures += 1;
            tokio::select! {
                () = stop.wait() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn hear(&self, notice: v1::Notice, ears: &Ears) {
        let Some(notice) = notices::read(notice) else { return };
        let on_the_road = self.roaming || !self.route.is_first();
        let hearer = Hearer {
            endpoint: &self.endpoint,
            has: self.status.borrow().dictionary_version,
            skips: on_the_road && !ears.include_roaming.load(Ordering::Relaxed),
            place: self.place,
        };
        if ears.calls().hear(&notice, hearer, self.clock.now()) {
            ears.heard.notify_one();
        }
    }
}
