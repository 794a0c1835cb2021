//! From revisions to documents: rules with what they depend on, bundles with their parts, and who replaces whom.
//!
//! An update is offered when it is not installed, not superseded, installable, and its prerequisites are met. A
//! prerequisite's own rule is copied into the rule, so that one document is enough to decide; a part's too.
//! What refers to something that is not in the catalogue cannot be decided and says so; only supersedence may
//! refer to what is gone.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use tierway_common::{
    id::{CatalogueId, IdError, UpdateId},
    rules::{
        self,
        expr::{Expr, UnknownTest},
        limits::LimitError,
    },
    schema::{
        ExitCode, ExitResult, Handler, Impact, Install, Part, RebootBehavior, Update, UpdateClass,
        WindowsInstall, policy::Meaning,
    },
};

use super::model::{self, Group, Guid, Kind, Revision};

/// Names of Microsoft's classifications; the same on every server.
const CLASSIFICATIONS: [(&str, UpdateClass); 9] = [
    ("0fa1201d-4330-4fa8-8ae9-b877473b6441", UpdateClass::Security),
    ("e6cf1350-c01b-414d-a61f-263d14d133b4", UpdateClass::Critical),
    ("cd5ffd1e-e932-4e3a-bf74-18bf0b1bbd83", UpdateClass::Update),
    ("28bc880e-0592-4cbf-8f95-c79b17911d5f", UpdateClass::Rollup),
    ("68c5b0a3-d1a6-4553-ae49-01d3a7827828", UpdateClass::ServicePack),
    ("b54e7d24-7add-428f-8b75-90a396fa584f", UpdateClass::Feature),
    ("3689bdc8-b205-4af4-8d4a-a63924c5e9d5", UpdateClass::Feature),
    ("e0789628-ce08-4437-be74-2495b842f43b", UpdateClass::Definition),
    ("b4832bd8-e735-4761-8daf-37f882276dab", UpdateClass::Application),
];

/// Most nodes that prerequisites bring into one rule; Microsoft's come to some two hundred.
pub const PREREQUISITE_NODES_MAX: usize = 2000;

/// Longest chain of prerequisites of prerequisites; Microsoft's are up to 6 long.
const CHAIN_MAX: usize = 32;

/// Updates by name, of each its highest revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revisions(BTreeMap<Guid, Revision>);

impl Revisions {
    /// Adds a revision, unless a higher one is there.
    pub fn add(&mut self, revision: Revision) {
        let id = revision.identity.id.clone();
        let higher =
            self.0.get(&id).is_some_and(|known| known.identity.revision > revision.identity.revision);
        if !higher {
            self.0.insert(id, revision);
        }
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, id: &Guid) -> Option<&Revision> {
        self.0.get(id)
    }

    /// One of them, to be completed.
    pub fn get_mut(&mut self, id: &Guid) -> Option<&mut Revision> {
        self.0.get_mut(id)
    }

    /// All, ascending by name.
    pub fn iter(&self) -> impl Iterator<Item = &Revision> {
        self.0.values()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Documents of a catalogue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lowered {
    /// By id.
    pub updates: BTreeMap<UpdateId, Update>,
    /// Updates that make no document although they are to be installed, with the reason.
    pub left_out: BTreeMap<Guid, String>,
}

/// An update that makes no document.
#[derive(Debug, thiserror::Error)]
enum LowerError {
    #[error("it has too big a rule: {0}")]
    Rule(#[from] LimitError),
    #[error("it cannot be named: {0}")]
    Id(#[from] IdError),
}

/// Documents of everything that is to be installed by itself: parts come with their bundles, categories and
/// detectoids in the rules that need them, what the vendor withdrew not at all. `released` stands in where
/// the vendor gives no date.
#[must_use]
pub fn lower(
    catalogue: &CatalogueId,
    revisions: &Revisions,
    released: &dyn Fn(&UpdateId) -> Timestamp,
) -> Lowered {
    let mut lowering = Lowering { revisions, met: BTreeMap::new() };
    let parts: BTreeSet<&Guid> = revisions
        .iter()
        .flat_map(|revision| revision.bundled.iter().flatten())
        .map(|part| &part.id)
        .collect();
    let mut lowered = Lowered::default();
    for revision in revisions.iter() {
        let id = &revision.identity.id;
        if revision.kind != Kind::Software || revision.expired || parts.contains(id) {
            continue;
        }
        match lowering.update(catalogue, revision, released) {
            Ok(update) => {
                lowered.updates.insert(update.id.clone(), update);
            }
            Err(error) => {
                lowered.left_out.insert(id.clone(), error.to_string());
            }
        }
    }
    supersede(catalogue, revisions, &mut lowered);
    lowered
}

fn update_id(catalogue: &CatalogueId, id: &Guid) -> Result<UpdateId, IdError> {
    format!("{catalogue}/{id}").parse()
}

/// Tells both ends of each supersedence whose ends are both there.
fn supersede(catalogue: &CatalogueId, revisions: &Revisions, lowered: &mut Lowered) {
    let mut pairs = BTreeSet::new();
    for newer in revisions.iter() {
        let Ok(newer_id) = update_id(catalogue, &newer.identity.id) else { continue };
        for older in &newer.supersedes {
            let Ok(older_id) = update_id(catalogue, older) else { continue };
            if newer_id != older_id
                && [&newer_id, &older_id].iter().all(|id| lowered.updates.contains_key(*id))
            {
                pairs.insert((newer_id.clone(), older_id));
            }
        }
    }
    for (newer, older) in pairs {
        if let Some(update) = lowered.updates.get_mut(&newer) {
            update.supersedes.push(older.clone());
        }
        if let Some(update) = lowered.updates.get_mut(&older) {
            update.superseded_by.push(newer);
        }
    }
}

/// The two rules of an update or a part.
#[derive(Clone)]
struct Both {
    applicable: Expr,
    installed: Expr,
}

struct Lowering<'a> {
    revisions: &'a Revisions,
    /// When each update counts as installed with all that it depends on; nothing while that is being found out.
    met: BTreeMap<Guid, Option<Expr>>,
}

impl Lowering<'_> {
    fn update(
        &mut self,
        catalogue: &CatalogueId,
        revision: &Revision,
        released: &dyn Fn(&UpdateId) -> Timestamp,
    ) -> Result<Update, LowerError> {
        let id = update_id(catalogue, &revision.identity.id)?;
        let (both, install) = if revision.bundled.is_empty() {
            (self.single(revision, 0), Install::Windows(Box::new(install_of(revision))))
        } else {
            self.bundle(revision)
        };
        for rule in [&both.applicable, &both.installed] {
            rules::check(rule)?;
        }
        let title = if revision.title.is_empty() { id.name() } else { &revision.title };
        Ok(Update {
            title: title.to_owned(),
            product: revision.product.clone().unwrap_or_else(|| "Windows".to_owned()),
            version: revision.version.clone().unwrap_or_else(|| revision.identity.revision.to_string()),
            severity: revision.severity,
            class: class_of(revision, self.revisions),
            released: revision.created.unwrap_or_else(|| released(&id)),
            references: revision.references.clone(),
            applicable: both.applicable,
            installed: both.installed,
            supersedes: Vec::new(),
            superseded_by: Vec::new(),
            result_codes: result_codes(&install),
            install,
            id,
        })
    }

    /// The rules of an update that is no bundle.
    fn single(&mut self, revision: &Revision, chain: usize) -> Both {
        let rules = revision.rules.clone();
        let installed = rules.installed.unwrap_or(Expr::Const(false));
        let superseded = rules.superseded.unwrap_or(Expr::Const(false));
        let installable = rules.installable.unwrap_or(Expr::Const(false));
        let offered = any(vec![installed.clone(), all(vec![installable, not(superseded)])]);
        let mut parts = self.prerequisites(revision, chain);
        parts.push(offered);
        Both { applicable: all(parts), installed }
    }

    /// A bundle: installed when each of its groups has an installed part and no part is missing, installable
    /// when some part is.
    fn bundle(&mut self, revision: &Revision) -> (Both, Install) {
        let mut parts = Vec::new();
        let mut groups = Vec::new();
        let mut needed = Vec::new();
        let mut applicable_parts = Vec::new();
        for group in &revision.bundled {
            let mut installed = Vec::new();
            for part in group {
                let Some(found) = self.revisions.get(&part.id) else {
                    let missing = unknown(format!("the part `{}` is not in the catalogue", part.id));
                    installed.push(missing.clone());
                    needed.push(missing.clone());
                    applicable_parts.push(missing);
                    continue;
                };
                let both = self.single(found, 0);
                installed.push(all(vec![both.applicable.clone(), both.installed.clone()]));
                needed.push(all(vec![both.applicable.clone(), not(both.installed.clone())]));
                applicable_parts.push(both.applicable.clone());
                parts.push(Part {
                    name: part.id.to_string(),
                    applicable: both.applicable,
                    installed: both.installed,
                    install: install_of(found),
                });
            }
            groups.push(any(installed));
        }
        let needed = any(needed);
        groups.push(not(needed.clone()));
        let installed = all(groups);
        let own = all(vec![
            revision.rules.installable.clone().unwrap_or(Expr::Const(true)),
            not(revision.rules.superseded.clone().unwrap_or(Expr::Const(false))),
        ]);
        let mut exact = self.prerequisites(revision, 0);
        let before = exact.clone();
        exact.push(any(vec![installed.clone(), all(vec![own.clone(), needed.clone()])]));
        let mut both = Both { applicable: all(exact), installed };
        if [&both.applicable, &both.installed].iter().any(|rule| rules::check(rule).is_err()) {
            // Of many parts: that some part matters here, and that none is missing. It differs only where a
            // whole group matters to nobody.
            let mut some = before;
            some.extend([own, any(applicable_parts)]);
            both = Both { applicable: all(some), installed: not(needed) };
        }
        (both, Install::Bundle { parts })
    }

    /// What must hold before an update is looked at.
    fn prerequisites(&mut self, revision: &Revision, chain: usize) -> Vec<Expr> {
        let groups: Vec<Expr> = revision
            .prerequisites
            .iter()
            .map(|Group { any: ids, .. }| any(ids.iter().map(|id| self.met(id, chain)).collect()))
            .collect();
        let whole = all(groups);
        if nodes(&whole) > PREREQUISITE_NODES_MAX {
            return vec![unknown("its prerequisites are too many to be asked".to_owned())];
        }
        vec![whole]
    }

    /// That an update that others depend on is installed, and what it depends on itself. A category without a
    /// rule says only what an update belongs to.
    fn met(&mut self, id: &Guid, chain: usize) -> Expr {
        match self.met.get(id) {
            Some(Some(known)) => return known.clone(),
            Some(None) => return unknown("its prerequisites go round in circles".to_owned()),
            None => {}
        }
        let Some(revision) = self.revisions.get(id) else {
            return unknown(format!("the prerequisite `{id}` is not in the catalogue"));
        };
        if chain >= CHAIN_MAX {
            return unknown("its prerequisites depend on too many others".to_owned());
        }
        self.met.insert(id.clone(), None);
        let own = match (&revision.rules.installed, revision.kind) {
            (Some(rule), _) => rule.clone(),
            (None, Kind::Category) => Expr::Const(true),
            (None, _) => Expr::Const(false),
        };
        let mut parts = self.prerequisites(revision, chain + 1);
        parts.push(own);
        let mut met = all(parts);
        if nodes(&met) > PREREQUISITE_NODES_MAX {
            met = unknown(format!("the rule of the prerequisite `{id}` is too big"));
        }
        self.met.insert(id.clone(), Some(met.clone()));
        met
    }
}

/// What an update is for: what it says itself, or else the classification that it belongs to, by its name or by
/// its title in the catalogue.
fn class_of(revision: &Revision, revisions: &Revisions) -> UpdateClass {
    let of = |id: &Guid| {
        let known = CLASSIFICATIONS.iter().find(|(name, _)| *name == id.as_str()).map(|(_, class)| *class);
        let category = || revisions.get(id).filter(|found| found.kind == Kind::Category);
        known.or_else(|| model::class(&category()?.title))
    };
    let belongs = || revision.prerequisites.iter().flat_map(|group| &group.any).find_map(of);
    revision.class.or_else(belongs).unwrap_or(UpdateClass::Update)
}

/// What the exit codes of an update's one program mean.
fn result_codes(install: &Install) -> BTreeMap<i64, Meaning> {
    let codes: &[ExitCode] = match install {
        Install::Windows(install) => match &install.handler {
            Handler::CommandLine(command) => &command.exit_codes,
            Handler::Msi { exit_codes, .. } => exit_codes,
            Handler::Msp { .. } | Handler::Cbs { .. } | Handler::Described { .. } => &[],
        },
        Install::Deb { .. } | Install::Bundle { .. } => &[],
    };
    let meaning = |code: &ExitCode| match (code.result, code.reboot) {
        (ExitResult::Succeeded, false) => Meaning::Success,
        (ExitResult::Succeeded, true) => Meaning::SuccessRebootRequired,
        (ExitResult::Cancelled, _) => Meaning::Cancelled,
        (ExitResult::Failed, _) => Meaning::Failure,
    };
    codes.iter().map(|code| (i64::from(code.code), meaning(code))).collect()
}

/// How an update is installed, as far as it says.
fn install_of(revision: &Revision) -> WindowsInstall {
    revision.install.clone().unwrap_or_else(|| WindowsInstall {
        handler: Handler::Described {
            name: "none".to_owned(),
            reason: "it says nothing about how it is installed".to_owned(),
        },
        files: Vec::new(),
        reboot: RebootBehavior::default(),
        impact: Impact::default(),
        asks_user: false,
        needs_network: false,
    })
}

fn unknown(reason: String) -> Expr {
    Expr::Unknown(UnknownTest { reason })
}

/// The conjunction, without what is true anyway.
fn all(parts: Vec<Expr>) -> Expr {
    let mut kept: Vec<Expr> = Vec::with_capacity(parts.len());
    for part in parts {
        match part {
            Expr::Const(true) => {}
            Expr::Const(false) => return Expr::Const(false),
            Expr::All(inner) => kept.extend(inner),
            other => kept.push(other),
        }
    }
    match kept.len() {
        0 => Expr::Const(true),
        1 => kept.remove(0),
        _ => Expr::All(kept),
    }
}

/// The disjunction, without what is false anyway.
fn any(parts: Vec<Expr>) -> Expr {
    let mut kept: Vec<Expr> = Vec::with_capacity(parts.len());
    for part in parts {
        match part {
            Expr::Const(false) => {}
            Expr::Const(true) => return Expr::Const(true),
            Expr::Any(inner) => kept.extend(inner),
            other => kept.push(other),
        }
    }
    match kept.len() {
        0 => Expr::Const(false),
        1 => kept.remove(0),
        _ => Expr::Any(kept),
    }
}

fn not(part: Expr) -> Expr {
    match part {
        Expr::Const(value) => Expr::Const(!value),
        Expr::Not(inner) => *inner,
        other => Expr::Not(Box::new(other)),
    }
}

fn nodes(expr: &Expr) -> usize {
    let mut count = 0;
    let mut rest = vec![expr];
    while let Some(expr) = rest.pop() {
        count += 1;
        match expr {
            Expr::All(parts) | Expr::Any(parts) => rest.extend(parts),
            Expr::Not(part) => rest.push(part),
            _ => {}
        }
    }
    count
}

#[cfg(test)]
mod tests;
