//! Where an update truly stands on an endpoint: every step from "found needed" to "verified", each with its time and
//! with who says so, or else with the reason why it has not been taken. Pure.
//!
//! Approved, published, at the relay and offered are different things: central knows of the first two itself, of the
//! third by what a relay says when it checks in, of all that follows by the endpoint's signed reports.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tierway_common::{
    id::SiteId,
    schema::{Decision, State as UpdateState, Waiting},
};

use crate::{
    compliance::record::Entry,
    model::Model,
    publish::log::Publications,
    store::tables::{EndpointRecord, RelayRecord, UpdateRecord},
};

/// Who says something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Central itself.
    Central,
    /// A relay, by its name.
    Relay(String),
    /// The endpoint, in a signed report.
    Endpoint,
    /// Central's own evaluation of the facts which the endpoint reported.
    Estimate,
}

impl Source {
    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Central => "central".to_owned(),
            Self::Relay(name) => format!("relay {name}"),
            Self::Endpoint => "endpoint".to_owned(),
            Self::Estimate => "estimate".to_owned(),
        }
    }
}

/// One step on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// `detected`, `approved`, `published`, `at relay`, `offered`, `downloaded`, `applied` or `verified`.
    pub name: &'static str,
    /// When it was taken, Unix seconds.
    pub at: Option<u32>,
    /// Who says so.
    pub source: Source,
    /// Why it was not taken, a sentence; empty when it was.
    pub reason: String,
}

/// Where an update stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// In a word or two, such as `at relay` or `waiting for a window`.
    pub name: &'static str,
    /// Since when, Unix seconds.
    pub since: u32,
    /// Until when it waits, Unix seconds, where that is known.
    pub until: Option<u32>,
    /// Who says so.
    pub source: Source,
    /// When that was heard last, Unix seconds; `None` for never.
    pub heard: Option<u32>,
    /// More about it; never empty for what is unknown.
    pub detail: String,
    /// All steps in their order.
    pub steps: Vec<Step>,
}

/// What an update's standing is worked out from.
#[derive(Clone, Debug)]
pub struct Known<'a> {
    /// Groups, decisions.
    pub(super) model: &'a Model,
    publications: &'a Publications,
    /// Those in use, by site, then id.
    relays: BTreeMap<&'a SiteId, Vec<&'a RelayRecord>>,
    now: Timestamp,
}

impl<'a> Known<'a> {
    /// Groups, decisions and relays by `model`, what is published since when by `publications`.
    #[must_use]
    pub fn new(model: &'a Model, publications: &'a Publications, now: Timestamp) -> Self {
        let mut relays: BTreeMap<&SiteId, Vec<&RelayRecord>> = BTreeMap::new();
        for relay in model.relays().values().filter(|relay| !relay.revoked) {
            relays.entry(&relay.site).or_default().push(relay);
        }
        Self { model, publications, relays, now }
    }
}

struct Approval {
    /// When, if it is approved.
    at: Option<Timestamp>,
    /// Otherwise why not.
    reason: String,
    declined: bool,
}

/// What an endpoint, or a relay on the way to it, must have for the decision to be known there.
struct Arrival {
    version: Option<u64>,
    published: Step,
    relay: Step,
    /// Nothing is between the endpoint and central.
    direct: bool,
}

/// Where `update` stands on `endpoint`, whose packed state is `entry`.
#[must_use]
pub fn standing(
    known: &Known<'_>,
    endpoint: &EndpointRecord,
    update: &UpdateRecord,
    entry: &Entry,
) -> Standing {
    let approval = approval(known, endpoint, update, entry);
    let arrival = arrival(known, endpoint, &approval);
    let waiting = believed(endpoint, entry, &approval, &arrival);
    let steps = steps(endpoint, entry, &approval, &arrival, waiting);
    let told = Told { endpoint, entry, waiting };
    let stands = told.settled().unwrap_or_else(|| on_the_way(known, told, &steps, &approval, &arrival));
    Standing { steps, ..stands }
}

/// The same without the steps: for lists of many endpoints, most of which have it installed.
#[must_use]
pub fn in_short(
    known: &Known<'_>,
    endpoint: &EndpointRecord,
    update: &UpdateRecord,
    entry: &Entry,
) -> Standing {
    // Where it waits for nothing, what was decided and published says nothing about it.
    let told = Told { endpoint, entry, waiting: None };
    let settled = if entry.progress.waiting.is_none() { told.settled() } else { None };
    settled.unwrap_or_else(|| Standing { steps: Vec::new(), ..standing(known, endpoint, update, entry) })
}

/// What the endpoint says.
#[derive(Clone, Copy)]
struct Told<'a> {
    endpoint: &'a EndpointRecord,
    entry: &'a Entry,
    waiting: Option<Waiting>,
}

impl Told<'_> {
    /// A standing of which it is the source, without steps.
    fn says(self, name: &'static str, since: u32, detail: &str) -> Standing {
        let Self { endpoint, entry, waiting } = self;
        let own = if entry.estimated { Source::Estimate } else { Source::Endpoint };
        let heard = match own {
            Source::Estimate => endpoint.facts.as_ref().map(|facts| facts.at),
            _ => endpoint.last_report,
        };
        Standing {
            name,
            since,
            until: entry.progress.until.filter(|_| waiting.is_some()),
            source: own,
            heard: heard.map(seconds),
            detail: detail.to_owned(),
            steps: Vec::new(),
        }
    }

    fn detail(&self) -> &str {
        self.entry.detail.as_deref().unwrap_or_default()
    }

    /// `None` when all that it says is that the update is needed.
    fn settled(self) -> Option<Standing> {
        let (entry, told, progress) = (self.entry, self.detail(), self.entry.progress);
        Some(match entry.state {
            UpdateState::Installed => match progress.verified {
                Some(at) => self.says("verified", at, told),
                None => self.says("installed", entry.applied.unwrap_or(entry.since), unverified(entry, told)),
            },
            UpdateState::RebootPending => self.says("reboot pending", entry.since, told),
            UpdateState::Unknown | UpdateState::NotApplicable => {
                let detail = if told.is_empty() { "the endpoint gave no reason" } else { told };
                self.says("unknown", entry.since, detail)
            }
            UpdateState::Needed | UpdateState::Failed => match self.waiting {
                Some(waiting @ (Waiting::Quarantine | Waiting::Installing)) => {
                    self.says(waiting.as_str(), entry.since, told)
                }
                _ if entry.state == UpdateState::Failed => self.says("failed", entry.since, told),
                Some(waiting) => self.says(waiting.as_str(), entry.since, told),
                None => return None,
            },
        })
    }
}

fn unverified<'a>(entry: &Entry, told: &'a str) -> &'a str {
    match (told.is_empty(), entry.applied) {
        (false, _) => told,
        (true, Some(_)) => "not seen by a later scan yet",
        (true, None) => "was there when it was first looked for",
    }
}

/// The last step that was taken, of an update that the endpoint says nothing more about.
fn on_the_way(
    known: &Known<'_>,
    told: Told<'_>,
    steps: &[Step],
    approval: &Approval,
    arrival: &Arrival,
) -> Standing {
    if approval.at.is_none() {
        let name = if approval.declined { Waiting::Declined } else { Waiting::Approval }.as_str();
        let since = steps.first().and_then(|step| step.at).unwrap_or_default();
        let detail = if told.detail().is_empty() { &approval.reason } else { told.detail() };
        let standing = told.says(name, since, detail);
        return Standing { source: Source::Central, heard: Some(seconds(known.now)), ..standing };
    }
    let taken = |step: &&Step| step.at.is_some() && step.name != "detected";
    let Some(last) = steps.iter().rev().find(taken) else {
        return told.says("needed", 0, "nothing is known of its way");
    };
    let next = steps.iter().skip_while(|step| step.name != last.name).skip(1).find(|step| step.at.is_none());
    // Without a relay on the way nothing is ever "at relay".
    let next = next.filter(|step| !(arrival.direct && step.name == "at relay")).or_else(|| {
        steps
            .iter()
            .skip_while(|step| step.name != last.name)
            .skip(1)
            .find(|step| step.at.is_none() && step.name != "at relay")
    });
    let detail = next.map_or("", |step| step.reason.as_str());
    let standing = told.says(last.name, last.at.unwrap_or_default(), detail);
    let heard = match &last.source {
        Source::Central => Some(seconds(known.now)),
        Source::Relay(_) => last.at,
        Source::Endpoint | Source::Estimate => standing.heard,
    };
    Standing { source: last.source.clone(), heard, ..standing }
}

fn approval(known: &Known<'_>, endpoint: &EndpointRecord, update: &UpdateRecord, entry: &Entry) -> Approval {
    let decision = known.model.decision(endpoint, &update.id);
    match decision {
        Some(decided) if decided.decision == Decision::Approve => {
            Approval { at: Some(decided.at), reason: String::new(), declined: false }
        }
        Some(decided) => Approval {
            at: None,
            reason: format!("declined for group `{}` by {}", decided.group, decided.by),
            declined: true,
        },
        None => match entry.authorized.and_then(|at| Timestamp::from_second(at.into()).ok()) {
            // Settled when it was applied; withdrawn since.
            Some(at) => Approval { at: Some(at), reason: String::new(), declined: false },
            None => Approval {
                at: None,
                reason: "nobody approved it for a group of this endpoint".to_owned(),
                declined: false,
            },
        },
    }
}

fn arrival(known: &Known<'_>, endpoint: &EndpointRecord, approval: &Approval) -> Arrival {
    let step = |name, at: Option<Timestamp>, source, reason: String| Step {
        name,
        at: at.map(seconds),
        source,
        reason,
    };
    let relays = known.relays.get(&endpoint.site).map(Vec::as_slice).unwrap_or_default();
    let direct = relays.is_empty();
    let with = approval.at.and_then(|at| known.publications.with(at));
    let Some((version, made)) = with else {
        let reason = match approval.at {
            Some(_) => "it goes out with the next publication",
            None => "it is not approved",
        };
        return Arrival {
            version: None,
            published: step("published", None, Source::Central, reason.to_owned()),
            relay: step("at relay", None, Source::Central, "it is not published".to_owned()),
            direct,
        };
    };
    let has =
        relays.iter().filter_map(|relay| Some((relay.since(version)?, relay))).min_by_key(|(at, _)| *at);
    let relay = match has {
        Some((at, relay)) => step("at relay", Some(at), Source::Relay(relay.name.clone()), String::new()),
        None if direct => {
            let reason = format!("site `{}` has no relay: the endpoint asks central itself", endpoint.site);
            step("at relay", None, Source::Central, reason)
        }
        None => {
            let behind = relays.iter().map(|relay| match relay.last_seen {
                Some(at) => format!(
                    "relay {} had version {} of {} at {at}",
                    relay.name,
                    relay.timestamp_version,
                    known.publications.newest()
                ),
                None => format!("relay {} has never checked in", relay.name),
            });
            step("at relay", None, Source::Central, behind.collect::<Vec<_>>().join("; "))
        }
    };
    Arrival {
        version: Some(version),
        published: step("published", Some(made), Source::Central, String::new()),
        relay,
        direct,
    }
}

/// What the endpoint says that the update waits for, unless it said so before it could know what was decided since.
fn believed(
    endpoint: &EndpointRecord,
    entry: &Entry,
    approval: &Approval,
    arrival: &Arrival,
) -> Option<Waiting> {
    let waiting = entry.progress.waiting?;
    let of_policy = matches!(
        waiting,
        Waiting::Approval
            | Waiting::Declined
            | Waiting::Superseded
            | Waiting::Level
            | Waiting::Trust
            | Waiting::Ring
    );
    let knows = arrival.version.is_some_and(|version| endpoint.dictionary_version >= version);
    (!of_policy || approval.at.is_none() || knows).then_some(waiting)
}

fn steps(
    endpoint: &EndpointRecord,
    entry: &Entry,
    approval: &Approval,
    arrival: &Arrival,
    waiting: Option<Waiting>,
) -> Vec<Step> {
    let own = if entry.estimated { Source::Estimate } else { Source::Endpoint };
    let was_there = entry.state == UpdateState::Installed && entry.applied.is_none();
    let step = |name, at: Option<u32>, source: &Source, reason: &dyn Fn() -> String| Step {
        name,
        at,
        source: source.clone(),
        reason: match at {
            Some(_) => String::new(),
            None if was_there => "it was there already".to_owned(),
            None => reason(),
        },
    };
    let progress = entry.progress;
    let behind = match arrival.version {
        Some(version) => endpoint.dictionary_version < version,
        None => true,
    };
    let not_offered = || match (arrival.version, waiting) {
        (None, _) => "it is not published".to_owned(),
        (_, Some(waiting)) => format!("the endpoint says: {}", waiting.as_str()),
        (Some(version), None) if behind => match endpoint.last_report {
            Some(at) => format!(
                "the endpoint went by version {} of {version} when it reported at {at}",
                endpoint.dictionary_version
            ),
            None => "the endpoint has never reported".to_owned(),
        },
        _ => "the endpoint did not report it as offered".to_owned(),
    };
    let not_applied = || match waiting {
        Some(waiting) => waiting.as_str().to_owned(),
        None if progress.offered.is_none() => "it is not on offer".to_owned(),
        None => "it is not installed".to_owned(),
    };
    vec![
        step("detected", entry.detected, &own, &|| "it was not found needed".to_owned()),
        step("approved", approval.at.map(seconds).or(entry.authorized), &Source::Central, &|| {
            approval.reason.clone()
        }),
        arrival.published.clone(),
        arrival.relay.clone(),
        step("offered", progress.offered, &own, &not_offered),
        step("downloaded", progress.downloaded, &own, &|| match progress.offered {
            Some(_) => "its payloads are not all there".to_owned(),
            None => "it is not on offer".to_owned(),
        }),
        step("applied", entry.applied, &own, &not_applied),
        step("verified", progress.verified, &own, &|| match entry.state {
            UpdateState::RebootPending => "it takes effect at the next reboot".to_owned(),
            UpdateState::Installed => "no later scan has reported it".to_owned(),
            _ => "it is not installed".to_owned(),
        }),
    ]
}

fn seconds(at: Timestamp) -> u32 {
    u32::try_from(at.as_second()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
