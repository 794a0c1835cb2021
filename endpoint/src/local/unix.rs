//! The door is a Unix socket; who calls is known by the kernel's word for the user id of the other end.
//!
//! Who comes when his places are taken is answered that it is so, as long as few others are told the same; else his
//! connection is closed.

use std::{
    fs,
    io::{self, IoSlice},
    os::unix::fs::PermissionsExt,
    path::Path,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream},
};
use tonic::{Request, transport::server::Connected};

use super::{
    Peer, Speaker,
    places::{Limits, Place, Places},
};

/// Connections of all users but root: one for each session of a large terminal server, and some short ones. Each is
/// a file descriptor of the 1,024 that a program has where nobody gave it more.
const CONNECTIONS: Limits = Limits { all: 512, each: 32 };
/// Who is told that there is no place for him; further ones are not.
const TURNED_AWAY: Limits = Limits { all: 16, each: 2 };

/// Who connects to the socket at `path`.
pub(super) fn listen(path: &Path) -> io::Result<impl Stream<Item = io::Result<Connection>> + use<>> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    // One that a crash left; a running endpoint holds a lock on its data folder, so it is not a live one.
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(source),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // Who calls is asked of the kernel at each call.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
    Ok(connections(listener))
}

/// Takes away what [`listen`] left.
pub(super) fn remove(path: &Path) {
    let _ = fs::remove_file(path);
}

/// Who calls.
pub(super) fn peer<T>(request: &Request<T>) -> Option<Peer> {
    request.extensions().get().copied()
}

/// The same door for everybody: who speaks is known by his user id.
pub(super) async fn connect(path: &Path, _: Speaker) -> io::Result<UnixStream> {
    UnixStream::connect(path).await
}

/// A connection with its place.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    peer: Peer,
    _place: Place,
}

/// The connections that come to `listener`, for ever.
fn connections(listener: UnixListener) -> impl Stream<Item = io::Result<Connection>> + Send + use<> {
    let places = (Places::new(CONNECTIONS), Places::new(TURNED_AWAY));
    stream::unfold((listener, places), |(listener, places)| async move {
        loop {
            let accepted = listener.accept().await;
            let accepted = accepted.and_then(|(stream, _)| Ok((stream.peer_cred()?.uid(), stream)));
            let (uid, stream) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: the next attempt needs some to be closed first.
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (place, peer) = match places.0.take(uid) {
                Ok(place) if uid == 0 => (place, Peer::Root),
                Ok(place) => (place, Peer::User(uid)),
                Err(full) => match places.1.take(uid) {
                    Ok(place) => (place, Peer::Refused(full)),
                    Err(_) => continue,
                },
            };
            let connection = Connection { stream, peer, _place: place };
            return Some((Ok(connection), (listener, places)));
        }
    })
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
