//! Predicates about products of Windows Installer and packages of Windows itself.

use tierway_common::{
    rules::expr::{Compare, Expr, Manager, MsiPart, MsiTest, OsTest, PackageTest},
    version::windows::WindowsVersion,
};

use super::{Lowered, attribute};
use crate::sources::windows::xml::Element;

/// What the predicates without attributes are about.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    cbs: Option<Cbs>,
    patch: Option<Patch>,
    product: Option<String>,
}

/// A package of Windows, from its manifest.
#[derive(Clone, Debug)]
struct Cbs {
    identity: Identity,
    /// Packages that this one is for, any of which must be there.
    parents: Vec<Identity>,
    /// Whether its applicability depends on what only the servicing stack can look at.
    deep: bool,
}

#[derive(Clone, Debug)]
struct Identity {
    name: String,
    token: String,
    architecture: String,
    language: String,
    version: String,
}

/// A patch of Windows Installer, from its own description.
#[derive(Clone, Debug)]
struct Patch {
    code: String,
    targets: Vec<Target>,
}

#[derive(Clone, Debug)]
struct Target {
    product: String,
    /// Where the patch fits certain versions only.
    version: Option<(String, String)>,
}

/// A code in braces and upper case.
fn code(text: &str) -> String {
    format!("{{{}}}", text.trim().trim_matches(['{', '}']).to_ascii_uppercase())
}

fn package(manager: Manager, name: String, architecture: Option<String>, version: Option<Compare>) -> Expr {
    Expr::Package(PackageTest { manager, name, architecture, version })
}

impl Identity {
    fn of(element: &Element) -> Option<Self> {
        let get = |name: &str| element.attribute(name).map(str::to_owned);
        let version = get("version")?;
        version.parse::<WindowsVersion>().ok()?;
        Some(Self {
            name: get("name")?,
            token: get("publicKeyToken").unwrap_or_default(),
            architecture: get("processorArchitecture")?.to_ascii_lowercase(),
            language: get("language").unwrap_or_default(),
            version,
        })
    }

    /// That it, or a newer version of it, is installed.
    fn installed(&self) -> Expr {
        let version = Some(Compare::Ge(self.version.clone()));
        package(Manager::Cbs, cbs_name(&self.name, &self.language), Some(self.architecture.clone()), version)
    }

    fn text(&self) -> String {
        let language = if self.language == "neutral" { "" } else { &self.language };
        format!("{}~{}~{}~{language}~{}", self.name, self.token, self.architecture, self.version)
    }
}

/// As packages of Windows are named in tests.
fn cbs_name(name: &str, language: &str) -> String {
    match language {
        "" | "neutral" | "*" => name.to_owned(),
        language => format!("{name}~{}", language.to_ascii_lowercase()),
    }
}

impl Metadata {
    /// From the element `Metadata` of a document's rules.
    #[must_use]
    pub fn of(element: &Element) -> Self {
        let cbs = || {
            let assembly = element.find("CbsPackageApplicabilityMetadata")?.find("assembly")?;
            let package = assembly.child("package");
            let parents = package.into_iter().flat_map(|package| package.all("parent"));
            Some(Cbs {
                identity: Identity::of(assembly.child("assemblyIdentity")?)?,
                parents: parents
                    .flat_map(|parent| parent.all("assemblyIdentity"))
                    .filter_map(Identity::of)
                    .collect(),
                deep: package.and_then(|package| package.attribute("applicabilityEvaluation"))
                    == Some("deep"),
            })
        };
        let patch = || {
            let patch = element.find("MsiPatchMetadata")?.find("MsiPatch")?;
            let targets = patch.all("TargetProduct").filter_map(|target| {
                let version = target.child("TargetVersion").and_then(|version| {
                    let validated = version.is("Validate") && !version.text().is_empty();
                    let filter = version.attribute("ComparisonFilter").unwrap_or("MajorMinorUpdate");
                    let equal = version.attribute("ComparisonType").unwrap_or("Equal") == "Equal";
                    (validated && equal).then(|| (version.text().to_owned(), filter.to_owned()))
                });
                Some(Target { product: code(target.text_of("TargetProductCode")?), version })
            });
            Some(Patch { code: code(patch.attribute("PatchGUID")?), targets: targets.collect() })
        };
        let product = || {
            let application = element.find("MsiApplicationMetadata")?;
            application.find("ProductCode").map(|product| code(product.text()))
        };
        Self { cbs: cbs(), patch: patch(), product: product() }
    }

    /// Full identity of the package of Windows.
    #[must_use]
    pub fn cbs_identity(&self) -> Option<String> {
        self.cbs.as_ref().map(|cbs| cbs.identity.text())
    }

    /// A predicate that has no attributes of its own.
    pub(super) fn predicate(&self, name: &str) -> Lowered {
        let lacks = |what: &str| format!("`{name}` comes without {what}");
        if name.starts_with("Cbs") {
            let cbs = self.cbs.as_ref().ok_or_else(|| lacks("a package's manifest"))?;
            return Ok(match name {
                "CbsPackageInstalled" => cbs.identity.installed(),
                _ => cbs.installable(),
            });
        }
        if name.starts_with("MsiPatch") {
            let patch = self.patch.as_ref().ok_or_else(|| lacks("a patch's description"))?;
            return match name {
                "MsiPatchInstalled" => Ok(patch.installed()),
                "MsiPatchInstallable" => patch.installable(),
                _ => Err("which patch replaces which only Windows Installer can say".to_owned()),
            };
        }
        let product = self.product.clone().ok_or_else(|| lacks("a product's code"))?;
        let there = package(Manager::Msi, product, None, None);
        match name {
            "MsiApplicationInstalled" => Ok(there),
            "MsiApplicationInstallable" => Ok(Expr::Not(Box::new(there))),
            _ => Err("which product replaces which only Windows Installer can say".to_owned()),
        }
    }
}

impl Cbs {
    /// False on another architecture, without a parent, or where it is installed; beyond that the manifest
    /// often leaves it to the servicing stack.
    fn installable(&self) -> Expr {
        let architecture = match self.identity.architecture.as_str() {
            "msil" | "neutral" => None,
            "wow64" => Some("amd64"),
            other => Some(other),
        };
        let mut all: Vec<Expr> = architecture
            .map(|name| Expr::Os(OsTest { architecture: Some(name.to_owned()), ..OsTest::default() }))
            .into_iter()
            .collect();
        if !self.parents.is_empty() {
            all.push(Expr::Any(self.parents.iter().map(Identity::installed).collect()));
        }
        all.push(Expr::Not(Box::new(self.identity.installed())));
        if self.deep || self.parents.is_empty() {
            all.push(super::unknown("whether it is for this Windows only the servicing stack can say"));
        }
        Expr::All(all)
    }
}

impl Patch {
    fn installed(&self) -> Expr {
        let patch = |target: &Target| {
            let part = MsiPart::Patch(self.code.clone());
            Expr::Msi(MsiTest { product: target.product.clone(), part })
        };
        Expr::Any(self.targets.iter().map(patch).collect())
    }

    fn installable(&self) -> Lowered {
        let targets = self.targets.iter().map(|target| {
            let at = |version| package(Manager::Msi, target.product.clone(), None, version);
            let Some((version, filter)) = &target.version else { return Ok(at(None)) };
            let parsed = version.parse::<WindowsVersion>();
            let numbers = parsed.map_err(|_| format!("`{version}` is not a product's version"))?.numbers();
            let given = match filter.as_str() {
                "Major" => 1,
                "MajorMinor" => 2,
                _ => 3,
            };
            let text = |numbers: &[u32]| numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(".");
            let mut next = numbers;
            next[given - 1] = next[given - 1].saturating_add(1);
            Ok(Expr::All(vec![
                at(Some(Compare::Ge(text(&numbers[..given])))),
                at(Some(Compare::Lt(text(&next[..given])))),
            ]))
        });
        Ok(Expr::Any(targets.collect::<Result<_, String>>()?))
    }
}

/// The tests of a product's version that a predicate's limits ask for; the product itself when it has none.
fn product(element: &Element) -> Result<Expr, String> {
    let name = code(attribute(element, "ProductCode")?);
    let language = element.attribute("Language").filter(|language| !language.is_empty());
    let test = |version| package(Manager::Msi, name.clone(), language.map(str::to_owned), version);
    let mut all = Vec::new();
    if element.attribute("VersionMin").is_some() {
        let least = super::version(element, "VersionMin")?.to_owned();
        all.push(test(Some(if element.is("ExcludeVersionMin") {
            Compare::Gt(least)
        } else {
            Compare::Ge(least)
        })));
    }
    if element.attribute("VersionMax").is_some() {
        let most = super::version(element, "VersionMax")?.to_owned();
        all.push(test(Some(if element.is("ExcludeVersionMax") {
            Compare::Lt(most)
        } else {
            Compare::Le(most)
        })));
    }
    Ok(match all.len() {
        0 => test(None),
        1 => all.remove(0),
        _ => Expr::All(all),
    })
}

pub(super) fn msi_product(element: &Element) -> Lowered {
    product(element)
}

/// Features or components, of one or all of some products.
pub(super) fn msi_parts(element: &Element, what: &str) -> Lowered {
    let texts = |name: &str| -> Vec<String> {
        let named = |child: &Element| {
            let by_attribute = [format!("{name}Code"), "Name".to_owned(), "ID".to_owned()];
            let found = by_attribute.iter().find_map(|attribute| child.attribute(attribute));
            found.unwrap_or_else(|| child.text()).to_owned()
        };
        element.children.iter().filter(|child| child.name == name).map(named).collect()
    };
    let (parts, products) = (texts(what), texts("Product"));
    if parts.is_empty() || products.is_empty() {
        return Err(format!(
            "`{}` names no {}",
            element.name,
            if parts.is_empty() { what } else { "Product" }
        ));
    }
    let group = |all: bool, parts: Vec<Expr>| if all { Expr::All(parts) } else { Expr::Any(parts) };
    let every_part = element.is(&format!("All{what}sRequired"));
    let of_product = |product: &String| {
        let tests = parts.iter().map(|part| {
            let part = match what {
                "Feature" => MsiPart::Feature(part.clone()),
                _ => MsiPart::Component(code(part)),
            };
            Expr::Msi(MsiTest { product: code(product), part })
        });
        group(every_part, tests.collect())
    };
    Ok(group(element.is("AllProductsRequired"), products.iter().map(of_product).collect()))
}

pub(super) fn msi_patch(element: &Element) -> Lowered {
    let part = MsiPart::Patch(code(attribute(element, "PatchCode")?));
    let patch = Expr::Msi(MsiTest { product: code(attribute(element, "ProductCode")?), part });
    let limited = ["VersionMin", "VersionMax"].iter().any(|name| element.attribute(name).is_some());
    Ok(if limited { Expr::All(vec![product(element)?, patch]) } else { patch })
}

/// A package in exactly that version; of a shortened identity what it names.
pub(super) fn cbs_by_identity(element: &Element) -> Lowered {
    let text = attribute(element, "PackageIdentity")?;
    let parts: Vec<&str> = text.split('~').collect();
    let is_version = |text: &&str| text.parse::<WindowsVersion>().is_ok();
    let (name, architecture, language, version) = match parts.as_slice() {
        [name] => (*name, None, "", None),
        [name, version] if is_version(version) => (*name, None, "", Some(*version)),
        [name, _, architecture, language, version] if is_version(version) => {
            (*name, Some(architecture.to_ascii_lowercase()), *language, Some(*version))
        }
        _ => return Err(format!("`{text}` is not a package's identity")),
    };
    let version = version.map(|version| Compare::Eq(version.to_owned()));
    Ok(package(Manager::Cbs, cbs_name(name, language), architecture.filter(|text| !text.is_empty()), version))
}
