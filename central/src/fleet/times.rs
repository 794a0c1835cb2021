//! The ledger of times: how long updates take from "found needed" to "verified", step by step (U4).
//!
//! Each update on each endpoint counts, whatever became of it: what is still lacking counts as open, so that a share
//! of patched computers is one of all that needed it. Endpoints report; central settles when something was authorized.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use tierway_common::{
    schema::{Decision, State as UpdateState},
    store::StoreError,
};

use super::{AskError, is_current};
use crate::{
    compliance::record::Entry,
    histogram::Histogram,
    model::Model,
    state::State,
    store::tables::{EndpointRecord, UpdateRecord},
};

/// Rows of a report: more groups or sites than this nobody reads. The report says how many are left out.
pub const KEYS_MAX: usize = 200;
/// Within a 64th of the true time.
type Durations = Histogram<6>;

/// What the lines of a report are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Everything together.
    All,
    /// Each severity.
    Severity,
    /// Each group; an endpoint counts in each of its groups.
    Group,
    /// Each site.
    Site,
}

impl By {
    /// By its name; empty: everything together.
    ///
    /// # Errors
    ///
    /// [`AskError::Invalid`].
    pub fn parse(text: &str) -> Result<Self, AskError> {
        match text {
            "" => Ok(Self::All),
            "severity" => Ok(Self::Severity),
            "group" => Ok(Self::Group),
            "site" => Ok(Self::Site),
            _ => {
                Err(AskError::Invalid { what: "by", rule: "severity, group or site", found: text.to_owned() })
            }
        }
    }
}

/// From where to where a time is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Span {
    /// Found needed, until approved.
    Authorized,
    /// Approved, until on offer at the endpoint.
    Offered,
    /// On offer, until its payloads were there.
    Downloaded,
    /// Downloaded, until installed.
    Applied,
    /// Installed, until a scan found it so.
    Verified,
    /// Found needed, until installed.
    Total,
}

impl Span {
    /// For people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Authorized => "detected to authorized",
            Self::Offered => "authorized to offered",
            Self::Downloaded => "offered to downloaded",
            Self::Applied => "downloaded to applied",
            Self::Verified => "applied to verified",
            Self::Total => "detected to applied",
        }
    }
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Which severity, group or site; `all`.
    pub key: String,
    /// From where to where.
    pub span: Span,
    /// How many went all the way.
    pub count: u64,
    /// So many seconds half of them took at most,
    pub p50: u32,
    /// nine of ten,
    pub p90: u32,
    /// and 99 of 100.
    pub p99: u32,
}

/// How the share of patched computers grew with the time since an update was found needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Curve {
    /// Which severity, group or site; `all`.
    pub key: String,
    /// How many are installed.
    pub patched: u64,
    /// How many are still lacking.
    pub open: u64,
    /// Seconds since it was found needed, and how many were installed by then; ascending.
    pub points: Vec<(u32, u64)>,
}

/// A report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// By key, then span; those that nobody went are left out.
    pub lines: Vec<Line>,
    /// By key.
    pub curves: Vec<Curve>,
    /// How many groups or sites more there are than a report has.
    pub left_out: u64,
}

#[derive(Debug, Default)]
struct Taken {
    spans: BTreeMap<Span, Durations>,
    open: u64,
}

/// Times of one update on one endpoint, Unix seconds.
#[derive(Clone, Copy, Debug)]
struct Times {
    detected: u32,
    authorized: Option<u32>,
    entry: Entries,
}

#[derive(Clone, Copy, Debug)]
struct Entries {
    offered: Option<u32>,
    downloaded: Option<u32>,
    applied: Option<u32>,
    verified: Option<u32>,
}

impl Times {
    /// Seconds of every span of which both ends are known. A step that was taken before the one that it follows,
    /// such as an approval from before the need was found, took no time.
    fn spans(&self) -> impl Iterator<Item = (Span, u32)> {
        let Entries { offered, downloaded, applied, verified } = self.entry;
        let chain = [
            (Span::Authorized, self.authorized),
            (Span::Offered, offered),
            (Span::Downloaded, downloaded),
            (Span::Applied, applied),
            (Span::Verified, verified),
        ];
        let mut before = Some(self.detected);
        let mut latest = self.detected;
        let mut spans = Vec::with_capacity(6);
        for (span, at) in chain {
            if let (Some(_), Some(at)) = (before, at) {
                spans.push((span, at.saturating_sub(latest)));
            }
            latest = latest.max(at.unwrap_or(0));
            before = at;
        }
        let total = applied.map(|at| (Span::Total, at.saturating_sub(self.detected)));
        spans.into_iter().chain(total)
    }
}

/// Counts the times of all updates that were found needed since `since`.
///
/// # Errors
///
/// Those of the store.
pub fn time_to_patch(state: &State, by: By, since: Option<Timestamp>) -> Result<Report, AskError> {
    let since = since.map_or(0, |at| u32::try_from(at.as_second()).unwrap_or(0));
    let endpoints: Vec<_> = {
        let model = state.model();
        model.active().iter().filter_map(|number| model.endpoint(number).cloned()).collect()
    };
    let (mut taken, mut left_out) = (BTreeMap::new(), BTreeSet::new());
    for endpoint in endpoints {
        count(state, by, since, &endpoint, &mut taken, &mut left_out)?;
    }
    Ok(report(&taken, &left_out))
}

fn count(
    state: &State,
    by: By,
    since: u32,
    endpoint: &EndpointRecord,
    taken: &mut BTreeMap<String, Taken>,
    left_out: &mut BTreeSet<String>,
) -> Result<(), StoreError> {
    let record = state.states(endpoint.number)?;
    // Only now: nothing waits for the disk while the model is held.
    let model = state.model();
    let of_endpoint: Vec<String> = match by {
        By::All => vec!["all".to_owned()],
        By::Site => vec![endpoint.site.to_string()],
        By::Group => model.groups_of(endpoint).iter().map(|group| group.id.to_string()).collect(),
        By::Severity => Vec::new(),
    };
    for entry in record.entries() {
        let Some(detected) = entry.detected.filter(|at| *at >= since) else { continue };
        let Some(update) = model.update(entry.update) else { continue };
        let lacking = matches!(entry.state, UpdateState::Needed | UpdateState::Failed);
        // Nobody waits for what was replaced.
        if lacking && !is_current(update) {
            continue;
        }
        let times = times(&model, endpoint, update, entry, detected);
        let severity = (by == By::Severity).then(|| update.severity.as_str().to_owned());
        for key in of_endpoint.iter().chain(&severity) {
            if !taken.contains_key(key) && taken.len() >= KEYS_MAX {
                // As many as there are groups or sites at most.
                left_out.insert(key.clone());
                continue;
            }
            let taken = taken.entry(key.clone()).or_default();
            for (span, seconds) in times.spans() {
                taken.spans.entry(span).or_default().add(seconds);
            }
            taken.open += u64::from(lacking);
        }
    }
    Ok(())
}

fn times(
    model: &Model,
    endpoint: &EndpointRecord,
    update: &UpdateRecord,
    entry: &Entry,
    detected: u32,
) -> Times {
    let lacking = matches!(entry.state, UpdateState::Needed | UpdateState::Failed);
    // Of what is there it is settled.
    let approved = || {
        let decided = lacking.then(|| model.decision(endpoint, &update.id)).flatten()?;
        let approved = (decided.decision == Decision::Approve).then_some(decided.at)?;
        u32::try_from(approved.as_second()).ok()
    };
    let progress = entry.progress;
    Times {
        detected,
        authorized: entry.authorized.or_else(approved),
        entry: Entries {
            offered: progress.offered,
            downloaded: progress.downloaded,
            applied: entry.applied,
            verified: progress.verified,
        },
    }
}

fn report(taken: &BTreeMap<String, Taken>, left_out: &BTreeSet<String>) -> Report {
    let mut report = Report { left_out: left_out.len() as u64, ..Report::default() };
    for (key, Taken { spans, open }) in taken {
        for (span, durations) in spans {
            let percentile = |permille| durations.percentile(permille).unwrap_or(0);
            report.lines.push(Line {
                key: key.clone(),
                span: *span,
                count: durations.count(),
                p50: percentile(500),
                p90: percentile(900),
                p99: percentile(990),
            });
        }
        let total = spans.get(&Span::Total);
        report.curves.push(Curve {
            key: key.clone(),
            patched: total.map_or(0, Histogram::count),
            open: *open,
            points: total.map(|total| total.cumulative().collect()).unwrap_or_default(),
        });
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(times: [Option<u32>; 6]) -> Vec<(Span, u32)> {
        let [detected, authorized, offered, downloaded, applied, verified] = times;
        let entry = Entries { offered, downloaded, applied, verified };
        Times { detected: detected.unwrap(), authorized, entry }.spans().collect()
    }

    #[test]
    fn each_span_is_the_time_from_one_step_to_the_next() {
        use Span::{Applied, Authorized, Downloaded, Offered, Total, Verified};
        let all = [100, 150, 180, 190, 1_000, 1_060].map(Some);
        let expected =
            [(Authorized, 50), (Offered, 30), (Downloaded, 10), (Applied, 810), (Verified, 60), (Total, 900)];
        assert_eq!(spans(all), expected);
        // Approved before anybody needed it.
        let early = [Some(100), Some(5), Some(120), None, None, None];
        assert_eq!(spans(early), [(Authorized, 0), (Offered, 20)]);
        // An older endpoint tells nothing of the steps between.
        let old = [Some(100), Some(150), None, None, Some(400), None];
        assert_eq!(spans(old), [(Authorized, 50), (Total, 300)]);
        // Nobody approved it, and it is there: by hand.
        let by_hand = [Some(100), None, None, None, Some(130), Some(140)];
        assert_eq!(spans(by_hand), [(Verified, 10), (Total, 30)]);
    }
}
