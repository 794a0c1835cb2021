//! Facts as they are kept: zstd of JSON, and what is shown of them without reading them.

use std::sync::Arc;

use jiff::Timestamp;
use tierway_common::{
    facts::{Domain, Facts},
    id::GroupId,
    rules::evaluate::{Truth, evaluate},
    schema::Members,
    store::StoreError,
};

use crate::{
    policy::{GROUPS_PER_ENDPOINT_MAX, Policy},
    state::State,
    store::tables::FactsSummary,
    text::clean,
};

/// Longest facts as JSON: a report has at most 1 MiB, and changes may add to them until the next full one.
pub const FACTS_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Compresses a package list to a sixth; higher levels cost five times as much for a tenth more.
const COMPRESSION_LEVEL: i32 = 3;
/// Domains that could not be read, as shown.
const PROBLEMS_MAX: usize = 16;
/// Other programs that install updates, as shown.
const MANAGERS_MAX: usize = 8;
const PROBLEM_BYTES_MAX: usize = 300;
const OS_BYTES_MAX: usize = 100;
const ZONE_BYTES_MAX: usize = 100;

/// Facts that cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// More than [`FACTS_BYTES_MAX`].
    #[error("the facts have {bytes} bytes, more than {FACTS_BYTES_MAX}")]
    TooLarge {
        /// How many.
        bytes: usize,
    },
    /// They could not be written.
    #[error("the facts could not be packed")]
    Pack(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The packed form.
///
/// # Errors
///
/// [`FactsError`].
pub fn pack(facts: &Facts) -> Result<Arc<[u8]>, FactsError> {
    let json = serde_json::to_vec(facts).map_err(|error| FactsError::Pack(error.into()))?;
    if json.len() > FACTS_BYTES_MAX {
        return Err(FactsError::TooLarge { bytes: json.len() });
    }
    let packed =
        zstd::bulk::compress(&json, COMPRESSION_LEVEL).map_err(|error| FactsError::Pack(error.into()))?;
    Ok(packed.into())
}

/// Reads what [`pack`] gave.
///
/// # Errors
///
/// What the decoders say.
pub fn unpack(packed: &[u8]) -> Result<Facts, Box<dyn std::error::Error + Send + Sync>> {
    Ok(serde_json::from_slice(&zstd::bulk::decompress(packed, FACTS_BYTES_MAX)?)?)
}

/// What is shown of facts.
#[must_use]
pub fn summary(facts: &Facts, at: Timestamp) -> FactsSummary {
    let value = |key: &str| facts.values.get(key).map_or("", String::as_str);
    let os = ["os:family", "os:version", "os:architecture"].map(value).join(" ");
    let problems = facts.domains.iter().filter_map(|(name, domain)| match domain {
        Domain::Failed { source, reason } => {
            Some(clean(&format!("{name} could not be read from {source}: {reason}"), PROBLEM_BYTES_MAX))
        }
        _ => None,
    });
    let managers = facts.values.range("manager:".to_owned().."manager;".to_owned()).map(|(key, does)| {
        clean(&format!("{}: {does}", key.trim_start_matches("manager:")), PROBLEM_BYTES_MAX)
    });
    FactsSummary {
        digest: facts.digest(),
        at,
        os: clean(&os, OS_BYTES_MAX),
        zone: facts.values.get("clock:zone").map(|zone| clean(zone, ZONE_BYTES_MAX)),
        packages: facts.values.range("package:".to_owned().."package;".to_owned()).count() as u64,
        problems: problems.take(PROBLEMS_MAX).collect(),
        managers: managers.take(MANAGERS_MAX).collect(),
    }
}

/// Groups whose rule is true for these facts, by name, at most [`GROUPS_PER_ENDPOINT_MAX`].
#[must_use]
pub fn rule_groups(policy: &Policy, facts: &Facts) -> Vec<GroupId> {
    let by_rule = policy.groups().values().filter(|group| match &group.members {
        Members::Rule(rule) => evaluate(rule, facts) == Truth::True,
        _ => false,
    });
    by_rule.map(|group| group.id.clone()).take(GROUPS_PER_ENDPOINT_MAX).collect()
}

impl State {
    /// The facts an endpoint reported last, by its number.
    ///
    /// # Errors
    ///
    /// Those of the store, also when they cannot be read.
    pub fn facts(&self, endpoint: u32) -> Result<Option<Facts>, StoreError> {
        let malformed = |source| StoreError::Malformed { key: format!("facts {endpoint}").into(), source };
        self.packed_facts(endpoint)?.map(|packed| unpack(&packed).map_err(malformed)).transpose()
    }
}
