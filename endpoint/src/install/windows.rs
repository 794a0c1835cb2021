//! The engine for Windows: Windows Installer, component servicing, and programs of the updates' own.
//!
//! What is run comes from copies whose digests were checked on the way into place; arguments are those of the
//! published document, handed over without a shell. Compiled and tested on every system, with programs of a
//! test in the place of those of Windows.

pub mod codes;
mod log;
mod place;

use std::{
    ffi::OsString,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tierway_common::{
    daemon::chain::Chain,
    facts::Facts,
    programs::{self, End, Program, Ran, RunError},
    rules::evaluate::{Truth, evaluate},
    schema::{Handler, Install, Payload, RebootBehavior, Update, WindowsFile, WindowsInstall},
};

use self::{codes::Engine as Table, place::Placed};
use super::{
    Attempted, CleanError, Cleaned, Engine, Fresh, PayloadFetcher, Pool, Request, Stop,
    codes::{After, Outcome, decide},
};

/// How often an installer that is busy with another installation is asked again in one attempt; after that the
/// attempt ends as busy, and is made again later.
const BUSY_TRIES: u32 = 4;
/// Between two of them.
const BUSY_WAIT: Duration = Duration::from_secs(30);
/// What is kept of what a program prints.
const TAIL_BYTES_MAX: usize = 8 << 10;

/// Installs updates of Windows and of programs on it.
#[derive(Clone, Debug)]
pub struct WindowsEngine {
    /// A directory of this program's own, for nameless output files.
    scratch: PathBuf,
    /// Where the system's own programs are.
    system: PathBuf,
    busy_wait: Duration,
    memory: Arc<dyn Memory>,
}

/// What outlives this program.
pub trait Memory: fmt::Debug + Send + Sync {
    /// Remembers until the next boot that a restart is needed: few installers leave a sign of it.
    fn restart_needed(&self);
}

/// One part of an update and the files that it came with.
struct Job<'a> {
    name: &'a str,
    install: &'a WindowsInstall,
}

/// What the installers said.
struct Said {
    outcome: Outcome,
    detail: String,
    took: Duration,
}

impl WindowsEngine {
    /// An engine of the running system; `scratch` is a directory of this program's own. There is no other root
    /// than `/` on Windows.
    #[cfg(windows)]
    #[must_use]
    pub fn new(_: &Path, scratch: &Path) -> Self {
        use crate::scan::windows::{place::system_folder, registry::SystemRegistry};
        Self::with_system(scratch, &system_folder(&SystemRegistry), Arc::new(SystemRegistry))
    }

    /// An engine that starts the programs in the folder `system`.
    #[must_use]
    pub fn with_system(scratch: &Path, system: &Path, memory: Arc<dyn Memory>) -> Self {
        Self { scratch: scratch.to_owned(), system: system.to_owned(), busy_wait: BUSY_WAIT, memory }
    }

    /// Where files are put that are installed from; emptied before and after each attempt.
    fn installing(&self) -> PathBuf {
        self.scratch.join("installing")
    }

    async fn attempt<F: PayloadFetcher + Sync>(
        &self,
        request: &Request<'_>,
        payloads: &F,
        before: &Fresh,
        fresh: &(dyn Fn() -> Fresh + Send + Sync),
    ) -> Result<Said, Stop> {
        let update = request.update;
        let jobs = jobs(update, &before.facts)?;
        payloads
            .ensure(&self.payloads(update, &before.facts))
            .await
            .map_err(|error| Stop::new(Outcome::PayloadUnavailable, Chain(&error).to_string()))?;
        match self.clean() {
            Ok(Cleaned::Yes) => {}
            Ok(Cleaned::Busy) => return Err(Stop::new(Outcome::LockBusy, "Windows Installer is at work")),
            Err(error) => return Err(Stop::new(Outcome::EngineUnavailable, Chain(&error).to_string())),
        }
        let mut placed = Vec::with_capacity(jobs.len());
        for (number, job) in jobs.iter().enumerate() {
            let folder = self.installing().join(number.to_string());
            placed.push(Placed::new(&folder, &job.install.files, payloads)?);
        }
        fresh().needed(update)?;
        let began = Instant::now();
        let mut said = Said { outcome: Outcome::Success, detail: String::new(), took: Duration::ZERO };
        for (job, placed) in jobs.iter().zip(&placed) {
            let part = self.run_job(request, job, placed, &before.facts, began).await?;
            said.took = began.elapsed();
            let failed = part.class() != super::codes::Class::Done;
            // A restart that an earlier part asked for is needed whatever a later one says.
            said.outcome = if failed { part } else { worse(said.outcome, part) };
            if failed || part != Outcome::Success {
                let named = if jobs.len() > 1 { format!("{}: ", job.name) } else { String::new() };
                said.detail = named + &part_detail(&part, &self.log_path(update));
            }
            if failed {
                break;
            }
        }
        Ok(said)
    }

    /// Runs what one part needs, and says what came of it.
    async fn run_job(
        &self,
        request: &Request<'_>,
        job: &Job<'_>,
        placed: &Placed,
        facts: &Facts,
        began: Instant,
    ) -> Result<Outcome, Stop> {
        let WindowsInstall { handler, reboot, .. } = job.install;
        let log = self.log_path(request.update);
        let mut outcome = Outcome::Success;
        for (program, table) in self.programs(handler, placed, facts, &log)? {
            let mut tries = 0;
            let said = loop {
                let left = request.limit.saturating_sub(began.elapsed());
                tracing::info!(update = %request.update.id, program = %program.path.display(), "installing");
                let program = Program { limit: left, ..program.clone() };
                let ran = self.run(&program, matches!(table, Table::Own(_))).await?;
                let said = request.codes.said_by(request.update, ran.end, |end| table.said(end));
                let again = said == Outcome::LockBusy && ran.end != End::TimedOut && tries < BUSY_TRIES;
                // After the wait there must be time for it.
                if !again || request.limit.saturating_sub(began.elapsed()) <= self.busy_wait {
                    break said;
                }
                tries += 1;
                tokio::time::sleep(self.busy_wait).await;
            };
            if matches!(said, Outcome::SuccessRebootRequired | Outcome::RebootInitiated) {
                // At once: what follows may fail, or not be reached.
                self.memory.restart_needed();
            }
            if said.class() != super::codes::Class::Done {
                return Ok(said);
            }
            outcome = worse(outcome, said);
        }
        if *reboot == RebootBehavior::Always && outcome == Outcome::Success {
            outcome = Outcome::SuccessRebootRequired;
            self.memory.restart_needed();
        }
        Ok(outcome)
    }

    /// Runs a program of the system, or one that the update brings itself: when that cannot be started, as one for another
    /// processor, it is the update that has failed, and others may be installed all the same.
    async fn run(&self, program: &Program, is_the_updates: bool) -> Result<Ran, Stop> {
        programs::run(program, &self.scratch).await.map_err(|error| {
            let outcome = match &error {
                RunError::Start { .. } if is_the_updates => Outcome::ScriptFailed,
                _ => Outcome::EngineUnavailable,
            };
            Stop::new(outcome, Chain(&error).to_string())
        })
    }

    /// Where the log of the last attempt of an update is kept.
    fn log_path(&self, update: &Update) -> PathBuf {
        self.scratch.join("logs").join(format!("{}.log", place::plain(update.id.as_str())))
    }

    /// What to run for a handler, in order, with the table of its exit codes.
    fn programs<'a>(
        &self,
        handler: &'a Handler,
        placed: &Placed,
        facts: &Facts,
        log: &Path,
    ) -> Result<Vec<(Program, Table<'a>)>, Stop> {
        let installer = |verb: &str, file: &Path, more: &str| {
            let (file, log) = (file.display(), log.display());
            let line = format!(r#"{verb} "{file}" /qn /norestart /l*v "{log}" REBOOT=ReallySuppress {more}"#);
            self.program("msiexec.exe", line.trim_end())
        };
        Ok(match handler {
            Handler::Msi { product_code, file, command_line, exit_codes } => {
                // A product that is there under the same code is not installed but brought up to date.
                let there = product_code.as_ref().is_some_and(|code| has_product(facts, code));
                let again = if there { "REINSTALL=ALL REINSTALLMODE=vomus " } else { "" };
                let program = installer("/i", &placed.file(file)?, &format!("{again}{command_line}"));
                vec![(program, Table::Installer(exit_codes))]
            }
            Handler::Msp { file, command_line, .. } => {
                let file = match file {
                    Some(file) => placed.file(file)?,
                    None => placed.only(&[".msp"])?,
                };
                vec![(installer("/p", &file, command_line), Table::Installer(&[]))]
            }
            Handler::CommandLine(command) => {
                let program =
                    Program { path: placed.file(&command.program)?, ..self.program("", &command.arguments) };
                vec![(program, Table::Own(command))]
            }
            Handler::Cbs { .. } => {
                let mut programs = Vec::new();
                for file in placed.ending(&[".msu", ".cab"]) {
                    let (shown, log) = (file.display(), log.display());
                    let ends = file.extension().and_then(|end| end.to_str()).unwrap_or_default();
                    programs.push(if ends.eq_ignore_ascii_case("msu") {
                        let line = format!(r#""{shown}" /quiet /norestart /log:"{log}""#);
                        (self.program("wusa.exe", &line), Table::Updates)
                    } else {
                        let line = format!(
                            r#"/Online /Add-Package /PackagePath:"{shown}" /Quiet /NoRestart /LogPath:"{log}""#
                        );
                        (self.program("dism.exe", &line), Table::Servicing)
                    });
                }
                if programs.is_empty() {
                    return Err(Stop::new(Outcome::DocumentMalformed, "it has no `.msu` and no `.cab` file"));
                }
                programs
            }
            Handler::Described { name, reason } => {
                return Err(Stop::new(Outcome::DocumentMalformed, format!("`{name}`: {reason}")));
            }
        })
    }

    fn program(&self, name: &str, command_line: &str) -> Program {
        Program {
            path: self.system.join(name),
            arguments: Vec::<OsString>::new(),
            command_line: command_line.to_owned(),
            directory: self.installing(),
            environment: programs::environment(),
            limit: Duration::MAX,
            grace: Duration::ZERO,
            tail_bytes_max: TAIL_BYTES_MAX,
        }
    }
}

impl Engine for WindowsEngine {
    fn lacks(install: &Install) -> Option<&str> {
        let lacks = |install: &WindowsInstall| matches!(install.handler, Handler::Described { .. });
        match install {
            Install::Windows(install) => lacks(install).then(|| install.handler.name()),
            Install::Bundle { parts } => {
                parts.iter().find(|part| lacks(&part.install)).map(|part| part.install.handler.name())
            }
            Install::Deb { .. } => Some("deb"),
        }
    }

    /// Those of the parts that are needed; of a bundle that cannot be decided those of all parts.
    fn payloads(&self, update: &Update, facts: &Facts) -> Vec<Payload> {
        let Ok(jobs) = jobs(update, facts) else { return Vec::new() };
        let files = jobs.iter().flat_map(|job| &job.install.files);
        files.filter_map(WindowsFile::payload).collect()
    }

    fn clean(&self) -> Result<Cleaned, CleanError> {
        if installer_at_work() {
            return Ok(Cleaned::Busy);
        }
        match fs::remove_dir_all(self.installing()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(CleanError(Box::new(error))),
            _ => {}
        }
        log::keep_newest(&self.scratch.join("logs")).map_err(|error| CleanError(Box::new(error)))?;
        fs::create_dir_all(self.installing()).map_err(|error| CleanError(Box::new(error)))?;
        Ok(Cleaned::Yes)
    }

    async fn install<P: Pool + Sync, F: PayloadFetcher + Sync>(
        &self,
        request: &Request<'_>,
        _: &P,
        payloads: &F,
        fresh: &(dyn Fn() -> Fresh + Send + Sync),
    ) -> Attempted {
        let before = fresh();
        let attempted = match before.needed(request.update) {
            Ok(()) => self.attempt(request, payloads, &before, fresh).await,
            Err(stop) => Err(stop),
        };
        if let Err(error) = self.clean() {
            tracing::warn!(error = %Chain(&error), "left what was installed from");
        }
        let said = match attempted {
            Ok(said) => said,
            Err(stop) => return Attempted::new(stop.outcome, &stop.detail),
        };
        let after = fresh();
        let pending = |facts: &Facts| facts.values.get("flag:reboot-pending").is_some_and(|is| is == "true");
        let after = After {
            state: after.state,
            incomplete: false,
            reboot_required: pending(&after.facts) && !pending(&before.facts),
            at_restart: true,
        };
        let attempted = Attempted::new(decide(said.outcome, after), &said.detail);
        Attempted { took: Some(said.took), ..attempted }
    }
}

/// What is to be run of an update on a computer with these facts.
fn jobs<'a>(update: &'a Update, facts: &Facts) -> Result<Vec<Job<'a>>, Stop> {
    match &update.install {
        Install::Windows(install) => Ok(vec![Job { name: &update.title, install }]),
        Install::Bundle { parts } => {
            let needed = parts.iter().filter(|part| {
                evaluate(&part.applicable, facts) == Truth::True
                    && evaluate(&part.installed, facts) == Truth::False
            });
            let jobs: Vec<_> = needed.map(|part| Job { name: &part.name, install: &part.install }).collect();
            if jobs.is_empty() {
                return Err(Stop::new(Outcome::NothingToUpgrade, "none of its parts is needed here"));
            }
            Ok(jobs)
        }
        Install::Deb { .. } => Err(Stop::new(Outcome::DocumentMalformed, "it is made of Debian packages")),
    }
}

fn has_product(facts: &Facts, code: &str) -> bool {
    let prefix = format!("package:msi:{}:", code.to_ascii_uppercase());
    facts.values.range(prefix.clone()..).next().is_some_and(|(key, _)| key.starts_with(&prefix))
}

/// Of two that both did their work what has to be told.
fn worse(one: Outcome, other: Outcome) -> Outcome {
    let rank = |outcome| match outcome {
        Outcome::RebootInitiated => 2,
        Outcome::SuccessRebootRequired => 1,
        _ => 0,
    };
    if rank(other) > rank(one) || one == Outcome::Success { other } else { one }
}

/// What a person needs to know who looks for the reason.
fn part_detail(outcome: &Outcome, log: &Path) -> String {
    if outcome.class() == super::codes::Class::Done {
        return String::new();
    }
    match log::read(log) {
        Ok(bytes) => match log::complaint(&bytes) {
            Some(complaint) => format!("{complaint}; see `{}`", log.display()),
            None => format!("see `{}`", log.display()),
        },
        Err(_) => String::new(),
    }
}

/// Whether Windows Installer is in the middle of an installation, ours or another's.
#[cfg(windows)]
fn installer_at_work() -> bool {
    use crate::scan::windows::registry::{Registry, SystemRegistry};
    SystemRegistry
        .has(r"HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Installer\InProgress")
        .unwrap_or(false)
}

#[cfg(not(windows))]
fn installer_at_work() -> bool {
    false
}

#[cfg(windows)]
impl Memory for crate::scan::windows::registry::SystemRegistry {
    fn restart_needed(&self) {
        if let Err(error) = crate::scan::windows::registry::mark_restart() {
            tracing::warn!(error, "could not note that a restart is needed");
        }
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests;
