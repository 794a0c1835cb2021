//! Which system it is: `os-release(5)` and the architecture.

use std::io::{self, Read};

use tierway_common::facts::Domain;

use super::root::Root;
use crate::scan::Collected;

/// `os-release` in its two places, in the order of os-release(5).
const PATHS: [&str; 2] = ["/etc/os-release", "/usr/lib/os-release"];

/// An `os-release` has about 300 bytes; what is larger is something else.
const OS_RELEASE_BYTES_MAX: u64 = 64 << 10;

/// Reads the domain `os`; `native` is dpkg's own architecture where the system has dpkg.
pub(in crate::scan) fn scan(root: &Root, native: Option<&str>, machine: &str, collected: &mut Collected) {
    for path in PATHS {
        let text = match read(root, path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && path == PATHS[0] => continue,
            Err(error) => {
                let reason = format!("could not read `{path}`: {error}");
                return collected.domain("os", Domain::Failed { source: path.to_owned(), reason });
            }
        };
        match parse(&text) {
            Ok(fields) => {
                for (name, value) in fields {
                    let key = match name {
                        "ID" => "os:family",
                        "VERSION_ID" => "os:version",
                        "VERSION_CODENAME" => "os:codename",
                        "BUILD_ID" => "os:build",
                        _ => continue,
                    };
                    collected.set(key, value);
                }
                let architecture = native.map_or_else(|| architecture(machine).to_owned(), str::to_owned);
                collected.set("os:architecture", architecture);
                return collected.domain("os", Domain::Complete { source: path.to_owned() });
            }
            Err(reason) => {
                let reason = format!("`{path}`: {reason}");
                return collected.domain("os", Domain::Failed { source: path.to_owned(), reason });
            }
        }
    }
}

fn read(root: &Root, path: &str) -> io::Result<String> {
    let mut text = String::new();
    root.file(path)?.take(OS_RELEASE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > OS_RELEASE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 64 KiB"));
    }
    Ok(text)
}

/// The variables of an `os-release` in their order, by the quoting rules of os-release(5).
///
/// # Errors
///
/// A sentence that names the line, when a line is not an assignment or `ID` is missing.
fn parse(text: &str) -> Result<Vec<(&str, String)>, String> {
    let mut fields = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let error = || format!("line {} is not a variable with a value", index + 1);
        let (name, value) = line.split_once('=').ok_or_else(error)?;
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(error());
        }
        fields.push((name, unquote(value).ok_or_else(error)?));
    }
    if !fields.iter().any(|(name, value)| *name == "ID" && !value.is_empty()) {
        return Err("`ID` is missing".to_owned());
    }
    Ok(fields)
}

fn unquote(value: &str) -> Option<String> {
    let quote = match value.as_bytes().first() {
        Some(b'"') => '"',
        Some(b'\'') => '\'',
        _ => return (!value.contains(['"', '\'', ' '])).then(|| value.to_owned()),
    };
    let inner = value.strip_prefix(quote)?.strip_suffix(quote)?;
    if quote == '\'' {
        return Some(inner.to_owned());
    }
    let mut text = String::with_capacity(inner.len());
    let mut escaped = false;
    for c in inner.chars() {
        if c == '\\' && !escaped {
            escaped = true;
        } else {
            text.push(c);
            escaped = false;
        }
    }
    (!escaped).then_some(text)
}

/// dpkg's name for a kernel's machine name, or that name itself where there is none here.
fn architecture(machine: &str) -> &str {
    match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "i386" | "i486" | "i586" | "i686" => "i386",
        "armv7l" | "armv8l" => "armhf",
        "ppc64le" => "ppc64el",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_by_the_quoting_rules() {
        let text = "# comment\nID=debian\nVERSION_ID=\"12\"\nVERSION='12 (bookworm)'\n\nX=\"a\\\"b\\$\"\n";
        let fields = parse(text).unwrap();
        let value = |name| fields.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str());
        assert_eq!(value("ID"), Some("debian"));
        assert_eq!(value("VERSION_ID"), Some("12"));
        assert_eq!(value("VERSION"), Some("12 (bookworm)"));
        assert_eq!(value("X"), Some("a\"b$"));
    }

    #[test]
    fn a_text_that_is_no_os_release_is_refused_with_its_line() {
        for (text, reason) in [
            ("ID=debian\n<html>\n", "line 2 is not a variable with a value"),
            ("ID=debian\nVERSION=\"12\n", "line 2 is not a variable with a value"),
            ("ID=debian x\n", "line 1 is not a variable with a value"),
            ("VERSION_ID=12\n", "`ID` is missing"),
            ("", "`ID` is missing"),
        ] {
            assert_eq!(parse(text).unwrap_err(), reason);
        }
    }
}
