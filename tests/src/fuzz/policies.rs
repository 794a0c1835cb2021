//! Documents of policy: what is taken is published as it was handed in, and its calendar has an order and an end.

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use tierway_central::policy::documents::{Document, Kind};
use tierway_common::{
    calendar::{Calendar, LENGTH_MAX, LENGTH_MIN, timetable},
    rings,
    schema::policy::{Schedule, Window},
};

use super::{Target, texts};

pub(super) const POLICIES: Target = Target {
    name: "policies",
    run,
    seeds,
    words: &[
        "\"opens\":[]",
        "\"length\":\"4h\"",
        "\"length\":\"7days\"",
        "\"zone\":\"Europe/Berlin\"",
        "\"zone\":\"Africa/Casablanca\"",
        "\"days\"",
        "\"monthly\"",
        "{\"nth\":[2,\"friday\"]}",
        "{\"after\":[2,\"tuesday\",4]}",
        "{\"day\":-1}",
        "\"at\":\"02:30:00\"",
        "\"at\":\"23:59:59\"",
        "\"every\":\"1m\"",
        "\"daily\"",
        "\"weekly\"",
        "\"spread\":\"1day\"",
        "\"tuesday\"",
        "\"rings\"",
        "\"permille\":1000",
        "\"rest\"",
        "\"soak\":\"1day\"",
        "\"failures_min\":1",
        "null",
        "-1",
        "31",
    ],
};

/// Moments at which calendars are asked: an ordinary one, the hours around changes of the clocks, a leap day, far off.
const MOMENTS: [&str; 5] = [
    "2026-11-25T12:00:00Z",
    "2027-03-28T00:59:59Z",
    "2026-10-25T00:30:00Z",
    "2028-02-29T23:59:59Z",
    "9990-01-01T00:00:00Z",
];

/// Occurrences that are looked at.
const OCCURRENCES_MAX: usize = 12;

/// The first byte says of which kind the rest is.
fn run(bytes: &[u8]) -> bool {
    let Some((kind, json)) = bytes.split_first() else { return false };
    let Ok(json) = std::str::from_utf8(json) else { return false };
    let kind = match kind {
        b'l' => Kind::Level,
        b'w' => Kind::Window,
        b'r' => Kind::RingPlan,
        b'c' => Kind::ResultCodes,
        b't' => Kind::Trust,
        _ => return schedule(json),
    };
    let Ok(document) = Document::read(kind, json) else { return false };
    let published = document.json().unwrap();
    let again = Document::read(kind, &published).unwrap_or_else(|error| panic!("{error}: {published}"));
    assert_eq!(again, document, "it is published as another");
    assert_eq!(
        (again.name(), again.kind(), again.references()),
        (document.name(), kind, document.references())
    );
    let now: Timestamp = MOMENTS[0].parse().unwrap();
    let checked = document.check(now);
    assert_eq!(checked.is_ok(), again.check(now).is_ok());
    if checked.is_err() {
        return false;
    }
    match &document {
        Document::Window(window) => calendar(window),
        Document::RingPlan(plan) => {
            for name in ["a", "web-01", "0b0e6a4c-7a0c-4d8c-9a53-2a1c7bb10001"] {
                let endpoint = name.parse().unwrap();
                for member in [false, true] {
                    let stand = rings::stand(plan, &endpoint, |_| member);
                    assert_eq!(
                        stand,
                        rings::stand(plan, &endpoint, |_| member),
                        "two relays would differ about its ring"
                    );
                }
            }
        }
        Document::Level(_) | Document::ResultCodes(_) | Document::Trust(_) => {}
    }
    true
}

fn calendar(window: &Window) {
    let own = TimeZone::get("Europe/Berlin").unwrap_or(TimeZone::UTC);
    let Ok(calendar) = Calendar::new(window, &own) else {
        panic!("a window that was checked is no calendar")
    };
    for moment in MOMENTS {
        let now: Timestamp = moment.parse().unwrap();
        let open = calendar.at(now);
        if let Some(open) = &open {
            assert!(open.contains(now), "{open:?} is open at {now}");
        }
        let mut before: Option<Timestamp> = None;
        for found in calendar.from(now).take(OCCURRENCES_MAX) {
            assert!(found.start < found.end, "{found:?} is over before it begins");
            assert!(
                before.is_none_or(|before| before < found.start),
                "{found:?} is open before the last one closed"
            );
            assert!(
                found.length() >= SignedDuration::try_from(LENGTH_MIN).unwrap()
                    || found.end == Timestamp::MAX
            );
            assert!(found.end > now, "{found:?} is over at {now}");
            let inside = calendar.at(found.start);
            assert!(inside.is_some_and(|inside| inside.start <= found.start && inside.contains(found.start)));
            before = Some(found.end);
        }
        if let Some(next) = calendar.next(now) {
            assert!(next.start > now, "{next:?} comes after {now}");
            assert!(open.is_none_or(|open| open.end < next.start
                || open.length() >= SignedDuration::try_from(LENGTH_MAX).unwrap()));
        }
    }
}

fn schedule(json: &str) -> bool {
    let Ok(schedule) = serde_json::from_str::<Schedule>(json) else { return false };
    let json = serde_json::to_string(&schedule).unwrap();
    assert_eq!(
        serde_json::from_str::<Schedule>(&json).unwrap(),
        schedule,
        "a schedule is another after it was written"
    );
    if timetable::check(&schedule).is_err() {
        return false;
    }
    let zone = TimeZone::get("Europe/Berlin").unwrap_or(TimeZone::UTC);
    for moment in MOMENTS {
        let now: Timestamp = moment.parse().unwrap();
        let next = |last| timetable::next(&schedule, now, "web-01", last, &zone);
        assert_eq!(next(None), now, "what never ran waits");
        let after = next(Some(now));
        assert!(after > now, "it runs twice at once");
        assert!(
            after.duration_since(now) <= SignedDuration::from_hours(24 * 32),
            "it waits longer than its period"
        );
        assert!(next(Some(after)) >= now, "a clock that was set back makes it due in the past");
    }
    true
}

fn seeds() -> Vec<Vec<u8>> {
    texts(&[
        r#"w{"id":"w","opens":[{"on":{"after":[2,"tuesday",4]},"at":"22:00:00"},{"on":{"nth":[-1,"sunday"]},"at":"02:30:00","months":[3,6,9,12]}],"length":"4h","zone":"Europe/Paris","at_once_max":5}"#,
        r#"w{"id":"w","opens":[{"on":"every","at":"02:30:00"},{"on":{"weekly":["monday"]},"at":"03:00:00"},{"on":{"day":-31},"at":"23:59:59"}],"length":"1day"}"#,
        r#"l{"id":"l","department":"IT","grace":"2days","deadline":"5days","at_deadline":"install","experience":"notify","countdown":"15m","countdown_default":"install","postpone":"4h","remind_every":"4h","reboot":{"at":"03:30:00"},"reboot_hold":"1day","roaming":"include","windows":["w"],"schedule":{"daily":{"at":"09:00:00","spread":"2h"}},"untrusted":true,"approval":"automatic"}"#,
        r#"r{"id":"r","rings":[{"name":"first","who":{"permille":10},"soak":"1day","successes_at_least":3,"failure_permille_max":20,"failures_min":2},{"name":"web","who":{"group":"web"}},{"name":"broad","who":"rest"}]}"#,
        r#"c{"scope":{"group":"web"},"codes":{"3010":"success_reboot_required"}}"#,
        r#"t{"successes_at_least":10,"over":"7days","failure_permille_max":10}"#,
        r#"s{"every":"30m"}"#,
        r#"s{"weekly":{"days":["tuesday"],"at":"02:30:00","spread":"1h"}}"#,
    ])
}
