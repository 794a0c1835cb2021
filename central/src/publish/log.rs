//! Which publication holds what was decided when: so that "approved" and "published" can be told apart, and whether a
//! relay that has a certain version has a certain decision.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tierway_common::{
    id::TenantId,
    store::{
        Batch, Store, StoreError,
        table::{self, Parts},
    },
};

use crate::store::tables::{Publication, Published};

/// Publications that are remembered: those of some weeks. What was decided before the oldest is in it as well.
pub const PUBLICATIONS_MAX: usize = 2_000;

/// By version of the timestamp metadata: what was decided until then is in it. Both ascend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publications(BTreeMap<u64, Timestamp>);

impl Publications {
    /// Reads them.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn load(store: &dyn Store, tenant: &TenantId) -> Result<Self, StoreError> {
        let parts = table::Key::new().text(tenant.as_str()).done();
        let mut publications = BTreeMap::new();
        table::for_each::<Publication<'_>, StoreError>(store, &parts, |key, covers| {
            let mut key = Parts::of(key);
            if let Some(version) = key.text().and_then(|_| key.number()) {
                publications.insert(version, covers);
            }
            Ok(())
        })?;
        // What an earlier program published, which did not remember more than the newest.
        if publications.is_empty()
            && let Some(published) = table::get(store, &Published { tenant })?
            && let Some(changed) = published.changed
        {
            publications.insert(published.timestamp_version, changed);
        }
        Ok(Self(publications))
    }

    /// Adds the rows of one more publication to `batch`.
    ///
    /// # Errors
    ///
    /// When a row cannot be written.
    pub fn keep(
        &self,
        batch: &mut Batch,
        tenant: &TenantId,
        version: u64,
        covers: &Timestamp,
    ) -> Result<(), StoreError> {
        table::put(batch, &Publication { tenant, version }, covers)?;
        let beyond = (self.0.len() + 1).saturating_sub(PUBLICATIONS_MAX);
        for version in self.0.keys().take(beyond) {
            table::delete(batch, &Publication { tenant, version: *version });
        }
        Ok(())
    }

    /// Takes in one more.
    pub fn note(&mut self, version: u64, covers: Timestamp) {
        self.0.insert(version, covers);
        while self.0.len() > PUBLICATIONS_MAX {
            self.0.pop_first();
        }
    }

    /// The newest version; 0 when nothing was published.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.0.keys().next_back().copied().unwrap_or(0)
    }

    /// The first version that holds what was decided at `at`, and when it was made; `None` when that is not
    /// published yet.
    #[must_use]
    pub fn with(&self, at: Timestamp) -> Option<(u64, Timestamp)> {
        self.0.iter().find(|(_, covers)| **covers >= at).map(|(version, covers)| (*version, *covers))
    }
}

#[cfg(test)]
mod tests {
    use tierway_common::store::memory::MemoryStore;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_decision_is_in_the_first_publication_made_after_it() {
        let mut log = Publications::default();
        assert_eq!(log.with(at(0)), None);
        log.note(3, at(100));
        log.note(7, at(200));
        for (decided, version) in [(5, Some(3)), (100, Some(3)), (101, Some(7)), (200, Some(7)), (201, None)]
        {
            assert_eq!(log.with(at(decided)).map(|(version, _)| version), version, "{decided}");
        }
    }

    #[test]
    fn the_newest_are_remembered_also_after_a_restart() {
        let (store, tenant) = (MemoryStore::new(), "default".parse().unwrap());
        let mut log = Publications::default();
        let count = u64::try_from(PUBLICATIONS_MAX).unwrap() + 3;
        for version in 1..=count {
            let covers = at(i64::try_from(version).unwrap());
            let mut batch = Batch::new();
            log.keep(&mut batch, &tenant, version, &covers).unwrap();
            store.commit(&batch).unwrap();
            log.note(version, covers);
        }
        assert_eq!(log.0.len(), PUBLICATIONS_MAX);
        assert_eq!(log.with(at(0)).unwrap().0, 4);
        assert_eq!(Publications::load(&store, &tenant).unwrap(), log);
    }
}
