//! What is refused at the door of the methods themselves.

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tierway_common::facts::Facts;
use tonic::Code;

use super::*;
use crate::{probe::Seen, reboot::RebootError};

/// Everybody is logged in.
#[derive(Debug)]
struct Crowd;

impl Surroundings for Crowd {
    fn look<'a>(&'a self, _: &'a Facts, _: Timestamp) -> BoxFuture<'a, Seen> {
        Box::pin(async { Seen::default() })
    }

    fn logged_in(&self, _: u32) -> BoxFuture<'_, bool> {
        Box::pin(async { true })
    }

    fn tell<'a>(&'a self, _: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    fn reboot<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), RebootError>> {
        Box::pin(async { Err(RebootError::NoBoot) })
    }
}

fn by<T>(peer: Peer, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(peer);
    request
}

#[tokio::test]
async fn a_user_who_asks_for_plan_history_or_why_without_end_does_not_keep_the_agent_busy() {
    let (asks, mut asked) = mpsc::channel(ASKS);
    // An agent that counts and answers nothing.
    let counting = tokio::spawn(async move {
        let mut count = 0_u32;
        while asked.recv().await.is_some() {
            count += 1;
        }
        count
    });
    let answers = Answers {
        status: watch::channel(Arc::default()).1,
        due: watch::channel(Arc::default()).1,
        asks,
        surroundings: Arc::new(Crowd),
        clock: Clock::manual(Timestamp::UNIX_EPOCH),
    };
    let (watchers, pace) = (Places::new(places::WATCHERS), Mutex::default());
    let service = Service { answers, watchers, pace, stop: Stop::new() };
    let (rounds, in_a_row) = (20, 8);
    for round in 0..rounds {
        for peer in [Peer::User(1000), Peer::Root] {
            let code = match round % 3 {
                0 => service.plan(by(peer, v1::LocalPlanRequest {})).await.unwrap_err().code(),
                1 => {
                    service.history(by(peer, v1::LocalHistoryRequest { limit: 9 })).await.unwrap_err().code()
                }
                _ => {
                    let request = v1::LocalWhyRequest { patch: "a".to_owned() };
                    service.why(by(peer, request)).await.unwrap_err().code()
                }
            };
            let slow = code == Code::ResourceExhausted;
            assert_eq!(slow, peer != Peer::Root && round >= in_a_row, "{peer:?}, round {round}");
        }
    }
    drop(service);
    assert_eq!(counting.await.unwrap(), rounds + in_a_row);
}
