//! Debian's ordering: `[epoch:]upstream[-revision]`, Debian Policy 5.6.12.
//!
//! Where Policy and dpkg differ in what they accept, this follows dpkg: an upstream version need not
//! start with a digit, and may have colons when an epoch is given.

use std::cmp::Ordering;

use super::{VersionError, check_text, ordered_parts, owned};

const KIND: &str = "deb";

owned! {
    /// A Debian version.
    ///
    /// Total order of Debian Policy 5.6.12: the epoch as a number, then upstream version and revision by
    /// alternating non-digit and digit runs, where `~` sorts before everything, the end included, letters
    /// before all other characters, and digit runs compare as numbers. A missing epoch is 0, a missing
    /// revision equals `0`.
    DebVersion, Parts
}

/// The three parts of a Debian version.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// 0 when not given.
    pub epoch: u32,
    /// Never empty.
    pub upstream: &'a str,
    /// Empty when not given.
    pub revision: &'a str,
}

ordered_parts!(Parts);

impl<'a> Parts<'a> {
    /// Splits and checks `text`.
    ///
    /// # Errors
    ///
    /// [`VersionError`] when a part is missing, too big, or has a character it may not have.
    pub fn parse(text: &'a str) -> Result<Self, VersionError> {
        check_text(KIND, text)?;
        let error = |reason| Err(VersionError::new(KIND, text, reason));
        let rest = match text.split_once(':') {
            Some((epoch, rest)) => {
                if epoch.is_empty() || !epoch.bytes().all(|b| b.is_ascii_digit()) {
                    return error("its epoch is not a number");
                }
                // dpkg keeps the epoch in an `int`.
                if epoch.parse::<i32>().is_err() {
                    return error("its epoch is too big");
                }
                rest
            }
            None => text,
        };
        let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, "0"));
        if upstream.is_empty() {
            return error("its upstream version is empty");
        }
        if revision.is_empty() {
            return error("its revision is empty");
        }
        if !upstream.bytes().all(|b| b.is_ascii_alphanumeric() || b".+-~:".contains(&b)) {
            return error("its upstream version has a character other than letters, digits and `.+-~:`");
        }
        if !revision.bytes().all(|b| b.is_ascii_alphanumeric() || b".+~".contains(&b)) {
            return error("its revision has a character other than letters, digits and `.+~`");
        }
        Ok(Self::split(text))
    }

    /// Splits without checking; on an unchecked text the parts may be nonsense, but it never fails.
    pub(super) fn split(text: &'a str) -> Self {
        let (epoch, rest) = match text.split_once(':') {
            Some((epoch, rest)) => (epoch.parse().unwrap_or(u32::MAX), rest),
            None => (0, text),
        };
        let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
        Self { epoch, upstream, revision }
    }
}

impl Ord for Parts<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.epoch
            .cmp(&other.epoch)
            .then_with(|| compare_part(self.upstream.as_bytes(), other.upstream.as_bytes()))
            .then_with(|| compare_part(self.revision.as_bytes(), other.revision.as_bytes()))
    }
}

/// Compares two texts in Debian's order without checking or allocating: for versions that were checked
/// before, where a scan spends its time.
///
/// Of texts that are no Debian versions the result is some order, never a panic.
#[must_use]
pub fn compare_unchecked(a: &str, b: &str) -> Ordering {
    Parts::split(a).cmp(&Parts::split(b))
}

/// dpkg's `verrevcmp`: upstream versions or revisions by alternating non-digit and digit runs.
fn compare_part(mut a: &[u8], mut b: &[u8]) -> Ordering {
    while !a.is_empty() || !b.is_empty() {
        loop {
            let (x, y) = (a.first().copied(), b.first().copied());
            if ends_run(x) && ends_run(y) {
                break;
            }
            match weight(x).cmp(&weight(y)) {
                Ordering::Equal => {}
                unequal => return unequal,
            }
            // Equal weights that do not both end the run are the same character.
            (a, b) = (&a[1..], &b[1..]);
        }
        a = skip_zeros(a);
        b = skip_zeros(b);
        let mut difference = Ordering::Equal;
        loop {
            match (a.first(), b.first()) {
                (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                    difference = difference.then(x.cmp(y));
                    (a, b) = (&a[1..], &b[1..]);
                }
                (Some(x), _) if x.is_ascii_digit() => return Ordering::Greater,
                (_, Some(y)) if y.is_ascii_digit() => return Ordering::Less,
                _ => break,
            }
        }
        if difference.is_ne() {
            return difference;
        }
    }
    Ordering::Equal
}

/// Whether a non-digit run is over: at a digit or at the end.
fn ends_run(byte: Option<u8>) -> bool {
    byte.is_none_or(|b| b.is_ascii_digit())
}

/// The place of a character in a non-digit run: `~`, the end, letters, all others.
fn weight(byte: Option<u8>) -> i32 {
    match byte {
        None => 0,
        Some(b'~') => -1,
        Some(b) if b.is_ascii_digit() => 0,
        Some(b) if b.is_ascii_alphabetic() => i32::from(b),
        Some(b) => i32::from(b) + 256,
    }
}

fn skip_zeros(mut bytes: &[u8]) -> &[u8] {
    while let [b'0', rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use proptest::prelude::*;

    use super::*;
    use crate::{
        rules::expr::Ordering as Kind,
        version::tests::{check, laws, refuse},
    };

    /// `(smaller, greater)`; from Policy's own examples and the archive.
    const LESS: &[(&str, &str)] = &[
        ("1.0~~", "1.0~~a"),
        ("1.0~~a", "1.0~"),
        ("1.0~", "1.0"),
        ("1.0", "1.0a"),
        ("1.0a", "1.0+"),
        ("1.0~rc1-1", "1.0-1"),
        ("1.0~beta1~svn1245", "1.0~beta1"),
        ("1.9", "1.10"),
        ("9", "1:0"),
        ("1:1", "2:0"),
        ("1.0-1", "1.0-2"),
        ("1.0-1", "1.0-1+b1"),
        ("1.0-1~bpo12+1", "1.0-1"),
        ("3.0.16-1~deb12u1", "3.0.17-1~deb12u2"),
        ("3.0.17-1~deb12u2", "3.0.17-1~deb12u3"),
        ("3.0.17-1~deb12u9", "3.0.17-1~deb12u10"),
        ("2.36-9+deb12u13", "2.36-10"),
        ("1.0.A", "1.0.a"),
        ("1.a", "a"),
        ("1.2", "1.2.0"),
        ("0:0-0-0", "0:0-0-0+x"),
        ("1", "1-1"),
        ("99999999999999999998", "99999999999999999999"),
        ("1:10:1", "1:10:2"),
    ];

    #[test]
    fn versions_compare_as_policy_says() {
        check(
            Kind::Deb,
            LESS,
            &[("1.0", "1.00"), ("1.0", "0:1.0"), ("1.0", "1.0-0"), ("1.0-01", "1.0-1"), ("0", "00")],
        );
    }

    #[test]
    fn a_text_that_dpkg_refuses_is_refused_with_the_reason() {
        refuse(
            Kind::Deb,
            &[
                (":1", "its epoch is not a number"),
                ("a:1", "its epoch is not a number"),
                ("-1:1", "its epoch is not a number"),
                ("2147483648:1", "its epoch is too big"),
                ("1:", "its upstream version is empty"),
                ("-1", "its upstream version is empty"),
                ("1-", "its revision is empty"),
                ("1_0", "its upstream version has a character"),
                ("1-1_0", "its revision has a character"),
                ("1-1:0", "its epoch is not a number"),
            ],
        );
    }

    /// What dpkg says of two versions; `None` where there is no dpkg.
    #[expect(clippy::disallowed_methods, reason = "a test asks the program that defines the order")]
    fn dpkg(a: &str, b: &str) -> Option<Ordering> {
        let ask = |relation: &str| {
            std::process::Command::new("/usr/bin/dpkg")
                .args(["--compare-versions", a, relation, b])
                .stderr(std::process::Stdio::null())
                .status()
                .unwrap()
                .success()
        };
        Path::new("/usr/bin/dpkg").exists().then(|| {
            if ask("lt") {
                Ordering::Less
            } else if ask("eq") {
                Ordering::Equal
            } else {
                Ordering::Greater
            }
        })
    }

    /// Texts that look like versions, from a fixed sequence of numbers.
    fn generated(count: usize) -> Vec<String> {
        const PIECES: &[&str] = &[
            "0", "1", "2", "10", "01", "9", ".", ".", "+", "~", "-", "a", "b", "Z", "rc", "deb12u", "~~",
            "+b",
        ];
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut next = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % (below as u64)).unwrap()
        };
        let mut found = Vec::new();
        while found.len() < count {
            let mut text = String::new();
            if next(4) == 0 {
                text.push_str(["0:", "1:", "2:"][next(3)]);
            }
            text.push_str(["1", "1.0", "2.4", "0"][next(4)]);
            for _ in 0..next(5) {
                text.push_str(PIECES[next(PIECES.len())]);
            }
            if text.parse::<DebVersion>().is_ok() {
                found.push(text);
            }
        }
        found
    }

    #[test]
    fn dpkg_agrees_on_generated_and_installed_versions() {
        if dpkg("1", "2").is_none() {
            assert!(std::env::var_os("TIERWAY_REQUIRE").is_none(), "dpkg is required");
            println!("skipped: no dpkg here");
            return;
        }
        let mut pairs: Vec<(String, String)> = LESS.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect();
        let made = generated(400);
        pairs.extend(made.chunks(2).map(|two| (two[0].clone(), two[1].clone())));
        let status = std::fs::read_to_string("/var/lib/dpkg/status").unwrap_or_default();
        let real: BTreeSet<&str> = status.lines().filter_map(|line| line.strip_prefix("Version: ")).collect();
        for version in &real {
            assert!(version.parse::<DebVersion>().is_ok(), "{version}");
        }
        let real: Vec<_> = real.into_iter().collect();
        let step = (real.len() / 100).max(1);
        pairs.extend(real.windows(2).step_by(step).map(|two| (two[0].to_owned(), two[1].to_owned())));
        let mut equal = 0;
        for (a, b) in &pairs {
            let ours = compare_unchecked(a, b);
            assert_eq!(Some(ours), dpkg(a, b), "{a} against {b}");
            equal += usize::from(ours.is_eq());
        }
        println!("{} pairs, {equal} of them equal", pairs.len());
        assert!(pairs.len() > 200 && equal > 3);
    }

    proptest! {
        #[test]
        fn debian_versions_are_totally_ordered(
            texts in prop::array::uniform3("([0-2]:)?[0-2][0-2a-bA~+.]{0,6}(-[0-1a~+.]{1,3})?")
        ) {
            let [a, b, c] = texts.each_ref().map(|text| text.parse::<DebVersion>().unwrap());
            laws(&a, &b, &c);
            prop_assert_eq!(compare_unchecked(&texts[0], &texts[1]), a.cmp(&b));
        }

        #[test]
        fn any_text_is_read_or_refused_without_a_panic(a in ".{0,40}", b in "[-:~0-9a.]{0,12}") {
            let _ = (a.parse::<DebVersion>().is_ok(), compare_unchecked(&a, &b), compare_unchecked(&b, &a));
        }
    }
}
