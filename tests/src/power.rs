//! Power cuts at any moment, for everything that keeps something on a disk.
//!
//! A program does its work with the real types in a folder on a real file system, under `strace`, and says after each
//! step that it is done. From what it asked of the system, and what of that was synced when, follow the contents that a
//! disk may have after a cut ([`disk`]); each such image is put into a fresh folder and opened by the real type, which
//! must have everything that was said to be done, nothing half, and must go on. What was forgotten on purpose
//! ([`disk::Sabotage`]) must be found.
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
    disk::{Law, Recording, Sabotage},
    work::Writer,
};
use crate::{
    programs::{self, Ended},
    simulation::random::Random,
    skip::skip,
};

/// What the program that is traced is asked for, in its environment.
const ASKED: &str = "TIERWAY_POWER_ASKED";

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
    },
    /// One was not.
    Violated(String),
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held { operations, images } => write!(f, "{images} cuts of {operations} operations held"),
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
        let calls = format!("trace={}", trace::CALLS);
        let bytes_max = trace::ARGUMENT_BYTES_MAX.to_string();
        let trace = dir.path().join("trace");
        let strace =
            ["-f", "--seccomp-bpf", "-xx", "-s", &bytes_max, "-e", &calls, "-e", "signal=none", "-o"];
        let mut command = Command::new("strace");
        command.args(strace).arg(&trace);
        let Some(ended) = self.ask(command, "do", dir.path()) else {
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
    fn ask(&self, mut command: Command, what: &str, dir: &Path) -> Option<Ended> {
        let own = std::env::current_exe().unwrap();
        command.arg(own).args(["--exact", &self.program, "--ignored", "--nocapture", "--test-threads", "1"]);
        let (writer, dir) = (self.writer.name(), dir.display());
        command.env(ASKED, format!("{what} {writer} {} {} {dir}", self.seed, self.steps));
        programs::run_to_its_end(&mut command)
    }
}

impl Recorded {
    /// Cuts the power many times, by `law`, of the program with the mistake `sabotage`.
    ///
    /// # Panics
    ///
    /// When this executable cannot be started again.
    #[must_use]
    pub fn cut(&self, law: Law, sabotage: Option<Sabotage>) -> Found {
        let what = format!("cut:{law:?}:{sabotage:?}:{}", self.run.images);
        let dir = self.dir.path();
        let ended = self.run.ask(Command::new("/usr/bin/env"), &what, dir).unwrap();
        let said = fs::read_to_string(dir.join("said")).unwrap_or_default();
        if let Some(operations) = said.strip_prefix("held ") {
            let operations = operations.trim().parse().unwrap();
            return Found::Held { operations, images: self.run.images };
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
    let (files, told) = (dir.join("files"), dir.join("told"));
    if what == "do" {
        let mut told = File::create(&told).unwrap();
        work.run(&files, &mut || told.write_all(b"done\n").unwrap());
        return true;
    }
    let mut parts = what.split(':').skip(1);
    let mut next = || parts.next().unwrap();
    let law = [Law::Journal, Law::Folders].into_iter().find(named(next())).unwrap();
    let sabotages = [Sabotage::FilesNotSynced, Sabotage::FoldersNotSynced, Sabotage::RenamedBeforeSynced];
    let sabotage = sabotages.into_iter().map(Some).find(named(next())).flatten();
    let images = next().parse().unwrap();
    let calls = trace::parse(&fs::read_to_string(dir.join("trace")).unwrap());
    let mut recording = Recording::of(&calls, &files, &told);
    assert_eq!(recording.told(), steps, "not every step is in the trace");
    if let Some(sabotage) = sabotage {
        recording = recording.with(sabotage);
    }
    let say = |what: &str| fs::write(dir.join("said"), what).unwrap();
    if sabotage.is_none() {
        assert_eq!(recording.end(), disk::Image::read(&files), "the recording is not what happened");
    }
    // What is opened there has its syncs for nothing.
    let memory = Path::new("/dev/shm");
    let images_dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let images_dir = images_dir.unwrap();
    let image_dir = images_dir.path().join("image");
    for number in 0..images {
        let image = recording.image(law, &mut Random::of(seed, &[law as u64, number]));
        if image_dir.exists() {
            fs::remove_dir_all(&image_dir).unwrap();
        }
        fs::create_dir(&image_dir).unwrap();
        image.write(&image_dir);
        say(&format!("image {number}"));
        if let Err(wrong) = work.check(&image_dir, image.told) {
            fs::create_dir(dir.join("image")).unwrap();
            image.write(&dir.join("image"));
            say(&format!("image {number}: {wrong}"));
            return true;
        }
    }
    say(&format!("held {}", recording.len()));
    true
}

fn named<T: fmt::Debug>(name: &str) -> impl Fn(&T) -> bool {
    move |value| format!("{value:?}") == name
}
