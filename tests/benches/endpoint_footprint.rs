//! The endpoint's program as a process: memory at rest and at work, CPU of a start and of a check, its size.
//!
//! The tier above is a relay's own door with a catalogue of 50,000 updates, of which a tenth is about packages
//! that the endpoint's root has. Memory is what the kernel counts as resident, the program's own pages
//! included; a peak is that of one step alone. It has the environment that its systemd unit gives it. `-- PROGRAM`
//! measures another program than the one of this build, such as `target/dist-endpoint/tierway-endpoint`.
//!
//! `--windows FILE.exe`, or else what `TIERWAY_TEST_WINDOWS` names, is measured beside it: under Wine, by the same steps, at the
//! same door, where as many updates for Windows are published too. What Wine itself takes is seen by a program that does nothing.

#![expect(clippy::expect_used, reason = "a benchmark stops at the first thing that is wrong")]

#[path = "endpoint_footprint/linux.rs"]
mod linux;
#[path = "endpoint_footprint/steps.rs"]
mod steps;
#[path = "endpoint_footprint/windows.rs"]
mod windows;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use tierway_tests::{
    bench::{
        publisher::Publisher,
        site::Site,
        table::Table,
        updates::{self, UPDATES},
    },
    programs, wine,
};

use self::{linux::Linux, steps::Taken, windows::Windows};

/// Under `cargo test`, which has no `--bench`: enough to see that it works.
const UPDATES_SMALL: usize = 300;
/// Starts with everything there; the medians are printed.
const STARTS: usize = 5;
/// Checks that find nothing new.
const CHECKS: u32 = 20;

/// The aims.
const IDLE_KIB_MAX: u64 = 12 * 1024;
const PEAK_KIB_MAX: u64 = 30 * 1024;

/// How much is done.
#[derive(Clone, Copy)]
struct Amount {
    updates: usize,
    starts: usize,
    checks: u32,
    full: bool,
}

fn main() {
    let (mut program, mut of_windows, mut full) = (None, None, false);
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bench" => full = true,
            "--windows" => of_windows = Some(PathBuf::from(arguments.next().expect("--windows FILE.exe"))),
            // What `cargo test` is told for other tests.
            flag if flag.starts_with('-') => {}
            _ if program.is_none() => program = Some(PathBuf::from(argument)),
            other => panic!("unexpected argument `{other}`"),
        }
    }
    let program = program.unwrap_or_else(|| programs::path("tierway-endpoint"));
    // Half a minute under Wine that `cargo test` does not spend unasked.
    let named = || full.then(|| wine::program("the footprint of the endpoint for Windows")).flatten();
    let of_windows = of_windows.or_else(named);
    let amount = if full {
        Amount { updates: UPDATES, starts: STARTS, checks: CHECKS, full }
    } else {
        Amount { updates: UPDATES_SMALL, starts: 1, checks: 2, full }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(measure(&program, of_windows.as_deref(), amount));
}

async fn measure(program: &Path, of_windows: Option<&Path>, amount: Amount) {
    let dir = tempfile::tempdir().expect("a folder");
    let site = Site::new();
    let mut publisher = Publisher::start(&site, &dir.path().join("publisher")).await;
    publisher.publish_first(&site, amount.updates);

    let linux = Linux::new(program, &dir.path().join("endpoint"), &site, publisher.address);
    let changed = updates::document(amount.updates / 2, 1);
    let change = || publisher.publish_changes(&site, [changed].into_iter());
    let on_linux = steps::take(&linux, amount, change).await;
    println!(
        "endpoint footprint: {} updates, {} installed packages, {} needed, {}",
        amount.updates,
        updates::INSTALLED,
        on_linux.needed,
        program.display(),
    );
    on_linux.table("The endpoint's process; memory in KiB").print();
    let mut filled = Table::new("What is resident then, KiB", &["mapping", "resident"]);
    for (mapping, kib) in &on_linux.filled {
        filled.row([mapping.clone(), kib.to_string()]);
    }
    filled.print();
    size("the program", program);
    if amount.full {
        aims(&on_linux);
    }

    let Some(of_windows) = of_windows else { return };
    publisher.publish_windows(&site, amount.updates);
    let windows = Windows::new(of_windows, &site, publisher.address);
    let empty = windows.empty_program(dir.path());
    let changed = updates::windows::document(amount.updates / 2, 1);
    let change = || publisher.publish_changes_in(&site, updates::windows::CATALOGUE, [changed].into_iter());
    let on_windows = steps::take(&windows, amount, change).await;
    assert_eq!(on_windows.needed, on_linux.needed, "as much is needed on both");
    println!("\nand for Windows under Wine: {}", of_windows.display());
    steps::beside(&on_linux, &on_windows, empty).print();
    size("the program for Windows", of_windows);
    size("its MSI", &wine::msi("endpoint", dir.path(), of_windows, "1.0.0"));
}

fn size(what: &str, file: &Path) {
    let bytes = fs::metadata(file).expect("a file").len();
    println!("  {what}: {bytes} bytes ({:.1} MiB)", bytes as f64 / f64::from(1 << 20));
}

fn aims(taken: &Taken) {
    let (idle, peak) = (taken.idle(), taken.peak());
    let verdict = |holds: bool| if holds { "held" } else { "missed" };
    println!("  aim: at rest at most {IDLE_KIB_MAX} KiB: {idle}: {}", verdict(idle <= IDLE_KIB_MAX));
    println!("  aim: evaluating at most {PEAK_KIB_MAX} KiB: {peak}: {}", verdict(peak <= PEAK_KIB_MAX));
}
