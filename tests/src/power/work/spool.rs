//! The reports of an endpoint: transitions by number, and the newest inventory.

use std::{collections::BTreeMap, fs, path::Path};

use jiff::Timestamp;
use tierway_common::{
    facts::Facts,
    schema::Report,
    trust::{
        envelope::{Envelope, Stream},
        keys::SigningKey,
    },
};
use tierway_endpoint::report::Spool;

use super::{Random, Work, bytes, wrong};

enum Step {
    States,
    Inventory(Facts),
    /// Central asks for everything again.
    Resync,
    /// The program is started again.
    Reopen,
}

pub(super) struct Steps {
    steps: Vec<Step>,
    key: SigningKey,
}

impl Steps {
    pub(super) fn new(random: &mut Random, steps: usize, key: SigningKey) -> Self {
        let mut step = || match random.below(8) {
            0 | 1 => {
                let values = (0..random.below(80))
                    .map(|n| (format!("package:deb:p{n}"), hex::encode(bytes(random, 40))))
                    .collect();
                Step::Inventory(Facts { values, ..Facts::default() })
            }
            2 => Step::Resync,
            3 => Step::Reopen,
            _ => Step::States,
        };
        Self { steps: (0..steps).map(|_| step()).collect(), key }
    }

    fn open(folder: &Path) -> Result<Spool, String> {
        let spool =
            Spool::open(&folder.join("state/spool"), "default".parse().unwrap(), "e1".parse().unwrap());
        wrong(spool, "opening it")
    }

    fn put(spool: &mut Spool, key: &SigningKey) -> Result<(), String> {
        let report = Report::States { snapshot: false, entries: Vec::new() };
        wrong(spool.states(&report, || report.clone(), key, Timestamp::UNIX_EPOCH), "going on")
    }
}

impl Work for Steps {
    fn run(&self, folder: &Path, tell: &mut dyn FnMut()) {
        let mut spool = Self::open(folder).unwrap();
        for step in &self.steps {
            match step {
                Step::States => Self::put(&mut spool, &self.key).unwrap(),
                Step::Inventory(facts) => spool.inventory(facts, &self.key, Timestamp::UNIX_EPOCH).unwrap(),
                Step::Resync => spool.resync().unwrap(),
                Step::Reopen => spool = Self::open(folder).unwrap(),
            }
            tell();
        }
    }

    fn reopen(&self, folder: &Path, _told: usize) -> Result<(), String> {
        Self::open(folder).map(drop)
    }

    fn check(&self, folder: &Path, told: usize) -> Result<(), String> {
        let states = |steps: &[Step]| steps.iter().filter(|step| matches!(step, Step::States)).count() as u64;
        let (least, most) =
            (states(&self.steps[..told]), states(&self.steps[..(told + 1).min(self.steps.len())]));
        let mut spool = Self::open(folder)?;
        let waiting = || -> Result<BTreeMap<(Stream, u64), Report>, String> {
            let mut waiting = BTreeMap::new();
            for entry in fs::read_dir(folder.join("state/spool")).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|extension| extension == "report") {
                    let envelope = wrong(Envelope::parse(&fs::read(&path).unwrap()), "a report")?;
                    let report = wrong(envelope.verify(&self.key.public()), "a report")?;
                    waiting.insert((envelope.header().stream, envelope.header().sequence), report);
                }
            }
            Ok(waiting)
        };
        let before = waiting()?;
        let numbers: Vec<_> = before.keys().filter(|key| key.0 == Stream::States).map(|key| key.1).collect();
        let whole: Vec<_> = (1..=numbers.len() as u64).collect();
        if numbers != whole || !(least..=most).contains(&(numbers.len() as u64)) {
            return Err(format!("of transitions 1 to {least} there are {numbers:?}"));
        }
        let inventories = self.steps[..told].iter().any(|step| matches!(step, Step::Inventory(_)));
        let newest = before.keys().rfind(|key| key.0 == Stream::Inventory);
        if inventories && newest.is_none() {
            return Err("no inventory waits".to_owned());
        }
        // A number that was used once is not used again.
        Self::put(&mut spool, &self.key)?;
        let after = waiting()?;
        let new: Vec<_> = after.keys().filter(|key| !before.contains_key(key)).collect();
        match new[..] {
            [(Stream::States, number)] if *number > numbers.len() as u64 => Ok(()),
            _ => Err(format!("the next number is {new:?} after {numbers:?}")),
        }
    }
}
