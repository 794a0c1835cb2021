//! How answers are written. A noun declares what there is; the formats are made here.

pub(crate) mod json;
pub(crate) mod listing;
pub(crate) mod sheet;
pub(crate) mod table;
pub(crate) mod value;

use std::borrow::Cow;

use crate::{failure::Failure, screen::harmless};

/// Most lines of CSV are shorter.
const LINE_BYTES: usize = 512;

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

/// Adds one line of CSV, with its end, to `text`; a row is one line whatever its fields hold, and drives no terminal.
fn csv_line<'a>(text: &mut Vec<u8>, fields: impl IntoIterator<Item = Cow<'a, str>>) -> Result<(), Failure> {
    let failed = || Failure::local::<csv::Error>("write the answer as CSV");
    let mut writer = csv::WriterBuilder::new().buffer_capacity(LINE_BYTES).from_writer(text);
    for field in fields {
        writer.write_field(harmless(&field).as_bytes()).map_err(failed())?;
    }
    writer.write_record(None::<&[u8]>).map_err(failed())?;
    writer.flush().map_err(Failure::Write)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_csv_is_one_line_and_read_back_as_it_was() {
        let rows: [&[&str]; 5] =
            [&["a", "b c", ""], &["1,2", "say \"so\"", "\""], &["", "", ""], &["ä", "'", ";"], &[","; 3]];
        let mut text = Vec::new();
        for row in rows {
            csv_line(&mut text, row.iter().map(|field| (*field).into())).unwrap();
        }
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(text.as_slice());
        let read: Vec<Vec<String>> =
            reader.records().map(|row| row.unwrap().iter().map(str::to_owned).collect()).collect();
        assert_eq!(read, rows);
        let mut one = Vec::new();
        csv_line(&mut one, ["".into()]).unwrap();
        csv_line(&mut one, ["two\nlines".into()]).unwrap();
        assert_eq!(one, "\"\"\ntwo\u{fffd}lines\n".as_bytes());
    }
}
