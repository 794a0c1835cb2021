//! The ledger of an endpoint: attempts, scans, and a journal long enough to be folded.

use std::path::Path;

use jiff::Timestamp;
use tierway_common::schema::{DETAIL_BYTES_MAX, State};
use tierway_endpoint::{
    install::codes::Outcome,
    ledger::{Book, Event, Ledger},
};

use super::{Random, Work, wrong};

/// Updates that there are.
const UPDATES: u64 = 400;
/// States that a scan after an import finds at once: more than the journal holds before it is folded.
const SCANNED: usize = 2_200;

pub(super) struct Steps(Vec<Vec<Event>>);

impl Steps {
    pub(super) fn new(random: &mut Random, steps: usize) -> Self {
        let mut minute = 0;
        let mut step = |place: usize| {
            minute += 1;
            let at = Timestamp::from_second(1_800_000_000 + minute * 60).unwrap();
            let observed = |random: &mut Random, bytes: usize| {
                let update = format!("debian-12/p{}", random.below(UPDATES)).parse().unwrap();
                let state = if random.percent(50) { State::Needed } else { State::Unknown };
                Event::Observed { update, at, state, detail: Some("x".repeat(bytes)) }
            };
            let update = format!("debian-12/p{}", random.below(UPDATES)).parse().unwrap();
            match random.below(4) {
                _ if place % 16 == 5 => (0..SCANNED).map(|_| observed(random, DETAIL_BYTES_MAX)).collect(),
                0 => vec![Event::Began { update, at }],
                1 => {
                    let (outcome, detail) = (Outcome::Failed(1), Some("said".to_owned()));
                    vec![Event::Ended { update, at, outcome, detail, took_seconds: Some(3) }]
                }
                2 => vec![observed(random, 20)],
                _ => (0..random.below(60)).map(|_| observed(random, 100)).collect(),
            }
        };
        Self((0..steps).map(&mut step).collect())
    }
}

impl Work for Steps {
    fn run(&self, folder: &Path, tell: &mut dyn FnMut()) {
        let (mut ledger, _) = Ledger::open(&folder.join("state/ledger")).unwrap();
        for events in &self.0 {
            ledger.record(events.clone()).unwrap();
            tell();
        }
    }

    fn reopen(&self, folder: &Path, _told: usize) -> Result<(), String> {
        wrong(Ledger::open(&folder.join("state/ledger")), "opening it").map(drop)
    }

    fn check(&self, folder: &Path, told: usize) -> Result<(), String> {
        let folder = folder.join("state/ledger");
        let (mut ledger, problems) = wrong(Ledger::open(&folder), "opening it")?;
        if !problems.is_empty() {
            return Err(format!("nothing was damaged: {problems:?}"));
        }
        let mut book = Book::default();
        for event in self.0[..told].iter().flatten() {
            book.apply(event.clone());
        }
        let open = |book: &Book| (book.records().count(), book.open().count(), book.history().count());
        if book != *ledger.book() {
            let before = open(&book);
            for event in self.0.get(told).into_iter().flatten() {
                book.apply(event.clone());
            }
            if book != *ledger.book() {
                let (found, after) = (open(ledger.book()), open(&book));
                return Err(format!(
                    "after {told} steps records, open, ended are {found:?}, not {before:?}, not {after:?} either"
                ));
            }
        }
        let update = "debian-12/after".parse().unwrap();
        wrong(ledger.begin(&update, Timestamp::UNIX_EPOCH), "going on")?;
        drop(ledger);
        let (ledger, problems) = wrong(Ledger::open(&folder), "opening it again")?;
        let kept = problems.is_empty() && ledger.book().open().any(|open| *open == update);
        if kept { Ok(()) } else { Err(format!("what was recorded after the cut is gone: {problems:?}")) }
    }
}
