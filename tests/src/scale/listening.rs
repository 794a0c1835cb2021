//! How endpoints listen: each keeps a stream of notices open, as the real endpoint does, and follows them until it was offered
//! what it waits for.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tierway_common::{id::UpdateId, notices::Event, schedule};
use tierway_proto::{notices, v1};
use tokio::{sync::watch, time::Instant};
use tonic::Streaming;

use super::{
    figures::Kind,
    fleet::{chain, persist},
    member::{Around, Member},
};

/// As the real endpoint keeps checks apart that it is called for.
const APART: Duration = Duration::from_secs(10);
/// How often a stream is asked for.
const TRIES: u32 = 20;

/// What all listen for.
#[derive(Debug)]
pub struct Call {
    updates: Vec<UpdateId>,
    spread: Duration,
    patience: Duration,
    ready: AtomicU64,
    out: watch::Sender<Option<Instant>>,
}

impl Call {
    /// For these updates: each endpoint has a place of its own in `spread`, and listens for `patience` after they were
    /// approved.
    #[must_use]
    pub fn new(updates: Vec<UpdateId>, spread: Duration, patience: Duration) -> Self {
        let out = watch::channel(None).0;
        Self { updates, spread, patience, ready: AtomicU64::new(0), out }
    }

    /// How many listen, or are on the road.
    #[must_use]
    pub fn ready(&self) -> u64 {
        self.ready.load(Ordering::Relaxed)
    }

    fn awaited_by(&self, member: &Member) -> bool {
        self.updates.iter().any(|update| member.holding.awaits(update))
    }

    /// The updates are approved now.
    pub fn goes_out(&self) {
        self.out.send_replace(Some(Instant::now()));
    }
}

/// Listens, says that it does, and checks at its place whenever it is told that something is out, until it was offered what it
/// needs of the call; one that is not in time checks all the same. Who is on the road hears nothing, and checks later.
pub async fn listen(mut member: Member, around: Around, call: Arc<Call>) -> Member {
    let (place, mut out) = (schedule::offset(member.id.as_str(), call.spread), call.out.subscribe());
    if member.roams {
        call.ready.fetch_add(1, Ordering::Relaxed);
        around.figures.count("endpoints on the road", 1);
        let _ = out.wait_for(Option::is_some).await;
        let began = Instant::now();
        tokio::time::sleep(place).await;
        // Who comes before it has reached the relay comes again.
        loop {
            member = persist(member, around.clone(), false).await;
            if !call.awaited_by(&member) || began.elapsed() > call.patience {
                return member;
            }
            tokio::time::sleep(APART).await;
        }
    }
    let mut stream = open(&member, &around).await;
    call.ready.fetch_add(1, Ordering::Relaxed);
    let mut waited_for = call.out.subscribe();
    let mut late = pin!(async {
        let _ = waited_for.wait_for(Option::is_some).await;
        tokio::time::sleep(call.patience).await;
    });
    let (mut told, mut free) = (false, Instant::now());
    loop {
        let heard = tokio::select! {
            heard = published(&mut stream, member.version()) => heard,
            () = late.as_mut() => {
                around.figures.count("endpoints not told", 1);
                return persist(member, around, false).await;
            }
        };
        if !heard {
            stream = open(&member, &around).await;
            continue;
        }
        let now = Instant::now();
        if !told && let Some(out) = *out.borrow() {
            told = true;
            around.figures.took(Kind::Told, now - out);
        }
        tokio::time::sleep_until(free.max(now + place)).await;
        member = persist(member, around.clone(), false).await;
        free = Instant::now() + APART;
        if out.borrow().is_some() && !call.awaited_by(&member) {
            around.figures.count("endpoints told", 1);
            return member;
        }
    }
}

async fn open(member: &Member, around: &Around) -> Option<Streaming<v1::Notice>> {
    let (upstream, version) = member.listens();
    for tries in 0..TRIES {
        match upstream.watch(version).await {
            Ok(opened) => return Some(opened),
            Err(error) => {
                around.figures.tried_again(chain(&error));
                tokio::time::sleep(Duration::from_millis(100 << tries.min(6))).await;
            }
        }
    }
    None
}

/// Waits until something newer than `version` is published; false when the stream has ended.
async fn published(stream: &mut Option<Streaming<v1::Notice>>, version: u64) -> bool {
    let Some(stream) = stream else { return std::future::pending().await };
    while let Ok(Some(notice)) = stream.message().await {
        let event = notices::read(notice).map(|notice| notice.event);
        if matches!(event, Some(Event::Published(now)) if now > version) {
            return true;
        }
    }
    false
}
