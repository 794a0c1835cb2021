//! The door is two named pipes on this computer only.
//!
//! One is for administrators. A pipe that is made without rights of its own can be written to by the system and administrators
//! alone, so whoever says something is one of them. Everybody may open it for reading; he is answered nothing, and his
//! connection is closed when nothing was heard from him for some seconds, see [`Heard`]. The other, of that name and
//! [`PEOPLE`], is for who is logged on, see [`people`].
//!
//! A pipe's name is whose who took it first. While somebody else has it, the endpoint works on without a door, and
//! tries again.

#[path = "windows/people.rs"]
mod people;
#[path = "windows/pipe.rs"]
mod pipe;

use std::{
    io, mem,
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, TryStreamExt, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::windows::named_pipe::{NamedPipeServer, ServerOptions},
};
use tonic::{Request, transport::server::Connected};

use self::{people::Person, pipe::Pipe};
use super::{Peer, Speaker, heard::Heard};

/// Connections at once; Windows allows 254 of one pipe.
const INSTANCES_MAX: usize = 64;
/// What the name of the people's pipe has after that of the administrators'.
const PEOPLE: &str = "-people";
/// Between two attempts to have the pipe's name.
const TAKEN_WAIT: Duration = Duration::from_secs(10);
/// `ERROR_ACCESS_DENIED`: an administrator's pipe, and this process is none.
const ACCESS_DENIED: i32 = 5;
/// `ERROR_PIPE_BUSY`: all instances are taken for the moment.
const PIPE_BUSY: i32 = 231;
/// How often and how long a pipe whose instances are all taken is tried.
const BUSY_TRIES: u32 = 50;
const BUSY_WAIT: Duration = Duration::from_millis(20);

/// Who connects to the pipes at `path`, each as soon as no other is there of that name: by whom that was made is not known.
pub(super) fn listen(path: &Path) -> io::Result<impl Stream<Item = io::Result<Connection>> + use<>> {
    let people = people::listen(&of_people(path))?.map_ok(Connection::Person);
    Ok(stream::select(administrators(path), people))
}

fn of_people(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(PEOPLE);
    name.into()
}

fn administrators(path: &Path) -> impl Stream<Item = io::Result<Connection>> + use<> {
    let mut options = ServerOptions::new();
    options.reject_remote_clients(true).max_instances(INSTANCES_MAX);
    stream::unfold((None, path.to_owned(), options), |(waiting, path, options)| async move {
        let mut waiting = match waiting {
            Some(waiting) => waiting,
            None => first(&path, &options).await,
        };
        loop {
            let connected = waiting.connect().await;
            // The next one before this one is served or closed, so that the name stays taken.
            let pipe = mem::replace(&mut waiting, another(&path, &options).await);
            match connected {
                Ok(()) => {
                    let connection = Connection::Administrator(Heard::new(pipe));
                    return Some((Ok(connection), (Some(waiting), path, options)));
                }
                Err(error) => {
                    // Gone before he was let in.
                    tracing::debug!(%error, "a caller of the local pipe was lost");
                    tokio::time::sleep(BUSY_WAIT).await;
                }
            }
        }
    })
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
    request.extensions().get().copied()
}

/// An administrator speaks as such, unless he would as a person.
pub(super) async fn connect(path: &Path, speaker: Speaker) -> io::Result<Pipe> {
    match speaker {
        Speaker::Person => open(&of_people(path)).await,
        Speaker::Anybody => match open(path).await {
            Err(error) if error.raw_os_error() == Some(ACCESS_DENIED) => open(&of_people(path)).await,
            opened => opened,
        },
    }
}

async fn open(path: &Path) -> io::Result<Pipe> {
    let mut tries = 0;
    loop {
        match Pipe::open(path) {
            Err(error) if error.raw_os_error() == Some(PIPE_BUSY) && tries < BUSY_TRIES => {
                tries += 1;
                tokio::time::sleep(BUSY_WAIT).await;
            }
            opened => return opened,
        }
    }
}

/// One connection.
#[derive(Debug)]
pub(super) enum Connection {
    /// Of who could open the pipe for writing: he has written what is answered.
    Administrator(Heard<NamedPipeServer>),
    /// Of somebody who is logged on.
    Person(Person),
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        match self {
            Self::Administrator(_) => Peer::Root,
            Self::Person(person) => person.peer,
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Administrator(pipe) => Pin::new(pipe).poll_read(context, buffer),
            Self::Person(person) => Pin::new(&mut person.pipe).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Administrator(pipe) => Pin::new(pipe).poll_write(context, bytes),
            Self::Person(person) => Pin::new(&mut person.pipe).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Administrator(pipe) => Pin::new(pipe).poll_flush(context),
            Self::Person(person) => Pin::new(&mut person.pipe).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Administrator(pipe) => Pin::new(pipe).poll_shutdown(context),
            Self::Person(person) => Pin::new(&mut person.pipe).poll_shutdown(context),
        }
    }
}
