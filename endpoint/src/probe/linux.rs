//! The running Linux system: logind, terminals, `/proc`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tierway_common::{
    daemon::chain::Chain,
    facts::Facts,
    files,
    processes::{Process, processes},
};

use super::{
    Seen, Surroundings, documents,
    logind::{self, LogindError},
    signs, terminals,
};
use crate::{
    people::People,
    reboot::{self, RebootError},
    scan::Problem,
    signs::BootId,
};

/// The system that is patched.
#[derive(Clone, Debug)]
pub struct System {
    root: PathBuf,
    /// Where processes are, `/proc`.
    proc: PathBuf,
    /// Where terminals are, `/dev`.
    dev: PathBuf,
    /// Of the system's message bus, in D-Bus's form.
    bus: String,
    systemctl: PathBuf,
    /// For nameless output files.
    scratch: PathBuf,
}

impl System {
    /// The system below `root`; `scratch` is a directory of this program's own.
    #[must_use]
    pub fn new(root: &Path, scratch: &Path) -> Self {
        Self {
            root: root.to_owned(),
            proc: "/proc".into(),
            dev: "/dev".into(),
            bus: "unix:path=/run/dbus/system_bus_socket".to_owned(),
            systemctl: "/usr/bin/systemctl".into(),
            scratch: scratch.to_owned(),
        }
    }

    fn runs(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Who is there, as logind says; where none runs, as `processes` tell, which are only read then.
    async fn sessions(
        &self,
        processes: impl FnOnce() -> Vec<Process>,
        users: &[User],
        problems: &mut Vec<Problem>,
    ) -> People {
        match logind::people(&self.bus).await {
            Ok(people) => people,
            // No logind: a machine without systemd, or a container.
            Err(LogindError::Nobody(_)) => {
                let sessions = terminals::sessions(&processes(), &self.dev, users);
                People { sessions: Some(sessions), ..People::default() }
            }
            Err(error) => {
                problems.push(Problem(Chain(&error).to_string()));
                People::default()
            }
        }
    }

    async fn people(
        &self,
        processes: &[Process],
        booted: Option<Timestamp>,
        problems: &mut Vec<Problem>,
    ) -> People {
        let users = users(&self.root);
        let mut people = self.sessions(|| processes.to_vec(), &users, problems).await;
        let mut homes: Vec<&Path> = Vec::new();
        for session in people.sessions.iter().flatten() {
            if let Some(user) = users.iter().find(|user| user.uid == session.uid)
                && !homes.contains(&user.home.as_path())
            {
                homes.push(&user.home);
            }
        }
        people.documents = documents::open(homes, processes, booted);
        people
    }
}

impl Surroundings for System {
    fn look<'a>(&'a self, facts: &'a Facts, now: Timestamp) -> BoxFuture<'a, Seen> {
        Box::pin(async move {
            if !self.runs() {
                let signs = signs::of_root(&self.root);
                return Seen { people: People::nobody(), signs, ..Seen::default() };
            }
            let mut problems = Vec::new();
            let processes = match processes(&self.proc) {
                Ok(processes) => processes,
                Err(error) => {
                    problems.push(Problem(format!("could not read `{}`: {error}", self.proc.display())));
                    Vec::new()
                }
            };
            let people = self.people(&processes, booted(&self.proc, now), &mut problems).await;
            let mut signs = signs::of_root(&self.root);
            let uname = rustix::system::uname();
            signs.extend(signs::kernel(
                facts,
                &uname.release().to_string_lossy(),
                &uname.version().to_string_lossy(),
            ));
            signs.extend(signs::libraries(&self.proc, &processes));
            signs.sort();
            let boot = boot_id(&self.proc).unwrap_or_else(|error| {
                problems.push(Problem(format!("could not tell which boot this is: {error}")));
                None
            });
            Seen { people, signs, boot, problems }
        })
    }

    fn logged_in(&self, uid: u32) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            // Whoever is logged in here may ask also when another root is what is patched.
            let processes = || processes(&self.proc).unwrap_or_default();
            let people = self.sessions(processes, &[], &mut Vec::new()).await;
            people.sessions.iter().flatten().any(|session| session.uid == uid)
        })
    }

    fn tell<'a>(&'a self, text: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            // Nobody sits in front of a root that does not run.
            if self.runs() {
                terminals::tell(&processes(&self.proc).unwrap_or_default(), &self.dev, text);
            }
        })
    }

    fn reboot<'a>(&'a self, reason: &'a str) -> BoxFuture<'a, Result<(), RebootError>> {
        Box::pin(async move {
            if !self.runs() {
                return Err(RebootError::OtherRoot(self.root.clone()));
            }
            reboot::by_systemctl(&self.systemctl, &self.scratch, reason).await
        })
    }
}

/// Which boot this is; `None` on a system that does not tell.
///
/// # Errors
///
/// As the file system gives them.
pub fn boot_id(proc: &Path) -> io::Result<Option<BootId>> {
    let bytes = files::read_if_there(&proc.join("sys/kernel/random/boot_id"), 100)?;
    Ok(bytes.map(|bytes| BootId(String::from_utf8_lossy(&bytes).trim().to_owned())))
}

/// When the system began to run.
fn booted(proc: &Path, now: Timestamp) -> Option<Timestamp> {
    let text = fs::read_to_string(proc.join("uptime")).ok()?;
    let seconds: f64 = text.split(' ').next()?.parse().ok()?;
    let up = std::time::Duration::try_from_secs_f64(seconds).ok()?;
    now.checked_sub(up).ok()
}

/// Somebody who may log in, as `/etc/passwd` names him.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Home directory.
    pub home: PathBuf,
}

/// Longest `/etc/passwd` that is read: some 100,000 lines.
const PASSWD_BYTES_MAX: u64 = 8 << 20;

/// The users that the system below `root` knows by itself; those of a directory service are not among them.
fn users(root: &Path) -> Vec<User> {
    let bytes = files::read_if_there(&root.join("etc/passwd"), PASSWD_BYTES_MAX).ok().flatten();
    let text = bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let user = |line: &str| {
        let mut fields = line.split(':');
        let (name, uid) = (fields.next()?, fields.nth(1)?.parse().ok()?);
        let home = fields.nth(2)?;
        Some(User { name: name.to_owned(), uid, home: home.into() })
    };
    text.lines().filter_map(user).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signs::SignKind;

    #[test]
    fn users_are_read_by_name_number_and_home() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc")).unwrap();
        let text = "root:x:0:0:root:/root:/bin/bash\nbroken\nann:x:1000:1000:Ann,,,:/home/ann:/bin/zsh\n";
        fs::write(root.path().join("etc/passwd"), text).unwrap();
        let user = |name: &str, uid, home: &str| User { name: name.to_owned(), uid, home: home.into() };
        assert_eq!(users(root.path()), [user("root", 0, "/root"), user("ann", 1000, "/home/ann")]);
    }

    #[test]
    fn every_boot_has_an_id() {
        assert!(boot_id(Path::new("/proc")).unwrap().is_some());
        assert_eq!(boot_id(Path::new("/nonexistent")).unwrap(), None);
    }

    #[tokio::test]
    async fn nobody_is_at_a_root_that_does_not_run() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("run")).unwrap();
        fs::write(root.path().join("run/reboot-required"), "").unwrap();
        let system = System::new(root.path(), root.path());
        let seen = system.look(&Facts::default(), Timestamp::UNIX_EPOCH).await;
        assert_eq!((seen.people, seen.boot), (People::nobody(), None));
        assert_eq!(seen.signs.iter().map(|sign| sign.kind).collect::<Vec<_>>(), [SignKind::Asked]);
        let refused = system.reboot("a test").await.unwrap_err();
        assert!(matches!(refused, RebootError::OtherRoot(path) if path == root.path()));
    }

    #[tokio::test]
    async fn this_system_can_be_looked_at() {
        let seen = System::new(Path::new("/"), Path::new("/tmp"))
            .look(&Facts::default(), Timestamp::UNIX_EPOCH)
            .await;
        assert!(seen.boot.is_some());
        assert!(seen.people.sessions.is_some(), "{:?}", seen.problems);
    }
}
