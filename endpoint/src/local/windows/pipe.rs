//! One end of a named pipe, as sockets are: what was written is not waited for, neither when it is flushed nor at the end. To
//! wait would take a thread for as long as the other end likes.

use std::{
    fs::OpenOptions,
    io,
    os::windows::{fs::OpenOptionsExt, io::OwnedHandle},
    path::Path,
    pin::Pin,
    task::{Context, Poll},
};

use interprocess::os::windows::named_pipe::{pipe_mode::Bytes, tokio::DuplexPipeStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a client asks for: to read and write data and attributes. `GENERIC_WRITE` would also ask for the right to add
/// instances, which people do not have.
const CLIENT: u32 = 0x0012_019b;
/// `FILE_FLAG_OVERLAPPED`.
const OVERLAPPED: u32 = 0x4000_0000;
/// `SECURITY_IDENTIFICATION`: who has the pipe may know who speaks to him, and not act in his name.
const IDENTIFICATION: u32 = 0x0001_0000;

/// One end.
#[derive(Debug)]
pub(in crate::local) struct Pipe(DuplexPipeStream<Bytes>);

impl Pipe {
    /// The end of the server.
    pub(super) fn new(stream: DuplexPipeStream<Bytes>) -> Self {
        Self(stream)
    }

    /// The end of a client of the pipe at `path`.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.access_mode(CLIENT).custom_flags(OVERLAPPED).security_qos_flags(IDENTIFICATION);
        let handle: OwnedHandle = options.open(path)?.into();
        DuplexPipeStream::try_from(handle).map(Self).map_err(io::Error::from)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.0.assume_flushed();
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

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
