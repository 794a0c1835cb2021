//! Documents: what is published and reported, kept and sent as the exact bytes that were signed.
//!
//! Downward, documents are leaves of a catalogue's tree (see [`crate::tree`]) under these keys:
//!
//! | catalogue | key | document |
//! |---|---|---|
//! | `debian-12`, … | `update/<name>` | [`Update`] (id = catalogue `/` name) |
//! | `debian-12-pool`, … | `package/<architecture>/<name>` | [`PoolEntry`], what apt may need besides |
//! | `policy-<tenant>` | `endpoint/<id>` | [`Assignment`] |
//! | `policy-<tenant>` | `group/<id>` | [`Group`] |
//! | `policy-<tenant>` | `approval/<group>/<update id>` | [`Approval`] |
//! | `policy-<tenant>` | `revoked/<certificate serial, hex>` | [`Revoked`] |
//! | `policy-<tenant>` | `level/<id>` | [`policy::ServiceLevel`] |
//! | `policy-<tenant>` | `window/<id>` | [`policy::Window`] |
//! | `policy-<tenant>` | `ring-plan/<id>` | [`policy::RingPlan`] |
//! | `policy-<tenant>` | `rollout/<ring plan>/<update id>` | [`policy::Rollout`] |
//! | `policy-<tenant>` | `trust-policy` | [`policy::TrustPolicy`] |
//! | `policy-<tenant>` | `trusted/<update id>` | [`policy::Trusted`] |
//! | `policy-<tenant>` | `result-codes/update/<update id>`, `result-codes/group/<group>` | [`policy::ResultCodes`] |
//! | `policy-<tenant>` | `timing/<update id>` | [`policy::Timing`] |
//! | `policy-<tenant>` | `lease-key` | [`policy::LeaseKey`] |
//!
//! Upward, [`Report`]s travel in signed envelopes. Every document is JSON; unknown fields are ignored
//! on reading downward documents, so that an older endpoint can read a newer central's.

pub mod policy;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    facts::{Facts, FactsDelta},
    id::{CatalogueId, EndpointId, GroupId, LevelId, RingPlanId, SiteId, TagId, UpdateId},
    rules::expr::Expr,
    trust::digest::Digest,
};

mod windows;

pub use self::windows::{
    CommandLine, ExitCode, ExitResult, Handler, Impact, Part, RebootBehavior, WindowsFile, WindowsInstall,
};

/// How bad it is if the update is missing; ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The vendor does not say.
    Unspecified,
    /// Low.
    Low,
    /// Moderate.
    Moderate,
    /// Important.
    Important,
    /// Critical.
    Critical,
}

impl Severity {
    /// All, ascending.
    pub const ALL: [Self; 5] =
        [Self::Unspecified, Self::Low, Self::Moderate, Self::Important, Self::Critical];

    /// As in documents and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Low => "low",
            Self::Moderate => "moderate",
            Self::Important => "important",
            Self::Critical => "critical",
        }
    }
}

/// What an update is for, as Microsoft's and Red Hat's metadata tell them apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateClass {
    /// Closes a hole.
    #[default]
    Security,
    /// Mends something that is broken and is not about security.
    Critical,
    /// Any other correction.
    Update,
    /// Many corrections together.
    Rollup,
    /// Service pack or point release.
    ServicePack,
    /// New abilities.
    Feature,
    /// Signatures of a scanner.
    Definition,
    /// Driver or firmware.
    Driver,
    /// A program, tool or package of the administrator's own.
    Application,
}

/// Bytes to fetch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// SHA-256 of the whole file: its name everywhere in Tierway.
    pub digest: Digest,
    /// Length in bytes.
    pub bytes: u64,
    /// Where central gets it; absolute URL.
    pub url: String,
}

/// A Debian binary package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebPackage {
    /// Package name.
    pub name: String,
    /// Full version.
    pub version: String,
    /// `amd64`, `all`, …
    pub architecture: String,
    /// The `.deb`.
    pub payload: Payload,
    /// The fields of its control stanza that apt's resolver reads (`Depends`, `Pre-Depends`, `Provides`,
    /// `Conflicts`, `Breaks`, `Replaces`, `Multi-Arch`, `Essential`, `Source`, `Installed-Size`, `Priority`,
    /// `Section`, …), by field name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub control: BTreeMap<String, String>,
}

/// How an update is installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Install {
    /// By apt, from these binary packages; those of them that are installed in an older version are upgraded.
    Deb {
        /// Every binary package of the source package, all architectures of the catalogue.
        packages: Vec<DebPackage>,
    },
    /// On Windows, by one handler.
    Windows(Box<WindowsInstall>),
    /// On Windows, several parts: those that are needed by their own rules.
    Bundle {
        /// In the vendor's order.
        parts: Vec<Part>,
    },
}

impl Install {
    /// The Debian packages; none of an update for another system.
    #[must_use]
    pub fn deb_packages(&self) -> &[DebPackage] {
        match self {
            Self::Deb { packages } => packages,
            Self::Windows(_) | Self::Bundle { .. } => &[],
        }
    }

    /// In one word, for people.
    #[must_use]
    pub fn kind(&self) -> &str {
        match self {
            Self::Deb { .. } => "deb",
            Self::Windows(install) => install.handler.name(),
            Self::Bundle { .. } => "bundle",
        }
    }

    /// What can be fetched, each with a name for people, in the order of the document; a payload that is named
    /// twice comes twice.
    #[must_use]
    pub fn payloads(&self) -> Vec<(String, Payload)> {
        let of_windows = |install: &WindowsInstall| -> Vec<_> {
            install.files.iter().filter_map(|file| Some((file.name.clone(), file.payload()?))).collect()
        };
        match self {
            Self::Deb { packages } => packages
                .iter()
                .map(|package| {
                    let DebPackage { name, version, architecture, payload, .. } = package;
                    (format!("{name}_{version}_{architecture}"), payload.clone())
                })
                .collect(),
            Self::Windows(install) => of_windows(install),
            Self::Bundle { parts } => parts.iter().flat_map(|part| of_windows(&part.install)).collect(),
        }
    }
}

/// One update: what it is, whom it is for, when it counts as installed, how to install it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// Globally unique.
    pub id: UpdateId,
    /// One line for people.
    pub title: String,
    /// Source package or product.
    pub product: String,
    /// Version of the product that it brings.
    pub version: String,
    /// As the vendor rates it.
    pub severity: Severity,
    /// What it is for.
    #[serde(default)]
    pub class: UpdateClass,
    /// When central first saw it, or the vendor's own date where there is one.
    pub released: Timestamp,
    /// Advisory and CVE names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<String>,
    /// True on a computer that the update could matter to.
    pub applicable: Expr,
    /// True on a computer that has it (or something newer). Read only when `applicable` is true.
    pub installed: Expr,
    /// Older updates that this one replaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub supersedes: Vec<UpdateId>,
    /// Newer updates of the same catalogue that replace this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub superseded_by: Vec<UpdateId>,
    /// How to install it.
    pub install: Install,
    /// What exit codes of its installer mean, where the engine's own table does not know.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub result_codes: BTreeMap<i64, policy::Meaning>,
}

/// What apt may need besides the updates themselves: the newest package of that name in the archive,
/// or, for a virtual package, the names that provide it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolEntry {
    /// A real package; `providers` are other packages that provide the same name.
    Package {
        /// The newest of that name.
        package: Box<DebPackage>,
        /// Ascending.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        providers: Vec<String>,
    },
    /// Only provided by others, ascending.
    Virtual {
        /// Package names.
        providers: Vec<String>,
    },
}

/// What an endpoint belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Its site.
    pub site: SiteId,
    /// Groups that name it, ascending; groups by rule are found by evaluating their rule.
    pub groups: Vec<GroupId>,
    /// Its tags, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<TagId>,
}

/// A group of endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its name.
    pub id: GroupId,
    /// Of two groups that decide differently about an update the one with the higher priority wins;
    /// of two of the same priority the one that declines.
    pub priority: u32,
    /// Who belongs to it.
    pub members: Members,
    /// How its members are served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<LevelId>,
}

/// Who belongs to a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Members {
    /// Every endpoint of the tenant.
    Everyone,
    /// Those whose [`Assignment`] names the group.
    Assigned,
    /// Those of a site.
    Site(SiteId),
    /// Those whose [`Assignment`] has the tag.
    Tag(TagId),
    /// Those for whose facts the rule is true.
    Rule(Expr),
}

/// Whether to install.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Install it.
    Approve,
    /// Do not.
    Decline,
}

/// A decision about one update for one group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// For whom.
    pub group: GroupId,
    /// What.
    pub update: UpdateId,
    /// Whether.
    pub decision: Decision,
    /// Since when.
    pub at: Timestamp,
    /// When a person last said the same again: what failed until then shall be tried anew. `at` stays, it
    /// is what the times of an update count from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewed: Option<Timestamp>,
    /// `operator:<name>` or `rule:<name>`.
    pub by: String,
    /// Ring after ring by this plan; without one for the whole group at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rings: Option<RingPlanId>,
}

/// A certificate that must not be accepted any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// Certificate serial, lower-case hex.
    pub serial: String,
    /// Endpoint or relay id.
    pub identity: String,
    /// Since when.
    pub at: Timestamp,
    /// The certificate's end of validity: after it this entry is dropped.
    pub until: Timestamp,
}

/// The `custom` part of a TUF target: what a reader must know before fetching a catalogue's tree.
/// The target's name is the catalogue, its bytes are the tree's root node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogueInfo {
    /// What it holds.
    pub kind: CatalogueKind,
    /// Computers for which this is not true need not fetch it.
    pub fits: Expr,
    /// Number of documents.
    pub documents: u64,
}

/// What a catalogue holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatalogueKind {
    /// [`Update`]s, all of which a fitting endpoint evaluates.
    Updates,
    /// [`PoolEntry`]s of the updates' catalogue of that name, looked up one by one.
    Pool(CatalogueId),
    /// Policy of a tenant.
    Policy,
}

/// What an endpoint says upward.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// Stream `inventory`, replaces all earlier ones: every fact.
    Inventory {
        /// Read when.
        at: Timestamp,
        /// All facts.
        facts: Facts,
    },
    /// Stream `inventory`: what changed since the facts with digest `base`.
    InventoryDelta {
        /// Read when.
        at: Timestamp,
        /// What the receiver must hold for this to make sense.
        base: Digest,
        /// Of the facts after the change.
        digest: Digest,
        /// The change.
        delta: FactsDelta,
    },
    /// Stream `states`: transitions, in the order in which they happened; with `snapshot` the whole
    /// ledger, after which everything not named is not applicable.
    States {
        /// Whether it is the whole ledger.
        snapshot: bool,
        /// The transitions.
        entries: Vec<StateEntry>,
    },
    /// Stream `states`: one cycle in numbers.
    Cycle(CycleSummary),
}

/// Where an update stands on an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The rules could not be decided.
    Unknown,
    /// Not for this computer.
    NotApplicable,
    /// Applies and is not installed.
    Needed,
    /// Installed, by Tierway or not.
    Installed,
    /// The last attempt to install it failed.
    Failed,
    /// Installed, and takes effect at the next reboot.
    RebootPending,
}

impl State {
    /// All, in the order of their codes.
    pub const ALL: [Self; 6] = [
        Self::Unknown,
        Self::NotApplicable,
        Self::Needed,
        Self::Installed,
        Self::Failed,
        Self::RebootPending,
    ];

    /// For people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::NotApplicable => "not applicable",
            Self::Needed => "needed",
            Self::Installed => "installed",
            Self::Failed => "failed",
            Self::RebootPending => "reboot pending",
        }
    }
}

/// One update on one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateEntry {
    /// Which update.
    pub update: UpdateId,
    /// Where it stands now.
    pub state: State,
    /// Since when.
    pub at: Timestamp,
    /// When it was first found needed here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detected: Option<Timestamp>,
    /// When it was found installed after having been needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<Timestamp>,
    /// Reason or result, at most [`DETAIL_BYTES_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// How far it has come between needed and installed.
    #[serde(default, skip_serializing_if = "Progress::is_empty")]
    pub progress: Progress,
}

/// How far an update has come on an endpoint, with the times of each step of this round.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// When it was first on offer: needed, approved and open here while the tier above was reachable. Grace
    /// counts from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered: Option<Timestamp>,
    /// When all its payloads were here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downloaded: Option<Timestamp>,
    /// When a scan after the installation, and after the reboot it needed, found it installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Timestamp>,
    /// How long the last attempt took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_seconds: Option<u32>,
    /// What it waits for, if it is needed and not being installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// Until when, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

impl Progress {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a needed update waits for; the detail beside it says more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Waiting {
    /// Somebody must approve it.
    Approval,
    /// It was declined.
    Declined,
    /// A newer update that is approved replaces it.
    Superseded,
    /// The service level leaves its class or severity out.
    Level,
    /// It must prove itself on test groups first.
    Trust,
    /// Its ring is not open, or the rollout is paused or halted.
    Ring,
    /// Its payloads are on their way.
    Download,
    /// The person at the machine must agree, or picked a later time.
    User,
    /// A countdown runs.
    Countdown,
    /// A change window in which it fits.
    Window,
    /// Too many computers of the window are down at once.
    Lease,
    /// The computer's administrator holds one of its packages.
    Hold,
    /// It failed, and is tried again later.
    BackOff,
    /// It failed so often alike that it is not tried any more.
    Quarantine,
    /// An attempt that was cut off must be settled by a scan first.
    Settling,
    /// The computer reboots first.
    Reboot,
    /// This computer only audits, or its scheduled updates are switched off.
    Off,
    /// It is being installed.
    Installing,
}

impl Waiting {
    /// All, in the order of their codes in packed records.
    pub const ALL: [Self; 18] = [
        Self::Approval,
        Self::Declined,
        Self::Superseded,
        Self::Level,
        Self::Trust,
        Self::Ring,
        Self::Download,
        Self::User,
        Self::Countdown,
        Self::Window,
        Self::Lease,
        Self::Hold,
        Self::BackOff,
        Self::Quarantine,
        Self::Settling,
        Self::Reboot,
        Self::Off,
        Self::Installing,
    ];

    /// For people, after the state: "needed, waiting for a window".
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Approval => "waiting for approval",
            Self::Declined => "declined",
            Self::Superseded => "superseded",
            Self::Level => "left out by the service level",
            Self::Trust => "not trusted yet",
            Self::Ring => "waiting for its ring",
            Self::Download => "downloading",
            Self::User => "waiting for the user",
            Self::Countdown => "counting down",
            Self::Window => "waiting for a window",
            Self::Lease => "waiting for others of its window",
            Self::Hold => "held",
            Self::BackOff => "waiting to try again",
            Self::Quarantine => "quarantined",
            Self::Settling => "settling",
            Self::Reboot => "waiting for a reboot",
            Self::Off => "switched off",
            Self::Installing => "installing",
        }
    }
}

/// A longer detail is cut: it must fit many times into one packed record.
pub const DETAIL_BYTES_MAX: usize = 512;

/// One cycle in numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CycleSummary {
    /// Begun when.
    pub at: Timestamp,
    /// Took how long, milliseconds.
    pub took_ms: u64,
    /// Version of the timestamp metadata it went by.
    pub dictionary_version: u64,
    /// The endpoint program's version.
    pub agent_version: String,
    /// Host name.
    pub host_name: String,
    /// Updates by state.
    pub counts: BTreeMap<State, u64>,
    /// A reboot is needed.
    pub reboot_pending: bool,
    /// Computers that take about as long for the same work: processors and memory as powers of two, such as
    /// `c2m3` for 4 processors and 8 GiB. Empty when unknown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub machine_class: String,
    /// No published catalogue of updates fits this computer: that nothing is needed says nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub uncovered: bool,
    /// The facts that the tier above acknowledged last: what central does not hold by then was lost on the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<Digest>,
    /// What went wrong, at most 32 sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}
