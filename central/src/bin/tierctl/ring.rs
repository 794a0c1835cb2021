//! `tierctl ring`: plans by which an update spreads ring after ring.

use clap::{Args, Subcommand};
use tierway_common::{
    id::RingPlanId,
    schema::policy::{Ring, RingMembers, RingPlan},
};
use tierway_proto::v1;

use crate::{
    client::{PAGE_ROWS, Policies, list_pages, one_part},
    confirm::ConfirmArgs,
    document::{self, FileArgs, RING_PLAN},
    failure::{Exit, Failure},
    output::{
        listing::{Column, Shape},
        table::Tint,
        value::Value,
    },
    screen::Screen,
};

#[derive(Debug, Subcommand)]
pub(crate) enum RingCommand {
    /// Lists the plans by name
    List,
    /// Shows a plan with its rings
    Show {
        /// Name of the plan
        plan: String,
    },
    /// Lists which endpoint stands in which ring of a plan, and why, in the order in which they enrolled
    Members(MembersArgs),
    /// Makes or replaces a plan
    Set(SetArgs),
    /// Deletes a plan that no approval goes by
    Delete {
        /// Name of the plan
        plan: String,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct MembersArgs {
    /// Name of the plan
    plan: String,
    /// Only of this ring
    #[arg(long, value_name = "NAME")]
    ring: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// Name of the plan
    plan: RingPlanId,
    #[command(flatten)]
    file: FileArgs,
    /// A ring, in the order in which they open: `NAME:WHO` with WHO `group=NAME`, `5%` or `rest`, then
    /// `:soak=2days`, `:successes=20`, `:failures=2%` (more halt), `:failures-min=2`
    #[arg(
        long = "ring",
        value_name = "NAME:WHO[:...]",
        value_parser = ring,
        required_unless_present = "file",
        conflicts_with = "file"
    )]
    rings: Vec<Ring>,
}

/// Thousandths of a share such as `5%`, `0.5%` or `20permille`.
pub(crate) fn permille(text: &str) -> Result<u16, String> {
    let wrong = || format!("`{text}` is no share such as `5%` or `0.5%`");
    let number = text.strip_suffix('%').ok_or_else(wrong)?.trim_end();
    let (whole, tenths) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty();
    if !digits(whole) || !digits(tenths) || tenths.len() > 1 {
        return Err(wrong());
    }
    let (whole, tenths): (u16, u16) =
        (whole.parse().map_err(|_| wrong())?, tenths.parse().map_err(|_| wrong())?);
    whole.checked_mul(10).and_then(|whole| whole.checked_add(tenths)).ok_or_else(wrong)
}

fn ring(text: &str) -> Result<Ring, String> {
    let mut parts = text.split(':');
    let (Some(name), Some(who)) = (parts.next(), parts.next()) else {
        return Err("a ring is NAME:WHO".to_owned());
    };
    let who = match (who, who.split_once('=')) {
        ("rest", _) => RingMembers::Rest,
        (_, Some(("group", group))) => RingMembers::Group(group.parse().map_err(|error| format!("{error}"))?),
        (share, _) => RingMembers::Permille(permille(share)?),
    };
    // What is not said has the value that documents have without it.
    let bare = serde_json::json!({ "name": name, "who": who });
    let mut ring: Ring = serde_json::from_value(bare).map_err(|error| error.to_string())?;
    for part in parts {
        let number = |text: &str| text.parse().map_err(|_| format!("`{text}` is no number"));
        match part.split_once('=') {
            Some(("soak", soak)) => {
                ring.soak = humantime::parse_duration(soak).map_err(|error| error.to_string())?;
            }
            Some(("successes", least)) => ring.successes_at_least = number(least)?,
            Some(("failures", share)) => ring.failure_permille_max = permille(share)?,
            Some(("failures-min", least)) => ring.failures_min = number(least)?,
            _ => return Err(format!("`{part}` is none of soak=, successes=, failures=, failures-min=")),
        }
    }
    Ok(ring)
}

fn who_text(who: &RingMembers) -> String {
    match who {
        RingMembers::Group(group) => format!("group={group}"),
        RingMembers::Permille(share) if share % 10 == 0 => format!("{}%", share / 10),
        RingMembers::Permille(share) => format!("{}.{}%", share / 10, share % 10),
        RingMembers::Rest => "rest".to_owned(),
    }
}

fn rings(policy: &v1::Policy) -> Value {
    match serde_json::from_str::<RingPlan>(&policy.json) {
        Ok(plan) => {
            let text = |ring: &Ring| format!("{}:{}", ring.name, who_text(&ring.who));
            Value::Names(plan.rings.iter().map(text).collect())
        }
        Err(_) => Value::text("?"),
    }
}

const PLANS: Shape<v1::Policy> = Shape {
    columns: &[
        Column::new("name", |row| Value::text(&row.name)),
        Column::new("rings", rings),
        Column::new("used_by", |row| Value::text(&row.used_by)),
        Column::data("document", document::whole),
    ],
    tint: |_| Tint::Plain,
};

const MEMBERS: Shape<v1::RingMember> = Shape {
    columns: &[
        Column::new("name", |row| Value::text(&row.name)),
        Column::new("site", |row| Value::text(&row.site)),
        Column::new("ring", |row| Value::text(&row.ring)),
        Column::wide("place", |row| Value::Number(row.place.into())),
        Column::new("why", |row| Value::text(&row.why)),
        Column::wide("id", |row| Value::text(&row.endpoint)),
    ],
    tint: |_| Tint::Plain,
};

async fn members(
    screen: &mut Screen<'_>,
    policies: &mut Policies,
    args: MembersArgs,
) -> Result<Exit, Failure> {
    let MembersArgs { plan, ring } = args;
    let policies = policies.clone();
    list_pages(screen, &MEMBERS, move |after| {
        let request =
            v1::ListRingMembersRequest { plan: plan.clone(), ring: ring.clone(), limit: PAGE_ROWS, after };
        let (mut policies, what) = (policies.clone(), format!("list the members of ring plan `{plan}`"));
        async move {
            let answer = policies.list_ring_members(request).await.map_err(Failure::call(what))?;
            let v1::ListRingMembersResponse { members, next } = answer.into_inner();
            Ok(one_part(members, next))
        }
    })
    .await
}

pub(crate) async fn run(
    screen: &mut Screen<'_>,
    policies: &mut Policies,
    command: RingCommand,
) -> Result<Exit, Failure> {
    match command {
        RingCommand::List => document::list(screen, policies, RING_PLAN, &PLANS).await,
        RingCommand::Show { plan } => document::show(screen, policies, RING_PLAN, &plan).await,
        RingCommand::Members(args) => members(screen, policies, args).await,
        RingCommand::Set(SetArgs { plan, file, rings }) => match file.file {
            Some(path) => {
                let json = document::read_named(RING_PLAN, &path, plan.as_str())?;
                document::set(screen, policies, RING_PLAN, &json).await
            }
            None => document::set(screen, policies, RING_PLAN, &RingPlan { id: plan, rings }).await,
        },
        RingCommand::Delete { plan, confirm } => {
            document::delete(screen, policies, RING_PLAN, plan, confirm).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_to_the_thousandth_and_other_texts_are_refused() {
        for (text, expected) in [("5%", 50), ("0.5%", 5), ("100%", 1_000), ("0%", 0)] {
            assert_eq!(permille(text), Ok(expected), "{text}");
        }
        for text in ["5", "%", "0.55%", "-1%", "1e3%", "99999%", ".5%"] {
            permille(text).expect_err(text);
        }
    }

    #[test]
    fn a_ring_that_says_little_has_the_thresholds_of_documents() {
        let parsed = ring("pilot:5%:soak=2days:successes=20").unwrap();
        assert_eq!(
            serde_json::to_value(&parsed).unwrap(),
            serde_json::json!({"name": "pilot", "who": {"permille": 50}, "soak": "2days",
                "successes_at_least": 20, "failure_permille_max": 20, "failures_min": 2})
        );
        for text in ["pilot", "pilot:some", "pilot:5%:soak", "pilot:5%:soak=x", "pilot:group=a b"] {
            ring(text).expect_err(text);
        }
    }
}
