//! What comes as JSON: an advisory as CSAF 2.0 (or VEX, which has the same form), and the list of all months.

use jiff::Timestamp;
use serde::Deserialize;
use tierway_common::schema::Severity;

use crate::sources::{
    advisories::{Advisories, Fix, article},
    windows::model::{moment, severity},
};

/// A text in JSON.
#[derive(Debug)]
pub(super) enum Json {
    /// An advisory, which was added.
    Advisory,
    /// The list of months.
    Index(Vec<Entry>),
}

/// A month of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Where its document is.
    pub(super) url: String,
    /// First published.
    pub(super) first: Option<Timestamp>,
    /// Last changed, as written: another when the document is another.
    pub(super) changed: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Either {
    Index { value: Vec<Month> },
    Advisory(Box<Advisory>),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Month {
    cvrf_url: String,
    #[serde(default)]
    initial_release_date: String,
    #[serde(default)]
    current_release_date: String,
}

#[derive(Deserialize)]
struct Advisory {
    document: Document,
    #[serde(default)]
    vulnerabilities: Vec<Vulnerability>,
}

#[derive(Deserialize)]
struct Document {
    category: String,
    #[serde(default)]
    aggregate_severity: Rated,
}

#[derive(Default, Deserialize)]
struct Rated {
    #[serde(default)]
    text: String,
}

#[derive(Deserialize)]
struct Vulnerability {
    #[serde(default)]
    cve: Option<String>,
    #[serde(default)]
    remediations: Vec<Remediation>,
}

#[derive(Deserialize)]
struct Remediation {
    category: String,
    #[serde(default)]
    details: String,
}

/// Reads a text; an advisory is added.
///
/// # Errors
///
/// Those of the JSON, and when it is neither.
pub(super) fn read(bytes: &[u8], advisories: &mut Advisories) -> Result<Json, serde_json::Error> {
    let Advisory { document, vulnerabilities } = match serde_json::from_slice(bytes)? {
        Either::Advisory(advisory) => *advisory,
        Either::Index { value } => {
            let entry = |month: Month| {
                let Month { cvrf_url, initial_release_date, current_release_date } = month;
                Entry { url: cvrf_url, first: moment(&initial_release_date), changed: current_release_date }
            };
            return Ok(Json::Index(value.into_iter().map(entry).collect()));
        }
    };
    if !document.category.starts_with("csaf_") {
        let text = format!("the category `{}` is none of CSAF's", document.category);
        return Err(serde::de::Error::custom(text));
    }
    let worst: Severity = severity(&document.aggregate_severity.text);
    for Vulnerability { cve, remediations } in vulnerabilities {
        let Some(name) = cve else { continue };
        for Remediation { category, details } in remediations {
            // `5035853:Security Update:https://support.microsoft.com/help/5035853`
            let Some(number) =
                details.split(':').next().and_then(article).filter(|_| category == "vendor_fix")
            else {
                continue;
            };
            let fix = Fix { closes: [name.clone()].into(), severity: worst, ..Fix::default() };
            advisories.add(&number, &fix);
        }
    }
    Ok(Json::Advisory)
}
