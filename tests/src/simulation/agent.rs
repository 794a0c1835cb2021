//! A simulated endpoint: the real pure functions of the endpoint, between a real relay and a simulated computer.
//!
//! It does in simulated time what the endpoint's cycle does in real time: check in, evaluate, decide, fetch, lease,
//! install step by step, reboot, verify, report in envelopes of its own.

mod upward;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tierway_common::{
    calendar::timetable,
    clock::Clock,
    id::{EndpointId, SiteId, TenantId, UpdateId, WindowId},
    lease::Lease,
    rules::Verdict,
    schedule,
    schema::{Decision, State, StateEntry},
    trust::{digest::Digest, keys::SigningKey},
};
use tierway_endpoint::{
    agent::{VERSION, WAKES_APART},
    config::INSTALL_TIME_LIMIT,
    consent::{Countdown, tightest},
    cycle::ROUNDS_MAX,
    install::{
        codes::{self, After, Outcome},
        failsafe::Limit,
    },
    ledger::{Book, Conditions, Event},
    people::People,
    phase::{self, Outlook, Phase},
    plan::{self, Finding, Limits, Now, Payloads, Plan, Step},
    policy::{
        self, Effective,
        here::{Computer, Here},
    },
    reboot::decide::{self as reboot, Decision as Reboot},
    wishes::{Caller, Standing, Wish, permit},
};
use tierway_proto::{upstream::Upstream, v1};

use super::{
    Sabotage,
    checks::{Checks, Terms},
    machine::{Machine, Package, Role},
    random::Random,
    site::Site,
};

/// What is around an agent while it acts.
#[derive(Debug)]
pub struct Around<'a> {
    /// The time as the computer's own clock tells it.
    pub clock: &'a Clock,
    /// The time.
    pub truth: &'a Clock,
    /// Where it is.
    pub site: &'a mut Site,
    /// What is watched.
    pub checks: &'a mut Checks,
    /// What there is to install.
    pub packages: &'a BTreeMap<UpdateId, Package>,
    /// Which promise is broken on purpose.
    pub sabotage: Option<Sabotage>,
    /// What happened, counted.
    pub tally: &'a mut Tally,
}

/// What happened, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Checks.
    pub checks: u64,
    /// Envelopes handed up.
    pub envelopes: u64,
    /// Attempts that succeeded.
    pub installed: u64,
    /// Attempts that did not.
    pub failed: u64,
    /// Checks that reached no relay.
    pub alone: u64,
    /// Reboots.
    pub reboots: u64,
    /// Of those, with somebody logged in.
    pub warned: u64,
    /// Leases granted.
    pub leases: u64,
    /// Leases not granted yet.
    pub later: u64,
    /// Wishes granted.
    pub wishes: u64,
    /// Times that a relay was down.
    pub outages: u64,
    /// Times that a clock was wrong.
    pub clocks: u64,
}

/// What the agent waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Decide again.
    Wake(Timestamp),
    /// The installer ends.
    Installed(Timestamp),
    /// The computer is up again.
    Booted(Timestamp),
}

#[derive(Debug)]
struct Running {
    update: UpdateId,
    began: Timestamp,
    /// It was ended at its limit.
    timed_out: bool,
    took: Duration,
}

/// One endpoint.
#[derive(Debug)]
pub struct Agent {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: EndpointId,
    /// Index of its site.
    pub site: usize,
    /// The computer.
    pub machine: Machine,
    /// What was done.
    pub book: Book,
    /// What it was promised.
    pub terms: Terms,
    /// What it last decided to be most urgent.
    pub outlook: Outlook,
    /// When it last decided to wait, by its own clock.
    pub decided: Timestamp,
    tenant: TenantId,
    site_id: SiteId,
    key: SigningKey,
    upstream: Upstream,
    verdicts: BTreeMap<UpdateId, Verdict>,
    decisions: BTreeMap<UpdateId, Effective>,
    here: Here,
    plan: Plan,
    reboot: Reboot,
    countdown: Option<Countdown>,
    counted: Timestamp,
    phase: Phase,
    fetched: BTreeSet<UpdateId>,
    /// Each with when it was asked for, by a clock that nobody sets.
    leases: BTreeMap<WindowId, (Lease, Duration)>,
    attempted: BTreeSet<UpdateId>,
    steps: VecDeque<Step>,
    running: Option<Running>,
    changed: BTreeMap<UpdateId, StateEntry>,
    /// The relay answered in this check.
    reachable: bool,
    /// What could not be fetched in it.
    unfetched: BTreeSet<UpdateId>,
    sequences: [u64; 2],
    told_all: bool,
    inventory: Option<Digest>,
    told: Option<Timestamp>,
}

/// Who an agent is.
#[derive(Debug)]
pub struct Who {
    /// Its name.
    pub name: String,
    /// Index and id of its site.
    pub site: (usize, SiteId),
    /// Its id and tenant.
    pub id: (EndpointId, TenantId),
    /// Its key.
    pub key: SigningKey,
    /// Its relay.
    pub upstream: Upstream,
}

impl Agent {
    /// One that has not checked yet.
    #[must_use]
    pub fn new(who: Who, machine: Machine, terms: Terms, now: Timestamp) -> Self {
        let Who { name, site: (site, site_id), id: (id, tenant), key, upstream } = who;
        Self {
            name,
            id,
            site,
            machine,
            book: Book::default(),
            terms,
            outlook: Outlook::Nothing,
            decided: now,
            tenant,
            site_id,
            key,
            upstream,
            verdicts: BTreeMap::new(),
            decisions: BTreeMap::new(),
            here: Here::default(),
            plan: Plan::default(),
            reboot: Reboot::No(reboot::NotDue::NotNeeded),
            countdown: None,
            counted: now,
            phase: Phase::default(),
            fetched: BTreeSet::new(),
            leases: BTreeMap::new(),
            attempted: BTreeSet::new(),
            steps: VecDeque::new(),
            running: None,
            changed: BTreeMap::new(),
            reachable: false,
            unfetched: BTreeSet::new(),
            sequences: [0; 2],
            told_all: false,
            inventory: None,
            told: None,
        }
    }

    /// With a certificate that is new: another connection.
    pub fn reconnect(&mut self, upstream: Upstream) {
        self.upstream = upstream;
    }

    fn record(&mut self, events: Vec<Event>) {
        for event in events {
            if let Some(entry) = self.book.apply(event) {
                self.changed.insert(entry.update.clone(), entry);
            }
        }
    }

    fn step(&mut self, event: phase::Event) {
        let next = phase::next(self.phase, event);
        assert!(next.is_some(), "{}: {event:?} cannot come in {:?}", self.name, self.phase);
        self.phase = next.unwrap().0;
    }

    /// Checks, as when it is woken or its computer has booted.
    pub async fn check(&mut self, around: &mut Around<'_>, booted: bool) -> Until {
        let now = around.clock.now();
        around.tally.checks += 1;
        self.step(if booted { phase::Event::Started } else { phase::Event::Woken });
        if booted {
            around.checks.comes_up(&self.machine);
            (self.countdown, self.counted) = (None, around.truth.now());
        }
        self.unfetched.clear();
        self.reachable = around.site.is_up();
        around.tally.alone += u64::from(!self.reachable);
        if self.reachable {
            self.check_in(around).await;
        }
        let boot = self.machine.boot();
        if self.book.boots().current.as_ref().map(|(boot, _)| boot) != Some(&boot) {
            self.record(vec![Event::Booted { boot, at: now }]);
        }
        self.attempted.clear();
        self.observe(around);
        self.read_policy(around, now);
        self.carry_out(around).await
    }

    async fn check_in(&mut self, around: &mut Around<'_>) {
        let request = v1::CheckInRequest {
            timestamp_version: around.site.version(),
            agent_version: VERSION.to_owned(),
            ..v1::CheckInRequest::default()
        };
        let answer = self.upstream.check_in(request).await.unwrap();
        if answer.timestamp.is_some() {
            around.site.refresh(&answer, around.truth.now()).await;
        }
        if answer.resync {
            (self.told_all, self.inventory) = (false, None);
        }
    }

    fn observe(&mut self, around: &mut Around<'_>) {
        self.verdicts = around.site.evaluate(&self.machine.facts);
        let pending = !self.machine.pending.is_empty();
        let conditions = Conditions { reboot_pending: pending, incomplete: BTreeSet::new() };
        let events = self.book.compare(around.clock.now(), &self.verdicts, &conditions);
        self.record(events);
    }

    fn read_policy(&mut self, around: &Around<'_>, now: Timestamp) {
        let published = &around.site.published;
        let groups = &published.documents.groups;
        let assignment = published.assignments.get(&self.id);
        let (memberships, _) = policy::memberships(assignment, &self.site_id, groups, &self.machine.facts);
        let computer =
            Computer { endpoint: &self.id, zone: &self.machine.zone, audit_only: false, runs: true };
        self.here = Here::new(&published.documents, &memberships, computer).0;
        self.decisions.clear();
        for (update, verdict) in &self.verdicts {
            if *verdict != Verdict::Needed {
                continue;
            }
            let of_groups = memberships.iter().filter_map(|of| published.approvals.get(&of.group)).flatten();
            let approvals = of_groups.filter(|approval| approval.update == *update);
            let detected = self.book.record(update).and_then(|record| record.detected).unwrap_or(now);
            let decided =
                policy::effective(&memberships, approvals).or_else(|| self.here.automatic(detected));
            self.decisions.extend(decided.map(|decided| (update.clone(), decided)));
        }
        match around.sabotage {
            Some(Sabotage::IgnoresRings) => self.decisions.values_mut().for_each(|d| d.rings = None),
            Some(Sabotage::IgnoresWindows) => {
                self.here.windows.clear();
                self.here.settings.windows.clear();
            }
            _ => {}
        }
    }

    fn decide(&mut self, around: &mut Around<'_>) {
        let (now, truth) = (around.clock.now(), around.truth.now());
        // As a clock that nobody sets tells it.
        let passed = truth.duration_since(self.counted);
        self.counted = truth;
        if let Some(countdown) = &mut self.countdown {
            countdown.count(Duration::try_from(passed).unwrap_or_default());
        }
        let people = self.machine.people_by_its_clock(truth, now.duration_since(truth));
        let published = &around.site.published;
        let class = self.machine.class.name();
        let limits: BTreeMap<&UpdateId, Limit> = (self.verdicts.keys())
            .map(|update| (update, published.terms.limit(update, class, INSTALL_TIME_LIMIT)))
            .collect();
        let finding = |(id, verdict)| {
            let here = self.fetched.contains(id);
            Some(Finding {
                update: published.updates.get(id)?,
                verdict,
                decision: self.decisions.get(id),
                limit: limits.get(id)?,
                payloads: match self.unfetched.contains(id) {
                    _ if here => Payloads::Here,
                    true => Payloads::Failed("the relay does not answer"),
                    false => Payloads::Missing,
                },
            })
        };
        let findings: Vec<Finding<'_>> = self.verdicts.iter().filter_map(finding).collect();
        let mut leases: BTreeMap<WindowId, Timestamp> = self
            .leases
            .iter()
            .filter_map(|(window, (lease, asked))| {
                Some((window.clone(), lease.until(now, around.truth.awake().saturating_sub(*asked))?))
            })
            .collect();
        let mut tries = Limits::default();
        match around.sabotage {
            Some(Sabotage::IgnoresLeases) => {
                let until = now + SignedDuration::from_hours(6);
                leases.extend(self.here.windows.iter().map(|window| (window.window().clone(), until)));
            }
            Some(Sabotage::NeverGivesUp) => tries.quarantine_after = u32::MAX,
            _ => {}
        }
        let stale = around.site.stale(now);
        let present = Now {
            at: now,
            facts: &self.machine.facts,
            people: &people,
            countdown: self.countdown.as_ref(),
            reachable: self.reachable,
            leases: &leases,
            limits: &tries,
            stale: stale.as_deref(),
        };
        let mut plan = plan::plan(&findings, &self.here, &self.book, &present);
        if around.sabotage == Some(Sabotage::ForgetsToInstall) && self.machine.role == Role::Desk {
            plan.steps.clear();
        }
        let nobody = People::nobody();
        let unwarned = Now { people: &nobody, ..present };
        let seen = if around.sabotage == Some(Sabotage::RebootsUnwarned) { &unwarned } else { &present };
        self.reboot = reboot::decide(&self.machine.signs(), &self.here, &self.book, &plan, seen);
        let shown = reboot::countdown(self.countdown, &plan, &self.reboot, now);
        let mut events = Vec::new();
        match (self.countdown, shown) {
            (before, Some(Countdown { purpose, began, .. }))
                if before.is_none_or(|before| before.began != began || before.purpose != purpose) =>
            {
                events.push(Event::CountdownBegan { purpose, at: began });
            }
            (_, None) if self.book.countdown().is_some() => events.push(Event::CountdownEnded { at: now }),
            _ => {}
        }
        let offered: BTreeSet<UpdateId> = plan.offered.keys().cloned().collect();
        let downloaded = self.fetched.intersection(&offered).cloned().collect();
        let waits = plan.left_out.iter().map(|(id, reason)| (id.clone(), reason.waits())).collect();
        events.extend(self.book.compare_plan(now, &offered, &downloaded, &waits));
        (self.plan, self.countdown) = (plan, shown);
        self.machine.show(shown.map(|shown| shown.purpose), truth);
        self.record(events);
    }

    /// Decides, and carries out what can be, until something takes time or nothing is left to do now.
    async fn carry_out(&mut self, around: &mut Around<'_>) -> Until {
        let (mut fetched, mut leased) = (false, false);
        for _ in 0..ROUNDS_MAX {
            let now = around.clock.now();
            self.decide(around);
            self.outlook = Outlook::of(&self.plan, &self.reboot, fetched);
            self.step(phase::Event::Decided(self.outlook));
            let put_off = match (self.plan.put_off, &self.reboot) {
                (Some(until), _) => Some(Wish::Postpone(until)),
                (None, Reboot::PutOff { until }) => Some(Wish::PostponeReboot(*until)),
                (None, _) => None,
            };
            if let Some(wish) = put_off {
                self.record(vec![Event::Wished { wish, by: None, at: now }]);
                self.countdown = None;
                self.machine.show(None, around.truth.now());
                self.step(phase::Event::Woken);
                continue;
            }
            match self.outlook {
                Outlook::Fetch => {
                    for id in self.plan.fetch.clone() {
                        if around.site.is_up() {
                            around.site.fetch(&around.site.published.updates[&id].clone()).await;
                            self.fetched.insert(id);
                        } else {
                            self.unfetched.insert(id);
                        }
                    }
                    fetched = true;
                    self.step(phase::Event::Fetched);
                }
                Outlook::Lease if !leased => {
                    leased = true;
                    if !self.lease(around).await {
                        break;
                    }
                    self.step(phase::Event::Woken);
                }
                Outlook::Install => {
                    let new = self.plan.install().filter(|id| self.attempted.insert((*id).clone())).count();
                    self.steps = if new == 0 { VecDeque::new() } else { self.plan.steps.clone().into() };
                    match self.begin(around) {
                        Some(until) => return until,
                        None => {
                            self.step(phase::Event::Failed);
                            break;
                        }
                    }
                }
                Outlook::Reboot => {
                    self.report(around).await;
                    let boot = self.machine.boot();
                    self.record(vec![Event::RebootOrdered { boot, at: now }]);
                    let before = self.machine.clone();
                    let truth = around.truth.now();
                    let up = self.machine.reboot(truth);
                    around.tally.reboots += 1;
                    around.tally.warned += u64::from(before.people(truth).logged_in());
                    let ahead = now.duration_since(truth);
                    around.checks.reboots(&self.name, &before, &self.terms, (truth, up), ahead);
                    return Until::Booted(up);
                }
                _ => break,
            }
        }
        self.release(around).await;
        self.report(around).await;
        let now = around.clock.now();
        let wait = self.wakes(now).duration_since(now);
        self.decided = now;
        Until::Wake(around.truth.now() + wait)
    }

    fn wakes(&self, now: Timestamp) -> Timestamp {
        let settings = &self.here.settings;
        let approved = |id| self.decisions.get(id).is_some_and(|d| d.decision == Decision::Approve);
        let lacking = |state| matches!(state, State::Needed | State::Failed);
        let unfinished = self.book.records().any(|(id, record)| lacking(record.state) && approved(id));
        let due = if unfinished {
            let period = settings.retry_interval;
            schedule::next(now, period, schedule::offset(&self.name, period))
        } else {
            timetable::next(&settings.schedule, now, &self.name, Some(now), &self.machine.zone)
        };
        let named = [self.plan.next, self.reboot.until()].into_iter().flatten().min();
        named.map_or(due, |named| due.min(named.max(now + WAKES_APART)))
    }

    /// Begins the next step that fits.
    fn begin(&mut self, around: &mut Around<'_>) -> Option<Until> {
        let now = around.clock.now();
        while let Some(step) = self.steps.pop_front() {
            let Some(limit) = step.limit_at(now) else { continue };
            let package = &around.packages[&step.update];
            let attempt = self.book.record(&step.update).map_or(0, |record| record.attempts);
            let mut needs = self.machine.takes(package, attempt.into());
            let slower = around.sabotage == Some(Sabotage::IsSlowerThanForecast);
            if slower && self.machine.role == Role::Server {
                needs *= 6;
            }
            let (timed_out, took) = (needs > limit, needs.min(limit));
            let names = (self.name.as_str(), step.update.as_str());
            let limit = SignedDuration::try_from(limit).unwrap();
            around.checks.installs(names, &self.machine, &self.terms, now, limit);
            self.record(vec![Event::Began { update: step.update.clone(), at: now }]);
            let began = around.truth.now();
            self.running = Some(Running { update: step.update, began, timed_out, took });
            return Some(Until::Installed(began + SignedDuration::try_from(took).unwrap()));
        }
        None
    }

    /// The installer has ended.
    pub async fn installed(&mut self, around: &mut Around<'_>) -> Until {
        let now = around.clock.now();
        let Running { update, began, timed_out, took } = self.running.take().unwrap();
        let lasted = around.truth.now().duration_since(began);
        debug_assert_eq!(lasted.as_secs(), i64::try_from(took.as_secs()).unwrap());
        let package = &around.packages[&update];
        let said = if timed_out {
            Outcome::TimedOut
        } else {
            match self.machine.install(package) {
                0 => Outcome::Success,
                code => Outcome::Failed(code),
            }
        };
        let verdict = around.site.evaluate(&self.machine.facts).remove(&update);
        let state = if verdict == Some(Verdict::Needed) { State::Needed } else { State::Installed };
        let reboot_required = self.machine.pending.contains(&update);
        let outcome =
            codes::decide(said, After { state, incomplete: false, reboot_required, at_restart: false });
        let done = state == State::Installed;
        around.tally.installed += u64::from(done);
        around.tally.failed += u64::from(!done);
        let took_seconds = Some(u32::try_from(took.as_secs()).unwrap());
        self.record(vec![Event::Ended { update, at: now, outcome, detail: None, took_seconds }]);
        if let Some(until) = self.begin(around) {
            return until;
        }
        around.checks.comes_up(&self.machine);
        self.step(phase::Event::Installed);
        self.observe(around);
        self.carry_out(around).await
    }

    /// What the person at the machine does when he is asked or warned at `truth`, which is `now` there: `None` when nobody is there or he does not
    /// care.
    pub fn answer(&mut self, random: &mut Random, truth: Timestamp, now: Timestamp) -> Option<Wish> {
        let at_work = |people: &People| people.sessions.iter().flatten().any(|session| session.works(truth));
        if !at_work(&self.machine.people(truth)) {
            return None;
        }
        let later = now + SignedDuration::from_hours(4);
        let wish = match (self.outlook, random.below(10)) {
            (Outlook::Warn | Outlook::WarnReboot, 0..=3) => Wish::Acknowledge,
            (Outlook::Warn, 4..=6) => Wish::Postpone(later),
            (Outlook::WarnReboot, 4..=6) => Wish::PostponeReboot(later),
            (Outlook::Person, 0..=2) => Wish::Install(now),
            (Outlook::Person, 3..=5) => Wish::Install(later),
            _ => return None,
        };
        let standing = Standing {
            settings: &self.here.settings,
            now,
            updates: tightest(self.plan.offered.values()),
            reboot: reboot::due(&self.machine.signs(), &self.here, &self.book),
            warned: self.countdown.is_some(),
        };
        let caller = Caller::Person(1000);
        permit(wish, caller, &standing).ok()?;
        if wish == Wish::Acknowledge
            && let Some(screen) = &mut self.machine.screen
        {
            screen.acknowledged = true;
        }
        self.record(vec![Event::Wished { wish, by: Some(caller.uid()), at: now }]);
        Some(wish)
    }

    /// Whether it can be woken.
    #[must_use]
    pub fn rests(&self, now: Timestamp) -> bool {
        self.running.is_none() && self.machine.is_up(now) && self.phase.rests()
    }
}
