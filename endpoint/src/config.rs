//! The endpoint's configuration: as written, as run.

#[cfg_attr(unix, path = "config/unix.rs")]
#[cfg_attr(windows, path = "config/windows.rs")]
mod places;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use tierway_common::{
    daemon::{
        config::{self, ConfigError},
        logging::Log,
    },
    transport::dial::Route,
};

/// The limit of an installation that nobody has measured, unless the file says another: more than any update takes that
/// goes well.
pub const INSTALL_TIME_LIMIT: Duration = Duration::from_secs(2 * 3600);

/// The file, all of it optional: an endpoint that was enrolled runs without one.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// The tiers above, tried in order; what the token named when empty.
    pub upstream: Vec<Route>,
    /// The system that is patched: `/`, or another root such as `/srv/target`.
    pub root: PathBuf,
    /// How often everything is checked.
    #[serde(with = "humantime_serde")]
    pub check_interval: Duration,
    /// How often it is checked while something approved is not installed.
    #[serde(with = "humantime_serde")]
    pub retry_interval: Duration,
    /// Over how long computers spread that were told of something new at once.
    #[serde(with = "humantime_serde")]
    pub notice_spread: Duration,
    /// This computer is on the road, by whatever route it reaches the tier above.
    pub roaming: bool,
    /// An installation that takes longer is ended, unless what it takes is published.
    #[serde(with = "humantime_serde")]
    pub install_time_limit: Duration,
    /// How long payloads that the relay does not have yet are waited for.
    #[serde(with = "humantime_serde")]
    pub payload_patience: Duration,
    /// Bytes of payloads kept.
    pub payload_bytes_max: u64,
    /// Bytes that stay free on the disk, whatever the above says.
    pub disk_free_bytes_min: u64,
    /// Where root and whoever is logged in are answered: a socket; on Windows a named pipe, for administrators.
    pub local_socket: PathBuf,
    /// Look and report, install nothing.
    pub audit_only: bool,
    /// Logging.
    pub log: Log,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: places::data_dir(),
            upstream: Vec::new(),
            root: PathBuf::from("/"),
            check_interval: Duration::from_secs(3 * 3600),
            retry_interval: Duration::from_secs(3600),
            notice_spread: Duration::from_secs(30),
            roaming: false,
            install_time_limit: INSTALL_TIME_LIMIT,
            payload_patience: Duration::from_secs(600),
            payload_bytes_max: 8 << 30,
            disk_free_bytes_min: 512 << 20,
            local_socket: places::local_socket(),
            audit_only: false,
            log: Log::default(),
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
