//! What a repository, a relay or a thief of online keys can try on the four top-level roles.

use serde_json::{Value, json};

use super::forge::{BROKEN, ENDLESS, Forge, assert_refused, days, key_json, now, target_json};

/// A client has versions 3 of targets, snapshot and timestamp; then the attack; then the client refreshes.
struct Case {
    name: &'static str,
    attack: fn(&mut Forge),
    /// Part of the message.
    refused: &'static str,
    /// Versions on disk afterwards: root, timestamp, snapshot, targets.
    kept: [u64; 4],
}

fn begun() -> Forge {
    let mut forge = Forge::new();
    forge.say("targets")["targets"]["file"] = target_json("content");
    forge.release(&["targets"]);
    forge.release(&["targets"]);
    forge
}

fn check(cases: &[Case]) {
    for Case { name, attack, refused, kept } in cases {
        for hashes in [false, true] {
            let mut forge = begun();
            forge.hashes = hashes;
            let client = forge.client();
            client.refresh(now()).unwrap_or_else(|err| panic!("{name}: {err}"));
            let before = forge.served.all();
            attack(&mut forge);
            assert_refused(client.refresh(now()), refused, name);
            let versions = client.versions();
            let found = ["root", "timestamp", "snapshot", "targets"]
                .map(|role| versions.get(role).copied().unwrap_or(0));
            assert_eq!(found, *kept, "{name}");

            // Not worse off than before: what is genuine is still accepted.
            if kept[0] == 1 && kept[1] == 3 {
                forge.served.replace(before);
                client.refresh(now()).unwrap_or_else(|err| panic!("{name}, afterwards: {err}"));
            }
        }
    }
}

fn edit(forge: &mut Forge, role: &str, edit: impl FnOnce(&mut Value)) {
    forge.bump(role);
    edit(forge.say(role));
    forge.put(role);
    match role {
        "targets" => {
            forge.refer("targets", "snapshot");
            forge.release_snapshot();
        }
        "snapshot" => {
            forge.refer("snapshot", "timestamp");
            forge.release_timestamp();
        }
        _ => {}
    }
}

#[test]
fn a_timestamp_that_is_not_genuine_new_and_in_time_is_refused() {
    check(&[
        Case {
            name: "signed by nobody",
            attack: |forge| {
                forge.signers.insert("timestamp".into(), vec![]);
                forge.release_timestamp();
            },
            refused: "0 of 1 required signatures",
            kept: [1, 3, 3, 3],
        },
        Case {
            name: "signed by another role's key",
            attack: |forge| {
                forge.signers.insert("timestamp".into(), vec![3, 4]);
                forge.release_timestamp();
            },
            refused: "0 of 1 required signatures",
            kept: [1, 3, 3, 3],
        },
        Case {
            name: "altered after it was signed",
            attack: |forge| {
                forge.release_timestamp();
                let text = String::from_utf8(forge.signed("timestamp").to_vec()).unwrap();
                forge.put_raw("timestamp", text.replace("2027", "2028"));
            },
            refused: "0 of 1 required signatures",
            kept: [1, 3, 3, 3],
        },
        Case {
            name: "rollback",
            attack: |forge| {
                forge.say("timestamp")["version"] = 2.into();
                forge.put("timestamp");
            },
            refused: "rollback: `timestamp.json` goes back from version 3 to 2",
            kept: [1, 3, 3, 3],
        },
        Case {
            name: "rollback of the snapshot",
            attack: |forge| {
                forge.say("timestamp")["meta"]["snapshot.json"] = json!({ "version": 2 });
                forge.release_timestamp();
            },
            refused: "rollback: `snapshot.json` goes back from version 3 to 2",
            kept: [1, 3, 3, 3],
        },
        Case {
            name: "freeze",
            attack: |forge| {
                edit(forge, "timestamp", |says| says["expires"] = "2026-11-20T03:00:00Z".into());
            },
            refused: "freeze: `timestamp.json` expired",
            kept: [1, 3, 3, 3],
        },
        Case {
            name: "fast-forward",
            attack: |forge| {
                edit(forge, "timestamp", |says| says["version"] = (4_u64 << 32).into());
            },
            refused: "fast-forward: `timestamp.json`",
            kept: [1, 3, 3, 3],
        },
        Case {
            name: "fast-forward to the last version there is",
            attack: |forge| edit(forge, "timestamp", |says| says["version"] = u64::MAX.into()),
            refused: "fast-forward: `timestamp.json`",
            kept: [1, 3, 3, 3],
        },
        Case {
            name: "endless data",
            attack: |forge| forge.put_raw("timestamp", ENDLESS),
            refused: "endless data: `timestamp.json` has more than 16384 bytes",
            kept: [1, 3, 3, 3],
        },
        Case {
            name: "withheld",
            attack: |forge| forge.served.remove("timestamp.json"),
            refused: "the repository has no `timestamp.json`",
            kept: [1, 3, 3, 3],
        },
        Case {
            name: "out of reach",
            attack: |forge| forge.put_raw("timestamp", BROKEN),
            refused: "could not fetch `timestamp.json`: connection reset",
            kept: [1, 3, 3, 3],
        },
        Case {
            name: "another role's file",
            attack: |forge| forge.put_raw("timestamp", forge.signed("snapshot")),
            refused: "0 of 1 required signatures",
            kept: [1, 3, 3, 3],
        },
    ]);
}

#[test]
fn a_snapshot_that_is_not_the_one_named_is_refused() {
    check(&[
        Case {
            name: "signed by nobody",
            attack: |forge| {
                forge.signers.insert("snapshot".into(), vec![2]);
                forge.release_snapshot();
            },
            refused: "`snapshot.json` is refused: 0 of 1 required signatures",
            kept: [1, 4, 3, 3],
        },
        Case {
            name: "another version than the timestamp names",
            attack: |forge| {
                forge.release_snapshot();
                let file = forge.file("snapshot");
                forge.say("snapshot")["version"] = 3.into();
                forge.hashes = false;
                forge.say("timestamp")["meta"]["snapshot.json"] = json!({ "version": 4 });
                forge.put("timestamp");
                let old = forge.signed("snapshot");
                forge.served.put(&file, old);
            },
            refused: "mix-and-match: `snapshot.json` has version 3 where 4 is needed",
            kept: [1, 4, 3, 3],
        },
        Case {
            name: "other bytes than the timestamp names",
            attack: |forge| {
                forge.hashes = true;
                forge.release_snapshot();
                forge.say("snapshot")["expires"] = "2028-11-20T03:00:00Z".into();
                forge.put("snapshot");
            },
            refused: "mix-and-match: `4.snapshot.json` is not the file that `timestamp` names",
            kept: [1, 4, 3, 3],
        },
        Case {
            name: "one byte more than the timestamp names",
            attack: |forge| {
                forge.hashes = true;
                forge.release_snapshot();
                let bytes = [&forge.signed("snapshot")[..], b" "].concat();
                forge.put_raw("snapshot", bytes);
            },
            refused: "endless data: `4.snapshot.json`",
            kept: [1, 4, 3, 3],
        },
        Case {
            name: "rollback of the targets",
            attack: |forge| {
                forge.say("targets")["version"] = 2.into();
                forge.put("targets");
                forge.refer("targets", "snapshot");
                forge.release_snapshot();
            },
            refused: "rollback: `targets.json` goes back from version 3 to 2",
            kept: [1, 4, 3, 3],
        },
        Case {
            name: "targets that are not listed any more",
            attack: |forge| {
                edit(forge, "snapshot", |says| says["meta"] = json!({ "x.json": { "version": 1 } }))
            },
            refused: "`targets.json` is missing",
            kept: [1, 4, 3, 3],
        },
        Case {
            name: "fast-forward of the targets",
            attack: |forge| {
                let far = json!({ "version": 1_u64 << 40 });
                edit(forge, "snapshot", |says| says["meta"]["targets.json"] = far);
            },
            refused: "fast-forward: `targets.json` jumps from version 3",
            kept: [1, 4, 3, 3],
        },
        Case {
            name: "fast-forward of a delegated role never seen",
            attack: |forge| {
                let far = json!({ "version": 1_u64 << 40 });
                edit(forge, "snapshot", |says| says["meta"]["new\n.json"] = far);
            },
            refused: r"fast-forward: `new\n.json` jumps from version 0",
            kept: [1, 4, 3, 3],
        },
        Case {
            name: "freeze",
            attack: |forge| edit(forge, "snapshot", |says| says["expires"] = "2026-11-20T03:00:00Z".into()),
            refused: "freeze: `snapshot.json` expired",
            kept: [1, 4, 3, 3],
        },
        Case {
            name: "endless data",
            attack: |forge| {
                forge.hashes = false;
                forge.release_snapshot();
                forge.put_raw("snapshot", ENDLESS);
            },
            refused: "endless data: `4.snapshot.json` has more than 2000000 bytes",
            kept: [1, 4, 3, 3],
        },
        Case {
            name: "a length that nobody would declare",
            attack: |forge| {
                let named = json!({ "version": 4, "length": u64::MAX });
                edit(forge, "timestamp", |says| says["meta"]["snapshot.json"] = named);
            },
            refused: "endless data: `4.snapshot.json` has more than 33554432 bytes",
            kept: [1, 4, 3, 3],
        },
        Case {
            name: "withheld",
            attack: |forge| {
                forge.release_snapshot();
                forge.served.remove("4.snapshot.json");
            },
            refused: "the repository has no `4.snapshot.json`",
            kept: [1, 4, 3, 3],
        },
    ]);
}

#[test]
fn targets_that_are_not_the_ones_named_are_refused() {
    check(&[
        Case {
            name: "signed by whoever has the snapshot's and the timestamp's key",
            attack: |forge| {
                forge.signers.insert("targets".into(), vec![2, 3]);
                forge.release(&["targets"]);
            },
            refused: "`targets.json` is refused: 0 of 1 required signatures",
            kept: [1, 4, 4, 3],
        },
        Case {
            name: "another version than the snapshot names",
            attack: |forge| {
                forge.hashes = false;
                forge.release(&["targets"]);
                forge.bump("targets");
                let newer = forge.signed("targets");
                forge.served.put("4.targets.json", newer);
            },
            refused: "mix-and-match: `targets.json` has version 5 where 4 is needed",
            kept: [1, 4, 4, 3],
        },
        Case {
            name: "other bytes than the snapshot names",
            attack: |forge| {
                forge.hashes = true;
                forge.release(&["targets"]);
                forge.say("targets")["expires"] = "2028-11-20T03:00:00Z".into();
                forge.put("targets");
            },
            refused: "mix-and-match: `4.targets.json` is not the file that `snapshot` names",
            kept: [1, 4, 4, 3],
        },
        Case {
            name: "freeze",
            attack: |forge| edit(forge, "targets", |says| says["expires"] = "2026-11-20T03:00:00Z".into()),
            refused: "freeze: `targets.json` expired",
            kept: [1, 4, 4, 3],
        },
        Case {
            name: "endless data",
            attack: |forge| {
                forge.hashes = false;
                forge.release(&["targets"]);
                forge.put_raw("targets", ENDLESS);
            },
            refused: "endless data: `4.targets.json` has more than 5000000 bytes",
            kept: [1, 4, 4, 3],
        },
    ]);
}

#[test]
fn a_root_that_the_one_before_does_not_vouch_for_is_refused() {
    check(&[
        Case {
            name: "not signed by the old keys",
            attack: |forge| {
                forge.keys("root", &[9], 1);
                forge.release_root();
            },
            refused: "`2.root.json` is refused: 0 of 1 required signatures",
            kept: [1, 3, 3, 3],
        },
        Case {
            name: "not signed by the new keys",
            attack: |forge| {
                forge.keys("root", &[8, 9], 2);
                forge.signers.insert("root".into(), vec![1, 9]);
                forge.release_root();
            },
            refused: "`2.root.json` is refused: 1 of 2 required signatures",
            kept: [1, 3, 3, 3],
        },
        Case {
            name: "one version skipped",
            attack: |forge| {
                forge.bump("root");
                forge.bump("root");
                let skipping = forge.signed("root");
                forge.served.put("2.root.json", skipping);
            },
            refused: "`2.root.json` has version 3 where 2 is needed",
            kept: [1, 3, 3, 3],
        },
        Case {
            name: "the same again",
            attack: |forge| {
                let same = forge.signed("root");
                forge.served.put("2.root.json", same);
            },
            refused: "`2.root.json` has version 1 where 2 is needed",
            kept: [1, 3, 3, 3],
        },
        Case {
            name: "a good one and then a bad one",
            attack: |forge| {
                forge.release_root();
                forge.keys("root", &[9], 1);
                forge.release_root();
            },
            refused: "`3.root.json` is refused",
            kept: [2, 3, 3, 3],
        },
        Case {
            name: "expired",
            attack: |forge| edit(forge, "root", |says| says["expires"] = "2026-11-20T02:59:59Z".into()),
            refused: "freeze: `root.json` expired at 2026-11-20T02:59:59Z",
            kept: [2, 3, 3, 3],
        },
        Case {
            name: "endless data",
            attack: |forge| forge.served.put("2.root.json", ENDLESS),
            refused: "endless data: `2.root.json` has more than 512000 bytes",
            kept: [1, 3, 3, 3],
        },
        Case {
            name: "withheld by breaking the connection",
            attack: |forge| forge.served.put("2.root.json", BROKEN),
            refused: "could not fetch `2.root.json`",
            kept: [1, 3, 3, 3],
        },
        Case {
            name: "a role that any signature satisfies",
            attack: |forge| edit(forge, "root", |says| says["roles"]["targets"]["threshold"] = 0.into()),
            refused: "role `targets` has threshold 0",
            kept: [1, 3, 3, 3],
        },
        Case {
            name: "a key listed twice",
            attack: |forge| {
                let keyid = key_json(2).0;
                edit(forge, "root", |says| {
                    says["roles"]["timestamp"] = json!({ "keyids": [keyid, keyid], "threshold": 2 });
                });
            },
            refused: "lists key",
            kept: [1, 3, 3, 3],
        },
        Case {
            name: "a role is missing",
            attack: |forge| {
                edit(forge, "root", |says| {
                    says["roles"].as_object_mut().unwrap().remove("snapshot");
                });
            },
            refused: "role `snapshot` is missing",
            kept: [1, 3, 3, 3],
        },
    ]);
}

#[test]
fn metadata_that_no_reader_must_take_is_refused_though_it_is_signed() {
    type Edit = fn(&mut Value);
    let edits: [(&str, Edit, &str); 14] = [
        ("version 0", |says| says["version"] = 0.into(), "version is 0"),
        ("version missing", |says| says["version"] = Value::Null, "invalid type"),
        ("version as text", |says| says["version"] = "4".into(), "invalid type"),
        ("version negative", |says| says["version"] = (-4).into(), "invalid value"),
        ("another type", |says| says["_type"] = "snapshot".into(), "of type `snapshot`"),
        ("specification 2", |says| says["spec_version"] = "2.0.0".into(), "`2.0.0` is not 1.x"),
        ("specification 10", |says| says["spec_version"] = "10.0.0".into(), "`10.0.0` is not 1.x"),
        ("specification x", |says| says["spec_version"] = "1.x".into(), "`1.x` is not 1.x"),
        ("fraction of a second", |says| says["expires"] = "2027-01-01T00:00:00.5Z".into(), "is not a time"),
        ("another zone", |says| says["expires"] = "2027-01-01T00:00:00+01:00".into(), "is not a time"),
        ("no such day", |says| says["expires"] = "2027-02-30T00:00:00Z".into(), "is not a time"),
        ("no snapshot", |says| says["meta"] = json!({}), "`snapshot.json` is missing"),
        ("snapshot 0", |says| says["meta"]["snapshot.json"]["version"] = 0.into(), "has version 0"),
        (
            "unknown hashes alone",
            |says| says["meta"]["snapshot.json"]["hashes"] = json!({ "md5": "00" }),
            "neither `sha256` nor `sha512`",
        ),
    ];
    for (name, change, refused) in edits {
        let mut forge = begun();
        let client = forge.client();
        client.refresh(now()).unwrap();
        edit(&mut forge, "timestamp", change);
        assert_refused(client.refresh(now()), refused, name);
        assert_eq!(client.versions()["timestamp"], 3, "{name}");
    }
}

#[test]
fn bytes_that_two_readers_could_read_differently_are_refused() {
    let mut forge = begun();
    let client = forge.client();
    client.refresh(now()).unwrap();
    forge.release_timestamp();
    let good = String::from_utf8(forge.signed("timestamp").to_vec()).unwrap();
    for (bad, refused) in [
        (good.replacen(r#""version":4"#, r#""version":3,"version":4"#, 1), "there twice"),
        (good.replacen(r#""version":4"#, r#""version":4.0"#, 1), "not an integer"),
        (good.replacen(r#""signed":{"#, r#""signed":{"x":1e3,"#, 1), "not an integer"),
        (format!("{good}{good}"), "trailing characters"),
        (good[..good.len() - 1].to_owned(), "EOF"),
        (good.replacen(r#""signatures""#, r#""signatures":[],"signatures""#, 1), "duplicate field"),
    ] {
        forge.put_raw("timestamp", bad);
        assert_refused(client.refresh(now()), refused, refused);
    }
    // The signature is over the canonical form: blanks and the order of keys are nobody's business.
    let value: Value = serde_json::from_str(&good).unwrap();
    forge.put_raw("timestamp", serde_json::to_vec_pretty(&value).unwrap());
    client.refresh(now()).unwrap();
}

#[test]
fn one_key_that_signs_twice_counts_once() {
    let mut forge = begun();
    let client = forge.client();
    client.refresh(now()).unwrap();
    forge.keys("timestamp", &[2, 5], 2);
    forge.release_root();

    forge.signers.insert("timestamp".into(), vec![2, 2]);
    forge.release_timestamp();
    assert_refused(client.refresh(now()), "is listed with two signatures", "the same id twice");

    // The same key under a second id.
    let mut twin = Forge::new();
    twin.keys("timestamp", &[2], 2);
    twin.say("root")["keys"]["twin"] = key_json(2).1;
    twin.say("root")["roles"]["timestamp"]["keyids"] = json!([key_json(2).0, "twin"]);
    twin.release_root();
    let mut says: Value = serde_json::from_slice(&twin.signed("timestamp")).unwrap();
    let mut second = says["signatures"][0].clone();
    second["keyid"] = "twin".into();
    says["signatures"].as_array_mut().unwrap().push(second);
    twin.put_raw("timestamp", serde_json::to_vec(&says).unwrap());
    assert_refused(twin.client().refresh(now()), "1 of 2 required signatures", "two ids of one key");

    forge.signers.insert("timestamp".into(), vec![2, 5]);
    forge.release_timestamp();
    client.refresh(now()).unwrap();
}

#[test]
fn roots_are_followed_one_by_one_however_many_there_are() {
    let mut forge = begun();
    let client = forge.client();
    for number in 10..40 {
        forge.keys("root", &[number, number + 1], 2);
        forge.signers.insert("root".into(), vec![number - 1, number, number + 1]);
        if number == 10 {
            forge.signers.insert("root".into(), vec![1, 10, 11]);
        }
        forge.release_root();
    }
    assert_eq!(client.refresh(now()).unwrap().root_version, 31);
    forge.served.remove("20.root.json");
    let late = forge.client();
    assert_refused(late.refresh(now() + days(400)), "freeze: `root.json`", "a withheld root");
    assert_eq!(late.versions()["root"], 19);
}

#[test]
fn versions_that_a_thief_pushed_ahead_are_recovered_from_by_new_keys() {
    for role in ["timestamp", "snapshot", "targets"] {
        let mut forge = begun();
        let client = forge.client();
        forge.say(role)["version"] = 1_000_000.into();
        match role {
            "targets" => forge.release(&["targets"]),
            "snapshot" => forge.release_snapshot(),
            _ => forge.release_timestamp(),
        }
        client.refresh(now()).unwrap();

        forge.say(role)["version"] = 10.into();
        forge.release(&["targets"]);
        assert_refused(client.refresh(now()), "rollback", role);

        forge.keys("timestamp", &[12], 1);
        forge.keys("snapshot", &[13], 1);
        forge.release_root();
        forge.release(&["targets"]);
        client.refresh(now()).unwrap();
        assert_eq!(client.versions()[role], forge.version(role), "{role}");
    }
}

#[test]
fn a_timestamp_of_the_same_version_with_other_contents_changes_nothing() {
    let mut forge = begun();
    let client = forge.client();
    client.refresh(now()).unwrap();
    let before = std::fs::read(client.dir().join("timestamp.json")).unwrap();
    forge.bump("snapshot");
    forge.put("snapshot");
    forge.refer("snapshot", "timestamp");
    forge.put("timestamp");
    client.refresh(now()).unwrap();
    assert_eq!(client.versions()["snapshot"], 3);
    assert_eq!(std::fs::read(client.dir().join("timestamp.json")).unwrap(), before);
}

#[test]
fn what_has_expired_since_it_was_accepted_is_not_acted_on() {
    for role in ["timestamp", "snapshot", "targets"] {
        let mut forge = begun();
        let client = forge.client();
        forge.say(role)["expires"] = "2026-11-25T03:00:00Z".into();
        forge.release(&["targets"]);
        client.refresh(now()).unwrap();
        let frozen = format!("freeze: `{role}.json` expired at 2026-11-25T03:00:00Z");
        assert_refused(client.refresh(now() + days(5)), &frozen, role);
        forge.say(role)["expires"] = "2027-11-25T03:00:00Z".into();
        forge.release(&["targets"]);
        client.refresh(now() + days(5)).unwrap();
    }
}

#[test]
fn new_keys_of_either_role_make_both_timestamp_and_snapshot_forgotten() {
    for (role, number) in [("timestamp", 12), ("snapshot", 13)] {
        let mut forge = begun();
        let client = forge.client();
        forge.say("targets")["version"] = 1_000_000.into();
        forge.release(&["targets"]);
        client.refresh(now()).unwrap();
        forge.say("targets")["version"] = 10.into();
        forge.say("timestamp")["version"] = 1.into();
        forge.keys(role, &[number], 1);
        forge.release_root();
        forge.release(&["targets"]);
        client.refresh(now()).unwrap();
        assert_eq!((client.versions()["targets"], client.versions()["timestamp"]), (11, 2), "{role}");
    }
}

#[test]
fn a_key_that_is_added_does_not_open_the_way_back() {
    let mut forge = begun();
    let client = forge.client();
    client.refresh(now()).unwrap();
    forge.keys("timestamp", &[2, 12], 1);
    forge.keys("snapshot", &[3, 13], 1);
    forge.release_root();
    forge.say("timestamp")["version"] = 1.into();
    forge.put("timestamp");
    assert_refused(client.refresh(now()), "rollback: `timestamp.json`", "timestamp");
    forge.say("timestamp")["version"] = 3.into();
    forge.say("snapshot")["meta"]["targets.json"] = json!({ "version": 2 });
    forge.release_snapshot();
    assert_refused(client.refresh(now()), "rollback: `targets.json`", "snapshot");
}

#[test]
fn a_refresh_that_finds_nothing_new_asks_for_the_next_root_and_the_timestamp() {
    let mut forge = begun();
    let client = forge.client();
    client.refresh(now()).unwrap();
    forge.served.asked();
    client.refresh(now()).unwrap();
    assert_eq!(forge.served.asked(), ["2.root.json", "timestamp.json"]);
    forge.release_timestamp();
    client.refresh(now()).unwrap();
    assert_eq!(forge.served.asked(), ["2.root.json", "timestamp.json"]);
    forge.release(&["targets"]);
    client.refresh(now()).unwrap();
    assert_eq!(forge.served.asked(), ["2.root.json", "timestamp.json", "4.snapshot.json", "4.targets.json"]);
}

#[test]
fn what_is_signed_though_not_known_is_kept_byte_for_byte() {
    let mut forge = begun();
    forge.say("root")["x-more"] = json!({ "deep": [1, null, "ä\n\t\"\\\u{2028}", true, -7] });
    forge.say("root")["roles"]["mirrors"] = json!({ "keyids": [], "threshold": 1 });
    forge.say("root")["keys"]["odd"] =
        json!({ "keytype": "odd", "scheme": "odd", "keyval": { "a": [], "public": 1 } });
    forge.say("root")["roles"]["timestamp"]["keyids"] = json!([key_json(2).0, "odd", "nobody"]);
    forge.release_root();
    forge.say("targets")["targets"]["file"]["custom"] = json!({ "kind": { "pool": "debian-12" } });
    forge.release(&["targets"]);
    let pretty: Value = serde_json::from_slice(&forge.signed("timestamp")).unwrap();
    forge.put_raw("timestamp", serde_json::to_vec_pretty(&pretty).unwrap());
    let client = forge.client();
    let trusted = client.refresh(now()).unwrap();
    assert_eq!(trusted.targets["file"].custom.as_ref().unwrap()["kind"]["pool"], "debian-12");
    for role in ["root", "timestamp", "snapshot", "targets"] {
        let kept = std::fs::read(client.dir().join(format!("{role}.json"))).unwrap();
        assert_eq!(kept, forge.served.get(&forge.file(role)).unwrap(), "{role}");
    }
}
