//! The endpoint as a service of Windows: started, stopped and told of the shutdown by the service manager, with
//! its log in the event log.
//!
//! Its data folder is the system's and the administrators' alone before anything is put there or read from there.

mod event_log;
pub mod folder;

use std::{ffi::OsString, path::PathBuf, sync::OnceLock, time::Duration};

use tierway_common::{
    clock::Clock,
    daemon::{
        chain::Chain,
        config::ConfigError,
        logging::{self, Log, LogError},
        stop::Stop,
    },
};
use windows_service::{
    define_windows_service,
    service::{
        ServiceControl, ServiceControlAccept, ServiceExitCode, ServiceState, ServiceStatus, ServiceType,
    },
    service_control_handler::{self, ServiceControlHandlerResult, ServiceStatusHandle},
    service_dispatcher,
};

use self::folder::FolderError;
use crate::{
    agent::{self, AgentError},
    config::Config,
    invitation::{self, InvitationError},
};

/// As the installer names it.
const NAME: &str = "TierwayEndpoint";
/// A running check gets a minute to end, see `agent`.
const STOP_HINT: Duration = Duration::from_secs(75);

/// Why the service does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Not started by the service manager, or it does not answer.
    #[error("could not run as a service: is this started by the service manager?")]
    Manager(#[from] windows_service::Error),
    /// The configuration.
    #[error("could not read the configuration")]
    Config(#[from] ConfigError),
    /// The log.
    #[error("could not start logging")]
    Log(#[from] LogError),
    /// The runtime.
    #[error("could not start the runtime")]
    Runtime(#[source] std::io::Error),
    /// The data folder.
    #[error("the data folder is not safe")]
    Folder(#[from] FolderError),
    /// The identity.
    #[error("could not get an identity")]
    Invitation(#[from] InvitationError),
    /// The agent.
    #[error("could not start the agent")]
    Agent(#[from] AgentError),
}

/// The service manager calls back without saying more than a name.
static CONFIG: OnceLock<Option<PathBuf>> = OnceLock::new();

/// Runs as the service until it is stopped; `config` is the file that the command line names.
///
/// # Errors
///
/// [`ServiceError::Manager`] when this was not started by the service manager.
pub fn run(config: Option<PathBuf>) -> Result<(), ServiceError> {
    let _ = CONFIG.set(config);
    Ok(service_dispatcher::start(NAME, begin)?)
}

define_windows_service!(begin, begun);

fn begun(_: Vec<OsString>) {
    let stop = Stop::new();
    let asked = stop.clone();
    let handler = move |control| match control {
        ServiceControl::Interrogate => ServiceControlHandlerResult::NoError,
        ServiceControl::Stop | ServiceControl::Shutdown | ServiceControl::Preshutdown => {
            asked.request();
            ServiceControlHandlerResult::NoError
        }
        _ => ServiceControlHandlerResult::NotImplemented,
    };
    // Without the manager there is nobody to tell.
    let Ok(status) = service_control_handler::register(NAME, handler) else { return };
    tell(&status, ServiceState::Running, 0);
    let code = match serve(&stop, &status) {
        Ok(()) => 0,
        Err(error) => {
            // What fails before the configuration says how to log is told as well; later this changes nothing.
            let _ = logging::init_to(&Log::default(), event_log::open());
            tracing::error!(error = %Chain(&error), "the service ends");
            1
        }
    };
    tell(&status, ServiceState::Stopped, code);
}

/// Tells the manager; a failure makes it start the service again, by its recovery actions.
fn tell(status: &ServiceStatusHandle, state: ServiceState, code: u32) {
    let running = state == ServiceState::Running;
    let told = status.set_service_status(ServiceStatus {
        service_type: ServiceType::OWN_PROCESS,
        current_state: state,
        controls_accepted: if running {
            ServiceControlAccept::STOP | ServiceControlAccept::SHUTDOWN
        } else {
            ServiceControlAccept::empty()
        },
        exit_code: if code == 0 { ServiceExitCode::Win32(0) } else { ServiceExitCode::ServiceSpecific(code) },
        checkpoint: 0,
        wait_hint: if state == ServiceState::StopPending { STOP_HINT } else { Duration::ZERO },
        process_id: None,
    });
    if let Err(error) = told {
        tracing::warn!(%error, "could not tell the service manager");
    }
}

fn serve(stop: &Stop, status: &ServiceStatusHandle) -> Result<(), ServiceError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(ServiceError::Runtime)?.block_on(async {
        let named = CONFIG.get().and_then(Option::as_deref);
        let usual = Config::default().data_dir;
        // A configuration may lie there.
        let aside = if named.is_none() { folder::secure(&usual).await? } else { None };
        let config = Config::read(named)?;
        logging::init_to(&config.log, event_log::open())?;
        if let Some(aside) = aside {
            folder::warn_of(&usual, &aside);
        }
        if named.is_some() || config.data_dir != usual {
            folder::secure_and_tell(&config.data_dir).await?;
        }
        invitation::joined(&config.data_dir, stop).await?;
        if !stop.requested() {
            let running = agent::start(config, Clock::system(), stop.clone()).await?;
            stop.wait().await;
            tell(status, ServiceState::StopPending, 0);
            running.ended().await;
        }
        Ok(())
    })
}
