//! Which updates are installed and why not the others, case by case.

use tierway_common::{
    rules::expr::Expr,
    schema::{DebPackage, Install, Payload, Severity},
    trust::digest::Digest,
};

use super::*;
use crate::{install::failsafe::Source, ledger::Event};

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
    Effective {
        decision,
        group,
        by: "operator:ann".to_owned(),
        at: at(minute),
        asked: at(minute),
        rings: None,
    }
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

const LIMIT: Limit = Limit {
    duration: Duration::from_secs(20 * 60),
    expected: Duration::from_secs(10 * 60),
    source: Source::AllClasses,
};

fn finding<'a>(update: &'a Update, verdict: &'a Verdict, decision: Option<&'a Effective>) -> Finding<'a> {
    Finding { update, verdict, decision, limit: &LIMIT, payloads: Payloads::Here }
}

/// What is planned where nothing is published but decisions and nobody is at the machine.
fn plan(findings: &[Finding<'_>], book: &Book, facts: &Facts, at: Timestamp, limits: &Limits) -> Plan {
    plan_here(findings, &Here::default(), book, facts, at, limits)
}

/// The same where that policy holds.
fn plan_here(
    findings: &[Finding<'_>],
    here: &Here,
    book: &Book,
    facts: &Facts,
    at: Timestamp,
    limits: &Limits,
) -> Plan {
    let now = Now {
        at,
        facts,
        people: &People::nobody(),
        countdown: None,
        reachable: true,
        leases: &BTreeMap::new(),
        limits,
        stale: None,
    };
    super::plan(findings, here, book, &now)
}

impl Plan {
    fn installed(&self) -> Vec<UpdateId> {
        self.install().cloned().collect()
    }
}

/// The plan for one approved, needed update `a` at a minute, after its failures.
fn after(failures: &[(&str, Outcome, i64)], minute: i64) -> Plan {
    let approve = decided(Decision::Approve, -1);
    let a = update("a", &[]);
    let findings = [finding(&a, &Verdict::Needed, Some(&approve))];
    plan(&findings, &book(failures), &Facts::default(), at(minute), &Limits::default())
}

#[test]
fn installed_is_what_is_needed_and_approved() {
    let approve = decided(Decision::Approve, 0);
    let decline = decided(Decision::Decline, 0);
    let unknown = Verdict::Unknown { reason: String::new() };
    let updates =
        ["approved", "declined", "nobody", "there", "other", "unknown", "held"].map(|name| update(name, &[]));
    let [a, d, n, t, o, u, h] = &updates;
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
    assert_eq!(plan.installed(), [id("approved")]);
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
    let findings = updates.each_ref().map(|update| finding(update, &Verdict::Needed, Some(&approve)));
    let plan = plan(&findings, &Book::default(), &Facts::default(), at(9), &Limits::default());
    assert_eq!(plan.installed(), [id("bad"), id("early"), id("late")]);
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
            finding(&older, &Verdict::Needed, decisions[0]),
            finding(&middle, &Verdict::Needed, decisions[1]),
            finding(&newest, newest_verdict, decisions[2]),
        ];
        let plan = plan(&findings, &Book::default(), &Facts::default(), at(1), &Limits::default());
        assert_eq!(plan.installed(), installed.into_iter().map(id).collect::<Vec<_>>(), "{decisions:?}");
    }
}

#[test]
fn an_older_update_does_not_give_way_to_a_newer_one_that_is_closed_here() {
    let approve = decided(Decision::Approve, 0);
    let older = Update { severity: Severity::Critical, ..update("1", &[]) };
    let mut here = Here::default();
    here.settings.severity_at_least = Severity::Critical;
    for (severity, expected) in [(Severity::Critical, "2"), (Severity::Low, "1")] {
        let newer = Update { severity, ..update("2", &["1"]) };
        let findings = [&older, &newer].map(|update| finding(update, &Verdict::Needed, Some(&approve)));
        let (book, facts) = (Book::default(), Facts::default());
        let plan = plan_here(&findings, &here, &book, &facts, at(1), &Limits::default());
        assert_eq!(plan.installed(), [id(expected)], "{severity:?}");
    }
}

#[test]
fn what_is_superseded_is_left_out_unless_it_is_approved_and_the_newer_one_is_not_installed_here_or_it_was_applied()
 {
    let (waits, open) = (
        Stands { approved: true, ..Stands::default() },
        Stands { approved: true, open: true, applied: false },
    );
    let applied = Stands { applied: true, ..Stands::default() };
    let nothing = Stands::default();
    let unknown = || Verdict::Unknown { reason: "nobody asked".to_owned() };
    for (older, newer, stand, is_left_out) in [
        (Verdict::Needed, Verdict::Needed, [nothing, nothing], true),
        (Verdict::Needed, Verdict::Installed, [nothing, nothing], true),
        (Verdict::Needed, Verdict::NotApplicable, [nothing, nothing], false),
        (Verdict::Needed, unknown(), [nothing, nothing], false),
        (unknown(), Verdict::Needed, [nothing, nothing], true),
        // Approved alone; with a newer one that is approved and waits for its ring; and with one that is to be installed.
        (Verdict::Needed, Verdict::Needed, [open, nothing], false),
        (Verdict::Needed, Verdict::Needed, [open, waits], false),
        (Verdict::Needed, Verdict::Needed, [waits, waits], false),
        (Verdict::Needed, Verdict::Needed, [open, open], true),
        (Verdict::Needed, Verdict::Installed, [open, nothing], false),
        (Verdict::Needed, Verdict::Installed, [open, applied], true),
        // Of what is there only what was applied here is told on.
        (Verdict::Installed, Verdict::Needed, [nothing, nothing], true),
        (Verdict::Installed, Verdict::Needed, [applied, open], false),
        (Verdict::Installed, Verdict::Installed, [applied, applied], false),
    ] {
        let verdicts = BTreeMap::from([(id("1"), older.clone()), (id("2"), newer.clone())]);
        let by = |of: &UpdateId| (*of == id("1")).then(|| id("2")).into_iter();
        let stands = |of: &UpdateId| stand[usize::from(*of == id("2"))];
        let expected = if is_left_out { vec![id("1")] } else { vec![] };
        assert_eq!(superseded(&verdicts, by, stands), expected, "{older:?} {newer:?} {stand:?}");
    }
}

#[test]
fn updates_that_claim_to_replace_each_other_are_not_both_left_out() {
    let approve = decided(Decision::Approve, 0);
    let updates = [update("1", &["2"]), update("2", &["1"])];
    let findings = updates.each_ref().map(|update| finding(update, &Verdict::Needed, Some(&approve)));
    let plan = plan(&findings, &Book::default(), &Facts::default(), at(1), &Limits::default());
    assert_eq!(plan.installed(), [id("2")]);
}

#[test]
fn a_failed_update_waits_twice_as_long_after_each_equal_failure() {
    let failed = |times: usize| vec![("a", Outcome::ScriptFailed, 0); times];
    for (times, wait) in [(1, 30), (2, 60), (3, 120), (4, 240)] {
        let plan = after(&failed(times), wait - 1);
        let outcome = Outcome::ScriptFailed;
        assert_eq!(plan.left_out[&id("a")], Reason::BackOff { until: at(wait), outcome });
        assert_eq!(plan.next, Some(at(wait)));
        assert_eq!(after(&failed(times), wait).installed(), [id("a")]);
    }
}

#[test]
fn after_five_equal_failures_only_a_new_approval_tries_again() {
    let failures = [("a", Outcome::ReportedSuccessStillNeeded, 0); 5];
    let plan = after(&failures, 365 * DAY);
    let outcome = Outcome::ReportedSuccessStillNeeded;
    assert_eq!(plan.left_out[&id("a")], Reason::Quarantined { times: 5, outcome });
    let (a, approve) = (update("a", &[]), decided(Decision::Approve, 1));
    let findings = [finding(&a, &Verdict::Needed, Some(&approve))];
    let plan = self::plan(&findings, &book(&failures), &Facts::default(), at(2), &Limits::default());
    assert_eq!(plan.installed(), [id("a")]);
}

#[test]
fn an_old_approval_given_once_more_after_the_failures_tries_again_and_one_before_them_does_not() {
    let failures = [("a", Outcome::ScriptFailed, 10); 5];
    let a = update("a", &[]);
    for (asked, installed) in [(0, vec![]), (9, vec![]), (11, vec![id("a")])] {
        let approve = Effective { asked: at(asked), ..decided(Decision::Approve, 0) };
        let findings = [finding(&a, &Verdict::Needed, Some(&approve))];
        let plan = plan(&findings, &book(&failures), &Facts::default(), at(12), &Limits::default());
        assert_eq!(plan.installed(), installed, "asked at minute {asked}");
    }
}

#[test]
fn what_is_not_the_updates_fault_is_tried_for_ever() {
    assert_eq!(after(&[("a", Outcome::LockBusy, 0); 50], 4).installed(), []);
    assert_eq!(after(&[("a", Outcome::LockBusy, 0); 50], 5).installed(), [id("a")]);
    assert_eq!(after(&[("a", Outcome::DependencyUnsatisfied, 0); 50], DAY - 1).installed(), []);
    assert_eq!(after(&[("a", Outcome::DependencyUnsatisfied, 0); 50], DAY).installed(), [id("a")]);
}

#[test]
fn a_clock_that_is_set_back_does_not_make_an_update_wait_for_ever() {
    assert_eq!(after(&[("a", Outcome::ScriptFailed, DAY)], 0).installed(), [id("a")]);
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
    let findings = [finding(&a, &Verdict::Needed, Some(&approve))];
    let plan = plan(&findings, &Book::default(), &Facts::default(), at(DAY), &Limits::default());
    assert_eq!((plan.installed(), &plan.left_out[&id("a")]), (vec![], &Reason::NoEngine("msi".to_owned())));
    let said = plan.left_out[&id("a")].to_string();
    assert_eq!(said, "nothing on this computer installs updates of kind `msi`");
}

#[test]
fn an_attempt_that_is_not_settled_is_not_repeated() {
    let approve = decided(Decision::Approve, 0);
    let a = update("a", &[]);
    let mut book = Book::default();
    book.apply(Event::Began { update: id("a"), at: at(0) });
    let findings = [finding(&a, &Verdict::Needed, Some(&approve))];
    let plan = plan(&findings, &book, &Facts::default(), at(DAY), &Limits::default());
    assert_eq!(plan.left_out[&id("a")], Reason::Unsettled);
}

#[test]
fn an_update_that_our_attempt_left_half_installed_is_tried_again() {
    let approve = decided(Decision::Approve, 0);
    let a = update("a", &[]);
    let facts =
        Facts { values: [("flag:incomplete:a".to_owned(), "true".to_owned())].into(), ..Facts::default() };
    let findings = [finding(&a, &Verdict::Installed, Some(&approve))];
    let plan = |book: &Book| plan(&findings, book, &facts, at(DAY), &Limits::default()).installed();
    assert_eq!(plan(&book(&[("a", Outcome::ScriptFailed, 0)])), [id("a")]);
    assert_eq!(plan(&Book::default()), []);
}

/// The plan of one approved update with the limit of twenty minutes at a minute, under a level.
fn under(level: &str, windows: &[&str], people: &People, minute: i64) -> Plan {
    let level: tierway_common::schema::policy::ServiceLevel =
        serde_json::from_str(&format!(r#"{{"id":"l",{level}}}"#)).unwrap();
    let group = "all".parse().unwrap();
    let mut settings = tierway_common::service::Settings::merge([(&group, &level)]);
    let mut read = Vec::new();
    for window in windows {
        let window: tierway_common::schema::policy::Window = serde_json::from_str(window).unwrap();
        settings.windows.push(window.id.clone());
        read.push(tierway_common::calendar::Calendar::new(&window, &jiff::tz::TimeZone::UTC).unwrap());
    }
    let mut here = Here::default();
    (here.settings, here.windows) = (settings, read);
    let (a, approve) = (update("a", &[]), decided(Decision::Approve, 0));
    let mut book = Book::default();
    let (state, detail) = (State::Needed, None);
    book.apply(Event::Observed { update: id("a"), at: at(0), state, detail });
    book.apply(Event::Offered { update: id("a"), at: at(0) });
    let now = Now {
        at: at(minute),
        facts: &Facts::default(),
        people,
        countdown: None,
        reachable: true,
        leases: &BTreeMap::new(),
        limits: &Limits::default(),
        stale: None,
    };
    super::plan(&[finding(&a, &Verdict::Needed, Some(&approve))], &here, &book, &now)
}

// Minute 0 is a Friday, 08:00.
const MORNING: &str = r#"{"id":"morning","opens":[{"on":"every","at":"09:00:00"}],"length":"1h"}"#;
const SHORT: &str = r#"{"id":"short","opens":[{"on":"every","at":"09:00:00"}],"length":"25min"}"#;
const LIMITED: &str =
    r#"{"id":"few","opens":[{"on":"every","at":"08:00:00"}],"length":"4h","at_once_max":2}"#;

#[test]
fn an_update_waits_for_its_window_and_begins_only_where_it_and_a_reboot_fit() {
    let nobody = People::nobody();
    let said = |level: &str, windows: &[&str], minute| {
        let plan = under(level, windows, &nobody, minute);
        plan.left_out.get(&id("a")).map_or_else(|| "installed".to_owned(), ToString::to_string)
    };
    let reboots = r#""reboot":"if_needed""#;
    let closed =
        "outside change windows; needs 20 min + 10 min for a reboot; next window Fri 2027-01-15 09:00 UTC";
    assert_eq!(said(reboots, &[MORNING], 0), closed);
    assert_eq!(said(reboots, &[MORNING], 60), "installed");
    assert_eq!(said(reboots, &[MORNING], 90), "installed");
    assert_eq!(
        said(reboots, &[MORNING], 91),
        "does not fit: needs 20 min + 10 min for a reboot, 29 min left; next window Sat 2027-01-16 09:00 UTC"
    );
    assert_eq!(said(r#""reboot":"suppress""#, &[MORNING], 100), "installed");
    assert_eq!(
        said(reboots, &[SHORT], 60),
        "does not fit: needs 20 min + 10 min for a reboot, 25 min left; no window that comes is long enough"
    );
    assert_eq!(
        said(r#""deadline":"1h","at_deadline":"wait""#, &[MORNING], 200).split(';').next(),
        Some("outside change windows")
    );
    assert_eq!(said(r#""deadline":"1h","at_deadline":"install""#, &[MORNING], 200), "installed");
}

#[test]
fn a_step_that_would_not_fit_any_more_does_not_begin() {
    let plan = under(r#""reboot":"if_needed""#, &[MORNING], &People::nobody(), 60);
    let [step] = &plan.steps[..] else { panic!("{plan:?}") };
    assert_eq!(step.limit_at(at(90)), Some(Duration::from_secs(20 * 60)));
    assert_eq!(step.limit_at(at(91)), None);
    assert_eq!(step.limit_at(at(59)), None);
}

#[test]
fn a_countdown_begins_so_long_before_the_window_that_it_ends_as_it_opens() {
    let people = consent::tests::somebody();
    let notify = r#""experience":"notify","grace":"0s","reboot":"suppress""#;
    let plan = under(notify, &[MORNING], &people, 0);
    assert_eq!((plan.countdown, plan.next), (false, Some(at(45))));
    let plan = under(notify, &[MORNING], &people, 45);
    assert!(plan.countdown && plan.steps.is_empty());
    assert_eq!(plan.left_out[&id("a")], Reason::Countdown { until: at(60) });
}

#[test]
fn a_window_that_limits_how_many_are_down_asks_for_a_lease_before_anybody_is_warned() {
    let people = consent::tests::somebody();
    let plan = under(r#""experience":"notify","reboot":"suppress""#, &[LIMITED], &people, 1);
    let minutes = SignedDuration::from_mins(15 + 20);
    assert_eq!(plan.lease, Some(LeaseNeed { window: "few".parse().unwrap(), length: minutes }));
    assert_eq!(
        (plan.countdown, plan.left_out[&id("a")].waiting()),
        (false, tierway_common::schema::Waiting::Lease)
    );
}
