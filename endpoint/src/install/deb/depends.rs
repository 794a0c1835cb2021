//! Relations between packages: `Depends`, `Breaks`, `Provides` and their like, Debian Policy 7.1.

use std::{cmp, fmt};

use tierway_common::{rules::expr::Ordering, version};

/// Clauses in one field: the largest seen, of a metapackage of a whole desktop, has some 400.
pub const CLAUSES_MAX: usize = 4096;

/// A field that is not as Policy 7.1 has it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a relation to a package")]
pub struct RelationError {
    text: String,
}

/// How the version of the other package must compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `<<`
    Earlier,
    /// `<=`
    EarlierOrEqual,
    /// `=`
    Exactly,
    /// `>=`
    LaterOrEqual,
    /// `>>`
    Later,
}

/// One package, with a version or without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// Of the other package, real or virtual.
    pub name: String,
    /// `any`, `native` or an architecture.
    pub qualifier: Option<String>,
    /// What its version must be.
    pub version: Option<(Operator, String)>,
}

/// Alternatives in their order, of which one must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clause(pub Vec<Relation>);

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some((operator, version)) = &self.version {
            let operator = match operator {
                Operator::Earlier => "<<",
                Operator::EarlierOrEqual => "<=",
                Operator::Exactly => "=",
                Operator::LaterOrEqual => ">=",
                Operator::Later => ">>",
            };
            write!(f, " ({operator} {version})")?;
        }
        Ok(())
    }
}

impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, relation) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(" | ")?;
            }
            write!(f, "{relation}")?;
        }
        Ok(())
    }
}

impl Relation {
    /// Whether a package of that version, or one that provides the name in that version, will do. What is
    /// provided without a version satisfies no relation with one (Policy 7.5).
    #[must_use]
    pub fn accepts(&self, version: Option<&str>) -> bool {
        let Some((operator, wanted)) = &self.version else { return true };
        let Some(order) = version.and_then(|version| compare(version, wanted)) else { return false };
        match operator {
            Operator::Earlier => order.is_lt(),
            Operator::EarlierOrEqual => order.is_le(),
            Operator::Exactly => order.is_eq(),
            Operator::LaterOrEqual => order.is_ge(),
            Operator::Later => order.is_gt(),
        }
    }
}

/// Debian's order; `None` when one of them is no version.
#[must_use]
pub fn compare(a: &str, b: &str) -> Option<cmp::Ordering> {
    version::compare(Ordering::Deb, a, b).ok()
}

/// The clauses of a field, in their order.
///
/// # Errors
///
/// Names the relation that is not as Policy 7.1 has it.
pub fn parse(field: &str) -> Result<Vec<Clause>, RelationError> {
    let mut clauses = Vec::new();
    for clause in field.split(',') {
        let clause = clause.trim();
        // A comma at the end occurs in the archive.
        if clause.is_empty() {
            continue;
        }
        if clauses.len() == CLAUSES_MAX {
            return Err(RelationError { text: "… (more than 4096 clauses)".to_owned() });
        }
        clauses.push(Clause(clause.split('|').map(relation).collect::<Result<_, _>>()?));
    }
    Ok(clauses)
}

fn relation(text: &str) -> Result<Relation, RelationError> {
    let text = text.trim();
    let error = || RelationError { text: text.chars().take(100).collect() };
    let (package, version) = match text.split_once('(') {
        None => (text, None),
        Some((package, rest)) => {
            let inner = rest.strip_suffix(')').ok_or_else(error)?.trim();
            let digits = inner.find(|c| !"<>=".contains(c)).ok_or_else(error)?;
            let operator = match &inner[..digits] {
                "<<" => Operator::Earlier,
                // The single forms are obsolete and mean the same as these.
                "<=" | "<" => Operator::EarlierOrEqual,
                "=" => Operator::Exactly,
                ">=" | ">" => Operator::LaterOrEqual,
                ">>" => Operator::Later,
                _ => return Err(error()),
            };
            let version = inner[digits..].trim();
            if compare(version, version).is_none() {
                return Err(error());
            }
            (package.trim(), Some((operator, version.to_owned())))
        }
    };
    let (name, qualifier) = match package.split_once(':') {
        None => (package, None),
        Some((name, qualifier)) => (name, Some(qualifier.to_owned())),
    };
    let valid = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+.-".contains(&b))
    };
    if !valid(name) || qualifier.as_deref().is_some_and(|qualifier| !valid(qualifier)) {
        return Err(error());
    }
    Ok(Relation { name: name.to_owned(), qualifier, version })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_read_with_alternatives_versions_and_qualifiers() {
        let field =
            "libc6 (>= 2.34), debconf (>= 0.5) | debconf-2.0, python3:any (>= 3.11~),\n libx (=1:2-3) ,";
        let clauses = parse(field).unwrap();
        let texts: Vec<_> = clauses.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            ["libc6 (>= 2.34)", "debconf (>= 0.5) | debconf-2.0", "python3 (>= 3.11~)", "libx (= 1:2-3)"]
        );
        assert_eq!(clauses[2].0[0].qualifier.as_deref(), Some("any"));
    }

    #[test]
    fn a_relation_that_is_not_one_is_named() {
        for text in [
            "a (>= 1",
            "a (1)",
            "a (=> 1)",
            "a (>= )",
            "A",
            "a b",
            "a:",
            "a | | b",
            "a (>= 1) [amd64]",
            "../a",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse("ok, A").unwrap_err().to_string(), "`A` is not a relation to a package");
    }

    #[test]
    fn a_version_is_accepted_as_its_operator_says() {
        for (relation, version, accepted) in [
            ("a", None, true),
            ("a", Some("1"), true),
            ("a (>= 1)", None, false),
            ("a (>= 1)", Some("1~rc1"), false),
            ("a (>= 1)", Some("1"), true),
            ("a (<< 2)", Some("2"), false),
            ("a (<< 2)", Some("2~"), true),
            ("a (= 1:1)", Some("1"), false),
            ("a (>> 1)", Some("1+b1"), true),
            ("a (<= 1)", Some("1-0"), true),
        ] {
            assert_eq!(parse(relation).unwrap()[0].0[0].accepts(version), accepted, "{relation} {version:?}");
        }
    }
}
