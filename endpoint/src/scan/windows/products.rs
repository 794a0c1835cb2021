//! What Windows Installer has installed: products, and of those the features, components and patches that rules
//! ask for.
//!
//! By where Windows Installer itself keeps it: below a key of the system's own account for what is installed for
//! all users, below a user's id for what is his. Codes are stored packed, see `unpacked`.

use tierway_common::facts::Domain;

use super::registry::{Registry, number, text};
use crate::scan::{Collected, Problem};

const USERS: &str = r"HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Installer\UserData";

/// Reads the domain `package:msi`: code in braces, language and version of each product.
pub(super) fn scan(registry: &dyn Registry, collected: &mut Collected) {
    let domain = match read(registry, collected) {
        Ok(()) => Domain::Complete { source: USERS.to_owned() },
        Err(reason) => Domain::Failed { source: USERS.to_owned(), reason },
    };
    if matches!(domain, Domain::Failed { .. }) {
        collected.facts.values.retain(|key, _| !key.starts_with("package:msi:"));
    }
    collected.domain("package:msi", domain);
}

fn read(registry: &dyn Registry, collected: &mut Collected) -> Result<(), String> {
    for product in products(registry)? {
        let Product { code, key, .. } = product;
        let properties = format!("{key}\\InstallProperties");
        let Some(version) = text(registry, &properties, "DisplayVersion")? else {
            // Advertised only, or on its way out.
            continue;
        };
        let language = number(registry, &properties, "Language")?.unwrap_or(0);
        if version.parse::<tierway_common::version::windows::WindowsVersion>().is_err() {
            collected.problems.push(Problem(format!("the product {code} has the version `{version}`")));
        }
        collected.set(format!("package:msi:{code}:{language}"), version);
    }
    Ok(())
}

/// A product of a user, or of all.
#[derive(Debug)]
pub(super) struct Product {
    code: String,
    packed: String,
    /// Where it is kept.
    key: String,
    /// Where its user's things are kept.
    user: String,
}

/// Every product of every user.
///
/// # Errors
///
/// When the registry cannot be read.
pub(super) fn products(registry: &dyn Registry) -> Result<Vec<Product>, String> {
    let mut found = Vec::new();
    for user in registry.subkeys(USERS)?.unwrap_or_default() {
        let user = format!("{USERS}\\{user}");
        let below = format!("{user}\\Products");
        for packed in registry.subkeys(&below)?.unwrap_or_default() {
            if let Some(code) = unpacked(&packed) {
                let key = format!("{below}\\{packed}");
                found.push(Product { code, packed, key, user: user.clone() });
            }
        }
    }
    Ok(found)
}

/// Whether one of the `products` with this code has a part; `None` when the question is not understood.
///
/// # Errors
///
/// When the registry cannot be read.
pub(super) fn has_part(
    registry: &dyn Registry,
    products: &[Product],
    code: &str,
    kind: &str,
    name: &str,
) -> Result<Option<bool>, String> {
    for product in products.iter().filter(|product| product.code == code) {
        let Product { packed, key, user, .. } = product;
        let there = match kind {
            // An advertised or absent feature begins with a byte 6.
            "feature" => {
                let value = registry.value(&format!("{key}\\Features"), name)?;
                value.is_some_and(|data| !data.bytes.starts_with(&[6, 0]))
            }
            "component" => {
                let Some(component) = packed_code(name) else { return Ok(None) };
                let path = text(registry, &format!("{user}\\Components\\{component}"), packed)?;
                path.is_some_and(|path| !path.is_empty())
            }
            "patch" => {
                let Some(patch) = packed_code(name) else { return Ok(None) };
                // 1 is applied, 2 superseded, 4 obsoleted.
                let state = number(registry, &format!("{key}\\Patches\\{patch}"), "State")?;
                state == Some(1)
            }
            _ => return Ok(None),
        };
        if there {
            return Ok(Some(true));
        }
    }
    Ok(Some(false))
}

/// The order in which the 32 digits of a code are stored.
const ORDER: [usize; 32] = [
    7, 6, 5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 15, 14, 13, 12, 17, 16, 19, 18, 21, 20, 23, 22, 25, 24, 27, 26, 29,
    28, 31, 30,
];

/// The code, in braces and upper case, that is stored as these 32 digits; `None` where it is none.
fn unpacked(packed: &str) -> Option<String> {
    let digits = shuffled(packed)?;
    let part = |from: usize, to: usize| &digits[from..to];
    Some(format!("{{{}-{}-{}-{}-{}}}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)))
}

/// As what a code in braces is stored; `None` where it is none.
fn packed_code(code: &str) -> Option<String> {
    let digits: String = code.strip_prefix('{')?.strip_suffix('}')?.chars().filter(|c| *c != '-').collect();
    shuffled(&digits)
}

/// The shuffling is its own inverse.
fn shuffled(digits: &str) -> Option<String> {
    let digits = digits.as_bytes();
    if digits.len() != ORDER.len() || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    Some(ORDER.iter().map(|place| char::from(digits[*place]).to_ascii_uppercase()).collect())
}

#[cfg(test)]
mod tests {
    use super::{super::registry::Written, *};

    const CODE: &str = "{90160000-008C-0000-1000-0000000FF1CE}";
    const PACKED: &str = "00006109C80000000100000000F01FEC";

    #[test]
    fn a_packed_code_is_the_code_and_back() {
        assert_eq!(unpacked(PACKED).as_deref(), Some(CODE));
        assert_eq!(packed_code(CODE).as_deref(), Some(PACKED));
        assert_eq!((unpacked("0000"), packed_code("0000"), unpacked(&"x".repeat(32))), (None, None, None));
    }

    fn office() -> Written {
        let key = format!("{USERS}\\S-1-5-18\\Products\\{PACKED}");
        let mut registry = Written::default();
        registry
            .text(&format!("{key}\\InstallProperties"), "DisplayVersion", "16.0.4266.1001")
            .number(&format!("{key}\\InstallProperties"), "Language", 1033)
            .text(&format!("{key}\\Features"), "Main", "x")
            .text(&format!("{key}\\Features"), "Gone", "\u{6}Main")
            .number(&format!("{key}\\Patches\\{PACKED}"), "State", 1)
            .text(&format!("{USERS}\\S-1-5-18\\Components\\{PACKED}"), PACKED, "C:\\x.dll")
            .key(&format!("{USERS}\\S-1-5-21-7\\Products\\{}", "0".repeat(32)));
        registry
    }

    #[test]
    fn products_are_told_with_language_and_version() {
        let mut collected = Collected::default();
        scan(&office(), &mut collected);
        let found: Vec<_> = collected.facts.values.into_iter().collect();
        assert_eq!(found, [(format!("package:msi:{CODE}:1033"), "16.0.4266.1001".to_owned())]);
        assert_eq!(collected.problems, []);
    }

    #[test]
    fn a_part_is_there_only_when_it_is_installed_and_not_replaced() {
        let registry = office();
        let there = products(&registry).unwrap();
        for (kind, name, wanted) in [
            ("feature", "Main", Some(true)),
            ("feature", "Gone", Some(false)),
            ("feature", "Other", Some(false)),
            ("component", CODE, Some(true)),
            ("component", "{00000000-0000-0000-0000-000000000001}", Some(false)),
            ("patch", CODE, Some(true)),
            ("patch", "no code", None),
            ("other", "x", None),
        ] {
            assert_eq!(has_part(&registry, &there, CODE, kind, name).unwrap(), wanted, "{kind} {name}");
        }
        let superseded = format!("{USERS}\\S-1-5-18\\Products\\{PACKED}\\Patches\\{PACKED}");
        let mut registry = office();
        registry.number(&superseded, "State", 2);
        assert_eq!(has_part(&registry, &there, CODE, "patch", CODE).unwrap(), Some(false));
        assert_eq!(has_part(&registry, &there, "{X}", "patch", CODE).unwrap(), Some(false));
    }

    #[test]
    fn products_that_cannot_be_read_are_unknown_and_not_absent() {
        let mut registry = office();
        registry.forbidden.push(format!("{USERS}\\S-1-5-21-7\\Products"));
        let mut collected = Collected::default();
        scan(&registry, &mut collected);
        assert!(matches!(collected.facts.domains["package:msi"], Domain::Failed { .. }));
        assert!(collected.facts.values.is_empty());
    }
}
