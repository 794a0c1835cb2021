//! Who may say what: digests, keys, the authenticated metadata and the envelopes of reports.

// What is compared and signed with.
pub mod digest;
mod in_hex;
pub mod keys;

// What is signed: downward, upward.
pub mod envelope;
pub mod tuf;

// How it is kept.
pub mod durable;
