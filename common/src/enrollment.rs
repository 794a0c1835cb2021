//! How a machine gets its identity: the token a person carries, the proof that does not give it away,
//! the key that never leaves the machine.

use std::{fmt, io, path::Path, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use ring::hmac;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::{
    id::TokenId,
    transport::{
        identity::Role,
        tls::{self, IdentityError, IdentityFiles},
    },
    trust::digest::Digest,
};

/// Bytes of a token's secret: 256 bits.
pub const SECRET_BYTES: usize = 32;
/// What a token starts with, so that a person and a secret scanner recognise it.
const TOKEN_PREFIX: &str = "twy1_";
/// Longest token.
const TOKEN_BYTES_MAX: usize = 2_048;
/// What a proof is made over, before the CSR.
const PROOF_CONTEXT: &[u8] = b"tierway enroll v1\0";
/// What a renewal is signed over, before the CSR.
pub const RENEW_CONTEXT: &[u8] = b"tierway renew v1\0";

/// Why a machine could not be given an identity.
#[derive(Debug, thiserror::Error)]
pub enum EnrollmentError {
    /// Not a token.
    #[error("this is not an enrolment token: {0}")]
    Token(&'static str),
    /// The key or request could not be made.
    #[error("could not make a key and a certificate request")]
    Csr(#[from] rcgen::Error),
    /// The answer is not for the key that asked.
    #[error("the certificate that came back is not for this machine's key")]
    OtherKey,
    /// The answer is from somebody who would like to be this machine's authority.
    #[error("the certificate that came back ends in another certification authority than this machine's")]
    OtherAuthority,
    /// The answer was not issued by the authority it names.
    #[error("the certificate that came back is not signed by its certification authority")]
    NotSigned(#[source] rustls::Error),
    /// The answer is not what the token promised.
    #[error("the {what} that came back is not the one the token names")]
    NotAsPromised {
        /// Root certificate or root metadata.
        what: &'static str,
    },
    /// The answer is no chain.
    #[error("the certificate that came back cannot be used")]
    Holder(#[from] crate::transport::identity::HolderError),
    /// A file could not be written.
    #[error("could not write `{path}`")]
    Write {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The identity does not load.
    #[error("the new identity cannot be used")]
    Identity(#[from] IdentityError),
}

/// What a person carries from central to a new machine. Whoever has it can enrol as often as its uses
/// allow; `Debug` hides the secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Its public part.
    pub id: TokenId,
    /// Its secret part.
    #[serde(with = "hex")]
    pub secret: [u8; SECRET_BYTES],
    /// What it makes of a machine: with another one it would be used up for nothing.
    pub role: Role,
    /// SHA-256 of the root certificate (DER) that the server's chain must end in.
    pub ca_sha256: Digest,
    /// SHA-256 of `1.root.json`, the root of trust for everything published.
    pub root_sha256: Digest,
    /// Where to enrol: `host:port`, tried in order.
    pub servers: Vec<String>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("id", &self.id).field("servers", &self.servers).finish_non_exhaustive()
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_vec(self).map_err(|_| fmt::Error)?;
        write!(f, "{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(json))
    }
}

impl FromStr for Token {
    type Err = EnrollmentError;
    fn from_str(text: &str) -> Result<Self, EnrollmentError> {
        let text = text.trim();
        if text.len() > TOKEN_BYTES_MAX {
            return Err(EnrollmentError::Token("it is too long"));
        }
        let body = text
            .strip_prefix(TOKEN_PREFIX)
            .ok_or(EnrollmentError::Token("it does not start with `twy1_`"))?;
        let json = URL_SAFE_NO_PAD
            .decode(body)
            .map_err(|_| EnrollmentError::Token("a character is wrong or missing: was it copied whole?"))?;
        serde_json::from_slice(&json)
            .map_err(|_| EnrollmentError::Token("a part is wrong or missing: was it copied whole?"))
    }
}

impl Token {
    /// What central keeps instead of the secret, and the key of the proof.
    #[must_use]
    pub fn verifier(&self) -> Digest {
        Digest::of(&self.secret)
    }

    /// Shows that this token was there when `csr_der` was made, without showing the token.
    #[must_use]
    pub fn proof(&self, csr_der: &[u8]) -> Vec<u8> {
        hmac::sign(&key(&self.verifier()), &message(csr_der)).as_ref().to_vec()
    }
}

/// Whether `proof` was made by the holder of the token that `verifier` belongs to, for this request.
#[must_use]
pub fn proof_is_valid(verifier: &Digest, csr_der: &[u8], proof: &[u8]) -> bool {
    hmac::verify(&key(verifier), &message(csr_der), proof).is_ok()
}

fn key(verifier: &Digest) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, verifier.as_bytes())
}

fn message(csr_der: &[u8]) -> Vec<u8> {
    [PROOF_CONTEXT, csr_der].concat()
}

/// A fresh Ed25519 key, which stays on this machine, and the request for its certificate.
#[derive(Debug)]
pub struct Applicant {
    key: KeyPair,
    csr_der: Vec<u8>,
}

impl Applicant {
    /// Makes both. The request carries nothing but the key: central decides what the certificate says.
    ///
    /// # Errors
    ///
    /// [`EnrollmentError::Csr`] when the system gives no randomness.
    pub fn new() -> Result<Self, EnrollmentError> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let csr_der = CertificateParams::default().serialize_request(&key)?.der().to_vec();
        Ok(Self { key, csr_der })
    }

    /// PKCS #10, DER.
    #[must_use]
    pub fn csr_der(&self) -> &[u8] {
        &self.csr_der
    }

    /// Checks that `chain` is for this key and signed by its root, and keeps both, as one file that is replaced
    /// as a whole, in `dir` (see [`IdentityFiles::in_dir`]). Where an identity is replaced its root must be the
    /// same: whoever carries a renewal must not become the authority.
    ///
    /// # Errors
    ///
    /// [`EnrollmentError`], naming what is wrong; the former identity then stays.
    pub fn keep(&self, chain: &[Vec<u8>], dir: &Path) -> Result<IdentityFiles, EnrollmentError> {
        let leaf = chain.first().ok_or(EnrollmentError::OtherKey)?;
        let root = chain.last().ok_or(EnrollmentError::OtherKey)?;
        let leaf = crate::transport::identity::PeerIdentity::read(&CertificateDer::from(leaf.as_slice()))?;
        if leaf.public_key != self.key.public_key_raw() {
            return Err(EnrollmentError::OtherKey);
        }
        tls::check_chain(chain).map_err(EnrollmentError::NotSigned)?;
        let files = IdentityFiles::in_dir(dir);
        if files.identity.exists() && !tls::roots(&files)?.iter().any(|known| known.as_ref() == root) {
            return Err(EnrollmentError::OtherAuthority);
        }
        crate::files::create_folders(dir).map_err(|source| write_error(dir, source))?;
        replace(&files.roots, pem("CERTIFICATE", root).as_bytes(), 0o644)?;
        replace(&files.identity, identity_pem(&self.key.serialize_pem(), chain).as_bytes(), 0o600)?;
        Ok(files)
    }
}

/// An identity file: the key, then the chain, leaf first.
#[must_use]
pub fn identity_pem(key_pem: &str, chain: &[Vec<u8>]) -> String {
    let chain: String = chain.iter().map(|der| pem("CERTIFICATE", der)).collect();
    format!("{key_pem}{chain}")
}

/// DER as PEM.
#[must_use]
pub fn pem(label: &str, der: &[u8]) -> String {
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = body.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn write_error(path: &Path, source: io::Error) -> EnrollmentError {
    EnrollmentError::Write { path: path.display().to_string(), source }
}

fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), EnrollmentError> {
    crate::files::replace(path, bytes, mode).map_err(|source| write_error(path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token {
            id: "t1".parse().unwrap(),
            secret: [7; SECRET_BYTES],
            role: Role::Relay,
            ca_sha256: Digest::of(b"ca"),
            root_sha256: Digest::of(b"root"),
            servers: vec!["central.example:7443".to_owned()],
        }
    }

    #[test]
    fn a_token_is_the_same_after_it_was_copied_and_hides_its_secret_when_printed_for_debugging() {
        let token = token();
        assert_eq!(format!(" {token}\n").parse::<Token>().unwrap(), token);
        assert!(!format!("{token:?}").contains("07070707"));
    }

    #[test]
    fn a_text_that_is_no_whole_token_is_refused() {
        let text = token().to_string();
        for text in ["", "twy1_", "hello", &text[..text.len() - 5], &format!("{text}AAAA"), &"x".repeat(5000)]
        {
            assert!(text.parse::<Token>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_proof_counts_for_its_request_and_token_only() {
        let (one, other) = (Applicant::new().unwrap(), Applicant::new().unwrap());
        let proof = token().proof(one.csr_der());
        assert!(proof_is_valid(&token().verifier(), one.csr_der(), &proof));
        assert!(!proof_is_valid(&token().verifier(), other.csr_der(), &proof));
        assert!(!proof_is_valid(&Digest::of(b"another"), one.csr_der(), &proof));
    }
}
