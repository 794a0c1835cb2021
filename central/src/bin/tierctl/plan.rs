//! `tierctl plan` and `tierctl apply`: what would come of a decision, and having exactly that done.

use clap::{Args, Subcommand};
use tierway_proto::v1;

use crate::{
    client::Central,
    failure::{Exit, Failure},
    output::{
        listing::{Column, Shape},
        sheet::{Sheet, changed, section},
        table::Tint,
        value::Value,
    },
    screen::Screen,
};

#[derive(Debug, Subcommand)]
pub(crate) enum PlanCommand {
    /// What comes of approving patches: computers, reboots, bytes over each link, windows, the end
    Approval(ApprovalArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ApprovalArgs {
    /// Names or ids
    #[arg(required = true)]
    patches: Vec<String>,
    /// For whom
    #[arg(long, value_name = "NAME", default_value = "everyone")]
    group: String,
    /// Ring after ring by this plan
    #[arg(long, value_name = "RING PLAN")]
    rings: Option<String>,
}

const LINKS: Shape<v1::SiteLink> = Shape {
    columns: &[
        Column::new("site", |row| Value::text(&row.site)),
        Column::new("endpoints", |row| Value::Count(row.endpoints)),
        Column::new("payloads", |row| Value::Count(row.payloads)),
        Column::new("bytes", |row| Value::Bytes(row.bytes)),
    ],
    tint: |_| Tint::Plain,
};

const FILLS: Shape<v1::WindowFill> = Shape {
    columns: &[
        Column::new("window", |row| Value::text(&row.window)),
        Column::new("zones", |row| Value::Names(row.zones.clone())),
        Column::new("opens", |row| Value::Time(row.opens)),
        Column::wide("closes", |row| Value::Time(row.closes)),
        Column::new("endpoints", |row| Value::Count(row.endpoints)),
        Column::new("used", |row| Value::Span(row.used_ms)),
        Column::new("available", |row| Value::Span(row.available_ms)),
        Column::new("full", |row| Value::Share { part: row.used_ms, whole: row.available_ms }),
        Column::new("carried_over", |row| Value::Count(row.carried_over)),
    ],
    tint: |row| if row.carried_over > 0 { Tint::Warn } else { Tint::Plain },
};

const UNFINISHED: Shape<v1::Unfinished> = Shape {
    columns: &[
        Column::new("never_finished", |row| Value::text(&row.name)),
        Column::new("reason", |row| Value::text(&row.reason)),
        Column::wide("id", |row| Value::text(&row.endpoint)),
    ],
    tint: |_| Tint::Bad,
};

pub(crate) async fn run(
    screen: &mut Screen<'_>,
    central: &mut Central,
    command: PlanCommand,
) -> Result<Exit, Failure> {
    let PlanCommand::Approval(ApprovalArgs { patches, group, rings }) = command;
    let request = v1::PlanApprovalRequest { patches, group: group.clone(), rings };
    let answer = central.plan_approval(request).await.map_err(Failure::call("plan the approval"))?;
    let v1::PlanApprovalResponse {
        plan,
        patches,
        endpoints,
        installations,
        reboots,
        finish,
        late,
        links,
        fills,
        unfinished,
        unfinished_count,
    } = answer.into_inner();
    Sheet::new([
        ("plan", Value::Text(plan)),
        ("patches", Value::Names(patches)),
        ("group", Value::Text(group)),
        ("endpoints", Value::Count(endpoints)),
        ("installations", Value::Count(installations)),
        ("reboots", Value::Count(reboots)),
        ("bytes", Value::Bytes(links.iter().map(|link| link.bytes).sum())),
        ("finish", Value::Time(finish)),
        ("late", Value::Count(late)),
        ("never_finished", Value::Count(unfinished_count)),
    ])
    .with_rows("links", &LINKS, &links)?
    .with_rows("windows", &FILLS, &fills)?
    .with_rows("unfinished", &UNFINISHED, &unfinished)?
    .write(screen)?;
    section(screen, "", &LINKS, &links)?;
    section(screen, "", &FILLS, &fills)?;
    section(screen, "", &UNFINISHED, &unfinished)?;
    Ok(Exit::Ok)
}

/// Has done what a plan says, or says what changed since.
pub(crate) async fn apply(
    screen: &mut Screen<'_>,
    central: &mut Central,
    plan: String,
) -> Result<Exit, Failure> {
    let what = format!("apply plan `{plan}`");
    let request = v1::ApplyPlanRequest { plan: plan.clone() };
    let answer = central.apply_plan(request).await.map_err(Failure::call(what))?;
    let v1::ApplyPlanResponse { audit_sequence, patches, drift } = answer.into_inner();
    if !drift.is_empty() {
        screen.note(&format!("plan `{plan}` has drifted and was not applied"))?;
        for change in drift {
            screen.note(&change)?;
        }
        return Ok(Exit::Drifted);
    }
    let sentence = format!("approved {}", patches.join(" "));
    let fields = [("plan", Value::Text(plan)), ("patches", Value::Names(patches))];
    changed(screen, &sentence, fields, audit_sequence)?;
    Ok(Exit::Ok)
}
