//! Debian packages: the engine that installs them, and what facts say about them.

pub mod apt;
pub mod depends;
#[cfg(unix)]
pub mod enclosure;
#[cfg(unix)]
pub mod engine;
#[cfg(unix)]
pub mod repository;
#[cfg(unix)]
pub mod resolve;
#[cfg(unix)]
pub mod world;

use tierway_common::{
    facts::Facts,
    schema::{DebPackage, Update},
};

/// Whether a package of `update` is unpacked but not fully installed.
#[must_use]
pub fn is_incomplete(update: &Update, facts: &Facts) -> bool {
    update_names(update).into_iter().any(|name| flag(facts, &format!("incomplete:{name}")))
}

/// A package that `update` would upgrade and that the administrator holds; held at its version or not
/// installed at all, a package is none of those.
#[must_use]
pub fn held<'a>(update: &'a Update, facts: &Facts) -> Option<&'a str> {
    let packages = update.install.deb_packages();
    let older = |package: &&DebPackage| {
        let DebPackage { name, version, architecture, .. } = *package;
        let installed = facts.values.get(&format!("package:deb:{name}:{architecture}"));
        installed
            .and_then(|installed| depends::compare(installed, version))
            .is_some_and(|order| order.is_lt())
    };
    let held = |package: &&DebPackage| flag(facts, &format!("hold:{}", package.name));
    packages.iter().filter(held).find(older).map(|package| package.name.as_str())
}

fn update_names(update: &Update) -> Vec<&str> {
    let packages = update.install.deb_packages();
    packages.iter().map(|package| package.name.as_str()).collect()
}

fn flag(facts: &Facts, name: &str) -> bool {
    facts.values.get(&format!("flag:{name}")).is_some_and(|value| value == "true")
}
