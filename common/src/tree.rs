//! The Merkle map: documents under sorted keys, in small nodes that are named by their digest.
//!
//! # Shape
//!
//! A leaf holds keys with their documents (a large one by digest, as a node of its own), an inner node the
//! first key, the digest and the number of documents of each child. All leaves are at level 0. The root
//! is the lowest level that has one node; the empty map is an empty leaf.
//!
//! Where one node ends and the next begins is decided from the entries of that node alone: from the digest of
//! the last key and the size so far (see `tree/chunk.rs`). So the same map has the same
//! nodes and the same root however it came about, [`update`] finds the old boundaries again right after a
//! change, and two maps that differ little share all nodes but a few. Nodes are compressed; another version
//! of zstd may compress to other bytes, which gives other digests for what is written from then on, and nothing else.
//!
//! # Sync
//!
//! [`missing`] says what to fetch next; fetch it, keep it, ask again, until the answer is empty. Nodes
//! may be kept in any order and at any time: that a node is here says nothing about its children. What lets
//! a sync skip the unchanged part is `complete`: true for a node only if all below it that the prefix
//! selects is here. The digests that are [`reachable`] from a tree that was complete are such a set; with
//! [`crate::blobs`] they are what the tree's owner pins, so they cannot be evicted, survive a crash, and
//! cost nothing to keep: [`Blobs::pins_if_whole`](crate::blobs::Blobs::pins_if_whole) is the set, and after a sync
//! the owner pins what is reachable from the new root. Presence alone would not do: eviction takes single nodes.
//! If a pinned blob is lost to corruption, reading fails with [`TreeError::Missing`], and there is no such set until
//! a sync with `complete` always false has fetched just that.
//!
//! Nothing here does I/O: nodes come from a [`NodeSource`] and go to a [`NodeSink`].

mod chunk;
mod diff;
mod node;
mod sync;
mod update;

use std::collections::HashMap;

use bytes::Bytes;

use self::node::{Expected, Node};
pub use self::{
    chunk::build,
    diff::{Change, diff},
    node::{
        DOCUMENT_BYTES_MAX, INLINE_BYTES_MAX, KEY_BYTES_MAX, LEVEL_MAX, NODE_BYTES_MAX, STORED_BYTES_MAX,
    },
    sync::{MISSING_MAX, missing, reachable},
    update::update,
};
use crate::trust::digest::Digest;

/// A map, by the digest of its root node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// Of the root node's bytes.
    pub digest: Digest,
    /// How many documents the map holds.
    pub documents: u64,
    /// Levels: 1 for a single leaf.
    pub height: u32,
}

/// Why a tree could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A node or a document is not here: fetch it.
    #[error("tree node `{digest}` is not here")]
    Missing {
        /// Which one.
        digest: Digest,
    },
    /// A node is not what a tree is made of; whoever published it is broken or hostile.
    #[error("tree node `{digest}` is malformed: {reason}")]
    Malformed {
        /// Which one.
        digest: Digest,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A node is here and could not be read.
    #[error("could not read tree node `{digest}`")]
    Unreadable {
        /// Which one.
        digest: Digest,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A key is empty or longer than [`KEY_BYTES_MAX`].
    #[error("a key of {} bytes, beginning with `{}`, is not between 1 and {KEY_BYTES_MAX} bytes long",
        key.len(), key.chars().take(40).collect::<String>())]
    Key {
        /// The key.
        key: String,
    },
    /// Keys to build from do not ascend.
    #[error("key `{key}` does not follow the one before it")]
    Unsorted {
        /// The later key.
        key: String,
    },
    /// A document has more than [`DOCUMENT_BYTES_MAX`].
    #[error("document `{key}` has {bytes} bytes, more than {DOCUMENT_BYTES_MAX}")]
    DocumentTooLarge {
        /// Its key.
        key: String,
        /// Its length.
        bytes: usize,
    },
    /// zstd failed, as it does when there is no memory.
    #[error("could not compress a tree node")]
    Compress(#[source] std::io::Error),
}

/// Where nodes come from.
pub trait NodeSource {
    /// The node's bytes, which have this digest: a source checks what it does not know to be so.
    ///
    /// # Errors
    ///
    /// [`TreeError::Missing`] when it is not here.
    fn node(&self, digest: &Digest) -> Result<Bytes, TreeError>;

    /// Whether the node is here, without reading it where that is possible.
    fn has(&self, digest: &Digest) -> bool {
        self.node(digest).is_ok()
    }
}

/// Where new nodes go: children always before their parents.
pub trait NodeSink {
    /// Takes a node and names it.
    fn put(&mut self, bytes: Bytes) -> Digest;
}

impl NodeSource for HashMap<Digest, Bytes> {
    fn node(&self, digest: &Digest) -> Result<Bytes, TreeError> {
        self.get(digest).cloned().ok_or(TreeError::Missing { digest: *digest })
    }

    fn has(&self, digest: &Digest) -> bool {
        self.contains_key(digest)
    }
}

impl NodeSink for HashMap<Digest, Bytes> {
    fn put(&mut self, bytes: Bytes) -> Digest {
        let digest = Digest::of(&bytes);
        self.insert(digest, bytes);
        digest
    }
}

/// Nodes in the order in which they were made, for [`Blobs::put_many`](crate::blobs::Blobs::put_many).
impl NodeSink for Vec<Bytes> {
    fn put(&mut self, bytes: Bytes) -> Digest {
        let digest = Digest::of(&bytes);
        self.push(bytes);
        digest
    }
}

/// The document under `key`, if there is one.
///
/// # Errors
///
/// [`TreeError::Missing`] for a node or document that is not here, [`TreeError::Malformed`],
/// [`TreeError::Unreadable`].
pub fn get(root: &Digest, key: &str, source: &dyn NodeSource) -> Result<Option<Bytes>, TreeError> {
    let mut node = node::read(root, &Expected::root(), source)?;
    let mut upper: Option<Box<str>> = None;
    while node.level > 0 {
        let Some(index) = node.child_for(key) else { return Ok(None) };
        let (child, expected) = node.child(index, upper.as_deref());
        let (next, next_upper) =
            (node::read(&child.digest, &expected, source)?, expected.upper.map(Box::from));
        (node, upper) = (next, next_upper);
    }
    match node.entries.binary_search_by(|entry| (*entry.key).cmp(key)) {
        Ok(index) => node::document(&node.entries[index].item, source).map(Some),
        Err(_) => Ok(None),
    }
}

/// Calls `visit` with every key that starts with `prefix` and its document, in ascending key order.
/// Holds one node of each level at a time.
///
/// # Errors
///
/// As [`get`]; what was visited before stays visited.
pub fn walk_prefix(
    root: &Digest,
    prefix: &str,
    source: &dyn NodeSource,
    visit: &mut dyn FnMut(&str, &[u8]),
) -> Result<(), TreeError> {
    fn walk(
        node: &Node,
        upper: Option<&str>,
        prefix: &str,
        source: &dyn NodeSource,
        visit: &mut dyn FnMut(&str, &[u8]),
    ) -> Result<(), TreeError> {
        if node.level == 0 {
            let start = node.entries.partition_point(|entry| *entry.key < *prefix);
            for entry in node.entries[start..].iter().take_while(|entry| entry.key.starts_with(prefix)) {
                visit(&entry.key, &node::document(&entry.item, source)?);
            }
            return Ok(());
        }
        for index in node.children_of(prefix) {
            let (child, expected) = node.child(index, upper);
            walk(&node::read(&child.digest, &expected, source)?, expected.upper, prefix, source, visit)?;
        }
        Ok(())
    }
    walk(&node::read(root, &Expected::root(), source)?, None, prefix, source, visit)
}

/// The number of documents and the height of a tree whose root node is here.
///
/// # Errors
///
/// As [`get`].
pub fn root(digest: &Digest, source: &dyn NodeSource) -> Result<Root, TreeError> {
    let node = node::read(digest, &Expected::root(), source)?;
    Ok(Root { digest: *digest, documents: node.documents(), height: u32::from(node.level) + 1 })
}

#[cfg(test)]
mod tests;
