//! The smallest question a rule asks: one about one fact.
//!
//! Every leaf of a rule is a conjunction of atoms. An atom's fact is found (a value), absent (its domain
//! was read completely and has no such key) or unread; a found value that cannot be compared makes the
//! answer unknown, an absent fact makes every atom false.

use std::{cmp, collections::BTreeSet, fmt, ops::Bound};

use jiff::{Timestamp, tz::TimeZone};

use super::{
    evaluate::{Reasons, Truth},
    expr::{
        AttributeTest, Compare, DataOrdering, Expr, FileTest, LoopTest, MsiTest, NumberTest, Ordering,
        OsTest, PackageTest, RegistryTest, WindowsTest, WmiTest,
    },
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
    /// Texts whose case does not matter: equal or not, or a part.
    Caseless,
    /// As moments.
    Time,
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
    Begins,
    Contains,
    Ends,
}

impl How {
    /// Whether two values in this order compare so; false of parts of texts, which have no order.
    pub(super) fn holds(self, order: cmp::Ordering) -> bool {
        match self {
            Self::Lt => order.is_lt(),
            Self::Le => order.is_le(),
            Self::Eq => order.is_eq(),
            Self::Ge => order.is_ge(),
            Self::Gt => order.is_gt(),
            Self::Ne => order.is_ne(),
            Self::Begins | Self::Contains | Self::Ends => false,
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
            Self::Begins => "begins with",
            Self::Contains => "contains",
            Self::Ends => "ends with",
        }
    }

    /// The comparison that holds when this one does not; parts of texts have none.
    pub(super) fn opposite(self) -> Option<Self> {
        Some(match self {
            Self::Lt => Self::Ge,
            Self::Le => Self::Gt,
            Self::Eq => Self::Ne,
            Self::Ge => Self::Lt,
            Self::Gt => Self::Le,
            Self::Ne => Self::Eq,
            Self::Begins | Self::Contains | Self::Ends => return None,
        })
    }
}

/// A value as its scale reads it.
pub(super) enum Read<'a> {
    Text(&'a str),
    Folded(String),
    Time(Timestamp),
    Number(i128),
    Version(Version<'a>),
}

impl<'a> Read<'a> {
    /// Reads `text`; the error is a sentence that names it.
    pub(super) fn new(scale: Scale, text: &'a str) -> Result<Self, String> {
        match scale {
            Scale::Text => Ok(Self::Text(text)),
            Scale::Caseless => Ok(Self::Folded(text.to_lowercase())),
            Scale::Time => moment(text).map(Self::Time).ok_or_else(|| format!("`{text}` is not a moment")),
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
            (Self::Folded(a), Read::Folded(b)) => a.cmp(b),
            (Self::Time(a), Read::Time(b)) => a.cmp(b),
            (Self::Number(a), Read::Number(b)) => a.cmp(b),
            (Self::Version(a), Read::Version(b)) => a.compare(b).unwrap_or(cmp::Ordering::Equal),
            _ => cmp::Ordering::Equal,
        }
    }

    /// Whether this one, on the left, compares so with the other.
    pub(super) fn holds(&self, how: How, right: &Read<'_>) -> bool {
        match (self, right) {
            (Self::Folded(left), Read::Folded(right)) => match how {
                How::Begins => left.starts_with(right.as_str()),
                How::Contains => left.contains(right.as_str()),
                How::Ends => left.ends_with(right.as_str()),
                how => how.holds(left.cmp(right)),
            },
            _ => how.holds(self.order(right)),
        }
    }
}

/// RFC 3339, or a civil time that is taken as UTC.
fn moment(text: &str) -> Option<Timestamp> {
    let civil =
        || Some(text.parse::<jiff::civil::DateTime>().ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp());
    text.parse().ok().or_else(civil)
}

/// Reads the right-hand side of a comparison; the error is the reason why it can never be decided.
pub(super) fn threshold(scale: Scale, how: How, text: &str) -> Result<Read<'_>, String> {
    let part = matches!(how, How::Begins | How::Contains | How::Ends);
    let fits = match scale {
        Scale::Text => matches!(how, How::Eq | How::Ne),
        Scale::Caseless => part || matches!(how, How::Eq | How::Ne),
        Scale::Number | Scale::Time | Scale::Version(_) => !part,
    };
    if !fits {
        let symbol = how.symbol();
        return Err(match scale {
            Scale::Text => format!("the rule compares with `{symbol}` and names no ordering"),
            _ => format!("the rule compares with `{symbol}`, which its ordering does not have"),
        });
    }
    Read::new(scale, text).map_err(|reason| format!("the rule cannot be decided: {reason}"))
}

/// The domain of questions that no fact can answer; the rest of the key is the reason.
pub(super) const UNDECIDABLE: &str = "undecidable";

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
    match facts.values.get(key).filter(|_| domain_of(key) != UNDECIDABLE) {
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
    if domain == UNDECIDABLE {
        return Some(key[domain.len() + 1..].to_owned());
    }
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
        .filter(|(found, _)| domain_of(found) != UNDECIDABLE)
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
                    Ok(left) => Truth::from(left.holds(how, &right)),
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
        Compare::Begins(value) => (How::Begins, value),
        Compare::Contains(value) => (How::Contains, value),
        Compare::Ends(value) => (How::Ends, value),
    };
    Check::Compare(scale, how, value)
}

fn equals(text: &str) -> Check<'_> {
    Check::Compare(Scale::Text, How::Eq, text)
}

const WINDOWS: Scale = Scale::Version(Ordering::Windows);

/// The scale of data without a package manager.
fn scale(ordering: Option<DataOrdering>) -> Scale {
    match ordering {
        None => Scale::Text,
        Some(DataOrdering::Caseless) => Scale::Caseless,
        Some(DataOrdering::Number) => Scale::Number,
        Some(DataOrdering::Deb) => Scale::Version(Ordering::Deb),
        Some(DataOrdering::Rpm) => Scale::Version(Ordering::Rpm),
        Some(DataOrdering::Windows) => WINDOWS,
        Some(DataOrdering::Semver) => Scale::Version(Ordering::Semver),
    }
}

/// The atoms whose conjunction a leaf is; `None` for a node that is not a leaf.
pub(super) fn atoms(expr: &Expr) -> Option<Vec<Atom<'_>>> {
    Some(match expr {
        Expr::Const(_) | Expr::All(_) | Expr::Any(_) | Expr::Not(_) => return None,
        Expr::Os(test) => os_atoms(test),
        Expr::Windows(test) => windows_atoms(test),
        Expr::Package(PackageTest { manager, name, architecture, version }) => {
            let check = match version {
                Some(with) => compare(Scale::Version(manager.ordering()), with),
                None => Check::Exists,
            };
            let key =
                format!("package:{}:{name}:{}", manager.as_str(), architecture.as_deref().unwrap_or(""));
            vec![Atom { key, instances: architecture.is_none(), check }]
        }
        Expr::File(test) => file_atoms(test),
        Expr::Registry(test) => registry_atoms(test),
        Expr::Update(test) => {
            vec![Atom::new(format!("update:{}", test.id), Check::Word(Words::InstalledAbsent))]
        }
        Expr::Flag(test) => vec![Atom::new(format!("flag:{}", test.name), Check::Word(Words::TrueFalse))],
        Expr::Number(NumberTest { name, value }) => {
            vec![Atom::new(format!("number:{name}"), compare(Scale::Number, value))]
        }
        Expr::Attribute(AttributeTest { name, value, ordering }) => {
            vec![Atom::new(format!("attribute:{name}"), compare(scale(*ordering), value))]
        }
        Expr::Msi(MsiTest { product, part }) => {
            let (kind, name) = part.name();
            vec![Atom::new(format!("msi:{product}/{kind}/{name}"), Check::Word(Words::PresentAbsent))]
        }
        Expr::Wmi(WmiTest { namespace, query }) => {
            vec![Atom::new(format!("wmi:{namespace}:{query}"), Check::Word(Words::TrueFalse))]
        }
        Expr::RegistryLoop(LoopTest { key, of, test }) => {
            let test = serde_json::to_string(test).unwrap_or_default();
            let key = format!("registry-loop:{} {key}: {test}", of.as_str());
            vec![Atom::new(key, Check::Word(Words::TrueFalse))]
        }
        Expr::Unknown(test) => {
            vec![Atom::new(format!("{UNDECIDABLE}:{}", test.reason), Check::Exists)]
        }
    })
}

fn os_atoms(test: &OsTest) -> Vec<Atom<'_>> {
    let OsTest { family, version, codename, build, architecture } = test;
    let mut found = Vec::new();
    for (part, value) in [("family", family), ("codename", codename), ("architecture", architecture)] {
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

fn windows_atoms(test: &WindowsTest) -> Vec<Atom<'_>> {
    let WindowsTest { service_pack, product_type, suite, language, mui } = test;
    let mut found = Vec::new();
    if let Some(with) = service_pack {
        found.push(Atom::new("os:service-pack".to_owned(), compare(WINDOWS, with)));
    }
    for (part, value) in [("product-type", product_type), ("language", language)] {
        if let Some(value) = value {
            found.push(Atom::new(format!("os:{part}"), equals(value)));
        }
    }
    found.extend(suite.map(|bit| Atom::new(format!("os:suite-{bit}"), Check::Exists)));
    found.extend(mui.as_ref().map(|language| Atom::new(format!("os:mui-{language}"), Check::Exists)));
    found
}

fn file_atoms(test: &FileTest) -> Vec<Atom<'_>> {
    let FileTest { path, version, size, sha256, created, modified, language } = test;
    let mut found = vec![Atom::new(format!("file:{path}"), Check::Word(Words::PresentAbsent))];
    for (part, with, scale) in [
        ("version", version, WINDOWS),
        ("size", size, Scale::Number),
        ("created", created, Scale::Time),
        ("modified", modified, Scale::Time),
    ] {
        if let Some(with) = with {
            found.push(Atom::new(format!("file:{path}#{part}"), compare(scale, with)));
        }
    }
    for (part, value) in [("sha256", sha256), ("language", language)] {
        if let Some(value) = value {
            found.push(Atom::new(format!("file:{path}#{part}"), equals(value)));
        }
    }
    found
}

fn registry_atoms(test: &RegistryTest) -> Vec<Atom<'_>> {
    let RegistryTest { key, value, kind, data, ordering } = test;
    if value.is_none() && data.is_none() && kind.is_none() {
        return vec![Atom::new(format!("registry:{key}"), Check::Word(Words::PresentAbsent))];
    }
    let name = value.as_deref().unwrap_or("");
    let mut found =
        vec![Atom::new(format!("registry:@value:{key}#{name}"), Check::Word(Words::PresentAbsent))];
    if let Some(kind) = kind {
        found.push(Atom::new(format!("registry:@type:{key}#{name}"), equals(kind)));
    }
    if let Some(with) = data {
        found.push(Atom::new(format!("registry:{key}#{name}"), compare(scale(*ordering), with)));
    }
    found
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
            "file" => match rest.rsplit_once('#') {
                Some((path, part)) => write!(f, "file {path} {part}"),
                None => write!(f, "file {rest}"),
            },
            "registry" => {
                let value = rest.strip_prefix("@value:");
                let type_of = rest.strip_prefix("@type:");
                match value.or(type_of).unwrap_or(rest).rsplit_once('#') {
                    Some((path, "")) => write!(f, "registry {path} default value")?,
                    Some((path, name)) => write!(f, "registry {path} value {name}")?,
                    None => write!(f, "registry {rest}")?,
                }
                if type_of.is_some() { f.write_str(" type") } else { Ok(()) }
            }
            "registry-loop" => match rest.split_once(": {").map(|(of, test)| (of, format!("{{{test}"))) {
                Some((of, test)) => match serde_json::from_str(&test) {
                    Ok(test) => write!(f, "subkeys of registry, {of}: {}", Inline(&test)),
                    Err(_) => write!(f, "subkeys of registry, {rest}"),
                },
                None => write!(f, "subkeys of registry, {rest}"),
            },
            "msi" => {
                match rest.split_once('/').and_then(|(product, part)| Some((product, part.split_once('/')?)))
                {
                    Some((product, (part, name))) => write!(f, "msi {product} {part} {name}"),
                    None => write!(f, "msi {rest}"),
                }
            }
            "wmi" => match rest.split_once(':') {
                Some((namespace, query)) => write!(f, "wmi {namespace}: {query}"),
                None => write!(f, "wmi {rest}"),
            },
            UNDECIDABLE => f.write_str("cannot be decided here"),
            _ => write!(f, "{kind} {rest}"),
        }
    }
}

/// A rule in one line.
struct Inline<'a>(&'a Expr);

impl fmt::Display for Inline<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = |f: &mut fmt::Formatter<'_>, parts: &[Expr], word: &str| {
            for (place, part) in parts.iter().enumerate() {
                let before = if place == 0 { "" } else { word };
                write!(f, "{before}{}", Inline(part))?;
            }
            Ok(())
        };
        match self.0 {
            Expr::Const(value) => f.write_str(if *value { "always" } else { "never" }),
            Expr::All(all) => {
                f.write_str("(")?;
                parts(f, all, " and ")?;
                f.write_str(")")
            }
            Expr::Any(any) => {
                f.write_str("(")?;
                parts(f, any, " or ")?;
                f.write_str(")")
            }
            Expr::Not(part) => write!(f, "not {}", Inline(part)),
            leaf => {
                for (place, atom) in atoms(leaf).into_iter().flatten().enumerate() {
                    write!(f, "{}{atom}", if place == 0 { "" } else { " and " })?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Atom<'_> {
    /// One line: `package libssl3 < 3.0.17-1~deb12u3`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = Subject(&self.key);
        match self.check {
            Check::Exists if domain_of(&self.key) == UNDECIDABLE => write!(f, "{subject}"),
            Check::Exists if self.key.starts_with("package:") => write!(f, "{subject} installed"),
            Check::Exists => write!(f, "{subject} present"),
            Check::Word(Words::TrueFalse) => write!(f, "{subject}"),
            Check::Word(words) => write!(f, "{subject} {}", words.yes_no().0),
            Check::Compare(_, how, value) => write!(f, "{subject} {} {value}", how.symbol()),
        }
    }
}
