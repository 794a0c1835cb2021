//! By the File Hierarchy Standard.

use std::path::PathBuf;

pub(super) fn data_dir() -> PathBuf {
    PathBuf::from("/var/lib/tierway-relay")
}

/// Whoever starts it names one.
pub(super) fn file() -> Option<PathBuf> {
    None
}
