//! Keys of any kind that TUF names, and whether enough of a role's keys have signed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey,
    VerificationAlgorithm,
};
use rustls_pki_types::{SubjectPublicKeyInfoDer, pem::PemObject as _};
use serde::{Deserialize, Serialize};
use x509_parser::{prelude::FromDer as _, x509::SubjectPublicKeyInfo};

use crate::trust::keys::{KeyId, PublicKey};

/// A public key as metadata lists it. Kinds that are not known are kept, and verify nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// `ed25519`, `ecdsa`, `ecdsa-sha2-nistp256`, `rsa`, …
    pub keytype: String,
    /// `ed25519`, `ecdsa-sha2-nistp256`, `rsassa-pss-sha256`, `rsa-pkcs1v15-sha256`, …
    pub scheme: String,
    /// The key itself; the field `public` for every kind that is known.
    pub keyval: BTreeMap<String, serde_json::Value>,
}

impl From<PublicKey> for Key {
    fn from(key: PublicKey) -> Self {
        Self {
            keytype: "ed25519".to_owned(),
            scheme: "ed25519".to_owned(),
            keyval: BTreeMap::from([("public".to_owned(), key.to_string().into())]),
        }
    }
}

/// A key that can verify; equal for the same key whatever id it goes by.
struct Verifier {
    algorithm: &'static dyn VerificationAlgorithm,
    public: Vec<u8>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({})", hex::encode(&self.public))
    }
}

impl Verifier {
    /// `None` when the kind is not known or the key is no key of its kind.
    fn of(key: &Key) -> Option<Self> {
        let public = key.keyval.get("public")?.as_str()?;
        let algorithm: &'static dyn VerificationAlgorithm = match (&*key.keytype, &*key.scheme) {
            ("ed25519", "ed25519") => {
                let public = hex::decode(public).ok().filter(|bytes| bytes.len() == 32)?;
                return Some(Self { algorithm: &ED25519, public });
            }
            ("ecdsa" | "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256") => &ECDSA_P256_SHA256_ASN1,
            ("rsa", "rsassa-pss-sha256") => &RSA_PSS_2048_8192_SHA256,
            ("rsa", "rsa-pkcs1v15-sha256") => &RSA_PKCS1_2048_8192_SHA256,
            _ => return None,
        };
        // ring takes the key bare: the point, or the sequence of modulus and exponent.
        let info = SubjectPublicKeyInfoDer::from_pem_slice(public.as_bytes()).ok()?;
        let (rest, info) = SubjectPublicKeyInfo::from_der(&info).ok()?;
        let public = info.subject_public_key.data.to_vec();
        rest.is_empty().then_some(Self { algorithm, public })
    }
}

/// A signature as metadata lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// By which key.
    pub keyid: KeyId,
    /// Hex digits, or anything else, which is then no valid signature.
    pub sig: String,
}

/// Whose signatures a role needs, as the delegating metadata says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleKeys {
    /// Ids of its keys; some may not be listed or not known.
    pub keyids: Vec<KeyId>,
    /// How many of them must have signed, at least 1.
    pub threshold: u64,
}

/// Counts the keys of the role whose signature over `message` is valid. A key counts once, however often it
/// signs and whatever ids it is listed under.
pub(crate) fn valid_signatures(
    message: &[u8],
    signatures: &[Signature],
    keys: &BTreeMap<KeyId, Key>,
    role: &RoleKeys,
) -> u64 {
    let allowed: BTreeSet<&KeyId> = role.keyids.iter().collect();
    let mut counted: BTreeSet<Vec<u8>> = BTreeSet::new();
    for signature in signatures.iter().filter(|signature| allowed.contains(&signature.keyid)) {
        let Some(verifier) = keys.get(&signature.keyid).and_then(Verifier::of) else { continue };
        let Ok(bytes) = hex::decode(&signature.sig) else { continue };
        if counted.contains(&verifier.public) {
            continue;
        }
        if UnparsedPublicKey::new(verifier.algorithm, &verifier.public).verify(message, &bytes).is_ok() {
            counted.insert(verifier.public);
        }
    }
    counted.len() as u64
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;

    use super::*;
    use crate::trust::keys::SigningKey;

    fn key(keytype: &str, scheme: &str, public: &str) -> Key {
        Key {
            keytype: keytype.to_owned(),
            scheme: scheme.to_owned(),
            keyval: BTreeMap::from([("public".to_owned(), public.into())]),
        }
    }

    #[test]
    fn one_key_that_signs_twice_counts_once() {
        let signer = SigningKey::generate(&SystemRandom::new()).unwrap();
        let sig = hex::encode(signer.sign(b"message"));
        let ids = ["a", "b", "c"].map(|id| KeyId(id.to_owned()));
        let keys = ids.iter().map(|id| (id.clone(), signer.public().into())).collect();
        let role = RoleKeys { keyids: ids.to_vec(), threshold: 2 };
        let signatures: Vec<_> = ids
            .iter()
            .chain(&ids)
            .map(|keyid| Signature { keyid: keyid.clone(), sig: sig.clone() })
            .collect();
        assert_eq!(valid_signatures(b"message", &signatures, &keys, &role), 1);
        assert_eq!(valid_signatures(b"another", &signatures, &keys, &role), 0);
    }

    #[test]
    fn a_key_of_another_role_does_not_count() {
        let signer = SigningKey::generate(&SystemRandom::new()).unwrap();
        let id = signer.public().key_id();
        let keys = BTreeMap::from([(id.clone(), signer.public().into())]);
        let signatures = [Signature { keyid: id.clone(), sig: hex::encode(signer.sign(b"message")) }];
        let mut role = RoleKeys { keyids: vec![], threshold: 1 };
        assert_eq!(valid_signatures(b"message", &signatures, &keys, &role), 0);
        role.keyids.push(id);
        assert_eq!(valid_signatures(b"message", &signatures, &keys, &role), 1);
    }

    #[test]
    fn a_key_that_is_none_verifies_nothing_and_does_not_panic() {
        for key in [
            key("ed25519", "ed25519", ""),
            key("ed25519", "ed25519", "zz"),
            key("ed25519", "rsassa-pss-sha256", &"00".repeat(32)),
            key("rsa", "rsassa-pss-sha256", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"),
            key("ecdsa", "ecdsa-sha2-nistp256", "no pem"),
            key("sphincs", "sphincs", "00"),
            Key { keytype: "ed25519".into(), scheme: "ed25519".into(), keyval: BTreeMap::new() },
        ] {
            assert!(Verifier::of(&key).is_none(), "{key:?}");
        }
    }
}
