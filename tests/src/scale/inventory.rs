//! What is installed on the computers of a large fleet, and what is published for them; the same for the same seed.
//!
//! Names and versions of Debian packages come from a real list where one is given: dpkg's status file, or a `Packages`
//! index of an archive. Without one they are made: eight kinds of names (`lib…`, `python-…`, none, …) in equal parts
//! over ten subjects, versions uniform in `0..9`.`0..30`.`0..20`-`1..5`. Programs of Windows are always made.
//!
//! Twice as many updates are published for a system as a computer of it has installed packages that have one. The
//! first half of the packages a computer has is the same on all, as a base system is; each of the others is drawn from the rest,
//! the k-th of them with a weight of 1/(k+8), so that few are on most computers and most are on few. One
//! installed package in twenty lacks its update.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use tierway_common::{
    facts::{Domain, Facts},
    trust::digest::Digest,
};

use super::failure::{Failure, failed};
use crate::simulation::random::Random;

/// Longest list that is read: all of Debian's main has some 60 MB.
const LIST_BYTES_MAX: u64 = 256 << 20;
/// Of so many installed packages one lacks its update.
const NEEDED_ONE_IN: u64 = 20;

/// Which system a computer runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum System {
    /// Debian 12.
    Debian,
    /// Windows 11.
    Windows,
}

impl System {
    /// All.
    pub const ALL: [Self; 2] = [Self::Debian, Self::Windows];

    /// Its catalogue of updates.
    #[must_use]
    pub fn catalogue(self) -> &'static str {
        match self {
            Self::Debian => "debian-12",
            Self::Windows => "programs",
        }
    }
}

/// A package or a program: its name, and the version that is there before any update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// As its vendor calls it.
    pub name: String,
    /// First version.
    pub version: String,
}

/// All packages of one system for which updates are published, the common ones first.
#[derive(Clone, Debug)]
pub struct List {
    /// Of which.
    pub system: System,
    /// In the order in which computers have them.
    pub items: Vec<Item>,
    /// How many a computer has.
    pub installed: usize,
}

/// What one computer has installed: by the place in [`List::items`], ascending, how many updates it is
/// behind or ahead of the first version.
pub type Installed = BTreeMap<u32, u32>;

impl List {
    /// A list for computers of which each has `installed` packages; `real` is where Debian's are read.
    ///
    /// # Errors
    ///
    /// [`Failure`] when the list cannot be read, or is shorter than needed.
    pub fn new(system: System, installed: usize, seed: u64, real: Option<&Path>) -> Result<Self, Failure> {
        let count = installed * 2;
        let items = match (system, real) {
            (System::Debian, Some(path)) => read(path, count, seed)?,
            _ => (0..count).map(|number| made(system, seed, number as u64)).collect(),
        };
        Ok(Self { system, items, installed })
    }

    /// What the computer with this number has.
    #[must_use]
    pub fn draw(&self, seed: u64, computer: u64) -> Installed {
        let mut random = Random::of(seed, &[11, computer]);
        let base = self.installed / 2;
        let mut places: Vec<usize> = (0..base).collect();
        let rest = base..self.items.len();
        // By exponential keys: the smallest of -ln(u)/weight are a weighted sample without repetition.
        let mut keyed: Vec<(f64, usize)> = rest
            .map(|place| {
                let uniform = (random.below(1 << 24) as f64 + 1.0) / f64::from(1 << 24);
                (-uniform.ln() * ((place - base + 8) as f64), place)
            })
            .collect();
        keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
        places.extend(keyed.iter().take(self.installed - base).map(|(_, place)| *place));
        let step = |random: &mut Random| u32::from(random.below(NEEDED_ONE_IN) != 0);
        places
            .into_iter()
            .map(|place| (u32::try_from(place).unwrap_or(u32::MAX), step(&mut random)))
            .collect()
    }

    /// The version of a package after so many updates.
    #[must_use]
    pub fn version(&self, place: u32, step: u32) -> String {
        let version = &self.items[place as usize].version;
        match (self.system, step) {
            (_, 0) => version.clone(),
            (System::Debian, step) => format!("{version}+deb12u{step}"),
            (System::Windows, step) => format!("{version}.{step}"),
        }
    }

    /// The id of the update that brings a package to this step.
    #[must_use]
    pub fn update(&self, place: u32, step: u32) -> String {
        let name = match self.system {
            System::Debian => {
                format!("{}_{}", self.items[place as usize].name, self.version(place, step))
            }
            System::Windows => package_id(place, step),
        };
        format!("{}/{name}", self.system.catalogue())
    }

    /// Facts of a computer of this system that has `installed`.
    #[must_use]
    pub fn facts(&self, installed: &Installed) -> Facts {
        let complete = |source: &str| Domain::Complete { source: source.to_owned() };
        let (domain, source, os): (_, _, &[(&str, &str)]) = match self.system {
            System::Debian => (
                "package:deb",
                "/var/lib/dpkg/status",
                &[
                    ("os:family", "debian"),
                    ("os:version", "12"),
                    ("os:codename", "bookworm"),
                    ("os:architecture", "amd64"),
                ],
            ),
            System::Windows => (
                "registry",
                "HKLM",
                &[
                    ("os:family", "windows"),
                    ("os:version", "10.0.22631.4460"),
                    ("os:build", "22631"),
                    ("os:architecture", "amd64"),
                    ("os:name", "Windows 11 Pro"),
                ],
            ),
        };
        let mut facts = Facts::default();
        facts.domains.insert("os".to_owned(), complete("/etc/os-release"));
        facts.domains.insert(domain.to_owned(), complete(source));
        for (key, value) in os {
            facts.values.insert((*key).to_owned(), (*value).to_owned());
        }
        for (place, step) in installed {
            let (name, version) = (&self.items[*place as usize].name, self.version(*place, *step));
            match self.system {
                System::Debian => {
                    facts.values.insert(format!("package:deb:{name}:amd64"), version);
                }
                System::Windows => {
                    let value = format!("{}#Version", registry_key(name));
                    facts.values.insert(format!("registry:@value:{value}"), "present".to_owned());
                    facts.values.insert(format!("registry:@type:{value}"), "REG_SZ".to_owned());
                    facts.values.insert(format!("registry:{value}"), version);
                }
            }
        }
        facts
    }

    /// The vendor's catalogue of these updates for Windows, by place and step: one document of packages.
    #[must_use]
    pub fn vendor_catalogue(&self, published: &BTreeMap<u32, u32>) -> String {
        let mut text = "<smc:SystemsManagementCatalog xmlns:smc=\"m\">".to_owned();
        for (place, last) in published {
            for step in 1..=*last {
                // Writing into a string does not fail.
                let _ = self.vendor_package(&mut text, *place, step);
            }
        }
        text.push_str("</smc:SystemsManagementCatalog>");
        text
    }

    fn vendor_package(&self, text: &mut String, place: u32, step: u32) -> std::fmt::Result {
        let (name, version) = (&self.items[place as usize].name, self.version(place, step));
        let id = package_id(place, step);
        let item = package_id(place, step + 1_000);
        let value = format!("Key=\"HKEY_LOCAL_MACHINE\" Subkey=\"SOFTWARE\\{name}\" Value=\"Version\"");
        write!(
            text,
            "<sdp:SoftwareDistributionPackage xmlns:sdp=\"s\" xmlns:bar=\"b\" xmlns:lar=\"l\" xmlns:cmd=\"c\">\
             <sdp:Properties PackageID=\"{id}\" CreationDate=\"2026-01-02T03:04:05\" VendorName=\"Example\">\
             <sdp:ProductName>{name}</sdp:ProductName></sdp:Properties>\
             <sdp:LocalizedProperties><sdp:Language>en</sdp:Language><sdp:Title>{name} {version}</sdp:Title>\
             </sdp:LocalizedProperties>\
             <sdp:UpdateSpecificData MsrcSeverity=\"Important\" UpdateClassification=\"Security Updates\"/>\
             <sdp:IsInstallable><bar:RegValueExists {value} Type=\"REG_SZ\"/></sdp:IsInstallable>"
        )?;
        if step > 1 {
            let older = package_id(place, step - 1);
            write!(
                text,
                "<sdp:SupersededPackages><sdp:PackageID>{older}</sdp:PackageID></sdp:SupersededPackages>"
            )?;
        }
        write!(
            text,
            "<sdp:InstallableItem ID=\"{item}\"><sdp:ApplicabilityRules>\
             <sdp:IsInstalled><bar:RegSzToVersion {value} Comparison=\"GreaterThanOrEqualTo\" Data=\"{version}\"/></sdp:IsInstalled>\
             <sdp:IsInstallable><bar:RegValueExists {value}/></sdp:IsInstallable></sdp:ApplicabilityRules>\
             <sdp:InstallProperties/><cmd:CommandLineInstallerData Program=\"setup.exe\" Arguments=\"/s\" DefaultResult=\"Failed\" \
             RebootByDefault=\"false\"><cmd:ReturnCode Code=\"0\" Result=\"Succeeded\" Reboot=\"false\"/></cmd:CommandLineInstallerData>\
             <sdp:OriginFile Digest=\"3dZiJMIDOMOARjVLpc5BEFyYF/0=\" FileName=\"setup.exe\" Size=\"7\" \
             OriginUri=\"https://vendor.invalid/{id}/setup.exe\"/>\
             </sdp:InstallableItem></sdp:SoftwareDistributionPackage>"
        )
    }
}

fn registry_key(name: &str) -> String {
    format!("HKLM\\SOFTWARE\\{name}")
}

fn package_id(place: u32, step: u32) -> String {
    format!("00000000-0000-4000-{step:04}-{place:012}")
}

fn made(system: System, seed: u64, number: u64) -> Item {
    const HEADS: [&str; 8] = ["lib", "python-", "", "golang-", "node-", "r-cran-", "fonts-", "linux-"];
    const WORDS: [&str; 10] = ["ssl", "xml", "curl", "gtk", "avahi", "perl", "kernel", "mesa", "gst", "qt"];
    let mut random = Random::of(seed, &[13, number]);
    let mut part = |end| random.below(end);
    let (head, word) = (HEADS[(number % 8) as usize], WORDS[(number / 8 % 10) as usize]);
    match system {
        System::Debian => Item {
            name: format!("{head}{word}{}", number / 80),
            version: format!("{}.{}.{}-{}", part(9), part(30), part(20), 1 + part(4)),
        },
        System::Windows => Item {
            name: format!("Example {word} {number}"),
            version: format!("{}.{}.{}", 1 + part(9), part(30), part(20)),
        },
    }
}

/// The first `count` installed or offered packages of a list, in an order that the seed decides.
fn read(path: &Path, count: usize, seed: u64) -> Result<Vec<Item>, Failure> {
    let length = fs::metadata(path).map_err(failed(format!("read `{}`", path.display())))?.len();
    if length > LIST_BYTES_MAX {
        return Err(Failure::plain(format!("`{}` is longer than {LIST_BYTES_MAX} bytes", path.display())));
    }
    let text = fs::read_to_string(path).map_err(failed(format!("read `{}`", path.display())))?;
    let mut found = BTreeMap::new();
    for stanza in text.split("\n\n") {
        let field = |name: &str| {
            stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::to_owned)
        };
        let removed = field("Status").is_some_and(|status| !status.ends_with(" installed"));
        if let (Some(name), Some(version), false) = (field("Package"), field("Version"), removed) {
            // Without the epoch, which file names leave out too.
            let version = version.split_once(':').map_or(version.clone(), |(_, rest)| rest.to_owned());
            found.insert(Digest::of(format!("{seed} {name}").as_bytes()), Item { name, version });
        }
    }
    if found.len() < count {
        let (path, found) = (path.display(), found.len());
        return Err(Failure::plain(format!("`{path}` has {found} packages, where {count} are needed")));
    }
    Ok(found.into_values().take(count).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn list(system: System) -> List {
        List::new(system, 40, 1, None).unwrap()
    }

    #[test]
    fn the_same_seed_draws_the_same_computer_and_another_one_another() {
        let list = list(System::Debian);
        assert_eq!(list.draw(1, 7), list.draw(1, 7));
        assert_ne!(list.draw(1, 7), list.draw(2, 7));
        assert_ne!(list.draw(1, 7), list.draw(1, 8));
    }

    #[test]
    fn every_computer_has_as_many_packages_as_were_asked_for_and_all_have_the_base() {
        let list = list(System::Windows);
        for computer in 0..50 {
            let installed = list.draw(1, computer);
            assert_eq!(installed.len(), 40);
            assert!((0..20).all(|place| installed.contains_key(&place)));
        }
    }

    #[test]
    fn names_of_made_packages_are_told_apart() {
        for system in System::ALL {
            let names: BTreeSet<_> = list(system).items.into_iter().map(|item| item.name).collect();
            assert_eq!(names.len(), 80);
        }
    }

    #[test]
    fn a_real_list_gives_its_installed_packages_without_epochs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status");
        let text = "Package: a\nStatus: install ok installed\nVersion: 1:2.0-1\n\nPackage: b\nVersion: 3\n\n\
                    Package: gone\nStatus: deinstall ok config-files\nVersion: 9\n";
        fs::write(&path, text).unwrap();
        let mut items = List::new(System::Debian, 1, 1, Some(&path)).unwrap().items;
        items.sort_by(|a, b| a.name.cmp(&b.name));
        let all: Vec<_> = items.iter().map(|item| (item.name.as_str(), item.version.as_str())).collect();
        assert_eq!(all, [("a", "2.0-1"), ("b", "3")]);
        let error = List::new(System::Debian, 2, 1, Some(&path)).unwrap_err().to_string();
        assert!(error.ends_with("has 2 packages, where 4 are needed"), "{error}");
    }
}
