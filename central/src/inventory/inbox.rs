//! The queue before [`Inventory`]: submissions that come at the same time share a commit, and nobody has all of the queue.

use tierway_common::{
    daemon::{
        chain::Chain,
        disk,
        places::{Place, Places},
    },
    transport::identity::{Holder, Role},
};
use tokio::sync::{mpsc, oneshot};
use tracing::error;

use super::{Inventory, Outcome, Submission};

/// Submissions that wait; whoever comes then is asked to come again. Each has at most 1 MiB.
const WAITING_MAX: usize = 64;
/// Of these of one carrier, who hands in one after the other, and sometimes one more whose answer was lost.
const WAITING_OF_ONE_MAX: usize = 8;
/// Of these of endpoints that use central directly, however many: the rest is for the sites behind relays.
const WAITING_OF_ENDPOINTS_MAX: usize = 48;
/// Submissions that share a commit.
const AT_ONCE_MAX: usize = 32;

/// One in the queue.
#[derive(Debug)]
struct Waiting {
    submission: Submission,
    answer: oneshot::Sender<Option<Vec<Outcome>>>,
    /// Its own, and one of all of its role; free again when it is taken out.
    _places: (Place<Holder>, Place<Role>),
}

/// Where submissions are handed in; cheap to clone.
#[derive(Clone, Debug)]
pub struct Inbox {
    queue: mpsc::Sender<Waiting>,
    by_carrier: Places<Holder>,
    by_role: Places<Role>,
}

/// The other end; see [`Intake::run`].
#[derive(Debug)]
pub struct Intake {
    inventory: Inventory,
    waiting: mpsc::Receiver<Waiting>,
}

/// A queue and its end.
#[must_use]
pub fn inbox(inventory: Inventory) -> (Inbox, Intake) {
    let (sender, waiting) = mpsc::channel(WAITING_MAX);
    let inbox = Inbox { queue: sender, by_carrier: Places::default(), by_role: Places::default() };
    (inbox, Intake { inventory, waiting })
}

impl Inbox {
    /// What became of each envelope, when that is on disk; `None` when it must be sent again later, because too
    /// many wait, of all or of this carrier, or the store failed.
    pub async fn submit(&self, submission: Submission) -> Option<Vec<Outcome>> {
        let carrier = &submission.carrier;
        let of_role = if carrier.role == Role::Endpoint { WAITING_OF_ENDPOINTS_MAX } else { WAITING_MAX };
        let of_one = self.by_carrier.take(carrier, WAITING_OF_ONE_MAX)?;
        let of_role = self.by_role.take(&carrier.role, of_role)?;
        let (answer, answered) = oneshot::channel();
        self.queue.try_send(Waiting { submission, answer, _places: (of_one, of_role) }).ok()?;
        answered.await.ok()?
    }
}

impl Intake {
    /// Takes in what waits, until every [`Inbox`] is gone.
    pub async fn run(mut self) {
        let mut batch = Vec::with_capacity(AT_ONCE_MAX);
        while self.waiting.recv_many(&mut batch, AT_ONCE_MAX).await > 0 {
            let taken = batch.drain(..).map(|Waiting { submission, answer, .. }| (submission, answer));
            let (submissions, answers): (Vec<_>, Vec<_>) = taken.unzip();
            let inventory = self.inventory.clone();
            let taken = disk::blocking(move || inventory.accept(&submissions)).await;
            let outcomes = match taken {
                Ok(Ok(outcomes)) => outcomes,
                Ok(Err(failed)) => {
                    error!(error = %Chain(&failed), "could not keep reports, asking for them again");
                    continue;
                }
                // A panic while writing: nothing is known of what is on disk, so nothing is acknowledged.
                Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
            };
            for (answer, outcomes) in answers.into_iter().zip(outcomes) {
                // Whoever asked may be gone; it will send again and find it accepted.
                let _ = answer.send(Some(outcomes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::{
        FutureExt,
        future::{LocalBoxFuture, join_all},
    };
    use tierway_common::{clock::Clock, store::memory::MemoryStore};

    use super::*;
    use crate::state::State;

    /// What one waits for, unless it was put off at once.
    type Open = LocalBoxFuture<'static, Option<Vec<Outcome>>>;

    fn submit(inbox: &Inbox, role: &str, number: usize) -> Option<Open> {
        let carrier = format!("spiffe://tierway/tenant/default/site/lyon/{role}/{number}").parse().unwrap();
        let inbox = inbox.clone();
        let mut open: Open =
            Box::pin(async move { inbox.submit(Submission { carrier, envelopes: Vec::new() }).await });
        match (&mut open).now_or_never() {
            None => Some(open),
            Some(answer) => {
                assert_eq!(answer, None);
                None
            }
        }
    }

    #[tokio::test]
    async fn neither_one_carrier_nor_all_endpoints_together_have_all_of_the_queue() {
        let store = Arc::new(MemoryStore::new());
        let clock = Clock::manual("2026-11-20T10:00:00Z".parse().unwrap());
        let state = Arc::new(State::open("default".parse().unwrap(), store, clock).unwrap());
        let (inbox, intake) = inbox(Inventory::new(state));

        let of_one: Vec<_> = (0..100).filter_map(|_| submit(&inbox, "endpoint", 0)).collect();
        let of_others: Vec<_> = (1..100).filter_map(|number| submit(&inbox, "endpoint", number)).collect();
        let of_relays: Vec<_> = (0..100).filter_map(|number| submit(&inbox, "relay", number)).collect();
        assert_eq!([of_one.len(), of_others.len(), of_relays.len()], [8, 40, 16]);

        // All who wait are answered, and then there is room again.
        let intake = tokio::spawn(intake.run());
        let answers = join_all(of_one.into_iter().chain(of_others).chain(of_relays)).await;
        assert_eq!(answers, vec![Some(Vec::new()); 64]);
        let again: Vec<_> = (0..100).filter_map(|_| submit(&inbox, "endpoint", 0)).collect();
        assert_eq!(again.len(), 8);
        drop((inbox, again));
        intake.await.unwrap();
    }
}
