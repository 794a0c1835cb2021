//! Plans: what would come of an approval, kept under a name so that exactly this can be applied (U13).
//!
//! A plan's id is the digest of what it rests on: which updates for which group, their documents, who lacks them,
//! what was decided before, and the policy documents that say when they are installed. Applied is only a plan that
//! still rests on the same; otherwise it says what changed. What merely moves on, such as the time or the backlog, is
//! worked out anew and is no reason to refuse.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};
use tierway_common::{
    blobs::Blobs,
    facts::Facts,
    id::{GroupId, RingPlanId, SiteId, UpdateId, WindowId},
    rings,
    schema::{
        Decision, State as UpdateState, Update,
        policy::{RingPlan, Window},
    },
    service::Settings,
    store::{StoreError, table},
    trust::digest::Digest,
};

use crate::{
    compliance::index::Mark,
    decide::{self, About, Conditions, DecideError, Verb},
    fleet::{self, AskError, patches},
    forecast::{Forecast, Ground, Machine, Work, durations, forecast},
    model::Model,
    policy::{
        Policy,
        documents::{Document, Kind},
    },
    state::State,
    store::{
        chunked,
        tables::{self, EndpointRecord, UpdateRecord},
    },
};

/// Updates of one plan.
pub const PATCHES_MAX: usize = 200;
/// Plans that are kept; the oldest goes.
pub const PLANS_MAX: usize = 200;
/// How long a plan can be applied.
pub const KEPT: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Computers whose facts are read to know which packages of an update they need; the others are taken to need what
/// those of their site do.
pub const FACTS_READ_MAX: usize = 20_000;
/// Bytes of a plan's id, as hex.
const ID_LETTERS: usize = 16;
/// Changes that are told of a plan that drifted.
const CHANGES_TOLD: usize = 20;

/// What is to be approved for whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Ascending.
    pub updates: BTreeSet<UpdateId>,
    /// For whom.
    pub group: GroupId,
    /// Ring after ring by this plan.
    #[serde(default)]
    pub rings: Option<RingPlanId>,
}

/// A plan as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRecord {
    /// Digest of the rest but the time.
    pub id: String,
    /// When it was made.
    pub at: Timestamp,
    /// What it is about.
    pub wanted: Wanted,
    /// What it rests on, by name: a digest, or a few words.
    pub inputs: BTreeMap<String, String>,
}

/// When a plan was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// That is.
    pub at: Timestamp,
}

/// Why nothing is planned or applied.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Something is not there, or could not be read.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// It could not be decided.
    #[error(transparent)]
    Decide(#[from] DecideError),
}

impl From<StoreError> for PlanError {
    fn from(error: StoreError) -> Self {
        Self::Ask(error.into())
    }
}

/// What became of a plan that was to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Approved: the updates for which something changed, and the sequence of the audit record.
    Done(Vec<UpdateId>, u64),
    /// It does not rest on the same any more, one sentence for each change; nothing was approved.
    Drifted(Vec<String>),
}

/// Everything that a plan is made from, read once.
struct Reading {
    wanted: Wanted,
    documents: BTreeMap<UpdateId, Update>,
    /// Of these updates those that have not proven themselves.
    untrusted: BTreeSet<UpdateId>,
    windows: BTreeMap<WindowId, Window>,
    rings: Option<RingPlan>,
    inputs: BTreeMap<String, String>,
    /// Computers that would install something.
    endpoints: Vec<std::sync::Arc<EndpointRecord>>,
    /// Decisions as they would be.
    policy: Policy,
}

/// Makes a plan for the updates of these names and a group, and keeps it.
///
/// # Errors
///
/// [`PlanError`].
pub fn approval(
    state: &State,
    trees: &Blobs,
    names: &[String],
    group: &GroupId,
    rings: Option<&RingPlanId>,
) -> Result<(PlanRecord, Forecast), PlanError> {
    if names.is_empty() || names.len() > PATCHES_MAX {
        let found = names.len().to_string();
        return Err(AskError::Invalid { what: "patches", rule: "1 to 200", found }.into());
    }
    let updates = decide::named(state, names)?;
    let wanted = Wanted { updates, group: group.clone(), rings: rings.cloned() };
    let reading = read(state, trees, wanted)?;
    let found = forecast(&ground(state, &reading), &machines(state, &reading)?);
    let record = PlanRecord {
        id: id(&reading.wanted, &reading.inputs),
        at: state.now(),
        wanted: reading.wanted,
        inputs: reading.inputs,
    };
    keep(state, &record)?;
    Ok((record, found))
}

/// Approves what a plan says if it still rests on the same, which is looked at and decided in one step: nothing
/// changes between.
///
/// # Errors
///
/// [`AskError::NotFound`] for a plan that was never made or is too old; the others of [`PlanError`].
pub fn apply(state: &State, id: &str, actor: &str) -> Result<Applied, PlanError> {
    let kept = kept(state, id)?;
    let kept = kept.filter(|plan| state.now().duration_since(plan.at) <= KEPT);
    let plan = kept.ok_or_else(|| AskError::NotFound { what: "plan", name: id.to_owned() })?;
    apply_kept(state, &plan, actor)
}

fn apply_kept(state: &State, plan: &PlanRecord, actor: &str) -> Result<Applied, PlanError> {
    let Wanted { updates, group, rings } = &plan.wanted;
    let conditions = Conditions { rings: rings.clone(), passed_on: None };
    let (decided, sequence) = state.change(|model, change| {
        let changes = drift(&plan.inputs, &inputs(model, &plan.wanted)?);
        if !changes.is_empty() {
            return Ok::<_, PlanError>(Err(changes));
        }
        let about = About::Ids(updates);
        Ok(Ok(decide::patches_within(model, change, about, group, Verb::Approve, &conditions, actor)?))
    })?;
    Ok(match decided {
        Ok(changed) => Applied::Done(changed, sequence),
        Err(changes) => Applied::Drifted(changes),
    })
}

fn id(wanted: &Wanted, inputs: &BTreeMap<String, String>) -> String {
    let json = serde_json::to_vec(&(wanted, inputs)).unwrap_or_default();
    Digest::of(&json).to_string().chars().take(ID_LETTERS).collect()
}

/// What changed from one set of inputs to the other, a sentence each.
fn drift(before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Vec<String> {
    let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let changed = names.into_iter().filter_map(|name| match (before.get(name), now.get(name)) {
        (Some(before), Some(now)) if before == now => None,
        (Some(before), Some(now)) => Some(format!("{name}: {now}, planned with {before}")),
        (Some(_), None) => Some(format!("{name}: gone since it was planned")),
        (None, _) => Some(format!("{name}: new since it was planned")),
    });
    changed.take(CHANGES_TOLD).collect()
}

fn kept(state: &State, id: &str) -> Result<Option<PlanRecord>, StoreError> {
    let row = tables::PlanBody { tenant: state.tenant(), id, chunk: 0 };
    let malformed = |source: serde_json::Error| StoreError::Malformed {
        key: table::full_key(&row),
        source: source.into(),
    };
    let json = chunked::get(state.store(), &row)?;
    json.map(|json| serde_json::from_slice(&json).map_err(malformed)).transpose()
}

fn keep(state: &State, record: &PlanRecord) -> Result<(), StoreError> {
    let tenant = state.tenant();
    let parts = table::Key::new().text(tenant.as_str()).done();
    let mut kept = Vec::new();
    table::for_each::<tables::Plan<'_>, StoreError>(state.store(), &parts, |key, made| {
        let mut key = table::Parts::of(key);
        kept.extend(key.text().and_then(|_| key.text()).map(|id| (made.at, id)));
        Ok(())
    })?;
    let row = tables::PlanBody { tenant, id: &record.id, chunk: 0 };
    let malformed = |source: serde_json::Error| StoreError::Malformed {
        key: table::full_key(&row),
        source: source.into(),
    };
    let json = serde_json::to_vec(record).map_err(malformed)?;
    kept.retain(|(_, id)| *id != record.id);
    kept.sort();
    let beyond = (kept.len() + 1).saturating_sub(PLANS_MAX);
    state.change(|_, change| {
        let old = |at: &Timestamp| change.now.duration_since(*at) > KEPT;
        let gone: Vec<_> =
            kept.iter().enumerate().filter(|(place, (at, _))| *place < beyond || old(at)).collect();
        for (_, (_, id)) in gone {
            table::delete(&mut change.batch, &tables::Plan { tenant, id });
            chunked::delete(&mut change.batch, &tables::PlanBody { tenant, id, chunk: 0 });
        }
        table::put(&mut change.batch, &tables::Plan { tenant, id: &record.id }, &Made { at: record.at })?;
        chunked::put(&mut change.batch, &row, &json)
    })?;
    Ok(())
}

/// What a plan rests on.
fn inputs(model: &Model, wanted: &Wanted) -> Result<BTreeMap<String, String>, AskError> {
    let not_found = |what, name: &dyn ToString| AskError::NotFound { what, name: name.to_string() };
    let Wanted { updates, group, rings } = wanted;
    let members = model.members().get(group).ok_or_else(|| not_found("group", group))?;
    let documents = model.policy().documents();
    let (mut inputs, mut who) = (BTreeMap::new(), RoaringBitmap::new());
    for id in updates {
        let record = model.update_by_id(id).ok_or_else(|| not_found("patch", id))?;
        let lacking = model.index().lacking(record.number) & members;
        inputs.insert(format!("patch {id}"), short(&record.document));
        let mut bytes = Vec::new();
        // Into memory, which does not fail.
        let _ = lacking.serialize_into(&mut bytes);
        let told = format!("{} endpoints lack it ({})", lacking.len(), short(&Digest::of(&bytes)));
        inputs.insert(format!("members that lack {id}"), told);
        for decided in model.policy().approvals_of(id) {
            let theirs = model.members().get(&decided.group);
            // What others decide for computers that are not among these changes nothing here.
            if decided.group != *group && theirs.is_none_or(|theirs| theirs.is_disjoint(&lacking)) {
                continue;
            }
            let name = format!("decision about {id} for group {}", decided.group);
            let word = if decided.decision == Decision::Approve { "approved" } else { "declined" };
            inputs.insert(name, format!("{word} at {}", decided.at));
        }
        if is_untrusted(model, id) {
            inputs.insert(format!("trust in {id}"), "not trusted".to_owned());
        }
        who |= lacking;
    }
    for document in documents.of(Kind::Level) {
        inputs.insert(format!("service level {}", document.name()), short_json(document));
    }
    for document in documents.of(Kind::Window) {
        inputs.insert(format!("window {}", document.name()), short_json(document));
    }
    for document in documents.of(Kind::Trust) {
        inputs.insert("trust policy".to_owned(), short_json(document));
    }
    // By which level somebody is served, and whose decision counts, his other groups say too.
    for (id, other) in model.policy().groups().iter().filter(|(id, _)| *id != group) {
        if model.members().get(id).is_some_and(|members| !members.is_disjoint(&who)) {
            let level = other.level.as_ref().map_or("no level".to_owned(), |level| format!("level {level}"));
            inputs.insert(format!("group {id}"), format!("priority {}, {level}", other.priority));
        }
    }
    if let Some(id) = rings {
        let rings = documents.ring_plan(id).ok_or_else(|| not_found("ring plan", id))?;
        inputs.insert(format!("ring plan {id}"), short_json(rings));
    }
    inputs.insert(format!("group {group}"), short_json(&model.policy().groups().get(group)));
    Ok(inputs)
}

/// Whether an update has not proven itself where it must.
fn is_untrusted(model: &Model, update: &UpdateId) -> bool {
    let policy = model.policy();
    policy.documents().trust().is_some() && !policy.trusted().contains_key(update)
}

fn read(state: &State, trees: &Blobs, wanted: Wanted) -> Result<Reading, PlanError> {
    let (reading, records) = {
        let model = state.model();
        let inputs = inputs(&model, &wanted)?;
        let records: Vec<_> =
            wanted.updates.iter().filter_map(|id| model.update_by_id(id).cloned()).collect();
        let members = model.members().get(&wanted.group).cloned().unwrap_or_default();
        let lacking = records.iter().map(|record| model.index().lacking(record.number) & &members);
        let who = lacking.fold(RoaringBitmap::new(), |who, lacking| who | lacking);
        let documents = model.policy().documents();
        let windows = documents.of(Kind::Window).filter_map(|document| match document {
            Document::Window(window) => Some((window.id.clone(), window.clone())),
            _ => None,
        });
        let mut policy = model.policy().clone();
        for update in &wanted.updates {
            policy.set_approval(tierway_common::schema::Approval {
                group: wanted.group.clone(),
                update: update.clone(),
                decision: Decision::Approve,
                at: state.now(),
                renewed: None,
                by: "plan".to_owned(),
                rings: None,
            });
        }
        let reading = Reading {
            documents: BTreeMap::new(),
            untrusted: wanted.updates.iter().filter(|id| is_untrusted(&model, id)).cloned().collect(),
            windows: windows.collect(),
            rings: wanted.rings.as_ref().and_then(|id| documents.ring_plan(id).cloned()),
            inputs,
            endpoints: who.iter().filter_map(|number| model.endpoint(number).cloned()).collect(),
            policy,
            wanted,
        };
        (reading, records)
    };
    let mut documents = BTreeMap::new();
    for record in &records {
        documents.insert(record.id.clone(), patches::document(state, trees, record)?.0);
    }
    Ok(Reading { documents, ..reading })
}

fn short(digest: &Digest) -> String {
    digest.to_string().chars().take(12).collect()
}

fn short_json(document: &impl Serialize) -> String {
    short(&Digest::of(&serde_json::to_vec(document).unwrap_or_default()))
}

fn ground(state: &State, reading: &Reading) -> Ground {
    let model = state.model();
    let mut held: BTreeMap<SiteId, BTreeSet<Digest>> = BTreeMap::new();
    for id in &reading.wanted.updates {
        let Some(update) = model.update_by_id(id) else { continue };
        // What one endpoint of a site has fetched came through its relay.
        for (site, members) in model.sites() {
            let fetched = [Mark::Downloaded, Mark::Verified].into_iter().any(|mark| {
                model.index().marked(update.number, mark).is_some_and(|who| !who.is_disjoint(members))
            });
            if fetched {
                let payloads = model.payloads(update.number).iter().map(|(digest, _)| *digest);
                held.entry(site.clone()).or_default().extend(payloads);
            }
        }
    }
    Ground { now: state.now(), windows: reading.windows.clone(), rings: reading.rings.clone(), held }
}

fn machines(state: &State, reading: &Reading) -> Result<Vec<Machine>, StoreError> {
    let mut machines = Vec::with_capacity(reading.endpoints.len());
    let mut of_site: BTreeMap<SiteId, BTreeSet<Digest>> = BTreeMap::new();
    for (place, endpoint) in reading.endpoints.iter().enumerate() {
        let states = state.states(endpoint.number)?;
        let facts = if place < FACTS_READ_MAX { state.facts(endpoint.number)? } else { None };
        let model = state.model();
        let groups = model.groups_of(endpoint);
        let settings = model.policy().settings(&groups);
        let member = |id: &GroupId| groups.iter().any(|group| group.id == *id);
        let ring = reading.rings.as_ref().and_then(|plan| rings::ring_of(plan, &endpoint.id, member));
        let ring = ring.unwrap_or(0);
        let mut work = Vec::new();
        for entry in states.entries() {
            let lacking = matches!(entry.state, UpdateState::Needed | UpdateState::Failed);
            let Some(update) =
                model.update(entry.update).filter(|update| lacking && fleet::is_current(update))
            else {
                continue;
            };
            let decided = reading.policy.decision(&groups, &update.id);
            if decided.is_none_or(|decided| decided.decision != Decision::Approve) {
                continue;
            }
            let document = reading.documents.get(&update.id);
            let trusted = !reading.untrusted.contains(&update.id);
            if document.is_some_and(|document| !taken(&settings, document, trusted)) {
                continue;
            }
            work.push(one(&model, endpoint, update, document, facts.as_ref(), &mut of_site));
        }
        // What was approved before goes first; the endpoint's own order within that is not known here. What is planned
        // goes in the order in which endpoints install.
        work.sort_by_key(|work| {
            let urgent =
                reading.documents.get(&work.update).map(|update| (Reverse(update.severity), update.released));
            (!work.backlog, urgent, work.update.clone())
        });
        if work.iter().any(|work| !work.backlog) {
            machines.push(Machine {
                id: endpoint.id.clone(),
                site: endpoint.site.clone(),
                zone: zone(endpoint),
                settings,
                ring,
                work,
            });
        }
    }
    Ok(machines)
}

/// The zone in which a computer says it is; UTC for one that did not say.
fn zone(endpoint: &EndpointRecord) -> TimeZone {
    let named = endpoint.facts.as_ref().and_then(|facts| facts.zone.as_deref());
    named.and_then(|name| TimeZone::get(name).ok()).unwrap_or(TimeZone::UTC)
}

/// Whether the service level lets an update through.
fn taken(settings: &Settings, document: &Update, trusted: bool) -> bool {
    (trusted || settings.untrusted)
        && document.severity >= settings.severity_at_least
        && (settings.classes.is_empty() || settings.classes.contains(&document.class))
}

fn one(
    model: &Model,
    endpoint: &EndpointRecord,
    update: &UpdateRecord,
    document: Option<&Update>,
    facts: Option<&Facts>,
    of_site: &mut BTreeMap<SiteId, BTreeSet<Digest>>,
) -> Work {
    let timing = model.timing(update.number).map(|record| record.measured());
    let (expected, limit) = durations(timing.as_ref(), &endpoint.machine_class);
    let packages = document.map(|document| document.install.deb_packages()).unwrap_or_default();
    let there = |name: &str, architecture: &str| {
        facts.is_some_and(|facts| {
            facts.values.contains_key(&format!("package:deb:{name}:{architecture}"))
                || (architecture == "all" && facts.values.contains_key(&format!("package:deb:{name}:all")))
        })
    };
    let installed: Vec<_> =
        packages.iter().filter(|package| there(&package.name, &package.architecture)).collect();
    let site = of_site.entry(endpoint.site.clone()).or_default();
    let payloads = match (packages.is_empty(), facts) {
        (true, _) => document.map(|document| document.install.payloads()).unwrap_or_default(),
        (false, Some(_)) => {
            installed.iter().map(|package| (package.name.clone(), package.payload.clone())).collect()
        }
        (false, None) => packages
            .iter()
            .filter(|package| site.contains(&package.payload.digest))
            .map(|package| (package.name.clone(), package.payload.clone()))
            .collect(),
    };
    let payloads: Vec<_> = payloads.into_iter().map(|(_, payload)| (payload.digest, payload.bytes)).collect();
    site.extend(payloads.iter().map(|(digest, _)| *digest));
    let pending = model.index().how_many(update.number, UpdateState::RebootPending, model.active());
    Work {
        update: update.id.clone(),
        expected,
        limit,
        // A kernel always does; of anything else it is known once it did somewhere.
        reboots: pending > 0 || installed.iter().any(|package| package.name.starts_with("linux-image-")),
        payloads,
        backlog: document.is_none(),
    }
}

#[cfg(test)]
mod tests;
