//! From what the compiler gathered to what a scan needs: everything in order, and the indexes.

use super::{Code, Compiled, Compiler, Groups, Op, Slots, number, trees};
use crate::rules::atom::{Check, Read};

impl Compiler {
    /// Everything that was added, ready to be scanned.
    #[must_use]
    pub fn finish(mut self) -> Compiled {
        for slots in [&mut self.id_slots, &mut self.subject_slots, &mut self.text_slots, &mut self.atom_slots]
        {
            *slots = Slots::default();
        }
        let Self { mut compiled, atom_subjects, .. } = self;
        compiled.sort_rules();
        let subject_places = compiled.sort_subjects();
        compiled.sort_atoms(&atom_subjects, &subject_places);
        drop(atom_subjects);
        compiled.texts.shrink();
        compiled.ops.shrink_to_fit();
        compiled.find_domains();
        compiled.index();
        compiled
    }
}

/// Where each thing is once they are in `order`.
fn places(order: &[u32]) -> Vec<u32> {
    let mut places = vec![0; order.len()];
    for (place, thing) in order.iter().enumerate() {
        places[*thing as usize] = number(place);
    }
    places
}

fn all(count: usize) -> Vec<u32> {
    (0..number(count)).collect()
}

impl Compiled {
    /// Puts rules and ids in the order of ids.
    fn sort_rules(&mut self) {
        let mut order = all(self.rules.len());
        order.sort_unstable_by(|a, b| self.ids.get(*a).cmp(self.ids.get(*b)));
        self.rules = order.iter().map(|rule| self.rules[*rule as usize]).collect();
        self.ids = self.ids.reorder(&order);
    }

    /// Puts subjects in order; returns where each is now.
    fn sort_subjects(&mut self) -> Vec<u32> {
        let mut order = all(self.subjects.len());
        let key = |subject: u32| (self.subjects.get(subject), self.instances[subject as usize]);
        order.sort_unstable_by(|a, b| key(*a).cmp(&key(*b)));
        self.instances = order.iter().map(|subject| self.instances[*subject as usize]).collect();
        self.subjects = self.subjects.reorder(&order);
        places(&order)
    }

    /// Puts atoms in the order of subject, class and right-hand side, and renumbers them in the trees.
    fn sort_atoms(&mut self, subjects: &[u32], subject_places: &[u32]) {
        let subject = |atom: u32| subject_places[subjects[atom as usize] as usize];
        let code = |atom: u32| self.codes[atom as usize];
        let right = |atom: u32| {
            let text = self.texts.get(self.values[atom as usize]);
            match code(atom).check(text) {
                Some(Check::Compare(scale, _, value)) => Read::new(scale, value).ok(),
                _ => None,
            }
        };
        let mut order = all(self.codes.len());
        order.sort_unstable_by(|a, b| {
            (subject(*a).cmp(&subject(*b)))
                .then_with(|| code(*a).class().cmp(&code(*b).class()))
                .then_with(|| match (right(*a), right(*b)) {
                    (Some(a), Some(b)) => a.order(&b),
                    // A class of what cannot be read has some of which the right-hand side alone can.
                    (a, b) => a.is_some().cmp(&b.is_some()),
                })
                // What is left is only so that the same rules in the same order give the same bytes.
                .then_with(|| code(*a).cmp(&code(*b)))
                .then_with(|| {
                    let text = |atom: u32| self.texts.get(self.values[atom as usize]);
                    text(*a).cmp(text(*b))
                })
        });
        let mut first_atom = vec![0_u32; self.subjects.len() + 1];
        for atom in &order {
            first_atom[subject(*atom) as usize + 1] += 1;
        }
        for subject in 0..self.subjects.len() {
            first_atom[subject + 1] += first_atom[subject];
        }
        self.first_atom = first_atom;
        self.codes = order.iter().map(|atom| self.codes[*atom as usize]).collect::<Vec<Code>>();
        self.values = order.iter().map(|atom| self.values[*atom as usize]).collect();
        let places = places(&order);
        for op in &mut self.ops {
            if let Op::Atom(atom) = Op::unpack(*op) {
                *op = Op::Atom(places[atom as usize]).pack();
            }
        }
    }

    /// Finds out which rules read a subject, and what guards each rule.
    fn index(&mut self) {
        let mut subject_of = Vec::with_capacity(self.codes.len());
        for subject in 0..self.subjects.len() {
            subject_of.resize(self.atoms_of(subject).end, number(subject));
        }
        let (mut reads, mut subjects) = (Vec::new(), Vec::new());
        for rule in 0..self.len() {
            let (applicable, installed) = self.trees_of(rule);
            subjects.clear();
            subjects.extend(applicable.iter().chain(installed).filter_map(|op| match Op::unpack(*op) {
                Op::Atom(atom) => Some(subject_of[atom as usize]),
                _ => None,
            }));
            subjects.sort_unstable();
            subjects.dedup();
            reads.extend(subjects.iter().map(|subject| (*subject, number(rule))));
        }
        let mut weights = vec![0; self.subjects.len()];
        reads.iter().for_each(|(subject, _)| weights[*subject as usize] += 1);
        let everywhere = |subject: u32| weights[subject as usize] * EVERYWHERE > self.len();
        reads.retain(|(subject, _)| !everywhere(*subject));
        self.everywhere =
            all(self.subjects.len()).into_iter().filter(|subject| everywhere(*subject)).collect();
        self.readers = Groups::new(self.subjects.len(), &reads);
        drop(reads);

        let weigh = |atom: u32| weights[subject_of[atom as usize] as usize];
        let (mut guarded, mut unguarded) = (Vec::new(), Vec::new());
        for rule in 0..self.len() {
            match settle(self.trees_of(rule).0, false, &weigh) {
                Some(guard) => guarded.extend(guard.atoms.iter().map(|atom| (*atom, number(rule)))),
                None => unguarded.push(number(rule)),
            }
        }
        guarded.sort_unstable();
        let mut guard_atoms: Vec<u32> = guarded.iter().map(|(atom, _)| *atom).collect();
        guard_atoms.dedup();
        let mut place = 0;
        for (atom, _) in &mut guarded {
            while guard_atoms[place] != *atom {
                place += 1;
            }
            *atom = number(place);
        }
        self.guards = Groups::new(guard_atoms.len(), &guarded);
        (self.guard_atoms, self.unguarded) = (guard_atoms, unguarded);
    }
}

/// A subject that more than one rule in so many reads is read everywhere: a change of it is as rare as a
/// change of the operating system, and evaluating all rules costs but that many times more.
const EVERYWHERE: usize = 4;

/// Atoms that settle a tree when all of them are false.
struct Guard {
    /// Ascending, each once.
    atoms: Vec<u32>,
    /// How many rules read the same subjects: what a fact that is there costs.
    weight: usize,
}

/// The lightest atoms that, all false, give the tree the value `wanted`; `None` when it can have the other
/// one all the same.
fn settle(tree: &[u32], wanted: bool, weigh: &dyn Fn(u32) -> usize) -> Option<Guard> {
    let (first, rest) = tree.split_first()?;
    let nothing = || Guard { atoms: Vec::new(), weight: 0 };
    match Op::unpack(*first) {
        Op::Atom(atom) => (!wanted).then(|| Guard { atoms: vec![atom], weight: weigh(atom) }),
        Op::Const(value) => (value == wanted).then(nothing),
        Op::Not(_) => settle(rest, !wanted, weigh),
        // One child settles the node …
        Op::All(_) | Op::Any(_) if matches!(Op::unpack(*first), Op::Any(_)) == wanted => {
            trees(rest).filter_map(|child| settle(child, wanted, weigh)).min_by_key(|guard| guard.weight)
        }
        // … or only all of them together do.
        Op::All(_) | Op::Any(_) => {
            let mut all = nothing();
            for child in trees(rest) {
                let guard = settle(child, wanted, weigh)?;
                all.atoms.extend(guard.atoms);
                all.weight += guard.weight;
            }
            all.atoms.sort_unstable();
            all.atoms.dedup();
            Some(all)
        }
    }
}
