//! What differs by system: here Windows.
//!
//! Who may read is inherited from the data directory; a rename is committed with the file.

use std::{
    fs::{DirBuilder, File},
    io,
    os::windows::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use super::FileIdentity;

pub(super) fn private_directories() -> DirBuilder {
    DirBuilder::new()
}

/// Syncs `files` one by one: all of a volume can be flushed by administrators only.
pub(super) fn sync_files<'a>(_: &Path, files: impl Iterator<Item = &'a PathBuf>) -> io::Result<()> {
    for path in files {
        File::options().write(true).open(path)?.sync_all()?;
    }
    Ok(())
}

pub(super) fn sync_renames(_: &Path) -> io::Result<()> {
    Ok(())
}

pub(super) fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match file.seek_read(buffer, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                offset += count as u64;
                buffer = &mut buffer[count..];
            }
        }
    }
    Ok(())
}

/// By when it was made and changed: the number of a file is not to be had from `std`.
pub(super) fn identity(file: &File) -> io::Result<FileIdentity> {
    let data = file.metadata()?;
    let modified = i64::try_from(data.last_write_time()).unwrap_or(i64::MAX);
    Ok(FileIdentity { file: (0, data.creation_time()), modified: (modified, 0), bytes: data.len() })
}
