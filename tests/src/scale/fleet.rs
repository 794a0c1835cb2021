//! The fleet of a load simulation: set up, enrolled, had to check, and at the end compared with central.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use rustix::process::{Resource, getrlimit};
use tierway_common::{clock::Clock, enrollment::Token, facts::Facts};
use tierway_endpoint::agent::VERSION;
use tierway_proto::{
    joining::{self, Joined},
    upstream::Upstream,
    v1,
};
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    Options, compared,
    failure::{Failure, failed},
    figures::{Figures, Kind, Outcome, Phase, Used},
    inventory::{List, System},
    link::Carried,
    listening::{self, Call},
    member::{Around, Member, Site},
    published::Published,
    queries, scenarios,
    tiers::{Mark, Tiers, load},
};
use crate::{archive::Archive, bench::process, simulation::random::Random};

/// Enrolments under way at a time: as many as central takes at once.
const ENROLLING: usize = 16;
/// First and longest wait of an endpoint before it tries a check again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
/// Who has not been through a check by then has failed.
const PATIENCE: Duration = Duration::from_secs(900);
/// What central has published it publishes for good when nothing more comes for so long.
const QUIET: Duration = Duration::from_secs(2);
/// How often central is asked whether all has arrived.
const LOOK: Duration = Duration::from_millis(250);
/// Bytes of each package of Debian.
const PACKAGE_BYTES: usize = 16 * 1024;
/// Descriptors for each endpoint: its socket; for one whose bytes are counted two more.
const DESCRIPTORS_BESIDES: u64 = 500;
/// Endpoints on the road that are connected at a time.
const ON_THE_ROAD_CONNECTED: usize = 400;

/// The whole.
#[derive(Debug)]
pub struct Fleet {
    /// What is simulated.
    pub options: Options,
    /// The time.
    pub clock: Clock,
    /// Of the phase that goes on.
    pub figures: Arc<Figures>,
    /// For endpoints on the road.
    road: Arc<Semaphore>,
    /// Central and the relays.
    pub tiers: Tiers,
    /// By number.
    pub members: Vec<Member>,
    /// What there is to install.
    pub lists: BTreeMap<System, Arc<List>>,
    /// Up to which step updates are published, by place.
    pub steps: BTreeMap<System, BTreeMap<u32, u32>>,
    /// The first place of the base system of which no newer update was published.
    fresh: u32,
    archive: Archive,
    phases: Vec<Phase>,
}

/// Runs all of `options`.
///
/// # Errors
///
/// [`Failure`] when the simulation itself cannot go on; what it finds wrong is in the outcome.
pub async fn run(options: Options) -> Result<Outcome, Failure> {
    let counted = options.endpoints.div_ceil(options.counted_one_in.max(1));
    let on_the_road = (0..options.endpoints).filter(|number| roams(&options, *number)).count() as u64;
    let connected = options.endpoints - on_the_road + on_the_road.min(ON_THE_ROAD_CONNECTED as u64);
    let needed = connected + counted * 2 + options.relays * 8 + DESCRIPTORS_BESIDES;
    if let Some(most) = getrlimit(Resource::Nofile).maximum.filter(|most| *most < needed) {
        return Err(Failure::plain(format!(
            "{} endpoints, {on_the_road} of them on the road, need {needed} open files and this process may have {most}: \
             see `ulimit -Hn` and `--roaming`",
            options.endpoints
        )));
    }
    process::allow_descriptors(needed);
    let mut fleet = Fleet::set_up(options).await?;
    fleet.enrol().await?;
    fleet.first_check().await?;
    for scenario in fleet.options.scenarios.clone() {
        scenarios::play(&mut fleet, scenario).await?;
    }
    queries::ask(&mut fleet).await?;
    fleet.end().await
}

impl Fleet {
    async fn set_up(options: Options) -> Result<Self, Failure> {
        let mut archive = Archive::start().await;
        let (mut lists, mut steps) = (BTreeMap::new(), BTreeMap::new());
        for system in System::ALL {
            let list = List::new(system, options.states, options.seed, options.packages.as_deref())?;
            let places = u32::try_from(list.items.len()).map_err(failed("count the packages"))?;
            steps.insert(system, (0..places).map(|place| (place, 1)).collect());
            lists.insert(system, Arc::new(list));
        }
        let vendor = options.dir.join("programs.xml");
        let sources = format!(
            "{}\n[[source]]\nkind = \"sdp\"\nname = \"programs\"\ncatalogue = \"programs\"\nurl = \"{}\"\n",
            archive.source(&options.dir),
            vendor.display()
        );
        let debian: &List = &lists[&System::Debian];
        for place in 0..u32::try_from(debian.items.len()).unwrap_or(0) {
            offer(&mut archive, debian, place, 1, options.seed);
        }
        archive.publish();
        let tiers = Tiers::start(&options.dir, &options.programs, &sources).await?;
        let mut fleet = Self {
            options,
            clock: Clock::system(),
            figures: Arc::default(),
            road: Arc::new(Semaphore::new(ON_THE_ROAD_CONNECTED)),
            tiers,
            members: Vec::new(),
            lists,
            steps,
            fresh: 0,
            archive,
            phases: Vec::new(),
        };
        fleet.write_vendor()?;
        fleet.sync().await?;
        for _ in 0..fleet.options.relays {
            fleet.tiers.add_relay().await?;
        }
        fleet.published().await?;
        Ok(fleet)
    }

    fn write_vendor(&self) -> Result<(), Failure> {
        let path = self.options.dir.join("programs.xml");
        let text = self.lists[&System::Windows].vendor_catalogue(&self.steps[&System::Windows]);
        std::fs::write(&path, text).map_err(failed(format!("write `{}`", path.display())))
    }

    async fn sync(&self) -> Result<(), Failure> {
        let request = v1::SyncSourceRequest { name: None };
        let answer = self.tiers.admin().sync_source(request).await.map_err(failed("read the sources"))?;
        let mut progress = answer.into_inner();
        while progress.message().await.map_err(failed("read the sources"))?.is_some() {}
        Ok(())
    }

    /// Waits until central has published all that it read; the version with which it has.
    ///
    /// # Errors
    ///
    /// [`Failure`] when central does not answer.
    pub async fn published(&self) -> Result<u64, Failure> {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            let answer = self.tiers.admin().get_status(v1::GetStatusRequest::default()).await;
            let version = answer.map_err(failed("ask for the status"))?.into_inner().dictionary_version;
            if version != last {
                (last, since) = (version, Instant::now());
            } else if since.elapsed() > QUIET {
                return Ok(version);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Publishes the next step of so many packages that all computers of a system have, at most half of those, and has
    /// everybody know it; the updates.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub async fn publish(&mut self, count: u32) -> Result<Vec<String>, Failure> {
        let base = u32::try_from(self.options.states / 2).map_err(failed("count the packages"))?;
        let (from, count) = (self.fresh % base, count.min(base / 2).max(1));
        let places = from..(from + count).min(base);
        self.fresh += count;
        let mut updates = Vec::new();
        for system in System::ALL {
            let list = self.lists[&system].clone();
            for place in places.clone() {
                let step = self.steps.get_mut(&system).and_then(|steps| steps.get_mut(&place));
                let Some(step) = step else { continue };
                *step += 1;
                updates.push(list.update(place, *step));
                if system == System::Debian {
                    offer(&mut self.archive, &list, place, *step, self.options.seed);
                }
            }
        }
        self.archive.publish();
        self.write_vendor()?;
        self.sync().await?;
        let version = self.published().await?;
        self.everybody(|member, around| has(member, around, version)).await?;
        Ok(updates)
    }

    /// Approves updates for everybody.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub async fn approve(&self, patches: Vec<String>) -> Result<(), Failure> {
        let request = v1::DecidePatchesRequest {
            patches,
            group: "everyone".to_owned(),
            decision: "approve".to_owned(),
            ..v1::DecidePatchesRequest::default()
        };
        self.tiers.admin().decide_patches(request).await.map_err(failed("approve updates"))?;
        Ok(())
    }

    fn system(&self, number: u64) -> System {
        let mut random = Random::of(self.options.seed, &[17, number]);
        if random.percent(self.options.windows_percent) { System::Windows } else { System::Debian }
    }

    async fn enrol(&mut self) -> Result<(), Failure> {
        let begun = self.begin();
        let relays = self.tiers.relays.len();
        let mut tokens = Vec::new();
        for (number, relay) in (0..).zip(&self.tiers.relays) {
            let uses = (0..self.options.endpoints).filter(|member| member % relays as u64 == number).count();
            let uses = u32::try_from(uses).map_err(failed("count the endpoints"))?;
            tokens.push(self.tiers.token("endpoint", &relay.site, relay.address, uses.max(1)).await?);
        }
        let (tokens, figures): (&[Token], &Figures) = (&tokens, &self.figures);
        let dir = &self.options.endpoints_dir;
        let joined: Vec<(u64, Joined)> = stream::iter(0..self.options.endpoints)
            .map(|number| async move {
                let token = &tokens[usize::try_from(number).unwrap_or(0) % tokens.len()];
                let (dir, mut tries) = (Member::folder(number, dir), 0_u32);
                let began = Instant::now();
                let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                loop {
                    match joining::join(token, None, None, name, VERSION, &dir).await {
                        Ok(joined) => {
                            figures.took(Kind::Enrol, began.elapsed());
                            return Ok((number, joined));
                        }
                        Err(error) if began.elapsed() < PATIENCE => {
                            figures.tried_again(chain(&error));
                            tokio::time::sleep(back_off(number, tries)).await;
                            tries += 1;
                        }
                        Err(error) => return Err(failed(format!("enrol `{name}`"))(error)),
                    }
                }
            })
            .buffered(ENROLLING)
            .try_collect()
            .await?;
        let time = begun.at.elapsed();
        let mut phase = self.ended("enrolment", begun);
        phase.more.insert("enrolments per second", joined.len() as f64 / time.as_secs_f64());
        let central = phase.used["central"].cpu_seconds;
        phase.more.insert("enrolments per CPU second of central", joined.len() as f64 / central.max(0.01));
        self.phases.push(phase);
        self.make_members(joined)
    }

    fn make_members(&mut self, joined: Vec<(u64, Joined)>) -> Result<(), Failure> {
        let mut sites: BTreeMap<(usize, System), Arc<Site>> = BTreeMap::new();
        for (number, joined) in joined {
            let relay = usize::try_from(number).unwrap_or(0) % self.tiers.relays.len();
            let system = self.system(number);
            let list = self.lists[&system].clone();
            let installed = list.draw(self.options.seed, number);
            let site = match sites.get(&(relay, system)) {
                Some(site) => site.clone(),
                None => {
                    let dir = self.options.endpoints_dir.join(format!("site-{relay:02}-{system:?}"));
                    let route = joined.route.clone();
                    let channel = tierway_common::transport::dial::channel(route, &joined.identity);
                    let tenant = joined.identity.own().holder.tenant;
                    let os = os_of(&list.facts(&installed));
                    let upstream = Upstream::new(channel);
                    let published = Published::open(&dir, &joined.trust_dir, &tenant, upstream, os)?;
                    let site = Arc::new(Site { published, list: list.clone() });
                    sites.insert((relay, system), site.clone());
                    site
                }
            };
            let among = number / self.tiers.relays.len() as u64;
            let counted = among.is_multiple_of(self.options.counted_one_in.max(1));
            let counted = counted.then_some(self.tiers.relays[relay].counted.address);
            let roams = roams(&self.options, number);
            self.members.push(Member::new(number, joined, site, installed, roams, counted)?);
        }
        Ok(())
    }

    /// How many endpoints' bytes are counted.
    #[must_use]
    pub fn counted(&self) -> u64 {
        let (relays, one_in) = (self.tiers.relays.len() as u64, self.options.counted_one_in.max(1));
        (0..self.options.endpoints).filter(|number| (number / relays).is_multiple_of(one_in)).count() as u64
    }

    async fn first_check(&mut self) -> Result<(), Failure> {
        let version = self.published().await?;
        let begun = self.begin();
        self.everybody(|member, around| async move {
            let member = persist(member, around.clone(), true).await;
            has(member, around, version).await
        })
        .await?;
        let arrived = self.arrived(None, begun.timestamp).await?;
        let mut phase = self.ended("first check of all", begun);
        phase.more.insert("seconds until central had all", arrived.as_secs_f64());
        self.bytes(&mut phase);
        self.phases.push(phase);
        Ok(())
    }

    /// What is around the endpoints.
    pub fn around(&self) -> Around {
        Around {
            clock: self.clock.clone(),
            figures: self.figures.clone(),
            installs: false,
            bad: Arc::new([]),
            road: self.road.clone(),
        }
    }

    /// Has all endpoints do something at the same time.
    ///
    /// # Errors
    ///
    /// [`Failure`] when one of them ended in a panic.
    pub async fn everybody<F: Future<Output = Member> + Send + 'static>(
        &mut self,
        does: impl Fn(Member, Around) -> F,
    ) -> Result<(), Failure> {
        let around = self.around();
        self.those(around, |_| true, does).await
    }

    /// Has all endpoints for which `which` holds do something at the same time, in these circumstances.
    ///
    /// # Errors
    ///
    /// [`Failure`] when one of them ended in a panic.
    pub async fn those<F: Future<Output = Member> + Send + 'static>(
        &mut self,
        around: Around,
        which: impl Fn(&Member) -> bool,
        does: impl Fn(Member, Around) -> F,
    ) -> Result<(), Failure> {
        let mut busy = JoinSet::new();
        let (mut members, others) = (Vec::new(), std::mem::take(&mut self.members));
        for member in others {
            if which(&member) {
                busy.spawn(does(member, around.clone()));
            } else {
                members.push(member);
            }
        }
        while let Some(done) = busy.join_next().await {
            members.push(done.map_err(failed("simulate an endpoint"))?);
        }
        members.sort_by_key(|member| member.number);
        self.members = members;
        Ok(())
    }

    /// Has all endpoints listen, then approves `updates`; each listens until it was offered those that it needs, or for
    /// `patience`.
    ///
    /// # Errors
    ///
    /// [`Failure`] when they cannot listen, or the updates not be approved.
    pub async fn approve_while_all_listen(
        &mut self,
        around: Around,
        patience: Duration,
        updates: &[String],
    ) -> Result<(), Failure> {
        let ids = updates.iter().map(|id| id.parse()).collect::<Result<_, _>>();
        let ids = ids.map_err(failed("read the ids of updates"))?;
        let call = Arc::new(Call::new(ids, self.options.spread, patience));
        let mut busy = JoinSet::new();
        let members = std::mem::take(&mut self.members);
        let all = members.len() as u64;
        for member in members {
            busy.spawn(listening::listen(member, around.clone(), call.clone()));
        }
        let began = Instant::now();
        while call.ready() < all {
            if began.elapsed() > PATIENCE {
                return Err(Failure::plain("not all endpoints could listen"));
            }
            tokio::time::sleep(LOOK).await;
        }
        call.goes_out();
        self.approve(updates.to_vec()).await?;
        while let Some(done) = busy.join_next().await {
            self.members.push(done.map_err(failed("simulate an endpoint"))?);
        }
        self.members.sort_by_key(|member| member.number);
        Ok(())
    }

    /// Waits until central has had a report of every endpoint (of a site) since `since`, and nothing comes any more; after
    /// how long it had.
    ///
    /// # Errors
    ///
    /// [`Failure`] when central does not answer.
    pub async fn arrived(&self, site: Option<&str>, since: Timestamp) -> Result<Duration, Failure> {
        let (began, since) = (Instant::now(), since.as_millisecond());
        let (mut last, mut complete) = (Vec::new(), None);
        loop {
            let reports = self.last_reports(site).await?;
            if complete.is_none() && reports.iter().all(|at| *at >= since) {
                complete = Some(began.elapsed());
            }
            match complete {
                Some(complete) if reports == last => return Ok(complete),
                _ if began.elapsed() > PATIENCE => {
                    let missing = reports.iter().filter(|at| **at < since).count();
                    self.figures.finding(format!("central heard nothing of {missing} endpoints"));
                    return Ok(began.elapsed());
                }
                _ => {}
            }
            last = reports;
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn last_reports(&self, site: Option<&str>) -> Result<Vec<i64>, Failure> {
        let (mut admin, mut reports, mut after) = (self.tiers.admin(), Vec::new(), String::new());
        loop {
            let request = v1::ListEndpointsRequest {
                site: site.map(str::to_owned),
                limit: 1_000,
                after,
                ..v1::ListEndpointsRequest::default()
            };
            let answer = admin.list_endpoints(request).await.map_err(failed("list the endpoints"))?;
            let v1::ListEndpointsResponse { endpoints, next } = answer.into_inner();
            reports.extend(endpoints.iter().map(|endpoint| endpoint.last_report));
            if next.is_empty() || endpoints.is_empty() {
                return Ok(reports);
            }
            after = next;
        }
    }

    /// A phase begins: what was used and carried counts from now on.
    #[must_use]
    pub fn begin(&self) -> Begun {
        for relay in &self.tiers.relays {
            relay.counted.take();
            relay.link.take();
        }
        Begun { at: Instant::now(), timestamp: self.clock.now(), mark: self.tiers.mark() }
    }

    /// A phase has ended.
    #[must_use]
    pub fn ended(&self, name: &str, begun: Begun) -> Phase {
        let used: BTreeMap<&'static str, Used> = self.tiers.used_since(&begun.mark);
        Phase::new(name, begun.at.elapsed(), load(), used, self.figures.take())
    }

    /// Adds to a phase what was carried in it, for each endpoint.
    pub fn bytes(&self, phase: &mut Phase) {
        let (mut doors, mut links) = (Carried::default(), Carried::default());
        for relay in &self.tiers.relays {
            for (sum, link) in [(&mut doors, &relay.counted), (&mut links, &relay.link)] {
                let Carried { up, down } = link.take();
                (sum.up, sum.down) = (sum.up + up, sum.down + down);
            }
        }
        let counted = self.counted().max(1) as f64;
        let all = self.options.endpoints.max(1) as f64;
        phase.more.insert("bytes from an endpoint", doors.up as f64 / counted);
        phase.more.insert("bytes to an endpoint", doors.down as f64 / counted);
        phase.more.insert("bytes from relays, for each endpoint", links.up as f64 / all);
        phase.more.insert("bytes to relays, for each endpoint", links.down as f64 / all);
    }

    /// Keeps a phase for the outcome.
    pub fn push(&mut self, phase: Phase) {
        self.phases.push(phase);
    }

    /// Everybody checks once more, all that was reported arrives, the tiers end; then central's store is compared with what
    /// each endpoint knows.
    async fn end(mut self) -> Result<Outcome, Failure> {
        let begun = self.begin();
        self.everybody(|member, around| persist(member, around, true)).await?;
        self.arrived(None, begun.timestamp).await?;
        self.tiers.stop().await?;
        let compared = compared::compare(&self.tiers.central_dir(), &self.members, &self.figures)?;
        let mut phase = self.ended("compared with central", begun);
        phase.more.insert("bytes of central's store for each endpoint", compared.store_bytes_each);
        phase.more.insert("seconds to open central's store", compared.opened.as_secs_f64());
        self.phases.push(phase);
        let Options { seed, endpoints, relays, states, .. } = self.options;
        Ok(Outcome { seed, endpoints, relays, states: states as u64, phases: self.phases })
    }
}

/// When a phase began.
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    /// By the clock that is never set.
    pub at: Instant,
    /// By the other.
    pub timestamp: Timestamp,
    mark: Mark,
}

fn offer(archive: &mut Archive, list: &List, place: u32, step: u32, seed: u64) {
    let (name, version) = (&list.items[place as usize].name, list.version(place, step));
    let mut random = Random::of(seed, &[19, u64::from(place), u64::from(step)]);
    let bytes = (0..PACKAGE_BYTES / 8).flat_map(|_| random.bits().to_le_bytes()).collect();
    archive.listed(name, &version, bytes);
}

/// Only what says which system it is.
fn os_of(facts: &Facts) -> Facts {
    let domains = facts.domains.iter().filter(|(name, _)| *name == "os");
    let values = facts.values.iter().filter(|(key, _)| key.starts_with("os:"));
    Facts {
        domains: domains.map(|(name, domain)| (name.clone(), domain.clone())).collect(),
        values: values.map(|(key, value)| (key.clone(), value.clone())).collect(),
    }
}

/// How long an endpoint waits before its next try: longer each time, and not as long as the others.
fn back_off(number: u64, tries: u32) -> Duration {
    let whole = BACK_OFF.0.saturating_mul(1 << tries.min(10)).min(BACK_OFF.1);
    let share = Random::of(number, &[u64::from(tries)]).below(1_000);
    whole.mul_f64(0.5 + share as f64 / 2_000.0)
}

/// An error and what led to it, in one line.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    tierway_common::daemon::chain::Chain(error).to_string()
}

/// Whether an endpoint is on the road; the first of each relay is not.
fn roams(options: &Options, number: u64) -> bool {
    number >= options.relays && Random::of(options.seed, &[29, number]).percent(options.roaming_percent)
}

/// Checks until a check is through; who is on the road is connected for it, and not longer.
pub async fn persist(mut member: Member, around: Around, daily: bool) -> Member {
    if !member.roams {
        return check(member, around, daily).await;
    }
    // Nobody closes it.
    let _place = around.road.clone().acquire_owned().await.ok();
    member = check(member, around, daily).await;
    member.goes_off();
    member
}

async fn check(mut member: Member, around: Around, daily: bool) -> Member {
    let (began, mut tries) = (Instant::now(), 0);
    loop {
        match member.check(&around, daily).await {
            Ok(()) => {
                around.figures.took(Kind::Cycle, began.elapsed());
                return member;
            }
            Err(error) if began.elapsed() > PATIENCE => {
                around.figures.finding(format!("`{}` could not check: {}", member.name, chain(&error)));
                return member;
            }
            Err(error) => {
                around.figures.tried_again(chain(&error));
                tokio::time::sleep(back_off(member.number, tries)).await;
                tries += 1;
            }
        }
    }
}

/// Checks until it has this version of what is published.
pub async fn has(mut member: Member, around: Around, version: u64) -> Member {
    let began = Instant::now();
    while member.version() < version {
        member = persist(member, around.clone(), false).await;
        if began.elapsed() > PATIENCE {
            let (name, has) = (&member.name, member.version());
            around.figures.finding(format!("`{name}` has version {has} of what is published, not {version}"));
            break;
        }
        if member.version() < version {
            tokio::time::sleep(back_off(member.number, 2)).await;
        }
    }
    member
}
