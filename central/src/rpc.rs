//! The door: converts messages, calls, converts back. Nothing is decided here but who may come in.

pub mod admin;
pub mod gate;
pub mod packages;
pub mod policies;
pub mod upstream;

use std::sync::Arc;

use jiff::Timestamp;
use tierway_common::{
    daemon::{chain::Chain, disk},
    lease::LeaseError,
};
use tonic::Status;
use tracing::error;

use crate::{
    catalog::CatalogError, decide::DecideError, download::DownloadError, enroll::EnrollError,
    fleet::AskError, leases::AskError as LeaseAskError, packages::PackagesError, plan::PlanError,
    server::Central,
};

/// Unix milliseconds as in messages, 0 for never.
fn millis(at: Option<Timestamp>) -> i64 {
    at.map_or(0, Timestamp::as_millisecond)
}

/// Unix milliseconds of seconds, 0 for never.
fn millis_of_seconds(seconds: Option<u32>) -> i64 {
    seconds.map_or(0, |seconds| i64::from(seconds) * 1_000)
}

/// Runs `work` where it may block.
async fn blocking<T, E>(
    central: &Arc<Central>,
    work: impl FnOnce(&Central) -> Result<T, E> + Send + 'static,
) -> Result<T, Status>
where
    T: Send + 'static,
    E: ToStatus + Send + 'static,
{
    let central = central.clone();
    match disk::blocking(move || work(&central)).await {
        Ok(result) => result.map_err(|error| error.to_status()),
        Err(_) => Err(Status::internal("central met a fault")),
    }
}

/// What a caller is told of an error.
trait ToStatus {
    fn to_status(&self) -> Status;
}

/// The fault is central's own: it is logged here, and the caller may come again.
fn own_fault(error: &dyn std::error::Error) -> Status {
    error!(error = %Chain(error), "a call failed");
    Status::unavailable(format!("central has a problem: {error}"))
}

impl ToStatus for Status {
    fn to_status(&self) -> Status {
        self.clone()
    }
}

impl ToStatus for AskError {
    fn to_status(&self) -> Status {
        match self {
            Self::NotFound { .. } => Status::not_found(self.to_string()),
            Self::Ambiguous { .. } | Self::Invalid { .. } => Status::invalid_argument(self.to_string()),
            Self::Store(_) | Self::Tree(_) | Self::Document { .. } => own_fault(self),
        }
    }
}

impl ToStatus for DecideError {
    fn to_status(&self) -> Status {
        match self {
            Self::Ask(error) => error.to_status(),
            Self::Invalid { .. } => Status::invalid_argument(self.to_string()),
            Self::Document { .. } => Status::invalid_argument(Chain(self).to_string()),
            Self::TooMany { .. } => Status::resource_exhausted(self.to_string()),
            Self::InUse { .. } | Self::NotPassed { .. } => Status::failed_precondition(self.to_string()),
            Self::Store(_) => own_fault(self),
        }
    }
}

impl ToStatus for EnrollError {
    fn to_status(&self) -> Status {
        use crate::enroll::ca::CaError;
        match self {
            Self::TokenUnknown(_)
            | Self::TokenExpired { .. }
            | Self::TokenUsedUp(_)
            | Self::TokenProof(_)
            | Self::CertificateUnknown { .. }
            | Self::CertificateExpired { .. }
            | Self::Revoked(_)
            | Self::KeyUsed
            | Self::RenewProof { .. } => Status::permission_denied(self.to_string()),
            Self::NotEnrolled(_) => Status::not_found(self.to_string()),
            Self::Invalid { .. } | Self::Ca(CaError::Request(_) | CaError::RequestSignature) => {
                Status::invalid_argument(Chain(self).to_string())
            }
            Self::TooMany { .. } | Self::LastOperator(_) => Status::failed_precondition(self.to_string()),
            Self::RenewedAlready { .. } => Status::resource_exhausted(self.to_string()),
            Self::Ca(_) | Self::Store(_) | Self::GivenUp => own_fault(self),
        }
    }
}

impl ToStatus for PlanError {
    fn to_status(&self) -> Status {
        match self {
            Self::Ask(error) => error.to_status(),
            Self::Decide(error) => error.to_status(),
        }
    }
}

impl ToStatus for LeaseAskError {
    fn to_status(&self) -> Status {
        match self {
            Self::Ask(LeaseError::Malformed { .. }) | Self::Nothing => {
                Status::invalid_argument(self.to_string())
            }
            Self::Ask(LeaseError::Signature { .. } | LeaseError::Other | LeaseError::Expired { .. })
            | Self::Tenant(_)
            | Self::NotEnrolled(_)
            | Self::Carrier { .. } => Status::permission_denied(self.to_string()),
            Self::Clock { .. } | Self::Repeated { .. } | Self::NotItsWindow { .. } | Self::TooMany => {
                Status::failed_precondition(self.to_string())
            }
            Self::Ask(LeaseError::Write { .. })
            | Self::Policy(_)
            | Self::Document { .. }
            | Self::Store(_) => own_fault(self),
        }
    }
}

impl ToStatus for tierway_common::store::StoreError {
    fn to_status(&self) -> Status {
        own_fault(self)
    }
}

impl ToStatus for PackagesError {
    fn to_status(&self) -> Status {
        use tierway_common::blobs::BlobError;
        match self {
            Self::Absent { .. } | Self::Unknown { .. } => Status::not_found(self.to_string()),
            Self::Other { .. } => Status::already_exists(self.to_string()),
            Self::TooMany => Status::resource_exhausted(self.to_string()),
            Self::TooLong { .. } | Self::FileName { .. } | Self::Local(_) => {
                Status::invalid_argument(Chain(self).to_string())
            }
            Self::Blob(BlobError::Writing { .. }) => Status::aborted("somebody sends the same file just now"),
            Self::Blob(BlobError::Mismatch { .. } | BlobError::TooLarge { .. }) => {
                Status::data_loss(Chain(self).to_string())
            }
            Self::Blob(BlobError::QuotaExceeded { .. } | BlobError::DiskFull { .. }) => {
                Status::resource_exhausted(Chain(self).to_string())
            }
            Self::Blob(_) => own_fault(self),
            Self::Catalog(error) => error.to_status(),
            Self::Store(error) => error.to_status(),
        }
    }
}

impl ToStatus for CatalogError {
    fn to_status(&self) -> Status {
        own_fault(self)
    }
}

impl ToStatus for DownloadError {
    fn to_status(&self) -> Status {
        Status::unavailable(Chain(self).to_string())
    }
}

#[cfg(test)]
mod tests;
