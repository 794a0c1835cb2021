//! What vendors say in XML: it is read the same however it comes, and what is made of it is what every tier takes.

use tierway_central::sources::windows::{
    lower::{self, Revisions},
    model::Revision,
    offline::{Graph, Index},
    rules::Tally,
    sdp, update,
};
use tierway_common::{
    rules::{self, compile::Compiler},
    schema::Update,
};

use super::{Dripping, Target, texts};

/// Updates as update servers and the offline catalogue say them.
pub(super) const UPDATES: Target =
    Target { name: "windows-updates", run: update, seeds: updates, words: WORDS };

/// Vendors' catalogues, and the offline one's graph.
pub(super) const CATALOGUES: Target =
    Target { name: "windows-catalogues", run: catalogue, seeds: catalogues, words: WORDS };

const WORDS: &[&str] = &[
    "<Or>",
    "</Or>",
    "<And>",
    "<Not>",
    "<True/>",
    "<False/>",
    "<lar:Or>",
    "<lar:And>",
    "<bar:WindowsVersion Comparison=\"EqualTo\" MajorVersion=\"10\"/>",
    "<bar:RegSz Key=\"HKEY_LOCAL_MACHINE\" Subkey=\"A\" Value=\"b\" Comparison=\"EqualTo\" Data=\"c\"/>",
    "<bar:RegKeyLoop Key=\"HKEY_LOCAL_MACHINE\" Subkey=\"A\" TrueIf=\"Any\">",
    "<bar:FileVersion Path=\"a\" Version=\"1.0\" Comparison=\"LessThan\"/>",
    "<bar:WmiQuery WqlQuery=\"select * from a\"/>",
    "<bar:Processor Architecture=\"9\"/>",
    "<msiar:MsiProductInstalled ProductCode=\"{AAAAAAAA-0000-0000-0000-000000000010}\"/>",
    "UpdateID=\"aaaaaaaa-0000-0000-0000-000000000010\"",
    "RevisionNumber=\"1\"",
    "<Prerequisites>",
    "<AtLeastOne>",
    "<BundledUpdates>",
    "<SupersededUpdates>",
    "&amp;",
    "&#x41;",
    "<![CDATA[",
    "]]>",
    "<!--",
    "-->",
    "<?xml version=\"1.0\"?>",
    "<!DOCTYPE a [<!ENTITY b \"c\">]>",
    "Csidl=\"38\"",
    "xmlns=\"\"",
    "/>",
];

/// What is to be true of the documents that are made of revisions.
fn documents(revisions: Vec<Revision>) -> bool {
    let mut all = Revisions::default();
    revisions.into_iter().for_each(|revision| all.add(revision));
    let catalogue = "fuzz".parse().unwrap();
    let released = "2026-11-25T00:00:00Z".parse().unwrap();
    let lowered = lower::lower(&catalogue, &all, &|_| released);
    for (id, document) in &lowered.updates {
        let json = serde_json::to_vec(document).unwrap();
        let read: Update =
            serde_json::from_slice(&json).unwrap_or_else(|error| panic!("`{id}` cannot be read: {error}"));
        assert_eq!(&read, document, "`{id}` is another when it is read");
        for rule in [&document.applicable, &document.installed] {
            assert!(rules::check(rule).is_ok(), "`{id}` has a rule that no endpoint takes");
        }
        let compiled = Compiler::new().add(id, &document.applicable, &document.installed);
        assert!(compiled.is_ok(), "`{id}` cannot be compiled: {compiled:?}");
    }
    !lowered.updates.is_empty()
}

fn update(bytes: &[u8]) -> bool {
    let read = || update::read([bytes], &mut Tally::default());
    let Ok(revision) = read() else { return false };
    assert_eq!(read().unwrap(), revision);
    // A category makes none.
    documents(vec![revision]);
    true
}

/// The first byte says which of the catalogues' files the rest is.
fn catalogue(bytes: &[u8]) -> bool {
    let Some((which, bytes)) = bytes.split_first() else { return false };
    match which {
        b's' => {
            let read = |input: &mut dyn std::io::Read| {
                let mut found = Vec::new();
                let ended = sdp::each(input, &mut Tally::default(), &mut |package| found.push(package.ok()));
                (found, ended.is_ok())
            };
            let (found, ended) = read(&mut &*bytes);
            assert_eq!(
                read(&mut Dripping(bytes)),
                (found.clone(), ended),
                "byte by byte, it says something else"
            );
            let packages = found.into_iter().flatten();
            documents(
                packages.flat_map(|package| package.parts.into_iter().chain([package.update])).collect(),
            )
        }
        b'g' => {
            let graph = Graph::read(bytes);
            assert_eq!(
                Graph::read(Dripping(bytes)).ok(),
                graph.as_ref().ok().cloned(),
                "byte by byte, it says something else"
            );
            let Ok(graph) = graph else { return false };
            for newer in graph.superseded().keys() {
                assert!(
                    graph.updates.values().any(|entry| entry.identity.id == *newer),
                    "`{newer}` is not in the catalogue"
                );
            }
            let revision =
                graph.updates.keys().next().map(|id| graph.revision(*id, &[], &mut Tally::default()));
            revision.is_some_and(|revision| revision.is_ok())
        }
        _ => {
            let Ok(index) = Index::read(bytes) else { return false };
            let at = |number| index.cabinet(number);
            assert!(
                at(u32::MAX).is_some() || at(0).is_none(),
                "the last cabinet has fewer revisions than the first"
            );
            true
        }
    }
}

fn updates() -> Vec<Vec<u8>> {
    texts(&[
        r#"<Update xmlns="http://schemas.microsoft.com/msus/2002/12/Update"><UpdateIdentity UpdateID="aaaaaaaa-0000-0000-0000-000000000001" RevisionNumber="2"/><Properties UpdateType="Software" CreationDate="2026-11-24T10:00:00Z" MsrcSeverity="Critical"><KBArticleID>5000001</KBArticleID></Properties><LocalizedPropertiesCollection><LocalizedProperties><Language>en</Language><Title>One</Title></LocalizedProperties></LocalizedPropertiesCollection><Relationships><Prerequisites><UpdateIdentity UpdateID="aaaaaaaa-0000-0000-0000-000000000002"/><AtLeastOne><UpdateIdentity UpdateID="aaaaaaaa-0000-0000-0000-000000000003"/></AtLeastOne></Prerequisites></Relationships><ApplicabilityRules><IsInstalled><b.RegSz Key="HKEY_LOCAL_MACHINE" Subkey="SOFTWARE\A" Value="v" Comparison="EqualTo" Data="1"/></IsInstalled><IsInstallable><And><WindowsVersion Comparison="EqualTo" MajorVersion="10" MinorVersion="0"/><Not><FileVersion Csidl="37" Path="a.dll" Version="10.0.1.2" Comparison="GreaterThanOrEqualTo"/></Not></And></IsInstallable></ApplicabilityRules><Files><File Digest="qqqqqqqqqqqqqqqqqqqqqqqqqqo=" DigestAlgorithm="SHA1" FileName="a.cab" Size="100"/></Files><HandlerSpecificData type="cbs:Cbs"/></Update>"#,
        r#"<UpdateIdentity UpdateID="aaaaaaaa-0000-0000-0000-000000000001" RevisionNumber="1"/><Properties UpdateType="Category"/><ApplicabilityRules><IsInstalled><Or><True/><False/></Or></IsInstalled></ApplicabilityRules>"#,
    ])
}

fn catalogues() -> Vec<Vec<u8>> {
    texts(&[
        r#"s<smc:SystemsManagementCatalog xmlns:smc="a" xmlns:sdp="b" xmlns:lar="c" xmlns:bar="d" xmlns:cmd="e"><smc:SoftwareDistributionPackage><sdp:Properties PackageID="aaaaaaaa-0000-0000-0000-000000000001" CreationDate="2026-11-24T10:00:00Z" VendorName="V"><sdp:ProductName>P</sdp:ProductName></sdp:Properties><sdp:LocalizedProperties><sdp:Language>en</sdp:Language><sdp:Title>T</sdp:Title></sdp:LocalizedProperties><sdp:UpdateSpecificData UpdateClassification="Security Updates" SecurityRating="Important"><sdp:CveID>CVE-2026-1</sdp:CveID></sdp:UpdateSpecificData><sdp:IsInstallable><lar:And><bar:Processor Architecture="9"/></lar:And></sdp:IsInstallable><sdp:InstallableItem ID="aaaaaaaa-0000-0000-0000-000000000009"><sdp:ApplicabilityRules><sdp:IsInstalled><bar:RegKeyLoop Key="HKEY_LOCAL_MACHINE" Subkey="S" TrueIf="Any"><bar:RegSz Key="HKEY_LOOP_TARGET" Value="N" Comparison="EqualTo" Data="D"/></bar:RegKeyLoop></sdp:IsInstalled></sdp:ApplicabilityRules><sdp:InstallProperties CanRequestUserInput="false" RebootBehavior="NeverReboots" Impact="Normal"/><cmd:CommandLineInstallerData Program="a.exe" Arguments="/S" DefaultResult="Failed"><cmd:ReturnCode Code="0" Result="Succeeded" Reboot="false"/></cmd:CommandLineInstallerData><sdp:OriginFile Digest="qqqqqqqqqqqqqqqqqqqqqqqqqqo=" FileName="a.exe" Size="1" OriginUri="https://a/a.exe"/></sdp:InstallableItem></smc:SoftwareDistributionPackage></smc:SystemsManagementCatalog>"#,
        r#"g<OfflineSyncPackage><Updates><Update UpdateId="aaaaaaaa-0000-0000-0000-000000000001" RevisionNumber="1" RevisionId="7" CreationDate="2026-11-24T10:00:00Z"><Prerequisites><UpdateId Id="aaaaaaaa-0000-0000-0000-000000000002"/><Or><UpdateId Id="aaaaaaaa-0000-0000-0000-000000000003"/></Or></Prerequisites><Categories><Category Type="Product" Id="aaaaaaaa-0000-0000-0000-000000000004"/></Categories><SupersededBy><Revision Id="8"/></SupersededBy></Update><Update UpdateId="aaaaaaaa-0000-0000-0000-000000000005" RevisionNumber="1" RevisionId="8"/></Updates><FileLocations><FileLocation Id="qqqq" Url="http://a/a.cab"/></FileLocations></OfflineSyncPackage>"#,
        r#"i<CABLISTROOT><CABLIST><CAB NAME="package.cab"/><CAB NAME="package2.cab" RANGESTART="10"/></CABLIST></CABLISTROOT>"#,
    ])
}
