//! `tierctl trust`: which updates have proven themselves, and when one has.

use std::time::Duration;

use clap::{Args, Subcommand};
use tierway_common::schema::policy::TrustPolicy;
use tierway_proto::v1;

use crate::{
    client::Policies,
    confirm::ConfirmArgs,
    document::{self, FileArgs, TRUST},
    failure::{Exit, Failure},
    output::{
        listing::{Column, Shape},
        sheet::{Sheet, changed, section},
        table::Tint,
        value::Value,
    },
    ring::permille,
    screen::Screen,
};

#[derive(Debug, Subcommand)]
pub(crate) enum TrustCommand {
    /// Shows the policy and the patches that are not trusted yet, with what they wait for
    Show,
    /// Makes or changes the policy by which a patch is trusted by itself
    Set(SetArgs),
    /// Trusts patches because you vouch for them
    Promote {
        /// Names or ids
        #[arg(required = true)]
        patches: Vec<String>,
    },
    /// Deletes the policy: every patch is trusted
    Delete {
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    #[command(flatten)]
    file: FileArgs,
    /// So many computers that take untrusted patches must have installed it
    #[arg(long, value_name = "NUMBER", required_unless_present = "file")]
    successes: Option<u32>,
    /// The first of them so long ago
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = humantime::parse_duration,
        required_unless_present = "file"
    )]
    over: Option<Duration>,
    /// With no more failures of all attempts
    #[arg(long, value_name = "SHARE", value_parser = permille, default_value = "2%")]
    failures: u16,
}

const UNTRUSTED: Shape<v1::UntrustedPatch> = Shape {
    columns: &[
        Column::new("patch", |row| Value::text(&row.patch)),
        Column::new("applicable", |row| Value::Count(row.applicable)),
        Column::new("successes", |row| Value::Count(row.successes)),
        Column::new("failures", |row| Value::Count(row.failures)),
        Column::new("waits", |row| Value::text(&row.waits)),
    ],
    tint: |row| if row.failures > 0 { Tint::Bad } else { Tint::Plain },
};

pub(crate) async fn run(
    screen: &mut Screen<'_>,
    policies: &mut Policies,
    command: TrustCommand,
) -> Result<Exit, Failure> {
    match command {
        TrustCommand::Show => show(screen, policies).await,
        TrustCommand::Set(SetArgs { file, successes, over, failures }) => {
            let policy = match (file.file, successes, over) {
                (Some(path), ..) => serde_json::Value::Object(document::read_file(&path)?),
                (None, Some(successes_at_least), Some(over)) => {
                    let policy = TrustPolicy { successes_at_least, over, failure_permille_max: failures };
                    serde_json::to_value(policy).map_err(Failure::local("write the policy as JSON"))?
                }
                (None, ..) => return Err(Failure::Usage("give `--successes` and `--over`".to_owned())),
            };
            document::set(screen, policies, TRUST, &policy).await
        }
        TrustCommand::Promote { patches } => {
            let request = v1::TrustPatchesRequest { patches };
            let answer = policies.trust_patches(request).await.map_err(Failure::call("trust patches"))?;
            let v1::TrustPatchesResponse { audit_sequence, patches } = answer.into_inner();
            let sentence = match patches.is_empty() {
                true => "trusted already".to_owned(),
                false => format!("trusted {}", patches.join(" ")),
            };
            changed(screen, &sentence, [("patches", Value::Names(patches))], audit_sequence)?;
            Ok(Exit::Ok)
        }
        TrustCommand::Delete { confirm } => {
            document::delete(screen, policies, TRUST, "trust".to_owned(), confirm).await
        }
    }
}

async fn show(screen: &mut Screen<'_>, policies: &mut Policies) -> Result<Exit, Failure> {
    let policy = document::find(policies, TRUST, "trust").await?;
    let answer = policies
        .list_untrusted(v1::ListUntrustedRequest {})
        .await
        .map_err(Failure::call("list untrusted patches"))?;
    let v1::ListUntrustedResponse { patches, testers, trusted } = answer.into_inner();
    let said = match &policy {
        None => "none: every patch is trusted".to_owned(),
        Some(found) => {
            let TrustPolicy { successes_at_least, over, failure_permille_max } =
                serde_json::from_str(&found.json).map_err(Failure::local("read the trust policy"))?;
            format!(
                "{successes_at_least} successes, the first {} ago, at most {failure_permille_max} of 1000 failed",
                humantime::format_duration(over)
            )
        }
    };
    Sheet::new([
        ("policy", Value::Text(said)),
        ("testers", Value::Count(testers)),
        ("trusted", Value::Count(trusted)),
        ("untrusted", Value::Count(patches.len() as u64)),
    ])
    .with_rows("patches", &UNTRUSTED, &patches)?
    .write(screen)?;
    section(screen, "", &UNTRUSTED, &patches)?;
    Ok(Exit::Ok)
}
