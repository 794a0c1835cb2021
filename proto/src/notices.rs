//! The streams of `Watch`, the same at central and at a relay: whoever holds one is sent what
//! [`tierway_common::notices`] says is due.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{Stream, stream};
use jiff::Timestamp;
use tierway_common::{
    clock::Clock,
    id::EndpointId,
    notices::{Absent, Audience, Connection, ENDPOINTS_PER_ORDER_MAX, Event, Notice, Order, Table},
    transport::identity::{PeerIdentity, Role},
};
use tokio::sync::Notify;

use crate::v1::{self, notice::Kind};

/// Ids that one check-in may name.
pub const ANSWERED_MAX: usize = 256;

/// Everybody who watches; cheap to clone.
#[derive(Clone, Debug)]
pub struct Notices {
    shared: Arc<Mutex<Shared>>,
    clock: Clock,
}

#[derive(Debug)]
struct Shared {
    table: Table,
    /// Of each peer's newest stream.
    streams: HashMap<String, Arc<Notify>>,
}

impl Shared {
    fn wake(&self, id: &str) {
        if let Some(stream) = self.streams.get(id) {
            stream.notify_one();
        }
    }
}

impl Notices {
    /// Nobody watches.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        let shared = Shared { table: Table::new(clock.now()), streams: HashMap::new() };
        Self { shared: Arc::new(Mutex::new(shared)), clock }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells those whom it is worth a check that something came out with this timestamp version.
    pub fn published(&self, version: u64, audience: Audience) {
        let now = self.clock.now();
        self.shared().table.publish(version, audience, now);
        self.send_due();
    }

    /// Says that what was told of later versions than this was taken back by a newer root of trust.
    pub fn taken_back(&self, version: u64) {
        self.shared().table.take_back(version);
    }

    /// Passes an order on: to each endpoint that is named, and as it is to the relays below.
    pub fn order(&self, order: &Order) {
        self.order_each(order);
        let shared = Arc::new(order.clone());
        let relays = self.shared().table.relays();
        for relay in relays {
            self.order_by_way_of(&relay, shared.clone(), Absent::Drop);
        }
    }

    /// Tells each endpoint that is named: who watches, or all when those who are away are meant too.
    pub fn order_each(&self, order: &Order) {
        let now = self.clock.now();
        let Order { ref endpoints, report_inventory, roaming, offline, crowd } = *order;
        let absent = if offline { Absent::Hold } else { Absent::Drop };
        let mut shared = self.shared();
        for endpoint in endpoints {
            let own = Order { endpoints: vec![endpoint.clone()], report_inventory, roaming, offline, crowd };
            shared.table.wish(endpoint.as_str(), Event::Check(Arc::new(own)), absent, now);
            shared.wake(endpoint.as_str());
        }
    }

    /// Has one peer told of an order, whoever is named in it.
    pub fn order_by_way_of(&self, peer: &str, order: Arc<Order>, absent: Absent) {
        let now = self.clock.now();
        let mut shared = self.shared();
        shared.table.wish(peer, Event::Check(order), absent, now);
        shared.wake(peer);
    }

    /// Tells an endpoint, and the relays below, that it must send everything again.
    pub fn resync(&self, endpoint: &EndpointId) {
        let now = self.clock.now();
        let mut shared = self.shared();
        let mut told = shared.table.relays();
        told.push(endpoint.to_string());
        for peer in told {
            shared.table.wish(&peer, Event::Resync(endpoint.clone()), Absent::Drop, now);
            shared.wake(&peer);
        }
    }

    /// A peer checked in and names the notices it follows.
    pub fn answered(&self, peer: &PeerIdentity, named: &[u64]) {
        self.shared().table.answered(&peer.holder.id, &named[..named.len().min(ANSWERED_MAX)]);
    }

    /// Whether somebody watches.
    #[must_use]
    pub fn is_watching(&self, peer: &str) -> bool {
        self.shared().table.is_connected(peer)
    }

    /// When something is to be sent to anybody next.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        self.shared().table.next_due()
    }

    /// When [`Notices::send_due`] is to run next.
    #[must_use]
    pub fn next_look(&self, now: Timestamp) -> Option<Timestamp> {
        self.shared().table.next_look(now)
    }

    /// Sends what is due: for a task that runs when [`Notices::next_look`] says.
    pub fn send_due(&self) {
        let now = self.clock.now();
        let shared = self.shared();
        for peer in shared.table.due(now) {
            shared.wake(peer);
        }
    }

    /// What `peer`, who has the publication `has`, is sent from now on. The stream has no end; an earlier one
    /// of the same peer is silent from now on.
    pub fn watch(&self, peer: &PeerIdentity, has: u64) -> impl Stream<Item = v1::Notice> + Send + use<> {
        let (id, now) = (peer.holder.id.clone(), self.clock.now());
        let news = Arc::new(Notify::new());
        // Something may be due already.
        news.notify_one();
        let mut shared = self.shared();
        let connection = shared.table.connect(&id, peer.holder.role == Role::Relay, has, now);
        shared.streams.insert(id.clone(), news.clone());
        drop(shared);
        let watching = Watching { notices: self.clone(), id, connection, news, taken: VecDeque::new() };
        stream::unfold(watching, |mut watching| async {
            let notice = watching.next().await;
            Some((message(notice), watching))
        })
    }
}

/// One stream; when it is dropped the peer is away.
struct Watching {
    notices: Notices,
    id: String,
    connection: Connection,
    news: Arc<Notify>,
    taken: VecDeque<Notice>,
}

impl Watching {
    async fn next(&mut self) -> Notice {
        loop {
            if let Some(notice) = self.taken.pop_front() {
                return notice;
            }
            self.news.notified().await;
            let now = self.notices.clock.now();
            self.taken.extend(self.notices.shared().table.take_due(&self.id, self.connection, now));
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let now = self.notices.clock.now();
        let mut shared = self.notices.shared();
        if shared.streams.get(&self.id).is_some_and(|news| Arc::ptr_eq(news, &self.news)) {
            shared.streams.remove(&self.id);
        }
        shared.table.disconnect(&self.id, self.connection, now);
    }
}

fn message(notice: Notice) -> v1::Notice {
    let Notice { id, event } = notice;
    let kind = match event {
        Event::Published(version) => Kind::Published(version),
        Event::Resync(endpoint) => Kind::Resync(endpoint.to_string()),
        Event::Check(order) => {
            let Order { endpoints, report_inventory, roaming, offline, crowd } = &*order;
            Kind::CheckNow(v1::CheckNow {
                endpoints: endpoints.iter().map(ToString::to_string).collect(),
                report_inventory: *report_inventory,
                include_roaming: *roaming,
                include_offline: *offline,
                crowd: *crowd,
            })
        }
    };
    v1::Notice { id, kind: Some(kind) }
}

/// What a notice says; `None` when it says nothing that this program understands: a name that is none, more
/// endpoints than may be named at once, or a kind of later times.
#[must_use]
pub fn read(notice: v1::Notice) -> Option<Notice> {
    let v1::Notice { id, kind } = notice;
    let event = match kind? {
        Kind::Published(version) => Event::Published(version),
        Kind::Resync(endpoint) => Event::Resync(endpoint.parse().ok()?),
        Kind::CheckNow(order) => {
            let v1::CheckNow { endpoints, report_inventory, include_roaming, include_offline, crowd } = order;
            if endpoints.len() > ENDPOINTS_PER_ORDER_MAX {
                return None;
            }
            Event::Check(Arc::new(Order {
                endpoints: endpoints.into_iter().map(|id| id.parse().ok()).collect::<Option<_>>()?,
                report_inventory,
                roaming: include_roaming,
                offline: include_offline,
                crowd,
            }))
        }
    };
    Some(Notice { id, event })
}
