//! Why a rule has its value: the tree with the value of each node, the fact that was read, where it came
//! from, and what would have to change.

use serde::{Deserialize, Serialize};

use super::{
    atom::{Atom, Check, How, Scale, Subject, Words, atoms},
    evaluate::{Truth, Verdict, verdict},
    expr::Expr,
};
use crate::{
    facts::{Facts, domain_of},
    id::UpdateId,
    schema::Update,
};

mod change;
mod render;

pub use self::change::{STEPS_MAX, WAYS_MAX, would_change};

/// Nodes deeper than this are explained by their value alone, so that an explanation can be read back as
/// JSON, whose reader stops at a nesting of 128, two for each node.
pub const EXPLAINED_DEPTH_MAX: usize = 56;

/// Most instances of a package whose versions are told.
const INSTANCES_MAX: usize = 4;

/// A value in three-valued logic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// It holds.
    True,
    /// It does not.
    False,
    /// It cannot be decided.
    Unknown,
}

/// What a node does with its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Node {
    /// Reads one fact.
    Fact,
    /// Is the same always.
    Const,
    /// True when all parts are.
    All,
    /// True when any part is.
    Any,
    /// True when its part is false.
    Not,
}

/// One node of a rule and why it has its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// What it tests, one line: `package libssl3 < 3.0.17-1~deb12u3`, `all of`.
    pub test: String,
    /// What it does with its parts.
    pub node: Node,
    /// Its value.
    pub value: Value,
    /// The key of the fact that was read; of a package in several architectures, of the deciding one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The fact's value; `None` when it is absent or unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    /// Where the fact was read from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Why the value is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What would give a fact's test the other value, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flip: Option<String>,
    /// Its parts, in the rule's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Self>,
    /// How many parts [`Explained::prune`] left out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub hidden: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out a reference")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Why an update has its verdict on one computer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedUpdate {
    /// Which update.
    pub update: UpdateId,
    /// The verdict.
    pub verdict: Verdict,
    /// Whether it is for this computer.
    pub applicable: Explained,
    /// Whether it is installed; `None` where `applicable` is not true, as then it is not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installed: Option<Explained>,
    /// What would change the verdict, each sentence enough by itself; see [`would_change()`].
    pub would_change: Vec<String>,
}

impl From<&Truth> for Value {
    fn from(truth: &Truth) -> Self {
        match truth {
            Truth::True => Self::True,
            Truth::False => Self::False,
            Truth::Unknown(_) => Self::Unknown,
        }
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

impl Value {
    /// In capitals, as in a table.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "TRUE",
            Self::False => "FALSE",
            Self::Unknown => "UNKNOWN",
        }
    }

    fn negate(self) -> Self {
        match self {
            Self::True => Self::False,
            Self::False => Self::True,
            Self::Unknown => Self::Unknown,
        }
    }
}

/// Explains the value that [`super::evaluate()`] finds.
#[must_use]
pub fn explain(expr: &Expr, facts: &Facts) -> Explained {
    explain_at(expr, facts, 1)
}

/// Explains the verdict that [`super::verdict()`] finds.
#[must_use]
pub fn explain_update(update: &Update, facts: &Facts) -> ExplainedUpdate {
    let verdict = verdict(update, facts);
    let applicable = explain(&update.applicable, facts);
    let installed = (applicable.value == Value::True).then(|| explain(&update.installed, facts));
    let would_change = change::of_verdict(&applicable, installed.as_ref());
    ExplainedUpdate { update: update.id.clone(), verdict, applicable, installed, would_change }
}

fn explain_at(expr: &Expr, facts: &Facts, depth: usize) -> Explained {
    if depth > EXPLAINED_DEPTH_MAX {
        let truth = super::evaluate(expr, facts);
        return Explained {
            reason: match &truth {
                Truth::Unknown(reasons) => Some(reasons.to_string()),
                Truth::True | Truth::False => None,
            },
            ..plain("nested too deep to be shown".to_owned(), Node::Const, Value::from(&truth))
        };
    }
    let children = |children: &[Expr]| -> Vec<Explained> {
        children.iter().map(|child| explain_at(child, facts, depth + 1)).collect()
    };
    match expr {
        Expr::Const(value) => {
            plain(if *value { "always" } else { "never" }.to_owned(), Node::Const, Value::from(*value))
        }
        Expr::All(parts) => group(Node::All, children(parts)),
        Expr::Any(parts) => group(Node::Any, children(parts)),
        Expr::Not(part) => {
            let part = explain_at(part, facts, depth + 1);
            if part.node == Node::Fact && !part.test.starts_with("not ") {
                return Explained { test: format!("not {}", part.test), value: part.value.negate(), ..part };
            }
            group(Node::Not, vec![part])
        }
        leaf => {
            let mut facts_of: Vec<Explained> =
                atoms(leaf).into_iter().flatten().map(|atom| explain_atom(&atom, facts)).collect();
            match facts_of.len() {
                1 => facts_of.remove(0),
                _ => group(Node::All, facts_of),
            }
        }
    }
}

fn plain(test: String, node: Node, value: Value) -> Explained {
    Explained {
        test,
        node,
        value,
        key: None,
        found: None,
        source: None,
        reason: None,
        flip: None,
        children: Vec::new(),
        hidden: 0,
    }
}

fn group(node: Node, children: Vec<Explained>) -> Explained {
    let has = |value: Value| children.iter().any(|child| child.value == value);
    let (test, value) = match node {
        Node::Any if has(Value::True) => ("any of", Value::True),
        Node::Any if has(Value::Unknown) => ("any of", Value::Unknown),
        Node::Any => ("any of", Value::False),
        Node::Not => ("not", children.first().map_or(Value::True, |child| child.value.negate())),
        _ if has(Value::False) => ("all of", Value::False),
        _ if has(Value::Unknown) => ("all of", Value::Unknown),
        _ => ("all of", Value::True),
    };
    Explained { children, ..plain(test.to_owned(), node, value) }
}

fn explain_atom(atom: &Atom<'_>, facts: &Facts) -> Explained {
    let truth = atom.ask(facts);
    let found: Vec<_> = atom.found(facts).collect();
    let deciding = found
        .iter()
        .find(|(key, value)| Value::from(&atom.check.answer(key, value)) == Value::from(&truth))
        .or(found.first());
    let told = match found.as_slice() {
        [] => None,
        [(_, value)] => Some((*value).to_owned()),
        many => {
            let mut told: Vec<_> = many
                .iter()
                .take(INSTANCES_MAX)
                .map(|(key, value)| format!("{value} ({})", key.rsplit(':').next().unwrap_or("")))
                .collect();
            if many.len() > INSTANCES_MAX {
                told.push(format!("{} more", many.len() - INSTANCES_MAX));
            }
            Some(told.join(", "))
        }
    };
    Explained {
        key: Some(deciding.map_or(atom.key.trim_end_matches(':'), |(key, _)| *key).to_owned()),
        found: told,
        source: facts.domains.get(domain_of(&atom.key)).map(|domain| domain.source().to_owned()),
        reason: match &truth {
            Truth::Unknown(reasons) => Some(reasons.to_string()),
            Truth::True | Truth::False => None,
        },
        flip: truth.decided().map(|value| flip(atom, value, !found.is_empty())),
        ..plain(atom.to_string(), Node::Fact, Value::from(&truth))
    }
}

/// What would give an atom that has `value` the other one; `present` when there is a fact.
fn flip(atom: &Atom<'_>, value: bool, present: bool) -> String {
    let subject = Subject(&atom.key).to_string();
    let package = subject.strip_prefix("package ");
    let name = package.unwrap_or(&subject);
    let (scale, how, right) = match atom.check {
        Check::Exists => {
            let word = match (package.is_some(), value) {
                (true, true) => "removed",
                (true, false) => "installed",
                (false, true) => "absent",
                (false, false) => "present",
            };
            return format!("{name} {word}");
        }
        Check::Word(words) => {
            let (yes, no) = words.yes_no();
            return match (words, value) {
                (Words::InstalledAbsent, true) => format!("{name} removed"),
                (_, true) => format!("{name} {no}"),
                (_, false) => format!("{name} {yes}"),
            };
        }
        Check::Compare(scale, how, right) if value => match how.opposite() {
            Some(how) => (scale, how, right),
            None => return format!("{name} no longer {} {right}", how.symbol()),
        },
        Check::Compare(scale, how, right) => (scale, how, right),
    };
    let Scale::Version(_) = scale else {
        return format!("{name} {} {right}", how.symbol());
    };
    let wanted = match how {
        How::Lt => format!("older than {right}"),
        How::Le => format!("at {right} or older"),
        How::Eq => format!("at {right}"),
        How::Ge => format!("at {right} or newer"),
        How::Gt => format!("newer than {right}"),
        How::Ne => format!("other than {right}"),
        How::Begins | How::Contains | How::Ends => format!("that {} {right}", how.symbol()),
    };
    if package.is_some() && !present {
        return format!("{name} installed, {wanted}");
    }
    format!("{name} {wanted}")
}

impl Explained {
    /// The same without the parts that do not decide a node's value, and with at most `most` of those that
    /// do; [`Explained::hidden`] counts the others.
    #[must_use]
    pub fn prune(&self, most: usize) -> Self {
        let decides = |child: &Self| match (self.node, self.value) {
            (Node::All, Value::True) | (Node::Any, Value::False) | (Node::Not, _) => true,
            (_, value) => child.value == value,
        };
        let children: Vec<_> = self
            .children
            .iter()
            .filter(|child| decides(child))
            .take(most)
            .map(|child| child.prune(most))
            .collect();
        let hidden = self.hidden + self.children.len() - children.len();
        Self { children, hidden, ..self.without_children() }
    }

    fn without_children(&self) -> Self {
        Self {
            test: self.test.clone(),
            key: self.key.clone(),
            found: self.found.clone(),
            source: self.source.clone(),
            reason: self.reason.clone(),
            flip: self.flip.clone(),
            children: Vec::new(),
            ..*self
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rules::{evaluate, sample};

    fn chain(depth: usize) -> Expr {
        (1..depth).fold(Expr::Any(Vec::new()), |inner, _| Expr::All(vec![inner]))
    }

    #[test]
    fn an_explanation_of_the_deepest_rule_can_be_read_back() {
        let explained = explain(&chain(super::super::limits::DEPTH_MAX), &Facts::default());
        assert_eq!(explained.value, Value::False);
        let json = serde_json::to_string(&explained).unwrap();
        assert_eq!(serde_json::from_str::<Explained>(&json).unwrap(), explained);
        assert!(json.contains("nested too deep to be shown"));
    }

    #[test]
    fn a_pruned_explanation_keeps_what_decides_and_counts_the_rest() {
        let flag = |value: bool| Expr::Const(value);
        let many = |value: bool, odd: usize| -> Vec<Expr> {
            (0..20).map(|place| flag(value != (place < odd))).collect()
        };
        for (expr, shown, hidden) in [
            (Expr::All(many(true, 3)), 3, 17),
            (Expr::All(many(true, 0)), 5, 15),
            (Expr::Any(many(false, 2)), 2, 18),
            (Expr::Any(many(false, 0)), 5, 15),
            (Expr::All(many(true, 9)), 5, 15),
        ] {
            let pruned = explain(&expr, &Facts::default()).prune(5);
            assert_eq!((pruned.children.len(), pruned.hidden), (shown, hidden), "{expr:?}");
            assert_eq!(pruned.prune(5), pruned);
        }
    }

    /// An update of libssl3 on a computer that has it in this version, or not at all, or not readably.
    fn told(domain: &str, found: Option<&str>) -> (Verdict, bool, Vec<String>) {
        let update: Update = serde_json::from_str(
            r#"{"id":"debian-12/openssl_3.0.17","title":"openssl","product":"openssl","version":"3.0.17",
            "severity":"important","released":"2026-01-01T00:00:00Z","applicable":{"all":[
            {"os":{"family":"debian"}},{"package":{"manager":"deb","name":"libssl3"}}]},"installed":
            {"not":{"package":{"manager":"deb","name":"libssl3","version":{"lt":"3.0.17"}}}},
            "install":{"deb":{"packages":[]}}}"#,
        )
        .unwrap();
        let os = r#""os":{"complete":{"source":"/etc/os-release"}}"#;
        let mut facts: Facts = serde_json::from_str(&format!(
            r#"{{"domains":{{{os},"package:deb":{domain}}},"values":{{"os:family":"debian"}}}}"#
        ))
        .unwrap();
        if let Some(found) = found {
            facts.values.insert("package:deb:libssl3:amd64".to_owned(), found.to_owned());
        }
        let explained = explain_update(&update, &facts);
        assert_eq!(explained.verdict, verdict(&update, &facts));
        (explained.verdict, explained.installed.is_some(), explained.would_change)
    }

    #[test]
    fn an_explained_update_says_what_would_change_its_verdict() {
        let complete = r#"{"complete":{"source":"/var/lib/dpkg/status"}}"#;
        let failed = r#"{"failed":{"source":"/var/lib/dpkg/status","reason":"it is gone"}}"#;
        let reason = "`package:deb` could not be read from `/var/lib/dpkg/status`: it is gone".to_owned();
        for (domain, found, verdict, asked, would_change) in [
            (
                complete,
                Some("3.0.16"),
                Verdict::Needed,
                true,
                vec!["libssl3 at 3.0.17 or newer", "libssl3 removed"],
            ),
            (
                complete,
                Some("3.0.17"),
                Verdict::Installed,
                true,
                vec!["libssl3 older than 3.0.17", "libssl3 removed"],
            ),
            (complete, None, Verdict::NotApplicable, false, vec!["libssl3 installed"]),
            (failed, None, Verdict::Unknown { reason }, false, vec!["package:deb:libssl3 known"]),
        ] {
            let would_change = would_change.into_iter().map(str::to_owned).collect();
            assert_eq!(told(domain, found), (verdict, asked, would_change));
        }
    }

    proptest! {
        #[test]
        fn an_explanation_has_the_value_of_the_rule_and_survives_its_own_json(
            expr in sample::expr(), facts in sample::facts(), most in 0_usize..4
        ) {
            let explained = explain(&expr, &facts);
            prop_assert_eq!(explained.value, Value::from(&evaluate(&expr, &facts)));
            prop_assert_eq!(explained.prune(most).value, explained.value);
            let json = serde_json::to_string(&explained).unwrap();
            prop_assert_eq!(serde_json::from_str::<Explained>(&json).unwrap(), explained);
        }
    }
}
