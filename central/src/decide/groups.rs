//! Who is treated alike: groups, and the tags by which endpoints come into them.

use std::{collections::BTreeSet, sync::Arc};

use tierway_common::{
    id::{GroupId, LevelId, SiteId, TagId},
    rules,
    rules::expr::Expr,
    schema::{Group, Members},
};

use super::{DecideError, not_found};
use crate::{
    fleet,
    inventory::facts::rule_groups,
    model::{Model, Write},
    policy::{GROUPS_MAX, GROUPS_PER_ENDPOINT_MAX, TAGS_PER_ENDPOINT_MAX},
    state::{Change, State},
    store::tables::EndpointRecord,
};

/// Bytes of a group's rule as JSON: it is a document that every endpoint reads.
const RULE_BYTES_MAX: usize = 32 * 1024;

/// Who shall belong to a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Membership {
    /// Every endpoint.
    Everyone,
    /// Those of a site.
    Site(SiteId),
    /// Those that have the tag.
    Tag(TagId),
    /// Those for whose facts the rule is true.
    Rule(Expr),
    /// These, by name or id.
    Named(Vec<String>),
}

/// Adds a group or changes one. Returns the sequence of the audit record.
///
/// # Errors
///
/// [`DecideError`]; then nothing is changed.
pub fn set_group(
    state: &State,
    id: &GroupId,
    priority: u32,
    membership: &Membership,
    level: Option<&LevelId>,
    actor: &str,
) -> Result<u64, DecideError> {
    let members = match membership {
        Membership::Everyone => Members::Everyone,
        Membership::Site(site) => Members::Site(site.clone()),
        Membership::Tag(tag) => Members::Tag(tag.clone()),
        Membership::Named(_) => Members::Assigned,
        Membership::Rule(rule) => {
            let invalid = |rule: String, found: String| DecideError::Invalid { what: "rule", rule, found };
            rules::check(rule).map_err(|error| invalid("within the limits".to_owned(), error.to_string()))?;
            let bytes = serde_json::to_vec(rule).map_or(usize::MAX, |json| json.len());
            if bytes > RULE_BYTES_MAX {
                return Err(invalid(format!("at most {RULE_BYTES_MAX} bytes"), format!("{bytes} bytes")));
            }
            Members::Rule(rule.clone())
        }
    };
    let group = Group { id: id.clone(), priority, members, level: level.cloned() };
    let (_, sequence) = state.change(|model, change| {
        let before = model.policy().groups().get(id);
        if before.is_none() && model.policy().groups().len() >= GROUPS_MAX {
            return Err(DecideError::TooMany { what: "groups", max: GROUPS_MAX });
        }
        if let Some(level) = level.filter(|id| model.policy().documents().level(id).is_none()) {
            return Err(not_found("service level", level));
        }
        change.write(Write::Group(group.clone()));
        let (mut added, mut removed) = (0, 0);
        let wanted = match membership {
            Membership::Named(names) => names
                .iter()
                .map(|name| Ok(fleet::endpoint(model, name)?.number))
                .collect::<Result<BTreeSet<_>, DecideError>>()?,
            _ => BTreeSet::new(),
        };
        for endpoint in model.endpoints().filter(|endpoint| !endpoint.revoked) {
            let (is, shall) = (endpoint.groups.contains(id), wanted.contains(&endpoint.number));
            if is == shall {
                continue;
            }
            *if shall { &mut added } else { &mut removed } += 1;
            assign(change, endpoint, id, shall)?;
        }
        if let Members::Rule(_) = &group.members {
            evaluate(state, model, change, &group)?;
        } else if before.is_some_and(|before| matches!(before.members, Members::Rule(_))) {
            forget_rule(model, change, id);
        }
        let how = match &group.members {
            Members::Everyone => "everyone".to_owned(),
            Members::Site(site) => format!("site {site}"),
            Members::Tag(tag) => format!("tag {tag}"),
            Members::Rule(rule) => format!("rule {}", serde_json::to_string(rule).unwrap_or_default()),
            Members::Assigned => format!("{} named, {added} added, {removed} removed", wanted.len()),
        };
        let level = level.map(|level| format!(", level {level}")).unwrap_or_default();
        let detail = format!("priority {priority}{level}, {how}");
        change.audit(actor, "set group", format!("group:{id}"), detail);
        Ok(())
    })?;
    Ok(sequence)
}

fn assign(
    change: &mut Change,
    endpoint: &Arc<EndpointRecord>,
    group: &GroupId,
    shall: bool,
) -> Result<(), DecideError> {
    let mut record = EndpointRecord::clone(endpoint);
    record.groups.retain(|named| named != group);
    if shall {
        if record.groups.len() >= GROUPS_PER_ENDPOINT_MAX {
            let what = "groups that name one endpoint";
            return Err(DecideError::TooMany { what, max: GROUPS_PER_ENDPOINT_MAX });
        }
        record.groups.push(group.clone());
        record.groups.sort();
    }
    change.write(Write::Endpoint(Arc::new(record)));
    Ok(())
}

/// Puts a group by rule into effect for the facts that are known.
fn evaluate(state: &State, model: &Model, change: &mut Change, group: &Group) -> Result<(), DecideError> {
    let mut policy = crate::policy::Policy::default();
    policy.set_group(group.clone());
    for endpoint in model.endpoints().filter(|endpoint| !endpoint.revoked && endpoint.facts.is_some()) {
        let Some(facts) = state.facts(endpoint.number)? else { continue };
        let shall = !rule_groups(&policy, &facts).is_empty();
        let is = endpoint.rule_groups.contains(&group.id);
        if is != shall {
            let mut record = EndpointRecord::clone(endpoint);
            record.rule_groups.retain(|id| *id != group.id);
            if shall && record.rule_groups.len() < GROUPS_PER_ENDPOINT_MAX {
                record.rule_groups.push(group.id.clone());
                record.rule_groups.sort();
            }
            change.write(Write::Endpoint(Arc::new(record)));
        }
    }
    Ok(())
}

fn forget_rule(model: &Model, change: &mut Change, group: &GroupId) {
    for endpoint in model.endpoints().filter(|endpoint| endpoint.rule_groups.contains(group)) {
        let mut record = EndpointRecord::clone(endpoint);
        record.rule_groups.retain(|id| id != group);
        change.write(Write::Endpoint(Arc::new(record)));
    }
}

/// Removes a group with everything that was decided for it. Returns the sequence of the audit record.
///
/// # Errors
///
/// [`DecideError::InUse`] while a rule approves for it; [`DecideError`].
pub fn delete_group(state: &State, id: &GroupId, actor: &str) -> Result<u64, DecideError> {
    let (_, sequence) = state.change(|model, change| {
        if !model.policy().groups().contains_key(id) {
            return Err(not_found("group", &id));
        }
        if let Some(by) = model.policy().user_of_group(id) {
            return Err(DecideError::InUse { what: "group", name: id.to_string(), by });
        }
        let mut decisions = 0;
        for approval in model.policy().approvals().filter(|approval| approval.group == *id) {
            decisions += 1;
            change.write(Write::NoApproval(id.clone(), approval.update.clone()));
        }
        for endpoint in model.endpoints().filter(|endpoint| endpoint.groups.contains(id)) {
            assign(change, endpoint, id, false)?;
        }
        forget_rule(model, change, id);
        change.write(Write::NoGroup(id.clone()));
        let detail = format!("with {decisions} decisions");
        change.audit(actor, "delete group", format!("group:{id}"), detail);
        Ok(())
    })?;
    Ok(sequence)
}

/// Gives tags to an endpoint, by name or id, and takes others from it. Returns the sequence of the audit record.
///
/// # Errors
///
/// [`DecideError`]; then nothing is changed.
pub fn tag(
    state: &State,
    name_or_id: &str,
    add: &[TagId],
    remove: &[TagId],
    actor: &str,
) -> Result<u64, DecideError> {
    let (_, sequence) = state.change(|model, change| {
        let mut record = EndpointRecord::clone(fleet::endpoint_exactly(model, name_or_id)?);
        record.tags.retain(|tag| !remove.contains(tag));
        record.tags.extend(add.iter().cloned());
        record.tags.sort();
        record.tags.dedup();
        if record.tags.len() > TAGS_PER_ENDPOINT_MAX {
            return Err(DecideError::TooMany { what: "tags of one endpoint", max: TAGS_PER_ENDPOINT_MAX });
        }
        let words = add.iter().map(|tag| format!("+{tag}"));
        let words: Vec<_> = words.chain(remove.iter().map(|tag| format!("-{tag}"))).collect();
        change.audit(actor, "tag", format!("endpoint:{}", record.id), words.join(" "));
        change.write(Write::Endpoint(Arc::new(record)));
        Ok(())
    })?;
    Ok(sequence)
}
