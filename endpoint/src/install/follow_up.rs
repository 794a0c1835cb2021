//! What is done after updates were installed, from a closed list that the service level names.
//!
//! A program runs only from a blob whose digest a verified document names, checked on the way into place; as
//! root, without arguments or input, with a time limit, and only on the running system's own root. That
//! something is to be done is in the ledger until it was done: a crash has it done again, so a program must
//! bear being run twice.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tierway_common::{
    files,
    programs::{self, End, Program, RunError},
    schema::{Payload, policy::FollowUp},
    trust::digest::Digest,
};

use crate::install::{PayloadFetcher, Unavailable};

/// A longer program is not run: what is more than this is no follow-up.
const PROGRAM_BYTES_MAX: u64 = 64 << 20;
/// Of what it says.
const TAIL_BYTES_MAX: usize = 400;

/// A program that was not run, or failed.
#[derive(Debug, thiserror::Error)]
pub enum FollowUpError {
    /// The system that is patched is not the one that runs.
    #[error("the follow-up program {program} is not run: `{root}` is not the running system's root")]
    OtherRoot {
        /// Which program.
        program: Digest,
        /// The root.
        root: PathBuf,
    },
    /// It is not to be had.
    #[error("could not fetch the follow-up program {program}")]
    Fetch {
        /// Which.
        program: Digest,
        /// Why.
        source: Unavailable,
    },
    /// It could not be put into place.
    #[error("could not put the follow-up program {program} into place")]
    Place {
        /// Which.
        program: Digest,
        /// Why.
        source: io::Error,
    },
    /// What was fetched is something else.
    #[error("the follow-up program {program} is not what its digest says")]
    Corrupt {
        /// Which.
        program: Digest,
    },
    /// It did not start.
    #[error("could not run the follow-up program {program}")]
    Run {
        /// Which.
        program: Digest,
        /// Why.
        source: RunError,
    },
    /// It did not end well.
    #[error("the follow-up program {program} ended with {end:?}: {said}")]
    Failed {
        /// Which.
        program: Digest,
        /// How.
        end: End,
        /// The end of what it said.
        said: String,
    },
}

/// Runs the program that `action` names, if it names one; others are the agent's own to do. `scratch` is a
/// directory of this program's own.
///
/// # Errors
///
/// [`FollowUpError`].
pub async fn run<F: PayloadFetcher>(
    action: &FollowUp,
    payloads: &F,
    root: &Path,
    scratch: &Path,
) -> Result<(), FollowUpError> {
    let FollowUp::Run { program, bytes, limit } = action else { return Ok(()) };
    let program = *program;
    if root != Path::new("/") {
        return Err(FollowUpError::OtherRoot { program, root: root.to_owned() });
    }
    let payload = Payload { digest: program, bytes: *bytes, url: String::new() };
    payloads.ensure(&[payload]).await.map_err(|source| FollowUpError::Fetch { program, source })?;
    let path = scratch.join(format!("follow-up{}", std::env::consts::EXE_SUFFIX));
    let placed = place(payloads.path(&program), program, &path);
    let ran = match placed {
        Ok(()) => {
            let started = Program {
                path: path.clone(),
                arguments: Vec::new(),
                command_line: String::new(),
                directory: "/".into(),
                environment: programs::environment(),
                limit: *limit,
                grace: std::time::Duration::from_secs(10),
                tail_bytes_max: TAIL_BYTES_MAX,
            };
            tracing::info!(%program, "running a follow-up program");
            programs::run(&started, scratch).await.map_err(|source| FollowUpError::Run { program, source })
        }
        Err(error) => Err(error),
    };
    files::remove(&path).map_err(|source| FollowUpError::Place { program, source })?;
    let ran = ran?;
    match ran.end {
        End::Exited(0) => Ok(()),
        end => {
            let said = (ran.output.text + &ran.errors.text).trim().to_owned();
            Err(FollowUpError::Failed { program, end, said })
        }
    }
}

/// Copies the blob to `path`, checked, for its owner alone.
fn place(blob: Option<PathBuf>, program: Digest, path: &Path) -> Result<(), FollowUpError> {
    let error = |source| FollowUpError::Place { program, source };
    let blob = blob.ok_or_else(|| error(io::ErrorKind::NotFound.into()))?;
    let bytes = files::read_if_there(&blob, PROGRAM_BYTES_MAX).map_err(error)?;
    let bytes = bytes.ok_or_else(|| error(io::ErrorKind::NotFound.into()))?;
    if Digest::of(&bytes) != program {
        return Err(FollowUpError::Corrupt { program });
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(error)?;
    }
    files::replace(path, &bytes, 0o700).map_err(error)
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// One file, whatever is asked for.
    struct One(PathBuf);

    impl PayloadFetcher for One {
        async fn ensure(&self, _: &[Payload]) -> Result<(), Unavailable> {
            Ok(())
        }

        fn path(&self, _: &Digest) -> Option<PathBuf> {
            Some(self.0.clone())
        }
    }

    async fn check(script: &str, told: &str, root: &str) -> Result<(), String> {
        let directory = tempfile::tempdir().unwrap();
        let blob = directory.path().join("blob");
        fs::write(&blob, script).unwrap();
        let scratch = directory.path().join("scratch");
        let action = FollowUp::Run {
            program: Digest::of(told.as_bytes()),
            bytes: told.len() as u64,
            limit: Duration::from_millis(700),
        };
        let done = run(&action, &One(blob), Path::new(root), &scratch).await;
        assert!(!scratch.join("follow-up").exists(), "the program was left");
        done.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_program_runs_only_if_it_is_the_one_that_was_published_and_only_here() {
        let marked = tempfile::tempdir().unwrap();
        let mark = marked.path().join("ran");
        let script = format!("#!/bin/sh\ntest $# = 0 && touch {}\n", mark.display());
        assert!(check(&script, &script, "/srv/other").await.unwrap_err().contains("is not run"));
        assert!(
            check(&script, "#!/bin/sh\n", "/").await.unwrap_err().ends_with("is not what its digest says")
        );
        assert!(!mark.exists());
        check(&script, &script, "/").await.unwrap();
        assert!(mark.exists());
    }

    #[tokio::test]
    async fn one_that_fails_or_hangs_is_told() {
        let failing = "#!/bin/sh\necho out; echo err >&2; exit 3\n";
        let said = check(failing, failing, "/").await.unwrap_err();
        assert!(said.ends_with("ended with Exited(3): out\nerr"), "{said}");
        let hanging = "#!/bin/sh\nexec sleep 1000\n";
        let said = check(hanging, hanging, "/").await.unwrap_err();
        assert!(said.ends_with("ended with TimedOut: "), "{said}");
    }
}
