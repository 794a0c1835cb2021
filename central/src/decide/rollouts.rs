//! Updates on their way through ring plans: when each ring opens, and what people do to them.
//!
//! The rules are in [`crate::policy::gates`]; here they are fed from what endpoints report, and what they
//! say is kept, published and audited in one commit.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use roaring::RoaringBitmap;
use tierway_common::{
    id::{RingPlanId, UpdateId},
    rings::{Stand, ring_of, stand},
    schema::{
        Approval, Decision,
        policy::{RingPlan, Rollout, RolloutStage},
    },
    store::StoreError,
};

use super::{DecideError, not_found};
use crate::{
    model::{Model, Write},
    policy::{
        ROLLOUTS_MAX,
        gates::{self, Counts, Hand},
    },
    state::{Change, State},
    store::tables::{EndpointRecord, RolloutRecord, UpdateRecord},
};

/// Endpoints whose failure one rollout forgives: their numbers are in its record.
const FORGIVEN_MAX: usize = 5_000;

/// Rollouts that move in one run, with an audit record each; the others do in the next, which follows at once.
pub const MOVED_AT_ONCE_MAX: usize = 2_000;

/// Rollouts that are looked at while the model is held.
const LOOKED_AT_ONCE: usize = 100;

/// How an update stands in one ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingStanding {
    /// The ring's name.
    pub name: String,
    /// Its computers, those included to which the update does not apply.
    pub endpoints: u64,
    /// Of those to which it applies.
    pub counts: Counts,
}

/// How an update stands in its plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// As kept.
    pub record: RolloutRecord,
    /// By ring, in the order of the plan.
    pub rings: Vec<RingStanding>,
    /// What its next move waits for, a sentence.
    pub waits: String,
}

/// The endpoints of each ring of a plan among `among`.
fn rings(model: &Model, plan: &RingPlan, among: &RoaringBitmap) -> Vec<RoaringBitmap> {
    let mut rings = vec![RoaringBitmap::new(); plan.rings.len()];
    for endpoint in among.iter().filter_map(|number| model.endpoint(number)) {
        let is_member = |group: &_| model.members().get(group).is_some_and(|m| m.contains(endpoint.number));
        if let Some(ring) = ring_of(plan, &endpoint.id, is_member).and_then(|ring| rings.get_mut(ring)) {
            ring.insert(endpoint.number);
        }
    }
    rings
}

/// A computer in a ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingMember {
    /// The computer.
    pub endpoint: Arc<EndpointRecord>,
    /// The ring's name.
    pub ring: String,
    /// Where it stands, and why.
    pub stand: Stand,
}

/// Who stands in which ring of a plan, by enrolment: computers whose number is above `after`, at most `limit` of them,
/// of one ring only when its name is given. With the number after which there is more.
///
/// # Errors
///
/// [`DecideError`] when there is no such plan, or no such ring in it.
pub fn members(
    model: &Model,
    plan: &RingPlanId,
    ring: Option<&str>,
    after: Option<u32>,
    limit: usize,
) -> Result<(Vec<RingMember>, Option<u32>), DecideError> {
    let plan = model.policy().documents().ring_plan(plan).ok_or_else(|| not_found("ring plan", plan))?;
    if let Some(ring) = ring.filter(|ring| plan.rings.iter().all(|of_plan| of_plan.name != **ring)) {
        return Err(not_found("ring", &ring));
    }
    let later = model.active().iter().filter(|number| after.is_none_or(|after| *number > after));
    let mut members = Vec::new();
    for endpoint in later.filter_map(|number| model.endpoint(number)) {
        let is_member = |group: &_| model.members().get(group).is_some_and(|m| m.contains(endpoint.number));
        let Some(stand) = stand(plan, &endpoint.id, is_member) else { continue };
        let Some(found) =
            plan.rings.get(stand.ring).filter(|found| ring.is_none_or(|ring| found.name == ring))
        else {
            continue;
        };
        if members.len() == limit {
            let last = members.last().map(|last: &RingMember| last.endpoint.number);
            return Ok((members, last));
        }
        members.push(RingMember { endpoint: endpoint.clone(), ring: found.name.clone(), stand });
    }
    Ok((members, None))
}

/// The endpoints for which the decision that counts is an approval by this plan.
fn concerned(model: &Model, plan: &RingPlanId, update: &UpdateId) -> RoaringBitmap {
    let (mut concerned, mut decided) = (RoaringBitmap::new(), RoaringBitmap::new());
    for approval in model.policy().ranked(update) {
        let Some(members) = model.members().get(&approval.group) else { continue };
        if approval.decision == Decision::Approve && approval.rings.as_ref() == Some(plan) {
            concerned |= members - &decided;
        }
        decided |= members;
    }
    concerned
}

fn counts(model: &Model, update: &UpdateRecord, ring: &RoaringBitmap, forgiven: &RoaringBitmap) -> Counts {
    use tierway_common::schema::State::{Failed, Installed, RebootPending};
    let index = model.index();
    let lacking = index.lacking(update.number);
    let installed = [Installed, RebootPending].map(|state| index.how_many(update.number, state, ring));
    let failed = index.who(update.number, Failed).map_or_else(RoaringBitmap::new, |failed| failed & ring);
    Counts {
        members: lacking.intersection_len(ring) + installed.iter().sum::<u64>(),
        successes: index.mended(update.number).intersection_len(ring),
        failures: (failed - forgiven).len(),
    }
}

/// The rings of each plan, found once for all its updates.
#[derive(Default)]
struct Rings {
    of_plan: BTreeMap<RingPlanId, Vec<RoaringBitmap>>,
}

impl Rings {
    fn standing(&mut self, model: &Model, record: &RolloutRecord, now: Timestamp) -> Option<Standing> {
        let rollout = &record.rollout;
        let plan = model.policy().documents().ring_plan(&rollout.plan)?;
        let update = model.update_by_id(&rollout.update)?;
        let everybody =
            self.of_plan.entry(plan.id.clone()).or_insert_with(|| rings(model, plan, model.active()));
        let concerned = concerned(model, &plan.id, &update.id);
        let forgiven: RoaringBitmap = record.forgiven.iter().copied().collect();
        let standing = |(ring, endpoints): (&tierway_common::schema::policy::Ring, &RoaringBitmap)| {
            let endpoints = endpoints & &concerned;
            let counts = counts(model, update, &endpoints, &forgiven);
            RingStanding { name: ring.name.clone(), endpoints: endpoints.len(), counts }
        };
        let rings: Vec<RingStanding> = plan.rings.iter().zip(&*everybody).map(standing).collect();
        let counts: Vec<Counts> = rings.iter().map(|ring| ring.counts).collect();
        let waits = gates::standing(plan, rollout, &counts, now);
        Some(Standing { record: record.clone(), rings, waits })
    }
}

/// Every rollout, by plan, then update; of `plan` only, when given. A few at a time, so that reports go on.
#[must_use]
pub fn list(state: &State, plan: Option<&RingPlanId>) -> Vec<Standing> {
    let is_wanted = |(of, _): &&(RingPlanId, UpdateId)| plan.is_none_or(|plan| of == plan);
    let wanted: Vec<_> = state.model().policy().rollouts().keys().filter(is_wanted).cloned().collect();
    let (mut rings, mut found) = (Rings::default(), Vec::new());
    for some in wanted.chunks(LOOKED_AT_ONCE) {
        let (model, now) = (state.model(), state.now());
        let rollouts = model.policy().rollouts();
        let standings = some.iter().filter_map(|key| rings.standing(&model, rollouts.get(key)?, now));
        found.extend(standings);
    }
    found
}

/// Writes an approval; where it goes by a ring plan, with the rollout that begins. One that was aborted
/// begins anew, and so does one that goes on when another group joins it: its computers would all find their rings open.
/// One that is paused or halted stays so, and goes on with its first ring.
pub(super) fn approve(model: &Model, change: &mut Change, approval: Approval) {
    if let Some(plan) = approval.rings.as_ref().and_then(|id| model.policy().documents().ring_plan(id)) {
        let key = (plan.id.clone(), approval.update.clone());
        let before = model.policy().rollouts().get(&key);
        let went_by_it = model.policy().approval(&approval.group, &approval.update).is_some_and(|before| {
            before.decision == Decision::Approve && before.rings.as_ref() == Some(&plan.id)
        });
        let begun = || gates::begun(plan, &approval.update, &approval.by, change.now);
        let record = match before.filter(|before| before.rollout.stage != RolloutStage::Aborted) {
            None => Some(RolloutRecord { rollout: begun(), forgiven: Vec::new() }),
            Some(_) if went_by_it => None,
            Some(before) if before.rollout.stage.installs() => {
                Some(RolloutRecord { rollout: begun(), ..before.clone() })
            }
            Some(before) => {
                let rollout = Rollout { open: 0, ..before.rollout.clone() };
                Some(RolloutRecord { rollout, ..before.clone() })
            }
        };
        if let Some(record) = record {
            change.write(Write::Rollout(record));
        }
    }
    change.write(Write::Approval(approval));
}

/// Whether so many more updates may be on their way.
pub(super) fn room(model: &Model, more: usize) -> Result<(), DecideError> {
    if model.policy().rollouts().len() + more > ROLLOUTS_MAX {
        return Err(DecideError::TooMany { what: "rollouts", max: ROLLOUTS_MAX });
    }
    Ok(())
}

/// Looks at every rollout once: opens rings, halts, and forgets those that no approval goes by any more. How
/// many moved; at [`MOVED_AT_ONCE_MAX`] there may be more.
///
/// # Errors
///
/// Those of the store.
pub fn run(state: &State) -> Result<usize, StoreError> {
    let all: Vec<_> = state.model().policy().rollouts().keys().cloned().collect();
    // Looked at a few at a time, and decided once more in the change: in most runs nothing moves, and reports go on.
    let (mut rings, mut moving) = (Rings::default(), Vec::new());
    for some in all.chunks(LOOKED_AT_ONCE) {
        let (model, now) = (state.model(), state.now());
        moving.extend(some.iter().filter(|key| step(&model, &mut rings, key, now).is_some()).cloned());
        if moving.len() >= MOVED_AT_ONCE_MAX {
            moving.truncate(MOVED_AT_ONCE_MAX);
            break;
        }
    }
    if moving.is_empty() {
        return Ok(0);
    }
    let (moved, _) = state.change(|model, change| {
        let (mut rings, mut moved) = (Rings::default(), 0);
        for key in &moving {
            match step(model, &mut rings, key, change.now) {
                None => continue,
                Some(Step::Forget) => change.write(Write::NoRollout(key.0.clone(), key.1.clone())),
                Some(Step::Move(record)) => {
                    let action = match record.rollout.stage {
                        RolloutStage::Halted => "halt rollout",
                        _ => "open ring",
                    };
                    change.audit("central", action, object(&key.0, &key.1), record.rollout.detail.clone());
                    change.write(Write::Rollout(record));
                }
            }
            moved += 1;
        }
        Ok::<_, StoreError>(moved)
    })?;
    Ok(moved)
}

/// What becomes of a rollout now.
enum Step {
    /// No approval goes by it any more.
    Forget,
    /// A ring opens, or it halts.
    Move(RolloutRecord),
}

fn step(model: &Model, rings: &mut Rings, key: &(RingPlanId, UpdateId), now: Timestamp) -> Option<Step> {
    let (plan, update) = key;
    let record = model.policy().rollouts().get(key)?;
    let mut approvals = model.policy().approvals_of(update);
    if !approvals.any(|approval| approval.rings.as_ref() == Some(plan)) {
        return Some(Step::Forget);
    }
    let plan = model.policy().documents().ring_plan(plan)?;
    if !record.rollout.stage.installs() {
        return None;
    }
    let standing = rings.standing(model, record, now)?;
    let counts: Vec<Counts> = standing.rings.iter().map(|ring| ring.counts).collect();
    let rollout = gates::step(plan, &record.rollout, &counts, now)?;
    Some(Step::Move(RolloutRecord { rollout, ..record.clone() }))
}

fn object(plan: &RingPlanId, update: &UpdateId) -> String {
    format!("rollout:{plan}/{update}")
}

/// Does what a person wants done to a rollout. Returns the sequence of the audit record.
///
/// # Errors
///
/// [`DecideError::Invalid`] where that makes no sense as it stands; [`DecideError`].
pub fn control(
    state: &State,
    plan: &RingPlanId,
    update: &UpdateId,
    hand: Hand,
    actor: &str,
) -> Result<u64, DecideError> {
    let (_, sequence) = state.change(|model, change| {
        let key = (plan.clone(), update.clone());
        let missing = || not_found("rollout", &format!("{plan}/{update}"));
        let record = model.policy().rollouts().get(&key).ok_or_else(missing)?;
        let document = model.policy().documents().ring_plan(plan).ok_or_else(missing)?;
        let rollout =
            gates::by_hand(document, &record.rollout, hand, actor, change.now).ok_or_else(|| {
                DecideError::Invalid {
                    what: "rollout",
                    rule: format!("in another state to {}", hand.as_str()),
                    found: stage_name(record.rollout.stage).to_owned(),
                }
            })?;
        let mut forgiven = record.forgiven.clone();
        if matches!(hand, Hand::Resume | Hand::Promote)
            && let Some(failed) = model
                .update_by_id(update)
                .and_then(|update| model.index().who(update.number, tierway_common::schema::State::Failed))
        {
            forgiven.extend(failed.iter());
            forgiven.sort_unstable();
            forgiven.dedup();
            forgiven.truncate(FORGIVEN_MAX);
        }
        change.audit(actor, hand.as_str(), object(plan, update), rollout.detail.clone());
        change.write(Write::Rollout(RolloutRecord { rollout, forgiven }));
        Ok::<_, DecideError>(())
    })?;
    Ok(sequence)
}

/// A stage as in messages.
#[must_use]
pub fn stage_name(stage: RolloutStage) -> &'static str {
    match stage {
        RolloutStage::Running => "running",
        RolloutStage::Paused => "paused",
        RolloutStage::Halted => "halted",
        RolloutStage::Aborted => "aborted",
        RolloutStage::Complete => "complete",
    }
}

#[cfg(test)]
mod tests;
