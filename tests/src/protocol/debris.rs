//! What a crash leaves on a file system: writes that were under way, beside what was written before; and bytes that
//! are others than they were.
//!
//! A file that is replaced as a whole leaves half of the new one under its other name, a journal half a line at its end, a
//! blob that was being fetched a part of it.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
};

use crate::simulation::random::Random;

/// Files that were being written at most.
const WRITES: u64 = 4;

/// Whether bytes on the disk change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rot {
    /// None: what lies here is nowhere else.
    Never,
    /// One of a blob.
    Sometimes,
}

/// Leaves what a crash may leave of files below `dir`.
pub fn leave(dir: &Path, random: &mut Random, rot: Rot) {
    let mut files = Vec::new();
    collect(dir, &mut files);
    files.sort();
    for _ in 0..random.below(WRITES) {
        let Some(path) = files.get(random.index(files.len())) else { return };
        let (Ok(content), Some(name)) = (fs::read(path), path.file_name().and_then(|name| name.to_str()))
        else {
            continue;
        };
        let half = &content[..content.len() / 2];
        if name.starts_with("journal-") {
            let torn = content.len().saturating_sub(20);
            append(path, &content[torn..content.len().saturating_sub(1)]);
        } else if let Some(blobs) = blobs_of(path, name) {
            if rot == Rot::Sometimes && random.percent(50) && !content.is_empty() {
                let mut rotten = content.clone();
                let at = random.index(rotten.len());
                rotten[at] ^= 4;
                fs::write(path, rotten).unwrap();
            } else {
                fs::write(blobs.join("partial").join(name), half).unwrap();
            }
        } else {
            let mut other = path.clone().into_os_string();
            other.push(".new");
            fs::write(other, half).unwrap();
        }
    }
}

fn append(path: &Path, bytes: &[u8]) {
    OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
}

/// The folder of blobs of which this is one.
fn blobs_of<'a>(path: &'a Path, name: &str) -> Option<&'a Path> {
    let fan = path.parent()?;
    let is_blob = name.len() == 64 && fan.file_name()?.to_str()? == &name[..2];
    is_blob.then(|| fan.parent()).flatten()
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_none_or(|extension| extension != "new") && !path.ends_with("lock") {
            files.push(path);
        }
    }
}
