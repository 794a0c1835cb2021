//! One node: its bytes, and everything that is checked before they are believed.
//!
//! Stored bytes are a kind, a compression, and the body, as it is or as one zstd frame after its length:
//!
//! ```text
//! node      kind 0x11 | 0 body            or  kind 0x11 | 1 length:u32le zstd(body)
//! document  kind 0x12 | likewise
//! body      level:u8 count  (shared length suffix)*  tail*  payload*
//!   leaf    tail = bytes * 2 + (1 if by digest)      payload = the document, or its node's digest
//!   inner   tail = documents, documents by digest    payload = the child's digest
//! ```
//!
//! Numbers are LEB128; a key is the first `shared` bytes of the one before it and a suffix.

use bytes::Bytes;

use super::{NodeSource, TreeError};
use crate::trust::digest::Digest;

/// Longest key in bytes.
pub const KEY_BYTES_MAX: usize = 512;
/// A longer document is a node of its own: a leaf must stay small, for a change of one document sends it whole.
pub const INLINE_BYTES_MAX: usize = 4096;
/// Longest document in bytes: an update of a source package with a thousand binary packages has about 2 MiB.
pub const DOCUMENT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Longest body of a node in bytes, uncompressed. What is built stays under it: a leaf has at most 13 units of
/// 2 KiB and one more document, an inner node 40 children with keys of up to 512 bytes.
pub const NODE_BYTES_MAX: usize = 32 * 1024;
/// Longest node or document as it is stored, in bytes.
pub const STORED_BYTES_MAX: u64 = DOCUMENT_BYTES_MAX as u64 + 6;
/// Highest level of a root. With at least 7 children to a node level 12 has more documents than there
/// can be.
pub const LEVEL_MAX: u8 = 12;

/// On a few KiB of JSON level 12 gains nothing and takes five times as long, level 19 gains 1.4 %.
const ZSTD_LEVEL: i32 = 6;
const KIND_NODE: u8 = 0x11;
const KIND_DOCUMENT: u8 = 0x12;
const PLAIN: u8 = 0;
const ZSTD: u8 = 1;

/// A child of an inner node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Child {
    pub(super) digest: Digest,
    /// Documents below it.
    pub(super) documents: u64,
    /// How many of them are nodes of their own.
    pub(super) external: u64,
}

/// What stands under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Inline(Bytes),
    External { digest: Digest, bytes: u64 },
    Child(Child),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: Box<str>,
    pub(super) item: Item,
}

/// A node whose keys ascend and whose items fit its level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) level: u8,
    pub(super) entries: Vec<Entry>,
}

/// What the parent of a node says of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected<'a> {
    /// Level, documents, external documents, first key; `None` for a root.
    child: Option<(u8, Child, &'a str)>,
    /// Every key is less than this.
    pub(super) upper: Option<&'a str>,
}

impl<'a> Expected<'a> {
    pub(super) fn root() -> Self {
        Self { child: None, upper: None }
    }

    pub(super) fn child(level: u8, child: Child, first_key: &'a str) -> Self {
        Self { child: Some((level, child, first_key)), upper: None }
    }
}

impl Node {
    pub(super) fn first_key(&self) -> Option<&str> {
        self.entries.first().map(|entry| &*entry.key)
    }

    pub(super) fn documents(&self) -> u64 {
        self.entries
            .iter()
            .map(|entry| match &entry.item {
                Item::Child(child) => child.documents,
                _ => 1,
            })
            .sum()
    }

    fn external(&self) -> u64 {
        self.entries
            .iter()
            .map(|entry| match &entry.item {
                Item::Child(child) => child.external,
                Item::External { .. } => 1,
                Item::Inline(_) => 0,
            })
            .sum()
    }

    pub(super) fn as_child(&self, digest: Digest) -> Child {
        Child { digest, documents: self.documents(), external: self.external() }
    }

    /// The child that holds `key` if any does; `None` if every key is greater.
    pub(super) fn child_for(&self, key: &str) -> Option<usize> {
        self.entries.partition_point(|entry| *entry.key <= *key).checked_sub(1)
    }

    /// The children that may hold keys with `prefix`.
    pub(super) fn children_of(&self, prefix: &str) -> std::ops::Range<usize> {
        let start = self.child_for(prefix).unwrap_or(0);
        let end =
            self.entries.partition_point(|entry| *entry.key <= *prefix || entry.key.starts_with(prefix));
        start..end
    }

    /// The child at `index` of an inner node, and what is expected of it; `upper` bounds this node.
    pub(super) fn child<'a>(&'a self, index: usize, upper: Option<&'a str>) -> (Child, Expected<'a>) {
        let entry = &self.entries[index];
        let child = match entry.item {
            Item::Child(child) => child,
            // `decode` puts nothing else into an inner node; were it so, reading this child would fail.
            _ => Child { digest: Digest::from_bytes([0; 32]), documents: 0, external: 0 },
        };
        let upper = self.entries.get(index + 1).map_or(upper, |next| Some(&next.key));
        (child, Expected { upper, ..Expected::child(self.level.saturating_sub(1), child, &entry.key) })
    }

    /// Digests that this node names: children, or documents that are nodes of their own.
    pub(super) fn names(&self) -> impl Iterator<Item = Digest> {
        self.entries.iter().filter_map(|entry| match &entry.item {
            Item::Child(child) => Some(child.digest),
            Item::External { digest, .. } => Some(*digest),
            Item::Inline(_) => None,
        })
    }

    /// The bytes to store.
    pub(super) fn encode(&self) -> Result<Bytes, TreeError> {
        let mut body = vec![self.level];
        number(&mut body, self.entries.len() as u64);
        let mut before: &[u8] = b"";
        for entry in &self.entries {
            let key = entry.key.as_bytes();
            let shared = key.iter().zip(before).take_while(|(a, b)| a == b).count();
            number(&mut body, shared as u64);
            number(&mut body, (key.len() - shared) as u64);
            body.extend(&key[shared..]);
            before = key;
        }
        for entry in &self.entries {
            match &entry.item {
                Item::Inline(document) => number(&mut body, (document.len() as u64) << 1),
                Item::External { bytes, .. } => number(&mut body, bytes << 1 | 1),
                Item::Child(child) => {
                    number(&mut body, child.documents);
                    number(&mut body, child.external);
                }
            }
        }
        for entry in &self.entries {
            match &entry.item {
                Item::Inline(document) => body.extend(document),
                Item::External { digest, .. } | Item::Child(Child { digest, .. }) => {
                    body.extend(digest.as_bytes());
                }
            }
        }
        pack(KIND_NODE, &body)
    }

    fn decode(body: &Bytes) -> Result<Self, &'static str> {
        const CUT: &str = "it ends too early";

        let mut rest = &body[..];
        let level = byte(&mut rest).ok_or(CUT)?;
        if level > LEVEL_MAX {
            return Err("it is too deep");
        }
        let count = length(&mut rest).ok_or(CUT)?;
        // An entry takes at least three bytes; so a small node cannot ask for much memory.
        if count > body.len() / 3 {
            return Err("it names more entries than it has");
        }
        let mut keys: Vec<Box<str>> = Vec::with_capacity(count);
        for _ in 0..count {
            let before: &str = keys.last().map_or("", |key| key);
            let shared = length(&mut rest).ok_or(CUT)?;
            let suffix = length(&mut rest).ok_or(CUT)?;
            if shared > before.len() || suffix > KEY_BYTES_MAX || shared + suffix > KEY_BYTES_MAX {
                return Err("a key is too long");
            }
            let suffix = rest.split_off(..suffix).ok_or(CUT)?;
            let key = String::from_utf8([&before.as_bytes()[..shared], suffix].concat())
                .map_err(|_| "a key is not UTF-8")?;
            if *key <= *before {
                return Err("its keys do not ascend");
            }
            keys.push(key.into());
        }
        let mut tails = Vec::with_capacity(count);
        for _ in 0..count {
            let first = read_number(&mut rest).ok_or(CUT)?;
            let second = if level == 0 { 0 } else { read_number(&mut rest).ok_or(CUT)? };
            tails.push((first, second));
        }
        let mut entries = Vec::with_capacity(count);
        let mut documents = 0u64;
        for (key, (first, second)) in keys.into_iter().zip(tails) {
            let item = if level > 0 {
                documents = documents.checked_add(first).ok_or("it counts too many documents")?;
                if first == 0 || second > first {
                    return Err("it miscounts documents");
                }
                Item::Child(Child {
                    digest: digest(&mut rest).ok_or(CUT)?,
                    documents: first,
                    external: second,
                })
            } else if first & 1 == 1 {
                let bytes = first >> 1;
                if bytes > DOCUMENT_BYTES_MAX as u64 {
                    return Err("a document is too large");
                }
                Item::External { digest: digest(&mut rest).ok_or(CUT)?, bytes }
            } else {
                let bytes = usize::try_from(first >> 1).map_err(|_| CUT)?;
                if bytes > INLINE_BYTES_MAX {
                    return Err("a document is too large");
                }
                Item::Inline(body.slice_ref(rest.split_off(..bytes).ok_or(CUT)?))
            };
            entries.push(Entry { key, item });
        }
        if !rest.is_empty() {
            return Err("it goes on after its end");
        }
        Ok(Self { level, entries })
    }

    fn check(&self, expected: &Expected<'_>) -> Result<(), &'static str> {
        match expected.child {
            None if self.level > 0 && self.entries.len() < 2 => {
                return Err("a root with fewer than two children");
            }
            None => {}
            Some((level, child, first)) => {
                if self.level != level {
                    return Err("it is of another level than its parent says");
                }
                if self.first_key() != Some(first) {
                    return Err("its first key is not the one that its parent says");
                }
                if self.as_child(child.digest) != child {
                    return Err("it does not hold as many documents as its parent says");
                }
            }
        }
        if let (Some(upper), Some(last)) = (expected.upper, self.entries.last())
            && *last.key >= *upper
        {
            return Err("a key lies beyond the range that its parent says");
        }
        Ok(())
    }
}

/// Reads a node and checks it against what its parent says.
pub(super) fn read(
    digest: &Digest,
    expected: &Expected<'_>,
    source: &dyn NodeSource,
) -> Result<Node, TreeError> {
    let malformed = |reason| TreeError::Malformed { digest: *digest, reason };
    let stored = source.node(digest)?;
    let body = unpack(KIND_NODE, &stored, NODE_BYTES_MAX).map_err(malformed)?;
    let node = Node::decode(&body).map_err(malformed)?;
    node.check(expected).map_err(malformed)?;
    Ok(node)
}

/// The document that `item` holds or names.
pub(super) fn document(item: &Item, source: &dyn NodeSource) -> Result<Bytes, TreeError> {
    match item {
        Item::Inline(document) => Ok(document.clone()),
        Item::External { digest, bytes } => {
            let malformed = |reason| TreeError::Malformed { digest: *digest, reason };
            let stored = source.node(digest)?;
            let document = unpack(KIND_DOCUMENT, &stored, DOCUMENT_BYTES_MAX).map_err(malformed)?;
            if document.len() as u64 != *bytes {
                return Err(malformed("it is not as long as its leaf says"));
            }
            Ok(document)
        }
        Item::Child(child) => Err(TreeError::Malformed {
            digest: child.digest,
            reason: "a node stands where a document should",
        }),
    }
}

/// The stored form of a document that is a node of its own.
pub(super) fn encode_document(document: &[u8]) -> Result<Bytes, TreeError> {
    pack(KIND_DOCUMENT, document)
}

fn pack(kind: u8, body: &[u8]) -> Result<Bytes, TreeError> {
    let packed = zstd::bulk::compress(body, ZSTD_LEVEL).map_err(TreeError::Compress)?;
    let mut stored = Vec::with_capacity(body.len().min(packed.len()) + 6);
    // A body is shorter than 4 GiB: documents and nodes are checked before.
    match u32::try_from(body.len()) {
        Ok(length) if packed.len() + 4 < body.len() => {
            stored.extend([kind, ZSTD]);
            stored.extend(length.to_le_bytes());
            stored.extend(packed);
        }
        _ => {
            stored.extend([kind, PLAIN]);
            stored.extend(body);
        }
    }
    Ok(stored.into())
}

fn unpack(kind: u8, stored: &Bytes, bytes_max: usize) -> Result<Bytes, &'static str> {
    const TOO_LARGE: &str = "it is too large";

    let [found, compression, ..] = stored[..] else { return Err("it ends too early") };
    if found != kind {
        return Err("it is of another kind");
    }
    let body = stored.slice(2..);
    match compression {
        PLAIN if body.len() > bytes_max => Err(TOO_LARGE),
        PLAIN => Ok(body),
        ZSTD => {
            let (length, packed) = body.split_first_chunk::<4>().ok_or("it ends too early")?;
            let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| TOO_LARGE)?;
            if length > bytes_max || packed.len() > bytes_max {
                return Err(TOO_LARGE);
            }
            // Never gives more than `length` bytes, whatever the frame says.
            let body = zstd::bulk::decompress(packed, length).map_err(|_| "it does not decompress")?;
            if body.len() != length {
                return Err("it is not as long as it says");
            }
            Ok(body.into())
        }
        _ => Err("its compression is unknown"),
    }
}

fn number(body: &mut Vec<u8>, mut number: u64) {
    loop {
        let low = number.to_le_bytes()[0] & 0x7f;
        number >>= 7;
        if number == 0 {
            body.push(low);
            return;
        }
        body.push(low | 0x80);
    }
}

fn byte(rest: &mut &[u8]) -> Option<u8> {
    rest.split_off_first().copied()
}

fn read_number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let byte = byte(rest)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn length(rest: &mut &[u8]) -> Option<usize> {
    usize::try_from(read_number(rest)?).ok()
}

fn digest(rest: &mut &[u8]) -> Option<Digest> {
    let (bytes, after) = rest.split_first_chunk::<32>()?;
    *rest = after;
    Some(Digest::from_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::tree::{self, NodeSink};

    fn leaf(keys: &[&str]) -> Node {
        let entries = keys
            .iter()
            .map(|key| Entry { key: (*key).into(), item: Item::Inline(Bytes::from_static(b"{}")) })
            .collect();
        Node { level: 0, entries }
    }

    fn inner(level: u8, children: &[(&str, Child)]) -> Node {
        let entries =
            children.iter().map(|(key, child)| Entry { key: (*key).into(), item: Item::Child(*child) });
        Node { level, entries: entries.collect() }
    }

    fn refused(source: &HashMap<Digest, Bytes>, root: &Digest) -> String {
        let results = [
            tree::get(root, "m", source).map(drop),
            tree::walk_prefix(root, "", source, &mut |_, _| {}),
            tree::reachable(root, None, source).map(drop),
        ];
        let mut reasons: Vec<_> = results
            .into_iter()
            .filter_map(Result::err)
            .map(|error| match error {
                TreeError::Malformed { digest, reason } => {
                    assert!(source.contains_key(&digest), "the error names the node");
                    reason.to_owned()
                }
                error => panic!("{error:?}"),
            })
            .collect();
        reasons.dedup();
        reasons.join("; ")
    }

    #[test]
    fn a_malformed_node_is_refused_by_name() {
        let plain = |body: &[u8]| [&[KIND_NODE, PLAIN], body].concat();
        let bomb = {
            let mut stored = vec![KIND_NODE, ZSTD];
            stored.extend(u32::try_from(NODE_BYTES_MAX).unwrap().to_le_bytes());
            stored.extend(zstd::bulk::compress(&vec![0; 50_000_000], 3).unwrap());
            stored
        };
        let long = |length: u32| [&[KIND_NODE, ZSTD][..], &length.to_le_bytes(), b"x"].concat();
        let cases: Vec<(&str, Vec<u8>)> = vec![
            ("it ends too early", vec![]),
            ("it ends too early", vec![KIND_NODE]),
            ("it is of another kind", vec![KIND_DOCUMENT, PLAIN, 0, 0]),
            ("it is of another kind", b"{}".to_vec()),
            ("its compression is unknown", vec![KIND_NODE, 2, 0, 0]),
            ("it is too large", plain(&vec![0; NODE_BYTES_MAX + 1])),
            ("it is too large", long(u32::MAX)),
            ("it does not decompress", long(100)),
            ("it does not decompress", bomb),
            ("it is too deep", plain(&[LEVEL_MAX + 1, 0])),
            ("it names more entries than it has", plain(&[0, 0xff, 0xff, 0xff, 0x7f])),
            ("it ends too early", plain(&[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])),
            ("its keys do not ascend", plain(b"\0\x02\0\x01b\0\x01a\0\0")),
            ("its keys do not ascend", plain(b"\0\x02\0\x01a\0\x01a\0\0")),
            ("its keys do not ascend", plain(b"\0\x01\0\0\0\0\0")),
            ("a key is too long", plain(b"\0\x01\x01\x01a\0")),
            ("a key is too long", plain(b"\0\x01\0\xff\x7fa\0\0\0\0")),
            ("a key is not UTF-8", plain(b"\0\x01\0\x01\xff\0")),
            ("it goes on after its end", plain(b"\0\x01\0\x01a\0x")),
            ("it ends too early", plain(b"\0\x01\0\x01a\x08xx")),
            ("a document is too large", plain(b"\0\x01\0\x01a\xfe\xff\x7f")),
            ("a document is too large", plain(b"\0\x01\0\x01a\xff\xff\xff\xff\x7f")),
            ("it miscounts documents", plain(b"\x01\x01\0\x01a\0\0")),
            ("it miscounts documents", plain(b"\x01\x01\0\x01a\x01\x02")),
            ("a root with fewer than two children", plain(&[1, 0])),
        ];
        for (reason, stored) in cases {
            let mut source = HashMap::new();
            let root = NodeSink::put(&mut source, stored.clone().into());
            assert_eq!(refused(&source, &root), reason, "{:?}", &stored[..stored.len().min(40)]);
        }
    }

    #[test]
    fn a_child_that_is_not_what_its_parent_says_is_refused() {
        let mut source = HashMap::new();
        let mut put = |node: &Node| {
            let digest = NodeSink::put(&mut source, node.encode().unwrap());
            node.as_child(digest)
        };
        let (a, m) = (put(&leaf(&["a", "b"])), put(&leaf(&["m", "n"])));
        let counts = Child { documents: 3, ..m };
        let external = Child { external: 1, ..m };
        let two = put(&inner(1, &[("a", a), ("m", m)]));
        let itself_too_high = put(&inner(3, &[("a", a), ("m", m)]));
        let cases = [
            ("", inner(1, &[("a", a), ("m", m)])),
            ("a key lies beyond the range that its parent says", inner(1, &[("a", a), ("b", m)])),
            ("its first key is not the one that its parent says", inner(1, &[("a", a), ("l", m)])),
            ("it does not hold as many documents as its parent says", inner(1, &[("a", a), ("m", counts)])),
            ("it does not hold as many documents as its parent says", inner(1, &[("a", a), ("m", external)])),
            ("it is of another level than its parent says", inner(2, &[("a", a), ("m", m)])),
            ("it is of another level than its parent says", inner(1, &[("a", a), ("m", two)])),
            ("it is of another level than its parent says", inner(2, &[("a", itself_too_high), ("m", two)])),
        ];
        let roots: Vec<_> = cases.iter().map(|(reason, node)| (*reason, put(node).digest)).collect();
        for (reason, root) in roots {
            let found = refused(&source, &root);
            assert!(found == reason || found.split("; ").any(|found| found == reason), "{found} / {reason}");
        }
    }

    #[test]
    fn a_document_that_is_not_what_its_leaf_says_is_refused() {
        let mut source = HashMap::new();
        let document = NodeSink::put(&mut source, encode_document(&[b'x'; 9000]).unwrap());
        let node = NodeSink::put(&mut source, leaf(&["a"]).encode().unwrap());
        for (digest, bytes, reason) in [
            (document, 9000, ""),
            (document, 8999, "it is not as long as its leaf says"),
            (node, 9000, "it is of another kind"),
        ] {
            let entry = Entry { key: "m".into(), item: Item::External { digest, bytes } };
            let leaf = Node { level: 0, entries: vec![entry] };
            let root = NodeSink::put(&mut source, leaf.encode().unwrap());
            assert_eq!(refused(&source, &root), reason);
        }
    }

    proptest! {
        #[test]
        fn a_node_comes_back_as_it_was(
            keys in proptest::collection::btree_set(".{1,40}", 0..40), level in 0..3u8, seed in any::<u64>()
        ) {
            let mut n = seed;
            let entries = keys.iter().map(|key| {
                n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let digest = Digest::of(&n.to_be_bytes());
                let item = match (level, n % 3) {
                    (0, 0) => Item::External { digest, bytes: n % 1_000_000 },
                    (0, _) => Item::Inline(Bytes::from(vec![7; usize::try_from(n % 300).unwrap()])),
                    _ => Item::Child(Child { digest, documents: 1 + (n >> 20), external: n % 2 }),
                };
                Entry { key: key.as_str().into(), item }
            });
            let node = Node { level, entries: entries.collect() };
            let body = unpack(KIND_NODE, &node.encode().unwrap(), NODE_BYTES_MAX).unwrap();
            prop_assert_eq!(Node::decode(&body).unwrap(), node);
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..3u8) {
            let node = leaf(&["a", "ab", "b"]).encode().unwrap();
            let mutated = match kind {
                0 => bytes,
                1 => { bytes.splice(0..0, [KIND_NODE, PLAIN, 0]); bytes }
                _ => {
                    let mut stored = node.to_vec();
                    for pair in bytes.chunks_exact(2) {
                        let at = usize::from(pair[0]) % stored.len();
                        stored[at] = pair[1];
                    }
                    stored
                }
            };
            let mut source = HashMap::new();
            let root = NodeSink::put(&mut source, mutated.into());
            match tree::walk_prefix(&root, "", &source, &mut |_, _| {}) {
                Ok(()) | Err(TreeError::Malformed { .. } | TreeError::Missing { .. }) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}
