//! What is published, as one site has it: brought over through its relay and verified by the endpoint's own code, once for
//! all computers of the site with the same system. What each of them must fetch besides, it is told from here: the same
//! metadata and tree nodes, which it fetches for itself and hashes.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use tierway_common::{
    facts::Facts,
    id::{TenantId, UpdateId},
    rules::Verdict,
    schema::{Approval, Decision, Group, Payload},
    trust::digest::Digest,
};
use tierway_endpoint::{catalogues::Catalogues, policy, rules::Roots};
use tierway_proto::{metadata::came_along, upstream::Upstream, v1};
use tokio::sync::Mutex;

use super::failure::{Failure, failed};

/// States of the catalogues that are remembered; who is further behind fetches everything.
const STEPS_MAX: usize = 1_000;

/// What one endpoint must fetch to have what is published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Version of the timestamp it will trust then.
    pub version: u64,
    /// Version of the targets it will trust then.
    pub targets_version: u64,
    /// Metadata by role and version that did not come along; a root that is not there yet is asked for too.
    pub metadata: Vec<(&'static str, u64)>,
    /// Nodes of trees.
    pub nodes: Vec<Digest>,
}

/// What is decided for everybody, by update.
pub type Approved = BTreeMap<UpdateId, Timestamp>;
/// Which rules there are: a number that grows with each change of them.
pub type Rules = u64;

/// One site and system.
#[derive(Debug)]
pub struct Published {
    os: Facts,
    dir: PathBuf,
    trust_dir: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    catalogues: Catalogues,
    /// What was brought over last,
    timestamp: Vec<u8>,
    /// and by which metadata.
    metadata: Vec<(&'static str, u64)>,
    known: BTreeSet<Digest>,
    /// Which nodes came with which version, oldest first.
    steps: Vec<(u64, Vec<Digest>)>,
    approved: Arc<Approved>,
    /// Of which catalogues the rules are, by their roots,
    roots: Roots,
    /// and which they are.
    rules: Rules,
    payloads: BTreeMap<UpdateId, Vec<Payload>>,
}

impl Published {
    /// Nothing yet; `upstream` and `trust_dir` are of one computer of the site, `os` is what all of them run.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn open(
        dir: &Path,
        trust_dir: &Path,
        tenant: &TenantId,
        upstream: Upstream,
        os: Facts,
    ) -> Result<Self, Failure> {
        let catalogues = Catalogues::open(dir, trust_dir, tenant, upstream, 0);
        let inner = Inner {
            catalogues: catalogues.map_err(failed("open the catalogues of a site"))?,
            timestamp: Vec::new(),
            metadata: Vec::new(),
            known: BTreeSet::new(),
            steps: Vec::new(),
            approved: Arc::default(),
            roots: Roots::new(),
            rules: 0,
            payloads: BTreeMap::new(),
        };
        let (dir, trust_dir) = (dir.to_owned(), trust_dir.to_owned());
        Ok(Self { os, dir, trust_dir, inner: Mutex::new(inner) })
    }

    /// Brings over what the answer to a check-in announces unless it is here, and says what one who has version `from`
    /// must fetch.
    ///
    /// # Errors
    ///
    /// [`Failure`] when it is not to be had or not to be trusted.
    pub async fn bring(
        &self,
        answer: &v1::CheckInResponse,
        from: u64,
        now: Timestamp,
    ) -> Result<Wanted, Failure> {
        let mut inner = self.inner.lock().await;
        // What one computer of the site has verified holds for all of them.
        let new = answer.timestamp.as_ref().filter(|timestamp| **timestamp != inner.timestamp);
        if let Some(timestamp) = new {
            let before = inner.catalogues.version();
            let refreshed = inner.catalogues.refresh(answer, &self.os, now).await;
            // An older one than is here is no news, and refused.
            if before == 0 || inner.catalogues.version() > before {
                refreshed.map_err(failed("bring over what is published"))?;
                self.read(&mut inner).await?;
                inner.timestamp.clone_from(timestamp);
            }
        }
        let nodes = inner.steps.iter().filter(|(step, _)| *step > from).flat_map(|(_, nodes)| nodes.clone());
        let came = |(role, version): &(&str, u64)| came_along(answer, role, *version).is_some();
        Ok(Wanted {
            version: inner.catalogues.version(),
            targets_version: inner.catalogues.targets_version(),
            metadata: inner.metadata.iter().filter(|metadata| !came(metadata)).copied().collect(),
            nodes: nodes.collect(),
        })
    }

    async fn read(&self, inner: &mut Inner) -> Result<(), Failure> {
        const WHAT: &str = "read what is published";
        let roots = inner.catalogues.rules(&self.os).map_err(failed(WHAT))?.roots().clone();
        if inner.roots != roots {
            (inner.roots, inner.rules) = (roots, inner.rules + 1);
        }
        let lookup = inner.catalogues.lookup();
        let groups = lookup.policy("group/").await.map_err(failed(WHAT))?;
        let groups: Vec<Group> = groups.iter().filter_map(|(_, json)| read(json)).collect();
        let site = "everywhere".parse().map_err(failed("name a site"))?;
        let (memberships, _) = policy::memberships(None, &site, &groups, &self.os);
        let mut approvals: BTreeMap<UpdateId, Vec<Approval>> = BTreeMap::new();
        for (_, json) in lookup.policy("approval/").await.map_err(failed(WHAT))? {
            let approval: Option<Approval> = read(&json);
            if let Some(approval) = approval {
                approvals.entry(approval.update.clone()).or_default().push(approval);
            }
        }
        let mut approved = Approved::new();
        for (update, approvals) in approvals {
            let effective = policy::effective(&memberships, &approvals);
            if let Some(effective) = effective.filter(|effective| effective.decision == Decision::Approve) {
                approved.insert(update, effective.at);
            }
        }
        inner.approved = approved.into();
        let all = [self.dir.join("trees"), self.dir.join("paths")];
        let all: BTreeSet<Digest> = all.iter().flat_map(|dir| blobs(dir)).collect();
        let fresh = all.difference(&inner.known).copied().collect();
        inner.known = all;
        inner.metadata = vec![("root", version_of(&self.trust_dir, "root")? + 1)];
        for role in ["snapshot", "targets"] {
            inner.metadata.push((role, version_of(&self.trust_dir, role)?));
        }
        let version = inner.catalogues.version();
        inner.steps.push((version, fresh));
        if inner.steps.len() > STEPS_MAX {
            let (_, first) = inner.steps.remove(0);
            if let Some((_, next)) = inner.steps.first_mut() {
                next.extend(first);
            }
        }
        Ok(())
    }

    /// Which rules there are, and which updates are approved.
    pub async fn decided(&self) -> (Rules, Arc<Approved>) {
        let inner = self.inner.lock().await;
        (inner.rules, inner.approved.clone())
    }

    /// Where each update stands on a computer with these facts.
    ///
    /// # Errors
    ///
    /// [`Failure`] before anything was brought over.
    pub async fn evaluate(&self, facts: &Facts) -> Result<BTreeMap<UpdateId, Verdict>, Failure> {
        let mut inner = self.inner.lock().await;
        let rules = inner.catalogues.rules(&self.os).map_err(failed("take up the rules"))?;
        Ok(rules.compiled.verdicts(&rules.compiled.scan(facts), facts).collect())
    }

    /// What an update must fetch.
    ///
    /// # Errors
    ///
    /// [`Failure`] when its document cannot be read.
    pub async fn payloads(&self, update: &UpdateId) -> Result<Vec<Payload>, Failure> {
        let mut inner = self.inner.lock().await;
        if let Some(payloads) = inner.payloads.get(update) {
            return Ok(payloads.clone());
        }
        let document = inner.catalogues.update(update).map_err(failed(format!("read `{update}`")))?;
        let document = document.ok_or_else(|| Failure::plain(format!("`{update}` is not published")))?;
        let payloads: Vec<Payload> =
            document.install.payloads().into_iter().map(|(_, payload)| payload).collect();
        inner.payloads.insert(update.clone(), payloads.clone());
        Ok(payloads)
    }
}

fn read<T: serde::de::DeserializeOwned>(json: &[u8]) -> Option<T> {
    serde_json::from_slice(json).ok()
}

/// Digests of the blobs below `dir`, which are named by them.
fn blobs(dir: &Path) -> Vec<Digest> {
    let folders = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let folders = folders.filter(|folder| folder.file_name().len() == 2);
    let files = folders.flat_map(|folder| std::fs::read_dir(folder.path()).into_iter().flatten().flatten());
    files.filter_map(|file| file.file_name().to_str()?.parse().ok()).collect()
}

/// The version of a role's metadata as the client keeps it.
fn version_of(trust_dir: &Path, role: &str) -> Result<u64, Failure> {
    let path = trust_dir.join(format!("{role}.json"));
    let bytes = std::fs::read(&path).map_err(failed(format!("read `{}`", path.display())))?;
    let json: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(failed(format!("read `{}`", path.display())))?;
    json["signed"]["version"]
        .as_u64()
        .ok_or_else(|| Failure::plain(format!("`{}` has no version", path.display())))
}
