//! The relay's configuration: as written, as run.

#[cfg_attr(unix, path = "config/unix.rs")]
#[cfg_attr(windows, path = "config/windows.rs")]
mod places;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use tierway_common::{
    daemon::{
        config::{self, ConfigError},
        logging::Log,
    },
    transport::{accept::Limits, dial::Route},
};

/// How it is called where it lies in the data folder, on Windows.
pub const FILE: &str = "relay.toml";

/// The file, all of it optional: a relay that was joined runs without one.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Where endpoints connect.
    pub listen: SocketAddr,
    /// The tier above; what the token named when unset.
    pub upstream: Option<Route>,
    /// How often the tier above is asked for news when it does not call.
    #[serde(with = "humantime_serde")]
    pub sync_interval: Duration,
    /// Bytes of payloads kept; the least recently used go first.
    pub payload_bytes_max: u64,
    /// Bytes that stay free on the disk, whatever the above says.
    pub disk_free_bytes_min: u64,
    /// Bytes of reports that wait while the tier above is gone.
    pub outbox_bytes_max: u64,
    /// Logging.
    pub log: Log,
    /// The door's limits.
    #[serde(skip)]
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: places::data_dir(),
            listen: SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 0], 7444)),
            upstream: None,
            sync_interval: Duration::from_secs(30 * 60),
            payload_bytes_max: 50 << 30,
            disk_free_bytes_min: 1 << 30,
            outbox_bytes_max: 1 << 30,
            log: Log::default(),
            limits: Limits::default(),
        }
    }
}

impl Config {
    /// What the file `named` says, or else the one that lies where this system has it, or else the defaults.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, or is no configuration.
    pub fn read(named: Option<&Path>) -> Result<Self, ConfigError> {
        match named.map(Path::to_owned).or_else(places::file) {
            Some(path) => config::load(&path),
            None => Ok(Self::default()),
        }
    }
}
