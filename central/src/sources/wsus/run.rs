//! One sync: what is listed and not here comes batch by batch, then the parts of bundles that no list names.

use std::{collections::BTreeSet, io};

use tracing::warn;

use super::{
    AT_ONCE_MAX, CLOSURES_MAX, LISTED_MAX, LOGGED_MAX, MISSING_MAX, Selection, State, SyncError, Wsus,
    blocking, names,
    packs::Packs,
    session::{CallError, Session},
    soap::{Delta, Document},
};
use crate::sources::{
    fetch::{Fetch, post::Post},
    windows::{
        model::{Guid, Identity},
        rules::Tally,
        update,
    },
};

/// One sync in progress.
pub(super) struct Run<'a, P> {
    source: &'a Wsus<P>,
    session: Session<'a, P>,
    pub(super) packs: Packs,
    at_once: usize,
    missing: BTreeSet<Identity>,
}

impl<'a, P: Post + Fetch> Run<'a, P> {
    /// Nothing read yet.
    pub(super) fn new(source: &'a Wsus<P>, session: Session<'a, P>, packs: Packs) -> Self {
        Self { source, session, packs, at_once: AT_ONCE_MAX, missing: BTreeSet::new() }
    }

    /// Reads everything; the anchors are in the state that comes back, and nowhere before.
    pub(super) async fn all(&mut self, selection: &Selection, begin: &State) -> Result<State, SyncError> {
        let limits = self.session.limits(begin.config_anchor.as_deref()).await?;
        self.at_once = limits.updates_at_once.clamp(1, AT_ONCE_MAX);
        let again = begin
            .missing
            .iter()
            .filter_map(|(id, revision)| Some(Identity { id: id.parse().ok()?, revision: *revision }));
        self.get(again.collect()).await?;
        let mut is_news = !begin.missing.is_empty();

        let anchor = begin.categories_anchor.as_deref();
        let listed = self.session.categories(anchor).await;
        let (categories_anchor, listed) = match listed {
            Err(error) if is_about_the_anchor(&error, anchor) => self.session.categories(None).await?,
            other => other?,
        };
        is_news |= anchor.is_none() || !listed.is_empty();
        self.get(listed).await?;

        let anchor = begin.updates_anchor.as_deref();
        let of =
            |ids: &BTreeSet<Guid>, known: &BTreeSet<String>, anchor: Option<&str>| -> Vec<(Guid, Delta)> {
                let delta = |id: &Guid| match anchor.is_some() && known.contains(id.as_str()) {
                    true => Delta::Changes,
                    false => Delta::Whole,
                };
                ids.iter().map(|id| (id.clone(), delta(id))).collect()
            };
        let filter = |anchor| {
            let Selection { products, classifications } = selection;
            (of(products, &begin.products, anchor), of(classifications, &begin.classifications, anchor))
        };
        let (products, classifications) = filter(anchor);
        let listed = self.session.updates(anchor, &products, &classifications).await;
        let (updates_anchor, listed) = match listed {
            Err(error) if is_about_the_anchor(&error, anchor) => {
                let (products, classifications) = filter(None);
                self.session.updates(None, &products, &classifications).await?
            }
            other => other?,
        };
        is_news |= anchor.is_none() || !listed.is_empty();
        self.get(listed).await?;
        // With the anchors the parts of all bundles were there, and both ask every document.
        if is_news {
            self.close().await?;
            self.with_packs(|packs, ()| packs.tidy(), ()).await?;
        }

        if self.missing.len() > MISSING_MAX {
            return Err(SyncError::Missing);
        }
        Ok(State {
            account: begin.account.clone(),
            folder: Some(self.packs.name().to_owned()),
            server: self.source.config.url.clone(),
            products: names(&selection.products),
            classifications: names(&selection.classifications),
            config_anchor: limits.anchor.or_else(|| begin.config_anchor.clone()),
            categories_anchor: Some(categories_anchor),
            updates_anchor: Some(updates_anchor),
            missing: self
                .missing
                .iter()
                .map(|Identity { id, revision }| (id.to_string(), *revision))
                .collect(),
            learned: begin.learned.clone(),
            learned_to: begin.learned_to.clone(),
            made: begin.made,
            date: begin.date,
        })
    }

    /// Gets what is not here, batch by batch, each durable before the next. A batch that the server cannot give is
    /// halved until the one is found that it cannot give, which is noted.
    async fn get(&mut self, listed: Vec<Identity>) -> Result<(), SyncError> {
        if listed.len() > LISTED_MAX {
            return Err(SyncError::TooMany);
        }
        let lacking: BTreeSet<Identity> = listed
            .into_iter()
            .filter(|identity| !self.packs.has(identity) && !self.missing.contains(identity))
            .collect();
        let lacking: Vec<Identity> = lacking.into_iter().collect();
        let mut batches: Vec<Vec<Identity>> = lacking.chunks(self.at_once).rev().map(<[_]>::to_vec).collect();
        while let Some(mut batch) = batches.pop() {
            let bytes_max = self.source.config.document_bytes_max;
            let given = match self.session.documents(&batch, bytes_max).await {
                Ok(given) => given,
                Err(CallError::Fault(fault)) if fault.is("InternalServerError") => {
                    if let [one] = batch.as_slice() {
                        self.miss(one.clone(), &fault)?;
                    } else {
                        let half = batch.split_off(batch.len() / 2);
                        batches.extend([half, batch]);
                    }
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let before = batch.len();
            let mut kept = Vec::new();
            for (identity, document) in given {
                let Some(place) = batch.iter().position(|wanted| *wanted == identity) else { continue };
                batch.swap_remove(place);
                match document {
                    Ok(document) => kept.push(document),
                    Err(error) => self.miss(identity, &error)?,
                }
            }
            self.with_packs(|packs, kept: &Vec<Document>| packs.append(kept), kept).await?;
            match batch.len() {
                0 => {}
                // Answers are bounded: what did not fit is asked for again.
                left if left < before => batches.push(batch),
                // A server that gives nothing of what it lists.
                _ => {
                    for identity in batch {
                        self.miss(identity, &"it gave nothing")?;
                    }
                }
            }
        }
        Ok(())
    }

    fn miss(&mut self, identity: Identity, why: &dyn std::fmt::Display) -> Result<(), SyncError> {
        if self.missing.len() < LOGGED_MAX {
            let Identity { id, revision } = &identity;
            warn!(source = %self.source.config.name, %id, revision, why = %why, "an update is not to be had");
        }
        self.missing.insert(identity);
        if self.missing.len() > MISSING_MAX { Err(SyncError::Missing) } else { Ok(()) }
    }

    /// Gets the parts of bundles that no list names.
    async fn close(&mut self) -> Result<(), SyncError> {
        for _ in 0..CLOSURES_MAX {
            let parts = self.read_packs(parts).await?;
            let lacking: Vec<Identity> = parts
                .into_iter()
                .filter(|part| !self.packs.has(part) && !self.missing.contains(part))
                .collect();
            if lacking.is_empty() {
                break;
            }
            self.get(lacking).await?;
        }
        Ok(())
    }

    /// Lends the packs to a thread that may block.
    async fn with_packs<T: Send + 'static>(
        &mut self,
        change: impl FnOnce(&mut Packs, &T) -> io::Result<()> + Send + 'static,
        with: T,
    ) -> Result<(), SyncError> {
        let mut packs = std::mem::take(&mut self.packs);
        let (packs, changed) = blocking(move || {
            let changed = change(&mut packs, &with);
            (packs, changed)
        })
        .await?;
        self.packs = packs;
        changed.map_err(|source| self.source.keep(source))
    }

    async fn read_packs<T: Send + 'static>(
        &mut self,
        read: impl FnOnce(&Packs) -> io::Result<T> + Send + 'static,
    ) -> Result<T, SyncError> {
        let packs = std::mem::take(&mut self.packs);
        let (packs, read) = blocking(move || {
            let read = read(&packs);
            (packs, read)
        })
        .await?;
        self.packs = packs;
        read.map_err(|source| self.source.keep(source))
    }
}

/// Whether the server does not know the anchor that it was shown.
fn is_about_the_anchor(error: &CallError, anchor: Option<&str>) -> bool {
    matches!(error, CallError::Fault(fault) if fault.is("InvalidParameters")) && anchor.is_some()
}

/// Parts that bundles name.
fn parts(packs: &Packs) -> io::Result<BTreeSet<Identity>> {
    let mut parts = BTreeSet::new();
    packs.current(&mut |document| {
        // Those that cannot be read are told of when the catalogue is made.
        if let Ok(revision) = update::read([document.xml.as_bytes()], &mut Tally::default()) {
            parts.extend(revision.bundled.into_iter().flatten());
        }
        Ok(())
    })?;
    Ok(parts)
}
