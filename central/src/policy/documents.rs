//! Policy documents as operators hand them in: read strictly, checked by themselves, and what they name.
//!
//! One shape for all kinds, so that listing, setting and deleting are written once. Whether what a document
//! names is there is for who knows the rest ([`crate::decide::documents`]). Pure.

use std::{collections::BTreeMap, fmt, time::Duration};

use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};
use tierway_common::{
    calendar::{self, CalendarError, timetable},
    id::{GroupId, LevelId, RingPlanId, UpdateId, WindowId},
    rings::{self, RingsError},
    schema::policy::{
        FollowUp, ResultCodes, ResultScope, RingMembers, RingPlan, ServiceLevel, TrustPolicy, Window,
    },
    service::Settings,
};

/// Bytes of one document as JSON: every endpoint reads it.
pub const DOCUMENT_BYTES_MAX: usize = 32 * 1024;
/// Service levels of one tenant.
pub const LEVELS_MAX: usize = 200;
/// Change windows of one tenant.
pub const WINDOWS_MAX: usize = 500;
/// Ring plans of one tenant.
pub const RING_PLANS_MAX: usize = 100;
/// Tables of result codes of one tenant.
pub const RESULT_CODES_MAX: usize = 1_000;
/// Codes in one table.
const CODES_MAX: usize = 200;
/// Windows that one level names.
const LEVEL_WINDOWS_MAX: usize = 16;
/// Follow-up actions of one level.
const FOLLOW_UPS_MAX: usize = 8;
/// Bytes of a department's name: it stands in a dialog.
const DEPARTMENT_BYTES_MAX: usize = 100;
/// Largest program that a follow-up action runs.
const PROGRAM_BYTES_MAX: u64 = 64 * 1024 * 1024;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
const YEAR: Duration = Duration::from_secs(366 * 24 * 3600);

/// Kinds of policy documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// [`ServiceLevel`].
    Level,
    /// [`Window`].
    Window,
    /// [`RingPlan`].
    RingPlan,
    /// [`ResultCodes`].
    ResultCodes,
    /// [`TrustPolicy`]; there is at most one, named `trust`.
    Trust,
}

/// The name of the one trust policy.
pub const TRUST: &str = "trust";

impl Kind {
    /// All.
    pub const ALL: [Self; 5] = [Self::Level, Self::Window, Self::RingPlan, Self::ResultCodes, Self::Trust];

    /// As on the command line and in the audit log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Level => "level",
            Self::Window => "window",
            Self::RingPlan => "ring-plan",
            Self::ResultCodes => "result-codes",
            Self::Trust => "trust",
        }
    }

    /// For people.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Level => "service level",
            Self::Window => "window",
            Self::RingPlan => "ring plan",
            Self::ResultCodes => "table of result codes",
            Self::Trust => "trust policy",
        }
    }

    /// How many there may be.
    #[must_use]
    pub fn max(self) -> (usize, &'static str) {
        match self {
            Self::Level => (LEVELS_MAX, "service levels"),
            Self::Window => (WINDOWS_MAX, "windows"),
            Self::RingPlan => (RING_PLANS_MAX, "ring plans"),
            Self::ResultCodes => (RESULT_CODES_MAX, "tables of result codes"),
            Self::Trust => (1, "trust policies"),
        }
    }

    /// The key under which a document of that name is published.
    #[must_use]
    pub fn key(self, name: &str) -> String {
        match self {
            Self::Trust => "trust-policy".to_owned(),
            Self::Level | Self::Window | Self::RingPlan | Self::ResultCodes => {
                format!("{}/{name}", self.as_str())
            }
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())
    }
}

/// Why a document is refused.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It is no document of that kind.
    #[error("it cannot be read: {0}")]
    Json(String),
    /// More than every endpoint should have to read.
    #[error("it has {0} bytes, more than {DOCUMENT_BYTES_MAX}")]
    Long(usize),
    /// A value that makes no sense.
    #[error("`{key}` must be {rule}, found {found}")]
    Value {
        /// Which.
        key: &'static str,
        /// What it must be.
        rule: String,
        /// What it is.
        found: String,
    },
    /// Times.
    #[error("its times make no sense: {0}")]
    Calendar(#[from] CalendarError),
    /// Rings.
    #[error(transparent)]
    Rings(#[from] RingsError),
}

/// A policy document of any kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "document", rename_all = "kebab-case")]
pub enum Document {
    /// How members of a group are served.
    Level(Box<ServiceLevel>),
    /// When computers may be changed.
    Window(Window),
    /// How an update spreads.
    RingPlan(RingPlan),
    /// What exit codes mean.
    ResultCodes(ResultCodes),
    /// When an update is trusted by itself.
    Trust(TrustPolicy),
}

/// Something that a document names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// A window.
    Window(WindowId),
    /// A group.
    Group(GroupId),
    /// An update.
    Update(UpdateId),
}

impl Document {
    /// Reads what somebody handed in; unknown fields are refused.
    ///
    /// # Errors
    ///
    /// [`DocumentError`].
    pub fn read(kind: Kind, json: &str) -> Result<Self, DocumentError> {
        fn parse<T: serde::de::DeserializeOwned>(json: &str) -> Result<T, DocumentError> {
            serde_json::from_str(json).map_err(|error| DocumentError::Json(error.to_string()))
        }
        if json.len() > DOCUMENT_BYTES_MAX {
            return Err(DocumentError::Long(json.len()));
        }
        Ok(match kind {
            Kind::Level => Self::Level(parse(json)?),
            Kind::Window => Self::Window(parse(json)?),
            Kind::RingPlan => Self::RingPlan(parse(json)?),
            Kind::ResultCodes => Self::ResultCodes(parse(json)?),
            Kind::Trust => Self::Trust(parse(json)?),
        })
    }

    /// Of which kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Level(_) => Kind::Level,
            Self::Window(_) => Kind::Window,
            Self::RingPlan(_) => Kind::RingPlan,
            Self::ResultCodes(_) => Kind::ResultCodes,
            Self::Trust(_) => Kind::Trust,
        }
    }

    /// Its name among those of its kind.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Level(level) => level.id.to_string(),
            Self::Window(window) => window.id.to_string(),
            Self::RingPlan(plan) => plan.id.to_string(),
            Self::ResultCodes(ResultCodes { scope: ResultScope::Update(update), .. }) => {
                format!("update/{update}")
            }
            Self::ResultCodes(ResultCodes { scope: ResultScope::Group(group), .. }) => {
                format!("group/{group}")
            }
            Self::Trust(_) => TRUST.to_owned(),
        }
    }

    /// Its bytes as published.
    ///
    /// # Errors
    ///
    /// When it cannot be written as JSON.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        match self {
            Self::Level(level) => serde_json::to_string(level),
            Self::Window(window) => serde_json::to_string(window),
            Self::RingPlan(plan) => serde_json::to_string(plan),
            Self::ResultCodes(codes) => serde_json::to_string(codes),
            Self::Trust(trust) => serde_json::to_string(trust),
        }
    }

    /// Says what is wrong with it by itself; calendars are looked through from `now` on.
    ///
    /// # Errors
    ///
    /// [`DocumentError`], the first that is found.
    pub fn check(&self, now: Timestamp) -> Result<(), DocumentError> {
        match self {
            Self::Level(level) => check_level(level),
            Self::Window(window) => Ok(calendar::check_window(window, &TimeZone::UTC, now)?),
            Self::RingPlan(plan) => {
                for ring in &plan.rings {
                    within("soak", Some(ring.soak), Duration::ZERO, YEAR)?;
                    if ring.failures_min == 0 {
                        return Err(value("failures_min", "at least 1", 0));
                    }
                }
                Ok(rings::check(plan)?)
            }
            Self::ResultCodes(ResultCodes { scope: _, codes }) => {
                if codes.is_empty() || codes.len() > CODES_MAX {
                    return Err(value("codes", &format!("1 to {CODES_MAX} codes"), codes.len()));
                }
                Ok(())
            }
            Self::Trust(TrustPolicy { successes_at_least, over, failure_permille_max }) => {
                if *successes_at_least == 0 {
                    return Err(value("successes_at_least", "at least 1", 0));
                }
                if *failure_permille_max > 1_000 {
                    return Err(value("failure_permille_max", "at most 1000", failure_permille_max));
                }
                within("over", Some(*over), Duration::ZERO, YEAR)
            }
        }
    }

    /// What it names.
    #[must_use]
    pub fn references(&self) -> Vec<Reference> {
        match self {
            Self::Level(level) => level.windows.iter().flatten().cloned().map(Reference::Window).collect(),
            Self::RingPlan(plan) => {
                let groups = plan.rings.iter().filter_map(|ring| match &ring.who {
                    RingMembers::Group(group) => Some(Reference::Group(group.clone())),
                    RingMembers::Permille(_) | RingMembers::Rest => None,
                });
                groups.collect()
            }
            Self::ResultCodes(ResultCodes { scope: ResultScope::Update(update), .. }) => {
                vec![Reference::Update(update.clone())]
            }
            Self::ResultCodes(ResultCodes { scope: ResultScope::Group(group), .. }) => {
                vec![Reference::Group(group.clone())]
            }
            Self::Window(_) | Self::Trust(_) => Vec::new(),
        }
    }
}

fn value(key: &'static str, rule: &str, found: impl fmt::Display) -> DocumentError {
    DocumentError::Value { key, rule: rule.to_owned(), found: format!("`{found}`") }
}

fn within(
    key: &'static str,
    found: Option<Duration>,
    least: Duration,
    most: Duration,
) -> Result<(), DocumentError> {
    match found {
        Some(found) if found < least || found > most => {
            let (least, most) = (humantime::format_duration(least), humantime::format_duration(most));
            Err(value(key, &format!("{least} to {most}"), humantime::format_duration(found)))
        }
        _ => Ok(()),
    }
}

/// `most` values at most, none twice, and at least one where the list is given.
fn list<T: PartialEq>(key: &'static str, found: Option<&Vec<T>>, most: usize) -> Result<(), DocumentError> {
    let Some(found) = found else { return Ok(()) };
    let twice = found.iter().enumerate().any(|(at, one)| found[..at].contains(one));
    if found.is_empty() || found.len() > most || twice {
        let what = if twice { "one of them twice".to_owned() } else { found.len().to_string() };
        return Err(value(key, &format!("1 to {most} different ones"), what));
    }
    Ok(())
}

fn check_level(level: &ServiceLevel) -> Result<(), DocumentError> {
    if let Some(department) = &level.department
        && (department.is_empty() || crate::text::clean(department, DEPARTMENT_BYTES_MAX) != *department)
    {
        let rule = format!("1 to {DEPARTMENT_BYTES_MAX} bytes of visible text");
        return Err(value("department", &rule, department.escape_debug()));
    }
    list("classes", level.classes.as_ref(), 16)?;
    list("windows", level.windows.as_ref(), LEVEL_WINDOWS_MAX)?;
    list("follow_up", level.follow_up.as_ref(), FOLLOW_UPS_MAX)?;
    within("grace", level.grace, Duration::ZERO, YEAR)?;
    within("deadline", level.deadline, Duration::ZERO, YEAR)?;
    within("countdown", level.countdown, Duration::ZERO, DAY)?;
    within("postpone", level.postpone, MINUTE, 30 * DAY)?;
    within("remind_every", level.remind_every, 5 * MINUTE, 30 * DAY)?;
    within("retry_interval", level.retry_interval, MINUTE, 7 * DAY)?;
    within("reboot_hold", level.reboot_hold, Duration::ZERO, 30 * DAY)?;
    if let Some(schedule) = &level.schedule {
        timetable::check(schedule)?;
    }
    // Where no level says anything about the deadline the one built in holds.
    let deadline = level.deadline.unwrap_or(Settings::default().deadline);
    if let Some(grace) = level.grace.filter(|grace| *grace > deadline) {
        let (grace, deadline) = (humantime::format_duration(grace), humantime::format_duration(deadline));
        return Err(value("deadline", &format!("at least `grace`, which is {grace}"), deadline));
    }
    for action in level.follow_up.iter().flatten() {
        if let FollowUp::Run { program: _, bytes, limit } = action {
            if !(1..=PROGRAM_BYTES_MAX).contains(bytes) {
                return Err(value("bytes", &format!("1 to {PROGRAM_BYTES_MAX}"), bytes));
            }
            within("limit", Some(*limit), Duration::from_secs(1), DAY)?;
        }
    }
    Ok(())
}

/// All policy documents.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    by_name: BTreeMap<(Kind, String), Document>,
}

impl Documents {
    /// One by its name.
    #[must_use]
    pub fn get(&self, kind: Kind, name: &str) -> Option<&Document> {
        self.by_name.get(&(kind, name.to_owned()))
    }

    /// Those of a kind, by name.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &Document> {
        self.by_name
            .range((kind, String::new())..)
            .take_while(move |((of, _), _)| *of == kind)
            .map(|row| row.1)
    }

    /// A service level.
    #[must_use]
    pub fn level(&self, id: &LevelId) -> Option<&ServiceLevel> {
        match self.get(Kind::Level, id.as_str())? {
            Document::Level(level) => Some(level),
            _ => None,
        }
    }

    /// A ring plan.
    #[must_use]
    pub fn ring_plan(&self, id: &RingPlanId) -> Option<&RingPlan> {
        match self.get(Kind::RingPlan, id.as_str())? {
            Document::RingPlan(plan) => Some(plan),
            _ => None,
        }
    }

    /// The trust policy.
    #[must_use]
    pub fn trust(&self) -> Option<&TrustPolicy> {
        match self.get(Kind::Trust, TRUST)? {
            Document::Trust(trust) => Some(trust),
            _ => None,
        }
    }

    /// Adds or replaces one.
    pub fn set(&mut self, document: Document) {
        self.by_name.insert((document.kind(), document.name()), document);
    }

    /// Removes one.
    pub fn remove(&mut self, kind: Kind, name: &str) {
        self.by_name.remove(&(kind, name.to_owned()));
    }

    /// The first document, by kind and name, that names this.
    #[must_use]
    pub fn naming(&self, what: &Reference) -> Option<&Document> {
        self.by_name.values().find(|document| document.references().contains(what))
    }
}

#[cfg(test)]
mod tests;
