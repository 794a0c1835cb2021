//! The data folder: the system's and the administrators' alone before anything is put there or believed.
//!
//! In the folder of programs' data every user may make folders, and owns what he made. So what is in the usual data
//! folder counts only when the folder has the [`seal`] of this program; else it is put aside. A folder that the
//! administrator named is his to answer for: it is taken over with what is in it.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use ring::rand::SystemRandom;
use windows_registry::LOCAL_MACHINE;

use super::{system_folder, text};
use crate::{
    programs::{self, End, Program, RunError},
    seal,
};

/// Setting rights in one folder, which may have a hundred thousand files when it is taken over.
const RIGHTS_LIMIT: Duration = Duration::from_secs(300);

/// Who may get in, by their ids, for their names are translated: the system, administrators.
const GRANT: [&str; 5] =
    ["/inheritance:r", "/grant:r", "*S-1-5-18:(OI)(CI)F", "*S-1-5-32-544:(OI)(CI)F", "/Q"];
/// Who made it first owns it, and could give himself rights again.
const OWNER: [&str; 4] = ["/setowner", "*S-1-5-32-544", "/L", "/Q"];
/// And the rights that he has.
const RESET: [&str; 3] = ["/reset", "/L", "/Q"];

/// A folder that is not safe.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It could not be made.
    #[error("could not make the folder `{path}`")]
    Make {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What was there could not be moved.
    #[error("could not put aside what is at `{path}`: does somebody have a file of it open?")]
    Aside {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It could not be sealed.
    #[error("could not seal the folder `{path}`: {reason}")]
    Seal {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Its rights.
    #[error("could not set the rights of the folder `{path}`")]
    Rights {
        /// Which.
        path: PathBuf,
        /// Why.
        source: RunError,
    },
    /// Its rights, refused.
    #[error("the rights of the folder `{path}` were not set ({end:?}): {said}")]
    RightsRefused {
        /// Which.
        path: PathBuf,
        /// How icacls ended.
        end: End,
        /// What it said.
        said: String,
    },
}

/// A data folder, and what is known of it.
#[derive(Clone, Copy, Debug)]
pub struct DataFolder<'a> {
    /// Where it is.
    pub path: &'a Path,
    /// Where the program has it when nobody names another, below the folder of programs' data.
    pub usual: &'a Path,
    /// The key below `HKLM` that has the digest of the seal of each data folder of this program, by its path.
    pub seals: &'static str,
}

/// Makes the data folder if it is not there, and the system and administrators the only ones who get into it and
/// who own what is in it. Returns where that is now which was in the usual folder without being this program's.
///
/// # Errors
///
/// When one of that does not succeed; then no secret may be put there, and nothing believed that is there.
pub async fn secure(data: DataFolder<'_>) -> Result<Option<PathBuf>, FolderError> {
    let folder = data.path;
    let make = |source| FolderError::Make { path: folder.to_owned(), source };
    if is_sealed(data) {
        icacls(folder, &GRANT, &[]).await?;
        return Ok(None);
    }
    let mut aside = None;
    if folder == data.usual {
        if let Some(above) = folder.parent() {
            own_place(above).await?;
        }
        aside = seal::put_aside(folder)
            .map_err(|source| FolderError::Aside { path: folder.to_owned(), source })?;
        // Fails when somebody was faster.
        fs::create_dir(folder).map_err(make)?;
        own(folder, &[]).await?;
    } else {
        fs::create_dir_all(folder).map_err(make)?;
        own(folder, &["/T"]).await?;
    }
    let unsealed = |reason| FolderError::Seal { path: folder.to_owned(), reason };
    let digest = seal::put(folder, &SystemRandom::new()).map_err(|error| unsealed(error.to_string()))?;
    keep_seal(data, &digest.to_string()).map_err(|error| unsealed(error.message()))?;
    Ok(aside)
}

/// The same, and says what was put aside.
///
/// # Errors
///
/// As [`secure`].
pub async fn secure_and_tell(data: DataFolder<'_>) -> Result<(), FolderError> {
    if let Some(aside) = secure(data).await? {
        warn_of(data.path, &aside);
    }
    Ok(())
}

/// Says what [`secure`] put aside.
pub(super) fn warn_of(folder: &Path, aside: &Path) {
    tracing::warn!(
        folder = %folder.display(),
        aside = %aside.display(),
        "put aside what was in the data folder before this program made it"
    );
}

/// Whether this program made or took over the folder, and nobody else another in its place.
#[must_use]
pub fn is_sealed(data: DataFolder<'_>) -> bool {
    let digest = text(data.seals, &name(data.path));
    digest.is_some_and(|digest| seal::is_there(data.path, &digest))
}

/// Writes the digest of the seal, in the place of an older one.
fn keep_seal(data: DataFolder<'_>, digest: &str) -> windows_registry::Result<()> {
    let key = LOCAL_MACHINE.options().read().write().create().open(data.seals)?;
    key.set_string(name(data.path), digest)
}

/// As the registry has it.
fn name(folder: &Path) -> String {
    folder.display().to_string()
}

/// Takes the folder over in which the usual data folder is, which is this program's as well.
async fn own_place(above: &Path) -> Result<(), FolderError> {
    let make = |source| FolderError::Make { path: above.to_owned(), source };
    // A link of somebody's would have the rights set of what it leads to.
    if fs::symlink_metadata(above).is_ok_and(|found| found.is_symlink()) {
        fs::remove_dir(above).map_err(make)?;
    }
    fs::create_dir_all(above).map_err(make)?;
    own(above, &[]).await?;
    if fs::symlink_metadata(above).map_err(make)?.is_symlink() {
        return Err(make(io::Error::other("it became a link meanwhile")));
    }
    Ok(())
}

/// Takes the folder from whoever made it, with `more` also what is in it.
async fn own(folder: &Path, more: &[&str]) -> Result<(), FolderError> {
    icacls(folder, &OWNER, more).await?;
    icacls(folder, &RESET, more).await?;
    icacls(folder, &GRANT, &[]).await
}

async fn icacls(folder: &Path, what: &[&str], more: &[&str]) -> Result<(), FolderError> {
    let what = what.iter().chain(more).map(OsString::from);
    let program = Program {
        path: system_folder().join("icacls.exe"),
        arguments: std::iter::once(folder.into()).chain(what).collect(),
        command_line: String::new(),
        directory: system_folder(),
        environment: programs::environment(),
        limit: RIGHTS_LIMIT,
        grace: Duration::ZERO,
        tail_bytes_max: 1024,
    };
    // Not into the folder itself: what it prints is a file that older systems list until it is closed.
    let ran = programs::run(&program, folder.parent().unwrap_or(folder)).await;
    let ran = ran.map_err(|source| FolderError::Rights { path: folder.to_owned(), source })?;
    match ran.end {
        End::Exited(0) => Ok(()),
        end => {
            let said = (ran.output.text + &ran.errors.text).trim().to_owned();
            Err(FolderError::RightsRefused { path: folder.to_owned(), end, said })
        }
    }
}
