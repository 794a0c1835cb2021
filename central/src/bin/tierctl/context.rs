//! `tierctl context`: which central, and as whom.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::{
    contexts::{ConnectionArgs, Contexts, Entry},
    environment::Environment,
    failure::{Exit, Failure},
    output::{
        listing::{self, Column, Shape},
        sheet::Sheet,
        table::Tint,
        value::Value,
    },
    screen::Screen,
};

#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// Lists them
    List,
    /// Makes one the current
    Use {
        /// Name of the context
        name: String,
    },
    /// Adds or replaces one
    Set(SetArgs),
    /// Shows one
    Show {
        /// Name of the context [default: the current one]
        name: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// Name of the context
    name: String,
    /// Where central listens
    #[arg(long, value_name = "HOST:PORT")]
    server: String,
    /// HTTP proxy to go through
    #[arg(long, value_name = "HOST:PORT")]
    proxy: Option<String>,
    /// The operator's private key and certificates, leaf first, PEM
    #[arg(long, value_name = "FILE")]
    identity: PathBuf,
    /// Central's root certificate, PEM
    #[arg(long, value_name = "FILE")]
    roots: PathBuf,
}

struct Row {
    current: bool,
    entry: Entry,
}

const CONTEXTS: Shape<Row> = Shape {
    columns: &[
        Column::new("current", |row| Value::Flag(row.current)),
        Column::new("name", |row| Value::text(&row.entry.name)),
        Column::new("server", |row| Value::text(&row.entry.server)),
        Column::wide("proxy", |row| Value::text(row.entry.proxy.clone().unwrap_or_default())),
        Column::wide("identity", |row| Value::text(row.entry.identity.display().to_string())),
        Column::wide("roots", |row| Value::text(row.entry.roots.display().to_string())),
    ],
    tint: |row| if row.current { Tint::Strong } else { Tint::Plain },
};

pub(crate) fn run(
    screen: &mut Screen<'_>,
    connection: &ConnectionArgs,
    environment: &Environment,
    command: ContextCommand,
) -> Result<Exit, Failure> {
    let file = connection.file(environment)?;
    let mut contexts = Contexts::load(&file)?;
    match command {
        ContextCommand::List => {
            let chosen = contexts.chosen(None).map(str::to_owned);
            let rows: Vec<Row> = contexts
                .contexts
                .into_iter()
                .map(|entry| Row { current: chosen.as_deref() == Some(entry.name.as_str()), entry })
                .collect();
            listing::write_all(screen, &CONTEXTS, &rows)?;
        }
        ContextCommand::Use { name } => {
            let server = contexts.find(&name, &file)?.server.clone();
            contexts.current = Some(name.clone());
            contexts.save(&file)?;
            Sheet::new([("current", Value::text(&name)), ("server", Value::text(&server))])
                .write_outcome(screen, &format!("now using context `{name}`, central at {server}"))?;
        }
        ContextCommand::Set(args) => {
            let SetArgs { name, server, proxy, identity, roots } = args;
            let here = |path: PathBuf| {
                std::path::absolute(&path)
                    .map_err(Failure::local(format!("find out where `{}` is", path.display())))
            };
            let entry =
                Entry { name: name.clone(), server, proxy, identity: here(identity)?, roots: here(roots)? };
            contexts.set(entry);
            contexts.save(&file)?;
            Sheet::new([("name", Value::text(&name)), ("file", Value::text(file.display().to_string()))])
                .write_outcome(screen, &format!("wrote context `{name}` to `{}`", file.display()))?;
        }
        ContextCommand::Show { name } => {
            let asked = name.or_else(|| connection.context.clone());
            let name = contexts
                .chosen(asked.as_deref())
                .ok_or_else(|| Failure::Usage("no context is chosen; name one".to_owned()))?;
            let context = contexts.find(name, &file)?.resolve(&file);
            let path = |path: &std::path::Path| Value::text(path.display().to_string());
            Sheet::new([
                ("name", Value::text(&context.name)),
                ("server", Value::text(&context.server)),
                ("proxy", Value::text(context.proxy.clone().unwrap_or_default())),
                ("identity", path(&context.identity.identity)),
                ("roots", path(&context.identity.roots)),
                ("file", path(&file)),
            ])
            .write(screen)?;
        }
    }
    Ok(Exit::Ok)
}
