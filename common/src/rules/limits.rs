//! How big a rule may be: checked once, where a document is accepted.
//!
//! Deserialisation has its own guard: serde_json refuses JSON nested deeper than 128.

use super::expr::{
    AttributeTest, Compare, Expr, FileTest, LoopTest, MsiTest, NumberTest, OsTest, PackageTest, RegistryTest,
    WindowsTest, WmiTest,
};

/// Deepest nesting of a rule; a leaf alone has depth 1. Vendors' rules nest about 10 deep, and evaluation
/// recurses this far.
pub const DEPTH_MAX: usize = 64;

/// Most nodes in one rule; the largest of Microsoft's have about a thousand.
pub const NODES_MAX: usize = 10_000;

/// Longest text in a rule, in bytes: Linux's longest path.
pub const TEXT_BYTES_MAX: usize = 4096;

/// Longest query in a rule, in bytes: vendors list hundreds of devices in one, the longest seen has 6,000.
pub const QUERY_BYTES_MAX: usize = 16 << 10;

/// A rule that is too big.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// See [`DEPTH_MAX`].
    #[error("the rule is nested deeper than 64")]
    Depth,
    /// See [`NODES_MAX`].
    #[error("the rule has more than 10000 nodes")]
    Nodes,
    /// See [`TEXT_BYTES_MAX`] and [`QUERY_BYTES_MAX`].
    #[error("the rule has a text of {bytes} bytes, which begins `{begins}`; at most {most} are allowed")]
    Text {
        /// The limit.
        most: usize,
        /// Its length.
        bytes: usize,
        /// Its first characters.
        begins: String,
    },
}

/// Checks depth, number of nodes and length of texts, without recursion.
///
/// # Errors
///
/// [`LimitError`] for the first limit that is passed.
pub fn check(expr: &Expr) -> Result<(), LimitError> {
    let mut nodes = 0;
    let mut rest = vec![(expr, 1)];
    while let Some((expr, depth)) = rest.pop() {
        nodes += 1;
        if depth > DEPTH_MAX {
            return Err(LimitError::Depth);
        }
        let children = match expr {
            Expr::All(children) | Expr::Any(children) => children.as_slice(),
            Expr::Not(child) => std::slice::from_ref(&**child),
            Expr::RegistryLoop(LoopTest { key, of: _, test }) => {
                check_text(key)?;
                std::slice::from_ref(&**test)
            }
            leaf => {
                check_texts(leaf)?;
                &[]
            }
        };
        if nodes + rest.len() + children.len() > NODES_MAX {
            return Err(LimitError::Nodes);
        }
        rest.extend(children.iter().map(|child| (child, depth + 1)));
    }
    Ok(())
}

fn check_texts(leaf: &Expr) -> Result<(), LimitError> {
    match leaf {
        Expr::Const(_) | Expr::All(_) | Expr::Any(_) | Expr::Not(_) | Expr::RegistryLoop(_) => Ok(()),
        Expr::Os(OsTest { family, version, codename, build, architecture }) => {
            check_all([family, codename, architecture], [version, build])
        }
        Expr::Windows(test) => {
            let WindowsTest { service_pack, product_type, suite: _, language, mui } = &**test;
            check_all([product_type, language, mui], [service_pack])
        }
        Expr::Package(PackageTest { manager: _, name, architecture, version }) => {
            check_text(name)?;
            check_all([architecture], [version])
        }
        Expr::File(FileTest { path, version, size, sha256, created, modified, language }) => {
            check_text(path)?;
            check_all([sha256, language], [version, size, created, modified])
        }
        Expr::Registry(RegistryTest { key, value, kind, data, ordering: _ }) => {
            check_text(key)?;
            check_all([value, kind], [data])
        }
        Expr::Update(test) => check_text(&test.id),
        Expr::Flag(test) => check_text(&test.name),
        Expr::Number(NumberTest { name, value }) => {
            check_text(name)?;
            check_text(right_side(value))
        }
        Expr::Attribute(AttributeTest { name, value, ordering: _ }) => {
            check_text(name)?;
            check_text(right_side(value))
        }
        Expr::Msi(MsiTest { product, part }) => {
            check_text(product)?;
            check_text(part.name().1)
        }
        Expr::Wmi(WmiTest { namespace, query }) => {
            check_text(namespace)?;
            check_length(query, QUERY_BYTES_MAX)
        }
        Expr::Unknown(test) => check_text(&test.reason),
    }
}

fn check_all<const N: usize, const M: usize>(
    texts: [&Option<String>; N],
    compares: [&Option<Compare>; M],
) -> Result<(), LimitError> {
    texts.into_iter().flatten().try_for_each(|text| check_text(text))?;
    compares.into_iter().flatten().try_for_each(|compare| check_text(right_side(compare)))
}

fn right_side(compare: &Compare) -> &str {
    match compare {
        Compare::Lt(value)
        | Compare::Le(value)
        | Compare::Eq(value)
        | Compare::Ge(value)
        | Compare::Gt(value)
        | Compare::Ne(value)
        | Compare::Begins(value)
        | Compare::Contains(value)
        | Compare::Ends(value) => value,
    }
}

fn check_text(text: &str) -> Result<(), LimitError> {
    check_length(text, TEXT_BYTES_MAX)
}

fn check_length(text: &str, most: usize) -> Result<(), LimitError> {
    if text.len() > most {
        return Err(LimitError::Text { most, bytes: text.len(), begins: text.chars().take(40).collect() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::expr::FlagTest;

    fn nested(depth: usize) -> Expr {
        (1..depth).fold(Expr::Const(true), |inner, _| Expr::Not(Box::new(inner)))
    }

    #[test]
    fn a_rule_at_a_limit_passes_and_one_beyond_it_does_not() {
        assert_eq!(check(&nested(DEPTH_MAX)), Ok(()));
        assert_eq!(check(&nested(DEPTH_MAX + 1)), Err(LimitError::Depth));
        assert_eq!(check(&Expr::All(vec![Expr::Const(true); NODES_MAX - 1])), Ok(()));
        assert_eq!(check(&Expr::All(vec![Expr::Const(true); NODES_MAX])), Err(LimitError::Nodes));
        let flag = |bytes| Expr::Flag(FlagTest { name: "x".repeat(bytes) });
        assert_eq!(check(&flag(TEXT_BYTES_MAX)), Ok(()));
        assert_eq!(
            check(&flag(TEXT_BYTES_MAX + 1)),
            Err(LimitError::Text { most: TEXT_BYTES_MAX, bytes: TEXT_BYTES_MAX + 1, begins: "x".repeat(40) })
        );
    }

    #[test]
    fn json_that_is_nested_without_end_is_refused_before_the_stack_is_used_up() {
        for (open, close) in [(r#"{"not":"#, "}"), (r#"{"all":["#, "]}"), (r#"{"any":["#, "]}")] {
            for depth in [100, 1_000, 1_000_000] {
                let json = format!("{}{{\"const\":true}}{}", open.repeat(depth), close.repeat(depth));
                let allowed = match serde_json::from_str::<Expr>(&json) {
                    Ok(expr) => check(&expr),
                    Err(error) => {
                        assert!(error.to_string().contains("recursion limit"), "{error}");
                        continue;
                    }
                };
                assert_eq!((depth, allowed), (100, Err(LimitError::Depth)));
            }
        }
    }
}
