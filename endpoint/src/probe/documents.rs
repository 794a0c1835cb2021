//! Documents that seem to be open: those beside which their editor left a lock.
//!
//! A heuristic with limits: only in homes of people who are logged in, only so deep, only editors that leave
//! locks (LibreOffice, Vim, Emacs, Kate), and whether something is unsaved is not known. A lock counts only
//! while its editor runs, so that one that a crash left holds nothing back.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::processes::Process;
use crate::people::Document;

/// Folders below a home are looked into this deep: `~/Documents/project/part`.
const DEPTH_MAX: usize = 4;
/// Directory entries looked at in one look, all homes together: about 50 ms.
const ENTRIES_MAX: usize = 20_000;
/// Documents told of; one is enough to hold a reboot back.
const DOCUMENTS_MAX: usize = 32;

/// Documents open below `homes`, ascending by path, at most `DOCUMENTS_MAX`. Locks from before the system
/// `booted` are not believed.
#[must_use]
pub fn open<'a>(
    homes: impl IntoIterator<Item = &'a Path>,
    processes: &[Process],
    booted: Option<Timestamp>,
) -> Vec<Document> {
    let mut found = Vec::new();
    let mut entries = ENTRIES_MAX;
    for home in homes {
        // What is mounted into a home may hang.
        let Ok(device) = fs::metadata(home).map(|metadata| metadata.dev()) else { continue };
        walk(home, device, DEPTH_MAX, &mut entries, &mut |path, metadata| {
            let written = metadata.modified().ok().and_then(|time| Timestamp::try_from(time).ok());
            let stale = matches!((written, booted), (Some(written), Some(booted)) if written < booted);
            if stale || found.len() >= DOCUMENTS_MAX {
                return;
            }
            if let Some((document, program)) = locked(path, metadata.uid(), processes) {
                let path = document.to_string_lossy().into_owned();
                found.push(Document { path, program: program.to_owned(), uid: metadata.uid() });
            }
        });
    }
    found.sort();
    found
}

fn walk(
    folder: &Path,
    device: u64,
    depth: usize,
    entries: &mut usize,
    found: &mut dyn FnMut(&Path, &fs::Metadata),
) {
    let Ok(listed) = fs::read_dir(folder) else { return };
    let mut folders = Vec::new();
    for entry in listed.filter_map(Result::ok) {
        let Some(left) = entries.checked_sub(1) else { return };
        *entries = left;
        let Ok(metadata) = entry.metadata() else { continue };
        let name = entry.file_name();
        let hidden = name.as_encoded_bytes().starts_with(b".");
        if !metadata.is_dir() {
            found(&entry.path(), &metadata);
        } else if !hidden && metadata.dev() == device {
            folders.push(entry.path());
        }
    }
    if depth > 0 {
        for folder in folders {
            walk(&folder, device, depth - 1, entries, found);
        }
    }
}

/// The document that the file at `path` is a lock of, and the program that runs and has it open.
fn locked(path: &Path, uid: u32, processes: &[Process]) -> Option<(PathBuf, &'static str)> {
    let name = path.file_name()?.to_str()?;
    let runs = |names: &[&str]| {
        processes.iter().any(|process| process.uid == uid && names.contains(&process.name.as_str()))
    };
    let (document, program, open) =
        if let Some(name) = name.strip_prefix(".~lock.").and_then(|name| name.strip_suffix('#')) {
            (name, "LibreOffice", runs(&["soffice.bin", "oosplash"]))
        } else if let Some(name) = name.strip_prefix(".#") {
            // A link to `user@host.process:boot`.
            let link = fs::read_link(path).ok()?;
            let id = link.to_str()?.rsplit_once('.')?.1.split(':').next()?.parse::<i32>().ok()?;
            (name, "Emacs", processes.iter().any(|process| process.id == id))
        } else if let Some(name) = name.strip_prefix('.').and_then(|name| name.strip_suffix(".kate-swp")) {
            (name, "Kate", runs(&["kate", "kwrite"]))
        } else if let Some((name, _)) = name.strip_prefix('.').and_then(|name| name.rsplit_once(".sw")) {
            (name, "Vim", vim_runs(path, processes))
        } else {
            return None;
        };
    (open && !document.is_empty()).then(|| (path.with_file_name(document), program))
}

/// Whether the Vim that wrote a swap file runs. Its header: `b0VIM 9.0` and zeros, 10 bytes from `b0`; page
/// size, time and inode of 4 bytes each; then its process id, least significant byte first.
fn vim_runs(path: &Path, processes: &[Process]) -> bool {
    let mut header = [0; 28];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut header));
    let id = i32::from_le_bytes([header[24], header[25], header[26], header[27]]);
    read.is_ok() && header.starts_with(b"b0") && processes.iter().any(|process| process.id == id)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn swap(id: i32) -> Vec<u8> {
        let mut header = b"b0VIM 9.0\0".to_vec();
        header.resize(24, 0);
        header.extend(id.to_le_bytes());
        header.resize(4096, 0);
        header
    }

    #[test]
    fn a_document_is_open_while_the_editor_that_locked_it_runs() {
        let home = tempfile::tempdir().unwrap();
        let at = |path: &str| home.path().join(path);
        let uid = fs::metadata(home.path()).unwrap().uid();
        for folder in ["Documents/a/b/c/d", ".cache", "work"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        for lock in
            [".~lock.offer.odt#", "Documents/a/b/c/.~lock.deep.odt#", "Documents/a/b/c/d/.~lock.too.odt#"]
        {
            fs::write(at(lock), ",ann,pc,,").unwrap();
        }
        fs::write(at(".cache/.~lock.hidden.odt#"), "").unwrap();
        fs::write(at("work/.main.rs.swp"), swap(70)).unwrap();
        fs::write(at("work/.left.rs.swp"), swap(71)).unwrap();
        fs::write(at("work/.no.swp"), "short").unwrap();
        symlink("ann@pc.72:1700000000", at("work/.#notes.org")).unwrap();
        symlink("ann@pc.73:1700000000", at("work/.#gone.org")).unwrap();
        fs::write(at("work/.letter.txt.kate-swp"), "").unwrap();
        let process = |id, name: &str| Process {
            id,
            parent: 1,
            name: name.to_owned(),
            uid,
            session: id,
            terminal: 0,
            began: 0,
        };
        let running = [process(70, "vim"), process(72, "emacs"), process(74, "soffice.bin")];
        let names = |processes: &[Process], booted| -> Vec<_> {
            open([home.path()], processes, booted)
                .into_iter()
                .map(|document| {
                    let path = Path::new(&document.path).strip_prefix(home.path()).unwrap().to_owned();
                    (path.to_str().unwrap().to_owned(), document.program)
                })
                .collect()
        };
        let expected = [
            ("Documents/a/b/c/deep.odt", "LibreOffice"),
            ("offer.odt", "LibreOffice"),
            ("work/main.rs", "Vim"),
            ("work/notes.org", "Emacs"),
        ]
        .map(|(path, program)| (path.to_owned(), program.to_owned()));
        assert_eq!(names(&running, None), expected);
        assert_eq!(names(&[], None), []);
        assert_eq!(names(&running, Some("2200-01-01T00:00:00Z".parse().unwrap())), []);
    }
}
