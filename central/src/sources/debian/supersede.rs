//! Supersedence from one sync to the next: what happens to updates that left the archive.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use tierway_common::{
    id::UpdateId,
    schema::{DebPackage, Update},
    version::deb::DebVersion,
};

/// How many superseded updates of one source package stay: enough for a slow ring to finish what it
/// has begun, and a bound on what a busy package (a browser, weekly) adds.
pub const SUPERSEDED_PER_PRODUCT_MAX: usize = 8;

/// How long a superseded update stays: after half a year nobody should still be installing it.
pub const SUPERSEDED_FOR: SignedDuration = SignedDuration::from_hours(24 * 183);

/// When each superseded update was first found so.
pub type SupersededAt = BTreeMap<UpdateId, Timestamp>;

/// Adds to `updates` those of `previous` that a newer version of the same source package replaced, links
/// both directions, and returns since when each is superseded.
///
/// An update that left without a newer one (its package was removed) is dropped, as is one that has been
/// superseded for [`SUPERSEDED_FOR`] or by more than [`SUPERSEDED_PER_PRODUCT_MAX`] newer ones.
#[must_use]
pub fn supersede(
    updates: &mut BTreeMap<UpdateId, Update>,
    previous: Vec<Update>,
    superseded_at: &SupersededAt,
    now: Timestamp,
) -> SupersededAt {
    let mut newest: BTreeMap<String, (DebVersion, UpdateId)> = BTreeMap::new();
    for update in updates.values() {
        let Ok(version) = update.version.parse::<DebVersion>() else { continue };
        match newest.get(&update.product) {
            Some((other, _)) if *other >= version => {}
            _ => {
                newest.insert(update.product.clone(), (version, update.id.clone()));
            }
        }
    }
    // Product → the superseded, with their versions.
    let mut gone: BTreeMap<String, Vec<(DebVersion, Update)>> = BTreeMap::new();
    for update in previous {
        let (Some((version, _)), Ok(own)) = (newest.get(&update.product), update.version.parse()) else {
            continue;
        };
        if !updates.contains_key(&update.id) && own < *version {
            gone.entry(update.product.clone()).or_default().push((own, update));
        }
    }
    let mut at = SupersededAt::new();
    for (product, mut candidates) in gone {
        let Some((_, by)) = newest.get(&product) else { continue };
        candidates.sort_by(|(a, x), (b, y)| b.cmp(a).then_with(|| x.id.cmp(&y.id)));
        for (_, mut update) in candidates.into_iter().take(SUPERSEDED_PER_PRODUCT_MAX) {
            let since = superseded_at.get(&update.id).copied().unwrap_or(now);
            if now.duration_since(since) >= SUPERSEDED_FOR {
                continue;
            }
            at.insert(update.id.clone(), since);
            update.supersedes.clear();
            update.superseded_by = vec![by.clone()];
            if let Some(newer) = updates.get_mut(by) {
                newer.supersedes.push(update.id.clone());
            }
            updates.insert(update.id.clone(), update);
        }
    }
    for update in updates.values_mut() {
        update.supersedes.sort();
    }
    at
}

/// The packages of an update.
#[must_use]
pub fn packages(update: &Update) -> &[DebPackage] {
    update.install.deb_packages()
}
