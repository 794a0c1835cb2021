//! One endpoint of a large fleet: an identity and a connection of its own, an inventory that is drawn, and the check of
//! the real endpoint: check in, bring over, evaluate, install, report in signed envelopes with numbers of their own.
//!
//! It waits for nothing by itself; scenarios say when it checks. What it was not acknowledged it sends again.

use std::{collections::VecDeque, path::PathBuf, sync::Arc, time::Instant};

use bytes::Bytes;
use jiff::Timestamp;
use tierway_common::{
    clock::Clock,
    facts::Facts,
    id::{EndpointId, TenantId, UpdateId},
    schema::{CycleSummary, Report, StateEntry},
    transport::{
        dial::{self, Route},
        tls::Identity,
    },
    tree::STORED_BYTES_MAX,
    trust::{
        digest::Digest,
        envelope::{Envelope, Header, Stream},
        keys::SigningKey,
    },
};
use tierway_endpoint::agent::VERSION;
use tierway_proto::{
    joining::Joined,
    upstream::{ENVELOPES_MAX, Upstream},
    v1,
};
use tokio::sync::Semaphore;

use super::{
    failure::{Failure, failed},
    figures::{Figures, Kind},
    held::Holding,
    inventory::{Installed, List, System},
    published::{Published, Rules},
};

/// Bytes of one submission, as the endpoint's own.
const BATCH_BYTES: usize = 1 << 20;
/// Longest payload that is installed here.
const PAYLOAD_BYTES_MAX: u64 = 1 << 20;

/// What all endpoints of one site and system share.
#[derive(Debug)]
pub struct Site {
    /// What is published there.
    pub published: Published,
    /// What there is to install.
    pub list: Arc<List>,
}

/// What is around an endpoint while it checks.
#[derive(Clone, Debug)]
pub struct Around {
    /// The time.
    pub clock: Clock,
    /// What is measured.
    pub figures: Arc<Figures>,
    /// Whether what is on offer is installed.
    pub installs: bool,
    /// Updates whose installer fails on one endpoint in a hundred.
    pub bad: Arc<[String]>,
    /// Those on the road are connected only so many at a time.
    pub road: Arc<Semaphore>,
}

/// What an endpoint has been acknowledged, for the comparison with central.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sequences {
    /// Of transitions and summaries.
    pub states: u64,
    /// Of facts.
    pub inventory: u64,
}

/// One endpoint.
#[derive(Debug)]
pub struct Member {
    /// Its number in the fleet.
    pub number: u64,
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: EndpointId,
    /// Which system it runs.
    pub system: System,
    /// What it knows of its updates.
    pub holding: Holding,
    /// What was acknowledged.
    pub acknowledged: Sequences,
    /// It is on the road.
    pub roams: bool,
    site: Arc<Site>,
    tenant: TenantId,
    identity: Identity,
    key: SigningKey,
    route: Route,
    upstream: Upstream,
    connected: bool,
    /// Version of the timestamp that is here.
    version: u64,
    /// Version of the targets that are here.
    targets_version: u64,
    installed: Arc<Installed>,
    used: Sequences,
    waiting: VecDeque<(Stream, u64, Bytes)>,
    /// The rules that were evaluated over the facts as they are.
    observed: Option<Rules>,
    told_all: bool,
    told_facts: bool,
    /// What the tier above acknowledged as installed here.
    accepted: Option<Arc<Installed>>,
    /// What waits to be acknowledged so, and its number.
    offered: Option<(u64, Arc<Installed>)>,
    resync: bool,
}

impl Member {
    /// One that has joined; `counted` is where it connects instead of to its relay, if its bytes are counted.
    ///
    /// # Errors
    ///
    /// [`Failure`] when its identity cannot be used.
    pub fn new(
        number: u64,
        joined: Joined,
        site: Arc<Site>,
        installed: Installed,
        roams: bool,
        counted: Option<std::net::SocketAddr>,
    ) -> Result<Self, Failure> {
        let Joined { identity, route, trust_dir: _ } = joined;
        let route = counted.map_or(route, |counted| Route::direct(&counted.to_string()));
        let own = identity.own().holder;
        let key = SigningKey::load(&identity.files().identity).map_err(failed("load a key"))?;
        let upstream = Upstream::new(dial::channel(route.clone(), &identity));
        Ok(Self {
            number,
            name: name(number),
            id: own.id.parse().map_err(failed("read an id"))?,
            system: site.list.system,
            holding: Holding::default(),
            acknowledged: Sequences::default(),
            roams,
            site,
            tenant: own.tenant,
            identity,
            key,
            route,
            upstream,
            connected: false,
            version: 0,
            targets_version: 0,
            installed: Arc::new(installed),
            used: Sequences::default(),
            waiting: VecDeque::new(),
            observed: None,
            told_all: false,
            told_facts: false,
            accepted: None,
            offered: None,
            resync: false,
        })
    }

    /// Its folder's name is its name.
    #[must_use]
    pub fn folder(number: u64, all: &std::path::Path) -> PathBuf {
        all.join(name(number))
    }

    /// Goes off: the connection ends, and the next check makes another.
    pub fn goes_off(&mut self) {
        self.upstream = Upstream::new(dial::channel(self.route.clone(), &self.identity));
        self.connected = false;
    }

    /// The tier above, to listen to, and from which version on.
    #[must_use]
    pub fn listens(&self) -> (Upstream, u64) {
        (self.upstream.clone(), self.version)
    }

    /// Version of the timestamp that is here.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How many reports wait.
    #[must_use]
    pub fn waits(&self) -> usize {
        self.waiting.len()
    }

    /// Its facts.
    #[must_use]
    pub fn facts(&self) -> Facts {
        self.site.list.facts(&self.installed)
    }

    /// One whole check; `daily` says that it is one that reports even when nothing changed.
    ///
    /// # Errors
    ///
    /// [`Failure`] when the relay is not reached or does not do its part: the next check goes on from there.
    pub async fn check(&mut self, around: &Around, daily: bool) -> Result<(), Failure> {
        self.check_in(around).await?;
        // As the real endpoint: what it reports then is everything already.
        self.forget_told(around);
        self.scan(around, daily).await?;
        self.hand_up(around).await?;
        if self.forget_told(around) {
            self.scan(around, true).await?;
            self.hand_up(around).await?;
        }
        Ok(())
    }

    /// Does as if it had told nothing yet when everything is asked for; whether it is.
    fn forget_told(&mut self, around: &Around) -> bool {
        let asked = std::mem::take(&mut self.resync);
        if asked {
            (self.told_all, self.told_facts) = (false, false);
            (self.accepted, self.offered) = (None, None);
            around.figures.count("endpoints asked for everything again", 1);
        }
        asked
    }

    async fn check_in(&mut self, around: &Around) -> Result<(), Failure> {
        let request = v1::CheckInRequest {
            timestamp_version: self.version,
            targets_version: self.targets_version,
            agent_version: VERSION.to_owned(),
            ..v1::CheckInRequest::default()
        };
        let began = Instant::now();
        let answer = self.upstream.check_in(request).await.map_err(failed("check in"))?;
        let kind = if self.connected { Kind::CheckIn } else { Kind::Connect };
        around.figures.took(kind, began.elapsed());
        self.connected = true;
        self.resync |= answer.resync;
        if answer.timestamp.is_none() {
            return Ok(());
        }
        let wanted = self.site.published.bring(&answer, self.version, around.clock.now()).await?;
        let began = Instant::now();
        for (role, version) in &wanted.metadata {
            let asked = self.upstream.metadata(role, Some(*version)).await;
            asked.map_err(failed(format!("fetch the metadata `{role}`")))?;
        }
        let nodes = self.upstream.small_blobs(&wanted.nodes, STORED_BYTES_MAX).await;
        let nodes = nodes.map_err(failed("fetch the nodes of trees"))?;
        around.figures.took(Kind::Sync, began.elapsed());
        around.figures.count("nodes of trees fetched", nodes.len() as u64);
        (self.version, self.targets_version) = (wanted.version, wanted.targets_version);
        Ok(())
    }

    async fn scan(&mut self, around: &Around, daily: bool) -> Result<(), Failure> {
        let began = around.clock.now();
        let (rules, approved) = self.site.published.decided().await;
        // As the real endpoint: what is known by the same rules of the same facts is not found anew.
        let mut changed = self.observe(rules, began).await?;
        for (update, since) in &*approved {
            if self.holding.offer(update, began) {
                let after = around.clock.now().duration_since(*since);
                // On the road nobody hears of it: they find it when they come.
                if !self.roams {
                    around.figures.took(Kind::ApprovalToOffer, after.try_into().unwrap_or_default());
                }
                changed.push(update.clone());
            }
        }
        if around.installs {
            for update in self.holding.open() {
                self.install(around, &update).await?;
                changed.push(update);
            }
            // As after every installation: what came of it is seen, not supposed.
            changed.extend(self.observe(rules, around.clock.now()).await?);
        }
        changed.sort();
        changed.dedup();
        self.seal_all(&changed, daily, began, around.clock.now())
    }

    /// Evaluates the rules over its facts, unless both are what they were; the updates that stand elsewhere than before.
    async fn observe(&mut self, rules: Rules, now: Timestamp) -> Result<Vec<UpdateId>, Failure> {
        if self.observed == Some(rules) {
            return Ok(Vec::new());
        }
        let verdicts = self.site.published.evaluate(&self.facts()).await?;
        self.observed = Some(rules);
        Ok(self.holding.observe(&verdicts, now))
    }

    async fn install(&mut self, around: &Around, update: &UpdateId) -> Result<(), Failure> {
        if self.system == System::Debian {
            let payloads = self.site.published.payloads(update).await?;
            let digests: Vec<Digest> = payloads.iter().map(|payload| payload.digest).collect();
            let fetched = self.upstream.small_blobs(&digests, PAYLOAD_BYTES_MAX).await;
            let fetched = fetched.map_err(failed(format!("fetch the payloads of `{update}`")))?;
            let bytes: usize = fetched.values().map(Bytes::len).sum();
            around.figures.count("bytes of payloads fetched", bytes as u64);
        }
        let bad = self.number.is_multiple_of(100) && around.bad.iter().any(|bad| bad == update.as_str());
        let list = &self.site.list;
        let found = self.installed.iter().find_map(|(place, step)| {
            let to = (step + 1..=step + 3).find(|to| list.update(*place, *to) == update.as_str())?;
            Some((*place, to))
        });
        let Some((place, step)) = found else {
            return Err(Failure::plain(format!("`{}` needs `{update}` and cannot have it", self.name)));
        };
        if !bad {
            Arc::make_mut(&mut self.installed).insert(place, step);
            (self.observed, self.told_facts) = (None, false);
        }
        let took = 1 + u32::try_from(self.number % 60).unwrap_or(0);
        self.holding.attempted(update, !bad, took, around.clock.now());
        around.figures.count(if bad { "installations that failed" } else { "installations" }, 1);
        Ok(())
    }

    /// Puts on their way, numbered and signed: a summary, transitions, and what changed of the facts.
    fn seal_all(
        &mut self,
        changed: &[UpdateId],
        daily: bool,
        began: Timestamp,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let snapshot = !std::mem::replace(&mut self.told_all, true);
        let entries: Vec<StateEntry> =
            if snapshot { self.holding.all() } else { self.holding.entries(changed) };
        if daily || snapshot || !entries.is_empty() {
            let took = now.duration_since(began).as_millis();
            let summary = CycleSummary {
                at: began,
                took_ms: u64::try_from(took).unwrap_or(0),
                dictionary_version: self.version,
                agent_version: VERSION.to_owned(),
                host_name: self.name.clone(),
                counts: self.holding.counts(),
                reboot_pending: false,
                machine_class: "c2m3".to_owned(),
                uncovered: false,
                acknowledged: self.accepted.as_ref().map(|accepted| self.site.list.facts(accepted).digest()),
                problems: Vec::new(),
            };
            self.seal(Stream::States, false, &Report::Cycle(summary), now)?;
        }
        if snapshot || !entries.is_empty() {
            self.seal(Stream::States, false, &Report::States { snapshot, entries }, now)?;
        }
        if !std::mem::replace(&mut self.told_facts, true) {
            self.seal_facts(now)?;
        }
        Ok(())
    }

    /// As the real endpoint: the change to what was acknowledged, which makes every earlier one that waits superfluous.
    fn seal_facts(&mut self, now: Timestamp) -> Result<(), Failure> {
        let facts = self.facts();
        let report = match &self.accepted {
            Some(accepted) => {
                let base = self.site.list.facts(accepted);
                let (delta, digest) = (base.delta(&facts), facts.digest());
                Report::InventoryDelta { at: now, base: base.digest(), digest, delta }
            }
            None => Report::Inventory { at: now, facts },
        };
        self.waiting.retain(|(stream, ..)| *stream != Stream::Inventory);
        let sequence = self.seal(Stream::Inventory, self.accepted.is_none(), &report, now)?;
        self.offered = Some((sequence, self.installed.clone()));
        Ok(())
    }

    fn acknowledges(&mut self, stream: Stream, sequence: u64) {
        match stream {
            Stream::States => self.acknowledged.states = sequence,
            Stream::Inventory => {
                self.acknowledged.inventory = sequence;
                if let Some((_, installed)) = self.offered.take_if(|(offered, _)| *offered == sequence) {
                    self.accepted = Some(installed);
                }
            }
        }
    }

    fn seal(
        &mut self,
        stream: Stream,
        replaces_earlier: bool,
        report: &Report,
        now: Timestamp,
    ) -> Result<u64, Failure> {
        let used = match stream {
            Stream::States => &mut self.used.states,
            Stream::Inventory => &mut self.used.inventory,
        };
        *used += 1;
        let sequence = *used;
        let header = Header {
            tenant: self.tenant.clone(),
            endpoint: self.id.clone(),
            stream,
            sequence,
            replaces_earlier,
            created: now,
        };
        let envelope = Envelope::seal(&self.key, header, report).map_err(failed("seal a report"))?;
        self.waiting.push_back((stream, sequence, envelope.bytes().clone()));
        Ok(sequence)
    }

    /// Hands up what waits; what is not acknowledged waits on.
    async fn hand_up(&mut self, around: &Around) -> Result<(), Failure> {
        while !self.waiting.is_empty() {
            let mut bytes = 0;
            let batch: Vec<Bytes> = (self.waiting.iter().take(ENVELOPES_MAX))
                .map(|(_, _, envelope)| envelope.clone())
                .take_while(|envelope| {
                    bytes += envelope.len();
                    bytes <= BATCH_BYTES || bytes == envelope.len()
                })
                .collect();
            let began = Instant::now();
            let answer = self.upstream.submit(batch).await.map_err(failed("hand up reports"))?;
            around.figures.took(Kind::Report, began.elapsed());
            self.resync |= answer.resync_endpoints.iter().any(|id| id == self.id.as_str());
            for outcome in &answer.outcomes {
                match v1::ReportOutcome::try_from(*outcome) {
                    Ok(v1::ReportOutcome::Accepted) => {
                        let Some((stream, sequence, _)) = self.waiting.pop_front() else { break };
                        self.acknowledges(stream, sequence);
                        around.figures.count("reports acknowledged", 1);
                    }
                    Ok(v1::ReportOutcome::Later) => {
                        around.figures.count("reports put off by a relay", 1);
                        return Err(Failure::plain("the relay takes no reports now"));
                    }
                    other => {
                        around.figures.finding(format!("a report of `{}` was answered {other:?}", self.name));
                        self.waiting.pop_front();
                    }
                }
            }
        }
        Ok(())
    }
}

fn name(number: u64) -> String {
    format!("e{number:06}")
}
