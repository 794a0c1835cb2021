//! The program on a desktop of its own (Xvfb, and a message bus with a notification area), before a real local door:
//! what it shows is looked at, and its buttons are pressed, as a person does.

#![expect(clippy::unwrap_used, reason = "in a test a failure should end it where it is")]
#![expect(clippy::disallowed_methods, reason = "tests start a display, a message bus and the program itself")]

mod area;
#[expect(dead_code, reason = "shared with the flows")]
mod display;
#[path = "../../../tests/local/machine.rs"]
#[expect(dead_code, reason = "shared with the tests of the endpoint")]
mod machine;

use std::{process::Command, sync::Arc};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use tierway_common::{clock::Clock, schema::policy::CountdownDefault};
use tierway_endpoint::{
    consent::Purpose,
    due::{Countdown, Due},
    local,
    wishes::Wish,
};
use tierway_proto::v1;
use tierway_tray::{canvas::Canvas, page, view};

use area::Bus;
use display::{Colour, Display, Program};
use machine::{Machine, due, skip};

/// Where the page of what is due at `machine` has each text, in pixels of the window, and its colour in the head.
async fn drawn(machine: &Machine) -> Vec<(String, egui::Rect)> {
    let mut client = local::connect(&machine.socket()).await.unwrap();
    let due = client.due(v1::LocalDueRequest {}).await.unwrap().into_inner();
    page::texts(
        &mut Canvas::new(),
        &view::view(Ok(&due), machine.clock.now(), &TimeZone::system()),
        machine.clock.now(),
    )
}

async fn middle_of(machine: &Machine, label: &str) -> (i16, i16) {
    let texts = drawn(machine).await;
    let (_, rect) =
        texts.iter().find(|(text, _)| text == label).unwrap_or_else(|| panic!("no `{label}`: {texts:?}"));
    #[expect(clippy::cast_possible_truncation, reason = "a window is smaller")]
    let pixel = |at: f32| at as i16;
    (pixel(rect.center().x), pixel(rect.center().y))
}

/// `None`, said, where there is no Xvfb.
fn display(what: &str) -> Option<Display> {
    let display = Display::start();
    if display.is_none() {
        skip(what, "`Xvfb` is not installed");
    }
    display
}

fn colour(tone: view::Tone) -> Colour {
    let [red, green, blue, _] = page::colour(tone).to_array();
    [red, green, blue]
}

fn tray(machine: &Machine, display: &Display) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_tierway-tray"));
    program.arg("--config").arg(machine.config()).env("DISPLAY", &display.name).env_remove("WAYLAND_DISPLAY");
    program
}

fn urgent(now: Timestamp) -> Countdown {
    Countdown {
        to: Purpose::Reboot,
        began: now,
        ends: now + SignedDuration::from_mins(20),
        postponable: true,
        unanswered: CountdownDefault::Install,
    }
}

#[tokio::test]
async fn a_person_reads_what_is_due_in_a_window_and_its_buttons_are_wishes() {
    let Some(display) = display("a window on a desktop") else { return };
    let now = Clock::system().now();
    let machine = Machine::new(due(now));
    let _program = Program::start(tray(&machine, &display));

    // The head in the colour of what is due; below it text.
    let blue = colour(view::Tone::Due);
    display.until("it shows what is due", |seen| seen.at(300, 6) == blue && seen.colours() > 20).await;

    for (label, is) in [
        ("Later", (|wish| matches!(wish, Wish::Postpone(_))) as fn(&Wish) -> bool),
        ("Reboot later", |wish| matches!(wish, Wish::PostponeReboot(_))),
        ("Updates by schedule", |wish| matches!(wish, Wish::Scheduled(_))),
        ("Install now", |wish| matches!(wish, Wish::Install(_))),
    ] {
        display.press(middle_of(&machine, label).await);
        machine.granted(is).await;
    }

    // A countdown to something that cannot be put off: another colour, and no such button.
    machine.due.send_modify(|due| {
        let mut changed: Due = (**due).clone();
        let reboot = changed.reboot.as_mut().unwrap();
        let terms = &mut reboot.due.as_mut().unwrap().terms;
        (terms.offered, terms.grace_ends) =
            (now - SignedDuration::from_hours(9), now - SignedDuration::from_hours(1));
        changed.countdown = Some(Countdown { postponable: false, ..urgent(now) });
        *due = Arc::new(changed);
    });
    let red = colour(view::Tone::Urgent);
    display.until("it warns", |seen| seen.at(300, 6) == red && seen.colours() > 20).await;
    let texts: Vec<String> = drawn(&machine).await.into_iter().map(|(text, _)| text).collect();
    assert!(texts.iter().any(|text| text == "Reboot now"), "{texts:?}");
    assert!(!texts.iter().any(|text| text == "Reboot later" || text == "Reboot at…"), "{texts:?}");
    assert!(texts.iter().any(|text| text.starts_with("The reboot cannot be put off any more")), "{texts:?}");
    display.press(middle_of(&machine, "I have read it").await);
    machine.granted(|wish| *wish == Wish::Acknowledge).await;
}

#[tokio::test]
async fn in_the_background_there_is_an_icon_and_what_is_urgent_opens_the_window() {
    let Some(display) = display("a window that opens by itself") else { return };
    let Some(bus) = Bus::start("an icon in the notification area") else { return };
    let area = bus.notification_area().await;
    let now = Clock::system().now();
    let machine = Machine::new(Due::default());
    let mut program = tray(&machine, &display);
    program.arg("--background").arg("--bus").arg(&bus.address);
    let _program = Program::start(program);

    // Nothing is due: the icon says so, and no window is there.
    let item = area.item().await;
    let calm = tierway_tray::picture::picture(view::Tone::Calm, 22);
    area.until(&item, "the icon is calm", |pixels| pixels == calm).await;
    assert!(!display.seen().shows_anything());
    // Pressed, it opens.
    area.press(&item).await;
    let green = colour(view::Tone::Calm);
    display.until("the window opens", |seen| seen.at(300, 6) == green).await;

    display.close();
    display.until("the window is closed", |seen| !seen.shows_anything()).await;
    machine.due.send_replace(Arc::new(Due { countdown: Some(urgent(now)), ..due(now) }));
    let red = colour(view::Tone::Urgent);
    display.until("a countdown opens the window", |seen| seen.at(300, 6) == red).await;
    let alarmed = tierway_tray::picture::picture(view::Tone::Urgent, 22);
    area.until(&item, "the icon is red", |pixels| pixels == alarmed).await;
}
