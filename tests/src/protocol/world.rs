//! What happens when: nodes start, crash and come back, disks fill, clocks jump, people decide.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;
use tierway_central::leases;
use tierway_common::{
    clock::Clock, daemon::disk::in_turn, enrollment::Token, facts::Facts, transport::identity::Role,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    Options, Outcome, Sabotage, central,
    checks::{Promise, Watch},
    computer::{self, Computer},
    debris::{self, Rot},
    disk::Disk,
    net::{CENTRAL, Net, Node, Odds, Tree},
    published, relay,
};
use crate::simulation::random::Random;

/// When it begins.
const START: &str = "2026-11-20T10:00:00Z";
/// For so long things go wrong.
const HOURS: u64 = 3;
/// By then, counted from when nothing goes wrong any more, everybody has come to the same.
const CALM: Duration = Duration::from_secs(12 * 3600);
/// How often it is looked whether they have.
const LOOK: Duration = Duration::from_secs(600);
/// What one could not do is tried again after so long.
const AGAIN: Duration = Duration::from_secs(300);
/// A node that does not start yet, since what it was doing before has not ended, is started again after so long.
const NOT_YET: Duration = Duration::from_secs(20);

/// The one who makes tokens, as long as central is up.
#[derive(Clone, Debug, Default)]
pub struct Operator {
    central: Arc<Mutex<Option<central::Running>>>,
    made: Arc<AtomicI64>,
}

impl Operator {
    /// A token for one endpoint; none while central cannot make one.
    #[must_use]
    pub fn token(&self) -> Option<Token> {
        let token = self.with(|central| central.token(Role::Endpoint, 1))??;
        self.made.fetch_add(1, Ordering::Relaxed);
        Some(token)
    }

    fn with<T>(&self, act: impl FnOnce(&central::Running) -> T) -> Option<T> {
        self.central.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(act)
    }

    fn set(&self, running: Option<central::Running>) {
        let before =
            std::mem::replace(&mut *self.central.lock().unwrap_or_else(PoisonError::into_inner), running);
        drop(before);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Release(u64),
    Call,
    Revoke(Node),
    Crash(Node),
    PowerFails(Node),
    Start(Node),
    Cut(Node, u64),
    Joined(Node),
    Full(Node, u64),
    Room(Node),
    Jump(Node, i64, u64),
    Right(Node),
    Calm,
}

struct World {
    options: Options,
    tree: Tree,
    dir: TempDir,
    began: Instant,
    net: Net,
    watch: Watch,
    operator: Operator,
    /// Of central and of each relay.
    disks: Vec<Disk>,
    relays: BTreeMap<Node, relay::Running>,
    computers: BTreeMap<Node, (Computer, Option<JoinSet<()>>)>,
    clocks: Vec<(Clock, Arc<AtomicI64>)>,
    ids: Arc<Mutex<Random>>,
    events: BinaryHeap<Reverse<(Instant, u64, What)>>,
    count: u64,
    generations: u64,
    /// The newest generation that is out.
    released: u64,
    down: Vec<bool>,
    faults: BTreeMap<&'static str, u64>,
    calm: bool,
}

/// Runs it; the runtime has one thread and its time is paused.
pub async fn run(options: Options) -> Outcome {
    let _turn = in_turn();
    let mut world = World::new(options);
    world.join().await;
    world.plan();
    let took = world.go().await;
    let Options { seed, .. } = options;
    world.watch.ends();
    let (digest, lines, counts, calls) = world.watch.told();
    let broken = world.watch.broken();
    // The relay's door has a way to central, and so the network that has the door.
    (0..world.down.len()).for_each(|node| world.net.closes(node));
    Outcome { seed, digest, lines, counts, calls, faults: world.faults.clone(), took, broken }
}

impl World {
    fn new(options: Options) -> Self {
        let Options { seed, sabotage, lines } = options;
        let mut random = Random::of(seed, &[2]);
        // Most have one relay; the others a chain of two or three.
        let relays = match seed % 8 {
            3 => 2,
            7 => 3,
            _ => 1,
        };
        let tree = Tree { relays, endpoints: 2 + random.index(2) };
        let nodes = tree.nodes();
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let began = Instant::now();
        let watch = Watch::new(tree, lines);
        let mut odds = |most: u64| if random.percent(60) { random.below(most) } else { 0 };
        let odds = Odds {
            lost: odds(120),
            unanswered: odds(120),
            twice: odds(120),
            broken: odds(80),
            late: odds(40),
            garbled: odds(60),
            replayed: if sabotage == Some(Sabotage::TrustsEarlier) { 400 } else { odds(60) },
        };
        let net = Net::new(seed, nodes, odds, sabotage, watch.clone());
        let start: Timestamp = START.parse().unwrap();
        let clocks: Vec<_> = (0..nodes)
            .map(|_| {
                let ahead = Arc::new(AtomicI64::new(0));
                let own = ahead.clone();
                let told = move || {
                    let passed = i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX);
                    start + SignedDuration::from_millis(passed + own.load(Ordering::Relaxed))
                };
                (Clock::told(told, move || began.elapsed()), ahead)
            })
            .collect();
        let of_central = sabotage.filter(|sabotage| {
            matches!(
                sabotage,
                Sabotage::ForgetsWhatItTook | Sabotage::LosesLeases | Sabotage::NeverCountsTokens
            )
        });
        let of_relay = sabotage.filter(|sabotage| *sabotage == Sabotage::AcknowledgesUnwritten);
        let disks = tree.servers().map(|node| {
            let (rows, sabotage) =
                if node == CENTRAL { (central::rows(start), of_central) } else { (&[][..], of_relay) };
            Disk::new(rows, Random::of(seed, &[3, node as u64]), sabotage)
        });
        let disks = disks.collect();
        let generations = 2 + random.below(3);
        central::set_up(&dir.path().join("central"), start, generations);
        let computers = (1 + relays..nodes)
            .map(|node| {
                let (home, random) =
                    (dir.path().join(format!("node-{node}")), Random::of(seed, &[4, node as u64]));
                let clock = clocks[node].0.clone();
                let place = (node, tree.above(node));
                let computer =
                    Computer::new(place, home, net.clone(), watch.clone(), clock, random, sabotage);
                (node, (computer, None))
            })
            .collect();
        Self {
            options,
            tree,
            dir,
            began,
            net,
            watch,
            operator: Operator::default(),
            disks,
            relays: BTreeMap::new(),
            computers,
            clocks,
            ids: Arc::new(Mutex::new(Random::of(seed, &[5]))),
            events: BinaryHeap::new(),
            count: 0,
            generations,
            released: 0,
            down: vec![false; nodes],
            faults: BTreeMap::new(),
            calm: false,
        }
    }

    fn push(&mut self, after: Duration, what: What) {
        self.count += 1;
        self.events.push(Reverse((Instant::now() + after, self.count, what)));
    }

    fn fault(&mut self, name: &'static str) {
        *self.faults.entry(name).or_default() += 1;
    }

    /// Central begins, and the relays join, one after the other; nobody crashes meanwhile.
    async fn join(&mut self) {
        self.start_central();
        self.operator.with(central::Running::set_policy).unwrap().unwrap();
        for node in 1..=self.tree.relays {
            let (above, home) = (self.tree.above(node), self.home(node));
            loop {
                let token = self.operator.with(|central| central.token(Role::Relay, 1)).unwrap().unwrap();
                if computer::enroll(&self.net, node, above, &token, &home).await.is_ok() {
                    break;
                }
            }
            self.start_relay(node);
        }
        for (computer, tasks) in self.computers.values_mut() {
            *tasks = Some(computer.begin(self.operator.clone()));
        }
    }

    /// What happens when, as far as that is known before.
    fn plan(&mut self) {
        let mut random = Random::of(self.options.seed, &[6]);
        let nodes = self.clocks.len();
        let span = HOURS * 3600;
        let mut at = |from: u64, to: u64| Duration::from_secs(from + random.below(to - from));
        let mut events = Vec::new();
        for generation in 1..=self.generations {
            let share = span / (self.generations + 1);
            events.push((at(share * (generation - 1), share * generation), What::Release(generation)));
        }
        let mut random = Random::of(self.options.seed, &[7]);
        let when = |random: &mut Random| Duration::from_secs(60 + random.below(span));
        for _ in 0..random.below(4) {
            events.push((when(&mut random), What::Call));
        }
        if self.options.seed % 5 == 2 {
            let mut random = Random::of(self.options.seed, &[10]);
            let node = nodes - 1 - random.index(self.tree.endpoints);
            events.push((when(&mut random), What::Revoke(node)));
        }
        // What is broken on purpose shows sooner the more goes wrong.
        let more = if self.options.sabotage.is_some() { 5 } else { 0 };
        for _ in 0..more + random.below(7) {
            let node = random.index(nodes);
            events.push((when(&mut random), What::Crash(node)));
        }
        for _ in 0..more + random.below(6) {
            let node = random.index(1 + self.tree.relays);
            events.push((when(&mut random), What::PowerFails(node)));
        }
        for _ in 0..random.below(4) {
            let (node, seconds) = (random.index(nodes), 30 + random.below(5_400));
            events.push((when(&mut random), What::Cut(node, seconds)));
        }
        for _ in 0..random.below(3) {
            let (node, seconds) = (random.index(1 + self.tree.relays), 30 + random.below(3_600));
            events.push((when(&mut random), What::Full(node, seconds)));
        }
        for _ in 0..random.below(4) {
            let node = 1 + random.index(nodes - 1);
            let far = if random.percent(20) { 2 * 86_400 } else { 1_500 };
            let seconds = i64::try_from(random.below(2 * far)).unwrap() - i64::try_from(far).unwrap();
            events.push((when(&mut random), What::Jump(node, seconds, 60 + random.below(5_400))));
        }
        events.push((Duration::from_secs(span + 60), What::Calm));
        for (after, what) in events {
            self.push(after, what);
        }
    }

    async fn go(&mut self) -> Duration {
        loop {
            if self.watch.broken().is_some() {
                return self.began.elapsed();
            }
            let next = self.events.peek().map(|Reverse((at, ..))| *at);
            let look = Instant::now() + LOOK;
            let wake = next.map_or(look, |next| next.min(look));
            let up = self.tree.servers().filter(|node| !self.down[*node]);
            let mut disks: FuturesUnordered<_> =
                up.map(|node| self.disks[node].failed().map(move |()| node)).collect();
            let failed = tokio::select! {
                biased;
                Some(node) = disks.next() => Some(node),
                () = sleep_until(wake) => None,
            };
            drop(disks);
            for (node, relay) in &self.relays {
                self.watch.trusts(*node, relay.up.mirror.head().timestamp_version);
            }
            if let Some(node) = failed {
                self.fault("power failed");
                self.goes_down(node).await;
                continue;
            }
            match self.events.pop() {
                Some(Reverse((at, _, what))) if at <= Instant::now() => self.happens(what).await,
                Some(later) => self.events.push(later),
                None => {}
            }
            if self.calm && self.events.is_empty() {
                let differs = self.differs();
                let late = self.began.elapsed() > Duration::from_secs(HOURS * 3600 + 60) + CALM;
                if differs.is_none() || late {
                    self.watch.holds(Promise::Converged, differs.is_none(), || differs.unwrap_or_default());
                    return self.began.elapsed();
                }
            }
        }
    }

    async fn happens(&mut self, what: What) {
        self.watch.note(format_args!("{what:?}"));
        match what {
            What::Release(generation) => {
                // One that could not come out in its turn comes out beside later ones.
                let so_far = self.released.max(generation);
                match self.operator.with(|central| central.release(generation, so_far)) {
                    Some(Ok(())) => self.released = so_far,
                    _ => self.push(AGAIN, what),
                }
            }
            What::Call => {
                self.operator.with(central::Running::call);
            }
            What::Revoke(node) => {
                let id = self.watch.id(node);
                let shuts = self.options.sabotage != Some(Sabotage::ShutsNobodyOut);
                let revoked = id
                    .filter(|id| self.operator.with(|central| !shuts || central.revoke(id)).unwrap_or(false));
                match revoked {
                    Some(id) => self.watch.revoked(&id),
                    // It is not in yet, or the disk failed.
                    None => self.push(AGAIN, what),
                }
            }
            What::Crash(node) if !self.down[node] => {
                self.fault("crash");
                self.goes_down(node).await;
            }
            What::Crash(_) => {}
            What::PowerFails(node) => self.disks[node].fails_soon(),
            What::Start(node) => self.starts(node),
            What::Cut(node, seconds) => {
                self.fault("cut off");
                self.net.cuts(node, true);
                self.push(Duration::from_secs(seconds), What::Joined(node));
            }
            What::Joined(node) => self.net.cuts(node, false),
            What::Full(node, seconds) => {
                self.fault("disk full");
                self.disks[node].fills(true);
                self.push(Duration::from_secs(seconds), What::Room(node));
            }
            What::Room(node) => self.disks[node].fills(false),
            What::Jump(node, seconds, length) => {
                self.fault("clock jumped");
                self.clocks[node].1.store(seconds * 1_000, Ordering::Relaxed);
                self.push(Duration::from_secs(length), What::Right(node));
            }
            What::Right(node) => self.clocks[node].1.store(0, Ordering::Relaxed),
            What::Calm => {
                self.calm = true;
                self.net.calms();
                self.disks.iter().for_each(|disk| disk.fills(false));
                self.clocks.iter().for_each(|(_, ahead)| ahead.store(0, Ordering::Relaxed));
                if self.options.sabotage == Some(Sabotage::StaysCutOff) {
                    self.net.cuts(1, true);
                }
            }
        }
    }

    async fn goes_down(&mut self, node: Node) {
        self.watch.note(format_args!("{node} goes down"));
        self.down[node] = true;
        self.net.closes(node);
        match node {
            CENTRAL => self.operator.set(None),
            _ if self.relays.remove(&node).is_some() => {}
            _ => {
                if let Some(mut tasks) = self.computers.get_mut(&node).and_then(|(_, tasks)| tasks.take()) {
                    tasks.shutdown().await;
                }
                if self.options.sabotage == Some(Sabotage::TrustsEarlier) {
                    let trust = self.home(node).join("trust");
                    for role in ["timestamp", "snapshot", "targets"] {
                        fs::remove_file(trust.join(format!("{role}.json"))).ok();
                    }
                }
            }
        }
        let mut random = Random::of(self.options.seed, &[8, self.count]);
        self.leaves(node, &mut random);
        let length = if random.percent(70) { 5 + random.below(120) } else { 5 + random.below(7_200) };
        self.push(Duration::from_secs(length), What::Start(node));
    }

    /// What was being written then lies about.
    fn leaves(&self, node: Node, random: &mut Random) {
        let rot = if node == CENTRAL { Rot::Never } else { Rot::Sometimes };
        debris::leave(&self.home(node), random, rot);
    }

    /// Its folder.
    fn home(&self, node: Node) -> PathBuf {
        match self.computers.get(&node) {
            Some((computer, _)) => computer.dir(),
            None if node == CENTRAL => self.dir.path().join("central"),
            None => self.dir.path().join(format!("node-{node}")),
        }
    }

    fn starts(&mut self, node: Node) {
        if let Some((computer, tasks)) = self.computers.get_mut(&node) {
            *tasks = Some(computer.begin(self.operator.clone()));
            self.down[node] = false;
            return;
        }
        self.disks[node].restarts();
        if node == CENTRAL {
            self.start_central();
        } else {
            self.start_relay(node);
        }
    }

    fn start_central(&mut self) {
        let home = self.home(CENTRAL);
        let clock = self.clocks[CENTRAL].0.clone();
        match central::start(home, &self.disks[CENTRAL], &self.net, clock, self.ids.clone()) {
            Ok(running) => {
                self.watch.central(&running.central);
                self.operator.set(Some(running));
                self.down[CENTRAL] = false;
            }
            Err(_) => self.push(NOT_YET, What::Start(CENTRAL)),
        }
    }

    fn start_relay(&mut self, node: Node) {
        let random = Arc::new(Mutex::new(Random::of(self.options.seed, &[9, self.count])));
        let uniform = move || {
            u32::try_from(random.lock().unwrap_or_else(PoisonError::into_inner).bits() >> 32).unwrap_or(0)
        };
        let (place, home, clock) =
            ((node, self.tree.above(node)), self.home(node), self.clocks[node].0.clone());
        match relay::start(place, &home, &self.disks[node], &self.net, clock, uniform) {
            Ok(running) => {
                self.relays.insert(node, running);
                self.down[node] = false;
            }
            Err(_) => self.push(NOT_YET, What::Start(node)),
        }
    }

    /// In what the tiers are not the same yet.
    fn differs(&self) -> Option<String> {
        self.watch.looks();
        if let Some(down) = self.down.iter().position(|down| *down) {
            return Some(format!("node {down} is down"));
        }
        let last = published::version(self.generations);
        let made = usize::try_from(self.operator.made.load(Ordering::Relaxed)).unwrap();
        self.operator
            .with(|central| {
                let central = &central.central;
                let records: Vec<_> = central.state.model().endpoints().cloned().collect();
                let enrolled = records.len();
                self.watch.holds(Promise::Admitted, enrolled <= made, || {
                    format!("{enrolled} endpoints have enrolled with {made} tokens for one each")
                });
                let changed = central.publisher.news().borrow().changed;
                for (node, relay) in &self.relays {
                    if relay.up.outbox.fill().reports > 0 {
                        return Some(format!("relay {node} still has {:?}", relay.up.outbox.fill()));
                    }
                    let head = relay.up.mirror.head().timestamp_version;
                    if head < changed {
                        return Some(format!("relay {node} has version {head} of {changed}"));
                    }
                }
                for (computer, _) in self.computers.values() {
                    let node = computer.node;
                    let Some(id) = self.watch.id(node) else { return Some(format!("node {node} is nobody")) };
                    let Some(record) = records.iter().find(|record| record.id.as_str() == id) else {
                        return Some(format!("node {node} is unknown"));
                    };
                    if self.watch.is_revoked(&id) {
                        let knows =
                            |relay: &relay::Running| relay.up.mirror.head().revoked.contains(&record.serial);
                        if !self.relays.values().all(knows) {
                            return Some(format!("a relay lets node {node} in, which is revoked"));
                        }
                        continue;
                    }
                    let (_, version) = computer.stands();
                    if version < changed || !computer.system().contains(&format!("Version: {last}\n")) {
                        return Some(format!("node {node} goes by {version} of {changed}"));
                    }
                    if record.resync_states || record.resync_inventory {
                        return Some(format!("node {node} is asked for everything"));
                    }
                    let facts: Option<Facts> = central.state.facts(record.number).ok().flatten();
                    let installed = facts.and_then(|facts| {
                        facts.values.get(&format!("package:deb:{}:amd64", published::PACKAGE)).cloned()
                    });
                    if installed.as_ref() != Some(&last) {
                        return Some(format!("of node {node} central knows {installed:?}"));
                    }
                    let states = central.state.states(record.number).ok()?;
                    let model = central.state.model();
                    let update = model.update_by_id(&published::id(self.generations))?;
                    let state = states.get(update.number).map(|entry| entry.state);
                    if state != Some(tierway_common::schema::State::Installed) {
                        return Some(format!("of node {node} central knows {state:?}"));
                    }
                }
                if leases::held(&central.state.model(), None, central.state.now()).next().is_some() {
                    return Some("a lease is held".to_owned());
                }
                None
            })
            .unwrap_or_else(|| Some("central is down".to_owned()))
    }
}
