//! What people at the machine see and may do, over real sockets: the local API, the terminal, the desktop's
//! notifications and logind on a message bus of its own.
//!
//! Those that need `dbus-daemon` or `script` are skipped, said in one line, where those are missing.

#![expect(clippy::unwrap_used, reason = "in a test a failure should end it where it is")]
#![expect(clippy::disallowed_methods, reason = "tests start a message bus and the program itself")]

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use tierway_common::{
    clock::Clock,
    daemon::stop::Stop,
    facts::Facts,
    schema::{
        Severity,
        policy::{CountdownDefault, Experience, Reboot},
    },
    service::Settings,
};
use tierway_endpoint::{
    consent::Purpose,
    due::{Countdown, Due, Item, RebootDue},
    local::{self, Answers, Ask, WishError},
    people::{Inhibitor, People, Seat, Session},
    probe::{Seen, Surroundings, logind},
    reboot::RebootError,
    wishes::{self, Caller, Wish, Wishes},
};
use tierway_proto::v1::{self, local_wish_request};
use tokio::sync::{mpsc, watch};
use zbus::zvariant::{OwnedObjectPath, Value};

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

fn start() -> Timestamp {
    "2026-11-24T20:00:00Z".parse().unwrap()
}

fn skip(what: &str, because: &str) {
    assert!(std::env::var_os("TIERWAY_REQUIRE").is_none(), "{what} must run here, but {because}");
    println!("skipped: {what}, since {because}");
}

/// Nobody but root is logged in.
#[derive(Debug)]
struct Alone;

impl Surroundings for Alone {
    fn look<'a>(&'a self, _: &'a Facts, _: Timestamp) -> BoxFuture<'a, Seen> {
        Box::pin(async { Seen::default() })
    }

    fn logged_in(&self, _: u32) -> BoxFuture<'_, bool> {
        Box::pin(async { false })
    }

    fn reboot<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), RebootError>> {
        Box::pin(async { Err(RebootError::NoBoot) })
    }
}

/// A socket behind which a stub of the agent grants wishes by the real rules.
struct Machine {
    directory: tempfile::TempDir,
    due: watch::Sender<Arc<Due>>,
    granted: watch::Receiver<Vec<(Caller, Wish)>>,
    clock: Clock,
    stop: Stop,
}

impl Machine {
    fn socket(&self) -> PathBuf {
        self.directory.path().join("endpoint.sock")
    }

    fn config(&self) -> PathBuf {
        let path = self.directory.path().join("endpoint.toml");
        std::fs::write(&path, format!("local_socket = {:?}\n", self.socket())).unwrap();
        path
    }

    fn new(due: Due) -> Self {
        // Times are told from the system's clock by the programs that ask.
        let clock = Clock::system();
        let directory = tempfile::tempdir().unwrap();
        let due = watch::Sender::new(Arc::new(due));
        let (asks, mut asked) = mpsc::channel(4);
        let (wished, granted) = watch::channel(Vec::new());
        let stop = Stop::new();
        let answers = Answers {
            status: watch::channel(Arc::default()).1,
            due: due.subscribe(),
            asks,
            surroundings: Arc::new(Alone),
            clock: clock.clone(),
        };
        let serving = local::serve(&directory.path().join("endpoint.sock"), answers, stop.clone()).unwrap();
        tokio::spawn(serving);
        let (shown, told) = (due.clone(), clock.clone());
        tokio::spawn(async move {
            while let Some(ask) = asked.recv().await {
                let Ask::Wish(caller, wish, reply) = ask else { continue };
                let now = told.now();
                let permitted = wishes::permit(wish, caller, &shown.borrow().standing(now));
                if permitted.is_ok() {
                    shown.send_modify(|due| {
                        let mut changed = (**due).clone();
                        changed.wishes.apply(wish, now);
                        *due = Arc::new(changed);
                    });
                    wished.send_modify(|granted| granted.push((caller, wish)));
                }
                let _ = reply.send(permitted.map_err(WishError::from));
            }
        });
        Self { directory, due, granted, clock, stop }
    }

    /// Waits until a wish is granted for which `is` holds.
    async fn granted(&self, is: impl Fn(&Wish) -> bool) -> Wish {
        let mut granted = self.granted.clone();
        let found = granted.wait_for(|granted| granted.iter().any(|(_, wish)| is(wish)));
        let found = tokio::time::timeout(LONG, found).await.unwrap().unwrap();
        found.iter().find(|(_, wish)| is(wish)).unwrap().1
    }

    fn program(&self) -> Command {
        let mut program = Command::new(env!("CARGO_BIN_EXE_tierway-endpoint"));
        program.arg("--config").arg(self.config());
        program
    }

    /// Runs the program to its end, while this one answers it.
    async fn run(&self, arguments: &[&str]) -> (bool, String) {
        let mut program = self.program();
        program.args(arguments);
        let done = tokio::task::spawn_blocking(move || program.output().unwrap()).await.unwrap();
        let text = String::from_utf8(done.stdout).unwrap() + &String::from_utf8(done.stderr).unwrap();
        (done.status.success(), text)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop.request();
    }
}

/// One update, due by tomorrow, and a reboot.
fn due(now: Timestamp) -> Due {
    let hours = |hours| Some(now + SignedDuration::from_hours(hours));
    Due {
        department: "IT department".to_owned(),
        phase: "waiting for the user".to_owned(),
        items: vec![Item {
            update: "debian-12/openssl_3.0.17-1~deb12u3".parse().unwrap(),
            title: "openssl".to_owned(),
            severity: Severity::Important,
            waiting: None,
            offered: Some(now),
            grace_ends: hours(12),
            deadline: hours(24),
            begins: None,
            detail: String::new(),
        }],
        countdown: None,
        reboot: Some(RebootDue {
            signs: vec!["asked for by `libc6`".to_owned()],
            begins: None,
            by: hours(24),
            held_by: Vec::new(),
        }),
        wishes: Wishes::default(),
        settings: Settings {
            experience: Experience::Consent,
            reboot: Reboot::IfNeeded,
            schedule_optional: true,
            ..Settings::default()
        },
        boot: None,
    }
}

#[tokio::test]
async fn a_person_sees_what_is_due_and_what_he_wishes_is_granted_or_refused_with_a_sentence() {
    let machine = Machine::new(due(Timestamp::UNIX_EPOCH));
    let now = machine.clock.now();
    machine.due.send_replace(Arc::new(due(now)));
    let (ok, text) = machine.run(&["user", "--status"]).await;
    assert!(ok, "{text}");
    for part in ["Updates from IT department", "openssl_3.0.17-1~deb12u3  important", "asked for by `libc6`"]
    {
        assert!(text.contains(part), "{text}");
    }
    // Without a terminal the same, whoever runs it.
    assert!(machine.run(&["user"]).await.1.contains("Updates from IT department"));

    let (ok, text) = machine.run(&["user", "postpone"]).await;
    assert!(ok && text.contains("Put off until"), "{text}");
    let Wish::Postpone(until) = machine.granted(|wish| matches!(wish, Wish::Postpone(_))).await else {
        panic!()
    };
    let length = until.duration_since(now);
    let four_hours = SignedDuration::from_hours(4);
    assert!(length >= four_hours && length < four_hours + SignedDuration::from_mins(2), "{length:?}");

    for (arguments, is) in [
        (&["user", "install-at", "+3h"][..], (|wish| matches!(wish, Wish::Install(_))) as fn(&Wish) -> bool),
        (&["user", "reboot-at", "+5h"], |wish| matches!(wish, Wish::Reboot(_))),
        (&["user", "schedule", "off"], |wish| *wish == Wish::Scheduled(false)),
        (&["user", "acknowledge"], |wish| *wish == Wish::Acknowledge),
    ] {
        let (ok, text) = machine.run(arguments).await;
        assert!(ok, "{arguments:?}: {text}");
        machine.granted(is).await;
    }
    assert!(machine.run(&["user", "--status"]).await.1.contains("Updates by schedule are off"));
    for (arguments, sentence) in [
        (&["user", "postpone", "+13h"][..], "is too late: it is due by"),
        (&["user", "reboot-at", "+25h"], "is too late: it is due by"),
        (&["user", "install-at", "soon"], "`soon` is no time"),
    ] {
        let (ok, text) = machine.run(arguments).await;
        assert!(!ok && text.contains(sentence), "{arguments:?}: {text}");
    }
}

#[tokio::test]
async fn what_is_due_is_streamed_at_once_and_when_it_changes_with_a_prompt_when_it_is_time() {
    let machine = Machine::new(Due::default());
    let mut client = local::connect(&machine.socket()).await.unwrap();
    let mut shows = client.watch(v1::LocalWatchRequest {}).await.unwrap().into_inner();
    let first = shows.message().await.unwrap().unwrap();
    assert_eq!((first.due.unwrap().items.len(), first.prompt), (0, None));
    let now = machine.clock.now();
    machine.due.send_replace(Arc::new(due(now)));
    let second = shows.message().await.unwrap().unwrap();
    let prompt = second.prompt.unwrap();
    assert_eq!(second.due.unwrap().items.len(), 1);
    assert_eq!(prompt.title, "This computer must be rebooted");
    let answers: Vec<_> = prompt.answers.iter().map(|answer| answer.answer.as_str()).collect();
    assert_eq!(answers, ["reboot-now", "postpone"]);
    machine.stop.request();
    let end = tokio::time::timeout(LONG, shows.message()).await.unwrap();
    assert!(!matches!(end, Ok(Some(_))), "{end:?}");
}

#[tokio::test]
async fn who_is_neither_root_nor_logged_in_is_not_answered() {
    if !rustix::process::geteuid().is_root() {
        return skip("asking as another user", "this is not root");
    }
    let machine = Machine::new(Due::default());
    std::fs::set_permissions(machine.directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let config = machine.config();
    let program = machine.directory.path().join("tierway-endpoint");
    std::fs::copy(env!("CARGO_BIN_EXE_tierway-endpoint"), &program).unwrap();
    let run = move |uid: u32| {
        let mut command = Command::new(&program);
        std::os::unix::process::CommandExt::uid(&mut command, uid);
        let done = command.arg("--config").arg(&config).args(["user", "--status"]).output().unwrap();
        (done.status.success(), String::from_utf8(done.stderr).unwrap())
    };
    let nobody = run.clone();
    let (ok, said) = tokio::task::spawn_blocking(move || nobody(65_534)).await.unwrap();
    assert!(!ok && said.contains("only root and those who are logged in are answered"), "{said}");
    assert!(tokio::task::spawn_blocking(move || run(0)).await.unwrap().0);
}

/// `script` gives a program a pseudo terminal.
fn has(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|folder| folder.join(program).is_file())
}

/// What a terminal shows after `output`, line by line, without what makes it bold.
fn shown(output: &str) -> String {
    let last = output.rsplit("\x1b[H").next().unwrap_or("");
    last.replace("\x1b[1m", "").replace("\x1b[0m", "").replace("\x1b[K", "").replace("\x1b[J", "")
}

/// A program in a pseudo terminal.
struct Typed {
    child: Child,
    output: Arc<Mutex<String>>,
}

impl Typed {
    fn start(machine: &Machine) -> Self {
        let line = format!(
            "stty cols 100 rows 24; exec {} --config {} user",
            env!("CARGO_BIN_EXE_tierway-endpoint"),
            machine.config().display()
        );
        let mut child = Command::new("script")
            .args(["-q", "-f", "-e", "-c", &line, "/dev/null"])
            .env("TERM", "vt100")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = Arc::new(Mutex::new(String::new()));
        let (mut from, to) = (child.stdout.take().unwrap(), output.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = from.read(&mut bytes) {
                to.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..read]));
            }
        });
        Self { child, output }
    }

    fn key(&mut self, keys: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(keys.as_bytes()).and_then(|()| stdin.flush()).unwrap();
    }

    /// Waits until the terminal shows `part`.
    async fn shows(&self, part: &str) {
        let seen = async {
            while !shown(&self.output.lock().unwrap()).contains(part) {
                tokio::task::yield_now().await;
            }
        };
        let seen = tokio::time::timeout(LONG, seen).await;
        assert!(seen.is_ok(), "`{part}` is not shown: {}", shown(&self.output.lock().unwrap()));
    }
}

#[tokio::test]
async fn a_person_at_a_terminal_chooses_with_keys_and_the_terminal_is_given_back() {
    if !has("script") {
        return skip("the screen in a pseudo terminal", "`script` is not installed");
    }
    let machine = Machine::new(Due::default());
    let mut typed = Typed::start(&machine);
    typed.shows("No update is due.").await;
    machine.due.send_replace(Arc::new(due(machine.clock.now())));
    typed.shows("openssl_3.0.17-1~deb12u3  important").await;
    typed.shows("i install now").await;
    typed.key("p");
    machine.granted(|wish| matches!(wish, Wish::Postpone(_))).await;
    typed.shows("granted").await;
    typed.shows("Put off until").await;
    typed.key("t+3h\r");
    machine.granted(|wish| matches!(wish, Wish::Install(_))).await;
    typed.key("b+30h\r");
    typed.shows("is too late: it is due by").await;
    let mut counting = due(machine.clock.now());
    let now = machine.clock.now();
    counting.countdown = Some(Countdown {
        to: Purpose::Reboot,
        began: now,
        ends: now + SignedDuration::from_mins(10),
        postponable: false,
        unanswered: CountdownDefault::Install,
    });
    machine.due.send_replace(Arc::new(counting));
    typed.shows("This computer reboots in ").await;
    typed.shows("It cannot be put off any more.").await;
    typed.key("q");
    let Typed { mut child, output } = typed;
    let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    assert!(status.success());
    let output = output.lock().unwrap().clone();
    assert!(output.contains("\x1b[?1049h") && output.contains("\x07"), "{output:?}");
    assert!(
        output.trim_end().ends_with("\x1b[?25h\x1b[?1049l"),
        "{:?}",
        &output[output.len().saturating_sub(80)..]
    );
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
    assert_eq!((second.replaces, second.urgency, second.expires), (41, 2, 0));
    assert!(second.title.starts_with("This computer will reboot in "), "{second:?}");
    emit(41, "postpone").await;
    machine.granted(|wish| matches!(wish, Wish::PostponeReboot(_))).await;

    // Done: it is taken back.
    machine.due.send_replace(Arc::default());
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

#[tokio::test]
async fn a_wish_that_says_nothing_is_no_wish() {
    let machine = Machine::new(Due::default());
    let mut client = local::connect(&machine.socket()).await.unwrap();
    let said = client.wish(v1::LocalWishRequest { wish: None }).await.unwrap_err();
    assert_eq!(said.code(), tonic::Code::InvalidArgument);
    let install = Some(local_wish_request::Wish::Install(0));
    let said = client.wish(v1::LocalWishRequest { wish: install }).await.unwrap_err();
    assert_eq!((said.code(), said.message()), (tonic::Code::FailedPrecondition, "nothing is due"));
}
