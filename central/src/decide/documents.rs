//! Setting and deleting policy documents: several at once, all or none, with what they name there.

use tierway_common::schema::{
    Decision,
    policy::{RingPlan, Rollout, RolloutStage, Trusted},
};

use super::{DecideError, not_found};
use crate::{
    model::{Model, Write},
    policy::{
        TRUSTED_MAX,
        documents::{Document, Documents, Kind, Reference},
    },
    state::{Change, State},
    store::tables::RolloutRecord,
};

/// Documents in one request.
pub const DOCUMENTS_AT_ONCE_MAX: usize = 1_000;

/// What happens to a document that is handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There was none of that kind and name.
    Added,
    /// There was another.
    Changed,
    /// It is as it was.
    Unchanged,
}

impl Outcome {
    /// As in messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
        }
    }
}

/// What would happen to each of `documents`, in their order. They may name each other.
///
/// # Errors
///
/// [`DecideError`], naming the first that is refused.
pub fn try_out(
    model: &Model,
    documents: &[Document],
    now: jiff::Timestamp,
) -> Result<Vec<Outcome>, DecideError> {
    if documents.len() > DOCUMENTS_AT_ONCE_MAX {
        return Err(DecideError::TooMany { what: "documents at once", max: DOCUMENTS_AT_ONCE_MAX });
    }
    let before = model.policy().documents();
    let mut after = before.clone();
    documents.iter().for_each(|document| after.set(document.clone()));
    for (at, document) in documents.iter().enumerate() {
        let (kind, name) = (document.kind(), document.name());
        let refused = |source| DecideError::Document { kind, name: name.clone(), source };
        document.check(now).map_err(refused)?;
        if documents[..at].iter().any(|other| other.kind() == kind && other.name() == name) {
            return Err(invalid(document, "given once", "given twice"));
        }
        let (max, what) = kind.max();
        if after.of(kind).count() > max {
            return Err(DecideError::TooMany { what, max });
        }
        for reference in document.references() {
            is_there(model, &after, &reference)?;
        }
        match document {
            Document::RingPlan(plan) => keeps_its_rings(model, document, plan)?,
            Document::Trust(_) => has_testers(model, &after, document)?,
            Document::Level(_) | Document::Window(_) | Document::ResultCodes(_) => {}
        }
    }
    let outcome = |document: &Document| match before.get(document.kind(), &document.name()) {
        None => Outcome::Added,
        Some(before) if before == document => Outcome::Unchanged,
        Some(_) => Outcome::Changed,
    };
    Ok(documents.iter().map(outcome).collect())
}

fn invalid(document: &Document, rule: &str, found: &str) -> DecideError {
    DecideError::Invalid {
        what: document.kind().title(),
        rule: rule.to_owned(),
        found: format!("{}: {found}", document.name()),
    }
}

fn is_there(model: &Model, documents: &Documents, reference: &Reference) -> Result<(), DecideError> {
    match reference {
        Reference::Window(id) if documents.get(Kind::Window, id.as_str()).is_none() => {
            Err(not_found("window", id))
        }
        Reference::Group(id) if !model.policy().groups().contains_key(id) => Err(not_found("group", id)),
        Reference::Update(id) if model.update_by_id(id).is_none() => Err(not_found("patch", id)),
        Reference::Window(_) | Reference::Group(_) | Reference::Update(_) => Ok(()),
    }
}

/// While an update is on its way the rings stay the same, as otherwise computers would change rings unseen.
fn keeps_its_rings(model: &Model, document: &Document, plan: &RingPlan) -> Result<(), DecideError> {
    let Some(before) = model.policy().documents().ring_plan(&plan.id) else { return Ok(()) };
    if before.rings.iter().map(|ring| &ring.who).eq(plan.rings.iter().map(|ring| &ring.who)) {
        return Ok(());
    }
    let on_its_way = model.policy().rollouts().values().find(|record| {
        let stage = record.rollout.stage;
        record.rollout.plan == plan.id
            && matches!(stage, RolloutStage::Running | RolloutStage::Paused | RolloutStage::Halted)
    });
    on_its_way.map_or(Ok(()), |record| {
        let found = format!("other rings, and `{}` is on its way", record.rollout.update);
        Err(invalid(document, "left with the same rings while an update is on its way", &found))
    })
}

/// Without a group that takes untrusted updates nothing would ever be installed.
fn has_testers(model: &Model, documents: &Documents, document: &Document) -> Result<(), DecideError> {
    let mut levels = model.policy().groups().values().filter_map(|group| group.level.as_ref());
    if levels.any(|id| documents.level(id).is_some_and(|level| level.untrusted == Some(true))) {
        return Ok(());
    }
    let rule = "set when a group has a level with `untrusted`, as nobody else could prove an update";
    Err(invalid(document, rule, "no such group"))
}

/// Sets documents, all or none. Returns what happened to each, in their order, and the sequence of the newest
/// audit record; those that are as they were leave none.
///
/// # Errors
///
/// [`DecideError`], naming the first that is refused; then nothing is changed.
pub fn set(state: &State, documents: &[Document], actor: &str) -> Result<(Vec<Outcome>, u64), DecideError> {
    state.change(|model, change| {
        let outcomes = try_out(model, documents, change.now)?;
        for (document, outcome) in documents.iter().zip(&outcomes) {
            // Also of one that is as it was: a ring may have been added by a central that did not do this.
            if let Document::RingPlan(plan) = document {
                keep_open(model, change, plan);
            }
            if *outcome == Outcome::Unchanged {
                continue;
            }
            if matches!(document, Document::Trust(_)) && *outcome == Outcome::Added {
                trust_what_is_approved(model, change, actor);
            }
            let (kind, name) = (document.kind(), document.name());
            change.audit(actor, set_action(kind), object(kind, &name), document.json().unwrap_or_default());
            change.write(Write::Document(document.clone()));
        }
        Ok(outcomes)
    })
}

/// What went through all rings of a plan is open in all that it has now.
fn keep_open(model: &Model, change: &mut Change, plan: &RingPlan) {
    let last = u32::try_from(plan.rings.len().saturating_sub(1)).unwrap_or(u32::MAX);
    let of_plan = model.policy().rollouts().values().filter(|record| record.rollout.plan == plan.id);
    for record in of_plan {
        if record.rollout.stage == RolloutStage::Complete && record.rollout.open != last {
            let rollout = Rollout { open: last, ..record.rollout.clone() };
            change.write(Write::Rollout(RolloutRecord { rollout, ..record.clone() }));
        }
    }
}

/// What was approved before there was a trust policy goes on.
fn trust_what_is_approved(model: &Model, change: &mut Change, actor: &str) {
    let approved = model.policy().approvals().filter(|approval| approval.decision == Decision::Approve);
    let mut updates: Vec<_> = approved.map(|approval| &approval.update).collect();
    updates.dedup();
    updates.truncate(TRUSTED_MAX);
    for update in updates {
        let trusted = Trusted { update: update.clone(), at: change.now, by: actor.to_owned() };
        change.write(Write::Trusted(trusted));
    }
}

fn object(kind: Kind, name: &str) -> String {
    format!("{}:{name}", kind.as_str())
}

fn set_action(kind: Kind) -> &'static str {
    match kind {
        Kind::Level => "set level",
        Kind::Window => "set window",
        Kind::RingPlan => "set ring plan",
        Kind::ResultCodes => "set result codes",
        Kind::Trust => "set trust policy",
    }
}

fn delete_action(kind: Kind) -> &'static str {
    match kind {
        Kind::Level => "delete level",
        Kind::Window => "delete window",
        Kind::RingPlan => "delete ring plan",
        Kind::ResultCodes => "delete result codes",
        Kind::Trust => "delete trust policy",
    }
}

/// Deletes a document; with the trust policy all its trust. Returns the sequence of the audit record.
///
/// # Errors
///
/// [`DecideError::InUse`] while something names it; [`DecideError`].
pub fn delete(state: &State, kind: Kind, name: &str, actor: &str) -> Result<u64, DecideError> {
    let (_, sequence) = state.change(|model, change| {
        let policy = model.policy();
        let document = policy.documents().get(kind, name).ok_or_else(|| not_found(kind.title(), &name))?;
        if let Some(by) = policy.user_of(document) {
            return Err(DecideError::InUse { what: kind.title(), name: name.to_owned(), by });
        }
        match document {
            Document::RingPlan(plan) => {
                let of_plan = policy.rollouts().keys().filter(|(of, _)| *of == plan.id);
                of_plan.cloned().for_each(|(plan, update)| change.write(Write::NoRollout(plan, update)));
            }
            Document::Trust(_) => {
                policy.trusted().keys().cloned().for_each(|update| change.write(Write::NoTrusted(update)));
            }
            Document::Level(_) | Document::Window(_) | Document::ResultCodes(_) => {}
        }
        change.write(Write::NoDocument(kind, name.to_owned()));
        change.audit(actor, delete_action(kind), object(kind, name), String::new());
        Ok::<_, DecideError>(())
    })?;
    Ok(sequence)
}

#[cfg(test)]
mod tests;
