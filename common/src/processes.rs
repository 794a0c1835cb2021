//! The processes of the running system, as `/proc` tells of them.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

/// Processes looked at; Linux has at most 4,194,304.
pub const PROCESSES_MAX: usize = 65_536;

/// One process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub id: i32,
    /// Its parent's id.
    pub parent: i32,
    /// The first 15 bytes of its program's name.
    pub name: String,
    /// Its user.
    pub uid: u32,
    /// The id of the first process of its session.
    pub session: i32,
    /// Its terminal as a device number, 0 without one.
    pub terminal: u32,
    /// When it began, in clock ticks since the boot: a process id that is used again has another.
    pub began: u64,
}

/// The processes below `proc`, at most [`PROCESSES_MAX`], ascending by id. One that ends meanwhile is left out.
///
/// # Errors
///
/// When the directory cannot be read.
pub fn processes(proc: &Path) -> io::Result<Vec<Process>> {
    let mut found: Vec<Process> =
        fs::read_dir(proc)?.filter_map(|entry| process(&entry.ok()?.path())).take(PROCESSES_MAX).collect();
    found.sort_by_key(|process| process.id);
    Ok(found)
}

fn process(path: &Path) -> Option<Process> {
    let id = path.file_name()?.to_str()?.parse().ok()?;
    let uid = fs::metadata(path).ok()?.uid();
    let stat = String::from_utf8_lossy(&fs::read(path.join("stat")).ok()?).into_owned();
    // proc(5): the name in parentheses may hold anything. After it: state (field 3), parent, group, session,
    // terminal (7), and the start (22).
    let (name, rest) = stat.rsplit_once(") ")?;
    let (_, name) = name.split_once('(')?;
    let mut fields = rest.split(' ');
    let parent = fields.nth(1)?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    let terminal = fields.next()?.parse::<i64>().ok()?;
    let terminal = u32::try_from(terminal & 0xffff_ffff).ok()?;
    let began = fields.nth(14)?.parse().ok()?;
    Some(Process { id, parent, name: name.to_owned(), uid, session, terminal, began })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_is_read_whole() {
        let proc = tempfile::tempdir().unwrap();
        let path = proc.path().join("42");
        fs::create_dir(&path).unwrap();
        fs::write(
            path.join("stat"),
            "42 (a) b) S 7 42 40 34817 8 9 10 11 12 13 14 15 16 17 18 19 20 21 2222 23\n",
        )
        .unwrap();
        let found = processes(proc.path()).unwrap();
        let uid = fs::metadata(&path).unwrap().uid();
        let name = "a) b".to_owned();
        assert_eq!(
            found,
            [Process { id: 42, parent: 7, name, uid, session: 40, terminal: 34817, began: 2222 }]
        );
    }

    #[test]
    fn this_process_is_among_those_of_the_system() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(processes(Path::new("/proc")).unwrap().iter().any(|process| process.id == own));
    }
}
