//! The policy that holds on one computer: the service levels of its groups, merged setting by setting.
//!
//! The order is that of decisions: of two groups that say something about a setting the one with the higher
//! priority wins, of two with the same priority the one whose name comes first. A setting that no group's
//! level names has the value built in. Pure; the same on all tiers.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::{
    id::{GroupId, LevelId, WindowId},
    schema::{
        Severity, UpdateClass,
        policy::{
            ApprovalMode, AtDeadline, CountdownDefault, Experience, FollowUp, Reboot, Roaming, Schedule,
            ServiceLevel,
        },
    },
};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Where a setting comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// No level of the computer's groups says anything about it.
    #[default]
    BuiltIn,
    /// The level of a group.
    Level {
        /// The group.
        group: GroupId,
        /// Its level.
        level: LevelId,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built in"),
            Self::Level { group, level } => write!(f, "level `{level}` of group `{group}`"),
        }
    }
}

macro_rules! settings { ($(
    $(#[$doc:meta])* $name:ident: $type:ty = $default:expr;
)*) => {
    /// Every setting with a value.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Settings {
        $($(#[$doc])* pub $name: $type,)*
        /// Setting name → where its value comes from; those built in are left out.
        pub origins: BTreeMap<&'static str, Origin>,
    }

    impl Default for Settings {
        fn default() -> Self {
            Self { $($name: $default,)* origins: BTreeMap::new() }
        }
    }

    impl Settings {
        /// Merges the levels of the groups of one computer, given from the highest priority to the lowest
        /// (of the same priority by name).
        #[must_use]
        pub fn merge<'a>(levels: impl IntoIterator<Item = (&'a GroupId, &'a ServiceLevel)>) -> Self {
            let mut settings = Self::default();
            for (group, level) in levels {
                let ServiceLevel { id, $($name,)* } = level;
                $(if let Some(value) = $name && !settings.origins.contains_key(stringify!($name)) {
                    settings.$name = value.clone();
                    let origin = Origin::Level { group: group.clone(), level: id.clone() };
                    settings.origins.insert(stringify!($name), origin);
                })*
            }
            settings
        }

        /// Name, value as JSON, and origin of every setting, in the order of the documentation.
        #[must_use]
        pub fn rows(&self) -> Vec<(&'static str, String, Origin)> {
            let level = self.as_level();
            let json = serde_json::to_value(&level).unwrap_or_default();
            vec![$((
                stringify!($name),
                json.get(stringify!($name)).map_or_else(|| "none".to_owned(), ToString::to_string),
                self.origins.get(stringify!($name)).cloned().unwrap_or_default(),
            ),)*]
        }
    }
}; }

settings! {
    /// Who asks for the updates, as users are told.
    department: String = String::new();
    /// Only updates of these classes are installed; empty: all.
    classes: Vec<UpdateClass> = Vec::new();
    /// Only updates at least this severe are installed.
    severity_at_least: Severity = Severity::Unspecified;
    /// Whether somebody must approve.
    approval: ApprovalMode = ApprovalMode::Explicit;
    /// Takes updates that are not trusted yet.
    untrusted: bool = false;
    /// For so long after the offer the person at the machine decides when.
    grace: Duration = Duration::ZERO;
    /// So long after the offer it is installed at the latest.
    deadline: Duration = 7 * DAY;
    /// What happens at the deadline without a window.
    at_deadline: AtDeadline = AtDeadline::Wait;
    /// How much a person has to do with it.
    experience: Experience = Experience::Silent;
    /// Countdown before an installation or a reboot while somebody is logged in.
    countdown: Duration = Duration::from_secs(15 * 60);
    /// What an unanswered countdown leads to during grace.
    countdown_default: CountdownDefault = CountdownDefault::Install;
    /// How long one postponement lasts.
    postpone: Duration = 4 * HOUR;
    /// How often a person is reminded.
    remind_every: Duration = 4 * HOUR;
    /// The privilege to update by schedule.
    scheduled: bool = true;
    /// The person at the machine may switch it off.
    schedule_optional: bool = false;
    /// When it checks.
    schedule: Schedule = Schedule::Every(3 * HOUR);
    /// When it checks while something approved is not installed.
    retry_interval: Duration = HOUR;
    /// Policy at most once a day.
    configuration_daily: bool = false;
    /// Change windows; empty: any time.
    windows: Vec<WindowId> = Vec::new();
    /// Whether and when a needed reboot is done.
    reboot: Reboot = Reboot::Suppress;
    /// How long users, inhibitors and open documents hold a reboot back.
    reboot_hold: Duration = DAY;
    /// What a computer on the road does with notices.
    roaming: Roaming = Roaming::Skip;
    /// What is done after an installation.
    follow_up: Vec<FollowUp> = Vec::new();
}

impl Settings {
    fn as_level(&self) -> ServiceLevel {
        let Ok(id) = "merged".parse() else { unreachable!("a valid name") };
        ServiceLevel {
            id,
            department: Some(self.department.clone()),
            classes: Some(self.classes.clone()),
            severity_at_least: Some(self.severity_at_least),
            approval: Some(self.approval),
            untrusted: Some(self.untrusted),
            grace: Some(self.grace),
            deadline: Some(self.deadline),
            at_deadline: Some(self.at_deadline),
            experience: Some(self.experience),
            countdown: Some(self.countdown),
            countdown_default: Some(self.countdown_default),
            postpone: Some(self.postpone),
            remind_every: Some(self.remind_every),
            scheduled: Some(self.scheduled),
            schedule_optional: Some(self.schedule_optional),
            schedule: Some(self.schedule.clone()),
            retry_interval: Some(self.retry_interval),
            configuration_daily: Some(self.configuration_daily),
            windows: Some(self.windows.clone()),
            reboot: Some(self.reboot),
            reboot_hold: Some(self.reboot_hold),
            roaming: Some(self.roaming),
            follow_up: Some(self.follow_up.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(json: &str) -> ServiceLevel {
        serde_json::from_str(json).unwrap()
    }

    fn group(id: &str) -> GroupId {
        id.parse().unwrap()
    }

    #[test]
    fn each_setting_comes_from_the_first_group_that_says_something_about_it() {
        let servers = level(r#"{"id":"servers","reboot":"suppress","deadline":"30days"}"#);
        let fast = level(r#"{"id":"fast","deadline":"24h","grace":"2h"}"#);
        let (web, all) = (group("web"), group("all"));
        let merged = Settings::merge([(&web, &servers), (&all, &fast)]);
        assert_eq!((merged.reboot, merged.deadline, merged.grace), (Reboot::Suppress, 30 * DAY, 2 * HOUR));
        assert_eq!(merged.retry_interval, HOUR);
        let origin = |name| merged.rows().into_iter().find(|row| row.0 == name).unwrap().2.to_string();
        assert_eq!(origin("deadline"), "level `servers` of group `web`");
        assert_eq!(origin("grace"), "level `fast` of group `all`");
        assert_eq!(origin("retry_interval"), "built in");
    }

    #[test]
    fn the_rows_name_every_setting_with_its_value() {
        let rows = Settings::default().rows();
        assert_eq!(rows.len(), 23);
        assert!(rows.iter().all(|(name, value, _)| value != "none" && !name.is_empty()), "{rows:?}");
    }

    #[test]
    fn a_level_with_an_unknown_setting_is_refused() {
        let error = serde_json::from_str::<ServiceLevel>(r#"{"id":"x","deadlin":"1h"}"#).unwrap_err();
        assert!(error.to_string().contains("deadlin"), "{error}");
    }
}
