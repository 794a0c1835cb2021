//! Who is asked about a target path, in which order, and whom nobody may ask.

use serde_json::{Value, json};

use super::forge::{Forge, assert_refused, days, key_json, now, run, target_json};
use crate::trust::{digest::Digest, tuf::Limits};

/// `delegator>role`, `:pattern` after it, `!` last for a terminating one.
fn graph(edges: &str) -> Forge {
    let mut forge = Forge::new();
    let mut roles: Vec<&str> = Vec::new();
    for edge in edges.split_whitespace() {
        let (delegator, rest) = edge.trim_end_matches('!').split_once('>').unwrap();
        let (role, pattern) = rest.split_once(':').unwrap_or((rest, "*"));
        let more = json!({ "paths": [pattern], "terminating": edge.ends_with('!') });
        forge.delegate(delegator, role, role.as_bytes()[0], &more);
        roles.push(role);
    }
    roles.sort_unstable();
    roles.dedup();
    roles.push("targets");
    forge.release(&roles);
    forge
}

fn visited(forge: &Forge) -> Vec<String> {
    let asked = forge.served.asked();
    asked
        .iter()
        .skip(4)
        .map(|file| file.trim_start_matches("1.").trim_end_matches(".json").to_owned())
        .collect()
}

#[test]
fn roles_are_visited_depth_first_in_order_of_appearance() {
    for (edges, expected) in [
        ("targets>A", "A"),
        ("targets>A targets>B", "A B"),
        ("targets>B targets>A", "B A"),
        ("targets>A targets>B B>C", "A B C"),
        ("targets>A targets>B A>C A>D", "A C D B"),
        ("targets>A targets>B A>C C>D", "A C D B"),
        ("targets>A targets>B A>C! A>D", "A C"),
        ("targets>A targets>B A>C! C>D", "A C D"),
        ("targets>A! targets>B A>C", "A C"),
        ("targets>A:*.py! targets>B", "B"),
        ("targets>A:*.py targets>B A>C", "B"),
        ("targets>A targets>B A>C:*.py C>D", "A B"),
        ("targets>A targets>B B>C C>D D>B", "A B C D"),
        ("targets>A A>A A>B", "A B"),
        ("targets>A targets>B B>C A>C", "A C B"),
        ("targets>A targets>B B>C A>C:*.py", "A B C"),
    ] {
        let forge = graph(edges);
        assert_eq!(forge.client().find("missing", now()).unwrap(), None, "{edges}");
        assert_eq!(visited(&forge).join(" "), expected, "{edges}");
    }
}

#[test]
fn a_target_is_found_only_where_every_role_of_the_chain_covers_it() {
    let mut forge = Forge::new();
    forge.delegate("targets", "A", 60, &json!({ "paths": ["*.doc", "*.md"] }));
    forge.delegate("targets", "B", 61, &json!({ "paths": ["releases/*/*"] }));
    forge.delegate("B", "C", 62, &json!({ "paths": ["releases/x/*"] }));
    forge.delegate("B", "D", 63, &json!({ "paths": ["releases/y/*.zip", "anywhere"] }));
    for (role, path) in [
        ("targets", "top"),
        ("A", "README.md"),
        ("A", "top"),
        ("C", "releases/x/v1"),
        ("D", "releases/y/v1.zip"),
        ("D", "releases/z/v1.zip"),
        ("D", "anywhere"),
    ] {
        forge.say(role)["targets"][path] = target_json(&format!("{path} by {role}"));
    }
    forge.release(&["A", "B", "C", "D", "targets"]);
    for (path, by) in [
        ("top", Some("targets")),
        ("README.md", Some("A")),
        ("releases/x/v1", Some("C")),
        ("releases/y/v1.zip", Some("D")),
        ("releases/z/v1.zip", None),
        ("anywhere", None),
    ] {
        let expected = by.map(|role| Digest::of(format!("{path} by {role}").as_bytes()));
        assert_eq!(forge.client().find(path, now()).unwrap(), expected, "{path}");
    }
}

#[test]
fn a_delegated_role_that_cannot_be_believed_ends_the_search() {
    type Spoil = fn(&mut Forge);
    let cases: [(&str, Spoil, &str); 11] = [
        ("not signed", |forge| forge.signers.get_mut("A").unwrap().clear(), "`A.json` is refused: 0 of 1"),
        (
            "another's key",
            |forge| forge.signers.insert("A".into(), vec![4, 3, 2, 1]).map_or((), drop),
            "0 of 1",
        ),
        ("expired", |forge| forge.say("A")["expires"] = "2026-11-20T03:00:00Z".into(), "freeze: `A.json`"),
        ("malformed", |forge| forge.say("A")["targets"] = Value::Null, "`A.json` is refused"),
        ("no targets role", |forge| forge.say("A")["_type"] = "snapshot".into(), "of type `snapshot`"),
        (
            "threshold",
            |forge| forge.say("targets")["delegations"]["roles"][0]["threshold"] = 2.into(),
            "1 of 2 required",
        ),
        (
            "threshold by one key twice",
            |forge| {
                let role = &mut forge.say("targets")["delegations"]["roles"][0];
                role["threshold"] = 2.into();
                forge.signers.insert("A".into(), vec![65, 65]);
            },
            "listed with two signatures",
        ),
        (
            "a name that is a top-level role's in other letters",
            |forge| {
                forge.say("targets")["delegations"]["roles"][0]["name"] = "ROOT".into();
                let says = forge.says["A"].clone();
                forge.says.insert("ROOT".into(), says);
                forge.signers.insert("ROOT".into(), vec![65]);
            },
            "`ROOT` has a name that no file can have",
        ),
        (
            "a name that is too long for a file",
            |forge| {
                let name = "ä".repeat(100);
                forge.say("targets")["delegations"]["roles"][0]["name"] = name.into();
            },
            "has a name that no file can have",
        ),
        (
            "a name that the snapshot does not list",
            |forge| forge.say("targets")["delegations"]["roles"][0]["name"] = "a\nb".into(),
            "the delegated role `a%0Ab` is not in the snapshot",
        ),
        (
            "bad succinct roles",
            |forge| {
                forge.say("targets")["delegations"] = json!({ "keys": {}, "succinct_roles": { "keyids": [], "threshold": 1, "bit_length": 33,
                        "name_prefix": "bin" } });
            },
            "not 1 to 32 bits",
        ),
    ];
    for (name, spoil, refused) in cases {
        let mut forge = graph("targets>A targets>B");
        forge.say("B")["targets"]["file"] = target_json("content");
        spoil(&mut forge);
        forge.release(&["A", "B", "targets"]);
        let client = forge.client();
        assert_refused(client.find("file", now()), refused, name);
        assert!(!client.versions().contains_key("A"), "{name}");
    }
}

#[test]
fn a_delegated_role_never_goes_back() {
    let mut forge = graph("targets>A");
    forge.release(&["A"]);
    let client = forge.client();
    client.find("x", now()).unwrap();
    assert_eq!(client.versions()["A"], 2);
    forge.say("A")["version"] = 1.into();
    forge.put("A");
    forge.refer("A", "snapshot");
    forge.release_snapshot();
    assert_refused(client.find("x", now()), "rollback: `A.json` goes back from version 2 to 1", "older");
    forge.say("snapshot")["meta"].as_object_mut().unwrap().remove("A.json");
    forge.release_snapshot();
    assert_refused(client.find("x", now()), "rollback: `A.json` goes back from version 2 to 0", "gone");
}

#[test]
fn a_delegated_role_is_fetched_when_it_is_needed_and_new() {
    let mut forge = graph("targets>A targets>B");
    forge.say("A")["targets"]["file"] = target_json("content");
    forge.release(&["A"]);
    let client = forge.client();
    client.find("file", now()).unwrap().unwrap();
    assert_eq!(forge.served.asked().last().unwrap(), "2.A.json");
    client.find("file", now()).unwrap().unwrap();
    assert_eq!(forge.served.asked(), ["2.root.json", "timestamp.json"]);
    forge.release(&["A"]);
    client.find("file", now()).unwrap().unwrap();
    assert_eq!(forge.served.asked().last().unwrap(), "3.A.json");
    std::fs::write(client.dir().join("A.json"), b"").unwrap();
    client.find("file", now()).unwrap().unwrap();
    assert_eq!(forge.served.asked().last().unwrap(), "3.A.json");
}

#[test]
fn a_delegated_role_that_is_kept_must_still_be_the_one_named_and_in_time() {
    let mut forge = graph("targets>A");
    forge.hashes = true;
    forge.say("A")["expires"] = "2026-11-25T03:00:00Z".into();
    forge.say("A")["targets"]["file"] = target_json("content");
    forge.release(&["A"]);
    let client = forge.client();
    client.find("file", now()).unwrap().unwrap();
    assert_refused(client.find("file", now() + days(5)), "freeze: `A.json` expired", "since");

    // Another file of the same version, signed as well.
    let named = forge.say("A").clone();
    forge.say("A")["targets"]["file"] = target_json("another");
    std::fs::write(client.dir().join("A.json"), forge.signed("A")).unwrap();
    *forge.say("A") = named;
    assert_eq!(client.find("file", now()).unwrap(), Some(Digest::of(b"content")));

    // Served under the name of a version that it is not.
    forge.hashes = false;
    forge.release(&["A"]);
    let file = forge.file("A");
    forge.bump("A");
    forge.served.put(&file, forge.signed("A"));
    assert_refused(client.find("file", now()), "`A.json` has version 4 where 3 is needed", "version");
}

#[test]
fn a_role_kept_for_one_delegator_is_verified_anew_for_another() {
    // A and B both delegate to C, with different keys; the file is signed by the key that A names.
    let mut forge = Forge::new();
    forge.delegate("targets", "A", 65, &json!({ "paths": ["a*"] }));
    forge.delegate("targets", "B", 66, &json!({ "paths": ["b*"] }));
    forge.delegate("A", "C", 67, &json!({ "paths": ["*"] }));
    forge.delegate("B", "C", 68, &json!({ "paths": ["*"] }));
    forge.say("C")["targets"]["a1"] = target_json("a1");
    forge.say("C")["targets"]["b1"] = target_json("b1");
    forge.release(&["A", "B", "C", "targets"]);
    let client = forge.client();
    let mut open = client.open().unwrap();
    run(async {
        open.refresh(now()).await.unwrap();
        assert!(open.find("a1", now()).await.unwrap().is_some());
        let refused = open.find("b1", now()).await;
        assert_refused(refused, "`C.json` is refused: 0 of 1", "the other delegator");
        assert!(open.find("a1", now()).await.unwrap().is_some());
    });
}

#[test]
fn a_search_visits_no_more_roles_than_allowed() {
    let mut forge = Forge::new();
    let names: Vec<String> = (0..40).map(|n| format!("r{n:02}")).collect();
    for name in &names {
        forge.delegate("targets", name, 70, &json!({ "paths": ["*"] }));
    }
    forge.say("r39")["targets"]["file"] = target_json("content");
    let mut roles: Vec<&str> = names.iter().map(String::as_str).collect();
    roles.push("targets");
    forge.release(&roles);
    assert_eq!(forge.client().find("file", now()).unwrap(), None);
    let limit = usize::try_from(Limits::default().roles_per_search).unwrap();
    assert_eq!(visited(&forge).len(), limit);
}

#[test]
fn a_hash_bin_is_found_at_once() {
    let mut forge = Forge::new();
    let bins: Vec<String> = (0..16).map(|n| format!("bin-{n:x}")).collect();
    for bin in &bins {
        let prefix = &bin[4..];
        forge.delegate("targets", bin, 70, &json!({ "path_hash_prefixes": [prefix] }));
    }
    let prefix = &Digest::of(b"file").to_string()[..1];
    forge.say(&format!("bin-{prefix}"))["targets"]["file"] = target_json("content");
    let mut roles: Vec<&str> = bins.iter().map(String::as_str).collect();
    roles.push("targets");
    forge.release(&roles);
    assert!(forge.client().find("file", now()).unwrap().is_some());
    assert_eq!(visited(&forge), [format!("bin-{prefix}")]);

    // The same by succinct roles, 5 bits: two digits.
    let bin = u8::from_str_radix(&Digest::of(b"file").to_string()[..2], 16).unwrap() >> 3;
    let name = format!("s-{bin:02x}");
    let mut forge = Forge::new();
    forge.delegate("targets", &name, 70, &json!({ "paths": ["nothing"] }));
    forge.say(&name)["targets"]["file"] = target_json("content");
    let (keyid, key) = key_json(70);
    forge.say("targets")["delegations"] = json!({ "keys": { (&keyid): key }, "succinct_roles":
        { "keyids": [keyid], "threshold": 1, "bit_length": 5, "name_prefix": "s" } });
    forge.release(&[&name, "targets"]);
    assert!(forge.client().find("file", now()).unwrap().is_some());
}
