//! Orderings of versions, one file each.
//!
//! A version is checked once, when it is parsed; what is parsed has a total order. Two versions are
//! equal when their ordering holds them equal, whatever their texts (`1.0` and `1.00` in Debian's).
//! Each file has the owned type and its borrowed `Parts`, which cost no allocation.

use std::cmp;

use crate::rules::expr::Ordering;

pub mod deb;
pub mod rpm;
pub mod semver;
pub mod windows;

/// Longest version in bytes: the longest in Debian's archive has about 60, and a comparison must stay
/// cheap on hostile input.
pub const VERSION_BYTES_MAX: usize = 256;

/// A text that is not a version of the ordering it was read in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind} version: {reason}")]
pub struct VersionError {
    kind: &'static str,
    text: String,
    reason: &'static str,
}

impl VersionError {
    /// Cuts a hostile text so that the message stays readable.
    fn new(kind: &'static str, text: &str, reason: &'static str) -> Self {
        Self { kind, text: text.chars().take(80).collect(), reason }
    }
}

/// The checks that all orderings share: not empty, not too long, no blanks and nothing unprintable.
fn check_text(kind: &'static str, text: &str) -> Result<(), VersionError> {
    let error = |reason| Err(VersionError::new(kind, text, reason));
    if text.is_empty() {
        return error("it is empty");
    }
    if text.len() > VERSION_BYTES_MAX {
        return error("it is longer than 256 bytes");
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return error("only printable ASCII without blanks is allowed");
    }
    Ok(())
}

/// Orders texts of decimal digits by the number they stand for, whatever its size.
fn compare_digits(a: &str, b: &str) -> cmp::Ordering {
    let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

/// The owned form of a version: its text, ordered by its parts.
macro_rules! owned {
    ($(#[$doc:meta])* $name:ident, $parts:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// As it was written.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// What the ordering compares.
            #[must_use]
            pub fn parts(&self) -> $parts<'_> {
                $parts::split(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::version::VersionError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $parts::parse(text)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = $crate::version::VersionError;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(version: $name) -> Self {
                version.0.into()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Ord for $name {
            fn cmp(&self, other: &Self) -> std::cmp::Ordering {
                self.parts().cmp(&other.parts())
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.cmp(other).is_eq()
            }
        }

        impl Eq for $name {}
    };
}
use owned;

/// Equality and partial order of parts, both from their `Ord`.
macro_rules! ordered_parts {
    ($parts:ident) => {
        impl PartialOrd for $parts<'_> {
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }

        impl PartialEq for $parts<'_> {
            fn eq(&self, other: &Self) -> bool {
                self.cmp(other).is_eq()
            }
        }

        impl Eq for $parts<'_> {}
    };
}
use ordered_parts;

/// A checked version in one of the orderings, borrowed from its text.
#[derive(Clone, Copy, Debug)]
pub enum Version<'a> {
    /// Debian's.
    Deb(deb::Parts<'a>),
    /// rpm's.
    Rpm(rpm::Parts<'a>),
    /// Windows's.
    Windows(windows::WindowsVersion),
    /// Semantic Versioning's.
    Semver(semver::Parts<'a>),
}

impl<'a> Version<'a> {
    /// Reads `text` in `ordering`, without allocation.
    ///
    /// # Errors
    ///
    /// [`VersionError`] names the text and what is wrong with it.
    pub fn parse(ordering: Ordering, text: &'a str) -> Result<Self, VersionError> {
        Ok(match ordering {
            Ordering::Deb => Self::Deb(deb::Parts::parse(text)?),
            Ordering::Rpm => Self::Rpm(rpm::Parts::parse(text)?),
            Ordering::Windows => Self::Windows(text.parse()?),
            Ordering::Semver => Self::Semver(semver::Parts::parse(text)?),
        })
    }

    /// How the two compare; `None` for versions of different orderings.
    #[must_use]
    pub fn compare(&self, other: &Version<'_>) -> Option<cmp::Ordering> {
        match (self, other) {
            (Self::Deb(a), Version::Deb(b)) => Some(a.cmp(b)),
            (Self::Rpm(a), Version::Rpm(b)) => Some(a.cmp(b)),
            (Self::Windows(a), Version::Windows(b)) => Some(a.cmp(b)),
            (Self::Semver(a), Version::Semver(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }
}

/// Compares two texts as versions of `ordering`, without allocation.
///
/// # Errors
///
/// [`VersionError`] names the first of the two that is not a version.
pub fn compare(ordering: Ordering, a: &str, b: &str) -> Result<cmp::Ordering, VersionError> {
    match ordering {
        Ordering::Deb => Ok(deb::Parts::parse(a)?.cmp(&deb::Parts::parse(b)?)),
        Ordering::Rpm => Ok(rpm::Parts::parse(a)?.cmp(&rpm::Parts::parse(b)?)),
        Ordering::Windows => {
            Ok(a.parse::<windows::WindowsVersion>()?.cmp(&b.parse::<windows::WindowsVersion>()?))
        }
        Ordering::Semver => Ok(semver::Parts::parse(a)?.cmp(&semver::Parts::parse(b)?)),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The laws of a total order, on three values.
    pub(crate) fn laws<T: Ord + Clone + std::fmt::Debug>(a: &T, b: &T, c: &T) {
        assert_eq!(a.cmp(b), b.cmp(a).reverse(), "antisymmetry of {a:?}, {b:?}");
        assert_eq!(a == b, a.cmp(b).is_eq(), "equality of {a:?}, {b:?}");
        assert!(a.cmp(a).is_eq(), "reflexivity of {a:?}");
        let mut sorted = [a.clone(), b.clone(), c.clone()];
        sorted.sort();
        let [low, middle, high] = &sorted;
        assert!(low <= middle && middle <= high && low <= high, "transitivity of {sorted:?}");
        if low == high {
            assert!(low == middle, "equal ends around {middle:?} in {sorted:?}");
        }
    }

    /// Checks rows `smaller, greater` and pairs that are equal.
    pub(crate) fn check(ordering: Ordering, less: &[(&str, &str)], equal: &[(&str, &str)]) {
        for (a, b) in less {
            assert_eq!(compare(ordering, a, b), Ok(cmp::Ordering::Less), "{a} < {b}");
            assert_eq!(compare(ordering, b, a), Ok(cmp::Ordering::Greater), "{b} > {a}");
        }
        for (a, b) in equal {
            assert_eq!(compare(ordering, a, b), Ok(cmp::Ordering::Equal), "{a} = {b}");
            assert_eq!(compare(ordering, b, a), Ok(cmp::Ordering::Equal), "{b} = {a}");
        }
    }

    /// Checks that each text is refused with a message that has the wanted words.
    pub(crate) fn refuse(ordering: Ordering, cases: &[(&str, &str)]) {
        for (text, words) in cases {
            let error = Version::parse(ordering, text).unwrap_err().to_string();
            assert!(error.contains(words), "`{text}`: {error}");
        }
    }

    #[test]
    fn a_version_that_is_too_long_or_unprintable_is_refused_in_every_ordering() {
        let long = "1".repeat(VERSION_BYTES_MAX + 1);
        for ordering in [Ordering::Deb, Ordering::Rpm, Ordering::Windows, Ordering::Semver] {
            refuse(
                ordering,
                &[
                    ("", "it is empty"),
                    (&long, "it is longer than 256 bytes"),
                    ("1.0 ", "only printable ASCII"),
                    ("1.0\n", "only printable ASCII"),
                    ("1.é", "only printable ASCII"),
                ],
            );
        }
    }

    #[test]
    fn versions_of_different_orderings_do_not_compare() {
        let deb = Version::parse(Ordering::Deb, "1.0.0").unwrap();
        let rpm = Version::parse(Ordering::Rpm, "1.0.0").unwrap();
        assert_eq!(deb.compare(&rpm), None);
        assert_eq!(deb.compare(&deb), Some(cmp::Ordering::Equal));
    }
}
