//! What a vendor's advisories say of its articles, joined with updates that name such an article.
//!
//! An article (`KB5035853`) closes vulnerabilities, is as bad to lack as the worst of them, and replaces older
//! articles. Updates say which article they bring; which vulnerabilities that closes they mostly do not.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tierway_common::{
    id::UpdateId,
    schema::{Severity, Update},
    trust::digest::Digest,
};

/// Most names that one update refers to: a cumulative update closes some hundred vulnerabilities.
pub const REFERENCES_MAX: usize = 2_000;

/// What one article is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fix {
    /// Vulnerabilities that it closes.
    pub closes: BTreeSet<String>,
    /// Of the worst of them.
    pub severity: Severity,
    /// Articles that it replaces.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub supersedes: BTreeSet<String>,
}

impl Default for Fix {
    fn default() -> Self {
        Self { closes: BTreeSet::new(), severity: Severity::Unspecified, supersedes: BTreeSet::new() }
    }
}

/// Article → what it is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Advisories(pub BTreeMap<String, Fix>);

/// The name of an article: `5035853` and `KB5035853` are the same; `None` for a text that is no article's number.
#[must_use]
pub fn article(text: &str) -> Option<String> {
    let text = text.trim();
    let digits = text.strip_prefix("KB").or_else(|| text.strip_prefix("kb")).unwrap_or(text);
    let fits = (5..=9).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    fits.then(|| format!("KB{digits}"))
}

impl Advisories {
    /// Adds what else is said of an article.
    pub fn add(&mut self, article: &str, fix: &Fix) {
        let known = self.0.entry(article.to_owned()).or_default();
        known.closes.extend(fix.closes.iter().cloned());
        known.severity = known.severity.max(fix.severity);
        known.supersedes.extend(fix.supersedes.iter().cloned());
    }

    /// Names all that is said: another when anything is.
    #[must_use]
    pub fn digest(&self) -> Digest {
        // Maps of texts can always be written.
        Digest::of(&serde_json::to_vec(self).unwrap_or_default())
    }

    /// Adds to updates what the advisories say of their articles: the vulnerabilities, the severity where the update
    /// itself says none, and which other updates they replace.
    ///
    /// An article has an update for each system and architecture. One replaces that of an older article whose title is
    /// the same but for the article and the month: what differs otherwise is for others.
    pub fn join(&self, updates: &mut BTreeMap<UpdateId, Update>) {
        if self.0.is_empty() {
            return;
        }
        let mut by_title: BTreeMap<(String, String), UpdateId> = BTreeMap::new();
        for update in updates.values_mut() {
            let named: Vec<String> = update.references.iter().filter_map(|name| article(name)).collect();
            for article in named {
                by_title.insert((article.clone(), bare(&update.title)), update.id.clone());
                let Some(fix) = self.0.get(&article) else { continue };
                for vulnerability in &fix.closes {
                    if update.references.len() < REFERENCES_MAX && !update.references.contains(vulnerability)
                    {
                        update.references.push(vulnerability.clone());
                    }
                }
                if update.severity == Severity::Unspecified {
                    update.severity = fix.severity;
                }
            }
        }
        let mut pairs = BTreeSet::new();
        for ((newer, title), id) in &by_title {
            for older in self.0.get(newer).into_iter().flat_map(|fix| &fix.supersedes) {
                let found = by_title.get(&(older.clone(), title.clone()));
                pairs.extend(found.filter(|older| *older != id).map(|older| (id.clone(), older.clone())));
            }
        }
        for (newer, older) in pairs {
            if let Some(update) = updates.get_mut(&newer)
                && !update.supersedes.contains(&older)
            {
                update.supersedes.push(older.clone());
            }
            if let Some(update) = updates.get_mut(&older)
                && !update.superseded_by.contains(&newer)
            {
                update.superseded_by.push(newer);
            }
        }
    }
}

/// A title without the month it begins with and the article it ends with.
fn bare(title: &str) -> String {
    let is_month = |word: &str| {
        word.len() == 7
            && word.bytes().enumerate().all(|(at, b)| if at == 4 { b == b'-' } else { b.is_ascii_digit() })
    };
    let kept = title
        .split_whitespace()
        .filter(|word| !is_month(word) && article(word.trim_matches(['(', ')', '[', ']', ','])).is_none());
    kept.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::update;

    fn fix(closes: &[&str], severity: Severity, supersedes: &[&str]) -> Fix {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Fix { closes: set(closes), severity, supersedes: set(supersedes) }
    }

    fn bring(article: &str, title: &str, severity: Severity) -> Update {
        Update {
            id: format!("windows/{}", title.replace([' ', '(', ')'], "")).parse().unwrap(),
            title: title.to_owned(),
            severity,
            references: vec![article.to_owned()],
            ..update("x", "1")
        }
    }

    #[test]
    fn an_update_learns_what_its_article_closes_and_how_bad_that_is_where_it_does_not_say() {
        let mut advisories = Advisories::default();
        advisories.add("KB5000002", &fix(&["CVE-2026-0002"], Severity::Important, &[]));
        advisories.add("KB5000002", &fix(&["CVE-2026-0001"], Severity::Critical, &[]));
        let all = [
            bring("KB5000002", "a", Severity::Unspecified),
            bring("KB5000002", "b", Severity::Low),
            bring("KB5000003", "c", Severity::Unspecified),
        ];
        let mut updates: BTreeMap<_, _> = all.into_iter().map(|update| (update.id.clone(), update)).collect();
        advisories.join(&mut updates);
        let joined: Vec<_> =
            updates.values().map(|update| (update.references.join(" "), update.severity)).collect();
        let both = "KB5000002 CVE-2026-0001 CVE-2026-0002".to_owned();
        assert_eq!(
            joined,
            [
                (both.clone(), Severity::Critical),
                (both, Severity::Low),
                ("KB5000003".to_owned(), Severity::Unspecified)
            ]
        );
        let before = updates.clone();
        advisories.join(&mut updates);
        assert_eq!(updates, before);
    }

    #[test]
    fn an_article_replaces_only_the_update_that_is_for_the_same_systems() {
        let mut advisories = Advisories::default();
        advisories.add("KB5000002", &fix(&[], Severity::Important, &["KB5000001"]));
        let title =
            |month: &str, system: &str, kb: &str| format!("{month} Cumulative Update for {system} (KB{kb})");
        let all: Vec<_> =
            [("2026-09", "x64", "5000001"), ("2026-09", "ARM64", "5000001"), ("2026-10", "x64", "5000002")]
                .map(|(month, system, kb)| {
                    bring(&format!("KB{kb}"), &title(month, system, kb), Severity::Low)
                })
                .into();
        let ids: Vec<_> = all.iter().map(|update| update.id.clone()).collect();
        let mut updates: BTreeMap<_, _> = all.into_iter().map(|update| (update.id.clone(), update)).collect();
        advisories.join(&mut updates);
        assert_eq!(updates[&ids[0]].superseded_by, [ids[2].clone()]);
        assert_eq!(updates[&ids[1]].superseded_by, []);
        assert_eq!(updates[&ids[2]].supersedes, [ids[0].clone()]);
    }

    #[test]
    fn only_a_number_is_an_article() {
        for (text, wanted) in [
            ("5035853", Some("KB5035853")),
            (" KB890830 ", Some("KB890830")),
            ("kb890830", Some("KB890830")),
            ("Release Notes", None),
            ("12", None),
            ("17.9.3", None),
            ("", None),
        ] {
            assert_eq!(article(text).as_deref(), wanted, "{text}");
        }
    }
}
