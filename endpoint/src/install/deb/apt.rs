//! apt and dpkg as programs: how they are called and what they print.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use tierway_common::programs::Program;

/// How long apt waits for another program that holds dpkg's lock, before the attempt ends as lock busy.
pub const LOCK_WAIT: Duration = Duration::from_secs(60);

/// Simulating an upgrade of a whole system takes 2 s of CPU.
const SIMULATE_LIMIT: Duration = Duration::from_secs(120);

/// dpkg finishes the step that it is in when it is asked to stop.
const TERM_GRACE: Duration = Duration::from_secs(10);

/// The end of an installation's output: what failed is said there.
const TAIL_BYTES_MAX: usize = 64 << 10;

/// The whole output of a simulation: some 100 bytes a package.
const SIMULATION_BYTES_MAX: usize = 4 << 20;

/// What apt says it would do, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Simulation {
    /// Packages it would unpack.
    pub install: Vec<Step>,
    /// Names of packages it would remove.
    pub remove: Vec<String>,
}

/// One package that apt would unpack.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Step {
    /// Package name.
    pub name: String,
    /// Its architecture.
    pub architecture: String,
    /// Version that is installed now.
    pub from: Option<String>,
    /// Version to be installed.
    pub to: String,
}

/// A line of apt's simulation that is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("apt's simulation has the line `{line}`, which is not understood")]
pub struct SimulationError {
    line: String,
}

/// Reads the lines `Inst` and `Remv` of `apt-get --simulate`; others are for people.
///
/// # Errors
///
/// Names a line that begins so and is not as expected: guessing would install something else.
pub fn parse(output: &str) -> Result<Simulation, SimulationError> {
    let mut simulation = Simulation::default();
    for line in output.lines() {
        let error = || SimulationError { line: line.chars().take(200).collect() };
        if let Some(rest) = line.strip_prefix("Remv ") {
            simulation.remove.push(rest.split(' ').next().unwrap_or(rest).to_owned());
        } else if let Some(rest) = line.strip_prefix("Inst ") {
            simulation.install.push(step(rest).ok_or_else(error)?);
        }
    }
    Ok(simulation)
}

/// `name[:architecture] [old] (new origin [architecture]) …`, the old version only when there is one.
fn step(text: &str) -> Option<Step> {
    let (name, rest) = text.split_once(' ')?;
    let (from, rest) = match rest.strip_prefix('[') {
        Some(rest) => {
            let (from, rest) = rest.split_once("] ")?;
            (Some(from.to_owned()), rest)
        }
        None => (None, rest),
    };
    let (inner, _) = rest.strip_prefix('(')?.split_once(')')?;
    let (to, _) = inner.split_once(' ')?;
    let architecture = inner.rsplit_once('[')?.1.strip_suffix(']')?;
    let name = name.split_once(':').map_or(name, |(name, _)| name);
    let valid = !name.is_empty() && !to.is_empty() && !architecture.is_empty();
    valid.then(|| Step {
        name: name.to_owned(),
        architecture: architecture.to_owned(),
        from,
        to: to.to_owned(),
    })
}

/// How to call apt and dpkg in one root.
#[derive(Clone, Debug)]
pub struct Apt {
    root: PathBuf,
}

impl Apt {
    /// For the system below `root`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// `apt-get --simulate install TARGETS`; TARGETS are `name:architecture=version`.
    #[must_use]
    pub fn simulate(&self, configuration: &str, targets: &[String]) -> Program {
        let mut program = self.apt_get(configuration, &["--simulate", "install"], targets, SIMULATE_LIMIT);
        program.tail_bytes_max = SIMULATION_BYTES_MAX;
        program
    }

    /// `apt-get install TARGETS`.
    #[must_use]
    pub fn install(&self, configuration: &str, targets: &[String], limit: Duration) -> Program {
        self.apt_get(configuration, &["install"], targets, limit)
    }

    /// `dpkg --configure -a`: finishes what was cut off.
    #[must_use]
    pub fn configure_all(&self, limit: Duration) -> Program {
        let arguments = ["--force-confdef", "--force-confold", "--configure", "-a"];
        self.program("/usr/bin/dpkg", arguments.map(OsString::from).into(), limit)
    }

    /// `true`: whether anything can be run there in the way that the package manager would be.
    #[must_use]
    pub fn nothing(&self) -> Program {
        self.program("/usr/bin/true", Vec::new(), SIMULATE_LIMIT)
    }

    fn apt_get(&self, configuration: &str, command: &[&str], targets: &[String], limit: Duration) -> Program {
        let wait = format!("DPkg::Lock::Timeout={}", LOCK_WAIT.as_secs());
        let options = ["-c", configuration, "-o", &wait, "--assume-yes", "--no-remove"];
        let arguments = options
            .into_iter()
            .chain(command.iter().copied())
            .chain(["--"])
            .chain(targets.iter().map(String::as_str))
            .map(OsString::from)
            .collect();
        self.program("/usr/bin/apt-get", arguments, limit)
    }

    fn program(&self, path: &str, mut arguments: Vec<OsString>, limit: Duration) -> Program {
        let mut program = PathBuf::from(path);
        if self.root != Path::new("/") {
            arguments.splice(0..0, [self.root.clone().into_os_string(), path.into()]);
            program = PathBuf::from("/usr/sbin/chroot");
        }
        let environment = [
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            // Messages are recognised by their English text.
            ("LC_ALL", "C"),
            ("HOME", "/root"),
            ("TERM", "dumb"),
            ("DEBIAN_FRONTEND", "noninteractive"),
            ("DEBIAN_PRIORITY", "critical"),
            ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
            ("UCF_FORCE_CONFFOLD", "1"),
            ("APT_LISTCHANGES_FRONTEND", "none"),
            ("APT_LISTBUGS_FRONTEND", "none"),
        ];
        Program {
            path: program,
            arguments,
            command_line: String::new(),
            directory: "/".into(),
            environment: environment.into_iter().map(|(name, value)| (name, value.into())).collect(),
            limit,
            grace: TERM_GRACE,
            tail_bytes_max: TAIL_BYTES_MAX,
        }
    }
}

/// The lines of an output that say what failed, joined, at most `bytes_max`.
#[must_use]
pub fn complaint(text: &str, bytes_max: usize) -> String {
    let mut said: Vec<&str> = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let line = line.trim_end();
        if line.starts_with("E: ")
            || line.starts_with("dpkg: error")
            || line.starts_with("dpkg: unrecoverable")
        {
            said.push(line);
            // dpkg puts the reason on an indented line of its own.
            if line.ends_with(':')
                && let Some(next) = lines.next_if(|next| next.starts_with(' '))
            {
                said.push(next.trim());
            }
        } else if line.contains(" : ") && line.starts_with(' ') {
            // apt's list of unmet dependencies.
            said.push(line.trim());
        }
    }
    if said.is_empty() {
        said.extend(text.lines().rev().find(|line| !line.trim().is_empty()));
    }
    said.dedup();
    cut(&said.join("; "), bytes_max).to_owned()
}

/// The beginning of `text`, at most `bytes_max`, of whole characters.
#[must_use]
pub fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulation_is_read_line_by_line() {
        // Captured from apt 2.6.1.
        let output = "Reading package lists...\nThe following packages will be upgraded:\n  foo\n\
            Inst libc6:i386 [2.36-9] (2.36-9+deb12u4 localhost [i386]) []\n\
            Inst bar (1:1~x localhost [all])\n\
            Inst foo [1.0] (1.1 localhost [amd64]) [baz:amd64 ]\n\
            Conf bar (1 localhost [all])\nRemv old [1]\n";
        let simulation = parse(output).unwrap();
        let steps: Vec<_> = simulation
            .install
            .iter()
            .map(|s| (s.name.as_str(), s.architecture.as_str(), s.from.as_deref(), s.to.as_str()))
            .collect();
        assert_eq!(
            steps,
            [
                ("libc6", "i386", Some("2.36-9"), "2.36-9+deb12u4"),
                ("bar", "all", None, "1:1~x"),
                ("foo", "amd64", Some("1.0"), "1.1")
            ]
        );
        assert_eq!(simulation.remove, ["old"]);
    }

    #[test]
    fn a_line_that_is_not_understood_is_not_guessed() {
        for line in [
            "Inst foo",
            "Inst foo [1.0] (1.1)",
            "Inst foo (1.1 x [amd64",
            "Inst  (1 x [all])",
            "Inst foo 1 2",
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(line), "{error}");
        }
    }

    #[test]
    fn a_complaint_is_what_the_programs_said_went_wrong() {
        let output = "Setting up a (2) ...\ndpkg: error processing package a (--configure):\n installed a package \
            post-installation script subprocess returned error exit status 1\nErrors were encountered while \
            processing:\n a\nE: Sub-process /usr/bin/dpkg returned an error code (1)\n";
        assert_eq!(
            complaint(output, 512),
            "dpkg: error processing package a (--configure):; installed a package post-installation script \
             subprocess returned error exit status 1; E: Sub-process /usr/bin/dpkg returned an error code (1)"
        );
        assert_eq!(complaint("x\nlast words\n\n", 512), "last words");
        assert_eq!(complaint("", 512), "");
        assert_eq!(cut("aé", 2), "a");
    }
}
