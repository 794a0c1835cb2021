//! Where a command's answer goes, and how the person wants it.

use std::{
    borrow::Cow,
    io::{self, BufRead, Write},
};

use jiff::Timestamp;
use tierway_common::clock::Clock;

use crate::{
    failure::{Exit, Failure},
    output::OutputArgs,
};

/// Which of the three streams are terminals.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Terminals {
    pub(crate) input: bool,
    pub(crate) out: bool,
    pub(crate) err: bool,
}

/// The streams, the time, and the output options of this call.
pub(crate) struct Screen<'a> {
    pub(crate) out: &'a mut dyn Write,
    pub(crate) err: &'a mut dyn Write,
    pub(crate) input: &'a mut dyn BufRead,
    pub(crate) terminals: Terminals,
    /// Colours are wanted where a stream is a terminal.
    pub(crate) colour: bool,
    pub(crate) clock: Clock,
    pub(crate) options: OutputArgs,
}

impl<'a> Screen<'a> {
    /// A screen with the options at their defaults.
    pub(crate) fn new(
        out: &'a mut dyn Write,
        err: &'a mut dyn Write,
        input: &'a mut dyn BufRead,
        terminals: Terminals,
        colour: bool,
        clock: Clock,
    ) -> Self {
        Self { out, err, input, terminals, colour, clock, options: OutputArgs::default() }
    }

    /// The same screen with another place for standard output.
    pub(crate) fn with_out<'b>(&'b mut self, out: &'b mut dyn Write) -> Screen<'b> {
        Screen {
            out,
            err: &mut *self.err,
            input: &mut *self.input,
            terminals: self.terminals,
            colour: self.colour,
            clock: self.clock.clone(),
            options: self.options.clone(),
        }
    }

    /// Now.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Whether standard output takes colours.
    pub(crate) fn colours_out(&self) -> bool {
        self.colour && self.terminals.out
    }

    /// One line on standard error, for people; what a remote computer said is made harmless. The lines of a text that has
    /// several, as where a TOML file is wrong, follow each other in it.
    pub(crate) fn note(&mut self, text: &str) -> io::Result<()> {
        let lines: Vec<_> =
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(harmless).collect();
        writeln!(self.err, "tierctl: {}", lines.join(" "))
    }

    /// Says why and returns the exit code of that. Nothing can be done when even that cannot be written.
    pub(crate) fn fail(&mut self, failure: &Failure) -> Exit {
        let exit = failure.exit();
        if exit != Exit::Ok {
            self.note(&failure.chain()).ok();
        }
        exit
    }
}

/// The text with everything replaced that could drive a terminal or reorder what is read: host names,
/// details and messages come from computers that may not be ours any more.
pub(crate) fn harmless(text: &str) -> Cow<'_, str> {
    // Without an early end many bytes are looked at together; nearly all texts are of this kind.
    if text.bytes().fold(true, |plain, byte| plain & (b' '..=b'~').contains(&byte)) {
        return text.into();
    }
    let bad = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
    };
    if text.contains(bad) { text.replace(bad, "\u{fffd}").into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_cannot_move_the_cursor_or_reverse_the_line() {
        assert_eq!(harmless("a\x1b[2Jb\u{202e}c\nd"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}d");
        assert_eq!(harmless("büro-ÿ"), "büro-ÿ");
    }
}
