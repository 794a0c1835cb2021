//! TUF metadata: what is signed has one form, and what is read of it does not depend on how it was written.

use std::{collections::BTreeMap, fmt::Debug};

use tierway_common::trust::tuf::{
    canonical::Json,
    metadata::{Role, Root, Signed, Snapshot, Targets, TimestampRole},
    pattern,
};

use super::{Target, texts};

pub(super) const METADATA: Target = Target {
    name: "metadata",
    run,
    seeds,
    words: &[
        "\"_type\":\"targets\"",
        "\"spec_version\":\"1.0.34\"",
        "\"version\":1",
        "\"expires\":\"2030-01-01T00:00:00Z\"",
        "\"threshold\":1",
        "\"keyids\":[]",
        "\"delegations\"",
        "\"succinct_roles\"",
        "\"bit_length\":8",
        "\"paths\":[\"*\"]",
        "\"path_hash_prefixes\"",
        "\"terminating\":true",
        "\"hashes\":{\"sha256\":\"\"}",
        "\"length\":1",
        "-0",
        "1e3",
        "18446744073709551615",
        "\\u0000",
        "\\ud83d\\ude00",
        "[!a-z]",
        "**",
        "?",
    ],
};

fn run(bytes: &[u8]) -> bool {
    let Ok(signed) = Signed::parse(bytes) else { return false };
    let value: serde_json::Value = serde_json::from_slice(bytes).unwrap();
    // What is signed is read as the same document again, and has no other form.
    let json: Json = serde_json::from_value(value["signed"].clone()).unwrap();
    let mut canonical = json.canonical();
    // Control characters stand in it as they are, which other readers of JSON do not take.
    if !canonical.iter().any(u8::is_ascii_control) {
        let again: Json = serde_json::from_slice(&canonical).unwrap();
        assert_eq!(again, json, "the canonical form says something else");
        assert_eq!(again.canonical(), canonical, "the canonical form is not its own");
    } else {
        canonical = value["signed"].to_string().into_bytes();
    }
    let file = [b"{\"signatures\":[],\"signed\":".as_slice(), &canonical, b"}"].concat();
    let rewritten = Signed::parse(&file).unwrap();
    let read = [
        the_same::<Root>(&signed, &rewritten),
        the_same::<TimestampRole>(&signed, &rewritten),
        the_same::<Snapshot>(&signed, &rewritten),
        the_same::<Targets>(&signed, &rewritten),
    ];
    assert!(read.iter().filter(|read| **read).count() <= 1, "one file is metadata of two roles");
    if let Ok(root) = signed.read::<Root>() {
        for role in ["root", "timestamp", "snapshot", "targets", "other"] {
            let keys = root.content.role(role);
            assert!(
                rewritten.verify(&root.content.keys, &keys).is_err() || keys.threshold == 0,
                "unsigned, it verifies"
            );
            assert!(signed.verify(&BTreeMap::new(), &keys).is_err(), "it verifies without a key");
        }
    }
    if let Ok(targets) = signed.read::<Targets>() {
        let paths: Vec<&String> = targets.content.targets.keys().collect();
        let roles = targets.content.delegations.iter().flat_map(|delegations| &delegations.roles);
        for pattern in roles.flat_map(|role| role.paths.iter().flatten()) {
            for path in paths.iter().take(16) {
                let covers = pattern::covers(pattern, path);
                let slashes = |text: &str| text.matches('/').count();
                assert!(
                    !covers || slashes(pattern) == slashes(path),
                    "`{pattern}` covers `{path}` across a separator"
                );
            }
        }
    }
    read.contains(&true)
}

/// Whether both are metadata of the role: then of the same contents.
fn the_same<T: Role + Debug + PartialEq>(one: &Signed<'_>, other: &Signed<'_>) -> bool {
    match (one.read::<T>(), other.read::<T>()) {
        (Ok(one), Ok(other)) => {
            assert_eq!(one, other, "written again, it says something else");
            true
        }
        (Err(_), Err(_)) => false,
        (one, other) => panic!("once read and once refused: {one:?} and {other:?}"),
    }
}

fn seeds() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"signatures":[{"keyid":"ab","sig":"00"}],"signed":{"_type":"root","consistent_snapshot":true,"expires":"2030-01-01T00:00:00Z","keys":{"ab":{"keytype":"ed25519","keyval":{"public":"d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"},"scheme":"ed25519"}},"roles":{"root":{"keyids":["ab"],"threshold":1},"snapshot":{"keyids":["ab"],"threshold":1},"targets":{"keyids":["ab"],"threshold":1},"timestamp":{"keyids":["ab"],"threshold":1}},"spec_version":"1.0.34","version":1}}"#,
        r#"{"signatures":[],"signed":{"_type":"timestamp","expires":"2030-01-01T00:00:00Z","meta":{"snapshot.json":{"version":7,"length":100,"hashes":{"sha256":"d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"}}},"spec_version":"1.0.34","version":3}}"#,
        r#"{"signatures":[],"signed":{"_type":"snapshot","expires":"2030-01-01T00:00:00Z","meta":{"targets.json":{"version":2},"a.json":{"version":1}},"spec_version":"1.0.34","version":3}}"#,
        r#"{"signatures":[],"signed":{"_type":"targets","expires":"2030-01-01T00:00:00Z","spec_version":"1.0.34","version":3,"targets":{"a/b.json":{"length":3,"hashes":{"sha256":"d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"},"custom":{"x":[1,null,"é"]}}},"delegations":{"keys":{},"roles":[{"name":"r","keyids":["ab"],"threshold":1,"terminating":false,"paths":["a/*","[!a-c]?/b.json"]}]}}}"#,
        r#"{"signatures":[],"signed":{"_type":"targets","expires":"2030-01-01T00:00:00Z","spec_version":"1.0.34","version":3,"targets":{},"delegations":{"keys":{},"succinct_roles":{"keyids":["ab"],"threshold":1,"bit_length":8,"name_prefix":"bin"}}}}"#,
    ])
}
