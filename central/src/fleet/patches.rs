//! Lists of updates, and everything about one.

use std::sync::Arc;

use tierway_common::{
    blobs::Blobs,
    schema::{Decision, Severity, State as UpdateState, Update},
    trust::digest::Digest,
};

use super::{AskError, is_current};
use crate::{model::Model, state::State, store::tables::UpdateRecord};

/// Which updates to list.
#[derive(Clone, Debug, Default)]
pub struct PatchFilter {
    /// Part of id or title, without regard to case.
    pub name: Option<String>,
    /// Exactly this severity.
    pub severity: Option<Severity>,
    /// See [`Standing`].
    pub standing: Option<Standing>,
    /// At most so many.
    pub limit: usize,
    /// Those after this one, as [`PatchPage::next`] said.
    pub after: Option<String>,
}

/// How an update stands in the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Some endpoint needs it.
    Needed,
    /// It is approved for some group.
    Approved,
    /// Some endpoint needs it and nothing was decided.
    Unapproved,
    /// It failed on some endpoint.
    Failed,
    /// Of some endpoint it cannot be said whether it needs it.
    Unknown,
}

impl Standing {
    /// By its name.
    ///
    /// # Errors
    ///
    /// [`AskError::Invalid`].
    pub fn parse(text: &str) -> Result<Self, AskError> {
        match text {
            "needed" => Ok(Self::Needed),
            "approved" => Ok(Self::Approved),
            "unapproved" => Ok(Self::Unapproved),
            "failed" => Ok(Self::Failed),
            "unknown" => Ok(Self::Unknown),
            _ => Err(AskError::Invalid {
                what: "state",
                rule: "needed, approved, unapproved, failed or unknown",
                found: text.to_owned(),
            }),
        }
    }
}

/// Whether central has what an update installs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// None of it.
    Absent,
    /// Some of it.
    Partial,
    /// All of it.
    Complete,
}

impl Presence {
    /// For people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Partial => "partial",
            Self::Complete => "complete",
        }
    }
}

/// One line of the list.
#[derive(Clone, Debug)]
pub struct PatchRow {
    /// The update.
    pub record: Arc<UpdateRecord>,
    /// Endpoints that need it.
    pub needed: u64,
    /// That have it, a reboot pending or not.
    pub installed: u64,
    /// On which it failed.
    pub failed: u64,
    /// Of which it is not known.
    pub unknown: u64,
    /// Groups for which it is approved.
    pub approved: Vec<String>,
    /// Groups for which it is declined.
    pub declined: Vec<String>,
    /// Whether its payloads are here.
    pub payloads: Presence,
}

/// A part of the list.
#[derive(Clone, Debug)]
pub struct PatchPage {
    /// By id.
    pub rows: Vec<PatchRow>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<String>,
}

/// Lists current updates by id, and superseded ones that some endpoint still has to do with when a name is
/// asked for.
///
/// # Errors
///
/// [`AskError::Invalid`] for an `after` that is no id.
pub fn list(model: &Model, payloads: &Blobs, wanted: &PatchFilter) -> Result<PatchPage, AskError> {
    let part = wanted.name.as_ref().map(|name| name.to_lowercase());
    let fits = |update: &Arc<UpdateRecord>| {
        let named = part.as_ref().is_none_or(|part| {
            update.id.as_str().to_lowercase().contains(part) || update.title.to_lowercase().contains(part)
        });
        named
            && (is_current(update) || (part.is_some() && !update.gone))
            && wanted.severity.is_none_or(|severity| severity == update.severity)
            && wanted.standing.is_none_or(|standing| stands(model, update, standing))
    };
    let after = match &wanted.after {
        Some(after) => Some(after.parse().map_err(|_| AskError::Invalid {
            what: "after",
            rule: "what the page before said",
            found: after.clone(),
        })?),
        None => None,
    };
    let updates: Box<dyn Iterator<Item = _>> = match &after {
        Some(after) => Box::new(model.updates_after(after)),
        None => Box::new(model.updates()),
    };
    let (mut rows, mut next) = (Vec::<PatchRow>::new(), None);
    for update in updates.filter(|update| fits(update)) {
        if rows.len() == wanted.limit {
            next = rows.last().map(|last| last.record.id.to_string());
            break;
        }
        rows.push(row(model, payloads, update.clone()));
    }
    Ok(PatchPage { rows, next })
}

fn stands(model: &Model, update: &UpdateRecord, standing: Standing) -> bool {
    let some = |state| model.index().how_many(update.number, state, model.active()) > 0;
    let mut decided = model.policy().approvals_of(&update.id);
    match standing {
        Standing::Needed => some(UpdateState::Needed),
        Standing::Failed => some(UpdateState::Failed),
        Standing::Unknown => some(UpdateState::Unknown),
        Standing::Approved => decided.any(|approval| approval.decision == Decision::Approve),
        Standing::Unapproved => some(UpdateState::Needed) && decided.next().is_none(),
    }
}

/// The line of one update.
#[must_use]
pub fn row(model: &Model, payloads: &Blobs, record: Arc<UpdateRecord>) -> PatchRow {
    let how_many = |state| model.index().how_many(record.number, state, model.active());
    let groups = |decision| {
        let of_update = model.policy().approvals_of(&record.id);
        of_update.filter(|approval| approval.decision == decision).map(|a| a.group.to_string()).collect()
    };
    PatchRow {
        needed: how_many(UpdateState::Needed),
        installed: how_many(UpdateState::Installed) + how_many(UpdateState::RebootPending),
        failed: how_many(UpdateState::Failed),
        unknown: how_many(UpdateState::Unknown),
        approved: groups(Decision::Approve),
        declined: groups(Decision::Decline),
        payloads: presence(model.payloads(record.number), payloads),
        record,
    }
}

fn presence(wanted: &[(Digest, u64)], payloads: &Blobs) -> Presence {
    match wanted.iter().filter(|(digest, _)| payloads.contains(digest)).count() {
        here if here == wanted.len() => Presence::Complete,
        0 => Presence::Absent,
        _ => Presence::Partial,
    }
}

/// The document of an update, as it is to be published, with its bytes.
///
/// # Errors
///
/// [`AskError::NotFound`] when it is in no catalogue any more; those of tree and document.
pub fn document(state: &State, trees: &Blobs, update: &UpdateRecord) -> Result<(Update, String), AskError> {
    let not_found = || AskError::NotFound { what: "patch", name: update.id.to_string() };
    let catalogue = update.id.catalogue().parse().map_err(|_| not_found())?;
    let root = state.model().catalogues().get(&catalogue).ok_or_else(not_found)?.root;
    let key = format!("update/{}", update.id.name());
    let bytes = tierway_common::tree::get(&root, &key, trees)?.ok_or_else(not_found)?;
    let damaged = |source| AskError::Document { update: update.id.clone(), source };
    let document = serde_json::from_slice(&bytes).map_err(damaged)?;
    Ok((document, String::from_utf8_lossy(&bytes).into_owned()))
}
