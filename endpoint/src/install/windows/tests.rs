//! The engine with shell scripts in the place of the programs of Windows.

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt,
    sync::atomic::{AtomicU32, Ordering},
};

use tierway_common::{
    rules::expr::{Expr, FlagTest},
    schema::{CommandLine, ExitResult, Impact, Part, PoolEntry, State, policy::Meaning},
    trust::digest::Digest,
};

use super::*;
use crate::install::{Unavailable, codes::Codes};

const LIMIT: Duration = Duration::from_secs(60);

/// A folder of programs, of payloads, and of what the programs did.
struct System {
    directory: tempfile::TempDir,
    payloads: BTreeMap<Digest, PathBuf>,
    busy_wait: Duration,
    restarts: Arc<Restarts>,
}

/// How often it was to be remembered that a restart is needed.
#[derive(Debug, Default)]
struct Restarts(AtomicU32);

impl Memory for Restarts {
    fn restart_needed(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

struct NoPool;

impl Pool for NoPool {
    async fn lookup(&self, _: &str, _: &str) -> Result<Option<PoolEntry>, Unavailable> {
        Ok(None)
    }
}

impl PayloadFetcher for System {
    async fn ensure(&self, payloads: &[Payload]) -> Result<(), Unavailable> {
        match payloads.iter().find(|payload| !self.payloads.contains_key(&payload.digest)) {
            Some(payload) => {
                Err(Unavailable { what: payload.digest.to_string(), source: "it is not here".into() })
            }
            None => Ok(()),
        }
    }

    fn path(&self, digest: &Digest) -> Option<PathBuf> {
        self.payloads.get(digest).cloned()
    }
}

impl System {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("system")).unwrap();
        Self { directory, payloads: BTreeMap::new(), busy_wait: Duration::ZERO, restarts: Arc::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A program of Windows that writes its command line to `calls` and then does this.
    fn program(&self, name: &str, script: &str) -> &Self {
        let calls = self.path("calls");
        let text = format!(
            "#!/bin/sh\necho \"{name} $*\" >>{0}\ncd {1}\n{script}\n",
            calls.display(),
            self.directory.path().display()
        );
        let path = self.path("system").join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    /// A payload; `kept` is what is really there.
    fn file(&mut self, name: &str, bytes: &str, kept: &str) -> WindowsFile {
        let digest = Digest::of(bytes.as_bytes());
        let path = self.path(&format!("payload-{name}"));
        fs::write(&path, kept).unwrap();
        self.payloads.insert(digest, path);
        WindowsFile {
            name: name.to_owned(),
            bytes: bytes.len() as u64,
            sha256: Some(digest),
            sha1: None,
            url: Some(format!("https://vendor.example/{name}")),
        }
    }

    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("calls")).unwrap_or_default();
        let text = text.replace(&format!("{}/", self.directory.path().display()), "");
        text.lines().map(|line| line.trim_end().to_owned()).collect()
    }

    /// Attempts `install`. It counts as installed when there is a file `done`.
    async fn install(&self, install: Install, codes: &[(i64, Meaning)]) -> Attempted {
        let update = update(install, codes);
        let engine =
            WindowsEngine::with_system(&self.path("scratch"), &self.path("system"), self.restarts.clone());
        let engine = WindowsEngine { busy_wait: self.busy_wait, ..engine };
        fs::create_dir_all(self.path("scratch")).unwrap();
        let request =
            Request { update: &update, approved: &[], left_out: &[], codes: &Codes::default(), limit: LIMIT };
        let fresh = || Fresh {
            state: if self.path("done").exists() { State::Installed } else { State::Needed },
            facts: facts(&[("flag:a", "true"), ("flag:b", "false"), ("package:msi:{C}:1033", "1.0")]),
        };
        let attempted = engine.install(&request, &NoPool, self, &fresh).await;
        assert_eq!(fs::read_dir(self.path("scratch/installing")).unwrap().count(), 0, "files were left");
        attempted
    }
}

fn facts(values: &[(&str, &str)]) -> Facts {
    Facts {
        domains: BTreeMap::new(),
        values: values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
    }
}

fn update(install: Install, codes: &[(i64, Meaning)]) -> Update {
    Update { install, result_codes: codes.iter().copied().collect(), ..serde_json::from_str(BARE).unwrap() }
}

const BARE: &str = r#"{"id":"vendor-one","title":"","product":"","version":"","severity":"low","released":"1970-01-01T00:00:00Z","applicable":{"const":true},"installed":{"const":false},"install":{"bundle":{"parts":[]}}}"#;

fn one(handler: Handler, files: Vec<WindowsFile>, reboot: RebootBehavior) -> WindowsInstall {
    WindowsInstall { handler, files, reboot, impact: Impact::Normal, asks_user: false, needs_network: false }
}

fn msi(file: &str, code: Option<&str>) -> Handler {
    Handler::Msi {
        product_code: code.map(str::to_owned),
        file: file.to_owned(),
        command_line: "LANG=\"a b\"".to_owned(),
        exit_codes: Vec::new(),
    }
}

fn windows(handler: Handler, files: Vec<WindowsFile>) -> Install {
    Install::Windows(Box::new(one(handler, files, RebootBehavior::CanRequest)))
}

const MSI_LINE: &str = "\"scratch/installing/0/a.msi\" /qn /norestart /l*v \"scratch/logs/vendor-one.log\" REBOOT=ReallySuppress";

#[tokio::test]
async fn a_product_is_installed_quietly_from_a_checked_copy_and_the_scan_has_the_last_word() {
    let mut system = System::new();
    system.program("msiexec.exe", "cmp payload-a.msi scratch/installing/0/a.msi && touch done");
    let file = system.file("a.msi", "package", "package");
    let attempted = system.install(windows(msi("A.MSI", None), vec![file]), &[]).await;
    assert_eq!(attempted.outcome, Outcome::Success);
    assert_eq!(system.calls(), [format!("msiexec.exe /i {MSI_LINE} LANG=\"a b\"")]);

    let mut system = System::new();
    system.program("msiexec.exe", "exit 0");
    let file = system.file("a.msi", "package", "package");
    let attempted = system.install(windows(msi("a.msi", Some("{c}")), vec![file]), &[]).await;
    assert_eq!(attempted.outcome, Outcome::ReportedSuccessStillNeeded);
    let again = "REINSTALL=ALL REINSTALLMODE=vomus LANG=\"a b\"";
    assert_eq!(system.calls(), [format!("msiexec.exe /i {MSI_LINE} {again}")]);
}

#[tokio::test]
async fn a_file_that_is_not_what_its_digest_says_or_has_no_name_of_a_file_is_never_run() {
    for (name, kept, outcome) in [
        ("a.msi", "something else", Outcome::PayloadCorrupt),
        ("../a.msi", "package", Outcome::DocumentMalformed),
    ] {
        let mut system = System::new();
        system.program("msiexec.exe", "touch done");
        let mut file = system.file("a.msi", "package", kept);
        file.name = name.to_owned();
        let attempted = system.install(windows(msi(name, None), vec![file]), &[]).await;
        assert_eq!(attempted.outcome, outcome);
        assert_eq!(system.calls(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn an_installer_that_is_busy_is_asked_again_and_then_left_for_later() {
    let busy = [(75, Meaning::Busy)];
    let mut system = System::new();
    system.program("msiexec.exe", "if test -e twice; then touch done; else touch once; test -e calls && test $(wc -l <calls) = 2 && touch twice; exit 75; fi");
    let file = system.file("a.msi", "package", "package");
    let attempted = system.install(windows(msi("a.msi", None), vec![file]), &busy).await;
    assert_eq!((attempted.outcome, system.calls().len()), (Outcome::Success, 3));

    let mut system = System::new();
    system.program("msiexec.exe", "exit 75");
    let file = system.file("a.msi", "package", "package");
    let install = windows(msi("a.msi", None), vec![file]);
    let attempted = system.install(install.clone(), &busy).await;
    assert_eq!((attempted.outcome, system.calls().len()), (Outcome::LockBusy, 5));

    // Not when the time is up after the wait.
    fs::remove_file(system.path("calls")).unwrap();
    system.busy_wait = LIMIT;
    let attempted = system.install(install, &busy).await;
    assert_eq!((attempted.outcome, system.calls().len()), (Outcome::LockBusy, 1));
}

#[tokio::test]
async fn a_restart_that_a_part_asked_for_is_not_forgotten_for_what_a_later_part_says() {
    let codes = [(10, Meaning::SuccessRebootRequired), (11, Meaning::AlreadyInstalled)];
    for (later, outcome) in [
        ("touch done", Outcome::SuccessRebootRequired),
        ("touch done; exit 11", Outcome::SuccessRebootRequired),
        ("exit 11", Outcome::SuccessRebootRequired),
        ("exit 3", Outcome::Failed(3)),
    ] {
        let mut system = System::new();
        system.program("dism.exe", "exit 10");
        system.program("msiexec.exe", later);
        let (cab, package) = (system.file("x.cab", "cab", "cab"), system.file("a.msi", "package", "package"));
        let parts = vec![
            part("first", "a", Handler::Cbs { package: None }, &cab),
            part("second", "a", msi("a.msi", None), &package),
        ];
        let attempted = system.install(Install::Bundle { parts }, &codes).await;
        assert_eq!((attempted.outcome, system.calls().len()), (outcome, 2), "{later}");
        assert_eq!(system.restarts.0.load(Ordering::Relaxed), 1, "{later}");
    }
}

/// A part of a bundle for computers with the flag `applicable`, and not there as long as there is no flag `b`.
fn part(name: &str, applicable: &str, handler: Handler, file: &WindowsFile) -> Part {
    let flag = |name: &str| Expr::Flag(FlagTest { name: name.to_owned() });
    Part {
        name: name.to_owned(),
        applicable: flag(applicable),
        installed: flag("b"),
        install: one(handler, vec![file.clone()], RebootBehavior::CanRequest),
    }
}

#[tokio::test]
async fn what_is_replaced_at_the_restart_is_pending_though_its_rule_is_not_satisfied() {
    let mut system = System::new();
    system.program("wusa.exe", "exit 10");
    let file = system.file("KB1.msu", "package", "package");
    let handler = Handler::Cbs { package: None };
    let codes = [(10, Meaning::SuccessRebootRequired)];
    let attempted = system.install(windows(handler, vec![file]), &codes).await;
    assert_eq!(attempted.outcome, Outcome::SuccessRebootRequired);
    assert_eq!(system.restarts.0.load(Ordering::Relaxed), 1);
    let line = "\"scratch/installing/0/KB1.msu\" /quiet /norestart /log:\"scratch/logs/vendor-one.log\"";
    assert_eq!(system.calls(), [format!("wusa.exe {line}")]);
}

#[tokio::test]
async fn a_program_of_the_update_is_started_itself_with_its_own_arguments() {
    let mut system = System::new();
    let script =
        format!("#!/bin/sh\necho \"$# $*\" >{0}/calls\ntouch {0}/done\n", system.directory.path().display());
    let file = system.file("setup.exe", &script, &script);
    let command = CommandLine {
        program: "setup.exe".to_owned(),
        arguments: "/S /D=C:\\Program Files\\X; touch y".to_owned(),
        exit_codes: Vec::new(),
        otherwise: ExitResult::Failed,
        reboot_otherwise: false,
    };
    let install = one(Handler::CommandLine(command), vec![file], RebootBehavior::Always);
    let attempted = system.install(Install::Windows(Box::new(install)), &[]).await;
    assert_eq!(attempted.outcome, Outcome::SuccessRebootRequired);
    assert_eq!(system.restarts.0.load(Ordering::Relaxed), 1);
    assert_eq!(system.calls(), ["1 /S /D=C:\\Program Files\\X; touch y"]);
}

#[tokio::test]
async fn a_program_of_an_update_that_cannot_be_started_is_the_fault_of_the_update_and_one_of_the_system_is_not()
 {
    let mut system = System::new();
    let file = system.file("setup.exe", "MZ for another processor", "MZ for another processor");
    let command = CommandLine {
        program: "setup.exe".to_owned(),
        arguments: String::new(),
        exit_codes: Vec::new(),
        otherwise: ExitResult::Failed,
        reboot_otherwise: false,
    };
    let install = one(Handler::CommandLine(command), vec![file], RebootBehavior::Never);
    let attempted = system.install(Install::Windows(Box::new(install)), &[]).await;
    assert_eq!(attempted.outcome, Outcome::ScriptFailed);
    let detail = attempted.detail.unwrap();
    assert!(detail.starts_with("could not start `") && detail.contains("setup.exe`: "), "{detail}");

    let cab = system.file("x.cab", "cab", "cab");
    let install = one(Handler::Cbs { package: None }, vec![cab], RebootBehavior::Never);
    let attempted = system.install(Install::Windows(Box::new(install)), &[]).await;
    assert_eq!(attempted.outcome, Outcome::EngineUnavailable);
}

#[tokio::test]
async fn of_a_bundle_the_parts_that_are_needed_are_installed_until_one_fails() {
    let mut system = System::new();
    system.program("msiexec.exe", "exit 3");
    system.program("dism.exe", "exit 0");
    let cab = system.file("x.cab", "cab", "cab");
    let package = system.file("a.msi", "package", "package");
    let cbs = || Handler::Cbs { package: None };
    let parts = vec![
        part("for others", "b", msi("a.msi", None), &package),
        part("first", "a", cbs(), &cab),
        part("second", "a", msi("a.msi", None), &package),
        part("third", "a", cbs(), &cab),
    ];
    let attempted = system.install(Install::Bundle { parts }, &[]).await;
    assert_eq!(attempted.outcome, Outcome::Failed(3));
    let programs: Vec<_> =
        system.calls().iter().map(|call| call.split(' ').next().unwrap_or_default().to_owned()).collect();
    assert_eq!(programs, ["dism.exe", "msiexec.exe"]);
}

#[tokio::test]
async fn why_an_installer_failed_is_told_from_its_log() {
    let mut system = System::new();
    system.program("msiexec.exe", "printf 'Error 1304. no access\\nAction ended: X. Return value 3.\\n' >scratch/logs/vendor-one.log; exit 67");
    let file = system.file("a.msi", "package", "package");
    let attempted = system.install(windows(msi("a.msi", None), vec![file]), &[]).await;
    assert_eq!(attempted.outcome, Outcome::Failed(67));
    let detail = attempted.detail.unwrap();
    assert!(
        detail.starts_with("Error 1304. no access; see `") && detail.ends_with("vendor-one.log`"),
        "{detail}"
    );
}
