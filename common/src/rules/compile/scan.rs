//! What the compiled rules say of one computer, all at once and after a change.

use std::{cmp::Ordering, ops::Range};

use serde::{Deserialize, Serialize};

use super::{CLASS_SHIFT, Check, Compiled, HOWS, Op, UNREADABLE, number, partition, trees};
use crate::{
    facts::{Domain, Facts, FactsDelta, domain_of},
    id::UpdateId,
    rules::{
        Truth, Verdict,
        atom::{How, Read, Scale, UNDECIDABLE, found},
        evaluate::{all, any, combine},
        expr,
        limits::DEPTH_MAX,
    },
    version::deb,
};

/// The truth of an atom or a tree as a number: `and` is the smaller, `or` the greater, `not` the mirror.
const FALSE: u8 = 0;
const UNKNOWN: u8 = 1;
const TRUE: u8 = 2;

/// A [`Verdict`] without its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// See [`Verdict::NotApplicable`].
    NotApplicable,
    /// See [`Verdict::Needed`].
    Needed,
    /// See [`Verdict::Installed`].
    Installed,
    /// See [`Verdict::Unknown`].
    Unknown,
}

/// The outcome for every update of a [`Compiled`], and what is needed to follow a change of the facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Atom → truth.
    truths: Vec<u8>,
    kinds: Vec<Kind>,
    evaluated: usize,
}

impl Scan {
    /// The outcome for the update with this number; not applicable beyond the last.
    #[must_use]
    pub fn kind(&self, update: usize) -> Kind {
        self.kinds.get(update).copied().unwrap_or(Kind::NotApplicable)
    }

    /// Numbers of the updates with this outcome, ascending.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = usize> {
        self.kinds.iter().enumerate().filter(move |(_, found)| **found == kind).map(|(update, _)| update)
    }

    /// How many rules the last scan or rescan evaluated; the others could not matter.
    #[must_use]
    pub fn evaluated(&self) -> usize {
        self.evaluated
    }
}

impl Compiled {
    /// Evaluates all rules over `facts`.
    #[must_use]
    pub fn scan(&self, facts: &Facts) -> Scan {
        let mut truths = vec![FALSE; self.codes.len()];
        self.start_from_domains(facts, &mut truths);
        let mut near = 0;
        for (key, value) in facts.values.iter().filter(|(key, _)| domain_of(key) != UNDECIDABLE) {
            near = self.nearest(key, false, near);
            if self.is_subject(near, key, false) {
                truths[self.atoms_of(near)].fill(FALSE);
                self.answer(near, value, &mut truths);
            }
            if let Some(package) = package_of(key) {
                near = self.nearest(package, true, near);
                if self.is_subject(near, package, true) {
                    self.answer(near, value, &mut truths);
                }
            }
        }
        let mut scan = Scan { truths, kinds: vec![Kind::NotApplicable; self.len()], evaluated: 0 };
        let mut touched = Bits::new(self.len());
        self.unguarded.iter().for_each(|rule| touched.set(*rule));
        for (place, atom) in self.guard_atoms.iter().enumerate() {
            if scan.truths.get(*atom as usize).is_some_and(|truth| *truth != FALSE) {
                self.guards.of(place).iter().for_each(|rule| touched.set(*rule));
            }
        }
        for rule in touched.iter() {
            scan.kinds[rule] = self.kind(rule, &scan.truths);
            scan.evaluated += 1;
        }
        scan
    }

    /// Follows a change: `scan` is of the facts before `delta`, `facts` are those after it. Returns the
    /// numbers of the updates whose outcome changed, ascending; after it `scan` equals `self.scan(facts)` but
    /// for the count of evaluated rules.
    ///
    /// A change of the domains, or a scan of other rules, is followed by a scan of everything.
    pub fn rescan(&self, scan: &mut Scan, delta: &FactsDelta, facts: &Facts) -> Vec<usize> {
        let fits = scan.truths.len() == self.codes.len() && scan.kinds.len() == self.len();
        if !delta.domains.is_empty() || !fits {
            let before = std::mem::replace(scan, self.scan(facts));
            return (0..self.len()).filter(|rule| before.kind(*rule) != scan.kind(*rule)).collect();
        }
        let mut subjects = Vec::new();
        for key in delta.set.keys().chain(&delta.removed) {
            for (text, instances) in [(Some(key.as_str()), false), (package_of(key), true)] {
                let Some(text) = text else { continue };
                let subject = self.nearest(text, instances, self.subjects.len() / 2);
                if self.is_subject(subject, text, instances) {
                    subjects.push(subject);
                }
            }
        }
        subjects.sort_unstable();
        subjects.dedup();
        let (mut rules, mut all) = (Vec::new(), false);
        for subject in subjects {
            let atoms = self.atoms_of(subject);
            let before = scan.truths[atoms.clone()].to_vec();
            self.ask_again(subject, facts, &mut scan.truths);
            if scan.truths[atoms] == before {
                continue;
            }
            all |= self.everywhere.binary_search(&number(subject)).is_ok();
            rules.extend_from_slice(self.readers.of(subject));
        }
        if all {
            rules = (0..number(self.len())).collect();
        }
        rules.sort_unstable();
        rules.dedup();
        scan.evaluated = rules.len();
        let mut changed = Vec::new();
        for rule in rules.into_iter().map(|rule| rule as usize) {
            let kind = self.kind(rule, &scan.truths);
            if scan.kinds[rule] != kind {
                scan.kinds[rule] = kind;
                changed.push(rule);
            }
        }
        changed
    }

    /// The verdict on the update with this number, with the reason when it is unknown. `scan` must be of `facts`.
    #[must_use]
    pub fn verdict(&self, update: usize, scan: &Scan, facts: &Facts) -> Verdict {
        match scan.kind(update) {
            Kind::NotApplicable => Verdict::NotApplicable,
            Kind::Needed => Verdict::Needed,
            Kind::Installed => Verdict::Installed,
            Kind::Unknown => {
                let (applicable, installed) = self.trees_of(update);
                let truth = |tree| self.truth(tree, facts, TREE_DEPTH_MAX);
                combine(truth(applicable), || truth(installed))
            }
        }
    }

    /// The verdicts other than not applicable, ascending by id. `scan` must be of `facts`.
    pub fn verdicts<'a>(
        &'a self,
        scan: &'a Scan,
        facts: &'a Facts,
    ) -> impl Iterator<Item = (UpdateId, Verdict)> + 'a {
        (0..self.len())
            .filter(|update| scan.kind(*update) != Kind::NotApplicable)
            .filter_map(|update| Some((self.id(update).parse().ok()?, self.verdict(update, scan, facts))))
    }

    /// Gives each atom the truth that it has when no fact of its subject is there.
    fn start_from_domains(&self, facts: &Facts, truths: &mut [u8]) {
        for (place, (first, domain)) in self.domains.iter().enumerate() {
            if !is_complete(facts, domain) {
                let end = self.domains.get(place + 1).map_or(self.subjects.len(), |(next, _)| *next as usize);
                truths[self.first_atom[*first as usize] as usize..self.first_atom[end] as usize]
                    .fill(UNKNOWN);
            }
        }
    }

    /// Answers the atoms of one subject from all its facts.
    fn ask_again(&self, subject: usize, facts: &Facts, truths: &mut [u8]) {
        let key = self.subjects.get(number(subject));
        let place = self.domains.partition_point(|(first, _)| *first as usize <= subject);
        let complete = self.domains.get(place - 1).is_some_and(|(_, domain)| is_complete(facts, domain));
        truths[self.atoms_of(subject)].fill(if complete { FALSE } else { UNKNOWN });
        for (_, value) in found(facts, key, self.instances[subject]) {
            if !self.instances[subject] {
                truths[self.atoms_of(subject)].fill(FALSE);
            }
            self.answer(subject, value, truths);
        }
    }

    /// Takes a found value into the truth of each atom of the subject: what any value makes true is true.
    fn answer(&self, subject: usize, value: &str, truths: &mut [u8]) {
        let mut rest = self.atoms_of(subject);
        while !rest.is_empty() {
            let class = self.codes[rest.start].class();
            let length = self.codes[rest.clone()].iter().take_while(|code| code.class() == class).count();
            let run = rest.start..rest.start + length;
            rest.start = run.end;
            match self.codes[run.start].check("") {
                Some(Check::Compare(scale, _, _)) if class & (UNREADABLE >> CLASS_SHIFT) == 0 => {
                    if scale == Scale::Caseless {
                        self.answer_each(run, scale, value, truths);
                    } else {
                        self.answer_run(run, scale, value, truths);
                    }
                }
                Some(Check::Exists | Check::Word(_)) => {
                    for atom in run {
                        let truth = match self.codes[atom].check("") {
                            Some(Check::Word(words)) => match words.yes_no() {
                                (yes, _) if yes == value => TRUE,
                                (_, no) if no == value => FALSE,
                                _ => UNKNOWN,
                            },
                            _ => TRUE,
                        };
                        truths[atom] = truths[atom].max(truth);
                    }
                }
                _ => truths[run].iter_mut().for_each(|truth| *truth = UNKNOWN.max(*truth)),
            }
        }
    }

    /// Answers atoms of one scale, which are ascending by their right-hand side: finds the value's place.
    fn answer_run(&self, run: Range<usize>, scale: Scale, value: &str, truths: &mut [u8]) {
        let Ok(left) = Read::new(scale, value) else {
            truths[run].iter_mut().for_each(|truth| *truth = UNKNOWN.max(*truth));
            return;
        };
        let order = |atom: usize| {
            let right = self.texts.get(self.values[atom]);
            if scale == Scale::Version(expr::Ordering::Deb) {
                return deb::compare_unchecked(value, right);
            }
            Read::new(scale, right).map_or(Ordering::Less, |right| left.order(&right))
        };
        let above = partition(run.clone(), |atom| order(atom).is_gt());
        let equal = partition(above..run.end, |atom| order(atom).is_eq());
        for atom in run {
            let order = if atom < above {
                Ordering::Greater
            } else if atom < equal {
                Ordering::Equal
            } else {
                Ordering::Less
            };
            let holds = HOWS.get(self.codes[atom].detail()).is_some_and(|how: &How| how.holds(order));
            if holds {
                truths[atom] = TRUE;
            }
        }
    }

    /// Answers atoms of a scale in which a place says nothing about parts, one by one.
    fn answer_each(&self, run: Range<usize>, scale: Scale, value: &str, truths: &mut [u8]) {
        for atom in run {
            let right = Read::new(scale, self.texts.get(self.values[atom]));
            let how = HOWS.get(self.codes[atom].detail());
            let truth = match (Read::new(scale, value), how, right) {
                (Ok(left), Some(how), Ok(right)) if left.holds(*how, &right) => TRUE,
                (Ok(_), Some(_), Ok(_)) => FALSE,
                _ => UNKNOWN,
            };
            truths[atom] = truths[atom].max(truth);
        }
    }

    /// The first subject that is not before `key`, looked for from `near` outward.
    fn nearest(&self, key: &str, instances: bool, near: usize) -> usize {
        let count = self.subjects.len();
        let before =
            |subject: usize| (self.subjects.get(number(subject)), self.instances[subject]) < (key, instances);
        let mut step = 1;
        let (mut low, mut high) = (near.min(count), near.min(count));
        if low < count && before(low) {
            while high < count && before(high) {
                low = high + 1;
                high = (high + step).min(count);
                step *= 2;
            }
        } else {
            while low > 0 && !before(low - 1) {
                high = low - 1;
                low = low.saturating_sub(step);
                step *= 2;
            }
        }
        partition(low..high, before)
    }

    fn is_subject(&self, subject: usize, key: &str, instances: bool) -> bool {
        subject < self.subjects.len()
            && self.instances[subject] == instances
            && self.subjects.get(number(subject)) == key
    }

    /// The outcome of a rule.
    fn kind(&self, rule: usize, truths: &[u8]) -> Kind {
        let (applicable, installed) = self.trees_of(rule);
        match value(applicable, truths, TREE_DEPTH_MAX) {
            FALSE => Kind::NotApplicable,
            TRUE => match value(installed, truths, TREE_DEPTH_MAX) {
                FALSE => Kind::Needed,
                TRUE => Kind::Installed,
                _ => Kind::Unknown,
            },
            _ => Kind::Unknown,
        }
    }

    /// The truth of a tree with its reasons, as [`crate::rules::evaluate()`] finds it.
    fn truth(&self, tree: &[u32], facts: &Facts, depth: usize) -> Truth {
        let Some(((first, rest), below)) = tree.split_first().zip(depth.checked_sub(1)) else {
            return malformed();
        };
        match Op::unpack(*first) {
            Op::Atom(atom) => self.atom(atom as usize).map_or_else(malformed, |atom| atom.ask(facts)),
            Op::Const(value) => Truth::from(value),
            Op::All(_) => all(trees(rest).map(|child| self.truth(child, facts, below))),
            Op::Any(_) => any(trees(rest).map(|child| self.truth(child, facts, below))),
            Op::Not(_) => self.truth(rest, facts, below).negate(),
        }
    }
}

/// Deepest tree of a rule within the limits: a leaf of several atoms is one node and the atoms below it.
/// What was read from disk may be no tree at all, and must not use up the stack.
const TREE_DEPTH_MAX: usize = DEPTH_MAX + 1;

fn malformed() -> Truth {
    Truth::unknown("the compiled rule is malformed".to_owned())
}

/// The value of a tree over the truths of the atoms.
fn value(tree: &[u32], truths: &[u8], depth: usize) -> u8 {
    let Some(((first, rest), below)) = tree.split_first().zip(depth.checked_sub(1)) else { return UNKNOWN };
    match Op::unpack(*first) {
        Op::Atom(atom) => truths.get(atom as usize).copied().unwrap_or(UNKNOWN),
        Op::Const(value) => {
            if value {
                TRUE
            } else {
                FALSE
            }
        }
        Op::Not(_) => TRUE - value(rest, truths, below),
        Op::All(_) => {
            let mut least = TRUE;
            for child in trees(rest) {
                least = least.min(value(child, truths, below));
                if least == FALSE {
                    break;
                }
            }
            least
        }
        Op::Any(_) => {
            let mut greatest = FALSE;
            for child in trees(rest) {
                greatest = greatest.max(value(child, truths, below));
                if greatest == TRUE {
                    break;
                }
            }
            greatest
        }
    }
}

fn is_complete(facts: &Facts, domain: &str) -> bool {
    domain != UNDECIDABLE && matches!(facts.domains.get(domain), Some(Domain::Complete { .. }))
}

/// What the keys of all instances of the package start with: all up to the last `:`.
fn package_of(key: &str) -> Option<&str> {
    let end = key.rfind(':')? + 1;
    key.starts_with("package:").then(|| &key[..end])
}

/// A set of small numbers.
struct Bits(Vec<u64>);

impl Bits {
    fn new(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)])
    }

    fn set(&mut self, number: u32) {
        self.0[number as usize / 64] |= 1 << (number % 64);
    }

    /// Ascending.
    fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().flat_map(|(place, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros();
                left &= left.checked_sub(1)?;
                Some(place * 64 + bit as usize)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::{
        arbitrary::any,
        collection::vec,
        prelude::{ProptestConfig, Strategy, prop_assert_eq, proptest},
    };

    use super::*;
    use crate::rules::{compile::Compiler, evaluate, expr::Expr, sample};

    type Rules = Vec<(Expr, Expr)>;

    fn id(number: usize) -> UpdateId {
        format!("c/{number}").parse().unwrap()
    }

    fn compile(rules: &Rules) -> Compiled {
        let mut compiler = Compiler::new();
        for (number, (applicable, installed)) in rules.iter().enumerate() {
            compiler.add(&id(number), applicable, installed).unwrap();
        }
        compiler.finish()
    }

    fn by_tree(rules: &Rules, facts: &Facts) -> Vec<Verdict> {
        let verdict = |(applicable, installed): &(Expr, Expr)| {
            combine(evaluate(applicable, facts), || evaluate(installed, facts))
        };
        rules.iter().map(verdict).collect()
    }

    fn by_scan(compiled: &Compiled, scan: &Scan, facts: &Facts) -> Vec<Verdict> {
        (0..compiled.len())
            .map(|number| compiled.verdict(compiled.position(&id(number)).unwrap(), scan, facts))
            .collect()
    }

    fn rules() -> impl Strategy<Value = Rules> {
        vec((sample::expr(), sample::expr()), 0..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn compiled_rules_give_the_verdicts_and_reasons_of_the_trees(
            rules in rules(), facts in vec(sample::facts(), 1..3)
        ) {
            let compiled = compile(&rules);
            for facts in &facts {
                let scan = compiled.scan(facts);
                prop_assert_eq!(by_scan(&compiled, &scan, facts), by_tree(&rules, facts));
                let listed: Vec<_> = compiled.verdicts(&scan, facts).collect();
                let applicable = by_tree(&rules, facts).iter().filter(|v| **v != Verdict::NotApplicable).count();
                prop_assert_eq!(listed.len(), applicable);
            }
        }

        #[test]
        fn a_rescan_after_a_change_equals_a_scan(
            rules in rules(), before in sample::facts(), other in sample::facts(), same_domains in any::<bool>()
        ) {
            let compiled = compile(&rules);
            let mut after = other;
            if same_domains {
                after.domains.clone_from(&before.domains);
            }
            let mut scan = compiled.scan(&before);
            let old = scan.clone();
            let changed = compiled.rescan(&mut scan, &before.delta(&after), &after);
            let fresh = compiled.scan(&after);
            prop_assert_eq!(&scan.truths, &fresh.truths);
            prop_assert_eq!(&scan.kinds, &fresh.kinds);
            let differing: Vec<_> = (0..compiled.len()).filter(|n| old.kind(*n) != scan.kind(*n)).collect();
            prop_assert_eq!(changed, differing);
        }

        #[test]
        fn rules_read_from_disk_are_the_same_rules(rules in rules(), facts in sample::facts()) {
            let mut written = Vec::new();
            compile(&rules).write(&mut written).unwrap();
            let read = Compiled::read(&mut written.as_slice()).unwrap();
            prop_assert_eq!(by_scan(&read, &read.scan(&facts), &facts), by_tree(&rules, &facts));
        }
    }
}
