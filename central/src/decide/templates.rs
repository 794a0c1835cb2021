//! Reference computers: what is installed on one, as a list that can be approved for others.

use std::collections::BTreeSet;

use tierway_common::{
    id::{GroupId, TemplateId, UpdateId},
    schema::State as UpdateState,
};

use super::{About, Conditions, DecideError, PATCHES_AT_ONCE_MAX, Verb, not_found, patches_if};
use crate::{
    compliance::record::Record,
    fleet,
    model::{Model, Write},
    policy::TEMPLATES_MAX,
    state::State,
    store::tables::TemplateRecord,
};

/// The numbers of the current updates that a computer has.
fn installed(model: &Model, states: &Record) -> Vec<u32> {
    let has = |state| matches!(state, UpdateState::Installed | UpdateState::RebootPending);
    let entries = states.entries().iter().filter(|entry| has(entry.state));
    let current = |number: &u32| model.update(*number).is_some_and(|update| fleet::is_current(update));
    entries.map(|entry| entry.update).filter(current).collect()
}

/// Keeps what is installed on an endpoint, by name or id, as a template; one of that name is replaced. Returns
/// how many updates it has, and the sequence of the audit record.
///
/// # Errors
///
/// [`DecideError`]; then nothing is changed.
pub fn capture(
    state: &State,
    id: &TemplateId,
    endpoint: &str,
    actor: &str,
) -> Result<(usize, u64), DecideError> {
    state.change(|model, change| {
        let endpoint = fleet::endpoint(model, endpoint)?;
        let templates = model.policy().templates();
        if !templates.contains_key(id) && templates.len() >= TEMPLATES_MAX {
            return Err(DecideError::TooMany { what: "templates", max: TEMPLATES_MAX });
        }
        let updates = installed(model, &state.states(endpoint.number)?);
        if updates.len() > PATCHES_AT_ONCE_MAX {
            return Err(DecideError::TooMany { what: "patches in a template", max: PATCHES_AT_ONCE_MAX });
        }
        let count = updates.len();
        let detail = format!("{count} patches of endpoint {}", endpoint.id);
        change.audit(actor, "capture template", format!("template:{id}"), detail);
        change.write(Write::Template(TemplateRecord {
            id: id.clone(),
            endpoint: endpoint.id.clone(),
            endpoint_name: endpoint.name.clone(),
            at: change.now,
            by: actor.to_owned(),
            updates,
        }));
        Ok(count)
    })
}

/// A template by its name.
///
/// # Errors
///
/// [`DecideError::Ask`].
pub fn get<'a>(model: &'a Model, id: &TemplateId) -> Result<&'a TemplateRecord, DecideError> {
    model.policy().templates().get(id).ok_or_else(|| not_found("template", id))
}

/// What a template's update is called: those that are in no catalogue any more are left out.
#[must_use]
pub fn updates(model: &Model, template: &TemplateRecord) -> Vec<UpdateId> {
    let known = template.updates.iter().filter_map(|number| model.update(*number));
    let mut ids: Vec<_> = known.filter(|update| !update.gone).map(|update| update.id.clone()).collect();
    ids.sort();
    ids
}

/// A difference between a template and an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// About which update.
    pub update: UpdateId,
    /// In the template.
    pub in_template: bool,
    /// How it stands on the endpoint; not applicable when it says nothing.
    pub on_endpoint: UpdateState,
}

/// What differs between a template and an endpoint, by name or id: by update.
///
/// # Errors
///
/// [`DecideError`].
pub fn diff(state: &State, id: &TemplateId, endpoint: &str) -> Result<Vec<Difference>, DecideError> {
    let model = state.model();
    let template = get(&model, id)?;
    let states = state.states(fleet::endpoint(&model, endpoint)?.number)?;
    let (theirs, here): (BTreeSet<u32>, BTreeSet<u32>) =
        (template.updates.iter().copied().collect(), installed(&model, &states).into_iter().collect());
    let difference = |number: &u32| {
        let update = model.update(*number).filter(|update| !update.gone)?;
        let on_endpoint = states.get(*number).map_or(UpdateState::NotApplicable, |entry| entry.state);
        let in_template = theirs.contains(number);
        Some(Difference { update: update.id.clone(), in_template, on_endpoint })
    };
    let mut differences: Vec<_> = theirs.symmetric_difference(&here).filter_map(difference).collect();
    differences.sort();
    Ok(differences)
}

/// Approves everything in a template for a group. Returns the updates for which something changed and the
/// sequence of the audit record.
///
/// # Errors
///
/// [`DecideError`]; then nothing is changed.
pub fn apply(
    state: &State,
    id: &TemplateId,
    group: &GroupId,
    conditions: &Conditions,
    actor: &str,
) -> Result<(Vec<UpdateId>, u64), DecideError> {
    let ids = {
        let model = state.model();
        updates(&model, get(&model, id)?)
    };
    patches_if(state, About::Template(id, &ids), group, Verb::Approve, conditions, actor)
}

/// Forgets a template; what it approved stays approved. Returns the sequence of the audit record.
///
/// # Errors
///
/// [`DecideError`].
pub fn delete(state: &State, id: &TemplateId, actor: &str) -> Result<u64, DecideError> {
    let (_, sequence) = state.change(|model, change| {
        get(model, id)?;
        change.write(Write::NoTemplate(id.clone()));
        change.audit(actor, "delete template", format!("template:{id}"), String::new());
        Ok::<_, DecideError>(())
    })?;
    Ok(sequence)
}
