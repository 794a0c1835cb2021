//! What differs by system: here POSIX.

use std::{
    fs::{DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use super::FileIdentity;

/// Makes directories for their owner alone.
pub(super) fn private_directories() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    builder
}

/// Syncs `files`, which were written below `dir`: by all of its file system, which is faster than one by one.
pub(super) fn sync_files<'a>(dir: &Path, _: impl Iterator<Item = &'a PathBuf>) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(dir)?)?)
}

/// Syncs many renames below `dir`.
pub(super) fn sync_renames(dir: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(dir)?)?)
}

pub(super) fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    file.read_exact_at(buffer, offset)
}

pub(super) fn identity(file: &File) -> io::Result<FileIdentity> {
    let data = file.metadata()?;
    Ok(FileIdentity {
        file: (data.dev(), data.ino()),
        modified: (data.mtime(), data.mtime_nsec()),
        bytes: data.len(),
    })
}
