//! Lists of endpoints, and everything about one.

use std::{
    fmt,
    num::NonZero,
    panic,
    str::FromStr,
    sync::{Arc, LazyLock},
    thread::{self, Builder},
};

use roaring::RoaringBitmap;
use tierway_common::{
    id::UpdateId,
    schema::{Decision, State as UpdateState},
    store::StoreError,
};

use super::{
    AskError, Counts, current, is_current,
    standing::{self, Known, Standing, standing},
    status::{Filter, among},
};
use crate::{
    compliance::record::Entry,
    model::Model,
    state::State,
    store::tables::{EndpointRecord, UpdateRecord},
};

/// Threads that read the rows of one answer at most.
const READERS_MAX: usize = 4;
/// As many of them as this machine has processors; to find out takes several calls of the system.
static READERS: LazyLock<usize> =
    LazyLock::new(|| thread::available_parallelism().map_or(1, NonZero::get).min(READERS_MAX));
/// Rows that one reads before it is worth another.
const READ_ALONE: usize = 250;

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
    pub after: Option<Place>,
}

/// A part of the list.
#[derive(Clone, Debug)]
pub struct EndpointPage {
    /// By name, then number.
    pub rows: Vec<EndpointRow>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<Place>,
}

/// A place in a list of endpoints by name, then number, for names need not be unique: after this endpoint. As text
/// `<number>:<name>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    number: u32,
    name: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, name } = self;
        write!(f, "{number}:{name}")
    }
}

impl FromStr for Place {
    type Err = AskError;

    fn from_str(text: &str) -> Result<Self, AskError> {
        let place = text.split_once(':').and_then(|(number, name)| Some((number.parse().ok()?, name)));
        let Some((number, name)) = place else {
            return Err(AskError::Invalid {
                what: "after",
                rule: "what the page before said",
                found: text.to_owned(),
            });
        };
        Ok(Self { number, name: name.to_owned() })
    }
}

/// Endpoints on which one update is in a state, a part of the list.
#[derive(Clone, Debug)]
pub struct PatchEndpointPage {
    /// By name, then number.
    pub rows: Vec<(Arc<EndpointRecord>, EndpointPatch)>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<Place>,
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
    let (chosen, next, counting) = {
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
        let (chosen, next) = by_name(&model, wanted.after.as_ref(), wanted.limit, fits);
        (chosen, next, Counting::of(&model))
    };
    Ok(EndpointPage { rows: rows(state, chosen, &counting)?, next })
}

/// At most `limit` endpoints that fit and come after this place, by name, then number; and the place of the last
/// one, when there are more.
fn by_name(
    model: &Model,
    after: Option<&Place>,
    limit: usize,
    fits: impl Fn(&&Arc<EndpointRecord>) -> bool,
) -> (Vec<Arc<EndpointRecord>>, Option<Place>) {
    // Those of the same name, of which some may be left, then those of later names.
    let same = after.into_iter().flat_map(|Place { number, name }| {
        model.endpoints_named(name).filter(move |endpoint| endpoint.number > *number)
    });
    let later = model.endpoints_by_name(after.map(|place| place.name.as_str()));
    let mut found = same.chain(later).filter(fits);
    let chosen: Vec<_> = found.by_ref().take(limit).cloned().collect();
    let last = found.next().and(chosen.last());
    let next = last.map(|last| Place { number: last.number, name: last.name.clone() });
    (chosen, next)
}

/// The line of one endpoint.
///
/// # Errors
///
/// Those of the store.
pub fn row(state: &State, record: Arc<EndpointRecord>) -> Result<EndpointRow, StoreError> {
    let counting = Counting::of(&state.model());
    let states = States::of(state, record.number, &counting)?;
    Ok(states.row(&state.model(), record))
}

/// The lines of these endpoints, in their order.
fn rows(
    state: &State,
    chosen: Vec<Arc<EndpointRecord>>,
    counting: &Counting,
) -> Result<Vec<EndpointRow>, StoreError> {
    let states = read_each(&chosen, |endpoint| States::of(state, endpoint.number, counting))?;
    let model = state.model();
    Ok(chosen.into_iter().zip(states).map(|(record, states)| states.row(&model, record)).collect())
}

/// What `read` gives for each of those chosen, in their order; it is read in the order in which the store has it, for
/// what lies together is read together, and of many by several threads.
fn read_each<T: Clone + Default + Send>(
    chosen: &[Arc<EndpointRecord>],
    read: impl Fn(&EndpointRecord) -> Result<T, StoreError> + Sync,
) -> Result<Vec<T>, StoreError> {
    let mut places: Vec<usize> = (0..chosen.len()).collect();
    places.sort_unstable_by_key(|place| chosen[*place].number);
    let mut found = vec![T::default(); chosen.len()];
    let read_part = |part: &[usize]| -> Result<Vec<(usize, T)>, StoreError> {
        part.iter().map(|place| Ok((*place, read(&chosen[*place])?))).collect()
    };
    let mut shares = places.chunks(places.len().div_ceil(*READERS).max(READ_ALONE));
    let own = shares.next().unwrap_or_default();
    thread::scope(|scope| {
        let others: Vec<_> = shares
            .map(|share| (share, Builder::new().spawn_scoped(scope, move || read_part(share))))
            .collect();
        let mut parts = vec![read_part(own)?];
        for (share, reader) in others {
            parts.push(match reader {
                Ok(reader) => reader.join().unwrap_or_else(|panic| panic::resume_unwind(panic))?,
                // The system gives no more threads.
                Err(_) => read_part(share)?,
            });
        }
        for (place, value) in parts.into_iter().flatten() {
            found[place] = value;
        }
        Ok(found)
    })
}

/// The states of an endpoint that are counted.
#[derive(Clone, Debug, Default)]
struct States {
    counts: Counts,
    /// Needed updates about which somebody decided, by number; not counted yet.
    decided: Vec<u32>,
}

impl States {
    fn of(state: &State, endpoint: u32, counting: &Counting) -> Result<Self, StoreError> {
        let mut states = Self::default();
        state.each_state(endpoint, |update, is| match counting.0.get(update as usize) {
            None | Some(Counted::Not) => {}
            Some(Counted::Decided) if is == UpdateState::Needed => states.decided.push(update),
            Some(Counted::Decided | Counted::Undecided) => states.counts.add(is, false),
        })?;
        Ok(states)
    }

    fn row(self, model: &Model, record: Arc<EndpointRecord>) -> EndpointRow {
        let Self { mut counts, decided } = self;
        let groups = model.groups_of(&record);
        for update in decided {
            let decision = model.update(update).and_then(|one| model.policy().decision(&groups, &one.id));
            let is_approved = decision.is_some_and(|approval| approval.decision == Decision::Approve);
            counts.add(UpdateState::Needed, is_approved);
        }
        let groups = groups.into_iter().map(|group| group.id.to_string()).collect();
        EndpointRow { record, counts, groups }
    }
}

/// Which states of an endpoint are counted, by the number of their update.
struct Counting(Vec<Counted>);

#[derive(Clone, Copy)]
enum Counted {
    /// In no catalogue, or superseded.
    Not,
    /// Nobody decided about it.
    Undecided,
    /// Somebody did, for some group.
    Decided,
}

impl Counting {
    fn of(model: &Model) -> Self {
        let mut updates = Vec::new();
        let mut decided = model.policy().decided().peekable();
        // Both come by id.
        for update in model.updates() {
            while decided.next_if(|id| **id < update.id).is_some() {}
            let counted = match decided.peek() {
                _ if !is_current(update) => continue,
                Some(id) if **id == update.id => Counted::Decided,
                _ => Counted::Undecided,
            };
            let place = update.number as usize;
            if place >= updates.len() {
                updates.resize(place + 1, Counted::Not);
            }
            updates[place] = counted;
        }
        Self(updates)
    }
}

/// Every update that is applicable to an endpoint: those that are lacking first, then by id.
///
/// # Errors
///
/// Those of the store.
pub fn patches(state: &State, record: &EndpointRecord) -> Result<Vec<EndpointPatch>, StoreError> {
    let states = state.states(record.number)?;
    let (model, publications) = (state.model(), state.publications());
    let known = Known::new(&model, &publications, state.now());
    let mut patches: Vec<_> =
        current(&model, &states).map(|(entry, update)| patch(&known, record, update, entry)).collect();
    patches.sort_by_key(|patch| {
        let lacking = matches!(patch.entry.state, UpdateState::Needed | UpdateState::Failed);
        (!lacking, patch.update.id.clone())
    });
    Ok(patches)
}

fn patch(
    known: &Known<'_>,
    endpoint: &EndpointRecord,
    update: &Arc<UpdateRecord>,
    entry: &Entry,
) -> EndpointPatch {
    let decision = decision(known.model, endpoint, update);
    let standing = standing(known, endpoint, update, entry);
    EndpointPatch { update: update.clone(), entry: entry.clone(), decision, standing }
}

fn decision(model: &Model, endpoint: &EndpointRecord, update: &UpdateRecord) -> Option<(Decision, u32)> {
    let approval = model.decision(endpoint, &update.id)?;
    Some((approval.decision, u32::try_from(approval.at.as_second()).unwrap_or(0)))
}

/// At most `limit` of the endpoints on which one update is in a state (`None`: in any but not applicable), after
/// this place, by name; where it stands comes without the steps.
///
/// # Errors
///
/// Those of the store.
pub fn with_patch(
    state: &State,
    update: &UpdateRecord,
    wanted: Option<UpdateState>,
    after: Option<&Place>,
    limit: usize,
) -> Result<PatchEndpointPage, StoreError> {
    let mut rows = Vec::new();
    let (chosen, next, update) = {
        let model = state.model();
        let Some(update) = model.update(update.number) else {
            return Ok(PatchEndpointPage { rows, next: None });
        };
        let mut who = RoaringBitmap::new();
        for state in wanted.map_or(UpdateState::ALL.to_vec(), |state| vec![state]) {
            if let Some(in_state) = model.index().who(update.number, state) {
                who |= in_state;
            }
        }
        who &= model.active();
        let (chosen, next) = by_name(&model, after, limit, |endpoint| who.contains(endpoint.number));
        (chosen, next, update.clone())
    };
    let entries = read_each(&chosen, |endpoint| state.state_of(endpoint.number, update.number))?;
    let (model, publications) = (state.model(), state.publications());
    let known = Known::new(&model, &publications, state.now());
    rows.reserve_exact(chosen.len());
    for (endpoint, entry) in chosen.into_iter().zip(entries) {
        let Some(entry) = entry else { continue };
        let standing = standing::in_short(&known, &endpoint, &update, &entry);
        let decision = decision(&model, &endpoint, &update);
        rows.push((endpoint, EndpointPatch { update: update.clone(), entry, decision, standing }));
    }
    Ok(PatchEndpointPage { rows, next })
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
    let (model, publications) = (state.model(), state.publications());
    let known = Known::new(&model, &publications, state.now());
    let Some(update) = model.update_by_id(update) else { return Ok(None) };
    let entry = state.state_of(endpoint.number, update.number)?;
    Ok(entry.map(|entry| patch(&known, endpoint, update, &entry)))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use ring::rand::SystemRandom;
    use tierway_common::trust::keys::SigningKey;

    use super::*;

    #[test]
    fn what_several_threads_read_comes_in_the_order_of_those_chosen() {
        let key = SigningKey::generate(&SystemRandom::new()).unwrap().public();
        for count in [0, 1, 249, 250, 251, 1_003] {
            let record = |number| {
                let (id, site) = (format!("id-{number}").parse().unwrap(), "lyon".parse().unwrap());
                Arc::new(EndpointRecord::enrolled(number, id, site, key, Timestamp::UNIX_EPOCH))
            };
            let chosen: Vec<_> = (0..count).rev().map(record).collect();
            let read = read_each(&chosen, |endpoint| Ok(endpoint.number)).unwrap();
            assert!(read.into_iter().eq((0..count).rev()), "{count}");
            for bad in [0, count / 2, count.saturating_sub(1)] {
                let failed = read_each(&chosen, |endpoint| {
                    if endpoint.number == bad { Err(StoreError::KeyTooLong { bytes: 0 }) } else { Ok(()) }
                });
                assert_eq!(failed.is_err(), count > 0, "{bad} of {count}");
            }
        }
    }
}
