//! Answers about one thing: fields, then sections of rows.

use super::{
    Format, OutputArgs, csv_line,
    json::{Object, Part},
    listing::{self, Listing, Shape},
    table::Tint,
    value::Value,
};
use crate::{
    failure::Failure,
    screen::{Screen, harmless},
};

/// One thing.
#[derive(Debug, Default)]
pub(crate) struct Sheet {
    /// Name in lower case with `_`, and value, in the order in which they are shown.
    fields: Vec<(&'static str, Value)>,
    /// Only in JSON, after the fields.
    parts: Vec<(&'static str, Part)>,
}

impl Sheet {
    pub(crate) fn new(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Self {
        Self { fields: fields.into_iter().collect(), parts: Vec::new() }
    }

    /// Adds rows that JSON shows under `name`; in tables the caller writes them with [`section`].
    pub(crate) fn with_rows<T>(
        mut self,
        name: &'static str,
        shape: &Shape<T>,
        rows: &[T],
    ) -> Result<Self, Failure> {
        let every = OutputArgs { output: Format::Json, ..OutputArgs::default() };
        self.parts.push((name, Part::Objects(Listing::new(shape, &every)?.objects(rows))));
        Ok(self)
    }

    /// Adds a part that only JSON shows, under `name`.
    pub(crate) fn with_json(mut self, name: &'static str, value: serde_json::Value) -> Self {
        self.parts.push((name, Part::Value(Value::Json(value))));
        self
    }

    fn object(&self) -> Object {
        let fields = self.fields.iter().map(|(name, value)| (*name, Part::Value(value.clone())));
        Object(fields.chain(self.parts.iter().cloned()).collect())
    }

    /// Writes the sheet: in JSON all of it, in CSV the fields as one row, in tables one line for each
    /// field.
    pub(crate) fn write(&self, screen: &mut Screen<'_>) -> Result<(), Failure> {
        match screen.options.output {
            Format::Json => {
                let text = serde_json::to_string_pretty(&self.object())
                    .map_err(Failure::local("write the answer as JSON"))?;
                writeln!(screen.out, "{text}")?;
            }
            Format::Jsonl => writeln!(screen.out, "{}", self.object())?,
            Format::Csv => {
                let mut lines = Vec::new();
                if !screen.options.no_header {
                    csv_line(&mut lines, self.fields.iter().map(|(name, _)| (*name).into()))?;
                }
                csv_line(&mut lines, self.fields.iter().map(|(_, value)| value.plain()))?;
                screen.out.write_all(&lines)?;
            }
            format => {
                let width = self.fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 2;
                let now = screen.now();
                for (name, value) in &self.fields {
                    let text = match (format, value) {
                        (Format::Table, Value::Time(_)) => value.short(now),
                        _ => value.long(),
                    };
                    let name = name.replace('_', " ");
                    writeln!(screen.out, "{name:<width$}{}", harmless(&text))?;
                }
            }
        }
        screen.out.flush()?;
        Ok(())
    }

    /// Writes the sheet under a sentence: in tables only the sentence, in the other formats the fields.
    pub(crate) fn write_outcome(&self, screen: &mut Screen<'_>, sentence: &str) -> Result<(), Failure> {
        if matches!(screen.options.output, Format::Table | Format::Wide) {
            writeln!(screen.out, "{}", harmless(sentence))?;
            screen.out.flush()?;
            return Ok(());
        }
        self.write(screen)
    }
}

/// Says that something was changed: `sentence` and the number of the audit record in tables, `fields` and
/// `audit_sequence` in the other formats.
pub(crate) fn changed(
    screen: &mut Screen<'_>,
    sentence: &str,
    fields: impl IntoIterator<Item = (&'static str, Value)>,
    audit_sequence: u64,
) -> Result<(), Failure> {
    let mut sheet = Sheet::new(fields);
    sheet.fields.push(("audit_sequence", Value::Number(audit_sequence)));
    sheet.write_outcome(screen, &format!("{sentence} (audit {audit_sequence})"))
}

/// Writes rows below a sheet, after an empty line, when there are any; only for tables. `--columns` is not
/// for them, `--sort` is where they have that column.
pub(crate) fn section<T>(
    screen: &mut Screen<'_>,
    title: &str,
    shape: &Shape<T>,
    rows: &[T],
) -> Result<(), Failure> {
    if rows.is_empty() || !matches!(screen.options.output, Format::Table | Format::Wide) {
        return Ok(());
    }
    writeln!(screen.out)?;
    if !title.is_empty() {
        let title = Tint::Strong.paint(title, screen.colours_out());
        writeln!(screen.out, "{title}")?;
    }
    let asked = screen.options.clone();
    screen.options.columns.clear();
    screen.options.sort = asked.sort.clone().filter(|sort| shape.sorts_by(sort));
    let written = listing::write_all(screen, shape, rows);
    screen.options = asked;
    written
}
