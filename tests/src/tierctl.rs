//! The real `tierctl`, as the operator that `init` set up.

use std::path::PathBuf;

use crate::{
    fleet::Fleet,
    programs::{self, Ended},
};

/// It and its contexts.
#[derive(Clone, Debug)]
pub struct Tierctl {
    contexts: PathBuf,
}

impl Tierctl {
    /// One that asks the central of `fleet`.
    #[must_use]
    pub fn of(fleet: &Fleet) -> Self {
        let contexts = fleet.folder("contexts.toml");
        let operator = fleet.folder("central").join("operator");
        let text = format!(
            "current = \"test\"\n[[context]]\nname = \"test\"\nserver = \"{}\"\nidentity = \"{}\"\nroots = \"{}\"\n",
            fleet.address,
            operator.join("identity.pem").display(),
            operator.join("roots.pem").display()
        );
        std::fs::write(&contexts, text).unwrap();
        Self { contexts }
    }

    /// Runs it to its end; the words of a command line, or more of them.
    #[must_use]
    pub fn ends(&self, words: &[&str]) -> Ended {
        let contexts = self.contexts.display().to_string();
        let mut arguments = vec!["--config", &contexts];
        arguments.extend(words);
        programs::run("tierctl", &arguments)
    }

    /// What it prints when it succeeds, which it must.
    pub fn prints(&self, words: &[&str]) -> String {
        let ended = self.ends(words);
        assert_eq!(ended.code, Some(0), "tierctl {words:?}: {}{}", ended.output, ended.errors);
        ended.output
    }

    /// The same as JSON.
    #[must_use]
    pub fn json(&self, words: &[&str]) -> serde_json::Value {
        let mut words = words.to_vec();
        words.extend(["--output", "json"]);
        serde_json::from_str(&self.prints(&words)).unwrap()
    }
}

/// The line of a table in which `word` stands, with one space between its words.
#[must_use]
pub fn line(table: &str, word: &str) -> String {
    let found = table.lines().find(|line| line.contains(word));
    let found = found.unwrap_or_else(|| panic!("no line with `{word}` in:\n{table}"));
    found.split_whitespace().collect::<Vec<_>>().join(" ")
}
