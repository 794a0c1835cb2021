//! A job object, which holds a program and all that descends from it.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io,
    path::Path,
    process::ExitStatus,
    time::Duration,
};

use process_wrap::tokio::{ChildWrapper, CommandWrap, JobObject};
use tokio::process::Command;

use super::{End, Program};

/// What programs need of the service's own environment to find the system's parts.
const INHERITED: &[&str] = &[
    "ALLUSERSPROFILE",
    "CommonProgramFiles",
    "CommonProgramFiles(x86)",
    "CommonProgramW6432",
    "ComSpec",
    "COMPUTERNAME",
    "NUMBER_OF_PROCESSORS",
    "OS",
    "Path",
    "PATHEXT",
    "PROCESSOR_ARCHITECTURE",
    "ProgramData",
    "ProgramFiles",
    "ProgramFiles(x86)",
    "ProgramW6432",
    "PUBLIC",
    "SystemDrive",
    "SystemRoot",
    "TEMP",
    "TMP",
    "USERPROFILE",
    "windir",
];

pub(super) fn environment() -> Vec<(&'static str, OsString)> {
    std::env::vars_os()
        .filter_map(|(name, value)| {
            let name = name.to_str()?;
            let known = INHERITED.iter().find(|known| known.eq_ignore_ascii_case(name))?;
            Some((*known, value))
        })
        .collect()
}

/// A program that can be started.
#[derive(Debug)]
pub(super) struct Starter(CommandWrap);

impl Starter {
    /// In a job of its own; the rest of the command line is handed over as it is, as its author wrote it for
    /// Windows.
    pub(super) fn new(mut command: Command, program: &Program) -> Self {
        if !program.command_line.is_empty() {
            command.raw_arg(&program.command_line);
        }
        let mut wrapped = CommandWrap::from(command);
        wrapped.wrap(JobObject);
        Self(wrapped)
    }

    pub(super) fn spawn(&mut self) -> io::Result<Child> {
        Ok(Child { job: self.0.spawn()? })
    }
}

/// Who may open it is inherited from its folder.
pub(super) fn create_output(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create_new(true).open(path)
}

pub(super) fn end_of(status: ExitStatus) -> End {
    End::Exited(status.code().unwrap_or(-1))
}

/// A program that runs.
#[derive(Debug)]
pub(super) struct Child {
    job: Box<dyn ChildWrapper>,
}

impl Child {
    /// Until the program itself has ended: what an installer leaves running is not waited for.
    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.job.inner_mut().wait().await
    }

    /// Ends the job. There is no way to ask a program without a window.
    pub(super) async fn stop(&mut self, program: &Path, _: Duration) -> io::Result<()> {
        tracing::warn!(program = %program.display(), "it did not end in time, ending it and what it started");
        self.job.start_kill()?;
        self.job.inner_mut().wait().await.map(drop)
    }
}
