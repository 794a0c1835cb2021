//! `tierctl audit`: what operators did, and whether the record of it is whole.

use clap::{Args, Subcommand};
use tierway_proto::v1;

use crate::{
    client::{Central, PAGE_ROWS},
    failure::{Exit, Failure},
    output::{
        listing::{Column, Listing, Shape},
        sheet::Sheet,
        table::Tint,
        value::{Value, count_text},
    },
    screen::Screen,
    watch::{self, WatchArgs},
};

#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Lists records, newest first
    List(ListArgs),
    /// Checks the chain of digests over all records
    Verify,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ListArgs {
    /// At most so many; 0 for all
    #[arg(long, default_value_t = 50)]
    limit: u64,
    /// Only records before this sequence number
    #[arg(long, value_name = "SEQUENCE")]
    before: Option<u64>,
    #[command(flatten)]
    watch: WatchArgs,
}

const RECORDS: Shape<v1::AuditRecord> = Shape {
    columns: &[
        Column::new("sequence", |row| Value::Number(row.sequence)),
        Column::new("at", |row| Value::Time(row.at)),
        Column::new("actor", |row| Value::text(&row.actor)),
        Column::new("action", |row| Value::text(&row.action)),
        Column::new("object", |row| Value::text(&row.object)),
        Column::new("detail", |row| Value::text(&row.detail)),
        Column::wide("digest", |row| Value::text(&row.digest)),
    ],
    tint: |_| Tint::Plain,
};

pub(crate) async fn run(
    screen: &mut Screen<'_>,
    central: &mut Central,
    command: AuditCommand,
) -> Result<Exit, Failure> {
    match command {
        AuditCommand::List(args) => {
            watch::repeat(screen, args.watch, async |screen| list(screen, central, args).await).await
        }
        AuditCommand::Verify => verify(screen, central).await,
    }
}

async fn list(screen: &mut Screen<'_>, central: &mut Central, args: ListArgs) -> Result<Exit, Failure> {
    let mut listing = Listing::new(&RECORDS, &screen.options)?;
    let mut left = if args.limit == 0 { u64::MAX } else { args.limit };
    // 0 asks for the newest.
    let mut before = args.before.unwrap_or(0);
    if args.before == Some(0) {
        left = 0;
    }
    while left > 0 {
        let limit = u32::try_from(left).unwrap_or(u32::MAX).min(PAGE_ROWS);
        let answer = central
            .list_audit(v1::ListAuditRequest { limit, before })
            .await
            .map_err(Failure::call("list the audit log"))?;
        let v1::ListAuditResponse { records } = answer.into_inner();
        for record in &records {
            if before != 0 && record.sequence >= before {
                return Err(Failure::Plain(format!(
                    "central answered with audit record {} where one before {before} was asked for",
                    record.sequence
                )));
            }
            before = record.sequence;
            if left == 0 {
                break;
            }
            listing.push(screen, record)?;
            left -= 1;
        }
        if records.is_empty() || before == 0 {
            break;
        }
    }
    listing.finish(screen)?;
    Ok(Exit::Ok)
}

async fn verify(screen: &mut Screen<'_>, central: &mut Central) -> Result<Exit, Failure> {
    let answer = central
        .verify_audit(v1::VerifyAuditRequest {})
        .await
        .map_err(Failure::call("verify the audit log"))?;
    let v1::VerifyAuditResponse { records, head, broken_at } = answer.into_inner();
    let sentence = match &broken_at {
        None => format!("{} audit records are whole, the last is {head}", count_text(records)),
        Some(at) => format!("the audit log is broken: {at}"),
    };
    Sheet::new([
        ("records", Value::Count(records)),
        ("head", Value::text(head)),
        ("broken_at", Value::text(broken_at.clone().unwrap_or_default())),
    ])
    .write_outcome(screen, &sentence)?;
    Ok(if broken_at.is_none() { Exit::Ok } else { Exit::Failed })
}
