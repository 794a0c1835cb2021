//! What a database of Windows Installer says of itself: its table of properties, and its summary.

use std::{
    collections::BTreeMap,
    io::{Read, Seek},
    panic::{AssertUnwindSafe, catch_unwind},
};

use msi::{Package, PackageType, Select};
use tierway_common::{
    rules::expr::{Compare, Expr, Manager, PackageTest, RegistryTest},
    schema::Handler,
};

use super::{File, LocalError, Said, Wishes, architecture, install, listed, windows, windows_version};
use crate::sources::windows::update::code;

/// Where Windows Installer keeps which products belong together.
const FAMILIES: &str = r"HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Installer\UpgradeCodes";

/// Most properties that are read: the largest known packages have some 500.
const PROPERTIES_MAX: usize = 20_000;

pub(super) fn read(file: &File, content: impl Read + Seek, wishes: &Wishes) -> Result<Said, LocalError> {
    // The reader of databases takes it for granted that some cells of their tables are there.
    let read = AssertUnwindSafe(|| of_database(file, content, wishes));
    catch_unwind(read).unwrap_or_else(|_| {
        let reason = "its tables are not those of a database of Windows Installer".to_owned();
        Err(LocalError::Damaged { file: file.name.clone(), reason })
    })
}

fn of_database(file: &File, content: impl Read + Seek, wishes: &Wishes) -> Result<Said, LocalError> {
    let damaged = |reason: String| LocalError::Damaged { file: file.name.clone(), reason };
    let mut package = Package::open(content).map_err(|error| damaged(error.to_string()))?;
    match package.package_type() {
        PackageType::Installer => {}
        PackageType::Patch => return Ok(patch(file, &package, wishes)),
        PackageType::Transform => return Err(LocalError::Kind { file: file.name.clone() }),
    }
    let processor = package.summary_info().arch().unwrap_or_default().to_owned();
    let properties = properties(&mut package).map_err(damaged)?;
    let must = |name: &str| {
        properties.get(name).cloned().ok_or_else(|| damaged(format!("it has no property `{name}`")))
    };
    let product = code(&must("ProductCode")?);
    let name = must("ProductName")?;
    let version = match &wishes.version {
        Some(version) => version.clone(),
        None => must("ProductVersion")?,
    };
    windows_version("ProductVersion", &version)?;
    let at_least = || Some(Compare::Ge(version.clone()));
    let mut installed = vec![Expr::Package(PackageTest {
        manager: Manager::Msi,
        name: product.clone(),
        architecture: None,
        version: at_least(),
    })];
    let entry = wishes.entry.clone().unwrap_or_else(|| name.clone());
    let mut notes = Vec::new();
    let older = match properties.get("UpgradeCode").and_then(|family| packed(family)) {
        Some(family) => {
            let key = format!("{FAMILIES}\\{family}");
            let some = Expr::Registry(RegistryTest { key, ..RegistryTest::default() });
            // A later version has another product code, but the same family and, mostly, the same name.
            installed.push(Expr::All(vec![some.clone(), listed(&entry, at_least())]));
            some
        }
        None => {
            notes.push("it has no upgrade code: a later version beside it is not recognised".to_owned());
            listed(&entry, None)
        }
    };
    let mut applicable = vec![windows()];
    match processor.as_str() {
        "x64" | "Intel64" | "AMD64" => applicable.push(architecture("amd64")),
        "Arm64" => applicable.push(architecture("arm64")),
        "Arm" => applicable.push(architecture("arm")),
        // For 32 bits, which every Windows runs.
        _ => {}
    }
    let vendor = properties.get("Manufacturer").filter(|vendor| !name.contains(*vendor));
    Ok(Said {
        name: Some(name.clone()),
        product: Some(vendor.map_or_else(|| name.clone(), |vendor| format!("{vendor} {name}"))),
        title: Some(match name.contains(&version) {
            true => name.clone(),
            false => format!("{name} {version}"),
        }),
        version: Some(version),
        references: Vec::new(),
        applicable,
        older: Some(older),
        installed: Some(Expr::Any(installed)),
        install: install(
            file,
            Handler::Msi {
                product_code: Some(product),
                file: file.name.clone(),
                command_line: wishes.arguments.clone(),
                exit_codes: Vec::new(),
            },
        ),
        notes,
    })
}

fn properties(package: &mut Package<impl Read + Seek>) -> Result<BTreeMap<String, String>, String> {
    let has_columns = package
        .get_table("Property")
        .is_some_and(|table| ["Property", "Value"].iter().all(|column| table.has_column(column)));
    if !has_columns {
        return Err("it has no table of properties".to_owned());
    }
    let rows = package.select_rows(Select::table("Property")).map_err(|error| error.to_string())?;
    if rows.len() > PROPERTIES_MAX {
        return Err(format!("it has more than {PROPERTIES_MAX} properties"));
    }
    let pair = |row: &msi::Row| {
        Some((row["Property"].as_str()?.to_owned(), row["Value"].as_str()?.trim().to_owned()))
    };
    Ok(rows.filter_map(|row| pair(&row)).filter(|(_, value)| !value.is_empty()).collect())
}

/// A patch: which products it is for its summary says, and who has it only a rule of the operator's.
fn patch(file: &File, package: &Package<impl Read + Seek>, wishes: &Wishes) -> Said {
    let patch_code = package.summary_info().uuid().map(|found| code(&found.to_string()));
    Said {
        name: None,
        product: package.summary_info().subject().map(str::to_owned).filter(|text| !text.trim().is_empty()),
        version: None,
        title: package.summary_info().title().map(str::to_owned).filter(|text| !text.trim().is_empty()),
        references: Vec::new(),
        applicable: vec![windows()],
        older: None,
        installed: None,
        install: install(
            file,
            Handler::Msp {
                patch_code,
                file: Some(file.name.clone()),
                command_line: wishes.arguments.clone(),
                uninstall_command_line: String::new(),
            },
        ),
        notes: vec!["a patch needs `--rule`: for which products it is and who has it".to_owned()],
    }
}

/// A code as the registry of Windows Installer has it: the first three parts backwards, of the others the
/// digits of each byte swapped.
fn packed(text: &str) -> Option<String> {
    let digits: Vec<char> = text.chars().filter(char::is_ascii_hexdigit).collect();
    if digits.len() != 32 {
        return None;
    }
    let parts = [0..8, 8..12, 12..16].into_iter().chain((16..32).step_by(2).map(|at| at..at + 2));
    let turned = parts.flat_map(|part| digits[part].iter().rev().copied().collect::<Vec<_>>());
    Some(turned.collect::<String>().to_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_looked_up_as_windows_installer_writes_it() {
        assert_eq!(
            packed("{12345678-9abc-DEF0-1234-56789ABCDEF0}").as_deref(),
            Some("87654321CBA90FED21436587A9CBED0F")
        );
        assert_eq!(packed("{12345678}"), None);
    }
}
