//! dpkg's database, read as dpkg writes it.
//!
//! `/var/lib/dpkg/status` is a sequence of stanzas in the syntax of deb-control(5). It is read in one
//! pass with one buffered line in memory. Every line is checked: a database that was cut off or damaged is
//! refused with its line, since a half-read one would make packages look absent.

use std::{
    collections::BTreeSet,
    io::{self, BufRead, BufReader, Read},
};

use tierway_common::facts::Domain;

use super::root::Root;
use crate::scan::{Collected, Problem};

/// dpkg's database of packages and their states.
pub const STATUS: &str = "/var/lib/dpkg/status";

/// dpkg's list of architectures, its own one first; only there when others were added.
const ARCHITECTURES: &str = "/var/lib/dpkg/arch";

/// Longest line: dpkg itself writes file lists of one line per file, and the longest lines seen, the
/// `Depends` of task packages, have 30 KiB.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// Most stanzas: the whole archive of a release has some 65,000 packages.
pub const PACKAGES_MAX: usize = 200_000;

/// Where the installation of a package stands, by the words of dpkg(1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Not on the system, or only its configuration files.
    Absent,
    /// Unpacked, with something still to be done: `half-installed`, `unpacked`, `half-configured`,
    /// `triggers-awaited`, `triggers-pending`. Its files are those of the version.
    Incomplete,
    /// Installed.
    Installed,
}

/// One stanza.
#[derive(Debug)]
pub struct Stanza<'a> {
    /// Line of its first field, from 1.
    pub line: u64,
    /// Package name.
    pub name: &'a str,
    /// `amd64`, `all`, …; empty only when absent.
    pub architecture: &'a str,
    /// Full version; empty only when absent.
    pub version: &'a str,
    /// Present or not.
    pub status: Status,
    /// dpkg's word for it, such as `half-configured`.
    pub word: &'a str,
    /// The administrator wants it to stay as it is.
    pub hold: bool,
    /// The wanted fields that it has, in their order.
    pub fields: &'a [(&'static str, String)],
}

/// A database that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// It could not be read.
    #[error("could not read `{STATUS}`")]
    Read(#[source] io::Error),
    /// It is not what dpkg writes.
    #[error("`{STATUS}` line {line}: {reason}")]
    Malformed {
        /// From 1.
        line: u64,
        /// Why.
        reason: String,
    },
    /// One package of one architecture has two stanzas.
    #[error("`{STATUS}`: the package `{package}` is there twice")]
    Twice {
        /// `name:architecture`.
        package: String,
    },
}

/// Calls `visit` for every stanza in the order of the file. `wanted` names the fields given in
/// [`Stanza::fields`] besides those with a place of their own.
///
/// # Errors
///
/// At the first line that is not as deb-control(5) has it, at a stanza that lacks a field dpkg always
/// writes, and when the file does not end with the end of a line.
pub fn read(
    input: impl Read,
    wanted: &[&'static str],
    visit: &mut dyn FnMut(&Stanza<'_>) -> Result<(), String>,
) -> Result<(), StatusError> {
    let mut input = BufReader::with_capacity(64 << 10, input);
    let mut line = Vec::with_capacity(4096);
    let mut current = Current::default();
    let mut number = 0;
    let mut stanzas = 0;
    loop {
        line.clear();
        let read =
            (&mut input).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).map_err(StatusError::Read)?;
        let malformed = |line, reason: &str| StatusError::Malformed { line, reason: reason.to_owned() };
        if read > 0 {
            number += 1;
            if line.pop() != Some(b'\n') {
                let reason = if read as u64 == LINE_BYTES_MAX {
                    "it is longer than 1 MiB"
                } else {
                    "the file ends in the middle of a line"
                };
                return Err(malformed(number, reason));
            }
        }
        if !line.is_empty() {
            current.line(&line, number, wanted).map_err(|reason| malformed(number, &reason))?;
            continue;
        }
        if current.first_line > 0 {
            stanzas += 1;
            if stanzas > PACKAGES_MAX {
                return Err(malformed(number, "it has more than 200,000 packages"));
            }
            let first = current.first_line;
            let stanza = current.stanza().map_err(|reason| malformed(first, &reason))?;
            visit(&stanza).map_err(|reason| malformed(first, &reason))?;
            current.clear();
        }
        if read == 0 {
            return Ok(());
        }
    }
}

/// The stanza being read; its texts are reused for the next.
#[derive(Default)]
struct Current {
    first_line: u64,
    name: String,
    architecture: String,
    version: String,
    status: String,
    fields: Vec<(&'static str, String)>,
    /// Continuation lines belong to the last of `fields`.
    continues: bool,
}

impl Current {
    fn clear(&mut self) {
        self.first_line = 0;
        for text in [&mut self.name, &mut self.architecture, &mut self.version, &mut self.status] {
            text.clear();
        }
        self.fields.clear();
        self.continues = false;
    }

    fn line(&mut self, line: &[u8], number: u64, wanted: &[&'static str]) -> Result<(), String> {
        if line[0] == b' ' || line[0] == b'\t' {
            if self.first_line == 0 {
                return Err("a continuation line without a field".to_owned());
            }
            if self.continues
                && let Some((_, value)) = self.fields.last_mut()
            {
                value.push_str(text("field", line)?);
            }
            return Ok(());
        }
        let colon = line.iter().position(|byte| *byte == b':').filter(|colon| *colon > 0);
        let Some(colon) = colon else { return Err("it is neither a field nor its continuation".to_owned()) };
        if !line[..colon].iter().all(|byte| byte.is_ascii_graphic()) {
            return Err("it is neither a field nor its continuation".to_owned());
        }
        if self.first_line == 0 {
            self.first_line = number;
        }
        self.continues = false;
        let value = line[colon + 1..].trim_ascii();
        let (name, place) = match &line[..colon] {
            b"Package" => ("Package", &mut self.name),
            b"Architecture" => ("Architecture", &mut self.architecture),
            b"Version" => ("Version", &mut self.version),
            b"Status" => ("Status", &mut self.status),
            other => {
                if let Some(name) = wanted.iter().find(|name| name.as_bytes() == other) {
                    self.fields.push((name, text(name, value)?.to_owned()));
                    self.continues = true;
                }
                return Ok(());
            }
        };
        if !place.is_empty() {
            return Err(format!("the field `{name}` is there twice"));
        }
        if value.is_empty() || !value.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
            return Err(format!("the field `{name}` has no usable value"));
        }
        place.push_str(text(name, value)?);
        Ok(())
    }

    fn stanza(&self) -> Result<Stanza<'_>, String> {
        if self.name.is_empty() {
            return Err("the stanza has no field `Package`".to_owned());
        }
        let name = &self.name;
        if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+.-".contains(&b)) {
            return Err(format!("`{name}` is not a package name"));
        }
        let mut words = self.status.split(' ').filter(|word| !word.is_empty());
        let (Some(want), Some(_flag), Some(word), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(format!("the package `{name}` has no usable field `Status`"));
        };
        let status = match word {
            "not-installed" | "config-files" => Status::Absent,
            "half-installed" | "unpacked" | "half-configured" | "triggers-awaited" | "triggers-pending" => {
                Status::Incomplete
            }
            "installed" => Status::Installed,
            other => return Err(format!("the package `{name}` has the unknown state `{other}`")),
        };
        if status != Status::Absent {
            for (field, value) in [("Version", &self.version), ("Architecture", &self.architecture)] {
                if value.is_empty() || value.contains(' ') {
                    return Err(format!("the package `{name}` has no usable field `{field}`"));
                }
            }
        }
        Ok(Stanza {
            line: self.first_line,
            name,
            architecture: &self.architecture,
            version: &self.version,
            status,
            word,
            hold: want == "hold",
            fields: &self.fields,
        })
    }
}

fn text<'a>(field: &str, bytes: &'a [u8]) -> Result<&'a str, String> {
    std::str::from_utf8(bytes).map_err(|_| format!("the field `{field}` is not UTF-8"))
}

/// Reads the domain `package:deb`, the flags `hold:<name>` and `incomplete:<name>` (only where true) and
/// returns dpkg's own architecture.
pub(in crate::scan) fn scan(root: &Root, collected: &mut Collected) -> Option<String> {
    let mut native = match first_architecture(root) {
        Ok(native) => native,
        Err(error) => {
            collected.problems.push(Problem(format!("could not read `{ARCHITECTURES}`: {error}")));
            None
        }
    };
    let file = match root.file(STATUS) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound && root.locate("/var/lib/dpkg").is_err() => {
            collected.domain("package:deb", Domain::Complete { source: STATUS.to_owned() });
            return native;
        }
        Err(error) => {
            let reason = format!("could not read `{STATUS}`: {error}");
            collected.domain("package:deb", Domain::Failed { source: STATUS.to_owned(), reason });
            return native;
        }
    };
    let mut packages = Vec::with_capacity(1024);
    let mut flags = BTreeSet::new();
    let mut problems = Vec::new();
    let result = read(file, &[], &mut |stanza| {
        if stanza.status == Status::Absent {
            return Ok(());
        }
        if stanza.name == "dpkg" && native.is_none() {
            native = Some(stanza.architecture.to_owned());
        }
        if stanza.hold {
            flags.insert(format!("flag:hold:{}", stanza.name));
        }
        if stanza.status == Status::Incomplete {
            flags.insert(format!("flag:incomplete:{}", stanza.name));
            problems.push(Problem(format!("the package `{}` is {}", stanza.name, stanza.word)));
        }
        let key = format!("package:deb:{}:{}", stanza.name, stanza.architecture);
        packages.push((key, stanza.version.to_owned()));
        Ok(())
    });
    match result.and_then(|()| unique(&mut packages)) {
        Ok(()) => {
            collected.facts.values.extend(packages);
            collected.facts.values.extend(flags.into_iter().map(|flag| (flag, "true".to_owned())));
            collected.problems.extend(problems);
            collected.domain("package:deb", Domain::Complete { source: STATUS.to_owned() });
        }
        Err(error) => {
            let reason = match &error {
                StatusError::Read(source) => format!("{error}: {source}"),
                StatusError::Malformed { .. } | StatusError::Twice { .. } => error.to_string(),
            };
            collected.domain("package:deb", Domain::Failed { source: STATUS.to_owned(), reason });
        }
    }
    native
}

/// Sorts, which makes filling the map cheap, and refuses what is there twice.
fn unique(packages: &mut [(String, String)]) -> Result<(), StatusError> {
    packages.sort_unstable();
    match packages.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        None => Ok(()),
        Some(pair) => {
            Err(StatusError::Twice { package: pair[0].0.trim_start_matches("package:deb:").to_owned() })
        }
    }
}

/// The first line of dpkg's list of architectures, when there is such a list.
fn first_architecture(root: &Root) -> io::Result<Option<String>> {
    Ok(architectures(root)?.into_iter().next())
}

/// dpkg's list of architectures, its own first; empty when it never was told of others.
///
/// # Errors
///
/// When the list is there and cannot be read.
pub fn architectures(root: &Root) -> io::Result<Vec<String>> {
    let file = match root.file(ARCHITECTURES) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    // dpkg knows some 500 architectures of at most 32 letters.
    file.take(64 << 10).read_to_string(&mut text)?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPENSSL: &str = "Package: openssl\nStatus: install ok installed\nArchitecture: amd64\n\
         Version: 3.0.17-1~deb12u2\nDepends: libc6 (>= 2.34),\n libssl3 (>= 3.0.9)\nDescription: x\n a: b\n .\n\n";

    fn versions(text: &str) -> Result<Vec<String>, String> {
        let mut found = Vec::new();
        read(text.as_bytes(), &["Depends"], &mut |stanza| {
            if stanza.status != Status::Absent {
                found.push(format!("{}:{}={}", stanza.name, stanza.architecture, stanza.version));
            }
            Ok(())
        })
        .map(|()| found)
        .map_err(|error| error.to_string())
    }

    #[test]
    fn a_package_counts_as_there_in_every_state_that_has_its_files() {
        for (status, there) in [
            ("install ok installed", true),
            ("hold ok installed", true),
            ("deinstall ok installed", true),
            ("install ok half-configured", true),
            ("install reinstreq half-installed", true),
            ("install ok unpacked", true),
            ("install ok triggers-pending", true),
            ("install ok triggers-awaited", true),
            ("deinstall ok config-files", false),
            ("purge ok not-installed", false),
        ] {
            let found = versions(&OPENSSL.replace("install ok installed", status)).unwrap();
            assert_eq!(found.len() == 1, there, "{status}");
        }
    }

    #[test]
    fn a_continued_field_is_read_whole_and_the_last_stanza_needs_no_empty_line() {
        let mut depends = String::new();
        read(OPENSSL.trim_end().as_bytes().chain(&b"\n"[..]), &["Depends"], &mut |stanza| {
            depends.clone_from(&stanza.fields[0].1);
            Ok(())
        })
        .unwrap();
        assert_eq!(depends, "libc6 (>= 2.34), libssl3 (>= 3.0.9)");
    }

    #[test]
    fn a_damaged_database_is_refused_with_its_line() {
        let two = format!("{OPENSSL}{OPENSSL}");
        for (text, reason) in [
            (two[..two.len() - 30].to_owned(), "line 16: the file ends in the middle of a line"),
            (two[..OPENSSL.len() + 45].to_owned(), "line 12: the file ends in the middle of a line"),
            (
                format!("{OPENSSL}Package: x\nStatus: install ok installed\n"),
                "line 11: the package `x` has no usable field `Version`",
            ),
            (
                OPENSSL.replace("Status: install ok installed", "Status: install ok"),
                "line 1: the package `openssl` has no usable field `Status`",
            ),
            (
                OPENSSL.replace("ok installed", "ok flying"),
                "line 1: the package `openssl` has the unknown state `flying`",
            ),
            (OPENSSL.replace("Package: openssl\n", ""), "line 1: the stanza has no field `Package`"),
            (
                OPENSSL.replace("Architecture: amd64", "Version: 2"),
                "line 4: the field `Version` is there twice",
            ),
            (OPENSSL.replace("openssl", "../x"), "line 1: `../x` is not a package name"),
            (
                OPENSSL.replace("Version: 3.0.17-1~deb12u2", "Version:"),
                "line 4: the field `Version` has no usable value",
            ),
            (format!("{OPENSSL}\0\0\0\0\n"), "line 11: it is neither a field nor its continuation"),
            (format!("{OPENSSL} lost\n"), "line 11: a continuation line without a field"),
            (format!("X: {}\n", "y".repeat(1 << 20)), "line 1: it is longer than 1 MiB"),
        ] {
            let error = versions(&text).unwrap_err();
            assert!(error.ends_with(reason), "{error} instead of {reason}");
        }
    }
}
