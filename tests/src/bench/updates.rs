//! Update documents that look like Debian's, made from their number alone.

pub mod windows;

use bytes::Bytes;
use serde_json::json;
use tierway_common::{id::UpdateId, schema::Update, trust::digest::Digest};

/// Their catalogue.
pub const CATALOGUE: &str = "debian-12";
/// Packages that are installed on the computer of [`status`].
pub const INSTALLED: usize = 2_000;
/// Source packages there are.
const SOURCES: usize = 20_000;
/// Updates there are: of each source package two or three, the newest of which replaces the others.
pub const UPDATES: usize = 50_000;

/// The name of a source package, and of the first of its packages.
fn source(number: usize) -> String {
    const HEADS: [&str; 8] = ["lib", "python-", "", "golang-", "node-", "r-cran-", "fonts-", "linux-"];
    const WORDS: [&str; 10] = ["ssl", "xml", "curl", "gtk", "avahi", "perl", "kernel", "mesa", "gst", "qt"];
    format!("{}{}{}", HEADS[number % 8], WORDS[number / 8 % 10], number / 80)
}

/// Random-looking numbers that depend on what they are about alone.
fn draw(about: &str) -> [u8; 32] {
    *Digest::of(about.as_bytes()).as_bytes()
}

fn version(source: usize, step: usize) -> String {
    let drawn = draw(&format!("version {source}"));
    format!("{}.{}.{}-{}+deb12u{step}", drawn[0] % 9, drawn[1] % 30, drawn[2] % 20, 1 + drawn[3] % 4)
}

/// The id of the update with this number, below [`UPDATES`].
#[must_use]
pub fn id(number: usize) -> UpdateId {
    let source_number = number % SOURCES;
    let version = version(source_number, 2 + number / SOURCES);
    format!("{CATALOGUE}/{}_{version}", source(source_number)).parse().expect("an id")
}

/// Which updates this one replaces, and which replaces it, by number.
fn replaced(number: usize) -> (Vec<usize>, Option<usize>) {
    let first = number % SOURCES;
    let newest = first + (UPDATES - 1 - first) / SOURCES * SOURCES;
    if number == newest {
        ((first..newest).step_by(SOURCES).collect(), None)
    } else {
        (Vec::new(), Some(newest))
    }
}

/// The document of an update, and its key in the tree. Another `revision` is the same update after its
/// packages were built again.
#[must_use]
pub fn document(number: usize, revision: usize) -> (String, Bytes) {
    let id = id(number);
    let source_number = number % SOURCES;
    let (name, version) = (source(source_number), version(source_number, 2 + number / SOURCES));
    let drawn = draw(&format!("update {number}"));
    let binaries: Vec<String> = (0..1 + usize::from(drawn[0]) % 2)
        .map(|index| if index == 0 { name.clone() } else { format!("{name}-common") })
        .collect();
    let package = |name: &String| json!({"package": {"manager": "deb", "name": name}});
    let current = |name: &String| json!({"not": {"package": {"manager": "deb", "name": name, "version": {"lt": version}}}});
    let built = |name: &String| {
        let payload = Digest::of(format!("payload {name} {version} {revision}").as_bytes());
        json!({
            "name": name, "version": version, "architecture": "amd64",
            "payload": {
                "digest": payload, "bytes": 10_000 + u64::from(drawn[1]) * 4_321,
                "url": format!("https://deb.debian.org/debian-security/pool/updates/main/{}/{name}_{version}_amd64.deb", &name[..1]),
            },
            "control": {"Depends": "libc6 (>= 2.36)", "Source": source(source_number)},
        })
    };
    let (older, newer) = replaced(number);
    let document = json!({
        "id": id,
        "title": format!("{name}: security update"),
        "product": name,
        "version": version,
        "severity": "important",
        "released": format!("2026-{:02}-{:02}T10:00:00Z", 1 + drawn[2] % 12, 1 + drawn[3] % 28),
        "references": [format!("DSA-{}-1", 5_000 + number), format!("CVE-2026-{}", 10_000 + u32::from(drawn[4]) * 37)],
        "applicable": {"all": [
            {"os": {"family": "debian", "codename": "bookworm"}},
            {"any": binaries.iter().map(package).collect::<Vec<_>>()},
        ]},
        "installed": {"all": binaries.iter().map(current).collect::<Vec<_>>()},
        "supersedes": older.into_iter().map(self::id).collect::<Vec<_>>(),
        "superseded_by": newer.into_iter().map(self::id).collect::<Vec<_>>(),
        "install": {"deb": {"packages": binaries.iter().map(built).collect::<Vec<_>>()}},
    });
    let update: Update = serde_json::from_value(document).expect("a document");
    let json = serde_json::to_vec(&update).expect("JSON");
    (format!("update/{}", id.name()), json.into())
}

/// dpkg's status file of a computer with [`INSTALLED`] packages that has most updates.
#[must_use]
pub fn status() -> String {
    (0..INSTALLED)
        .map(|number| {
            let number = number * (SOURCES / INSTALLED);
            let step = if draw(&format!("installed {number}"))[0] < 8 { 3 } else { 9 };
            format!(
                "Package: {}\nStatus: install ok installed\nPriority: optional\nSection: libs\nInstalled-Size: 123\n\
                 Maintainer: Nobody <nobody@example.org>\nArchitecture: amd64\nVersion: {}\nDepends: libc6 (>= 2.36)\n\
                 Description: made up\n Of no use to anyone, and as long as such texts\n are.\n\n",
                source(number),
                version(number, step),
            )
        })
        .collect()
}
