//! What this computer is and has, read without starting a program.
//!
//! A scan reads below a root directory (`/`, or another system's root), returns the facts and, beside
//! them, the problems met. A domain that cannot be read in full is [`Domain::Failed`]: a fact is either
//! what the files say or it is missing, it is never guessed. Which rules are true is decided elsewhere.

pub mod hash;
#[cfg(unix)]
pub mod linux;
pub mod windows;

use std::{collections::BTreeSet, fmt, path::Path};

use jiff::tz::TimeZone;
use tierway_common::{
    facts::{Domain, Facts},
    rules::{evaluate::asks, expr::Expr},
};

#[cfg(unix)]
use crate::probe;

/// Files that the rules of all catalogues together may ask for. Each costs an open and a stat in every
/// scan: 10,000 take about 50 ms.
pub const FILES_MAX: usize = 10_000;

/// Values of the registry, parts of products, queries of WMI and loops over subkeys that the rules of all catalogues together
/// may ask for: each costs some 20 µs, a loop as many as its key has subkeys.
pub const QUESTIONS_MAX: usize = 50_000;

/// Domains that are read only as far as rules ask, of Windows.
const QUESTIONED: [&str; 4] = ["registry:", "registry-loop:", "msi:", "wmi:"];

/// What the keys of facts about a file end in.
const FILE_PARTS: [&str; 5] = ["#size", "#version", "#created", "#modified", "#language"];

/// A sentence without a period about something that could not be read or is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem(pub String);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the rules ask for beyond the domains that are always read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Absolute paths.
    files: BTreeSet<String>,
    /// Those of `files` whose SHA-256 is compared.
    hashed: BTreeSet<String>,
    /// Keys of facts of the domains in [`QUESTIONED`].
    questions: BTreeSet<String>,
    /// What [`FILES_MAX`] and [`QUESTIONS_MAX`] left no place for.
    refused: usize,
}

impl Asked {
    /// Adds what one rule reads. Rules come checked for depth, see `rules::check`.
    pub fn add(&mut self, rule: &Expr) {
        let mut keys = BTreeSet::new();
        asks(rule, &mut keys);
        self.add_keys(keys.iter().map(String::as_str));
    }

    /// Adds what compiled rules read, by fact key.
    pub fn add_keys<'a>(&mut self, keys: impl Iterator<Item = &'a str>) {
        for key in keys {
            if let Some(path) = key.strip_prefix("file:") {
                // A rule that reads a property of a file reads `file:<path>` too.
                let hashed = path.strip_suffix("#sha256");
                if hashed.is_some() || !FILE_PARTS.iter().any(|part| path.ends_with(part)) {
                    self.add_file(hashed.unwrap_or(path), hashed.is_some());
                }
            } else if QUESTIONED.iter().any(|domain| key.starts_with(domain)) {
                self.add_question(key);
            }
        }
    }

    /// Adds what `other` asks for.
    pub fn merge(&mut self, other: &Self) {
        for path in &other.files {
            self.add_file(path, other.hashed.contains(path));
        }
        for key in &other.questions {
            self.add_question(key);
        }
        self.refused += other.refused;
    }

    fn add_file(&mut self, path: &str, hashed: bool) {
        if self.files.len() >= FILES_MAX && !self.files.contains(path) {
            self.refused += 1;
            return;
        }
        self.files.insert(path.to_owned());
        if hashed {
            self.hashed.insert(path.to_owned());
        }
    }

    fn add_question(&mut self, key: &str) {
        if self.questions.len() >= QUESTIONS_MAX && !self.questions.contains(key) {
            self.refused += 1;
        } else {
            self.questions.insert(key.to_owned());
        }
    }

    /// Adds a problem when there was more than has a place.
    fn tell_refused(&self, collected: &mut Collected) {
        if self.refused > 0 {
            let places = format!("{FILES_MAX} files or {QUESTIONS_MAX} values");
            collected
                .problem(format!("rules ask for more than {places}, {} are not looked at", self.refused));
        }
    }
}

/// Collects the facts and problems of one scan.
#[derive(Debug, Default)]
struct Collected {
    facts: Facts,
    problems: Vec<Problem>,
}

impl Collected {
    fn set(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.facts.values.insert(key.into(), value.into());
    }

    fn problem(&mut self, reason: String) {
        self.problems.push(Problem(reason));
    }

    fn domain(&mut self, name: &str, domain: Domain) {
        if let Domain::Failed { reason, .. } = &domain {
            self.problems.push(Problem(reason.clone()));
        }
        self.facts.domains.insert(name.to_owned(), domain);
    }
}

/// The time zone of the computer of which these are the facts; `None` when it is not among them.
#[must_use]
pub fn zone(facts: &Facts) -> Option<TimeZone> {
    TimeZone::get(facts.values.get("clock:zone")?).ok()
}

/// Reads the system below `root`: the domains `os`, `clock`, `package:deb`, `flag`, `manager` and, as far as
/// `asked`, `file`.
///
/// `machine` is what `uname -m` says; it stands in for the architecture only where the system's own files
/// do not name it. Links inside another root are followed inside that root. A root without dpkg has an empty
/// `package:deb` domain that is complete.
#[cfg(unix)]
#[must_use]
pub fn scan(root: &Path, asked: &Asked, machine: &str) -> (Facts, Vec<Problem>) {
    let mut collected = Collected::default();
    let root = match linux::root::Root::open(root) {
        Ok(root) => root,
        Err(error) => {
            let reason = format!("could not open the root `{}`: {error}", root.display());
            for name in ["os", "clock", "package:deb", "file", "flag", "manager"] {
                collected.facts.domains.insert(
                    name.to_owned(),
                    Domain::Failed { source: root.display().to_string(), reason: reason.clone() },
                );
            }
            collected.problems.push(Problem(reason));
            return (collected.facts, collected.problems);
        }
    };
    let native = linux::dpkg::scan(&root, &mut collected);
    linux::os::scan(&root, native.as_deref(), machine, &mut collected);
    linux::zone::scan(&root, &mut collected);
    linux::flags::scan(&root, &mut collected);
    linux::managers::scan(&root, &mut collected);
    if root.is_host() {
        let uname = rustix::system::uname();
        let (release, version) = (uname.release().to_string_lossy(), uname.version().to_string_lossy());
        if probe::signs::kernel(&collected.facts, &release, &version).is_some() {
            collected.set("flag:reboot-pending", "true");
        }
    }
    linux::files::scan(&root, asked, &mut collected);
    (collected.facts, collected.problems)
}

/// Reads the running Windows, see [`windows`]; there is no other root.
///
/// `machine` is the architecture as Windows names it, in lower case.
#[cfg(windows)]
#[must_use]
pub fn scan(_: &Path, asked: &Asked, machine: &str) -> (Facts, Vec<Problem>) {
    let (mut facts, problems) =
        windows::scan(&windows::registry::SystemRegistry, &windows::wmi::SystemWmi, asked, machine);
    let source = "the time zone of the system".to_owned();
    let clock = match TimeZone::system().iana_name() {
        Some(zone) => {
            facts.values.insert("clock:zone".to_owned(), zone.to_owned());
            Domain::Complete { source }
        }
        None => Domain::Failed { source, reason: "it has no name that others know".to_owned() },
    };
    facts.domains.insert("clock".to_owned(), clock);
    (facts, problems)
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use tierway_common::rules::expr::FileTest;

    use super::*;

    const OS_RELEASE: &str = "ID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n";

    fn package(name: &str, version: &str, architecture: &str, status: &str) -> String {
        format!("Package: {name}\nStatus: {status}\nArchitecture: {architecture}\nVersion: {version}\n\n")
    }

    fn root(status: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for directory in ["etc", "usr/lib", "var/lib/dpkg", "run"] {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        fs::write(root.path().join("usr/lib/os-release"), OS_RELEASE).unwrap();
        symlink("/usr/lib/os-release", root.path().join("etc/os-release")).unwrap();
        fs::write(root.path().join("var/lib/dpkg/status"), status).unwrap();
        root
    }

    fn value<'a>(facts: &'a Facts, key: &str) -> Option<&'a str> {
        facts.values.get(key).map(String::as_str)
    }

    #[test]
    fn a_system_is_read_as_it_is() {
        let status = package("dpkg", "1.21.22", "amd64", "install ok installed")
            + &package("tzdata", "2025b-0+deb12u2", "all", "hold ok installed")
            + &package("broken", "2", "amd64", "install ok half-configured")
            + &package("gone", "1", "amd64", "deinstall ok config-files")
            + &package("libc6", "2.36-9", "i386", "install ok installed");
        let root = root(&status);
        fs::write(root.path().join("run/reboot-required"), "").unwrap();
        let (facts, problems) = scan(root.path(), &Asked::default(), "aarch64");
        for (key, wanted) in [
            ("os:family", Some("debian")),
            ("os:version", Some("12")),
            ("os:codename", Some("bookworm")),
            ("os:architecture", Some("amd64")),
            ("package:deb:tzdata:all", Some("2025b-0+deb12u2")),
            ("package:deb:broken:amd64", Some("2")),
            ("package:deb:libc6:i386", Some("2.36-9")),
            ("package:deb:gone:amd64", None),
            ("flag:hold:tzdata", Some("true")),
            ("flag:hold:dpkg", None),
            ("flag:incomplete:broken", Some("true")),
            ("flag:reboot-pending", Some("true")),
        ] {
            assert_eq!(value(&facts, key), wanted, "{key}");
        }
        assert_eq!(problems, [Problem("the package `broken` is half-configured".to_owned())]);
        assert_eq!(
            facts.domains["package:deb"],
            Domain::Complete { source: "/var/lib/dpkg/status".to_owned() }
        );
    }

    #[test]
    fn a_half_read_database_gives_no_package_at_all() {
        let status = package("a", "1", "amd64", "install ok installed") + "Package: b\nStatus: inst";
        let (facts, problems) = scan(root(&status).path(), &Asked::default(), "x86_64");
        let reason = "`/var/lib/dpkg/status` line 7: the file ends in the middle of a line";
        assert_eq!(
            facts.domains["package:deb"],
            Domain::Failed { source: "/var/lib/dpkg/status".to_owned(), reason: reason.to_owned() }
        );
        assert_eq!(problems, [Problem(reason.to_owned())]);
        assert!(!facts.values.keys().any(|key| key.starts_with("package:")));
        assert_eq!(value(&facts, "os:architecture"), Some("amd64"));
    }

    #[test]
    fn a_package_that_is_there_twice_is_refused() {
        let one = package("a", "1", "amd64", "install ok installed");
        let (facts, _) = scan(root(&format!("{one}{one}")).path(), &Asked::default(), "x86_64");
        assert!(matches!(&facts.domains["package:deb"], Domain::Failed { reason, .. }
            if reason == "`/var/lib/dpkg/status`: the package `a:amd64` is there twice"));
    }

    #[test]
    fn an_unreadable_database_is_a_failure_and_a_system_without_dpkg_has_no_packages() {
        let unreadable = root("");
        fs::remove_file(unreadable.path().join("var/lib/dpkg/status")).unwrap();
        let (facts, problems) = scan(unreadable.path(), &Asked::default(), "x86_64");
        assert!(matches!(&facts.domains["package:deb"], Domain::Failed { reason, .. }
            if reason.starts_with("could not read `/var/lib/dpkg/status`: ")));
        assert_eq!(problems.len(), 1);

        fs::remove_dir_all(unreadable.path().join("var/lib/dpkg")).unwrap();
        let (facts, problems) = scan(unreadable.path(), &Asked::default(), "x86_64");
        assert!(matches!(facts.domains["package:deb"], Domain::Complete { .. }));
        assert_eq!(problems, []);
    }

    #[test]
    fn only_the_files_that_rules_ask_for_are_looked_at() {
        let root = root("");
        fs::write(root.path().join("etc/a"), "abc").unwrap();
        fs::write(root.path().join("etc/b"), "abc").unwrap();
        let test = |path: &str, sha256: Option<&str>| {
            let sha256 = sha256.map(str::to_owned);
            Expr::File(FileTest { path: path.to_owned(), sha256, ..FileTest::default() })
        };
        let mut asked = Asked::default();
        asked.add(&Expr::Not(Box::new(Expr::All(vec![test("/etc/a", Some("00")), test("/etc/c", None)]))));
        asked.add(&Expr::Any(vec![test("/etc", None), test("C:\\x", None), test("/etc/a/b", None)]));
        let (facts, problems) = scan(root.path(), &asked, "x86_64");
        let found: Vec<_> = facts
            .values
            .iter()
            .filter(|(key, _)| key.starts_with("file:"))
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(
            found,
            [
                ("file:/etc", "present"),
                ("file:/etc/a", "present"),
                ("file:/etc/a#sha256", digest),
                ("file:/etc/a#size", "3"),
                ("file:/etc/a/b", "absent"),
                ("file:/etc/c", "absent"),
                ("file:C:\\x", "absent"),
            ]
        );
        assert_eq!(problems, []);
    }

    #[test]
    fn the_keys_of_compiled_rules_ask_for_the_same_files() {
        let keys = ["file:/a", "file:/a#sha256", "file:/b", "file:/b#size", "package:deb:x:", "os:family"];
        let mut asked = Asked::default();
        asked.add_keys(keys.into_iter());
        assert_eq!(asked.files, ["/a".to_owned(), "/b".to_owned()].into());
        assert_eq!(asked.hashed, ["/a".to_owned()].into());
    }

    #[test]
    fn a_file_too_large_to_digest_has_no_digest_and_is_named() {
        let root = root("");
        let file = fs::File::create(root.path().join("large")).unwrap();
        file.set_len(hash::FILE_HASH_BYTES_MAX + 1).unwrap();
        let mut asked = Asked::default();
        asked.add(&Expr::File(FileTest {
            path: "/large".to_owned(),
            sha256: Some("00".to_owned()),
            ..FileTest::default()
        }));
        let (facts, problems) = scan(root.path(), &asked, "x86_64");
        assert_eq!(value(&facts, "file:/large#sha256"), None);
        assert_eq!(problems, [Problem("`/large` has 67108865 bytes, too many to digest".to_owned())]);
    }
}
