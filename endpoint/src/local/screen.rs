//! What is due, as text: once for scripts and as a screen for people at a terminal.
//!
//! Pure: the same answer gives the same lines, whatever the terminal.

use jiff::{SignedDuration, Timestamp, civil, tz::TimeZone};
use tierway_proto::v1;

/// One line of a screen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// Without control characters, no wider than the screen.
    pub text: String,
    /// It stands out.
    pub loud: bool,
}

fn loud(text: String) -> Line {
    Line { text, loud: true }
}

fn quiet(text: String) -> Line {
    Line { text, loud: false }
}

/// A time that was told, `None` for none.
#[must_use]
pub fn time(millis: i64) -> Option<Timestamp> {
    (millis != 0).then(|| Timestamp::from_millisecond(millis).ok()).flatten()
}

/// `Tue 2026-11-24 22:00 (in 3h 5m)`.
fn when(at: Timestamp, now: Timestamp, zone: &TimeZone) -> String {
    let text = at.to_zoned(zone.clone()).strftime("%a %Y-%m-%d %H:%M").to_string();
    let away = at.duration_since(now);
    let left = length(away);
    if away.is_negative() { format!("{text} ({left} ago)") } else { format!("{text} (in {left})") }
}

/// To the second under two minutes, to the minute under two days, else to the hour.
#[must_use]
pub fn length(away: SignedDuration) -> String {
    let seconds = away.as_secs().unsigned_abs();
    let unit = match seconds {
        0..120 => 1,
        120..172_800 => 60,
        _ => 3600,
    };
    humantime::format_duration(std::time::Duration::from_secs(seconds / unit * unit)).to_string()
}

/// What is due at `now`, in lines as long as they are: what `user --status` prints.
#[must_use]
pub fn lines(due: &v1::LocalDue, now: Timestamp, zone: &TimeZone) -> Vec<Line> {
    let v1::LocalDue {
        department,
        phase,
        items,
        countdown,
        reboot,
        install_at,
        postponed_until,
        reboot_at,
        reboot_postponed_until,
        scheduled,
        schedule_optional,
        postpone_seconds: _,
        asks: _,
        postpone_latest,
        reboot_postpone_latest,
    } = due;
    let at = |millis: i64| time(millis).map(|at| when(at, now, zone));
    let mut lines = Vec::new();
    let from =
        if department.is_empty() { "Updates".to_owned() } else { format!("Updates from {department}") };
    let phase = if phase.is_empty() { String::new() } else { format!(": {phase}") };
    lines.push(loud(format!("{from}{phase}")));
    if let Some(counting) = countdown {
        let v1::LocalCountdown { reboot, began: _, ends, postponable, unanswered_postpones } = *counting;
        let what = if reboot { "This computer reboots" } else { "Updates are installed" };
        let left = time(ends).map(|ends| length(ends.duration_since(now).max(SignedDuration::ZERO)));
        lines.push(loud(format!("{what} in {}", left.unwrap_or_default())));
        lines.push(quiet(match (postponable, unanswered_postpones) {
            (false, _) => "It cannot be put off any more.".to_owned(),
            (true, true) => "It is put off if nobody answers.".to_owned(),
            (true, false) => "It can be put off.".to_owned(),
        }));
    }
    lines.push(quiet(String::new()));
    if items.is_empty() {
        lines.push(quiet("No update is due.".to_owned()));
    }
    for v1::LocalItem {
        patch,
        title: _,
        severity,
        waiting,
        offered: _,
        grace_ends: _,
        deadline,
        begins,
        detail,
    } in items
    {
        let by = at(*deadline).map(|by| format!(", by {by}")).unwrap_or_default();
        let waiting = if waiting.is_empty() { String::new() } else { format!(", {waiting}") };
        lines.push(quiet(format!("{patch}  {severity}{waiting}{by}")));
        if let Some(begins) = at(*begins) {
            lines.push(quiet(format!("    begins {begins}")));
        }
        if !detail.is_empty() {
            lines.push(quiet(format!("    {detail}")));
        }
    }
    for (label, millis) in [
        ("To be installed", install_at),
        ("Put off until", postponed_until),
        ("It can be put off until", postpone_latest),
    ] {
        if let Some(at) = at(*millis).filter(|_| !items.is_empty()) {
            lines.push(quiet(format!("{label} {at}")));
        }
    }
    if let Some(v1::LocalReboot { signs, begins, by, held_by, suppressed }) = reboot {
        lines.push(quiet(String::new()));
        let who = if *suppressed { ", which Tierway leaves to you" } else { "" };
        lines.push(loud(format!("A reboot is needed{who}")));
        lines.extend(signs.iter().map(|sign| quiet(format!("    {sign}"))));
        lines.extend(held_by.iter().map(|held| quiet(format!("    held back: {held}"))));
        let times = [
            ("To be rebooted", *reboot_at),
            ("Put off until", *reboot_postponed_until),
            ("It can be put off until", *reboot_postpone_latest),
            ("Expected", *begins),
            ("At the latest", *by),
        ];
        for (label, millis) in times {
            if let Some(at) = at(millis) {
                lines.push(quiet(format!("{label} {at}")));
            }
        }
    }
    lines.push(quiet(String::new()));
    let switch = if *schedule_optional { ", which you may switch" } else { "" };
    lines.push(quiet(format!("Updates by schedule are {}{switch}.", if *scheduled { "on" } else { "off" })));
    for line in &mut lines {
        line.text.retain(|c| !c.is_control());
    }
    lines
}

/// The keys that mean something now, as the last line of a screen tells them.
#[must_use]
pub fn keys(due: &v1::LocalDue) -> String {
    let mut keys = Vec::new();
    if !due.items.is_empty() {
        keys.extend(["i install now", "t install at", "p put off"]);
    }
    if due.reboot.as_ref().is_some_and(|reboot| !reboot.suppressed) {
        keys.extend(["r reboot now", "b reboot at", "d put reboot off"]);
    }
    if due.countdown.is_some() {
        keys.push("a read it");
    }
    if due.schedule_optional {
        keys.push("s switch schedule");
    }
    keys.push("q quit");
    keys.join("  ")
}

/// A whole screen: what is due, cut to its size, what was said last, and the keys.
#[must_use]
pub fn screen(
    due: &v1::LocalDue,
    said: &str,
    now: Timestamp,
    zone: &TimeZone,
    width: usize,
    height: usize,
) -> Vec<Line> {
    let room = height.saturating_sub(2);
    let mut shown = lines(due, now, zone);
    if shown.len() > room {
        let left_out = shown.len() - room.saturating_sub(1);
        shown.truncate(room.saturating_sub(1));
        shown.push(quiet(format!("… and {left_out} lines more: `tierway-endpoint user --status`")));
    }
    shown.resize(room, Line::default());
    shown.push(loud(said.chars().filter(|c| !c.is_control()).collect()));
    shown.push(quiet(keys(due)));
    for line in &mut shown {
        // What is cut is shown to be: a line that ends in the middle reads as if that were all.
        if line.text.chars().count() > width {
            line.text = line.text.chars().take(width.saturating_sub(1)).chain(['…']).collect();
        }
    }
    shown.truncate(height);
    shown
}

/// A text that is no time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no time: `22:00`, `2026-11-30 22:00`, `+2h` or `2026-11-30T21:00:00Z`")]
pub struct TimeError(String);

/// A time as people write it: `22:00` is the next one, `+2h` is from now on, a date and time are local.
///
/// # Errors
///
/// [`TimeError`].
pub fn parse_time(text: &str, now: Timestamp, zone: &TimeZone) -> Result<Timestamp, TimeError> {
    let error = || TimeError(text.to_owned());
    let text = text.trim();
    if let Some(length) = text.strip_prefix('+') {
        let length = humantime::parse_duration(length).map_err(|_| error())?;
        return now.checked_add(length).map_err(|_| error());
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    let local = |at: civil::DateTime| at.to_zoned(zone.clone()).map(|at| at.timestamp()).map_err(|_| error());
    if let Ok(time) = civil::Time::strptime("%H:%M", text) {
        let today = now.to_zoned(zone.clone()).date();
        let at = local(today.to_datetime(time))?;
        return if at > now {
            Ok(at)
        } else {
            local(today.tomorrow().map_err(|_| error())?.to_datetime(time))
        };
    }
    civil::DateTime::strptime("%Y-%m-%d %H:%M", text).map_err(|_| error()).and_then(local)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: i64) -> i64 {
        now().as_millisecond() + minute * 60_000
    }

    fn now() -> Timestamp {
        "2026-11-24T20:00:00Z".parse().unwrap()
    }

    fn due() -> v1::LocalDue {
        v1::LocalDue {
            department: "IT department".to_owned(),
            phase: "waiting for the user".to_owned(),
            items: vec![
                v1::LocalItem {
                    patch: "debian-12/openssl_3.0.17-1~deb12u3".to_owned(),
                    severity: "important".to_owned(),
                    waiting: "waiting for the user".to_owned(),
                    deadline: at(3 * 24 * 60),
                    ..Default::default()
                },
                v1::LocalItem {
                    patch: "debian-12/curl_7.88.1-10+deb12u14".to_owned(),
                    severity: "moderate".to_owned(),
                    begins: at(125),
                    detail: "evil\u{1b}[2Jname".to_owned(),
                    ..Default::default()
                },
            ],
            countdown: Some(v1::LocalCountdown {
                reboot: false,
                began: at(-5),
                ends: at(10),
                postponable: true,
                unanswered_postpones: true,
            }),
            reboot: Some(v1::LocalReboot {
                signs: vec!["the kernel `6.1.0-26` runs and `6.1.0-27` is installed".to_owned()],
                by: at(60),
                held_by: vec!["`ann` is at work (session 3)".to_owned()],
                ..Default::default()
            }),
            postpone_latest: at(120),
            reboot_postpone_latest: at(45),
            scheduled: true,
            schedule_optional: true,
            ..Default::default()
        }
    }

    fn text(lines: &[Line]) -> String {
        let mut text = String::new();
        for line in lines {
            text += if line.loud { "! " } else { "  " };
            text += &line.text;
            text.push('\n');
        }
        text
    }

    #[test]
    fn a_screen_says_what_is_due_by_when_from_whom_and_what_can_be_done() {
        let expected = "\
! Updates from IT department: waiting for the user
! Updates are installed in 10m
  It is put off if nobody answers.
  
  debian-12/openssl_3.0.17-1~deb12u3  important, waiting for the user, by Fri 2026-11-27 20:00 (in 3days)
  debian-12/curl_7.88.1-10+deb12u14  moderate
      begins Tue 2026-11-24 22:05 (in 2h 5m)
      evil[2Jname
  It can be put off until Tue 2026-11-24 22:00 (in 2h)
  
! A reboot is needed
      the kernel `6.1.0-26` runs and `6.1.0-27` is installed
      held back: `ann` is at work (session 3)
  It can be put off until Tue 2026-11-24 20:45 (in 45m)
  At the latest Tue 2026-11-24 21:00 (in 1h)
  
  Updates by schedule are on, which you may switch.
! granted
  i install now  t install at  p put off  r reboot now  b reboot at  d put reboot off  a read it  s switch schedule  q quit
";
        let shown = screen(&due(), "granted", now(), &TimeZone::UTC, 200, 19);
        assert_eq!(text(&shown), expected);
    }

    #[test]
    fn a_small_screen_says_that_there_is_more() {
        let shown = screen(&due(), "", now(), &TimeZone::UTC, 40, 8);
        let expected = "\
! Updates from IT department: waiting for…
! Updates are installed in 10m
  It is put off if nobody answers.
  
  debian-12/openssl_3.0.17-1~deb12u3  imp…
  … and 12 lines more: `tierway-endpoint …
! 
  i install now  t install at  p put off …
";
        assert_eq!(text(&shown), expected);
        for (width, height) in [(0, 0), (1, 1), (3, 2), (10, 3)] {
            let shown = screen(&due(), "x", now(), &TimeZone::UTC, width, height);
            assert!(
                shown.len() <= height && shown.iter().all(|line| line.text.chars().count() <= width.max(1))
            );
        }
    }

    #[test]
    fn nothing_due_is_said_and_offers_nothing() {
        let shown = screen(&v1::LocalDue::default(), "", now(), &TimeZone::UTC, 80, 7);
        assert_eq!(
            text(&shown),
            "! Updates\n  \n  No update is due.\n  \n  Updates by schedule are off.\n! \n  q quit\n"
        );
    }

    #[test]
    fn a_time_is_read_as_people_write_it() {
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        for (text, expected) in [
            ("22:00", "2026-11-24T21:00:00Z"),
            ("21:00", "2026-11-25T20:00:00Z"),
            ("20:59", "2026-11-25T19:59:00Z"),
            ("+2h 30m", "2026-11-24T22:30:00Z"),
            ("2026-11-30 06:15", "2026-11-30T05:15:00Z"),
            ("2026-11-30T06:15:00Z", "2026-11-30T06:15:00Z"),
        ] {
            assert_eq!(parse_time(text, now(), &zone).unwrap().to_string(), expected, "{text}");
        }
        for text in ["", "tomorrow", "25:00", "+", "2026-11-30"] {
            assert!(parse_time(text, now(), &zone).is_err(), "{text}");
        }
    }
}
