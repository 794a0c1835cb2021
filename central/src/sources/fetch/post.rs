//! Asking with a body, as SOAP does.

use std::future::Future;

use bytes::{Bytes, BytesMut};
use reqwest::header;

use super::{Body as _, FetchError, HttpBody, HttpFetch, Patience};

/// An answer, whatever its status: SOAP's faults come with 500.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posted {
    /// HTTP status.
    pub status: u16,
    /// All of the answer.
    pub bytes: Bytes,
}

/// The outside world, as far as it answers POST.
pub trait Post: Send + Sync {
    /// Sends `body` for the operation `action`; the answer has at most `bytes_max` bytes.
    ///
    /// # Errors
    ///
    /// [`FetchError`] when there is no whole answer.
    fn post(
        &self,
        url: &str,
        action: &str,
        body: String,
        bytes_max: u64,
    ) -> impl Future<Output = Result<Posted, FetchError>> + Send;
}

impl Post for HttpFetch {
    async fn post(
        &self,
        url: &str,
        action: &str,
        body: String,
        bytes_max: u64,
    ) -> Result<Posted, FetchError> {
        let request = self
            .client
            .post(url)
            .header(header::CONTENT_TYPE, "text/xml; charset=utf-8")
            .header("SOAPAction", format!("\"{action}\""))
            .body(body);
        let mut patience = Patience::default();
        let response = patience
            .wait(url, async {
                let failed = |source: reqwest::Error| FetchError::Connect {
                    url: url.to_owned(),
                    source: source.without_url(),
                };
                request.send().await.map_err(failed)
            })
            .await?;
        let status = response.status().as_u16();
        let mut body = HttpBody { url: url.to_owned(), bytes: 0, response };
        let mut held = BytesMut::new();
        while let Some(chunk) = patience.wait(url, body.chunk()).await? {
            patience.came(chunk.len());
            if held.len() as u64 + chunk.len() as u64 > bytes_max {
                return Err(FetchError::TooLong { url: url.to_owned(), bytes_max });
            }
            held.extend_from_slice(&chunk);
        }
        Ok(Posted { status, bytes: held.freeze() })
    }
}
