//! How machines and operators get their identity, keep it and lose it.
//!
//! A token is redeemed in the same batch that records the certificate, so that of many uses at once
//! only as many succeed as it allows. Tokens that are redeemed at the same moment share a commit. What a
//! certificate says comes from the token or from the certificate before, never from the request.

pub mod ca;
mod queue;
mod redeem;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use jiff::Timestamp;
use ring::rand::SecureRandom;
use tierway_common::{
    enrollment::{RENEW_CONTEXT, SECRET_BYTES, Token},
    id::{GroupId, SiteId, TokenId},
    schema::Members,
    store::{StoreError, table},
    transport::identity::{Holder, PeerIdentity, Role},
    trust::{digest::Digest, keys::PublicKey},
};

pub use self::redeem::{Redemption, TOGETHER_MAX};
use self::{
    ca::{Authority, CaError, Issued},
    queue::Queue,
    redeem::Applied,
};
use crate::{
    model::{Model, Write},
    policy::GROUPS_PER_ENDPOINT_MAX,
    state::{Change, State},
    store::tables::{self, CertificateRecord, EndpointRecord, RelayRecord, TokenRecord},
    text::clean,
};

/// Tokens kept at once: one for each of a large batch of machines.
pub const TOKENS_MAX: usize = 10_000;
/// Uses of one token: a whole site set up from one image.
pub const TOKEN_USES_MAX: u32 = 100_000;
/// How long a token is valid unless said otherwise.
pub const TOKEN_VALID: Duration = Duration::from_secs(24 * 60 * 60);
/// Names of operators that may have certificates at once.
pub const OPERATORS_MAX: usize = 1_000;
/// A holder gets at most so many certificates in the life of one, evenly apart: whoever asks all the time must not
/// fill the store. Who asks in earnest, a third of a life later, is far from it, and one whose answer was lost asks again
/// after two hours and a half (an endpoint).
const RENEWALS_IN_A_LIFE: u32 = 300;
/// Longest validity of a token.
pub const TOKEN_VALID_MAX: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// A certificate may be renewed this long after its end unless configured otherwise: a machine comes back from
/// a long leave.
pub const RENEWAL_GRACE: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// An expired token is kept this long, so that its use can be told from that of an unknown one.
const TOKEN_KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Keys of an endpoint whose signature counts: reports signed before a renewal may still be on their way.
const KEYS_MAX: usize = 3;
/// Longest host name shown (RFC 1035).
const NAME_BYTES_MAX: usize = 253;
/// Longest version shown.
const VERSION_BYTES_MAX: usize = 64;

/// Why nobody got or lost an identity.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// Never made here, or long expired.
    #[error("token `{0}` is not known here")]
    TokenUnknown(TokenId),
    /// Too late.
    #[error("token `{id}` expired at {at}")]
    TokenExpired {
        /// Which.
        id: TokenId,
        /// When.
        at: Timestamp,
    },
    /// Used as often as it may.
    #[error("token `{0}` was used as often as it may be")]
    TokenUsedUp(TokenId),
    /// The proof is for another request or made with another secret.
    #[error("the proof does not belong to token `{0}` and this request")]
    TokenProof(TokenId),
    /// The certificate to be renewed was not issued here, or has been gone for long.
    #[error("certificate `{serial}` was not issued here")]
    CertificateUnknown {
        /// Its serial.
        serial: String,
    },
    /// Too long expired to be renewed.
    #[error("certificate `{serial}` expired at {at}, too long ago to be renewed")]
    CertificateExpired {
        /// Its serial.
        serial: String,
        /// Its end.
        at: Timestamp,
    },
    /// No longer believed.
    #[error("`{0}` is revoked")]
    Revoked(String),
    /// Not signed with the key of the certificate to be renewed.
    #[error("the proof does not belong to certificate `{serial}` and this request")]
    RenewProof {
        /// Its serial.
        serial: String,
    },
    /// It was renewed just now.
    #[error("`{identity}` got a certificate at {at}, the next one not before {next}")]
    RenewedAlready {
        /// Whose.
        identity: String,
        /// When.
        at: Timestamp,
        /// Not before.
        next: Timestamp,
    },
    /// Without it nobody would be left who could let another in.
    #[error("operator `{0}` is the last one: let another in first")]
    LastOperator(String),
    /// A key gets one certificate: whoever carried the request before may send it again.
    #[error("the key of this request has a certificate already: a request is good once")]
    KeyUsed,
    /// There is no such machine.
    #[error("`{0}` is not enrolled")]
    NotEnrolled(String),
    /// Something asked for is not possible.
    #[error("`{what}` must be {rule}, found `{found}`")]
    Invalid {
        /// Which part.
        what: &'static str,
        /// What it must be.
        rule: String,
        /// What it is.
        found: String,
    },
    /// One more than there may be.
    #[error("there may be at most {max} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        max: u64,
    },
    /// Making the certificate failed.
    #[error("could not issue a certificate")]
    Ca(#[from] CaError),
    /// The store failed, for all whose change it was.
    #[error("could not keep the change")]
    Store(#[source] Arc<StoreError>),
    /// Whoever did it for this one, too, came to no end.
    #[error("nothing is known of what became of it")]
    GivenUp,
}

impl From<StoreError> for EnrollError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

/// What a new token shall allow.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// What it makes: endpoint, relay or operator.
    pub role: Role,
    /// Where.
    pub site: SiteId,
    /// How often.
    pub uses: u32,
    /// For how long.
    pub valid: Duration,
    /// Where the new machine connects, `host:port`, in order.
    pub servers: Vec<String>,
    /// Groups that shall name the new endpoint.
    pub groups: Vec<GroupId>,
    /// Name of the new operator; empty for the others, who get an id.
    pub name: String,
}

/// Gives out, renews and revokes identities.
#[derive(Debug)]
pub struct Enrollment {
    state: Arc<State>,
    redeeming: Queue<Applied, Result<Issued, EnrollError>>,
    authority: Authority,
    root_metadata: Digest,
    renewal_grace: Duration,
    random: Arc<dyn SecureRandom + Send + Sync>,
    ids: NewIds,
}

/// The ids of new machines: random, but for a simulation, in which a seed decides everything.
#[derive(Clone, Default)]
pub enum NewIds {
    /// Random.
    #[default]
    Random,
    /// 16 bytes that are told.
    Told(Arc<dyn Fn() -> [u8; 16] + Send + Sync>),
}

impl fmt::Debug for NewIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, Self::Random) { "Random" } else { "Told" })
    }
}

impl Enrollment {
    /// On the given state; `root_metadata` is the digest of `1.root.json`, and an expired certificate may be
    /// renewed for `renewal_grace`.
    pub fn new(
        state: Arc<State>,
        authority: Authority,
        root_metadata: Digest,
        renewal_grace: Duration,
        random: Arc<dyn SecureRandom + Send + Sync>,
    ) -> Self {
        let (redeeming, ids) = (Queue::default(), NewIds::default());
        Self { state, redeeming, authority, root_metadata, renewal_grace, random, ids }
    }

    /// Has new machines get these ids.
    pub fn name_by(&mut self, ids: NewIds) {
        self.ids = ids;
    }

    /// Makes a token. Its text is not kept; the sequence is that of the audit record.
    ///
    /// # Errors
    ///
    /// [`EnrollError::Invalid`] and [`EnrollError::TooMany`]; those of the store.
    pub fn create_token(
        &self,
        wanted: &NewToken,
        actor: &str,
    ) -> Result<(Token, Timestamp, u64), EnrollError> {
        let NewToken { role, site, uses, valid, servers, groups, name } = wanted;
        let invalid = |what, rule: &str, found: String| {
            Err(EnrollError::Invalid { what, rule: rule.to_owned(), found })
        };
        if !matches!(role, Role::Endpoint | Role::Relay | Role::Operator) {
            return invalid("role", "endpoint, relay or operator", role.as_str().to_owned());
        }
        if !(1..=TOKEN_USES_MAX).contains(uses) {
            return invalid("uses", "between 1 and 100000", uses.to_string());
        }
        if valid.is_zero() || *valid > TOKEN_VALID_MAX {
            return invalid("valid", "between 1 second and 90 days", format!("{valid:?}"));
        }
        if servers.is_empty() || servers.len() > 8 || servers.iter().any(|server| !is_address(server)) {
            return invalid("server", "1 to 8 addresses `host:port`", servers.join(", "));
        }
        if groups.len() > GROUPS_PER_ENDPOINT_MAX || (*role != Role::Endpoint && !groups.is_empty()) {
            return invalid("groups", "at most 64, for an endpoint", groups.len().to_string());
        }
        if *role == Role::Operator {
            self.holder(*role, site, name)?;
            if *uses != 1 {
                return invalid("uses", "1 for an operator", uses.to_string());
            }
        } else if !name.is_empty() {
            return invalid("name", "given for an operator only", name.clone());
        }
        let token = self.new_token(*role, servers.clone())?;
        let tenant = self.state.tenant();
        let (expires, sequence) = self.state.change(|model, change| {
            if let Some(unknown) = groups.iter().find(|group| !is_assignable(model, group)) {
                let rule = "a group whose members are named".to_owned();
                return Err(EnrollError::Invalid { what: "group", rule, found: unknown.to_string() });
            }
            let parts = table::Key::new().text(tenant.as_str()).done();
            let kept = table::scan::<tables::Token<'_>>(self.state.store(), &parts, None, TOKENS_MAX)?;
            if kept.len() >= TOKENS_MAX {
                return Err(EnrollError::TooMany { what: "tokens", max: TOKENS_MAX as u64 });
            }
            let expires = later(change.now, *valid);
            change.batch.expect_absent(table::full_key(&tables::Token { tenant, id: &token.id }));
            change.write(Write::Token(TokenRecord {
                id: token.id.clone(),
                verifier: token.verifier(),
                role: *role,
                site: site.clone(),
                groups: groups.clone(),
                name: name.clone(),
                uses: *uses,
                expires,
                created: change.now,
                by: actor.to_owned(),
            }));
            let name = if name.is_empty() { String::new() } else { format!(" name {name}") };
            let detail = format!("role {}{name} site {site} uses {uses} until {expires}", role.as_str());
            change.audit(actor, "create token", format!("token:{}", token.id), detail);
            Ok(expires)
        })?;
        Ok((token, expires, sequence))
    }

    fn new_token(&self, role: Role, servers: Vec<String>) -> Result<Token, EnrollError> {
        let (mut id, mut secret) = ([0; 8], [0; SECRET_BYTES]);
        let random = self.random.as_ref();
        random.fill(&mut id).and_then(|()| random.fill(&mut secret)).map_err(|_| CaError::Random)?;
        Ok(Token {
            id: hex::encode(id).parse().map_err(|_| CaError::Random)?,
            secret,
            role,
            ca_sha256: self.authority.root_digest(),
            root_sha256: self.root_metadata,
            servers,
        })
    }

    fn new_id(&self) -> Result<String, EnrollError> {
        let mut bytes = [0; 16];
        match &self.ids {
            NewIds::Random => self.random.fill(&mut bytes).map_err(|_| CaError::Random)?,
            NewIds::Told(told) => bytes = told(),
        }
        Ok(uuid::Builder::from_random_bytes(bytes).into_uuid().to_string())
    }

    /// Whoever has this name or id, which can stand in a certificate.
    fn holder(&self, role: Role, site: &SiteId, id: &str) -> Result<Holder, EnrollError> {
        let tenant = self.state.tenant().clone();
        let holder = Holder { tenant, site: site.clone(), role, id: id.to_owned() };
        match holder.to_string().parse::<Holder>() {
            Ok(_) if id.len() <= NAME_BYTES_MAX => Ok(holder),
            _ => Err(EnrollError::Invalid {
                what: "name",
                rule: "letters, digits and `-_.+~:@`".to_owned(),
                found: id.to_owned(),
            }),
        }
    }

    fn issue(&self, holder: &Holder, key: PublicKey, change: &mut Change) -> Result<Issued, EnrollError> {
        let tenant = self.state.tenant();
        self.unused(&key)?;
        let of_key = key.to_string();
        let of_key = tables::CertificateKey { tenant, key: &of_key };
        let issued = self.authority.issue(holder, key, change.now, self.random.as_ref())?;
        let row = tables::Certificate { tenant, serial: &issued.serial };
        change.batch.expect_absent(table::full_key(&row)).expect_absent(table::full_key(&of_key));
        change.write(Write::Certificate(CertificateRecord {
            serial: issued.serial.clone(),
            identity: holder.id.clone(),
            role: holder.role,
            site: holder.site.clone(),
            key: issued.key,
            fingerprint: issued.fingerprint,
            issued: change.now,
            expires: issued.expires,
            revoked: None,
        }));
        Ok(issued)
    }

    /// A key gets one certificate.
    fn unused(&self, key: &PublicKey) -> Result<(), EnrollError> {
        let row = tables::CertificateKey { tenant: self.state.tenant(), key: &key.to_string() };
        match table::get(self.state.store(), &row)? {
            Some(_) => Err(EnrollError::KeyUsed),
            None => Ok(()),
        }
    }

    /// Issues a certificate without a token: central's own, and the first operator's.
    ///
    /// # Errors
    ///
    /// [`EnrollError::Ca`] for a bad request; those of the store.
    pub fn issue_directly(
        &self,
        role: Role,
        site: &SiteId,
        id: &str,
        csr_der: &[u8],
    ) -> Result<Issued, EnrollError> {
        let key = ca::requested_key(csr_der)?;
        let holder = self.holder(role, site, id)?;
        let (issued, _) = self.state.change(|_, change| {
            let issued = self.issue(&holder, key, change)?;
            let object = format!("{}:{id}", role.as_str());
            change.audit("central", "issue certificate", object, format!("certificate {}", issued.serial));
            Ok::<_, EnrollError>(issued)
        })?;
        Ok(issued)
    }

    /// A new certificate for the holder of `certificate_der`, who proves it with the key of that one. That of an
    /// operator must not have expired. The audit log has it only where that is worth a look: of endpoints and relays
    /// those who come back after the end of their last, of operators all.
    ///
    /// # Errors
    ///
    /// The `Certificate…` and `Renew…` variants, [`EnrollError::Revoked`], [`EnrollError::Ca`]; those of the store.
    pub fn renew(&self, certificate_der: &[u8], csr_der: &[u8], proof: &[u8]) -> Result<Issued, EnrollError> {
        let tenant = self.state.tenant();
        let store = self.state.store();
        let read = PeerIdentity::read(&rustls_pki_types::CertificateDer::from(certificate_der));
        let serial = read.map(|read| read.serial).unwrap_or_default();
        let row = tables::Certificate { tenant, serial: &serial };
        let unknown = || EnrollError::CertificateUnknown { serial: serial.clone() };
        let record = table::get(store, &row)?.ok_or_else(unknown)?;
        if record.fingerprint != Digest::of(certificate_der) {
            return Err(unknown());
        }
        let message = [RENEW_CONTEXT, csr_der].concat();
        record.key.verify(&message, proof).map_err(|_| EnrollError::RenewProof { serial: serial.clone() })?;
        let key = ca::requested_key(csr_der)?;
        self.unused(&key)?;
        let (issued, _) = self.state.change(|model, change| {
            if model.is_revoked(&serial) || is_revoked(model, &record) {
                return Err(EnrollError::Revoked(record.identity.clone()));
            }
            if change.now > later(record.expires, self.grace(record.role)) {
                return Err(EnrollError::CertificateExpired { serial: serial.clone(), at: record.expires });
            }
            let (newest, enrolled) = newest(model, &record).unwrap_or((&serial, None));
            let newest = table::get(store, &tables::Certificate { tenant, serial: newest })?;
            let newest = newest.unwrap_or_else(|| record.clone());
            let next = later(newest.issued, ca::validity(record.role) / RENEWALS_IN_A_LIFE);
            // The one that it enrolled with may be replaced at once: that happens a single time.
            if change.now < next && enrolled != Some(newest.issued) {
                let (identity, at) = (record.identity.clone(), newest.issued);
                return Err(EnrollError::RenewedAlready { identity, at, next });
            }
            let holder = self.holder(record.role, &record.site, &record.identity)?;
            let issued = self.issue(&holder, key, change)?;
            renewed(model, change, &record, &issued);
            if record.role == Role::Operator || newest.expires < change.now {
                let object = format!("{}:{}", record.role.as_str(), record.identity);
                change.audit(&object.clone(), "renew", object, format!("certificate {}", issued.serial));
            }
            Ok(issued)
        })?;
        Ok(issued)
    }

    /// Stops believing an endpoint or a relay: all its certificates are refused from now on. Returns the
    /// sequence of the audit record.
    ///
    /// # Errors
    ///
    /// [`EnrollError::NotEnrolled`], [`EnrollError::Revoked`] when it already is; those of the store.
    pub fn revoke(&self, identity: &str, reason: &str, actor: &str) -> Result<u64, EnrollError> {
        loop {
            let certificates = self.certificates_of(identity)?;
            if let (true, sequence) = self.revoke_those(identity, certificates, reason, actor)? {
                return Ok(sequence);
            }
        }
    }

    /// Revokes a machine with its certificates; false, and nothing is changed, when it has got another one since
    /// these were read.
    fn revoke_those(
        &self,
        identity: &str,
        certificates: Vec<CertificateRecord>,
        reason: &str,
        actor: &str,
    ) -> Result<(bool, u64), EnrollError> {
        let (tenant, store) = (self.state.tenant(), self.state.store());
        self.state.change(|model, change| {
            let endpoint = identity.parse().ok().and_then(|id| model.endpoint_by_id(&id));
            let relay = identity.parse().ok().and_then(|id| model.relays().get(&id));
            let (kind, revoked, serial) = match (endpoint, relay) {
                (Some(endpoint), _) => ("endpoint", endpoint.revoked, &endpoint.serial),
                (None, Some(relay)) => ("relay", relay.revoked, &relay.serial),
                (None, None) => return Err(EnrollError::NotEnrolled(identity.to_owned())),
            };
            if revoked {
                return Err(EnrollError::Revoked(identity.to_owned()));
            }
            let is_there = certificates.iter().any(|record| record.serial == *serial);
            if !is_there && table::get(store, &tables::Certificate { tenant, serial })?.is_some() {
                return Ok(false);
            }
            for record in certificates {
                change.write(Write::Certificate(CertificateRecord { revoked: Some(change.now), ..record }));
            }
            if let Some(endpoint) = endpoint {
                let record =
                    EndpointRecord { revoked: true, keys: vec![], ..EndpointRecord::clone(endpoint) };
                change.write(Write::Endpoint(Arc::new(record)));
            } else if let Some(relay) = relay {
                change.write(Write::Relay(Arc::new(RelayRecord {
                    revoked: true,
                    ..RelayRecord::clone(relay)
                })));
            }
            change.audit(actor, "revoke", format!("{kind}:{identity}"), clean(reason, 1_000));
            Ok(true)
        })
    }

    /// Stops believing an operator, by name: all his certificates are refused from now on; or one of them, by its
    /// serial. Tokens for operators that he made or that bear his name are withdrawn. Returns the sequence of the audit record.
    ///
    /// # Errors
    ///
    /// [`EnrollError::NotEnrolled`], also for one who is revoked already; [`EnrollError::LastOperator`]; those of the
    /// store.
    pub fn revoke_operator(
        &self,
        name_or_serial: &str,
        reason: &str,
        actor: &str,
    ) -> Result<u64, EnrollError> {
        let parts = table::Key::new().text(self.state.tenant().as_str()).done();
        let ((), sequence) = self.state.change(|model, change| {
            let all = model.operators().values().flat_map(BTreeMap::values);
            let is_meant = |record: &CertificateRecord| {
                record.identity == name_or_serial || record.serial == name_or_serial
            };
            let (revoked, others): (Vec<_>, Vec<_>) = all.partition(|record| is_meant(record));
            let Some(first) = revoked.first() else {
                return Err(EnrollError::NotEnrolled(name_or_serial.to_owned()));
            };
            if !others.iter().any(|record| record.expires > change.now) {
                return Err(EnrollError::LastOperator(first.identity.clone()));
            }
            // Or else he would be back with a token that he made before, or that was made for him.
            let by = format!("operator:{}", first.identity);
            let mut withdrawn = 0;
            table::for_each::<tables::Token<'_>, StoreError>(self.state.store(), &parts, |_, token| {
                if token.role == Role::Operator && (token.by == by || token.name == first.identity) {
                    change.write(Write::NoToken(token.id));
                    withdrawn += 1;
                }
                Ok(())
            })?;
            let serials: Vec<&str> = revoked.iter().map(|record| record.serial.as_str()).collect();
            let (serials, reason) = (serials.join(" "), clean(reason, 1_000));
            let detail = format!("certificates {serials}, {withdrawn} tokens for operators: {reason}");
            change.audit(actor, "revoke", format!("operator:{}", first.identity), detail);
            for record in revoked {
                let revoked = CertificateRecord { revoked: Some(change.now), ..record.clone() };
                change.write(Write::Certificate(revoked));
            }
            Ok(())
        })?;
        Ok(sequence)
    }

    /// How long after its end a certificate can be renewed: an operator's not at all, for he decides for everybody,
    /// and somebody else can let him in again.
    fn grace(&self, role: Role) -> Duration {
        if role == Role::Operator { Duration::ZERO } else { self.renewal_grace }
    }

    fn certificates_of(&self, identity: &str) -> Result<Vec<CertificateRecord>, StoreError> {
        let parts = table::Key::new().text(self.state.tenant().as_str()).done();
        let mut found = Vec::new();
        table::for_each::<tables::Certificate<'_>, StoreError>(self.state.store(), &parts, |_, record| {
            if record.identity == identity && record.revoked.is_none() {
                found.push(record);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Forgets tokens and certificates that nobody can use any more; how many.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn retain(&self) -> Result<usize, StoreError> {
        let (store, now) = (self.state.store(), self.state.now());
        let parts = table::Key::new().text(self.state.tenant().as_str()).done();
        let mut gone = Vec::new();
        table::for_each::<tables::Token<'_>, StoreError>(store, &parts, |_, token| {
            if now > later(token.expires, TOKEN_KEPT) {
                gone.push(Write::NoToken(token.id));
            }
            Ok(())
        })?;
        table::for_each::<tables::Certificate<'_>, StoreError>(store, &parts, |_, record| {
            if now > later(record.expires, self.grace(record.role)) {
                gone.push(Write::NoCertificate { serial: record.serial, key: record.key });
            }
            Ok(())
        })?;
        let count = gone.len();
        self.state.change(|_, change| {
            gone.into_iter().for_each(|write| change.write(write));
            Ok::<_, StoreError>(())
        })?;
        Ok(count)
    }

    /// The authority that signs.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }
}

fn renewed(model: &Model, change: &mut Change, before: &CertificateRecord, issued: &Issued) {
    if let Some(endpoint) = endpoint_of(model, before) {
        let mut record = EndpointRecord::clone(endpoint);
        // The key that asked stays, whatever was issued meanwhile: who never got the answers has no other.
        let others = record.keys.into_iter().filter(|key| *key != before.key);
        record.keys = [issued.key, before.key].into_iter().chain(others).take(KEYS_MAX).collect();
        (record.serial, record.certificate_expires) = (issued.serial.clone(), issued.expires);
        change.write(Write::Endpoint(Arc::new(record)));
    }
    if let Some(relay) = relay_of(model, before) {
        let mut record = RelayRecord::clone(relay);
        (record.serial, record.certificate_expires) = (issued.serial.clone(), issued.expires);
        record.key = issued.key;
        change.write(Write::Relay(Arc::new(record)));
    }
}

/// The serial of the newest certificate of whoever holds this one, and when he enrolled, where that is known.
fn newest<'a>(model: &'a Model, record: &CertificateRecord) -> Option<(&'a String, Option<Timestamp>)> {
    match record.role {
        Role::Endpoint => {
            let endpoint = endpoint_of(model, record)?;
            Some((&endpoint.serial, Some(endpoint.enrolled_at)))
        }
        Role::Relay => {
            let relay = relay_of(model, record)?;
            Some((&relay.serial, Some(relay.enrolled_at)))
        }
        Role::Operator => {
            let newest =
                model.operators().get(&record.identity)?.values().max_by_key(|record| record.issued)?;
            Some((&newest.serial, None))
        }
        Role::Central => None,
    }
}

fn is_revoked(model: &Model, record: &CertificateRecord) -> bool {
    endpoint_of(model, record).is_some_and(|endpoint| endpoint.revoked)
        || relay_of(model, record).is_some_and(|relay| relay.revoked)
}

/// The endpoint that holds a certificate. An operator may be called as an endpoint's id is.
fn endpoint_of<'a>(model: &'a Model, record: &CertificateRecord) -> Option<&'a Arc<EndpointRecord>> {
    if record.role != Role::Endpoint {
        return None;
    }
    model.endpoint_by_id(&record.identity.parse().ok()?)
}

/// The relay that holds a certificate.
fn relay_of<'a>(model: &'a Model, record: &CertificateRecord) -> Option<&'a Arc<RelayRecord>> {
    if record.role != Role::Relay {
        return None;
    }
    model.relays().get(&record.identity.parse().ok()?)
}

fn is_assignable(model: &Model, group: &GroupId) -> bool {
    model.policy().groups().get(group).is_some_and(|group| group.members == Members::Assigned)
}

fn is_address(text: &str) -> bool {
    text.len() <= 300
        && text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}
