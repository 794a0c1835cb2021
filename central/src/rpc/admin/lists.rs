//! Long lists: a part by itself, and streamed, the next part put together while one is on its way.

use std::time::Duration;

use tierway_common::schema::State as UpdateState;
use tierway_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{
    Streamed,
    convert::{endpoint, patch_endpoint},
    filter, text,
};
use crate::{
    fleet::{
        self, AskError,
        endpoints::{self, EndpointFilter, Place},
    },
    rpc::ToStatus,
    server::Central,
};

/// Parts that wait to be sent, beside the one that is worked on.
const WAITING: usize = 1;
/// A reader that takes none for so long is left, and asks anew after what it has.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Sends what `part` answers to `first`, and to each question that it says comes next, in their order. It ends after the
/// last part, after an error, and when the reader is gone or takes nothing for a minute.
pub(super) fn parts<A, T, F>(first: A, part: impl Fn(A) -> F + Send + 'static) -> Streamed<T>
where
    A: Send + 'static,
    T: Send + 'static,
    F: Future<Output = Result<(T, Option<A>), Status>> + Send,
{
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let mut question = Some(first);
        while let Some(asked) = question.take() {
            let (sent, next) = match part(asked).await {
                Ok((answer, next)) => (Ok(answer), next),
                Err(status) => (Err(status), None),
            };
            question = next;
            if sender.send_timeout(sent, SILENCE_MAX).await.is_err() {
                break;
            }
        }
    });
    Box::pin(ReceiverStream::new(receiver))
}

/// Which of the endpoints with an update.
pub(super) struct PatchEndpoints {
    patch: String,
    state: Option<UpdateState>,
    limit: usize,
    after: Option<Place>,
}

pub(super) fn wanted_endpoints(request: v1::ListEndpointsRequest) -> Result<EndpointFilter, Status> {
    let v1::ListEndpointsRequest { site, group, name, needing, limit, after } = request;
    Ok(EndpointFilter {
        filter: filter(site.as_ref(), group.as_ref(), None)?,
        name,
        needing,
        limit: fleet::limit(limit),
        after: place(&after)?,
    })
}

/// A part of the list of endpoints, and what to ask for the next.
pub(super) fn endpoints_part(
    central: &Central,
    wanted: EndpointFilter,
) -> Result<(v1::ListEndpointsResponse, Option<EndpointFilter>), AskError> {
    let page = endpoints::list(&central.state, &wanted)?;
    let answer = v1::ListEndpointsResponse {
        endpoints: page.rows.into_iter().map(endpoint).collect(),
        next: place_text(page.next.as_ref()),
    };
    Ok((answer, page.next.map(|place| EndpointFilter { after: Some(place), ..wanted })))
}

pub(super) fn wanted_patch_endpoints(
    request: v1::ListPatchEndpointsRequest,
) -> Result<PatchEndpoints, Status> {
    let v1::ListPatchEndpointsRequest { patch, state, limit, after } = request;
    let state = state.map(|text| fleet::state(&text)).transpose().map_err(|error| error.to_status())?;
    Ok(PatchEndpoints { patch, state, limit: fleet::limit(limit), after: place(&after)? })
}

/// A part of the list of endpoints with an update, and what to ask for the next.
pub(super) fn patch_endpoints_part(
    central: &Central,
    wanted: PatchEndpoints,
) -> Result<(v1::ListPatchEndpointsResponse, Option<PatchEndpoints>), AskError> {
    let update = fleet::update(&central.state.model(), &wanted.patch)?.clone();
    let PatchEndpoints { state, after, limit, .. } = &wanted;
    let page = endpoints::with_patch(&central.state, &update, *state, after.as_ref(), *limit)?;
    let rows = page.rows.into_iter();
    let answer = v1::ListPatchEndpointsResponse {
        endpoints: rows.map(|(endpoint, patch)| patch_endpoint(&endpoint, patch)).collect(),
        next: place_text(page.next.as_ref()),
    };
    Ok((answer, page.next.map(|place| PatchEndpoints { after: Some(place), ..wanted })))
}

/// Where a page of endpoints begins; at the first when nothing is said.
fn place(after: &str) -> Result<Option<Place>, Status> {
    text(after).map(|after| after.parse()).transpose().map_err(|error: AskError| error.to_status())
}

/// Where the next page begins; nothing at the end.
fn place_text(next: Option<&Place>) -> String {
    next.map(Place::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use tokio_stream::StreamExt;

    use super::*;

    /// The numbers up to `last`, one a part; how many were put together.
    fn numbers(last: u32) -> (Streamed<u32>, Arc<AtomicU32>) {
        let made = Arc::new(AtomicU32::new(0));
        let count = made.clone();
        let parts = parts(1, move |number| {
            count.fetch_add(1, Ordering::Relaxed);
            async move {
                if number > 8 {
                    return Err(Status::unavailable("the store is closed"));
                }
                Ok((number, (number < last).then_some(number + 1)))
            }
        });
        (parts, made)
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_comes_part_after_part_up_to_its_end_or_to_an_error() {
        for (last, expected) in [(1, 1), (8, 8), (20, 8)] {
            let (parts, _) = numbers(last);
            let answers: Vec<Result<u32, String>> =
                parts.map(|part| part.map_err(|status| status.message().to_owned())).collect().await;
            let mut wanted: Vec<_> = (1..=expected).map(Ok).collect();
            if last > 8 {
                wanted.push(Err("the store is closed".to_owned()));
            }
            assert_eq!(answers, wanted, "{last}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_is_worked_on_ahead_than_a_reader_takes_and_one_that_takes_nothing_is_left() {
        let (mut parts, made) = numbers(8);
        assert_eq!(parts.next().await.unwrap().unwrap(), 1);
        tokio::time::sleep(SILENCE_MAX / 2).await;
        assert_eq!(made.load(Ordering::Relaxed), 3, "one waits, one is ready to");
        assert_eq!(parts.next().await.unwrap().unwrap(), 2);
        tokio::time::sleep(SILENCE_MAX * 2).await;
        assert_eq!(made.load(Ordering::Relaxed), 4);
        let rest: Vec<u32> = parts.map(Result::unwrap).collect().await;
        assert_eq!(rest, [3], "it ends without an error after the part that waited");
    }
}
