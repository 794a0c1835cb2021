//! What would come of an approval, worked out before anybody gives it (U13): reboots, bytes over each site's link, how
//! full each change window gets with what is carried over, and when it is finished. Pure.
//!
//! Computers do here what they do by their own planner: nothing starts unless its time limit and, where the level has
//! it rebooted then, a reserve for the reboot fit into what is left of the window; of a window that limits how many may be down at once so many take
//! turns; what does not fit is carried over to the next opening; a ring opens when the one before has soaked and has
//! its successes. A window without a zone of its own opens in that of each computer; where that makes openings of
//! different zones overlap, each is reckoned by itself, also where it limits who is down. Installations are taken to last what 95 of 100 lasted, so a forecast is late rather than early.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use tierway_common::{
    calendar::{Calendar, Occurrence},
    id::{EndpointId, SiteId, UpdateId, WindowId},
    schema::policy::{AtDeadline, Experience, Reboot, RingPlan, Timing, Window},
    service::Settings,
    trust::digest::Digest,
};

/// What a reboot takes, and what is kept free for one at the end of a window.
pub const REBOOT_RESERVE: SignedDuration = SignedDuration::from_mins(10);
/// From an approval until a computer that is on has it on offer: publication, relay, notice, evaluation.
pub const OFFERED_AFTER: SignedDuration = SignedDuration::from_mins(5);
/// Openings that one computer is followed through; what does not fit into so many does not fit.
pub const OPENINGS_MAX: usize = 60;
/// What an installation takes of which nothing was measured.
const EXPECTED_UNMEASURED: SignedDuration = SignedDuration::from_mins(2);
/// What must be left of a window for it then, as endpoints have it unless configured otherwise: it gets what is left.
const LIMIT_UNMEASURED: SignedDuration = SignedDuration::from_mins(30);
/// A limit is so many times what 95 of 100 took…
const LIMIT_FACTOR: i64 = 2;
/// …and at least so much.
const LIMIT_LEAST: SignedDuration = SignedDuration::from_secs(120);

/// One update that a computer would install.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// Which.
    pub update: UpdateId,
    /// How long it is taken to last.
    pub expected: SignedDuration,
    /// After how long it would be ended.
    pub limit: SignedDuration,
    /// Whether it needs a reboot.
    pub reboots: bool,
    /// What it has to fetch: digest and bytes.
    pub payloads: Vec<(Digest, u64)>,
    /// Approved already and not installed yet: it takes its time before what is planned does.
    pub backlog: bool,
}

/// A computer for which something is planned.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Which.
    pub id: EndpointId,
    /// Where.
    pub site: SiteId,
    /// Its time zone, for windows that name none.
    pub zone: TimeZone,
    /// What holds on it.
    pub settings: Settings,
    /// Index of its ring; 0 without rings.
    pub ring: usize,
    /// What it would install, in that order.
    pub work: Vec<Work>,
}

/// What everything happens on.
#[derive(Clone, Debug)]
pub struct Ground {
    /// When it is approved.
    pub now: Timestamp,
    /// The windows that levels name.
    pub windows: BTreeMap<WindowId, Window>,
    /// Ring after ring by this plan.
    pub rings: Option<RingPlan>,
    /// Payloads that are at each site's relays already.
    pub held: BTreeMap<SiteId, BTreeSet<Digest>>,
}

/// What goes over the link of a site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Computers there for which something is planned.
    pub endpoints: u64,
    /// Payloads that are not there yet.
    pub payloads: u64,
    /// Their bytes: each goes over the link once.
    pub bytes: u64,
}

/// How full one opening of a window gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fill {
    /// When it is open, and which window.
    pub opening: Occurrence,
    /// Time zones by which it opens then: the window's own, or those of the computers in it.
    pub zones: BTreeSet<String>,
    /// Computers that install something in it.
    pub endpoints: u64,
    /// Seconds of work in it, reboots included.
    pub used_seconds: u64,
    /// Seconds that there are: its length, times how many may be down at once; without a limit times the computers
    /// that are in it.
    pub available_seconds: u64,
    /// Computers whose work is not finished in it.
    pub carried_over: u64,
}

/// What would come of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forecast {
    /// Computers for which something is planned.
    pub endpoints: u64,
    /// Installations of what is planned; the backlog is not counted.
    pub installations: u64,
    /// Reboots.
    pub reboots: u64,
    /// By site.
    pub links: BTreeMap<SiteId, Link>,
    /// By opening, then window.
    pub fills: Vec<Fill>,
    /// When the last computer is finished; `None` when nothing finishes.
    pub finish: Option<Timestamp>,
    /// Computers that finish after their deadline.
    pub late: u64,
    /// Computers that never finish, each with the reason.
    pub never: Vec<(EndpointId, String)>,
}

/// What an installation is taken to last on machines of `class`, and what a window must have room for.
#[must_use]
pub fn durations(timing: Option<&Timing>, class: &str) -> (SignedDuration, SignedDuration) {
    let of = |class: &str| timing?.classes.get(class);
    match of(class).or_else(|| of("")) {
        Some(measured) => {
            let expected = SignedDuration::from_secs(measured.p95_seconds.into());
            let limit = SignedDuration::from_secs(i64::from(measured.p95_seconds) * LIMIT_FACTOR);
            (expected, limit.max(LIMIT_LEAST))
        }
        None => (EXPECTED_UNMEASURED, LIMIT_UNMEASURED),
    }
}

/// Works out what would come of it. Machines of one ring take their turns in the order in which they are given.
#[must_use]
pub fn forecast(ground: &Ground, machines: &[Machine]) -> Forecast {
    let mut course = Course::new(ground, machines);
    let rings = ground.rings.as_ref().map_or(1, |plan| plan.rings.len());
    let mut opens = Some(ground.now);
    for ring in 0..rings {
        let members: Vec<_> = machines.iter().filter(|machine| machine.ring.min(rings - 1) == ring).collect();
        let mut finished = Vec::new();
        for machine in members {
            match opens {
                Some(opens) => finished.extend(course.machine(machine, opens)),
                None => course.never(machine, "its ring never opens: the one before has too few computers"),
            }
        }
        let Some(of_plan) = ground.rings.as_ref().and_then(|plan| plan.rings.get(ring)) else { continue };
        finished.sort_unstable();
        let soaked = opens.and_then(|opens| later(opens, of_plan.soak));
        let enough = match usize::try_from(of_plan.successes_at_least).unwrap_or(usize::MAX).checked_sub(1) {
            None => Some(ground.now),
            Some(last) => finished.get(last).copied(),
        };
        opens = soaked.zip(enough).map(|(soaked, enough)| soaked.max(enough));
    }
    course.end(machines)
}

fn later(at: Timestamp, by: Duration) -> Option<Timestamp> {
    at.checked_add(SignedDuration::try_from(by).ok()?).ok()
}

fn after(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

fn seconds(length: SignedDuration) -> u64 {
    u64::try_from(length.as_secs()).unwrap_or(0)
}

struct Course<'a> {
    ground: &'a Ground,
    /// By window, then zone: that of the window itself, or those of the computers.
    calendars: BTreeMap<&'a WindowId, BTreeMap<String, Calendar>>,
    /// By opening: since when each lane is free, where lanes are limited.
    lanes: BTreeMap<Occurrence, Vec<Timestamp>>,
    fills: BTreeMap<Occurrence, Fill>,
    forecast: Forecast,
}

impl<'a> Course<'a> {
    fn new(ground: &'a Ground, machines: &[Machine]) -> Self {
        let zones: BTreeMap<&str, &TimeZone> =
            machines.iter().map(|machine| (named(&machine.zone), &machine.zone)).collect();
        let calendars = ground.windows.iter().map(|(id, window)| {
            // One that makes no sense never opens.
            let calendars = zones.values().filter_map(|zone| Calendar::new(window, zone).ok());
            (id, calendars.map(|calendar| (named(calendar.zone()).to_owned(), calendar)).collect())
        });
        Self {
            ground,
            calendars: calendars.collect(),
            lanes: BTreeMap::new(),
            fills: BTreeMap::new(),
            forecast: Forecast::default(),
        }
    }

    fn never(&mut self, machine: &Machine, reason: &str) {
        self.forecast.never.push((machine.id.clone(), reason.to_owned()));
    }

    /// When a machine whose ring opens then is finished with what is planned.
    fn machine(&mut self, machine: &Machine, opens: Timestamp) -> Option<Timestamp> {
        let settings = &machine.settings;
        let offered = after(opens, OFFERED_AFTER);
        let deadline = later(offered, settings.deadline).unwrap_or(Timestamp::MAX);
        let ready = match settings.experience {
            Experience::Silent | Experience::Notify => offered,
            // Whoever is asked may take the whole of the grace.
            Experience::Consent => later(offered, settings.grace).unwrap_or(Timestamp::MAX),
        };
        let finish = if settings.windows.is_empty() {
            let work: SignedDuration = machine.work.iter().map(|work| work.expected).sum();
            Some(after(ready, work + reboot(machine)))
        } else {
            self.in_windows(machine, ready, deadline)
        };
        let Some(finish) = finish else {
            self.never(machine, "it does not fit into the openings of its windows");
            return None;
        };
        self.forecast.late += u64::from(finish > deadline);
        self.forecast.finish = self.forecast.finish.max(Some(finish));
        Some(finish)
    }

    fn in_windows(&mut self, machine: &Machine, ready: Timestamp, deadline: Timestamp) -> Option<Timestamp> {
        let forced = machine.settings.at_deadline == AtDeadline::Install;
        let mut left: &[Work] = &machine.work;
        let mut from = ready;
        for _ in 0..OPENINGS_MAX {
            let opening = self.next_opening(machine, from);
            if forced && opening.as_ref().is_none_or(|opening| opening.start > deadline) {
                let work: SignedDuration = left.iter().map(|work| work.expected).sum();
                return Some(after(deadline.max(from), work + reboot(machine)));
            }
            let opening = opening?;
            let (done, end) = self.turn(machine, left, &opening, ready);
            left = &left[done..];
            if left.is_empty() {
                return Some(end);
            }
            from = opening.end;
        }
        None
    }

    /// The opening of any of its windows that is open at `from`, or else opens next.
    fn next_opening(&self, machine: &Machine, from: Timestamp) -> Option<Occurrence> {
        let calendars = machine.settings.windows.iter().filter_map(|id| self.calendar(id, machine));
        calendars.filter_map(|calendar| calendar.from(from).find(|opening| opening.end > from)).min()
    }

    /// A window as it is read on a machine.
    fn calendar(&self, id: &WindowId, machine: &Machine) -> Option<&Calendar> {
        let by_zone = self.calendars.get(id)?;
        match self.ground.windows.get(id)?.zone {
            Some(_) => by_zone.values().next(),
            None => by_zone.get(named(&machine.zone)),
        }
    }

    /// What a machine does in one opening: how many of `left` it installs, and when it is through.
    fn turn(
        &mut self,
        machine: &Machine,
        left: &[Work],
        opening: &Occurrence,
        ready: Timestamp,
    ) -> (usize, Timestamp) {
        let calendar = self.calendar(&opening.window, machine);
        let zone = calendar.map_or("", |calendar| named(calendar.zone())).to_owned();
        let limit = calendar.and_then(Calendar::at_once_max);
        let lanes = limit.map(|lanes| usize::try_from(lanes).unwrap_or(usize::MAX).clamp(1, 100_000));
        let free = match lanes {
            Some(lanes) => {
                let lanes = self.lanes.entry(opening.clone()).or_insert_with(|| vec![opening.start; lanes]);
                lanes.iter().min().copied().unwrap_or(opening.start)
            }
            None => opening.start,
        };
        let start = free.max(opening.start).max(ready);
        let (mut at, mut done) = (start, 0);
        for work in left {
            if after(at, work.limit + reserve(machine)) > opening.end {
                break;
            }
            at = after(at, work.expected);
            done += 1;
        }
        let through = done == left.len();
        if done > 0 {
            at = after(at, reboot(machine));
            if let Some(lane) = self.lanes.get_mut(opening).and_then(|lanes| lanes.iter_mut().min()) {
                *lane = at;
            }
        }
        let length = seconds(opening.length());
        let fill = self.fills.entry(opening.clone()).or_insert_with(|| Fill {
            opening: opening.clone(),
            zones: BTreeSet::new(),
            endpoints: 0,
            used_seconds: 0,
            available_seconds: lanes.map_or(0, |lanes| length.saturating_mul(lanes as u64)),
            carried_over: 0,
        });
        fill.zones.insert(zone);
        if done > 0 {
            fill.endpoints += 1;
            fill.used_seconds += seconds(at.duration_since(start));
            if lanes.is_none() {
                fill.available_seconds = fill.available_seconds.saturating_add(length);
            }
        }
        fill.carried_over += u64::from(!through);
        (done, at)
    }

    fn end(self, machines: &[Machine]) -> Forecast {
        let mut forecast = self.forecast;
        forecast.fills = self.fills.into_values().collect();
        forecast.endpoints = machines.len() as u64;
        let mut fetched: BTreeMap<&SiteId, BTreeMap<Digest, u64>> = BTreeMap::new();
        for machine in machines {
            let planned = machine.work.iter().filter(|work| !work.backlog);
            forecast.installations += planned.clone().count() as u64;
            forecast.reboots += u64::from(reboot(machine) > SignedDuration::ZERO);
            let at_site = fetched.entry(&machine.site).or_default();
            at_site.extend(planned.flat_map(|work| work.payloads.iter().copied()));
            forecast.links.entry(machine.site.clone()).or_default().endpoints += 1;
        }
        for (site, payloads) in fetched {
            let held = self.ground.held.get(site);
            let missing =
                payloads.iter().filter(|(digest, _)| held.is_none_or(|held| !held.contains(digest)));
            if let Some(link) = forecast.links.get_mut(site) {
                for (_, bytes) in missing {
                    link.payloads += 1;
                    link.bytes += bytes;
                }
            }
        }
        forecast
    }
}

/// What a machine keeps free for a reboot at the end of a window.
fn reserve(machine: &Machine) -> SignedDuration {
    match machine.settings.reboot {
        Reboot::Suppress | Reboot::At(_) => SignedDuration::ZERO,
        Reboot::IfNeeded | Reboot::Always => REBOOT_RESERVE,
    }
}

/// The IANA name of a zone, by which calendars are found.
fn named(zone: &TimeZone) -> &str {
    zone.iana_name().unwrap_or("UTC")
}

/// What the reboot of a machine takes after its work; nothing when it is not rebooted.
fn reboot(machine: &Machine) -> SignedDuration {
    let needed = machine.work.iter().any(|work| work.reboots);
    let done = match machine.settings.reboot {
        Reboot::Suppress => false,
        Reboot::Always => !machine.work.is_empty(),
        Reboot::IfNeeded | Reboot::At(_) => needed,
    };
    if done { REBOOT_RESERVE } else { SignedDuration::ZERO }
}

#[cfg(test)]
mod tests;
