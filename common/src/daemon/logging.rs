//! Logging: lines for people or JSON for machines, on standard error or wherever a system keeps logs.

use std::io::{self, IsTerminal};

use serde::Deserialize;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The `[log]` part of every configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// What is logged: a level, or `tracing` directives such as `info,tierway_relay=debug`.
    pub level: String,
    /// How it looks.
    pub format: Format,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: Format::Text }
    }
}

/// A `level` that does not parse.
#[derive(Debug, thiserror::Error)]
#[error("`{level}` is not a log level")]
pub struct LogError {
    level: String,
    source: tracing_subscriber::filter::ParseError,
}

/// Starts logging; a second call changes nothing.
///
/// # Errors
///
/// [`LogError`] when the level does not parse.
pub fn init(log: &Log) -> Result<(), LogError> {
    start(log, io::stderr, io::stderr().is_terminal())
}

/// Starts logging to where `writer` writes; a second call changes nothing.
///
/// # Errors
///
/// As [`init`].
pub fn init_to<W>(log: &Log, writer: W) -> Result<(), LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    start(log, writer, false)
}

fn start<W>(log: &Log, writer: W, ansi: bool) -> Result<(), LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder()
        .parse(&log.level)
        .map_err(|source| LogError { level: log.level.clone(), source })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(ansi);
    // Fails only when logging runs already, which is what a second call wants.
    let _ = match log.format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().try_init(),
    };
    Ok(())
}
