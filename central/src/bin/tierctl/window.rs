//! `tierctl window`: when computers may be changed, and who of a window is down now.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use jiff::{Timestamp, Zoned, civil::Time, tz::TimeZone};
use tierway_common::{
    calendar::{self, Calendar, Occurrence},
    id::WindowId,
    schema::policy::{Days, Recurrence, Weekday, Window},
};
use tierway_proto::v1;

use crate::{
    client::{Central, Policies},
    confirm::ConfirmArgs,
    document::{self, FileArgs, WINDOW, cell},
    failure::{Exit, Failure},
    level::by_name,
    output::{
        listing::{self, Column, Shape},
        table::Tint,
        value::Value,
    },
    screen::Screen,
    watch::{self, WatchArgs},
};

/// Openings that `next` shows.
const NEXT_SHOWN: usize = 5;

#[derive(Debug, Subcommand)]
pub(crate) enum WindowCommand {
    #[command(flatten)]
    Document(DocumentCommand),
    /// Says what is wrong with the window in a file, or when it opens next; asks nobody
    Check {
        /// TOML or JSON file
        #[arg(long, short = 'f', value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        when: WhenArgs,
    },
    /// Lists who may be down now, of windows that limit how many may be down at once
    Leases(LeasesArgs),
}

/// What is asked of central's policy.
#[derive(Debug, Subcommand)]
pub(crate) enum DocumentCommand {
    /// Lists them by name
    List,
    /// Shows one with its rules
    Show {
        /// Name of the window
        window: String,
    },
    /// Makes one, or changes what is given of it
    Set(SetArgs),
    /// Prints when one opens next
    Next(NextArgs),
    /// Deletes one that no level names
    Delete {
        /// Name of the window
        window: String,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LeasesArgs {
    /// Only of this window
    window: Option<String>,
    #[command(flatten)]
    watch: WatchArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// Name of the window
    window: WindowId,
    #[command(flatten)]
    file: FileArgs,
    /// When it opens, may be given again: `every@02:00`, `sat,sun@22:30`, `2nd-tue@22:00`, `last-fri@20:00`, `2nd-tue+4@02:00`
    /// (four days after), `day-15@01:00`, `day--1@01:00` (the last of the month); `/mar,jun` after it for some months only
    #[arg(long, value_name = "RULE", value_parser = rule)]
    opens: Vec<Recurrence>,
    /// For how long
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    length: Option<Duration>,
    /// Time zone in which it opens [default: each computer's own]
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    /// At most so many of its computers are down at once
    #[arg(long, value_name = "NUMBER")]
    at_once_max: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct NextArgs {
    /// Name of the window
    window: String,
    #[command(flatten)]
    when: WhenArgs,
}

#[derive(Debug, Args)]
pub(crate) struct WhenArgs {
    /// The computer's time zone, for windows that name none
    #[arg(long, value_name = "ZONE", default_value = "UTC", value_parser = zone)]
    zone: TimeZone,
    /// From when on [default: now]
    #[arg(long, value_name = "TIME")]
    from: Option<Timestamp>,
}

fn zone(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name).map_err(|error| error.to_string())
}

const DAYS: [(&str, Weekday); 7] = [
    ("mon", Weekday::Monday),
    ("tue", Weekday::Tuesday),
    ("wed", Weekday::Wednesday),
    ("thu", Weekday::Thursday),
    ("fri", Weekday::Friday),
    ("sat", Weekday::Saturday),
    ("sun", Weekday::Sunday),
];
const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const PLACES: [(&str, i8); 6] = [("1st", 1), ("2nd", 2), ("3rd", 3), ("4th", 4), ("5th", 5), ("last", -1)];

fn weekday(text: &str) -> Result<Weekday, String> {
    let known = DAYS.into_iter().find(|(name, _)| *name == text).map(|(_, day)| day);
    known.ok_or(()).or_else(|()| by_name(text)).map_err(|_| format!("`{text}` is no day of the week"))
}

/// A calendar rule as on the command line; see `--opens`.
fn rule(text: &str) -> Result<Recurrence, String> {
    let text = text.to_lowercase();
    let (days, rest) = text.split_once('@').ok_or("a rule is DAYS@HH:MM")?;
    let (at, months) = rest.split_once('/').map_or((rest, None), |(at, months)| (at, Some(months)));
    let at: Time = at.parse().map_err(|_| format!("`{at}` is no time of day"))?;
    let month = |text: &str| {
        let place = MONTHS.iter().position(|month| *month == text).ok_or(format!("`{text}` is no month"))?;
        i8::try_from(place + 1).map_err(|error| error.to_string())
    };
    let months = months.map(|months| months.split(',').map(month).collect::<Result<_, _>>()).transpose()?;
    Ok(Recurrence { on: days_of(days)?, at, months: months.unwrap_or_default() })
}

fn days_of(text: &str) -> Result<Days, String> {
    if text == "every" {
        return Ok(Days::Every);
    }
    if let Some(day) = text.strip_prefix("day-") {
        return day.parse().map(Days::Day).map_err(|_| format!("`{day}` is no day of the month"));
    }
    let Some((place, day)) = text.split_once('-') else {
        return text.split(',').map(weekday).collect::<Result<_, _>>().map(Days::Weekly);
    };
    let known = PLACES.into_iter().find(|(name, _)| *name == place).map(|(_, place)| place);
    let place = known.ok_or(format!("`{place}` is none of 1st, 2nd, 3rd, 4th, 5th, last"))?;
    match day.split_once('+') {
        None => Ok(Days::Nth(place, weekday(day)?)),
        Some((day, after)) => {
            let after = after.parse().map_err(|_| format!("`{after}` is no number of days"))?;
            Ok(Days::After(place, weekday(day)?, after))
        }
    }
}

/// The rule as [`rule`] reads it.
fn rule_text(rule: &Recurrence) -> String {
    let day = |day: &Weekday| DAYS.iter().find(|(_, known)| known == day).map_or("?", |(name, _)| *name);
    let place = |place: &i8| PLACES.iter().find(|(_, known)| known == place).map_or("?", |(name, _)| *name);
    let days = match &rule.on {
        Days::Every => "every".to_owned(),
        Days::Weekly(days) => days.iter().map(day).collect::<Vec<_>>().join(","),
        Days::Nth(n, of) => format!("{}-{}", place(n), day(of)),
        Days::After(n, of, after) => format!("{}-{}+{after}", place(n), day(of)),
        Days::Day(number) => format!("day-{number}"),
    };
    let at = rule.at.strftime("%H:%M");
    let month = |month: &i8| {
        let at = usize::try_from(*month).ok().and_then(|month| month.checked_sub(1));
        at.and_then(|at| MONTHS.get(at)).copied().unwrap_or("?")
    };
    match rule.months.is_empty() {
        true => format!("{days}@{at}"),
        false => format!("{days}@{at}/{}", rule.months.iter().map(month).collect::<Vec<_>>().join(",")),
    }
}

fn opens(policy: &v1::Policy) -> Value {
    match serde_json::from_str::<Window>(&policy.json) {
        Ok(window) => Value::Names(window.opens.iter().map(rule_text).collect()),
        Err(_) => Value::text("?"),
    }
}

const WINDOWS: Shape<v1::Policy> = Shape {
    columns: &[
        Column::new("name", |row| Value::text(&row.name)),
        Column::new("opens", opens),
        Column::new("length", |row| cell(row, &["length"])),
        Column::new("zone", |row| cell(row, &["zone"])),
        Column::new("at_once_max", |row| cell(row, &["at_once_max"])),
        Column::new("used_by", |row| Value::text(&row.used_by)),
        Column::data("document", document::whole),
    ],
    tint: |_| Tint::Plain,
};

const LEASES: Shape<v1::Lease> = Shape {
    columns: &[
        Column::new("window", |row| Value::text(&row.window)),
        Column::new("name", |row| Value::text(&row.name)),
        Column::new("site", |row| Value::text(&row.site)),
        Column::new("since", |row| Value::Time(row.since)),
        Column::new("until", |row| Value::Time(row.until)),
        Column::wide("id", |row| Value::text(&row.endpoint)),
    ],
    tint: |_| Tint::Plain,
};

/// Lists who holds a lease.
pub(crate) async fn leases(
    screen: &mut Screen<'_>,
    central: &mut Central,
    args: LeasesArgs,
) -> Result<Exit, Failure> {
    watch::repeat(screen, args.watch, async |screen| {
        let request = v1::ListLeasesRequest { window: args.window.clone() };
        let answer = central.list_leases(request).await.map_err(Failure::call("list leases"))?;
        let v1::ListLeasesResponse { leases } = answer.into_inner();
        listing::write_all(screen, &LEASES, &leases)?;
        Ok(Exit::Ok)
    })
    .await
}

pub(crate) async fn run(
    screen: &mut Screen<'_>,
    policies: &mut Policies,
    command: DocumentCommand,
) -> Result<Exit, Failure> {
    match command {
        DocumentCommand::List => document::list(screen, policies, WINDOW, &WINDOWS).await,
        DocumentCommand::Show { window } => document::show(screen, policies, WINDOW, &window).await,
        DocumentCommand::Set(args) => set(screen, policies, args).await,
        DocumentCommand::Next(NextArgs { window, when }) => {
            let window: Window = document::get(policies, WINDOW, &window).await?;
            next(screen, &window, &when)
        }
        DocumentCommand::Delete { window, confirm } => {
            document::delete(screen, policies, WINDOW, window, confirm).await
        }
    }
}

async fn set(screen: &mut Screen<'_>, policies: &mut Policies, args: SetArgs) -> Result<Exit, Failure> {
    let SetArgs { window: id, file, opens, length, zone, at_once_max } = args;
    let name = id.to_string();
    let before: Option<Window> = match file.file {
        Some(path) => {
            let json = document::read_named(WINDOW, &path, &name)?;
            let read = serde_json::from_value(json);
            Some(read.map_err(|error| Failure::Usage(format!("`{name}` is no window: {error}")))?)
        }
        None => match document::find(policies, WINDOW, &name).await? {
            Some(found) => Some(
                serde_json::from_str(&found.json).map_err(Failure::local(format!("read window `{name}`")))?,
            ),
            None => None,
        },
    };
    let window = match (before, length) {
        (None, None) => {
            return Err(Failure::Usage(format!(
                "there is no window `{name}`: give `--opens` and `--length`"
            )));
        }
        (None, Some(length)) => Window { id, opens, length, zone, at_once_max },
        (Some(before), length) => Window {
            id,
            opens: if opens.is_empty() { before.opens } else { opens },
            length: length.unwrap_or(before.length),
            zone: zone.or(before.zone),
            at_once_max: at_once_max.or(before.at_once_max),
        },
    };
    document::set(screen, policies, WINDOW, &window).await
}

/// One opening, as shown: when by the clock on the wall, and how long.
struct Opening {
    opens: Zoned,
    occurrence: Occurrence,
}

const OPENINGS: Shape<Opening> = Shape {
    columns: &[
        Column::new("local", |row| Value::Text(row.opens.strftime("%a %Y-%m-%d %H:%M %Z").to_string())),
        Column::new("opens", |row| Value::Time(row.occurrence.start.as_millisecond())),
        Column::new("closes", |row| Value::Time(row.occurrence.end.as_millisecond())),
    ],
    tint: |_| Tint::Plain,
};

fn next(screen: &mut Screen<'_>, window: &Window, when: &WhenArgs) -> Result<Exit, Failure> {
    let calendar =
        Calendar::new(window, &when.zone).map_err(Failure::local(format!("read window `{}`", window.id)))?;
    let from = when.from.unwrap_or_else(|| screen.now());
    let opening = |occurrence: Occurrence| Opening {
        opens: occurrence.start.to_zoned(calendar.zone().clone()),
        occurrence,
    };
    let rows: Vec<_> = calendar.from(from).take(NEXT_SHOWN).map(opening).collect();
    listing::write_all(screen, &OPENINGS, &rows)?;
    Ok(Exit::Ok)
}

pub(crate) fn check(
    screen: &mut Screen<'_>,
    file: &std::path::Path,
    when: &WhenArgs,
) -> Result<Exit, Failure> {
    let mut object = document::read_file(file)?;
    let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or("window");
    object.entry("id").or_insert_with(|| stem.into());
    let wrong =
        |error: &dyn std::fmt::Display| Failure::Plain(format!("`{}` is no window: {error}", file.display()));
    let window: Window =
        serde_json::from_value(serde_json::Value::Object(object)).map_err(|error| wrong(&error))?;
    let from = when.from.unwrap_or_else(|| screen.now());
    calendar::check_window(&window, &when.zone, from).map_err(|error| wrong(&error))?;
    next(screen, &window, when)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_written_as_it_is_read_and_other_texts_are_refused() {
        for text in [
            "every@02:00",
            "sat,sun@22:30",
            "2nd-tue@22:00",
            "last-fri@20:00/mar,jun",
            "2nd-tue+4@02:00",
            "day-15@01:00",
            "day--1@01:00",
        ] {
            assert_eq!(rule_text(&rule(text).unwrap()), text);
        }
        assert_eq!(rule("Saturday@02:00").unwrap(), rule("sat@02:00").unwrap());
        for text in
            ["every", "noday@02:00", "6th-tue@02:00", "2nd-tue+x@02:00", "every@25:00", "every@02:00/x"]
        {
            rule(text).expect_err(text);
        }
    }
}
