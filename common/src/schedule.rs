//! When something recurring is due: periods with a stable place in them, so that a fleet spreads by
//! itself and a machine keeps its place over restarts.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::trust::digest::Digest;

/// The place of `identity` in every period of length `period`: evenly spread over identities, always
/// the same for one.
#[must_use]
pub fn offset(identity: &str, period: Duration) -> Duration {
    let digest = Digest::of(identity.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&digest.as_bytes()[..8]);
    let millis = u64::try_from(period.as_millis()).unwrap_or(u64::MAX).max(1);
    Duration::from_millis(u64::from_be_bytes(first) % millis)
}

/// The first moment after `now` at which something with this `period` and this [`offset`] is due.
#[must_use]
pub fn next(now: Timestamp, period: Duration, offset: Duration) -> Timestamp {
    let period = i64::try_from(period.as_millis()).unwrap_or(i64::MAX).max(1);
    let offset = i64::try_from(offset.as_millis()).unwrap_or(0) % period;
    let now_ms = now.as_millisecond();
    let into = (now_ms - offset).rem_euclid(period);
    now.checked_add(SignedDuration::from_millis(period - into)).unwrap_or(Timestamp::MAX)
}

/// How long to wait before try number `attempt` (from 0): uniform in 0 to `base`·2^attempt, at most `max`
/// ("full jitter"). `random` is uniform in 0..=u32::MAX.
#[must_use]
pub fn back_off(attempt: u32, base: Duration, max: Duration, random: u32) -> Duration {
    let ceiling = base.saturating_mul(1 << attempt.min(20)).min(max);
    ceiling.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// A random number from the system, for [`back_off`].
#[must_use]
pub fn random() -> u32 {
    ring::rand::generate::<[u8; 4]>(&ring::rand::SystemRandom::new())
        .map_or(u32::MAX / 2, |bytes| u32::from_be_bytes(bytes.expose()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF_HOUR: Duration = Duration::from_secs(30 * 60);

    #[test]
    fn what_is_due_comes_once_a_period_at_its_own_place() {
        let now: Timestamp = "2026-11-20T10:07:00Z".parse().unwrap();
        let offset = Duration::from_secs(5 * 60);
        let first = next(now, HALF_HOUR, offset);
        assert_eq!(first.to_string(), "2026-11-20T10:35:00Z");
        assert_eq!(next(first, HALF_HOUR, offset).to_string(), "2026-11-20T11:05:00Z");
    }

    #[test]
    fn a_thousand_machines_spread_over_the_period() {
        let mut tenths = [0; 10];
        for machine in 0..1000 {
            let place = offset(&format!("machine-{machine}"), HALF_HOUR);
            assert!(place < HALF_HOUR);
            tenths[usize::try_from(place.as_secs() / 180).unwrap()] += 1;
        }
        assert!(tenths.iter().all(|&n| (60..140).contains(&n)), "{tenths:?}");
    }

    #[test]
    fn waiting_grows_up_to_its_maximum() {
        let wait = |attempt, random| back_off(attempt, Duration::from_secs(1), HALF_HOUR, random);
        assert_eq!(wait(0, u32::MAX), Duration::from_secs(1));
        assert_eq!(wait(3, u32::MAX), Duration::from_secs(8));
        assert_eq!(wait(63, u32::MAX), HALF_HOUR);
        assert_eq!(wait(63, 0), Duration::ZERO);
    }
}
