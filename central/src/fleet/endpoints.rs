//! Lists of endpoints, and everything about one.

use std::{collections::BTreeMap, sync::Arc};

use roaring::RoaringBitmap;
use tierway_common::{
    id::{EndpointId, UpdateId},
    schema::{Decision, State as UpdateState},
    store::StoreError,
};

use super::{
    AskError, Counts, current, is_current,
    standing::{Known, Standing, standing},
    status::{Filter, among},
};
use crate::{
    compliance::record::{Entry, Record},
    model::Model,
    state::State,
    store::tables::{EndpointRecord, UpdateRecord},
};

/// One line of the list.
#[derive(Clone, Debug)]
pub struct EndpointRow {
    /// The endpoint.
    pub record: Arc<EndpointRecord>,
    /// Of current updates.
    pub counts: Counts,
    /// Names of its groups.
    pub groups: Vec<String>,
}

/// Which endpoints to list.
#[derive(Clone, Debug, Default)]
pub struct EndpointFilter {
    /// Site and group.
    pub filter: Filter,
    /// Part of the name, without regard to case.
    pub name: Option<String>,
    /// Only those that lack an update, or only those that do not.
    pub needing: Option<bool>,
    /// At most so many.
    pub limit: usize,
    /// Those after this one, as [`EndpointPage::next`] said.
    pub after: Option<String>,
}

/// A part of the list.
#[derive(Clone, Debug)]
pub struct EndpointPage {
    /// By name, then number.
    pub rows: Vec<EndpointRow>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<String>,
}

/// One update on one endpoint, in words.
#[derive(Clone, Debug)]
pub struct EndpointPatch {
    /// The update.
    pub update: Arc<UpdateRecord>,
    /// Where it stands.
    pub entry: Entry,
    /// What was decided, and since when (Unix seconds).
    pub decision: Option<(Decision, u32)>,
    /// Where it truly stands, step by step.
    pub standing: Standing,
}

impl EndpointPatch {
    /// When it was approved: settled when applied, else as decided now.
    #[must_use]
    pub fn authorized(&self) -> Option<u32> {
        let approved = self.decision.filter(|(decision, _)| *decision == Decision::Approve);
        self.entry.authorized.or(approved.map(|(_, at)| at))
    }
}

/// Endpoints that lack a current update.
#[must_use]
pub fn lacking(model: &Model) -> RoaringBitmap {
    let mut lacking = RoaringBitmap::new();
    for update in model.updates().filter(|update| is_current(update)) {
        lacking |= model.index().lacking(update.number);
    }
    lacking
}

/// Lists endpoints by name. Revoked ones come only when neither group nor `needing` is asked for.
///
/// # Errors
///
/// [`AskError::NotFound`] for a site or group, those of the store.
pub fn list(state: &State, wanted: &EndpointFilter) -> Result<EndpointPage, AskError> {
    let mut chosen = Vec::new();
    let mut next = None;
    {
        let model = state.model();
        let mut among = among(&model, &wanted.filter)?;
        let with_revoked = wanted.filter.group.is_none() && wanted.needing.is_none();
        match wanted.needing {
            Some(true) => among &= lacking(&model),
            Some(false) => among -= lacking(&model),
            None => {}
        }
        let part = wanted.name.as_ref().map(|name| name.to_lowercase());
        let fits = |endpoint: &&Arc<EndpointRecord>| {
            let revoked = endpoint.revoked
                && with_revoked
                && wanted.filter.site.as_ref().is_none_or(|site| *site == endpoint.site);
            (revoked || among.contains(endpoint.number))
                && part.as_ref().is_none_or(|part| endpoint.name.to_lowercase().contains(part))
        };
        // `<number>:<name>` of the last one given; names need not be unique.
        let after = wanted.after.as_ref().and_then(|after| {
            let (number, name) = after.split_once(':')?;
            Some((name.to_owned(), number.parse::<u32>().ok()?))
        });
        let later = |endpoint: &&Arc<EndpointRecord>| {
            after.as_ref().is_none_or(|(name, number)| (&endpoint.name, endpoint.number) > (name, *number))
        };
        // Also those of the same name, of which some may be left.
        let from = after.as_ref().map(|(name, _)| name.as_str());
        let same = from.into_iter().flat_map(|name| model.endpoints_named(name));
        for endpoint in same.chain(model.endpoints_by_name(from)).filter(later).filter(fits) {
            if chosen.len() == wanted.limit {
                next =
                    chosen.last().map(|last: &Arc<EndpointRecord>| format!("{}:{}", last.number, last.name));
                break;
            }
            chosen.push(endpoint.clone());
        }
    }
    let rows = chosen.into_iter().map(|record| row(state, record)).collect::<Result<_, StoreError>>()?;
    Ok(EndpointPage { rows, next })
}

/// The line of one endpoint.
///
/// # Errors
///
/// Those of the store.
pub fn row(state: &State, record: Arc<EndpointRecord>) -> Result<EndpointRow, StoreError> {
    let states = state.states(record.number)?;
    let model = state.model();
    let groups = model.groups_of(&record);
    let mut counts = Counts::default();
    for (entry, update) in current(&model, &states) {
        let approved = entry.state == UpdateState::Needed
            && model
                .policy()
                .decision(&groups, &update.id)
                .is_some_and(|approval| approval.decision == Decision::Approve);
        counts.add(entry.state, approved);
    }
    let groups = groups.into_iter().map(|group| group.id.to_string()).collect();
    Ok(EndpointRow { record, counts, groups })
}

/// Every update that is applicable to an endpoint: those that are lacking first, then by id.
///
/// # Errors
///
/// Those of the store.
pub fn patches(state: &State, record: &EndpointRecord) -> Result<Vec<EndpointPatch>, StoreError> {
    let states = state.states(record.number)?;
    let (model, publications) = (state.model(), state.publications());
    let known = Known { model: &model, publications: &publications, now: state.now() };
    let mut patches: Vec<_> =
        current(&model, &states).map(|(entry, update)| patch(known, record, update, entry)).collect();
    patches.sort_by_key(|patch| {
        let lacking = matches!(patch.entry.state, UpdateState::Needed | UpdateState::Failed);
        (!lacking, patch.update.id.clone())
    });
    Ok(patches)
}

fn patch(
    known: Known<'_>,
    endpoint: &EndpointRecord,
    update: &Arc<UpdateRecord>,
    entry: &Entry,
) -> EndpointPatch {
    let decision = known
        .model
        .decision(endpoint, &update.id)
        .map(|approval| (approval.decision, u32::try_from(approval.at.as_second()).unwrap_or(0)));
    let standing = standing(known, endpoint, update, entry);
    EndpointPatch { update: update.clone(), entry: entry.clone(), decision, standing }
}

/// The endpoints on which one update is in a state (`None`: in any but not applicable), by name.
///
/// # Errors
///
/// Those of the store.
pub fn with_patch(
    state: &State,
    update: &UpdateRecord,
    wanted: Option<UpdateState>,
    limit: usize,
) -> Result<Vec<(Arc<EndpointRecord>, EndpointPatch)>, StoreError> {
    let (chosen, update) = {
        let model = state.model();
        let Some(update) = model.update(update.number) else { return Ok(Vec::new()) };
        let mut who = RoaringBitmap::new();
        for state in wanted.map_or(UpdateState::ALL.to_vec(), |state| vec![state]) {
            if let Some(in_state) = model.index().who(update.number, state) {
                who |= in_state;
            }
        }
        who &= model.active();
        let mut by_name: BTreeMap<(String, EndpointId), Arc<EndpointRecord>> = BTreeMap::new();
        for endpoint in who.iter().filter_map(|number| model.endpoint(number)) {
            by_name.insert((endpoint.name.clone(), endpoint.id.clone()), endpoint.clone());
            if by_name.len() > limit {
                by_name.pop_last();
            }
        }
        (by_name.into_values().collect::<Vec<_>>(), update.clone())
    };
    let mut rows = Vec::with_capacity(chosen.len());
    for endpoint in chosen {
        let states: Record = state.states(endpoint.number)?;
        if let Some(entry) = states.get(update.number) {
            let (model, publications) = (state.model(), state.publications());
            let known = Known { model: &model, publications: &publications, now: state.now() };
            let patch = patch(known, &endpoint, &update, entry);
            rows.push((endpoint, patch));
        }
    }
    Ok(rows)
}

/// The state of one update on one endpoint.
///
/// # Errors
///
/// Those of the store.
pub fn patch_on(
    state: &State,
    endpoint: &EndpointRecord,
    update: &UpdateId,
) -> Result<Option<EndpointPatch>, StoreError> {
    let states = state.states(endpoint.number)?;
    let (model, publications) = (state.model(), state.publications());
    let known = Known { model: &model, publications: &publications, now: state.now() };
    let Some(update) = model.update_by_id(update) else { return Ok(None) };
    Ok(states.get(update.number).map(|entry| patch(known, endpoint, update, entry)))
}
