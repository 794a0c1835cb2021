//! Merkle nodes: a tree that is read to its end is a map, by whichever way it is read.
//!
//! An input is the nodes of a tree, each behind its length. No fuzzer finds the digests that name them: here a digest
//! names a node by its first byte.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use tierway_common::{
    tree::{self, NodeSource, TreeError},
    trust::digest::Digest,
};

use super::Target;

pub(super) const NODES: Target =
    Target { name: "nodes", run, seeds, words: &["\0\0", "\u{1}\0", "a", "\u{2}", "key"] };

struct Nodes(Vec<Bytes>);

impl Nodes {
    fn read(mut bytes: &[u8]) -> Self {
        let mut nodes = Vec::new();
        while let Some((length, rest)) = bytes.split_first_chunk::<2>() {
            let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
            let (node, rest) = rest.split_at(length);
            nodes.push(Bytes::copy_from_slice(node));
            bytes = rest;
        }
        Self(nodes)
    }

    /// The digest that names the node of that number.
    fn name(number: u8) -> Digest {
        Digest::from_bytes([number; 32])
    }
}

impl NodeSource for Nodes {
    fn node(&self, digest: &Digest) -> Result<Bytes, TreeError> {
        let number = usize::from(digest.as_bytes()[0]);
        self.0.get(number).cloned().ok_or(TreeError::Missing { digest: *digest })
    }
}

fn run(bytes: &[u8]) -> bool {
    let source = Nodes::read(bytes);
    let root = Nodes::name(0);
    let mut walked: Vec<(String, Bytes)> = Vec::new();
    let outcome = tree::walk_prefix(&root, "", &source, &mut |key, document| {
        walked.push((key.to_owned(), Bytes::copy_from_slice(document)));
    });
    let missing = tree::missing(&root, None, &|_| false, &source);
    let reachable = tree::reachable(&root, None, &source);
    if outcome.is_err() {
        // What no walk gets through has something that is missing or malformed, or a document that is no document.
        return false;
    }
    assert!(walked.is_sorted_by(|a, b| a.0 < b.0), "keys do not ascend");
    assert_eq!(missing.unwrap(), [], "something is missing of a tree that was read whole");
    assert!(
        reachable.unwrap().iter().all(|digest| source.has(digest)),
        "something is reachable and not here"
    );
    assert_eq!(
        tree::root(&root, &source).unwrap().documents,
        walked.len() as u64,
        "it miscounts its documents"
    );
    for (key, document) in &walked {
        assert_eq!(tree::get(&root, key, &source).unwrap().as_ref(), Some(document), "`{key}` is not found");
        let mut below = 0;
        tree::walk_prefix(&root, key, &source, &mut |found, _| {
            below += usize::from(found.starts_with(key.as_str()))
        })
        .unwrap();
        assert_eq!(below, walked.iter().filter(|(other, _)| other.starts_with(key.as_str())).count());
    }
    let last = walked.iter().find(|(key, _)| key == "\u{10ffff}none").map(|(_, document)| document);
    assert_eq!(tree::get(&root, "\u{10ffff}none", &source).unwrap().as_ref(), last, "behind all others");

    // The tree that we would build of this map, and the way from one to the other.
    let mut ours: HashMap<Digest, Bytes> = HashMap::new();
    let built = tree::build(walked.iter().cloned(), &mut ours).unwrap();
    let both = Both(&source, &ours);
    for (old, new) in [(&root, &built.digest), (&built.digest, &root)] {
        // A document lies within its leaf or beside it, which its publisher decides.
        let changes = tree::diff(old, new, &both).unwrap();
        assert!(changes.iter().all(|change| change.old == change.new), "the same map differs: {changes:?}");
    }
    let removed = walked.iter().step_by(2).map(|(key, _)| (key.clone(), None)).collect::<BTreeMap<_, _>>();
    let mut sink: HashMap<Digest, Bytes> = HashMap::new();
    let changed = tree::update(&built.digest, &removed, &ours, &mut sink).unwrap();
    let left = walked.iter().skip(1).step_by(2).cloned();
    let mut fresh: HashMap<Digest, Bytes> = HashMap::new();
    assert_eq!(
        changed,
        tree::build(left, &mut fresh).unwrap(),
        "changed, it is not the tree of what is left"
    );
    true
}

/// Our own nodes by their digests, all others by their first byte.
struct Both<'a>(&'a Nodes, &'a HashMap<Digest, Bytes>);

impl NodeSource for Both<'_> {
    fn node(&self, digest: &Digest) -> Result<Bytes, TreeError> {
        self.1.get(digest).cloned().map_or_else(|| self.0.node(digest), Ok)
    }
}

/// The input of these nodes.
fn input(nodes: &[Vec<u8>]) -> Vec<u8> {
    let with_length = |node: &Vec<u8>| {
        let length = u16::try_from(node.len()).unwrap().to_le_bytes();
        [length.as_slice(), node].concat()
    };
    nodes.iter().flat_map(with_length).collect()
}

/// An uncompressed node: its level, and of each entry its key, its numbers and what follows them all.
fn node(level: u8, entries: &[(&str, &[u8], &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0x11, 0, level, u8::try_from(entries.len()).unwrap()];
    let mut before = "";
    for (key, ..) in entries {
        let shared = key.bytes().zip(before.bytes()).take_while(|(a, b)| a == b).count();
        bytes.extend([shared, key.len() - shared].map(|length| u8::try_from(length).unwrap()));
        bytes.extend(&key.as_bytes()[shared..]);
        before = key;
    }
    entries.iter().for_each(|(_, numbers, _)| bytes.extend(*numbers));
    entries.iter().for_each(|(.., tail)| bytes.extend(*tail));
    bytes
}

fn seeds() -> Vec<Vec<u8>> {
    let leaf = |keys: &[&str]| {
        let entries: Vec<(&str, &[u8], &[u8])> =
            keys.iter().map(|key| (*key, [4].as_slice(), b"{}".as_slice())).collect();
        node(0, &entries)
    };
    let (first, second) = ([1; 32], [2; 32]);
    let inner = node(1, &[("a", &[2, 0], &first), ("key/c", &[1, 0], &second)]);
    // A leaf whose document is a node of its own, of the second kind.
    let external = node(0, &[("a", &[3 << 1 | 1], &first)]);
    vec![
        input(&[leaf(&[])]),
        input(&[leaf(&["a", "key/a", "key/b"])]),
        input(&[inner, leaf(&["a", "key/b"]), leaf(&["key/c"])]),
        input(&[external, b"\x12\0doc".to_vec()]),
    ]
}
