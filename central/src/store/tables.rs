//! The data model: every table of central, its key and what a row holds.
//!
//! The tenant is the first part of every key. Rows are JSON unless said otherwise. What is kept in
//! memory besides is in [`crate::model`], and is rebuilt from these rows at start.

use std::collections::BTreeMap;

use jiff::{Timestamp, civil::Time};
use serde::{Deserialize, Serialize};
use tierway_common::{
    id::{
        CatalogueId, EndpointId, GroupId, RelayId, RingPlanId, SiteId, SourceId, TagId, TemplateId, TenantId,
        TokenId, UpdateId, WindowId,
    },
    rules::expr::Expr,
    schema::{
        Approval as ApprovalDocument, CatalogueKind, Group as GroupDocument, Severity,
        policy::{LeaseKey as LeaseKeyDocument, Rollout as RolloutDocument, Trusted as TrustedDocument},
    },
    store::{
        StoreError,
        table::{Key, Table},
    },
    transport::identity::Role,
    trust::{digest::Digest, keys::PublicKey},
};

use super::chunked::Chunked;
use crate::{policy::documents::Document, sources::payloads::Which};

trait Part {
    fn add(&self, key: Key) -> Key;
}
macro_rules! text_parts { ($($id:ty),*) => {$(
    impl Part for $id {
        fn add(&self, key: Key) -> Key { key.text(self.as_str()) }
    }
)*}; }
text_parts!(
    CatalogueId,
    EndpointId,
    GroupId,
    RelayId,
    RingPlanId,
    SourceId,
    TemplateId,
    TokenId,
    UpdateId,
    WindowId
);
impl Part for str {
    fn add(&self, key: Key) -> Key {
        key.text(self)
    }
}
macro_rules! number_parts { ($($number:ty),*) => {$(
    impl Part for $number {
        fn add(&self, key: Key) -> Key { key.number(u64::from(*self)) }
    }
)*}; }
number_parts!(u8, u32, u64);

/// `Name "prefix" { parts } => value`; the borrowed parts first, then numbers.
macro_rules! tables { ($(
    $(#[$doc:meta])* $name:ident $prefix:literal { $($text:ident: $text_type:ty),* ; $($number:ident: $number_type:ty),* } => $value:ty;
)*) => {$(
    $(#[$doc])*
    #[derive(Clone, Copy, Debug)]
    pub struct $name<'a> {
        /// Whose.
        pub tenant: &'a TenantId,
        $(#[doc = concat!("Part of the key: ", stringify!($text), ".")] pub $text: &'a $text_type,)*
        $(#[doc = concat!("Part of the key: ", stringify!($number), ".")] pub $number: $number_type,)*
    }
    impl Table for $name<'_> {
        const PREFIX: &'static [u8] = $prefix;
        type Value = $value;
        fn key(&self) -> Vec<u8> {
            let key = Key::new().text(self.tenant.as_str());
            $(let key = self.$text.add(key);)*
            $(let key = self.$number.add(key);)*
            key.done()
        }
    }
)*}; }

/// The same for rows that hold bytes, in chunks when `chunk` is a part.
macro_rules! packed_tables { ($(
    $(#[$doc:meta])* $name:ident $prefix:literal { $($text:ident: $text_type:ty),* ; $($number:ident: $number_type:ty),* };
)*) => {$(
    $(#[$doc])*
    #[derive(Clone, Copy, Debug)]
    pub struct $name<'a> {
        /// Whose.
        pub tenant: &'a TenantId,
        $(#[doc = concat!("Part of the key: ", stringify!($text), ".")] pub $text: &'a $text_type,)*
        $(#[doc = concat!("Part of the key: ", stringify!($number), ".")] pub $number: $number_type,)*
    }
    impl Table for $name<'_> {
        const PREFIX: &'static [u8] = $prefix;
        type Value = Vec<u8>;
        fn key(&self) -> Vec<u8> {
            let key = Key::new().text(self.tenant.as_str());
            $(let key = self.$text.add(key);)*
            $(let key = self.$number.add(key);)*
            key.done()
        }
        fn encode(value: &Vec<u8>) -> Result<Vec<u8>, StoreError> {
            Ok(value.clone())
        }
        fn decode(bytes: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
            Ok(bytes.to_vec())
        }
    }
)*}; }

tables! {
    /// A computer.
    Endpoint b"endpoint" { id: EndpointId; } => EndpointRecord;
    /// A relay.
    Relay b"relay" { id: RelayId; } => RelayRecord;
    /// An update that is or was in a catalogue; its document is in the catalogue's tree.
    Update b"update" { id: UpdateId; } => UpdateRecord;
    /// A catalogue as it is to be published.
    Catalogue b"catalogue" { id: CatalogueId; } => CatalogueRecord;
    /// A group of endpoints.
    Group b"group" { id: GroupId; } => GroupDocument;
    /// A decision.
    Approval b"approval" { group: GroupId, update: UpdateId; } => ApprovalDocument;
    /// A policy document by kind and name.
    Policy b"policy" { kind: str, name: str; } => Document;
    /// How far an update has come in a ring plan.
    Rollout b"rollout" { plan: RingPlanId, update: UpdateId; } => RolloutRecord;
    /// An update that is trusted.
    Trusted b"trusted" { update: UpdateId; } => TrustedDocument;
    /// What is installed on a computer that others shall be like.
    Template b"template" { id: TemplateId; } => TemplateRecord;
    /// A rule that decides by itself, by name.
    AutoApproval b"auto-approval" { name: str; } => AutoApprovalRecord;
    /// An enrolment token that can still be used, or was, until retention drops it.
    Token b"token" { id: TokenId; } => TokenRecord;
    /// An issued certificate, by serial (lower-case hex).
    Certificate b"certificate" { serial: str; } => CertificateRecord;
    /// The serial of the certificate that was issued for a key (lower-case hex): a key gets one.
    CertificateKey b"certificate-key" { key: str; } => String;
    /// How a source of updates stands.
    Source b"source" { name: SourceId; } => SourceRecord;
    /// When payloads are downloaded.
    Download b"download" {;} => DownloadRecord;
    /// A document of the policy catalogue that changed since the last publication: its new text, or
    /// nothing when it is gone.
    PendingPolicy b"pending-policy" { key: str; } => Option<String>;
    /// The lease of an endpoint for a window, held, given back or at its end.
    Lease b"lease" { window: WindowId, endpoint: EndpointId; } => LeaseRecord;
    /// When a plan was made that is in [`PlanBody`].
    Plan b"plan" { id: str; } => crate::plan::Made;
    /// How long an update takes to install, by its number.
    Timing b"timing" { ; number: u32 } => crate::timing::TimingRecord;
    /// The key with which leases are signed, as published.
    LeaseKey b"lease-key" {;} => LeaseKeyDocument;
    /// What was decided up to a moment is in this version of the timestamp metadata, and in later ones.
    Publication b"publication" { ; version: u64 } => Timestamp;
    /// What is published.
    Published b"published" {;} => PublishedRecord;
    /// Up to where published updates were evaluated against reported facts, per catalogue: its root.
    Exposed b"exposed" {;} => BTreeMap<CatalogueId, Digest>;
    /// The audit log.
    Audit b"audit" { ; sequence: u64 } => crate::audit::Record;
    /// Its newest record, and up to which record retention dropped the oldest.
    AuditEnds b"audit-ends" {;} => crate::audit::Ends;
    /// A change larger than one batch was decided and is not yet in place: for each of its batches the number
    /// of rows under [`Aside`].
    AsideWhole b"aside-whole" {;} => Vec<u32>;
}

packed_tables! {
    /// The facts an endpoint reported, as zstd of JSON, by endpoint number, in chunks.
    Facts b"facts" { ; number: u32, chunk: u8 };
    /// All states of an endpoint, packed ([`crate::compliance::record`]), by endpoint number, in chunks.
    States b"states" { ; number: u32, chunk: u8 };
    /// What an update must fetch: 40 bytes for each payload (digest, length big-endian), by update
    /// number, in chunks.
    Payloads b"payloads" { ; number: u32, chunk: u8 };
    /// TUF metadata as published, by file name such as `3.targets.json`, in chunks.
    Metadata b"metadata" { name: str; chunk: u8 };
    /// State of the TUF writer, as JSON, in chunks.
    Writer b"writer" { ; chunk: u8 };
    /// What would come of an approval, and what that rests on, as JSON, until it is too old, in chunks.
    PlanBody b"plan-body" { id: str; chunk: u8 };
    /// A change larger than one batch, until it is in place: one of its batches in rows of at most 60 KiB.
    Aside b"aside" { ; batch: u32, chunk: u32 };
    /// What a source wants to remember from one sync to the next, as zstd of JSON, in chunks.
    SourceMemory b"source-memory" { name: SourceId; chunk: u8 };
}

macro_rules! chunked { ($($name:ident { $($part:ident),* }),*) => {$(
    impl Chunked for $name<'_> {
        fn chunk(&self, chunk: u8) -> Self {
            Self { tenant: self.tenant, $($part: self.$part,)* chunk }
        }
    }
)*}; }
chunked!(
    Facts { number },
    States { number },
    Payloads { number },
    Metadata { name },
    Writer {},
    PlanBody { id },
    SourceMemory { name }
);

/// What central knows of a computer, without its facts and states.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// Its place in bitmaps and packed tables; never used again for another.
    pub number: u32,
    /// Its id.
    pub id: EndpointId,
    /// Host name as it says; shown, never trusted.
    pub name: String,
    /// From its certificate.
    pub site: SiteId,
    /// Groups that name it, ascending.
    pub groups: Vec<GroupId>,
    /// Groups whose rule is true for its facts, ascending.
    #[serde(default)]
    pub rule_groups: Vec<GroupId>,
    /// Its tags, ascending.
    #[serde(default)]
    pub tags: Vec<TagId>,
    /// Enrolled when.
    pub enrolled_at: Timestamp,
    /// Its newest certificate.
    pub serial: String,
    /// That certificate's end.
    pub certificate_expires: Timestamp,
    /// Keys whose signature counts, newest first.
    pub keys: Vec<PublicKey>,
    /// No longer believed.
    pub revoked: bool,
    /// When its last report was accepted.
    #[serde(default)]
    pub last_report: Option<Timestamp>,
    /// The endpoint program's version.
    #[serde(default)]
    pub agent_version: String,
    /// Highest sequence accepted of the stream `states`.
    #[serde(default)]
    pub states_sequence: u64,
    /// Highest sequence accepted of the stream `inventory`.
    #[serde(default)]
    pub inventory_sequence: u64,
    /// It must send all its states again.
    #[serde(default)]
    pub resync_states: bool,
    /// It must send all its facts again.
    #[serde(default)]
    pub resync_inventory: bool,
    /// Since when its cycles name facts as acknowledged that did not come.
    #[serde(default)]
    pub facts_missing_since: Option<Timestamp>,
    /// Its states say something: it reported them, or central estimated them from its facts.
    #[serde(default)]
    pub assessed: bool,
    /// Timestamp metadata version of its last cycle.
    #[serde(default)]
    pub dictionary_version: u64,
    /// Estimates hold until it reports a cycle with at least this timestamp metadata version; 0: none.
    #[serde(default)]
    pub estimated_for: u64,
    /// Among them are some in place of what it reported itself. Where it finds that again it has nothing new to say, so it
    /// must send all its states once it has evaluated.
    #[serde(default)]
    pub overruled: bool,
    /// It says that it needs a reboot.
    #[serde(default)]
    pub reboot_pending: bool,
    /// Which computers take about as long as it for the same work; empty when it did not say.
    #[serde(default)]
    pub machine_class: String,
    /// What went wrong in its last cycle.
    #[serde(default)]
    pub problems: Vec<String>,
    /// Of the facts it reported last.
    #[serde(default)]
    pub facts: Option<FactsSummary>,
}

impl EndpointRecord {
    /// As it is before it said anything, in no group, named by its id; its certificate is still to be written.
    #[must_use]
    pub fn enrolled(number: u32, id: EndpointId, site: SiteId, key: PublicKey, at: Timestamp) -> Self {
        Self {
            number,
            name: id.to_string(),
            id,
            site,
            groups: Vec::new(),
            rule_groups: Vec::new(),
            tags: Vec::new(),
            enrolled_at: at,
            serial: String::new(),
            certificate_expires: at,
            keys: vec![key],
            revoked: false,
            last_report: None,
            agent_version: String::new(),
            states_sequence: 0,
            inventory_sequence: 0,
            resync_states: false,
            resync_inventory: false,
            facts_missing_since: None,
            assessed: false,
            dictionary_version: 0,
            estimated_for: 0,
            overruled: false,
            reboot_pending: false,
            machine_class: String::new(),
            problems: Vec::new(),
            facts: None,
        }
    }
}

/// What is shown of facts without reading them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FactsSummary {
    /// Of the facts.
    pub digest: Digest,
    /// Read when.
    pub at: Timestamp,
    /// Such as `debian 12 amd64`.
    pub os: String,
    /// IANA name of its time zone; `None` when it did not say.
    #[serde(default)]
    pub zone: Option<String>,
    /// Installed packages of all managers.
    pub packages: u64,
    /// Domains that could not be read, one sentence each.
    pub problems: Vec<String>,
    /// Other programs that install updates there, each with what it does.
    #[serde(default)]
    pub managers: Vec<String>,
}

/// What central knows of a relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayRecord {
    /// Its id.
    pub id: RelayId,
    /// Host name as it says.
    pub name: String,
    /// From its certificate.
    pub site: SiteId,
    /// Joined when.
    pub enrolled_at: Timestamp,
    /// Its newest certificate.
    pub serial: String,
    /// That certificate's end.
    pub certificate_expires: Timestamp,
    /// Key of that certificate.
    pub key: PublicKey,
    /// No longer believed.
    pub revoked: bool,
    /// The relay program's version.
    #[serde(default)]
    pub agent_version: String,
    /// Last check-in.
    #[serde(default)]
    pub last_seen: Option<Timestamp>,
    /// Timestamp metadata version it had then.
    #[serde(default)]
    pub timestamp_version: u64,
    /// The last versions of it, and when it first said that it had each, oldest first; at most
    /// [`RelayRecord::VERSIONS_MAX`].
    #[serde(default)]
    pub versions: Vec<(u64, Timestamp)>,
    /// How it was then.
    #[serde(default)]
    pub health: RelayHealth,
}

impl RelayRecord {
    /// A day of publications; for what is older the oldest that is kept is told.
    pub const VERSIONS_MAX: usize = 48;

    /// Notes the version that it has now.
    pub fn has_version(&mut self, version: u64, now: Timestamp) {
        self.timestamp_version = version;
        if version > 0 && self.versions.last().is_none_or(|(last, _)| *last < version) {
            self.versions.push((version, now));
            let beyond = self.versions.len().saturating_sub(Self::VERSIONS_MAX);
            self.versions.drain(..beyond);
        }
    }

    /// Since when, at the latest, it has had `version` or a newer one; `None` when it does not have it.
    #[must_use]
    pub fn since(&self, version: u64) -> Option<Timestamp> {
        let since = self.versions.iter().find(|(had, _)| *had >= version).map(|(_, at)| *at);
        since.or(self.last_seen).filter(|_| self.timestamp_version >= version)
    }
}

/// How a relay is doing, as it says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayHealth {
    /// Blobs on its disk.
    pub blob_bytes: u64,
    /// How many it may have.
    pub blob_bytes_quota: u64,
    /// Reports waiting.
    pub outbox_reports: u64,
    /// Their bytes.
    pub outbox_bytes: u64,
    /// The oldest of them, Unix seconds, 0 for none.
    pub outbox_oldest: i64,
    /// Connected now.
    pub endpoints_connected: u32,
    /// Seen in the last 24 h.
    pub endpoints_seen: u32,
}

/// What lists and rules need of an update without reading its document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateRecord {
    /// Its place in bitmaps and packed records; never used again for another.
    pub number: u32,
    /// Its id.
    pub id: UpdateId,
    /// One line.
    pub title: String,
    /// How bad.
    pub severity: Severity,
    /// As in the document: the vendor's date, or else when central first saw it.
    pub released: Timestamp,
    /// When it came into the catalogue here.
    pub seen: Timestamp,
    /// Of the document's bytes.
    pub document: Digest,
    /// Newer updates that replace it.
    #[serde(default)]
    pub superseded_by: Vec<UpdateId>,
    /// Of all payloads.
    pub payload_bytes: u64,
    /// No longer in the catalogue.
    #[serde(default)]
    pub gone: bool,
    /// Since when; unknown of one that was gone before this was written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_since: Option<Timestamp>,
}

impl UpdateRecord {
    /// The same, no longer in the catalogue.
    #[must_use]
    pub fn left(&self, now: Timestamp) -> Self {
        Self { gone: true, gone_since: Some(now), ..self.clone() }
    }
}

/// A catalogue as it is to be published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogueRecord {
    /// Of its tree.
    pub root: Digest,
    /// What it holds.
    pub kind: CatalogueKind,
    /// For whom.
    pub fits: Expr,
    /// Documents in it.
    pub documents: u64,
    /// Last change.
    pub changed: Timestamp,
}

/// A rule that approves by itself; every part that is given must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AutoApprovalRecord {
    /// Its name.
    pub name: String,
    /// For whom it approves.
    pub group: GroupId,
    /// Only updates of this catalogue.
    #[serde(default)]
    pub catalogue: Option<CatalogueId>,
    /// Only updates at least this severe.
    #[serde(default)]
    pub severity_at_least: Option<Severity>,
    /// Only updates whose name matches: `*` any text, `?` any character.
    #[serde(default)]
    pub matching: Option<String>,
    /// Only updates known at least so long, by [`UpdateRecord::released`].
    #[serde(default)]
    pub age_at_least_seconds: u64,
    /// Ring after ring by this plan.
    #[serde(default)]
    pub rings: Option<RingPlanId>,
}

/// How far an update has come in a ring plan, and what endpoints need not know of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutRecord {
    /// As published.
    pub rollout: RolloutDocument,
    /// Numbers of the endpoints whose failure was forgiven when somebody resumed it, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forgiven: Vec<u32>,
}

/// What is installed on a computer that others shall be like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateRecord {
    /// Its name.
    pub id: TemplateId,
    /// From which endpoint it was taken,
    pub endpoint: EndpointId,
    /// and its name then.
    pub endpoint_name: String,
    /// When.
    pub at: Timestamp,
    /// `operator:<name>`.
    pub by: String,
    /// Numbers of the current updates that were installed there, ascending.
    pub updates: Vec<u32>,
}

/// An enrolment token; the secret itself is not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Its public part.
    pub id: TokenId,
    /// What its proofs are checked with: SHA-256 of the secret.
    pub verifier: Digest,
    /// What it makes.
    pub role: Role,
    /// Where.
    pub site: SiteId,
    /// Groups the new endpoint shall be in.
    pub groups: Vec<GroupId>,
    /// Name of the new operator; empty for the others.
    #[serde(default)]
    pub name: String,
    /// Uses left.
    pub uses: u32,
    /// Not after.
    pub expires: Timestamp,
    /// Made when.
    pub created: Timestamp,
    /// `operator:<name>`.
    pub by: String,
}

/// An issued certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRecord {
    /// Lower-case hex.
    pub serial: String,
    /// Id of its holder.
    pub identity: String,
    /// For what.
    pub role: Role,
    /// Where.
    pub site: SiteId,
    /// Its key.
    pub key: PublicKey,
    /// SHA-256 of the whole certificate.
    pub fingerprint: Digest,
    /// Valid from.
    pub issued: Timestamp,
    /// Valid until.
    pub expires: Timestamp,
    /// Since when it is not accepted any more.
    #[serde(default)]
    pub revoked: Option<Timestamp>,
}

/// What was decided about the newest ask of an endpoint for a lease of a window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// For which window.
    pub window: WindowId,
    /// Whose.
    pub endpoint: EndpointId,
    /// When it asked, by the endpoint's clock: an earlier ask is a repetition.
    pub asked: Timestamp,
    /// That ask, which may come again because the answer got lost.
    pub ask: Digest,
    /// For how long it was granted.
    pub seconds: u32,
    /// Held since.
    pub since: Timestamp,
    /// Held until, by central's clock.
    pub until: Timestamp,
    /// Given back when.
    #[serde(default)]
    pub released: Option<Timestamp>,
}

impl LeaseRecord {
    /// Whether it is held at `now`.
    #[must_use]
    pub fn is_held(&self, now: Timestamp) -> bool {
        self.released.is_none() && self.until > now
    }
}

/// How a source of updates stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// Last time it was read to its end.
    #[serde(default)]
    pub last_sync: Option<Timestamp>,
    /// Why the last try failed, empty if it did not.
    #[serde(default)]
    pub last_error: String,
    /// Updates it gave.
    #[serde(default)]
    pub updates: u64,
    /// The newest date its archive claims.
    #[serde(default)]
    pub archive_date: Option<Timestamp>,
}

/// When payloads are downloaded, as an operator set it; unset parts are as in the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownloadRecord {
    /// Daily, or only by hand.
    #[serde(default)]
    pub enabled: Option<bool>,
    /// Local time of day.
    #[serde(default)]
    pub at: Option<Time>,
    /// Which.
    #[serde(default)]
    pub which: Option<Which>,
}

/// What is published.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedRecord {
    /// Version of the timestamp metadata.
    pub timestamp_version: u64,
    /// When the targets last changed.
    pub changed: Option<Timestamp>,
    /// When the timestamp metadata was signed, also again while nothing changed.
    #[serde(default)]
    pub signed: Option<Timestamp>,
    /// Version of the timestamp metadata that came with the last change worth a check of every computer.
    #[serde(default)]
    pub news: u64,
    /// Root of each published catalogue.
    pub roots: BTreeMap<CatalogueId, Digest>,
    /// Roots that were published before, newest first: endpoints may still be fetching from them.
    pub before: Vec<Digest>,
}
