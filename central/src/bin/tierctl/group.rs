//! `tierctl group`: endpoints that are treated alike.

use std::{fs, path::PathBuf};

use clap::{Args, Subcommand};
use tierway_common::rules::expr::Expr;
use tierway_proto::v1;

use crate::{
    client::{Central, PAGE_ROWS, list_pages, one_part},
    confirm::{ConfirmArgs, confirm},
    failure::{Exit, Failure},
    output::{
        listing::{Column, Shape},
        sheet::{Sheet, changed},
        table::Tint,
        value::Value,
    },
    screen::Screen,
    watch::{self, WatchArgs},
};

#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// Lists them by name
    List {
        #[command(flatten)]
        watch: WatchArgs,
    },
    /// Shows one with its rule
    Show {
        /// Name of the group
        group: String,
    },
    /// Makes one, or changes what is given of it
    Set(SetArgs),
    /// Deletes one with its approvals
    Delete {
        /// Name of the group
        group: String,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// Name of the group
    group: String,
    /// Of two groups that decide differently the one with the higher priority wins [default: 0]
    #[arg(long, value_name = "NUMBER")]
    priority: Option<u32>,
    /// How its members are served
    #[arg(long, value_name = "NAME")]
    level: Option<String>,
    /// Its members are served as other groups of theirs say
    #[arg(long, conflicts_with = "level")]
    no_level: bool,
    #[command(flatten)]
    members: MembersArgs,
    /// Adds an endpoint to those named, may be given again
    #[arg(long, value_name = "NAME", conflicts_with_all = ["site", "tag", "rule", "everyone"])]
    add: Vec<String>,
    /// Takes an endpoint from those named, may be given again
    #[arg(long, value_name = "NAME", conflicts_with_all = ["site", "tag", "rule", "everyone"])]
    remove: Vec<String>,
}

/// Who belongs to it, when that changes.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct MembersArgs {
    /// These endpoints and no others, may be given again
    #[arg(long = "endpoint", value_name = "NAME")]
    endpoints: Vec<String>,
    /// All endpoints of a site
    #[arg(long, value_name = "NAME")]
    site: Option<String>,
    /// All endpoints that have a tag
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// All endpoints for whose facts the rule in this JSON file is true
    #[arg(long, value_name = "FILE")]
    rule: Option<PathBuf>,
    /// All endpoints
    #[arg(long)]
    everyone: bool,
}

fn members(group: &v1::Group) -> String {
    match group {
        _ if group.everyone => "everyone".to_owned(),
        v1::Group { site: Some(site), .. } => format!("site {site}"),
        v1::Group { tag: Some(tag), .. } => format!("tag {tag}"),
        v1::Group { rule_json: Some(_), .. } => "by rule".to_owned(),
        _ => "named".to_owned(),
    }
}

const GROUPS: Shape<v1::Group> = Shape {
    columns: &[
        Column::new("name", |row| Value::text(&row.name)),
        Column::new("priority", |row| Value::Count(row.priority.into())),
        Column::new("chosen", |row| Value::Text(members(row))),
        Column::new("members", |row| Value::Count(row.members)),
        Column::new("level", |row| Value::text(row.level.clone().unwrap_or_default())),
        Column::wide("endpoints", |row| Value::Names(row.endpoints.clone())),
        Column::data("rule", rule_value),
    ],
    tint: |_| Tint::Plain,
};

fn rule_value(group: &v1::Group) -> Value {
    match group.rule_json.as_deref() {
        None => Value::Json(serde_json::Value::Null),
        // Shown as a text when it is not what it should be: it is central's, and must be seen.
        Some(json) => serde_json::from_str(json).map_or_else(|_| Value::text(json), Value::Json),
    }
}

pub(crate) async fn run(
    screen: &mut Screen<'_>,
    central: &mut Central,
    command: GroupCommand,
) -> Result<Exit, Failure> {
    match command {
        GroupCommand::List { watch } => {
            watch::repeat(screen, watch, async |screen| list(screen, central).await).await
        }
        GroupCommand::Show { group } => {
            let found = find(central, &group)
                .await?
                .ok_or_else(|| Failure::Plain(format!("could not show group `{group}`: there is none")))?;
            let rule = rule_value(&found);
            Sheet::new([
                ("name", Value::text(&found.name)),
                ("priority", Value::Count(found.priority.into())),
                ("chosen", Value::Text(members(&found))),
                ("members", Value::Count(found.members)),
                ("level", Value::text(found.level.clone().unwrap_or_default())),
                ("endpoints", Value::Names(found.endpoints)),
                ("rule", rule),
            ])
            .write(screen)?;
            Ok(Exit::Ok)
        }
        GroupCommand::Set(args) => set(screen, central, args).await,
        GroupCommand::Delete { group, confirm: asked } => {
            confirm(screen, asked, &format!("delete group `{group}` with its approvals"), &group)?;
            let change = central
                .delete_group(v1::DeleteGroupRequest { name: group.clone() })
                .await
                .map_err(Failure::call(format!("delete group `{group}`")))?
                .into_inner();
            let sentence = format!("deleted group `{group}`");
            changed(screen, &sentence, [("group", Value::Text(group))], change.audit_sequence)?;
            Ok(Exit::Ok)
        }
    }
}

async fn list(screen: &mut Screen<'_>, central: &mut Central) -> Result<Exit, Failure> {
    let central = central.clone();
    list_pages(screen, &GROUPS, move |after| {
        let request = v1::ListGroupsRequest { name: None, limit: PAGE_ROWS, after };
        let mut central = central.clone();
        async move {
            let answer = central.list_groups(request).await.map_err(Failure::call("list groups"))?;
            let v1::ListGroupsResponse { groups, next } = answer.into_inner();
            Ok(one_part(groups, next))
        }
    })
    .await
}

async fn find(central: &mut Central, name: &str) -> Result<Option<v1::Group>, Failure> {
    let request = v1::ListGroupsRequest { name: Some(name.to_owned()), ..v1::ListGroupsRequest::default() };
    let answer = central.list_groups(request).await.map_err(Failure::call(format!("find group `{name}`")))?;
    Ok(answer.into_inner().groups.into_iter().find(|group| group.name == name))
}

async fn set(screen: &mut Screen<'_>, central: &mut Central, args: SetArgs) -> Result<Exit, Failure> {
    let name = args.group.clone();
    let rule = match &args.members.rule {
        None => None,
        Some(path) => {
            let what = || format!("read the rule `{}`", path.display());
            let text = fs::read_to_string(path).map_err(Failure::local(what()))?;
            let rule: Expr = serde_json::from_str(&text).map_err(Failure::local(what()))?;
            Some(serde_json::to_string(&rule).map_err(Failure::local(what()))?)
        }
    };
    let before = find(central, &name).await?;
    let is_new = before.is_none();
    let group = merge(before.unwrap_or_default(), args, rule);
    let change = central
        .set_group(v1::SetGroupRequest { group: Some(group) })
        .await
        .map_err(Failure::call(format!("set group `{name}`")))?
        .into_inner();
    let sentence = format!("{} group `{name}`", if is_new { "made" } else { "changed" });
    changed(screen, &sentence, [("group", Value::Text(name))], change.audit_sequence)?;
    Ok(Exit::Ok)
}

/// The group as it shall be: `before` with what the arguments give in its place.
fn merge(before: v1::Group, args: SetArgs, rule: Option<String>) -> v1::Group {
    let SetArgs { group, priority, level, no_level, members, add, remove } = args;
    let MembersArgs { endpoints, site, tag, rule: _, everyone } = members;
    let fresh = v1::Group {
        name: group.clone(),
        priority: before.priority,
        level: before.level.clone(),
        ..Default::default()
    };
    let mut after = if everyone {
        v1::Group { everyone, ..fresh }
    } else if site.is_some() {
        v1::Group { site, ..fresh }
    } else if tag.is_some() {
        v1::Group { tag, ..fresh }
    } else if rule.is_some() {
        v1::Group { rule_json: rule, ..fresh }
    } else if !endpoints.is_empty() {
        v1::Group { endpoints, ..fresh }
    } else if add.is_empty() && remove.is_empty() {
        v1::Group { name: group, ..before }
    } else {
        v1::Group { endpoints: before.endpoints, ..fresh }
    };
    after.priority = priority.unwrap_or(after.priority);
    after.level = level.or(after.level).filter(|_| !no_level);
    after.endpoints.retain(|name| !remove.contains(name));
    for name in add {
        if !after.endpoints.contains(&name) {
            after.endpoints.push(name);
        }
    }
    after.members = 0;
    after
}
