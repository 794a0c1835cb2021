use std::time::Duration;

use proptest::prelude::*;
use tierway_common::schema::policy::RingMembers;

use super::*;

fn now() -> Timestamp {
    "2026-11-24T12:00:00Z".parse().unwrap()
}

fn later(seconds: u64) -> Timestamp {
    now() + Duration::from_secs(seconds)
}

/// Soaks an hour, needs three successes, halts above 2 % from two failures on.
fn plan() -> RingPlan {
    serde_json::from_str(
        r#"{"id":"safe","rings":[
        {"name":"test","who":{"group":"test"},"soak":"1h","successes_at_least":3},
        {"name":"pilot","who":{"permille":50},"soak":"1h","successes_at_least":3},
        {"name":"broad","who":"rest"}]}"#,
    )
    .unwrap()
}

fn counts(successes: u64, failures: u64) -> Counts {
    Counts { members: 1_000, successes, failures }
}

fn rollout() -> Rollout {
    begun(&plan(), &"debian-12/a_1".parse().unwrap(), "operator:ana", now())
}

#[test]
fn a_ring_opens_the_next_after_soak_and_successes_and_halts_at_too_many_failures() {
    let ring = &plan().rings[0];
    for (successes, failures, seconds, expected) in [
        (0, 0, 0, "stay ring `test`: 0 of 3 successes, 0 failures, it applies to 1000 of its computers"),
        (
            2,
            0,
            999_999,
            "stay ring `test`: 2 of 3 successes, 0 failures, it applies to 1000 of its computers",
        ),
        (3, 0, 3_599, "stay ring `test` soaks until 2026-11-24T13:00:00Z"),
        (3, 0, 3_600, "open"),
        (3, 1, 3_600, "open"),
        (3, 2, 3_600, "halt ring `test`: 2 of 5 attempts failed, more than 2 %"),
        (0, 2, 0, "halt ring `test`: 2 of 2 attempts failed, more than 2 %"),
        (98, 2, 3_600, "open"),
        (97, 2, 3_600, "halt ring `test`: 2 of 99 attempts failed, more than 2 %"),
    ] {
        let found = match gate(counts(successes, failures), ring, now(), later(seconds)) {
            Gate::Stay(why) => format!("stay {why}"),
            Gate::Open => "open".to_owned(),
            Gate::Halt(why) => format!("halt {why}"),
        };
        assert_eq!(found, expected, "{successes} successes, {failures} failures, {seconds} s");
    }
}

#[test]
fn a_failure_in_an_earlier_ring_halts_a_rollout_that_is_further() {
    let at_pilot = Rollout { open: 1, ..rollout() };
    let halted = step(&plan(), &at_pilot, &[counts(3, 9), counts(0, 0), counts(0, 0)], now()).unwrap();
    assert_eq!((halted.stage, halted.open), (RolloutStage::Halted, 1));
    assert_eq!(halted.detail, "ring `test`: 9 of 12 attempts failed, more than 2 %");
    let complete = Rollout { open: 2, stage: RolloutStage::Complete, ..rollout() };
    let counts = [counts(3, 0), counts(50, 0), counts(900, 100)];
    assert_eq!(step(&plan(), &complete, &counts, now()).unwrap().stage, RolloutStage::Halted);
}

#[test]
fn failures_of_a_ring_that_is_not_open_do_not_count() {
    // Somebody installed it there by hand.
    assert_eq!(step(&plan(), &rollout(), &[counts(0, 0), counts(0, 50), counts(0, 9)], now()), None);
}

#[test]
fn rings_open_one_after_the_other_and_the_last_completes_it() {
    let (plan, good) = (plan(), [counts(3, 0); 3]);
    let first = step(&plan, &rollout(), &good, later(3_600)).unwrap();
    assert_eq!((first.open, first.stage, first.since), (1, RolloutStage::Running, later(3_600)));
    assert_eq!(first.detail, "ring `pilot` opened after 3 successes and 0 failures in `test`");
    assert_eq!(step(&plan, &first, &good, later(7_199)), None, "every ring soaks for itself");
    let second = step(&plan, &first, &good, later(7_200)).unwrap();
    assert_eq!((second.open, second.stage), (2, RolloutStage::Complete));
    assert_eq!(step(&plan, &second, &good, later(99_999)), None);
}

#[test]
fn what_people_do_leads_where_the_table_says() {
    use RolloutStage::{Aborted, Complete, Halted, Paused, Running};
    for (stage, open, expected) in [
        (Running, 0, [Some((Paused, 0)), None, Some((Aborted, 0)), Some((Running, 1))]),
        (Running, 1, [Some((Paused, 1)), None, Some((Aborted, 1)), Some((Complete, 2))]),
        (Paused, 0, [None, Some((Running, 0)), Some((Aborted, 0)), Some((Running, 1))]),
        (Paused, 2, [None, Some((Complete, 2)), Some((Aborted, 2)), None]),
        (Halted, 1, [None, Some((Running, 1)), Some((Aborted, 1)), Some((Complete, 2))]),
        (Complete, 2, [Some((Paused, 2)), None, Some((Aborted, 2)), None]),
        (Aborted, 1, [None, None, None, None]),
    ] {
        let before = Rollout { stage, open, ..rollout() };
        let found = Hand::ALL.map(|hand| {
            by_hand(&plan(), &before, hand, "operator:ana", later(60)).map(|after| (after.stage, after.open))
        });
        assert_eq!(found, expected, "{stage:?} {open}");
    }
}

#[test]
fn after_it_was_resumed_a_ring_soaks_anew() {
    let paused = Rollout { stage: RolloutStage::Paused, ..rollout() };
    let resumed = by_hand(&plan(), &paused, Hand::Resume, "operator:ana", later(3_600)).unwrap();
    assert_eq!(step(&plan(), &resumed, &[counts(3, 0); 3], later(3_601)), None);
    assert!(step(&plan(), &resumed, &[counts(3, 0); 3], later(7_200)).is_some());
}

#[test]
fn an_update_is_trusted_after_enough_successes_for_long_enough_with_few_failures() {
    let policy =
        TrustPolicy { successes_at_least: 5, over: Duration::from_secs(3_600), failure_permille_max: 100 };
    for (successes, failures, first, expected) in [
        (0, 0, None, Err("0 of 5 successes, 0 failures")),
        (4, 0, Some(0), Err("4 of 5 successes, 0 failures")),
        (5, 1, Some(0), Err("1 of 6 attempts failed, more than 10 %")),
        (9, 1, Some(0), Ok("promoted: 9 of 10 over 1h")),
        (5, 0, Some(0), Ok("promoted: 5 of 5 over 1h")),
        (5, 0, Some(1), Err("enough successes, the first only at 2026-11-24T12:00:01Z: it needs 1h")),
    ] {
        let found = trusted(counts(successes, failures), first.map(later), &policy, later(3_600));
        assert_eq!(found.as_deref().map_err(String::as_str), expected, "{successes} {failures} {first:?}");
    }
}

fn any_counts() -> impl Strategy<Value = Counts> {
    (0_u64..200, 0_u64..20).prop_map(|(successes, failures)| counts(successes, failures))
}

fn any_plan() -> impl Strategy<Value = RingPlan> {
    let ring = (0_u64..7_200, 0_u32..50, 0_u16..=1_000, 1_u32..5);
    prop::collection::vec(ring, 1..6).prop_map(|rings| {
        let last = rings.len() - 1;
        let ring = |(index, (soak, successes, failures, least))| Ring {
            name: format!("ring-{index}"),
            who: if index == last { RingMembers::Rest } else { RingMembers::Permille(10) },
            soak: Duration::from_secs(soak),
            successes_at_least: successes,
            failure_permille_max: failures,
            failures_min: least,
        };
        RingPlan { id: "any".parse().unwrap(), rings: rings.into_iter().enumerate().map(ring).collect() }
    })
}

#[derive(Clone, Debug)]
enum Event {
    Pass(u64),
    Report(Vec<Counts>),
    Hand(Hand),
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1_u64..5_000).prop_map(Event::Pass),
        4 => prop::collection::vec(any_counts(), 6).prop_map(Event::Report),
        1 => prop::sample::select(Hand::ALL.to_vec()).prop_map(Event::Hand),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn no_ring_opens_by_itself_but_after_soak_and_successes_with_few_failures_in_every_open_ring(
        plan in any_plan(),
        events in prop::collection::vec(any_event(), 1..60),
    ) {
        let mut clock = now();
        let mut seen = vec![Counts::default(); 6];
        let mut rollout = begun(&plan, &"debian-12/a_1".parse().unwrap(), "operator:ana", clock);
        for event in events {
            let before = rollout.clone();
            match event {
                Event::Pass(seconds) => clock += Duration::from_secs(seconds),
                Event::Report(counts) => seen = counts,
                Event::Hand(hand) => {
                    if let Some(after) = by_hand(&plan, &rollout, hand, "operator:ana", clock) {
                        prop_assert_ne!(before.stage, RolloutStage::Aborted, "what is given up stays so");
                        rollout = after;
                    }
                    prop_assert!(rollout.open <= before.open + 1);
                    continue;
                }
            }
            if let Some(after) = step(&plan, &rollout, &seen, clock) {
                prop_assert!(before.stage.installs(), "only a person moves one that stands");
                let halts = |index: usize| {
                    let ring = &plan.rings[index];
                    seen[index].too_many_failures(ring.failures_min, ring.failure_permille_max)
                };
                let open = before.open as usize;
                prop_assert_eq!(after.stage == RolloutStage::Halted, (0..=open).any(halts));
                if after.open > before.open {
                    let ring = &plan.rings[open];
                    prop_assert_eq!(after.open, before.open + 1);
                    prop_assert!(seen[open].successes >= u64::from(ring.successes_at_least));
                    prop_assert!(clock >= before.since + ring.soak);
                    prop_assert_eq!(after.since, clock);
                }
                rollout = after;
            }
            prop_assert!((rollout.open as usize) < plan.rings.len());
            let last = rollout.open as usize + 1 == plan.rings.len();
            prop_assert!(rollout.stage != RolloutStage::Complete || last);
        }
    }

    #[test]
    fn more_failures_never_open_what_fewer_do_not(
        plan in any_plan(), found in any_counts(), more in 1_u64..50, seconds in 0_u64..9_000,
    ) {
        let ring = &plan.rings[0];
        let worse = Counts { failures: found.failures + more, ..found };
        let gate_of = |counts| gate(counts, ring, now(), later(seconds));
        if matches!(gate_of(found), Gate::Halt(_)) {
            prop_assert!(matches!(gate_of(worse), Gate::Halt(_)));
        }
        if gate_of(worse) == Gate::Open {
            prop_assert_eq!(gate_of(found), Gate::Open);
        }
    }
}
