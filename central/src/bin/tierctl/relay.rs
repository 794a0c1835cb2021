//! `tierctl relay`: one or more for each site.

use clap::{Args, Subcommand};
use tierway_proto::v1;

use crate::{
    client::Central,
    confirm::{ConfirmArgs, confirm},
    endpoint::{ON_THE_MACHINE, TokenUse, create_token, write_token},
    failure::{Exit, Failure},
    output::{
        listing::{self, Column, Shape},
        sheet::{Sheet, changed},
        table::Tint,
        value::Value,
    },
    screen::Screen,
    watch::{self, WatchArgs},
};

#[derive(Debug, Subcommand)]
pub(crate) enum RelayCommand {
    /// Lists them by name
    List {
        #[command(flatten)]
        watch: WatchArgs,
    },
    /// Shows one
    Show {
        /// Name or id
        relay: String,
    },
    /// Prints the two commands that make a bare machine the relay of a site
    Invite(InviteArgs),
    /// Refuses one from now on; what its endpoints tell it does not reach central any more
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct InviteArgs {
    /// Name of the site, new or known
    site: String,
    #[command(flatten)]
    use_: TokenUse,
}

#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// Name or id
    relay: String,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    confirm: ConfirmArgs,
}

const RELAYS: Shape<v1::Relay> = Shape {
    columns: &[
        Column::new("name", |row| Value::text(&row.name)),
        Column::new("site", |row| Value::text(&row.site)),
        Column::new("last_seen", |row| Value::Time(row.last_seen)),
        Column::new("dictionary", |row| Value::Number(row.timestamp_version)),
        Column::new("cache", |row| Value::Bytes(row.blob_bytes)),
        Column::new("quota", |row| Value::Bytes(row.blob_bytes_quota)),
        Column::new("waiting", |row| Value::Count(row.outbox_reports)),
        Column::new("oldest_waiting", |row| Value::Time(row.outbox_oldest)),
        Column::new("connected", |row| Value::Count(row.endpoints_connected.into())),
        Column::new("seen", |row| Value::Count(row.endpoints_seen.into())),
        Column::wide("agent_version", |row| Value::text(&row.agent_version)),
        Column::wide("enrolled_at", |row| Value::Time(row.enrolled_at)),
        Column::new("revoked", |row| Value::Flag(row.revoked)),
        Column::wide("id", |row| Value::text(&row.id)),
    ],
    tint: |row| if row.revoked { Tint::Faint } else { Tint::Plain },
};

pub(crate) async fn run(
    screen: &mut Screen<'_>,
    central: &mut Central,
    command: RelayCommand,
) -> Result<Exit, Failure> {
    match command {
        RelayCommand::List { watch } => {
            watch::repeat(screen, watch, async |screen| {
                listing::write_all(screen, &RELAYS, &relays(central).await?)?;
                Ok(Exit::Ok)
            })
            .await
        }
        RelayCommand::Show { relay } => {
            let found: Vec<v1::Relay> = relays(central)
                .await?
                .into_iter()
                .filter(|row| row.id == relay || row.name == relay)
                .collect();
            match <[v1::Relay; 1]>::try_from(found) {
                Ok([row]) => sheet(row).write(screen)?,
                Err(found) if found.is_empty() => {
                    return Err(Failure::Plain(format!(
                        "could not show relay `{relay}`: there is no relay `{relay}`"
                    )));
                }
                Err(found) => {
                    return Err(Failure::Plain(format!(
                        "could not show relay `{relay}`: {} have that name; give an id",
                        found.len()
                    )));
                }
            }
            Ok(Exit::Ok)
        }
        RelayCommand::Invite(InviteArgs { site, use_ }) => {
            let token = create_token(central, "relay", site, Vec::new(), use_).await?;
            let commands = [
                format!("tierway-relay join {}", token.token),
                "systemctl enable --now tierway-relay".to_owned(),
            ];
            write_token(screen, token, ON_THE_MACHINE, &commands)?;
            Ok(Exit::Ok)
        }
        RelayCommand::Revoke(RevokeArgs { relay, reason, confirm: asked }) => {
            confirm(screen, asked, &format!("revoke relay `{relay}`"), &relay)?;
            let change = central
                .revoke_relay(v1::RevokeRelayRequest { name_or_id: relay.clone(), reason })
                .await
                .map_err(Failure::call(format!("revoke relay `{relay}`")))?
                .into_inner();
            let sentence = format!("revoked relay `{relay}`");
            changed(screen, &sentence, [("relay", Value::Text(relay))], change.audit_sequence)?;
            Ok(Exit::Ok)
        }
    }
}

async fn relays(central: &mut Central) -> Result<Vec<v1::Relay>, Failure> {
    let answer = central.list_relays(v1::ListRelaysRequest {}).await.map_err(Failure::call("list relays"))?;
    Ok(answer.into_inner().relays)
}

fn sheet(relay: v1::Relay) -> Sheet {
    let v1::Relay {
        id,
        name,
        site,
        agent_version,
        last_seen,
        timestamp_version,
        blob_bytes,
        blob_bytes_quota,
        outbox_reports,
        outbox_oldest,
        endpoints_connected,
        endpoints_seen,
        enrolled_at,
        revoked,
    } = relay;
    Sheet::new([
        ("name", Value::Text(name)),
        ("id", Value::Text(id)),
        ("site", Value::Text(site)),
        ("agent_version", Value::Text(agent_version)),
        ("enrolled_at", Value::Time(enrolled_at)),
        ("revoked", Value::Flag(revoked)),
        ("last_seen", Value::Time(last_seen)),
        ("dictionary", Value::Number(timestamp_version)),
        ("cache", Value::Bytes(blob_bytes)),
        ("quota", Value::Bytes(blob_bytes_quota)),
        ("waiting", Value::Count(outbox_reports)),
        ("oldest_waiting", Value::Time(outbox_oldest)),
        ("connected", Value::Count(endpoints_connected.into())),
        ("seen", Value::Count(endpoints_seen.into())),
    ])
}
