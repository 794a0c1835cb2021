//! Notifications on a person's desktop: `tierway-endpoint notify`, started in each session.
//!
//! The endpoint decides what to show and when ([`crate::remind`]); this shows it by the desktop's own service
//! (Desktop Notifications Specification 1.2, over the session's message bus) and carries the answer back.
//! When nobody shows notifications, or this program does not run, a countdown counts all the same.

use std::{collections::HashMap, path::Path, time::Duration};

use futures_util::StreamExt;
use jiff::{SignedDuration, Timestamp};
use tierway_common::{
    clock::Clock,
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
    /// It is about the countdown that began then.
    countdown: Option<i64>,
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
    let (mut shown, clock) = (Shown::default(), Clock::system());
    loop {
        tokio::select! {
            show = shows.message() => {
                let Some(v1::LocalShow { due, prompt }) = show.map_err(NotifyError::Refused)? else {
                    return Ok(());
                };
                let due = due.unwrap_or_default();
                let countdown = due.countdown.map(|countdown| countdown.began);
                if let Some(prompt) = prompt {
                    let ends = due.countdown.and_then(|countdown| Timestamp::from_millisecond(countdown.ends).ok());
                    shown.id = put(bus, shown.id, &prompt, ends.map(|ends| ends.duration_since(clock.now()))).await?;
                    shown.reboot = is_about_reboot(&due);
                    shown.countdown = countdown;
                } else if shown.id != 0 && is_over(&shown, &due, countdown) {
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

/// Whether what is shown is about nothing any more: it is done, or the countdown was answered or has ended.
fn is_over(shown: &Shown, due: &v1::LocalDue, countdown: Option<i64>) -> bool {
    let nothing = due.items.is_empty() && due.reboot.is_none();
    nothing || (shown.countdown.is_some() && shown.countdown != countdown)
}

fn is_about_reboot(due: &v1::LocalDue) -> bool {
    match &due.countdown {
        Some(countdown) => countdown.reboot,
        None => due.reboot.as_ref().is_some_and(|reboot| !reboot.suppressed),
    }
}

/// Shows a prompt in place of the notification `before`; returns its number. One of a countdown that ends after
/// `left` is gone by then, also when this program is not there any more to take it back.
async fn put(
    bus: &Connection,
    before: u32,
    prompt: &v1::LocalPrompt,
    left: Option<SignedDuration>,
) -> zbus::Result<u32> {
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
    // Milliseconds; 0: does not expire by itself; -1: as long as the service likes.
    let expires = match left {
        Some(left) => i32::try_from(left.as_millis().max(1)).unwrap_or(i32::MAX),
        None if *urgent => 0,
        None => -1,
    };
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
    fn a_warning_goes_with_its_countdown_and_a_reminder_with_what_is_due() {
        let shown = |countdown| Shown { id: 7, reboot: false, countdown };
        let due = |items: usize| v1::LocalDue {
            items: vec![v1::LocalItem::default(); items],
            ..Default::default()
        };
        for (countdown, items, counting, over) in [
            (Some(1), 1, Some(1), false),
            (Some(1), 1, None, true),
            (Some(1), 1, Some(2), true),
            (None, 1, None, false),
            (None, 1, Some(1), false),
            (None, 0, None, true),
        ] {
            assert_eq!(is_over(&shown(countdown), &due(items), counting), over, "{countdown:?} {counting:?}");
        }
    }

    #[test]
    fn text_of_others_is_no_markup() {
        assert_eq!(escaped("a<b> & c"), "a&lt;b&gt; &amp; c");
    }
}
