//! What this relay has of what central publishes: metadata files exactly as signed, and which version
//! is complete here.
//!
//! Order of a sync: payload-independent blobs first (tree nodes, children before parents), then the
//! metadata files that name them, the timestamp last. So whoever gets a timestamp here can get all it leads to.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tierway_common::{files, trust::tuf::client::ROOTS_PER_REFRESH_MAX};
use tokio::sync::watch;
use tracing::warn;

/// Longest metadata file that is kept or served.
const METADATA_BYTES_MAX: u64 = 4 << 20;
/// The newest complete version, across restarts.
const HEAD: &str = "head.json";
/// Bytes of that file: mostly revoked serials.
const HEAD_BYTES_MAX: u64 = 16 << 20;
/// Roots that are not verified yet: `2.root-aside.json`, never served.
const ROOT_ASIDE: &str = "root-aside";
/// Versions of snapshot and targets that are kept for those who are just reading them.
const VERSIONS_KEPT: u64 = 8;

/// The newest complete version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Head {
    /// Version of the timestamp metadata; 0 before the first sync.
    pub timestamp_version: u64,
    /// The timestamp metadata.
    pub timestamp: Bytes,
    /// When it expires.
    pub expires: Option<Timestamp>,
    /// Serials of revoked certificates, lower-case hex.
    pub revoked: BTreeSet<String>,
    /// The newest version here with which something came that is worth a check of every computer, as the
    /// tier above says.
    #[serde(default)]
    pub news: u64,
}

/// The mirrored metadata; cheap to clone.
#[derive(Clone, Debug)]
pub struct Mirror {
    dir: Arc<PathBuf>,
    head: watch::Sender<Arc<Head>>,
}

impl Mirror {
    /// Over the folder `dir`, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn open(dir: &Path) -> io::Result<Self> {
        files::create_folders(dir)?;
        Ok(Self { dir: Arc::new(dir.to_owned()), head: watch::Sender::default() })
    }

    /// The newest complete version, now and whenever it changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Head>> {
        self.head.subscribe()
    }

    /// The newest complete version.
    #[must_use]
    pub fn head(&self) -> Arc<Head> {
        self.head.borrow().clone()
    }

    /// Makes `head` the newest: from now on it is served, also after a restart.
    ///
    /// # Errors
    ///
    /// As the file system gives them; the former head stays.
    pub fn set_head(&self, head: Head) -> io::Result<()> {
        files::replace(&self.dir.join(HEAD), &serde_json::to_vec(&head)?, 0o644)?;
        self.head.send_replace(Arc::new(head));
        Ok(())
    }

    /// Serves what was the newest before a restart.
    ///
    /// # Errors
    ///
    /// As the file system gives them, or when the file is damaged.
    pub fn restore(&self) -> io::Result<()> {
        if let Some(json) = files::read_if_there(&self.dir.join(HEAD), HEAD_BYTES_MAX)? {
            self.head.send_replace(Arc::new(serde_json::from_slice(&json)?));
        }
        Ok(())
    }

    /// Keeps one verified file: `role` in a `version`. Those of the role that are eight versions older, or more, go; of
    /// roots all stay, since each leads to the next.
    ///
    /// # Errors
    ///
    /// As the file system gives them; that an older file could not be removed is logged.
    pub fn keep(&self, role: &str, version: u64, content: &[u8]) -> io::Result<()> {
        files::replace(&self.path(role, version), content, 0o644)?;
        if role != "root"
            && let Err(error) = self.forget(role, version.saturating_sub(VERSIONS_KEPT))
        {
            warn!(role, %error, "could not remove older metadata");
        }
        Ok(())
    }

    /// Removes what there is of `role` up to this version: whoever was away has skipped some.
    fn forget(&self, role: &str, newest: u64) -> io::Result<()> {
        let ending = format!(".{role}.json");
        for entry in fs::read_dir(self.dir.as_path())? {
            let entry = entry?;
            let version =
                entry.file_name().to_str().and_then(|name| name.strip_suffix(&ending)?.parse().ok());
            if version.is_some_and(|version: u64| version <= newest) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Puts a root aside that was fetched and is not verified yet.
    ///
    /// # Errors
    ///
    /// As the file system gives them.
    pub fn set_aside(&self, version: u64, content: &[u8]) -> io::Result<()> {
        files::replace(&self.path(ROOT_ASIDE, version), content, 0o644)
    }

    /// Serves the roots that were put aside, up to `newest`, which was verified: each was the next one when it
    /// was fetched, so the one that lies there when a later one is trusted is the one that was verified.
    ///
    /// # Errors
    ///
    /// As the file system gives them.
    pub fn take_roots(&self, newest: u64) -> io::Result<()> {
        for version in newest.saturating_sub(u64::from(ROOTS_PER_REFRESH_MAX))..=newest {
            match fs::rename(self.path(ROOT_ASIDE, version), self.path("root", version)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// The file of `role` in `version`; of the timestamp the newest whatever `version` says.
    ///
    /// # Errors
    ///
    /// As the file system gives them.
    pub fn read(&self, role: &str, version: Option<u64>) -> io::Result<Option<Bytes>> {
        match (role, version) {
            ("timestamp", _) => {
                let head = self.head();
                Ok((head.timestamp_version > 0).then(|| head.timestamp.clone()))
            }
            ("root" | "snapshot" | "targets", Some(version)) => {
                Ok(files::read_if_there(&self.path(role, version), METADATA_BYTES_MAX)?.map(Bytes::from))
            }
            _ => Ok(None),
        }
    }

    fn path(&self, role: &str, version: u64) -> PathBuf {
        self.dir.join(format!("{version}.{role}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_let_go_of_also_by_a_relay_that_skips_versions_and_roots_never_are() {
        let folder = tempfile::tempdir().unwrap();
        let mirror = Mirror::open(folder.path()).unwrap();
        for version in (1..=301).step_by(3) {
            for role in ["root", "targets", "snapshot"] {
                mirror.keep(role, version, b"{}").unwrap();
            }
        }
        let kept = |role: &str| -> Vec<u64> {
            (1..=301).filter(|version| mirror.read(role, Some(*version)).unwrap().is_some()).collect()
        };
        for role in ["targets", "snapshot"] {
            assert_eq!(kept(role), [295, 298, 301], "{role}");
        }
        assert_eq!(kept("root").len(), 101);
    }
}
