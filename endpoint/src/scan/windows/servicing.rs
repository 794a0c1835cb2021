//! The packages of Windows itself, by what component servicing keeps of them, and the updates that they are.

use std::collections::BTreeMap;

use tierway_common::{facts::Domain, version::windows::WindowsVersion};

use super::registry::{Registry, number};
use crate::scan::Collected;

const PACKAGES: &str = r"HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Component Based Servicing\Packages";

/// `CurrentState` of a package that is installed.
const INSTALLED: u64 = 0x70;

/// What a package of an update is called before the number of its article.
const OF_UPDATE: &str = "Package_for_";

/// Reads the domains `package:cbs` and `update`.
pub(super) fn scan(registry: &dyn Registry, collected: &mut Collected) {
    let source = || PACKAGES.to_owned();
    match read(registry) {
        Ok(Some((packages, updates))) => {
            collected.facts.values.extend(packages);
            collected.facts.values.extend(updates.into_iter().map(|id| (id, "installed".to_owned())));
            collected.domain("package:cbs", Domain::Complete { source: source() });
            // One that came within a cumulative update has no package of its own.
            collected.domain("update", Domain::Asked { source: source() });
        }
        Ok(None) => {
            let reason = "this Windows has no component servicing".to_owned();
            for name in ["package:cbs", "update"] {
                let domain = Domain::Failed { source: source(), reason: reason.clone() };
                collected.facts.domains.insert(name.to_owned(), domain);
            }
        }
        Err(reason) => {
            collected.domain("package:cbs", Domain::Failed { source: source(), reason: reason.clone() });
            collected.facts.domains.insert("update".to_owned(), Domain::Failed { source: source(), reason });
        }
    }
}

type Read = (BTreeMap<String, String>, Vec<String>);

fn read(registry: &dyn Registry) -> Result<Option<Read>, String> {
    let Some(identities) = registry.subkeys(PACKAGES)? else { return Ok(None) };
    let (mut packages, mut updates) = (BTreeMap::<String, String>::new(), Vec::new());
    for identity in identities {
        let state = number(registry, &format!("{PACKAGES}\\{identity}"), "CurrentState")?;
        let Some((key, version)) = package(&identity).filter(|_| state == Some(INSTALLED)) else { continue };
        updates.extend(article(&identity).map(|id| format!("update:{id}")));
        let newest = packages.get(&key).is_none_or(|other| newer(version, other));
        if newest {
            packages.insert(key, version.to_owned());
        }
    }
    updates.sort();
    updates.dedup();
    Ok(Some((packages, updates)))
}

/// The fact's key and the version of `name~token~architecture~language~version`.
fn package(identity: &str) -> Option<(String, &str)> {
    let mut parts = identity.split('~');
    let (name, _, architecture) = (parts.next()?, parts.next()?, parts.next()?);
    let (language, version) = (parts.next()?, parts.next()?);
    let name =
        if language.is_empty() { name.to_owned() } else { format!("{name}~{}", language.to_lowercase()) };
    Some((format!("package:cbs:{name}:{}", architecture.to_lowercase()), version))
}

/// Such as `KB5031358`, of a package that is named so.
fn article(identity: &str) -> Option<&str> {
    let name = identity.strip_prefix(OF_UPDATE)?.split(['~', '_']).next()?;
    let digits = name.strip_prefix("KB")?;
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(name)
}

fn newer(version: &str, other: &str) -> bool {
    match (version.parse::<WindowsVersion>(), other.parse::<WindowsVersion>()) {
        (Ok(version), Ok(other)) => version > other,
        (version, _) => version.is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::registry::Written, *};

    #[test]
    fn of_each_package_the_newest_that_is_installed_is_told() {
        let mut registry = Written::default();
        for (identity, state) in [
            ("Package_for_KB5031358~31bf3856ad364e35~amd64~~10.0.1.2", 0x70),
            ("Package_for_KB5031358~31bf3856ad364e35~amd64~~10.0.1.10", 0x70),
            ("Package_for_KB5031358~31bf3856ad364e35~amd64~~10.0.2.0", 0x40),
            ("Package_for_KB4000000_SP1~31bf3856ad364e35~amd64~~6.1.1.0", 0x50),
            ("Microsoft-Windows-Foundation~31bf3856ad364e35~amd64~de-DE~10.0.19041.1", 0x70),
            ("Broken", 0x70),
        ] {
            registry.number(&format!("{PACKAGES}\\{identity}"), "CurrentState", state);
        }
        let mut collected = Collected::default();
        scan(&registry, &mut collected);
        let found: Vec<_> = collected.facts.values.into_iter().collect();
        let wanted = [
            ("package:cbs:Microsoft-Windows-Foundation~de-de:amd64", "10.0.19041.1"),
            ("package:cbs:Package_for_KB5031358:amd64", "10.0.1.10"),
            ("update:KB5031358", "installed"),
        ];
        assert_eq!(found, wanted.map(|(key, value)| (key.to_owned(), value.to_owned())));
        assert!(matches!(collected.facts.domains["package:cbs"], Domain::Complete { .. }));
    }

    #[test]
    fn a_windows_without_servicing_makes_its_packages_unknown() {
        let mut collected = Collected::default();
        scan(&Written::default(), &mut collected);
        assert!(matches!(collected.facts.domains["package:cbs"], Domain::Failed { .. }));
        assert_eq!(collected.problems, []);
    }
}
