//! By the File Hierarchy Standard.

use std::path::PathBuf;

pub(super) fn data_dir() -> PathBuf {
    PathBuf::from("/var/lib/tierway-endpoint")
}

pub(super) fn local_socket() -> PathBuf {
    PathBuf::from("/run/tierway/endpoint.sock")
}

/// Whoever starts it names one: a unit does, and a person who asks the usual socket needs none.
pub(super) fn file() -> Option<PathBuf> {
    None
}
