//! Predicates about the system itself.

use tierway_common::rules::expr::{Compare, DataOrdering, Expr, FlagTest, NumberTest, OsTest, WindowsTest};

use super::{Lowered, attribute, comparison, property, version, whole};
use crate::sources::windows::xml::Element;

/// `WindowsVersion`: the parts that are given compare from the major number down, the first that differs
/// decides; the product type and the suites must be equal.
pub(super) fn windows_version(element: &Element) -> Lowered {
    let mut all = Vec::new();
    let parts = Parts::of(element)?;
    if !parts.0.is_empty() {
        let how = element.attribute("Comparison").unwrap_or("EqualTo");
        all.push(parts.compare(&comparison(element, how, "")?)?);
    }
    if let Some(number) = whole(element, "ProductType")? {
        let product_type = match number {
            1 => "workstation",
            2 => "domain-controller",
            3 => "server",
            other => return Err(format!("the product type {other} is not known")),
        };
        let product_type = Some(product_type.to_owned());
        all.push(Expr::Windows(Box::new(WindowsTest { product_type, ..WindowsTest::default() })));
    }
    if let Some(mask) = whole(element, "SuiteMask")? {
        let mask = u32::try_from(mask).map_err(|_| "the suite mask is not one".to_owned())?;
        let suites = (0..32)
            .map(|bit| 1 << bit)
            .filter(|bit| mask & bit != 0)
            .map(|bit| Expr::Windows(Box::new(WindowsTest { suite: Some(bit), ..WindowsTest::default() })));
        let suites: Vec<Expr> = suites.collect();
        all.push(if element.is("AllSuitesMustBePresent") { Expr::All(suites) } else { Expr::Any(suites) });
    }
    Ok(if all.len() == 1 { all.remove(0) } else { Expr::All(all) })
}

/// What a number is compared with.
#[derive(Clone, Copy)]
enum Scale {
    /// `os:version` as far as it is given.
    Version,
    /// `os:build`.
    Build,
    /// `os:service-pack`.
    ServicePack,
}

/// Parts of a version, the more important first, each as the numbers that are given of it.
struct Parts(Vec<(Scale, Vec<u32>)>);

impl Parts {
    fn of(element: &Element) -> Result<Self, String> {
        let get = |name: &str| -> Result<Option<u32>, String> {
            let found = whole(element, name)?;
            found
                .map(|number| u32::try_from(number).map_err(|_| format!("`{name}` is below zero")))
                .transpose()
        };
        let (major, minor, build) = (get("MajorVersion")?, get("MinorVersion")?, get("BuildNumber")?);
        let mut parts = Vec::new();
        match (major, minor, build) {
            (Some(major), Some(minor), Some(build)) => {
                parts.push((Scale::Version, vec![major, minor, build]));
            }
            (Some(major), Some(minor), None) => parts.push((Scale::Version, vec![major, minor])),
            (Some(major), None, build) => {
                parts.push((Scale::Version, vec![major]));
                parts.extend(build.map(|build| (Scale::Build, vec![build])));
            }
            (None, Some(_), _) => return Err("a minor version without a major one".to_owned()),
            (None, None, build) => parts.extend(build.map(|build| (Scale::Build, vec![build]))),
        }
        match (get("ServicePackMajor")?, get("ServicePackMinor")?) {
            (Some(major), Some(minor)) => parts.push((Scale::ServicePack, vec![major, minor])),
            (Some(major), None) => parts.push((Scale::ServicePack, vec![major])),
            (None, Some(_)) => return Err("a minor service pack without a major one".to_owned()),
            (None, None) => {}
        }
        Ok(Self(parts))
    }

    /// The comparison of all parts, from the most important one down.
    fn compare(&self, how: &Compare) -> Lowered {
        let equal = || Expr::All(self.0.iter().map(|(scale, numbers)| prefix(*scale, numbers)).collect());
        // Beyond: the first part that differs does so in the wanted direction.
        let beyond = |far: fn(Scale, &[u32]) -> Expr| {
            let ways = (0..self.0.len()).map(|place| {
                let mut all: Vec<Expr> =
                    self.0[..place].iter().map(|(scale, numbers)| prefix(*scale, numbers)).collect();
                all.push(far(self.0[place].0, &self.0[place].1));
                simple(Expr::All(all))
            });
            Expr::Any(ways.collect())
        };
        let not = |expr| Expr::Not(Box::new(expr));
        Ok(match how {
            Compare::Eq(_) => simple(equal()),
            Compare::Ne(_) => not(simple(equal())),
            Compare::Gt(_) => simple(beyond(above)),
            Compare::Lt(_) => simple(beyond(below)),
            Compare::Ge(_) if self.0.len() == 1 => at_least(self.0[0].0, &self.0[0].1),
            Compare::Ge(_) => Expr::Any(vec![simple(beyond(above)), equal()]),
            Compare::Le(_) => Expr::Any(vec![simple(beyond(below)), simple(equal())]),
            Compare::Begins(_) | Compare::Contains(_) | Compare::Ends(_) => {
                return Err("a version is compared as a text".to_owned());
            }
        })
    }
}

/// A node of one part as that part.
fn simple(expr: Expr) -> Expr {
    match expr {
        Expr::All(mut parts) | Expr::Any(mut parts) if parts.len() == 1 => parts.remove(0),
        other => other,
    }
}

fn test(scale: Scale, with: Compare) -> Expr {
    match scale {
        Scale::Version => Expr::Os(OsTest { version: Some(with), ..OsTest::default() }),
        Scale::Build => Expr::Os(OsTest { build: Some(with), ..OsTest::default() }),
        Scale::ServicePack => {
            Expr::Windows(Box::new(WindowsTest { service_pack: Some(with), ..WindowsTest::default() }))
        }
    }
}

fn text(numbers: &[u32]) -> String {
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(".")
}

/// The first version that does not begin with these numbers any more.
fn next(numbers: &[u32]) -> String {
    let mut numbers = numbers.to_vec();
    if let Some(last) = numbers.last_mut() {
        *last = last.saturating_add(1);
    }
    text(&numbers)
}

fn at_least(scale: Scale, numbers: &[u32]) -> Expr {
    test(scale, Compare::Ge(text(numbers)))
}

fn above(scale: Scale, numbers: &[u32]) -> Expr {
    test(scale, Compare::Ge(next(numbers)))
}

fn below(scale: Scale, numbers: &[u32]) -> Expr {
    test(scale, Compare::Lt(text(numbers)))
}

/// That the version begins with these numbers.
fn prefix(scale: Scale, numbers: &[u32]) -> Expr {
    Expr::All(vec![at_least(scale, numbers), below_next(scale, numbers)])
}

fn below_next(scale: Scale, numbers: &[u32]) -> Expr {
    test(scale, Compare::Lt(next(numbers)))
}

/// `Platform`, `PlatformVersion`: 2 is every Windows that is not from before the year 2000.
pub(super) fn platform(element: &Element) -> Lowered {
    match whole(element, "PlatformID")? {
        Some(2) | None => {}
        Some(_) => return Ok(Expr::Const(false)),
    }
    if element.name == "Platform" { Ok(Expr::Const(true)) } else { windows_version(element) }
}

pub(super) fn processor(element: &Element) -> Lowered {
    let mut all = Vec::new();
    if let Some(number) = whole(element, "Architecture")? {
        let architecture = match number {
            0 => "x86".to_owned(),
            5 => "arm".to_owned(),
            6 => "ia64".to_owned(),
            9 => "amd64".to_owned(),
            12 => "arm64".to_owned(),
            other => format!("processor-{other}"),
        };
        all.push(Expr::Os(OsTest { architecture: Some(architecture), ..OsTest::default() }));
    }
    for (name, fact) in [("Level", "processor-level"), ("Revision", "processor-revision")] {
        if let Some(number) = whole(element, name)? {
            let value = Compare::Eq(number.to_string());
            all.push(Expr::Number(NumberTest { name: fact.to_owned(), value }));
        }
    }
    Ok(if all.len() == 1 { all.remove(0) } else { Expr::All(all) })
}

pub(super) fn language(element: &Element) -> Lowered {
    let of = |language: Option<String>, mui: Option<String>| {
        Expr::Windows(Box::new(WindowsTest { language, mui, ..WindowsTest::default() }))
    };
    let named = || attribute(element, "Language").map(str::to_ascii_lowercase);
    Ok(match element.name.as_str() {
        "WindowsLanguage" => of(Some(named()?), None),
        "MuiLanguageInstalled" => of(None, Some(named()?)),
        _ => Expr::Flag(FlagTest { name: "mui-installed".to_owned() }),
    })
}

pub(super) fn device_attribute(element: &Element) -> Lowered {
    let name = attribute(element, "Name")?.to_owned();
    let how = attribute(element, "Comparison")?;
    match element.attribute("Type").unwrap_or("String") {
        "Version" => {
            let value = comparison(element, how, version(element, "Value")?)?;
            Ok(property(name, value, DataOrdering::Windows))
        }
        "String" => {
            let value = comparison(element, how, attribute(element, "Value")?)?;
            match value {
                Compare::Lt(_) | Compare::Le(_) | Compare::Ge(_) | Compare::Gt(_) => {
                    Err(format!("`DeviceAttribute` orders texts, `{how}`"))
                }
                value => Ok(property(name, value, DataOrdering::Caseless)),
            }
        }
        other => Err(format!("`DeviceAttribute` has the unknown type `{other}`")),
    }
}

/// `ProductReleaseInstalled` asks for the version or a newer one, `ProductReleaseVersion` for what it says.
pub(super) fn product_release(element: &Element) -> Lowered {
    let name = format!("release:{}", attribute(element, "Name")?);
    let otherwise =
        if element.name == "ProductReleaseInstalled" { "GreaterThanOrEqualTo" } else { "EqualTo" };
    let how = element.attribute("Comparison").unwrap_or(otherwise);
    let value = comparison(element, how, version(element, "Version")?)?;
    Ok(property(name, value, DataOrdering::Windows))
}
