//! A system's root directory, below which paths are opened as that system would see them.
//!
//! In another root than `/` an absolute link such as `/etc/os-release -> /usr/lib/os-release` must lead to
//! that root's file, and no link may lead out of it. The kernel resolves it so (`openat2` with
//! `RESOLVE_IN_ROOT`, Linux 5.6).

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// An open root directory.
#[derive(Debug)]
pub struct Root {
    directory: OwnedFd,
    path: PathBuf,
}

impl Root {
    /// Opens `path` as a root.
    ///
    /// # Errors
    ///
    /// When it is no directory or may not be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { directory, path: path.to_owned() })
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is the running system's own root.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.path == Path::new("/")
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] when it is no regular file: a pipe or a device is not opened at all.
    pub fn file(&self, path: &str) -> io::Result<File> {
        let found = self.locate(path)?;
        if !found.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        self.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK)
    }

    /// What is at `path`, links followed, opened for its metadata only.
    ///
    /// # Errors
    ///
    /// As the system says; [`io::ErrorKind::NotFound`] when nothing is there.
    pub fn locate(&self, path: &str) -> io::Result<File> {
        self.resolve(path, OFlags::PATH)
    }

    /// Where the link at `path` leads, as it is written there; `None` when it is no link.
    ///
    /// # Errors
    ///
    /// As the system says; [`io::ErrorKind::NotFound`] when nothing is there.
    pub fn link(&self, path: &str) -> io::Result<Option<String>> {
        let found = self.resolve(path, OFlags::PATH | OFlags::NOFOLLOW)?;
        if !found.metadata()?.file_type().is_symlink() {
            return Ok(None);
        }
        let target = rustix::fs::readlinkat(&found, "", Vec::new())?;
        Ok(Some(target.to_string_lossy().into_owned()))
    }

    fn resolve(&self, path: &str, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::CLOEXEC;
        if self.is_host() {
            return Ok(rustix::fs::open(path, flags, Mode::empty())?.into());
        }
        let resolve = ResolveFlags::IN_ROOT;
        Ok(rustix::fs::openat2(&self.directory, path, flags, Mode::empty(), resolve)?.into())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Read, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn a_link_in_another_root_never_leads_out_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("etc")).unwrap();
        fs::write(directory.path().join("real"), "inside").unwrap();
        fs::write(outside.path().join("real"), "outside").unwrap();
        symlink("/real", directory.path().join("etc/absolute")).unwrap();
        symlink("../../../../real", directory.path().join("etc/upward")).unwrap();
        symlink(outside.path().join("real"), directory.path().join("etc/leak")).unwrap();
        let root = Root::open(directory.path()).unwrap();
        for path in ["/etc/absolute", "/etc/upward", "/etc/../../real"] {
            let mut text = String::new();
            root.file(path).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "inside", "{path}");
        }
        assert_eq!(root.file("/etc/leak").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_pipe_is_refused_and_does_not_block() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let root = Root::open(directory.path()).unwrap();
        assert_eq!(root.file("/pipe").unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
