//! The line between two tiers: it can be cut and mended, and counts what it carries.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::failure::{Failure, failed};

const BUFFER_BYTES: usize = 64 * 1024;

/// Bytes of TCP both ways since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// To the tier above.
    pub up: u64,
    /// From it.
    pub down: u64,
}

/// A line; it works as long as this is kept and the runtime runs.
#[derive(Debug)]
pub struct Link {
    /// Where it begins.
    pub address: SocketAddr,
    up: Arc<AtomicU64>,
    down: Arc<AtomicU64>,
    whole: watch::Sender<bool>,
}

impl Link {
    /// To the tier at `above`.
    ///
    /// # Errors
    ///
    /// [`Failure`] when no port is to be had.
    pub async fn to(above: SocketAddr) -> Result<Self, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed("listen on loopback"))?;
        let address = listener.local_addr().map_err(failed("listen on loopback"))?;
        let (up, down) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (whole, cut) = watch::channel(true);
        let counts = (up.clone(), down.clone());
        tokio::spawn(async move {
            loop {
                let mut cut = cut.clone();
                // Out of descriptors, or the line was given up: whoever wanted to connect tries again.
                let Ok((below, _)) = listener.accept().await else {
                    tokio::task::yield_now().await;
                    continue;
                };
                if !*cut.borrow_and_update() {
                    continue;
                }
                let counts = counts.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = carry_both(below, above, counts) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Ok(Self { address, up, down, whole })
    }

    /// Ends every connection and lets none be made.
    pub fn cut(&self) {
        self.whole.send_replace(false);
    }

    /// Lets connections be made again.
    pub fn mend(&self) {
        self.whole.send_replace(true);
    }

    /// What was carried since the last look.
    pub fn take(&self) -> Carried {
        Carried { up: self.up.swap(0, Ordering::Relaxed), down: self.down.swap(0, Ordering::Relaxed) }
    }
}

async fn carry_both(below: TcpStream, above: SocketAddr, (up, down): (Arc<AtomicU64>, Arc<AtomicU64>)) {
    let Ok(above) = TcpStream::connect(above).await else { return };
    for stream in [&below, &above] {
        // Only slower without.
        let _ = stream.set_nodelay(true);
    }
    let ((from_below, to_below), (from_above, to_above)) = (below.into_split(), above.into_split());
    tokio::join!(carry(from_below, to_above, up), carry(from_above, to_below, down));
}

async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, count: Arc<AtomicU64>) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(len @ 1..) = from.read(&mut buffer).await {
        count.fetch_add(len as u64, Ordering::Relaxed);
        if to.write_all(&buffer[..len]).await.is_err() {
            return;
        }
    }
    // The other side may be gone already.
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_cut_carries_nothing_until_it_is_mended() {
        let above = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let link = Link::to(above.local_addr().unwrap()).await.unwrap();
        let mut below = TcpStream::connect(link.address).await.unwrap();
        let (mut taken, _) = above.accept().await.unwrap();
        below.write_all(b"five!").await.unwrap();
        let mut read = [0; 5];
        taken.read_exact(&mut read).await.unwrap();
        assert_eq!(link.take(), Carried { up: 5, down: 0 });
        link.cut();
        assert_eq!(taken.read(&mut read).await.unwrap_or(0), 0, "the far end is told");
        let mut refused = TcpStream::connect(link.address).await.unwrap();
        assert_eq!(refused.read(&mut read).await.unwrap_or(0), 0, "nobody is let through");
        link.mend();
        let mut again = TcpStream::connect(link.address).await.unwrap();
        again.write_all(b"again").await.unwrap();
        let (mut taken, _) = above.accept().await.unwrap();
        taken.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"again");
    }
}
