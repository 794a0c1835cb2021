//! The queue before [`Inventory`]: submissions that come at the same time share a commit.

use tierway_common::daemon::{chain::Chain, disk};
use tokio::sync::{mpsc, oneshot};
use tracing::error;

use super::{Inventory, Outcome, Submission};

/// Submissions that wait; whoever comes then is asked to come again. Each has at most 1 MiB.
const WAITING_MAX: usize = 64;
/// Submissions that share a commit.
const AT_ONCE_MAX: usize = 32;

type Waiting = (Submission, oneshot::Sender<Option<Vec<Outcome>>>);

/// Where submissions are handed in; cheap to clone.
#[derive(Clone, Debug)]
pub struct Inbox(mpsc::Sender<Waiting>);

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
    (Inbox(sender), Intake { inventory, waiting })
}

impl Inbox {
    /// What became of each envelope, when that is on disk; `None` when it must be sent again later, because too
    /// many wait or the store failed.
    pub async fn submit(&self, submission: Submission) -> Option<Vec<Outcome>> {
        let (answer, answered) = oneshot::channel();
        self.0.try_send((submission, answer)).ok()?;
        answered.await.ok()?
    }
}

impl Intake {
    /// Takes in what waits, until every [`Inbox`] is gone.
    pub async fn run(mut self) {
        let mut batch = Vec::with_capacity(AT_ONCE_MAX);
        while self.waiting.recv_many(&mut batch, AT_ONCE_MAX).await > 0 {
            let (submissions, answers): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
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
