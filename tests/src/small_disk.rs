//! A disk that is soon full.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{programs::run_if_there, skip::skip};

/// A file system of its own in memory, gone when this is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// One of `kib` KiB over the folder `path`, which is made; `None`, said, where nothing may be mounted.
    #[must_use]
    pub fn mount(what: &str, path: &Path, kib: u32) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let size = format!("size={kib}k");
        let arguments = ["-t", "tmpfs", "-o", &size, "tmpfs", path.to_str().unwrap()];
        if run_if_there("mount", &arguments).is_some_and(|mounted| mounted.code == Some(0)) {
            return Some(Self { path: path.to_owned() });
        }
        skip(what, "no file system can be mounted here");
        None
    }

    /// Takes all the room there is.
    pub fn fill(&self) {
        let full = fs::write(self.filler(), vec![0; 64 << 20]).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }

    /// Gives it back.
    pub fn clear(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, since whoever uses it may not have closed everything yet.
        let _ = run_if_there("umount", &["-l", self.path.to_str().unwrap_or_default()]);
    }
}
