//! From the binary packages of a security suite to updates, one for each source package and version.
//!
//! apt calls an installed package upgradable when the newest version of *that name* is newer; so a
//! package belongs to an update only where no newer one of its name and architecture is in the suite. A
//! source version of which nothing is left gives no update. (Kernels keep several: each ABI has package names of its own, so
//! `linux-signed-amd64_6.1.187+1` stays an update for those who run that ABI beside the newest one.)

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use tierway_common::{
    id::{CatalogueId, IdError, UpdateId},
    rules::{
        self,
        expr::{Compare, Expr, Manager, OsTest, PackageTest},
        limits::LimitError,
    },
    schema::{DebPackage, Install, Severity, Update, UpdateClass},
    trust::digest::Digest,
    version::deb::DebVersion,
};

/// A suite that contradicts itself or cannot be named.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LowerError {
    /// One package and version with two contents.
    #[error("`{package}` is listed with two digests, {one} and {other}")]
    TwoContents {
        /// `name_version_architecture`.
        package: String,
        /// First digest.
        one: Digest,
        /// Second digest.
        other: Digest,
    },
    /// A source package with so many packages that its rule passes the limits of rules.
    #[error("the update `{id}` has too big a rule")]
    Rule {
        /// Which.
        id: UpdateId,
        /// Why.
        source: LimitError,
    },
    /// A source package whose name or version cannot stand in an id.
    #[error("the source package `{source_package}` {version} cannot be named")]
    Id {
        /// Source package.
        source_package: String,
        /// Its version.
        version: String,
        /// Why.
        source: IdError,
    },
}

/// A binary package of the security suite.
#[derive(Clone, Debug)]
pub struct Binary {
    /// The document part.
    pub package: DebPackage,
    /// Its version, parsed.
    pub version: DebVersion,
    /// Source package.
    pub source: String,
    /// Version of the source package.
    pub source_version: DebVersion,
    /// For which architecture it was listed; differs from its own only when that is `all`.
    pub listed: String,
}

/// What the updates are called and for whom they are.
#[derive(Clone, Debug)]
pub struct Target<'a> {
    /// Their catalogue.
    pub catalogue: &'a CatalogueId,
    /// `os:version`, such as `12`.
    pub os_version: &'a str,
    /// Architectures of the catalogue.
    pub architectures: &'a [String],
    /// Names that some archive has as architecture `all`: a computer may have such a package installed
    /// although the suite now has it for its own architecture.
    pub also_all: &'a BTreeSet<String>,
}

/// Updates by id, their packages in order of name and architecture.
///
/// `released` tells when an update was first seen.
///
/// # Errors
///
/// [`LowerError`].
pub fn lower(
    target: &Target<'_>,
    binaries: Vec<Binary>,
    released: &dyn Fn(&UpdateId) -> Timestamp,
) -> Result<BTreeMap<UpdateId, Update>, LowerError> {
    let mut newest: BTreeMap<(&str, &str), &DebVersion> = BTreeMap::new();
    for binary in &binaries {
        let of_name = newest.entry((&binary.listed, &binary.package.name)).or_insert(&binary.version);
        *of_name = (*of_name).max(&binary.version);
    }
    let is_newest: Vec<bool> = binaries
        .iter()
        .map(|binary| newest.get(&(&*binary.listed, &*binary.package.name)) == Some(&&binary.version))
        .collect();

    // Source and source version → name and architecture → package.
    let mut groups: BTreeMap<(String, String), BTreeMap<(String, String), DebPackage>> = BTreeMap::new();
    let mut contents: BTreeMap<(String, String, String), Digest> = BTreeMap::new();
    for (binary, is_newest) in binaries.into_iter().zip(is_newest) {
        let Binary { package, source, source_version, .. } = binary;
        let name = (package.name.clone(), package.version.clone(), package.architecture.clone());
        let digest = package.payload.digest;
        let one = *contents.entry(name).or_insert(digest);
        if one != digest {
            let DebPackage { name, version, architecture, .. } = package;
            let package = format!("{name}_{version}_{architecture}");
            return Err(LowerError::TwoContents { package, one, other: digest });
        }
        if is_newest {
            let group = groups.entry((source, source_version.as_str().to_owned())).or_default();
            group.insert((package.name.clone(), package.architecture.clone()), package);
        }
    }
    groups
        .into_iter()
        .map(|((source, version), packages)| {
            let id = update_id(target.catalogue, &source, &version)?;
            let packages: Vec<DebPackage> = packages.into_values().collect();
            let update = Update {
                title: format!("{source} {version}"),
                product: source,
                version,
                severity: Severity::Unspecified,
                class: UpdateClass::Security,
                released: released(&id),
                references: Vec::new(),
                applicable: applicable(target, &packages),
                installed: installed(target, &packages),
                supersedes: Vec::new(),
                superseded_by: Vec::new(),
                install: Install::Deb { packages },
                id: id.clone(),
                result_codes: BTreeMap::new(),
            };
            for rule in [&update.applicable, &update.installed] {
                rules::check(rule).map_err(|source| LowerError::Rule { id: id.clone(), source })?;
            }
            Ok((id, update))
        })
        .collect()
}

fn update_id(catalogue: &CatalogueId, source: &str, version: &str) -> Result<UpdateId, LowerError> {
    format!("{catalogue}/{source}_{version}").parse().map_err(|error| LowerError::Id {
        source_package: source.to_owned(),
        version: version.to_owned(),
        source: error,
    })
}

/// The Debian of that version, and any of the packages is installed.
fn applicable(target: &Target<'_>, packages: &[DebPackage]) -> Expr {
    let os = OsTest {
        family: Some("debian".to_owned()),
        version: Some(Compare::Eq(target.os_version.to_owned())),
        ..OsTest::default()
    };
    let any = packages.iter().flat_map(|package| tests(target, package, None)).collect();
    Expr::All(vec![Expr::Os(os), Expr::Any(any)])
}

/// None of the packages is installed in an older version.
fn installed(target: &Target<'_>, packages: &[DebPackage]) -> Expr {
    let older = packages
        .iter()
        .flat_map(|package| tests(target, package, Some(&Compare::Lt(package.version.clone()))))
        .collect();
    Expr::Not(Box::new(Expr::Any(older)))
}

/// What it takes that this package is installed in such a version.
///
/// A package of architecture `all` is looked for under every architecture: it may have had one before.
/// Another is looked for under its own, so that a foreign one of that name is not taken for it; and under
/// `all` where it is known to have been that, on computers of its architecture.
fn tests(target: &Target<'_>, package: &DebPackage, version: Option<&Compare>) -> Vec<Expr> {
    let test = |architecture: Option<&str>| {
        Expr::Package(PackageTest {
            manager: Manager::Deb,
            name: package.name.clone(),
            architecture: architecture.map(str::to_owned),
            version: version.cloned(),
        })
    };
    if package.architecture == "all" {
        return vec![test(None)];
    }
    let mut tests = vec![test(Some(&package.architecture))];
    if target.also_all.contains(&package.name) {
        let os = OsTest { architecture: Some(package.architecture.clone()), ..OsTest::default() };
        tests.push(Expr::All(vec![Expr::Os(os), test(Some("all"))]));
    }
    tests
}

#[cfg(test)]
mod tests;
