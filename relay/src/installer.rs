//! What the installer for Windows has the relay do: keep what it was told, and delete all of it.

use std::{
    io,
    net::{AddrParseError, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use tierway_common::{
    files,
    windows::folder::{self, FolderError},
};
use tierway_proto::invitation::{Invitation, InvitationError};

use crate::{
    config::{Config, FILE},
    service::data_folder,
};

/// What the installer asked for was not done.
#[derive(Debug, thiserror::Error)]
pub enum InstallerError {
    /// The data folder.
    #[error("the data folder is not safe")]
    Folder(#[from] FolderError),
    /// The invitation.
    #[error("could not leave the invitation")]
    Invitation(#[from] InvitationError),
    /// Where to listen is no address.
    #[error("`{listen}` is not an address and a port such as `[::]:7444`")]
    Listen {
        /// What was given.
        listen: String,
        /// Why.
        source: AddrParseError,
    },
    /// A file or folder.
    #[error("could not {doing} `{path}`")]
    File {
        /// As a verb.
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Has only administrators get into the data folder, before a secret is put there.
///
/// # Errors
///
/// As [`folder::secure`].
pub async fn secure(data_dir: &Path) -> Result<(), FolderError> {
    folder::secure_and_tell(data_folder(data_dir, &Config::default().data_dir)).await
}

/// Leaves an invitation for the service to join by. Where to listen is written as the configuration, unless there
/// is one; an empty text stands for what holds by itself.
///
/// # Errors
///
/// When the folder cannot be made safe, the token or the address is none, or a file cannot be written.
pub async fn invite(
    data_dir: &Path,
    token: String,
    server: &str,
    listen: &str,
) -> Result<(), InstallerError> {
    secure(data_dir).await?;
    if !listen.is_empty() {
        let address: SocketAddr =
            listen.parse().map_err(|source| InstallerError::Listen { listen: listen.to_owned(), source })?;
        let path = data_dir.join(FILE);
        if !path.exists() {
            files::replace(&path, format!("listen = \"{address}\"\n").as_bytes(), 0o600)
                .map_err(|source| InstallerError::File { doing: "write", path, source })?;
        }
    }
    let server = Some(server.to_owned()).filter(|server| !server.is_empty());
    Ok(Invitation { token, server }.leave(data_dir)?)
}

/// How long [`forget`] waits for a relay that is told to stop: its tasks get half a minute to end, see `server`.
const FORGET_PATIENCE: Duration = Duration::from_secs(60);

/// Deletes identity and state of a relay that does not run, or is about to end, and the folder.
///
/// # Errors
///
/// [`InstallerError::File`], also when it still runs after a minute: then nothing is deleted.
pub fn forget(data_dir: &Path) -> Result<(), InstallerError> {
    // Its store is what it lets go of last.
    files::remove_folder(data_dir, &data_dir.join("store/lock"), FORGET_PATIENCE)
        .map_err(|source| InstallerError::File { doing: "delete", path: data_dir.to_owned(), source })
}
