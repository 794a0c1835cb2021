//! TLS 1.3 on ring: identities on disk, the configurations made from them, and their reload.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    server::WebPkiClientVerifier,
    version::TLS13,
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime, pem::PemObject,
};
use x509_parser::prelude::FromDer as _;

use super::identity::{HolderError, PeerIdentity};
use crate::trust::digest::Digest;

/// Why an identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file could not be read.
    #[error("could not read `{path}`")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not PEM, or empty.
    #[error("`{path}` holds no PEM {what}")]
    Pem {
        /// Which.
        path: PathBuf,
        /// What should be there.
        what: &'static str,
    },
    /// The certificate is none of ours.
    #[error("the certificate in `{path}` cannot be used")]
    Holder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: HolderError,
    },
    /// rustls does not take it, such as when key and certificate do not belong together.
    #[error("the identity in `{path}` cannot be used")]
    Tls {
        /// Where its certificate is.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The root could not be set up as a trust anchor.
    #[error("the certification authority in `{path}` cannot be used")]
    Root {
        /// Where it is.
        path: PathBuf,
        /// Why.
        source: rustls::server::VerifierBuilderError,
    },
}

/// Where an identity is kept, PEM. Key and certificate share a file, so that they change together.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityFiles {
    /// PKCS #8 key, then the certificate chain: leaf first, root last.
    pub identity: PathBuf,
    /// The root that peers must chain to.
    pub roots: PathBuf,
}

impl IdentityFiles {
    /// `identity.pem` and `roots.pem` in `dir`.
    #[must_use]
    pub fn in_dir(dir: &Path) -> Self {
        Self { identity: dir.join("identity.pem"), roots: dir.join("roots.pem") }
    }
}

/// The ring provider, AES-128 first: half the cost of AES-256 on current machines, and ChaCha20 last,
/// which ring runs at a fifth of AES's speed where the machine has AES instructions.
#[must_use]
pub fn provider() -> CryptoProvider {
    use ring::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    CryptoProvider {
        cipher_suites: vec![
            TLS13_AES_128_GCM_SHA256,
            TLS13_AES_256_GCM_SHA384,
            TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..ring::default_provider()
    }
}

/// An identity in use: the present configurations, replaced as a whole by [`Identity::reload`].
/// Connections that are open keep the one they began with.
#[derive(Clone, Debug)]
pub struct Identity(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    files: IdentityFiles,
    current: RwLock<Arc<Current>>,
}

#[derive(Debug)]
struct Current {
    own: PeerIdentity,
    client: Arc<ClientConfig>,
    nameless: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Identity {
    /// Reads and checks the files.
    ///
    /// # Errors
    ///
    /// [`IdentityError`], naming the file.
    pub fn load(files: &IdentityFiles) -> Result<Self, IdentityError> {
        let current = RwLock::new(Arc::new(read(files)?));
        Ok(Self(Arc::new(Inner { files: files.clone(), current })))
    }

    /// Reads the files again; on an error the present identity stays.
    ///
    /// # Errors
    ///
    /// [`IdentityError`], naming the file.
    pub fn reload(&self) -> Result<(), IdentityError> {
        let fresh = Arc::new(read(&self.0.files)?);
        *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    fn current(&self) -> Arc<Current> {
        self.0.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the own certificate says.
    #[must_use]
    pub fn own(&self) -> PeerIdentity {
        self.current().own.clone()
    }

    /// Where it is kept.
    #[must_use]
    pub fn files(&self) -> &IdentityFiles {
        &self.0.files
    }

    /// For the next connection outward.
    #[must_use]
    pub fn client(&self) -> Arc<ClientConfig> {
        self.current().client.clone()
    }

    /// For a connection outward that shows no certificate: whoever is called is checked as ever. With a
    /// certificate that has expired there is no other.
    #[must_use]
    pub fn nameless_client(&self) -> Arc<ClientConfig> {
        self.current().nameless.clone()
    }

    /// For the next connection inward. A peer without a certificate is let in, as it must be to enrol;
    /// what it may call is decided per request.
    #[must_use]
    pub fn server(&self) -> Arc<ServerConfig> {
        self.current().server.clone()
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let pem = fs::read(path).map_err(|source| IdentityError::Read { path: path.to_owned(), source })?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ => Err(IdentityError::Pem { path: path.to_owned(), what: "certificate" }),
    }
}

/// The certificates that peers of this identity must chain to.
///
/// # Errors
///
/// [`IdentityError`], naming the file.
pub fn roots(files: &IdentityFiles) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    read_certificates(&files.roots)
}

/// Whether the first certificate of `chain` was issued, through the others, by the last one. Looked at as of
/// when it was issued: this says who signed it, not whether it is still valid.
///
/// # Errors
///
/// What is wrong with it, as rustls says it.
pub fn check_chain(chain: &[Vec<u8>]) -> Result<(), rustls::Error> {
    let chain: Vec<_> = chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let [leaf, others @ ..] = &chain[..] else { return Err(CertificateError::UnknownIssuer.into()) };
    let root = chain.last().unwrap_or(leaf);
    let (_, read) = x509_parser::certificate::X509Certificate::from_der(leaf)
        .map_err(|_| CertificateError::BadEncoding)?;
    let begun = u64::try_from(read.validity().not_before.timestamp()).unwrap_or(0);
    let mut roots = RootCertStore::empty();
    roots.add(root.clone().into_owned())?;
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(provider()))
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?
        .verify_client_cert(leaf, others, UnixTime::since_unix_epoch(Duration::from_secs(begun)))
        .map(drop)
}

fn read(files: &IdentityFiles) -> Result<Current, IdentityError> {
    let path = &files.identity;
    let tls = |source| IdentityError::Tls { path: path.clone(), source };
    let chain = read_certificates(path)?;
    let own = PeerIdentity::read(&chain[0])
        .map_err(|source| IdentityError::Holder { path: path.clone(), source })?;
    let pem = fs::read(path).map_err(|source| IdentityError::Read { path: path.clone(), source })?;
    let key = PrivatePkcs8KeyDer::from_pem_slice(&pem)
        .map_err(|_| IdentityError::Pem { path: path.clone(), what: "private key" })?;
    let key = PrivateKeyDer::Pkcs8(key);
    let mut roots = RootCertStore::empty();
    for root in read_certificates(&files.roots)? {
        roots.add(root).map_err(tls)?;
    }
    let (roots, provider) = (Arc::new(roots), Arc::new(provider()));

    let trusting = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(tls)?
        .with_root_certificates(roots.clone());
    let mut nameless = trusting.clone().with_no_client_auth();
    nameless.alpn_protocols = vec![b"h2".to_vec()];
    let mut client = trusting.with_client_auth_cert(chain.clone(), key.clone_key()).map_err(tls)?;
    client.alpn_protocols = vec![b"h2".to_vec()];

    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|source| IdentityError::Root { path: files.roots.clone(), source })?;
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(tls)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(tls)?;
    server.alpn_protocols = vec![b"h2".to_vec()];
    let (client, nameless, server) = (Arc::new(client), Arc::new(nameless), Arc::new(server));
    Ok(Current { own, client, nameless, server })
}

/// The configuration of a machine that has no identity yet: it trusts a server whose chain ends in the
/// root certificate with this digest, which its token names.
///
/// # Errors
///
/// When rustls refuses the protocol versions, which it does not.
pub fn enrolling(root: Digest) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedRoot { root, provider }))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Verifies a server as usual, against the one root in its own chain that has the pinned digest.
#[derive(Debug)]
struct PinnedRoot {
    root: Digest,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedRoot {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let root = intermediates
            .iter()
            .find(|certificate| Digest::of(certificate) == self.root)
            .ok_or(CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(root.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
