//! Vendors' catalogues: packages in the form of local publishing (SDP), each by itself or many in one document.

use std::io::Read;

use tierway_common::{
    rules::expr::Expr,
    schema::{Handler, Impact, RebootBehavior, WindowsFile, WindowsInstall},
};

use super::{
    model::{Group, Identity, Revision, Rules, class, moment, severity},
    rules::{self, Metadata, Tally},
    update::{ReadError, article, behave, code, command_line, exit_codes, file},
    xml::{self, Element},
};

/// The element that is a package.
pub const PACKAGE: &str = "SoftwareDistributionPackage";

/// Longest catalogue, in bytes: HP's and Dell's have some 150 MB.
pub const CATALOGUE_BYTES_MAX: u64 = 1 << 30;

/// Most parts of one package.
const ITEMS_MAX: usize = 1000;

/// A package and, when it has several parts, those.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// The package.
    pub update: Revision,
    /// Its parts, which it bundles; empty when it has one, which is then the package itself.
    pub parts: Vec<Revision>,
}

/// Gives the packages of a catalogue, or the one of a document that is a package, one after the other.
///
/// # Errors
///
/// [`ReadError`] when the text cannot be read further. A package that is not as it should be is given as the
/// error that names it.
pub fn each(
    input: impl Read,
    tally: &mut Tally,
    take: &mut dyn FnMut(Result<Package, PackageError>),
) -> Result<(), ReadError> {
    xml::each(input, CATALOGUE_BYTES_MAX, &|name| name == PACKAGE, &mut |element| {
        take(package(&element, tally).map_err(|source| {
            PackageError {
                package: element
                    .child("Properties")
                    .and_then(|found| found.attribute("PackageID"))
                    .unwrap_or("without a name")
                    .to_owned(),
                source,
            }
        }));
        Ok(())
    })
}

/// A package that could not be understood.
#[derive(Debug, thiserror::Error)]
#[error("could not read the package `{package}`")]
pub struct PackageError {
    package: String,
    source: ReadError,
}

fn package(element: &Element, tally: &mut Tally) -> Result<Package, ReadError> {
    let properties = element.child("Properties").ok_or(ReadError::Missing { what: "Properties" })?;
    let id = properties.attribute("PackageID").ok_or(ReadError::Missing { what: "PackageID" })?;
    let mut update = Revision::new(Identity { id: id.parse()?, revision: 0 });
    update.created = properties.attribute("CreationDate").and_then(moment);
    update.version = update.created.map(|created| created.strftime("%Y-%m-%d").to_string());
    update.expired = properties.attribute("PublicationState") == Some("Expired");
    let vendor = properties.attribute("VendorName");
    let product = properties.text_of("ProductName");
    update.product = Some([vendor, product].into_iter().flatten().collect::<Vec<_>>().join(" "));
    let titles: Vec<_> = element
        .all("LocalizedProperties")
        .filter_map(|found| Some((found.text_of("Language")?, found.text_of("Title")?)))
        .collect();
    let english = titles.iter().find(|(language, _)| language.to_ascii_lowercase().starts_with("en"));
    if let Some((_, title)) = english.or(titles.first()) {
        update.title = (*title).to_owned();
    }
    if let Some(data) = element.child("UpdateSpecificData") {
        update.class = data.attribute("UpdateClassification").and_then(class);
        update.severity = data.attribute("MsrcSeverity").map_or(update.severity, severity);
        for child in &data.children {
            match child.name.as_str() {
                "KBArticleID" => update.refer(&article(child.text())),
                "SecurityBulletinID" | "CveID" | "CVEID" => update.refer(child.text()),
                _ => {}
            }
        }
    }
    for older in element.child("SupersededPackages").into_iter().flat_map(|found| found.all("PackageID")) {
        update.supersedes.push(older.text().parse()?);
    }
    for group in element.child("Prerequisites").into_iter().flat_map(|found| &found.children) {
        let ids = if group.name == "AtLeastOne" { group.children.iter().collect() } else { vec![group] };
        let any = ids.into_iter().map(|id| id.text().parse()).collect::<Result<_, _>>()?;
        update.prerequisites.push(Group { any });
    }
    let none = Metadata::default();
    let whole = Rules {
        installed: element.child("IsInstalled").map(|rule| rules::lower(rule, &none, tally)),
        superseded: element.child("IsSuperseded").map(|rule| rules::lower(rule, &none, tally)),
        installable: element.child("IsInstallable").map(|rule| rules::lower(rule, &none, tally)),
    };
    let items: Vec<&Element> = element.all("InstallableItem").collect();
    if items.len() > ITEMS_MAX {
        return Err(ReadError::TooMany { what: "parts", most: ITEMS_MAX });
    }
    let mut parts = Vec::new();
    for found in &items {
        let mut part = item(found, &whole, tally)?;
        part.title.clone_from(&update.title);
        parts.push(part);
    }
    if let Some(only) = parts.pop_if(|_| items.len() == 1) {
        update.rules = only.rules;
        update.install = only.install;
    } else if parts.is_empty() {
        update.rules = whole;
    } else {
        update.bundled = vec![parts.iter().map(|part| part.identity.clone()).collect()];
    }
    Ok(Package { update, parts })
}

/// A part of a package: its own rules and those of the package must both hold. A package that does not say
/// when it can be installed leaves that to its parts.
fn item(element: &Element, whole: &Rules, tally: &mut Tally) -> Result<Revision, ReadError> {
    let id = element.attribute("ID").ok_or(ReadError::Missing { what: "ID" })?.parse()?;
    let mut part = Revision::new(Identity { id, revision: 0 });
    let rules = element.child("ApplicabilityRules");
    let metadata = rules.and_then(|rules| rules.child("Metadata")).map(Metadata::of).unwrap_or_default();
    let mut own = |name| rules?.child(name).map(|rule| rules::lower(rule, &metadata, tally));
    let (installed, superseded, installable) =
        (own("IsInstalled"), own("IsSuperseded"), own("IsInstallable"));
    let both = |whole: &Option<Expr>, own: Option<Expr>| match (whole, own) {
        (Some(whole), Some(own)) => Some(Expr::All(vec![whole.clone(), own])),
        (None, own) => own,
        (Some(_), None) => None,
    };
    part.rules = Rules {
        installed: both(&whole.installed, installed),
        superseded: match (whole.superseded.clone(), superseded) {
            (Some(whole), Some(own)) => Some(Expr::Any(vec![whole, own])),
            (whole, own) => whole.or(own),
        },
        installable: both(&whole.installable, installable),
    };
    let files: Vec<WindowsFile> = element.all("OriginFile").map(file).collect::<Result<_, _>>()?;
    part.install = Some(install(element, files));
    Ok(part)
}

fn install(element: &Element, files: Vec<WindowsFile>) -> WindowsInstall {
    let data = element.children.iter().find(|child| child.name.ends_with("InstallerData"));
    let described =
        |name: &str, reason: &str| Handler::Described { name: name.to_owned(), reason: reason.to_owned() };
    let handler = match data {
        None => described("none", "it says nothing about how it is installed"),
        Some(data) => {
            let get = |name: &str| data.attribute(name).filter(|text| !text.is_empty()).map(str::to_owned);
            let text = |name: &str| get(name).unwrap_or_default();
            let first = || files.first().map(|file| file.name.clone()).unwrap_or_default();
            match data.name.as_str() {
                "CommandLineInstallerData" => command_line(data, &files),
                "MsiInstallerData" | "WindowsInstallerData" => Handler::Msi {
                    product_code: get("ProductCode").map(|text| code(&text)),
                    file: get("MsiFile").unwrap_or_else(first),
                    command_line: text("CommandLine"),
                    exit_codes: exit_codes(data),
                },
                "MspInstallerData" => Handler::Msp {
                    patch_code: get("PatchCode").map(|text| code(&text)),
                    file: get("MspFile"),
                    command_line: text("CommandLine"),
                    uninstall_command_line: text("UninstallCommandLine"),
                },
                name => described(name, "this kind of installer is not known"),
            }
        }
    };
    let install = WindowsInstall {
        handler,
        files,
        reboot: RebootBehavior::default(),
        impact: Impact::default(),
        asks_user: false,
        needs_network: false,
    };
    behave(install, element.child("InstallProperties"))
}
