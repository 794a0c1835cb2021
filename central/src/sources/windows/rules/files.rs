//! Predicates about files and the registry.

use tierway_common::rules::{
    expr::{Compare, DataOrdering, Expr, FileTest, LOOP_TARGET, LoopTest, Quantity, RegistryTest},
    place::{Folder, Place},
};

use super::{Lowered, attribute, comparison, scalar, version, whole};
use crate::sources::windows::xml::Element;

/// The folder that a file predicate names by number.
pub(super) fn place_of_csidl(element: &Element) -> Result<Place<'static>, String> {
    let Some(number) = whole(element, "Csidl")? else { return Ok(Place::Absolute) };
    u32::try_from(number)
        .ok()
        .and_then(Folder::of_csidl)
        .map(Place::Folder)
        .ok_or_else(|| format!("the folder {number} is a user's or is not known"))
}

/// A predicate of the kind `name` about a file below `place`.
pub(super) fn file(element: &Element, name: &str, place: &Place<'_>) -> Lowered {
    let mut test = FileTest { path: place.join(attribute(element, "Path")?), ..FileTest::default() };
    let equal = |value: &str| Some(Compare::Eq(value.to_owned()));
    let size = |element| whole(element, "Size");
    match name {
        "FileExists" => {
            if element.attribute("Version").is_some() {
                test.version = equal(version(element, "Version")?);
            }
            test.created = element.attribute("Created").and_then(equal);
            test.modified = element.attribute("Modified").and_then(equal);
            test.size = size(element)?.and_then(|size| equal(&size.to_string()));
            test.language = whole(element, "Language")?.map(|language| language.to_string());
        }
        "FileVersion" => test.version = Some(scalar(element, version(element, "Version")?)?),
        "FileCreated" => test.created = Some(scalar(element, attribute(element, "Created")?)?),
        "FileModified" => test.modified = Some(scalar(element, attribute(element, "Modified")?)?),
        "FileSize" => {
            let size = size(element)?.ok_or("`FileSize` has no `Size`")?;
            test.size = Some(scalar(element, &size.to_string())?);
        }
        other => return Err(format!("the predicate `{other}` is not known")),
    }
    Ok(Expr::File(test))
}

/// The same about a file below the directory that a text in the registry names.
pub(super) fn file_below_registry(element: &Element) -> Lowered {
    let key = key(element)?;
    let value = element.attribute("Value").unwrap_or("");
    let place = Place::Registry { key: &key, value };
    file(element, element.name.trim_end_matches("PrependRegSz"), &place)
}

/// A registry key as our tests name it.
fn key(element: &Element) -> Result<String, String> {
    let hive = match attribute(element, "Key")? {
        "HKEY_LOCAL_MACHINE" | "HKLM" => "HKLM",
        "HKEY_CLASSES_ROOT" | "HKCR" => "HKCR",
        "HKEY_USERS" | "HKU" => "HKU",
        "HKEY_CURRENT_CONFIG" | "HKCC" => "HKCC",
        LOOP_TARGET => LOOP_TARGET,
        "HKEY_CURRENT_USER" | "HKCU" => return Err("the registry of a user is not evaluated".to_owned()),
        other => return Err(format!("the registry hive `{other}` is not known")),
    };
    let view = if element.is("RegType32") && hive != LOOP_TARGET { "32" } else { "" };
    let subkey = element.attribute("Subkey").unwrap_or("").trim_matches('\\');
    Ok(if subkey.is_empty() { format!("{hive}{view}") } else { format!("{hive}{view}\\{subkey}") })
}

pub(super) fn registry_key(element: &Element) -> Lowered {
    Ok(Expr::Registry(RegistryTest { key: key(element)?, ..RegistryTest::default() }))
}

/// A test of a value that is there; the caller adds what it compares.
fn value(element: &Element) -> Result<RegistryTest, String> {
    let name = element.attribute("Value").unwrap_or("").to_owned();
    Ok(RegistryTest { key: key(element)?, value: Some(name), ..RegistryTest::default() })
}

pub(super) fn registry_value(element: &Element) -> Lowered {
    let kind = element.attribute("Type").map(str::to_owned);
    Ok(Expr::Registry(RegistryTest { kind, ..value(element)? }))
}

pub(super) fn registry_number(element: &Element) -> Lowered {
    let data = whole(element, "Data")?.ok_or("`RegDword` has no `Data`")?;
    let data = Some(scalar(element, &data.to_string())?);
    Ok(Expr::Registry(RegistryTest { data, ordering: Some(DataOrdering::Number), ..value(element)? }))
}

pub(super) fn registry_text(element: &Element) -> Lowered {
    let how = element.attribute("Comparison").or(element.attribute("StringComparison")).unwrap_or("EqualTo");
    let data = comparison(element, how, element.attribute("Data").unwrap_or(""))?;
    match data {
        Compare::Lt(_) | Compare::Le(_) | Compare::Ge(_) | Compare::Gt(_) => {
            return Err(format!("`{}` orders texts, `{how}`", element.name));
        }
        Compare::Eq(_) | Compare::Ne(_) | Compare::Begins(_) | Compare::Contains(_) | Compare::Ends(_) => {}
    }
    let ordering = Some(DataOrdering::Caseless);
    Ok(Expr::Registry(RegistryTest { data: Some(data), ordering, ..value(element)? }))
}

/// A missing value counts as 0.0.0.0.
pub(super) fn registry_version(element: &Element) -> Lowered {
    let against = version(element, "Data")?;
    let data = scalar(element, against)?;
    let zero = against.split('.').all(|part| part.bytes().all(|digit| digit == b'0'));
    let holds_of_zero = match &data {
        Compare::Lt(_) | Compare::Ne(_) => !zero,
        Compare::Le(_) => true,
        Compare::Eq(_) | Compare::Ge(_) => zero,
        _ => false,
    };
    let there = value(element)?;
    let test = RegistryTest { data: Some(data), ordering: Some(DataOrdering::Windows), ..there.clone() };
    let test = Expr::Registry(test);
    if holds_of_zero {
        return Ok(Expr::Any(vec![Expr::Not(Box::new(Expr::Registry(there))), test]));
    }
    Ok(test)
}

pub(super) fn registry_loop(element: &Element, test: Expr) -> Lowered {
    let of = match element.attribute("TrueIf").unwrap_or("Any") {
        "Any" => Quantity::Any,
        "All" => Quantity::All,
        "None" => Quantity::None,
        other => return Err(format!("`RegKeyLoop` is true if `{other}`, which is not known")),
    };
    if element.children.is_empty() {
        return Err("`RegKeyLoop` asks nothing".to_owned());
    }
    Ok(Expr::RegistryLoop(LoopTest { key: key(element)?, of, test: Box::new(test) }))
}
