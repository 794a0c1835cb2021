//! The only module that starts programs: on endpoints and, on Windows, where rights of folders are set.
//!
//! A program gets a cleared environment, no input, a process group of its own and a time limit. Its output
//! goes to files without a name and not to pipes, so that a package manager that is at work when this
//! process dies goes on to its end; a file that grows beyond its limit is emptied, and the tail is kept.
//!
//! What is still running at the limit is asked to stop (SIGTERM) and then stopped (SIGKILL): the whole
//! group, and descendants that left it. On Windows its job is ended, which holds them all.

#[cfg_attr(unix, path = "programs/unix.rs")]
#[cfg_attr(windows, path = "programs/windows.rs")]
mod system;

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// How often the size of the output is looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// An output file that grew beyond this is emptied: an upgrade of a whole system prints about 1 MiB.
pub const OUTPUT_FILE_BYTES_MAX: u64 = 32 << 20;

/// How often and how long a program is waited for that is still open for writing.
const BUSY_TRIES: u32 = 100;
const BUSY_WAIT: Duration = Duration::from_millis(10);

/// A program and how it is run.
#[derive(Clone, Debug)]
pub struct Program {
    /// Absolute path.
    pub path: PathBuf,
    /// Arguments after the program's name.
    pub arguments: Vec<OsString>,
    /// What follows them as one text, in the way that Windows hands a command line to a program; mostly empty.
    pub command_line: String,
    /// Where it is run.
    pub directory: PathBuf,
    /// The whole environment.
    pub environment: Vec<(&'static str, OsString)>,
    /// After which it is stopped.
    pub limit: Duration,
    /// Between asking to stop and killing.
    pub grace: Duration,
    /// Bytes of the end of each output that are returned.
    pub tail_bytes_max: usize,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with this code.
    Exited(i32),
    /// By a signal from elsewhere.
    Signalled(i32),
    /// It was stopped at its time limit.
    TimedOut,
}

/// What a program left.
#[derive(Debug)]
pub struct Ran {
    /// How it ended.
    pub end: End,
    /// The end of its standard output.
    pub output: Tail,
    /// The end of its standard error.
    pub errors: Tail,
    /// From its start to its end.
    pub took: Duration,
}

/// The end of an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// As text, what is not UTF-8 replaced.
    pub text: String,
    /// Whether it is all there was.
    pub whole: bool,
}

/// A program that could not be run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No place for its output.
    #[error("could not make an output file in `{directory}`")]
    Output {
        /// Where.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It did not start.
    #[error("could not start `{program}`")]
    Start {
        /// Which.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It could not be waited for.
    #[error("could not wait for `{program}`")]
    Wait {
        /// Which.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What a program gets in its environment that needs nothing of its own there.
#[must_use]
pub fn environment() -> Vec<(&'static str, OsString)> {
    system::environment()
}

/// Runs `program` to its end or its time limit. `scratch` holds its nameless output files meanwhile.
///
/// When the returned future is dropped the program goes on.
///
/// # Errors
///
/// When it cannot be started or waited for; how it ended is no error.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub async fn run(program: &Program, scratch: &Path) -> Result<Ran, RunError> {
    let output = Output::new(scratch)?;
    let errors = Output::new(scratch)?;
    let began = Instant::now();
    let start = |source| RunError::Start { program: program.path.clone(), source };
    let mut command = tokio::process::Command::new(&program.path);
    command
        .args(&program.arguments)
        .env_clear()
        .envs(program.environment.iter().map(|(name, value)| (name, value)))
        .current_dir(&program.directory)
        .stdin(Stdio::null())
        .stdout(Stdio::from(output.file.try_clone().map_err(start)?))
        .stderr(Stdio::from(errors.file.try_clone().map_err(start)?))
        .kill_on_drop(false);
    let mut starter = system::Starter::new(command, program);
    let mut tries = 0;
    let mut child = loop {
        match starter.spawn() {
            // A program that was just written: a process that another thread is starting holds it open for
            // the moment until it becomes another program.
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES => {
                tries += 1;
                tokio::time::sleep(BUSY_WAIT).await;
            }
            started => break started.map_err(start)?,
        }
    };
    let wait = |source| RunError::Wait { program: program.path.clone(), source };

    let limit = tokio::time::sleep(program.limit);
    tokio::pin!(limit);
    let mut watch = tokio::time::interval(WATCH_INTERVAL);
    let ended = loop {
        tokio::select! {
            status = child.wait() => break Some(status.map_err(wait)?),
            () = &mut limit => break None,
            _ = watch.tick() => {
                output.bound();
                errors.bound();
            }
        }
    };
    let end = match ended {
        Some(status) => system::end_of(status),
        None => {
            child.stop(&program.path, program.grace).await.map_err(wait)?;
            End::TimedOut
        }
    };
    let (output, errors) = (output.tail(program.tail_bytes_max), errors.tail(program.tail_bytes_max));
    Ok(Ran { end, output, errors, took: began.elapsed() })
}

/// A file without a name; writes go to its end wherever that is.
struct Output {
    file: File,
}

impl Output {
    fn new(directory: &Path) -> Result<Self, RunError> {
        let error = |source| RunError::Output { directory: directory.to_owned(), source };
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("output-{}-{number}", std::process::id()));
        let file = system::create_output(&path).map_err(error)?;
        fs::remove_file(&path).map_err(error)?;
        Ok(Self { file })
    }

    /// Empties a file that grew too large.
    fn bound(&self) {
        if self.file.metadata().is_ok_and(|metadata| metadata.len() > OUTPUT_FILE_BYTES_MAX)
            && let Err(error) = self.file.set_len(0)
        {
            tracing::warn!(%error, "could not empty an output file");
        }
    }

    fn tail(&self, bytes_max: usize) -> Tail {
        let read = || -> io::Result<(Vec<u8>, bool)> {
            let mut file = &self.file;
            let length = file.metadata()?.len();
            let from = length.saturating_sub(bytes_max as u64);
            file.seek(SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            file.take(bytes_max as u64).read_to_end(&mut bytes)?;
            Ok((bytes, from == 0))
        };
        match read() {
            Ok((bytes, whole)) => Tail { text: String::from_utf8_lossy(&bytes).into_owned(), whole },
            Err(error) => {
                tracing::warn!(%error, "could not read a program's output");
                Tail { text: String::new(), whole: false }
            }
        }
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> Program {
        Program {
            path: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            command_line: String::new(),
            directory: "/".into(),
            environment: vec![("PATH", "/usr/bin:/bin".into()), ("ONLY", "this".into())],
            limit,
            grace: Duration::from_millis(200),
            tail_bytes_max: 64,
        }
    }

    async fn check(script: &str, limit: Duration) -> Ran {
        let scratch = tempfile::tempdir().unwrap();
        let ran = run(&shell(script, limit), scratch.path()).await.unwrap();
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0, "an output file was left");
        ran
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_program_sees_its_environment_only_and_has_no_input() {
        let ran =
            check("env | grep -v -e ^PWD -e ^_ -e ^SHLVL | sort; cat; echo late >&2; exit 3", LONG).await;
        assert_eq!(ran.end, End::Exited(3));
        assert_eq!(ran.output, Tail { text: "ONLY=this\nPATH=/usr/bin:/bin\n".to_owned(), whole: true });
        assert_eq!(ran.errors.text, "late\n");
    }

    #[tokio::test]
    async fn of_a_long_output_the_end_is_kept() {
        let ran = check("for i in 1 2 3 4 5 6 7 8 9; do echo 'a line of text'; done; echo end", LONG).await;
        assert!(ran.output.text.ends_with("end\n") && ran.output.text.len() == 64 && !ran.output.whole);
    }

    #[tokio::test]
    async fn a_program_that_is_signalled_is_told_from_one_that_exits() {
        assert_eq!(check("kill -9 $$", LONG).await.end, End::Signalled(9));
    }

    #[tokio::test]
    async fn at_the_limit_descendants_outside_the_group_are_stopped_even_when_they_ignore_the_request() {
        let directory = tempfile::tempdir().unwrap();
        let ids = directory.path().join("ids");
        let script =
            format!("setsid sh -c 'echo $$ >> {0}; exec sleep 1000' & echo $$ >> {0}; wait", ids.display());
        let ran = check(&script, Duration::from_millis(700)).await;
        assert_eq!(ran.end, End::TimedOut);
        let ids = fs::read_to_string(ids).unwrap();
        assert_eq!(ids.lines().count(), 2);
        // A killed process needs a moment to be gone, so each is looked at until it is, or far too long.
        let gone = |id: &str| {
            fs::read_to_string(format!("/proc/{id}/stat")).map_or(true, |stat| stat.contains(") Z "))
        };
        let all_gone = async {
            while !ids.lines().all(gone) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LONG, all_gone).await.expect("a descendant is still running");
    }

    #[tokio::test]
    async fn a_program_that_cannot_start_is_named() {
        let mut program = shell("", LONG);
        program.path = "/nonexistent/program".into();
        let error = run(&program, tempfile::tempdir().unwrap().path()).await.unwrap_err();
        assert_eq!(error.to_string(), "could not start `/nonexistent/program`");
    }
}
