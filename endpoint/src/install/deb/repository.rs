//! A temporary local repository for apt, made of verified packages only.
//!
//! It stands below the root that is patched, so that apt sees it there: `/var/lib/tierway/repo-<process>`
//! with the list of packages where apt looks for downloaded lists, the packages themselves, and a
//! configuration that shows apt this repository and no other. apt's own lists and caches are not touched.
//! What a crash left is removed at the next start by [`clean`].

use std::{
    fmt::Write as _,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use tierway_common::{
    schema::DebPackage,
    trust::digest::{Digest, Hasher},
};

/// Where repositories are made, inside the root.
const BASE: &str = "var/lib/tierway";
const PREFIX: &str = "repo-";

/// Tells package scripts in a root that is not the running system's not to start services; its text says
/// whose it is, so that another's is never removed.
const POLICY: &str = "usr/sbin/policy-rc.d";
const POLICY_TEXT: &str = "#!/bin/sh\n# Made by tierway-endpoint for the time of an installation: no service runs in this root.\nexit 101\n";

/// A control field of the archive has at most some 60 KiB.
const FIELD_BYTES_MAX: usize = 256 << 10;

/// Whether a program is using something. One that goes on when the future that waits for it is dropped
/// keeps what it uses; [`clean`] removes it later.
#[derive(Debug, Default)]
pub struct InUse(AtomicBool);

impl InUse {
    /// Says so.
    pub fn set(&self, in_use: bool) {
        self.0.store(in_use, Ordering::SeqCst);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// A repository that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// The file system said no.
    #[error("could not write `{path}`")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A link inside the root leads out of it.
    #[error("`{path}` leads out of the root")]
    OutOfRoot {
        /// Which.
        path: PathBuf,
    },
    /// A document has a text that cannot stand in a list of packages.
    #[error("the package `{package}` has an unusable field `{field}`")]
    Field {
        /// Which package.
        package: String,
        /// Which field.
        field: String,
    },
    /// What was to be copied is not what its name says.
    #[error("`{path}` has the digest {found} instead of {wanted}")]
    Corrupt {
        /// The copied file.
        path: PathBuf,
        /// As asked for.
        wanted: Digest,
        /// As it is.
        found: Digest,
    },
}

impl RepositoryError {
    /// Whether a file system is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> RepositoryError {
    let path = path.to_owned();
    move |source| RepositoryError::Io { path, source }
}

/// A repository; it is removed when dropped, unless a program is using it.
#[derive(Debug)]
pub struct Repository {
    in_use: InUse,
    /// As seen from outside the root.
    path: PathBuf,
    /// As seen inside the root.
    inside: String,
}

impl Repository {
    /// Makes an empty one below `root`.
    ///
    /// # Errors
    ///
    /// When a directory cannot be made, or would be made outside `root`.
    pub fn create(root: &Path) -> Result<Self, RepositoryError> {
        let base = base(root)?;
        let name = format!("{PREFIX}{}", std::process::id());
        let path = base.join(&name);
        remove(&path)?;
        let inside = format!("/{BASE}/{name}");
        let repository = Self { in_use: InUse::default(), path, inside };
        for part in
            ["", "pool", "lists", "lists/partial", "cache", "cache/archives", "cache/archives/partial"]
        {
            let path = repository.path.join(part);
            DirBuilder::new().mode(0o755).create(&path).map_err(io_error(&path))?;
        }
        let configuration = repository.configuration();
        repository.write("apt.conf", configuration.as_bytes())?;
        // Trusted without a signature, for one reason: every package is a blob whose SHA-256 came from
        // signed metadata, and the list is written by this program. apt still checks each package against
        // the SHA-256 in the list.
        let source = format!("deb [trusted=yes] file:{} ./\n", repository.inside);
        repository.write("sources.list", source.as_bytes())?;
        Ok(repository)
    }

    /// Set while a program uses it.
    #[must_use]
    pub fn in_use(&self) -> &InUse {
        &self.in_use
    }

    /// The configuration for `apt-get -c`, as seen inside the root.
    #[must_use]
    pub fn configuration_path(&self) -> String {
        format!("{}/apt.conf", self.inside)
    }

    /// apt's downloads are local files, so its sandbox, whose user could not read them, is left out. The
    /// administrator's own apt configuration and preferences stay in force.
    fn configuration(&self) -> String {
        let inside = &self.inside;
        let mut text = String::new();
        for (name, value) in [
            ("Dir::Etc::sourcelist", format!("{inside}/sources.list")),
            ("Dir::Etc::sourceparts", "-".to_owned()),
            ("Dir::State::lists", format!("{inside}/lists")),
            ("Dir::Cache", format!("{inside}/cache")),
            ("Dir::Cache::archives", format!("{inside}/cache/archives")),
            ("Dir::Cache::pkgcache", String::new()),
            ("Dir::Cache::srcpkgcache", String::new()),
            ("APT::Sandbox::User", "root".to_owned()),
            ("APT::Install-Recommends", "false".to_owned()),
            ("APT::Install-Suggests", "false".to_owned()),
            ("APT::Get::Assume-Yes", "true".to_owned()),
            ("APT::Get::Remove", "false".to_owned()),
            ("APT::Get::allow-downgrades", "false".to_owned()),
            ("APT::Get::allow-change-held-packages", "false".to_owned()),
            ("APT::Get::allow-remove-essential", "false".to_owned()),
            ("APT::Color", "false".to_owned()),
            ("Acquire::Languages", "none".to_owned()),
            ("Dpkg::Use-Pty", "false".to_owned()),
            ("Dpkg::Progress-Fancy", "false".to_owned()),
        ] {
            _ = writeln!(text, "{name} \"{value}\";");
        }
        text.push_str("Dpkg::Options { \"--force-confdef\"; \"--force-confold\"; };\n");
        text
    }

    /// Writes the list of packages.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::Field`] when a document's text cannot stand in the list.
    pub fn list<'a>(&self, packages: impl Iterator<Item = &'a DebPackage>) -> Result<(), RepositoryError> {
        let mut text = String::new();
        for package in packages {
            stanza(&mut text, package)?;
        }
        // The name under which apt keeps the list of this source (its URItoFileName).
        let name = format!("lists/{}_._Packages", self.inside.replace('/', "_"));
        self.write(&name, text.as_bytes())
    }

    /// Copies a package into the repository and digests what is copied.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::Corrupt`] when it is not what its digest says; nothing is left then.
    pub fn add(&self, package: &DebPackage, blob: &Path) -> Result<(), RepositoryError> {
        let target = self.path.join("pool").join(file_name(package));
        let mut from = File::open(blob).map_err(io_error(blob))?;
        let mut to = new_file(&target).map_err(io_error(&target))?;
        let mut hasher = Hasher::new();
        let mut chunk = vec![0; 256 << 10];
        loop {
            let read = match from.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(io_error(blob)(error)),
            };
            hasher.update(&chunk[..read]);
            to.write_all(&chunk[..read]).map_err(io_error(&target))?;
        }
        let found = hasher.finish();
        if found != package.payload.digest {
            fs::remove_file(&target).map_err(io_error(&target))?;
            return Err(RepositoryError::Corrupt {
                path: blob.to_owned(),
                wanted: package.payload.digest,
                found,
            });
        }
        Ok(())
    }

    /// Removes packages that were added, so that they can be chosen anew.
    ///
    /// # Errors
    ///
    /// As the file system gives them.
    pub fn empty_pool(&self) -> Result<(), RepositoryError> {
        let pool = self.path.join("pool");
        remove(&pool)?;
        DirBuilder::new().mode(0o755).create(&pool).map_err(io_error(&pool))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), RepositoryError> {
        let path = self.path.join(name);
        remove(&path)?;
        new_file(&path).and_then(|mut file| file.write_all(bytes)).map_err(io_error(&path))
    }
}

impl Drop for Repository {
    fn drop(&mut self) {
        if !self.in_use.get()
            && let Err(error) = remove(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "could not remove a temporary repository");
        }
    }
}

fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)
}

fn remove(path: &Path) -> Result<(), RepositoryError> {
    let result = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(path)(error)),
        _ => Ok(()),
    }
}

/// The directory of repositories, made when it is not there.
fn base(root: &Path) -> Result<PathBuf, RepositoryError> {
    let mut path = root.to_owned();
    for part in Path::new(BASE) {
        path.push(part);
        match DirBuilder::new().mode(0o755).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(io_error(&path)(error)),
            _ => check_inside(root, &path)?,
        }
    }
    Ok(path)
}

/// Refuses a path below `root` that links lead out of it.
fn check_inside(root: &Path, path: &Path) -> Result<(), RepositoryError> {
    let found = path.canonicalize().map_err(io_error(path))?;
    if found.starts_with(root.canonicalize().map_err(io_error(root))?) {
        Ok(())
    } else {
        Err(RepositoryError::OutOfRoot { path: path.to_owned() })
    }
}

/// A name in the pool; `:` of an epoch is written as in the archive.
fn file_name(package: &DebPackage) -> String {
    format!("{}_{}_{}.deb", package.name, package.version.replace(':', "%3a"), package.architecture)
}

/// Fields that this program writes itself, or that would name another file.
const OWN_FIELDS: [&str; 9] =
    ["package", "version", "architecture", "filename", "size", "sha256", "sha512", "md5sum", "sha1"];

fn stanza(text: &mut String, package: &DebPackage) -> Result<(), RepositoryError> {
    let error = |field: &str| RepositoryError::Field {
        package: package.name.chars().take(100).collect(),
        field: field.chars().take(100).collect(),
    };
    let plain = |value: &str, more: &[u8]| {
        !value.is_empty()
            && value.len() <= 200
            && !value.starts_with('.')
            && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"+.-".contains(&b) || more.contains(&b))
    };
    for (field, value, more) in [
        ("Package", &package.name, &b""[..]),
        ("Version", &package.version, &b"~:"[..]),
        ("Architecture", &package.architecture, &b""[..]),
    ] {
        if !plain(value, more) {
            return Err(error(field));
        }
        _ = writeln!(text, "{field}: {value}");
    }
    for (field, value) in &package.control {
        if OWN_FIELDS.contains(&field.to_ascii_lowercase().as_str()) {
            continue;
        }
        let name = !field.is_empty() && field.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let folded = value.split('\n').map(str::trim).collect::<Vec<_>>().join(" ");
        if !name || value.len() > FIELD_BYTES_MAX || folded.chars().any(char::is_control) {
            return Err(error(field));
        }
        if !folded.is_empty() {
            _ = writeln!(text, "{field}: {folded}");
        }
    }
    _ = writeln!(text, "Filename: pool/{}", file_name(package));
    _ = writeln!(text, "Size: {}\nSHA256: {}\n", package.payload.bytes, package.payload.digest);
    Ok(())
}

/// Keeps services from being started while it is there; removed when dropped, unless a program is using it.
#[derive(Debug)]
pub struct ServicePolicy {
    /// Set while a program uses it.
    in_use: InUse,
    /// `None` when there was one already.
    path: Option<PathBuf>,
}

impl ServicePolicy {
    /// Puts a policy into `root` unless there is one already.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn place(root: &Path) -> Result<Self, RepositoryError> {
        let path = root.join(POLICY);
        if let Some(directory) = path.parent() {
            check_inside(root, directory)?;
        }
        let made = OpenOptions::new().write(true).create_new(true).mode(0o755).open(&path);
        let mut file = match made {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Ok(Self { in_use: InUse::default(), path: None });
            }
            Err(error) => return Err(io_error(&path)(error)),
        };
        let placed = Self { in_use: InUse::default(), path: Some(path.clone()) };
        file.write_all(POLICY_TEXT.as_bytes()).map_err(io_error(&path))?;
        Ok(placed)
    }

    /// Set while a program uses it.
    #[must_use]
    pub fn in_use(&self) -> &InUse {
        &self.in_use
    }
}

impl Drop for ServicePolicy {
    fn drop(&mut self) {
        if let Some(path) = &self.path
            && !self.in_use.get()
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!(%error, path = %path.display(), "could not remove the service policy");
        }
    }
}

/// Removes what a crash left below `root`: repositories and an own service policy. Must not run while an
/// installation is going on there.
///
/// # Errors
///
/// As the file system gives them.
pub fn clean(root: &Path) -> Result<(), RepositoryError> {
    let base = root.join(BASE);
    match fs::read_dir(&base) {
        Ok(entries) => {
            for entry in entries {
                let entry = entry.map_err(io_error(&base))?;
                if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                    tracing::info!(path = %entry.path().display(), "removing what an earlier run left");
                    remove(&entry.path())?;
                }
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io_error(&base)(error)),
    }
    let policy = root.join(POLICY);
    // A crash while it was written leaves the beginning of it.
    let own = |text: &[u8]| !text.is_empty() && POLICY_TEXT.as_bytes().starts_with(text);
    let mut text = Vec::new();
    let read = OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0))
        .open(&policy)
        .and_then(|file| file.take(POLICY_TEXT.len() as u64 + 1).read_to_end(&mut text));
    if read.is_ok() && own(&text) && text.len() > "#!/bin/sh\n".len() {
        tracing::info!(path = %policy.display(), "removing what an earlier run left");
        remove(&policy)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tierway_common::schema::Payload;

    use super::*;

    fn package(control: &[(&str, &str)]) -> DebPackage {
        DebPackage {
            name: "a".to_owned(),
            version: "1:2~b-3".to_owned(),
            architecture: "amd64".to_owned(),
            payload: Payload { digest: Digest::of(b"deb"), bytes: 3, url: String::new() },
            control: control
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect::<BTreeMap<_, _>>(),
        }
    }

    #[test]
    fn a_stanza_names_the_verified_file_whatever_the_document_says() {
        let mut text = String::new();
        let control = [("Depends", "b,\n c"), ("Filename", "pool/evil.deb"), ("sha256", "00"), ("Size", "1")];
        stanza(&mut text, &package(&control)).unwrap();
        let digest = Digest::of(b"deb");
        assert_eq!(
            text,
            format!(
                "Package: a\nVersion: 1:2~b-3\nArchitecture: amd64\nDepends: b, c\n\
                 Filename: pool/a_1%3a2~b-3_amd64.deb\nSize: 3\nSHA256: {digest}\n\n"
            )
        );
    }

    #[test]
    fn a_text_that_would_add_a_field_or_leave_the_pool_is_refused() {
        for broken in [
            DebPackage { name: "../../etc/x".to_owned(), ..package(&[]) },
            DebPackage { version: "1\nEssential: yes".to_owned(), ..package(&[]) },
            DebPackage { architecture: "amd64/../..".to_owned(), ..package(&[]) },
            DebPackage { architecture: String::new(), ..package(&[]) },
            package(&[("Essential: yes\nX", "y")]),
            package(&[("Depends", "a\rEssential: yes")]),
        ] {
            assert!(
                matches!(stanza(&mut String::new(), &broken), Err(RepositoryError::Field { .. })),
                "{broken:?}"
            );
        }
    }

    #[test]
    fn a_blob_that_is_not_what_its_digest_says_never_enters_the_pool() {
        let root = tempfile::tempdir().unwrap();
        let blob = root.path().join("blob");
        let repository = Repository::create(root.path()).unwrap();
        fs::write(&blob, "dec").unwrap();
        assert!(matches!(repository.add(&package(&[]), &blob), Err(RepositoryError::Corrupt { .. })));
        assert_eq!(fs::read_dir(repository.path.join("pool")).unwrap().count(), 0);
        fs::write(&blob, "deb").unwrap();
        repository.add(&package(&[]), &blob).unwrap();
        assert_eq!(fs::read(repository.path.join("pool/a_1%3a2~b-3_amd64.deb")).unwrap(), b"deb");
    }

    #[test]
    fn what_a_crash_left_is_removed_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("usr/sbin")).unwrap();
        fs::create_dir_all(root.path().join("var/lib/tierway/keys")).unwrap();
        std::mem::forget(Repository::create(root.path()).unwrap());
        std::mem::forget(ServicePolicy::place(root.path()).unwrap());
        clean(root.path()).unwrap();
        let left: Vec<_> = fs::read_dir(root.path().join("var/lib/tierway")).unwrap().collect();
        assert_eq!(left.len(), 1);
        assert!(!root.path().join("usr/sbin/policy-rc.d").exists());

        let theirs = root.path().join("usr/sbin/policy-rc.d");
        fs::write(&theirs, "#!/bin/sh\nexit 101\n").unwrap();
        drop(ServicePolicy::place(root.path()).unwrap());
        clean(root.path()).unwrap();
        assert_eq!(fs::read_to_string(theirs).unwrap(), "#!/bin/sh\nexit 101\n");
    }

    #[test]
    fn a_repository_is_never_made_outside_the_root() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("var")).unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("var/lib")).unwrap();
        assert!(matches!(Repository::create(root.path()), Err(RepositoryError::OutOfRoot { .. })));
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
