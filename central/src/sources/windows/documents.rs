//! From the revisions that a source read to the documents of its catalogue.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;
use tierway_common::{
    id::{CatalogueId, SourceId, UpdateId},
    schema::Update,
};
use tracing::warn;

use super::lower::{self, Revisions};
use crate::sources::{Stats, advisories::Advisories};

/// So many updates that make no document are logged one by one.
const LOGGED_MAX: usize = 5;

/// The documents of a catalogue.
#[derive(Debug)]
pub struct Documents {
    /// Key → document, as JSON.
    pub catalogue: BTreeMap<String, Bytes>,
    /// Date of the newest revision.
    pub date: Option<Timestamp>,
    /// In numbers; how many packages were read is not known here.
    pub stats: Stats,
    /// Updates that make no document.
    pub left_out: usize,
}

/// A document that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("could not write the document of `{id}`")]
pub struct EncodeError {
    id: UpdateId,
    source: serde_json::Error,
}

/// The documents of the catalogue of `source`. One without a date of its own keeps that of the documents `before`,
/// or else gets `now`. The same revisions and advisories give the same bytes.
///
/// # Errors
///
/// [`EncodeError`].
pub fn make(
    source: &SourceId,
    catalogue: &CatalogueId,
    revisions: &Revisions,
    before: &BTreeMap<String, Bytes>,
    advisories: &Advisories,
    now: Timestamp,
) -> Result<Documents, EncodeError> {
    let released = |id: &UpdateId| {
        let document = before.get(&format!("update/{}", id.name()));
        let before = document.and_then(|json| serde_json::from_slice::<Update>(json).ok());
        before.map_or(now, |update| update.released)
    };
    let mut lowered = lower::lower(catalogue, revisions, &released);
    advisories.join(&mut lowered.updates);
    for (id, reason) in lowered.left_out.iter().take(LOGGED_MAX) {
        warn!(%source, update = %id, reason, "left out an update of a catalogue");
    }
    let superseded = lowered.updates.values().filter(|update| !update.superseded_by.is_empty()).count();
    let stats = Stats { updates: lowered.updates.len(), superseded, ..Stats::default() };
    let encode = |(id, update): (UpdateId, Update)| match serde_json::to_vec(&update) {
        Ok(json) => Ok((format!("update/{}", id.name()), json.into())),
        Err(source) => Err(EncodeError { id, source }),
    };
    Ok(Documents {
        catalogue: lowered.updates.into_iter().map(encode).collect::<Result<_, _>>()?,
        date: revisions.iter().filter_map(|revision| revision.created).max(),
        stats,
        left_out: lowered.left_out.len(),
    })
}
