use serde_json::{Value, json};
use tierway_common::{
    facts::{Domain, Facts},
    rules::evaluate,
};

use super::*;
use crate::sources::windows::xml::document;

/// The predicate in a rule, alone.
fn rule(xml: &str) -> (Expr, Tally) {
    let root = document(format!("<IsInstalled>{xml}</IsInstalled>").as_bytes()).unwrap();
    let mut tally = Tally::default();
    let metadata = root.find("Metadata").map(Metadata::of).unwrap_or_default();
    let mut rule = root;
    rule.children.retain(|child| child.name != "Metadata");
    (lower(&rule, &metadata, &mut tally), tally)
}

fn check(cases: &[(&str, Value)]) {
    for (xml, wanted) in cases {
        let (found, tally) = rule(xml);
        assert_eq!(serde_json::to_value(&found).unwrap(), *wanted, "{xml}");
        assert!(tally.unknown.is_empty(), "{xml}");
    }
}

#[test]
fn predicates_about_files_become_tests_of_a_place() {
    check(&[
        (
            r#"<bar:FileVersion Path="\conhost.exe" Csidl="37" Comparison="GreaterThanOrEqualTo" Version="6.1.7601"/>"#,
            json!({"file": {"path": r"%system32%\conhost.exe", "version": {"ge": "6.1.7601"}}}),
        ),
        (
            r#"<b.FileExists Path="C:\x" Version="1.0" Size="5" Language="1033" Modified="2015-02-27T15:54:52"/>"#,
            json!({"file": {"path": r"C:\x", "version": {"eq": "1.0"}, "size": {"eq": "5"},
                "modified": {"eq": "2015-02-27T15:54:52"}, "language": "1033"}}),
        ),
        (
            r#"<FileSize Path="a" Csidl="38" Comparison="LessThan" Size="0x10"/>"#,
            json!({"file": {"path": r"%programfiles%\a", "size": {"lt": "16"}}}),
        ),
        (
            r#"<FileCreated Path="a" Csidl="36" Comparison="GreaterThan" Created="2015-01-01T00:00:00Z"/>"#,
            json!({"file": {"path": r"%windir%\a", "created": {"gt": "2015-01-01T00:00:00Z"}}}),
        ),
        (
            r#"<FileModified Path="a" Csidl="42" Comparison="LessThanOrEqualTo" Modified="2015-01-01T00:00:00Z"/>"#,
            json!({"file": {"path": r"%programfiles(x86)%\a", "modified": {"le": "2015-01-01T00:00:00Z"}}}),
        ),
        (
            r#"<FileVersionPrependRegSz Path="x.dll" Comparison="EqualTo" Version="1" Key="HKEY_LOCAL_MACHINE"
                Subkey="SOFTWARE\V" Value="Dir" RegType32="true"/>"#,
            json!({"file": {"path": r"%HKLM32\SOFTWARE\V#Dir%\x.dll", "version": {"eq": "1"}}}),
        ),
        (
            r#"<FileExistsPrependRegSz Path="x" Key="HKEY_CLASSES_ROOT" Subkey="V"/>"#,
            json!({"file": {"path": r"%HKCR\V#%\x"}}),
        ),
    ]);
}

#[test]
fn predicates_about_the_registry_compare_as_their_type_does() {
    let value = |more: Value| {
        let mut test = json!({"key": r"HKLM\K", "value": "V"});
        test.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "registry": test })
    };
    let key = r#"Key="HKEY_LOCAL_MACHINE" Subkey="K""#;
    for (xml, wanted) in [
        (format!("<RegKeyExists {key}/>"), json!({"registry": {"key": r"HKLM\K"}})),
        (format!("<RegKeyExists {key} RegType32=\"true\"/>"), json!({"registry": {"key": r"HKLM32\K"}})),
        (
            format!("<RegValueExists {key} Value=\"V\" Type=\"REG_BINARY\"/>"),
            value(json!({"kind": "REG_BINARY"})),
        ),
        (
            format!("<RegDword {key} Value=\"V\" Comparison=\"GreaterThanOrEqualTo\" Data=\"1\"/>"),
            value(json!({"data": {"ge": "1"}, "ordering": "number"})),
        ),
        (
            format!("<RegSz {key} Value=\"V\" Comparison=\"EqualTo\" Data=\"1803\"/>"),
            value(json!({"data": {"eq": "1803"}, "ordering": "caseless"})),
        ),
        (
            format!("<RegExpandSz {key} Value=\"V\" Comparison=\"EndsWith\" Data=\"x\"/>"),
            value(json!({"data": {"ends": "x"}, "ordering": "caseless"})),
        ),
        (
            format!("<RegSz {key} Value=\"V\" Comparison=\"BeginsWith\" Data=\"x\"/>"),
            value(json!({"data": {"begins": "x"}, "ordering": "caseless"})),
        ),
        (
            format!("<RegSzToVersion {key} Value=\"V\" Comparison=\"GreaterThan\" Data=\"1.2\"/>"),
            value(json!({"data": {"gt": "1.2"}, "ordering": "windows"})),
        ),
        (
            format!("<RegSzToVersion {key} Value=\"V\" Comparison=\"LessThan\" Data=\"1.2\"/>"),
            json!({"any": [{"not": value(json!({}))},
                value(json!({"data": {"lt": "1.2"}, "ordering": "windows"}))]}),
        ),
        (
            format!(
                "<RegKeyLoop {key} TrueIf=\"Any\"><RegSz Key=\"HKEY_LOOP_TARGET\" Value=\"N\" \
                Comparison=\"Contains\" Data=\"Java\"/></RegKeyLoop>"
            ),
            json!({"registry_loop": {"key": r"HKLM\K", "of": "any", "test": {"registry":
                {"key": "HKEY_LOOP_TARGET", "value": "N", "data": {"contains": "Java"},
                 "ordering": "caseless"}}}}),
        ),
    ] {
        check(&[(&xml, wanted)]);
    }
}

#[test]
fn predicates_about_products_and_packages_become_tests_of_them() {
    let product = "{11111111-2222-3333-4444-55555555ABCD}";
    let low = "11111111-2222-3333-4444-55555555abcd";
    let msi = |version: Value| {
        let mut test = json!({"manager": "msi", "name": product});
        test.as_object_mut().unwrap().extend(version.as_object().unwrap().clone());
        json!({ "package": test })
    };
    let part = |kind: &str, name: &str| json!({"msi": {"product": product, "part": {kind: name}}});
    for (xml, wanted) in [
        (format!("<m.MsiProductInstalled ProductCode=\"{low}\"/>"), msi(json!({}))),
        (
            format!(
                "<m.MsiProductInstalled ProductCode=\"{{{low}}}\" VersionMin=\"1.0\" VersionMax=\"2.0\" \
                ExcludeVersionMax=\"true\" Language=\"1031\"/>"
            ),
            json!({"all": [msi(json!({"architecture": "1031", "version": {"ge": "1.0"}})),
                msi(json!({"architecture": "1031", "version": {"lt": "2.0"}}))]}),
        ),
        (
            format!(
                "<m.MsiFeatureInstalledForProduct AllFeaturesRequired=\"true\"><m.Feature>A</m.Feature>\
                <m.Feature>B</m.Feature><m.Product>{low}</m.Product></m.MsiFeatureInstalledForProduct>"
            ),
            json!({"any": [{"all": [part("feature", "A"), part("feature", "B")]}]}),
        ),
        (
            format!(
                "<m.MsiComponentInstalledForProduct><m.Component>{low}</m.Component>\
                <m.Product>{low}</m.Product></m.MsiComponentInstalledForProduct>"
            ),
            json!({"any": [{"any": [part("component", product)]}]}),
        ),
        (
            format!(
                "<m.MsiPatchInstalledForProduct PatchCode=\"{low}\" ProductCode=\"{low}\" VersionMin=\"3\"/>"
            ),
            json!({"all": [msi(json!({"version": {"ge": "3"}})), part("patch", product)]}),
        ),
        (
            format!(
                "<MsiApplicationInstalled/><Metadata><MsiApplicationMetadata><ProductCode>{low}\
                </ProductCode></MsiApplicationMetadata></Metadata>"
            ),
            msi(json!({})),
        ),
        (
            format!(
                "<And><MsiPatchInstalled/><MsiPatchInstallable/></And><Metadata><MsiPatchMetadata>\
                <MsiPatch PatchGUID=\"{{{low}}}\"><TargetProduct><TargetProductCode Validate=\"true\">{low}\
                </TargetProductCode><TargetVersion Validate=\"true\" ComparisonType=\"Equal\" \
                ComparisonFilter=\"MajorMinor\">12.0.4518</TargetVersion></TargetProduct></MsiPatch>\
                </MsiPatchMetadata></Metadata>"
            ),
            json!({"all": [{"any": [part("patch", product)]}, {"any": [{"all": [
                msi(json!({"version": {"ge": "12.0"}})), msi(json!({"version": {"lt": "12.1"}}))]}]}]}),
        ),
        (
            "<CbsPackageInstalledByIdentity PackageIdentity=\"InternetExplorer-Package~11.2.9600.16428\"/>"
                .to_owned(),
            json!({"package": {"manager": "cbs", "name": "InternetExplorer-Package",
                "version": {"eq": "11.2.9600.16428"}}}),
        ),
        (
            "<CbsPackageInstalledByIdentity PackageIdentity=\"P~31bf3856ad364e35~amd64~de-DE~1.2.3.4\"/>"
                .to_owned(),
            json!({"package": {"manager": "cbs", "name": "P~de-de", "architecture": "amd64",
                "version": {"eq": "1.2.3.4"}}}),
        ),
        (
            "<CbsPackageInstallable/><Metadata><CbsPackageApplicabilityMetadata><assembly><assemblyIdentity \
             name=\"P\" version=\"2.0\" processorArchitecture=\"amd64\" language=\"neutral\"/><package>\
             <parent><assemblyIdentity name=\"F\" version=\"1.0\" processorArchitecture=\"amd64\"/></parent>\
             </package></assembly></CbsPackageApplicabilityMetadata></Metadata>"
                .to_owned(),
            json!({"all": [{"os": {"architecture": "amd64"}}, {"any": [{"package": {"manager": "cbs",
                "name": "F", "architecture": "amd64", "version": {"ge": "1.0"}}}]}, {"not": {"package":
                {"manager": "cbs", "name": "P", "architecture": "amd64", "version": {"ge": "2.0"}}}}]}),
        ),
    ] {
        check(&[(&xml, wanted)]);
    }
}

#[test]
fn the_other_predicates_become_tests_of_the_system() {
    check(&[
        ("<lar:True/>", json!({"const": true})),
        ("<Processor Architecture=\"12\"/>", json!({"os": {"architecture": "arm64"}})),
        ("<WindowsLanguage Language=\"de-DE\"/>", json!({"windows": {"language": "de-de"}})),
        ("<MuiLanguageInstalled Language=\"fr-FR\"/>", json!({"windows": {"mui": "fr-fr"}})),
        ("<MuiInstalled/>", json!({"flag": {"name": "mui-installed"}})),
        ("<ClusteredOS/>", json!({"flag": {"name": "clustered"}})),
        (
            "<SystemMetric Index=\"87\" Comparison=\"EqualTo\" Value=\"1\"/>",
            json!({"number": {"name": "system-metric:87", "value": {"eq": "1"}}}),
        ),
        (
            "<LicenseDword Value=\"X\" Comparison=\"GreaterThan\" Data=\"0\"/>",
            json!({"number": {"name": "license:X", "value": {"gt": "0"}}}),
        ),
        (
            "<WmiQuery Namespace=\"Root\\CIMv2\" WqlQuery=\"select * from A where B='1' \"/>",
            json!({"wmi": {"namespace": "root\\cimv2", "query": "select * from A where B='1'"}}),
        ),
        (
            "<DeviceAttribute Name=\"OSSkuId\" Type=\"String\" Comparison=\"EqualTo\" Value=\"4\"/>",
            json!({"attribute": {"name": "OSSkuId", "value": {"eq": "4"}, "ordering": "caseless"}}),
        ),
        (
            "<DeviceAttribute Name=\"OSVersion\" Type=\"Version\" Comparison=\"LessThan\" Value=\"10.0\"/>",
            json!({"attribute": {"name": "OSVersion", "value": {"lt": "10.0"}, "ordering": "windows"}}),
        ),
        (
            "<ProductReleaseInstalled Name=\"Client.OS\" Version=\"10.0.1\"/>",
            json!({"attribute": {"name": "release:Client.OS", "value": {"ge": "10.0.1"}, "ordering": "windows"}}),
        ),
        ("<Platform PlatformID=\"2\"/>", json!({"const": true})),
        ("<Platform PlatformID=\"1\"/>", json!({"const": false})),
    ]);
}

#[test]
fn what_is_not_understood_is_unknown_and_counted_with_its_reason() {
    for (xml, reason) in [
        ("<NoSuchTest/>", "the predicate `NoSuchTest` is not known"),
        (
            "<FileVersion Path=\"a\" Csidl=\"26\" Comparison=\"EqualTo\" Version=\"1\"/>",
            "the folder 26 is a user's",
        ),
        ("<FileVersion Path=\"a\" Csidl=\"37\" Comparison=\"EqualTo\"/>", "`FileVersion` has no `Version`"),
        ("<FileVersion Path=\"a\" Csidl=\"37\" Version=\"1\"/>", "`FileVersion` has no `Comparison`"),
        ("<FileVersion Path=\"a\" Comparison=\"EqualTo\" Version=\"v1\"/>", "that is not a version"),
        ("<RegDword Key=\"HKEY_CURRENT_USER\" Value=\"V\" Comparison=\"EqualTo\" Data=\"1\"/>", "of a user"),
        (
            "<RegSz Key=\"HKEY_LOCAL_MACHINE\" Value=\"V\" Comparison=\"LessThan\" Data=\"1\"/>",
            "orders texts",
        ),
        ("<CbsPackageInstalled/>", "comes without a package's manifest"),
        ("<MsiPatchSuperseded/>", "comes without a patch's description"),
        ("<Memory MinSizeInMB=\"4096\"/>", "hardware requirements are not evaluated"),
        ("<WindowsDriverInstalled/>", "drivers are not evaluated"),
        ("<InstalledOnce/>", "whether something was ever installed is not recorded"),
        ("<Not/>", "`Not` has 0 parts"),
        ("<WindowsVersion MajorVersion=\"x\"/>", "`MajorVersion` that is not a whole number"),
    ] {
        let (found, tally) = rule(&format!("<Not>{xml}</Not>"));
        let Expr::Not(inner) = &found else { panic!("{xml}: {found:?}") };
        let Expr::Unknown(unknown) = &**inner else { panic!("{xml}: {found:?}") };
        assert!(unknown.reason.contains(reason), "{xml}: {}", unknown.reason);
        assert_eq!((tally.unknown.values().sum::<u64>(), tally.lowered.get("Not")), (1, Some(&1)), "{xml}");
        assert_eq!(evaluate(&found, &Facts::default()).decided(), None);
    }
}

fn windows(version: &str, build: &str, service_pack: &str, more: &[(&str, &str)]) -> Facts {
    let complete = Domain::Complete { source: "the system".to_owned() };
    let own = [("os:version", version), ("os:build", build), ("os:service-pack", service_pack)];
    Facts {
        domains: [("os".to_owned(), complete)].into(),
        values: own.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
    }
}

#[test]
fn windows_versions_compare_from_the_major_number_down() {
    let seven = windows("6.1.7601", "7601", "1.0", &[("os:product-type", "workstation")]);
    let bare = windows("6.1.7600", "7600", "0.0", &[("os:product-type", "workstation")]);
    let ten = windows(
        "10.0.19045",
        "19045.3803",
        "0.0",
        &[("os:product-type", "server"), ("os:suite-16", "present"), ("os:suite-128", "present")],
    );
    for (attributes, wanted) in [
        // For 6.1 with service pack 1, for 6.1 without one, for 10.0.19045.
        ("MajorVersion='6' MinorVersion='1'", [true, true, false]),
        ("Comparison='EqualTo' MajorVersion='10'", [false, false, true]),
        ("Comparison='GreaterThanOrEqualTo' MajorVersion='4'", [true, true, true]),
        ("Comparison='GreaterThan' MajorVersion='6' MinorVersion='1'", [false, false, true]),
        ("Comparison='GreaterThan' MajorVersion='6' MinorVersion='0'", [true, true, true]),
        ("Comparison='LessThanOrEqualTo' MajorVersion='6' MinorVersion='1'", [true, true, false]),
        ("Comparison='LessThan' MajorVersion='10' MinorVersion='0' BuildNumber='19046'", [true, true, true]),
        ("Comparison='LessThan' MajorVersion='10' MinorVersion='0' BuildNumber='19045'", [true, true, false]),
        ("Comparison='EqualTo' MajorVersion='10' MinorVersion='0' BuildNumber='19045'", [false, false, true]),
        (
            "Comparison='GreaterThanOrEqualTo' MajorVersion='5' MinorVersion='0' ServicePackMajor='4'
             ServicePackMinor='0'",
            [true, true, true],
        ),
        (
            "Comparison='GreaterThanOrEqualTo' MajorVersion='6' MinorVersion='1' ServicePackMajor='1'",
            [true, false, true],
        ),
        (
            "Comparison='EqualTo' MajorVersion='6' MinorVersion='1' ServicePackMajor='1' ServicePackMinor='0'",
            [true, false, false],
        ),
        (
            "Comparison='LessThan' MajorVersion='6' MinorVersion='1' ServicePackMajor='1'",
            [false, true, false],
        ),
        ("Comparison='NotEqualTo' MajorVersion='6' MinorVersion='1'", [false, false, true]),
        ("ProductType='3'", [false, false, true]),
        ("Comparison='GreaterThanOrEqualTo' MajorVersion='6' ProductType='1'", [true, true, false]),
        ("SuiteMask='144'", [false, false, true]),
        ("SuiteMask='272'", [false, false, true]),
        ("SuiteMask='272' AllSuitesMustBePresent='true'", [false, false, false]),
        ("SuiteMask='144' AllSuitesMustBePresent='true'", [false, false, true]),
        ("Comparison='GreaterThanOrEqualTo' MajorVersion='10' BuildNumber='19045'", [false, false, true]),
        ("Comparison='GreaterThan' MajorVersion='10' BuildNumber='19045'", [false, false, false]),
    ] {
        let (expr, tally) = rule(&format!("<WindowsVersion {attributes}/>"));
        assert!(tally.unknown.is_empty(), "{attributes}");
        let found = [&seven, &bare, &ten].map(|facts| evaluate(&expr, facts).decided());
        assert_eq!(found, wanted.map(Some), "{attributes}: {}", serde_json::to_string(&expr).unwrap());
    }
}
