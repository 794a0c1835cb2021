//! A small fleet under the load simulation, end to end: the programs of central and the relays as processes, endpoints over
//! sockets, and central's store compared with what each endpoint was acknowledged.

use std::{path::Path, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use tierway_tests::{
    bench::place,
    fleet::until,
    processes::programs,
    programs::{path, run},
    scale::{self, Options, Scenario},
};

fn options(programs: std::path::PathBuf, dir: &Path, scenarios: &[Scenario]) -> Options {
    let [tiers, endpoints] = ["tiers", "endpoints"].map(|name| dir.join(name));
    std::fs::create_dir_all(&tiers).unwrap();
    Options {
        seed: 1,
        endpoints: 200,
        relays: 2,
        states: 20,
        windows_percent: 30,
        roaming_percent: 5,
        scenarios: scenarios.to_vec(),
        packages: None,
        programs,
        dir: tiers,
        endpoints_dir: endpoints,
        spread: Duration::from_secs(1),
        power_on: Duration::from_secs(1),
        day: Duration::from_secs(1),
        counted_one_in: 10,
        queries: 3,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_two_hundred_endpoints_report_through_hard_days_is_at_central_once_and_as_they_know_it() {
    let Some(programs) = programs("the load simulation") else { return };
    let dir = tempfile::tempdir().unwrap();
    let outcome = scale::run(options(programs, dir.path(), &Scenario::ALL)).await.unwrap();
    println!("{outcome}");
    assert!(outcome.held(), "{outcome}");
    let end = outcome.phase("compared with central").unwrap();
    assert_eq!(end.counts["endpoints compared"], 200);
    assert!(end.counts["states compared"] >= 200 * 20, "{outcome}");
    let emergency = outcome.phase("emergency").unwrap();
    let roam = emergency.counts["endpoints on the road"];
    assert!((1..100).contains(&roam), "{outcome}");
    let online = usize::try_from(200 - roam).unwrap();
    assert_eq!(emergency.times["approval to offer"].count, online);
    assert_eq!(emergency.counts["endpoints told"], 200 - roam);
    let bad = outcome.phase("bad-update").unwrap();
    assert_eq!((bad.counts["installations"], bad.counts["installations that failed"]), (198, 2));
    let replaced = outcome.phase("relay-replaced").unwrap();
    assert_eq!(replaced.counts["endpoints asked for everything again"], 100, "each once: {outcome}");
}

/// Processes whose command line names something below `dir`.
fn processes_of(dir: &Path) -> Vec<String> {
    let dir = dir.display().to_string();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = all.filter_map(|process| std::fs::read_to_string(process.path().join("cmdline")).ok());
    lines.filter(|line| line.contains(&dir)).map(|line| line.replace('\0', " ")).collect()
}

#[tokio::test]
async fn a_simulation_that_is_interrupted_leaves_none_of_its_programs_running() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = place::command(path("tierway-simulate"))
        .args(["--endpoints", "2000", "--states", "4", "--dir"])
        .arg(dir.path())
        .spawn()
        .unwrap();
    until("central and a relay run", async || processes_of(dir.path()).len() >= 3).await;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    assert_eq!((status.code(), processes_of(dir.path())), (Some(1), Vec::new()));
}

#[test]
fn tierctl_hands_on_what_it_is_given_and_ends_as_the_simulation_does() {
    let ended = run("tierctl", &["simulate", "--endpoints", "0"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.errors.contains("invalid value '0' for '--endpoints"), "{ended:?}");
    let ended = run("tierctl", &["simulate", "--help"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for scenario in Scenario::ALL {
        assert!(ended.output.contains(scenario.name()), "{ended:?}");
    }
}
