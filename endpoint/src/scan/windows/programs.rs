//! The programs that a person sees in the list of programs: of both registry views, and of each user whose
//! registry is loaded.

use tierway_common::facts::Domain;

use super::registry::{Registry, number, text};
use crate::scan::Collected;

const UNINSTALL: &str = r"SOFTWARE\Microsoft\Windows\CurrentVersion\Uninstall";

/// Told in one scan; a well-used computer has some 300.
const PROGRAMS_MAX: usize = 5_000;

/// Reads the domain `program`: `program:<whose>:<key>` → name and version, whose is `machine`, `machine32` or a
/// user's id.
pub(super) fn scan(registry: &dyn Registry, collected: &mut Collected) {
    let source = UNINSTALL.to_owned();
    let domain = match read(registry, collected) {
        Ok(()) => Domain::Complete { source },
        Err(reason) => Domain::Failed { source, reason },
    };
    collected.domain("program", domain);
}

fn read(registry: &dyn Registry, collected: &mut Collected) -> Result<(), String> {
    let mut lists = vec![
        ("machine".to_owned(), format!("HKLM\\{UNINSTALL}")),
        ("machine32".to_owned(), format!("HKLM32\\{UNINSTALL}")),
    ];
    for user in registry.subkeys("HKU")?.unwrap_or_default() {
        // People's own accounts, not the parts of their registry that are kept beside.
        if user.starts_with("S-1-5-21-") && !user.ends_with("_Classes") {
            let key = format!("HKU\\{user}\\{UNINSTALL}");
            lists.push((user, key));
        }
    }
    let mut left = PROGRAMS_MAX;
    for (whose, list) in lists {
        for name in registry.subkeys(&list)?.unwrap_or_default() {
            let Some(shown) = shown(registry, &format!("{list}\\{name}"))? else { continue };
            let Some(less) = left.checked_sub(1) else {
                return Err(format!("there are more than {PROGRAMS_MAX} programs"));
            };
            left = less;
            collected.set(format!("program:{whose}:{name}"), shown);
        }
    }
    Ok(())
}

/// Name and version, where the list shows it.
fn shown(registry: &dyn Registry, key: &str) -> Result<Option<String>, String> {
    let Some(name) = text(registry, key, "DisplayName")?.filter(|name| !name.trim().is_empty()) else {
        return Ok(None);
    };
    // What belongs to another program or to the system is not shown.
    let hidden = number(registry, key, "SystemComponent").ok().flatten() == Some(1)
        || text(registry, key, "ParentKeyName")?.is_some();
    if hidden {
        return Ok(None);
    }
    let version = text(registry, key, "DisplayVersion").ok().flatten().unwrap_or_default();
    Ok(Some(format!("{} {}", name.trim(), version.trim()).trim_end().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::{super::registry::Written, *};

    #[test]
    fn programs_of_both_views_and_of_users_are_told_as_a_person_sees_them() {
        let mut registry = Written::default();
        let user = "S-1-5-21-1-2-3-1001";
        for (key, name, version) in [
            ("HKLM", "7-Zip", "23.01"),
            ("HKLM32", "Old Tool", ""),
            (format!("HKU\\{user}").as_str(), "Chat", "1.2"),
            (format!("HKU\\{user}_Classes").as_str(), "Not one", "1"),
            ("HKU\\S-1-5-18", "Not one either", "1"),
        ] {
            let key = format!("{key}\\{UNINSTALL}\\P");
            registry.text(&key, "DisplayName", name).text(&key, "DisplayVersion", version);
        }
        let hidden = format!("HKLM\\{UNINSTALL}\\Hidden");
        registry.text(&hidden, "DisplayName", "Hidden").number(&hidden, "SystemComponent", 1);
        registry.key(&format!("HKLM\\{UNINSTALL}\\Nameless"));
        let mut collected = Collected::default();
        scan(&registry, &mut collected);
        let found: Vec<_> = collected.facts.values.into_iter().collect();
        let wanted = [
            (format!("program:{user}:P"), "Chat 1.2"),
            ("program:machine32:P".to_owned(), "Old Tool"),
            ("program:machine:P".to_owned(), "7-Zip 23.01"),
        ];
        assert_eq!(found, wanted.map(|(key, shown)| (key, shown.to_owned())));
    }
}
