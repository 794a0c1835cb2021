//! The door is a named pipe on this computer only.
//!
//! A pipe that is made without rights of its own can be written to by the system and administrators alone, so
//! whoever calls is one of them; everybody else is refused by the kernel when he connects.

use std::{
    io,
    path::Path,
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::windows::named_pipe::{ClientOptions, NamedPipeClient, NamedPipeServer, ServerOptions},
};
use tonic::{Request, transport::server::Connected};

use super::Peer;

/// Connections at once; Windows allows 254 of one pipe.
const INSTANCES_MAX: usize = 64;
/// `ERROR_PIPE_BUSY`: all instances are taken for the moment.
const PIPE_BUSY: i32 = 231;
/// How often and how long a pipe whose instances are all taken is tried.
const BUSY_TRIES: u32 = 50;
const BUSY_WAIT: std::time::Duration = std::time::Duration::from_millis(20);

/// Who connects to the pipe at `path`. Fails when there is one of that name already: by whom it was made
/// is not known then.
pub(super) fn listen(path: &Path) -> io::Result<impl Stream<Item = io::Result<Pipe>> + use<>> {
    let path = path.to_owned();
    let mut options = ServerOptions::new();
    options.reject_remote_clients(true).max_instances(INSTANCES_MAX);
    let first = options.clone().first_pipe_instance(true).create(&path)?;
    Ok(stream::unfold((first, path, options), |(waiting, path, options)| async move {
        let connected = match waiting.connect().await {
            Ok(()) => Ok(Pipe(waiting)),
            Err(error) => Err(error),
        };
        // The next one, before this one is served.
        let next = loop {
            match options.create(&path) {
                Ok(next) => break next,
                Err(error) => {
                    tracing::debug!(%error, "no more instances of the local pipe for now");
                    tokio::time::sleep(BUSY_WAIT).await;
                }
            }
        };
        Some((connected, (next, path, options)))
    }))
}

/// A pipe is gone with its last handle.
pub(super) fn remove(_: &Path) {}

/// Who calls: see above.
pub(super) fn peer<T>(request: &Request<T>) -> Option<Peer> {
    request.extensions().get::<Administrator>().map(|_| Peer::Root)
}

pub(super) async fn connect(path: &Path) -> io::Result<NamedPipeClient> {
    let mut tries = 0;
    loop {
        match ClientOptions::new().open(path) {
            Err(error) if error.raw_os_error() == Some(PIPE_BUSY) && tries < BUSY_TRIES => {
                tries += 1;
                tokio::time::sleep(BUSY_WAIT).await;
            }
            opened => return opened,
        }
    }
}

/// That the other end could open the pipe for writing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Administrator;

/// One connection.
#[derive(Debug)]
pub(super) struct Pipe(NamedPipeServer);

impl Connected for Pipe {
    type ConnectInfo = Administrator;

    fn connect_info(&self) -> Administrator {
        Administrator
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
