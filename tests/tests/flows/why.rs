//! Why an update is needed somewhere or not: asked at central and at the computer itself.

use tierway_common::rules::explain::{Explained, Node, Value};
use tierway_endpoint::local;
use tierway_proto::v1;
use tierway_tests::{
    archive::Package,
    fleet::{Endpoint, Fleet},
    roots::made_up,
};

/// What is asked for, and what decides.
struct Case {
    patch: &'static str,
    verdict: &'static str,
    /// In central's sentence.
    summary: &'static str,
    /// The fact that was read, and its value.
    fact: (&'static str, Option<&'static str>),
    /// What would change the verdict.
    change: &'static str,
}

const STATUS: &str = "/var/lib/dpkg/status";
const CASES: [Case; 4] = [
    Case {
        patch: "debian-12/lacking_2.0",
        verdict: "needed",
        summary: "needs lacking_2.0 and does not have it",
        fact: ("package:deb:lacking:amd64", Some("1.0")),
        change: "lacking:amd64 at 2.0 or newer",
    },
    Case {
        patch: "debian-12/current_2.0",
        verdict: "installed",
        summary: "has current_2.0 or something newer",
        fact: ("package:deb:current:amd64", Some("2.1")),
        change: "current",
    },
    Case {
        patch: "debian-12/elsewhere_2.0",
        verdict: "not applicable",
        summary: "elsewhere_2.0 is not for ",
        fact: ("package:deb:elsewhere", None),
        change: "elsewhere",
    },
    Case {
        patch: "debian-12/odd_2.0",
        verdict: "unknown",
        summary: "it cannot be decided: ",
        fact: ("package:deb:odd:amd64", Some("1_0")),
        change: "package:deb:odd:amd64 known",
    },
];

async fn fleet() -> (Fleet, Endpoint) {
    let mut fleet = Fleet::start().await;
    for name in ["lacking", "current", "elsewhere", "odd"] {
        fleet.archive.update(&Package::new(name, "2.0"));
    }
    fleet.archive.publish();
    fleet.sync().await;
    let root = fleet.folder("root");
    made_up(&root, &[("lacking", "1.0"), ("current", "2.1"), ("odd", "1_0")]);
    let mut endpoint = fleet.enroll("web1", "osaka", fleet.address, &root).await;
    endpoint.start().await;
    let done = endpoint.check().await;
    assert_eq!((done.needed, done.problems), (1, Vec::<String>::new()));
    (fleet, endpoint)
}

fn facts(tree: &Explained) -> Vec<&Explained> {
    let mut found: Vec<_> = tree.children.iter().flat_map(facts).collect();
    if tree.node == Node::Fact {
        found.push(tree);
    }
    found
}

/// Checks that the deciding fact is there with its value and where it was read.
fn check_trees(case: &Case, applicable: &str, installed: &str) {
    let trees: Vec<Explained> = [applicable, installed]
        .iter()
        .filter(|json| !json.is_empty())
        .map(|json| serde_json::from_str(json).unwrap())
        .collect();
    let all: Vec<_> = trees.iter().flat_map(facts).collect();
    let (key, value) = case.fact;
    let deciding: Vec<_> =
        all.iter().filter(|fact| fact.key.as_deref().is_some_and(|read| read.starts_with(key))).collect();
    assert!(!deciding.is_empty(), "{}: {all:#?}", case.patch);
    for fact in &deciding {
        assert_eq!(fact.found.as_deref(), value, "{}: {fact:#?}", case.patch);
        assert_eq!(fact.source.as_deref(), Some(STATUS), "{}: {fact:#?}", case.patch);
        assert_eq!(fact.reason.is_some(), fact.value == Value::Unknown, "{}: {fact:#?}", case.patch);
    }
    let decided = match case.verdict {
        "unknown" => deciding.iter().any(|fact| fact.reason.as_ref().is_some_and(|why| why.contains("1_0"))),
        _ => deciding.iter().all(|fact| fact.value != Value::Unknown),
    };
    assert!(decided, "{}: {deciding:#?}", case.patch);
}

fn check_change(case: &Case, would_change: &[String]) {
    assert!(would_change.iter().any(|way| way.contains(case.change)), "{}: {would_change:?}", case.patch);
}

#[tokio::test(flavor = "multi_thread")]
async fn central_says_what_decides_where_it_was_read_and_what_would_change_it() {
    let (fleet, endpoint) = fleet().await;
    fleet.until_state(&endpoint.id, CASES[0].patch, "needed").await;
    for case in CASES {
        let request = v1::WhyRequest { endpoint: endpoint.id.clone(), patch: case.patch.to_owned() };
        let why = fleet.admin().await.why(request).await.unwrap().into_inner();
        assert_eq!((why.patch.as_str(), why.verdict.as_str()), (case.patch, case.verdict));
        assert_eq!(why.reported_state, case.verdict, "{}: as the endpoint itself sees it", case.patch);
        assert!(why.summary.contains(case.summary), "{}", why.summary);
        assert!(why.endpoint.contains(&endpoint.id) && why.facts_at > 0 && why.reported_at > 0, "{why:?}");
        assert_eq!(why.approval, "not decided for any of its groups");
        check_trees(&case, &why.applicable_json, &why.installed_json);
        check_change(&case, &why.would_change);
    }
    fleet.approve(&["lacking"]).await;
    let request = v1::WhyRequest { endpoint: endpoint.id.clone(), patch: "lacking".to_owned() };
    let why = fleet.admin().await.why(request).await.unwrap().into_inner();
    assert!(
        why.approval.starts_with("approved for group `everyone` by operator:tester at "),
        "{}",
        why.approval
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_cannot_be_decided_is_shown_as_approved_when_it_is() {
    let (fleet, endpoint) = fleet().await;
    for approved in [false, true] {
        if approved {
            fleet.approve(&["lacking", "odd"]).await;
            endpoint.check().await;
        }
        let status = endpoint.status();
        let shown: Vec<_> =
            status.patches.iter().map(|row| (row.patch.as_str(), row.state.as_str(), row.approved)).collect();
        let odd = ("debian-12/odd_2.0", "unknown", approved);
        assert!(shown.contains(&odd), "{shown:?}");
    }
    let why = endpoint.why("odd").await.unwrap();
    assert!(why.approval.starts_with("approved for group `everyone`"), "{}", why.approval);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_computer_itself_gives_the_same_answer_over_its_socket() {
    let (_fleet, endpoint) = fleet().await;
    let mut local = local::connect(&endpoint.config.local_socket).await.unwrap();
    for case in CASES {
        let request = v1::LocalWhyRequest { patch: case.patch.to_owned() };
        let why = local.why(request).await.unwrap().into_inner();
        assert_eq!((why.patch.as_str(), why.verdict.as_str()), (case.patch, case.verdict));
        check_trees(&case, &why.applicable_json, &why.installed_json);
        check_change(&case, &why.would_change);
        // A part of its name will do.
        let name = case.patch.strip_prefix("debian-12/").unwrap();
        for part in [&name[..name.len() - 4], &name[1..]] {
            let request = v1::LocalWhyRequest { patch: part.to_owned() };
            assert_eq!(local.why(request).await.unwrap().into_inner().patch, case.patch);
        }
    }
    for (asked, parts) in [
        ("_2.0", &["`_2.0` names 4 updates: ", "debian-12/current_2.0", "debian-12/odd_2.0"][..]),
        ("nothing", &["no update published for this computer is named `nothing`"]),
    ] {
        let error = local.why(v1::LocalWhyRequest { patch: asked.to_owned() }).await.unwrap_err();
        assert!(parts.iter().all(|part| error.message().contains(part)), "{}", error.message());
    }
    let plan = local.plan(v1::LocalPlanRequest {}).await.unwrap().into_inner();
    assert!(plan.steps.is_empty() && !plan.left_out.is_empty(), "{plan:?}");
    assert!(plan.left_out.iter().all(|left| !left.waiting.is_empty() && !left.reason.is_empty()), "{plan:?}");
    let reboot = plan.settings.iter().find(|setting| setting.name == "reboot").unwrap();
    assert_eq!((reboot.value.as_str(), reboot.origin.as_str()), ("\"suppress\"", "built in"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_or_a_part_of_one_does_wherever_an_id_does_and_one_that_names_several_is_refused_with_them() {
    let (fleet, _endpoint) = fleet().await;
    let root = fleet.folder("other");
    let mut ids = Vec::new();
    // Enrolled and not heard of, so that they are called as they enrolled.
    for name in ["tokyo-1", "tokyo-2", "lone.example"] {
        ids.push(fleet.enroll(name, "tokyo", fleet.address, &root).await.id);
    }
    let mut admin = fleet.admin().await;
    for (asked, id) in [
        (ids[0].as_str(), Ok(&ids[0])),
        ("tokyo-1", Ok(&ids[0])),
        ("lone", Ok(&ids[2])),
        ("yo-2", Ok(&ids[1])),
        ("tokyo", Err(&["`tokyo` names 2 endpoints: ", "tokyo-1 (", &ids[0], "tokyo-2 (", &ids[1]][..])),
        ("nobody", Err(&["there is no endpoint `nobody`"][..])),
        ("", Err(&["there is no endpoint ``"][..])),
    ] {
        let request = v1::GetEndpointRequest { name_or_id: asked.to_owned() };
        match (admin.get_endpoint(request).await, id) {
            (Ok(found), Ok(id)) => assert_eq!(&found.into_inner().endpoint.unwrap().id, id, "{asked}"),
            (Err(error), Err(parts)) => {
                assert!(parts.iter().all(|part| error.message().contains(part)), "{}", error.message());
            }
            (found, _) => panic!("{asked}: {found:?}"),
        }
    }
    for (asked, patch) in [
        ("debian-12/lacking_2.0", Ok("debian-12/lacking_2.0")),
        ("lacking_2.0", Ok("debian-12/lacking_2.0")),
        ("lacking", Ok("debian-12/lacking_2.0")),
        ("lack", Ok("debian-12/lacking_2.0")),
        ("12/cur", Ok("debian-12/current_2.0")),
        ("_2.0", Err(&["`_2.0` names 4 patches: ", "debian-12/current_2.0", "debian-12/elsewhere_2.0"][..])),
        ("nothing", Err(&["there is no patch `nothing`"][..])),
    ] {
        let request = v1::GetPatchRequest { name_or_id: asked.to_owned() };
        match (admin.get_patch(request).await, patch) {
            (Ok(found), Ok(patch)) => assert_eq!(found.into_inner().patch.unwrap().id, patch, "{asked}"),
            (Err(error), Err(parts)) => {
                assert!(parts.iter().all(|part| error.message().contains(part)), "{}", error.message());
            }
            (found, _) => panic!("{asked}: {found:?}"),
        }
    }
    // As in the other calls that take names.
    let why = v1::WhyRequest { endpoint: "lone".to_owned(), patch: "lack".to_owned() };
    let why = admin.why(why).await.unwrap().into_inner();
    assert_eq!(
        (why.verdict.as_str(), why.summary.as_str()),
        ("unknown", "lone.example has not reported its facts yet")
    );
    let check = v1::CheckEndpointNowRequest { name_or_id: "yo-1".to_owned(), ..Default::default() };
    assert!(admin.check_endpoint_now(check).await.unwrap().into_inner().audit_sequence > 0);
    let decide = v1::DecidePatchesRequest {
        patches: vec!["lack".to_owned()],
        all_needed: false,
        group: "everyone".to_owned(),
        decision: "approve".to_owned(),
        ..v1::DecidePatchesRequest::default()
    };
    assert_eq!(admin.decide_patches(decide).await.unwrap().into_inner().patches, ["debian-12/lacking_2.0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_computer_for_which_nothing_is_published_is_not_called_compliant() {
    let (fleet, endpoint) = fleet().await;
    let root = fleet.folder("other");
    made_up(&root, &[("lacking", "1.0")]);
    let release = root.join("etc/os-release");
    let text = std::fs::read_to_string(&release).unwrap();
    std::fs::write(&release, text.replace("\"12\"", "\"99\"").replace("=12", "=99")).unwrap();
    let mut other = fleet.enroll("web2", "osaka", fleet.address, &root).await;
    other.start().await;
    let done = other.check().await;
    assert_eq!(done.problems, ["no catalogue of updates is published for debian 99 amd64"]);
    let mut admin = fleet.admin().await;
    let status = admin.get_status(v1::GetStatusRequest::default()).await.unwrap().into_inner();
    assert_eq!((status.endpoints, status.assessed, status.compliant), (2, 1, 0));
    other.stop().await;
    drop(endpoint);
}
