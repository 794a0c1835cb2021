//! The value of a rule over facts, in Kleene's strong three-valued logic.
//!
//! `all` is false as soon as one part is, `any` true as soon as one part is, whatever is unknown beside
//! it; so learning more facts never turns a decided rule round. A test without a fact to read is unknown
//! unless its domain was read completely.

use std::{
    collections::BTreeSet,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
};

use serde::{Deserialize, Serialize};

use super::{atom::atoms, expr::Expr};
use crate::{facts::Facts, schema::Update};

pub use super::atom::asks;

/// Most reasons that are kept for one unknown: people read a few, and a failed domain gives the same one
/// for every test.
pub const REASONS_MAX: usize = 8;

/// The value of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not.
    False,
    /// It cannot be decided, for these reasons.
    Unknown(Reasons),
}

/// Why something is unknown: different sentences in the order in which they were met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reasons {
    texts: Vec<String>,
    /// Hashes of further sentences; only where `texts` is full. A rule has only so many.
    more: BTreeSet<u64>,
}

impl Truth {
    /// Unknown for one reason.
    pub(super) fn unknown(reason: String) -> Self {
        Self::Unknown(Reasons { texts: vec![reason], more: BTreeSet::new() })
    }

    /// Three-valued negation.
    #[must_use]
    pub fn negate(self) -> Self {
        match self {
            Self::True => Self::False,
            Self::False => Self::True,
            unknown @ Self::Unknown(_) => unknown,
        }
    }

    /// `None` when unknown.
    #[must_use]
    pub fn decided(&self) -> Option<bool> {
        match self {
            Self::True => Some(true),
            Self::False => Some(false),
            Self::Unknown(_) => None,
        }
    }
}

impl From<bool> for Truth {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

impl Reasons {
    /// At most [`REASONS_MAX`], in the order in which they were met.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.texts.iter().map(String::as_str)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    pub(super) fn push(&mut self, reason: String) {
        if self.texts.contains(&reason) {
            return;
        }
        if self.texts.len() < REASONS_MAX {
            self.texts.push(reason);
        } else {
            self.more.insert(hash(&reason));
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        other.texts.into_iter().for_each(|reason| self.push(reason));
        if !other.more.is_empty() {
            let told: Vec<u64> = self.texts.iter().map(|text| hash(text)).collect();
            self.more.extend(other.more.into_iter().filter(|more| !told.contains(more)));
        }
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

impl fmt::Display for Reasons {
    /// Joined by `; `, with a count of those not kept.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.texts.join("; "))?;
        if !self.more.is_empty() {
            write!(f, "; and {} more", self.more.len())?;
        }
        Ok(())
    }
}

/// What the rules of an update say of one computer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is not for this computer.
    NotApplicable,
    /// It applies and is not installed.
    Needed,
    /// It applies and is installed, or something newer is.
    Installed,
    /// The facts do not decide it.
    Unknown {
        /// Why not, one line.
        reason: String,
    },
}

/// The value of `expr` over `facts`. Recurses as deep as the rule, which [`super::check`] limits.
#[must_use]
pub fn evaluate(expr: &Expr, facts: &Facts) -> Truth {
    match expr {
        Expr::Const(value) => Truth::from(*value),
        Expr::All(children) => all(children.iter().map(|child| evaluate(child, facts))),
        Expr::Any(children) => any(children.iter().map(|child| evaluate(child, facts))),
        Expr::Not(child) => evaluate(child, facts).negate(),
        leaf => all(atoms(leaf).into_iter().flatten().map(|atom| atom.ask(facts))),
    }
}

/// The conjunction; stops at the first that is false.
pub(super) fn all(truths: impl Iterator<Item = Truth>) -> Truth {
    any(truths.map(Truth::negate)).negate()
}

/// The disjunction; stops at the first that is true.
pub(super) fn any(truths: impl Iterator<Item = Truth>) -> Truth {
    let mut reasons = Reasons::default();
    for truth in truths {
        match truth {
            Truth::True => return Truth::True,
            Truth::False => {}
            Truth::Unknown(more) => reasons.merge(more),
        }
    }
    if reasons.is_empty() { Truth::False } else { Truth::Unknown(reasons) }
}

/// What the rules of `update` say of the computer with these facts.
#[must_use]
pub fn verdict(update: &Update, facts: &Facts) -> Verdict {
    combine(evaluate(&update.applicable, facts), || evaluate(&update.installed, facts))
}

/// The verdict of the two rules; `installed` is asked only where `applicable` is true.
pub(super) fn combine(applicable: Truth, installed: impl FnOnce() -> Truth) -> Verdict {
    let unknown = |reasons: Reasons| Verdict::Unknown { reason: reasons.to_string() };
    match applicable {
        Truth::False => Verdict::NotApplicable,
        Truth::Unknown(reasons) => unknown(reasons),
        Truth::True => match installed() {
            Truth::True => Verdict::Installed,
            Truth::False => Verdict::Needed,
            Truth::Unknown(reasons) => unknown(reasons),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::{facts::Domain, rules::sample};

    #[derive(PartialEq, Debug)]
    enum Want {
        True,
        False,
        /// With words that its reasons have.
        Unknown(&'static str),
    }
    use Want::{False, True, Unknown};

    const VALUES: &[(&str, &str)] = &[
        ("os:family", "debian"),
        ("os:version", "12"),
        ("os:codename", "bookworm"),
        ("package:deb:libc6:amd64", "2.36-9+deb12u10"),
        ("package:deb:libc6:i386", "2.36-9+deb12u9"),
        ("package:deb:odd:amd64", "1 0"),
        ("package:msi:Foo: Bar:x64", "3.1"),
        ("file:/a", "present"),
        ("file:/a#version", "10.0.1"),
        ("file:/a#size", "100"),
        ("file:/a#sha256", "00ff"),
        ("file:/gone", "absent"),
        ("file:/odd", "maybe"),
        (r"registry:HKLM\A", "present"),
        (r"registry:@value:HKLM\A#V", "present"),
        (r"registry:@type:HKLM\A#V", "REG_DWORD"),
        (r"registry:HKLM\A#V", "5"),
        (r"registry:@value:HKLM\A#N", "present"),
        (r"registry:HKLM\A#N", "Java 8 Update 401"),
        (r"registry:@value:HKLM\A#W", "absent"),
        ("file:/a#modified", "2015-02-27T15:54:52Z"),
        ("attribute:OSSkuId", "4"),
        ("msi:{A}/feature/Main", "present"),
        (r"wmi:root\cimv2:select * from X", "false"),
        ("os:service-pack", "1.0"),
        ("os:suite-512", "present"),
        ("update:KB1", "installed"),
        ("flag:reboot-pending", "true"),
        ("number:memory-mib", "4096"),
    ];

    fn facts() -> Facts {
        let complete = || Domain::Complete { source: "the system".to_owned() };
        let asked = || Domain::Asked { source: "the disk".to_owned() };
        Facts {
            domains: [
                ("os", complete()),
                ("package:deb", complete()),
                ("package:msi", complete()),
                ("file", asked()),
                ("registry", asked()),
                (
                    "package:rpm",
                    Domain::Failed {
                        source: "/var/lib/rpm".to_owned(),
                        reason: "permission denied".to_owned(),
                    },
                ),
                ("update", complete()),
                ("attribute", complete()),
                ("msi", asked()),
                ("wmi", asked()),
            ]
            .map(|(name, domain)| (name.to_owned(), domain))
            .into(),
            values: VALUES.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        }
    }

    fn check(cases: &[(&str, Want)]) {
        let facts = facts();
        for (json, want) in cases {
            let expr: Expr = serde_json::from_str(json).unwrap();
            match (evaluate(&expr, &facts), want) {
                (Truth::True, True) | (Truth::False, False) => {}
                (Truth::Unknown(reasons), Unknown(words)) if reasons.to_string().contains(words) => {}
                (found, want) => panic!("{json}: {found:?} instead of {want:?}"),
            }
        }
    }

    #[test]
    fn a_package_test_holds_when_some_instance_of_the_name_does() {
        check(&[
            (r#"{"package":{"manager":"deb","name":"libc6"}}"#, True),
            (r#"{"package":{"manager":"deb","name":"libc"}}"#, False),
            (r#"{"package":{"manager":"deb","name":"libc6","version":{"lt":"2.36-9+deb12u10"}}}"#, True),
            (r#"{"package":{"manager":"deb","name":"libc6","version":{"lt":"2.36-9+deb12u9"}}}"#, False),
            (
                r#"{"package":{"manager":"deb","name":"libc6","architecture":"amd64","version":{"lt":"2.36-9+deb12u10"}}}"#,
                False,
            ),
            (r#"{"package":{"manager":"deb","name":"none","version":{"ne":"1"}}}"#, False),
            (r#"{"package":{"manager":"msi","name":"Foo: Bar","version":{"ge":"3.1.0"}}}"#, True),
            (r#"{"package":{"manager":"msi","name":"Foo"}}"#, False),
        ]);
    }

    #[test]
    fn a_fact_that_was_not_collected_is_unknown_and_says_why() {
        check(&[
            (
                r#"{"package":{"manager":"rpm","name":"a"}}"#,
                Unknown("`package:rpm` could not be read from `/var/lib/rpm`: permission denied"),
            ),
            (r#"{"file":{"path":"/b"}}"#, Unknown("`file:/b` was not read from `the disk`")),
            (
                r#"{"number":{"name":"cores","value":{"lt":"4"}}}"#,
                Unknown("no `number` facts were collected"),
            ),
            (r#"{"flag":{"name":"x"}}"#, Unknown("no `flag` facts were collected")),
        ]);
    }

    #[test]
    fn a_fact_missing_from_a_complete_domain_is_absent() {
        check(&[
            (r#"{"os":{"build":{"lt":"9"}}}"#, False),
            (r#"{"update":{"id":"KB2"}}"#, False),
            (r#"{"not":{"update":{"id":"KB2"}}}"#, True),
        ]);
    }

    #[test]
    fn a_value_that_cannot_be_compared_is_unknown_and_named() {
        check(&[
            (
                r#"{"package":{"manager":"deb","name":"odd","version":{"lt":"2"}}}"#,
                Unknown("`package:deb:odd:amd64` cannot be compared: `1 0` is not a deb version"),
            ),
            (
                r#"{"package":{"manager":"deb","name":"libc6","version":{"lt":"a_b"}}}"#,
                Unknown("the rule cannot be decided: `a_b` is not a deb version"),
            ),
            (r#"{"package":{"manager":"deb","name":"none","version":{"lt":"a_b"}}}"#, False),
            (
                r#"{"file":{"path":"/odd"}}"#,
                Unknown("`file:/odd` is `maybe`, neither `present` nor `absent`"),
            ),
            (
                r#"{"number":{"name":"memory-mib","value":{"lt":"4G"}}}"#,
                Unknown("`4G` is not a whole number"),
            ),
            (
                r#"{"registry":{"key":"HKLM\\A","value":"V","data":{"lt":"6"}}}"#,
                Unknown("compares with `<` and names no ordering"),
            ),
        ]);
    }

    #[test]
    fn every_part_of_a_test_must_hold() {
        check(&[
            (r#"{"os":{}}"#, True),
            (r#"{"os":{"family":"debian","version":{"ge":"12"},"codename":"bookworm"}}"#, True),
            (r#"{"os":{"family":"debian","version":{"gt":"12"}}}"#, False),
            (r#"{"file":{"path":"/a","version":{"lt":"10.0.2"},"size":{"ge":"99"},"sha256":"00ff"}}"#, True),
            (r#"{"file":{"path":"/a","sha256":"00fe"}}"#, False),
            (r#"{"file":{"path":"/gone","version":{"lt":"1"}}}"#, False),
            (r#"{"registry":{"key":"HKLM\\A"}}"#, True),
            (r#"{"registry":{"key":"HKLM\\A","value":"V"}}"#, True),
            (r#"{"registry":{"key":"HKLM\\A","value":"V","data":{"eq":"5"}}}"#, True),
            (r#"{"registry":{"key":"HKLM\\A","value":"V","data":{"ne":"5"}}}"#, False),
            (r#"{"registry":{"key":"HKLM\\A","value":"V","data":{"lt":"5.1"},"ordering":"windows"}}"#, True),
            (r#"{"update":{"id":"KB1"}}"#, True),
            (r#"{"flag":{"name":"reboot-pending"}}"#, True),
            (r#"{"number":{"name":"memory-mib","value":{"ge":"999"}}}"#, True),
        ]);
    }

    #[test]
    fn what_only_windows_has_is_compared_as_its_kind_asks() {
        check(&[
            (r#"{"windows":{"service_pack":{"ge":"1"},"suite":512}}"#, True),
            (r#"{"windows":{"suite":256}}"#, False),
            (r#"{"registry":{"key":"HKLM\\A","value":"V","kind":"REG_DWORD"}}"#, True),
            (r#"{"registry":{"key":"HKLM\\A","value":"V","kind":"REG_SZ"}}"#, False),
            (r#"{"registry":{"key":"HKLM\\A","value":"V","data":{"lt":"10"},"ordering":"number"}}"#, True),
            (r#"{"registry":{"key":"HKLM\\A","value":"W","data":{"eq":"5"}}}"#, False),
            (r#"{"registry":{"key":"HKLM\\A","value":"X"}}"#, Unknown("was not read from")),
            (
                r#"{"registry":{"key":"HKLM\\A","value":"N","data":{"begins":"java"},"ordering":"caseless"}}"#,
                True,
            ),
            (
                r#"{"registry":{"key":"HKLM\\A","value":"N","data":{"ends":"UPDATE"},"ordering":"caseless"}}"#,
                False,
            ),
            (
                r#"{"registry":{"key":"HKLM\\A","value":"N","data":{"contains":"8 u"},"ordering":"caseless"}}"#,
                True,
            ),
            (
                r#"{"registry":{"key":"HKLM\\A","value":"V","data":{"begins":"5"},"ordering":"number"}}"#,
                Unknown("the rule compares with `begins with`, which its ordering does not have"),
            ),
            (r#"{"file":{"path":"/a","modified":{"ge":"2015-02-27T15:54:52"}}}"#, True),
            (r#"{"file":{"path":"/a","modified":{"gt":"2015-02-27T16:54:52+01:00"}}}"#, False),
            (r#"{"file":{"path":"/a","modified":{"gt":"Friday"}}}"#, Unknown("`Friday` is not a moment")),
            (r#"{"attribute":{"name":"OSSkuId","value":{"eq":"4"}}}"#, True),
            (r#"{"attribute":{"name":"sku","value":{"eq":"4"}}}"#, False),
            (r#"{"msi":{"product":"{A}","part":{"feature":"Main"}}}"#, True),
            (r#"{"msi":{"product":"{A}","part":{"patch":"{B}"}}}"#, Unknown("was not read from")),
            (r#"{"wmi":{"namespace":"root\\cimv2","query":"select * from X"}}"#, False),
            (r#"{"wmi":{"namespace":"root\\cimv2","query":"select * from Y"}}"#, Unknown("was not read")),
            (r#"{"unknown":{"reason":"nobody knows"}}"#, Unknown("nobody knows")),
            (r#"{"not":{"unknown":{"reason":"nobody knows"}}}"#, Unknown("nobody knows")),
        ]);
    }

    #[test]
    fn no_fact_decides_what_cannot_be_decided() {
        let expr: Expr = serde_json::from_str(r#"{"unknown":{"reason":"x"}}"#).unwrap();
        let mut facts = facts();
        facts.domains.insert("undecidable".to_owned(), Domain::Complete { source: String::new() });
        facts.values.insert("undecidable:x".to_owned(), "true".to_owned());
        assert_eq!(evaluate(&expr, &facts), Truth::unknown("x".to_owned()));
    }

    #[test]
    fn what_is_unknown_decides_nothing_but_hides_nothing_either() {
        let unknown = r#"{"flag":{"name":"x"}}"#;
        let case = |json: &str| json.replace('?', unknown);
        for (json, want) in [
            (r#"{"all":[?,{"const":false}]}"#, False),
            (r#"{"all":[?,{"const":true}]}"#, Unknown("no `flag` facts")),
            (r#"{"any":[?,{"const":true}]}"#, True),
            (r#"{"any":[?,{"const":false}]}"#, Unknown("no `flag` facts")),
            (r#"{"not":?}"#, Unknown("no `flag` facts")),
            (r#"{"all":[]}"#, True),
            (r#"{"any":[]}"#, False),
        ] {
            check(&[(&case(json), want)]);
        }
    }

    #[test]
    fn reasons_are_told_once_and_not_without_end() {
        let test = |path: usize| format!(r#"{{"file":{{"path":"/{path}"}}}}"#);
        let tests: Vec<_> = (0..50).map(|path| test(path % 20)).collect();
        let all = tests.join(",");
        // The same again in another order, and below another node.
        let turned = tests.iter().rev().map(String::as_str).collect::<Vec<_>>().join(",");
        let expr = format!(r#"{{"all":[{all},{{"any":[{turned}]}},{{"all":[{turned}]}}]}}"#);
        let expr: Expr = serde_json::from_str(&expr).unwrap();
        let Truth::Unknown(reasons) = evaluate(&expr, &facts()) else { panic!("decided") };
        assert_eq!(reasons.iter().count(), REASONS_MAX);
        assert_eq!(reasons.iter().collect::<BTreeSet<_>>().len(), REASONS_MAX);
        let more = format!("; and {} more", 20 - REASONS_MAX);
        assert!(reasons.to_string().ends_with(&more), "{reasons}");
    }

    #[test]
    fn installed_is_read_only_where_the_update_applies() {
        let unknown = || evaluate(&serde_json::from_str(r#"{"flag":{"name":"x"}}"#).unwrap(), &facts());
        assert_eq!(combine(Truth::False, unknown), Verdict::NotApplicable);
        assert_eq!(combine(Truth::True, || Truth::True), Verdict::Installed);
        assert_eq!(combine(Truth::True, || Truth::False), Verdict::Needed);
        let reason = "no `flag` facts were collected".to_owned();
        assert_eq!(combine(Truth::True, unknown), Verdict::Unknown { reason: reason.clone() });
        assert_eq!(combine(unknown(), || Truth::True), Verdict::Unknown { reason });
    }

    #[test]
    fn a_rule_names_every_fact_that_it_reads() {
        let expr: Expr = serde_json::from_str(
            r#"{"any":[{"not":{"file":{"path":"/a","size":{"lt":"1"}}}},{"all":[{"os":{"codename":"x"}},
            {"package":{"manager":"deb","name":"libc6"}}]}]}"#,
        )
        .unwrap();
        let mut keys = BTreeSet::new();
        asks(&expr, &mut keys);
        let keys: Vec<_> = keys.iter().map(String::as_str).collect();
        assert_eq!(keys, ["file:/a", "file:/a#size", "os:codename", "package:deb:libc6:"]);
    }

    fn not(expr: &Expr) -> Expr {
        Expr::Not(Box::new(expr.clone()))
    }

    proptest! {
        #[test]
        fn de_morgans_laws_hold_in_three_values(
            children in prop::collection::vec(sample::expr(), 0..4), facts in sample::facts()
        ) {
            let negated: Vec<_> = children.iter().map(not).collect();
            let value = |expr: &Expr| evaluate(expr, &facts).decided();
            prop_assert_eq!(value(&not(&Expr::All(children.clone()))), value(&Expr::Any(negated.clone())));
            prop_assert_eq!(value(&not(&Expr::Any(children.clone()))), value(&Expr::All(negated)));
            for child in &children {
                prop_assert_eq!(evaluate(&not(&not(child)), &facts), evaluate(child, &facts));
            }
        }

        #[test]
        fn the_order_of_the_parts_does_not_change_the_value(
            mut children in prop::collection::vec(sample::expr(), 0..4), facts in sample::facts()
        ) {
            let value = |children: &[Expr]| {
                (evaluate(&Expr::All(children.to_vec()), &facts).decided(),
                 evaluate(&Expr::Any(children.to_vec()), &facts).decided())
            };
            let before = value(&children);
            children.reverse();
            prop_assert_eq!(value(&children), before);
        }

        #[test]
        fn learning_more_facts_never_turns_a_decided_rule_round(
            expr in sample::expr(), less in sample::facts(), more in sample::facts()
        ) {
            // `fuller` knows all that `less` knows: new values only where the domain was not complete.
            let mut fuller = less.clone();
            for (key, value) in more.values {
                let domain = crate::facts::domain_of(&key);
                if !matches!(less.domains.get(domain), Some(Domain::Complete { .. })) {
                    fuller.values.entry(key).or_insert(value);
                }
            }
            for (name, domain) in more.domains {
                if !matches!(less.domains.get(&name), Some(Domain::Complete { .. })) {
                    fuller.domains.insert(name, domain);
                }
            }
            if let Some(decided) = evaluate(&expr, &less).decided() {
                prop_assert_eq!(evaluate(&expr, &fuller).decided(), Some(decided));
            }
        }
    }
}
