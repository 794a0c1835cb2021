//! Which updates are trusted: those that proved themselves on the computers that take untrusted ones, and
//! those a person vouches for.

use jiff::{SignedDuration, Timestamp};
use roaring::RoaringBitmap;
use tierway_common::{
    id::UpdateId,
    schema::{
        State as UpdateState,
        policy::{TrustPolicy, Trusted},
    },
    store::StoreError,
};

use super::{DecideError, named, not_found};
use crate::{
    compliance::index::Mark,
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

/// An update whose trust depends on how long testers have had it.
struct Candidate {
    update: UpdateId,
    number: u32,
    counts: Counts,
    /// The testers that had needed it and have it.
    proved: RoaringBitmap,
}

/// The earliest time at which a tester had the update, among the records that are read; any that is early enough
/// will do.
fn first_success(
    state: &State,
    candidate: &Candidate,
    early_enough: Timestamp,
) -> Result<Option<Timestamp>, StoreError> {
    let (update, enough) = (candidate.number, u32::try_from(early_enough.as_second()).unwrap_or(0));
    let mut first: Option<u32> = None;
    for endpoint in candidate.proved.iter().take(EVIDENCE_READ_MAX) {
        if first.is_some_and(|first| first <= enough) {
            break;
        }
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

/// Whether an update is trusted by the policy, and why or why not. Reads records: nobody may wait for it.
fn judge(
    state: &State,
    candidate: &Candidate,
    policy: &TrustPolicy,
    now: Timestamp,
) -> Result<Result<String, String>, StoreError> {
    let first = match candidate.counts.successes >= u64::from(policy.successes_at_least) {
        true => {
            let over = SignedDuration::try_from(policy.over).unwrap_or(SignedDuration::MAX);
            first_success(state, candidate, now.checked_sub(over).unwrap_or(Timestamp::MIN))?
        }
        false => None,
    };
    Ok(gates::trusted(candidate.counts, first, policy, now))
}

/// Current updates that are not trusted, that some computer needs or has, and that `matters`, by id, at most so many; and the policy, without
/// which there are none.
fn candidates(
    model: &Model,
    max: usize,
    matters: impl Fn(&Candidate, &TrustPolicy) -> bool,
) -> Option<(TrustPolicy, Vec<Candidate>)> {
    let policy = model.policy().documents().trust()?;
    let testers = testers(model);
    let index = model.index();
    // Most updates concern nobody, and counting is dear.
    let is_somewhere = |update: &UpdateRecord| {
        let number = update.number;
        let who = [UpdateState::Needed, UpdateState::Failed].map(|state| index.who(number, state));
        who.into_iter().chain([index.marked(number, Mark::Mended)]).flatten().any(|who| !who.is_empty())
    };
    let untrusted = model.updates().filter(|update| {
        is_somewhere(update)
            && fleet::is_current(update)
            && !model.policy().trusted().contains_key(&update.id)
    });
    let candidates = untrusted.map(|update| Candidate {
        update: update.id.clone(),
        number: update.number,
        counts: counts(model, update, &testers),
        proved: model.index().mended(update.number) & &testers,
    });
    let candidates = candidates.filter(|candidate| matters(candidate, policy)).take(max).collect();
    Some((policy.clone(), candidates))
}

/// Current updates that are not trusted and that some computer needs or has, by id; none without a policy.
///
/// # Errors
///
/// Those of the store.
pub fn list(state: &State) -> Result<Vec<Untrusted>, StoreError> {
    let found = candidates(&state.model(), fleet::ROWS_MAX, |_, _| true);
    let Some((policy, candidates)) = found else { return Ok(Vec::new()) };
    let mut rows = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let judged = judge(state, &candidate, &policy, state.now())?;
        let waits = judged.unwrap_or_else(|missing| missing);
        rows.push(Untrusted { update: candidate.update, counts: candidate.counts, waits });
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
    // Of what a tester has had for long, enough have it: what is left is to read since when.
    let has_enough = |candidate: &Candidate, policy: &TrustPolicy| {
        gates::trusted(candidate.counts, Some(Timestamp::MIN), policy, Timestamp::MAX).is_ok()
    };
    let found = candidates(&state.model(), TRUSTED_MAX, has_enough);
    let Some((policy, candidates)) = found else { return Ok(0) };
    let mut proven = Vec::new();
    for candidate in candidates {
        if proven.len() == MOVED_AT_ONCE_MAX {
            break;
        }
        if let Ok(by) = judge(state, &candidate, &policy, state.now())? {
            proven.push((candidate.update, by));
        }
    }
    let is_gone = |model: &Model, id: &UpdateId| model.update_by_id(id).is_none_or(|update| update.gone);
    let gone: Vec<UpdateId> = {
        let model = state.model();
        let gone = model.policy().trusted().keys().filter(|id| is_gone(&model, id));
        gone.take(MOVED_AT_ONCE_MAX).cloned().collect()
    };
    if proven.is_empty() && gone.is_empty() {
        return Ok(0);
    }
    let (promoted, _) = state.change(|model, change| {
        for id in gone.iter().filter(|id| is_gone(model, id)) {
            change.write(Write::NoTrusted(id.clone()));
        }
        let kept = model.policy();
        if kept.documents().trust() != Some(&policy) {
            return Ok(0);
        }
        let (testers, mut promoted) = (testers(model), 0);
        for (id, by) in &proven {
            let still = model.update_by_id(id).is_some_and(|update| {
                // How long they have had it was read; a failure may have come since.
                let counts = counts(model, update, &testers);
                fleet::is_current(update)
                    && gates::trusted(counts, Some(Timestamp::MIN), &policy, Timestamp::MAX).is_ok()
            });
            let room = kept.trusted().len() + promoted < TRUSTED_MAX;
            if !still || !room || kept.trusted().contains_key(id) {
                continue;
            }
            change.audit("central", "trust", format!("patch:{id}"), by.clone());
            change.write(Write::Trusted(Trusted { update: id.clone(), at: change.now, by: by.clone() }));
            promoted += 1;
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
    let named = named(state, names)?;
    state.change(|model, change| {
        let policy = model.policy();
        policy.documents().trust().ok_or_else(|| not_found("trust policy", &"trust"))?;
        let untrusted = named.iter().filter(|id| !policy.trusted().contains_key(*id));
        let updates: Vec<UpdateId> = untrusted.cloned().collect();
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
