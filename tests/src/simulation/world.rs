//! The fleet, and what happens in it one after the other.

mod judged;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    time::Instant,
};

use jiff::{SignedDuration, Timestamp, Zoned, civil::Weekday, tz::TimeZone};
use tierway_central::plan;
use tierway_common::{
    clock::Clock,
    id::{SiteId, UpdateId},
    transport::dial,
    trust::keys::SigningKey,
};
use tierway_endpoint::{agent::VERSION, rhythm, scan};
use tierway_proto::{joining, upstream::Upstream, v1};

use super::{
    Compared, Options, Outcome,
    agent::{Agent, Around, Tally, Until, Who},
    central::Driver,
    checks::Checks,
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
/// An agent looks at its clock so often while it waits.
const AGENT_LOOKS: SignedDuration = SignedDuration::from_mins(5);
/// All certificates are renewed then: relays' last for 21 days.
const RENEWAL: SignedDuration = SignedDuration::from_hours(9 * 24 + 12);
/// So long after a deadline an update must be installed, or listed: an agent looks every three hours.
const SLACK: SignedDuration = SignedDuration::from_hours(4);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Look,
    Refresh,
    /// An update is due on a computer.
    Due(usize, usize),
    Renew,
    Outage(usize),
    Back(usize),
    WrongClock(usize, i64),
    RightClock(usize),
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

/// The clock of a computer.
#[derive(Debug)]
struct OwnClock {
    clock: Clock,
    ahead: SignedDuration,
    /// When it was last set, if ever: wrong or right.
    set: Option<Timestamp>,
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
    /// The computers' own clocks.
    clocks: Vec<OwnClock>,
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
                let at = (zone.clone(), start);
                let machine = Machine::new(options.seed, number, role(number), at, facts.clone());
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
            clocks: agents
                .iter()
                .map(|_| OwnClock { clock: Clock::manual(start), ahead: SignedDuration::ZERO, set: None })
                .collect(),
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
        self.look().await;
        self.push(self.start + LOOK, What::Look);
        self.push(self.start + REFRESH, What::Refresh);
        self.push(self.start + RENEWAL, What::Renew);
        if self.options.faults {
            self.plan_faults();
        }
        for (index, (hours, _)) in self.options.acts.clone().into_iter().enumerate() {
            self.push(self.start + SignedDuration::from_hours(hours), What::Act(index));
        }
        for index in 0..self.agents.len() {
            let seconds = i64::try_from(self.random.below(3_600)).unwrap();
            self.push(self.start + SignedDuration::from_secs(seconds), What::Wake(index, 0));
        }
    }

    fn plan_faults(&mut self) {
        let minutes = SignedDuration::from_mins;
        for outage in story::outages(self.options.seed, self.sites.len()) {
            let from = self.start + minutes(outage.from);
            self.push(from, What::Outage(outage.site));
            self.push(from + minutes(outage.length), What::Back(outage.site));
        }
        for wrong in story::wrong_clocks(self.options.seed, self.options.endpoints, self.options.days) {
            let of = |agent: &Agent| agent.machine.number == wrong.number;
            let index = self.agents.iter().position(of).unwrap();
            let from = self.start + minutes(wrong.from);
            self.push(from, What::WrongClock(index, wrong.ahead));
            self.push(from + minutes(wrong.length), What::RightClock(index));
        }
    }

    /// Central looks at what came, and publishes; all relays that are up have it then.
    async fn look(&mut self) {
        self.driver.look(self.sites.iter().filter(|site| site.is_up()).map(|site| &site.relay)).await;
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
                self.look().await;
                self.compare(now);
                self.push(now + LOOK, What::Look);
            }
            What::Refresh => {
                let up = self.sites.iter().filter(|site| site.is_up()).map(|site| &site.relay);
                self.driver.refresh(up).await;
                self.push(now + REFRESH, What::Refresh);
            }
            What::Due(index, package) => {
                self.driver.settle(&self.sites).await;
                if let Some(again) = self.due(index, package, now) {
                    self.push(again, What::Due(index, package));
                }
            }
            What::Renew => self.renew().await,
            What::Outage(site) => {
                self.driver.settle(&self.sites).await;
                self.sites[site].goes_down(now).await;
                self.tally.outages += 1;
            }
            What::Back(site) => {
                self.sites[site].comes_back(now).await;
                self.driver.catch_up(std::iter::once(&self.sites[site].relay)).await;
                self.reconnect(|agent| agent.site == site);
            }
            What::WrongClock(index, minutes) => {
                self.tally.clocks += 1;
                self.set_clock(index, SignedDuration::from_mins(minutes), now);
            }
            What::RightClock(index) => self.set_clock(index, SignedDuration::ZERO, now),
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
                let own = now + self.clocks[index].ahead;
                let answered =
                    self.agents[index].rests(now).then(|| self.agents[index].answer(&mut random, now, own));
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

    /// The clock of a computer goes so far ahead from now on. Its agent notices when it looks at it next.
    fn set_clock(&mut self, index: usize, ahead: SignedDuration, now: Timestamp) {
        self.clocks[index].set = Some(now);
        let before = std::mem::replace(&mut self.clocks[index].ahead, ahead);
        let agent = &self.agents[index];
        let generation = self.generations[index];
        // It waits until its clock shows some time, which now comes so much earlier or later.
        self.queue = std::mem::take(&mut self.queue)
            .into_iter()
            .map(|Reverse((at, order, what))| match what {
                What::Wake(of, of_generation) if of == index && of_generation == generation => {
                    let due = rhythm::due(at + before, agent.decided, now + ahead) - ahead;
                    let looks = now + AGENT_LOOKS;
                    Reverse((if at <= looks { at } else { due.max(looks) }, order, what))
                }
                _ => Reverse((at, order, what)),
            })
            .collect();
    }

    fn around(&mut self, index: usize) -> (&mut Agent, Around<'_>) {
        let agent = &mut self.agents[index];
        let OwnClock { clock: own, ahead, set: _ } = &self.clocks[index];
        own.advance((self.clock.now() + *ahead).duration_since(own.now()));
        let around = Around {
            clock: own,
            truth: &self.clock,
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
                self.will_be_due(&update.parse().unwrap(), now);
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
                    update: update.clone(),
                });
                self.will_be_due(&update, now);
                let applied = plan::apply(&central.state, &plan.id, "operator:tester");
                assert!(matches!(applied.unwrap(), plan::Applied::Done(..)));
            }
        }
        self.look().await;
    }

    /// Of an update that was approved now central is asked on each computer at its deadline there.
    fn will_be_due(&mut self, update: &UpdateId, now: Timestamp) {
        let package = self.packages.keys().position(|id| id == update).unwrap();
        for index in 0..self.agents.len() {
            self.push(now + self.agents[index].terms.deadline + SLACK, What::Due(index, package));
        }
    }

    /// Agents go on with new connections, by the certificates that they have.
    fn reconnect(&mut self, which: impl Fn(&Agent) -> bool) {
        for agent in self.agents.iter_mut().filter(|agent| which(agent)) {
            let joined = joining::load(&self.driver.fleet.folder(&agent.name)).unwrap();
            agent.reconnect(Upstream::new(dial::channel(joined.route, &joined.identity)));
        }
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
        for agent in &self.agents {
            let joined = joining::load(&self.driver.fleet.folder(&agent.name)).unwrap();
            let upstream = Upstream::new(dial::channel(joined.route.clone(), &joined.identity));
            joining::renew(&upstream, &joined.identity).await.unwrap();
        }
        self.reconnect(|_| true);
    }

    async fn end(mut self) -> Outcome {
        self.driver.settle(&self.sites).await;
        let now = self.clock.now();
        let broken_before = self.checks.broken.is_some();
        if !broken_before {
            self.times();
            self.known(now);
            self.looked_at(story::BRITTLE, now);
            self.looked_at(story::HOLLOW, now);
        }
        let rollouts = self.rollouts();
        for site in self.sites.iter_mut().filter(|site| site.is_up()) {
            site.relay.stop().await;
        }
        self.driver.fleet.stop_central().await;
        Outcome {
            seed: self.options.seed,
            start: self.start,
            endpoints: self.options.endpoints,
            days: self.options.days,
            events: self.events,
            tally: self.tally,
            counts: self.checks.counts,
            most_down: self.checks.most_down,
            listed: self.listed,
            rollouts,
            exposed: self.exposed,
            quarantined: self.quarantined,
            forecast: self.compared,
            broken: self.checks.broken,
            ..Outcome::default()
        }
    }
}
