//! What there is to publish: generations of one package, each an update with a payload of its own, and the policy by which
//! it is installed.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::json;
use tierway_central::sources::{SourceConfig, State, Stats, Synced};
use tierway_common::{id::UpdateId, schema::Update, trust::digest::Digest};

/// The catalogue, and the source that gives it: an administrator's own, which nothing is read for.
const CATALOGUE: &str = "local";
/// Of every computer.
pub const PACKAGE: &str = "tool";
/// The group of every computer.
pub const GROUP: &str = "all";
/// The window in which one is down at once.
pub const WINDOW: &str = "any";
/// Computers that may be down at once.
pub const AT_ONCE: usize = 1;
/// Documents of the policy, by key.
pub const POLICY: [(&str, &str); 2] = [
    (
        "window/any",
        r#"{"id":"any","opens":[{"on":"every","at":"00:00:00"}],"length":"24h","zone":"UTC","at_once_max":1}"#,
    ),
    (
        "level/all",
        r#"{"id":"all","experience":"silent","windows":["any"],"reboot":"suppress","grace":"0s","deadline":"5days",
        "schedule":{"every":"1h"},"retry_interval":"30min"}"#,
    ),
];

/// The version of a generation, from 1 on.
#[must_use]
pub fn version(generation: u64) -> String {
    format!("{generation}.0")
}

/// The id of the update to a generation.
#[must_use]
pub fn id(generation: u64) -> UpdateId {
    format!("{CATALOGUE}/{PACKAGE}_{}", version(generation)).parse().unwrap()
}

/// What a generation is made of.
#[must_use]
pub fn payload(generation: u64) -> Vec<u8> {
    // Two small blobs and one that is not gathered with its neighbours.
    let bytes = if generation.is_multiple_of(3) { 70_000 } else { 900 };
    format!("{PACKAGE} {} ", version(generation)).into_bytes().into_iter().cycle().take(bytes).collect()
}

/// As it is configured.
#[must_use]
pub fn source() -> SourceConfig {
    let config = json!({
        "kind": "debian", "name": CATALOGUE, "catalogue": CATALOGUE, "os_version": "12",
        "url": "http://archive.invalid/debian-security", "suite": "bookworm-security",
    });
    serde_json::from_value(config).unwrap()
}

fn update(generation: u64) -> Update {
    let (version, payload) = (version(generation), payload(generation));
    let package = json!({"package": {"manager": "deb", "name": PACKAGE}});
    let older = json!({"package": {"manager": "deb", "name": PACKAGE, "version": {"lt": version}}});
    let document = json!({
        "id": id(generation),
        "title": format!("{PACKAGE} security update"),
        "product": PACKAGE,
        "version": version,
        "severity": "important",
        "released": "2026-11-01T00:00:00Z",
        "references": [],
        "applicable": package,
        "installed": {"not": older},
        "supersedes": [],
        "superseded_by": [],
        "install": {"deb": {"packages": [{
            "name": PACKAGE, "version": version, "architecture": "amd64",
            "payload": {
                "digest": Digest::of(&payload), "bytes": payload.len(),
                "url": format!("http://archive.invalid/{PACKAGE}_{version}_amd64.deb"),
            },
        }]}},
    });
    serde_json::from_value(document).unwrap()
}

/// What the source gives when there are so many generations.
#[must_use]
pub fn synced(generations: u64) -> Synced {
    let catalogue: BTreeMap<String, Bytes> = (1..=generations)
        .map(|generation| {
            let update = update(generation);
            (format!("update/{}", update.id.name()), serde_json::to_vec(&update).unwrap().into())
        })
        .collect();
    Synced {
        unchanged: false,
        catalogue,
        pool: BTreeMap::new(),
        state: State::New,
        archive_date: "2026-11-01T00:00:00Z".parse().unwrap(),
        stats: Stats::default(),
    }
}
