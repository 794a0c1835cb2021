//! Servers as processes of their own, and what they use.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStdout, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

use super::place;

/// What the kernel says of a running process, by its number.
#[derive(Clone, Copy, Debug)]
pub struct Seen(pub u32);

impl Seen {
    /// CPU time so far, user and system, in steps of 10 ms.
    #[must_use]
    pub fn cpu(self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).expect("it runs");
        let fields = stat.rsplit(") ").next().expect("fields");
        let ticks = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().expect("ticks"));
        Duration::from_millis(ticks.sum::<u64>() * 10)
    }

    /// Resident memory, files included, KiB.
    #[must_use]
    pub fn resident_kib(self) -> u64 {
        kib(&self.status(), "VmRSS:")
    }

    /// Resident memory that is not a file's, KiB.
    #[must_use]
    pub fn anonymous_kib(self) -> u64 {
        kib(&self.status(), "RssAnon:")
    }

    /// Its share of resident memory, KiB: a page that so many processes have mapped counts as that part of one.
    #[must_use]
    pub fn proportional_kib(self) -> u64 {
        kib(&fs::read_to_string(format!("/proc/{}/smaps_rollup", self.0)).expect("it runs"), "Pss:")
    }

    /// Resident memory by what is mapped, KiB, the largest first: a file by its name, what is no file's by what
    /// the kernel calls it; pages of a file that the process has written to stand with the file.
    #[must_use]
    pub fn resident_by_mapping(self) -> Vec<(String, u64)> {
        let smaps = fs::read_to_string(format!("/proc/{}/smaps", self.0)).expect("it runs");
        let mut by_mapping: BTreeMap<String, u64> = BTreeMap::new();
        let mut mapping = String::new();
        for line in smaps.lines() {
            let mut words = line.split_whitespace();
            let first = words.next().expect("a word");
            if let Some(kib) = line.strip_prefix("Rss:") {
                *by_mapping.entry(mapping.clone()).or_default() +=
                    kib.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
            } else if !first.ends_with(':') {
                // Addresses, rights, offset, device, inode, and a name that may have spaces.
                let rights = words.next().expect("rights");
                let name = words.skip(3).collect::<Vec<_>>().join(" ");
                let name = name.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("[anonymous]");
                mapping = if name.starts_with('[') { name.to_owned() } else { format!("{name} {rights}") };
            }
        }
        let mut all: Vec<_> = by_mapping.into_iter().filter(|(_, kib)| *kib > 0).collect();
        all.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
        all
    }

    /// The most resident memory there was since [`Seen::forget_peak`] or the start, files included, KiB.
    #[must_use]
    pub fn peak_resident_kib(self) -> u64 {
        kib(&self.status(), "VmHWM:")
    }

    /// The same of a process that may end meanwhile; `None` when it has.
    #[must_use]
    pub fn peak_resident_kib_while_it_runs(self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).ok()?;
        status.contains("VmHWM:").then(|| kib(&status, "VmHWM:"))
    }

    /// Lets the peak begin anew from what is resident now.
    pub fn forget_peak(self) {
        fs::write(format!("/proc/{}/clear_refs", self.0), "5").expect("it runs");
    }

    /// Whether it runs.
    #[must_use]
    pub fn runs(self) -> bool {
        fs::read_to_string(format!("/proc/{}/status", self.0))
            .is_ok_and(|status| !status.contains("State:\tZ"))
    }

    fn status(self) -> String {
        fs::read_to_string(format!("/proc/{}/status", self.0)).expect("it runs")
    }
}

/// A process that ends with this value.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// The process that does the work: the child, or a child of it.
    worker: Seen,
    /// Where it listens.
    pub address: SocketAddr,
    _output: Option<BufReader<ChildStdout>>,
}

impl Server {
    /// This program again, with these arguments; it prints the address on which it listens, and ends when
    /// its standard input does.
    #[must_use]
    pub fn again(part: &str, dir: &Path) -> Self {
        let mut child = place::command(env::current_exe().expect("this program"))
            .arg(part)
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("a line");
        let address = line.trim().parse().expect("an address");
        Self { worker: Seen(child.id()), child, address, _output: Some(output) }
    }

    /// A running process whose `worker` serves at `address`.
    #[must_use]
    pub fn of(child: Child, worker: u32, address: SocketAddr) -> Self {
        Self { child, worker: Seen(worker), address, _output: None }
    }

    /// What it uses.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.worker
    }

    /// CPU time so far, user and system, in steps of 10 ms.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        self.worker.cpu()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Who was killed has not ended its children.
        let worker = i32::try_from(self.worker.0).ok().and_then(Pid::from_raw);
        if let Some(worker) = worker.filter(|_| self.worker.0 != self.child.id()) {
            let _ = kill_process(worker, Signal::KILL);
        }
    }
}

/// CPU time of the children that have ended and of theirs, user and system, in steps of 10 ms.
#[must_use]
pub fn ended_children_cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").expect("/proc");
    let after = stat.rsplit(") ").next().expect("fields");
    let ticks = after.split(' ').skip(13).take(2).map(|field| field.parse::<u64>().expect("ticks"));
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

/// Lets this process have so many files and sockets open.
pub fn allow_descriptors(count: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= count) {
        return;
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(count), ..limit })
        .expect("the limit of open files can be raised so far: see `ulimit -Hn`");
}

/// A figure from the text of `/proc/<pid>/status`, KiB.
#[must_use]
pub fn kib(status: &str, field: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Returns when the process that started this one wants it to end.
pub fn wait_for_end() {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// The first child of a process, such as nginx's worker.
#[must_use]
pub fn first_child(of: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}
