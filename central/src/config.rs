//! Central's configuration: as written in the file, and as it runs.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use jiff::{civil::Time, tz::TimeZone};
use serde::Deserialize;
use tierway_common::{
    daemon::logging::Log,
    id::{CatalogueId, TenantId},
    transport::accept::Limits,
};

use crate::{
    enroll::RENEWAL_GRACE,
    sources::{
        SourceConfig,
        fetch::Retry,
        local,
        payloads::{CONCURRENCY, Options, Which},
    },
};

/// The configuration as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Where relays, endpoints and operators connect.
    pub listen: SocketAddr,
    /// Where the other machines find it, `host:port`; this machine's name and the port above when unset.
    pub public_address: Option<String>,
    /// Whose fleet this is.
    pub tenant: String,
    /// How often the sources are read.
    #[serde(with = "humantime_serde")]
    pub source_interval: Duration,
    /// How long after its end a certificate may be renewed with its key: a machine that was off for longer must
    /// enrol anew.
    #[serde(with = "humantime_serde")]
    pub renewal_grace: Duration,
    /// Bytes of payloads kept; the least recently used go first, wanted ones never.
    pub payload_bytes_max: u64,
    /// Bytes of catalogue trees kept; published ones never go.
    pub tree_bytes_max: u64,
    /// Bytes that stay free on the disk, whatever the above say.
    pub disk_free_bytes_min: u64,
    /// The daily download.
    pub download: Download,
    /// Where updates come from.
    pub source: Vec<SourceConfig>,
    /// Logging.
    pub log: Log,
}

/// The daily download of payloads, as written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Download {
    /// Off until somebody turns it on.
    pub enabled: bool,
    /// Time of day.
    pub at: Time,
    /// In this time zone, such as `Europe/Berlin`; the system's when unset.
    pub zone: Option<String>,
    /// Which payloads.
    pub what: Which,
    /// Payloads at once.
    pub concurrency: usize,
    /// Over all of them.
    pub bytes_per_second: Option<u64>,
    /// What nobody downloaded ahead is fetched when an endpoint asks for it.
    pub on_demand: bool,
}

impl Default for File {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/tierway-central"),
            listen: SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 0], 7443)),
            public_address: None,
            tenant: "default".to_owned(),
            source_interval: Duration::from_secs(60 * 60),
            renewal_grace: RENEWAL_GRACE,
            payload_bytes_max: 200 << 30,
            tree_bytes_max: 8 << 30,
            disk_free_bytes_min: 1 << 30,
            download: Download::default(),
            source: Vec::new(),
            log: Log::default(),
        }
    }
}

impl Default for Download {
    fn default() -> Self {
        Self {
            enabled: false,
            at: Time::constant(3, 0, 0, 0),
            zone: None,
            what: Which::Needed,
            concurrency: CONCURRENCY,
            bytes_per_second: None,
            on_demand: true,
        }
    }
}

/// The configuration as it runs: every part is valid.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where the other machines find it.
    pub public_address: String,
    /// Whose fleet this is.
    pub tenant: TenantId,
    /// How often the sources are read.
    pub source_interval: Duration,
    /// How long after its end a certificate may be renewed with its key.
    pub renewal_grace: Duration,
    /// Bytes of payloads.
    pub payload_bytes_max: u64,
    /// Bytes of trees.
    pub tree_bytes_max: u64,
    /// Bytes that stay free.
    pub disk_free_bytes_min: u64,
    /// Downloaded daily, unless an operator says otherwise.
    pub download_enabled: bool,
    /// When, likewise.
    pub download_at: Time,
    /// What, likewise.
    pub download_which: Which,
    /// In which zone.
    pub zone: TimeZone,
    /// How.
    pub download_options: Options,
    /// Also when asked for.
    pub on_demand: bool,
    /// Where updates come from.
    pub sources: Vec<SourceConfig>,
    /// The door's limits.
    pub limits: Limits,
}

/// A value in the file that cannot be.
#[derive(Debug, thiserror::Error)]
#[error("`{key}` must be {rule}, found `{found}`")]
pub struct ValueError {
    key: &'static str,
    rule: &'static str,
    found: String,
}

/// Shortest interval of sources: vendors ask not to be read more often.
const SOURCE_INTERVAL_MIN: Duration = Duration::from_secs(60);

impl Config {
    /// Checks what was written; `host` is this machine's name.
    ///
    /// # Errors
    ///
    /// [`ValueError`], naming the key.
    pub fn new(file: File, host: &str) -> Result<Self, ValueError> {
        let error = |key, rule, found| ValueError { key, rule, found };
        let tenant = file.tenant.parse().map_err(|_| error("tenant", "a short name", file.tenant))?;
        if file.source_interval < SOURCE_INTERVAL_MIN {
            let found = humantime::format_duration(file.source_interval).to_string();
            return Err(error("source_interval", "at least 1m", found));
        }
        let zone = match &file.download.zone {
            None => TimeZone::system(),
            Some(name) => TimeZone::get(name)
                .map_err(|_| error("download.zone", "the name of a time zone", name.clone()))?,
        };
        if !(1..=64).contains(&file.download.concurrency) {
            let found = file.download.concurrency.to_string();
            return Err(error("download.concurrency", "between 1 and 64", found));
        }
        for (index, source) in file.source.iter().enumerate() {
            let catalogue = source.catalogue().map(CatalogueId::as_str);
            for (key, name) in
                [("source.name", Some(source.name().as_str())), ("source.catalogue", catalogue)]
            {
                if name == Some(local::NAME) {
                    let rule = "another than that of an administrator's own packages";
                    return Err(error(key, rule, local::NAME.to_owned()));
                }
            }
            let others = &file.source[..index];
            if others.iter().any(|other| other.name() == source.name()) {
                return Err(error("source.name", "another for each source", source.name().to_string()));
            }
            let shared = |id: &&CatalogueId| others.iter().any(|other| other.catalogue() == Some(*id));
            if let Some(found) = source.catalogue().filter(shared) {
                return Err(error("source.catalogue", "another for each source", found.to_string()));
            }
            let pool = |other: &SourceConfig| Some(other.catalogues().ok()??.1);
            let pools: Vec<CatalogueId> = file.source.iter().filter_map(pool).collect();
            if let Some(found) = source.catalogue().filter(|id| pools.contains(id)) {
                let rule = "another than what is kept beside the updates of a source";
                return Err(error("source.catalogue", rule, found.to_string()));
            }
        }
        let port = file.listen.port();
        Ok(Self {
            data_dir: file.data_dir,
            listen: file.listen,
            public_address: file.public_address.unwrap_or_else(|| format!("{host}:{port}")),
            tenant,
            source_interval: file.source_interval,
            renewal_grace: file.renewal_grace,
            payload_bytes_max: file.payload_bytes_max,
            tree_bytes_max: file.tree_bytes_max,
            disk_free_bytes_min: file.disk_free_bytes_min,
            download_enabled: file.download.enabled,
            download_at: file.download.at,
            download_which: file.download.what,
            zone,
            download_options: Options {
                concurrency: file.download.concurrency,
                bytes_per_second: file.download.bytes_per_second,
                retry: Retry::default(),
            },
            on_demand: file.download.on_demand,
            sources: file.source,
            limits: Limits::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tierway_common::daemon::{chain::Chain, config};

    use super::*;

    fn sample() -> File {
        config::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config/central.toml")).unwrap()
    }

    #[test]
    fn the_sample_says_what_holds_without_it_and_has_a_source() {
        let (sample, default) = (sample(), File::default());
        assert_eq!(sample.data_dir, default.data_dir);
        assert_eq!((sample.listen, &sample.public_address), (default.listen, &None));
        assert_eq!((sample.tenant, sample.source_interval), (default.tenant, default.source_interval));
        assert_eq!(sample.renewal_grace, default.renewal_grace);
        assert_eq!(sample.payload_bytes_max, default.payload_bytes_max);
        assert_eq!(sample.tree_bytes_max, default.tree_bytes_max);
        assert_eq!(sample.disk_free_bytes_min, default.disk_free_bytes_min);
        assert_eq!(sample.download, default.download);
        assert_eq!(sample.source.len(), 1);
    }

    #[test]
    fn without_a_public_address_it_is_this_machine_and_the_port() {
        let config = Config::new(sample(), "central").unwrap();
        assert_eq!(config.public_address, "central:7443");
    }

    #[test]
    fn what_cannot_be_is_named_by_its_key() {
        for (text, expected) in [
            ("lissten = 1", "unknown field `lissten`"),
            ("download.when = \"03:00\"", "unknown field `when`"),
            ("download.at = \"25:00\"", "download"),
            ("download.zone = \"Mars/Olympus\"", "`download.zone` must be the name of a time zone"),
            ("download.concurrency = 0", "`download.concurrency` must be between 1 and 64, found `0`"),
            ("source_interval = \"1s\"", "`source_interval` must be at least 1m, found `1s`"),
            ("tenant = \"a b\"", "`tenant` must be a short name, found `a b`"),
            ("[[source]]\nkind = \"rpm\"", "unknown variant `rpm`"),
            (
                "[[source]]\nkind = \"sdp\"\nname = \"hp\"\ncatalogue = \"local\"\nurl = \"/a\"",
                "`source.catalogue` must be another than that of an administrator's own packages, found `local`",
            ),
            (
                "[[source]]\nkind = \"sdp\"\nname = \"local\"\ncatalogue = \"hp\"\nurl = \"/a\"",
                "`source.name` must be another than that of an administrator's own packages, found `local`",
            ),
            (
                "[[source]]\nkind = \"sdp\"\nname = \"a\"\ncatalogue = \"x-pool\"\nurl = \"/a\"\n\
                 [[source]]\nkind = \"sdp\"\nname = \"b\"\ncatalogue = \"x\"\nurl = \"/a\"",
                "`source.catalogue` must be another than what is kept beside the updates of a source, found `x-pool`",
            ),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("central.toml");
            std::fs::write(&path, text).unwrap();
            let error = match config::load::<File>(&path) {
                Err(error) => Chain(&error).to_string(),
                Ok(file) => Config::new(file, "central").unwrap_err().to_string(),
            };
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
