//! Packages of an administrator's own: what is made of a file is a document that every tier takes, or the file is refused.

use std::io::{Cursor, Write as _};

use tierway_central::sources::local::{self, File, Wishes};
use tierway_common::{rules, schema::Update, trust::digest::Digest};

use super::Target;

pub(super) const PACKAGES: Target = Target {
    name: "packages",
    run,
    seeds,
    words: &[
        "!<arch>\n",
        "control.tar",
        "control.tar.gz  ",
        "`\n",
        "./control",
        "Package: a\n",
        "Version: 1\n",
        "Architecture: all\n",
        "ProductCode",
        "ProductVersion",
        "\u{d0}\u{cf}\u{11}\u{e0}",
        "9999999999",
    ],
};

fn run(bytes: &[u8]) -> bool {
    let file = File { name: "app-1.0.msi".to_owned(), digest: Digest::of(bytes), bytes: bytes.len() as u64 };
    let now = "2026-11-25T00:00:00Z".parse().unwrap();
    let describe = || local::describe(&file, Cursor::new(bytes), Wishes::default(), now);
    let Ok(described) = describe() else { return false };
    assert_eq!(describe().unwrap(), described, "the same file makes two packages");
    let update = described.update;
    for rule in [&update.applicable, &update.installed] {
        assert!(rules::check(rule).is_ok(), "its rule is one that no endpoint takes");
    }
    let json = serde_json::to_vec(&update).unwrap();
    assert_eq!(
        serde_json::from_slice::<Update>(&json).unwrap(),
        update,
        "its document is another when it is read"
    );
    for (_, payload) in update.install.payloads() {
        assert_eq!((payload.digest, payload.bytes), (file.digest, file.bytes), "it installs another file");
    }
    true
}

/// A package of Debian with this control archive.
fn deb(suffix: &str, control: &[u8]) -> Vec<u8> {
    let mut archive = b"!<arch>\n".to_vec();
    let control_name = format!("control.tar{suffix}");
    for (name, bytes) in [("debian-binary", b"2.0\n".as_slice()), (&control_name, control)] {
        let header = format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, "100644", bytes.len());
        archive.extend(header.into_bytes());
        archive.extend(bytes);
        archive.extend(&b"\n"[..bytes.len() % 2]);
    }
    archive
}

fn seeds() -> Vec<Vec<u8>> {
    let control = "Package: hello\nVersion: 2.10-4\nArchitecture: amd64\nDepends: libc6 (>= 2.34),\n libfoo\nDescription: one\n two\n";
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(control.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "./control", control.as_bytes()).unwrap();
    let tar = tar.into_inner().unwrap();
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 0);
    xz.write_all(&tar).unwrap();
    let xz = xz.finish().unwrap();

    let mut package = msi::Package::create(msi::PackageType::Installer, Cursor::new(Vec::new())).unwrap();
    package.summary_info_mut().set_arch("x64");
    let columns = vec![
        msi::Column::build("Property").primary_key().id_string(72),
        msi::Column::build("Value").nullable().formatted_string(0),
    ];
    package.create_table("Property", columns).unwrap();
    let properties = [
        ("ProductCode", "{AAAAAAAA-0000-0000-0000-000000000010}"),
        ("ProductName", "App"),
        ("ProductVersion", "1.1.0"),
        ("UpgradeCode", "{11111111-2222-3333-4444-555555555555}"),
    ];
    let rows = properties.iter().map(|(name, value)| vec![msi::Value::from(*name), msi::Value::from(*value)]);
    package.insert_rows(msi::Insert::into("Property").rows(rows.collect())).unwrap();
    vec![deb("", &tar), deb(".xz", &xz), package.into_inner().unwrap().into_inner()]
}
