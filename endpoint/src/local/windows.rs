//! The door is a named pipe on this computer only.
//!
//! A pipe that is made without rights of its own can be written to by the system and administrators alone, so
//! whoever says something is one of them. Everybody may open it for reading; he is answered nothing, and his
//! connection is closed when nothing was heard from him for some seconds, see [`Heard`].
//!
//! A pipe's name is whose who took it first. While somebody else has it, the endpoint works on without a door, and
//! tries again.

use std::{
    io, mem,
    path::Path,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::windows::named_pipe::{ClientOptions, NamedPipeClient, NamedPipeServer, ServerOptions},
};
use tonic::{Request, transport::server::Connected};

use super::{Peer, heard::Heard};

/// Connections at once; Windows allows 254 of one pipe.
const INSTANCES_MAX: usize = 64;
/// Between two attempts to have the pipe's name.
const TAKEN_WAIT: Duration = Duration::from_secs(10);
/// `ERROR_PIPE_BUSY`: all instances are taken for the moment.
const PIPE_BUSY: i32 = 231;
/// How often and how long a pipe whose instances are all taken is tried.
const BUSY_TRIES: u32 = 50;
const BUSY_WAIT: Duration = Duration::from_millis(20);

/// Who connects to the pipe at `path`, as soon as no other is there of that name: by whom that was made is not known.
pub(super) fn listen(path: &Path) -> io::Result<impl Stream<Item = io::Result<Pipe>> + use<>> {
    let mut options = ServerOptions::new();
    options.reject_remote_clients(true).max_instances(INSTANCES_MAX);
    Ok(stream::unfold((None, path.to_owned(), options), |(waiting, path, options)| async move {
        let mut waiting = match waiting {
            Some(waiting) => waiting,
            None => first(&path, &options).await,
        };
        loop {
            let connected = waiting.connect().await;
            // The next one before this one is served or closed, so that the name stays taken.
            let pipe = mem::replace(&mut waiting, another(&path, &options).await);
            match connected {
                Ok(()) => return Some((Ok(Pipe(Heard::new(pipe))), (Some(waiting), path, options))),
                Err(error) => {
                    // Gone before he was let in.
                    tracing::debug!(%error, "a caller of the local pipe was lost");
                    tokio::time::sleep(BUSY_WAIT).await;
                }
            }
        }
    }))
}

/// The first instance, when the name is free.
async fn first(path: &Path, options: &ServerOptions) -> NamedPipeServer {
    let mut told = false;
    loop {
        match options.clone().first_pipe_instance(true).create(path) {
            Ok(first) => return first,
            Err(error) if !told => {
                tracing::warn!(%error, path = %path.display(), "nobody is answered locally: the pipe could not be made");
                told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(TAKEN_WAIT).await;
    }
}

/// One more instance, as soon as there may be one more.
async fn another(path: &Path, options: &ServerOptions) -> NamedPipeServer {
    loop {
        match options.create(path) {
            Ok(next) => return next,
            Err(error) => {
                tracing::debug!(%error, "no more instances of the local pipe for now");
                tokio::time::sleep(BUSY_WAIT).await;
            }
        }
    }
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

/// That the other end could open the pipe for writing: it has written what is answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Administrator;

/// One connection.
#[derive(Debug)]
pub(super) struct Pipe(Heard<NamedPipeServer>);

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
