//! Which target paths a delegation covers.

use ring::digest::{SHA256, digest};

/// Whether the shell pattern covers `path` (TUF 1.0, PATHPATTERN): part by part between `/`, so that no
/// wildcard matches a separator; `*` any text, `?` one character, `[abc]`, `[a-z]` and `[!a]` one of a set.
///
/// Takes at most pattern length × path length steps, whatever the pattern.
#[must_use]
pub fn covers(pattern: &str, path: &str) -> bool {
    let mut patterns = pattern.split('/');
    let mut parts = path.split('/');
    loop {
        match (patterns.next(), parts.next()) {
            (None, None) => return true,
            (Some(pattern), Some(part)) if part_matches(pattern, part) => {}
            _ => return false,
        }
    }
}

/// Whether the path's SHA-256, in lower-case hex, begins with one of the prefixes.
pub fn hash_has_prefix<'a>(path: &str, prefixes: impl IntoIterator<Item = &'a str>) -> bool {
    let hash = hex::encode(digest(&SHA256, path.as_bytes()));
    prefixes.into_iter().any(|prefix| hash.starts_with(prefix))
}

/// The bin of `path` among 2^`bit_length`: the first bits of its SHA-256 (TAP 15). `bit_length` is 1 to 32.
#[must_use]
pub fn bin_of(path: &str, bit_length: u32) -> u32 {
    let hash = digest(&SHA256, path.as_bytes());
    let first = hash.as_ref()[..4].iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
    first >> (32 - bit_length.clamp(1, 32))
}

enum Step {
    Any,
    One,
    Exactly(char),
    OneOf { ranges: Vec<(char, char)>, negated: bool },
}

impl Step {
    fn takes(&self, letter: char) -> bool {
        match self {
            Self::Any => false,
            Self::One => true,
            Self::Exactly(other) => letter == *other,
            Self::OneOf { ranges, negated } => {
                ranges.iter().any(|(from, to)| (*from..=*to).contains(&letter)) != *negated
            }
        }
    }
}

fn steps(pattern: &str) -> Vec<Step> {
    let letters: Vec<char> = pattern.chars().collect();
    let mut steps = Vec::new();
    let mut at = 0;
    while let Some(letter) = letters.get(at) {
        at += 1;
        steps.push(match letter {
            '*' => Step::Any,
            '?' => Step::One,
            '[' => match set(&letters[at..]) {
                Some((step, used)) => {
                    at += used;
                    step
                }
                // Without its end it stands for itself.
                None => Step::Exactly('['),
            },
            letter => Step::Exactly(*letter),
        });
    }
    steps
}

/// The set whose opening bracket came before `letters`, and how many letters it takes with the closing one.
fn set(letters: &[char]) -> Option<(Step, usize)> {
    let negated = letters.first() == Some(&'!');
    let begin = usize::from(negated);
    // A closing bracket in first place is one of the set.
    let end = begin + 1 + letters.get(begin + 1..)?.iter().position(|letter| *letter == ']')?;
    let mut ranges = Vec::new();
    let mut rest = &letters[begin..end];
    loop {
        match rest {
            [from, '-', to, tail @ ..] => {
                ranges.push((*from, *to));
                rest = tail;
            }
            [one, tail @ ..] => {
                ranges.push((*one, *one));
                rest = tail;
            }
            [] => return Some((Step::OneOf { ranges, negated }, end + 1)),
        }
    }
}

/// Goes back to the last `*` only, which is enough: what an earlier one could take more, the last one can too.
fn part_matches(pattern: &str, part: &str) -> bool {
    let steps = steps(pattern);
    let letters: Vec<char> = part.chars().collect();
    let (mut step, mut letter) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while letter < letters.len() {
        match steps.get(step) {
            Some(Step::Any) => {
                back = Some((step, letter));
                step += 1;
            }
            Some(one) if one.takes(letters[letter]) => {
                step += 1;
                letter += 1;
            }
            _ => {
                let Some((any, taken)) = back else { return false };
                back = Some((any, taken + 1));
                step = any + 1;
                letter = taken + 1;
            }
        }
    }
    steps[step..].iter().all(|step| matches!(step, Step::Any))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_covers_what_the_specification_says() {
        for (pattern, path, expected) in [
            ("targets/*.tgz", "targets/foo.tgz", true),
            ("targets/*.tgz", "targets/foo.txt", false),
            ("foo-version-?.tgz", "foo-version-2.tgz", true),
            ("foo-version-?.tgz", "foo-version-alpha.tgz", false),
            ("*.tgz", "foo.tgz", true),
            ("*.tgz", "targets/foo.tgz", false),
            ("foo.tgz", "foo.tgz", true),
            ("foo.tgz", "foo.tgz2", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("*", "a/b", false),
            ("*/*", "a/b", true),
            ("a/*", "a/", true),
            ("a/*", "a", false),
            ("**", "abc", true),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXbX", false),
            ("[a-c]x", "bx", true),
            ("[a-c]x", "dx", false),
            ("[!a-c]x", "dx", true),
            ("[!a-c]x", "ax", false),
            ("[]]", "]", true),
            ("[", "[", true),
            ("[a", "[a", true),
            ("?", "é", true),
            ("A*", "abc", false),
        ] {
            assert_eq!(covers(pattern, path), expected, "{pattern:?} {path:?}");
        }
    }

    #[test]
    fn a_hostile_pattern_is_decided_in_bounded_time() {
        // With backtracking into every star this would not end.
        assert!(!covers(&"*a".repeat(200), &"a".repeat(5_000).replace("aa", "ab")));
        assert!(!covers(&format!("{}b", "*".repeat(5_000)), &"a".repeat(5_000)));
    }

    #[test]
    fn a_path_falls_into_the_bin_that_its_hash_begins_with() {
        // SHA-256 of "abc" begins with ba7816bf.
        assert_eq!(bin_of("abc", 1), 1);
        assert_eq!(bin_of("abc", 8), 0xba);
        assert_eq!(bin_of("abc", 32), 0xba78_16bf);
        assert!(hash_has_prefix("abc", ["00", "ba7"]));
        assert!(!hash_has_prefix("abc", ["00", "ba6", "BA7"]));
    }
}
