//! Which packages apt gets to choose from.
//!
//! apt resolves; this collects what it may resolve with. Offered are the packages of approved updates, and,
//! for relations that would not hold after the upgrade, packages of the pool. A package that is installed
//! and whose newer version belongs to an update that is not approved is never offered: it would be upgraded
//! by the way. What was looked for and not found explains a failure of apt in words.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
};

use tierway_common::{
    id::UpdateId,
    schema::{DebPackage, PoolEntry, Update},
};

use super::{
    depends::{Clause, Relation, compare},
    world::{Package, World},
};
use crate::install::{Pool, Unavailable};

/// Packages offered in one transaction: an upgrade of a desktop to a new release pulls in some 1,000.
pub const OFFERED_MAX: usize = 2_000;

/// Look-ups in the pool in one transaction; each may cost a round trip.
pub const LOOKUPS_MAX: usize = 4_000;

/// Providers tried for one virtual package: `mail-transport-agent` has some 20.
const PROVIDERS_MAX: usize = 32;

/// Sentences about what is missing that are kept.
const UNMET_MAX: usize = 16;

/// A relation that nothing offered makes true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmet {
    /// The package whose relation it is, with its version.
    pub package: String,
    /// In words: `needs` or `breaks`.
    pub verb: &'static str,
    /// The relation.
    pub clause: String,
    /// The update that would bring it, had it been approved.
    pub update: Option<UpdateId>,
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {} `{}`", self.package, self.verb, self.clause)?;
        match &self.update {
            Some(update) => write!(f, " from the update `{update}`, which is not approved"),
            None => f.write_str(", which is not to be had"),
        }
    }
}

/// What apt gets to choose from.
#[derive(Debug, Default)]
pub struct Offer {
    /// By name and architecture; one version each.
    pub packages: BTreeMap<(String, String), DebPackage>,
    /// What is not to be had, at most 16.
    pub unmet: Vec<Unmet>,
}

/// A transaction that cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The pool did not answer.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// A document's package has a malformed relation.
    #[error("the package `{package}` has a malformed relation")]
    Malformed {
        /// Name and version.
        package: String,
        /// Which.
        source: super::depends::RelationError,
    },
    /// More than [`OFFERED_MAX`] or [`LOOKUPS_MAX`].
    #[error("resolving needs more than {limit} {what}")]
    TooMany {
        /// The limit.
        limit: usize,
        /// Of what.
        what: &'static str,
    },
}

/// The packages of `update` that are installed in an older version, by name and architecture.
#[must_use]
pub fn targets<'a>(update: &'a Update, world: &World) -> Vec<&'a DebPackage> {
    let packages = update.install.deb_packages();
    let mut targets: BTreeMap<_, &DebPackage> = BTreeMap::new();
    for package in packages {
        let key = (package.name.clone(), package.architecture.clone());
        let Some(installed) = installed_as(package, world) else { continue };
        let newer = |than: &str| compare(&package.version, than).is_some_and(std::cmp::Ordering::is_gt);
        if newer(&installed.version) && targets.get(&key).is_none_or(|other| newer(&other.version)) {
            targets.insert(key, package);
        }
    }
    targets.into_values().collect()
}

/// The installed package that `package` would replace; one may change between `all` and the system's own
/// architecture.
fn installed_as<'a>(package: &DebPackage, world: &'a World) -> Option<&'a Package> {
    let find = |architecture: &str| world.installed.get(&(package.name.clone(), architecture.to_owned()));
    let other = match package.architecture.as_str() {
        "all" => Some(world.native()),
        native if native == world.native() => Some("all"),
        _ => None,
    };
    find(&package.architecture).or_else(|| find(other?))
}

/// Collects what apt may need to upgrade to `targets`.
///
/// `approved` are further approved updates that are needed here, `left_out` those that are needed and not
/// approved.
///
/// # Errors
///
/// When the pool does not answer, a document is malformed, or a limit is reached. A relation that cannot be
/// satisfied is no error but in [`Offer::unmet`].
pub async fn resolve<P: Pool>(
    update: &Update,
    targets: &[&DebPackage],
    approved: &[&Update],
    left_out: &[&Update],
    world: &World,
    pool: &P,
) -> Result<Offer, ResolveError> {
    let mut resolver = Resolver {
        world,
        pool,
        approved: BTreeMap::new(),
        left_out: by_name(left_out),
        offer: BTreeMap::new(),
        parsed: BTreeMap::new(),
        queue: VecDeque::new(),
        looked_up: BTreeMap::new(),
        unmet: Vec::new(),
    };
    for other in std::iter::once(&update).chain(approved) {
        let packages = other.install.deb_packages();
        for package in packages.iter().filter(|package| world.takes(&package.architecture)) {
            resolver.approved.entry(package.name.as_str()).or_default().push(package);
        }
    }
    for package in targets {
        resolver.offer(package)?;
    }
    while let Some(key) = resolver.queue.pop_front() {
        resolver.close(&key).await?;
    }
    Ok(Offer { packages: resolver.offer, unmet: resolver.unmet })
}

fn by_name<'a>(updates: &[&'a Update]) -> BTreeMap<&'a str, Vec<(&'a str, &'a UpdateId)>> {
    let mut names: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for update in updates {
        let packages = update.install.deb_packages();
        for package in packages {
            names.entry(package.name.as_str()).or_default().push((package.version.as_str(), &update.id));
        }
    }
    names
}

type Key = (String, String);

struct Resolver<'a, P> {
    world: &'a World,
    pool: &'a P,
    /// Packages of approved updates by name.
    approved: BTreeMap<&'a str, Vec<&'a DebPackage>>,
    /// Versions that updates which are not approved bring, by name.
    left_out: BTreeMap<&'a str, Vec<(&'a str, &'a UpdateId)>>,
    offer: BTreeMap<Key, DebPackage>,
    parsed: BTreeMap<Key, Package>,
    /// Offered and not yet closed.
    queue: VecDeque<Key>,
    looked_up: BTreeMap<Key, Option<PoolEntry>>,
    unmet: Vec<Unmet>,
}

/// What became of one alternative.
enum Found {
    /// It is offered now.
    Offered,
    /// The update that would bring it is not approved.
    LeftOut(UpdateId),
    Nothing,
}

impl<P: Pool> Resolver<'_, P> {
    fn offer(&mut self, package: &DebPackage) -> Result<(), ResolveError> {
        let key = (package.name.clone(), package.architecture.clone());
        if self.offer.contains_key(&key) {
            return Ok(());
        }
        if self.offer.len() == OFFERED_MAX {
            return Err(ResolveError::TooMany { limit: OFFERED_MAX, what: "packages" });
        }
        let parsed = Package::of(package).map_err(|source| ResolveError::Malformed {
            package: format!("{} {}", package.name, package.version),
            source,
        })?;
        self.parsed.insert(key.clone(), parsed);
        self.offer.insert(key.clone(), package.clone());
        self.queue.push_back(key);
        Ok(())
    }

    /// Makes true what the package at `key` needs, and what its being there breaks.
    async fn close(&mut self, key: &Key) -> Result<(), ResolveError> {
        let Some(package) = self.parsed.get(key).cloned() else { return Ok(()) };
        let label = format!("{} {}", package.name, package.version);
        for clause in &package.depends {
            if !self.holds(clause, &package.architecture) {
                self.satisfy(&label, clause, &package.architecture).await?;
            }
        }
        for clause in &package.breaks {
            self.replace_broken(&label, clause, &package).await?;
        }
        self.keep_dependents(&package).await
    }

    /// Whether a relation is true with what is offered in place of what is installed.
    fn holds(&self, clause: &Clause, architecture: &str) -> bool {
        let native = self.world.native();
        let satisfied =
            |package: &Package, relation: &Relation| package.satisfies(relation, architecture, native);
        clause.0.iter().any(|relation| {
            self.parsed.values().any(|package| satisfied(package, relation))
                || self
                    .world
                    .installed
                    .iter()
                    .any(|(key, package)| !self.parsed.contains_key(key) && satisfied(package, relation))
        })
    }

    async fn satisfy(&mut self, label: &str, clause: &Clause, of: &str) -> Result<(), ResolveError> {
        let mut update = None;
        for relation in &clause.0 {
            match self.find(relation, of).await? {
                Found::Offered => return Ok(()),
                Found::LeftOut(id) => update = update.or(Some(id)),
                Found::Nothing => {}
            }
        }
        self.missing(label, "needs", clause, update);
        Ok(())
    }

    /// An installed package that `package` does not bear must go to a version that it does bear.
    async fn replace_broken(
        &mut self,
        label: &str,
        clause: &Clause,
        package: &Package,
    ) -> Result<(), ResolveError> {
        for relation in &clause.0 {
            let broken: Vec<(Key, String)> = self
                .world
                .installed
                .iter()
                .filter(|(key, other)| {
                    !self.parsed.contains_key(*key) && other.name != package.name && other.matches(relation)
                })
                .map(|(key, other)| (key.clone(), other.version.clone()))
                .collect();
            for ((name, architecture), version) in broken {
                let above = newer_than(&name, &version);
                let found = self.find(&above, &architecture).await?;
                let borne =
                    self.parsed.get(&(name, architecture)).is_some_and(|newer| !newer.matches(relation));
                let update = match found {
                    Found::LeftOut(id) => Some(id),
                    Found::Offered | Found::Nothing => None,
                };
                if !borne {
                    self.missing(label, "breaks", clause, update);
                }
            }
        }
        Ok(())
    }

    /// An installed package that needs the old version of `package` must go to a newer one.
    async fn keep_dependents(&mut self, package: &Package) -> Result<(), ResolveError> {
        let Some(old) = self.world.installed.get(&(package.name.clone(), package.architecture.clone()))
        else {
            return Ok(());
        };
        let names: BTreeSet<&str> = std::iter::once(old.name.as_str())
            .chain(old.provides.iter().map(|(name, _)| name.as_str()))
            .collect();
        let dependents: Vec<(Key, String, Clause)> = self
            .world
            .installed
            .iter()
            .filter(|(key, _)| !self.parsed.contains_key(*key))
            .filter_map(|(key, other)| {
                let clause = other.depends.iter().find(|clause| {
                    clause.0.iter().any(|relation| names.contains(relation.name.as_str()))
                        && !self.holds(clause, &other.architecture)
                })?;
                Some((key.clone(), other.version.clone(), clause.clone()))
            })
            .collect();
        for ((name, architecture), version, clause) in dependents {
            let label = format!("{name} {version}");
            match self.find(&newer_than(&name, &version), &architecture).await? {
                Found::Offered => {}
                // It may never have held; then apt will say so.
                Found::Nothing => self.missing(&label, "needs", &clause, None),
                Found::LeftOut(id) => self.missing(&label, "needs", &clause, Some(id)),
            }
        }
        Ok(())
    }

    /// Offers what satisfies `relation` of a package of architecture `of`, if there is such a thing:
    /// first from approved updates, then from the pool.
    async fn find(&mut self, relation: &Relation, of: &str) -> Result<Found, ResolveError> {
        let architecture = match relation.qualifier.as_deref() {
            None | Some("any" | "native") if of == "all" => self.world.native().to_owned(),
            None => of.to_owned(),
            Some("any" | "native") => self.world.native().to_owned(),
            Some(wanted) => wanted.to_owned(),
        };
        if self.find_approved(relation, of)? {
            return Ok(Found::Offered);
        }
        let mut left_out = None;
        let entry = self.entry(&architecture, &relation.name).await?;
        let (real, providers) = match entry {
            None => (None, Vec::new()),
            Some(PoolEntry::Package { package, providers }) => (Some(package), providers),
            Some(PoolEntry::Virtual { providers }) => (None, providers),
        };
        if let Some(package) = real {
            match self.consider(&package, relation, of)? {
                Found::Nothing => {}
                Found::Offered => return Ok(Found::Offered),
                Found::LeftOut(id) => left_out = Some(id),
            }
        }
        for name in providers.iter().take(PROVIDERS_MAX) {
            if let Some(PoolEntry::Package { package, .. }) = self.entry(&architecture, name).await? {
                match self.consider(&package, relation, of)? {
                    Found::Nothing => {}
                    Found::Offered => return Ok(Found::Offered),
                    Found::LeftOut(id) => left_out = left_out.or(Some(id)),
                }
            }
        }
        if left_out.is_none() {
            // The pool holds one version only; an update may bring another that would have done.
            let mut versions = self.left_out.get(relation.name.as_str()).into_iter().flatten();
            let found = versions.rfind(|(version, _)| relation.accepts(Some(version)));
            left_out = found.map(|(_, id)| (*id).clone());
        }
        Ok(left_out.map_or(Found::Nothing, Found::LeftOut))
    }

    fn find_approved(&mut self, relation: &Relation, of: &str) -> Result<bool, ResolveError> {
        let native = self.world.native();
        let mut best: Option<&DebPackage> = None;
        for package in self.approved.get(relation.name.as_str()).into_iter().flatten() {
            let parsed = Package::of(package).map_err(|source| ResolveError::Malformed {
                package: format!("{} {}", package.name, package.version),
                source,
            })?;
            let newer =
                best.is_none_or(|best| compare(&package.version, &best.version).is_some_and(|o| o.is_gt()));
            if parsed.satisfies(relation, of, native) && newer {
                best = Some(package);
            }
        }
        match best.cloned() {
            None => Ok(false),
            Some(package) => self.offer(&package).map(|()| true),
        }
    }

    fn consider(
        &mut self,
        package: &DebPackage,
        relation: &Relation,
        of: &str,
    ) -> Result<Found, ResolveError> {
        let malformed = |source| ResolveError::Malformed {
            package: format!("{} {}", package.name, package.version),
            source,
        };
        let parsed = Package::of(package).map_err(malformed)?;
        if !self.world.takes(&package.architecture) || !parsed.satisfies(relation, of, self.world.native()) {
            return Ok(Found::Nothing);
        }
        if self.world.has(&package.name)
            && let Some(updates) = self.left_out.get(package.name.as_str())
            && let Some((_, id)) = updates.iter().find(|(version, _)| *version == package.version)
        {
            return Ok(Found::LeftOut((*id).clone()));
        }
        self.offer(package).map(|()| Found::Offered)
    }

    async fn entry(&mut self, architecture: &str, name: &str) -> Result<Option<PoolEntry>, ResolveError> {
        let key = (architecture.to_owned(), name.to_owned());
        if let Some(entry) = self.looked_up.get(&key) {
            return Ok(entry.clone());
        }
        if self.looked_up.len() == LOOKUPS_MAX {
            return Err(ResolveError::TooMany { limit: LOOKUPS_MAX, what: "look-ups" });
        }
        let entry = self.pool.lookup(architecture, name).await?;
        self.looked_up.insert(key, entry.clone());
        Ok(entry)
    }

    fn missing(&mut self, label: &str, verb: &'static str, clause: &Clause, update: Option<UpdateId>) {
        let unmet = Unmet { package: label.to_owned(), verb, clause: clause.to_string(), update };
        if self.unmet.len() < UNMET_MAX && !self.unmet.contains(&unmet) {
            self.unmet.push(unmet);
        }
    }
}

fn newer_than(name: &str, version: &str) -> Relation {
    Relation {
        name: name.to_owned(),
        qualifier: None,
        version: Some((super::depends::Operator::Later, version.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use tierway_common::{
        rules::expr::Expr,
        schema::{Install, Severity},
    };

    use super::{
        super::world::tests::{deb, world},
        *,
    };

    struct Archive(Vec<DebPackage>);

    impl Pool for Archive {
        async fn lookup(&self, architecture: &str, name: &str) -> Result<Option<PoolEntry>, Unavailable> {
            let own =
                |package: &&DebPackage| package.architecture == architecture || package.architecture == "all";
            let provides = |package: &&DebPackage| {
                Package::of(package).unwrap().provides.iter().any(|(provided, _)| provided == name)
            };
            let providers: Vec<_> =
                self.0.iter().filter(own).filter(provides).map(|package| package.name.clone()).collect();
            Ok(match self.0.iter().filter(own).find(|package| package.name == name) {
                Some(package) => Some(PoolEntry::Package { package: Box::new(package.clone()), providers }),
                None if providers.is_empty() => None,
                None => Some(PoolEntry::Virtual { providers }),
            })
        }
    }

    fn update(id: &str, packages: &[&str]) -> Update {
        Update {
            id: id.parse().unwrap(),
            title: String::new(),
            product: String::new(),
            version: String::new(),
            severity: Severity::Unspecified,
            class: Default::default(),
            released: Timestamp::UNIX_EPOCH,
            references: Vec::new(),
            applicable: Expr::Const(true),
            installed: Expr::Const(false),
            supersedes: Vec::new(),
            superseded_by: Vec::new(),
            install: Install::Deb { packages: packages.iter().map(|text| deb(text)).collect() },
            result_codes: Default::default(),
        }
    }

    struct Case<'a> {
        installed: &'a [&'a str],
        update: &'a [&'a str],
        approved: &'a [&'a str],
        left_out: &'a [&'a str],
        pool: &'a [&'a str],
    }

    const CASE: Case<'_> = Case { installed: &[], update: &[], approved: &[], left_out: &[], pool: &[] };

    /// Runs `case` and compares what is offered, as `name=version`, and what is missing.
    fn check(case: &Case<'_>, offered: &[&str], unmet: &[&str]) {
        let world = world(case.installed);
        let first = update("d/first", case.update);
        let (approved, left_out) = (update("d/approved", case.approved), update("d/other", case.left_out));
        let pool = Archive(case.pool.iter().map(|text| deb(text)).collect());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let offer = runtime
            .block_on(resolve(&first, &targets(&first, &world), &[&approved], &[&left_out], &world, &pool))
            .unwrap();
        let found: Vec<_> =
            offer.packages.values().map(|package| format!("{}={}", package.name, package.version)).collect();
        assert_eq!(found, offered);
        assert_eq!(offer.unmet.iter().map(ToString::to_string).collect::<Vec<_>>(), unmet);
    }

    #[test]
    fn of_an_update_the_installed_older_packages_are_upgraded_and_no_others() {
        let installed = ["a 1 amd64", "b 3 amd64", "c 1 all", "d 1 i386"];
        let update = ["a 2 amd64", "a 2 i386", "b 2 amd64", "c 2 amd64", "d 2 i386", "e 2 amd64"];
        check(&Case { installed: &installed, update: &update, ..CASE }, &["a=2", "c=2", "d=2"], &[]);
    }

    #[test]
    fn a_new_dependency_comes_from_the_pool_with_what_it_needs_itself() {
        let case = Case {
            installed: &["a 1 amd64"],
            update: &["a 2 amd64\nDepends: b (>= 1) | x, a (= 2)"],
            pool: &["b 1 amd64\nPre-Depends: c", "d 1 all\nProvides: c", "x 1 amd64"],
            ..CASE
        };
        check(&case, &["a=2", "b=1", "d=1"], &[]);
    }

    #[test]
    fn an_alternative_that_is_installed_makes_the_pool_unnecessary() {
        let case = Case {
            installed: &["a 1 amd64", "x 1 amd64"],
            update: &["a 2 amd64\nDepends: b | x"],
            pool: &["b 1 amd64"],
            ..CASE
        };
        check(&case, &["a=2"], &[]);
    }

    #[test]
    fn a_package_of_an_update_that_is_not_approved_is_not_upgraded_by_the_way() {
        let case = Case {
            installed: &["a 1 amd64", "libnss3 1 amd64"],
            update: &["a 2 amd64\nDepends: libnss3 (>= 2)"],
            left_out: &["libnss3 2 amd64"],
            pool: &["libnss3 2 amd64"],
            ..CASE
        };
        let reason = "`a 2` needs `libnss3 (>= 2)` from the update `d/other`, which is not approved";
        check(&case, &["a=2"], &[reason]);
        // Not installed at all, it comes in as a new package.
        check(&Case { installed: &["a 1 amd64"], ..case }, &["a=2", "libnss3=2"], &[]);
    }

    #[test]
    fn a_package_of_another_approved_update_is_offered_when_it_is_needed() {
        let case = Case {
            installed: &["a 1 amd64", "libnss3 1 amd64", "other 1 amd64"],
            update: &["a 2 amd64\nDepends: libnss3 (>= 2)"],
            approved: &["libnss3 2 amd64", "other 2 amd64"],
            ..CASE
        };
        check(&case, &["a=2", "libnss3=2"], &[]);
    }

    #[test]
    fn what_is_not_to_be_had_is_named() {
        let case = Case {
            installed: &["a 1 amd64"],
            update: &["a 2 amd64\nDepends: b (>= 2) | c"],
            pool: &["b 1 amd64"],
            ..CASE
        };
        check(&case, &["a=2"], &["`a 2` needs `b (>= 2) | c`, which is not to be had"]);
    }

    #[test]
    fn an_installed_package_that_the_new_one_breaks_is_offered_newer() {
        let case = Case {
            installed: &["a 1 amd64", "plugin 1 amd64"],
            update: &["a 2 amd64\nBreaks: plugin (<< 2)"],
            pool: &["plugin 2 amd64"],
            ..CASE
        };
        check(&case, &["a=2", "plugin=2"], &[]);
        let reason = "`a 2` breaks `plugin (<< 2)` from the update `d/other`, which is not approved";
        check(&Case { left_out: &["plugin 2 amd64"], ..case }, &["a=2"], &[reason]);
    }

    #[test]
    fn an_installed_package_that_needs_the_old_version_is_offered_newer() {
        let case = Case {
            installed: &["a 1 amd64", "user 1 amd64\nDepends: a (= 1)"],
            update: &["a 2 amd64"],
            pool: &["user 1+b1 amd64\nDepends: a (= 2)"],
            ..CASE
        };
        check(&case, &["a=2", "user=1+b1"], &[]);
    }
}
