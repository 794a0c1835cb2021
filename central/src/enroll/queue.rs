//! Who comes while another is at work waits, and the next one does the work of all who wait.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        mpsc::{self, SyncSender},
    },
};

/// Asks that wait, each with whoever made it: as many as there are callers.
#[derive(Debug)]
pub(super) struct Queue<A, R> {
    waiting: Mutex<VecDeque<(A, SyncSender<R>)>>,
    turn: Mutex<()>,
}

impl<A, R> Default for Queue<A, R> {
    fn default() -> Self {
        Self { waiting: Mutex::default(), turn: Mutex::default() }
    }
}

impl<A, R> Queue<A, R> {
    /// What `work` made of this ask: here, together with up to `max` that waited, or by another caller before. It
    /// gives as many results as it is given asks, in their order. `None` when it ended without one, by a panic
    /// elsewhere.
    pub(super) fn ask(&self, ask: A, max: usize, work: impl Fn(&[A]) -> Vec<R>) -> Option<R> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.waiting().push_back((ask, answer));
        loop {
            let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            match answered.try_recv() {
                Ok(result) => return Some(result),
                Err(mpsc::TryRecvError::Disconnected) => return None,
                Err(mpsc::TryRecvError::Empty) => {}
            }
            let (asks, answers): (Vec<_>, Vec<_>) = {
                let mut waiting = self.waiting();
                let together = waiting.len().min(max);
                waiting.drain(..together).unzip()
            };
            for (answer, result) in answers.into_iter().zip(work(&asks)) {
                // Whoever asked is still waiting for its turn.
                let _ = answer.send(result);
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<(A, SyncSender<R>)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use super::*;

    /// Has `first` be worked on until all `others` wait; what became of each, in that order, and what was done together.
    fn ask_all(
        first: u32,
        others: std::ops::Range<u32>,
        max: usize,
        work: impl Fn(&[u32]) -> Vec<u32> + Sync,
    ) -> (Vec<Option<u32>>, Vec<usize>) {
        let (queue, together, others_wait) =
            (Queue::default(), Mutex::new(Vec::new()), AtomicBool::new(false));
        let work = |asks: &[u32]| {
            together.lock().unwrap().push(asks.len());
            while !others_wait.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            work(asks)
        };
        let ask = |ask| queue.ask(ask, max, work);
        let answers = thread::scope(|scope| {
            let mut asking = vec![scope.spawn(move || ask(first))];
            while together.lock().unwrap().is_empty() {
                thread::yield_now();
            }
            asking.extend(others.clone().map(|other| scope.spawn(move || ask(other))));
            while queue.waiting().len() < others.len() {
                thread::yield_now();
            }
            others_wait.store(true, Ordering::SeqCst);
            asking.into_iter().map(|asking| asking.join().unwrap_or_default()).collect()
        });
        (answers, together.into_inner().unwrap())
    }

    #[test]
    fn who_comes_while_another_is_at_work_is_served_together_with_the_others_who_wait() {
        let double = |asks: &[u32]| asks.iter().map(|ask| ask * 2).collect();
        let (answers, together) = ask_all(0, 1..8, 3, double);
        assert_eq!(answers, (0..8).map(|ask| Some(ask * 2)).collect::<Vec<_>>());
        assert_eq!(together, [1, 3, 3, 1]);
    }

    #[test]
    fn nobody_waits_forever_for_one_that_panicked() {
        let work = |asks: &[u32]| {
            assert!(!asks.contains(&0), "this is meant to panic");
            asks.to_vec()
        };
        let (answers, together) = ask_all(9, 0..4, 2, work);
        assert_eq!(together, [1, 2, 2]);
        assert_eq!(answers.iter().filter(|answer| answer.is_none()).count(), 2, "{answers:?}");
    }
}
