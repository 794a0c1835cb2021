//! For the person at the machine: status, why, history, check now, over a Unix socket.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use hyper_util::rt::TokioIo;
use tierway_common::daemon::stop::Stop;
use tierway_proto::v1::{
    self,
    local_client::LocalClient,
    local_server::{Local, LocalServer},
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot, watch},
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint, Server},
};

/// What the agent is asked between its cycles.
#[derive(Debug)]
pub enum Ask {
    /// Run a cycle.
    CheckNow(oneshot::Sender<v1::LocalCheckNowResponse>),
    /// Explain an update, by id or a part of its name.
    Why(String, oneshot::Sender<Result<v1::LocalWhyResponse, String>>),
    /// The newest events, at most so many.
    History(usize, oneshot::Sender<v1::LocalHistoryResponse>),
}

/// Asks that wait for the agent.
pub const ASKS: usize = 16;
/// Events of one answer.
const HISTORY_MAX: u32 = 10_000;

/// Why nobody is answered.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The socket.
    #[error("could not listen on `{path}`")]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The agent does not run, or not with this socket.
    #[error("no endpoint answers on `{path}`: is `tierway-endpoint serve` running?")]
    Nobody {
        /// Where.
        path: PathBuf,
        /// Why.
        source: tonic::transport::Error,
    },
}

struct Service {
    status: watch::Receiver<Arc<v1::LocalStatus>>,
    asks: mpsc::Sender<Ask>,
}

impl Service {
    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Status> {
        let gone = || Status::unavailable("the endpoint is stopping");
        let (sender, receiver) = oneshot::channel();
        self.asks.send(ask(sender)).await.map_err(|_| gone())?;
        receiver.await.map_err(|_| gone())
    }
}

#[tonic::async_trait]
impl Local for Service {
    async fn status(
        &self,
        _request: Request<v1::LocalStatusRequest>,
    ) -> Result<Response<v1::LocalStatus>, Status> {
        let status = self.status.borrow().clone();
        Ok(Response::new((*status).clone()))
    }

    async fn check_now(
        &self,
        _request: Request<v1::LocalCheckNowRequest>,
    ) -> Result<Response<v1::LocalCheckNowResponse>, Status> {
        Ok(Response::new(self.ask(Ask::CheckNow).await?))
    }

    async fn why(
        &self,
        request: Request<v1::LocalWhyRequest>,
    ) -> Result<Response<v1::LocalWhyResponse>, Status> {
        let v1::LocalWhyRequest { patch } = request.into_inner();
        let answer = self.ask(|reply| Ask::Why(patch, reply)).await?;
        answer.map(Response::new).map_err(Status::not_found)
    }

    async fn history(
        &self,
        request: Request<v1::LocalHistoryRequest>,
    ) -> Result<Response<v1::LocalHistoryResponse>, Status> {
        let v1::LocalHistoryRequest { limit } = request.into_inner();
        let limit = usize::try_from(limit.min(HISTORY_MAX)).unwrap_or(0);
        Ok(Response::new(self.ask(|reply| Ask::History(limit, reply)).await?))
    }
}

/// Answers on the socket at `path` until `stop`. Root and its group may ask.
///
/// # Errors
///
/// [`LocalError::Listen`].
pub fn serve(
    path: &Path,
    status: watch::Receiver<Arc<v1::LocalStatus>>,
    asks: mpsc::Sender<Ask>,
    stop: Stop,
) -> Result<impl Future<Output = ()> + Send + 'static, LocalError> {
    let error = |source| LocalError::Listen { path: path.to_owned(), source };
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(error)?;
    }
    // One that a crash left; a running endpoint holds a lock on its data folder, so it is not a live one.
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(error(source)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(error)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(error)?;
    let service = LocalServer::new(Service { status, asks });
    let socket = path.to_owned();
    Ok(async move {
        let serving = Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async { stop.wait().await });
        if let Err(error) = serving.await {
            tracing::warn!(%error, "the local socket is no longer served");
        }
        let _ = fs::remove_file(socket);
    })
}

/// Asks the endpoint that runs on this machine.
///
/// # Errors
///
/// [`LocalError::Nobody`].
pub async fn connect(path: &Path) -> Result<LocalClient<Channel>, LocalError> {
    let socket = path.to_owned();
    let channel = Endpoint::from_static("http://endpoint.local")
        .connect_with_connector(tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
        .await
        .map_err(|source| LocalError::Nobody { path: path.to_owned(), source })?;
    Ok(LocalClient::new(channel))
}
