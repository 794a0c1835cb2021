//! The endpoint as a service of Windows: started, stopped and told of the shutdown by the service manager, with
//! its log in the event log.
//!
//! Its data folder is the system's and the administrators' alone before anything is put there.

mod event_log;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use tierway_common::{
    clock::Clock,
    daemon::{
        chain::Chain,
        config::{self, ConfigError},
        logging::{self, LogError},
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

use crate::{
    agent::{self, AgentError},
    config::Config,
    install::run::{self, End, Program, RunError},
    invitation::{self, InvitationError},
    scan::windows::{place::system_folder, registry::SystemRegistry},
};

/// As the installer names it.
const NAME: &str = "TierwayEndpoint";
/// A running check gets a minute to end, see `agent`.
const STOP_HINT: Duration = Duration::from_secs(75);
/// Setting rights on one folder.
const RIGHTS_LIMIT: Duration = Duration::from_secs(60);
/// Read instead of a configuration that is named, when it is there.
const CONFIG_NAME: &str = "endpoint.toml";

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
    #[error("could not make the folder `{path}`")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its rights.
    #[error("could not set the rights of the folder `{path}`")]
    Rights {
        /// Which.
        path: PathBuf,
        /// Why.
        source: RunError,
    },
    /// Its rights, refused.
    #[error("the rights of the folder `{path}` were not set ({end:?}): {said}")]
    RightsRefused {
        /// Which.
        path: PathBuf,
        /// How icacls ended.
        end: End,
        /// What it said.
        said: String,
    },
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
    let named = CONFIG.get().cloned().flatten();
    let usual = Config::default().data_dir.join(CONFIG_NAME);
    let config: Config = match named.or_else(|| usual.is_file().then_some(usual)) {
        Some(path) => config::load(&path)?,
        None => Config::default(),
    };
    logging::init_to(&config.log, event_log::open())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(ServiceError::Runtime)?.block_on(async {
        secure(&config.data_dir).await?;
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

/// Makes the folder if it is not there, and the system and administrators the only ones who get into it.
///
/// # Errors
///
/// When it cannot be made or its rights cannot be set; then no secret may be put there.
pub async fn secure(folder: &Path) -> Result<(), ServiceError> {
    let failed = |source| ServiceError::Folder { path: folder.to_owned(), source };
    std::fs::create_dir_all(folder).map_err(failed)?;
    // By their ids, for their names are translated: the system, administrators.
    let rights = ["/inheritance:r", "/grant:r", "*S-1-5-18:(OI)(CI)F", "*S-1-5-32-544:(OI)(CI)F", "/Q"];
    let arguments = std::iter::once(folder.into()).chain(rights.map(OsString::from)).collect();
    let program = Program {
        path: system_folder(&SystemRegistry).join("icacls.exe"),
        arguments,
        command_line: String::new(),
        directory: folder.to_owned(),
        environment: run::environment(),
        limit: RIGHTS_LIMIT,
        grace: Duration::ZERO,
        tail_bytes_max: 1024,
    };
    let ran = run::run(&program, folder).await;
    let ran = ran.map_err(|source| ServiceError::Rights { path: folder.to_owned(), source })?;
    match ran.end {
        End::Exited(0) => Ok(()),
        end => {
            let said = (ran.output.text + &ran.errors.text).trim().to_owned();
            Err(ServiceError::RightsRefused { path: folder.to_owned(), end, said })
        }
    }
}
