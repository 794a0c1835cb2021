//! What operators decide, and rules in their place: groups, approvals, auto-approval, downloads.

pub mod documents;
pub mod gone;
pub mod groups;
pub mod rollouts;
pub mod templates;
pub mod trust;

use std::collections::BTreeSet;

use jiff::civil::Time;
use tierway_common::{
    id::{GroupId, RingPlanId, TemplateId, UpdateId},
    schema::{Approval, Decision, State as UpdateState},
    store::StoreError,
};
use tracing::warn;

use crate::{
    fleet::{self, AskError},
    model::{Model, Write},
    policy::{
        APPROVALS_MAX, AUTO_APPROVALS_MAX, ROLLOUTS_MAX,
        documents::{DocumentError, Kind},
    },
    sources::payloads::Which,
    state::{Change, State},
    store::tables::{AutoApprovalRecord, DownloadRecord},
};

/// Updates that one decision may be about: its audit record names them all.
pub const PATCHES_AT_ONCE_MAX: usize = 5_000;
/// Updates that did not pass, of which an error tells.
const MISSING_TOLD: usize = 20;
/// Longest glob of a rule.
const GLOB_BYTES_MAX: usize = 200;

/// Why a decision was not taken.
#[derive(Debug, thiserror::Error)]
pub enum DecideError {
    /// Something that it names is not there.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// Something that it says is not possible.
    #[error("`{what}` must be {rule}, found `{found}`")]
    Invalid {
        /// Which part.
        what: &'static str,
        /// What it must be.
        rule: String,
        /// What it is.
        found: String,
    },
    /// One more than there may be.
    #[error("there may be at most {max} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        max: usize,
    },
    /// It is still used.
    #[error("{what} `{name}` is named by {by}")]
    InUse {
        /// Kind of thing.
        what: &'static str,
        /// Which.
        name: String,
        /// By what.
        by: String,
    },
    /// A policy document makes no sense.
    #[error("{kind} `{name}` is refused")]
    Document {
        /// Kind of document.
        kind: Kind,
        /// Which.
        name: String,
        /// Why.
        source: DocumentError,
    },
    /// The group that shall have proved it did not.
    #[error("group `{group}` has not passed {missing}")]
    NotPassed {
        /// Which.
        group: GroupId,
        /// What is missing, for each update.
        missing: String,
    },
    /// The store failed.
    #[error("could not keep the decision")]
    Store(#[from] StoreError),
}

fn not_found(what: &'static str, name: &dyn ToString) -> DecideError {
    AskError::NotFound { what, name: name.to_string() }.into()
}

/// What to do with updates for a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Install them.
    Approve,
    /// Do not.
    Decline,
    /// As if nothing had been decided.
    Clear,
}

impl Verb {
    /// By its name.
    ///
    /// # Errors
    ///
    /// [`DecideError::Invalid`].
    pub fn parse(text: &str) -> Result<Self, DecideError> {
        match text {
            "approve" => Ok(Self::Approve),
            "decline" => Ok(Self::Decline),
            "clear" => Ok(Self::Clear),
            found => Err(DecideError::Invalid {
                what: "decision",
                rule: "approve, decline or clear".to_owned(),
                found: found.to_owned(),
            }),
        }
    }
}

/// Which updates a decision is about.
#[derive(Clone, Copy, Debug)]
pub enum About<'a> {
    /// These, by name or id.
    Named(&'a [String]),
    /// These, whose names were looked up.
    Ids(&'a BTreeSet<UpdateId>),
    /// Every current update that a member of the group needs now.
    AllNeeded,
    /// These, which are those of a template.
    Template(&'a TemplateId, &'a [UpdateId]),
}

/// How an approval is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// Ring after ring by this plan; one that is approved by a plan stays so when nothing is given.
    pub rings: Option<RingPlanId>,
    /// Only what passed on a test group.
    pub passed_on: Option<PassedOn>,
}

/// A test group on which an update must have passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedOn {
    /// The group.
    pub group: GroupId,
    /// On so many of its computers it was needed and is installed; on none of them it failed.
    pub successes: u32,
}

/// [`patches_if`] without conditions.
#[cfg(test)]
pub(crate) fn patches(
    state: &State,
    about: About<'_>,
    group: &GroupId,
    verb: Verb,
    actor: &str,
) -> Result<(Vec<UpdateId>, u64), DecideError> {
    patches_if(state, about, group, verb, &Conditions::default(), actor)
}

/// Decides about updates for one group. To approve an update by name that is approved already is to ask for
/// another try where it failed; any other decision made twice changes nothing the second time. Returns the
/// ids of those for which something changed, ascending, and the sequence of the audit record.
///
/// # Errors
///
/// [`DecideError`]; then nothing is changed.
pub fn patches_if(
    state: &State,
    about: About<'_>,
    group: &GroupId,
    verb: Verb,
    conditions: &Conditions,
    actor: &str,
) -> Result<(Vec<UpdateId>, u64), DecideError> {
    if !state.model().policy().groups().contains_key(group) {
        return Err(not_found("group", &group));
    }
    let named = match about {
        About::Named(names) if names.len() > PATCHES_AT_ONCE_MAX => return Err(too_many()),
        About::Named(names) => named(state, names)?,
        _ => BTreeSet::new(),
    };
    let about = if matches!(about, About::Named(_)) { About::Ids(&named) } else { about };
    state.change(|model, change| patches_within(model, change, about, group, verb, conditions, actor))
}

/// The same within a change that looks at more, or decides more.
///
/// # Errors
///
/// [`DecideError`]; then the change must not be made.
pub fn patches_within(
    model: &Model,
    change: &mut Change,
    about: About<'_>,
    group: &GroupId,
    verb: Verb,
    conditions: &Conditions,
    actor: &str,
) -> Result<Vec<UpdateId>, DecideError> {
    let Conditions { rings, passed_on } = conditions;
    let members = model.members().get(group).ok_or_else(|| not_found("group", &group))?;
    if let Some(plan) = rings.as_ref().filter(|plan| model.policy().documents().ring_plan(plan).is_none()) {
        return Err(not_found("ring plan", plan));
    }
    let chosen: BTreeSet<UpdateId> = match about {
        About::Ids(ids) => ids.clone(),
        About::Named(names) => names
            .iter()
            .map(|name| Ok(fleet::update(model, name)?.id.clone()))
            .collect::<Result<_, DecideError>>()?,
        About::AllNeeded => model
            .updates()
            .filter(|update| fleet::is_current(update))
            .filter(|update| !model.index().lacking(update.number).is_disjoint(members))
            .map(|update| update.id.clone())
            .collect(),
        About::Template(_, ids) => ids.iter().cloned().collect(),
    };
    if chosen.len() > PATCHES_AT_ONCE_MAX {
        return Err(too_many());
    }
    if let Some(passed_on) = passed_on.as_ref().filter(|_| verb == Verb::Approve) {
        passed(model, passed_on, &chosen)?;
    }
    if rings.is_some() {
        rollouts::room(model, chosen.len())?;
    }
    let (mut changed, mut again) = (Vec::new(), Vec::new());
    for update in chosen {
        let before = model.policy().approval(group, &update);
        let decision = match verb {
            Verb::Approve => Decision::Approve,
            Verb::Decline => Decision::Decline,
            Verb::Clear if before.is_some() => {
                change.write(Write::NoApproval(group.clone(), update.clone()));
                changed.push(update);
                continue;
            }
            Verb::Clear => continue,
        };
        let same =
            |before: &&Approval| before.decision == decision && (rings.is_none() || before.rings == *rings);
        if let Some(before) = before.filter(same) {
            // Who approves everything that is needed approves what is not yet: only who names an update
            // again wants it tried again.
            if decision == Decision::Approve && matches!(about, About::Named(_) | About::Ids(_)) {
                let renewed = Some(change.now);
                rollouts::approve(model, change, Approval { renewed, ..before.clone() });
                again.push(update);
            }
            continue;
        }
        let approval = Approval {
            group: group.clone(),
            update: update.clone(),
            decision,
            at: change.now,
            renewed: None,
            by: actor.to_owned(),
            rings: rings.clone().filter(|_| decision == Decision::Approve),
        };
        rollouts::approve(model, change, approval);
        changed.push(update);
    }
    if model.policy().approvals_count() + changed.len() > APPROVALS_MAX && verb != Verb::Clear {
        return Err(DecideError::TooMany { what: "approvals", max: APPROVALS_MAX });
    }
    let action = match verb {
        Verb::Approve => "approve",
        Verb::Decline => "decline",
        Verb::Clear => "clear",
    };
    let how = match (&about, rings) {
        (About::Template(template, _), None) => format!("template {template}: "),
        (About::Template(template, _), Some(rings)) => format!("template {template}, rings {rings}: "),
        (_, Some(rings)) => format!("rings {rings}: "),
        (_, None) => String::new(),
    };
    let names = |updates: &[UpdateId]| {
        format!("{how}{}", updates.iter().map(UpdateId::as_str).collect::<Vec<_>>().join(" "))
    };
    if !changed.is_empty() || again.is_empty() {
        change.audit(actor, action, format!("group:{group}"), names(&changed));
    }
    if !again.is_empty() {
        change.audit(actor, "approve again", format!("group:{group}"), names(&again));
    }
    changed.append(&mut again);
    changed.sort();
    Ok(changed)
}

fn too_many() -> DecideError {
    DecideError::TooMany { what: "patches in one decision", max: PATCHES_AT_ONCE_MAX }
}

/// The updates of these names, each looked up by itself: a name may have to be searched among all, and nobody shall
/// wait until the last was.
pub(crate) fn named(state: &State, names: &[String]) -> Result<BTreeSet<UpdateId>, AskError> {
    names.iter().map(|name| Ok(fleet::update(&state.model(), name)?.id.clone())).collect()
}

/// Whether updates passed on a test group.
fn passed(model: &Model, on: &PassedOn, updates: &BTreeSet<UpdateId>) -> Result<(), DecideError> {
    let PassedOn { group, successes } = on;
    let members = model.members().get(group).ok_or_else(|| not_found("group", group))?;
    let mut missing = Vec::new();
    for update in updates.iter().filter_map(|id| model.update_by_id(id)) {
        let done = model.index().mended(update.number).intersection_len(members);
        let failed = model.index().how_many(update.number, UpdateState::Failed, members);
        if done < u64::from(*successes) || failed > 0 {
            missing.push(format!("`{}`: {done} of {successes} successes, {failed} failures", update.id));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let more = missing.len().saturating_sub(MISSING_TOLD);
    missing.truncate(MISSING_TOLD);
    if more > 0 {
        missing.push(format!("and {more} more"));
    }
    Err(DecideError::NotPassed { group: group.clone(), missing: missing.join("; ") })
}

/// Adds a rule that approves by itself, or changes one. Returns the sequence of the audit record.
///
/// # Errors
///
/// [`DecideError`].
pub fn set_rule(state: &State, rule: AutoApprovalRecord, actor: &str) -> Result<u64, DecideError> {
    // Its name stands in keys and records like any id.
    if let Err(error) = rule.name.parse::<GroupId>() {
        let (rule_text, found) = (error.to_string(), rule.name);
        return Err(DecideError::Invalid { what: "name", rule: rule_text, found });
    }
    if let Some(glob) = rule.matching.as_ref().filter(|glob| glob.is_empty() || glob.len() > GLOB_BYTES_MAX) {
        let rule = format!("1 to {GLOB_BYTES_MAX} bytes");
        return Err(DecideError::Invalid { what: "matching", rule, found: glob.clone() });
    }
    let (_, sequence) = state.change(|model, change| {
        let policy = model.policy();
        if !policy.groups().contains_key(&rule.group) {
            return Err(not_found("group", &rule.group));
        }
        if let Some(plan) = rule.rings.as_ref().filter(|id| policy.documents().ring_plan(id).is_none()) {
            return Err(not_found("ring plan", plan));
        }
        if !policy.rules().contains_key(&rule.name) && policy.rules().len() >= AUTO_APPROVALS_MAX {
            return Err(DecideError::TooMany { what: "rules", max: AUTO_APPROVALS_MAX });
        }
        let detail = serde_json::to_string(&rule).unwrap_or_default();
        change.audit(actor, "set rule", format!("rule:{}", rule.name), detail);
        change.write(Write::Rule(rule));
        Ok(())
    })?;
    Ok(sequence)
}

/// Removes a rule; what it approved stays approved. Returns the sequence of the audit record.
///
/// # Errors
///
/// [`AskError::NotFound`]; those of the store.
pub fn delete_rule(state: &State, name: &str, actor: &str) -> Result<u64, DecideError> {
    let (_, sequence) = state.change(|model, change| {
        if !model.policy().rules().contains_key(name) {
            return Err(not_found("rule", &name));
        }
        change.write(Write::NoRule(name.to_owned()));
        change.audit(actor, "delete rule", format!("rule:{name}"), String::new());
        Ok(())
    })?;
    Ok(sequence)
}

/// Approves what the rules approve now; how many approvals that gave.
///
/// # Errors
///
/// Those of the store.
pub fn by_rules(state: &State) -> Result<usize, StoreError> {
    let now = state.now();
    if state.model().policy().rules().is_empty() {
        return Ok(0);
    }
    let (count, _) = state.change(|model, change| {
        let given = model.policy().materialise(model.updates().map(AsRef::as_ref), now);
        let rollouts = model.policy().rollouts();
        let room = Room {
            approvals: APPROVALS_MAX.saturating_sub(model.policy().approvals_count()),
            rollouts: ROLLOUTS_MAX.saturating_sub(rollouts.len()),
        };
        let (given, left_out) = room.fitting(given, |key| rollouts.contains_key(key));
        if left_out > 0 {
            warn!(left_out, "rules would approve more than there may be approvals or rollouts");
        }
        let mut by_rule: std::collections::BTreeMap<_, Vec<_>> = Default::default();
        for approval in &given {
            let of_rule = by_rule.entry((approval.by.clone(), approval.group.clone())).or_default();
            of_rule.push(approval.update.as_str());
        }
        for ((rule, group), updates) in by_rule {
            change.audit(&rule, "approve", format!("group:{group}"), updates.join(" "));
        }
        let count = given.len();
        given.into_iter().for_each(|approval| rollouts::approve(model, change, approval));
        Ok::<_, StoreError>(count)
    })?;
    Ok(count)
}

/// How many more approvals, and updates on their way through ring plans, there may be.
#[derive(Clone, Copy, Debug)]
struct Room {
    approvals: usize,
    rollouts: usize,
}

impl Room {
    /// Of approvals that rules give those that fit, at most [`PATCHES_AT_ONCE_MAX`], and how many will not fit as
    /// things are; one by a ring plan needs a rollout, unless that `is_begun`.
    fn fitting(
        self,
        mut given: Vec<Approval>,
        is_begun: impl Fn(&(RingPlanId, UpdateId)) -> bool,
    ) -> (Vec<Approval>, usize) {
        let all = given.len();
        let mut begun = BTreeSet::new();
        given.retain(|approval| {
            let Some(plan) = &approval.rings else { return true };
            let key = (plan.clone(), approval.update.clone());
            is_begun(&key) || begun.contains(&key) || (begun.len() < self.rollouts && begun.insert(key))
        });
        given.truncate(self.approvals);
        let left_out = all - given.len();
        given.truncate(PATCHES_AT_ONCE_MAX);
        (given, left_out)
    }
}

/// Sets when payloads are downloaded; what is `None` stays. Returns the sequence of the audit record.
///
/// # Errors
///
/// Those of the store.
pub fn set_download(
    state: &State,
    enabled: Option<bool>,
    at: Option<Time>,
    which: Option<Which>,
    actor: &str,
) -> Result<u64, StoreError> {
    let (_, sequence) = state.change(|model, change| {
        let before = model.download();
        let record = DownloadRecord {
            enabled: enabled.or(before.enabled),
            at: at.or(before.at),
            which: which.or(before.which),
        };
        let detail = serde_json::to_string(&record).unwrap_or_default();
        change.audit(actor, "set download", "download".to_owned(), detail);
        change.write(Write::Download(record));
        Ok::<_, StoreError>(())
    })?;
    Ok(sequence)
}

#[cfg(test)]
mod tests;
