//! `tierctl operator`: who decides, and who shall no longer.

use std::time::Duration;

use clap::{Args, Subcommand};
use tierway_proto::v1;

use crate::{
    client::Central,
    confirm::{ConfirmArgs, confirm},
    endpoint::{ask_for_token, write_token},
    failure::{Exit, Failure},
    output::{
        listing::{self, Column, Shape},
        sheet::changed,
        table::Tint,
        value::Value,
    },
    screen::Screen,
};

/// Operators belong to no site; that of central stands in their certificates.
const SITE: &str = "central";

#[derive(Debug, Subcommand)]
pub(crate) enum OperatorCommand {
    /// Lists those who are let in, by name
    List,
    /// Makes a token with which somebody becomes an operator, once
    Invite(InviteArgs),
    /// Refuses one from now on, with all his certificates or with one of them
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct InviteArgs {
    /// What he is called, in the audit log too
    name: String,
    /// For how long
    #[arg(long, value_name = "DURATION", default_value = "1day", value_parser = humantime::parse_duration)]
    valid: Duration,
    /// Where he finds central [default: its public address]
    #[arg(long, value_name = "HOST:PORT")]
    server: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// Name, or the serial of one certificate
    operator: String,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    confirm: ConfirmArgs,
}

const OPERATORS: Shape<v1::Operator> = Shape {
    columns: &[
        Column::new("name", |row| Value::text(&row.name)),
        Column::wide("site", |row| Value::text(&row.site)),
        Column::new("certificates", |row| Value::Count(row.certificates.into())),
        Column::new("issued", |row| Value::Time(row.issued)),
        Column::new("expires", |row| Value::Time(row.expires)),
        Column::new("serial", |row| Value::text(&row.serial)),
    ],
    tint: |_| Tint::Plain,
};

pub(crate) async fn run(
    screen: &mut Screen<'_>,
    central: &mut Central,
    command: OperatorCommand,
) -> Result<Exit, Failure> {
    match command {
        OperatorCommand::List => {
            let answer = central.list_operators(v1::ListOperatorsRequest {}).await;
            let answer = answer.map_err(Failure::call("list operators"))?;
            listing::write_all(screen, &OPERATORS, &answer.into_inner().operators)?;
        }
        OperatorCommand::Invite(InviteArgs { name, valid, server }) => {
            let request = v1::CreateTokenRequest {
                role: "operator".to_owned(),
                site: SITE.to_owned(),
                uses: 1,
                valid_seconds: valid.as_secs(),
                server,
                groups: Vec::new(),
                name: name.clone(),
            };
            let token = ask_for_token(central, request).await?;
            let commands = [format!("tierctl context join {}", token.token)];
            write_token(screen, token, &format!("as `{name}`, where he works"), &commands)?;
        }
        OperatorCommand::Revoke(RevokeArgs { operator, reason, confirm: asked }) => {
            confirm(screen, asked, &format!("revoke operator `{operator}`"), &operator)?;
            let request = v1::RevokeOperatorRequest { name_or_serial: operator.clone(), reason };
            let answer = central.revoke_operator(request).await;
            let answer = answer.map_err(Failure::call(format!("revoke operator `{operator}`")))?;
            let sentence = format!("revoked operator `{operator}`");
            let sequence = answer.into_inner().audit_sequence;
            changed(screen, &sentence, [("operator", Value::Text(operator))], sequence)?;
        }
    }
    Ok(Exit::Ok)
}
