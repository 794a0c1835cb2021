//! What to install next, and why not the rest.
//!
//! Pure: findings, the ledger's book and the time in, plan out. Installed is what is needed and approved,
//! not replaced by a newer approved update, and not being left alone after failures.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use jiff::{SignedDuration, Timestamp};
use tierway_common::{
    facts::Facts,
    id::UpdateId,
    rules::Verdict,
    schema::{Decision, Update},
};

use crate::{
    install::{
        self,
        codes::{Class, Outcome},
        deb,
    },
    ledger::{Book, Failing},
    policy::Effective,
};

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
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be installed, one after the other: the most severe first, then the oldest.
    pub install: Vec<UpdateId>,
    /// Needed and not to be installed now, by id, with the reason.
    pub left_out: BTreeMap<UpdateId, Reason>,
    /// When the first of those that wait may be tried again.
    pub next: Option<Timestamp>,
}

/// Why a needed update is not installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nobody decided.
    Undecided,
    /// It was declined.
    Declined(Effective),
    /// This newer update replaces it and is approved.
    Superseded(UpdateId),
    /// The administrator of this computer holds this package.
    Held(String),
    /// It failed and is left alone until then.
    BackOff {
        /// When it may be tried again.
        until: Timestamp,
        /// How it failed.
        outcome: Outcome,
    },
    /// It failed so often in the same way that it is not tried any more.
    Quarantined {
        /// How often.
        times: u32,
        /// How.
        outcome: Outcome,
    },
    /// An attempt that was cut off is not settled yet.
    Unsettled,
    /// Nothing on this computer installs updates of this kind.
    NoEngine(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undecided => f.write_str("not approved for any group of this computer"),
            Self::Declined(decision) => write!(f, "{decision}"),
            Self::Superseded(by) => write!(f, "replaced by the approved update `{by}`"),
            Self::Held(package) => write!(f, "the package `{package}` is held on this computer"),
            Self::BackOff { until, outcome } => {
                write!(f, "tried again after {until}: {}", outcome.sentence())
            }
            Self::Quarantined { times, outcome } => {
                let outcome = outcome.sentence();
                write!(f, "failed {times} times alike and is not tried until it is approved anew: {outcome}")
            }
            Self::NoEngine(kind) => write!(f, "nothing on this computer installs updates of kind `{kind}`"),
            Self::Unsettled => f.write_str("an attempt was cut off and what came of it is not known yet"),
        }
    }
}

/// Decides what to install at `now`. `facts` are those that the verdicts were made of.
#[must_use]
pub fn plan(findings: &[Finding<'_>], book: &Book, facts: &Facts, now: Timestamp, limits: &Limits) -> Plan {
    let needed: BTreeMap<&UpdateId, &Finding<'_>> = findings
        .iter()
        .filter(|finding| is_to_do(finding, book, facts))
        .map(|finding| (&finding.update.id, finding))
        .collect();
    let replacements = replacements(findings, &needed);
    let mut install: Vec<&Update> = Vec::new();
    let mut plan = Plan::default();
    for (id, finding) in &needed {
        match reason(finding, &replacements, book, facts, now, limits) {
            None => install.push(finding.update),
            Some(reason) => {
                if let Reason::BackOff { until, .. } = &reason {
                    plan.next = Some(plan.next.map_or(*until, |next| next.min(*until)));
                }
                plan.left_out.insert((*id).clone(), reason);
            }
        }
    }
    install.sort_by_key(|update| (Reverse(update.severity), update.released, &update.id));
    plan.install = install.into_iter().map(|update| update.id.clone()).collect();
    plan
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

/// Older update → a newer one that is needed and approved and replaces it, directly or over others. Both
/// documents may say so: the newer what it replaces, the older by what it is replaced.
fn replacements<'a>(
    findings: &'a [Finding<'_>],
    needed: &BTreeMap<&UpdateId, &Finding<'_>>,
) -> BTreeMap<&'a UpdateId, &'a UpdateId> {
    let mut older: BTreeMap<&UpdateId, BTreeSet<&UpdateId>> = BTreeMap::new();
    for finding in findings {
        let update = finding.update;
        for id in &update.supersedes {
            older.entry(&update.id).or_default().insert(id);
        }
        for id in &update.superseded_by {
            older.entry(id).or_default().insert(&update.id);
        }
    }
    let mut replaced = BTreeMap::new();
    for finding in findings {
        let newest = &finding.update.id;
        if !needed.contains_key(newest) || !approved(finding) {
            continue;
        }
        let mut seen = BTreeSet::from([newest]);
        let mut next = vec![newest];
        while let Some(id) = next.pop() {
            for id in older.get(id).into_iter().flatten() {
                if seen.insert(id) {
                    next.push(id);
                    // Two updates that claim to replace each other would both be left out for ever.
                    replaced.entry(*id).or_insert(newest);
                }
            }
        }
    }
    let circular: Vec<_> = replaced
        .iter()
        .filter(|(id, by)| replaced.get(**by) == Some(*id) && id > by)
        .map(|(id, _)| *id)
        .collect();
    for id in circular {
        replaced.remove(id);
    }
    replaced
}

fn reason(
    finding: &Finding<'_>,
    replacements: &BTreeMap<&UpdateId, &UpdateId>,
    book: &Book,
    facts: &Facts,
    now: Timestamp,
    limits: &Limits,
) -> Option<Reason> {
    let update = finding.update;
    let Some(decision) = finding.decision else { return Some(Reason::Undecided) };
    if decision.decision == Decision::Decline {
        return Some(Reason::Declined(decision.clone()));
    }
    if let Some(by) = replacements.get(&update.id) {
        return Some(Reason::Superseded((*by).clone()));
    }
    if let Some(kind) = install::without_engine(&update.install) {
        return Some(Reason::NoEngine(kind.to_owned()));
    }
    if let Some(package) = deb::held(update, facts) {
        return Some(Reason::Held(package.to_owned()));
    }
    let record = book.record(&update.id)?;
    if record.open.is_some() {
        return Some(Reason::Unsettled);
    }
    let failing = record.failing.as_ref()?;
    // A new approval is a person's wish to try again, and so is one given once more.
    if decision.asked > failing.ended {
        return None;
    }
    left_alone(failing, now, limits)
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

#[cfg(test)]
mod tests {
    use tierway_common::{
        rules::expr::Expr,
        schema::{DebPackage, Install, Payload, Severity},
        trust::digest::Digest,
    };

    use super::*;
    use crate::ledger::Event;

    const DAY: i64 = 24 * 60;

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + minute * 60).unwrap()
    }

    fn id(name: &str) -> UpdateId {
        format!("debian-12/{name}").parse().unwrap()
    }

    fn update(name: &str, supersedes: &[&str]) -> Update {
        let package = DebPackage {
            name: name.to_owned(),
            version: "1".to_owned(),
            architecture: "all".to_owned(),
            payload: Payload { digest: Digest::of(b""), bytes: 0, url: String::new() },
            control: BTreeMap::new(),
        };
        Update {
            id: id(name),
            title: String::new(),
            product: String::new(),
            version: String::new(),
            severity: Severity::Moderate,
            class: Default::default(),
            released: Timestamp::UNIX_EPOCH,
            references: Vec::new(),
            applicable: Expr::Const(true),
            installed: Expr::Const(false),
            supersedes: supersedes.iter().map(|name| id(name)).collect(),
            superseded_by: Vec::new(),
            install: Install::Deb { packages: vec![package] },
            result_codes: Default::default(),
        }
    }

    fn decided(decision: Decision, minute: i64) -> Effective {
        let group = "all".parse().unwrap();
        Effective { decision, group, by: "operator:ann".to_owned(), at: at(minute), asked: at(minute) }
    }

    fn book(failures: &[(&str, Outcome, i64)]) -> Book {
        let mut book = Book::default();
        for (name, outcome, minute) in failures {
            book.apply(Event::Began { update: id(name), at: at(*minute) });
            let (outcome, detail) = (*outcome, None);
            let took_seconds = None;
            book.apply(Event::Ended { update: id(name), at: at(*minute), outcome, detail, took_seconds });
        }
        book
    }

    /// The plan for one approved, needed update `a` at a minute, after its failures.
    fn after(failures: &[(&str, Outcome, i64)], minute: i64) -> Plan {
        let approve = decided(Decision::Approve, -1);
        let a = update("a", &[]);
        let findings = [Finding { update: &a, verdict: &Verdict::Needed, decision: Some(&approve) }];
        plan(&findings, &book(failures), &Facts::default(), at(minute), &Limits::default())
    }

    #[test]
    fn installed_is_what_is_needed_and_approved() {
        let approve = decided(Decision::Approve, 0);
        let decline = decided(Decision::Decline, 0);
        let unknown = Verdict::Unknown { reason: String::new() };
        let updates = ["approved", "declined", "nobody", "there", "other", "unknown", "held"]
            .map(|name| update(name, &[]));
        let [a, d, n, t, o, u, h] = &updates;
        let finding = |update, verdict, decision| Finding { update, verdict, decision };
        let findings = [
            finding(a, &Verdict::Needed, Some(&approve)),
            finding(d, &Verdict::Needed, Some(&decline)),
            finding(n, &Verdict::Needed, None),
            finding(t, &Verdict::Installed, Some(&approve)),
            finding(o, &Verdict::NotApplicable, Some(&approve)),
            finding(u, &unknown, Some(&approve)),
            finding(h, &Verdict::Needed, Some(&approve)),
        ];
        let facts = Facts {
            values: [
                ("flag:hold:held".to_owned(), "true".to_owned()),
                ("package:deb:held:all".to_owned(), "0".to_owned()),
            ]
            .into(),
            ..Facts::default()
        };
        let plan = plan(&findings, &Book::default(), &facts, at(1), &Limits::default());
        assert_eq!(plan.install, [id("approved")]);
        assert_eq!(
            plan.left_out,
            [
                (id("declined"), Reason::Declined(decline.clone())),
                (id("nobody"), Reason::Undecided),
                (id("held"), Reason::Held("held".to_owned()))
            ]
            .into()
        );
        assert_eq!(
            plan.left_out[&id("declined")].to_string(),
            "declined for group `all` by operator:ann at 2027-01-15T08:00:00Z"
        );
    }

    #[test]
    fn the_most_severe_comes_first_then_the_oldest() {
        let approve = decided(Decision::Approve, 0);
        let updates = [
            Update { released: at(2), ..update("late", &[]) },
            Update { released: at(1), ..update("early", &[]) },
            Update { released: at(3), severity: Severity::Critical, ..update("bad", &[]) },
        ];
        let findings = updates.each_ref().map(|update| Finding {
            update,
            verdict: &Verdict::Needed,
            decision: Some(&approve),
        });
        let plan = plan(&findings, &Book::default(), &Facts::default(), at(9), &Limits::default());
        assert_eq!(plan.install, [id("bad"), id("early"), id("late")]);
    }

    #[test]
    fn an_older_update_gives_way_to_a_newer_one_only_when_that_is_approved_and_needed() {
        use Decision::{Approve, Decline};
        let approve = decided(Approve, 0);
        let decline = decided(Decline, 0);
        let older = update("1", &[]);
        let middle = update("2", &["1"]);
        let newest = update("3", &["2"]);
        let not_here = Verdict::NotApplicable;
        for (decisions, newest_verdict, installed) in [
            ([Some(&approve), Some(&approve), Some(&approve)], &Verdict::Needed, vec!["3"]),
            ([Some(&approve), None, Some(&approve)], &Verdict::Needed, vec!["3"]),
            ([Some(&approve), Some(&approve), None], &Verdict::Needed, vec!["2"]),
            ([Some(&approve), None, None], &Verdict::Needed, vec!["1"]),
            ([Some(&approve), None, Some(&decline)], &Verdict::Needed, vec!["1"]),
            ([None, None, Some(&approve)], &Verdict::Needed, vec!["3"]),
            ([Some(&approve), Some(&approve), Some(&approve)], &not_here, vec!["2"]),
        ] {
            let findings = [
                Finding { update: &older, verdict: &Verdict::Needed, decision: decisions[0] },
                Finding { update: &middle, verdict: &Verdict::Needed, decision: decisions[1] },
                Finding { update: &newest, verdict: newest_verdict, decision: decisions[2] },
            ];
            let plan = plan(&findings, &Book::default(), &Facts::default(), at(1), &Limits::default());
            assert_eq!(plan.install, installed.into_iter().map(id).collect::<Vec<_>>(), "{decisions:?}");
        }
    }

    #[test]
    fn updates_that_claim_to_replace_each_other_are_not_both_left_out() {
        let approve = decided(Decision::Approve, 0);
        let updates = [update("1", &["2"]), update("2", &["1"])];
        let findings = updates.each_ref().map(|update| Finding {
            update,
            verdict: &Verdict::Needed,
            decision: Some(&approve),
        });
        let plan = plan(&findings, &Book::default(), &Facts::default(), at(1), &Limits::default());
        assert_eq!(plan.install, [id("2")]);
    }

    #[test]
    fn a_failed_update_waits_twice_as_long_after_each_equal_failure() {
        let failed = |times: usize| vec![("a", Outcome::ScriptFailed, 0); times];
        for (times, wait) in [(1, 30), (2, 60), (3, 120), (4, 240)] {
            let plan = after(&failed(times), wait - 1);
            let outcome = Outcome::ScriptFailed;
            assert_eq!(plan.left_out[&id("a")], Reason::BackOff { until: at(wait), outcome });
            assert_eq!(plan.next, Some(at(wait)));
            assert_eq!(after(&failed(times), wait).install, [id("a")]);
        }
    }

    #[test]
    fn after_five_equal_failures_only_a_new_approval_tries_again() {
        let failures = [("a", Outcome::ReportedSuccessStillNeeded, 0); 5];
        let plan = after(&failures, 365 * DAY);
        let outcome = Outcome::ReportedSuccessStillNeeded;
        assert_eq!(plan.left_out[&id("a")], Reason::Quarantined { times: 5, outcome });
        let (a, approve) = (update("a", &[]), decided(Decision::Approve, 1));
        let findings = [Finding { update: &a, verdict: &Verdict::Needed, decision: Some(&approve) }];
        let plan = super::plan(&findings, &book(&failures), &Facts::default(), at(2), &Limits::default());
        assert_eq!(plan.install, [id("a")]);
    }

    #[test]
    fn an_old_approval_given_once_more_after_the_failures_tries_again_and_one_before_them_does_not() {
        let failures = [("a", Outcome::ScriptFailed, 10); 5];
        let a = update("a", &[]);
        for (asked, installed) in [(0, vec![]), (9, vec![]), (11, vec![id("a")])] {
            let approve = Effective { asked: at(asked), ..decided(Decision::Approve, 0) };
            let findings = [Finding { update: &a, verdict: &Verdict::Needed, decision: Some(&approve) }];
            let plan = plan(&findings, &book(&failures), &Facts::default(), at(12), &Limits::default());
            assert_eq!(plan.install, installed, "asked at minute {asked}");
        }
    }

    #[test]
    fn what_is_not_the_updates_fault_is_tried_for_ever() {
        assert_eq!(after(&[("a", Outcome::LockBusy, 0); 50], 4).install, []);
        assert_eq!(after(&[("a", Outcome::LockBusy, 0); 50], 5).install, [id("a")]);
        assert_eq!(after(&[("a", Outcome::DependencyUnsatisfied, 0); 50], DAY - 1).install, []);
        assert_eq!(after(&[("a", Outcome::DependencyUnsatisfied, 0); 50], DAY).install, [id("a")]);
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_make_an_update_wait_for_ever() {
        assert_eq!(after(&[("a", Outcome::ScriptFailed, DAY)], 0).install, [id("a")]);
    }

    #[test]
    fn an_update_that_nothing_here_installs_is_left_out_and_says_so() {
        let approve = decided(Decision::Approve, 0);
        let a = Update {
            install: serde_json::from_str(
                r#"{"windows":{"handler":{"msi":{"file":"x.msi","product_code":"{A}"}}}}"#,
            )
            .unwrap(),
            ..update("a", &[])
        };
        let findings = [Finding { update: &a, verdict: &Verdict::Needed, decision: Some(&approve) }];
        let plan = plan(&findings, &Book::default(), &Facts::default(), at(DAY), &Limits::default());
        assert_eq!((&plan.install, &plan.left_out[&id("a")]), (&vec![], &Reason::NoEngine("msi".to_owned())));
        let said = plan.left_out[&id("a")].to_string();
        assert_eq!(said, "nothing on this computer installs updates of kind `msi`");
    }

    #[test]
    fn an_attempt_that_is_not_settled_is_not_repeated() {
        let approve = decided(Decision::Approve, 0);
        let a = update("a", &[]);
        let mut book = Book::default();
        book.apply(Event::Began { update: id("a"), at: at(0) });
        let findings = [Finding { update: &a, verdict: &Verdict::Needed, decision: Some(&approve) }];
        let plan = plan(&findings, &book, &Facts::default(), at(DAY), &Limits::default());
        assert_eq!(plan.left_out[&id("a")], Reason::Unsettled);
    }

    #[test]
    fn an_update_that_our_attempt_left_half_installed_is_tried_again() {
        let approve = decided(Decision::Approve, 0);
        let a = update("a", &[]);
        let facts = Facts {
            values: [("flag:incomplete:a".to_owned(), "true".to_owned())].into(),
            ..Facts::default()
        };
        let findings = [Finding { update: &a, verdict: &Verdict::Installed, decision: Some(&approve) }];
        let plan = |book: &Book| plan(&findings, book, &facts, at(DAY), &Limits::default()).install;
        assert_eq!(plan(&book(&[("a", Outcome::ScriptFailed, 0)])), [id("a")]);
        assert_eq!(plan(&Book::default()), []);
    }
}
