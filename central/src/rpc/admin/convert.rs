//! From what central knows to the messages of `Admin`.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use tierway_common::{
    daemon::tasks::TaskStatus,
    id::GroupId,
    schema::{Decision, Group, Members},
    service::{Origin, Settings},
};
use tierway_proto::v1;
use tonic::Status;

use super::{millis, millis_of_seconds, named_members, patch_times};
use crate::{
    audit,
    calls::{Whom, Wish},
    catalog,
    download::Progress,
    fleet::{
        endpoints::{EndpointPatch, EndpointRow},
        patches::PatchRow,
        standing::{Standing, Step},
        status::FleetStatus,
        times::{Curve, Line, Report},
        why::{Why, verdict_name},
    },
    forecast::{Forecast, Link},
    model::Model,
    plan::{Applied, PlanRecord},
    server::{DownloadSettings, Feed},
    sources::{local, payloads::Which},
    store::tables::{AutoApprovalRecord, CertificateRecord, EndpointRecord, LeaseRecord, RelayRecord},
};

/// Whom an operator wants to check now, and what else he wants of them.
pub(super) fn call(request: v1::CheckEndpointNowRequest) -> Result<(Whom, Wish), Status> {
    let v1::CheckEndpointNowRequest {
        name_or_id,
        site,
        group,
        everyone,
        report_inventory,
        include_roaming,
        include_offline,
    } = request;
    let whom = match (name_or_id.is_empty(), everyone || site.is_some() || group.is_some()) {
        (false, false) => Whom::One(name_or_id),
        (true, true) => Whom::Many { site, group },
        _ => return Err(Status::invalid_argument("name one endpoint, or a site, a group or everyone")),
    };
    Ok((whom, Wish { report_inventory, roaming: include_roaming, offline: include_offline }))
}

pub(super) fn times(detected: i64, authorized: i64, applied: i64) -> v1::PatchTimes {
    v1::PatchTimes { detected, authorized, applied }
}

pub(super) fn status(status: FleetStatus, dictionary_version: u64, dictionary_at: i64) -> v1::FleetStatus {
    let FleetStatus {
        endpoints,
        reporting,
        stale,
        lost,
        compliant,
        assessed,
        counts,
        marks,
        updates,
        sites,
        groups,
    } = status;
    v1::FleetStatus {
        endpoints,
        reporting,
        stale,
        lost,
        compliant,
        assessed,
        needed: counts.needed,
        needed_approved: counts.needed_approved,
        installed: counts.installed,
        failed: counts.failed,
        unknown: counts.unknown,
        reboot_pending: counts.reboot_pending,
        dictionary_version,
        dictionary_at,
        sites: sites
            .into_iter()
            .map(|(site, part)| v1::SiteStatus {
                site: site.to_string(),
                endpoints: part.endpoints,
                compliant: part.compliant,
                needed: part.needed,
                relays: part.relays,
                relays_fresh: part.relays_fresh,
            })
            .collect(),
        groups: groups
            .into_iter()
            .map(|(group, part)| v1::GroupStatus {
                group: group.to_string(),
                endpoints: part.endpoints,
                compliant: part.compliant,
                needed: part.needed,
                failed: part.failed,
            })
            .collect(),
        updates,
        progress: marks
            .into_iter()
            .map(|(mark, count)| v1::NamedCount { name: mark.as_str().to_owned(), count })
            .collect(),
    }
}

pub(super) fn why(why: Why) -> v1::WhyResponse {
    let Why { endpoint, patch, explained, facts_at, reported, reported_at, summary, approval } = why;
    let json = |explained: &tierway_common::rules::explain::Explained| {
        // A tree of texts and numbers always becomes JSON.
        serde_json::to_string(explained).unwrap_or_default()
    };
    let verdict = explained.as_ref().map_or("unknown", |explained| verdict_name(&explained.verdict));
    v1::WhyResponse {
        endpoint,
        patch,
        verdict: verdict.to_owned(),
        reported_state: reported.as_ref().map_or_else(
            || "not applicable".to_owned(),
            |reported| match reported.entry.estimated {
                true => format!("{} (estimated)", reported.entry.state.as_str()),
                false => reported.entry.state.as_str().to_owned(),
            },
        ),
        reported_at: millis(reported_at),
        applicable_json: explained.as_ref().map(|explained| json(&explained.applicable)).unwrap_or_default(),
        installed_json: explained
            .as_ref()
            .and_then(|explained| explained.installed.as_ref().map(json))
            .unwrap_or_default(),
        summary,
        approval,
        would_change: explained.map(|explained| explained.would_change).unwrap_or_default(),
        facts_at: millis(facts_at),
        times: reported
            .map(|patch| patch_times(patch.entry.detected, patch.authorized(), patch.entry.applied)),
    }
}

pub(super) fn endpoint(row: EndpointRow) -> v1::Endpoint {
    let EndpointRow { record, counts, groups } = row;
    v1::Endpoint {
        id: record.id.as_str().to_owned(),
        name: record.name.clone(),
        site: record.site.as_str().to_owned(),
        os: record.facts.as_ref().map(|facts| facts.os.clone()).unwrap_or_default(),
        agent_version: record.agent_version.clone(),
        enrolled_at: millis(Some(record.enrolled_at)),
        last_report: millis(record.last_report),
        needed: counts.needed,
        needed_approved: counts.needed_approved,
        installed: counts.installed,
        failed: counts.failed,
        unknown: counts.unknown,
        revoked: record.revoked,
        reboot_pending: record.reboot_pending,
        groups,
        zone: record.facts.as_ref().and_then(|facts| facts.zone.clone()).unwrap_or_default(),
    }
}

pub(super) fn endpoint_detail(
    row: EndpointRow,
    patches: Vec<EndpointPatch>,
    settings: &Settings,
) -> v1::EndpointDetail {
    let setting = |(name, value, origin): (&str, _, Origin)| v1::Setting {
        name: name.to_owned(),
        value,
        origin: origin.to_string(),
    };
    let record = row.record.clone();
    let facts = record.facts.as_ref();
    let mut problems = record.problems.clone();
    problems.extend(facts.map(|facts| facts.problems.clone()).unwrap_or_default());
    v1::EndpointDetail {
        endpoint: Some(endpoint(row)),
        patches: patches.into_iter().map(endpoint_patch).collect(),
        facts_digest: facts.map(|facts| facts.digest.to_string()).unwrap_or_default(),
        packages: facts.map_or(0, |facts| facts.packages),
        problems,
        certificate_expires: millis(Some(record.certificate_expires)),
        tags: record.tags.iter().map(ToString::to_string).collect(),
        settings: settings.rows().into_iter().map(setting).collect(),
        managers: facts.map(|facts| facts.managers.clone()).unwrap_or_default(),
    }
}

fn standing(standing: Standing) -> v1::Standing {
    let Standing { name, since, until, source, heard, detail, steps } = standing;
    v1::Standing {
        name: name.to_owned(),
        since: millis_of_seconds(Some(since)),
        until: millis_of_seconds(until),
        source: source.text(),
        heard: millis_of_seconds(heard),
        detail,
        steps: steps
            .into_iter()
            .map(|Step { name, at, source, reason }| v1::Step {
                name: name.to_owned(),
                at: millis_of_seconds(at),
                source: source.text(),
                reason,
            })
            .collect(),
    }
}

pub(super) fn endpoint_patch(patch: EndpointPatch) -> v1::EndpointPatch {
    let authorized = patch.authorized();
    let EndpointPatch { update, entry, decision, standing: stands } = patch;
    v1::EndpointPatch {
        patch: update.id.to_string(),
        title: update.title.clone(),
        severity: update.severity.as_str().to_owned(),
        state: entry.state.as_str().to_owned(),
        approved: decision.is_some_and(|(decision, _)| decision == Decision::Approve),
        times: Some(patch_times(entry.detected, authorized, entry.applied)),
        detail: entry.detail.as_deref().unwrap_or_default().to_owned(),
        standing: Some(standing(stands)),
    }
}

pub(super) fn patch_endpoint(endpoint: &EndpointRecord, patch: EndpointPatch) -> v1::PatchEndpoint {
    let authorized = patch.authorized();
    let EndpointPatch { update: _, entry, decision: _, standing: stands } = patch;
    v1::PatchEndpoint {
        endpoint: endpoint.id.as_str().to_owned(),
        name: endpoint.name.clone(),
        site: endpoint.site.as_str().to_owned(),
        state: entry.state.as_str().to_owned(),
        times: Some(patch_times(entry.detected, authorized, entry.applied)),
        detail: entry.detail.as_deref().unwrap_or_default().to_owned(),
        standing: Some(standing(stands)),
    }
}

pub(super) fn patch(row: PatchRow) -> v1::Patch {
    let PatchRow { record, needed, installed, failed, unknown, approved, declined, payloads } = row;
    v1::Patch {
        id: record.id.to_string(),
        title: record.title.clone(),
        severity: record.severity.as_str().to_owned(),
        catalogue: record.id.catalogue().to_owned(),
        known_since: millis(Some(record.released)),
        endpoints_needed: needed,
        endpoints_installed: installed,
        endpoints_failed: failed,
        endpoints_unknown: unknown,
        approved,
        declined,
        payload_bytes: record.payload_bytes,
        payloads: payloads.as_str().to_owned(),
        superseded_by: record.superseded_by.iter().map(ToString::to_string).collect(),
    }
}

pub(super) fn relay(record: &Arc<RelayRecord>) -> v1::Relay {
    let health = record.health.clone();
    v1::Relay {
        id: record.id.to_string(),
        name: record.name.clone(),
        site: record.site.to_string(),
        agent_version: record.agent_version.clone(),
        last_seen: millis(record.last_seen),
        timestamp_version: record.timestamp_version,
        blob_bytes: health.blob_bytes,
        blob_bytes_quota: health.blob_bytes_quota,
        outbox_reports: health.outbox_reports,
        outbox_oldest: health.outbox_oldest.saturating_mul(1_000),
        endpoints_connected: health.endpoints_connected,
        endpoints_seen: health.endpoints_seen,
        enrolled_at: millis(Some(record.enrolled_at)),
        revoked: record.revoked,
    }
}

/// An operator with his newest certificate; none for one without any.
pub(super) fn operator(certificates: &BTreeMap<String, CertificateRecord>) -> Option<v1::Operator> {
    let newest = certificates.values().max_by_key(|record| record.issued)?;
    Some(v1::Operator {
        name: newest.identity.clone(),
        site: newest.site.to_string(),
        certificates: u32::try_from(certificates.len()).unwrap_or(u32::MAX),
        serial: newest.serial.clone(),
        issued: millis(Some(newest.issued)),
        expires: millis(Some(newest.expires)),
    })
}

/// Computers without an end that are named in an answer.
const UNFINISHED_TOLD: usize = 1_000;

pub(super) fn plan(model: &Model, plan: PlanRecord, forecast: Forecast) -> v1::PlanApprovalResponse {
    let Forecast { endpoints, installations, reboots, links, fills, finish, late, never } = forecast;
    let unfinished_count = never.len() as u64;
    let unfinished = never.into_iter().take(UNFINISHED_TOLD).map(|(id, reason)| v1::Unfinished {
        name: model.endpoint_by_id(&id).map(|endpoint| endpoint.name.clone()).unwrap_or_default(),
        endpoint: id.to_string(),
        reason,
    });
    let links = links.into_iter().map(|(site, Link { endpoints, payloads, bytes })| v1::SiteLink {
        site: site.to_string(),
        endpoints,
        payloads,
        bytes,
    });
    let fills = fills.into_iter().map(|fill| v1::WindowFill {
        window: fill.opening.window.to_string(),
        opens: millis(Some(fill.opening.start)),
        closes: millis(Some(fill.opening.end)),
        endpoints: fill.endpoints,
        used_ms: fill.used_seconds.saturating_mul(1_000),
        available_ms: fill.available_seconds.saturating_mul(1_000),
        carried_over: fill.carried_over,
        zones: fill.zones.into_iter().collect(),
    });
    v1::PlanApprovalResponse {
        plan: plan.id,
        patches: plan.wanted.updates.iter().map(ToString::to_string).collect(),
        endpoints,
        installations,
        reboots,
        finish: millis(finish),
        late,
        links: links.collect(),
        fills: fills.collect(),
        unfinished: unfinished.collect(),
        unfinished_count,
    }
}

pub(super) fn applied(applied: Applied) -> v1::ApplyPlanResponse {
    match applied {
        Applied::Done(patches, audit_sequence) => v1::ApplyPlanResponse {
            audit_sequence,
            patches: patches.iter().map(ToString::to_string).collect(),
            drift: Vec::new(),
        },
        Applied::Drifted(drift) => v1::ApplyPlanResponse { audit_sequence: 0, patches: Vec::new(), drift },
    }
}

pub(super) fn time_to_patch(report: Report) -> v1::TimeToPatchResponse {
    let Report { lines, curves, left_out } = report;
    let ms = |seconds: u32| u64::from(seconds) * 1_000;
    let lines = lines.into_iter().map(|Line { key, span, count, p50, p90, p99 }| v1::TimeLine {
        key,
        span: span.as_str().to_owned(),
        count,
        p50_ms: ms(p50),
        p90_ms: ms(p90),
        p99_ms: ms(p99),
    });
    let curves = curves.into_iter().map(|Curve { key, patched, open, points }| v1::TimeCurve {
        key,
        patched,
        open,
        points: points
            .into_iter()
            .map(|(after, patched)| v1::CurvePoint { after_ms: ms(after), patched })
            .collect(),
    });
    v1::TimeToPatchResponse { lines: lines.collect(), curves: curves.collect(), left_out }
}

/// What is measured of an update, with what of it is published.
pub(super) fn timing(model: &Model, update: u32) -> Vec<v1::ClassTiming> {
    let Some(record) = model.timing(update) else { return Vec::new() };
    let published = |class: &String| record.published.as_ref()?.classes.get(class);
    let measured = record.measured().classes;
    let classes = measured.iter().map(|(class, measured)| v1::ClassTiming {
        class: class.clone(),
        samples: measured.samples,
        p95_ms: u64::from(measured.p95_seconds) * 1_000,
        published_ms: published(class).map_or(0, |published| u64::from(published.p95_seconds) * 1_000),
    });
    classes.collect()
}

pub(super) fn lease(model: &Model, lease: &LeaseRecord) -> v1::Lease {
    let endpoint = model.endpoint_by_id(&lease.endpoint);
    v1::Lease {
        window: lease.window.to_string(),
        endpoint: lease.endpoint.to_string(),
        name: endpoint.map(|endpoint| endpoint.name.clone()).unwrap_or_default(),
        site: endpoint.map(|endpoint| endpoint.site.to_string()).unwrap_or_default(),
        since: millis(Some(lease.since)),
        until: millis(Some(lease.until)),
    }
}

/// Texts of groups in one answer, beyond which the next ones come with the next: a group that names its computers has 180 KB.
const GROUPS_BYTES_GOAL: usize = 6 << 20;

/// Groups by name, after this one, or only that of this name: at most `limit`, and fewer when they are long.
pub(super) fn groups(
    model: &Model,
    name: Option<&GroupId>,
    after: Option<GroupId>,
    limit: usize,
) -> v1::ListGroupsResponse {
    let start = after.map_or(Bound::Unbounded, Bound::Excluded);
    let wanted = model.policy().groups().range((start, Bound::Unbounded)).map(|(_, group)| group);
    let mut wanted = wanted.filter(|group| name.is_none_or(|name| *name == group.id)).peekable();
    let (mut groups, mut bytes) = (Vec::new(), 0);
    while groups.len() < limit && bytes < GROUPS_BYTES_GOAL {
        let Some(next) = wanted.next() else { break };
        let next = group(model, next);
        let names: usize = next.endpoints.iter().map(String::len).sum();
        bytes += names + next.rule_json.as_ref().map_or(0, String::len);
        groups.push(next);
    }
    let last = wanted.peek().and(groups.last());
    let next = last.map(|last: &v1::Group| last.name.clone()).unwrap_or_default();
    v1::ListGroupsResponse { groups, next }
}

fn group(model: &Model, group: &Group) -> v1::Group {
    let (mut rule_json, mut site, mut tag) = (None, None, None);
    match &group.members {
        Members::Rule(rule) => rule_json = serde_json::to_string(rule).ok(),
        Members::Site(of) => site = Some(of.to_string()),
        Members::Tag(of) => tag = Some(of.to_string()),
        Members::Everyone | Members::Assigned => {}
    }
    v1::Group {
        name: group.id.to_string(),
        priority: group.priority,
        endpoints: named_members(model, group),
        rule_json,
        site,
        everyone: group.members == Members::Everyone,
        members: model.members().get(&group.id).map_or(0, roaring::RoaringBitmap::len),
        tag,
        level: group.level.as_ref().map(ToString::to_string),
    }
}

pub(super) fn rule(rule: &AutoApprovalRecord) -> v1::AutoApproval {
    let AutoApprovalRecord {
        name,
        group,
        catalogue,
        severity_at_least,
        matching,
        age_at_least_seconds,
        rings,
    } = rule.clone();
    v1::AutoApproval {
        name,
        group: group.to_string(),
        catalogue: catalogue.map(|catalogue| catalogue.to_string()),
        severity_at_least: severity_at_least.map(|severity| severity.as_str().to_owned()),
        matching,
        age_at_least_seconds,
        rings: rings.map(|rings| rings.to_string()),
    }
}

pub(super) fn source(model: &Model, feed: &Feed) -> v1::Source {
    let config = &feed.config;
    let record = model.sources().get(config.name()).cloned().unwrap_or_default();
    v1::Source {
        name: config.name().to_string(),
        kind: config.kind().to_owned(),
        url: config.url(),
        last_sync: millis(record.last_sync),
        last_error: record.last_error,
        updates: record.updates,
        archive_date: millis(record.archive_date),
        suites: config.suites(),
    }
}

/// The source of own packages, where there are some.
pub(super) fn own_source(model: &Model) -> Option<v1::Source> {
    let (name, record) = model.sources().iter().find(|(name, _)| name.as_str() == local::NAME)?;
    Some(v1::Source {
        name: name.to_string(),
        kind: local::NAME.to_owned(),
        url: String::new(),
        last_sync: millis(record.last_sync),
        last_error: record.last_error.clone(),
        updates: record.updates,
        archive_date: millis(record.archive_date),
        suites: Vec::new(),
    })
}

pub(super) fn download(settings: DownloadSettings, here: u64, all: u64) -> v1::Download {
    let DownloadSettings { enabled, at, which } = settings;
    v1::Download {
        enabled,
        at: at.strftime("%H:%M").to_string(),
        what: match which {
            Which::Needed => "needed",
            Which::Approved => "approved",
            Which::All => "all",
        }
        .to_owned(),
        payload_bytes_present: here,
        payload_bytes_wanted: all,
    }
}

/// What came of reading a source that has given `known` updates in all.
pub(super) fn read(applied: catalog::Applied, known: Option<u64>) -> String {
    let catalog::Applied { new, changed, gone, refused: _ } = applied;
    let known = known.unwrap_or_default();
    format!("{new} new, {changed} changed, {gone} gone, {known} in all")
}

pub(super) fn progress(progress: Progress) -> v1::Progress {
    let Progress { step, done, total, unit } = progress;
    v1::Progress { step, done, total, unit: unit.to_owned() }
}

pub(super) fn task(name: &str, status: TaskStatus) -> v1::Task {
    let TaskStatus { last_run, last_duration, last_error, next_run, runs } = status;
    v1::Task {
        name: name.to_owned(),
        last_run: millis(last_run),
        last_duration_ms: u64::try_from(last_duration.as_millis()).unwrap_or(u64::MAX),
        last_error: last_error.unwrap_or_default(),
        next_run: millis(next_run),
        runs,
    }
}

pub(super) fn audit_record(record: audit::Record) -> v1::AuditRecord {
    let digest = record.digest().to_string();
    let audit::Record { sequence, previous: _, at, actor, action, object, detail } = record;
    v1::AuditRecord { sequence, at: millis(Some(at)), actor, action, object, detail, digest }
}
