//! Packages as the resolver sees them: those of dpkg's database and those of documents, in one form.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use tierway_common::schema::DebPackage;

use super::depends::{self, Clause, Relation, RelationError};
use crate::scan::linux::{
    dpkg::{self, StatusError},
    root::Root,
};

/// What is needed of a package to see whether relations hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Architecture; `all` counts as the system's own.
    pub architecture: String,
    /// `Multi-Arch`: `foreign` and `allowed` satisfy relations of other architectures.
    pub multi_arch: String,
    /// `Pre-Depends` and `Depends`.
    pub depends: Vec<Clause>,
    /// `Breaks` and `Conflicts`.
    pub breaks: Vec<Clause>,
    /// `Provides`, each with its version where it has one.
    pub provides: Vec<(String, Option<String>)>,
}

/// Of a control stanza, the fields that [`Package`] is made of.
const FIELDS: [&str; 6] = ["Pre-Depends", "Depends", "Breaks", "Conflicts", "Provides", "Multi-Arch"];

impl Package {
    fn new<'a>(
        name: &str,
        version: &str,
        architecture: &str,
        field: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<Self, RelationError> {
        let clauses = |names: [&str; 2]| -> Result<Vec<Clause>, RelationError> {
            let mut all = Vec::new();
            for name in names {
                all.extend(depends::parse(field(name).unwrap_or_default())?);
            }
            Ok(all)
        };
        let provides = depends::parse(field("Provides").unwrap_or_default())?;
        Ok(Self {
            name: name.to_owned(),
            version: version.to_owned(),
            architecture: architecture.to_owned(),
            multi_arch: field("Multi-Arch").unwrap_or_default().trim().to_owned(),
            depends: clauses(["Pre-Depends", "Depends"])?,
            breaks: clauses(["Breaks", "Conflicts"])?,
            provides: provides
                .into_iter()
                .flat_map(|clause| clause.0)
                .map(|relation| (relation.name, relation.version.map(|(_, version)| version)))
                .collect(),
        })
    }

    /// A package of a document.
    ///
    /// # Errors
    ///
    /// When one of its fields is malformed.
    pub fn of(package: &DebPackage) -> Result<Self, RelationError> {
        let field = |name: &str| {
            let found = package.control.iter().find(|(field, _)| field.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.as_str())
        };
        Self::new(&package.name, &package.version, &package.architecture, field)
    }

    /// Whether `relation`, of a package of `architecture`, is satisfied by this package. `native` is the
    /// system's own architecture.
    #[must_use]
    pub fn satisfies(&self, relation: &Relation, architecture: &str, native: &str) -> bool {
        let own = |architecture: &str| architecture == "all" || architecture == native;
        let same = self.architecture == architecture || (own(&self.architecture) && own(architecture));
        let reaches = match relation.qualifier.as_deref() {
            None => same || self.multi_arch == "foreign",
            Some("any") => same || self.multi_arch == "allowed" || self.multi_arch == "foreign",
            Some("native") => own(&self.architecture),
            Some(wanted) => self.architecture == wanted || (own(wanted) && own(&self.architecture)),
        };
        reaches && self.matches(relation)
    }

    /// Whether its name, or one it provides, and the version are those of `relation`, on any architecture.
    #[must_use]
    pub fn matches(&self, relation: &Relation) -> bool {
        if self.name == relation.name && relation.accepts(Some(&self.version)) {
            return true;
        }
        self.provides
            .iter()
            .any(|(name, version)| *name == relation.name && relation.accepts(version.as_deref()))
    }
}

/// What is installed.
#[derive(Debug, Default)]
pub struct World {
    /// The system's own architecture and those added to it.
    pub architectures: Vec<String>,
    /// By name and architecture.
    pub installed: BTreeMap<(String, String), Package>,
    /// Names of packages that the administrator holds.
    pub held: BTreeSet<String>,
    /// Names and states of packages that are not fully installed.
    pub incomplete: BTreeMap<String, String>,
}

/// A database that the resolver cannot use.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// It is unreadable or malformed.
    #[error("could not read what is installed")]
    Status(#[source] StatusError),
    /// The list of architectures is.
    #[error("could not read the list of architectures")]
    Architectures(#[source] io::Error),
}

impl World {
    /// Reads dpkg's database below `root`.
    ///
    /// # Errors
    ///
    /// When it cannot be read as a whole.
    pub fn read(root: &Root) -> Result<Self, WorldError> {
        let file = root.file(dpkg::STATUS).map_err(|error| WorldError::Status(StatusError::Read(error)))?;
        let mut world = Self::default();
        let mut native = None;
        dpkg::read(file, &FIELDS, &mut |stanza| {
            if stanza.status == dpkg::Status::Absent {
                return Ok(());
            }
            if stanza.status == dpkg::Status::Incomplete {
                world.incomplete.insert(stanza.name.to_owned(), stanza.word.to_owned());
            }
            if stanza.hold {
                world.held.insert(stanza.name.to_owned());
            }
            if stanza.name == "dpkg" {
                native = Some(stanza.architecture.to_owned());
            }
            let field = |name: &str| {
                stanza.fields.iter().find(|(field, _)| *field == name).map(|(_, value)| value.as_str())
            };
            let package = Package::new(stanza.name, stanza.version, stanza.architecture, field)
                .map_err(|error| error.to_string())?;
            world.installed.insert((package.name.clone(), package.architecture.clone()), package);
            Ok(())
        })
        .map_err(WorldError::Status)?;
        world.architectures = dpkg::architectures(root).map_err(WorldError::Architectures)?;
        if world.architectures.is_empty() {
            world.architectures.extend(native);
        }
        Ok(world)
    }

    /// The system's own architecture; empty when the database does not show it.
    #[must_use]
    pub fn native(&self) -> &str {
        self.architectures.first().map_or("", String::as_str)
    }

    /// Whether packages of that architecture can be installed.
    #[must_use]
    pub fn takes(&self, architecture: &str) -> bool {
        architecture == "all" || self.architectures.iter().any(|known| known == architecture)
    }

    /// Whether a package of that name is installed in any architecture.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.versions(name).next().is_some()
    }

    /// Every installed package of that name.
    pub fn versions<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Package> {
        self.installed
            .range((name.to_owned(), String::new())..)
            .take_while(move |((found, _), _)| found == name)
            .map(|(_, package)| package)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use tierway_common::{schema::Payload, trust::digest::Digest};

    use super::*;

    /// A package document: `name version architecture`, then control fields by line.
    pub(in super::super) fn deb(text: &str) -> DebPackage {
        let mut lines = text.lines();
        let mut head = lines.next().unwrap().split(' ').map(str::to_owned);
        let (name, version, architecture) =
            (head.next().unwrap(), head.next().unwrap(), head.next().unwrap_or("amd64".to_owned()));
        let control = lines.map(|line| line.split_once(": ").unwrap());
        DebPackage {
            payload: Payload { digest: Digest::of(text.as_bytes()), bytes: 1, url: String::new() },
            control: control.map(|(field, value)| (field.to_owned(), value.to_owned())).collect(),
            name,
            version,
            architecture,
        }
    }

    /// A world of such packages on amd64 with i386.
    pub(in super::super) fn world(packages: &[&str]) -> World {
        let mut world =
            World { architectures: vec!["amd64".to_owned(), "i386".to_owned()], ..World::default() };
        for text in packages {
            let package = Package::of(&deb(text)).unwrap();
            world.installed.insert((package.name.clone(), package.architecture.clone()), package);
        }
        world
    }

    #[test]
    fn a_relation_reaches_other_architectures_only_as_multi_arch_allows() {
        for (package, relation, of, satisfied) in [
            ("a 1 amd64", "a", "amd64", true),
            ("a 1 amd64", "a", "i386", false),
            ("a 1 all", "a", "amd64", true),
            ("a 1 all", "a", "i386", false),
            ("a 1 amd64", "a", "all", true),
            ("a 1 amd64\nMulti-Arch: foreign", "a", "i386", true),
            ("a 1 amd64\nMulti-Arch: allowed", "a", "i386", false),
            ("a 1 amd64\nMulti-Arch: allowed", "a:any", "i386", true),
            ("a 1 i386", "a:i386", "amd64", true),
            ("b 1 amd64\nProvides: a (= 3), c", "a (>= 2)", "amd64", true),
            ("b 1 amd64\nProvides: a", "a (>= 2)", "amd64", false),
            ("b 1 amd64\nProvides: a", "a", "amd64", true),
        ] {
            let found = Package::of(&deb(package)).unwrap();
            let relation = &depends::parse(relation).unwrap()[0].0[0];
            assert_eq!(found.satisfies(relation, of, "amd64"), satisfied, "{package} {relation} of {of}");
        }
    }
}
