//! From a vendor's applicability rule to ours.
//!
//! `And`, `Or` and `Not` are the tree; every other element is a predicate, which becomes a test or several.
//! One that nobody here can answer, or that lacks what it needs, becomes *unknown* with the reason: a rule
//! that is not understood must neither offer nor hide an update.

use std::collections::BTreeMap;

use tierway_common::rules::expr::{
    AttributeTest, Compare, DataOrdering, Expr, FlagTest, NumberTest, UnknownTest, WmiTest,
};

use super::xml::Element;

mod files;
mod packages;
mod system;

pub use self::packages::Metadata;

/// Longest query that is asked, in bytes: the longest of Dell's and HP's have 6,000.
pub const QUERY_BYTES_MAX: usize = tierway_common::rules::limits::QUERY_BYTES_MAX;

/// How often each predicate was met, and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Predicate → how often it became tests.
    pub lowered: BTreeMap<String, u64>,
    /// Predicate → how often it became unknown.
    pub unknown: BTreeMap<String, u64>,
    /// Why, each reason with how often it was given.
    pub reasons: BTreeMap<String, u64>,
}

/// A predicate that cannot become tests, and why not, as a sentence without a period.
type Lowered = Result<Expr, String>;

/// The rule in `rule`, an element such as `IsInstalled`; its parts must all hold when there are several.
#[must_use]
pub fn lower(rule: &Element, metadata: &Metadata, tally: &mut Tally) -> Expr {
    conjunction(&rule.children, metadata, tally)
}

fn conjunction(elements: &[Element], metadata: &Metadata, tally: &mut Tally) -> Expr {
    let mut parts = all(elements, metadata, tally);
    if parts.len() == 1 { parts.remove(0) } else { Expr::All(parts) }
}

fn all(elements: &[Element], metadata: &Metadata, tally: &mut Tally) -> Vec<Expr> {
    elements.iter().map(|element| one(element, metadata, tally)).collect()
}

fn one(element: &Element, metadata: &Metadata, tally: &mut Tally) -> Expr {
    let name = element.name.as_str();
    let lowered = match name {
        "And" => Ok(Expr::All(all(&element.children, metadata, tally))),
        "Or" => Ok(Expr::Any(all(&element.children, metadata, tally))),
        "Not" => match element.children.as_slice() {
            [part] => Ok(Expr::Not(Box::new(one(part, metadata, tally)))),
            parts => Err(format!("`Not` has {} parts", parts.len())),
        },
        "True" => Ok(Expr::Const(true)),
        "False" => Ok(Expr::Const(false)),
        "RegKeyLoop" => {
            let test = conjunction(&element.children, metadata, tally);
            files::registry_loop(element, test)
        }
        _ => predicate(element, metadata),
    };
    match lowered {
        Ok(expr) => {
            *tally.lowered.entry(name.to_owned()).or_default() += 1;
            expr
        }
        Err(reason) => {
            *tally.unknown.entry(name.to_owned()).or_default() += 1;
            *tally.reasons.entry(reason.clone()).or_default() += 1;
            Expr::Unknown(UnknownTest { reason })
        }
    }
}

fn predicate(element: &Element, metadata: &Metadata) -> Lowered {
    match element.name.as_str() {
        "FileExists" | "FileVersion" | "FileCreated" | "FileModified" | "FileSize" => {
            files::file(element, &element.name, &files::place_of_csidl(element)?)
        }
        name if name.ends_with("PrependRegSz") => files::file_below_registry(element),
        "RegKeyExists" => files::registry_key(element),
        "RegValueExists" => files::registry_value(element),
        "RegDword" => files::registry_number(element),
        "RegSz" | "RegExpandSz" => files::registry_text(element),
        "RegSzToVersion" => files::registry_version(element),
        "WindowsVersion" => system::windows_version(element),
        "Platform" | "PlatformVersion" => system::platform(element),
        "Processor" => system::processor(element),
        "WindowsLanguage" | "MuiInstalled" | "MuiLanguageInstalled" => system::language(element),
        "SystemMetric" => number(element, format!("system-metric:{}", attribute(element, "Index")?), "Value"),
        "LicenseDword" => number(element, format!("license:{}", attribute(element, "Value")?), "Data"),
        "ClusteredOS" => Ok(Expr::Flag(FlagTest { name: "clustered".to_owned() })),
        "WmiQuery" => query(element),
        "DeviceAttribute" => system::device_attribute(element),
        "ProductReleaseInstalled" | "ProductReleaseVersion" => system::product_release(element),
        "MsiProductInstalled" => packages::msi_product(element),
        "MsiFeatureInstalledForProduct" => packages::msi_parts(element, "Feature"),
        "MsiComponentInstalledForProduct" => packages::msi_parts(element, "Component"),
        "MsiPatchInstalledForProduct" => packages::msi_patch(element),
        "MsiPatchInstalled"
        | "MsiPatchSuperseded"
        | "MsiPatchInstallable"
        | "MsiApplicationInstalled"
        | "MsiApplicationSuperseded"
        | "MsiApplicationInstallable"
        | "CbsPackageInstalled"
        | "CbsPackageInstallable" => metadata.predicate(&element.name),
        "CbsPackageInstalledByIdentity" => packages::cbs_by_identity(element),
        "NumberOfProcessors" | "Memory" | "VideoMemory" | "Direct3D" | "SensorById" | "NFC" | "Camera" => {
            Err("hardware requirements are not evaluated".to_owned())
        }
        "WindowsDriver"
        | "WindowsDriverInstalled"
        | "WindowsDriverSuperseded"
        | "WindowsDriverInstallable" => Err("drivers are not evaluated".to_owned()),
        "ClusterResourceOwner" => Err("who owns a cluster's resource is not evaluated".to_owned()),
        "InstalledOnce" => Err("whether something was ever installed is not recorded".to_owned()),
        "GenericQuery" | "WUv4RegKeySubstring" | "RegKeyValue" => {
            Err(format!("the old predicate `{}` is not evaluated", element.name))
        }
        name => Err(format!("the predicate `{name}` is not known")),
    }
}

fn unknown(reason: &str) -> Expr {
    Expr::Unknown(UnknownTest { reason: reason.to_owned() })
}

/// An attribute that must be there.
fn attribute<'a>(element: &'a Element, name: &str) -> Result<&'a str, String> {
    element.attribute(name).ok_or_else(|| format!("`{}` has no `{name}`", element.name))
}

/// The comparison of a predicate that must name one, with a value on the right.
fn scalar(element: &Element, value: &str) -> Result<Compare, String> {
    comparison(element, attribute(element, "Comparison")?, value)
}

fn comparison(element: &Element, how: &str, value: &str) -> Result<Compare, String> {
    let value = value.to_owned();
    Ok(match how {
        "LessThan" => Compare::Lt(value),
        "LessThanOrEqualTo" => Compare::Le(value),
        "EqualTo" => Compare::Eq(value),
        "GreaterThanOrEqualTo" => Compare::Ge(value),
        "GreaterThan" => Compare::Gt(value),
        "NotEqualTo" => Compare::Ne(value),
        "BeginsWith" => Compare::Begins(value),
        "Contains" => Compare::Contains(value),
        "EndsWith" => Compare::Ends(value),
        other => return Err(format!("`{}` compares in an unknown way, `{other}`", element.name)),
    })
}

/// A whole number in an attribute.
fn whole(element: &Element, name: &str) -> Result<Option<i64>, String> {
    let Some(text) = element.attribute(name) else { return Ok(None) };
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => i64::from_str_radix(hex, 16),
        None => text.trim().parse(),
    };
    parsed.map(Some).map_err(|_| format!("`{}` has `{name}` that is not a whole number", element.name))
}

/// A version in an attribute.
fn version<'a>(element: &'a Element, name: &str) -> Result<&'a str, String> {
    let text = attribute(element, name)?.trim();
    match text.parse::<tierway_common::version::windows::WindowsVersion>() {
        Ok(_) => Ok(text),
        Err(_) => Err(format!("`{}` has `{name}` that is not a version", element.name)),
    }
}

/// A test of a named number.
fn number(element: &Element, name: String, value: &str) -> Lowered {
    let value = whole(element, value)?.ok_or_else(|| format!("`{}` has no `{value}`", element.name))?;
    Ok(Expr::Number(NumberTest { name, value: scalar(element, &value.to_string())? }))
}

fn query(element: &Element) -> Lowered {
    let namespace = element.attribute("Namespace").unwrap_or("root\\cimv2").to_ascii_lowercase();
    let query = attribute(element, "WqlQuery")?.trim();
    if query.len() > QUERY_BYTES_MAX {
        return Err(format!("a query has more than {QUERY_BYTES_MAX} bytes"));
    }
    Ok(Expr::Wmi(WmiTest { namespace, query: query.to_owned() }))
}

/// A test of a named property.
fn property(name: String, value: Compare, ordering: DataOrdering) -> Expr {
    Expr::Attribute(AttributeTest { name, value, ordering: Some(ordering) })
}

#[cfg(test)]
mod tests;
