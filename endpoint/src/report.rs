//! Reports on their way up: sealed, numbered and on disk before they are sent, deleted when the tier above
//! has them on its disk.
//!
//! Transitions go out one envelope after the other with numbers that leave no gap; when too many wait they
//! are replaced by one snapshot of the ledger. Of inventories only the newest waits: the change since the
//! facts that were last accepted, or all of them when nothing was accepted yet or central asked for all.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tierway_common::{
    daemon::chain::Chain,
    facts::{Domain, Facts, domain_of},
    files,
    id::{EndpointId, TenantId},
    schema::{Report, StateEntry},
    trust::{
        digest::Digest,
        envelope::{ENVELOPE_BYTES_MAX, Envelope, EnvelopeError, Header, REPORT_BYTES_MAX, Stream},
        keys::SigningKey,
    },
};
use tierway_proto::{
    upstream::{Upstream, UpstreamError},
    v1,
};
use tracing::warn;

/// Envelopes of transitions that wait before they are replaced by a snapshot.
const STATES_WAITING_MAX: usize = 512;
/// Bytes of one call.
const BATCH_BYTES: usize = 1 << 20;
/// States in one report: some 200 bytes each.
const ENTRIES_PER_REPORT: usize = 3_000;
/// Bytes of the states, or of the facts, of one report: what it says besides has room in the rest.
const CONTENT_BYTES_MAX: usize = REPORT_BYTES_MAX - (64 << 10);
/// Facts that central holds, in the spool's folder.
const ACCEPTED: &str = "accepted.json";
/// Number and facts of the inventory that was put on its way last.
const OFFERED: &str = "offered.json";
/// Bytes of the accepted facts.
const FACTS_BYTES_MAX: u64 = 16 << 20;

/// Why reports could not be kept or sent.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The spool.
    #[error("could not read or write `{path}`")]
    Spool {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Too large, most likely.
    #[error("could not seal a report")]
    Seal(#[from] EnvelopeError),
    /// The tier above.
    #[error("could not hand reports up")]
    Upstream(#[from] UpstreamError),
    /// The tier above is full.
    #[error("the tier above takes no reports now: {waiting} wait")]
    Later {
        /// Envelopes.
        waiting: usize,
    },
}

/// The numbers used last, written before they are used: a crash wastes one and repeats none.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
struct Used {
    states: u64,
    inventory: u64,
}

/// The spool of one endpoint.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    tenant: TenantId,
    endpoint: EndpointId,
    used: Used,
    /// What central holds, as far as this endpoint knows; the facts themselves are on disk.
    accepted: Option<Digest>,
    /// The inventory that waits: its number, and its facts, to become `accepted`.
    offered: Option<(u64, Digest)>,
}

impl Spool {
    /// Opens the spool in `dir`, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// [`ReportError::Spool`], naming the file.
    pub fn open(dir: &Path, tenant: TenantId, endpoint: EndpointId) -> Result<Self, ReportError> {
        files::create_folders(dir).map_err(|source| spool_error(dir, source))?;
        let used = read(&dir.join("used.json"), 4096)?.unwrap_or_default();
        let accepted = accepted_facts(dir)?.as_ref().map(Facts::digest);
        let offered = offered_facts(dir)?.map(|(sequence, facts)| (sequence, facts.digest()));
        let mut spool = Self { dir: dir.to_owned(), tenant, endpoint, used, accepted, offered };
        let waits = spool.files()?.into_iter().rev().find(|(stream, ..)| *stream == Stream::Inventory);
        let waits = waits.map(|(_, sequence, _)| sequence);
        if spool.offered.as_ref().map(|(sequence, _)| *sequence) != waits {
            match waits {
                // A crash came before its facts were written down: what central will hold is not known.
                Some(_) => spool.resync()?,
                // It was accepted.
                None => spool.offered = None,
            }
        }
        Ok(spool)
    }

    /// Digest of the facts that the tier above acknowledged last; `None` when it must be sent all of them.
    #[must_use]
    pub fn acknowledged(&self) -> Option<Digest> {
        self.accepted
    }

    /// Envelopes that wait.
    ///
    /// # Errors
    ///
    /// [`ReportError::Spool`].
    pub fn waiting(&self) -> Result<usize, ReportError> {
        Ok(self.files()?.len())
    }

    /// Puts a report of the stream `states` on its way; `snapshot` gives the whole ledger as a report when
    /// too many wait.
    ///
    /// # Errors
    ///
    /// [`ReportError`]; it is not on its way then.
    pub fn states(
        &mut self,
        report: &Report,
        snapshot: impl FnOnce() -> Report,
        key: &SigningKey,
        now: Timestamp,
    ) -> Result<(), ReportError> {
        let waiting: Vec<_> = self.files()?.into_iter().filter(|file| file.0 == Stream::States).collect();
        if waiting.len() < STATES_WAITING_MAX {
            return self.seal(Stream::States, false, report, key, now).map(drop);
        }
        warn!(waiting = waiting.len(), "too many reports wait: one snapshot replaces them");
        self.seal(Stream::States, true, &snapshot(), key, now)?;
        for (_, _, path) in waiting {
            fs::remove_file(&path).map_err(|source| spool_error(&path, source))?;
        }
        Ok(())
    }

    /// Puts the inventory on its way, unless central has these facts already.
    ///
    /// # Errors
    ///
    /// [`ReportError`]; it is not on its way then.
    pub fn inventory(&mut self, facts: &Facts, key: &SigningKey, now: Timestamp) -> Result<(), ReportError> {
        let before = self.offered.map_or(self.accepted, |(_, offered)| Some(offered));
        if before == Some(facts.digest()) {
            return Ok(());
        }
        let facts = &*with_room(facts);
        let digest = facts.digest();
        if before == Some(digest) {
            return Ok(());
        }
        let base =
            self.accepted.and_then(|accepted| self.as_before(ACCEPTED, accepted, accepted_facts(&self.dir)));
        let whole = base.is_none();
        let report = match base {
            Some(base) => {
                Report::InventoryDelta { at: now, base: base.digest(), digest, delta: base.delta(facts) }
            }
            None => Report::Inventory { at: now, facts: facts.clone() },
        };
        let earlier: Vec<_> = self.files()?.into_iter().filter(|file| file.0 == Stream::Inventory).collect();
        let sequence = match self.seal(Stream::Inventory, whole, &report, key, now) {
            // All may be less than what was and what is.
            Err(ReportError::Seal(EnvelopeError::TooLarge { .. })) if !whole => {
                let all = Report::Inventory { at: now, facts: facts.clone() };
                self.seal(Stream::Inventory, true, &all, key, now)?
            }
            sealed => sealed?,
        };
        self.offered = Some((sequence, digest));
        self.write(OFFERED, &(sequence, facts))?;
        for (_, _, path) in earlier {
            fs::remove_file(&path).map_err(|source| spool_error(&path, source))?;
        }
        Ok(())
    }

    /// Forgets what central holds: the next inventory is a whole one.
    ///
    /// # Errors
    ///
    /// [`ReportError::Spool`].
    pub fn resync(&mut self) -> Result<(), ReportError> {
        (self.accepted, self.offered) = (None, None);
        for name in [ACCEPTED, OFFERED] {
            let path = self.dir.join(name);
            files::remove(&path).map_err(|source| spool_error(&path, source))?;
        }
        Ok(())
    }

    /// Hands up what waits, transitions first, in the order of their numbers. Returns whether central asks
    /// for everything again.
    ///
    /// # Errors
    ///
    /// [`ReportError`]; what was not acknowledged waits on.
    pub async fn send(&mut self, upstream: &Upstream) -> Result<bool, ReportError> {
        let mut resync = false;
        loop {
            let mut batch = Vec::new();
            let mut total = 0;
            for (stream, sequence, path) in self.files()? {
                let bytes = files::read_if_there(&path, ENVELOPE_BYTES_MAX as u64)
                    .map_err(|source| spool_error(&path, source))?
                    .unwrap_or_default();
                if total + bytes.len() > BATCH_BYTES && total > 0 {
                    break;
                }
                total += bytes.len();
                batch.push((stream, sequence, path, Bytes::from(bytes)));
            }
            if batch.is_empty() {
                return Ok(resync);
            }
            let answer = upstream.submit(batch.iter().map(|(.., bytes)| bytes.clone()).collect()).await?;
            resync |= answer.resync_endpoints.iter().any(|id| id == self.endpoint.as_str());
            let mut later = 0;
            for ((stream, sequence, path, _), outcome) in batch.into_iter().zip(answer.outcomes) {
                match v1::ReportOutcome::try_from(outcome) {
                    Ok(v1::ReportOutcome::Accepted) if stream == Stream::Inventory => {
                        self.accepted(sequence)?
                    }
                    Ok(v1::ReportOutcome::Accepted) => {}
                    Ok(v1::ReportOutcome::Refused) => {
                        warn!(sequence, "the tier above refused a report for good");
                        resync = true;
                    }
                    _ => {
                        later += 1;
                        continue;
                    }
                }
                fs::remove_file(&path).map_err(|source| spool_error(&path, source))?;
            }
            if later > 0 {
                return Err(ReportError::Later { waiting: later });
            }
        }
    }

    fn accepted(&mut self, sequence: u64) -> Result<(), ReportError> {
        let Some((_, digest)) = self.offered.take_if(|(offered, _)| *offered == sequence) else {
            return Ok(());
        };
        let facts = offered_facts(&self.dir).map(|offered| offered.map(|(_, facts)| facts));
        let Some(facts) = self.as_before(OFFERED, digest, facts) else { return self.resync() };
        self.accepted = Some(digest);
        self.write(ACCEPTED, &facts)
    }

    /// Facts as they were written down; where they are not that any more, there is nothing to tell a change from,
    /// and all facts go up.
    fn as_before(
        &self,
        name: &str,
        digest: Digest,
        found: Result<Option<Facts>, ReportError>,
    ) -> Option<Facts> {
        let problem = match found {
            Ok(Some(facts)) if facts.digest() == digest => return Some(facts),
            Ok(_) => "they are others".to_owned(),
            Err(error) => Chain(&error).to_string(),
        };
        warn!(path = %self.dir.join(name).display(), problem, "facts that were reported cannot be read any more");
        None
    }

    fn seal(
        &mut self,
        stream: Stream,
        replaces_earlier: bool,
        report: &Report,
        key: &SigningKey,
        now: Timestamp,
    ) -> Result<u64, ReportError> {
        let used = match stream {
            Stream::States => &mut self.used.states,
            Stream::Inventory => &mut self.used.inventory,
        };
        *used += 1;
        let sequence = *used;
        self.write("used.json", &self.used)?;
        let header = Header {
            tenant: self.tenant.clone(),
            endpoint: self.endpoint.clone(),
            stream,
            sequence,
            replaces_earlier,
            created: now,
        };
        let envelope = Envelope::seal(key, header, report)?;
        let path = self.dir.join(file_name(stream, sequence));
        files::replace(&path, envelope.bytes(), 0o600).map_err(|source| spool_error(&path, source))?;
        Ok(sequence)
    }

    /// What waits: transitions, then inventories, each by number.
    fn files(&self) -> Result<Vec<(Stream, u64, PathBuf)>, ReportError> {
        let error = |source| spool_error(&self.dir, source);
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&self.dir).map_err(error)? {
            let path = entry.map_err(error)?.path();
            let parsed = path.file_name().and_then(|name| name.to_str()).and_then(parse_file_name);
            if let Some((stream, sequence)) = parsed {
                found.insert((stream == Stream::Inventory, sequence), (stream, sequence, path));
            }
        }
        Ok(found.into_values().collect())
    }

    fn write(&self, name: &str, value: &impl Serialize) -> Result<(), ReportError> {
        let path = self.dir.join(name);
        serde_json::to_vec(value)
            .map_err(io::Error::from)
            .and_then(|json| files::replace(&path, &json, 0o600))
            .map_err(|source| spool_error(&path, source))
    }
}

/// The facts that central holds.
fn accepted_facts(dir: &Path) -> Result<Option<Facts>, ReportError> {
    read(&dir.join(ACCEPTED), FACTS_BYTES_MAX)
}

/// Number and facts of the inventory that was put on its way last.
fn offered_facts(dir: &Path) -> Result<Option<(u64, Facts)>, ReportError> {
    read(&dir.join(OFFERED), FACTS_BYTES_MAX)
}

fn file_name(stream: Stream, sequence: u64) -> String {
    let lane = match stream {
        Stream::States => "states",
        Stream::Inventory => "inventory",
    };
    format!("{lane}-{sequence:020}.report")
}

fn parse_file_name(name: &str) -> Option<(Stream, u64)> {
    let (lane, sequence) = name.strip_suffix(".report")?.split_once('-')?;
    let stream = match lane {
        "states" => Stream::States,
        "inventory" => Stream::Inventory,
        _ => return None,
    };
    Some((stream, sequence.parse().ok()?))
}

fn spool_error(path: &Path, source: io::Error) -> ReportError {
    ReportError::Spool { path: path.to_owned(), source }
}

fn read<T: serde::de::DeserializeOwned>(path: &Path, bytes_max: u64) -> Result<Option<T>, ReportError> {
    files::read_if_there(path, bytes_max)
        .and_then(|json| Ok(json.map(|json| serde_json::from_slice(&json)).transpose()?))
        .map_err(|source| spool_error(path, source))
}

/// Facts of which a report has room: of more, the largest domains of which only what rules ask for is read are left
/// out, then the largest of all, and said to be.
fn with_room(facts: &Facts) -> Cow<'_, Facts> {
    let bytes = |facts: &Facts| serde_json::to_vec(facts).map_or(0, |json| json.len());
    let mut told = Cow::Borrowed(facts);
    while bytes(&told) > CONTENT_BYTES_MAX {
        let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
        for (key, value) in &told.values {
            *sizes.entry(domain_of(key)).or_default() += key.len() + value.len();
        }
        let is_asked = |name: &str| matches!(told.domains.get(name), Some(Domain::Asked { .. }));
        let largest = sizes.into_iter().max_by_key(|(name, bytes)| (is_asked(name), *bytes));
        let Some(largest) = largest.map(|(name, _)| name.to_owned()) else { break };
        warn!(domain = largest, "there are more facts than a report has room for: left these out");
        let told = told.to_mut();
        told.values.retain(|key, _| domain_of(key) != largest);
        let source = told.domains.get(&largest).map_or_else(String::new, |domain| domain.source().to_owned());
        let reason = "there is more of it than a report has room for".to_owned();
        told.domains.insert(largest, Domain::Failed { source, reason });
    }
    told
}

/// States in portions of which each has room in a report, in their order.
#[must_use]
pub fn portions(entries: Vec<StateEntry>) -> Vec<Vec<StateEntry>> {
    let (mut portions, mut bytes): (Vec<Vec<StateEntry>>, usize) = (Vec::new(), 0);
    for entry in entries {
        let more = serde_json::to_vec(&entry).map_or(0, |json| json.len() + 1);
        match portions.last_mut() {
            Some(last) if last.len() < ENTRIES_PER_REPORT && bytes + more <= CONTENT_BYTES_MAX => {
                last.push(entry);
                bytes += more;
            }
            _ => {
                portions.push(vec![entry]);
                bytes = more;
            }
        }
    }
    portions
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use tierway_common::schema::{DETAIL_BYTES_MAX, Progress, State};

    use super::*;

    fn open(dir: &Path) -> Spool {
        Spool::open(dir, "default".parse().unwrap(), "e1".parse().unwrap()).unwrap()
    }

    fn facts(version: &str) -> Facts {
        Facts { values: [("os:version".to_owned(), version.to_owned())].into(), ..Facts::default() }
    }

    /// Puts an inventory on its way and returns what goes up then.
    fn inventory(spool: &mut Spool, key: &SigningKey, version: &str) -> Vec<Report> {
        spool.inventory(&facts(version), key, Timestamp::UNIX_EPOCH).unwrap();
        let open = |(_, _, path): (Stream, u64, PathBuf)| {
            Envelope::parse(&fs::read(path).unwrap()).unwrap().verify(&key.public()).unwrap()
        };
        spool.files().unwrap().into_iter().map(open).collect()
    }

    /// As [`Spool::send`] does when all that waits is accepted.
    fn accepted(spool: &mut Spool) {
        for (_, sequence, path) in spool.files().unwrap() {
            spool.accepted(sequence).unwrap();
            fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn of_inventories_the_change_since_the_accepted_one_goes_up_also_after_a_restart() {
        let key = SigningKey::generate(&SystemRandom::new()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut spool = open(dir.path());
        assert!(matches!(inventory(&mut spool, &key, "1")[..], [Report::Inventory { .. }]));
        accepted(&mut spool);
        assert_eq!(inventory(&mut spool, &key, "1").len(), 0);
        let mut spool = open(dir.path());
        assert_eq!(inventory(&mut spool, &key, "1").len(), 0);
        let base = facts("1").digest();
        for version in ["2", "3"] {
            let found = inventory(&mut spool, &key, version);
            let [Report::InventoryDelta { base: of, digest, .. }] = &found[..] else { panic!("{found:?}") };
            assert_eq!((*of, *digest), (base, facts(version).digest()));
            spool = open(dir.path());
        }
        accepted(&mut spool);
        assert_eq!(spool.acknowledged(), Some(facts("3").digest()));
    }

    #[test]
    fn of_more_facts_than_a_report_has_room_for_the_answers_to_rules_are_left_out_and_said_to_be() {
        let key = SigningKey::generate(&SystemRandom::new()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut spool = open(dir.path());
        let asked = |name: &str| (name.to_owned(), Domain::Asked { source: format!("the source of {name}") });
        let fact = |name: &str, bytes| (name.to_owned(), "\"".repeat(bytes));
        let facts = Facts {
            domains: [
                asked("wmi"),
                asked("registry"),
                ("package:deb".to_owned(), Domain::Complete { source: "dpkg".to_owned() }),
            ]
            .into(),
            values: [fact("wmi:a", 300_000), fact("registry:a", 10), fact("package:deb:a:all", 400_000)]
                .into(),
        };
        let inventories =
            [facts.clone(), Facts { values: [fact("registry:a", 20)].into(), ..facts.clone() }, facts];
        for (facts, keys) in inventories.iter().zip([2, 1, 2]) {
            spool.inventory(facts, &key, Timestamp::UNIX_EPOCH).unwrap();
            let told = offered_facts(dir.path()).unwrap().unwrap().1;
            assert_eq!(told.values.len(), keys, "{:?}", told.domains);
            let left_out = matches!(&told.domains["wmi"], Domain::Failed { source, .. } if source == "the source of wmi");
            assert_eq!((left_out, told.domains["registry"] == facts.domains["registry"]), (keys == 2, true));
            accepted(&mut spool);
            assert_eq!(spool.acknowledged(), Some(told.digest()));
        }
    }

    #[test]
    fn however_much_states_say_each_portion_of_them_has_room_in_a_report_and_none_is_lost() {
        let key = SigningKey::generate(&SystemRandom::new()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut spool = open(dir.path());
        let entry = |number: usize, detail: &str| StateEntry {
            update: format!("debian-12/u_{number}").parse().unwrap(),
            state: State::Unknown,
            at: Timestamp::UNIX_EPOCH,
            detected: None,
            applied: None,
            detail: (!detail.is_empty()).then(|| detail.to_owned()),
            progress: Progress::default(),
        };
        for (count, detail, least) in [
            (0, String::new(), 0),
            (2 * ENTRIES_PER_REPORT, String::new(), 2),
            (2 * ENTRIES_PER_REPORT, "\u{1}".repeat(DETAIL_BYTES_MAX), 10),
        ] {
            let entries: Vec<StateEntry> = (0..count).map(|number| entry(number, &detail)).collect();
            let portions = portions(entries.clone());
            assert!(portions.len() >= least, "{}", portions.len());
            assert_eq!(portions.concat(), entries);
            for entries in portions {
                let report = Report::States { snapshot: false, entries };
                spool.states(&report, || report.clone(), &key, Timestamp::UNIX_EPOCH).unwrap();
            }
        }
    }

    #[test]
    fn an_inventory_whose_facts_a_crash_kept_from_being_written_down_is_followed_by_a_whole_one() {
        let key = SigningKey::generate(&SystemRandom::new()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut spool = open(dir.path());
        inventory(&mut spool, &key, "1");
        accepted(&mut spool);
        let before = fs::read(dir.path().join("offered.json")).unwrap();
        inventory(&mut spool, &key, "2");
        fs::write(dir.path().join("offered.json"), before).unwrap();
        let mut spool = open(dir.path());
        accepted(&mut spool);
        // Central holds the second now; silence would leave it there.
        let found = inventory(&mut spool, &key, "1");
        assert!(matches!(&found[..], [Report::Inventory { .. }]), "{found:?}");
    }

    #[test]
    fn facts_that_are_damaged_while_it_runs_are_followed_by_a_whole_inventory() {
        let key = SigningKey::generate(&SystemRandom::new()).unwrap();
        for content in ["not JSON", "{}"] {
            let dir = tempfile::tempdir().unwrap();
            let mut spool = open(dir.path());
            inventory(&mut spool, &key, "1");
            accepted(&mut spool);
            fs::write(dir.path().join(ACCEPTED), content).unwrap();
            let found = inventory(&mut spool, &key, "2");
            assert!(matches!(&found[..], [Report::Inventory { .. }]), "{found:?}");
            fs::write(dir.path().join(OFFERED), content).unwrap();
            accepted(&mut spool);
            let found = inventory(&mut spool, &key, "3");
            assert!(matches!(&found[..], [Report::Inventory { .. }]), "{found:?}");
        }
    }
}
