//! The metadata that the TUF client verifies, as it comes from the tier above: along with the answer to a check-in, or
//! when it is asked for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;
use tierway_common::trust::tuf::{
    client::{Client, Fetcher, Trusted},
    error::{FetchError, TufError},
};

use crate::{upstream::Upstream, v1};

/// Bytes of metadata that an answer to a check-in brings along at most.
const ALONG_BYTES_MAX: usize = 64 << 10;

/// The newest metadata of a tier, but for the timestamp.
#[derive(Clone, Debug, Default)]
pub struct Newest {
    /// Version of the root; 0 when it is not known.
    pub root_version: u64,
    /// Version and bytes of the snapshot.
    pub snapshot: Option<(u64, Bytes)>,
    /// Version and bytes of the targets.
    pub targets: Option<(u64, Bytes)>,
}

impl Newest {
    /// What the answer to a check-in brings along for a caller who has targets of this version.
    #[must_use]
    pub fn along(self, targets_version: u64) -> Vec<v1::Metadata> {
        match (self.snapshot, self.targets) {
            (Some(snapshot), Some(targets))
                if targets.0 > targets_version && snapshot.1.len() + targets.1.len() <= ALONG_BYTES_MAX =>
            {
                let metadata = |role: &str, (version, content): (u64, Bytes)| v1::Metadata {
                    role: role.to_owned(),
                    version,
                    content: content.into(),
                };
                vec![metadata("snapshot", snapshot), metadata("targets", targets)]
            }
            _ => Vec::new(),
        }
    }
}

/// What the answer to a check-in says of the metadata `role` in `version`: its bytes, or that there is none; `None` when
/// it says nothing of it.
#[must_use]
pub fn came_along(answer: &v1::CheckInResponse, role: &str, version: u64) -> Option<Option<Bytes>> {
    if role == "root" {
        return (answer.root_version > 0 && version > answer.root_version).then_some(None);
    }
    let found = answer.along.iter().find(|metadata| metadata.role == role && metadata.version == version);
    found.map(|metadata| Some(Bytes::copy_from_slice(&metadata.content)))
}

/// TUF metadata from the tier above: what came along with a check-in, or else asked for.
#[derive(Clone, Debug)]
pub struct MetadataFrom {
    upstream: Upstream,
    answer: Arc<Mutex<v1::CheckInResponse>>,
}

impl MetadataFrom {
    /// From this tier above.
    #[must_use]
    pub fn new(upstream: Upstream) -> Self {
        Self { upstream, answer: Arc::default() }
    }

    /// Brings a client whose metadata comes from here up to date, after a check-in that was answered so; the default
    /// answer says nothing.
    ///
    /// # Errors
    ///
    /// Those of the client.
    pub async fn refresh<F: Fetcher>(
        &self,
        client: &mut Client<F>,
        answer: &v1::CheckInResponse,
        now: Timestamp,
    ) -> Result<Trusted, TufError> {
        self.answer().clone_from(answer);
        let refreshed = match answer.timestamp.as_deref() {
            Some(bytes) => client.refresh_with_timestamp(bytes, now).await,
            None => client.refresh(now).await,
        };
        *self.answer() = v1::CheckInResponse::default();
        refreshed
    }

    fn answer(&self) -> MutexGuard<'_, v1::CheckInResponse> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fetcher for MetadataFrom {
    async fn metadata(
        &self,
        role: &str,
        version: Option<u64>,
        bytes_max: u64,
    ) -> Result<Option<Bytes>, FetchError> {
        let along = version.and_then(|version| came_along(&self.answer(), role, version));
        let content = match along {
            Some(content) => content,
            None => self.upstream.metadata(role, version).await.map_err(FetchError::new)?,
        };
        match content {
            Some(content) if content.len() as u64 > bytes_max => {
                Err(FetchError::new(format!("it is longer than {bytes_max} bytes")))
            }
            content => Ok(content),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn newest(snapshot: usize, targets: usize) -> Newest {
        let bytes = |length| Bytes::from(vec![b' '; length]);
        Newest { root_version: 3, snapshot: Some((8, bytes(snapshot))), targets: Some((7, bytes(targets))) }
    }

    #[test]
    fn what_is_newer_comes_along_unless_it_is_large_or_not_known() {
        for (newest, targets_version, along) in [
            (newest(1_000, 2_000), 6, 2),
            (newest(1_000, 2_000), 0, 2),
            (newest(1_000, 2_000), 7, 0),
            (newest(1_000, 2_000), 8, 0),
            (newest(1_000, ALONG_BYTES_MAX - 1_000), 6, 2),
            (newest(1_000, ALONG_BYTES_MAX - 999), 6, 0),
            (Newest { snapshot: None, ..newest(1, 1) }, 6, 0),
            (Newest::default(), 0, 0),
        ] {
            assert_eq!(newest.along(targets_version).len(), along, "{targets_version}");
        }
    }

    #[test]
    fn an_answer_speaks_of_what_it_brings_along_and_of_later_roots_only() {
        let answer =
            v1::CheckInResponse { root_version: 3, along: newest(1, 2).along(6), ..Default::default() };
        let silent = v1::CheckInResponse::default();
        for (answer, role, version, says) in [
            (&answer, "snapshot", 8, Some(Some(1))),
            (&answer, "targets", 7, Some(Some(2))),
            (&answer, "snapshot", 7, None),
            (&answer, "targets", 8, None),
            (&answer, "root", 4, Some(None)),
            (&answer, "root", 3, None),
            (&silent, "root", 1, None),
            (&silent, "targets", 7, None),
        ] {
            let said = came_along(answer, role, version).map(|content| content.map(|bytes| bytes.len()));
            assert_eq!(said, says, "{role} {version}");
        }
    }
}
