//! Which updates are replaced by others that are to be installed; pure.

use std::collections::{BTreeMap, BTreeSet};

use tierway_common::{id::UpdateId, rules::Verdict};

use super::{Finding, approved};
use crate::policy::here::Here;

/// Older update → a newer one that is needed, approved and open here and replaces it, directly or over others. Both
/// documents may say so: the newer what it replaces, the older by what it is replaced.
pub(super) fn replacements<'a>(
    findings: &'a [Finding<'_>],
    needed: &BTreeMap<&UpdateId, &Finding<'_>>,
    here: &Here,
) -> BTreeMap<&'a UpdateId, &'a UpdateId> {
    let is_open = |finding: &Finding<'_>| {
        let closed = |decision| here.closed(finding.update, decision).is_some();
        approved(finding) && !finding.decision.is_some_and(closed)
    };
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
        if !needed.contains_key(newest) || !is_open(finding) {
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

/// What is known of an update here, for [`superseded`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stands {
    /// Needed, and approved.
    pub approved: bool,
    /// Needed, approved, and open here: it is to be installed.
    pub open: bool,
    /// It was applied here and is there, or will be after a restart.
    pub applied: bool,
}

/// Those of `verdicts` that are not told beside a newer one: where a newer one is needed or there, all but what is
/// approved, which only gives way to a newer one that is itself open here or was applied here, and what was applied here,
/// which speaks for the update to the rings that come later.
pub fn superseded<I: Iterator<Item = UpdateId>>(
    verdicts: &BTreeMap<UpdateId, Verdict>,
    newer: impl Fn(&UpdateId) -> I,
    stands: impl Fn(&UpdateId) -> Stands,
) -> Vec<UpdateId> {
    let matters = |id: &UpdateId| matches!(verdicts.get(id), Some(Verdict::Needed | Verdict::Installed));
    let gives_way = |id: &&UpdateId| {
        let newer: Vec<UpdateId> = newer(id).filter(matters).collect();
        let Stands { approved, open: _, applied } = if newer.is_empty() { return false } else { stands(id) };
        let replaces = |newer: &UpdateId| {
            let newer_stands = stands(newer);
            newer_stands.open || (newer_stands.applied && verdicts.get(newer) == Some(&Verdict::Installed))
        };
        !applied && (!approved || newer.iter().any(replaces))
    };
    verdicts.keys().filter(gives_way).cloned().collect()
}
