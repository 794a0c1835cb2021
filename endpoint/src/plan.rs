//! What to install next, when, and why not the rest.
//!
//! Pure: findings, the policy that holds here, the ledger's book and the present in, plan out. Installed is
//! what is needed, approved and open here, not replaced by a newer approved update, not being left alone after
//! failures, agreed to by the person at the machine as far as he is asked, and fits with its time limit and a
//! reboot into what is left of a change window. Everything else that is needed is listed with its reason.

mod fit;
mod reason;
mod replaced;

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tierway_common::{
    calendar::Occurrence,
    facts::Facts,
    id::{UpdateId, WindowId},
    rules::Verdict,
    schema::{Decision, Severity, State, Update},
};

use self::{fit::Room, replaced::replacements};
pub use self::{
    fit::{REBOOT_RESERVE, UNMEASURED_MIN, reboot_reserve, unbound},
    reason::{Needs, Reason},
    replaced::{Stands, superseded},
};
use crate::{
    consent::{self, Consent, Countdown, Terms, signed},
    install::{
        Engine, SystemEngine,
        codes::{Class, Outcome},
        deb,
        failsafe::Limit,
    },
    ledger::{Book, Failing},
    people::People,
    policy::{Effective, here::Here},
};

/// After so long a lease that was not granted is asked for again.
pub const LEASE_AGAIN: SignedDuration = SignedDuration::from_mins(5);

/// How long updates that fail are left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// After a failure that is not the update's fault.
    pub transient: SignedDuration,
    /// After the first failure; each further equal one doubles it.
    pub first: SignedDuration,
    /// At most.
    pub longest: SignedDuration,
    /// After so many equal failures the update is not tried any more until it is approved anew.
    pub quarantine_after: u32,
}

impl Default for Limits {
    /// A lock is free after minutes. Half an hour doubles to a day within six failures; five in a row are
    /// no accident and take most of a day.
    fn default() -> Self {
        Self {
            transient: SignedDuration::from_mins(5),
            first: SignedDuration::from_mins(30),
            longest: SignedDuration::from_hours(24),
            quarantine_after: 5,
        }
    }
}

/// One update that matters here.
#[derive(Clone, Copy, Debug)]
pub struct Finding<'a> {
    /// What it is.
    pub update: &'a Update,
    /// What its rules say.
    pub verdict: &'a Verdict,
    /// What was decided; `None` when nobody did.
    pub decision: Option<&'a Effective>,
    /// After which its installation is ended, and what it should take.
    pub limit: &'a Limit,
    /// Whether its payloads are here.
    pub payloads: Payloads<'a>,
}

/// Whether what is to be installed is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payloads<'a> {
    /// All of it.
    Here,
    /// Not yet.
    Missing,
    /// It could not be fetched.
    Failed(&'a str),
}

/// The present.
#[derive(Clone, Copy, Debug)]
pub struct Now<'a> {
    /// The time.
    pub at: Timestamp,
    /// What the verdicts were made of.
    pub facts: &'a Facts,
    /// Who is at the machine.
    pub people: &'a People,
    /// The countdown that runs or has run out.
    pub countdown: Option<&'a Countdown>,
    /// The tier above answered in this check.
    pub reachable: bool,
    /// Permissions to be down, until when; at most one for a window.
    pub leases: &'a BTreeMap<WindowId, Timestamp>,
    /// How long failures are left alone.
    pub limits: &'a Limits,
    /// Why nothing may be begun by what is published, such as that it has expired.
    pub stale: Option<&'a str>,
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be installed now, one after the other: the most severe first, then the oldest.
    pub steps: Vec<Step>,
    /// Needed and not to be installed now, by id, with the reason.
    pub left_out: BTreeMap<UpdateId, Reason>,
    /// What is on offer here, with its terms. Grace begins for those that were not before.
    pub offered: BTreeMap<UpdateId, Terms>,
    /// Those whose payloads must be fetched, in the order of their need.
    pub fetch: Vec<UpdateId>,
    /// A countdown to installations must begin or go on; without one that was shown has lost its purpose.
    pub countdown: bool,
    /// Nobody answered the countdown: what is due is put off until then.
    pub put_off: Option<Timestamp>,
    /// A permission to ask for.
    pub lease: Option<LeaseNeed>,
    /// When to decide again at the latest: the first moment at which something changes by itself.
    pub next: Option<Timestamp>,
}

/// One installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Of what.
    pub update: UpdateId,
    /// When it should begin, if those before it take what is expected.
    pub start: Timestamp,
    /// What it should take.
    pub expected: Duration,
    /// It is ended after so long at the latest.
    pub limit: Duration,
    /// The least limit with which it may begin; less than `limit` for what was not measured on such machines.
    pub limit_min: Duration,
    /// In which window; `None` when it needs none.
    pub window: Option<Occurrence>,
    /// Kept free at the end of the window for a reboot.
    pub reserve: SignedDuration,
    /// The permission under which it runs ends then.
    pub lease_until: Option<Timestamp>,
}

impl Step {
    /// Its time limit if it begins at `now`; `None` when it may not begin then, because it would not fit.
    #[must_use]
    pub fn limit_at(&self, now: Timestamp) -> Option<Duration> {
        let limits = (self.limit, self.limit_min);
        let limit = fit::limit_at(limits, self.window.as_ref(), self.reserve, now)?;
        let Some(until) = self.lease_until else { return Some(limit) };
        let room = until.duration_since(now).saturating_sub(self.reserve);
        (room >= signed(self.limit_min)).then(|| limit.min(Duration::try_from(room).unwrap_or(limit)))
    }
}

/// A permission that is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseNeed {
    /// For which window.
    pub window: WindowId,
    /// From now for so long.
    pub length: SignedDuration,
}

impl Plan {
    /// What is to be installed now, in its order.
    pub fn install(&self) -> impl Iterator<Item = &UpdateId> {
        self.steps.iter().map(|step| &step.update)
    }

    /// The earliest terms of what is on offer: the end of grace and the deadline that people are told.
    #[must_use]
    pub fn due(&self) -> Option<Terms> {
        self.offered.values().min_by_key(|terms| terms.deadline).copied()
    }

    fn wake(&mut self, at: Timestamp, now: Timestamp) {
        if at > now {
            self.next = Some(self.next.map_or(at, |next| next.min(at)));
        }
    }
}

/// Decides what to install now.
#[must_use]
pub fn plan(findings: &[Finding<'_>], here: &Here, book: &Book, now: &Now<'_>) -> Plan {
    let needed: BTreeMap<&UpdateId, &Finding<'_>> = findings
        .iter()
        .filter(|finding| is_to_do(finding, book, now.facts))
        .map(|finding| (&finding.update.id, finding))
        .collect();
    let replacements = replacements(findings, &needed, here);
    let mut order: Vec<&Finding<'_>> = needed.values().copied().collect();
    order.sort_by_key(|finding| place(finding.update));
    let mut plan = Plan::default();
    let mut begin = Begin::default();
    for finding in order {
        let id = &finding.update.id;
        let reason = match not_open(finding, here, &replacements, book, now) {
            Some(reason) => Some(reason),
            None => offer(finding, here, book, now, &mut plan, &mut begin),
        };
        if let Some(reason) = reason {
            if let Some(until) = reason.until() {
                plan.wake(until, now.at);
            }
            plan.left_out.insert(id.clone(), reason);
        }
    }
    plan
}

/// The place of an update in the order of installations: the most severe first, then the oldest.
#[must_use]
pub fn place(update: &Update) -> (Reverse<Severity>, Timestamp, &UpdateId) {
    (Reverse(update.severity), update.released, &update.id)
}

/// Needed, or there in the right version but left half installed by an attempt of ours.
fn is_to_do(finding: &Finding<'_>, book: &Book, facts: &Facts) -> bool {
    match finding.verdict {
        Verdict::Needed => true,
        Verdict::Installed => {
            let failing = book.record(&finding.update.id).is_some_and(|record| record.failing.is_some());
            failing && deb::is_incomplete(finding.update, facts)
        }
        Verdict::NotApplicable | Verdict::Unknown { .. } => false,
    }
}

fn approved(finding: &Finding<'_>) -> bool {
    finding.decision.is_some_and(|decision| decision.decision == Decision::Approve)
}

/// Why an update is not to be installed whatever the time and whoever is here.
fn not_open(
    finding: &Finding<'_>,
    here: &Here,
    replacements: &BTreeMap<&UpdateId, &UpdateId>,
    book: &Book,
    now: &Now<'_>,
) -> Option<Reason> {
    let update = finding.update;
    let Some(decision) = finding.decision else { return Some(Reason::Undecided) };
    if decision.decision == Decision::Decline {
        return Some(Reason::Declined(decision.clone()));
    }
    if let Some(by) = replacements.get(&update.id) {
        return Some(Reason::Superseded((*by).clone()));
    }
    if let Some(reason) = here.closed(update, decision) {
        return Some(reason);
    }
    if let Some(kind) = SystemEngine::lacks(&update.install) {
        return Some(Reason::NoEngine(kind.to_owned()));
    }
    if here.audit_only {
        return Some(Reason::AuditOnly);
    }
    if let Some(stale) = now.stale {
        return Some(Reason::Stale(stale.to_owned()));
    }
    if let Some(package) = deb::held(update, now.facts) {
        return Some(Reason::Held(package.to_owned()));
    }
    let record = book.record(&update.id)?;
    if record.open.is_some() {
        return Some(Reason::Unsettled);
    }
    if record.state == State::RebootPending {
        return Some(Reason::RebootFirst);
    }
    let failing = record.failing.as_ref()?;
    let booted = book.boots().current.as_ref().is_some_and(|(_, since)| *since > failing.ended);
    if failing.outcome == Outcome::RebootFirst && !booted {
        return Some(Reason::RebootFirst);
    }
    // A new approval is a person's wish to try again, and so is one given once more. One of the future, by a clock
    // that was set back, would be one for ever.
    if decision.asked > failing.ended && decision.asked <= now.at {
        return None;
    }
    left_alone(failing, now.at, now.limits)
}

fn left_alone(failing: &Failing, now: Timestamp, limits: &Limits) -> Option<Reason> {
    let Failing { outcome, times, ended, .. } = *failing;
    let class = outcome.class();
    if class == Class::Failure && times >= limits.quarantine_after {
        return Some(Reason::Quarantined { times, outcome });
    }
    let wait = match class {
        Class::Transient => limits.transient,
        Class::Done | Class::Blocked | Class::Failure => {
            let doublings = times.saturating_sub(1).min(20);
            limits.first.saturating_mul(1 << doublings).min(limits.longest)
        }
    };
    // A clock that was set back must not make an update wait for longer than its wait.
    let until = ended.checked_add(wait).unwrap_or(Timestamp::MAX);
    (ended <= now && now < until).then_some(Reason::BackOff { until, outcome })
}

/// When the next installation can begin, after a countdown and without one.
/// Sums of what those before it are expected to take.
#[derive(Debug, Default)]
struct Begin {
    now: SignedDuration,
    warned: SignedDuration,
}

/// Offers an update that is open here, and takes it into the plan if it can begin now.
fn offer(
    finding: &Finding<'_>,
    here: &Here,
    book: &Book,
    now: &Now<'_>,
    plan: &mut Plan,
    begin: &mut Begin,
) -> Option<Reason> {
    let id = &finding.update.id;
    let offered = book.record(id).and_then(|record| record.offered).map(|offered| offered.min(now.at));
    let Some(offered) = offered.or(now.reachable.then_some(now.at)) else {
        return Some(Reason::NotOffered);
    };
    let terms = Terms::of(&here.settings, offered);
    plan.offered.insert(id.clone(), terms);
    for at in [terms.grace_ends, terms.deadline] {
        plan.wake(at, now.at);
    }
    match finding.payloads {
        Payloads::Here => {}
        Payloads::Missing => {
            plan.fetch.push(id.clone());
            return Some(Reason::Download(None));
        }
        Payloads::Failed(problem) => {
            plan.fetch.push(id.clone());
            plan.wake(now.at.checked_add(now.limits.transient).unwrap_or(Timestamp::MAX), now.at);
            return Some(Reason::Download(Some(problem.to_owned())));
        }
    }
    let consent = consent::decide(&terms, &here.settings, now.people, book.wishes(), now.countdown, now.at);
    let warned = match consent {
        Consent::Wait { until, why } => return Some(Reason::Person { until, why }),
        Consent::PutOff { until } => {
            plan.put_off = Some(plan.put_off.map_or(until, |earlier| earlier.min(until)));
            return Some(Reason::Person { until, why: consent::Asked::PutOff });
        }
        Consent::Countdown => {
            let running = now.countdown.filter(|found| found.purpose == consent::Purpose::Install);
            Some(running.map_or(consent::length(&here.settings), |found| found.left(&here.settings)))
        }
        Consent::Go => None,
    };
    let row = if warned.is_some() { &mut begin.warned } else { &mut begin.now };
    let lead = warned.unwrap_or_default();
    let start = now.at.checked_add(lead + *row).unwrap_or(Timestamp::MAX);
    let reserve = reboot_reserve(&here.settings, now.people);
    let least = fit::least(finding.limit);
    let needs = Needs { limit: signed(least), reboot: reserve };
    let total = needs.limit + needs.reboot;
    let window = match fit::room(here, &terms, start, total) {
        Room::Any => None,
        Room::In(occurrence) => Some(occurrence),
        Room::Short(left) => {
            let next = fit::next(here, now.at, total);
            wake_to_warn(plan, next.as_ref(), lead, now.at);
            return Some(Reason::DoesNotFit { needs, left, next });
        }
        Room::Closed if here.windows.is_empty() => {
            let problem = here.unread.iter().next().map(|(window, problem)| format!("`{window}`: {problem}"));
            return Some(Reason::NoWindow(problem.unwrap_or_default()));
        }
        Room::Closed => {
            let next = fit::next(here, now.at, total);
            wake_to_warn(plan, next.as_ref(), lead, now.at);
            return Some(Reason::Closed { next, needs });
        }
    };
    let expected = fit::expected(finding.limit);
    let lease_until = match leased(here, window.as_ref(), now, start, total) {
        Lease::None => None,
        Lease::Until(until) => Some(until),
        // Had before anybody is warned, so that no warning leads to nothing.
        Lease::Lacking(window) => {
            let length = start.duration_since(now.at) + total;
            let asked = plan.lease.get_or_insert(LeaseNeed { window: window.clone(), length });
            asked.length = asked.length.max(length);
            *row += signed(expected);
            plan.wake(now.at.checked_add(LEASE_AGAIN).unwrap_or(Timestamp::MAX), now.at);
            return Some(Reason::Lease(window));
        }
    };
    *row += signed(expected);
    if warned.is_some() {
        plan.countdown = true;
        let until = now.at.checked_add(lead).unwrap_or(Timestamp::MAX);
        return Some(Reason::Countdown { until });
    }
    let limits = (finding.limit.duration, least);
    plan.steps.push(Step {
        update: id.clone(),
        start,
        expected,
        limit: fit::limit_at(limits, window.as_ref(), reserve, start).unwrap_or(least),
        limit_min: least,
        window,
        reserve,
        lease_until,
    });
    None
}

/// A countdown begins so long before a window that it has run out when that opens.
fn wake_to_warn(plan: &mut Plan, next: Option<&jiff::Zoned>, lead: SignedDuration, now: Timestamp) {
    if let Some(next) = next {
        plan.wake(next.timestamp().checked_sub(lead).unwrap_or(now), now);
    }
}

/// Whether a permission to be down covers something.
enum Lease {
    /// None is needed.
    None,
    /// Until then.
    Until(Timestamp),
    /// It must be asked for.
    Lacking(WindowId),
}

/// What begins at `start` and takes `total` needs a permission of its window if that limits how many are down;
/// outside of windows, at the deadline, of the first that does.
fn leased(
    here: &Here,
    window: Option<&Occurrence>,
    now: &Now<'_>,
    start: Timestamp,
    total: SignedDuration,
) -> Lease {
    let mut limited = here.windows.iter().filter(|window| window.at_once_max().is_some());
    let limited = match window {
        Some(open) => limited.find(|window| *window.window() == open.window),
        None => limited.next(),
    };
    let Some(limited) = limited else { return Lease::None };
    let covers = |until: &Timestamp| start.checked_add(total).is_ok_and(|end| end <= *until);
    match now.leases.get(limited.window()).copied().filter(covers) {
        Some(until) => Lease::Until(until),
        None => Lease::Lacking(limited.window().clone()),
    }
}

#[cfg(test)]
mod tests;
