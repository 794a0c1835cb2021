//! What cannot be had is said in one line, and is a failure where it must be there.

use std::path::PathBuf;

/// Says what is skipped and why; panics when `TIERWAY_REQUIRE` is set.
pub fn skip(what: &str, because: &str) {
    assert!(std::env::var_os("TIERWAY_REQUIRE").is_none(), "{what} must run here, but {because}");
    println!("skipped: {what}, since {because}");
}

/// A pristine Debian root to copy; `None`, said, where there is none.
#[must_use]
pub fn pristine_root(what: &str) -> Option<PathBuf> {
    let root = std::env::var_os("TIERWAY_TEST_ROOT").map(PathBuf::from).filter(|root| root.is_dir());
    if root.is_none() {
        skip(what, "`TIERWAY_TEST_ROOT` does not name a Debian root (deploy/test makes one)");
    }
    root
}
