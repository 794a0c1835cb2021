//! `tierctl result-code`: what exit codes of installers mean.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use tierway_common::{
    id::{GroupId, UpdateId},
    schema::policy::{Meaning, ResultCodes, ResultScope},
};
use tierway_proto::v1;

use crate::{
    client::Policies,
    confirm::ConfirmArgs,
    document::{self, FileArgs, RESULT_CODES},
    failure::{Exit, Failure},
    level::by_name,
    output::{
        listing::{self, Column, Shape},
        table::Tint,
        value::Value,
    },
    screen::Screen,
};

#[derive(Debug, Subcommand)]
pub(crate) enum ResultCodeCommand {
    /// Lists what administrators said, by update, then by group
    List,
    /// Says what codes mean for an update or a group, beside what is said already
    Set(SetArgs),
    /// Forgets what was said for an update or a group
    Delete {
        #[command(flatten)]
        scope: ScopeArgs,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    file: FileArgs,
    /// Exit code and meaning: success, success-reboot-required, reboot-initiated, reboot-before,
    /// already-installed, not-applicable, busy, needs-more-space, dependency-missing, cancelled, failure
    #[arg(value_name = "CODE=MEANING", value_parser = code, required_unless_present = "file")]
    codes: Vec<(i64, Meaning)>,
}

#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct ScopeArgs {
    /// For this update, by its id
    #[arg(long, value_name = "ID")]
    update: Option<UpdateId>,
    /// For every update on members of this group
    #[arg(long, value_name = "NAME")]
    group: Option<GroupId>,
}

impl ScopeArgs {
    fn scope(self) -> Result<(ResultScope, String), Failure> {
        match (self.update, self.group) {
            (Some(update), _) => {
                let name = format!("update/{update}");
                Ok((ResultScope::Update(update), name))
            }
            (None, Some(group)) => {
                let name = format!("group/{group}");
                Ok((ResultScope::Group(group), name))
            }
            (None, None) => Err(Failure::Usage("give `--update` or `--group`".to_owned())),
        }
    }
}

fn code(text: &str) -> Result<(i64, Meaning), String> {
    let (code, meaning) = text.split_once('=').ok_or("it is CODE=MEANING")?;
    Ok((code.parse().map_err(|_| format!("`{code}` is no exit code"))?, by_name(meaning)?))
}

struct Row {
    scope: String,
    code: i64,
    meaning: String,
}

const CODES: Shape<Row> = Shape {
    columns: &[
        Column::new("scope", |row| Value::text(&row.scope)),
        Column::new("code", |row| Value::Text(row.code.to_string())),
        Column::new("meaning", |row| Value::text(&row.meaning)),
    ],
    tint: |_| Tint::Plain,
};

fn rows(policy: &v1::Policy) -> Result<Vec<Row>, Failure> {
    let table: ResultCodes = serde_json::from_str(&policy.json)
        .map_err(Failure::local(format!("read the table `{}`", policy.name)))?;
    let meaning = |meaning: &Meaning| {
        let json = serde_json::to_value(meaning).unwrap_or_default();
        json.as_str().unwrap_or_default().replace('_', "-")
    };
    let row = |(code, of): (&i64, &Meaning)| Row {
        scope: policy.name.replacen('/', " ", 1),
        code: *code,
        meaning: meaning(of),
    };
    Ok(table.codes.iter().map(row).collect())
}

pub(crate) async fn run(
    screen: &mut Screen<'_>,
    policies: &mut Policies,
    command: ResultCodeCommand,
) -> Result<Exit, Failure> {
    match command {
        ResultCodeCommand::List => {
            let tables = document::all(policies, RESULT_CODES).await?;
            let rows = tables.iter().map(rows).collect::<Result<Vec<_>, _>>()?;
            let rows: Vec<Row> = rows.into_iter().flatten().collect();
            listing::write_all(screen, &CODES, &rows)?;
            Ok(Exit::Ok)
        }
        ResultCodeCommand::Set(SetArgs { scope, file, codes }) => {
            let (scope, name) = scope.scope()?;
            let mut known: BTreeMap<i64, Meaning> = match file.file {
                Some(path) => {
                    let object = document::read_file(&path)?;
                    let codes = object.get("codes").cloned().unwrap_or_default();
                    serde_json::from_value(codes)
                        .map_err(Failure::local(format!("read `{}`", path.display())))?
                }
                None => match document::find(policies, RESULT_CODES, &name).await? {
                    Some(found) => {
                        let table: ResultCodes = serde_json::from_str(&found.json)
                            .map_err(Failure::local(format!("read the table `{name}`")))?;
                        table.codes
                    }
                    None => BTreeMap::new(),
                },
            };
            known.extend(codes);
            document::set(screen, policies, RESULT_CODES, &ResultCodes { scope, codes: known }).await
        }
        ResultCodeCommand::Delete { scope, confirm } => {
            let (_, name) = scope.scope()?;
            document::delete(screen, policies, RESULT_CODES, name, confirm).await
        }
    }
}
