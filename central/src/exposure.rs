//! Who is affected, before anyone scans: a new dictionary against the facts already reported.
//!
//! What central concludes is marked as its estimate, and gives way to what the endpoint itself finds once it
//! has evaluated the same dictionary.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use roaring::RoaringBitmap;
use tierway_common::{
    blobs::Blobs,
    facts::Facts,
    id::{CatalogueId, UpdateId},
    rules::{
        compile::{CompileError, Compiled, Compiler},
        evaluate::{Truth, Verdict, evaluate},
        expr::Expr,
    },
    schema::{CatalogueKind, State as UpdateState, Update},
    store::{StoreError, table},
    tree::{self, TreeError},
    trust::digest::Digest,
};
use tracing::{info, warn};

use crate::{
    compliance::record::{Entry, Progress, Record},
    model::Write,
    state::State,
    store::tables::{self, EndpointRecord, PublishedRecord},
};

/// Endpoints whose states are written in one change: about a megabyte.
const ENDPOINTS_AT_ONCE: usize = 200;

/// Why exposure is not known yet; the next run tries again.
#[derive(Debug, thiserror::Error)]
pub enum ExposureError {
    /// A catalogue.
    #[error("could not read the catalogue `{catalogue}`")]
    Tree {
        /// Which.
        catalogue: CatalogueId,
        /// Why.
        source: TreeError,
    },
    /// The store.
    #[error("could not keep the estimates")]
    Store(#[from] StoreError),
    /// Rules.
    #[error("could not prepare the rules")]
    Compile(#[from] CompileError),
}

/// What a run found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exposed {
    /// Updates that are new or changed.
    pub updates: usize,
    /// Endpoints that were looked at.
    pub endpoints: usize,
    /// Of them those for which something changed.
    pub affected: usize,
}

struct News {
    fits: Expr,
    compiled: Compiled,
    /// New or changed, with their numbers.
    updates: BTreeMap<UpdateId, u32>,
    /// Numbers of those.
    numbers: RoaringBitmap,
    gone: RoaringBitmap,
}

/// Evaluates what was published since the last run.
///
/// # Errors
///
/// [`ExposureError`].
pub fn run(state: &State, trees: &Blobs, published: &PublishedRecord) -> Result<Exposed, ExposureError> {
    let tenant = state.tenant();
    let row = tables::Exposed { tenant };
    let mut done = table::get(state.store(), &row)?.unwrap_or_default();
    let mut total = Exposed::default();
    for (catalogue, root) in &published.roots {
        let record = state.model().catalogues().get(catalogue).cloned();
        let Some(record) = record.filter(|record| record.kind == CatalogueKind::Updates) else { continue };
        if done.get(catalogue) == Some(root) {
            continue;
        }
        let news = news(state, trees, catalogue, done.get(catalogue), root, record.fits)?;
        total.updates += news.updates.len();
        estimate(state, &news, published.timestamp_version, &mut total)?;
        done.insert(catalogue.clone(), *root);
        let now_done = done.clone();
        state.change(|_, change| table::put(&mut change.batch, &row, &now_done))?;
    }
    if total.updates > 0 {
        let Exposed { updates, endpoints, affected } = total;
        info!(updates, endpoints, affected, "evaluated a new dictionary against reported facts");
    }
    Ok(total)
}

fn news(
    state: &State,
    trees: &Blobs,
    catalogue: &CatalogueId,
    old: Option<&Digest>,
    new: &Digest,
    fits: Expr,
) -> Result<News, ExposureError> {
    let mut documents: Vec<(String, Option<Vec<u8>>)> = Vec::new();
    let all = |documents: &mut Vec<(String, Option<Vec<u8>>)>| {
        tree::walk_prefix(new, "update/", trees, &mut |key, document| {
            documents.push((key.to_owned(), Some(document.to_vec())));
        })
    };
    let read = match old.map(|old| tree::diff(old, new, trees)) {
        Some(Ok(changes)) => {
            documents
                .extend(changes.into_iter().map(|change| (change.key, change.new.map(|new| new.to_vec()))));
            Ok(())
        }
        // The old tree may be evicted after a long halt: then everything counts as new.
        Some(Err(TreeError::Missing { .. })) | None => all(&mut documents),
        Some(Err(error)) => Err(error),
    };
    read.map_err(|source| ExposureError::Tree { catalogue: catalogue.clone(), source })?;
    let (mut compiler, mut updates, mut gone) = (Compiler::new(), BTreeSet::new(), BTreeSet::new());
    for (key, document) in documents {
        let Some(name) = key.strip_prefix("update/") else { continue };
        match document.map(|document| serde_json::from_slice::<Update>(&document)) {
            Some(Ok(update)) => {
                compiler.add(&update.id, &update.applicable, &update.installed)?;
                updates.insert(update.id);
            }
            Some(Err(error)) => warn!(%catalogue, key, %error, "a published document cannot be read"),
            None => gone.extend(format!("{catalogue}/{name}").parse::<UpdateId>().ok()),
        }
    }
    let model = state.model();
    let number = |id: &UpdateId| model.update_by_id(id).map(|update| update.number);
    let updates: BTreeMap<_, _> =
        updates.into_iter().filter_map(|id| number(&id).map(|number| (id, number))).collect();
    let numbers = updates.values().copied().collect();
    let gone = gone.iter().filter_map(number).collect();
    Ok(News { fits, compiled: compiler.finish(), updates, numbers, gone })
}

fn estimate(state: &State, news: &News, version: u64, total: &mut Exposed) -> Result<(), ExposureError> {
    let numbers: Vec<u32> = state.model().active().iter().collect();
    for chunk in numbers.chunks(ENDPOINTS_AT_ONCE) {
        // Evaluated before the writer is asked for, so that reports go on meanwhile.
        let mut concluded = BTreeMap::new();
        for number in chunk {
            let Some(record) = state.model().endpoint(*number).cloned() else { continue };
            if let Some(verdicts) = conclude(state, &record, news, version)? {
                concluded.insert(*number, (record.facts.as_ref().map(|facts| facts.digest), verdicts));
            }
        }
        total.endpoints += concluded.len();
        let (affected, _) = state.change(|model, change| {
            // Each endpoint is one of its own, and is looked at again when a crash left it out.
            change.in_parts = true;
            let mut affected = 0;
            for (number, (digest, verdicts)) in &concluded {
                let Some(record) = model.endpoint(*number) else { continue };
                let facts = record.facts.as_ref().map(|facts| facts.digest);
                // It has told more in between: it will have evaluated, or the next run looks again.
                if facts != *digest || record.dictionary_version >= version || record.revoked {
                    continue;
                }
                let old = Arc::new(state.states(*number)?);
                let seconds = u32::try_from(change.now.as_second()).unwrap_or(0);
                let (mut new, overruled) = merge(&old, verdicts, news, seconds);
                new.limit_details();
                if new != *old {
                    affected += 1;
                    let mut record = EndpointRecord::clone(record);
                    (record.estimated_for, record.assessed) = (version, true);
                    record.overruled |= overruled;
                    change.write(Write::Together(vec![
                        Write::States { endpoint: *number, old, new: Arc::new(new) },
                        Write::Endpoint(Arc::new(record)),
                    ]));
                }
            }
            Ok::<_, ExposureError>(affected)
        })?;
        total.affected += affected;
    }
    Ok(())
}

/// By number of the update; what is not applicable, as most is, is not in it.
type Verdicts = BTreeMap<u32, Verdict>;

/// What the news say of one endpoint; `None` when they say nothing, or it has evaluated them itself.
fn conclude(
    state: &State,
    record: &EndpointRecord,
    news: &News,
    version: u64,
) -> Result<Option<Verdicts>, StoreError> {
    if record.dictionary_version >= version {
        return Ok(None);
    }
    let Some(facts): Option<Facts> = state.facts(record.number)? else { return Ok(None) };
    if evaluate(&news.fits, &facts) == Truth::False {
        return Ok(None);
    }
    let scan = news.compiled.scan(&facts);
    let verdicts = news.compiled.verdicts(&scan, &facts);
    let says = verdicts.filter(|(_, verdict)| *verdict != Verdict::NotApplicable);
    Ok(Some(says.filter_map(|(id, verdict)| Some((*news.updates.get(&id)?, verdict))).collect()))
}

/// What is known of an endpoint with these verdicts; and whether something is left out or estimated that it had
/// reported itself, of an update that is still there.
fn merge(old: &Record, verdicts: &Verdicts, news: &News, now_seconds: u32) -> (Record, bool) {
    let (mut new, mut overruled) = (old.clone(), false);
    new.retain(|entry| {
        // It does not apply any more where the news say nothing of it.
        let known = verdicts.contains_key(&entry.update) || !news.numbers.contains(entry.update);
        overruled |= !known && !entry.estimated;
        known && !news.gone.contains(entry.update)
    });
    for (&update, verdict) in verdicts {
        let before = old.get(update);
        let known = before.map_or(UpdateState::NotApplicable, |entry| entry.state);
        let (state, detail) = match verdict {
            Verdict::NotApplicable => (UpdateState::NotApplicable, None),
            Verdict::Needed => (UpdateState::Needed, None),
            Verdict::Installed => (UpdateState::Installed, None),
            Verdict::Unknown { reason } => (UpdateState::Unknown, Some(reason.as_str())),
        };
        // What the endpoint knows better: that it tried, that a reboot is due, and what central cannot decide, for
        // want of a fact that nobody asked for when it reported.
        let agrees = matches!(
            (known, state),
            (UpdateState::Failed, UpdateState::Needed)
                // What it replaces may be replaced at the restart only.
                | (UpdateState::RebootPending, UpdateState::Installed | UpdateState::Needed)
        );
        let knows_better = state == UpdateState::Unknown && before.is_some_and(|entry| !entry.estimated);
        if known == state || agrees || knows_better {
            continue;
        }
        // Needed again after it was there: what was settled then is over, and the need is a new one.
        let again = state == UpdateState::Needed
            && matches!(known, UpdateState::Installed | UpdateState::RebootPending);
        let detected = before.filter(|_| !again).and_then(|entry| entry.detected);
        let settled = before.filter(|_| state != UpdateState::Needed);
        let detail =
            detail.map(|detail| crate::text::clean(detail, tierway_common::schema::DETAIL_BYTES_MAX));
        let entry = Entry {
            update,
            state,
            estimated: true,
            since: now_seconds,
            detected: detected.or((state == UpdateState::Needed).then_some(now_seconds)),
            authorized: settled.and_then(|entry| entry.authorized),
            applied: settled.and_then(|entry| entry.applied),
            detail: detail.map(Into::into),
            progress: settled.map_or_else(Progress::default, |entry| entry.progress.settled()),
        };
        if new.set(entry).is_err() {
            warn!(update, "too many states, left one out");
        }
        overruled |= before.is_some_and(|entry| !entry.estimated);
    }
    (new, overruled)
}

#[cfg(test)]
mod tests;
