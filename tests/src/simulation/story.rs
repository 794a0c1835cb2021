//! What happens in a simulation and for whom: levels, windows, rings, updates, and when each is approved.

use std::{ops::Range, time::Duration};

use jiff::{SignedDuration, tz::TimeZone};
use tierway_common::{
    calendar::Calendar,
    schema::policy::{Schedule, ServiceLevel, Window},
    service::Settings,
};

use super::{
    Sabotage,
    checks::Terms,
    machine::{Does, Package, Role},
    random::Random,
};

/// The catalogue of the archive.
pub const CATALOGUE: &str = "debian-12";
/// The ring plan.
pub const PLAN: &str = "careful";
/// The installer that exits 0 and does nothing.
pub const HOLLOW: &str = "hollow";
/// The update that fails on one model of twenty.
pub const BRITTLE: &str = "brittle";
/// The update that is forecast.
pub const FORECAST: &str = "steady";
/// The model on which it fails.
const BROKEN_MODEL: u64 = 13;

/// How many servers may be down at once.
#[must_use]
pub fn at_once(servers: usize) -> usize {
    (servers / 6).max(2)
}

/// The documents of the fleet, each a kind and its JSON. With `quiet` computers check twice a day.
#[must_use]
pub fn documents(servers: usize, quiet: bool) -> Vec<(&'static str, String)> {
    let night = format!(
        r#"{{"id":"night","opens":[{{"on":"every","at":"01:00:00"}}],"length":"3h","zone":"UTC","at_once_max":{}}}"#,
        at_once(servers)
    );
    let level = |json: &str| {
        let mut level: ServiceLevel = serde_json::from_str(json).unwrap();
        if quiet {
            level.retry_interval = Some(QUIET);
            level.schedule = Some(Schedule::Every(QUIET));
        }
        ("level", serde_json::to_string(&level).unwrap())
    };
    vec![("window", night), level(SERVERS), level(DESKS), level(ASKED)]
}

/// The ring plan: one computer of each model first, then all.
#[must_use]
pub fn rings(successes: usize) -> (&'static str, String) {
    let plan = format!(
        r#"{{"id":"{PLAN}","rings":[{{"name":"canary","who":{{"group":"canary"}},"soak":"12h",
        "successes_at_least":{successes},"failures_min":1}},{{"name":"all","who":"rest","failures_min":2}}]}}"#
    );
    ("ring-plan", plan)
}

/// Between two checks in a quiet fleet.
const QUIET: Duration = Duration::from_secs(12 * 3600);

const SERVERS: &str = r#"{"id":"servers","experience":"silent","windows":["night"],"reboot":"if_needed",
    "grace":"0s","deadline":"5days","at_deadline":"wait","schedule":{"every":"6h"},"retry_interval":"3h"}"#;
const DESKS: &str = r#"{"id":"desks","experience":"notify","grace":"1day","deadline":"3days","countdown":"15min",
    "countdown_default":"postpone","postpone":"4h","reboot":"if_needed","reboot_hold":"1day","schedule":{"every":"6h"},
    "retry_interval":"3h"}"#;
const ASKED: &str = r#"{"id":"asked","experience":"consent","grace":"2days","deadline":"4days","countdown":"30min",
    "reboot":"if_needed","reboot_hold":"6h","schedule":{"every":"6h"},"retry_interval":"3h"}"#;

/// The name of the group and of the level of a role.
#[must_use]
pub fn group(role: Role) -> &'static str {
    match role {
        Role::Server => "servers",
        Role::Desk => "desks",
        Role::Asked => "asked",
    }
}

/// What a computer is promised, from the documents as they were set.
#[must_use]
pub fn terms(role: Role, zone: &TimeZone, servers: usize) -> Terms {
    let level = match role {
        Role::Server => SERVERS,
        Role::Desk => DESKS,
        Role::Asked => ASKED,
    };
    let level: ServiceLevel = serde_json::from_str(level).unwrap();
    let name = group(role).parse().unwrap();
    let settings = Settings::merge([(&name, &level)]);
    let night: Window = serde_json::from_str(&documents(servers, false)[0].1).unwrap();
    let windows = settings.windows.iter().map(|_| Calendar::new(&night, zone).unwrap()).collect();
    let signed = |duration| SignedDuration::try_from(duration).unwrap();
    Terms { countdown: signed(settings.countdown), windows, deadline: signed(settings.deadline) }
}

/// Something that people do at central.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// The vendor brings out an update of this package.
    Release(&'static str),
    /// It is approved for a group, with or without rings.
    Approve(&'static str, &'static str, bool),
    /// It is declined for everyone after what it did was looked at.
    Decline(&'static str),
    /// What its approval for a group would come to is worked out, and it is approved.
    Forecast(&'static str, &'static str),
}

/// A month: hours since its first midnight, a Monday, and what happens then.
#[must_use]
pub fn month() -> Vec<(i64, Act)> {
    use Act::{Approve, Decline, Forecast, Release};
    let day = |day: i64, hour: i64| day * 24 + hour;
    vec![
        (day(0, 6), Release("tool")),
        (day(0, 6), Release("library")),
        (day(0, 20), Approve("tool", "everyone", true)),
        (day(0, 20), Approve("library", "everyone", false)),
        (day(2, 6), Release(HOLLOW)),
        (day(2, 20), Approve(HOLLOW, "everyone", false)),
        (day(4, 6), Release(BRITTLE)),
        (day(4, 20), Approve(BRITTLE, "everyone", true)),
        (day(8, 6), Release("kernel")),
        (day(8, 20), Approve("kernel", "everyone", false)),
        (day(10, 6), Decline(BRITTLE)),
        (day(10, 6), Decline(HOLLOW)),
        (day(11, 6), Release("heavy")),
        (day(11, 20), Approve("heavy", "everyone", false)),
        (day(15, 6), Release(FORECAST)),
        (day(15, 20), Approve(FORECAST, "pilot", false)),
        (day(18, 6), Release("core")),
        (day(18, 20), Approve("core", "everyone", true)),
        (day(22, 12), Forecast(FORECAST, "servers")),
        (day(24, 6), Release("shell")),
        (day(24, 20), Approve("shell", "everyone", true)),
    ]
}

/// A relay that is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// Index of its site.
    pub site: usize,
    /// From then on, minutes since the first midnight.
    pub from: i64,
    /// Minutes.
    pub length: i64,
}

/// A computer with a wrong clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongClock {
    /// Which computer.
    pub number: u64,
    /// From then on, minutes since the first midnight.
    pub from: i64,
    /// For so long, minutes.
    pub length: i64,
    /// Minutes that it is ahead; behind when negative.
    pub ahead: i64,
}

/// Days in which relays may be down: neither while certificates are renewed, nor while what a bad update does is looked
/// at, nor while a forecast is compared with what comes, which knows of no outage.
const OUTAGES: [(i64, i64); 2] = [(1, 4), (12, 17)];
/// Days in which a forecast is compared with what comes, which knows neither of wrong clocks, by which tonight's window is
/// on another night, nor of people at work on servers, who hold reboots back.
pub const COMPARED: Range<i64> = 22..25;
/// The longest outage of each of those times: the second is longer than what is published counts.
const OUTAGE_HOURS: [u64; 2] = [12, 40];
/// How wrong a clock is at most, hours.
const WRONG_HOURS: u64 = 40;
/// For how long at most, hours.
const WRONG_FOR_HOURS: u64 = 30;

/// Which relays are down in a month, each once in every time in which it may be.
#[must_use]
pub fn outages(seed: u64, sites: usize) -> Vec<Outage> {
    let minutes = |random: &mut Random, hours: u64| i64::try_from(random.below(hours * 60)).unwrap();
    let mut outages = Vec::new();
    for site in 0..sites {
        for (time, (first, last)) in OUTAGES.into_iter().enumerate() {
            let mut random = Random::of(seed, &[6, site as u64, time as u64]);
            let length = 60 + minutes(&mut random, OUTAGE_HOURS[time]);
            let days = u64::try_from(last - first).unwrap();
            let from = first * 24 * 60 + minutes(&mut random, days * 24 - OUTAGE_HOURS[time]);
            outages.push(Outage { site, from, length });
        }
    }
    outages
}

/// Which clocks are wrong in a month of `days`: one of ten computers is once, by up to `WRONG_HOURS`, but in the days that
/// are `COMPARED`.
#[must_use]
pub fn wrong_clocks(seed: u64, endpoints: u64, days: i64) -> Vec<WrongClock> {
    let minutes = |random: &mut Random, hours: u64| i64::try_from(random.below(hours * 60)).unwrap();
    let mut wrong = Vec::new();
    for number in 0..endpoints {
        let mut random = Random::of(seed, &[7, number]);
        if !random.percent(10) {
            continue;
        }
        let from = minutes(&mut random, u64::try_from(days).unwrap() * 24);
        let length = 10 + minutes(&mut random, WRONG_FOR_HOURS);
        let ahead = minutes(&mut random, 2 * WRONG_HOURS) - i64::try_from(WRONG_HOURS * 60).unwrap();
        let minute = |day: i64| day * 24 * 60;
        if from + length <= minute(COMPARED.start) || minute(COMPARED.end) <= from {
            wrong.push(WrongClock { number, from, length, ahead });
        }
    }
    wrong
}

/// What is enough to see `sabotage` noticed: how many days, and what happens in them.
#[must_use]
pub fn enough(sabotage: Sabotage) -> (i64, Vec<(i64, Act)>) {
    let one = |days, name| (days, vec![(1, Act::Release(name)), (8, Act::Approve(name, "everyone", false))]);
    match sabotage {
        Sabotage::RebootsUnwarned => one(3, "kernel"),
        Sabotage::IgnoresWindows => one(1, "tool"),
        Sabotage::ForgetsToInstall => one(5, "tool"),
        Sabotage::IgnoresLeases => one(2, "library"),
        Sabotage::IgnoresRings => rollout(),
        Sabotage::NeverGivesUp => one(8, HOLLOW),
        // Of what is installed nobody asks when it is due.
        Sabotage::LosesReports => one(4, HOLLOW),
        Sabotage::IsSlowerThanForecast => {
            let acts = vec![
                (1, Act::Release(FORECAST)),
                (8, Act::Approve(FORECAST, "pilot", false)),
                (3 * 24 + 12, Act::Forecast(FORECAST, "servers")),
            ];
            (7, acts)
        }
        Sabotage::TellsTimesInDisorder => one(3, "tool"),
    }
}

/// The bad update alone, by rings.
#[must_use]
pub fn rollout() -> (i64, Vec<(i64, Act)>) {
    (4, vec![(1, Act::Release(BRITTLE)), (20, Act::Approve(BRITTLE, "everyone", true))])
}

/// Every package of the month.
#[must_use]
pub fn packages() -> Vec<Package> {
    let package = |name: &str, does, reboots, minutes: f64| Package {
        name: name.to_owned(),
        update: format!("{CATALOGUE}/{name}_2.0").parse().unwrap(),
        does,
        reboots,
        takes: Duration::from_secs_f64(minutes * 60.0),
    };
    vec![
        package("tool", Does::Work, false, 1.0),
        package("library", Does::Work, false, 4.0),
        package(HOLLOW, Does::Nothing, false, 0.5),
        package(BRITTLE, Does::FailsOn(BROKEN_MODEL), false, 2.0),
        package("kernel", Does::Work, true, 5.0),
        package("heavy", Does::Work, false, 40.0),
        package(FORECAST, Does::Work, true, 6.0),
        package("core", Does::Work, true, 3.0),
        package("shell", Does::Work, false, 0.5),
    ]
}
