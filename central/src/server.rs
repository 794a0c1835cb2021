//! Central as a whole: what is opened, which tasks run, how it ends.

pub mod tasks;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::{Timestamp, civil::Time};
use ring::rand::SystemRandom;
use tierway_common::{
    blobs::{BlobError, BlobOptions, Blobs},
    clock::Clock,
    daemon::{
        stop::Stop,
        tasks::{Board, Tasks, Wake},
    },
    id::{CatalogueId, SourceId},
    store::{
        Store, StoreError,
        failing::{Ending, stop_when_failed},
        sled_store::{Options, SledStore},
    },
    transport::{
        accept::{self, Gauge},
        tls::{Identity, IdentityError, IdentityFiles},
    },
    trust::{
        digest::Digest,
        keys::{KeyError, SigningKey},
    },
};
use tierway_proto::{
    OPERATOR_ANSWER_BYTES_MAX,
    blob_stream::BlobStreams,
    notices::Notices,
    v1::{
        admin_server::AdminServer, packages_server::PackagesServer, policies_server::PoliciesServer,
        upstream_server::UpstreamServer,
    },
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tonic::service::Routes;
use tracing::{info, warn};

use crate::{
    catalog::{Applied, Catalog, CatalogError},
    config::Config,
    download::{Payloads, Progress},
    enroll::{Enrollment, NewIds},
    init::{self, InitError},
    inventory::{
        Inventory,
        inbox::{Inbox, Intake, inbox},
    },
    layout::Layout,
    leases::Leases,
    packages::Packages,
    publish::{PublishError, Publisher},
    rpc::{
        admin::AdminService,
        gate::Gate,
        packages::PackagesService,
        policies::PoliciesService,
        upstream::{Served, UpstreamService},
    },
    sources::{
        Source, SourceConfig, SourceError,
        fetch::{FetchError, HttpFetch},
        payloads::Which,
    },
    state::State,
};

/// This program's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Longest message taken: a batch of reports and its framing.
const REQUEST_BYTES_MAX: usize = (1 << 20) + (64 << 10);
/// Longest message sent to other tiers: metadata.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// What running tasks get to end.
const GRACE: Duration = Duration::from_secs(30);
/// Memory for the store's pages: the rows of 20,000 endpoints with 300 states each, which a list of them all reads page by
/// page in the order of names.
const STORE_CACHE_BYTES: u64 = 128 << 20;

/// Why central does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It was not initialised, or what `init` wrote is damaged.
    #[error("could not take up what `init` set up")]
    Init(#[from] InitError),
    /// The store.
    #[error("could not open the store")]
    Store(#[from] StoreError),
    /// The blobs.
    #[error("could not open the blobs")]
    Blobs(#[from] BlobError),
    /// The signing key.
    #[error("could not read the signing key")]
    Key(#[from] KeyError),
    /// What is published.
    #[error("could not take up what is published")]
    Publish(#[from] PublishError),
    /// The catalogues of sources that were removed.
    #[error("could not withdraw what no source gives any more")]
    Withdraw(#[from] CatalogError),
    /// Its identity.
    #[error("could not take up central's identity")]
    Identity(#[from] IdentityError),
    /// A source.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The HTTP client of a source.
    #[error("could not set up the downloads of the source `{name}`")]
    Fetch {
        /// Which.
        name: SourceId,
        /// Why.
        source: FetchError,
    },
    /// The address is taken, or not this machine's.
    #[error("could not listen on `{address}`")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// A source of updates, ready to be read.
#[derive(Debug)]
pub struct Feed {
    /// As configured.
    pub config: SourceConfig,
    /// Reads it.
    pub source: Source,
    /// One reader at a time, whoever asked for it; what changed when it was read last.
    pub reading: tokio::sync::Mutex<Applied>,
}

/// Everything that services and tasks share.
#[derive(Debug)]
pub struct Central {
    /// As configured.
    pub config: Config,
    /// Store and model.
    pub state: Arc<State>,
    /// Identities.
    pub enrollment: Enrollment,
    /// Who of a window may be down.
    pub leases: Leases,
    /// What is published.
    pub publisher: Publisher,
    /// Catalogues.
    pub catalog: Catalog,
    /// Their trees.
    pub trees: Blobs,
    /// Payloads.
    pub payloads: Payloads<HttpFetch>,
    /// An administrator's own packages.
    pub packages: Packages,
    /// Reports.
    pub inbox: Inbox,
    /// Sources by name.
    pub feeds: BTreeMap<SourceId, Feed>,
    /// `1.root.json`.
    pub root_metadata: Vec<u8>,
    /// Wake-ups for whoever watches.
    pub notices: Notices,
    /// How the running download is.
    pub downloading: watch::Sender<Progress>,
    /// One download at a time, whoever asked for it.
    pub download: tokio::sync::Mutex<()>,
    /// When the daily download is due next.
    pub download_due: Mutex<Option<Timestamp>>,
    /// Makes the task of the daily download look at its settings again.
    pub download_settings_changed: Wake,
    /// Wakes the task that approves by rules.
    pub rules: Wake,
    /// Wakes the task that opens rings and trusts updates.
    pub rollouts: Wake,
    /// How the tasks are.
    pub board: Board,
    /// The wish to stop.
    pub stop: Stop,
}

/// The daily download as it is set now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DownloadSettings {
    /// Daily, or only by hand.
    pub enabled: bool,
    /// Time of day.
    pub at: Time,
    /// Which payloads.
    pub which: Which,
}

impl Central {
    /// The daily download: as an operator set it, else as configured.
    #[must_use]
    pub fn download_settings(&self) -> DownloadSettings {
        let model = self.state.model();
        let set = model.download();
        DownloadSettings {
            enabled: set.enabled.unwrap_or(self.config.download_enabled),
            at: set.at.unwrap_or(self.config.download_at),
            which: set.which.unwrap_or(self.config.download_which),
        }
    }
}

/// A central that listens.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it knows and does.
    pub central: Arc<Central>,
    tasks: Tasks,
    intake: JoinHandle<()>,
    ending: Ending,
}

impl Running {
    /// Returns when the stop signal came, everything has ended and the store is closed; why, when it ended without having
    /// been asked to.
    pub async fn ended(self) -> Option<String> {
        let Self { address: _, central, tasks, intake, ending } = self;
        tasks.ended(GRACE).await;
        drop(central);
        // It ends when nobody is left who could hand in a report.
        if tokio::time::timeout(GRACE, intake).await.is_err() {
            warn!("something still uses the store");
        }
        ending.why()
    }
}

/// What is around a central.
#[derive(Debug)]
pub struct Around {
    /// What it remembers everything in.
    pub store: Arc<dyn Store>,
    /// The ids of new machines.
    pub ids: NewIds,
    /// The time.
    pub clock: Clock,
    /// How its tasks are.
    pub board: Board,
    /// The wish to stop.
    pub stop: Stop,
}

/// What answers at central's door.
pub type Door = BlobStreams<Served, Routes>;

/// Opens everything, and does nothing yet: reports are taken in once [`Intake::run`] runs.
///
/// # Errors
///
/// [`StartError`], naming what does not open.
pub fn open(config: Config, around: Around) -> Result<(Arc<Central>, Intake), StartError> {
    let Around { store, ids, clock, board, stop } = around;
    let layout = Layout::new(&config.data_dir);
    let authority = init::authority(&layout)?;
    let root_metadata = init::read(&layout.trust_root())?;
    let online = SigningKey::load(&layout.online_key())?;
    let state = Arc::new(State::open(config.tenant.clone(), store, clock.clone())?);
    let free = config.disk_free_bytes_min;
    let of_trees = BlobOptions { quota_bytes: config.tree_bytes_max, free_floor_bytes: free };
    let trees = Blobs::open_with_clock(&layout.trees(), of_trees, clock.clone())?;
    let of_payloads = BlobOptions::of_payloads(config.payload_bytes_max, free);
    let payload_blobs = Blobs::open_with_clock(&layout.payloads(), of_payloads, clock.clone())?;
    trees.be_the_source();
    payload_blobs.be_the_source();
    let catalog = Catalog::new(state.clone(), trees.clone());
    catalog.withdraw(&config.sources)?;
    let publisher = Publisher::open(state.clone(), trees.clone(), &root_metadata, online)?;
    let random = Arc::new(SystemRandom::new());
    let leases = Leases::open(state.clone(), init::lease_key(&layout, random.as_ref())?)?;
    let root_digest = Digest::of(&root_metadata);
    let mut enrollment = Enrollment::new(state.clone(), authority, root_digest, config.renewal_grace, random);
    enrollment.name_by(ids);

    let (mut feeds, mut fetches) = (BTreeMap::new(), BTreeMap::<CatalogueId, HttpFetch>::new());
    for config in &config.sources {
        let source = Source::new(config.clone(), &layout.cache())?;
        let fetch =
            config.client().map_err(|source| StartError::Fetch { name: config.name().clone(), source })?;
        if let Some(catalogue) = config.catalogue() {
            fetches.insert(catalogue.clone(), fetch);
        }
        let feed = Feed { config: config.clone(), source, reading: tokio::sync::Mutex::default() };
        feeds.insert(config.name().clone(), feed);
    }
    let packages = Packages::open(state.clone(), catalog.clone(), payload_blobs.clone())?;
    let payloads = Payloads::new(
        state.clone(),
        trees.clone(),
        payload_blobs,
        fetches,
        config.download_options,
        config.on_demand,
        stop.clone(),
    );

    let (inbox, intake) = inbox(Inventory::new(state.clone()));
    let notices = Notices::new(state.clock().clone());
    let (downloading, _) = watch::channel(Progress::default());
    let central = Arc::new(Central {
        config,
        catalog,
        state,
        enrollment,
        leases,
        publisher,
        trees,
        payloads,
        packages,
        inbox,
        feeds,
        root_metadata,
        notices,
        downloading,
        download: tokio::sync::Mutex::default(),
        download_due: Mutex::default(),
        download_settings_changed: Wake::default(),
        rules: Wake::default(),
        rollouts: Wake::default(),
        board,
        stop,
    });
    Ok((central, intake))
}

/// What answers whoever calls.
#[must_use]
pub fn door(central: &Arc<Central>) -> Door {
    let gate = Gate::new(central.state.clone());
    let upstream = UpstreamServer::new(UpstreamService::new(central.clone(), gate.clone()))
        .max_decoding_message_size(REQUEST_BYTES_MAX)
        .max_encoding_message_size(ANSWER_BYTES_MAX);
    let admin = AdminServer::new(AdminService::new(central.clone(), gate.clone()))
        .max_decoding_message_size(REQUEST_BYTES_MAX)
        .max_encoding_message_size(OPERATOR_ANSWER_BYTES_MAX);
    let policies = PoliciesServer::new(PoliciesService::new(central.clone(), gate.clone()))
        .max_decoding_message_size(REQUEST_BYTES_MAX)
        .max_encoding_message_size(OPERATOR_ANSWER_BYTES_MAX);
    let packages = PackagesServer::new(PackagesService::new(central.clone(), gate.clone()))
        .max_decoding_message_size(REQUEST_BYTES_MAX)
        .max_encoding_message_size(OPERATOR_ANSWER_BYTES_MAX);
    let services =
        Routes::new(upstream).add_service(admin).add_service(policies).add_service(packages).prepare();
    BlobStreams::new(Served::new(central.clone(), gate), services)
}

/// Opens everything and starts to serve.
///
/// # Errors
///
/// [`StartError`], naming what does not open.
pub async fn start(config: Config, clock: Clock, stop: Stop) -> Result<Running, StartError> {
    let layout = Layout::new(&config.data_dir);
    let identity = Identity::load(&IdentityFiles::in_dir(&layout.identity()))?;
    let options = Options { cache_bytes: STORE_CACHE_BYTES, ..Options::default() };
    let store: Arc<dyn Store> = Arc::new(SledStore::open_with(&layout.store(), options)?);
    let (mut tasks, ending) = (Tasks::new(clock.clone(), stop.clone()), Ending::default());
    let watched = store.clone();
    tasks.spawn("store", stop_when_failed(move || watched.failure(), stop.clone(), ending.clone()));
    let (listen, limits) = (config.listen, config.limits.clone());
    let around = Around { store, ids: NewIds::default(), clock, board: tasks.board(), stop: stop.clone() };
    let (central, intake) = open(config, around)?;

    let listener =
        TcpListener::bind(listen).await.map_err(|source| StartError::Listen { address: listen, source })?;
    let address = listener.local_addr().map_err(|source| StartError::Listen { address: listen, source })?;
    let intake = tokio::spawn(intake.run());
    tasks::begin(&mut tasks, &central, &identity);
    let answer = door(&central);
    tasks.spawn("serve", accept::serve(listener, identity, answer, limits, Gauge::default(), stop));
    info!(%address, tenant = %central.state.tenant(), "serving");
    Ok(Running { address, central, tasks, intake, ending })
}
