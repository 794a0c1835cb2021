//! What differs between two maps, reading only what they do not share.

use std::rc::Rc;

use bytes::Bytes;

use super::{
    NodeSource, TreeError,
    node::{self, Entry, Expected, Item, Node},
};
use crate::trust::digest::Digest;

/// A key whose documents differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// Its document in the old map.
    pub old: Option<Bytes>,
    /// Its document in the new map.
    pub new: Option<Bytes>,
}

/// What changed from the map `old` to the map `new`, in ascending key order. Reads the nodes that
/// the two do not share, and a few beside them.
///
/// # Errors
///
/// [`TreeError::Missing`] for a node or document that is not here, [`TreeError::Malformed`],
/// [`TreeError::Unreadable`].
pub fn diff(old: &Digest, new: &Digest, source: &dyn NodeSource) -> Result<Vec<Change>, TreeError> {
    let mut changes = Vec::new();
    if old == new {
        return Ok(changes);
    }
    let (mut old, mut new) = (Side::new(old, source)?, Side::new(new, source)?);
    loop {
        match (old.next_key(), new.next_key()) {
            (None, None) => return Ok(changes),
            (Some(a), Some(b)) if a == b => match (old.child(), new.child()) {
                (Some((level_a, digest_a)), Some((level_b, digest_b))) => {
                    if level_a == level_b && digest_a == digest_b {
                        old.skip();
                        new.skip();
                    } else {
                        if level_a >= level_b {
                            old.descend()?;
                        }
                        if level_b >= level_a {
                            new.descend()?;
                        }
                    }
                }
                (Some(_), None) => old.descend()?,
                (None, Some(_)) => new.descend()?,
                (None, None) => {
                    if let (Some(a), Some(b)) = (old.take(), new.take())
                        && a.item != b.item
                    {
                        let (old, new) = (node::document(&a.item, source)?, node::document(&b.item, source)?);
                        changes.push(Change { key: a.key.into(), old: Some(old), new: Some(new) });
                    }
                }
            },
            (Some(a), b) if b.is_none_or(|b| a < b) => match old.child() {
                Some(_) => old.descend()?,
                None => {
                    if let Some(entry) = old.take() {
                        let document = node::document(&entry.item, source)?;
                        changes.push(Change { key: entry.key.into(), old: Some(document), new: None });
                    }
                }
            },
            _ => match new.child() {
                Some(_) => new.descend()?,
                None => {
                    if let Some(entry) = new.take() {
                        let document = node::document(&entry.item, source)?;
                        changes.push(Change { key: entry.key.into(), old: None, new: Some(document) });
                    }
                }
            },
        }
    }
}

/// One of the two maps, read from left to right.
struct Side<'a> {
    source: &'a dyn NodeSource,
    /// From the root down: a node, the next of its entries, the bound of its keys.
    path: Vec<(Rc<Node>, usize, Option<Box<str>>)>,
}

impl<'a> Side<'a> {
    fn new(root: &Digest, source: &'a dyn NodeSource) -> Result<Self, TreeError> {
        let mut side =
            Self { source, path: vec![(Rc::new(node::read(root, &Expected::root(), source)?), 0, None)] };
        side.ascend();
        Ok(side)
    }

    fn next(&self) -> Option<&Entry> {
        let (node, next, _) = self.path.last()?;
        node.entries.get(*next)
    }

    fn next_key(&self) -> Option<&str> {
        self.next().map(|entry| &*entry.key)
    }

    /// Level of the node that is next, and its digest; `None` if a document is next.
    fn child(&self) -> Option<(u8, Digest)> {
        match (&self.next()?.item, self.path.last()) {
            (Item::Child(child), Some((node, ..))) => Some((node.level - 1, child.digest)),
            _ => None,
        }
    }

    /// Leaves the nodes that have nothing left.
    fn ascend(&mut self) {
        while let Some((node, next, _)) = self.path.last()
            && *next >= node.entries.len()
        {
            self.path.pop();
        }
    }

    fn skip(&mut self) {
        if let Some((_, next, _)) = self.path.last_mut() {
            *next += 1;
        }
        self.ascend();
    }

    fn take(&mut self) -> Option<Entry> {
        let entry = self.next().cloned();
        self.skip();
        entry
    }

    /// Replaces the node that is next by its entries.
    fn descend(&mut self) -> Result<(), TreeError> {
        let Some((node, next, upper)) = self.path.last_mut() else { return Ok(()) };
        let node = Rc::clone(node);
        let upper = upper.clone();
        let (child, expected) = node.child(*next, upper.as_deref());
        *next += 1;
        let below = Rc::new(node::read(&child.digest, &expected, self.source)?);
        let upper = expected.upper.map(Box::from);
        self.path.push((below, 0, upper));
        Ok(())
    }
}
