//! `tierctl status`: how the fleet stands, on one screen.

use clap::Args;
use jiff::Timestamp;
use tierway_proto::v1;

use crate::{
    client::Central,
    failure::{Exit, Failure},
    output::{
        Format,
        listing::{Column, Shape},
        sheet::{Sheet, section},
        table::Tint,
        value::{Value, count_text, share_text, span_text},
    },
    patch::Severity,
    screen::{Screen, harmless},
    watch::{self, WatchArgs},
};

#[derive(Clone, Debug, Args)]
pub(crate) struct StatusArgs {
    /// Only endpoints of this site
    #[arg(long, value_name = "NAME")]
    site: Option<String>,
    /// Only endpoints of this group
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// Only updates of this severity
    #[arg(long, value_enum)]
    severity: Option<Severity>,
    /// Exits with 3 when fewer endpoints comply, in per cent of those assessed
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    fail_under: Option<f64>,
    #[command(flatten)]
    watch: WatchArgs,
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse::<f64>().map_err(|error| error.to_string())?;
    if (0.0..=100.0).contains(&number) { Ok(number) } else { Err("it is not between 0 and 100".to_owned()) }
}

/// Age of the published timestamp metadata from which on endpoints refuse it: its validity.
const DICTIONARY_AGE_MAX_MS: i64 = 24 * 60 * 60 * 1000;
/// Share of endpoints whose last report is older than their check interval, per cent, above which the
/// figures say more about the past than about now. Some are always off.
const STALE_PERCENT_MAX: u64 = 5;

/// Why the answer cannot be taken for the present state, one sentence for each reason; empty when it
/// can. The dictionary counts as expired when it was never published or signed longer ago than
/// [`DICTIONARY_AGE_MAX_MS`]; the fleet as partly unknown when more than [`STALE_PERCENT_MAX`] per cent of
/// its endpoints have not reported within their check interval.
fn staleness(status: &v1::FleetStatus, now: Timestamp) -> Vec<String> {
    let mut reasons = Vec::new();
    let age = now.as_millisecond().saturating_sub(status.dictionary_at);
    if status.dictionary_version == 0 {
        reasons.push("the dictionary was never published".to_owned());
    } else if age > DICTIONARY_AGE_MAX_MS {
        reasons.push(format!("the dictionary is {} old and has expired", span_text(age.unsigned_abs())));
    }
    let silent = status.stale.saturating_add(status.lost);
    if u128::from(silent) * 100 > u128::from(status.endpoints) * u128::from(STALE_PERCENT_MAX) {
        reasons.push(format!(
            "{} of {} endpoints have not reported within their check interval",
            count_text(silent),
            count_text(status.endpoints)
        ));
    }
    reasons
}

/// Whether fewer than `percent` of the assessed endpoints comply; of none, none does.
fn is_below(status: &v1::FleetStatus, percent: f64) -> bool {
    // Exact up to 2^53 endpoints.
    #[expect(clippy::cast_precision_loss, reason = "fleets are far smaller than 2^53")]
    let (compliant, assessed) = (status.compliant as f64, status.assessed as f64);
    status.assessed == 0 || compliant * 100.0 < percent * assessed
}

const GROUPS: Shape<v1::GroupStatus> = Shape {
    columns: &[
        Column::new("group", |row| Value::text(&row.group)),
        Column::new("endpoints", |row| Value::Count(row.endpoints)),
        Column::new("compliant", |row| Value::Share { part: row.compliant, whole: row.endpoints }),
        Column::new("needed", |row| Value::Count(row.needed)),
        Column::new("failed", |row| Value::Count(row.failed)),
    ],
    tint: |row| if row.failed > 0 { Tint::Warn } else { Tint::Plain },
};

const PROGRESS: Shape<v1::NamedCount> = Shape {
    columns: &[
        Column::new("name", |row| Value::text(&row.name)),
        Column::new("count", |row| Value::Count(row.count)),
    ],
    tint: |_| Tint::Plain,
};

const SITES: Shape<v1::SiteStatus> = Shape {
    columns: &[
        Column::new("site", |row| Value::text(&row.site)),
        Column::tables("relays", |row| {
            let mark = if row.relays_fresh < row.relays { "!" } else { "" };
            Value::Text(format!("{}/{}{mark}", row.relays_fresh, row.relays))
        }),
        Column::data("relays", |row| Value::Count(row.relays.into())),
        Column::data("relays_fresh", |row| Value::Count(row.relays_fresh.into())),
        Column::new("endpoints", |row| Value::Count(row.endpoints)),
        Column::new("compliant", |row| Value::Share { part: row.compliant, whole: row.endpoints }),
        Column::new("needed", |row| Value::Count(row.needed)),
    ],
    tint: |row| if row.relays_fresh < row.relays { Tint::Bad } else { Tint::Plain },
};

pub(crate) async fn run(
    screen: &mut Screen<'_>,
    central: &mut Central,
    args: StatusArgs,
) -> Result<Exit, Failure> {
    watch::repeat(screen, args.watch, async |screen| once(screen, central, &args).await).await
}

async fn once(screen: &mut Screen<'_>, central: &mut Central, args: &StatusArgs) -> Result<Exit, Failure> {
    let request = v1::GetStatusRequest {
        site: args.site.clone(),
        group: args.group.clone(),
        severity: args.severity.map(|severity| severity.as_str().to_owned()),
    };
    let status = central.get_status(request).await.map_err(Failure::call("get the status"))?.into_inner();
    match screen.options.output {
        Format::Table | Format::Wide => {
            let text = headlines(&status, args, screen.now(), screen.colours_out());
            screen.out.write_all(text.as_bytes())?;
            section(screen, "", &GROUPS, &status.groups)?;
            section(screen, "", &SITES, &status.sites)?;
        }
        _ => sheet(&status)?.write(screen)?,
    }
    screen.out.flush()?;
    let stale = staleness(&status, screen.now());
    for reason in &stale {
        screen.note(reason)?;
    }
    if let Some(threshold) = args.fail_under.filter(|threshold| is_below(&status, *threshold)) {
        let share = share_text(status.compliant, status.assessed)
            .map_or("no endpoint has been assessed".to_owned(), |share| {
                format!("{share} % of endpoints comply")
            });
        screen.note(&format!("{share}, below {threshold} %"))?;
        return Ok(Exit::BelowThreshold);
    }
    Ok(if stale.is_empty() { Exit::Ok } else { Exit::Stale })
}

fn headlines(status: &v1::FleetStatus, args: &StatusArgs, now: Timestamp, colours: bool) -> String {
    let v1::FleetStatus {
        endpoints,
        reporting,
        stale,
        lost,
        compliant,
        assessed,
        needed,
        needed_approved,
        installed,
        failed,
        unknown,
        reboot_pending,
        dictionary_version,
        dictionary_at,
        sites: _,
        groups: _,
        updates,
        progress,
    } = status;
    let share = |part: u64| Value::Share { part, whole: *endpoints }.long();
    let filters: Vec<String> = [
        args.severity.map(|severity| severity.as_str().to_owned()),
        args.site.as_ref().map(|site| format!("site {site}")),
        args.group.as_ref().map(|group| format!("group {group}")),
    ]
    .into_iter()
    .flatten()
    .collect();
    let scope = if filters.is_empty() { String::new() } else { format!(" ({})", filters.join(", ")) };
    let dictionary = match dictionary_version {
        0 => "never published".to_owned(),
        version => format!("{version} ({})", Value::Time(*dictionary_at).short(now)),
    };
    let fleet = format!(
        "FLEET    {} endpoints   reporting {}   stale {}   lost {}   dictionary {dictionary}, {} updates",
        count_text(*endpoints),
        share(*reporting),
        share(*stale),
        share(*lost),
        count_text(*updates)
    );
    let patched = format!(
        "PATCHED  {}{scope}   {} of {} assessed endpoints",
        Value::Share { part: *compliant, whole: *assessed }.long(),
        count_text(*compliant),
        count_text(*assessed)
    );
    let updates = format!(
        "UPDATES  needed {} ({} approved)   installed {}   failed {}   unknown {}   reboot pending {}",
        count_text(*needed),
        count_text(*needed_approved),
        count_text(*installed),
        count_text(*failed),
        count_text(*unknown),
        count_text(*reboot_pending)
    );
    let steps: Vec<String> =
        progress.iter().map(|step| format!("{} {}", step.name, count_text(step.count))).collect();
    let steps = (!steps.is_empty()).then(|| (format!("PROGRESS {}", steps.join("   ")), Tint::Plain));
    let tint = |is: bool, tint: Tint| if is { tint } else { Tint::Plain };
    let fleet_tint = tint(!staleness(status, now).is_empty(), Tint::Warn);
    let updates_tint = tint(*failed > 0, Tint::Bad);
    [(fleet, fleet_tint), (patched, Tint::Strong), (updates, updates_tint)]
        .iter()
        .chain(&steps)
        .map(|(line, tint)| tint.paint(&harmless(line), colours) + "\n")
        .collect()
}

fn sheet(status: &v1::FleetStatus) -> Result<Sheet, Failure> {
    Sheet::new([
        ("endpoints", Value::Count(status.endpoints)),
        ("reporting", Value::Count(status.reporting)),
        ("stale", Value::Count(status.stale)),
        ("lost", Value::Count(status.lost)),
        ("compliant", Value::Count(status.compliant)),
        ("assessed", Value::Count(status.assessed)),
        ("compliant_percent", Value::Share { part: status.compliant, whole: status.assessed }),
        ("needed", Value::Count(status.needed)),
        ("needed_approved", Value::Count(status.needed_approved)),
        ("installed", Value::Count(status.installed)),
        ("failed", Value::Count(status.failed)),
        ("unknown", Value::Count(status.unknown)),
        ("reboot_pending", Value::Count(status.reboot_pending)),
        ("updates", Value::Count(status.updates)),
        ("dictionary_version", Value::Number(status.dictionary_version)),
        ("dictionary_at", Value::Time(status.dictionary_at)),
    ])
    .with_rows("progress", &PROGRESS, &status.progress)?
    .with_rows("groups", &GROUPS, &status.groups)?
    .with_rows("sites", &SITES, &status.sites)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = DICTIONARY_AGE_MAX_MS;

    #[test]
    fn an_answer_is_stale_when_the_dictionary_expired_or_more_than_a_twentieth_is_silent() {
        let now = Timestamp::from_second(1_790_000_000).unwrap();
        for (version, age, endpoints, stale, lost, reasons) in [
            (1, 0, 100, 3, 2, 0),
            (1, DAY, 100, 5, 0, 0),
            (1, DAY + 1, 100, 0, 0, 1),
            (1, 0, 100, 3, 3, 1),
            (0, 0, 0, 0, 0, 1),
            (7, DAY * 3, 10, 10, 0, 2),
        ] {
            let status = v1::FleetStatus {
                dictionary_version: version,
                dictionary_at: now.as_millisecond() - age,
                endpoints,
                stale,
                lost,
                ..Default::default()
            };
            assert_eq!(staleness(&status, now).len(), reasons, "{status:?}");
        }
    }

    #[test]
    fn the_threshold_itself_is_enough_and_of_no_endpoint_none_complies() {
        for (compliant, assessed, percent, below) in [
            (95, 100, 95.0, false),
            (94_999, 100_000, 95.0, true),
            (0, 0, 0.0, true),
            (0, 3, 0.0, false),
            (999, 1000, 99.9, false),
        ] {
            let status = v1::FleetStatus { compliant, assessed, ..Default::default() };
            assert_eq!(is_below(&status, percent), below, "{compliant}/{assessed} {percent}");
        }
    }

    #[test]
    fn a_percentage_is_read_with_and_without_its_sign() {
        assert_eq!(percent("99.5%"), Ok(99.5));
        for text in ["", "-1", "101", "NaN", "x"] {
            assert!(percent(text).is_err(), "{text}");
        }
    }
}
