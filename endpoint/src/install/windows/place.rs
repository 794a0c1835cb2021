//! Files put into place for an installer, under the names that it expects, each checked by its digest.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use tierway_common::{
    files,
    schema::WindowsFile,
    trust::digest::{Digest, Hasher},
};

use crate::install::{PayloadFetcher, Stop, codes::Outcome};

/// Copied at a time.
const CHUNK_BYTES: usize = 256 << 10;
/// Longest name of a file: what Windows takes, less what it may add.
const NAME_BYTES_MAX: usize = 200;

/// The files of one part of an update, in one folder.
#[derive(Debug)]
pub(super) struct Placed {
    files: Vec<PathBuf>,
}

impl Placed {
    /// Copies `files` into `folder`, which is made.
    ///
    /// # Errors
    ///
    /// When a file has no digest or no name that can be one, is not here, or is not what its digest says.
    pub(super) fn new<F: PayloadFetcher>(
        folder: &Path,
        files: &[WindowsFile],
        payloads: &F,
    ) -> Result<Self, Stop> {
        fs::create_dir_all(folder).map_err(|error| failed(folder, &error))?;
        let mut placed = Vec::with_capacity(files.len());
        for file in files {
            let name = &file.name;
            if !is_plain(name) {
                let detail = format!("it has a file named `{name}`, which is no name of a file");
                return Err(Stop::new(Outcome::DocumentMalformed, detail));
            }
            let digest = file.sha256.ok_or_else(|| {
                let detail = format!("its file `{name}` has no digest that can be believed");
                Stop::new(Outcome::DocumentMalformed, detail)
            })?;
            let from = payloads.path(&digest).ok_or_else(|| {
                Stop::new(Outcome::PayloadUnavailable, format!("`{name}` was fetched and is gone again"))
            })?;
            let to = folder.join(name);
            let found = copy(&from, &to).map_err(|error| failed(&to, &error))?;
            if found != digest {
                let detail = format!("`{name}` is not what its digest says");
                return Err(Stop::new(Outcome::PayloadCorrupt, detail));
            }
            placed.push(to);
        }
        Ok(Self { files: placed })
    }

    /// Where the file of this name is; case does not matter.
    pub(super) fn file(&self, name: &str) -> Result<PathBuf, Stop> {
        let named = |path: &&PathBuf| {
            path.file_name()
                .and_then(|found| found.to_str())
                .is_some_and(|found| found.eq_ignore_ascii_case(name))
        };
        self.files
            .iter()
            .find(named)
            .cloned()
            .ok_or_else(|| Stop::new(Outcome::DocumentMalformed, format!("it has no file named `{name}`")))
    }

    /// Those whose names end so, in the order of the document.
    pub(super) fn ending<'a>(&'a self, ends: &'a [&str]) -> impl Iterator<Item = &'a PathBuf> {
        self.files.iter().filter(move |path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            ends.iter().any(|end| name.to_ascii_lowercase().ends_with(end))
        })
    }

    /// The only one whose name ends so.
    pub(super) fn only(&self, ends: &[&str]) -> Result<PathBuf, Stop> {
        let mut found = self.ending(ends);
        match (found.next(), found.next()) {
            (Some(only), None) => Ok(only.clone()),
            _ => {
                Err(Stop::new(Outcome::DocumentMalformed, "it does not say which of its files is installed"))
            }
        }
    }
}

/// Whether `name` is the name of a file and nothing more, on Windows too.
fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name.chars().all(is_of_names)
        && name.trim_matches([' ', '.']) == name
}

/// A name for a file of our own made from `name`, shorter where that is long.
pub(super) fn plain(name: &str) -> String {
    let plain: String = name.chars().filter(|c| is_of_names(*c)).take(NAME_BYTES_MAX / 4).collect();
    plain.trim_matches([' ', '.']).to_owned()
}

fn is_of_names(c: char) -> bool {
    !c.is_control() && !r#"<>:"/\|?*"#.contains(c)
}

fn failed(path: &Path, error: &io::Error) -> Stop {
    let outcome = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Outcome::NeedsMoreSpace,
        _ => Outcome::EngineUnavailable,
    };
    Stop::new(outcome, format!("could not put `{}` into place: {error}", path.display()))
}

/// Copies, and returns the digest of what was written.
fn copy(from: &Path, to: &Path) -> io::Result<Digest> {
    let mut from = File::open(from)?;
    let mut to = files::privately(File::options().write(true).create_new(true)).open(to)?;
    let mut hasher = Hasher::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match from.read(&mut chunk)? {
            0 => break,
            count => {
                hasher.update(&chunk[..count]);
                to.write_all(&chunk[..count])?;
            }
        }
    }
    executable(&to)?;
    Ok(hasher.finish())
}

#[cfg(unix)]
fn executable(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(0o700))
}

/// Every file may be run there that is named so.
#[cfg(not(unix))]
fn executable(_: &File) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leads_elsewhere_is_none() {
        // The third is one of Dell's.
        let longest = "n".repeat(NAME_BYTES_MAX);
        let dell = "Realtek-High-Definition-Audio-Driver_99DDD_WIN_6.0.1.8454_A02_03.EXE";
        for name in ["a.msi", "Setup (x64).exe", dell, "KB5031358-x64.msu", &longest] {
            assert!(is_plain(name), "{name:?}");
        }
        let too_long = "n".repeat(NAME_BYTES_MAX + 1);
        for name in
            ["../a", "..", "a/b", "a\\b", "C:a", "a.exe:stream", "a.", " a", "", "a\nb", "a?", &too_long]
        {
            assert!(!is_plain(name), "{name:?}");
            assert!(is_plain(&plain(&format!("{name}.log"))), "{name:?}");
        }
    }
}
