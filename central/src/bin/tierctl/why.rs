//! `tierctl why`: the proof of what is needed where.

use clap::Args;
use tierway_proto::v1;

use crate::{
    client::Central,
    failure::{Exit, Failure},
    output::{Format, sheet::Sheet, table::Tint, value::Value},
    screen::{Screen, harmless},
};

#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// Name or id of the endpoint
    endpoint: String,
    /// Name or id of the patch
    patch: String,
}

pub(crate) async fn run(
    screen: &mut Screen<'_>,
    central: &mut Central,
    args: WhyArgs,
) -> Result<Exit, Failure> {
    let WhyArgs { endpoint, patch } = args;
    let what = format!("say why for `{patch}` on `{endpoint}`");
    let answer = central.why(v1::WhyRequest { endpoint, patch }).await.map_err(Failure::call(what))?;
    let v1::WhyResponse {
        endpoint,
        patch,
        verdict,
        reported_state,
        reported_at,
        applicable_json,
        installed_json,
        summary,
        approval,
        would_change,
        facts_at,
        times,
    } = answer.into_inner();
    let v1::PatchTimes { detected, authorized, applied } = times.unwrap_or_default();
    let tree = |name: &str, json: &str| match json {
        "" => Ok(serde_json::Value::Null),
        json => {
            serde_json::from_str(json).map_err(Failure::local(format!("read the explanation of `{name}`")))
        }
    };
    let (applicable, installed) =
        (tree("applicable", &applicable_json)?, tree("installed", &installed_json)?);
    if !matches!(screen.options.output, Format::Table | Format::Wide) {
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
        .write(screen)?;
        return Ok(Exit::Ok);
    }
    let title = Tint::Strong.paint(&harmless(&verdict).to_uppercase(), screen.colours_out());
    writeln!(screen.out, "{title}: {}", harmless(&summary))?;
    screen.out.flush()?;
    Ok(Exit::Ok)
}
