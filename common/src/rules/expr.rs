//! The rule tree: what a vendor's applicability metadata is lowered to.
//!
//! As JSON, one key a node: `{"all":[{"os":{"family":"debian"}},{"package":{"manager":"deb","name":"openssl",
//! "version":{"lt":"3.0.17-1~deb12u3"}}}]}`.

use serde::{Deserialize, Serialize};

mod windows;

pub use self::windows::{
    AttributeTest, LOOP_TARGET, LoopTest, MsiPart, MsiTest, Quantity, UnknownTest, WindowsTest, WmiTest,
};

/// A Boolean expression over facts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expr {
    /// Always this value.
    Const(bool),
    /// True when all are; true when empty.
    All(Vec<Self>),
    /// True when any is; false when empty.
    Any(Vec<Self>),
    /// True when it is false.
    Not(Box<Self>),
    /// The operating system.
    Os(OsTest),
    /// An installed package.
    Package(PackageTest),
    /// A file.
    File(FileTest),
    /// A registry key or value.
    Registry(RegistryTest),
    /// An installed update, by the id its own system gives it, such as `KB5031358`.
    Update(UpdateTest),
    /// A named yes/no fact, such as `reboot-pending`.
    Flag(FlagTest),
    /// A named whole number, such as `memory-mib`.
    Number(NumberTest),
    /// A named property of the system that has a text or a version, such as `OSSkuId`.
    Attribute(AttributeTest),
    /// What sort of Windows it is.
    Windows(Box<WindowsTest>),
    /// A part of a product of Windows Installer.
    Msi(MsiTest),
    /// A query to Windows Management Instrumentation.
    Wmi(WmiTest),
    /// A test of every subkey of a registry key.
    RegistryLoop(LoopTest),
    /// What nobody can decide here: never true, never false.
    Unknown(UnknownTest),
}

/// How versions are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ordering {
    /// Debian Policy 5.6.12.
    Deb,
    /// rpmvercmp over epoch, version, release.
    Rpm,
    /// Four dotted numbers.
    Windows,
    /// Semantic Versioning 2.0.0.
    Semver,
}

/// How data without a package manager are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataOrdering {
    /// As [`Ordering::Deb`].
    Deb,
    /// As [`Ordering::Rpm`].
    Rpm,
    /// As [`Ordering::Windows`].
    Windows,
    /// As [`Ordering::Semver`].
    Semver,
    /// As whole numbers.
    Number,
    /// As texts whose case does not matter; equal or not, begins, contains, ends.
    Caseless,
}

/// Which package manager a package belongs to; it settles the ordering (`msi`, `cbs`: Windows).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Manager {
    /// dpkg.
    Deb,
    /// rpm.
    Rpm,
    /// Windows Installer, by product code in braces and upper case; the architecture is the product's
    /// language as a decimal number.
    Msi,
    /// The packages of Windows itself, by name, of each the newest that is installed; a language other than
    /// neutral follows the name after `~`.
    Cbs,
}

impl Manager {
    /// As in fact keys.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deb => "deb",
            Self::Rpm => "rpm",
            Self::Msi => "msi",
            Self::Cbs => "cbs",
        }
    }

    /// The ordering of this manager's versions.
    #[must_use]
    pub fn ordering(self) -> Ordering {
        match self {
            Self::Deb => Ordering::Deb,
            Self::Rpm => Ordering::Rpm,
            Self::Msi | Self::Cbs => Ordering::Windows,
        }
    }
}

/// One comparison with a value on the right-hand side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compare {
    /// Less than.
    Lt(String),
    /// At most.
    Le(String),
    /// Equal.
    Eq(String),
    /// At least.
    Ge(String),
    /// Greater than.
    Gt(String),
    /// Not equal.
    Ne(String),
    /// Begins with; of texts whose case does not matter only, as the two below.
    Begins(String),
    /// Contains.
    Contains(String),
    /// Ends with.
    Ends(String),
}

/// Every part that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OsTest {
    /// Such as `debian`, `windows`, `rhel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
    /// `os:version`, in the Windows four-part order (`12`, `10.0.22621`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Compare>,
    /// Such as `bookworm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codename: Option<String>,
    /// `os:build`, in the Windows four-part order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<Compare>,
    /// As the system's own packages name it: `amd64`, `x86_64`; of Windows as it names itself, in lower case:
    /// `x86`, `amd64`, `arm`, `arm64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
}

/// True when some installed package of that name (and architecture) has such a version; without
/// `version`, when it is installed at all. False when it is not installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageTest {
    /// Package manager.
    pub manager: Manager,
    /// Name as the manager knows it.
    pub name: String,
    /// One architecture only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// Compared in the manager's ordering.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Compare>,
}

/// True when the file exists and every given part holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileTest {
    /// Absolute path; of Windows it may begin with a place in percent signs, see [`super::place`].
    pub path: String,
    /// File version in the Windows four-part order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Compare>,
    /// Bytes, decimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Compare>,
    /// Lower-case hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// When it was made, as RFC 3339; without a zone UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Compare>,
    /// When its contents were last changed, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified: Option<Compare>,
    /// Language of its version resource, as a decimal number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
}

/// True when the key exists; with `value` or `data` when that value of it exists and every part holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryTest {
    /// Such as `HKLM\SOFTWARE\Vendor\Product`; `HKLM32` is the view of 32-bit programs.
    pub key: String,
    /// Value name; the key's default value when empty, or when not given and `data` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Type of the value, such as `REG_SZ`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// How it must compare.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Compare>,
    /// In which order: text equality only when unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordering: Option<DataOrdering>,
}

/// True when the update is installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateTest {
    /// Such as `KB5031358`.
    pub id: String,
}

/// True when the flag is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlagTest {
    /// Name of the flag.
    pub name: String,
}

/// True when the number compares so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumberTest {
    /// Name of the number.
    pub name: String,
    /// Compared as whole numbers.
    pub value: Compare,
}
