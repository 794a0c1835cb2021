//! One value of an answer, and how each format writes it.

use std::{borrow::Cow, cmp::Ordering};

use jiff::Timestamp;
use serde::{Serialize, Serializer};

/// A value with its meaning.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// A text, empty for none.
    Text(String),
    /// How many.
    Count(u64),
    /// Which one: a number by which something is called.
    Number(u64),
    /// A size in bytes.
    Bytes(u64),
    /// How long, milliseconds.
    Millis(u64),
    /// How long, milliseconds, from seconds to years.
    Span(u64),
    /// Unix milliseconds, 0 for never.
    Time(i64),
    /// Yes or no.
    Flag(bool),
    /// In the order given.
    Names(Vec<String>),
    /// A part of a whole; of nothing there is no share.
    Share { part: u64, whole: u64 },
    /// A document: shown as it is in JSON and CSV only.
    Json(serde_json::Value),
}

impl Value {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// For people: relative times, thousands parted, `-` for nothing.
    pub(crate) fn short(&self, now: Timestamp) -> String {
        match self {
            Self::Time(at) => relative(*at, now),
            Self::Names(names) if names.len() > NAMES_SHOWN => {
                let (shown, rest) = names.split_at(NAMES_SHOWN);
                format!("{} +{}", shown.join(","), rest.len())
            }
            _ => self.long(),
        }
    }

    /// The same with times as RFC 3339 and nothing cut.
    pub(crate) fn long(&self) -> String {
        let text = match self {
            Self::Text(text) => text.clone(),
            Self::Count(n) => count_text(*n),
            Self::Number(n) => n.to_string(),
            Self::Bytes(n) => bytes_text(*n),
            Self::Millis(n) => millis_text(*n),
            Self::Span(n) => spans_text(*n),
            Self::Time(0) => "never".to_owned(),
            Self::Time(at) => rfc3339(*at),
            Self::Flag(true) => "yes".to_owned(),
            Self::Flag(false) => "no".to_owned(),
            Self::Names(names) => names.join(","),
            Self::Share { part, whole } => {
                share_text(*part, *whole).map_or(String::new(), |share| share + "%")
            }
            Self::Json(document) => document.to_string(),
        };
        if text.is_empty() { "-".to_owned() } else { text }
    }

    /// For programs that read columns: plain numbers, times as RFC 3339, names parted by spaces (no name
    /// has one), empty for nothing.
    pub(crate) fn plain(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => text.into(),
            Self::Count(n) | Self::Number(n) | Self::Bytes(n) | Self::Millis(n) | Self::Span(n) => {
                n.to_string().into()
            }
            Self::Time(0) => "".into(),
            Self::Time(at) => rfc3339(*at).into(),
            Self::Flag(flag) => if *flag { "true" } else { "false" }.into(),
            Self::Names(names) => names.join(" ").into(),
            Self::Share { part, whole } => share_text(*part, *whole).unwrap_or_default().into(),
            Self::Json(document) => document.to_string().into(),
        }
    }

    /// Numbers stand at the right of their column.
    pub(crate) fn is_number(&self) -> bool {
        matches!(
            self,
            Self::Count(_)
                | Self::Number(_)
                | Self::Bytes(_)
                | Self::Millis(_)
                | Self::Span(_)
                | Self::Share { .. }
        )
    }

    /// For `--sort`: within a kind by size, time or alphabet; never before ever.
    pub(crate) fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Count(a), Self::Count(b))
            | (Self::Number(a), Self::Number(b))
            | (Self::Bytes(a), Self::Bytes(b))
            | (Self::Millis(a), Self::Millis(b))
            | (Self::Span(a), Self::Span(b)) => a.cmp(b),
            (Self::Time(a), Self::Time(b)) => a.cmp(b),
            (Self::Flag(a), Self::Flag(b)) => a.cmp(b),
            (Self::Names(a), Self::Names(b)) => a.cmp(b),
            (Self::Share { part: a, whole: of_a }, Self::Share { part: b, whole: of_b }) => {
                // a/of_a < b/of_b, without rounding; a share of nothing comes first.
                let cross = |x: u64, y: u64| u128::from(x) * u128::from(y);
                (*of_a > 0).cmp(&(*of_b > 0)).then(cross(*a, *of_b).cmp(&cross(*b, *of_a)))
            }
            _ => self.plain().cmp(&other.plain()),
        }
    }
}

/// For programs that read JSON: `null` for never and for a share of nothing.
impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Count(n) | Self::Number(n) | Self::Bytes(n) | Self::Millis(n) | Self::Span(n) => {
                serializer.serialize_u64(*n)
            }
            Self::Time(0) => serializer.serialize_none(),
            Self::Time(at) => serializer.serialize_str(&rfc3339(*at)),
            Self::Flag(flag) => serializer.serialize_bool(*flag),
            Self::Names(names) => names.serialize(serializer),
            Self::Share { part, whole } => {
                share_text(*part, *whole).and_then(|share| share.parse::<f64>().ok()).serialize(serializer)
            }
            Self::Json(document) => document.serialize(serializer),
        }
    }
}

/// More names than this make a table unreadable; the other formats show them all.
const NAMES_SHOWN: usize = 3;

fn rfc3339(at: i64) -> String {
    // Outside jiff's years (-9999 to 9999) there is no such notation.
    Timestamp::from_millisecond(at).map_or_else(|_| at.to_string(), |at| at.to_string())
}

/// `3h ago`, `in 2d`, `now`, `never`; one unit, rounded down.
fn relative(at: i64, now: Timestamp) -> String {
    if at == 0 {
        return "never".to_owned();
    }
    let distance = at.saturating_sub(now.as_millisecond());
    let span = span_text(distance.unsigned_abs());
    match distance {
        -999..=999 => "now".to_owned(),
        ..-999 => format!("{span} ago"),
        1_000.. => format!("in {span}"),
    }
}

/// The largest whole unit of so many milliseconds: `59s`, `59m`, `47h`, `12d`.
pub(crate) fn span_text(millis: u64) -> String {
    let seconds = millis / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Two units of so many milliseconds: `59s`, `3m 20s`, `47h 5m`, `12d 7h`; rounded down.
pub(crate) fn spans_text(millis: u64) -> String {
    let seconds = millis / 1000;
    let two = |(unit, name): (u64, &str), (part, part_name): (u64, &str)| {
        let (whole, rest) = (seconds / unit, seconds % unit / part);
        if rest == 0 { format!("{whole}{name}") } else { format!("{whole}{name} {rest}{part_name}") }
    };
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => two((60, "m"), (1, "s")),
        3_600..172_800 => two((3_600, "h"), (60, "m")),
        _ => two((86_400, "d"), (3_600, "h")),
    }
}

fn millis_text(millis: u64) -> String {
    match millis {
        0..1_000 => format!("{millis}ms"),
        1_000..60_000 => format!("{}.{}s", millis / 1_000, millis % 1_000 / 100),
        _ => span_text(millis),
    }
}

/// `248,913`.
pub(crate) fn count_text(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1.2 GiB`: one decimal, rounded down; bytes below 1 KiB as they are.
pub(crate) fn bytes_text(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let power = n.ilog2() / 10;
    let unit = UNITS[(power as usize - 1).min(UNITS.len() - 1)];
    let tenths = (u128::from(n) * 10) >> (10 * power);
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// Per cent with one decimal, rounded down, so that what is shown as 95.0 is not below 95.
pub(crate) fn share_text(part: u64, whole: u64) -> Option<String> {
    let tenths = (u128::from(part) * 1000).checked_div(u128::from(whole))?;
    Some(format!("{}.{}", tenths / 10, tenths % 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_written_as_each_format_needs_it() {
        let now = Timestamp::from_second(1_790_000_000).unwrap();
        let ago = |seconds: i64| Value::Time(now.as_millisecond() - seconds * 1000);
        let names = |n: usize| Value::Names((0..n).map(|i| format!("g{i}")).collect());
        for (value, short, plain, json) in [
            (Value::text(""), "-", "", "\"\""),
            (Value::Count(248_913), "248,913", "248913", "248913"),
            (Value::Count(12), "12", "12", "12"),
            (Value::Bytes(1023), "1023 B", "1023", "1023"),
            (Value::Bytes(1_288_490_188), "1.1 GiB", "1288490188", "1288490188"),
            (Value::Bytes(u64::MAX), "15.9 EiB", "18446744073709551615", "18446744073709551615"),
            (Value::Millis(1_250), "1.2s", "1250", "1250"),
            (Value::Time(0), "never", "", "null"),
            (ago(0), "now", "2026-09-21T14:13:20Z", "\"2026-09-21T14:13:20Z\""),
            (ago(59), "59s ago", "2026-09-21T14:12:21Z", "\"2026-09-21T14:12:21Z\""),
            (ago(-7_300), "in 2h", "2026-09-21T16:15:00Z", "\"2026-09-21T16:15:00Z\""),
            (ago(200_000), "2d ago", "2026-09-19T06:40:00Z", "\"2026-09-19T06:40:00Z\""),
            (Value::Span(59_999), "59s", "59999", "59999"),
            (Value::Span(200_000), "3m 20s", "200000", "200000"),
            (Value::Span(7_200_000), "2h", "7200000", "7200000"),
            (Value::Span(1_062_000_000), "12d 7h", "1062000000", "1062000000"),
            (Value::Flag(true), "yes", "true", "true"),
            (names(2), "g0,g1", "g0 g1", "[\"g0\",\"g1\"]"),
            (names(5), "g0,g1,g2 +2", "g0 g1 g2 g3 g4", "[\"g0\",\"g1\",\"g2\",\"g3\",\"g4\"]"),
            (Value::Share { part: 1, whole: 0 }, "-", "", "null"),
            (Value::Share { part: 9_499_999, whole: 10_000_000 }, "94.9%", "94.9", "94.9"),
            (Value::Share { part: 7, whole: 7 }, "100.0%", "100.0", "100.0"),
        ] {
            assert_eq!(
                (value.short(now).as_str(), &*value.plain(), serde_json::to_string(&value).unwrap().as_str()),
                (short, plain, json),
                "{value:?}"
            );
        }
    }

    #[test]
    fn shares_are_ordered_by_what_they_are_of_their_whole_and_nothing_comes_first() {
        let mut shares = [(1, 2), (99, 100), (0, 0), (1, 3), (0, 5)];
        shares.sort_by(|(a, of_a), (b, of_b)| {
            Value::Share { part: *a, whole: *of_a }.order(&Value::Share { part: *b, whole: *of_b })
        });
        assert_eq!(shares, [(0, 0), (0, 5), (1, 3), (1, 2), (99, 100)]);
    }
}
