//! A suite's `Release`: when it was made, how long it holds, and which indices belong to it.
//!
//! Format: Debian repository format, <https://wiki.debian.org/DebianRepository/Format>.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use tierway_common::trust::digest::Digest;

/// Most files one `Release` may list: Debian's main archive lists some 1,600.
const FILES_MAX: usize = 100_000;

/// How far `Date` may lie in the future before a clock must be wrong.
const FUTURE_MAX: SignedDuration = SignedDuration::from_mins(10);

/// A `Release` that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// A field that must be there is not.
    #[error("the field `{field}` is missing")]
    Missing {
        /// Which.
        field: &'static str,
    },
    /// A field cannot be read.
    #[error("the field `{field}` cannot be read: `{text}`")]
    Field {
        /// Which.
        field: &'static str,
        /// What it says, cut.
        text: String,
    },
    /// It is for another suite.
    #[error("it is for the suite `{suite}` (`{codename}`), not for `{wanted}`")]
    Suite {
        /// What it says.
        suite: String,
        /// What it says.
        codename: String,
        /// What was asked for.
        wanted: String,
    },
    /// Its packages are not for automatic upgrades (backports, experimental).
    #[error("its packages are not meant to be installed automatically (`NotAutomatic: yes`)")]
    NotAutomatic,
    /// Older than what was accepted before.
    #[error("it went back in time: it is of {found}, and one of {accepted} was accepted before")]
    WentBack {
        /// Its date.
        found: Timestamp,
        /// The date of the last accepted one.
        accepted: Timestamp,
    },
    /// Its date has not come yet.
    #[error("its date {found} lies in the future of {now}")]
    Future {
        /// Its date.
        found: Timestamp,
        /// Now.
        now: Timestamp,
    },
    /// It holds no longer.
    #[error("it expired at {until}")]
    Expired {
        /// Its `Valid-Until`.
        until: Timestamp,
    },
    /// It lists more than `FILES_MAX` files.
    #[error("it lists more than {FILES_MAX} files")]
    TooManyFiles,
}

/// One file of a suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// SHA-256.
    pub digest: Digest,
    /// Length in bytes.
    pub bytes: u64,
}

/// What a `Release` says, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// `Suite`, such as `oldstable-security`; empty when missing.
    pub suite: String,
    /// `Codename`, such as `bookworm-security`; empty when missing.
    pub codename: String,
    /// `Date`.
    pub date: Timestamp,
    /// `Valid-Until`.
    pub valid_until: Option<Timestamp>,
    /// `Acquire-By-Hash: yes`.
    pub by_hash: bool,
    /// `NotAutomatic: yes`.
    pub not_automatic: bool,
    /// Packages of architecture `all` are in an index of their own only: `all` is among `Architectures`
    /// and `No-Support-for-Architecture-all` does not name `Packages`.
    pub separate_all: bool,
    /// Path below the suite → file, from the section `SHA256`.
    pub files: BTreeMap<String, Listed>,
}

/// Whether a `Release` past its `Valid-Until` is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expiry {
    /// It is: a mirror that stands still is noticed.
    #[default]
    Refuse,
    /// It is not: for archives of the past, such as snapshots.
    Accept,
}

impl Release {
    /// Reads the verified text of a `Release`.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`] naming the field.
    pub fn parse(text: &str) -> Result<Self, ReleaseError> {
        let mut fields = BTreeMap::new();
        let mut files = BTreeMap::new();
        let mut section = "";
        for line in text.lines() {
            if let Some(entry) = line.strip_prefix(' ') {
                if section == "SHA256" {
                    let (path, listed) = parse_entry(entry)
                        .ok_or_else(|| ReleaseError::Field { field: "SHA256", text: cut(entry) })?;
                    if files.len() >= FILES_MAX {
                        return Err(ReleaseError::TooManyFiles);
                    }
                    files.insert(path.to_owned(), listed);
                }
            } else if let Some((name, value)) = line.split_once(':') {
                section = name;
                fields.entry(name).or_insert_with(|| value.trim());
            }
        }
        if !fields.contains_key("SHA256") {
            return Err(ReleaseError::Missing { field: "SHA256" });
        }
        let yes = |field| fields.get(field).is_some_and(|value: &&str| value.eq_ignore_ascii_case("yes"));
        let date = |field: &'static str| {
            fields
                .get(field)
                .map(|text| parse_date(text).ok_or_else(|| ReleaseError::Field { field, text: cut(text) }))
                .transpose()
        };
        let text = |field| fields.get(field).map(|value| (*value).to_owned()).unwrap_or_default();
        let names = |field, name| {
            fields.get(field).is_some_and(|value: &&str| value.split_ascii_whitespace().any(|n| n == name))
        };
        Ok(Self {
            separate_all: names("Architectures", "all")
                && !names("No-Support-for-Architecture-all", "Packages"),
            suite: text("Suite"),
            codename: text("Codename"),
            date: date("Date")?.ok_or(ReleaseError::Missing { field: "Date" })?,
            valid_until: date("Valid-Until")?,
            by_hash: yes("Acquire-By-Hash"),
            not_automatic: yes("NotAutomatic"),
            files,
        })
    }

    /// Decides whether it may be used at `now` for the suite `wanted`, after one of `accepted` was.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`] of the first rule that it breaks.
    pub fn check(
        &self,
        wanted: &str,
        accepted: Option<Timestamp>,
        expiry: Expiry,
        now: Timestamp,
    ) -> Result<(), ReleaseError> {
        // Old security suites are called `buster/updates` and name themselves `buster`.
        let names = [wanted, wanted.split('/').next().unwrap_or(wanted)];
        if !names.contains(&self.suite.as_str()) && !names.contains(&self.codename.as_str()) {
            return Err(ReleaseError::Suite {
                suite: cut(&self.suite),
                codename: cut(&self.codename),
                wanted: wanted.to_owned(),
            });
        }
        if self.not_automatic {
            return Err(ReleaseError::NotAutomatic);
        }
        if let Some(accepted) = accepted.filter(|accepted| self.date < *accepted) {
            return Err(ReleaseError::WentBack { found: self.date, accepted });
        }
        if self.date.duration_since(now) > FUTURE_MAX {
            return Err(ReleaseError::Future { found: self.date, now });
        }
        if let Some(until) = self.valid_until.filter(|until| *until < now && expiry == Expiry::Refuse) {
            return Err(ReleaseError::Expired { until });
        }
        Ok(())
    }
}

/// The first 80 characters.
fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

/// `<sha256> <bytes> <path>`, separated by blanks. The path stays below the suite.
fn parse_entry(entry: &str) -> Option<(&str, Listed)> {
    let mut parts = entry.split_ascii_whitespace();
    let digest = parts.next()?.parse().ok()?;
    let bytes = parts.next()?.parse().ok()?;
    let path = parts.next()?;
    let below = !path.starts_with('/') && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    (parts.next().is_none() && below).then_some((path, Listed { digest, bytes }))
}

/// RFC 2822 dates, with the zone spelled `UTC` as Debian does.
fn parse_date(text: &str) -> Option<Timestamp> {
    let plain = ["UTC", "GMT", "Z"].iter().find_map(|zone| text.strip_suffix(zone));
    let text = plain.map_or_else(|| text.to_owned(), |rest| format!("{}+0000", rest));
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Origin: Debian\nSuite: oldstable-security\nCodename: bookworm-security\n\
        Date: Wed, 18 Nov 2026 22:17:41 UTC\nValid-Until: Wed, 25 Nov 2026 22:17:41 UTC\nAcquire-By-Hash: yes\n\
        MD5Sum:\n d41d8cd98f00b204e9800998ecf8427e 0 main/x\n\
        SHA256:\n e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855        0 main/binary-amd64/Packages\n";

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn the_fields_of_a_real_release_are_read() {
        let release = Release::parse(TEXT).unwrap();
        assert_eq!(release.date, at("2026-11-18T22:17:41Z"));
        assert_eq!(release.valid_until, Some(at("2026-11-25T22:17:41Z")));
        assert!(release.by_hash && !release.not_automatic);
        assert_eq!(release.files.len(), 1, "MD5Sum is not read");
        assert_eq!(release.files["main/binary-amd64/Packages"].digest, Digest::of(b""));
    }

    #[test]
    fn a_release_without_what_it_needs_is_refused_by_field() {
        for (from, to, field) in [
            ("Date: Wed, 18 Nov 2026 22:17:41 UTC\n", "", "Date"),
            ("Date: Wed, 18", "Date: Someday, 18", "Date"),
            ("SHA256:", "SHA1:", "SHA256"),
            ("Valid-Until: Wed, 25 Nov", "Valid-Until: 99 Nov", "Valid-Until"),
            ("main/binary-amd64", "../binary-amd64", "SHA256"),
            ("main/binary-amd64", "/etc", "SHA256"),
            ("e3b0c4", "e3b0c", "SHA256"),
        ] {
            let text = TEXT.replacen(from, to, 1);
            assert_ne!(text, TEXT, "{from}");
            let found = match Release::parse(&text) {
                Err(ReleaseError::Missing { field } | ReleaseError::Field { field, .. }) => field,
                other => panic!("{from}: {other:?}"),
            };
            assert_eq!(found, field);
        }
    }

    fn check(
        change: (&str, &str),
        wanted: &str,
        accepted: Option<&str>,
        expiry: Expiry,
        now: &str,
    ) -> Result<(), ReleaseError> {
        Release::parse(&TEXT.replace(change.0, change.1)).unwrap().check(
            wanted,
            accepted.map(at),
            expiry,
            at(now),
        )
    }

    #[test]
    fn a_release_is_accepted_under_its_suite_and_its_codename() {
        for wanted in ["oldstable-security", "bookworm-security"] {
            assert_eq!(check(("", ""), wanted, None, Expiry::Refuse, "2026-11-20T00:00:00Z"), Ok(()));
        }
        let older = check(
            ("bookworm-security", "buster"),
            "buster/updates",
            Some("2026-11-18T22:17:41Z"),
            Expiry::Refuse,
            "2026-11-20T00:00:00Z",
        );
        assert_eq!(older, Ok(()), "the same date again is not back in time");
    }

    #[test]
    fn a_release_that_breaks_a_rule_is_refused() {
        let now = "2026-11-20T00:00:00Z";
        let (same, suite) = (("", ""), "bookworm-security");
        assert!(matches!(
            check(same, "trixie-security", None, Expiry::Refuse, now),
            Err(ReleaseError::Suite { .. })
        ));
        assert!(matches!(
            check(same, suite, Some("2026-11-18T22:17:42Z"), Expiry::Refuse, now),
            Err(ReleaseError::WentBack { .. })
        ));
        assert!(matches!(
            check(same, suite, None, Expiry::Refuse, "2026-11-18T22:00:00Z"),
            Err(ReleaseError::Future { .. })
        ));
        assert!(matches!(
            check(same, suite, None, Expiry::Refuse, "2026-11-26T00:00:00Z"),
            Err(ReleaseError::Expired { .. })
        ));
        assert_eq!(check(same, suite, None, Expiry::Accept, "2026-11-26T00:00:00Z"), Ok(()));
        assert_eq!(
            check(("Origin: Debian", "NotAutomatic: yes"), suite, None, Expiry::Refuse, now),
            Err(ReleaseError::NotAutomatic)
        );
    }
}
