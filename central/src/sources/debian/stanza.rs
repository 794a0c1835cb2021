//! Debian's control format (deb822), read stanza by stanza so that memory stays that of one stanza.
//!
//! Format: Debian Policy 5.1.

use std::{
    io::{self, BufRead, Read as _},
    ops::Range,
};

/// Longest stanza in bytes: the longest in Debian's main archive has some 60 KiB.
pub const STANZA_BYTES_MAX: usize = 1 << 20;

/// Most fields of one stanza: real ones have about 25.
const FIELDS_MAX: usize = 512;

/// A place in a file that is not deb822.
#[derive(Debug, thiserror::Error)]
pub enum StanzaError {
    /// The input failed.
    #[error("line {line}: reading failed")]
    Read {
        /// Counted from 1.
        line: u64,
        /// Why.
        source: io::Error,
    },
    /// The text is wrong.
    #[error("line {line}: {reason}")]
    Syntax {
        /// Counted from 1.
        line: u64,
        /// What is wrong.
        reason: &'static str,
    },
}

/// One stanza: fields in their order.
#[derive(Debug, Default)]
pub struct Stanza {
    text: String,
    fields: Vec<(Range<usize>, Range<usize>)>,
    line: u64,
}

impl Stanza {
    /// The value of a field; names are compared without regard to case, continuation lines are kept with
    /// their line breaks.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Names and values in their order.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(name, value)| (&self.text[name.clone()], &self.text[value.clone()]))
    }

    /// The line it begins at, from 1.
    #[must_use]
    pub fn line(&self) -> u64 {
        self.line
    }

    fn clear(&mut self) {
        self.text.clear();
        self.fields.clear();
    }

    /// Takes the line that begins at `start` of the text.
    fn take(&mut self, start: usize) -> Result<(), &'static str> {
        let line = &self.text[start..];
        if line.starts_with([' ', '\t']) {
            let Some((_, value)) = self.fields.last_mut() else {
                return Err("a stanza begins with a continuation line");
            };
            value.end = self.text.trim_end().len();
            return Ok(());
        }
        let Some((name, value)) = line.split_once(':') else {
            return Err("neither a field nor a continuation line");
        };
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("a field name has characters that it must not have");
        }
        if self.get(name).is_some() {
            return Err("a field appears twice in a stanza");
        }
        if self.fields.len() >= FIELDS_MAX {
            return Err("a stanza has too many fields");
        }
        // Not the line break: a value may begin on the next line.
        let blank = value.len() - value.trim_start_matches(|c: char| c.is_whitespace() && c != '\n').len();
        let from = start + name.len() + 1;
        self.fields.push((
            start..start + name.len(),
            from + blank..(from + value.trim_end().len()).max(from + blank),
        ));
        Ok(())
    }
}

/// Reads stanzas from text.
#[derive(Debug)]
pub struct Stanzas<R> {
    input: R,
    line: u64,
    stanza: Stanza,
    bytes: Vec<u8>,
}

impl<R: BufRead> Stanzas<R> {
    /// Nothing read yet.
    pub fn new(input: R) -> Self {
        Self { input, line: 0, stanza: Stanza::default(), bytes: Vec::new() }
    }

    /// The next stanza; `None` at the end.
    ///
    /// # Errors
    ///
    /// [`StanzaError`] naming the line.
    pub fn advance(&mut self) -> Result<Option<&Stanza>, StanzaError> {
        self.stanza.clear();
        loop {
            self.bytes.clear();
            let room = STANZA_BYTES_MAX - self.stanza.text.len();
            let read = (&mut self.input)
                .take(room as u64 + 1)
                .read_until(b'\n', &mut self.bytes)
                .map_err(|source| StanzaError::Read { line: self.line + 1, source })?;
            if read == 0 {
                break;
            }
            self.line += 1;
            let syntax = |reason| StanzaError::Syntax { line: self.line, reason };
            if read > room {
                return Err(syntax("a stanza is longer than 1 MiB"));
            }
            let line = std::str::from_utf8(&self.bytes).map_err(|_| syntax("it is not UTF-8"))?;
            if line.trim().is_empty() {
                if self.stanza.fields.is_empty() {
                    continue;
                }
                break;
            }
            if self.stanza.fields.is_empty() {
                self.stanza.line = self.line;
            }
            let start = self.stanza.text.len();
            self.stanza.text.push_str(line);
            self.stanza.take(start).map_err(syntax)?;
        }
        Ok((!self.stanza.fields.is_empty()).then_some(&self.stanza))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &[u8]) -> Result<Vec<Vec<(String, String)>>, StanzaError> {
        let mut stanzas = Stanzas::new(text);
        let mut found = Vec::new();
        while let Some(stanza) = stanzas.advance()? {
            found.push(stanza.fields().map(|(n, v)| (n.to_owned(), v.to_owned())).collect());
        }
        Ok(found)
    }

    #[test]
    fn stanzas_are_separated_by_blank_lines_and_fields_may_be_folded() {
        let text = b"\n\nPackage: a\nDepends: b,\n  c\nEmpty:\nBelow: \n d\n e\n\n \nPackage:b\nX:  y  ";
        let found = all(text).unwrap();
        let pair = |n: &str, v: &str| (n.to_owned(), v.to_owned());
        assert_eq!(
            found,
            [
                vec![
                    pair("Package", "a"),
                    pair("Depends", "b,\n  c"),
                    pair("Empty", ""),
                    // With all its line breaks, so that it is the same when it is written again.
                    pair("Below", "\n d\n e"),
                ],
                vec![pair("Package", "b"), pair("X", "y")],
            ]
        );
    }

    #[test]
    fn a_malformed_place_is_named_by_its_line() {
        for (text, line) in [
            (&b"Package: a\n\n continued\n"[..], 3),
            (b"Package: a\nno field\n", 2),
            (b"Package: a\nVersion: 1\npackage: b\n", 3),
            (b"Package: a\n: b\n", 2),
            (b"Package: \xff\n", 1),
        ] {
            let error = all(text).unwrap_err();
            assert!(matches!(error, StanzaError::Syntax { line: found, .. } if found == line), "{error}");
        }
    }

    #[test]
    fn a_stanza_without_end_is_refused_before_it_fills_the_memory() {
        let endless = io::BufReader::new(io::repeat(b'a'));
        assert!(Stanzas::new(endless).advance().is_err());
        let lines = (0..).flat_map(|n: u32| format!("F{n}: x\n").into_bytes());
        let text: Vec<u8> = lines.take(STANZA_BYTES_MAX * 2).collect();
        assert!(all(&text).is_err());
    }
}
