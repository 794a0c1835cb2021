//! The internal certification authority: a root that is taken offline after `init`, and an issuing one
//! that signs what central gives out.
//!
//! Of a request only the public key is taken, after its self-signature was checked; everything in the
//! certificate is decided here.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm,
};
use ring::rand::SecureRandom;
use tierway_common::{
    transport::{
        SERVER_NAME,
        identity::{Holder, Role},
    },
    trust::{digest::Digest, keys::PublicKey},
};
use x509_parser::prelude::{FromDer, X509CertificationRequest};

/// The root outlives the machines.
const ROOT_VALID: Duration = Duration::from_secs(20 * 365 * DAY);
/// The issuing authority is replaced with the root's key at hand.
const ISSUING_VALID: Duration = Duration::from_secs(5 * 365 * DAY);
/// Clocks of new machines are often behind.
const BACKDATED: Duration = Duration::from_secs(60 * 60);
/// Longest request: an Ed25519 one has about 150 bytes.
pub const CSR_BYTES_MAX: usize = 4 * 1024;
const DAY: u64 = 86_400;
/// 1.3.101.112, Ed25519 (RFC 8410).
const ED25519_OID: &str = "1.3.101.112";

/// How long a certificate is valid, by what it is for. It is renewed from a third of that on, so that what
/// is left carries a site through two weeks without central.
#[must_use]
pub fn validity(role: Role) -> Duration {
    Duration::from_secs(match role {
        Role::Endpoint => 30 * DAY,
        Role::Relay => 21 * DAY,
        Role::Central => 90 * DAY,
        Role::Operator => 365 * DAY,
    })
}

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Not a PKCS #10 request, or of another key type.
    #[error("the certificate request is not valid: {0}")]
    Request(String),
    /// Whoever sent it does not have the key in it.
    #[error("the certificate request is not signed by its own key")]
    RequestSignature,
    /// The system gives no random numbers.
    #[error("no random numbers")]
    Random,
    /// A kept key or certificate is damaged.
    #[error("the certification authority cannot be read")]
    Material(#[source] rcgen::Error),
    /// Building the certificate failed.
    #[error("could not sign a certificate")]
    Sign(#[source] rcgen::Error),
}

/// A certificate and its private key, PEM.
#[derive(Clone)]
pub struct Material {
    /// The certificate.
    pub certificate_pem: String,
    /// PKCS #8.
    pub key_pem: String,
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Material(..)")
    }
}

/// A new root and an issuing authority that it signed.
///
/// # Errors
///
/// [`CaError`] when random numbers or signing fail.
pub fn create(now: Timestamp, random: &dyn SecureRandom) -> Result<(Material, Material), CaError> {
    let (root_key, issuing_key) = (key(random)?, key(random)?);
    let root = authority("Tierway root", now, ROOT_VALID, random, 1)?;
    let root_certificate = root.self_signed(&root_key).map_err(CaError::Sign)?;
    let issuing = authority("Tierway issuing", now, ISSUING_VALID, random, 0)?;
    let issuing_certificate =
        issuing.signed_by(&issuing_key, &Issuer::from_params(&root, &root_key)).map_err(CaError::Sign)?;
    let material = |certificate: rcgen::Certificate, key: &KeyPair| Material {
        certificate_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
    };
    Ok((material(root_certificate, &root_key), material(issuing_certificate, &issuing_key)))
}

fn key(random: &dyn SecureRandom) -> Result<KeyPair, CaError> {
    let pkcs8 = ring::signature::Ed25519KeyPair::generate_pkcs8(random).map_err(|_| CaError::Random)?;
    let der = rustls_pki_types::PrivatePkcs8KeyDer::from(pkcs8.as_ref().to_vec());
    KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ED25519).map_err(CaError::Material)
}

fn authority(
    name: &str,
    now: Timestamp,
    valid: Duration,
    random: &dyn SecureRandom,
    below: u8,
) -> Result<CertificateParams, CaError> {
    let mut params = params(name, now, valid, random)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn params(
    name: &str,
    now: Timestamp,
    valid: Duration,
    random: &dyn SecureRandom,
) -> Result<CertificateParams, CaError> {
    let mut serial = [0; 16];
    random.fill(&mut serial).map_err(|_| CaError::Random)?;
    // Positive and of full length, so that DER adds no byte and takes none away (RFC 5280, 4.1.2.2).
    serial[0] = serial[0] & 0x7f | 0x40;
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let seconds = Duration::from_secs(u64::try_from(now.as_second()).unwrap_or(0));
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + seconds.saturating_sub(BACKDATED);
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + seconds + valid;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// What was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Leaf, issuing, root; DER.
    pub chain: Vec<Vec<u8>>,
    /// Lower-case hex, 32 digits.
    pub serial: String,
    /// Of the leaf's DER.
    pub fingerprint: Digest,
    /// The key in it.
    pub key: PublicKey,
    /// Valid until, whole seconds.
    pub expires: Timestamp,
}

/// The issuing authority, ready to sign.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    issuing: Vec<u8>,
    root: Vec<u8>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Authority(root {})", self.root_digest())
    }
}

struct RequestedKey(PublicKey);

impl PublicKeyData for RequestedKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

impl Authority {
    /// From what [`create`] gave; of the root only the certificate.
    ///
    /// # Errors
    ///
    /// [`CaError::Material`] when something is damaged.
    pub fn open(root_pem: &str, issuing: &Material) -> Result<Self, CaError> {
        use rustls_pki_types::{CertificateDer, pem::PemObject};
        let der = |pem: &str| {
            CertificateDer::from_pem_slice(pem.as_bytes())
                .map_err(|error| CaError::Material(rcgen::Error::PemError(error.to_string())))
        };
        let key = KeyPair::from_pem(&issuing.key_pem).map_err(CaError::Material)?;
        let certificate = der(&issuing.certificate_pem)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(CaError::Material)?;
        Ok(Self { issuer, issuing: certificate.to_vec(), root: der(root_pem)?.to_vec() })
    }

    /// What ends when: the two authorities; `None` for a certificate that cannot be read.
    #[must_use]
    pub fn ends(&self) -> [(&'static str, Option<Timestamp>); 2] {
        use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};
        let end = |der: &[u8]| {
            let (_, read) = X509Certificate::from_der(der).ok()?;
            Timestamp::from_second(read.validity().not_after.timestamp()).ok()
        };
        [("the root authority", end(&self.root)), ("the issuing authority", end(&self.issuing))]
    }

    /// What a token names so that a new machine knows it talks to this central.
    #[must_use]
    pub fn root_digest(&self) -> Digest {
        Digest::of(&self.root)
    }

    /// The root certificate, DER.
    #[must_use]
    pub fn root(&self) -> &[u8] {
        &self.root
    }

    /// Signs a certificate for `key`, which belongs to `holder`. Valid from an hour ago.
    ///
    /// # Errors
    ///
    /// [`CaError`] when random numbers or signing fail.
    pub fn issue(
        &self,
        holder: &Holder,
        key: PublicKey,
        now: Timestamp,
        random: &dyn SecureRandom,
    ) -> Result<Issued, CaError> {
        let valid = validity(holder.role);
        let mut params = params(&holder.id, now, valid, random)?;
        let serial = params.serial_number.as_ref().map(SerialNumber::to_bytes).unwrap_or_default();
        let uri = holder.to_string().try_into().map_err(CaError::Sign)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if matches!(holder.role, Role::Relay | Role::Central) {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
            params.subject_alt_names.push(SanType::DnsName(SERVER_NAME.try_into().map_err(CaError::Sign)?));
        }
        let certificate =
            params.signed_by(&RequestedKey(key), &self.issuer).map_err(CaError::Sign)?.der().to_vec();
        let expires = now.as_second().saturating_add(i64::try_from(valid.as_secs()).unwrap_or(i64::MAX));
        Ok(Issued {
            serial: hex::encode(serial),
            fingerprint: Digest::of(&certificate),
            key,
            expires: Timestamp::from_second(expires).unwrap_or(Timestamp::MAX),
            chain: vec![certificate, self.issuing.clone(), self.root.clone()],
        })
    }
}

/// The Ed25519 key of a PKCS #10 request, after checking that the request is signed with it. Nothing
/// else in the request is looked at.
///
/// # Errors
///
/// [`CaError::Request`], [`CaError::RequestSignature`].
pub fn requested_key(csr_der: &[u8]) -> Result<PublicKey, CaError> {
    let malformed = |reason: &str| CaError::Request(reason.to_owned());
    if csr_der.len() > CSR_BYTES_MAX {
        return Err(malformed("it is too long"));
    }
    let (rest, request) =
        X509CertificationRequest::from_der(csr_der).map_err(|_| malformed("it is no PKCS #10 in DER"))?;
    if !rest.is_empty() {
        return Err(malformed("something follows it"));
    }
    let spki = &request.certification_request_info.subject_pki;
    let algorithms: BTreeSet<String> =
        [&spki.algorithm, &request.signature_algorithm].map(|id| id.algorithm.to_id_string()).into();
    if algorithms != [ED25519_OID.to_owned()].into() {
        return Err(malformed("its key is not Ed25519"));
    }
    let key: [u8; 32] =
        spki.subject_public_key.data.as_ref().try_into().map_err(|_| malformed("its key has no 32 bytes"))?;
    ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, key)
        .verify(request.certification_request_info.raw, &request.signature_value.data)
        .map_err(|_| CaError::RequestSignature)?;
    Ok(PublicKey::from_bytes(key))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ring::rand::SystemRandom;
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
    use tierway_common::{
        enrollment::Applicant,
        transport::{identity::PeerIdentity, tls::provider},
    };

    use super::*;

    fn now() -> Timestamp {
        "2026-11-20T10:00:00.5Z".parse().unwrap()
    }

    fn open() -> Authority {
        let (root, issuing) = create(now(), &SystemRandom::new()).unwrap();
        Authority::open(&root.certificate_pem, &issuing).unwrap()
    }

    fn holder(role: Role) -> Holder {
        Holder {
            tenant: "default".parse().unwrap(),
            site: "lyon".parse().unwrap(),
            role,
            id: "0b7c".to_owned(),
        }
    }

    fn issue(authority: &Authority, role: Role) -> Issued {
        let random = SystemRandom::new();
        let key = requested_key(Applicant::new().unwrap().csr_der()).unwrap();
        authority.issue(&holder(role), key, now(), &random).unwrap()
    }

    fn chain(issued: &Issued) -> Vec<CertificateDer<'static>> {
        issued.chain.iter().cloned().map(CertificateDer::from).collect()
    }

    fn roots(authority: &Authority) -> Arc<rustls::RootCertStore> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.root().to_vec().into()).unwrap();
        Arc::new(roots)
    }

    fn verified_as_client(authority: &Authority, issued: &Issued, at: Timestamp) -> bool {
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            roots(authority),
            Arc::new(provider()),
        )
        .build()
        .unwrap();
        let time = UnixTime::since_unix_epoch(Duration::from_secs(at.as_second().try_into().unwrap()));
        let chain = chain(issued);
        verifier.verify_client_cert(&chain[0], &chain[1..], time).is_ok()
    }

    fn verified_as_server(authority: &Authority, issued: &Issued) -> bool {
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(
            roots(authority),
            Arc::new(provider()),
        )
        .build()
        .unwrap();
        let name = ServerName::try_from(SERVER_NAME).unwrap();
        let time = UnixTime::since_unix_epoch(Duration::from_secs(now().as_second().try_into().unwrap()));
        let chain = chain(issued);
        use rustls::client::danger::ServerCertVerifier as _;
        verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], time).is_ok()
    }

    #[test]
    fn what_is_issued_verifies_to_the_root_and_names_its_holder_key_serial_and_end() {
        let authority = open();
        for (role, days, serves) in [
            (Role::Endpoint, 30, false),
            (Role::Relay, 21, true),
            (Role::Central, 90, true),
            (Role::Operator, 365, false),
        ] {
            let issued = issue(&authority, role);
            let read = PeerIdentity::read(&chain(&issued)[0]).unwrap();
            assert_eq!(read.holder, holder(role));
            assert_eq!((&read.serial, read.not_after), (&issued.serial, issued.expires));
            assert_eq!(read.public_key, issued.key.as_bytes());
            assert_eq!(issued.expires.as_second() - now().as_second(), days * 86_400);
            assert!(verified_as_client(&authority, &issued, now()), "{role:?}");
            assert!(!verified_as_client(&authority, &issued, issued.expires + Duration::from_secs(1)));
            assert_eq!(verified_as_server(&authority, &issued), serves, "{role:?}");
            assert!(!verified_as_client(&open(), &issued, now()), "another authority");
        }
    }

    #[test]
    fn what_a_request_asks_for_besides_its_key_is_not_in_the_certificate() {
        let authority = open();
        let random = SystemRandom::new();
        let own = key(&random).unwrap();
        let mut asked = CertificateParams::new(vec![SERVER_NAME.to_owned()]).unwrap();
        let stolen = "spiffe://tierway/tenant/other/site/x/operator/root".try_into().unwrap();
        asked.subject_alt_names.push(SanType::URI(stolen));
        asked.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        asked.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let csr = asked.serialize_request(&own).unwrap();
        let key = requested_key(csr.der()).unwrap();
        let issued = authority.issue(&holder(Role::Endpoint), key, now(), &random).unwrap();
        assert_eq!(PeerIdentity::read(&chain(&issued)[0]).unwrap().holder, holder(Role::Endpoint));
        assert!(!verified_as_server(&authority, &issued));
        let text = String::from_utf8_lossy(&issued.chain[0]).into_owned();
        assert!(!text.contains("other") && !text.contains(SERVER_NAME));
    }

    #[test]
    fn a_request_that_is_altered_anywhere_gives_no_key_or_the_key_it_was_signed_with() {
        let csr = Applicant::new().unwrap().csr_der().to_vec();
        let own = requested_key(&csr).unwrap();
        for at in 0..csr.len() {
            let mut altered = csr.clone();
            altered[at] ^= 1;
            // Bytes that carry no meaning, such as an unused bit count, may not matter.
            assert!(requested_key(&altered).map_or(true, |key| key == own), "{at}");
        }
        let key_at = csr.windows(32).position(|window| window == own.as_bytes()).unwrap();
        let mut altered = csr.clone();
        altered[key_at] ^= 1;
        assert!(matches!(requested_key(&altered), Err(CaError::RequestSignature)));
    }

    #[test]
    fn a_request_of_another_key_type_or_length_is_refused() {
        let ecdsa = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let csr = CertificateParams::default().serialize_request(&ecdsa).unwrap().der().to_vec();
        for csr in [csr, vec![], vec![0x30; 200], vec![0; CSR_BYTES_MAX + 1]] {
            assert!(matches!(requested_key(&csr), Err(CaError::Request(_))));
        }
    }
}
