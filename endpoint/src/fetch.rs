//! What an installation needs from the tier above: payloads, and entries of the pool.

use std::{path::PathBuf, time::Duration};

use tierway_common::{
    blobs::Blobs,
    schema::{Payload, PoolEntry},
    trust::digest::Digest,
};
use tierway_proto::upstream::{Upstream, UpstreamError};
use tracing::info;

use crate::{
    catalogues::Lookup,
    install::{PayloadFetcher, Pool, Unavailable},
};

/// First and longest wait for a payload that the tier above is fetching itself.
const WAIT: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));

/// Payloads into this computer's blobs.
#[derive(Debug)]
pub struct Fetcher<'a> {
    /// The tier above.
    pub upstream: &'a Upstream,
    /// Where they are kept.
    pub payloads: &'a Blobs,
    /// How long one that the tier above does not have yet is waited for.
    pub patience: Duration,
}

impl PayloadFetcher for Fetcher<'_> {
    async fn ensure(&self, payloads: &[Payload]) -> Result<(), Unavailable> {
        for Payload { digest, bytes, url } in payloads {
            let (mut wait, mut waited) = (WAIT.0, Duration::ZERO);
            loop {
                match self.upstream.payload(*digest, Some(*bytes), self.payloads).await {
                    Ok(()) => break,
                    Err(UpstreamError::Absent(_) | UpstreamError::Slow { .. }) if waited < self.patience => {
                        info!(%digest, "the tier above does not have a payload yet");
                        tokio::time::sleep(wait).await;
                        waited += wait;
                        wait = (wait * 2).min(WAIT.1);
                    }
                    Err(error) => {
                        let name = url.rsplit('/').next().unwrap_or(url);
                        return Err(Unavailable {
                            what: format!("the payload `{name}`"),
                            source: error.into(),
                        });
                    }
                }
            }
        }
        Ok(())
    }

    fn path(&self, digest: &Digest) -> Option<PathBuf> {
        self.payloads.path(digest)
    }
}

impl Pool for Lookup {
    async fn lookup(&self, architecture: &str, name: &str) -> Result<Option<PoolEntry>, Unavailable> {
        let key = format!("package/{architecture}/{name}");
        let unavailable =
            |source| Unavailable { what: format!("what is known of the package `{name}`"), source };
        let document = self.pool(&key).await.map_err(|error| unavailable(error.into()))?;
        document
            .map(|bytes| serde_json::from_slice(&bytes))
            .transpose()
            .map_err(|error| unavailable(error.into()))
    }
}
