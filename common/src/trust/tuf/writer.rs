//! Writing the repository that central publishes: root, targets, snapshot and timestamp, Ed25519, consistent
//! snapshots, target names without `/`, expiry in whole seconds, so that every other TUF client reads it too.
//!
//! Everything here is a function of its arguments: the caller stores what is returned. Root keys are used by
//! [`first_root`] and [`next_root`] alone, which can run on another computer; [`Repository`] needs the online
//! keys.
//!
//! Order for the caller, so that a crash at any point leaves clients with the old or the new repository:
//! keep [`Repository::state`], then store [`Published::files`] from first to last, durably. At start
//! [`Repository::resume`] the state and store [`Repository::current`] again. So a version that was given away
//! never stands for other bytes.

mod sign;

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::trust::{
    keys::{KeyId, PublicKey, SigningKey},
    tuf::{
        file_name,
        metadata::{
            MetadataError, Role, Root, SPEC_VERSION, Signed, Snapshot, Target, Targets, TimestampRole,
        },
        signature::{Key, RoleKeys},
        writer::sign::{Written, read_root, sign},
    },
};

/// Longest target name: it becomes part of a file name at whoever mirrors targets as files.
pub const TARGET_NAME_BYTES_MAX: usize = 160;

/// What cannot be published. The repository is then as it was before.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The keys at hand are not enough for a role.
    #[error("{found} keys for `{role}` are at hand where {threshold} are required")]
    TooFewKeys {
        /// Which role's keys.
        role: &'static str,
        /// How many there are.
        found: usize,
        /// How many there must be.
        threshold: u64,
    },
    /// A name that not every TUF client would fetch from the same place.
    #[error("`{name}` cannot be the name of a target")]
    TargetName {
        /// The name.
        name: String,
    },
    /// Metadata that clients would refuse, such as a fraction in a target's `custom`.
    #[error("could not write `{file}`")]
    Metadata {
        /// Which file.
        file: String,
        /// Why.
        source: MetadataError,
    },
    /// Metadata that clients would refuse for its size.
    #[error("`{file}` would have {bytes} bytes, more than {bytes_max}")]
    TooLarge {
        /// Which file.
        file: String,
        /// What it would have.
        bytes: usize,
        /// What clients take.
        bytes_max: u64,
    },
    /// A root that does not follow the present one.
    #[error("the root has version {found} where {expected} is next")]
    RootVersion {
        /// The next one.
        expected: u64,
        /// The one given.
        found: u64,
    },
    /// No version or no time is left.
    #[error("`{what}` is out of range")]
    Range {
        /// The version or the time.
        what: &'static str,
    },
}

/// Who signs one role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signers {
    /// Each of them once.
    pub keys: Vec<PublicKey>,
    /// How many of them must sign, 1 to their number.
    pub threshold: u64,
}

impl Signers {
    /// One key that signs alone.
    #[must_use]
    pub fn one(key: PublicKey) -> Self {
        Self { keys: vec![key], threshold: 1 }
    }
}

/// Who signs what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roles {
    /// Says who the others are; keys kept apart.
    pub root: Signers,
    /// Says which targets there are.
    pub targets: Signers,
    /// Says which targets metadata belongs together.
    pub snapshot: Signers,
    /// Says what is newest.
    pub timestamp: Signers,
}

impl Roles {
    /// Root keys for the root, one online key for everything else.
    #[must_use]
    pub fn with_online_key(root: Signers, online: PublicKey) -> Self {
        let [targets, snapshot, timestamp] = [(); 3].map(|()| Signers::one(online));
        Self { root, targets, snapshot, timestamp }
    }
}

/// How long new metadata is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validity {
    /// Longest, as its keys are not at hand: a year.
    pub root: SignedDuration,
    /// 90 days.
    pub targets: SignedDuration,
    /// 7 days.
    pub snapshot: SignedDuration,
    /// How long withheld updates go unnoticed at most: 1 day, re-signed hourly.
    pub timestamp: SignedDuration,
}

impl Default for Validity {
    fn default() -> Self {
        let days = |days: i64| SignedDuration::from_hours(24 * days);
        Self { root: days(365), targets: days(90), snapshot: days(7), timestamp: days(1) }
    }
}

/// Files to store, first to last; in between, clients keep what they had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Name and bytes.
    pub files: Vec<(String, Bytes)>,
    /// Of the timestamp among them.
    pub timestamp_version: u64,
}

/// Everything that the next publication goes by: the newest four files as they are. Can be larger than a value
/// of the store; [`crate::trust::durable`] keeps it as a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    validity: Validity,
    root: String,
    below: Option<BelowState>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct BelowState {
    targets: String,
    snapshot: String,
    timestamp: String,
}

/// The repository of one central.
#[derive(Clone, Debug)]
pub struct Repository {
    validity: Validity,
    root: Written<Root>,
    below: Option<Below>,
}

#[derive(Clone, Debug)]
struct Below {
    targets: Written<Targets>,
    snapshot: Written<Snapshot>,
    timestamp: Written<TimestampRole>,
}

/// Version 1 of the root, signed by the root keys among `keys`.
///
/// # Errors
///
/// [`WriteError::TooFewKeys`], [`WriteError::Range`].
pub fn first_root(
    roles: &Roles,
    validity: &Validity,
    keys: &[&SigningKey],
    now: Timestamp,
) -> Result<Bytes, WriteError> {
    write_root(1, None, roles, validity, keys, now)
}

/// The root that follows `previous` (the exact bytes of one), signed by the root keys of both among `keys`.
///
/// # Errors
///
/// [`WriteError::Metadata`] when `previous` is no root, [`WriteError::TooFewKeys`], [`WriteError::Range`].
pub fn next_root(
    previous: &[u8],
    roles: &Roles,
    validity: &Validity,
    keys: &[&SigningKey],
    now: Timestamp,
) -> Result<Bytes, WriteError> {
    let previous = read_root(previous)?;
    let version = next(previous.version, "root")?;
    write_root(version, Some(&previous.content.role("root")), roles, validity, keys, now)
}

fn write_root(
    version: u64,
    previous: Option<&RoleKeys>,
    roles: &Roles,
    validity: &Validity,
    keys: &[&SigningKey],
    now: Timestamp,
) -> Result<Bytes, WriteError> {
    let Roles { root, targets, snapshot, timestamp } = roles;
    let named = [("root", root), ("targets", targets), ("snapshot", snapshot), ("timestamp", timestamp)];
    let listed: BTreeMap<KeyId, Key> = named
        .iter()
        .flat_map(|(_, signers)| &signers.keys)
        .map(|key| (key.key_id(), (*key).into()))
        .collect();
    let role = |signers: &Signers| RoleKeys {
        keyids: signers.keys.iter().map(PublicKey::key_id).collect(),
        threshold: signers.threshold,
    };
    for (name, signers) in named {
        if signers.threshold > signers.keys.len() as u64 {
            let (found, threshold) = (signers.keys.len(), signers.threshold);
            return Err(WriteError::TooFewKeys { role: name, found, threshold });
        }
    }
    let signers: Vec<RoleKeys> = previous.cloned().into_iter().chain([role(root)]).collect();
    let content = json!({
        "_type": "root",
        "spec_version": SPEC_VERSION,
        "version": version,
        "expires": expiry(now, validity.root)?.to_string(),
        "consistent_snapshot": true,
        "keys": listed,
        "roles": named.map(|(name, signers)| (name, role(signers))).into_iter().collect::<BTreeMap<_, _>>(),
    });
    let file = file_name("root", Some(version));
    Ok(sign::<Root>(&file, &content, &signers, keys)?.bytes)
}

/// A file of the state, which was signed here before.
fn read_own<T: Role>(text: String) -> Result<Written<T>, WriteError> {
    let bytes = Bytes::from(text);
    let says = Signed::parse(&bytes)
        .and_then(|signed| signed.read())
        .map_err(|source| WriteError::Metadata { file: file_name(T::TYPE, None), source })?;
    Ok(Written { bytes, says })
}

/// Whole seconds: fractions make the reference client refuse the repository.
fn expiry(now: Timestamp, validity: SignedDuration) -> Result<Timestamp, WriteError> {
    let range = |_| WriteError::Range { what: "expiry" };
    let end = now.checked_add(validity).map_err(range)?;
    Timestamp::from_second(end.as_second()).map_err(range)
}

fn next(version: u64, what: &'static str) -> Result<u64, WriteError> {
    // Larger ones are not exact in every JSON reader.
    Some(version + 1).filter(|next| *next < 1 << 53).ok_or(WriteError::Range { what })
}

fn check_name(name: &str) -> Result<(), WriteError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+~:".contains(&byte);
    let fits = (1..=TARGET_NAME_BYTES_MAX).contains(&name.len());
    if !fits || name.starts_with('.') || !name.bytes().all(plain) {
        let name = name.chars().take(TARGET_NAME_BYTES_MAX).flat_map(char::escape_debug).collect();
        return Err(WriteError::TargetName { name });
    }
    Ok(())
}

impl Repository {
    /// A repository that has published nothing but its root, the exact bytes of [`first_root`].
    ///
    /// # Errors
    ///
    /// [`WriteError::Metadata`].
    pub fn begin(root: &[u8], validity: Validity) -> Result<Self, WriteError> {
        let root = Written { bytes: Bytes::copy_from_slice(root), says: read_root(root)? };
        Ok(Self { validity, root, below: None })
    }

    /// The repository as it was when `state` was kept.
    ///
    /// # Errors
    ///
    /// [`WriteError::Metadata`] when it is damaged.
    pub fn resume(state: State) -> Result<Self, WriteError> {
        let State { validity, root, below } = state;
        let mut repository = Self::begin(root.as_bytes(), validity)?;
        if let Some(BelowState { targets, snapshot, timestamp }) = below {
            repository.below = Some(Below {
                targets: read_own(targets)?,
                snapshot: read_own(snapshot)?,
                timestamp: read_own(timestamp)?,
            });
        }
        Ok(repository)
    }

    /// To keep, before the files of the call that changed it are stored.
    #[must_use]
    pub fn state(&self) -> State {
        // Metadata was parsed as JSON, so it is UTF-8.
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let below = self.below.as_ref().map(|Below { targets, snapshot, timestamp }| BelowState {
            targets: text(&targets.bytes),
            snapshot: text(&snapshot.bytes),
            timestamp: text(&timestamp.bytes),
        });
        State { validity: self.validity, root: text(&self.root.bytes), below }
    }

    /// The newest four files, to store again at start in case a crash came between state and files.
    #[must_use]
    pub fn current(&self) -> Published {
        let mut files = vec![self.root_file()];
        if let Some(Below { targets, snapshot, timestamp }) = &self.below {
            files.push((file_name("targets", Some(targets.says.version)), targets.bytes.clone()));
            files.push((file_name("snapshot", Some(snapshot.says.version)), snapshot.bytes.clone()));
            files.push((file_name("timestamp", None), timestamp.bytes.clone()));
        }
        Published { files, timestamp_version: self.timestamp_version() }
    }

    /// Name and bytes of the newest root.
    #[must_use]
    pub fn root_file(&self) -> (String, Bytes) {
        (file_name("root", Some(self.root.says.version)), self.root.bytes.clone())
    }

    /// Until when the root is valid; before that [`next_root`] is needed.
    #[must_use]
    pub fn root_expires(&self) -> Timestamp {
        self.root.says.expires
    }

    /// Version of the newest timestamp; 0 before the first publication.
    #[must_use]
    pub fn timestamp_version(&self) -> u64 {
        self.below.as_ref().map_or(0, |below| below.timestamp.says.version)
    }

    /// The targets last published, by name.
    #[must_use]
    pub fn targets(&self) -> BTreeMap<String, Target> {
        self.below.as_ref().map(|below| below.targets.says.content.with_sha256()).unwrap_or_default()
    }

    /// Makes `targets` all the targets there are. When they are the ones already published, only what must
    /// not grow old is signed again.
    ///
    /// # Errors
    ///
    /// Any but [`WriteError::RootVersion`].
    pub fn publish(
        &mut self,
        targets: &BTreeMap<String, Target>,
        keys: &[&SigningKey],
        now: Timestamp,
    ) -> Result<Published, WriteError> {
        targets.keys().try_for_each(|name| check_name(name))?;
        let again = if *targets == self.targets() { Again::WhatIsOld } else { Again::Everything };
        self.write(targets, again, keys, now)
    }

    /// Signs the timestamp again, and what has less than half of its validity left.
    ///
    /// # Errors
    ///
    /// [`WriteError::TooFewKeys`], [`WriteError::Range`].
    pub fn refresh_timestamp(
        &mut self,
        keys: &[&SigningKey],
        now: Timestamp,
    ) -> Result<Published, WriteError> {
        self.write(&self.targets(), Again::WhatIsOld, keys, now)
    }

    /// Takes over a root from [`next_root`] and signs everything below it with the keys it names.
    ///
    /// # Errors
    ///
    /// [`WriteError::RootVersion`], [`WriteError::Metadata`] when it is not signed by the present root's keys
    /// and its own, [`WriteError::TooFewKeys`].
    pub fn take_root(
        &mut self,
        root: &[u8],
        keys: &[&SigningKey],
        now: Timestamp,
    ) -> Result<Published, WriteError> {
        let new = Written { bytes: Bytes::copy_from_slice(root), says: read_root(root)? };
        let expected = next(self.root.says.version, "root")?;
        if new.says.version != expected {
            return Err(WriteError::RootVersion { expected, found: new.says.version });
        }
        let present = &self.root.says.content;
        Signed::parse(root)
            .and_then(|signed| signed.verify(&present.keys, &present.role("root")))
            .map_err(|source| WriteError::Metadata { file: file_name("root", Some(expected)), source })?;
        let mut after = Self { root: new, ..self.clone() };
        let mut published = after.write(&self.targets(), Again::Everything, keys, now)?;
        // Last: until it is there, clients refuse the new timestamp and lose nothing. The other way round they
        // would have dropped the old one.
        published.files.push(after.root_file());
        *self = after;
        Ok(published)
    }

    /// Changes nothing when it fails.
    fn write(
        &mut self,
        targets: &BTreeMap<String, Target>,
        again: Again,
        keys: &[&SigningKey],
        now: Timestamp,
    ) -> Result<Published, WriteError> {
        let (root, validity) = (&self.root.says.content, self.validity);
        let old = self.below.as_ref();
        let is_old = |expires: Timestamp, validity: SignedDuration| {
            again == Again::Everything || expires.duration_since(now) < validity / 2
        };
        let mut files = Vec::new();

        let kept = old.map(|old| &old.targets).filter(|old| !is_old(old.says.expires, validity.targets));
        let new_targets = kept.is_none();
        let targets = match kept {
            Some(kept) => kept.clone(),
            None => {
                let version = next(old.map_or(0, |old| old.targets.says.version), "targets")?;
                let content = json!({
                    "_type": "targets",
                    "spec_version": SPEC_VERSION,
                    "version": version,
                    "expires": expiry(now, validity.targets)?.to_string(),
                    "targets": targets.iter().map(target_json).collect::<BTreeMap<_, _>>(),
                });
                let name = file_name("targets", Some(version));
                let written = sign::<Targets>(&name, &content, &[root.role("targets")], keys)?;
                files.push((name, written.bytes.clone()));
                written
            }
        };

        let kept = old.map(|old| &old.snapshot);
        let kept = kept.filter(|old| !new_targets && !is_old(old.says.expires, validity.snapshot));
        let snapshot = match kept {
            Some(kept) => kept.clone(),
            None => {
                let version = next(old.map_or(0, |old| old.snapshot.says.version), "snapshot")?;
                let content = json!({
                    "_type": "snapshot",
                    "spec_version": SPEC_VERSION,
                    "version": version,
                    "expires": expiry(now, validity.snapshot)?.to_string(),
                    "meta": { "targets.json": targets.named() },
                });
                let name = file_name("snapshot", Some(version));
                let written = sign::<Snapshot>(&name, &content, &[root.role("snapshot")], keys)?;
                files.push((name, written.bytes.clone()));
                written
            }
        };

        let timestamp_version = next(self.timestamp_version(), "timestamp")?;
        let content = json!({
            "_type": "timestamp",
            "spec_version": SPEC_VERSION,
            "version": timestamp_version,
            "expires": expiry(now, validity.timestamp)?.to_string(),
            "meta": { "snapshot.json": snapshot.named() },
        });
        let name = file_name("timestamp", None);
        let timestamp = sign::<TimestampRole>(&name, &content, &[root.role("timestamp")], keys)?;
        files.push((name, timestamp.bytes.clone()));

        self.below = Some(Below { targets, snapshot, timestamp });
        Ok(Published { files, timestamp_version })
    }
}

/// What is signed again besides the timestamp.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    /// What is absent or has less than half of its validity left.
    WhatIsOld,
    /// Targets and snapshot.
    Everything,
}

fn target_json<'a>((name, target): (&'a String, &Target)) -> (&'a String, Value) {
    let Target { length, sha256, custom } = target;
    let mut file = json!({ "length": length, "hashes": { "sha256": sha256 } });
    if let Some(custom) = custom {
        file["custom"] = custom.clone();
    }
    (name, file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::digest::Digest;

    fn key(seed: u8) -> SigningKey {
        let der = [&hex::decode("302e020100300506032b657004220420").unwrap()[..], &[seed; 32]].concat();
        SigningKey::from_pkcs8(&der, "test").unwrap()
    }

    fn now() -> Timestamp {
        "2026-11-20T03:00:00.987Z".parse().unwrap()
    }

    fn hours(hours: i64) -> SignedDuration {
        SignedDuration::from_hours(hours)
    }

    fn targets(names: &[&str]) -> BTreeMap<String, Target> {
        let target = |name: &&str| {
            let custom = Some(json!({ "kind": "updates", "documents": 3 }));
            (name.to_string(), Target { length: 5, sha256: Digest::of(name.as_bytes()), custom })
        };
        names.iter().map(target).collect()
    }

    fn roles(root: &[u8], threshold: u64, online: u8) -> Roles {
        let root = Signers { keys: root.iter().map(|seed| key(*seed).public()).collect(), threshold };
        Roles::with_online_key(root, key(online).public())
    }

    fn begun() -> (Repository, SigningKey) {
        let root = first_root(&roles(&[1], 1, 9), &Validity::default(), &[&key(1)], now()).unwrap();
        (Repository::begin(&root, Validity::default()).unwrap(), key(9))
    }

    fn names(published: &Published) -> Vec<&str> {
        published.files.iter().map(|(name, _)| &**name).collect()
    }

    #[test]
    fn only_what_changed_or_grows_old_is_signed_again() {
        let (mut repository, online) = begun();
        let first = repository.publish(&targets(&["debian-12"]), &[&online], now()).unwrap();
        assert_eq!(names(&first), ["1.targets.json", "1.snapshot.json", "timestamp.json"]);
        let same = repository.publish(&targets(&["debian-12"]), &[&online], now() + hours(1)).unwrap();
        assert_eq!((names(&same), same.timestamp_version), (vec!["timestamp.json"], 2));
        let later = repository.refresh_timestamp(&[&online], now() + hours(24 * 4)).unwrap();
        assert_eq!(names(&later), ["2.snapshot.json", "timestamp.json"]);
        let late = repository.refresh_timestamp(&[&online], now() + hours(24 * 46)).unwrap();
        assert_eq!(names(&late), ["2.targets.json", "3.snapshot.json", "timestamp.json"]);
        let changed = repository.publish(&targets(&["debian-13"]), &[&online], now()).unwrap();
        assert_eq!(names(&changed), ["3.targets.json", "4.snapshot.json", "timestamp.json"]);
        assert_eq!(changed.timestamp_version, 5);
        assert_eq!(repository.targets(), targets(&["debian-13"]));
    }

    #[test]
    fn versions_go_on_after_a_restart_and_the_same_files_can_be_stored_again() {
        let (mut repository, online) = begun();
        let published = repository.publish(&targets(&["a"]), &[&online], now()).unwrap();
        let kept = serde_json::to_string(&repository.state()).unwrap();
        let mut resumed = Repository::resume(serde_json::from_str(&kept).unwrap()).unwrap();
        assert_eq!(resumed.current().files[1..], published.files[..]);
        assert_eq!(resumed.current().files[0], repository.root_file());
        let next = resumed.publish(&targets(&["b"]), &[&online], now()).unwrap();
        assert_eq!(names(&next), ["2.targets.json", "2.snapshot.json", "timestamp.json"]);
        assert_eq!(next.timestamp_version, 2);
    }

    #[test]
    fn a_publication_that_fails_changes_nothing() {
        let (mut repository, online) = begun();
        repository.publish(&targets(&["a"]), &[&online], now()).unwrap();
        let before = repository.state();
        let too_few = repository.publish(&targets(&["b"]), &[&key(1)], now());
        assert!(matches!(too_few, Err(WriteError::TooFewKeys { role: "targets", found: 0, threshold: 1 })));
        let mut fraction = targets(&["b"]);
        fraction.get_mut("b").unwrap().custom = Some(json!({ "share": 0.5 }));
        assert!(matches!(
            repository.publish(&fraction, &[&online], now()),
            Err(WriteError::Metadata { file, .. }) if file == "2.targets.json"
        ));
        let mut huge = targets(&["b"]);
        huge.get_mut("b").unwrap().custom = Some("x".repeat(33 << 20).into());
        assert!(matches!(repository.publish(&huge, &[&online], now()), Err(WriteError::TooLarge { .. })));
        assert_eq!(repository.state(), before);
    }

    #[test]
    fn a_target_name_that_readers_fetch_from_different_places_is_refused() {
        let (mut repository, online) = begun();
        for name in ["", "a/b", "..", ".a", "a b", "a\nb", "ä", &"x".repeat(161)] {
            let refused = repository.publish(&targets(&[name]), &[&online], now());
            assert!(matches!(refused, Err(WriteError::TargetName { .. })), "{name:?}");
        }
        repository.publish(&targets(&["policy-default", "debian-12"]), &[&online], now()).unwrap();
    }

    #[test]
    fn expiry_is_in_whole_seconds() {
        let (mut repository, online) = begun();
        let published = repository.publish(&BTreeMap::new(), &[&online], now()).unwrap();
        let (_, timestamp) = published.files.last().unwrap();
        let json: Value = serde_json::from_slice(timestamp).unwrap();
        assert_eq!(json["signed"]["expires"], "2026-11-21T03:00:00Z");
    }

    #[test]
    fn a_root_follows_only_when_the_old_and_the_new_keys_sign_it() {
        let validity = Validity::default();
        let first = first_root(&roles(&[1, 2, 3], 2, 9), &validity, &[&key(1), &key(3)], now()).unwrap();
        let next = |keys: &[&SigningKey]| next_root(&first, &roles(&[4, 5], 2, 8), &validity, keys, now());
        for (keys, found) in [
            (vec![&key(4), &key(5)], 0),
            (vec![&key(1), &key(4), &key(5)], 1),
            (vec![&key(1), &key(2), &key(4)], 1),
            (vec![&key(1), &key(1), &key(4), &key(5)], 1),
        ] {
            let refused = next(&keys);
            assert!(
                matches!(refused, Err(WriteError::TooFewKeys { role: "root", found: n, threshold: 2 }) if n == found)
            );
        }
        let second = next(&[&key(1), &key(2), &key(4), &key(5)]).unwrap();
        let mut repository = Repository::begin(&first, validity).unwrap();
        repository.publish(&targets(&["a"]), &[&key(9)], now()).unwrap();
        let before = repository.state();
        assert!(repository.take_root(&second, &[&key(9)], now()).is_err());
        assert!(repository.take_root(&first, &[&key(9)], now()).is_err());
        assert_eq!(repository.state(), before);
        let taken = repository.take_root(&second, &[&key(8)], now()).unwrap();
        assert_eq!(names(&taken), ["2.targets.json", "2.snapshot.json", "timestamp.json", "2.root.json"]);
        assert_eq!(repository.targets(), targets(&["a"]));
    }

    #[test]
    fn a_root_of_foreign_keys_is_not_taken() {
        let validity = Validity::default();
        let (mut repository, _) = begun();
        let foreign = first_root(&roles(&[6], 1, 6), &validity, &[&key(6)], now()).unwrap();
        let second = next_root(&foreign, &roles(&[6], 1, 6), &validity, &[&key(6)], now()).unwrap();
        let refused = repository.take_root(&second, &[&key(6)], now());
        assert!(matches!(
            refused,
            Err(WriteError::Metadata {
                source: MetadataError::TooFewSignatures { found: 0, threshold: 1 },
                ..
            })
        ));
    }
}
