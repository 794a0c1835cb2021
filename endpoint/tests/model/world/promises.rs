//! What the agent promises, checked from what happens in the world.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tierway_common::schema::policy::{AtDeadline, Experience, Reboot};
use tierway_endpoint::{
    consent::{Asked, Purpose},
    install::codes::Class,
    plan::Reason,
    reboot::decide::{self as reboot, Decision as RebootDecision},
    wishes::Wish,
};

use super::{Thing, World, later, signed};

impl World {
    /// What must be true of every decision.
    pub(super) fn check(&mut self) -> Result<(), String> {
        let now = self.now;
        for index in 0..self.things.len() {
            let thing = &mut self.things[index];
            let id = thing.update.id.clone();
            if thing.installed {
                continue;
            }
            if self.plan.offered.contains_key(&id) {
                thing.offered.get_or_insert(now);
            }
            let step = self.plan.steps.iter().any(|step| step.update == id);
            let Some(reason) = self.plan.left_out.get(&id) else {
                if step {
                    continue;
                }
                return Err(format!("update {index} at {now} is not installed and no reason is given"));
            };
            if step || reason.to_string().is_empty() {
                return Err(format!("update {index} at {now} is installed and left out"));
            }
            *self.seen.waiting.entry(format!("{:?}", reason.waiting())).or_default() += 1;
            let thing = &self.things[index];
            let (grace, deadline) = (self.grace_ends(thing), self.deadline(thing));
            if let Reason::Person { until, .. } = reason {
                let picked = self.book.wishes().install.filter(|choice| Some(choice.asked) < grace);
                let allowed = picked.is_some() && Some(*until) <= deadline;
                if grace.is_some_and(|ends| ends <= now) && !allowed {
                    return Err(format!(
                        "update {index} at {now} waits for a person in enforcement: {reason}"
                    ));
                }
                if deadline.is_some_and(|ends| ends < *until) {
                    return Err(format!(
                        "update {index} at {now} waits for a person past its deadline: {reason}"
                    ));
                }
            }
            if let Reason::Countdown { until } = reason {
                let length = signed(self.here.settings.countdown.max(Duration::from_secs(60)));
                if *until > later(now, length) {
                    return Err(format!("update {index} at {now} counts down for too long: {reason}"));
                }
            }
        }
        if let RebootDecision::Wait { why: reboot::Why::Held(_), .. } = &self.reboot {
            let due = reboot::due(&self.signs(), &self.here, &self.book).map_err(|why| format!("{why:?}"))?;
            let hold = later(due.since, signed(self.here.settings.reboot_hold)).min(due.terms.deadline);
            if hold <= now {
                return Err(format!("at {now} a reboot is held back that may be held until {hold} only"));
            }
        }
        Ok(())
    }

    /// What was granted is followed: at its time, or as soon as what a person has no say in lets it.
    pub(super) fn follows(&mut self) -> Result<(), String> {
        let Some((caller, wish)) = self.granted.take() else { return Ok(()) };
        self.seen.granted += 1;
        let broken = |found: &str| Err(format!("at {} it was granted to {wish}, but {found}", self.now));
        let install = |at: Timestamp, why: Option<Asked>| {
            let asked = self.plan.left_out.iter().filter(|(id, _)| self.plan.offered.contains_key(*id));
            for (id, reason) in asked {
                let followed = match reason {
                    // There is nothing yet to be asked about.
                    Reason::Download(_) => true,
                    Reason::Person { until, why: found } => Some(*found) == why && *until == at,
                    Reason::Countdown { .. } => false,
                    _ => why.is_none(),
                };
                if !followed {
                    return broken(&format!("{id} is left out: {reason}"));
                }
            }
            match (why, self.plan.install().next()) {
                (Some(_), Some(id)) => broken(&format!("{id} is installed")),
                _ => Ok(()),
            }
        };
        let reboot = |at: Timestamp, asked: Option<Asked>| {
            let followed = match &self.reboot {
                RebootDecision::Wait { why: reboot::Why::Person(found), until } => {
                    Some(*found) == asked && *until == Some(at)
                }
                RebootDecision::Wait { why: reboot::Why::Held(_), .. } => {
                    asked.is_none()
                        && (!self.people.are_only(caller.uid()) || !self.people.inhibitors.is_empty())
                }
                RebootDecision::Wait { .. } | RebootDecision::Lease(_) => true,
                RebootDecision::Warn { .. } | RebootDecision::Now => asked.is_none(),
                RebootDecision::No(_) | RebootDecision::PutOff { .. } => false,
            };
            if followed { Ok(()) } else { broken(&self.reboot.to_string()) }
        };
        let later = |at: Timestamp, asked| (at > self.now).then_some(asked);
        match wish {
            Wish::Install(at) => install(at, later(at, Asked::Picked)),
            Wish::Postpone(at) => install(at, Some(Asked::PutOff)),
            Wish::Reboot(at) => reboot(at, later(at, Asked::Picked)),
            Wish::PostponeReboot(at) => reboot(at, Some(Asked::PutOff)),
            Wish::Acknowledge | Wish::Scheduled(_) => Ok(()),
        }
    }

    pub(super) fn may_reboot(&mut self) -> Result<(), String> {
        let settings = &self.here.settings;
        let broken = |promise: &str| Err(format!("reboot at {}: {promise}", self.now));
        if settings.reboot == Reboot::Suppress {
            return broken("the level leaves it to others");
        }
        if !self.changed {
            return broken("nothing was installed in this boot");
        }
        let due = reboot::due(&self.signs(), &self.here, &self.book).map_err(|why| format!("{why:?}"))?;
        if !self.in_window(Some(due.terms.deadline), SignedDuration::from_mins(5)) {
            return broken("outside of its windows");
        }
        // Who ordered it himself, just now, and would warn nobody but himself.
        let wished = self.book.wishes().reboot.is_some_and(|choice| {
            let just = self.now.duration_since(choice.asked) < SignedDuration::from_mins(10);
            choice.is_at_once() && just && choice.by.is_some_and(|by| self.people.are_only(by))
        });
        let warned = self.warned(Purpose::Reboot);
        if self.people.logged_in() && !warned && !wished {
            return broken("somebody is logged in and was not warned");
        }
        self.seen.reboots += 1;
        self.seen.warned_reboots += u64::from(warned && self.people.logged_in());
        Ok(())
    }

    fn grace_ends(&self, thing: &Thing) -> Option<Timestamp> {
        thing.offered.map(|offered| later(offered, signed(self.here.settings.grace)))
    }

    fn deadline(&self, thing: &Thing) -> Option<Timestamp> {
        let settings = &self.here.settings;
        thing.offered.map(|offered| later(offered, signed(settings.deadline.max(settings.grace))))
    }

    fn warned(&self, purpose: Purpose) -> bool {
        let Some((shown_for, began, shown)) = self.shown else { return false };
        let read = self.book.wishes().acknowledged.is_some_and(|at| at >= began);
        let length = signed(self.here.settings.countdown.max(Duration::from_secs(60)));
        shown_for == purpose && (read || shown >= length)
    }

    /// Whether windows let something be done that takes `takes` from now on.
    fn in_window(&self, deadline: Option<Timestamp>, takes: SignedDuration) -> bool {
        let settings = &self.here.settings;
        if settings.windows.is_empty() {
            return true;
        }
        if settings.at_deadline == AtDeadline::Install && deadline.is_some_and(|at| at <= self.now) {
            return true;
        }
        let open = self.here.windows.iter().filter_map(|window| window.at(self.now));
        open.map(|open| open.end).any(|end| later(self.now, takes) <= end)
    }

    pub(super) fn may_install(&mut self, index: usize, limit: Duration) -> Result<(), String> {
        let (thing, settings) = (&self.things[index], &self.here.settings);
        let broken = |promise: &str| Err(format!("update {index} at {}: {promise}", self.now));
        if thing.approved.is_none() {
            return broken("nobody approved it");
        }
        let reboots = matches!(settings.reboot, Reboot::IfNeeded | Reboot::Always);
        let warning = if self.people.logged_in() { settings.countdown } else { Duration::ZERO };
        let reserve =
            if reboots { SignedDuration::from_mins(10) + signed(warning) } else { SignedDuration::ZERO };
        if !self.in_window(self.deadline(thing), signed(limit) + reserve) {
            return broken("it was begun where it does not fit into a window");
        }
        let leased = settings.windows.iter().any(|window| window.as_str() == "leased");
        let ends = later(self.now, signed(limit) + reserve);
        if leased && self.lease_until.is_none_or(|until| until < ends) {
            return broken("it was begun without a lease");
        }
        let wished = self.book.wishes().install.is_some_and(|choice| {
            Some(choice.asked) >= thing.offered && (choice.at <= self.now || choice.at <= choice.asked)
        });
        if settings.experience != Experience::Silent
            && self.people.logged_in()
            && !wished
            && !self.warned(Purpose::Install)
        {
            return broken("nobody was warned and somebody is logged in");
        }
        // An approval of before the clock was set back counts when its time comes.
        let asked = thing.approved.as_ref().map_or(Timestamp::MIN, |approved| approved.asked);
        if let Some(ended) = thing.ended.filter(|ended| asked <= *ended || asked > self.now) {
            let waited = self.now.duration_since(ended);
            if !waited.is_negative() && waited < SignedDuration::from_mins(5) {
                return broken("it was tried again at once after it failed");
            }
            if thing.failures >= 5 && thing.last.class() == Class::Failure {
                return broken("it was tried again after five equal failures");
            }
        }
        let warned = self.shown.is_some();
        self.seen.warned_installs += u64::from(warned);
        Ok(())
    }
}
