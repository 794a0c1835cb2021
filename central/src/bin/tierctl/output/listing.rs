//! Answers that are rows: declared once as columns, written in any format, in JSON and CSV as they come.

use super::{
    Format, OutputArgs, csv_line,
    json::{Object, Part},
    table::{self, Line, Tint},
    value::Value,
};
use crate::{failure::Failure, screen::Screen};

/// Where a column is shown unless `--columns` asks for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// In every format.
    Always,
    /// In tables, where other columns say the same to programs.
    Tables,
    /// In all but the plain table.
    Wide,
    /// In JSON and CSV.
    Data,
}

/// One column of rows of `T`.
pub(crate) struct Column<T> {
    /// In lower case with `_`, as in JSON and CSV; in tables in upper case with spaces.
    pub(crate) name: &'static str,
    pub(crate) shown: Shown,
    pub(crate) value: fn(&T) -> Value,
}

impl<T> Column<T> {
    pub(crate) const fn new(name: &'static str, value: fn(&T) -> Value) -> Self {
        Self { name, shown: Shown::Always, value }
    }

    pub(crate) const fn wide(name: &'static str, value: fn(&T) -> Value) -> Self {
        Self { name, shown: Shown::Wide, value }
    }

    pub(crate) const fn tables(name: &'static str, value: fn(&T) -> Value) -> Self {
        Self { name, shown: Shown::Tables, value }
    }

    pub(crate) const fn data(name: &'static str, value: fn(&T) -> Value) -> Self {
        Self { name, shown: Shown::Data, value }
    }
}

/// How rows of `T` look.
pub(crate) struct Shape<T: 'static> {
    pub(crate) columns: &'static [Column<T>],
    pub(crate) tint: fn(&T) -> Tint,
}

impl<T> Shape<T> {
    fn find(&self, name: &str) -> Result<&'static Column<T>, Failure> {
        let same = |c: &Column<T>| c.name.eq_ignore_ascii_case(&name.trim().replace(['-', ' '], "_"));
        self.columns.iter().find(|column| same(column)).ok_or_else(|| {
            let names: Vec<&str> = self.columns.iter().map(|column| column.name).collect();
            Failure::Usage(format!("there is no column `{name}` here; there are {}", names.join(", ")))
        })
    }

    /// Whether `--sort` can ask for it.
    pub(crate) fn sorts_by(&self, sort: &str) -> bool {
        self.find(sort.strip_prefix('-').unwrap_or(sort)).is_ok()
    }

    fn chosen(&self, options: &OutputArgs) -> Result<Vec<&'static Column<T>>, Failure> {
        if !options.columns.is_empty() {
            return options.columns.iter().map(|name| self.find(name)).collect();
        }
        let shown = |column: &&Column<T>| match options.output {
            Format::Table => matches!(column.shown, Shown::Always | Shown::Tables),
            Format::Wide => column.shown != Shown::Data,
            Format::Json | Format::Jsonl | Format::Csv => column.shown != Shown::Tables,
        };
        Ok(self.columns.iter().filter(shown).collect())
    }
}

/// Rows of a table that are held back so that each column is as wide as its widest cell; of a longer one the first
/// so many decide, and wider cells that come later stand out.
const TABLE_ROWS_HELD: usize = 5_000;

/// Takes rows and writes them: at once in JSON and CSV, bit by bit in tables, at the end where all must be put in
/// order first.
pub(crate) struct Listing<T: 'static> {
    tint: fn(&T) -> Tint,
    columns: Vec<&'static Column<T>>,
    sort: Option<(&'static Column<T>, Direction)>,
    held: Vec<Held>,
    written: u64,
    /// One of CSV, which is used again for the next.
    line: Vec<u8>,
    /// Of a table of which a part is written.
    begun: Option<Begun>,
}

/// What the parts of one table have in common, for each column.
struct Begun {
    right: Vec<bool>,
    widths: Vec<usize>,
}

#[derive(Clone, Copy, Debug)]
enum Direction {
    Ascending,
    Descending,
}

struct Held {
    key: Option<Value>,
    values: Vec<Value>,
    tint: Tint,
}

impl<T> Listing<T> {
    /// # Errors
    ///
    /// [`Failure::Usage`] when `--columns` or `--sort` name none of the shape's.
    pub(crate) fn new(shape: &Shape<T>, options: &OutputArgs) -> Result<Self, Failure> {
        let sort = match options.sort.as_deref() {
            None => None,
            Some(name) => Some(match name.strip_prefix('-') {
                Some(name) => (shape.find(name)?, Direction::Descending),
                None => (shape.find(name)?, Direction::Ascending),
            }),
        };
        let columns = shape.chosen(options)?;
        Ok(Self {
            tint: shape.tint,
            columns,
            sort,
            held: Vec::new(),
            written: 0,
            line: Vec::new(),
            begun: None,
        })
    }

    /// Takes one row.
    pub(crate) fn push(&mut self, screen: &mut Screen<'_>, row: &T) -> Result<(), Failure> {
        let values: Vec<Value> = self.columns.iter().map(|column| (column.value)(row)).collect();
        let format = screen.options.output;
        let table = matches!(format, Format::Table | Format::Wide);
        if self.sort.is_some() || table {
            let key = self.sort.map(|(column, _)| (column.value)(row));
            self.held.push(Held { key, values, tint: (self.tint)(row) });
            if self.sort.is_none() && self.held.len() == TABLE_ROWS_HELD {
                let held = std::mem::take(&mut self.held);
                self.table(screen, &held)?;
            }
            return Ok(());
        }
        self.write(screen, values)
    }

    /// Writes what was held back and closes what was opened.
    pub(crate) fn finish(mut self, screen: &mut Screen<'_>) -> Result<(), Failure> {
        let mut held = std::mem::take(&mut self.held);
        if let Some((_, direction)) = self.sort {
            held.sort_by(|a, b| match (&a.key, &b.key, direction) {
                (Some(a), Some(b), Direction::Ascending) => a.order(b),
                (Some(a), Some(b), Direction::Descending) => b.order(a),
                _ => std::cmp::Ordering::Equal,
            });
        }
        match screen.options.output {
            Format::Table | Format::Wide => {
                self.table(screen, &held)?;
            }
            format => {
                for row in held {
                    self.write(screen, row.values)?;
                }
                match (format, self.written) {
                    (Format::Json, 0) => screen.out.write_all(b"[]\n")?,
                    (Format::Json, _) => screen.out.write_all(b"\n]\n")?,
                    (Format::Csv, 0) => self.csv_header(screen)?,
                    _ => {}
                }
            }
        }
        screen.out.flush()?;
        Ok(())
    }

    fn write(&mut self, screen: &mut Screen<'_>, values: Vec<Value>) -> Result<(), Failure> {
        match screen.options.output {
            Format::Csv => {
                if self.written == 0 {
                    self.csv_header(screen)?;
                }
                self.line.clear();
                csv_line(&mut self.line, values.iter().map(Value::plain))?;
                screen.out.write_all(&self.line)?;
            }
            Format::Json => {
                let before = if self.written == 0 { "[\n  " } else { ",\n  " };
                write!(screen.out, "{before}{}", self.object(values))?;
            }
            Format::Jsonl | Format::Table | Format::Wide => {
                writeln!(screen.out, "{}", self.object(values))?;
            }
        }
        self.written += 1;
        Ok(())
    }

    fn csv_header(&self, screen: &mut Screen<'_>) -> Result<(), Failure> {
        if !screen.options.no_header {
            let mut line = Vec::new();
            csv_line(&mut line, self.columns.iter().map(|column| column.name.into()))?;
            screen.out.write_all(&line)?;
        }
        Ok(())
    }

    fn object(&self, values: Vec<Value>) -> Object {
        let pairs = self.columns.iter().zip(values);
        Object(pairs.map(|(column, value)| (column.name, Part::Value(value))).collect())
    }

    /// Writes a part of a table, the header before the first.
    fn table(&mut self, screen: &mut Screen<'_>, held: &[Held]) -> Result<(), Failure> {
        let now = screen.now();
        let wide = screen.options.output == Format::Wide;
        let lines: Vec<Line> = held
            .iter()
            .map(|row| Line {
                cells: row
                    .values
                    .iter()
                    .map(|value| if wide { value.long() } else { value.short(now) })
                    .collect(),
                tint: row.tint,
            })
            .collect();
        let header: Vec<String> =
            self.columns.iter().map(|column| column.name.to_uppercase().replace('_', " ")).collect();
        let header = (self.begun.is_none() && !screen.options.no_header).then_some(header.as_slice());
        let begun = self.begun.get_or_insert_with(|| {
            let of_first = |index| held.first().and_then(|row| row.values.get(index));
            let right = (0..self.columns.len()).map(|index| of_first(index).is_some_and(Value::is_number));
            Begun { right: right.collect(), widths: Vec::new() }
        });
        let text = table::render(header, &begun.right, &mut begun.widths, &lines, screen.colours_out());
        screen.out.write_all(text.as_bytes())?;
        Ok(())
    }

    /// All `rows` as JSON objects, in their order.
    pub(crate) fn objects(&self, rows: &[T]) -> Vec<Object> {
        rows.iter()
            .map(|row| {
                let values: Vec<Value> = self.columns.iter().map(|column| (column.value)(row)).collect();
                self.object(values)
            })
            .collect()
    }
}

/// Writes all `rows`.
pub(crate) fn write_all<T>(screen: &mut Screen<'_>, shape: &Shape<T>, rows: &[T]) -> Result<(), Failure> {
    let mut listing = Listing::new(shape, &screen.options)?;
    for row in rows {
        listing.push(screen, row)?;
    }
    listing.finish(screen)
}
