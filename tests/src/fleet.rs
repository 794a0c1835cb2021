//! The three tiers, started and stopped as a test needs them.

use std::{
    error::Error,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tempfile::TempDir;
use tierway_central::{
    config as central_config, init,
    layout::Layout,
    publish::Outcome,
    server::{self as central_server, Running as CentralRunning},
};
use tierway_common::{
    clock::Clock,
    daemon::{chain::Chain, stop::Stop},
    enrollment::Token,
    transport::{
        dial::{self, Route},
        tls::{Identity, IdentityFiles},
    },
};
use tierway_endpoint::{
    agent::{self, Running as EndpointRunning},
    config::Config as EndpointConfig,
    local::Ask,
};
use tierway_proto::{
    joining,
    v1::{self, admin_client::AdminClient, policies_client::PoliciesClient},
};
use tierway_relay::{
    config::Config as RelayConfig,
    server::{self as relay_server, Running as RelayRunning},
};
use tokio::sync::oneshot;
use tonic::transport::Channel;

use crate::archive::Archive;

/// How long a test waits for what must happen by itself before it is taken for never.
const PATIENCE: Duration = Duration::from_secs(60);

/// An archive and a central, and the folder in which everything is.
#[derive(Debug)]
pub struct Fleet {
    /// Everything's folder.
    pub dir: TempDir,
    /// The vendor.
    pub archive: Archive,
    /// Central, unless it is stopped.
    pub central: Option<Node<CentralRunning>>,
    /// Central's address, the same after a restart.
    pub address: SocketAddr,
    /// Instead of the archive.
    source: Option<String>,
    /// More lines of central's configuration.
    settings: String,
    /// The time, of which every clone of a manual clock knows.
    pub clock: Clock,
}

/// A tier that runs.
#[derive(Debug)]
pub struct Node<R> {
    /// What it is.
    pub running: R,
    stop: Stop,
}

/// A relay that joined.
#[derive(Debug)]
pub struct Relay {
    /// It, unless it is stopped.
    pub node: Option<Node<RelayRunning>>,
    /// Its address, the same after a restart.
    pub address: SocketAddr,
    /// Its configuration.
    pub config: RelayConfig,
    /// The time, of which every clone of a manual clock knows.
    pub clock: Clock,
}

/// An endpoint that enrolled.
#[derive(Debug)]
pub struct Endpoint {
    /// It, unless it is stopped.
    pub node: Option<Node<EndpointRunning>>,
    /// Its configuration.
    pub config: EndpointConfig,
    /// Its id.
    pub id: String,
    /// The time, of which every clone of a manual clock knows.
    pub clock: Clock,
}

impl Fleet {
    /// An archive that is empty and a central that has read it; the clock is the system's.
    pub async fn start() -> Self {
        Self::start_at(Clock::system()).await
    }

    /// The same by another clock.
    pub async fn start_at(clock: Clock) -> Self {
        Self::begin(tempfile::tempdir().unwrap(), clock, None, String::new()).await
    }

    /// The same with everything in memory where the system has a place for that.
    pub async fn start_in_memory(clock: Clock) -> Self {
        Self::start_in_memory_with(clock, String::new()).await
    }

    /// The same with `settings`, lines of central's configuration.
    pub async fn start_in_memory_with(clock: Clock, settings: String) -> Self {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Self::begin(dir.unwrap(), clock, None, settings).await
    }

    /// A central that reads what `source`, a part of its configuration, names instead of the archive.
    pub async fn start_with(source: &str) -> Self {
        let (dir, source) = (tempfile::tempdir().unwrap(), Some(source.to_owned()));
        Self::begin(dir, Clock::system(), source, String::new()).await
    }

    async fn begin(dir: TempDir, clock: Clock, source: Option<String>, settings: String) -> Self {
        let archive = Archive::start().await;
        let central = dir.path().join("central");
        let layout = Layout::new(&central);
        init::init(&layout, &"default".parse().unwrap(), "tester", &clock).unwrap();
        let mut fleet = Self {
            dir,
            archive,
            central: None,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            source,
            settings,
            clock,
        };
        fleet.start_central().await;
        fleet
    }

    /// The time as everything here tells it.
    #[must_use]
    pub fn now(&self) -> jiff::Timestamp {
        self.clock.now()
    }

    /// A folder of its own for `name`.
    #[must_use]
    pub fn folder(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts central, at its address when it had one.
    pub async fn start_central(&mut self) {
        let text = format!(
            "data_dir = \"{}\"\nlisten = \"{}\"\npublic_address = \"central.invalid:1\"\ndisk_free_bytes_min = 0\n{}{}",
            self.folder("central").display(),
            self.address,
            self.settings,
            self.source.clone().unwrap_or_else(|| self.archive.source(self.dir.path())),
        );
        let path = self.folder("central.toml");
        std::fs::write(&path, text).unwrap();
        let file: central_config::File = tierway_common::daemon::config::load(&path).unwrap();
        let config = central_config::Config::new(file, "localhost").unwrap();
        let stop = Stop::new();
        let start = async || central_server::start(config.clone(), self.clock.clone(), stop.clone()).await;
        let running = listening(start).await;
        self.address = running.address;
        self.central = Some(Node { running, stop });
    }

    /// Stops central and waits for its end.
    pub async fn stop_central(&mut self) {
        let Node { running, stop } = self.central.take().unwrap();
        stop.request();
        running.ended().await;
    }

    /// To central, as whom `init` set the operator up.
    fn operator(&self) -> Channel {
        let files = IdentityFiles::in_dir(&self.folder("central").join("operator"));
        let identity = Identity::load(&files).unwrap();
        dial::channel(Route::direct(&self.address.to_string()), &identity)
    }

    /// What the operator asks.
    pub async fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.operator())
    }

    /// What the operator asks about policy.
    pub async fn policies(&self) -> PoliciesClient<Channel> {
        PoliciesClient::new(self.operator())
    }

    /// Central reads the archive and publishes what it found.
    pub async fn sync(&self) {
        let request = v1::SyncSourceRequest { name: None };
        let mut progress = self.admin().await.sync_source(request).await.unwrap().into_inner();
        while progress.message().await.unwrap().is_some() {}
        self.published().await;
    }

    /// Waits until everything that was decided or read is published.
    pub async fn published(&self) {
        let central = self.central.as_ref().unwrap().running.central.clone();
        until("what changed is published", async || {
            let publisher = central.clone();
            let published = tokio::task::spawn_blocking(move || publisher.publisher.publish()).await.unwrap();
            !matches!(published.unwrap(), Outcome::Published { .. })
        })
        .await;
    }

    /// A token of `role` at `site` for a machine that connects to `server`.
    pub async fn token(&self, role: &str, site: &str, server: SocketAddr) -> Token {
        let request = v1::CreateTokenRequest {
            role: role.to_owned(),
            site: site.to_owned(),
            uses: 1,
            valid_seconds: 3600,
            server: Some(server.to_string()),
            groups: Vec::new(),
            name: String::new(),
        };
        self.admin().await.create_token(request).await.unwrap().into_inner().token.parse().unwrap()
    }

    /// A relay at `site` that joined and serves.
    pub async fn relay(&self, site: &str) -> Relay {
        self.relay_behind(site, self.address).await
    }

    /// A relay at `site` that joined through `upstream` and serves.
    pub async fn relay_behind(&self, site: &str, upstream: SocketAddr) -> Relay {
        let token = self.token("relay", site, upstream).await;
        let data_dir = self.folder(&format!("relay-{site}"));
        joining::join(&token, None, None, &format!("relay-{site}"), "0.0.0", &data_dir).await.unwrap();
        let config = RelayConfig {
            data_dir,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            disk_free_bytes_min: 0,
            ..RelayConfig::default()
        };
        let mut relay = Relay { node: None, address: config.listen, config, clock: self.clock.clone() };
        relay.start().await;
        relay
    }

    /// An endpoint at `site` that patches `root` through `upstream`, enrolled and not yet running.
    pub async fn enroll(&self, name: &str, site: &str, upstream: SocketAddr, root: &Path) -> Endpoint {
        let token = self.token("endpoint", site, upstream).await;
        let data_dir = self.folder(&format!("endpoint-{name}"));
        let joined = joining::join(&token, None, None, name, agent::VERSION, &data_dir).await.unwrap();
        let config = EndpointConfig {
            local_socket: data_dir.join("local.sock"),
            data_dir,
            root: root.to_owned(),
            disk_free_bytes_min: 0,
            payload_patience: Duration::from_secs(20),
            // Or else it would check by itself between what a test decides and what it looks at.
            notice_spread: Duration::from_secs(365 * 24 * 3600),
            ..EndpointConfig::default()
        };
        let id = joined.identity.own().holder.id;
        Endpoint { node: None, config, id, clock: self.clock.clone() }
    }

    /// What central says of an endpoint's update; `None` when it says nothing.
    pub async fn state(&self, endpoint: &str, patch: &str) -> Option<v1::EndpointPatch> {
        let request = v1::GetEndpointRequest { name_or_id: endpoint.to_owned() };
        let detail = self.admin().await.get_endpoint(request).await.ok()?.into_inner();
        detail.patches.into_iter().find(|row| row.patch == patch)
    }

    /// Waits until central says that the endpoint's update is in `state`.
    pub async fn until_state(&self, endpoint: &str, patch: &str, state: &str) -> v1::EndpointPatch {
        let what = format!("`{patch}` is {state}");
        until(&what, async || self.state(endpoint, patch).await.is_some_and(|row| row.state == state)).await;
        self.state(endpoint, patch).await.unwrap()
    }

    /// Approves updates for everyone.
    pub async fn approve(&self, patches: &[&str]) {
        let request = v1::DecidePatchesRequest {
            patches: patches.iter().map(|patch| (*patch).to_owned()).collect(),
            all_needed: false,
            group: "everyone".to_owned(),
            decision: "approve".to_owned(),
            ..v1::DecidePatchesRequest::default()
        };
        self.admin().await.decide_patches(request).await.unwrap();
        self.published().await;
    }
}

impl Relay {
    /// Starts it, at its address when it had one.
    pub async fn start(&mut self) {
        self.config.listen = self.address;
        let stop = Stop::new();
        let start = async || relay_server::start(self.config.clone(), self.clock.clone(), stop.clone()).await;
        let running = listening(start).await;
        self.address = running.address;
        self.node = Some(Node { running, stop });
    }

    /// Stops it and waits for its end.
    pub async fn stop(&mut self) {
        let Node { running, stop } = self.node.take().unwrap();
        stop.request();
        running.ended().await;
    }

    /// Waits for its end without asking for it; why it ended.
    pub async fn ended(&mut self) -> Option<String> {
        let Node { running, stop: _stop } = self.node.take().unwrap();
        running.ended().await
    }

    /// What runs.
    #[must_use]
    pub fn running(&self) -> &RelayRunning {
        &self.node.as_ref().unwrap().running
    }

    /// Waits until it mirrors what central publishes now.
    pub async fn caught_up(&self, fleet: &Fleet) {
        let central = fleet.central.as_ref().unwrap().running.central.clone();
        let running = self.running();
        let wanted = central.publisher.timestamp().0;
        assert!(running.board.wake("sync"));
        until("the relay has caught up", async || running.mirror.head().timestamp_version >= wanted).await;
    }

    /// Waits until nothing waits to go up.
    pub async fn forwarded(&self) {
        let running = self.running();
        let _ = running.board.wake("forward");
        until("the outbox is empty", async || running.outbox.fill().reports == 0).await;
    }
}

impl Endpoint {
    /// Starts its agent, which begins with a check of its own.
    pub async fn start(&mut self) {
        let stop = Stop::new();
        let running = agent::start(self.config.clone(), self.clock.clone(), stop.clone()).await.unwrap();
        self.node = Some(Node { running, stop });
    }

    /// Stops its agent and waits for its end.
    pub async fn stop(&mut self) {
        let Node { running, stop } = self.node.take().unwrap();
        stop.request();
        running.ended().await;
    }

    /// Runs a check and returns what it came to.
    pub async fn check(&self) -> v1::LocalCheckNowResponse {
        let (reply, done) = oneshot::channel();
        let running = &self.node.as_ref().unwrap().running;
        running.asks.send(Ask::CheckNow(reply)).await.unwrap();
        done.await.unwrap()
    }

    /// Asks why.
    pub async fn why(&self, patch: &str) -> Result<v1::LocalWhyResponse, String> {
        let (reply, done) = oneshot::channel();
        let running = &self.node.as_ref().unwrap().running;
        running.asks.send(Ask::Why(patch.to_owned(), reply)).await.unwrap();
        done.await.unwrap()
    }

    /// What it says of itself.
    #[must_use]
    pub fn status(&self) -> Arc<v1::LocalStatus> {
        self.node.as_ref().unwrap().running.status.borrow().clone()
    }
}

/// Starts what listens where it did before; the system may have lent its port to somebody's connection meanwhile.
async fn listening<T, E: Error + 'static>(start: impl AsyncFn() -> Result<T, E>) -> T {
    let mut started = None;
    until("its port is free again", async || match start().await {
        Ok(running) => {
            started = Some(running);
            true
        }
        Err(error) => {
            assert!(is_taken(&error), "{}", Chain(&error));
            false
        }
    })
    .await;
    started.unwrap()
}

fn is_taken(error: &(dyn Error + 'static)) -> bool {
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    kind == Some(io::ErrorKind::AddrInUse) || error.source().is_some_and(is_taken)
}

/// Waits until `holds`, and fails the test when that takes too long.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "waited in vain until {what}");
}
