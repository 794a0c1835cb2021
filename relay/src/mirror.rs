//! What this relay has of what central publishes: metadata files exactly as signed, and which version
//! is complete here.
//!
//! Order of a sync: payload-independent blobs first (tree nodes, children before parents), then the
//! metadata files that name them, the timestamp last. So whoever gets a timestamp here can get all it leads to.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tierway_common::{files, trust::tuf::client::ROOTS_PER_REFRESH_MAX};
use tierway_proto::metadata::Newest;
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
/// Bytes of the newest metadata that are also kept in memory, since every check after a publication asks for it.
const AT_HAND_BYTES_MAX: usize = 8 << 20;

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
    at_hand: Arc<Mutex<AtHand>>,
}

/// What needs no disk.
#[derive(Debug, Default)]
struct AtHand {
    /// The newest file of each role, as it was kept, with its version.
    newest: BTreeMap<String, (u64, Bytes)>,
    /// The newest root that is served: whoever checks asks for the one after it, which is seldom there.
    root: u64,
}

impl Mirror {
    /// Over the folder `dir`, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn open(dir: &Path) -> io::Result<Self> {
        files::create_folders(dir)?;
        let mut root = 0;
        for entry in fs::read_dir(dir)? {
            root = root.max(version_of(&entry?.file_name(), "root").unwrap_or_default());
        }
        let at_hand = Arc::new(Mutex::new(AtHand { newest: BTreeMap::new(), root }));
        Ok(Self { dir: Arc::new(dir.to_owned()), head: watch::Sender::default(), at_hand })
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
        self.now_at_hand(role, version, content);
        if role != "root"
            && let Err(error) = self.forget(role, version.saturating_sub(VERSIONS_KEPT))
        {
            warn!(role, %error, "could not remove older metadata");
        }
        Ok(())
    }

    /// Removes what there is of `role` up to this version: whoever was away has skipped some.
    fn forget(&self, role: &str, newest: u64) -> io::Result<()> {
        for entry in fs::read_dir(self.dir.as_path())? {
            let entry = entry?;
            if version_of(&entry.file_name(), role).is_some_and(|version| version <= newest) {
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

    /// Notes the newest of a role, as far as there is room.
    fn now_at_hand(&self, role: &str, version: u64, content: &[u8]) {
        let mut at_hand = self.at_hand();
        if role == "root" {
            at_hand.root = at_hand.root.max(version);
        }
        at_hand.newest.remove(role);
        let bytes: usize = at_hand.newest.values().map(|(_, content)| content.len()).sum();
        if bytes + content.len() <= AT_HAND_BYTES_MAX {
            at_hand.newest.insert(role.to_owned(), (version, Bytes::copy_from_slice(content)));
        }
    }

    fn at_hand(&self) -> MutexGuard<'_, AtHand> {
        self.at_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same as [`Mirror::read`] where that needs no disk: the newest of each role, and that a later root is not there.
    /// `None` where it does.
    #[must_use]
    pub fn read_at_hand(&self, role: &str, version: Option<u64>) -> Option<Option<Bytes>> {
        let (at_hand, version) = (self.at_hand(), version?);
        match at_hand.newest.get(role) {
            Some((newest, content)) if *newest == version => Some(Some(content.clone())),
            _ if role == "root" && version > at_hand.root => Some(None),
            _ => None,
        }
    }

    /// The newest of what needs no disk. The timestamp that names it may come a moment later.
    #[must_use]
    pub fn newest(&self) -> Newest {
        let at_hand = self.at_hand();
        let newest = |role: &str| at_hand.newest.get(role).cloned();
        Newest { root_version: at_hand.root, snapshot: newest("snapshot"), targets: newest("targets") }
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

/// The version of a file of this role, by its name.
fn version_of(name: &OsStr, role: &str) -> Option<u64> {
    name.to_str()?.strip_suffix(".json")?.strip_suffix(role)?.strip_suffix('.')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_at_hand_is_what_the_disk_has_also_after_newer_versions_and_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mirror = Mirror::open(folder.path()).unwrap();
        let content = |role: &str, version: u64| Bytes::from(format!("{role} {version}"));
        let check = |mirror: &Mirror| -> Vec<(&str, u64)> {
            let mut at_hand = Vec::new();
            for role in ["root", "targets", "snapshot"] {
                for version in 1..=6 {
                    let read = mirror.read(role, Some(version)).unwrap();
                    if let Some(said) = mirror.read_at_hand(role, Some(version)) {
                        assert_eq!(said, read, "{role} {version}");
                        at_hand.push((role, version));
                    }
                }
            }
            at_hand
        };
        assert_eq!(
            check(&mirror),
            [("root", 1), ("root", 2), ("root", 3), ("root", 4), ("root", 5), ("root", 6)]
        );
        for (role, version) in [("root", 1), ("targets", 3), ("snapshot", 3), ("targets", 4), ("snapshot", 4)]
        {
            mirror.keep(role, version, &content(role, version)).unwrap();
        }
        mirror.set_aside(2, &content("root", 2)).unwrap();
        let later = [("root", 2), ("root", 3), ("root", 4), ("root", 5), ("root", 6)];
        let newest = [("targets", 4), ("snapshot", 4)];
        assert_eq!(check(&mirror), [&[("root", 1)], &later[..], &newest].concat());
        let found = mirror.newest();
        assert_eq!(found.root_version, 1);
        assert_eq!(found.snapshot, Some((4, content("snapshot", 4))));
        assert_eq!(found.targets, Some((4, content("targets", 4))));
        mirror.take_roots(2).unwrap();
        mirror.keep("root", 2, &content("root", 2)).unwrap();
        assert_eq!(check(&mirror), [&later[..], &newest].concat());
        // Two of this size have no room beside the root.
        let large = vec![b' '; usize::try_from(METADATA_BYTES_MAX).unwrap()];
        mirror.keep("snapshot", 5, &large).unwrap();
        mirror.keep("targets", 5, &large).unwrap();
        assert_eq!(mirror.read_at_hand("snapshot", Some(5)).unwrap().unwrap(), large);
        assert_eq!(mirror.read_at_hand("targets", Some(5)), None);
        assert_eq!(mirror.read_at_hand("timestamp", None), None);
        assert_eq!(check(&Mirror::open(folder.path()).unwrap()), later[1..]);
    }

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
