//! Who signed a `Release`: the keyring, and the clearsigned text that comes out verified.
//!
//! The clearsigned form (RFC 9580, section 7) is taken apart here, strictly and in one pass; rPGP
//! checks the signatures. What is returned is the very text that was hashed, so that nothing outside
//! it can be read by mistake.

use std::{fmt, path::PathBuf};

use jiff::Timestamp;
use pgp::{
    composed::{Deserializable, DetachedSignature, SignedPublicKey, SignedPublicSubKey},
    crypto::hash::HashAlgorithm,
    packet::{Signature, SignatureType, SubpacketData},
    ser::Serialize as _,
    types::{KeyDetails as _, PublicParams, Tag, VerifyingKey},
};

/// More signatures than any archive uses; each costs a public-key operation.
const SIGNATURES_MAX: usize = 16;

/// RSA keys below this many bits are not believed (NIST SP 800-131A disallows them).
const RSA_BITS_MIN: usize = 2048;

/// How far a signature's date may lie in the future: clocks of two well-kept machines.
const FUTURE_MAX_SECONDS: i64 = 600;

/// A keyring that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// A file could not be read.
    #[error("could not read the keyring `{path}`")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not OpenPGP certificates.
    #[error("`{name}` is not an OpenPGP keyring")]
    Parse {
        /// Which.
        name: String,
        /// Why.
        source: Box<pgp::errors::Error>,
    },
    /// A file holds no certificate.
    #[error("the keyring `{name}` holds no certificate")]
    Empty {
        /// Which.
        name: String,
    },
}

/// A clearsigned text that is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// It does not have the clearsigned form.
    #[error("it is not a clearsigned text: {reason}")]
    Form {
        /// What is wrong.
        reason: &'static str,
    },
    /// None of its signatures is good.
    #[error("none of its {} signatures is good: {}", reasons.len(), reasons.join("; "))]
    Refused {
        /// One sentence a signature, in their order.
        reasons: Vec<String>,
    },
}

/// Certificates of those who may sign.
#[derive(Clone)]
pub struct Keyring {
    certificates: Vec<SignedPublicKey>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.certificates.iter().map(|c| c.fingerprint().to_string())).finish()
    }
}

/// A text and who signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The signed lines, each without trailing blanks, joined by `\n`.
    pub text: String,
    /// Fingerprint of the key whose signature was found good first, lower-case hex.
    pub signer: String,
}

impl Keyring {
    /// Reads certificates, binary or armoured, from files.
    ///
    /// # Errors
    ///
    /// [`KeyringError`] for the first file that cannot be used.
    pub fn read(paths: &[PathBuf]) -> Result<Self, KeyringError> {
        let mut certificates = Vec::new();
        for path in paths {
            let bytes =
                std::fs::read(path).map_err(|source| KeyringError::Read { path: path.clone(), source })?;
            certificates.extend(Self::parse(&path.display().to_string(), &bytes)?.certificates);
        }
        Ok(Self { certificates })
    }

    /// Reads certificates, binary or armoured (several blocks may follow each other). `name` is for errors.
    ///
    /// # Errors
    ///
    /// [`KeyringError::Parse`], [`KeyringError::Empty`].
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self, KeyringError> {
        const BEGIN: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
        let error = |source| KeyringError::Parse { name: name.to_owned(), source: Box::new(source) };
        let mut certificates = Vec::new();
        match std::str::from_utf8(bytes).ok().filter(|text| text.contains(BEGIN)) {
            Some(text) => {
                let starts: Vec<usize> = text.match_indices(BEGIN).map(|(at, _)| at).collect();
                for (index, start) in starts.iter().enumerate() {
                    let end = starts.get(index + 1).copied().unwrap_or(text.len());
                    let (parsed, _) = SignedPublicKey::from_string_many(&text[*start..end]).map_err(error)?;
                    for certificate in parsed {
                        certificates.push(certificate.map_err(error)?);
                    }
                }
            }
            None => {
                for certificate in SignedPublicKey::from_bytes_many(bytes).map_err(error)? {
                    certificates.push(certificate.map_err(error)?);
                }
            }
        }
        if certificates.is_empty() {
            return Err(KeyringError::Empty { name: name.to_owned() });
        }
        Ok(Self { certificates })
    }

    /// Returns the signed text of a clearsigned message that at least one key of this keyring signed
    /// well, with keys and signatures judged at `now`.
    ///
    /// # Errors
    ///
    /// [`SignatureError`]; with several signatures it says of each why it does not count.
    pub fn verify(&self, message: &[u8], now: Timestamp) -> Result<Verified, SignatureError> {
        let clearsigned = Clearsigned::parse(message)?;
        let (signatures, _) = DetachedSignature::from_string_many(&clearsigned.armour)
            .map_err(|_| SignatureError::Form { reason: "its signature block cannot be read" })?;
        let hashed = clearsigned.lines.join("\r\n");
        let mut reasons = Vec::new();
        for signature in signatures.take(SIGNATURES_MAX) {
            let outcome = match signature {
                Ok(DetachedSignature { signature }) => self.judge(&signature, hashed.as_bytes(), now),
                Err(_) => Err("it cannot be read".to_owned()),
            };
            match outcome {
                Ok(signer) => return Ok(Verified { text: clearsigned.lines.join("\n"), signer }),
                Err(reason) => reasons.push(reason),
            }
        }
        if reasons.is_empty() {
            return Err(SignatureError::Form { reason: "its signature block holds no signature" });
        }
        Err(SignatureError::Refused { reasons })
    }

    /// The fingerprint of the key that made `signature`, or why it does not count.
    fn judge(&self, signature: &Signature, text: &[u8], now: Timestamp) -> Result<String, String> {
        let issuer = || {
            let fingerprint = signature.issuer_fingerprint().first().map(ToString::to_string);
            let id = fingerprint.or_else(|| signature.issuer_key_id().first().map(ToString::to_string));
            id.unwrap_or_else(|| "an unnamed key".to_owned())
        };
        if signature.typ() != Some(SignatureType::Text) {
            return Err(format!("by {}: it is not a signature over text", issuer()));
        }
        check_form(signature, now).map_err(|reason| format!("by {}: {reason}", issuer()))?;
        let mut reason = format!("by {}: the key is not in the keyring", issuer());
        for certificate in &self.certificates {
            let primary = &certificate.primary_key;
            if issued_by(signature, primary) {
                match primary_usable(certificate, now, Use::Sign)
                    .and_then(|()| check_data(signature, primary, text))
                {
                    Ok(()) => return Ok(primary.fingerprint().to_string()),
                    Err(why) => reason = format!("by {}: {why}", primary.fingerprint()),
                }
            }
            for subkey in &certificate.public_subkeys {
                if issued_by(signature, &subkey.key) {
                    match primary_usable(certificate, now, Use::Certify)
                        .and_then(|()| subkey_usable(certificate, subkey, now))
                        .and_then(|()| check_data(signature, &subkey.key, text))
                    {
                        Ok(()) => return Ok(subkey.key.fingerprint().to_string()),
                        Err(why) => reason = format!("by {}: {why}", subkey.key.fingerprint()),
                    }
                }
            }
        }
        Err(reason)
    }
}

/// What a primary key is wanted for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// To sign text itself.
    Sign,
    /// To vouch for a subkey.
    Certify,
}

/// Whether the signature says that this key made it; one that names nobody is tried with no key.
fn issued_by(signature: &Signature, key: &impl VerifyingKey) -> bool {
    let fingerprints = signature.issuer_fingerprint();
    if fingerprints.is_empty() {
        return signature.issuer_key_id().into_iter().any(|id| *id == key.legacy_key_id());
    }
    fingerprints.into_iter().any(|fingerprint| *fingerprint == key.fingerprint())
}

fn check_data(signature: &Signature, key: &impl VerifyingKey, text: &[u8]) -> Result<(), String> {
    if signature.created().is_none_or(|created| created.as_secs() < key.created_at().as_secs()) {
        return Err("it is older than its key".to_owned());
    }
    check_strength(key)?;
    signature.verify(key, text).map_err(|_| "it does not match the text".to_owned())
}

/// Hash, dates and unknown demands of any signature, without looking at the key.
fn check_form(signature: &Signature, now: Timestamp) -> Result<(), String> {
    match signature.hash_alg() {
        Some(
            HashAlgorithm::Sha256
            | HashAlgorithm::Sha384
            | HashAlgorithm::Sha512
            | HashAlgorithm::Sha3_256
            | HashAlgorithm::Sha3_512,
        ) => {}
        Some(other) => return Err(format!("its digest {other} is too weak")),
        None => return Err("its version is unknown".to_owned()),
    }
    let Some(created) = signature.created().map(|at| i64::from(at.as_secs())) else {
        return Err("it has no date".to_owned());
    };
    if created > now.as_second() + FUTURE_MAX_SECONDS {
        return Err("its date lies in the future".to_owned());
    }
    if let Some(lifetime) = signature.signature_expiration_time().filter(|d| d.as_secs() != 0)
        && created + i64::from(lifetime.as_secs()) <= now.as_second()
    {
        return Err("it has expired".to_owned());
    }
    // RFC 9580, 5.2.3.7: a critical subpacket that is not understood makes the signature invalid.
    let unknown = signature.config().is_some_and(|config| {
        config.hashed_subpackets().any(|subpacket| {
            subpacket.is_critical
                && matches!(
                    subpacket.data,
                    SubpacketData::Notation(_)
                        | SubpacketData::Experimental(..)
                        | SubpacketData::Other(..)
                        | SubpacketData::SignatureTarget(..)
                        | SubpacketData::RegularExpression(_)
                )
        })
    });
    if unknown {
        return Err("it makes a critical demand that is not understood".to_owned());
    }
    Ok(())
}

fn check_strength(key: &impl VerifyingKey) -> Result<(), String> {
    match key.public_params() {
        // The serialised form is two integers, each with two bytes of length before it; the exponent
        // has at least one byte. Hence a modulus of n bytes makes at least n + 5 bytes.
        PublicParams::RSA(params) if params.write_len() >= RSA_BITS_MIN / 8 + 5 => Ok(()),
        PublicParams::RSA(_) => Err(format!("its RSA key has fewer than {RSA_BITS_MIN} bits")),
        PublicParams::EdDSALegacy(_)
        | PublicParams::Ed25519(_)
        | PublicParams::Ed448(_)
        | PublicParams::ECDSA(_) => Ok(()),
        _ => Err("its key is of a kind that is not accepted".to_owned()),
    }
}

/// Whether a key made at `created` with this binding still lives.
fn check_lifetime(binding: &Signature, created: u32, now: Timestamp) -> Result<(), String> {
    match binding.key_expiration_time().filter(|lifetime| lifetime.as_secs() != 0) {
        Some(lifetime) if i64::from(created) + i64::from(lifetime.as_secs()) <= now.as_second() => {
            Err("its key has expired".to_owned())
        }
        _ => Ok(()),
    }
}

/// `None` when the binding does not say what the key is for.
fn may_sign(binding: &Signature) -> Option<bool> {
    binding.config()?.hashed_subpackets().find_map(|subpacket| match &subpacket.data {
        SubpacketData::KeyFlags(flags) => Some(flags.sign()),
        _ => None,
    })
}

/// The newest of `bindings` (the last of those made in one second).
fn newest<'a>(bindings: impl Iterator<Item = &'a Signature>) -> Option<&'a Signature> {
    bindings.max_by_key(|binding| binding.created().map(|at| at.as_secs()))
}

/// Whether the primary key is bound by a self-signature, not revoked, not expired at `now`, and may do
/// what it is wanted for.
fn primary_usable(certificate: &SignedPublicKey, now: Timestamp, wanted: Use) -> Result<(), String> {
    let primary = &certificate.primary_key;
    check_strength(primary)?;
    let details = &certificate.details;
    if details.revocation_signatures.iter().any(|revocation| revocation.verify_key(primary).is_ok()) {
        return Err("its key was revoked".to_owned());
    }
    let direct = details
        .direct_signatures
        .iter()
        .filter(|binding| check_form(binding, now).is_ok() && binding.verify_key(primary).is_ok());
    let users = details.users.iter().filter_map(|user| {
        let own = |kind: fn(Option<SignatureType>) -> bool| {
            newest(user.signatures.iter().filter(move |binding| {
                kind(binding.typ())
                    && check_form(binding, now).is_ok()
                    && binding.verify_certification(primary, Tag::UserId, &user.id).is_ok()
            }))
        };
        let certified = own(|typ| typ != Some(SignatureType::CertRevocation))?;
        let revoked = own(|typ| typ == Some(SignatureType::CertRevocation));
        revoked
            .is_none_or(|revoked| {
                revoked.created().map(|t| t.as_secs()) < certified.created().map(|t| t.as_secs())
            })
            .then_some(certified)
    });
    let binding = newest(users.chain(direct)).ok_or("its key has no valid self-signature")?;
    check_lifetime(binding, primary.created_at().as_secs(), now)?;
    if wanted == Use::Sign && may_sign(binding) == Some(false) {
        return Err("its key is not meant for signing".to_owned());
    }
    Ok(())
}

/// Whether the subkey is bound by the primary key for signing, binds itself back, is not revoked and
/// not expired at `now`.
fn subkey_usable(
    certificate: &SignedPublicKey,
    subkey: &SignedPublicSubKey,
    now: Timestamp,
) -> Result<(), String> {
    let primary = &certificate.primary_key;
    let of_type = |typ| {
        subkey.signatures.iter().filter(move |binding| {
            binding.typ() == Some(typ) && binding.verify_subkey_binding(primary, &subkey.key).is_ok()
        })
    };
    if of_type(SignatureType::SubkeyRevocation).next().is_some() {
        return Err("its key was revoked".to_owned());
    }
    let bindings = of_type(SignatureType::SubkeyBinding).filter(|binding| check_form(binding, now).is_ok());
    let binding = newest(bindings).ok_or("its key is not bound to its certificate")?;
    check_lifetime(binding, subkey.key.created_at().as_secs(), now)?;
    if may_sign(binding) != Some(true) {
        return Err("its key is not meant for signing".to_owned());
    }
    // RFC 9580, 5.2.1.9: without it anyone could adopt a foreign signing key as their subkey.
    let back = binding.embedded_signature().ok_or("its key does not bind itself to the certificate")?;
    check_form(back, now)?;
    back.verify_primary_key_binding(&subkey.key, primary)
        .map_err(|_| "its key does not bind itself to the certificate".to_owned())
}

/// A clearsigned message, taken apart.
struct Clearsigned<'a> {
    /// Without dash-escapes and trailing blanks: what is hashed, joined by `\r\n`.
    lines: Vec<&'a str>,
    armour: String,
}

impl<'a> Clearsigned<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, SignatureError> {
        let error = |reason| Err(SignatureError::Form { reason });
        let Ok(text) = std::str::from_utf8(message) else {
            return error("it is not UTF-8");
        };
        // A lone carriage return would be hashed as the end of a line and read as part of one.
        if text.replace("\r\n", "\n").chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
            return error("it has control characters");
        }
        let mut input = text.lines();
        if input.next() != Some("-----BEGIN PGP SIGNED MESSAGE-----") {
            return error("it does not begin as one");
        }
        loop {
            match input.next() {
                Some("") => break,
                Some(header) if header.starts_with("Hash: ") => {}
                Some(_) => return error("it has an unexpected header"),
                None => return error("it ends in its header"),
            }
        }
        let mut lines = Vec::new();
        loop {
            match input.next() {
                Some("-----BEGIN PGP SIGNATURE-----") => break,
                Some(line) => {
                    let line = match line.strip_prefix('-') {
                        Some(rest) => match rest.strip_prefix(' ') {
                            Some(escaped) => escaped,
                            None => return error("a line begins with `-` and is not escaped"),
                        },
                        None => line,
                    };
                    lines.push(line.trim_end_matches([' ', '\t']));
                }
                None => return error("it ends before its signature"),
            }
        }
        let mut armour = "-----BEGIN PGP SIGNATURE-----\n".to_owned();
        loop {
            match input.next() {
                Some(line) => {
                    armour.push_str(line);
                    armour.push('\n');
                    if line == "-----END PGP SIGNATURE-----" {
                        break;
                    }
                }
                None => return error("its signature is cut off"),
            }
        }
        if input.any(|line| !line.trim().is_empty()) {
            return error("something follows its signature");
        }
        Ok(Self { lines, armour })
    }
}

#[cfg(test)]
mod tests;
