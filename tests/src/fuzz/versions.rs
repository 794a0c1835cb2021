//! Versions: each ordering is total, and Debian's and rpm's are those of the programs that define them, where these are here.

use std::{
    cell::RefCell,
    cmp::Ordering,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use tierway_common::{
    rules::expr::Ordering as Kind,
    trust::digest::Digest,
    version::{self, Version, deb::DebVersion, rpm::RpmVersion, semver::SemverVersion},
};

use super::{Target, texts};

pub(super) const VERSIONS: Target = Target {
    name: "versions",
    run,
    seeds,
    words: &[
        "~",
        "^",
        "-",
        ":",
        "+",
        ".",
        "0",
        "00",
        "1:",
        "~rc1",
        "+b1",
        "-0",
        "~~",
        "99999999999999999999",
        "alpha",
        "\n",
    ],
};

const KINDS: [Kind; 4] = [Kind::Deb, Kind::Rpm, Kind::Windows, Kind::Semver];

/// Of so many pairs one is shown to `dpkg` itself, which is a process each time.
const DPKG_ONE_IN: u8 = 128;

fn run(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let mut compared = false;
    let lines: Vec<&str> = text.split('\n').take(3).collect();
    for kind in KINDS {
        let versions: Vec<(&str, Version<'_>)> =
            lines.iter().filter_map(|line| Some((*line, Version::parse(kind, line).ok()?))).collect();
        for (a, parsed_a) in &versions {
            for (b, parsed_b) in &versions {
                compared = true;
                let order = parsed_a.compare(parsed_b).unwrap();
                assert_eq!(version::compare(kind, a, b).unwrap(), order, "{kind:?}: `{a}` against `{b}`");
                assert_eq!(
                    parsed_b.compare(parsed_a).unwrap(),
                    order.reverse(),
                    "{kind:?}: `{b}` against `{a}`"
                );
                for (c, parsed_c) in &versions {
                    if order.is_le() && parsed_b.compare(parsed_c).unwrap().is_le() {
                        let whole = parsed_a.compare(parsed_c).unwrap();
                        assert!(whole.is_le(), "{kind:?}: `{a}`, `{b}` and `{c}` ascend in a circle");
                    }
                }
            }
        }
    }
    let owned = |a: &str, b: &str| {
        let deb = |text: &str| text.parse::<DebVersion>();
        let rpm = |text: &str| text.parse::<RpmVersion>();
        let semver = |text: &str| text.parse::<SemverVersion>();
        if let (Ok(a), Ok(b)) = (deb(a), deb(b)) {
            assert_eq!(version::compare(Kind::Deb, a.as_str(), b.as_str()).unwrap(), a.cmp(&b));
            assert_eq!(deb(&a.to_string()).unwrap().as_str(), a.as_str());
            agree(Asked::Deb, a.as_str(), b.as_str(), a.cmp(&b));
            if Digest::of(format!("{a} {b}").as_bytes()).as_bytes()[0].is_multiple_of(DPKG_ONE_IN) {
                dpkg_agrees(a.as_str(), b.as_str(), a.cmp(&b));
            }
        }
        if let (Ok(a), Ok(b)) = (rpm(a), rpm(b)) {
            assert_eq!(version::compare(Kind::Rpm, a.as_str(), b.as_str()).unwrap(), a.cmp(&b));
            agree(Asked::Rpm, a.as_str(), b.as_str(), a.cmp(&b));
        }
        if let (Ok(a), Ok(b)) = (semver(a), semver(b)) {
            assert_eq!(version::compare(Kind::Semver, a.as_str(), b.as_str()).unwrap(), a.cmp(&b));
        }
    };
    if let [a, b, ..] = lines.as_slice() {
        owned(a, b);
    }
    compared
}

/// Who is asked what an order is.
#[derive(Clone, Copy, Debug)]
enum Asked {
    /// dpkg's own library for Perl.
    Deb,
    /// rpm's own library, by the Lua in it.
    Rpm,
}

/// A program that reads two versions on a line and writes which is later; one for all comparisons.
struct Oracle {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Oracle {
    /// `None` where the program is not here or knows no such library.
    fn start(asked: Asked) -> Option<Self> {
        let mut command = match asked {
            Asked::Deb => {
                // Without the check that some versions fail which dpkg compares nonetheless.
                let script = "use Dpkg::Version; $| = 1; while (<STDIN>) { chomp; \
                              my ($a, $b) = map { Dpkg::Version->new($_) } split / /; print $a <=> $b, \"\n\" }";
                let mut command = Command::new("/usr/bin/perl");
                command.args(["-e", script]);
                command
            }
            Asked::Rpm => {
                let script = "%{lua: for line in io.stdin:lines() do local a, b = line:match('^(%S+) (%S+)$') \
                              io.stdout:write(rpm.vercmp(a, b), '\\n') io.stdout:flush() end}";
                let mut command = Command::new("/usr/bin/rpm");
                command.args(["--eval", script]);
                command
            }
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().ok()?;
        let (questions, answers) = (child.stdin.take()?, BufReader::new(child.stdout.take()?));
        let mut oracle = Self { child, questions, answers };
        (oracle.ask("1", "2") == Some(Ordering::Less)).then_some(oracle)
    }

    fn ask(&mut self, a: &str, b: &str) -> Option<Ordering> {
        self.questions.write_all(format!("{a} {b}\n").as_bytes()).ok()?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer).ok()?;
        answer.trim().parse::<i32>().ok().map(|number| number.cmp(&0))
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        // It ends by itself as well, at the end of its input.
        let _ = (self.child.kill(), self.child.wait());
    }
}

thread_local! {
    static DEB: RefCell<Option<Oracle>> = RefCell::new(Oracle::start(Asked::Deb));
    static RPM: RefCell<Option<Oracle>> = RefCell::new(Oracle::start(Asked::Rpm));
}

/// Whether dpkg's library is here to be asked, and rpm's.
#[cfg(test)]
pub(super) fn asked() -> (bool, bool) {
    (DEB.with_borrow(Option::is_some), RPM.with_borrow(Option::is_some))
}

fn agree(asked: Asked, a: &str, b: &str, ours: Ordering) {
    let oracle = match asked {
        Asked::Deb => &DEB,
        Asked::Rpm => &RPM,
    };
    oracle.with_borrow_mut(|oracle| {
        if let Some(oracle) = oracle {
            assert_eq!(oracle.ask(a, b), Some(ours), "{asked:?}: `{a}` against `{b}`");
        }
    });
}

fn dpkg_agrees(a: &str, b: &str, ours: Ordering) {
    const DPKG: &str = "/usr/bin/dpkg";
    if !Path::new(DPKG).exists() {
        return;
    }
    let relation = match ours {
        Ordering::Less => "lt",
        Ordering::Equal => "eq",
        Ordering::Greater => "gt",
    };
    // What begins with a hyphen is no option.
    let said = Command::new(DPKG).args(["--compare-versions", "--", a, relation, b]).output().unwrap();
    assert!(said.status.success(), "dpkg does not hold that `{a}` {relation} `{b}`");
}

fn seeds() -> Vec<Vec<u8>> {
    texts(&[
        "1.0-1\n1.0-1+b1\n1.0~rc1-1",
        "1:2.36-9+deb12u13\n2.36-10\n0:1",
        "1.0^git1-1\n1.0-1.el9\n1.0~beta",
        "1.2.3-alpha.1+build\n1.2.3-alpha.beta\n1.2.3",
        "10.0.19045.1234\n10.0\n10.0.22621.0",
        "1.a\na\n1.0.",
        "-+o-+o+o++\n~..\n...",
    ])
}
