//! Which nodes a tree is made of, and which of them are still to be fetched.

use std::collections::BTreeSet;

use super::{
    NodeSource, TreeError,
    node::{self, Expected, Item},
};
use crate::trust::digest::Digest;

/// Digests that one call of [`missing`] gives at most: half a megabyte of them, and with leaves of 2 KiB a
/// batch of 32 MB.
pub const MISSING_MAX: usize = 16 * 1024;

/// Nodes and documents to fetch next, so that everything whose key starts with `prefix` (`None`: everything)
/// can be read; empty when all is here. Ascending, at most [`MISSING_MAX`], each once. What lies below
/// a node that is missing is told after that node was fetched: a tree is fetched in as many rounds as
/// it has levels, and one more if documents are nodes of their own.
///
/// `complete` is true for a node only if all below it that `prefix` selects is here: it is skipped, with all below it.
/// A function that is always false is right, and makes it look at every inner node.
///
/// # Errors
///
/// [`TreeError::Malformed`], [`TreeError::Unreadable`].
pub fn missing(
    root: &Digest,
    prefix: Option<&str>,
    complete: &dyn Fn(&Digest) -> bool,
    source: &dyn NodeSource,
) -> Result<Vec<Digest>, TreeError> {
    let mut found = BTreeSet::new();
    let absent = visit(root, prefix.unwrap_or(""), source, &mut |digest, below| {
        if found.len() >= MISSING_MAX || complete(digest) {
            return Visit::Skip;
        }
        if !source.has(digest) {
            found.insert(*digest);
            return Visit::Skip;
        }
        below
    })?;
    // Those were here a moment ago.
    found.extend(absent);
    Ok(found.into_iter().take(MISSING_MAX).collect())
}

/// Every node and document of a tree that a reader of the keys starting with `prefix` (`None`: all keys)
/// needs, the root included: what to pin.
///
/// # Errors
///
/// [`TreeError::Missing`] for a node that is not here and leads to others, [`TreeError::Malformed`],
/// [`TreeError::Unreadable`].
pub fn reachable(
    root: &Digest,
    prefix: Option<&str>,
    source: &dyn NodeSource,
) -> Result<BTreeSet<Digest>, TreeError> {
    let mut found = BTreeSet::new();
    let absent = visit(root, prefix.unwrap_or(""), source, &mut |digest, below| {
        found.insert(*digest);
        below
    })?;
    match absent.first() {
        Some(digest) => Err(TreeError::Missing { digest: *digest }),
        None => Ok(found),
    }
}

/// What to do with a node or document.
#[derive(Clone, Copy)]
enum Visit {
    /// Nothing that is needed can be below it.
    Skip,
    /// Visit what it names.
    Read,
}

/// Decides about a node or document, told what to do with it if it is needed.
type Decide<'a> = &'a mut dyn FnMut(&Digest, Visit) -> Visit;

/// Visits nodes and documents from the root down, left to right; gives those that were to be read and are absent.
fn visit(
    root: &Digest,
    prefix: &str,
    source: &dyn NodeSource,
    decide: Decide<'_>,
) -> Result<Vec<Digest>, TreeError> {
    let mut absent = Vec::new();
    if let Visit::Read = decide(root, Visit::Read) {
        read(root, &Expected::root(), prefix, source, decide, &mut absent)?;
    }
    Ok(absent)
}

fn read(
    digest: &Digest,
    expected: &Expected<'_>,
    prefix: &str,
    source: &dyn NodeSource,
    decide: Decide<'_>,
    absent: &mut Vec<Digest>,
) -> Result<(), TreeError> {
    let node = match node::read(digest, expected, source) {
        Ok(node) => node,
        Err(TreeError::Missing { digest }) => {
            absent.push(digest);
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    if node.level == 0 {
        for entry in node.entries.iter().filter(|entry| entry.key.starts_with(prefix)) {
            if let Item::External { digest, .. } = &entry.item {
                decide(digest, Visit::Skip);
            }
        }
        return Ok(());
    }
    for index in node.children_of(prefix) {
        let (child, expected) = node.child(index, expected.upper);
        // A leaf whose documents are all within it names nothing.
        let then = if node.level > 1 || child.external > 0 { Visit::Read } else { Visit::Skip };
        if let Visit::Read = decide(&child.digest, then) {
            read(&child.digest, &expected, prefix, source, decide, absent)?;
        }
    }
    Ok(())
}
