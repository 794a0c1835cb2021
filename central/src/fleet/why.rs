//! Why an update is, or is not, needed on an endpoint: the rule over the reported facts, and what was decided.

use jiff::Timestamp;
use tierway_common::{
    blobs::Blobs,
    rules::{
        evaluate::Verdict,
        explain::{ExplainedUpdate, explain_update},
    },
    schema::{Approval, Decision},
};

use super::{
    AskError,
    endpoints::{EndpointPatch, patch_on},
    patches::document,
};
use crate::state::State;

/// The whole answer.
#[derive(Clone, Debug)]
pub struct Why {
    /// Name and id of the endpoint.
    pub endpoint: String,
    /// Id of the update.
    pub patch: String,
    /// Central's own evaluation of the reported facts; `None` when the endpoint has reported none.
    pub explained: Option<ExplainedUpdate>,
    /// When the facts were read.
    pub facts_at: Option<Timestamp>,
    /// What the endpoint itself said, or central's estimate.
    pub reported: Option<EndpointPatch>,
    /// When the endpoint reported last.
    pub reported_at: Option<Timestamp>,
    /// One sentence.
    pub summary: String,
    /// One sentence.
    pub approval: String,
}

/// Explains one update on one endpoint.
///
/// # Errors
///
/// [`AskError`].
pub fn why(state: &State, trees: &Blobs, endpoint: &str, patch: &str) -> Result<Why, AskError> {
    let (endpoint, update) = {
        let model = state.model();
        (super::endpoint(&model, endpoint)?.clone(), super::update(&model, patch)?.clone())
    };
    let (update_document, _) = document(state, trees, &update)?;
    let explained = state.facts(endpoint.number)?.map(|facts| explain_update(&update_document, &facts));
    let reported = patch_on(state, &endpoint, &update.id)?;
    let approval = {
        let model = state.model();
        match model.decision(&endpoint, &update.id) {
            None if model.approved_for(&update.id).contains(endpoint.number) => {
                "nobody decided, and its service level asks for no approval".to_owned()
            }
            decision => approval(decision),
        }
    };
    let name = &endpoint.name;
    let summary = match explained.as_ref().map(|explained| &explained.verdict) {
        None => format!("{name} has not reported its facts yet"),
        Some(Verdict::NotApplicable) => format!("{} is not for {name}", update.id.name()),
        Some(Verdict::Needed) => format!("{name} needs {} and does not have it", update.id.name()),
        Some(Verdict::Installed) => format!("{name} has {} or something newer", update.id.name()),
        Some(Verdict::Unknown { reason }) => format!("it cannot be decided: {reason}"),
    };
    Ok(Why {
        endpoint: format!("{name} ({})", endpoint.id),
        patch: update.id.to_string(),
        facts_at: endpoint.facts.as_ref().map(|facts| facts.at),
        reported_at: endpoint.last_report,
        explained,
        reported,
        summary,
        approval,
    })
}

fn approval(decision: Option<&Approval>) -> String {
    match decision {
        None => "not decided for any of its groups".to_owned(),
        Some(Approval { group, decision, at, by, .. }) => {
            let decided = if *decision == Decision::Approve { "approved" } else { "declined" };
            format!("{decided} for group `{group}` by {by} at {at}")
        }
    }
}

/// For people.
#[must_use]
pub fn verdict_name(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::NotApplicable => "not applicable",
        Verdict::Needed => "needed",
        Verdict::Installed => "installed",
        Verdict::Unknown { .. } => "unknown",
    }
}
