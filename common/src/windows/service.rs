//! A program of ours as a service of Windows: started, stopped and told of the shutdown by the service manager, with
//! its log in the event log.
//!
//! Its data folder is the system's and the administrators' alone before anything is put there or read from there.

use std::{
    error::Error,
    ffi::OsString,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use windows_service::{
    define_windows_service,
    service::{
        ServiceControl, ServiceControlAccept, ServiceExitCode, ServiceState, ServiceStatus, ServiceType,
    },
    service_control_handler::{self, ServiceControlHandlerResult, ServiceStatusHandle},
    service_dispatcher,
};

use super::{
    event_log,
    folder::{self, DataFolder, FolderError},
};
use crate::daemon::{
    chain::Chain,
    config::ConfigError,
    logging::{self, Log, LogError},
    stop::Stop,
};

/// What a service is called.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// As the installer names it to the service manager.
    pub service: &'static str,
    /// As the installer registers it with the event log.
    pub events: &'static str,
    /// See [`DataFolder::seals`].
    pub seals: &'static str,
    /// How long it may take to stop.
    pub stop_hint: Duration,
}

/// Why a service does not run.
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
    /// The data folder.
    #[error("the data folder is not safe")]
    Folder(#[from] FolderError),
}

/// What a service does, from its start to its end.
type Body = Box<dyn FnOnce(&Asked) -> Result<(), Box<dyn Error + Send + Sync>> + Send>;

/// The service manager calls back without saying more than a name.
static SERVICE: OnceLock<(Names, Mutex<Option<Body>>)> = OnceLock::new();

/// What the service manager wants, and is told.
#[derive(Debug)]
pub struct Asked {
    /// Requested when the service is to stop.
    pub stop: Stop,
    names: Names,
    status: ServiceStatusHandle,
}

/// Runs `body` as the service until it returns; its error is logged, and makes the manager start it again.
///
/// # Errors
///
/// [`ServiceError::Manager`] when this was not started by the service manager.
pub fn run(
    names: Names,
    body: impl FnOnce(&Asked) -> Result<(), Box<dyn Error + Send + Sync>> + Send + 'static,
) -> Result<(), ServiceError> {
    let _ = SERVICE.set((names, Mutex::new(Some(Box::new(body)))));
    Ok(service_dispatcher::start(names.service, begin)?)
}

define_windows_service!(begin, begun);

fn begun(_: Vec<OsString>) {
    let Some((names, body)) = SERVICE.get() else { return };
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
    let Ok(status) = service_control_handler::register(names.service, handler) else { return };
    let asked = Asked { stop, names: *names, status };
    asked.tell(ServiceState::Running, 0);
    let body = body.lock().unwrap_or_else(PoisonError::into_inner).take();
    let code = match body.map_or(Ok(()), |body| body(&asked)) {
        Ok(()) => 0,
        Err(error) => {
            // What fails before the configuration says how to log is told as well; later this changes nothing.
            let _ = logging::init_to(&Log::default(), event_log::open(names.events));
            tracing::error!(error = %Chain(error.as_ref()), "the service ends");
            1
        }
    };
    asked.tell(ServiceState::Stopped, code);
}

impl Asked {
    /// Tells the manager that the service is about to stop.
    pub fn stopping(&self) {
        self.tell(ServiceState::StopPending, 0);
    }

    /// Tells the manager; a failure makes it start the service again, by its recovery actions.
    fn tell(&self, state: ServiceState, code: u32) {
        let running = state == ServiceState::Running;
        let told = self.status.set_service_status(ServiceStatus {
            service_type: ServiceType::OWN_PROCESS,
            current_state: state,
            controls_accepted: if running {
                ServiceControlAccept::STOP | ServiceControlAccept::SHUTDOWN
            } else {
                ServiceControlAccept::empty()
            },
            exit_code: if code == 0 {
                ServiceExitCode::Win32(0)
            } else {
                ServiceExitCode::ServiceSpecific(code)
            },
            checkpoint: 0,
            wait_hint: if state == ServiceState::StopPending { self.names.stop_hint } else { Duration::ZERO },
            process_id: None,
        });
        if let Err(error) = told {
            tracing::warn!(%error, "could not tell the service manager");
        }
    }

    /// The configuration of the service as `read` gives it, of the file `named` or of the one that lies in the data
    /// folder, with its log begun and its data folder safe. `usual` is where that is when nobody names another,
    /// `places` tells of a configuration where it is and how to log.
    ///
    /// # Errors
    ///
    /// When one of that does not succeed.
    pub async fn configured<C>(
        &self,
        named: Option<PathBuf>,
        usual: &Path,
        read: impl FnOnce(Option<&Path>) -> Result<C, ConfigError>,
        places: impl FnOnce(&C) -> (&Path, &Log),
    ) -> Result<C, ServiceError> {
        let data = DataFolder { path: usual, usual, seals: self.names.seals };
        // A configuration may lie there.
        let aside = if named.is_none() { folder::secure(data).await? } else { None };
        let config = read(named.as_deref())?;
        let (data_dir, log) = places(&config);
        logging::init_to(log, event_log::open(self.names.events))?;
        if let Some(aside) = aside {
            folder::warn_of(usual, &aside);
        }
        if named.is_some() || data_dir != usual {
            folder::secure_and_tell(DataFolder { path: data_dir, ..data }).await?;
        }
        Ok(config)
    }
}
