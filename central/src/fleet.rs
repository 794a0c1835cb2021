//! What people ask about the fleet: how it stands, which endpoints, which updates, and why.
//!
//! Only updates that are in a catalogue and not superseded count as needed, installed or failed.

pub mod endpoints;
pub mod patches;
pub mod standing;
pub mod status;
pub mod times;
pub mod why;

use std::sync::Arc;

use tierway_common::{
    id::UpdateId,
    schema::{Severity, State as UpdateState},
    store::StoreError,
    tree::TreeError,
};

use crate::{
    compliance::record::{Entry, Record},
    model::Model,
    store::tables::{EndpointRecord, RelayRecord, UpdateRecord},
};

/// Rows of one answer; more come with the next call.
pub const ROWS_MAX: usize = 1_000;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No endpoint, update, group … has that name or id.
    #[error("there is no {what} `{name}`")]
    NotFound {
        /// Kind of thing.
        what: &'static str,
        /// What was asked for.
        name: String,
    },
    /// Several have that name, or it is a part of several names.
    #[error("`{name}` names {count} {what}: {candidates}")]
    Ambiguous {
        /// Kind of thing, plural.
        what: &'static str,
        /// What was asked for.
        name: String,
        /// How many.
        count: usize,
        /// The first of them, each with its id.
        candidates: String,
    },
    /// A value that is none.
    #[error("`{what}` must be {rule}, found `{found}`")]
    Invalid {
        /// Which part.
        what: &'static str,
        /// What it must be.
        rule: &'static str,
        /// What it is.
        found: String,
    },
    /// The store failed.
    #[error("could not read the store")]
    Store(#[from] StoreError),
    /// A catalogue could not be read.
    #[error("could not read the catalogue")]
    Tree(#[from] TreeError),
    /// A kept document is damaged.
    #[error("the document of `{update}` is damaged")]
    Document {
        /// Which.
        update: UpdateId,
        /// Why.
        source: serde_json::Error,
    },
}

/// How many updates are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Needed.
    pub needed: u64,
    /// Needed and approved.
    pub needed_approved: u64,
    /// Installed.
    pub installed: u64,
    /// Tried and failed.
    pub failed: u64,
    /// Not decided.
    pub unknown: u64,
    /// Installed, in effect after a reboot.
    pub reboot_pending: u64,
}

impl Counts {
    fn add(&mut self, state: UpdateState, approved: bool) {
        match state {
            UpdateState::Needed => {
                self.needed += 1;
                self.needed_approved += u64::from(approved);
            }
            UpdateState::Installed => self.installed += 1,
            UpdateState::Failed => self.failed += 1,
            UpdateState::Unknown => self.unknown += 1,
            UpdateState::RebootPending => self.reboot_pending += 1,
            UpdateState::NotApplicable => {}
        }
    }
}

/// Candidates that are told to somebody who has to choose.
const CANDIDATES_TOLD: usize = 8;

fn candidates(mut found: impl Iterator<Item = String>) -> String {
    let mut told: Vec<_> = found.by_ref().take(CANDIDATES_TOLD).collect();
    if found.next().is_some() {
        told.push("…".to_owned());
    }
    told.join(", ")
}

fn one_endpoint<'a>(
    found: &[&'a Arc<EndpointRecord>],
    asked: &str,
) -> Result<&'a Arc<EndpointRecord>, AskError> {
    one(found, ["endpoint", "endpoints"], asked, |one| format!("{} ({})", one.name, one.id))
}

/// What was found if it is one; `what` is its kind, of one and of several.
fn one<'a, T>(
    found: &[&'a Arc<T>],
    what: [&'static str; 2],
    asked: &str,
    called: impl Fn(&T) -> String,
) -> Result<&'a Arc<T>, AskError> {
    match found {
        [one] => Ok(one),
        [] => Err(AskError::NotFound { what: what[0], name: asked.to_owned() }),
        several => Err(AskError::Ambiguous {
            what: what[1],
            name: asked.to_owned(),
            count: several.len(),
            candidates: candidates(several.iter().map(|one| called(one))),
        }),
    }
}

/// An endpoint by its id, or by its whole name when only one active endpoint has it: for what cannot be undone.
///
/// # Errors
///
/// [`AskError::NotFound`], [`AskError::Ambiguous`].
pub fn endpoint_exactly<'a>(model: &'a Model, name_or_id: &str) -> Result<&'a Arc<EndpointRecord>, AskError> {
    if let Some(endpoint) = name_or_id.parse().ok().and_then(|id| model.endpoint_by_id(&id)) {
        return Ok(endpoint);
    }
    let mut found: Vec<_> = model.endpoints_named(name_or_id).filter(|endpoint| !endpoint.revoked).collect();
    if found.is_empty() {
        found = model.endpoints_named(name_or_id).collect();
    }
    one_endpoint(&found, name_or_id)
}

/// A relay by its id, or by its whole name when only one active relay has it.
///
/// # Errors
///
/// [`AskError::NotFound`], [`AskError::Ambiguous`].
pub fn relay_exactly<'a>(model: &'a Model, name_or_id: &str) -> Result<&'a Arc<RelayRecord>, AskError> {
    if let Some(relay) = name_or_id.parse().ok().and_then(|id| model.relays().get(&id)) {
        return Ok(relay);
    }
    let named = || model.relays().values().filter(|relay| relay.name == name_or_id);
    let mut found: Vec<_> = named().filter(|relay| !relay.revoked).collect();
    if found.is_empty() {
        found = named().collect();
    }
    one(&found, ["relay", "relays"], name_or_id, |one| format!("{} ({})", one.name, one.id))
}

/// An endpoint by its id, by its name, or by a part of its name that no other active endpoint has.
///
/// # Errors
///
/// [`AskError::NotFound`], [`AskError::Ambiguous`].
pub fn endpoint<'a>(model: &'a Model, name_or_id: &str) -> Result<&'a Arc<EndpointRecord>, AskError> {
    match endpoint_exactly(model, name_or_id) {
        Err(AskError::NotFound { .. }) if !name_or_id.is_empty() => {
            let active = model.endpoints().filter(|endpoint| !endpoint.revoked);
            let found: Vec<_> = active.filter(|endpoint| endpoint.name.contains(name_or_id)).collect();
            one_endpoint(&found, name_or_id)
        }
        exactly => exactly,
    }
}

/// An update by its id, by its name without the catalogue, by the name of its product when only one
/// current update has it, or by a part of its id that no other current update has.
///
/// # Errors
///
/// [`AskError::NotFound`], [`AskError::Ambiguous`].
pub fn update<'a>(model: &'a Model, name_or_id: &str) -> Result<&'a Arc<UpdateRecord>, AskError> {
    if let Some(update) = name_or_id.parse().ok().and_then(|id| model.update_by_id(&id)) {
        return Ok(update);
    }
    let called = |update: &&Arc<UpdateRecord>| {
        let name = update.id.name();
        name == name_or_id || name.rsplit_once('_').is_some_and(|(product, _)| product == name_or_id)
    };
    let mut found: Vec<_> = model.updates().filter(called).collect();
    if found.is_empty() && !name_or_id.is_empty() {
        found = model.updates().filter(|update| update.id.as_str().contains(name_or_id)).collect();
    }
    if found.len() > 1 {
        found.retain(|update| is_current(update));
    }
    match found[..] {
        [update] => Ok(update),
        [] => Err(AskError::NotFound { what: "patch", name: name_or_id.to_owned() }),
        _ => Err(AskError::Ambiguous {
            what: "patches",
            name: name_or_id.to_owned(),
            count: found.len(),
            candidates: candidates(found.iter().map(|update| update.id.to_string())),
        }),
    }
}

/// A severity by its name.
///
/// # Errors
///
/// [`AskError::Invalid`].
pub fn severity(text: &str) -> Result<Severity, AskError> {
    Severity::ALL.into_iter().find(|severity| severity.as_str() == text).ok_or(AskError::Invalid {
        what: "severity",
        rule: "critical, important, moderate, low or unspecified",
        found: text.to_owned(),
    })
}

/// A state by its name.
///
/// # Errors
///
/// [`AskError::Invalid`].
pub fn state(text: &str) -> Result<UpdateState, AskError> {
    let text = text.replace(['-', '_'], " ");
    UpdateState::ALL.into_iter().find(|state| state.as_str() == text).ok_or(AskError::Invalid {
        what: "state",
        rule: "needed, installed, failed, unknown or reboot pending",
        found: text,
    })
}

/// In a catalogue, and not superseded.
#[must_use]
pub fn is_current(update: &UpdateRecord) -> bool {
    !update.gone && update.superseded_by.is_empty()
}

/// The states of current updates in a record, with the update of each.
fn current<'a>(
    model: &'a Model,
    record: &'a Record,
) -> impl Iterator<Item = (&'a Entry, &'a Arc<UpdateRecord>)> {
    let entries = record.entries().iter();
    entries.filter_map(|entry| Some((entry, model.update(entry.update).filter(|update| is_current(update))?)))
}

/// How many rows to give: `asked`, or all there may be when 0.
#[must_use]
pub fn limit(asked: u32) -> usize {
    match usize::try_from(asked) {
        Ok(0) | Err(_) => ROWS_MAX,
        Ok(asked) => asked.min(ROWS_MAX),
    }
}

#[cfg(test)]
pub(crate) mod tests;
