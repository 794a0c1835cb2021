//! A proxy on loopback that counts the bytes of TCP both ways: TLS records and all.

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
};

/// Bytes both ways since the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// To the server.
    pub up: u64,
    /// From the server.
    pub down: u64,
}

/// The proxy; it runs as long as the runtime.
#[derive(Debug)]
pub struct Counter {
    /// Where it listens.
    pub address: SocketAddr,
    up: Arc<AtomicU64>,
    down: Arc<AtomicU64>,
}

impl Counter {
    /// In front of `server`.
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (up, down) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (to, from) = (up.clone(), down.clone());
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.expect("a connection");
                let server = TcpStream::connect(server).await.expect("the server");
                for stream in [&client, &server] {
                    stream.set_nodelay(true).expect("an open socket");
                }
                let ((from_client, to_client), (from_server, to_server)) =
                    (client.into_split(), server.into_split());
                tokio::spawn(carry(from_client, to_server, to.clone()));
                tokio::spawn(carry(from_server, to_client, from.clone()));
            }
        });
        Self { address, up, down }
    }

    /// What was carried since the last look.
    pub fn take(&self) -> Carried {
        Carried { up: self.up.swap(0, Ordering::SeqCst), down: self.down.swap(0, Ordering::SeqCst) }
    }
}

async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, count: Arc<AtomicU64>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(len @ 1..) = from.read(&mut buffer).await {
        count.fetch_add(len as u64, Ordering::SeqCst);
        if to.write_all(&buffer[..len]).await.is_err() {
            return;
        }
    }
    // The other side may be gone already.
    let _ = to.shutdown().await;
}
