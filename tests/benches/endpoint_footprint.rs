//! The endpoint's program as a process: memory at rest and at work, CPU of a start and of a check, its size.
//!
//! The tier above is a relay's own door with a catalogue of 50,000 updates, of which a tenth is about packages
//! that the endpoint's root has. Memory is what the kernel counts as resident, the program's own pages
//! included; a peak is that of one step alone. It has the environment that its systemd unit gives it. `-- PROGRAM`
//! measures another program than the one of this build, such as `target/dist-endpoint/tierway-endpoint`.

#![expect(clippy::expect_used, reason = "a benchmark stops at the first thing that is wrong")]

use std::{
    env, fs,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use tierway_common::transport::identity::Role;
use tierway_endpoint::local;
use tierway_proto::v1;
use tierway_tests::{
    bench::{
        place,
        process::Seen,
        publisher::Publisher,
        site::Site,
        table::{Table, median},
        updates::{self, UPDATES},
    },
    programs,
};

/// Under `cargo test`, which has no `--bench`: enough to see that it works.
const UPDATES_SMALL: usize = 300;
/// Starts with everything there; the medians are printed.
const STARTS: usize = 5;
/// Checks that find nothing new.
const CHECKS: u32 = 20;

const UNIT: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/systemd/tierway-endpoint.service"));

/// The aims.
const IDLE_KIB_MAX: u64 = 12 * 1024;
const PEAK_KIB_MAX: u64 = 30 * 1024;

fn main() {
    let (flags, others): (Vec<_>, Vec<_>) =
        env::args().skip(1).partition(|argument| argument.starts_with('-'));
    let full = flags.iter().any(|flag| flag == "--bench");
    let program = match others.as_slice() {
        [] => programs::path("tierway-endpoint"),
        [program] => PathBuf::from(program),
        other => panic!("unexpected arguments {other:?}"),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let (updates, starts, checks) = if full { (UPDATES, STARTS, CHECKS) } else { (UPDATES_SMALL, 1, 2) };
    runtime.block_on(measure(&program, updates, starts, checks, full));
}

/// The endpoint's process; killed with this value.
struct Endpoint<'a> {
    dir: &'a Path,
    child: Child,
}

impl Drop for Endpoint<'_> {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl<'a> Endpoint<'a> {
    fn start(program: &Path, dir: &'a Path) -> Self {
        let log = File::options().create(true).append(true).open(dir.join("log")).expect("a file");
        let child = place::command(program)
            .envs(UNIT.lines().filter_map(|line| line.strip_prefix("Environment=")?.split_once('=')))
            .arg("--config")
            .arg(dir.join("endpoint.toml"))
            .arg("serve")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("it starts");
        Self { dir, child }
    }

    fn seen(&self) -> Seen {
        Seen(self.child.id())
    }

    async fn status(&self) -> Option<v1::LocalStatus> {
        let mut local = local::connect(&self.dir.join("local.sock")).await.ok()?;
        Some(local.status(v1::LocalStatusRequest {}).await.ok()?.into_inner())
    }

    /// Waits until the check has ended with which a start begins.
    async fn checked(&mut self) -> v1::LocalStatus {
        let patience = Instant::now() + Duration::from_secs(600);
        loop {
            if let Some(status) = self.status().await
                && status.last_check > 0
            {
                assert_eq!(status.last_error, "", "the check met a problem");
                return status;
            }
            let ended = self.child.try_wait().expect("a child");
            assert!(
                ended.is_none(),
                "it ended:\n{}",
                fs::read_to_string(self.dir.join("log")).expect("a log")
            );
            assert!(Instant::now() < patience, "no check within ten minutes");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Has it check now.
    async fn check(&self) -> v1::LocalCheckNowResponse {
        let mut local = local::connect(&self.dir.join("local.sock")).await.expect("it answers");
        let done = local.check_now(v1::LocalCheckNowRequest {}).await.expect("checked").into_inner();
        assert_eq!(done.problems, Vec::<String>::new());
        done
    }
}

/// One step: what it used, and what is resident after it.
struct Step {
    cpu: Duration,
    peak: u64,
    resident: u64,
    anonymous: u64,
}

impl Step {
    fn since(before: Duration, seen: Seen) -> Self {
        Self {
            cpu: seen.cpu() - before,
            peak: seen.peak_resident_kib(),
            resident: seen.resident_kib(),
            anonymous: seen.anonymous_kib(),
        }
    }
}

async fn measure(program: &Path, updates: usize, starts: usize, checks: u32, full: bool) {
    let dir = tempfile::tempdir().expect("a folder");
    let site = Site::new();
    let mut publisher = Publisher::start(&site, &dir.path().join("publisher")).await;
    publisher.publish_first(&site, updates);
    let own = dir.path().join("endpoint");
    let _ = site.join(&own, Role::Endpoint, "endpoint", Some(&publisher.address.to_string()));
    let root = own.join("root");
    write_root(&root);
    let config = format!(
        "data_dir = \"{0}\"\nroot = \"{0}/root\"\nlocal_socket = \"{0}/local.sock\"\ndisk_free_bytes_min = 0\n",
        own.display()
    );
    fs::write(own.join("endpoint.toml"), config).expect("written");

    let mut table = Table::new(
        "The endpoint's process; memory in KiB",
        &["step", "CPU ms", "peak resident", "resident after", "of it anonymous"],
    );
    let mut row = |what: &str, steps: &[Step], each: u32| {
        let figure = |of: &dyn Fn(&Step) -> f64| median(&steps.iter().map(of).collect::<Vec<_>>());
        table.row([
            what.to_owned(),
            format!("{:.1}", figure(&|step| step.cpu.as_secs_f64() * 1e3 / f64::from(each))),
            format!("{:.0}", figure(&|step| step.peak as f64)),
            format!("{:.0}", figure(&|step| step.resident as f64)),
            format!("{:.0}", figure(&|step| step.anonymous as f64)),
        ]);
    };

    let mut endpoint = Endpoint::start(program, &own);
    let status = endpoint.checked().await;
    let needed = status.patches.len();
    let first = Step::since(Duration::ZERO, endpoint.seen());
    row("first start: fetch, compile, evaluate", &[first], 1);

    let mut again = Vec::new();
    for _ in 0..starts {
        drop(endpoint);
        endpoint = Endpoint::start(program, &own);
        assert_eq!(endpoint.checked().await.patches.len(), needed, "the same as at first");
        again.push(Step::since(Duration::ZERO, endpoint.seen()));
    }
    row("start with everything there, evaluate", &again, 1);

    let seen = endpoint.seen();
    seen.forget_peak();
    let before = seen.cpu();
    for _ in 0..checks {
        assert_eq!(endpoint.check().await.needed, needed as u64, "still the same");
    }
    let unchanged = Step::since(before, seen);
    row("check that finds nothing new", &[unchanged], checks);

    let number = updates / 2;
    publisher.publish_changes(&site, [updates::document(number, 1)].into_iter());
    seen.forget_peak();
    let before = seen.cpu();
    endpoint.check().await;
    let changed = Step::since(before, seen);
    let idle = changed.resident.max(again.iter().map(|step| step.resident).max().unwrap_or(0));
    let peak = again.iter().chain([&changed]).map(|step| step.peak).max().unwrap_or(0);
    row("check after one update changed", &[changed], 1);
    let mut filled = Table::new("What is resident then, KiB", &["mapping", "resident"]);
    for (mapping, kib) in seen.resident_by_mapping() {
        filled.row([mapping, kib.to_string()]);
    }

    drop(endpoint);
    let mut endpoint = Endpoint::start(program, &own);
    endpoint.checked().await;
    let seen = endpoint.seen();
    row("start after one update changed", &[Step::since(Duration::ZERO, seen)], 1);

    println!(
        "endpoint footprint: {updates} updates, {} installed packages, {needed} needed, {}",
        updates::INSTALLED,
        program.file_name().unwrap_or_default().display(),
    );
    table.print();
    filled.print();
    let bytes = fs::metadata(program).expect("a file").len();
    let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
    println!("  the program: {bytes} bytes ({} MiB)", mib(bytes));
    if full {
        let verdict = |holds: bool| if holds { "held" } else { "missed" };
        println!("  aim: at rest at most {IDLE_KIB_MAX} KiB: {idle}: {}", verdict(idle <= IDLE_KIB_MAX));
        println!("  aim: evaluating at most {PEAK_KIB_MAX} KiB: {peak}: {}", verdict(peak <= PEAK_KIB_MAX));
    }
}

/// A Debian root as far as a scan looks at it.
fn write_root(root: &Path) {
    for folder in ["etc", "usr/lib", "var/lib/dpkg", "run"] {
        fs::create_dir_all(root.join(folder)).expect("a folder");
    }
    let release = "ID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n";
    fs::write(root.join("etc/os-release"), release).expect("written");
    fs::write(root.join("var/lib/dpkg/status"), updates::status()).expect("written");
}
