//! A real central and real relays, driven: what their tasks do by the clock of the machine happens here at simulated
//! times, and nothing goes on before it is done.

use std::{sync::Arc, time::Duration};

use tierway_central::{
    decide,
    publish::Outcome,
    server::Central,
    sources::{Before, advisories::Advisories},
};
use tierway_common::clock::Clock;
use tierway_proto::v1;

use super::site::Site;
use crate::fleet::{Fleet, Relay};

/// How long a simulation waits for what must happen by itself.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(2);

/// Central, and how it is asked.
#[derive(Debug)]
pub struct Driver {
    /// It and its archive.
    pub fleet: Fleet,
    version: u64,
}

impl Driver {
    /// Over a central that runs.
    #[must_use]
    pub fn new(fleet: Fleet) -> Self {
        Self { fleet, version: 0 }
    }

    /// What runs.
    #[must_use]
    pub fn central(&self) -> Arc<Central> {
        self.fleet.central.as_ref().unwrap().running.central.clone()
    }

    /// Central reads the archive. What the archive signs it signs now, by the clock of the machine, so it is read as of
    /// then, whatever the simulated time is.
    pub async fn read(&self) {
        Self::read_archive(&self.fleet).await;
    }

    /// The same without one.
    pub async fn read_archive(fleet: &Fleet) {
        let central = fleet.central.as_ref().unwrap().running.central.clone();
        for feed in central.feeds.values() {
            let memory = central.catalog.memory(&feed.config).unwrap();
            let documents = central.catalog.documents(feed.config.catalogue().unwrap()).unwrap();
            let advisories = Advisories::default();
            let before = Before { state: &memory, catalogue: &documents, advisories: &advisories };
            let synced = feed.source.sync(before, Clock::system().now()).await.unwrap();
            let (central, config) = (central.clone(), feed.config.clone());
            let applied = tokio::task::spawn_blocking(move || central.catalog.apply(&config, synced));
            applied.await.unwrap().unwrap();
        }
    }

    /// Sets policy documents, each a kind and its JSON.
    pub async fn set(&self, documents: &[(&str, String)]) {
        let new = |(kind, json): &(&str, String)| v1::NewPolicy { kind: (*kind).into(), json: json.clone() };
        let policies = documents.iter().map(new).collect();
        let request = v1::SetPoliciesRequest { policies, dry_run: false };
        self.fleet.policies().await.set_policies(request).await.unwrap();
    }

    /// Sets a group of computers by name.
    pub async fn group(&self, name: &str, priority: u32, endpoints: Vec<String>, level: Option<&str>) {
        let level = level.map(Into::into);
        let group = v1::Group { name: name.into(), priority, endpoints, level, ..v1::Group::default() };
        self.fleet.admin().await.set_group(v1::SetGroupRequest { group: Some(group) }).await.unwrap();
    }

    /// Approves or declines an update for a group.
    pub async fn decide(&self, decision: &str, update: &str, group: &str, rings: Option<&str>) {
        let request = v1::DecidePatchesRequest {
            patches: vec![update.to_owned()],
            group: group.to_owned(),
            decision: decision.to_owned(),
            rings: rings.map(Into::into),
            ..v1::DecidePatchesRequest::default()
        };
        self.fleet.admin().await.decide_patches(request).await.unwrap();
    }

    /// Everything reported so far is at central.
    pub async fn settle(&self, sites: &[Site]) {
        for site in sites.iter().filter(|site| site.is_up()) {
            let running = site.relay.running();
            if running.outbox.fill().reports > 0 {
                let _ = running.board.wake("forward");
                let arrived = wait(async || running.outbox.fill().reports == 0).await;
                assert!(arrived, "reports wait at {}: {:?}", self.fleet.now(), running.board.statuses());
            }
        }
    }

    /// Looks at rollouts and trust, and publishes what changed; all relays have it then.
    pub async fn look(&mut self, relays: impl Iterator<Item = &Relay>) {
        let central = self.central();
        let work = central.clone();
        let looked = tokio::task::spawn_blocking(move || {
            decide::rollouts::run(&work.state).unwrap();
            decide::trust::run(&work.state).unwrap();
            while matches!(work.publisher.publish().unwrap(), Outcome::Published { more: true, .. }) {}
        });
        looked.await.unwrap();
        self.carried(relays).await;
    }

    /// Signs the time anew, and drops what nobody needs.
    pub async fn refresh(&mut self, relays: impl Iterator<Item = &Relay>) {
        let work = self.central();
        let done = tokio::task::spawn_blocking(move || {
            work.publisher.refresh().unwrap();
            work.leases.retain().unwrap();
            work.enrollment.retain().unwrap();
        });
        done.await.unwrap();
        self.carried(relays).await;
    }

    async fn carried(&mut self, relays: impl Iterator<Item = &Relay>) {
        let version = self.central().publisher.timestamp().0;
        if version != self.version {
            self.version = version;
            self.catch_up(relays).await;
        }
    }

    /// All of these relays have what is published.
    pub async fn catch_up(&self, relays: impl Iterator<Item = &Relay>) {
        let version = self.central().publisher.timestamp().0;
        let relays: Vec<&Relay> = relays.collect();
        for relay in &relays {
            assert!(relay.running().board.wake("sync"));
        }
        for relay in relays {
            let mirror = &relay.running().mirror;
            let has = wait(async || mirror.head().timestamp_version >= version).await;
            assert!(has, "a relay lags at {}: {:?}", self.fleet.now(), relay.running().board.statuses());
        }
    }
}

/// Waits until `holds`; false when that takes too long.
async fn wait(mut holds: impl AsyncFnMut() -> bool) -> bool {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.is_ok()
}
