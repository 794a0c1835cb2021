//! Bringing the nodes of catalogues over, by their digests.
//!
//! A tree is fetched level by level from its root. What is complete here already (the digests its owner
//! pins, see `tierway_common::tree`) is skipped whole, so an unchanged subtree costs nothing.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use tierway_common::{
    blobs::{BlobError, Blobs},
    daemon::disk::on_disk,
    tree::{self, STORED_BYTES_MAX, TreeError},
    trust::digest::Digest,
};

use crate::upstream::{Upstream, UpstreamError};

/// Nodes asked for, held in memory and kept at once.
const NODES_PER_BATCH: usize = 512;

/// Why a catalogue could not be brought over.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// The tier above.
    #[error("could not fetch the catalogue's tree")]
    Upstream(#[from] UpstreamError),
    /// A node that is named by verified metadata and makes no sense.
    #[error("the catalogue's tree is broken")]
    Tree(#[from] TreeError),
    /// Keeping it.
    #[error("could not keep the catalogue's tree")]
    Keep(#[from] BlobError),
    /// What was kept of it first gave way to what came later.
    #[error(
        "there is no room for all of the catalogue's tree: its node `{digest}` was fetched and is gone again"
    )]
    NoRoom {
        /// One of those that are gone.
        digest: Digest,
    },
}

/// What a sync cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Blobs fetched.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Brings the whole tree below `root` into `trees`, skipping subtrees whose root is `complete` there.
///
/// # Errors
///
/// [`CatalogueError`]; what came by then is kept, and the next try goes on from it.
pub async fn tree(
    upstream: &Upstream,
    root: Digest,
    trees: &Blobs,
    complete: &Arc<BTreeSet<Digest>>,
) -> Result<Cost, CatalogueError> {
    let mut cost = Cost::default();
    // Nothing is pinned before all of it is here, so one part can drive out another.
    let mut fetched = HashSet::new();
    // Each round fetches at least one node of what is finite; a tree that is not is refused by its depth.
    loop {
        let (here, complete) = (trees.clone(), complete.clone());
        let wanted =
            on_disk(move || tree::missing(&root, None, &|digest| complete.contains(digest), &here)).await?;
        if wanted.is_empty() {
            return Ok(cost);
        }
        if let Some(again) = wanted.iter().find(|digest| !fetched.insert(**digest)) {
            return Err(CatalogueError::NoRoom { digest: *again });
        }
        for batch in wanted.chunks(NODES_PER_BATCH) {
            let nodes = upstream.small_blobs(batch, STORED_BYTES_MAX).await?;
            cost.blobs += nodes.len() as u64;
            cost.bytes += nodes.values().map(|node| node.len() as u64).sum::<u64>();
            keep(trees, nodes.into_values().collect()).await?;
        }
    }
}

async fn keep(trees: &Blobs, blobs: Vec<Bytes>) -> Result<(), BlobError> {
    if blobs.is_empty() {
        return Ok(());
    }
    let trees = trees.clone();
    on_disk(move || trees.put_many(&blobs)).await.map(drop)
}

/// One document of a tree of which only single paths are kept, fetching what is missing on the way.
///
/// # Errors
///
/// [`CatalogueError`].
pub async fn document(
    upstream: &Upstream,
    root: Digest,
    key: &str,
    paths: &Blobs,
) -> Result<Option<Bytes>, CatalogueError> {
    fetching(upstream, paths, || tree::get(&root, key, paths)).await
}

/// All documents whose key starts with `prefix`, in key order; otherwise as [`document`].
///
/// # Errors
///
/// [`CatalogueError`].
pub async fn documents(
    upstream: &Upstream,
    root: Digest,
    prefix: &str,
    paths: &Blobs,
) -> Result<Vec<(String, Bytes)>, CatalogueError> {
    fetching(upstream, paths, || {
        let mut found = Vec::new();
        tree::walk_prefix(&root, prefix, paths, &mut |key, bytes| {
            found.push((key.to_owned(), Bytes::copy_from_slice(bytes)));
        })?;
        Ok(found)
    })
    .await
}

/// Tries `read` again after fetching the node it missed, as often as a walk may miss one.
async fn fetching<T>(
    upstream: &Upstream,
    paths: &Blobs,
    mut read: impl FnMut() -> Result<T, TreeError>,
) -> Result<T, CatalogueError> {
    let mut last = None;
    loop {
        match read() {
            Err(TreeError::Missing { digest }) if last != Some(digest) => {
                last = Some(digest);
                let found = upstream.small_blobs(&[digest], STORED_BYTES_MAX).await?;
                keep(paths, found.into_values().collect()).await?;
            }
            other => return Ok(other?),
        }
    }
}
