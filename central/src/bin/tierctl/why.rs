//! `tierctl why`: the proof of what is needed where.

use clap::Args;
use tierway_common::rules::explain::{Explained, Node};
use tierway_proto::v1;

use crate::{
    client::Central,
    endpoint::state_tint,
    failure::{Exit, Failure},
    output::{
        Format,
        listing::{self, Column, Shape},
        sheet::Sheet,
        table::Tint,
        value::Value,
    },
    screen::{Screen, harmless},
};

/// Parts shown of each node unless `--tree` asks for all: an update of a large source package tests some
/// hundred packages, of which a few decide.
const PARTS_SHOWN: usize = 8;

#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// Name or id of the endpoint
    endpoint: String,
    /// Name or id of the patch
    patch: String,
    /// The whole rules instead of what decides
    #[arg(long, conflicts_with = "facts")]
    tree: bool,
    /// Only the facts that were read, as rows
    #[arg(long)]
    facts: bool,
}

struct FactRow {
    rule: &'static str,
    fact: Explained,
}

const FACTS: Shape<FactRow> = Shape {
    columns: &[
        Column::new("fact", |row| Value::text(row.fact.key.clone().unwrap_or_default())),
        Column::new("found", |row| Value::text(row.fact.found.clone().unwrap_or_default())),
        Column::new("source", |row| Value::text(row.fact.source.clone().unwrap_or_default())),
        Column::new("test", |row| Value::text(&row.fact.test)),
        Column::new("value", |row| Value::text(row.fact.value.as_str())),
        Column::new("reason", |row| Value::text(row.fact.reason.clone().unwrap_or_default())),
        Column::data("rule", |row| Value::text(row.rule)),
    ],
    tint: |_| Tint::Plain,
};

/// An explanation as it came, and read.
struct Tree {
    json: serde_json::Value,
    read: Option<Explained>,
}

impl Tree {
    /// # Errors
    ///
    /// When it is no explanation; an empty text is none and no error.
    fn parse(rule: &str, json: &str) -> Result<Self, Failure> {
        if json.is_empty() {
            return Ok(Self { json: serde_json::Value::Null, read: None });
        }
        let what = || format!("read central's explanation of the rule `{rule}`");
        Ok(Self {
            json: serde_json::from_str(json).map_err(Failure::local(what()))?,
            read: Some(serde_json::from_str(json).map_err(Failure::local(what()))?),
        })
    }
}

pub(crate) async fn run(
    screen: &mut Screen<'_>,
    central: &mut Central,
    args: WhyArgs,
) -> Result<Exit, Failure> {
    let WhyArgs { endpoint, patch, tree, facts } = args;
    let what = format!("say why for patch `{patch}` on endpoint `{endpoint}`");
    let answer = central.why(v1::WhyRequest { endpoint, patch }).await.map_err(Failure::call(what))?;
    let answer = answer.into_inner();
    let applicable = Tree::parse("applicable", &answer.applicable_json)?;
    let installed = Tree::parse("installed", &answer.installed_json)?;
    if facts {
        let mut rows = Vec::new();
        for (rule, tree) in [("applicable", applicable.read), ("installed", installed.read)] {
            if let Some(tree) = tree {
                facts_of(tree, rule, &mut rows);
            }
        }
        listing::write_all(screen, &FACTS, &rows)?;
        return Ok(Exit::Ok);
    }
    if !matches!(screen.options.output, Format::Table | Format::Wide) {
        sheet(answer, applicable.json, installed.json).write(screen)?;
        return Ok(Exit::Ok);
    }
    let shown = |tree: Tree, is_whole: bool| {
        tree.read.map(|tree| if is_whole { tree.to_string() } else { tree.prune(PARTS_SHOWN).to_string() })
    };
    proof(screen, answer, shown(applicable, tree), shown(installed, tree))?;
    Ok(Exit::Ok)
}

/// The facts a rule reads, in its order.
fn facts_of(mut tree: Explained, rule: &'static str, rows: &mut Vec<FactRow>) {
    for child in std::mem::take(&mut tree.children) {
        facts_of(child, rule, rows);
    }
    if tree.node == Node::Fact {
        rows.push(FactRow { rule, fact: tree });
    }
}

fn sheet(answer: v1::WhyResponse, applicable: serde_json::Value, installed: serde_json::Value) -> Sheet {
    let v1::WhyResponse {
        endpoint,
        patch,
        verdict,
        reported_state,
        reported_at,
        applicable_json: _,
        installed_json: _,
        summary,
        approval,
        would_change,
        facts_at,
        times,
    } = answer;
    let v1::PatchTimes { detected, authorized, applied } = times.unwrap_or_default();
    Sheet::new([
        ("endpoint", Value::Text(endpoint)),
        ("patch", Value::Text(patch)),
        ("verdict", Value::Text(verdict)),
        ("summary", Value::Text(summary)),
        ("reported_state", Value::Text(reported_state)),
        ("reported_at", Value::Time(reported_at)),
        ("facts_at", Value::Time(facts_at)),
        ("detected", Value::Time(detected)),
        ("authorized", Value::Time(authorized)),
        ("applied", Value::Time(applied)),
        ("approval", Value::Text(approval)),
    ])
    .with_json("would_change", serde_json::json!(would_change))
    .with_json("applicable", applicable)
    .with_json("installed", installed)
}

fn proof(
    screen: &mut Screen<'_>,
    answer: v1::WhyResponse,
    applicable: Option<String>,
    installed: Option<String>,
) -> Result<(), Failure> {
    let v1::WhyResponse {
        endpoint,
        patch,
        verdict,
        reported_state,
        reported_at,
        applicable_json: _,
        installed_json: _,
        summary,
        approval,
        would_change,
        facts_at,
        times,
    } = answer;
    let (now, is_wide) = (screen.now(), screen.options.output == Format::Wide);
    let at = |time: i64| if is_wide { Value::Time(time).long() } else { Value::Time(time).short(now) };
    let tint = match state_tint(&verdict) {
        Tint::Plain => Tint::Strong,
        tint => tint,
    };
    let title = tint.paint(&harmless(&verdict.to_uppercase()), screen.colours_out());
    let mut lines = vec![
        format!("{title}: {}", harmless(&summary)),
        harmless(&format!("patch {patch} on endpoint {endpoint}, by facts read {}", at(facts_at)))
            .into_owned(),
    ];
    if reported_at != 0 {
        // The endpoint's own word counts; where the two differ, something is on its way.
        let differs = if reported_state == verdict { "" } else { ", which differs" };
        let line = format!("the endpoint itself reported `{reported_state}` {}{differs}", at(reported_at));
        lines.push(harmless(&line).into_owned());
    }
    for (name, tree) in [("applicable", applicable), ("installed", installed)] {
        if let Some(tree) = tree {
            lines.push(format!("rule `{name}`"));
            lines.extend(tree.lines().map(|line| format!("  {}", harmless(line))));
        }
    }
    if !approval.is_empty() {
        lines.push(harmless(&approval).into_owned());
    }
    let v1::PatchTimes { detected, authorized, applied } = times.unwrap_or_default();
    if [detected, authorized, applied] != [0, 0, 0] {
        let line =
            format!("detected {}, authorized {}, applied {}", at(detected), at(authorized), at(applied));
        lines.push(line);
    }
    for (place, change) in would_change.iter().enumerate() {
        let first = if place == 0 { "would change if:" } else { "             or:" };
        lines.push(format!("{first} {}", harmless(change)));
    }
    for line in lines {
        writeln!(screen.out, "{line}")?;
    }
    screen.out.flush()?;
    Ok(())
}
