//! Whether the next ring of a rollout opens, whether it halts, and whether an update is trusted. Pure.
//!
//! Each ring is judged by its own thresholds as long as it is open: a failure that comes late, in a ring
//! that let the next one open long ago, halts the rollout all the same.

use jiff::{SignedDuration, Timestamp};
use tierway_common::schema::policy::{Ring, RingPlan, Rollout, RolloutStage, TrustPolicy};

/// How an update stands on the computers of one ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Computers of the ring to which it applies.
    pub members: u64,
    /// On so many it was needed and is installed now, in effect or after the next reboot.
    pub successes: u64,
    /// On so many the last attempt failed, those left out that somebody forgave.
    pub failures: u64,
}

impl Counts {
    /// Whether more of the attempts that ended failed than may; `least` failures at least.
    #[must_use]
    pub fn too_many_failures(self, least: u32, permille_max: u16) -> bool {
        let attempts = u128::from(self.successes) + u128::from(self.failures);
        self.failures >= u64::from(least.max(1))
            && u128::from(self.failures) * 1_000 > attempts * u128::from(permille_max)
    }
}

/// What one ring lets happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    /// The next ring does not open yet, and why.
    Stay(String),
    /// The next ring may open.
    Open,
    /// Nobody goes on, and why.
    Halt(String),
}

/// Judges a ring that has been the newest open one since `since`.
#[must_use]
pub fn gate(counts: Counts, ring: &Ring, since: Timestamp, now: Timestamp) -> Gate {
    let Counts { members, successes, failures } = counts;
    let Ring { name, who: _, soak, successes_at_least, failure_permille_max, failures_min } = ring;
    if counts.too_many_failures(*failures_min, *failure_permille_max) {
        let attempts = successes + failures;
        return Gate::Halt(format!(
            "ring `{name}`: {failures} of {attempts} attempts failed, more than {}",
            percent(*failure_permille_max)
        ));
    }
    if successes < u64::from(*successes_at_least) {
        return Gate::Stay(format!(
            "ring `{name}`: {successes} of {successes_at_least} successes, {failures} failures, \
             it applies to {members} of its computers"
        ));
    }
    let over = SignedDuration::try_from(*soak).ok().and_then(|soak| since.checked_add(soak).ok());
    match over {
        Some(over) if now >= over => Gate::Open,
        Some(over) => Gate::Stay(format!("ring `{name}` soaks until {over:.0}")),
        None => Gate::Stay(format!("ring `{name}` soaks for ever")),
    }
}

fn percent(permille: u16) -> String {
    match permille % 10 {
        0 => format!("{} %", permille / 10),
        tenths => format!("{}.{tenths} %", permille / 10),
    }
}

/// How a rollout stands now, in words: what its next move waits for. `counts` are those of each ring.
#[must_use]
pub fn standing(plan: &RingPlan, rollout: &Rollout, counts: &[Counts], now: Timestamp) -> String {
    match rollout.stage {
        RolloutStage::Paused | RolloutStage::Halted | RolloutStage::Aborted => rollout.detail.clone(),
        RolloutStage::Complete => "all rings are open".to_owned(),
        RolloutStage::Running => {
            let (Some(ring), Some(counts)) =
                (plan.rings.get(rollout.open as usize), counts.get(rollout.open as usize))
            else {
                return rollout.detail.clone();
            };
            match gate(*counts, ring, rollout.since, now) {
                Gate::Stay(reason) | Gate::Halt(reason) => reason,
                Gate::Open => "the next ring opens now".to_owned(),
            }
        }
    }
}

/// The rollout after one look at it: `None` when nothing moves. Opens one ring at most. `counts` are those
/// of each ring of the plan.
#[must_use]
pub fn step(plan: &RingPlan, rollout: &Rollout, counts: &[Counts], now: Timestamp) -> Option<Rollout> {
    if !rollout.stage.installs() {
        return None;
    }
    let open = rollout.open as usize;
    for (ring, counts) in plan.rings.iter().zip(counts).take(open + 1) {
        if let Gate::Halt(detail) = gate(*counts, ring, rollout.since, now) {
            return Some(Rollout { stage: RolloutStage::Halted, detail, ..rollout.clone() });
        }
    }
    if rollout.stage == RolloutStage::Complete {
        return None;
    }
    let (Some(ring), Some(newest)) = (plan.rings.get(open), counts.get(open)) else {
        // The plan has no ring after this one.
        let detail = "the last ring is open".to_owned();
        return Some(Rollout { stage: RolloutStage::Complete, detail, ..rollout.clone() });
    };
    if open + 1 >= plan.rings.len() {
        let detail = format!("the last ring, `{}`, is open", ring.name);
        return Some(Rollout { stage: RolloutStage::Complete, detail, ..rollout.clone() });
    }
    match gate(*newest, ring, rollout.since, now) {
        Gate::Open => {
            let Counts { members: _, successes, failures } = newest;
            let why = format!("after {successes} successes and {failures} failures in `{}`", ring.name);
            Some(opened(plan, rollout, &why, now))
        }
        Gate::Stay(_) | Gate::Halt(_) => None,
    }
}

/// With the next ring open.
fn opened(plan: &RingPlan, rollout: &Rollout, why: &str, now: Timestamp) -> Rollout {
    let open = rollout.open.saturating_add(1);
    let name = plan.rings.get(open as usize).map_or("", |ring| ring.name.as_str());
    let last = open as usize + 1 >= plan.rings.len();
    Rollout {
        open,
        since: now,
        stage: if last { RolloutStage::Complete } else { RolloutStage::Running },
        detail: format!("ring `{name}` opened {why}"),
        ..rollout.clone()
    }
}

/// A rollout that begins: its first ring is open.
#[must_use]
pub fn begun(plan: &RingPlan, update: &tierway_common::id::UpdateId, by: &str, now: Timestamp) -> Rollout {
    let name = plan.rings.first().map_or("", |ring| ring.name.as_str());
    let last = plan.rings.len() <= 1;
    Rollout {
        plan: plan.id.clone(),
        update: update.clone(),
        stage: if last { RolloutStage::Complete } else { RolloutStage::Running },
        open: 0,
        since: now,
        detail: format!("ring `{name}` opened with the approval by {by}"),
    }
}

/// What a person does to a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hand {
    /// Nobody goes on for now.
    Pause,
    /// They do again; failures until now are forgiven, the soak begins anew.
    Resume,
    /// They never do.
    Abort,
    /// The next ring opens now.
    Promote,
}

impl Hand {
    /// All.
    pub const ALL: [Self; 4] = [Self::Pause, Self::Resume, Self::Abort, Self::Promote];

    /// As in messages and in the audit log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause rollout",
            Self::Resume => "resume rollout",
            Self::Abort => "abort rollout",
            Self::Promote => "promote rollout",
        }
    }
}

/// The rollout after somebody did something to it; `None` where that makes no sense.
#[must_use]
pub fn by_hand(
    plan: &RingPlan,
    rollout: &Rollout,
    hand: Hand,
    actor: &str,
    now: Timestamp,
) -> Option<Rollout> {
    use RolloutStage::{Aborted, Complete, Halted, Paused, Running};
    let to = |stage, done: &str| Rollout { stage, detail: format!("{done} by {actor}"), ..rollout.clone() };
    let last = rollout.open as usize + 1 >= plan.rings.len();
    match (rollout.stage, hand) {
        (Running | Complete, Hand::Pause) => Some(to(Paused, "paused")),
        (Paused | Halted, Hand::Resume) => {
            let stage = if last { Complete } else { Running };
            Some(Rollout { since: now, ..to(stage, "resumed") })
        }
        (Running | Paused | Halted | Complete, Hand::Abort) => Some(to(Aborted, "aborted")),
        (Running | Paused | Halted, Hand::Promote) if !last => {
            Some(opened(plan, rollout, &format!("by {actor}"), now))
        }
        (Running | Paused | Halted | Complete | Aborted, _) => None,
    }
}

/// Whether an update has proven itself, and how that stands. `first` is when the first of the successes was.
///
/// # Errors
///
/// What is missing, a sentence.
pub fn trusted(
    counts: Counts,
    first: Option<Timestamp>,
    policy: &TrustPolicy,
    now: Timestamp,
) -> Result<String, String> {
    let Counts { members: _, successes, failures } = counts;
    let TrustPolicy { successes_at_least, over, failure_permille_max } = policy;
    if counts.too_many_failures(1, *failure_permille_max) {
        let attempts = successes + failures;
        let most = percent(*failure_permille_max);
        return Err(format!("{failures} of {attempts} attempts failed, more than {most}"));
    }
    if successes < u64::from(*successes_at_least) {
        return Err(format!("{successes} of {successes_at_least} successes, {failures} failures"));
    }
    let since = SignedDuration::try_from(*over).ok().and_then(|over| now.checked_sub(over).ok());
    match (first, since) {
        (Some(first), Some(since)) if first <= since => {
            let over = humantime::format_duration(*over);
            Ok(format!("promoted: {successes} of {} over {over}", successes + failures))
        }
        (Some(first), _) => Err(format!(
            "enough successes, the first only at {first:.0}: it needs {}",
            humantime::format_duration(*over)
        )),
        (None, _) => Err(format!("{successes} successes, none of them for long enough")),
    }
}

#[cfg(test)]
mod tests;
