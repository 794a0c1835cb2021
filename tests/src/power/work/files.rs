//! Small files that are replaced as a whole, in a folder that is made for them.

use std::{collections::BTreeMap, path::Path};

use tierway_common::{
    files,
    trust::durable::{self, Readable},
};

use super::{Random, Work, bytes, wrong};

const NAMES: [&str; 3] = ["identity.pem", "head.json", "targets.json"];
const BYTES_MAX: u64 = 16_000;

/// The name, and its content from then on.
type Step = (&'static str, Option<Vec<u8>>);

pub(super) struct Steps(Vec<Step>);

impl Steps {
    pub(super) fn new(random: &mut Random, steps: usize) -> Self {
        let mut step = || {
            let name = NAMES[random.index(NAMES.len())];
            let count = random.index(usize::try_from(BYTES_MAX).unwrap());
            (name, random.percent(90).then(|| bytes(random, count)))
        };
        Self((0..steps).map(|_| step()).collect())
    }
}

fn play(folder: &Path, (name, content): &Step) -> Result<(), String> {
    let folder = folder.join("trust/default");
    wrong(files::create_folders(&folder), "making the folder")?;
    let path = folder.join(name);
    let done = match content {
        Some(bytes) => durable::write(&path, bytes, Readable::ByOwner),
        None => durable::remove(&path),
    };
    wrong(done, name)
}

impl Work for Steps {
    fn run(&self, folder: &Path, tell: &mut dyn FnMut()) {
        for step in &self.0 {
            play(folder, step).unwrap();
            tell();
        }
    }

    fn reopen(&self, folder: &Path, told: usize) -> Result<(), String> {
        self.0.get(told).map_or(Ok(()), |step| play(folder, step))
    }

    fn check(&self, folder: &Path, told: usize) -> Result<(), String> {
        let (done, going_on) = (&self.0[..told], self.0.get(told));
        let done: BTreeMap<_, _> = done.iter().map(|(name, content)| (*name, content)).collect();
        for name in NAMES {
            let found = durable::read(&folder.join("trust/default").join(name), BYTES_MAX);
            let found = wrong(found, name)?;
            let before = done.get(name).copied().cloned().flatten();
            let maybe = going_on.filter(|(going_on, _)| *going_on == name);
            if found != before && maybe.is_none_or(|(_, after)| *after != found) {
                let bytes = |content: Option<Vec<u8>>| content.map(|content| content.len());
                return Err(format!(
                    "`{name}` with {:?} bytes is neither the old with {:?} nor the new",
                    bytes(found),
                    bytes(before)
                ));
            }
        }
        Ok(())
    }
}
