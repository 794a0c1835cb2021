//! Retention of updates: of those that left every catalogue the decisions go at once, and they themselves once nobody
//! says anything of them any more. Without that a central would end one day, when it has seen as many as there may be.
//! So what is known of endpoints that were revoked goes too: it would name their updates for ever.

use std::{collections::BTreeSet, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use tierway_common::{schema::Approval, store::StoreError};

use super::PATCHES_AT_ONCE_MAX;
use crate::{compliance::record::Record, model::Write, state::State, store::tables::EndpointRecord};

/// How long an update that is gone can still be asked for, and comes back as what it was: longer than a source is
/// taken out of the configuration by mistake.
pub const GONE_KEPT: SignedDuration = SignedDuration::from_hours(24 * 30);
/// How long it can be seen what a revoked endpoint had, from its last report on.
pub const REVOKED_KEPT: SignedDuration = SignedDuration::from_hours(24 * 30);
/// Revoked endpoints of which everything is forgotten at once: about a megabyte of states.
pub const REVOKED_AT_ONCE_MAX: usize = 200;
/// Updates that are forgotten at once; each deletes some dozens of rows.
pub const FORGOTTEN_AT_ONCE_MAX: usize = 500;

/// Drops decisions about updates that are in no catalogue any more, and how long those took; how many decisions.
///
/// # Errors
///
/// Those of the store.
pub fn forget_gone(state: &State) -> Result<usize, StoreError> {
    let (count, _) = state.change(|model, change| {
        let gone =
            |approval: &&Approval| model.update_by_id(&approval.update).is_none_or(|update| update.gone);
        let mut dropped: Vec<_> = model.policy().approvals().filter(gone).collect();
        dropped.truncate(PATCHES_AT_ONCE_MAX);
        if !dropped.is_empty() {
            let updates: BTreeSet<&str> = dropped.iter().map(|approval| approval.update.as_str()).collect();
            let detail = updates.into_iter().collect::<Vec<_>>().join(" ");
            change.audit("central", "forget decisions", "policy".to_owned(), detail);
        }
        for approval in &dropped {
            change.write(Write::NoApproval(approval.group.clone(), approval.update.clone()));
        }
        let is_gone = |number: &u32| model.update(*number).is_none_or(|update| update.gone);
        for number in model.timings().keys().filter(|number| is_gone(number)).take(PATCHES_AT_ONCE_MAX) {
            change.write(Write::NoTiming(*number));
        }
        Ok::<_, StoreError>(dropped.len())
    })?;
    Ok(count)
}

/// Forgets updates that left every catalogue [`GONE_KEPT`] ago or earlier and that no endpoint and no template names; how
/// many, at most [`FORGOTTEN_AT_ONCE_MAX`]. Their numbers are given to new ones.
///
/// # Errors
///
/// Those of the store.
pub fn forget_updates(state: &State) -> Result<usize, StoreError> {
    let (count, _) = state.change(|model, change| {
        let (now, is_named) = (change.now, model.named_updates());
        let is_due = |since: Timestamp| now.duration_since(since) >= GONE_KEPT;
        let due = model
            .updates()
            .filter(|update| update.gone && update.gone_since.is_none_or(is_due) && !is_named(update.number));
        let mut forgotten = 0;
        for update in due.take(FORGOTTEN_AT_ONCE_MAX) {
            if update.gone_since.is_some() {
                forgotten += 1;
                change.write(Write::NoUpdate(update.number));
            } else {
                change.write(Write::Update(Arc::new(update.left(now))));
            }
        }
        Ok::<_, StoreError>(forgotten)
    })?;
    Ok(count)
}

/// Forgets facts and states of endpoints that are revoked and reported last [`REVOKED_KEPT`] ago or earlier; of how many,
/// at most [`REVOKED_AT_ONCE_MAX`]. That there was such an endpoint stays known.
///
/// # Errors
///
/// Those of the store.
pub fn forget_revoked(state: &State) -> Result<usize, StoreError> {
    let (count, _) = state.change(|model, change| {
        let now = change.now;
        let is_due = |record: &&Arc<EndpointRecord>| {
            let last = record.last_report.unwrap_or(record.enrolled_at);
            record.revoked
                && (record.assessed || record.facts.is_some())
                && now.duration_since(last) >= REVOKED_KEPT
        };
        let mut forgotten = 0;
        for record in model.endpoints().filter(is_due).take(REVOKED_AT_ONCE_MAX) {
            let old = Arc::new(state.states(record.number)?);
            let emptied = EndpointRecord {
                assessed: false,
                facts: None,
                estimated_for: 0,
                problems: Vec::new(),
                ..EndpointRecord::clone(record)
            };
            change.write(Write::Together(vec![
                Write::States { endpoint: record.number, old, new: Arc::new(Record::default()) },
                Write::NoFacts(record.number),
                Write::Endpoint(Arc::new(emptied)),
            ]));
            forgotten += 1;
        }
        Ok::<_, StoreError>(forgotten)
    })?;
    Ok(count)
}
