//! Bytes that nobody meant as metadata.

use proptest::prelude::*;

use super::forge::Forge;
use crate::trust::tuf::{
    canonical::Json,
    metadata::{Root, Signed, Snapshot, Targets, TimestampRole},
    pattern,
};

/// Reads the bytes as everything they could be; true when a role is read.
fn read(bytes: &[u8]) -> bool {
    let Ok(signed) = Signed::parse(bytes) else { return false };
    let targets = signed.read::<Targets>();
    if let Ok(targets) = &targets
        && let Some(delegations) = &targets.content.delegations
    {
        delegations.for_path("path");
    }
    signed.read::<Root>().is_ok()
        || signed.read::<TimestampRole>().is_ok()
        || signed.read::<Snapshot>().is_ok()
        || targets.is_ok()
}

fn samples() -> Vec<Vec<u8>> {
    let mut forge = Forge::new();
    forge.hashes = true;
    forge.delegate("targets", "role", 5, &serde_json::json!({ "paths": ["a*[b-c]"] }));
    forge.release(&["role", "targets"]);
    ["root", "timestamp", "snapshot", "targets"].map(|role| forge.signed(role).to_vec()).into()
}

/// A JSON text of any form.
fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        ".{0,12}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::btree_map(".{0,8}", inner, 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

#[test]
fn the_samples_are_metadata() {
    assert!(samples().iter().all(|bytes| read(bytes)));
}

proptest! {
    #[test]
    fn random_bytes_do_not_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(!read(&bytes));
    }

    #[test]
    fn an_altered_file_is_never_verified_and_never_makes_the_parser_panic(
        which in 0..4_usize,
        at in any::<prop::sample::Index>(),
        with in prop::collection::vec(any::<u8>(), 0..6),
        gone in 0..6_usize,
    ) {
        let good = samples().swap_remove(which);
        let at = at.index(good.len());
        let mut bad = good.clone();
        bad.splice(at..(at + gone).min(good.len()), with);
        read(&bad);
        let root: crate::trust::tuf::metadata::Metadata<Root> =
            Signed::parse(&samples()[0]).unwrap().read().unwrap();
        let role = root.content.role(["root", "timestamp", "snapshot", "targets"][which]);
        if let (Ok(signed), Ok(original)) = (Signed::parse(&bad), Signed::parse(&good))
            && signed.verify(&root.content.keys, &role).is_ok()
        {
            // Only what is not signed can have changed: blanks, and what nobody reads.
            let content = |signed: &Signed<'_>| (
                signed.read::<Root>().ok(),
                signed.read::<TimestampRole>().ok(),
                signed.read::<Snapshot>().ok(),
                signed.read::<Targets>().ok(),
            );
            prop_assert_eq!(content(&signed), content(&original));
        }
    }

    #[test]
    fn the_canonical_form_is_the_same_for_every_way_to_write_a_text(value in json()) {
        let compact = serde_json::to_string(&value).unwrap();
        let pretty = serde_json::to_string_pretty(&value).unwrap();
        let canonical = serde_json::from_str::<Json>(&compact).unwrap();
        prop_assert_eq!(serde_json::from_str::<Json>(&pretty).unwrap().canonical(), canonical.canonical());
    }

    #[test]
    fn patterns_of_any_form_are_decided(pattern in r"[a-c*?\[\]!/-]{0,12}", path in "[a-c/]{0,12}") {
        prop_assert_eq!(pattern::covers(&pattern, &path), pattern::covers(&pattern, &path));
        prop_assert!(pattern::covers("*", path.split('/').next().unwrap()));
    }

    #[test]
    fn a_text_without_wildcards_covers_itself_alone(text in "[a-z./]{0,12}", other in "[a-z./]{0,12}") {
        prop_assert_eq!(pattern::covers(&text, &other), text == other);
    }
}
