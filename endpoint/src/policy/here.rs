//! What the published policy says about this computer: its settings, its windows, what is open here.
//!
//! Pure: documents in, one value out that the planner goes by.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{Timestamp, tz::TimeZone};
use tierway_common::{
    calendar::Calendar,
    id::{EndpointId, GroupId, RingPlanId, UpdateId, WindowId},
    rings,
    schema::{
        Decision, Group, Update,
        policy::{
            ApprovalMode, Reboot, RingPlan, Rollout, RolloutStage, ServiceLevel, TrustPolicy, Trusted, Window,
        },
    },
    service::{Origin, Settings},
};

use super::{Certainty, Effective, Membership};
use crate::{plan::Reason, scan::Problem};

/// Published documents about when and how.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    /// All groups.
    pub groups: Vec<Group>,
    /// Service levels; those of the computer's groups are enough.
    pub levels: Vec<ServiceLevel>,
    /// Change windows; those that its levels name are enough.
    pub windows: Vec<Window>,
    /// Ring plans; those by which something is approved here are enough.
    pub ring_plans: Vec<RingPlan>,
    /// Rollouts by those.
    pub rollouts: Vec<Rollout>,
    /// When updates are trusted; without one all are.
    pub trust_policy: Option<TrustPolicy>,
    /// Updates that are.
    pub trusted: Vec<Trusted>,
}

/// What kind of computer it is, beside what is published.
#[derive(Clone, Copy, Debug)]
pub struct Computer<'a> {
    /// Its id.
    pub endpoint: &'a EndpointId,
    /// Its time zone.
    pub zone: &'a TimeZone,
    /// It looks and reports and installs nothing.
    pub audit_only: bool,
    /// What is patched is the system that runs: another root is never rebooted.
    pub runs: bool,
}

/// The policy that holds here.
#[derive(Clone, Debug, PartialEq)]
pub struct Here {
    /// Every setting, with where it comes from.
    pub settings: Settings,
    /// The windows that the settings name.
    pub windows: Vec<Calendar>,
    /// Those that are not there or make no sense: they never open.
    pub unread: BTreeMap<WindowId, String>,
    /// Its time zone.
    pub zone: TimeZone,
    /// It looks and reports and installs nothing.
    pub audit_only: bool,
    /// Updates that are trusted; `None`: all are.
    trusted: Option<BTreeSet<UpdateId>>,
    /// Index and name of the ring of this computer, by plan.
    rings: BTreeMap<RingPlanId, (usize, String)>,
    rollouts: BTreeMap<RingPlanId, BTreeMap<UpdateId, (RolloutStage, usize)>>,
}

impl Default for Here {
    /// Nothing is published: what is built in, in UTC.
    fn default() -> Self {
        Self {
            settings: Settings::default(),
            windows: Vec::new(),
            unread: BTreeMap::new(),
            zone: TimeZone::UTC,
            audit_only: false,
            trusted: None,
            rings: BTreeMap::new(),
            rollouts: BTreeMap::new(),
        }
    }
}

impl Here {
    /// What the documents say about a computer with these `memberships`, the highest priority first. A group
    /// that it may or may not belong to gives it no level and no ring.
    #[must_use]
    pub fn new(
        documents: &Documents,
        memberships: &[Membership],
        computer: Computer<'_>,
    ) -> (Self, Vec<Problem>) {
        let mut problems = Vec::new();
        let certain: Vec<&GroupId> = memberships
            .iter()
            .filter(|membership| membership.certainty == Certainty::Certain)
            .map(|membership| &membership.group)
            .collect();
        let mut levels = Vec::new();
        for group in &certain {
            let named =
                documents.groups.iter().find(|found| found.id == **group).and_then(|g| g.level.as_ref());
            let Some(named) = named else { continue };
            match documents.levels.iter().find(|level| level.id == *named) {
                Some(level) => levels.push((*group, level)),
                None => problems.push(Problem(format!(
                    "the service level `{named}` of group `{group}` is not published"
                ))),
            }
        }
        let mut settings = Settings::merge(levels);
        if !computer.runs {
            settings.reboot = Reboot::Suppress;
        }
        let (mut windows, mut unread) = (Vec::new(), BTreeMap::new());
        for named in &settings.windows {
            let found = documents.windows.iter().find(|window| window.id == *named);
            let read = found
                .ok_or_else(|| "it is not published".to_owned())
                .and_then(|window| Calendar::new(window, computer.zone).map_err(|error| error.to_string()));
            match read {
                Ok(window) => windows.push(window),
                Err(problem) => {
                    problems.push(Problem(format!("the window `{named}` never opens here: {problem}")));
                    unread.insert(named.clone(), problem);
                }
            }
        }
        let rings = documents.ring_plans.iter().filter_map(|plan| {
            let index = rings::ring_of(plan, computer.endpoint, |group| certain.contains(&group))?;
            Some((plan.id.clone(), (index, plan.rings.get(index)?.name.clone())))
        });
        let mut rollouts: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for Rollout { plan, update, stage, open, since: _, detail: _ } in &documents.rollouts {
            let open = usize::try_from(*open).unwrap_or(usize::MAX);
            rollouts.entry(plan.clone()).or_default().insert(update.clone(), (*stage, open));
        }
        let trusted = documents
            .trust_policy
            .as_ref()
            .map(|_| documents.trusted.iter().map(|trusted| trusted.update.clone()).collect());
        let here = Self {
            settings,
            windows,
            unread,
            zone: computer.zone.clone(),
            audit_only: computer.audit_only,
            trusted,
            rings: rings.collect(),
            rollouts,
        };
        (here, problems)
    }

    /// The decision that holds where nobody decided about a needed update; `detected` is when it was first
    /// found needed.
    #[must_use]
    pub fn automatic(&self, detected: Timestamp) -> Option<Effective> {
        let Some(Origin::Level { group, level }) = self.settings.origins.get("approval") else { return None };
        (self.settings.approval == ApprovalMode::Automatic).then(|| Effective {
            decision: Decision::Approve,
            group: group.clone(),
            by: format!("level:{level}"),
            at: detected,
            asked: detected,
            rings: None,
        })
    }

    /// Why an approved update is not open here; `None` when it is.
    #[must_use]
    pub fn closed(&self, update: &Update, decision: &Effective) -> Option<Reason> {
        let settings = &self.settings;
        if !settings.classes.is_empty() && !settings.classes.contains(&update.class) {
            return Some(Reason::Class(update.class));
        }
        if update.severity < settings.severity_at_least {
            return Some(Reason::Severity(update.severity));
        }
        let trusted = self.trusted.as_ref().is_none_or(|trusted| trusted.contains(&update.id));
        if !trusted && !settings.untrusted {
            return Some(Reason::Untrusted);
        }
        let plan = decision.rings.as_ref()?;
        let rollout = self.rollouts.get(plan).and_then(|rollouts| rollouts.get(&update.id));
        let (ring, name) = match self.rings.get(plan) {
            Some((ring, name)) => (Some(*ring), name.clone()),
            None => (None, "unknown".to_owned()),
        };
        let open =
            rollout.is_some_and(|(stage, open)| stage.installs() && ring.is_some_and(|ring| ring <= *open));
        let stage = rollout.map(|(stage, _)| *stage);
        (!open).then(|| Reason::Ring { ring: name, plan: plan.to_string(), stage })
    }
}
