//! Rules over facts: however they are evaluated, the verdict is the same.

use serde::{Deserialize, Serialize};
use tierway_common::{
    facts::Facts,
    rules::{
        self,
        compile::{Compiled, Compiler},
        evaluate::{evaluate, verdict},
        explain::{Value, explain},
        expr::Expr,
    },
    schema::Update,
};

use super::{Target, texts};

/// A document of rules, and a computer.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct World {
    facts: Facts,
    applicable: Expr,
    installed: Expr,
}

pub(super) const RULES: Target = Target {
    name: "rules",
    run,
    seeds,
    words: &[
        "\"all\"",
        "\"any\"",
        "\"not\"",
        "\"const\"",
        "\"os\"",
        "\"package\"",
        "\"file\"",
        "\"registry\"",
        "\"update\"",
        "\"flag\"",
        "\"number\"",
        "\"windows\"",
        "\"msi\"",
        "\"wmi\"",
        "\"unknown\"",
        "\"registry_loop\"",
        "\"lt\":\"1\"",
        "\"ge\":\"1.0-1\"",
        "\"ne\":\"\"",
        "\"complete\"",
        "\"os:family\"",
        "\"package:deb:a:amd64\"",
        "\"manager\":\"rpm\"",
        "true",
        "false",
        "HKEY_LOOP_TARGET",
        "\"present\"",
        "\"absent\"",
    ],
};

/// An update with these rules.
fn update(applicable: &Expr, installed: &Expr) -> Update {
    let json = serde_json::json!({
        "id": "fuzz/a", "title": "a", "product": "a", "version": "1", "severity": "low", "class": "security",
        "released": "2026-11-25T00:00:00Z", "references": [], "applicable": applicable, "installed": installed,
        "install": { "deb": { "packages": [] } }, "superseded_by": [],
    });
    serde_json::from_value(json).unwrap()
}

fn run(bytes: &[u8]) -> bool {
    let Ok(world) = serde_json::from_slice::<World>(bytes) else { return false };
    let json = serde_json::to_vec(&world).unwrap();
    // What was written is read again, unless it is nested deeper than JSON may be, and rules may not be as deep by far.
    let Ok(again) = serde_json::from_slice::<World>(&json) else {
        panic!("what was written is not read again")
    };
    assert_eq!(again, world, "a rule or a fact is another after it was written");
    let World { facts, applicable, installed } = world;
    if rules::check(&applicable).is_err() || rules::check(&installed).is_err() {
        return false;
    }
    for rule in [&applicable, &installed] {
        let (truth, explained) = (evaluate(rule, &facts), explain(rule, &facts));
        let value = match truth.decided() {
            Some(true) => Value::True,
            Some(false) => Value::False,
            None => Value::Unknown,
        };
        assert_eq!(explained.value, value, "the explanation of {rule:?} has another value");
    }
    let update = update(&applicable, &installed);
    let expected = verdict(&update, &facts);
    let mut compiler = Compiler::new();
    compiler.add(&update.id, &applicable, &installed).unwrap();
    let compiled = compiler.finish();
    let scan = compiled.scan(&facts);
    assert_eq!(compiled.verdict(0, &scan, &facts), expected, "compiled, the rules say something else");

    let mut file = Vec::new();
    compiled.write(&mut file).unwrap();
    let read = Compiled::read(&mut &file[..]).unwrap();
    assert_eq!(
        read.verdict(0, &read.scan(&facts), &facts),
        expected,
        "from disk, the rules say something else"
    );

    let empty = Facts { domains: facts.domains.clone(), ..Facts::default() };
    let mut followed = compiled.scan(&empty);
    compiled.rescan(&mut followed, &empty.delta(&facts), &facts);
    assert_eq!(followed.kind(0), scan.kind(0), "a change of the facts, followed, comes to something else");
    true
}

fn seeds() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"facts":{"domains":{"os":{"complete":{"source":"s"}},"package:deb":{"complete":{"source":"s"}}},"values":{"os:family":"debian","os:version":"12","package:deb:a:amd64":"1.0-1"}},"applicable":{"all":[{"os":{"family":"debian","version":{"ge":"12"}}},{"package":{"manager":"deb","name":"a"}}]},"installed":{"package":{"manager":"deb","name":"a","version":{"ge":"1.0-2"}}}}"#,
        r#"{"facts":{"domains":{},"values":{"os:family":"windows","update:KB1":"installed"}},"applicable":{"any":[{"not":{"const":false}},{"update":{"id":"KB1"}}]},"installed":{"registry":{"key":"HKLM\\A","value":"b"}}}"#,
        r#"{"facts":{"domains":{"file":{"failed":{"source":"s","reason":"no"}}},"values":{}},"applicable":{"file":{"path":"/x","version":{"lt":"2"}}},"installed":{"const":true}}"#,
    ])
}
