//! Fetching from vendors over HTTP: conditional, bounded, resumable, never for ever.
//!
//! Nothing that is fetched is believed here; who asked for it checks signature or digest.

use std::{future::Future, time::Duration};

use bytes::{Bytes, BytesMut};
use reqwest::{StatusCode, header, redirect};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};
use tracing::debug;

pub mod post;

/// Slowest rate that is still called progress, in bytes per second: below it a server only holds us.
const RATE_MIN: u64 = 2048;

/// Time that any request may take on top of its bytes at [`RATE_MIN`].
const GRACE: Duration = Duration::from_secs(60);

/// Longest wait between two attempts.
const DELAY_MAX: Duration = Duration::from_secs(60);

/// A fetch that failed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The client cannot be made from the configuration.
    #[error("the HTTP client cannot be set up")]
    Client {
        /// Why.
        source: reqwest::Error,
    },
    /// The server could not be asked.
    #[error("could not reach `{url}`")]
    Connect {
        /// What was asked for.
        url: String,
        /// Why.
        source: reqwest::Error,
    },
    /// The answer broke off.
    #[error("the answer for `{url}` broke off after {bytes} bytes")]
    Cut {
        /// What was asked for.
        url: String,
        /// How much had come.
        bytes: u64,
        /// Why.
        source: Option<reqwest::Error>,
    },
    /// The answer has a status that helps nobody.
    #[error("`{url}` was answered with status {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// HTTP status.
        status: u16,
    },
    /// More came than may come.
    #[error("the answer for `{url}` is longer than {bytes_max} bytes")]
    TooLong {
        /// What was asked for.
        url: String,
        /// The limit.
        bytes_max: u64,
    },
    /// It took too long.
    #[error("`{url}` did not come within {seconds} s")]
    Slow {
        /// What was asked for.
        url: String,
        /// How long was waited.
        seconds: u64,
    },
}

impl FetchError {
    /// Whether the same request may succeed a moment later.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Connect { source, .. } => !source.is_redirect(),
            Self::Cut { .. } => true,
            Self::Status { status, .. } => *status >= 500 || matches!(status, 408 | 425 | 429),
            Self::Client { .. } | Self::TooLong { .. } | Self::Slow { .. } => false,
        }
    }
}

/// What a server said of one version of a file, to be shown to it the next time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Validators {
    /// `ETag`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// `Last-Modified`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<String>,
}

/// How often to try, and how long to wait between.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// Attempts without any progress before giving up, the first included.
    pub attempts: u32,
    /// Wait after the first failure; doubles from failure to failure up to one minute.
    pub delay: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 5, delay: Duration::from_secs(1) }
    }
}

impl Retry {
    /// The wait after that many failures in a row (from 1), `None` when it is time to give up.
    #[must_use]
    pub fn wait(&self, failures: u32) -> Option<Duration> {
        let doubled = self.delay.saturating_mul(1 << failures.saturating_sub(1).min(16));
        (failures < self.attempts).then_some(doubled.min(DELAY_MAX))
    }
}

/// The beginning of an answer.
#[derive(Debug)]
pub enum Answer<B> {
    /// 304: what the validators describe is still current.
    NotModified,
    /// 404 or 410.
    Absent,
    /// The file, or the rest of it.
    Found {
        /// Position of the first byte that comes.
        offset: u64,
        /// For the next time.
        validators: Validators,
        /// The bytes.
        body: B,
    },
}

/// An answer's bytes.
pub trait Body: Send {
    /// The next bytes, never empty; `None` when the answer is complete.
    fn chunk(&mut self) -> impl Future<Output = Result<Option<Bytes>, FetchError>> + Send;
}

/// The outside world, as far as it answers GET.
pub trait Fetch: Send + Sync {
    /// The bytes of an answer.
    type Body: Body;

    /// Asks for `url` from `offset` on. `validators` are sent for a whole file only.
    ///
    /// # Errors
    ///
    /// [`FetchError`] for anything but a file, a missing file, or an unchanged one.
    fn get(
        &self,
        url: &str,
        validators: Option<&Validators>,
        offset: u64,
    ) -> impl Future<Output = Result<Answer<Self::Body>, FetchError>> + Send;
}

/// [`Fetch`] over the network.
#[derive(Clone, Debug)]
pub struct HttpFetch {
    client: reqwest::Client,
}

impl HttpFetch {
    /// A client that goes through `proxy` (`http://…`, `socks5://…`), or else through what the system's
    /// environment names. `idle` bounds connecting and the silence between two pieces of an answer. A server that TLS
    /// authenticates cannot send it on to one that nobody does.
    ///
    /// # Errors
    ///
    /// [`FetchError::Client`] when the proxy cannot be understood.
    pub fn new(proxy: Option<&str>, idle: Duration) -> Result<Self, FetchError> {
        // Fails when a provider is there already, which is all that matters.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = match builder(proxy, idle)?.build() {
            Ok(client) => client,
            // A system without a single root certificate: archives over plain HTTP can still be read,
            // since what they say is signed; over HTTPS every request will fail.
            Err(_) => builder(proxy, idle)?
                .tls_certs_only([])
                .build()
                .map_err(|source| FetchError::Client { source })?,
        };
        Ok(Self { client })
    }
}

fn builder(proxy: Option<&str>, idle: Duration) -> Result<reqwest::ClientBuilder, FetchError> {
    let builder = reqwest::Client::builder()
        .user_agent(concat!("tierway-central/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::custom(|attempt| {
            let is_https = |url: &reqwest::Url| url.scheme() == "https";
            if attempt.previous().last().is_some_and(is_https) && !is_https(attempt.url()) {
                let to = attempt.url().to_string();
                attempt.error(Downgrade { to })
            } else {
                redirect::Policy::default().redirect(attempt)
            }
        }))
        .connect_timeout(idle)
        .read_timeout(idle);
    match proxy {
        Some(proxy) => {
            let proxy = reqwest::Proxy::all(proxy).map_err(|source| FetchError::Client { source })?;
            Ok(builder.proxy(proxy))
        }
        None => Ok(builder),
    }
}

/// An authenticated server sends to another address that is not.
#[derive(Debug, thiserror::Error)]
#[error("it leads from https to `{to}`, which is not authenticated")]
struct Downgrade {
    to: String,
}

/// The bytes of an answer from the network.
#[derive(Debug)]
pub struct HttpBody {
    url: String,
    bytes: u64,
    response: reqwest::Response,
}

impl Body for HttpBody {
    async fn chunk(&mut self) -> Result<Option<Bytes>, FetchError> {
        loop {
            let chunk = self.response.chunk().await.map_err(|source| FetchError::Cut {
                url: self.url.clone(),
                bytes: self.bytes,
                source: Some(source.without_url()),
            })?;
            match chunk {
                Some(chunk) if chunk.is_empty() => {}
                Some(chunk) => {
                    self.bytes += chunk.len() as u64;
                    return Ok(Some(chunk));
                }
                None => return Ok(None),
            }
        }
    }
}

impl Fetch for HttpFetch {
    type Body = HttpBody;

    async fn get(
        &self,
        url: &str,
        validators: Option<&Validators>,
        offset: u64,
    ) -> Result<Answer<HttpBody>, FetchError> {
        let mut request = self.client.get(url);
        if offset > 0 {
            request = request.header(header::RANGE, format!("bytes={offset}-"));
        } else if let Some(validators) = validators {
            if let Some(etag) = &validators.etag {
                request = request.header(header::IF_NONE_MATCH, etag);
            }
            if let Some(last_modified) = &validators.last_modified {
                request = request.header(header::IF_MODIFIED_SINCE, last_modified);
            }
        }
        let response = request
            .send()
            .await
            .map_err(|source| FetchError::Connect { url: url.to_owned(), source: source.without_url() })?;
        let text = |name| {
            let value = response.headers().get(name)?;
            Some(value.to_str().ok()?.to_owned())
        };
        let validators = Validators { etag: text(header::ETAG), last_modified: text(header::LAST_MODIFIED) };
        let status = response.status();
        let offset = match status {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT => text(header::CONTENT_RANGE)
                .and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok())
                .filter(|begin| *begin <= offset)
                .ok_or_else(|| FetchError::Status { url: url.to_owned(), status: status.as_u16() })?,
            StatusCode::NOT_MODIFIED => return Ok(Answer::NotModified),
            StatusCode::NOT_FOUND | StatusCode::GONE => return Ok(Answer::Absent),
            _ => return Err(FetchError::Status { url: url.to_owned(), status: status.as_u16() }),
        };
        Ok(Answer::Found { offset, validators, body: HttpBody { url: url.to_owned(), bytes: 0, response } })
    }
}

/// A whole small file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whole {
    /// What the validators describe is still current.
    NotModified,
    /// There is none.
    Absent,
    /// The file.
    Found {
        /// All of it.
        bytes: Bytes,
        /// For the next time.
        validators: Validators,
    },
}

/// Fetches a whole file of at most `bytes_max` into memory, going on where an answer broke off.
///
/// # Errors
///
/// The last [`FetchError`], when it does not pass or [`Retry`] gives up.
pub async fn whole<F: Fetch>(
    fetch: &F,
    url: &str,
    validators: Option<&Validators>,
    bytes_max: u64,
    retry: Retry,
) -> Result<Whole, FetchError> {
    let mut held = BytesMut::new();
    let mut patience = Patience::default();
    let mut failures = 0;
    loop {
        let before = held.len();
        let error = match attempt(fetch, url, validators, bytes_max, &mut held, &mut patience).await {
            Ok(Some(validators)) => return Ok(Whole::Found { bytes: held.freeze(), validators }),
            Ok(None) => return Ok(Whole::NotModified),
            Err(FetchError::Status { status: 404, .. }) => return Ok(Whole::Absent),
            Err(error) => error,
        };
        failures = if held.len() > before { 1 } else { failures + 1 };
        patience.retry(retry, failures, error).await?;
    }
}

/// One attempt; the validators when the file is complete, `None` when it was not modified.
async fn attempt<F: Fetch>(
    fetch: &F,
    url: &str,
    validators: Option<&Validators>,
    bytes_max: u64,
    held: &mut BytesMut,
    patience: &mut Patience,
) -> Result<Option<Validators>, FetchError> {
    let (offset, validators, mut body) =
        match patience.wait(url, fetch.get(url, validators, held.len() as u64)).await? {
            Answer::NotModified => return Ok(None),
            Answer::Absent => return Err(FetchError::Status { url: url.to_owned(), status: 404 }),
            Answer::Found { offset, validators, body } => (offset, validators, body),
        };
    // The server may begin earlier than asked.
    held.truncate(usize::try_from(offset).unwrap_or(usize::MAX));
    while let Some(chunk) = patience.wait(url, body.chunk()).await? {
        patience.came(chunk.len());
        if held.len() as u64 + chunk.len() as u64 > bytes_max {
            return Err(FetchError::TooLong { url: url.to_owned(), bytes_max });
        }
        held.extend_from_slice(&chunk);
    }
    Ok(Some(validators))
}

/// How long one file may take, all attempts together: a server that sends a byte now and then must not
/// hold us for ever.
#[derive(Clone, Copy, Debug, Default)]
pub struct Patience {
    waited: Duration,
    bytes: u64,
}

impl Patience {
    /// Waits for the server.
    ///
    /// # Errors
    ///
    /// [`FetchError::Slow`] when all waiting so far exceeds one minute and what the bytes so far may take
    /// at 2 KiB/s; else what `work` returns.
    pub async fn wait<T>(
        &mut self,
        url: &str,
        work: impl Future<Output = Result<T, FetchError>>,
    ) -> Result<T, FetchError> {
        let limit = GRACE + Duration::from_secs(self.bytes / RATE_MIN);
        let begun = Instant::now();
        let outcome = timeout(limit.saturating_sub(self.waited), work).await;
        self.waited += begun.elapsed();
        outcome.unwrap_or_else(|_| Err(FetchError::Slow { url: url.to_owned(), seconds: limit.as_secs() }))
    }

    /// Counts what came.
    pub fn came(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// Waits before the next attempt after that many failures in a row.
    ///
    /// # Errors
    ///
    /// `error` when it does not pass or it is time to give up.
    pub async fn retry(&mut self, retry: Retry, failures: u32, error: FetchError) -> Result<(), FetchError> {
        match retry.wait(failures).filter(|_| error.is_passing()) {
            Some(wait) => {
                debug!(%error, failures, "fetching again");
                tokio::time::sleep(wait).await;
                self.waited += wait;
                Ok(())
            }
            None => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, sync::Arc};

    use tierway_common::daemon::chain::Chain;
    use tokio::{
        io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
        net::TcpListener,
    };
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::sources::testing::Server;

    #[test]
    fn waits_double_up_to_a_minute_and_end() {
        let retry = Retry { attempts: 9, delay: Duration::from_secs(1) };
        let waits: Vec<_> = (1..=9).map(|failures| retry.wait(failures).map(|wait| wait.as_secs())).collect();
        let expected = [1, 2, 4, 8, 16, 32, 60, 60].map(Some).into_iter().chain([None]);
        assert_eq!(waits, expected.collect::<Vec<_>>());
    }

    /// Answers every request with the same redirection, over TLS when there is a configuration for it.
    async fn redirecting(to: String, tls: Option<Arc<rustls::ServerConfig>>) -> SocketAddr {
        async fn answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), to: &str) -> std::io::Result<()> {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await?);
            }
            let answer =
                format!("HTTP/1.1 302 X\r\nLocation: {to}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await?;
            stream.shutdown().await
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                // The client may hang up at any time.
                let _ = match &tls {
                    Some(tls) => match TlsAcceptor::from(tls.clone()).accept(stream).await {
                        Ok(mut stream) => answer(&mut stream, &to).await,
                        Err(error) => Err(error),
                    },
                    None => answer(&mut stream, &to).await,
                };
            }
        });
        address
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_authenticated_server_sends_to_none_that_is_not() {
        let files = Server::start().await;
        files.put("/a", b"file".as_slice());
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = rustls_pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let _ = rustls::crypto::ring::default_provider().install_default();
        let tls = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .unwrap();
        let certificate = reqwest::Certificate::from_der(made.cert.der()).unwrap();
        let idle = Duration::from_secs(10);
        let client = builder(None, idle).unwrap().no_proxy().tls_certs_only([certificate]).build().unwrap();
        let fetch = HttpFetch { client };
        let retry = Retry { attempts: 5, delay: Duration::from_millis(1) };
        let target = format!("{}/a", files.url);

        // From plain to plain it may lead.
        let plain = redirecting(target.clone(), None).await;
        let found = whole(&fetch, &format!("http://{plain}/"), None, 100, retry).await.unwrap();
        assert!(matches!(found, Whole::Found { bytes, .. } if bytes == b"file".as_slice()));
        assert_eq!(files.seen().len(), 1);

        let secure = redirecting(target.clone(), Some(Arc::new(tls.clone()))).await;
        let first = redirecting(format!("https://{secure}/"), Some(Arc::new(tls))).await;
        for url in [format!("https://{secure}/"), format!("https://{first}/")] {
            let error = whole(&fetch, &url, None, 100, retry).await.unwrap_err();
            let text = Chain(&error).to_string();
            assert!(
                text.contains(&format!("leads from https to `{target}`, which is not authenticated")),
                "{text}"
            );
            assert!(!error.is_passing(), "it is not tried again");
        }
        assert!(files.seen().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_drips_is_left_after_a_minute() {
        struct Drip;
        impl Body for Drip {
            async fn chunk(&mut self) -> Result<Option<Bytes>, FetchError> {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(Some(Bytes::from_static(b"x")))
            }
        }
        impl Fetch for Drip {
            type Body = Self;
            async fn get(
                &self,
                _: &str,
                _: Option<&Validators>,
                offset: u64,
            ) -> Result<Answer<Self>, FetchError> {
                Ok(Answer::Found { offset, validators: Validators::default(), body: Self })
            }
        }
        let begun = Instant::now();
        let error = whole(&Drip, "http://drip", None, 1 << 20, Retry::default()).await.unwrap_err();
        assert!(matches!(error, FetchError::Slow { .. }), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(70), "{:?}", begun.elapsed());
    }
}
