//! Why a command did not do what it was asked, and the exit code that says so.

use std::{error::Error, io, process::ExitCode};

use tierway_common::daemon::chain::Chain;
use tonic::{Code, Status};

/// Exit codes, the same for every command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: done.
    Ok,
    /// 1: it failed.
    Failed,
    /// 2: the command line or an argument is wrong.
    Usage,
    /// 3: `--fail-under`: fewer endpoints comply than asked.
    BelowThreshold,
    /// 4: answered, from stale or partial knowledge.
    Stale,
    /// 5: this operator may not do that.
    Denied,
    /// 6: what was planned does not rest on the same any more.
    Drifted,
}

impl Exit {
    /// The number.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::BelowThreshold => 3,
            Self::Stale => 4,
            Self::Denied => 5,
            Self::Drifted => 6,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// Why not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Central refused or could not be reached.
    #[error("could not {what}")]
    Call { what: String, source: Box<Status> },
    /// Something at this machine failed.
    #[error("could not {what}")]
    Local { what: String, source: Box<dyn Error + Send + Sync> },
    /// The request makes no sense as given.
    #[error("{0}")]
    Usage(String),
    /// A complete sentence about what is wrong.
    #[error("{0}")]
    Plain(String),
    /// Standard output or error.
    #[error("could not write the answer")]
    Write(#[from] io::Error),
}

impl Failure {
    /// For `map_err` on a call: `what` completes "could not …".
    pub(crate) fn call(what: impl Into<String>) -> impl FnOnce(Status) -> Self {
        move |status| Self::Call { what: what.into(), source: Box::new(status) }
    }

    /// For `map_err` on what happens at this machine: `what` completes "could not …".
    pub(crate) fn local<E: Into<Box<dyn Error + Send + Sync>>>(
        what: impl Into<String>,
    ) -> impl FnOnce(E) -> Self {
        move |error| Self::Local { what: what.into(), source: error.into() }
    }

    /// Which exit code says it.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Call { source, .. } => match source.code() {
                Code::PermissionDenied | Code::Unauthenticated => Exit::Denied,
                Code::InvalidArgument => Exit::Usage,
                _ => Exit::Failed,
            },
            Self::Usage(_) => Exit::Usage,
            Self::Write(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Ok,
            Self::Local { .. } | Self::Plain(_) | Self::Write(_) => Exit::Failed,
        }
    }

    /// The error and its causes, joined with `: `. What a call ended with is the last of them: below it
    /// tonic only repeats the text.
    pub(crate) fn chain(&self) -> String {
        match self {
            Self::Call { source, .. } => format!("{self}: {}", status_text(source)),
            _ => Chain(self).to_string(),
        }
    }
}

/// What central said, or else what the code means.
fn status_text(status: &Status) -> String {
    if status.message().is_empty() {
        status.code().description().to_lowercase()
    } else {
        status.message().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_tells_its_cause_once_and_has_the_exit_code_of_its_kind() {
        let call = |status| Failure::call("list endpoints")(status);
        for (failure, text, exit) in [
            (
                call(Status::permission_denied("operators may not")),
                "could not list endpoints: operators may not",
                1 + 4,
            ),
            (call(Status::not_found("no endpoint `x`")), "could not list endpoints: no endpoint `x`", 1),
            (
                call(Status::invalid_argument("`at` must be a time")),
                "could not list endpoints: `at` must be a time",
                2,
            ),
            (Failure::local("read `f`")(io::Error::other("gone")), "could not read `f`: gone", 1),
            (Failure::Usage("no".into()), "no", 2),
        ] {
            assert_eq!((failure.chain().as_str(), failure.exit().code()), (text, exit));
        }
    }

    #[test]
    fn a_status_without_a_message_says_what_its_code_means() {
        let failure = Failure::call("sync")(Status::new(Code::Unavailable, ""));
        assert_eq!(failure.chain(), "could not sync: the service is currently unavailable");
    }
}
