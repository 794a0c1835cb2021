use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use proptest::prelude::*;

use super::{node::Item, *};

type Map = BTreeMap<String, Bytes>;
type Nodes = HashMap<Digest, Bytes>;

fn built(map: &Map, nodes: &mut Nodes) -> Root {
    build(map.iter().map(|(key, document)| (key.clone(), document.clone())), nodes).unwrap()
}

/// An update as a Debian source gives it, 700 to 1,000 bytes.
fn update_document(n: u32, revision: u32) -> Bytes {
    let word = |salt: u32| Digest::of(&[n.to_be_bytes(), salt.to_be_bytes()].concat()).to_string();
    let name = format!("{}{}", ["lib", "python3-", "golang-", "x", ""][n as usize % 5], &word(0)[..7]);
    let version = format!("{}.{}.{}-{}+deb12u{revision}", n % 7, n % 31, n % 11, n % 3 + 1);
    let package = |salt: u32, suffix: &str| {
        let pool = format!("pool/updates/main/{}/{name}/{name}{suffix}_{version}_amd64.deb", &name[..1]);
        serde_json::json!({
            "name": format!("{name}{suffix}"), "version": version, "architecture": "amd64",
            "payload": {
                "digest": word(salt + revision * 100), "bytes": 10_000 + n * 37 % 900_000,
                "url": format!("https://deb.debian.org/debian-security/{pool}"),
            },
        })
    };
    let mut packages = vec![package(1, "")];
    if n.is_multiple_of(3) {
        packages.push(package(2, "-dev"));
    }
    serde_json::to_vec(&serde_json::json!({
        "id": format!("debian-12/{name}_{version}"), "title": format!("{name} security update"),
        "product": name, "version": version, "severity": "important",
        "released": format!("2025-{:02}-{:02}T10:00:00Z", n % 12 + 1, n % 28 + 1),
        "references": [format!("DSA-{}-1", 4000 + n % 2000), format!("CVE-2025-{}", 10_000 + n * 7 % 50_000)],
        "applicable": {"and": [{"os": {"id": "debian", "version": "12"}}, {"package": {"source": name}}]},
        "installed": {"package": {"source": name, "at_least": version}},
        "install": {"deb": {"packages": packages}},
    }))
    .unwrap()
    .into()
}

fn catalogue(count: u32) -> Map {
    (0..count).map(|n| (key_of(n), update_document(n, 1))).collect()
}

fn key_of(n: u32) -> String {
    format!("update/{}_{n}", &Digest::of(&n.to_be_bytes()).to_string()[..8])
}

/// Counts what is read from the nodes.
struct Counted<'a>(&'a Nodes, Cell<usize>);

impl NodeSource for Counted<'_> {
    fn node(&self, digest: &Digest) -> Result<Bytes, TreeError> {
        self.1.set(self.1.get() + 1);
        self.0.node(digest)
    }
}

/// Nodes as a computer has them that fetches what it lacks from another, and how often it asked.
fn fetch(
    root: &Digest,
    prefix: Option<&str>,
    complete: &dyn Fn(&Digest) -> bool,
    theirs: &Nodes,
    mine: &mut Nodes,
) -> (BTreeSet<Digest>, usize) {
    let mut fetched = BTreeSet::new();
    for round in 0.. {
        let wanted = missing(root, prefix, complete, mine).unwrap();
        if wanted.is_empty() {
            return (fetched, round);
        }
        for digest in wanted {
            assert!(fetched.insert(digest), "nothing is asked for twice");
            mine.insert(digest, theirs[&digest].clone());
        }
    }
    unreachable!()
}

#[test]
fn one_change_in_fifty_thousand_documents_costs_six_kib_and_a_node_per_level() {
    let map = catalogue(50_000);
    let raw: usize = map.values().map(Bytes::len).sum();
    assert!((700..1000).contains(&(raw / map.len())), "{}", raw / map.len());
    let mut nodes = Nodes::new();
    let start = Instant::now();
    let root = built(&map, &mut nodes);
    let took = start.elapsed();
    let stored: usize = nodes.values().map(Bytes::len).sum();
    println!(
        "{} documents, {} bytes: {} nodes, {stored} bytes stored, height {}, largest {}, built in {took:?}",
        map.len(),
        raw,
        nodes.len(),
        root.height,
        nodes.values().map(Bytes::len).max().unwrap()
    );

    let height = root.height as usize;
    // A document that changes, and one that is added.
    for (what, suffix, usual_least, p95_most, most) in
        [("changed", "", 290, 5 * 1024, 6 * 1024), ("added", "+deb12u9", 150, 9 * 1024, 16 * 1024)]
    {
        let mut bytes = Vec::new();
        let mut counts = Vec::new();
        for n in 0..300u32 {
            let n = n * 7919 % 50_000;
            let key = format!("{}{suffix}", key_of(n));
            let changes = BTreeMap::from([(key, Some(update_document(n, 9)))]);
            let counted = Counted(&nodes, Cell::new(0));
            let mut made = Nodes::new();
            update(&root.digest, &changes, &counted, &mut made).unwrap();
            assert!(counted.1.get() <= made.len() + height, "read {} for {}", counted.1.get(), made.len());
            bytes.push(made.values().map(Bytes::len).sum::<usize>());
            counts.push(made.len());
        }
        let usual = counts.iter().filter(|&&count| count == height).count();
        bytes.sort_unstable();
        counts.sort_unstable();
        println!(
            "one document {what}: new nodes have {} bytes (median), {} (p95), {} (most); \
             {} nodes (median), {} (most), {usual} of 300 times one per level",
            bytes[150], bytes[285], bytes[299], counts[150], counts[299]
        );
        assert!(bytes[150] <= 5 * 1024 && bytes[285] <= p95_most && bytes[299] <= most, "{what}");
        assert!(usual >= usual_least && counts[299] <= 4 * height, "{what}: {usual}, most {}", counts[299]);
    }
}

#[test]
fn node_sizes_stay_near_their_mean_and_within_their_bounds() {
    let map = catalogue(8000);
    let mut nodes = Nodes::new();
    let root = built(&map, &mut nodes);
    let mut leaves: Vec<usize> = Vec::new();
    let mut fans: Vec<usize> = Vec::new();
    for digest in reachable(&root.digest, None, &nodes).unwrap() {
        if let Ok(node) = node::read(&digest, &Expected::root(), &nodes) {
            match node.level {
                0 => leaves.push(
                    node.entries
                        .iter()
                        .map(|entry| match &entry.item {
                            Item::Inline(document) => document.len() + entry.key.len(),
                            _ => 0,
                        })
                        .sum(),
                ),
                _ => fans.push(node.entries.len()),
            }
        }
    }
    let mean = leaves.iter().sum::<usize>() / leaves.len();
    let spread = leaves.iter().map(|&bytes| bytes.abs_diff(mean).pow(2)).sum::<usize>() / leaves.len();
    println!("{} leaves of {mean} ± {} bytes", leaves.len(), spread.isqrt());
    assert!((4000..6500).contains(&mean) && spread.isqrt() < mean * 40 / 100);
    assert!(leaves.iter().all(|&bytes| bytes <= 31 * 1024));
    assert!(fans.iter().all(|&fan| fan <= 40));
}

#[test]
fn the_longest_keys_and_documents_stay_within_the_bounds_of_a_node() {
    let map: Map = (0..3000u32)
        .map(|n| {
            let mut key = format!("{:0>505}-{n:05}", Digest::of(&n.to_be_bytes()).to_string());
            key.truncate(KEY_BYTES_MAX);
            let document: Vec<u8> = (0..64)
                .flat_map(|m| *Digest::of(&[n, m].map(u32::to_be_bytes).concat()).as_bytes())
                .collect();
            (key, document.repeat(2).into())
        })
        .collect();
    let mut nodes = Nodes::new();
    let root = built(&map, &mut nodes);
    let mut count = 0;
    walk_prefix(&root.digest, "", &nodes, &mut |key, document| {
        assert_eq!(map[key], document);
        count += 1;
    })
    .unwrap();
    assert_eq!(count, map.len());
}

#[test]
fn a_map_is_refused_whose_keys_or_documents_cannot_be() {
    let one = |key: &str, bytes: usize| {
        let document = Bytes::from(vec![b' '; bytes]);
        let mut nodes = Nodes::new();
        let root = build([(key.to_owned(), document.clone())], &mut nodes);
        let (empty, _) = chunk::empty().unwrap();
        let mut made = Nodes::new();
        build([], &mut made).unwrap();
        let updated =
            update(&empty.digest, &BTreeMap::from([(key.to_owned(), Some(document))]), &made, &mut nodes);
        assert_eq!(format!("{root:?}"), format!("{updated:?}"));
        root
    };
    assert!(matches!(one("", 1), Err(TreeError::Key { .. })));
    assert!(matches!(one(&"k".repeat(KEY_BYTES_MAX + 1), 1), Err(TreeError::Key { .. })));
    assert!(matches!(one("k", DOCUMENT_BYTES_MAX + 1), Err(TreeError::DocumentTooLarge { .. })));
    assert!(one(&"k".repeat(KEY_BYTES_MAX), DOCUMENT_BYTES_MAX).is_ok());
    let unsorted =
        [("b", "a"), ("a", "a")].map(|(a, b)| [(a.to_owned(), Bytes::new()), (b.to_owned(), Bytes::new())]);
    for entries in unsorted {
        assert!(matches!(build(entries, &mut Nodes::new()), Err(TreeError::Unsorted { key }) if key == "a"));
    }
}

#[test]
fn a_sync_of_one_change_fetches_the_new_nodes_and_nothing_else() {
    let mut map = catalogue(4000);
    let mut theirs = Nodes::new();
    let old = built(&map, &mut theirs);
    let mut mine = Nodes::new();
    let (fetched, rounds) = fetch(&old.digest, None, &|_| false, &theirs, &mut mine);
    assert_eq!(fetched.len(), theirs.len(), "at first everything");
    assert_eq!(rounds, old.height as usize, "a round per level");

    let key = map.keys().nth(1234).unwrap().clone();
    map.insert(key.clone(), update_document(77, 9));
    let mut new_nodes = Nodes::new();
    let new =
        update(&old.digest, &BTreeMap::from([(key, Some(update_document(77, 9)))]), &theirs, &mut new_nodes)
            .unwrap();
    assert_eq!(new, built(&map, &mut theirs));
    let complete = reachable(&old.digest, None, &mine).unwrap();
    let counted = RefCell::new(0);
    let (fetched, rounds) = fetch(
        &new.digest,
        None,
        &|digest| {
            *counted.borrow_mut() += 1;
            complete.contains(digest)
        },
        &theirs,
        &mut mine,
    );
    assert_eq!(fetched, new_nodes.keys().copied().collect());
    assert_eq!(rounds, new.height as usize);
    assert!(*counted.borrow() < 40 * 4 * 4, "looked at {} digests of {}", counted.borrow(), theirs.len());
    let (again, _) = fetch(&new.digest, None, &|_| false, &theirs, &mut mine);
    assert!(again.is_empty());
}

#[test]
fn what_an_eviction_took_from_the_middle_of_a_tree_is_fetched_again() {
    let map = catalogue(3000);
    let mut theirs = Nodes::new();
    let root = built(&map, &mut theirs);
    let mut mine = theirs.clone();
    let lost: BTreeSet<_> = theirs.keys().copied().filter(|digest| digest.as_bytes()[0] < 16).collect();
    mine.retain(|digest, _| !lost.contains(digest));
    let (fetched, _) = fetch(&root.digest, None, &|_| false, &theirs, &mut mine);
    assert_eq!(fetched, lost);
    let mut count = 0;
    walk_prefix(&root.digest, "", &mine, &mut |_, _| count += 1).unwrap();
    assert_eq!(count, map.len());
}

#[test]
fn a_diff_reads_no_more_than_the_difference() {
    let map = catalogue(6000);
    let mut nodes = Nodes::new();
    let old = built(&map, &mut nodes);
    let keys: Vec<_> = map.keys().cloned().collect();
    let changes = BTreeMap::from([
        (keys[100].clone(), Some(update_document(1, 5))),
        (keys[3000].clone(), None),
        (format!("{}x", keys[5000]), Some(update_document(2, 5))),
    ]);
    let mut made = Nodes::new();
    let new = update(&old.digest, &changes, &nodes, &mut made).unwrap();
    nodes.extend(made);
    let counted = Counted(&nodes, Cell::new(0));
    let found = diff(&old.digest, &new.digest, &counted).unwrap();
    let expected: Vec<_> =
        changes.into_iter().map(|(key, new)| Change { old: map.get(&key).cloned(), key, new }).collect();
    assert_eq!(found, expected);
    assert!(counted.1.get() <= 40, "read {} of {}", counted.1.get(), nodes.len());
    assert!(diff(&new.digest, &new.digest, &nodes).unwrap().is_empty());
}

/// Keys that share much, documents of very different lengths, so that a few hundred make several levels.
fn entries(count: std::ops::Range<usize>) -> impl Strategy<Value = Map> {
    let key = prop_oneof![
        8 => (0..3u8, 0..4000u32).prop_map(|(table, n)| format!("{}/{n}", ["approval", "group", "update"][usize::from(table)])),
        1 => "[a-zé]{1,3}",
    ];
    proptest::collection::btree_map(key, document(), count)
}

fn document() -> impl Strategy<Value = Bytes> {
    let size = prop_oneof![4 => 0..300usize, 4 => 300..1500usize, 1 => 3900..4300usize, 1 => Just(9000)];
    (any::<u64>(), size).prop_map(|(seed, size)| {
        let mut bytes: Vec<u8> =
            Digest::of(&seed.to_be_bytes()).to_string().into_bytes().into_iter().cycle().take(size).collect();
        bytes.truncate(size);
        bytes.into()
    })
}

/// Changes to a map: about so many of its keys, some new ones.
fn changes(map: &Map, seed: u64, share: u8, new: Map) -> BTreeMap<String, Option<Bytes>> {
    let mut changes: BTreeMap<String, Option<Bytes>> =
        new.into_iter().map(|(key, document)| (key, Some(document))).collect();
    for (key, document) in map {
        let digest = Digest::of(&[&seed.to_be_bytes(), key.as_bytes()].concat());
        let [a, b, ..] = *digest.as_bytes();
        if a < share {
            let changed = match b % 4 {
                0 => Some(document.clone()),
                1 => Some(Bytes::from([b"changed ", &document[..]].concat())),
                _ => None,
            };
            changes.insert(key.clone(), changed);
        }
    }
    changes
}

fn apply(map: &mut Map, changes: &BTreeMap<String, Option<Bytes>>) {
    for (key, document) in changes {
        match document {
            Some(document) => map.insert(key.clone(), document.clone()),
            None => map.remove(key),
        };
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_same_map_has_the_same_root_however_it_came_about(
        mut map in entries(0..600),
        steps in proptest::collection::vec((any::<u64>(), prop_oneof![Just(0u8), Just(3), Just(60), Just(255)], entries(0..40)), 1..5)
    ) {
        let mut nodes = Nodes::new();
        let mut root = built(&map, &mut nodes);
        for (seed, share, new) in steps {
            let changes = changes(&map, seed, share, new);
            let mut made = Nodes::new();
            let updated = update(&root.digest, &changes, &nodes, &mut made).unwrap();
            let before = map.clone();
            apply(&mut map, &changes);
            let mut fresh = Nodes::new();
            prop_assert_eq!(updated, built(&map, &mut fresh));
            // The sink got what is new and belongs to the tree, children first (a Vec keeps the order).
            let needed = reachable(&updated.digest, None, &fresh).unwrap();
            prop_assert_eq!(&needed, &fresh.keys().copied().collect());
            prop_assert!(made.keys().all(|digest| needed.contains(digest)));
            prop_assert!(needed.iter().all(|digest| made.contains_key(digest) || nodes.contains_key(digest)));
            let mut order: Vec<Bytes> = Vec::new();
            update(&root.digest, &changes, &nodes, &mut order).unwrap();
            let mut seen: Nodes = nodes.clone();
            for bytes in order {
                let digest = Digest::of(&bytes);
                seen.insert(digest, bytes);
                prop_assert!(missing(&digest, None, &|_| false, &seen).map_or(true, |missing| missing.is_empty()));
            }
            // The difference is exactly the changes that change something.
            nodes.extend(made);
            let found = diff(&root.digest, &updated.digest, &nodes).unwrap();
            let expected: Vec<_> = changes
                .iter()
                .filter(|(key, document)| before.get(*key) != document.as_ref())
                .map(|(key, new)| Change { key: key.clone(), old: before.get(key).cloned(), new: new.clone() })
                .collect();
            prop_assert_eq!(found, expected);
            root = updated;
        }
    }

    #[test]
    fn changes_made_one_by_one_in_any_order_lead_to_the_same_root(
        map in entries(1..150), order in any::<prop::sample::Index>(), stride in 1..50usize
    ) {
        let mut nodes = Nodes::new();
        let whole = built(&map, &mut nodes);
        let entries: Vec<_> = map.iter().collect();
        let mut nodes = Nodes::new();
        let mut root = build([], &mut nodes).unwrap();
        let mut left: Vec<_> = (0..entries.len()).collect();
        let mut at = order.index(entries.len());
        while !left.is_empty() {
            at = (at + stride) % left.len();
            let (key, document) = entries[left.swap_remove(at)];
            let change = BTreeMap::from([(key.clone(), Some(document.clone()))]);
            let mut made = Nodes::new();
            root = update(&root.digest, &change, &nodes, &mut made).unwrap();
            nodes.extend(made);
        }
        prop_assert_eq!(root, whole);
        let everything = map.keys().map(|key| (key.clone(), None)).collect();
        let mut made = Nodes::new();
        prop_assert_eq!(update(&root.digest, &everything, &nodes, &mut made).unwrap(), build([], &mut Nodes::new()).unwrap());
    }

    #[test]
    fn a_tree_answers_as_the_map_it_was_built_from(
        map in entries(0..500), asked in proptest::collection::vec("(approval|group|update)?/?[0-9]{0,3}", 1..10)
    ) {
        let mut nodes = Nodes::new();
        let root = built(&map, &mut nodes);
        prop_assert_eq!(root.documents, map.len() as u64);
        prop_assert_eq!(super::root(&root.digest, &nodes).unwrap(), root);
        for key in map.keys().chain(&asked) {
            prop_assert_eq!(get(&root.digest, key, &nodes).unwrap(), map.get(key).cloned());
        }
        for prefix in asked.iter().map(String::as_str).chain(["", "update/", "\u{10ffff}"]) {
            let mut found = Vec::new();
            walk_prefix(&root.digest, prefix, &nodes, &mut |key, document| {
                found.push((key.to_owned(), Bytes::copy_from_slice(document)));
            }).unwrap();
            let expected: Vec<_> = map.iter().filter(|(key, _)| key.starts_with(prefix))
                .map(|(key, document)| (key.clone(), document.clone())).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_sync_fetches_exactly_what_the_prefix_needs(
        map in entries(0..500), other in entries(0..200), prefix in "((approval|group|update)/?[0-9]{0,2})?", kept in any::<u8>()
    ) {
        let mut theirs = Nodes::new();
        let mut other_nodes = Nodes::new();
        built(&other, &mut other_nodes);
        let root = built(&map, &mut theirs);
        // Begin with some of the nodes, without order, and with others that do not matter.
        let mut mine: Nodes = theirs.iter().filter(|(digest, _)| digest.as_bytes()[0] < kept)
            .map(|(digest, bytes)| (*digest, bytes.clone())).collect();
        mine.extend(other_nodes);
        let needed = reachable(&root.digest, Some(&prefix), &theirs).unwrap();
        let lacking: BTreeSet<_> = needed.iter().filter(|digest| !mine.contains_key(*digest)).copied().collect();
        let (fetched, _) = fetch(&root.digest, Some(&prefix), &|_| false, &theirs, &mut mine);
        prop_assert_eq!(fetched, lacking);
        let only_needed: Nodes = needed.iter().map(|digest| (*digest, mine[digest].clone())).collect();
        let mut count = 0;
        walk_prefix(&root.digest, &prefix, &only_needed, &mut |_, _| count += 1).unwrap();
        prop_assert_eq!(count, map.keys().filter(|key| key.starts_with(&prefix)).count());
    }
}
