//! What central holds in the end, beside what each endpoint was acknowledged and knows.

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use tierway_central::{layout::Layout, state::State};
use tierway_common::{clock::Clock, store::sled_store::SledStore};

use super::{
    failure::{Failure, failed},
    figures::Figures,
    member::{Member, Sequences},
    tiers::TENANT,
};

/// Figures of central's store.
#[derive(Clone, Copy, Debug)]
pub struct Compared {
    /// Bytes of it, for each endpoint.
    pub store_bytes_each: f64,
    /// How long it took to open it and have all of it in memory.
    pub opened: Duration,
}

/// Opens the store below central's data folder, which must have ended. Whatever differs is a finding.
///
/// # Errors
///
/// [`Failure`] when the store cannot be opened or read.
pub fn compare(dir: &Path, members: &[Member], figures: &Figures) -> Result<Compared, Failure> {
    let what = || failed("read central's store");
    let path = Layout::new(dir).store();
    let bytes = bytes_below(&path);
    let began = Instant::now();
    let store = Arc::new(SledStore::open(&path).map_err(what())?);
    let tenant = TENANT.parse().map_err(failed("name the tenant"))?;
    let state = State::open(tenant, store, Clock::system()).map_err(what())?;
    let opened = began.elapsed();
    let model = state.model();
    let known = model.endpoints().count();
    if known != members.len() {
        figures.finding(format!("{} endpoints enrolled and central has {known}", members.len()));
    }
    for member in members {
        let name = &member.name;
        if member.waits() > 0 {
            figures.finding(format!("`{name}` could not hand up {} reports", member.waits()));
        }
        let Some(record) = model.endpoint_by_id(&member.id) else {
            figures.finding(format!("central does not have `{name}`"));
            continue;
        };
        let has = Sequences { states: record.states_sequence, inventory: record.inventory_sequence };
        if has != member.acknowledged {
            figures.finding(format!(
                "`{name}` was acknowledged {:?} and central has {has:?}",
                member.acknowledged
            ));
        }
        let digest = member.facts().digest();
        if record.facts.as_ref().map(|facts| facts.digest) != Some(digest) {
            figures.finding(format!("the facts of `{name}` are not those that central has"));
        }
        let kept = state.states(record.number).map_err(what())?;
        let id = |number| model.update(number).map(|update| update.id.clone());
        if let Some(how) = member.holding.differs(kept.entries(), id) {
            figures.finding(format!("of `{name}`: {how}"));
        }
        figures.count("endpoints compared", 1);
        figures.count("states compared", kept.entries().len() as u64);
    }
    Ok(Compared { store_bytes_each: bytes as f64 / members.len().max(1) as f64, opened })
}

fn bytes_below(path: &Path) -> u64 {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}
