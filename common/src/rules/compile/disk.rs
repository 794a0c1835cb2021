//! Compiled rules on disk, so that a computer need not read every document again at each start.
//!
//! Shape: [`MAGIC`]; each list as its length (u32) and its numbers (u32) or bytes, texts as their ends and
//! their bytes; XXH64 of all before it; all little-endian. A reader of another program version compiles
//! anew. Written and read piece by piece, so that the memory of a second copy is never needed.

use std::io::{self, Read, Write};

use super::{Code, Compiled, Groups, OPS_MAX, Texts, checksum::Checksum, number};

/// What the bytes begin with; the digit changes with the shape or the meaning of anything in them.
const MAGIC: &[u8; 16] = b"tierway rules 2\n";

/// Bytes that are written or read at once.
const PIECE_BYTES: usize = 64 * 1024;

/// Most numbers or bytes of one list; no list of a [`Compiled`] is longer.
const LIST_MAX: usize = OPS_MAX * 8;

/// Rules that could not be read back; the caller compiles anew.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// They begin otherwise: another version's, or something else.
    #[error("these are not compiled rules of this version")]
    Version,
    /// They were changed or cut, or make no sense.
    #[error("the compiled rules are damaged: {0}")]
    Damaged(&'static str),
    /// They could not be read.
    #[error("could not read the compiled rules")]
    Io(#[source] io::Error),
}

impl Compiled {
    /// Writes the rules to `out`, in pieces of 64 KiB.
    ///
    /// # Errors
    ///
    /// What `out` returns.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut out = Output { out, piece: Vec::with_capacity(PIECE_BYTES), sum: Checksum::new() };
        out.put(MAGIC)?;
        for texts in [&self.ids, &self.subjects, &self.texts] {
            out.numbers(&texts.ends)?;
            out.put(texts.bytes.as_bytes())?;
        }
        out.bytes(self.instances.iter().map(|instances| u8::from(*instances)))?;
        out.numbers(&self.codes.iter().map(|code| u32::from(code.0)).collect::<Vec<_>>())?;
        for numbers in [&self.rules, &self.ops, &self.first_atom, &self.values, &self.unguarded] {
            out.numbers(numbers)?;
        }
        for numbers in [&self.everywhere, &self.guard_atoms] {
            out.numbers(numbers)?;
        }
        for groups in [&self.readers, &self.guards] {
            out.numbers(&groups.starts)?;
            out.numbers(&groups.members)?;
        }
        out.finish()
    }

    /// Reads what [`Compiled::write`] wrote; whatever the bytes are, what is returned never makes a scan
    /// panic. Bytes after the rules are not read.
    ///
    /// # Errors
    ///
    /// [`DecodeError`].
    pub fn read(input: &mut dyn Read) -> Result<Self, DecodeError> {
        let mut input = Input { input, sum: Checksum::new() };
        let mut magic = [0; MAGIC.len()];
        match input.take(&mut magic) {
            Err(DecodeError::Damaged(_)) => return Err(DecodeError::Version),
            other => other?,
        }
        if magic != *MAGIC {
            return Err(DecodeError::Version);
        }
        let mut compiled = Self {
            ids: input.texts()?,
            subjects: input.texts()?,
            texts: input.texts()?,
            instances: input.bytes()?.iter().map(|byte| *byte != 0).collect(),
            codes: input.numbers()?.into_iter().map(Code::read).collect(),
            rules: input.numbers()?,
            ops: input.numbers()?,
            first_atom: input.numbers()?,
            values: input.numbers()?,
            unguarded: input.numbers()?,
            everywhere: input.numbers()?,
            guard_atoms: input.numbers()?,
            readers: Groups { starts: input.numbers()?, members: input.numbers()? },
            guards: Groups { starts: input.numbers()?, members: input.numbers()? },
            domains: Vec::new(),
        };
        input.finish()?;
        compiled.check()?;
        compiled.find_domains();
        Ok(compiled)
    }

    /// Checks that every number points at something. A tree need not be one: a scan takes what it is
    /// given as far as it goes.
    fn check(&self) -> Result<(), DecodeError> {
        let ensure = |holds: bool, what| if holds { Ok(()) } else { Err(DecodeError::Damaged(what)) };
        let below = |numbers: &[u32], count: usize| numbers.iter().all(|number| (*number as usize) < count);
        let splits = |starts: &[u32], groups: usize, members: usize| {
            starts.len() == groups + 1
                && starts.is_sorted()
                && starts.first() == Some(&0)
                && starts.last().is_some_and(|last| *last as usize == members)
        };
        let (atoms, rules, subjects) = (self.codes.len(), self.rules.len(), self.subjects.len());
        let empty = self.first_atom.is_empty() && subjects == 0 && atoms == 0;
        ensure(self.ids.len() == rules, "not one id for each rule")?;
        ensure(below(&self.rules, self.ops.len()), "the place of a rule")?;
        ensure(self.instances.len() == subjects, "not one kind for each subject")?;
        ensure(empty || splits(&self.first_atom, subjects, atoms), "subjects and atoms")?;
        ensure(self.values.len() == atoms && below(&self.values, self.texts.len()), "values of atoms")?;
        ensure(self.codes.iter().all(|code| code.check("").is_some()), "codes of atoms")?;
        ensure(self.everywhere.is_sorted(), "subjects of all rules")?;
        ensure(empty || splits(&self.readers.starts, subjects, self.readers.members.len()), "readers")?;
        ensure(below(&self.guard_atoms, atoms), "atoms of guards")?;
        let guards = self.guard_atoms.len();
        ensure(empty || splits(&self.guards.starts, guards, self.guards.members.len()), "guards")?;
        for members in [&self.readers.members, &self.guards.members, &self.unguarded] {
            ensure(below(members, rules), "rules of an index")?;
        }
        Ok(())
    }
}

struct Output<'a> {
    out: &'a mut dyn Write,
    /// Not written yet.
    piece: Vec<u8>,
    sum: Checksum,
}

impl Output<'_> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sum.update(&self.piece);
        self.out.write_all(&self.piece)?;
        self.piece.clear();
        Ok(())
    }

    fn numbers(&mut self, numbers: &[u32]) -> io::Result<()> {
        self.put(&number(numbers.len()).to_le_bytes())?;
        numbers.iter().try_for_each(|number| self.put(&number.to_le_bytes()))
    }

    fn bytes(&mut self, bytes: impl ExactSizeIterator<Item = u8>) -> io::Result<()> {
        self.put(&number(bytes.len()).to_le_bytes())?;
        bytes.into_iter().try_for_each(|byte| self.put(&[byte]))
    }

    fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        let sum = self.sum.finish();
        self.out.write_all(&sum.to_le_bytes())
    }
}

struct Input<'a> {
    input: &'a mut dyn Read,
    sum: Checksum,
}

impl Input<'_> {
    fn exact(&mut self, bytes: &mut [u8]) -> Result<(), DecodeError> {
        self.input.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => DecodeError::Damaged("they are cut"),
            _ => DecodeError::Io(error),
        })
    }

    fn take(&mut self, bytes: &mut [u8]) -> Result<(), DecodeError> {
        self.exact(bytes)?;
        self.sum.update(bytes);
        Ok(())
    }

    fn length(&mut self) -> Result<usize, DecodeError> {
        let mut bytes = [0; 4];
        self.take(&mut bytes)?;
        let length = u32::from_le_bytes(bytes) as usize;
        if length > LIST_MAX { Err(DecodeError::Damaged("a list is too long")) } else { Ok(length) }
    }

    fn numbers(&mut self) -> Result<Vec<u32>, DecodeError> {
        let length = self.length()?;
        let mut piece = vec![0; PIECE_BYTES.min(length * 4)];
        let mut numbers = Vec::with_capacity(length);
        while numbers.len() < length {
            let bytes = piece.len().min((length - numbers.len()) * 4);
            self.take(&mut piece[..bytes])?;
            let (words, _) = piece[..bytes].as_chunks::<4>();
            numbers.extend(words.iter().map(|word| u32::from_le_bytes(*word)));
        }
        Ok(numbers)
    }

    fn bytes(&mut self) -> Result<Vec<u8>, DecodeError> {
        let length = self.length()?;
        self.bytes_of(length)
    }

    fn bytes_of(&mut self, length: usize) -> Result<Vec<u8>, DecodeError> {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let start = bytes.len();
            bytes.reserve_exact(length - start);
            bytes.resize(start + PIECE_BYTES.min(length - start), 0);
            self.take(&mut bytes[start..])?;
        }
        Ok(bytes)
    }

    fn texts(&mut self) -> Result<Texts, DecodeError> {
        let ends = self.numbers()?;
        let length = ends.last().copied().unwrap_or(0) as usize;
        if length > LIST_MAX {
            return Err(DecodeError::Damaged("a list is too long"));
        }
        let bytes = String::from_utf8(self.bytes_of(length)?)
            .map_err(|_| DecodeError::Damaged("a text is not UTF-8"))?;
        Ok(Texts { bytes, ends })
    }

    fn finish(mut self) -> Result<(), DecodeError> {
        let found = self.sum.finish();
        let mut written = [0; 8];
        self.exact(&mut written)?;
        if u64::from_le_bytes(written) == found {
            Ok(())
        } else {
            Err(DecodeError::Damaged("their checksum is wrong"))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        facts::{Domain, Facts, FactsDelta},
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

    fn bytes(compiled: &Compiled) -> Vec<u8> {
        let mut bytes = Vec::new();
        compiled.write(&mut bytes).unwrap();
        bytes
    }

    fn read(mut bytes: &[u8]) -> Result<Compiled, DecodeError> {
        Compiled::read(&mut bytes)
    }

    /// With a checksum that is right, whatever the bytes.
    fn summed(body: &[u8]) -> Vec<u8> {
        let mut sum = Checksum::new();
        sum.update(body);
        [body, &sum.finish().to_le_bytes()].concat()
    }

    #[test]
    fn bytes_that_were_changed_cut_or_of_another_version_are_refused() {
        let good = bytes(&some());
        assert_eq!(bytes(&read(&good).unwrap()), good);
        assert!(matches!(read(b""), Err(DecodeError::Version)));
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            let version = at < MAGIC.len();
            assert!(version == matches!(read(&bad).unwrap_err(), DecodeError::Version), "{at}");
            assert!(version == matches!(read(&good[..at]).unwrap_err(), DecodeError::Version), "{at}");
        }
    }

    #[test]
    fn malformed_bytes_with_a_right_checksum_never_make_a_scan_panic() {
        let good = bytes(&some());
        let body = &good[..good.len() - 8];
        let mut facts = Facts::default();
        facts.domains.insert("os".to_owned(), Domain::Complete { source: "here".to_owned() });
        facts.values.insert("package:deb:é:amd64".to_owned(), "1".to_owned());
        facts.values.insert("os:family".to_owned(), "debian".to_owned());
        let delta = Facts { values: [].into(), domains: facts.domains.clone() }.delta(&facts);
        assert_eq!(delta, FactsDelta { set: facts.values.clone(), ..FactsDelta::default() });
        let (mut refused, mut read_back) = (0, 0);
        for at in MAGIC.len()..body.len() {
            for flip in [1, 2, 4, 8, 16, 32, 64, 128, 255] {
                let mut bad = body.to_vec();
                bad[at] ^= flip;
                match read(&summed(&bad)) {
                    Ok(compiled) => {
                        read_back += 1;
                        let mut scan = compiled.scan(&facts);
                        assert!(compiled.verdicts(&scan, &facts).count() <= 3);
                        compiled.rescan(&mut scan, &delta, &facts);
                    }
                    Err(_) => refused += 1,
                }
            }
            assert!(read(&summed(&body[..at])).is_err());
        }
        assert!(refused > body.len() && read_back > body.len(), "{refused} {read_back}");
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back(exprs in prop::collection::vec(sample::expr(), 0..6)) {
            let mut compiler = Compiler::new();
            for (number, expr) in exprs.iter().enumerate() {
                compiler.add(&format!("c/{number}").parse().unwrap(), expr, expr).unwrap();
            }
            let written = bytes(&compiler.finish());
            prop_assert_eq!(bytes(&read(&written).unwrap()), written);
        }
    }
}
