use std::{
    collections::BTreeSet,
    io::{Cursor, Write as _},
};

use msi::{Column, Insert, Package, PackageType, Value};
use tierway_common::{
    facts::{Domain, Facts},
    rules::{Verdict, evaluate::asks, verdict},
};

use super::*;

/// The family of the packages below, and what Windows Installer calls it.
const FAMILY: (&str, &str) = ("{11111111-2222-3333-4444-555555555555}", "11111111222233334444555555555555");
const OLD: &str = "{AAAAAAAA-0000-0000-0000-000000000010}";
const NEW: &str = "{AAAAAAAA-0000-0000-0000-000000000011}";

/// An MSI with these properties, for such processors.
pub(crate) fn msi(template: &str, properties: &[(&str, &str)]) -> Vec<u8> {
    let mut package = Package::create(PackageType::Installer, Cursor::new(Vec::new())).unwrap();
    package.summary_info_mut().set_arch(template);
    let columns = vec![
        Column::build("Property").primary_key().id_string(72),
        Column::build("Value").nullable().formatted_string(0),
    ];
    package.create_table("Property", columns).unwrap();
    let rows = properties.iter().map(|(name, value)| vec![Value::from(*name), Value::from(*value)]).collect();
    package.insert_rows(Insert::into("Property").rows(rows)).unwrap();
    package.into_inner().unwrap().into_inner()
}

/// Version 1.1 of `App`.
pub(crate) fn app(version: &str, product: &str) -> Vec<u8> {
    msi(
        "x64",
        &[
            ("ProductCode", product),
            ("ProductName", "App"),
            ("ProductVersion", version),
            ("Manufacturer", "Example"),
            ("UpgradeCode", FAMILY.0),
        ],
    )
}

/// A Debian package whose control archive is packed in such a way.
pub(crate) fn deb(packing: &str, control: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in [("./md5sums", "0  a\n"), ("./control", control)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    let tar = tar.into_inner().unwrap();
    let packed = match packing {
        "" => tar,
        ".gz" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&tar).unwrap();
            encoder.finish().unwrap()
        }
        ".xz" => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(&tar).unwrap();
            encoder.finish().unwrap()
        }
        _ => zstd::bulk::compress(&tar, 1).unwrap(),
    };
    let mut archive = b"!<arch>\n".to_vec();
    let control = format!("control.tar{packing}");
    for (name, bytes) in [("debian-binary", b"2.0\n".as_slice()), (&control, &packed), ("data.tar", b"x")] {
        archive.extend(ar_header(name, &bytes.len().to_string()));
        archive.extend(bytes);
        archive.extend(&b"\n"[..bytes.len() % 2]);
    }
    archive
}

/// What comes before a member of an archive.
fn ar_header(name: &str, size: &str) -> Vec<u8> {
    format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n", 0, 0, 0, "100644").into_bytes()
}

/// The lists of tables and of columns, as databases call them.
const TABLES: &str = "\u{4840}\u{3f7f}\u{4164}\u{422f}\u{4836}";
const COLUMNS: &str = "\u{4840}\u{3b3f}\u{43f2}\u{4438}\u{45b1}";

/// The MSI with nothing but zeros in one of its streams.
fn zeroed(msi: Vec<u8>, stream: &str) -> Vec<u8> {
    let mut compound = cfb::CompoundFile::open(Cursor::new(msi)).unwrap();
    let mut found = compound.open_stream(stream).unwrap();
    let zeros = vec![0; usize::try_from(found.len()).unwrap()];
    found.write_all(&zeros).unwrap();
    drop(found);
    compound.into_inner().into_inner()
}

fn read(name: &str, bytes: &[u8], wishes: Wishes) -> Result<Described, LocalError> {
    let file = File { name: name.to_owned(), digest: Digest::of(bytes), bytes: bytes.len() as u64 };
    describe(&file, Cursor::new(bytes), wishes, "2026-11-24T10:00:00Z".parse().unwrap())
}

/// A Windows with these facts, where everything else that a rule asks is not there.
fn computer(update: &Update, architecture: &str, values: &[(&str, &str)]) -> Verdict {
    let complete = || Domain::Complete { source: "the computer".to_owned() };
    let mut asked = BTreeSet::new();
    asks(&update.applicable, &mut asked);
    asks(&update.installed, &mut asked);
    let mut facts = Facts {
        domains: ["os", "package:msi", "package:deb"].map(|name| (name.to_owned(), complete())).into(),
        values: [("os:family", "windows"), ("os:version", "10.0.22621"), ("os:architecture", architecture)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
    };
    for key in asked {
        let found = values.iter().find(|(begin, _)| key.starts_with(begin)).map(|(_, value)| *value);
        let none = match key.split(':').next() {
            Some("registry" | "update") => Some("absent"),
            Some("registry-loop") => Some("false"),
            _ => None,
        };
        if let Some(value) = found.or(none) {
            facts.values.insert(key, value.to_owned());
        }
    }
    for (key, value) in values.iter().filter(|(key, _)| key.starts_with("package:")) {
        facts.values.insert((*key).to_owned(), (*value).to_owned());
    }
    verdict(update, &facts)
}

#[test]
fn an_msi_makes_its_own_rule_of_its_product_code_its_version_and_its_family() {
    let described = read("app-1.1.msi", &app("1.1.0", NEW), Wishes::default()).unwrap();
    let update = &described.update;
    assert_eq!(update.id.as_str(), "local/app_1.1.0");
    assert_eq!((update.product.as_str(), update.title.as_str()), ("Example App", "App 1.1.0"));
    let Install::Windows(install) = &update.install else { panic!("{:?}", update.install) };
    let Handler::Msi { product_code, file, .. } = &install.handler else { panic!("{:?}", install.handler) };
    assert_eq!((product_code.as_deref(), file.as_str()), (Some(NEW), "app-1.1.msi"));
    assert_eq!(update.install.payloads().len(), 1);
    let (old, new) = (format!("package:msi:{OLD}:1033"), format!("package:msi:{NEW}:1033"));
    let family = format!(
        r"registry:{}\{}",
        r"HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Installer\UpgradeCodes", FAMILY.1
    );
    let later = ("registry-loop:any HKLM\\", "true");
    for (values, wanted) in [
        (vec![], Verdict::Needed),
        (vec![(old.as_str(), "1.0.0"), (&family, "present")], Verdict::Needed),
        (vec![(new.as_str(), "1.0.9")], Verdict::Needed),
        (vec![(new.as_str(), "1.1.0"), (&family, "present")], Verdict::Installed),
        (vec![(new.as_str(), "1.1.1")], Verdict::Installed),
        // A later product of the family, known by its name and version in the list of programs.
        (vec![(family.as_str(), "present"), later], Verdict::Installed),
        // Another vendor's program of that name.
        (vec![later], Verdict::Needed),
    ] {
        assert_eq!(computer(update, "amd64", &values), wanted, "{values:?}");
    }
    assert_eq!(computer(update, "x86", &[]), Verdict::NotApplicable);
}

#[test]
fn only_upgrade_leaves_out_who_never_had_it_and_keeps_who_has_it_now() {
    let wishes = Wishes { only_upgrade: true, ..Wishes::default() };
    let update = read("app-1.1.msi", &app("1.1.0", NEW), wishes).unwrap().update;
    let family = format!(
        r"registry:HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Installer\UpgradeCodes\{}",
        FAMILY.1
    );
    assert_eq!(computer(&update, "amd64", &[]), Verdict::NotApplicable);
    assert_eq!(computer(&update, "amd64", &[(&family, "present")]), Verdict::Needed);
    let new = format!("package:msi:{NEW}:1033");
    assert_eq!(computer(&update, "amd64", &[(&new, "1.1.0")]), Verdict::Installed);
}

#[test]
fn a_deb_package_is_for_whoever_has_an_older_version_however_its_control_archive_is_packed() {
    let control = "Package: hello\nVersion: 2.10-4\nArchitecture: amd64\nDepends: libc6 (>= 2.34),\n libfoo\n\
                   Description: example package\n long text\n";
    for packing in ["", ".gz", ".xz", ".zst"] {
        let bytes = deb(packing, control);
        let update = read("hello.deb", &bytes, Wishes::default()).unwrap().update;
        assert_eq!(update.id.as_str(), "local/hello-amd64_2.10-4", "{packing}");
        assert_eq!(update.title, "hello 2.10-4: example package");
        let [package] = update.install.deb_packages() else { panic!("{:?}", update.install) };
        assert_eq!(package.control["Depends"], "libc6 (>= 2.34), libfoo");
        assert_eq!((package.payload.digest, package.payload.bytes), (Digest::of(&bytes), bytes.len() as u64));
        for (values, wanted) in [
            (vec![], Verdict::NotApplicable),
            (vec![("package:deb:hello:amd64", "2.10-3")], Verdict::Needed),
            (vec![("package:deb:hello:amd64", "2.10-4")], Verdict::Installed),
            (vec![("package:deb:hello:arm64", "2.10-3")], Verdict::NotApplicable),
        ] {
            assert_eq!(computer(&update, "amd64", &values), wanted, "{values:?}");
        }
    }
}

#[test]
fn a_program_is_known_by_its_entry_in_the_list_of_programs() {
    let wishes = Wishes {
        entry: Some("Editor 2".to_owned()),
        version: Some("2.5".to_owned()),
        arguments: "/S".to_owned(),
        ..Wishes::default()
    };
    let update = read("setup.exe", b"MZ rest", wishes).unwrap().update;
    assert_eq!(update.id.as_str(), "local/editor-2_2.5");
    let Install::Windows(install) = &update.install else { panic!("{:?}", update.install) };
    let Handler::CommandLine(command) = &install.handler else { panic!("{:?}", install.handler) };
    assert_eq!((command.program.as_str(), command.arguments.as_str()), ("setup.exe", "/S"));
    assert_eq!(command.exit_codes.iter().map(|code| code.code).collect::<Vec<_>>(), [0, 1641, 3010]);
    assert_eq!(computer(&update, "x86", &[]), Verdict::Needed);
    assert_eq!(computer(&update, "x86", &[("registry-loop:any HKLM32\\", "true")]), Verdict::Installed);
}

#[test]
fn an_update_of_windows_is_known_by_the_number_of_its_article() {
    for magic in [&b"MSCF\0\0\0\0"[..], b"MSWIM\0\0\0"] {
        let wishes = Wishes { os_version: Some("10.0.22621".to_owned()), ..Wishes::default() };
        let update = read("windows11.0-kb5031354-x64_7513ea.msu", magic, wishes).unwrap().update;
        assert_eq!(update.id.as_str(), "local/windows-amd64_KB5031354");
        assert_eq!(update.references, ["KB5031354"]);
        assert_eq!(computer(&update, "amd64", &[]), Verdict::Needed);
        assert_eq!(computer(&update, "amd64", &[("update:KB5031354", "installed")]), Verdict::Installed);
        assert_eq!(computer(&update, "arm64", &[]), Verdict::NotApplicable);
    }
    let wishes = Wishes { os_version: Some("10.0.26100".to_owned()), ..Wishes::default() };
    let update = read("windows11.0-kb5031354-x64.msu", b"MSCF", wishes).unwrap().update;
    assert_eq!(computer(&update, "amd64", &[]), Verdict::NotApplicable);
}

#[test]
fn what_an_operator_says_goes_before_what_the_file_says() {
    let rule = Expr::Const(true);
    let wishes = Wishes {
        name: Some("ours".to_owned()),
        version: Some("7".to_owned()),
        title: Some("Our App".to_owned()),
        severity: Some(Severity::Critical),
        references: vec!["CVE-2026-0001".to_owned()],
        applicable: Some(rule.clone()),
        installed: Some(rule.clone()),
        ..Wishes::default()
    };
    let update = read("app.msi", &app("1.1.0", NEW), wishes).unwrap().update;
    assert_eq!(update.id.as_str(), "local/ours_7");
    assert_eq!((update.title.as_str(), update.severity), ("Our App", Severity::Critical));
    assert_eq!((update.class, update.references), (UpdateClass::Security, vec!["CVE-2026-0001".to_owned()]));
    assert_eq!((update.applicable, update.installed), (rule.clone(), rule));
}

#[test]
fn what_a_file_does_not_say_is_named_with_how_to_say_it() {
    let said = |wishes: Wishes| wishes;
    let version = || Wishes { version: Some("1".to_owned()), ..Wishes::default() };
    let without = |name: &str| {
        let all = [("ProductCode", NEW), ("ProductName", "App"), ("ProductVersion", "1.1")];
        msi("Intel;1033", &all.into_iter().filter(|(other, _)| *other != name).collect::<Vec<_>>())
    };
    let said_to_it = |text: String| Wishes { arguments: text, ..version() };
    let odd = msi("x64", &[("ProductCode", NEW), ("ProductName", "App"), ("ProductVersion", "1.1 beta")]);
    let half = &app("1.1.0", NEW)[..4000];
    for (name, bytes, wishes, expected) in [
        ("a.txt", b"hello".as_slice(), said(Wishes::default()), "`a.txt` is neither an MSI"),
        ("a.cab", b"", Wishes::default(), "`a.cab` is neither an MSI"),
        ("a.bin", b"MSCF", Wishes::default(), "`a.bin` is neither an MSI"),
        ("a.rpm", b"\xed\xab\xee\xdb", Wishes::default(), "`a.rpm` is an rpm package, which no endpoint"),
        ("a.exe", b"MZ", Wishes::default(), "does not say which version it is: give `--version"),
        ("a.exe", b"MZ", version(), "does not say when it is installed: give `--entry"),
        (
            "a.exe",
            b"MZ",
            said_to_it("x".repeat(8001)),
            "`arguments` must be at most 8000 bytes without control",
        ),
        ("a.exe", b"MZ", said_to_it("/S\n/Q".to_owned()), "`arguments` must be at most 8000 bytes"),
        ("a.exe", b"MZ", said_to_it("x".repeat(8000)), "does not say when it is installed"),
        ("a.msu", b"MSCF", Wishes::default(), "does not say which version it is"),
        ("a.msi", &without("ProductCode"), Wishes::default(), "damaged: it has no property `ProductCode`"),
        ("a.msi", &without("ProductName"), Wishes::default(), "damaged: it has no property `ProductName`"),
        ("a.msi", &odd, Wishes::default(), "`ProductVersion` must be up to four numbers"),
        ("a.msi", half, Wishes::default(), "`a.msi` is damaged: "),
        ("a.deb", b"!<arch>\n", Wishes::default(), "`a.deb` is damaged: it has no control archive"),
        ("a.deb", &deb(".gz", "Package: a\nVersion: 1\n"), Wishes::default(), "has no `Architecture`"),
        ("a.deb", &deb(".gz", ""), Wishes::default(), "its control file is empty"),
    ] {
        let error = read(name, bytes, wishes).unwrap_err();
        let text = tierway_common::daemon::chain::Chain(&error).to_string();
        assert!(text.contains(expected), "{name}: {text}");
    }
}

#[test]
fn a_damaged_package_is_refused_and_ends_nothing() {
    let lone = |name: &str, size: &str| [b"!<arch>\n".as_slice(), &ar_header(name, size)].concat();
    let bad_end =
        || lone("debian-binary", "0").into_iter().map(|byte| if byte == b'`' { b'x' } else { byte });
    let odd = [lone("debian-binary", "5"), b"2.0\n\n".to_vec()].concat();
    let length = "`a` is damaged: its archive has a member of no length that can be";
    let tables = "`a` is damaged: its tables are not those of a database";
    for (bytes, expected) in [
        // A name from a table of long names, which no archive of Debian has.
        (lone("/5", "0"), "`a` is damaged: it has no control archive"),
        (lone("//", "9999999999"), length),
        (lone("control.tar", "9999999999"), length),
        (lone("control.tar", "-1"), length),
        (bad_end().collect(), length),
        (odd, "`a` is damaged: it has no control archive"),
        (lone("control.tar.gz", "0"), "`a` is damaged: "),
        (lone("control.tar.gz", "0")[..40].to_vec(), "`a` is damaged: "),
        (deb(".xz", "Package: a\n")[..200].to_vec(), length),
        (zeroed(app("1.1.0", NEW), TABLES), tables),
        (zeroed(app("1.1.0", NEW), COLUMNS), tables),
    ] {
        let error = read("a", &bytes, Wishes::default()).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn a_name_has_neither_the_version_nor_anything_an_id_cannot_have() {
    for (product, version, name) in [
        ("7-Zip 23.01 (x64 edition)", "23.01", "7-zip-x64-edition"),
        ("Notepad++", "8", "notepad++"),
        ("Ünïcode", "1", "n-code"),
    ] {
        assert_eq!(named(product, version), name);
    }
}
