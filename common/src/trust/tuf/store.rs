//! Trusted metadata on disk: every file exactly as it was signed, under its name without version.

use std::path::{Path, PathBuf};

use crate::trust::{
    durable::{self, DurableError, Readable},
    tuf::{metadata::TOP_LEVEL, quote},
};

/// More than any limit on what is accepted, so that a longer file was not written here.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Longest file name that every common file system takes, without `.json`, the dot and `.partial`.
const NAME_BYTES_MAX: usize = 240;

/// A directory of trusted metadata.
#[derive(Clone, Debug)]
pub(super) struct Store {
    dir: PathBuf,
}

impl Store {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Where `role` is kept. Names of delegated roles are quoted, so none of them leaves the directory.
    pub(super) fn path(&self, role: &str) -> PathBuf {
        self.dir.join(format!("{}.json", quote(role)))
    }

    /// Whether every file system can take the role's name, and would not take it for a top-level role's.
    pub(super) fn can_hold(role: &str) -> bool {
        quote(role).len() <= NAME_BYTES_MAX && !TOP_LEVEL.iter().any(|name| name.eq_ignore_ascii_case(role))
    }

    pub(super) fn read(&self, role: &str) -> Result<Option<Vec<u8>>, DurableError> {
        durable::read(&self.path(role), FILE_BYTES_MAX)
    }

    pub(super) fn write(&self, role: &str, bytes: &[u8]) -> Result<(), DurableError> {
        durable::write(&self.path(role), bytes, Readable::AsUsual)
    }

    pub(super) fn remove(&self, role: &str) -> Result<(), DurableError> {
        durable::remove(&self.path(role))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delegated_role_never_takes_the_file_of_a_top_level_role() {
        for (role, expected) in [("bins", true), ("ROOT", false), ("Targets", false), ("ä", true)] {
            assert_eq!(Store::can_hold(role), expected, "{role}");
        }
        assert!(Store::can_hold(&"x".repeat(240)) && !Store::can_hold(&"ä".repeat(41)));
    }

    #[test]
    fn no_role_name_leaves_the_directory() {
        let store = Store::new(Path::new("/trust"));
        for (role, path) in [
            ("root", "/trust/root.json"),
            ("../../etc/passwd", "/trust/..%2F..%2Fetc%2Fpasswd.json"),
            ("/absolute", "/trust/%2Fabsolute.json"),
            ("..", "/trust/...json"),
            ("a\\b\0ü?#", "/trust/a%5Cb%00%C3%BC%3F%23.json"),
        ] {
            assert_eq!(store.path(role), Path::new(path));
        }
    }
}
