//! What is due and what is wished, as messages.

use jiff::Timestamp;
use tierway_common::schema::policy::{CountdownDefault, Experience};
use tierway_proto::v1::{self, local_wish_request};
use tonic::Status;

use crate::{
    consent::{Purpose, Terms, signed},
    due::{Countdown, Due, Item, RebootDue},
    remind::Prompt,
    wishes::{Caller, Choice, Wish, Wishes},
};

/// A time as a message has it.
fn millis(at: Option<Timestamp>) -> i64 {
    at.map_or(0, Timestamp::as_millisecond)
}

/// What is due at `now`, as `caller` is told it.
pub(super) fn due(due: &Due, caller: Caller, now: Timestamp) -> v1::LocalDue {
    let Due { department, phase, items, countdown, reboot, wishes, settings, boot: _ } = due;
    let Wishes { install, postponed, reboot: reboot_at, reboot_postponed, acknowledged: _, unscheduled: _ } =
        wishes;
    let chosen = |choice: &Option<Choice>| millis(choice.map(|choice| choice.at));
    v1::LocalDue {
        department: department.clone(),
        phase: phase.clone(),
        items: items.iter().map(item).collect(),
        countdown: countdown.as_ref().map(counting),
        reboot: reboot.as_ref().map(|reboot| rebooting(reboot, caller)),
        install_at: chosen(install),
        postponed_until: chosen(postponed),
        reboot_at: chosen(reboot_at),
        reboot_postponed_until: chosen(reboot_postponed),
        scheduled: wishes.scheduled(settings),
        schedule_optional: settings.schedule_optional,
        postpone_seconds: settings.postpone.as_secs(),
        asks: settings.experience != Experience::Silent,
        postpone_latest: millis(
            due.standing(now).updates.filter(|terms| terms.in_grace(now)).map(|terms| terms.grace_ends),
        ),
        reboot_postpone_latest: millis(
            due.standing(now)
                .reboot
                .ok()
                .filter(|_| due.may_postpone(Purpose::Reboot, now))
                .map(|reboot| reboot.terms.grace_ends),
        ),
    }
}

fn item(item: &Item) -> v1::LocalItem {
    let Item { update, title, severity, waiting, terms, begins, detail } = item;
    let Terms { offered, grace_ends, deadline } = *terms;
    v1::LocalItem {
        patch: update.to_string(),
        title: title.clone(),
        severity: severity.as_str().to_owned(),
        waiting: waiting.map(|waiting| waiting.as_str().to_owned()).unwrap_or_default(),
        offered: offered.as_millisecond(),
        grace_ends: grace_ends.as_millisecond(),
        deadline: deadline.as_millisecond(),
        begins: millis(*begins),
        detail: detail.clone(),
    }
}

fn counting(countdown: &Countdown) -> v1::LocalCountdown {
    let Countdown { to, began, ends, postponable, unanswered } = *countdown;
    v1::LocalCountdown {
        reboot: to == Purpose::Reboot,
        began: began.as_millisecond(),
        ends: ends.as_millisecond(),
        postponable,
        unanswered_postpones: unanswered == CountdownDefault::Postpone,
    }
}

fn rebooting(reboot: &RebootDue, caller: Caller) -> v1::LocalReboot {
    let RebootDue { signs, begins, due, held_by } = reboot;
    v1::LocalReboot {
        signs: signs.clone(),
        begins: millis(*begins),
        by: millis(due.ok().map(|due| due.terms.deadline)),
        held_by: held_by.iter().map(|against| against.told_to(caller)).collect(),
        suppressed: due.is_err(),
    }
}

/// What to put in front of a person.
pub(super) fn prompt(prompt: &Prompt) -> v1::LocalPrompt {
    let Prompt { occasion: _, title, text, urgent, answers } = prompt;
    let answer = |answer: &crate::remind::Answer| v1::LocalAnswer {
        answer: answer.as_str().to_owned(),
        label: answer.label().to_owned(),
    };
    v1::LocalPrompt {
        title: title.clone(),
        text: text.clone(),
        urgent: *urgent,
        answers: answers.iter().map(answer).collect(),
    }
}

/// What is wished at `now`, with what is due then.
///
/// # Errors
///
/// `INVALID_ARGUMENT` when it says nothing or names no time.
pub(super) fn wish(request: &v1::LocalWishRequest, due: &Due, now: Timestamp) -> Result<Wish, Status> {
    use local_wish_request::Wish as Asked;

    let v1::LocalWishRequest { wish } = request;
    let time = |millis: i64| {
        Timestamp::from_millisecond(millis).map_err(|error| Status::invalid_argument(error.to_string()))
    };
    let at = |millis: i64| if millis == 0 { Ok(now) } else { time(millis) };
    let standing = due.standing(now);
    let until = |millis: i64, terms: Option<Terms>| {
        if millis != 0 {
            return time(millis);
        }
        let until = now.checked_add(signed(due.settings.postpone)).unwrap_or(Timestamp::MAX);
        // The last one is as long as is left.
        let ends = terms.map(|terms| terms.grace_ends).filter(|ends| *ends > now);
        Ok(ends.map_or(until, |ends| until.min(ends)))
    };
    match wish.as_ref().ok_or_else(|| Status::invalid_argument("nothing is wished"))? {
        Asked::Install(millis) => at(*millis).map(Wish::Install),
        Asked::Postpone(millis) => until(*millis, standing.updates).map(Wish::Postpone),
        Asked::Reboot(millis) => at(*millis).map(Wish::Reboot),
        Asked::PostponeReboot(millis) => {
            until(*millis, standing.reboot.ok().map(|due| due.terms)).map(Wish::PostponeReboot)
        }
        Asked::Acknowledge(v1::LocalAcknowledge {}) => Ok(Wish::Acknowledge),
        Asked::Scheduled(on) => Ok(Wish::Scheduled(*on)),
    }
}
