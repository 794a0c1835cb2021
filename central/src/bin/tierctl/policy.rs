//! `tierctl policy`: what is decided without asking.

use std::time::Duration;

use clap::{Args, Subcommand};
use tierway_proto::v1;

use crate::{
    client::Central,
    confirm::{ConfirmArgs, confirm},
    failure::{Exit, Failure},
    output::{
        listing::{self, Column, Shape},
        sheet::changed,
        table::Tint,
        value::{Value, span_text},
    },
    patch::Severity,
    screen::Screen,
    watch::{self, WatchArgs},
};

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Rules by which new updates are approved
    #[command(subcommand)]
    Auto(AutoCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum AutoCommand {
    /// Lists them by name
    List {
        #[command(flatten)]
        watch: WatchArgs,
    },
    /// Makes or replaces one
    Set(SetArgs),
    /// Deletes one; what it approved stays approved
    Delete {
        /// Name of the rule
        name: String,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// Name of the rule
    name: String,
    /// Approves for this group
    #[arg(long, value_name = "NAME", default_value = "everyone")]
    group: String,
    /// Only updates of this catalogue
    #[arg(long, value_name = "NAME")]
    catalogue: Option<String>,
    /// Only updates at least this severe
    #[arg(long, value_enum)]
    severity: Option<Severity>,
    /// Only updates whose name matches, such as `openssl_*`
    #[arg(long, value_name = "GLOB")]
    matching: Option<String>,
    /// Only updates that are known this long: by the vendor's date, or else since central first saw them
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = humantime::parse_duration)]
    age: Duration,
    /// Ring after ring by this plan
    #[arg(long, value_name = "PLAN")]
    rings: Option<String>,
}

const RULES: Shape<v1::AutoApproval> = Shape {
    columns: &[
        Column::new("name", |row| Value::text(&row.name)),
        Column::new("group", |row| Value::text(&row.group)),
        Column::new("catalogue", |row| Value::text(row.catalogue.clone().unwrap_or_default())),
        Column::new("severity_at_least", |row| {
            Value::text(row.severity_at_least.clone().unwrap_or_default())
        }),
        Column::new("matching", |row| Value::text(row.matching.clone().unwrap_or_default())),
        Column::tables("age_at_least", |row| {
            Value::Text(span_text(row.age_at_least_seconds.saturating_mul(1000)))
        }),
        Column::new("rings", |row| Value::text(row.rings.clone().unwrap_or_default())),
        Column::data("age_at_least_seconds", |row| Value::Count(row.age_at_least_seconds)),
    ],
    tint: |_| Tint::Plain,
};

pub(crate) async fn run(
    screen: &mut Screen<'_>,
    central: &mut Central,
    command: PolicyCommand,
) -> Result<Exit, Failure> {
    let PolicyCommand::Auto(command) = command;
    match command {
        AutoCommand::List { watch } => {
            return watch::repeat(screen, watch, async |screen| {
                let answer = central
                    .list_auto_approvals(v1::ListAutoApprovalsRequest {})
                    .await
                    .map_err(Failure::call("list the rules for approval"))?;
                let v1::ListAutoApprovalsResponse { rules } = answer.into_inner();
                listing::write_all(screen, &RULES, &rules)?;
                Ok(Exit::Ok)
            })
            .await;
        }
        AutoCommand::Set(args) => {
            let SetArgs { name, group, catalogue, severity, matching, age, rings } = args;
            let rule = v1::AutoApproval {
                name: name.clone(),
                group,
                catalogue,
                severity_at_least: severity.map(|severity| severity.as_str().to_owned()),
                matching,
                age_at_least_seconds: age.as_secs(),
                rings,
            };
            let change = central
                .set_auto_approval(v1::SetAutoApprovalRequest { rule: Some(rule) })
                .await
                .map_err(Failure::call(format!("set the rule `{name}`")))?
                .into_inner();
            let sentence = format!("set the rule `{name}`");
            changed(screen, &sentence, [("name", Value::Text(name))], change.audit_sequence)?;
        }
        AutoCommand::Delete { name, confirm: asked } => {
            confirm(screen, asked, &format!("delete the rule `{name}`"), &name)?;
            let change = central
                .delete_auto_approval(v1::DeleteAutoApprovalRequest { name: name.clone() })
                .await
                .map_err(Failure::call(format!("delete the rule `{name}`")))?
                .into_inner();
            let sentence = format!("deleted the rule `{name}`");
            changed(screen, &sentence, [("name", Value::Text(name))], change.audit_sequence)?;
        }
    }
    Ok(Exit::Ok)
}
