//! Change windows on a real system: what is approved waits for its window and is installed in it, what does not fit goes
//! into the next one, and `tierctl` says so all the while.

use std::{fs, os::unix::fs::symlink, path::Path};

use jiff::{SignedDuration, Timestamp, ToSpan, tz::TimeZone};
use tierway_common::{clock::Clock, schema::State};
use tierway_tests::{
    archive::{Package, run},
    fleet::{Endpoint, Fleet, Relay, until},
    reporter::Reporter,
    roots::{installed_version, made_up, real},
    simulation::central::Driver,
    skip::pristine_root,
    tierctl::{Tierctl, line},
};

const HELLO: &str = "debian-12/hello_2.0";
const IMAGE: &str = "debian-12/image_2.0";
/// Both by which the script of `hello` and the test meet: it makes the first, and reads a line from the second.
const MEETING: [&str; 2] = ["var/lib/hello-began", "var/lib/hello-goes-on"];
const ZONE: &str = "Asia/Tokyo";

/// Midnight in the zone of the window, so many days ago that all that happens lies before the machine's own now, by
/// which certificates are checked.
fn midnight() -> Timestamp {
    let zone = TimeZone::get(ZONE).unwrap();
    let today = Clock::system().now().to_zoned(zone);
    today.checked_sub(3.days()).unwrap().start_of_day().unwrap().timestamp()
}

/// As windows are named in reasons.
fn shown(at: Timestamp) -> String {
    at.to_zoned(TimeZone::get(ZONE).unwrap()).strftime("next window %a %Y-%m-%d %H:%M %Z").to_string()
}

/// The two updates in the archive, of both of which five computers have said how long they took.
async fn measured(clock: &Clock) -> Fleet {
    let mut fleet = Fleet::start_at(clock.clone()).await;
    let script = format!("#!/bin/sh\necho >/{}\nread _ </{}\n", MEETING[0], MEETING[1]);
    fleet.archive.update(&Package::new("hello", "2.0").script("preinst", &script));
    fleet.archive.update(&Package::new("image", "2.0"));
    fleet.archive.publish();
    Driver::read_archive(&fleet).await;
    for number in 0..5 {
        let mut reporter = Reporter::enroll(&fleet, &format!("e{number}")).await;
        for (update, minutes) in [(HELLO, 5), (IMAGE, 28)] {
            reporter.says(&fleet, update, State::Needed, None).await;
            reporter.says(&fleet, update, State::Installed, Some(minutes * 60)).await;
        }
    }
    fleet
}

/// Everything that was reported and decided is at central, published, and at the relay.
async fn settled(driver: &mut Driver, relay: &Relay) {
    relay.forwarded().await;
    driver.look([relay].into_iter()).await;
    // What is published counts for a day only.
    driver.refresh([relay].into_iter()).await;
}

/// Lets the time pass until the window opens `then` as the computer would live through it: it checks whenever it said it
/// would, and finds nothing to do. Returns how often it did before; the window is open from then on.
async fn live_until(
    driver: &mut Driver,
    relay: &Relay,
    endpoint: &Endpoint,
    root: &Path,
    then: Timestamp,
) -> u32 {
    let (before, mut checks) = (versions(root), 0);
    loop {
        let next = Timestamp::from_millisecond(endpoint.status().next_check).unwrap();
        assert!(next > endpoint.clock.now(), "it checks again at once, at {next}");
        settled(driver, relay).await;
        if next >= then {
            assert_eq!((next, versions(root)), (then, before), "it waits, and wakes when the window opens");
            endpoint.clock.advance(then.duration_since(endpoint.clock.now()));
            return checks;
        }
        endpoint.clock.advance(next.duration_since(endpoint.clock.now()));
        let done = endpoint.check().await;
        assert_eq!((done.installed, done.problems), (0, Vec::<String>::new()), "{next}");
        checks += 1;
    }
}

/// The openings that a plan as JSON shows: when, for computers of which zones, how many are in it and how many are not
/// through then.
fn openings(plan: &serde_json::Value) -> Vec<(Timestamp, Vec<String>, u64, u64)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let opening = |fill: &serde_json::Value| {
        let zones = fill["zones"].as_array().unwrap().iter().map(text).collect();
        let [endpoints, carried_over] = ["endpoints", "carried_over"].map(|key| fill[key].as_u64().unwrap());
        (text(&fill["opens"]).parse().unwrap(), zones, endpoints, carried_over)
    };
    plan["windows"].as_array().unwrap().iter().map(opening).collect()
}

fn versions(root: &Path) -> [Option<String>; 2] {
    ["hello", "image"].map(|name| installed_version(root, name))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_waits_for_its_window_and_one_that_does_not_fit_is_carried_over_as_tierctl_shows() {
    let Some(pristine) = pristine_root("installing in change windows") else { return };
    let clock = Clock::manual(midnight());
    let [first, second] = [2, 26].map(|hours| clock.now() + SignedDuration::from_hours(hours));
    let fleet = measured(&clock).await;
    let tierctl = Tierctl::of(&fleet);
    let relay = fleet.relay("osaka").await;
    let root = fleet.folder("root");
    real(&pristine, &root, &[Package::new("hello", "1.0"), Package::new("image", "1.0")]);
    let go_on = root.join(MEETING[1]);
    run("mkfifo", &[go_on.as_os_str()]);
    let mut endpoint = fleet.enroll("web1", "osaka", relay.address, &root).await;
    let mut driver = Driver::new(fleet);

    let night = ["--opens", "every@02:00", "--length", "1h", "--zone", ZONE];
    tierctl.prints(&[&["window", "set", "night"], &night[..]].concat());
    tierctl.prints(&["level", "set", "servers", "--window", "night", "--reboot", "suppress"]);
    settled(&mut driver, &relay).await;
    endpoint.start().await;
    assert_eq!(endpoint.check().await.needed, 2);
    let members = ["--endpoint", &endpoint.id, "--level", "servers"];
    tierctl.prints(&[&["group", "set", "servers"], &members[..]].concat());
    settled(&mut driver, &relay).await;

    // What would come of it, before it is approved, and exactly that then.
    let plan = tierctl.json(&["plan", "approval", HELLO, IMAGE, "--group", "servers"]);
    let zones = || vec![ZONE.to_owned()];
    assert_eq!(openings(&plan), [(first, zones(), 1, 1), (second, zones(), 1, 0)], "{plan:#}");
    let finish: Timestamp = plan["finish"].as_str().unwrap().parse().unwrap();
    assert!((second..second + SignedDuration::from_hours(1)).contains(&finish), "{plan:#}");
    tierctl.prints(&["apply", "--plan", plan["plan"].as_str().unwrap()]);
    settled(&mut driver, &relay).await;

    // Both wait, and it is said for which window.
    assert_eq!(endpoint.check().await.installed, 0);
    settled(&mut driver, &relay).await;
    let shows = tierctl.prints(&["endpoint", "show", &endpoint.id]);
    for (update, needs) in [(HELLO, "needs 11 min"), (IMAGE, "needs 1 h")] {
        let told = line(&shows, update);
        assert!(told.contains("waiting for a window"), "{told}");
        assert!(told.ends_with(&format!("outside change windows; {needs}; {}", shown(first))), "{told}");
        let of_patch = line(&tierctl.prints(&["patch", "endpoints", update]), "waiting");
        assert!(of_patch.contains("waiting for a window") && of_patch.contains(&shown(first)), "{of_patch}");
    }
    assert!(live_until(&mut driver, &relay, &endpoint, &root, first).await > 0);

    // It opens. Behind the five minutes that the first should take the second does not fit, nor behind the seven that it
    // takes.
    let meets = async {
        until("hello is being installed", async || root.join(MEETING[0]).exists()).await;
        clock.advance(SignedDuration::from_mins(7));
        let go_on = go_on.clone();
        tokio::task::spawn_blocking(move || fs::write(go_on, "\n").unwrap()).await.unwrap();
    };
    let (done, ()) = tokio::join!(endpoint.check(), meets);
    assert_eq!((done.needed, done.failed, done.problems), (1, 0, Vec::<String>::new()));
    assert_eq!(versions(&root).each_ref().map(Option::as_deref), [Some("2.0"), Some("1.0")]);
    settled(&mut driver, &relay).await;
    let shows = tierctl.prints(&["endpoint", "show", &endpoint.id]);
    assert!(line(&shows, HELLO).contains(" verified "), "{shows}");
    let carried = line(&shows, IMAGE);
    assert!(carried.contains("waiting for a window"), "{carried}");
    assert!(
        carried.ends_with(&format!("does not fit: needs 1 h, 55 min left; {}", shown(second))),
        "{carried}"
    );

    // A night later it is first, and fits.
    assert!(live_until(&mut driver, &relay, &endpoint, &root, second).await > 0);
    let done = endpoint.check().await;
    assert_eq!((done.needed, done.failed), (0, 0), "{:?}", done.problems);
    assert_eq!(versions(&root).each_ref().map(Option::as_deref), [Some("2.0"), Some("2.0")]);
    settled(&mut driver, &relay).await;
    let shows = tierctl.json(&["endpoint", "show", &endpoint.id, IMAGE]);
    assert_eq!(shows["standing"], "verified", "{shows:#}");
    let steps = shows["steps"].as_array().unwrap();
    let at = |name: &str| steps.iter().find(|step| step["step"] == name).unwrap()["at"].clone();
    assert_eq!(at("applied"), serde_json::json!(second.to_string()), "{shows:#}");
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_without_a_zone_is_planned_and_waited_for_in_the_zone_of_each_computer() {
    let clock = Clock::manual(midnight());
    let fleet = measured(&clock).await;
    let tierctl = Tierctl::of(&fleet);
    let relay = fleet.relay("osaka").await;
    let mut driver = Driver::new(fleet);
    tierctl.prints(&["window", "set", "night", "--opens", "every@02:00", "--length", "1h"]);
    tierctl.prints(&["level", "set", "servers", "--window", "night", "--reboot", "suppress"]);
    tierctl.prints(&["group", "set", "servers", "--site", "osaka", "--level", "servers"]);
    let mut computers = Vec::new();
    for (name, link) in [("tokyo", Some("/usr/share/zoneinfo/Asia/Tokyo")), ("bare", None)] {
        let root = driver.fleet.folder(&format!("root-{name}"));
        made_up(&root, &[("hello", "1.0")]);
        if let Some(link) = link {
            symlink(link, root.join("etc/localtime")).unwrap();
        }
        let mut endpoint = driver.fleet.enroll(name, "osaka", relay.address, &root).await;
        settled(&mut driver, &relay).await;
        endpoint.start().await;
        assert_eq!(endpoint.check().await.needed, 1);
        computers.push(endpoint);
    }
    settled(&mut driver, &relay).await;

    // Midnight is two hours before the window there, and eleven before it in UTC.
    let [tokyo, utc] = [2, 11].map(|hours| clock.now() + SignedDuration::from_hours(hours));
    let plan = tierctl.json(&["plan", "approval", HELLO, "--group", "servers"]);
    let expected = [(tokyo, vec![ZONE.to_owned()], 1, 0), (utc, vec!["UTC".to_owned()], 1, 0)];
    assert_eq!(openings(&plan), expected, "{plan:#}");
    tierctl.prints(&["apply", "--plan", plan["plan"].as_str().unwrap()]);
    settled(&mut driver, &relay).await;
    for (endpoint, zone, opens) in [(&computers[0], ZONE, tokyo), (&computers[1], "UTC", utc)] {
        assert_eq!(endpoint.check().await.installed, 0);
        settled(&mut driver, &relay).await;
        let shows = tierctl.prints(&["endpoint", "show", &endpoint.id]);
        assert_eq!(line(&shows, "zone "), format!("zone {zone}"));
        let local = opens.to_zoned(TimeZone::get(zone).unwrap()).strftime("%a %Y-%m-%d 02:00 %Z").to_string();
        let told = line(&shows, HELLO);
        assert!(
            told.ends_with(&format!("outside change windows; needs 11 min; next window {local}")),
            "{told}"
        );
    }
    for mut endpoint in computers {
        endpoint.stop().await;
    }
}
