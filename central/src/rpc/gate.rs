//! Who may come in: decided for every request, from the certificate of its connection.

use std::sync::Arc;

use http::Extensions;
use tierway_common::transport::identity::{PeerIdentity, Role};
use tonic::Status;
use tracing::warn;

use crate::state::State;

/// Decides who may call what.
#[derive(Clone, Debug)]
pub struct Gate {
    state: Arc<State>,
}

impl Gate {
    /// With what is revoked as in `state`.
    #[must_use]
    pub fn new(state: Arc<State>) -> Self {
        Self { state }
    }

    /// The caller, when it has one of these roles.
    ///
    /// # Errors
    ///
    /// What the caller is told: it has no certificate, an expired or revoked one, another tenant's, or no
    /// business here.
    pub fn admit(&self, extensions: &Extensions, roles: &[Role]) -> Result<Arc<PeerIdentity>, Status> {
        let peer: &Arc<PeerIdentity> = extensions
            .get()
            .ok_or_else(|| Status::unauthenticated("this call needs a certificate: enrol first"))?;
        if peer.not_after < self.state.now() {
            return Err(Status::unauthenticated("this certificate has expired: renew it"));
        }
        if peer.holder.tenant != *self.state.tenant() || !roles.contains(&peer.holder.role) {
            warn!(peer = %peer.holder, "refused a call");
            return Err(Status::permission_denied(format!("`{}` may not call this", peer.holder)));
        }
        let model = self.state.model();
        let revoked = model.is_revoked(&peer.serial)
            || match peer.holder.role {
                Role::Endpoint => {
                    let id = peer.holder.id.parse().ok();
                    id.and_then(|id| model.endpoint_by_id(&id)).is_none_or(|endpoint| endpoint.revoked)
                }
                Role::Relay => {
                    let id = peer.holder.id.parse().ok();
                    id.and_then(|id| model.relays().get(&id)).is_none_or(|relay| relay.revoked)
                }
                Role::Operator | Role::Central => false,
            };
        if revoked {
            warn!(peer = %peer.holder, "refused a revoked certificate");
            return Err(Status::permission_denied("this certificate is revoked"));
        }
        Ok(peer.clone())
    }

    /// As whom an operator acts, `operator:<name>`; nobody else may call.
    ///
    /// # Errors
    ///
    /// As [`Gate::admit`].
    pub fn operator(&self, extensions: &Extensions) -> Result<String, Status> {
        Ok(format!("operator:{}", self.admit(extensions, &[Role::Operator])?.holder.id))
    }
}
