//! `tierctl rollout`: updates on their way through a ring plan.

use clap::{Args, Subcommand};
use tierway_proto::v1;

use crate::{
    client::Policies,
    failure::{Exit, Failure},
    output::{
        listing::{self, Column, Shape},
        sheet::{Sheet, changed, section},
        table::Tint,
        value::Value,
    },
    screen::Screen,
    watch::{self, WatchArgs},
};

#[derive(Debug, Subcommand)]
pub(crate) enum RolloutCommand {
    /// Lists them by plan
    List(ListArgs),
    /// Shows one with its rings
    Show(WhichArgs),
    /// Stops one: nobody begins to install, no ring opens
    Pause(WhichArgs),
    /// Lets one go on; failures until now are forgiven
    Resume(WhichArgs),
    /// Gives one up
    Abort(WhichArgs),
    /// Opens the next ring now
    Promote(WhichArgs),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ListArgs {
    /// Only by this plan
    #[arg(long, value_name = "NAME")]
    plan: Option<String>,
    #[command(flatten)]
    watch: WatchArgs,
}

#[derive(Debug, Args)]
pub(crate) struct WhichArgs {
    /// Name or id of the patch
    patch: String,
    /// By which plan [default: the only one]
    #[arg(long, value_name = "NAME")]
    plan: Option<String>,
}

fn tint(stage: &str) -> Tint {
    match stage {
        "halted" | "aborted" => Tint::Bad,
        "paused" => Tint::Warn,
        "complete" => Tint::Faint,
        _ => Tint::Plain,
    }
}

fn sum(row: &v1::Rollout, of: fn(&v1::RolloutRing) -> u64) -> Value {
    Value::Count(row.rings.iter().map(of).sum())
}

const ROLLOUTS: Shape<v1::Rollout> = Shape {
    columns: &[
        Column::new("plan", |row| Value::text(&row.plan)),
        Column::new("patch", |row| Value::text(&row.patch)),
        Column::new("stage", |row| Value::text(&row.stage)),
        Column::new("ring", |row| Value::text(&row.ring)),
        Column::new("since", |row| Value::Time(row.since)),
        Column::new("applicable", |row| sum(row, |ring| ring.applicable)),
        Column::new("successes", |row| sum(row, |ring| ring.successes)),
        Column::new("failures", |row| sum(row, |ring| ring.failures)),
        Column::new("waits", |row| Value::text(&row.waits)),
        Column::data("detail", |row| Value::text(&row.detail)),
    ],
    tint: |row| tint(&row.stage),
};

const RINGS: Shape<v1::RolloutRing> = Shape {
    columns: &[
        Column::new("ring", |row| Value::text(&row.name)),
        Column::new("open", |row| Value::Flag(row.open)),
        Column::new("endpoints", |row| Value::Count(row.endpoints)),
        Column::new("applicable", |row| Value::Count(row.applicable)),
        Column::new("successes", |row| Value::Count(row.successes)),
        Column::new("failures", |row| Value::Count(row.failures)),
    ],
    tint: |row| if row.failures > 0 { Tint::Bad } else { Tint::Plain },
};

pub(crate) async fn run(
    screen: &mut Screen<'_>,
    policies: &mut Policies,
    command: RolloutCommand,
) -> Result<Exit, Failure> {
    match command {
        RolloutCommand::List(args) => {
            watch::repeat(screen, args.watch, async |screen| {
                let rollouts = rollouts(policies, args.plan.clone()).await?;
                listing::write_all(screen, &ROLLOUTS, &rollouts)?;
                Ok(Exit::Ok)
            })
            .await
        }
        RolloutCommand::Show(args) => show(screen, policies, args).await,
        RolloutCommand::Pause(args) => control(screen, policies, args, "pause", "paused").await,
        RolloutCommand::Resume(args) => control(screen, policies, args, "resume", "resumed").await,
        RolloutCommand::Abort(args) => control(screen, policies, args, "abort", "aborted").await,
        RolloutCommand::Promote(args) => {
            control(screen, policies, args, "promote", "opened the next ring of").await
        }
    }
}

async fn rollouts(policies: &mut Policies, plan: Option<String>) -> Result<Vec<v1::Rollout>, Failure> {
    let request = v1::ListRolloutsRequest { plan };
    let answer = policies.list_rollouts(request).await.map_err(Failure::call("list rollouts"))?;
    Ok(answer.into_inner().rollouts)
}

/// The rollout of a patch; by which plan must be said when there are several.
async fn find(policies: &mut Policies, args: &WhichArgs) -> Result<v1::Rollout, Failure> {
    let all = rollouts(policies, args.plan.clone()).await?;
    let called = |id: &str| {
        let name = id.split_once('/').map_or(id, |(_, name)| name);
        let product = name.rsplit_once('_').map_or(name, |(product, _)| product);
        id == args.patch || name == args.patch || product == args.patch
    };
    let mut found: Vec<_> = all.into_iter().filter(|rollout| called(&rollout.patch)).collect();
    match found.len() {
        0 => Err(Failure::Plain(format!("there is no rollout of `{}`", args.patch))),
        1 => Ok(found.remove(0)),
        _ => {
            let names: Vec<_> = found.iter().map(|one| format!("{} by {}", one.patch, one.plan)).collect();
            Err(Failure::Usage(format!("`{}` names several rollouts: {}", args.patch, names.join(", "))))
        }
    }
}

async fn show(screen: &mut Screen<'_>, policies: &mut Policies, args: WhichArgs) -> Result<Exit, Failure> {
    let v1::Rollout { plan, patch, stage, ring, since, detail, waits, rings } = find(policies, &args).await?;
    Sheet::new([
        ("patch", Value::Text(patch)),
        ("plan", Value::Text(plan)),
        ("stage", Value::Text(stage)),
        ("ring", Value::Text(ring)),
        ("since", Value::Time(since)),
        ("detail", Value::Text(detail)),
        ("waits", Value::Text(waits)),
    ])
    .with_rows("rings", &RINGS, &rings)?
    .write(screen)?;
    section(screen, "", &RINGS, &rings)?;
    Ok(Exit::Ok)
}

async fn control(
    screen: &mut Screen<'_>,
    policies: &mut Policies,
    args: WhichArgs,
    verb: &'static str,
    done: &'static str,
) -> Result<Exit, Failure> {
    let v1::Rollout { plan, patch, .. } = find(policies, &args).await?;
    let request =
        v1::ControlRolloutRequest { plan: plan.clone(), patch: patch.clone(), verb: verb.to_owned() };
    let what = format!("{verb} the rollout of `{patch}` by `{plan}`");
    let change = policies.control_rollout(request).await.map_err(Failure::call(what))?.into_inner();
    let sentence = format!("{done} the rollout of `{patch}` by `{plan}`");
    let fields = [("plan", Value::Text(plan)), ("patch", Value::Text(patch)), ("verb", Value::text(verb))];
    changed(screen, &sentence, fields, change.audit_sequence)?;
    Ok(Exit::Ok)
}
