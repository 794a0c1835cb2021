//! Who says what about one target path: the delegations, in the order that TUF 1.0 5.6.7 gives.
//!
//! Central's repository has no delegations, so no tier asks this. It is here because [`Client`] reads any repository that
//! keeps to TUF 1.0, and the interoperability tests hold it to that with other programs' repositories.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use jiff::Timestamp;

use crate::trust::{
    keys::KeyId,
    tuf::{
        client::{Client, Fetcher, blocking, check_expiry, is_named},
        error::TufError,
        file_name,
        metadata::{Delegate, Delegations, MetaFile, Metadata, MetadataError, Signed, TargetFile, Targets},
        quote,
        signature::Key,
        store::Store,
    },
};

/// A delegated role still to be looked at, with the keys of the role that delegates to it.
struct Next {
    delegate: Delegate,
    keys: BTreeMap<KeyId, Key>,
}

impl<F: Fetcher> Client<F> {
    /// Whether targets are stored under `DIGEST.NAME` rather than `NAME`.
    #[must_use]
    pub fn consistent_snapshot(&self) -> bool {
        self.root.content.consistent_snapshot
    }

    /// What the roles say about a target path: a pre-order depth-first search that fetches a delegated role
    /// when its turn comes and not before. `None` when nobody whom the path is delegated to knows it, or
    /// within [`Limits::roles_per_search`](super::Limits::roles_per_search) roles nobody did.
    ///
    /// Goes by the last successful refresh; without one nothing is found. A role that is kept from an
    /// earlier search is verified again, by the keys of the role that delegates to it in this one.
    ///
    /// # Errors
    ///
    /// Any: a role that cannot be fetched or verified ends the search.
    pub async fn find(&self, path: &str, now: Timestamp) -> Result<Option<TargetFile>, TufError> {
        let Some(below) = &self.below else { return Ok(None) };
        if let Some(found) = below.targets.content.targets.get(path) {
            return Ok(Some(found.clone()));
        }
        let mut visited = BTreeSet::new();
        // The next one is last.
        let mut stack = Vec::new();
        push(&mut stack, below.targets.content.delegations.as_ref(), path);
        while let Some(Next { delegate, keys }) = stack.pop() {
            if visited.len() >= self.limits.roles_per_search as usize {
                break;
            }
            if !visited.insert(delegate.name.clone()) {
                continue;
            }
            let role = self.delegated(&delegate, &keys, &below.snapshot.content.meta, now).await?;
            if let Some(found) = role.content.targets.get(path) {
                return Ok(Some(found.clone()));
            }
            push(&mut stack, role.content.delegations.as_ref(), path);
        }
        Ok(None)
    }

    async fn delegated(
        &self,
        delegate: &Delegate,
        keys: &BTreeMap<KeyId, Key>,
        snapshot: &BTreeMap<String, MetaFile>,
        now: Timestamp,
    ) -> Result<Metadata<Targets>, TufError> {
        let role = &delegate.name;
        let error = |reason| TufError::Delegate { role: quote(role), reason };
        if !Store::can_hold(role) {
            return Err(error("has a name that no file can have"));
        }
        let file = file_name(role, None);
        let meta = snapshot.get(&format!("{role}.json")).ok_or_else(|| error("is not in the snapshot"))?;
        let accept = |bytes: &[u8]| {
            let signed = Signed::parse(bytes)?;
            signed.verify(keys, &delegate.keys)?;
            signed.read::<Targets>()
        };
        if let Some(bytes) = self.kept(role).await
            && is_named(meta, &bytes)
            && let Ok(kept) = accept(&bytes)
            && kept.version == meta.version
            && !kept.is_expired(now)
        {
            return Ok(kept);
        }
        let bytes = self.fetch_named(role, meta, "snapshot", self.limits.targets_bytes).await?;
        let new = accept(&bytes)
            .map_err(|source: MetadataError| TufError::Refused { file: file.clone(), source })?;
        if new.version != meta.version {
            return Err(TufError::WrongVersion { file, expected: meta.version, found: new.version });
        }
        check_expiry(&file, &new, now)?;
        self.keep_delegated(role, bytes).await?;
        Ok(new)
    }

    /// Bytes of a delegated role from an earlier search; a damaged file is fetched again, since its version
    /// is in the snapshot.
    async fn kept(&self, role: &str) -> Option<Vec<u8>> {
        let (store, role) = (self.store.clone(), role.to_owned());
        blocking(move || Ok(store.read(&role)?)).await.ok().flatten()
    }

    async fn keep_delegated(&self, role: &str, bytes: Bytes) -> Result<(), TufError> {
        let (store, role) = (self.store.clone(), role.to_owned());
        blocking(move || Ok(store.write(&role, &bytes)?)).await
    }
}

/// Puts the roles that cover `path` on the stack, the first one last; a terminating one ends the list and
/// everything that was to come after its delegator.
fn push(stack: &mut Vec<Next>, delegations: Option<&Delegations>, path: &str) {
    let Some(delegations) = delegations else { return };
    let mut covering = Vec::new();
    for delegate in delegations.for_path(path) {
        let terminating = delegate.terminating;
        covering.push(Next { delegate, keys: delegations.keys.clone() });
        if terminating {
            stack.clear();
            break;
        }
    }
    stack.extend(covering.into_iter().rev());
}
