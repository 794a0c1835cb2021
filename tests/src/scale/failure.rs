//! Why a load simulation could not go on; what it finds out about the tiers is not a failure but a finding.

use std::error::Error;

/// What could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// With why.
    #[error("could not {what}")]
    Step {
        /// Completes "could not …".
        what: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A complete sentence.
    #[error("{0}")]
    Plain(String),
}

impl Failure {
    /// A complete sentence about what is wrong.
    #[must_use]
    pub fn plain(text: impl Into<String>) -> Self {
        Self::Plain(text.into())
    }
}

/// For `map_err`: `what` completes "could not …".
pub fn failed<E: Into<Box<dyn Error + Send + Sync>>>(what: impl Into<String>) -> impl FnOnce(E) -> Failure {
    move |error| Failure::Step { what: what.into(), source: error.into() }
}
