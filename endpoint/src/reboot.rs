//! Reboots the computer: written down, ordered, and known by the boot that comes.
//!
//! Whether and when is decided elsewhere. An order is on disk before it is given; after it the computer is in
//! another boot, which the next look finds, and a scan of that boot proves what was pending. A crash before the
//! order, during it or after it leaves a ledger that says so: the same boot still runs, and after
//! [`ORDER_AGAIN_AFTER`] the order may be given again.

pub mod decide;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tierway_common::programs::{self, End, Program, RunError};

use crate::{
    ledger::{Event, Ledger, journal::JournalError},
    probe::Surroundings,
    signs::BootId,
};

/// A shutdown has its own time limits, a minute and a half for each service; one that did not end the boot
/// in this time did not happen.
pub const ORDER_AGAIN_AFTER: SignedDuration = SignedDuration::from_mins(15);

/// Giving the order is one message to the system.
const ORDER_LIMIT: Duration = Duration::from_secs(60);

/// What systemd writes to its log and to people's terminals beside the reason, in bytes.
const REASON_BYTES_MAX: usize = 200;

/// A reboot that was not ordered.
#[derive(Debug, thiserror::Error)]
pub enum RebootError {
    /// It could not be written down first.
    #[error("could not write down that a reboot is ordered")]
    Ledger(#[from] JournalError),
    /// The system that is patched is not the one that runs.
    #[error("`{0}` is not the root of the running system, and is not rebooted")]
    OtherRoot(PathBuf),
    /// Which boot this is is not known, so that it could not be told whether the reboot happened.
    #[error("which boot this is is not known, so nothing is rebooted")]
    NoBoot,
    /// What orders it did not start.
    #[error("could not order a reboot")]
    Run(#[from] RunError),
    /// What was asked for it refused.
    #[error("the system did not reboot the computer ({end:?}): {said}")]
    Refused {
        /// How it ended.
        end: End,
        /// What it said.
        said: String,
    },
}

/// Writes down that the boot ends by our order, and orders it. The process goes on until systemd stops it.
///
/// # Errors
///
/// [`RebootError`]; then nothing was ordered, or it was refused, and it may be tried again after
/// [`ORDER_AGAIN_AFTER`].
pub async fn order(
    surroundings: &dyn Surroundings,
    ledger: &mut Ledger,
    boot: Option<&BootId>,
    reason: &str,
    now: Timestamp,
) -> Result<(), RebootError> {
    let boot = boot.ok_or(RebootError::NoBoot)?.clone();
    ledger.record(vec![Event::RebootOrdered { boot, at: now }])?;
    tracing::warn!(reason, "rebooting the computer");
    surroundings.reboot(reason).await
}

/// Orders it of systemd.
///
/// # Errors
///
/// [`RebootError::Run`] and [`RebootError::Refused`].
pub async fn by_systemctl(systemctl: &Path, scratch: &Path, reason: &str) -> Result<(), RebootError> {
    let reason: String = reason.chars().filter(|c| !c.is_control()).take(REASON_BYTES_MAX / 4).collect();
    // As root it does not ask inhibitors: they were heard when it was decided.
    let arguments = vec!["--message".into(), format!("Tierway: {reason}").into(), "reboot".into()];
    obey(systemctl, arguments, scratch).await
}

/// Orders it of Windows, at once: whoever is there was warned before.
///
/// # Errors
///
/// As [`by_systemctl`].
pub async fn by_shutdown(shutdown: &Path, scratch: &Path, reason: &str) -> Result<(), RebootError> {
    let reason: String = reason.chars().filter(|c| !c.is_control()).take(REASON_BYTES_MAX / 4).collect();
    let comment = format!("Tierway: {reason}");
    // Planned, for an update of the system: as the event log keeps it.
    let arguments = ["/r", "/f", "/t", "0", "/d", "p:2:17", "/c", &comment].map(Into::into).to_vec();
    obey(shutdown, arguments, scratch).await
}

async fn obey(program: &Path, arguments: Vec<OsString>, scratch: &Path) -> Result<(), RebootError> {
    let program = Program {
        path: program.to_owned(),
        arguments,
        command_line: String::new(),
        directory: "/".into(),
        environment: programs::environment(),
        limit: ORDER_LIMIT,
        grace: Duration::from_secs(5),
        tail_bytes_max: 1024,
    };
    let ran = programs::run(&program, scratch).await?;
    match ran.end {
        End::Exited(0) => Ok(()),
        end => Err(RebootError::Refused { end, said: ran.errors.text.trim().to_owned() }),
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, sync::Mutex};

    use futures_util::future::BoxFuture;
    use tierway_common::facts::Facts;

    use super::*;
    use crate::probe::Seen;

    /// What happens when the order is given.
    #[derive(Debug)]
    struct Machine {
        ledger: PathBuf,
        /// Orders that the ledger knew of when they were given.
        known: Mutex<Vec<Option<Timestamp>>>,
        refuses: bool,
    }

    impl Surroundings for Machine {
        fn look<'a>(&'a self, _: &'a Facts, _: Timestamp) -> BoxFuture<'a, Seen> {
            Box::pin(async { Seen::default() })
        }

        fn logged_in(&self, _: u32) -> BoxFuture<'_, bool> {
            Box::pin(async { false })
        }

        fn tell<'a>(&'a self, _: &'a str) -> BoxFuture<'a, ()> {
            Box::pin(async {})
        }

        fn reboot<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), RebootError>> {
            Box::pin(async {
                // As after a power cut at this moment.
                let copy = tempfile::tempdir().unwrap();
                for entry in fs::read_dir(&self.ledger).unwrap() {
                    let entry = entry.unwrap();
                    fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
                }
                let (ledger, _) = Ledger::open(copy.path()).unwrap();
                self.known.lock().unwrap().push(ledger.book().boots().ordered.map(|(at, _)| at));
                let refused = RebootError::Refused { end: End::Exited(1), said: String::new() };
                if self.refuses { Err(refused) } else { Ok(()) }
            })
        }
    }

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + minute * 60).unwrap()
    }

    #[tokio::test]
    async fn an_order_is_on_disk_before_it_is_given() {
        let directory = tempfile::tempdir().unwrap();
        let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
        let boot = BootId("one".to_owned());
        ledger.record(vec![Event::Booted { boot: boot.clone(), at: at(0) }]).unwrap();
        let machine = Machine { ledger: directory.path().to_owned(), known: Mutex::default(), refuses: true };
        let refused = order(&machine, &mut ledger, Some(&boot), "an update", at(1)).await;
        assert!(matches!(refused, Err(RebootError::Refused { .. })));
        assert_eq!(*machine.known.lock().unwrap(), [Some(at(1))]);
        let nowhere = order(&machine, &mut ledger, None, "an update", at(4)).await;
        assert!(matches!(nowhere, Err(RebootError::NoBoot)));
        assert_eq!(machine.known.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn systemctl_is_told_the_reason_and_its_refusal_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("systemctl");
        let said = directory.path().join("said");
        let script = format!(
            "#!/bin/sh\nprintf '%s|' \"$@\" > {}\necho no >&2\nexit $(cat {0}.code)\n",
            said.display()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        for (code, refused) in [(0, false), (1, true)] {
            fs::write(directory.path().join("said.code"), code.to_string()).unwrap();
            let done = by_systemctl(&program, directory.path(), "3 updates\nneed it").await;
            assert_eq!(fs::read_to_string(&said).unwrap(), "--message|Tierway: 3 updatesneed it|reboot|");
            match done {
                Ok(()) => assert!(!refused),
                Err(error) => {
                    assert!(refused);
                    assert_eq!(error.to_string(), "the system did not reboot the computer (Exited(1)): no");
                }
            }
        }
    }
}
