//! Who is treated alike: groups, and the tags by which endpoints come into them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tierway_common::{
    facts::Facts,
    id::{GroupId, LevelId, SiteId, TagId},
    rules::{
        self,
        evaluate::{Truth, evaluate},
        expr::Expr,
    },
    schema::{Group, Members},
    trust::digest::Digest,
};

use super::{DecideError, not_found};
use crate::{
    fleet::{self, AskError},
    model::Write,
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
    /// These, by id or whole name.
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
    let named: BTreeSet<u32> = match membership {
        Membership::Named(names) => names
            .iter()
            .map(|name| Ok(fleet::endpoint_exactly(&state.model(), name)?.number))
            .collect::<Result<_, AskError>>()?,
        _ => BTreeSet::new(),
    };
    // Before the writer is asked for, so that reports go on meanwhile.
    let found = evaluated(state, &group)?;
    let (_, sequence) = state.change(|model, change| {
        if !model.policy().groups().contains_key(id) && model.policy().groups().len() >= GROUPS_MAX {
            return Err(DecideError::TooMany { what: "groups", max: GROUPS_MAX });
        }
        if let Some(level) = level.filter(|id| model.policy().documents().level(id).is_none()) {
            return Err(not_found("service level", level));
        }
        change.write(Write::Group(group.clone()));
        let (mut added, mut removed) = (0, 0);
        for endpoint in model.endpoints() {
            let is = endpoint.groups.contains(id);
            let shall = if endpoint.revoked { is } else { named.contains(&endpoint.number) };
            *if shall { &mut added } else { &mut removed } += u32::from(is != shall);
            let by_rule = by_rule(state, &group, endpoint, &found)?;
            belong(change, endpoint, id, shall, by_rule)?;
        }
        let how = match &group.members {
            Members::Everyone => "everyone".to_owned(),
            Members::Site(site) => format!("site {site}"),
            Members::Tag(tag) => format!("tag {tag}"),
            Members::Rule(rule) => format!("rule {}", serde_json::to_string(rule).unwrap_or_default()),
            Members::Assigned => format!("{} named, {added} added, {removed} removed", named.len()),
        };
        let level = level.map(|level| format!(", level {level}")).unwrap_or_default();
        let detail = format!("priority {priority}{level}, {how}");
        change.audit(actor, "set group", format!("group:{id}"), detail);
        Ok(())
    })?;
    Ok(sequence)
}

/// Writes an endpoint once when a group shall name it, or its rule be true for it, other than until now.
fn belong(
    change: &mut Change,
    endpoint: &Arc<EndpointRecord>,
    group: &GroupId,
    named: bool,
    by_rule: bool,
) -> Result<(), DecideError> {
    let as_before = |groups: &[GroupId], shall| groups.contains(group) == shall;
    if as_before(&endpoint.groups, named) && as_before(&endpoint.rule_groups, by_rule) {
        return Ok(());
    }
    let mut record = EndpointRecord::clone(endpoint);
    if named && !endpoint.groups.contains(group) && endpoint.groups.len() >= GROUPS_PER_ENDPOINT_MAX {
        let what = "groups that name one endpoint";
        return Err(DecideError::TooMany { what, max: GROUPS_PER_ENDPOINT_MAX });
    }
    for (groups, shall) in [(&mut record.groups, named), (&mut record.rule_groups, by_rule)] {
        groups.retain(|id| id != group);
        if shall && groups.len() < GROUPS_PER_ENDPOINT_MAX {
            groups.push(group.clone());
            groups.sort();
        }
    }
    change.write(Write::Endpoint(Arc::new(record)));
    Ok(())
}

/// Of every active endpoint whose facts are known their digest, and whether the rule of the group is true for
/// them; nothing for a group that has none.
fn evaluated(state: &State, group: &Group) -> Result<BTreeMap<u32, (Digest, bool)>, DecideError> {
    let mut found = BTreeMap::new();
    if !matches!(group.members, Members::Rule(_)) {
        return Ok(found);
    }
    let known: Vec<_> = {
        let model = state.model();
        let active = model.endpoints().filter(|endpoint| !endpoint.revoked);
        active.filter_map(|endpoint| Some((endpoint.number, endpoint.facts.as_ref()?.digest))).collect()
    };
    for (number, digest) in known {
        // What is reported meanwhile has another digest, and is looked at again.
        if let Some(facts) = state.facts(number)? {
            found.insert(number, (digest, is_true(group, &facts)));
        }
    }
    Ok(found)
}

/// Whether the rule of a group is true for an endpoint, as [`evaluated`] found, or as its facts have been since.
fn by_rule(
    state: &State,
    group: &Group,
    endpoint: &EndpointRecord,
    found: &BTreeMap<u32, (Digest, bool)>,
) -> Result<bool, DecideError> {
    let Some(facts) = &endpoint.facts else { return Ok(false) };
    if endpoint.revoked || !matches!(group.members, Members::Rule(_)) {
        return Ok(false);
    }
    match found.get(&endpoint.number) {
        Some((digest, belongs)) if *digest == facts.digest => Ok(*belongs),
        _ => Ok(state.facts(endpoint.number)?.is_some_and(|facts| is_true(group, &facts))),
    }
}

fn is_true(group: &Group, facts: &Facts) -> bool {
    matches!(&group.members, Members::Rule(rule) if evaluate(rule, facts) == Truth::True)
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
        for endpoint in model.endpoints() {
            belong(change, endpoint, id, false, false)?;
        }
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
