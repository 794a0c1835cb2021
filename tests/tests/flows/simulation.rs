//! A month of a fleet, and each of its promises broken on purpose.
//!
//! One thread for all of it: what is asked is answered without waiting for another one to wake.

use tierway_tests::simulation::{self, Options, Sabotage, checks::Promise, story::Act};

#[tokio::test]
async fn in_a_month_of_a_fleet_every_promise_holds() {
    let options = Options::month();
    let whole = options.days == 30 && options.endpoints >= 120;
    let faults = options.faults;
    let outcome = simulation::run(options).await;
    println!("{outcome}");
    assert_eq!(outcome.broken, None, "{outcome}");
    if whole {
        let unchecked: Vec<_> =
            Promise::ALL.into_iter().filter(|promise| !outcome.counts.contains_key(promise)).collect();
        assert_eq!(unchecked, [], "{outcome}");
        assert!(outcome.tally.warned > 0 && outcome.forecast.is_some(), "{outcome}");
        let faulty = [outcome.tally.outages, outcome.tally.alone, outcome.tally.clocks];
        assert!(faulty.iter().all(|count| (*count > 0) == faults), "{outcome}");
    }
}

#[tokio::test]
async fn each_promise_broken_on_purpose_is_noticed() {
    for sabotage in Sabotage::ALL {
        let outcome = simulation::run(Options::broken(sabotage)).await;
        println!("{sabotage:?}: {outcome}");
        let broken = outcome.broken.as_ref().map(|broken| broken.promise);
        assert_eq!(broken, Some(sabotage.breaks()), "{sabotage:?}: {outcome}");
    }
}

#[tokio::test]
async fn what_is_installed_and_never_told_is_noticed() {
    let acts = vec![(1, Act::Release("tool")), (8, Act::Approve("tool", "everyone", false))];
    let options = Options { days: 2, acts, ..Options::broken(Sabotage::LosesReports) };
    let outcome = simulation::run(options.clone()).await;
    let broken =
        outcome.broken.as_ref().map(|broken| (broken.promise, broken.how.ends_with("central has None")));
    assert_eq!(broken, Some((Promise::InTimeOrListed, true)), "{outcome}");
    let outcome = simulation::run(Options { sabotage: None, ..options }).await;
    assert_eq!(outcome.broken, None, "{outcome}");
}

#[tokio::test]
async fn a_bad_update_reaches_less_than_a_hundredth_of_a_large_fleet() {
    let Some(options) = Options::large() else {
        return println!("skipped: 2,100 endpoints take minutes (`TIERWAY_SIMULATION_LARGE=1` has them run)");
    };
    let outcome = simulation::run(options).await;
    println!("{outcome}");
    assert_eq!((outcome.broken.clone(), outcome.exposed > 0), (None, true), "{outcome}");
    assert!(outcome.exposed * 100 < outcome.endpoints, "{outcome}");
}
