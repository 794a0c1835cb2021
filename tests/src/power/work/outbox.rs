//! The outbox of a relay: reports that are taken, and deleted once the tier above has them.

use std::{path::Path, sync::Arc};

use jiff::Timestamp;
use tierway_common::{
    facts::Facts,
    schema::Report,
    store::{Store, memory::MemoryStore, sled_store::SledStore},
    trust::{
        envelope::{Envelope, Header, Stream},
        keys::SigningKey,
    },
};
use tierway_relay::outbox::{Carrier, Outbox};

use super::{Random, Work, bytes, wrong};

const ENDPOINTS: u64 = 4;
const BYTES_MAX: u64 = 64 << 20;

enum Step {
    Take(Vec<Envelope>),
    /// What goes up next, up to so many bytes.
    Settle(usize),
    Reopen,
}

pub(super) struct Steps(Vec<Step>);

impl Steps {
    pub(super) fn new(random: &mut Random, steps: usize, key: &SigningKey) -> Self {
        let mut sequence = 0;
        let mut envelope = |random: &mut Random| {
            sequence += 1;
            let states = random.percent(60);
            let count = if random.percent(10) { 900 } else { 10 };
            let values = (0..count).map(|n| (format!("file:{n}"), hex::encode(bytes(random, 64)))).collect();
            let report = if states {
                Report::States { snapshot: false, entries: Vec::new() }
            } else {
                Report::Inventory { at: Timestamp::UNIX_EPOCH, facts: Facts { values, ..Facts::default() } }
            };
            let header = Header {
                tenant: "default".parse().unwrap(),
                endpoint: format!("e{}", random.below(ENDPOINTS)).parse().unwrap(),
                stream: Stream::of(&report),
                sequence,
                replaces_earlier: !states && random.percent(50),
                created: Timestamp::UNIX_EPOCH,
            };
            Envelope::seal(key, header, &report).unwrap()
        };
        let mut step = || match random.below(40) {
            0..=9 => Step::Settle(1 << random.below(18)),
            10 => Step::Reopen,
            _ => Step::Take((0..=random.below(4)).map(|_| envelope(random)).collect()),
        };
        Self((0..steps).map(|_| step()).collect())
    }
}

fn open(folder: &Path) -> Result<Outbox, String> {
    let store = wrong(SledStore::open(&folder.join("data/outbox")), "opening its store")?;
    wrong(Outbox::open(Arc::new(store), BYTES_MAX), "opening it")
}

fn play(outbox: &Outbox, step: &Step) -> Result<(), String> {
    match step {
        Step::Take(envelopes) => {
            drop(wrong(outbox.take(envelopes, Carrier::Endpoint, Timestamp::UNIX_EPOCH), "taking")?);
        }
        Step::Settle(bytes_max) => {
            wrong(outbox.settle(&wrong(outbox.next(*bytes_max), "reading")?), "settling")?;
        }
        Step::Reopen => {}
    }
    Ok(())
}

/// All that waits, in its order.
fn waiting(outbox: &Outbox) -> Result<Vec<Vec<u8>>, String> {
    let waiting = wrong(outbox.next(usize::MAX), "reading it")?;
    Ok(waiting.into_iter().map(|waiting| waiting.envelope.to_vec()).collect())
}

impl Work for Steps {
    fn run(&self, folder: &Path, tell: &mut dyn FnMut()) {
        let mut outbox = Some(open(folder).unwrap());
        for step in &self.0 {
            if matches!(step, Step::Reopen) {
                drop(outbox.take());
                outbox = Some(open(folder).unwrap());
            }
            play(outbox.as_ref().unwrap(), step).unwrap();
            tell();
        }
    }

    fn reopen(&self, folder: &Path, told: usize) -> Result<(), String> {
        let outbox = open(folder)?;
        match self.0.get(told) {
            Some(step @ Step::Take(_)) => play(&outbox, step),
            _ => Ok(()),
        }
    }

    fn check(&self, folder: &Path, told: usize) -> Result<(), String> {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        // Whose turn it is is forgotten with the process, and goes on by reading.
        let reopened = || Outbox::open(store.clone(), BYTES_MAX).unwrap();
        let mut model = reopened();
        for step in &self.0[..told] {
            if matches!(step, Step::Reopen) {
                model = reopened();
            }
            play(&model, step)?;
        }
        let outbox = open(folder)?;
        let (found, before) = (waiting(&outbox)?, waiting(&reopened())?);
        let fill = outbox.fill();
        if found != before {
            if let Some(step) = self.0.get(told) {
                play(&model, step)?;
            }
            let after = waiting(&reopened())?;
            if found != after {
                let lost = before.iter().filter(|report| !found.contains(report)).count();
                return Err(format!(
                    "after {told} steps {} reports wait, {lost} of {} are lost; after the next {} would",
                    found.len(),
                    before.len(),
                    after.len()
                ));
            }
        }
        let bytes: usize = found.iter().map(Vec::len).sum();
        if fill.bytes == bytes as u64 { Ok(()) } else { Err(format!("{bytes} bytes wait: {fill:?}")) }
    }
}
