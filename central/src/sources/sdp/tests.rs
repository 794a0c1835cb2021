use std::{fs, path::Path};

use tierway_common::{
    facts::{Domain, Facts},
    rules::{Verdict, verdict},
    schema::{Install, Severity, Update, UpdateClass},
};

use super::*;
use crate::sources::{
    fetch::HttpFetch,
    testing::Server,
    windows::cabinet::tests::{Packing, cabinet},
};

const RETRY: Retry = Retry { attempts: 2, delay: Duration::from_millis(1) };

fn now() -> Timestamp {
    "2026-11-24T12:00:00Z".parse().unwrap()
}

fn config(url: &str) -> Config {
    toml::from_str(&format!(
        "name = \"vendor\"\ncatalogue = \"vendor\"\nurl = \"{url}\"\nplain_http = \"accept\"\ntimeout = \"10s\""
    ))
    .unwrap()
}

fn source(url: &str) -> Sdp<HttpFetch> {
    Sdp::new(config(url), HttpFetch::new(None, Duration::from_secs(10)).unwrap(), RETRY)
}

fn guid(number: u32) -> String {
    format!("00000000-0000-0000-0000-{number:012}")
}

/// A package that puts version `version` of a program below the folder of programs, and replaces others.
fn package(number: u32, version: &str, supersedes: &[u32]) -> String {
    let older: String =
        supersedes.iter().map(|number| format!("<sdp:PackageID>{}</sdp:PackageID>", guid(*number))).collect();
    let (id, item) = (guid(number), guid(number + 1000));
    format!(
        r#"<sdp:SoftwareDistributionPackage xmlns:sdp="s" xmlns:bar="b" xmlns:lar="l" xmlns:cmd="c">
        <sdp:Properties PackageID="{id}" CreationDate="2026-01-02T03:04:05" VendorName="Example">
          <sdp:ProductName>Tool</sdp:ProductName></sdp:Properties>
        <sdp:LocalizedProperties><sdp:Language>de</sdp:Language><sdp:Title>Werkzeug</sdp:Title></sdp:LocalizedProperties>
        <sdp:LocalizedProperties><sdp:Language>en</sdp:Language><sdp:Title>Tool {version}</sdp:Title></sdp:LocalizedProperties>
        <sdp:UpdateSpecificData MsrcSeverity="Important" UpdateClassification="Critical Updates">
          <sdp:KBArticleID>sp{number}</sdp:KBArticleID></sdp:UpdateSpecificData>
        <sdp:IsInstallable><bar:WindowsVersion Comparison="GreaterThanOrEqualTo" MajorVersion="10"/></sdp:IsInstallable>
        <sdp:SupersededPackages>{older}</sdp:SupersededPackages>
        <sdp:InstallableItem ID="{item}">
          <sdp:ApplicabilityRules>
            <sdp:IsInstalled><bar:FileVersion Csidl="38" Path="tool.exe" Comparison="GreaterThanOrEqualTo" Version="{version}"/></sdp:IsInstalled>
            <sdp:IsInstallable><lar:Not><bar:WmiQuery Namespace="Root\cimv2" WqlQuery="select * from Blocked"/></lar:Not></sdp:IsInstallable>
          </sdp:ApplicabilityRules>
          <sdp:InstallProperties RebootBehavior="AlwaysRequiresReboot" Impact="RequiresExclusiveHandling" CanRequestUserInput="true"/>
          <cmd:CommandLineInstallerData Program="tool.exe" Arguments="/s" DefaultResult="Failed" RebootByDefault="false">
            <cmd:ReturnCode Code="0" Result="Succeeded" Reboot="false"/>
            <cmd:ReturnCode Code="3010" Result="Succeeded" Reboot="true"/></cmd:CommandLineInstallerData>
          <sdp:OriginFile Digest="3dZiJMIDOMOARjVLpc5BEFyYF/0=" FileName="tool.exe" Size="7" OriginUri="https://vendor.example/tool.exe"/>
        </sdp:InstallableItem></sdp:SoftwareDistributionPackage>"#
    )
}

fn updates(synced: &Synced<State>) -> BTreeMap<&str, Update> {
    synced
        .catalogue
        .iter()
        .map(|(key, json)| (key.strip_prefix("update/").unwrap(), serde_json::from_slice(json).unwrap()))
        .collect()
}

#[tokio::test]
async fn a_catalogue_gives_the_same_updates_as_a_cabinet_as_one_document_and_as_a_file() {
    let two = [package(1, "1.0", &[]), package(2, "2.0", &[1, 99])];
    let whole = format!(
        "<smc:SystemsManagementCatalog xmlns:smc=\"m\">{}{}</smc:SystemsManagementCatalog>",
        two[0], two[1]
    );
    let members: [(&str, &[u8]); 3] =
        [("V2/1.sdp", two[0].as_bytes()), ("readme.txt", b"<"), ("V2/2.SDP", two[1].as_bytes())];
    let server = Server::start().await;
    server.put("/stored.cab", cabinet(Packing::Stored, &members));
    server.put("/packed.cab", cabinet(Packing::Mszip, &members));
    server.put("/whole.xml", whole.clone());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("whole.xml");
    fs::write(&file, &whole).unwrap();
    let mut all = Vec::new();
    for url in [
        format!("{}/stored.cab", server.url),
        format!("{}/packed.cab", server.url),
        format!("{}/whole.xml", server.url),
        file.display().to_string(),
    ] {
        let synced = source(&url)
            .sync(&State::default(), &BTreeMap::new(), &Advisories::default(), now())
            .await
            .unwrap();
        assert_eq!((synced.unchanged, synced.stats.updates, synced.stats.superseded), (false, 2, 1), "{url}");
        assert_eq!(synced.archive_date, "2026-01-02T03:04:05Z".parse().unwrap());
        all.push(synced.catalogue);
    }
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test]
async fn a_package_says_what_it_is_for_whom_and_how_it_is_installed() {
    let server = Server::start().await;
    server.put("/c.xml", package(2, "2.0", &[]));
    let synced = source(&format!("{}/c.xml", server.url))
        .sync(&State::default(), &BTreeMap::new(), &Advisories::default(), now())
        .await
        .unwrap();
    let update = &updates(&synced)[guid(2).as_str()];
    assert_eq!(update.id.as_str(), format!("vendor/{}", guid(2)));
    assert_eq!((update.title.as_str(), update.product.as_str()), ("Tool 2.0", "Example Tool"));
    assert_eq!((update.severity, update.class), (Severity::Important, UpdateClass::Critical));
    assert_eq!(update.references, ["sp2"]);
    let Install::Windows(install) = &update.install else { panic!("{:?}", update.install) };
    let written = serde_json::to_value(install).unwrap();
    assert_eq!(
        written,
        serde_json::json!({
            "handler": {"command_line": {"program": "tool.exe", "arguments": "/s", "otherwise": "failed",
                "exit_codes": [{"code": 0, "result": "succeeded"},
                    {"code": 3010, "result": "succeeded", "reboot": true}]}},
            "files": [{"name": "tool.exe", "bytes": 7, "url": "https://vendor.example/tool.exe",
                "sha1": "ddd66224c20338c38046354ba5ce41105c9817fd"}],
            "reboot": "always", "impact": "exclusive", "asks_user": true
        })
    );
    assert!(update.install.payloads().is_empty(), "what only SHA-1 names is not fetched");

    let complete = Domain::Complete { source: "the system".to_owned() };
    let facts = |version: &str, file: &str, blocked: &str| Facts {
        domains: [("os".to_owned(), complete.clone())].into(),
        values: [
            ("os:version", version),
            ("file:%programfiles%\\tool.exe", "present"),
            ("file:%programfiles%\\tool.exe#version", file),
            ("wmi:root\\cimv2:select * from Blocked", blocked),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into(),
    };
    for (version, file, blocked, wanted) in [
        ("10.0.19045", "1.9", "false", Verdict::Needed),
        ("10.0.19045", "2.0", "false", Verdict::Installed),
        ("10.0.19045", "1.9", "true", Verdict::NotApplicable),
        ("6.1.7601", "1.9", "false", Verdict::NotApplicable),
    ] {
        assert_eq!(verdict(update, &facts(version, file, blocked)), wanted, "{version} {file} {blocked}");
    }
}

#[tokio::test]
async fn what_did_not_change_is_not_made_anew() {
    let server = Server::start().await;
    let url = format!("{}/c.xml", server.url);
    server.put("/c.xml", package(1, "1.0", &[]));
    let source = source(&url);
    let first =
        source.sync(&State::default(), &BTreeMap::new(), &Advisories::default(), now()).await.unwrap();
    let again = source.sync(&first.state, &first.catalogue, &Advisories::default(), now()).await.unwrap();
    assert!(again.unchanged);
    assert_eq!(again.state.content, first.state.content);
    server.put("/c.xml", package(1, "1.1", &[]));
    let changed = source.sync(&again.state, &first.catalogue, &Advisories::default(), now()).await.unwrap();
    assert!(!changed.unchanged);
    assert_ne!(changed.catalogue, first.catalogue);
}

#[tokio::test]
async fn a_package_that_is_none_is_left_out_and_the_others_count() {
    let server = Server::start().await;
    let broken = package(3, "1.0", &[]).replace(&guid(3), "not-a-guid");
    server.put("/c.xml", format!("<c>{}{broken}</c>", package(1, "1.0", &[])));
    server.put("/only.xml", broken);
    server.put("/cut.xml", package(1, "1.0", &[]).replace("</sdp:SoftwareDistributionPackage>", ""));
    server.put("/none.cab", &b"MSCF"[..]);
    let sync = async |name: &str| {
        source(&format!("{}/{name}", server.url))
            .sync(&State::default(), &BTreeMap::new(), &Advisories::default(), now())
            .await
    };
    let synced = sync("c.xml").await.unwrap();
    assert_eq!((synced.stats.updates, synced.stats.packages), (1, 2));
    for (name, wanted) in [
        ("only.xml", "the catalogue has no package, and 1 that could not be understood"),
        ("cut.xml", "could not read"),
        ("none.cab", "could not unpack the catalogue: the cabinet is cut"),
        ("gone.xml", "there is no catalogue at"),
    ] {
        let error = sync(name).await.unwrap_err();
        assert!(Chain(&error).to_string().contains(wanted), "{name}: {}", Chain(&error));
    }
}

#[tokio::test]
async fn only_the_file_with_the_named_digest_is_believed() {
    let server = Server::start().await;
    let text = package(1, "1.0", &[]);
    server.put("/a.xml", text.clone());
    let url = format!("{}/a.xml", server.url);
    let named = |digest| {
        let config = Config { sha256: Some(digest), ..config(&url) };
        Sdp::new(config, HttpFetch::new(None, Duration::from_secs(10)).unwrap(), RETRY)
    };
    let (none, advisories) = (BTreeMap::new(), Advisories::default());
    let sync = async |digest| named(digest).sync(&State::default(), &none, &advisories, now()).await;
    assert_eq!(sync(Digest::of(text.as_bytes())).await.unwrap().stats.updates, 1);
    let error = sync(Digest::of(b"other")).await.unwrap_err();
    assert!(matches!(error, SyncError::Pinned { .. }), "{error}");
}

#[tokio::test]
async fn an_address_that_is_not_authenticated_is_refused_unless_it_is_allowed() {
    for (url, wanted) in [
        ("http://127.0.0.1:1/c.cab", "is not authenticated"),
        ("ftp://vendor.example/c.cab", "must be an https address or an absolute path"),
        ("c.cab", "must be an https address or an absolute path"),
        ("/nowhere/c.cab", "could not read `/nowhere/c.cab`"),
    ] {
        let config = Config { plain_http: PlainHttp::Refuse, ..config(url) };
        let source = Sdp::new(config, HttpFetch::new(None, Duration::from_secs(1)).unwrap(), RETRY);
        let error = source
            .sync(&State::default(), &BTreeMap::new(), &Advisories::default(), now())
            .await
            .unwrap_err();
        assert!(error.to_string().contains(wanted), "{url}: {error}");
    }
    assert!(!Path::new("/nowhere").exists());
}
