//! What people at the machine see and may do, over real sockets: the local API, the terminal, the desktop's
//! notifications and logind on a message bus of its own.
//!
//! Those that need `dbus-daemon` or `script` are skipped, said in one line, where those are missing.

#![expect(clippy::unwrap_used, reason = "in a test a failure should end it where it is")]
#![expect(clippy::disallowed_methods, reason = "tests start a message bus and the program itself")]

mod buses;
mod machine;
mod terminal;

use std::{process::Command, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use tierway_common::schema::policy::CountdownDefault;
use tierway_endpoint::{
    consent::Purpose,
    due::{Countdown, Due},
    local,
    wishes::Wish,
};
use tierway_proto::v1::{self, local_wish_request};

use machine::{LONG, Machine, due, skip};

impl Machine {
    pub(crate) fn program(&self) -> Command {
        let mut program = Command::new(env!("CARGO_BIN_EXE_tierway-endpoint"));
        program.arg("--config").arg(self.config());
        program
    }

    /// Runs the program to its end, while this one answers it.
    pub(crate) async fn run(&self, arguments: &[&str]) -> (bool, String) {
        let mut program = self.program();
        program.args(arguments);
        let done = tokio::task::spawn_blocking(move || program.output().unwrap()).await.unwrap();
        let text = String::from_utf8(done.stdout).unwrap() + &String::from_utf8(done.stderr).unwrap();
        (done.status.success(), text)
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

    let (ok, text) = machine.run(&["user", "acknowledge"]).await;
    assert!(!ok && text.contains("no warning is shown"), "{text}");
    machine.due.send_modify(|due| {
        let countdown = Countdown {
            to: Purpose::Install,
            began: now,
            ends: now + SignedDuration::from_mins(20),
            postponable: true,
            unanswered: CountdownDefault::Install,
        };
        *due = Arc::new(Due { countdown: Some(countdown), ..(**due).clone() });
    });
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

#[tokio::test]
async fn who_opens_connections_without_end_is_told_that_none_is_free_and_gets_one_when_he_closes_some() {
    let machine = Machine::new(Due::default());
    let mut held = Vec::new();
    let said = loop {
        assert!(held.len() < 100, "there is no limit");
        let mut client = local::connect(&machine.socket()).await.unwrap();
        match client.due(v1::LocalDueRequest {}).await {
            Ok(_) => held.push(client),
            Err(said) => break said,
        }
    };
    assert_eq!(said.code(), tonic::Code::ResourceExhausted);
    assert_eq!(said.message(), "no connection is free: this user has 32 of them open already");
    assert_eq!(held.len(), 32);
    held.clear();
    let again = async {
        loop {
            // Until the server has seen that they are closed it may close this one too.
            let Ok(mut client) = local::connect(&machine.socket()).await else { continue };
            if client.due(v1::LocalDueRequest {}).await.is_ok() {
                return;
            }
        }
    };
    tokio::time::timeout(LONG, again).await.unwrap();
}

#[tokio::test]
async fn a_user_watches_some_times_at_once_and_no_more() {
    let machine = Machine::new(Due::default());
    let mut watching = Vec::new();
    let said = loop {
        assert!(watching.len() < 100, "there is no limit");
        let mut client = local::connect(&machine.socket()).await.unwrap();
        match client.watch(v1::LocalWatchRequest {}).await {
            Ok(shows) => watching.push((client, shows)),
            Err(said) => break said,
        }
    };
    assert_eq!(said.message(), "nobody more may watch: this user has 16 of them open already");
    assert_eq!(watching.len(), 16);
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
