//! `tierctl template`: computers that others shall be like.

use clap::{Args, Subcommand};
use tierway_proto::v1;

use crate::{
    client::Policies,
    confirm::{ConfirmArgs, confirm},
    failure::{Exit, Failure},
    output::{
        listing::{self, Column, Shape},
        sheet::{Sheet, changed, section},
        table::Tint,
        value::{Value, count_text},
    },
    patch::ConditionArgs,
    screen::Screen,
};

#[derive(Debug, Subcommand)]
pub(crate) enum TemplateCommand {
    /// Lists them by name
    List,
    /// Shows one with its patches
    Show {
        /// Name of the template
        template: String,
    },
    /// Keeps what is installed on an endpoint under a name
    Capture {
        /// Name or id of the endpoint
        endpoint: String,
        /// Name of the template; one of that name is replaced
        #[arg(long, value_name = "NAME")]
        name: String,
    },
    /// Lists what an endpoint lacks of one, and has beyond it
    Diff {
        /// Name of the template
        template: String,
        /// Name or id of the endpoint
        endpoint: String,
    },
    /// Approves all its patches for a group
    Apply(ApplyArgs),
    /// Deletes one; what it approved stays approved
    Delete {
        /// Name of the template
        template: String,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// Name of the template
    template: String,
    /// For this group
    #[arg(long, value_name = "NAME")]
    group: String,
    #[command(flatten)]
    conditions: ConditionArgs,
}

const TEMPLATES: Shape<v1::Template> = Shape {
    columns: &[
        Column::new("name", |row| Value::text(&row.name)),
        Column::new("endpoint", |row| Value::text(&row.endpoint_name)),
        Column::new("patches", |row| Value::Count(row.patches)),
        Column::new("captured", |row| Value::Time(row.at)),
        Column::new("by", |row| Value::text(&row.by)),
        Column::wide("endpoint_id", |row| Value::text(&row.endpoint)),
    ],
    tint: |_| Tint::Plain,
};

const PATCHES: Shape<String> =
    Shape { columns: &[Column::new("patch", |row| Value::text(row))], tint: |_| Tint::Plain };

const DIFFERENCES: Shape<v1::TemplateDifference> = Shape {
    columns: &[
        Column::new("patch", |row| Value::text(&row.patch)),
        Column::new("in_template", |row| Value::Flag(row.in_template)),
        Column::new("on_endpoint", |row| Value::text(&row.on_endpoint)),
    ],
    tint: |row| if row.in_template { Tint::Warn } else { Tint::Plain },
};

pub(crate) async fn run(
    screen: &mut Screen<'_>,
    policies: &mut Policies,
    command: TemplateCommand,
) -> Result<Exit, Failure> {
    match command {
        TemplateCommand::List => {
            let answer = policies.list_templates(v1::ListTemplatesRequest {}).await;
            let answer = answer.map_err(Failure::call("list templates"))?.into_inner();
            listing::write_all(screen, &TEMPLATES, &answer.templates)?;
        }
        TemplateCommand::Show { template } => show(screen, policies, template).await?,
        TemplateCommand::Capture { endpoint, name } => {
            let request = v1::CaptureTemplateRequest { name: name.clone(), endpoint: endpoint.clone() };
            let what = format!("capture `{endpoint}` as template `{name}`");
            let answer = policies.capture_template(request).await.map_err(Failure::call(what))?;
            let v1::CaptureTemplateResponse { audit_sequence, patches } = answer.into_inner();
            let sentence =
                format!("captured `{endpoint}` as template `{name}`: {} patches", count_text(patches));
            let fields = [("name", Value::Text(name)), ("patches", Value::Count(patches))];
            changed(screen, &sentence, fields, audit_sequence)?;
        }
        TemplateCommand::Diff { template, endpoint } => {
            let what = format!("compare template `{template}` with `{endpoint}`");
            let request = v1::DiffTemplateRequest { name: template, endpoint };
            let answer = policies.diff_template(request).await.map_err(Failure::call(what))?;
            listing::write_all(screen, &DIFFERENCES, &answer.into_inner().differences)?;
        }
        TemplateCommand::Apply(args) => apply(screen, policies, args).await?,
        TemplateCommand::Delete { template, confirm: asked } => {
            let what = format!("delete template `{template}`");
            confirm(screen, asked, &what, &template)?;
            let request = v1::DeleteTemplateRequest { name: template.clone() };
            let change = policies.delete_template(request).await.map_err(Failure::call(what))?.into_inner();
            let sentence = format!("deleted template `{template}`");
            changed(screen, &sentence, [("name", Value::Text(template))], change.audit_sequence)?;
        }
    }
    Ok(Exit::Ok)
}

async fn show(screen: &mut Screen<'_>, policies: &mut Policies, name: String) -> Result<(), Failure> {
    let what = format!("show template `{name}`");
    let answer = policies.get_template(v1::GetTemplateRequest { name }).await.map_err(Failure::call(what))?;
    let v1::TemplateDetail { template, patches } = answer.into_inner();
    let v1::Template { name, endpoint, endpoint_name, at, by, patches: count } = template.unwrap_or_default();
    Sheet::new([
        ("name", Value::Text(name)),
        ("endpoint", Value::Text(endpoint_name)),
        ("endpoint_id", Value::Text(endpoint)),
        ("captured", Value::Time(at)),
        ("by", Value::Text(by)),
        ("patches", Value::Count(count)),
    ])
    .with_json("names", serde_json::json!(patches))
    .write(screen)?;
    section(screen, "", &PATCHES, &patches)
}

async fn apply(screen: &mut Screen<'_>, policies: &mut Policies, args: ApplyArgs) -> Result<(), Failure> {
    let ApplyArgs { template, group, conditions } = args;
    let ConditionArgs { rings, passed_on, successes } = conditions;
    let what = format!("apply template `{template}` to group `{group}`");
    let request = v1::ApplyTemplateRequest {
        name: template.clone(),
        group: group.clone(),
        rings,
        passed_on,
        successes: successes.unwrap_or(0),
    };
    let answer = policies.apply_template(request).await.map_err(Failure::call(what))?.into_inner();
    let v1::DecidePatchesResponse { audit_sequence, patches } = answer;
    let count = count_text(patches.len() as u64);
    let sentence = format!("approved {count} patches of template `{template}` for group `{group}`");
    let fields = [
        ("template", Value::Text(template)),
        ("group", Value::Text(group)),
        ("patches", Value::Names(patches)),
    ];
    changed(screen, &sentence, fields, audit_sequence)
}
