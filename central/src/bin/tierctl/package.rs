//! `tierctl package`: an administrator's own packages, from files.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use clap::{Args, Subcommand};
use serde::Deserialize;
use tierway_common::{
    rules::expr::Expr,
    trust::digest::{Digest, Hasher},
};
use tierway_proto::v1;

use crate::{
    client::Packages,
    confirm::{ConfirmArgs, confirm},
    document,
    failure::{Exit, Failure},
    output::{
        is_for_people,
        listing::{self, Column, Shape},
        sheet::{Sheet, changed},
        table::Tint,
        value::Value,
    },
    patch::Severity,
    progress,
    screen::{Screen, harmless},
    watch::{self, WatchArgs},
};

/// A file is sent in pieces of this size: a bar moves smoothly, and no message is long.
const PIECE_BYTES: usize = 256 * 1024;

#[derive(Debug, Subcommand)]
pub(crate) enum PackageCommand {
    /// Sends a file and publishes it as an update, which is installed where it is approved
    Add(Box<AddArgs>),
    /// Lists them by name
    List {
        #[command(flatten)]
        watch: WatchArgs,
    },
    /// Takes one back, with its approvals
    Remove {
        /// Name of the package, as `list` shows it
        package: String,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
}

const ADD_HELP: &str = "\
An MSI and a deb package say themselves when they are installed. Of a program say `--entry` and `--version`, or `--rule`.

A rule's file is JSON or TOML with `installed` and, if you like, `applicable`, as in a patch's document.

Examples:
  tierctl package add app-1.1.msi
  tierctl package add setup.exe --entry 'App' --version 1.1 --arguments /S
  tierctl package add windows11.0-kb5031354-x64.msu --os-version 10.0.22621
  tierctl package add app-1.1.msi --only-upgrade --dry-run";

#[derive(Debug, Args)]
#[command(after_help = ADD_HELP)]
pub(crate) struct AddArgs {
    /// MSI, MSP, EXE, MSU, CAB or deb package
    file: PathBuf,
    /// What it is called, the same in all versions [default: from the file]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Its version [default: from the file]
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    /// One line for people [default: from the file]
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
    /// How bad it is to lack it
    #[arg(long)]
    severity: Option<Severity>,
    /// A vulnerability or article that it is about, may be given again
    #[arg(long = "reference", value_name = "NAME")]
    references: Vec<String>,
    /// For whom it is and who has it, from this file
    #[arg(long, value_name = "FILE", conflicts_with = "entry")]
    rule: Option<PathBuf>,
    /// Its name in the list of installed programs of Windows
    #[arg(long, value_name = "NAME")]
    entry: Option<String>,
    /// Arguments of a program, or properties of an MSI
    #[arg(long, value_name = "TEXT", default_value = "", allow_hyphen_values = true)]
    arguments: String,
    /// Only for this version of the system
    #[arg(long, value_name = "VERSION")]
    os_version: Option<String>,
    /// Only where an older version is installed
    #[arg(long)]
    only_upgrade: bool,
    /// Sends the file and says what would be published, publishes nothing
    #[arg(long)]
    dry_run: bool,
}

/// A rule's file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    #[serde(default)]
    applicable: Option<Expr>,
    installed: Expr,
}

const PACKAGES: Shape<v1::Package> = Shape {
    columns: &[
        Column::new("package", |row| Value::text(&row.patch)),
        Column::new("version", |row| Value::text(&row.version)),
        Column::new("kind", |row| Value::text(&row.kind)),
        Column::new("bytes", |row| Value::Bytes(row.bytes)),
        Column::new("added", |row| Value::Time(row.added)),
        Column::new("superseded_by", |row| Value::Names(row.superseded_by.clone())),
        Column::new("file", |row| Value::text(if row.present { "here" } else { "missing" })),
        Column::wide("title", |row| Value::text(&row.title)),
    ],
    tint: |row| if row.present { Tint::Plain } else { Tint::Bad },
};

pub(crate) async fn run(
    screen: &mut Screen<'_>,
    packages: &mut Packages,
    command: PackageCommand,
) -> Result<Exit, Failure> {
    match command {
        PackageCommand::Add(args) => add(screen, packages, *args).await,
        PackageCommand::List { watch } => {
            watch::repeat(screen, watch, async |screen| {
                let answer = packages
                    .list_packages(v1::ListPackagesRequest {})
                    .await
                    .map_err(Failure::call("list packages"))?;
                listing::write_all(screen, &PACKAGES, &answer.into_inner().packages)?;
                Ok(Exit::Ok)
            })
            .await
        }
        PackageCommand::Remove { package, confirm: asked } => {
            confirm(screen, asked, &format!("remove package `{package}`"), &package)?;
            let change = packages
                .remove_package(v1::RemovePackageRequest { patch: package.clone() })
                .await
                .map_err(Failure::call(format!("remove package `{package}`")))?
                .into_inner();
            let sentence = format!("removed package `{package}`");
            changed(screen, &sentence, [("package", Value::Text(package))], change.audit_sequence)?;
            Ok(Exit::Ok)
        }
    }
}

async fn add(screen: &mut Screen<'_>, packages: &mut Packages, args: AddArgs) -> Result<Exit, Failure> {
    let AddArgs {
        file: path,
        name,
        version,
        title,
        severity,
        references,
        rule,
        entry,
        arguments,
        os_version,
        only_upgrade,
        dry_run,
    } = args;
    let rules = rule.as_deref().map(read_rules).transpose()?;
    let encode = |rule: &Expr| serde_json::to_string(rule).map_err(Failure::local("write the rule as JSON"));
    let file_name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let (digest, bytes) = digest(&path)?;
    send(screen, packages, &path, digest, bytes).await?;
    let request = v1::AddPackageRequest {
        digest: digest.as_bytes().to_vec(),
        file_name: file_name.clone(),
        name,
        version,
        title,
        severity: severity.map(|severity| severity.as_str().to_owned()),
        references,
        applicable_json: rules
            .as_ref()
            .and_then(|rules| rules.applicable.as_ref())
            .map(encode)
            .transpose()?,
        installed_json: rules.as_ref().map(|rules| encode(&rules.installed)).transpose()?,
        entry,
        arguments,
        os_version,
        only_upgrade,
        dry_run,
    };
    let answer = packages.add_package(request).await.map_err(Failure::call(format!("add `{file_name}`")))?;
    tell(screen, answer.into_inner(), dry_run)
}

fn tell(screen: &mut Screen<'_>, answer: v1::AddPackageResponse, dry_run: bool) -> Result<Exit, Failure> {
    let v1::AddPackageResponse { patch, document_json, outcome, notes, supersedes, audit_sequence } = answer;
    let document = serde_json::from_str::<serde_json::Value>(&document_json)
        .map_err(Failure::local("read the document of the package"))?;
    for note in &notes {
        writeln!(screen.err, "note: {}", harmless(note))?;
    }
    if dry_run && is_for_people(&screen.options) {
        let text = serde_json::to_string_pretty(&document)
            .map_err(Failure::local("write the document of the package"))?;
        for line in text.lines() {
            writeln!(screen.out, "{}", harmless(line))?;
        }
    }
    let sentence = match (dry_run, outcome.as_str(), audit_sequence) {
        (_, "unchanged", _) => format!("`{patch}` is there already"),
        (true, outcome, _) => format!("`{patch}` would be {outcome}"),
        (false, outcome, sequence) => format!("{outcome} `{patch}` (audit {sequence})"),
    };
    Sheet::new([
        ("package", Value::Text(patch)),
        ("outcome", Value::Text(outcome)),
        ("supersedes", Value::Names(supersedes)),
        ("notes", Value::Names(notes)),
        ("audit_sequence", Value::Number(audit_sequence)),
    ])
    .with_json("document", document)
    .write_outcome(screen, &sentence)?;
    Ok(Exit::Ok)
}

fn read_rules(path: &Path) -> Result<Rules, Failure> {
    let object = document::read_file(path)?;
    serde_json::from_value(object.into())
        .map_err(Failure::local(format!("read the rule `{}`", path.display())))
}

/// SHA-256 and length of a file.
fn digest(path: &Path) -> Result<(Digest, u64), Failure> {
    let read = || {
        let mut file = File::open(path)?;
        let (mut hasher, mut bytes) = (Hasher::new(), 0);
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok((hasher.finish(), bytes)),
                count => {
                    hasher.update(&buffer[..count]);
                    bytes += count as u64;
                }
            }
        }
    };
    read().map_err(|error: io::Error| Failure::local(format!("read `{}`", path.display()))(error))
}

/// Sends what central lacks of the file.
async fn send(
    screen: &mut Screen<'_>,
    packages: &mut Packages,
    path: &Path,
    digest: Digest,
    bytes: u64,
) -> Result<(), Failure> {
    let what = format!("send `{}`", path.display());
    let request = v1::PrepareUploadRequest { digest: digest.as_bytes().to_vec(), bytes };
    let prepared = packages.prepare_upload(request).await.map_err(Failure::call(what.clone()))?;
    let v1::PrepareUploadResponse { present, offset } = prepared.into_inner();
    if present {
        return Ok(());
    }
    let sent = Arc::new(AtomicU64::new(offset));
    let broken = Arc::new(Mutex::new(None));
    let mut file = File::open(path).map_err(Failure::local(what.clone()))?;
    file.seek(SeekFrom::Start(offset)).map_err(Failure::local(what.clone()))?;
    let pieces = pieces(file, digest, bytes, offset, sent.clone(), broken.clone());
    let step = what.clone();
    let told = move || v1::Progress {
        step: step.clone(),
        done: sent.load(Ordering::Relaxed),
        total: bytes,
        unit: "bytes".to_owned(),
    };
    let call = packages.upload_package(tokio_stream::iter(pieces));
    let ended =
        progress::during(screen, async { call.await.map_err(Failure::call(what.clone())) }, &told).await;
    // What could not be read here is why central got too little.
    match broken.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(error) => Err(Failure::local(what)(error)),
        None => ended.map(drop),
    }
}

/// The pieces of a file from `offset` on; at least one, which may be empty. Ends early when the file cannot be read.
fn pieces(
    mut file: File,
    digest: Digest,
    bytes: u64,
    offset: u64,
    sent: Arc<AtomicU64>,
    broken: Arc<Mutex<Option<io::Error>>>,
) -> impl Iterator<Item = v1::PackagePiece> {
    let mut is_first = true;
    std::iter::from_fn(move || {
        let mut data = Vec::new();
        if let Err(error) = (&mut file).take(PIECE_BYTES as u64).read_to_end(&mut data) {
            broken.lock().unwrap_or_else(PoisonError::into_inner).replace(error);
            return None;
        }
        if data.is_empty() && !is_first {
            return None;
        }
        sent.fetch_add(data.len() as u64, Ordering::Relaxed);
        let first = std::mem::take(&mut is_first);
        Some(v1::PackagePiece {
            digest: if first { digest.as_bytes().to_vec() } else { Vec::new() },
            bytes: if first { bytes } else { 0 },
            offset: if first { offset } else { 0 },
            data: data.into(),
        })
    })
}
