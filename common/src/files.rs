//! Files that are either the old or the new, whatever happens in between.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// Replaces the file at `path` as a whole: temporary file beside it, fsync, rename, fsync of the folder.
/// `mode` holds where there are such modes. One writer per path at a time.
///
/// # Errors
///
/// As the file system gives them; the old file then stays.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    replace_with(path, mode, |file| file.write_all(bytes))
}

/// As [`replace`], with what `write` writes.
///
/// # Errors
///
/// As [`replace`], and those of `write`.
pub fn replace_with(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    // One that a crash left may have other rights.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    let mut file = with_mode(&mut options, mode).open(&temporary)?;
    write(&mut file)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, path)?;
    sync_folder_of(path)
}

/// That a folder or whatever is used by one process only, by a file in it; let go when dropped.
///
/// Closing the file would not do: a program that another thread is just starting has the file too, until it is started.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Takes it.
    ///
    /// # Errors
    ///
    /// [`TryLockError`]; it would block where another has it, in this process or another one.
    pub fn take(file: File) -> Result<Self, TryLockError> {
        file.try_lock()?;
        Ok(Self(file))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // What cannot be let go here is let go by closing.
        self.0.unlock().ok();
    }
}

/// How far apart [`remove_folder`] tries.
const REMOVE_AGAIN: Duration = Duration::from_millis(100);

/// Deletes a folder and all within whose program is ending: while that still has its [`Lock`] on the file `lock`, or
/// anything within open where open files cannot be deleted, it is tried again, for about as long as `patience`. One that
/// is not there is deleted.
///
/// # Errors
///
/// What the last try ran into; [`io::ErrorKind::ResourceBusy`] for the lock, and then nothing has been deleted.
pub fn remove_folder(dir: &Path, lock: &Path, patience: Duration) -> io::Result<()> {
    let mut waited = Duration::ZERO;
    loop {
        match remove_free_folder(dir, lock) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(_) if waited < patience => {
                thread::sleep(REMOVE_AGAIN);
                waited += REMOVE_AGAIN;
            }
            removed => return removed,
        }
    }
}

fn remove_free_folder(dir: &Path, lock: &Path) -> io::Result<()> {
    match File::options().write(true).open(lock) {
        Ok(file) => match Lock::take(file) {
            Ok(lock) => drop(lock),
            Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::ResourceBusy.into()),
            Err(TryLockError::Error(error)) => return Err(error),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    fs::remove_dir_all(dir)
}

/// Has a file that is made be readable by its owner alone, where there are such modes.
pub fn privately(options: &mut OpenOptions) -> &mut OpenOptions {
    with_mode(options, 0o600)
}

#[cfg(unix)]
fn with_mode(options: &mut OpenOptions, mode: u32) -> &mut OpenOptions {
    std::os::unix::fs::OpenOptionsExt::mode(options, mode)
}

#[cfg(not(unix))]
fn with_mode(options: &mut OpenOptions, _: u32) -> &mut OpenOptions {
    options
}

/// The content of the file at `path`, `None` when there is none.
///
/// # Errors
///
/// As the file system gives them; [`io::ErrorKind::FileTooLarge`] when it is longer than `bytes_max`.
pub fn read_if_there(path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut bytes = Vec::new();
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        let what = format!("it has more than {bytes_max} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    Ok(Some(bytes))
}

/// Removes the file at `path`, for good also after a power cut; one that is not there is none.
///
/// # Errors
///
/// As the file system gives them.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_folder_of(path),
    }
}

/// Makes the folder at `path` and those above it that are missing, for good also after a power cut: what is synced in
/// a folder is lost with it when the one above does not know of it. One that is there already is left as it is.
///
/// # Errors
///
/// As the file system gives them.
pub fn create_folders(path: &Path) -> io::Result<()> {
    create_folders_by(&DirBuilder::new(), path)
}

/// As [`create_folders`], each made by `builder`, which makes one at a time.
///
/// # Errors
///
/// As [`create_folders`].
pub fn create_folders_by(builder: &DirBuilder, path: &Path) -> io::Result<()> {
    if path.is_dir() || path.as_os_str().is_empty() {
        return Ok(());
    }
    if let Some(above) = path.parent() {
        create_folders_by(builder, above)?;
    }
    match builder.create(path) {
        // Another process was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        made => made?,
    }
    sync_folder_of(path)
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    sync_folder(folder.unwrap_or(Path::new(".")))
}

/// Makes durable which files the folder at `path` has.
///
/// # Errors
///
/// As the file system gives them.
#[cfg(unix)]
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Nothing to do: Windows commits a rename with the file, and a folder cannot be opened for syncing there.
///
/// # Errors
///
/// None.
#[cfg(not(unix))]
pub fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_let_go_also_while_a_program_that_is_being_started_has_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let open = || File::options().create(true).append(true).open(dir.path().join("lock")).unwrap();
        let file = open();
        // What is between `fork` and `exec` has all files of its parent, as this has.
        let inherited = file.try_clone().unwrap();
        let lock = Lock::take(file).unwrap();
        assert!(matches!(Lock::take(open()), Err(TryLockError::WouldBlock)));
        drop(lock);
        Lock::take(open()).unwrap();
        drop(inherited);
    }

    #[test]
    fn a_folder_is_deleted_with_all_within_once_its_program_has_let_go_of_it_and_before_not_at_all() {
        let above = tempfile::tempdir().unwrap();
        let (dir, lock) = (above.path().join("state"), above.path().join("state/store/lock"));
        remove_folder(&dir, &lock, Duration::ZERO).unwrap();
        fs::create_dir_all(dir.join("store")).unwrap();
        fs::write(dir.join("key.pem"), "key").unwrap();
        let held = Lock::take(File::create(&lock).unwrap()).unwrap();
        let busy = remove_folder(&dir, &lock, Duration::ZERO).unwrap_err();
        assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy);
        assert!(dir.join("key.pem").exists());
        // Its program ends while it is waited for.
        let ending = thread::spawn(move || drop(held));
        remove_folder(&dir, &lock, Duration::from_secs(60)).unwrap();
        ending.join().unwrap();
        assert!(!dir.exists());
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_with_its_rights_even_over_a_crashed_attempt() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        fs::write(dir.path().join("key.pem.new"), "left by a crash, readable by all").unwrap();
        replace(&path, b"one", 0o600).unwrap();
        replace(&path, b"two", 0o600).unwrap();
        assert_eq!(read_if_there(&path, 100).unwrap().unwrap(), b"two");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(read_if_there(&dir.path().join("absent"), 1).unwrap().is_none());
        assert!(read_if_there(&path, 2).is_err());
    }
}
