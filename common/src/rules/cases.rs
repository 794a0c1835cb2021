//! The corpus of rules: files of one rule, facts, and what must come out, for authors who write no Rust.
//!
//! `UPDATE=1 cargo test` writes what comes out into the files.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

use super::{
    evaluate,
    explain::{Value, explain, would_change},
    expr::Expr,
};
use crate::facts::Facts;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What the case is about.
    about: String,
    rule: Expr,
    facts: Facts,
    /// At most so many parts of a node are shown; all when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prune: Option<usize>,
    #[serde(default)]
    value: Option<Value>,
    #[serde(default)]
    text: Vec<String>,
    #[serde(default)]
    would_change: Vec<String>,
}

#[test]
fn every_case_of_the_corpus_comes_out_as_written() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/rules/cases");
    let mut paths: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut wrong = Vec::new();
    for path in &paths {
        let written = fs::read_to_string(path).unwrap();
        let mut case: Case =
            serde_json::from_str(&written).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        super::check(&case.rule).unwrap();
        let explained = explain(&case.rule, &case.facts);
        let shown = case.prune.map_or_else(|| explained.clone(), |most| explained.prune(most));
        case.value = Some(Value::from(&evaluate(&case.rule, &case.facts)));
        case.text = shown.to_string().lines().map(str::to_owned).collect();
        case.would_change = would_change(&explained);
        let found = serde_json::to_string_pretty(&case).unwrap() + "\n";
        if found == written {
            continue;
        }
        if std::env::var_os("UPDATE").is_some() {
            fs::write(path, found).unwrap();
        } else {
            wrong.push(format!("{}\n--- written\n{written}\n--- found\n{found}", path.display()));
        }
    }
    assert!(paths.len() >= 10, "the corpus is not in {}", dir.display());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
