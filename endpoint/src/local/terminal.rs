//! The terminal of a person at the machine: `tierway-endpoint user`.
//!
//! A screen where the terminal can be used for one, else what is due as text; so always on Windows.

#[cfg(unix)]
mod interactive;

use std::{io, path::Path};

use jiff::{Timestamp, tz::TimeZone};
use tierway_common::clock::Clock;
use tierway_proto::v1::{self, local_wish_request::Wish};
use tonic::Status;

use super::{
    LocalError,
    screen::{self, TimeError},
};

/// The terminal cannot be used, or nobody answers.
#[derive(Debug, thiserror::Error)]
pub enum TerminalError {
    /// The endpoint.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// It refused, or is gone.
    #[error("{}", .0.message())]
    Status(#[from] Status),
    /// The terminal.
    #[error("could not use the terminal")]
    Terminal(#[from] io::Error),
    /// What was typed.
    #[error(transparent)]
    Time(#[from] TimeError),
}

/// What is due, as text.
///
/// # Errors
///
/// When the endpoint does not answer.
pub async fn status(socket: &Path, now: Timestamp) -> Result<String, TerminalError> {
    let due = super::connect(socket).await?.due(v1::LocalDueRequest {}).await?.into_inner();
    Ok(text(&due, now))
}

fn text(due: &v1::LocalDue, now: Timestamp) -> String {
    let lines = screen::lines(due, now, &TimeZone::system());
    lines.into_iter().map(|line| line.text + "\n").collect()
}

/// Wishes, and returns what is due then, as text.
///
/// # Errors
///
/// When it is not granted, with the endpoint's sentence, or the endpoint does not answer.
pub async fn wish(socket: &Path, wish: Wish, now: Timestamp) -> Result<String, TerminalError> {
    let request = v1::LocalWishRequest { wish: Some(wish) };
    let due = super::connect(socket).await?.wish(request).await?.into_inner();
    Ok(text(&due, now))
}

/// Shows what is due and lets the person choose until he quits; prints it where there is no terminal for that.
///
/// # Errors
///
/// When the terminal cannot be used or the endpoint is gone; the terminal is then as it was before.
pub async fn run(socket: &Path, clock: &Clock) -> Result<(), TerminalError> {
    #[cfg(unix)]
    if interactive::is_there() {
        return interactive::run(socket, clock).await;
    }
    print!("{}", status(socket, clock.now()).await?);
    Ok(())
}
