//! What would have to change for a rule to have another value.

use std::collections::BTreeSet;

use super::{Explained, Node, Value};
use crate::{facts::domain_of, rules::atom::UNDECIDABLE};

/// Most ways that are told: people look for the nearest, not for all.
pub const WAYS_MAX: usize = 8;

/// Most ways of a node that are looked at; the largest updates of Debian have some hundred packages, each a way. Of a
/// node with more, those beyond are not even counted.
const WAYS_SEEN_MAX: usize = 1_000;

/// Most steps of all ways that come of joining one of each part; with more of them only the nearest of each part is joined.
const STEPS_JOINED_MAX: usize = 2_000;

/// Most steps of one way that are told; a kernel's update replaces some sixty packages at once.
pub const STEPS_MAX: usize = 6;

/// Changes that together are enough.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Way {
    steps: Vec<String>,
    far: Distance,
}

/// What would turn the rule round, nearest first, each sentence enough by itself: `libssl3 at
/// 3.0.17-1~deb12u3 or newer`; the last, `one of 44 more`, counts those left out. Of a rule whose value is unknown, the
/// facts that must become known.
///
/// To be asked of the whole explanation, before it is pruned. Empty when nothing would.
#[must_use]
pub fn would_change(root: &Explained) -> Vec<String> {
    match root.value {
        Value::True => sentences(ways(root, false)),
        Value::False => sentences(ways(root, true)),
        Value::Unknown => unknown(root),
    }
}

/// What would change the verdict that the two rules give.
pub(super) fn of_verdict(applicable: &Explained, installed: Option<&Explained>) -> Vec<String> {
    match installed {
        None => would_change(applicable),
        Some(installed) if installed.value == Value::Unknown => unknown(installed),
        Some(installed) => {
            let mut found = ways(installed, installed.value == Value::False);
            found.extend(ways(applicable, false));
            sentences(found)
        }
    }
}

/// How unlikely somebody is to go that way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Distance {
    Near,
    /// By removing something.
    Removal,
    /// By another operating system; told only where there is no other way.
    System,
}

impl Distance {
    fn of(key: &str, step: &str) -> Self {
        if key.starts_with("os:") {
            Self::System
        } else if step.ends_with(" removed") || step.ends_with(" absent") {
            Self::Removal
        } else {
            Self::Near
        }
    }
}

fn ways(node: &Explained, wanted: bool) -> Vec<Way> {
    if node.value == Value::from(wanted) {
        return vec![Way { steps: Vec::new(), far: Distance::Near }];
    }
    match node.node {
        Node::Const => Vec::new(),
        Node::Fact if is_undecidable(node) => Vec::new(),
        Node::Fact => {
            let step = match &node.flip {
                Some(flip) => flip.clone(),
                None => format!("{} found {wanted}", node.test),
            };
            let far = Distance::of(node.key.as_deref().unwrap_or(""), &step);
            vec![Way { steps: vec![step], far }]
        }
        Node::Not => node.children.first().map_or_else(Vec::new, |child| ways(child, !wanted)),
        // One part is enough …
        Node::All | Node::Any if (node.node == Node::Any) == wanted => {
            let mut found: Vec<Way> = node.children.iter().flat_map(|child| ways(child, wanted)).collect();
            nearest(&mut found);
            found
        }
        // … or all must be so: of each one way, any with any.
        Node::All | Node::Any => {
            let mut all = vec![Way { steps: Vec::new(), far: Distance::Near }];
            for child in &node.children {
                let mut of_child = ways(child, wanted);
                if all.len() * steps(&of_child) + of_child.len() * steps(&all) > STEPS_JOINED_MAX {
                    all.truncate(1);
                    of_child.truncate(1);
                }
                if let [next] = &of_child[..] {
                    all.iter_mut().for_each(|way| way.add(next));
                    continue;
                }
                let joined = all.iter().flat_map(|way| {
                    of_child.iter().map(|next| {
                        let mut both = way.clone();
                        both.add(next);
                        both
                    })
                });
                all = joined.collect();
                nearest(&mut all);
            }
            all
        }
    }
}

impl Way {
    fn add(&mut self, next: &Self) {
        self.far = self.far.max(next.far);
        for step in &next.steps {
            if !self.steps.contains(step) {
                self.steps.push(step.clone());
            }
        }
    }
}

fn steps(ways: &[Way]) -> usize {
    ways.iter().map(|way| way.steps.len()).sum()
}

/// Whether no fact answers the node.
fn is_undecidable(node: &Explained) -> bool {
    node.key.as_deref().is_some_and(|key| domain_of(key) == UNDECIDABLE)
}

/// Sorts by distance, keeps each once and at most [`WAYS_SEEN_MAX`], and another system only where there is no
/// other way.
fn nearest(ways: &mut Vec<Way>) {
    ways.sort_by_key(|way| (way.far, way.steps.len()));
    if ways.first().is_some_and(|way| way.far < Distance::System) {
        ways.retain(|way| way.far < Distance::System);
    }
    let mut seen = BTreeSet::new();
    ways.retain(|way| seen.len() < WAYS_SEEN_MAX && seen.insert(way.steps.clone()));
}

fn sentences(mut found: Vec<Way>) -> Vec<String> {
    nearest(&mut found);
    let left_out = found.len().saturating_sub(WAYS_MAX);
    let told = found.into_iter().take(WAYS_MAX).map(|way| {
        let told = way.steps.len().min(STEPS_MAX);
        let text = way.steps[..told].join(" and ");
        match way.steps.len() - told {
            0 => text,
            more => format!("{text} and {more} more"),
        }
    });
    told.chain((left_out > 0).then(|| format!("one of {left_out} more"))).collect()
}

/// The facts whose being unknown makes the rule unknown, each once.
fn unknown(root: &Explained) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = vec![root];
    while let Some(node) = rest.pop() {
        if node.value != Value::Unknown || found.len() >= WAYS_MAX {
            continue;
        }
        if let (Node::Fact, Some(key), false) = (node.node, &node.key, is_undecidable(node)) {
            let sentence = format!("{key} known");
            if !found.contains(&sentence) {
                found.push(sentence);
            }
        }
        rest.extend(node.children.iter().rev());
    }
    found
}
