//! The four kinds of metadata, as types that hold only what the specification allows.
//!
//! A file is taken in three steps: [`Signed::parse`] (structure), [`Signed::verify`] (enough signatures of
//! the role that may sign it), [`Signed::read`] (contents). Whatever is not known is kept in what is
//! verified and left out of what is read.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use jiff::Timestamp;
use ring::digest::{Context, SHA256, SHA512};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned, de::Error as _};
use serde_json::value::RawValue;

use crate::trust::{
    digest::Digest,
    keys::KeyId,
    tuf::{
        canonical::Json,
        pattern,
        signature::{Key, RoleKeys, Signature, valid_signatures},
    },
};

/// The version of the specification that this follows; another major version is refused.
pub const SPEC_VERSION: &str = "1.0.34";

/// The file names' and messages' names of the four top-level roles.
pub const TOP_LEVEL: [&str; 4] = ["root", "timestamp", "snapshot", "targets"];

/// Metadata that is not what it must be, whoever signed it.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// Not JSON, not canonical JSON, or not the fields that the role has.
    #[error("it is malformed")]
    Json(#[from] serde_json::Error),
    /// The same key id signs twice, which the specification forbids.
    #[error("key `{keyid}` is listed with two signatures")]
    SignedTwice {
        /// Which.
        keyid: KeyId,
    },
    /// Metadata of another role.
    #[error("it is of type `{found}` where `{expected}` is needed")]
    Type {
        /// The role wanted.
        expected: &'static str,
        /// What it says it is.
        found: String,
    },
    /// A version of the specification that this does not know.
    #[error("its specification version `{found}` is not 1.x")]
    SpecVersion {
        /// What it says.
        found: String,
    },
    /// Contents that the specification forbids.
    #[error("{reason}")]
    Invalid {
        /// What is wrong.
        reason: String,
    },
    /// The role's threshold is not met.
    #[error("{found} of {threshold} required signatures are valid")]
    TooFewSignatures {
        /// Distinct keys of the role with a valid signature.
        found: u64,
        /// How many there must be.
        threshold: u64,
    },
}

fn invalid(reason: impl AsRef<str>) -> MetadataError {
    // Names in it come from outside.
    MetadataError::Invalid { reason: reason.as_ref().escape_debug().to_string() }
}

/// A metadata file whose signatures have not been looked at.
#[derive(Debug)]
pub struct Signed<'a> {
    content: &'a RawValue,
    canonical: Vec<u8>,
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow)]
    signed: &'a RawValue,
    signatures: Vec<Signature>,
}

/// What every role's metadata begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata<T> {
    /// At least 1.
    pub version: u64,
    /// From then on it must not be used.
    pub expires: Timestamp,
    /// What the role says.
    pub content: T,
}

impl<T> Metadata<T> {
    /// Whether it must not be used at `now`.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires <= now
    }
}

#[derive(Deserialize)]
struct Header {
    _type: String,
    spec_version: String,
    version: u64,
    #[serde(deserialize_with = "expires")]
    expires: Timestamp,
}

/// `YYYY-MM-DDTHH:MM:SSZ` and nothing else: the specification allows one form, so two readers cannot
/// disagree.
fn expires<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    let text = String::deserialize(deserializer)?;
    let error = || D::Error::custom(format_args!("`{text}` is not a time such as `2030-01-01T00:00:00Z`"));
    let shape: Vec<u8> = text.bytes().map(|byte| if byte.is_ascii_digit() { b'0' } else { byte }).collect();
    if shape != b"0000-00-00T00:00:00Z" {
        return Err(error());
    }
    text.parse().map_err(|_| error())
}

/// The contents of one role's metadata.
pub trait Role: DeserializeOwned {
    /// As in the field `_type`.
    const TYPE: &'static str;

    /// Checks what the types cannot say.
    ///
    /// # Errors
    ///
    /// [`MetadataError::Invalid`].
    fn check(&self) -> Result<(), MetadataError>;
}

impl<'a> Signed<'a> {
    /// Takes a file apart. Trusts nothing; the time is linear in its length, the depth bounded.
    ///
    /// # Errors
    ///
    /// [`MetadataError::Json`], [`MetadataError::SignedTwice`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, MetadataError> {
        let File { signed, signatures } = serde_json::from_slice(bytes)?;
        let mut seen = BTreeSet::new();
        if let Some(twice) = signatures.iter().find(|signature| !seen.insert(&signature.keyid)) {
            return Err(MetadataError::SignedTwice { keyid: twice.keyid.clone() });
        }
        let canonical = serde_json::from_str::<Json>(signed.get())?.canonical();
        Ok(Self { content: signed, canonical, signatures })
    }

    /// Succeeds when enough of the role's keys have signed.
    ///
    /// # Errors
    ///
    /// [`MetadataError::TooFewSignatures`].
    pub fn verify(&self, keys: &BTreeMap<KeyId, Key>, role: &RoleKeys) -> Result<(), MetadataError> {
        let found = valid_signatures(&self.canonical, &self.signatures, keys, role);
        if found < role.threshold {
            return Err(MetadataError::TooFewSignatures { found, threshold: role.threshold });
        }
        Ok(())
    }

    /// The contents.
    ///
    /// # Errors
    ///
    /// Any but [`MetadataError::TooFewSignatures`].
    pub fn read<T: Role>(&self) -> Result<Metadata<T>, MetadataError> {
        let text = self.content.get();
        let Header { _type, spec_version, version, expires } = serde_json::from_str(text)?;
        if _type != T::TYPE {
            return Err(MetadataError::Type { expected: T::TYPE, found: _type });
        }
        let mut parts = spec_version.split('.');
        if parts.next() != Some("1") || !parts.all(|part| part.parse::<u32>().is_ok()) {
            return Err(MetadataError::SpecVersion { found: spec_version });
        }
        if version == 0 {
            return Err(invalid("its version is 0"));
        }
        let content: T = serde_json::from_str(text)?;
        content.check()?;
        Ok(Metadata { version, expires, content })
    }
}

fn check_role_keys(name: &str, role: &RoleKeys) -> Result<(), MetadataError> {
    if role.threshold == 0 {
        return Err(invalid(format!("role `{name}` has threshold 0")));
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = role.keyids.iter().find(|keyid| !seen.insert(*keyid)) {
        return Err(invalid(format!("role `{name}` lists key `{twice}` twice")));
    }
    Ok(())
}

/// Who signs the four roles.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Root {
    /// Whether files other than the timestamp carry their version, and targets their digest, in the name.
    #[serde(default)]
    pub consistent_snapshot: bool,
    /// By id. That an id is the digest of its key is not checked: see TAP 12.
    pub keys: BTreeMap<KeyId, Key>,
    /// By role name.
    pub roles: BTreeMap<String, RoleKeys>,
}

impl Role for Root {
    const TYPE: &'static str = "root";

    fn check(&self) -> Result<(), MetadataError> {
        if let Some(absent) = TOP_LEVEL.iter().find(|name| !self.roles.contains_key(**name)) {
            return Err(invalid(format!("role `{absent}` is missing")));
        }
        self.roles.iter().try_for_each(|(name, role)| check_role_keys(name, role))
    }
}

impl Root {
    /// Who signs `role`. Every root that was read has its four.
    #[must_use]
    pub fn role(&self, role: &str) -> RoleKeys {
        // Without the role nothing would ever be signed enough.
        self.roles.get(role).cloned().unwrap_or(RoleKeys { keyids: Vec::new(), threshold: u64::MAX })
    }
}

/// Digests of one file by name of the algorithm, at least one of them known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Hashes {
    sha256: Option<Digest>,
    sha512: Option<Box<[u8; 64]>>,
}

impl TryFrom<BTreeMap<String, String>> for Hashes {
    type Error = String;
    fn try_from(texts: BTreeMap<String, String>) -> Result<Self, String> {
        let mut hashes = Self { sha256: None, sha512: None };
        for (algorithm, text) in texts {
            match &*algorithm {
                "sha256" => {
                    hashes.sha256 = Some(
                        text.to_ascii_lowercase()
                            .parse()
                            .map_err(|_| format!("`{text}` is not a SHA-256 digest"))?,
                    );
                }
                "sha512" => {
                    let mut bytes = Box::new([0; 64]);
                    hex::decode_to_slice(&text, &mut bytes[..])
                        .map_err(|_| format!("`{text}` is not a SHA-512 digest"))?;
                    hashes.sha512 = Some(bytes);
                }
                _ => {}
            }
        }
        if hashes.sha256.is_none() && hashes.sha512.is_none() {
            return Err("neither `sha256` nor `sha512` is among the hashes".to_owned());
        }
        Ok(hashes)
    }
}

impl From<Hashes> for BTreeMap<String, String> {
    fn from(hashes: Hashes) -> Self {
        let sha256 = hashes.sha256.map(|digest| ("sha256".to_owned(), digest.to_string()));
        let sha512 = hashes.sha512.map(|bytes| ("sha512".to_owned(), hex::encode(&bytes[..])));
        sha256.into_iter().chain(sha512).collect()
    }
}

impl From<Digest> for Hashes {
    fn from(digest: Digest) -> Self {
        Self { sha256: Some(digest), sha512: None }
    }
}

impl Hashes {
    /// The SHA-256 digest, where there is one.
    #[must_use]
    pub fn sha256(&self) -> Option<Digest> {
        self.sha256
    }

    /// The hex digits that consistent snapshots put before a target's name: SHA-256 before SHA-512.
    #[must_use]
    pub fn prefix(&self) -> String {
        match (&self.sha256, &self.sha512) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(bytes)) => hex::encode(&bytes[..]),
            (None, None) => String::new(),
        }
    }

    /// Whether every known one of them is that of `bytes`.
    #[must_use]
    pub fn match_bytes(&self, bytes: &[u8]) -> bool {
        let mut checker = self.checker();
        checker.update(bytes);
        checker.finish()
    }

    /// Checks contents that come piece by piece.
    #[must_use]
    pub fn checker(&self) -> HashChecker {
        HashChecker {
            sha256: self.sha256.map(|digest| (digest, Context::new(&SHA256))),
            sha512: self.sha512.clone().map(|bytes| (bytes, Context::new(&SHA512))),
        }
    }
}

/// Compares contents that come piece by piece with their digests.
pub struct HashChecker {
    sha256: Option<(Digest, Context)>,
    sha512: Option<(Box<[u8; 64]>, Context)>,
}

impl fmt::Debug for HashChecker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashChecker")
    }
}

impl HashChecker {
    /// Takes the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        if let Some((_, context)) = &mut self.sha256 {
            context.update(bytes);
        }
        if let Some((_, context)) = &mut self.sha512 {
            context.update(bytes);
        }
    }

    /// Whether every digest is that of all pieces; never true when there was none.
    #[must_use]
    pub fn finish(self) -> bool {
        let sha256 = self.sha256.map(|(digest, context)| context.finish().as_ref() == digest.as_bytes());
        let sha512 = self.sha512.map(|(bytes, context)| context.finish().as_ref() == &bytes[..]);
        match (sha256, sha512) {
            (None, None) => false,
            (one, another) => one.unwrap_or(true) && another.unwrap_or(true),
        }
    }
}

/// What one metadata file says of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaFile {
    /// Exactly this version.
    pub version: u64,
    /// Exactly so many bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// Exactly these digests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hashes: Option<Hashes>,
}

fn check_meta(meta: &BTreeMap<String, MetaFile>, needed: &str) -> Result<(), MetadataError> {
    if !meta.contains_key(needed) {
        return Err(invalid(format!("`{needed}` is missing in its `meta`")));
    }
    match meta.iter().find(|(_, file)| file.version == 0) {
        Some((name, _)) => Err(invalid(format!("`{name}` has version 0 in its `meta`"))),
        None => Ok(()),
    }
}

/// Which snapshot is the newest.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TimestampRole {
    meta: BTreeMap<String, MetaFile>,
}

impl Role for TimestampRole {
    const TYPE: &'static str = "timestamp";

    fn check(&self) -> Result<(), MetadataError> {
        check_meta(&self.meta, "snapshot.json")
    }
}

impl TimestampRole {
    /// The newest snapshot. Every timestamp that was read names it.
    #[must_use]
    pub fn snapshot(&self) -> MetaFile {
        let none = MetaFile { version: 0, length: None, hashes: None };
        self.meta.get("snapshot.json").cloned().unwrap_or(none)
    }
}

/// Which versions of all targets roles belong together.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Snapshot {
    /// By file name without version, such as `targets.json`.
    pub meta: BTreeMap<String, MetaFile>,
}

impl Role for Snapshot {
    const TYPE: &'static str = "snapshot";

    fn check(&self) -> Result<(), MetadataError> {
        check_meta(&self.meta, "targets.json")
    }
}

/// One target file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetFile {
    /// Exactly so many bytes.
    pub length: u64,
    /// Exactly these digests.
    pub hashes: Hashes,
    /// Whatever the writer wants a reader to know before the file is fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom: Option<serde_json::Value>,
}

/// A target as Tierway uses it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Exactly so many bytes.
    pub length: u64,
    /// Of the bytes.
    pub sha256: Digest,
    /// What the writer wants a reader to know before fetching.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom: Option<serde_json::Value>,
}

/// Which target files there are, and who may say so for the rest.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Targets {
    /// By target path.
    pub targets: BTreeMap<String, TargetFile>,
    /// To whom it delegates.
    #[serde(default)]
    pub delegations: Option<Delegations>,
}

impl Targets {
    /// The targets that have a SHA-256 digest, by path.
    #[must_use]
    pub fn with_sha256(&self) -> BTreeMap<String, Target> {
        let target = |file: &TargetFile| {
            let sha256 = file.hashes.sha256()?;
            Some(Target { length: file.length, sha256, custom: file.custom.clone() })
        };
        self.targets.iter().filter_map(|(path, file)| Some((path.clone(), target(file)?))).collect()
    }
}

/// To whom a targets role delegates.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Delegations {
    /// By id.
    pub keys: BTreeMap<KeyId, Key>,
    /// The first one that covers a path goes first.
    #[serde(default)]
    pub roles: Vec<DelegatedRole>,
    /// Instead of `roles`: bins by hash (TAP 15).
    #[serde(default)]
    pub succinct_roles: Option<SuccinctRoles>,
}

/// A role to which target paths are delegated.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct DelegatedRole {
    /// Unique among its siblings.
    pub name: String,
    /// Who signs it.
    #[serde(flatten)]
    pub keys: RoleKeys,
    /// Whether what it covers is nobody else's.
    #[serde(default)]
    pub terminating: bool,
    /// Shell patterns.
    #[serde(default)]
    pub paths: Option<Vec<String>>,
    /// Beginnings of the path's SHA-256, lower-case hex.
    #[serde(default)]
    pub path_hash_prefixes: Option<Vec<String>>,
}

/// 2^`bit_length` roles `prefix-xx`, each with the paths whose hash begins with its number.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SuccinctRoles {
    /// Who signs each of them.
    #[serde(flatten)]
    pub keys: RoleKeys,
    /// 1 to 32.
    pub bit_length: u32,
    /// What their names begin with.
    pub name_prefix: String,
}

impl Role for Targets {
    const TYPE: &'static str = "targets";

    fn check(&self) -> Result<(), MetadataError> {
        let Some(delegations) = &self.delegations else { return Ok(()) };
        if let Some(bins) = &delegations.succinct_roles {
            check_role_keys(&bins.name_prefix, &bins.keys)?;
            if !(1..=32).contains(&bins.bit_length) || bins.name_prefix.is_empty() {
                return Err(invalid("its succinct roles have no name or not 1 to 32 bits"));
            }
            if !delegations.roles.is_empty() {
                return Err(invalid("it delegates to both named and succinct roles"));
            }
        }
        let mut seen = BTreeSet::new();
        for role in &delegations.roles {
            let name = &role.name;
            check_role_keys(name, &role.keys)?;
            if name.is_empty() || TOP_LEVEL.contains(&&**name) {
                return Err(invalid(format!("it delegates to a role named `{name}`")));
            }
            if !seen.insert(name) {
                return Err(invalid(format!("it delegates to `{name}` twice")));
            }
            if role.paths.is_some() && role.path_hash_prefixes.is_some() {
                return Err(invalid(format!("role `{name}` has both paths and hash prefixes")));
            }
        }
        Ok(())
    }
}

/// A role that may say something about a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delegate {
    pub(crate) name: String,
    pub(crate) keys: RoleKeys,
    pub(crate) terminating: bool,
}

impl Delegations {
    /// The roles that cover `path`, first to last.
    pub(crate) fn for_path(&self, path: &str) -> Vec<Delegate> {
        if let Some(bins) = &self.succinct_roles {
            let digits = bins.bit_length.div_ceil(4) as usize;
            let bin = pattern::bin_of(path, bins.bit_length);
            let name = format!("{}-{bin:0digits$x}", bins.name_prefix);
            return vec![Delegate { name, keys: bins.keys.clone(), terminating: true }];
        }
        let covers = |role: &&DelegatedRole| match (&role.paths, &role.path_hash_prefixes) {
            (Some(patterns), None) => patterns.iter().any(|pattern| pattern::covers(pattern, path)),
            (None, Some(prefixes)) => pattern::hash_has_prefix(path, prefixes.iter().map(String::as_str)),
            _ => false,
        };
        let delegate = |role: &DelegatedRole| Delegate {
            name: role.name.clone(),
            keys: role.keys.clone(),
            terminating: role.terminating,
        };
        self.roles.iter().filter(covers).map(delegate).collect()
    }
}
