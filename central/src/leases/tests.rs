use jiff::ToSpan as _;
use ring::rand::SystemRandom;
use serde_json::json;
use tierway_common::{
    clock::Clock,
    lease::{Lease, verify_grant},
    store::{Store, memory::MemoryStore, sled_store::SledStore},
};

use super::*;

/// A central with a window for two at once, and endpoints `e0` … `e9` that sign with one key.
struct Bench {
    clock: Clock,
    state: Arc<State>,
    leases: Leases,
    key: SigningKey,
    central: SigningKey,
    window: Window,
}

fn again(key: &SigningKey) -> SigningKey {
    SigningKey::from_pkcs8(key.pkcs8(), "the same").unwrap()
}

fn bench_on(store: Arc<dyn Store>, key: &SigningKey, central: &SigningKey) -> Bench {
    let clock = Clock::manual("2026-11-22T02:00:00Z".parse().unwrap());
    let state = Arc::new(State::open("default".parse().unwrap(), store, clock.clone()).unwrap());
    for number in 0..10_u32 {
        let record = serde_json::from_value(json!({
            "number": number, "id": format!("e{number}"), "name": format!("db-{number}"), "site": "lyon",
            "groups": [], "enrolled_at": clock.now(), "serial": "5e", "certificate_expires": clock.now(),
            "keys": [key.public()], "revoked": number == 9,
        }))
        .unwrap();
        state
            .change(|_, change| {
                change.write(Write::Endpoint(Arc::new(record)));
                Ok::<_, StoreError>(())
            })
            .unwrap();
    }
    let leases = Leases::open(state.clone(), again(central)).unwrap();
    let window = serde_json::from_value(json!({
        "id": "sunday", "opens": [{ "on": { "weekly": ["sunday"] }, "at": "02:00:00" }], "length": "4h",
        "at_once_max": 2,
    }))
    .unwrap();
    Bench { clock, state, leases, key: again(key), central: again(central), window }
}

fn keys() -> (SigningKey, SigningKey) {
    let key = || SigningKey::generate(&SystemRandom::new()).unwrap();
    (key(), key())
}

fn bench() -> Bench {
    let (key, central) = keys();
    bench_on(Arc::new(MemoryStore::new()), &key, &central)
}

fn carrier(role: &str, id: &str) -> Holder {
    format!("spiffe://tierway/tenant/default/site/lyon/{role}/{id}").parse().unwrap()
}

const HALF_HOUR: Want = Want::Acquire { seconds: 1_800 };

impl Bench {
    /// A new ask, a second after whatever came before.
    fn ask(&self, endpoint: &str, want: Want) -> Ask {
        self.clock.advance(SignedDuration::from_secs(1));
        self.ask_at(endpoint, want, self.clock.now())
    }

    fn ask_at(&self, endpoint: &str, want: Want, at: Timestamp) -> Ask {
        let (tenant, window) = (self.state.tenant(), &self.window.id);
        Ask::new(&self.key, tenant, &endpoint.parse().unwrap(), window, want, at).unwrap()
    }

    fn decide(&self, ask: &Ask) -> Result<Answer, AskError> {
        self.leases.decide(ask, Some(&self.window))
    }

    fn answer(&self, endpoint: &str, want: Want) -> Answer {
        self.decide(&self.ask(endpoint, want)).unwrap()
    }

    fn read(&self, ask: &Ask, answer: &Answer) -> Lease {
        let Answer::Granted(grant) = answer else { panic!("{answer:?}") };
        verify_grant(grant, ask, &self.central.public(), self.clock.now()).unwrap()
    }

    fn held(&self) -> Vec<String> {
        let model = self.state.model();
        held(&model, None, self.clock.now()).map(|lease| lease.endpoint.to_string()).collect()
    }
}

fn is_granted(answer: &Answer) -> bool {
    matches!(answer, Answer::Granted(_))
}

#[test]
fn who_gives_back_what_it_never_could_have_takes_no_place() {
    let bench = bench();
    let release = bench.ask("e1", Want::Release);
    assert_eq!(bench.leases.decide(&release, None).unwrap(), Answer::Released);
    assert_eq!(bench.state.model().leases_count(), 0);
    bench.answer("e1", Want::Release);
    assert_eq!(bench.state.model().leases_count(), 1);
    let release = bench.ask("e1", Want::Release);
    assert_eq!(bench.leases.decide(&release, None).unwrap(), Answer::Released);
    assert_eq!(bench.state.model().leases().values().next().unwrap().len(), 1);
}

#[test]
fn at_most_so_many_of_a_window_hold_a_lease_and_who_has_to_wait_is_told_how_long() {
    let bench = bench();
    assert!(is_granted(&bench.answer("e1", HALF_HOUR)));
    assert!(is_granted(&bench.answer("e2", Want::Acquire { seconds: 60 })));
    assert_eq!(bench.answer("e3", HALF_HOUR), Answer::Later(59));
    assert_eq!(bench.held(), ["e1", "e2"]);
    // Given back before it ends.
    assert_eq!(bench.answer("e1", Want::Release), Answer::Released);
    assert!(is_granted(&bench.answer("e3", HALF_HOUR)));
    // At its end by itself.
    bench.clock.advance(SignedDuration::from_secs(60));
    assert_eq!(bench.held(), ["e3"]);
    assert!(is_granted(&bench.answer("e4", HALF_HOUR)));
    assert_eq!(bench.answer("e5", HALF_HOUR), Answer::Later(300));
}

#[test]
fn of_a_window_that_everybody_asks_for_at_once_exactly_as_many_as_may_get_it() {
    let bench = bench();
    let asks: Vec<Ask> = (0..9).map(|number| bench.ask(&format!("e{number}"), HALF_HOUR)).collect();
    let granted: usize = std::thread::scope(|scope| {
        let bench = &bench;
        let threads: Vec<_> =
            asks.iter().map(|ask| scope.spawn(move || is_granted(&bench.decide(ask).unwrap()))).collect();
        threads.into_iter().map(|thread| usize::from(thread.join().unwrap())).sum()
    });
    assert_eq!((granted, bench.held().len()), (2, 2));
}

#[test]
fn a_restart_forgets_nobody_who_is_down() {
    let dir = tempfile::tempdir().unwrap();
    let (key, central) = keys();
    let open = || bench_on(Arc::new(SledStore::open(dir.path()).unwrap()), &key, &central);
    {
        let bench = open();
        assert!(is_granted(&bench.answer("e1", HALF_HOUR)));
        assert!(is_granted(&bench.answer("e2", HALF_HOUR)));
    }
    let bench = open();
    assert_eq!(bench.held(), ["e1", "e2"]);
    assert!(matches!(bench.answer("e3", HALF_HOUR), Answer::Later(_)));
    bench.clock.advance(SignedDuration::from_secs(1_801));
    assert!(is_granted(&bench.answer("e3", HALF_HOUR)), "they end by themselves after a restart too");
}

#[test]
fn an_ask_that_comes_again_is_answered_as_before_and_changes_nothing() {
    let bench = bench();
    let ask = bench.ask("e1", HALF_HOUR);
    let first = bench.read(&ask, &bench.decide(&ask).unwrap());
    let record = bench.state.model().leases()[&bench.window.id].clone();
    bench.clock.advance(SignedDuration::from_mins(5));
    let second = bench.read(&ask, &bench.decide(&ask).unwrap());
    assert_eq!(first, second);
    assert_eq!(bench.state.model().leases()[&bench.window.id], record);
    let release = bench.ask("e1", Want::Release);
    for _ in 0..2 {
        assert_eq!(bench.decide(&release).unwrap(), Answer::Released);
    }
}

#[test]
fn more_time_can_be_had_although_all_leases_are_out_and_less_is_not_taken_away() {
    let bench = bench();
    bench.answer("e1", HALF_HOUR);
    bench.answer("e2", HALF_HOUR);
    bench.clock.advance(SignedDuration::from_mins(20));
    let more = bench.ask("e1", HALF_HOUR);
    assert_eq!(bench.read(&more, &bench.decide(&more).unwrap()).until, more.at() + 30.minutes());
    bench.clock.advance(SignedDuration::from_mins(15));
    assert_eq!(bench.held(), ["e1"]);
    // It asks for less, and may still go by what it was granted before.
    bench.answer("e1", Want::Acquire { seconds: 1 });
    bench.clock.advance(SignedDuration::from_mins(10));
    assert_eq!(bench.held(), ["e1"]);
}

#[test]
fn what_an_endpoint_gave_up_nobody_on_the_way_brings_back() {
    let bench = bench();
    let acquire = bench.ask("e1", HALF_HOUR);
    bench.decide(&acquire).unwrap();
    bench.answer("e1", Want::Release);
    for minutes in [0, 10, 60] {
        bench.clock.advance(SignedDuration::from_mins(minutes));
        bench.leases.retain().unwrap();
        assert!(bench.decide(&acquire).is_err(), "{minutes}");
    }
    assert!(bench.held().is_empty());
    // Also when the release overtakes it.
    let (late, release) = (bench.ask("e2", HALF_HOUR), bench.ask("e2", Want::Release));
    bench.decide(&release).unwrap();
    assert!(matches!(bench.decide(&late), Err(AskError::Repeated { .. })));
}

#[test]
fn an_ask_of_another_hour_is_refused_and_says_what_the_clocks_say() {
    let bench = bench();
    let now = bench.clock.now();
    for (at, fine) in
        [(now - 15.minutes(), true), (now - 15.minutes() - 1.seconds(), false), (now + 16.minutes(), false)]
    {
        let ask = bench.ask_at("e1", HALF_HOUR, at);
        match bench.decide(&ask) {
            Ok(answer) => assert!(fine && is_granted(&answer), "{at}"),
            Err(error) => assert!(!fine && error.to_string().contains("set the clock"), "{at} {error}"),
        }
    }
}

#[test]
fn only_the_endpoint_itself_asks_in_its_name() {
    let bench = bench();
    let verify = |role, id, bytes: &[u8]| {
        let verified = bench.leases.verify(&carrier(role, id), bytes);
        verified.map(|ask| ask.endpoint().to_string()).map_err(|error| error.to_string())
    };
    let ask = bench.ask("e1", HALF_HOUR);
    assert_eq!(verify("relay", "r1", ask.bytes()), Ok("e1".to_owned()));
    assert_eq!(verify("endpoint", "e1", ask.bytes()), Ok("e1".to_owned()));
    assert_eq!(verify("endpoint", "e2", ask.bytes()), Err("`e2` may not ask for `e1`".to_owned()));
    let forged = Ask::new(&bench.central, ask.tenant(), ask.endpoint(), ask.window(), HALF_HOUR, ask.at());
    assert_eq!(
        verify("relay", "r1", forged.unwrap().bytes()),
        Err("the ask is not signed by `e1`".to_owned())
    );
    let (other, tenant) = (bench.ask("e77", HALF_HOUR), "other".parse().unwrap());
    assert_eq!(verify("relay", "r1", other.bytes()), Err("`e77` is not enrolled".to_owned()));
    let revoked = bench.ask("e9", HALF_HOUR);
    assert_eq!(verify("relay", "r1", revoked.bytes()), Err("`e9` is not enrolled".to_owned()));
    let foreign = Ask::new(&bench.key, &tenant, ask.endpoint(), ask.window(), HALF_HOUR, ask.at()).unwrap();
    assert_eq!(verify("relay", "r1", foreign.bytes()), Err("tenant `other` is not served here".to_owned()));
}

#[test]
fn a_window_without_a_limit_takes_everybody_and_one_that_is_not_the_endpoints_nobody() {
    let mut bench = bench();
    bench.window.at_once_max = None;
    for number in 0..9 {
        assert!(is_granted(&bench.answer(&format!("e{number}"), HALF_HOUR)));
    }
    let ask = bench.ask("e1", HALF_HOUR);
    assert!(matches!(bench.leases.decide(&ask, None), Err(AskError::NotItsWindow { .. })));
    // What it has it can give back all the same.
    let release = bench.ask("e1", Want::Release);
    assert_eq!(bench.leases.decide(&release, None).unwrap(), Answer::Released);
    assert_eq!(bench.held().len(), 8);
}

#[test]
fn a_lease_is_never_longer_than_the_limit_and_never_of_no_time() {
    let bench = bench();
    let ask = bench.ask("e1", Want::Acquire { seconds: u32::MAX });
    let lease = bench.read(&ask, &bench.decide(&ask).unwrap());
    assert_eq!(lease.until, ask.at() + 6.hours());
    let nothing = bench.ask("e2", Want::Acquire { seconds: 0 });
    assert!(matches!(bench.decide(&nothing), Err(AskError::Nothing)));
}

#[test]
fn leases_that_can_matter_no_more_are_forgotten() {
    let bench = bench();
    bench.answer("e1", HALF_HOUR);
    bench.answer("e2", Want::Release);
    for (minutes, left) in [(30, 2), (15, 1), (20, 0)] {
        bench.clock.advance(SignedDuration::from_mins(minutes));
        bench.leases.retain().unwrap();
        assert_eq!(bench.state.model().leases_count(), left, "{minutes}");
    }
    assert!(bench.state.model().leases().is_empty());
}

#[test]
fn the_key_of_leases_is_published_once_and_again_when_it_changes() {
    let bench = bench();
    let pending = |bench: &Bench| {
        let row = crate::store::tables::PendingPolicy { tenant: bench.state.tenant(), key: "lease-key" };
        tierway_common::store::table::get(bench.state.store(), &row).unwrap().flatten()
    };
    let expected = |key: &SigningKey| format!("{{\"key\":\"{}\"}}", key.public());
    assert_eq!(pending(&bench), Some(expected(&bench.central)));
    let (_, other) = keys();
    let expected_other = expected(&other);
    Leases::open(bench.state.clone(), other).unwrap();
    assert_eq!(pending(&bench), Some(expected_other));
}
