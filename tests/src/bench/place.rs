//! Where a benchmark runs: its cores, and a network of its own.

use std::{
    env, fs,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Set in a process that is in its own network already.
const INSIDE: &str = "TIERWAY_BENCH_INSIDE";

/// The core of the server.
pub const SERVER: usize = 0;
/// The core of the clients.
pub const CLIENT: usize = 1;

/// Runs this program again in a network of its own with the congestion control `reno`, if that is allowed:
/// BBR, the default of some machines, costs three times the CPU on loopback and hides every difference.
pub fn own_network() {
    if env::var_os(INSIDE).is_some() {
        return;
    }
    let shell = "ip link set lo up && echo reno > /proc/sys/net/ipv4/tcp_congestion_control";
    let allowed = command("unshare")
        .args(["--net", "sh", "-c", shell])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if allowed {
        let failed = command("unshare")
            .args(["--net", "sh", "-c", &format!("{shell} && exec \"$0\" \"$@\"")])
            .arg(env::current_exe().expect("this program"))
            .args(env::args_os().skip(1))
            .env(INSIDE, "1")
            .exec();
        panic!("could not run again in a network of its own: {failed}");
    }
}

/// The congestion control that holds here.
#[must_use]
pub fn congestion_control() -> String {
    let name = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").expect("/proc");
    name.trim().to_owned()
}

/// Keeps this process, and the threads it will start, on one core; where there is only one, on that.
pub fn pin(core: usize) {
    if sched_getaffinity(None).expect("cores").is_set(core) {
        let mut cores = CpuSet::new();
        cores.set(core);
        sched_setaffinity(None, &cores).expect("a core");
    }
}

/// A process to start.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures whole processes")]
#[must_use]
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    Command::new(program)
}
