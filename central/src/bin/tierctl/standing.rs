//! Where a patch truly stands on an endpoint, as columns that endpoints and patches share, and step by step.

use tierway_proto::v1;

use crate::output::{
    listing::{Column, Shape},
    table::Tint,
    value::Value,
};

/// One word or two, such as `waiting for a window`.
pub(crate) fn name(standing: Option<&v1::Standing>) -> Value {
    Value::Text(standing.map(|standing| standing.name.clone()).unwrap_or_default())
}

/// Since when.
pub(crate) fn since(standing: Option<&v1::Standing>) -> Value {
    Value::Time(standing.map_or(0, |standing| standing.since))
}

/// Until when it waits.
pub(crate) fn until(standing: Option<&v1::Standing>) -> Value {
    match standing.map_or(0, |standing| standing.until) {
        0 => Value::Text(String::new()),
        until => Value::Time(until),
    }
}

/// Who says so.
pub(crate) fn source(standing: Option<&v1::Standing>) -> Value {
    Value::Text(standing.map(|standing| standing.source.clone()).unwrap_or_default())
}

/// When that was heard last.
pub(crate) fn heard(standing: Option<&v1::Standing>) -> Value {
    Value::Time(standing.map_or(0, |standing| standing.heard))
}

/// More about it: what its standing says, or else what the endpoint said.
pub(crate) fn detail(standing: Option<&v1::Standing>, said: &str) -> Value {
    let detail = standing.map(|standing| standing.detail.as_str()).filter(|detail| !detail.is_empty());
    Value::text(detail.unwrap_or(said))
}

/// How a standing strikes the eye.
pub(crate) fn tint(standing: Option<&v1::Standing>) -> Tint {
    match standing.map_or("", |standing| standing.name.as_str()) {
        "failed" | "quarantined" => Tint::Bad,
        "verified" | "installed" => Tint::Plain,
        _ => Tint::Warn,
    }
}

/// Every step with its time, or the reason why it was not taken.
pub(crate) const STEPS: Shape<v1::Step> = Shape {
    columns: &[
        Column::new("step", |row| Value::text(&row.name)),
        Column::new("at", |row| Value::Time(row.at)),
        Column::new("source", |row| Value::text(&row.source)),
        Column::new("reason", |row| Value::text(&row.reason)),
    ],
    tint: |row| if row.at == 0 { Tint::Faint } else { Tint::Plain },
};
