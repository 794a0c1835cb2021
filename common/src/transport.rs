//! TLS 1.3 between the tiers: who a peer is, identities that reload without restart, the accept loop
//! with its limits, and channels upward.
//!
//! Every certificate names its holder by a URI (see [`identity::Holder`]); servers also carry the DNS
//! name [`SERVER_NAME`], whatever host they run on, so that an address can change without a new
//! certificate, and no endpoint's certificate can pass for a server's.

pub mod accept;
pub mod dial;
pub mod identity;
pub mod tls;

/// The name in every server certificate of ours.
pub const SERVER_NAME: &str = "upstream.tierway.internal";
