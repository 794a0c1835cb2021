use std::path::PathBuf;

use tierway_common::schema::Severity;

use super::*;
use crate::sources::{
    fetch::HttpFetch,
    testing::{Manner, Server},
};

const RETRY: Retry = Retry { attempts: 2, delay: Duration::from_millis(1) };

fn now() -> Timestamp {
    "2026-11-24T12:00:00Z".parse().unwrap()
}

fn source(urls: &[&str], since: Option<&str>) -> Msrc<HttpFetch> {
    let config = Config {
        name: "msrc".parse().unwrap(),
        urls: urls.iter().map(|url| (*url).to_owned()).collect(),
        since: since.map(|date| date.parse().unwrap()),
        plain_http: PlainHttp::Accept,
        proxy: None,
        timeout: Duration::from_secs(10),
    };
    Msrc::new(config, HttpFetch::new(None, Duration::from_secs(10)).unwrap(), RETRY)
}

/// A month with one vulnerability, of which two products are rated differently and fixed by two articles.
fn month(name: &str, first: &str, second: &str) -> String {
    format!(
        r#"<cvrf:cvrfdoc xmlns:cvrf="c" xmlns:vuln="v"><vuln:Vulnerability Ordinal="1"><vuln:CVE>{name}</vuln:CVE>
        <vuln:Threats>
          <vuln:Threat Type="Impact"><vuln:Description>Spoofing</vuln:Description></vuln:Threat>
          <vuln:Threat Type="Severity"><vuln:Description>Important</vuln:Description><vuln:ProductID>1</vuln:ProductID></vuln:Threat>
          <vuln:Threat Type="Severity"><vuln:Description>Critical</vuln:Description><vuln:ProductID>2</vuln:ProductID></vuln:Threat>
        </vuln:Threats><vuln:Remediations>
          <vuln:Remediation Type="Vendor Fix"><vuln:Description>{first}</vuln:Description>
            <vuln:Supercedence>5000001, 5000000</vuln:Supercedence><vuln:ProductID>1</vuln:ProductID></vuln:Remediation>
          <vuln:Remediation Type="Vendor Fix"><vuln:Description>{second}</vuln:Description><vuln:ProductID>2</vuln:ProductID></vuln:Remediation>
          <vuln:Remediation Type="Vendor Fix"><vuln:Description>Release Notes</vuln:Description></vuln:Remediation>
          <vuln:Remediation Type="Workaround"><vuln:Description>5999999</vuln:Description></vuln:Remediation>
        </vuln:Remediations></vuln:Vulnerability></cvrf:cvrfdoc>"#
    )
}

fn advisory(name: &str, article: &str) -> String {
    format!(
        r#"{{"document":{{"category":"csaf_security_advisory","aggregate_severity":{{"text":"Moderate"}}}},
        "vulnerabilities":[{{"cve":"{name}","remediations":[
        {{"category":"vendor_fix","details":"{article}:Security Update:https://support.microsoft.com/help/{article}"}},
        {{"category":"vendor_fix","details":"1.3.195.45:Security Update:https://docs.microsoft.com/x"}},
        {{"category":"mitigation","details":"5999999:x"}}]}}]}}"#
    )
}

fn said(state: &State) -> Vec<String> {
    let all = state.advisories();
    let line = |(article, fix): (&String, &super::super::advisories::Fix)| {
        let join =
            |names: &std::collections::BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(",");
        format!("{article} {} {:?} {}", join(&fix.closes), fix.severity, join(&fix.supersedes))
            .trim_end()
            .to_owned()
    };
    all.0.iter().map(line).collect()
}

#[tokio::test]
async fn an_article_closes_what_all_documents_say_and_is_as_bad_as_its_products() {
    let server = Server::start().await;
    server.put("/month.xml", month("CVE-2026-0001", "5000002", "5000003"));
    server.put("/advisory.json", advisory("CVE-2026-0002", "5000002"));
    let urls = ["month.xml", "advisory.json"].map(|name| format!("{}/{name}", server.url));
    let source = source(&[&urls[0], &urls[1]], None);
    let synced = source.sync(&State::default(), now()).await.unwrap();
    assert!(!synced.unchanged && synced.catalogue.is_empty());
    assert_eq!(
        said(&synced.state),
        [
            "KB5000002 CVE-2026-0001,CVE-2026-0002 Important KB5000000,KB5000001",
            "KB5000003 CVE-2026-0001 Critical"
        ]
    );
    assert_eq!(synced.stats.updates, 2);

    // Nothing new: asked conditionally, nothing fetched.
    server.seen();
    let again = source.sync(&synced.state, now()).await.unwrap();
    assert!(again.unchanged && again.state == synced.state);
    assert_eq!(server.seen().iter().map(|seen| seen.status).collect::<Vec<_>>(), [304, 304]);

    // One that cannot be had or read keeps what was known, the other counts.
    server.behave("/month.xml", &[Manner::Status(500)]);
    server.put("/advisory.json", advisory("CVE-2026-0003", "5000002"));
    let partly = source.sync(&again.state, now()).await.unwrap();
    assert_eq!(said(&partly.state)[0], "KB5000002 CVE-2026-0001,CVE-2026-0003 Important KB5000000,KB5000001");
    server.put("/advisory.json", "{\"document\":{\"category\":\"x\"}}");
    assert_eq!(said(&source.sync(&partly.state, now()).await.unwrap().state), said(&partly.state));
}

#[tokio::test]
async fn a_list_leads_to_the_months_since_a_day_and_each_is_fetched_again_only_when_the_list_says_so() {
    let server = Server::start().await;
    let list = |changed: &str| {
        let entry = |name: &str, first: &str, changed: &str| {
            let url = format!("{}/{name}", server.url);
            format!(
                r#"{{"ID":"x","CvrfUrl":"{url}","InitialReleaseDate":"{first}","CurrentReleaseDate":"{changed}"}}"#
            )
        };
        let entries = [
            entry("old", "2016-04-12T07:00:00Z", "2018-04-10T07:00:00Z"),
            entry("a", "2026-09-08T07:00:00Z", "2026-09-09T07:00:00Z"),
            entry("b", "2026-10-13T07:00:00Z", changed),
        ];
        format!(r#"{{"@odata.context":"x","value":[{}]}}"#, entries.join(","))
    };
    server.put("/updates", list("2026-10-14T07:00:00Z"));
    server.put("/a", month("CVE-2026-0001", "5000002", "5000003"));
    server.put("/b", month("CVE-2026-0002", "5000004", "5000005"));
    let url = format!("{}/updates", server.url);
    let source = source(&[&url], Some("2026-01-01"));
    let synced = source.sync(&State::default(), now()).await.unwrap();
    assert_eq!(said(&synced.state).len(), 4);
    let paths = |server: &Server| server.seen().into_iter().map(|seen| seen.path).collect::<Vec<_>>();
    assert_eq!(paths(&server), ["/updates", "/a", "/b"]);
    assert!(source.sync(&synced.state, now()).await.unwrap().unchanged);
    assert_eq!(paths(&server), ["/updates"]);
    server.put("/updates", list("2026-11-01T07:00:00Z"));
    server.put("/b", month("CVE-2026-0009", "5000004", "5000005"));
    let later = source.sync(&synced.state, now()).await.unwrap();
    assert_eq!(paths(&server), ["/updates", "/b"]);
    assert!(said(&later.state).contains(&"KB5000005 CVE-2026-0009 Critical".to_owned()));
}

#[tokio::test]
async fn a_folder_is_all_documents_in_it_and_one_that_goes_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.xml"), month("CVE-2026-0001", "5000002", "5000003")).unwrap();
    fs::write(dir.path().join("b.json"), advisory("CVE-2026-0002", "5000004")).unwrap();
    fs::write(dir.path().join("notes.txt"), "no document").unwrap();
    let source = source(&[dir.path().to_str().unwrap()], None);
    let synced = source.sync(&State::default(), now()).await.unwrap();
    assert_eq!(synced.state.documents.len(), 2);
    fs::remove_file(dir.path().join("a.xml")).unwrap();
    let after = source.sync(&synced.state, now()).await.unwrap();
    assert_eq!(said(&after.state), ["KB5000004 CVE-2026-0002 Moderate"]);
    fs::write(dir.path().join("b.json"), "nonsense").unwrap();
    let error = source.sync(&State::default(), now()).await.unwrap_err();
    assert!(Chain(&error).to_string().contains("is no CVRF document"), "{}", Chain(&error));
}

#[test]
fn an_address_that_anybody_can_answer_for_is_refused() {
    let mut config = source(&["http://msrc.example/a"], None).config().clone();
    config.plain_http = PlainHttp::Refuse;
    assert!(config.check().unwrap_err().to_string().contains("is not authenticated"));
    config.urls = vec!["a.xml".to_owned()];
    assert!(config.check().unwrap_err().to_string().contains("must be an https address or an absolute path"));
}

/// Microsoft's own documents, where they are beside the checkout.
#[tokio::test]
async fn the_documents_that_microsoft_really_publishes_are_read() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/msrc");
    if !folder.is_dir() {
        println!("skipped: reading Microsoft's advisories, since there are none in `../shared/data`");
        return;
    }
    let folders = ["cvrf", "csaf"].map(|name| folder.join(name).to_str().unwrap().to_owned());
    // The list leads to the network, which is not there for a test.
    let (cvrf, csaf) = (format!("{}/2024-Mar.xml", folders[0]), &folders[1]);
    let synced = source(&[&cvrf, csaf], None).sync(&State::default(), now()).await.unwrap();
    let advisories = synced.state.advisories();
    println!("{} documents, {} articles", synced.state.documents.len(), advisories.0.len());
    assert_eq!(synced.state.documents.len(), 2);
    let fix = &advisories.0["KB5036451"];
    assert!(fix.closes.contains("CVE-2024-21392") && fix.severity == Severity::Important, "{fix:?}");
}
