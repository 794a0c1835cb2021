//! A computer as far as it keeps something: catalogues, payloads, ledger and reports of the endpoint's own types.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tierway_central::{model::Write, store::tables::EndpointRecord};
use tierway_common::{
    blobs::{BlobOptions, Blobs},
    facts::Facts,
    id::UpdateId,
    rules::Verdict,
    schema::{CycleSummary, Report, StateEntry},
    store::StoreError,
    transport::identity::Role,
    trust::keys::SigningKey,
};
use tierway_endpoint::{
    agent::VERSION,
    catalogues::Catalogues,
    fetch::Fetcher,
    install::{PayloadFetcher, codes::Outcome},
    ledger::{Conditions, Ledger, latest},
    report::Spool,
    scan,
};
use tierway_proto::{upstream::Upstream, v1};

use super::{PAYLOAD_QUOTAS, door, folder_bytes};
use crate::{bench::site::Site, fleet::Fleet, roots::made_up};

const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(super) struct Computer {
    dir: PathBuf,
    name: String,
    facts: Facts,
    key: SigningKey,
    upstream: Upstream,
    catalogues: Catalogues,
    payloads: Blobs,
    ledger: Ledger,
    spool: Spool,
}

fn fact(package: &str) -> String {
    format!("package:deb:{package}:amd64")
}

impl Computer {
    /// One below the relay at `address` that has these packages in their first version, and that central knows.
    pub(super) fn enroll(
        fleet: &Fleet,
        site: &Site,
        address: SocketAddr,
        number: usize,
        packages: &[String],
    ) -> Self {
        let name = format!("e{number}");
        let root = fleet.folder(&format!("root-{name}"));
        let installed: Vec<(&str, &str)> = packages.iter().map(|package| (package.as_str(), "1.0")).collect();
        made_up(&root, &installed);
        let (facts, problems) = scan::scan(&root, &scan::Asked::default(), "x86_64");
        assert_eq!(problems, []);
        let central = fleet.central.as_ref().unwrap().running.central.clone();
        let dir = fleet.folder(&name);
        let (identity, upstream) =
            door::join(site, &dir, (Role::Endpoint, &name), Some(address), &central.root_metadata);
        let (own, key) = (identity.own(), SigningKey::load(&identity.files().identity).unwrap());
        let (number, id) = (u32::try_from(number).unwrap(), name.parse().unwrap());
        let site = own.holder.site.clone();
        let record = EndpointRecord {
            serial: format!("{number:040x}"),
            certificate_expires: own.not_after,
            ..EndpointRecord::enrolled(number, id, site, key.public(), fleet.now())
        };
        let enrolled = central.state.change(|_, change| {
            change.write(Write::Endpoint(Arc::new(record)));
            Ok::<_, StoreError>(())
        });
        enrolled.unwrap();
        let tenant = own.holder.tenant.clone();
        let catalogues = Catalogues::open(&dir, &dir.join("trust"), &tenant, upstream.clone(), 0).unwrap();
        let options = BlobOptions { quota_bytes: PAYLOAD_QUOTAS[2], free_floor_bytes: 0 };
        let payloads = Blobs::open_with_clock(&dir.join("payloads"), options, fleet.clock.clone()).unwrap();
        let (ledger, problems) = Ledger::open(&dir.join("ledger")).unwrap();
        assert_eq!(problems, []);
        let spool = Spool::open(&dir.join("spool"), tenant, name.parse().unwrap()).unwrap();
        Self { dir, name, facts, key, upstream, catalogues, payloads, ledger, spool }
    }

    /// Somebody installs another package instead of one.
    pub(super) fn replace(&mut self, package: &str, by: &str) {
        if self.facts.values.remove(&fact(package)).is_some() {
            self.facts.values.insert(fact(by), "1.0".to_owned());
        }
    }

    fn evaluate(&mut self) -> BTreeMap<UpdateId, Verdict> {
        let compiled = &self.catalogues.rules(&self.facts).unwrap().compiled;
        compiled.verdicts(&compiled.scan(&self.facts), &self.facts).collect()
    }

    /// Brings over what is new, installs what is needed and `approved`, reports; how many it installed.
    pub(super) async fn check(&mut self, now: Timestamp, approved: &BTreeSet<UpdateId>) -> u64 {
        self.catalogues.refresh(&v1::CheckInResponse::default(), &self.facts, now).await.unwrap();
        let verdicts = self.evaluate();
        let mut entries = self.ledger.observe(now, &verdicts, &Conditions::default()).unwrap();
        let mut installed = 0;
        let needed = verdicts.iter().filter(|(_, verdict)| **verdict == Verdict::Needed);
        for (id, _) in needed.filter(|(id, _)| approved.contains(id)) {
            let update = self.catalogues.update(id).unwrap().unwrap();
            if !update.superseded_by.is_empty() {
                continue;
            }
            let payloads: Vec<_> =
                update.install.payloads().into_iter().map(|(_, payload)| payload).collect();
            let fetcher = Fetcher { upstream: &self.upstream, payloads: &self.payloads, patience: PATIENCE };
            fetcher.ensure(&payloads).await.unwrap();
            self.ledger.begin(id, now).unwrap();
            for package in update.install.deb_packages() {
                let version = package.version.clone();
                self.facts.values.entry(fact(&package.name)).and_modify(|installed| *installed = version);
            }
            let took = Some(Duration::from_secs(7));
            entries.extend(self.ledger.end(id, now, Outcome::Success, None, took).unwrap());
            installed += 1;
        }
        let verdicts = self.evaluate();
        entries.extend(self.ledger.observe(now, &verdicts, &Conditions::default()).unwrap());
        self.report(now, latest(entries)).await;
        installed
    }

    async fn report(&mut self, now: Timestamp, mut entries: Vec<StateEntry>) {
        let mut snapshot = false;
        loop {
            let whole = || Report::States { snapshot: true, entries: self.ledger.book().entries() };
            if snapshot || !entries.is_empty() {
                let report = Report::States { snapshot, entries: std::mem::take(&mut entries) };
                let report = if snapshot { whole() } else { report };
                self.spool.states(&report, whole, &self.key, now).unwrap();
            }
            let summary = CycleSummary {
                at: now,
                took_ms: 40,
                dictionary_version: self.catalogues.version(),
                agent_version: VERSION.to_owned(),
                host_name: self.name.clone(),
                counts: self.ledger.book().counts(),
                reboot_pending: false,
                machine_class: "c1m3".to_owned(),
                uncovered: false,
                acknowledged: self.spool.acknowledged(),
                problems: Vec::new(),
            };
            self.spool.states(&Report::Cycle(summary), whole, &self.key, now).unwrap();
            self.spool.inventory(&self.facts, &self.key, now).unwrap();
            if !self.spool.send(&self.upstream).await.unwrap() {
                return;
            }
            self.spool.resync().unwrap();
            snapshot = true;
        }
    }

    /// Bytes on its disk, by what they are.
    pub(super) fn kept(&self) -> BTreeMap<&'static str, u64> {
        let folders = ["ledger", "spool", "trust", "trees/pins", "paths"];
        let mut kept: BTreeMap<_, _> = folders.map(|part| (part, folder_bytes(&self.dir.join(part)))).into();
        kept.insert("payloads", self.payloads.usage().bytes);
        kept.insert("rules", std::fs::metadata(self.dir.join("rules")).unwrap().len());
        kept.insert("attempts, number", self.ledger.book().history().count() as u64);
        kept
    }
}
