//! A computer with people, windows, failures and a clock that jumps, driven by random events: what the planner, the
//! countdowns, the reboot decision and the phase table promise holds after every one of them. Each promise broken on
//! purpose is found out.
//!
//! The promises are checked from what happens in the world, not from what the planner says of itself. A failure
//! names the sequence and tells its story.

#![expect(clippy::unwrap_used, reason = "in a test a failure should end it where it is")]

mod mutant;
mod world;

use std::{
    panic::AssertUnwindSafe,
    sync::atomic::{AtomicU64, Ordering},
};

use mutant::{Mutant, Seen};
use world::World;

/// Sequences of the property test, and at most so many until a mutant must be found out.
const SEQUENCES: u64 = 20_000;
/// Events of one.
const EVENTS: usize = 16;

/// Plays one sequence; returns the broken promise, if one was.
fn play(seed: u64, mutant: Option<Mutant>) -> Option<String> {
    let mut world = World::new(seed, mutant);
    let played = std::panic::catch_unwind(AssertUnwindSafe(|| {
        for _ in 0..EVENTS {
            world.event()?;
        }
        Ok::<(), String>(())
    }));
    match played {
        Ok(Ok(())) => None,
        Ok(Err(broken)) => Some(format!("sequence {seed}: {broken}\n{}", world.story())),
        Err(_) => Some(format!("sequence {seed}: it panicked\n{}", world.story())),
    }
}

/// The first sequence of `0..count` that breaks a promise, on all processors.
fn first_broken(count: u64, mutant: Option<Mutant>) -> Option<String> {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= count {
                            return None;
                        }
                        if let Some(broken) = play(seed, mutant) {
                            next.store(count, Ordering::Relaxed);
                            return Some(broken);
                        }
                    }
                })
            })
            .collect();
        workers.into_iter().filter_map(|worker| worker.join().unwrap()).min()
    })
}

#[test]
fn whatever_happens_every_promise_holds() {
    let broken = first_broken(SEQUENCES, None);
    assert!(broken.is_none(), "{}", broken.unwrap_or_default());
}

#[test]
fn each_promise_broken_on_purpose_is_found_out() {
    let missed: Vec<Mutant> =
        Mutant::ALL.into_iter().filter(|mutant| first_broken(SEQUENCES, Some(*mutant)).is_none()).collect();
    assert_eq!(missed, []);
}

#[test]
fn the_world_is_rich_enough_that_everything_happens_in_it() {
    let mut seen = Seen::default();
    for seed in 0..2_000 {
        let mut world = World::new(seed, None);
        for _ in 0..EVENTS {
            world.event().unwrap();
        }
        seen.add(&world);
    }
    println!("{seen:?}");
    assert!(seen.everything_happened(), "{seen:?}");
}
