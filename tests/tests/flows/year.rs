//! More than a year passes, and what is kept stays as large as it is.
//!
//! `TIERWAY_YEAR_STEP` is how many days pass between two looks: 1 is the whole year, day by day.

use tierway_central::{audit, publish::log::PUBLICATIONS_MAX};
use tierway_common::store::sled_store::UNUSED_BYTES;
use tierway_endpoint::ledger::{HISTORY_MAX, journal::JOURNAL_BYTES_MAX};
use tierway_tests::year::{self, Options, PAYLOAD_QUOTAS};

/// Until everything has been forgotten once, and five months more.
const DAYS: i64 = year::SETTLED_DAYS + 150;

/// The rows of a store fill two segments of 8 MiB at most. Its log may have twice these and what is unused; besides it, for a
/// moment, a copy.
const STORE_BYTES_MAX: u64 = 3 * (16 << 20) + UNUSED_BYTES;

/// What grows until a limit of its own that a year does not reach, and the most that it may have: a record of the log of
/// decisions has less than 2,000 bytes here, a publication less than 100; a journal is folded when it is long, and then lies
/// beside its snapshot for a moment; the trees of the last 128 publications that changed something stay, and 64 versions of
/// the metadata.
const LIMITED: [(&str, u64); 9] = [
    ("central audit, records", audit::RECORDS_MAX),
    ("central store, file", STORE_BYTES_MAX),
    ("relay store, file", STORE_BYTES_MAX),
    ("central store: audit", audit::RECORDS_MAX * 2_000),
    ("central store: publication", PUBLICATIONS_MAX as u64 * 100),
    ("central store: metadata", 300_000),
    ("central trees, pinned", 8 << 20),
    ("endpoint ledger", 2 * JOURNAL_BYTES_MAX),
    ("endpoint attempts, number", HISTORY_MAX as u64),
];

#[tokio::test(flavor = "multi_thread")]
async fn over_a_year_of_patches_nothing_grows_but_what_has_a_limit_of_its_own() {
    let step = std::env::var_os("TIERWAY_YEAR_STEP");
    let step = step.map_or(15, |step| step.to_str().unwrap().parse().unwrap());
    let outcome = year::run(Options { seed: 1, days: DAYS, step }).await;
    println!("{outcome}");
    assert!(outcome.installed > 100 && outcome.changes > 400);
    let last = &outcome.samples.last().unwrap().of;
    for (what, limit) in LIMITED {
        assert!(last[what] <= limit, "{what}: {} of {limit}", last[what]);
    }
    let per_record = last["central store: audit"] / last["central audit, records"];
    assert!(per_record < 2_000, "{per_record} bytes of a record");
    let mut grown = outcome.grown(10);
    grown.retain(|what| !LIMITED.iter().any(|(limited, _)| what.starts_with(limited)));
    assert_eq!(grown, Vec::<String>::new());
    for (who, quota) in ["central", "relay", "endpoint"].into_iter().zip(PAYLOAD_QUOTAS) {
        let kept = last[&format!("{who} payloads")];
        assert!(kept > quota / 2 && kept <= quota, "{who} keeps {kept} of {quota}");
    }
}
