//! Logins where no logind counts them: programs in front of which a terminal is.
//!
//! A process that leads its session and has a terminal is somebody's shell. What waits for a login is not
//! counted; a detached `tmux` or `screen` is, and is soon idle. Desktops are not seen this way.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Write,
    path::Path,
};

use jiff::Timestamp;
use rustix::fs::{Mode, OFlags};
use tierway_common::processes::Process;

use super::system::User;
use crate::people::{Seat, Session};

/// Logins told of; with more the first ones speak for all.
pub const SESSIONS_MAX: usize = 256;

/// Programs that wait in front of a terminal for somebody to come.
const WAITING: &[&str] = &["agetty", "getty", "mingetty", "login", "sulogin", "systemd-cryptse"];

/// Who sits in front of a terminal, ascending by process id. `dev` is where terminals are.
#[must_use]
pub fn sessions(processes: &[Process], dev: &Path, users: &[User]) -> Vec<Session> {
    processes
        .iter()
        .filter(|process| process.session == process.id && process.terminal != 0)
        .filter(|process| !WAITING.contains(&process.name.as_str()))
        .take(SESSIONS_MAX)
        .map(|process| {
            let id = terminal(process.terminal);
            let user = users.iter().find(|user| user.uid == process.uid);
            // The terminal's access time is that of the last key, as `w` shows it.
            let accessed = fs::metadata(dev.join(&id)).and_then(|metadata| metadata.accessed()).ok();
            Session {
                user: user.map_or_else(|| process.uid.to_string(), |user| user.name.clone()),
                uid: process.uid,
                seat: if is_remote(process, processes) { Seat::Remote } else { Seat::Terminal },
                idle_since: accessed.and_then(|accessed| Timestamp::try_from(accessed).ok()),
                locked: false,
                id,
            }
        })
        .collect()
}

/// Writes `text` to every terminal that somebody sits in front of; returns to how many. One that does not take
/// it at once is left out: it must not hold up the others.
pub fn tell(processes: &[Process], dev: &Path, text: &str) -> usize {
    let lines: Vec<String> =
        text.lines().map(|line| line.chars().filter(|c| !c.is_control()).collect()).collect();
    // A bell, and lines of their own in front of whatever is typed there.
    let message = format!("\x07\r\n{}\r\n", lines.join("\r\n"));
    let told: BTreeSet<String> =
        sessions(processes, dev, &[]).into_iter().map(|session| session.id).collect();
    told.iter()
        .filter(|id| {
            let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let opened = rustix::fs::open(dev.join(id), flags, Mode::empty());
            opened.is_ok_and(|terminal| File::from(terminal).write_all(message.as_bytes()).is_ok())
        })
        .count()
}

/// The name below `/dev` of a terminal, by the numbers of Linux's `devices.txt`.
fn terminal(device: u32) -> String {
    let major = (device >> 8) & 0xfff;
    let minor = (device & 0xff) | ((device >> 12) & 0xfff00);
    match (major, minor) {
        (4, 0..64) => format!("tty{minor}"),
        (4, 64..) => format!("ttyS{}", minor - 64),
        (136..144, _) => format!("pts/{}", (major - 136) * 256 + minor),
        _ => format!("char/{major}:{minor}"),
    }
}

fn is_remote(process: &Process, processes: &[Process]) -> bool {
    let mut parent = process.parent;
    // No chain of parents is longer than there are processes.
    for _ in 0..processes.len() {
        let Some(found) = processes.iter().find(|process| process.id == parent) else { return false };
        if found.name.starts_with("sshd") || found.name == "mosh-server" {
            return true;
        }
        parent = found.parent;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_is_somebody_and_what_waits_for_a_login_is_nobody() {
        let process = |id, parent, name: &str, uid, session, terminal| Process {
            id,
            parent,
            name: name.to_owned(),
            uid,
            session,
            terminal,
            began: 0,
        };
        let processes = [
            process(1, 0, "systemd", 0, 1, 0),
            process(10, 1, "agetty", 0, 10, 1025),
            process(11, 1, "sshd", 0, 11, 0),
            process(12, 11, "sshd-session", 1000, 11, 0),
            process(13, 12, "bash", 1000, 13, 34816 + 3),
            process(14, 13, "vim", 1000, 13, 34816 + 3),
            process(15, 1, "bash", 1001, 15, 1026),
        ];
        let users = [User { name: "ann".to_owned(), uid: 1000, home: "/home/ann".into() }];
        let dev = tempfile::tempdir().unwrap();
        fs::create_dir(dev.path().join("pts")).unwrap();
        fs::write(dev.path().join("pts/3"), "").unwrap();
        let found = sessions(&processes, dev.path(), &users);
        let found: Vec<_> = found
            .iter()
            .map(|s| (s.id.as_str(), s.user.as_str(), s.uid, s.seat, s.idle_since.is_some()))
            .collect();
        assert_eq!(
            found,
            [("pts/3", "ann", 1000, Seat::Remote, true), ("tty2", "1001", 1001, Seat::Terminal, false)]
        );
        assert_eq!(tell(&processes, dev.path(), "It reboots\x1b[2J.\nSave your work."), 1);
        let told = fs::read_to_string(dev.path().join("pts/3")).unwrap();
        assert_eq!(told, "\x07\r\nIt reboots[2J.\r\nSave your work.\r\n");
    }

    #[test]
    fn a_terminal_has_the_name_that_it_has_below_dev() {
        for (device, name) in
            [(1025, "tty1"), (1088, "ttyS0"), (34816, "pts/0"), (35072, "pts/256"), (1280, "char/5:0")]
        {
            assert_eq!(terminal(device), name);
        }
    }
}
