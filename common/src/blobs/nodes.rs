//! Blobs as the nodes of a tree.

use bytes::Bytes;

use super::{BlobError, Blobs};
use crate::{
    tree::{NodeSource, STORED_BYTES_MAX, TreeError},
    trust::digest::Digest,
};

impl NodeSource for Blobs {
    fn node(&self, digest: &Digest) -> Result<Bytes, TreeError> {
        self.get(digest, STORED_BYTES_MAX).map_err(|error| match error {
            BlobError::Absent { digest } => TreeError::Missing { digest },
            BlobError::TooLarge { digest, .. } => TreeError::Malformed { digest, reason: "it is too large" },
            error => TreeError::Unreadable { digest: *digest, source: error.into() },
        })
    }

    fn has(&self, digest: &Digest) -> bool {
        self.contains(digest)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::{blobs::BlobOptions, tree};

    #[test]
    fn a_tree_in_blobs_is_fetched_pinned_evicted_around_and_read() {
        let document = |n: u32| Bytes::from(Digest::of(&n.to_be_bytes()).to_string().repeat(20));
        let entries = || (0..500).map(|n| (format!("update/{n:04}"), document(n)));
        let mut theirs: HashMap<Digest, Bytes> = HashMap::new();
        let root = tree::build(entries(), &mut theirs).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let options = BlobOptions { quota_bytes: 1 << 20, free_floor_bytes: 0 };
        let blobs = Blobs::open(dir.path(), options).unwrap();
        let wanted = || {
            let old = blobs.pins_if_whole("tree/a").unwrap_or_default();
            tree::missing(&root.digest, None, &|digest| old.contains(digest), &blobs).unwrap()
        };
        let mut rounds = 0;
        while let nodes @ [_, ..] = &wanted()[..] {
            let nodes: Vec<_> = nodes.iter().map(|digest| theirs[digest].clone()).collect();
            blobs.put_many(&nodes).unwrap();
            rounds += 1;
        }
        assert_eq!(rounds, root.height);
        blobs.pin("tree/a", &tree::reachable(&root.digest, None, &blobs).unwrap()).unwrap();
        assert_eq!(blobs.pins("tree/a").len(), theirs.len());
        for n in 0..40u32 {
            blobs.put(&document(n + 1000).repeat(40)).unwrap();
        }
        assert!(blobs.usage().count < 40 + theirs.len() as u64, "something was evicted");
        for (key, document) in entries() {
            assert_eq!(tree::get(&root.digest, &key, &blobs).unwrap(), Some(document));
        }
        blobs.remove(&root.digest).unwrap();
        let error = tree::get(&root.digest, "update/0001", &blobs).unwrap_err();
        assert!(matches!(error, TreeError::Missing { digest } if digest == root.digest));
        assert_eq!(wanted(), [root.digest], "only what was lost is fetched again");
        blobs.put(&theirs[&root.digest]).unwrap();
        assert_eq!(blobs.pins_if_whole("tree/a"), Some(blobs.pins("tree/a")));
    }
}
