//! The real programs of central and the relays as processes of their own, each relay behind a line that can be cut.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tierway_central::{init, layout::Layout};
use tierway_common::{
    clock::Clock,
    enrollment::Token,
    transport::{
        dial::{self, Route},
        tls::{Identity, IdentityFiles},
    },
};
use tierway_proto::{
    joining,
    v1::{self, admin_client::AdminClient, policies_client::PoliciesClient},
};
use tonic::transport::Channel;

use super::{
    failure::{Failure, failed},
    figures::Used,
    link::Link,
};
use crate::bench::{place, process::Seen};

/// How long a program may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(10);
/// Longest answer of central that is taken.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// What the tenant is called.
pub const TENANT: &str = "default";
/// Who decides.
const OPERATOR: &str = "simulation";

/// A program that is started and ended; what it logs goes on in one file.
#[derive(Debug)]
pub struct Process {
    name: String,
    program: PathBuf,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    /// CPU time of those that have ended.
    spent: Duration,
}

impl Process {
    fn new(name: &str, program: PathBuf, dir: &Path, config: &str) -> Result<Self, Failure> {
        let path = dir.join(format!("{name}.toml"));
        fs::write(&path, config).map_err(failed(format!("write `{}`", path.display())))?;
        let log = dir.join(format!("{name}.log"));
        Ok(Self { name: name.to_owned(), program, config: path, log, child: None, spent: Duration::ZERO })
    }

    /// Starts it; returns after how long it serves.
    ///
    /// # Errors
    ///
    /// [`Failure`] with the end of its log when it ends or takes too long.
    pub async fn start(&mut self) -> Result<Duration, Failure> {
        let what = || failed(format!("start `{}`", self.program.display()));
        let log = File::options().create(true).append(true).open(&self.log).map_err(what())?;
        let from = log.metadata().map_err(what())?.len();
        let began = Instant::now();
        let child = place::command(&self.program)
            .arg("--config")
            .arg(&self.config)
            .arg("serve")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(what())?;
        let child = self.child.insert(child);
        loop {
            let logged = read_from(&self.log, from);
            if logged.contains(": serving ") {
                return Ok(began.elapsed());
            }
            let ended = child.try_wait().is_ok_and(|ended| ended.is_some());
            if ended || began.elapsed() > PATIENCE {
                return Err(Failure::plain(format!("{} does not serve:\n{logged}", self.name)));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends it as `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            self.spent += cpu(child.id());
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks it to end, and waits until it has; returns how long that took.
    ///
    /// # Errors
    ///
    /// [`Failure`] when it does not end, or not well.
    pub async fn stop(&mut self) -> Result<Duration, Failure> {
        let Some(mut child) = self.child.take() else { return Ok(Duration::ZERO) };
        self.spent += cpu(child.id());
        let began = Instant::now();
        if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM).map_err(failed(format!("end {}", self.name)))?;
        }
        loop {
            match child.try_wait().map_err(failed(format!("end {}", self.name)))? {
                Some(status) if status.success() => return Ok(began.elapsed()),
                Some(status) => return Err(Failure::plain(format!("{} ended with {status}", self.name))),
                None if began.elapsed() > PATIENCE => {
                    // Dropped, it is killed.
                    self.child = Some(child);
                    return Err(Failure::plain(format!("{} does not end", self.name)));
                }
                None => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// What it used so far, of all its starts.
    fn used(&self) -> (Duration, u64) {
        let running = self.child.as_ref().map(|child| Seen(child.id())).filter(|seen| seen.runs());
        let peak = running.map_or(0, Seen::peak_resident_kib);
        (self.spent + running.map_or(Duration::ZERO, Seen::cpu), peak)
    }

    fn forget_peak(&self) {
        let running = self.child.as_ref().map(|child| Seen(child.id())).filter(|seen| seen.runs());
        if let Some(seen) = running {
            seen.forget_peak();
        }
    }

    /// The last lines of its log at level `WARN` or `ERROR`, at most so many.
    #[must_use]
    pub fn complaints(&self, most: usize) -> Vec<String> {
        let log = read_from(&self.log, 0);
        let found = log.lines().rev().filter(|line| line.contains("WARN") || line.contains("ERROR"));
        let mut found: Vec<String> = found.take(most).map(str::to_owned).collect();
        found.reverse();
        found
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn cpu(process: u32) -> Duration {
    let seen = Seen(process);
    if seen.runs() { seen.cpu() } else { Duration::ZERO }
}

/// What a log says from this byte on; nothing when it is not there.
fn read_from(path: &Path, from: u64) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|mut log| {
        log.seek(SeekFrom::Start(from))?;
        log.read_to_end(&mut bytes)
    });
    if read.is_err() {
        bytes.clear();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A relay and the line above it.
#[derive(Debug)]
pub struct RelayTier {
    /// Its site.
    pub site: String,
    /// The program.
    pub process: Process,
    /// Where its endpoints connect.
    pub address: SocketAddr,
    /// To central.
    pub link: Link,
    /// The same door, for those of whom the bytes are counted.
    pub counted: Link,
    data: PathBuf,
}

/// All of them.
#[derive(Debug)]
pub struct Tiers {
    dir: PathBuf,
    programs: PathBuf,
    /// The program.
    pub central: Process,
    /// Where it listens.
    pub address: SocketAddr,
    /// As whom decisions are made.
    pub operator: Channel,
    /// One for each site.
    pub relays: Vec<RelayTier>,
}

impl Tiers {
    /// Central, set up below `dir` and started; `sources` is the part of its configuration that names them.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub async fn start(dir: &Path, programs: &Path, sources: &str) -> Result<Self, Failure> {
        let address = free_address()?;
        let data = dir.join("central");
        let tenant = TENANT.parse().map_err(failed("name the tenant"))?;
        init::init(&Layout::new(&data), &tenant, OPERATOR, &Clock::system())
            .map_err(failed("set up central"))?;
        let config = format!(
            "data_dir = \"{}\"\nlisten = \"{address}\"\npublic_address = \"{address}\"\ndisk_free_bytes_min = 0\n{sources}",
            data.display()
        );
        let mut central = Process::new("central", programs.join("tierway-central"), dir, &config)?;
        central.start().await?;
        let files = IdentityFiles::in_dir(&data.join("operator"));
        let identity = Identity::load(&files).map_err(failed("load the operator's identity"))?;
        let operator = dial::channel(Route::direct(&address.to_string()), &identity);
        let (dir, programs) = (dir.to_owned(), programs.to_owned());
        Ok(Self { dir, programs, central, address, operator, relays: Vec::new() })
    }

    /// What the operator asks.
    #[must_use]
    pub fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.operator.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// What the operator asks about policy.
    #[must_use]
    pub fn policies(&self) -> PoliciesClient<Channel> {
        PoliciesClient::new(self.operator.clone())
    }

    /// A token for machines of `role` at `site` that connect to `server`.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub async fn token(
        &self,
        role: &str,
        site: &str,
        server: SocketAddr,
        uses: u32,
    ) -> Result<Token, Failure> {
        let request = v1::CreateTokenRequest {
            role: role.to_owned(),
            site: site.to_owned(),
            uses,
            valid_seconds: 24 * 3600,
            server: Some(server.to_string()),
            groups: Vec::new(),
            name: String::new(),
        };
        let made = self.admin().create_token(request).await.map_err(failed("get a token"))?;
        made.into_inner().token.parse().map_err(failed("read a token"))
    }

    /// Adds a relay at a site of its own, which joins and serves.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub async fn add_relay(&mut self) -> Result<(), Failure> {
        let number = self.relays.len();
        let (site, name) = (format!("site-{number:02}"), format!("relay-{number:02}"));
        let (link, address) = (Link::to(self.address).await?, free_address()?);
        let data = self.dir.join(&name);
        let config =
            format!("data_dir = \"{}\"\nlisten = \"{address}\"\ndisk_free_bytes_min = 0\n", data.display());
        let process = Process::new(&name, self.programs.join("tierway-relay"), &self.dir, &config)?;
        let counted = Link::to(address).await?;
        self.relays.push(RelayTier { site, process, address, link, counted, data });
        self.join_relay(number).await
    }

    /// Puts a new relay in the place of one that is gone with all it had; it has the address of the old one.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub async fn replace_relay(&mut self, number: usize) -> Result<(), Failure> {
        let relay = &mut self.relays[number];
        relay.process.kill();
        fs::remove_dir_all(&relay.data).map_err(failed(format!("delete `{}`", relay.data.display())))?;
        self.join_relay(number).await
    }

    async fn join_relay(&mut self, number: usize) -> Result<(), Failure> {
        let relay = &self.relays[number];
        let token = self.token("relay", &relay.site, relay.link.address, 1).await?;
        let name = format!("relay-{number:02}");
        joining::join(&token, None, None, &name, tierway_relay::server::VERSION, &relay.data)
            .await
            .map_err(failed(format!("join {name}")))?;
        self.relays[number].process.start().await?;
        Ok(())
    }

    /// Central's data folder.
    #[must_use]
    pub fn central_dir(&self) -> PathBuf {
        self.dir.join("central")
    }

    /// Waits until central answers, and returns how long it took.
    ///
    /// # Errors
    ///
    /// [`Failure`] when it takes too long.
    pub async fn central_answers(&self) -> Result<Duration, Failure> {
        let began = Instant::now();
        while self.admin().get_status(v1::GetStatusRequest::default()).await.is_err() {
            if began.elapsed() > PATIENCE {
                return Err(Failure::plain("central does not answer"));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(began.elapsed())
    }

    /// Ends all, the relays first.
    ///
    /// # Errors
    ///
    /// [`Failure`] when one does not end well.
    pub async fn stop(&mut self) -> Result<(), Failure> {
        for relay in &mut self.relays {
            relay.process.stop().await?;
        }
        self.central.stop().await?;
        Ok(())
    }

    /// Lets peaks of memory begin anew, and returns what was used so far.
    #[must_use]
    pub fn mark(&self) -> Mark {
        self.central.forget_peak();
        self.relays.iter().for_each(|relay| relay.process.forget_peak());
        Seen(std::process::id()).forget_peak();
        Mark { central: self.central.used().0, relays: self.relays_cpu(), own: own_cpu() }
    }

    fn relays_cpu(&self) -> Duration {
        self.relays.iter().map(|relay| relay.process.used().0).sum()
    }

    /// What each tier used since `mark`.
    #[must_use]
    pub fn used_since(&self, mark: &Mark) -> BTreeMap<&'static str, Used> {
        let used = |now: Duration, before: Duration, peak_kib: u64| Used {
            cpu_seconds: now.saturating_sub(before).as_secs_f64(),
            resident_mib: peak_kib as f64 / 1_024.0,
        };
        let (central, central_peak) = self.central.used();
        let peaks = self.relays.iter().map(|relay| relay.process.used().1);
        let own_peak = Seen(std::process::id()).peak_resident_kib();
        [
            ("central", used(central, mark.central, central_peak)),
            ("relays", used(self.relays_cpu(), mark.relays, peaks.max().unwrap_or(0))),
            ("endpoints", used(own_cpu(), mark.own, own_peak)),
        ]
        .into()
    }
}

fn own_cpu() -> Duration {
    Seen(std::process::id()).cpu()
}

/// What the tiers had used at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    central: Duration,
    relays: Duration,
    own: Duration,
}

/// An address of this machine that nobody uses now.
fn free_address() -> Result<SocketAddr, Failure> {
    let bound = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    bound.map_err(failed("find a free port"))
}

/// Processes that want a processor, on average over the last minute.
#[must_use]
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}
