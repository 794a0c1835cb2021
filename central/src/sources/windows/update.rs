//! Updates as Microsoft describes them: the server's document, and the pieces that clients are given.
//!
//! Both say the same with the same elements; a document has them below `Update`, a piece has some of them side
//! by side. So one reader takes elements from wherever they come.

use base64::{Engine, engine::general_purpose::STANDARD};
use tierway_common::{
    schema::{
        CommandLine, ExitCode, ExitResult, Handler, Impact, RebootBehavior, WindowsFile, WindowsInstall,
    },
    trust::digest::Digest,
};

use super::{
    model::{Group, Guid, GuidError, Identity, Kind, Revision, moment, severity},
    rules::{self, Metadata, Tally},
    xml::{self, Element, XmlError},
};

/// Metadata that are not what they should be.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The text is not XML.
    #[error("it is not readable XML")]
    Xml(#[from] XmlError),
    /// Something that must be there is not.
    #[error("it has no `{what}`")]
    Missing {
        /// What.
        what: &'static str,
    },
    /// A name is none.
    #[error("it names an update wrongly")]
    Guid(#[from] GuidError),
    /// A number is none.
    #[error("`{what}` is `{found}`, which is not a number")]
    Number {
        /// Whose.
        what: &'static str,
        /// What there is.
        found: String,
    },
    /// A digest is none.
    #[error("the file `{file}` has a digest that is none")]
    Digest {
        /// Which file.
        file: String,
    },
    /// More files, parts or relations than may be.
    #[error("it names more than {most} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        most: usize,
    },
}

/// Most other updates that one names: Windows's cumulative ones replace some three hundred.
pub const RELATIONS_MAX: usize = 20_000;

/// Most files of one update: a feature update of Windows has some hundreds.
pub const FILES_MAX: usize = 10_000;

/// Reads an update from one document or from the pieces of it, in any order.
///
/// # Errors
///
/// [`ReadError`].
pub fn read<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    tally: &mut Tally,
) -> Result<Revision, ReadError> {
    let mut elements = Vec::new();
    for piece in pieces {
        elements.extend(xml::fragments(piece)?);
    }
    of_elements(&elements, None, tally)
}

/// Reads an update from elements, `identity` standing in where none of them has one.
///
/// # Errors
///
/// [`ReadError`].
pub fn of_elements(
    elements: &[Element],
    identity: Option<Identity>,
    tally: &mut Tally,
) -> Result<Revision, ReadError> {
    let flat: Vec<&Element> = elements
        .iter()
        .flat_map(|element| match element.name.as_str() {
            "Update" | "LocalizedPropertiesCollection" => element.children.iter().collect(),
            _ => vec![element],
        })
        .flat_map(|element| match element.name.as_str() {
            "LocalizedPropertiesCollection" => element.children.iter().collect(),
            _ => vec![element],
        })
        .collect();
    let named = flat.iter().find(|element| element.name == "UpdateIdentity");
    let identity = match named {
        Some(element) => identity_of(element)?,
        None => identity.ok_or(ReadError::Missing { what: "UpdateIdentity" })?,
    };
    let mut revision = Revision::new(identity);
    let mut handler = None;
    let mut files = Vec::new();
    let mut behavior = None;
    let mut data = None;
    let mut metadata = Metadata::default();
    let mut titles: Vec<(&str, &str)> = Vec::new();
    let mut language = "en";
    for element in flat {
        match element.name.as_str() {
            "Properties" | "ExtendedProperties" => {
                properties(element, &mut revision);
                handler = element.attribute("Handler").or(handler);
                behavior = element.child("InstallationBehavior").or(behavior);
                language = element.attribute("DefaultPropertiesLanguage").unwrap_or(language);
            }
            "LocalizedProperties" => {
                titles.extend(
                    element
                        .text_of("Title")
                        .map(|title| (element.text_of("Language").unwrap_or_default(), title)),
                );
            }
            "Relationships" => relationships(element, &mut revision)?,
            "ApplicabilityRules" => {
                if let Some(found) = element.child("Metadata") {
                    metadata = Metadata::of(found);
                }
                let mut rule = |name| element.child(name).map(|rule| rules::lower(rule, &metadata, tally));
                revision.rules.installed = rule("IsInstalled");
                revision.rules.superseded = rule("IsSuperseded");
                revision.rules.installable = rule("IsInstallable");
            }
            "Files" => files = files_of(element)?,
            "HandlerSpecificData" => data = Some(element),
            _ => {}
        }
    }
    let title = ["en", "en-us", language]
        .iter()
        .find_map(|wanted| titles.iter().find(|(language, _)| language.eq_ignore_ascii_case(wanted)));
    if let Some((_, title)) = title.or(titles.first()) {
        revision.title = (*title).to_owned();
    }
    revision.install = install(handler, data, files, behavior, &metadata);
    Ok(revision)
}

pub(super) fn identity_of(element: &Element) -> Result<Identity, ReadError> {
    let id = element.attribute("UpdateID").ok_or(ReadError::Missing { what: "UpdateID" })?.parse()?;
    let revision = match element.attribute("RevisionNumber") {
        Some(text) => number("RevisionNumber", text)?,
        None => 0,
    };
    Ok(Identity { id, revision })
}

pub(super) fn number<N: std::str::FromStr>(what: &'static str, text: &str) -> Result<N, ReadError> {
    text.trim().parse().map_err(|_| ReadError::Number { what, found: text.chars().take(40).collect() })
}

fn properties(element: &Element, revision: &mut Revision) {
    match element.attribute("UpdateType") {
        Some("Category") => revision.kind = Kind::Category,
        Some("Detectoid") => revision.kind = Kind::Detectoid,
        Some("Driver") => revision.kind = Kind::Driver,
        _ => {}
    }
    let text = |name: &str| element.attribute(name).map(str::to_owned);
    revision.product = text("ProductName").or(revision.product.take());
    revision.version = text("ReleaseVersion").or(revision.version.take());
    revision.created = element.attribute("CreationDate").and_then(moment).or(revision.created);
    revision.expired |= element.attribute("PublicationState") == Some("Expired");
    if let Some(rated) = element.attribute("MsrcSeverity") {
        revision.severity = severity(rated);
    }
    for child in &element.children {
        let text = child.text();
        match child.name.as_str() {
            "KBArticleID" => revision.refer(&article(text)),
            "SecurityBulletinID" | "CveID" | "CVEID" => revision.refer(text),
            _ => {}
        }
    }
}

/// Microsoft's articles have numbers, other vendors' their own names.
pub(super) fn article(text: &str) -> String {
    let number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if number { format!("KB{text}") } else { text.to_owned() }
}

fn relationships(element: &Element, revision: &mut Revision) -> Result<(), ReadError> {
    let guid = |element: &Element| -> Result<Guid, ReadError> { Ok(identity_of(element)?.id) };
    for group in element.child("Prerequisites").into_iter().flat_map(|found| &found.children) {
        let any = if group.name == "AtLeastOne" {
            group.all("UpdateIdentity").map(guid).collect::<Result<_, _>>()?
        } else {
            vec![guid(group)?]
        };
        revision.prerequisites.push(Group { any });
    }
    for group in element.child("BundledUpdates").into_iter().flat_map(|found| &found.children) {
        let any = if group.name == "AtLeastOne" {
            group.all("UpdateIdentity").map(identity_of).collect::<Result<_, _>>()?
        } else {
            vec![identity_of(group)?]
        };
        revision.bundled.push(any);
    }
    for older in element.child("SupersededUpdates").into_iter().flat_map(|found| &found.children) {
        revision.supersedes.push(guid(older)?);
    }
    let named = revision.supersedes.len()
        + revision.prerequisites.iter().map(|group| group.any.len()).sum::<usize>()
        + revision.bundled.iter().map(Vec::len).sum::<usize>();
    if named > RELATIONS_MAX {
        return Err(ReadError::TooMany { what: "updates", most: RELATIONS_MAX });
    }
    Ok(())
}

fn files_of(element: &Element) -> Result<Vec<WindowsFile>, ReadError> {
    let files: Vec<_> = element.all("File").map(file).collect::<Result<_, _>>()?;
    if files.len() > FILES_MAX {
        return Err(ReadError::TooMany { what: "files", most: FILES_MAX });
    }
    Ok(files)
}

/// A file from an element that has its attributes: `File`, or a vendor's `OriginFile`.
pub(super) fn file(element: &Element) -> Result<WindowsFile, ReadError> {
    let name = element.attribute("FileName").ok_or(ReadError::Missing { what: "FileName" })?.to_owned();
    let bytes = number("Size", element.attribute("Size").ok_or(ReadError::Missing { what: "Size" })?)?;
    let mut file = WindowsFile {
        name,
        bytes,
        sha256: None,
        sha1: None,
        url: element.attribute("OriginUri").map(str::to_owned),
    };
    let main = element.attribute("Digest").map(|digest| (element.attribute("DigestAlgorithm"), digest));
    let more = element.all("AdditionalDigest").map(|more| (more.attribute("Algorithm"), more.text()));
    for (algorithm, text) in main.into_iter().chain(more) {
        let wrong = || ReadError::Digest { file: file.name.clone() };
        let bytes = STANDARD.decode(text).map_err(|_| wrong())?;
        match (algorithm, bytes.len()) {
            (Some("SHA1") | None, 20) => file.sha1 = Some(hex::encode(bytes)),
            (Some("SHA256") | None, 32) => {
                file.sha256 = Some(hex::encode(bytes).parse::<Digest>().map_err(|_| wrong())?);
            }
            (Some("SHA1" | "SHA256") | None, _) => return Err(wrong()),
            _ => {}
        }
    }
    Ok(file)
}

/// The last part of a handler's URI, or of a type with a prefix.
fn handler_name<'a>(handler: Option<&'a str>, data: Option<&'a Element>) -> Option<&'a str> {
    let by_type = || data?.attribute("type")?.rsplit(':').next();
    handler.and_then(|uri| uri.rsplit('/').next()).filter(|name| !name.is_empty()).or_else(by_type)
}

fn install(
    handler: Option<&str>,
    data: Option<&Element>,
    files: Vec<WindowsFile>,
    behavior: Option<&Element>,
    metadata: &Metadata,
) -> Option<WindowsInstall> {
    let name = handler_name(handler, data)?;
    if name == "Category" {
        return None;
    }
    let first = data.and_then(|data| data.children.first());
    let get = |name: &str| first.and_then(|first| first.attribute(name)).filter(|text| !text.is_empty());
    let text = |name: &str| get(name).unwrap_or_default().to_owned();
    let described = |reason: &str| Handler::Described { name: name.to_owned(), reason: reason.to_owned() };
    let handler = match name {
        "CommandLineInstallation" => match first {
            Some(command) => command_line(command, &files),
            None => described("it names no program"),
        },
        "WindowsInstaller" => Handler::Msp {
            patch_code: get("PatchCode").or(get("FullFilePatchCode")).map(code),
            file: None,
            command_line: text("CommandLine"),
            uninstall_command_line: text("UninstallCommandLine"),
        },
        "WindowsInstallerApp" => Handler::Msi {
            product_code: get("ProductCode").map(code),
            file: get("MsiFile").map_or_else(|| only_msi(&files), str::to_owned),
            command_line: text("CommandLine"),
            exit_codes: Vec::new(),
        },
        "Cbs" => Handler::Cbs {
            package: get("PackageIdentity").map(str::to_owned).or_else(|| metadata.cbs_identity()),
        },
        "OSInstaller" | "WindowsSetup" => described("a new release of Windows is not installed"),
        "WindowsDriver" | "InfBasedInstallation" => described("drivers are not installed"),
        "WindowsPatch" => described("patches from before Windows Vista are not installed"),
        _ => described("this kind of update is not known"),
    };
    Some(behave(
        WindowsInstall {
            handler,
            files,
            reboot: RebootBehavior::default(),
            impact: Impact::default(),
            asks_user: false,
            needs_network: false,
        },
        behavior,
    ))
}

/// A code in braces and upper case.
pub(in crate::sources) fn code(text: &str) -> String {
    format!("{{{}}}", text.trim().trim_matches(['{', '}']).to_ascii_uppercase())
}

/// The package among the files, when there is one.
fn only_msi(files: &[WindowsFile]) -> String {
    let is_msi = |file: &&WindowsFile| file.name.to_ascii_lowercase().ends_with(".msi");
    files.iter().find(is_msi).or(files.first()).map(|file| file.name.clone()).unwrap_or_default()
}

/// The command of an update. A program that is not one of its files is not started by anybody: Office's
/// updates that Office itself brings are described like that.
pub(super) fn command_line(element: &Element, files: &[WindowsFile]) -> Handler {
    let program = element.attribute("Program").unwrap_or_default();
    if !files.iter().any(|file| file.name.eq_ignore_ascii_case(program)) {
        return Handler::Described {
            name: "CommandLineInstallation".to_owned(),
            reason: "its program is not one of its files".to_owned(),
        };
    }
    Handler::CommandLine(CommandLine {
        program: program.to_owned(),
        arguments: element.attribute("Arguments").unwrap_or_default().to_owned(),
        exit_codes: exit_codes(element),
        otherwise: result(element.attribute("DefaultResult")),
        reboot_otherwise: element.is("RebootByDefault"),
    })
}

/// The exit codes that are named; one that is no number of 32 bits names none.
pub(super) fn exit_codes(element: &Element) -> Vec<ExitCode> {
    let code = |found: &Element| {
        let code: i64 = found.attribute("Code")?.trim().parse().ok()?;
        // Some vendors write the same 32 bits without the sign.
        let code = i32::try_from(code).ok().or_else(|| Some(u32::try_from(code).ok()?.cast_signed()))?;
        Some(ExitCode { code, result: result(found.attribute("Result")), reboot: found.is("Reboot") })
    };
    element.all("ReturnCode").filter_map(code).collect()
}

fn result(text: Option<&str>) -> ExitResult {
    match text {
        Some("Succeeded") => ExitResult::Succeeded,
        Some("Cancelled") => ExitResult::Cancelled,
        _ => ExitResult::Failed,
    }
}

/// The same with what an element says about restarts and people.
pub(super) fn behave(install: WindowsInstall, behavior: Option<&Element>) -> WindowsInstall {
    let Some(behavior) = behavior else { return install };
    WindowsInstall {
        reboot: match behavior.attribute("RebootBehavior") {
            Some("NeverReboots") => RebootBehavior::Never,
            Some("AlwaysRequiresReboot") => RebootBehavior::Always,
            _ => RebootBehavior::CanRequest,
        },
        impact: match behavior.attribute("Impact") {
            Some("Minor") => Impact::Minor,
            Some("RequiresExclusiveHandling") => Impact::Exclusive,
            _ => Impact::Normal,
        },
        asks_user: behavior.is("CanRequestUserInput"),
        needs_network: behavior.is("RequiresNetworkConnectivity"),
        ..install
    }
}
