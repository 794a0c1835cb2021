//! The files that rules ask for: whether they are there, their size and digest.

use std::io::{self, Read};

use tierway_common::{
    facts::Domain,
    trust::digest::{Digest, Hasher},
};

use super::root::Root;
use crate::scan::{Asked, Collected, FILES_MAX, Problem};

/// A larger file is not digested, its `sha256` stays unknown: 64 MiB take about 0.05 s with SHA
/// instructions and 0.3 s without, and programs that rules compare by digest are smaller.
pub const FILE_HASH_BYTES_MAX: u64 = 64 << 20;

/// Digested in one scan over all files; what comes later stays unknown.
pub const SCAN_HASH_BYTES_MAX: u64 = 1 << 30;

const CHUNK_BYTES: usize = 64 << 10;

/// Reads the domain `file` as far as `asked`.
pub(in crate::scan) fn scan(root: &Root, asked: &Asked, collected: &mut Collected) {
    let mut budget = SCAN_HASH_BYTES_MAX;
    for path in &asked.files {
        if let Err(reason) = one(root, path, asked.hashed.contains(path), &mut budget, collected) {
            collected.problems.push(Problem(reason));
        }
    }
    if asked.refused > 0 {
        let text = format!("rules ask for more than {FILES_MAX} files, {} are not looked at", asked.refused);
        collected.problems.push(Problem(text));
    }
    collected.domain("file", Domain::Asked { source: root.path().display().to_string() });
}

fn one(
    root: &Root,
    path: &str,
    hashed: bool,
    budget: &mut u64,
    collected: &mut Collected,
) -> Result<(), String> {
    let key = format!("file:{path}");
    let absent =
        |error: &io::Error| matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
    // A path of another kind of system, such as `C:\Windows`, names nothing here.
    if !path.starts_with('/') {
        collected.set(key, "absent");
        return Ok(());
    }
    let metadata = match root.locate(path).and_then(|file| file.metadata()) {
        Ok(metadata) => metadata,
        Err(error) if absent(&error) => {
            collected.set(key, "absent");
            return Ok(());
        }
        Err(error) => return Err(format!("could not look at `{path}`: {error}")),
    };
    collected.set(key, "present");
    if !metadata.is_file() {
        return Ok(());
    }
    collected.set(format!("file:{path}#size"), metadata.len().to_string());
    if !hashed {
        return Ok(());
    }
    if metadata.len() > FILE_HASH_BYTES_MAX {
        return Err(format!("`{path}` has {} bytes, too many to digest", metadata.len()));
    }
    if metadata.len() > *budget {
        return Err(format!("`{path}` was not digested: the scan's limit is reached"));
    }
    let (digest, bytes) = digest(root, path).map_err(|error| format!("could not read `{path}`: {error}"))?;
    *budget = budget.saturating_sub(bytes);
    collected.set(format!("file:{path}#sha256"), digest.to_string());
    Ok(())
}

/// Digest and length; fails when the file grew beyond the limit since it was looked at.
fn digest(root: &Root, path: &str) -> io::Result<(Digest, u64)> {
    let mut file = root.file(path)?.take(FILE_HASH_BYTES_MAX + 1);
    let mut hasher = Hasher::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut bytes = 0;
    loop {
        let read = match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&chunk[..read]);
        bytes += read as u64;
    }
    if bytes > FILE_HASH_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it grew while it was read"));
    }
    Ok((hasher.finish(), bytes))
}
