//! What a relay does upward: it asks for news, hands reports on, and follows what it is called for.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tierway_common::{
    daemon::{
        chain::Chain,
        disk,
        stop::Stop,
        tasks::{TaskError, Wake},
    },
    id::EndpointId,
    notices::{Audience, Event, Notice, Order},
    schedule,
    transport::accept::Gauge,
};
use tierway_proto::{
    notices::{self, ANSWERED_MAX, Notices},
    upstream::{ENVELOPES_MAX, Upstream},
    v1,
};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::{
    mirror::Mirror,
    outbox::{Outbox, Waiting},
    payloads::Payloads,
    resync::Resync,
    seen::Seen,
    server::VERSION,
    sync::Sync,
};

/// A batch of reports upward.
const BATCH_BYTES: usize = 1 << 20;
/// Orders that wait for a sync; what does not fit is sent again.
const ORDERS_MAX: usize = 256;
/// Wake-ups are read no faster: they are rare, and a flood of them then waits with who sends it.
const NOTICES_APART: Duration = Duration::from_millis(10);
/// Syncs are at least so far apart: what is called for meanwhile is one more.
const SYNCS_APART: Duration = Duration::from_millis(250);
/// After reports went up, unless more wait than go up at once, the next go up after so many times as long as these
/// took, at longest after the second: the busier the tier above, the more reports come to it together. Nobody below
/// waits for it.
const HANDED_UP_APART: (u32, Duration) = (10, Duration::from_millis(250));
/// First and longest wait before trying the tier above again. The longest is what a site does not hear of an emergency,
/// and is not heard of, when the tier above is back; a thousand relays that try so often are 33 handshakes a second for it.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// How often the outbox is looked at without being told.
const FORWARD_AT_LEAST: SignedDuration = SignedDuration::from_mins(1);

/// What the tasks that talk to the tier above share; cheap to clone.
#[derive(Clone, Debug)]
pub struct Up {
    /// The tier above.
    pub upstream: Upstream,
    /// Reports that wait for it.
    pub outbox: Outbox,
    /// Endpoints that it wants to hear again.
    pub resync: Resync,
    /// Who watches here.
    pub notices: Notices,
    /// Payloads.
    pub payloads: Payloads,
    /// What is mirrored.
    pub mirror: Mirror,
    /// Endpoints seen lately.
    pub seen: Arc<Seen>,
    /// Connections to the door.
    pub gauge: Gauge,
    /// Orders that are passed on once this relay has what is published.
    orders: Arc<Mutex<Vec<Arc<Order>>>>,
    /// Ids of notices that the next check-in answers.
    answers: Arc<Mutex<BTreeSet<u64>>>,
    /// The task that hands reports up.
    pub forwarding: Forwarding,
}

/// The task that hands reports up, for whoever takes some in; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Forwarding {
    /// Wakes it, whatever came of its last run.
    pub wake: Wake,
    /// Its runs that failed in a row.
    failures: Arc<AtomicU32>,
}

impl Forwarding {
    /// Has reports that came handed up at once. After a failure they wait with the others until the tier above is tried
    /// again: or else the more endpoints report, the less would it be left alone.
    pub fn reports_came(&self) {
        if self.failures.load(Ordering::SeqCst) == 0 {
            self.wake.wake();
        }
    }

    /// Notes that the tier above takes some: if it takes no more now, it is left alone as after a first failure.
    fn some_went(&self) {
        self.failures.store(0, Ordering::SeqCst);
    }

    /// Notes what came of a run.
    fn ended<E>(&self, run: &Result<(), E>) {
        match run {
            // What came just before the end of this run woke nobody.
            Ok(()) if self.failures.swap(0, Ordering::SeqCst) > 0 => self.wake.wake(),
            Ok(()) => {}
            Err(_) => {
                self.failures.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    /// How long the next run waits unless it is woken; `random` is uniform in its range.
    fn wait(&self, random: u32) -> SignedDuration {
        match self.failures.load(Ordering::SeqCst) {
            0 => FORWARD_AT_LEAST,
            failures => SignedDuration::try_from(wait_after(failures, random)).unwrap_or(FORWARD_AT_LEAST),
        }
    }
}

impl Up {
    /// On these parts; nothing is ordered or answered yet.
    #[must_use]
    pub fn new(
        upstream: Upstream,
        outbox: Outbox,
        resync: Resync,
        payloads: Payloads,
        mirror: Mirror,
        notices: Notices,
    ) -> Self {
        Self {
            upstream,
            outbox,
            resync,
            notices,
            payloads,
            mirror,
            seen: Arc::default(),
            gauge: Gauge::default(),
            orders: Arc::default(),
            answers: Arc::default(),
            forwarding: Forwarding::default(),
        }
    }

    /// How long the next forward waits after those that failed in a row; `random` is uniform in its range.
    #[must_use]
    pub fn forward_wait(&self, random: u32) -> SignedDuration {
        self.forwarding.wait(random)
    }

    /// Notes an order: whoever checks now shall see what was decided before.
    fn asked(&self, id: u64, order: Arc<Order>) {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if !orders.contains(&order) {
            if orders.len() >= ORDERS_MAX {
                return;
            }
            orders.push(order);
        }
        drop(orders);
        self.answer(id);
    }

    /// Asks the tier above for what is new, takes it over, and passes on what was ordered meanwhile.
    ///
    /// # Errors
    ///
    /// When the tier above, or the disk, fails.
    pub async fn sync(&self, sync: &mut Sync, now: Timestamp) -> Result<(), TaskError> {
        let begun = Instant::now();
        // What is asked for while this runs is answered and passed on by the run after it; the answers first, or
        // one might be given for an order that this run does not know.
        let answered: Vec<u64> = self.answers().iter().copied().collect();
        let orders = std::mem::take(&mut *self.orders.lock().unwrap_or_else(PoisonError::into_inner));
        let result = self.bring(sync, &answered, now).await;
        for order in orders {
            self.notices.order(&order);
        }
        tokio::time::sleep_until(begun + SYNCS_APART).await;
        result
    }

    async fn bring(&self, sync: &mut Sync, answered: &[u64], now: Timestamp) -> Result<(), TaskError> {
        let payloads = self.payloads.blobs().clone();
        disk::blocking(move || payloads.keep_room()).await?;
        let (usage, fill) = (self.payloads.blobs().usage(), self.outbox.fill());
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let health = v1::RelayHealth {
            blob_bytes: usage.bytes,
            blob_bytes_quota: usage.quota,
            outbox_reports: fill.reports,
            outbox_bytes: fill.bytes,
            endpoints_connected: count(self.gauge.connections()),
            outbox_oldest: fill.oldest.map_or(0, |at| at.as_second()),
            endpoints_seen: count(self.seen.lately(now)),
        };
        let before = sync.head_version();
        let answer = self.check_in(before, health, answered).await?;
        let synced = sync.run(&answer, now).await?;
        if let Some(version) = synced.filter(|version| *version < before) {
            warn!(
                before,
                version, "what is published went back to an earlier version, by a newer root of trust"
            );
            self.notices.taken_back(version);
        }
        // Endpoints hear of it when it is here.
        if sync.note_news(answer.news).await? {
            self.notices.published(answer.news, Audience::Everybody);
        }
        if let Some(version) = synced {
            self.notices.published(version, Audience::Relays);
            // Or else it would look at central as if this had not come until the next check.
            self.check_in(version, health, &[]).await?;
        }
        Ok(())
    }

    async fn check_in(
        &self,
        timestamp_version: u64,
        health: v1::RelayHealth,
        answered: &[u64],
    ) -> Result<v1::CheckInResponse, TaskError> {
        let request = v1::CheckInRequest {
            timestamp_version,
            agent_version: VERSION.to_owned(),
            wanted: Vec::new(),
            relay: Some(health),
            answered: answered.to_vec(),
            targets_version: self.mirror.newest().targets.map_or(0, |(version, _)| version),
        };
        let answer = self.upstream.check_in(request).await?;
        for id in answered {
            self.answers().remove(id);
        }
        self.ask_again(&answer.resync_endpoints).await?;
        Ok(answer)
    }

    fn answers(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands up everything that waits, a batch at a time.
    ///
    /// # Errors
    ///
    /// When the tier above does not take all of it, or the disk fails; what it did not take waits.
    pub async fn forward(&self) -> Result<(), TaskError> {
        let result = self.forward_all().await;
        self.forwarding.ended(&result);
        result
    }

    async fn forward_all(&self) -> Result<(), TaskError> {
        loop {
            let begun = Instant::now();
            let outbox = self.outbox.clone();
            let batch = disk::blocking(move || outbox.next(BATCH_BYTES)).await??;
            if batch.is_empty() {
                return Ok(());
            }
            let is_full = is_full(&batch);
            let answer =
                self.upstream.submit(batch.iter().map(|waiting| waiting.envelope.clone()).collect()).await?;
            let mut done = Vec::with_capacity(batch.len());
            let mut later = 0;
            for (waiting, outcome) in batch.into_iter().zip(answer.outcomes) {
                match v1::ReportOutcome::try_from(outcome) {
                    Ok(v1::ReportOutcome::Accepted) => done.push(waiting),
                    Ok(v1::ReportOutcome::Refused) => {
                        warn!("the tier above refused a report for good");
                        done.push(waiting);
                    }
                    _ => later += 1,
                }
            }
            let (outbox, has_taken_some) = (self.outbox.clone(), !done.is_empty());
            disk::blocking(move || outbox.settle(&done)).await??;
            if has_taken_some {
                self.forwarding.some_went();
            }
            self.ask_again(&answer.resync_endpoints).await?;
            if later > 0 {
                return Err(format!("the tier above took no more: {later} reports wait").into());
            }
            if !is_full {
                let (times, at_longest) = HANDED_UP_APART;
                tokio::time::sleep((begun.elapsed() * times).min(at_longest)).await;
            }
        }
    }

    /// Notes whom the tier above wants to hear again, and wakes them.
    async fn ask_again(&self, endpoints: &[String]) -> Result<(), TaskError> {
        let ids: Vec<EndpointId> = endpoints.iter().filter_map(|id| id.parse().ok()).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let (resync, now) = (self.resync.clone(), Instant::now());
        for id in disk::blocking(move || resync.add(ids, now)).await?? {
            self.notices.resync(&id);
        }
        Ok(())
    }

    /// Follows a notice from the tier above, and answers it by a sync.
    async fn notice(&self, notice: v1::Notice, sync: &Wake) -> Result<(), TaskError> {
        let Some(Notice { id, event }) = notices::read(notice) else { return Ok(()) };
        match event {
            // Also one that is here already: whether it is worth a check is said at the check-in.
            Event::Published(_) => {}
            Event::Check(order) => self.asked(id, order),
            Event::Resync(endpoint) => {
                self.ask_again(&[endpoint.to_string()]).await?;
                self.answer(id);
            }
        }
        sync.wake();
        Ok(())
    }

    fn answer(&self, id: u64) {
        let mut answers = self.answers();
        // What does not fit is sent again and answered then.
        if answers.len() < ANSWERED_MAX {
            answers.insert(id);
        }
    }
}

/// Whether so many reports go up at once that more of them may be waiting.
fn is_full(batch: &[Waiting]) -> bool {
    let bytes: usize = batch.iter().map(|waiting| waiting.envelope.len()).sum();
    batch.len() >= ENVELOPES_MAX || bytes >= BATCH_BYTES / 2
}

/// Keeps a stream of wake-ups open and wakes `sync` for them; `random` gives numbers that are uniform in their range.
pub async fn watch(up: Up, sync: Wake, stop: Stop, random: impl Fn() -> u32) {
    let mut failures = 0;
    while !stop.requested() {
        let watched = async {
            let mut stream = up.upstream.watch(up.mirror.head().timestamp_version).await?;
            // Whatever was missed while nobody watched.
            sync.wake();
            // What waited for the tier above does so no longer.
            up.forwarding.wake.wake();
            failures = 0;
            while let Some(notice) = stream.message().await? {
                up.notice(notice, &sync).await?;
                tokio::time::sleep(NOTICES_APART).await;
            }
            Ok::<_, TaskError>(())
        };
        tokio::select! {
            () = stop.wait() => return,
            ended = watched => if let Err(error) = ended {
                info!(error = %Chain(error.as_ref()), "the tier above cannot be watched now");
            },
        }
        let wait = wait_after(failures, random());
        failures += 1;
        tokio::select! {
            () = stop.wait() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// How long to leave the tier above alone after so many failures in a row; `random` is uniform in its range.
fn wait_after(failures: u32, random: u32) -> Duration {
    schedule::back_off(failures, BACK_OFF.0, BACK_OFF.1, random)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn reports_that_come_after_a_failure_wait_until_the_tier_above_is_tried_again() {
        let forwarding = Forwarding::default();
        let woken = || forwarding.wake.woken().now_or_never().is_some();
        forwarding.reports_came();
        assert!(woken() && !woken());
        for failures in 1..=3 {
            forwarding.ended(&Err(()));
            forwarding.reports_came();
            assert!(!woken(), "after {failures}");
        }
        let longest = forwarding.wait(u32::MAX);
        forwarding.some_went();
        forwarding.ended(&Err(()));
        let first = SignedDuration::try_from(wait_after(1, u32::MAX)).unwrap();
        assert!(forwarding.wait(u32::MAX) == first && first < longest, "some was taken in between");
        forwarding.ended(&Ok::<(), ()>(()));
        assert!(woken(), "what came meanwhile is not forgotten");
        forwarding.ended(&Ok::<(), ()>(()));
        assert!(!woken());
        forwarding.reports_came();
        assert!(woken());
    }

    #[test]
    fn however_long_the_tier_above_was_away_it_is_tried_again_within_a_minute() {
        for (failures, longest) in [(0, 2), (1, 4), (3, 16), (5, 60), (1_000, 60), (u32::MAX, 60)] {
            let longest = Duration::from_secs(longest);
            assert!(
                wait_after(failures, u32::MAX).abs_diff(longest) < Duration::from_millis(1),
                "{failures}"
            );
            assert!(wait_after(failures, u32::MAX / 2) < longest && wait_after(failures, 0).is_zero());
        }
    }
}
