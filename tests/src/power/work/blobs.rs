//! Blobs: alone, many at once, piece by piece over several attempts, pinned and removed.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use bytes::Bytes;
use tierway_common::{
    blobs::{BlobError, BlobOptions, Blobs},
    trust::digest::Digest,
};

use super::{Random, Work, bytes, wrong};

const OWNERS: [&str; 2] = ["tree/debian-12", "published"];
/// Of the payload that comes in pieces.
const PIECE_BYTES: usize = 10_000;

enum Step {
    Put(Vec<Bytes>),
    /// The first so many bytes of a payload, which is whole then or left for later.
    Write {
        payload: Bytes,
        upto: usize,
    },
    Pin {
        owner: &'static str,
        digests: BTreeSet<Digest>,
    },
    Remove(Digest),
    Reopen,
}

pub(super) struct Steps(Vec<Step>);

fn open(folder: &Path) -> Result<Blobs, BlobError> {
    Blobs::open(&folder.join("data/blobs"), BlobOptions { quota_bytes: 1 << 30, free_floor_bytes: 0 })
}

fn write(blobs: &Blobs, payload: &Bytes, upto: usize) -> Result<(), BlobError> {
    let mut writer = blobs.writer(&Digest::of(payload), Some(payload.len() as u64))?;
    while let from @ 0.. = usize::try_from(writer.offset()).unwrap()
        && from < upto
    {
        writer.write(&payload[from..(from + PIECE_BYTES).min(upto)])?;
    }
    if upto == payload.len() { writer.finish() } else { Ok(()) }
}

impl Steps {
    pub(super) fn new(random: &mut Random, steps: usize) -> Self {
        let mut there = Vec::new();
        let mut begun: Option<Bytes> = None;
        let mut step = || {
            let some = |random: &mut Random, count: usize, bytes_max: usize| -> Vec<Bytes> {
                let new = (0..count).map(|_| {
                    let length = 1 + random.index(bytes_max);
                    Bytes::from(bytes(random, length))
                });
                new.collect()
            };
            match random.below(10) {
                0..=2 => {
                    let count = 1 + random.index(3);
                    let new = some(random, count, 9_000);
                    there.extend(new.iter().map(|bytes| Digest::of(bytes)));
                    Step::Put(new)
                }
                // Enough that all of the file system is synced.
                3 => {
                    let new = some(random, 20, 3_000);
                    there.extend(new.iter().map(|bytes| Digest::of(bytes)));
                    Step::Put(new)
                }
                4..=6 => match begun.take() {
                    Some(payload) => {
                        there.push(Digest::of(&payload));
                        Step::Write { upto: payload.len(), payload }
                    }
                    None => {
                        let payload = some(random, 1, 60_000).remove(0);
                        let whole = random.percent(50);
                        let upto = if whole { payload.len() } else { payload.len() / 2 };
                        if whole {
                            there.push(Digest::of(&payload));
                        } else {
                            begun = Some(payload.clone());
                        }
                        Step::Write { payload, upto }
                    }
                },
                7 => {
                    let owner = OWNERS[random.index(OWNERS.len())];
                    let digests = there.iter().filter(|_| random.percent(40)).copied().collect();
                    Step::Pin { owner, digests }
                }
                8 if !there.is_empty() => Step::Remove(there.swap_remove(random.index(there.len()))),
                _ => Step::Reopen,
            }
        };
        Self((0..steps).map(|_| step()).collect())
    }
}

impl Work for Steps {
    fn run(&self, folder: &Path, tell: &mut dyn FnMut()) {
        let mut blobs = Some(open(folder).unwrap());
        for step in &self.0 {
            let here = blobs.as_ref().unwrap();
            match step {
                Step::Put(new) => drop(here.put_many(new).unwrap()),
                Step::Write { payload, upto } => write(here, payload, *upto).unwrap(),
                Step::Pin { owner, digests } => here.pin(owner, digests).unwrap(),
                Step::Remove(digest) => here.remove(digest).unwrap(),
                Step::Reopen => {
                    drop(blobs.take());
                    blobs = Some(open(folder).unwrap());
                }
            }
            tell();
        }
    }

    fn reopen(&self, folder: &Path, _told: usize) -> Result<(), String> {
        wrong(open(folder), "opening them").map(drop)
    }

    fn check(&self, folder: &Path, told: usize) -> Result<(), String> {
        // By digest: the content, and whether it must be there.
        let mut known: BTreeMap<Digest, (&Bytes, bool)> = BTreeMap::new();
        let mut pins: BTreeMap<&str, Vec<&BTreeSet<Digest>>> = BTreeMap::new();
        let mut begun = None;
        for (place, step) in self.0[..(told + 1).min(self.0.len())].iter().enumerate() {
            let done = place < told;
            match step {
                Step::Put(new) => {
                    known.extend(new.iter().map(|bytes| (Digest::of(bytes), (bytes, done))));
                }
                Step::Write { payload, upto } => {
                    let whole = *upto == payload.len();
                    begun = (!whole || !done).then_some(payload);
                    if whole {
                        known.insert(Digest::of(payload), (payload, done));
                    }
                }
                Step::Pin { owner, digests } => {
                    let pins = pins.entry(owner).or_default();
                    if done {
                        pins.clear();
                    }
                    pins.push(digests);
                }
                Step::Remove(digest) => known.get_mut(digest).unwrap().1 = false,
                Step::Reopen => {}
            }
        }
        let blobs = wrong(open(folder), "opening them")?;
        for (digest, (content, must)) in &known {
            let here = blobs.contains(digest);
            if *must && !here {
                return Err(format!("blob `{digest}` is gone"));
            }
            if here && wrong(blobs.get(digest, u64::MAX), "reading a blob")? != *content {
                return Err(format!("blob `{digest}` is another"));
            }
        }
        let (there, usage) = (known.keys().filter(|digest| blobs.contains(digest)).count(), blobs.usage());
        if usage.corrupt > 0 || usage.count != there as u64 {
            return Err(format!("of {there} blobs there are {usage:?}"));
        }
        for owner in OWNERS {
            let found = blobs.pins(owner);
            let maybe = pins.get(owner).map_or(&[][..], Vec::as_slice);
            let none = maybe.first().is_none_or(|first| self.is_going_on(told, first));
            let is_one = maybe.iter().any(|pins| **pins == *found) || (none && found.is_empty());
            if !is_one {
                return Err(format!("`{owner}` pins {} blobs", found.len()));
            }
        }
        // What is left of a payload is worth nothing or goes on.
        if let Some(payload) = begun
            && let Err(error) = write(&blobs, payload, payload.len())
        {
            if !matches!(error, BlobError::Mismatch { .. }) {
                return Err(format!("going on with a payload: {error:?}"));
            }
            wrong(write(&blobs, payload, payload.len()), "beginning a payload anew")?;
        }
        Ok(())
    }
}

impl Steps {
    fn is_going_on(&self, told: usize, pins: &BTreeSet<Digest>) -> bool {
        matches!(self.0.get(told), Some(Step::Pin { digests, .. }) if std::ptr::eq(digests, pins))
    }
}
