//! Payloads at central: ahead of time, and when somebody asks for one.
//!
//! Where a payload lies is said by the catalogues. Each is fetched once, however many ask for it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use roaring::RoaringBitmap;
use tierway_common::{
    blobs::{BlobError, Blobs, Reader},
    daemon::{chain::Chain, disk, stop::Stop},
    id::CatalogueId,
    schema::{CatalogueKind, DebPackage, Decision, Payload, PoolEntry, State as UpdateState, Update},
    store::StoreError,
    tree::{self, TreeError},
    trust::digest::Digest,
};
use tokio::sync::{Semaphore, watch};
use tracing::{info, warn};

use crate::{
    fleet::is_current,
    model::Model,
    sources::{
        fetch::Fetch,
        local,
        payloads::{Options, PayloadError, Wanted, Which, download, select},
    },
    state::State,
};

/// How long somebody who asked for a payload waits here for it; it goes on being fetched afterwards. Callers
/// give a stream up that brings nothing for 30 seconds.
const DEMAND_WAIT: Duration = Duration::from_secs(20);
/// Payloads that are being fetched, or wait for it, because somebody asked.
const DEMANDS_MAX: usize = 4_096;
/// Endpoints whose installed packages decide what of an update is fetched ahead: more say little that is new,
/// and what they alone need comes when they ask for it.
const ENDPOINTS_ASKED_MAX: usize = 5_000;
/// Owner of the pins of payloads that are wanted.
const PIN_OWNER: &str = "wanted";

/// Why payloads are not here.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// Some could not be had.
    #[error("{failed} payloads could not be had, the first because")]
    Some {
        /// How many.
        failed: usize,
        /// The first reason.
        source: Box<PayloadError>,
    },
    /// A catalogue could not be read.
    #[error("could not read a catalogue")]
    Tree(#[from] TreeError),
    /// The store failed.
    #[error("could not read the store")]
    Store(#[from] StoreError),
    /// What should be pinned could not be.
    #[error("could not pin the wanted payloads")]
    Pin(#[source] BlobError),
    /// The program ends.
    #[error("the download was interrupted")]
    Interrupted,
}

/// How far something long is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub step: String,
    /// So much of…
    pub done: u64,
    /// …so much.
    pub total: u64,
    /// Of what: `bytes`, `documents`.
    pub unit: &'static str,
}

/// Fetches payloads; a clone is another handle to the same.
#[derive(Debug)]
pub struct Payloads<F>(Arc<Inner<F>>);

impl<F> Clone for Payloads<F> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

#[derive(Debug)]
struct Inner<F> {
    state: Arc<State>,
    trees: Blobs,
    payloads: Blobs,
    fetches: BTreeMap<CatalogueId, F>,
    options: Options,
    on_demand: bool,
    slots: Semaphore,
    flights: Mutex<HashMap<Digest, watch::Receiver<bool>>>,
    places: Mutex<Places>,
    stop: Stop,
}

/// In which document a payload is named, for the trees as they were when this was made.
#[derive(Debug, Default)]
struct Places {
    roots: BTreeMap<CatalogueId, Digest>,
    documents: HashMap<Digest, (CatalogueId, Box<str>)>,
}

/// A payload, and the catalogue whose source has it.
struct Located {
    catalogue: CatalogueId,
    wanted: Wanted,
}

impl<F: Fetch + Clone + 'static> Payloads<F> {
    /// `fetches` by the catalogue of updates whose source it reaches; with `on_demand` also what nobody
    /// fetched ahead is had when somebody asks for it.
    pub fn new(
        state: Arc<State>,
        trees: Blobs,
        payloads: Blobs,
        fetches: BTreeMap<CatalogueId, F>,
        options: Options,
        on_demand: bool,
        stop: Stop,
    ) -> Self {
        Self(Arc::new(Inner {
            state,
            trees,
            payloads,
            fetches,
            options,
            on_demand,
            slots: Semaphore::new(options.concurrency.max(1)),
            flights: Mutex::default(),
            places: Mutex::default(),
            stop,
        }))
    }

    /// The blobs of payloads.
    #[must_use]
    pub fn blobs(&self) -> &Blobs {
        &self.0.payloads
    }

    /// A payload or tree node that is here; blocks for the disk.
    #[must_use]
    pub fn open(&self, digest: &Digest) -> Option<Reader> {
        self.0.trees.find(digest).or_else(|| self.0.payloads.find(digest))
    }

    /// Fetches a payload unless it is here, if some catalogue names it and that is allowed; whether it is here then.
    pub async fn fetch(&self, digest: Digest) -> bool {
        if self.0.payloads.contains(&digest) {
            return true;
        }
        let Some(flight) = self.locate(digest).await.and_then(|located| self.fly(located)) else {
            return false;
        };
        // Whether it came in time or not: what counts is whether it is here.
        let _ = tokio::time::timeout(DEMAND_WAIT, landed(flight)).await;
        self.0.payloads.contains(&digest)
    }

    /// Begins to fetch payloads that somebody will ask for soon, those that some catalogue names.
    pub async fn stage(&self, digests: &[Digest]) {
        for digest in digests.iter().filter(|digest| !self.0.payloads.contains(digest)) {
            if let Some(located) = self.locate(*digest).await {
                drop(self.fly(located));
            }
        }
    }

    async fn locate(&self, digest: Digest) -> Option<Located> {
        if !self.0.on_demand {
            return None;
        }
        let inner = self.0.clone();
        match disk::blocking(move || inner.locate(digest)).await.ok()? {
            Ok(located) => located,
            Err(error) => {
                warn!(%digest, error = %Chain(&error), "could not look up a payload");
                None
            }
        }
    }

    /// Joins the flight of a payload or begins it; `None` when too many are in the air.
    fn fly(&self, located: Located) -> Option<watch::Receiver<bool>> {
        let digest = located.wanted.payload.digest;
        let (sender, receiver) = watch::channel(false);
        {
            let mut flights = self.0.flights.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(flight) = flights.get(&digest) {
                return Some(flight.clone());
            }
            if flights.len() >= DEMANDS_MAX {
                return None;
            }
            flights.insert(digest, receiver.clone());
        }
        let this = self.clone();
        tokio::spawn(async move {
            let Inner { slots, fetches, payloads, options, stop, flights, .. } = &*this.0;
            // Never closed, so never an error.
            let _slot = slots.acquire().await;
            match fetches.get(&located.catalogue) {
                Some(fetch) => {
                    let done =
                        download(fetch, payloads, vec![located.wanted], *options, stop, &quietly).await;
                    for error in done.failed {
                        warn!(error = %Chain(&error), "could not fetch a payload that was asked for");
                    }
                }
                None => warn!(catalogue = %located.catalogue, "no source is configured for a catalogue"),
            }
            flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&digest);
            sender.send_replace(true);
        });
        Some(receiver)
    }

    /// Fetches everything that is wanted and not here, and pins what is wanted. Returns how many came; ends
    /// early, without failure, when the program stops.
    ///
    /// # Errors
    ///
    /// [`DownloadError::Some`] when some could not be had, and those of store and trees.
    pub async fn run(
        &self,
        which: Which,
        progress: &watch::Sender<Progress>,
    ) -> Result<usize, DownloadError> {
        let inner = self.0.clone();
        let wanted = blocking(move || inner.wanted(which)).await??;
        let digests = wanted.values().flatten().map(|wanted| wanted.payload.digest).collect();
        let inner = self.0.clone();
        blocking(move || inner.payloads.pin(PIN_OWNER, &digests)).await?.map_err(DownloadError::Pin)?;
        let (mut fetched, mut failed) = (0, Vec::new());
        for (catalogue, mut wanted) in wanted {
            if catalogue.as_str() == local::NAME {
                // Nobody else has them: those that are gone an operator must send again.
                wanted.retain(|wanted| !self.0.payloads.contains(&wanted.payload.digest));
                for Wanted { package, payload } in wanted {
                    failed.push(PayloadError::Absent { package, url: payload.url });
                }
                continue;
            }
            let Some(fetch) = self.0.fetches.get(&catalogue) else {
                warn!(%catalogue, "no source is configured for a catalogue");
                continue;
            };
            let step = format!("download {catalogue}");
            let tell = |now: crate::sources::payloads::Progress| {
                progress.send_replace(Progress {
                    step: step.clone(),
                    done: now.bytes,
                    total: now.bytes_total,
                    unit: "bytes",
                });
            };
            let Inner { payloads, options, stop, .. } = &*self.0;
            let done = download(fetch, payloads, wanted, *options, stop, &tell).await;
            info!(
                %catalogue,
                fetched = done.fetched.len(),
                present = done.present,
                left = done.left,
                failed = done.failed.len(),
                "downloaded what is wanted"
            );
            fetched += done.fetched.len();
            failed.extend(done.failed);
        }
        let count = failed.len();
        match failed.into_iter().next() {
            None => Ok(fetched),
            Some(first) => Err(DownloadError::Some { failed: count, source: Box::new(first) }),
        }
    }

    /// Bytes of wanted payloads that are here, and of all of the updates concerned.
    ///
    /// # Errors
    ///
    /// [`DownloadError::Interrupted`].
    pub async fn usage(&self, which: Which) -> Result<(u64, u64), DownloadError> {
        let inner = self.0.clone();
        blocking(move || {
            let model = inner.state.model();
            let mut all = BTreeMap::new();
            for number in wanted_updates(&model, which) {
                all.extend(model.payloads(number).iter().copied());
            }
            let here = all.iter().filter(|(digest, _)| inner.payloads.contains(digest));
            (here.map(|(_, bytes)| bytes).sum(), all.values().sum())
        })
        .await
    }
}

impl<F> Inner<F> {
    fn wanted(&self, which: Which) -> Result<BTreeMap<CatalogueId, Vec<Wanted>>, DownloadError> {
        let (catalogues, wanted, lacking) = {
            let model = self.state.model();
            let updates =
                |record: &&crate::store::tables::CatalogueRecord| record.kind == CatalogueKind::Updates;
            let catalogues: Vec<_> = model
                .catalogues()
                .iter()
                .filter(|(_, record)| updates(record))
                .map(|(id, record)| (id.clone(), record.root))
                .collect();
            let mut lacking = RoaringBitmap::new();
            let mut wanted = BTreeSet::new();
            for number in wanted_updates(&model, which) {
                lacking |= model.index().lacking(number);
                wanted.extend(model.update(number).map(|update| update.id.clone()));
            }
            lacking &= model.active();
            (catalogues, wanted, lacking)
        };
        let installed = match which {
            Which::Needed => self.installed(&lacking)?,
            Which::Approved | Which::All => BTreeSet::new(),
        };
        let needed = |update: &_, package: &DebPackage| {
            wanted.contains(update)
                && installed.contains(&format!("package:deb:{}:{}", package.name, package.architecture))
        };
        let mut by_catalogue = BTreeMap::new();
        for (catalogue, root) in catalogues {
            let mut updates: Vec<Update> = Vec::new();
            tree::walk_prefix(&root, "update/", &self.trees, &mut |_, document| {
                updates.extend(serde_json::from_slice::<Update>(document).ok());
            })?;
            by_catalogue.insert(catalogue, select(which, &updates, &needed, &|id| wanted.contains(id)));
        }
        Ok(by_catalogue)
    }

    /// Keys of the Debian packages that are installed on some of these endpoints.
    fn installed(&self, endpoints: &RoaringBitmap) -> Result<BTreeSet<String>, StoreError> {
        let mut installed = BTreeSet::new();
        for endpoint in endpoints.iter().take(ENDPOINTS_ASKED_MAX) {
            let Some(facts) = self.state.facts(endpoint)? else { continue };
            let packages = facts.values.into_keys().filter(|key| key.starts_with("package:deb:"));
            installed.extend(packages);
        }
        Ok(installed)
    }

    fn locate(&self, digest: Digest) -> Result<Option<Located>, TreeError> {
        // Root of each catalogue, and the catalogue of updates whose source has its payloads.
        let catalogues: BTreeMap<CatalogueId, (Digest, CatalogueId)> = self
            .state
            .model()
            .catalogues()
            .iter()
            .filter_map(|(id, record)| match &record.kind {
                CatalogueKind::Updates => Some((id.clone(), (record.root, id.clone()))),
                CatalogueKind::Pool(of) => Some((id.clone(), (record.root, of.clone()))),
                CatalogueKind::Policy => None,
            })
            .collect();
        let place = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            let roots: BTreeMap<_, _> =
                catalogues.iter().map(|(id, (root, _))| (id.clone(), *root)).collect();
            if places.roots != roots {
                let mut documents = HashMap::new();
                for (id, root) in &roots {
                    tree::walk_prefix(root, "", &self.trees, &mut |key, document| {
                        for (_, payload) in payloads(document) {
                            documents.insert(payload.digest, (id.clone(), key.into()));
                        }
                    })?;
                }
                *places = Places { roots, documents };
            }
            places.documents.get(&digest).cloned()
        };
        let Some((id, key)) = place else { return Ok(None) };
        let Some((root, catalogue)) = catalogues.get(&id) else { return Ok(None) };
        let Some(document) = tree::get(root, &key, &self.trees)? else { return Ok(None) };
        let found = payloads(&document).into_iter().find(|(_, payload)| payload.digest == digest);
        Ok(found.map(|(package, payload)| Located {
            catalogue: catalogue.clone(),
            wanted: Wanted { package, payload },
        }))
    }
}

/// The payloads that a document of a catalogue names, none for one that cannot be read.
fn payloads(document: &[u8]) -> Vec<(String, Payload)> {
    if let Ok(update) = serde_json::from_slice::<Update>(document) {
        return update.install.payloads();
    }
    match serde_json::from_slice(document) {
        Ok(PoolEntry::Package { package, .. }) => {
            let Wanted { package, payload } = Wanted::of(&package);
            vec![(package, payload)]
        }
        _ => Vec::new(),
    }
}

/// Numbers of the updates of which payloads are wanted.
fn wanted_updates(model: &Model, which: Which) -> impl Iterator<Item = u32> {
    let automatic = model.automatic();
    let wanted = move |number: u32, id| match which {
        Which::Needed => model.index().how_many(number, UpdateState::Needed, model.active()) > 0,
        Which::Approved => {
            model.policy().approvals_of(id).any(|approval| approval.decision == Decision::Approve)
                || !model.index().lacking(number).is_disjoint(&automatic)
        }
        Which::All => true,
    };
    let current = model.updates().filter(|update| is_current(update));
    current.filter(move |update| wanted(update.number, &update.id)).map(|update| update.number)
}

fn quietly(_: crate::sources::payloads::Progress) {}

async fn landed(mut flight: watch::Receiver<bool>) {
    // A sender that is gone has landed too.
    let _ = flight.wait_for(|landed| *landed).await;
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, DownloadError> {
    disk::blocking(work).await.map_err(|_| DownloadError::Interrupted)
}

#[cfg(test)]
mod tests;
