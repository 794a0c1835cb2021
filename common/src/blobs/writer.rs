//! Writing a blob that comes piece by piece, perhaps over several attempts.

use std::{
    collections::BTreeSet,
    fmt,
    fs::File,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    BlobError, Inner, PARTIALS_MAX,
    disk::{self, FileIdentity},
};
use crate::trust::digest::{Digest, Hasher};

/// Room that is set aside at a time for a blob of unknown length.
const CLAIM_BYTES: u64 = 1024 * 1024;

/// A blob being written. Dropped before [`Writer::finish`], it leaves a partial that the next writer of
/// the same blob continues.
pub struct Writer {
    inner: Arc<Inner>,
    digest: Digest,
    expected_bytes: Option<u64>,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    offset: u64,
    claimed: u64,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Writing,
    /// A write failed, so the file may hold a part of what `offset` does not count.
    Torn,
    /// No partial is left.
    Ended,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("digest", &self.digest)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

impl Writer {
    pub(super) fn open(
        inner: Arc<Inner>,
        digest: Digest,
        expected_bytes: Option<u64>,
    ) -> Result<Self, BlobError> {
        {
            let mut index = inner.index();
            if !index.begin_partial(&digest) {
                return Err(BlobError::Writing { digest });
            }
            while index.partial_count() > PARTIALS_MAX
                && let Some((oldest, _)) = index.oldest_idle_partial()
            {
                if let Err(error) = disk::remove(&disk::partial_path(&inner.dir, &oldest)) {
                    index.stop_partial(&digest);
                    return Err(error);
                }
                index.remove_partial(&oldest);
            }
        }
        // From here on the writer ends the partial when it is dropped, also on failure.
        let path = disk::partial_path(&inner.dir, &digest);
        let file = match disk::create(&path) {
            Ok(file) => file,
            Err(error) => {
                inner.index().remove_partial(&digest);
                return Err(error);
            }
        };
        let mut writer = Self {
            inner,
            digest,
            expected_bytes,
            path,
            file,
            hasher: Hasher::new(),
            offset: 0,
            claimed: 0,
            state: State::Writing,
        };
        writer.resume()?;
        writer.claim(expected_bytes.unwrap_or(0))?;
        Ok(writer)
    }

    /// Hashes what an earlier attempt left; starts over if that is more than the blob can have.
    fn resume(&mut self) -> Result<(), BlobError> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match self.file.read(&mut buffer).map_err(disk::error("read", &self.path))? {
                0 => break,
                count => {
                    self.hasher.update(&buffer[..count]);
                    self.offset += count as u64;
                }
            }
        }
        if self.expected_bytes.is_some_and(|expected| self.offset > expected) {
            self.restart()?;
        }
        self.claimed = self.offset;
        self.inner.index().set_partial(&self.digest, self.offset, self.claimed);
        Ok(())
    }

    fn restart(&mut self) -> Result<(), BlobError> {
        use std::io::Seek as _;

        self.file.set_len(0).map_err(disk::error("truncate", &self.path))?;
        self.file.rewind().map_err(disk::error("truncate", &self.path))?;
        self.hasher = Hasher::new();
        self.offset = 0;
        Ok(())
    }

    /// Sets room aside so that the blob may have `bytes` in all.
    fn claim(&mut self, bytes: u64) -> Result<(), BlobError> {
        let mut index = self.inner.index();
        if bytes > self.claimed {
            let more = bytes - self.claimed;
            self.inner.make_room(&mut index, more, &BTreeSet::new(), &self.path)?;
            self.claimed = bytes;
        }
        index.set_partial(&self.digest, self.offset, self.claimed);
        Ok(())
    }

    /// Which blob.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Bytes written so far, earlier attempts included: where the next piece belongs.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Writes the next piece. After a failure, drop the writer and open another.
    ///
    /// # Errors
    ///
    /// [`BlobError::TooLarge`] beyond the expected length; [`BlobError::QuotaExceeded`],
    /// [`BlobError::DiskFull`], [`BlobError::Io`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        let end = self.offset + bytes.len() as u64;
        match self.expected_bytes {
            Some(bytes_max) if end > bytes_max => {
                return Err(BlobError::TooLarge { digest: self.digest, bytes_max });
            }
            None if end > self.claimed => self.claim(end.next_multiple_of(CLAIM_BYTES))?,
            _ => {}
        }
        if let Err(source) = self.file.write_all(bytes) {
            self.state = State::Torn;
            return Err(disk::error("write", &self.path)(source));
        }
        self.hasher.update(bytes);
        self.offset = end;
        self.inner.index().set_partial(&self.digest, self.offset, self.claimed);
        Ok(())
    }

    /// Ends the blob: from now on it is here, durable.
    ///
    /// # Errors
    ///
    /// [`BlobError::Mismatch`] when the bytes have another digest, they are removed then; `DiskFull`, `Io`.
    pub fn finish(mut self) -> Result<(), BlobError> {
        let found = self.hasher.clone().finish();
        if found != self.digest {
            self.remove();
            return Err(BlobError::Mismatch { digest: self.digest, found });
        }
        self.file.sync_all().map_err(disk::error("sync", &self.path))?;
        let identity = FileIdentity::of(&self.file).map_err(disk::error("read", &self.path))?;
        if identity.bytes != self.offset {
            self.remove();
            return Err(BlobError::Absent { digest: self.digest });
        }
        let path = disk::blob_path(&self.inner.dir, &self.digest);
        disk::rename(&self.path, &path)?;
        self.state = State::Ended;
        let synced = disk::sync_dir(path.parent().unwrap_or_else(|| Path::new(".")));
        let now = self.inner.clock.now().as_second();
        let mut index = self.inner.index();
        index.remove_partial(&self.digest);
        index.insert(self.digest, self.offset, now, Some(identity));
        synced
    }

    /// Gives up and leaves nothing to continue.
    pub fn discard(mut self) {
        self.remove();
    }

    fn remove(&mut self) {
        // What cannot be removed now is an idle partial after the next open, and goes when room is needed.
        let _left = disk::remove(&self.path);
        self.state = State::Ended;
        self.inner.index().remove_partial(&self.digest);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        match self.state {
            State::Writing if self.offset == 0 => self.remove(),
            State::Writing => self.inner.index().end_partial(&self.digest, self.offset),
            State::Torn => {
                let kept = self.file.set_len(self.offset).is_ok();
                let mut index = self.inner.index();
                index.end_partial(&self.digest, self.offset);
                if !kept && disk::remove(&self.path).is_ok() {
                    index.remove_partial(&self.digest);
                }
            }
            State::Ended => {}
        }
    }
}
