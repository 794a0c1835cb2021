//! The source `local`: packages that an administrator brings, each with a rule that is made of the file itself.
//!
//! What is believed: the operator who sent the file, whose certificate was checked, and the digest that was said
//! with it. What a file says of itself becomes the rule; what it does not say the operator must.

use std::{
    collections::BTreeMap,
    io::{self, Read, Seek, SeekFrom},
};

use jiff::Timestamp;
use tierway_common::{
    id::{IdError, UpdateId},
    rules::{
        self,
        expr::{
            Compare, DataOrdering, Expr, LOOP_TARGET, LoopTest, OsTest, Quantity, RegistryTest, UpdateTest,
        },
        limits::LimitError,
    },
    schema::{
        CommandLine, ExitCode, ExitResult, Handler, Impact, Install, Payload, RebootBehavior, Severity,
        Update, UpdateClass, WindowsFile, WindowsInstall,
    },
    trust::digest::Digest,
    version::windows::WindowsVersion,
};

mod deb;
mod installer;

/// The source, and the catalogue of its updates; no source in the configuration may be called so.
pub const NAME: &str = "local";

/// Longest file: the largest installers and cumulative updates have some 5 GB.
pub const FILE_BYTES_MAX: u64 = 16 << 30;

/// Longest text that is taken over from a file or from an operator, in bytes.
const TEXT_BYTES_MAX: usize = 1000;

/// Longest properties of an MSI or arguments of a program: a command line of Windows has at most 8,191 characters, and
/// every endpoint gets them.
const ARGUMENTS_BYTES_MAX: usize = 8_000;

/// Most names of vulnerabilities and articles of one package.
const REFERENCES_MAX: usize = 1000;

/// A file that makes no package.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// It begins like nothing that is known.
    #[error("`{file}` is neither an MSI, MSP, EXE, MSU, CAB nor a deb package")]
    Kind {
        /// Its name.
        file: String,
    },
    /// It is known, and nothing installs it.
    #[error("`{file}` is an rpm package, which no endpoint installs yet")]
    Rpm {
        /// Its name.
        file: String,
    },
    /// It could not be read.
    #[error("could not read `{file}`")]
    Read {
        /// Its name.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// It is damaged, or made otherwise than it should be.
    #[error("`{file}` is damaged: {reason}")]
    Damaged {
        /// Its name.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// It does not say what is needed, nor does the operator.
    #[error("`{file}` does not say {what}: give {how}")]
    Missing {
        /// Its name.
        file: String,
        /// What is missing.
        what: &'static str,
        /// How the operator can say it.
        how: &'static str,
    },
    /// Something that was said of it cannot be.
    #[error("`{what}` must be {rule}, found `{found}`")]
    Invalid {
        /// What.
        what: &'static str,
        /// What it must be.
        rule: &'static str,
        /// What it is.
        found: String,
    },
    /// It cannot be named.
    #[error("the package cannot be named")]
    Id(#[from] IdError),
    /// Its rule is too big.
    #[error("the rule of the package is refused")]
    Rule(#[from] LimitError),
}

/// A file that is here.
#[derive(Clone, Debug)]
pub struct File {
    /// As the operator calls it, without a path.
    pub name: String,
    /// SHA-256 of all of it.
    pub digest: Digest,
    /// Its length.
    pub bytes: u64,
}

impl File {
    /// Where it is, as documents say it: nobody can fetch it there.
    fn url(&self) -> String {
        format!("{NAME}:{}", self.digest)
    }
}

/// What an operator says of a package; what is not said is read from the file.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// What it is called, the same in all versions.
    pub name: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// One line for people.
    pub title: Option<String>,
    /// How bad it is to lack it.
    pub severity: Option<Severity>,
    /// Vulnerabilities and articles.
    pub references: Vec<String>,
    /// For whom it is.
    pub applicable: Option<Expr>,
    /// Who has it.
    pub installed: Option<Expr>,
    /// Its name in the list of installed programs of Windows.
    pub entry: Option<String>,
    /// Properties of an MSI, or arguments of a program.
    pub arguments: String,
    /// Only for this version of the system.
    pub os_version: Option<String>,
    /// Only where an older version is installed.
    pub only_upgrade: bool,
}

/// A package as it would be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// The document; whom it replaces is not in it yet.
    pub update: Update,
    /// What a person should know, a sentence each.
    pub notes: Vec<String>,
}

/// What a file says of itself.
#[derive(Debug)]
struct Said {
    /// Made part of the package's name.
    name: Option<String>,
    product: Option<String>,
    version: Option<String>,
    title: Option<String>,
    references: Vec<String>,
    applicable: Vec<Expr>,
    /// That an older version is installed, where the file allows to ask.
    older: Option<Expr>,
    installed: Option<Expr>,
    install: Install,
    notes: Vec<String>,
}

/// How a file begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Database,
    Program,
    Servicing,
    Deb,
    Rpm,
}

/// Longest beginning that tells what a file is.
const MAGIC_BYTES: usize = 8;

fn kind(file: &File, content: &mut impl Read) -> Result<Kind, LocalError> {
    let mut magic = Vec::with_capacity(MAGIC_BYTES);
    content
        .take(MAGIC_BYTES as u64)
        .read_to_end(&mut magic)
        .map_err(|source| LocalError::Read { file: file.name.clone(), source })?;
    let lower = file.name.to_ascii_lowercase();
    let is_servicing = [".msu", ".cab"].iter().any(|end| lower.ends_with(end));
    match magic.as_slice() {
        [0xd0, 0xcf, 0x11, 0xe0, 0xa1, 0xb1, 0x1a, 0xe1] => Ok(Kind::Database),
        [b'M', b'Z', ..] => Ok(Kind::Program),
        // Updates of Windows are cabinets, from Windows 11 24H2 on also images.
        [b'M', b'S', b'C', b'F', ..] | [b'M', b'S', b'W', b'I', b'M', ..] if is_servicing => {
            Ok(Kind::Servicing)
        }
        b"!<arch>\n" => Ok(Kind::Deb),
        [0xed, 0xab, 0xee, 0xdb, ..] => Ok(Kind::Rpm),
        _ => Err(LocalError::Kind { file: file.name.clone() }),
    }
}

/// The package that a file makes.
///
/// # Errors
///
/// [`LocalError`], naming the file and what is missing.
pub fn describe(
    file: &File,
    mut content: impl Read + Seek,
    wishes: Wishes,
    now: Timestamp,
) -> Result<Described, LocalError> {
    check_arguments(&wishes.arguments)?;
    let kind = kind(file, &mut content)?;
    content
        .seek(SeekFrom::Start(0))
        .map_err(|source| LocalError::Read { file: file.name.clone(), source })?;
    let said = match kind {
        Kind::Database => installer::read(file, content, &wishes)?,
        Kind::Program => program(file, &wishes)?,
        Kind::Servicing => servicing(file)?,
        Kind::Deb => deb::read(file, content)?,
        Kind::Rpm => return Err(LocalError::Rpm { file: file.name.clone() }),
    };
    assemble(file, said, wishes, now)
}

fn check_arguments(found: &str) -> Result<(), LocalError> {
    if found.len() <= ARGUMENTS_BYTES_MAX && !found.contains(char::is_control) {
        return Ok(());
    }
    let rule = "at most 8000 bytes without control characters";
    Err(LocalError::Invalid { what: "arguments", rule, found: crate::text::clean(found, TEXT_BYTES_MAX) })
}

fn assemble(file: &File, said: Said, wishes: Wishes, now: Timestamp) -> Result<Described, LocalError> {
    let Wishes {
        name,
        version,
        title,
        severity,
        references,
        applicable,
        installed,
        entry: _,
        arguments: _,
        os_version,
        only_upgrade,
    } = wishes;
    let missing = |what, how| LocalError::Missing { file: file.name.clone(), what, how };
    let version = version
        .or(said.version)
        .ok_or_else(|| missing("which version it is", "`--version VERSION`"))
        .and_then(|version| text("version", &version))?;
    let product = said.product.or_else(|| name.clone()).unwrap_or_else(|| stem(&file.name).to_owned());
    let name = match name {
        Some(name) => name,
        None => named(&said.name.unwrap_or_else(|| product.clone()), &version),
    };
    let installed = installed.or(said.installed).ok_or_else(|| {
        missing("when it is installed", "`--entry NAME` of the list of programs, or `--rule FILE`")
    })?;
    let applicable = match applicable {
        Some(rule) => rule,
        None => {
            let mut parts = said.applicable;
            if let Some(found) = os_version {
                let test = || Some(found.parse::<WindowsVersion>().ok()?.to_string());
                test().ok_or(LocalError::Invalid {
                    what: "os-version",
                    rule: "a version such as `10.0.22621` or `12`",
                    found: found.clone(),
                })?;
                parts.push(Expr::Os(OsTest { version: Some(Compare::Eq(found)), ..OsTest::default() }));
            }
            if only_upgrade {
                let older = said.older.ok_or_else(|| {
                    missing("what older versions are called", "`--entry NAME` of the list of programs")
                })?;
                // Who has it counts as somebody it is for, or else it would vanish when it is installed.
                parts.push(Expr::Any(vec![older, installed.clone()]));
            }
            Expr::All(parts)
        }
    };
    let mut all = said.references;
    for reference in references {
        if !all.contains(&reference) {
            all.push(text("reference", &reference)?);
        }
    }
    if all.len() > REFERENCES_MAX {
        return Err(LocalError::Invalid {
            what: "reference",
            rule: "given at most 1000 times",
            found: all.len().to_string(),
        });
    }
    let id: UpdateId = format!("{NAME}/{name}_{version}").parse()?;
    for rule in [&applicable, &installed] {
        rules::check(rule)?;
    }
    let title = match title.or(said.title) {
        Some(title) => text("title", &title)?,
        None => format!("{product} {version}"),
    };
    let class = match all.iter().any(|name| name.starts_with("CVE-")) {
        true => UpdateClass::Security,
        false => UpdateClass::Application,
    };
    let update = Update {
        id,
        title,
        product: text("product", &product)?,
        version,
        severity: severity.unwrap_or(Severity::Unspecified),
        class,
        released: now,
        references: all,
        applicable,
        installed,
        supersedes: Vec::new(),
        superseded_by: Vec::new(),
        install: said.install,
        result_codes: BTreeMap::new(),
    };
    Ok(Described { update, notes: said.notes })
}

/// A text that is shown and kept, without what could hide or move in it.
fn text(what: &'static str, found: &str) -> Result<String, LocalError> {
    let clean = crate::text::clean(found, TEXT_BYTES_MAX);
    if clean.is_empty() || clean != found.trim() {
        return Err(LocalError::Invalid { what, rule: "a line of at most 1000 bytes", found: clean });
    }
    Ok(clean)
}

/// A name of a product as part of an id: without its version, small letters, digits and dashes.
fn named(product: &str, version: &str) -> String {
    let bare = product.replace(version, " ");
    let mut name = String::new();
    for c in bare.chars() {
        match c {
            c if c.is_ascii_alphanumeric() => name.push(c.to_ascii_lowercase()),
            '+' | '.' => name.push(c),
            _ if !name.is_empty() && !name.ends_with('-') => name.push('-'),
            _ => {}
        }
    }
    name.trim_end_matches(['-', '.']).to_owned()
}

/// A file's name without its ending.
fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// Where Windows lists its programs, in both views.
const PROGRAMS: [&str; 2] = [
    r"HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Uninstall",
    r"HKLM32\SOFTWARE\Microsoft\Windows\CurrentVersion\Uninstall",
];

/// That a program of that name is installed, in such a version where one is given.
fn listed(entry: &str, version: Option<Compare>) -> Expr {
    let value = |name: &str, data, ordering| {
        Expr::Registry(RegistryTest {
            key: LOOP_TARGET.to_owned(),
            value: Some(name.to_owned()),
            data: Some(data),
            ordering: Some(ordering),
            ..RegistryTest::default()
        })
    };
    let mut tests = vec![value("DisplayName", Compare::Eq(entry.to_owned()), DataOrdering::Caseless)];
    tests.extend(version.map(|version| value("DisplayVersion", version, DataOrdering::Windows)));
    let any = |key: &str| {
        let test = Box::new(Expr::All(tests.clone()));
        Expr::RegistryLoop(LoopTest { key: key.to_owned(), of: Quantity::Any, test })
    };
    Expr::Any(PROGRAMS.map(any).into())
}

fn windows() -> Expr {
    Expr::Os(OsTest { family: Some("windows".to_owned()), ..OsTest::default() })
}

fn architecture(name: &str) -> Expr {
    Expr::Os(OsTest { architecture: Some(name.to_owned()), ..OsTest::default() })
}

fn windows_version(what: &'static str, version: &str) -> Result<(), LocalError> {
    match version.parse::<WindowsVersion>() {
        Ok(_) => Ok(()),
        Err(_) => {
            let rule = "up to four numbers with dots between, or said by `--version`";
            Err(LocalError::Invalid { what, rule, found: version.to_owned() })
        }
    }
}

/// One file that one handler installs.
fn install(file: &File, handler: Handler) -> Install {
    Install::Windows(Box::new(WindowsInstall {
        handler,
        files: vec![WindowsFile {
            name: file.name.clone(),
            bytes: file.bytes,
            sha256: Some(file.digest),
            sha1: None,
            url: Some(file.url()),
        }],
        reboot: RebootBehavior::default(),
        impact: Impact::default(),
        asks_user: false,
        needs_network: false,
    }))
}

/// A program that installs: it says nothing about itself that a rule could rest on.
fn program(file: &File, wishes: &Wishes) -> Result<Said, LocalError> {
    let entry = wishes.entry.as_deref();
    if let (Some(_), Some(version)) = (entry, &wishes.version) {
        windows_version("version", version)?;
    }
    let installed = entry
        .zip(wishes.version.as_ref())
        .map(|(entry, version)| listed(entry, Some(Compare::Ge(version.clone()))));
    let code = |code, reboot| ExitCode { code, result: ExitResult::Succeeded, reboot };
    let mut notes = Vec::new();
    if wishes.arguments.is_empty() {
        notes.push("the program is started without arguments: most then wait for a person".to_owned());
    }
    Ok(Said {
        name: entry.map(str::to_owned),
        product: entry.map(str::to_owned),
        version: None,
        title: None,
        references: Vec::new(),
        applicable: vec![windows()],
        older: entry.map(|entry| listed(entry, None)),
        installed,
        install: install(
            file,
            Handler::CommandLine(CommandLine {
                program: file.name.clone(),
                arguments: wishes.arguments.clone(),
                // What installers of every make agree on.
                exit_codes: vec![code(0, false), code(1641, true), code(3010, true)],
                otherwise: ExitResult::Failed,
                reboot_otherwise: false,
            }),
        ),
        notes,
    })
}

/// An update of Windows, whose name has the number of its article and its architecture.
fn servicing(file: &File) -> Result<Said, LocalError> {
    let lower = file.name.to_ascii_lowercase();
    let words: Vec<&str> = lower.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    let number = words.iter().find_map(|word| {
        let digits = word.strip_prefix("kb")?;
        (digits.len() >= 5 && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(digits)
    });
    let kb = number.map(|number| format!("KB{number}"));
    let found = [("x64", "amd64"), ("amd64", "amd64"), ("x86", "x86"), ("arm64", "arm64")]
        .into_iter()
        .find(|(word, _)| words.contains(word));
    let mut applicable = vec![windows()];
    let mut notes = Vec::new();
    match found {
        Some((_, name)) => applicable.push(architecture(name)),
        None => notes.push("its name has no architecture: it is offered to all".to_owned()),
    }
    notes
        .push("which releases of Windows it is for it does not say: `--os-version` or a rule can".to_owned());
    Ok(Said {
        name: Some(match found {
            Some((_, name)) => format!("windows-{name}"),
            None => "windows".to_owned(),
        }),
        product: Some("Windows".to_owned()),
        version: kb.clone(),
        title: kb.as_ref().map(|kb| format!("Update for Windows ({kb})")),
        references: kb.iter().cloned().collect(),
        applicable,
        older: None,
        installed: kb.map(|id| Expr::Update(UpdateTest { id })),
        install: install(file, Handler::Cbs { package: None }),
        notes,
    })
}

/// The payload of a file in a document.
fn payload(file: &File) -> Payload {
    Payload { digest: file.digest, bytes: file.bytes, url: file.url() }
}

#[cfg(test)]
pub(crate) mod tests;
