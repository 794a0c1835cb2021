//! Where one node ends and the next begins, and building a whole tree by that rule.
//!
//! After each entry a node may end. Up to [`Size::least`] it never does; from there on it ends with a small
//! probability, taken from the digest of the key, beyond [`Size::usual`] with a larger one, and at
//! [`Size::most`] in any case. The rule knows nothing of what comes before the node or after it: so
//! it gives the same nodes whatever the history. Sizes are counted in units so coarse that another
//! content of the same document seldom moves a boundary; and because the odds are the same over long stretches,
//! after an added or removed key the old boundaries come again within a few nodes. (A probability that
//! grows with each entry gives more even nodes, but takes three times as long to fall into step again.)

use bytes::Bytes;

use super::{
    NodeSink, Root, TreeError,
    node::{DOCUMENT_BYTES_MAX, Entry, INLINE_BYTES_MAX, Item, KEY_BYTES_MAX, Node, encode_document},
};
use crate::trust::digest::Digest;

/// Bytes in which the size of a leaf is counted.
const LEAF_UNIT_BYTES: usize = 2048;

/// How large the nodes of a level become.
#[derive(Clone, Copy, Debug)]
struct Size {
    /// Up to here a node does not end.
    least: u64,
    /// Up to here it ends after `early` of a thousand units, beyond it after `late`.
    usual: u64,
    /// Here it ends.
    most: u64,
    early: u64,
    late: u64,
}

/// Leaves of about 5 documents of up to 2 KiB; 5 KiB of JSON compress to 1.3 KiB. At most 31 KiB. Larger ones compress better
/// (with 8 documents everything together is 14 % smaller), and cost more per change.
const LEAF: Size = Size { least: 2, usual: 5, most: 14, early: 200, late: 450 };
/// Inner nodes of about 13 children, each 32 bytes of digest and half as much again: under 1 KiB. More
/// would save a round trip per sync, and cost more per change.
const INNER: Size = Size { least: 6, usual: 13, most: 40, early: 85, late: 300 };

impl Size {
    fn of(level: u8) -> Self {
        if level == 0 { LEAF } else { INNER }
    }
}

/// The size of an entry, in the units of its level.
fn weight(entry: &Entry) -> u64 {
    match &entry.item {
        Item::Child(_) => 1,
        Item::External { .. } => ((entry.key.len() + 40) / LEAF_UNIT_BYTES + 1) as u64,
        Item::Inline(document) => ((entry.key.len() + document.len() + 4) / LEAF_UNIT_BYTES + 1) as u64,
    }
}

/// Whether a node ends after an entry of this key and weight, being of this size with it.
fn ends(level: u8, key: &str, weight: u64, size: u64) -> bool {
    let Size { least, usual, most, early, late } = Size::of(level);
    if size <= least || size >= most {
        return size >= most;
    }
    let digest = Digest::of(&[&[level], key.as_bytes()].concat());
    let [a, b, c, d, ..] = *digest.as_bytes();
    let odds = if size <= usual { early } else { late };
    u64::from(u32::from_be_bytes([a, b, c, d])) < ((odds * weight) << 32) / 1000
}

/// Collects the entries of one level into nodes.
#[derive(Debug)]
pub(super) struct Chunker {
    level: u8,
    size: u64,
    entries: Vec<Entry>,
}

impl Chunker {
    pub(super) fn new(level: u8) -> Self {
        Self { level, size: 0, entries: Vec::new() }
    }

    /// Whether the next entry begins a node.
    pub(super) fn at_boundary(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes the next entry; the node that ends with it, if one does.
    pub(super) fn push(&mut self, entry: Entry) -> Option<Node> {
        let weight = weight(&entry);
        self.size += weight;
        let ends = ends(self.level, &entry.key, weight, self.size);
        self.entries.push(entry);
        if ends { self.take() } else { None }
    }

    /// The node of what is left, if anything is.
    pub(super) fn take(&mut self) -> Option<Node> {
        self.size = 0;
        let entries = std::mem::take(&mut self.entries);
        (!entries.is_empty()).then_some(Node { level: self.level, entries })
    }
}

/// Builds the levels above some level from its nodes.
pub(super) struct Levels {
    /// From the lowest; the second is how many nodes it has ended.
    levels: Vec<(Chunker, u64)>,
}

impl Levels {
    /// The first entries will be of `level`.
    pub(super) fn from(level: u8) -> Self {
        Self { levels: vec![(Chunker::new(level), 0)] }
    }

    /// Takes the next entry of the lowest level; `put` gets each node that ends, children first.
    pub(super) fn push(
        &mut self,
        entry: Entry,
        put: &mut dyn FnMut(&Node) -> Result<Digest, TreeError>,
    ) -> Result<(), TreeError> {
        self.push_at(0, entry, put)
    }

    fn push_at(
        &mut self,
        index: usize,
        entry: Entry,
        put: &mut dyn FnMut(&Node) -> Result<Digest, TreeError>,
    ) -> Result<(), TreeError> {
        let mut entry = Some(entry);
        let mut index = index;
        while let Some(next) = entry.take() {
            if index == self.levels.len() {
                let below = self.levels[index - 1].0.level;
                self.levels.push((Chunker::new(below + 1), 0));
            }
            let (chunker, ended) = &mut self.levels[index];
            if let Some(node) = chunker.push(next) {
                *ended += 1;
                entry = as_entry(&node, put)?;
                index += 1;
            }
        }
        Ok(())
    }

    /// Ends every level up to the first that has one node, and gives that; `None` if there was no entry.
    pub(super) fn finish(
        mut self,
        put: &mut dyn FnMut(&Node) -> Result<Digest, TreeError>,
    ) -> Result<Option<Root>, TreeError> {
        let mut index = 0;
        while index < self.levels.len() {
            let (chunker, ended) = &mut self.levels[index];
            let level = chunker.level;
            let last = chunker.take();
            let nodes = *ended + u64::from(last.is_some());
            let entry = match &last {
                Some(node) => as_entry(node, put)?,
                None => None,
            };
            if nodes == 1 {
                // Its one node is the last one, or the one entry that waits in the level above.
                let only = entry.or_else(|| {
                    let above = self.levels.get_mut(index + 1)?;
                    above.0.take()?.entries.pop()
                });
                return Ok(only.and_then(|entry| match entry.item {
                    Item::Child(child) => Some(Root {
                        digest: child.digest,
                        documents: child.documents,
                        height: u32::from(level) + 1,
                    }),
                    _ => None,
                }));
            }
            if let Some(entry) = entry {
                self.push_at(index + 1, entry, put)?;
            }
            index += 1;
        }
        Ok(None)
    }
}

fn as_entry(
    node: &Node,
    put: &mut dyn FnMut(&Node) -> Result<Digest, TreeError>,
) -> Result<Option<Entry>, TreeError> {
    let digest = put(node)?;
    Ok(node.first_key().map(|key| Entry { key: key.into(), item: Item::Child(node.as_child(digest)) }))
}

/// The entry of a document, and the node of the document if it does not fit into the leaf.
pub(super) fn entry(key: &str, document: Bytes) -> Result<(Entry, Option<Bytes>), TreeError> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(TreeError::Key { key: key.to_owned() });
    }
    if document.len() > DOCUMENT_BYTES_MAX {
        return Err(TreeError::DocumentTooLarge { key: key.to_owned(), bytes: document.len() });
    }
    if document.len() <= INLINE_BYTES_MAX {
        return Ok((Entry { key: key.into(), item: Item::Inline(document) }, None));
    }
    let node = encode_document(&document)?;
    let item = Item::External { digest: Digest::of(&node), bytes: document.len() as u64 };
    Ok((Entry { key: key.into(), item }, Some(node)))
}

/// The root of a map without documents, and its node.
pub(super) fn empty() -> Result<(Root, Bytes), TreeError> {
    let bytes = Node { level: 0, entries: Vec::new() }.encode()?;
    Ok((Root { digest: Digest::of(&bytes), documents: 0, height: 1 }, bytes))
}

/// Builds the map of `entries`, whose keys ascend. Holds a few nodes of each level at a time.
///
/// # Errors
///
/// [`TreeError::Unsorted`], [`TreeError::Key`], [`TreeError::DocumentTooLarge`]; what the sink has got
/// by then is of no use.
pub fn build(
    entries: impl IntoIterator<Item = (String, Bytes)>,
    sink: &mut dyn NodeSink,
) -> Result<Root, TreeError> {
    let mut levels = Levels::from(0);
    let mut before: Option<String> = None;
    for (key, document) in entries {
        if before.as_ref().is_some_and(|before| *before >= key) {
            return Err(TreeError::Unsorted { key });
        }
        let (entry, node) = entry(&key, document)?;
        if let Some(node) = node {
            sink.put(node);
        }
        levels.push(entry, &mut |node| Ok(sink.put(node.encode()?)))?;
        before = Some(key);
    }
    match levels.finish(&mut |node| Ok(sink.put(node.encode()?)))? {
        Some(root) => Ok(root),
        None => {
            let (root, bytes) = empty()?;
            sink.put(bytes);
            Ok(root)
        }
    }
}
