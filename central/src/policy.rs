//! Who belongs to which group, and what was decided for them. Pure.

pub mod documents;
pub mod gates;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use jiff::Timestamp;
use tierway_common::{
    id::{GroupId, RingPlanId, SiteId, TagId, TemplateId, UpdateId},
    schema::{Approval, Decision, Group, Members, policy::Trusted},
    service::Settings,
};

use self::documents::{Document, Documents, Kind};
use crate::store::tables::{AutoApprovalRecord, RolloutRecord, TemplateRecord, UpdateRecord};

/// Groups of one tenant: each costs a bitmap and a document that every endpoint reads.
pub const GROUPS_MAX: usize = 1_000;
/// Groups that may name one endpoint: they are listed in its assignment document.
pub const GROUPS_PER_ENDPOINT_MAX: usize = 64;
/// Tags of one endpoint: they are listed in its assignment document.
pub const TAGS_PER_ENDPOINT_MAX: usize = 64;
/// Approvals of one tenant: every endpoint carries those of its groups, about 200 bytes each.
pub const APPROVALS_MAX: usize = 200_000;
/// Updates on their way through a ring plan: each is a document that every endpoint reads.
pub const ROLLOUTS_MAX: usize = 20_000;
/// Updates that are trusted by name.
pub const TRUSTED_MAX: usize = 100_000;
/// Templates of one tenant.
pub const TEMPLATES_MAX: usize = 500;
/// Rules that decide by themselves: each looks at every update.
pub const AUTO_APPROVALS_MAX: usize = 100;

/// Everything that was decided.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    groups: BTreeMap<GroupId, Group>,
    approvals: BTreeMap<UpdateId, BTreeMap<GroupId, Approval>>,
    approvals_count: usize,
    rules: BTreeMap<String, AutoApprovalRecord>,
    documents: Documents,
    rollouts: BTreeMap<(RingPlanId, UpdateId), RolloutRecord>,
    trusted: BTreeMap<UpdateId, Trusted>,
    templates: BTreeMap<TemplateId, TemplateRecord>,
}

/// What decides to which groups an endpoint belongs.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Its site.
    pub site: &'a SiteId,
    /// Groups that name it.
    pub assigned: &'a [GroupId],
    /// Its tags.
    pub tags: &'a [TagId],
    /// Groups whose rule is true for its facts.
    pub by_rule: &'a [GroupId],
}

impl Policy {
    /// All groups, by name.
    #[must_use]
    pub fn groups(&self) -> &BTreeMap<GroupId, Group> {
        &self.groups
    }

    /// All rules that decide by themselves, by name.
    #[must_use]
    pub fn rules(&self) -> &BTreeMap<String, AutoApprovalRecord> {
        &self.rules
    }

    /// Service levels, windows, ring plans, tables of result codes, the trust policy.
    #[must_use]
    pub fn documents(&self) -> &Documents {
        &self.documents
    }

    /// Updates on their way through a ring plan, by plan, then update.
    #[must_use]
    pub fn rollouts(&self) -> &BTreeMap<(RingPlanId, UpdateId), RolloutRecord> {
        &self.rollouts
    }

    /// Updates that are trusted by name.
    #[must_use]
    pub fn trusted(&self) -> &BTreeMap<UpdateId, Trusted> {
        &self.trusted
    }

    /// Templates by name.
    #[must_use]
    pub fn templates(&self) -> &BTreeMap<TemplateId, TemplateRecord> {
        &self.templates
    }

    /// The policy that holds on an endpoint of `groups`.
    #[must_use]
    pub fn settings(&self, groups: &[&Group]) -> Settings {
        let mut groups = groups.to_vec();
        groups.sort_by_key(|group| (Reverse(group.priority), &group.id));
        Settings::merge(
            groups
                .into_iter()
                .filter_map(|group| Some((&group.id, self.documents.level(group.level.as_ref()?)?))),
        )
    }

    /// What names a policy document, in words; `None` when it may go.
    #[must_use]
    pub fn user_of(&self, document: &Document) -> Option<String> {
        match document {
            Document::Level(level) => {
                let group = self.groups.values().find(|group| group.level.as_ref() == Some(&level.id))?;
                Some(format!("group `{}`", group.id))
            }
            Document::Window(window) => {
                let user = self.documents.naming(&documents::Reference::Window(window.id.clone()))?;
                Some(format!("{} `{}`", user.kind(), user.name()))
            }
            Document::RingPlan(plan) => {
                let by = |rings: &Option<RingPlanId>| rings.as_ref() == Some(&plan.id);
                if let Some(rule) = self.rules.values().find(|rule| by(&rule.rings)) {
                    return Some(format!("rule `{}`", rule.name));
                }
                let approval = self.approvals().find(|approval| by(&approval.rings))?;
                Some(format!("the approval of `{}` for group `{}`", approval.update, approval.group))
            }
            Document::ResultCodes(_) | Document::Trust(_) => None,
        }
    }

    /// What names a group besides decisions, in words; `None` when it may go.
    #[must_use]
    pub fn user_of_group(&self, id: &GroupId) -> Option<String> {
        if let Some(rule) = self.rules.values().find(|rule| rule.group == *id) {
            return Some(format!("rule `{}`", rule.name));
        }
        let user = self.documents.naming(&documents::Reference::Group(id.clone()))?;
        Some(format!("{} `{}`", user.kind(), user.name()))
    }

    /// Adds or replaces a policy document.
    pub fn set_document(&mut self, document: Document) {
        self.documents.set(document);
    }

    /// Removes a policy document.
    pub fn remove_document(&mut self, kind: Kind, name: &str) {
        self.documents.remove(kind, name);
    }

    /// Adds or replaces a rollout.
    pub fn set_rollout(&mut self, record: RolloutRecord) {
        self.rollouts.insert((record.rollout.plan.clone(), record.rollout.update.clone()), record);
    }

    /// Removes a rollout.
    pub fn remove_rollout(&mut self, plan: &RingPlanId, update: &UpdateId) {
        self.rollouts.remove(&(plan.clone(), update.clone()));
    }

    /// Adds or replaces an update that is trusted.
    pub fn set_trusted(&mut self, trusted: Trusted) {
        self.trusted.insert(trusted.update.clone(), trusted);
    }

    /// Removes an update that is trusted.
    pub fn remove_trusted(&mut self, update: &UpdateId) {
        self.trusted.remove(update);
    }

    /// Adds or replaces a template.
    pub fn set_template(&mut self, template: TemplateRecord) {
        self.templates.insert(template.id.clone(), template);
    }

    /// Removes a template.
    pub fn remove_template(&mut self, id: &TemplateId) {
        self.templates.remove(id);
    }

    /// The decisions about one update, by group.
    pub fn approvals_of(&self, update: &UpdateId) -> impl Iterator<Item = &Approval> {
        self.approvals.get(update).into_iter().flat_map(BTreeMap::values)
    }

    /// Updates about which something is decided, by id.
    pub fn decided(&self) -> impl Iterator<Item = &UpdateId> {
        self.approvals.keys()
    }

    /// Every decision, by update, then group.
    pub fn approvals(&self) -> impl Iterator<Item = &Approval> {
        self.approvals.values().flat_map(BTreeMap::values)
    }

    /// The decision about one update for exactly this group.
    #[must_use]
    pub fn approval(&self, group: &GroupId, update: &UpdateId) -> Option<&Approval> {
        self.approvals.get(update)?.get(group)
    }

    /// How many decisions there are.
    #[must_use]
    pub fn approvals_count(&self) -> usize {
        self.approvals_count
    }

    /// Adds or replaces a group.
    pub fn set_group(&mut self, group: Group) {
        self.groups.insert(group.id.clone(), group);
    }

    /// Removes a group; its approvals are the caller's to remove.
    pub fn remove_group(&mut self, id: &GroupId) {
        self.groups.remove(id);
    }

    /// Adds or replaces a decision.
    pub fn set_approval(&mut self, approval: Approval) {
        let of_update = self.approvals.entry(approval.update.clone()).or_default();
        if of_update.insert(approval.group.clone(), approval).is_none() {
            self.approvals_count += 1;
        }
    }

    /// Removes a decision.
    pub fn remove_approval(&mut self, group: &GroupId, update: &UpdateId) {
        if let Some(of_update) = self.approvals.get_mut(update) {
            if of_update.remove(group).is_some() {
                self.approvals_count -= 1;
            }
            if of_update.is_empty() {
                self.approvals.remove(update);
            }
        }
    }

    /// Adds or replaces a rule.
    pub fn set_rule(&mut self, rule: AutoApprovalRecord) {
        self.rules.insert(rule.name.clone(), rule);
    }

    /// Removes a rule; what it approved stays approved.
    pub fn remove_rule(&mut self, name: &str) {
        self.rules.remove(name);
    }

    /// Whether an endpoint belongs to a group.
    #[must_use]
    pub fn belongs(group: &Group, member: Member<'_>) -> bool {
        match &group.members {
            Members::Everyone => true,
            Members::Assigned => member.assigned.contains(&group.id),
            Members::Site(site) => site == member.site,
            Members::Tag(tag) => member.tags.contains(tag),
            Members::Rule(_) => member.by_rule.contains(&group.id),
        }
    }

    /// The groups an endpoint belongs to, by name.
    #[must_use]
    pub fn groups_of(&self, member: Member<'_>) -> Vec<&Group> {
        self.groups.values().filter(|group| Self::belongs(group, member)).collect()
    }

    /// The decision that counts for members of all `groups`: that of the group with the highest
    /// priority; of two with the same priority the one that declines, then the first by name, as endpoints do.
    #[must_use]
    pub fn decision<'a>(&'a self, groups: &[&Group], update: &UpdateId) -> Option<&'a Approval> {
        let of_update = self.approvals.get(update)?;
        let decided = groups.iter().filter_map(|group| Some((group.priority, of_update.get(&group.id)?)));
        decided
            .max_by_key(|(priority, approval)| (*priority, approval.decision, Reverse(&approval.group)))
            .map(|(_, approval)| approval)
    }

    /// The same for a member of all groups to which it belongs: for one update of many endpoints.
    #[must_use]
    pub fn decision_for(&self, member: Member<'_>, update: &UpdateId) -> Option<&Approval> {
        let of_update = self.approvals.get(update)?.values();
        let decided = of_update.filter_map(|approval| {
            let group = self.groups.get(&approval.group).filter(|group| Self::belongs(group, member))?;
            Some((group.priority, approval))
        });
        decided
            .max_by_key(|(priority, approval)| (*priority, approval.decision, Reverse(&approval.group)))
            .map(|(_, approval)| approval)
    }

    /// The decisions about one update in the order in which they count, strongest first: an endpoint's
    /// is the first whose group it belongs to.
    #[must_use]
    pub fn ranked(&self, update: &UpdateId) -> Vec<&Approval> {
        let priority = |approval: &Approval| self.groups.get(&approval.group).map(|group| group.priority);
        let mut approvals: Vec<_> =
            self.approvals_of(update).filter(|approval| priority(approval).is_some()).collect();
        approvals.sort_by_key(|approval| Reverse((priority(approval), approval.decision)));
        approvals
    }

    /// Approvals that the rules give and nobody decided yet, as `updates` come, then by rule; of two rules
    /// that give the same the first by name does. Superseded and withdrawn updates are never approved by a rule.
    #[must_use]
    pub fn materialise<'a>(
        &self,
        updates: impl Iterator<Item = &'a UpdateRecord>,
        now: Timestamp,
    ) -> Vec<Approval> {
        let mut approvals = Vec::new();
        for update in updates {
            let mut given = BTreeSet::new();
            for rule in self.rules.values().filter(|rule| self.groups.contains_key(&rule.group)) {
                let decided = self.approval(&rule.group, &update.id).is_some();
                if !decided && gives(rule, update, now) && given.insert(&rule.group) {
                    approvals.push(Approval {
                        group: rule.group.clone(),
                        update: update.id.clone(),
                        decision: Decision::Approve,
                        at: now,
                        renewed: None,
                        by: format!("rule:{}", rule.name),
                        rings: rule.rings.clone(),
                    });
                }
            }
        }
        approvals
    }
}

fn gives(rule: &AutoApprovalRecord, update: &UpdateRecord, now: Timestamp) -> bool {
    let age_seconds = now.as_second().saturating_sub(update.released.as_second());
    !update.gone
        && update.superseded_by.is_empty()
        && rule.catalogue.as_ref().is_none_or(|catalogue| catalogue.as_str() == update.id.catalogue())
        && rule.severity_at_least.is_none_or(|least| update.severity >= least)
        && rule.matching.as_ref().is_none_or(|pattern| glob(pattern, update.id.name()))
        && u64::try_from(age_seconds).unwrap_or(0) >= rule.age_at_least_seconds
}

/// Whether `text` matches `pattern` in whole: `*` stands for any text, `?` for any one character.
/// Takes at most pattern × text steps.
#[must_use]
pub fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, t) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan as _;
    use tierway_common::{rules::expr::Expr, schema::Severity, trust::digest::Digest};

    use super::*;

    fn group(id: &str, priority: u32, members: Members) -> Group {
        Group { id: id.parse().unwrap(), priority, members, level: None }
    }

    fn approval(group: &str, update: &str, decision: Decision) -> Approval {
        Approval {
            group: group.parse().unwrap(),
            update: update.parse().unwrap(),
            decision,
            at: Timestamp::UNIX_EPOCH,
            renewed: None,
            by: "operator:admin".to_owned(),
            rings: None,
        }
    }

    fn policy(groups: &[(&str, u32)], approvals: &[(&str, Decision)]) -> Policy {
        let mut policy = Policy::default();
        for (id, priority) in groups {
            policy.set_group(group(id, *priority, Members::Everyone));
        }
        for (id, decision) in approvals {
            policy.set_approval(approval(id, "debian-12/a_1", *decision));
        }
        policy
    }

    #[test]
    fn the_higher_priority_wins_of_equals_the_one_that_declines_then_the_first_by_name() {
        use Decision::{Approve, Decline};
        type Case<'a> = (Vec<(&'a str, Decision)>, Option<&'a str>);
        let cases: [Case<'_>; 6] = [
            (vec![], None),
            (vec![("a1", Approve)], Some("a1")),
            (vec![("a1", Approve), ("b1", Decline)], Some("b1")),
            (vec![("a1", Decline), ("c2", Approve)], Some("c2")),
            (vec![("a1", Approve), ("b1", Approve), ("c2", Decline)], Some("c2")),
            (vec![("a1", Approve), ("b1", Approve)], Some("a1")),
        ];
        let site = "lyon".parse().unwrap();
        let member = Member { site: &site, assigned: &[], tags: &[], by_rule: &[] };
        for (approvals, expected) in cases {
            let policy = policy(&[("a1", 1), ("b1", 1), ("c2", 2)], &approvals);
            let groups: Vec<_> = policy.groups().values().collect();
            let update = "debian-12/a_1".parse().unwrap();
            let says = [
                policy.decision(&groups, &update),
                policy.decision_for(member, &update),
                policy.ranked(&update).first().copied(),
            ];
            assert_eq!(says.map(|a| a.map(|a| a.group.as_str())), [expected; 3], "{approvals:?}");
        }
    }

    #[test]
    fn an_endpoint_belongs_to_everyone_its_site_its_tags_those_that_name_it_and_those_whose_rule_is_true() {
        let mut policy = Policy::default();
        policy.set_group(group("all", 0, Members::Everyone));
        policy.set_group(group("named", 0, Members::Assigned));
        policy.set_group(group("other", 0, Members::Assigned));
        policy.set_group(group("here", 0, Members::Site("lyon".parse().unwrap())));
        policy.set_group(group("there", 0, Members::Site("osaka".parse().unwrap())));
        policy.set_group(group("rule", 0, Members::Rule(Expr::Const(true))));
        policy.set_group(group("prod", 0, Members::Tag("env=prod".parse().unwrap())));
        policy.set_group(group("test", 0, Members::Tag("env=test".parse().unwrap())));
        let (assigned, by_rule) = (["named".parse().unwrap()], ["rule".parse().unwrap()]);
        let (site, tags) = ("lyon".parse().unwrap(), ["env=prod".parse().unwrap()]);
        let member = Member { site: &site, assigned: &assigned, tags: &tags, by_rule: &by_rule };
        let groups: Vec<_> =
            policy.groups_of(member).into_iter().map(|group| group.id.as_str().to_owned()).collect();
        assert_eq!(groups, ["all", "here", "named", "prod", "rule"]);
    }

    fn update(id: &str, severity: Severity, days_old: i64, now: Timestamp) -> UpdateRecord {
        UpdateRecord {
            number: 0,
            id: id.parse().unwrap(),
            title: String::new(),
            severity,
            released: now - (days_old * 24).hours(),
            seen: now,
            document: Digest::of(id.as_bytes()),
            superseded_by: vec![],
            payload_bytes: 0,
            gone: false,
            gone_since: None,
        }
    }

    #[test]
    fn a_rule_approves_what_fits_all_its_parts_and_nobody_decided() {
        let now = "2026-11-20T03:00:00Z".parse().unwrap();
        let mut policy = policy(&[("pilot", 1)], &[]);
        policy.set_rule(AutoApprovalRecord {
            name: "weekly".to_owned(),
            group: "pilot".parse().unwrap(),
            catalogue: Some("debian-12".parse().unwrap()),
            severity_at_least: Some(Severity::Important),
            matching: Some("open*_*".to_owned()),
            age_at_least_seconds: 7 * 86_400,
            rings: None,
        });
        policy.set_approval(approval("pilot", "debian-12/openvpn_1", Decision::Decline));
        let superseded = UpdateRecord {
            superseded_by: vec!["debian-12/openssl_2".parse().unwrap()],
            ..update("debian-12/openssl_0", Severity::Critical, 30, now)
        };
        let updates = [
            update("debian-12/openssl_1", Severity::Critical, 7, now),
            update("debian-12/openssh_1", Severity::Moderate, 30, now),
            update("debian-12/openldap_1", Severity::Important, 6, now),
            update("debian-12/openvpn_1", Severity::Critical, 30, now),
            update("debian-13/openssl_1", Severity::Critical, 30, now),
            update("debian-12/curl_1", Severity::Critical, 30, now),
            UpdateRecord { gone: true, ..update("debian-12/openjdk_1", Severity::Critical, 30, now) },
            superseded,
        ];
        let given = policy.materialise(updates.iter(), now);
        let named: Vec<_> = given.iter().map(|a| (a.update.as_str(), a.by.as_str())).collect();
        assert_eq!(named, [("debian-12/openssl_1", "rule:weekly")]);
        policy.set_approval(given[0].clone());
        assert!(policy.materialise(updates.iter(), now).is_empty(), "given once");
    }

    #[test]
    fn a_glob_matches_the_whole_name() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("linux*", "linux_6.1", true),
            ("linux", "linux_6.1", false),
            ("*ssl*", "openssl_3", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaa", false),
            ("?", "é", true),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn approvals_are_counted_once_each() {
        let mut policy = policy(&[("a", 1)], &[("a", Decision::Approve), ("a", Decision::Decline)]);
        assert_eq!(policy.approvals_count(), 1);
        policy.remove_approval(&"a".parse().unwrap(), &"debian-12/a_1".parse().unwrap());
        policy.remove_approval(&"a".parse().unwrap(), &"debian-12/a_1".parse().unwrap());
        assert_eq!((policy.approvals_count(), policy.approvals().count()), (0, 0));
    }
}
