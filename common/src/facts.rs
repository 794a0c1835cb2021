//! Facts: what was read from a computer, as one sorted map, with what could not be read beside it.
//!
//! Shape: text key → text value. One map makes digest, delta, index and explanation the same for every kind.
//!
//! | key | value |
//! |---|---|
//! | `os:family`, `os:version`, `os:codename`, `os:build`, `os:architecture` | as the system says |
//! | `os:service-pack`, `os:product-type`, `os:language` | of Windows, see [`WindowsTest`] |
//! | `os:name`, `os:edition` | of Windows, as it names itself: `Windows 11 Pro`, `Professional` |
//! | `os:suite-<bit>`, `os:mui-<language>` | `present` |
//! | `clock:zone` | its time zone, an IANA name |
//! | `package:<manager>:<name>:<architecture>` | the version |
//! | `file:<path>` | `present` or `absent` |
//! | `file:<path>#version`, `#size`, `#sha256`, `#created`, `#modified`, `#language` | as named |
//! | `registry:<key>` | `present` or `absent` |
//! | `registry:@value:<key>#<value name>` | `present` or `absent` |
//! | `registry:@type:<key>#<value name>` | `REG_SZ`, `REG_DWORD`, … |
//! | `registry:<key>#<value name>` | the data; numbers in decimal |
//! | `registry-loop:<any, all or none> <key>: <test as JSON>` | `true` or `false` |
//! | `program:<whose>:<key>` | name and version in the list of programs; whose: `machine`, `machine32`, a user's id |
//! | `manager:<name>` | what another program does that installs updates here, in words |
//! | `update:<id>` | `installed` |
//! | `flag:<name>` | `true` or `false` |
//! | `number:<name>` | a decimal integer |
//! | `attribute:<name>` | a text or a version |
//! | `msi:<product code>/feature`, `component` or `patch``/<name>` | `present` or `absent` |
//! | `wmi:<namespace>:<query>` | `true` when it has a row, else `false` |
//!
//! [`WindowsTest`]: crate::rules::expr::WindowsTest
//!
//! A key belongs to a *domain*, the part that is read in one go: `os`, `package:deb`, `file`, … The
//! domain says where its facts came from and whether all of it was read: in a complete domain a key
//! that is not there means *absent*, in one that was read only as far as asked, or not at all, it
//! means *unknown*.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::trust::digest::Digest;

/// How well one domain was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Domain {
    /// All of it was read; what is not in the facts does not exist.
    Complete {
        /// Where from, such as `/var/lib/dpkg/status`.
        source: String,
    },
    /// Only what some rule asks for was read.
    Asked {
        /// Where from.
        source: String,
    },
    /// It could not be read.
    Failed {
        /// Where it was looked for.
        source: String,
        /// Why not, as a sentence without a period.
        reason: String,
    },
}

impl Domain {
    /// Where the facts of this domain came from.
    #[must_use]
    pub fn source(&self) -> &str {
        match self {
            Self::Complete { source } | Self::Asked { source } | Self::Failed { source, .. } => source,
        }
    }
}

/// Everything known of one computer at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// Domain name → how well it was read.
    pub domains: BTreeMap<String, Domain>,
    /// Fact key → value.
    pub values: BTreeMap<String, String>,
}

/// What changed between two [`Facts`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FactsDelta {
    /// Domains as they are now, when any of them changed; else empty.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub domains: BTreeMap<String, Domain>,
    /// Keys that are new or have a new value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
    /// Keys that are gone, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<String>,
}

/// The domain a fact key belongs to: `package:<manager>` for packages, else the part before the first `:`.
#[must_use]
pub fn domain_of(key: &str) -> &str {
    let first = key.find(':').unwrap_or(key.len());
    if &key[..first] == "package" {
        let rest = &key[first + 1..];
        return &key[..first + 1 + rest.find(':').unwrap_or(rest.len())];
    }
    &key[..first]
}

impl Facts {
    /// SHA-256 over domains and values in key order, each text preceded by its length (u32, big-endian);
    /// equal facts have equal digests on every tier.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut hasher = crate::trust::digest::Hasher::new();
        let mut text = |text: &str| {
            hasher.update(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
            hasher.update(text.as_bytes());
        };
        for (name, domain) in &self.domains {
            let (kind, reason) = match domain {
                Domain::Complete { .. } => ("complete", ""),
                Domain::Asked { .. } => ("asked", ""),
                Domain::Failed { reason, .. } => ("failed", reason.as_str()),
            };
            for part in [name, kind, domain.source(), reason] {
                text(part);
            }
        }
        text("");
        for (key, value) in &self.values {
            text(key);
            text(value);
        }
        hasher.finish()
    }

    /// What must change in `self` to become `newer`.
    #[must_use]
    pub fn delta(&self, newer: &Self) -> FactsDelta {
        FactsDelta {
            domains: if self.domains == newer.domains { BTreeMap::new() } else { newer.domains.clone() },
            set: newer
                .values
                .iter()
                .filter(|(key, value)| self.values.get(*key) != Some(value))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            removed: self.values.keys().filter(|key| !newer.values.contains_key(*key)).cloned().collect(),
        }
    }

    /// Applies what [`Facts::delta`] returned.
    pub fn apply(&mut self, delta: &FactsDelta) {
        if !delta.domains.is_empty() {
            self.domains.clone_from(&delta.domains);
        }
        for key in &delta.removed {
            self.values.remove(key);
        }
        for (key, value) in &delta.set {
            self.values.insert(key.clone(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(values: &[(&str, &str)]) -> Facts {
        Facts {
            domains: [("os".to_owned(), Domain::Complete { source: "/etc/os-release".to_owned() })].into(),
            values: values.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        }
    }

    #[test]
    fn a_delta_turns_the_older_facts_into_the_newer() {
        let older =
            facts(&[("os:family", "debian"), ("package:deb:a:amd64", "1"), ("package:deb:b:amd64", "1")]);
        let newer =
            facts(&[("os:family", "debian"), ("package:deb:a:amd64", "2"), ("package:deb:c:amd64", "1")]);
        let delta = older.delta(&newer);
        assert_eq!((delta.set.len(), delta.removed.len(), delta.domains.len()), (2, 1, 0));
        let mut applied = older.clone();
        applied.apply(&delta);
        assert_eq!(applied.digest(), newer.digest());
        assert_ne!(older.digest(), newer.digest());
    }

    #[test]
    fn a_key_names_its_domain() {
        for (key, domain) in [
            ("os:family", "os"),
            ("package:deb:libc6:amd64", "package:deb"),
            ("file:/etc/a:b", "file"),
            ("x", "x"),
        ] {
            assert_eq!(domain_of(key), domain);
        }
    }
}
