//! `tierctl report`: figures about the fleet over time.

mod svg;

use std::{fs, path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use jiff::SignedDuration;
use tierway_proto::v1;

use crate::{
    client::Central,
    failure::{Exit, Failure},
    output::{
        Format,
        listing::{self, Column, Shape},
        sheet::{Sheet, section},
        table::Tint,
        value::Value,
    },
    screen::Screen,
};

#[derive(Debug, Subcommand)]
pub(crate) enum ReportCommand {
    /// How long patches take from "found needed" to "verified", step by step
    TimeToPatch(TimeToPatchArgs),
}

#[derive(Debug, Args)]
pub(crate) struct TimeToPatchArgs {
    /// One line for each of these instead of one for all
    #[arg(long, value_enum)]
    by: Option<By>,
    /// Only what was found needed in this time
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    since: Option<Duration>,
    /// Also draws the share of patched computers over time into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum By {
    /// How bad it is if the patch is missing
    Severity,
    /// Groups of endpoints
    Group,
    /// Sites
    Site,
}

impl By {
    fn as_str(self) -> &'static str {
        match self {
            Self::Severity => "severity",
            Self::Group => "group",
            Self::Site => "site",
        }
    }
}

const LINES: Shape<v1::TimeLine> = Shape {
    columns: &[
        Column::new("of", |row| Value::text(&row.key)),
        Column::new("span", |row| Value::text(&row.span)),
        Column::new("count", |row| Value::Count(row.count)),
        Column::new("p50", |row| Value::Span(row.p50_ms)),
        Column::new("p90", |row| Value::Span(row.p90_ms)),
        Column::new("p99", |row| Value::Span(row.p99_ms)),
    ],
    tint: |_| Tint::Plain,
};

const CURVES: Shape<v1::TimeCurve> = Shape {
    columns: &[
        Column::new("of", |row| Value::text(&row.key)),
        Column::new("patched", |row| Value::Count(row.patched)),
        Column::new("open", |row| Value::Count(row.open)),
        Column::new("share", |row| Value::Share { part: row.patched, whole: row.patched + row.open }),
        Column::data("points", |row| {
            let points = row.points.iter().map(|point| [point.after_ms, point.patched]);
            Value::Json(points.collect::<Vec<_>>().into())
        }),
    ],
    tint: |_| Tint::Plain,
};

pub(crate) async fn run(
    screen: &mut Screen<'_>,
    central: &mut Central,
    command: ReportCommand,
) -> Result<Exit, Failure> {
    let ReportCommand::TimeToPatch(args) = command;
    time_to_patch(screen, central, &args).await
}

async fn time_to_patch(
    screen: &mut Screen<'_>,
    central: &mut Central,
    args: &TimeToPatchArgs,
) -> Result<Exit, Failure> {
    let now = screen.now();
    let since = args.since.map(|since| {
        let since = SignedDuration::try_from(since).ok().and_then(|since| now.checked_sub(since).ok());
        since.ok_or_else(|| Failure::Usage("`--since` reaches back further than there are years".to_owned()))
    });
    let since = since.transpose()?.map_or(0, |since| since.as_millisecond());
    let by = args.by.map(By::as_str).unwrap_or_default();
    let request = v1::TimeToPatchRequest { by: by.to_owned(), since };
    let answer = central.time_to_patch(request).await.map_err(Failure::call("report the time to patch"))?;
    let v1::TimeToPatchResponse { lines, curves, left_out } = answer.into_inner();
    if let Some(path) = &args.svg {
        let days = args.since.map_or("all of the time".to_owned(), |since| {
            format!("found needed in the last {}", humantime::format_duration(since))
        });
        let subtitle = format!("{days}, as of {}", now.strftime("%Y-%m-%d %H:%M UTC"));
        let drawn = svg::curves("Time to patch", &subtitle, &curves);
        fs::write(path, drawn).map_err(Failure::local(format!("write `{}`", path.display())))?;
        screen.note(&format!("drew the curves into `{}`", path.display()))?;
    }
    if left_out > 0 {
        screen.note(&format!(
            "{left_out} more are left out, for one report has no more; ask by site or severity"
        ))?;
    }
    match screen.options.output {
        Format::Csv | Format::Jsonl => listing::write_all(screen, &LINES, &lines)?,
        Format::Json => {
            let none: [(&'static str, Value); 0] = [];
            let sheet = Sheet::new(none).with_rows("spans", &LINES, &lines)?;
            sheet.with_rows("curves", &CURVES, &curves)?.write(screen)?;
        }
        Format::Table | Format::Wide => {
            listing::write_all(screen, &LINES, &lines)?;
            section(screen, "", &CURVES, &curves)?;
        }
    }
    Ok(Exit::Ok)
}
