//! `tierctl source`: where updates come from, and when their payloads are downloaded.

use clap::{Args, Subcommand, ValueEnum};
use tierway_proto::v1;

use crate::{
    client::Central,
    failure::{Exit, Failure},
    output::{
        Format,
        listing::{self, Column, Shape},
        sheet::{Sheet, changed},
        table::Tint,
        value::{Value, bytes_text},
    },
    progress,
    screen::{Screen, harmless},
    watch::{self, WatchArgs},
};

#[derive(Debug, Subcommand)]
pub(crate) enum SourceCommand {
    /// Lists them by name, and how payloads are downloaded
    List {
        #[command(flatten)]
        watch: WatchArgs,
    },
    /// Shows one, or without a name how payloads are downloaded
    Show {
        /// Name of the source
        source: Option<String>,
    },
    /// Turns the daily download of payloads on
    Enable,
    /// Turns the daily download of payloads off
    Disable,
    /// Changes when and what is downloaded
    Set(SetArgs),
    /// Reads what is new at the source, now
    Sync {
        /// Name of the source [default: all]
        source: Option<String>,
    },
    /// Downloads the payloads that are wanted, now
    Download,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct SetArgs {
    /// Each day at this time, central's local time
    #[arg(long, value_name = "HH:MM", value_parser = time_of_day)]
    at: Option<String>,
    /// Payloads of which updates
    #[arg(long, value_enum)]
    what: Option<What>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    /// Those that some endpoint needs
    Needed,
    /// Those that are approved for some group
    Approved,
    /// All
    All,
}

impl What {
    fn as_str(self) -> &'static str {
        match self {
            Self::Needed => "needed",
            Self::Approved => "approved",
            Self::All => "all",
        }
    }
}

fn time_of_day(text: &str) -> Result<String, String> {
    let time = jiff::civil::Time::strptime("%H:%M", text).map_err(|error| error.to_string())?;
    Ok(time.strftime("%H:%M").to_string())
}

const SOURCES: Shape<v1::Source> = Shape {
    columns: &[
        Column::new("name", |row| Value::text(&row.name)),
        Column::new("kind", |row| Value::text(&row.kind)),
        Column::new("suites", |row| Value::Names(row.suites.clone())),
        Column::new("updates", |row| Value::Count(row.updates)),
        Column::new("last_sync", |row| Value::Time(row.last_sync)),
        Column::new("archive_date", |row| Value::Time(row.archive_date)),
        Column::wide("url", |row| Value::text(&row.url)),
        Column::new("last_error", |row| Value::text(&row.last_error)),
    ],
    tint: |row| if row.last_error.is_empty() { Tint::Plain } else { Tint::Bad },
};

pub(crate) async fn run(
    screen: &mut Screen<'_>,
    central: &mut Central,
    command: SourceCommand,
) -> Result<Exit, Failure> {
    match command {
        SourceCommand::List { watch } => {
            watch::repeat(screen, watch, async |screen| list(screen, central).await).await
        }
        SourceCommand::Show { source } => show(screen, central, source).await,
        SourceCommand::Enable => {
            let request = v1::SetDownloadRequest { enabled: Some(true), ..Default::default() };
            set(screen, central, request, "turned the daily download on").await
        }
        SourceCommand::Disable => {
            let request = v1::SetDownloadRequest { enabled: Some(false), ..Default::default() };
            set(screen, central, request, "turned the daily download off").await
        }
        SourceCommand::Set(SetArgs { at, what }) => {
            let what = what.map(|what| what.as_str().to_owned());
            let request = v1::SetDownloadRequest { enabled: None, at, what };
            set(screen, central, request, "changed the daily download").await
        }
        SourceCommand::Sync { source } => sync(screen, central, source).await,
        SourceCommand::Download => download(screen, central).await,
    }
}

async fn get(central: &mut Central) -> Result<(Vec<v1::Source>, v1::Download), Failure> {
    let answer =
        central.list_sources(v1::ListSourcesRequest {}).await.map_err(Failure::call("list sources"))?;
    let v1::ListSourcesResponse { sources, download } = answer.into_inner();
    Ok((sources, download.unwrap_or_default()))
}

async fn list(screen: &mut Screen<'_>, central: &mut Central) -> Result<Exit, Failure> {
    let (sources, download) = get(central).await?;
    listing::write_all(screen, &SOURCES, &sources)?;
    if matches!(screen.options.output, Format::Table | Format::Wide) {
        let v1::Download { enabled, at, what, payload_bytes_present, payload_bytes_wanted } = download;
        let when =
            if enabled { format!("daily at {at}") } else { "off; see `tierctl source enable`".to_owned() };
        let line = format!(
            "download of {what} payloads: {when}; {} of {} wanted are here",
            bytes_text(payload_bytes_present),
            bytes_text(payload_bytes_wanted)
        );
        writeln!(screen.out, "\n{}", harmless(&line))?;
        screen.out.flush()?;
    }
    Ok(Exit::Ok)
}

async fn show(screen: &mut Screen<'_>, central: &mut Central, name: Option<String>) -> Result<Exit, Failure> {
    let (sources, download) = get(central).await?;
    let sheet = match name {
        None => {
            let v1::Download { enabled, at, what, payload_bytes_present, payload_bytes_wanted } = download;
            Sheet::new([
                ("enabled", Value::Flag(enabled)),
                ("at", Value::Text(at)),
                ("what", Value::Text(what)),
                ("payload_bytes_present", Value::Bytes(payload_bytes_present)),
                ("payload_bytes_wanted", Value::Bytes(payload_bytes_wanted)),
            ])
        }
        Some(name) => {
            let source = sources
                .into_iter()
                .find(|source| source.name == name)
                .ok_or_else(|| Failure::Plain(format!("could not show source `{name}`: there is none")))?;
            let v1::Source { name, kind, url, last_sync, last_error, updates, archive_date, suites } = source;
            Sheet::new([
                ("name", Value::Text(name)),
                ("kind", Value::Text(kind)),
                ("url", Value::Text(url)),
                ("suites", Value::Names(suites)),
                ("updates", Value::Count(updates)),
                ("last_sync", Value::Time(last_sync)),
                ("archive_date", Value::Time(archive_date)),
                ("last_error", Value::Text(last_error)),
            ])
        }
    };
    sheet.write(screen)?;
    Ok(Exit::Ok)
}

async fn set(
    screen: &mut Screen<'_>,
    central: &mut Central,
    request: v1::SetDownloadRequest,
    sentence: &str,
) -> Result<Exit, Failure> {
    let change =
        central.set_download(request).await.map_err(Failure::call("change the daily download"))?.into_inner();
    changed(screen, sentence, [], change.audit_sequence)?;
    Ok(Exit::Ok)
}

const STEPS: Shape<v1::Progress> = Shape {
    columns: &[
        Column::new("step", |row| Value::text(&row.step)),
        Column::tables("progress", |row| Value::Text(progress::amount(row))),
        Column::data("done", |row| Value::Count(row.done)),
        Column::data("total", |row| Value::Count(row.total)),
        Column::data("unit", |row| Value::text(&row.unit)),
    ],
    tint: |_| Tint::Plain,
};

async fn sync(screen: &mut Screen<'_>, central: &mut Central, name: Option<String>) -> Result<Exit, Failure> {
    let what = match &name {
        Some(name) => format!("sync source `{name}`"),
        None => "sync the sources".to_owned(),
    };
    let stream = central
        .sync_source(v1::SyncSourceRequest { name })
        .await
        .map_err(Failure::call(what.clone()))?
        .into_inner();
    let mut steps = progress::follow(screen, &what, stream).await?;
    // What came of each source, without what was going on before that.
    let mut done = 0;
    steps.retain(|step| {
        let is_further = step.done > done;
        done = step.done;
        is_further
    });
    listing::write_all(screen, &STEPS, &steps)?;
    Ok(Exit::Ok)
}

async fn download(screen: &mut Screen<'_>, central: &mut Central) -> Result<Exit, Failure> {
    let what = "download the payloads";
    let stream = central
        .download_payloads(v1::DownloadPayloadsRequest {})
        .await
        .map_err(Failure::call(what))?
        .into_inner();
    let steps = progress::follow(screen, what, stream).await?;
    listing::write_all(screen, &STEPS, &steps)?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_day_is_two_numbers_and_is_written_in_full() {
        assert_eq!(time_of_day("3:00").as_deref(), Ok("03:00"));
        assert_eq!(time_of_day("23:59").as_deref(), Ok("23:59"));
        for text in ["", "24:00", "12:60", "noon", "03:00:01"] {
            assert!(time_of_day(text).is_err(), "{text}");
        }
    }
}
