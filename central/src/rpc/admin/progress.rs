//! How work that an operator asks for goes on, told while it does; it goes on when he goes away.

use std::{sync::Arc, time::Duration};

use tierway_common::{
    daemon::{chain::Chain, tasks::TaskError},
    id::SourceId,
};
use tierway_proto::v1;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Streamed, convert};
use crate::{download::Progress, server::Central};

/// Messages of progress that wait for a slow reader; older ones are skipped anyway.
const WAITING: usize = 4;
/// How often progress is told at most.
const APART: Duration = Duration::from_millis(200);

/// Reads these sources, in their order; `all`: as the task `sources` does.
pub(super) fn of_reading(central: Arc<Central>, names: Vec<SourceId>, all: bool) -> Streamed<v1::Progress> {
    let total = names.len() as u64;
    // Two steps of each source and the end: none is left out, as each says something else.
    let (sender, receiver) = mpsc::channel(2 * names.len() + 1);
    let told = sender.clone();
    let step = move |step: String, done| {
        let _ = told.try_send(Ok(convert::progress(Progress { step, done, total, unit: "sources" })));
    };
    let work = tokio::spawn(async move {
        let reading = async {
            let mut first: Option<TaskError> = None;
            for (done, name) in (0..).zip(names) {
                step(format!("reading {name}"), done);
                match central.read_source(&name).await {
                    Ok(applied) => {
                        let known = central.state.model().sources().get(&name).map(|source| source.updates);
                        step(format!("{name}: {}", convert::read(applied, known)), done + 1);
                    }
                    Err(error) => drop(first.get_or_insert(error)),
                }
            }
            first.map_or(Ok(()), Err)
        };
        if all { central.board.run("sources", central.state.clock(), reading).await } else { reading.await }
    });
    tokio::spawn(async move {
        if let Err(status) = ended(work.await) {
            let _ = sender.send(Err(status)).await;
        }
    });
    Box::pin(ReceiverStream::new(receiver))
}

/// Runs `work`, which goes on when the caller goes away, and tells what `watched` says meanwhile.
pub(super) fn of_work(
    mut watched: watch::Receiver<Progress>,
    work: impl Future<Output = Result<(), TaskError>> + Send + 'static,
) -> Streamed<v1::Progress> {
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let mut work = tokio::spawn(work);
        watched.mark_unchanged();
        let done = loop {
            tokio::select! {
                done = &mut work => break ended(done),
                Ok(()) = watched.changed() => {
                    let now = convert::progress(watched.borrow_and_update().clone());
                    // A reader that is slow or gone misses some; the work goes on.
                    let _ = sender.try_send(Ok(now));
                    tokio::time::sleep(APART).await;
                }
            }
        };
        let last = done.map(|()| convert::progress(watched.borrow().clone()));
        let _ = sender.send(last).await;
    });
    Box::pin(ReceiverStream::new(receiver))
}

/// How work ended that went on by itself.
fn ended(work: Result<Result<(), TaskError>, tokio::task::JoinError>) -> Result<(), Status> {
    match work {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Status::unavailable(Chain(error.as_ref()).to_string())),
        Err(_) => Err(Status::internal("central met a fault")),
    }
}
