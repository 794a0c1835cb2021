//! What goes over message buses: notifications on a desktop, and who is logged in.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use tierway_common::schema::policy::CountdownDefault;
use tierway_endpoint::{
    consent::Purpose,
    due::{Countdown, Due},
    people::{Inhibitor, People, Seat, Session},
    probe::logind,
    wishes::Wish,
};
use tokio::sync::watch;
use zbus::zvariant::{OwnedObjectPath, Value};

use crate::machine::{LONG, Machine, due, has, skip};

fn start() -> Timestamp {
    "2026-11-24T20:00:00Z".parse().unwrap()
}

/// A message bus of a test's own.
struct Bus {
    child: Child,
    address: String,
    _directory: tempfile::TempDir,
}

impl Bus {
    fn start(what: &str) -> Option<Self> {
        if !has("dbus-daemon") {
            skip(what, "`dbus-daemon` is not installed");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let address = format!("unix:path={}", directory.path().join("bus").display());
        let mut child = Command::new("dbus-daemon")
            .args(["--session", "--nofork", "--nopidfile", "--print-address=1", "--address", &address])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Some(Self { child, address: line.trim().to_owned(), _directory: directory })
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One notification that was asked for.
#[derive(Clone, Debug, PartialEq)]
struct Noted {
    replaces: u32,
    title: String,
    text: String,
    actions: Vec<String>,
    urgency: u8,
    expires: i32,
}

/// A desktop's notification service.
struct Desktop {
    noted: watch::Sender<Vec<Noted>>,
    closed: watch::Sender<Vec<u32>>,
}

#[zbus::interface(name = "org.freedesktop.Notifications")]
impl Desktop {
    #[expect(clippy::too_many_arguments, reason = "as the specification has them")]
    fn notify(
        &self,
        app: &str,
        replaces: u32,
        _icon: &str,
        title: &str,
        text: &str,
        actions: Vec<String>,
        mut hints: HashMap<String, Value<'_>>,
        expires: i32,
    ) -> u32 {
        assert_eq!(app, "Tierway");
        let Some(Value::U8(urgency)) = hints.remove("urgency") else { panic!("{hints:?}") };
        let (title, text, urgency) = (title.to_owned(), text.to_owned(), urgency);
        let mut id = replaces;
        self.noted.send_modify(|noted| {
            noted.push(Noted { replaces, title, text, actions, urgency, expires });
            if id == 0 {
                id = u32::try_from(noted.len()).unwrap() + 40;
            }
        });
        id
    }

    fn close_notification(&self, id: u32) {
        self.closed.send_modify(|closed| closed.push(id));
    }
}

#[tokio::test]
async fn a_desktop_shows_what_is_due_and_its_buttons_are_wishes() {
    let Some(bus) = Bus::start("notifications on a desktop") else { return };
    let (noted, mut notes) = watch::channel(Vec::new());
    let (closed, mut closes) = watch::channel(Vec::new());
    let desktop = zbus::connection::Builder::address(bus.address.as_str())
        .unwrap()
        .name("org.freedesktop.Notifications")
        .unwrap()
        .serve_at("/org/freedesktop/Notifications", Desktop { noted, closed })
        .unwrap()
        .build()
        .await
        .unwrap();
    let machine = Machine::new(Due::default());
    let mut child = machine.program().args(["notify", "--bus", &bus.address]).spawn().unwrap();

    let now = machine.clock.now();
    let mut asked = due(now);
    asked.reboot = None;
    asked.department = "Bits & <b>Bytes".to_owned();
    machine.due.send_replace(Arc::new(asked.clone()));
    let count = |wanted: usize| move |noted: &Vec<Noted>| noted.len() >= wanted;
    let first = tokio::time::timeout(LONG, notes.wait_for(count(1))).await.unwrap().unwrap()[0].clone();
    assert!(first.title.starts_with("Updates are due by "), "{first:?}");
    assert_eq!(first.text, "Bits &amp; &lt;b&gt;Bytes asks for openssl_3.0.17-1~deb12u3.");
    assert_eq!(first.actions, ["install-now", "Install now", "postpone", "Later"]);
    assert_eq!((first.replaces, first.urgency, first.expires), (0, 1, -1));

    // Somebody else's notification is not ours.
    let emit = async |id: u32, action: &str| {
        let (path, name) = ("/org/freedesktop/Notifications", "org.freedesktop.Notifications");
        desktop.emit_signal(None::<&str>, path, name, "ActionInvoked", &(id, action)).await.unwrap();
    };
    emit(7, "install-now").await;
    emit(41, "postpone").await;
    machine.granted(|wish| matches!(wish, Wish::Postpone(_))).await;
    assert!(!machine.granted.borrow().iter().any(|(_, wish)| matches!(wish, Wish::Install(_))));

    // A countdown replaces it and stays.
    asked.countdown = Some(Countdown {
        to: Purpose::Reboot,
        began: now,
        ends: machine.clock.now() + SignedDuration::from_mins(20),
        postponable: true,
        unanswered: CountdownDefault::Install,
    });
    asked.reboot = due(now).reboot;
    machine.due.send_replace(Arc::new(asked.clone()));
    let second = tokio::time::timeout(LONG, notes.wait_for(count(2))).await.unwrap().unwrap()[1].clone();
    assert_eq!((second.replaces, second.urgency), (41, 2));
    let twenty_minutes = 20 * 60 * 1000;
    assert!((1..=twenty_minutes).contains(&second.expires), "it outlives its countdown: {second:?}");
    assert!(second.title.starts_with("This computer will reboot in "), "{second:?}");
    emit(41, "postpone").await;
    machine.granted(|wish| matches!(wish, Wish::PostponeReboot(_))).await;

    // Put off: what warned of it is taken back, though something is still due.
    asked.countdown = None;
    machine.due.send_replace(Arc::new(asked));
    let closed =
        tokio::time::timeout(LONG, closes.wait_for(|closed| !closed.is_empty())).await.unwrap().unwrap();
    assert_eq!(*closed, [41]);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// systemd-logind, as far as it is asked.
struct Logind;

#[zbus::interface(name = "org.freedesktop.login1.Manager")]
impl Logind {
    fn list_sessions(&self) -> Vec<(String, u32, String, String, OwnedObjectPath)> {
        let session = |id: &str, uid: u32, user: &str| {
            let path = format!("/org/freedesktop/login1/session/{id}").try_into().unwrap();
            (id.to_owned(), uid, user.to_owned(), String::new(), path)
        };
        vec![
            session("c1", 110, "gdm"),
            session("7", 1001, "bob"),
            session("3", 1000, "ann"),
            session("9", 1, "gone"),
        ]
    }

    fn list_inhibitors(&self) -> Vec<(String, String, String, String, u32, u32)> {
        let held = |what: &str, who: &str, mode: &str| {
            (what.to_owned(), who.to_owned(), "because".to_owned(), mode.to_owned(), 1000, 42)
        };
        vec![
            held("shutdown:sleep", "brasero", "block"),
            held("sleep", "NetworkManager", "delay"),
            held("shutdown", "ModemManager", "delay"),
            held("idle", "player", "block"),
        ]
    }
}

struct Login {
    class: &'static str,
    kind: &'static str,
    remote: bool,
    idle: Option<u64>,
    locked: bool,
}

#[zbus::interface(name = "org.freedesktop.login1.Session")]
impl Login {
    #[zbus(property)]
    fn class(&self) -> &str {
        self.class
    }

    #[zbus(property, name = "Type")]
    fn kind(&self) -> &str {
        self.kind
    }

    #[zbus(property)]
    fn state(&self) -> &str {
        "online"
    }

    #[zbus(property)]
    fn remote(&self) -> bool {
        self.remote
    }

    #[zbus(property)]
    fn idle_hint(&self) -> bool {
        self.idle.is_some()
    }

    #[zbus(property)]
    fn idle_since_hint(&self) -> u64 {
        self.idle.unwrap_or(0)
    }

    #[zbus(property)]
    fn locked_hint(&self) -> bool {
        self.locked
    }
}

#[tokio::test]
async fn logind_tells_who_is_there_and_what_asked_not_to_shut_down() {
    let Some(bus) = Bus::start("asking logind") else { return };
    assert!(matches!(logind::people(&bus.address).await, Err(logind::LogindError::Nobody(_))));
    let idle = u64::try_from(start().as_microsecond()).unwrap();
    let greeter = Login { class: "greeter", kind: "wayland", remote: false, idle: None, locked: false };
    let ann = Login { class: "user", kind: "wayland", remote: false, idle: Some(idle), locked: true };
    let bob = Login { class: "user", kind: "tty", remote: true, idle: None, locked: false };
    let at = |id: &str| format!("/org/freedesktop/login1/session/{id}");
    let _logind = zbus::connection::Builder::address(bus.address.as_str())
        .unwrap()
        .name("org.freedesktop.login1")
        .unwrap()
        .serve_at("/org/freedesktop/login1", Logind)
        .unwrap()
        .serve_at(at("c1"), greeter)
        .unwrap()
        .serve_at(at("3"), ann)
        .unwrap()
        .serve_at(at("7"), bob)
        .unwrap()
        .build()
        .await
        .unwrap();
    let found = logind::people(&bus.address).await.unwrap();
    let session = |id: &str, user: &str, uid, seat, idle_since, locked| Session {
        id: id.to_owned(),
        user: user.to_owned(),
        uid,
        seat,
        idle_since,
        locked,
    };
    let expected = People {
        sessions: Some(vec![
            session("3", "ann", 1000, Seat::Desktop, Some(start()), true),
            session("7", "bob", 1001, Seat::Remote, None, false),
        ]),
        inhibitors: vec![Inhibitor { who: "brasero".to_owned(), why: "because".to_owned(), uid: 1000 }],
        documents: Vec::new(),
    };
    assert_eq!(found, expected);
    let gone = format!("unix:path={}", Path::new("/nonexistent/bus").display());
    assert!(matches!(logind::people(&gone).await, Err(logind::LogindError::Nobody(_))));
}
