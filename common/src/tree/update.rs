//! Changing some documents of a map: reads and writes only the nodes around them.
//!
//! Level by level from the leaves: the entries of the nodes around a change are run through the chunker
//! again, from the beginning of the node that holds it until a boundary falls on an old one. What
//! this takes away and adds are the changes of the level above.

use std::{
    collections::{BTreeMap, HashMap},
    iter::Peekable,
    rc::Rc,
};

use bytes::Bytes;

use super::{
    NodeSink, NodeSource, Root, TreeError,
    chunk::{self, Chunker, Levels},
    node::{self, Entry, Expected, Item, Node},
};
use crate::trust::digest::Digest;

/// What happens to the entries of a level, by key; `None` removes.
type Changes = BTreeMap<Box<str>, Option<Item>>;

/// The map with `changes` made: a document replaces or adds, `None` removes. The result is the one that
/// [`build`](super::build) gives for the changed map; the sink gets only nodes that `root` does not have in
/// their place. Reads and writes a few nodes per change and level.
///
/// # Errors
///
/// [`TreeError::Missing`] for a node that is not here, [`TreeError::Malformed`], [`TreeError::Unreadable`],
/// [`TreeError::Key`], [`TreeError::DocumentTooLarge`]; the sink has got nothing then.
pub fn update(
    root: &Digest,
    changes: &BTreeMap<String, Option<Bytes>>,
    source: &dyn NodeSource,
    sink: &mut dyn NodeSink,
) -> Result<Root, TreeError> {
    let mut update = Update::new(root, source)?;
    let mut level_changes = Changes::new();
    for (key, document) in changes {
        let item = match document {
            Some(document) => {
                let (entry, node) = chunk::entry(key, document.clone())?;
                if let Some(node) = node {
                    update.made.insert(Digest::of(&node), (node, Vec::new()));
                }
                Some(entry.item)
            }
            None => None,
        };
        level_changes.insert(key.as_str().into(), item);
    }
    let top = update.root.level;
    for level in 0..=top {
        let (nodes, changes) = update.level(level, level_changes)?;
        level_changes = changes;
        if level_changes.is_empty() {
            return super::root(root, source);
        }
        if level == top {
            return update.finish(nodes, sink);
        }
    }
    super::root(root, source)
}

struct Update<'a> {
    source: &'a dyn NodeSource,
    root_digest: Digest,
    root: Rc<Node>,
    read: HashMap<Digest, Rc<Node>>,
    /// New nodes with what they name, and new documents.
    made: HashMap<Digest, (Bytes, Vec<Digest>)>,
}

/// An old node, and the first key of the next one of its level.
struct Located {
    digest: Digest,
    node: Rc<Node>,
    upper: Option<Box<str>>,
}

impl<'a> Update<'a> {
    fn new(root: &Digest, source: &'a dyn NodeSource) -> Result<Self, TreeError> {
        let node = Rc::new(node::read(root, &Expected::root(), source)?);
        Ok(Self { source, root_digest: *root, root: node, read: HashMap::new(), made: HashMap::new() })
    }

    /// The old node of `level` whose range holds `key`.
    fn locate(&mut self, level: u8, key: &str) -> Result<Located, TreeError> {
        let mut found = Located { digest: self.root_digest, node: Rc::clone(&self.root), upper: None };
        while found.node.level > level {
            let index = found.node.child_for(key).unwrap_or(0);
            let (child, expected) = found.node.child(index, found.upper.as_deref());
            let node = match self.read.get(&child.digest) {
                Some(node) => Rc::clone(node),
                None => {
                    let node = Rc::new(node::read(&child.digest, &expected, self.source)?);
                    // Leaves are read once; what leads to them is read for each change again.
                    if node.level > 0 {
                        self.read.insert(child.digest, Rc::clone(&node));
                    }
                    node
                }
            };
            let upper = expected.upper.map(Box::from);
            found = Located { digest: child.digest, node, upper };
        }
        Ok(found)
    }

    /// Makes the changes of one level; gives the nodes made, in key order, and the changes of the level above.
    fn level(&mut self, level: u8, changes: Changes) -> Result<(Vec<Entry>, Changes), TreeError> {
        let mut changes = changes.into_iter().peekable();
        let mut taken: BTreeMap<Box<str>, Digest> = BTreeMap::new();
        let mut made: Vec<Entry> = Vec::new();
        while let Some((key, _)) = changes.peek() {
            let mut at = self.locate(level, &key.clone())?;
            let mut chunker = Chunker::new(level);
            loop {
                if let Some(first) = at.node.first_key() {
                    taken.insert(first.into(), at.digest);
                }
                let entries = Merged { old: at.node.entries.iter().peekable(), changes: &mut changes };
                for entry in entries.below(at.upper.as_deref()) {
                    if let Some(node) = chunker.push(entry) {
                        made.extend(self.make(&node)?);
                    }
                }
                match &at.upper {
                    None => {
                        if let Some(node) = chunker.take() {
                            made.extend(self.make(&node)?);
                        }
                        break;
                    }
                    Some(_) if chunker.at_boundary() => break,
                    Some(upper) => at = self.locate(level, &upper.clone())?,
                }
            }
        }
        let mut above: Changes = taken.keys().map(|key| (key.clone(), None)).collect();
        for entry in &made {
            above.insert(entry.key.clone(), Some(entry.item.clone()));
        }
        above.retain(|key, item| match (item, taken.get(key)) {
            (Some(Item::Child(child)), Some(old)) => child.digest != *old,
            _ => true,
        });
        Ok((made, above))
    }

    fn make(&mut self, node: &Node) -> Result<Option<Entry>, TreeError> {
        let digest = keep(&mut self.made, node)?;
        Ok(node.first_key().map(|key| Entry { key: key.into(), item: Item::Child(node.as_child(digest)) }))
    }

    /// Builds up or takes away levels, given all nodes of the level of the old root.
    fn finish(mut self, nodes: Vec<Entry>, sink: &mut dyn NodeSink) -> Result<Root, TreeError> {
        let mut level = self.root.level;
        let root = match <[Entry; 1]>::try_from(nodes) {
            Ok([only]) => self.lowest_alone(only, &mut level)?,
            Err(nodes) => {
                let mut levels = Levels::from(level + 1);
                for entry in nodes {
                    levels.push(entry, &mut |node| keep(&mut self.made, node))?;
                }
                levels.finish(&mut |node| keep(&mut self.made, node))?
            }
        };
        let Some(root) = root else {
            let (root, bytes) = chunk::empty()?;
            sink.put(bytes);
            return Ok(root);
        };
        self.emit(&root.digest, sink);
        Ok(root)
    }

    /// From the one node of `level` down to the lowest node that is alone on its level: the root.
    fn lowest_alone(&self, only: Entry, level: &mut u8) -> Result<Option<Root>, TreeError> {
        let Entry { mut key, item: Item::Child(mut child) } = only else { return Ok(None) };
        while *level > 0 {
            let expected = Expected::child(*level, child, &key);
            let node = match self.made.get(&child.digest) {
                Some((bytes, _)) => {
                    let made = HashMap::from([(child.digest, bytes.clone())]);
                    node::read(&child.digest, &expected, &made)?
                }
                None => node::read(&child.digest, &expected, self.source)?,
            };
            let Ok([Entry { key: below, item: Item::Child(next) }]) = <[Entry; 1]>::try_from(node.entries)
            else {
                break;
            };
            (key, child) = (below, next);
            *level -= 1;
        }
        Ok(Some(Root { digest: child.digest, documents: child.documents, height: u32::from(*level) + 1 }))
    }

    /// Gives the sink the new nodes that the root leads to, children first.
    fn emit(&mut self, digest: &Digest, sink: &mut dyn NodeSink) {
        // Recursion is as deep as the tree is high.
        if let Some((bytes, names)) = self.made.remove(digest) {
            for name in names {
                self.emit(&name, sink);
            }
            sink.put(bytes);
        }
    }
}

fn keep(made: &mut HashMap<Digest, (Bytes, Vec<Digest>)>, node: &Node) -> Result<Digest, TreeError> {
    let bytes = node.encode()?;
    let digest = Digest::of(&bytes);
    made.insert(digest, (bytes, node.names().collect()));
    Ok(digest)
}

/// Old entries with changes made, in key order.
struct Merged<'a, O: Iterator<Item = &'a Entry>, C: Iterator<Item = (Box<str>, Option<Item>)>> {
    old: Peekable<O>,
    changes: &'a mut Peekable<C>,
}

impl<'a, O, C> Merged<'a, O, C>
where
    O: Iterator<Item = &'a Entry>,
    C: Iterator<Item = (Box<str>, Option<Item>)>,
{
    /// All of them below `upper`, which is above every old one.
    fn below(mut self, upper: Option<&str>) -> impl Iterator<Item = Entry> {
        std::iter::from_fn(move || {
            loop {
                let change = self
                    .changes
                    .peek()
                    .map(|(key, _)| key)
                    .filter(|key| upper.is_none_or(|upper| ***key < *upper));
                match (self.old.peek(), change) {
                    (None, None) => return None,
                    (Some(old), Some(change)) if old.key < *change => return self.old.next().cloned(),
                    (Some(_), None) => return self.old.next().cloned(),
                    (old, Some(change)) => {
                        if old.is_some_and(|old| old.key == *change) {
                            self.old.next();
                        }
                        if let Some((key, Some(item))) = self.changes.next() {
                            return Some(Entry { key, item });
                        }
                    }
                }
            }
        })
    }
}
