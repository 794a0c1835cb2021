//! The rules of many updates at once: small in memory, and evaluated only where they can matter.
//!
//! A [`Compiler`] takes updates one by one and keeps neither documents nor trees: texts are interned, a
//! tree becomes a few numbers, and equal questions of different rules become one *atom*. A scan answers
//! every atom once, by walking the facts, and then evaluates a rule only when an atom of its *guard* is
//! not false: a set of atoms, chosen to be rare, that makes `applicable` false when all of them are. A
//! rescan answers only the atoms of the facts that changed and evaluates the rules that read them.
//!
//! The result is that of [`super::verdict`], rule by rule, reasons included; a property test holds it.

use std::ops::Range;

use super::{
    atom::{Atom, Check, How, Scale, Words, atoms, threshold},
    expr::{Expr, Ordering},
    limits::{self, LimitError},
};
use crate::{facts::domain_of, id::UpdateId};

mod build;
mod checksum;
mod disk;
mod intern;
mod scan;

use self::intern::{Groups, Slots, Texts, hash};
pub use self::{
    disk::DecodeError,
    scan::{Kind, Scan},
};

/// Most rules in one compiled set: ten times Microsoft's and Debian's updates together.
pub const RULES_MAX: usize = 1 << 20;

/// Most numbers that all trees together may take: 64 MiB, some 60 for each of a quarter million rules.
pub const OPS_MAX: usize = 1 << 24;

/// Most bytes of texts of one kind (ids, keys, values) in one compiled set.
pub const TEXTS_BYTES_MAX: usize = 64 << 20;

/// An update that cannot be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// One of its rules is too big.
    #[error("update `{update}` has a rule that is too big")]
    Limit {
        /// Which update.
        update: UpdateId,
        /// Which limit.
        source: LimitError,
    },
    /// An update of that id is there already.
    #[error("update `{update}` is there twice")]
    Twice {
        /// Which update.
        update: UpdateId,
    },
    /// One of [`RULES_MAX`], [`OPS_MAX`], [`TEXTS_BYTES_MAX`] is reached.
    #[error("update `{update}` does not fit: all rules together are too big")]
    Full {
        /// Which update.
        update: UpdateId,
    },
}

/// A node of a tree as one number: what it is in the upper four bits; in the others an atom, a constant, or
/// how many numbers it takes, its children's included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Atom(u32),
    Const(bool),
    All(u32),
    Any(u32),
    Not(u32),
}

const OP_SHIFT: u32 = 28;
const OP_MASK: u32 = (1 << OP_SHIFT) - 1;

impl Op {
    fn pack(self) -> u32 {
        let (kind, payload) = match self {
            Self::Atom(atom) => (0, atom),
            Self::Const(value) => (1, u32::from(value)),
            Self::All(length) => (2, length),
            Self::Any(length) => (3, length),
            Self::Not(length) => (4, length),
        };
        (kind << OP_SHIFT) | (payload & OP_MASK)
    }

    fn unpack(op: u32) -> Self {
        let payload = op & OP_MASK;
        match op >> OP_SHIFT {
            0 => Self::Atom(payload),
            1 => Self::Const(payload != 0),
            2 => Self::All(payload),
            3 => Self::Any(payload),
            _ => Self::Not(payload),
        }
    }

    /// How many numbers the node takes, its children's included; at least 1.
    fn length(self) -> usize {
        match self {
            Self::Atom(_) | Self::Const(_) => 1,
            Self::All(length) | Self::Any(length) | Self::Not(length) => (length as usize).max(1),
        }
    }
}

/// The trees that stand one after another in `ops`.
fn trees(mut ops: &[u32]) -> impl Iterator<Item = &[u32]> {
    std::iter::from_fn(move || {
        let (tree, rest) = ops.split_at_checked(Op::unpack(*ops.first()?).length())?;
        ops = rest;
        Some(tree)
    })
}

/// What an atom asks, without its value, in one number: `class * 16 + detail`. Class 0 is the questions without
/// a right-hand side, the others are a scale each; the top bit marks a right-hand side that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Code(u16);

const UNREADABLE: u16 = 0x8000;
const CLASS_SHIFT: u32 = 4;
const DETAIL_MASK: u16 = (1 << CLASS_SHIFT) - 1;

const SCALES: [Scale; 8] = [
    Scale::Text,
    Scale::Caseless,
    Scale::Time,
    Scale::Number,
    Scale::Version(Ordering::Deb),
    Scale::Version(Ordering::Rpm),
    Scale::Version(Ordering::Windows),
    Scale::Version(Ordering::Semver),
];
const HOWS: [How; 9] =
    [How::Lt, How::Le, How::Eq, How::Ge, How::Gt, How::Ne, How::Begins, How::Contains, How::Ends];
const WORDS: [Words; 3] = [Words::PresentAbsent, Words::InstalledAbsent, Words::TrueFalse];

fn place<T: PartialEq>(all: &[T], one: &T) -> u16 {
    all.iter().position(|each| each == one).and_then(|at| u16::try_from(at).ok()).unwrap_or(0)
}

impl Code {
    fn of(check: Check<'_>) -> Self {
        match check {
            Check::Exists => Self(0),
            Check::Word(words) => Self(1 + place(&WORDS, &words)),
            Check::Compare(scale, how, value) => {
                let unreadable = if threshold(scale, how, value).is_ok() { 0 } else { UNREADABLE };
                Self(unreadable | ((1 + place(&SCALES, &scale)) << CLASS_SHIFT) | place(&HOWS, &how))
            }
        }
    }

    /// `None` for a number that [`Code::of`] never makes.
    fn check(self, value: &str) -> Option<Check<'_>> {
        let (class, detail) = ((self.0 & !UNREADABLE) >> CLASS_SHIFT, self.detail());
        match class.checked_sub(1) {
            None if detail == 0 => Some(Check::Exists),
            None => WORDS.get(detail - 1).map(|words| Check::Word(*words)),
            Some(scale) => Some(Check::Compare(*SCALES.get(usize::from(scale))?, *HOWS.get(detail)?, value)),
        }
    }

    /// From a number on disk; one that is too great is none that [`Code::of`] makes.
    fn read(number: u32) -> Self {
        Self(u16::try_from(number).unwrap_or(DETAIL_MASK))
    }

    /// Codes of one class read a found value in the same way.
    fn class(self) -> u16 {
        self.0 >> CLASS_SHIFT
    }

    /// Which of the words or comparisons.
    fn detail(self) -> usize {
        usize::from(self.0 & DETAIL_MASK)
    }
}

/// The rules of many updates, ready to be scanned; updates are numbered in ascending order of id.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// Ascending; rule `n` has id `n`.
    ids: Texts,
    /// Rule → where its two trees start among the ops, `applicable` and then `installed`.
    rules: Vec<u32>,
    ops: Vec<u32>,
    /// Fact keys, ascending; of equal texts the exact key goes before the instances.
    subjects: Texts,
    /// Whether the subject is all instances of a package.
    instances: Vec<bool>,
    /// Ranges of subjects that belong to one domain: number of the first, domain.
    domains: Vec<(u32, Box<str>)>,
    /// Subject → its atoms, which are consecutive.
    first_atom: Vec<u32>,
    codes: Vec<Code>,
    /// Atom → its right-hand side in `texts`.
    values: Vec<u32>,
    texts: Texts,
    /// Subject → rules that read it, but for those that are read `everywhere`.
    readers: Groups,
    /// Subjects that so many rules read that a change of one is a change of all, ascending.
    everywhere: Vec<u32>,
    /// Atoms that guard a rule, ascending.
    guard_atoms: Vec<u32>,
    /// Place among these atoms → rules that it guards.
    guards: Groups,
    /// Rules without a guard.
    unguarded: Vec<u32>,
}

/// Takes updates one by one and makes a [`Compiled`] of them.
#[derive(Debug, Default)]
pub struct Compiler {
    compiled: Compiled,
    id_slots: Slots,
    subject_slots: Slots,
    text_slots: Slots,
    atom_slots: Slots,
    /// Atom → subject.
    atom_subjects: Vec<u32>,
}

impl Compiler {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an update.
    ///
    /// # Errors
    ///
    /// [`CompileError`]; the update is then not there, and the others still are.
    pub fn add(
        &mut self,
        update: &UpdateId,
        applicable: &Expr,
        installed: &Expr,
    ) -> Result<(), CompileError> {
        let limit = |source| CompileError::Limit { update: update.clone(), source };
        limits::check(applicable).map_err(limit)?;
        limits::check(installed).map_err(limit)?;
        self.new_rule(update)?;
        self.lower(applicable);
        self.lower(installed);
        Ok(())
    }

    /// Begins a rule, when there is room for another of any size.
    fn new_rule(&mut self, update: &UpdateId) -> Result<(), CompileError> {
        let compiled = &mut self.compiled;
        // One rule has at most 2 * NODES_MAX leaves of at most 5 atoms each.
        let full = compiled.rules.len() >= RULES_MAX
            || compiled.ops.len() + 12 * limits::NODES_MAX > OPS_MAX
            || [&compiled.ids, &compiled.subjects, &compiled.texts]
                .iter()
                .any(|texts| texts.bytes() > TEXTS_BYTES_MAX);
        if full {
            return Err(CompileError::Full { update: update.clone() });
        }
        let ids = &mut compiled.ids;
        let text = update.as_str();
        let mut new = false;
        self.id_slots.find_or_add(
            hash(&text),
            ids,
            |ids, id| ids.get(id) == text,
            |ids| {
                new = true;
                ids.push(text)
            },
        );
        if !new {
            return Err(CompileError::Twice { update: update.clone() });
        }
        compiled.rules.push(number(compiled.ops.len()));
        Ok(())
    }

    /// Appends the tree of `expr` to the ops.
    fn lower(&mut self, expr: &Expr) {
        match expr {
            Expr::Const(value) => self.compiled.ops.push(Op::Const(*value).pack()),
            Expr::All(children) => {
                self.node(Op::All, |this| children.iter().for_each(|each| this.lower(each)))
            }
            Expr::Any(children) => {
                self.node(Op::Any, |this| children.iter().for_each(|each| this.lower(each)))
            }
            Expr::Not(child) => self.node(Op::Not, |this| this.lower(child)),
            leaf => match atoms(leaf).unwrap_or_default().as_slice() {
                [one] => self.lower_atom(one),
                all => self.node(Op::All, |this| all.iter().for_each(|atom| this.lower_atom(atom))),
            },
        }
    }

    fn lower_atom(&mut self, atom: &Atom<'_>) {
        let op = Op::Atom(self.atom(atom));
        self.compiled.ops.push(op.pack());
    }

    fn node(&mut self, op: fn(u32) -> Op, children: impl FnOnce(&mut Self)) {
        let at = self.compiled.ops.len();
        self.compiled.ops.push(0);
        children(self);
        self.compiled.ops[at] = op(number(self.compiled.ops.len() - at)).pack();
    }

    /// The number of an atom, new or not.
    fn atom(&mut self, atom: &Atom<'_>) -> u32 {
        let Compiled { subjects, instances, texts, codes, values, .. } = &mut self.compiled;
        let key = atom.key.as_str();
        let subject = self.subject_slots.find_or_add(
            hash(&(key, atom.instances)),
            &mut (subjects, instances),
            |(subjects, instances), id| subjects.get(id) == key && instances[id as usize] == atom.instances,
            |(subjects, instances)| {
                instances.push(atom.instances);
                subjects.push(key)
            },
        );
        let code = Code::of(atom.check);
        let text = match atom.check {
            Check::Compare(_, _, value) => value,
            Check::Exists | Check::Word(_) => "",
        };
        let value = self.text_slots.find_or_add(
            hash(&text),
            texts,
            |texts, id| texts.get(id) == text,
            |texts| texts.push(text),
        );
        self.atom_slots.find_or_add(
            hash(&(subject, code.0, value)),
            &mut (codes, values, &mut self.atom_subjects),
            |(codes, values, subjects), id| {
                let id = id as usize;
                codes[id] == code && values[id] == value && subjects[id] == subject
            },
            |(codes, values, subjects)| {
                codes.push(code);
                values.push(value);
                subjects.push(subject);
                number(codes.len() - 1)
            },
        )
    }
}

/// The first of the range for which `before` is false, when it is true up to somewhere and false from there.
fn partition(range: Range<usize>, before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (range.start, range.end);
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// A place in one of the lists, whose lengths the limits above keep far below 2^28.
fn number(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

impl Compiled {
    /// How many updates there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The id of the update with this number; empty beyond the last.
    #[must_use]
    pub fn id(&self, update: usize) -> &str {
        self.ids.get(number(update))
    }

    /// The number of the update with this id.
    #[must_use]
    pub fn position(&self, update: &UpdateId) -> Option<usize> {
        let place = partition(0..self.len(), |number| self.id(number) < update.as_str());
        (self.id(place) == update.as_str()).then_some(place)
    }

    /// The fact keys that some rule reads, ascending; one that ends in `:` stands for all keys that start
    /// with it.
    pub fn asks(&self) -> impl Iterator<Item = &str> {
        (0..self.subjects.len()).map(|subject| self.subjects.get(number(subject)))
    }

    /// Bytes of memory that it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.ids.bytes()
            + self.subjects.bytes()
            + self.texts.bytes()
            + size_of_val(self.rules.as_slice())
            + size_of_val(self.ops.as_slice())
            + self.instances.len()
            + size_of_val(self.first_atom.as_slice())
            + size_of_val(self.codes.as_slice())
            + size_of_val(self.values.as_slice())
            + self.readers.bytes()
            + self.guards.bytes()
            + [&self.everywhere, &self.guard_atoms, &self.unguarded]
                .map(|numbers| size_of_val(numbers.as_slice()))
                .iter()
                .sum::<usize>()
    }

    /// The trees `applicable` and `installed` of a rule.
    fn trees_of(&self, rule: usize) -> (&[u32], &[u32]) {
        let start = self.rules.get(rule).map_or(self.ops.len(), |start| *start as usize);
        let mut both = trees(self.ops.get(start..).unwrap_or(&[]));
        (both.next().unwrap_or(&[]), both.next().unwrap_or(&[]))
    }

    /// The atoms of a subject.
    fn atoms_of(&self, subject: usize) -> Range<usize> {
        self.first_atom[subject] as usize..self.first_atom[subject + 1] as usize
    }

    /// An atom as the trees of documents have it; `None` when there is none of that number.
    fn atom(&self, atom: usize) -> Option<Atom<'_>> {
        let value = self.texts.get(*self.values.get(atom)?);
        let subject = self.first_atom.partition_point(|first| *first as usize <= atom).checked_sub(1)?;
        Some(Atom {
            key: self.subjects.get(number(subject)).to_owned(),
            instances: *self.instances.get(subject)?,
            check: self.codes.get(atom)?.check(value)?,
        })
    }

    /// Splits the subjects, which are in order, into the ranges of their domains.
    fn find_domains(&mut self) {
        self.domains.clear();
        for subject in 0..self.subjects.len() {
            let domain = domain_of(self.subjects.get(number(subject)));
            if self.domains.last().is_none_or(|(_, last)| **last != *domain) {
                self.domains.push((number(subject), domain.into()));
            }
        }
    }
}
