//! Why there is no newer trusted metadata; the messages name the attack that it looks like.

use jiff::Timestamp;

use crate::trust::{durable::DurableError, tuf::metadata::MetadataError};

/// What went wrong on the way to the tier above; shows as that.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct FetchError(Box<dyn std::error::Error + Send + Sync>);

impl FetchError {
    /// Whatever went wrong on the way.
    pub fn new(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(source.into())
    }
}

/// Why there is no trusted metadata. What was trusted before still is, unless it expired.
#[derive(Debug, thiserror::Error)]
pub enum TufError {
    /// The tier above could not be asked.
    #[error("could not fetch `{file}`")]
    Fetch {
        /// Name on the repository.
        file: String,
        /// Why.
        source: FetchError,
    },
    /// The tier above does not have it though it must exist.
    #[error("the repository has no `{file}`")]
    Absent {
        /// Name on the repository.
        file: String,
    },
    /// Endless data, or a length that nobody would declare.
    #[error("endless data: `{file}` has more than {bytes_max} bytes")]
    TooLong {
        /// Name on the repository.
        file: String,
        /// What was allowed.
        bytes_max: u64,
    },
    /// Not the length or the digests that the role above gives.
    #[error("mix-and-match: `{file}` is not the file that `{by}` names")]
    Mismatch {
        /// Name on the repository.
        file: String,
        /// Which role names it.
        by: &'static str,
    },
    /// Malformed, not for this role, or not signed by enough keys.
    #[error("`{file}` is refused")]
    Refused {
        /// Name on the repository.
        file: String,
        /// Why.
        source: MetadataError,
    },
    /// Another version than the role above gives, or than the file's name says.
    #[error("mix-and-match: `{file}` has version {found} where {expected} is needed")]
    WrongVersion {
        /// Name on the repository.
        file: String,
        /// What it must be.
        expected: u64,
        /// What it is.
        found: u64,
    },
    /// Older than what is trusted already, or no longer there.
    #[error("rollback: `{file}` goes back from version {trusted} to {found}")]
    Rollback {
        /// Which file's version.
        file: String,
        /// The trusted one.
        trusted: u64,
        /// The one given; 0 when it is not listed any more.
        found: u64,
    },
    /// Further ahead than any honest repository goes.
    #[error("fast-forward: `{file}` jumps from version {trusted} to {found}")]
    FastForward {
        /// Which file's version.
        file: String,
        /// The trusted one; 0 for none.
        trusted: u64,
        /// The one given.
        found: u64,
    },
    /// No longer valid: withheld updates, or a clock that is ahead.
    #[error(
        "freeze: `{file}` expired at {since}, and the clock of this computer says {now}: is it ahead, or is what is newer withheld?"
    )]
    Expired {
        /// Which file.
        file: String,
        /// When.
        since: Timestamp,
        /// By the clock that it was looked at by.
        now: Timestamp,
    },
    /// Trusted metadata on disk is damaged, so that a rollback could not be noticed.
    #[error("the trusted metadata `{file}` is unreadable")]
    StoreUnreadable {
        /// File on disk.
        file: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is no root of trust in the directory.
    #[error("there is no trusted root at `{file}`")]
    NoRoot {
        /// File on disk.
        file: String,
    },
    /// Trusted metadata could not be kept.
    #[error("could not keep trusted metadata")]
    Store(#[from] DurableError),
    /// A delegated role that the snapshot does not list, or whose name no file can have.
    #[error("the delegated role `{role}` {reason}")]
    Delegate {
        /// Its name.
        role: String,
        /// What is wrong.
        reason: &'static str,
    },
}
