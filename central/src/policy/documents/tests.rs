use super::*;

fn now() -> Timestamp {
    "2026-11-24T12:00:00Z".parse().unwrap()
}

fn refused(kind: Kind, json: &str) -> String {
    let checked = Document::read(kind, json).and_then(|document| document.check(now()));
    checked.expect_err(json).to_string()
}

#[test]
fn a_document_that_makes_no_sense_is_refused_by_what_is_wrong() {
    let daily = r#""opens":[{"on":"every","at":"02:00:00"}]"#;
    let cases = [
        (Kind::Level, r#"{"id":"a","deadlin":"1h"}"#.to_owned(), "unknown field `deadlin`"),
        (Kind::Level, r#"{"id":"a b"}"#.to_owned(), "`a b` is not a valid service level"),
        (
            Kind::Level,
            r#"{"id":"a","grace":"2days","deadline":"1day"}"#.to_owned(),
            "`deadline` must be at least `grace`, which is 2days, found `1day`",
        ),
        (Kind::Level, r#"{"id":"a","grace":"8days"}"#.to_owned(), "found `7days`"),
        (Kind::Level, r#"{"id":"a","countdown":"2days"}"#.to_owned(), "`countdown` must be 0s to 1day"),
        (Kind::Level, r#"{"id":"a","postpone":"1s"}"#.to_owned(), "`postpone` must be 1m to 30days"),
        (Kind::Level, r#"{"id":"a","classes":[]}"#.to_owned(), "`classes` must be 1 to 16"),
        (Kind::Level, r#"{"id":"a","windows":["w","w"]}"#.to_owned(), "found `one of them twice`"),
        (Kind::Level, "{\"id\":\"a\",\"department\":\"IT\u{202e}\"}".to_owned(), "`department` must be"),
        (Kind::Level, r#"{"id":"a","schedule":{"every":"1s"}}"#.to_owned(), "its times make no sense"),
        (
            Kind::Level,
            format!(
                r#"{{"id":"a","follow_up":[{{"run":{{"program":"{}","bytes":0,"limit":"1m"}}}}]}}"#,
                "0".repeat(64)
            ),
            "`bytes` must be 1 to 67108864",
        ),
        (Kind::Window, r#"{"id":"w","opens":[],"length":"2h"}"#.to_owned(), "its times make no sense"),
        (
            Kind::Window,
            r#"{"id":"w","opens":[{"on":{"day":31},"at":"02:00:00","months":[2,4]}],"length":"2h"}"#
                .to_owned(),
            "its times make no sense",
        ),
        (Kind::Window, format!(r#"{{"id":"w",{daily},"length":"24h"}}"#), "its times make no sense"),
        (Kind::Window, format!(r#"{{"id":"w",{daily},"length":"2h","zone":"Mars"}}"#), "Mars"),
        (Kind::Window, format!(r#"{{"id":"w",{daily},"length":"2h","at_once_max":0}}"#), "`at_once_max`"),
        (Kind::RingPlan, r#"{"id":"p","rings":[]}"#.to_owned(), "1 to 32 rings"),
        (
            Kind::RingPlan,
            r#"{"id":"p","rings":[{"name":"a","who":"rest","failures_min":0}]}"#.to_owned(),
            "`failures_min` must be at least 1",
        ),
        (Kind::ResultCodes, r#"{"scope":{"group":"g"},"codes":{}}"#.to_owned(), "`codes` must be 1 to 200"),
        (
            Kind::Trust,
            r#"{"successes_at_least":0,"over":"1day","failure_permille_max":10}"#.to_owned(),
            "`successes_at_least` must be at least 1",
        ),
        (
            Kind::Trust,
            r#"{"successes_at_least":1,"over":"1day","failure_permille_max":1001}"#.to_owned(),
            "`failure_permille_max` must be at most 1000",
        ),
        (Kind::Trust, " ".repeat(DOCUMENT_BYTES_MAX + 1), "it has 32769 bytes"),
    ];
    for (kind, json, expected) in cases {
        let found = refused(kind, &json);
        assert!(found.contains(expected), "{json}: {found}");
    }
}

#[test]
fn a_good_document_of_each_kind_has_its_name_key_and_references() {
    for (kind, json, name, key, references) in [
        (Kind::Level, r#"{"id":"office","grace":"2days","windows":["night"]}"#, "office", "level/office", 1),
        (
            Kind::Window,
            r#"{"id":"night","opens":[{"on":{"after":[2,"tuesday",4]},"at":"22:00:00"}],"length":"4h",
                "zone":"Europe/Paris","at_once_max":3}"#,
            "night",
            "window/night",
            0,
        ),
        (
            Kind::RingPlan,
            r#"{"id":"safe","rings":[{"name":"test","who":{"group":"test"},"soak":"2days"},
                {"name":"all","who":"rest"}]}"#,
            "safe",
            "ring-plan/safe",
            1,
        ),
        (
            Kind::ResultCodes,
            r#"{"scope":{"update":"debian-12/a_1"},"codes":{"3010":"success_reboot_required"}}"#,
            "update/debian-12/a_1",
            "result-codes/update/debian-12/a_1",
            1,
        ),
        (
            Kind::ResultCodes,
            r#"{"scope":{"group":"web"},"codes":{"7":"failure"}}"#,
            "group/web",
            "result-codes/group/web",
            1,
        ),
        (
            Kind::Trust,
            r#"{"successes_at_least":5,"over":"2days","failure_permille_max":0}"#,
            "trust",
            "trust-policy",
            0,
        ),
    ] {
        let document = Document::read(kind, json).unwrap();
        document.check(now()).unwrap();
        assert_eq!((document.name().as_str(), document.references().len()), (name, references), "{json}");
        assert_eq!(kind.key(name), key);
        assert_eq!(Document::read(kind, &document.json().unwrap()).unwrap(), document);
        let kept = serde_json::to_string(&document).unwrap();
        assert_eq!(serde_json::from_str::<Document>(&kept).unwrap(), document, "as central keeps it");
    }
}
