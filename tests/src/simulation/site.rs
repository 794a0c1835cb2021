//! A site: its real relay, and what is published as its computers have it. Metadata, trees and payloads come over for
//! real, once for all simulated computers of the site.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use tierway_common::{
    blobs::{BlobOptions, Blobs},
    facts::Facts,
    id::{EndpointId, GroupId, UpdateId},
    rules::Verdict,
    schema::{
        Approval, Assignment, Group, Update,
        policy::{LeaseKey, ServiceLevel, Timing},
    },
    trust::keys::PublicKey,
};
use tierway_endpoint::{
    catalogues::Catalogues, fetch::Fetcher, install::PayloadFetcher, policy::here::Documents, terms::Terms,
};
use tierway_proto::{joining::Joined, upstream::Upstream, v1};

use crate::fleet::Relay;

/// How long a payload that comes from the archive is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is published, read.
#[derive(Debug, Default)]
pub struct Published {
    /// Groups, levels, windows, ring plans, rollouts, trust.
    pub documents: Documents,
    /// By group.
    pub approvals: BTreeMap<GroupId, Vec<Approval>>,
    /// By computer.
    pub assignments: BTreeMap<EndpointId, Assignment>,
    /// What installations take.
    pub terms: Terms,
    /// With which central signs leases.
    pub lease_key: Option<PublicKey>,
    /// All updates that matter on some computer here.
    pub updates: BTreeMap<UpdateId, Arc<Update>>,
}

/// A site.
#[derive(Debug)]
pub struct Site {
    /// Its relay.
    pub relay: Relay,
    /// Since when the relay is down.
    pub down: Option<Timestamp>,
    /// When it came back last.
    pub back: Option<Timestamp>,
    /// As it is here.
    pub published: Published,
    catalogues: Catalogues,
    upstream: Upstream,
    payloads: Blobs,
    os: Facts,
}

impl Site {
    /// A site that reads with the identity of one of its computers; `os` is what all of them run.
    #[must_use]
    pub fn new(relay: Relay, joined: &Joined, upstream: Upstream, dir: &std::path::Path, os: Facts) -> Self {
        let tenant = joined.identity.own().holder.tenant;
        let catalogues = Catalogues::open(dir, &joined.trust_dir, &tenant, upstream.clone(), 0).unwrap();
        let options = BlobOptions { quota_bytes: 1 << 30, free_floor_bytes: 0 };
        let payloads = Blobs::open(&dir.join("payloads"), options).unwrap();
        let published = Published::default();
        Self { relay, down: None, back: None, published, catalogues, upstream, payloads, os }
    }

    /// Whether the relay answers.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.down.is_none()
    }

    /// The relay goes down.
    pub async fn goes_down(&mut self, now: Timestamp) {
        self.relay.stop().await;
        self.down = Some(now);
    }

    /// The relay is there again.
    pub async fn comes_back(&mut self, now: Timestamp) {
        self.relay.start().await;
        (self.down, self.back) = (None, Some(now));
    }

    /// Version of the metadata that is here.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.catalogues.version()
    }

    /// Brings over what the answer to a check-in announces.
    pub async fn refresh(&mut self, answer: &v1::CheckInResponse, now: Timestamp) {
        self.catalogues.refresh(answer, &self.os, now).await.unwrap();
        let compiled = &self.catalogues.rules(&self.os).unwrap().compiled;
        let ids: Vec<UpdateId> = (0..compiled.len()).map(|n| compiled.id(n).parse().unwrap()).collect();
        let mut published = Published::default();
        for id in ids {
            let update = self.catalogues.update(&id).unwrap().unwrap();
            published.updates.insert(id, Arc::new(update));
        }
        for (key, bytes) in self.catalogues.lookup().policy("").await.unwrap() {
            let (documents, json) = (&mut published.documents, &bytes[..]);
            match key.split('/').next().unwrap() {
                "group" => documents.groups.push(read::<Group>(json)),
                "level" => documents.levels.push(read::<ServiceLevel>(json)),
                "window" => documents.windows.push(read(json)),
                "ring-plan" => documents.ring_plans.push(read(json)),
                "rollout" => documents.rollouts.push(read(json)),
                "trust-policy" => documents.trust_policy = Some(read(json)),
                "trusted" => documents.trusted.push(read(json)),
                "endpoint" => {
                    let assignment: Assignment = read(json);
                    published.assignments.insert(assignment.endpoint.clone(), assignment);
                }
                "approval" => {
                    let approval: Approval = read(json);
                    published.approvals.entry(approval.group.clone()).or_default().push(approval);
                }
                "timing" => {
                    let update = key.strip_prefix("timing/").unwrap().parse().unwrap();
                    published.terms.timings.insert(update, read::<Timing>(json));
                }
                "lease-key" => published.lease_key = Some(read::<LeaseKey>(json).key),
                _ => {}
            }
        }
        self.published = published;
    }

    /// Where each update stands on a computer with these facts.
    #[must_use]
    pub fn evaluate(&mut self, facts: &Facts) -> BTreeMap<UpdateId, Verdict> {
        let compiled = &self.catalogues.rules(&self.os).unwrap().compiled;
        compiled.verdicts(&compiled.scan(facts), facts).collect()
    }

    /// Whether nothing may be begun by what is here.
    #[must_use]
    pub fn stale(&self, now: Timestamp) -> Option<String> {
        self.catalogues.fresh(now).err().map(|error| error.to_string())
    }

    /// Fetches the payloads of an update through the relay, unless a computer of the site did already.
    pub async fn fetch(&self, update: &Update) {
        let payloads: Vec<_> = update.install.payloads().into_iter().map(|(_, payload)| payload).collect();
        let fetcher = Fetcher { upstream: &self.upstream, payloads: &self.payloads, patience: PATIENCE };
        fetcher.ensure(&payloads).await.unwrap();
    }
}

fn read<T: serde::de::DeserializeOwned>(json: &[u8]) -> T {
    serde_json::from_slice(json).unwrap()
}
