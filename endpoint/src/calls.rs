//! What the tier above calls for between two checks: told apart, brought together, spread, and kept from being
//! a burden. Pure.
//!
//! A computer is *on the road* when it reaches the tier above by another way than the first of its routes, or
//! when its configuration says so. Then it leaves out what is told to everybody, unless its service level
//! includes roaming computers or the notice does.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use tierway_common::notices::{Event, Notice};

use crate::consent::signed;

/// A check that was called for is followed by the next such at the earliest after this: who asks twice waits a
/// moment,
const APART: Duration = Duration::from_secs(10);
/// and a relay that never stops calling does not keep the computer busy: from the fifth call in a row on that
/// brought nothing new the time doubles, up to this.
const APART_MAX: Duration = Duration::from_secs(15 * 60);
/// Calls in a row that are followed at once.
const IN_A_ROW: u32 = 4;
/// Ids that wait to be answered: as many as one check-in takes.
const ANSWERS_MAX: usize = tierway_proto::notices::ANSWERED_MAX;

/// Who hears a notice.
#[derive(Clone, Copy, Debug)]
pub struct Hearer<'a> {
    /// His id.
    pub endpoint: &'a str,
    /// The timestamp version that he trusts.
    pub has: u64,
    /// He is on the road, and his level does not include roaming computers.
    pub skips: bool,
    /// His place in the interval over which those spread who are told at once.
    pub place: Duration,
}

/// What a check that begins takes with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Somebody had called for it.
    pub called: bool,
    /// Everything is to be sent again.
    pub everything: bool,
    /// Ids of notices that its check-in answers.
    pub answers: Vec<u64>,
}

/// The calls that wait.
#[derive(Debug, Default)]
pub struct Calls {
    wanted: Option<Timestamp>,
    everything: bool,
    answers: BTreeSet<u64>,
    /// When the last check ended that was called for, and how many before it in a row brought nothing new.
    last: Option<(Timestamp, u32)>,
}

impl Calls {
    /// Hears a notice; true when a check is due earlier for it than before.
    pub fn hear(&mut self, notice: &Notice, hearer: Hearer<'_>, now: Timestamp) -> bool {
        let Hearer { endpoint, has, skips, place } = hearer;
        let wait = match &notice.event {
            Event::Published(version) => {
                if skips || *version <= has {
                    return false;
                }
                place
            }
            Event::Check(order) => {
                let meant = order.endpoints.iter().any(|id| id.as_str() == endpoint);
                if !meant || (skips && !order.roaming) {
                    return false;
                }
                self.everything |= order.report_inventory;
                self.answer(notice.id);
                if order.crowd { place } else { Duration::ZERO }
            }
            Event::Resync(id) => {
                if id.as_str() != endpoint {
                    return false;
                }
                self.everything = true;
                self.answer(notice.id);
                Duration::ZERO
            }
        };
        let (before, at) = (self.due(), after(now, wait));
        self.wanted = Some(self.wanted.map_or(at, |wanted| wanted.min(at)));
        self.due() != before
    }

    fn answer(&mut self, id: u64) {
        // What does not fit is sent again and answered then.
        if self.answers.len() < ANSWERS_MAX {
            self.answers.insert(id);
        }
    }

    /// When a check is due that somebody called for.
    #[must_use]
    pub fn due(&self) -> Option<Timestamp> {
        let wanted = self.wanted?;
        let free = self.last.map(|(ended, in_a_row)| after(ended, apart(in_a_row)));
        Some(free.map_or(wanted, |free| wanted.max(free)))
    }

    /// A check begins, for whatever reason, and takes along what waits.
    pub fn begin(&mut self) -> Taken {
        Taken {
            called: self.wanted.take().is_some(),
            everything: std::mem::take(&mut self.everything),
            answers: std::mem::take(&mut self.answers).into_iter().collect(),
        }
    }

    /// A check has ended that somebody had called for; `news` when it brought something new from above.
    pub fn ended(&mut self, news: bool, now: Timestamp) {
        let before = self.last.filter(|(ended, _)| now < after(*ended, apart_at_rest()));
        let in_a_row = if news { 0 } else { before.map_or(0, |(_, in_a_row)| in_a_row.saturating_add(1)) };
        self.last = Some((now, in_a_row));
    }
}

fn after(at: Timestamp, wait: Duration) -> Timestamp {
    at.checked_add(signed(wait)).unwrap_or(Timestamp::MAX)
}

fn apart(in_a_row: u32) -> Duration {
    APART.saturating_mul(1 << in_a_row.saturating_sub(IN_A_ROW - 1).min(20)).min(APART_MAX)
}

/// Nobody called for so long: it begins anew. More than [`APART_MAX`], or it would after each of those.
fn apart_at_rest() -> Duration {
    APART_MAX * 2
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tierway_common::notices::Order;

    use super::*;

    const PLACE: Duration = Duration::from_secs(17);
    const WEB: Hearer<'_> = Hearer { endpoint: "web", has: 5, skips: false, place: PLACE };

    fn now() -> Timestamp {
        "2026-11-24T10:00:00Z".parse().unwrap()
    }

    fn order(change: impl FnOnce(&mut Order)) -> Event {
        let mut order = Order { endpoints: vec!["web".parse().unwrap()], ..Order::default() };
        change(&mut order);
        Event::Check(Arc::new(order))
    }

    /// How long after the notice the check is due, and whether it sends everything.
    fn heard(event: Event, hearer: Hearer<'_>) -> Option<(u64, bool, Vec<u64>)> {
        let mut calls = Calls::default();
        let wanted = calls.hear(&Notice { id: 3, event }, hearer, now());
        assert_eq!(wanted, calls.due().is_some());
        let due = calls.due()?;
        let Taken { called, everything, answers } = calls.begin();
        assert!(called && calls.due().is_none() && calls.begin() == Taken::default());
        Some((u64::try_from(due.duration_since(now()).as_secs()).unwrap(), everything, answers))
    }

    #[test]
    fn a_publication_is_followed_at_the_computers_own_place_and_an_order_for_it_alone_at_once() {
        assert_eq!(heard(Event::Published(6), WEB), Some((17, false, vec![])));
        assert_eq!(heard(order(|_| ()), WEB), Some((0, false, vec![3])));
        assert_eq!(heard(order(|order| order.crowd = true), WEB), Some((17, false, vec![3])));
        assert_eq!(heard(order(|order| order.report_inventory = true), WEB), Some((0, true, vec![3])));
        assert_eq!(heard(Event::Resync("web".parse().unwrap()), WEB), Some((0, true, vec![3])));
    }

    #[test]
    fn what_is_known_or_meant_for_others_is_not_followed() {
        assert_eq!(heard(Event::Published(5), WEB), None);
        assert_eq!(heard(Event::Resync("shop".parse().unwrap()), WEB), None);
        assert_eq!(heard(order(|order| order.endpoints = vec!["shop".parse().unwrap()]), WEB), None);
    }

    #[test]
    fn on_the_road_only_what_includes_roaming_computers_is_followed() {
        let road = Hearer { skips: true, ..WEB };
        assert_eq!(heard(Event::Published(6), road), None);
        assert_eq!(heard(order(|_| ()), road), None);
        assert_eq!(heard(order(|order| order.roaming = true), road), Some((0, false, vec![3])));
        assert_eq!(heard(Event::Resync("web".parse().unwrap()), road), Some((0, true, vec![3])));
    }

    #[test]
    fn many_calls_are_one_check_at_the_earliest_of_their_times_that_answers_all() {
        let mut calls = Calls::default();
        assert!(calls.hear(&Notice { id: 1, event: Event::Published(6) }, WEB, now()));
        for (id, earlier) in [(2, true), (2, false), (9, false)] {
            let notice = Notice { id, event: order(|_| ()) };
            assert_eq!(calls.hear(&notice, WEB, after(now(), APART / 2)), earlier);
        }
        assert_eq!(calls.due(), Some(after(now(), APART / 2)));
        assert_eq!(calls.begin(), Taken { called: true, everything: false, answers: vec![2, 9] });
    }

    /// So many checks are called for within the time by somebody who calls every second.
    fn checks_within(time: Duration, news: bool) -> u32 {
        let (mut calls, mut at, mut checks) = (Calls::default(), now(), 0);
        while at < after(now(), time) {
            calls.hear(&Notice { id: 7, event: order(|_| ()) }, WEB, at);
            if calls.due().is_some_and(|due| due <= at) {
                assert!(calls.begin().called);
                calls.ended(news, at);
                checks += 1;
            }
            at = after(at, Duration::from_secs(1));
        }
        checks
    }

    #[test]
    fn who_calls_without_end_gets_a_check_a_quarter_of_an_hour() {
        assert_eq!(checks_within(Duration::from_secs(60), false), 5);
        let day = checks_within(Duration::from_secs(24 * 3600), false);
        assert!((96..=106).contains(&day), "{day}");
        assert_eq!(checks_within(Duration::from_secs(60), true), 6, "what brings news is followed");
    }

    #[test]
    fn after_a_rest_a_call_is_followed_at_once() {
        let mut calls = Calls::default();
        let mut at = now();
        for _ in 0..20 {
            calls.ended(false, at);
            at = after(at, APART_MAX);
        }
        let call = Notice { id: 1, event: order(|_| ()) };
        calls.hear(&call, WEB, at);
        assert_eq!(calls.due(), Some(at), "it has waited long enough");
        calls.begin();
        calls.ended(false, at);
        at = after(at, apart_at_rest());
        for wait in [0, 10, 10, 10, 10, 20] {
            calls.hear(&call, WEB, at);
            let due = calls.due().unwrap();
            assert_eq!(due.duration_since(at).as_secs(), wait);
            calls.begin();
            at = due;
            calls.ended(false, at);
        }
    }

    #[test]
    fn a_flood_of_ids_is_kept_to_what_one_check_in_takes() {
        let mut calls = Calls::default();
        for id in 0..10_000 {
            calls.hear(&Notice { id, event: order(|_| ()) }, WEB, now());
        }
        assert_eq!(calls.begin().answers.len(), ANSWERS_MAX);
    }
}
