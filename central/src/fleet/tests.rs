use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use ring::rand::SystemRandom;
use tierway_common::{
    facts::Facts,
    schema::{Approval, Decision, Group, Members, Severity, Update, Waiting},
    trust::keys::SigningKey,
};

use super::{
    endpoints::{EndpointFilter, Place},
    patches::{PatchFilter, Standing},
    status::{Filter, FleetStatus, status},
    *,
};
use crate::{
    catalog::tests::{Bench, bench, blobs, facts, update},
    compliance::index::Mark,
    inventory::facts as kept,
    model::Write,
    state::State,
    store::tables::RelayRecord,
};

use UpdateState::{Failed, Installed, Needed, RebootPending, Unknown};

fn change(state: &State, writes: Vec<Write>) {
    state
        .change(|_, change| {
            writes.into_iter().for_each(|write| change.write(write));
            Ok::<_, StoreError>(())
        })
        .unwrap();
}

struct Host<'a> {
    name: &'a str,
    site: &'a str,
    facts: Facts,
    last_report: Option<Timestamp>,
    states: &'a [(u32, UpdateState)],
}

fn enrol(bench: &Bench, host: &Host<'_>) {
    let number = bench.state.model().next_endpoint().unwrap();
    let at = bench.clock.now();
    let mut new = Record::default();
    for (update, state) in host.states {
        let entry = Entry {
            update: *update,
            state: *state,
            estimated: false,
            since: 1_000,
            detected: Some(900),
            authorized: None,
            applied: None,
            detail: None,
            progress: Default::default(),
        };
        new.set(entry).unwrap();
    }
    let id = format!("id-{number}").parse().unwrap();
    let key = SigningKey::generate(&SystemRandom::new()).unwrap().public();
    let record = EndpointRecord {
        name: host.name.to_owned(),
        revoked: host.name.starts_with("gone"),
        last_report: host.last_report,
        assessed: !host.states.is_empty(),
        facts: Some(kept::summary(&host.facts, at)),
        ..EndpointRecord::enrolled(number, id, host.site.parse().unwrap(), key, at)
    };
    change(
        &bench.state,
        vec![
            Write::Endpoint(Arc::new(record)),
            Write::Facts(number, kept::pack(&host.facts).unwrap()),
            Write::States { endpoint: number, old: Arc::default(), new: Arc::new(new) },
        ],
    );
}

/// An endpoint with these packages and no states.
pub(crate) fn enrol_for_tests(bench: &Bench, name: &str, packages: &[(&str, &str)]) {
    let facts = facts(packages);
    enrol(bench, &Host { name, site: "lyon", facts, last_report: None, states: &[] });
}

/// Updates 0 (a), 1 (b, critical), 2 (c, superseded); hosts at two sites in several states.
fn fleet() -> Bench {
    let bench = bench();
    let critical = Update { severity: Severity::Critical, ..update("b", "2") };
    let superseded = Update { superseded_by: vec!["debian-12/a_2".parse().unwrap()], ..update("c", "1") };
    bench.apply(&[update("a", "2"), critical, superseded]);
    let now = bench.clock.now();
    let ago = |hours| Some(now - SignedDuration::from_hours(hours));
    let host = |name, site, last_report, states| Host {
        name,
        site,
        facts: facts(&[("a", "1")]),
        last_report,
        states,
    };
    enrol(&bench, &host("web-1", "lyon", ago(1), &[(0, Needed), (1, Installed), (2, Needed)]));
    enrol(&bench, &host("web-2", "lyon", ago(12), &[(0, Installed), (1, RebootPending), (2, Needed)]));
    enrol(&bench, &host("db-1", "osaka", ago(48), &[(0, Failed), (1, Needed)]));
    enrol(&bench, &host("db-2", "osaka", None, &[]));
    enrol(&bench, &host("gone-1", "osaka", ago(1), &[(0, Needed)]));
    let group = |id: &str, priority, members| {
        Write::Group(Group { id: id.parse().unwrap(), priority, members, level: None })
    };
    let approval = |group: &str, decision| {
        Write::Approval(Approval {
            group: group.parse().unwrap(),
            update: "debian-12/a_2".parse().unwrap(),
            decision,
            at: now,
            renewed: None,
            by: "operator:admin".to_owned(),
            rings: None,
        })
    };
    change(
        &bench.state,
        vec![
            group("everyone", 0, Members::Everyone),
            group("japan", 5, Members::Site("osaka".parse().unwrap())),
            approval("everyone", Decision::Approve),
            approval("japan", Decision::Decline),
            Write::Relay(Arc::new(RelayRecord {
                id: "r1".parse().unwrap(),
                name: "relay".to_owned(),
                site: "lyon".parse().unwrap(),
                enrolled_at: now,
                serial: String::new(),
                certificate_expires: now,
                key: SigningKey::generate(&SystemRandom::new()).unwrap().public(),
                revoked: false,
                agent_version: String::new(),
                last_seen: ago(2),
                timestamp_version: 0,
                versions: vec![],
                health: Default::default(),
            })),
        ],
    );
    bench
}

fn ask(bench: &Bench, filter: &Filter) -> FleetStatus {
    status(&bench.state.model(), filter, bench.clock.now()).unwrap()
}

#[test]
fn the_fleet_is_counted_without_revoked_endpoints_and_superseded_updates() {
    let bench = fleet();
    let status = ask(&bench, &Filter::default());
    assert_eq!((status.endpoints, status.assessed, status.compliant, status.updates), (4, 3, 1, 2));
    assert_eq!((status.reporting, status.stale, status.lost), (1, 1, 2));
    let counts =
        Counts { needed: 2, needed_approved: 1, installed: 2, failed: 1, unknown: 0, reboot_pending: 1 };
    assert_eq!(status.counts, counts);
    let lyon = status.sites[&"lyon".parse().unwrap()];
    assert_eq!(
        (lyon.endpoints, lyon.compliant, lyon.needed, lyon.relays, lyon.relays_fresh),
        (2, 1, 1, 1, 0)
    );
    let japan = status.groups[&"japan".parse().unwrap()];
    assert_eq!((japan.endpoints, japan.compliant, japan.needed, japan.failed), (2, 0, 1, 1));
}

#[test]
fn an_endpoint_of_which_all_is_unknown_is_not_assessed_and_one_unknown_update_takes_nothing_from_what_is_known()
 {
    let bench = fleet();
    let host = |name, states| Host { name, site: "lyon", facts: facts(&[]), last_report: None, states };
    enrol(&bench, &host("blind", &[(0, Unknown), (1, Unknown)]));
    enrol(&bench, &host("half", &[(0, Installed), (1, Unknown)]));
    let status = ask(&bench, &Filter::default());
    assert_eq!((status.endpoints, status.assessed, status.compliant, status.counts.unknown), (6, 4, 2, 3));
    let critical = Filter { severity: Some(Severity::Critical), ..Filter::default() };
    let of_critical = ask(&bench, &critical);
    assert_eq!((of_critical.assessed, of_critical.compliant, of_critical.counts.unknown), (3, 2, 2));
}

#[test]
fn a_filter_leaves_out_what_is_not_asked_for_and_names_what_does_not_exist() {
    let bench = fleet();
    let lyon = Filter { site: Some("lyon".parse().unwrap()), ..Filter::default() };
    let of_lyon = ask(&bench, &lyon);
    assert_eq!((of_lyon.endpoints, of_lyon.counts.needed, of_lyon.sites.len()), (2, 1, 1));
    let critical = Filter { severity: Some(Severity::Critical), ..Filter::default() };
    let of_critical = ask(&bench, &critical);
    assert_eq!((of_critical.updates, of_critical.counts.needed, of_critical.compliant), (1, 1, 2));
    let japan = Filter { group: Some("japan".parse().unwrap()), ..Filter::default() };
    assert_eq!(ask(&bench, &japan).groups.len(), 1);
    for (filter, expected) in [
        (Filter { site: Some("mars".parse().unwrap()), ..Filter::default() }, "there is no site `mars`"),
        (Filter { group: Some("x".parse().unwrap()), ..Filter::default() }, "there is no group `x`"),
    ] {
        let error = status(&bench.state.model(), &filter, bench.clock.now()).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

fn list(bench: &Bench, wanted: &EndpointFilter) -> Vec<String> {
    let page = endpoints::list(&bench.state, wanted).unwrap();
    page.rows.iter().map(|row| row.record.name.clone()).collect()
}

#[test]
fn endpoints_are_listed_by_name_and_by_what_they_lack() {
    let bench = fleet();
    let all = EndpointFilter { limit: 10, ..EndpointFilter::default() };
    assert_eq!(list(&bench, &all), ["db-1", "db-2", "gone-1", "web-1", "web-2"]);
    let needing = |needing| EndpointFilter { needing: Some(needing), ..all.clone() };
    assert_eq!(list(&bench, &needing(true)), ["db-1", "web-1"]);
    assert_eq!(list(&bench, &needing(false)), ["db-2", "web-2"]);
    assert_eq!(
        list(&bench, &EndpointFilter { name: Some("WEB".to_owned()), ..all.clone() }),
        ["web-1", "web-2"]
    );
    let page = endpoints::list(&bench.state, &all).unwrap();
    let counts = Counts { needed: 1, needed_approved: 1, installed: 1, ..Counts::default() };
    assert_eq!(page.rows[3].counts, counts);
    assert_eq!(page.rows[0].groups, ["everyone", "japan"]);
}

#[test]
fn pages_together_are_the_whole_list_each_once_also_with_equal_names() {
    let bench = fleet();
    for _ in 0..5 {
        enrol(
            &bench,
            &Host { name: "web-1", site: "lyon", facts: facts(&[]), last_report: None, states: &[] },
        );
    }
    for limit in 1..12 {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let wanted = EndpointFilter { limit, after, ..EndpointFilter::default() };
            let page = endpoints::list(&bench.state, &wanted).unwrap();
            assert!(page.rows.len() <= limit);
            seen.extend(page.rows.iter().map(|row| row.record.number));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen.len(), 10, "{limit}");
        assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 10, "{limit}");
    }
}

#[test]
fn a_name_that_several_have_is_refused_with_the_id_of_each() {
    let bench = fleet();
    enrol(&bench, &Host { name: "web-1", site: "lyon", facts: facts(&[]), last_report: None, states: &[] });
    let model = bench.state.model();
    assert_eq!(endpoint(&model, "db-1").unwrap().number, 2);
    assert_eq!(endpoint(&model, "id-2").unwrap().number, 2);
    let error = |name| endpoint(&model, name).unwrap_err().to_string();
    assert_eq!(error("web-1"), "`web-1` names 2 endpoints: web-1 (id-0), web-1 (id-5)");
    assert_eq!(error("nobody"), "there is no endpoint `nobody`");
    for name in ["debian-12/a_2", "a_2", "a"] {
        assert_eq!(update_of(&model, name), "debian-12/a_2");
    }
    assert!(super::update(&model, "zzz").is_err());
}

fn update_of(model: &Model, name: &str) -> String {
    super::update(model, name).unwrap().id.to_string()
}

#[test]
fn what_was_said_to_wait_for_an_approval_does_not_once_it_is_approved() {
    let bench = fleet();
    // For web-1 a is approved, for nobody b.
    for (name, update) in [("web-1", 0), ("db-1", 1)] {
        let number = endpoint(&bench.state.model(), name).unwrap().number;
        let old = bench.state.states(number).unwrap();
        let mut new = old.clone();
        let mut entry = new.get(update).unwrap().clone();
        entry.progress.waiting = Some(Waiting::Approval);
        new.set(entry).unwrap();
        change(
            &bench.state,
            vec![Write::States { endpoint: number, old: Arc::new(old), new: Arc::new(new) }],
        );
    }
    let found = status(&bench.state.model(), &Filter::default(), bench.clock.now()).unwrap();
    assert_eq!(found.marks, [(Mark::Waits(Waiting::Approval), 1)]);
}

#[test]
fn patches_are_listed_by_how_they_stand() {
    let bench = fleet();
    let dir = tempfile::tempdir().unwrap();
    let payloads = blobs(dir.path());
    let names = |wanted: PatchFilter| {
        let page = patches::list(&bench.state.model(), &payloads, &wanted).unwrap();
        page.rows.iter().map(|row| row.record.id.name().to_owned()).collect::<Vec<_>>()
    };
    let all = PatchFilter { limit: 10, ..PatchFilter::default() };
    assert_eq!(names(all.clone()), ["a_2", "b_2"]);
    for (standing, expected) in [
        (Standing::Needed, vec!["a_2", "b_2"]),
        (Standing::Approved, vec!["a_2"]),
        (Standing::Unapproved, vec!["b_2"]),
        (Standing::Failed, vec!["a_2"]),
        (Standing::Unknown, vec![]),
    ] {
        assert_eq!(names(PatchFilter { standing: Some(standing), ..all.clone() }), expected, "{standing:?}");
    }
    assert_eq!(names(PatchFilter { severity: Some(Severity::Critical), ..all.clone() }), ["b_2"]);
    let named = PatchFilter { name: Some("C_1".to_owned()), ..all.clone() };
    assert_eq!(names(named), ["c_1"], "superseded, and asked for by name");
    let first = PatchFilter { limit: 1, ..all.clone() };
    let page = patches::list(&bench.state.model(), &payloads, &first).unwrap();
    assert_eq!(names(PatchFilter { after: page.next, ..all }), ["b_2"]);
    assert_eq!(page.rows[0].payloads, patches::Presence::Absent);
    assert_eq!((page.rows[0].needed, page.rows[0].installed, page.rows[0].failed), (1, 1, 1));
    payloads.put(b"the package a 2").unwrap();
    let page = patches::list(&bench.state.model(), &payloads, &first).unwrap();
    assert_eq!(page.rows[0].payloads, patches::Presence::Complete);
}

#[test]
fn why_gives_verdict_proof_and_decision() {
    let bench = fleet();
    let why = |endpoint, patch| why::why(&bench.state, &bench.trees, endpoint, patch).unwrap();
    let answer = why("web-1", "a");
    assert_eq!(answer.summary, "web-1 needs a_2 and does not have it");
    assert!(answer.approval.starts_with("approved for group `everyone` by operator:admin at "));
    assert!(answer.explained.unwrap().installed.is_some());
    assert_eq!(answer.reported.unwrap().authorized(), Some(1_795_168_800));
    assert!(why("db-1", "a").approval.starts_with("declined for group `japan`"));
    let answer = why("web-1", "b");
    assert_eq!(
        (answer.summary.as_str(), answer.approval.as_str()),
        ("b_2 is not for web-1", "not decided for any of its groups")
    );
}

#[test]
fn who_has_a_patch_is_listed_by_name_with_its_state() {
    let bench = fleet();
    let update = super::update(&bench.state.model(), "a").unwrap().clone();
    let page = |state, after: Option<&Place>| {
        let page = endpoints::with_patch(&bench.state, &update, state, after, 2).unwrap();
        let rows = page.rows.into_iter().map(|(endpoint, patch)| (endpoint.name.clone(), patch.entry.state));
        (rows.collect::<Vec<_>>(), page.next)
    };
    assert_eq!(page(Some(Needed), None), (vec![("web-1".to_owned(), Needed)], None));
    let (first, next) = page(None, None);
    assert_eq!(first, [("db-1".to_owned(), Failed), ("web-1".to_owned(), Needed)], "the first two of three");
    let next: Option<Place> = next.map(|next| next.to_string().parse().unwrap());
    assert_eq!(page(None, next.as_ref()), (vec![("web-2".to_owned(), Installed)], None));
    assert_eq!(page(Some(Unknown), None), (vec![], None));
}

#[test]
fn endpoints_of_one_name_are_each_listed_once_over_the_edge_of_a_page() {
    let bench = fleet();
    for site in ["lyon", "osaka", "lyon"] {
        let states = &[(0, Needed)];
        enrol(&bench, &Host { name: "web-1", site, facts: facts(&[("a", "1")]), last_report: None, states });
    }
    let update = super::update(&bench.state.model(), "a").unwrap().clone();
    let (mut numbers, mut after) = (Vec::new(), None);
    loop {
        let page = endpoints::with_patch(&bench.state, &update, Some(Needed), after.as_ref(), 1).unwrap();
        numbers.extend(page.rows.iter().map(|(endpoint, _)| endpoint.number));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(numbers, [0, 5, 6, 7]);
    assert!("web-1".parse::<Place>().is_err(), "what no page said is no place");
}
