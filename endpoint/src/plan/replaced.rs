//! Which updates are replaced by others that are to be installed; pure.

use std::collections::{BTreeMap, BTreeSet};

use tierway_common::id::UpdateId;

use super::{Finding, approved};

/// Older update → a newer one that is needed and approved and replaces it, directly or over others. Both
/// documents may say so: the newer what it replaces, the older by what it is replaced.
pub(super) fn replacements<'a>(
    findings: &'a [Finding<'_>],
    needed: &BTreeMap<&UpdateId, &Finding<'_>>,
) -> BTreeMap<&'a UpdateId, &'a UpdateId> {
    let mut older: BTreeMap<&UpdateId, BTreeSet<&UpdateId>> = BTreeMap::new();
    for finding in findings {
        let update = finding.update;
        for id in &update.supersedes {
            older.entry(&update.id).or_default().insert(id);
        }
        for id in &update.superseded_by {
            older.entry(id).or_default().insert(&update.id);
        }
    }
    let mut replaced = BTreeMap::new();
    for finding in findings {
        let newest = &finding.update.id;
        if !needed.contains_key(newest) || !approved(finding) {
            continue;
        }
        let mut seen = BTreeSet::from([newest]);
        let mut next = vec![newest];
        while let Some(id) = next.pop() {
            for id in older.get(id).into_iter().flatten() {
                if seen.insert(id) {
                    next.push(id);
                    // Two updates that claim to replace each other would both be left out for ever.
                    replaced.entry(*id).or_insert(newest);
                }
            }
        }
    }
    let circular: Vec<_> = replaced
        .iter()
        .filter(|(id, by)| replaced.get(**by) == Some(*id) && id > by)
        .map(|(id, _)| *id)
        .collect();
    for id in circular {
        replaced.remove(id);
    }
    replaced
}
