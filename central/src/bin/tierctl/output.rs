//! How answers are written. A noun declares what there is; the formats are made here.

pub(crate) mod json;
pub(crate) mod listing;
pub(crate) mod sheet;
pub(crate) mod table;
pub(crate) mod value;

use crate::{failure::Failure, screen::harmless};

/// Formats of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Columns of text, times relative
    #[default]
    Table,
    /// More columns, times as RFC 3339
    Wide,
    /// One JSON value
    Json,
    /// One JSON object a line
    Jsonl,
    /// Comma-separated values with a header, RFC 4180
    Csv,
}

/// How the answer is wanted; the same for every command.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct OutputArgs {
    /// Format of the answer, the same on a terminal and in a pipe
    #[arg(long, short, global = true, value_enum, default_value_t, help_heading = "Output")]
    pub(crate) output: Format,
    /// Only these columns, in this order
    #[arg(long, global = true, value_name = "NAME,…", value_delimiter = ',', help_heading = "Output")]
    pub(crate) columns: Vec<String>,
    /// By this column; with `-` before it in descending order
    #[arg(long, global = true, value_name = "[-]NAME", allow_hyphen_values = true, help_heading = "Output")]
    pub(crate) sort: Option<String>,
    /// No line with the names of columns
    #[arg(long, global = true, help_heading = "Output")]
    pub(crate) no_header: bool,
}

/// Whether the answer is a table, which people read.
pub(crate) fn is_for_people(options: &OutputArgs) -> bool {
    matches!(options.output, Format::Table | Format::Wide)
}

/// One line of CSV, with its end; a row is one line whatever its fields hold, and drives no terminal.
fn csv_line(fields: impl IntoIterator<Item = String>) -> Result<Vec<u8>, Failure> {
    let failed = || Failure::local::<csv::Error>("write the answer as CSV");
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(fields.into_iter().map(|field| harmless(&field).into_owned())).map_err(failed())?;
    writer.into_inner().map_err(|error| Failure::Write(error.into_error()))
}
