//! What the agent answers to the person at the machine, from what the last cycle found and decided.

use jiff::Timestamp;
use tierway_common::{
    id::UpdateId,
    rules::{
        Verdict,
        explain::{Explained, explain_update},
    },
    schema::{Decision, State},
};
use tierway_proto::v1;

use super::{Cycle, CycleError};
use crate::{
    host,
    install::Engine,
    scan::{self, Asked},
};

impl<E: Engine + Send + Sync> Cycle<E> {
    /// What `status` shows, but for what the agent knows better.
    #[must_use]
    pub fn status(&self) -> v1::LocalStatus {
        let patches = self
            .ledger
            .book()
            .records()
            .filter(|(_, record)| !matches!(record.state, State::NotApplicable | State::Installed))
            .map(|(id, record)| {
                let update = self.catalogues.update(id).ok().flatten();
                v1::LocalPatch {
                    patch: id.to_string(),
                    title: update.as_ref().map(|update| update.title.clone()).unwrap_or_default(),
                    severity: update.map(|update| update.severity.as_str().to_owned()).unwrap_or_default(),
                    state: record.state.as_str().to_owned(),
                    approved: self.decisions.get(id).is_some_and(|d| d.decision == Decision::Approve),
                    detail: match self.plan.left_out.get(id) {
                        Some(reason) => reason.to_string(),
                        None => record.detail.clone().unwrap_or_default(),
                    },
                }
            })
            .collect();
        self.catalogues.forget_nodes();
        v1::LocalStatus {
            dictionary_version: self.catalogues.version(),
            dictionary_expires: self.catalogues.expires().map_or(0, Timestamp::as_millisecond),
            last_check: self.last_check.map_or(0, Timestamp::as_millisecond),
            patches,
            reports_waiting: self.spool.waiting().unwrap_or(0) as u64,
            reboot_pending: self.reboot_pending(),
            phase: self.phase().to_owned(),
            ..v1::LocalStatus::default()
        }
    }

    /// Why an update has its verdict here; `patch` is its id or a part of it that no other has.
    ///
    /// # Errors
    ///
    /// When there is no such update or several, or it cannot be read.
    pub fn why(&mut self, patch: &str) -> Result<v1::LocalWhyResponse, CycleError> {
        let why = self.explain(patch);
        self.catalogues.rest();
        why
    }

    fn explain(&mut self, patch: &str) -> Result<v1::LocalWhyResponse, CycleError> {
        let machine = host::machine();
        let os = scan::scan(&self.root, &Asked::default(), &machine).0;
        let rules = self.catalogues.rules(&os)?;
        let found: Vec<String> = (0..rules.compiled.len())
            .map(|n| rules.compiled.id(n))
            .filter(|id| id.contains(patch))
            .map(str::to_owned)
            .collect();
        let id = match (found.iter().find(|id| *id == patch), &found[..]) {
            (Some(id), _) | (None, [id]) => id.clone(),
            (None, []) => {
                return Err(CycleError::Which(format!(
                    "no update published for this computer is named `{patch}`"
                )));
            }
            (None, several) => {
                let names = several.iter().take(8).map(String::as_str).collect::<Vec<_>>().join(", ");
                return Err(CycleError::Which(format!("`{patch}` names {} updates: {names}", several.len())));
            }
        };
        let id: UpdateId = id.parse().map_err(|error| CycleError::Which(format!("{error}")))?;
        let facts = scan::scan(&self.root, &rules.asked.clone(), &machine).0;
        let update = self
            .catalogues
            .update(&id)?
            .ok_or_else(|| CycleError::Which(format!("`{id}` is not published any more")))?;
        let explained = explain_update(&update, &facts);
        let json = |tree: Option<&Explained>| {
            tree.map(|tree| serde_json::to_string(tree).unwrap_or_default()).unwrap_or_default()
        };
        Ok(v1::LocalWhyResponse {
            patch: id.to_string(),
            verdict: state_of(&explained.verdict).as_str().to_owned(),
            summary: update.title.clone(),
            applicable_json: json(Some(&explained.applicable)),
            installed_json: json(explained.installed.as_ref()),
            approval: match (self.plan.left_out.get(&id), self.decisions.get(&id)) {
                (Some(reason), Some(decision)) if decision.decision == Decision::Approve => {
                    format!("{decision}; not installed because: {reason}")
                }
                (Some(reason), _) => format!("not installed because: {reason}"),
                (None, Some(decision)) => decision.to_string(),
                (None, None) => String::new(),
            },
            would_change: explained.would_change,
        })
    }

    /// What was decided last, and by which settings.
    #[must_use]
    pub fn plan(&self) -> v1::LocalPlan {
        let millis = |at: Option<Timestamp>| at.map_or(0, Timestamp::as_millisecond);
        let steps = self.plan.steps.iter().map(|step| v1::LocalStep {
            patch: step.update.to_string(),
            start: step.start.as_millisecond(),
            expected_seconds: step.expected.as_secs(),
            limit_seconds: step.limit.as_secs(),
            reserve_seconds: u64::try_from(step.reserve.as_secs()).unwrap_or(0),
            window: step.window.as_ref().map(|open| open.window.to_string()).unwrap_or_default(),
            window_closes: millis(step.window.as_ref().map(|open| open.end)),
        });
        let left_out = self.plan.left_out.iter().map(|(id, reason)| {
            let terms = self.plan.offered.get(id);
            v1::LocalLeftOut {
                patch: id.to_string(),
                waiting: reason.waiting().as_str().to_owned(),
                until: millis(reason.until()),
                reason: reason.to_string(),
                offered: millis(terms.map(|terms| terms.offered)),
                grace_ends: millis(terms.map(|terms| terms.grace_ends)),
                deadline: millis(terms.map(|terms| terms.deadline)),
            }
        });
        let settings = self.here.settings.rows().into_iter().map(|(name, value, origin)| v1::LocalSetting {
            name: name.to_owned(),
            value,
            origin: origin.to_string(),
        });
        v1::LocalPlan {
            phase: self.phase().to_owned(),
            steps: steps.collect(),
            left_out: left_out.collect(),
            reboot: self.reboot.to_string(),
            next: millis(self.wakes()),
            settings: settings.collect(),
            problems: self.here.unread.iter().map(|(id, why)| format!("window `{id}`: {why}")).collect(),
        }
    }

    /// The newest attempts, the newest first.
    #[must_use]
    pub fn history(&self, limit: usize) -> v1::LocalHistoryResponse {
        let events = self
            .ledger
            .book()
            .history()
            .rev()
            .take(limit)
            .map(|attempt| v1::LocalEvent {
                at: attempt.ended.as_millisecond(),
                patch: attempt.update.to_string(),
                event: attempt.outcome.sentence(),
                detail: attempt.detail.clone().unwrap_or_default(),
            })
            .collect();
        v1::LocalHistoryResponse { events }
    }
}

fn state_of(verdict: &Verdict) -> State {
    match verdict {
        Verdict::NotApplicable => State::NotApplicable,
        Verdict::Needed => State::Needed,
        Verdict::Installed => State::Installed,
        Verdict::Unknown { .. } => State::Unknown,
    }
}
