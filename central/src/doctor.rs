//! `tierway-central doctor`: looks at an installation and says what to do.

use std::{net::ToSocketAddrs, path::Path, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use tierway_common::{
    clock::Clock,
    daemon::chain::Chain,
    store::{Store, StoreError, sled_store::SledStore},
    transport::tls::{Identity, IdentityFiles},
    trust::keys::SigningKey,
};

use crate::{audit, config::Config, init, layout::Layout, roots, sources::Source};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Good,
    /// Works, and should be changed.
    Warning,
    /// Does not work.
    Failure,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad.
    pub level: Level,
    /// What, as a sentence without a period.
    pub text: String,
}

/// Warns when something ends within this time.
const SOON: SignedDuration = SignedDuration::from_hours(24 * 60);
/// Central renews its own certificate after a third of its life; below this it did not.
const IDENTITY_SOON: SignedDuration = SignedDuration::from_hours(24 * 20);

fn good(text: impl Into<String>) -> Finding {
    Finding { level: Level::Good, text: text.into() }
}

fn warning(text: impl Into<String>) -> Finding {
    Finding { level: Level::Warning, text: text.into() }
}

fn failure(text: impl Into<String>) -> Finding {
    Finding { level: Level::Failure, text: text.into() }
}

/// Looks at everything that can be seen without changing it.
#[must_use]
pub fn examine(config: &Config, clock: &Clock) -> Vec<Finding> {
    let layout = Layout::new(&config.data_dir);
    let now = clock.now();
    let mut findings = authority(&layout, now);
    findings.extend([online_key(&layout), trust_root(&layout, now)]);
    findings.push(identity(&layout, now));
    findings.extend(operator(&layout, now));
    findings.push(offline(&layout));
    findings.extend(store(config, &layout, clock));
    findings.push(disk(&config.data_dir, config.disk_free_bytes_min));
    findings.push(address(config));
    findings.extend(sources(config, &layout));
    findings
}

fn authority(layout: &Layout, now: Timestamp) -> Vec<Finding> {
    match init::authority(layout) {
        Ok(authority) => {
            let mut findings =
                vec![good(format!("the certification authority is {}", authority.root_digest()))];
            for (what, end) in authority.ends() {
                findings.push(match end {
                    Some(end) => until(what, end, now, SOON),
                    None => failure(format!("{what} cannot be read")),
                });
            }
            findings
        }
        Err(error) => vec![failure(Chain(&error).to_string())],
    }
}

fn online_key(layout: &Layout) -> Finding {
    match SigningKey::load(&layout.online_key()) {
        Ok(key) => good(format!("what is published is signed by {}", key.public())),
        Err(error) => failure(Chain(&error).to_string()),
    }
}

fn trust_root(layout: &Layout, now: Timestamp) -> Finding {
    match roots::newest(layout) {
        Err(error) => failure(Chain(&error).to_string()),
        Ok((version, _, expires)) => {
            let mut finding = until(&format!("version {version} of the root of trust"), expires, now, SOON);
            if finding.level != Level::Good {
                finding.text += ": bring its key back for `tierway-central root extend`";
            }
            finding
        }
    }
}

fn identity(layout: &Layout, now: Timestamp) -> Finding {
    match Identity::load(&IdentityFiles::in_dir(&layout.identity())) {
        Ok(identity) => until("central's certificate", identity.own().not_after, now, IDENTITY_SOON),
        Err(error) => failure(Chain(&error).to_string()),
    }
}

/// The first operator, as long as he is kept here.
fn operator(layout: &Layout, now: Timestamp) -> Option<Finding> {
    let files = IdentityFiles::in_dir(&layout.operator());
    if !files.identity.exists() {
        return None;
    }
    Some(match Identity::load(&files) {
        Ok(identity) => until("the first operator's certificate", identity.own().not_after, now, SOON),
        Err(error) => failure(Chain(&error).to_string()),
    })
}

fn until(what: &str, end: Timestamp, now: Timestamp, soon: SignedDuration) -> Finding {
    let left = end.duration_since(now);
    if left.is_negative() {
        failure(format!("{what} expired at {end}: check this machine's clock, it shows {now}"))
    } else if left < soon {
        warning(format!("{what} ends soon, at {end}"))
    } else {
        good(format!("{what} is valid until {end}"))
    }
}

fn offline(layout: &Layout) -> Finding {
    let here: Vec<_> =
        [layout.root_key(), layout.trust_root_key()].into_iter().filter(|path| path.exists()).collect();
    if here.is_empty() {
        return good("the root keys are not on this machine");
    }
    warning(format!("the root keys are still in `{}`: move them to a safe place", layout.offline().display()))
}

fn store(config: &Config, layout: &Layout, clock: &Clock) -> Vec<Finding> {
    if !layout.store().exists() {
        return vec![failure(format!(
            "`{}` is not there: run `tierway-central init` first",
            layout.store().display()
        ))];
    }
    let store: Arc<dyn Store> = match SledStore::open(&layout.store()) {
        Ok(store) => Arc::new(store),
        Err(StoreError::Busy { .. }) => {
            return vec![good("central is running; ask it with `tierctl status` and `tierctl task list`")];
        }
        Err(error) => return vec![failure(Chain(&error).to_string())],
    };
    let mut findings = Vec::new();
    match crate::state::State::open(config.tenant.clone(), store.clone(), clock.clone()) {
        Ok(state) => findings.push(good(format!(
            "the store holds {} endpoints and {} updates in {} bytes",
            state.model().active().len(),
            state.model().updates().count(),
            store.disk_bytes()
        ))),
        Err(error) => findings.push(failure(Chain(&error).to_string())),
    }
    findings.push(match audit::verify(store.as_ref(), &config.tenant) {
        Ok(audit::Verified { broken: Some(broken), .. }) => {
            failure(format!("the audit log is broken: {broken}"))
        }
        Ok(audit::Verified { records, .. }) => good(format!("the audit log's {records} records are whole")),
        Err(error) => failure(Chain(&error).to_string()),
    });
    findings
}

fn disk(dir: &Path, free_floor_bytes: u64) -> Finding {
    match rustix::fs::statvfs(dir) {
        Err(error) => failure(format!("could not ask how full `{}` is: {error}", dir.display())),
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let text = format!("{free} bytes are free in `{}`", dir.display());
            if free < free_floor_bytes {
                failure(format!("{text}, less than `disk_free_bytes_min`"))
            } else {
                good(text)
            }
        }
    }
}

fn address(config: &Config) -> Finding {
    let address = &config.public_address;
    match address.to_socket_addrs().map(|mut found| found.next()) {
        Ok(Some(_)) => good(format!("other machines find central at `{address}`")),
        Ok(None) | Err(_) => warning(format!(
            "`{address}` cannot be resolved here: set `public_address` to what other machines can reach"
        )),
    }
}

fn sources(config: &Config, layout: &Layout) -> Vec<Finding> {
    if config.sources.is_empty() {
        return vec![warning("no source is configured: central will have no updates")];
    }
    config
        .sources
        .iter()
        .map(|source| match Source::new(source.clone(), &layout.cache()) {
            Ok(_) => good(format!("source `{}` can be read", source.name())),
            Err(error) => failure(Chain(&error).to_string()),
        })
        .collect()
}
