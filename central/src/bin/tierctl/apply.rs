//! `tierctl apply`: policy documents from a folder that is kept under version control.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Args;
use tierway_proto::v1;

use crate::{
    client::Policies,
    document::{self, KINDS, Kind, RESULT_CODES, TRUST},
    failure::{Exit, Failure},
    output::{
        listing::{self, Column, Shape},
        table::Tint,
        value::Value,
    },
    screen::Screen,
};

/// Files of one folder; more are refused by central.
const FILES_MAX: usize = 1_000;

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// Folder with `level/NAME.toml`, `window/NAME.toml`, `ring-plan/NAME.toml`, `result-codes/ANY.toml` and
    /// `trust.toml`, each TOML or JSON
    #[arg(long = "file", short = 'f', value_name = "DIR", required_unless_present = "plan")]
    dir: Option<PathBuf>,
    /// Only says what would happen
    #[arg(long, conflicts_with = "plan")]
    dry_run: bool,
    /// Instead of a folder: what `tierctl plan` printed; exit code 6 when something changed since
    #[arg(long, value_name = "ID", conflicts_with = "dir")]
    pub(crate) plan: Option<String>,
}

const OUTCOMES: Shape<v1::PolicyOutcome> = Shape {
    columns: &[
        Column::new("kind", |row| Value::text(&row.kind)),
        Column::new("name", |row| Value::text(&row.name)),
        Column::new("outcome", |row| Value::text(&row.outcome)),
    ],
    tint: |row| if row.outcome == "unchanged" { Tint::Faint } else { Tint::Plain },
};

pub(crate) async fn run(
    screen: &mut Screen<'_>,
    policies: &mut Policies,
    args: ApplyArgs,
) -> Result<Exit, Failure> {
    let ApplyArgs { dir, dry_run, plan: _ } = args;
    let dir = dir.unwrap_or_default();
    let documents = read(&dir)?;
    if documents.is_empty() {
        return Err(Failure::Usage(format!("`{}` holds no policy document", dir.display())));
    }
    let what = format!("apply `{}`", dir.display());
    let request = v1::SetPoliciesRequest { policies: documents, dry_run };
    let answer = policies.set_policies(request).await.map_err(Failure::call(what))?.into_inner();
    let v1::SetPoliciesResponse { audit_sequence, outcomes } = answer;
    listing::write_all(screen, &OUTCOMES, &outcomes)?;
    let changed = outcomes.iter().filter(|row| row.outcome != "unchanged").count();
    screen.note(&match (dry_run, changed) {
        (true, _) => format!("{changed} of {} would change", outcomes.len()),
        (false, 0) => "nothing changed".to_owned(),
        (false, _) => format!("{changed} of {} changed (audit {audit_sequence})", outcomes.len()),
    })?;
    Ok(Exit::Ok)
}

/// Every document in a folder, by kind, then file name.
pub(crate) fn read(dir: &Path) -> Result<Vec<v1::NewPolicy>, Failure> {
    // What is below it may be missing, but not the folder itself.
    let unread = format!("read the folder `{}`", dir.display());
    drop(fs::read_dir(dir).map_err(Failure::local::<std::io::Error>(unread))?);
    let mut documents = Vec::new();
    for kind in KINDS {
        if kind == TRUST {
            for name in ["trust.toml", "trust.json"] {
                let path = dir.join(name);
                if path.is_file() {
                    documents.push(new(kind, &document::read_file(&path)?)?);
                }
            }
            continue;
        }
        for path in files(&dir.join(kind.name))? {
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let json = match kind {
                RESULT_CODES => serde_json::Value::Object(document::read_file(&path)?),
                _ => document::read_named(kind, &path, stem)?,
            };
            documents.push(new(kind, &json)?);
        }
    }
    if documents.len() > FILES_MAX {
        return Err(Failure::Usage(format!("`{}` holds more than {FILES_MAX} documents", dir.display())));
    }
    Ok(documents)
}

/// The documents' files in a folder, by name; none when there is no such folder.
fn files(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let failed = || Failure::local::<std::io::Error>(format!("read the folder `{}`", dir.display()));
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed())? {
        let path = entry.map_err(failed())?.path();
        if path.extension().is_some_and(|extension| extension == "toml" || extension == "json") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn new(kind: Kind, document: &impl serde::Serialize) -> Result<v1::NewPolicy, Failure> {
    let json = serde_json::to_string(document).map_err(Failure::local("write the document as JSON"))?;
    Ok(v1::NewPolicy { kind: kind.name.to_owned(), json })
}
