//! The Update Framework 1.0: what central has published, and how everyone else comes to believe it.
//!
//! Written from the specification, version 1.0.34. [`client`] reads any repository that keeps to it,
//! [`writer`] writes the one that central needs: four roles, Ed25519, consistent snapshots, no delegations.

// What is signed.
pub mod canonical;
pub mod metadata;
pub mod pattern;
pub mod signature;

// Reading.
pub mod client;
pub mod error;
mod search;
mod store;

// Writing.
pub mod writer;

pub use client::{Client, Fetcher, Freshness, Limits, Trusted};
pub use error::{FetchError, TufError};
pub use metadata::Target;

/// The name of a role's metadata file on the repository: `3.root.json`, or `timestamp.json` without version.
#[must_use]
pub fn file_name(role: &str, version: Option<u64>) -> String {
    let role = quote(role);
    match version {
        Some(version) => format!("{version}.{role}.json"),
        None => format!("{role}.json"),
    }
}

/// Percent-encodes everything but letters, digits and `-_.~` (RFC 3986, unreserved), as file names and URLs
/// of roles need it.
#[must_use]
pub fn quote(text: &str) -> String {
    let quote = |byte: u8| match byte {
        byte if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(quote).collect()
}

#[cfg(test)]
mod tests;
