//! Reports that are handed in at the same time share a commit, and commits are a little apart: what the store does for
//! one costs more than what it does for a report.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tierway_common::{
    daemon::{chain::Chain, disk},
    store::StoreError,
    trust::envelope::Envelope,
};
use tokio::{
    sync::{Mutex as Turn, oneshot},
    time::{Instant, sleep_until},
};
use tracing::warn;

use super::{Carrier, Outbox, Taken};

/// Commits for what is handed in begin at least so far apart: who hands in a report waits that much longer where many do.
const COMMITS_APART: Duration = Duration::from_millis(20);
/// No more reports share a commit once they have so many bytes: with one whole call more they still fit into a batch.
const TOGETHER_BYTES: usize = 1 << 20;

/// Who waits at the door of an outbox: no more than the relay serves requests at once.
#[derive(Debug, Default)]
pub(super) struct Door {
    waiting: Mutex<Vec<Waiting>>,
    /// Held by whoever takes in what waits; when the last commit began.
    turn: Turn<Option<Instant>>,
}

#[derive(Debug)]
struct Waiting {
    envelopes: Vec<Envelope>,
    carrier: Carrier,
    now: Timestamp,
    answer: oneshot::Sender<Result<Vec<Taken>, Arc<StoreError>>>,
}

/// Why a report was not taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HandInError {
    /// The store failed; nothing of what was handed in together was taken.
    #[error("could not keep reports")]
    Store(#[source] Arc<StoreError>),
    /// Nothing is known of what became of it.
    #[error("reports were being kept and it was given up")]
    GivenUp,
}

impl Door {
    /// The calls of one carrier that came first, as many as share a commit.
    fn first(&self) -> Vec<Waiting> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(carrier) = waiting.first().map(|first| first.carrier) else { return Vec::new() };
        let mut bytes = 0;
        let (mut first, mut others) = (Vec::new(), Vec::new());
        for one in mem::take(&mut *waiting) {
            if one.carrier == carrier && bytes < TOGETHER_BYTES {
                bytes += one.envelopes.iter().map(|envelope| envelope.bytes().len()).sum::<usize>();
                first.push(one);
            } else {
                others.push(one);
            }
        }
        *waiting = others;
        first
    }
}

impl Outbox {
    /// Takes envelopes as [`Outbox::take`] does, together with what others hand in at the same time.
    ///
    /// # Errors
    ///
    /// When the store fails; then nothing was taken.
    pub async fn hand_in(
        &self,
        envelopes: Vec<Envelope>,
        carrier: Carrier,
        now: Timestamp,
    ) -> Result<Vec<Taken>, HandInError> {
        let (answer, mut answered) = oneshot::channel();
        let door = &self.0.door;
        door.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(Waiting {
            envelopes,
            carrier,
            now,
            answer,
        });
        loop {
            let turn = tokio::select! {
                biased;
                answer = &mut answered => {
                    return answer.map_err(|_| HandInError::GivenUp)?.map_err(HandInError::Store);
                }
                turn = door.turn.lock() => turn,
            };
            self.take_first(turn).await;
        }
    }

    /// Takes in what came first; to its end also when whoever began it goes away.
    async fn take_first(&self, mut turn: tokio::sync::MutexGuard<'_, Option<Instant>>) {
        if let Some(last) = *turn {
            sleep_until(last + COMMITS_APART).await;
        }
        *turn = Some(Instant::now());
        let (outbox, together) = (self.clone(), self.0.door.first());
        let taken = disk::blocking(move || outbox.take_together(together)).await;
        if let Err(failed) = taken {
            warn!(error = %Chain(&failed), "reports were being kept and it was given up");
        }
    }

    /// Takes these in by one call, and tells each what became of its own.
    fn take_together(&self, together: Vec<Waiting>) {
        let Some(Waiting { carrier, now, .. }) = together.last() else { return };
        let (carrier, now) = (*carrier, *now);
        let (mut envelopes, mut answers) = (Vec::new(), Vec::new());
        for Waiting { envelopes: of_one, answer, .. } in together {
            answers.push((of_one.len(), answer));
            envelopes.extend(of_one);
        }
        match self.take(&envelopes, carrier, now).map_err(Arc::new) {
            Ok(taken) => {
                let mut taken = taken.into_iter();
                for (count, answer) in answers {
                    // Whoever asked may be gone; it will send again and find it taken.
                    let _ = answer.send(Ok(taken.by_ref().take(count).collect()));
                }
            }
            Err(error) => {
                for (_, answer) in answers {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use futures_util::{FutureExt, future::join_all};
    use tierway_common::daemon::disk::in_turn;

    use super::{
        super::tests::{Tallied, envelope},
        *,
    };

    fn outbox() -> (Outbox, Arc<Tallied>) {
        let store = Arc::new(Tallied::default());
        (Outbox::open(store.clone(), 1 << 20).unwrap(), store)
    }

    async fn hand_in(outbox: &Outbox, name: &str) -> Result<Vec<Taken>, HandInError> {
        let carrier = if name.ends_with("below") { Carrier::Relay } else { Carrier::Endpoint };
        outbox.hand_in(vec![envelope(name)], carrier, Timestamp::UNIX_EPOCH).await
    }

    #[tokio::test(start_paused = true)]
    async fn reports_that_many_hand_in_at_once_share_a_commit_and_each_hears_of_its_own() {
        let _turn = in_turn();
        let (outbox, store) = outbox();
        let names = ["s1:a", "s1:b", "I2:c", "s1:b", "s1:below", "I1:c"];
        let taken = join_all(names.map(|name| hand_in(&outbox, name))).await;
        let taken: Vec<_> = taken.into_iter().map(|taken| taken.unwrap()).collect();
        let durable = || vec![Taken::Durable];
        assert_eq!(taken[..5], [(); 5].map(|()| durable()));
        assert_eq!(taken[5], [Taken::Superseded]);
        assert_eq!((outbox.fill().reports, store.commits.load(Ordering::Relaxed)), (4, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn when_the_store_fails_all_who_share_the_commit_hear_of_it_and_may_come_again() {
        let _turn = in_turn();
        let (outbox, store) = outbox();
        store.fails.store(true, Ordering::Relaxed);
        let names = ["s1:a", "s1:b", "s1:c"];
        let taken = join_all(names.map(|name| hand_in(&outbox, name))).await;
        assert!(taken.iter().all(|taken| matches!(taken, Err(HandInError::Store(_)))), "{taken:?}");
        assert_eq!(outbox.fill().reports, 0);
        store.fails.store(false, Ordering::Relaxed);
        let taken = join_all(names.map(|name| hand_in(&outbox, name))).await;
        assert!(taken.iter().all(Result::is_ok) && outbox.fill().reports == 3);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_one_that_was_to_take_in_the_reports_of_others_and_went_away() {
        let _turn = in_turn();
        let (outbox, store) = outbox();
        hand_in(&outbox, "s1:a").await.unwrap();
        let mut first = Box::pin(hand_in(&outbox, "s1:b"));
        let mut second = Box::pin(hand_in(&outbox, "s1:c"));
        assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
        drop(first);
        second.await.unwrap();
        // What was handed in is taken all the same.
        assert_eq!((outbox.fill().reports, store.commits.load(Ordering::Relaxed)), (3, 2));
    }

    #[tokio::test]
    async fn what_many_threads_hand_in_is_all_there() {
        let (outbox, _) = outbox();
        let names: Vec<_> = (0..200).map(|n| format!("s{}:e{}", n / 20 + 1, n % 20)).collect();
        let taken = join_all(names.iter().map(|name| hand_in(&outbox, name))).await;
        assert!(taken.iter().all(Result::is_ok));
        assert_eq!(outbox.fill().reports, 200);
    }
}
