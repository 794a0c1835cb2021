//! `tierctl level`: when, how and with whose consent the members of a group are served.

use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::civil::Time;
use tierway_common::{
    id::{LevelId, WindowId},
    schema::{
        self, UpdateClass,
        policy::{
            ApprovalMode, AtDeadline, CountdownDefault, Experience, Reboot, Roaming, Schedule, ServiceLevel,
        },
    },
};
use tierway_proto::v1;

use crate::{
    client::Policies,
    confirm::ConfirmArgs,
    document::{self, FileArgs, LEVEL, cell},
    failure::{Exit, Failure},
    output::{
        listing::{Column, Shape},
        table::Tint,
        value::Value,
    },
    patch::Severity,
    screen::Screen,
};

#[derive(Debug, Subcommand)]
pub(crate) enum LevelCommand {
    /// Lists them by name
    List,
    /// Shows one with what it says
    Show {
        /// Name of the level
        level: String,
    },
    /// Makes one, or changes what is given of it
    Set(Box<SetArgs>),
    /// Deletes one that no group has
    Delete {
        /// Name of the level
        level: String,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// Name of the level
    level: LevelId,
    #[command(flatten)]
    file: FileArgs,
    /// Says nothing any more about this setting, may be given again
    #[arg(long, value_name = "SETTING")]
    unset: Vec<String>,
    /// Who asks for the updates, as users are told
    #[arg(long, value_name = "TEXT")]
    department: Option<String>,
    /// Only updates of this class, may be given again
    #[arg(long = "class", value_name = "CLASS", value_parser = by_name::<UpdateClass>)]
    classes: Vec<UpdateClass>,
    /// Only updates at least this severe
    #[arg(long, value_enum)]
    severity: Option<Severity>,
    /// Whether somebody must approve
    #[arg(long, value_name = "explicit|automatic", value_parser = by_name::<ApprovalMode>)]
    approval: Option<ApprovalMode>,
    /// Takes updates that are not trusted yet
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true")]
    untrusted: Option<bool>,
    /// So long after the offer the person at the machine decides when
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    grace: Option<Duration>,
    /// So long after the offer it is installed at the latest
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    deadline: Option<Duration>,
    /// What happens at the deadline without a window
    #[arg(long, value_name = "wait|install", value_parser = by_name::<AtDeadline>)]
    at_deadline: Option<AtDeadline>,
    /// How much a person has to do with it
    #[arg(long, value_name = "silent|notify|consent", value_parser = by_name::<Experience>)]
    experience: Option<Experience>,
    /// Countdown before an installation or a reboot while somebody is logged in
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    countdown: Option<Duration>,
    /// What a countdown leads to that nobody answered
    #[arg(long, value_name = "install|postpone", value_parser = by_name::<CountdownDefault>)]
    countdown_default: Option<CountdownDefault>,
    /// How long one postponement lasts
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    postpone: Option<Duration>,
    /// How often a person is reminded
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    remind_every: Option<Duration>,
    /// The privilege to update by schedule
    #[arg(long, value_name = "true|false")]
    scheduled: Option<bool>,
    /// The person at the machine may switch scheduled updates off
    #[arg(long, value_name = "true|false")]
    schedule_optional: Option<bool>,
    /// Checks this often, each computer at its own place; other schedules come from a file
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    check_every: Option<Duration>,
    /// Checks this often while something approved is not installed
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    retry_interval: Option<Duration>,
    /// Takes policy over at most once a day
    #[arg(long, value_name = "true|false")]
    configuration_daily: Option<bool>,
    /// Installs and reboots only in this window, may be given again
    #[arg(long = "window", value_name = "NAME")]
    windows: Vec<WindowId>,
    /// Whether and when a needed reboot is done
    #[arg(long, value_name = "suppress|if-needed|always|HH:MM", value_parser = reboot)]
    reboot: Option<Reboot>,
    /// Users, inhibitors and open documents hold a reboot back for so long
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    reboot_hold: Option<Duration>,
    /// What a computer on the road does with notices
    #[arg(long, value_name = "skip|include", value_parser = by_name::<Roaming>)]
    roaming: Option<Roaming>,
}

/// A value as in documents, with `-` or `_`.
pub(crate) fn by_name<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::String(text.replace('-', "_")))
        .map_err(|error| error.to_string())
}

fn reboot(text: &str) -> Result<Reboot, String> {
    match text.parse::<Time>() {
        Ok(at) => Ok(Reboot::At(at)),
        Err(_) => {
            by_name(text).map_err(|_| "neither suppress, if-needed, always nor a time of day".to_owned())
        }
    }
}

const LEVELS: Shape<v1::Policy> = Shape {
    columns: &[
        Column::new("name", |row| Value::text(&row.name)),
        Column::new("approval", |row| cell(row, &["approval"])),
        Column::new("grace", |row| cell(row, &["grace"])),
        Column::new("deadline", |row| cell(row, &["deadline"])),
        Column::new("experience", |row| cell(row, &["experience"])),
        Column::new("windows", |row| cell(row, &["windows"])),
        Column::new("reboot", |row| cell(row, &["reboot"])),
        Column::wide("department", |row| cell(row, &["department"])),
        Column::wide("untrusted", |row| cell(row, &["untrusted"])),
        Column::new("used_by", |row| Value::text(&row.used_by)),
        Column::data("document", document::whole),
    ],
    tint: |_| Tint::Plain,
};

pub(crate) async fn run(
    screen: &mut Screen<'_>,
    policies: &mut Policies,
    command: LevelCommand,
) -> Result<Exit, Failure> {
    match command {
        LevelCommand::List => document::list(screen, policies, LEVEL, &LEVELS).await,
        LevelCommand::Show { level } => document::show(screen, policies, LEVEL, &level).await,
        LevelCommand::Set(args) => set(screen, policies, *args).await,
        LevelCommand::Delete { level, confirm } => {
            document::delete(screen, policies, LEVEL, level, confirm).await
        }
    }
}

async fn set(screen: &mut Screen<'_>, policies: &mut Policies, args: SetArgs) -> Result<Exit, Failure> {
    let name = args.level.to_string();
    let mut json = match &args.file.file {
        Some(path) => document::read_named(LEVEL, path, &name)?,
        None => match document::find(policies, LEVEL, &name).await? {
            Some(found) => serde_json::from_str(&found.json)
                .map_err(Failure::local(format!("read service level `{name}`")))?,
            None => serde_json::json!({ "id": name }),
        },
    };
    if let Some(object) = json.as_object_mut() {
        for setting in &args.unset {
            let key = setting.replace('-', "_");
            if key == "id" || object.remove(&key).is_none() {
                return Err(Failure::Usage(format!("the level says nothing about `{setting}`")));
            }
        }
    }
    let level: ServiceLevel = serde_json::from_value(json)
        .map_err(|error| Failure::Usage(format!("`{name}` is no service level: {error}")))?;
    document::set(screen, policies, LEVEL, &merge(level, args)).await
}

/// `before` with what the arguments give in its place.
fn merge(before: ServiceLevel, args: SetArgs) -> ServiceLevel {
    let SetArgs {
        level: _,
        file: _,
        unset: _,
        department,
        classes,
        severity,
        approval,
        untrusted,
        grace,
        deadline,
        at_deadline,
        experience,
        countdown,
        countdown_default,
        postpone,
        remind_every,
        scheduled,
        schedule_optional,
        check_every,
        retry_interval,
        configuration_daily,
        windows,
        reboot,
        reboot_hold,
        roaming,
    } = args;
    let some = |list: Vec<_>| (!list.is_empty()).then_some(list);
    let severity = severity.and_then(|severity| {
        schema::Severity::ALL.into_iter().find(|known| known.as_str() == severity.as_str())
    });
    ServiceLevel {
        id: before.id,
        department: department.or(before.department),
        classes: (!classes.is_empty()).then_some(classes).or(before.classes),
        severity_at_least: severity.or(before.severity_at_least),
        approval: approval.or(before.approval),
        untrusted: untrusted.or(before.untrusted),
        grace: grace.or(before.grace),
        deadline: deadline.or(before.deadline),
        at_deadline: at_deadline.or(before.at_deadline),
        experience: experience.or(before.experience),
        countdown: countdown.or(before.countdown),
        countdown_default: countdown_default.or(before.countdown_default),
        postpone: postpone.or(before.postpone),
        remind_every: remind_every.or(before.remind_every),
        scheduled: scheduled.or(before.scheduled),
        schedule_optional: schedule_optional.or(before.schedule_optional),
        schedule: check_every.map(Schedule::Every).or(before.schedule),
        retry_interval: retry_interval.or(before.retry_interval),
        configuration_daily: configuration_daily.or(before.configuration_daily),
        windows: some(windows).or(before.windows),
        reboot: reboot.or(before.reboot),
        reboot_hold: reboot_hold.or(before.reboot_hold),
        roaming: roaming.or(before.roaming),
        follow_up: before.follow_up,
    }
}
