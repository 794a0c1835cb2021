//! What is kept between refreshes, whatever happens to the process, the disk and the clock.

use std::fs;

use super::forge::{Forge, Served, Tester, assert_refused, days, now, run, target_json};
use crate::trust::tuf::{
    Client, Freshness, Limits, TufError,
    writer::{Repository, Roles, Signers, Validity, first_root, next_root},
};

fn released() -> (Forge, Tester) {
    let mut forge = Forge::new();
    forge.say("targets")["targets"]["file"] = target_json("content");
    forge.release(&["targets"]);
    let client = forge.client();
    (forge, client)
}

#[test]
fn the_first_root_must_be_signed_by_its_own_keys_and_stays() {
    let (mut forge, client) = released();
    client.refresh(now()).unwrap();
    let mut other = Forge::new();
    other.keys("root", &[9], 1);
    let foreign = other.signed("root");
    Client::<Served>::init(client.dir(), &foreign).unwrap();
    client.refresh(now()).unwrap();

    forge.served.asked();
    let empty = tempfile::tempdir().unwrap();
    forge.signers.insert("root".into(), vec![2]);
    let unsigned = forge.signed("root");
    assert_refused(Client::<Served>::init(empty.path(), &unsigned), "0 of 1 required", "unsigned");
    assert_refused(Client::<Served>::init(empty.path(), b"{}"), "malformed", "no root");
    let opened = Client::open(empty.path(), forge.served.clone(), Limits::default());
    assert!(matches!(opened, Err(TufError::NoRoot { .. })));
    fs::write(empty.path().join("root.json"), &unsigned).unwrap();
    let opened = Client::open(empty.path(), forge.served.clone(), Limits::default());
    assert!(matches!(opened, Err(TufError::StoreUnreadable { .. })));
    assert_eq!(forge.served.asked(), [""; 0]);
}

#[test]
fn a_damaged_trust_store_fails_closed() {
    for damage in [&b""[..], b"{", b"\0\0\0\0", b"[]"] {
        for role in ["timestamp", "snapshot"] {
            let (mut forge, client) = released();
            client.refresh(now()).unwrap();
            fs::write(client.dir().join(format!("{role}.json")), damage).unwrap();
            // As after a power cut, with a relay that has been waiting for it.
            let mut old = Forge::new();
            old.served = forge.served.clone();
            old.put("timestamp");
            let refused = client.refresh(now());
            assert!(matches!(&refused, Err(TufError::StoreUnreadable { file, .. }) if file.contains(role)));
            assert!(matches!(client.trusted(), Err(TufError::StoreUnreadable { .. })));

            // New keys are a new beginning.
            forge.keys("timestamp", &[12], 1);
            forge.keys("snapshot", &[13], 1);
            forge.release_root();
            forge.release(&["targets"]);
            client.refresh(now()).unwrap();
        }
    }
}

#[test]
fn damaged_targets_are_fetched_again() {
    let (forge, client) = released();
    client.refresh(now()).unwrap();
    fs::write(client.dir().join("targets.json"), b"").unwrap();
    assert_eq!(client.trusted().unwrap(), None);
    forge.served.asked();
    client.refresh(now()).unwrap();
    assert_eq!(forge.served.asked(), ["2.root.json", "timestamp.json", "2.targets.json"]);
}

#[test]
fn a_crash_between_any_two_writes_is_neither_a_way_back_nor_a_dead_end() {
    // Every prefix of the sequence of files that a refresh writes, on top of what was there.
    let (mut forge, client) = released();
    client.refresh(now()).unwrap();
    let old_files = forge.served.all();
    forge.keys("targets", &[4, 14], 1);
    forge.release_root();
    forge.release(&["targets"]);
    let written: Vec<(&str, _)> = ["root", "timestamp", "snapshot", "targets"]
        .map(|role| (role, forge.served.get(&forge.file(role)).unwrap()))
        .into();
    for count in 0..=written.len() {
        let fresh = forge.client();
        forge.served.replace(old_files.clone());
        fresh.refresh(now()).unwrap();
        for (role, bytes) in &written[..count] {
            fs::write(fresh.dir().join(format!("{role}.json")), bytes).unwrap();
        }
        if count > 1 {
            assert_refused(fresh.refresh(now()), "rollback", "the old repository again");
        }
        for (role, bytes) in &written {
            forge.served.put(&forge.file(role), bytes.clone());
        }
        let trusted = fresh.refresh(now()).unwrap();
        assert_eq!((trusted.root_version, trusted.targets_version), (2, 3), "{count}");
    }
}

#[test]
fn what_is_trusted_is_there_without_asking_and_says_when_it_expired() {
    let (mut forge, client) = released();
    assert_eq!(client.trusted().unwrap(), None);
    forge.say("timestamp")["expires"] = "2026-11-21T03:00:00Z".into();
    forge.release_timestamp();
    let refreshed = client.refresh(now()).unwrap();
    forge.served.asked();
    let trusted = client.trusted().unwrap().unwrap();
    assert_eq!(forge.served.asked(), [""; 0]);
    assert_eq!(trusted, refreshed);
    assert_eq!(trusted.timestamp_version, 3);
    assert_eq!(trusted.targets["file"].length, 7);
    assert_eq!(trusted.freshness(now()), Freshness::Fresh);
    assert_eq!(
        trusted.freshness(now() + days(7)),
        Freshness::Expired { role: "timestamp", since: "2026-11-21T03:00:00Z".parse().unwrap() }
    );
    assert_refused(client.refresh(now() + days(7)), "freeze: `timestamp.json`", "a week later");
    assert_eq!(client.trusted().unwrap().unwrap(), refreshed);
}

#[test]
fn an_expired_timestamp_still_guards_against_older_ones() {
    let (mut forge, client) = released();
    let old = forge.served.get("timestamp.json").unwrap();
    forge.say("timestamp")["expires"] = "2026-11-21T03:00:00Z".into();
    forge.release(&["targets"]);
    client.refresh(now()).unwrap();
    forge.served.put("timestamp.json", old);
    assert_refused(client.refresh(now() + days(7)), "rollback: `timestamp.json`", "older and valid");
    forge.say("timestamp")["expires"] = "2027-11-21T03:00:00Z".into();
    forge.release(&["targets"]);
    client.refresh(now() + days(7)).unwrap();
}

#[test]
fn a_clock_that_was_ahead_does_no_lasting_harm() {
    let (forge, client) = released();
    client.refresh(now()).unwrap();
    assert_refused(client.refresh(now() + days(10_000)), "freeze", "ahead");
    client.refresh(now()).unwrap();
    assert_eq!(forge.version("timestamp"), client.versions()["timestamp"]);
}

#[test]
fn a_timestamp_from_a_check_in_needs_no_request_when_nothing_is_new() {
    let (mut forge, client) = released();
    client.refresh(now()).unwrap();
    let same = forge.served.get("timestamp.json").unwrap();
    forge.served.asked();
    let given = |bytes: &[u8], at| {
        let mut open = client.open().unwrap();
        run(open.refresh_with_timestamp(bytes, at))
    };
    assert_eq!(given(&same, now()).unwrap().targets_version, 2);
    assert_eq!(forge.served.asked(), [""; 0]);

    forge.release(&["targets"]);
    let new = forge.served.get("timestamp.json").unwrap();
    // The tier above gave it in its answer; nobody needs to ask for it.
    forge.served.remove("timestamp.json");
    assert_eq!(given(&new, now()).unwrap().targets_version, 3);
    assert_eq!(forge.served.asked(), ["2.root.json", "3.snapshot.json", "3.targets.json"]);

    assert_refused(given(&same, now()), "rollback", "an older one");
    assert_refused(given(&new, now() + days(400)), "freeze", "the same one, expired");
    assert_refused(given(&vec![b' '; 20_000], now()), "endless data", "a long one");
    assert_refused(given(b"", now()), "malformed", "none");
}

#[test]
fn a_repository_of_ours_is_followed_through_publications_and_a_new_root() {
    let key = super::forge::key;
    let served = Served::default();
    let roles = |root: &[u8], online: u8| {
        let keys = root.iter().map(|number| key(*number).public()).collect();
        Roles::with_online_key(Signers { keys, threshold: 2 }, key(online).public())
    };
    let validity = Validity::default();
    let first = first_root(&roles(&[1, 2, 3], 9), &validity, &[&key(1), &key(2)], now()).unwrap();
    let mut repository = Repository::begin(&first, validity).unwrap();
    let store = |files: Vec<(String, bytes::Bytes)>| {
        for (name, bytes) in files {
            served.put(&name, bytes);
        }
    };
    store(repository.current().files);
    let dir = tempfile::tempdir().unwrap();
    Client::<Served>::init(dir.path(), &first).unwrap();
    let mut client = Client::open(dir.path(), served.clone(), Limits::default()).unwrap();
    run(async {
        let mut targets = std::collections::BTreeMap::new();
        for step in 1..=3_u64 {
            let content = format!("root node {step}");
            let target = crate::trust::tuf::Target {
                length: content.len() as u64,
                sha256: crate::trust::digest::Digest::of(content.as_bytes()),
                custom: Some(serde_json::json!({ "documents": step })),
            };
            targets.insert(format!("debian-{step}"), target);
            let published = repository.publish(&targets, &[&key(9)], now()).unwrap();
            store(published.files);
            let trusted = client.refresh(now()).await.unwrap();
            assert_eq!((trusted.timestamp_version, &trusted.targets), (step, &targets));
        }
        assert_eq!(client.trusted().await.unwrap().unwrap().timestamp_expires, now() + days(1));

        let keys = [key(2), key(3), key(4), key(5)];
        let keys: Vec<_> = keys.iter().collect();
        let second = next_root(&first, &roles(&[4, 5], 8), &validity, &keys, now()).unwrap();
        store(repository.take_root(&second, &[&key(8)], now()).unwrap().files);
        let trusted = client.refresh(now()).await.unwrap();
        assert_eq!((trusted.root_version, trusted.timestamp_version, trusted.targets), (2, 4, targets));
        assert!(repository.refresh_timestamp(&[&key(9)], now()).is_err());
    });
}
