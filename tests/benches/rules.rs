//! Rules: 50,000 updates against 2,000 installed packages, at once and after a change, beside
//! `oscap oval eval` and `debsecan` on the same definitions and packages.
//!
//! `cargo bench -p tierway-tests --bench rules` prints a table. The updates look like Debian's: for one
//! release, of one to three packages, half of them about packages that are installed. All of it is made
//! from a fixed sequence of numbers, so every run on every machine does the same work. Whole processes
//! (start, read, evaluate, end) are compared with the whole processes of the others; counts must be equal.

#![expect(clippy::expect_used, reason = "a benchmark stops at the first thing that is wrong")]

use std::{
    collections::BTreeSet,
    env,
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, BufWriter, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use tierway_common::{
    facts::{Domain, Facts},
    rules::{
        compile::{Compiled, Compiler, Kind},
        evaluate::{Verdict, verdict},
    },
    schema::Update,
};
use tierway_tests::bench::process::ended_children_cpu;

const UPDATES: usize = 50_000;
const INSTALLED: usize = 2_000;
/// Names in the archive; those beyond the installed ones are named by the other half of the updates.
const NAMES: usize = 20_000;
const RUNS: u32 = 20;

/// Peak memory of a whole evaluation at an endpoint.
const RSS_KIB_MOST: u64 = 30 * 1024;
const INCREMENTAL_MOST: Duration = Duration::from_millis(1);

fn main() {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => measure(),
        ["compile", dir] => compile_process(Path::new(dir)),
        ["evaluate", dir] => evaluate_process(Path::new(dir)),
        other => panic!("unexpected arguments {other:?}"),
    }
}

/// Numbers that look random and are the same on every run (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % (bound as u64)).expect("below the bound")
    }
}

/// One update as the generator knows it: packages and the version below which each is too old.
struct Made {
    packages: Vec<(String, String)>,
}

struct World {
    /// Name and version.
    installed: Vec<(String, String)>,
    updates: Vec<Made>,
}

fn name(number: usize) -> String {
    const HEADS: [&str; 8] = ["lib", "python3-", "", "golang-", "node-", "r-cran-", "fonts-", "linux-"];
    const WORDS: [&str; 10] = ["ssl", "xml", "curl", "gtk", "avahi", "perl", "kernel", "mesa", "gst", "qt"];
    const TAILS: [&str; 6] = ["", "-dev", "-common", "-utils", "3", "-doc"];
    let head = HEADS[number % 8];
    format!("{head}{}{}{}", WORDS[number / 8 % 10], number / 80, TAILS[number % 6])
}

fn world() -> World {
    let mut numbers = Numbers(0x2545_F491_4F6C_DD1D);
    let mut version = |least: usize| {
        let (major, minor, patch) = (numbers.below(9), numbers.below(30), numbers.below(20));
        let revision = least + numbers.below(5);
        let epoch = if numbers.below(20) == 0 { "1:" } else { "" };
        (format!("{epoch}{major}.{minor}.{patch}"), revision)
    };
    let mut installed = Vec::new();
    let mut parts = Vec::new();
    for number in 0..INSTALLED {
        let (upstream, revision) = version(2);
        installed.push((name(number), format!("{upstream}-{revision}+deb12u2")));
        parts.push((upstream, revision));
    }
    let others: Vec<_> = (0..NAMES - INSTALLED).map(|_| version(1)).collect();
    let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15);
    let updates = (0..UPDATES)
        .map(|number| {
            let count = 1 + numbers.below(3);
            let packages = (0..count)
                .map(|_| {
                    if number % 2 == 0 {
                        let at = numbers.below(INSTALLED);
                        let (upstream, revision) = &parts[at];
                        // Most published fixes are installed already.
                        let revision = match numbers.below(60) {
                            0 => format!("{revision}+deb12u{}", 3 + numbers.below(5)),
                            1 => format!("{}", revision + 1),
                            older => format!("{}+deb12u{}", revision - 1, older),
                        };
                        (name(at), format!("{upstream}-{revision}"))
                    } else {
                        let at = numbers.below(NAMES - INSTALLED);
                        let (upstream, revision) = &others[at];
                        (name(INSTALLED + at), format!("{upstream}-{revision}+deb12u{}", numbers.below(20)))
                    }
                })
                .collect();
            Made { packages }
        })
        .collect();
    World { installed, updates }
}

fn document(number: usize, made: &Made) -> serde_json::Value {
    let names: Vec<_> = made
        .packages
        .iter()
        .map(|(name, _)| serde_json::json!({"package": {"manager": "deb", "name": name}}))
        .collect();
    let current: Vec<_> = made
        .packages
        .iter()
        .map(|(name, version)| {
            serde_json::json!({"not": {"package": {"manager": "deb", "name": name, "version": {"lt": version}}}})
        })
        .collect();
    let packages: Vec<_> = made
        .packages
        .iter()
        .map(|(name, version)| {
            serde_json::json!({
                "name": name, "version": version, "architecture": "amd64",
                "payload": {
                    "digest": format!("{:064x}", number), "bytes": 123_456,
                    "url": format!("https://deb.debian.org/debian-security/pool/updates/main/{name}_{version}_amd64.deb"),
                },
                "control": {"Depends": "libc6 (>= 2.36), libssl3 (>= 3.0.0)", "Source": name},
            })
        })
        .collect();
    let (product, version) = &made.packages[0];
    serde_json::json!({
        "id": format!("debian-12/{product}_{number}"),
        "title": format!("{product}: security update"), "product": product, "version": version,
        "severity": "important", "released": "2026-11-01T00:00:00Z", "references": [format!("DSA-{number}-1")],
        "applicable": {"all": [{"os": {"family": "debian", "codename": "bookworm"}}, {"any": names}]},
        "installed": {"all": current},
        "install": {"deb": {"packages": packages}},
    })
}

/// The same updates as OVAL: true where an installed package is older.
fn oval(world: &World) -> String {
    let mut definitions = String::new();
    let mut tests = String::new();
    let mut objects = String::new();
    let mut states = String::new();
    let mut seen = BTreeSet::new();
    let mut id = |kind: &str, text: &str| {
        let key = format!("{kind} {text}");
        let new = seen.insert(key.clone());
        // A number from the text, as ids must end in one.
        let digest = key.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |sum, byte| {
            (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
        });
        (format!("oval:tierway:{kind}:{digest}"), new)
    };
    let (family_test, _) = id("tst", "family");
    let (family_object, _) = id("obj", "family");
    let (family_state, _) = id("ste", "family");
    for (number, made) in world.updates.iter().enumerate() {
        let mut criteria = String::new();
        for (name, version) in &made.packages {
            let (object, new_object) = id("obj", name);
            if new_object {
                let _ = writeln!(
                    objects,
                    r#"<linux:dpkginfo_object id="{object}" version="1"><linux:name>{name}</linux:name></linux:dpkginfo_object>"#
                );
            }
            let evr = if version.contains(':') { version.clone() } else { format!("0:{version}") };
            let (state, new_state) = id("ste", &evr);
            if new_state {
                let _ = writeln!(
                    states,
                    r#"<linux:dpkginfo_state id="{state}" version="1"><linux:evr datatype="debian_evr_string" operation="less than">{evr}</linux:evr></linux:dpkginfo_state>"#
                );
            }
            let (test, new_test) = id("tst", &format!("{name} {evr}"));
            if new_test {
                let _ = writeln!(
                    tests,
                    r#"<linux:dpkginfo_test id="{test}" version="1" check="at least one" comment="{name}"><linux:object object_ref="{object}"/><linux:state state_ref="{state}"/></linux:dpkginfo_test>"#
                );
            }
            let _ = write!(criteria, r#"<criterion test_ref="{test}"/>"#);
        }
        let _ = writeln!(
            definitions,
            r#"<definition id="oval:tierway:def:{}" version="1" class="patch"><metadata><title>t</title><description>d</description></metadata><criteria operator="AND"><criterion test_ref="{family_test}"/><criteria operator="OR">{criteria}</criteria></criteria></definition>"#,
            number + 1
        );
    }
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<oval_definitions xmlns="http://oval.mitre.org/XMLSchema/oval-definitions-5" xmlns:linux="http://oval.mitre.org/XMLSchema/oval-definitions-5#linux" xmlns:ind="http://oval.mitre.org/XMLSchema/oval-definitions-5#independent" xmlns:oval="http://oval.mitre.org/XMLSchema/oval-common-5">
<generator><oval:product_name>tierway</oval:product_name><oval:schema_version>5.11.2</oval:schema_version><oval:timestamp>2026-11-01T00:00:00</oval:timestamp></generator>
<definitions>{definitions}</definitions>
<tests><ind:family_test id="{family_test}" version="1" check="all" comment="unix"><ind:object object_ref="{family_object}"/><ind:state state_ref="{family_state}"/></ind:family_test>
{tests}</tests>
<objects><ind:family_object id="{family_object}" version="1"/>
{objects}</objects>
<states><ind:family_state id="{family_state}" version="1"><ind:family>unix</ind:family></ind:family_state>
{states}</states>
</oval_definitions>
"#
    )
}

/// A status file of dpkg's with the fields that matter and some that do not.
fn status(world: &World) -> String {
    let mut text = String::new();
    for (name, version) in &world.installed {
        let _ = write!(
            text,
            "Package: {name}\nStatus: install ok installed\nPriority: optional\nSection: libs\nInstalled-Size: 123\n\
             Maintainer: Nobody <nobody@example.org>\nArchitecture: amd64\nVersion: {version}\n\
             Depends: libc6 (>= 2.36)\nDescription: made up\n Of no use to anyone, and as long as such texts\n are.\n\n"
        );
    }
    text
}

/// Facts from a status file.
fn facts(status: &str) -> Facts {
    let mut facts = Facts::default();
    let complete = |source: &str| Domain::Complete { source: source.to_owned() };
    facts.domains.insert("os".to_owned(), complete("/etc/os-release"));
    facts.domains.insert("package:deb".to_owned(), complete("/var/lib/dpkg/status"));
    facts.values.insert("os:family".to_owned(), "debian".to_owned());
    facts.values.insert("os:codename".to_owned(), "bookworm".to_owned());
    let (mut name, mut architecture, mut version, mut installed) = ("", "", "", false);
    for line in status.lines().chain([""]) {
        match line.split_once(": ") {
            Some(("Package", value)) => name = value,
            Some(("Architecture", value)) => architecture = value,
            Some(("Version", value)) => version = value,
            Some(("Status", value)) => installed = value.ends_with(" installed"),
            _ if line.is_empty() && installed => {
                facts.values.insert(format!("package:deb:{name}:{architecture}"), version.to_owned());
                installed = false;
            }
            _ => {}
        }
    }
    facts
}

/// What an endpoint does when the catalogue is new: reads every document, keeps the compiled rules.
fn compile_process(dir: &Path) {
    let documents = BufReader::new(fs::File::open(dir.join("documents")).expect("documents"));
    let mut compiler = Compiler::new();
    for line in documents.lines() {
        let update: Update = serde_json::from_str(&line.expect("a line")).expect("a document");
        compiler.add(&update.id, &update.applicable, &update.installed).expect("it fits");
    }
    let mut file = fs::File::create(dir.join("compiled")).expect("a file");
    compiler.finish().write(&mut file).expect("written");
    println!("0 {}", peak_kib());
}

/// What an endpoint does at a check: reads dpkg's status and the compiled rules, and evaluates.
fn evaluate_process(dir: &Path) {
    let facts = facts(&fs::read_to_string(dir.join("status")).expect("status"));
    let compiled = read_compiled(dir);
    let needed = compiled.scan(&facts).of_kind(Kind::Needed).count();
    println!("{needed} {}", peak_kib());
}

fn read_compiled(dir: &Path) -> Compiled {
    Compiled::read(&mut fs::File::open(dir.join("compiled")).expect("a file")).expect("compiled rules")
}

/// Peak resident memory of this process, KiB.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// CPU time of this process.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).expect("positive"),
        u32::try_from(time.tv_nsec).expect("positive"),
    )
}

struct Measured {
    cpu: Duration,
    wall: Duration,
    value: u64,
}

/// Runs `work` [`RUNS`] times; the means.
fn mean<T>(mut work: impl FnMut() -> T) -> (Duration, Duration) {
    let (cpu_before, wall_before) = (cpu(), Instant::now());
    for _ in 0..RUNS {
        std::hint::black_box(work());
    }
    ((cpu() - cpu_before) / RUNS, wall_before.elapsed() / RUNS)
}

/// Runs this program again for one part, `runs` times; means, and the greatest peak memory in KiB.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures whole processes")]
fn again(part: &str, dir: &Path, runs: u32) -> (Measured, u64) {
    let (cpu_before, wall_before) = (ended_children_cpu(), Instant::now());
    let (mut value, mut peak) = (0, 0);
    for _ in 0..runs {
        let output = Command::new(env::current_exe().expect("this program"))
            .arg(part)
            .arg(dir)
            .stderr(Stdio::inherit())
            .output()
            .expect("it runs");
        assert!(output.status.success(), "{part} failed");
        let text = String::from_utf8(output.stdout).expect("text");
        let mut words = text.split_whitespace().map(|word| word.parse::<u64>().expect("a number"));
        value = words.next().expect("a value");
        peak = peak.max(words.next().expect("a peak"));
    }
    let cpu = (ended_children_cpu() - cpu_before) / runs;
    (Measured { cpu, wall: wall_before.elapsed() / runs, value }, peak)
}

/// Runs another program that finds needed updates, which `needed` counts in its output; `None` where it is not.
#[expect(clippy::disallowed_methods, reason = "a benchmark runs what it compares with")]
fn peer(
    program: &str,
    arguments: &[String],
    environment: Option<(&str, &Path)>,
    needed: impl FnOnce(&str) -> usize,
) -> Option<Measured> {
    if Command::new(program).arg("--help").stdout(Stdio::null()).status().is_err() {
        assert!(env::var_os("TIERWAY_REQUIRE").is_none(), "{program} is required");
        println!("skipped: no {program} here to compare with");
        return None;
    }
    let (cpu_before, wall_before) = (ended_children_cpu(), Instant::now());
    let output = Command::new(program)
        .args(arguments)
        .envs(environment)
        .stderr(Stdio::inherit())
        .output()
        .expect("it runs");
    let value = needed(&String::from_utf8_lossy(&output.stdout)) as u64;
    Some(Measured { cpu: ended_children_cpu() - cpu_before, wall: wall_before.elapsed(), value })
}

/// `oscap oval eval` on the same packages. It asks libapt-pkg what is installed, so `APT_CONFIG` leads it to the made-up
/// status file.
fn oscap(dir: &Path) -> Option<Measured> {
    let lists = dir.join("lists/partial");
    fs::create_dir_all(&lists).expect("a directory");
    let config = dir.join("apt.conf");
    let show = dir.display();
    fs::write(
        &config,
        format!(
            "Dir::State::status \"{show}/status\";\nDir::State::lists \"{show}/lists\";\n\
             Dir::Etc::sourcelist \"/dev/null\";\nDir::Etc::sourceparts \"/dev/null\";\n\
             Dir::Cache::pkgcache \"\";\nDir::Cache::srcpkgcache \"\";\n"
        ),
    )
    .expect("written");
    let arguments = ["oval", "eval", "--skip-valid", &format!("{show}/oval.xml")].map(str::to_owned);
    peer("oscap", &arguments, Some(("APT_CONFIG", &config)), |text| {
        let count = |end: &str| {
            text.lines().filter(|line| line.starts_with("Definition ") && line.ends_with(end)).count()
        };
        assert_eq!(count(": true") + count(": false"), UPDATES, "oscap decided every definition");
        count(": true")
    })
}

/// `debsecan` on the same packages, of which each update is a vulnerability.
fn debsecan(dir: &Path) -> Option<Measured> {
    let show = dir.display();
    let arguments = [
        "--config=/dev/null".to_owned(),
        format!("--source=file://{show}/"),
        "--suite=vulnerabilities".to_owned(),
        format!("--status={show}/status"),
        format!("--whitelist={show}/none"),
        "--format=simple".to_owned(),
    ];
    peer("debsecan", &arguments, None, |text| {
        let named = text.lines().filter_map(|line| line.split(' ').next());
        named.collect::<BTreeSet<_>>().len()
    })
}

/// What the tracker of vulnerabilities gives debsecan, which it wants compressed as zlib does: here without compressing,
/// so that it has less to do.
fn vulnerabilities(world: &World) -> Vec<u8> {
    let mut text = "VERSION 1\n".to_owned();
    for number in 0..world.updates.len() {
        let _ = writeln!(text, "U-{number},,a description");
    }
    text.push('\n');
    for (number, made) in world.updates.iter().enumerate() {
        for (name, version) in &made.packages {
            let _ = writeln!(text, "{name},{number},BM F,{version},");
        }
    }
    text.push_str("\n\n");
    let mut stored = vec![0x78, 0x01];
    let blocks = text.as_bytes().chunks(usize::from(u16::MAX));
    let last = blocks.len() - 1;
    for (number, block) in blocks.enumerate() {
        let length = u16::try_from(block.len()).expect("a block");
        stored.push(u8::from(number == last));
        stored.extend(length.to_le_bytes());
        stored.extend((!length).to_le_bytes());
        stored.extend(block);
    }
    let (a, b) = text.bytes().fold((1_u32, 0_u32), |(a, b), byte| {
        let a = (a + u32::from(byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    stored.extend((b << 16 | a).to_be_bytes());
    stored
}

fn row(what: &str, cpu: Duration, wall: Duration, more: &str) {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!("{what:<58} {:>11.4} {:>11.4}  {more}", ms(cpu), ms(wall));
}

fn measure() {
    let dir = tempfile::tempdir().expect("a directory");
    let world = world();
    let status = status(&world);
    fs::write(dir.path().join("status"), &status).expect("written");
    fs::write(dir.path().join("oval.xml"), oval(&world)).expect("written");
    fs::write(dir.path().join("vulnerabilities"), vulnerabilities(&world)).expect("written");
    let mut documents = BufWriter::new(fs::File::create(dir.path().join("documents")).expect("a file"));
    for (number, made) in world.updates.iter().enumerate() {
        writeln!(documents, "{}", document(number, made)).expect("written");
    }
    documents.flush().expect("written");
    drop(documents);

    println!("{UPDATES} updates against {} packages", world.installed.len());
    println!("{:<58} {:>11} {:>11}", "", "CPU ms", "wall ms");
    let per_rule =
        |time: Duration, rules: usize| format!("{:.1} ns a rule", time.as_secs_f64() * 1e9 / rules as f64);

    let (compiling, compile_peak) = again("compile", dir.path(), 3);
    row(
        "compile: read all documents, compile, write (process)",
        compiling.cpu,
        compiling.wall,
        &format!("peak {compile_peak} KiB"),
    );
    let compiled = read_compiled(dir.path());
    let bytes = fs::metadata(dir.path().join("compiled")).expect("a file").len();
    let (read_cpu, read_wall) = mean(|| read_compiled(dir.path()));
    let more = format!("{bytes} bytes on disk, {} in memory", compiled.bytes());
    row("read the compiled rules", read_cpu, read_wall, &more);
    let (facts_cpu, facts_wall) = mean(|| facts(&status));
    row("read dpkg's status", facts_cpu, facts_wall, &format!("{} bytes", status.len()));

    let mut facts = facts(&status);
    let (scan_cpu, scan_wall) = mean(|| compiled.scan(&facts));
    let mut scan = compiled.scan(&facts);
    let needed = scan.of_kind(Kind::Needed).count();
    row(
        "full scan",
        scan_cpu,
        scan_wall,
        &format!(
            "{}, {} evaluated, {needed} needed, {} installed",
            per_rule(scan_cpu, UPDATES),
            scan.evaluated(),
            scan.of_kind(Kind::Installed).count()
        ),
    );

    let trees: Vec<Update> = BufReader::new(fs::File::open(dir.path().join("documents")).expect("documents"))
        .lines()
        .map(|line| serde_json::from_str(&line.expect("a line")).expect("a document"))
        .collect();
    let (tree_before, wall_before) = (cpu(), Instant::now());
    let by_tree = trees.iter().filter(|update| verdict(update, &facts) == Verdict::Needed).count();
    let tree_cpu = cpu() - tree_before;
    row("the same by walking the trees", tree_cpu, wall_before.elapsed(), &per_rule(tree_cpu, UPDATES));
    assert_eq!(by_tree, needed, "trees and compiled rules agree");
    drop(trees);

    let keys: Vec<_> = facts.values.keys().filter(|key| key.starts_with("package:")).cloned().collect();
    let (mut longest, mut touched, mut flipped) = (Duration::ZERO, 0, 0);
    let (cpu_before, wall_before) = (cpu(), Instant::now());
    for key in &keys {
        let mut after = tierway_common::facts::FactsDelta::default();
        after.set.insert(key.clone(), "99:1-1".to_owned());
        facts.apply(&after);
        // Of CPU: a loaded machine may put the process aside for milliseconds.
        let start = cpu();
        flipped += compiled.rescan(&mut scan, &after, &facts).len();
        longest = longest.max(cpu() - start);
        touched += scan.evaluated();
    }
    let count = u32::try_from(keys.len()).expect("few");
    let incremental = wall_before.elapsed() / count;
    row(
        "rescan after one package changed",
        (cpu() - cpu_before) / count,
        incremental,
        &format!(
            "longest {:.4} ms, {:.1} rules each, {flipped} changed in all",
            longest.as_secs_f64() * 1e3,
            f64::from(u32::try_from(touched).expect("few")) / f64::from(count)
        ),
    );
    assert_eq!(flipped, needed, "with every package at its newest nothing is needed");
    assert!(longest < INCREMENTAL_MOST, "an incremental rescan took {longest:?}");

    let (whole, peak) = again("evaluate", dir.path(), RUNS);
    row(
        "whole process: start, read, evaluate, end",
        whole.cpu,
        whole.wall,
        &format!("peak {peak} KiB, {} needed", whole.value),
    );
    assert_eq!(whole.value, needed as u64);
    assert!(
        peak <= RSS_KIB_MOST && compile_peak <= RSS_KIB_MOST,
        "peak memory {peak} and {compile_peak} KiB"
    );

    for (what, theirs) in [
        ("debsecan, whole process", debsecan(dir.path())),
        ("oscap oval eval, whole process", oscap(dir.path())),
    ] {
        let Some(theirs) = theirs else { continue };
        row(what, theirs.cpu, theirs.wall, &format!("{} needed", theirs.value));
        assert_eq!(theirs.value, needed as u64, "it finds as many needed");
        let times = |ours: Duration| theirs.cpu.as_secs_f64() / ours.as_secs_f64();
        println!(
            "  {:.0} times the CPU of the whole process, {:.0} times that of a full scan",
            times(whole.cpu),
            times(scan_cpu)
        );
    }
}
