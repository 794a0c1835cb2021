//! An invitation that waits: a token that an installer left, by which a service joins when it can.
//!
//! It is a file in the data folder that only the system's administrators can read, and it is deleted as soon as
//! the computer has its identity. An installer does not wait for a network; the service tries until it is let in.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tierway_common::{
    daemon::{chain::Chain, stop::Stop},
    enrollment::Token,
    files, host,
    transport::identity::Role,
};

use crate::joining::{self, JoinError};

/// Of the file: a token has some 300 bytes.
const INVITATION_BYTES_MAX: u64 = 16 << 10;
/// How often it is tried, and how often it is looked whether there is one: about as long as a network needs.
const TRY_EVERY: Duration = Duration::from_secs(30);

/// Who follows an invitation.
#[derive(Clone, Copy, Debug)]
pub struct Guest {
    /// What it is, and must be let in as.
    pub role: Role,
    /// The version of its program.
    pub agent_version: &'static str,
}

/// A token, and where to use it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invitation {
    /// As `tierctl` printed it.
    pub token: String,
    /// Instead of where the token says, `host:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
}

/// An invitation that cannot be kept or followed.
#[derive(Debug, thiserror::Error)]
pub enum InvitationError {
    /// The file.
    #[error("could not {doing} `{path}`")]
    File {
        /// As a verb.
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not one.
    #[error("`{path}` is no invitation")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Its token is none.
    #[error("could not read the token")]
    Token(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Nobody let the computer in, or not as what it is.
    #[error("could not enrol")]
    Join(#[from] JoinError),
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("invitation.json")
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InvitationError {
    let path = path.to_owned();
    move |source| InvitationError::File { doing, path, source }
}

impl Invitation {
    /// Leaves it in the data folder, which is there already, for the service to find; an older one is replaced.
    ///
    /// # Errors
    ///
    /// [`InvitationError::Token`] when the token is none, and when the file cannot be written.
    pub fn leave(&self, data_dir: &Path) -> Result<(), InvitationError> {
        self.parsed()?;
        let path = path(data_dir);
        let bytes = serde_json::to_vec(self)
            .map_err(|source| InvitationError::Malformed { path: path.clone(), source })?;
        files::replace(&path, &bytes, 0o600).map_err(failed("write", &path))
    }

    /// The one that waits; `None` without one.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or is none.
    pub fn found(data_dir: &Path) -> Result<Option<Self>, InvitationError> {
        let path = path(data_dir);
        let bytes = files::read_if_there(&path, INVITATION_BYTES_MAX).map_err(failed("read", &path))?;
        let Some(bytes) = bytes else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|source| InvitationError::Malformed { path, source })
    }

    fn parsed(&self) -> Result<Token, InvitationError> {
        self.token.parse().map_err(|error| InvitationError::Token(Box::new(error)))
    }

    /// Enrols by it.
    async fn follow(&self, data_dir: &Path, guest: Guest) -> Result<(), InvitationError> {
        let token = self.parsed()?;
        joining::must_be_for(&token, guest.role)?;
        let (server, host) = (self.server.as_deref(), host::name());
        let joined = joining::join(&token, server, None, &host, guest.agent_version, data_dir).await?;
        if let Err(error) = joined.must_be(guest.role) {
            joining::leave(data_dir)?;
            return Err(error.into());
        }
        tracing::info!(holder = %joined.identity.own().holder, "enrolled by an invitation");
        Ok(())
    }
}

/// Returns when the computer has an identity: at once, or as soon as the invitation that waits, or one that
/// comes, could be followed, or somebody enrols it by hand; or when `stop` is requested. The invitation is gone
/// then.
///
/// # Errors
///
/// When the identity that is there is broken, or the invitation cannot be deleted.
pub async fn joined(data_dir: &Path, guest: Guest, stop: &Stop) -> Result<(), InvitationError> {
    let mut told = false;
    while !stop.requested() {
        match joining::load(data_dir) {
            Ok(_) => {
                let path = path(data_dir);
                return files::remove(&path).map_err(failed("delete", &path));
            }
            Err(JoinError::NotJoined { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let followed = match Invitation::found(data_dir) {
            Ok(Some(invitation)) => invitation.follow(data_dir, guest).await,
            Ok(None) => {
                if !told {
                    tracing::warn!(
                        "this computer has not enrolled, and has no invitation: waiting for either"
                    );
                    told = true;
                }
                wait(stop).await;
                continue;
            }
            Err(error) => Err(error),
        };
        if let Err(error) = followed {
            tracing::warn!(error = %Chain(&error), "could not enrol, trying again");
            wait(stop).await;
        }
    }
    Ok(())
}

async fn wait(stop: &Stop) {
    tokio::select! {
        () = stop.wait() => {}
        () = tokio::time::sleep(TRY_EVERY) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invitation_is_found_as_it_was_left_and_nothing_else_is_taken_for_one() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Invitation::found(folder.path()).unwrap(), None);
        let bad = Invitation { token: "no token".to_owned(), server: None };
        assert!(matches!(bad.leave(folder.path()), Err(InvitationError::Token(_))));
        std::fs::write(folder.path().join("invitation.json"), "{}").unwrap();
        assert!(matches!(Invitation::found(folder.path()), Err(InvitationError::Malformed { .. })));
        let kept = br#"{"token":"t","server":"relay:7444"}"#;
        std::fs::write(folder.path().join("invitation.json"), kept).unwrap();
        let server = Some("relay:7444".to_owned());
        assert_eq!(
            Invitation::found(folder.path()).unwrap(),
            Some(Invitation { token: "t".to_owned(), server })
        );
    }

    #[tokio::test]
    async fn a_computer_without_an_invitation_waits_until_it_is_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let stop = Stop::new();
        let guest = Guest { role: Role::Relay, agent_version: "1" };
        let waiting = joined(folder.path(), guest, &stop);
        let stopping = async { stop.request() };
        let (joined, ()) = tokio::join!(waiting, stopping);
        joined.unwrap();
    }
}
