//! Which updates are trusted: those that proved themselves on the computers that take untrusted ones, and
//! those a person vouches for.

use jiff::Timestamp;
use roaring::RoaringBitmap;
use tierway_common::{
    id::UpdateId,
    schema::{State as UpdateState, policy::Trusted},
    store::StoreError,
};

use super::{DecideError, not_found};
use crate::{
    fleet,
    model::{Model, Write},
    policy::{
        TRUSTED_MAX,
        gates::{self, Counts},
    },
    state::State,
    store::tables::UpdateRecord,
};

/// Records that are read to find a success that is old enough.
const EVIDENCE_READ_MAX: usize = 1_000;

/// Updates that become trusted in one run, with an audit record each, and that are forgotten in one; the others are
/// in the next, which follows at once.
pub const MOVED_AT_ONCE_MAX: usize = 2_000;

/// How an update that is not trusted stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untrusted {
    /// Which.
    pub update: UpdateId,
    /// On the computers that take untrusted updates.
    pub counts: Counts,
    /// What is missing, a sentence.
    pub waits: String,
}

/// The endpoints that take untrusted updates.
#[must_use]
pub fn testers(model: &Model) -> RoaringBitmap {
    model.served(|level| level.untrusted)
}

fn counts(model: &Model, update: &UpdateRecord, testers: &RoaringBitmap) -> Counts {
    let index = model.index();
    let states =
        [UpdateState::Needed, UpdateState::Failed, UpdateState::Installed, UpdateState::RebootPending];
    Counts {
        members: states.into_iter().map(|state| index.how_many(update.number, state, testers)).sum(),
        successes: index.mended(update.number).intersection_len(testers),
        failures: index.how_many(update.number, UpdateState::Failed, testers),
    }
}

/// The earliest time at which a tester had the update, among the records that are read.
fn first_success(
    state: &State,
    model: &Model,
    update: u32,
    testers: &RoaringBitmap,
) -> Result<Option<Timestamp>, StoreError> {
    let proved = model.index().mended(update) & testers;
    let mut first = None;
    for endpoint in proved.iter().take(EVIDENCE_READ_MAX) {
        let record = state.states(endpoint)?;
        let applied = record.get(update).and_then(|entry| entry.applied);
        first = match (first, applied) {
            (Some(first), Some(applied)) if applied >= first => Some(first),
            (first, None) => first,
            (_, applied) => applied,
        };
    }
    Ok(first.and_then(|seconds: u32| Timestamp::from_second(seconds.into()).ok()))
}

fn judge(
    state: &State,
    model: &Model,
    update: &UpdateRecord,
    testers: &RoaringBitmap,
    now: Timestamp,
) -> Result<(Counts, Result<String, String>), StoreError> {
    let counts = counts(model, update, testers);
    let Some(policy) = model.policy().documents().trust() else {
        return Ok((counts, Err("there is no trust policy".to_owned())));
    };
    let first = match counts.successes >= u64::from(policy.successes_at_least) {
        true => first_success(state, model, update.number, testers)?,
        false => None,
    };
    Ok((counts, gates::trusted(counts, first, policy, now)))
}

/// Current updates that are not trusted and that some computer needs or has, by id; none without a policy.
///
/// # Errors
///
/// Those of the store.
pub fn list(state: &State) -> Result<Vec<Untrusted>, StoreError> {
    let (model, now) = (state.model(), state.now());
    let policy = model.policy();
    if policy.documents().trust().is_none() {
        return Ok(Vec::new());
    }
    let testers = testers(&model);
    let mut rows = Vec::new();
    for update in model.updates().filter(|update| fleet::is_current(update)) {
        let matters = !model.index().lacking(update.number).is_empty()
            || !model.index().mended(update.number).is_empty();
        if !matters || policy.trusted().contains_key(&update.id) {
            continue;
        }
        let (counts, judged) = judge(state, &model, update, &testers, now)?;
        let waits = judged.unwrap_or_else(|missing| missing);
        rows.push(Untrusted { update: update.id.clone(), counts, waits });
        if rows.len() >= fleet::ROWS_MAX {
            break;
        }
    }
    Ok(rows)
}

/// Trusts what has proven itself and forgets what is in no catalogue any more; how many were promoted, and at
/// [`MOVED_AT_ONCE_MAX`] there may be more.
///
/// # Errors
///
/// Those of the store.
pub fn run(state: &State) -> Result<usize, StoreError> {
    if state.model().policy().documents().trust().is_none() {
        return Ok(0);
    }
    let (promoted, _) = state.change(|model, change| {
        let policy = model.policy();
        let gone = |id: &&UpdateId| model.update_by_id(id).is_none_or(|update| update.gone);
        let gone = policy.trusted().keys().filter(gone).take(MOVED_AT_ONCE_MAX);
        gone.for_each(|id| change.write(Write::NoTrusted(id.clone())));
        let (testers, mut promoted) = (testers(model), 0);
        for update in model.updates().filter(|update| fleet::is_current(update)) {
            if promoted == MOVED_AT_ONCE_MAX {
                break;
            }
            if policy.trusted().contains_key(&update.id)
                || model.index().mended(update.number).is_empty()
                || policy.trusted().len() + promoted >= TRUSTED_MAX
            {
                continue;
            }
            if let (_, Ok(by)) = judge(state, model, update, &testers, change.now)? {
                change.audit("central", "trust", format!("patch:{}", update.id), by.clone());
                change.write(Write::Trusted(Trusted { update: update.id.clone(), at: change.now, by }));
                promoted += 1;
            }
        }
        Ok::<_, StoreError>(promoted)
    })?;
    Ok(promoted)
}

/// Trusts updates because a person says so. Returns those that were not, ascending, and the sequence of the audit
/// record.
///
/// # Errors
///
/// [`DecideError`]; then nothing is changed.
pub fn promote(state: &State, names: &[String], actor: &str) -> Result<(Vec<UpdateId>, u64), DecideError> {
    state.change(|model, change| {
        let policy = model.policy();
        policy.documents().trust().ok_or_else(|| not_found("trust policy", &"trust"))?;
        let mut updates = Vec::new();
        for name in names {
            let id = fleet::update(model, name)?.id.clone();
            if !policy.trusted().contains_key(&id) {
                updates.push(id);
            }
        }
        updates.sort();
        updates.dedup();
        if policy.trusted().len() + updates.len() > TRUSTED_MAX {
            return Err(DecideError::TooMany { what: "trusted patches", max: TRUSTED_MAX });
        }
        for update in &updates {
            let trusted = Trusted { update: update.clone(), at: change.now, by: actor.to_owned() };
            change.write(Write::Trusted(trusted));
        }
        let detail = updates.iter().map(UpdateId::as_str).collect::<Vec<_>>().join(" ");
        change.audit(actor, "trust", "trust".to_owned(), detail);
        Ok(updates)
    })
}
