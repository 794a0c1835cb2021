//! rpm's ordering: `[epoch:]version[-release]`, each part by rpm's `rpmvercmp`.
//!
//! Source: `rpmio/rpmvercmp.c` and `rpmver.c` of rpm 4.15 and later, which know `~` (before everything,
//! the end included) and `^` (after the end, before everything else).

use std::cmp::Ordering;

use super::{VersionError, check_text, compare_digits, ordered_parts, owned};

const KIND: &str = "rpm";

owned! {
    /// An rpm version: epoch, version and release, in this order.
    ///
    /// A missing epoch is 0 and a missing release is empty, as in `rpmVersionCompare`. Separators other than
    /// `~` and `^` only separate: `1.0` and `1_0` are equal.
    RpmVersion, Parts
}

/// The three parts of an rpm version.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// Digits; `0` when not given.
    pub epoch: &'a str,
    /// Never empty.
    pub version: &'a str,
    /// Empty when not given.
    pub release: &'a str,
}

ordered_parts!(Parts);

impl<'a> Parts<'a> {
    /// Splits and checks `text`.
    ///
    /// # Errors
    ///
    /// [`VersionError`] when a part is missing or the epoch is not a number.
    pub fn parse(text: &'a str) -> Result<Self, VersionError> {
        check_text(KIND, text)?;
        let error = |reason| Err(VersionError::new(KIND, text, reason));
        let parts = Self::split(text);
        if parts.epoch.is_empty() || !parts.epoch.bytes().all(|b| b.is_ascii_digit()) {
            return error("its epoch is not a number");
        }
        if parts.version.is_empty() {
            return error("its version is empty");
        }
        if text.ends_with('-') {
            return error("its release is empty");
        }
        if parts.version.contains('-') || parts.version.contains(':') || parts.release.contains(':') {
            return error("it has more than an epoch, a version and a release");
        }
        Ok(parts)
    }

    /// Splits without checking.
    pub(super) fn split(text: &'a str) -> Self {
        let (epoch, rest) = text.split_once(':').unwrap_or(("0", text));
        let (version, release) = rest.rsplit_once('-').unwrap_or((rest, ""));
        Self { epoch, version, release }
    }
}

impl Ord for Parts<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        compare_digits(self.epoch, other.epoch)
            .then_with(|| rpmvercmp(self.version, other.version))
            .then_with(|| rpmvercmp(self.release, other.release))
    }
}

/// Compares two versions or two releases, as rpm's function of that name.
#[must_use]
pub fn rpmvercmp(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        let (x, y) = (next(&mut a), next(&mut b));
        match x.cmp(&y) {
            Ordering::Equal if matches!(x, Token::End) => return Ordering::Equal,
            Ordering::Equal => {}
            unequal => return unequal,
        }
    }
}

/// What `rpmvercmp` compares at one position, ascending.
#[derive(PartialEq, Eq)]
enum Token<'a> {
    Tilde,
    End,
    Caret,
    Letters(&'a [u8]),
    /// Without leading zeros.
    Digits(&'a [u8]),
}

impl Token<'_> {
    fn rank(&self) -> u8 {
        match self {
            Self::Tilde => 0,
            Self::End => 1,
            Self::Caret => 2,
            Self::Letters(_) => 3,
            Self::Digits(_) => 4,
        }
    }
}

impl Ord for Token<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Letters(a), Self::Letters(b)) => a.cmp(b),
            (Self::Digits(a), Self::Digits(b)) => a.len().cmp(&b.len()).then_with(|| a.cmp(b)),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Token<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Takes the next token off `rest`.
fn next<'a>(rest: &mut &'a [u8]) -> Token<'a> {
    let start =
        rest.iter().position(|b| b.is_ascii_alphanumeric() || b"~^".contains(b)).unwrap_or(rest.len());
    let text = &rest[start..];
    let run = |belongs: fn(&u8) -> bool| text.iter().position(|b| !belongs(b)).unwrap_or(text.len());
    let (token, length) = match text.first() {
        None => (Token::End, 0),
        Some(b'~') => (Token::Tilde, 1),
        Some(b'^') => (Token::Caret, 1),
        Some(b) if b.is_ascii_digit() => {
            let length = run(u8::is_ascii_digit);
            let zeros = text[..length].iter().position(|b| *b != b'0').unwrap_or(length);
            (Token::Digits(&text[zeros..length]), length)
        }
        Some(_) => {
            let length = run(u8::is_ascii_alphabetic);
            (Token::Letters(&text[..length]), length)
        }
    };
    *rest = &text[length..];
    token
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        rules::expr::Ordering as Kind,
        version::tests::{check, laws, refuse},
    };

    /// `tests/rpmvercmp.at` of rpm: two versions and what `rpmvercmp` returns for them.
    const VECTORS: &[(&str, &str, i8)] = &[
        ("1.0", "1.0", 0),
        ("1.0", "2.0", -1),
        ("2.0", "1.0", 1),
        ("2.0.1", "2.0.1", 0),
        ("2.0", "2.0.1", -1),
        ("2.0.1", "2.0", 1),
        ("2.0.1a", "2.0.1a", 0),
        ("2.0.1a", "2.0.1", 1),
        ("2.0.1", "2.0.1a", -1),
        ("5.5p1", "5.5p1", 0),
        ("5.5p1", "5.5p2", -1),
        ("5.5p2", "5.5p1", 1),
        ("5.5p10", "5.5p10", 0),
        ("5.5p1", "5.5p10", -1),
        ("5.5p10", "5.5p1", 1),
        ("10xyz", "10.1xyz", -1),
        ("10.1xyz", "10xyz", 1),
        ("xyz10", "xyz10", 0),
        ("xyz10", "xyz10.1", -1),
        ("xyz10.1", "xyz10", 1),
        ("xyz.4", "xyz.4", 0),
        ("xyz.4", "8", -1),
        ("8", "xyz.4", 1),
        ("xyz.4", "2", -1),
        ("2", "xyz.4", 1),
        ("5.5p2", "5.6p1", -1),
        ("5.6p1", "5.5p2", 1),
        ("5.6p1", "6.5p1", -1),
        ("6.5p1", "5.6p1", 1),
        ("6.0.rc1", "6.0", 1),
        ("6.0", "6.0.rc1", -1),
        ("10b2", "10a1", 1),
        ("10a2", "10b2", -1),
        ("1.0aa", "1.0aa", 0),
        ("1.0a", "1.0aa", -1),
        ("1.0aa", "1.0a", 1),
        ("10.0001", "10.0001", 0),
        ("10.0001", "10.1", 0),
        ("10.1", "10.0001", 0),
        ("10.0001", "10.0039", -1),
        ("10.0039", "10.0001", 1),
        ("4.999.9", "5.0", -1),
        ("5.0", "4.999.9", 1),
        ("20101121", "20101121", 0),
        ("20101121", "20101122", -1),
        ("20101122", "20101121", 1),
        ("2_0", "2_0", 0),
        ("2.0", "2_0", 0),
        ("2_0", "2.0", 0),
        ("a", "a", 0),
        ("a+", "a+", 0),
        ("a+", "a_", 0),
        ("a_", "a+", 0),
        ("+a", "+a", 0),
        ("+a", "_a", 0),
        ("_a", "+a", 0),
        ("+_", "+_", 0),
        ("_+", "+_", 0),
        ("_+", "_+", 0),
        ("+", "_", 0),
        ("_", "+", 0),
        ("1.0~rc1", "1.0~rc1", 0),
        ("1.0~rc1", "1.0", -1),
        ("1.0", "1.0~rc1", 1),
        ("1.0~rc1", "1.0~rc2", -1),
        ("1.0~rc2", "1.0~rc1", 1),
        ("1.0~rc1~git123", "1.0~rc1~git123", 0),
        ("1.0~rc1~git123", "1.0~rc1", -1),
        ("1.0~rc1", "1.0~rc1~git123", 1),
        ("1.0^", "1.0^", 0),
        ("1.0^", "1.0", 1),
        ("1.0", "1.0^", -1),
        ("1.0^git1", "1.0^git1", 0),
        ("1.0^git1", "1.0", 1),
        ("1.0", "1.0^git1", -1),
        ("1.0^git1", "1.0^git2", -1),
        ("1.0^git2", "1.0^git1", 1),
        ("1.0^git1", "1.01", -1),
        ("1.01", "1.0^git1", 1),
        ("1.0^20160101", "1.0^20160101", 0),
        ("1.0^20160101", "1.0.1", -1),
        ("1.0.1", "1.0^20160101", 1),
        ("1.0^20160101^git1", "1.0^20160101^git1", 0),
        ("1.0^20160102", "1.0^20160101^git1", 1),
        ("1.0^20160101^git1", "1.0^20160102", -1),
        ("1.0~rc1^git1", "1.0~rc1^git1", 0),
        ("1.0~rc1^git1", "1.0~rc1", 1),
        ("1.0~rc1", "1.0~rc1^git1", -1),
        ("1.0^git1~pre", "1.0^git1~pre", 0),
        ("1.0^git1", "1.0^git1~pre", 1),
        ("1.0^git1~pre", "1.0^git1", -1),
        ("1b.fc17", "1b.fc17", 0),
        ("1b.fc17", "1.fc17", -1),
        ("1.fc17", "1b.fc17", 1),
        ("1g.fc17", "1g.fc17", 0),
        ("1g.fc17", "1.fc17", 1),
        ("1.fc17", "1g.fc17", -1),
        ("1.1.α", "1.1.α", 0),
        ("1.1.α", "1.1.β", 0),
        ("1.1.β", "1.1.α", 0),
        ("1.1.αα", "1.1.α", 0),
        ("1.1.α", "1.1.ββ", 0),
        ("1.1.ββ", "1.1.αα", 0),
    ];

    #[test]
    fn the_vectors_of_rpm_hold() {
        for (a, b, expected) in VECTORS {
            assert_eq!(rpmvercmp(a, b) as i8, *expected, "{a} against {b}");
        }
    }

    #[test]
    fn epoch_goes_before_version_and_version_before_release() {
        check(
            Kind::Rpm,
            &[
                ("2.0-1", "1:1.0-1"),
                ("1:2.0-1", "1:2.0-2"),
                ("1.0-9", "1.1-1"),
                ("1.0", "1.0-1"),
                ("1.0-1.el8", "1.0-1.el9"),
                ("4.18.0-553.el8_10", "4.18.0-553.5.1.el8_10"),
                ("9:1", "10:1"),
            ],
            &[("1.0-1", "0:1.0-1"), ("1.0-1", "1.00-01"), ("00:1", "1")],
        );
    }

    #[test]
    fn a_text_that_is_no_rpm_version_is_refused_with_the_reason() {
        refuse(
            Kind::Rpm,
            &[
                ("a:1", "its epoch is not a number"),
                (":1", "its epoch is not a number"),
                ("-1", "its version is empty"),
                ("1:", "its version is empty"),
                ("1-", "its release is empty"),
                ("1-2-3", "more than an epoch, a version and a release"),
                ("1:2:3", "more than an epoch, a version and a release"),
            ],
        );
    }

    /// Asks the installed rpm, in one run, for the order of all pairs; `None` where there is none.
    #[expect(clippy::disallowed_methods, reason = "a test asks the program that defines the order")]
    fn rpm(pairs: &[(String, String)]) -> Option<Vec<i8>> {
        if !Path::new("/usr/bin/rpm").exists() {
            return None;
        }
        let calls: Vec<_> =
            pairs.iter().map(|(a, b)| format!("print(rpm.vercmp('{a}','{b}')..'\\n')")).collect();
        let output = std::process::Command::new("/usr/bin/rpm")
            .args(["--eval", &format!("%{{lua:{}}}", calls.join(" "))])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        Some(text.split_whitespace().map(|line| line.parse().unwrap()).collect())
    }

    #[test]
    fn the_installed_rpm_agrees() {
        let pieces = ["1", "2", "10", "01", "a", "b", ".", "~", "^", "rc1", "el9", "_"];
        let mut pairs = Vec::new();
        for (i, a) in pieces.iter().enumerate() {
            for (j, b) in pieces.iter().enumerate() {
                pairs.push((
                    format!("1{a}{b}"),
                    format!("1{}{}", pieces[(i * 5 + j) % 12], pieces[(j * 7 + i) % 12]),
                ));
                pairs.push((format!("{}:1{a}-1{b}", i % 2), format!("{}:1{b}-1{a}", j % 2)));
            }
        }
        let Some(answers) = rpm(&pairs) else {
            println!("skipped: no rpm here");
            return;
        };
        assert_eq!(answers.len(), pairs.len());
        for ((a, b), answer) in pairs.iter().zip(answers) {
            assert_eq!(Parts::split(a).cmp(&Parts::split(b)) as i8, answer, "{a} against {b}");
        }
    }

    proptest! {
        #[test]
        fn rpm_versions_are_totally_ordered(
            texts in prop::array::uniform3("([0-1]:)?[0-2a][0-1aB~^._]{0,6}(-[0-1a~^.]{1,3})?")
        ) {
            let [a, b, c] = texts.map(|text| text.parse::<RpmVersion>().unwrap());
            laws(&a, &b, &c);
        }

        #[test]
        fn any_two_texts_compare_without_a_panic(a in ".{0,30}", b in "[~^0-9a-z.]{0,12}") {
            prop_assert_eq!(rpmvercmp(&a, &b), rpmvercmp(&b, &a).reverse());
            let _ = a.parse::<RpmVersion>().is_ok();
        }
    }
}
