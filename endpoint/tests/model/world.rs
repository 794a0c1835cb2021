//! The world of the model: one computer, its people and its clock.

mod promises;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use tierway_common::{
    facts::Facts,
    id::{UpdateId, WindowId},
    rules::{Verdict, expr::Expr},
    schema::{
        Decision, Group, Install, Members, Severity, Update,
        policy::{Experience, Reboot},
    },
};
use tierway_endpoint::{
    consent::{Countdown, Purpose, tightest},
    install::{
        codes::{Class, Outcome},
        failsafe::{Limit, Source},
    },
    ledger::{Book, Conditions, Event},
    people::{Inhibitor, People, Seat, Session},
    phase::{self, Effect, Outlook, Phase},
    plan::{Finding, Limits, Now, Payloads, Plan, Reason, Step, plan},
    policy::{
        Certainty, Effective, Membership,
        here::{Computer, Documents, Here},
    },
    reboot::decide::{self as reboot, Decision as RebootDecision},
    signs::{BootId, Sign, SignKind},
    wishes::{Caller, Standing, Wish, permit},
};

use crate::mutant::{Mutant, Seen};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn pick<T: Clone>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.below(all.len() as u64)).unwrap()].clone()
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// One update of the world.
struct Thing {
    update: Update,
    limit: Limit,
    takes: Duration,
    reboots: bool,
    ends: Outcome,
    approved: Option<Effective>,
    here: bool,
    installed: bool,
    /// When it was really first on offer.
    offered: Option<Timestamp>,
    /// Attempts in a row that failed alike since the last approval, how, and when the last ended.
    failures: u32,
    last: Outcome,
    ended: Option<Timestamp>,
}

pub(crate) struct World {
    random: Random,
    mutant: Option<Mutant>,
    now: Timestamp,
    here: Here,
    things: Vec<Thing>,
    book: Book,
    people: People,
    countdown: Option<Countdown>,
    /// Time awake for which the warning that is shown was shown, and since when.
    shown: Option<(Purpose, Timestamp, SignedDuration)>,
    lease_until: Option<Timestamp>,
    lease_granted: bool,
    reachable: bool,
    boot: u64,
    /// Something was installed in this boot.
    changed: bool,
    /// A reboot is needed, as the system says.
    signs: bool,
    phase: Phase,
    plan: Plan,
    reboot: RebootDecision,
    /// A wish that was granted and that nothing was decided by yet.
    granted: Option<(Caller, Wish)>,
    story: Vec<String>,
    pub(crate) seen: Seen,
}

fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap()
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap()
}

impl World {
    pub(crate) fn new(seed: u64, mutant: Option<Mutant>) -> Self {
        let mut random = Random(seed);
        let windows = random.pick(&[
            "[]",
            "[]",
            r#"["night"]"#,
            r#"["short"]"#,
            r#"["leased"]"#,
            r#"["night","weekly"]"#,
        ]);
        let level = format!(
            r#"{{"id":"l","experience":"{}","grace":"{}","deadline":"{}","at_deadline":"{}","countdown":"{}",
            "countdown_default":"{}","postpone":"2h","windows":{windows},"reboot":{},"reboot_hold":"{}"}}"#,
            random.pick(&["silent", "notify", "notify", "consent"]),
            random.pick(&["0s", "8h", "2days"]),
            random.pick(&["8h", "1day", "4days"]),
            random.pick(&["wait", "install"]),
            random.pick(&["0s", "15min", "1h"]),
            random.pick(&["install", "postpone"]),
            random.pick(&[
                r#""suppress""#,
                r#""if_needed""#,
                r#""if_needed""#,
                r#""always""#,
                r#"{"at":"03:00:00"}"#
            ]),
            random.pick(&["0s", "6h", "2days"]),
        );
        let window = |id: &str, on: &str, at: &str, length: &str, limit: &str| {
            let json = format!(
                r#"{{"id":"{id}","opens":[{{"on":{on},"at":"{at}"}}],"length":"{length}","zone":null{limit}}}"#
            );
            serde_json::from_str(&json).unwrap()
        };
        let all: Group = Group {
            id: "all".parse().unwrap(),
            priority: 0,
            members: Members::Everyone,
            level: Some("l".parse().unwrap()),
        };
        let documents = Documents {
            groups: vec![all],
            levels: vec![serde_json::from_str(&level).unwrap()],
            windows: vec![
                window("night", r#""every""#, "22:00:00", "4h", ""),
                window("short", r#""every""#, "22:00:00", "45min", ""),
                window("leased", r#""every""#, "20:00:00", "6h", r#","at_once_max":1"#),
                window("weekly", r#"{"weekly":["wednesday"]}"#, "12:00:00", "2h", ""),
            ],
            ..Documents::default()
        };
        let membership =
            Membership { group: "all".parse().unwrap(), priority: 0, certainty: Certainty::Certain };
        let endpoint = "e".parse().unwrap();
        let computer = Computer { endpoint: &endpoint, zone: &TimeZone::UTC, audit_only: false, runs: true };
        let (here, problems) = Here::new(&documents, &[membership], computer);
        assert_eq!(problems, []);
        let things = (0..3).map(|number| Thing::new(number, &mut random)).collect();
        let now =
            Timestamp::from_second(1_800_000_000 + i64::try_from(random.below(7 * 86_400)).unwrap()).unwrap();
        let mut world = Self {
            random,
            mutant,
            now,
            here,
            things,
            book: Book::default(),
            people: People::nobody(),
            countdown: None,
            shown: None,
            lease_until: None,
            lease_granted: true,
            reachable: true,
            boot: 0,
            changed: false,
            signs: false,
            phase: Phase::default(),
            plan: Plan::default(),
            reboot: RebootDecision::No(reboot::NotDue::NotNeeded),
            granted: None,
            story: vec![level],
            seen: Seen::default(),
        };
        world.book.apply(Event::Booted { boot: BootId("0".to_owned()), at: now });
        for index in 0..2 {
            world.approve(index);
        }
        world
    }

    pub(crate) fn story(&self) -> String {
        self.story.join("\n")
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    fn tell(&mut self, what: &str) {
        self.story.push(format!("{} {what}", self.now));
    }

    /// Something happens, and the agent does what it does then.
    pub(crate) fn event(&mut self) -> Result<(), String> {
        match self.random.below(16) {
            0..=4 => {
                let minutes = self.random.pick(&[1, 14, 16, 59, 240, 720, 1440]);
                return self.pass(SignedDuration::from_mins(minutes));
            }
            5 => {
                let on = !self.people.sessions.as_ref().is_some_and(Vec::is_empty);
                let count = if on { 0 } else { 1 + self.random.below(2) };
                let sessions = (0..count).map(session).collect();
                self.people.sessions = Some(sessions);
                self.tell(&format!("{count} are logged in"));
            }
            6 => {
                let idle = self.random.chance(50).then_some(Timestamp::UNIX_EPOCH);
                for session in self.people.sessions.iter_mut().flatten() {
                    session.idle_since = idle;
                }
                self.people.inhibitors.clear();
                if self.random.chance(30) {
                    let (who, why) = ("brasero".to_owned(), "burns".to_owned());
                    self.people.inhibitors.push(Inhibitor { who, why, uid: 1 });
                }
                self.tell("people do something else");
            }
            7 | 8 => {
                let index = usize::try_from(self.random.below(3)).unwrap();
                self.approve(index);
            }
            9 => {
                self.reachable = !self.reachable;
                self.tell(&format!("reachable: {}", self.reachable));
            }
            10 | 11 => {
                self.wish();
                return self.act(phase::Event::Answered);
            }
            12 => {
                self.lease_granted = !self.lease_granted;
                self.tell(&format!("leases are granted: {}", self.lease_granted));
            }
            13 => {
                // The clock is set, and no time passes.
                let minutes = self.random.pick(&[-2880, -70, 70, 600]);
                self.now = later(self.now, SignedDuration::from_mins(minutes));
                self.tell(&format!("the clock jumped by {minutes} minutes"));
                if self.is(Mutant::CountsByTheClock)
                    && let Some(countdown) = &mut self.countdown
                {
                    countdown.count(Duration::from_secs(u64::try_from(minutes.max(0) * 60).unwrap()));
                }
                self.jumped();
            }
            14 => {
                self.tell("the agent is killed");
                (self.countdown, self.shown) = (None, None);
                return self.act(phase::Event::Started);
            }
            _ => {
                self.tell("the power fails");
                self.boots();
                return self.act(phase::Event::Started);
            }
        }
        self.act(phase::Event::Woken)
    }

    /// Failures that are in the future now hold nothing back, and what was offered then is offered from now on.
    fn jumped(&mut self) {
        for thing in &mut self.things {
            thing.ended = thing.ended.filter(|ended| *ended <= self.now);
            thing.offered = thing.offered.map(|offered| offered.min(self.now));
        }
    }

    fn approve(&mut self, index: usize) {
        let now = self.now;
        let thing = &mut self.things[index];
        let at = thing.approved.as_ref().map_or(now, |approved| approved.at);
        let (group, by) = ("all".parse().unwrap(), "operator:ann".to_owned());
        thing.approved =
            Some(Effective { decision: Decision::Approve, group, by, at, asked: now, rings: None });
        (thing.failures, thing.ended) = (0, None);
        let ends = thing.ends;
        self.tell(&format!("update {index} is approved; it ends with {ends:?}"));
    }

    fn wish(&mut self) {
        let minutes = self.random.pick(&[0, 30, 300, 1440, 6000]);
        let at = later(self.now, SignedDuration::from_mins(minutes));
        let wish = self.random.pick(&[
            Wish::Install(at),
            Wish::Postpone(at),
            Wish::Reboot(at),
            Wish::PostponeReboot(at),
            Wish::Acknowledge,
        ]);
        let caller = self.random.pick(&[Caller::Root, Caller::Person(1000), Caller::Person(1001)]);
        let standing = Standing {
            settings: &self.here.settings,
            now: self.now,
            updates: tightest(self.plan.offered.values()),
            reboot: reboot::due(&self.signs(), &self.here, &self.book),
            warned: self.countdown.is_some(),
        };
        if permit(wish, caller, &standing).is_ok() {
            self.tell(&format!("{} wishes: {wish}", caller.uid()));
            if !self.is(Mutant::IgnoresWishes) {
                self.book.apply(Event::Wished { wish, by: Some(caller.uid()), at: self.now });
            }
            self.granted = Some((caller, wish));
        }
    }

    fn signs(&self) -> Vec<Sign> {
        let (detail, source) = ("a kernel".to_owned(), "/boot".to_owned());
        if self.signs { vec![Sign { kind: SignKind::Kernel, detail, source }] } else { Vec::new() }
    }

    /// Time passes; the agent wakes when it said it would, and every six hours.
    fn pass(&mut self, time: SignedDuration) -> Result<(), String> {
        let until = later(self.now, time);
        self.tell(&format!("{} minutes pass", time.as_mins()));
        let mut wakes = 0;
        while self.now < until {
            let hour = later(self.now, SignedDuration::from_hours(6));
            let named = [self.plan.next, self.reboot.until()].into_iter().flatten();
            let mut next = named.filter(|at| *at > self.now).min().unwrap_or(hour).min(hour).min(until);
            if self.is(Mutant::WakesWithoutEnd) && self.plan.countdown {
                next = later(self.now, SignedDuration::from_millis(1)).min(until);
            }
            let passed = next.duration_since(self.now);
            self.now = next;
            if let Some(countdown) = &mut self.countdown {
                countdown.count(Duration::try_from(passed).unwrap());
            }
            if let Some((_, _, shown)) = &mut self.shown {
                *shown += passed;
            }
            self.act(phase::Event::Woken)?;
            wakes += 1;
            if wakes > 40 + 30 * time.as_hours() {
                return Err(format!("it woke {wakes} times in {} minutes", time.as_mins()));
            }
        }
        Ok(())
    }

    fn boots(&mut self) {
        self.boot += 1;
        (self.changed, self.signs, self.countdown, self.shown) = (false, false, None, None);
        let boot = BootId(self.boot.to_string());
        let forgotten = self.is(Mutant::RebootsAgainAfterBoot).then(|| self.book.boots().installed).flatten();
        self.book.apply(Event::Booted { boot, at: self.now });
        if forgotten.is_some() {
            // As if what was installed before were installed in this boot.
            let (update, at) = ("debian-12/ghost".parse().unwrap(), self.now);
            let (outcome, detail, took_seconds) = (Outcome::Success, None, None);
            self.book.apply(Event::Ended { update, at, outcome, detail, took_seconds });
        }
    }

    fn move_by(&mut self, event: phase::Event) -> Result<&'static [Effect], String> {
        let (to, effects) = phase::next(self.phase, event)
            .ok_or_else(|| format!("the phase table has no way from {} by {event:?}", self.phase))?;
        self.phase = to;
        self.seen.phases.insert(to);
        Ok(effects)
    }

    fn decide(&mut self) -> Result<(), String> {
        let verdicts: BTreeMap<UpdateId, Verdict> = self
            .things
            .iter()
            .map(|thing| {
                let verdict = if thing.installed { Verdict::Installed } else { Verdict::Needed };
                (thing.update.id.clone(), verdict)
            })
            .collect();
        let conditions = Conditions { reboot_pending: self.signs, ..Conditions::default() };
        for event in self.book.compare(self.now, &verdicts, &conditions) {
            self.book.apply(event);
        }
        let everything = Effective {
            decision: Decision::Approve,
            group: "all".parse().unwrap(),
            by: "nobody".to_owned(),
            at: self.now,
            asked: self.now,
            rings: None,
        };
        let anyway = self.is(Mutant::InstallsWhatNobodyApproved).then_some(&everything);
        let findings: Vec<Finding<'_>> = self
            .things
            .iter()
            .map(|thing| Finding {
                update: &thing.update,
                verdict: &verdicts[&thing.update.id],
                decision: thing.approved.as_ref().or(anyway),
                limit: &thing.limit,
                payloads: if thing.here { Payloads::Here } else { Payloads::Missing },
            })
            .collect();
        let leases: BTreeMap<WindowId, Timestamp> = match self.lease_until {
            _ if self.is(Mutant::InstallsWithoutLease) => {
                [("leased".parse().unwrap(), Timestamp::MAX)].into()
            }
            Some(until) if self.now < until => [("leased".parse().unwrap(), until)].into(),
            _ => BTreeMap::new(),
        };
        let limits = if self.is(Mutant::RetriesWithoutEnd) {
            let none = SignedDuration::ZERO;
            Limits { transient: none, first: none, longest: none, quarantine_after: u32::MAX }
        } else {
            Limits::default()
        };
        let now = Now {
            at: self.now,
            facts: &Facts::default(),
            people: &self.people,
            countdown: self.countdown.as_ref(),
            reachable: self.reachable,
            leases: &leases,
            limits: &limits,
            stale: None,
        };
        // What the mutants believe instead of what holds.
        let (mut planned_by, mut rebooted_by) = (self.here.clone(), self.here.clone());
        match self.mutant {
            Some(Mutant::InstallsOutsideWindows) => planned_by.settings.windows.clear(),
            Some(Mutant::PostponesInEnforcement) => {
                planned_by.settings.grace = planned_by.settings.grace.max(Duration::from_secs(30 * 86_400));
            }
            Some(Mutant::InstallsWithoutWarning) => planned_by.settings.experience = Experience::Silent,
            Some(Mutant::RebootsWhereSuppressed) if self.here.settings.reboot == Reboot::Suppress => {
                rebooted_by.settings.reboot = Reboot::IfNeeded;
            }
            Some(Mutant::RebootsOutsideWindows) => rebooted_by.settings.windows.clear(),
            Some(Mutant::HoldsRebootsForEver) => {
                rebooted_by.settings.reboot_hold = Duration::from_secs(365 * 86_400);
                rebooted_by.settings.deadline = Duration::from_secs(365 * 86_400);
            }
            _ => {}
        }
        let mut planned = plan(&findings, &planned_by, &self.book, &now);
        let mut decision = reboot::decide(&self.signs(), &rebooted_by, &self.book, &planned, &now);
        match self.mutant {
            Some(Mutant::RebootsWithoutWarning) if matches!(decision, RebootDecision::Warn { .. }) => {
                decision = RebootDecision::Now;
            }
            Some(Mutant::ForgetsReasons) => {
                planned
                    .left_out
                    .retain(|_, reason| !matches!(reason, Reason::Closed { .. } | Reason::Person { .. }));
            }
            Some(Mutant::StartsWhatDoesNotFit) => {
                let short: Vec<UpdateId> = planned
                    .left_out
                    .iter()
                    .filter(|(_, reason)| matches!(reason, Reason::DoesNotFit { .. }))
                    .map(|(id, _)| id.clone())
                    .collect();
                for update in short {
                    planned.left_out.remove(&update);
                    let limit = Duration::from_secs(1200);
                    planned.steps.push(Step {
                        update,
                        start: self.now,
                        expected: limit,
                        limit,
                        limit_min: limit,
                        window: None,
                        reserve: SignedDuration::ZERO,
                        lease_until: None,
                    });
                }
            }
            _ => {}
        }
        let mut shown = reboot::countdown(self.countdown, &planned, &decision, self.now);
        if self.is(Mutant::KeepsAnOldWarning) {
            shown = shown.or(self.countdown);
        }
        let offered = planned.offered.keys().cloned().collect();
        let waits = planned.left_out.iter().map(|(id, reason)| (id.clone(), reason.waits())).collect();
        for event in self.book.compare_plan(self.now, &offered, &offered, &waits) {
            if !(self.is(Mutant::ForgetsOffers) && matches!(event, Event::Offered { .. })) {
                self.book.apply(event);
            }
        }
        self.show(shown, &planned, &decision);
        (self.plan, self.reboot) = (planned, decision);
        self.follows()?;
        self.check()
    }

    /// What a person sees from now on: a warning that is needed no more is taken away.
    fn show(&mut self, shown: Option<Countdown>, plan: &Plan, decision: &RebootDecision) {
        let going = !plan.steps.is_empty() || *decision == RebootDecision::Now;
        let needed = plan.countdown || matches!(decision, RebootDecision::Warn { .. });
        let same = |(purpose, began): (_, Timestamp)| {
            shown.is_some_and(|shown| shown.purpose == purpose && shown.began == began)
        };
        match (&self.shown, shown) {
            (Some((purpose, began, _)), _) if same((*purpose, *began)) && (needed || going) => {}
            (_, Some(shown)) if needed => {
                self.shown = Some((shown.purpose, shown.began, SignedDuration::ZERO))
            }
            (_, Some(_)) if going => {}
            _ => self.shown = None,
        }
        self.countdown = shown;
    }

    /// Does what the phase table says from `event` on, until nothing is left to be done.
    fn act(&mut self, event: phase::Event) -> Result<(), String> {
        let mut effects = self.move_by(event)?;
        let (mut fetched, mut asked, mut rounds, mut attempted) = (false, false, 0, BTreeSet::new());
        while let Some((effect, rest)) = effects.split_first() {
            let event = match effect {
                // What is brought over, found and told is the world's own here.
                Effect::Check | Effect::Scan | Effect::Report => None,
                Effect::Decide => {
                    rounds += 1;
                    self.settle_on()?;
                    let outlook = Outlook::of(&self.plan, &self.reboot, fetched);
                    // A mutant may go on for ever; the agent leaves it to the next check.
                    Some(phase::Event::Decided(if rounds > 12 { Outlook::Nothing } else { outlook }))
                }
                Effect::Fetch => {
                    for thing in &mut self.things {
                        thing.here |= self.reachable && self.plan.fetch.contains(&thing.update.id);
                    }
                    fetched = true;
                    Some(phase::Event::Fetched)
                }
                Effect::AskLease => {
                    let first = !std::mem::replace(&mut asked, true);
                    (first && self.lease_granted && self.reachable).then(|| {
                        let length = match (&self.plan.lease, &self.reboot) {
                            (Some(need), _) | (None, RebootDecision::Lease(need)) => need.length,
                            _ => SignedDuration::ZERO,
                        };
                        self.lease_until = Some(later(self.now, length));
                        phase::Event::Answered
                    })
                }
                Effect::Install => {
                    let new = self.plan.install().filter(|id| attempted.insert((*id).clone())).count();
                    if new == 0 && !self.is(Mutant::RetriesWithoutEnd) {
                        Some(phase::Event::Failed)
                    } else {
                        self.install()?;
                        Some(phase::Event::Installed)
                    }
                }
                Effect::Reboot => {
                    self.reboots()?;
                    Some(phase::Event::Started)
                }
            };
            effects = match event {
                Some(event) => self.move_by(event)?,
                None => rest,
            };
        }
        Ok(())
    }

    /// Decides; what an unanswered countdown puts off is decided about once more.
    fn settle_on(&mut self) -> Result<(), String> {
        loop {
            self.decide()?;
            let wish = match (self.plan.put_off, &self.reboot) {
                (Some(until), _) => Wish::Postpone(until),
                (None, RebootDecision::PutOff { until }) => Wish::PostponeReboot(*until),
                (None, _) => return Ok(()),
            };
            self.tell(&format!("nobody answered: {wish}"));
            self.book.apply(Event::Wished { wish, by: None, at: self.now });
            (self.countdown, self.shown) = (None, None);
        }
    }

    fn install(&mut self) -> Result<(), String> {
        for step in self.plan.steps.clone() {
            let Some(limit) = step.limit_at(self.now) else { continue };
            let index = self.things.iter().position(|thing| thing.update.id == step.update).unwrap();
            self.may_install(index, limit)?;
            let (id, at) = (step.update.clone(), self.now);
            self.book.apply(Event::Began { update: id.clone(), at });
            let thing = &self.things[index];
            let outcome = match thing.ends {
                _ if thing.takes > limit => Outcome::TimedOut,
                // Whoever has the lock lets go of it.
                Outcome::LockBusy if thing.last == Outcome::LockBusy && thing.failures >= 3 => {
                    Outcome::Success
                }
                ends => ends,
            };
            let took = thing.takes.min(limit);
            let crashes = self.random.chance(4);
            self.now = later(self.now, signed(took));
            if crashes {
                self.tell("the power fails during an installation");
                self.boots();
                self.settle(index);
                return Ok(());
            }
            let thing = &mut self.things[index];
            let done = outcome.class() == Class::Done;
            let outcome = if done && thing.reboots { Outcome::SuccessRebootRequired } else { outcome };
            thing.installed |= done;
            let (detail, took_seconds) = (None, None);
            self.book.apply(Event::Ended { update: id, at: self.now, outcome, detail, took_seconds });
            self.seen.windowed += u64::from(step.window.is_some());
            self.ended(index, outcome);
            self.tell(&format!("update {index} ended: {outcome:?}"));
        }
        Ok(())
    }

    /// An attempt that was cut off is ended by what a scan says.
    fn settle(&mut self, index: usize) {
        let (update, at) = (self.things[index].update.id.clone(), self.now);
        let (outcome, detail, took_seconds) = (Outcome::Interrupted, None, None);
        self.book.apply(Event::Ended { update, at, outcome, detail, took_seconds });
        self.ended(index, Outcome::Interrupted);
    }

    fn ended(&mut self, index: usize, outcome: Outcome) {
        let thing = &mut self.things[index];
        if outcome.class() == Class::Done {
            self.changed = true;
            self.signs |= thing.reboots;
            self.seen.installed += 1;
        } else {
            thing.failures = if thing.last == outcome { thing.failures + 1 } else { 1 };
            thing.last = outcome;
            thing.ended = Some(self.now);
            self.seen.failed += 1;
        }
    }

    fn reboots(&mut self) -> Result<(), String> {
        self.may_reboot()?;
        self.tell("the computer reboots");
        let boot = BootId(self.boot.to_string());
        self.book.apply(Event::RebootOrdered { boot, at: self.now });
        self.boots();
        Ok(())
    }
}

impl Thing {
    fn new(number: u64, random: &mut Random) -> Self {
        let minutes = random.pick(&[1, 9, 25]);
        let takes = Duration::from_secs(minutes * 60);
        let measured = random.chance(60);
        let limit = if measured {
            Limit { duration: takes * 2, expected: takes, source: Source::AllClasses }
        } else {
            let configured = Duration::from_secs(7200);
            Limit { duration: configured, expected: configured, source: Source::Configured }
        };
        let update = Update {
            id: format!("debian-12/u{number}").parse().unwrap(),
            title: String::new(),
            product: String::new(),
            version: String::new(),
            severity: random.pick(&Severity::ALL),
            class: Default::default(),
            released: Timestamp::UNIX_EPOCH,
            references: Vec::new(),
            applicable: Expr::Const(true),
            installed: Expr::Const(false),
            supersedes: Vec::new(),
            superseded_by: Vec::new(),
            install: Install::Deb { packages: Vec::new() },
            result_codes: Default::default(),
        };
        let ends = random.pick(&[
            Outcome::Success,
            Outcome::Success,
            Outcome::Success,
            Outcome::Success,
            Outcome::Success,
            Outcome::Success,
            Outcome::ScriptFailed,
            Outcome::ReportedSuccessStillNeeded,
            Outcome::LockBusy,
        ]);
        Self {
            update,
            limit,
            takes,
            reboots: random.chance(50),
            ends,
            approved: None,
            here: false,
            installed: false,
            offered: None,
            failures: 0,
            last: Outcome::Success,
            ended: None,
        }
    }
}

fn session(number: u64) -> Session {
    Session {
        id: number.to_string(),
        user: format!("user{number}"),
        uid: 1000 + u32::try_from(number).unwrap(),
        seat: Seat::Desktop,
        idle_since: None,
        locked: false,
    }
}
