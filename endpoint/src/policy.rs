//! Which decision about an update holds on this computer, and who made it.
//!
//! Pure: documents and facts in, decision out. Of two groups that decide differently the one with the
//! higher priority wins; of two of the same priority the one that declines.

pub mod here;

use std::{cmp::Reverse, fmt};

use jiff::Timestamp;
use tierway_common::{
    facts::Facts,
    id::{GroupId, RingPlanId, SiteId},
    rules::{Truth, evaluate},
    schema::{Approval, Assignment, Decision, Group, Members},
};

use crate::scan::Problem;

/// A group that this computer belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Which.
    pub group: GroupId,
    /// Of the group.
    pub priority: u32,
    /// Whether it does.
    pub certainty: Certainty,
}

/// Whether a computer belongs to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// It does.
    Certain,
    /// The group's rule could not be decided. Such a group can hold an update back and not bring one: what
    /// it declines counts, what it approves does not.
    Unknown,
}

/// The decision that holds, with where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// Whether to install.
    pub decision: Decision,
    /// For which group it was made.
    pub group: GroupId,
    /// `operator:<name>` or `rule:<name>`.
    pub by: String,
    /// When it was made.
    pub at: Timestamp,
    /// When a person last asked for it: what failed before that may be tried again.
    pub asked: Timestamp,
    /// Ring after ring by this plan.
    pub rings: Option<RingPlanId>,
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decided = match self.decision {
            Decision::Approve => "approved",
            Decision::Decline => "declined",
        };
        write!(f, "{decided} for group `{}` by {} at {}", self.group, self.by, self.at)
    }
}

/// The groups that this computer belongs to, the highest priority first, then by name.
///
/// `site` counts where there is no assignment yet. A group whose rule cannot be decided is there with
/// [`Certainty::Unknown`] and as a problem.
#[must_use]
pub fn memberships<'a>(
    assignment: Option<&Assignment>,
    site: &SiteId,
    groups: impl IntoIterator<Item = &'a Group>,
    facts: &Facts,
) -> (Vec<Membership>, Vec<Problem>) {
    let site = assignment.map_or(site, |assignment| &assignment.site);
    let mut memberships = Vec::new();
    let mut problems = Vec::new();
    for group in groups {
        let truth = match &group.members {
            Members::Everyone => Truth::True,
            Members::Assigned => {
                let named = assignment.is_some_and(|assignment| assignment.groups.contains(&group.id));
                if named { Truth::True } else { Truth::False }
            }
            Members::Site(of) => {
                if of == site {
                    Truth::True
                } else {
                    Truth::False
                }
            }
            Members::Tag(tag) => {
                let has = assignment.is_some_and(|assignment| assignment.tags.contains(tag));
                if has { Truth::True } else { Truth::False }
            }
            Members::Rule(rule) => evaluate(rule, facts),
        };
        let certainty = match truth {
            Truth::False => continue,
            Truth::True => Certainty::Certain,
            Truth::Unknown(reasons) => {
                let text =
                    format!("whether this computer belongs to group `{}` is unknown: {reasons}", group.id);
                problems.push(Problem(text));
                Certainty::Unknown
            }
        };
        memberships.push(Membership { group: group.id.clone(), priority: group.priority, certainty });
    }
    memberships.sort_by(|a, b| (Reverse(a.priority), &a.group).cmp(&(Reverse(b.priority), &b.group)));
    (memberships, problems)
}

/// The decision that holds among the approvals of one update; `None` when no group of this computer decided.
#[must_use]
pub fn effective<'a>(
    memberships: &[Membership],
    approvals: impl IntoIterator<Item = &'a Approval>,
) -> Option<Effective> {
    let counts = |approval: &&'a Approval| {
        let membership = memberships.iter().find(|membership| membership.group == approval.group)?;
        let counted = membership.certainty == Certainty::Certain || approval.decision == Decision::Decline;
        counted.then_some(membership.priority)
    };
    approvals
        .into_iter()
        .filter_map(|approval| Some((counts(&approval)?, approval)))
        .max_by_key(|(priority, approval)| (*priority, approval.decision, Reverse(&approval.group)))
        .map(|(_, approval)| Effective {
            decision: approval.decision,
            group: approval.group.clone(),
            by: approval.by.clone(),
            at: approval.at,
            asked: approval.renewed.map_or(approval.at, |renewed| renewed.max(approval.at)),
            rings: approval.rings.clone(),
        })
}

#[cfg(test)]
mod tests {
    use tierway_common::{
        facts::Domain,
        rules::expr::{Expr, OsTest},
    };

    use super::*;

    fn group(id: &str, priority: u32, members: Members) -> Group {
        Group { id: id.parse().unwrap(), priority, members, level: None }
    }

    fn rule(family: &str) -> Members {
        Members::Rule(Expr::Os(OsTest { family: Some(family.to_owned()), ..OsTest::default() }))
    }

    fn debian() -> Facts {
        let os = Domain::Complete { source: "/etc/os-release".to_owned() };
        Facts {
            domains: [("os".to_owned(), os)].into(),
            values: [("os:family".to_owned(), "debian".to_owned())].into(),
        }
    }

    fn assignment() -> Assignment {
        Assignment {
            endpoint: "e".parse().unwrap(),
            site: "paris".parse().unwrap(),
            groups: vec!["web".parse().unwrap()],
            tags: vec!["web".parse().unwrap()],
        }
    }

    /// The groups, as `name` or `name?`, highest priority first.
    fn members(assignment: Option<&Assignment>, facts: &Facts) -> (Vec<String>, usize) {
        let groups = [
            group("all", 0, Members::Everyone),
            group("web", 10, Members::Assigned),
            group("db", 10, Members::Assigned),
            group("tagged", 4, Members::Tag("web".parse().unwrap())),
            group("other", 4, Members::Tag("db".parse().unwrap())),
            group("paris", 5, Members::Site("paris".parse().unwrap())),
            group("rome", 5, Members::Site("rome".parse().unwrap())),
            group("debian", 7, rule("debian")),
            group("windows", 7, rule("windows")),
        ];
        let (memberships, problems) = memberships(assignment, &"rome".parse().unwrap(), &groups, facts);
        let name = |membership: &Membership| {
            let mark = if membership.certainty == Certainty::Unknown { "?" } else { "" };
            format!("{}{mark}", membership.group)
        };
        (memberships.iter().map(name).collect(), problems.len())
    }

    fn approval(group: &str, decision: Decision) -> Approval {
        Approval {
            group: group.parse().unwrap(),
            update: "debian-12/x_1".parse().unwrap(),
            decision,
            at: "2026-03-01T10:00:00Z".parse().unwrap(),
            renewed: None,
            by: "operator:ann".to_owned(),
            rings: None,
        }
    }

    #[test]
    fn a_computer_belongs_to_the_groups_that_name_it_its_site_its_tags_or_its_facts() {
        assert_eq!(
            members(Some(&assignment()), &debian()),
            (vec!["web".into(), "debian".into(), "paris".into(), "tagged".into(), "all".into()], 0)
        );
        assert_eq!(members(None, &debian()), (vec!["debian".into(), "rome".into(), "all".into()], 0));
    }

    #[test]
    fn a_rule_that_cannot_be_decided_is_told() {
        assert_eq!(
            members(None, &Facts::default()),
            (vec!["debian?".into(), "windows?".into(), "rome".into(), "all".into()], 2)
        );
    }

    #[test]
    fn the_higher_priority_wins_and_among_equals_the_one_that_declines() {
        use Decision::{Approve, Decline};
        let membership = |group: &str, priority, certainty| Membership {
            group: group.parse().unwrap(),
            priority,
            certainty,
        };
        let memberships = [
            membership("web", 10, Certainty::Certain),
            membership("db", 10, Certainty::Certain),
            membership("maybe", 20, Certainty::Unknown),
            membership("all", 0, Certainty::Certain),
        ];
        for (approvals, expected) in [
            (vec![], None),
            (vec![("other", Approve)], None),
            (vec![("all", Approve)], Some(("all", Approve))),
            (vec![("all", Approve), ("web", Decline)], Some(("web", Decline))),
            (vec![("all", Decline), ("web", Approve)], Some(("web", Approve))),
            (vec![("web", Approve), ("db", Decline)], Some(("db", Decline))),
            (vec![("web", Approve), ("db", Approve)], Some(("db", Approve))),
            (vec![("maybe", Approve)], None),
            (vec![("maybe", Approve), ("all", Decline)], Some(("all", Decline))),
            (vec![("maybe", Decline), ("web", Approve)], Some(("maybe", Decline))),
        ] {
            let documents: Vec<_> = approvals.iter().map(|(group, d)| approval(group, *d)).collect();
            let found = effective(&memberships, &documents);
            let found = found.as_ref().map(|found| (found.group.as_str(), found.decision));
            assert_eq!(found, expected, "{approvals:?}");
        }
    }

    #[test]
    fn an_approval_given_once_more_asks_anew_and_stays_as_old_as_it_is() {
        let membership =
            [Membership { group: "web".parse().unwrap(), priority: 1, certainty: Certainty::Certain }];
        let first = approval("web", Decision::Approve);
        let later = "2026-03-09T10:00:00Z".parse().unwrap();
        for (renewed, asked) in
            [(None, first.at), (Some(later), later), (Some(Timestamp::UNIX_EPOCH), first.at)]
        {
            let found = effective(&membership, &[Approval { renewed, ..first.clone() }]).unwrap();
            assert_eq!((found.at, found.asked), (first.at, asked), "{renewed:?}");
        }
    }

    #[test]
    fn a_decision_says_who_made_it_for_whom_and_when() {
        let memberships =
            [Membership { group: "web".parse().unwrap(), priority: 1, certainty: Certainty::Certain }];
        let found = effective(&memberships, &[approval("web", Decision::Approve)]).unwrap();
        let text = "approved for group `web` by operator:ann at 2026-03-01T10:00:00Z";
        assert_eq!(found.to_string(), text);
    }
}
