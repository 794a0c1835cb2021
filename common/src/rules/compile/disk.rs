//! Compiled rules as bytes, so that a computer need not read every document again at each start.
//!
//! Shape: [`MAGIC`], SHA-256 of the rest, then each list as its length (u32) and its numbers (u32), texts as
//! their ends and their bytes; all little-endian. A reader of another program version compiles anew.

use super::{Code, Compiled, Groups, Op, Rule, Texts, trees};
use crate::{
    rules::limits::{DEPTH_MAX, NODES_MAX},
    trust::digest::Digest,
};

/// What the bytes begin with; the digit changes with the shape or the meaning of anything in them.
const MAGIC: &[u8; 16] = b"tierway rules 1\n";

const DIGEST_BYTES: usize = 32;

/// Deepest tree: a leaf of several atoms is one node and the atoms below it.
const TREE_DEPTH_MAX: usize = DEPTH_MAX + 1;

/// Bytes that are not compiled rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They begin otherwise: another version's, or something else.
    #[error("these are not compiled rules of this version")]
    Version,
    /// They were changed or cut.
    #[error("the compiled rules are damaged")]
    Damaged,
    /// Their digest is right, but they make no sense.
    #[error("the compiled rules are malformed: {0}")]
    Malformed(&'static str),
}

impl Compiled {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes() + 256);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[0; DIGEST_BYTES]);
        for texts in [&self.ids, &self.subjects, &self.texts] {
            put(&mut out, texts.ends.len(), texts.ends.iter().copied());
            out.extend_from_slice(texts.bytes.as_bytes());
        }
        put(
            &mut out,
            self.rules.len() * 3,
            self.rules.iter().flat_map(|rule| [rule.start, rule.applicable_ops, rule.installed_ops]),
        );
        put(&mut out, self.ops.len(), self.ops.iter().copied());
        put(&mut out, self.instances.len(), self.instances.iter().map(|instances| u32::from(*instances)));
        put(&mut out, self.first_atom.len(), self.first_atom.iter().copied());
        put(&mut out, self.codes.len(), self.codes.iter().map(|code| u32::from(code.0)));
        put(&mut out, self.values.len(), self.values.iter().copied());
        for groups in [&self.readers, &self.guards] {
            put(&mut out, groups.starts.len(), groups.starts.iter().copied());
            put(&mut out, groups.members.len(), groups.members.iter().copied());
        }
        put(&mut out, self.unguarded.len(), self.unguarded.iter().copied());
        let start = MAGIC.len();
        let digest = Digest::of(&out[start + DIGEST_BYTES..]);
        out[start..start + DIGEST_BYTES].copy_from_slice(digest.as_bytes());
        out
    }

    /// What [`Compiled::encode`] wrote.
    ///
    /// # Errors
    ///
    /// [`DecodeError`]; whatever the bytes are, what is returned never makes a scan panic.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(DecodeError::Version)?;
        let (digest, rest) = rest.split_at_checked(DIGEST_BYTES).ok_or(DecodeError::Damaged)?;
        if Digest::of(rest).as_bytes() != digest {
            return Err(DecodeError::Damaged);
        }
        let mut input = Input(rest);
        let (ids, subjects, texts) = (input.texts()?, input.texts()?, input.texts()?);
        let places = input.numbers()?;
        let (places, left) = places.as_chunks::<3>();
        let mut compiled = Self {
            rules: places
                .iter()
                .zip(0..)
                .map(|([start, applicable_ops, installed_ops], id)| Rule {
                    id,
                    start: *start,
                    applicable_ops: *applicable_ops,
                    installed_ops: *installed_ops,
                })
                .collect(),
            ids,
            subjects,
            texts,
            ops: input.numbers()?,
            instances: input.numbers()?.iter().map(|number| *number != 0).collect(),
            domains: Vec::new(),
            first_atom: input.numbers()?,
            codes: input.numbers()?.iter().map(|code| Code(u8::try_from(*code).unwrap_or(u8::MAX))).collect(),
            values: input.numbers()?,
            readers: Groups { starts: input.numbers()?, members: input.numbers()? },
            guards: Groups { starts: input.numbers()?, members: input.numbers()? },
            unguarded: input.numbers()?,
        };
        if !left.is_empty() || !input.0.is_empty() {
            return Err(DecodeError::Malformed("bytes are left over"));
        }
        compiled.check()?;
        compiled.find_domains();
        Ok(compiled)
    }

    /// Checks that every number points at something.
    fn check(&self) -> Result<(), DecodeError> {
        let ensure = |holds: bool, what| if holds { Ok(()) } else { Err(DecodeError::Malformed(what)) };
        let below = |numbers: &[u32], count: usize| numbers.iter().all(|number| (*number as usize) < count);
        let splits = |starts: &[u32], groups: usize, members: usize| {
            starts.len() == groups + 1
                && starts.is_sorted()
                && starts.first() == Some(&0)
                && starts.last().is_some_and(|last| *last as usize == members)
        };
        let (atoms, rules) = (self.codes.len(), self.rules.len());
        ensure(self.ids.len() == rules, "not one id for each rule")?;
        ensure(self.instances.len() == self.subjects.len(), "not one kind for each subject")?;
        ensure(splits(&self.first_atom, self.subjects.len(), atoms), "subjects and atoms")?;
        ensure(self.values.len() == atoms && below(&self.values, self.texts.len()), "values of atoms")?;
        ensure(self.codes.iter().all(|code| code.check("").is_some()), "codes of atoms")?;
        ensure(splits(&self.readers.starts, self.subjects.len(), self.readers.members.len()), "readers")?;
        ensure(splits(&self.guards.starts, atoms, self.guards.members.len()), "guards")?;
        for members in [&self.readers.members, &self.guards.members, &self.unguarded] {
            ensure(below(members, rules), "rules of an index")?;
        }
        for rule in &self.rules {
            let lengths = rule.applicable_ops as usize + rule.installed_ops as usize;
            ensure(rule.start as usize + lengths <= self.ops.len(), "the place of a rule")?;
            // At most 5 atoms and their conjunction a node.
            ensure(lengths <= 12 * NODES_MAX, "the length of a rule")?;
            let (applicable, installed) = self.trees_of(*rule);
            ensure(is_tree(applicable, atoms, TREE_DEPTH_MAX), "a tree")?;
            ensure(is_tree(installed, atoms, TREE_DEPTH_MAX), "a tree")?;
        }
        Ok(())
    }
}

/// Whether `ops` are one whole tree over that many atoms, at most so deep.
fn is_tree(ops: &[u32], atoms: usize, depth: usize) -> bool {
    let Some((first, rest)) = ops.split_first() else { return false };
    let op = Op::unpack(*first);
    if op.pack() != *first || op.length() != ops.len() || depth == 0 {
        return false;
    }
    let whole = || trees(rest).map(<[u32]>::len).sum::<usize>() == rest.len();
    match op {
        Op::Atom(atom) => (atom as usize) < atoms,
        Op::Const(_) => true,
        Op::Not(_) => is_tree(rest, atoms, depth - 1),
        Op::All(_) | Op::Any(_) => whole() && trees(rest).all(|child| is_tree(child, atoms, depth - 1)),
    }
}

fn put(out: &mut Vec<u8>, count: usize, numbers: impl Iterator<Item = u32>) {
    out.extend_from_slice(&super::number(count).to_le_bytes());
    numbers.for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
}

/// What is still to be read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(DecodeError::Malformed("it is cut"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn numbers(&mut self) -> Result<Vec<u32>, DecodeError> {
        let (length, _) = self.take(4)?.as_chunks::<4>();
        let count: usize = length.iter().map(|bytes| u32::from_le_bytes(*bytes) as usize).sum();
        let (numbers, _) = self.take(count.saturating_mul(4))?.as_chunks::<4>();
        Ok(numbers.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())
    }

    fn texts(&mut self) -> Result<Texts, DecodeError> {
        let ends = self.numbers()?;
        let bytes = self.take(ends.last().copied().unwrap_or(0) as usize)?;
        let bytes = str::from_utf8(bytes).map_err(|_| DecodeError::Malformed("a text is not UTF-8"))?;
        if !ends.is_sorted() || !ends.iter().all(|end| bytes.is_char_boundary(*end as usize)) {
            return Err(DecodeError::Malformed("texts overlap"));
        }
        Ok(Texts { bytes: bytes.to_owned(), ends })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        facts::Facts,
        rules::{compile::Compiler, expr::Expr, sample},
    };

    fn some() -> Compiled {
        let expr = |json: &str| serde_json::from_str::<Expr>(json).unwrap();
        let mut compiler = Compiler::new();
        for number in 0..3 {
            compiler
                .add(
                    &format!("c/{number}").parse().unwrap(),
                    &expr(r#"{"all":[{"os":{"family":"debian"}},{"package":{"manager":"deb","name":"é"}}]}"#),
                    &expr(r#"{"not":{"package":{"manager":"deb","name":"é","version":{"lt":"2"}}}}"#),
                )
                .unwrap();
        }
        compiler.finish()
    }

    fn with_digest(body: &[u8]) -> Vec<u8> {
        [MAGIC.as_slice(), Digest::of(body).as_bytes(), body].concat()
    }

    #[test]
    fn bytes_that_were_changed_cut_or_of_another_version_are_refused() {
        let good = some().encode();
        assert_eq!(Compiled::decode(&good).unwrap().encode(), good);
        assert_eq!(Compiled::decode(b"").unwrap_err(), DecodeError::Version);
        assert_eq!(
            Compiled::decode(&[b"tierway rules 0\n", &good[16..]].concat()).unwrap_err(),
            DecodeError::Version
        );
        for at in 16..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(Compiled::decode(&bad).unwrap_err(), DecodeError::Damaged);
            assert_eq!(Compiled::decode(&good[..at]).unwrap_err(), DecodeError::Damaged);
        }
    }

    #[test]
    fn malformed_bytes_with_a_right_digest_never_make_a_scan_panic() {
        let good = some().encode();
        let body = &good[MAGIC.len() + DIGEST_BYTES..];
        let mut facts = Facts::default();
        facts.values.insert("package:deb:é:amd64".to_owned(), "1".to_owned());
        facts.values.insert("os:family".to_owned(), "debian".to_owned());
        let mut refused = 0;
        for at in 0..body.len() {
            for flip in [1, 2, 4, 8, 16, 32, 64, 128, 255] {
                let mut bad = body.to_vec();
                bad[at] ^= flip;
                match Compiled::decode(&with_digest(&bad)) {
                    Ok(compiled) => {
                        let scan = compiled.scan(&facts);
                        assert!(compiled.verdicts(&scan, &facts).count() <= 3);
                    }
                    Err(_) => refused += 1,
                }
            }
            assert!(Compiled::decode(&with_digest(&body[..at])).is_err());
        }
        assert!(refused > body.len());
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_read_back(exprs in prop::collection::vec(sample::expr(), 0..6)) {
            let mut compiler = Compiler::new();
            for (number, expr) in exprs.iter().enumerate() {
                compiler.add(&format!("c/{number}").parse().unwrap(), expr, expr).unwrap();
            }
            let bytes = compiler.finish().encode();
            prop_assert_eq!(Compiled::decode(&bytes).unwrap().encode(), bytes);
        }
    }
}
