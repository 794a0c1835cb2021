//! PostgreSQL as a store of the same states, to compare with: no signatures are checked there, and no model is kept.
//!
//! Two layouts: a row for each endpoint and update with an index by update, as one would design it for SQL, and one value for
//! each endpoint, as central keeps it. What comes together is copied into a temporary table and put in place by one
//! statement, durable before the next. The server ends as by a crash after each step.

use std::{
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use tierway_common::schema::StateEntry;
use tierway_tests::bench::{
    place,
    process::ended_children_cpu,
    table::{Table, micros},
};

use super::{CHANGES, PATCHES, STATES, changed, entry, patches};

/// Endpoints whose states are committed together: as many as come in one submission.
const TOGETHER: u32 = 256;
/// How long it may take to recover.
const PATIENCE: Duration = Duration::from_secs(120);

const SCHEMA: &str = "
CREATE TABLE state (endpoint int, patch int, state smallint, at timestamptz, detected timestamptz, applied timestamptz,
  PRIMARY KEY (endpoint, patch));
CREATE INDEX ON state (patch, state, endpoint);
CREATE TABLE record (endpoint int PRIMARY KEY, states bytea);
";
const STAGES: &str = "
CREATE TEMP TABLE stage (LIKE state) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE packed (LIKE record) ON COMMIT DELETE ROWS;
";
const ROWS_PLACED: &str = "INSERT INTO state SELECT * FROM stage ON CONFLICT (endpoint, patch) DO UPDATE
  SET state = excluded.state, at = excluded.at, detected = excluded.detected, applied = excluded.applied;";
const RECORDS_PLACED: &str =
    "INSERT INTO record SELECT * FROM packed ON CONFLICT (endpoint) DO UPDATE SET states = excluded.states;";

/// A cluster in a folder, and how to start its programs.
struct Cluster {
    dir: PathBuf,
    programs: PathBuf,
}

impl Cluster {
    /// `None`, said, where PostgreSQL is not installed.
    fn new(dir: &Path) -> Option<Self> {
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let newest =
            versions.map(|entry| entry.path().join("bin")).filter(|bin| bin.join("postgres").exists()).max();
        let Some(programs) = newest else {
            assert!(env::var_os("TIERWAY_REQUIRE").is_none(), "PostgreSQL is required");
            println!("skipped: the comparison with PostgreSQL, which is not installed");
            return None;
        };
        let cluster = Self { dir: dir.join("postgres"), programs };
        fs::create_dir(&cluster.dir).expect("a folder");
        if rustix::process::geteuid().is_root() {
            // It does not run as root; its own user can come this far.
            let open = |path: &Path| place::command("chmod").arg("o+x").arg(path).status();
            assert!(open(dir).expect("chmod").success());
            let owned = place::command("chown").arg("postgres").arg(&cluster.dir).status();
            assert!(owned.expect("chown").success());
        }
        let data = cluster.data();
        let mut made = cluster.command("initdb");
        made.args(["--auth=trust", "--username=bench", "--no-sync", "-D", &data]).stdout(Stdio::null());
        assert!(made.status().expect("initdb").success());
        Some(cluster)
    }

    fn data(&self) -> String {
        self.dir.join("data").display().to_string()
    }

    fn command(&self, program: &str) -> Command {
        let program = self.programs.join(program);
        if !rustix::process::geteuid().is_root() {
            return place::command(program);
        }
        let mut command = place::command("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
        command.current_dir(&self.dir);
        command
    }

    /// Starts it; how long until it answers.
    fn start(&self) -> (Child, Duration) {
        let (began, dir) = (Instant::now(), self.dir.display().to_string());
        let log = fs::File::create(self.dir.join("log")).expect("a file");
        let child = self
            .command("postgres")
            .args(["-D", &self.data(), "-k", &dir, "-c", "listen_addresses=", "-c", "shared_buffers=256MB"])
            .args(["-c", "max_wal_size=4GB"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("it starts");
        while !self.psql().args(["-c", "SELECT 1"]).stderr(Stdio::null()).status().expect("psql").success() {
            assert!(began.elapsed() < PATIENCE, "PostgreSQL does not answer");
        }
        (child, began.elapsed())
    }

    fn psql(&self) -> Command {
        let mut psql = place::command(self.programs.join("psql"));
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "bench", "-d", "postgres", "-h"])
            .arg(&self.dir);
        psql.stdout(Stdio::null());
        psql
    }

    fn ask(&self, question: &str) -> u64 {
        let output =
            self.psql().args(["-A", "-t", "-c", question]).stdout(Stdio::piped()).output().expect("psql");
        String::from_utf8(output.stdout).expect("text").trim().parse().expect("a number")
    }

    /// Has it do what `script` writes; how long that took, and the CPU time of all its processes.
    fn does(&self, script: impl FnOnce(&mut dyn std::io::Write)) -> (Duration, Duration, u64) {
        let (mut server, _) = self.start();
        let mut psql = self.psql().stdin(Stdio::piped()).spawn().expect("psql");
        let began = Instant::now();
        script(&mut std::io::BufWriter::new(psql.stdin.take().expect("piped")));
        assert!(psql.wait().expect("psql").success(), "PostgreSQL refused something");
        let wall = began.elapsed();
        let bytes = self.ask("SELECT pg_total_relation_size('state') + pg_total_relation_size('record')");
        let before = ended_children_cpu();
        let number = i32::try_from(server.id()).ok().and_then(Pid::from_raw).expect("a process");
        kill_process(number, Signal::QUIT).expect("it runs");
        let _ended = server.wait().expect("a child");
        (wall, ended_children_cpu() - before, bytes)
    }
}

fn time(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "\\N".to_owned(), |at| at.to_string())
}

/// One line for each state.
fn rows(endpoint: u32, entries: &[(u32, StateEntry)], text: &mut String) {
    for (patch, entry) in entries {
        let (state, at) = (entry.state as u8, time(Some(entry.at)));
        let _ = writeln!(
            text,
            "{endpoint}\t{patch}\t{state}\t{at}\t{}\t{}",
            time(entry.detected),
            time(entry.applied)
        );
    }
}

/// One line for an endpoint: each state in 16 bytes, about as many as central needs.
fn record(endpoint: u32, entries: &[(u32, StateEntry)], text: &mut String) {
    let _ = write!(text, "{endpoint}\t\\\\x");
    for (patch, entry) in entries {
        let seconds = |at: Option<Timestamp>| at.map_or(0, |at| at.as_second());
        let _ = write!(text, "{:06x}{:02x}", patch, entry.state as u8);
        for at in [Some(entry.at), entry.detected, entry.applied] {
            let _ = write!(text, "{:08x}", seconds(at));
        }
    }
    text.push('\n');
}

/// The same of PostgreSQL, printed.
pub(super) fn measure(dir: &Path, endpoints: u32, now: Timestamp) {
    let Some(cluster) = Cluster::new(dir) else { return };
    cluster.does(|psql| psql.write_all(SCHEMA.as_bytes()).expect("written"));
    let mut table = Table::new(
        "PostgreSQL as a store of the same states (CPU of all its processes)",
        &[
            "layout, each endpoint sends",
            "µs CPU/endpoint",
            "wall s",
            "rows/s",
            "rows/CPU s",
            "disk bytes/row",
            "restart s",
        ],
    );
    let first = |endpoint| -> Vec<_> {
        patches(endpoint).map(|patch| (patch, entry(endpoint, patch, false, now))).collect()
    };
    let later = |endpoint| -> Vec<_> {
        changed(endpoint).map(|patch| (patch, entry(endpoint, patch, true, now))).collect()
    };
    let whole_later = |endpoint| -> Vec<_> {
        let mut entries = first(endpoint);
        for (patch, entry) in later(endpoint) {
            if let Some(found) = entries.iter_mut().find(|(known, _)| *known == patch) {
                found.1 = entry;
            }
        }
        entries
    };
    type Entries<'a> = &'a dyn Fn(u32) -> Vec<(u32, StateEntry)>;
    type Line = fn(u32, &[(u32, StateEntry)], &mut String);
    let steps: [(&str, u32, Entries<'_>, Line, &str, &str); 4] = [
        ("a row a state, first report", STATES, &first, rows, "stage", ROWS_PLACED),
        ("a row a state, 3 changed", CHANGES, &later, rows, "stage", ROWS_PLACED),
        ("a value an endpoint, first report", STATES, &first, record, "packed", RECORDS_PLACED),
        ("a value an endpoint, 3 changed", CHANGES, &whole_later, record, "packed", RECORDS_PLACED),
    ];
    let mut bytes_before = 0;
    for (what, count, entries, line, stage, placed) in steps {
        let (wall, cpu, bytes) = cluster.does(|psql| {
            psql.write_all(STAGES.as_bytes()).expect("written");
            for from in (0..endpoints).step_by(TOGETHER as usize) {
                let mut text = format!("BEGIN;\nCOPY {stage} FROM STDIN;\n");
                for endpoint in from..endpoints.min(from + TOGETHER) {
                    line(endpoint, &entries(endpoint), &mut text);
                }
                let _ = write!(text, "\\.\n{placed}\nCOMMIT;\n");
                psql.write_all(text.as_bytes()).expect("written");
            }
        });
        let (mut server, restart) = cluster.start();
        let rows = cluster.ask("SELECT count(*) FROM state");
        assert_eq!(
            rows,
            u64::from(endpoints) * u64::from(STATES),
            "every state is there, of {PATCHES} updates"
        );
        let number = i32::try_from(server.id()).ok().and_then(Pid::from_raw).expect("a process");
        kill_process(number, Signal::INT).expect("it runs");
        let _ended = server.wait().expect("a child");
        let sent = u64::from(endpoints) * u64::from(count);
        table.row([
            what.to_owned(),
            format!("{:.1}", micros(cpu, u64::from(endpoints))),
            format!("{:.1}", wall.as_secs_f64()),
            format!("{:.0}", sent as f64 / wall.as_secs_f64()),
            format!("{:.0}", sent as f64 / cpu.as_secs_f64()),
            format!("{:.1}", (bytes - bytes_before) as f64 / (f64::from(endpoints) * f64::from(STATES))),
            format!("{:.2}", restart.as_secs_f64()),
        ]);
        if what.ends_with("3 changed") {
            bytes_before = bytes;
        }
    }
    table.print();
}
