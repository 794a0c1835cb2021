//! What must hold whatever goes wrong, looked at whenever something is said or done, and what happened, as one number.
//!
//! What endpoints sealed is what central must know: its states of an endpoint are, up to the number it has come to, those of
//! the reports up to there, in their order, each once. Bytes are compared with those that were published.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use bytes::Bytes;
use prost::Message as _;
use tierway_central::server::Central;
use tierway_common::{
    id::UpdateId,
    schema::{Report, State},
    trust::{
        digest::Digest,
        envelope::{Envelope, Stream},
    },
};
use tierway_proto::v1;
use tokio::time::Instant;

use super::{
    Sabotage,
    net::{CENTRAL, Node, Tree},
};

/// What is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// What was acknowledged to an endpoint arrives.
    Kept,
    /// Nothing that was reported counts twice.
    Once,
    /// What central knows of an endpoint are its reports, in their order.
    InOrder,
    /// Nothing is served or installed that is not what was published.
    Verified,
    /// Nobody goes back to what was published earlier.
    Newest,
    /// Of a window no more are down at once than may be.
    AtOnce,
    /// A token lets in as many as it says.
    Admitted,
    /// Of whom was revoked nothing counts any more.
    ShutOut,
    /// When nothing goes wrong any more everybody comes to the same.
    Converged,
}

impl Promise {
    /// All.
    pub const ALL: [Self; 9] = [
        Self::Kept,
        Self::Once,
        Self::InOrder,
        Self::Verified,
        Self::Newest,
        Self::AtOnce,
        Self::Admitted,
        Self::ShutOut,
        Self::Converged,
    ];
}

/// A promise that was broken, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which.
    pub promise: Promise,
    /// With names and times.
    pub how: String,
}

/// A report as its endpoint sealed it.
#[derive(Debug)]
enum Sealed {
    Raw(Envelope),
    Read { snapshot: bool, states: Vec<(UpdateId, State)> },
}

#[derive(Debug)]
struct Inner {
    tree: Tree,
    began: Instant,
    digest: u64,
    lines: Option<Vec<String>>,
    counts: BTreeMap<Promise, u64>,
    broken: Option<Broken>,
    central: Weak<Central>,
    /// Node of each endpoint, by its id.
    nodes: BTreeMap<String, Node>,
    /// Of the stream of states, by endpoint and number.
    sealed: BTreeMap<String, BTreeMap<u64, Sealed>>,
    acknowledged: BTreeMap<String, BTreeSet<u64>>,
    /// At central's door.
    arrived: BTreeMap<String, BTreeSet<u64>>,
    /// Numbers that central has come to: states, inventory.
    come_to: BTreeMap<String, (u64, u64)>,
    /// Those that are revoked, and the numbers that central had come to.
    revoked: BTreeMap<String, (u64, u64)>,
    /// Versions that each node has trusted last.
    versions: BTreeMap<Node, u64>,
    /// Endpoints that are down for an installation.
    down: BTreeSet<Node>,
    /// Calls by method.
    calls: BTreeMap<String, u64>,
}

/// Watches; cheap to clone.
#[derive(Clone, Debug)]
pub struct Watch(Arc<Mutex<Inner>>);

/// What is being served.
#[derive(Debug)]
pub struct Passing {
    wanted: Vec<(Digest, u64)>,
    buffer: Vec<u8>,
    blob: Vec<u8>,
    index: u32,
    from: Node,
}

impl Watch {
    /// Begins now. What happens is kept line by line if `lines`.
    #[must_use]
    pub fn new(tree: Tree, lines: bool) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            tree,
            began: Instant::now(),
            digest: 0xcbf2_9ce4_8422_2325,
            lines: lines.then(Vec::new),
            counts: BTreeMap::new(),
            broken: None,
            central: Weak::new(),
            nodes: BTreeMap::new(),
            sealed: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            arrived: BTreeMap::new(),
            come_to: BTreeMap::new(),
            revoked: BTreeMap::new(),
            versions: BTreeMap::new(),
            down: BTreeSet::new(),
            calls: BTreeMap::new(),
        })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that something happened.
    pub fn note(&self, what: fmt::Arguments<'_>) {
        self.inner().note(what);
    }

    /// Checks one promise once.
    pub fn holds(&self, promise: Promise, holds: bool, how: impl FnOnce() -> String) {
        self.inner().holds(promise, holds, how);
    }

    /// The first promise that was broken.
    #[must_use]
    pub fn broken(&self) -> Option<Broken> {
        self.inner().broken.clone()
    }

    /// What happened: as a number, line by line if that was wanted; how often each promise was checked; calls by method.
    #[must_use]
    pub fn told(&self) -> (u64, Vec<String>, BTreeMap<Promise, u64>, BTreeMap<String, u64>) {
        let inner = self.inner();
        let lines = inner.lines.clone().unwrap_or_default();
        (inner.digest, lines, inner.counts.clone(), inner.calls.clone())
    }

    /// Central is up.
    pub fn central(&self, central: &Arc<Central>) {
        self.inner().central = Arc::downgrade(central);
        self.looks();
    }

    /// A node has this id.
    pub fn named(&self, node: Node, id: &str) {
        self.inner().nodes.insert(id.to_owned(), node);
    }

    /// The id of a node, once it is known.
    #[must_use]
    pub fn id(&self, node: Node) -> Option<String> {
        self.inner().nodes.iter().find(|(_, own)| **own == node).map(|(id, _)| id.clone())
    }

    /// Central acknowledged that an endpoint is revoked.
    pub fn revoked(&self, id: &str) {
        self.looks();
        let mut inner = self.inner();
        let come_to = inner.come_to.get(id).copied().unwrap_or_default();
        inner.revoked.insert(id.to_owned(), come_to);
    }

    /// Whether it is, by the id.
    #[must_use]
    pub fn is_revoked(&self, id: &str) -> bool {
        self.inner().revoked.contains_key(id)
    }

    /// A node goes by metadata of this version.
    pub fn trusts(&self, node: Node, version: u64) {
        let mut inner = self.inner();
        let before = inner.versions.insert(node, version).unwrap_or(0);
        inner.holds(Promise::Newest, version >= before, || {
            format!("node {node} went from version {before} back to {version}")
        });
        if version != before {
            inner.note(format_args!("node {node} trusts {version}"));
        }
    }

    /// An endpoint begins something during which it is down; at most so many may be.
    pub fn goes_down(&self, node: Node, max: usize) {
        let mut inner = self.inner();
        inner.down.insert(node);
        let down = inner.down.clone();
        inner.holds(Promise::AtOnce, down.len() <= max, || format!("{down:?} are down at once"));
        inner.note(format_args!("node {node} installs"));
    }

    /// It is through with that.
    pub fn comes_up(&self, node: Node) {
        self.inner().down.remove(&node);
    }

    /// An endpoint takes a file for the payload `named`.
    pub fn installs(&self, node: Node, named: &Digest, content: &[u8]) {
        let found = Digest::of(content);
        self.holds(Promise::Verified, found == *named, || {
            format!("node {node} installs {found} instead of {named}")
        });
    }

    /// Something is said on the way from one node to another.
    pub fn sent(&self, from: Node, to: Node, method: &str) {
        let mut inner = self.inner();
        *inner.calls.entry(method.to_owned()).or_default() += 1;
        inner.note(format_args!("{from} > {to} {method}"));
    }

    /// A request comes in at a node.
    pub fn arrives(&self, to: Node, method: &str, body: &mut Bytes, sabotage: Option<Sabotage>) {
        self.note(format_args!("> {to} {method}"));
        if method != "SubmitReports" {
            return;
        }
        let Some(mut request) = message::<v1::SubmitReportsRequest>(body) else { return };
        if to == CENTRAL && sabotage == Some(Sabotage::TurnsReportsRound) && request.envelopes.len() > 1 {
            request.envelopes.reverse();
            *body = framed(&request);
        }
        let mut inner = self.inner();
        for bytes in &request.envelopes {
            let Ok(envelope) = Envelope::parse(bytes) else { continue };
            let header = envelope.header();
            if header.stream != Stream::States {
                continue;
            }
            let (endpoint, sequence) = (header.endpoint.to_string(), header.sequence);
            if to == CENTRAL {
                inner.arrived.entry(endpoint).or_default().insert(sequence);
            } else {
                let sealed = inner.sealed.entry(endpoint).or_default();
                sealed.entry(sequence).or_insert(Sealed::Raw(envelope));
            }
        }
    }

    /// An answer comes back to a node.
    pub fn answered(&self, from: Node, to: Node, method: &str) {
        self.note(format_args!("{from} < {to} {method}"));
    }

    /// An answer came back whole: who handed reports in may forget those that were accepted.
    pub fn acknowledged(&self, from: Node, request: &[u8], response: &[u8]) {
        let mut inner = self.inner();
        if inner.tree.servers().contains(&from) {
            return;
        }
        let Some(request) = message::<v1::SubmitReportsRequest>(request) else { return };
        let Some(response) = message::<v1::SubmitReportsResponse>(response) else { return };
        for (bytes, outcome) in request.envelopes.iter().zip(response.outcomes) {
            let Ok(envelope) = Envelope::parse(bytes) else { continue };
            let header = envelope.header();
            if header.stream == Stream::States && outcome == i32::from(v1::ReportOutcome::Accepted) {
                let of_endpoint = inner.acknowledged.entry(header.endpoint.to_string()).or_default();
                of_endpoint.insert(header.sequence);
            }
        }
    }

    /// Looks at what central knows now.
    pub fn looks(&self) {
        let mut inner = self.inner();
        if let Some(central) = inner.central.upgrade() {
            inner.look(&central);
        }
    }

    /// At the end: everything that was acknowledged is there.
    pub fn ends(&self) {
        self.looks();
        let mut inner = self.inner();
        let acknowledged = std::mem::take(&mut inner.acknowledged);
        for (endpoint, numbers) in acknowledged {
            if inner.revoked.contains_key(&endpoint) {
                continue;
            }
            let come_to = inner.come_to.get(&endpoint).map_or(0, |come_to| come_to.0);
            let last = numbers.last().copied().unwrap_or(0);
            let node = inner.nodes.get(&endpoint).copied();
            inner.holds(Promise::Kept, last <= come_to, || {
                format!("node {node:?}: report {last} was acknowledged, and central has come to {come_to}")
            });
        }
    }

    /// A node begins to answer.
    #[must_use]
    pub fn serving(&self, from: Node, method: &str, request: &[u8]) -> Option<Passing> {
        if method != "FetchBlobs" {
            return None;
        }
        let request = message::<v1::FetchBlobsRequest>(request)?;
        let wanted = request
            .blobs
            .iter()
            .filter_map(|blob| Some((Digest::try_from(blob.digest.as_slice()).ok()?, blob.offset)));
        Some(Passing { wanted: wanted.collect(), buffer: Vec::new(), blob: Vec::new(), index: 0, from })
    }

    /// A piece of an answer leaves a node; what it is then.
    pub fn served(&self, passing: &mut Option<Passing>, data: Bytes, sabotage: Option<Sabotage>) -> Bytes {
        let Some(passing) = passing else { return data };
        let mut data = data.to_vec();
        if sabotage == Some(Sabotage::ServesAnything)
            && let Some(last) = data.iter_mut().rev().nth(8)
        {
            *last ^= 1;
        }
        passing.buffer.extend_from_slice(&data);
        while let Some((header, rest)) = passing.buffer.split_first_chunk::<5>() {
            let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
            let Some(chunk) = rest.get(..length as usize) else { break };
            let chunk = v1::BlobChunk::decode(chunk);
            passing.buffer.drain(..5 + length as usize);
            let Ok(chunk) = chunk else { continue };
            if chunk.index != passing.index {
                passing.index = chunk.index;
                passing.blob.clear();
            }
            passing.blob.extend_from_slice(&chunk.data);
            let wanted = passing.wanted.get(chunk.index as usize);
            if let (v1::BlobEnd::Complete, Some((digest, 0))) = (chunk.end(), wanted) {
                let found = Digest::of(&passing.blob);
                let from = passing.from;
                self.holds(Promise::Verified, found == *digest, || {
                    format!("node {from} served {found} for {digest}")
                });
            }
        }
        data.into()
    }
}

impl Inner {
    fn note(&mut self, what: fmt::Arguments<'_>) {
        let line = format!("{:>9} {what}", self.began.elapsed().as_millis());
        for byte in line.bytes() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if let Some(lines) = &mut self.lines {
            lines.push(line);
        }
    }

    fn holds(&mut self, promise: Promise, holds: bool, how: impl FnOnce() -> String) {
        *self.counts.entry(promise).or_default() += 1;
        if !holds && self.broken.is_none() {
            let how = format!("{} after {:?}", how(), self.began.elapsed());
            self.broken = Some(Broken { promise, how });
        }
    }

    fn look(&mut self, central: &Central) {
        let records: Vec<_> = central.state.model().endpoints().cloned().collect();
        for record in records {
            let id = record.id.to_string();
            let now = (record.states_sequence, record.inventory_sequence);
            let before = self.come_to.insert(id.clone(), now).unwrap_or_default();
            let node = self.nodes.get(&id).copied();
            let forward = now.0 >= before.0 && now.1 >= before.1;
            self.holds(Promise::Once, forward, || {
                format!("node {node:?}: central went from {before:?} back to {now:?}")
            });
            if let Some(then) = self.revoked.get(&id).copied() {
                self.holds(Promise::ShutOut, now == then, || {
                    format!("node {node:?} was revoked at {then:?}, central has come to {now:?}")
                });
            }
            if now == before || !forward {
                continue;
            }
            self.note(format_args!("central has come to {now:?} of {node:?}"));
            let arrived = self.arrived.get(&id);
            let lost = self.acknowledged.get(&id).and_then(|acknowledged| {
                let passed = acknowledged.range(before.0 + 1..=now.0);
                passed.copied().find(|number| arrived.is_none_or(|arrived| !arrived.contains(number)))
            });
            self.holds(Promise::Kept, lost.is_none(), || {
                format!("node {node:?}: central has come to {now:?} without report {lost:?}, which was acknowledged")
            });
            let mut expected: BTreeMap<UpdateId, State> = BTreeMap::new();
            let Some(sealed) = self.sealed.get_mut(&id) else { continue };
            for (_, report) in sealed.range_mut(..=now.0) {
                if let Sealed::Raw(envelope) = report {
                    let read = record.keys.iter().find_map(|key| envelope.verify(key).ok());
                    let (snapshot, states) = match read {
                        Some(Report::States { snapshot, entries }) => {
                            (snapshot, entries.into_iter().map(|entry| (entry.update, entry.state)).collect())
                        }
                        _ => (false, Vec::new()),
                    };
                    *report = Sealed::Read { snapshot, states };
                }
                if let Sealed::Read { snapshot, states } = report {
                    if *snapshot {
                        expected.clear();
                    }
                    expected.extend(states.iter().cloned());
                }
            }
            expected.retain(|_, state| *state != State::NotApplicable);
            let Ok(states) = central.state.states(record.number) else { continue };
            let model = central.state.model();
            let mut wrong = None;
            for (update, expected) in &expected {
                let Some(known) = model.update_by_id(update) else { continue };
                let found =
                    states.get(known.number).filter(|entry| !entry.estimated).map(|entry| entry.state);
                if found != Some(*expected) {
                    wrong = Some(format!(
                        "node {node:?} up to report {}: `{update}` is {expected:?}, central has {found:?}",
                        now.0
                    ));
                }
            }
            drop(model);
            self.holds(Promise::InOrder, wrong.is_none(), || wrong.unwrap_or_default());
        }
    }
}

/// The one message of a body.
fn message<M: prost::Message + Default>(body: &[u8]) -> Option<M> {
    M::decode(body.get(5..)?).ok()
}

fn framed(message: &impl prost::Message) -> Bytes {
    let encoded = message.encode_to_vec();
    let length = u32::try_from(encoded.len()).unwrap_or(u32::MAX);
    [&[0][..], &length.to_be_bytes(), &encoded].concat().into()
}
