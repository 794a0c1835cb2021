//! The door is a Unix socket; who calls is known by the kernel's word for the user id of the other end.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path};

use futures_util::Stream;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, transport::server::UdsConnectInfo};

use super::Peer;

/// Who connects to the socket at `path`.
pub(super) fn listen(path: &Path) -> io::Result<impl Stream<Item = io::Result<UnixStream>> + use<>> {
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
    Ok(UnixListenerStream::new(listener))
}

/// Takes away what [`listen`] left.
pub(super) fn remove(path: &Path) {
    let _ = fs::remove_file(path);
}

/// Who calls.
pub(super) fn peer<T>(request: &Request<T>) -> Option<Peer> {
    let uid = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred)?.uid();
    Some(if uid == 0 { Peer::Root } else { Peer::User(uid) })
}

pub(super) async fn connect(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(path).await
}
