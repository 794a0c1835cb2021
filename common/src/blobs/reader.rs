//! Serving a blob piece by piece, to many at a time.

use std::{fmt, fs::File, os::unix::fs::FileExt, path::PathBuf, sync::Arc};

use bytes::Bytes;

use super::{BlobError, Inner, cache::CHUNK_BYTES, disk};
use crate::trust::digest::Digest;

/// Most bytes that one [`Reader::read_at`] gives: four chunks, so that a client cannot ask for a
/// server's memory.
pub const READ_BYTES_MAX: usize = 4 * 256 * 1024;

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
    inner: Arc<Inner>,
    digest: Digest,
    open: Arc<OpenBlob>,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl Reader {
    pub(super) fn open(inner: Arc<Inner>, digest: &Digest) -> Result<Self, BlobError> {
        let open = inner.index().open(digest);
        let open = match open {
            Some(open) => open,
            None => {
                if inner.index().len(digest).is_none() {
                    return Err(BlobError::Absent { digest: *digest });
                }
                let (path, mut file) = inner.open_file(digest)?;
                let bytes = inner.verify(digest, &path, &mut file)?;
                let open = Arc::new(OpenBlob { path, file, bytes });
                inner.index().set_open(digest, &open);
                open
            }
        };
        inner.used(digest, Some(&open.file));
        Ok(Self { inner, digest: *digest, open })
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

    /// The bytes from `offset`, `len` of them or as many as there are, at most [`READ_BYTES_MAX`];
    /// empty at the end. Copies nothing when they lie within one hot chunk of 256 KiB.
    ///
    /// # Errors
    ///
    /// [`BlobError::Io`], also when the file has become shorter.
    pub fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, BlobError> {
        let end = self.open.bytes.min(offset.saturating_add(len.min(READ_BYTES_MAX) as u64));
        if offset >= end {
            return Ok(Bytes::new());
        }
        let (first, last) = (offset / CHUNK_BYTES, (end - 1) / CHUNK_BYTES);
        let slice = |chunk: u64, bytes: &Bytes| {
            let start = chunk * CHUNK_BYTES;
            let within = |at: u64| usize::try_from(at.saturating_sub(start)).unwrap_or(0).min(bytes.len());
            bytes.slice(within(offset)..within(end))
        };
        if first == last {
            return Ok(slice(first, &self.chunk(first)?));
        }
        let mut joined = Vec::with_capacity(usize::try_from(end - offset).unwrap_or(0));
        for chunk in first..=last {
            joined.extend_from_slice(&slice(chunk, &self.chunk(chunk)?));
        }
        Ok(joined.into())
    }

    fn chunk(&self, chunk: u64) -> Result<Bytes, BlobError> {
        if let Some(bytes) = self.inner.cache().get(&self.digest, chunk) {
            return Ok(bytes);
        }
        let OpenBlob { path, file, bytes } = &*self.open;
        let start = chunk * CHUNK_BYTES;
        let mut buffer = vec![0; usize::try_from((bytes - start).min(CHUNK_BYTES)).unwrap_or(0)];
        file.read_exact_at(&mut buffer, start).map_err(disk::error("read", path))?;
        let buffer = Bytes::from(buffer);
        self.inner.cache().insert(&self.digest, chunk, buffer.clone());
        Ok(buffer)
    }
}
