//! Power cuts at any moment, for everything that keeps something on a disk.
//!
//! A program does its work with the real types in a folder on a real file system, under `strace`, and says after each
//! step that it is done. From what it asked of the system, and what of that was synced when, follow the contents that a
//! disk may have after a cut ([`disk`]); each such image is put into a fresh folder and opened by the real type, which
//! must have everything that was said to be done, nothing half, and must go on. What was forgotten on purpose
//! ([`disk::Sabotage`]) must be found. Of some images the opening is traced as well, and cut in its turn.
//!
//! Both run in processes of their own: a database that opens what no disk should hold may end its process.

pub mod disk;
mod trace;
pub mod work;

use std::{
    fmt,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use self::{
    disk::{Image, Law, Recording, Sabotage},
    work::{Work, Writer},
};
use crate::{
    programs::{self, Ended},
    simulation::random::Random,
    skip::skip,
};

/// What the program that is traced is asked for, in its environment.
const ASKED: &str = "TIERWAY_POWER_ASKED";
/// How often one opening is cut.
const CUTS_OF_AN_OPENING: u64 = 4;

/// One run of one writer, and how many cuts it is put through.
#[derive(Clone, Debug)]
pub struct Run {
    /// Who writes.
    pub writer: Writer,
    /// What decides the steps and the cuts.
    pub seed: u64,
    /// How much it writes.
    pub steps: usize,
    /// Cuts by each law.
    pub images: usize,
    /// Of how many of these the opening is cut as well.
    pub reopened: usize,
    /// The test that calls [`program`], by its path in this executable.
    pub program: String,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// All cuts were survived.
    Held {
        /// Operations on files that were recorded.
        operations: usize,
        /// Cuts.
        images: usize,
        /// Cuts of the opening after a cut.
        again: usize,
    },
    /// One was not.
    Violated(String),
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held { operations, images, again } => {
                write!(f, "{images} cuts of {operations} operations held, and {again} while they were opened")
            }
            Self::Violated(what) => f.write_str(what),
        }
    }
}

/// What a program recorded, to be cut.
#[derive(Debug)]
pub struct Recorded {
    run: Run,
    dir: tempfile::TempDir,
}

impl Run {
    /// Has the writer do its steps in a process of its own; `None`, said, where it cannot be traced.
    ///
    /// # Panics
    ///
    /// When the writer fails.
    #[must_use]
    pub fn record(self) -> Option<Recorded> {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("files")).unwrap();
        let Some(ended) = self.ask(traced(&dir.path().join("trace")), "do", dir.path()) else {
            skip("power cuts", "the program `strace` is not here");
            return None;
        };
        if ended.errors.contains("PTRACE") {
            skip("power cuts", "this system lets no program be traced");
            return None;
        }
        assert_eq!(ended.code, Some(0), "{}{}", ended.output, ended.errors);
        Some(Recorded { run: self, dir })
    }

    /// Starts this executable again, by way of `command`; `None` when that is not there.
    fn ask(&self, command: Command, what: &str, dir: &Path) -> Option<Ended> {
        let (writer, dir) = (self.writer.name(), dir.display());
        ask(command, &self.program, &format!("{what} {writer} {} {} {dir}", self.seed, self.steps))
    }
}

/// A command that traces another, into the file `trace`.
fn traced(trace: &Path) -> Command {
    let calls = format!("trace={}", trace::CALLS);
    let bytes_max = trace::ARGUMENT_BYTES_MAX.to_string();
    let strace = ["-f", "--seccomp-bpf", "-xx", "-s", &bytes_max, "-e", &calls, "-e", "signal=none", "-o"];
    let mut command = Command::new("strace");
    command.args(strace).arg(trace);
    command
}

/// Has this executable, or rather its test `program`, do what it is asked.
fn ask(mut command: Command, program: &str, asked: &str) -> Option<Ended> {
    let own = std::env::current_exe().unwrap();
    command.arg(own).args(["--exact", program, "--ignored", "--nocapture", "--test-threads", "1"]);
    programs::run_to_its_end(command.env(ASKED, asked))
}

impl Recorded {
    /// Cuts the power many times, by `law`, of the program with the mistake `sabotage`.
    ///
    /// # Panics
    ///
    /// When this executable cannot be started again.
    #[must_use]
    pub fn cut(&self, law: Law, sabotage: Option<Sabotage>) -> Found {
        let Run { images, reopened, .. } = self.run;
        let what = format!("cut:{law:?}:{sabotage:?}:{images}:{reopened}:{}", self.run.program);
        let dir = self.dir.path();
        let ended = self.run.ask(Command::new("/usr/bin/env"), &what, dir).unwrap();
        let said = fs::read_to_string(dir.join("said")).unwrap_or_default();
        if let Some(held) = said.strip_prefix("held ") {
            let (operations, again) = held.split_once(' ').unwrap();
            let (operations, again) = (operations.parse().unwrap(), again.parse().unwrap());
            return Found::Held { operations, images, again };
        }
        let Run { writer, seed, .. } = self.run;
        let writer = writer.name();
        let mut found = format!("{writer}, seed {seed}, {law:?}: {}", said.trim());
        if ended.code != Some(0) && !said.contains(':') {
            let last: Vec<_> = ended.errors.lines().rev().take(6).collect();
            found = format!("{found}: the program ended: {last:?}");
        }
        Found::Violated(found)
    }

    /// Keeps the recording, and the image that did not hold, as it was before it was opened, for a person to look at.
    #[must_use]
    pub fn keep(self) -> PathBuf {
        self.dir.keep()
    }
}

/// What this executable does when it was started again to write or to be cut, which its environment says; false when
/// it was not.
///
/// # Panics
///
/// When it writes and fails.
#[must_use]
pub fn program() -> bool {
    let Some(asked) = std::env::var_os(ASKED) else { return false };
    let asked = asked.into_string().unwrap();
    let mut parts = asked.splitn(5, ' ');
    let mut next = || parts.next().unwrap();
    let (what, writer) = (next(), next());
    let (seed, steps) = (next().parse().unwrap(), next().parse().unwrap());
    let dir = PathBuf::from(next());
    let writer = Writer::ALL.into_iter().find(|known| known.name() == writer).unwrap();
    let work = writer.work(seed, steps, &dir);
    match what.split(':').collect::<Vec<_>>()[..] {
        ["do"] => {
            let mut told = File::create(dir.join("told")).unwrap();
            work.run(&dir.join("files"), &mut || told.write_all(b"done\n").unwrap());
        }
        ["reopen", told] => work.reopen(&dir.join("reopened/files"), told.parse().unwrap()).unwrap(),
        ["cut", law, sabotage, images, reopened, ..] => {
            let law = [Law::Journal, Law::Folders].into_iter().find(named(law)).unwrap();
            let sabotages =
                [Sabotage::FilesNotSynced, Sabotage::FoldersNotSynced, Sabotage::RenamedBeforeSynced];
            let sabotage = sabotages.into_iter().map(Some).find(named(sabotage)).flatten();
            let program = what.splitn(6, ':').last().unwrap();
            let cuts = Cuts { work: work.as_ref(), law, sabotage, dir: &dir, seed, program, asked: &asked };
            cuts.all(steps, images.parse().unwrap(), reopened.parse().unwrap());
        }
        _ => panic!("asked for `{what}`"),
    }
    true
}

/// Cuts of what one program recorded.
struct Cuts<'a> {
    work: &'a dyn Work,
    law: Law,
    sabotage: Option<Sabotage>,
    dir: &'a Path,
    seed: u64,
    program: &'a str,
    asked: &'a str,
}

impl Cuts<'_> {
    /// Cuts it so often, and says what was found in the file `said`.
    fn all(&self, steps: usize, images: u64, reopened: u64) {
        let (files, told) = (self.dir.join("files"), self.dir.join("told"));
        let calls = trace::parse(&fs::read_to_string(self.dir.join("trace")).unwrap());
        let mut recording = Recording::of(&calls, &files, &told);
        assert_eq!(recording.told(), steps, "not every step is in the trace");
        match self.sabotage {
            Some(sabotage) => recording = recording.with(sabotage),
            None => assert!(recording.end() == Image::read(&files), "the recording is not what happened"),
        }
        // What is opened there has its syncs for nothing.
        let memory = Path::new("/dev/shm");
        let images_dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let images_dir = images_dir.unwrap();
        let mut again = 0;
        for number in 0..images {
            let image = recording.image(self.law, &mut Random::of(self.seed, &[self.law as u64, number]));
            let name = format!("image {number}");
            if !self.holds(&name, &image, image.told, images_dir.path()) {
                return;
            }
            if number < reopened {
                let opening = self.opening(&image);
                let cuts = if opening.is_empty() { 0 } else { CUTS_OF_AN_OPENING };
                for cut in 0..cuts {
                    let mut random = Random::of(self.seed, &[self.law as u64, number, cut]);
                    let name = format!("cut {cut} of the opening of {name}");
                    if !self.holds(
                        &name,
                        &opening.image(self.law, &mut random),
                        image.told,
                        images_dir.path(),
                    ) {
                        return;
                    }
                    again += 1;
                }
            }
        }
        self.say(&format!("held {} {again}", recording.len()));
    }

    fn say(&self, what: &str) {
        fs::write(self.dir.join("said"), what).unwrap();
    }

    /// Whether what was told is kept by an image; says what is wrong with it, and keeps it.
    fn holds(&self, name: &str, image: &Image, told: usize, images_dir: &Path) -> bool {
        let folder = images_dir.join("image");
        fresh(&folder);
        image.write(&folder);
        self.say(name);
        let Err(wrong) = self.work.check(&folder, told) else { return true };
        fresh(&self.dir.join("image"));
        image.write(&self.dir.join("image"));
        self.say(&format!("{name}: {wrong}"));
        false
    }

    /// What the writer does to open an image.
    fn opening(&self, image: &Image) -> Recording {
        let dir = self.dir.join("reopened");
        fresh(&dir);
        let (files, trace) = (dir.join("files"), dir.join("trace"));
        fs::create_dir(&files).unwrap();
        image.write(&files);
        let asked = self.asked.split_once(' ').unwrap().1;
        let asked = format!("reopen:{} {asked}", image.told);
        let ended = ask(traced(&trace), self.program, &asked).unwrap();
        assert_eq!(ended.code, Some(0), "{}{}", ended.output, ended.errors);
        let calls = trace::parse(&fs::read_to_string(trace).unwrap());
        let recording = Recording::onto(image, &calls, &files, Path::new(""));
        assert!(recording.end() == Image::read(&files), "the recording is not what happened");
        recording
    }
}

/// Makes an empty folder of it.
fn fresh(folder: &Path) {
    if folder.exists() {
        fs::remove_dir_all(folder).unwrap();
    }
    fs::create_dir(folder).unwrap();
}

fn named<T: fmt::Debug>(name: &str) -> impl Fn(&T) -> bool {
    move |value| format!("{value:?}") == name
}
