//! The smallest question a rule asks: one about one fact.
//!
//! Every leaf of a rule is a conjunction of atoms. An atom's fact is found (a value), absent (its domain
//! was read completely and has no such key) or unread; a found value that cannot be compared makes the
//! answer unknown, an absent fact makes every atom false.

use std::{cmp, collections::BTreeSet, fmt, ops::Bound};

use super::{
    evaluate::{Reasons, Truth},
    expr::{Compare, Expr, FileTest, NumberTest, Ordering, OsTest, PackageTest, RegistryTest},
};
use crate::{
    facts::{Domain, Facts, domain_of},
    version::Version,
};

/// One question about one fact, or about all instances of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Atom<'a> {
    /// The fact's key; with `instances`, what the keys of the instances start with.
    pub(super) key: String,
    /// Whether any key of the form `key` + architecture may answer; an architecture has no `:`.
    pub(super) instances: bool,
    pub(super) check: Check<'a>,
}

/// What is asked of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check<'a> {
    /// That there is one.
    Exists,
    /// That it is the first of two words.
    Word(Words),
    /// That it compares so.
    Compare(Scale, How, &'a str),
}

/// The two words that a yes/no fact may have as its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Words {
    PresentAbsent,
    InstalledAbsent,
    TrueFalse,
}

impl Words {
    pub(super) fn yes_no(self) -> (&'static str, &'static str) {
        match self {
            Self::PresentAbsent => ("present", "absent"),
            Self::InstalledAbsent => ("installed", "absent"),
            Self::TrueFalse => ("true", "false"),
        }
    }
}

/// In which order two values compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scale {
    /// Equal or not, nothing else.
    Text,
    /// As whole numbers.
    Number,
    /// As versions.
    Version(Ordering),
}

/// Which comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum How {
    Lt,
    Le,
    Eq,
    Ge,
    Gt,
    Ne,
}

impl How {
    pub(super) fn holds(self, order: cmp::Ordering) -> bool {
        match self {
            Self::Lt => order.is_lt(),
            Self::Le => order.is_le(),
            Self::Eq => order.is_eq(),
            Self::Ge => order.is_ge(),
            Self::Gt => order.is_gt(),
            Self::Ne => order.is_ne(),
        }
    }

    pub(super) fn symbol(self) -> &'static str {
        match self {
            Self::Lt => "<",
            Self::Le => "<=",
            Self::Eq => "=",
            Self::Ge => ">=",
            Self::Gt => ">",
            Self::Ne => "!=",
        }
    }

    /// The comparison that holds when this one does not.
    pub(super) fn opposite(self) -> Self {
        match self {
            Self::Lt => Self::Ge,
            Self::Le => Self::Gt,
            Self::Eq => Self::Ne,
            Self::Ge => Self::Lt,
            Self::Gt => Self::Le,
            Self::Ne => Self::Eq,
        }
    }
}

/// A value as its scale reads it.
pub(super) enum Read<'a> {
    Text(&'a str),
    Number(i128),
    Version(Version<'a>),
}

impl<'a> Read<'a> {
    /// Reads `text`; the error is a sentence that names it.
    pub(super) fn new(scale: Scale, text: &'a str) -> Result<Self, String> {
        match scale {
            Scale::Text => Ok(Self::Text(text)),
            Scale::Number => {
                text.parse().map(Self::Number).map_err(|_| format!("`{text}` is not a whole number"))
            }
            Scale::Version(ordering) => {
                Version::parse(ordering, text).map(Self::Version).map_err(|error| error.to_string())
            }
        }
    }

    /// How the two compare; those of different scales as equal, which no caller asks for.
    pub(super) fn order(&self, other: &Read<'_>) -> cmp::Ordering {
        match (self, other) {
            (Self::Text(a), Read::Text(b)) => (*a).cmp(b),
            (Self::Number(a), Read::Number(b)) => a.cmp(b),
            (Self::Version(a), Read::Version(b)) => a.compare(b).unwrap_or(cmp::Ordering::Equal),
            _ => cmp::Ordering::Equal,
        }
    }
}

/// Reads the right-hand side of a comparison; the error is the reason why it can never be decided.
pub(super) fn threshold(scale: Scale, how: How, text: &str) -> Result<Read<'_>, String> {
    if scale == Scale::Text && !matches!(how, How::Eq | How::Ne) {
        return Err(format!("the rule compares with `{}` and names no ordering", how.symbol()));
    }
    Read::new(scale, text).map_err(|reason| format!("the rule cannot be decided: {reason}"))
}

/// What the facts say of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reading<'f> {
    Found(&'f str),
    Absent,
    /// Why it is not known.
    Unread(String),
}

/// What `facts` say of `key`.
pub(super) fn read<'f>(facts: &'f Facts, key: &str) -> Reading<'f> {
    match facts.values.get(key) {
        Some(value) => Reading::Found(value),
        None => match unread(facts, key) {
            Some(reason) => Reading::Unread(reason),
            None => Reading::Absent,
        },
    }
}

/// Why a key that has no value is unknown; `None` when it is absent.
pub(super) fn unread(facts: &Facts, key: &str) -> Option<String> {
    let domain = domain_of(key);
    match facts.domains.get(domain) {
        Some(Domain::Complete { .. }) => None,
        Some(Domain::Asked { source }) => {
            Some(format!("`{}` was not read from `{source}`", key.trim_end_matches(':')))
        }
        Some(Domain::Failed { source, reason }) => {
            Some(format!("`{domain}` could not be read from `{source}`: {reason}"))
        }
        None => Some(format!("no `{domain}` facts were collected")),
    }
}

/// The facts under `key`, or, with `instances`, under `key` + an architecture; ascending by key.
pub(super) fn found<'f>(
    facts: &'f Facts,
    key: &str,
    instances: bool,
) -> impl Iterator<Item = (&'f str, &'f str)> {
    facts
        .values
        .range::<str, _>((Bound::Included(key), Bound::Unbounded))
        .map(|(found, value)| (found.as_str(), value.as_str()))
        .take_while(move |(found, _)| if instances { found.starts_with(key) } else { *found == key })
        .filter(move |(found, _)| !instances || !found[key.len()..].contains(':'))
}

impl Check<'_> {
    /// The answer for a value that was found under `key`.
    pub(super) fn answer(&self, key: &str, value: &str) -> Truth {
        match *self {
            Self::Exists => Truth::True,
            Self::Word(words) => {
                let (yes, no) = words.yes_no();
                if value == yes {
                    Truth::True
                } else if value == no {
                    Truth::False
                } else {
                    Truth::unknown(format!("`{key}` is `{value}`, neither `{yes}` nor `{no}`"))
                }
            }
            Self::Compare(scale, how, right) => {
                let right = match threshold(scale, how, right) {
                    Ok(right) => right,
                    Err(reason) => return Truth::unknown(reason),
                };
                match Read::new(scale, value) {
                    Ok(left) => Truth::from(how.holds(left.order(&right))),
                    Err(reason) => Truth::unknown(format!("`{key}` cannot be compared: {reason}")),
                }
            }
        }
    }
}

impl<'a> Atom<'a> {
    /// The answer from `facts`.
    pub(super) fn ask(&self, facts: &Facts) -> Truth {
        if !self.instances {
            return match read(facts, &self.key) {
                Reading::Found(value) => self.check.answer(&self.key, value),
                Reading::Absent => Truth::False,
                Reading::Unread(reason) => Truth::unknown(reason),
            };
        }
        let mut reasons = Reasons::default();
        for (key, value) in self.found(facts) {
            match self.check.answer(key, value) {
                Truth::True => return Truth::True,
                Truth::False => {}
                Truth::Unknown(more) => reasons.merge(more),
            }
        }
        if let Some(reason) = unread(facts, &self.key) {
            reasons.push(reason);
        }
        if reasons.is_empty() { Truth::False } else { Truth::Unknown(reasons) }
    }

    /// The facts that it reads, ascending by key.
    pub(super) fn found<'f>(&self, facts: &'f Facts) -> impl Iterator<Item = (&'f str, &'f str)> {
        found(facts, &self.key, self.instances)
    }

    fn new(key: String, check: Check<'a>) -> Self {
        Self { key, instances: false, check }
    }
}

fn compare(scale: Scale, with: &Compare) -> Check<'_> {
    let (how, value) = match with {
        Compare::Lt(value) => (How::Lt, value),
        Compare::Le(value) => (How::Le, value),
        Compare::Eq(value) => (How::Eq, value),
        Compare::Ge(value) => (How::Ge, value),
        Compare::Gt(value) => (How::Gt, value),
        Compare::Ne(value) => (How::Ne, value),
    };
    Check::Compare(scale, how, value)
}

fn equals(text: &str) -> Check<'_> {
    Check::Compare(Scale::Text, How::Eq, text)
}

const WINDOWS: Scale = Scale::Version(Ordering::Windows);

/// The atoms whose conjunction a leaf is; `None` for a node that is not a leaf.
pub(super) fn atoms(expr: &Expr) -> Option<Vec<Atom<'_>>> {
    Some(match expr {
        Expr::Const(_) | Expr::All(_) | Expr::Any(_) | Expr::Not(_) => return None,
        Expr::Os(OsTest { family, version, codename, build, architecture }) => {
            let mut found = Vec::new();
            for (part, value) in [("family", family), ("codename", codename), ("architecture", architecture)]
            {
                if let Some(value) = value {
                    found.push(Atom::new(format!("os:{part}"), equals(value)));
                }
            }
            for (part, with) in [("version", version), ("build", build)] {
                if let Some(with) = with {
                    found.push(Atom::new(format!("os:{part}"), compare(WINDOWS, with)));
                }
            }
            found
        }
        Expr::Package(PackageTest { manager, name, architecture, version }) => {
            let check = match version {
                Some(with) => compare(Scale::Version(manager.ordering()), with),
                None => Check::Exists,
            };
            let key =
                format!("package:{}:{name}:{}", manager.as_str(), architecture.as_deref().unwrap_or(""));
            vec![Atom { key, instances: architecture.is_none(), check }]
        }
        Expr::File(FileTest { path, version, size, sha256 }) => {
            let mut found = vec![Atom::new(format!("file:{path}"), Check::Word(Words::PresentAbsent))];
            if let Some(with) = version {
                found.push(Atom::new(format!("file:{path}#version"), compare(WINDOWS, with)));
            }
            if let Some(with) = size {
                found.push(Atom::new(format!("file:{path}#size"), compare(Scale::Number, with)));
            }
            if let Some(digest) = sha256 {
                found.push(Atom::new(format!("file:{path}#sha256"), equals(digest)));
            }
            found
        }
        Expr::Registry(RegistryTest { key, value, data, ordering }) => {
            let mut found = vec![Atom::new(format!("registry:{key}"), Check::Word(Words::PresentAbsent))];
            let name = value.as_deref().unwrap_or("");
            match data {
                Some(with) => {
                    let scale = ordering.map_or(Scale::Text, Scale::Version);
                    found.push(Atom::new(format!("registry:{key}#{name}"), compare(scale, with)));
                }
                None if value.is_some() => {
                    found.push(Atom::new(format!("registry:{key}#{name}"), Check::Exists));
                }
                None => {}
            }
            found
        }
        Expr::Update(test) => {
            vec![Atom::new(format!("update:{}", test.id), Check::Word(Words::InstalledAbsent))]
        }
        Expr::Flag(test) => vec![Atom::new(format!("flag:{}", test.name), Check::Word(Words::TrueFalse))],
        Expr::Number(NumberTest { name, value }) => {
            vec![Atom::new(format!("number:{name}"), compare(Scale::Number, value))]
        }
    })
}

/// Adds to `keys` every fact key that `expr` reads. A key that ends in `:` stands for all keys that start
/// with it: a package in any architecture.
pub fn asks(expr: &Expr, keys: &mut BTreeSet<String>) {
    match expr {
        Expr::All(children) | Expr::Any(children) => children.iter().for_each(|child| asks(child, keys)),
        Expr::Not(child) => asks(child, keys),
        leaf => keys.extend(atoms(leaf).into_iter().flatten().map(|atom| atom.key)),
    }
}

/// What is compared, in words: `package libssl3`, `file /etc/x version`.
pub(super) struct Subject<'a>(pub(super) &'a str);

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, rest) = self.0.split_once(':').unwrap_or((self.0, ""));
        match kind {
            "package" => {
                let rest = rest.split_once(':').map_or(rest, |(_, rest)| rest);
                write!(f, "package {}", rest.trim_end_matches(':'))
            }
            "file" | "registry" => match rest.rsplit_once('#') {
                Some((path, "")) => write!(f, "{kind} {path} default value"),
                Some((path, part)) if kind == "registry" => write!(f, "{kind} {path} value {part}"),
                Some((path, part)) => write!(f, "{kind} {path} {part}"),
                None => write!(f, "{kind} {rest}"),
            },
            _ => write!(f, "{kind} {rest}"),
        }
    }
}

impl fmt::Display for Atom<'_> {
    /// One line: `package libssl3 < 3.0.17-1~deb12u3`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = Subject(&self.key);
        match self.check {
            Check::Exists if self.key.starts_with("package:") => write!(f, "{subject} installed"),
            Check::Exists => write!(f, "{subject} present"),
            Check::Word(Words::TrueFalse) => write!(f, "{subject}"),
            Check::Word(words) => write!(f, "{subject} {}", words.yes_no().0),
            Check::Compare(_, how, value) => write!(f, "{subject} {} {value}", how.symbol()),
        }
    }
}
