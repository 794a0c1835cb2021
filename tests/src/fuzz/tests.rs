use std::{collections::BTreeSet, fs, path::Path};

use super::{TARGETS, Target, mutate::mutated, versions};
use crate::{simulation::random::Random, skip::skip};

/// Changed inputs of each target: what all of them together take in a few seconds without optimisation.
const MUTATIONS: u64 = 300;

/// A number that somebody who looks longer, or elsewhere, gives instead.
fn given(name: &str, or: u64) -> u64 {
    std::env::var_os(name).map_or(or, |text| text.to_str().unwrap().parse().unwrap())
}

/// Leaves what was being looked at when a property did not hold.
struct Looking<'a>(&'a Target, &'a [u8]);

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let path = std::env::temp_dir().join(format!("tierway-fuzz-{}", self.0.name));
            let kept = fs::write(&path, self.1);
            println!(
                "`{}` does not hold of {:?}, kept as {path:?}: {kept:?}",
                self.0.name,
                self.1.escape_ascii().to_string()
            );
        }
    }
}

fn accepts(target: &Target, bytes: &[u8]) -> bool {
    let looking = Looking(target, bytes);
    (target.run)(looking.1)
}

#[test]
fn what_is_accepted_of_any_bytes_keeps_to_the_property_of_its_target() {
    let (mutations, seed) = (given("TIERWAY_FUZZ_MUTATIONS", MUTATIONS), given("TIERWAY_FUZZ_SEED", 1));
    let only = std::env::var_os("TIERWAY_FUZZ_TARGET");
    for target in TARGETS.iter().filter(|target| only.as_ref().is_none_or(|only| only == target.name)) {
        let corpus = target.corpus();
        let seeds = (target.seeds)();
        let accepted = seeds.iter().filter(|seed| accepts(target, seed)).count();
        assert!(
            accepted * 2 > seeds.len(),
            "{}: {accepted} of {} seeds are accepted",
            target.name,
            seeds.len()
        );
        let kept = corpus.iter().filter(|bytes| accepts(target, bytes)).count();
        let mut random = Random::new(seed);
        let mut changed = 0;
        for number in 0..mutations {
            // Most that the fuzzer keeps is refused somewhere: every other one begins as a seed, which is not.
            let from = if number.is_multiple_of(2) { &seeds } else { &corpus };
            let (of, other) = (&from[random.index(from.len())], &corpus[random.index(corpus.len())]);
            changed += usize::from(accepts(target, &mutated(target, of, other, &mut random)));
        }
        println!(
            "{:20} {kept:4} of {:4} kept inputs are accepted, {changed:4} of {mutations} changed ones",
            target.name,
            corpus.len()
        );
        // Whoever refuses all that was changed looks at nothing.
        assert!(changed > 0, "{}: no changed input is accepted", target.name);
    }
}

#[test]
fn versions_are_held_against_the_programs_that_define_them() {
    let (deb, rpm) = versions::asked();
    if !deb {
        skip(
            "Debian's order of versions against dpkg's library",
            "perl or Dpkg::Version is not here (dpkg-dev)",
        );
    }
    // rpm is on few machines with Debian.
    println!("dpkg's library is asked: {deb}; rpm's: {rpm}");
}

#[test]
fn every_target_is_a_program_of_the_fuzzer_and_keeps_only_small_inputs() {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let found: BTreeSet<String> = fs::read_dir(programs)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            assert!(
                fs::read_to_string(&path).unwrap().contains(&format!("run(\"{name}\"")),
                "{name} runs another"
            );
            name
        })
        .collect();
    let named: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(found, named);
    for target in TARGETS {
        let corpus = target.corpus();
        assert!(
            corpus.iter().all(|bytes| bytes.len() <= super::INPUT_BYTES_MAX),
            "{} keeps a large input",
            target.name
        );
    }
}
