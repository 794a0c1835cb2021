//! A connection that must say something soon: who may connect but not write would keep his place for ever.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// Until the first byte: a client of gRPC says who it is as soon as it is connected.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// A connection that fails when nothing was heard from it in [`SILENCE_MAX`].
#[derive(Debug)]
pub(super) struct Heard<S> {
    stream: S,
    /// Nothing after the first byte.
    silence: Option<Pin<Box<Sleep>>>,
}

impl<S> Heard<S> {
    /// From now on.
    pub(super) fn new(stream: S) -> Self {
        Self { stream, silence: Some(Box::pin(sleep(SILENCE_MAX))) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(context, buffer) {
            self.silence = None;
            return Poll::Ready(read);
        }
        let Some(silence) = &mut self.silence else { return Poll::Pending };
        ready!(silence.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "nothing was said")))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        time::timeout,
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_loses_his_connection_and_who_said_something_may_be_silent() {
        let (here, mut there) = duplex(64);
        let mut silent = Heard::new(here);
        let began = tokio::time::Instant::now();
        let error = timeout(LONG, silent.read_u8()).await.unwrap().unwrap_err();
        assert_eq!((error.kind(), began.elapsed().as_secs()), (io::ErrorKind::TimedOut, 5));
        // What is written to him does not count.
        silent.write_all(b"settings").await.unwrap();
        assert_eq!(there.read_u8().await.unwrap(), b's');

        let (here, mut there) = duplex(64);
        let mut heard = Heard::new(here);
        there.write_all(b"P").await.unwrap();
        assert_eq!(heard.read_u8().await.unwrap(), b'P');
        assert!(timeout(LONG, heard.read_u8()).await.is_err(), "it was closed");
        there.write_all(b"Q").await.unwrap();
        assert_eq!(heard.read_u8().await.unwrap(), b'Q');
    }
}
