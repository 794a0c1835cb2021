//! The fleet, and what happens in it one after the other.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    time::Instant,
};

use jiff::{SignedDuration, Timestamp, Zoned, civil::Weekday, tz::TimeZone};
use tierway_central::{fleet as central_fleet, plan};
use tierway_common::{
    clock::Clock,
    id::{SiteId, UpdateId},
    schema::{Decision, State, Waiting, policy::RolloutStage},
    transport::dial,
    trust::keys::SigningKey,
};
use tierway_endpoint::{agent::VERSION, scan};
use tierway_proto::{joining, upstream::Upstream, v1};

use super::{
    Compared, Options, Outcome,
    agent::{Agent, Around, Tally, Until, Who},
    central::Driver,
    checks::{Checks, Promise},
    machine::{MODELS, Machine, Package, Role},
    random::Random,
    site::Site,
    story::{self, Act},
};
use crate::{archive, fleet::Fleet, roots::made_up};

/// The sites and where they are.
const SITES: [(&str, &str); 3] =
    [("osaka", "Asia/Tokyo"), ("lyon", "Europe/Paris"), ("lima", "America/Lima")];
/// How often central looks at rollouts and publishes.
const LOOK: SignedDuration = SignedDuration::from_mins(20);
/// How often the timestamp is signed anew; it is valid for a day.
const REFRESH: SignedDuration = SignedDuration::from_hours(6);
/// Central is asked what is overdue.
const AUDIT: SignedDuration = SignedDuration::from_hours(24);
/// All certificates are renewed then: relays' last for 21 days.
const RENEWAL: SignedDuration = SignedDuration::from_hours(9 * 24 + 12);
/// So long after a deadline an update must be installed, or listed: an agent looks every three hours.
const SLACK: SignedDuration = SignedDuration::from_hours(4);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Look,
    Refresh,
    Audit,
    Renew,
    Act(usize),
    Wake(usize, u64),
    Installed(usize),
    Booted(usize),
    Answer(usize),
}

/// A forecast whose time is not over.
#[derive(Debug)]
struct Pending {
    update: UpdateId,
    at: Timestamp,
    bytes: u64,
    finish: Timestamp,
    bytes_before: u64,
    endpoints: u64,
}

#[derive(Debug)]
struct World {
    options: Options,
    clock: Clock,
    start: Timestamp,
    end: Timestamp,
    driver: Driver,
    sites: Vec<Site>,
    agents: Vec<Agent>,
    /// Which wake-up of an agent counts.
    generations: Vec<u64>,
    answers: Vec<bool>,
    packages: BTreeMap<UpdateId, Package>,
    queue: BinaryHeap<Reverse<(Timestamp, u64, What)>>,
    pushed: u64,
    events: u64,
    random: Random,
    checks: Checks,
    tally: Tally,
    listed: BTreeMap<&'static str, u64>,
    approved: BTreeMap<&'static str, Timestamp>,
    forecast: Option<Pending>,
    compared: Option<Compared>,
    exposed: u64,
    quarantined: u64,
}

/// The last Monday's midnight by ten days ago or earlier: certificates are renewed on the ninth day, and TLS goes by
/// the clock of the machine.
fn monday(now: Timestamp) -> Timestamp {
    let mut day: Zoned = (now - SignedDuration::from_hours(10 * 24)).to_zoned(TimeZone::UTC);
    while day.weekday() != Weekday::Monday {
        day = day.yesterday().unwrap();
    }
    day.start_of_day().unwrap().timestamp()
}

/// Simulates `options`; ends early at the first promise that is broken.
pub async fn run(options: Options) -> Outcome {
    assert!((1..=30).contains(&options.days), "1 to 30 days");
    let began = Instant::now();
    let mut world = World::new(options).await;
    world.play().await;
    let mut outcome = world.end().await;
    outcome.wall = began.elapsed();
    outcome
}

fn role(number: u64) -> Role {
    match number % 5 {
        0 | 1 => Role::Server,
        2 | 3 => Role::Desk,
        _ => Role::Asked,
    }
}

impl World {
    async fn new(options: Options) -> Self {
        let start = monday(Clock::system().now());
        let clock = Clock::manual(start);
        let fleet = Fleet::start_in_memory(clock.clone()).await;
        let packages = story::packages();
        let root = fleet.folder("root");
        let installed: Vec<(&str, &str)> = packages.iter().map(|p| (p.name.as_str(), "1.0")).collect();
        made_up(&root, &installed);
        let (facts, problems) = scan::scan(&root, &scan::Asked::default(), "x86_64");
        assert_eq!(problems, []);
        let (mut sites, mut agents) = (Vec::new(), Vec::new());
        let servers = (0..options.endpoints).filter(|n| role(*n) == Role::Server).count();
        for (index, (name, zone)) in SITES.into_iter().enumerate() {
            let relay = fleet.relay(name).await;
            let here: Vec<u64> =
                (0..options.endpoints).filter(|n| n % SITES.len() as u64 == index as u64).collect();
            let request = v1::CreateTokenRequest {
                role: "endpoint".to_owned(),
                site: name.to_owned(),
                uses: u32::try_from(here.len()).unwrap(),
                valid_seconds: 3600,
                server: Some(relay.address.to_string()),
                groups: Vec::new(),
                name: String::new(),
            };
            let token = fleet.admin().await.create_token(request).await.unwrap().into_inner().token;
            let token = token.parse().unwrap();
            let (zone, site): (TimeZone, SiteId) = (TimeZone::get(zone).unwrap(), name.parse().unwrap());
            let mut relay = Some(relay);
            for number in here {
                let name = format!("e{number:05}");
                let dir = fleet.folder(&name);
                let joined = joining::join(&token, None, None, &name, VERSION, &dir).await.unwrap();
                let own = joined.identity.own().holder;
                let upstream = Upstream::new(dial::channel(joined.route.clone(), &joined.identity));
                if let Some(relay) = relay.take() {
                    let dir = fleet.folder(&format!("site-{site}"));
                    sites.push(Site::new(relay, &joined, upstream.clone(), &dir, facts.clone()));
                }
                let who = Who {
                    name,
                    site: (index, site.clone()),
                    id: (own.id.parse().unwrap(), own.tenant.clone()),
                    key: SigningKey::load(&joined.identity.files().identity).unwrap(),
                    upstream,
                };
                let machine = Machine::new(options.seed, number, role(number), zone.clone(), facts.clone());
                let terms = story::terms(machine.role, &zone, servers);
                agents.push(Agent::new(who, machine, terms, start));
            }
        }
        agents.sort_by(|a, b| a.name.cmp(&b.name));
        let mut world = Self {
            end: start + SignedDuration::from_hours(24 * options.days),
            random: Random::of(options.seed, &[5]),
            options,
            clock,
            start,
            driver: Driver::new(fleet),
            sites,
            generations: vec![0; agents.len()],
            answers: vec![false; agents.len()],
            agents,
            packages: packages.into_iter().map(|package| (package.update.clone(), package)).collect(),
            queue: BinaryHeap::new(),
            pushed: 0,
            events: 0,
            checks: Checks::default(),
            tally: Tally::default(),
            listed: BTreeMap::new(),
            approved: BTreeMap::new(),
            forecast: None,
            compared: None,
            exposed: 0,
            quarantined: 0,
        };
        world.set_up(servers).await;
        world
    }

    async fn set_up(&mut self, servers: usize) {
        self.driver.set(&story::documents(servers, self.options.quiet)).await;
        for of in [Role::Server, Role::Desk, Role::Asked] {
            let names = self.names(|machine| machine.role == of);
            self.driver.group(story::group(of), 10, names, Some(story::group(of))).await;
        }
        // One computer of each model, and not only servers.
        let canaries = self.names(|machine| machine.number < MODELS);
        let count = canaries.len();
        // Desks of one site, so that the others have nothing of what these tried.
        let pilots: Vec<String> = (self.agents.iter())
            .filter(|agent| agent.site == 0 && agent.machine.role == Role::Desk)
            .map(|agent| agent.name.clone())
            .collect();
        self.driver.group("pilot", 5, pilots, None).await;
        self.driver.group("canary", 20, canaries, None).await;
        self.driver.set(&[story::rings(count * 3 / 4)]).await;
        self.driver.read().await;
        self.driver.look(self.sites.iter().map(|site| &site.relay)).await;
        self.push(self.start + LOOK, What::Look);
        self.push(self.start + REFRESH, What::Refresh);
        self.push(self.start + AUDIT, What::Audit);
        self.push(self.start + RENEWAL, What::Renew);
        for (index, (hours, _)) in self.options.acts.clone().into_iter().enumerate() {
            self.push(self.start + SignedDuration::from_hours(hours), What::Act(index));
        }
        for index in 0..self.agents.len() {
            let seconds = i64::try_from(self.random.below(3_600)).unwrap();
            self.push(self.start + SignedDuration::from_secs(seconds), What::Wake(index, 0));
        }
    }

    fn names(&self, of: impl Fn(&Machine) -> bool) -> Vec<String> {
        self.agents.iter().filter(|agent| of(&agent.machine)).map(|agent| agent.name.clone()).collect()
    }

    fn push(&mut self, at: Timestamp, what: What) {
        self.pushed += 1;
        self.queue.push(Reverse((at, self.pushed, what)));
    }

    async fn play(&mut self) {
        while let Some(Reverse((at, _, what))) = self.queue.pop() {
            if at >= self.end || self.checks.broken.is_some() {
                break;
            }
            let step = at.duration_since(self.clock.now());
            if step > SignedDuration::ZERO {
                self.clock.advance(step);
            }
            self.happens(what).await;
        }
    }

    async fn happens(&mut self, what: What) {
        let now = self.clock.now();
        match what {
            What::Look => {
                self.driver.settle(&self.sites).await;
                self.driver.look(self.sites.iter().map(|site| &site.relay)).await;
                self.compare(now);
                self.push(now + LOOK, What::Look);
            }
            What::Refresh => {
                self.driver.refresh(self.sites.iter().map(|site| &site.relay)).await;
                self.push(now + REFRESH, What::Refresh);
            }
            What::Audit => {
                self.driver.settle(&self.sites).await;
                self.audit(now);
                self.push(now + AUDIT, What::Audit);
            }
            What::Renew => self.renew().await,
            What::Act(index) => self.act(self.options.acts[index].1, now).await,
            What::Wake(index, generation) => {
                if self.generations[index] == generation && self.agents[index].rests(now) {
                    self.agent(index, false).await;
                }
            }
            What::Booted(index) => self.agent(index, true).await,
            What::Installed(index) => {
                self.events += 1;
                let (agent, mut around) = self.around(index);
                let until = agent.installed(&mut around).await;
                self.waits(index, until);
            }
            What::Answer(index) => {
                self.answers[index] = false;
                let mut random = self.random;
                let answered =
                    self.agents[index].rests(now).then(|| self.agents[index].answer(&mut random, now));
                self.random = random;
                if answered.flatten().is_some() {
                    self.tally.wishes += 1;
                    self.agent(index, false).await;
                }
            }
        }
        if !matches!(what, What::Installed(_) | What::Wake(..)) {
            self.events += 1;
        }
    }

    fn around(&mut self, index: usize) -> (&mut Agent, Around<'_>) {
        let agent = &mut self.agents[index];
        let around = Around {
            clock: &self.clock,
            site: &mut self.sites[agent.site],
            checks: &mut self.checks,
            packages: &self.packages,
            sabotage: self.options.sabotage,
            tally: &mut self.tally,
        };
        (agent, around)
    }

    async fn agent(&mut self, index: usize, booted: bool) {
        self.events += 1;
        let (agent, mut around) = self.around(index);
        let until = agent.check(&mut around, booted).await;
        self.waits(index, until);
    }

    fn waits(&mut self, index: usize, until: Until) {
        use tierway_endpoint::phase::Outlook;
        self.generations[index] += 1;
        match until {
            Until::Wake(at) => {
                self.push(at, What::Wake(index, self.generations[index]));
                let asks = matches!(
                    self.agents[index].outlook,
                    Outlook::Person | Outlook::Warn | Outlook::WarnReboot
                );
                if asks && !self.answers[index] {
                    self.answers[index] = true;
                    let seconds = 30 + i64::try_from(self.random.below(1_500)).unwrap();
                    self.push(self.clock.now() + SignedDuration::from_secs(seconds), What::Answer(index));
                }
            }
            Until::Installed(at) => self.push(at, What::Installed(index)),
            Until::Booted(at) => self.push(at, What::Booted(index)),
        }
    }

    async fn act(&mut self, act: Act, now: Timestamp) {
        match act {
            Act::Release(name) => {
                let mut package = archive::Package::new(name, "2.0");
                let blob = "tierway ".repeat(4_000 + name.len() * 500);
                package.files.insert(format!("/usr/share/{name}/data"), blob);
                self.driver.fleet.archive.update(&package);
                self.driver.fleet.archive.publish();
                self.driver.read().await;
            }
            Act::Approve(name, group, rings) => {
                let update = format!("{}/{name}_2.0", story::CATALOGUE);
                self.driver.decide("approve", &update, group, rings.then_some(story::PLAN)).await;
                self.approved.insert(name, now);
            }
            Act::Decline(name) => {
                self.driver.settle(&self.sites).await;
                self.looked_at(name, now);
                let update = format!("{}/{name}_2.0", story::CATALOGUE);
                self.driver.decide("decline", &update, "everyone", None).await;
            }
            Act::Forecast(name, group) => {
                self.driver.settle(&self.sites).await;
                let update: UpdateId = format!("{}/{name}_2.0", story::CATALOGUE).parse().unwrap();
                let (central, names, group) =
                    (self.driver.central(), [update.to_string()], group.parse().unwrap());
                let (plan, forecast) =
                    plan::approval(&central.state, &central.trees, &names, &group, None).unwrap();
                self.forecast = Some(Pending {
                    at: now,
                    bytes: forecast.links.values().map(|link| link.bytes).sum(),
                    finish: forecast.finish.unwrap(),
                    bytes_before: self.carried(),
                    endpoints: forecast.endpoints,
                    update,
                });
                let applied = plan::apply(&central.state, &plan.id, "operator:tester");
                assert!(matches!(applied.unwrap(), plan::Applied::Done(..)));
            }
        }
        self.driver.look(self.sites.iter().map(|site| &site.relay)).await;
    }

    /// Every certificate is renewed; relays and agents go on with new connections.
    async fn renew(&mut self) {
        self.driver.settle(&self.sites).await;
        for site in &mut self.sites {
            let joined = joining::load(&site.relay.config.data_dir).unwrap();
            let upstream = Upstream::new(dial::channel(joined.route.clone(), &joined.identity));
            joining::renew(&upstream, &joined.identity).await.unwrap();
            site.relay.stop().await;
            site.relay.start().await;
        }
        for agent in &mut self.agents {
            let joined = joining::load(&self.driver.fleet.folder(&agent.name)).unwrap();
            let upstream = Upstream::new(dial::channel(joined.route.clone(), &joined.identity));
            joining::renew(&upstream, &joined.identity).await.unwrap();
            let upstream = Upstream::new(dial::channel(joined.route, &joined.identity));
            agent.reconnect(upstream);
        }
    }

    /// Bytes of payloads that came over the links of all sites.
    fn carried(&self) -> u64 {
        self.sites.iter().map(|site| site.relay.running().payloads.blobs().usage().bytes).sum()
    }

    /// Compares the forecast with what came of it, as soon as nothing is left to do or far too late.
    fn compare(&mut self, now: Timestamp) {
        let Some(Pending { update, at, bytes, finish, bytes_before, endpoints }) = &self.forecast else {
            return;
        };
        let of_group = self.agents.iter().filter(|agent| agent.machine.role == Role::Server);
        let records: Vec<_> = of_group.filter_map(|agent| agent.book.record(update)).collect();
        let done: Vec<Timestamp> = records.iter().filter_map(|record| record.verified).collect();
        let patience = finish.duration_since(*at) * 2;
        if (done.len() as u64) < *endpoints && now.duration_since(*at) < patience {
            return;
        }
        let last = if done.len() as u64 == *endpoints { done.iter().max().copied() } else { None };
        let hours = |end: Timestamp| end.duration_since(*at).as_secs_f64() / 3600.0;
        let compared = Compared {
            bytes: *bytes,
            bytes_true: self.carried() - bytes_before,
            hours: hours(*finish),
            hours_true: last.map_or(f64::INFINITY, hours),
        };
        // Of what was forecast: what never comes is not near to anything.
        let near = |said: f64, came: f64| (said - came).abs() <= 0.15 * said;
        let holds = near(compared.hours, compared.hours_true)
            && near(compared.bytes as f64, compared.bytes_true as f64)
            && compared.bytes > 0;
        self.checks.holds(Promise::Forecast, holds, || format!("{compared:?}"));
        (self.compared, self.forecast) = (Some(compared), None);
    }

    /// Asks central what is overdue, as an operator would.
    fn audit(&mut self, now: Timestamp) {
        let central = self.driver.central();
        for agent in &self.agents {
            let record = central.state.model().endpoint_by_id(&agent.id).unwrap().clone();
            let rows = central_fleet::endpoints::patches(&central.state, &record).unwrap();
            for package in self.packages.values() {
                let row = rows.iter().find(|row| row.update.id == package.update);
                let Some(row) = row else { continue };
                let Some((Decision::Approve, approved)) = row.decision else { continue };
                if agent.machine.version(package) == Some("2.0") {
                    continue;
                }
                let offered = row.entry.progress.offered.unwrap_or(approved);
                let due = Timestamp::from_second(offered.into()).unwrap() + agent.terms.deadline + SLACK;
                if now < due {
                    continue;
                }
                let waiting = row.entry.progress.waiting;
                let lacking = matches!(row.entry.state, State::Needed | State::Failed);
                let reason = row.entry.detail.as_deref().unwrap_or_default();
                let reasons = [
                    Waiting::Ring,
                    Waiting::Window,
                    Waiting::Lease,
                    Waiting::BackOff,
                    Waiting::Quarantine,
                    Waiting::Reboot,
                    Waiting::Superseded,
                ];
                let counts = waiting.is_some_and(|waiting| reasons.contains(&waiting));
                self.checks.holds(Promise::InTimeOrListed, lacking && counts && !reason.is_empty(), || {
                    format!(
                        "`{}` on {} was due by {due} and is at {now} {:?}, waiting {waiting:?}: {reason}",
                        package.update, agent.name, row.entry.state
                    )
                });
                if let Some(waiting) = waiting {
                    *self.listed.entry(waiting.as_str()).or_default() += 1;
                }
            }
        }
    }

    async fn end(mut self) -> Outcome {
        self.driver.settle(&self.sites).await;
        let now = self.clock.now();
        let broken_before = self.checks.broken.is_some();
        if !broken_before {
            self.audit(now);
            self.times();
            self.looked_at(story::BRITTLE, now);
            self.looked_at(story::HOLLOW, now);
        }
        for site in &mut self.sites {
            site.relay.stop().await;
        }
        self.driver.fleet.stop_central().await;
        Outcome {
            seed: self.options.seed,
            endpoints: self.options.endpoints,
            days: self.options.days,
            events: self.events,
            tally: self.tally,
            counts: self.checks.counts,
            most_down: self.checks.most_down,
            listed: self.listed,
            exposed: self.exposed,
            quarantined: self.quarantined,
            forecast: self.compared,
            broken: self.checks.broken,
            ..Outcome::default()
        }
    }

    fn count(&self, name: &str, of: impl Fn(&tierway_endpoint::ledger::Record) -> bool) -> u64 {
        let update: UpdateId = format!("{}/{name}_2.0", story::CATALOGUE).parse().unwrap();
        self.agents.iter().filter(|agent| agent.book.record(&update).is_some_and(&of)).count() as u64
    }

    /// The times of all that was installed, as central tells them.
    fn times(&mut self) {
        let central = self.driver.central();
        for agent in &self.agents {
            let record = central.state.model().endpoint_by_id(&agent.id).unwrap().clone();
            for row in central_fleet::endpoints::patches(&central.state, &record).unwrap() {
                let entry = &row.entry;
                if entry.state != State::Installed || entry.applied.is_none() {
                    continue;
                }
                let progress = entry.progress;
                let times = [
                    entry.detected,
                    row.authorized(),
                    progress.offered,
                    progress.downloaded,
                    entry.applied,
                    progress.verified,
                ];
                let known: Vec<u32> = times.into_iter().flatten().collect();
                self.checks.holds(
                    Promise::TimesInOrder,
                    known.len() == times.len() && known.is_sorted(),
                    || format!("`{}` on {}: {times:?}", row.update.id, agent.name),
                );
            }
        }
    }

    /// What the two updates that are no good did, when they had the time for it: once.
    fn looked_at(&mut self, name: &'static str, now: Timestamp) {
        let Some(approved) = self.approved.get(name).copied() else { return };
        let (days, bad) = if name == story::BRITTLE { (3, true) } else { (6, false) };
        if now < approved + SignedDuration::from_hours(days * 24) {
            return;
        }
        self.approved.remove(name);
        if bad { self.halts() } else { self.gives_up() }
    }

    fn halts(&mut self) {
        let exposed = self.count(story::BRITTLE, |record| record.attempts > 0);
        let update: UpdateId = format!("{}/{}_2.0", story::CATALOGUE, story::BRITTLE).parse().unwrap();
        let central = self.driver.central();
        let key = (story::PLAN.parse().unwrap(), update);
        let rollout = central.state.model().policy().rollouts()[&key].rollout.clone();
        let endpoints = self.options.endpoints;
        // In a fleet that is large enough the first ring is less than a hundredth of it.
        let few = exposed <= MODELS && (endpoints <= 100 * MODELS || exposed * 100 < endpoints);
        let held = rollout.stage == RolloutStage::Halted && rollout.open == 0 && few;
        self.checks.holds(Promise::BadUpdateHalts, held, || {
            format!("it is on {exposed} of {endpoints}: {rollout:?}")
        });
        self.exposed = exposed;
    }

    fn gives_up(&mut self) {
        let quarantined = self.count(story::HOLLOW, |record| {
            record.waits.as_ref().is_some_and(|waits| waits.waiting == Waiting::Quarantine)
        });
        let more = self.count(story::HOLLOW, |record| record.attempts > 5);
        let endpoints = self.options.endpoints;
        self.checks.holds(Promise::Quarantine, quarantined == endpoints && more == 0, || {
            format!("{quarantined} of {endpoints} gave up, {more} tried more often than five times")
        });
        self.quarantined = quarantined;
    }
}
