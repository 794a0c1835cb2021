//! The three tiers as processes of their own, which a test may end at any moment.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tierway_central::{init, layout::Layout};
use tierway_common::{
    clock::Clock,
    enrollment::Token,
    transport::{
        dial::{self, Route},
        tls::{Identity, IdentityFiles},
    },
};
use tierway_endpoint::local;
use tierway_proto::{
    joining,
    v1::{self, admin_client::AdminClient, local_client::LocalClient},
};
use tonic::{Status, transport::Channel};

use crate::{archive::Archive, fleet::until, skip::skip};

/// Folder of the three programs, which are built beside the tests; `None`, said, when they are not.
#[must_use]
pub fn programs(what: &str) -> Option<PathBuf> {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().and_then(Path::parent).unwrap().to_owned();
    let built = Tier::ALL.iter().all(|tier| folder.join(tier.program()).is_file());
    if !built {
        skip(what, "the programs are not built (deploy/test builds them)");
    }
    built.then_some(folder)
}

/// Which process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// The one.
    Central,
    /// Of the site.
    Relay,
    /// Of the computer.
    Endpoint,
}

impl Tier {
    /// From above.
    pub const ALL: [Self; 3] = [Self::Central, Self::Relay, Self::Endpoint];

    fn name(self) -> &'static str {
        match self {
            Self::Central => "central",
            Self::Relay => "relay",
            Self::Endpoint => "endpoint",
        }
    }

    fn program(self) -> String {
        format!("tierway-{}", self.name())
    }
}

/// A process that is started, killed and started again; its log goes on in one file.
#[derive(Debug)]
pub struct Process {
    program: PathBuf,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    /// Where the log of this start begins.
    log_from: u64,
}

impl Process {
    fn start(&mut self) {
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        self.log_from = log.metadata().unwrap().len();
        let child = Command::new(&self.program)
            .arg("--config")
            .arg(&self.config)
            .arg("serve")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.child = Some(child.unwrap());
    }

    /// What was logged since the last start.
    fn log_since_start(&self) -> String {
        let mut log = File::open(&self.log).unwrap();
        log.seek(SeekFrom::Start(self.log_from)).unwrap();
        let mut bytes = Vec::new();
        log.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn says_it_serves(&mut self) -> bool {
        let log = self.log_since_start();
        let ended = self.child.as_mut().unwrap().try_wait().unwrap();
        assert!(ended.is_none(), "{} ended by itself:\n{log}", self.program.display());
        log.contains(": serving ")
    }

    /// Ends it as `kill -9` does, and waits until it is gone.
    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A central, a relay and an endpoint.
#[derive(Debug)]
pub struct Processes {
    /// Everything's folder.
    pub dir: TempDir,
    /// The endpoint's id.
    pub endpoint: String,
    /// As whom `init` set the operator up.
    pub admin: AdminClient<Channel>,
    tiers: [Process; 3],
}

impl Processes {
    /// All three, joined and serving; the endpoint patches `dir`'s folder `root`, which is there already.
    pub async fn start(programs: &Path, dir: TempDir, archive: &Archive) -> Self {
        let folder = dir.path().to_owned();
        let (central, relay) = (free_address(), free_address());
        let data = |tier: Tier| folder.join(tier.name());
        init::init(
            &Layout::new(&data(Tier::Central)),
            &"default".parse().unwrap(),
            "tester",
            &Clock::system(),
        )
        .unwrap();
        let tiers = Tier::ALL.map(|tier| {
            let more = match tier {
                Tier::Central => format!(
                    "listen = \"{central}\"\npublic_address = \"{central}\"\n{}",
                    archive.source(&folder)
                ),
                Tier::Relay => format!("listen = \"{relay}\"\nsync_interval = \"1s\"\n"),
                Tier::Endpoint => format!(
                    "root = \"{}\"\nlocal_socket = \"{}\"\npayload_patience = \"5s\"\n",
                    folder.join("root").display(),
                    folder.join("local.sock").display()
                ),
            };
            let text = format!("data_dir = \"{}\"\ndisk_free_bytes_min = 0\n{more}", data(tier).display());
            let config = folder.join(format!("{}.toml", tier.name()));
            fs::write(&config, text).unwrap();
            let log = folder.join(format!("{}.log", tier.name()));
            Process { program: programs.join(tier.program()), config, log, child: None, log_from: 0 }
        });
        let identity = Identity::load(&IdentityFiles::in_dir(&data(Tier::Central).join("operator"))).unwrap();
        let admin = AdminClient::new(dial::channel(Route::direct(&central.to_string()), &identity));
        let mut processes = Self { dir, endpoint: String::new(), admin, tiers };
        processes.restart(Tier::Central).await;
        for (tier, server) in [(Tier::Relay, central), (Tier::Endpoint, relay)] {
            let token = processes.token(tier.name(), server).await;
            let joined = joining::join(&token, None, None, tier.name(), "0.0.0", &data(tier)).await.unwrap();
            if tier == Tier::Endpoint {
                processes.endpoint = joined.identity.own().holder.id;
            }
            processes.restart(tier).await;
        }
        processes
    }

    async fn token(&self, role: &str, server: SocketAddr) -> Token {
        let request = v1::CreateTokenRequest {
            role: role.to_owned(),
            site: "osaka".to_owned(),
            uses: 1,
            valid_seconds: 3600,
            server: Some(server.to_string()),
            groups: Vec::new(),
            name: String::new(),
        };
        self.admin.clone().create_token(request).await.unwrap().into_inner().token.parse().unwrap()
    }

    /// A tier's data folder.
    #[must_use]
    pub fn data(&self, tier: Tier) -> PathBuf {
        self.dir.path().join(tier.name())
    }

    /// Everything a tier ever logged.
    #[must_use]
    pub fn log(&self, tier: Tier) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.path().join(format!("{}.log", tier.name()))).unwrap())
            .into_owned()
    }

    /// Ends one as `kill -9` does.
    pub fn kill(&mut self, tier: Tier) {
        self.tiers[tier as usize].kill();
    }

    /// Starts one; returns how long it took until it answered.
    pub async fn restart(&mut self, tier: Tier) -> Duration {
        let began = Instant::now();
        let process = &mut self.tiers[tier as usize];
        process.start();
        until(&format!("the {} serves", tier.name()), async || process.says_it_serves()).await;
        match tier {
            Tier::Central => {
                until("central answers", async || {
                    self.admin.clone().get_status(v1::GetStatusRequest::default()).await.is_ok()
                })
                .await;
            }
            Tier::Relay => {}
            Tier::Endpoint => {
                until("the endpoint answers", async || {
                    let Ok(mut local) = self.local().await else { return false };
                    local.status(v1::LocalStatusRequest {}).await.is_ok()
                })
                .await;
            }
        }
        began.elapsed()
    }

    /// The endpoint's local socket.
    ///
    /// # Errors
    ///
    /// When nobody answers there.
    pub async fn local(&self) -> Result<LocalClient<Channel>, local::LocalError> {
        local_at(self.dir.path()).await
    }
}

/// The local socket of the endpoint of [`Processes`] in `dir`.
///
/// # Errors
///
/// When nobody answers there.
pub async fn local_at(dir: &Path) -> Result<LocalClient<Channel>, local::LocalError> {
    local::connect(&dir.join("local.sock")).await
}

/// Has the endpoint of [`Processes`] in `dir` check now, and returns what it says of itself after.
///
/// # Errors
///
/// When it is gone, or goes meanwhile.
pub async fn check(dir: &Path) -> Result<(v1::LocalCheckNowResponse, v1::LocalStatus), Status> {
    let gone = |error: local::LocalError| Status::unavailable(error.to_string());
    let mut local = local_at(dir).await.map_err(gone)?;
    let done = local.check_now(v1::LocalCheckNowRequest {}).await?.into_inner();
    Ok((done, local.status(v1::LocalStatusRequest {}).await?.into_inner()))
}

/// An address of this machine on which nobody listens now.
///
/// # Panics
///
/// When the system has none.
#[must_use]
pub fn free_address() -> SocketAddr {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap()
}
