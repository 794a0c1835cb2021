//! The engine for Debian packages: apt's own resolver over a temporary local repository.
//!
//! First apt is asked, with nothing but a list of packages, what it would do; exactly those packages are
//! fetched and put into the repository; then a fresh scan and apt are asked again, and if the answer is
//! still the same, it is done. Works on `/` and, through `chroot`, on any other root.

use std::{
    fs::OpenOptions,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::{fs::FlockOperation, io::Errno};
use tierway_common::{
    daemon::chain::Chain,
    facts::Facts,
    programs::{self, End, Program, Ran},
    schema::{DebPackage, Install, Payload, State, Update},
};

use super::{
    apt::{self, Apt, Simulation, Step, complaint},
    enclosure::enclosed,
    flag, is_incomplete,
    repository::{self, Repository, RepositoryError, ServicePolicy},
    resolve::{Offer, ResolveError, Unmet, resolve, targets},
    update_names,
    world::World,
};
use crate::{
    install::{
        Attempted, CleanError, Cleaned, Engine, Fresh, PayloadFetcher, Pool, Request, Stop,
        codes::{self, After, Outcome},
    },
    scan::linux::root::Root,
};

/// dpkg's lock that every front end takes first.
const FRONTEND_LOCK: &str = "var/lib/dpkg/lock-frontend";

/// Names of packages that asked for the reboot.
const REBOOT_PACKAGES: &str = "/run/reboot-required.pkgs";

/// Times that the answer of apt may change between asking and doing before it is left for later.
const ROUNDS_MAX: usize = 4;

/// Of the reason why scripts have no `/proc`: one line.
const BARE_BYTES_MAX: usize = 200;

/// Installs Debian packages below one root.
#[derive(Clone, Debug)]
pub struct DebEngine {
    root: PathBuf,
    /// For nameless output files.
    scratch: PathBuf,
    apt: Apt,
}

/// What the package manager said when it was told to install.
struct Said {
    outcome: Outcome,
    detail: String,
    steps: Vec<Step>,
    took: Duration,
}

impl Engine for DebEngine {
    fn lacks(install: &Install) -> Option<&str> {
        match install {
            Install::Deb { .. } => None,
            Install::Windows(install) => Some(install.handler.name()),
            Install::Bundle { .. } => Some("bundle"),
        }
    }

    fn payloads(&self, update: &Update, facts: &Facts) -> Vec<Payload> {
        let packages = update.install.deb_packages();
        let older = |package: &&DebPackage| {
            let installed =
                facts.values.get(&format!("package:deb:{}:{}", package.name, package.architecture));
            installed.is_some_and(|installed| *installed != package.version)
        };
        packages.iter().filter(older).map(|package| package.payload.clone()).collect()
    }

    fn clean(&self) -> Result<Cleaned, CleanError> {
        self.clean_up().map_err(|error| CleanError(Box::new(error)))
    }

    async fn install<P: Pool, F: PayloadFetcher>(
        &self,
        request: &Request<'_>,
        pool: &P,
        payloads: &F,
        fresh: &(dyn Fn() -> Fresh + Send + Sync),
    ) -> Attempted {
        let before = fresh();
        // What an earlier attempt left half done is finished even if the versions are the wanted ones.
        if !is_incomplete(request.update, &before.facts)
            && let Err(stop) = before.needed(request.update)
        {
            return Attempted::new(stop.outcome, &stop.detail);
        }
        let said = match self.attempt(request, pool, payloads, &before, fresh).await {
            Ok(said) => said,
            Err(stop) => return Attempted::new(stop.outcome, &stop.detail),
        };
        let pending_before = flag(&before.facts, "reboot-pending");
        let after = fresh();
        let asked = flag(&after.facts, "reboot-pending") && (!pending_before || self.asked(&said.steps));
        let after = After {
            state: after.state,
            incomplete: is_incomplete(request.update, &after.facts),
            reboot_required: asked,
            at_restart: false,
        };
        let attempted = Attempted::new(codes::decide(said.outcome, after), &said.detail);
        Attempted { steps: said.steps, took: Some(said.took), ..attempted }
    }
}

impl DebEngine {
    /// An engine for the system below `root`; `scratch` is a directory of this program's own.
    #[must_use]
    pub fn new(root: &Path, scratch: &Path) -> Self {
        Self { root: root.to_owned(), scratch: scratch.to_owned(), apt: Apt::new(root) }
    }

    /// See [`Engine::clean`]; with the error as it is.
    fn clean_up(&self) -> Result<Cleaned, RepositoryError> {
        let path = self.root.join(FRONTEND_LOCK);
        let io_error = |source| RepositoryError::Io { path: path.clone(), source };
        let lock = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return repository::clean(&self.root).map(|()| Cleaned::Yes);
            }
            Err(error) => return Err(io_error(error)),
        };
        match rustix::fs::fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => repository::clean(&self.root).map(|()| Cleaned::Yes),
            Err(Errno::AGAIN | Errno::ACCESS) => Ok(Cleaned::Busy),
            Err(error) => Err(io_error(error.into())),
        }
    }

    async fn attempt<P: Pool, F: PayloadFetcher>(
        &self,
        request: &Request<'_>,
        pool: &P,
        payloads: &F,
        before: &Fresh,
        fresh: &(dyn Fn() -> Fresh + Send + Sync),
    ) -> Result<Said, Stop> {
        match self.clean_up() {
            Ok(Cleaned::Yes) => {}
            Ok(Cleaned::Busy) => return Err(Stop::new(Outcome::LockBusy, "")),
            Err(error) => return Err(stop_of(&error)),
        }
        let repaired = self.repair(request, before).await?;
        match (repaired, fresh().needed(request.update)) {
            // That was the installation, cut off or failed before: whether it asks for a reboot is to be judged.
            (Some(took), Err(stop)) if stop.outcome == Outcome::AlreadyInstalled => {
                let detail = "what an earlier attempt left half installed is finished".to_owned();
                let steps = half_installed(request.update, &before.facts);
                return Ok(Said { outcome: Outcome::Success, detail, steps, took });
            }
            (_, needed) => needed?,
        }
        let repository = Arc::new(Repository::create(&self.root).map_err(|error| stop_of(&error))?);
        let mut prepared: Option<Vec<Step>> = None;
        for _ in 0..ROUNDS_MAX {
            let world = self.world()?;
            let (names, offer, simulation) = self.simulate(request, pool, &world, &repository).await?;
            if prepared.as_ref() == Some(&simulation.install) {
                fresh().needed(request.update)?;
                return self.execute(&repository, &names, simulation.install, request).await;
            }
            self.prepare(&repository, &offer, &simulation, payloads).await?;
            fresh().needed(request.update)?;
            prepared = Some(simulation.install);
        }
        Err(Stop::new(Outcome::LockBusy, "what is installed changed again and again meanwhile"))
    }

    /// Finishes what was cut off: dpkg's own work, without which apt does nothing, and, when `before` finds
    /// the right version there but half installed, that. Other packages that are not fully installed are
    /// left to apt, and their failure is not this update's. Returns how long it took to finish packages of the update
    /// itself, where that is what it did.
    async fn repair(&self, request: &Request<'_>, before: &Fresh) -> Result<Option<Duration>, Stop> {
        let unfinished = before.state != State::Needed;
        if !unfinished && !self.was_cut_off()? {
            return Ok(None);
        }
        tracing::info!(update = %request.update.id, "finishing the package manager's interrupted work");
        let policy = self.service_policy()?;
        let (ran, bare) = self.run_with(self.apt.configure_all(request.limit), None, policy.as_ref()).await?;
        let took = ran.took;
        let text = ran.errors.text + &ran.output.text;
        let said = codes::of_program(ran.end, &text);
        if said == Outcome::Success {
            let own = unfinished || is_incomplete(request.update, &before.facts);
            return Ok(own.then_some(took));
        }
        let world = self.world()?;
        let names = update_names(request.update);
        let own: Vec<_> = world
            .incomplete
            .iter()
            .filter(|(name, _)| names.contains(&name.as_str()))
            .map(|(name, word)| format!("`{name}` is {word}"))
            .collect();
        let stopped = matches!(said, Outcome::TimedOut | Outcome::Killed(_));
        let complaint = complained(&text, bare.as_ref());
        if unfinished && !own.is_empty() {
            return Err(Stop::new(said, format!("{}; {complaint}", own.join(", "))));
        }
        if said == Outcome::LockBusy {
            return Err(Stop::new(said, complaint));
        }
        if stopped || self.was_cut_off()? {
            return Err(Stop::new(Outcome::RepairFailed, complaint));
        }
        Ok(None)
    }

    /// Whether dpkg's journal of changes is not empty.
    fn was_cut_off(&self) -> Result<bool, Stop> {
        let path = self.root.join("var/lib/dpkg/updates");
        match std::fs::read_dir(&path) {
            Ok(mut entries) => Ok(entries.next().is_some()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => {
                let detail = format!("could not read `{}`: {error}", path.display());
                Err(Stop::new(Outcome::ScanFailed, detail))
            }
        }
    }

    fn world(&self) -> Result<World, Stop> {
        let root = Root::open(&self.root).map_err(|error| {
            let detail = format!("could not open the root `{}`: {error}", self.root.display());
            Stop::new(Outcome::ScanFailed, detail)
        })?;
        World::read(&root).map_err(|error| Stop::new(Outcome::ScanFailed, Chain(&error).to_string()))
    }

    fn service_policy(&self) -> Result<Option<ServicePolicy>, Stop> {
        if self.root == Path::new("/") {
            return Ok(None);
        }
        ServicePolicy::place(&self.root).map(Some).map_err(|error| stop_of(&error))
    }

    /// What apt would do, as arguments for apt, with the packages it chose from.
    async fn simulate<P: Pool>(
        &self,
        request: &Request<'_>,
        pool: &P,
        world: &World,
        repository: &Repository,
    ) -> Result<(Vec<String>, Offer, Simulation), Stop> {
        let targets = targets(request.update, world);
        if targets.is_empty() {
            return Err(Stop::new(Outcome::NothingToUpgrade, ""));
        }
        if let Some(held) = targets.iter().find(|package| world.held.contains(&package.name)) {
            return Err(Stop::new(Outcome::Held, format!("the package `{}` is held", held.name)));
        }
        let names: Vec<_> = targets.iter().map(|package| argument(package)).collect();
        let offer = resolve(request.update, &targets, request.approved, request.left_out, world, pool)
            .await
            .map_err(|error| {
                let outcome = match &error {
                    ResolveError::Unavailable(_) => Outcome::PayloadUnavailable,
                    ResolveError::Malformed { .. } => Outcome::DocumentMalformed,
                    ResolveError::TooMany { .. } => Outcome::DependencyUnsatisfied,
                };
                Stop::new(outcome, Chain(&error).to_string())
            })?;
        repository.list(offer.packages.values()).map_err(|error| stop_of(&error))?;
        let ran = self.run(&self.apt.simulate(&repository.configuration_path(), &names)).await?;
        let text = format!("{}{}", ran.errors.text, ran.output.text);
        let outcome = codes::of_program(ran.end, &text);
        if outcome != Outcome::Success {
            let said = complaint(&text, usize::MAX);
            if offer.unmet.is_empty() {
                return Err(Stop::new(outcome, said));
            }
            let missing: Vec<_> = offer.unmet.iter().map(Unmet::to_string).collect();
            return Err(Stop::new(Outcome::DependencyUnsatisfied, missing.join("; ")));
        }
        if !ran.output.whole {
            return Err(Stop::new(Outcome::DependencyUnsatisfied, "apt would change too many packages"));
        }
        let simulation = apt::parse(&ran.output.text)
            .map_err(|error| Stop::new(Outcome::EngineUnavailable, error.to_string()))?;
        if !simulation.remove.is_empty() {
            return Err(Stop::new(Outcome::WouldRemove, simulation.remove.join(", ")));
        }
        Ok((names, offer, simulation))
    }

    /// Fetches what apt chose and puts it into the repository.
    async fn prepare<F: PayloadFetcher>(
        &self,
        repository: &Arc<Repository>,
        offer: &Offer,
        simulation: &Simulation,
        payloads: &F,
    ) -> Result<(), Stop> {
        let mut chosen: Vec<DebPackage> = Vec::new();
        for step in &simulation.install {
            let key = (step.name.clone(), step.architecture.clone());
            match offer.packages.get(&key) {
                Some(package) if package.version == step.to => chosen.push(package.clone()),
                _ => {
                    let detail = format!("apt chose `{}` {}, which was not offered", step.name, step.to);
                    return Err(Stop::new(Outcome::EngineUnavailable, detail));
                }
            }
        }
        let wanted: Vec<_> = chosen.iter().map(|package| package.payload.clone()).collect();
        payloads
            .ensure(&wanted)
            .await
            .map_err(|error| Stop::new(Outcome::PayloadUnavailable, Chain(&error).to_string()))?;
        let mut copies = Vec::with_capacity(chosen.len());
        for package in chosen {
            let Some(path) = payloads.path(&package.payload.digest) else {
                let detail = format!("the package `{}` was fetched and is gone again", package.name);
                return Err(Stop::new(Outcome::PayloadUnavailable, detail));
            };
            copies.push((package, path));
        }
        let repository = repository.clone();
        let copied = tokio::task::spawn_blocking(move || {
            repository.empty_pool()?;
            copies.iter().try_for_each(|(package, path)| repository.add(package, path))
        });
        match copied.await {
            Ok(result) => result.map_err(|error| stop_of(&error)),
            Err(error) => Err(Stop::new(Outcome::EngineUnavailable, error.to_string())),
        }
    }

    async fn execute(
        &self,
        repository: &Repository,
        names: &[String],
        steps: Vec<Step>,
        request: &Request<'_>,
    ) -> Result<Said, Stop> {
        let policy = self.service_policy()?;
        tracing::info!(update = %request.update.id, packages = steps.len(), "installing");
        let program = self.apt.install(&repository.configuration_path(), names, request.limit);
        let (ran, bare) = self.run_with(program, Some(repository), policy.as_ref()).await?;
        let text = ran.errors.text + &ran.output.text;
        let outcome = request.codes.said(request.update, ran.end, &text);
        let detail =
            if outcome == Outcome::Success { String::new() } else { complained(&text, bare.as_ref()) };
        Ok(Said { outcome, detail, steps, took: ran.took })
    }

    /// Runs a program that runs maintainer scripts, and keeps what it uses if it goes on without us; and why
    /// the scripts had to do without `/proc` and `/dev`, if they had to.
    async fn run_with(
        &self,
        program: Program,
        repository: Option<&Repository>,
        policy: Option<&ServicePolicy>,
    ) -> Result<(Ran, Option<Bare>), Stop> {
        let bare = self.bare().await;
        let program = match bare {
            None if self.root != Path::new("/") => enclosed(program, &self.root),
            _ => program,
        };
        let used = || repository.map(Repository::in_use).into_iter().chain(policy.map(ServicePolicy::in_use));
        used().for_each(|in_use| in_use.set(true));
        let ran = self.run(&program).await;
        used().for_each(|in_use| in_use.set(false));
        Ok((ran?, bare))
    }

    /// Why scripts in another root than `/` cannot be given `/proc` and `/dev`, found out by trying.
    async fn bare(&self) -> Option<Bare> {
        if self.root == Path::new("/") {
            return None;
        }
        let why = match programs::run(&enclosed(self.apt.nothing(), &self.root), &self.scratch).await {
            Ok(Ran { end: End::Exited(0), .. }) => return None,
            Ok(ran) => complaint(&ran.errors.text, BARE_BYTES_MAX),
            Err(error) => Chain(&error).to_string(),
        };
        tracing::warn!(root = %self.root.display(), why, "package scripts have neither `/proc` nor `/dev`");
        Some(Bare(why))
    }

    async fn run(&self, program: &Program) -> Result<Ran, Stop> {
        programs::run(program, &self.scratch)
            .await
            .map_err(|error| Stop::new(Outcome::EngineUnavailable, Chain(&error).to_string()))
    }

    /// Whether one of the packages that were changed is among those that asked for a reboot.
    fn asked(&self, steps: &[Step]) -> bool {
        let mut text = String::new();
        // One name a line; a file of 1 MiB is not one.
        let read = Root::open(&self.root)
            .and_then(|root| root.file(REBOOT_PACKAGES))
            .and_then(|file| file.take(1 << 20).read_to_string(&mut text));
        read.is_ok() && text.lines().any(|line| steps.iter().any(|step| step.name == line.trim()))
    }
}

/// The packages of `update` that are unpacked and not fully installed, as steps from nothing.
fn half_installed(update: &Update, facts: &Facts) -> Vec<Step> {
    let packages = update.install.deb_packages().iter();
    let half = packages.filter(|package| flag(facts, &format!("incomplete:{}", package.name)));
    half.map(|package| Step {
        name: package.name.clone(),
        architecture: package.architecture.clone(),
        from: None,
        to: package.version.clone(),
    })
    .collect()
}

/// Why scripts had neither `/proc` nor `/dev`.
struct Bare(String);

/// What the package manager complained about, and what its scripts lacked.
fn complained(text: &str, bare: Option<&Bare>) -> String {
    let said = complaint(text, usize::MAX);
    match bare {
        Some(Bare(why)) => format!("{said}; package scripts had neither `/proc` nor `/dev`: {why}"),
        None => said,
    }
}

fn stop_of(error: &RepositoryError) -> Stop {
    let outcome = match error {
        error if error.is_full() => Outcome::NeedsMoreSpace,
        RepositoryError::Io { .. } | RepositoryError::OutOfRoot { .. } => Outcome::EngineUnavailable,
        RepositoryError::Field { .. } => Outcome::DocumentMalformed,
        RepositoryError::Corrupt { .. } => Outcome::PayloadCorrupt,
    };
    Stop::new(outcome, Chain(error).to_string())
}

/// The package as an argument of apt.
fn argument(package: &DebPackage) -> String {
    let DebPackage { name, version, architecture, .. } = package;
    if architecture == "all" {
        format!("{name}={version}")
    } else {
        format!("{name}:{architecture}={version}")
    }
}
