//! Ed25519 keys: what Tierway itself signs with.
//!
//! Foreign key types are only ever verified, and only in TUF metadata: see [`super::tuf::metadata`].

use std::{fmt, path::Path};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::{
    rand::SecureRandom,
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};
use serde::{Deserialize, Serialize};

use crate::trust::{
    digest::Digest,
    durable::{self, DurableError, Readable},
    in_hex::in_hex,
};

/// A key file is about 200 bytes; anything much larger is not one.
pub const KEY_FILE_BYTES_MAX: u64 = 16 * 1024;

/// Bytes of an Ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;

/// A key that cannot be made, read or kept.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The source of randomness failed.
    #[error("could not generate a key")]
    Generate,
    /// The bytes are not an Ed25519 key in PKCS #8.
    #[error("`{what}` is not an Ed25519 private key in PKCS #8: {reason}")]
    Format {
        /// The file, or what was given.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no such file.
    #[error("there is no key at `{path}`")]
    Absent {
        /// The file.
        path: String,
    },
    /// The file could not be read or written.
    #[error("could not keep the key")]
    File(#[from] DurableError),
}

/// A private key; its `Debug` shows the public half only.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    pkcs8: Box<[u8]>,
}

impl SigningKey {
    /// A new key.
    ///
    /// # Errors
    ///
    /// [`KeyError::Generate`] when `random` fails.
    pub fn generate(random: &dyn SecureRandom) -> Result<Self, KeyError> {
        let document = Ed25519KeyPair::generate_pkcs8(random).map_err(|_| KeyError::Generate)?;
        Self::from_pkcs8(document.as_ref(), "a new key")
    }

    /// The key in a PKCS #8 document (RFC 5958, or RFC 5208 as OpenSSL writes it), DER; `what` names it in errors.
    ///
    /// # Errors
    ///
    /// [`KeyError::Format`].
    pub fn from_pkcs8(der: &[u8], what: &str) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der)
            .map_err(|err| KeyError::Format { what: what.to_owned(), reason: err.to_string() })?;
        Ok(Self { pair, pkcs8: der.into() })
    }

    /// The key in a PEM file as [`SigningKey::save`] writes it.
    ///
    /// # Errors
    ///
    /// [`KeyError::Absent`], [`KeyError::Format`], [`KeyError::File`].
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let what = path.display().to_string();
        let pem = durable::read(path, KEY_FILE_BYTES_MAX)?
            .ok_or_else(|| KeyError::Absent { path: what.clone() })?;
        let der = PrivatePkcs8KeyDer::from_pem_slice(&pem)
            .map_err(|err| KeyError::Format { what: what.clone(), reason: err.to_string() })?;
        Self::from_pkcs8(der.secret_pkcs8_der(), &what)
    }

    /// Writes the key as PKCS #8 in PEM, readable by its owner alone, durable on return.
    ///
    /// # Errors
    ///
    /// [`KeyError::File`].
    pub fn save(&self, path: &Path) -> Result<(), KeyError> {
        Ok(durable::write(path, self.to_pem().as_bytes(), Readable::ByOwner)?)
    }

    /// PKCS #8, DER.
    #[must_use]
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// PKCS #8, PEM with lines of 64 (RFC 7468).
    #[must_use]
    pub fn to_pem(&self) -> String {
        let text = BASE64_STANDARD.encode(&self.pkcs8);
        let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
        for (at, letter) in text.chars().enumerate() {
            if at > 0 && at % 64 == 0 {
                pem.push('\n');
            }
            pem.push(letter);
        }
        pem.push_str("\n-----END PRIVATE KEY-----\n");
        pem
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.pair.public_key().as_ref());
        PublicKey(bytes)
    }

    /// Signs `message` (RFC 8032, without prehashing).
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let mut bytes = [0; SIGNATURE_BYTES];
        bytes.copy_from_slice(self.pair.sign(message).as_ref());
        bytes
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public())
    }
}

/// A public key; as text 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey([u8; 32]);

/// A text or a byte string that is no Ed25519 public key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an Ed25519 public key of 64 lower-case hex digits")]
pub struct PublicKeyError {
    text: String,
}

/// A signature that the key did not make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature is not valid")]
pub struct BadSignature;

impl PublicKey {
    /// A key whose bytes came from elsewhere, such as a certificate.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Succeeds when `signature` over `message` was made with this key's private half.
    ///
    /// # Errors
    ///
    /// [`BadSignature`]; a malleated signature (RFC 8032 5.1.7) is one too.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), BadSignature> {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, signature).map_err(|_| BadSignature)
    }

    /// The key's name in TUF metadata: SHA-256 of the canonical JSON of the key object (TUF 1.0, 4.2.1).
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        let canonical =
            format!(r#"{{"keytype":"ed25519","keyval":{{"public":"{self}"}},"scheme":"ed25519"}}"#);
        KeyId(Digest::of(canonical.as_bytes()).to_string())
    }
}

in_hex!(PublicKey, PublicKeyError);

/// The name of a key in TUF metadata: 64 hex digits for Tierway's own, any text in foreign repositories.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(pub(crate) String);

impl KeyId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;

    use super::*;

    #[test]
    fn a_saved_key_signs_what_the_original_public_key_verifies() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        let key = SigningKey::generate(&SystemRandom::new()).unwrap();
        key.save(&path).unwrap();
        let again = SigningKey::load(&path).unwrap();
        let signature = again.sign(b"message");
        assert_eq!(key.public().verify(b"message", &signature), Ok(()));
        assert_eq!(key.public().verify(b"another", &signature), Err(BadSignature));
        assert_eq!(key.public().verify(b"message", &signature[..63]), Err(BadSignature));
        assert!(!format!("{key:?}").contains(&hex::encode(key.pkcs8())));
    }

    #[test]
    fn a_key_as_openssl_writes_it_gives_the_public_key_of_rfc_8410() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        let pem = "-----BEGIN PRIVATE KEY-----\n\
            MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
            -----END PRIVATE KEY-----\n";
        std::fs::write(&path, pem).unwrap();
        let public = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";
        assert_eq!(SigningKey::load(&path).unwrap().public().to_string(), public);
    }

    #[test]
    fn a_missing_and_a_damaged_key_file_are_told_apart_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        assert!(
            matches!(SigningKey::load(&path), Err(KeyError::Absent { path }) if path.ends_with("key.pem"))
        );
        for content in ["", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "garbage"] {
            std::fs::write(&path, content).unwrap();
            let err = SigningKey::load(&path).unwrap_err();
            assert!(matches!(&err, KeyError::Format { what, .. } if what.ends_with("key.pem")), "{err}");
        }
    }

    #[test]
    fn the_key_id_is_the_one_of_the_specifications_example() {
        // TUF 1.0.34, 4.3, the timestamp key of the example root.json.
        let key: PublicKey =
            "72378e5bc588793e58f81c8533da64a2e8f1565c1fcc7f253496394ffc52542c".parse().unwrap();
        assert_eq!(key.key_id().as_str(), "1bf1c6e3cdd3d3a8420b19199e27511999850f4b376c4547b2f32fba7e80fca3");
    }

    #[test]
    fn a_text_that_is_no_key_is_refused() {
        for text in ["", "ab", &"A".repeat(64), &"g".repeat(64), &"a".repeat(66)] {
            assert!(text.parse::<PublicKey>().is_err(), "{text}");
        }
    }
}
