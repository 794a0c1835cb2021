//! Background work: named tasks without input that run when due and when woken, never twice at once,
//! to their end, with a visible status.

use std::{
    collections::BTreeMap,
    error::Error,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{sync::Notify, task::JoinSet};
use tracing::{Instrument, info_span, warn};

use super::{chain::Chain, stop::Stop};
use crate::clock::Clock;

/// What a task's run may fail with.
pub type TaskError = Box<dyn Error + Send + Sync>;

/// How a task is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskStatus {
    /// When its last run began.
    pub last_run: Option<Timestamp>,
    /// How long that took.
    pub last_duration: Duration,
    /// Why it failed, when it did.
    pub last_error: Option<String>,
    /// When it is due again.
    pub next_run: Option<Timestamp>,
    /// Runs since start.
    pub runs: u64,
}

/// Wakes one task.
#[derive(Clone, Debug, Default)]
pub struct Wake(Arc<Notify>);

impl Wake {
    /// Makes the task run now, or once more after the present run.
    pub fn wake(&self) {
        self.0.notify_one();
    }

    /// Returns when woken.
    pub async fn woken(&self) {
        self.0.notified().await;
    }
}

/// All tasks of a process.
#[derive(Debug)]
pub struct Tasks {
    clock: Clock,
    stop: Stop,
    running: JoinSet<()>,
    board: Board,
}

/// The statuses of all tasks; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<BTreeMap<&'static str, (TaskStatus, Wake)>>>);

impl Board {
    /// Every task's status by name.
    #[must_use]
    pub fn statuses(&self) -> BTreeMap<&'static str, TaskStatus> {
        let board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        board.iter().map(|(name, (status, _))| (*name, status.clone())).collect()
    }

    /// Wakes the task of that name; false when there is none.
    #[must_use]
    pub fn wake(&self, name: &str) -> bool {
        let board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        board.get(name).map(|(_, wake)| wake.wake()).is_some()
    }

    /// Does by hand what the task of that name does: its status tells of this run as well.
    ///
    /// # Errors
    ///
    /// Those of the work.
    pub async fn run<T>(
        &self,
        name: &'static str,
        clock: &Clock,
        work: impl Future<Output = Result<T, TaskError>>,
    ) -> Result<T, TaskError> {
        let begun = clock.now();
        let result = work.await;
        let took = clock.now().as_millisecond() - begun.as_millisecond();
        self.with(name, |status| {
            status.last_run = Some(begun);
            status.last_duration = Duration::from_millis(u64::try_from(took).unwrap_or(0));
            status.last_error = result.as_ref().err().map(|error| Chain(error.as_ref()).to_string());
            status.runs += 1;
        });
        result
    }

    fn with(&self, name: &'static str, change: impl FnOnce(&mut TaskStatus)) {
        let mut board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut board.entry(name).or_default().0);
    }
}

impl Tasks {
    /// No tasks yet.
    #[must_use]
    pub fn new(clock: Clock, stop: Stop) -> Self {
        Self { clock, stop, running: JoinSet::new(), board: Board::default() }
    }

    /// The statuses.
    #[must_use]
    pub fn board(&self) -> Board {
        self.board.clone()
    }

    /// Runs `run` whenever it is due by `next` (asked after each run with the present time; `None`: only
    /// when woken) and whenever `wake` is woken. A run that fails is logged and left to the next.
    pub fn periodic<F, Run>(
        &mut self,
        name: &'static str,
        wake: Wake,
        next: impl Fn(Timestamp) -> Option<Timestamp> + Send + 'static,
        mut run: Run,
    ) where
        Run: FnMut() -> F + Send + 'static,
        F: Future<Output = Result<(), TaskError>> + Send,
    {
        let (clock, stop, board) = (self.clock.clone(), self.stop.clone(), self.board.clone());
        {
            let mut all = board.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.insert(name, (TaskStatus::default(), wake.clone()));
        }
        let body = async move {
            loop {
                let due = next(clock.now());
                board.with(name, |status| status.next_run = due);
                let wait = due.map(|due| {
                    Duration::from_millis(
                        u64::try_from(due.as_millisecond() - clock.now().as_millisecond()).unwrap_or(0),
                    )
                });
                tokio::select! {
                    () = stop.wait() => return,
                    () = wake.woken() => {}
                    () = sleep(wait) => {}
                }
                if let Err(error) = board.run(name, &clock, run()).await {
                    warn!(error = %Chain(error.as_ref()), "a task failed and will run again");
                }
            }
        };
        self.running.spawn(body.instrument(info_span!("task", name)));
    }

    /// Runs `work` until it ends by itself, which it must soon after the stop signal.
    pub fn spawn(&mut self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.running.spawn(work.instrument(info_span!("task", name)));
    }

    /// Returns when a stop was requested and all tasks have ended; what still runs `grace` later is dropped.
    pub async fn ended(mut self, grace: Duration) {
        self.stop.wait().await;
        let all = async { while self.running.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, all).await.is_err() {
            warn!("some tasks did not end in time and were dropped");
        }
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_runs_when_due_and_when_woken_and_shows_its_error() {
        let (stop, clock) = (Stop::new(), Clock::manual(Timestamp::UNIX_EPOCH));
        let mut tasks = Tasks::new(clock, stop.clone());
        let runs = Arc::new(AtomicU64::new(0));
        let wake = Wake::default();
        let (seen, hour) = (runs.clone(), jiff::SignedDuration::from_hours(1));
        tasks.periodic(
            "sample",
            wake.clone(),
            move |now| now.checked_add(hour).ok(),
            move || {
                let run = seen.fetch_add(1, Ordering::SeqCst);
                async move { if run == 1 { Err("disk on fire".into()) } else { Ok(()) } }
            },
        );
        let board = tasks.board();
        let ran = |n: u64| {
            let board = board.clone();
            async move {
                while board.statuses()["sample"].runs < n {
                    tokio::time::advance(Duration::from_secs(60)).await;
                }
            }
        };
        wake.wake();
        tokio::task::yield_now().await;
        ran(1).await;
        assert_eq!(board.statuses()["sample"].last_error, None);
        ran(2).await;
        assert_eq!(board.statuses()["sample"].last_error.as_deref(), Some("disk on fire"));
        stop.request();
        tasks.ended(Duration::from_secs(1)).await;
        assert_eq!(runs.load(Ordering::SeqCst), 2);
    }
}
