//! Windows's ordering: up to four dotted numbers, as in `VS_FIXEDFILEINFO` and `System.Version`.
//!
//! A number that is not given counts as 0, so `10.0` equals `10.0.0.0`. Numbers go to 2^32 - 1: the
//! fields of a file's version have 16 bits, those of a product's display version are free text.

use std::{fmt, str::FromStr};

use super::{VersionError, check_text};

const KIND: &str = "Windows";

/// One to four numbers, compared from the left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WindowsVersion([u32; 4]);

impl WindowsVersion {
    /// Major, minor, build, revision.
    #[must_use]
    pub fn numbers(&self) -> [u32; 4] {
        self.0
    }
}

impl FromStr for WindowsVersion {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        check_text(KIND, text)?;
        let error = |reason| VersionError::new(KIND, text, reason);
        let mut numbers = [0; 4];
        for (place, part) in text.split('.').enumerate() {
            let number = numbers.get_mut(place).ok_or_else(|| error("it has more than four numbers"))?;
            if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
                return Err(error("it is not made of dotted decimal numbers"));
            }
            *number = part.parse().map_err(|_| error("one of its numbers is above 4294967295"))?;
        }
        Ok(Self(numbers))
    }
}

impl fmt::Display for WindowsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, build, revision] = self.0;
        write!(f, "{major}.{minor}.{build}.{revision}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        rules::expr::Ordering as Kind,
        version::tests::{check, laws, refuse},
    };

    #[test]
    fn numbers_compare_from_the_left() {
        check(
            Kind::Windows,
            &[
                ("10.0.22621.2361", "10.0.22621.2428"),
                ("6.3", "10.0"),
                ("9.10", "10.9"),
                ("1.2.3", "1.2.3.1"),
                ("12", "12.1"),
                ("0", "4294967295"),
            ],
            &[("10", "10.0.0.0"), ("1.02", "1.2"), ("0", "0.0.0.0")],
        );
    }

    #[test]
    fn a_text_that_is_not_dotted_numbers_is_refused_with_the_reason() {
        refuse(
            Kind::Windows,
            &[
                ("1.2.3.4.5", "more than four numbers"),
                ("1..2", "dotted decimal numbers"),
                ("1.", "dotted decimal numbers"),
                ("+1", "dotted decimal numbers"),
                ("1.2a", "dotted decimal numbers"),
                ("4294967296", "above 4294967295"),
            ],
        );
    }

    proptest! {
        #[test]
        fn windows_versions_are_totally_ordered(texts in prop::array::uniform3("[0-2]{1,2}(\\.[0-2]{1,2}){0,3}")) {
            let [a, b, c] = texts.map(|text| text.parse::<WindowsVersion>().unwrap());
            laws(&a, &b, &c);
            prop_assert_eq!(a.to_string().parse::<WindowsVersion>().unwrap(), a);
        }

        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in ".{0,40}") {
            let _ = text.parse::<WindowsVersion>().is_ok();
        }
    }
}
