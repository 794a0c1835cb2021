//! A limit on bandwidth that several downloads share.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// What may come at once after a pause: one second's worth keeps the average over any few seconds.
const BURST: Duration = Duration::from_secs(1);

/// Lets so many bytes pass per second; clones of a reference share the limit.
#[derive(Debug)]
pub struct Pace {
    bytes_per_second: Option<u64>,
    /// When everything let through so far has been paid for.
    paid: Mutex<Option<Instant>>,
}

impl Pace {
    /// At most `bytes_per_second`; `None` or 0: no limit.
    #[must_use]
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second: bytes_per_second.filter(|rate| *rate > 0), paid: Mutex::new(None) }
    }

    /// How long to wait at `now` after `bytes` came, before asking for more.
    pub fn take(&self, bytes: usize, now: Instant) -> Duration {
        let Some(rate) = self.bytes_per_second else { return Duration::ZERO };
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let from = paid.map_or(earliest, |paid| paid.max(earliest));
        let nanos = (bytes as u128 * 1_000_000_000 / u128::from(rate)).min(u128::from(u64::MAX));
        let until = from + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        *paid = Some(until);
        until.saturating_duration_since(now)
    }

    /// Waits as long as [`Pace::take`] says.
    pub async fn pay(&self, bytes: usize) {
        let wait = self.take(bytes, Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_from_the_second_second_on_whoever_takes() {
        let pace = Pace::new(Some(1000));
        let start = Instant::now();
        assert_eq!(pace.take(1000, start), Duration::ZERO, "the burst");
        let mut now = start;
        for _ in 0..100 {
            now += pace.take(500, now);
        }
        assert_eq!(now - start, Duration::from_secs(50));
        now += Duration::from_secs(3600);
        assert_eq!(pace.take(2000, now), Duration::from_secs(1), "a long pause gives one burst, not more");
    }

    #[test]
    fn without_a_rate_nobody_waits() {
        for rate in [None, Some(0)] {
            assert_eq!(Pace::new(rate).take(usize::MAX, Instant::now()), Duration::ZERO);
        }
    }
}
