//! How often a user may ask what costs the endpoint something: an explanation or the plan reads the whole system, the
//! history is read from disk, a wish is written there and decided by. Pure.

use std::{collections::BTreeMap, time::Duration};

/// So many may be asked at once,
const IN_A_ROW: u32 = 8;
/// and then one in so long.
const APART: Duration = Duration::from_secs(2);
/// Users who are remembered; more than a terminal server has at once, and who has rested is forgotten.
const USERS_MAX: usize = 1024;

/// What was asked of late. Root, who may do anything here, is not told to wait.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When each user will have rested from what he asked, as [`tierway_common::clock::Clock::awake`] tells it.
    rested: BTreeMap<u32, Duration>,
}

impl Pace {
    /// Counts what the user `uid` asks at `awake`.
    ///
    /// # Errors
    ///
    /// How long he must wait.
    pub(super) fn ask(&mut self, uid: u32, awake: Duration) -> Result<(), Duration> {
        if uid == 0 {
            return Ok(());
        }
        self.rested.retain(|_, rested| *rested > awake);
        let rested = self.rested.get(&uid).copied().unwrap_or(awake) + APART;
        let wait = rested.saturating_sub(awake + APART * IN_A_ROW);
        if !wait.is_zero() {
            return Err(wait);
        }
        if self.rested.len() >= USERS_MAX && !self.rested.contains_key(&uid) {
            return Err(APART);
        }
        self.rested.insert(uid, rested);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn who_asks_without_end_is_answered_every_two_seconds_and_others_at_once() {
        let (mut pace, mut answered) = (Pace::default(), 0);
        for tenth in 0..600 {
            answered += u32::from(pace.ask(1000, SECOND / 10 * tenth).is_ok());
        }
        assert_eq!(answered, IN_A_ROW + 29);
        assert_eq!(pace.ask(1000, SECOND * 60), Ok(()));
        assert_eq!(pace.ask(1000, SECOND * 60), Err(APART));
        assert_eq!(pace.ask(1001, SECOND * 60), Ok(()));
        assert!((0..1000).all(|_| pace.ask(0, SECOND * 60).is_ok()), "root waits for nobody");
    }

    #[test]
    fn who_has_rested_is_forgotten_and_no_more_are_remembered_than_the_limit() {
        let mut pace = Pace::default();
        for uid in 1..=u32::try_from(USERS_MAX).unwrap() {
            assert_eq!(pace.ask(uid, SECOND), Ok(()));
        }
        assert_eq!(pace.ask(70_000, SECOND), Err(APART));
        assert_eq!(pace.ask(5, SECOND), Ok(()), "who is remembered goes on");
        assert_eq!(pace.ask(70_000, SECOND * 4), Ok(()));
        assert_eq!(pace.rested.len(), 2);
    }
}
