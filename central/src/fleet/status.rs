//! How the fleet stands, on one screen.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use roaring::RoaringBitmap;
use tierway_common::{
    id::{GroupId, SiteId},
    schema::{Severity, State as UpdateState, Waiting},
};

use super::{AskError, Counts, is_current};
use crate::{
    compliance::index::Mark,
    model::Model,
    store::tables::{EndpointRecord, UpdateRecord},
};

/// An endpoint that reported within this time reports as it should: it checks every 3 hours, and its
/// relay passes reports on at once.
pub const REPORTING_WITHIN: Duration = Duration::from_secs(3 * 3_600 + 30 * 60);
/// After this it is lost.
pub const LOST_AFTER: Duration = Duration::from_secs(24 * 3_600);
/// A relay that checked in within this time is fresh: it does so every 30 minutes.
pub const RELAY_FRESH_WITHIN: Duration = Duration::from_secs(65 * 60);

/// What counts.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only this site.
    pub site: Option<SiteId>,
    /// Only this group.
    pub group: Option<GroupId>,
    /// Only updates of exactly this severity.
    pub severity: Option<Severity>,
}

/// How the fleet stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetStatus {
    /// Endpoints that are not revoked.
    pub endpoints: u64,
    /// Of them those that report as they should…
    pub reporting: u64,
    /// …within a day…
    pub stale: u64,
    /// …and longer ago or never.
    pub lost: u64,
    /// Endpoints without a needed or failed update.
    pub compliant: u64,
    /// Endpoints of which anything is known: not those that reported nothing, or of all updates that may be for them
    /// only that it could not be decided.
    pub assessed: u64,
    /// Sums over endpoints × updates.
    pub counts: Counts,
    /// Sums over endpoints × updates of how far they have come and what they wait for, those that are not 0.
    pub marks: Vec<(Mark, u64)>,
    /// Updates that count.
    pub updates: u64,
    /// By site.
    pub sites: BTreeMap<SiteId, Part>,
    /// By group; all groups, or the one asked for.
    pub groups: BTreeMap<GroupId, Part>,
}

/// A site or a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Endpoints that are not revoked.
    pub endpoints: u64,
    /// Without a needed or failed update.
    pub compliant: u64,
    /// Sum over endpoints × updates.
    pub needed: u64,
    /// As well.
    pub failed: u64,
    /// Relays of a site.
    pub relays: u32,
    /// Of them those that checked in lately.
    pub relays_fresh: u32,
}

/// Counts everything that `filter` lets through.
///
/// # Errors
///
/// [`AskError::NotFound`] for a site or group that does not exist.
pub fn status(model: &Model, filter: &Filter, now: Timestamp) -> Result<FleetStatus, AskError> {
    let among = among(model, filter)?;
    let counting = |update: &&std::sync::Arc<UpdateRecord>| {
        is_current(update) && filter.severity.is_none_or(|severity| severity == update.severity)
    };
    let mut status = FleetStatus { endpoints: among.len(), ..FleetStatus::default() };
    let mut lacking = RoaringBitmap::new();
    // Needed and failed updates by the number of the endpoint: of a fleet with much to do nearly each has some.
    let mut lacks = vec![(0_u32, 0_u32); among.max().map_or(0, |last| last as usize + 1)];
    let mut marks: BTreeMap<Mark, u64> = BTreeMap::new();
    for update in model.updates().filter(counting) {
        status.updates += 1;
        let index = model.index();
        // Who proves an update is asked for by rollouts, and says nothing about where it stands.
        for (mark, who) in index.marks_of(update.number).filter(|(mark, _)| *mark != Mark::Mended) {
            *marks.entry(mark).or_default() += match mark {
                // Said before the endpoint could know that it has been approved meanwhile.
                Mark::Waits(Waiting::Approval | Waiting::Declined) => {
                    ((who & &among) - model.approved_for(&update.id)).len()
                }
                _ => who.intersection_len(&among),
            };
        }
        let how_many = |state| index.how_many(update.number, state, &among);
        status.counts.installed += how_many(UpdateState::Installed);
        status.counts.unknown += how_many(UpdateState::Unknown);
        status.counts.reboot_pending += how_many(UpdateState::RebootPending);
        for state in [UpdateState::Needed, UpdateState::Failed] {
            let Some(who) = index.who(update.number, state).filter(|who| !who.is_empty()) else { continue };
            let who = who & &among;
            for endpoint in &who {
                let (needed, failed) = &mut lacks[endpoint as usize];
                *if state == UpdateState::Needed { needed } else { failed } += 1;
            }
            if state == UpdateState::Needed {
                status.counts.needed += who.len();
                status.counts.needed_approved += model.approved_for(&update.id).intersection_len(&who);
            } else {
                status.counts.failed += who.len();
            }
            lacking |= who;
        }
    }
    status.marks = marks.into_iter().filter(|(_, count)| *count > 0).collect();
    let assessed = (model.assessed() & &among) - undecided(model, counting);
    status.assessed = assessed.len();
    let compliant = assessed - lacking;
    status.compliant = compliant.len();
    for endpoint in among.iter().filter_map(|number| model.endpoint(number)) {
        match silence(endpoint, now) {
            Silence::Reporting => status.reporting += 1,
            Silence::Stale => status.stale += 1,
            Silence::Lost => status.lost += 1,
        }
    }
    let part = |members: &RoaringBitmap| {
        let members = members & &among;
        let each = members.iter().map(|endpoint| lacks[endpoint as usize]);
        let (needed, failed) =
            each.fold((0, 0), |sum, one| (sum.0 + u64::from(one.0), sum.1 + u64::from(one.1)));
        let compliant = members.intersection_len(&compliant);
        Part { endpoints: members.len(), compliant, needed, failed, relays: 0, relays_fresh: 0 }
    };
    let sites =
        model.sites().iter().filter(|(site, _)| filter.site.as_ref().is_none_or(|only| only == *site));
    status.sites = sites.map(|(site, members)| (site.clone(), part(members))).collect();
    for relay in model.relays().values().filter(|relay| !relay.revoked) {
        if filter.site.as_ref().is_none_or(|only| *only == relay.site) {
            let site = status.sites.entry(relay.site.clone()).or_default();
            site.relays += 1;
            site.relays_fresh +=
                u32::from(relay.last_seen.is_some_and(|at| within(at, RELAY_FRESH_WITHIN, now)));
        }
    }
    // A site without endpoints in the group asked for, and without a relay, says nothing.
    status.sites.retain(|_, site| site.endpoints > 0 || site.relays > 0);
    let groups =
        model.members().iter().filter(|(group, _)| filter.group.as_ref().is_none_or(|only| only == *group));
    status.groups = groups.map(|(group, members)| (group.clone(), part(members))).collect();
    Ok(status)
}

/// Endpoints on which some updates could not be decided, and none is known to be needed, installed or failed: as where the
/// packages could not be read. That no update is needed there is not known either.
fn undecided(model: &Model, counting: impl Fn(&&std::sync::Arc<UpdateRecord>) -> bool) -> RoaringBitmap {
    let index = model.index();
    let who =
        |state| model.updates().filter(&counting).filter_map(move |update| index.who(update.number, state));
    let mut undecided = RoaringBitmap::new();
    for unsure in who(UpdateState::Unknown) {
        undecided |= unsure;
    }
    let known =
        [UpdateState::Needed, UpdateState::Installed, UpdateState::Failed, UpdateState::RebootPending];
    for endpoints in known.into_iter().flat_map(who) {
        if undecided.is_empty() {
            break;
        }
        undecided -= endpoints;
    }
    undecided
}

/// Active endpoints of a site and a group.
///
/// # Errors
///
/// [`AskError::NotFound`] for a site or group that does not exist.
pub fn among(model: &Model, filter: &Filter) -> Result<RoaringBitmap, AskError> {
    let mut among = model.active().clone();
    if let Some(site) = &filter.site {
        let has_relay = model.relays().values().any(|relay| relay.site == *site);
        match model.sites().get(site) {
            Some(members) => among &= members,
            None if has_relay => among.clear(),
            None => return Err(AskError::NotFound { what: "site", name: site.to_string() }),
        }
    }
    if let Some(group) = &filter.group {
        among &= model
            .members()
            .get(group)
            .ok_or_else(|| AskError::NotFound { what: "group", name: group.to_string() })?;
    }
    Ok(among)
}

enum Silence {
    Reporting,
    Stale,
    Lost,
}

fn silence(endpoint: &EndpointRecord, now: Timestamp) -> Silence {
    match endpoint.last_report {
        Some(at) if within(at, REPORTING_WITHIN, now) => Silence::Reporting,
        Some(at) if within(at, LOST_AFTER, now) => Silence::Stale,
        _ => Silence::Lost,
    }
}

fn within(at: Timestamp, time: Duration, now: Timestamp) -> bool {
    at.checked_add(time).map_or(true, |end| end >= now)
}
