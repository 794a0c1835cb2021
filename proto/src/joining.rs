//! How a relay or an endpoint gets its identity, and keeps it fresh.
//!
//! What a joined machine has below its data folder: `identity/` (see `IdentityFiles`), `trust/root.json`
//! (the root of trust for everything published), `upstream.json` (the way to the tier above).

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tierway_common::{
    enrollment::{Applicant, EnrollmentError, RENEW_CONTEXT, Token},
    files,
    transport::{
        dial::{self, Route},
        identity::Role,
        tls::{self, Identity, IdentityError, IdentityFiles},
    },
    trust::{
        digest::Digest,
        keys::{KeyError, SigningKey},
    },
};
use tracing::info;

use crate::{
    upstream::{Upstream, UpstreamError},
    v1,
};

/// Bytes of `upstream.json`.
const ROUTE_BYTES_MAX: u64 = 4 * 1024;

/// Why joining or renewing failed.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// No server of the token let this machine in.
    #[error("could not enrol at `{server}`")]
    Server {
        /// The last one tried.
        server: String,
        /// Why.
        source: Box<UpstreamError>,
    },
    /// The token names no server and none was given.
    #[error("the token names no server: give one")]
    NoServer,
    /// Token, key or answer is not as it should be.
    #[error("could not take up the identity")]
    Enrollment(#[from] EnrollmentError),
    /// The key could not be read for a renewal.
    #[error("could not sign with the present key")]
    Key(#[from] KeyError),
    /// Renewal was refused or did not get through.
    #[error("could not renew the certificate")]
    Renew(#[from] UpstreamError),
    /// TLS could not be set up.
    #[error("could not set up TLS")]
    Tls(#[from] rustls::Error),
    /// The new identity does not load.
    #[error("could not use the identity")]
    Identity(#[from] IdentityError),
    /// A file could not be read or written.
    #[error("could not read or write `{path}`")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The machine has joined before.
    #[error("`{path}` holds an identity already: this machine has joined")]
    Joined {
        /// Where.
        path: PathBuf,
    },
    /// The token is for another kind of machine; it was not used.
    #[error("this token is for {found}: take one for {wanted}")]
    OtherToken {
        /// What it is for.
        found: &'static str,
        /// What this machine is.
        wanted: &'static str,
    },
    /// The identity is for another kind of machine.
    #[error("this is the identity of {found}, where that of {wanted} is needed: take a token for {wanted}")]
    OtherRole {
        /// What it is for.
        found: &'static str,
        /// What this machine is.
        wanted: &'static str,
    },
    /// The machine has not joined.
    #[error("`{path}` holds no identity: join first")]
    NotJoined {
        /// Where.
        path: PathBuf,
    },
}

/// A machine that has joined.
#[derive(Debug)]
pub struct Joined {
    /// Who it is.
    pub identity: Identity,
    /// The way to the tier above.
    pub route: Route,
    /// Where the TUF client keeps its state.
    pub trust_dir: PathBuf,
}

impl Joined {
    /// Checks that the identity is for this kind of machine.
    ///
    /// # Errors
    ///
    /// [`JoinError::OtherRole`].
    pub fn must_be(&self, wanted: Role) -> Result<(), JoinError> {
        let found = self.identity.own().holder.role;
        let (found, wanted) = (called(found), called(wanted));
        if found == wanted { Ok(()) } else { Err(JoinError::OtherRole { found, wanted }) }
    }
}

/// Refuses a token for another kind of machine than `wanted`, before it is used up.
///
/// # Errors
///
/// [`JoinError::OtherToken`].
pub fn must_be_for(token: &Token, wanted: Role) -> Result<(), JoinError> {
    let (found, wanted) = (called(token.role), called(wanted));
    if found == wanted { Ok(()) } else { Err(JoinError::OtherToken { found, wanted }) }
}

fn called(role: Role) -> &'static str {
    match role {
        Role::Endpoint => "an endpoint",
        Role::Relay => "a relay",
        Role::Central => "central",
        Role::Operator => "an operator",
    }
}

/// Takes back what [`join`] did here, so that the machine can join anew. Central keeps what it issued.
///
/// # Errors
///
/// [`JoinError::File`].
pub fn leave(data_dir: &Path) -> Result<(), JoinError> {
    let dir = identity_dir(data_dir);
    std::fs::remove_dir_all(&dir).map_err(|source| JoinError::File { path: dir, source })
}

fn identity_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("identity")
}

/// Enrols this machine with `token`; `server` overrides the token's own. The key is made here and stays.
///
/// # Errors
///
/// [`JoinError`]; then nothing was kept, and the token may be tried again if central did not answer.
pub async fn join(
    token: &Token,
    server: Option<&str>,
    proxy: Option<&str>,
    host_name: &str,
    agent_version: &str,
    data_dir: &Path,
) -> Result<Joined, JoinError> {
    let identity_dir = identity_dir(data_dir);
    if IdentityFiles::in_dir(&identity_dir).identity.exists() {
        return Err(JoinError::Joined { path: identity_dir });
    }
    let applicant = Applicant::new()?;
    let config = Arc::new(tls::enrolling(token.ca_sha256)?);
    let mut failed = JoinError::NoServer;
    let servers = match server {
        Some(server) => vec![server.to_owned()],
        None => token.servers.clone(),
    };
    for server in servers {
        let route = Route { server, proxy: proxy.map(str::to_owned) };
        let upstream = Upstream::new(dial::enrolling_channel(route.clone(), config.clone()));
        match enroll(&upstream, token, &applicant, (host_name, agent_version), route, data_dir).await {
            Err(next @ JoinError::Server { .. }) => failed = next,
            done => return done,
        }
    }
    Err(failed)
}

/// Enrols `applicant` with `token` at the tier `upstream`, to which `route` leads; the name and the program's version
/// are those that are shown.
///
/// # Errors
///
/// [`JoinError`]; then nothing was kept. [`JoinError::Server`] when there was no answer.
pub async fn enroll(
    upstream: &Upstream,
    token: &Token,
    applicant: &Applicant,
    (host_name, agent_version): (&str, &str),
    route: Route,
    data_dir: &Path,
) -> Result<Joined, JoinError> {
    let file = |path: &Path, source| JoinError::File { path: path.to_owned(), source };
    let request = v1::EnrollRequest {
        token_id: token.id.to_string(),
        proof: token.proof(applicant.csr_der()),
        csr_der: applicant.csr_der().to_vec(),
        host_name: host_name.to_owned(),
        agent_version: agent_version.to_owned(),
    };
    let v1::EnrollResponse { certificate_chain, root_metadata } = upstream
        .enroll(request)
        .await
        .map_err(|source| JoinError::Server { server: route.server.clone(), source: Box::new(source) })?;
    if certificate_chain.last().map(|root| Digest::of(root)) != Some(token.ca_sha256) {
        return Err(EnrollmentError::NotAsPromised { what: "root certificate" }.into());
    }
    if Digest::of(&root_metadata) != token.root_sha256 {
        return Err(EnrollmentError::NotAsPromised { what: "root metadata" }.into());
    }
    let trust_dir = trust_dir(data_dir);
    files::create_folders(&trust_dir).map_err(|source| file(&trust_dir, source))?;
    let root = trust_dir.join("root.json");
    files::replace(&root, &root_metadata, 0o644).map_err(|source| file(&root, source))?;
    let path = data_dir.join("upstream.json");
    let json = serde_json::to_vec(&route).map_err(|error| file(&path, error.into()))?;
    files::replace(&path, &json, 0o644).map_err(|source| file(&path, source))?;
    // The identity last: with it the machine counts as joined.
    let files = applicant.keep(&certificate_chain, &identity_dir(data_dir))?;
    Ok(Joined { identity: Identity::load(&files)?, route, trust_dir })
}

/// Where the TUF client of a machine keeps its state.
#[must_use]
pub fn trust_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("trust")
}

/// What [`join`] left below `data_dir`.
///
/// # Errors
///
/// [`JoinError::NotJoined`], or what is wrong with the files.
pub fn load(data_dir: &Path) -> Result<Joined, JoinError> {
    let files = IdentityFiles::in_dir(&identity_dir(data_dir));
    if !files.identity.exists() {
        return Err(JoinError::NotJoined { path: identity_dir(data_dir) });
    }
    let path = data_dir.join("upstream.json");
    let route = files::read_if_there(&path, ROUTE_BYTES_MAX)
        .and_then(|json| Ok(serde_json::from_slice(&json.unwrap_or_default())?))
        .map_err(|source| JoinError::File { path, source })?;
    Ok(Joined { identity: Identity::load(&files)?, route, trust_dir: trust_dir(data_dir) })
}

/// Whether a certificate that ends at `not_after` and was made for `lifetime` is due for renewal: a third
/// of its life is over, so that two thirds remain for a tier above that is gone.
#[must_use]
pub fn renewal_is_due(not_after: Timestamp, lifetime: Duration, now: Timestamp) -> bool {
    let left = not_after.as_second() - now.as_second();
    left < i64::try_from(lifetime.as_secs() * 2 / 3).unwrap_or(i64::MAX)
}

/// Renews the certificate of `identity` when that is due, and says whether it did. One that has expired is
/// renewed over a connection that shows none, by `routes`, with the same proof: no tier lets an expired one in.
///
/// # Errors
///
/// [`JoinError`]; the present identity then stays.
pub async fn keep_fresh(
    upstream: &Upstream,
    routes: &[Route],
    identity: &Identity,
    lifetime: Duration,
    now: Timestamp,
) -> Result<bool, JoinError> {
    let not_after = identity.own().not_after;
    if !renewal_is_due(not_after, lifetime, now) {
        return Ok(false);
    }
    if now < not_after {
        renew(upstream, identity).await?;
    } else {
        info!(since = %not_after, "the certificate has expired, renewing it with its key");
        renew(&Upstream::new(dial::nameless_channel(routes.to_vec(), identity)), identity).await?;
    }
    info!(until = %identity.own().not_after, "renewed the certificate");
    Ok(true)
}

/// Gets a certificate for a fresh key and takes it into use.
///
/// # Errors
///
/// [`JoinError`]; the present identity then stays.
pub async fn renew(upstream: &Upstream, identity: &Identity) -> Result<(), JoinError> {
    let applicant = Applicant::new()?;
    let key = SigningKey::load(&identity.files().identity)?;
    let request = v1::RenewRequest {
        csr_der: applicant.csr_der().to_vec(),
        certificate_der: identity.own().certificate.to_vec(),
        proof: key.sign(&[RENEW_CONTEXT, applicant.csr_der()].concat()).to_vec(),
    };
    let v1::RenewResponse { certificate_chain } = upstream.renew(request).await?;
    let dir = identity.files().identity.parent().unwrap_or(Path::new(".")).to_owned();
    applicant.keep(&certificate_chain, &dir)?;
    Ok(identity.reload()?)
}
