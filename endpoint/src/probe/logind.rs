//! Logins and inhibitors as systemd-logind tells them, over the system's message bus.
//!
//! Its files below `/run/systemd` are private to it and do not hold who is idle; its interface is stable
//! (org.freedesktop.login1(5)) and needs no program to be started.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;
use zbus::{
    Connection, connection,
    zvariant::{OwnedObjectPath, OwnedValue},
};

use super::terminals::SESSIONS_MAX;
use crate::{
    install::deb::apt::cut,
    people::{Inhibitor, People, Seat, Session},
};

const NAME: &str = "org.freedesktop.login1";
const PATH: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";
const SESSION: &str = "org.freedesktop.login1.Session";

/// logind answers in milliseconds; one that hangs must not stop the agent.
const PATIENCE: Duration = Duration::from_secs(5);
/// Inhibitors told of.
const INHIBITORS_MAX: usize = 32;
/// Of what a program says of itself.
const TEXT_BYTES_MAX: usize = 200;

/// logind did not say who is there.
#[derive(Debug, thiserror::Error)]
pub enum LogindError {
    /// There is no message bus, or no logind on it.
    #[error("no logind runs here")]
    Nobody(#[source] zbus::Error),
    /// It answered otherwise than expected.
    #[error("could not ask logind who is logged in")]
    Asked(#[source] zbus::Error),
    /// It did not answer.
    #[error("logind did not answer within {}", humantime::format_duration(PATIENCE))]
    Silent,
}

/// Who is logged in and who asked not to shut down; documents are looked for elsewhere. `bus` is the address of
/// the system's message bus.
///
/// # Errors
///
/// [`LogindError`]; without logind, [`LogindError::Nobody`].
pub async fn people(bus: &str) -> Result<People, LogindError> {
    tokio::time::timeout(PATIENCE, ask(bus)).await.unwrap_or(Err(LogindError::Silent))
}

async fn ask(bus: &str) -> Result<People, LogindError> {
    let connect = async { connection::Builder::address(bus)?.build().await };
    let bus = connect.await.map_err(LogindError::Nobody)?;
    let sessions = sessions(&bus).await?;
    let inhibitors = inhibitors(&bus).await.map_err(LogindError::Asked)?;
    Ok(People { sessions: Some(sessions), inhibitors, documents: Vec::new() })
}

async fn sessions(bus: &Connection) -> Result<Vec<Session>, LogindError> {
    let listed = bus.call_method(Some(NAME), PATH, Some(MANAGER), "ListSessions", &()).await;
    let listed = listed.map_err(|error| match error {
        zbus::Error::MethodError(ref name, ..) if name.as_str().ends_with(".ServiceUnknown") => {
            LogindError::Nobody(error)
        }
        error => LogindError::Asked(error),
    })?;
    // Id, user id, user name, seat, object.
    let listed: Vec<(String, u32, String, String, OwnedObjectPath)> =
        listed.body().deserialize().map_err(LogindError::Asked)?;
    let mut sessions = Vec::new();
    for (id, uid, user, _, object) in listed.into_iter().take(SESSIONS_MAX) {
        let all = bus
            .call_method(Some(NAME), object, Some("org.freedesktop.DBus.Properties"), "GetAll", &SESSION)
            .await;
        match all {
            Ok(all) => {
                let properties = all.body().deserialize().map_err(LogindError::Asked)?;
                sessions.extend(session(id, uid, &user, &properties));
            }
            // It ended meanwhile.
            Err(zbus::Error::MethodError(..)) => {}
            Err(error) => return Err(LogindError::Asked(error)),
        }
    }
    sessions.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(sessions)
}

/// A login of a person; `None` for greeters, lock screens, background jobs, and one that is ending.
fn session(id: String, uid: u32, user: &str, properties: &HashMap<String, OwnedValue>) -> Option<Session> {
    let text = |name: &str| properties.get(name).and_then(|value| <&str>::try_from(value).ok()).unwrap_or("");
    let flag = |name: &str| properties.get(name).and_then(|value| bool::try_from(value).ok());
    if !text("Class").starts_with("user") || text("State") == "closing" {
        return None;
    }
    let desktop = matches!(text("Type"), "x11" | "wayland" | "mir");
    let seat = match (desktop, flag("Remote").unwrap_or(false)) {
        (true, _) => Seat::Desktop,
        (false, true) => Seat::Remote,
        (false, false) => Seat::Terminal,
    };
    // Microseconds since 1970.
    let since = properties.get("IdleSinceHint").and_then(|value| u64::try_from(value).ok());
    let since = since.and_then(|at| Timestamp::from_microsecond(i64::try_from(at).ok()?).ok());
    let idle_since = if flag("IdleHint").unwrap_or(false) { since } else { None };
    let user = cut(user, TEXT_BYTES_MAX).to_owned();
    Some(Session { id, user, uid, seat, idle_since, locked: flag("LockedHint").unwrap_or(false) })
}

async fn inhibitors(bus: &Connection) -> zbus::Result<Vec<Inhibitor>> {
    let listed = bus.call_method(Some(NAME), PATH, Some(MANAGER), "ListInhibitors", &()).await?;
    // What, who, why, mode, user id, process id.
    let listed: Vec<(String, String, String, String, u32, u32)> = listed.body().deserialize()?;
    Ok(listed
        .into_iter()
        // What only delays a shutdown for a moment, as many services do, does not speak against it.
        .filter(|(what, _, _, mode, ..)| {
            mode.starts_with("block") && what.split(':').any(|what| what == "shutdown")
        })
        .take(INHIBITORS_MAX)
        .map(|(_, who, why, _, uid, _)| Inhibitor {
            who: cut(&who, TEXT_BYTES_MAX).to_owned(),
            why: cut(&why, TEXT_BYTES_MAX).to_owned(),
            uid,
        })
        .collect())
}
