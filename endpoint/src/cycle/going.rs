//! How a cycle goes: events into the phase table, and its effects carried out in their order until a phase is
//! reached that rests.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tierway_common::{
    clock::Clock,
    daemon::chain::Chain,
    facts::Facts,
    id::UpdateId,
    schema::{CycleSummary, State, StateEntry},
    trust::keys::SigningKey,
};
use tierway_proto::v1;
use tracing::{info, warn};

use super::{Cycle, CycleError, deciding::Found, machine_class, os_name};
use crate::{
    agent::VERSION,
    host,
    install::Engine,
    ledger,
    phase::{self, Effect, Event, Outlook, Phase},
    scan::{self, Asked},
};

/// Problems of one cycle that are told; more are a symptom of the first ones.
const PROBLEMS_MAX: usize = 32;
/// Decisions of one cycle that lead to something: a download, a permission, installations, each once or twice.
/// More are a loop.
pub const ROUNDS_MAX: usize = 16;

/// What is new, so that the cycle is gone through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Occasion {
    /// A check is due.
    Check {
        /// Everything is to be sent again.
        resync: bool,
    },
    /// A person wished something.
    Wish,
}

/// One cycle on its way.
struct Going<'a> {
    key: &'a SigningKey,
    clock: &'a Clock,
    problems: &'a mut Vec<String>,
    occasion: Occasion,
    /// What is scanned, once it is known.
    scope: Option<Arc<Scope>>,
    began: Timestamp,
    timer: Instant,
    /// What could be fetched was.
    fetched: bool,
    /// A permission was asked for.
    leased: bool,
    /// Attempted in this cycle: once is enough.
    attempted: BTreeSet<UpdateId>,
    rounds: usize,
    installed: u64,
    failed: u64,
}

/// What a scan is made of.
struct Scope {
    os: Facts,
    asked: Asked,
    machine: String,
}

impl Going<'_> {
    fn scoped(&mut self, scope: Scope) -> Arc<Scope> {
        self.scope.insert(Arc::new(scope)).clone()
    }
}

impl<E: Engine + Send + Sync> Cycle<E> {
    /// Checks: brings over what is new, scans, decides, and does what can be done now. What fails on the way is
    /// added to `problems`, those that make it end early too.
    ///
    /// # Errors
    ///
    /// [`CycleError`] when it makes no sense to go on.
    pub async fn run(
        &mut self,
        key: &SigningKey,
        resync: bool,
        clock: &Clock,
        problems: &mut Vec<String>,
    ) -> Result<v1::LocalCheckNowResponse, CycleError> {
        self.last_check = Some(clock.now());
        // One that does not rest was cut off.
        let event = if self.phase.rests() { Event::Woken } else { Event::Started };
        self.go(event, Occasion::Check { resync }, key, clock, problems).await
    }

    /// Decides anew by what the last check found and people wish now, and does what can be done now. Nothing is
    /// brought over, and nothing reported unless something was done: a person must not make this computer busy.
    ///
    /// # Errors
    ///
    /// As [`Cycle::run`].
    pub async fn decide_anew(
        &mut self,
        key: &SigningKey,
        clock: &Clock,
        problems: &mut Vec<String>,
    ) -> Result<(), CycleError> {
        // What was cut off, or never begun, is left to the next check.
        if self.audit_only || self.last_check.is_none() || !self.phase.rests() {
            return Ok(());
        }
        self.recall()?;
        self.look(clock.now(), problems).await?;
        self.go(Event::Answered, Occasion::Wish, key, clock, problems).await.map(drop)
    }

    async fn go(
        &mut self,
        event: Event,
        occasion: Occasion,
        key: &SigningKey,
        clock: &Clock,
        problems: &mut Vec<String>,
    ) -> Result<v1::LocalCheckNowResponse, CycleError> {
        let mut going = Going {
            key,
            clock,
            problems,
            occasion,
            scope: None,
            began: clock.now(),
            timer: Instant::now(),
            fetched: false,
            leased: false,
            attempted: BTreeSet::new(),
            rounds: 0,
            installed: 0,
            failed: 0,
        };
        let done = self.follow(event, &mut going).await;
        let Going { installed, failed, .. } = going;
        self.catalogues.rest();
        self.found = Found::default();
        done?;
        Ok(v1::LocalCheckNowResponse {
            needed: self.needed().count() as u64,
            installed,
            failed,
            problems: Vec::new(),
        })
    }

    /// Does what the phase table says from `event` on, until nothing is left to be done.
    async fn follow(&mut self, event: Event, going: &mut Going<'_>) -> Result<(), CycleError> {
        let mut effects = self.step(event);
        while let Some((effect, rest)) = effects.split_first() {
            let event = match effect {
                Effect::Check => self.check(going).await.map(|()| None)?,
                Effect::Scan => self.scan_again(going).await.map(|()| None)?,
                Effect::Decide => Some(Event::Decided(self.settle_on(going)?)),
                Effect::Fetch => {
                    self.fetch().await;
                    going.fetched = true;
                    Some(Event::Fetched)
                }
                Effect::AskLease => {
                    // One that is not given now is asked for again at the next check.
                    let first = !std::mem::replace(&mut going.leased, true);
                    let granted = first && self.ask_lease(going.key, going.clock, going.problems).await;
                    granted.then_some(Event::Answered)
                }
                Effect::Install => Some(self.install_some(going).await?),
                Effect::Report => self.tell_above(going).await.map(|()| None)?,
                Effect::Reboot => {
                    going.problems.extend(self.order_reboot(going.clock.now()).await.err());
                    None
                }
            };
            effects = event.map_or(rest, |event| self.step(event));
        }
        Ok(())
    }

    /// Moves to the phase where an event leads, and returns what must be done for it.
    fn step(&mut self, event: Event) -> &'static [Effect] {
        match phase::next(self.phase, event) {
            Some((phase, effects)) => {
                self.phase = phase;
                effects
            }
            None => {
                warn!(phase = %self.phase, ?event, "an event came that cannot come in this phase");
                &[]
            }
        }
    }

    /// Brings over what is new and looks at everything.
    async fn check(&mut self, going: &mut Going<'_>) -> Result<(), CycleError> {
        let machine = host::machine();
        let os = scan::scan(&self.root, &Asked::default(), &machine).0;
        let mut resync = matches!(going.occasion, Occasion::Check { resync: true });
        match self.sync(&os, going.began).await {
            Ok(again) => {
                self.reachable = true;
                resync |= again;
            }
            Err(error) => {
                self.reachable = false;
                going.problems.push(Chain(&error).to_string());
                self.catalogues.restore(&os).await?;
            }
        }
        if resync {
            self.spool.resync()?;
            self.told_all = false;
        }
        let scope = going.scoped(Scope { asked: self.asked(&os)?, os, machine });
        let (facts, found) = scan::scan(&self.root, &scope.asked, &scope.machine);
        // What was read last holds while it cannot be read.
        if let Some(zone) = scan::zone(&facts) {
            self.zone = zone;
        }
        going.problems.extend(found.iter().map(ToString::to_string));
        let verdicts = self.evaluate(&scope.os, &facts)?;
        if let Err(error) = self.read_policy(&verdicts, &facts, going.began, going.problems).await {
            // What was decided before still holds.
            going.problems.push(Chain(&error).to_string());
        }
        self.facts = facts;
        self.look(going.clock.now(), going.problems).await?;
        let changed = self.observe(verdicts, going.began)?;
        self.untold.extend(changed);
        if self.audit_only {
            info!("installing nothing: this endpoint only audits");
        } else if let Err(error) = self.catalogues.fresh(going.began) {
            going.problems.push(Chain(&error).to_string());
        }
        if self.catalogues.for_others_only() {
            going.problems.push(format!("no catalogue of updates is published for {}", os_name(&scope.os)));
        }
        Ok(())
    }

    /// What is scanned: as the check of this cycle found it out, and without one by a scan of its own.
    fn scope(&mut self, going: &mut Going<'_>) -> Result<Arc<Scope>, CycleError> {
        if let Some(scope) = &going.scope {
            return Ok(scope.clone());
        }
        let machine = host::machine();
        let os = scan::scan(&self.root, &Asked::default(), &machine).0;
        Ok(going.scoped(Scope { asked: self.asked(&os)?, os, machine }))
    }

    /// What the rules for a computer with this system ask for.
    fn asked(&mut self, os: &Facts) -> Result<Asked, CycleError> {
        Ok(self.catalogues.rules(os)?.asked.clone())
    }

    /// Looks what came of installations.
    async fn scan_again(&mut self, going: &mut Going<'_>) -> Result<(), CycleError> {
        let scope = self.scope(going)?;
        self.facts = scan::scan(&self.root, &scope.asked, &scope.machine).0;
        let verdicts = self.evaluate(&scope.os, &self.facts.clone())?;
        let changed = self.observe(verdicts, going.clock.now())?;
        self.untold.extend(changed);
        self.look(going.clock.now(), going.problems).await
    }

    /// Decides; what an unanswered countdown puts off is decided about once more.
    fn settle_on(&mut self, going: &mut Going<'_>) -> Result<Outlook, CycleError> {
        loop {
            let changed = self.decide(going.clock)?;
            self.untold.extend(changed);
            going.rounds += 1;
            if going.rounds > ROUNDS_MAX {
                return Ok(Outlook::Nothing);
            }
            let Some(event) = self.put_off(going.clock.now()) else {
                return Ok(Outlook::of(&self.plan, &self.reboot, going.fetched));
            };
            self.ledger.record(vec![event])?;
            self.countdown = None;
        }
    }

    /// Carries the steps of the plan out, once each.
    async fn install_some(&mut self, going: &mut Going<'_>) -> Result<Event, CycleError> {
        let new = self.plan.install().filter(|id| going.attempted.insert((*id).clone())).count();
        // What was attempted in this cycle is left to the next.
        if new == 0 || self.stop.requested() {
            return Ok(Event::Failed);
        }
        let scope = self.scope(going)?;
        let entries = self.install(&scope.asked, &scope.machine, going.clock).await?;
        for entry in &entries {
            match entry.state {
                State::Installed | State::RebootPending => going.installed += 1,
                State::Failed => going.failed += 1,
                _ => {}
            }
        }
        self.untold.extend(entries);
        Ok(Event::Installed)
    }

    /// Does what follows installations, and tells the tier above what came of everything.
    async fn tell_above(&mut self, going: &mut Going<'_>) -> Result<(), CycleError> {
        let untold: Vec<StateEntry> = ledger::latest(std::mem::take(&mut self.untold));
        let quiet = going.installed + going.failed == 0 && self.phase != Phase::Rebooting;
        if going.occasion == Occasion::Wish && quiet {
            self.untold = untold;
            return Ok(());
        }
        let (key, clock) = (going.key, going.clock);
        if self.ledger.book().to_follow_up().is_some() {
            self.follow_up(clock.now(), going.problems).await?;
        }
        self.release_leases(key, clock).await;
        going.problems.truncate(PROBLEMS_MAX);
        let summary = self.summary(going.began, going.timer.elapsed(), going.problems.clone());
        if let Err(error) = self.report(key, untold, summary.clone(), clock.now()) {
            // What was to be told is told with everything else.
            self.told_all = false;
            return Err(error);
        }
        match self.spool.send(&self.upstream).await {
            Ok(false) => {}
            Ok(true) => {
                // At once, so that central does not go without until the next check.
                self.spool.resync()?;
                self.told_all = false;
                let summary = CycleSummary { acknowledged: None, ..summary };
                self.report(key, Vec::new(), summary, clock.now())?;
                match self.spool.send(&self.upstream).await {
                    Ok(false) => {}
                    // Not again now; but what was refused must not count as sent.
                    Ok(true) => {
                        going.problems.push("the tier above still asks for everything again".to_owned());
                        self.spool.resync()?;
                        self.told_all = false;
                    }
                    Err(error) => going.problems.push(Chain(&error).to_string()),
                }
            }
            Err(error) => going.problems.push(Chain(&error).to_string()),
        }
        Ok(())
    }

    /// A cycle in numbers.
    fn summary(&self, at: Timestamp, took: Duration, problems: Vec<String>) -> CycleSummary {
        CycleSummary {
            at,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            dictionary_version: self.catalogues.version(),
            agent_version: VERSION.to_owned(),
            host_name: tierway_common::host::name(),
            counts: self.ledger.book().counts(),
            reboot_pending: self.reboot_pending(),
            machine_class: machine_class(),
            uncovered: self.catalogues.fitting() == 0,
            acknowledged: self.spool.acknowledged(),
            problems,
        }
    }
}
