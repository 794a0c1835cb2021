//! Many computers that only listen: each with an identity and a connection of its own, and one stream of
//! wake-ups on it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use tierway_common::{
    enrollment::Applicant,
    notices::{Event, Notice},
    transport::{
        dial::{self, Route},
        identity::Role,
        tls::Identity,
    },
};
use tierway_endpoint::agent;
use tierway_proto::{notices, upstream::Upstream, v1};
use tokio::{sync::mpsc, task::JoinSet};

use crate::fleet::Fleet;

/// Connections that are made at once: a handshake must end within seconds, also on a small machine.
const CONNECTING: usize = 32;
/// Who connects tries so often: the door may be busy.
const TRIES: usize = 5;

/// Somebody was told something.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Who, as in [`Crowd::listeners`].
    pub who: usize,
    /// What.
    pub notice: Notice,
    /// When it had come through.
    pub at: Instant,
}

/// One of the crowd.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Its id.
    pub id: String,
    upstream: Upstream,
}

impl Listener {
    /// Checks in as an endpoint does that trusts the metadata of this version; the version that is out.
    pub async fn check_in(&self, timestamp_version: u64, answered: Vec<u64>) -> u64 {
        let request = v1::CheckInRequest {
            timestamp_version,
            agent_version: agent::VERSION.to_owned(),
            answered,
            ..v1::CheckInRequest::default()
        };
        self.upstream.check_in(request).await.unwrap().timestamp_version
    }
}

/// All of them; they leave when this is dropped.
#[derive(Debug)]
pub struct Crowd {
    /// Who listens.
    pub listeners: Vec<Listener>,
    heard: mpsc::UnboundedReceiver<Heard>,
    streams: JoinSet<()>,
}

impl Crowd {
    /// So many endpoints of `site`, with certificates of central's own authority, that listen to the tier at
    /// `above` and trust the metadata of version `has`. Returns when each has its stream.
    pub async fn gather(fleet: &Fleet, site: &str, above: SocketAddr, count: usize, has: u64) -> Self {
        let identities = identities(fleet, site, count).await;
        let (told, heard) = mpsc::unbounded_channel();
        let connected: Vec<_> = stream::iter(identities)
            .map(|(id, identity)| async move {
                let upstream = Upstream::new(dial::channel(Route::direct(&above.to_string()), &identity));
                for _ in 1..TRIES {
                    if let Ok(stream) = upstream.watch(has).await {
                        return (Listener { id, upstream }, stream);
                    }
                }
                let stream = upstream.watch(has).await.unwrap();
                (Listener { id, upstream }, stream)
            })
            .buffered(CONNECTING)
            .collect()
            .await;
        let mut streams = JoinSet::new();
        let mut listeners = Vec::new();
        for (who, (listener, mut stream)) in connected.into_iter().enumerate() {
            let told = told.clone();
            streams.spawn(async move {
                while let Ok(Some(notice)) = stream.message().await {
                    if let Some(notice) = notices::read(notice)
                        && told.send(Heard { who, notice, at: Instant::now() }).is_err()
                    {
                        return;
                    }
                }
            });
            listeners.push(listener);
        }
        Self { listeners, heard, streams }
    }

    /// Who is told within `patience` that something newer than `before` is out, each once, in the order in which
    /// they hear it; returns as soon as `count` have.
    pub async fn told(&mut self, before: u64, count: usize, patience: Duration) -> Vec<Heard> {
        let wanted = |notice: &Notice| matches!(notice.event, Event::Published(version) if version > before);
        let mut first = BTreeMap::new();
        let end = tokio::time::Instant::now() + patience;
        while first.len() < count {
            let Ok(Some(heard)) = tokio::time::timeout_at(end, self.heard.recv()).await else { break };
            if wanted(&heard.notice) {
                first.entry(heard.who).or_insert(heard);
            }
        }
        let mut told: Vec<Heard> = first.into_values().collect();
        told.sort_by_key(|heard| heard.at);
        told
    }

    /// What has been heard and not been asked for.
    pub fn rest(&mut self) -> Vec<Heard> {
        std::iter::from_fn(|| self.heard.try_recv().ok()).collect()
    }

    /// How many streams are open.
    #[must_use]
    pub fn listening(&self) -> usize {
        self.streams.len()
    }
}

async fn identities(fleet: &Fleet, site: &str, count: usize) -> Vec<(String, Identity)> {
    let central = fleet.central.as_ref().unwrap().running.central.clone();
    let (dir, site) = (fleet.folder("crowd"), site.parse().unwrap());
    tokio::task::spawn_blocking(move || {
        let one = |_| {
            let (applicant, id) = (Applicant::new().unwrap(), uuid::Uuid::new_v4().to_string());
            let csr = applicant.csr_der();
            let issued = central.enrollment.issue_directly(Role::Endpoint, &site, &id, csr).unwrap();
            let files = applicant.keep(&issued.chain, &dir.join(&id)).unwrap();
            let identity = Identity::load(&files).unwrap();
            (id, identity)
        };
        (0..count).map(one).collect()
    })
    .await
    .unwrap()
}
