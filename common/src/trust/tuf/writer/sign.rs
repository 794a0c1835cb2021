//! Signing one file, so that every client takes it.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::trust::{
    digest::Digest,
    keys::{KeyId, SigningKey},
    tuf::{
        canonical::Json,
        client::Limits,
        metadata::{MetaFile, Metadata, MetadataError, Role, Root, Signed},
        signature::{RoleKeys, Signature},
        writer::WriteError,
    },
};

/// A file and what it says.
#[derive(Clone, Debug)]
pub(super) struct Written<T> {
    pub(super) bytes: Bytes,
    pub(super) says: Metadata<T>,
}

impl<T> Written<T> {
    /// As the role above names it.
    pub(super) fn named(&self) -> MetaFile {
        MetaFile {
            version: self.says.version,
            length: Some(self.bytes.len() as u64),
            hashes: Some(Digest::of(&self.bytes).into()),
        }
    }
}

/// Reads a root that its own keys have signed.
pub(super) fn read_root(bytes: &[u8]) -> Result<Metadata<Root>, WriteError> {
    let read = || {
        let signed = Signed::parse(bytes)?;
        let root: Metadata<Root> = signed.read()?;
        signed.verify(&root.content.keys, &root.content.role("root"))?;
        Ok(root)
    };
    read().map_err(|source| WriteError::Metadata { file: "root.json".to_owned(), source })
}

/// The bytes of a metadata file, signed by as many of `keys` as each of `roles` knows.
pub(super) fn sign<T: Role>(
    file: &str,
    content: &Value,
    roles: &[RoleKeys],
    keys: &[&SigningKey],
) -> Result<Written<T>, WriteError> {
    let metadata = |source: MetadataError| WriteError::Metadata { file: file.to_owned(), source };
    let canonical = Json::deserialize(content).map_err(|err| metadata(err.into()))?.canonical();
    let mut signatures: BTreeMap<KeyId, Signature> = BTreeMap::new();
    for role in roles {
        let own: Vec<(KeyId, &&SigningKey)> = keys
            .iter()
            .map(|key| (key.public().key_id(), key))
            .filter(|(keyid, _)| role.keyids.contains(keyid))
            .collect::<BTreeMap<_, _>>()
            .into_iter()
            .collect();
        if (own.len() as u64) < role.threshold {
            let (found, threshold) = (own.len(), role.threshold);
            return Err(WriteError::TooFewKeys { role: T::TYPE, found, threshold });
        }
        for (keyid, key) in own {
            let sig = hex::encode(key.sign(&canonical));
            signatures.insert(keyid.clone(), Signature { keyid, sig });
        }
    }
    let signatures: Vec<Signature> = signatures.into_values().collect();
    let bytes = serde_json::to_vec(&json!({ "signatures": signatures, "signed": content }))
        .map_err(|err| metadata(err.into()))?;
    // Whatever a client would refuse is refused here, before it is out.
    let says = Signed::parse(&bytes).and_then(|signed| signed.read()).map_err(metadata)?;
    let limits = Limits::default();
    let bytes_max = match T::TYPE {
        "root" => limits.root_bytes,
        "timestamp" => limits.timestamp_bytes,
        _ => limits.declared_bytes,
    };
    if bytes.len() as u64 > bytes_max {
        return Err(WriteError::TooLarge { file: file.to_owned(), bytes: bytes.len(), bytes_max });
    }
    Ok(Written { bytes: bytes.into(), says })
}
