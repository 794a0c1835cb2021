//! Notifications on a person's desktop: `tierway-endpoint notify`, started in each session.
//!
//! The endpoint decides what to show and when ([`crate::remind`]); this shows it by the desktop's own service
//! (Desktop Notifications Specification 1.2, over the session's message bus) and carries the answer back.
//! When nobody shows notifications, or this program does not run, a countdown counts all the same.

use std::{collections::HashMap, path::Path, time::Duration};

use futures_util::StreamExt;
use tierway_common::{
    daemon::{chain::Chain, stop::Stop},
    schedule,
};
use tierway_proto::v1::{self, local_client::LocalClient, local_wish_request::Wish};
use tonic::transport::Channel;
use zbus::{Connection, MatchRule, MessageStream, connection, message, zvariant::Value};

use super::LocalError;
use crate::remind::Answer;

const NAME: &str = "org.freedesktop.Notifications";
const PATH: &str = "/org/freedesktop/Notifications";

/// First and longest wait before the endpoint is asked again: it restarts when it is updated.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Signals that wait.
const SIGNALS_MAX: usize = 32;

/// `urgency` of the specification.
const NORMAL: u8 = 1;
const CRITICAL: u8 = 2;

/// Nothing can be shown.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// The session's message bus.
    #[error("could not use the session's message bus")]
    Bus(#[from] zbus::Error),
    /// The endpoint's.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// It does not answer this user, or not any more.
    #[error("the endpoint refused: {}", .0.message())]
    Refused(tonic::Status),
}

/// Shows what the endpoint at `socket` says until `stop`. `bus` is the address of the session's message bus
/// instead of the one that the session names.
///
/// # Errors
///
/// When the session's bus is not there or ends: so does the session.
pub async fn run(socket: &Path, bus: Option<&str>, stop: Stop) -> Result<(), NotifyError> {
    let builder = match bus {
        Some(address) => connection::Builder::address(address)?,
        None => connection::Builder::session()?,
    };
    let bus = builder.build().await?;
    let rule = MatchRule::builder().msg_type(message::Type::Signal).interface(NAME)?.path(PATH)?.build();
    let mut signals = MessageStream::for_match_rule(rule, &bus, Some(SIGNALS_MAX)).await?;
    let mut failures = 0;
    loop {
        let ended = tokio::select! {
            () = stop.wait() => return Ok(()),
            ended = show(socket, &bus, &mut signals, &mut failures) => ended,
        };
        match ended {
            Err(error @ NotifyError::Bus(_)) => return Err(error),
            Err(error) => tracing::info!(error = %Chain(&error), "the endpoint cannot be watched now"),
            Ok(()) => {}
        }
        let wait = schedule::back_off(failures, BACK_OFF.0, BACK_OFF.1, schedule::random());
        failures += 1;
        tokio::select! {
            () = stop.wait() => return Ok(()),
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// What is shown now.
#[derive(Debug, Default)]
struct Shown {
    /// The service's number for it; 0 for nothing.
    id: u32,
    /// It is about a reboot.
    reboot: bool,
}

async fn show(
    socket: &Path,
    bus: &Connection,
    signals: &mut MessageStream,
    failures: &mut u32,
) -> Result<(), NotifyError> {
    let mut client = super::connect(socket).await?;
    let watched = client.watch(v1::LocalWatchRequest {}).await.map_err(NotifyError::Refused)?;
    let mut shows = watched.into_inner();
    *failures = 0;
    let mut shown = Shown::default();
    loop {
        tokio::select! {
            show = shows.message() => {
                let Some(v1::LocalShow { due, prompt }) = show.map_err(NotifyError::Refused)? else {
                    return Ok(());
                };
                let due = due.unwrap_or_default();
                if let Some(prompt) = prompt {
                    shown.id = put(bus, shown.id, &prompt).await?;
                    shown.reboot = is_about_reboot(&due);
                } else if shown.id != 0 && due.items.is_empty() && due.reboot.is_none() {
                    // What it was about is done.
                    take_back(bus, shown.id).await?;
                    shown.id = 0;
                }
            }
            signal = signals.next() => {
                let signal = signal.ok_or_else(|| zbus::Error::Failure("it was closed".to_owned()))??;
                let Some((id, answer)) = answered(&signal) else { continue };
                if id == shown.id
                    && let Some(answer) = answer
                {
                    say(&mut client, answer, shown.reboot).await;
                } else if id == shown.id {
                    shown.id = 0;
                }
            }
        }
    }
}

fn is_about_reboot(due: &v1::LocalDue) -> bool {
    match &due.countdown {
        Some(countdown) => countdown.reboot,
        None => due.reboot.as_ref().is_some_and(|reboot| !reboot.suppressed),
    }
}

/// Shows a prompt in place of the notification `before`; returns its number.
async fn put(bus: &Connection, before: u32, prompt: &v1::LocalPrompt) -> zbus::Result<u32> {
    let v1::LocalPrompt { title, text, urgent, answers } = prompt;
    let mut actions: Vec<&str> = Vec::new();
    for v1::LocalAnswer { answer, label } in answers {
        actions.extend([answer.as_str(), label.as_str()]);
    }
    let urgency = if *urgent { CRITICAL } else { NORMAL };
    let hints: HashMap<&str, Value<'_>> = [
        ("urgency", Value::from(urgency)),
        ("category", Value::from("x-tierway.updates")),
        // After an answer it can go; unanswered it stays where the service keeps what is urgent.
        ("resident", Value::from(false)),
    ]
    .into();
    // 0: does not expire by itself; -1: as long as the service likes.
    let expires = if *urgent { 0_i32 } else { -1 };
    let body = (
        "Tierway",
        before,
        "software-update-available",
        title.as_str(),
        escaped(text),
        actions,
        hints,
        expires,
    );
    let reply = bus.call_method(Some(NAME), PATH, Some(NAME), "Notify", &body).await?;
    reply.body().deserialize()
}

async fn take_back(bus: &Connection, id: u32) -> zbus::Result<()> {
    match bus.call_method(Some(NAME), PATH, Some(NAME), "CloseNotification", &id).await {
        // It was closed meanwhile.
        Ok(_) | Err(zbus::Error::MethodError(..)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The notification that a signal is about, and what was pressed; without an answer it was closed.
fn answered(signal: &zbus::Message) -> Option<(u32, Option<Answer>)> {
    match signal.header().member()?.as_str() {
        "ActionInvoked" => {
            let (id, action): (u32, String) = signal.body().deserialize().ok()?;
            Some((id, Some(Answer::parse(&action)?)))
        }
        "NotificationClosed" => {
            let (id, _reason): (u32, u32) = signal.body().deserialize().ok()?;
            Some((id, None))
        }
        _ => None,
    }
}

async fn say(client: &mut LocalClient<Channel>, answer: Answer, reboot: bool) {
    let wish = match answer {
        Answer::InstallNow => Wish::Install(0),
        Answer::RebootNow => Wish::Reboot(0),
        Answer::Postpone if reboot => Wish::PostponeReboot(0),
        Answer::Postpone => Wish::Postpone(0),
        Answer::Acknowledge => Wish::Acknowledge(v1::LocalAcknowledge {}),
    };
    // What was refused shows in what is shown next.
    if let Err(status) = client.wish(v1::LocalWishRequest { wish: Some(wish) }).await {
        tracing::warn!(answer = answer.as_str(), said = status.message(), "the endpoint refused an answer");
    }
}

/// Text for a service that reads markup, as the specification lets it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_is_no_markup() {
        assert_eq!(escaped("a<b> & c"), "a&lt;b&gt; &amp; c");
    }
}
