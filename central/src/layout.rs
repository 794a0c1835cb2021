//! What lies where below the data folder.

use std::path::{Path, PathBuf};

/// The data folder.
#[derive(Clone, Debug)]
pub struct Layout(PathBuf);

macro_rules! places { ($($(#[$doc:meta])* $name:ident = $path:literal;)*) => {$(
    $(#[$doc])*
    #[must_use]
    pub fn $name(&self) -> PathBuf {
        self.0.join($path)
    }
)*}; }

impl Layout {
    /// Below `data_dir`.
    #[must_use]
    pub fn new(data_dir: &Path) -> Self {
        Self(data_dir.to_owned())
    }

    /// The data folder itself.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// The root of trust of this version.
    #[must_use]
    pub fn root_version(&self, version: u64) -> PathBuf {
        self.0.join(format!("trust/{version}.root.json"))
    }

    places! {
        /// Certificate of the root authority, PEM.
        root_certificate = "ca/root.pem";
        /// Certificate of the issuing authority, PEM.
        issuing_certificate = "ca/issuing.pem";
        /// Key of the issuing authority, PEM.
        issuing_key = "ca/issuing.key";
        /// Key of the root authority, PEM; to be taken away.
        root_key = "offline/ca-root.key";
        /// Key of the TUF root, PKCS #8 PEM; to be taken away.
        trust_root_key = "offline/tuf-root.key";
        /// What is to be taken away.
        offline = "offline";
        /// `1.root.json`.
        trust_root = "trust/1.root.json";
        /// Key that signs what is published.
        online_key = "trust/online.key";
        /// Key that signs leases.
        lease_key = "trust/lease.key";
        /// Central's own identity.
        identity = "identity";
        /// The first operator's identity.
        operator = "operator";
        /// The store.
        store = "store";
        /// Catalogue trees.
        trees = "trees";
        /// Payloads.
        payloads = "payloads";
        /// What sources keep to read less.
        cache = "cache";
    }
}
