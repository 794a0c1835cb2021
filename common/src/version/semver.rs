//! Semantic Versioning 2.0.0: `major.minor.patch[-pre][+build]`, precedence of its clause 11.
//!
//! Numbers may have any size. Build metadata is read and plays no part in the order (clause 10), so
//! `1.0.0+a` equals `1.0.0+b`.

use std::cmp::Ordering;

use super::{VersionError, check_text, compare_digits, ordered_parts, owned};

const KIND: &str = "semver";

owned! {
    /// A semantic version.
    ///
    /// Order: the three numbers; then a version with a pre-release part before the one without; then the
    /// dotted identifiers of the pre-release part from the left, numeric ones as numbers and before all others,
    /// the others as ASCII, fewer before more.
    SemverVersion, Parts
}

/// What takes part in the order.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// Major, minor, patch: decimal digits.
    pub core: [&'a str; 3],
    /// Dotted identifiers, empty when there are none.
    pub pre: &'a str,
}

ordered_parts!(Parts);

impl<'a> Parts<'a> {
    /// Splits and checks `text`.
    ///
    /// # Errors
    ///
    /// [`VersionError`] for what the grammar of Semantic Versioning 2.0.0 does not have.
    pub fn parse(text: &'a str) -> Result<Self, VersionError> {
        check_text(KIND, text)?;
        let error = |reason| Err(VersionError::new(KIND, text, reason));
        let (rest, build) = split_optional(text, '+');
        let (core, pre) = split_optional(rest, '-');
        if core.split('.').count() != 3 || !core.split('.').all(is_number) {
            return error("it does not start with three dotted numbers without leading zeros");
        }
        let is_word =
            |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if build.is_some_and(|build| !build.split('.').all(is_word)) {
            return error("its build part is not made of dotted words");
        }
        if pre.is_some_and(|pre| !pre.split('.').all(is_word)) {
            return error("its pre-release part is not made of dotted words");
        }
        let is_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if pre.is_some_and(|pre| pre.split('.').any(|part| is_digits(part) && !is_number(part))) {
            return error("a number in its pre-release part has leading zeros");
        }
        Ok(Self::split(text))
    }

    /// Splits without checking.
    pub(super) fn split(text: &'a str) -> Self {
        let (rest, _) = split_optional(text, '+');
        let (core, pre) = split_optional(rest, '-');
        let mut numbers = core.split('.');
        Self { core: [(); 3].map(|()| numbers.next().unwrap_or("0")), pre: pre.unwrap_or("") }
    }
}

fn split_optional(text: &str, at: char) -> (&str, Option<&str>) {
    text.split_once(at).map_or((text, None), |(before, after)| (before, Some(after)))
}

/// Digits without leading zeros.
fn is_number(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) && (part == "0" || !part.starts_with('0'))
}

impl Ord for Parts<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        for (a, b) in self.core.iter().zip(other.core) {
            match compare_digits(a, b) {
                Ordering::Equal => {}
                unequal => return unequal,
            }
        }
        match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => return Ordering::Equal,
            (true, false) => return Ordering::Greater,
            (false, true) => return Ordering::Less,
            (false, false) => {}
        }
        let (mut a, mut b) = (self.pre.split('.'), other.pre.split('.'));
        loop {
            let order = match (a.next(), b.next()) {
                (None, None) => return Ordering::Equal,
                (None, Some(_)) => Ordering::Less,
                (Some(_), None) => Ordering::Greater,
                (Some(a), Some(b)) => match (is_number(a), is_number(b)) {
                    (true, true) => compare_digits(a, b),
                    (true, false) => Ordering::Less,
                    (false, true) => Ordering::Greater,
                    (false, false) => a.cmp(b),
                },
            };
            if order.is_ne() {
                return order;
            }
        }
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
    fn precedence_is_that_of_the_specification() {
        // Clause 11's own chains.
        let chain = [
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0-rc.1",
            "1.0.0",
            "2.0.0",
            "2.1.0",
            "2.1.1",
        ];
        let mut less: Vec<_> = chain.windows(2).map(|two| (two[0], two[1])).collect();
        less.extend([
            ("1.9.0", "1.10.0"),
            ("1.0.0-1", "1.0.0-a"),
            ("1.0.0-A", "1.0.0-a"),
            ("1.0.0-99999999999999999998", "1.0.0-99999999999999999999"),
        ]);
        check(
            Kind::Semver,
            &less,
            &[("1.0.0+a", "1.0.0+b"), ("1.0.0-x+1", "1.0.0-x"), ("1.0.0", "1.0.0+0-0")],
        );
    }

    #[test]
    fn a_text_outside_the_grammar_is_refused_with_the_reason() {
        refuse(
            Kind::Semver,
            &[
                ("1.0", "three dotted numbers"),
                ("1.0.0.0", "three dotted numbers"),
                ("01.0.0", "three dotted numbers"),
                ("v1.0.0", "three dotted numbers"),
                ("1.0.0-", "its pre-release part"),
                ("1.0.0-a..b", "its pre-release part"),
                ("1.0.0-a_b", "its pre-release part"),
                ("1.0.0-01", "leading zeros"),
                ("1.0.0+", "its build part"),
                ("1.0.0+a+b", "its build part"),
            ],
        );
        assert!("1.0.0-0a".parse::<SemverVersion>().is_ok());
        assert!("1.0.0+01".parse::<SemverVersion>().is_ok());
    }

    proptest! {
        #[test]
        fn semantic_versions_are_totally_ordered(
            texts in prop::array::uniform3("[0-1]\\.[0-1]\\.[0-1](-[1ab]{1,2}(\\.[1ab]{1,2}){0,2})?(\\+[01a])?")
        ) {
            let [a, b, c] = texts.map(|text| text.parse::<SemverVersion>().unwrap());
            laws(&a, &b, &c);
        }

        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in ".{0,40}") {
            let _ = text.parse::<SemverVersion>().is_ok();
        }
    }
}
