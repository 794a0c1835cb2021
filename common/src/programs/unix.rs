//! A process group, and the descendants that left it.

use std::{
    collections::BTreeSet, ffi::OsString, fs::File, io, os::unix::process::ExitStatusExt, path::Path,
    process::ExitStatus, time::Duration,
};

use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, Signal},
};
use tokio::process::Command;

use super::{End, Program};
use crate::processes::processes;

/// A process that starts others faster than it is found is a hostile one.
const KILL_ROUNDS: usize = 3;

/// What a program gets that is no package manager.
pub(super) fn environment() -> Vec<(&'static str, OsString)> {
    vec![
        ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin".into()),
        ("LC_ALL", "C.UTF-8".into()),
        ("HOME", "/root".into()),
    ]
}

/// A program that can be started.
#[derive(Debug)]
pub(super) struct Starter(Command);

impl Starter {
    /// In a process group of its own; the rest of the command line is one argument more here.
    pub(super) fn new(mut command: Command, program: &Program) -> Self {
        if !program.command_line.is_empty() {
            command.arg(&program.command_line);
        }
        command.process_group(0);
        Self(command)
    }

    pub(super) fn spawn(&mut self) -> io::Result<Child> {
        let child = self.0.spawn()?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Ok(Child { child, group })
    }
}

/// Makes a file that only its owner can open; writes go to its end wherever that is.
pub(super) fn create_output(path: &Path) -> io::Result<File> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::APPEND | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::from(0o600))?.into())
}

pub(super) fn end_of(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Exited(code),
        (None, signal) => End::Signalled(signal.unwrap_or(0)),
    }
}

/// A program that runs.
#[derive(Debug)]
pub(super) struct Child {
    child: tokio::process::Child,
    group: Option<Pid>,
}

impl Child {
    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Asks it to stop, and stops it and all that descends from it after `grace`.
    pub(super) async fn stop(&mut self, program: &Path, grace: Duration) -> io::Result<()> {
        let Some(group) = self.group else { return Ok(()) };
        let mut stopped = Stopped::new(group);
        stopped.signal(Signal::TERM);
        if tokio::time::timeout(grace, self.child.wait()).await.is_err() {
            tracing::warn!(program = %program.display(), "it did not stop when asked to, killing it");
        }
        // Also when the program itself is gone: its descendants may not be. Again, for those that were
        // started while the table of processes was read.
        for _ in 0..KILL_ROUNDS {
            stopped.signal(Signal::KILL);
        }
        self.child.wait().await.map(drop)
    }
}

/// What has to be stopped: a group and the descendants outside of it.
struct Stopped {
    group: Pid,
    /// Id and when it began, so that a process id that is used again is not taken for it.
    descendants: BTreeSet<(i32, u64)>,
}

impl Stopped {
    fn new(group: Pid) -> Self {
        Self { group, descendants: BTreeSet::new() }
    }

    /// Signals the group and everything that descends from its first process or was seen to before.
    fn signal(&mut self, signal: Signal) {
        let table = processes(Path::new("/proc")).unwrap_or_default();
        let mut known: BTreeSet<i32> = [self.group.as_raw_nonzero().get()].into();
        known.extend(self.descendants.iter().map(|(id, _)| *id));
        // Parents come after children when ids wrap around, so go on until nothing new is found.
        loop {
            let before = known.len();
            for process in &table {
                if known.contains(&process.parent) && known.insert(process.id) {
                    self.descendants.insert((process.id, process.began));
                }
            }
            if known.len() == before {
                break;
            }
        }
        // An error means that it is gone already.
        _ = rustix::process::kill_process_group(self.group, signal);
        for process in &table {
            if self.descendants.contains(&(process.id, process.began))
                && let Some(id) = Pid::from_raw(process.id)
            {
                _ = rustix::process::kill_process(id, signal);
            }
        }
    }
}
