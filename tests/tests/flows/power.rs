//! The power is cut at any moment: what was said to be done is there, and nothing half.
//!
//! `TIERWAY_POWER_SEED`, `_STEPS`, `_IMAGES`, `_REOPENED` and `_WRITER` make it another run, a longer one, or one of one writer.

use tierway_tests::power::{
    self, Found, Run,
    disk::{Law, Sabotage},
    work::Writer,
};

fn given(name: &str) -> Option<String> {
    std::env::var_os(format!("TIERWAY_POWER_{name}"))?.into_string().ok()
}

fn number(name: &str, otherwise: usize) -> usize {
    given(name).map_or(otherwise, |text| text.parse().unwrap())
}

fn run(writer: Writer) -> Run {
    // A database is opened in some milliseconds, a file in none.
    let (steps, images, reopened) = match writer {
        Writer::Files => (40, 150, 4),
        Writer::Ledger => (50, 60, 4),
        // It writes nothing when it is opened.
        Writer::Spool => (50, 60, 0),
        Writer::Mirror => (25, 40, 2),
        Writer::Blobs => (40, 25, 4),
        // Each start of a database writes a segment of 8 MiB.
        Writer::Store | Writer::Outbox => (40, 8, 3),
    };
    Run {
        writer,
        seed: number("SEED", 1) as u64,
        steps: number("STEPS", steps),
        images: number("IMAGES", images),
        reopened: number("REOPENED", reopened),
        program: "power::is_the_program_whose_power_is_cut".to_owned(),
    }
}

/// What the other tests here start, traced or to be cut.
#[test]
#[ignore = "is started by the tests beside it"]
fn is_the_program_whose_power_is_cut() {
    assert!(power::program() || given("WRITER").is_none());
}

fn check(writer: Writer) {
    if given("WRITER").is_some_and(|given| given != writer.name()) {
        return;
    }
    let Some(recorded) = run(writer).record() else { return };
    for law in [Law::Journal, Law::Folders] {
        let found = recorded.cut(law, None);
        println!("{}, {law:?}: {found}", writer.name());
        if let Found::Violated(what) = found {
            panic!("{what}; see {}", recorded.keep().display());
        }
    }
}

#[test]
fn files_are_the_old_or_the_new_after_a_power_cut() {
    check(Writer::Files);
}

#[test]
fn the_ledger_knows_every_attempt_after_a_power_cut() {
    check(Writer::Ledger);
}

#[test]
fn no_report_of_an_endpoint_is_lost_or_numbered_twice_by_a_power_cut() {
    check(Writer::Spool);
}

#[test]
fn no_blob_is_lost_or_half_after_a_power_cut() {
    check(Writer::Blobs);
}

#[test]
fn a_relay_has_all_that_it_serves_after_a_power_cut() {
    check(Writer::Mirror);
}

#[test]
fn the_store_has_every_batch_wholly_or_not_at_all_after_a_power_cut() {
    check(Writer::Store);
}

#[test]
fn the_outbox_loses_and_doubles_no_report_by_a_power_cut() {
    check(Writer::Outbox);
}

#[test]
fn what_is_not_synced_is_found_missing() {
    for (writer, law, sabotage) in [
        (Writer::Files, Law::Journal, Sabotage::RenamedBeforeSynced),
        (Writer::Files, Law::Folders, Sabotage::FoldersNotSynced),
        (Writer::Ledger, Law::Journal, Sabotage::FilesNotSynced),
        (Writer::Spool, Law::Journal, Sabotage::RenamedBeforeSynced),
        (Writer::Spool, Law::Folders, Sabotage::FoldersNotSynced),
        (Writer::Blobs, Law::Journal, Sabotage::RenamedBeforeSynced),
        (Writer::Store, Law::Journal, Sabotage::FilesNotSynced),
    ] {
        // It ends at the first that does not hold.
        let Some(recorded) = Run { images: 1_000, ..run(writer) }.record() else { return };
        match recorded.cut(law, Some(sabotage)) {
            Found::Violated(what) => println!("{sabotage:?} is found: {what}"),
            held @ Found::Held { .. } => panic!("{sabotage:?} of {} is not found: {held}", writer.name()),
        }
    }
}
