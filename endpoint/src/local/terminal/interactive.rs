//! One screen and one key for each wish, drawn with the few escape sequences that every terminal since the
//! VT100 knows, in raw mode by termios. A widget library (ratatui with crossterm: some 40 crates) would draw
//! the same lines; this program runs as root on every computer and stays small.

use std::{
    io::{self, IsTerminal, Read, Write},
    path::Path,
    thread,
};

use jiff::{Timestamp, tz::TimeZone};
use rustix::termios::{self, OptionalActions, Termios};
use tierway_common::clock::Clock;
use tierway_proto::v1::{self, local_client::LocalClient, local_wish_request::Wish};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tonic::{Status, transport::Channel};

use super::TerminalError;
use crate::local::{
    self,
    screen::{self, Line},
};

/// Keys that wait: somebody who leans on the keyboard.
const KEYS_MAX: usize = 64;
/// Of a time that is typed.
const TYPED_MAX: usize = 40;
/// A screen of a terminal that does not tell its size.
const SIZE: (usize, usize) = (80, 24);

/// Whether a person can be shown a screen.
pub(super) fn is_there() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Wish(Asked),
    /// Type a time for it first.
    Time(Timed),
    Quit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    InstallNow,
    Postpone,
    RebootNow,
    PostponeReboot,
    Acknowledge,
    Switch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timed {
    Install,
    Reboot,
}

/// What a person does with the screen; pure.
#[derive(Debug, Default)]
struct Screen {
    due: v1::LocalDue,
    said: String,
    /// For what a time is typed, and what of it so far.
    typing: Option<(Timed, String)>,
}

/// What a key leads to.
#[derive(Clone, Debug, PartialEq)]
enum Effect {
    Nothing,
    Wish(Wish),
    Quit,
}

impl Screen {
    fn key(&mut self, byte: u8, now: Timestamp, zone: &TimeZone) -> Effect {
        if let Some((timed, mut typed)) = self.typing.take() {
            match byte {
                b'\r' | b'\n' => return self.typed(timed, &typed, now, zone),
                0x1b | 0x03 => self.said.clear(),
                0x7f | 0x08 => {
                    typed.pop();
                    self.typing = Some((timed, typed));
                }
                b' '..=b'~' if typed.len() < TYPED_MAX => {
                    typed.push(char::from(byte));
                    self.typing = Some((timed, typed));
                }
                _ => self.typing = Some((timed, typed)),
            }
            return Effect::Nothing;
        }
        match key(byte) {
            None => Effect::Nothing,
            Some(Key::Quit) => Effect::Quit,
            Some(Key::Time(timed)) => {
                self.typing = Some((timed, String::new()));
                Effect::Nothing
            }
            Some(Key::Wish(asked)) => Effect::Wish(match asked {
                Asked::InstallNow => Wish::Install(0),
                Asked::Postpone => Wish::Postpone(0),
                Asked::RebootNow => Wish::Reboot(0),
                Asked::PostponeReboot => Wish::PostponeReboot(0),
                Asked::Acknowledge => Wish::Acknowledge(v1::LocalAcknowledge {}),
                Asked::Switch => Wish::Scheduled(!self.due.scheduled),
            }),
        }
    }

    fn typed(&mut self, timed: Timed, typed: &str, now: Timestamp, zone: &TimeZone) -> Effect {
        match screen::parse_time(typed, now, zone) {
            Ok(at) => Effect::Wish(match timed {
                Timed::Install => Wish::Install(at.as_millisecond()),
                Timed::Reboot => Wish::Reboot(at.as_millisecond()),
            }),
            Err(error) => {
                self.said = error.to_string();
                Effect::Nothing
            }
        }
    }

    fn lines(&self, now: Timestamp, zone: &TimeZone, (width, height): (usize, usize)) -> Vec<Line> {
        let said = match &self.typing {
            Some((Timed::Install, typed)) => format!("install at (22:00, +2h, Enter): {typed}"),
            Some((Timed::Reboot, typed)) => format!("reboot at (22:00, +2h, Enter): {typed}"),
            None => self.said.clone(),
        };
        screen::screen(&self.due, &said, now, zone, width, height)
    }
}

fn key(byte: u8) -> Option<Key> {
    Some(match byte {
        b'i' => Key::Wish(Asked::InstallNow),
        b't' => Key::Time(Timed::Install),
        b'p' => Key::Wish(Asked::Postpone),
        b'r' => Key::Wish(Asked::RebootNow),
        b'b' => Key::Time(Timed::Reboot),
        b'd' => Key::Wish(Asked::PostponeReboot),
        b'a' => Key::Wish(Asked::Acknowledge),
        b's' => Key::Wish(Asked::Switch),
        // Ctrl-C and Ctrl-D, which raw mode hands over as they are.
        b'q' | 0x03 | 0x04 => Key::Quit,
        _ => return None,
    })
}

/// Shows what is due until the person quits.
///
/// # Errors
///
/// When the terminal cannot be used or the endpoint is gone; the terminal is then as it was before.
pub(super) async fn run(socket: &Path, clock: &Clock) -> Result<(), TerminalError> {
    let zone = TimeZone::system();
    let mut client = local::connect(socket).await?;
    let mut shows = client.watch(v1::LocalWatchRequest {}).await?.into_inner();
    let mut resized = signal(SignalKind::window_change())?;
    let _raw = Raw::enter()?;
    let mut keys = keys();
    let mut shown = Screen::default();
    // A countdown is drawn anew every second.
    let mut tick = tokio::time::interval(std::time::Duration::from_secs(1));
    loop {
        tokio::select! {
            show = shows.message() => match show? {
                None => return Err(Status::unavailable("the endpoint is stopping").into()),
                Some(v1::LocalShow { due, prompt }) => {
                    shown.due = due.unwrap_or_default();
                    if let Some(prompt) = prompt {
                        shown.said = prompt.title;
                        // A bell, for whoever looks elsewhere.
                        if prompt.urgent {
                            io::stdout().write_all(b"\x07")?;
                        }
                    }
                }
            },
            byte = keys.recv() => match shown.key(byte.unwrap_or(b'q'), clock.now(), &zone) {
                Effect::Nothing => {}
                Effect::Quit => return Ok(()),
                Effect::Wish(wish) => shown.said = grant(&mut client, wish, &mut shown.due).await,
            },
            _ = resized.recv() => {}
            _ = tick.tick() => {}
        }
        draw(&shown.lines(clock.now(), &zone, size()))?;
    }
}

/// Wishes; returns what came of it as a sentence.
async fn grant(client: &mut LocalClient<Channel>, wish: Wish, due: &mut v1::LocalDue) -> String {
    match client.wish(v1::LocalWishRequest { wish: Some(wish) }).await {
        Ok(answer) => {
            *due = answer.into_inner();
            "granted".to_owned()
        }
        Err(status) => status.message().to_owned(),
    }
}

/// Bytes of the keyboard. The thread ends with the process: a read of a terminal cannot be called off.
fn keys() -> mpsc::Receiver<u8> {
    let (sender, receiver) = mpsc::channel(KEYS_MAX);
    thread::spawn(move || {
        for byte in io::stdin().lock().bytes() {
            let Ok(byte) = byte else { return };
            if sender.blocking_send(byte).is_err() {
                return;
            }
        }
    });
    receiver
}

fn size() -> (usize, usize) {
    match termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => SIZE,
    }
}

fn draw(lines: &[Line]) -> io::Result<()> {
    // Home; each line anew, erased to its end; and what is below.
    let mut text = "\x1b[H".to_owned();
    for (row, line) in lines.iter().enumerate() {
        if row > 0 {
            text += "\r\n";
        }
        if line.loud {
            text += "\x1b[1m";
        }
        text += &line.text;
        text += "\x1b[0m\x1b[K";
    }
    text += "\x1b[J";
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// The terminal in raw mode with a screen of its own, until it is dropped.
struct Raw {
    before: Termios,
}

impl Raw {
    fn enter() -> io::Result<Self> {
        let before = termios::tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        let entered = Self { before };
        // The alternate screen, without a cursor.
        io::stdout().write_all(b"\x1b[?1049h\x1b[?25l\x1b[2J")?;
        io::stdout().flush()?;
        Ok(entered)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let mut out = io::stdout();
        // Nobody can be told when a terminal is gone.
        _ = out.write_all(b"\x1b[?25h\x1b[?1049l").and_then(|()| out.flush());
        _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_one_wish_and_a_time_is_typed() {
        let now: Timestamp = "2026-11-24T20:00:00Z".parse().unwrap();
        let ten = "2026-11-24T22:00:00Z".parse::<Timestamp>().unwrap().as_millisecond();
        for (typed, expected) in [
            ("i", vec![Effect::Wish(Wish::Install(0))]),
            ("p", vec![Effect::Wish(Wish::Postpone(0))]),
            ("t22:00\r", vec![Effect::Wish(Wish::Install(ten))]),
            ("b23:\x7f\x7f2:00\r", vec![Effect::Wish(Wish::Reboot(ten))]),
            ("t22\x1bq", vec![Effect::Quit]),
            ("tnever\r", vec![]),
            ("sx", vec![Effect::Wish(Wish::Scheduled(true))]),
            ("\x03", vec![Effect::Quit]),
        ] {
            let mut screen = Screen::default();
            let effects: Vec<_> = typed
                .bytes()
                .map(|byte| screen.key(byte, now, &TimeZone::UTC))
                .filter(|effect| *effect != Effect::Nothing)
                .collect();
            assert_eq!(effects, expected, "{typed:?}");
            assert_eq!(screen.said.contains("`never` is no time"), typed.contains("never"));
        }
    }

    #[test]
    fn what_is_typed_is_shown_and_has_a_limit() {
        let now: Timestamp = "2026-11-24T20:00:00Z".parse().unwrap();
        let mut screen = Screen::default();
        for byte in b"t".iter().chain(&[b'1'; 100]) {
            screen.key(*byte, now, &TimeZone::UTC);
        }
        let lines = screen.lines(now, &TimeZone::UTC, (100, 10));
        let expected = format!("install at (22:00, +2h, Enter): {}", "1".repeat(TYPED_MAX));
        assert_eq!(lines[8].text, expected);
    }
}
