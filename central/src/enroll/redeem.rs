//! A token becomes an identity. Those that are redeemed at the same moment share a commit, and each fails alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tierway_common::{
    enrollment::proof_is_valid,
    id::{EndpointId, RelayId, TokenId},
    store::{StoreError, table},
    transport::identity::{Holder, Role},
    trust::keys::PublicKey,
};

use super::{
    EnrollError, Enrollment, NAME_BYTES_MAX, OPERATORS_MAX, VERSION_BYTES_MAX,
    ca::{self, Issued},
    is_assignable,
};
use crate::{
    model::{ENDPOINTS_MAX, Model, RELAYS_MAX, Write},
    state::Change,
    store::tables::{self, EndpointRecord, RelayRecord, TokenRecord},
    text::clean,
};

/// Enrolments that share a commit: more than wait at the door at once, and their rows fit into one batch.
pub const TOGETHER_MAX: usize = 64;

/// A request to redeem a token.
#[derive(Clone, Copy, Debug)]
pub struct Redemption<'a> {
    /// Public part of the token.
    pub token: &'a TokenId,
    /// Made with its secret over the request.
    pub proof: &'a [u8],
    /// PKCS #10, DER.
    pub csr_der: &'a [u8],
    /// As the machine says.
    pub host_name: &'a str,
    /// The program's version.
    pub agent_version: &'a str,
}

/// A redemption whose proof is right.
#[derive(Clone, Debug)]
pub(super) struct Applied {
    pub(super) token: TokenId,
    pub(super) key: PublicKey,
    /// What it is called, unless the token says that.
    pub(super) id: String,
    pub(super) host_name: String,
    pub(super) agent_version: String,
}

/// What those have taken who come in by the same change and are not in the model yet.
#[derive(Debug, Default)]
struct Taken {
    /// The tokens as they are in the store, and as they will be.
    tokens: BTreeMap<TokenId, (Vec<u8>, TokenRecord)>,
    keys: BTreeSet<PublicKey>,
    endpoints: u32,
    relays: usize,
    /// New names.
    operators: BTreeSet<String>,
}

impl Enrollment {
    /// Turns a token into an identity, once for each use it has. Blocks while others are enrolled; up to
    /// [`TOGETHER_MAX`] that wait share a commit.
    ///
    /// # Errors
    ///
    /// The `Token…` variants; [`EnrollError::Ca`] for a bad request; those of the store.
    pub fn redeem(&self, asked: Redemption<'_>) -> Result<Issued, EnrollError> {
        let Redemption { token, proof, csr_der, host_name, agent_version } = asked;
        // Nothing of the request is read before its proof was checked.
        if !proof_is_valid(&self.kept(token)?.verifier, csr_der, proof) {
            return Err(EnrollError::TokenProof(token.clone()));
        }
        let applied = Applied {
            token: token.clone(),
            key: ca::requested_key(csr_der)?,
            id: self.new_id()?,
            host_name: clean(host_name, NAME_BYTES_MAX),
            agent_version: clean(agent_version, VERSION_BYTES_MAX),
        };
        let redeemed = self.redeeming.ask(applied, TOGETHER_MAX, |all| self.redeem_together(all));
        redeemed.unwrap_or(Err(EnrollError::GivenUp))
    }

    /// Lets all of them in by one change; what became of each, in their order. Who fails spoils nothing for the others.
    pub(super) fn redeem_together(&self, all: &[Applied]) -> Vec<Result<Issued, EnrollError>> {
        let (mut each, mut taken) = (Vec::with_capacity(all.len()), Taken::default());
        let changed = self.state.change(|model, change| {
            for applied in all {
                each.push(change.part(|change| self.let_in(model, change, &mut taken, applied)));
            }
            for (id, (before, token)) in std::mem::take(&mut taken.tokens) {
                let row = tables::Token { tenant: self.state.tenant(), id: &id };
                change.batch.expect_equals(table::full_key(&row), before);
                change.write(Write::Token(token));
            }
            Ok::<_, StoreError>(())
        });
        if let Err(failed) = changed {
            let failed = Arc::new(failed);
            each.resize_with(all.len(), || Err(EnrollError::GivenUp));
            for one in each.iter_mut().filter(|one| matches!(one, Ok(_) | Err(EnrollError::GivenUp))) {
                *one = Err(EnrollError::Store(failed.clone()));
            }
        }
        each
    }

    /// Fills the change with one enrolment, and notes what it takes; nothing is noted when it fails.
    fn let_in(
        &self,
        model: &Model,
        change: &mut Change,
        taken: &mut Taken,
        applied: &Applied,
    ) -> Result<Issued, EnrollError> {
        let (before, mut token) = match taken.tokens.get(&applied.token) {
            Some(there) => there.clone(),
            None => {
                let token = self.kept(&applied.token)?;
                (<tables::Token<'_> as table::Table>::encode(&token)?, token)
            }
        };
        if change.now > token.expires {
            return Err(EnrollError::TokenExpired { id: token.id, at: token.expires });
        }
        token.uses = token.uses.checked_sub(1).ok_or_else(|| EnrollError::TokenUsedUp(token.id.clone()))?;
        let id = match token.role {
            Role::Operator => &token.name,
            _ => &applied.id,
        };
        let holder = self.holder(token.role, &token.site, id)?;
        let operators = model.operators();
        let is_new = |name: &String| !operators.contains_key(name) && !taken.operators.contains(name);
        let is_new_operator = token.role == Role::Operator && is_new(&holder.id);
        if is_new_operator && operators.len() + taken.operators.len() >= OPERATORS_MAX {
            return Err(EnrollError::TooMany { what: "operators", max: OPERATORS_MAX as u64 });
        }
        if taken.keys.contains(&applied.key) {
            return Err(EnrollError::KeyUsed);
        }
        let issued = self.issue(&holder, applied.key, change)?;
        enrolled(model, change, taken, &token, &holder, &issued, applied)?;
        let detail = format!("site {} certificate {}", token.site, issued.serial);
        let object = format!("{}:{}", token.role.as_str(), holder.id);
        change.audit(&format!("token:{}", token.id), "enroll", object, detail);
        taken.keys.insert(applied.key);
        match token.role {
            Role::Endpoint => taken.endpoints += 1,
            Role::Relay => taken.relays += 1,
            Role::Operator if is_new_operator => drop(taken.operators.insert(holder.id)),
            Role::Operator | Role::Central => {}
        }
        taken.tokens.insert(applied.token.clone(), (before, token));
        Ok(issued)
    }

    fn kept(&self, token: &TokenId) -> Result<TokenRecord, EnrollError> {
        let row = tables::Token { tenant: self.state.tenant(), id: token };
        table::get(self.state.store(), &row)?.ok_or_else(|| EnrollError::TokenUnknown(token.clone()))
    }
}

fn enrolled(
    model: &Model,
    change: &mut Change,
    taken: &Taken,
    token: &TokenRecord,
    holder: &Holder,
    issued: &Issued,
    applied: &Applied,
) -> Result<(), EnrollError> {
    let name = if applied.host_name.is_empty() { &holder.id } else { &applied.host_name }.clone();
    let agent_version = applied.agent_version.clone();
    let invalid_id = |_| EnrollError::NotEnrolled(holder.id.clone());
    match token.role {
        Role::Endpoint => {
            let number = model.next_endpoint().map(|next| next + taken.endpoints);
            let max = u64::from(ENDPOINTS_MAX);
            let number = number
                .filter(|number| *number < ENDPOINTS_MAX)
                .ok_or(EnrollError::TooMany { what: "endpoints", max })?;
            let id: EndpointId = holder.id.parse().map_err(invalid_id)?;
            let groups = token.groups.iter().filter(|group| is_assignable(model, group));
            change.write(Write::Endpoint(Arc::new(EndpointRecord {
                name,
                groups: groups.cloned().collect(),
                serial: issued.serial.clone(),
                certificate_expires: issued.expires,
                agent_version,
                ..EndpointRecord::enrolled(number, id, token.site.clone(), issued.key, change.now)
            })));
        }
        Role::Relay => {
            if model.relays().len() + taken.relays >= RELAYS_MAX {
                return Err(EnrollError::TooMany { what: "relays", max: RELAYS_MAX as u64 });
            }
            let id: RelayId = holder.id.parse().map_err(invalid_id)?;
            change.write(Write::Relay(Arc::new(RelayRecord {
                id,
                name,
                site: token.site.clone(),
                enrolled_at: change.now,
                serial: issued.serial.clone(),
                certificate_expires: issued.expires,
                key: issued.key,
                revoked: false,
                agent_version,
                last_seen: None,
                timestamp_version: 0,
                versions: vec![],
                health: tables::RelayHealth::default(),
            })));
        }
        Role::Operator | Role::Central => {}
    }
    Ok(())
}
