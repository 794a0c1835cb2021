//! The files that rules ask for: whether they are there, their size and digest.

use std::io;

use tierway_common::facts::Domain;

use super::root::Root;
use crate::scan::{Asked, Collected, Problem, hash::Budget};

/// Reads the domain `file` as far as `asked`.
pub(in crate::scan) fn scan(root: &Root, asked: &Asked, collected: &mut Collected) {
    let mut budget = Budget::new();
    for path in &asked.files {
        if let Err(reason) = one(root, path, asked.hashed.contains(path), &mut budget, collected) {
            collected.problems.push(Problem(reason));
        }
    }
    asked.tell_refused(collected);
    collected.domain("file", Domain::Asked { source: root.path().display().to_string() });
}

fn one(
    root: &Root,
    path: &str,
    hashed: bool,
    budget: &mut Budget,
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
    let digest = budget.digest(path, metadata.len(), || root.file(path))?;
    collected.set(format!("file:{path}#sha256"), digest.to_string());
    Ok(())
}
