//! Documents that seem to be open: those beside which their editor left a lock.
//!
//! A heuristic with limits: only in homes of people who are logged in, only so deep, only editors that leave
//! locks (LibreOffice, Vim, Emacs, Kate), and whether something is unsaved is not known. A lock counts only
//! while its editor runs, so that one that a crash left holds nothing back.

use std::{
    fs::File,
    io::Read,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use jiff::Timestamp;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use tierway_common::processes::Process;

use crate::people::Document;

/// Folders below a home are looked into this deep: `~/Documents/project/part`.
const DEPTH_MAX: usize = 4;
/// Directory entries looked at in one look, all homes together: about 50 ms.
const ENTRIES_MAX: usize = 20_000;
/// Documents told of; one is enough to hold a reboot back.
const DOCUMENTS_MAX: usize = 32;

/// How a folder is opened that is looked into. Whoever owns a home may put anything into it while it is looked
/// at, so what is below it is opened through its folder, and no link is followed.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// The same for a lock that is read: not waited for either, should it have become something else.
const LOCK: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

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
        // The home itself may be a link of the administrator's.
        let Ok(folder) = rustix::fs::openat(CWD, home, FOLDER.difference(OFlags::NOFOLLOW), Mode::empty())
        else {
            continue;
        };
        // What is mounted into a home may hang.
        let Ok(device) = rustix::fs::fstat(&folder).map(|stat| stat.st_dev) else { continue };
        walk(&folder, home, device, DEPTH_MAX, &mut entries, &mut |entry| {
            let written = Timestamp::new(entry.stat.st_mtime, 0).ok();
            let stale = matches!((written, booted), (Some(written), Some(booted)) if written < booted);
            if stale || found.len() >= DOCUMENTS_MAX {
                return;
            }
            if let Some((document, program)) = locked(entry, processes) {
                let path = entry.path.join(document).to_string_lossy().into_owned();
                found.push(Document { path, program: program.to_owned(), uid: entry.stat.st_uid });
            }
        });
    }
    found.sort();
    found
}

/// Something in a folder that is no folder.
struct Entry<'a> {
    folder: BorrowedFd<'a>,
    /// Of the folder.
    path: &'a Path,
    name: &'a str,
    /// Of itself and not of what it links to.
    stat: Stat,
}

impl Entry<'_> {
    fn is(&self, kind: FileType) -> bool {
        FileType::from_raw_mode(self.stat.st_mode) == kind
    }
}

fn walk(
    folder: &OwnedFd,
    path: &Path,
    device: u64,
    depth: usize,
    entries: &mut usize,
    found: &mut dyn FnMut(&Entry<'_>),
) {
    let Ok(listed) = Dir::read_from(folder) else { return };
    let mut folders = Vec::new();
    for entry in listed.filter_map(Result::ok) {
        let Ok(name) = entry.file_name().to_str() else { continue };
        if matches!(name, "." | "..") {
            continue;
        }
        let Some(left) = entries.checked_sub(1) else { return };
        *entries = left;
        let Ok(stat) = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let entry = Entry { folder: folder.as_fd(), path, name, stat };
        if !entry.is(FileType::Directory) {
            found(&entry);
        } else if !name.starts_with('.') && stat.st_dev == device {
            folders.push(name.to_owned());
        }
    }
    if depth > 0 {
        for name in folders {
            let opened = rustix::fs::openat(folder, &name, FOLDER, Mode::empty());
            let same = |opened: &OwnedFd| rustix::fs::fstat(opened).is_ok_and(|stat| stat.st_dev == device);
            if let Some(opened) = opened.ok().filter(same) {
                walk(&opened, &path.join(name), device, depth - 1, entries, found);
            }
        }
    }
}

/// The name of the document that `entry` is a lock of, and the program that runs and has it open.
fn locked<'a>(entry: &Entry<'a>, processes: &[Process]) -> Option<(&'a str, &'static str)> {
    let name = entry.name;
    let runs = |names: &[&str]| {
        let uid = entry.stat.st_uid;
        processes.iter().any(|process| process.uid == uid && names.contains(&process.name.as_str()))
    };
    if let Some(document) = name.strip_prefix(".#").filter(|document| !document.is_empty()) {
        // A link to `user@host.process:boot`, which leads nowhere and is only read.
        let link = entry.is(FileType::Symlink).then(|| rustix::fs::readlinkat(entry.folder, name, []));
        let link = link?.ok()?.into_string().ok()?;
        let id = link.rsplit_once('.')?.1.split(':').next()?.parse::<i32>().ok()?;
        return processes.iter().any(|process| process.id == id).then_some((document, "Emacs"));
    }
    if !entry.is(FileType::RegularFile) {
        return None;
    }
    let (document, program, open) =
        if let Some(name) = name.strip_prefix(".~lock.").and_then(|name| name.strip_suffix('#')) {
            (name, "LibreOffice", runs(&["soffice.bin", "oosplash"]))
        } else if let Some(name) = name.strip_prefix('.').and_then(|name| name.strip_suffix(".kate-swp")) {
            (name, "Kate", runs(&["kate", "kwrite"]))
        } else if let Some((name, _)) = name.strip_prefix('.').and_then(|name| name.rsplit_once(".sw")) {
            (name, "Vim", vim_runs(entry, processes))
        } else {
            return None;
        };
    (open && !document.is_empty()).then_some((document, program))
}

/// Whether the Vim that wrote a swap file runs. Its header: `b0VIM 9.0` and zeros, 10 bytes from `b0`; page
/// size, time and inode of 4 bytes each; then its process id, least significant byte first.
fn vim_runs(entry: &Entry<'_>, processes: &[Process]) -> bool {
    let Ok(file) = rustix::fs::openat(entry.folder, entry.name, LOCK, Mode::empty()) else { return false };
    // What is open may be something else than what was listed.
    let same = |stat: Stat| (stat.st_dev, stat.st_ino) == (entry.stat.st_dev, entry.stat.st_ino);
    if !rustix::fs::fstat(&file).is_ok_and(same) {
        return false;
    }
    let mut header = [0; 28];
    let read = File::from(file).read_exact(&mut header);
    let id = i32::from_le_bytes([header[24], header[25], header[26], header[27]]);
    read.is_ok() && header.starts_with(b"b0") && processes.iter().any(|process| process.id == id)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, symlink},
        sync::mpsc,
        time::Duration,
    };

    use super::*;

    fn swap(id: i32) -> Vec<u8> {
        let mut header = b"b0VIM 9.0\0".to_vec();
        header.resize(24, 0);
        header.extend(id.to_le_bytes());
        header.resize(4096, 0);
        header
    }

    fn process(id: i32, name: &str, uid: u32) -> Process {
        Process { id, parent: 1, name: name.to_owned(), uid, session: id, terminal: 0, began: 0 }
    }

    #[test]
    fn what_is_no_file_is_not_opened_whatever_its_name() {
        let (home, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = |name: &str| home.path().join(name);
        let uid = fs::metadata(home.path()).unwrap().uid();
        fs::write(elsewhere.path().join("real.swp"), swap(70)).unwrap();
        // Who opens a pipe waits until somebody writes to it.
        for name in [".pipe.swp", ".~lock.pipe.odt#", ".pipe.kate-swp", ".#pipe"] {
            let mode = Mode::RWXU;
            rustix::fs::mknodat(CWD, at(name), FileType::Fifo, mode, 0).unwrap();
        }
        for name in [".link.swp", ".~lock.link.odt#", ".link.kate-swp"] {
            symlink(elsewhere.path().join("real.swp"), at(name)).unwrap();
        }
        fs::write(at(".#file"), "ann@pc.70:1700000000").unwrap();
        symlink(elsewhere.path(), at("folder")).unwrap();
        fs::write(elsewhere.path().join(".there.swp"), swap(70)).unwrap();
        let running = [process(70, "vim", uid), process(71, "soffice.bin", uid), process(72, "kate", uid)];
        let (done, found) = mpsc::channel();
        let looked = home.path().to_owned();
        std::thread::spawn(move || done.send(open([looked.as_path()], &running, None)));
        let found = found.recv_timeout(Duration::from_secs(20)).expect("the look does not end");
        assert_eq!(found, []);
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
        let process = |id, name: &str| process(id, name, uid);
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
