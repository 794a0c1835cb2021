//! What the window shows and what can be pressed there: from what the endpoint says and the time, nothing else.
//!
//! The sentences are those of the terminal ([`screen::lines`]), so that both tell the same. What cannot be granted is
//! not offered: in enforcement nothing can be put off and no time be chosen, and the row says so.

use jiff::{Timestamp, civil, tz::TimeZone};
use tierway_endpoint::local::screen::{self, Line, TimeError};
use tierway_proto::v1::{self, local_wish_request::Wish};

/// How things stand: the colour of the icon and of the window's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// The endpoint does not answer.
    Unknown,
    /// Nothing is due.
    Calm,
    /// Something is due, and the person decides when.
    Due,
    /// Something is about to happen, or is done without asking.
    Urgent,
}

/// What a row of buttons is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum About {
    /// The installation of what is due.
    Install,
    /// The reboot that is due.
    Reboot,
}

/// Buttons about one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Which.
    pub about: About,
    /// A time may be chosen, and it can be put off.
    pub open: bool,
    /// Times that can be chosen by one press, from the earliest.
    pub times: Vec<(String, Timestamp)>,
    /// What holds of it, in a sentence.
    pub note: String,
}

impl Row {
    /// On the button for at once.
    #[must_use]
    pub fn now(&self) -> &'static str {
        match self.about {
            About::Install => "Install now",
            About::Reboot => "Reboot now",
        }
    }

    /// On the button that opens the times.
    #[must_use]
    pub fn at(&self) -> &'static str {
        match self.about {
            About::Install => "Install at…",
            About::Reboot => "Reboot at…",
        }
    }

    /// On the button that puts it off.
    #[must_use]
    pub fn later(&self) -> &'static str {
        match self.about {
            About::Install => "Later",
            About::Reboot => "Reboot later",
        }
    }
}

/// A countdown that runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Counting {
    /// `Updates are installed in 9m 58s`.
    pub text: String,
    /// How much of it is over: 0 to 1.
    pub over: f32,
}

/// All of it.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// How things stand.
    pub tone: Tone,
    /// Who asks, or what is wrong; also what the icon says.
    pub title: String,
    /// Runs now.
    pub counting: Option<Counting>,
    /// Buttons.
    pub rows: Vec<Row>,
    /// The warning can be said to have been read.
    pub acknowledge: bool,
    /// Updates by schedule, where they may be switched.
    pub scheduled: Option<bool>,
    /// What is due, in detail.
    pub lines: Vec<Line>,
}

/// When people like to have it done: times of day that are offered besides some hours from now.
const TIMES_OF_DAY: [(i8, i8); 3] = [(12, 30), (18, 0), (22, 0)];
/// Hours from now that are offered.
const HOURS: [i64; 2] = [1, 4];
/// Times that are offered.
const TIMES_MAX: usize = 8;

/// What is shown at `now` of what the endpoint said last; `Err` says why it does not answer.
#[must_use]
pub fn view(due: Result<&v1::LocalDue, &str>, now: Timestamp, zone: &TimeZone) -> View {
    let due = match due {
        Ok(due) => due,
        Err(why) => {
            return View {
                tone: Tone::Unknown,
                title: "Tierway does not answer".to_owned(),
                counting: None,
                rows: Vec::new(),
                acknowledge: false,
                scheduled: None,
                lines: vec![Line { text: why.to_owned(), loud: false }],
            };
        }
    };
    let counting = due.countdown.as_ref().and_then(|countdown| counting(countdown, now));
    let mut rows = Vec::new();
    if let Some(until) = due.items.iter().map(|item| item.deadline).min().filter(|_| due.asks) {
        rows.push(row(About::Install, due.postpone_latest, until, now, zone));
    }
    if let Some(reboot) = due.reboot.as_ref().filter(|reboot| !reboot.suppressed) {
        rows.push(row(About::Reboot, due.reboot_postpone_latest, reboot.by, now, zone));
    }
    let closed = rows.iter().any(|row| !row.open);
    let tone = match (&counting, due.items.is_empty() && due.reboot.is_none()) {
        (Some(_), _) => Tone::Urgent,
        (None, _) if closed => Tone::Urgent,
        (None, true) => Tone::Calm,
        (None, false) => Tone::Due,
    };
    let mut lines = screen::lines(due, now, zone).into_iter();
    let title = lines.next().map(|line| line.text).unwrap_or_default();
    // The countdown has a place of its own.
    let lines = lines.skip(usize::from(counting.is_some())).collect();
    View {
        tone,
        title,
        acknowledge: counting.is_some(),
        counting,
        rows,
        scheduled: due.schedule_optional.then_some(due.scheduled),
        lines,
    }
}

fn counting(countdown: &v1::LocalCountdown, now: Timestamp) -> Option<Counting> {
    let v1::LocalCountdown { reboot, began, ends, postponable: _, unanswered_postpones: _ } = *countdown;
    let (began, ends) = (screen::time(began)?, screen::time(ends)?);
    let left = ends.duration_since(now).max(jiff::SignedDuration::ZERO);
    let whole = ends.duration_since(began).as_secs_f32().max(1.0);
    let what = if reboot { "This computer reboots" } else { "Updates are installed" };
    Some(Counting {
        text: format!("{what} in {}", screen::length(left)),
        over: (1.0 - left.as_secs_f32() / whole).clamp(0.0, 1.0),
    })
}

fn row(about: About, latest: i64, by: i64, now: Timestamp, zone: &TimeZone) -> Row {
    let open = screen::time(latest).is_some_and(|latest| latest > now);
    let by = screen::time(by);
    let times = if open { times(by, now, zone) } else { Vec::new() };
    let what = match about {
        About::Install => "The installation",
        About::Reboot => "The reboot",
    };
    let note = match (open, by) {
        (true, _) => format!("{what}: choose a time, or put it off."),
        (false, Some(by)) if by > now => {
            format!("{what} cannot be put off any more: it is done by {}.", moment(by, zone))
        }
        (false, _) => format!("{what} cannot be put off any more."),
    };
    Row { about, open, times, note }
}

/// `Tue 22:00`.
fn moment(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned(zone.clone()).strftime("%a %Y-%m-%d %H:%M").to_string()
}

/// Times that can be chosen from `now` until `by`.
fn times(by: Option<Timestamp>, now: Timestamp, zone: &TimeZone) -> Vec<(String, Timestamp)> {
    let by = by.unwrap_or(Timestamp::MAX);
    let today = now.to_zoned(zone.clone()).date();
    let days = [Some(today), today.tomorrow().ok()].into_iter().flatten();
    let of_day = days.flat_map(|day| {
        TIMES_OF_DAY.iter().filter_map(move |&(hour, minute)| {
            let time = civil::Time::new(hour, minute, 0, 0).ok()?;
            day.to_datetime(time).to_zoned(zone.clone()).ok().map(|at| at.timestamp())
        })
    });
    let hours =
        HOURS.iter().filter_map(|hours| now.checked_add(jiff::SignedDuration::from_hours(*hours)).ok());
    let mut times: Vec<_> = hours
        .map(|at| (format!("in {}", screen::length(at.duration_since(now))), at))
        .chain(of_day.map(|at| (moment(at, zone), at)))
        .filter(|(_, at)| *at > now && *at <= by)
        .collect();
    times.sort_by_key(|(_, at)| *at);
    times.truncate(TIMES_MAX);
    times
}

/// The wish for a time that was typed.
///
/// # Errors
///
/// When it is no time.
pub fn typed(about: About, text: &str, now: Timestamp, zone: &TimeZone) -> Result<Wish, TimeError> {
    screen::parse_time(text, now, zone).map(|at| chosen(about, at))
}

/// The wish for a time.
#[must_use]
pub fn chosen(about: About, at: Timestamp) -> Wish {
    match about {
        About::Install => Wish::Install(at.as_millisecond()),
        About::Reboot => Wish::Reboot(at.as_millisecond()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-24T20:00:00Z".parse().unwrap()
    }

    fn at(minute: i64) -> i64 {
        now().as_millisecond() + minute * 60_000
    }

    fn due() -> v1::LocalDue {
        v1::LocalDue {
            department: "IT department".to_owned(),
            items: vec![v1::LocalItem {
                patch: "debian-12/openssl_3.0.17".to_owned(),
                severity: "important".to_owned(),
                deadline: at(24 * 60),
                ..Default::default()
            }],
            postpone_latest: at(120),
            asks: true,
            ..Default::default()
        }
    }

    fn seen(due: &v1::LocalDue) -> View {
        view(Ok(due), now(), &TimeZone::UTC)
    }

    #[test]
    fn during_grace_a_person_installs_now_chooses_a_time_or_puts_it_off() {
        let view = seen(&due());
        assert_eq!((view.tone, view.title.as_str()), (Tone::Due, "Updates from IT department"));
        let [row] = &view.rows[..] else { panic!("{view:?}") };
        assert!(row.open && row.about == About::Install);
        let labels: Vec<&str> = row.times.iter().map(|(label, _)| label.as_str()).collect();
        assert_eq!(
            labels,
            ["in 1h", "Tue 2026-11-24 22:00", "in 4h", "Wed 2026-11-25 12:30", "Wed 2026-11-25 18:00"],
            "none is past, none after the deadline"
        );
        assert!(!view.acknowledge && view.scheduled.is_none());
    }

    #[test]
    fn in_enforcement_nothing_is_put_off_and_no_time_is_chosen() {
        let view = seen(&v1::LocalDue { postpone_latest: 0, ..due() });
        assert_eq!(view.tone, Tone::Urgent);
        let [row] = &view.rows[..] else { panic!("{view:?}") };
        assert!(!row.open && row.times.is_empty());
        let note = "The installation cannot be put off any more: it is done by Wed 2026-11-25 20:00.";
        assert_eq!(row.note, note);
        // It ends here while the endpoint has said nothing new.
        let later = now() + jiff::SignedDuration::from_mins(121);
        assert!(!super::view(Ok(&due()), later, &TimeZone::UTC).rows[0].open);
    }

    #[test]
    fn install_and_reboot_have_buttons_of_their_own_and_a_reboot_that_is_left_to_people_has_none() {
        let reboot = v1::LocalReboot { by: at(300), ..Default::default() };
        let both = v1::LocalDue { reboot: Some(reboot.clone()), reboot_postpone_latest: at(60), ..due() };
        let rows: Vec<_> = seen(&both).rows.iter().map(|row| (row.about, row.open)).collect();
        assert_eq!(rows, [(About::Install, true), (About::Reboot, true)]);
        let enforced = v1::LocalDue { reboot_postpone_latest: 0, ..both.clone() };
        let rows: Vec<_> = seen(&enforced).rows.iter().map(|row| (row.about, row.open)).collect();
        assert_eq!(rows, [(About::Install, true), (About::Reboot, false)]);
        let left = v1::LocalReboot { suppressed: true, ..reboot };
        let view = seen(&v1::LocalDue { reboot: Some(left), asks: false, ..both });
        assert!(view.rows.is_empty());
        assert!(view.lines.iter().any(|line| line.text.ends_with("which Tierway leaves to you")));
    }

    #[test]
    fn a_countdown_tells_what_is_left_and_never_less_than_nothing() {
        let countdown = |ends| v1::LocalCountdown { began: at(-5), ends: at(ends), ..Default::default() };
        let view = seen(&v1::LocalDue { countdown: Some(countdown(15)), ..due() });
        let counting = view.counting.unwrap();
        assert_eq!((counting.text.as_str(), view.tone), ("Updates are installed in 15m", Tone::Urgent));
        assert!((counting.over - 0.25).abs() < 0.001 && view.acknowledge);
        assert!(!view.lines.iter().any(|line| line.text.contains("are installed in")), "it is told twice");
        let ended = seen(&v1::LocalDue { countdown: Some(countdown(-1)), ..due() }).counting.unwrap();
        assert_eq!((ended.text.as_str(), ended.over), ("Updates are installed in 0s", 1.0));
    }

    #[test]
    fn nothing_due_and_nobody_there_are_told_apart() {
        let view = seen(&v1::LocalDue { schedule_optional: true, scheduled: true, ..Default::default() });
        assert_eq!((view.tone, view.scheduled), (Tone::Calm, Some(true)));
        let view = super::view(Err("could not connect"), now(), &TimeZone::UTC);
        assert_eq!((view.tone, view.lines[0].text.as_str()), (Tone::Unknown, "could not connect"));
    }
}
