//! The running Windows: who has a desktop, which boot it is, what asks for a reboot.
//!
//! A desktop is a session in which the shell runs, and it is locked while the log-on screen is shown in it.
//! How long nobody has touched it only a program in that session can know, so everybody counts as at work.
//! Programs that would hold a shutdown up and documents that are open are not known.

use std::path::{Path, PathBuf};

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System as Processes, UpdateKind};
use tierway_common::facts::Facts;

use super::{Seen, Surroundings};
use crate::{
    people::{People, Seat, Session},
    reboot::{self, RebootError},
    scan::{
        Problem,
        windows::{
            reboot::signs,
            registry::{Registry, SystemRegistry},
        },
    },
    signs::BootId,
};

/// Counts the boots; Windows writes it at each.
const BOOTS: (&str, &str) =
    (r"HKLM\SYSTEM\CurrentControlSet\Control\Session Manager\Memory Management\PrefetchParameters", "BootId");

/// The session of services, in which nobody has a desktop.
const SERVICES: u32 = 0;

/// Sessions told of; a terminal server may have some hundred.
const SESSIONS_MAX: usize = 1_000;

/// The system that is patched.
#[derive(Clone, Debug)]
pub struct System {
    /// For nameless output files.
    scratch: PathBuf,
}

impl System {
    /// The running system; `scratch` is a directory of this program's own. There is no other root than `/` on
    /// Windows.
    #[must_use]
    pub fn new(_: &Path, scratch: &Path) -> Self {
        Self { scratch: scratch.to_owned() }
    }
}

/// Who has a desktop, ascending by session; not known when the processes cannot be listed.
fn people(problems: &mut Vec<Problem>) -> People {
    let mut processes = match Processes::new() {
        Ok(processes) => processes,
        Err(error) => {
            problems.push(Problem(format!("could not list the processes: {error}")));
            return People::default();
        }
    };
    let kind = ProcessRefreshKind::nothing().with_user(UpdateKind::Always);
    processes.refresh_processes_specifics(ProcessesToUpdate::All, true, kind);
    let in_session = |name: &'static str| {
        let named = processes.processes().values().filter(move |process| {
            process.name().to_str().is_some_and(|found| found.eq_ignore_ascii_case(name))
        });
        named.filter_map(|process| Some((process.session_id()?.as_u32(), process)))
    };
    let locked: Vec<u32> = in_session("LogonUI.exe").map(|(session, _)| session).collect();
    let mut sessions: Vec<(u32, Session)> = in_session("explorer.exe")
        .map(|(id, process)| {
            let user = process.user_id().map_or_else(|| id.to_string(), |user| (**user).to_string());
            let locked = locked.contains(&id);
            let session =
                Session { id: id.to_string(), user, uid: id, seat: Seat::Desktop, idle_since: None, locked };
            (id, session)
        })
        .collect();
    sessions.sort_by_key(|(id, _)| *id);
    sessions.dedup_by_key(|(id, _)| *id);
    sessions.truncate(SESSIONS_MAX);
    People { sessions: Some(sessions.into_iter().map(|(_, session)| session).collect()), ..People::default() }
}

impl Surroundings for System {
    fn look<'a>(&'a self, _: &'a Facts, _: Timestamp) -> BoxFuture<'a, Seen> {
        Box::pin(async move {
            let (signs, mut problems) = signs(&SystemRegistry);
            let boot = SystemRegistry.value(BOOTS.0, BOOTS.1).ok().flatten().and_then(|data| data.number());
            let boot = boot.map(|number| BootId(number.to_string()));
            Seen { people: people(&mut problems), signs, boot, problems }
        })
    }

    /// Who is not does not get to ask: the rights of the pipe for people say so, see [`crate::local`].
    fn logged_in(&self, session: u32) -> BoxFuture<'_, bool> {
        Box::pin(async move { session != SERVICES })
    }

    /// A service has no desktop to show anything on.
    fn tell<'a>(&'a self, _: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    fn reboot<'a>(&'a self, reason: &'a str) -> BoxFuture<'a, Result<(), RebootError>> {
        Box::pin(async move {
            let shutdown = crate::scan::windows::place::system_folder(&SystemRegistry).join("shutdown.exe");
            reboot::by_shutdown(&shutdown, &self.scratch, reason).await
        })
    }
}
