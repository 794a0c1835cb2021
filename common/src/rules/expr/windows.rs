//! What only rules about Windows ask.

use serde::{Deserialize, Serialize};

use super::{Compare, DataOrdering, Expr, FileTest, RegistryTest};

/// True when the system has a property of that name and it compares so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttributeTest {
    /// Such as `OSSkuId`, or `release:Client.OS` for the version of a product release.
    pub name: String,
    /// How it must compare.
    pub value: Compare,
    /// In which order: text equality only when unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordering: Option<DataOrdering>,
}

/// Every part that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowsTest {
    /// `os:service-pack`, `1.0`; of a Windows without one `0.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_pack: Option<Compare>,
    /// `workstation`, `domain-controller` or `server`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product_type: Option<String>,
    /// A bit of the suite mask that must be set, as a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suite: Option<u32>,
    /// The system's own language, such as `de-de`; lower case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// A language of the user interface that is installed, lower case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mui: Option<String>,
}

/// True when the product has the part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MsiTest {
    /// Product code, in braces and upper case.
    pub product: String,
    /// What of it.
    pub part: MsiPart,
}

/// A part of a product of Windows Installer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MsiPart {
    /// A feature that is installed locally or runs from its source, by name.
    Feature(String),
    /// A component that is installed, by code in braces and upper case.
    Component(String),
    /// A patch that is applied and not superseded, by code in braces and upper case.
    Patch(String),
}

impl MsiPart {
    /// Kind and name, as in fact keys.
    pub(in crate::rules) fn name(&self) -> (&'static str, &str) {
        match self {
            Self::Feature(name) => ("feature", name),
            Self::Component(code) => ("component", code),
            Self::Patch(code) => ("patch", code),
        }
    }
}

/// True when the query has a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WmiTest {
    /// Such as `root\cimv2`.
    pub namespace: String,
    /// WQL, as the vendor wrote it.
    pub query: String,
}

/// Of how many subkeys the test must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// At least one.
    Any,
    /// Every one; true when there are none.
    All,
    /// Not one.
    None,
}

impl Quantity {
    /// As in documents.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::All => "all",
            Self::None => "none",
        }
    }
}

/// The hive that stands for the subkey at hand in the test of a [`LoopTest`].
pub const LOOP_TARGET: &str = "HKEY_LOOP_TARGET";

/// True when the test holds of that many subkeys; the computer that has the registry answers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoopTest {
    /// Whose subkeys.
    pub key: String,
    /// How many.
    pub of: Quantity,
    /// In which a registry key may begin with [`LOOP_TARGET`].
    pub test: Box<Expr>,
}

impl LoopTest {
    /// The test as a rule without a loop, for a computer on which the key has these subkeys.
    #[must_use]
    pub fn unrolled<'a>(&self, subkeys: impl IntoIterator<Item = &'a str>) -> Expr {
        let each = subkeys.into_iter().map(|name| at(&self.test, &format!("{}\\{name}", self.key))).collect();
        match self.of {
            Quantity::Any => Expr::Any(each),
            Quantity::All => Expr::All(each),
            Quantity::None => Expr::Not(Box::new(Expr::Any(each))),
        }
    }
}

/// The rule with `subkey` in the place of [`LOOP_TARGET`].
fn at(expr: &Expr, subkey: &str) -> Expr {
    let all = |parts: &[Expr]| parts.iter().map(|part| at(part, subkey)).collect();
    match expr {
        Expr::All(parts) => Expr::All(all(parts)),
        Expr::Any(parts) => Expr::Any(all(parts)),
        Expr::Not(part) => Expr::Not(Box::new(at(part, subkey))),
        Expr::Registry(test) => {
            Expr::Registry(RegistryTest { key: test.key.replacen(LOOP_TARGET, subkey, 1), ..test.clone() })
        }
        Expr::File(test) => {
            Expr::File(FileTest { path: test.path.replacen(LOOP_TARGET, subkey, 1), ..test.clone() })
        }
        Expr::RegistryLoop(test) => Expr::RegistryLoop(LoopTest {
            key: test.key.replacen(LOOP_TARGET, subkey, 1),
            of: test.of,
            // What is further in is about the inner loop's subkeys.
            test: test.test.clone(),
        }),
        other => other.clone(),
    }
}

/// Never decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnknownTest {
    /// Why not, as a sentence without a period.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_is(key: &str) -> Expr {
        Expr::Registry(RegistryTest {
            key: key.to_owned(),
            value: Some("Name".to_owned()),
            data: Some(Compare::Eq("x".to_owned())),
            ordering: Some(DataOrdering::Caseless),
            ..RegistryTest::default()
        })
    }

    #[test]
    fn an_unrolled_loop_asks_its_test_of_each_subkey() {
        for (of, wanted) in [
            (Quantity::Any, Expr::Any(vec![name_is("HKLM\\A\\1"), name_is("HKLM\\A\\2")])),
            (Quantity::All, Expr::All(vec![name_is("HKLM\\A\\1"), name_is("HKLM\\A\\2")])),
            (
                Quantity::None,
                Expr::Not(Box::new(Expr::Any(vec![name_is("HKLM\\A\\1"), name_is("HKLM\\A\\2")]))),
            ),
        ] {
            let test = LoopTest { key: "HKLM\\A".to_owned(), of, test: Box::new(name_is(LOOP_TARGET)) };
            assert_eq!(test.unrolled(["1", "2"]), wanted);
        }
        let test = Box::new(name_is(LOOP_TARGET));
        let empty = LoopTest { key: "HKLM\\A".to_owned(), of: Quantity::All, test }.unrolled([]);
        assert_eq!(empty, Expr::All(Vec::new()));
    }
}
