//! Work that blocks for the disk or computes for long: on a thread where nobody else waits for it.
//!
//! A simulation has everything happen on its own thread ([`in_turn`]), so that the same seed gives the same order of
//! events: which of two threads comes first nothing decides.

use std::{cell::Cell, marker::PhantomData};

use tokio::task::JoinError;

thread_local! {
    static IN_TURN: Cell<bool> = const { Cell::new(false) };
}

/// Does `work` on a thread that may block.
///
/// # Errors
///
/// When it panics, or the runtime ends before it begins.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    if IN_TURN.get() { Ok(work()) } else { tokio::task::spawn_blocking(work).await }
}

/// The same; a panic in it goes on in the caller.
pub async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match blocking(work).await {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// From now on whatever this thread's tasks do by [`blocking`] is done at once, on this thread, until what is returned
/// is dropped.
#[must_use]
pub fn in_turn() -> InTurn {
    IN_TURN.set(true);
    InTurn(PhantomData)
}

/// See [`in_turn`]. It stays on its thread.
#[derive(Debug)]
pub struct InTurn(PhantomData<*const ()>);

impl Drop for InTurn {
    fn drop(&mut self) {
        IN_TURN.set(false);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[tokio::test]
    async fn what_blocks_is_done_elsewhere_and_in_turn_only_while_that_was_asked_for() {
        let here = thread::current().id();
        let there = || blocking(|| thread::current().id());
        assert_ne!(there().await.unwrap(), here);
        let turn = in_turn();
        assert_eq!(there().await.unwrap(), here);
        drop(turn);
        assert_ne!(there().await.unwrap(), here);
    }
}
