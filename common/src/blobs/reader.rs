//! Serving a blob piece by piece, to many at a time.

#[cfg(target_os = "linux")]
use std::io::IoSliceMut;
use std::{
    fmt,
    fs::File,
    path::PathBuf,
    sync::{Arc, Weak},
};

#[cfg(target_os = "linux")]
use rustix::io::{ReadWriteFlags, preadv2};

use super::{BlobError, Inner, disk};
use crate::trust::digest::Digest;

/// The file of a blob that someone reads; one for all its readers.
#[derive(Debug)]
pub(super) struct OpenBlob {
    path: PathBuf,
    file: File,
    bytes: u64,
}

/// A verified blob. A clone reads the same file.
#[derive(Clone)]
pub struct Reader {
    digest: Digest,
    open: Arc<OpenBlob>,
    /// Where it belongs to, unless that was closed meanwhile.
    inner: Weak<Inner>,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl Reader {
    pub(super) fn open(inner: &Arc<Inner>, digest: &Digest) -> Result<Self, BlobError> {
        let open = inner.index().open(digest);
        let open = match open {
            Some(open) => open,
            None => {
                if inner.index().len(digest).is_none() {
                    return Err(BlobError::Absent { digest: *digest });
                }
                let (path, mut file) = inner.open_file(digest)?;
                let bytes = inner.verify(digest, &mut file)?;
                let open = Arc::new(OpenBlob { path, file, bytes });
                inner.index().set_open(digest, &open);
                open
            }
        };
        inner.used(digest);
        Ok(Self { digest: *digest, open, inner: Arc::downgrade(inner) })
    }

    /// Which blob.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Its length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "only one blob is empty, and nobody asks")]
    #[must_use]
    pub fn len(&self) -> u64 {
        self.open.bytes
    }

    /// Fills `out` with the bytes from `offset` on; blocks for the disk.
    ///
    /// # Errors
    ///
    /// [`BlobError::Io`], also when there are not so many. A blob whose bytes cannot be read any more is absent for
    /// whoever comes next, but after [`super::Blobs::be_the_source`].
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), BlobError> {
        let OpenBlob { path, file, bytes } = &*self.open;
        let end = offset.saturating_add(out.len() as u64);
        disk::read_exact_at(file, out, offset).map_err(|source| {
            // Whoever asks for more than there is has found no damage.
            if end <= *bytes
                && let Some(inner) = self.inner.upgrade()
            {
                // Unless it has come anew since this was opened.
                let now = inner.index().open(&self.digest);
                if now.is_some_and(|now| Arc::ptr_eq(&now, &self.open)) {
                    let _absent = inner.unreadable(&self.digest, &source);
                }
            }
            disk::error("read", path)(source)
        })
    }

    /// Fills `out` with the bytes from `offset` on if the system has all of them in memory; `false`, and `out`
    /// is worth nothing, when that would wait for the disk or the system cannot tell.
    #[cfg(target_os = "linux")]
    #[must_use]
    pub fn read_hot(&self, offset: u64, out: &mut [u8]) -> bool {
        let len = out.len();
        let read = preadv2(&self.open.file, &mut [IoSliceMut::new(out)], offset, ReadWriteFlags::NOWAIT);
        read == Ok(len)
    }

    /// Fills `out` with the bytes from `offset` on if the system has all of them in memory, which this one
    /// cannot tell.
    #[cfg(not(target_os = "linux"))]
    #[must_use]
    pub fn read_hot(&self, _offset: u64, _out: &mut [u8]) -> bool {
        false
    }
}
