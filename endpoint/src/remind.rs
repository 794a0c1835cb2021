//! When a person is shown what: at logon and after a boot, then again and again, at once when a countdown
//! begins or the choice ends, and ever more often until the computer is rebooted.
//!
//! Pure: what is due, what was shown before and the time in; what to show and when to look again out. It says
//! the same to every session, each with a [`Shown`] of its own.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use tierway_common::schema::policy::CountdownDefault;

use crate::{
    consent::{Purpose, signed},
    due::Due,
    wishes::{Choice, Wishes},
};

/// Somebody who must reboot is told so often, once the choice of the time has ended.
const ANNOY_EVERY: SignedDuration = SignedDuration::from_mins(15);

/// Moments before the end of a countdown at which it is shown once more.
const LAST_CALLS: [SignedDuration; 2] = [SignedDuration::from_mins(5), SignedDuration::from_mins(1)];

/// Updates named in a prompt; the rest is a number.
const NAMED_MAX: usize = 3;

/// What is put in front of a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Why now.
    pub occasion: Occasion,
    /// One line.
    pub title: String,
    /// Some lines.
    pub text: String,
    /// It stays until it is answered.
    pub urgent: bool,
    /// What can be answered, in order.
    pub answers: Vec<Answer>,
}

/// Why something is shown now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// Somebody logged on, or the computer booted.
    Logon,
    /// It is time again.
    Reminder,
    /// A countdown began or is about to end.
    Countdown,
    /// A reboot is overdue.
    Annoyance,
}

/// What a person can answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Install what is due now.
    InstallNow,
    /// Reboot now.
    RebootNow,
    /// Later.
    Postpone,
    /// Read.
    Acknowledge,
}

impl Answer {
    /// On a button.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::InstallNow => "Install now",
            Self::RebootNow => "Reboot now",
            Self::Postpone => "Later",
            Self::Acknowledge => "OK",
        }
    }

    /// As a word in messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InstallNow => "install-now",
            Self::RebootNow => "reboot-now",
            Self::Postpone => "postpone",
            Self::Acknowledge => "acknowledge",
        }
    }

    /// The answer of that word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        let all = [Self::InstallNow, Self::RebootNow, Self::Postpone, Self::Acknowledge];
        all.into_iter().find(|answer| answer.as_str() == word)
    }
}

/// What one session was shown so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// When something was last shown.
    at: Option<Timestamp>,
    /// The countdown that was shown: when it began, and how many of its last calls were made.
    countdown: Option<(Timestamp, usize)>,
}

/// What to show at `now`, if anything, and when to look again if nothing changes. Times are told in `zone`.
#[must_use]
pub fn decide(
    due: &Due,
    shown: &mut Shown,
    zone: &TimeZone,
    now: Timestamp,
) -> (Option<Prompt>, Option<Timestamp>) {
    let prompt = now_due(due, shown, now).map(|occasion| {
        shown.at = Some(now);
        prompt(due, occasion, zone, now)
    });
    (prompt, next(due, shown, now))
}

fn now_due(due: &Due, shown: &mut Shown, now: Timestamp) -> Option<Occasion> {
    if let Some(countdown) = &due.countdown
        && now < countdown.ends
    {
        let called =
            LAST_CALLS.iter().filter(|before| countdown.ends.duration_since(now) <= **before).count();
        let known = shown.countdown.filter(|(began, _)| *began == countdown.began);
        shown.countdown = Some((countdown.began, called));
        return match known {
            None => Some(Occasion::Countdown),
            Some((_, before)) if called > before => Some(Occasion::Countdown),
            // While one runs nothing else is said.
            Some(_) => None,
        };
    }
    shown.countdown = None;
    if !due.asks() && !due.asks_for_reboot() {
        // What comes next is news, as at a logon.
        shown.at = None;
        return None;
    }
    let Some(last) = shown.at else { return Some(Occasion::Logon) };
    let (every, occasion) = rhythm(due, now);
    let quiet = occasion == Occasion::Reminder && chosen(due, now).is_some();
    (now.duration_since(last) >= every && !quiet).then_some(occasion)
}

/// Until when nobody needs to be reminded, since a person has chosen a time that is still to come. `None` when
/// something came on offer after he chose, or a part of what is due has no time.
fn chosen(due: &Due, now: Timestamp) -> Option<Timestamp> {
    let Wishes { install, postponed, reboot, reboot_postponed, .. } = due.wishes;
    let later = |choices: [Option<Choice>; 2]| {
        choices.into_iter().flatten().filter(|choice| choice.at > now).max_by_key(|choice| choice.at)
    };
    let mut until = Vec::new();
    if due.asks() {
        let choice = later([install, postponed])?;
        if due.items.iter().any(|item| item.terms.offered > choice.asked) {
            return None;
        }
        until.push(choice.at);
    }
    if due.asks_for_reboot() {
        until.push(later([reboot, reboot_postponed])?.at);
    }
    until.into_iter().min()
}

/// How often a person is told, and as what.
fn rhythm(due: &Due, now: Timestamp) -> (SignedDuration, Occasion) {
    let every = signed(due.settings.remind_every);
    if due.asks_for_reboot() && !may_postpone(due, now) {
        (every.min(ANNOY_EVERY), Occasion::Annoyance)
    } else {
        (every.max(SignedDuration::from_mins(1)), Occasion::Reminder)
    }
}

fn next(due: &Due, shown: &Shown, now: Timestamp) -> Option<Timestamp> {
    if let Some(countdown) = due.countdown.filter(|countdown| now < countdown.ends) {
        let calls = LAST_CALLS.iter().filter_map(|before| countdown.ends.checked_sub(*before).ok());
        return calls.filter(|call| *call > now).min().or(Some(countdown.ends));
    }
    let last = shown.at?;
    let again = last.checked_add(rhythm(due, now).0).ok();
    let again = again.map(|again| chosen(due, now).map_or(again, |chosen| again.max(chosen)));
    // Where the choice ends the rhythm changes.
    let reboot = due.reboot.as_ref().and_then(|reboot| reboot.due.ok()).map(|due| due.terms);
    let terms = due.items.iter().map(|item| item.terms).chain(reboot);
    let ends = terms.map(|terms| terms.grace_ends).filter(|ends| *ends > now).min();
    [again, ends].into_iter().flatten().min()
}

/// Whether what a person is asked about can still be put off.
fn may_postpone(due: &Due, now: Timestamp) -> bool {
    let about = if due.asks_for_reboot() { Purpose::Reboot } else { Purpose::Install };
    due.may_postpone(about, now)
}

fn prompt(due: &Due, occasion: Occasion, zone: &TimeZone, now: Timestamp) -> Prompt {
    let who = if due.department.is_empty() { "The administrator" } else { &due.department };
    let mut text = String::new();
    let mut line = |sentence: String| {
        if !text.is_empty() {
            text.push('\n');
        }
        text += &sentence;
    };
    if let Some(countdown) = due.countdown.filter(|countdown| now < countdown.ends) {
        let left = left(countdown.ends, now);
        let (title, answer) = match countdown.to {
            Purpose::Install => (format!("Updates will be installed in {left}"), Answer::InstallNow),
            Purpose::Reboot => (format!("This computer will reboot in {left}"), Answer::RebootNow),
        };
        match countdown.to {
            Purpose::Install => line(format!("{who} asks for {}.", names(due))),
            Purpose::Reboot => line(format!("{who} asks for it. Save your work.")),
        }
        if countdown.postponable && countdown.unanswered == CountdownDefault::Postpone {
            line("If nobody answers it is put off.".to_owned());
        }
        let mut answers = vec![answer];
        if countdown.postponable {
            answers.push(Answer::Postpone);
        } else {
            line("It cannot be put off any more.".to_owned());
            answers.push(Answer::Acknowledge);
        }
        return Prompt { occasion, title, text, urgent: true, answers };
    }
    let later = may_postpone(due, now);
    let mut answers = Vec::new();
    let title = if due.asks_for_reboot() {
        for sign in due.reboot.iter().flat_map(|reboot| reboot.signs.first()) {
            line(format!("{sign}."));
        }
        if let Some(by) = due.reboot.as_ref().and_then(|reboot| reboot.due.ok()).map(|due| due.terms.deadline)
        {
            line(format!("{who} asks for it by {}.", when(by, zone)));
        }
        answers.push(Answer::RebootNow);
        "This computer must be rebooted".to_owned()
    } else {
        line(format!("{who} asks for {}.", names(due)));
        answers.push(Answer::InstallNow);
        match due.by() {
            Some(by) => format!("Updates are due by {}", when(by, zone)),
            None => "Updates are due".to_owned(),
        }
    };
    answers.push(if later { Answer::Postpone } else { Answer::Acknowledge });
    Prompt { occasion, title, text, urgent: occasion == Occasion::Annoyance, answers }
}

fn names(due: &Due) -> String {
    let named: Vec<&str> = due.items.iter().take(NAMED_MAX).map(|item| item.update.name()).collect();
    match due.items.len() {
        0 => "updates".to_owned(),
        count if count > NAMED_MAX => format!("{} and {} more", named.join(", "), count - NAMED_MAX),
        _ => named.join(", "),
    }
}

/// A moment to the minute.
fn when(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned(zone.clone()).strftime("%a %Y-%m-%d %H:%M").to_string()
}

/// `5m`, to the minute when it is more than one.
fn left(ends: Timestamp, now: Timestamp) -> String {
    let seconds = ends.duration_since(now).as_secs().unsigned_abs();
    let seconds = if seconds > 60 { seconds.div_ceil(60) * 60 } else { seconds };
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests {
    use tierway_common::{
        schema::{
            Severity,
            policy::{Experience, Reboot},
        },
        service::Settings,
    };

    use super::*;
    use crate::{
        consent::Terms,
        due::{Countdown, Item, RebootDue},
        reboot::decide::{self as reboot, NotDue},
        wishes::Wish,
    };

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + minute * 60).unwrap()
    }

    fn due() -> Due {
        Due {
            department: "IT department".to_owned(),
            items: vec![Item {
                update: "debian-12/openssl_3".parse().unwrap(),
                title: "openssl".to_owned(),
                severity: Severity::Important,
                waiting: None,
                terms: Terms { offered: at(0), grace_ends: at(600), deadline: at(1200) },
                begins: None,
                detail: String::new(),
            }],
            settings: Settings {
                experience: Experience::Consent,
                reboot: Reboot::IfNeeded,
                remind_every: Duration::from_secs(4 * 3600),
                ..Settings::default()
            },
            ..Due::default()
        }
    }

    fn countdown(to: Purpose, ends: i64, postponable: bool) -> Countdown {
        Countdown { to, began: at(0), ends: at(ends), postponable, unanswered: CountdownDefault::Install }
    }

    /// Minutes at which something is shown until `until`, with why, when it is looked at only when told to.
    fn shown(due: &Due, until: i64) -> Vec<(i64, Occasion)> {
        let (mut shown, mut now, mut told) = (Shown::default(), at(0), Vec::new());
        loop {
            let (prompt, next) = decide(due, &mut shown, &TimeZone::UTC, now);
            let minute = now.duration_since(at(0)).as_secs() / 60;
            told.extend(prompt.map(|prompt| (minute, prompt.occasion)));
            match next {
                Some(next) if next <= at(until) => {
                    assert!(next > now, "it would be looked at for ever at minute {minute}");
                    now = next;
                }
                _ => return told,
            }
        }
    }

    #[test]
    fn a_person_is_told_at_logon_and_then_as_often_as_the_level_says() {
        use Occasion::{Logon, Reminder};
        assert_eq!(shown(&due(), 500), [(0, Logon), (240, Reminder), (480, Reminder)]);
    }

    #[test]
    fn who_has_chosen_a_time_is_reminded_when_it_comes_and_of_what_came_later() {
        use Occasion::{Logon, Reminder};
        let mut chose = due();
        chose.wishes.apply(Wish::Postpone(at(300)), Some(1000), at(0));
        assert_eq!(shown(&chose, 590), [(0, Logon), (300, Reminder), (540, Reminder)]);
        chose.items[0].terms.offered = at(1);
        assert_eq!(shown(&chose, 300), [(0, Logon), (240, Reminder)]);
        // Somebody else logs on: to him it is news.
        chose.items[0].terms.offered = at(0);
        chose.wishes.apply(Wish::Install(at(500)), Some(1000), at(0));
        assert_eq!(shown(&chose, 499), [(0, Logon)]);
    }

    #[test]
    fn nothing_is_said_where_nobody_is_asked() {
        let mut silent = due();
        silent.settings.experience = Experience::Silent;
        assert_eq!(shown(&silent, 5000), []);
        assert_eq!(shown(&Due::default(), 5000), []);
    }

    #[test]
    fn a_countdown_is_shown_at_once_and_before_its_end_and_nothing_else_meanwhile() {
        let counting = Due { countdown: Some(countdown(Purpose::Reboot, 15, true)), ..due() };
        let told = shown(&counting, 14);
        assert_eq!(told, [0, 10, 14].map(|minute| (minute, Occasion::Countdown)));
        // Also where updates are silent: a reboot is always announced.
        let mut silent = counting;
        silent.settings.experience = Experience::Silent;
        assert_eq!(shown(&silent, 14), told);
    }

    #[test]
    fn a_reboot_that_cannot_be_put_off_any_more_is_asked_for_every_quarter_of_an_hour() {
        let terms = Terms { offered: at(-100), grace_ends: at(30), deadline: at(60) };
        let needed = RebootDue {
            signs: vec!["a kernel was replaced".to_owned()],
            begins: None,
            due: Ok(reboot::Due { since: at(0), terms, hold_until: at(60) }),
            held_by: Vec::new(),
        };
        let mut pending = Due { items: Vec::new(), reboot: Some(needed), ..due() };
        let (prompt, _) = decide(&pending, &mut Shown::default(), &TimeZone::UTC, at(0));
        let prompt = prompt.unwrap();
        assert_eq!((prompt.answers, prompt.urgent), (vec![Answer::RebootNow, Answer::Postpone], false));
        // The choice ends before the deadline.
        let every = |told: Vec<(i64, Occasion)>| told.iter().map(|told| told.0).collect::<Vec<_>>();
        let told = shown(&pending, 50);
        assert_eq!(every(told.clone()), [0, 30, 45]);
        assert_eq!(told[1].1, Occasion::Annoyance);
        // An update that can be put off changes nothing about that.
        pending.items = due().items;
        assert_eq!(shown(&pending, 50), told);
        for others in [NotDue::Suppressed, NotDue::NotNeeded] {
            let mut left = Due { items: Vec::new(), ..pending.clone() };
            left.reboot.as_mut().unwrap().due = Err(others);
            assert_eq!(shown(&left, 50), []);
        }
    }

    #[test]
    fn a_prompt_says_who_asks_for_what_and_what_can_be_answered() {
        let (prompt, _) = decide(&due(), &mut Shown::default(), &TimeZone::UTC, at(0));
        let prompt = prompt.unwrap();
        assert_eq!(prompt.title, "Updates are due by Sat 2027-01-16 04:00");
        assert_eq!(prompt.text, "IT department asks for openssl_3.");
        assert_eq!(prompt.answers, [Answer::InstallNow, Answer::Postpone]);

        let counting = Due { countdown: Some(countdown(Purpose::Install, 15, false)), ..due() };
        let (prompt, _) = decide(&counting, &mut Shown::default(), &TimeZone::UTC, at(0));
        let prompt = prompt.unwrap();
        assert_eq!(prompt.title, "Updates will be installed in 15m");
        assert_eq!(prompt.text, "IT department asks for openssl_3.\nIt cannot be put off any more.");
        assert_eq!(prompt.answers, [Answer::InstallNow, Answer::Acknowledge]);
    }

    #[test]
    fn every_answer_has_a_word_that_means_it() {
        for answer in [Answer::InstallNow, Answer::RebootNow, Answer::Postpone, Answer::Acknowledge] {
            assert_eq!(Answer::parse(answer.as_str()), Some(answer));
        }
    }
}
