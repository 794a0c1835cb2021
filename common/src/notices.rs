//! Who was told what: the wake-ups that a tier sends down the streams which its peers hold open.
//!
//! A table of peers and of what each of them has not answered yet, moved only by its calls, with the time as
//! an argument. What is not answered is sent again after [`RESEND_AFTER`], [`SENDS_MAX`] times in all; then
//! there is silence until the peer connects again, which brings it once more. Central and relays use the same.
//!
//! A publication is answered by any check-in, whose own answer brings it. A wish of a person is answered by its
//! id, since a check-in that was on its way already knows nothing of it.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};

use crate::id::EndpointId;

/// What is not answered is sent again after so long.
pub const RESEND_AFTER: SignedDuration = SignedDuration::from_mins(15);
/// And not more often than this in all, while the peer stays connected.
pub const SENDS_MAX: u32 = 5;
/// Wishes that wait for the answer of one peer; the oldest are dropped. An endpoint cannot have so many
/// different ones, a relay has one for each [`ENDPOINTS_PER_ORDER_MAX`] endpoints.
pub const WISHES_MAX: usize = 256;
/// Endpoints that one order names; 36 bytes each.
pub const ENDPOINTS_PER_ORDER_MAX: usize = 1_024;
/// Peers that are not connected and for whom something is held; who left longest ago is dropped first.
pub const ABSENT_MAX: usize = 20_000;
/// It is looked at least so often whether something is due…
const LOOK_EVERY: SignedDuration = SignedDuration::from_mins(1);
/// …and no more often: what is due to a peer that does not read stays due.
const LOOK_APART: SignedDuration = SignedDuration::from_secs(1);
/// For so long something is held for a peer that is not connected, from the last wish on.
pub const HELD_FOR: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Something is published that is worth a check: the version of its timestamp metadata.
    Published(u64),
    /// Somebody wants endpoints to check now.
    Check(Arc<Order>),
    /// This endpoint must send everything again.
    Resync(EndpointId),
}

/// Somebody's wish that endpoints check now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// Which; at most [`ENDPOINTS_PER_ORDER_MAX`].
    pub endpoints: Vec<EndpointId>,
    /// All facts and states are reported, not only what changed.
    pub report_inventory: bool,
    /// Also those that are on the road.
    pub roaming: bool,
    /// Also those that are not connected, when they come.
    pub offline: bool,
    /// Many are told at once, so that each takes its place in a short interval.
    pub crowd: bool,
}

/// Something that is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// By which it is answered; the same each time it is sent.
    pub id: u64,
    /// What is told.
    pub event: Event,
}

/// Whom a publication is worth a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Every computer.
    Everybody,
    /// Relays, which take over everything as soon as it is out.
    Relays,
}

/// One stream of one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection(u64);

/// What happens to a notice for somebody who is not connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// It is held until he comes.
    Hold,
    /// It is dropped.
    Drop,
}

#[derive(Debug)]
struct Waiting {
    notice: Notice,
    sends: u32,
    /// When it is sent next; `None` after the last time.
    due: Option<Timestamp>,
}

impl Waiting {
    fn new(id: u64, event: Event, now: Timestamp) -> Self {
        Self { notice: Notice { id, event }, sends: 0, due: Some(now) }
    }

    /// Sends it if it is time.
    fn send(&mut self, now: Timestamp) -> Option<Notice> {
        self.due.filter(|due| *due <= now)?;
        self.sends = self.sends.saturating_add(1);
        self.due = if self.sends < SENDS_MAX { now.checked_add(RESEND_AFTER).ok() } else { None };
        Some(self.notice.clone())
    }
}

#[derive(Debug, Default)]
struct Peer {
    connection: Option<Connection>,
    relay: bool,
    published: Option<Waiting>,
    wishes: VecDeque<Waiting>,
    /// Its place among the absent, and since when.
    absent: Option<(u64, Timestamp)>,
}

impl Peer {
    fn next(&self) -> Option<Timestamp> {
        self.published.iter().chain(&self.wishes).filter_map(|waiting| waiting.due).min()
    }

    fn waiting(&mut self) -> impl Iterator<Item = &mut Waiting> {
        self.published.iter_mut().chain(&mut self.wishes)
    }
}

/// The table. All of it is in memory: after a restart publications are told to whoever lacks them, and wishes
/// that nobody had answered are forgotten.
#[derive(Debug)]
pub struct Table {
    peers: HashMap<String, Peer>,
    absent: BTreeMap<u64, String>,
    /// Id and version of the newest publication for everybody.
    news: (u64, u64),
    /// The same for relays.
    relay_news: (u64, u64),
    next_id: u64,
    next_connection: u64,
}

impl Table {
    /// Nobody is connected. Ids begin at the time, so that those of an earlier run are not given again.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        let next_id = u64::try_from(now.as_microsecond()).unwrap_or(1);
        Self {
            peers: HashMap::new(),
            absent: BTreeMap::new(),
            news: (0, 0),
            relay_news: (0, 0),
            next_id,
            next_connection: 0,
        }
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Tells peers of a publication; one that is not newer than the last is nothing new.
    pub fn publish(&mut self, version: u64, audience: Audience, now: Timestamp) {
        let news = (self.id(), version);
        let relays = version > self.relay_news.1;
        let endpoints = audience == Audience::Everybody && version > self.news.1;
        if relays {
            self.relay_news = news;
        }
        if endpoints {
            self.news = news;
        }
        for peer in self.peers.values_mut().filter(|peer| peer.connection.is_some()) {
            if if peer.relay { relays } else { endpoints } {
                peer.published = Some(Waiting::new(news.0, Event::Published(version), now));
            }
        }
    }

    /// What was told of later versions than this was taken back: it and what follows are news again.
    pub fn take_back(&mut self, version: u64) {
        for news in [&mut self.news, &mut self.relay_news] {
            news.1 = news.1.min(version.saturating_sub(1));
        }
    }

    /// A peer opens a stream and has the publication `has`. Everything it has not answered is due. An earlier
    /// stream of the same peer gets nothing more.
    pub fn connect(&mut self, id: &str, relay: bool, has: u64, now: Timestamp) -> Connection {
        self.next_connection += 1;
        let connection = Connection(self.next_connection);
        let peer = self.peers.entry(id.to_owned()).or_default();
        if let Some((place, _)) = peer.absent.take() {
            self.absent.remove(&place);
        }
        (peer.connection, peer.relay) = (Some(connection), relay);
        let (id, version) = if relay { self.relay_news } else { self.news };
        if version <= has {
            peer.published = None;
        } else if peer.published.as_ref().is_none_or(|waiting| waiting.notice.id != id) {
            peer.published = Some(Waiting::new(id, Event::Published(version), now));
        }
        for waiting in peer.waiting() {
            waiting.due = Some(now);
        }
        connection
    }

    /// A stream has ended. What waits is held for when the peer comes again.
    pub fn disconnect(&mut self, id: &str, connection: Connection, now: Timestamp) {
        let Some(peer) = self.peers.get_mut(id).filter(|peer| peer.connection == Some(connection)) else {
            return;
        };
        peer.connection = None;
        self.leave(id, now);
    }

    /// Puts a peer among the absent, or forgets it when nothing waits for it.
    fn leave(&mut self, id: &str, now: Timestamp) {
        let place = self.id();
        let Some(peer) = self.peers.get_mut(id) else { return };
        if peer.waiting().next().is_none() {
            self.peers.remove(id);
            return;
        }
        peer.absent = Some((place, now));
        self.absent.insert(place, id.to_owned());
        while let Some(first) = self.absent.first_entry() {
            let since = self.peers.get(first.get()).and_then(|peer| peer.absent);
            let held = since.is_some_and(|(_, since)| now.duration_since(since) < HELD_FOR);
            let id = first.get().clone();
            if held && self.absent.len() <= ABSENT_MAX {
                break;
            }
            self.absent.pop_first();
            self.peers.remove(&id);
        }
    }

    /// Somebody's wish for one peer; false when it is not connected and nothing is held for it. The same wish
    /// again takes the place of the earlier one.
    pub fn wish(&mut self, id: &str, event: Event, absent: Absent, now: Timestamp) -> bool {
        let number = self.id();
        match self.peers.get_mut(id) {
            Some(peer) if peer.connection.is_some() || absent == Absent::Hold => {
                peer.wishes.retain(|waiting| waiting.notice.event != event);
                if peer.wishes.len() >= WISHES_MAX {
                    peer.wishes.pop_front();
                }
                peer.wishes.push_back(Waiting::new(number, event, now));
                if let Some((place, _)) = peer.absent.take() {
                    self.absent.remove(&place);
                    self.leave(id, now);
                }
                true
            }
            _ if absent == Absent::Drop => false,
            _ => {
                let wishes = VecDeque::from([Waiting::new(number, event, now)]);
                self.peers.insert(id.to_owned(), Peer { wishes, ..Peer::default() });
                self.leave(id, now);
                true
            }
        }
    }

    /// A peer checked in, and names the notices that it has followed or is about to.
    pub fn answered(&mut self, id: &str, named: &[u64]) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.published = None;
        peer.wishes.retain(|waiting| !named.contains(&waiting.notice.id));
    }

    /// What is to be sent down this stream now, the oldest wish first; it counts as sent.
    pub fn take_due(&mut self, id: &str, connection: Connection, now: Timestamp) -> Vec<Notice> {
        match self.peers.get_mut(id) {
            Some(peer) if peer.connection == Some(connection) => {
                peer.waiting().filter_map(|waiting| waiting.send(now)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The peers to whom something is to be sent now.
    pub fn due(&self, now: Timestamp) -> impl Iterator<Item = &str> {
        let connected = self.peers.iter().filter(|(_, peer)| peer.connection.is_some());
        connected.filter(move |(_, peer)| peer.next().is_some_and(|due| due <= now)).map(|(id, _)| &**id)
    }

    /// When something is to be sent to anybody next.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        self.peers.values().filter(|peer| peer.connection.is_some()).filter_map(Peer::next).min()
    }

    /// When somebody is to look again whether something is due.
    #[must_use]
    pub fn next_look(&self, now: Timestamp) -> Option<Timestamp> {
        let soon = now.checked_add(LOOK_APART).ok();
        let due = self.next_due().and_then(|due| Some(due.max(soon?)));
        due.into_iter().chain(now.checked_add(LOOK_EVERY).ok()).min()
    }

    /// Whether a peer has a stream open.
    #[must_use]
    pub fn is_connected(&self, id: &str) -> bool {
        self.peers.get(id).is_some_and(|peer| peer.connection.is_some())
    }

    /// The relays that have a stream open.
    #[must_use]
    pub fn relays(&self) -> Vec<String> {
        let relays = self.peers.iter().filter(|(_, peer)| peer.relay && peer.connection.is_some());
        relays.map(|(id, _)| id.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: SignedDuration = SignedDuration::from_mins(1);

    /// A table, the streams, and a clock of its own.
    struct Bench {
        table: Table,
        now: Timestamp,
    }

    impl Bench {
        fn new() -> Self {
            let now = "2026-11-24T10:00:00Z".parse().unwrap();
            Self { table: Table::new(now), now }
        }

        fn connect(&mut self, id: &str, has: u64) -> Connection {
            self.table.connect(id, false, has, self.now)
        }

        fn wish(&mut self, id: &str, absent: Absent) -> bool {
            self.table.wish(id, check(id, false), absent, self.now)
        }

        fn take(&mut self, id: &str, connection: Connection) -> Vec<Notice> {
            self.table.take_due(id, connection, self.now)
        }

        /// Minute by minute, after how many of them something was sent.
        fn sent_within(&mut self, minutes: i32, id: &str, connection: Connection) -> Vec<i32> {
            let mut at = Vec::new();
            for minute in 1..=minutes {
                self.now += MINUTE;
                let due = self.table.next_due().is_some_and(|due| due <= self.now);
                assert_eq!(due, self.table.due(self.now).any(|peer| peer == id), "minute {minute}");
                let sent = self.take(id, connection);
                assert_eq!(due, !sent.is_empty(), "minute {minute}");
                at.extend(sent.iter().map(|_| minute));
            }
            at
        }
    }

    fn endpoint(id: &str) -> EndpointId {
        id.parse().unwrap()
    }

    fn check(id: &str, report_inventory: bool) -> Event {
        Event::Check(Arc::new(Order { endpoints: vec![endpoint(id)], report_inventory, ..Order::default() }))
    }

    fn events(notices: Vec<Notice>) -> Vec<Event> {
        notices.into_iter().map(|notice| notice.event).collect()
    }

    #[test]
    fn what_nobody_answers_is_sent_again_every_quarter_of_an_hour_and_five_times_in_all() {
        for wish in [false, true] {
            let mut bench = Bench::new();
            let web = bench.connect("web", 0);
            if wish {
                assert!(bench.wish("web", Absent::Drop));
            } else {
                bench.table.publish(7, Audience::Everybody, bench.now);
            }
            let first = bench.take("web", web);
            assert_eq!(first.len(), 1);
            assert_eq!(bench.take("web", web), [], "once at a time");
            assert!(bench.sent_within(14, "web", web).is_empty(), "not before its time");
            bench.now += MINUTE;
            assert_eq!(bench.take("web", web), first, "the same id");
            assert_eq!(bench.sent_within(24 * 60, "web", web), [15, 30, 45]);
            assert_eq!(bench.table.next_due(), None);
        }
    }

    #[test]
    fn who_connects_again_is_told_once_what_he_did_not_answer() {
        let mut bench = Bench::new();
        let mut web = bench.connect("web", 0);
        bench.table.publish(7, Audience::Everybody, bench.now);
        assert!(bench.wish("web", Absent::Drop));
        assert_eq!(bench.take("web", web).len(), 2);
        assert_eq!(bench.sent_within(600, "web", web), [15, 15, 30, 30, 45, 45, 60, 60]);
        for _ in 0..2 {
            bench.table.disconnect("web", web, bench.now);
            bench.now += MINUTE;
            web = bench.connect("web", 0);
            assert_eq!(events(bench.take("web", web)), [Event::Published(7), check("web", false)]);
            assert!(bench.sent_within(600, "web", web).is_empty());
        }
    }

    #[test]
    fn an_answer_ends_it() {
        let mut bench = Bench::new();
        let web = bench.connect("web", 0);
        bench.table.publish(7, Audience::Everybody, bench.now);
        assert!(bench.wish("web", Absent::Drop));
        let sent = bench.take("web", web);
        bench.table.answered("web", &[]);
        assert_eq!(bench.sent_within(15, "web", web), [15], "a check-in that does not name the wish");
        bench.table.answered("web", &[1, sent[1].id]);
        assert!(bench.sent_within(600, "web", web).is_empty());
        bench.table.disconnect("web", web, bench.now);
        let again = bench.connect("web", 7);
        assert_eq!(bench.take("web", again), []);
    }

    #[test]
    fn who_was_away_is_told_of_what_he_lacks_and_of_nothing_else() {
        let mut bench = Bench::new();
        bench.table.publish(7, Audience::Everybody, bench.now);
        for (has, told) in [(0, vec![Event::Published(7)]), (6, vec![Event::Published(7)]), (7, vec![])] {
            let web = bench.connect("web", has);
            assert_eq!(events(bench.take("web", web)), told, "has {has}");
        }
        assert!(!bench.wish("shop", Absent::Drop));
        assert!(bench.wish("bank", Absent::Hold));
        for (id, told) in [("shop", vec![]), ("bank", vec![check("bank", false)])] {
            let connection = bench.connect(id, 7);
            assert_eq!(events(bench.take(id, connection)), told, "{id}");
        }
    }

    #[test]
    fn a_newer_publication_takes_the_place_of_the_older_and_an_older_one_is_not_told() {
        let mut bench = Bench::new();
        let web = bench.connect("web", 0);
        bench.table.publish(7, Audience::Everybody, bench.now);
        bench.table.publish(9, Audience::Everybody, bench.now);
        bench.table.publish(8, Audience::Everybody, bench.now);
        assert_eq!(events(bench.take("web", web)), [Event::Published(9)]);
        bench.table.answered("web", &[]);
        bench.table.publish(9, Audience::Everybody, bench.now);
        assert_eq!(bench.take("web", web), []);
    }

    #[test]
    fn after_a_publication_was_taken_back_what_has_a_smaller_number_is_told() {
        let mut bench = Bench::new();
        let web = bench.connect("web", 0);
        bench.table.publish(1_000, Audience::Everybody, bench.now);
        bench.take("web", web);
        bench.table.answered("web", &[]);
        bench.table.take_back(8);
        let (relay, late) = (bench.table.connect("relay", true, 7, bench.now), bench.connect("late", 8));
        assert_eq!(events(bench.take("late", late)), []);
        bench.take("relay", relay);
        bench.table.publish(8, Audience::Relays, bench.now);
        assert_eq!(events(bench.take("relay", relay)), [Event::Published(8)]);
        bench.table.publish(9, Audience::Everybody, bench.now);
        assert_eq!(events(bench.take("web", web)), [Event::Published(9)]);
    }

    #[test]
    fn what_only_relays_take_over_calls_no_endpoint() {
        let mut bench = Bench::new();
        let web = bench.connect("web", 0);
        let relay = bench.table.connect("relay", true, 0, bench.now);
        bench.table.publish(7, Audience::Relays, bench.now);
        assert_eq!(bench.take("web", web), []);
        assert_eq!(events(bench.take("relay", relay)), [Event::Published(7)]);
        let late = [bench.connect("late", 6), bench.table.connect("other", true, 6, bench.now)];
        assert_eq!(bench.take("late", late[0]), []);
        assert_eq!(events(bench.take("other", late[1])), [Event::Published(7)]);
        bench.table.answered("relay", &[]);
        bench.table.publish(7, Audience::Everybody, bench.now);
        assert_eq!(events(bench.take("web", web)), [Event::Published(7)]);
        assert_eq!(bench.take("relay", relay), [], "it has heard of it");
    }

    #[test]
    fn the_same_wish_again_is_one_wish_and_is_told_anew() {
        let mut bench = Bench::new();
        let web = bench.connect("web", 0);
        for _ in 0..3 {
            assert!(bench.wish("web", Absent::Drop));
        }
        assert!(bench.table.wish("web", check("web", true), Absent::Drop, bench.now));
        let first = bench.take("web", web);
        assert_eq!(events(first.clone()), [check("web", false), check("web", true)]);
        assert!(bench.wish("web", Absent::Drop));
        let second = bench.take("web", web);
        assert!(second.len() == 1 && first.iter().all(|notice| notice.id != second[0].id), "{second:?}");
        bench.table.answered("web", &[first[0].id, first[1].id]);
        assert_eq!(bench.sent_within(15, "web", web), [15], "the second one is not answered yet");
    }

    #[test]
    fn a_second_stream_of_one_peer_takes_over_and_the_end_of_the_first_changes_nothing() {
        let mut bench = Bench::new();
        let first = bench.connect("web", 0);
        let second = bench.connect("web", 0);
        bench.table.publish(7, Audience::Everybody, bench.now);
        assert_eq!(bench.take("web", first), []);
        bench.table.disconnect("web", first, bench.now);
        assert!(bench.table.is_connected("web"));
        assert_eq!(events(bench.take("web", second)), [Event::Published(7)]);
    }

    #[test]
    fn what_is_held_has_its_limits() {
        let mut bench = Bench::new();
        for number in 0..=ABSENT_MAX {
            assert!(bench.wish(&format!("web-{number}"), Absent::Hold));
        }
        assert_eq!((bench.table.peers.len(), bench.table.absent.len()), (ABSENT_MAX, ABSENT_MAX));
        let first = bench.connect("web-0", 0);
        assert_eq!(bench.take("web-0", first), [], "the oldest was dropped");
        let last = bench.connect("web-1", 0);
        assert_eq!(bench.take("web-1", last).len(), 1);

        bench.now += HELD_FOR;
        assert!(bench.wish("late", Absent::Hold));
        assert_eq!(bench.table.absent.len(), 1, "what was held too long is forgotten");

        let relay = bench.table.connect("relay", true, 0, bench.now);
        for number in 0..=WISHES_MAX {
            let event = Event::Resync(endpoint(&format!("web-{number}")));
            assert!(bench.table.wish("relay", event, Absent::Drop, bench.now));
        }
        let sent = bench.take("relay", relay);
        assert_eq!(sent.len(), WISHES_MAX);
        assert_eq!(sent[0].event, Event::Resync(endpoint("web-1")));
        assert_eq!(bench.table.relays(), ["relay"]);
    }

    #[test]
    fn what_is_wished_for_somebody_absent_is_held_from_the_last_wish_on() {
        let mut bench = Bench::new();
        assert!(bench.wish("web", Absent::Hold));
        assert!(bench.wish("shop", Absent::Hold));
        bench.now += HELD_FOR - MINUTE;
        assert!(bench.wish("web", Absent::Hold));
        bench.now += MINUTE;
        assert!(bench.wish("bank", Absent::Hold));
        for (id, told) in [("web", vec![check("web", false)]), ("shop", vec![])] {
            let connection = bench.connect(id, 0);
            assert_eq!(events(bench.take(id, connection)), told, "{id}");
        }
        assert_eq!(bench.table.absent.len(), 1);
    }

    #[test]
    fn it_is_looked_at_what_is_due_but_not_without_pause_when_somebody_does_not_read() {
        let mut bench = Bench::new();
        let look = |bench: &Bench| bench.table.next_look(bench.now).unwrap().duration_since(bench.now);
        assert_eq!(look(&bench), LOOK_EVERY);
        let web = bench.connect("web", 0);
        bench.table.publish(7, Audience::Everybody, bench.now);
        bench.now += MINUTE;
        assert_eq!(look(&bench), LOOK_APART, "it is due and not taken");
        bench.take("web", web);
        assert_eq!(look(&bench), LOOK_EVERY);
        bench.now += RESEND_AFTER - LOOK_APART * 5;
        assert_eq!(look(&bench), LOOK_APART * 5);
    }

    #[test]
    fn who_leaves_with_nothing_unanswered_is_forgotten() {
        let mut bench = Bench::new();
        for number in 0..1_000 {
            let id = format!("web-{number}");
            let connection = bench.connect(&id, 0);
            bench.table.disconnect(&id, connection, bench.now);
        }
        assert!(bench.table.peers.is_empty() && bench.table.absent.is_empty());
    }

    #[test]
    fn ids_of_a_later_run_are_not_those_of_an_earlier_one() {
        let mut bench = Bench::new();
        let web = bench.connect("web", 0);
        bench.table.publish(1, Audience::Everybody, bench.now);
        let id = bench.take("web", web)[0].id;
        bench.now += MINUTE;
        bench.table = Table::new(bench.now);
        let web = bench.connect("web", 0);
        assert!(bench.wish("web", Absent::Drop));
        assert!(bench.take("web", web)[0].id > id);
    }
}
