//! `tierctl context`: which central, and as whom.

use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use tierway_common::{
    enrollment::Token,
    transport::{dial::Route, identity::Role, tls::IdentityFiles},
};
use tierway_proto::joining;

use crate::{
    confirm::{ConfirmArgs, confirm},
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
    /// Becomes an operator by a token, and adds a context for it
    Join(JoinArgs),
    /// Adds or replaces one
    Set(SetArgs),
    /// Forgets one, and the keys that `context join` made for it
    Delete {
        /// Name of the context
        name: String,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
    /// Shows one
    Show {
        /// Name of the context [default: the current one]
        name: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// The token, as `tierctl operator invite` prints it
    token: String,
    /// Name of the new context, and of the folder beside the contexts that gets the key and the certificates
    #[arg(long, default_value = "default")]
    name: String,
    /// Where central listens [default: as the token says]
    #[arg(long, value_name = "HOST:PORT")]
    server: Option<String>,
    /// HTTP proxy to go through
    #[arg(long, value_name = "HOST:PORT")]
    proxy: Option<String>,
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

pub(crate) async fn run(
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
        ContextCommand::Join(args) => {
            let JoinArgs { token, name, server, proxy } = args;
            let token: Token = token.parse().map_err(Failure::local("read the token"))?;
            if contexts.contexts.iter().any(|entry| entry.name == name) {
                return Err(Failure::Usage(format!(
                    "there is a context `{name}` already: give another --name"
                )));
            }
            // It becomes part of a path.
            if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) {
                return Err(Failure::Usage(format!(
                    "`{name}` cannot be the name of a folder: give another --name"
                )));
            }
            let dir = file.parent().unwrap_or(Path::new("")).join(&name);
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .map_err(Failure::local(format!("make the folder `{}`", dir.display())))?;
            let what = || format!("join as operator, with keys in `{}`", dir.display());
            joining::must_be_for(&token, Role::Operator).map_err(Failure::local(what()))?;
            let (server, proxy) = (server.as_deref(), proxy.as_deref());
            let joined = joining::join(&token, server, proxy, "", env!("CARGO_PKG_VERSION"), &dir)
                .await
                .map_err(Failure::local(what()))?;
            if let Err(error) = joined.must_be(Role::Operator) {
                joining::leave(&dir).map_err(Failure::local(what()))?;
                return Err(Failure::local(what())(error));
            }
            let Route { server, proxy } = joined.route;
            let holder = joined.identity.own().holder.id.clone();
            let IdentityFiles { identity, roots } = joined.identity.files().clone();
            let here = |path: PathBuf| std::path::absolute(&path).map_err(Failure::local(what()));
            let (identity, roots) = (here(identity)?, here(roots)?);
            contexts.set(Entry { name: name.clone(), server: server.clone(), proxy, identity, roots });
            contexts.save(&file)?;
            Sheet::new([
                ("name", Value::text(&name)),
                ("operator", Value::text(&holder)),
                ("server", Value::text(&server)),
            ])
            .write_outcome(
                screen,
                &format!("joined as operator `{holder}`; context `{name}` asks {server}"),
            )?;
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
        ContextCommand::Delete { name, confirm: asked } => {
            let identity = contexts.find(&name, &file)?.resolve(&file).identity.identity;
            let folder = file.parent().unwrap_or(Path::new("")).join(&name);
            let joined = std::path::absolute(&folder).is_ok_and(|folder| identity.starts_with(folder));
            let keys =
                if joined { format!(" and its keys in `{}`", folder.display()) } else { String::new() };
            confirm(screen, asked, &format!("delete context `{name}`{keys}"), &name)?;
            contexts.remove(&name);
            contexts.save(&file)?;
            if joined {
                joining::leave(&folder)
                    .map_err(Failure::local(format!("remove the keys in `{}`", folder.display())))?;
            }
            Sheet::new([("name", Value::text(&name)), ("keys_deleted", Value::Flag(joined))])
                .write_outcome(screen, &format!("deleted context `{name}`{keys}"))?;
        }
        ContextCommand::Show { name } => {
            let asked = name.or_else(|| connection.context.clone());
            let name = contexts
                .chosen(asked.as_deref())
                .ok_or_else(|| Failure::Usage("no context is chosen; name one".to_owned()))?;
            let context = contexts.find(name, &file)?.resolve(&file);
            let path = |path: &Path| Value::text(path.display().to_string());
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
