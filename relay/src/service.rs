//! The relay as a service of Windows.

use std::{
    error::Error,
    path::{Path, PathBuf},
    time::Duration,
};

use tierway_common::{
    clock::Clock,
    transport::identity::Role,
    windows::{
        folder::DataFolder,
        service::{self, Asked, Names, ServiceError},
    },
};
use tierway_proto::invitation::{self, Guest};

use crate::{
    config::Config,
    server::{self, VERSION},
};

const NAMES: Names = Names {
    service: "TierwayRelay",
    events: "Tierway Relay",
    seals: r"SOFTWARE\Tierway\Relay\Seals",
    // Its tasks get half a minute to end, see `server`.
    stop_hint: Duration::from_secs(45),
};

/// Runs as the service until it is stopped; `config` is the file that the command line names.
///
/// # Errors
///
/// [`ServiceError::Manager`] when this was not started by the service manager.
pub fn run(config: Option<PathBuf>) -> Result<(), ServiceError> {
    service::run(NAMES, |asked| serve(asked, config))
}

/// The data folder at `path`, see [`DataFolder`].
#[must_use]
pub fn data_folder<'a>(path: &'a Path, usual: &'a Path) -> DataFolder<'a> {
    DataFolder { path, usual, seals: NAMES.seals }
}

fn serve(asked: &Asked, named: Option<PathBuf>) -> Result<(), Box<dyn Error + Send + Sync>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let usual = Config::default().data_dir;
        let config =
            asked.configured(named, &usual, Config::read, |config| (&config.data_dir, &config.log)).await?;
        let guest = Guest { role: Role::Relay, agent_version: VERSION };
        invitation::joined(&config.data_dir, guest, &asked.stop).await?;
        if !asked.stop.requested() {
            let running = server::start(config, Clock::system(), asked.stop.clone()).await?;
            asked.stop.wait().await;
            asked.stopping();
            if let Some(why) = running.ended().await {
                return Err(why.into());
            }
        }
        Ok(())
    })
}
