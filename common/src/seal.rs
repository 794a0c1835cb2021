//! The seal of a data folder: how a folder is known again that this program made, where others can make one of that
//! name before it does, and put there what it would trust.
//!
//! Random bytes lie in the folder, and their digest where only administrators write: on Windows in the registry. Who
//! reads the digest cannot make the bytes.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use ring::rand::{SecureRandom, generate};

use crate::{files, trust::digest::Digest};

/// In the folder.
const NAME: &str = "seal";
const SEAL_BYTES: usize = 32;
/// What the name of a folder gets that is put aside.
const ASIDE: &str = ".found";

/// Puts a new seal into `folder`, and returns the digest by which it is known.
///
/// # Errors
///
/// When there is no randomness, or the file cannot be written.
pub fn put(folder: &Path, random: &dyn SecureRandom) -> io::Result<Digest> {
    let bytes: [u8; SEAL_BYTES] =
        generate(random).map_err(|_| io::Error::other("the system gave no random bytes"))?.expose();
    files::replace(&folder.join(NAME), &bytes, 0o600)?;
    Ok(Digest::of(&bytes))
}

/// Whether `folder` has the seal with this digest; not when that cannot be read.
#[must_use]
pub fn is_there(folder: &Path, digest: &str) -> bool {
    let bytes = files::read_if_there(&folder.join(NAME), SEAL_BYTES as u64);
    bytes.is_ok_and(|bytes| bytes.is_some_and(|bytes| Digest::of(&bytes).to_string() == digest))
}

/// Puts what is at `folder` aside, and returns where it is now; `None` when nothing was there, or nothing in it. What
/// was put aside earlier is deleted. A link is not followed.
///
/// # Errors
///
/// When it cannot be moved: somebody has a file of it open.
pub fn put_aside(folder: &Path) -> io::Result<Option<PathBuf>> {
    // A folder of links is removed, and what they lead to stays.
    match fs::remove_dir(folder) {
        Ok(()) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(_) => {}
    }
    let mut name: OsString = folder.file_name().unwrap_or_default().to_owned();
    name.push(ASIDE);
    let aside = folder.with_file_name(name);
    match fs::symlink_metadata(&aside) {
        Ok(older) if older.is_dir() => fs::remove_dir_all(&aside)?,
        Ok(_) => fs::remove_file(&aside)?,
        Err(_) => {}
    }
    fs::rename(folder, &aside)?;
    Ok(Some(aside))
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;

    use super::*;

    #[test]
    fn a_folder_is_known_by_the_seal_that_was_put_into_it_and_by_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let random = SystemRandom::new();
        let first = put(folder.path(), &random).unwrap().to_string();
        assert!(is_there(folder.path(), &first));
        let second = put(folder.path(), &random).unwrap().to_string();
        assert!(is_there(folder.path(), &second) && !is_there(folder.path(), &first));
        fs::write(folder.path().join(NAME), second.as_bytes()).unwrap();
        assert!(!is_there(folder.path(), &second), "the digest is no seal");
        fs::remove_file(folder.path().join(NAME)).unwrap();
        assert!(!is_there(folder.path(), &second));
    }

    #[test]
    fn what_somebody_put_there_before_is_not_left_in_the_folder_and_not_lost() {
        let above = tempfile::tempdir().unwrap();
        let folder = above.path().join("endpoint");
        assert_eq!(put_aside(&folder).unwrap(), None);
        fs::create_dir(&folder).unwrap();
        assert_eq!(put_aside(&folder).unwrap(), None);
        for text in ["first", "second"] {
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("endpoint.toml"), text).unwrap();
            let aside = put_aside(&folder).unwrap().unwrap();
            assert_eq!(aside, above.path().join("endpoint.found"));
            assert!(!folder.exists());
            assert_eq!(fs::read_to_string(aside.join("endpoint.toml")).unwrap(), text);
        }
        fs::write(&folder, "a file").unwrap();
        let aside = put_aside(&folder).unwrap().unwrap();
        assert_eq!((folder.exists(), fs::read_to_string(aside).unwrap().as_str()), (false, "a file"));
    }
}
