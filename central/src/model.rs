//! Everything central knows, in memory, as of the last commit.
//!
//! There is one way in: a [`Write`]. It is put into a batch, and applied here when that batch is on disk;
//! at start the rows of the store are applied the same way. So memory cannot say what the disk does not.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use roaring::RoaringBitmap;
use tierway_common::{
    id::{
        CatalogueId, EndpointId, GroupId, RelayId, RingPlanId, SiteId, SourceId, TemplateId, TokenId,
        UpdateId, WindowId,
    },
    schema::{
        Approval, Assignment, Group, Revoked,
        policy::{ApprovalMode, LeaseKey, Rollout, ServiceLevel, Timing, Trusted},
    },
    store::{Batch, StoreError, table},
    transport::identity::Role,
    trust::{digest::Digest, keys::PublicKey},
};

use crate::{
    compliance::{index::Index, record::Record},
    policy::{
        Member, Policy,
        documents::{Document, Kind},
    },
    store::{
        chunked,
        tables::{
            self, AutoApprovalRecord, CatalogueRecord, CertificateRecord, DownloadRecord, EndpointRecord,
            LeaseRecord, RelayRecord, RolloutRecord, SourceRecord, TemplateRecord, TokenRecord, UpdateRecord,
        },
    },
    timing::TimingRecord,
};

/// Endpoints of one tenant: four times the largest fleet planned for.
pub const ENDPOINTS_MAX: u32 = 1_000_000;
/// Relays of one tenant.
pub const RELAYS_MAX: usize = 20_000;
/// Updates that are in a catalogue or left it lately: each costs about a kilobyte of memory and six bitmaps.
pub const UPDATES_MAX: u32 = 1_000_000;

/// A change of one row, or of those that must not be seen without each other.
#[derive(Clone, Debug)]
pub enum Write {
    /// These at once, also in a change that is made in parts: a few.
    Together(Vec<Self>),
    /// Adds or replaces an endpoint.
    Endpoint(Arc<EndpointRecord>),
    /// Adds or replaces a relay.
    Relay(Arc<RelayRecord>),
    /// Adds or replaces an update.
    Update(Arc<UpdateRecord>),
    /// Forgets an update that is gone, and of which nothing is known by its number.
    NoUpdate(u32),
    /// What an update must fetch: digest and bytes.
    Payloads(u32, Arc<[(Digest, u64)]>),
    /// Adds or replaces catalogues that belong together: an update must not be published without its pool.
    Catalogues(Vec<(CatalogueId, CatalogueRecord)>),
    /// Removes a catalogue.
    NoCatalogue(CatalogueId),
    /// Adds or replaces a group.
    Group(Group),
    /// Removes a group.
    NoGroup(GroupId),
    /// Adds or replaces a decision.
    Approval(Approval),
    /// Removes a decision.
    NoApproval(GroupId, UpdateId),
    /// Adds or replaces a rule.
    Rule(AutoApprovalRecord),
    /// Removes a rule.
    NoRule(String),
    /// Adds or replaces a policy document.
    Document(Document),
    /// Removes a policy document.
    NoDocument(Kind, String),
    /// Adds or replaces a rollout.
    Rollout(RolloutRecord),
    /// Removes a rollout.
    NoRollout(RingPlanId, UpdateId),
    /// Adds or replaces an update that is trusted.
    Trusted(Trusted),
    /// Removes an update that is trusted.
    NoTrusted(UpdateId),
    /// Adds or replaces a template.
    Template(TemplateRecord),
    /// Removes a template.
    NoTemplate(TemplateId),
    /// Adds or replaces a certificate.
    Certificate(CertificateRecord),
    /// Forgets a certificate that nobody can use any more.
    NoCertificate {
        /// Which.
        serial: String,
        /// Its key.
        key: PublicKey,
    },
    /// Adds or replaces a token.
    Token(TokenRecord),
    /// Removes a token.
    NoToken(TokenId),
    /// How a source stands.
    Source(SourceId, SourceRecord),
    /// Removes a source with what it remembers.
    NoSource(SourceId),
    /// What a source remembers, packed; not kept in memory.
    SourceMemory(SourceId, Arc<[u8]>),
    /// When payloads are downloaded.
    Download(DownloadRecord),
    /// The states of an endpoint, by number; what they were before is needed to move its bits.
    States {
        /// Whose.
        endpoint: u32,
        /// Until now.
        old: Arc<Record>,
        /// From now on.
        new: Arc<Record>,
    },
    /// The packed facts of an endpoint, by number; not kept in memory.
    Facts(u32, Arc<[u8]>),
    /// Forgets them.
    NoFacts(u32),
    /// How long an update takes to install, by its number.
    Timing(u32, Arc<TimingRecord>),
    /// Forgets that, of an update that is gone.
    NoTiming(u32),
    /// What was decided about an ask for a lease.
    Lease(LeaseRecord),
    /// Forgets a lease whose asks are too old to be believed.
    NoLease(WindowId, EndpointId),
    /// The key that signs leases.
    LeaseKey(LeaseKey),
}

/// Everything central knows.
#[derive(Debug, Default)]
pub struct Model {
    endpoints: Vec<Option<Arc<EndpointRecord>>>,
    endpoint_numbers: HashMap<EndpointId, u32>,
    endpoint_names: BTreeMap<String, BTreeSet<u32>>,
    relays: BTreeMap<RelayId, Arc<RelayRecord>>,
    updates: Vec<Option<Arc<UpdateRecord>>>,
    update_numbers: BTreeMap<UpdateId, u32>,
    payloads: Vec<Arc<[(Digest, u64)]>>,
    catalogues: BTreeMap<CatalogueId, CatalogueRecord>,
    sources: BTreeMap<SourceId, SourceRecord>,
    download: DownloadRecord,
    revoked: HashSet<String>,
    operators: BTreeMap<String, BTreeMap<String, CertificateRecord>>,
    policy: Policy,
    index: Index,
    active: RoaringBitmap,
    assessed: RoaringBitmap,
    resync: RoaringBitmap,
    sites: BTreeMap<SiteId, RoaringBitmap>,
    members: BTreeMap<GroupId, RoaringBitmap>,
    timings: BTreeMap<u32, Arc<TimingRecord>>,
    leases: BTreeMap<WindowId, BTreeMap<EndpointId, LeaseRecord>>,
    leases_count: usize,
    lease_key: Option<LeaseKey>,
}

impl Model {
    /// One endpoint by its number.
    #[must_use]
    pub fn endpoint(&self, number: u32) -> Option<&Arc<EndpointRecord>> {
        self.endpoints.get(number as usize)?.as_ref()
    }

    /// One endpoint by its id.
    #[must_use]
    pub fn endpoint_by_id(&self, id: &EndpointId) -> Option<&Arc<EndpointRecord>> {
        self.endpoint(*self.endpoint_numbers.get(id)?)
    }

    /// All endpoints, revoked ones included, by number.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<EndpointRecord>> {
        self.endpoints.iter().flatten()
    }

    /// Endpoints by name, then number; names need not be unique. Names after `after` only, when given.
    pub fn endpoints_by_name(&self, after: Option<&str>) -> impl Iterator<Item = &Arc<EndpointRecord>> {
        use std::ops::Bound;
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let names = self.endpoint_names.range::<str, _>((start, Bound::Unbounded));
        names.flat_map(|(_, numbers)| numbers.iter().filter_map(|number| self.endpoint(*number)))
    }

    /// Endpoints of exactly this name.
    pub fn endpoints_named(&self, name: &str) -> impl Iterator<Item = &Arc<EndpointRecord>> {
        let numbers = self.endpoint_names.get(name).into_iter().flatten();
        numbers.filter_map(|number| self.endpoint(*number))
    }

    /// The number the next new endpoint gets.
    #[must_use]
    pub fn next_endpoint(&self) -> Option<u32> {
        u32::try_from(self.endpoints.len()).ok().filter(|next| *next < ENDPOINTS_MAX)
    }

    /// All relays by id.
    #[must_use]
    pub fn relays(&self) -> &BTreeMap<RelayId, Arc<RelayRecord>> {
        &self.relays
    }

    /// One update by its number.
    #[must_use]
    pub fn update(&self, number: u32) -> Option<&Arc<UpdateRecord>> {
        self.updates.get(number as usize)?.as_ref()
    }

    /// One update by its id.
    #[must_use]
    pub fn update_by_id(&self, id: &UpdateId) -> Option<&Arc<UpdateRecord>> {
        self.update(*self.update_numbers.get(id)?)
    }

    /// All updates, those no longer in a catalogue included, by id.
    pub fn updates(&self) -> impl Iterator<Item = &Arc<UpdateRecord>> + Clone {
        self.update_numbers.values().filter_map(|number| self.update(*number))
    }

    /// Updates whose id comes after `after`, by id.
    pub fn updates_after(&self, after: &UpdateId) -> impl Iterator<Item = &Arc<UpdateRecord>> {
        use std::ops::Bound;
        let numbers = self.update_numbers.range((Bound::Excluded(after.clone()), Bound::Unbounded));
        numbers.filter_map(|(_, number)| self.update(*number))
    }

    /// The numbers that new updates get, in their order: first those of forgotten ones.
    pub fn free_updates(&self) -> impl Iterator<Item = u32> {
        let is_named = self.named_updates();
        (0..UPDATES_MAX).filter(move |number| self.update(*number).is_none() && !is_named(*number))
    }

    /// Tells whether anything is known of an update by its number, besides what it is.
    pub fn named_updates(&self) -> impl Fn(u32) -> bool {
        let templates = self.policy.templates().values().flat_map(|template| &template.updates);
        let in_templates: RoaringBitmap = templates.copied().collect();
        move |update| {
            self.index.has(update) || self.timings.contains_key(&update) || in_templates.contains(update)
        }
    }

    /// What an update must fetch.
    #[must_use]
    pub fn payloads(&self, update: u32) -> &[(Digest, u64)] {
        self.payloads.get(update as usize).map_or(&[], |payloads| payloads)
    }

    /// All catalogues.
    #[must_use]
    pub fn catalogues(&self) -> &BTreeMap<CatalogueId, CatalogueRecord> {
        &self.catalogues
    }

    /// All sources that were ever read.
    #[must_use]
    pub fn sources(&self) -> &BTreeMap<SourceId, SourceRecord> {
        &self.sources
    }

    /// When payloads are downloaded, as an operator set it.
    #[must_use]
    pub fn download(&self) -> &DownloadRecord {
        &self.download
    }

    /// Whether a certificate, by serial, was revoked.
    #[must_use]
    pub fn is_revoked(&self, serial: &str) -> bool {
        self.revoked.contains(serial)
    }

    /// The certificates of operators that are not revoked, by name, then serial.
    #[must_use]
    pub fn operators(&self) -> &BTreeMap<String, BTreeMap<String, CertificateRecord>> {
        &self.operators
    }

    /// What was decided.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Where updates stand.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Endpoints that are not revoked.
    #[must_use]
    pub fn active(&self) -> &RoaringBitmap {
        &self.active
    }

    /// Active endpoints whose states say something.
    #[must_use]
    pub fn assessed(&self) -> &RoaringBitmap {
        &self.assessed
    }

    /// Active endpoints that must send something again.
    #[must_use]
    pub fn resync(&self) -> &RoaringBitmap {
        &self.resync
    }

    /// Active endpoints by site.
    #[must_use]
    pub fn sites(&self) -> &BTreeMap<SiteId, RoaringBitmap> {
        &self.sites
    }

    /// Active endpoints by group; every group is there.
    #[must_use]
    pub fn members(&self) -> &BTreeMap<GroupId, RoaringBitmap> {
        &self.members
    }

    /// How long an update takes to install, by its number.
    #[must_use]
    pub fn timing(&self, update: u32) -> Option<&Arc<TimingRecord>> {
        self.timings.get(&update)
    }

    /// Of every update of which that is known, by number.
    #[must_use]
    pub fn timings(&self) -> &BTreeMap<u32, Arc<TimingRecord>> {
        &self.timings
    }

    /// What was decided about leases, by window, then endpoint; those at their end included.
    #[must_use]
    pub fn leases(&self) -> &BTreeMap<WindowId, BTreeMap<EndpointId, LeaseRecord>> {
        &self.leases
    }

    /// How many of them there are.
    #[must_use]
    pub fn leases_count(&self) -> usize {
        self.leases_count
    }

    /// The published key that signs leases.
    #[must_use]
    pub fn lease_key(&self) -> Option<&LeaseKey> {
        self.lease_key.as_ref()
    }

    /// The groups an endpoint belongs to.
    #[must_use]
    pub fn groups_of(&self, endpoint: &EndpointRecord) -> Vec<&Group> {
        self.policy.groups_of(member(endpoint))
    }

    /// The decision that counts for an endpoint.
    #[must_use]
    pub fn decision(&self, endpoint: &EndpointRecord, update: &UpdateId) -> Option<&Approval> {
        self.policy.decision_for(member(endpoint), update)
    }

    /// Active endpoints for whose merged service level `says` is true: of their groups the first by priority,
    /// then by name, for whose level it says anything.
    #[must_use]
    pub fn served(&self, says: impl Fn(&ServiceLevel) -> Option<bool>) -> RoaringBitmap {
        let level = |group: &Group| group.level.as_ref().and_then(|id| self.policy.documents().level(id));
        let mut groups: Vec<_> =
            self.policy.groups().values().filter(|group| group.level.is_some()).collect();
        groups.sort_by_key(|group| (Reverse(group.priority), &group.id));
        let (mut served, mut said) = (RoaringBitmap::new(), RoaringBitmap::new());
        for group in groups {
            let (Some(says), Some(members)) = (level(group).and_then(&says), self.members.get(&group.id))
            else {
                continue;
            };
            if says {
                served |= members - &said;
            }
            said |= members;
        }
        served
    }

    /// Active endpoints that need nobody's approval.
    #[must_use]
    pub fn automatic(&self) -> RoaringBitmap {
        self.served(|level| level.approval.map(|mode| mode == ApprovalMode::Automatic))
    }

    /// Active endpoints for which the update is approved, or which need no approval for one of its severity.
    #[must_use]
    pub fn approved_for(&self, update: &UpdateId) -> RoaringBitmap {
        let (mut approved, mut decided) = (RoaringBitmap::new(), RoaringBitmap::new());
        for approval in self.policy.ranked(update) {
            let Some(members) = self.members.get(&approval.group) else { continue };
            if approval.decision == tierway_common::schema::Decision::Approve {
                approved |= members - &decided;
            }
            decided |= members;
        }
        let automatic = self.automatic() - decided;
        if !automatic.is_empty()
            && let Some(update) = self.update_by_id(update)
        {
            let too_mild = self.served(|level| level.severity_at_least.map(|least| update.severity < least));
            approved |= automatic - too_mild;
        }
        approved
    }

    /// Takes in one write that is on disk.
    pub fn apply(&mut self, write: Write) {
        match write {
            Write::Together(writes) => writes.into_iter().for_each(|write| self.apply(write)),
            Write::Endpoint(record) => self.apply_endpoint(record),
            Write::Relay(record) => drop(self.relays.insert(record.id.clone(), record)),
            Write::Update(record) => {
                let number = record.number;
                self.update_numbers.insert(record.id.clone(), number);
                *slot(&mut self.updates, number) = Some(record);
            }
            Write::NoUpdate(number) => {
                if let Some(record) = slot(&mut self.updates, number).take() {
                    self.update_numbers.remove(&record.id);
                }
                *slot(&mut self.payloads, number) = Arc::default();
            }
            Write::Payloads(number, payloads) => *slot(&mut self.payloads, number) = payloads,
            Write::Catalogues(records) => self.catalogues.extend(records),
            Write::NoCatalogue(id) => drop(self.catalogues.remove(&id)),
            Write::Group(group) => {
                let members = self.active.iter().filter(|number| {
                    self.endpoint(*number).is_some_and(|endpoint| Policy::belongs(&group, member(endpoint)))
                });
                let members = members.collect();
                self.members.insert(group.id.clone(), members);
                self.policy.set_group(group);
            }
            Write::NoGroup(id) => {
                self.members.remove(&id);
                self.policy.remove_group(&id);
            }
            Write::Approval(approval) => self.policy.set_approval(approval),
            Write::NoApproval(group, update) => self.policy.remove_approval(&group, &update),
            Write::Rule(rule) => self.policy.set_rule(rule),
            Write::NoRule(name) => self.policy.remove_rule(&name),
            Write::Document(document) => self.policy.set_document(document),
            Write::NoDocument(kind, name) => self.policy.remove_document(kind, &name),
            Write::Rollout(record) => self.policy.set_rollout(record),
            Write::NoRollout(plan, update) => self.policy.remove_rollout(&plan, &update),
            Write::Trusted(trusted) => self.policy.set_trusted(trusted),
            Write::NoTrusted(update) => self.policy.remove_trusted(&update),
            Write::Template(template) => self.policy.set_template(template),
            Write::NoTemplate(id) => self.policy.remove_template(&id),
            Write::Certificate(record) if record.revoked.is_some() => {
                if record.role == Role::Operator {
                    self.forget_operator(&record.serial);
                }
                self.revoked.insert(record.serial);
            }
            Write::Certificate(record) if record.role == Role::Operator => {
                let of_name = self.operators.entry(record.identity.clone()).or_default();
                of_name.insert(record.serial.clone(), record);
            }
            Write::NoCertificate { serial, key: _ } => {
                self.forget_operator(&serial);
                self.revoked.remove(&serial);
            }
            Write::Source(id, record) => drop(self.sources.insert(id, record)),
            Write::NoSource(id) => drop(self.sources.remove(&id)),
            Write::Download(record) => self.download = record,
            Write::States { endpoint, old, new } => self.index.replace(endpoint, &old, &new),
            Write::Timing(number, record) => drop(self.timings.insert(number, record)),
            Write::NoTiming(number) => drop(self.timings.remove(&number)),
            Write::Lease(record) => {
                let of_window = self.leases.entry(record.window.clone()).or_default();
                self.leases_count += usize::from(of_window.insert(record.endpoint.clone(), record).is_none());
            }
            Write::NoLease(window, endpoint) => {
                if let Some(of_window) = self.leases.get_mut(&window) {
                    self.leases_count -= usize::from(of_window.remove(&endpoint).is_some());
                    if of_window.is_empty() {
                        self.leases.remove(&window);
                    }
                }
            }
            Write::LeaseKey(key) => self.lease_key = Some(key),
            Write::Certificate(_)
            | Write::Token(_)
            | Write::NoToken(_)
            | Write::Facts(..)
            | Write::NoFacts(_)
            | Write::SourceMemory(..) => {}
        }
    }

    fn forget_operator(&mut self, serial: &str) {
        self.operators.retain(|_, certificates| {
            certificates.remove(serial);
            !certificates.is_empty()
        });
    }

    fn apply_endpoint(&mut self, record: Arc<EndpointRecord>) {
        let number = record.number;
        if let Some(before) = self.endpoint(number).cloned() {
            if before.name != record.name
                && let Some(numbers) = self.endpoint_names.get_mut(&before.name)
            {
                numbers.remove(&number);
                if numbers.is_empty() {
                    self.endpoint_names.remove(&before.name);
                }
            }
            if before.site != record.site
                && let Some(of_site) = self.sites.get_mut(&before.site)
            {
                of_site.remove(number);
            }
        }
        let active = !record.revoked;
        put(&mut self.active, number, active);
        put(&mut self.assessed, number, active && record.assessed);
        put(&mut self.resync, number, active && (record.resync_states || record.resync_inventory));
        put(self.sites.entry(record.site.clone()).or_default(), number, active);
        for (id, group) in self.policy.groups() {
            let belongs = active && Policy::belongs(group, member(&record));
            put(self.members.entry(id.clone()).or_default(), number, belongs);
        }
        self.endpoint_numbers.insert(record.id.clone(), number);
        self.endpoint_names.entry(record.name.clone()).or_default().insert(number);
        *slot(&mut self.endpoints, number) = Some(record);
    }
}

fn member(endpoint: &EndpointRecord) -> Member<'_> {
    Member {
        site: &endpoint.site,
        assigned: &endpoint.groups,
        tags: &endpoint.tags,
        by_rule: &endpoint.rule_groups,
    }
}

fn put(bitmap: &mut RoaringBitmap, number: u32, present: bool) {
    if present {
        bitmap.insert(number);
    } else {
        bitmap.remove(number);
    }
}

fn slot<T: Default + Clone>(values: &mut Vec<T>, number: u32) -> &mut T {
    let at = number as usize;
    if at >= values.len() {
        values.resize(at + 1, T::default());
    }
    &mut values[at]
}

impl Write {
    /// Adds the rows of this write to `batch`, and with them the documents of the policy catalogue that
    /// change by it; `model` is as it was before.
    ///
    /// # Errors
    ///
    /// When a row cannot be encoded or is too large.
    pub fn rows(
        &self,
        tenant: &tierway_common::id::TenantId,
        model: &Model,
        batch: &mut Batch,
    ) -> Result<(), StoreError> {
        match self {
            Self::Together(writes) => {
                writes.iter().try_for_each(|write| write.rows(tenant, model, batch))?;
            }
            Self::Endpoint(record) => {
                table::put(batch, &tables::Endpoint { tenant, id: &record.id }, record)?;
                let key = format!("endpoint/{}", record.id);
                let before = model.endpoint(record.number);
                let document = assignment(record);
                if before.map(|before| assignment(before)) != Some(document.clone()) {
                    pending(batch, tenant, &key, document.as_ref())?;
                }
            }
            Self::Relay(record) => table::put(batch, &tables::Relay { tenant, id: &record.id }, record)?,
            Self::Update(record) => table::put(batch, &tables::Update { tenant, id: &record.id }, record)?,
            Self::NoUpdate(number) => {
                if let Some(record) = model.update(*number) {
                    table::delete(batch, &tables::Update { tenant, id: &record.id });
                }
                chunked::delete(batch, &tables::Payloads { tenant, number: *number, chunk: 0 });
            }
            Self::Payloads(number, payloads) => {
                let mut bytes = Vec::with_capacity(payloads.len() * 40);
                for (digest, length) in payloads.iter() {
                    bytes.extend_from_slice(digest.as_bytes());
                    bytes.extend_from_slice(&length.to_be_bytes());
                }
                chunked::put(batch, &tables::Payloads { tenant, number: *number, chunk: 0 }, &bytes)?;
            }
            Self::Catalogues(records) => {
                for (id, record) in records {
                    table::put(batch, &tables::Catalogue { tenant, id }, record)?;
                }
            }
            Self::NoCatalogue(id) => table::delete(batch, &tables::Catalogue { tenant, id }),
            Self::Group(group) => {
                table::put(batch, &tables::Group { tenant, id: &group.id }, group)?;
                pending(batch, tenant, &format!("group/{}", group.id), Some(group))?;
            }
            Self::NoGroup(id) => {
                table::delete(batch, &tables::Group { tenant, id });
                pending::<Group>(batch, tenant, &format!("group/{id}"), None)?;
            }
            Self::Approval(approval) => {
                let Approval { group, update, .. } = approval;
                table::put(batch, &tables::Approval { tenant, group, update }, approval)?;
                pending(batch, tenant, &format!("approval/{group}/{update}"), Some(approval))?;
            }
            Self::NoApproval(group, update) => {
                table::delete(batch, &tables::Approval { tenant, group, update });
                pending::<Approval>(batch, tenant, &format!("approval/{group}/{update}"), None)?;
            }
            Self::Rule(rule) => table::put(batch, &tables::AutoApproval { tenant, name: &rule.name }, rule)?,
            Self::NoRule(name) => table::delete(batch, &tables::AutoApproval { tenant, name }),
            Self::Document(document) => {
                let (kind, name) = (document.kind(), document.name());
                table::put(batch, &tables::Policy { tenant, kind: kind.as_str(), name: &name }, document)?;
                pending_text(batch, tenant, &kind.key(&name), Some(document.json()))?;
            }
            Self::NoDocument(kind, name) => {
                table::delete(batch, &tables::Policy { tenant, kind: kind.as_str(), name });
                pending_text(batch, tenant, &kind.key(name), None)?;
            }
            Self::Rollout(record) => {
                let Rollout { plan, update, .. } = &record.rollout;
                table::put(batch, &tables::Rollout { tenant, plan, update }, record)?;
                let before = model.policy().rollouts().get(&(plan.clone(), update.clone()));
                if before.is_none_or(|before| before.rollout != record.rollout) {
                    pending(batch, tenant, &format!("rollout/{plan}/{update}"), Some(&record.rollout))?;
                }
            }
            Self::NoRollout(plan, update) => {
                table::delete(batch, &tables::Rollout { tenant, plan, update });
                pending::<Rollout>(batch, tenant, &format!("rollout/{plan}/{update}"), None)?;
            }
            Self::Trusted(trusted) => {
                let update = &trusted.update;
                table::put(batch, &tables::Trusted { tenant, update }, trusted)?;
                pending(batch, tenant, &format!("trusted/{update}"), Some(trusted))?;
            }
            Self::NoTrusted(update) => {
                table::delete(batch, &tables::Trusted { tenant, update });
                pending::<Trusted>(batch, tenant, &format!("trusted/{update}"), None)?;
            }
            Self::Template(record) => {
                table::put(batch, &tables::Template { tenant, id: &record.id }, record)?
            }
            Self::NoTemplate(id) => table::delete(batch, &tables::Template { tenant, id }),
            Self::Certificate(record) => {
                table::put(batch, &tables::Certificate { tenant, serial: &record.serial }, record)?;
                let key = record.key.to_string();
                table::put(batch, &tables::CertificateKey { tenant, key: &key }, &record.serial)?;
                if let Some(at) = record.revoked {
                    let document = Revoked {
                        serial: record.serial.clone(),
                        identity: record.identity.clone(),
                        at,
                        until: record.expires,
                    };
                    pending(batch, tenant, &format!("revoked/{}", record.serial), Some(&document))?;
                }
            }
            Self::NoCertificate { serial, key } => {
                table::delete(batch, &tables::Certificate { tenant, serial });
                table::delete(batch, &tables::CertificateKey { tenant, key: &key.to_string() });
                if model.is_revoked(serial) {
                    pending::<Revoked>(batch, tenant, &format!("revoked/{serial}"), None)?;
                }
            }
            Self::Token(record) => table::put(batch, &tables::Token { tenant, id: &record.id }, record)?,
            Self::NoToken(id) => table::delete(batch, &tables::Token { tenant, id }),
            Self::Source(name, record) => table::put(batch, &tables::Source { tenant, name }, record)?,
            Self::NoSource(name) => {
                table::delete(batch, &tables::Source { tenant, name });
                chunked::delete(batch, &tables::SourceMemory { tenant, name, chunk: 0 });
            }
            Self::SourceMemory(name, bytes) => {
                chunked::put(batch, &tables::SourceMemory { tenant, name, chunk: 0 }, bytes)?;
            }
            Self::Download(record) => table::put(batch, &tables::Download { tenant }, record)?,
            Self::States { endpoint, new, .. } => {
                let row = tables::States { tenant, number: *endpoint, chunk: 0 };
                chunked::put(batch, &row, &new.encode())?;
            }
            Self::Facts(endpoint, bytes) => {
                chunked::put(batch, &tables::Facts { tenant, number: *endpoint, chunk: 0 }, bytes)?;
            }
            Self::NoFacts(endpoint) => {
                chunked::delete(batch, &tables::Facts { tenant, number: *endpoint, chunk: 0 });
            }
            Self::Timing(number, record) => {
                table::put(batch, &tables::Timing { tenant, number: *number }, record)?;
                let before = model.timing(*number).and_then(|before| before.published.as_ref());
                if before != record.published.as_ref()
                    && let Some(update) = model.update(*number)
                {
                    pending(batch, tenant, &format!("timing/{}", update.id), record.published.as_ref())?;
                }
            }
            Self::NoTiming(number) => {
                table::delete(batch, &tables::Timing { tenant, number: *number });
                if let Some(update) = model.update(*number) {
                    pending::<Timing>(batch, tenant, &format!("timing/{}", update.id), None)?;
                }
            }
            Self::Lease(record) => {
                let LeaseRecord { window, endpoint, .. } = record;
                table::put(batch, &tables::Lease { tenant, window, endpoint }, record)?;
            }
            Self::NoLease(window, endpoint) => {
                table::delete(batch, &tables::Lease { tenant, window, endpoint });
            }
            Self::LeaseKey(key) => {
                table::put(batch, &tables::LeaseKey { tenant }, key)?;
                pending(batch, tenant, "lease-key", Some(key))?;
            }
        }
        Ok(())
    }
}

fn assignment(record: &EndpointRecord) -> Option<Assignment> {
    (!record.revoked).then(|| Assignment {
        endpoint: record.id.clone(),
        site: record.site.clone(),
        groups: record.groups.clone(),
        tags: record.tags.clone(),
    })
}

fn pending<T: serde::Serialize>(
    batch: &mut Batch,
    tenant: &tierway_common::id::TenantId,
    key: &str,
    document: Option<&T>,
) -> Result<(), StoreError> {
    pending_text(batch, tenant, key, document.map(serde_json::to_string))
}

fn pending_text(
    batch: &mut Batch,
    tenant: &tierway_common::id::TenantId,
    key: &str,
    text: Option<serde_json::Result<String>>,
) -> Result<(), StoreError> {
    let text = text
        .transpose()
        .map_err(|source| StoreError::Malformed { key: key.as_bytes().to_vec(), source: source.into() })?;
    table::put(batch, &tables::PendingPolicy { tenant, key }, &text)
}
