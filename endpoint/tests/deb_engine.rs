//! The Debian engine on a real root, with packages made here.
//!
//! `TIERWAY_TEST_ROOT` names the directory of a pristine Debian root (`debootstrap --variant=minbase
//! bookworm DIR`), of which each test patches a copy. Needs root and the program `chroot`.

#![expect(clippy::unwrap_used, reason = "in a test a failure should end it where it is")]
#![expect(
    clippy::disallowed_methods,
    reason = "tests make packages with dpkg-deb and read where the root is from the environment"
)]

use std::{
    collections::BTreeMap,
    fs,
    fs::File,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tierway_common::{
    clock::Clock,
    facts::Facts,
    id::UpdateId,
    rules::{
        Verdict,
        expr::{Compare, Expr, Manager, PackageTest},
        verdict,
    },
    schema::{DebPackage, Decision, Install, Payload, PoolEntry, Severity, State, Update},
    trust::digest::Digest,
};
use tierway_endpoint::{
    install::{
        Attempted, Cleaned, Engine, Fresh, Means, PayloadFetcher, Pool, Request, Unavailable,
        codes::{Codes, Outcome},
        deb::engine::DebEngine,
        execute,
        failsafe::{Limit, Source},
    },
    ledger::{Book, Conditions, Ledger},
    people::People,
    plan::{Finding, Limits, Now, Payloads, Plan, Reason, plan},
    policy::{Effective, here::Here},
    scan::{Asked, scan},
};

const LIMIT: Duration = Duration::from_secs(120);

/// A copy of the pristine root, and packages to be installed into it.
struct System {
    directory: tempfile::TempDir,
    blobs: BTreeMap<Digest, PathBuf>,
    pool: BTreeMap<String, DebPackage>,
    fetched: Mutex<Vec<Digest>>,
    /// Run when payloads are fetched: something that happens between decision and installation.
    meanwhile: Option<Meanwhile>,
}

type Meanwhile = Box<dyn Fn(&Path) + Send + Sync>;

impl Pool for System {
    async fn lookup(&self, _architecture: &str, name: &str) -> Result<Option<PoolEntry>, Unavailable> {
        let entry = |package: &DebPackage| PoolEntry::Package {
            package: Box::new(package.clone()),
            providers: Vec::new(),
        };
        Ok(self.pool.get(name).map(entry))
    }
}

impl PayloadFetcher for System {
    async fn ensure(&self, payloads: &[Payload]) -> Result<(), Unavailable> {
        self.fetched.lock().unwrap().extend(payloads.iter().map(|payload| payload.digest));
        if let Some(meanwhile) = &self.meanwhile {
            meanwhile(&self.root());
        }
        Ok(())
    }

    fn path(&self, digest: &Digest) -> Option<PathBuf> {
        self.blobs.get(digest).cloned()
    }
}

/// A package to be made: control fields, and files and scripts by path.
#[derive(Clone, Copy, Default)]
struct Made<'a> {
    name: &'a str,
    version: &'a str,
    control: &'a [(&'a str, &'a str)],
    files: &'a [(&'a str, &'a str)],
}

impl System {
    /// `None` when there is no pristine root.
    fn new() -> Option<Self> {
        let Ok(pristine) = std::env::var("TIERWAY_TEST_ROOT") else {
            assert!(std::env::var("TIERWAY_REQUIRE").is_err(), "`TIERWAY_TEST_ROOT` is not set");
            println!("skipped: `TIERWAY_TEST_ROOT` does not name a Debian root");
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir(&root).unwrap();
        for entry in fs::read_dir(&pristine).unwrap() {
            let entry = entry.unwrap();
            let (from, to) = (entry.path(), root.join(entry.file_name()));
            let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
            // Package managers replace files below `/usr` and never write into them, so links will do.
            let linked = entry.file_name() == "usr"
                && Command::new("cp").args(["-al", from, to]).status().unwrap().success();
            if !linked {
                run("cp", &["-a", from, to]);
            }
        }
        fs::create_dir(directory.path().join("scratch")).unwrap();
        Some(Self {
            directory,
            blobs: BTreeMap::new(),
            pool: BTreeMap::new(),
            fetched: Mutex::default(),
            meanwhile: None,
        })
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    fn engine(&self) -> DebEngine {
        DebEngine::new(&self.root(), &self.directory.path().join("scratch"))
    }

    /// Makes a package and keeps it as a verified file.
    fn make(&mut self, made: &Made<'_>) -> DebPackage {
        let tree = tempfile::tempdir().unwrap();
        fs::set_permissions(tree.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut control = format!(
            "Package: {}\nVersion: {}\nArchitecture: all\nMaintainer: A <a@example.org>\n",
            made.name, made.version
        );
        for (field, value) in made.control {
            control += &format!("{field}: {value}\n");
        }
        control += "Description: a package for tests\n";
        let mut files = made.files.to_vec();
        let share = format!("usr/share/{}/version", made.name);
        files.push((&share, made.version));
        files.push(("DEBIAN/control", &control));
        for (path, text) in files {
            let target = tree.path().join(path);
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::write(&target, text).unwrap();
            let script = path.starts_with("DEBIAN/p");
            fs::set_permissions(&target, fs::Permissions::from_mode(if script { 0o755 } else { 0o644 }))
                .unwrap();
        }
        let deb = self.directory.path().join(format!("{}_{}.deb", made.name, made.version));
        let paths = [tree.path().to_str().unwrap(), deb.to_str().unwrap()];
        run("dpkg-deb", &["--root-owner-group", "-Znone", "-b", paths[0], paths[1]]);
        let bytes = fs::read(&deb).unwrap();
        let digest = Digest::of(&bytes);
        self.blobs.insert(digest, deb);
        DebPackage {
            name: made.name.to_owned(),
            version: made.version.to_owned(),
            architecture: "all".to_owned(),
            payload: Payload { digest, bytes: bytes.len() as u64, url: String::new() },
            control: made.control.iter().map(|(f, v)| ((*f).to_owned(), (*v).to_owned())).collect(),
        }
    }

    /// Makes a package and installs it with dpkg.
    fn installed(&mut self, made: &Made<'_>) {
        let package = self.make(made);
        fs::copy(&self.blobs[&package.payload.digest], self.root().join("x.deb")).unwrap();
        run("chroot", &[self.root().to_str().unwrap(), "dpkg", "-i", "/x.deb"]);
        fs::remove_file(self.root().join("x.deb")).unwrap();
    }

    fn facts(&self) -> Facts {
        scan(&self.root(), &Asked::default(), "x86_64").0
    }

    fn version(&self, name: &str) -> Option<String> {
        self.facts().values.get(&format!("package:deb:{name}:all")).cloned()
    }

    /// Attempts the update; it is needed as long as one of its packages is installed in another version.
    async fn attempt(&self, update: &Update, others: (&[&Update], &[&Update]), limit: Duration) -> Attempted {
        let packages = update.install.deb_packages();
        let fresh = || {
            let facts = self.facts();
            let older = packages.iter().any(|package| {
                let version = facts.values.get(&format!("package:deb:{}:all", package.name));
                version.is_some_and(|version| *version != package.version)
            });
            Fresh { state: if older { State::Needed } else { State::Installed }, facts }
        };
        let codes = Codes::default();
        let request = Request { update, approved: others.0, left_out: others.1, codes: &codes, limit };
        let attempted = self.engine().install(&request, self, self, &fresh).await;
        for left in ["usr/sbin/policy-rc.d", &format!("var/lib/tierway/repo-{}", std::process::id())] {
            assert!(!self.root().join(left).exists(), "`{left}` was left");
        }
        attempted
    }

    async fn install(&self, update: &Update) -> Attempted {
        self.attempt(update, (&[], &[]), LIMIT).await
    }
}

fn run(program: &str, arguments: &[&str]) {
    let done = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output()
        .unwrap();
    assert!(done.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

fn update(name: &str, packages: Vec<DebPackage>) -> Update {
    Update {
        id: format!("debian-12/{name}").parse().unwrap(),
        title: name.to_owned(),
        product: name.to_owned(),
        version: String::new(),
        severity: Severity::Important,
        class: Default::default(),
        released: Timestamp::UNIX_EPOCH,
        references: Vec::new(),
        applicable: Expr::Const(true),
        installed: Expr::Const(false),
        supersedes: Vec::new(),
        superseded_by: Vec::new(),
        install: Install::Deb { packages },
        result_codes: Default::default(),
    }
}

const OLD: Made<'_> = Made { name: "alpha", version: "1.0", control: &[], files: &[] };
const NEW: Made<'_> = Made { version: "1.1", ..OLD };

#[tokio::test]
async fn an_approved_update_is_installed_and_its_changed_configuration_file_is_kept() {
    let Some(mut system) = System::new() else { return };
    let conffiles = ("DEBIAN/conffiles", "/etc/alpha.conf\n");
    system.installed(&Made { files: &[conffiles, ("etc/alpha.conf", "old\n")], ..OLD });
    fs::write(system.root().join("etc/alpha.conf"), "by the administrator\n").unwrap();
    let new = system.make(&Made { files: &[conffiles, ("etc/alpha.conf", "new\n")], ..NEW });
    let other = system.make(&Made { name: "alpha-extra", ..NEW });
    let attempted = system.install(&update("alpha", vec![new.clone(), other])).await;
    assert_eq!((attempted.outcome, &attempted.detail), (Outcome::Success, &None));
    assert_eq!(system.version("alpha").as_deref(), Some("1.1"));
    assert_eq!(system.version("alpha-extra"), None);
    assert_eq!(fs::read_to_string(system.root().join("etc/alpha.conf")).unwrap(), "by the administrator\n");
    assert_eq!(*system.fetched.lock().unwrap(), [new.payload.digest], "only what is installed is fetched");
}

#[tokio::test]
async fn what_is_not_needed_any_more_right_before_is_not_installed() {
    let Some(mut system) = System::new() else { return };
    system.installed(&OLD);
    let new = system.make(&NEW);
    let deb = system.blobs[&new.payload.digest].clone();
    // Someone else installs it while it is fetched.
    system.meanwhile = Some(Box::new(move |root| {
        fs::copy(&deb, root.join("x.deb")).unwrap();
        run("chroot", &[root.to_str().unwrap(), "dpkg", "-i", "/x.deb"]);
    }));
    let log = system.root().join("var/log/apt/history.log");
    let before = fs::metadata(&log).map_or(0, |metadata| metadata.len());
    let attempted = system.install(&update("alpha", vec![new])).await;
    assert_eq!(attempted.outcome, Outcome::AlreadyInstalled);
    assert_eq!(fs::metadata(&log).map_or(0, |metadata| metadata.len()), before, "apt was at work");
}

#[tokio::test]
async fn a_new_dependency_comes_along_from_the_pool() {
    let Some(mut system) = System::new() else { return };
    system.installed(&OLD);
    let control = [("Depends", "beta (>= 2)")];
    let new = system.make(&Made { control: &control, ..NEW });
    let beta = system.make(&Made { name: "beta", version: "2", ..OLD });
    system.pool.insert("beta".to_owned(), beta);
    let attempted = system.install(&update("alpha", vec![new])).await;
    assert_eq!(attempted.outcome, Outcome::Success, "{:?}", attempted.detail);
    let steps: Vec<_> = attempted.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(steps, ["beta", "alpha"]);
    assert_eq!(system.version("beta").as_deref(), Some("2"));
}

#[tokio::test]
async fn a_package_of_an_update_that_is_not_approved_stays_as_it_is() {
    let Some(mut system) = System::new() else { return };
    system.installed(&OLD);
    system.installed(&Made { name: "beta", version: "1", ..OLD });
    let new = system.make(&Made { control: &[("Depends", "beta (>= 2)")], ..NEW });
    let beta = system.make(&Made { name: "beta", version: "2", ..OLD });
    system.pool.insert("beta".to_owned(), beta.clone());
    let (alpha, beta) = (update("alpha", vec![new]), update("beta", vec![beta]));
    let attempted = system.attempt(&alpha, (&[], &[&beta]), LIMIT).await;
    assert_eq!(attempted.outcome, Outcome::DependencyUnsatisfied);
    let reason = "`alpha 1.1` needs `beta (>= 2)` from the update `debian-12/beta`, which is not approved";
    assert_eq!(attempted.detail.as_deref(), Some(reason));
    assert_eq!(system.version("beta").as_deref(), Some("1"));
    assert!(system.fetched.lock().unwrap().is_empty());
    // Once it is approved, it comes along.
    let attempted = system.attempt(&alpha, (&[&beta], &[]), LIMIT).await;
    assert_eq!(attempted.outcome, Outcome::Success, "{:?}", attempted.detail);
    assert_eq!(system.version("beta").as_deref(), Some("2"));
}

#[tokio::test]
async fn a_dependency_that_is_not_to_be_had_blocks_with_its_name() {
    let Some(mut system) = System::new() else { return };
    system.installed(&OLD);
    let new = system.make(&Made { control: &[("Depends", "gone (>= 2)")], ..NEW });
    let attempted = system.install(&update("alpha", vec![new])).await;
    assert_eq!(attempted.outcome, Outcome::DependencyUnsatisfied);
    let reason = "`alpha 1.1` needs `gone (>= 2)`, which is not to be had";
    assert_eq!(attempted.detail.as_deref(), Some(reason));
}

#[tokio::test]
async fn nothing_is_removed_to_make_place() {
    let Some(mut system) = System::new() else { return };
    system.installed(&OLD);
    system.installed(&Made { name: "beta", version: "1", ..OLD });
    let new = system.make(&Made { control: &[("Conflicts", "beta")], ..NEW });
    let attempted = system.install(&update("alpha", vec![new])).await;
    assert!(
        matches!(attempted.outcome, Outcome::WouldRemove | Outcome::DependencyUnsatisfied),
        "{attempted:?}"
    );
    assert_eq!(system.version("beta").as_deref(), Some("1"));
    assert_eq!(system.version("alpha").as_deref(), Some("1.0"));
}

#[tokio::test]
async fn a_failed_script_is_told_and_finished_by_the_next_attempt() {
    let Some(mut system) = System::new() else { return };
    system.installed(&OLD);
    system.installed(&Made { name: "beta", ..OLD });
    let script = ("DEBIAN/postinst", "#!/bin/sh\ntest -e /etc/fixed\n");
    let alpha = update("alpha", vec![system.make(&Made { files: &[script], ..NEW })]);
    for _ in 0..2 {
        let attempted = system.install(&alpha).await;
        assert_eq!(attempted.outcome, Outcome::ScriptFailed, "{:?}", attempted.detail);
        let detail = attempted.detail.unwrap();
        assert!(
            detail.contains("post-installation script subprocess returned error exit status 1"),
            "{detail}"
        );
    }
    assert_eq!(system.facts().values["flag:incomplete:alpha"], "true");
    // Meanwhile other updates are installed, although dpkg complains about this one each time.
    let beta = update("beta", vec![system.make(&Made { name: "beta", ..NEW })]);
    let attempted = system.install(&beta).await;
    assert_eq!(attempted.outcome, Outcome::Success, "{:?}", attempted.detail);
    assert_eq!(system.version("beta").as_deref(), Some("1.1"));

    fs::write(system.root().join("etc/fixed"), "").unwrap();
    let attempted = system.install(&alpha).await;
    // It counts as installed by this attempt, so that a reboot that it needs is due.
    assert_eq!(
        (attempted.outcome, attempted.took.is_some()),
        (Outcome::Success, true),
        "{:?}",
        attempted.detail
    );
    assert_eq!(system.facts().values.get("flag:incomplete:alpha"), None);
    assert_eq!(system.install(&alpha).await.outcome, Outcome::AlreadyInstalled);
}

#[tokio::test]
async fn what_a_repair_finishes_takes_effect_at_the_reboot_that_an_earlier_attempt_of_it_asked_for() {
    let Some(mut system) = System::new() else { return };
    system.installed(&OLD);
    let script = "#!/bin/sh\nmkdir -p /run; touch /run/reboot-required; echo alpha >> /run/reboot-required.pkgs\n\
        test -e /etc/fixed\n";
    let alpha = update("alpha", vec![system.make(&Made { files: &[("DEBIAN/postinst", script)], ..NEW })]);
    assert_eq!(system.install(&alpha).await.outcome, Outcome::ScriptFailed);
    fs::write(system.root().join("etc/fixed"), "").unwrap();
    let attempted = system.install(&alpha).await;
    assert_eq!(attempted.outcome, Outcome::SuccessRebootRequired, "{:?}", attempted.detail);
}

#[tokio::test]
async fn a_newer_version_mends_what_an_older_one_left_half_installed() {
    let Some(mut system) = System::new() else { return };
    system.installed(&OLD);
    let script = ("DEBIAN/postinst", "#!/bin/sh\nexit 1\n");
    let broken = update("alpha", vec![system.make(&Made { files: &[script], ..NEW })]);
    assert_eq!(system.install(&broken).await.outcome, Outcome::ScriptFailed);
    let better = update("alpha", vec![system.make(&Made { version: "1.2", ..OLD })]);
    let attempted = system.install(&better).await;
    assert_eq!(attempted.outcome, Outcome::Success, "{:?}", attempted.detail);
    assert_eq!(system.facts().values.get("flag:incomplete:alpha"), None);
}

#[tokio::test]
async fn dpkg_that_was_cut_off_is_finished_before_apt_is_asked() {
    let Some(mut system) = System::new() else { return };
    system.installed(&OLD);
    system.installed(&Made { name: "beta", ..OLD });
    // As dpkg leaves it when it is killed: a change of the database that is not in it yet.
    let stanza = "Package: beta\nStatus: install ok unpacked\nMaintainer: A <a@example.org>\n\
        Architecture: all\nVersion: 1.0\nDescription: a package for tests\n";
    fs::write(system.root().join("var/lib/dpkg/updates/0000"), stanza).unwrap();
    let alpha = update("alpha", vec![system.make(&NEW)]);
    let attempted = system.install(&alpha).await;
    assert_eq!(attempted.outcome, Outcome::Success, "{:?}", attempted.detail);
    assert_eq!(fs::read_dir(system.root().join("var/lib/dpkg/updates")).unwrap().count(), 0);
    assert_eq!(system.facts().values.get("flag:incomplete:beta"), None);
}

#[tokio::test]
async fn a_script_that_hangs_is_stopped_at_the_limit() {
    let Some(mut system) = System::new() else { return };
    system.installed(&OLD);
    let script = ("DEBIAN/preinst", "#!/bin/sh\nexec sleep 1000\n");
    let alpha = update("alpha", vec![system.make(&Made { files: &[script], ..NEW })]);
    let attempted = system.attempt(&alpha, (&[], &[]), Duration::from_secs(3)).await;
    assert_eq!(attempted.outcome, Outcome::TimedOut);
    // The repaired package can be upgraded: what was cut off is finished first.
    let better = update("alpha", vec![system.make(&Made { version: "1.2", ..OLD })]);
    let attempted = system.install(&better).await;
    assert_eq!(attempted.outcome, Outcome::Success, "{:?}", attempted.detail);
    assert_eq!(system.version("alpha").as_deref(), Some("1.2"));
}

#[tokio::test]
async fn success_that_changes_nothing_is_not_believed() {
    let Some(mut system) = System::new() else { return };
    system.installed(&OLD);
    let alpha = update("alpha", vec![system.make(&NEW)]);
    // The rule goes on saying that it is needed.
    let fresh = || Fresh { state: State::Needed, facts: system.facts() };
    let codes = Codes::default();
    let request = Request { update: &alpha, approved: &[], left_out: &[], codes: &codes, limit: LIMIT };
    let attempted = system.engine().install(&request, &system, &system, &fresh).await;
    assert_eq!(attempted.outcome, Outcome::ReportedSuccessStillNeeded);
    let again = system.engine().install(&request, &system, &system, &fresh).await;
    assert_eq!(again.outcome, Outcome::NothingToUpgrade);
}

#[tokio::test]
async fn a_lock_that_another_program_holds_is_respected() {
    let Some(mut system) = System::new() else { return };
    system.installed(&OLD);
    let alpha = update("alpha", vec![system.make(&NEW)]);
    let lock = system.root().join("var/lib/dpkg/lock-frontend");
    let ready = system.directory.path().join("ready");
    // fcntl locks belong to a process, so another one has to hold it.
    let script = "import fcntl,sys,os\nf=open(sys.argv[1],'w')\nfcntl.lockf(f,fcntl.LOCK_EX)\n\
        open(sys.argv[2],'w')\nsys.stdin.read()";
    let mut holder = Command::new("python3")
        .args(["-c", script, lock.to_str().unwrap(), ready.to_str().unwrap()])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    while !ready.exists() {
        assert!(holder.try_wait().unwrap().is_none(), "the holder of the lock ended");
        std::thread::yield_now();
    }
    assert_eq!(system.engine().clean().unwrap(), Cleaned::Busy);
    assert_eq!(system.install(&alpha).await.outcome, Outcome::LockBusy);
    drop(holder.stdin.take());
    holder.wait().unwrap();
    assert_eq!(system.install(&alpha).await.outcome, Outcome::Success);
}

#[tokio::test]
async fn a_held_package_is_not_touched() {
    let Some(mut system) = System::new() else { return };
    system.installed(&OLD);
    run("chroot", &[system.root().to_str().unwrap(), "apt-mark", "hold", "alpha"]);
    let alpha = update("alpha", vec![system.make(&NEW)]);
    let attempted = system.install(&alpha).await;
    assert_eq!(attempted.outcome, Outcome::Held);
    assert_eq!(attempted.detail.as_deref(), Some("the package `alpha` is held"));
}

#[tokio::test]
async fn a_file_swapped_after_it_was_verified_is_not_installed() {
    let Some(mut system) = System::new() else { return };
    system.installed(&OLD);
    let new = system.make(&NEW);
    let evil = system.make(&Made { files: &[("etc/evil", "x")], ..Made { version: "1.1.", ..OLD } });
    let (good, bad) = (system.blobs[&new.payload.digest].clone(), system.blobs[&evil.payload.digest].clone());
    system.meanwhile = Some(Box::new(move |_| _ = fs::copy(&bad, &good).unwrap()));
    let attempted = system.install(&update("alpha", vec![new])).await;
    assert_eq!(attempted.outcome, Outcome::PayloadCorrupt);
    assert_eq!(system.version("alpha").as_deref(), Some("1.0"));
}

#[tokio::test]
async fn a_reboot_is_required_only_when_a_changed_package_asks_for_it() {
    let Some(mut system) = System::new() else { return };
    system.installed(&OLD);
    let script = "#!/bin/sh\nmkdir -p /run; touch /run/reboot-required; echo $DPKG_MAINTSCRIPT_PACKAGE >> /run/reboot-required.pkgs\n";
    let alpha = update("alpha", vec![system.make(&Made { files: &[("DEBIAN/postinst", script)], ..NEW })]);
    assert_eq!(system.install(&alpha).await.outcome, Outcome::SuccessRebootRequired);
    system.installed(&Made { name: "beta", ..OLD });
    let beta = update("beta", vec![system.make(&Made { name: "beta", ..NEW })]);
    assert_eq!(system.install(&beta).await.outcome, Outcome::Success);
}

#[tokio::test]
async fn no_service_is_started_in_a_root_that_does_not_run() {
    let Some(mut system) = System::new() else { return };
    system.installed(&OLD);
    let script = "#!/bin/sh\n/usr/sbin/policy-rc.d alpha start; echo $? > /policy\n";
    let alpha = update("alpha", vec![system.make(&Made { files: &[("DEBIAN/postinst", script)], ..NEW })]);
    assert_eq!(system.install(&alpha).await.outcome, Outcome::Success);
    assert_eq!(fs::read_to_string(system.root().join("policy")).unwrap(), "101\n");
}

/// Mount points at or below the root of `system`, as this process sees them.
fn mounted(system: &System) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    points.filter(|point| Path::new(point).starts_with(system.root())).map(str::to_owned).collect()
}

/// Processes whose root is that of `system`.
fn processes(system: &System) -> usize {
    let roots = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path().join("root")).ok());
    roots.filter(|root| *root == system.root()).count()
}

#[tokio::test]
async fn scripts_in_a_root_that_does_not_run_have_a_proc_and_devices_of_their_own() {
    let Some(mut system) = System::new() else { return };
    system.installed(&OLD);
    let script = "#!/bin/sh\nset -e\nexec >/seen\ncat /proc/1/comm\nreadlink /proc/self/root\n\
                  echo lost >/dev/null\nhead -c 4 /dev/urandom | wc -c\ncat /dev/fd/3 3</etc/debian_version\n\
                  touch /dev/shm/x\nwc -l </proc/self/mounts >/mounts\n";
    let alpha = update("alpha", vec![system.make(&Made { files: &[("DEBIAN/postinst", script)], ..NEW })]);
    let attempted = system.install(&alpha).await;
    assert_eq!((attempted.outcome, attempted.detail), (Outcome::Success, None));
    let release = fs::read_to_string(system.root().join("etc/debian_version")).unwrap();
    assert_eq!(fs::read_to_string(system.root().join("seen")).unwrap(), format!("apt-get\n/\n4\n{release}"));
    assert_eq!(mounted(&system), Vec::<String>::new());
    assert!(!system.root().join("dev/shm/x").exists(), "what is in its `/dev` is gone with it");
}

#[tokio::test]
async fn what_a_script_leaves_running_in_a_root_that_does_not_run_ends_with_the_installation() {
    let Some(mut system) = System::new() else { return };
    system.installed(&OLD);
    let script = "#!/bin/sh\nsetsid sleep 100000 >/dev/null 2>&1 &\n";
    let alpha = update("alpha", vec![system.make(&Made { files: &[("DEBIAN/postinst", script)], ..NEW })]);
    assert_eq!(system.install(&alpha).await.outcome, Outcome::Success);
    // The kernel kills them when the first process ends, and needs a moment to be done with it.
    let gone = async {
        while processes(&system) > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, gone).await.expect("it is still running");
}

#[tokio::test]
async fn a_root_that_cannot_have_a_proc_is_patched_without_and_a_failure_says_so() {
    let Some(mut system) = System::new() else { return };
    system.installed(&OLD);
    fs::remove_dir_all(system.root().join("proc")).unwrap();
    std::os::unix::fs::symlink("/tmp", system.root().join("proc")).unwrap();
    let wants = "#!/bin/sh\ntest -e /proc/self/status\n";
    let alpha = |system: &mut System, version, script| {
        let made = Made { version, files: &[("DEBIAN/postinst", script)], ..NEW };
        update("alpha", vec![system.make(&made)])
    };
    let failing = alpha(&mut system, "1.1", wants);
    let attempted = system.install(&failing).await;
    assert_eq!(attempted.outcome, Outcome::ScriptFailed);
    let said = attempted.detail.unwrap();
    let expected = format!(
        "package scripts had neither `/proc` nor `/dev`: `{}/proc` is not a directory",
        system.root().display()
    );
    assert!(said.ends_with(&expected), "{said}");
    let fine = alpha(&mut system, "1.2", "#!/bin/sh\ntest ! -e /proc/self\n");
    assert_eq!(system.install(&fine).await.outcome, Outcome::Success);
}

#[tokio::test]
async fn an_installation_goes_on_when_nobody_waits_for_it_any_more() {
    let Some(mut system) = System::new() else { return };
    system.installed(&OLD);
    let script = "#!/bin/sh\ntouch /begun; until test -e /go; do sleep 0.1; done\n";
    let alpha = update("alpha", vec![system.make(&Made { files: &[("DEBIAN/preinst", script)], ..NEW })]);
    let fresh = || Fresh { state: State::Needed, facts: system.facts() };
    let codes = Codes::default();
    let request = Request { update: &alpha, approved: &[], left_out: &[], codes: &codes, limit: LIMIT };
    let engine = system.engine();
    {
        let attempt = engine.install(&request, &system, &system, &fresh);
        tokio::pin!(attempt);
        let begun = async {
            while !system.root().join("begun").exists() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = &mut attempt => panic!("it should wait"),
            () = begun => {}
        }
    }
    // As after a crash: the package manager is at work, and what it works with stays.
    assert_eq!(mounted(&system), Vec::<String>::new(), "what scripts see mounted is nobody else's");
    assert_eq!(engine.clean().unwrap(), Cleaned::Busy);
    assert_eq!(engine.install(&request, &system, &system, &fresh).await.outcome, Outcome::LockBusy);
    fs::write(system.root().join("go"), "").unwrap();
    while engine.clean().unwrap() == Cleaned::Busy {
        tokio::task::yield_now().await;
    }
    assert_eq!(system.version("alpha").as_deref(), Some("1.1"));
    assert!(!system.root().join("usr/sbin/policy-rc.d").exists());
    assert_eq!(fs::read_dir(system.root().join("var/lib/tierway")).unwrap().count(), 0);
}

fn approved(at: Timestamp) -> Effective {
    Effective {
        decision: Decision::Approve,
        group: "all".parse().unwrap(),
        by: "operator:ann".to_owned(),
        at,
        asked: at,
        rings: None,
    }
}

fn finding<'a>(update: &'a Update, verdict: &'a Verdict, decision: Option<&'a Effective>) -> Finding<'a> {
    const HERE: Limit = Limit { duration: LIMIT, expected: LIMIT, source: Source::AllClasses };
    Finding { update, verdict, decision, limit: &HERE, payloads: Payloads::Here }
}

/// What is planned where nothing is published but decisions and nobody is at the machine.
fn planned(findings: &[Finding<'_>], book: &Book, facts: &Facts, at: Timestamp) -> Plan {
    let now = Now {
        at,
        facts,
        people: &People::nobody(),
        countdown: None,
        reachable: true,
        leases: &BTreeMap::new(),
        limits: &Limits::default(),
        stale: None,
    };
    plan(findings, &Here::default(), book, &now)
}

/// An update that the rules call needed while `name` is installed in an older version.
fn by_rule(name: &str, packages: Vec<DebPackage>, version: &str) -> Update {
    let test = |version| {
        Expr::Package(PackageTest {
            manager: Manager::Deb,
            name: name.to_owned(),
            architecture: None,
            version,
        })
    };
    let installed = test(Some(Compare::Ge(version.to_owned())));
    Update { applicable: test(None), installed, ..update(name, packages) }
}

#[tokio::test]
async fn a_plan_is_executed_written_down_and_confirmed_by_the_next_scan() {
    let Some(mut system) = System::new() else { return };
    for name in ["alpha", "beta", "gamma", "delta"] {
        system.installed(&Made { name, ..OLD });
    }
    let new = |name| Made { name, ..NEW };
    let needs_beta = [("Depends", "beta (>= 1.1)")];
    let broken = [("DEBIAN/preinst", "#!/bin/sh\nexit 1\n")];
    let alpha = system.make(&Made { control: &needs_beta, ..new("alpha") });
    let beta = system.make(&new("beta"));
    let gamma = system.make(&Made { files: &broken, ..new("gamma") });
    let delta = system.make(&new("delta"));
    let updates: BTreeMap<_, _> = [("alpha", alpha), ("beta", beta), ("gamma", gamma), ("delta", delta)]
        .into_iter()
        .map(|(name, package)| by_rule(name, vec![package], "1.1"))
        .map(|update| (update.id.clone(), Arc::new(update)))
        .collect();
    let id = |name: &str| format!("debian-12/{name}").parse::<UpdateId>().unwrap();
    let clock = Clock::manual("2026-11-20T10:00:00Z".parse().unwrap());
    let ledger = system.directory.path().join("ledger");
    let (mut ledger, _) = Ledger::open(&ledger).unwrap();
    let look = |ledger: &mut Ledger| {
        let facts = system.facts();
        let verdicts: BTreeMap<_, _> =
            updates.iter().map(|(id, update)| (id.clone(), verdict(update, &facts))).collect();
        let entries = ledger.observe(clock.now(), &verdicts, &Conditions::default()).unwrap();
        (facts, verdicts, entries)
    };
    let (facts, verdicts, entries) = look(&mut ledger);
    assert_eq!(entries.len(), 4);

    let approved = approved(clock.now());
    let findings: Vec<_> = updates
        .iter()
        .map(|(id, update)| finding(update, &verdicts[id], (id.name() != "delta").then_some(&approved)))
        .collect();
    clock.advance(SignedDuration::from_mins(1));
    let planned = planned(&findings, ledger.book(), &facts, clock.now());
    assert_eq!(planned.install().cloned().collect::<Vec<_>>(), [id("alpha"), id("beta"), id("gamma")]);
    let means = Means {
        engine: &system.engine(),
        pool: &system,
        payloads: &system,
        scan: &|| system.facts(),
        clock: &clock,
        codes: &Codes::default(),
        go_on: &|| true,
    };
    let executed = execute(&planned, &updates, &means, &mut ledger).await.unwrap();
    let outcomes: Vec<_> =
        executed.attempts.iter().map(|(id, attempted)| (id.name(), attempted.outcome)).collect();
    assert_eq!(outcomes, [("alpha", Outcome::Success), ("gamma", Outcome::ScriptFailed)]);

    clock.advance(SignedDuration::from_mins(1));
    let (_, _, entries) = look(&mut ledger);
    let confirmed: Vec<_> = entries.iter().map(|entry| (entry.update.name(), entry.state)).collect();
    assert_eq!(confirmed, [("alpha", State::Installed), ("beta", State::Installed)]);
    let record = |name| ledger.book().record(&id(name)).unwrap();
    assert!(record("alpha").applied.is_some() && record("beta").applied.is_some());
    assert_eq!(
        ["alpha", "beta", "gamma", "delta"].map(|name| record(name).state),
        [State::Installed, State::Installed, State::Failed, State::Needed]
    );
    assert_eq!(system.version("gamma").as_deref(), Some("1.0"));
    assert_eq!(system.version("delta").as_deref(), Some("1.0"));
}

#[tokio::test]
async fn fetching_is_asked_for_once_when_nothing_changes_meanwhile() {
    let Some(mut system) = System::new() else { return };
    system.installed(&OLD);
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    system.meanwhile = Some(Box::new(move |_| _ = counted.fetch_add(1, Ordering::SeqCst)));
    let alpha = update("alpha", vec![system.make(&NEW)]);
    assert_eq!(system.install(&alpha).await.outcome, Outcome::Success);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    assert!(File::open(system.root().join("var/lib/apt/lists")).is_ok());
}

#[tokio::test]
async fn an_installer_that_exits_0_and_does_nothing_is_left_alone_after_five_attempts() {
    let Some(mut system) = System::new() else { return };
    system.installed(&OLD);
    let alpha = by_rule("alpha", vec![system.make(&NEW)], "1.1");
    // As apt in all but what counts.
    let apt = system.root().join("usr/bin/apt-get");
    fs::rename(&apt, system.root().join("usr/bin/apt-get.real")).unwrap();
    let script = "#!/bin/sh\ncase \"$*\" in *--simulate*) exec apt-get.real \"$@\";; esac\n";
    fs::write(&apt, script).unwrap();
    fs::set_permissions(&apt, fs::Permissions::from_mode(0o755)).unwrap();

    let updates: BTreeMap<_, _> = [(alpha.id.clone(), Arc::new(alpha.clone()))].into();
    let directory = tempfile::tempdir().unwrap();
    let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
    let clock = Clock::manual("2026-01-01T00:00:00Z".parse().unwrap());
    let approved = approved(clock.now());
    let mut attempts = Vec::new();
    for _hour in 0..24 * 30 {
        let facts = system.facts();
        let verdict = verdict(&alpha, &facts);
        ledger
            .observe(
                clock.now(),
                &[(alpha.id.clone(), verdict.clone())].into(),
                &Conditions { reboot_pending: false, incomplete: Default::default() },
            )
            .unwrap();
        let finding = finding(&alpha, &verdict, Some(&approved));
        let planned = planned(&[finding], ledger.book(), &facts, clock.now());
        if planned.steps.is_empty() {
            clock.advance(SignedDuration::from_hours(1));
            continue;
        }
        let means = Means {
            engine: &system.engine(),
            pool: &system,
            payloads: &system,
            scan: &|| system.facts(),
            clock: &clock,
            codes: &Codes::default(),
            go_on: &|| true,
        };
        let executed = execute(&planned, &updates, &means, &mut ledger).await.unwrap();
        attempts.extend(executed.attempts.into_iter().map(|(_, attempted)| attempted.outcome));
    }
    assert_eq!(attempts, [Outcome::ReportedSuccessStillNeeded; 5]);
    let facts = system.facts();
    let finding = finding(&alpha, &Verdict::Needed, Some(&approved));
    let planned = planned(&[finding], ledger.book(), &facts, clock.now());
    let outcome = Outcome::ReportedSuccessStillNeeded;
    assert_eq!(planned.left_out[&alpha.id], Reason::Quarantined { times: 5, outcome });
    assert_eq!(system.version("alpha").as_deref(), Some("1.0"));
    assert!(ledger.book().record(&alpha.id).unwrap().took_seconds.is_some());
}
