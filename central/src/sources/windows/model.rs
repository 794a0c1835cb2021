//! One revision of an update, as every encoding of the vendors' metadata says it.

use std::{fmt, str::FromStr};

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use tierway_common::{
    rules::expr::Expr,
    schema::{Severity, UpdateClass, WindowsInstall},
};

/// What a vendor calls an update in all its revisions; lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guid(Box<str>);

/// A text that is not a GUID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a GUID")]
pub struct GuidError {
    text: String,
}

impl FromStr for Guid {
    type Err = GuidError;

    fn from_str(text: &str) -> Result<Self, GuidError> {
        let bare = text.trim().trim_matches(['{', '}']);
        let fits = bare.len() == 36
            && bare.bytes().enumerate().all(|(place, byte)| match place {
                8 | 13 | 18 | 23 => byte == b'-',
                _ => byte.is_ascii_hexdigit(),
            });
        if !fits {
            return Err(GuidError { text: text.chars().take(80).collect() });
        }
        Ok(Self(bare.to_ascii_lowercase().into()))
    }
}

impl Guid {
    /// Lower case, without braces.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An update in one revision.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// Which update.
    pub id: Guid,
    /// A higher one replaces it.
    pub revision: u32,
}

/// What an update is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// A product, a family of them, a company, or a classification.
    Category,
    /// Only a rule that others refer to.
    Detectoid,
    /// Something to install.
    #[default]
    Software,
    /// A driver.
    Driver,
}

/// Updates of which one is enough.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Which.
    pub any: Vec<Guid>,
}

/// When an update is what; a rule that is not there is false.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// It, or better, is installed.
    pub installed: Option<Expr>,
    /// Something that may not be in the catalogue replaces it.
    pub superseded: Option<Expr>,
    /// It could be installed.
    pub installable: Option<Expr>,
}

/// One revision of an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// What it is called.
    pub identity: Identity,
    /// What it is for.
    pub kind: Kind,
    /// One line, in English where there is any.
    pub title: String,
    /// Product or vendor, where the metadata name one.
    pub product: Option<String>,
    /// Version that it brings, where the metadata name one.
    pub version: Option<String>,
    /// The vendor's own date.
    pub created: Option<Timestamp>,
    /// The vendor withdrew it.
    pub expired: bool,
    /// As the vendor rates it.
    pub severity: Severity,
    /// What it is for, where the document itself says it in words.
    pub class: Option<UpdateClass>,
    /// Articles (`KB5026368`), bulletins and CVEs, each once, in the document's order.
    pub references: Vec<String>,
    /// All must be met, each by any of its updates.
    pub prerequisites: Vec<Group>,
    /// Parts, in groups of which one is enough; empty when it is no bundle.
    pub bundled: Vec<Vec<Identity>>,
    /// Updates that it replaces, whatever their revision; most are in no catalogue any more.
    pub supersedes: Vec<Guid>,
    /// When it is what.
    pub rules: Rules,
    /// How to install it; nothing for bundles, categories and detectoids.
    pub install: Option<WindowsInstall>,
}

impl Revision {
    /// One that says nothing but its name.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            kind: Kind::default(),
            title: String::new(),
            product: None,
            version: None,
            created: None,
            expired: false,
            severity: Severity::Unspecified,
            class: None,
            references: Vec::new(),
            prerequisites: Vec::new(),
            bundled: Vec::new(),
            supersedes: Vec::new(),
            rules: Rules::default(),
            install: None,
        }
    }

    /// Adds a name of an article, a bulletin or a vulnerability, once.
    pub fn refer(&mut self, name: &str) {
        let name = name.trim();
        if !name.is_empty() && !self.references.iter().any(|known| known == name) {
            self.references.push(name.to_owned());
        }
    }
}

/// How the vendors rate.
pub(in crate::sources) fn severity(text: &str) -> Severity {
    match text.to_ascii_lowercase().as_str() {
        "critical" => Severity::Critical,
        "important" => Severity::Important,
        "moderate" => Severity::Moderate,
        "low" => Severity::Low,
        _ => Severity::Unspecified,
    }
}

/// What the vendors call a classification.
pub(super) fn class(text: &str) -> Option<UpdateClass> {
    Some(match text.to_ascii_lowercase().as_str() {
        "security updates" | "securityupdates" => UpdateClass::Security,
        "critical updates" | "criticalupdates" => UpdateClass::Critical,
        "updates" => UpdateClass::Update,
        "update rollups" | "updaterollups" => UpdateClass::Rollup,
        "service packs" | "servicepacks" => UpdateClass::ServicePack,
        "feature packs" | "featurepacks" | "upgrades" => UpdateClass::Feature,
        "definition updates" | "definitionupdates" => UpdateClass::Definition,
        "drivers" | "driver sets" => UpdateClass::Driver,
        "applications" | "tools" => UpdateClass::Application,
        _ => return None,
    })
}

/// A date as the vendors write it; one without a zone is UTC.
pub(in crate::sources) fn moment(text: &str) -> Option<Timestamp> {
    let civil = || Some(text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp());
    text.parse().ok().or_else(civil)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guid_is_the_same_in_any_case_and_with_braces() {
        let guid: Guid = "{56309036-4C77-4DD9-951A-99EE9C246A94}".parse().unwrap();
        assert_eq!(guid.as_str(), "56309036-4c77-4dd9-951a-99ee9c246a94");
        for text in ["", "56309036-4c77-4dd9-951a-99ee9c246a9", "56309036+4c77-4dd9-951a-99ee9c246a94", "é"]
        {
            assert!(text.parse::<Guid>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_date_without_a_zone_is_universal_time() {
        assert_eq!(moment("2016-01-09T05:05:29"), moment("2016-01-09T05:05:29Z"));
        assert_eq!(moment("2018-10-03T06:37:49+00:00"), moment("2018-10-03T06:37:49Z"));
        assert_eq!(moment("yesterday"), None);
    }
}
