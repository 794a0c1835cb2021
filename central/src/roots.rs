//! The next versions of the root of trust: made with the keys that were taken away, taken up by central.
//!
//! [`extend`] and [`rotate`] need no more than the files below `trust` and the folder with the offline keys, which
//! is brought back for that moment; central may run meanwhile. Version by version a root lies in
//! `trust/<version>.root.json`; [`take_up`] publishes those that follow what is published, and every reader
//! goes from the version it has to the newest one.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use jiff::Timestamp;
use ring::rand::SecureRandom;
use tierway_common::{
    files,
    trust::{
        keys::{KeyError, SigningKey},
        tuf::{
            metadata::{MetadataError, Root, Signed},
            writer::{Roles, Signers, Validity, WriteError, next_root},
        },
    },
};
use tracing::info;

use crate::{
    layout::Layout,
    publish::{PublishError, Publisher},
};

/// Bytes of a root: what clients take.
const ROOT_BYTES_MAX: u64 = 64 * 1024;
/// Versions looked for: one a week for twenty years.
const VERSIONS_MAX: u64 = 1_024;
/// Files looked at for keys: one for each rotation.
const KEY_FILES_MAX: usize = 1_024;

/// Why there is no next root.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// There is none to follow.
    #[error("`{path}` is not there: run `tierway-central init` first")]
    NotInitialised {
        /// What is missing.
        path: PathBuf,
    },
    /// A file or folder.
    #[error("could not {doing} `{path}`")]
    File {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file that is no root.
    #[error("`{path}` is no root metadata")]
    Root {
        /// Which.
        path: PathBuf,
        /// Why.
        source: MetadataError,
    },
    /// The keys are elsewhere.
    #[error("none of the keys in `{dir}` may sign the root: bring back the folder that was taken away")]
    NoKey {
        /// Where they were looked for.
        dir: PathBuf,
    },
    /// A key.
    #[error("could not use a signing key")]
    Key(#[from] KeyError),
    /// Signing.
    #[error("could not sign the next root")]
    Sign(#[from] WriteError),
    /// Publishing.
    #[error("could not publish the root in `{path}`")]
    Publish {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Box<PublishError>,
    },
}

/// A root that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Next {
    /// Its version.
    pub version: u64,
    /// Until when it is valid.
    pub expires: Timestamp,
    /// Where the key is that signs the next one.
    pub key: PathBuf,
}

/// The newest root below `layout`: version, bytes and what it says.
///
/// # Errors
///
/// [`RootsError::NotInitialised`], [`RootsError::File`], [`RootsError::Root`].
pub fn newest(layout: &Layout) -> Result<(u64, Bytes, Timestamp), RootsError> {
    let (mut version, mut newest) = (0, None);
    while version < VERSIONS_MAX
        && let Some(bytes) = read(&layout.root_version(version + 1))?
    {
        version += 1;
        newest = Some(bytes);
    }
    let path = layout.root_version(version.max(1));
    let bytes = newest.ok_or_else(|| RootsError::NotInitialised { path: path.clone() })?;
    let (_, expires) = parse(&path, &bytes)?;
    Ok((version, bytes.into(), expires))
}

fn parse(path: &Path, bytes: &[u8]) -> Result<(Root, Timestamp), RootsError> {
    let read = Signed::parse(bytes).and_then(|signed| signed.read::<Root>());
    let root = read.map_err(|source| RootsError::Root { path: path.to_owned(), source })?;
    Ok((root.content, root.expires))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, RootsError> {
    files::read_if_there(path, ROOT_BYTES_MAX).map_err(|source| file("read", path, source))
}

fn file(doing: &'static str, path: &Path, source: io::Error) -> RootsError {
    RootsError::File { doing, path: path.to_owned(), source }
}

/// Makes the next root with the same keys, valid for a year from `now`.
///
/// # Errors
///
/// [`RootsError`]; then there is none.
pub fn extend(layout: &Layout, offline: &Path, now: Timestamp) -> Result<Next, RootsError> {
    make(layout, offline, None, now)
}

/// Makes the next root, which a fresh key in `offline` signs from then on; the present key, which signs it as
/// well, is of no more use afterwards.
///
/// # Errors
///
/// [`RootsError`]; then there is none, and a key that was made counts for nothing.
pub fn rotate(
    layout: &Layout,
    offline: &Path,
    random: &dyn SecureRandom,
    now: Timestamp,
) -> Result<Next, RootsError> {
    make(layout, offline, Some(random), now)
}

fn make(
    layout: &Layout,
    offline: &Path,
    fresh: Option<&dyn SecureRandom>,
    now: Timestamp,
) -> Result<Next, RootsError> {
    let (version, previous, _) = newest(layout)?;
    let (content, _) = parse(&layout.root_version(version), &previous)?;
    let signs = content.role("root").keyids;
    let (present_path, present) = keys(offline)?
        .into_iter()
        .find(|(_, key)| signs.contains(&key.public().key_id()))
        .ok_or_else(|| RootsError::NoKey { dir: offline.to_owned() })?;
    let online = SigningKey::load(&layout.online_key())?;
    let (key_path, key) = match fresh {
        None => (present_path, None),
        Some(random) => {
            let path = offline.join(format!("tuf-root-{}.key", version + 1));
            let key = SigningKey::generate(random)?;
            key.save(&path)?;
            (path, Some(key))
        }
    };
    let signer = key.as_ref().unwrap_or(&present);
    let roles = Roles::with_online_key(Signers::one(signer.public()), online.public());
    let root = next_root(&previous, &roles, &Validity::default(), &[&present, signer], now)?;
    let path = layout.root_version(version + 1);
    let (_, expires) = parse(&path, &root)?;
    // With this it counts.
    files::replace(&path, &root, 0o644).map_err(|source| file("write", &path, source))?;
    Ok(Next { version: version + 1, expires, key: key_path })
}

/// The keys `tuf-root*.key` in a folder, by name.
fn keys(dir: &Path) -> Result<Vec<(PathBuf, SigningKey)>, RootsError> {
    let entries = fs::read_dir(dir).map_err(|source| file("read", dir, source))?;
    let mut paths = Vec::new();
    for entry in entries.take(KEY_FILES_MAX) {
        let entry = entry.map_err(|source| file("read", dir, source))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("tuf-root") && name.ends_with(".key") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    paths.into_iter().map(|path| Ok((path.clone(), SigningKey::load(&path)?))).collect()
}

/// Publishes the roots that follow the one that is published; how many.
///
/// # Errors
///
/// [`RootsError`]; those before the one that it names are published.
pub fn take_up(layout: &Layout, publisher: &Publisher) -> Result<u64, RootsError> {
    let mut taken = 0;
    while taken < VERSIONS_MAX {
        let version = publisher.root_version() + 1;
        let path = layout.root_version(version);
        let Some(root) = read(&path)? else { break };
        let publish = |source| RootsError::Publish { path: path.clone(), source: Box::new(source) };
        publisher.take_root(&root).map_err(publish)?;
        info!(version, until = %publisher.root_expires(), "published the next root");
        taken += 1;
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::SignedDuration;
    use ring::rand::SystemRandom;
    use tierway_common::{
        blobs::{BlobOptions, Blobs},
        clock::Clock,
        store::{Store, memory::MemoryStore},
    };

    use super::*;
    use crate::{doctor, init, state::State};

    struct Place {
        dir: tempfile::TempDir,
        layout: Layout,
        clock: Clock,
    }

    fn place() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let (layout, clock) =
            (Layout::new(dir.path()), Clock::manual("2026-11-20T10:00:00Z".parse().unwrap()));
        init::init(&layout, &"default".parse().unwrap(), "admin", &clock).unwrap();
        Place { dir, layout, clock }
    }

    impl Place {
        fn publisher(&self) -> Publisher {
            let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
            let state = State::open("default".parse().unwrap(), store, self.clock.clone()).unwrap();
            let options = BlobOptions { quota_bytes: 1 << 30, free_floor_bytes: 0 };
            let trees = Blobs::open(&self.dir.path().join("test-trees"), options).unwrap();
            let online = SigningKey::load(&self.layout.online_key()).unwrap();
            let root = init::read(&self.layout.trust_root()).unwrap();
            Publisher::open(Arc::new(state), trees, &root, online).unwrap()
        }

        fn extend(&self) -> Result<Next, RootsError> {
            extend(&self.layout, &self.layout.offline(), self.clock.now())
        }

        fn rotate(&self) -> Result<Next, RootsError> {
            rotate(&self.layout, &self.layout.offline(), &SystemRandom::new(), self.clock.now())
        }
    }

    #[test]
    fn each_next_root_is_published_once_and_lasts_a_year_from_when_it_was_made() {
        let place = place();
        let publisher = place.publisher();
        publisher.publish().unwrap();
        let first = publisher.root_expires();
        assert_eq!(take_up(&place.layout, &publisher).unwrap(), 0);
        place.clock.advance(SignedDuration::from_hours(24 * 300));
        let extended = place.extend().unwrap();
        assert_eq!((extended.version, extended.key.clone()), (2, place.layout.trust_root_key()));
        assert_eq!(extended.expires, first + SignedDuration::from_hours(24 * 300));
        let rotated = place.rotate().unwrap();
        assert_eq!((rotated.version, rotated.key), (3, place.layout.offline().join("tuf-root-3.key")));
        assert_eq!(publisher.root_version(), 1, "not before it is taken up");
        let before = publisher.timestamp().0;
        assert_eq!(
            (take_up(&place.layout, &publisher).unwrap(), take_up(&place.layout, &publisher).unwrap()),
            (2, 0)
        );
        assert_eq!((publisher.root_version(), publisher.root_expires()), (3, rotated.expires));
        assert_eq!(publisher.timestamp().0, before + 2, "all below is signed anew");
        for version in 1..=3 {
            let file = fs::read(place.layout.root_version(version)).unwrap();
            assert_eq!(publisher.metadata("root", Some(version)).unwrap(), file);
        }
    }

    #[test]
    fn after_a_rotation_the_old_key_signs_no_root_any_more() {
        let place = place();
        let new = place.rotate().unwrap();
        assert_eq!(place.extend().unwrap().key, new.key);
        fs::remove_file(&new.key).unwrap();
        let error = place.extend().unwrap_err();
        assert!(matches!(error, RootsError::NoKey { .. }), "{error}");
        assert_eq!(newest(&place.layout).unwrap().0, 3, "and there is no new root");
    }

    #[test]
    fn a_root_that_does_not_follow_is_not_published_and_is_named() {
        let (place, other) = (place(), place());
        other.extend().unwrap();
        fs::copy(other.layout.root_version(2), place.layout.root_version(2)).unwrap();
        let publisher = place.publisher();
        let error = take_up(&place.layout, &publisher).unwrap_err();
        assert!(error.to_string().ends_with("trust/2.root.json`"), "{error}");
        assert_eq!(publisher.root_version(), 1);
    }

    #[test]
    fn doctor_warns_sixty_days_before_a_root_ends_and_is_content_when_it_was_extended() {
        let place = place();
        let found = |what: &str| {
            let file = crate::config::File { data_dir: place.dir.path().to_owned(), ..Default::default() };
            let config = crate::config::Config::new(file, "localhost").unwrap();
            doctor::examine(&config, &place.clock)
                .into_iter()
                .find(|finding| finding.text.contains(what))
                .unwrap()
        };
        let root = || found("of the root of trust");
        place.clock.advance(SignedDuration::from_hours(24 * 304));
        assert_eq!(root().level, doctor::Level::Good);
        place.clock.advance(SignedDuration::from_hours(24 * 2));
        assert_eq!(root().level, doctor::Level::Warning);
        assert!(
            root().text.ends_with("bring its key back for `tierway-central root extend`"),
            "{}",
            root().text
        );
        place.extend().unwrap();
        assert_eq!(root().level, doctor::Level::Good);
        assert_eq!(found("the issuing authority").level, doctor::Level::Good);
        place.clock.advance(SignedDuration::from_hours(24 * (5 * 365 - 306 - 59)));
        assert_eq!(found("the issuing authority").level, doctor::Level::Warning);
        assert_eq!(found("the root authority").level, doctor::Level::Good);
    }
}
