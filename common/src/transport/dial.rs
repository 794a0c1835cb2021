//! Channels upward: TLS, optional HTTP proxy, HTTP/2 settings.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};

use super::{SERVER_NAME, tls::Identity};

/// TCP and a proxy's tunnel must be there by then,
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// and TLS so much later: longer than a door has whoever comes with many others wait for his turn.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// A silent peer is asked for a sign of life this often…
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(60);
/// …and given up after this.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// What the other side may put into one frame: with 16 KiB, the default, a payload costs 1.3 times the CPU.
const FRAME_BYTES: u32 = 256 * 1024;
/// Unread bytes of one stream.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// Unread bytes of all streams together.
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;
/// Longest answer of a proxy to CONNECT.
const PROXY_ANSWER_BYTES_MAX: usize = 8 * 1024;

/// How to get to the tier above.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// `host:port`.
    pub server: String,
    /// HTTP proxy `host:port` to go through by CONNECT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
}

impl Route {
    /// Straight to `server`.
    #[must_use]
    pub fn direct(server: &str) -> Self {
        Self { server: server.to_owned(), proxy: None }
    }
}

/// A channel that connects when first used and again when broken, each time with the identity as it is then.
#[must_use]
pub fn channel(route: Route, identity: &Identity) -> Channel {
    channel_by_any(vec![route], identity)
}

/// The same by the first of `routes` that leads somewhere, in their order each time it connects.
#[must_use]
pub fn channel_by_any(routes: Vec<Route>, identity: &Identity) -> Channel {
    channel_noting_route(routes, identity, RouteTaken::default())
}

/// The same; `taken` tells from then on by which of the routes the last connection was made.
#[must_use]
pub fn channel_noting_route(routes: Vec<Route>, identity: &Identity, taken: RouteTaken) -> Channel {
    let identity = identity.clone();
    connecting(routes, taken, move || identity.client())
}

/// By which of several routes the last connection was made; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct RouteTaken(Arc<AtomicUsize>);

impl RouteTaken {
    /// Whether it was the first one; also before there was any.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// The same without showing a certificate; see [`Identity::nameless_client`].
#[must_use]
pub fn nameless_channel(routes: Vec<Route>, identity: &Identity) -> Channel {
    let identity = identity.clone();
    connecting(routes, RouteTaken::default(), move || identity.nameless_client())
}

/// A channel for a machine without identity; see [`super::tls::enrolling`].
#[must_use]
pub fn enrolling_channel(route: Route, config: Arc<ClientConfig>) -> Channel {
    connecting(vec![route], RouteTaken::default(), move || config.clone())
}

fn connecting(
    routes: Vec<Route>,
    taken: RouteTaken,
    config: impl Fn() -> Arc<ClientConfig> + Clone + Send + Sync + 'static,
) -> Channel {
    // The name is the one in the certificates; where to connect is the connector's affair. The scheme
    // says `http` because the TLS is ours, not tonic's.
    Endpoint::from_static("http://upstream.tierway.internal")
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .max_frame_size(FRAME_BYTES)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .connect_with_connector_lazy(tower::service_fn(move |_| {
            let (routes, taken, config) = (routes.clone(), taken.clone(), config());
            async move { connect_by_any(&routes, &taken, config).await.map(TokioIo::new) }
        }))
}

/// By the first route that leads somewhere; when none does, what was wrong with each.
async fn connect_by_any(
    routes: &[Route],
    taken: &RouteTaken,
    config: Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let mut failed = Vec::new();
    let mut kind = io::ErrorKind::NotFound;
    for (place, route) in routes.iter().enumerate() {
        match connect(route, config.clone()).await {
            Ok(stream) => {
                taken.0.store(place, Ordering::Relaxed);
                return Ok(stream);
            }
            Err(error) => {
                kind = error.kind();
                failed.push(error.to_string());
            }
        }
    }
    Err(io::Error::new(kind, failed.join("; ")))
}

/// What to look at when a certificate is not of this time.
fn clock_hint(error: &io::Error) -> &'static str {
    use rustls::CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    let tls = error.get_ref().and_then(|source| source.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(
            Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. },
        )) => " (is the clock of this computer right?)",
        _ => "",
    }
}

/// One TLS connection.
///
/// # Errors
///
/// Naming the server (or proxy) that could not be reached in time, or what was wrong with its certificate.
pub async fn connect(route: &Route, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let late = |time: Duration| {
        let text = format!("no connection to `{}` within {time:?}", route.server);
        move |_| io::Error::new(io::ErrorKind::TimedOut, text)
    };
    let tcp = timeout(CONNECT_TIMEOUT, reach(route)).await.map_err(late(CONNECT_TIMEOUT))??;
    let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
    let tls = timeout(HANDSHAKE_TIMEOUT, TlsConnector::from(config).connect(name, tcp)).await;
    tls.map_err(late(HANDSHAKE_TIMEOUT))?.map_err(|error| {
        let text = format!("no TLS with `{}`: {error}{}", route.server, clock_hint(&error));
        io::Error::new(error.kind(), text)
    })
}

/// What TLS goes over.
async fn reach(route: &Route) -> io::Result<TcpStream> {
    let at = |what: &str, error: &io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
    let first = route.proxy.as_deref().unwrap_or(&route.server);
    let mut tcp = TcpStream::connect(first)
        .await
        .map_err(|error| at(&format!("could not connect to `{first}`"), &error))?;
    tcp.set_nodelay(true)?;
    if let Some(proxy) = &route.proxy {
        through_proxy(&mut tcp, &route.server).await.map_err(|error| {
            at(&format!("the proxy `{proxy}` gave no tunnel to `{}`", route.server), &error)
        })?;
    }
    Ok(tcp)
}

async fn through_proxy(tcp: &mut TcpStream, server: &str) -> io::Result<()> {
    tcp.write_all(format!("CONNECT {server} HTTP/1.1\r\nHost: {server}\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::with_capacity(256);
    // Byte by byte: what follows the empty line belongs to TLS.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() == PROXY_ANSWER_BYTES_MAX {
            return Err(io::Error::other("its answer has no end"));
        }
        answer.push(tcp.read_u8().await?);
    }
    let line = String::from_utf8_lossy(&answer);
    let line = line.lines().next().unwrap_or_default();
    match line.split(' ').nth(1) {
        Some("200") => Ok(()),
        _ => Err(io::Error::other(format!("it answered `{line}`"))),
    }
}
