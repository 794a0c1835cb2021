//! The screen, in a pseudo terminal that `script` gives it.

use std::{
    io::{Read, Write},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use jiff::SignedDuration;
use tierway_common::schema::policy::CountdownDefault;
use tierway_endpoint::{
    consent::Purpose,
    due::{Countdown, Due},
    wishes::Wish,
};

use crate::machine::{LONG, Machine, due, has, skip};

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
    let mut told = machine.told.clone();
    let told =
        tokio::time::timeout(LONG, told.wait_for(|told| !told.is_empty())).await.unwrap().unwrap().clone();
    assert!(
        told.len() == 1 && told[0].starts_with("This computer will reboot in 10m.\nIT department"),
        "{told:?}"
    );
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
